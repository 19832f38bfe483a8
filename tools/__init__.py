"""What builds, checks, records and installs the course, by trade. In the root: `python3 -m tools.lessons.build`."""
