# %% [markdown] lang="zh" key="title"
# # 02 · 下载模型：真的在硬盘上，而且是完整的
#
# | | |
# |---|---|
# | 学完能做 | 用 ModelScope 的客户端下载模型，中断后接着下；说出文件落在哪里；用几个字节读出权重文件里有多少参数；分清“下载过”和“完整”；选定后面各课用的模型 |
# | 先修 | 第 01 课；会读 Python |
# | 时间 | 主线 45 分钟；标着“选读”的部分再加 35 分钟，跳过不影响后面 |
# | 硬件 | 任何 Linux 机器，2 GB 内存就够（AutoDL 的无卡模式也可以）；不需要网络 |
# | 模型 | 演练用课程自带的 `qwen3-tiny`；最后可以换成 Qwen3-8B（下载 16.4 GB，运行要 24 GB 显存） |

# %% [markdown] lang="en" key="title"
# # 02 · Downloading a model: really there, and complete
#
# | | |
# |---|---|
# | You will be able to | download a model with ModelScope's client and go on after an interruption; say where files land; read from a few bytes how many parameters a weight file holds; tell "was downloaded" from "is complete"; choose the model of the later lessons |
# | Prerequisites | lesson 01; you read Python |
# | Time | 45 minutes for the main path; 35 more for what is marked "extra" and can be skipped |
# | Hardware | any Linux machine, 2 GB of memory are enough (AutoDL's no-GPU mode too); no network needed |
# | Model | the rehearsal uses the bundled `qwen3-tiny`; in the end you may switch to Qwen3-8B (16.4 GB to download, 24 GB of GPU memory to run) |

# %% key="setup"
from pathlib import Path

from modelscope_hub.compat import snapshot_download

from helpers import CourseError, catalogue, download, hub, models, say
from helpers.lessons import l02

try:
    print(models.describe())
except CourseError as missing:
    # zh: 选了，但还没有下载：这一课就来下载它
    # en: chosen, but not on the disk yet: this lesson is the place for that
    print(missing)

# %% [markdown] lang="zh" key="rehearsal" facts="1.40.2"
# 后面想用真正的 Qwen3，现在就让它在后台下载：另开一个终端，在课程文件夹里运行 `.venv/bin/python -m helpers.download Qwen/Qwen3-8B`，再回到这里继续。该选哪个模型，第 01 课会算；没有 GPU 就不用下。
#
# 下载 16 GB，半路上什么都可能发生：断网，关错窗口，硬盘写满，某个字节写错。等真的发生了再学，代价太大，所以这一课先**演练**（rehearsal）。
#
# 存放模型的网站叫 hub，ModelScope 就是一个；替你从那里下载的程序叫**客户端**（client）。演练用的客户端是真的 `modelscope` 1.40.2，连的却是本机上的一个小 hub，里面是课程自带的小模型。凡是来自它的输出，第一行都写着“本地演练用的 hub”。它没有网络的延迟，所以这里的快慢和真正的 ModelScope 无关。
#
# 大家熟悉的写法是 `from modelscope import snapshot_download`，它最后调用的就是上面导入的这个函数。直接导入它，就不用加载 torch，2 GB 内存的无卡模式里也能用。
#
# ## 下载
#
# 下一格下载小模型，再列出客户端发出的请求。文件放进**缓存**（cache），也就是客户端存放模型的文件夹；这里是一个临时的。`GET` 的意思是向服务器要一个文件。

# %% [markdown] lang="en" key="rehearsal" facts="1.40.2"
# If you want a real Qwen3 later, let it download in the background now: in another terminal, in the course's folder, run `.venv/bin/python -m helpers.download Qwen/Qwen3-8B`, then come back here. Lesson 01 works out which model to take; without a GPU you need none.
#
# In 16 GB of download anything can happen: the network drops, the wrong window is closed, the disk fills up, a byte is written wrong. Learning it when it happens is expensive, so this lesson is a **rehearsal**.
#
# A site that keeps models is called a hub; ModelScope is one. The program that downloads from it for you is its **client**. The client here is the real `modelscope` 1.40.2, but it talks to a small hub on this machine, which holds the course's tiny model. Every output that comes from it starts with "local rehearsal hub". No network slows it down, so speeds here say nothing about the real ModelScope.
#
# `from modelscope import snapshot_download` is what everyone writes; it ends in the very function imported above. Importing that one directly leaves torch unloaded, so it works in no-GPU mode with 2 GB of memory.
#
# ## Download
#
# The next cell downloads the tiny model, then lists the requests that the client sent. The files go to the **cache**, the folder where the client keeps models; here it is a temporary one. `GET` asks a server for a file.

# %% key="download"
import tempfile

scratch = tempfile.TemporaryDirectory(prefix="lesson-02-")
cache = Path(scratch.name, "cache")
with hub.Hub(cache=cache) as rehearsal:
    folder = Path(snapshot_download("course/qwen3-tiny", cache_dir=str(cache)))
for request in sorted(rehearsal.requests):
    size = (folder / request.path).stat().st_size
    print(f"GET {request.path:<24} {request.status}  {size:>9,} bytes")
assert len(rehearsal.requests) == len(list(folder.iterdir()))

# %% [markdown] lang="zh" key="again-text"
# 读输出：一行是一个请求，一个文件一个请求。200 是服务器的答复，意思是整个文件都发来了。权重 `model.safetensors` 比其余的加起来还大得多。
#
# 同样的命令再运行一次。
#
# **先选一个。** 客户端会重新要几个文件？它手里有每个文件的指纹。
#
# - A. 全部
# - B. 只有权重
# - C. 一个也不要

# %% [markdown] lang="en" key="again-text"
# How to read it: a line is a request, one for each file. 200 is the server's answer and means that the whole file came. The weights, `model.safetensors`, are far larger than the rest together.
#
# The same command once more.
#
# **Choose first.** How many files does the client ask for again? It has a fingerprint of each.
#
# - A. All
# - B. The weights only
# - C. None

# %% key="again"
with hub.Hub(cache=cache) as rehearsal:
    again = Path(snapshot_download("course/qwen3-tiny", cache_dir=str(cache)))
print("requests:", len(rehearsal.requests), "| same folder:", again == folder)
assert not rehearsal.requests

# %% [markdown] lang="zh" key="where-text" facts="250"
# <details><summary>读结果</summary>
#
# C。客户端只要了一次文件清单（`requests` 里不算它）。清单里有每个文件的 SHA256，也就是由全部内容算出的指纹，差一个比特就完全不同。客户端算出本地文件的指纹，一比就知道没有变。16 GB 的模型，硬盘每秒读 250 MB 的话，这一步要一分钟左右，不是卡住了。
#
# </details>
#
# ## 文件落在哪里
#
# 许多教程先写 `snapshot_download('Qwen/Qwen3-8B', cache_dir='/root/autodl-tmp')`，再写 `model='/root/autodl-tmp/Qwen/Qwen3-8B'`。下一格看看，用 1.40.2 下载之后，这样的路径在不在。

# %% [markdown] lang="en" key="where-text" facts="250"
# <details><summary>Reading</summary>
#
# C. The client asked once for the list of files, which `requests` does not count. The list has the SHA256 of each, a fingerprint of its whole content, quite another one after a change of one bit. The client computes it for the local files and sees that nothing changed. For a model of 16 GB, from a disk that reads 250 MB a second, that takes about a minute and is not a hang.
#
# </details>
#
# ## Where the files land
#
# Many tutorials write `snapshot_download('Qwen/Qwen3-8B', cache_dir='/root/autodl-tmp')` and then `model='/root/autodl-tmp/Qwen/Qwen3-8B'`. The next cell looks whether such a path is there after a download with 1.40.2.

# %% key="where"
print(hub.HEADING)
print("cache/course/qwen3-tiny exists:", (cache / "course/qwen3-tiny").exists())
print("returned:", Path("cache", folder.relative_to(cache)))
assert folder == cache / "models/course--qwen3-tiny/snapshots/master"

# %% [markdown] lang="zh" key="where-read" facts="1.37 1.38 1.37.1"
# 不在。缓存里怎样放，要看客户端的版本（两种都用真的客户端试过，1.37.1 和 1.40.2）：
#
# - 到 1.37 为止：`owner/name`，也就是所有者和名称。名称里的点还会变成三个下划线，`Qwen3-0___6B`。
# - 从 1.38 起：`models/owner--name/snapshots/revision`。
#
# 所以写死的路径，换个客户端就找不到了。vLLM 这时会把那串文字当成 HuggingFace（另一个存放模型的网站）上的 id，报一个毫不相干的错。两种办法都可靠：
#
# - 用**返回值**：`folder = snapshot_download(...)`，以后只用 `folder`。
# - 用 **`local_dir`**：`snapshot_download('Qwen/Qwen3-8B', local_dir='/root/autodl-tmp/Qwen3-8B')`，文件就在你写的那个文件夹里，不多一层。
#
# 命令行也一样（先 `source .venv/bin/activate`，见[搭环境](../../docs/setup.zh.md)）：`modelscope download --model Qwen/Qwen3-8B --local_dir /root/autodl-tmp/Qwen3-8B`。下载时间长，在终端的 `tmux` 里运行更稳，关掉浏览器也不会断。**选读**，下一格运行它。

# %% [markdown] lang="en" key="where-read" facts="1.37 1.38 1.37.1"
# It is not. The layout of the cache depends on the client's version (both were tried with the real clients, 1.37.1 and 1.40.2):
#
# - up to 1.37: `owner/name`; dots in the name even became three underscores, `Qwen3-0___6B`.
# - from 1.38 on: `models/owner--name/snapshots/revision`.
#
# So a fixed path breaks with another client. vLLM then takes the text for an id on HuggingFace, another hub, and raises an error about something else. Two ways are reliable:
#
# - the **returned** path: `folder = snapshot_download(...)`, and from then on only `folder`;
# - **`local_dir`**: `snapshot_download('Qwen/Qwen3-8B', local_dir='/root/autodl-tmp/Qwen3-8B')` puts the files into exactly that folder.
#
# The command line is the same (after `source .venv/bin/activate`, see [Set up](../../docs/setup.md)): `modelscope download --model Qwen/Qwen3-8B --local_dir /root/autodl-tmp/Qwen3-8B`. A long download is safer in a terminal, inside `tmux`: closing the browser does not end it. **Extra**: the next cell runs it.

# %% key="cli" tags=["extra", "raw"]
import subprocess
import sys

client = Path(sys.executable).with_name("modelscope")
here = Path(scratch.name, "here")
with hub.Hub(cache=cache):
    command = [client, "download", "--model", "course/qwen3-tiny", "--local_dir", here]
    done = subprocess.run(command, capture_output=True, text=True)
print(done.stdout.replace(scratch.name, "...").strip())
assert len(list(here.iterdir())) == len(list(folder.iterdir()))

# %% [markdown] lang="zh" key="old-text"
# **选读。** 硬盘上已经有旧客户端下载的模型，不用重新下载。课程的 `download.download` 用的是同一个客户端，只多做几件事：先在硬盘上找一找，再查模型在不在、磁盘够不够，下载完检查一遍。下一格数一数它发了几个请求。

# %% [markdown] lang="en" key="old-text"
# **Extra.** A model that an older client downloaded need not come again. The course's `download.download` uses the same client and does a little more: it looks on the disk first, then asks whether the model exists and fits the disk, and checks the files in the end. The next cell counts its requests.

# %% key="old" tags=["extra"]
import shutil

old_cache = Path(scratch.name, "old")
# zh: 1.37 及更早的客户端留下的就是这个样子
# en: as a client up to 1.37 left it
shutil.copytree(folder, old_cache / "course/qwen3-tiny", dirs_exist_ok=True)
with hub.Hub(cache=old_cache) as rehearsal:
    found = download.download("course/qwen3-tiny")
print("found:", found.relative_to(scratch.name), "| requests:", len(rehearsal.requests))
assert found == old_cache / "course/qwen3-tiny" and not rehearsal.requests

# %% [markdown] lang="zh" key="files-text"
# 读输出：一个请求也没有，旧文件夹直接用。断网时也一样，只要文件是完整的。
#
# ## 每个文件是做什么的
#
# 下一格列出课程现在选用的模型。你已经换成真正的 Qwen3，看到的就是它。

# %% [markdown] lang="en" key="files-text"
# How to read it: no request at all, the old folder is used as it is. So it is without a network, as long as the files are complete.
#
# ## What each file is for
#
# The next cell lists the model that the course uses now; if you have switched to a real Qwen3, that is the one.

# %% key="files"
try:
    chosen = models.course_model()
except CourseError:
    # zh: 还没有下载
    # en: not downloaded yet
    chosen = models.find_checkpoint("qwen3-tiny")
for file in sorted(chosen.iterdir()):
    if file.is_file() and not file.name.startswith("."):
        print(f"{file.stat().st_size:>14,}  {file.name}")
weight_files = sorted(chosen.glob("*.safetensors"))

# %% [markdown] lang="zh" key="files-read" facts="399"
# | 文件 | 作用 | 缺了会怎样 |
# |---|---|---|
# | `config.json` | 结构：层数、宽度、头数、词表大小 | 谁也加载不了 |
# | `model.safetensors`，或 `model-00001-of-00005.safetensors` 等 | 权重；大模型分成几个文件，每个叫一个分片（shard） | 加载不了 |
# | `model.safetensors.index.json` | 哪个张量在哪一片；只有一片时没有它 | 分片的模型加载不了 |
# | `tokenizer.json` | 分词器（tokenizer）：文字和词元编号互相转换 | 文字进不去也出不来，除非有下面说的旧格式 |
# | `tokenizer_config.json` | 分词器的设置，较早的模型把对话模板也放在里面 | 特殊词元或模板不对 |
# | `chat_template.jinja` | 对话模板（chat template），第 05 课细讲 | 能续写，不会对话 |
# | `generation_config.json` | 推荐的采样参数和结束词元 | 能用，但 vLLM 会改用自己的默认值 |
# | `README.md` 和图片 | 说明 | 不影响 |
#
# 真正的 Qwen3 另有 `vocab.json` 和 `merges.txt`，是分词器的旧格式。有 `tokenizer.json` 时用不到；没有时，transformers 能从它们建出分词器。
#
# ## 用几个字节读出参数量
#
# 权重存成 safetensors 文件（[格式](https://huggingface.co/docs/safetensors)）。一块权重是一个**张量**（tensor），也就是多维数组。文件从头到尾是三段：
#
# 1. 前 8 个字节是一个整数，说明第二段有多长。它是小端序，也就是低位字节在前。
# 2. 一段 JSON，写着每个张量的类型、形状和起止位置。
# 3. 全是数字，也就是权重本身。
#
# 所以不加载权重，也不用任何库，就能知道里面有什么。
#
# **先选一个。** Qwen3-8B 有 399 个张量，每个在 JSON 里占一百来个字节。它有 16 GB，数清参数要读多少？
#
# - A. 几百字节
# - B. 几万字节
# - C. 全部

# %% [markdown] lang="en" key="files-read" facts="399"
# | File | What it is for | Without it |
# |---|---|---|
# | `config.json` | the architecture: layers, widths, heads, vocabulary | nothing can load the model |
# | `model.safetensors`, or `model-00001-of-00005.safetensors` and so on | the weights; those of a large model come in several files, each called a shard | it does not load |
# | `model.safetensors.index.json` | which tensor is in which shard; absent where there is one file | a model in shards does not load |
# | `tokenizer.json` | the tokenizer: from text to token ids and back | text gets neither in nor out, unless the older format below is there |
# | `tokenizer_config.json` | settings of the tokenizer; in older models also the chat template | special tokens or the template go wrong |
# | `chat_template.jinja` | the chat template, see lesson 05 | it continues text but cannot chat |
# | `generation_config.json` | recommended sampling parameters and stop tokens | it works, with vLLM's own defaults |
# | `README.md` and pictures | the description | no effect |
#
# A real Qwen3 also has `vocab.json` and `merges.txt`, the tokenizer's older format. It is not needed beside `tokenizer.json`; without that file, transformers builds the tokenizer from them.
#
# ## Count the parameters from a few bytes
#
# Weights are stored in safetensors files ([format](https://huggingface.co/docs/safetensors)). One piece of them is a **tensor**, an array of numbers. A file has three parts, from start to end:
#
# 1. The first 8 bytes are an integer, the length of the second part. It is little-endian: the lowest byte comes first.
# 2. JSON, with type, shape and position of each tensor.
# 3. Numbers only, the weights themselves.
#
# So what is inside can be told without loading weights and without any library.
#
# **Choose first.** Qwen3-8B has 399 tensors, and each takes a hundred bytes or so of JSON. Of its 16 GB, how much has to be read to count the parameters?
#
# - A. Some hundred bytes
# - B. Some ten thousand bytes
# - C. Everything

# %% key="header" tags=["raw"]
import json

with open(weight_files[0], "rb") as file:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
print(f"bytes: {8 + length:,} / {weight_files[0].stat().st_size:,}")
print("entries:", len(header))
for name in (
    "__metadata__",
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_norm.weight",
):
    print(f"{name}: {header.get(name)}")

# %% [markdown] lang="zh" key="ex1-text" facts="46,000"
# <details><summary>读结果</summary>
#
# B。Qwen3-8B 的 399 个张量，名字和形状写成 JSON，约 46,000 个字节，不到 16 GB 的三十万分之一（分成几片时，每片各有一份）。小模型只用读几千个字节。
#
# </details>
#
# `shape` 里的数连乘，就是这个张量的参数个数。`data_offsets` 是起止位置，以字节计，从 JSON 结束处算起。`__metadata__` 是说明文字，不是张量。
#
# ### 练习 1 ★☆☆（6 分钟）：数参数
#
# 补全函数：`path` 是一个 safetensors 文件，返回全部张量的参数个数之和。
#
# <details><summary>提示</summary>
#
# 照上面那一格读出 `header`。跳过 `__metadata__`，对每个张量算 `math.prod(entry["shape"])`，再相加。形状为空的张量是一个数，`math.prod([])` 正好是 1。
#
# </details>

# %% [markdown] lang="en" key="ex1-text" facts="46,000"
# <details><summary>Reading</summary>
#
# B. Names and shapes of the 399 tensors of Qwen3-8B make about 46,000 bytes of JSON, less than a three hundred thousandth of its 16 GB (in several shards, each has its own). For the tiny model a few thousand bytes do.
#
# </details>
#
# The product of the numbers in `shape` is the number of parameters in that tensor. `data_offsets` are its start and end, in bytes from the end of the JSON. `__metadata__` is a description and no tensor.
#
# ### Exercise 1 ★☆☆ (6 minutes): count parameters
#
# Complete the function: `path` is a safetensors file; return the number of parameters in all its tensors.
#
# <details><summary>Hint</summary>
#
# Read `header` as the cell above does. Skip `__metadata__`, take `math.prod(entry["shape"])` of each tensor and add up. A tensor of empty shape is one number, and `math.prod([])` is 1.
#
# </details>


# %% key="ex1" tags=["exercise"]
def count_parameters(path):
    return ...


# %% key="ex1-solution" tags=["solution"]
def count_parameters(path):  # noqa: F811
    import json
    import math

    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            total += math.prod(entry["shape"])
    return total


# %% key="ex1-check"
l02.ex1.check(count_parameters)

# %% [markdown] lang="zh" key="config-text"
# **选读。** 参数量也能由 `config.json` 算出来，第 01 课的显存就是这样算的。下一格比一比两个结果。

# %% [markdown] lang="en" key="config-text"
# **Extra.** The parameters can also be computed from `config.json`, as lesson 01 did for the GPU memory. The next cell compares the two.

# %% key="config" tags=["extra"]
import math

from helpers.checkpoint import Checkpoint, read_header

counted = 0
for file in weight_files:
    # zh: 文件头里的张量，和它们之后的位置
    # en: the tensors in the header, and where it ends
    tensors, end = read_header(file)
    for entry in tensors.values():
        counted += math.prod(entry["shape"])
computed = catalogue.parameters(Checkpoint(chosen).config)
print(f"counted: {counted:,} | computed: {computed:,}")
if models.is_bundled(chosen):
    assert counted == computed

# %% [markdown] lang="zh" key="config-read" facts="1.50 1.19"
# 小模型两者相等。真正的模型有两种例外：
#
# - Qwen3-0.6B 和 1.7B 的词嵌入与输出矩阵共用一份，文件里却存了两份。所以数出来的更多，下载也更大（0.6B：1.50 GB，而显存里只占 1.19 GB）。
# - 量化的模型多出缩放系数，4 位的权重还会几个挤在一个整数里。
#
# ## 演练：中断，再接着下（选读）
#
# 现在做一件平时没人敢试的事：下载到一半，把进程杀掉（`kill -9`）。这和断电一样，进程什么也来不及收拾。为了每次都停在同一处，下一格的 `PausingHub` 发完一半权重就停住，一直等到客户端断开。
#
# **先选一个。** 硬盘上会留下什么？想一想：下次怎么知道这个文件没写完？
#
# - A. 什么也没有
# - B. 半个 `model.safetensors`
# - C. 半个文件，用的是另一个名字

# %% [markdown] lang="en" key="config-read" facts="1.50 1.19"
# For the tiny model they are equal. Real models have two exceptions:
#
# - Qwen3-0.6B and 1.7B share one matrix as embedding and output but store it twice. So counting gives more, and the download is larger (0.6B: 1.50 GB, while GPU memory holds 1.19 GB).
# - Quantised models add scales, and 4-bit weights are packed several to an integer.
#
# ## Rehearsal: interrupt, then go on (extra)
#
# Now for what nobody dares to try: kill the process in the middle of a download (`kill -9`). As in a power cut, it has no time to tidy up. To stop at the same place every time, `PausingHub` in the next cell sends half of the weights, then waits until the client is gone.
#
# **Choose first.** What is left on the disk? Think: how could one know the next time that this file is not finished?
#
# - A. Nothing
# - B. Half a `model.safetensors`
# - C. Half a file, under another name

# %% key="kill" tags=["extra", "varies"]
import shutil
import subprocess
import sys

broken_cache = Path(scratch.name, "interrupted")
# zh: 删掉上次运行这一格留下的
# en: removes what an earlier run of this cell left
shutil.rmtree(broken_cache, ignore_errors=True)
broken = broken_cache / "models/course--qwen3-tiny/snapshots/master"
code = """
from modelscope_hub.compat import snapshot_download
snapshot_download('course/qwen3-tiny')
"""
with l02.PausingHub(cache=broken_cache):
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    l02.wait_for_half(process, broken)
    process.kill()
    process.wait()
for file in sorted(broken.iterdir()):
    print(f"{file.stat().st_size:>9,}  {file.name}")
assert not (broken / "model.safetensors").exists()

# %% [markdown] lang="zh" key="resume-text"
# <details><summary>读结果</summary>
#
# C。没写完的文件都叫 `.incomplete`，写完才改成真名，所以半个模型不会冒充整个。大小只是大约一半：客户端还留在内存里的那些丢了。在笔记本里按 ■ 键中断，留下的也是它。
#
# </details>
#
# 断网时常有人用 `local_files_only=True`：不联网，只用本地的文件。
#
# **先选一个。** 它会把这个半截的文件夹当成模型返回吗？不联网，就没有文件清单。
#
# - A. 会
# - B. 不会，它看得出来
#
# 下一格再让课程检查一遍，然后接着下载。

# %% [markdown] lang="en" key="resume-text"
# <details><summary>Reading</summary>
#
# C. Files that are not finished are called `.incomplete` and get their real name at the end, so half a model does not pass for a whole one. The size is only about half: what the client still held in memory is lost. The notebook's ■ button leaves the same behind.
#
# </details>
#
# Without a network, people often take `local_files_only=True`, which uses local files only.
#
# **Choose first.** Does it return this half folder as a model? Without a network there is no list of files.
#
# - A. Yes
# - B. No, it sees the difference
#
# The next cell also asks the course's check, then goes on with the download.

# %% key="resume" tags=["extra", "varies"]
from helpers.checkpoint import Checkpoint

have = (broken / "model.safetensors.incomplete").stat().st_size
with hub.Hub(cache=broken_cache) as rehearsal:
    accepted = snapshot_download(
        "course/qwen3-tiny", cache_dir=str(broken_cache), local_files_only=True
    )
    print("accepted == broken:", Path(accepted) == broken)
    print("broken:", Checkpoint(broken).broken)
    resumed = download.download("course/qwen3-tiny")
for request in rehearsal.requests:
    if request.path == "model.safetensors":
        print(f"GET {request.path}, {request.range}: {request.status}")
        assert request.range == f"bytes={have}-"
assert Checkpoint(resumed).broken == []

# %% [markdown] lang="zh" key="corrupt-text"
# <details><summary>读结果</summary>
#
# A。它只看文件夹是不是空的，所以收下了半个模型。课程的检查（`broken`）说出了缺哪几个文件。
#
# 接着下载时，`Range: bytes=N-` 请服务器从第 N 个字节发起；206 是说照办了。只有另一半要重新发。
#
# </details>
#
# ## 演练：损坏，再修好（选读）
#
# 先运行上面的“演练：中断，再接着下”。
#
# 还有一种更难发现：大小对，内容错，例如硬盘出错。下一格把权重文件的最后一个字节改掉一个比特。
#
# **先选一个。** 查哪一样看得出来？文件头在文件的最前面。
#
# - A. 文件的大小
# - B. 文件头
# - C. 都看不出来，要把全部内容读一遍

# %% [markdown] lang="en" key="corrupt-text"
# <details><summary>Reading</summary>
#
# A. It looks only whether the folder is empty, so it takes half a model. The course's check (`broken`) names the files that are missing.
#
# When the download goes on, `Range: bytes=N-` asks the server to start at byte N, and 206 says that it did. Only the other half comes again.
#
# </details>
#
# ## Rehearsal: damage, then repair (extra)
#
# Run "Rehearsal: interrupt, then go on" above first.
#
# One damage is harder to see: the right size with wrong content, from a disk error for example. The next cell changes one bit in the last byte of the weight file.
#
# **Choose first.** Which check sees it? The header stands at the very front of the file.
#
# - A. The size of the file
# - B. The header
# - C. Neither: all of it has to be read

# %% key="corrupt" tags=["extra"]
with open(resumed / "model.safetensors", "r+b") as file:
    # zh: 走到倒数第一个字节，读出来，翻转最低的一位，写回去
    # en: goes to the last byte, reads it, flips its lowest bit and writes it back
    file.seek(-1, 2)
    last = file.read(1)[0]
    file.seek(-1, 2)
    file.write(bytes([last ^ 1]))
with hub.Hub(cache=broken_cache) as rehearsal:
    print("broken:", Checkpoint(resumed).broken)
    try:
        download.verify(resumed)
    except CourseError as error:
        print(str(error).replace(scratch.name, "..."))
    repaired = download.download("course/qwen3-tiny")
    fetched = [request.path for request in rehearsal.requests]
    print("fetched:", fetched, "| verify:", download.verify(repaired))
assert fetched == ["model.safetensors"]

# %% [markdown] lang="zh" key="ex2-text"
# <details><summary>读结果</summary>
#
# C。大小和文件头都对（`broken` 是空的）。要把全部字节读一遍，和 hub 的 SHA256 比，才看得出来。`download.verify` 做的就是这件事；没有网络也行，因为下载时记下了 hub 的清单。
#
# 修复只重新取了坏的那一个文件，不用先删：客户端自己认出它坏了。只有 hub 没有给 SHA256 时，才要先删。
#
# </details>
#
# ## 断了，坏了，怎么办
#
# - **下载断了**：同一条命令再运行一次，不要先删文件夹。没写完的文件叫 `.incomplete`，写完才改成真名。客户端用 `Range` 请求只要剩下的那一段，服务器照办就答 206。
# - **没有网络**：别指望 `local_files_only=True`（只用本地的文件）。它只看文件夹是不是空的，半个模型也收下。
# - **内容坏了**：大小对、内容错，例如硬盘出错，要把全部内容读一遍，和 hub 的 SHA256 比，才看得出来。`download.verify(folder)` 做的就是这件事。
#
# 最常见的损坏是文件被截短，这用不着读完全部内容。
#
# ### 练习 2 ★★☆（8 分钟）：文件截短了吗
#
# 补全函数：`path` 是一个 safetensors 文件，只读它的文件头。文件的大小正好，返回 `True`；少了或多了，返回 `False`。还有两种情况也返回 `False`，不要报错：文件头本身被截断；根本不是 safetensors，例如存下来的是一个出错网页。
#
# <details><summary>提示</summary>
#
# - 正好的大小是 8 + JSON 的长度 + 最大的结束位置。JSON 里的先后，不一定就是文件里的先后。
# - 读不出 JSON 时，`json.loads` 抛出 `ValueError`。
# - 网页的前 8 个字节当成整数大得惊人：先和文件的大小 `path.stat().st_size` 比，再读。
#
# </details>

# %% [markdown] lang="en" key="ex2-text"
# <details><summary>Reading</summary>
#
# C. Size and header are right (`broken` is empty). Only reading every byte and comparing with the hub's SHA256 shows the damage. That is what `download.verify` does, also without a network, for the download noted the hub's list.
#
# The repair fetched the one bad file, and nothing had to be deleted first: the client saw the damage itself. It cannot where the hub gives no SHA256; there, delete the file.
#
# </details>
#
# ## Broken off or broken: what to do
#
# - **The download broke off**: run the same command again, and do not delete the folder first. Files that are not finished are called `.incomplete` and get their real name at the end. With a `Range` request the client asks only for what is left, and 206 says that the server did so.
# - **There is no network**: do not trust `local_files_only=True` (local files only). It looks only whether the folder is empty, and takes half a model.
# - **The content is broken**: the right size with wrong content, from a disk error for example, shows only when every byte is read and compared with the hub's SHA256. That is what `download.verify(folder)` does.
#
# The most frequent damage is a file cut short, and that shows without reading it all.
#
# ### Exercise 2 ★★☆ (8 minutes): was it cut short?
#
# Complete the function: `path` is a safetensors file, of which you read the header only. Return `True` if the file's size is exactly right, and `False` if bytes are missing or too many. In two more cases return `False` and raise nothing: the header itself is cut, or the file is no safetensors at all, for example an error page that was saved.
#
# <details><summary>Hint</summary>
#
# - The right size is 8 + the length of the JSON + the largest end position. The order in the JSON need not be the order in the file.
# - Where the JSON cannot be read, `json.loads` raises `ValueError`.
# - The first 8 bytes of a web page make a gigantic integer: compare it with the file's size, `path.stat().st_size`, before you read.
#
# </details>


# %% key="ex2" tags=["exercise"]
def is_whole(path):
    return ...


# %% key="ex2-solution" tags=["solution"]
def is_whole(path):  # noqa: F811
    import json
    from pathlib import Path

    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if 8 + length > size:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    header.pop("__metadata__", None)
    ends = [entry["data_offsets"][1] for entry in header.values()]
    return size == 8 + length + max(ends)


# %% key="ex2-check"
l02.ex2.check(is_whole)

# %% [markdown] lang="zh" key="ex3-text"
# ### 练习 3 ★★☆（8 分钟，选读）：缺了哪几片
#
# 分片的模型有一个 `model.safetensors.index.json`，里面的 `weight_map` 写着每个张量在哪个文件里。补全函数：`folder` 是模型的文件夹，返回缺少的权重文件名，排成一个有序的列表。没有这个索引时，应有的就是 `model.safetensors`。

# %% [markdown] lang="en" key="ex3-text"
# ### Exercise 3 ★★☆ (8 minutes, extra): which shards are missing?
#
# A model in shards has a `model.safetensors.index.json`, and its `weight_map` says in which file each tensor is. Complete the function: `folder` is the model's folder; return the names of the weight files that are missing, as a sorted list. Without that index, the file to expect is `model.safetensors`.


# %% key="ex3" tags=["exercise", "extra"]
def missing_shards(folder):
    return ...


# %% key="ex3-solution" tags=["solution"]
def missing_shards(folder):  # noqa: F811
    import json
    from pathlib import Path

    index = Path(folder, "model.safetensors.index.json")
    wanted = {"model.safetensors"}
    if index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        wanted = set(content["weight_map"].values())
    missing = [name for name in wanted if not Path(folder, name).is_file()]
    return sorted(missing)


# %% key="ex3-check" tags=["extra"]
l02.ex3.check(missing_shards)

# %% [markdown] lang="zh" key="vllm-text"
# ## 让 vLLM 自己下载？（选读）
#
# `LLM("Qwen/Qwen3-8B")` 遇到本地没有的 id，会自己去下载，默认从 HuggingFace。想让它从 ModelScope 下载，有的教程写 `os.environ['VLLM_USE_MODELSCOPE']='True'`，放在 `from vllm import LLM` **之后**。
#
# **先选一个。** 这样还来得及吗？Python 导入一个文件时，没有缩进的语句当场执行，只执行一次。
#
# - A. 来得及
# - B. 要看 vLLM 在哪里读这个变量
#
# 下一格在 vLLM 的源文件里找，哪些地方在导入时就读了它。

# %% [markdown] lang="en" key="vllm-text"
# ## Let vLLM download? (extra)
#
# Given an id that is not on the disk, `LLM("Qwen/Qwen3-8B")` downloads by itself, from HuggingFace by default. To take it from ModelScope, some tutorials write `os.environ['VLLM_USE_MODELSCOPE']='True'`, **after** `from vllm import LLM`.
#
# **Choose first.** Is that in time? When Python imports a file, statements without indentation run at once, and only once.
#
# - A. Yes
# - B. It depends on where vLLM reads the variable
#
# The next cell looks in vLLM's source for the places that read it while they are imported.

# %% key="vllm" tags=["extra", "raw"]
import importlib.util

# zh: 只是找到它，并不导入；没有装 vLLM 时是 None
# en: found, not imported; None where vLLM is not installed
vllm = importlib.util.find_spec("vllm")
files = []
if vllm:
    files = sorted(Path(vllm.origin).parent.glob("transformers_utils/*.py"))
for file in files:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        # zh: 没有缩进：导入时执行，只执行一次
        # en: no indentation: it runs at import, once
        if line.startswith("if envs.VLLM_USE_MODELSCOPE"):
            print(f"vllm/{file.parent.name}/{file.name}:{number}: {line}")

# %% [markdown] lang="zh" key="vllm-read"
# <details><summary>读结果</summary>
#
# B，而且来不及。这几行没有缩进，导入时就执行了，之后再设变量，它们看不到。要设就设在导入之前，最好在终端里 `export VLLM_USE_MODELSCOPE=True`。
#
# </details>
#
# 设了这个变量，vLLM 也不理会你先前的 `cache_dir`，会往默认的缓存里（系统盘）再下载一份。更简单的办法是先下载，再把**本地文件夹**交给 `LLM(...)` 或 `vllm serve`。这时这个变量不起作用。本课程一律这样做。
#
# ## 什么时候用 HuggingFace（选读）
#
# 同一个 Qwen3 两边都有，下载过一边就不必再下另一边。想确认两份权重相同，就比较两边页面上列出的 SHA256（本课没有比较过）。在中国大陆，ModelScope 通常更快，不用代理。下面几种情况用 HuggingFace 更合适：
#
# - 模型只在那里：许多社区的微调版和量化版没有搬到 ModelScope。
# - 你在海外，或机器上已经有它的缓存（`~/.cache/huggingface`）。
# - 模型要先同意许可：在它的网页上同意，再 `hf auth login`。
#
# 命令是 `hf download Qwen/Qwen3-8B --local-dir /root/autodl-tmp/Qwen3-8B`。在大陆可以只为这一条命令指定镜像：`HF_ENDPOINT=https://hf-mirror.com hf download ...`。下载完同样用 `Checkpoint(folder).broken` 检查，`COURSE_MODEL` 也可以指向这个文件夹。本课的演练没有连接过 HuggingFace。

# %% [markdown] lang="en" key="vllm-read"
# <details><summary>Reading</summary>
#
# B, and it is too late. These lines are not indented: they ran at import and do not see what is set later. Set it before the import, best in the terminal, `export VLLM_USE_MODELSCOPE=True`.
#
# </details>
#
# With that variable, vLLM ignores your earlier `cache_dir` and downloads once more into the default cache, on the system disk. Simpler: download first, then give the **local folder** to `LLM(...)` or `vllm serve`, where the variable has no effect. This course always does.
#
# ## When to use HuggingFace (extra)
#
# The same Qwen3 is on both sides, so one download is enough. To be sure that the weights are equal, compare the SHA256 that both list (this lesson has not). In mainland China ModelScope is usually faster and needs no proxy. HuggingFace is the better source
#
# - for models that are only there: many fine-tuned and quantised versions by the community were never moved to ModelScope;
# - outside China, or where its cache is on the machine already (`~/.cache/huggingface`);
# - for models behind a licence: accept it on the model's page, then `hf auth login`.
#
# The command is `hf download Qwen/Qwen3-8B --local-dir /root/autodl-tmp/Qwen3-8B`. In mainland China a mirror can be set for that one command: `HF_ENDPOINT=https://hf-mirror.com hf download ...`. Check it with `Checkpoint(folder).broken` as well; `COURSE_MODEL` may name that folder. The rehearsal of this lesson never connected to HuggingFace.

# %% [markdown] lang="zh" key="tidy-text"
# 演练结束，删掉它的临时文件夹。

# %% [markdown] lang="en" key="tidy-text"
# The rehearsal is over; its temporary folder is deleted.

# %% key="tidy" tags=["extra"]
scratch.cleanup()
print("scratch exists:", Path(scratch.name).exists())

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 用返回值或 `local_dir`，不写死路径：客户端一换版本，缓存里的位置就变了。
# - 中断和断网都不可怕：同一条命令再运行一次，从断处接着下。
# - 没下载完的文件叫 `.incomplete`；`local_files_only=True` 分不清半个和整个。
# - 大小和文件头查得出截短，查不出翻转的比特；后者要靠 SHA256。
# - safetensors 的头部是普通的 JSON，不加载权重就能数清参数。
#
# ## 自测
#
# 1. 下载中断后，为什么不该先删掉文件夹？
# 2. 服务器回答 200 而不是 206，接着下载会怎样？
# 3. `config.json` 和全部分片都在，模型就一定完好吗？
# 4. （选读）一个参数量 0.6B 的模型，bf16，为什么下载了 1.50 GB？
# 5. （选读）写了 `VLLM_USE_MODELSCOPE`，vLLM 却还在连 HuggingFace，可能是哪两个原因？
#
# <details><summary>答案</summary>
#
# 1. `.incomplete` 里是已经下载的部分，留着才能接着下。
# 2. 服务器不理会 Range，从头发了整个文件；客户端会从头写这一个文件，结果仍然正确。
# 3. 不一定：分片可能被截短，或内容有错。前者看文件头，后者看 SHA256。
# 4. 词嵌入和输出矩阵共用一份参数，文件里却存了两份。
# 5. 设得太晚（在导入之后）；或者设对了，模型也来自 ModelScope，但 vLLM 0.32 仍会向 HuggingFace 查一些元数据。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | `FileNotFoundError: .../Qwen/Qwen3-8B`，或 vLLM 说不是有效的仓库 id | 路径写死了，是旧客户端的 | 用返回值或 `local_dir` |
# | `[404] record not found` | id 或版本写错，大小写也算 | 到模型页复制 id |
# | `No space left on device` | 缓存默认在系统盘 | `export MODELSCOPE_CACHE=/root/autodl-tmp`，再运行一次 |
# | `Hash mismatch` | 收到的内容和清单不符，客户端已重试过几次 | 过一会儿再运行；有代理先关掉 |
# | 进度停在 0% 很久 | 在核对已有文件的 SHA256 | 等；用 `iostat` 看硬盘有没有在读 |
# | 下载完 vLLM 又下载一遍 | 传的是 id，不是文件夹 | 传 `folder` |
#
# ## 可以直接拿走的代码（选读）
#
# 下一格存成 `model_download.py`，在终端里运行 `COURSE_MODEL=Qwen/Qwen3-8B python model_download.py`（环境里要有 `modelscope`，没有就先 `pip install modelscope`）。它下载、检查，最后一行打印文件夹；在 AutoDL 上自动放进数据盘。它不依赖本课程，新旧客户端都能用，断了再运行一次就接着下。在笔记本里运行，或者被别的程序 `import` 时，它只定义函数，不会自己开始下载 16 GB。

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - Use the returned path or `local_dir`, never a fixed path: the place in the cache changes with the client.
# - Interruptions are harmless: run the same command again, and it goes on where it stopped.
# - Files that are not finished are called `.incomplete`; `local_files_only=True` cannot tell half from whole.
# - Size and header show a file cut short, not a flipped bit; that takes the SHA256.
# - The header of safetensors is plain JSON; parameters can be counted without loading weights.
#
# ## Test yourself
#
# 1. Why should you not delete the folder after an interrupted download?
# 2. The server answers 200 instead of 206. What happens to the download?
# 3. `config.json` and all shards are there. Is the model sound?
# 4. (Extra) A model of 0.6B parameters in bf16: why were 1.50 GB downloaded?
# 5. (Extra) `VLLM_USE_MODELSCOPE` is set and vLLM still connects to HuggingFace. Which two reasons are likely?
#
# <details><summary>Answers</summary>
#
# 1. `.incomplete` holds what has arrived, and going on needs it.
# 2. The server ignores Range and sends the whole file; the client writes this one file from the start, and the result is right all the same.
# 3. Not necessarily: a shard may be cut short or wrong inside. The header shows the first, the SHA256 the second.
# 4. Embedding and output matrix share their parameters, yet the file stores both.
# 5. It was set too late (after the import); or it is set right and the model comes from ModelScope, but vLLM 0.32 still asks HuggingFace for some metadata.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | `FileNotFoundError: .../Qwen/Qwen3-8B`, or vLLM says it is no valid repository id | a fixed path, that of an older client | the returned path, or `local_dir` |
# | `[404] record not found` | wrong id or revision; case matters | copy the id from the model's page |
# | `No space left on device` | the default cache is on the system disk | `export MODELSCOPE_CACHE=/root/autodl-tmp`, run again |
# | `Hash mismatch` | what arrived differs from the list, after several tries | run it again later; turn a proxy off first |
# | progress stays at 0% for long | SHA256 of the files that are there is being checked | wait; `iostat` shows whether the disk is read |
# | vLLM downloads once more | it was given an id, not a folder | pass `folder` |
#
# ## Code to take away (extra)
#
# Save the next cell as `model_download.py` and run `COURSE_MODEL=Qwen/Qwen3-8B python model_download.py` in a terminal (its environment needs `modelscope`; if it is missing, `pip install modelscope` first). It downloads, checks, and prints the folder in its last line; on AutoDL the files go to the data disk. It needs nothing of this course, works with old and new clients, and goes on after an interruption. In a notebook, or after an `import` in another program, it defines functions only and does not start on 16 GB by itself.

# %% key="copy-me" tags=["copy-me", "extra", "raw"]
import json
import os
from pathlib import Path

MODEL = os.environ.get("COURSE_MODEL", "Qwen/Qwen3-8B")
# zh: AutoDL 的数据盘：系统盘太小，放不下模型
# en: AutoDL's data disk: its system disk is too small for models
DATA_DISK = "/root/autodl-tmp"
CACHE = os.environ.get("MODELSCOPE_CACHE")
if not CACHE and os.path.isdir(DATA_DISK):
    CACHE = DATA_DISK
# zh: 文件缺了、坏了，或内容不是该有的样子
# en: a file is missing or damaged, or holds something else
UNREADABLE = (OSError, ValueError, LookupError, TypeError)
UNREADABLE += (AttributeError, RecursionError)


def fetch(model):
    """Folder of a complete copy; run it again after an interruption."""
    try:
        # zh: 1.38 起有它：不会加载 torch
        # en: from 1.38 on: does not load torch
        from modelscope_hub.compat import snapshot_download
    except ImportError:
        from modelscope import snapshot_download
    try:
        folder = Path(snapshot_download(model, cache_dir=CACHE))
    except Exception as error:
        # zh: 不同版本的客户端抛出的异常类型不同
        # en: the classes differ from client to client
        hint = "Check the id, the network and the disk, then run this again:"
        hint += " it goes on where it stopped."
        raise SystemExit(f"{model} was not downloaded: {error}\n{hint}") from None
    bad = incomplete(folder)
    if bad:
        raise SystemExit(f"{folder} is incomplete ({', '.join(bad)}): run this again.")
    return folder


def incomplete(folder):
    """Names of files that are missing or cut short."""
    bad = []
    for file in folder.rglob("*.incomplete"):
        part = file.relative_to(folder)
        # zh: 以点开头的文件夹是各种客户端自己的，里面剩下什么都不要紧
        # en: folders that begin with a dot are the clients' own; leftovers do no harm
        own = any(name.startswith(".") for name in part.parts)
        if not own and not file.with_suffix("").is_file():
            bad.append(str(part))
    if not (folder / "config.json").is_file():
        bad.append("config.json")
    tokenizers = [folder / "tokenizer.json", folder / "vocab.json"]
    if not any(file.is_file() for file in tokenizers):
        bad.append("tokenizer.json")
    shards = {folder / "model.safetensors"}
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            shards = {folder / name for name in content["weight_map"].values()}
        except UNREADABLE:
            return [*bad, index.name]
    for shard in sorted(shards):
        if not is_whole(shard):
            bad.append(shard.name)
    return bad


def is_whole(file):
    """Whether a safetensors file has the size that its header says."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            # zh: 文件头就被截断，或者根本不是 safetensors
            # en: cut inside the header, or no safetensors at all
            if 8 + length > size:
                return False
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        return size == 8 + length + max(ends, default=0)
    except UNREADABLE:
        return False


if __name__ == "__main__":
    # zh: 存成脚本才有 __file__，笔记本的格子里没有
    # en: a saved script has __file__, a notebook's cell has none
    if "__file__" in globals():
        print(fetch(MODEL))
    else:
        print(f"saved as model_download.py, this would fetch {MODEL}")

# %% [markdown] lang="zh" key="choose-text"
# ## 选定后面各课的模型
#
# 到这里都是演练。想让第 05 到 08 课用真正的 Qwen3，就在下一格的引号里写上它的 id，再运行。
#
# - 没有下载过，现在就下载。这一步要网络：8B 有 16.4 GB，磁盘不够会先说；在 AutoDL 上自动放进数据盘。
# - 下载好了，选择就写进 `course.toml`。环境变量 `COURSE_MODEL` 优先于这个文件。
# - 留空，就什么也不改。想改回来，写上 `qwen3-tiny` 再运行一次。
#
# 该选哪个？看第 01 课的计算器：24 GB 显存选 `Qwen/Qwen3-8B`，16 GB 选 `Qwen/Qwen3-4B`，没有 GPU 就留空。

# %% [markdown] lang="en" key="choose-text"
# ## Choose the model of the later lessons
#
# So far it was a rehearsal. For lessons 05 to 08 on a real Qwen3, write its id between the quotes of the next cell and run it.
#
# - What is not on the disk is downloaded now. This takes a network: 8B has 16.4 GB, a disk that is too small is reported first, and on AutoDL it goes to the data disk.
# - Then the choice goes into `course.toml`. The environment variable `COURSE_MODEL` comes before this file.
# - Left empty, it changes nothing. To go back later, write `qwen3-tiny` and run it again.
#
# Which one? See the calculator of lesson 01: `Qwen/Qwen3-8B` for 24 GB of GPU memory, `Qwen/Qwen3-4B` for 16 GB, and empty without a GPU.

# %% key="choose"
from helpers.cache import is_hub_id

CHOICE = ""

if CHOICE:
    if is_hub_id(CHOICE):
        download.download(CHOICE)
    models.use(CHOICE)
    print(models.describe())
else:
    print(say("CHOICE 是空的，什么也没有做", "CHOICE is empty, nothing was done"))

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [ModelScope：下载模型](https://modelscope.cn/docs/models/download)
# - [safetensors 的格式](https://huggingface.co/docs/safetensors)
# - [HuggingFace：下载文件](https://huggingface.co/docs/huggingface_hub/guides/download)
# - HTTP 的断点续传：[Range 请求](https://developer.mozilla.org/en-US/docs/Web/HTTP/Guides/Range_requests)
#
# 下一课：[03 · 注意力，和 Qwen3 改了什么](../zh/03_architecture.ipynb)，看看 `q_proj`、`k_proj`、`v_proj` 这些张量怎样用。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [ModelScope: downloading models](https://modelscope.cn/docs/models/download)
# - [The safetensors format](https://huggingface.co/docs/safetensors)
# - [HuggingFace: downloading files](https://huggingface.co/docs/huggingface_hub/guides/download)
# - How HTTP resumes: [range requests](https://developer.mozilla.org/en-US/docs/Web/HTTP/Guides/Range_requests)
#
# Next: [03 · Attention, and what Qwen3 changed](../en/03_architecture.ipynb), and what tensors such as `q_proj`, `k_proj` and `v_proj` are for.
