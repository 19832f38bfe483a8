"""Builds notebooks/zh and notebooks/en from notebooks/source, whose format tools/lessons/source.py describes.

From the same sources come the pages of tools/lessons/pages.py: index, copy-me cells, minutes of a workshop.

    python -m tools.lessons.build [LESSONS]    build without running; outputs stay as long as no code cell has changed
      ... --record [LESSONS]                   run on the bundled models, and build with the outputs of that run
      ... --check                              change nothing; fail if a source breaks a rule or a notebook is stale
      ... --count [LESSONS]                    print what each core asks of its reader, see tools/lessons/count.py

LESSONS are numbers such as 05 07, also in $LESSONS; all if none is given. All is written or nothing. Each language is
run by itself, in a kernel that starts in its folder, and keeps its own outputs.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat

from helpers import ROOT, CourseError
from tools.lessons import count, page_language
from tools.lessons.checks import check_lesson, check_notebook, warnings
from tools.lessons.pages import shared_pages
from tools.lessons.source import (
    LANGUAGES,
    Lesson,
    LessonError,
    build_notebook,
    choose_lessons,
    lesson_names,
    notebook_text,
    read_lessons,
)


def notebook_path(root: Path, lesson: Lesson, lang: str) -> Path:
    return root / "notebooks" / lang / f"{lesson.name}.ipynb"


def recorded_outputs(path: Path, lesson: Lesson) -> tuple[dict, dict | None]:
    """Outputs and provenance of a built notebook, if they belong to the lesson's code as it is now, else none.

    Raises LessonError if the file is no notebook, or if its outputs are not those that were recorded.
    """
    if not path.is_file():
        return {}, None
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises whatever it meets
        raise LessonError([f"{path.name}: not a notebook ({error}); delete it and build again."]) from None
    recorded = notebook.metadata.get("course", {}).get("recorded")
    if not recorded or recorded["code_hash"] != lesson.code_hash:
        return {}, None
    outputs = {cell.id: (cell.execution_count, cell.outputs) for cell in notebook.cells if cell.cell_type == "code"}
    if recorded.get("outputs_hash") != outputs_hash(outputs):
        where = "/".join(path.parts[-2:])
        remedy = f"make record LESSONS={lesson.name[:2]}, or delete it and build again"
        raise LessonError([f"{where}: its outputs are not the recorded ones, somebody changed them; {remedy}."])
    return outputs, recorded


def outputs_hash(outputs: dict) -> str:
    """Names the outputs of a recording, so that a change by hand is seen."""
    kept = [[key, count, results] for key, (count, results) in sorted(outputs.items())]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def built_files(root: Path, lesson: Lesson, recordings: Mapping[str, tuple[dict, dict | None]]) -> dict[Path, str]:
    """Both notebooks; ``recordings``: by language, what :func:`recorded_outputs` returns."""
    return {
        notebook_path(root, lesson, lang): notebook_text(build_notebook(lesson, lang, *recordings[lang]))
        for lang in LANGUAGES
    }


def write_all(files: dict[Path, str]) -> None:
    """Writes every file beside its place first and moves them all at the end: after an error nothing has changed."""
    drafts = {path: path.with_name(f".{path.name}.new") for path in files}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            drafts[path].write_text(text, encoding="utf-8")
        for path, draft in drafts.items():
            os.replace(draft, path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def build(root: Path, names: list[str]) -> None:
    """`make notebooks`."""
    files: dict[Path, str] = {}
    lessons = read_lessons(root, names)
    for lesson in lessons:
        recordings = {lang: recorded_outputs(notebook_path(root, lesson, lang), lesson) for lang in LANGUAGES}
        files |= built_files(root, lesson, recordings)
        states = {lang: recorded["date"] if recorded else None for lang, (_, recorded) in recordings.items()}
        texts = [f"outputs of {date}" if date else "not run" for date in states.values()]
        if len(set(texts)) > 1:
            texts = [f"{lang} {text}" for lang, text in zip(states, texts, strict=True)]
        print(f"{lesson.name}: {', '.join(dict.fromkeys(texts))}")
    if names == lesson_names(root):
        files |= shared_pages(root, lessons)
    write_all(files)


def record(root: Path, names: list[str]) -> None:
    """`make record`. Raises LessonError if a lesson fails or its outputs are unfit; then nothing is written.

    What is not in its page's language, or differs between the two, is only said: `--check` refuses it.
    """
    from tools.lessons.record import run_bundled
    from tools.lessons.run import CellFailed, show

    files: dict[Path, str] = {}
    for lesson in read_lessons(root, names):
        try:
            recordings = {}
            for lang in LANGUAGES:
                outputs, recorded = run_bundled(lesson, root, lang)
                recordings[lang] = outputs, recorded | {"outputs_hash": outputs_hash(outputs)}
        except CellFailed as error:
            raise LessonError([f"{lesson.name}: cell '{error.key}' failed, so nothing is recorded:\n{error}"]) from None
        built = built_files(root, lesson, recordings)
        for what in language_problems(root, lesson, built):
            print(f"warning: {what}", file=sys.stderr)
        files |= built
        show(f"{lesson.name}  recorded", last=True)
    if problems := [problem for path, text in files.items() for problem in check_text(root, path, text)]:
        raise LessonError(problems)
    write_all(files)


def check_text(root: Path, path: Path, text: str) -> list[str]:
    return check_notebook(str(path.relative_to(root)), nbformat.reads(text, as_version=4), len(text.encode()))


def language_problems(root: Path, lesson: Lesson, files: dict[Path, str]) -> list[str]:
    """What page_language.py finds in both notebooks of a lesson."""
    notebooks = {lang: nbformat.reads(files[notebook_path(root, lesson, lang)], as_version=4) for lang in LANGUAGES}
    found = page_language.findings(notebooks, page_language.known_words(root), lesson.facts)
    return [f"{lesson.name}: {what}" for what in found]


def check(root: Path) -> None:
    """Raises LessonError with everything that is wrong; prints what is unfinished."""
    lessons = read_lessons(root, lesson_names(root))
    problems, notes = [], []
    files: dict[Path, str] = {}
    for lesson in lessons:
        problems += check_lesson(lesson, root)
        problems += count.check(lesson)
        notes += warnings(lesson)
        try:
            recordings = {lang: recorded_outputs(notebook_path(root, lesson, lang), lesson) for lang in LANGUAGES}
        except LessonError as error:
            problems += error.problems
            continue
        if not all(recorded for _, recorded in recordings.values()):
            notes.append(f"{lesson.name}: not run; make record LESSONS={lesson.name[:2]} adds its outputs.")
        built = built_files(root, lesson, recordings)
        problems += language_problems(root, lesson, built)
        files |= built
    for path, text in files.items():
        problems += check_text(root, path, text)
    problems += _stale(root, files | shared_pages(root, lessons)) + _without_source(root, lessons)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    if problems:
        raise LessonError(problems)


def _stale(root: Path, files: dict[Path, str]) -> list[str]:
    return [
        f"{path.relative_to(root)}: {_difference(path, text)}; run make notebooks."
        for path, text in files.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def _without_source(root: Path, lessons: list[Lesson]) -> list[str]:
    expected = {notebook_path(root, lesson, lang) for lesson in lessons for lang in LANGUAGES}
    return [
        f"{path.relative_to(root)}: it has no source in notebooks/source; delete it or add the source."
        for path in sorted((root / "notebooks").glob("*/*.ipynb"))
        if path not in expected
    ]


def _difference(path: Path, text: str) -> str:
    """Where a notebook departs from what its source makes of it."""
    if not path.is_file():
        return "it is missing"
    if path.suffix != ".ipynb":
        return "it is not what the lessons make of it"
    there, built = nbformat.read(path, as_version=4), nbformat.reads(text, as_version=4)
    if (there.metadata.get("course", {}).get("recorded") or None) and not built.metadata.course.recorded:
        return "its outputs belong to other code than the source holds now"
    cells = {cell.get("id"): cell for cell in there.cells}
    changed = [cell.id for cell in built.cells if cells.get(cell.id) != cell]
    return f"cell '{changed[0]}' is not what the source makes of it" if changed else "it is out of date"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true")
    action.add_argument("--record", action="store_true")
    action.add_argument("--count", action="store_true")
    parser.add_argument("--root", type=Path, default=ROOT, help="repository root")
    parser.add_argument("lessons", nargs="*", metavar="LESSONS")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check(options.root)
        else:
            names = choose_lessons(lesson_names(options.root), options.lessons)
            if options.count:
                print(count.table(read_lessons(options.root, names)))
            else:
                (record if options.record else build)(options.root, names)
    except (LessonError, CourseError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
