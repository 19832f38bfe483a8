"""What builds, checks, records and installs the course, by trade. In the root: `python3 -m tools.lessons.build`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
