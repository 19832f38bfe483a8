"""autodl.sh on a machine that looks like an AutoDL instance. It was not tried on a real one."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import LESSONS, ROOT
from fake_nvidia_smi import install
from jupyterlab_server import JupyterLab, screenshot

from helpers import CourseError, machine, sets
from tools.environment import autodl

GIB = 2**30


def run(folder, *arguments, **variables):
    """autodl.sh with `folder` as the data disk and the home of the user; nothing else on this machine is written."""
    (folder / "disk").mkdir(exist_ok=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "JUPYTER_"))}
    own |= {"AUTODL_DATA_DISK": str(folder / "disk"), "HOME": str(folder / "home"), "CONDA": str(folder / "console")}
    own |= {"MODEL": "none", "SET": "cpu", "INDEX": "", "VENV": sys.prefix}
    own |= {"JUPYTER_DATA_DIR": str(folder / "data")}
    command = ["bash", str(ROOT / "autodl.sh"), *arguments]
    return subprocess.run(command, env=own | variables, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_dry_run_shows_every_step_and_changes_nothing(tmp_path):
    variables = {"VENV": str(tmp_path / "venv"), "MODEL": "Qwen/Qwen3-8B", "https_proxy": "http://127.0.0.1:9"}
    done = run(tmp_path, "--dry-run", **variables)
    assert done.returncode == 0, done.stderr
    assert [line[3:6] for line in done.stdout.splitlines() if line.startswith("== ")] == [f"{n}/5" for n in range(1, 6)]
    assert [line for line in done.stdout.splitlines() if line.startswith("+ ")] == [
        "+ python3 -m tools.environment.make_env",
        "+ python3 -m tools.environment.make_env --kernel",
        f"+ {tmp_path}/venv/bin/python -m helpers.download Qwen/Qwen3-8B",
        f"+ {tmp_path}/venv/bin/python -m helpers.models use Qwen/Qwen3-8B",
        f"+ {tmp_path}/venv/bin/python -m tools.environment.autodl selftest",
        f"+ {tmp_path}/venv/bin/python -m helpers.machine",
    ]
    assert "network_turbo" in done.stdout and "127.0.0.1:9" not in done.stdout
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["disk"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], ["-n"], ["--dryrun"], ["--dry-run", "now"], ["--dry-run", "--dry-run"], [""], ["x"]],
)
def test_unknown_arguments_start_nothing(arguments, tmp_path):
    idle_commands(tmp_path)
    done = run(tmp_path, *arguments, VENV=str(tmp_path / "venv"))
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 2 and "--dry-run" in done.stderr


def idle_commands(tmp_path, failing="nothing"):
    """Pythons for autodl.sh that install nothing; the one whose last argument is `failing` fails."""
    for place in ("console", "venv"):
        folder = tmp_path / place / "bin"
        folder.mkdir(parents=True)
        for name in ("python", "python3", "python3.12"):
            (folder / name).write_text(f'#!/bin/sh\nfor last; do :; done\n[ "$last" != {failing} ]\n')
            (folder / name).chmod(0o755)


def no_gpu_mode(tmp_path, state):
    """PATH with an nvidia-smi as in AutoDL's no-GPU mode."""
    said, status = {"empty": ("", 0), "failed": ("NVIDIA-SMI has failed\n", 9)}[state]
    install(tmp_path / "bin", [], "", status, said=said)
    no_network = {"PIP_NO_INDEX": "1", "VENV": str(tmp_path / "venv")}  # nothing is to be installed
    console = tmp_path / "console" / "bin"  # a Python itself: what a machine may have in its place looks for it first
    console.mkdir(parents=True)
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        (console / name).symlink_to(Path(sys.executable).resolve())
    return no_network | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["empty", "failed"])
def test_in_no_gpu_mode_a_dry_run_asks_what_the_real_one_asks(state, tmp_path):
    """Which set, and which model: neither driver nor memory can be seen."""
    variables = no_gpu_mode(tmp_path, state)
    before = sorted(path for path in tmp_path.rglob("*"))
    for dry in ([], ["--dry-run"]):
        done = run(tmp_path, *dry, SET="", MODEL="", **variables)
        assert done.returncode == 1 and "SET=gpu" in done.stderr and "3/5" not in done.stdout, done.stdout
        assert len(done.stderr.splitlines()) == 2
    done = run(tmp_path, "--dry-run", SET="gpu", MODEL="", **variables)
    assert done.returncode == 1 and "MODEL=Qwen/Qwen3-8B" in done.stderr and "5/5" not in done.stdout
    done = run(tmp_path, "--dry-run", SET="gpu", MODEL="Qwen/Qwen3-8B", **variables)
    assert done.returncode == 0, done.stderr
    assert "requirements.txt" in done.stdout and "helpers.models use Qwen/Qwen3-8B" in done.stdout
    assert sorted(path for path in tmp_path.rglob("*")) == sorted([*before, tmp_path / "disk"])


def test_the_readmes_name_set_and_model_for_no_gpu_mode():
    for name in ("README.md", "README.zh.md", "autodl.sh"):
        assert "SET=gpu MODEL=Qwen/Qwen3-8B bash autodl.sh" in (ROOT / name).read_text(encoding="utf-8")


def test_an_image_with_an_old_python_gets_a_new_one(tmp_path):
    old = tmp_path / "console" / "bin"
    old.mkdir(parents=True)
    for name in ("python3.13", "python3.12", "python3.11"):
        (old / name).write_text("#!/bin/sh\nexit 127\n")
        (old / name).chmod(0o755)
    done = run(tmp_path, "--dry-run")
    assert f"+ conda create --quiet --yes --prefix {tmp_path}/disk/qwen3-notebooks/python python=3.12" in done.stdout


def test_elsewhere_it_says_so(tmp_path):
    done = run(tmp_path, AUTODL_DATA_DISK=str(tmp_path / "none"))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 2 and "make env" in done.stderr
    assert "+ " not in done.stdout


@pytest.mark.parametrize("failing", ["selftest", "helpers.machine", "nothing"])
def test_a_self_test_that_fails_is_told_at_the_end(failing, tmp_path):
    """Commands that install nothing; one of the two checks fails, as the pre-flight check does in no-GPU mode."""
    idle_commands(tmp_path, failing)
    done = run(tmp_path, VENV=str(tmp_path / "venv"))
    assert [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("+ ")][-2:] == [
        "selftest",
        "helpers.machine",
    ]
    failed = failing != "nothing"
    assert done.returncode == failed and ("run bash autodl.sh again with the GPU" in done.stdout) == failed
    assert ("choose the kernel" in done.stdout) != failed


@pytest.mark.parametrize(
    ("gib", "disk", "model"),
    [
        (0, 50, "none"),
        (8, 50, "Qwen/Qwen3-1.7B"),
        (12, 50, "Qwen/Qwen3-4B"),
        (16, 50, "Qwen/Qwen3-4B"),
        (24, 50, "Qwen/Qwen3-8B"),
        (24, 10, "Qwen/Qwen3-4B"),
        (48, 50, "Qwen/Qwen3-14B"),
        (80, 50, "Qwen/Qwen3-14B"),
    ],
)
def test_model_by_memory_and_disk(gib, disk, model, monkeypatch):
    monkeypatch.setattr("helpers.cache.hub_copies", lambda name: [])
    gpus = (machine.Gpu("a card", gib * 1024, "580.95"),) if gib else ()
    here = dataclasses.replace(machine.look(), gpus=gpus, data_disk=disk * GIB)
    assert autodl.largest_model(here) == model


@pytest.mark.parametrize(
    ("manager", "anywidget", "wrong"),
    [
        ("v5.0.16 enabled  OK (python, jupyterlab_widgets)", "v0.11.0 enabled  OK", []),
        ("v3.1.1 enabled  OK", "v0.11.0 enabled  OK", ["jupyterlab-manager"]),
        ("v5.0.16 disabled  OK", "v0.9.21 enabled  OK", ["jupyterlab-manager", "anywidget"]),
        ("enabled  OK", "v0.11.0 \x1b[32menabled\x1b[0m \x1b[32mOK\x1b[0m", ["jupyterlab-manager"]),
    ],
)
def test_front_ends_of_the_console_must_speak_to_the_kernel(manager, anywidget, wrong, tmp_path):
    """`jupyter labextension list` as it prints them; a name without a version is not taken for the right one."""
    server = tmp_path / "python"
    listed = (
        f"JupyterLab v4.6.6\n        @jupyter-widgets/jupyterlab-manager {manager}\n        anywidget {anywidget}\n"
    )
    server.write_text(f"#!/bin/sh\ncat >&2 << 'END'\n{listed}END\n")
    server.chmod(0o755)
    if not wrong:
        autodl.check_front_ends(str(server))
        return
    with pytest.raises(CourseError, match="make kernel") as refused:
        autodl.check_front_ends(str(server))
    names = refused.value.en.partition(":")[2]
    assert [name for name in ("jupyterlab-manager", "anywidget") if name in names] == wrong


@pytest.mark.large
def test_two_runs(tmp_path):
    for _ in range(2):
        done = run(tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ok       内核 Kernel: qwen3-notebooks" in done.stdout and "The course can run here." in done.stdout
    kernels = list((tmp_path / "data" / "kernels").iterdir())
    assert [kernel.name for kernel in kernels] == ["qwen3-notebooks"]
    assert {f"{name}.ipynb" for name in LESSONS} <= {path.name for path in (ROOT / "my" / "zh").iterdir()}
    assert not (ROOT / "course.toml").exists()


@pytest.mark.large
@pytest.mark.network
def test_console_and_kernel_in_environments_of_their_own(tmp_path, browser):
    """AutoDL's console runs JupyterLab from conda's base, where the course installs only the widgets' front-ends."""
    console = tmp_path / "console"
    subprocess.run([sys.executable, "-m", "venv", console], check=True)
    python, version = console / "bin" / "python", sets.SETS["cpu"].pins()["jupyterlab"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"jupyterlab=={version}"], check=True)
    with pytest.raises(CourseError, match="anywidget"):
        autodl.check_front_ends(str(python))
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Widget front-ends: {python}" in done.stdout
    packages = [path.name for path in console.glob("lib/python3*/site-packages/*.dist-info")]
    assert not any(name.startswith(("torch", "vllm", "ipywidgets-")) for name in packages)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(autodl.WIDGET)])
    notebook.metadata.kernelspec = {"name": "qwen3-notebooks", "display_name": "Qwen3 in Notebooks"}
    folder = tmp_path / "notebooks" / "en"
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / "lesson.ipynb")
    with JupyterLab(tmp_path, python=python) as lab:
        page = lab.open(browser, "notebooks/en/lesson.ipynb")
        lab.run_all(page)
        page.wait_for_selector(".rx-chip small:not(:empty)")
        page.locator(".rx-chip").nth(2).click()
        assert page.locator(".rx-chip[aria-pressed=true]").get_attribute("data-token") == "2"
        assert lab.complaints(page) == []
        screenshot(page, "console-and-kernel-apart")
        lab.close(page)
    assert not (Path(ROOT) / "course.toml").exists()
