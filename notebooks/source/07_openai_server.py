# %% [markdown] lang="zh" key="title"
# # 07 · 兼容 OpenAI 的服务器
#
# | 学完能做 | 启动和停止 vLLM 服务器；用 curl 和 `openai` 客户端发请求；分开思考和答案；关掉思考；流式接收 |
# |---|---|
# | 先修 | 第 05 课 |
# | 时间 | 30 分钟 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的小模型；建议的真实模型：Qwen3-8B（24 GB 显存） |
# | 说明 | 本课的输出来自 CPU，没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 07 · The OpenAI-compatible server
#
# | You will be able to | start and stop vLLM's server, call it with curl and `openai`, read thoughts apart, stream |
# |---|---|
# | Prerequisites | lesson 05 |
# | Time | 30 minutes |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the tiny model that comes with the course; a real one to try: Qwen3-8B (24 GB GPU) |
# | Note | the outputs come from a CPU; nothing here was run on a GPU |

# %% key="setup"
import json
import os

from helpers import models
from helpers.server import Server

folder = models.course_model()
print(models.describe(folder))

# %% [markdown] lang="zh" key="start-text"
# ## 启动服务器
#
# 兼容 OpenAI 接口的是 vLLM 的服务器，不是 Qwen3 本身；换一个模型，接口不变。`Server` 先打印一行命令，在课程根目录的
# 普通终端里运行它，得到的是同一个服务器；然后等到服务器能回答为止。笔记本的内核一结束，服务器也会跟着结束。
#
# 旧教程里的命令有几处要改：
#
# | 旧写法 | 现在 |
# |---|---|
# | `--enable-reasoning` | 早已删除，写了就启动失败；它从来不是思考的开关，只管拆分输出 |
# | `--reasoning-parser deepseek_r1` | 用 `qwen3`；前者在关掉思考时会把整个答案当成思考 |
# | `--model DIR` | `vllm serve DIR`，直接写路径 |
# | 不写 `--host` | 默认监听所有网卡；只给本机用就写 `--host 127.0.0.1` |

# %% [markdown] lang="en" key="start-text"
# ## Start the server
#
# What is compatible with OpenAI's API is vLLM's server, not Qwen3: the API stays the same with another model. `Server`
# first prints a command; in a plain terminal at the root of the course it starts the same server. Then it waits until
# the server answers. When the notebook's kernel ends, so does the server.
#
# Some parts of the command in older tutorials have to change:
#
# | Older | Now |
# |---|---|
# | `--enable-reasoning` | removed, the server refuses to start; it never switched thinking on, it only split the output |
# | `--reasoning-parser deepseek_r1` | use `qwen3`; with thinking off, the old one takes the whole answer for a thought |
# | `--model DIR` | `vllm serve DIR`, just the path |
# | no `--host` | it listens on every network card; write `--host 127.0.0.1` to serve this machine only |

# %% key="start"
server = Server()
server.start()
limit = int(os.environ.get("COURSE_MAX_TOKENS", 0)) or None

# %% [markdown] lang="zh" key="models-text"
# ## 有哪些模型
#
# 列出模型的端点（endpoint）是 `/v1/models`。端口（port）是另一回事：网址里冒号后面的那个数。请求里的模型名要和这里的
# `id` 一字不差，写文件夹路径会得到 404。

# %% [markdown] lang="en" key="models-text"
# ## Which models are there
#
# The endpoint `/v1/models` lists them. A port is something else: the number after the colon in the address. The model's
# name in a request must be exactly this `id`; the folder's path gives a 404.

# %% key="models"
# !curl -s {server.base_url}/models

# %% key="client"
from openai import OpenAI

client = OpenAI(base_url=server.base_url, api_key="EMPTY")
[model] = client.models.list()
print(model.id, model.max_model_len)
assert model.id == server.model

# %% [markdown] lang="zh" key="key-text"
# 客户端一定要一个密钥，服务器没有设 `--api-key` 时写什么都行；设了就必须写对，否则是 401。
#
# ## 补全：/v1/completions
#
# 这个端点把 `prompt` 原样交给模型续写，不套对话模板。先猜一猜：同一个问题，直接发和先渲染模板再发，提示词的词元数一样吗？

# %% [markdown] lang="en" key="key-text"
# The client insists on a key. Anything will do while the server has no `--api-key`; once it has, a wrong key gives a 401.
#
# ## Completions: /v1/completions
#
# This endpoint gives the `prompt` to the model as it stands, without the chat template. Guess first: does the same
# question have the same number of prompt tokens when sent raw and when sent through the template?

# %% key="completions-curl"
sampling = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0, "seed": 0}
body = json.dumps({"model": server.model, "prompt": "37×46=?", "max_tokens": 16, **sampling}, ensure_ascii=False)
print(body)
# !curl -s {server.base_url}/completions -H "Content-Type: application/json" -d '{body}'

# %% [markdown] lang="zh" key="completions-text"
# `usage` 里有两边的词元数，`finish_reason` 说明为什么停：`stop` 是模型自己结束，`length` 是长度用完。这个端点不给
# `max_tokens` 时只生成 16 个词元。现在先渲染模板，再用客户端发一次；`top_k` 和 `min_p` 不是 OpenAI 的参数，要放进
# `extra_body`。

# %% [markdown] lang="en" key="completions-text"
# `usage` counts the tokens of both sides; `finish_reason` tells why it stopped: `stop` if the model ended by itself,
# `length` if the room was used up. Without `max_tokens` this endpoint generates only 16 tokens. Now the template comes
# first, and the client sends the request; `top_k` and `min_p` are not OpenAI's parameters and go into `extra_body`.

# %% key="completions"
from transformers import AutoTokenizer

messages = [{"role": "user", "content": "37×46=?"}]
tokenizer = AutoTokenizer.from_pretrained(folder)
prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
room = model.max_model_len - len(tokenizer(prompt).input_ids)
extra = {"top_k": 20, "min_p": 0}
thinking = {"temperature": 0.6, "top_p": 0.95, "seed": 0}
completion = client.completions.create(
    model=server.model, prompt=prompt, max_tokens=limit or room, **thinking, extra_body=extra
)
print(repr(completion.choices[0].text))
print(completion.usage.prompt_tokens, "prompt tokens")
assert completion.usage.prompt_tokens > len(tokenizer("37×46=?").input_ids)

# %% [markdown] lang="zh" key="chat-text"
# 思考和答案混在一个字符串里：这个端点不拆。也不要像有的教程那样自己在用户消息里写 `<think>`。还有教程的“补全”脚本其实
# 调用了 `client.chat.completions`：看清名字，那是下面这个端点。
#
# ## 对话：/v1/chat/completions
#
# 发消息列表，模板由服务器来套，输出也由它拆开：思考在 `reasoning`，答案在 `content`。不给 `max_tokens` 时一直生成到
# 上下文用完。

# %% [markdown] lang="en" key="chat-text"
# Thought and answer are in one string: this endpoint does not split. Nor should you write `<think>` into the user's
# message, as some tutorials do. Others show a "completions" script that calls `client.chat.completions`: mind the name,
# that is the endpoint below.
#
# ## Chat: /v1/chat/completions
#
# Send a list of messages; the server applies the template and splits the output: the thought is in `reasoning`, the
# answer in `content`. Without `max_tokens` it generates until the context is full.

# %% key="chat-curl"
body = json.dumps({"model": server.model, "messages": messages, "max_tokens": limit, **sampling}, ensure_ascii=False)
print(body)
# !curl -s {server.base_url}/chat/completions -H "Content-Type: application/json" -d '{body}'

# %% [markdown] lang="zh" key="reasoning-text"
# 用客户端发同一个请求。`reasoning` 不是 OpenAI 定义的字段，所以用 `getattr` 取；老版本的 vLLM 叫它
# `reasoning_content`，两个名字都试一下。采样参数每次都要发：不发就用服务器的默认值，那是给思考模式的。更不要设
# `temperature=0`，思考时贪心解码容易无休止地重复。

# %% [markdown] lang="en" key="reasoning-text"
# The same request with the client. `reasoning` is no field of OpenAI's, so take it with `getattr`; older versions of
# vLLM call it `reasoning_content`, so try both names. Always send sampling parameters: otherwise the server's defaults
# apply, and those are for thinking. And never send `temperature=0`: greedy thinking tends to repeat without end.


# %% key="chat"
def reasoning_of(message):
    return getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)


reply = client.chat.completions.create(
    model=server.model, messages=messages, max_tokens=limit, **thinking, extra_body=extra
)
message = reply.choices[0].message
print("reasoning:", reasoning_of(message))
print("content:  ", message.content)
print(reply.choices[0].finish_reason, reply.usage.completion_tokens, "tokens")
if models.is_bundled(folder):
    assert "1702" in (message.content or "")

# %% [markdown] lang="zh" key="off-text"
# 上面如果是自带的小模型，它的思考过程和分数只用来看清机制。`content` 是 `None` 而 `finish_reason` 是 `length`，说明
# 还没想完就用完了长度。
#
# ## 关掉思考
#
# 模板的参数放在 `chat_template_kwargs` 里，采样参数换成非思考的一套。先猜一猜：这时 `reasoning` 里是什么？

# %% [markdown] lang="en" key="off-text"
# If the reply comes from the tiny model, its thought is there to show the mechanism, nothing more. If `content` is
# `None` and `finish_reason` is `length`, the room was used up before the thought ended.
#
# ## Switch thinking off
#
# Arguments of the template go into `chat_template_kwargs`, and the sampling parameters become those of non-thinking
# mode. Guess first: what is in `reasoning` now?

# %% key="off"
direct = {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5, "seed": 0}
off = extra | {"chat_template_kwargs": {"enable_thinking": False}}
reply = client.chat.completions.create(
    model=server.model,
    messages=[{"role": "user", "content": "你是谁？"}],
    max_tokens=limit,
    **direct,
    extra_body=off,
)
message = reply.choices[0].message
print("reasoning:", reasoning_of(message))
print("content:  ", message.content)
assert reasoning_of(message) is None and message.content is not None

# %% [markdown] lang="zh" key="stream-text"
# ## 流式输出
#
# `stream=True` 让服务器生成一段就发一段。思考和答案分别在每一段的 `reasoning` 和 `content` 里。

# %% [markdown] lang="en" key="stream-text"
# ## Streaming
#
# With `stream=True` the server sends each piece as soon as it is generated, thought and answer in the `reasoning` and
# `content` of each piece.

# %% key="stream"
import time

start = time.perf_counter()
stream = client.chat.completions.create(
    model=server.model, messages=messages, max_tokens=limit, **thinking, extra_body=extra, stream=True
)
arrived = {"reasoning": [], "content": []}
for chunk in stream:
    delta = chunk.choices[0].delta
    for field, text in (("reasoning", reasoning_of(delta)), ("content", delta.content)):
        if text:
            arrived[field].append((1000 * (time.perf_counter() - start), text))
print({field: "".join(text for _, text in pieces) for field, pieces in arrived.items()})
assert arrived["reasoning"] or arrived["content"]

# %% key="stream-figure"
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.4))
times = sorted(moment for pieces in arrived.values() for moment, _ in pieces)
for field, pieces in arrived.items():
    moments = [moment for moment, _ in pieces]
    axes.plot(moments, [times.index(moment) + 1 for moment in moments], ".", label=field)
axes.axvline(times[0], color="gray", linewidth=1)
axes.set(xlim=0, xlabel="milliseconds since the request", ylabel="pieces received", title=f"{server.model}, one stream")
axes.legend()
plt.show()

# %% [markdown] lang="zh" key="metrics-text"
# 读图：一个点是一段文本，竖线是第一段到达的时刻，它之前服务器在排队和读提示词；颜色由思考变成答案的地方就是 `</think>`。
#
# ## 服务器自己记的账
#
# `/metrics` 是服务器的计数器，`log_tail` 是日志的最后几行；出问题时先看这两处。

# %% [markdown] lang="en" key="metrics-text"
# How to read it: a dot is a piece of text, the line marks the first one; before it, the server queued the request and
# read the prompt. Where the colour changes from thought to answer, there was the `</think>`.
#
# ## The server's own books
#
# `/metrics` holds the server's counters, `log_tail` the last lines of its log; look there first when something is wrong.

# %% key="metrics"
metrics = server.metrics()
for name in ("prompt_tokens_total", "generation_tokens_total", "request_success_total", "num_requests_running"):
    print(f"{name:25} {metrics[name]:.0f}")
print(server.log_tail(3))
assert metrics["num_requests_running"] == 0 and metrics["generation_tokens_total"] > 0

# %% [markdown] lang="zh" key="stop-text"
# ## 停止服务器
#
# 停止之后，端口空出来，请求得到的是连接错误。

# %% [markdown] lang="en" key="stop-text"
# ## Stop the server
#
# Once it has stopped, its port is free, and a request meets a connection error.

# %% key="stop"
from openai import APIConnectionError

server.stop()
try:
    client.with_options(max_retries=0).models.list()
except APIConnectionError as error:
    print("stopped:", error)
else:
    raise AssertionError("the server still answers")
