"""conftest.py and the settings of pytest: a test that hangs ends with all that it started; who works where."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import conftest
import psutil
import pytest
from conftest import ROOT
from processes import is_alive

pytestmark = pytest.mark.slow
HANGS = """
import signal, subprocess, time


def test_hangs():
    subprocess.run(["sh", "-c", "sleep 600 & echo $! > orphan"])  # as a server whose starter was killed
    {before}
    with subprocess.Popen(["sleep", "600"]) as child:  # its end waits for that of the process
        open("child", "w").write(str(child.pid))
        time.sleep(600)


def test_next():
    pass
"""
UNIT = """
import os, pytest


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("number", range(3))
def test_it(case, number):
    open("log", "a").write(f"{name} {{case}} {{os.environ['PYTEST_XDIST_WORKER']}}\\n")
"""


def run(folder: Path, *options: str) -> str:
    """What pytest says about the tests in ``folder``, with the conftest and the settings of this repository."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    variables |= {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", ROOT / "pyproject.toml", "--rootdir", folder]
    command += ["--dist", "loadscope", "--no-loadscope-reorder", "--max-worker-restart=0", *options, folder]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_test_that_hangs_fails_and_what_it_started_ends(workers, tmp_path):
    (tmp_path / "test_toy.py").write_text(HANGS.format(before=""))
    said = run(tmp_path, "-n", workers, "--timeout", "3")
    assert "FAILED test_toy.py::test_hangs - Failed: Timeout" in said and "1 failed, 1 passed" in said, said
    assert_ended(tmp_path)


def test_a_test_that_no_signal_ends_ends_the_run(tmp_path):
    """It blocks the signal, as a call in C does that never returns."""
    blocked = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])"
    (tmp_path / "test_toy.py").write_text(HANGS.format(before=blocked))
    said = run(tmp_path, "-n", "1", "--timeout", "1", "-o", "faulthandler_timeout=4")
    assert "crashed while running 'test_toy.py::test_hangs'" in said and "1 failed in" in said, said
    assert_ended(tmp_path)


def assert_ended(folder: Path):
    for name in ("orphan", "child"):
        pid = int((folder / name).read_text())
        assert not psutil.pid_exists(pid) or not is_alive(psutil.Process(pid)), name


def test_what_shares_a_start_stays_in_one_worker(tmp_path):
    """Each file; all files with a server together; each lesson's tests, wherever the others are."""
    for name in ("hub", "models", "server", "client"):
        (tmp_path / f"test_{name}.py").write_text(UNIT.format(name=name))
    assert "24 passed" in run(tmp_path, "-n", "2")
    workers = defaultdict(set)
    for line in (tmp_path / "log").read_text().splitlines():
        name, _, worker = line.split()
        workers["server" if name in ("server", "client") else name].add(worker)
    assert [len(found) for found in workers.values()] == [1, 1, 1]
    [runs, outputs, small, other] = map(
        conftest.work_unit,
        [
            "tests/test_lessons.py::test_lesson_runs[01_environment]",
            "tests/test_lessons.py::test_outputs[01_environment]",
            "tests/test_lesson_01.py::test_runs_in_2_gb",
            "tests/test_lessons.py::test_lesson_runs[02_model_download]",
        ],
    )
    assert runs == outputs == small != other
    tests = ("test_a_room_that_is_not_ready_is_red", "test_another")
    [room, door] = (conftest.work_unit(f"tests/test_workshop.py::{test}") for test in tests)
    assert (room, door) == ("server", "test_workshop")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("@pytest.mark.network\ndef test_it():", "test_it needs a network: mark it slow or large"),
        ("def test_it(guarded_server):", "test_it would start a second server"),
    ],
)
def test_what_would_break_a_tier_is_refused(code, reason, tmp_path):
    (tmp_path / "test_toy.py").write_text(f"import pytest\n\n\n{code}\n    pass\n")
    assert reason in run(tmp_path, "-n", "0")
