"""What this computer is: processor, memory, disks, GPUs, and who uses them now.

`python -m helpers.machine` is the pre-flight check of helpers/preflight.py. Standard library only.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from helpers import CourseError, moved
from helpers.catalogue import GPU_SHARE

AUTODL_DATA_DISK = Path(os.environ.get("AUTODL_DATA_DISK") or "/root/autodl-tmp")


# What nvidia-smi prints in a field's place where it cannot tell, as for the memory of a GB10.
UNREAD = r"\[[^\],]*\]|N/A|ERR!|Unknown Error|Not Supported|Not Found"
# A row of its CSV output, known by its driver or, where that cannot be read, by its memory: a message has neither.
BY_DRIVER = re.compile(r"(.+?),([^,]*),\s*([0-9]{3,4}\.[0-9.]+)\s*(?:,([^,]*))?")
BY_MEMORY = re.compile(rf"(.+?),\s*([0-9]+|{UNREAD})\s*,([^,]*)(?:,([^,]*))?")
MEMORY_ROW = re.compile(rf"\s*([0-9]+|{UNREAD})\s*,\s*([0-9]+|{UNREAD})\s*")


@dataclass(frozen=True)
class Gpu:
    """name and driver as nvidia-smi gives them; memory in MiB and compute_cap, such as (8, 9), None where it gives none
    (memory: MIG, GB10; compute_cap: an nvidia-smi that is too old to know it)."""

    name: str
    memory: int | None
    driver: str
    compute_cap: tuple[int, int] | None = None


@dataclass(frozen=True)
class Machine:
    """Sizes in bytes; memory and avx2 are None where the system does not tell.

    nvidia_smi is "missing", "failed" (its exit status or its answer), "empty" (it ran and listed nothing) or "ok".
    """

    system: str
    arch: str
    python: tuple[int, ...]
    cpu: str
    cores: int
    avx2: bool | None
    memory: int | None
    disk: int
    data_disk: int | None
    nvidia_smi: str
    gpus: tuple[Gpu, ...]
    autodl: bool

    @property
    def driver(self) -> int | None:
        """Major version of the NVIDIA driver, None without a GPU and where nvidia-smi does not tell."""
        versions = [re.match(r"[0-9]{3,4}(?=\.)", gpu.driver) for gpu in self.gpus]
        return next((int(version[0]) for version in versions if version), None)

    @property
    def visible(self) -> list[int] | None:
        """Places in ``gpus`` that CUDA programs see, see :func:`visible_gpus`."""
        return visible_gpus([(gpu.name, gpu.memory) for gpu in self.gpus])


def _mib(text: str) -> int | None:
    """A number of MiB as nvidia-smi prints it, with or without the unit; None for anything else."""
    number = re.fullmatch(r"\s*([0-9]{1,9})(?: MiB)?\s*", text)
    return int(number[1]) if number else None


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """Lines `name, memory.total, driver_version[, compute_cap]` of nvidia-smi's CSV output; any other is skipped."""
    found = []
    for line in map(str.strip, text.splitlines()):
        row = BY_DRIVER.fullmatch(line) or BY_MEMORY.fullmatch(line)
        if row is None:
            continue
        capability = re.fullmatch(r"\s*([0-9]{1,2})\.([0-9])\s*", row[4] or "")
        version = (int(capability[1]), int(capability[2])) if capability else None
        found.append(Gpu(row[1].strip(), _mib(row[2]) or None, row[3].strip() or "?", version))
    return tuple(found)


def _nvidia_smi(*arguments: str) -> tuple[str, str]:
    """State as in :class:`Machine`, and what nvidia-smi printed; bytes that are no UTF-8 (process names) replaced."""
    try:
        asked = subprocess.run(["nvidia-smi", *arguments], capture_output=True, timeout=20)
    except FileNotFoundError:
        return "missing", ""
    except (OSError, subprocess.TimeoutExpired):
        return "failed", ""
    text = asked.stdout.decode("utf-8", errors="replace")
    return "failed" if asked.returncode else "ok" if text.strip() else "empty", text


def _query(fields: str) -> tuple[str, str]:
    return _nvidia_smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits")


def _ask_gpus() -> tuple[str, tuple[Gpu, ...]]:
    for fields in ("name,memory.total,driver_version,compute_cap", "name,memory.total,driver_version"):
        state, text = _query(fields)  # an older nvidia-smi does not know compute_cap, and refuses the whole question
        if (gpus := parse_gpus(text)) or state == "missing":
            return "ok" if gpus else state, gpus
    return "empty" if state == "ok" and "No devices" in text else "failed" if state == "ok" else state, ()


def visible_gpus(kinds: Sequence[Hashable], uuids: Sequence[str] = ()) -> list[int] | None:
    """The GPUs that CUDA programs see, in their order, numbered as nvidia-smi does; None where that is not certain.

    kinds: of each GPU, in nvidia-smi's order, what tells different cards apart. CUDA counts the fastest card first
    unless ``CUDA_DEVICE_ORDER`` is PCI_BUS_ID, nvidia-smi by the bus: with different cards a number may mean another
    card. ``CUDA_VISIBLE_DEVICES`` holds numbers or beginnings of UUIDs; CUDA stops at the first that it does not know.
    uuids: asked of nvidia-smi where they are needed and not given.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    in_order = len(set(kinds)) <= 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if listed is None:
        return list(range(len(kinds))) if in_order else None
    found: list[int] = []
    for entry in map(str.strip, listed.split(",")):
        if entry.startswith(("GPU-", "MIG-")):
            uuids = uuids if any(uuids) else _query("uuid")[1].split()
            if entry.startswith("MIG-") or not uuids:
                return None
            places = [place for place, uuid in enumerate(uuids) if uuid.startswith(entry)]
        else:
            places = [int(entry)] if re.fullmatch("[0-9]{1,4}", entry) else []
            if places and not in_order:
                return None
        if len(places) != 1 or places[0] >= len(kinds):
            break
        found += places
    return found


@dataclass(frozen=True)
class GpuUse:
    """What nvidia-smi says about CUDA and memory now.

    cuda: newest CUDA version that the driver supports. Of each GPU memory (used, total), names and uuids; slices: total
    of each MIG slice; pids: process, its memory, the number of its GPU. All memory in MiB, None where nvidia-smi gives
    none.
    """

    cuda: str | None = None
    memory: tuple[tuple[int | None, int | None], ...] = ()
    slices: tuple[int | None, ...] = ()
    pids: tuple[tuple[int, int | None, int], ...] = ()
    names: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()

    @property
    def visible(self) -> list[int] | None:
        """Places in ``memory`` that CUDA programs see, see :func:`visible_gpus`."""
        names = self.names or ("",) * len(self.memory)
        return visible_gpus([(name, total) for name, (_, total) in zip(names, self.memory, strict=True)], self.uuids)


def parse_gpu_use(text: str) -> GpuUse:
    """Reads the output of `nvidia-smi -q -x`; empty where that is no XML."""
    try:
        log = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return GpuUse()
    gpus = list(log.iter("gpu"))

    def size(node, name):
        return _mib(node.findtext(f"fb_memory_usage/{name}", ""))

    processes = [
        (int(pid), _mib(node.findtext("used_memory", "")), place)
        for place, gpu in enumerate(gpus)
        for node in gpu.iter("process_info")
        if re.fullmatch("[0-9]{1,9}", pid := node.findtext("pid", "").strip())
    ]
    cuda = re.fullmatch(r"\s*([0-9]+\.[0-9]+)\s*", log.findtext("cuda_version", ""))
    return GpuUse(
        cuda=cuda[1] if cuda else None,
        memory=tuple((size(gpu, "used"), size(gpu, "total") or None) for gpu in gpus),
        slices=tuple(size(piece, "total") or None for piece in log.iter("mig_device")),
        pids=tuple(processes),
        names=tuple(gpu.findtext("product_name", "") for gpu in gpus),
        uuids=tuple(gpu.findtext("uuid", "") for gpu in gpus),
    )


def gpu_use() -> GpuUse:
    """Asks nvidia-smi; where its XML cannot be read, for the memory alone. Empty where it is missing or fails."""
    state, text = _nvidia_smi("-q", "-x")
    use = parse_gpu_use(text)
    if use.memory or state == "missing":
        return use
    rows = filter(None, map(MEMORY_ROW.fullmatch, _query("memory.used,memory.total")[1].splitlines()))
    return replace(use, memory=tuple((_mib(row[1]), _mib(row[2]) or None) for row in rows))


def card_memory(use: GpuUse, cards: int = 1) -> int | None:
    """MiB of the smallest of the first ``cards`` GPUs that CUDA programs see, None where nobody can tell.

    In a container a MIG slice takes the card's place; several sizes, or slices beside whole cards, tell nothing.
    """
    if use.slices:
        return use.slices[0] if len(use.memory) == 1 and len(set(use.slices)) == 1 else None
    visible = use.visible
    if visible is None or len(visible) < cards:
        return None
    totals = [use.memory[number][1] for number in visible[:cards]]
    known = [total for total in totals if total is not None]
    return min(known) if known and len(known) == len(totals) else None


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


def gpu_users(use: GpuUse, root: Path = Path("/"), gpus: Sequence[int] | None = None) -> list[GpuUser]:
    """Who holds memory of these GPUs, numbered as nvidia-smi does (None: of any), this process left out.

    In a container nvidia-smi often lists no process; then those count that have a GPU's device file open. The notebook
    is the name that the Jupyter server gives each kernel in JPY_SESSION_NAME; whatever the kernel starts inherits it.
    """
    proc = root / "proc"
    users = []
    listed = [(pid, memory) for pid, memory, gpu in use.pids if gpus is None or gpu in gpus]
    for pid, memory in listed if use.pids else [(pid, None) for pid in _with_gpu_open(proc)]:
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
    visible GPUs. Silent without a GPU, where nvidia-smi does not tell (MIG slices, GB10, which of several different
    cards), and on a card that would be too small when empty.
    """
    use = gpu_use()
    visible = use.visible
    if use.slices or visible is None or device >= len(visible):
        return
    number = visible[device]
    used, total = use.memory[number]
    if used is None or total is None:
        return
    needed = share * total if size is None else size / 2**20
    if total - used >= needed or needed > total:
        return
    users = gpu_users(use, root, [number])
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


def _memory(root: Path) -> int | None:
    """Memory that this process may use, bytes: the machine's or, in a container, the control group's limit.

    None if unknown, as on Windows.
    """
    if sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    total = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo"), re.M)
    limits = [read_text(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    sizes = [int(limit) for limit in limits if re.fullmatch(r"[0-9]{1,18}\s*", limit)]  # "max", or 19 digits: none
    if total:
        sizes.append(int(total[1]) * 1024)
    return min(sizes, default=None)


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
        avx2="avx2" in flags[1].split() if flags else None,
        memory=_memory(root),
        disk=shutil.disk_usage(root).free,
        data_disk=shutil.disk_usage(data_disk).free if on_autodl else None,
        nvidia_smi=nvidia_smi,
        gpus=gpus,
        autodl=on_autodl,
    )


__getattr__ = moved.to("helpers.sets", "helpers.preflight")

if __name__ == "__main__":
    raise SystemExit(__getattr__("main")())  # of helpers/preflight.py
