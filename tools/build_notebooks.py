"""Builds notebooks/zh and notebooks/en from notebooks/source, whose format tools/lesson_source.py describes.

From the same sources come the index, notebooks/README.md, and all copy-me cells on one page, docs/copy-me.md.

    build_notebooks.py [LESSONS]             build without running; outputs stay as long as no code cell has changed
    build_notebooks.py --record [LESSONS]    run on the bundled models, and build with the outputs of that run
    build_notebooks.py --check               change nothing; fail if a source breaks a rule or a notebook is stale

LESSONS are numbers such as 05 07, also in $LESSONS; all if none is given. All is written or nothing.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import nbformat
from lesson_checks import check_lesson, check_notebook, warnings
from lesson_source import LANGUAGES, Lesson, LessonError, build_notebook, choose_lessons, notebook_text, read_lesson

from helpers import CourseError

ROOT = Path(__file__).resolve().parent.parent
COPY_ME = {
    "zh": (
        "copy-me.zh.md",
        "# 可以直接拿走的代码\n\n[English](copy-me.md)\n\n"
        "各课里可以直接拿走的代码格都在这里，由 `tools/build_notebooks.py` 从课程源文件生成，请勿手改。"
        "每一段都不依赖本课程：复制到一个文件里，用装好它所导入的库的 Python 运行；设置全部来自环境变量。",
        "设置：",
    ),
    "en": (
        "copy-me.md",
        "# Code to take away\n\n[中文](copy-me.zh.md)\n\n"
        "Every cell of the lessons that is made to be copied, written here by `tools/build_notebooks.py`; do not edit. "
        "Each block needs nothing of this course: paste it into a file and run it with a Python that has what it "
        "imports. All settings are environment variables.",
        "Settings: ",
    ),
}
SETTING = re.compile(r"os\.environ(?:\.get\(|\[)\s*\"(\w+)\"")
INDEX = ("<!-- lessons: written by tools/build_notebooks.py -->", "<!-- end of lessons -->")


def lesson_names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "notebooks" / "source").glob("*.py"))


def read_lessons(root: Path, names: list[str]) -> list[Lesson]:
    """The named lessons of notebooks/source; raises LessonError with the problems of all of them."""
    lessons, problems = [], []
    for name in names:
        try:
            lessons.append(read_lesson(root / "notebooks" / "source" / f"{name}.py"))
        except LessonError as error:
            problems += error.problems
    if problems:
        raise LessonError(problems)
    return lessons


def notebook_path(root: Path, lesson: Lesson, lang: str) -> Path:
    return root / "notebooks" / lang / f"{lesson.name}.ipynb"


def recorded_outputs(path: Path, lesson: Lesson) -> tuple[dict, dict | None]:
    """Outputs and provenance of a built notebook, if they belong to the lesson's code as it is now, else none."""
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
    return outputs, recorded


def built_files(root: Path, lesson: Lesson, outputs: dict, recorded: dict | None) -> dict[Path, str]:
    return {
        notebook_path(root, lesson, lang): notebook_text(build_notebook(lesson, lang, outputs, recorded))
        for lang in LANGUAGES
    }


def index_file(root: Path, lessons: list[Lesson]) -> dict[Path, str]:
    """notebooks/README.md with its table of lessons, the titles taken from the sources."""
    path = root / "notebooks" / "README.md"
    if not path.is_file():
        return {}
    rows = ["| 中文 | English |", "|---|---|"]
    for lesson in lessons:
        rows.append(
            "| " + " | ".join(f"[{lesson.title(lang)}]({lang}/{lesson.name}.ipynb)" for lang in LANGUAGES) + " |"
        )
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(INDEX[0])
    _, end, after = rest.partition(INDEX[1])
    if not start or not end:
        raise LessonError([f"notebooks/README.md: put the lines {INDEX[0]} and {INDEX[1]} where the table belongs."])
    return {path: "\n".join([before + INDEX[0], *rows, INDEX[1] + after])}


def copy_me_pages(root: Path, lessons: list[Lesson]) -> dict[Path, str]:
    """docs/copy-me.md and docs/copy-me.zh.md: each copy-me cell below the paragraph that introduces it."""
    if not (root / "docs").is_dir():
        return {}
    pages = {}
    for lang, (name, head, settings) in COPY_ME.items():
        parts = [head]
        for lesson in lessons:
            before = ""
            for cell in lesson.cells:
                if "copy-me" in cell.tags:
                    used = ", ".join(f"`{setting}`" for setting in dict.fromkeys(SETTING.findall(cell.text[lang])))
                    parts += [f"## [{lesson.title(lang)}](../notebooks/{lang}/{lesson.name}.ipynb)", before]
                    parts += [f"{settings}{used}", f"```python\n{cell.text[lang].strip()}\n```"]
                elif cell.kind == "markdown":
                    before = cell.text[lang].strip().split("\n\n")[-1].replace("](../", "](../notebooks/")
        pages[root / "docs" / name] = "\n\n".join(parts) + "\n"
    return pages


def shared_pages(root: Path, lessons: list[Lesson]) -> dict[Path, str]:
    """The files that are made from all lessons together."""
    return index_file(root, lessons) | copy_me_pages(root, lessons)


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
    files, lessons = {}, read_lessons(root, names)
    for lesson in lessons:
        outputs, recorded = recorded_outputs(notebook_path(root, lesson, "zh"), lesson)
        files |= built_files(root, lesson, outputs, recorded)
        print(f"{lesson.name}: {'outputs of ' + recorded['date'] if recorded else 'not run'}")
    if names == lesson_names(root):
        files |= shared_pages(root, lessons)
    write_all(files)


def record(root: Path, names: list[str]) -> None:
    """`make record`. Raises LessonError if a lesson fails or its outputs are unfit; then nothing is written."""
    from record import run_bundled
    from run_lessons import CellFailed, show

    files = {}
    for lesson in read_lessons(root, names):
        try:
            outputs, recorded = run_bundled(lesson, root)
        except CellFailed as error:
            raise LessonError([f"{lesson.name}: cell '{error.key}' failed, so nothing is recorded:\n{error}"]) from None
        files |= built_files(root, lesson, outputs, recorded)
        show(f"{lesson.name}  recorded", last=True)
    if problems := [problem for path, text in files.items() for problem in check_text(root, path, text)]:
        raise LessonError(problems)
    write_all(files)


def check_text(root: Path, path: Path, text: str) -> list[str]:
    return check_notebook(str(path.relative_to(root)), nbformat.reads(text, as_version=4), len(text.encode()))


def check(root: Path) -> None:
    """Raises LessonError with everything that is wrong; prints what is unfinished."""
    lessons = read_lessons(root, lesson_names(root))
    problems, notes, files = [], [], {}
    for lesson in lessons:
        problems += check_lesson(lesson, root)
        notes += warnings(lesson)
        outputs, recorded = recorded_outputs(notebook_path(root, lesson, "zh"), lesson)
        if not recorded:
            notes.append(f"{lesson.name}: not run; make record LESSONS={lesson.name[:2]} adds its outputs.")
        files |= built_files(root, lesson, outputs, recorded)
    for path, text in files.items():
        problems += check_text(root, path, text)
    for path, text in (files | shared_pages(root, lessons)).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            problems.append(f"{path.relative_to(root)}: {_difference(path, text)}; run make notebooks.")
    for path in sorted((root / "notebooks").glob("*/*.ipynb")):
        if path not in files:
            problems.append(
                f"{path.relative_to(root)}: it has no source in notebooks/source; delete it or add the source."
            )
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    if problems:
        raise LessonError(problems)


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
    parser.add_argument("--root", type=Path, default=ROOT, help="repository root")
    parser.add_argument("lessons", nargs="*", metavar="LESSONS")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check(options.root)
        else:
            names = choose_lessons(lesson_names(options.root), options.lessons)
            (record if options.record else build)(options.root, names)
    except (LessonError, CourseError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
