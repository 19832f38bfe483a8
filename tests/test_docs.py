"""The checks of `make lint` for pages around the lessons, and pre-commit, which runs all of them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import date

import nbformat
import pytest
from conftest import LESSONS, ROOT

from helpers import CourseError, models
from tools.lessons import build, check_docs, keep_run
from tools.lessons.pages import core_minutes, core_sections
from tools.lessons.source import read_lesson


@pytest.mark.slow  # `make lint` runs it
def test_the_pages_pass_their_own_check(capsys):
    assert check_docs.main() == 0, capsys.readouterr().err


@pytest.fixture
def pages(course):
    """A repository with a page in both languages; ``pages(zh=..., en=...)`` changes them and returns the problems."""
    subprocess.run(["git", "init", "--quiet", course.root], check=True)

    def write(zh="# 一\n\n`a` 是 3，见[二](two.md)。\n", en="# One\n\n`a` is 3, see [two](two.md).\n"):
        (course.root / "two.md").write_text("# Two\n")
        (course.root / "one.md").write_text(en, encoding="utf-8")
        (course.root / "one.zh.md").write_text(zh, encoding="utf-8")
        return check_docs.problems(course.root)

    return write


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"en": "# One\n\n`a` is 4, see [two](two.md).\n"}, "numbers differ"),
        ({"en": "# One\n\n`b` is 3, see [two](two.md).\n"}, "inline code differ"),
        ({"en": "One\n\n`a` is 3, see [two](two.md).\n"}, "heading levels differ"),
        ({"zh": "# 一\n\n您的 `a` 是 3，见[二](two.md)。\n"}, "您"),
        ({"zh": "# 一\n\n`a` 是 3，见[二](3.md)。\n"}, "one.zh.md: the link 3.md leads nowhere"),
    ],
)
def test_what_is_wrong_is_named(changed, message, pages):
    assert any(message in problem for problem in pages(**changed))


def test_links_of_lessons_are_followed(course, pages):
    assert any("99_toy" in problem and "leads nowhere" in problem for problem in pages())  # not built yet
    for lang in ("zh", "en"):
        course.notebook(lang).parent.mkdir(parents=True, exist_ok=True)
        course.notebook(lang).write_text("{}")
    assert pages() == []


def test_a_table_promises_the_minutes_of_the_lesson():
    lessons = {"03_architecture": read_lesson(ROOT / "notebooks" / "source" / "03_architecture.py")}
    row = "| [03](notebooks/en/03_architecture.ipynb) | write attention | {} | CPU | |\n"
    assert check_docs.other_minutes(row.format(60), lessons) == []
    assert check_docs.other_minutes(row.format(55), lessons) == ["03_architecture takes 60 minutes, not 55"]


def test_links_in_code_are_none():
    assert check_docs.local_links("`[a](b)` [c](d.md#e) [f](https://g) [h](#i)\n```\n[j](k)\n```\n") == ["d.md#e"]


def test_the_version_is_the_same_wherever_it_stands():
    """In pyproject.toml, CITATION.cff and as the changelog's newest release, whose day CITATION.cff has as well."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    cited = dict(re.findall(r"^(version|date-released): (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M))
    released = re.findall(r"^## (\d\S*) · (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert released[0] == (version, cited["date-released"].strip('"')) and cited["version"] == version
    assert released == sorted(released, key=lambda one: [int(part) for part in one[0].split(".")], reverse=True)
    assert date.fromisoformat(released[0][1])


@pytest.mark.parametrize("name", LESSONS)
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_minutes_of_the_sections_add_up(name, lang):
    lesson = read_lesson(ROOT / "notebooks" / "source" / f"{name}.py")
    sections = core_sections(lesson, lang)
    assert sum(sections.values()) == core_minutes(lesson, lang) > 0
    assert len(sections) >= 3


@pytest.mark.parametrize("status", [0, 1])
def test_a_commit_runs_make_lint(status, tmp_path):
    """The repository's pre-commit, where the linter is content and where it is not."""
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    (tmp_path / "Makefile").write_text(f"lint:\n\t@touch ran\n\t@exit {status}\n")
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    variables = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pre_commit", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == status and (tmp_path / "ran").exists(), done.stdout + done.stderr


def test_a_run_on_a_real_model_is_kept_clean(course, tmp_path):
    assert build.main(["--root", str(course.root)]) == 0
    notebook = nbformat.read(course.notebook(), as_version=4)
    (course.root / "build" / "run").mkdir(parents=True)
    ran = course.root / "build" / "run" / "99_toy.ipynb"
    folder = tmp_path / "models" / "Qwen--Qwen3-8B" / "snapshots" / "master"
    nbformat.write(notebook, ran)
    with pytest.raises(CourseError, match="did not run to its end"):
        keep_run.keep("99_toy", folder, course.root)
    notebook.metadata["widgets"] = {}
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
        cell.outputs = [
            nbformat.v4.new_output("stream", name="stderr", text="careful\n"),
            nbformat.v4.new_output("stream", name="stdout", text=f"{course.root}/x {number}\n"),
        ]
    nbformat.write(notebook, ran)
    with pytest.raises(CourseError, match="bundled tiny model"):
        keep_run.keep("99_toy", models.find_checkpoint("qwen3-tiny"), course.root)
    kept = keep_run.keep("99_toy", folder, course.root)
    assert kept == course.root / "assets" / "recorded" / "Qwen3-8B" / "99_toy.ipynb"
    notebook = nbformat.read(kept, as_version=4)
    recorded = notebook.metadata.course.recorded
    assert (recorded.model, "widgets" in notebook.metadata) == ("Qwen3-8B", False) and recorded.date
    outputs = [output.text for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs == ["qwen3-in-notebooks/x 1\n", "qwen3-in-notebooks/x 2\n"]
