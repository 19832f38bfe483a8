"""What the core of a lesson asks of its reader, and how much of it may be asked.

    python -m tools.lessons.build --count      prints a table of all lessons

The core is what is not marked extra: by the tag of a cell, by "（选读）" in a heading, or by a paragraph that begins
"**选读。**", which ends at the next heading, guess or core cell. Code is counted in lines that are neither blank nor
comment, without setup, exercises, their checks and what is to be copied. Text is counted in Chinese characters outside
fenced code. Minutes: characters / 150, lines / 4, 5 for each star of an exercise, and 1 for the run, 2 with vLLM; in
all rounded up to 5.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tools.lessons.pages import core_minutes
from tools.lessons.source import LANGUAGES, Cell, Lesson, without_comments

MAX_LINES, MAX_CELLS, MAX_CHARACTERS, MAX_MINUTES = 90, 14, 2600, 50
LONGER = {"03": 60, "04": 60}  # minutes of the lessons that teach attention and experts
EXERCISES = range(2, 4)
WITHOUT_EXERCISES = {"00", "09"}
ONLY_RUN = {"00"}  # its head says how long it takes to run it and look
REMEDY = "shorten it, or tag some of it extra"
REMEDIES = {"exercises": f"it should have {EXERCISES[0]} to {EXERCISES[-1]}"}

CHINESE = re.compile(r"[\u4e00-\u9fff]")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"(#+) (.*)")
STARS = re.compile(r"练习 \d+ (★+)")
VLLM = re.compile(r"\b(?:open_engine|Server|LLM)\(")
GUESS = re.compile(r"先猜|猜一猜|先选")
NEXT = re.compile(r"\*\*(?!先选一个（选读）)|再?先?(?:猜|选)")  # how a paragraph begins that leads on to the next cell


@dataclass(frozen=True)
class Count:
    """Of the core of a lesson."""

    lines: int
    cells: int
    characters: int
    minutes: int
    predictions: int
    exercises: int


def core_paragraphs(lesson: Lesson) -> Iterator[str]:
    """The Chinese paragraphs of the core, without fenced code."""
    section, aside = 0, False  # level of the heading under which all is extra; whether an extra paragraph goes on
    for cell in lesson.cells:
        if cell.kind == "code":
            aside = aside and bool({"extra", "solution"} & set(cell.tags))
            continue
        begun = aside
        for paragraph in re.split(r"\n\s*\n", FENCE.sub("", cell.text["zh"])):
            if heading := HEADING.match(paragraph):
                level, aside, begun = len(heading[1]), False, False
                if not section or level <= section:
                    section = level if "选读" in heading[2] else 0
            elif paragraph.startswith("**选读。**"):
                aside = True
            elif begun and NEXT.match(paragraph):
                aside = begun = False
            if not (section or aside or "extra" in cell.tags):
                yield paragraph


def is_main(cell: Cell) -> bool:
    """Whether the code of a core cell is the lesson's own: read, not written or copied by the learner."""
    return not ({"exercise", "copy-me"} & set(cell.tags) or cell.key == "setup" or cell.key.endswith("-check"))


def count(lesson: Lesson) -> Count:
    core = [cell for cell in lesson.code_cells if "extra" not in cell.tags]
    lines = sum(len(without_comments(cell.text["zh"]).splitlines()) for cell in core if is_main(cell))
    text = list(core_paragraphs(lesson))
    characters = sum(len(CHINESE.findall(paragraph)) for paragraph in text)
    stars = sum(len(found) for paragraph in text for found in STARS.findall(paragraph))
    run = 2 if any(VLLM.search(cell.text["zh"]) for cell in core) else 1
    exact = characters / 150 + lines / 4 + 5 * stars + run
    return Count(
        lines=lines,
        cells=len(core),
        characters=characters,
        minutes=5 * math.ceil(exact / 5),
        predictions=sum(bool(GUESS.search(paragraph)) for paragraph in text),
        exercises=sum("exercise" in cell.tags for cell in core),
    )


def beyond_limits(number: str, counted: Count) -> dict[str, int]:
    """What is beyond the limits of a main lesson, by its name in :class:`Count`; appendices have no limits."""
    if number[0] != "0":
        return {}
    most = {"lines": MAX_LINES, "cells": MAX_CELLS, "characters": MAX_CHARACTERS}
    most["minutes"] = LONGER.get(number, MAX_MINUTES)
    found = {name: getattr(counted, name) for name, limit in most.items() if getattr(counted, name) > limit}
    if counted.exercises not in EXERCISES and number not in WITHOUT_EXERCISES:
        found["exercises"] = counted.exercises
    return found


def check(lesson: Lesson) -> list[str]:
    """A sentence for each limit that the core is beyond, and for minutes in its head that are not those counted."""
    number, counted = lesson.name[:2], count(lesson)
    found = [
        f"{lesson.name}.py: the core has {value} {name}; {REMEDIES.get(name, REMEDY)}."
        for name, value in beyond_limits(number, counted).items()
    ]
    told = {core_minutes(lesson, lang) for lang in LANGUAGES} - {0, counted.minutes}  # 0: its head has no such row
    if told and number not in ONLY_RUN:
        found.append(f"{lesson.name}.py: its head says {max(told)} minutes, and {counted.minutes} are counted.")
    return found


def table(lessons: list[Lesson]) -> str:
    """All lessons in Markdown; what is beyond a limit is bold."""
    rows = [
        "| Lesson | Code lines | Cells | Chinese characters | Minutes | Predictions | Exercises |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for lesson in lessons:
        counted = count(lesson)
        bold = beyond_limits(lesson.name[:2], counted)
        values = [f"**{value:,}**" if name in bold else f"{value:,}" for name, value in vars(counted).items()]
        rows.append(f"| {lesson.name} | {' | '.join(values)} |")
    return "\n".join(rows)
