"""What this computer is: processor, memory, disks, GPUs, and who uses them now.

`python -m helpers.machine` is the pre-flight check of helpers/preflight.py. Standard library only.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from helpers import CourseError, moved
from helpers.catalogue import GPU_SHARE

AUTODL_DATA_DISK = Path(os.environ.get("AUTODL_DATA_DISK") or "/root/autodl-tmp")


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
        variables = dict(line.partition("=")[::2] for line in read_text(proc / f"{pid}/environ").split("\0"))
        session = variables.get("JPY_SESSION_NAME")
        command = Path(read_text(proc / f"{pid}/cmdline").split("\0")[0]).name
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


def refuse_busy_gpu(share: float = GPU_SHARE, root: Path = Path("/"), size: int | None = None, device: int = 0) -> None:
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


def read_text(path: Path) -> str:
    """The file's text, empty where it cannot be read."""
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
    total = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo"), re.M)
    limits = [read_text(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    sizes = [int(limit) for limit in limits if limit.strip().isdigit()]
    if total:
        sizes.append(int(total[1]) * 1024)
    return min(sizes, default=0)


def look(root: Path = Path("/")) -> Machine:
    """Looks at this computer, in well under a second. `root` stands for `/` in tests."""
    cpuinfo = read_text(root / "proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)", cpuinfo, re.M)
    flags = re.search(r"^flags\s*:(.*)", cpuinfo, re.M)
    data_disk = root / AUTODL_DATA_DISK.relative_to("/")
    on_autodl = os.path.isdir(data_disk)  # pathlib raises where /root is closed to this user
    nvidia_smi, gpus = _ask_gpus()
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        python=tuple(sys.version_info[:3]),
        cpu=model[1] if model else platform.processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        avx2="avx2" in flags[1].split() if flags else False,
        memory=_memory(root),
        disk=shutil.disk_usage(root).free,
        data_disk=shutil.disk_usage(data_disk).free if on_autodl else None,
        nvidia_smi=nvidia_smi,
        gpus=gpus,
        autodl=on_autodl,
    )


__getattr__ = moved.to("helpers.sets", "helpers.preflight")

if __name__ == "__main__":
    from helpers.preflight import main

    raise SystemExit(main())
