# %% [markdown] lang="zh" key="title"
# # 08 · 在负载下提供服务
#
# | | |
# |---|---|
# | 学完能做 | 写一个异步客户端，量出吞吐量、首个词元的时间和词元间隔；算出一张卡的上限；从 `/metrics` 里看连续批处理、排队和前缀缓存；处理超时、拒绝和重试；说清张量并行、流水线并行、数据并行各要多少显存 |
# | 先修 | 第 07 课；见过 Python 的 `async` 和 `await` |
# | 时间 | 主线 35 分钟；标着“选读”的小节、练习和可以拿走的代码再加 35 分钟，跳过不影响后面 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的 `qwen3-tiny`；建议的真实模型：Qwen3-8B（24 GB 显存） |
# | 说明 | 曲线来自 CPU 和小模型，形状可学，数值不可搬；没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 08 · Serving under load
#
# | | |
# |---|---|
# | You will be able to | write an asynchronous client and measure throughput, time to first token and inter-token latency; compute the limit of a card; watch continuous batching, the queue and the prefix cache in `/metrics`; handle timeouts, refusals and retries; tell how much GPU memory tensor, pipeline and data parallelism take |
# | Prerequisites | lesson 07; you have seen `async` and `await` in Python |
# | Time | 35 minutes for the main path; 35 more for the sections, exercises and code marked "extra", which can be skipped |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the bundled `qwen3-tiny`; a real one to try: Qwen3-8B (24 GB of GPU memory) |
# | Note | the curves come from a CPU and the tiny model: learn their shape, do not carry their values over; nothing here was run on a GPU |

# %% key="setup"
import asyncio
import os
import time

from helpers import GIB, catalogue, engine, figures, models, say
from helpers.lessons import l08
from helpers.server import Server

print(models.describe())

# %% [markdown] lang="zh" key="start-text"
# ## 一台有边界的服务器
#
# 两个参数给服务器划了边界：`--max-num-seqs` 是同时计算的请求数，多出来的在服务器里排队；`--max-num-queued-reqs` 是计算和排队加起来的上限，再多就以 503 拒绝。后一个参数较新（0.32 有，0.19 没有，下一格先问安装的版本）；不设它，队伍没有尽头。`--enable-prompt-tokens-details` 让回答说出有多少提示词来自缓存。
#
# 在工作坊里，大家可以共用一台服务器：设好 `OPENAI_BASE_URL`（要密钥时还有 `OPENAI_API_KEY`），`Server()` 就不再启动自己的，而是连过去。这时最多同时发 2 个请求（`COURSE_CONCURRENCY` 可改），指标说的是整间教室，停止和杀引擎都会拒绝。

# %% [markdown] lang="en" key="start-text"
# ## A server with bounds
#
# Two flags put bounds to the server: `--max-num-seqs` is how many requests it computes at once, and the others queue inside it; `--max-num-queued-reqs` bounds those computed and those queued together, and beyond it a request is refused with a 503. The latter is rather new (0.32 has it, 0.19 has not, so the next cell asks the installed version first); without it the queue never ends. With `--enable-prompt-tokens-details` a reply tells how much of its prompt came from the cache.
#
# A workshop may share one server: set `OPENAI_BASE_URL` (and `OPENAI_API_KEY` if it has a key), and `Server()` starts none of its own but attaches to that one. Then at most 2 requests run at once (`COURSE_CONCURRENCY` changes it), metrics speak of the whole room, and stopping or killing it is refused.

# %% key="start" tags=["raw", "varies"]
from openai import AsyncOpenAI

bounded = {"max_num_queued_reqs": 64} if Server.knows("max_num_queued_reqs") else {}
server = Server(max_num_seqs=32, **bounded, enable_prompt_tokens_details=True)
server.start()
os.environ.update(BASE_URL=server.base_url, API_KEY=server.api_key, MODEL=server.model)
client = AsyncOpenAI(
    base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=300
)
# zh: 最多同时发几个请求
# en: how many requests at once, at most
most = min(64, server.concurrency_limit)

# %% [markdown] lang="zh" key="together-text"
# ## 一个接一个，还是一起
#
# `AsyncOpenAI` 和 `OpenAI` 的方法一样，只是前面要写 `await`；`asyncio.gather` 让许多请求同时在路上。下面的请求都固定生成 64 个词元：`ignore_eos` 让模型不在中途结束，这样量的才是速度，不是故事的长短。
#
# 先猜一猜：8 个请求一起发，总时间是一个接一个的几分之几？

# %% [markdown] lang="en" key="together-text"
# ## One after the other, or together
#
# `AsyncOpenAI` has the methods of `OpenAI`, with an `await` in front; `asyncio.gather` keeps many requests under way at once. All requests here generate exactly 64 tokens: `ignore_eos` keeps the model from ending early, so that speed is measured and not the length of a story.
#
# Guess first: with 8 requests sent together, what fraction of the time of one after the other will it take?

# %% key="together" tags=["varies"]
import itertools

fixed = {
    "model": server.model,
    "max_tokens": 64,
    "temperature": 0.6,
    "extra_body": {"ignore_eos": True, "top_k": 20},
}
numbers = itertools.count(1000)


# zh: 约 80 个词元的提示词，绝不重复：读过的内容，服务器会留着（见下面的前缀缓存）
# en: prompts of about 80 tokens, never the same twice: a server keeps what it has read
def new_prompts(count):
    return [f"{n}×46=? " * 8 for n in itertools.islice(numbers, count)]


async def one_by_one(count):
    for prompt in new_prompts(count):
        await client.completions.create(prompt=prompt, **fixed)


async def together(count):
    await asyncio.gather(
        *(
            client.completions.create(prompt=prompt, **fixed)
            for prompt in new_prompts(count)
        )
    )


# zh: 第一个请求总要慢些，不计时
# en: the first request of all is slower, so it is not timed
await one_by_one(1)
for way in (one_by_one, together):
    start = time.perf_counter()
    await way(min(8, most))
    print(f"{way.__name__:11} {time.perf_counter() - start:.2f} s")

# %% [markdown] lang="zh" key="measure-text" facts="10 0.4"
# 一起发快得多，虽然 CPU 还是那个 CPU：生成的每一步都有一份固定的开销，与在场的请求数无关，请求多了就分摊。小模型的开销是调度：权重不到 4 MB，每秒只读 10 GB 也不用 0.4 毫秒。真实的大模型，大头是把全部权重读一遍，读一遍可以给所有在场的请求各算一个词元。
#
# ## 量三个数
#
# 一个请求的等待分成两段：首个词元的时间（排队加读提示词），和之后的词元间隔。下面的 `measure` 用流式请求把两段分开，`asyncio.Semaphore` 保证同时在路上的不超过 `concurrency` 个。词元间隔取首尾两段之间的平均值：几个词元会并成一段，不能数段。

# %% [markdown] lang="en" key="measure-text" facts="10 0.4"
# Together is much faster, though the CPU is the same: each step of generation has a fixed cost, however many requests are there, and they share it. With the tiny model that cost is scheduling: its weights are under 4 MB, which at only 10 GB a second are read in less than 0.4 milliseconds. With a real, large model most of it is reading all the weights, and one reading serves a token of every request that is there.
#
# ## Three numbers to measure
#
# Waiting for a reply has two parts: the time to first token (the queue, and reading the prompt) and then the inter-token latency. `measure` below keeps them apart with streamed requests, and an `asyncio.Semaphore` lets no more than `concurrency` of them be under way. The inter-token latency is the mean between first and last piece: several tokens may share a piece, so pieces cannot be counted.


# %% key="measure"
async def one_request(prompt, gate):
    async with gate:
        start, moments = time.perf_counter(), []
        async for chunk in await client.completions.create(
            prompt=prompt, stream=True, **fixed
        ):
            if chunk.choices:
                moments.append(time.perf_counter())
    between = (moments[-1] - moments[0]) / (fixed["max_tokens"] - 1)
    return moments[0] - start, between, moments[-1] - start


async def measure(concurrency, count):
    gate, start = asyncio.Semaphore(concurrency), time.perf_counter()
    timings = await asyncio.gather(
        *(one_request(prompt, gate) for prompt in new_prompts(count))
    )
    seconds = time.perf_counter() - start
    # zh: 各取中位数
    # en: the median of each
    first, between, whole = (
        sorted(column)[count // 2] for column in zip(*timings, strict=True)
    )
    return {
        "tokens/s": count * fixed["max_tokens"] / seconds,
        "first": first,
        "between": between,
        "whole": whole,
    }


# %% [markdown] lang="zh" key="sweep-text"
# 先猜一猜：并发从 1 加到 64，吞吐量会一直翻倍吗？每个人等的时间呢？在 32 和 64 之间会发生什么？每一档量 3 次，留下最快的一次：别的程序只会让它变慢。

# %% [markdown] lang="en" key="sweep-text"
# Guess first: from concurrency 1 to 64, does throughput keep doubling? What about the time that each request takes? And what happens between 32 and 64? Each level is measured 3 times and the fastest run kept, as other programs can only slow it down.

# %% key="sweep" tags=["varies"]
levels = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= most]
curves = {}
for level in levels:
    runs = []
    for _ in range(3):
        runs.append(await measure(level, max(4, 2 * level)))
    # zh: 别的程序只会让它变慢，所以留最快的一次
    # en: other programs can only slow it down, so the fastest run is kept
    best = curves[level] = max(runs, key=lambda run: run["tokens/s"])
    parts = [
        f"{name} {1000 * best[name]:6.1f} ms" for name in ("first", "between", "whole")
    ]
    print(f"{level:3} | {best['tokens/s']:6.0f} tokens/s", *parts, sep=" | ")

# %% [markdown] lang="zh" key="limit-text"
# ## 一张 24 GB 的卡，上限在哪里
#
# 上面的数值属于这台 CPU。真实的卡没有在这里量过，但上限可以**算**出来，两条：
#
# 1. **显存**：权重之外剩下的显存除以每个请求的 KV 缓存，就是装得下的请求数。
# 2. **带宽**：每生成一步，至少要把权重和所有在场请求的 KV 缓存读一遍（输入的嵌入矩阵除外，每个词元只取它的一行）；读的字节数除以显存带宽，就是一步的最短时间。
#
# 以 RTX 4090 为例：384 位、每针 21 Gbps 的 [GDDR6X](https://www.nvidia.com/en-us/geforce/graphics-cards/40-series/rtx-4090/)，合 1008 GB/s；系统看到的显存比 24 GiB 略少，有人在 4090 上见到 [23.64 GiB](https://github.com/ali-vilab/VGen/issues/104)，在 3090 上见到 [23.56 GiB](https://github.com/vllm-project/vllm/issues/17327)，这里按 23.5 GiB 算；vLLM 用其中的 92%，另留 1.5 GiB 给激活值等。每个请求按 1024 个词元算。
#
# 先猜一猜：装得下几个请求？一个请求时，每秒最多几个词元？

# %% [markdown] lang="en" key="limit-text"
# ## A 24 GB card: where is its limit
#
# The numbers above belong to this CPU. No real card was measured here, but its limits can be **computed**. There are two:
#
# 1. **Memory**: what is left beside the weights, divided by the KV cache of one request, is the number of requests that fit.
# 2. **Bandwidth**: each step has to read the weights (but for the input embedding, of which a token takes one row) and the KV cache of all requests at least once; these bytes divided by the memory bandwidth are the shortest time of a step.
#
# Take an RTX 4090: 384 bits of [GDDR6X](https://www.nvidia.com/en-us/geforce/graphics-cards/40-series/rtx-4090/) at 21 Gbps a pin make 1008 GB/s; the system sees a little less than 24 GiB, [23.64 GiB](https://github.com/ali-vilab/VGen/issues/104) on one 4090 and [23.56 GiB](https://github.com/vllm-project/vllm/issues/17327) on a 3090, so count with 23.5 GiB; vLLM takes 92% of it, and 1.5 GiB are set aside for activations and the like. A request is reckoned at 1024 tokens.
#
# Guess first: how many requests fit? And with a single one, how many tokens a second at most?

# %% key="limit"
config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
weights, per_token, bandwidth = (
    catalogue.weight_bytes(config),
    catalogue.kv_bytes_per_token(config),
    384 * 21e9 / 8,
)
room = 23.5 * GIB * catalogue.GPU_SHARE - weights - 1.5 * GIB
fitting = int(room // (1024 * per_token))
# zh: 一步要读的字节：除输入嵌入以外的全部权重
# en: bytes that a step reads: all weights but the input embedding
read = weights - 2 * config["vocab_size"] * config["hidden_size"]


# zh: n 个请求各有 1024 个词元时，每秒最多几个词元
# en: tokens per second that n requests of 1024 tokens can get at most
def bound(n):
    return n * bandwidth / (read + n * 1024 * per_token)


print(say("权重：", "weights:"), f"{weights / 1e9:.1f} GB")
print(say("留给 KV 缓存：", "left for the KV cache:"), f"{room / GIB:.1f} GiB")
print(say("装得下的请求：", "requests that fit:"), fitting)
# zh: 同时的请求数，吞吐量的上限，一个词元至少要多久
# en: requests at once, bound of the throughput, shortest time a token
for n in (1, 8, fitting):
    print(f"{n:3} | <= {bound(n):4.0f} tokens/s | {1000 * n / bound(n):.1f} ms")

# %% key="curves" tags=["varies"]
where = (
    say("共用", "shared") if server.attached else "CPU" if engine.on_cpu() else "GPU"
)
measured = say("实测", "measured")
titles = {
    "tokens/s": say("吞吐量，tokens/s", "throughput, tokens/s"),
    "first": say("首个词元的时间，ms", "time to first token, ms"),
    "between": say("词元间隔，ms", "inter-token latency, ms"),
}
figure, axes = figures.figure(1, 4, height=2.7)
for ax, (name, title) in zip(axes, titles.items(), strict=False):
    values = [
        curves[level][name] * (1 if name == "tokens/s" else 1000) for level in levels
    ]
    ax.plot(levels, values, "o-", color="#4477aa")
    ax.set(title=f"{title}\n{server.model}, {where}, {measured}")
many = range(1, fitting + 1)
axes[3].plot(many, [bound(n) for n in many], "--", color="#bb4400")
axes[3].axvline(fitting, color="#222222", linewidth=1)
full = say(f"KV 缓存满：{fitting} ", f"KV cache full: {fitting} ")
axes[3].text(fitting, 0, full, ha="right", va="bottom", fontsize=8)
limit = say("Qwen3-8B，24 GB：算出的上限", "Qwen3-8B, 24 GB: COMPUTED limit")
axes[3].set(title=f"{titles['tokens/s']}\n{limit}", xlim=(0.9, 64))
for ax in axes:
    ax.set(xlabel=say("同时的请求数", "requests at once"), xscale="log", ylim=0)
    ax.set_xticks([1, 4, 16, 64], [1, 4, 16, 64])
    ax.minorticks_off()
figure

# %% [markdown] lang="zh" key="curves-read"
# 读图：前三格是这台 CPU 上的小模型，量出来的；最后一格是 Qwen3-8B 在 24 GB 卡上的上限，**算出来的，不是测量**。吞吐量先涨后平：一步的固定开销由越来越多的请求分摊，直到每个请求自己的那份工作占了大头。在 64 处 `--max-num-seqs` 只让 32 个同时算，另一半在排队：首个词元的时间猛涨，词元间隔却不再涨。8B 的虚线几乎和请求数成正比（横轴是对数，所以看着越来越陡）：这张卡上，读权重占了每一步的大头；先到头的是显存，竖线以右，请求只能排队。真实的速度还要低，因为计算和调度也要时间。
#
# 服务的艺术就在这条曲线上选一点：并发高，吞吐量高，每个人等得也久。`--max-num-batched-tokens` 是另一个旋钮：一步最多算几个词元，太长的提示词分几步读（分段预填充），正在写的人就不用久等。缓存太小时，后来的请求还要让位（抢占）。这三样，[附录 A3](../zh/A3_mini_vllm.ipynb) 用一个很小的引擎一步一步演给你看，让你自己拧。
#
# ### 练习 1 ★★☆（6 分钟，选读）：找出延迟翻倍的并发
#
# 补全函数：`curves` 是 `{concurrency: latency}` 的字典，不一定按顺序，一定有并发 1。返回延迟**第一次**达到并发 1 时的两倍的那个并发；一直没有达到，返回 `None`。
#
# <details><summary>提示</summary>
#
# 从小到大走，和并发 1 的延迟比，不是和前一档比。
#
# </details>

# %% [markdown] lang="en" key="curves-read"
# How to read it: the first three panels are the tiny model on this CPU, measured; the last one is the limit of Qwen3-8B on a 24 GB card, **computed, not measured**. Throughput rises and then flattens: more and more requests share the fixed cost of a step, until the work of each one is most of it. At 64, `--max-num-seqs` lets 32 be computed at once and the other half queue: the time to first token shoots up, while the inter-token latency grows no further. The dashed line of the 8B is nearly proportional to the requests (the axis is logarithmic, so it looks ever steeper): on this card most of a step goes into reading weights, and what runs out first is memory; right of the vertical line requests can only queue. The real speed is lower still, as computing and scheduling take time too.
#
# The art of serving is to choose a point on this curve: high concurrency means high throughput, and a longer wait for everyone. `--max-num-batched-tokens` is the other knob: how many tokens a step computes at most. A prompt that is longer is read in several steps (chunked prefill), so that those who write need not wait long. With too small a cache, whoever came last even has to make room (preemption). All three are shown step by step in [appendix A3](../en/A3_mini_vllm.ipynb), on a very small engine whose knobs you turn yourself.
#
# ### Exercise 1 ★★☆ (6 minutes, extra): find where latency doubles
#
# Complete the function: `curves` is a dictionary `{concurrency: latency}`, not necessarily in order, and 1 is always in it. Return the **first** concurrency whose latency is at least twice that of concurrency 1, or `None` if there is none.
#
# <details><summary>Hint</summary>
#
# Go upwards, and compare with the latency at 1, not with the level before.
#
# </details>


# %% key="ex1" tags=["exercise", "extra"]
def latency_doubles(curves):
    return ...


# %% key="ex1-solution" tags=["solution"]
def latency_doubles(curves):  # noqa: F811
    return next((n for n in sorted(curves) if curves[n] >= 2 * curves[1]), None)


# %% key="ex1-check" tags=["extra"]
l08.ex1.check(latency_doubles)
found = latency_doubles({level: curve["whole"] for level, curve in curves.items()})
print(
    say("上面的测量里：", "in the measurement above:"), "?" if found is ... else found
)

# %% [markdown] lang="zh" key="watch-text"
# ## 看服务器怎么排
#
# 连续批处理（continuous batching）：每生成一步，调度器就看一眼队伍，有位子就让新请求加入，做完的马上离开；不等整批结束。`/metrics` 里的三个量正好看得见它：`num_requests_running`、`num_requests_waiting`、`kv_cache_usage_perc`。
#
# 下面同时发出最多 64 个请求，输出有长有短，每 30 毫秒读一次指标。先猜一猜：running 会停在多少？waiting 降到 0 之前，running 会降吗？

# %% [markdown] lang="en" key="watch-text"
# ## Watch the server schedule
#
# Continuous batching: at every step the scheduler looks at the queue, lets a new request in where there is a place, and a finished one leaves at once; nothing waits for the end of a batch. Three values in `/metrics` show it: `num_requests_running`, `num_requests_waiting` and `kv_cache_usage_perc`.
#
# The next cell sends up to 64 requests at once, with outputs short and long, and reads the metrics every 30 milliseconds. Guess first: where will running stay? And will it fall before waiting is at 0?


# %% key="watch" tags=["varies"]
async def watch(samples, ended):
    start = time.perf_counter()
    while not ended.is_set():
        samples.append(
            (time.perf_counter() - start, await asyncio.to_thread(server.metrics))
        )
        await asyncio.sleep(0.03)


samples, ended, before = [], asyncio.Event(), server.metrics()
watching = asyncio.create_task(watch(samples, ended))
lengths = [32 + 8 * (n % 16) for n in range(most)]  # 32, 40, ..., 152
await asyncio.gather(
    *(
        client.completions.create(prompt=prompt, **fixed | {"max_tokens": length})
        for prompt, length in zip(new_prompts(most), lengths, strict=True)
    )
)
ended.set()
await watching
after = server.metrics()
print(after.scope, "|", say("读了几次：", "samples:"), len(samples))
grown = after["generation_tokens_total"] - before["generation_tokens_total"]
print(say("要求的词元：", "tokens wanted:"), sum(lengths))
print(say("其间生成的：", "generated meanwhile:"), f"{grown:.0f}")
assert server.attached or grown == sum(lengths)

# %% key="watch-figure" tags=["varies"]
moments = [moment for moment, _ in samples]
figure, axes = figures.figure(1, 2, height=2.6)
for name, style in (("running", "-"), ("waiting", "--")):
    axes[0].step(
        moments,
        [values[f"num_requests_{name}"] for _, values in samples],
        style,
        where="post",
        label=name,
    )
axes[0].axhline(32, color="#222222", linewidth=0.8)
title = say(
    f"请求数（{after.scope}）；横线：--max-num-seqs",
    f"requests ({after.scope}); line: --max-num-seqs",
)
axes[0].set(xlabel=say("秒", "seconds"), title=title)
axes[0].legend()
# zh: 没有这个指标的服务器，就什么也不画
# en: nothing is drawn for a server without this metric
usage = [100 * values.get("kv_cache_usage_perc", float("nan")) for _, values in samples]
axes[1].step(moments, usage, where="post", color="#bb4400")
axes[1].set(
    xlabel=say("秒", "seconds"),
    title=say("KV 缓存占用，%", "KV cache in use, %"),
    ylim=0,
)
figure

# %% [markdown] lang="zh" key="prefix-text"
# 读图：running 贴着 32 走，waiting 一步步降：短的做完，队伍里的就补上。waiting 到 0 之后 running 才降，那是最后几个长的。KV 缓存的占用随在场的词元数起落；到 100% 时，调度器会把最后来的请求赶出去重算（`num_preemptions_total`）。小模型的缓存很宽裕，真实的卡正是在这里满的。
#
# ## 前缀缓存：同一段系统提示词
#
# 许多请求往往以同一段系统提示词开头，下面是一张乘法表。它的键和值算过一次就留着，后来的请求直接用。单位是块：GPU 上默认 16 个词元，CPU 上 128 个，开头相同的**整块**才算命中。
#
# 先猜一猜：第 1 个请求命中多少？第 2 个呢？把问题放到系统提示词**前面**呢？

# %% [markdown] lang="en" key="prefix-text"
# How to read it: running keeps to 32 while waiting falls step by step: as short ones finish, others take their places. Only once waiting is at 0 does running fall, with the last long ones. The KV cache fills and empties with the tokens that are there; at 100% the scheduler would put the latest request out and compute it again later (`num_preemptions_total`). The tiny model has plenty of room; on a real card this is where it gets tight.
#
# ## Prefix caching: one system prompt for all
#
# Many requests begin with the same system prompt, here a multiplication table. Its keys and values are computed once and kept, and later requests use them. The unit is a block, 16 tokens by default on a GPU and 128 on a CPU, and only **whole blocks** that are equal from the start count as a hit.
#
# Guess first: how much does the 1st request hit? And the 2nd? And with the question **in front of** the system prompt?

# %% key="prefix"
table = "\n".join(f"{a}×{b}={a * b}" for a in range(2, 10) for b in range(a, 10))
off = {"chat_template_kwargs": {"enable_thinking": False}, "top_k": 20}
cached = {}
for form in ("table + question", "question + table"):
    # zh: 每次都不同，好让第一个请求什么也找不到
    # en: new each time, so that the first request finds nothing
    text = f"{time.time_ns()} {table}"
    for question in ("37×46=?", "12×34=?", "55×66=?"):
        talk = [
            {"role": "system", "content": text},
            {"role": "user", "content": question},
        ]
        if form == "question + table":
            talk = [{"role": "user", "content": f"{question} {text}"}]
        reply = await client.chat.completions.create(
            model=server.model,
            messages=talk,
            max_tokens=4,
            temperature=0.7,
            top_p=0.8,
            extra_body=off,
        )
        details = reply.usage.prompt_tokens_details
        cached.setdefault(form, []).append(details.cached_tokens if details else None)
    tokens = reply.usage.prompt_tokens
    print(f"{form} | prompt_tokens: {tokens} | cached_tokens: {cached[form]}")
if server.is_bundled and not server.attached:
    assert cached["table + question"][1:] == [256, 256] and not any(
        cached["question + table"]
    )

# %% [markdown] lang="zh" key="bench-text"
# 开头相同才算数：问题放在前面，一个块也命不中。所以提示词要先写不变的，再写变的；时间、用户名这类东西不要放在最前面。
#
# ## 和 `vllm bench serve` 对一对（选读）
#
# 自己写的尺子要和公认的尺子比一比。`vllm bench serve` 用随机词元作提示词，这里让它和 `measure` 一样：提示词约 80 个词元，输出 64 个，同时 16 个；两边轮流各跑 3 次，取中位数。先猜一猜：两边的吞吐量会差多少？

# %% [markdown] lang="en" key="bench-text"
# Only an equal beginning counts: with the question in front, not one block is hit. So a prompt should put what stays the same first and what changes last; keep the time of day or a user's name out of its beginning.
#
# ## Beside `vllm bench serve` (extra)
#
# A home-made ruler should be held against the one that everyone uses. `vllm bench serve` takes random tokens for prompts; here it is told to do what `measure` does: about 80 tokens of prompt and 64 of output, 16 at once. The two take turns, 3 runs each, and the median counts. Guess first: how far apart will the two throughputs be?

# %% key="bench" tags=["extra", "varies"]
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def bench(seed):
    with tempfile.TemporaryDirectory() as folder:
        words = "bench serve --backend openai --dataset-name random"
        words += " --random-input-len 80 --random-output-len 64"
        # zh: 每次换一批提示词
        # en: other prompts each time
        words += f" --seed {seed}"
        words += " --num-prompts 64 --max-concurrency 16 --ignore-eos --temperature 0.6"
        words += f" --base-url {server.base_url.removesuffix('/v1')}"
        words += f" --model {server.model} --save-result --result-dir {folder}"
        vllm = Path(sys.executable).with_name("vllm")
        settings = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
        command = [vllm, *words.split(), "--tokenizer", models.course_model()]
        subprocess.run(command, check=True, capture_output=True, env=settings)
        return json.loads(next(Path(folder).glob("*.json")).read_text())


if not server.attached:
    ours, theirs = [], []
    for run in range(3):
        ours.append((await measure(16, 64))["tokens/s"])
        # zh: 在另一个线程里等，事件循环不被挡住
        # en: waits in another thread, so that the event loop goes on
        result = await asyncio.to_thread(bench, run)
        assert result["completed"] == 64
        theirs.append(result["output_throughput"])
    for name, rates in (("measure", ours), ("bench", theirs)):
        shown = " ".join(f"{rate:5.0f}" for rate in rates)
        print(f"{name:7} {shown} | median {statistics.median(rates):.0f} tokens/s")

# %% [markdown] lang="zh" key="timeout-text"
# 两把尺子量的是同一件事，但同一把尺子自己几次也不一样：比这还小的差距不算数。`benchmarks/serving.py` 用相同的提示词，每边跑得更久，再比一次。
#
# ## 超时和断开
#
# `openai` 客户端默认等 10 分钟，失败后自动重试 2 次：超时的请求会被**再发一遍**，负载越重重试越多，雪上加霜。所以超时要按任务设，重试要有间隔、有上限。
#
# 客户端一断开，服务器就停止生成，不浪费算力；隔着工作坊的 nginx 也一样。先猜一猜：下面的请求要生成一千多个词元，客户端只等 0.2 秒；断开之后，running 多久回到 0？

# %% [markdown] lang="en" key="timeout-text"
# Both rulers measure the same thing, but each differs from itself, too: a gap smaller than that means nothing. `benchmarks/serving.py` compares them again, with the same prompts and longer runs.
#
# ## Timeouts and disconnects
#
# The `openai` client waits 10 minutes by default and retries 2 times by itself: a request that timed out is **sent again**, so the heavier the load, the more retries add to it. Set the timeout by the task, and give retries pauses and a limit.
#
# When a client disconnects, the server stops generating and wastes no work, behind the workshop's nginx too. Guess first: the next request wants more than a thousand tokens, and its client waits 0.2 seconds only; how long after that is running back at 0?

# %% key="timeout" tags=["raw", "varies"]
import openai

[context] = [
    entry.max_model_len
    async for entry in client.models.list()
    if entry.id == server.model
]
try:
    await client.with_options(timeout=0.2).completions.create(
        prompt=new_prompts(1)[0], **fixed | {"max_tokens": context - 200}
    )
except openai.APITimeoutError as error:
    print(type(error).__name__, error)
start = time.perf_counter()
if server.attached:
    print(
        say(
            "别人也在用这台服务器：从指标里看不出我们的请求何时结束。",
            "others use this server: when ours ended cannot be told from its metrics",
        )
    )
    # zh: 等服务器发现我们已经断开，再发别的请求
    # en: let it notice that we left, before we ask for more
    await asyncio.sleep(1)
else:
    while server.metrics()["num_requests_running"]:
        await asyncio.sleep(0.02)
    seconds = f"{time.perf_counter() - start:.2f} s"
    print(say("running 回到 0，用了", "running is back at 0 after"), seconds)

# %% [markdown] lang="zh" key="pressure-text"
# ## 背压：队伍满了就拒绝
#
# 没有边界的队伍，最后人人超时。`--max-num-queued-reqs` 让服务器在满员时立即说 503，这叫背压（back-pressure）：客户端知道要慢下来。对付它有两种办法：事后重试，间隔一次比一次长；或者事先用 `Semaphore` 管住自己。
#
# 这台服务器最多收 64 个。先猜一猜：一下子来 96 个，会有几个被拒绝？重试之后呢？

# %% [markdown] lang="en" key="pressure-text"
# ## Back-pressure: refuse when the queue is full
#
# With a queue that never ends, in the end everyone times out. `--max-num-queued-reqs` makes the server say 503 at once when it is full; that is back-pressure, and it tells clients to slow down. They have two answers: retry afterwards, with pauses that grow, or hold themselves back beforehand with a `Semaphore`.
#
# This server admits 64. Guess first: of 96 that come at once, how many are refused? And with retries?


# %% key="pressure" tags=["raw", "varies"]
async def crowd(client, at_once, count=96):
    gate = asyncio.Semaphore(at_once)

    async def ask(prompt):
        async with gate:
            return await client.completions.create(prompt=prompt, **fixed)

    results = await asyncio.gather(
        *map(ask, new_prompts(count)), return_exceptions=True
    )
    refused = [
        result for result in results if isinstance(result, openai.InternalServerError)
    ]
    good, bad = count - len(refused), len(refused)
    told = say(f"答上 {good} 个，拒绝 {bad} 个", f"{good} answered, {bad} refused")
    print(f"at_once={at_once}, max_retries={client.max_retries}: {told}")
    if refused:
        print(refused[0])
    return len(refused)


if server.attached:
    print(
        say("别人也在用这台服务器：这里不做。", "others use this server: not done here")
    )
elif not bounded:
    print(
        say(
            "这个 vLLM 没有 --max-num-queued-reqs。",
            "this vLLM has no --max-num-queued-reqs",
        )
    )
else:
    assert await crowd(client, 96) > 0
    assert await crowd(client, 64) == 0
    await crowd(client.with_options(max_retries=5), 96)

# %% [markdown] lang="zh" key="ex2-text"
# 管住自己的那一次，一个也没有被拒绝；靠重试的也都答上了，只是有人要多等。两样都要：`Semaphore` 管自己，重试对付别人。
#
# ### 练习 2 ★☆☆（5 分钟，选读）：哪些错误值得重试
#
# 补全函数：给定状态码（连接失败或超时用 `None` 表示），返回该不该重试。值得重试的是**过一会儿可能就好**的：连接失败、408、429、500 和以上；请求本身不对的，再发一百遍也不对。
#
# <details><summary>提示</summary>
#
# 先处理 `None`，再比较数字。
#
# </details>

# %% [markdown] lang="en" key="ex2-text"
# The crowd that held itself back was refused nothing; the one that relied on retries was answered too, only some had to wait longer. Do both: the `Semaphore` for yourself, retries because of the others.
#
# ### Exercise 2 ★☆☆ (5 minutes, extra): which errors are worth a retry
#
# Complete the function: given a status (`None` for a failed connection or a timeout), return whether to retry. Worth it is what **may be over in a moment**: a failed connection, 408, 429, 500 and above; a request that is wrong stays wrong a hundred times over.
#
# <details><summary>Hint</summary>
#
# Deal with `None` first, then compare numbers.
#
# </details>


# %% key="ex2" tags=["exercise", "extra"]
def worth_a_retry(status):
    return ...


# %% key="ex2-solution" tags=["solution"]
def worth_a_retry(status):  # noqa: F811
    return status is None or status in (408, 429) or status >= 500


# %% key="ex2-check" tags=["extra"]
l08.ex2.check(worth_a_retry)

# %% [markdown] lang="zh" key="copy-text"
# ## 可以直接拿走的代码（选读）
#
# 一批问题并发地问，答案一到就写进 JSONL 文件。按一次 Ctrl-C 就停，什么都不丢，再运行一次就接着问；服务器重启时，它守着 `/health` 等服务器回来。错误按上面的规则重试、间隔加倍并带一点随机，只有超时最多再试一次。答案按原来的顺序返回；实在不行的那几个，返回的是异常本身，别的答案不受影响，退出码不是 0。

# %% [markdown] lang="en" key="copy-text"
# ## Code to take away (extra)
#
# Ask a batch of questions concurrently; each answer goes to a JSONL file as it comes. One Ctrl-C stops it with nothing lost, and a second run goes on from there; when the server restarts, it watches `/health` until the server is back. Retries follow the rule above, with pauses that double and vary a little, but a timeout is tried again once at most. Answers come back in the order of the questions; where nothing helped, the exception stands in the answer's place, the others are unharmed, and the exit status is not 0.

# %% key="copy-batch" tags=["copy-me", "extra"]
import asyncio
import json
import os
import random
import sys
import time
from collections import deque

import openai
from tqdm import tqdm

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/v1")
# zh: 给人看的地址，不带密码
# en: the address as messages show it, without a password
SHOWN = BASE_URL.rpartition("@")[2]
MODEL = os.environ.get("MODEL", "Qwen3-8B")
API_KEY = os.environ.get("API_KEY", "EMPTY")


class NoAnswer(RuntimeError):
    """A reply without a whole answer; the message says why."""


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


class NoServer(RuntimeError):
    """Nothing answers at BASE_URL."""


async def wait_for_server(client, patience):
    """Returns once the server is up; raises NoServer after patience seconds."""
    end = time.monotonic() + patience
    health = BASE_URL.rstrip("/").removesuffix("/v1") + "/health"
    while True:
        try:
            await client.with_options(timeout=5).get(health, cast_to=type(None))
            return
        except openai.APIError as error:
            # zh: 404：前面的代理只放行 /v1
            # en: 404: a proxy in front lets nothing but /v1 through
            if getattr(error, "status_code", 500) < 500:
                return
            said = error
        if time.monotonic() > end:
            raise NoServer(f"No server at {SHOWN} ({said}): set BASE_URL.") from said
        await asyncio.sleep(1)


async def ask(client, question, max_tokens):
    """One request, one answer. Raises NoAnswer, or what the client raises."""
    reply = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        max_tokens=max_tokens,
        temperature=0.7,
        top_p=0.8,
        presence_penalty=1.5,
        extra_body={"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}},
    )
    return read_reply(reply)[1]


def retry_after(error):
    """Seconds that the server asks to wait, 60 at most; 0 where it names none."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    said = headers.get("retry-after", "")[:9]
    return min(60, int(said)) if said.isascii() and said.isdigit() else 0


async def ask_again(client, question, max_tokens, attempts, pause, patience):
    """As ask(), trying again what may pass: at most once after a timeout."""
    timeouts = 0
    for attempt in range(1, attempts + 1):
        try:
            return await ask(client, question, max_tokens)
        except openai.APIError as error:
            status = getattr(error, "status_code", 0)
            if isinstance(error, openai.APITimeoutError) or status == 504:
                # zh: 服务器正忙，再发一遍只会更忙
                # en: the server is busy, and each further request adds to that
                timeouts += 1
                may_pass = timeouts == 1
            elif isinstance(error, openai.APIConnectionError):
                await wait_for_server(client, patience)
                may_pass = True
            else:
                may_pass = status in (408, 429) or status >= 500
            if attempt == attempts or not may_pass:
                raise
            least = retry_after(error)
        growing = min(30, pause * 2**attempt) * random.uniform(0.5, 1.5)
        await asyncio.sleep(max(least, growing))


def answered(path, questions):
    """{number: answer} of the questions that an earlier run has answered in path."""
    found = {}
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        file.seek(0)
        lines = file.read().split("\n")
        if lines[-1]:
            # zh: 上一次写到一半就断了
            # en: the last run was killed in the middle of this line
            file.write("\n")
    for line in lines:
        try:
            record = json.loads(line)
            same = record["model"] == MODEL and record["error"] is None
            if same and record["question"] == questions[record["number"]]:
                found[record["number"]] = record["answer"]
        except (ValueError, TypeError, LookupError):
            continue
    return found


async def ask_all(
    questions,
    path=os.devnull,
    concurrency=8,
    max_tokens=1024,
    timeout=300,
    attempts=10,
    pause=0.25,
    patience=600,
):
    """Answers in the order of questions; an exception where there is none.

    Each goes to path at once, a line of JSON; answers that are there are not asked for.
    After a lost connection waits patience seconds for the server, then raises NoServer.
    """
    answers = answered(path, questions)
    todo = deque(n for n in range(len(questions)) if n not in answers)
    limits, gone = (max_tokens, attempts, pause, patience), []

    async def work(client, file, bar):
        while todo:
            number, error = todo.popleft(), None
            question = questions[number]
            try:
                answers[number] = await ask_again(client, question, *limits)
            except NoServer as lost:
                gone.append(lost)
                todo.clear()
                return
            except Exception as problem:
                answers[number] = error = problem
            record = {"model": MODEL, "number": number, "question": question}
            record["answer"] = None if error else answers[number]
            record["error"] = error and f"{type(error).__name__}: {error}"
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            bar.update()

    server = {"base_url": BASE_URL, "api_key": API_KEY, "max_retries": 0}
    timeouts = openai.Timeout(timeout, connect=5)
    with (
        open(path, "a", encoding="utf-8") as file,
        tqdm(total=len(questions), initial=len(answers)) as bar,
    ):
        async with openai.AsyncOpenAI(timeout=timeouts, **server) as client:
            if todo:
                await wait_for_server(client, 3)
            await asyncio.gather(*(work(client, file, bar) for _ in range(concurrency)))
    if gone:
        raise gone[0]
    return [answers[number] for number in range(len(questions))]


# zh: 只在作为脚本运行时执行；在笔记本里写 `await ask_all([...])`
# en: as a script only; in a notebook write `await ask_all([...])`
if __name__ == "__main__" and "get_ipython" not in globals():
    QUESTIONS = ["37×46=?", "17+25+8=?", "5!=?"]
    try:
        results = asyncio.run(ask_all(QUESTIONS, "answers.jsonl"))
    except NoServer as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        # zh: 已有的答案都在文件里：再运行一次，就接着问
        # en: what was answered is in the file: run it again to go on
        sys.exit(130)
    for question, answer in zip(QUESTIONS, results, strict=True):
        print(question, repr(answer))
    missing = sum(isinstance(answer, Exception) for answer in results)
    sys.exit(f"{missing} without an answer: run it again" if missing else 0)

# %% [markdown] lang="zh" key="batch-text"
# 在笔记本里，上一格只定义函数；这样用：

# %% [markdown] lang="en" key="batch-text"
# In a notebook the last cell only defines its functions; use them like this:

# %% key="batch" tags=["extra", "varies"]
await ask_all(["37×46=?", "17+25+8=?", "5!=?"], concurrency=2)

# %% [markdown] lang="zh" key="stop-text"
# ## 停止服务器

# %% [markdown] lang="en" key="stop-text"
# ## Stop the server

# %% key="stop"
await client.close()
server.stop()

# %% [markdown] lang="zh" key="beyond-text"
# ## 一张卡不够的时候
#
# | 办法 | 怎么分 | 每张卡的权重 | 每张卡的 KV 缓存 | 用在哪里 |
# |---|---|---|---|---|
# | 张量并行（TP） | 每个矩阵切成几份，每层都要通信 | 除以 TP | KV 头分给各卡，除以 TP；KV 头不够分就复制 | 一台机器里，卡间要快 |
# | 流水线并行（PP） | 各层分成几段，段间传隐藏状态 | 除以 PP | 除以 PP | 跨机器，或卡间慢 |
# | 数据并行（DP） | 整个模型复制几份，请求分给各份 | 不变（MoE 例外，见下） | 不变，总量乘以 DP | 装得下，只是人多 |
#
# MoE 的例外：数据并行时，vLLM 默认[不复制专家](https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/)，而是分到全部 DP×TP 张卡上。
#
# 先猜一猜：Qwen3-32B 在 4 张 24 GB 的卡上装得下吗？TP 取 4 时，每张卡放几个 KV 头？

# %% [markdown] lang="en" key="beyond-text"
# ## When one card is not enough
#
# | Way | What is divided | Weights on each card | KV cache on each card | Where it fits |
# |---|---|---|---|---|
# | tensor parallel (TP) | every matrix, with communication in every layer | divided by TP | KV heads are shared out, divided by TP; copied where there are too few | inside one machine with fast links |
# | pipeline parallel (PP) | the layers, in stages that pass hidden states on | divided by PP | divided by PP | across machines, or over slow links |
# | data parallel (DP) | nothing: copies of the model, and requests are shared out | unchanged (but for MoE, see below) | unchanged, in all multiplied by DP | it fits, and many come |
#
# The exception for MoE: in data parallel vLLM by default [does not copy the experts](https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/) but shares them out over all DP×TP cards.
#
# Guess first: does Qwen3-32B fit on 4 cards of 24 GB? With TP at 4, how many KV heads does each card hold?

# %% key="arithmetic"
print(
    say(
        "模型       显卡               每张卡的权重   每个词元在每张卡上的 KV   "
        "装得下的词元",
        "model      cards              weights a card   KV a token and card    "
        "tokens that fit",
    )
)
for name, memory, tp, pp in (
    ("8B", 24, 1, 1),
    ("14B", 24, 2, 1),
    ("32B", 24, 4, 1),
    ("32B", 24, 2, 2),
    ("30B-A3B", 80, 1, 1),
    ("235B-A22B", 80, 8, 1),
    ("235B-A22B", 48, 8, 1),
    ("235B-A22B", 48, 8, 2),
):
    config = catalogue.CATALOGUE[f"Qwen/Qwen3-{name}"].config
    heads = config["num_key_value_heads"]
    # zh: 一个头不会再切开
    # en: a head is never cut
    kv = catalogue.kv_bytes_per_token(config) * max(1, heads // tp) / heads / pp
    weights = catalogue.weight_bytes(config) / (tp * pp)
    room = 0.98 * memory * GIB * catalogue.GPU_SHARE - weights - 1.5 * GIB
    tokens = f"{room / kv:9,.0f}" if room > 0 else say("   装不下", "does not fit")
    cards = f"TP {tp} × PP {pp}, {memory} GB"
    weights = f"{weights / GIB:9.1f} GiB"
    print(f"{name:10} {cards:18} {weights} {kv / 1024:17.0f} KiB       {tokens}")

# %% [markdown] lang="zh" key="tp-text"
# 这是算术，不是测量：每张卡按标称显存的 98% 可见、vLLM 用其中 92%、另留 1.5 GiB 计算。Qwen3-32B 有 8 个 KV 头，TP 取 4 时每张卡放 2 个，装得下。Qwen3-235B-A22B 在 8 张 80 GB 的卡上装得下；换成 48 GB 的卡就要两台机器，也就是再加一倍的流水线。它只有 4 个 KV 头，TP 取 8 时每张卡仍各存 1 个：KV 缓存只除以 4。
#
# ## 张量并行，就在这里（选读）
#
# 没有两张卡，就用两个 CPU 核：两个工作进程各拿一半的注意力头和一半的前馈网络，用的是和多卡相同的代码。先猜一猜：每个进程的 KV 缓存仍是 64 MiB，一共放得下的词元会变成几倍？

# %% [markdown] lang="en" key="tp-text"
# This is arithmetic and no measurement: it takes 98% of a card's nominal memory as visible, of which vLLM uses 92%, less 1.5 GiB. Qwen3-32B has 8 KV heads, 2 a card with TP at 4, and fits. Qwen3-235B-A22B fits on 8 cards of 80 GB; with cards of 48 GB it takes two machines, which means twice the pipeline. It has 4 KV heads only, so at a TP of 8 each card still stores 1: its KV cache is divided by 4.
#
# ## Tensor parallel, right here (extra)
#
# With no two cards, two CPU cores will do: two worker processes hold half of the attention heads and half of each feed-forward network, by the same code that runs on several cards. Guess first: each process still has a KV cache of 64 MiB; how many times the tokens will fit?

# %% key="tp" tags=["extra", "raw", "varies"]
import re

if not server.attached and models.is_bundled():
    single = re.search(r"KV cache size: ([\d,]+) tokens", server.log_tail(10**6))[1]
    with Server(tensor_parallel_size=2) as parallel:
        double = re.search(r"KV cache size: ([\d,]+) tokens", parallel.log_tail(10**6))[
            1
        ]
        local = openai.OpenAI(base_url=parallel.base_url, api_key=parallel.api_key)
        talk = [{"role": "user", "content": "37×46=?"}]
        reply = local.chat.completions.create(
            model=parallel.model,
            messages=talk,
            temperature=0.6,
            top_p=0.95,
            seed=0,
            extra_body={"top_k": 20},
        )
        print("TP 2:", reply.choices[0].message.content.strip())
        print("KV cache | TP 1:", single, "tokens | TP 2:", double, "tokens")
        assert "1702" in reply.choices[0].message.content
        assert int(double.replace(",", "")) > 1.9 * int(single.replace(",", ""))

# %% [markdown] lang="zh" key="commands-text"
# 每个进程只存一个 KV 头，同样的字节放得下两倍的词元：这正是显存算术里的“除以 TP”。快不快是另一回事，这里没有量：每一层都要等两个进程交换结果。
#
# ## 更大的规模：命令
#
# 只有上面的两个进程在这里真的跑过；下面的命令**都没有在这里跑过**（没有多张卡，没有多台机器），参数名已和安装的 vLLM 核对。少了最后三个参数，思考会混进答案，带工具的请求会得到 400（第 07 课）。
#
# ```bash
# # 客户端要出示的密钥；nginx 后面的几台用同一个
# export VLLM_API_KEY=$(openssl rand -hex 16)
# # 模型写 ID 时从 ModelScope 下载；也可以写文件夹
# export VLLM_USE_MODELSCOPE=1
# # 一台机器 4 张卡
# vllm serve Qwen/Qwen3-32B --host 127.0.0.1 --tensor-parallel-size 4 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# # 两台机器各 8 张 48 GB 的卡，不用 Ray：两台都运行，编号不同；第二台不开接口
# vllm serve Qwen/Qwen3-235B-A22B --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 --host 127.0.0.1 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# vllm serve Qwen/Qwen3-235B-A22B --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --headless --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# # 同样两台，用 Ray：先 ray start --head，另一台 ray start --address=10.0.0.1:6379，再在第一台运行
# vllm serve Qwen/Qwen3-235B-A22B --tensor-parallel-size 8 --pipeline-parallel-size 2 --distributed-executor-backend ray --host 127.0.0.1 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# # 8 张卡放 4 份，每份 2 张卡，一个地址
# vllm serve Qwen/Qwen3-14B --host 127.0.0.1 --data-parallel-size 4 --tensor-parallel-size 2 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# ```
#
# 几台互不相干的服务器，前面放一个负载均衡器，是最省事的扩展：坏一台不影响别的。每台的 `--host` 写它在内网的地址（下面是 10.0.0.1 和 10.0.0.2）。流式输出要关掉缓冲。`ip_hash` 让同一个地址总去同一台，它的前缀缓存才用得上；许多人共用一个地址时换成 `least_conn`，去请求最少的那台，负载更匀。只放行 `/v1/`，因为密钥管不住别的路径（第 07 课）。以 nginx 为例（没有在这里跑过；跑过的一份完整配置，带密钥和限制，由 `tools/workshop/door.py` 写出，见[工作坊手册](../../docs/workshop.zh.md)）：
#
# ```text
# upstream qwen3 { ip_hash; server 10.0.0.1:8000; server 10.0.0.2:8000; }
# server {
#   listen 443 ssl;
#   ssl_certificate /etc/nginx/qwen3.crt;
#   ssl_certificate_key /etc/nginx/qwen3.key;
#   location /v1/ { proxy_pass http://qwen3; proxy_buffering off; proxy_read_timeout 600s; }
# }
# ```
#
# ### 练习 3 ★★☆（6 分钟，选读）：装得下几个请求
#
# 补全函数：`config` 是 `config.json` 的字典，`weights` 是权重的总字节数，`memory` 是**每张卡**可用的字节数，`tp` 是张量并行的卡数，`context` 是每个请求的词元数。返回同时装得下几个请求（整数，装不下时是 0）。KV 头少于卡数时，每张卡仍要存一个。
#
# <details><summary>提示</summary>
#
# 每张卡：权重除以 `tp`，KV 头数是 `max(1, num_key_value_heads // tp)`；每个词元每层要存键和值，每个数 2 字节。
#
# </details>

# %% [markdown] lang="en" key="commands-text"
# Each process stores one KV head, so the same bytes hold twice the tokens: there is the "divided by TP" of the arithmetic. Speed is another matter and was not measured here: in every layer the two have to exchange results.
#
# ## On a larger scale: commands
#
# Only the two processes above really ran here; **none of the following commands did** (there are no cards and no second machine), but their flags were compared with the installed vLLM. Without the last three flags thoughts pass as part of the answer, and requests with tools get a 400 (lesson 07).
#
# ```bash
# # the key that clients show; servers behind one nginx share it
# export VLLM_API_KEY=$(openssl rand -hex 16)
# # a model given by its id comes from ModelScope; a folder will do as well
# export VLLM_USE_MODELSCOPE=1
# # one machine, 4 cards
# vllm serve Qwen/Qwen3-32B --host 127.0.0.1 --tensor-parallel-size 4 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# # two machines of 8 cards of 48 GB, without Ray: run on both, with their ranks; the second one opens no API
# vllm serve Qwen/Qwen3-235B-A22B --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 --host 127.0.0.1 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# vllm serve Qwen/Qwen3-235B-A22B --tensor-parallel-size 8 --pipeline-parallel-size 2 --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --headless --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# # the same two with Ray: first ray start --head, on the other ray start --address=10.0.0.1:6379, then on the first
# vllm serve Qwen/Qwen3-235B-A22B --tensor-parallel-size 8 --pipeline-parallel-size 2 --distributed-executor-backend ray --host 127.0.0.1 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# # 4 copies on 8 cards, 2 cards each, one address
# vllm serve Qwen/Qwen3-14B --host 127.0.0.1 --data-parallel-size 4 --tensor-parallel-size 2 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes
# ```
#
# Several servers that know nothing of each other, with a load balancer in front, are the easiest way to grow: one can fail without the others. Give each one its inner address as `--host` (10.0.0.1 and 10.0.0.2 below). Streaming needs the balancer's buffering off. `ip_hash` sends an address to the same server every time, so that its prefix cache is of use; where many share one address, `least_conn` picks the server with the fewest requests and spreads the load more evenly. Pass `/v1/` alone, as the key does not guard other paths (lesson 07). In nginx (not run here; a complete configuration with keys and limits, which was run, is the one that `tools/workshop/door.py` writes, see the [workshop kit](../../docs/workshop.md)):
#
# ```text
# upstream qwen3 { ip_hash; server 10.0.0.1:8000; server 10.0.0.2:8000; }
# server {
#   listen 443 ssl;
#   ssl_certificate /etc/nginx/qwen3.crt;
#   ssl_certificate_key /etc/nginx/qwen3.key;
#   location /v1/ { proxy_pass http://qwen3; proxy_buffering off; proxy_read_timeout 600s; }
# }
# ```
#
# ### Exercise 3 ★★☆ (6 minutes, extra): how many requests fit
#
# Complete the function: `config` is the dictionary of a `config.json`, `weights` the bytes of all weights, `memory` the usable bytes of **each card**, `tp` the number of cards in tensor parallel, `context` the tokens of each request. Return how many requests fit at once (a whole number, 0 if none does). Where there are fewer KV heads than cards, each card still stores one.
#
# <details><summary>Hint</summary>
#
# On each card: the weights divided by `tp`, and `max(1, num_key_value_heads // tp)` KV heads; a token stores a key and a value in every layer, 2 bytes a number.
#
# </details>


# %% key="ex3" tags=["exercise", "extra"]
def requests_that_fit(config, weights, memory, tp, context):
    return ...


# %% key="ex3-solution" tags=["solution"]
def requests_that_fit(config, weights, memory, tp, context):  # noqa: F811
    heads = max(1, config["num_key_value_heads"] // tp)
    per_token = 2 * config["num_hidden_layers"] * heads * config["head_dim"] * 2
    return max(0, int((memory - weights / tp) // (context * per_token)))


# %% key="ex3-check" tags=["extra"]
l08.ex3.check(requests_that_fit)

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 批处理让一次权重的读取服务许多请求：吞吐量随并发上升，每个人的等待也上升。
# - 等待分两段：首个词元的时间看排队和提示词，词元间隔看同时有多少请求。
# - 一张卡的上限能算出来：显存管装得下几个，带宽管每步多快。
# - 服务器要有边界（`--max-num-seqs`、`--max-num-queued-reqs`），客户端要有边界（`Semaphore`、超时、有限的重试）。
# - 前缀缓存只认相同的开头，按整块计算；TP、PP 分显存，DP 分请求。
#
# ## 自测
#
# 1. 为什么并发翻倍，吞吐量却不翻倍？
# 2. 首个词元的时间突然变长，词元间隔不变，最可能是什么原因？
# 3. 连续批处理和“凑满一批再算”有什么不同？
# 4. 为什么超时之后自动重试可能让情况更糟？
# 5. Qwen3-8B 有 8 个 KV 头，TP 取 16，每张卡的 KV 缓存是几分之一？
#
# <details><summary>答案</summary>
#
# 1. 权重只读一遍，但计算和 KV 缓存的读取随请求数增加；到了硬件的上限就不再涨。
# 2. 请求在排队：`num_requests_waiting` 大于 0，可能是超过了 `--max-num-seqs`，或 KV 缓存满了。
# 3. 每一步都可以进人和出人，短的不必等长的。
# 4. 超时说明服务器忙；重试又添了一个请求，而且已经算的都白算了。
# 5. 8 分之一：头不能再切，每张卡至少存 1 个，其余是复制。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 异步客户端并不快 | 在循环里逐个 `await` | 用 `asyncio.gather` |
# | `asyncio.run() cannot be called from a running event loop` | 笔记本里已有事件循环 | 直接写 `await` |
# | 大量 `APITimeoutError` | 并发超过服务器能算的，都在排队 | 降低并发，不是加长超时 |
# | 503，`cannot accept new requests` | 超过 `--max-num-queued-reqs` | 加上间隔递增的重试 |
# | 前缀缓存从不命中 | 开头有时间、编号等变化的内容，或公共部分不满一块 | 不变的放最前面 |
# | 启动时说显存不够，`--tensor-parallel-size` 加大也没用 | KV 头不够分，或每张卡都被别人占了 | 看 `nvidia-smi`，调小 `--max-model-len` |

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - Batching lets one reading of the weights serve many requests: throughput rises with concurrency, and so does everyone's wait.
# - Waiting has two parts: the time to first token depends on queue and prompt, the inter-token latency on how many are served at once.
# - The limit of a card can be computed: memory says how many requests fit, bandwidth how fast a step can be.
# - A server needs bounds (`--max-num-seqs`, `--max-num-queued-reqs`), and so does a client (`Semaphore`, timeouts, a limited number of retries).
# - The prefix cache knows equal beginnings only, in whole blocks; TP and PP divide memory, DP divides requests.
#
# ## Test yourself
#
# 1. Why does twice the concurrency not give twice the throughput?
# 2. The time to first token grows suddenly, the inter-token latency does not. What is the likely cause?
# 3. How does continuous batching differ from waiting until a batch is full?
# 4. Why may automatic retries after a timeout make things worse?
# 5. Qwen3-8B has 8 KV heads. With TP at 16, what fraction of the KV cache does a card hold?
#
# <details><summary>Answers</summary>
#
# 1. The weights are read once, but computing and reading the KV cache grow with the requests, until the hardware gives no more.
# 2. Requests queue: `num_requests_waiting` is above 0, because of `--max-num-seqs` or a full KV cache.
# 3. Requests enter and leave at every step, and the short need not wait for the long.
# 4. A timeout says that the server is busy; a retry adds a request to it, and what was computed before is lost.
# 5. One in 8: a head is not cut any further, each card stores at least 1, and the rest are copies.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | the asynchronous client is no faster | an `await` for each request in a loop | `asyncio.gather` |
# | `asyncio.run() cannot be called from a running event loop` | a notebook has its own event loop | write `await` |
# | many `APITimeoutError` | more at once than the server can compute, so all of them queue | lower the concurrency rather than raise the timeout |
# | 503, `cannot accept new requests` | beyond `--max-num-queued-reqs` | retries with growing pauses |
# | the prefix cache is never hit | a time or a number at the beginning, or less than a block in common | what stays the same comes first |
# | too little memory at the start, and a larger `--tensor-parallel-size` does not help | too few KV heads to share, or others on every card | look at `nvidia-smi`, lower `--max-model-len` |

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - 连续批处理：[Orca（Yu 等，2022）](https://www.usenix.org/conference/osdi22/presentation/yu)；分页的 KV 缓存：[PagedAttention（Kwon 等，2023）](https://arxiv.org/abs/2309.06180)
# - vLLM：[指标](https://docs.vllm.ai/en/stable/usage/metrics/)，[多卡与多机](https://docs.vllm.ai/en/stable/serving/parallelism_scaling/)，[数据并行](https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/)，[`vllm bench serve`](https://docs.vllm.ai/en/stable/cli/bench/serve/)，[用 nginx 做负载均衡](https://docs.vllm.ai/en/stable/deployment/nginx/)
# - 张量并行：[Megatron-LM（Shoeybi 等，2019）](https://arxiv.org/abs/1909.08053)
#
# 下一课：[综合项目](../zh/09_project.ipynb)。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - Continuous batching: [Orca (Yu et al., 2022)](https://www.usenix.org/conference/osdi22/presentation/yu); the paged KV cache: [PagedAttention (Kwon et al., 2023)](https://arxiv.org/abs/2309.06180)
# - vLLM: [metrics](https://docs.vllm.ai/en/stable/usage/metrics/), [several cards and machines](https://docs.vllm.ai/en/stable/serving/parallelism_scaling/), [data parallel](https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/), [`vllm bench serve`](https://docs.vllm.ai/en/stable/cli/bench/serve/), [load balancing with nginx](https://docs.vllm.ai/en/stable/deployment/nginx/)
# - Tensor parallel: [Megatron-LM (Shoeybi et al., 2019)](https://arxiv.org/abs/1909.08053)
#
# Next: [the project](../en/09_project.ipynb).
