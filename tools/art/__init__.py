"""Pictures and the font."""
