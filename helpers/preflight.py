"""The pre-flight check: whether the course can run on this computer, with the remedy for what is missing.

`python -m helpers.machine` prints one line a finding, ok / warning / problem; `--json` prints the same for programs;
the exit status is 0 when the course can run.
"""

import argparse
import json
import os
import re
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from helpers import GIB, CourseError, models
from helpers.checkpoint import Checkpoint
from helpers.language import say
from helpers.machine import GpuUse, Machine, gpu_use, gpu_users, look, read_text
from helpers.sets import PYTHONS, SETS, DependencySet, choose_set, installed, installed_set, refuse_unsupported

PORT = 8000  # of `vllm serve`, unless told otherwise
FRONT_ENDS = ("@jupyter-widgets/jupyterlab-manager", "anywidget")
KEY_PACKAGES = ("torch", "transformers", "modelscope", "openai", "jupyterlab", "ipywidgets", "anywidget")


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
        if have and have.driver and (machine.driver or 0) < have.driver:
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
    weights = Checkpoint(choice.folder).stored_bytes
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
        words = read_text(process / "cmdline").split("\0")
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
        if found := re.search(r"^\s*index-url\s*=\s*(\S+)", read_text(path), re.M):
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
