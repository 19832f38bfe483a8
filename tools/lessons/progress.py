"""Which exercises are solved: ``python -m tools.lessons.progress`` reads the learner's own copies and runs nothing.

A copy (tools/lessons/learner_copy.py makes it) records in its metadata, under ``course.copy``, what it came as: the key
and the hash of each cell, in their order.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import nbformat

from helpers import ROOT, CourseError
from helpers.language import LANGUAGES, say

MY = ROOT / "my"
LESSON = re.compile(r"[A-Z0-9]\d_[a-z0-9_]+")  # and not 03_architecture.old, nor a learner's own notebook
SOLVED = {"解出来了！", "Solved!"}  # the line that a check prints
STATES = {  # of an exercise in two copies, the first of these counts
    "solved": ("解出", "solved"),
    "unknown": ("不知道", "unknown"),  # what cannot be read may be solved
    "tried": ("试过", "tried"),  # changed, and its check did not say solved, or was not run since
    "open": ("没做", "open"),
}


def text_hash(cell) -> str:
    """Names what a cell says; running it changes nothing here."""
    return hashlib.sha256(json.dumps([cell.cell_type, cell.source]).encode()).hexdigest()[:16]


def texts(notebook) -> list[list[str]]:
    """Key and hash of each cell, in their order."""
    return [[cell.id, text_hash(cell)] for cell in notebook.cells]


def read_notebook(path: Path):
    """The notebook in a file. Raises ValueError if there is none in it, OSError if it cannot be read."""
    try:
        notebook = nbformat.v4.reads(path.read_text(encoding="utf-8"))
        for cell in notebook.cells:
            cell.setdefault("id", None)  # notebooks before format 4.5 have no keys
        texts(notebook), exercises(notebook), dict(came_as(notebook))
    except (AttributeError, TypeError, KeyError) as error:  # JSON, but no notebook
        raise ValueError(str(error)) from None
    return notebook


def read_copy(path: Path):
    """The notebook of a learner. Raises CourseError, with the remedy, for a file that is none or cannot be read."""
    try:
        return read_notebook(path)
    except (OSError, ValueError) as error:
        shown, why = "/".join(path.parts[-3:]), error.strerror if isinstance(error, OSError) else None
        raise CourseError(
            f"读不出 {shown}：{why or '它不是笔记本，或者已经损坏'}。"
            "文件没有动；把它改名，再运行 make lab，就有一份新的。",
            f"{shown} cannot be read: {why or 'it is no notebook, or a broken one'}. It was left as it is; "
            "rename it and run make lab for a fresh one.",
        ) from None


def came_as(notebook) -> list[list[str]]:
    """What ``texts`` said of the copy when it was made; empty for a notebook that was not made as one."""
    return notebook.metadata.get("course", {}).get("copy", [])


def exercises(notebook) -> dict:
    """The exercise cells by their keys, in the lesson's order."""
    return {cell.id: cell for cell in notebook.cells if "exercise" in cell.metadata.get("tags", [])}


def says_solved(check, exercise) -> bool:
    """Whether the saved output of a check says so, and the exercise's cell was not run again after it.

    An edit that was not run leaves no trace in a saved notebook.
    """
    lines = [line for output in check.get("outputs", []) for line in str(output.get("text", "")).splitlines()]
    return not SOLVED.isdisjoint(lines) and (check.execution_count or 0) >= (exercise.execution_count or 0)


def states(notebook) -> dict[str, str]:
    """By exercise key, a key of STATES."""
    stubs, cells = dict(came_as(notebook)), {cell.id: cell for cell in notebook.cells}
    found = {}
    for key, exercise in exercises(notebook).items():
        check = cells.get(f"{key}-check")
        if text_hash(exercise) == stubs.get(key):
            found[key] = "open"
        elif check and says_solved(check, exercise):
            found[key] = "solved"
        else:
            found[key] = "tried" if key in stubs else "unknown"
    return found


def look(folder: Path = MY) -> dict[str, tuple[dict[str, str], list[CourseError]]]:
    """By lesson, its exercises' states and the copies that cannot be read. Raises CourseError if there is no copy.

    Both languages count: an exercise that is solved in one of them is solved.
    """
    paths = [path for lang in LANGUAGES for path in folder.glob(f"{lang}/*.ipynb") if LESSON.fullmatch(path.stem)]
    if not paths:
        raise CourseError(
            "还没有你自己的课程：先运行 make lab（或 make kernel）。",
            "There are no lessons of your own yet: run make lab (or make kernel) first.",
        )
    lessons: dict[str, tuple[dict, list]] = {}
    for path in sorted(paths, key=lambda path: path.stem):
        found, unreadable = lessons.setdefault(path.stem, ({}, []))
        try:
            for key, state in states(read_copy(path)).items():
                found[key] = min(found.get(key, state), state, key=list(STATES).index)
        except CourseError as error:
            unreadable.append(error)
    for found, unreadable in lessons.values():
        if unreadable:
            found.update({key: "unknown" for key in found if found[key] != "solved"})
    return lessons


def report(lessons: dict[str, tuple[dict[str, str], list[CourseError]]], lang: int) -> str:
    """A line for each lesson with exercises, and the total; ``lang`` is 0 for Chinese, 1 for English."""
    comma, stop, colon = (("、", "；", "："), (", ", "; ", ": "))[lang]
    lines = []
    for name, (found, unreadable) in lessons.items():
        parts = [
            f"{words[lang]} {comma.join(key.removeprefix('ex') for key in found if found[key] == state)}"
            for state, words in STATES.items()
            if state in found.values()
        ]
        if parts or unreadable:
            lines.append(f"{name}{colon}{stop.join(parts) or STATES['unknown'][lang]}")
        lines += ["  " + (error.zh, error.en)[lang] for error in unreadable]
    every = [state for found, _ in lessons.values() for state in found.values()]
    solved, unknown = every.count("solved"), any(unreadable for _, unreadable in lessons.values()) or "unknown" in every
    left_out = ("；读不出的没有算作解出", "; what cannot be read does not count as solved")[lang] if unknown else ""
    total = f"共 {len(every)} 题，解出 {solved} 题{left_out}。", f"{solved} of {len(every)} exercises solved{left_out}."
    return "\n".join([*lines, total[lang]])


def main() -> int:
    try:
        lessons = look()
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    print(say(report(lessons, 0), report(lessons, 1)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
