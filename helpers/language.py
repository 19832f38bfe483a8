"""The language of the page that a learner reads: ``zh``, ``en``, or None where nobody said, which means both.

A kernel starts in its notebook's folder, and lessons lie in folders named ``zh`` and ``en``; ``COURSE_LANG`` overrides.
"""

import os
import sys
import unicodedata
from pathlib import Path

LANGUAGES = ("zh", "en")


def read_language() -> str | None:
    """What ``COURSE_LANG`` says, else the name of the working folder; None if neither is a language of the course."""
    chosen = os.environ.get("COURSE_LANG", "").strip().lower()
    if chosen in LANGUAGES:
        return chosen
    try:
        folder = Path.cwd().name
    except OSError:  # the working folder may have been deleted
        return None
    return folder if folder in LANGUAGES else None


if hasattr(sys.stdout, "reconfigure"):  # not in a notebook
    # Where the output has no Chinese letters (a pipe under cp1252 or ascii), "?" stands for them and nothing raises.
    sys.stdout.reconfigure(errors="replace")

LANGUAGE = read_language()  # once: a cell that changes the folder does not change the page


def say(zh: str, en: str, between: str = "\n") -> str:
    """The text in the page's language; where that is unknown both, ``between`` them a new line unless told."""
    return {"zh": zh, "en": en, None: f"{zh}{between}{en}"}[LANGUAGE]


def width(text: str) -> int:
    """How many columns the text takes; a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
