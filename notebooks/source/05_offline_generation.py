# %% [markdown] lang="zh" key="title"
# # 05 · 用 vLLM 离线生成
#
# | 学完能做 | 打开一次引擎、成批生成；渲染对话模板；按 Qwen 的建议采样；开关思考、拆出答案；释放内存 |
# |---|---|
# | 先修 | 第 01 课；会一点 Python |
# | 时间 | 30 分钟 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的小模型；建议的真实模型：Qwen3-8B（24 GB 显存） |
# | 说明 | 本课的输出来自 CPU，没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 05 · Offline generation with vLLM
#
# | You will be able to | open vLLM once, generate in batches, render the template, sample well, split thoughts off |
# |---|---|
# | Prerequisites | lesson 01; some Python |
# | Time | 30 minutes |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the tiny model that comes with the course; a real one to try: Qwen3-8B (24 GB GPU) |
# | Note | the outputs come from a CPU; nothing here was run on a GPU |

# %% key="setup"
import json
import os

from helpers import models
from helpers.engine import close_engine, open_engine, split

folder = models.course_model()
print(models.describe(folder), "| thinking:", models.capabilities(folder).thinking)

# %% [markdown] lang="zh" key="open-text"
# ## 引擎只打开一次
#
# 离线推理的入口是 vLLM 的 `LLM` 类。它读入权重，划出 KV 缓存，以后每次生成都用同一个对象。`open_engine` 返回的就是
# 一个 `LLM`，只是替你按这台机器选好了参数；自己写时这样就够：
#
# ```python
# from vllm import LLM
#
# llm = LLM(model="/path/to/Qwen3-8B", max_model_len=8192)
# ```
#
# 旧教程常犯三个错：每次提问都新建一个 `LLM`，第二次就会内存不足；给 Qwen3 加 `trust_remote_code=True`，它既用不上，
# 又会运行陌生代码；另建一个分词器交给 `LLM`，其实它自己会读模型文件夹里的那一个。

# %% [markdown] lang="en" key="open-text"
# ## Open the engine once
#
# Offline inference starts with vLLM's class `LLM`. It reads the weights, sets a KV cache aside and then serves every
# generation from one object. What `open_engine` returns is such an `LLM`, with parameters chosen for this machine; in
# your own code this is enough:
#
# ```python
# from vllm import LLM
#
# llm = LLM(model="/path/to/Qwen3-8B", max_model_len=8192)
# ```
#
# Older tutorials get three things wrong. They build a new `LLM` for every question, and the second one runs out of
# memory; they pass `trust_remote_code=True`, which Qwen3 does not need and which runs a stranger's code; and they make
# a tokenizer for `LLM`, which reads the one in the model's folder by itself.

# %% key="open"
llm = open_engine()
tokenizer = llm.get_tokenizer()
print("context:", llm.model_config.max_model_len, "tokens, prompt and output together")

# %% [markdown] lang="zh" key="sampling-text"
# ## 采样参数
#
# Qwen 对两种模式各有一套建议。思考时绝不能用贪心解码（`temperature=0`），否则容易无休止地重复。
#
# | 模式 | `temperature` | `top_p` | `top_k` | `min_p` | `presence_penalty` |
# |---|---|---|---|---|---|
# | 思考 | 0.6 | 0.95 | 20 | 0 | 0 |
# | 非思考 | 0.7 | 0.8 | 20 | 0 | 1.5 |
#
# 先猜一猜：完全不传采样参数时，vLLM 用什么值？最多生成多少个词元（token）？

# %% [markdown] lang="en" key="sampling-text"
# ## Sampling parameters
#
# Qwen gives one set of advice for each mode. Thinking must never be decoded greedily (`temperature=0`): it tends to
# repeat itself without end.
#
# | Mode | `temperature` | `top_p` | `top_k` | `min_p` | `presence_penalty` |
# |---|---|---|---|---|---|
# | thinking | 0.6 | 0.95 | 20 | 0 | 0 |
# | non-thinking | 0.7 | 0.8 | 20 | 0 | 1.5 |
#
# Guess first: without any sampling parameters, which values does vLLM use, and how many tokens does it generate?

# %% key="sampling"
from vllm import SamplingParams

default = llm.get_default_sampling_params()
recommended = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
print({name: getattr(default, name) for name in ("temperature", "top_p", "top_k", "max_tokens")})
assert default.temperature == recommended.get("temperature", 1.0)
assert default.max_tokens == 16

# %% [markdown] lang="zh" key="params-text"
# 采样的值来自模型文件夹里的 `generation_config.json`，停止词元也在那里，所以不必像旧教程那样手写 `stop_token_ids`。
# 但 `max_tokens` 只有 16，思考才开头就断了。下面写 `max_tokens=None`：用完上下文里剩下的空间为止
# （环境变量 `COURSE_MAX_TOKENS` 可以设一个上限）。一旦自己建了 `SamplingParams`，文件里的采样值就不再起作用，要写全。

# %% [markdown] lang="en" key="params-text"
# The sampling values come from `generation_config.json` in the model's folder. So do the stop tokens: no need to write
# `stop_token_ids` by hand as older tutorials do. But `max_tokens` is only 16, which cuts a thought at its first words.
# Below, `max_tokens=None` means: as much as the context has room for (the environment variable `COURSE_MAX_TOKENS` caps
# it). Once you build your own `SamplingParams`, the file's sampling values no longer apply, so write all of them.

# %% key="params"
limit = int(os.environ.get("COURSE_MAX_TOKENS", 0)) or None
thinking = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, min_p=0, max_tokens=limit)
direct = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, min_p=0, presence_penalty=1.5, max_tokens=limit)

# %% [markdown] lang="zh" key="chat-text"
# ## 第一次对话
#
# `llm.chat` 接过一段对话，套上对话模板，生成回复。Qwen3 默认会思考：输出先是 `<think>` 到 `</think>` 的思考过程，
# 然后才是答案。下面的回答如果来自自带的小模型，它只见过很少的问题，不代表真正的 Qwen3。

# %% [markdown] lang="en" key="chat-text"
# ## A first conversation
#
# `llm.chat` takes a conversation, puts it into the chat template and generates the reply. Qwen3 thinks by default: the
# output is a thought from `<think>` to `</think>`, and only then the answer. If the reply below comes from the tiny
# model, remember that it has seen very few questions; it does not stand for the real Qwen3.

# %% key="chat"
introduction = [{"role": "user", "content": "给我一个关于大模型的简短介绍。"}]
[output] = llm.chat(introduction, thinking, use_tqdm=False)
print(output.outputs[0].text)
print("\nstopped because:", output.outputs[0].finish_reason)

# %% [markdown] lang="zh" key="split-text"
# ## 把思考和答案分开
#
# 按词元编号分：找到**最后一个** `</think>`，之前是思考，之后是答案。如果思考开了头却没有 `</think>`，说明还没想完就被
# 截断了，这时没有答案；不少示例代码会把这半截思考当成答案。`split` 做的就是这件事。

# %% [markdown] lang="en" key="split-text"
# ## Keep thinking and answer apart
#
# Split by token id: find the **last** `</think>`; before it is the thought, after it the answer. A thought that was
# opened but has no `</think>` was cut off, and then there is no answer; much sample code takes that half thought for
# the answer. This is what `split` does.

# %% key="split"
end = tokenizer.convert_tokens_to_ids("</think>")
ids = list(output.outputs[0].token_ids)
print("id of </think>:", end, "| positions in the output:", [i for i, token in enumerate(ids) if token == end])
parts = split(output)
print("thinking:", parts.thinking)
print("answer:  ", parts.answer)
assert parts.finished == (output.outputs[0].finish_reason != "length")

# %% [markdown] lang="zh" key="template-text"
# ## 模板里有什么
#
# 模型读到的不是一段对话，而是一串文本。`apply_chat_template` 把它渲染出来。先猜一猜：关掉思考时，模板会多写些什么？

# %% [markdown] lang="en" key="template-text"
# ## What the template writes
#
# The model does not read a conversation, it reads one string. `apply_chat_template` renders it. Guess first: what does
# the template add when thinking is switched off?

# %% key="template"
who = [{"role": "user", "content": "你是谁？"}]
rendered = {
    mode: tokenizer.apply_chat_template(who, tokenize=False, add_generation_prompt=True, **arguments)
    for mode, arguments in {
        "default": {},
        "off": {"enable_thinking": False},
        "typo": {"ensure_thinking": False},
    }.items()
}
for mode, text in rendered.items():
    print(f"{mode:8}", repr(text))
assert rendered["typo"] == rendered["default"]

# %% [markdown] lang="zh" key="off-text"
# 关掉思考，就是替模型预先写好一个空的思考块，它接着写答案即可。最后一行是个陷阱：有的教程把参数写成
# `ensure_thinking`，模板不认识这个名字，也不报错，思考照样开着。正确的名字是 `enable_thinking`。
#
# 自己渲染好的文本交给 `llm.generate`，和 `llm.chat` 走的是同一条路：提示词的词元完全一样。

# %% [markdown] lang="en" key="off-text"
# Switching thinking off means writing an empty think block for the model, which goes on with the answer. The last line
# is a trap: some tutorials call the argument `ensure_thinking`. The template does not know that name, raises nothing,
# and thinking stays on. The right name is `enable_thinking`.
#
# A text that you rendered yourself goes to `llm.generate`. It is the same road as `llm.chat`: the prompts are equal
# token by token.

# %% key="off"
[by_hand] = llm.generate([rendered["off"]], direct, use_tqdm=False)
[by_chat] = llm.chat(who, direct, chat_template_kwargs={"enable_thinking": False}, use_tqdm=False)
assert by_hand.prompt_token_ids == by_chat.prompt_token_ids
print(split(by_chat))

# %% [markdown] lang="zh" key="product-text"
# ## 思考换来什么
#
# 同一道题 `37×46=?`，想和不想各答一次。小模型训练时没有见过这道题。先猜一猜：它不思考时能答对吗？

# %% [markdown] lang="en" key="product-text"
# ## What thinking buys
#
# The same problem, `37×46=?`, with and without thinking. The tiny model never saw it in training. Guess first: does it
# get it right without?

# %% key="product"
plain = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, min_p=0, max_tokens=limit)
product = [{"role": "user", "content": "37×46=?"}]
for enabled, params in ((True, thinking), (False, plain)):
    [output] = llm.chat(product, params, chat_template_kwargs={"enable_thinking": enabled}, use_tqdm=False)
    print(f"enable_thinking={enabled}: {len(output.outputs[0].token_ids)} tokens, {split(output)}")
    if enabled and models.is_bundled(folder):
        assert "1702" in split(output).answer

# %% [markdown] lang="zh" key="batch-text"
# ## 一次交一批
#
# `llm.chat` 和 `llm.generate` 都收一个列表，引擎把它们并在一起算。这里没有用 `presence_penalty`：它会惩罚已经出现过的
# 词元，数字也算在内，答案里的重复数字就吃亏了。题数可以用环境变量 `COURSE_CASES` 改。

# %% [markdown] lang="en" key="batch-text"
# ## A batch in one call
#
# `llm.chat` and `llm.generate` both take a list, and the engine computes its items together. There is no
# `presence_penalty` here: it punishes tokens that have occurred before, digits included, so an answer with a repeated
# digit would suffer. The environment variable `COURSE_CASES` changes the number of problems.

# %% key="batch"
import random
import re

cases = int(os.environ.get("COURSE_CASES", 24))
pairs = random.Random(0).sample([(a, b) for a in range(12, 99) for b in range(12, 99)], cases)
conversations = [[{"role": "user", "content": f"{a}×{b}=?"}] for a, b in pairs]
tokens, right = {}, {}
for mode, params in {"thinking": thinking, "non-thinking": plain}.items():
    template = {"enable_thinking": mode == "thinking"}
    outputs = llm.chat(conversations, params, chat_template_kwargs=template, use_tqdm=False)
    answers = [re.findall(r"\d+", (split(out).answer or "").replace(",", ""))[-1:] for out in outputs]
    tokens[mode] = [len(out.outputs[0].token_ids) for out in outputs]
    right[mode] = [answer == [str(a * b)] for answer, (a, b) in zip(answers, pairs, strict=True)]
    print(f"{mode:12} {sum(right[mode])}/{cases} right, {sum(tokens[mode]) / cases:.0f} tokens each")
if models.is_bundled(folder):
    assert sum(right["thinking"]) > sum(right["non-thinking"])

# %% key="figure"
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.4))
for row, mode in enumerate(tokens):
    for is_right, face in ((True, f"C{row}"), (False, "none")):
        x = [count for count, ok in zip(tokens[mode], right[mode], strict=True) if ok == is_right]
        y = [row + 0.5 * i / cases - 0.25 for i, ok in enumerate(right[mode]) if ok == is_right]
        axes.scatter(x, y, edgecolors=f"C{row}", facecolors=face)
axes.set(xscale="log", xlabel="tokens generated", yticks=[0, 1], ylim=(-0.6, 1.6), title=f"{folder.name}: a×b=?")
axes.set_yticklabels([f"{mode}: {sum(right[mode])}/{cases} right" for mode in tokens])
plt.show()

# %% [markdown] lang="zh" key="figure-text"
# 读图：一个圆是一道题，越靠右生成的词元越多；实心是答对，空心是答错。小模型的训练数据就是为了显出这个差别而造的，
# 图上的分数说明机制，不说明真正的 Qwen3 有多强。
#
# ## 成批生成快多少
#
# 先猜一猜：一批题同时算，每秒生成的词元会是一道题时的几倍？

# %% [markdown] lang="en" key="figure-text"
# How to read it: a circle is a problem; the further right, the more tokens were generated; filled is right, hollow is
# wrong. The tiny model's data was built to show this difference, so the scores explain the mechanism and say nothing
# about how good the real Qwen3 is.
#
# ## How much faster is a batch
#
# Guess first: with all problems computed together, how many times the tokens per second of a single one?

# %% key="speed"
import time

for count in (1, cases):
    start = time.perf_counter()
    outputs = llm.chat(conversations[:count], thinking, use_tqdm=False)
    generated = sum(len(out.outputs[0].token_ids) for out in outputs)
    print(f"{count:3} at once: {generated / (time.perf_counter() - start):6.0f} tokens/s")

# %% [markdown] lang="zh" key="cut-text"
# ## 想到一半被截断
#
# 旧教程给思考模式设 `max_tokens=1024` 之类的小数目；真实的题目常要好几千个词元，Qwen 建议给到 32768。我们故意在思考的
# 中间截断，看看 `split` 怎么说。

# %% [markdown] lang="en" key="cut-text"
# ## Cut in the middle of a thought
#
# Older tutorials give thinking a small budget such as `max_tokens=1024`; real problems often take several thousand
# tokens, and Qwen advises 32768. Here a thought is cut in the middle on purpose: what does `split` say?

# %% key="cut"
ids = list(outputs[0].outputs[0].token_ids)
cut = thinking.clone()
cut.max_tokens = max(1, (ids.index(end) if end in ids else len(ids)) // 2)
[output] = llm.chat(conversations[0], cut, use_tqdm=False)
print(split(output))
assert not split(output).finished
if end in ids:
    assert split(output).answer is None

# %% [markdown] lang="zh" key="close-text"
# ## 释放引擎
#
# vLLM 没有公开的关闭方法，`del llm` 也常常不够：笔记本的 `Out[]` 可能还拿着它。`close_engine()` 清空引擎，把内存
# 还给系统；用 `with open_engine() as llm:` 则会自动关闭。旧教程里还有一句 `VLLM_USE_MODELSCOPE`：它要在导入 `vllm`
# 之前设好才有用，而模型已在本地文件夹时根本用不着。

# %% [markdown] lang="en" key="close-text"
# ## Release the engine
#
# vLLM has no public method to close an engine, and `del llm` is often not enough: the notebook's `Out[]` may still hold
# it. `close_engine()` empties the engine and gives the memory back; `with open_engine() as llm:` does so by itself.
# One more line of older tutorials is `VLLM_USE_MODELSCOPE`: it only works if set before `vllm` is imported, and a model
# in a local folder does not need it at all.

# %% key="close"
close_engine()
