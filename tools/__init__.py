"""The course's tools, a folder for each trade."""
