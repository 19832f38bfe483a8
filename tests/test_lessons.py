"""Every lesson runs in a real kernel, vLLM and server included; and the runner tells the truth about failures."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from conftest import LESSONS, ROOT, TOY, languages
from lesson_code import run_lesson
from processes import PATIENCE

from helpers import GIB, figures, machine, models
from tools.lessons import build, record
from tools.lessons.run import lessons_at_once

pytestmark = pytest.mark.slow
# Cells that say something where vLLM is, in lessons that need none; the second test below runs them with it.
SILENT_WITHOUT_VLLM = {"02_model_download": {"vllm"}, "A2_experts_in_depth": {"engines"}}


# --- the lessons


@pytest.mark.parametrize("name", LESSONS)
def test_lesson_runs(name, lesson_runs):
    """In one of its languages; without vLLM, if it needs none."""
    notebook, failure = lesson_runs(name).notebook, lesson_runs(name).failure
    assert failure is None, f"cell {failure.key}: {failure}"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("name", LESSONS)
def test_recorded_outputs_come_from_the_cells_that_print(name, lesson_runs):
    """The committed outputs stand at the same cells as a fresh run's (their text may differ between machines)."""
    assert_same_cells_print(name, languages(name)[0], lesson_runs(name).notebook, SILENT_WITHOUT_VLLM.get(name, set()))


def assert_same_cells_print(name: str, lang: str, fresh, silent=frozenset()) -> None:
    """silent: the cells that print in the recording and must not in this run."""
    recorded = nbformat.read(ROOT / "notebooks" / lang / f"{name}.ipynb", as_version=4)
    assert recorded.metadata.course.recorded, f"{name} has no recorded outputs: make record LESSONS={name[:2]}"
    cells = {cell.id: cell for cell in fresh.cells}
    for cell in recorded.cells:
        if cell.cell_type == "code" and "no-output" not in cell.metadata.get("tags", []):
            printed = [output for output in cells[cell.id].outputs if output.get("name") != "stderr"]
            assert bool(cell.outputs and cell.id not in silent) == bool(printed), cell.id


LONG = {"00", "05", "06", "07", "08", "09", "A1", "A3"}  # twice and more a minute: before a release


@pytest.mark.large
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.release] if name[:2] in LONG else []) for name in LESSONS]
)
def test_lesson_runs_twice_in_one_kernel(name, tmp_path):
    """In its other language, with vLLM there."""
    lang = languages(name)[1]
    ran = run_lesson(name, tmp_path, lang, twice=True)
    assert ran.failure is None, f"cell {ran.failure.key}: {ran.failure}"
    assert_same_cells_print(name, lang, ran.notebook)


# --- the runner, on toys


@pytest.fixture
def built(course, tmp_path, monkeypatch):
    """``built(name, *cells)`` writes and builds a toy lesson with these code cells, keys c1, c2, ..."""
    shutil.copytree(models.BUNDLED / "qwen3-tiny", tmp_path / "model")  # the runner wants a complete model
    monkeypatch.setenv("COURSE_MODEL", str(tmp_path / "model"))
    monkeypatch.delenv("LESSONS", raising=False)

    def write(name: str, *cells: str):
        course.write(TOY + "".join(f'\n# %% key="c{n}"\n{code}\n' for n, code in enumerate(cells, 1)), name)
        assert build.main(["--root", str(course.root)]) == 0
        return course

    return write


def command(course, *arguments) -> list[str]:
    return [sys.executable, "-m", "tools.lessons.run", "--root", str(course.root), *arguments]


def run(course, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(command(course, *arguments), cwd=ROOT, capture_output=True, text=True)


def texts(course, name: str) -> list[str]:
    notebook = nbformat.read(course.root / "build" / "run" / f"{name}.ipynb", as_version=4)
    return ["".join(out.get("text", "") for out in c.outputs) for c in notebook.cells if c.cell_type == "code"]


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_failing_cell_is_named_and_the_other_lessons_still_run(built):
    built("98_bad", "import os\n\nprint(os.getpid())", "raise KeyError('lost')", "print('never')")
    course = built("99_toy", "print('fine')")
    done = run(course)
    assert done.returncode == 1
    assert "98_bad, cell c2:" in done.stderr and "KeyError: 'lost'" in done.stderr and "\x1b" not in done.stderr
    header, bad, good = done.stdout.strip().splitlines()[-3:]
    assert [part.strip() for part in header.split("|")] == ["lesson", "cells", "seconds", "result"]
    assert bad.startswith("98_bad | 5 ") and bad.endswith("| FAILED at c2")
    assert good.startswith("99_toy | 3 ") and good.endswith("| ok")
    assert "98_bad  cell 4/5  c2" in done.stdout
    pid = texts(course, "98_bad")[2]
    assert pid and texts(course, "98_bad")[4] == "" and texts(course, "99_toy")[2] == "fine\n"
    assert not is_alive(int(pid))


def test_lessons_are_chosen_by_number(built, monkeypatch):
    built("98_other", "print('other')")
    course = built("99_toy", "print('fine')")
    monkeypatch.setenv("LESSONS", "99")
    assert run(course).returncode == 0
    assert not (course.root / "build" / "run" / "98_other.ipynb").exists()
    monkeypatch.setenv("LESSONS", "99 42")
    done = run(course)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 2
    assert "没有这一课：42" in done.stderr and "out of: 98, 99" in done.stderr


def test_a_missing_model_is_said_before_anything_runs(built, monkeypatch):
    course = built("99_toy")
    monkeypatch.setenv("COURSE_MODEL", str(course.root / "nowhere"))
    done = run(course)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 2 and "nowhere" in done.stderr
    assert not (course.root / "build").exists()


def test_a_relative_model_folder_holds_in_the_kernel(built, monkeypatch):
    course = built("99_toy", "import os\n\nprint(os.environ['COURSE_MODEL'])")
    monkeypatch.setenv("COURSE_MODEL", os.path.relpath(course.root / "model", ROOT))  # the tool runs in ROOT
    assert run(course).returncode == 0
    assert texts(course, "99_toy")[2].strip() == str(course.root / "model")


def test_the_kernel_is_this_python(built, monkeypatch):
    course = built("99_toy", "print(sys.executable)")
    spec = course.root / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(course.root / "jupyter"))
    assert run(course).returncode == 0
    assert texts(course, "99_toy")[2].strip() == sys.executable


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import time\n\ntime.sleep(60)", "timed out"),
        ("import os\n\nos.write(2, b'out of luck')\nos._exit(1)", "out of luck"),
    ],
)
def test_a_cell_that_hangs_or_ends_the_kernel(code, reason, built):
    course = built("99_toy", "import os\n\nprint(os.getpid())", code)
    done = run(course, "--timeout", "4")
    assert done.returncode == 1
    assert "99_toy, cell c2:" in done.stderr and reason in done.stderr
    assert not is_alive(int(texts(course, "99_toy")[2]))


def test_an_error_for_learners_has_no_traceback(built):
    course = built("99_toy", "from helpers import CourseError\n\nraise CourseError('先下载。', 'Download first.')")
    assert run(course).stderr.strip().endswith("99_toy, cell c1:\n先下载。")  # in the page's language
    assert run(course, "--lang", "en").stderr.strip().endswith("99_toy, cell c1:\nDownload first.")


SLEEPS = """\
import os, signal, time

{before}
try:
    print(os.getpid(), file=open("{name}", "w"), flush=True)
    time.sleep(600)
finally:
    print(file=open("{name} closed", "w"))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_kernels(number, built):
    """Of both lessons that run; the cell of one hears of it, the other's does not; a third never starts."""
    built("97_hears", SLEEPS.format(name="hears", before=""))
    built("98_deaf", SLEEPS.format(name="deaf", before="signal.signal(signal.SIGINT, signal.SIG_IGN)"))
    course = built("99_toy", "print(file=open('toy', 'w'))")
    folder = course.root / "notebooks" / "zh"
    line = command(course, "--jobs", "2")
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = [folder / name for name in ("hears", "deaf")]
    while not all(path.exists() and path.read_text().strip() for path in pids):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Interrupted" in error and "Traceback" not in error
    assert not any(is_alive(int(path.read_text())) for path in pids)
    assert (folder / "hears closed").exists() and not (folder / "toy").exists()


MEETS = """\
import time
from pathlib import Path

Path("{here}").touch()
while not Path("{there}").exists():
    time.sleep(0.1)
"""


def test_two_lessons_run_at_a_time_and_one_that_measures_alone(built):
    """Two wait for each other; the one that measures finds both done. The table is in order."""
    built("08_toy", "from pathlib import Path\n\nassert Path('end of one').exists() and Path('end of two').exists()")
    built("98_one", MEETS.format(here="one", there="two"), "Path('end of one').touch()")
    course = built("99_two", MEETS.format(here="two", there="one"), "Path('end of two').touch()")
    done = run(course, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ")[0] for line in done.stdout.strip().splitlines()[-4:]]
    assert rows == ["08_toy", "98_one", "99_toy", "99_two"]


@pytest.mark.parametrize(
    ("seen", "memory", "variables", "jobs"),
    [
        ({"cores": 2}, 8, {}, 2),
        ({"cores": 1}, 8, {}, 1),
        ({"cores": 2}, 4, {}, 1),
        ({"cores": 2, "memory": 4 * GIB}, 8, {}, 1),  # a container's
        ({"cores": 8, "gpus": ("a card",)}, 64, {}, 1),
        ({"cores": 2}, 8, {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, 1),
        ({"cores": 2}, 8, {"COURSE_MODEL": "other"}, 1),
        ({"cores": 2}, 8, {"COURSE_MOE_MODEL": "other"}, 1),
    ],
)
def test_how_many_lessons_run_at_a_time(seen, memory, variables, jobs, tmp_path, monkeypatch):
    shutil.copytree(models.BUNDLED / "qwen3-tiny", tmp_path / "other")
    here = dataclasses.replace(machine.look(), **{"memory": 64 * GIB, "gpus": ()} | seen)
    monkeypatch.setattr(machine, "look", lambda: here)
    available = SimpleNamespace(available=memory * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    for name in ("COURSE_MODEL", "COURSE_MOE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value == "other" else value)
    assert lessons_at_once() == jobs


def test_two_recordings_are_equal(built, monkeypatch):
    """Whatever differs from run to run, or needs a kernel to be seen, is not in the notebook."""
    course = built(
        "99_toy",
        "from pathlib import Path\n\nprint(object(), Path.cwd(), Path.home() / 'x')\nprint('warn', file=sys.stderr)",
        "from tqdm.auto import tqdm\n\nfor step in tqdm(range(3)):\n    print(step, end='\\r')\nprint('end')",
        "import ipywidgets\n\nipywidgets.IntSlider()",
        "import matplotlib.pyplot as plt\n\nplt.plot([1, 2])\nplt.show()",
        "# !echo shell",
        "1 / 2",
    )
    shutil.rmtree(course.root / "notebooks" / "zh")  # a lesson may be recorded before it was ever built
    arguments = ["--root", str(course.root)]
    monkeypatch.setattr(record, "date", SimpleNamespace(today=lambda: date(2026, 1, 31)))  # midnight may fall between
    assert build.main([*arguments, "--record"]) == 0
    first = {lang: course.notebook(lang).read_bytes() for lang in ("zh", "en")}
    assert build.main([*arguments, "--record"]) == build.main([*arguments, "--check"]) == 0
    assert first == {lang: course.notebook(lang).read_bytes() for lang in ("zh", "en")}
    zh, en = (json.loads(first[lang])["cells"] for lang in ("zh", "en"))
    in_english = json.loads(json.dumps([cell.get("outputs") for cell in zh]).replace("notebooks/zh", "notebooks/en"))
    assert in_english == [cell.get("outputs") for cell in en]  # two runs, each in its language's folder
    cells = {cell["id"]: cell.get("outputs") for cell in zh}
    assert cells["c1"][0]["text"] == ["<object object at 0x…> qwen3-in-notebooks/notebooks/zh ~/x\n"]
    assert cells["c2"] == [{"name": "stdout", "output_type": "stream", "text": ["end\n"]}]
    assert cells["c3"] == []
    assert list(cells["c4"][0]["data"]) == [figures.SVG, "image/png", "text/plain"] and len(cells["c4"]) == 1
    assert cells["c5"][0]["text"] == ["shell\n"] and cells["c6"][0]["data"] == {"text/plain": ["0.5"]}


def test_a_failing_lesson_records_nothing(built, capsys):
    course = built("99_toy", "print('fine')", "1 / 0")
    before = course.notebook().read_bytes()
    assert build.main(["--root", str(course.root), "--record"]) == 1
    assert "99_toy: cell 'c2' failed, so nothing is recorded" in capsys.readouterr().err
    assert course.notebook().read_bytes() == before
