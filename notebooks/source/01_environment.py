# %% [markdown] lang="zh" key="title"
# # 01 · 环境：这台机器能跑什么
#
# | | |
# |---|---|
# | 学完能做 | 读懂体检结果；说出该用哪一组依赖、为什么；切换课程使用的模型 |
# | 先修 | 会在终端里运行一条命令 |
# | 时间 | 15 分钟 |
# | 硬件 | 任何 Linux 机器，不需要 GPU |
# | 模型 | 课程自带的 `qwen3-tiny`；有 24 GB 显存时可换成 Qwen3-8B |

# %% [markdown] lang="en" key="title"
# # 01 · Environment: what this machine can run
#
# | | |
# |---|---|
# | You will be able to | read the pre-flight check; tell which dependency set to use and why; switch the course's model |
# | Before | you can run a command in a terminal |
# | Time | 15 minutes |
# | Hardware | any Linux machine, no GPU needed |
# | Model | the bundled `qwen3-tiny`; with 24 GB of GPU memory, Qwen3-8B |

# %% key="setup"
import importlib.metadata

from helpers import CourseError, machine, models

print(models.describe())

# %% [markdown] lang="zh" key="look-question"
# ## 先看看这台机器
#
# 先猜一猜：这里有 GPU 吗？有几个 CPU 核？内存多大？写下你的答案，再运行下一格。

# %% [markdown] lang="en" key="look-question"
# ## First, a look at this machine
#
# Guess before you run the next cell: is there a GPU here, how many CPU cores, how much memory?

# %% key="look"
computer = machine.look()
print("system:", computer.system, computer.arch)
print("CPU:", computer.cpu, f"({computer.cores} cores, AVX2: {computer.avx2})")
print(f"memory: {computer.memory / 2**30:.1f} GiB, free disk: {computer.disk / 2**30:.0f} GiB")
print("GPU:", computer.gpus or f"none (nvidia-smi: {computer.nvidia_smi})")

# %% [markdown] lang="zh" key="preflight-text"
# 体检把这些事实逐条变成 ok、warning 或 problem，有问题时给出办法。终端里的命令是 `python -m helpers.machine`，它不导入 torch，不到一秒就有结果。
#
# 先猜：下面会有几行不是 ok？

# %% [markdown] lang="en" key="preflight-text"
# The pre-flight check turns each fact into ok, warning or problem, with the remedy. In a terminal it is `python -m helpers.machine`; it does not import torch and takes less than a second.
#
# Guess: how many lines below will not be ok?

# %% key="preflight"
checks = machine.preflight(computer)
for check in checks:
    print(f"{check.level:<8} {check.name}: {check.fact}")
    if check.level != "ok":
        print(f"{'':8} {check.zh}\n{'':8} {check.en}")
assert all(check.level != "problem" for check in checks), "see the problem lines"

# %% [markdown] lang="zh" key="set-text"
# ## 为什么有三组依赖
#
# vLLM 的安装包是针对某个 CUDA 版本编译的，而 CUDA 版本由主机的 NVIDIA 驱动决定，在租来的容器里改不了。所以课程按驱动选择依赖，下一格问出这台机器该用哪一组。

# %% [markdown] lang="en" key="set-text"
# ## Why there are three dependency sets
#
# A build of vLLM is made for one CUDA version, and the host's NVIDIA driver decides which CUDA versions run; inside a rented container you cannot change it. So the course chooses by driver. The next cell asks which set fits here.

# %% key="set"
for choice in machine.SETS.values():
    print(f"{choice.lock:<24} {choice.engine:<9} {'driver >= ' + str(choice.driver) if choice.driver else 'no GPU'}")
fitting, present = machine.choose_set(computer), machine.installed_set()
print("fits this machine:", fitting.lock, "| installed:", present.lock)

# %% [markdown] lang="zh" key="pin-text"
# 老教程常让你先装好 torch 2.5.1，再 `pip install vllm`。先猜：vLLM 会接受任意版本的 torch 吗？它自己的元数据里写着答案。

# %% [markdown] lang="en" key="pin-text"
# Older tutorials install torch 2.5.1 first and then run `pip install vllm`. Guess: does vLLM accept just any torch? Its own metadata answers.

# %% key="pin"
requirements = importlib.metadata.requires(present.engine)
wanted = [line.split(";")[0].strip() for line in requirements if line.startswith(("torch=", "torch ", "transformers"))]
print(present.engine, importlib.metadata.version(present.engine), "requires", wanted)
assert any(line.startswith("torch==") for line in wanted)

# %% [markdown] lang="zh" key="pin-check-text"
# 它要求的是一个确定的版本，所以先装的 torch 会被换掉，和你的 CUDA 是否相配就全凭运气。课程的做法：每组依赖都是完整的清单，全部版本写死，装在自己的环境里。下一格逐个核对。

# %% [markdown] lang="en" key="pin-check-text"
# It asks for one exact version, so the torch installed first gets replaced, and whether the new one suits your CUDA is luck. The course's way: each set is a complete list with every version fixed, in an environment of its own. The next cell compares them one by one.

# %% key="pin-check"
pins = present.pins()
differ = {name: machine.installed(name) for name, pin in pins.items() if machine.installed(name) not in (pin, None)}
print(f"{len(pins)} packages are pinned; installed in another version: {differ or 'none'}")

# %% [markdown] lang="zh" key="disk-text"
# ## 空间去哪了
#
# 先猜：环境里哪个包最占硬盘？

# %% [markdown] lang="en" key="disk-text"
# ## Where the space goes
#
# Guess: which package takes the most disk space?

# %% key="disk"
import matplotlib.pyplot as plt


def megabytes(distribution):
    paths = (distribution.locate_file(file) for file in distribution.files or [])
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


sizes = {found.name: megabytes(found) for found in importlib.metadata.distributions()}
largest = sorted(sizes, key=sizes.get)[-10:]
figure, axes = plt.subplots(figsize=(7, 3))
bars = axes.barh(largest, [sizes[name] for name in largest], color="#4269d0")
axes.bar_label(bars, fmt="%.0f", padding=3)
axes.set_xlabel(f"MB on disk (all {len(sizes)} packages: {sum(sizes.values()) / 1000:.1f} GB)")
axes.margins(x=0.12)
axes.spines[["top", "right"]].set_visible(False)

# %% [markdown] lang="zh" key="disk-read"
# 每一条是一个包在硬盘上的大小，最长的最占地方。租来的机器系统盘往往只有 30 GB，AutoDL 上课程因此把环境放在数据盘 `/root/autodl-tmp`。

# %% [markdown] lang="en" key="disk-read"
# Each bar is one package's size on disk; the longest takes the most. A rented machine's system disk often has only 30 GB, which is why on AutoDL the course puts its environment on the data disk, `/root/autodl-tmp`.

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
config = models.read_config(folder)
for key in ("architectures", "num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim", "vocab_size"):
    print(f"{key:<20} {config[key]}")
assert config["architectures"][0].startswith("Qwen3")

# %% [markdown] lang="zh" key="switch-text"
# 换模型只改一个设置，代码一格都不用动：在终端里运行 `COURSE_MODEL=Qwen/Qwen3-8B make run`，或者用 `python -m helpers.models use Qwen/Qwen3-8B` 把选择存进 `course.toml`，已经打开的 JupyterLab 也会用上。写错了会怎样？先猜，再运行。

# %% [markdown] lang="en" key="switch-text"
# Switching takes one setting and no change in any cell: run `COURSE_MODEL=Qwen/Qwen3-8B make run` in a terminal, or store the choice in `course.toml` with `python -m helpers.models use Qwen/Qwen3-8B`, which also reaches a JupyterLab that is already open. What happens when it is wrong? Guess, then run.

# %% key="switch"
for value in ("Qwen/Qwen3-800B", "no-such-model"):
    try:
        models.find_checkpoint(value)
    except CourseError as error:
        print(error, end="\n\n")

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 驱动决定 CUDA，CUDA 决定 vLLM 的版本：先看驱动，再装包。
# - 版本写死、装在独立的环境里，vLLM 就不会在你背后换掉 torch。
# - `COURSE_MODEL` 一个设置就能换模型，默认的小模型在 CPU 上就能运行。
#
# 本课的输出来自没有 GPU 的机器；GPU 上的结果没有在这里运行过。下一步：[05 · 离线推理](../zh/05_offline_generation.ipynb)。

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - The driver decides the CUDA version and that decides the vLLM version: look at the driver first, then install.
# - With fixed versions in an environment of its own, vLLM cannot replace torch behind your back.
# - One setting, `COURSE_MODEL`, switches the model; the bundled one runs on a CPU.
#
# The outputs of this lesson come from a machine without a GPU; nothing here was run on one. Next: [05 · Offline generation](../en/05_offline_generation.ipynb).
