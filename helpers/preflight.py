"""The pre-flight check: whether the course can run on this computer, with the remedy for what is missing.

`python -m helpers.machine` prints one line a finding, ok / warning / problem; `--json` prints the same for programs;
the exit status is 0 when the course can run.
"""

import argparse
import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers import GIB, CourseError, models
from helpers.language import say
from helpers.machine import Gpu, GpuUse, Machine, gpu_use, gpu_users, look, read_text
from helpers.ports import HOST, check_port
from helpers.sets import (
    PYTHONS,
    SETS,
    DependencySet,
    choose_set,
    driver_doubt,
    installed,
    installed_set,
    memory_of_first_card,
    old_card,
    refuse_unsupported,
    too_old,
    visible_cards,
)

PORT = 8000  # of `vllm serve`, unless told otherwise
# The widgets' front-ends, and the beginning of the versions that speak to the kernel's ipywidgets 8 and anywidget 0.11:
# ipywidgets 7 had 1.x to 3.x, and anywidget asks for its own major and minor version.
FRONT_ENDS = {"@jupyter-widgets/jupyterlab-manager": "5", "anywidget": "0.11"}
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
    if machine.memory is None:
        zh = "读不出内存大小：启动 vLLM 至少要 3 GiB，请自己看一下。"
        en = "vLLM needs 3 GiB at least: look for yourself."
        return Check("warning", "内存", "Memory", say("读不出", "cannot be read", " "), zh, en)
    fact = f"{machine.memory / GIB:.1f} GiB"
    if machine.memory >= 3 * GIB:
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
    if not machine.gpus:
        return [_check_no_gpu(machine, have)]
    use = gpu_use()
    no_other = bool(have and have.driver) and all(map(too_old, visible_cards(machine)))
    lines = [_check_card(gpu, use, "problem" if no_other else "warning") for gpu in machine.gpus]
    lines += _check_visible(machine, have)
    lines.append(_check_gpu_memory(use, root))
    if have and (found := driver_doubt(machine, have)):
        lines.append(Check(found[0], "驱动", "Driver", machine.gpus[0].driver, *found[1:]))
    return lines


def _check_visible(machine: Machine, have: DependencySet | None) -> list[Check]:
    """A line where CUDA programs may see other cards than those that nvidia-smi lists, or in another order."""
    names, listed = ("可见的卡", "Visible cards"), os.environ.get("CUDA_VISIBLE_DEVICES")
    fact = "CUDA_VISIBLE_DEVICES" + (f"={listed}" if listed is not None else say(" 没有设", " not set", ","))
    if machine.visible == []:
        zh = "它让 CUDA 程序看不到任何一张卡：要用 GPU，就 unset CUDA_VISIBLE_DEVICES。"
        en = "It hides every card from CUDA programs: unset CUDA_VISIBLE_DEVICES to use the GPU."
        return [Check("problem" if have and have.driver else "warning", *names, fact, zh, en)]
    if machine.visible is None and len(machine.gpus) > 1:
        zh = "这里的卡不一样，CUDA 先数哪一张说不准：export CUDA_DEVICE_ORDER=PCI_BUS_ID，顺序就和 nvidia-smi 一致。"
        en = "The cards differ, and which CUDA counts first is not certain: for nvidia-smi's order, "
        return [Check("warning", *names, fact, zh, en + "export CUDA_DEVICE_ORDER=PCI_BUS_ID.")]
    return []


def _check_card(gpu: Gpu, use: GpuUse, level: str) -> Check:
    """level: of a card that is too old."""
    unread = say("读不出", "cannot be read", " ")
    memory = unread if gpu.memory is None else f"{gpu.memory / 1024:.0f} GiB"
    if gpu.memory is None and use.slices:
        memory = "MIG " + " + ".join("?" if size is None else f"{size / 1024:.0f}" for size in use.slices) + " GiB"
    capability = ".".join(map(str, gpu.compute_cap)) if gpu.compute_cap else unread
    facts = [gpu.name, memory, f"{say('驱动', 'driver', ' ')} {gpu.driver}"]
    facts.append(f"{say('计算能力', 'compute capability', ' ')} {capability}")
    if use.cuda:
        facts.append(f"CUDA <= {use.cuda}")
    fact = ", ".join(facts)
    if too_old(gpu):
        return Check(level, "GPU", "GPU", fact, *old_card(gpu))
    if not re.match(r"[0-9]{3,4}\.", gpu.driver):
        zh = "nvidia-smi 读不出驱动版本：装依赖时要写明 SET=gpu（驱动 580 及以上）、SET=cu12（570 到 579）或 SET=cpu。"
        en = (
            "nvidia-smi does not tell the driver: name SET=gpu (driver 580 or newer), SET=cu12 (570 to 579) or SET=cpu."
        )
        return Check("warning", "GPU", "GPU", fact, zh, en)
    if gpu.memory is None and (not use.slices or None in use.slices):
        zh = "nvidia-smi 读不出显存（GB10 这类与 CPU 共用内存的机器就是这样）：放不放得下，以 vLLM 启动时报的为准。"
        en = "nvidia-smi does not tell the memory (as where CPU and GPU share it, on a GB10): what fits, vLLM will say."
        return Check("warning", "GPU", "GPU", fact, zh, en)
    if gpu.compute_cap is None:
        zh = "nvidia-smi 太旧或读不出计算能力：请自己查一下，低于 7.5 的卡（V100、P40、GTX 10 系）用 make env SET=cpu。"
        en = "nvidia-smi does not tell the compute capability: look it up; below 7.5 (V100, P40, GTX 10) use SET=cpu."
        return Check("warning", "GPU", "GPU", fact, zh, en)
    return Check("ok", "GPU", "GPU", fact)


def _check_no_gpu(machine: Machine, have: DependencySet | None) -> Check:
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
    return Check(level, "GPU", "GPU", say(*facts[machine.nvidia_smi], " "), zh, en)


def _check_gpu_memory(use: GpuUse, root: Path) -> Check:
    """How much of the visible cards is taken, and by whom; of all cards where it is not certain which are visible."""
    names, cards = ("显存占用", "GPU memory in use"), use.visible
    users = gpu_users(use, root, cards)
    amounts = [use.memory[card][0] for card in (range(len(use.memory)) if cards is None else cards)]
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts) or not use.memory:
        zh = "nvidia-smi 读不出显存占用，别的程序占着多少无从知道：在终端里运行 nvidia-smi 看一看。"
        en = "nvidia-smi does not tell how much memory is taken: run nvidia-smi in a terminal and look who is there."
        fact = ", ".join([say("读不出", "cannot be read", " "), *map(str, users)])
        return Check("warning", *names, fact, zh, en)
    used = sum(known)
    fact = ", ".join([f"{used} MiB", *map(str, users)])
    if not users and used < 1024:
        return Check("ok", *names, fact)
    zh = "别的程序占着显存：在 JupyterLab 的「运行中」面板关闭那个笔记本的内核，或结束那个进程。"
    en = "Others hold GPU memory: shut that notebook's kernel down in JupyterLab's Running panel, or end the process."
    return Check("warning", *names, fact, zh, en)


def _room(machine: Machine) -> int | None:
    """Bytes for weights here: the largest card that may be the first, without one the memory; None where unknown."""
    sizes = memory_of_first_card(machine)
    if sizes is None:
        return None
    return max(sizes) * 2**20 if sizes else machine.memory


def _check_model(machine: Machine) -> Check:
    names = ("课程模型", "Course model")
    try:
        choice = models.chosen(models.MODEL_VARIABLE)
    except CourseError as error:
        return Check("problem", *names, say("无", "none", " "), error.zh, error.en)
    weights, room = choice.checkpoint.stored_bytes, _room(machine)
    fact = f"{choice.folder.name}, {weights / 1e6:,.0f} MB"
    if room is None:
        zh = "这里的显存（没有 GPU 则是内存）读不出，放不放得下无从判断：以 vLLM 启动时报的为准。"
        en = "Whether it fits cannot be told: the GPU's memory (without a GPU, memory) cannot be read. vLLM will say."
        return Check("warning", *names, fact, zh, en)
    if weights <= 0.9 * room:
        return Check("ok", *names, fact)
    zh = "权重就比这里的显存（没有 GPU 则是内存）大：请换小一些或量化的模型（python -m helpers.models use ...）。"
    en = "Its weights alone exceed the GPU memory (or, without a GPU, memory): choose a smaller or quantised model "
    return Check("warning", *names, fact, zh, en + "(python -m helpers.models use ...).")


def _check_port(port: int = PORT) -> Check:
    names = ("端口", "Port")
    try:
        check_port(HOST, port)
    except CourseError:
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
        found = {name: _front_end_version(name, places) for name in FRONT_ENDS}
        missing = [name for name, version in found.items() if version is None]
        other = [f"{name} {version}" for name, version in found.items() if version and not speaks(name, version)]
        zh, en = "", ""
        if missing:
            zh = "这个 JupyterLab 的环境里没有控件前端，交互图不会显示：运行 make kernel，再刷新页面。"
            en = "This JupyterLab's environment lacks the widget front-ends: run make kernel and reload the page."
            fact = f"{say('缺', 'lacks', ' ')} {', '.join(missing + other)}"
        elif other:
            zh = "这个 JupyterLab 的控件前端与课程的内核版本不配，交互图不会显示：运行 make kernel，再刷新页面。"
            en = "These widget front-ends do not speak to the course's kernel: run make kernel and reload the page."
            fact = f"{say('版本不配', 'another version', ' ')} {', '.join(other)}"
        else:
            fact = say("控件齐全", "widgets present", " ")
        lines.append(Check("warning" if zh else "ok", *names, f"{folder.name}, {fact}", zh, en))
    return lines


def _front_end_version(name: str, places: list[Path]) -> str | None:
    """Version of a front-end in the first of Jupyter's data folders that has it, None where JupyterLab finds none."""
    for place in places:
        try:
            described = json.loads(read_text(place / "labextensions" / name / "package.json"))
        except ValueError:  # not there; without this file JupyterLab takes no folder for an extension
            continue
        version = described.get("version") if isinstance(described, dict) else None
        return version if isinstance(version, str) and version else "?"
    return None


def speaks(name: str, version: str) -> bool:
    """Whether this version of a front-end understands the widgets of the course's kernel."""
    return f"{version}.".startswith(f"{FRONT_ENDS[name]}.")


def _check_network(machine: Machine) -> list[Check]:
    env = os.environ
    proxies = {name: env.get(name) or env.get(name.upper(), "") for name in ("http_proxy", "https_proxy")}
    addresses = {"pip": env.get("PIP_INDEX_URL") or _pip_index()}
    addresses |= {name: env.get(name, "") for name in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT")} | proxies
    # only the host: an address may hold a password
    fact = ", ".join(f"{name}: {host(address)}" for name, address in addresses.items() if address)
    lines = [Check("ok", "镜像和代理", "Mirrors, proxy", fact or say("无", "none", " "))]
    excepted = (env.get("no_proxy") or env.get("NO_PROXY", "")).split(",")
    if any(proxies.values()) and not {"127.0.0.1", "*"} & set(excepted):
        zh = "代理会截住发往本机服务的请求：export NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost"
        en = "The proxy catches requests to servers on this machine: set NO_PROXY and no_proxy to 127.0.0.1,localhost."
        lines.append(Check("warning", "代理", "Proxy", "NO_PROXY", zh, en))
    if any(proxies.values()) and machine.autodl:
        zh = "学术加速只通向 GitHub 和 HuggingFace：用 pip 或 ModelScope 之前先 unset http_proxy https_proxy。"
        en = "network_turbo leads to GitHub and HuggingFace only: unset http_proxy https_proxy for pip and ModelScope."
        lines.append(Check("warning", "学术加速", "network_turbo", "http_proxy", zh, en))
    return lines


def host(address: str) -> str:
    """The host that an address names, and nothing of what may be a user, a password or a token in it.

    With or without a scheme: what comes before the last @ is left out, and what follows the host.
    """
    rest = address.strip().rpartition("@")[2] if "@" in address else re.sub(r"^\s*[\w+.-]+://", "", address)
    found = re.match(r"\s*(\[[0-9a-fA-F:.]+\]|[\w.-]+)", rest)
    return found[1] if found else "?"


def _pip_index() -> str:
    """The package index in pip's configuration files: the environment's, the user's, the system's."""
    for folder in (sys.prefix, Path.home() / ".config/pip", Path.home() / ".pip", "/etc"):
        if found := re.search(r"^\s*index[-_]url\s*[=:]\s*(\S.*)", read_text(Path(folder, "pip.conf")), re.M):
            return found[1]
    return ""


def _check_set(machine: Machine, have: DependencySet | None) -> Check:
    names = ("依赖组合", "Dependency set")
    if have is None:
        zh = "这个 Python 里没有课程的环境：请运行 make env。"
        en = "This Python lacks the course's packages: run make env."
        return Check("problem", *names, say("无", "none", " "), zh, en)
    try:
        fits = choose_set(machine)
    except CourseError:  # the GPU lines say what is wrong with the driver
        return Check("ok", *names, have.lock)
    if not have.engine:
        zh = "没有 vLLM：第 05 到 09 课需要它，会用一句话说明；第 07、08 课可以设 OPENAI_BASE_URL 连别处的服务器。"
        en = "No vLLM: lessons 05 to 09 need it and say so; 07 and 08 can use a server that OPENAI_BASE_URL names."
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
        print(json.dumps(report, indent=2))
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
