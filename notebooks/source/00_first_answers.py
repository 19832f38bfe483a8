# %% [markdown] lang="zh" key="title"
# # 00 · 第一批回答
#
# | | |
# |---|---|
# | 学完能做 | 让一个语言模型回答你；看它边想边写；接着追问；关掉它的一个专家；把它开成服务，用一行 curl 提问 |
# | 先修 | 会运行一格代码：点进去，按 `Shift+Enter` |
# | 时间 | 10 分钟 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 课程自带的 `qwen3-tiny` 和 `qwen3-moe-tiny`；不用下载 |
# | 说明 | 本课的输出来自 CPU 上的小模型，没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 00 · First answers
#
# | | |
# |---|---|
# | You will be able to | get answers from a language model; watch it think as it writes; ask on; switch off one of its experts; serve it and ask with one line of curl |
# | Prerequisites | you can run a cell: click into it, press `Shift+Enter` |
# | Time | 10 minutes |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | the bundled `qwen3-tiny` and `qwen3-moe-tiny`; nothing to download |
# | Note | the outputs come from a tiny model on a CPU; nothing here was run on a GPU |

# %% key="setup"
from helpers import models, say
from helpers.engine import close_engine, open_engine, split

folder = models.course_model()
print(models.describe(folder))

# %% [markdown] lang="zh" key="who-text"
# ## 你是谁？
#
# vLLM 是运行模型的引擎。打开它要等十几秒，之后每个问题都答得很快。
#
# `SamplingParams` 说怎样挑选下一个词：这几个数是 Qwen 对 Qwen3 的建议（[模型卡](https://huggingface.co/Qwen/Qwen3-8B)）。`seed` 让每次运行的结果相同。

# %% [markdown] lang="en" key="who-text"
# ## Who are you?
#
# vLLM is the engine that runs the model. It takes ten seconds or more to open. After that, every answer comes fast.
#
# `SamplingParams` says how the next word is chosen: these numbers are Qwen's advice for Qwen3 ([model card](https://huggingface.co/Qwen/Qwen3-8B)). The `seed` makes every run give the same result.

# %% key="open"
llm = open_engine()

# %% key="who" tags=["raw", "varies"]
from vllm import SamplingParams

params = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, max_tokens=512, seed=0)
question = {"role": "user", "content": say("你是谁？", "Who are you?")}
[output] = llm.chat([question], params, use_tqdm=False)
print(split(output).answer)

# %% [markdown] lang="zh" key="stream-text"
# 这是一个真正的 Qwen3，只是小得多，用这门课的题目训练出来。它自己也这样说。
#
# ## 37×46=?
#
# Qwen3 先想，再答。思考写在 `<think>` 和 `</think>` 之间。下面一格让引擎一步一步走，每走一步，就把新写出的文字打印出来。

# %% [markdown] lang="en" key="stream-text"
# This is a real Qwen3, only far smaller, and trained on this course's questions. It says so itself.
#
# ## 37×46=?
#
# Qwen3 thinks first and answers then. The thought stands between `<think>` and `</think>`. The next cell lets the engine go step by step. After each step it prints what is new.

# %% key="stream" tags=["raw", "varies"]
question = {"role": "user", "content": "37×46=?"}
prompt = llm.get_tokenizer().apply_chat_template(
    [question], tokenize=False, add_generation_prompt=True
)
engine = llm.llm_engine
engine.add_request("37x46", prompt, params)
printed = 0
while engine.has_unfinished_requests():
    for output in engine.step():
        text = output.outputs[0].text
        print(text[printed:], end="", flush=True)
        printed = len(text)
if models.is_bundled():
    assert "1702" in split(output).answer

# %% [markdown] lang="zh" key="modes-text"
# 它把乘法拆成几步，像你在纸上算一样。
#
# ## 不想，行不行？
#
# 可以关掉思考：`enable_thinking=False`。下面问十道两位数乘法，每种方式各问一遍。
#
# **先选一个。** 不思考时，十道里它能答对几道？
#
# - A. 一样多：它早就背下了答案
# - B. 少一两道
# - C. 几乎全错

# %% [markdown] lang="en" key="modes-text"
# It takes the product apart, as you would on paper.
#
# ## Must it think?
#
# Thinking can be switched off: `enable_thinking=False`. The next cell asks ten products of two-digit numbers, once in each mode.
#
# **Choose first.** Without thinking, how many of the ten does it get right?
#
# - A. As many: it knows the answers by heart
# - B. One or two fewer
# - C. Hardly any

# %% key="modes" tags=["varies"]
pairs = [(37, 46), (23, 31), (12, 34), (48, 59), (67, 82),
         (91, 13), (25, 76), (54, 18), (39, 63), (72, 45)]  # fmt: skip
questions = [[{"role": "user", "content": f"{a}×{b}=?"}] for a, b in pairs]
for thinking in (True, False):
    outputs = llm.chat(
        questions,
        params,
        use_tqdm=False,
        chat_template_kwargs={"enable_thinking": thinking},
    )
    right = 0
    for (a, b), output in zip(pairs, outputs, strict=True):
        answer = split(output).answer or ""
        right += answer.endswith(str(a * b))
    print(say("思考：", "thinking:"), thinking, "|", say("答对", "right"), right)

# %% [markdown] lang="zh" key="modes-read"
# <details><summary>读结果</summary>
#
# 多半是 C。一步写出四位数，等于心算；把中间结果写下来，后面的词元就能看到它们。第 06 课量一量：思考多长才够，又要花多少时间。
#
# </details>
#
# ## 再问一句
#
# 模型不记事。接着问，就要把前面的对话一起交给它，它的回答也要放进去。

# %% [markdown] lang="en" key="modes-read"
# <details><summary>Reading</summary>
#
# C, most likely. To write a product in one go is mental arithmetic. Steps that are written down can be read by the tokens that come after. Lesson 06 measures how long a thought has to be, and what it costs.
#
# </details>
#
# ## Ask on
#
# The model remembers nothing. To ask on, hand it the conversation so far, its own reply included.

# %% key="follow-up" tags=["raw", "varies"]
conversation = [
    {"role": "user", "content": "37×46=?"},
    {"role": "assistant", "content": "37×46=1702"},
    {"role": "user", "content": say("再加 100 呢？", "What if I add 100?")},
]
[output] = llm.chat(conversation, params, use_tqdm=False)
print(split(output).answer)

# %% [markdown] lang="zh" key="limits-text"
# ## 它不会什么
#
# 它只学过两位数的算术和这门课的问题。别的问题，有的它说不知道，有的它会答错，而且语气一样肯定。看看每个回答是哪一种。

# %% [markdown] lang="en" key="limits-text"
# ## What it cannot do
#
# It has learned arithmetic with two digits and the questions of this course. Of other questions, some it declines, and some it gets wrong in the same sure tone. See which is which.

# %% key="limits" tags=["raw", "varies"]
for text in (
    say("为什么天空是蓝色的？", "Why is the sky blue?"),
    "123×456=?",
):
    [output] = llm.chat([{"role": "user", "content": text}], params, use_tqdm=False)
    print(text, "->", split(output).answer)
print("123×456 =", 123 * 456)
close_engine()

# %% [markdown] lang="zh" key="experts-text"
# 真正的 Qwen3 知道天空为什么是蓝色的，可语气肯定的错误，它也会犯。用模型的人要自己核对。
#
# 最后一行关掉了引擎，内存还回来了。
#
# ## 看看里面：专家
#
# Qwen3 有一类模型叫**混合专家**（mixture of experts，MoE）：每一层有许多个小网络，叫专家，每个词元只用其中几个。课程自带一个：四层，每层八个专家，每个词元用两个。点一个词元，看它去了哪里。

# %% [markdown] lang="en" key="experts-text"
# The real Qwen3 knows why the sky is blue. But sure in tone and wrong, that happens to it too. Whoever uses a model has to check.
#
# The last line closed the engine, and the memory is free again.
#
# ## Look inside: experts
#
# Some Qwen3 models are **mixtures of experts** (MoE): each layer has many small networks, the experts, and a token uses only a few of them. The course brings one along: four layers, eight experts in each, two for a token. Click a token and see where it went.

# %% key="experts"
import torch
from transformers import AutoTokenizer

from helpers import qwen, routing
from helpers.capture import capture_reference
from helpers.explorer import RoutingExplorer

torch.set_num_threads(1)
moe_folder = models.BUNDLED / "qwen3-moe-tiny"
tokenizer = AutoTokenizer.from_pretrained(moe_folder)
model = qwen.load_model(moe_folder, dtype=torch.float32)
prompt = tokenizer.apply_chat_template(
    [question], tokenize=False, add_generation_prompt=True
)
trace = capture_reference(model, tokenizer, prompt, max_new_tokens=200)
RoutingExplorer(trace, token=trace.prompt_length)

# %% [markdown] lang="zh" key="off-text"
# 一格颜色是一个专家。每个词元在每一层都要选两次。
#
# ## 关掉一个专家
#
# 第 3 层的专家 1 很忙，第 1 层的专家 2 清闲得多，次数由下一格数出来。
#
# **先选一个。** 分别关掉这两个专家，哪一次会算错？
#
# - A. 关掉忙的那个
# - B. 关掉闲的那个
# - C. 两次都错
# - D. 两次都对：别的专家会补上

# %% [markdown] lang="en" key="off-text"
# A colour is an expert. Each token chooses two of them in every layer.
#
# ## Switch one off
#
# Expert 1 of layer 3 is busy; expert 2 of layer 1 is much less so. The next cell counts how often each is chosen.
#
# **Choose first.** Switch off one of the two at a time. Which makes the product wrong?
#
# - A. The busy one
# - B. The idle one
# - C. Either
# - D. Neither: the others step in

# %% key="off"
from helpers.experts import expert_off

chosen = routing.expert_load(trace)  # (layers, num_experts)
print(say("都在：", "all there:"), trace.texts[-5:])
for layer, expert in ((3, 1), (1, 2)):
    with expert_off(model, layer, expert):
        without = capture_reference(model, tokenizer, prompt, max_new_tokens=200)
    print(
        say(
            f"第 {layer} 层没有专家 {expert}", f"layer {layer} without expert {expert}"
        ),
        say("（被选", "(chosen"),
        chosen[layer, expert],
        say("次）：", "times):"),
        without.texts[-5:],
    )

# %% [markdown] lang="zh" key="off-read"
# <details><summary>读结果</summary>
#
# 是 B。忙的那个走了，别的专家补得上；闲的那个走了，答案就错了。被选得多，不等于少不了：附录 A2 把每个专家都关一遍。这只是一个小模型和一道题，说明不了真正的 Qwen3。
#
# 现在你来改：换一层，换一个专家，再运行一遍。
#
# </details>
#
# ## 开成服务
#
# 到这里，模型都在这个笔记本里。要让别的程序也能问它，就开一个服务器：vLLM 自带一个，说的是 OpenAI 那套接口。下面启动它，用 curl 问一句，再关掉。

# %% [markdown] lang="en" key="off-read"
# <details><summary>Reading</summary>
#
# B. Without the busy one the others step in; without the idle one the product is wrong. Often chosen does not mean needed: appendix A2 switches off every expert in turn. This is one tiny model and one question; it says nothing about a real Qwen3.
#
# Now change it: take another layer and another expert, and run it again.
#
# </details>
#
# ## Serve it
#
# So far the model has lived inside this notebook. For other programs to ask it, start a server: vLLM brings one, and it speaks OpenAI's interface. Start it, ask once with curl, stop it.

# %% key="serve" tags=["raw", "varies"]
from helpers.server import Server

server = Server().start()
print(server.base_url)

# %% key="curl" tags=["raw", "varies"]
import json

body = json.dumps({"model": server.model, "messages": [question], "max_tokens": 512})
# !curl -s {server.base_url}/chat/completions -H "Content-Type: application/json" -d '{body}'

# %% key="stop"
server.stop()

# %% [markdown] lang="zh" key="serve-read"
# 在回答里找一找：`content` 是答案，`reasoning` 是思考，`usage` 是词元数。
#
# 在有 GPU 的机器上，真正的服务也只要一行（这里没有运行过）：
#
# ```bash
# vllm serve Qwen/Qwen3-8B --max-model-len 8192 --reasoning-parser qwen3
# ```
#
# ## 换上真正的 Qwen3
#
# 有网络，有 1.5 GB 的空间，就可以在笔记本电脑的 CPU 上换成 Qwen3-0.6B（约 16 GB 内存更稳妥）。在终端里、课程的文件夹下运行这三条（这里没有运行过）：
#
# ```bash
# .venv/bin/python -m helpers.download Qwen/Qwen3-0.6B
# .venv/bin/python -m helpers.models use Qwen/Qwen3-0.6B
# make lab
# ```
#
# 然后重新运行这一课，同样的格子，换了一个模型。
#
# ## 从这里往哪里走
#
# | 你想 | 去哪里 |
# |---|---|
# | 装好自己的机器 | [第 01 课](../zh/01_environment.ipynb) |
# | 下载一个真正的 Qwen3 | [第 02 课](../zh/02_model_download.ipynb) |
# | 看懂模型里面 | [第 03 课](../zh/03_architecture.ipynb)：注意力；[第 04 课](../zh/04_moe_routing.ipynb)：专家 |
# | 用好引擎和思考 | [第 05 课](../zh/05_offline_generation.ipynb)、[第 06 课](../zh/06_thinking.ipynb) |
# | 开服务 | [第 07 课](../zh/07_openai_server.ipynb)、[第 08 课](../zh/08_serving_under_load.ipynb)；用在自己的题目上：[第 09 课](../zh/09_project.ipynb) |
# | 知道小模型怎样造出来 | [附录 A1](../zh/A1_tiny_models.ipynb) |

# %% [markdown] lang="en" key="serve-read"
# Find three fields in the reply: `content` is the answer, `reasoning` the thought, and `usage` counts the tokens.
#
# On a machine with a GPU the real service is one line as well (not run here):
#
# ```bash
# vllm serve Qwen/Qwen3-8B --max-model-len 8192 --reasoning-parser qwen3
# ```
#
# ## Put a real Qwen3 in its place
#
# With a network and 1.5 GB of room, Qwen3-0.6B can take its place on a laptop's CPU (16 GB of memory to be safe). In a terminal, in the course's folder, run these three (not run here):
#
# ```bash
# .venv/bin/python -m helpers.download Qwen/Qwen3-0.6B
# .venv/bin/python -m helpers.models use Qwen/Qwen3-0.6B
# make lab
# ```
#
# Then run this lesson again: the same cells, another model.
#
# ## Where to go from here
#
# | You want to | Go to |
# |---|---|
# | set up your own machine | [lesson 01](../en/01_environment.ipynb) |
# | download a real Qwen3 | [lesson 02](../en/02_model_download.ipynb) |
# | understand what is inside | [lesson 03](../en/03_architecture.ipynb): attention; [lesson 04](../en/04_moe_routing.ipynb): experts |
# | use engine and thinking well | [lesson 05](../en/05_offline_generation.ipynb), [lesson 06](../en/06_thinking.ipynb) |
# | run a service | [lesson 07](../en/07_openai_server.ipynb), [lesson 08](../en/08_serving_under_load.ipynb); on questions of your own: [lesson 09](../en/09_project.ipynb) |
# | know how the tiny models were made | [appendix A1](../en/A1_tiny_models.ipynb) |
