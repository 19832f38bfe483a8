"""Checks the pages around the lessons, for `make lint`: every local link leads somewhere, both languages say the same,
and a table promises the minutes that a lesson says.

A page X.md with a twin X.zh.md has the same headings, commands, inline code, links and numbers, as a lesson's cells
have (tools/lessons/checks.py), and keeps to assets/terms.csv.
"""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

from helpers import ROOT
from tools.lessons.checks import FENCE, compare, read_terms
from tools.lessons.pages import core_minutes
from tools.lessons.source import LANGUAGES, Lesson, LessonError, lesson_names, read_lessons

CODE = re.compile(r"`[^`\n]*`")
TARGET = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
PROMISED = re.compile(r"^\| \[.*\]\(notebooks/(zh|en)/(\w+)\.ipynb\) \|[^|]*\| (\d+) \|", re.MULTILINE)
FREE = {"copy-me.md"}  # made from checked cells, whose comments differ by language


def local_links(text: str) -> list[str]:
    """Targets of the links and pictures that are no address and no place on the same page."""
    text = CODE.sub("", FENCE.sub("", text))
    targets = [first or second for first, second in TARGET.findall(text)]
    return [target for target in targets if not re.match(r"\w+:|#|//", target)]


def lost_links(text: str, folder: Path) -> list[str]:
    """The local links of a page in `folder` that lead nowhere."""
    return [link for link in local_links(text) if not (folder / unquote(link.split("#")[0].split("?")[0])).exists()]


def other_minutes(text: str, lessons: dict[str, Lesson]) -> list[str]:
    """The lessons of a table whose minutes in it are not those in the lesson's head."""
    told = [(name, int(minutes), core_minutes(lessons[name], lang)) for lang, name, minutes in PROMISED.findall(text)]
    return [f"{name} takes {right} minutes, not {minutes}" for name, minutes, right in told if minutes != right]


def pages(root: Path) -> list[Path]:
    """All Markdown files that git knows, or would take in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({root / name for name in listed if (root / name).is_file()})


def problems(root: Path) -> list[str]:
    """Everything that is wrong, a sentence each."""
    found, terms = [], read_terms(root / "assets" / "terms.csv")
    lessons = {lesson.name: lesson for lesson in read_lessons(root, lesson_names(root))}
    for page in pages(root):
        name, text = page.relative_to(root), page.read_text(encoding="utf-8")
        found += [f"{name}: {wrong}; correct it." for wrong in other_minutes(text, lessons)]
        found += [f"{name}: the link {link} leads nowhere; correct it." for link in lost_links(text, page.parent)]
        twin = page.with_name(f"{page.stem}.zh.md")
        if twin.is_file() and page.name not in FREE:
            both = {"zh": twin.read_text(encoding="utf-8"), "en": text}
            found += [f"{name} and {twin.name}: {what}" for what in compare(both, terms)]
    for lesson in lessons.values():
        for lang in LANGUAGES:
            folder = root / "notebooks" / lang
            for cell in lesson.cells:
                lost = lost_links(cell.text[lang], folder) if cell.kind == "markdown" else []
                found += [
                    f"{lesson.name}.py: cell '{cell.key}' ({lang}): the link {link} leads nowhere." for link in lost
                ]
    return found


def main() -> int:
    try:
        found = problems(ROOT)
    except LessonError as error:
        found = error.problems
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
