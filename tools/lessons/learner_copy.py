"""Makes and renews the learner's own copy of the lessons, my/zh and my/en, which git ignores.

    .venv/bin/python -m tools.lessons.learner_copy

A copy has no outputs and says nothing about any. A lesson that the learner has not touched gives way to a newer one.
Out of a touched one, what stands in exercise cells goes into the newer lesson, by the cell's key, and the old file is
kept beside it as NN_slug.old.ipynb (.old2, ... where there is one). Running cells is no touch. Where the lesson's text
is not newer, the file is left alone.
"""

import ast
import os
import re
import sys
from pathlib import Path

from helpers import ROOT, CourseError
from helpers.language import say
from tools.lessons.progress import came_as, exercises, read_copy, read_notebook, text_hash, texts
from tools.lessons.source import LANGUAGES, notebook_text, other_language


def fresh_copy(lesson: Path):
    """A lesson of notebooks/zh or notebooks/en as a learner gets it. Raises CourseError if it cannot be read."""
    lang = lesson.parent.name
    try:
        notebook = read_notebook(lesson)
    except (OSError, ValueError):
        shown = f"notebooks/{lang}/{lesson.name}"
        raise CourseError(
            f"读不出 {shown}，它的副本没有动：用 git checkout -- {shown} 找回它，再来一次。",
            f"{shown} cannot be read, so its copy was left alone: git checkout -- {shown} brings it back.",
        ) from None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    link = re.escape(other_language(lesson.stem, lang))
    for cell in notebook.cells[:1]:
        cell.source = re.sub(rf"^({link}) · .*$", r"\1", cell.source, flags=re.MULTILINE)
    notebook.metadata["course"] = {"source": f"notebooks/source/{lesson.stem}.py", "copy": texts(notebook)}
    return notebook


def parameters(code: str) -> dict[str, list[str]]:
    """By function that the code defines, the names of its parameters; empty for code that is no Python."""
    try:
        functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        return {}
    return {f.name: [node.arg for node in ast.walk(f.args) if isinstance(node, ast.arg)] for f in functions}


def carry_over(old, new) -> tuple[list[str], bool]:
    """Puts what stands in old exercise cells into the newer lesson.

    Returns the keys that were carried, and whether the learner changed anything else. Where a key's stub has become
    another, it is carried only if the old cell defines the same functions. While stub and check are what they were, the
    check's output comes along: it is as true as before.
    """
    came, stubs, carried = dict(came_as(old)), exercises(new), []
    old_cells, new_cells = ({cell.id: cell for cell in notebook.cells} for notebook in (old, new))
    rest = [cell.id for cell in old.cells] != [key for key, _ in came_as(old)]
    for key, cell in old_cells.items():
        if text_hash(cell) in (came.get(key), text_hash(new_cells[key]) if key in new_cells else None):
            continue
        stub = stubs.get(key)
        if not stub or cell.cell_type != "code":
            rest = True
            continue
        same_stub, wanted = came.get(key) == text_hash(stub), parameters(stub.source)
        if not same_stub and not (wanted and wanted.items() <= parameters(cell.source).items()):
            rest = True
            continue
        stub.source = cell.source
        carried.append(key)
        before, after = (cells.get(f"{key}-check") for cells in (old_cells, new_cells))
        if same_stub and before and after and text_hash(before) == came.get(before.id) == text_hash(after):
            for source, target in ((cell, stub), (before, after)):
                target.outputs, target.execution_count = source.outputs, source.execution_count
    return carried, rest


def write(path: Path, content: bytes) -> None:
    """Writes beside the place and moves there: whoever looks or breaks in finds the old file or the new one, whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def keep(path: Path) -> Path:
    """Keeps what a file holds beside it, under a name that is free or that holds the same already."""
    content, number = path.read_bytes(), 1
    while True:
        old = path.with_name(f"{path.stem}.old{number if number > 1 else ''}.ipynb")
        if not old.exists():
            write(old, content)
        if old.read_bytes() == content:
            return old
        number += 1


def stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def renew(lesson: Path, copy: Path) -> tuple[str, str] | bool:
    """Brings one copy up to date. Returns what there is to say of a copy that was touched, else whether it was written.

    Raises CourseError if either file cannot be read, OSError if the copy cannot be written; it is then as it was.
    """
    while True:
        new = fresh_copy(lesson)
        if not copy.exists():
            write(copy, notebook_text(new).encode())
            return True
        before, old = stamp(copy), read_copy(copy)
        if new.metadata.course["copy"] in (came_as(old), texts(old)):
            return False
        new.metadata.kernelspec = old.metadata.get("kernelspec", new.metadata.kernelspec)  # the learner's choice
        said: tuple[str, str] | bool = True
        if texts(old) != came_as(old):
            carried, rest = carry_over(old, new)
            said = describe(copy, keep(copy), carried, rest)
        if stamp(copy) == before:  # else JupyterLab has saved it meanwhile: look again
            write(copy, notebook_text(new).encode())
            return said


def describe(copy: Path, old: Path, carried: list[str], rest: bool) -> tuple[str, str]:
    """What happened to a copy that was touched, in Chinese and English."""
    shown, numbers = f"my/{copy.parent.name}/{copy.name}", [key.removeprefix("ex") for key in carried]
    zh = f"{shown} 换成了新版，原来的文件留作 {old.name}"
    en = f"{shown} is the newer lesson now, the old file is kept as {old.name}"
    if carried:
        zh += f"；练习 {'、'.join(numbers)} 里写的已经带过来"
        en += f"; what you wrote in exercise {', '.join(numbers)} came along"
    if rest:
        zh += "；你的其他改动还在原来的文件里"
        en += "; your other changes are still in the old file"
    return f"{zh}。", f"{en}."


def dropped(folder: Path, lessons: list[Path]) -> list[tuple[str, str]]:
    """What there is to say of copies whose lesson the course no longer has; they stay as they are."""
    said, names = [], {lesson.name for lesson in lessons}
    for copy in sorted(folder.glob("*.ipynb")):
        if copy.name in names:
            continue
        try:
            course = read_notebook(copy).metadata.get("course", {})
        except (OSError, ValueError):
            continue
        if "copy" in course and Path(course.get("source", "")).stem == copy.stem:  # else the learner's own notebook
            shown = f"my/{folder.name}/{copy.name}"
            zh = f"课程里已经没有 {shown} 这一课，你的文件没有动。"
            said.append((zh, f"The course no longer has {shown}; your file stays."))
    return said


def update(root: Path = ROOT) -> list[tuple[str, str]]:
    """Brings all copies up to date; returns what there is to say about it, in Chinese and English.

    A file that cannot be read is told of and left alone. Raises CourseError if the copies cannot be written.
    """
    said, written = [], []
    first = not (root / "my").exists()
    for lang in LANGUAGES:
        folder, lessons = root / "my" / lang, sorted((root / "notebooks" / lang).glob("*.ipynb"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for lesson in lessons:
                try:
                    result = renew(lesson, folder / lesson.name)
                except CourseError as error:
                    said.append((error.zh, error.en))
                    continue
                if result:
                    written.append(f"{lang}/{lesson.stem}")
                if isinstance(result, tuple):
                    said.append(result)
        except OSError as error:
            raise CourseError(
                f"写不进 {folder}：{error.strerror}。已有的文件都还在；请检查权限和磁盘空间，再来一次。",
                f"{folder} cannot be written: {error.strerror}. Every file is still there; "
                "see to permissions and disk space, then try again.",
            ) from None
        said += dropped(folder, lessons)
    if first:
        zh = "你自己的课程在 my/zh 和 my/en：随便改，git pull 不会碰它们。"
        en = "Your own lessons are in my/zh and my/en: change what you like, git pull leaves them alone."
        said.append((zh, en))
    elif written:
        zh = f"已更新：{'、'.join(written)}。在 JupyterLab 里开着的，请关掉再打开。"
        en = f"Updated: {', '.join(written)}. Close and reopen those that are open in JupyterLab."
        said.append((zh, en))
    return said


def main() -> int:
    try:
        for zh, en in update():
            print(say(zh, en), flush=True)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(say("已中断；再来一次会接着做。", "Interrupted; run it again to carry on."), file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
