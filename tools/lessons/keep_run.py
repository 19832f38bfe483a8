"""Keeps a run on a real model for others to see: build/run/NN_slug.ipynb -> assets/recorded/MODEL/NN_slug.ipynb.

    COURSE_MODEL=Qwen/Qwen3-8B make run
    COURSE_MODEL=Qwen/Qwen3-8B .venv/bin/python -m tools.lessons.keep_run 05 07

Outputs stay as they came, less what `make record` leaves out too: stderr, widget state, paths and addresses. Run it on
the machine of the run: date, device and versions are those of here and now.
"""

import sys
from pathlib import Path

import nbformat

from helpers import ROOT, CourseError, models
from helpers.checkpoint import Checkpoint
from tools.lessons.checks import check_notebook
from tools.lessons.record import normalised, provenance
from tools.lessons.source import choose_lessons, lesson_names, notebook_text, read_lesson


def keep(name: str, folder: Path, root: Path = ROOT) -> Path:
    """The kept notebook of one lesson, run on the checkpoint in `folder`; CourseError if it is unfit."""
    run = root / "build" / "run" / f"{name}.ipynb"
    if folder.parent == models.BUNDLED:
        raise CourseError(
            "这是课程自带的小模型，它的输出已经在笔记本里：请设 COURSE_MODEL。",
            "This is the bundled tiny model, whose outputs are in the notebooks: set COURSE_MODEL.",
        )
    if not run.is_file():
        raise CourseError(f"没有 {run.name} 的运行结果：先 make run。", f"No run of {run.name}: make run first.")
    notebook = nbformat.read(run, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(cell.execution_count is None for cell in cells):
        raise CourseError(f"{run.name} 没有跑完。", f"{run.name} did not run to its end.")
    for cell in cells:
        cell.outputs = normalised(cell, root)
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    lesson = read_lesson(root / "notebooks" / "source" / f"{name}.py")
    model = Checkpoint(folder).name
    notebook.metadata["course"]["recorded"] = {"code_hash": lesson.code_hash, "model": model, **provenance()}
    target, text = root / "assets" / "recorded" / model / f"{name}.ipynb", notebook_text(notebook)
    if problems := check_notebook(target.name, notebook, len(text.encode())):
        raise CourseError(f"{target.name} 还不能收：{problems[0]}", f"{target.name} is unfit: {problems[0]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


def main(arguments: list[str]) -> int:
    try:
        for name in choose_lessons(lesson_names(ROOT), arguments):
            print(keep(name, models.course_model()).relative_to(ROOT))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
