# %% [markdown] lang="zh" key="title"
# # 05 · 用 vLLM 离线生成
#
# | | |
# |---|---|
# | 学完能做 | 打开一次引擎，和它对话；渲染对话模板；看懂 KV 缓存的分块和连续批处理；照 Qwen 的建议采样，写出 top-p；释放内存 |
# | 先修 | 第 01 课（KV 缓存一节用到第 03 课）；会读 Python |
# | 时间 | 主线 50 分钟；标着“选读”的再加 30 分钟，可以跳过 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的 `qwen3-tiny`；建议的真实模型：Qwen3-8B（24 GB 显存） |
# | 说明 | 本课的输出来自 CPU 上的小模型，没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 05 · Offline generation with vLLM
#
# | | |
# |---|---|
# | You will be able to | open an engine once and talk to it; render the chat template; read the blocks of the KV cache and continuous batching; sample as Qwen advises and write top-p; give the memory back |
# | Prerequisites | lesson 01 (lesson 03 for the section on the KV cache); you read Python |
# | Time | 50 minutes for the main path; 30 more for what is marked "extra", which can be skipped |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the bundled `qwen3-tiny`; a real one to try: Qwen3-8B (24 GB GPU) |
# | Note | the outputs come from a tiny model on a CPU; nothing here was run on a GPU |

# %% key="setup"
import os

from helpers import models, say, schedule
from helpers.checkpoint import Checkpoint
from helpers.engine import close_engine, open_engine, split
from helpers.explorer import ScheduleExplorer
from helpers.lessons import l05

folder = models.course_model()
print(models.describe(folder), "| thinking:", Checkpoint(folder).capabilities.thinking)

# %% [markdown] lang="zh" key="open-text"
# ## 引擎只打开一次
#
# vLLM 是一个推理引擎：读入 Hugging Face 格式的权重，替你管理 KV 缓存（旧词元 token 的键和值），把许多请求并在一起算；还能把一个模型分到几张卡上（`tensor_parallel_size`），或者开成服务器（第 07 课）。离线推理的入口是 `LLM` 类。自己写时：
#
# ```python
# from vllm import LLM
#
# llm = LLM(model="/path/to/Qwen3-8B", max_model_len=8192, reasoning_parser="qwen3")
# ```
#
# 课程的 `open_engine` 返回的就是一个 `LLM`，参数按这台机器选好。下一格的两个是为了观察：KV 缓存每块 32 个词元，允许查看整个词表的概率。
#
# **选读。** `reasoning_parser` 告诉引擎思考写到哪里为止，约束输出格式和思考预算（第 06 课）要用；从不思考的 Instruct-2507 不要写它。
#
# 旧教程里有两处多余。一是另建分词器交给 `LLM`，或者加 `use_fast=False`：`LLM` 自己会读文件夹里的分词器，transformers 5 也早已不理会 `use_fast`。二是导入 vLLM 之后才设 `VLLM_USE_MODELSCOPE`：要在导入之前设才有用，而本地文件夹根本用不着它。

# %% [markdown] lang="en" key="open-text"
# ## Open the engine once
#
# vLLM is an inference engine: it reads weights in Hugging Face's format, manages the KV cache for you (the keys and values of old tokens) and computes many requests together; it can split a model over several cards (`tensor_parallel_size`) or run as a server (lesson 07). Offline inference starts with the class `LLM`. In your own code this is enough:
#
# ```python
# from vllm import LLM
#
# llm = LLM(model="/path/to/Qwen3-8B", max_model_len=8192, reasoning_parser="qwen3")
# ```
#
# What `open_engine` of this course returns is such an `LLM`, with parameters chosen for this machine. The two arguments in the next cell are for watching: blocks of 32 tokens in the KV cache, and probabilities of the whole vocabulary on request.
#
# **Extra.** `reasoning_parser` tells the engine where a thought ends, which constrained output and the thinking budget of lesson 06 need; leave it out for Instruct-2507, which never thinks.
#
# Two things in older tutorials are of no use. They make a tokenizer for `LLM`, or add `use_fast=False`: `LLM` reads the tokenizer in the folder by itself, and transformers 5 ignores `use_fast`. They set `VLLM_USE_MODELSCOPE` after importing vLLM: it counts only before the import, and a local folder does not need it at all.

# %% key="open"
llm = open_engine(block_size=32, max_logprobs=-1)
tokenizer = llm.get_tokenizer()
engine = llm.llm_engine
cache = engine.vllm_config.cache_config
# zh: 上下文里装提示词和输出；KV 缓存的大小是“块数 × 每块的词元数”；
# zh: 名字里虽有 gpu，CPU 上的块也由它数
# en: prompt and output share the context; the KV cache is blocks × tokens in a block;
# en: num_gpu_blocks counts them on a CPU, too
print("context:", llm.model_config.max_model_len, "tokens")
print("KV cache:", cache.num_gpu_blocks, "×", cache.block_size, "tokens")

# %% [markdown] lang="zh" key="sampling-text"
# ## 采样参数
#
# `SamplingParams` 说明怎样抽下一个词元（见“采样在做什么”）、写到哪里为止。模型文件夹里有一个 `generation_config.json`，是模型作者的建议。
#
# **先选一个。** 完全不传采样参数时，vLLM 的温度从哪里来？
#
# - A. 对所有模型都一样的固定值
# - B. 模型文件夹里的建议
# - C. 没有温度：总取概率最大的

# %% [markdown] lang="en" key="sampling-text"
# ## Sampling parameters
#
# `SamplingParams` says how the next token is drawn (see "What sampling does") and where to stop. The model's folder has a `generation_config.json` with the advice of the model's makers.
#
# **Choose first.** Without any sampling parameters, where does vLLM take the temperature from?
#
# - A. A constant, the same for every model
# - B. The advice in the model's folder
# - C. There is none: it always takes the likeliest token

# %% key="sampling" tags=["raw"]
from vllm import SamplingParams

print((folder / "generation_config.json").read_text(encoding="utf-8"))
default = llm.get_default_sampling_params()
print("temperature:", default.temperature, "| max_tokens:", default.max_tokens)
assert default.max_tokens == 16

# zh: 环境变量 COURSE_MAX_TOKENS 可以限制输出的长度；没有设，limit 就是 None
# en: the variable COURSE_MAX_TOKENS can limit the outputs; without it, limit is None
limit = int(os.environ.get("COURSE_MAX_TOKENS", 0)) or None
thinking = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, max_tokens=limit)
direct = SamplingParams(
    temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5, max_tokens=limit
)

# %% [markdown] lang="zh" key="params-text"
# <details><summary>读输出</summary>
#
# B。采样的值和停止词元（写出它就停）都来自这个文件，所以不必手写 `stop_token_ids=[151645, 151643]`：换个词表，那两个编号就不存在。唯独 `max_tokens` 不在其中，默认只有 16。
#
# </details>
#
# 上面的 `limit` 是 `None`：一直写到上下文用完。真实的题目常要思考好几千个词元，[Qwen 建议](https://huggingface.co/Qwen/Qwen3-8B)给到 32768。
#
# 自己建了 `SamplingParams`，文件里的采样值就不起作用，要写全。Qwen 的两套建议：
#
# | 模式 | `temperature` | `top_p` | `top_k` | `min_p` | `presence_penalty` |
# |---|---|---|---|---|---|
# | 思考 | 0.6 | 0.95 | 20 | 0 | 0 |
# | 非思考 | 0.7 | 0.8 | 20 | 0 | 1.5 |
#
# `min_p` 不写也是 0。`presence_penalty` 让模型少说重复的话：写出过的词元，分数都减去这个数。思考时不要用贪心解码（`temperature=0`）：模型卡警告它会变差，还会无休止地重复。
#
# **选读。** 要放得下 32768 个词元的输出，引擎的上下文也得够长：写 `max_model_len=40960`（[Qwen3-8B 的 `config.json`](https://huggingface.co/Qwen/Qwen3-8B) 里的上限；用 YaRN 可以到 131072，模型卡说短文可能因此变差），或者写 -1，让 vLLM 取内存放得下的最长；`open_engine` 默认只取 8192。
#
# 表里的值大多出自模型卡，非思考的 1.5 出自[技术报告](https://arxiv.org/abs/2505.09388)第 4.6 节和 Qwen 的文档；模型卡提醒，给得太高会混进别的语言。用量化过的模型时，Qwen 建议思考也用 1.5（[Qwen3-8B-GGUF 的模型卡](https://huggingface.co/Qwen/Qwen3-8B-GGUF)）。
#
# 停止词元是谁？按编号向分词器查：

# %% [markdown] lang="en" key="params-text"
# <details><summary>Reading</summary>
#
# B. The sampling values and the stop tokens, which end an output, come from this file. So there is no need to write `stop_token_ids=[151645, 151643]` by hand: in another vocabulary those ids do not exist. Only `max_tokens` is not in the file, and its default is 16.
#
# </details>
#
# Above, `limit` is `None`: as much as the context has room for. Real problems often take several thousand tokens of thought, and [Qwen advises](https://huggingface.co/Qwen/Qwen3-8B) 32768.
#
# Once you build your own `SamplingParams`, the file's sampling values no longer apply, so write all of them. Qwen's advice for the two modes:
#
# | Mode | `temperature` | `top_p` | `top_k` | `min_p` | `presence_penalty` |
# |---|---|---|---|---|---|
# | thinking | 0.6 | 0.95 | 20 | 0 | 0 |
# | non-thinking | 0.7 | 0.8 | 20 | 0 | 1.5 |
#
# `min_p` is 0 unless you write it. `presence_penalty` makes the model repeat itself less: it is subtracted from the score of every token already written. Do not use greedy decoding (`temperature=0`) with thinking: the model card warns that it gets worse and may repeat itself without end.
#
# **Extra.** To have room for an output of 32768 tokens the engine needs a context to match: `max_model_len=40960`, the limit in [Qwen3-8B's `config.json`](https://huggingface.co/Qwen/Qwen3-8B) (YaRN takes it to 131072, at some risk to short texts, says the model card), or -1, with which vLLM takes the longest that fits the memory; `open_engine` takes 8192 unless told.
#
# Most values of the table are from the model card; the 1.5 without thinking is from section 4.6 of the [technical report](https://arxiv.org/abs/2505.09388) and from Qwen's documentation; too high a value may mix languages, the model card warns. For quantised models Qwen advises 1.5 with thinking too ([model card of Qwen3-8B-GGUF](https://huggingface.co/Qwen/Qwen3-8B-GGUF)).
#
# Which are the stop tokens? The tokenizer knows them by id:

# %% key="stops" tags=["extra", "raw"]
import json

text = (folder / "generation_config.json").read_text(encoding="utf-8")
recommended = json.loads(text)
stops = recommended["eos_token_id"]
# zh: 有的模型只写一个编号，不写列表
# en: some models have a single id there and no list
if not isinstance(stops, list):
    stops = [stops]
print("stop tokens:", [tokenizer.decode([token]) for token in stops])
assert default.temperature == recommended.get("temperature", 1.0)

# %% [markdown] lang="zh" key="chat-text"
# ## 第一次对话
#
# `llm.chat` 接过对话，套上对话模板，生成回复；给它几段对话，就一次答完一批。下面问三次：不给采样参数，思考，不思考。
#
# **先选一个。** `finish_reason` 说明为什么停：`stop` 是写完了，`length` 是没地方写了。哪一次会是 `length`？
#
# - A. 第一次
# - B. 第二次：思考写得最长
# - C. 都不会

# %% [markdown] lang="en" key="chat-text"
# ## A first conversation
#
# `llm.chat` takes a conversation, puts it into the chat template and generates the reply; given several conversations, it answers them as a batch. Here it is asked three times: without sampling parameters, with thinking, without thinking.
#
# **Choose first.** `finish_reason` says why it stopped: `stop` if the model was done, `length` if it ran out of room. Which of the three ends with `length`?
#
# - A. The first
# - B. The second: a thought makes it the longest
# - C. None

# %% key="chat" tags=["raw", "varies"]
question = say(
    "给我一个关于大模型的简短介绍。",
    "Give me a short introduction to large language models.",
)
conversation = [{"role": "user", "content": question}]
# zh: 返回的总是列表，一段对话也是，所以取 [0]
# en: what comes back is a list even for one conversation, hence the [0]
cut = llm.chat(conversation, use_tqdm=False)[0]
thoughtful = llm.chat(conversation, thinking, use_tqdm=False)[0]
off = {"enable_thinking": False}
quick = llm.chat(conversation, direct, use_tqdm=False, chat_template_kwargs=off)[0]
for output in (cut, thoughtful, quick):
    reply = output.outputs[0]
    print(reply.finish_reason, len(reply.token_ids), "tokens:", repr(reply.text))
    print("    answer:", split(output).answer)

# %% [markdown] lang="zh" key="template-text"
# <details><summary>读输出</summary>
#
# A。16 个词元不够，答案还没写就断了（空，或者 `None`）。先看 `finish_reason`，再用答案。
#
# </details>
#
# Qwen3 默认会思考，输出先是 `<think>` 到 `</think>`，然后才是答案；`split` 把两段分开（第 06 课细讲）。自带的小模型见过的问题很少，回答不代表真正的 Qwen3。
#
# ## 模板里有什么
#
# 模型读到的是一串文本，由 `apply_chat_template` 从对话渲染出来。关掉思考的参数叫 `enable_thinking`，有的教程写成了 `ensure_thinking`。
#
# **先选一个。** 参数名拼错了，会怎样？
#
# - A. 报错
# - B. 不报错，思考照样开着
# - C. 不报错，思考也关掉了

# %% [markdown] lang="en" key="template-text"
# <details><summary>Reading</summary>
#
# A. With only 16 tokens it was cut before the answer, which is empty or `None`. Look at `finish_reason` before you use an answer.
#
# </details>
#
# Qwen3 thinks by default: the output starts with a thought, from `<think>` to `</think>`, and only then comes the answer. `split` separates the two (more in lesson 06). The tiny model has seen very few questions; its replies do not stand for the real Qwen3.
#
# ## What the template writes
#
# The model does not read a conversation, it reads one string, which `apply_chat_template` renders. The argument that switches thinking off is `enable_thinking`; some tutorials write `ensure_thinking`.
#
# **Choose first.** What happens if the name is misspelt?
#
# - A. An error
# - B. No error, and thinking stays on
# - C. No error, and thinking is off all the same


# %% key="template" tags=["raw"]
def render(question, **arguments):
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **arguments
    )


print("default:        ", repr(render(question)))
print("enable_thinking:", repr(render(question, enable_thinking=False)))
print("ensure_thinking:", repr(render(question, ensure_thinking=False)))
assert render(question, ensure_thinking=False) == render(question)

# %% [markdown] lang="zh" key="ex1-text"
# <details><summary>读输出</summary>
#
# B。模板不认识这个名字，也不说，渲染出来一模一样。
#
# </details>
#
# 关掉思考，就是替模型写好一个空的思考块，它接着写答案。
#
# ### 练习 1 ★☆☆（5 分钟）：亲手渲染一段不思考的提示词
#
# 不用模板，写出它该写的文本：先是系统消息（`None` 就不写），然后是用户的问题，最后让模型不思考、直接作答。
#
# <details><summary>提示</summary>
#
# 每一轮都是 `<|im_start|>` 加角色、换行、内容、`<|im_end|>`、换行。最后一轮只有开头，后面是上面看到的空思考块，连它的空行也要一个不差。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# <details><summary>Reading</summary>
#
# B. The template does not know that name and says nothing; the rendered text is the same.
#
# </details>
#
# Switching thinking off means writing an empty think block for the model, which goes on with the answer.
#
# ### Exercise 1 ★☆☆ (5 minutes): render a non-thinking prompt by hand
#
# Without the template, write the text that it would write: the system message first if there is one (`None` means there is none), then the user's question, and last what makes the model answer without thinking.
#
# <details><summary>Hint</summary>
#
# A turn is `<|im_start|>` and the role, a newline, the content, `<|im_end|>`, a newline. The last turn only begins; what follows is the empty think block that you saw above, blank lines included.
#
# </details>


# %% key="ex1" tags=["exercise"]
def non_thinking_prompt(system, question):
    return ...


# %% key="ex1-solution" tags=["solution"]
def non_thinking_prompt(system, question):  # noqa: F811
    text = ""
    if system is not None:
        text += f"<|im_start|>system\n{system}<|im_end|>\n"
    text += f"<|im_start|>user\n{question}<|im_end|>\n"
    return text + "<|im_start|>assistant\n<think>\n\n</think>\n\n"


# %% key="ex1-check"
l05.ex1.check(non_thinking_prompt)

# %% [markdown] lang="zh" key="off-text"
# **选读。** 自己渲染好的文本交给 `llm.generate`，和 `llm.chat` 走的是同一条路，提示词的词元完全一样。想让思考默认关着：开服务器时写 `--default-chat-template-kwargs '{"enable_thinking": false}'`（第 07 课），离线时把参数写进自己的函数。不要另造一个永不思考的模板，第 07 课的“常见错误”说了为什么。

# %% [markdown] lang="en" key="off-text"
# **Extra.** A text that you rendered yourself goes to `llm.generate`. It is the same road as `llm.chat`: the prompts are equal token by token. To have thinking off by default, start the server with `--default-chat-template-kwargs '{"enable_thinking": false}'` (lesson 07), and offline put the argument into a function of your own. Do not make a template that never thinks; the common errors of lesson 07 say why.

# %% key="off" tags=["extra", "raw"]
prompt = render(conversation[0]["content"], enable_thinking=False)
by_hand = llm.generate(prompt, direct, use_tqdm=False)[0]
print(by_hand.prompt_token_ids == quick.prompt_token_ids, repr(by_hand.prompt))
assert by_hand.prompt_token_ids == quick.prompt_token_ids

# %% [markdown] lang="zh" key="wrong-text"
# **选读。** 问错了会怎样？下一格故意错五次；写错角色的那一次，`open_engine` 会拦下。
#
# **先选一个（选读）。** 其余四次，哪一次不报错，却不是你要的？
#
# - A. 提示词比上下文还长
# - B. 停止词元不在词表里
# - C. 温度是 3
# - D. `max_tokens` 超出剩下的空间

# %% [markdown] lang="en" key="wrong-text"
# **Extra.** What happens to a wrong request? The next cell makes five mistakes; a wrong role is caught by `open_engine`.
#
# **Choose first (extra).** Which of the other four raises nothing and still does not do what you asked?
#
# - A. A prompt longer than the context
# - B. A stop token outside the vocabulary
# - C. A temperature of 3
# - D. A `max_tokens` beyond the room that is left

# %% key="wrong" tags=["extra", "raw", "varies"]
context = llm.model_config.max_model_len
too_long = {"prompt_token_ids": [1] * (context + 1)}
nearly_full = {"prompt_token_ids": [1] * (context - 4)}
robot = [{"role": "robot", "content": "1"}]
unknown = SamplingParams(stop_token_ids=[10**7])
more = SamplingParams(max_tokens=99, ignore_eos=True)

# zh: lambda 后面的请求先不发出；l05.outcome 来发，打印报的错，或者提醒的话
# en: what follows lambda is not sent yet; l05.outcome sends it, and prints the error
# en: that comes back, or the warning
l05.outcome("prompt", lambda: llm.generate(too_long, thinking, use_tqdm=False))
l05.outcome("role", lambda: llm.chat(robot, thinking, use_tqdm=False))
l05.outcome("stop_token_ids", lambda: llm.generate("1", unknown, use_tqdm=False))
l05.outcome("temperature", lambda: SamplingParams(temperature=3))
l05.outcome("max_tokens", lambda: llm.generate(nearly_full, more, use_tqdm=False))

# %% [markdown] lang="zh" key="blocks-text" facts="0.19 570 579"
# <details><summary>读输出</summary>
#
# D。vLLM 写到上下文的尽头就停，`finish_reason` 是 `length`；提醒的那句话是课程的引擎加的。写错角色时，vLLM 自己也不报错，模板悄悄丢掉整条消息，你自己的程序要自己查。vLLM 0.19（驱动 570 到 579 用的那一代）更宽：B 和 C 也不报错。
#
# </details>
#
# 生成到一半，可以中断内核：`open_engine` 丢掉这一批，引擎照样能用。直接用 `LLM` 没有这层保护。
#
# ## PagedAttention：KV 缓存按块分配
#
# 生成要留住每个旧词元的键和值（第 03 课）。给每个请求预留一整段 8192 个词元的缓存，大部分会空着。[PagedAttention](https://arxiv.org/abs/2309.06180) 学操作系统的分页内存：缓存切成小块，请求用到哪里，就领到哪里，用一张块表记住次序。
#
# 下面四个请求的开头是同一张乘法表；第四个和第一个一样。我们一步一步推动引擎（模型算一遍叫一步），每步放一个；`schedule.record` 记下每一步。
#
# **先选一个。** 第四个请求的提示词，还要算几个词元？
#
# - A. 全部：每个请求有自己的一份
# - B. 一个也不用：已经算过了
# - C. 只算末尾没填满的那一块

# %% [markdown] lang="en" key="blocks-text" facts="0.19 570 579"
# <details><summary>Reading</summary>
#
# D. vLLM stops at the end of the context, with `length` as `finish_reason`; the warning is the course's engine's. A wrong role does not make vLLM raise either: the template drops the message in silence, so your own program has to look. vLLM 0.19, the generation for drivers 570 to 579, lets B and C pass too.
#
# </details>
#
# You may interrupt the kernel half way: `open_engine` drops the batch, and the engine stays usable. A plain `LLM` has no such guard.
#
# ## PagedAttention: the KV cache is given out in blocks
#
# Generation keeps the keys and values of every old token (lesson 03). To set aside room for 8192 tokens for each request would leave most of it empty. [PagedAttention](https://arxiv.org/abs/2309.06180) does what an operating system does with pages of memory: the cache is cut into blocks, a request takes one when it needs it, and a block table remembers their order.
#
# The four requests below begin with the same multiplication table, and the fourth asks just what the first does. We push the engine step by step (a step is one pass of the model) and let one request in at each; `schedule.record` notes them all.
#
# **Choose first.** Of the fourth request's prompt, how many tokens are still to be computed?
#
# - A. All: each request has its own copy
# - B. None: all of them were computed before
# - C. Only those of the last block, which is not full


# %% key="blocks" tags=["varies"]
# zh: 把缓存清空，好让第一个请求什么也找不到
# en: an empty cache, in which the first request finds nothing
llm.reset_prefix_cache()
table = "\n".join(f"9×{n}={9 * n}" for n in range(2, 38))
steps = SamplingParams(max_tokens=60, ignore_eos=True)
with schedule.record(llm) as trace:
    for number, question in enumerate(["37×46=?", "23×31=?", "5!=?", "37×46=?"]):
        engine.add_request(str(number), render(f"{table}\n{question}"), steps)
        # zh: 先走一步：下一个请求来之前，这一个的提示词已在缓存里
        # en: one step, and this prompt is cached before the next request arrives
        engine.step()
    while engine.has_unfinished_requests():
        engine.step()
# zh: hits 说这一步开始的请求在缓存里找到几个词元；r0 没有找到，不在里面
# en: hits tells how many tokens a request that starts finds in the cache; r0 finds none
for step in trace.replay():
    for request, cached in step.hits.items():
        print(f"r{request}:", cached, "/", trace.requests[request].prompt, "tokens")
        assert cached % cache.block_size == 0
ScheduleExplorer(trace, step=min(20, len(trace) - 1))

# %% [markdown] lang="zh" key="blocks-read" facts="128"
# <details><summary>读图</summary>
#
# C（r3 是第四个）。斜线前是已在缓存里的词元，后面是提示词的长度。前者总是块大小的整数倍，因为只有填满的块才能共用。这叫**前缀缓存**。
#
# 图的下半是块池和选中请求的块表：带内框的块装着乘法表，四个请求指着同一份；后面的块各归各，编号不必相连。浪费的只是最后一块里的空位。拖动滑块，看谁写完时还回哪几块。
#
# </details>
#
# 现在你来改：换掉第四个问题，或者对调 `{table}` 和 `{question}`，看缓存里还剩几个词元能用。
#
# **选读。** 分块的办法一直在用；论文里写的那个同名内核，vLLM 0.32 里[已经没有了](https://github.com/vllm-project/vllm/pull/54737)，注意力由 FlashAttention 一类的后端来算。GPU 上 vLLM 默认每块 16 个词元，CPU 版默认 128 个；这里改小，图里才有东西可看。每个输出也用 `num_cached_tokens` 报告它用上了多少缓存。
#
# ## 连续批处理：谁先完，谁先走
#
# 传统的批处理凑齐一批，等最长的那个结束，才换下一批。vLLM 在每一步都重新安排：有请求完成，等着的立刻补上。下面一次交上 12 道题，每 4 道里有一道要想得久；`max_num_seqs=4` 让引擎最多同时算 4 个（真实的引擎有几百个位子）。
#
# **先选一个。** 和“凑 4 个一批”比，能省几成的步数？
#
# - A. 不到一成
# - B. 三成上下
# - C. 七成以上

# %% [markdown] lang="en" key="blocks-read" facts="128"
# <details><summary>Reading</summary>
#
# C (r3 is the fourth request). Before the slash are the tokens that were in the cache, after it the length of the prompt. The first is always a multiple of the block size, as only full blocks can be shared. This is called **prefix caching**.
#
# The lower half is the block pool, and the block table of the selected request: the blocks with an inner frame hold the multiplication table, and four requests point to one copy; behind them each has its own, and their ids need not be neighbours. All that is wasted is the rest of a request's last block. Drag the slider to see which blocks go back when a request is done.
#
# </details>
#
# Now change it: ask something else in fourth place, or let `{table}` and `{question}` change places, and see how much of the cache is still of use.
#
# **Extra.** The blocks have stayed; the paper's own kernel of that name [is gone](https://github.com/vllm-project/vllm/pull/54737) from vLLM 0.32, where backends such as FlashAttention compute the attention. On a GPU, vLLM takes blocks of 16 tokens by default; the CPU build takes 128; here they are smaller, to have something to see. Each output also reports how much of the cache it used, as `num_cached_tokens`.
#
# ## Continuous batching: who is done leaves
#
# Classic batching fills a batch and waits for its longest request before it takes the next. vLLM plans anew at every step: when a request is done, a waiting one takes its place. Here 12 problems arrive at once, one of every 4 takes a long thought, and with `max_num_seqs=4` the engine computes at most 4 at once (a real one has hundreds of seats).
#
# **Choose first.** What share of the steps does that save, compared with batches of 4?
#
# - A. Less than a tenth
# - B. About a third
# - C. More than two thirds

# %% key="timeline" tags=["varies"]
long = "17+72+97+18+50+44+12+63+85+29=?"
four = [long, "37×46=?", "23×31=?", "58×94=?"]
with schedule.record(llm, max_num_seqs=4) as trace:
    for number, question in enumerate(four + four + four):
        engine.add_request(str(number), render(question), thinking)
    while engine.has_unfinished_requests():
        engine.step()
# zh: 每个请求写了几个词元，就运行了几步；凑 4 个一批时，等其中最长的那个
# en: a request ran one step a token; a batch of 4 waits for its longest
lengths = [request.outputs for request in trace.requests]
batches = max(lengths[:4]) + max(lengths[4:8]) + max(lengths[8:])
print(say("连续批处理的步数：", "steps with continuous batching:"), len(trace))
print(say("凑 4 个一批的步数：", "steps with batches of 4:"), batches)
print(say("省下：", "saved:"), f"{1 - len(trace) / batches:.0%}")
ScheduleExplorer(trace, step=len(trace) // 2)

# %% [markdown] lang="zh" key="timeline-read"
# <details><summary>读图</summary>
#
# 多半是 B，打印在图的上面；请求的长短越悬殊，省得越多。一行是一个请求，细线在等，绿色在写；看每一行的右端：它一结束，下一步就有一个开始。
#
# </details>
#
# 现在你来改：让十二道题都一样长，再看省下多少。调度器怎样写，见[附录 A3](../zh/A3_mini_vllm.ipynb)。
#
# ## 采样在做什么
#
# 模型每一步给词表里的每个词元一个分数，采样参数决定从哪些里面、按什么比例抽。讲故事时，接下来常有好几种写法：

# %% [markdown] lang="en" key="timeline-read"
# <details><summary>Reading</summary>
#
# The answer is printed above the figure, most likely B; the more the lengths differ, the larger it is. A row is a request, a thin line waits, green writes. Look at the right ends: a step after one of them another request starts.
#
# </details>
#
# Now change it: make all twelve problems equally long, and see how much is saved. How to write such a scheduler: [appendix A3](../en/A3_mini_vllm.ipynb).
#
# ## What sampling does
#
# At each step the model gives every token of the vocabulary a score, and the sampling parameters decide which of them are drawn and in what proportion. A story often has several sensible ways on:

# %% key="position" tags=["raw"]
import torch

start = render("Tell me a story in two sentences.", enable_thinking=False)
start += "Once a cat met"
everything = SamplingParams(max_tokens=1, temperature=0, logprobs=-1)
output = llm.generate(start, everything, use_tqdm=False)[0]
# zh: 词表里每个词元的对数概率，从概率最大的排起；exp 把它变回概率
# en: the log-probability of every token of the vocabulary, the likeliest first;
# en: exp makes it a probability again
found = output.outputs[0].logprobs[0]
entries = sorted(found.values(), key=lambda entry: entry.rank)
logprobs = torch.tensor([[entry.logprob for entry in entries]])  # (1, vocab)
probabilities = logprobs[0].exp()
for place in range(6):
    print(f"{entries[place].decoded_token!r:10} {probabilities[place]:.3f}")

# %% [markdown] lang="zh" key="settings-text"
# 读输出：像样的有三种，其余两千多个词元加起来几乎为零（真实的模型候选多得多）。
#
# **温度**：所有分数都除以它，小于 1，差距拉大；大于 1，差距抹平。**top-p** 从最好的数起，概率累计到 p 就停，去掉后面的。**top-k** 只留最好的 k 个，**min-p** 去掉不到最大概率某个比例的。剩下的重新归一，再抽。
#
# **先选一个。** 下面三种设置，哪一种留下的候选最少？
#
# - A. 思考：温度 0.6，top-p 0.95
# - B. 非思考：温度 0.7，top-p 0.8
# - C. 温度 2

# %% [markdown] lang="en" key="settings-text"
# How to read it: three ways on are sensible; the other two thousand and more tokens have next to nothing (a real model has many more candidates).
#
# **Temperature** divides all scores: below 1 differences grow, above 1 they fade. **top-p** counts from the best until the probabilities add up to p, and drops the rest. **top-k** keeps the best k, and **min-p** drops tokens that are less likely than some fraction of the likeliest. What is left is renormalised and drawn from.
#
# **Choose first.** Which of these settings leaves the fewest candidates?
#
# - A. Thinking: temperature 0.6, top-p 0.95
# - B. Non-thinking: temperature 0.7, top-p 0.8
# - C. Temperature 2

# %% key="settings"
from helpers.qwen import keep_top_p


# zh: 对数概率和分数只差一个常数，softmax 的结果一样
# en: log-probabilities are the scores less a constant, and softmax gives the same
def next_token(logprobs, temperature, top_p=1.0):
    scores = logprobs / temperature
    if top_p < 1:
        scores = keep_top_p(scores, top_p)
    return scores.softmax(dim=-1)  # (1, vocab)


chances = {
    say("原样", "as it is"): next_token(logprobs, 1.0),
    say("思考", "thinking"): next_token(logprobs, 0.6, top_p=0.95),
    say("非思考", "non-thinking"): next_token(logprobs, 0.7, top_p=0.8),
    say("温度 2", "temperature 2"): next_token(logprobs, 2.0),
}
l05.candidates(entries, chances)

# %% [markdown] lang="zh" key="settings-read"
# <details><summary>读图</summary>
#
# B。浅色是模型给的概率，深色是采样真正用的概率；只画最好的 6 个，`␣` 是空格，标题里是还可能被抽到的个数。非思考的 top-p 更小，剪得更多。温度 2 一个也不剪，只把机会分给尾巴，胡话就是这么混进来的；所以高温要配 top-p 或 min-p。
#
# </details>
#
# ### 练习 2 ★☆☆（5 分钟）：写出 top-p
#
# `probabilities` 是一个列表，从大到小排好。从头数起，累计够 `top_p` 就停，越过门槛的那一个也留下；返回留下的概率，各除以它们的和，好让总和又是 1。例如 `[0.5, 0.25, 0.25]` 和 0.6 得到 `[2/3, 1/3]`。
#
# <details><summary>提示</summary>
#
# 一个 `for` 循环，一个空列表，一个累计的和。先看前面的和够不够，不够才收下这一个。
#
# </details>

# %% [markdown] lang="en" key="settings-read"
# <details><summary>Reading</summary>
#
# B. Light is the model's probability, dark what sampling uses; only the best 6 are drawn, `␣` is a space, and the title counts the tokens that can still be drawn. Without thinking top-p is smaller and cuts more. Temperature 2 cuts nothing and hands chances to the tail; that is how nonsense gets in, and why a high temperature wants top-p or min-p beside it.
#
# </details>
#
# ### Exercise 2 ★☆☆ (5 minutes): write top-p
#
# `probabilities` is a list, from the largest down. Count from its start and stop as soon as the sum reaches `top_p`; the one that crosses the line stays. Return the probabilities that stay, each divided by their sum, so that they add up to 1 again. For example, `[0.5, 0.25, 0.25]` with 0.6 gives `[2/3, 1/3]`.
#
# <details><summary>Hint</summary>
#
# A `for` loop, an empty list and a running sum. Ask first whether the sum so far is enough; only if it is not, take the next one.
#
# </details>


# %% key="ex2" tags=["exercise"]
def top_p_chances(probabilities, top_p):
    return ...


# %% key="ex2-solution" tags=["solution"]
def top_p_chances(probabilities, top_p):  # noqa: F811
    kept, total = [], 0
    for probability in probabilities:
        if total >= top_p:
            break
        kept.append(probability)
        total += probability
    return [probability / total for probability in kept]


# %% key="ex2-check"
l05.ex2.check(top_p_chances)

# %% [markdown] lang="zh" key="draws-text"
# ## 采样的全部参数（选读）
#
# vLLM 依次作用四个参数：温度、min-p、top-k、top-p。下一格照这个次序算出概率，再让 vLLM 抽 400 次，两边对一对。本节的三格要依次运行。

# %% [markdown] lang="en" key="draws-text"
# ## All parameters of sampling (extra)
#
# vLLM applies four parameters in turn: temperature, min-p, top-k, top-p. The next cell computes the probabilities in that order and then lets vLLM draw 400 times; compare the two. Run the three cells of this section in order.

# %% key="draws" tags=["extra", "varies"]
from collections import Counter

from helpers.qwen import keep_min_p, keep_top_k


# zh: logprobs 的形状是 (1, vocab)
# en: logprobs is (1, vocab)
def sampled(logprobs, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    scores = logprobs / temperature
    if min_p:
        scores = keep_min_p(scores, min_p)
    if top_k:
        scores = keep_top_k(scores, top_k)
    if top_p < 1:
        scores = keep_top_p(scores, top_p)
    return scores.softmax(dim=-1)  # (1, vocab)


settings = {
    say("原样", "as it is"): {},
    say("思考", "thinking"): {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    say("非思考", "non-thinking"): {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    say("温度 2", "temperature 2"): {"temperature": 2.0},
    "min-p 0.3": {"min_p": 0.3},
}
token_ids = sorted(found, key=lambda token: found[token].rank)
# zh: GPU 上用 bf16，恰好压线的词元两边都可能
# en: bf16 on a GPU: a token at the line may fall either way
draws, edge = 400, 0.05 if torch.cuda.is_available() else 0
print(say("抽到的比例 / 公式算的概率", "share drawn / by formula"))
for name, chosen in settings.items():
    params = SamplingParams(n=draws, max_tokens=1, **chosen)
    many = llm.generate(start, params, use_tqdm=False)[0]
    drawn = Counter(completion.token_ids[0] for completion in many.outputs)
    expected = sampled(logprobs, **chosen)[0].tolist()
    shown = []
    for token, formula in zip(token_ids, expected, strict=True):
        real = drawn[token] / draws
        shown.append(f"{real:.2f} / {formula:.2f}")
        # zh: 剪掉的从不出现；其余的偏差不到五个标准差
        # en: what was cut never comes; the rest is less than five standard deviations off
        assert formula > 0 or real <= edge
        assert abs(real - formula) < 0.12
    print("  ".join(shown[:3]), f" {name}")

# %% [markdown] lang="zh" key="explorer-text" facts="100"
# 自己拖一拖：四个滑块就是四个参数，灰条是模型的概率，蓝条是采样用的，按钮真的去抽 100 次。第二段文字是中文的，像样的写法有五种。试试看：温度调到 2，另外三个参数里只动一个，剪掉胡话，留下像样的写法。

# %% [markdown] lang="en" key="explorer-text" facts="100"
# Try it by hand: four sliders for the four parameters, grey bars for the model's probabilities, blue for those that sampling uses, and a button that really draws, 100 times. The second text is Chinese and has five sensible ways on. A task: at temperature 2, move one of the other three; cut the nonsense and keep the sensible ways on.

# %% key="explorer" tags=["extra", "raw"]
from helpers.explorer import SamplingExplorer

chinese = render("讲一个两句话的小故事。", enable_thinking=False) + "从前有一只"
second = llm.generate(chinese, everything, use_tqdm=False)[0]
positions = {"Once a cat met": found, "从前有一只": second.outputs[0].logprobs[0]}
SamplingExplorer(positions, model=folder.name)

# %% [markdown] lang="zh" key="explorer-answer-text"
# 试过了再看：下一格在两段文字上各试三种剪法，温度都是 2，数一数剩下几个词元。
#
# **先选一个。** 哪一种在两段文字上都剪得正好？
#
# - A. min-p 0.1
# - B. top-k 3
# - C. top-p 0.8

# %% [markdown] lang="en" key="explorer-answer-text"
# Try it before you read on. The next cell makes three cuts on both texts, at temperature 2, and counts the tokens left.
#
# **Choose first.** Which of them cuts both texts just right?
#
# - A. min-p 0.1
# - B. top-k 3
# - C. top-p 0.8

# %% key="explorer-answer" tags=["extra"]
cuts = {
    "min-p 0.1": {"min_p": 0.1},
    "top-k 3": {"top_k": 3},
    "top-p 0.8": {"top_p": 0.8},
}
for name, cut in cuts.items():
    left = []
    for position in positions.values():
        values = [entry.logprob for entry in position.values()]
        kept = sampled(torch.tensor([values]), temperature=2, **cut)  # (1, vocab)
        left.append((kept > 0).sum().item())
    print(f"{name}: {left}")

# %% [markdown] lang="zh" key="ex3-text"
# <details><summary>读输出</summary>
#
# A。min-p 的门槛跟着第一名走，两处都恰好留下像样的那几个。top-k 要先知道该留几个，换一段文字就不对。温度 2 让尾巴变厚，top-p 还留着一大片。
#
# </details>
#
# ### 练习 3 ★★☆（8 分钟，选读）：整批的 top-p
#
# `logits` 是 `(batch, vocab)`。把累计概率够 `top_p` 之后的词元设成负无穷，位置不变。越过门槛的那一个要留下：`top_p=0.5` 而第一名有 0.6，就留第一名。
#
# <details><summary>提示</summary>
#
# 从大到小排序，softmax，`cumsum`。一个词元该不该去掉，看它**前面**的累计概率够不够。最后用 `scatter` 放回原来的位置。
#
# </details>

# %% [markdown] lang="en" key="ex3-text"
# <details><summary>Reading</summary>
#
# A. min-p's line moves with the best token, so in both texts exactly the sensible ones stay. top-k has to know their number beforehand, and is wrong in the other text. Temperature 2 fattens the tail, and top-p leaves a crowd of it.
#
# </details>
#
# ### Exercise 3 ★★☆ (8 minutes, extra): top-p for a batch
#
# `logits` is `(batch, vocab)`. Set to minus infinity all tokens behind the point where the probabilities add up to `top_p`, in their old places. The one that crosses the line stays: with `top_p=0.5` and a first token of 0.6, that one is kept.
#
# <details><summary>Hint</summary>
#
# Sort from high to low, softmax, `cumsum`. Whether a token goes depends on the sum **before** it. `scatter` puts the result back into the old places.
#
# </details>


# %% key="ex3" tags=["exercise", "extra"]
def top_p_filter(logits, top_p):
    return ...


# %% key="ex3-solution" tags=["solution"]
def top_p_filter(logits, top_p):  # noqa: F811
    ordered, token_ids = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill(mass_before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter(-1, token_ids, ordered)


# %% key="ex3-check" tags=["extra"]
l05.ex3.check(top_p_filter)

# %% [markdown] lang="zh" key="logprobs-text"
# ## 模型有多大把握（选读）
#
# `logprobs=k` 让每个词元带上自己和前 k 名的对数概率。
#
# **先选一个。** 小模型不思考就回答 `37×46=?`，写到哪里最没有把握？
#
# - A. 照抄题目的时候
# - B. 积的第一位
# - C. 积的中间几位

# %% [markdown] lang="en" key="logprobs-text"
# ## How sure is the model (extra)
#
# With `logprobs=k` each token comes with its own log-probability and those of the k best.
#
# **Choose first.** The tiny model answers `37×46=?` without thinking. Where is it least sure?
#
# - A. As it copies the problem
# - B. At the first digit of the product
# - C. In the middle of the product

# %% key="logprobs" tags=["extra"]
watch = SamplingParams(temperature=0, max_tokens=60, logprobs=3)
written = {}
for enabled in (False, True):
    prompt = render("37×46=?", enable_thinking=enabled)
    reply = llm.generate(prompt, watch, use_tqdm=False)[0].outputs[0]
    # zh: 每个位置是一个字典：词元的编号 → 它的对数概率；取写出的那个
    # en: each place is a dictionary, token id -> log-probability; take the one written
    chosen = []
    for token, place in zip(reply.token_ids, reply.logprobs, strict=True):
        chosen.append(place[token])
    written[f"enable_thinking={enabled}"] = chosen
l05.confidence(written)

# %% [markdown] lang="zh" key="structured-text"
# <details><summary>读图</summary>
#
# C。一条柱是一个写出来的词元，高度是模型给它的概率。不思考时，抄题目、写首位都很有把握，到中间几位忽然拿不准，贪心解码还是写下去，于是答错。思考时每一步都接近 1。概率低的地方值得怀疑，概率高却不等于正确。
#
# </details>
#
# ## 约束输出的格式（选读）
#
# 程序要读模型的输出时，与其在提示词里恳求，不如让引擎只允许合格的词元：`structured_outputs` 收选项、正则表达式或 JSON schema。旧教程的 `guided_choice`、`guided_json`、`guided_decoding` 已经删除，再写就是 `TypeError`。
#
# **先选一个。** 小模型没学过 JSON。不让它思考，逼它用 JSON 回答 `23×31=?`，会得到什么？
#
# - A. 合格的 JSON，数也对
# - B. 合格的 JSON，数是错的
# - C. 报错：它不会写

# %% [markdown] lang="en" key="structured-text"
# <details><summary>Reading</summary>
#
# C. A bar is a token that was written, its height the probability the model gave it. Without thinking it is sure of the problem and of the first digit, and suddenly wavers in the middle of the product; greedy decoding writes on all the same, and the result is wrong. With thinking every step is close to 1. A low probability is worth a doubt; a high one is no proof.
#
# </details>
#
# ## Constrain the form of the output (extra)
#
# When a program reads the output, do not plead in the prompt: let the engine allow only tokens that fit. `structured_outputs` takes choices, a regular expression or a JSON schema. The older `guided_choice`, `guided_json` and `guided_decoding` are gone and raise a `TypeError`.
#
# **Choose first.** The tiny model never learned JSON. It may not think, and has to answer `23×31=?` in JSON. What comes out?
#
# - A. Well-formed JSON with the right number
# - B. Well-formed JSON with a wrong number
# - C. An error: it cannot write that

# %% key="structured" tags=["extra", "varies"]
import re

from vllm.sampling_params import StructuredOutputsParams

schema = {
    "type": "object",
    "properties": {"product": {"type": "integer"}},
    "required": ["product"],
}
capital = say("法国的首都是哪里？", "What is the capital of France?")
constraints = {
    capital: {"choice": say("巴黎 伦敦 东京", "Paris London Tokyo").split()},
    "37×46=?": {"regex": r"37×46=\d{4}"},
    "23×31=?": {"json": schema},
}
for question, constraint in constraints.items():
    params = SamplingParams(
        temperature=0,
        max_tokens=64,
        structured_outputs=StructuredOutputsParams(**constraint),
    )
    prompt = render(question, enable_thinking=False)
    text = llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].text
    # zh: 一串空白打印成一个空格
    # en: a run of whitespace is printed as one space
    print(question, constraint, "→", " ".join(text.split()))
    if "choice" in constraint:
        assert text in constraint["choice"]
form = StructuredOutputsParams(**constraints["37×46=?"])
params = SamplingParams(
    temperature=0.6, top_p=0.95, top_k=20, max_tokens=limit, structured_outputs=form
)
reply = split(llm.generate(render("37×46=?"), params, use_tqdm=False)[0])
print("enable_thinking=True:", reply)
if reply.thinking and reply.finished:
    assert re.fullmatch(r"37×46=\d{4}", reply.answer)

# %% [markdown] lang="zh" key="batch-text"
# <details><summary>读输出</summary>
#
# B。格式都合格，内容不一定。JSON 里的空白可能很怪（这里合并了），先 `json.loads` 再比较；`max_tokens` 要留够，不然 JSON 会断在半路。思考开着时，约束从 `</think>` 之后才开始，所以能先想，再按格式答对（最后一行）。引擎要带着 `reasoning_parser="qwen3"`（`open_engine` 会加上），不然约束从第一个词元就生效，思考写不出来。
#
# </details>
#
# ## 一道题，还是一批题（选读）
#
# 这里只数词元、不看答案：每道题都写满同样的长度，好让各种做法的工作量相等。
#
# **先选一个。** 64 道题一起算，每秒生成的词元是一道题时的多少倍？
#
# - A. 1 倍：机器还是那台机器
# - B. 大于 1，小于 64
# - C. 64 倍

# %% [markdown] lang="en" key="batch-text"
# <details><summary>Reading</summary>
#
# B. The forms are right, the contents need not be. The whitespace in JSON may be odd (it is joined here), so use `json.loads` before you compare, and leave enough `max_tokens`, or the JSON breaks off. With thinking on, the constraint begins after `</think>`, so the model can think first and then answer right, in form (last line). That takes an engine with `reasoning_parser="qwen3"` (`open_engine` adds it); without it the constraint holds from the first token, and no thought can be written.
#
# </details>
#
# ## One problem, or a batch (extra)
#
# Only tokens count here and not answers: every problem gets the same length, so that each method has the same work.
#
# **Choose first.** With 64 problems computed together, how many times the tokens per second of a single one is it?
#
# - A. 1 time, no more: it is the same machine
# - B. More than 1 and less than 64
# - C. 64 times

# %% key="batch" tags=["extra", "varies"]
import time

cases = int(os.environ.get("COURSE_CASES", 64))
prompts = [render(question) for question in l05.questions(max(64, cases))]
length = 64
fixed = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
# zh: 第一次调用是热身
# en: the first call warms up
llm.generate(prompts[:2], fixed, use_tqdm=False)


def measure(generate, count):
    start = time.perf_counter()
    generate(count)
    return count * length / (time.perf_counter() - start)


def with_vllm(count):
    llm.generate(prompts[:count], fixed, use_tqdm=False)


single = measure(with_vllm, 1)
# zh: 机器慢就少做几道：一道一道做，一分钟要做得完
# en: a slow machine does fewer: one by one they should take a minute at most
count = max(1, min(cases, int(60 * single / length)))
alone = say(f"{count} 道题一道一道做，约需", f"{count} problems one by one, about")
print(alone, f"{count * length / single:.1f} s")
speed = {"vLLM, batch=1": single, f"vLLM, batch={count}": measure(with_vllm, count)}
for name, value in speed.items():
    print(f"{name:15} {value:8.0f} tokens/s  ×{value / single:.0f}")

# %% [markdown] lang="zh" key="close-text"
# <details><summary>读输出</summary>
#
# B。倍数在行末。它离题数越近，并在一起的请求越不互相拖累；为什么能这样，第 08 课的“一张 24 GB 的卡，上限在哪里”算给你看。
#
# </details>
#
# ## 释放引擎
#
# vLLM 没有公开的关闭方法，`del llm` 也常常不够：笔记本存着的 `Out[]` 里可能还有它。`close_engine()` 把内存还给系统；`with open_engine() as llm:` 则会自动关闭。

# %% [markdown] lang="en" key="close-text"
# <details><summary>Reading</summary>
#
# B. The factor is at the end of the line. The closer it is to the number of problems, the less they hold each other up; why that can be is computed in "A 24 GB card: where is its limit" of lesson 08.
#
# </details>
#
# ## Release the engine
#
# vLLM has no public method to close an engine, and `del llm` is often not enough: what the notebook keeps in `Out[]` may still hold it. `close_engine()` gives the memory back; `with open_engine() as llm:` does so by itself.

# %% key="close"
close_engine()

# %% [markdown] lang="zh" key="compare-text"
# ## 和 transformers 并排（选读）
#
# 先运行上面的“一道题，还是一批题”。
#
# 引擎关上了，轮到 transformers 做同样的题，一次一道，再一次一批。
#
# **先选一个。** 在小模型上，哪两样的速度差得更多？
#
# - A. 一次一批和一次一道
# - B. vLLM 和 transformers

# %% [markdown] lang="en" key="compare-text"
# ## Side by side with transformers (extra)
#
# Run "One problem, or a batch" above first.
#
# The engine is closed; now transformers does the same problems, one at a time and then as a batch.
#
# **Choose first.** Which two differ more in speed on the tiny model?
#
# - A. A batch, and one at a time
# - B. vLLM and transformers

# %% key="compare" tags=["extra", "varies"]
import transformers

device = "cuda" if torch.cuda.is_available() else "cpu"
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.bfloat16
).to(device)
# zh: 在左边补齐，新词元才好接在右边
# en: padded on the left, so that new tokens follow on the right
padded = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def with_transformers(number):
    batch = padded(
        prompts[:number], return_tensors="pt", padding=True, add_special_tokens=False
    ).to(device)
    model.generate(**batch, max_new_tokens=length, min_new_tokens=length, **greedy)


def one_by_one(number):
    for _ in range(number):
        with_transformers(1)


# zh: 第一次调用是热身
# en: the first call warms up
with_transformers(1)
# zh: 一道一道地做，量十秒就够
# en: one by one, ten seconds are enough
few = max(1, min(count, int(10 * measure(with_transformers, 1) / length)))
speed["transformers, batch=1"] = measure(one_by_one, few)
speed[f"transformers, batch={count}"] = measure(with_transformers, count)
# zh: 把内存还回去
# en: give its memory back
model = None
ratio = speed[f"vLLM, batch={count}"] / speed[f"transformers, batch={count}"]
print(f"batch={count}: vLLM / transformers = {ratio:.1f}")
l05.speeds(speed, f"{folder.name}, {device}")

# %% [markdown] lang="zh" key="recap"
# <details><summary>读图</summary>
#
# A。成批远远快过一道一道来，两家都是。两家都成批，vLLM 快几倍，打印在图的上面，这个数随机器和负载变。别从它推断真正的 Qwen3：小模型没有多少权重要读，时间花在每一步的 Python 里；题目又写得一样长，transformers 没有空等的损失。
#
# </details>
#
# 真正的 Qwen3 在一张卡上最多能多快，[第 08 课](../zh/08_serving_under_load.ipynb)在“一张 24 GB 的卡，上限在哪里”里算给你看。
#
# ## 小结
#
# - 引擎打开一次，用同一个 `LLM` 成批生成，最后释放。
# - KV 缓存按块分配，开头相同就共用；请求一完成，位子立刻给下一个。
# - 停止词元和采样的默认值来自 `generation_config.json`，唯独 `max_tokens` 默认是 16。
# - 温度改比例，top-p 剪尾巴；思考用 0.6 和 0.95，非思考用 0.7、0.8 和 1.5 的 `presence_penalty`。
# - 先看 `finish_reason`；拼错的模板参数不报错。
#
# ## 自测
#
# 1. 为什么缓存里找到的词元数总是块大小的整数倍？
# 2. `SamplingParams()` 和完全不传参数，采样的温度一样吗？
# 3. 第一名概率 0.6，第二名 0.3，`top_p=0.5` 留下几个？`min_p=0.5` 呢？
# 4. 一批里有一个请求先写完，它的位子怎么办？
# 5. `max_tokens=5000`，而上下文只剩 3000，会发生什么？
#
# <details><summary>答案</summary>
#
# 1. 只有填满的块才能共用。
# 2. 不一样。不传时用 `generation_config.json` 的 0.6；自己建的 `SamplingParams()` 是 1.0。
# 3. top-p 留 1 个：越过门槛的第一名。min-p 留 2 个：0.3 不小于 0.6 的一半。
# 4. 下一步就给等着的请求。
# 5. vLLM 不报错，写满 3000 个就停，`finish_reason` 是 `length`。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 回答断在第 16 个词元 | 没有给 `max_tokens` | 写 `max_tokens=None` 或足够大的数 |
# | 关了思考，还在思考 | 参数名写错，如 `ensure_thinking` | `chat_template_kwargs={"enable_thinking": False}`，并打印提示词 |
# | 思考没完没了 | `temperature=0` | 用思考模式的采样值 |
# | `out-of-vocab token ids` | 抄来的 `stop_token_ids` | 删掉它，或按名字向分词器查 |
# | 第二个 `LLM` 内存不足 | 每次都新建引擎 | 只建一次，传进去 |
# | GPU 上第一次打开引擎，几分钟没有动静 | 装了 nvcc 时，FlashInfer 在编译内核 | 等它编译完；或先运行 `vllm download-kernels`（0.32 起有） |
# | 旧代码里有 `trust_remote_code=True` | 会运行陌生代码 | 删掉，Qwen3 用不上 |
#
# ## 可以直接拿走的代码（选读）
#
# 把下一格存成 `vllm_model.py`：它不依赖本课程，引擎只建一次，成批作答，思考和答案分开，断掉的答案有标记（`length`），放不进上下文的问题只耽误它自己；没有下载过的模型从 ModelScope 取。在 CPU 上要先设两个变量，不设它就用一句话说明。`VLLM_ENABLE_V1_MULTIPROCESSING=0` 把引擎放进脚本自己的进程：用 `kill -9` 杀掉脚本，引擎也一起结束，不会留下来占着内存。在笔记本里它只定义函数，不打开引擎。

# %% [markdown] lang="en" key="recap"
# <details><summary>Reading</summary>
#
# A. A batch is far faster than one at a time, in both libraries. How many times faster vLLM is when both have a batch is printed above the figure, and changes with machine and load. Draw no conclusion about a real Qwen3 from it: this model has hardly any weights to read, and the time goes into the Python of each step; and since all outputs are equally long, transformers loses nothing by waiting.
#
# </details>
#
# How fast a real Qwen3 can be at most on one card is computed in "A 24 GB card: where is its limit" of [lesson 08](../en/08_serving_under_load.ipynb).
#
# ## Recap
#
# - Open the engine once, generate in batches with one `LLM`, release it.
# - The KV cache is given out in blocks, shared where prompts begin alike; the moment a request is done, another takes its place.
# - Stop tokens and default sampling values come from `generation_config.json`, but `max_tokens` is 16 unless you set it.
# - Temperature changes proportions; top-p cuts the tail. Thinking: 0.6 and 0.95; without: 0.7, 0.8 and a `presence_penalty` of 1.5.
# - Look at `finish_reason` first; a misspelt template argument raises nothing.
#
# ## Test yourself
#
# 1. Why is the number of tokens found in the cache always a multiple of the block size?
# 2. Is the temperature the same with `SamplingParams()` and with no parameters at all?
# 3. The best token has 0.6, the second 0.3: how many stay with `top_p=0.5`, and with `min_p=0.5`?
# 4. One request of a batch is done before the others: what becomes of its seat?
# 5. `max_tokens=5000`, and the context has 3000 left: what happens?
#
# <details><summary>Answers</summary>
#
# 1. Only full blocks can be shared.
# 2. No. With none, it is 0.6 from `generation_config.json`; your own `SamplingParams()` has 1.0.
# 3. top-p keeps 1, the best token, which crosses the line. min-p keeps 2: 0.3 is not less than half of 0.6.
# 4. A waiting request gets it at the next step.
# 5. vLLM raises nothing and stops after 3000; `finish_reason` is `length`.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | the reply breaks off at token 16 | no `max_tokens` | `max_tokens=None`, or enough of them |
# | thinking is off, and it still thinks | a misspelt argument such as `ensure_thinking` | `chat_template_kwargs={"enable_thinking": False}`, and print the prompt |
# | a thought without end | `temperature=0` | the sampling values for thinking |
# | `out-of-vocab token ids` | copied `stop_token_ids` | drop them, or ask the tokenizer by name |
# | the second `LLM` runs out of memory | a function builds the engine at every call | build it once, outside, and pass it in |
# | on a GPU the first engine says nothing for minutes | with nvcc on the machine, FlashInfer compiles kernels | wait for it; or run `vllm download-kernels` first (0.32 has it) |
# | old code has `trust_remote_code=True` | it lets a stranger's code run | delete it, Qwen3 does not need it |
#
# ## Code to take away (extra)
#
# Save the next cell as `vllm_model.py`: it needs nothing of this course, builds the engine once, answers in batches and keeps thinking and answer apart; an answer that was cut is marked (`length`), and a question that does not fit the context harms no other; a model that is not on your disk is fetched from ModelScope. On a CPU it wants two variables set, and says so in one sentence if they are not. `VLLM_ENABLE_V1_MULTIPROCESSING=0` puts the engine into the script's own process: a `kill -9` of the script ends both, and nothing stays behind with its memory. In a notebook it only defines its functions and opens no engine.

# %% key="copy-me" tags=["copy-me", "extra"]
import os
import sys
from pathlib import Path

MODEL = os.environ.get("COURSE_MODEL", "Qwen/Qwen3-8B")
if not Path(MODEL).is_dir():
    # zh: 导入 vllm 时就会读它，所以要先设
    # en: read when vllm is imported, so set it before
    os.environ.setdefault("VLLM_USE_MODELSCOPE", "1")
# zh: 引擎放进这个脚本自己的进程：脚本被 kill -9，引擎也一起结束
# en: the engine in this script's own process: a kill -9 of it ends both
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402

THINKING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}
DIRECT = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0}
DIRECT["presence_penalty"] = 1.5


def split(output, tokenizer):
    """(thinking, answer) of one output; a thought that was cut has no answer, None."""
    tags = ["<|im_start|>", "<think>", "</think>"]
    turn, begin, end = tokenizer.convert_tokens_to_ids(tags)
    prompt, ids = list(output.prompt_token_ids), list(output.outputs[0].token_ids)
    # zh: 最后一轮的开头：2507 Thinking 的模板把 <think> 写在这里
    # en: how the last turn begins: 2507 Thinking's template writes <think> there
    opening = prompt[len(prompt) - prompt[::-1].index(turn) :]
    if end in ids:
        place = len(ids) - 1 - ids[::-1].index(end)
        parts = ids[:place], ids[place + 1 :]
    else:
        thought = begin in ids or (begin in opening and end not in opening)
        parts = (ids, None) if thought else ([], ids)
    texts = []
    for part in parts:
        shown = [token for token in part or [] if token not in (begin, end)]
        texts.append(tokenizer.decode(shown, skip_special_tokens=True).strip())
    return texts[0], None if parts[1] is None else texts[1]


def ask(llm, questions, thinking=True, max_tokens=None):
    """Answers a batch of questions: (thinking, answer, finish) for each.

    finish is "stop" for a whole answer, "length" for one that was cut. A question that
    the context has no room for is left out of the batch: (None, None, "too long").
    """
    tokenizer, prompts = llm.get_tokenizer(), {}
    for number, question in enumerate(questions):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) < llm.model_config.max_model_len:
            prompts[number] = {"prompt_token_ids": ids}
    sampling = THINKING if thinking else DIRECT
    params = SamplingParams(**sampling, max_tokens=max_tokens)
    outputs = llm.generate(list(prompts.values()), params, use_tqdm=False)
    replies = [(None, None, "too long")] * len(questions)
    for number, output in zip(prompts, outputs, strict=True):
        finish = output.outputs[0].finish_reason
        replies[number] = (*split(output, tokenizer), finish)
    return replies


# zh: 只在作为脚本运行时执行；在笔记本里由你自己决定
# en: as a script only; in a notebook you decide
if __name__ == "__main__" and "get_ipython" not in globals():
    needed = {"VLLM_CPU_KVCACHE_SPACE", "TORCH_COMPILE_DISABLE"}
    if current_platform.is_cpu() and needed - set(os.environ):
        # zh: 不设的话，vLLM 占去 92 % 的内存，还要编译
        # en: without them vLLM takes 92 % of the memory, and compiles
        sys.exit("On a CPU: export VLLM_CPU_KVCACHE_SPACE=4 TORCH_COMPILE_DISABLE=1")
    # zh: 只建一次；Instruct-2507 不要写 reasoning_parser
    # en: once; leave reasoning_parser out for Instruct-2507
    llm = LLM(model=MODEL, max_model_len=-1, reasoning_parser="qwen3")
    for thought, answer, finish in ask(llm, ["37×46=?", "23×31=?"]):
        print(f"thinking: {thought}\nanswer: {answer}\nfinish: {finish}\n")
    print("without thinking:", ask(llm, ["37×46=?"], thinking=False)[0][1])

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [PagedAttention 论文](https://arxiv.org/abs/2309.06180)；vLLM 文档：[离线推理](https://docs.vllm.ai/en/stable/serving/offline_inference.html)、[结构化输出](https://docs.vllm.ai/en/stable/features/structured_outputs.html)
# - 采样：[top-p](https://arxiv.org/abs/1904.09751)，[min-p](https://arxiv.org/abs/2407.01082)；采样的建议在 [Qwen3-8B 的模型卡](https://huggingface.co/Qwen/Qwen3-8B)里，非思考的 `presence_penalty` 见[技术报告](https://arxiv.org/abs/2505.09388)第 4.6 节
#
# 下一课：[思考换来什么](../zh/06_thinking.ipynb)，用同一个引擎量一量。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [The PagedAttention paper](https://arxiv.org/abs/2309.06180); vLLM's documentation: [offline inference](https://docs.vllm.ai/en/stable/serving/offline_inference.html), [structured outputs](https://docs.vllm.ai/en/stable/features/structured_outputs.html)
# - Sampling: [top-p](https://arxiv.org/abs/1904.09751), [min-p](https://arxiv.org/abs/2407.01082); Qwen's advice is on [Qwen3-8B's model card](https://huggingface.co/Qwen/Qwen3-8B), `presence_penalty` without thinking in section 4.6 of the [technical report](https://arxiv.org/abs/2505.09388)
#
# Next: [what thinking buys](../en/06_thinking.ipynb), measured with the same engine.
