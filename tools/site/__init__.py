"""The static site and the slides."""
