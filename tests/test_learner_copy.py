"""The learner's own copy of the lessons: made without outputs, renewed without loss, read by tools/lessons/progress.py.

The last test does in a real JupyterLab what a learner does; SCREENSHOTS=folder keeps pictures of it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import LESSONS, ROOT
from jupyterlab_server import RAN, TOKEN, JupyterLab, screenshot, wait_until

from helpers import CourseError, language
from helpers.lessons import l01
from tools.lessons import build, learner_copy, progress
from tools.lessons.source import head_line, read_lesson

SOURCE = """\
# %% [markdown] lang="zh" key="title"
# # 99 · 玩具

# %% [markdown] lang="en" key="title"
# # 99 · A toy

# %% key="setup"
print("hello")

# %% [markdown] lang="zh" key="why"
# ## 为什么

# %% [markdown] lang="en" key="why"
# ## Why

# %% key="ex1" tags=["exercise"]
def double(x):
    return ...

# %% key="ex1-solution" tags=["solution"]
def double(x):
    return 2 * x

# %% key="ex1-check"
print(double(2))

# %% key="ex2" tags=["exercise", "extra"]
# zh: 三倍
# en: three times
def triple(x, *, times=3):
    return ...

# %% key="ex2-check" tags=["extra"]
print(triple(2))
"""
OUTPUT = {"output_type": "stream", "name": "stdout", "text": "hello\n"}


class Course:
    """One toy lesson and the copies of it; ``upstream`` changes the lesson."""

    def __init__(self, root: Path):
        self.root, self.copy = root, root / "my" / "zh" / "99_toy.ipynb"
        self.source = SOURCE
        self.upstream()

    def upstream(self, old: str = "", new: str = ""):
        assert old in self.source
        self.source = self.source.replace(old, new)
        path = self.root / "notebooks" / "source" / "99_toy.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.source, encoding="utf-8")
        build.build(self.root, ["99_toy"])

    def update(self) -> str:
        """What an update says, in both languages."""
        return "\n".join(f"{zh}\n{en}" for zh, en in learner_copy.update(self.root))

    def cells(self, path: Path | None = None) -> dict:
        return {cell.id: cell for cell in nbformat.read(path or self.copy, as_version=4).cells}

    def edit(self, change, path: Path | None = None):
        """Lets ``change`` work on the cells by their keys, and saves as JupyterLab does."""
        notebook = nbformat.read(path or self.copy, as_version=4)
        change({cell.id: cell for cell in notebook.cells}, notebook)
        nbformat.write(notebook, path or self.copy)

    def solve(self, key="ex1", code="def double(x):\n    return x + x", said=None, path=None):
        """Writes a solution; with ``said``, both cells were run and the check printed that."""

        def change(cells, notebook):
            cells[key].source = code
            if said:
                cells[key].execution_count, cells[f"{key}-check"].execution_count = 5, 6
                cells[f"{key}-check"].outputs = [nbformat.from_dict(OUTPUT | {"text": said})]

        self.edit(change, path)

    def files(self) -> set[str]:
        return {path.name for path in self.copy.parent.iterdir()}

    def states(self) -> dict[str, str]:
        return progress.look(self.root / "my")["99_toy"][0]


@pytest.fixture
def course(tmp_path) -> Course:
    return Course(tmp_path)


@pytest.fixture
def copied(course) -> Course:
    course.update()
    return course


def run_setup(cells, notebook):
    cells["setup"].execution_count, cells["setup"].outputs = 1, [nbformat.from_dict(OUTPUT)]
    notebook.metadata.kernelspec = {"name": "qwen3-notebooks", "display_name": "Qwen3 in Notebooks"}
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}


def add_note(cells, notebook):
    notebook.cells.insert(2, nbformat.v4.new_markdown_cell("my note"))


def change_setup(cells, notebook):
    cells["setup"].source += "  # mine"


def make_setup_raw(cells, notebook):
    for part in ("outputs", "execution_count"):
        del cells["setup"][part]
    cells["setup"].cell_type = "raw"


def drop_keys(cells, notebook):
    """As programs that know only format 4.4 save it."""
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        del cell["id"]


# ---- a copy of every lesson


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """The course of this repository with copies of all its lessons; the copies lie elsewhere."""
    root = tmp_path_factory.mktemp("everything")
    for path in ROOT.iterdir():
        if path.name != "my":
            (root / path.name).symlink_to(path)
    [(zh, en)] = learner_copy.update(root)
    assert "git pull" in zh and "git pull" in en
    return root


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("name", LESSONS)
def test_copy_of_a_lesson_has_its_text_and_says_nothing_of_outputs(name, lang, everything):
    lesson = nbformat.read(ROOT / "notebooks" / lang / f"{name}.ipynb", as_version=4)
    copy = nbformat.read(everything / "my" / lang / f"{name}.ipynb", as_version=4)
    nbformat.validate(copy)
    head = head_line(name, lang, lesson.metadata.course.recorded)
    lesson.cells[0].source = lesson.cells[0].source.replace(head, head.split(" · ")[0])
    assert [(cell.id, cell.source, cell.metadata) for cell in copy.cells] == [
        (cell.id, cell.source, cell.metadata) for cell in lesson.cells
    ]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in copy.cells)
    assert set(copy.metadata.course) == {"source", "copy"}
    assert not re.search("recorded on|录制于|Not run|未运行", copy.cells[0].source)


def relative_links(text: str) -> list[str]:
    """The addresses of links and pictures in Markdown, outside code, that name no scheme and are no mere anchor."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found = re.findall(r"\]\(<?([^)\s>]+)|(?:src|href)=[\"']([^\"']+)", text)
    return [link for pair in found for link in pair if link and not re.match(r"[a-z]+:|#", link)]


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("name", LESSONS)
def test_links_of_a_copy_lead_to_files(name, lang, everything):
    copy = everything / "my" / lang / f"{name}.ipynb"
    cells = nbformat.read(copy, as_version=4).cells
    links = [link for cell in cells if cell.cell_type == "markdown" for link in relative_links(cell.source)]
    assert f"../{'en' if lang == 'zh' else 'zh'}/{name}.ipynb" in links
    lost = [link for link in links if not (copy.parent / link.split("#")[0]).is_file()]
    assert lost == []


def test_links_are_found_as_jupyterlab_shows_them():
    text = "`[a](b)` [c](../zh/d.ipynb#e) ![f](../../assets/g.png) <img src='h.svg'> [i](https://j) [k](#l)"
    text += "\n```\n[m](n)\n```"
    assert relative_links(text) == ["../zh/d.ipynb#e", "../../assets/g.png", "h.svg"]


def test_a_second_update_writes_nothing_and_says_nothing(everything):
    before = {path: path.stat().st_mtime_ns for path in (everything / "my").rglob("*")}
    assert len(before) == 2 * len(LESSONS) + 2
    assert learner_copy.update(everything) == []
    assert {path: path.stat().st_mtime_ns for path in (everything / "my").rglob("*")} == before


# ---- newer lessons


def test_an_untouched_lesson_is_replaced(copied):
    copied.edit(run_setup)
    copied.upstream("## 为什么", "## 为何")
    said = copied.update()
    assert "为何" in copied.cells()["why"].source and copied.files() == {"99_toy.ipynb"}
    assert "Updated: zh/99_toy." in said and len(said.splitlines()) == 2
    notebook = nbformat.read(copied.copy, as_version=4)
    assert not notebook.cells[1].outputs and "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "qwen3-notebooks"  # the learner chose it


@pytest.mark.parametrize("change", [run_setup, add_note, change_setup])
def test_where_the_lesson_is_not_newer_the_file_is_left_alone(change, copied):
    copied.edit(change)
    before = copied.copy.read_bytes(), copied.copy.stat().st_mtime_ns
    assert copied.update() == ""
    # recorded anew, with other outputs: that is no newer text
    lesson = copied.root / "notebooks" / "zh" / "99_toy.ipynb"
    notebook = nbformat.read(lesson, as_version=4)
    versions = {"torch": "9.9"}
    notebook.metadata.course.recorded = recorded = {"date": "2030-01-01", "device": "CPU", "versions": versions}
    title = notebook.cells[0]
    title.source = title.source.replace(head_line("99_toy", "zh", None), head_line("99_toy", "zh", recorded))
    assert "2030-01-01" in title.source
    notebook.cells[1].outputs = [nbformat.from_dict(OUTPUT)]
    nbformat.write(notebook, lesson)
    assert copied.update() == ""
    assert (copied.copy.read_bytes(), copied.copy.stat().st_mtime_ns) == before


def test_solutions_are_carried_and_the_old_file_stays(copied):
    copied.solve()
    copied.edit(add_note)
    old = copied.copy.read_bytes()
    copied.upstream("## 为什么", "## 为何")
    said = copied.update()
    assert copied.cells()["ex1"].source == "def double(x):\n    return x + x"
    assert "为何" in copied.cells()["why"].source and "return ..." in copied.cells()["ex2"].source
    assert "<summary>参考答案</summary>" in copied.cells()["ex1-solution"].source
    assert (copied.copy.parent / "99_toy.old.ipynb").read_bytes() == old
    assert copied.files() == {"99_toy.ipynb", "99_toy.old.ipynb"}
    zh, en, *_ = said.splitlines()
    assert "99_toy.old.ipynb；练习 1 里写的已经带过来；你的其他改动还在原来的文件里。" in zh
    assert "99_toy.old.ipynb; what you wrote in exercise 1 came along; your other changes are still in the old" in en
    assert copied.update() == ""
    # and once more: the carried solution is still the learner's
    copied.upstream("## 为何", "## 为了什么")
    said = copied.update()
    assert "练习 1 里写的" in said and "其他改动" not in said
    assert copied.cells()["ex1"].source == "def double(x):\n    return x + x"


@pytest.mark.parametrize(
    "change",
    [
        add_note,
        change_setup,
        lambda cells, notebook: notebook.cells.remove(cells["setup"]),
        lambda cells, notebook: notebook.cells.insert(0, notebook.cells.pop(1)),
        lambda cells, notebook: cells["ex1"].update(cell_type="markdown", source="how?"),
        lambda cells, notebook: notebook.metadata.pop("course"),
        make_setup_raw,
        drop_keys,
    ],
    ids=["note", "code", "removed", "moved", "no-code", "no-record", "other-kind", "no-keys"],
)
def test_every_kind_of_touch_keeps_the_old_file(change, copied):
    copied.edit(change)
    old = copied.copy.read_bytes()
    copied.upstream("## 为什么", "## 为何")
    assert "其他改动还在原来的文件里" in copied.update()
    assert (copied.copy.parent / "99_toy.old.ipynb").read_bytes() == old
    fresh, rebuilt = copied.copy.read_bytes(), copied.copy.unlink()
    copied.update()
    assert rebuilt is None and copied.copy.read_bytes() == fresh  # nothing of the old one is in the new one


def test_what_the_newer_lesson_says_too_is_no_change_of_the_learner(copied):
    copied.edit(lambda cells, notebook: cells["setup"].update(source='print("hi")'))
    copied.upstream('print("hello")', 'print("hi")')
    assert "zh/99_toy" not in copied.update()  # nothing is newer
    copied.upstream("## 为什么", "## 为何")
    said = copied.update()
    assert "99_toy.old.ipynb。" in said and "带过来" not in said and "其他改动" not in said


def test_no_old_file_is_ever_overwritten(copied):
    kept = []
    for number in range(3):
        copied.edit(lambda cells, notebook, number=number: cells["setup"].update(source=f"print({number})"))
        kept.append(copied.copy.read_bytes())
        copied.upstream("## 为什么", "## 为什么？")
        copied.update()
    names = ["99_toy.old.ipynb", "99_toy.old2.ipynb", "99_toy.old3.ipynb"]
    assert [(copied.copy.parent / name).read_bytes() for name in names] == kept
    copied.copy.write_bytes(kept[1])  # what is kept already needs no fourth file
    assert "99_toy.old2.ipynb" in copied.update()
    assert copied.files() == {"99_toy.ipynb", *names}


@pytest.mark.parametrize(
    ("key", "code", "old", "new", "carried"),
    [
        ("ex1", "def double(x):\n    return x + x", "def double(x):", "# 两倍\ndef double(x):", True),
        ("ex1", "def double(x):\n    return x + x", "double(x)", "attention(x, mask)", False),
        ("ex1", "def double(x):\n    return x + x", "double(x)", "double(x, y)", False),
        ("ex1", "double = 2 *", "def double(x):", "# 两倍\ndef double(x):", False),
        ("ex1", "double = 2 *", "## 为什么", "## 为何", True),
        ("ex2", "def f(x): return 3\n\ndef triple(x, *, times=1):\n    return f(x)", "# zh: 三倍", "# zh: 乘三", True),
        ("ex2", "def triple(x):\n    return 3 * x", "# zh: 三倍", "# zh: 乘三", False),
    ],
)
def test_a_solution_never_hides_another_exercise(key, code, old, new, carried, copied):
    """Keys may come to name another exercise; a stub that only reads differently is the same one."""
    copied.solve(key, code)
    copied.upstream(old, new)
    said = copied.update()
    assert (copied.cells()[key].source == code) == carried
    assert ("里写的已经带过来" in said, "其他改动还在" in said) == (carried, not carried)
    assert copied.cells(copied.copy.parent / "99_toy.old.ipynb")[key].source == code


def test_a_new_lesson_and_a_lesson_that_is_gone(copied):
    for lang in ("zh", "en"):
        shutil.copy(copied.root / "my" / lang / "99_toy.ipynb", copied.root / "my" / lang / "98_own.ipynb")
        (copied.root / "notebooks" / lang / "99_toy.ipynb").rename(
            copied.root / "notebooks" / lang / "A1_appendix.ipynb"
        )
    (copied.copy.parent / "scratch.ipynb").write_text("my own")
    before = copied.copy.read_bytes()
    said = copied.update()
    assert "The course no longer has my/zh/99_toy.ipynb; your file stays." in said and "98_own" not in said
    assert "Updated: zh/A1_appendix, en/A1_appendix." in said
    assert copied.copy.read_bytes() == before and (copied.copy.parent / "scratch.ipynb").read_text() == "my own"


# ---- what can go wrong


@pytest.mark.parametrize("content", ["", "not JSON", "[]", "{}", '{"cells": [{}]}', '{"cells": 3}', b"\xff\xfe"])
def test_a_copy_that_is_no_notebook_is_left_alone(content, copied):
    copied.copy.write_bytes(content if isinstance(content, bytes) else content.encode())
    copied.upstream("## ", "### ")
    said = copied.update()
    assert copied.copy.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert "my/zh/99_toy.ipynb cannot be read" in said and "Updated: en/99_toy." in said  # the others are served
    assert copied.files() == {"99_toy.ipynb"}


def test_a_folder_in_place_of_a_copy_is_left_alone(copied):
    copied.copy.unlink()
    copied.copy.mkdir()
    assert "my/zh/99_toy.ipynb cannot be read" in copied.update() and copied.copy.is_dir()


def test_a_lesson_that_cannot_be_read_leaves_its_copy_alone(copied):
    before = copied.copy.read_bytes()
    (copied.root / "notebooks" / "zh" / "99_toy.ipynb").write_text("<<<<<<< HEAD")
    assert "git checkout -- notebooks/zh/99_toy.ipynb" in copied.update()
    assert copied.copy.read_bytes() == before


@pytest.mark.parametrize("place", ["my", "my/zh", "my/en"])
def test_a_folder_that_cannot_be_written_is_one_sentence(place, course, monkeypatch, capsys):
    (course.root / place).parent.mkdir(exist_ok=True)
    (course.root / place).write_text("a file is in the way")
    update = learner_copy.update
    monkeypatch.setattr(learner_copy, "update", lambda: update(course.root))
    monkeypatch.setattr(language, "LANGUAGE", "en")
    assert learner_copy.main() == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said and len(said.splitlines()) == 1
    assert (course.root / place).read_text() == "a file is in the way"


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_update_that_ends_in_the_middle_loses_nothing(error, failing, copied, monkeypatch):
    """The disk is full, or Ctrl+C is pressed, when the old file is put aside and when the new one is put in place."""
    copied.solve()
    before = copied.copy.read_bytes()
    copied.upstream("## 为什么", "## 为何")
    calls = []

    def replace(source, target, do=os.replace):
        calls.append(target)
        if len(calls) == failing:
            raise error
        do(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises((CourseError, KeyboardInterrupt)):
        copied.update()
    monkeypatch.undo()
    assert copied.copy.read_bytes() == before
    assert not [name for name in copied.files() if name.startswith(".")]
    copied.update()
    assert copied.cells()["ex1"].source == "def double(x):\n    return x + x" and "为何" in copied.cells()["why"].source
    assert copied.files() == {"99_toy.ipynb", "99_toy.old.ipynb"}


def test_what_jupyterlab_saves_meanwhile_is_carried_too(copied, monkeypatch):
    copied.solve()
    copied.upstream("## 为什么", "## 为何")
    calls, carry_over = [], learner_copy.carry_over

    def slow(old, new):
        if not calls:
            copied.solve(code="def double(x):\n    return 2 * x")
        calls.append(1)
        return carry_over(old, new)

    monkeypatch.setattr(learner_copy, "carry_over", slow)
    copied.update()
    assert len(calls) == 2 and copied.cells()["ex1"].source == "def double(x):\n    return 2 * x"


# ---- progress


def printed(solution, capsys) -> str:
    """What a real check says of a solution."""
    l01.ex1.check(solution)
    return capsys.readouterr().out


def right(driver):
    major = int(driver.split(".")[0]) if driver else 0
    return "cpu" if not driver else "gpu" if major >= 580 else "cu12" if major >= 570 else "too old"


@pytest.mark.parametrize("lang", ["zh", "en", None])
def test_progress_reads_what_real_checks_say(lang, copied, monkeypatch, capsys):
    monkeypatch.setattr(language, "LANGUAGE", lang)
    assert copied.states() == {"ex1": "open", "ex2": "open"}
    copied.solve(said=printed(lambda driver: "gpu", capsys))
    assert copied.states()["ex1"] == "tried"
    copied.solve(said=printed(right, capsys) + "something printed after it\n")
    assert copied.states() == {"ex1": "solved", "ex2": "open"}


def test_progress_after_changes(copied, capsys):
    copied.solve()
    assert copied.states()["ex1"] == "tried"  # the check was not run
    solved = printed(right, capsys)
    copied.solve(said=solved)
    copied.edit(lambda cells, notebook: cells["ex1"].update(execution_count=7))
    assert copied.states()["ex1"] == "tried"  # run again after the check
    copied.solve(code=copied.cells(copied.root / "notebooks" / "zh" / "99_toy.ipynb")["ex1"].source, said=solved)
    assert copied.states()["ex1"] == "open"  # back to the stub
    copied.solve(said=solved)
    copied.edit(lambda cells, notebook: notebook.cells.remove(cells["ex1-check"]))
    assert copied.states()["ex1"] == "tried"
    copied.edit(lambda cells, notebook: notebook.metadata.pop("course"))
    assert set(copied.states().values()) == {"unknown"}  # nobody knows what they came as


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        ("## 为什么", "## 为何", "solved"),
        ("print(double(2))", "print(double(3))", "tried"),  # another check
        ("def double(x):", "# 两倍\ndef double(x):", "tried"),  # another wording of the exercise
    ],
)
def test_progress_survives_an_update_while_exercise_and_check_stay(old, new, state, copied, capsys):
    copied.solve(said=printed(right, capsys))
    copied.upstream(old, new)
    copied.update()
    assert copied.cells()["ex1"].source == "def double(x):\n    return x + x"
    assert copied.states() == {"ex1": state, "ex2": "open"}
    assert bool(copied.cells()["ex1-check"].outputs) == (state == "solved")


def test_progress_counts_both_languages_and_does_not_call_the_unreadable_open(copied, capsys):
    english = copied.root / "my" / "en" / "99_toy.ipynb"
    copied.solve(said=printed(right, capsys), path=english)
    copied.solve("ex2", "def triple(x, *, times=3):\n    return 3 * x")
    (copied.copy.parent / "99_toy.old.ipynb").write_text("no lesson")
    lessons = progress.look(copied.root / "my")
    assert progress.report(lessons, 1) == "99_toy: solved 1; tried 2\n1 of 2 exercises solved."
    copied.copy.write_text("broken")
    lessons = progress.look(copied.root / "my")
    assert lessons["99_toy"][0] == {"ex1": "solved", "ex2": "unknown"}
    zh, en = progress.report(lessons, 0), progress.report(lessons, 1)
    assert zh.startswith("99_toy：解出 1；不知道 2\n  读不出 my/zh/99_toy.ipynb：") and "共 2 题，解出 1 题；" in zh
    assert "my/zh/99_toy.ipynb cannot be read" in en and "what cannot be read" in en
    english.write_text("broken")
    report = progress.report(progress.look(copied.root / "my"), 1)
    assert report.startswith("99_toy: unknown\n") and report.count("cannot be read:") == 2


def test_progress_without_a_copy_names_the_command(tmp_path):
    with pytest.raises(CourseError, match="make lab"):
        progress.look(tmp_path / "my")


def test_progress_never_runs_what_a_learner_wrote(copied):
    copied.solve(code=f"open({str(copied.root / 'ran')!r}, 'w')\ndef double(x):\n    return 2 * x")
    assert copied.states()["ex1"] == "tried" and not (copied.root / "ran").exists()


# ---- in a real JupyterLab

NEWER = """
# %% [markdown] lang="zh" key="newer"
# 新版多出的一句。

# %% [markdown] lang="en" key="newer"
# A sentence that is new.
"""


def run_cell(page, index: int, code: str | None = None):
    """Clicks into a cell, writes ``code`` in place of what stands there if given, and runs it."""
    cell = page.locator(".jp-Notebook .jp-Cell").nth(index)
    cell.locator(".cm-content").click()
    if code is not None:
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(code)
    page.keyboard.press("Control+Enter")
    wait_until(lambda: RAN.fullmatch(cell.locator(".jp-InputPrompt").inner_text().strip()))
    return cell


@pytest.mark.slow
def test_jupyterlab_meets_no_module_of_the_course(tmp_path):
    """`make lab` starts in the course's folder; what lies there must not hide a library of JupyterLab's."""
    for folder in ("helpers", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "jupyterlab_server.py").write_text("raise SystemExit('the course hides the library')\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "tools.lessons.lab", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and re.fullmatch(r"4\.[\d.]+", done.stdout.splitlines()[-1]), done.stdout + done.stderr


def open_as_learner(lab, browser, name: str):
    """The page that `make lab` opens, and from there the Chinese copy of a lesson."""
    page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
    page.set_default_timeout(180_000)
    page.goto(f"{lab.address}/?token={TOKEN}")
    files = page.locator(".jp-DirListing-item")
    files.filter(has_text=re.compile("^zh")).wait_for()
    assert [text.split()[0] for text in files.all_inner_texts()] == ["en", "zh"]
    screenshot(page, "make-lab")
    files.filter(has_text=re.compile("^zh")).dblclick()
    files.filter(has_text=f"{name}.ipynb").dblclick()
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    wait_until(lambda: lab.is_ready(f"{name}.ipynb"))
    return page


def assert_nothing_in_the_way(page):
    """No launcher, not even when the last tab closes, and no pop-up; both would stay once they are there."""
    page.click(".jp-mod-current .lm-TabBar-tabCloseIcon")
    page.wait_for_selector(".jp-Notebook", state="detached")
    page.click('.lm-MenuBar-itemLabel:text-is("File")')
    page.locator('.lm-Menu-itemLabel:text-is("Open from Path…")').wait_for()
    assert page.locator(".jp-Launcher").count() == page.locator(".Toastify__toast").count() == 0


@pytest.mark.large
def test_solved_updated_and_opened_again_in_jupyterlab(tmp_path, browser):
    """`make lab`, an exercise solved and saved, a newer lesson while it is open, one more, and `make lab` again."""
    course, name = tmp_path / "course", "01_environment"
    for folder in ("assets", "helpers", "notebooks", "tools"):
        shutil.copytree(ROOT / folder, course / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source, copy = course / "notebooks" / "source" / f"{name}.py", course / "my" / "zh" / f"{name}.ipynb"
    solution = next(cell.text["zh"] for cell in read_lesson(source).cells if cell.key == "ex1-solution")
    variables = {"PYTHONPATH": str(course)}  # and no COURSE_LANG: the kernel's folder says which language it is

    def run(*command: str) -> str:
        own = os.environ | variables | {"COURSE_LANG": "zh"}
        return subprocess.run([sys.executable, *command], cwd=course, env=own, text=True, stdout=-1, check=True).stdout

    def saved() -> dict:
        return {cell.id: cell for cell in nbformat.read(copy, as_version=4).cells}

    def upstream(change):
        source.write_text(change(source.read_text(encoding="utf-8")), encoding="utf-8")
        run("-m", "tools.lessons.build", "01")

    def progress_line() -> str:
        return next(line for line in run("-m", "tools.lessons.progress").splitlines() if line.startswith(name))

    def solve(page, keys, code):
        run_cell(page, keys.index("setup"))
        run_cell(page, keys.index("ex1"), code)
        run_cell(page, keys.index("ex1-check")).get_by_text("解出来了！").wait_for()
        screenshot(page, "solved")
        page.keyboard.press("Control+s")
        wait_until(lambda: saved()["ex1"].source == (code or solution) and saved()["ex1-check"].outputs)

    with JupyterLab(course, tmp_path / "state", variables=variables, as_learner=True) as lab:
        page = open_as_learner(lab, browser, name)
        keys = list(saved())
        assert progress_line().startswith(f"{name}：没做 1")
        solve(page, keys, solution)
        assert progress_line().startswith(f"{name}：解出 1")

        upstream(lambda text: text + NEWER)
        assert "练习 1 里写的已经带过来" in run("-m", "tools.lessons.learner_copy")
        # The page still shows the older lesson: JupyterLab asks before it would save that over the newer one.
        run_cell(page, keys.index("ex1"), "lost = True")
        page.keyboard.press("Control+s")
        page.get_by_text("has changed on disk").wait_for()
        page.click('.jp-Dialog button:has-text("Revert")')
        page.locator(".jp-RenderedMarkdown", has_text="新版多出的一句。").wait_for()
        assert saved()["ex1"].source == solution and "newer" in saved()
        assert progress_line().startswith(f"{name}：解出 1")
        page.context.close()

    upstream(lambda text: re.sub('(key="ex1-check".*\n)', r"\1# zh: 再查一次\n# en: check again\n", text))
    with JupyterLab(course, tmp_path / "state", variables=variables, as_learner=True) as lab:
        page = open_as_learner(lab, browser, name)
        keys = list(saved())
        shown = page.locator(".jp-Notebook .jp-Cell").nth(keys.index("ex1"))
        assert [line.strip() for line in shown.locator(".cm-line").all_inner_texts()] == [
            line.strip() for line in solution.splitlines()
        ]
        assert progress_line().startswith(f"{name}：试过 1")  # the check is another one
        solve(page, keys, None)
        assert progress_line().startswith(f"{name}：解出 1")
        screenshot(page, "carried")
        assert_nothing_in_the_way(page)
        page.context.close()
    old = sorted(path.name for path in copy.parent.glob("*.old*"))
    assert old == [f"{name}.old.ipynb", f"{name}.old2.ipynb"]
