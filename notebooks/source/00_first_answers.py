# %% [markdown] lang="zh" key="title"
# # 00 · 第一批回答
#
# | | |
# |---|---|
# | 学完能做 | 让一个语言模型回答你；看它边想边写；接着追问；关掉它的一个专家；把它开成服务，用一行 curl 提问 |
# | 先修 | 会运行一格代码：点进去，按 `Shift+Enter` |
# | 时间 | 10 分钟，只运行、看结果；想逐行读懂代码，加 20 分钟 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 课程自带的 `qwen3-tiny` 和 `qwen3-moe-tiny`；不用下载 |
# | 说明 | 本课的输出来自 CPU 上的小模型，没有在 GPU 上跑过 |
#
# 标题下面的图，是从一台机器到一个服务的整条路。这一课把全程快速走一遍，图上的每个词后面都有一课来讲。

# %% [markdown] lang="en" key="title"
# # 00 · First answers
#
# | | |
# |---|---|
# | You will be able to | get answers from a language model; watch it think as it writes; ask on; switch off one of its experts; serve it and ask with one line of curl |
# | Prerequisites | you can run a cell: click into it, press `Shift+Enter` |
# | Time | 10 minutes to run it and look; 20 more to read every line of code |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | the bundled `qwen3-tiny` and `qwen3-moe-tiny`; nothing to download |
# | Note | the outputs come from a tiny model on a CPU; nothing here was run on a GPU |
#
# The map below the title is the whole way from a machine to a service. This lesson walks it once, quickly; each word on it has a later lesson.

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
# 模型一次写一个**词元**（token）：一个字、一个数字，或者一小段文字。`SamplingParams` 规定怎样挑选下一个词元：
#
# - `temperature`、`top_p`、`top_k` 用的是 Qwen 给 Qwen3 的建议（[模型卡](https://huggingface.co/Qwen/Qwen3-8B)），第 05 课细讲。
# - `max_tokens` 是最多写多少个词元。
# - `seed` 固定，每次运行的结果就相同。
#
# `split(...).answer` 只取答案，思考下面再看。`say(zh, en)` 有中文和英文两句，这一页用中文那句。

# %% [markdown] lang="en" key="who-text"
# ## Who are you?
#
# vLLM is the engine that runs the model. It takes ten seconds or more to open. After that, every answer comes fast.
#
# A model writes one **token** at a time: a word, a digit, or a short piece of text. `SamplingParams` says how the next token is chosen:
#
# - `temperature`, `top_p` and `top_k` are Qwen's advice for Qwen3 ([model card](https://huggingface.co/Qwen/Qwen3-8B)); lesson 05 explains them.
# - `max_tokens` is how many tokens it may write at most.
# - With a fixed `seed`, every run gives the same result.
#
# `split(...).answer` takes the answer only; the thinking comes below. `say(zh, en)` holds a sentence in Chinese and in English; this page uses the English one.

# %% key="open"
llm = open_engine()

# %% key="who" tags=["raw", "varies"]
from vllm import SamplingParams

params = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, max_tokens=512, seed=0)
question = {"role": "user", "content": say("你是谁？", "Who are you?")}
outputs = llm.chat([question], params, use_tqdm=False)
print(split(outputs[0]).answer)

# %% [markdown] lang="zh" key="stream-text"
# 它没有说错：它的结构就是 Qwen3，只是小得多。它是用这门课的题目训练出来的，不是 Qwen 发布的模型。
#
# ## 37×46=?
#
# Qwen3 先想，再答。思考写在 `<think>` 和 `</think>` 之间。
#
# 下一格让引擎一步一步走，每走一步，就把新写出的文字打印出来。`apply_chat_template` 把问题写成模型认得的格式，第 05 课细讲。

# %% [markdown] lang="en" key="stream-text"
# It is right: its structure is that of Qwen3, only far smaller, and it was trained on this course's questions. It is none of the models that Qwen published.
#
# ## 37×46=?
#
# Qwen3 thinks first, then answers. The thought stands between `<think>` and `</think>`.
#
# The next cell lets the engine go step by step. After each step it prints what is new. `apply_chat_template` writes the question in the form that the model knows; lesson 05 explains it.

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
# ## 不思考，行不行？
#
# 可以关掉思考：`enable_thinking=False`。下一格问十道两位数乘法，思考着问一遍，不思考再问一遍。
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
# Thinking can be switched off: `enable_thinking=False`. The next cell asks ten products of two-digit numbers, once with thinking and once without.
#
# **Choose first.** Without thinking, how many of the ten does it get right?
#
# - A. As many: it knows the answers by heart
# - B. One or two fewer
# - C. Hardly any

# %% key="modes" tags=["varies"]
pairs = [(37, 46), (23, 31), (12, 34), (48, 59), (67, 82)]
pairs += [(91, 13), (25, 76), (54, 18), (39, 63), (72, 45)]
questions = [[{"role": "user", "content": f"{a}×{b}=?"}] for a, b in pairs]
for thinking in (True, False):
    switch = {"enable_thinking": thinking}
    outputs = llm.chat(questions, params, use_tqdm=False, chat_template_kwargs=switch)
    right = 0
    for (a, b), output in zip(pairs, outputs, strict=True):
        answer = split(output).answer
        # zh: 没有写完，就没有答案，是 None
        # en: None where it was cut short and has no answer
        if answer and answer.endswith(str(a * b)):
            right += 1
    print(say("思考：", "thinking:"), thinking, "|", say("答对", "right"), right)

# %% [markdown] lang="zh" key="modes-read"
# <details><summary>读结果</summary>
#
# 多半是 C。不思考，就要一口气写出答案，等于心算。思考时写下的每个中间结果，后面的词元都能看到。第 06 课会量：思考多长才够，要花多少词元。
#
# </details>
#
# ## 再问一句
#
# 模型不记得上一个问题。要接着问，就把前面的对话一起交给它，包括它自己的回答。下一格问两遍：第一遍只给最后一句，第二遍给整段对话。

# %% [markdown] lang="en" key="modes-read"
# <details><summary>Reading</summary>
#
# C, most likely. Without thinking it has to write a product in one go, which is mental arithmetic. Each step that a thought writes down can be read by the tokens that come after. Lesson 06 measures how long a thought has to be, and how many tokens it costs.
#
# </details>
#
# ## Ask on
#
# The model does not remember the last question. To ask on, hand it the conversation so far, its own reply included. The next cell asks twice: first with the last sentence alone, then with the whole conversation.

# %% key="follow-up" tags=["raw", "varies"]
last = {"role": "user", "content": say("再加 100 呢？", "What if I add 100?")}
conversation = [
    {"role": "user", "content": "37×46=?"},
    {"role": "assistant", "content": "37×46=1702"},
    last,
]
for messages in ([last], conversation):
    outputs = llm.chat(messages, params, use_tqdm=False)
    print(split(outputs[0]).answer)

# %% [markdown] lang="zh" key="limits-text"
# 只给最后一句，它不知道往什么上面加，就自己编了一个数。
#
# ## 它不会什么
#
# 它只学过两位数的算术和这门课的问题。问它别的，有时它说不知道，有时它答错，语气却一样肯定。下面两个问题，各是哪一种？

# %% [markdown] lang="en" key="limits-text"
# With the last sentence alone it does not know what to add to, and makes a number up.
#
# ## What it cannot do
#
# It has learned arithmetic with two digits and the questions of this course. Asked something else, it sometimes says that it does not know, and sometimes it is wrong in the same sure tone. Which is which below?

# %% key="limits" tags=["raw", "varies"]
for text in (
    say("为什么天空是蓝色的？", "Why is the sky blue?"),
    "123×456=?",
):
    outputs = llm.chat([{"role": "user", "content": text}], params, use_tqdm=False)
    print(text, "->", split(outputs[0]).answer)
print("123×456 =", 123 * 456)
close_engine()

# %% [markdown] lang="zh" key="experts-text"
# 小模型不知道天空为什么是蓝色的，就说不知道。乘法它算错了，连题目都没有抄对，语气却一样肯定。
#
# 真正的 Qwen3 知道天空为什么是蓝色的。可是答错了还很肯定，它也会这样。所以用模型的人要自己核对。
#
# `close_engine()` 关掉了引擎，内存也还回来了。
#
# ## 看看里面：专家
#
# 模型是一层一层叠起来的，每个词元都要从第一层走到最后一层。Qwen3 有一类模型叫**混合专家**（mixture of experts，MoE）：每一层有许多个小网络，叫专家（expert），一个词元只用其中几个。
#
# 课程自带一个：四层，每层八个专家，都从 0 数起；每个词元在每一层用两个。下一格不用 vLLM，用课程自己的代码，它会记下每个词元用了哪些专家。让这个模型也算 37×46，然后点一个词元，看它去了哪里。

# %% [markdown] lang="en" key="experts-text"
# The tiny model does not know why the sky is blue, and says so. It gets the product wrong, does not even copy the question, and sounds just as sure.
#
# The real Qwen3 knows why the sky is blue. But it, too, is sometimes wrong in a sure tone. Whoever uses a model has to check.
#
# `close_engine()` closed the engine, and the memory is free again.
#
# ## Look inside: experts
#
# A model is a stack of layers, and every token passes through all of them. Some Qwen3 models are **mixtures of experts** (MoE): each layer has many small networks, the experts, and a token uses only a few of them.
#
# The course comes with one: four layers, eight experts in each, both counted from 0; in every layer a token uses two. The next cell leaves vLLM aside and uses the course's own code, which notes down the experts of each token. Let this model work out 37×46, too; then click a token and see where it went.

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
# 一种颜色代表一个专家。
#
# ## 关掉一个专家
#
# 第 3 层的专家 1 很忙，第 1 层的专家 2 清闲得多。下一格数出它们各被选了多少次，再轮流关掉，每次只关一个。
#
# **先选一个。** 关掉哪一个，37×46 会算错？
#
# - A. 忙的那个
# - B. 闲的那个
# - C. 哪个都会
# - D. 哪个都不会：别的专家会补上

# %% [markdown] lang="en" key="off-text"
# A colour stands for an expert.
#
# ## Switch one off
#
# Expert 1 of layer 3 is busy; expert 2 of layer 1 is much less so. The next cell counts how often each is chosen, and switches them off one at a time.
#
# **Choose first.** Which one makes 37×46 wrong when it is off?
#
# - A. The busy one
# - B. The less busy one
# - C. Either one
# - D. Neither: the others step in

# %% key="off"
from helpers.experts import expert_off

chosen = routing.expert_load(trace)  # (layers, num_experts)
print(say("都在：", "all there:"), trace.texts[-5:])
for layer, expert in ((3, 1), (1, 2)):
    with expert_off(model, layer, expert):
        without = capture_reference(model, tokenizer, prompt, max_new_tokens=200)
    times = chosen[layer, expert]
    zh = f"第 {layer} 层没有专家 {expert}（被选 {times} 次）："
    en = f"layer {layer} without expert {expert} (chosen {times} times):"
    print(say(zh, en), without.texts[-5:])

# %% [markdown] lang="zh" key="off-read"
# <details><summary>读结果</summary>
#
# B。忙的那个关掉了，别的专家补得上；闲的那个关掉了，答案就错了。常被选中，不等于离不开：附录 A2 把每个专家都关一遍。这只是一个小模型和一道题，说明不了真正的 Qwen3。
#
# 现在你来改：把 `(3, 1)` 换成别的层和别的专家，再运行一遍。
#
# </details>
#
# ## 开成服务
#
# 到这里，模型只在这个笔记本里。别的程序也要问它，就得开一个服务器。vLLM 自带一个，接口（API）和 OpenAI 的一样。
#
# 下面启动服务器，用 curl 问一句，再关掉。启动时先打印出它运行的那条命令，第 07 课细讲。curl 是发网络请求的命令；行首的 `!` 让笔记本运行一条终端命令，花括号里的变量会换成它的值。

# %% [markdown] lang="en" key="off-read"
# <details><summary>Reading</summary>
#
# B. Without the busy one the others step in; without the less busy one the product is wrong. Often chosen does not mean needed: appendix A2 switches off every expert in turn. This is one tiny model and one question; it says nothing about a real Qwen3.
#
# Now change it: put another layer and another expert in place of `(3, 1)`, and run it again.
#
# </details>
#
# ## Serve it
#
# So far the model has lived inside this notebook. For other programs to ask it, it needs a server. vLLM brings one, with the same API as OpenAI's.
#
# The next cells start the server, ask once with curl, and stop it. The start first prints the command that it runs; lesson 07 explains it. curl is a command that sends a request over the network; a `!` at the start of a line makes the notebook run a command of the terminal, and a variable in braces is replaced by its value.

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
# 在回答里找一找：`content` 是答案，`reasoning` 是思考，`usage` 里是词元数。
#
# 在有 GPU 的机器上，把真正的 Qwen3 开成服务，也只要一行（这里没有运行过）：
#
# ```bash
# vllm serve Qwen/Qwen3-8B --max-model-len 8192 --reasoning-parser qwen3
# ```
#
# ## 换上真正的 Qwen3
#
# 有网络和 1.5 GB 硬盘，在笔记本电脑的 CPU 上就能换成 Qwen3-0.6B（内存最好有 16 GB）。打开终端，进入课程文件夹，运行这三条（这里没有运行过）：
#
# ```bash
# .venv/bin/python -m helpers.download Qwen/Qwen3-0.6B
# .venv/bin/python -m helpers.models use Qwen/Qwen3-0.6B
# make lab
# ```
#
# 然后重新运行这一课：代码不变，模型换了。
#
# ## 接下来去哪里
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
# On a machine with a GPU, serving the real Qwen3 is one line as well (not run here):
#
# ```bash
# vllm serve Qwen/Qwen3-8B --max-model-len 8192 --reasoning-parser qwen3
# ```
#
# ## Put a real Qwen3 in its place
#
# With a network and 1.5 GB of disk, Qwen3-0.6B can take its place on a laptop's CPU (better with 16 GB of memory). Open a terminal, go to the course's folder, and run these three (not run here):
#
# ```bash
# .venv/bin/python -m helpers.download Qwen/Qwen3-0.6B
# .venv/bin/python -m helpers.models use Qwen/Qwen3-0.6B
# make lab
# ```
#
# Then run this lesson again: the same code, another model.
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
