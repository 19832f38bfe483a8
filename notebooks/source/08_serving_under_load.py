# %% [markdown] lang="zh" key="title"
# # 08 · 在负载下提供服务
#
# | | |
# |---|---|
# | 学完能做 | 量出一个请求的两段等待；看出吞吐量随并发怎么变，拐点在哪里；从 `/metrics` 看排队；给服务器和客户端设边界 |
# | 先修 | 第 07 课；见过 Python 的 `async` 和 `await` |
# | 时间 | 50 分钟；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的 `qwen3-tiny`；真实的模型可用 Qwen3-8B（24 GB 显存） |
# | 说明 | 数值来自 CPU 和小模型：看走势，别照搬；没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 08 · Serving under load
#
# | | |
# |---|---|
# | You will be able to | measure the two waits of a request; see how throughput depends on concurrency, and where the knee is; watch the queue in `/metrics`; put bounds to server and client |
# | Prerequisites | lesson 07; you have seen `async` and `await` in Python |
# | Time | 50 minutes; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the bundled `qwen3-tiny`; a real one to try: Qwen3-8B (24 GB of GPU memory) |
# | Note | the curves come from a CPU and the tiny model: learn their shape, do not carry their values over; nothing here was run on a GPU |

# %% key="setup"
import asyncio
import itertools
import time

import openai

from helpers import models, say
from helpers.lessons import l08
from helpers.server import Server

print(models.describe())

# %% [markdown] lang="zh" key="start-text"
# ## 一台有边界的服务器
#
# 两个参数给服务器划了边界：`--max-num-seqs` 是同时计算的请求数，多出来的在服务器里排队；`--max-num-queued-reqs` 是计算和排队加起来的上限，再多就以 503 拒绝。后一个较新（0.32 有，0.19 没有），所以先问一问。
#
# **选读。** 在工作坊里，大家可以共用一台服务器：设好 `OPENAI_BASE_URL`（要密钥时还有 `OPENAI_API_KEY`），`Server()` 就不再启动自己的，而是连过去。这时最多同时发 2 个请求（`COURSE_CONCURRENCY` 可改），指标说的是整间教室，“超时”和“背压”两格不做，停止会拒绝。

# %% [markdown] lang="en" key="start-text"
# ## A server with bounds
#
# Two flags put bounds to the server: `--max-num-seqs` is how many requests it computes at once, and the others queue inside it; `--max-num-queued-reqs` bounds those computed and those queued together, and beyond it a request is refused with a 503. The latter is rather new (0.32 has it, 0.19 has not), so the cell asks first.
#
# **Extra.** A workshop may share one server: set `OPENAI_BASE_URL` (and `OPENAI_API_KEY` if it has a key), and `Server()` starts none of its own but attaches to that one. Then at most 2 requests run at once (`COURSE_CONCURRENCY` changes it), metrics speak of the whole room, the cells on timeouts and back-pressure do nothing, and stopping is refused.

# %% key="start" tags=["raw", "varies"]
from openai import AsyncOpenAI

# zh: 第二个让回答说出用了多少缓存，“前缀缓存”一节要看
# en: with the second a reply tells how much it took from the cache, see "Prefix caching"
options = {"max_num_seqs": 32, "enable_prompt_tokens_details": True}
if Server.knows("max_num_queued_reqs"):
    options["max_num_queued_reqs"] = 64
server = Server(**options)
server.start()
client = AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0)
# zh: 最多同时发几个请求
# en: how many requests at once, at most
most = min(64, server.concurrency_limit)

# %% [markdown] lang="zh" key="one-text"
# ## 一个请求，等两段
#
# 先等**首个词元的时间**（time to first token，TTFT）：排队，读提示词；之后每个词元等一个**词元间隔**（inter-token latency，也叫 TPOT）。流式请求边生成边送，记下各段到达的时刻，就分得开。
#
# `ignore_eos` 让每个请求都写满 64 个词元，工作量就相等。提示词绝不重复，因为读过的内容服务器会留着。
#
# **先选一个。** 提示词约有 80 个词元。首个词元的时间是词元间隔的多少倍？
#
# - A. 不到 1 倍
# - B. 大于 1，远小于 80
# - C. 约 80 倍

# %% [markdown] lang="en" key="one-text"
# ## One request waits twice
#
# First it waits for the **time to first token** (TTFT), which holds the queue and the reading of the prompt; then for each further token an **inter-token latency** (also called TPOT). A streamed reply comes as it is generated: note when each piece arrives, and the two are apart.
#
# `ignore_eos` makes every request write all of its 64 tokens, so that all have the same work. No prompt comes twice, as a server keeps what it has read.
#
# **Choose first.** The prompt has about 80 tokens. Divide the time to first token by the inter-token latency: what comes out?
#
# - A. Less than 1
# - B. More than 1, and far less than 80
# - C. About 80

# %% key="one" tags=["varies"]
fixed = {"model": server.model, "max_tokens": 64, "temperature": 0.6}
fixed["extra_body"] = {"ignore_eos": True, "top_k": 20}
numbers = itertools.count(1000)


# zh: next 每次给出下一个数：1000，1001，……
# en: next gives one number after another: 1000, 1001, ...
def new_prompt():
    return f"{next(numbers)}×46=? " * 8


# zh: fixed | more 把两个字典合成一个，重复的以 more 为准
# en: fixed | more joins two dictionaries; what is in both comes from more
async def send(client, **more):
    return await client.completions.create(prompt=new_prompt(), **fixed | more)


async def arrivals():
    start, moments = time.perf_counter(), []
    stream = await send(client, stream=True)
    async for chunk in stream:
        if chunk.choices:
            moments.append(time.perf_counter())
    return start, moments


# zh: 第一个请求总要慢些，不算
# en: the first request of all is slower and does not count
await arrivals()
start, moments = await arrivals()
for moment in moments[:4]:
    print(f"{1000 * (moment - start):.0f} ms")

# %% [markdown] lang="zh" key="ex1-text"
# <details><summary>读结果</summary>
#
# B。第一行是首个词元的时间，后几行相减是间隔。提示词的词元是一起读的，一步就够；这一步活多一些，另有收发请求的开销。
#
# </details>
#
# ### 练习 1 ★★☆（10 分钟）：把两段分开
#
# 请求在 `start` 秒发出，各段在 `moments` 里的时刻到达，一共 `tokens` 个词元。返回两个数：首个词元的时间，和词元间隔的平均值。只有一个词元时，间隔算 0。
#
# <details><summary>提示</summary>
#
# 几个词元可能并成一段送来，所以不能数段。3 个词元之间有 2 个间隔。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# <details><summary>Reading</summary>
#
# B. The first row is the time to first token; the rows after it, one less the other, are the gaps. The tokens of a prompt are read together, in one step; that step has more to do, and sending and receiving take time, too.
#
# </details>
#
# ### Exercise 1 ★★☆ (10 minutes): the two waits
#
# A request leaves at `start`, in seconds; its pieces arrive at the times in `moments`; there are `tokens` tokens in all. Return two numbers: the time to first token, and the mean inter-token latency. With a single token the latency is 0.
#
# <details><summary>Hint</summary>
#
# Several tokens may come as one piece, so pieces cannot be counted. Between 3 tokens there are 2 gaps.
#
# </details>


# %% key="ex1" tags=["exercise"]
def waits(start, moments, tokens):
    return ...


# %% key="ex1-solution" tags=["solution"]
def waits(start, moments, tokens):  # noqa: F811
    first = moments[0] - start
    if tokens == 1:
        return first, 0
    return first, (moments[-1] - moments[0]) / (tokens - 1)


# %% key="ex1-check"
l08.ex1.check(waits)

# %% [markdown] lang="zh" key="measure-text"
# ## 许多请求，一起发
#
# 下一格用你的函数量许多请求；练习没解出来时，先用参考答案。`AsyncOpenAI` 的方法和 `OpenAI` 一样，前面加 `await`；`asyncio.gather` 让它们同时在路上，`asyncio.Semaphore` 保证不超过 `concurrency` 个。**吞吐量**（throughput）是每秒一共生成多少词元。

# %% [markdown] lang="en" key="measure-text"
# ## Many requests, together
#
# The next cell measures many requests with your function; as long as the exercise is not solved, the reference answer stands in. `AsyncOpenAI` has the methods of `OpenAI`, with an `await` in front; `asyncio.gather` sends all requests on their way, and an `asyncio.Semaphore` lets no more than `concurrency` of them through. **Throughput** is how many tokens a second are generated in all.

# %% key="measure"
split = l08.yours_or_ours(waits)


async def one_request(gate):
    async with gate:
        start, moments = await arrivals()
    first, between = split(start, moments, fixed["max_tokens"])
    return {"first": first, "between": between, "whole": moments[-1] - start}


async def measure(concurrency, count):
    gate, start = asyncio.Semaphore(concurrency), time.perf_counter()
    # zh: 星号把列表里的请求一个一个交给 gather
    # en: the star hands the requests of the list to gather one by one
    requests = await asyncio.gather(*[one_request(gate) for _ in range(count)])
    seconds = time.perf_counter() - start
    result = {"tokens/s": count * fixed["max_tokens"] / seconds}
    for name in ("first", "between", "whole"):
        result[name] = sum(request[name] for request in requests) / count
    return result


# %% [markdown] lang="zh" key="together-text"
# **先选一个。** 8 个请求一起发，吞吐量是一个接一个的多少倍？
#
# - A. 1 倍：CPU 还是那个 CPU
# - B. 大于 1，小于 8
# - C. 8 倍

# %% [markdown] lang="en" key="together-text"
# **Choose first.** With 8 requests together, how many times the throughput of one after the other is it?
#
# - A. 1 time, no more: it is the same CPU
# - B. More than 1 and less than 8
# - C. 8 times

# %% key="together" tags=["varies"]
for concurrency in (1, min(8, most)):
    result = await measure(concurrency, 8)
    print(concurrency, "|", f"{result['tokens/s']:.0f} tokens/s")

# %% [markdown] lang="zh" key="sweep-text"
# <details><summary>读结果</summary>
#
# B。生成的每一步都有一份固定的开销，与在场的请求数无关，人多就分摊。小模型的这份开销主要是调度；真实的大模型，主要是把全部权重读一遍，给每个在场的请求各算一个词元。
#
# </details>
#
# ## 拐点和利特尔法则
#
# 在路上的请求有多少，**利特尔法则**（Little's law）算得出，什么系统都适用：
#
# $$\text{每秒完成的请求} \times \text{每个请求的秒数} = \text{平均在路上的请求}$$
#
# 下一格让并发从 1 加到 64，打印这个乘法，画出三条曲线。每一档**只量一次**，别的程序一忙就有毛刺：只看形状。
#
# **先选一个。** 服务器同时只算 32 个。并发从 32 加到 64，会怎样？
#
# - A. 吞吐量翻倍
# - B. 吞吐量差不多，首个词元的时间猛涨
# - C. 吞吐量差不多，词元间隔翻倍

# %% [markdown] lang="en" key="sweep-text"
# <details><summary>Reading</summary>
#
# B. Each step of generation has a fixed cost, however many requests are there, and they share it. With the tiny model that cost is mostly scheduling; with a real, large model it is mostly reading all the weights once, which serves a token of every request that is there.
#
# </details>
#
# ## The knee, and Little's law
#
# For the requests under way there is a formula that holds in any system, **Little's law**:
#
# $$\text{requests done per second} \times \text{seconds per request} = \text{requests under way, on average}$$
#
# The next cell raises concurrency from 1 to 64, prints this product in each row, and draws three curves. Each level is measured **once**; other programs make the curves ragged, so look at their shape only.
#
# **Choose first.** The server computes 32 at once. What happens from concurrency 32 to 64?
#
# - A. Throughput doubles
# - B. Throughput hardly changes, the time to first token shoots up
# - C. Throughput hardly changes, the inter-token latency doubles

# %% key="sweep" tags=["varies"]
curves = {}
for level in (1, 2, 4, 8, 16, 32, 64):
    if level <= most:
        curve = await measure(level, max(8, 2 * level))
        curves[level] = curve
        done, seconds = curve["tokens/s"] / fixed["max_tokens"], curve["whole"]
        print(f"{level:2} | {curve['tokens/s']:5.0f} tokens/s", end=" | ")
        print(f"{done:4.1f} × {seconds:5.2f} s = {done * seconds:4.1f}")
l08.draw_curves(curves, server)

# %% [markdown] lang="zh" key="watch-text"
# <details><summary>读图</summary>
#
# B。多出来的 32 个在排队，首个词元的时间猛涨；在算的还是 32 个，词元间隔不再涨。吞吐量先涨后平，变平的地方叫**拐点**（knee）。过了它，每秒完成的请求不再增加；按利特尔法则，并发加一倍，等待也加一倍。收尾时路上的请求变少，乘积就略小于并发。
#
# 怎么选并发：先定下用户最多等多久，再取守得住的最大并发。
#
# </details>
#
# 现在你来改：`max_num_seqs` 改成 8，从头再跑：拐点就移到 8 附近。
#
# ## 看服务器怎么排
#
# 连续批处理（continuous batching）：每生成一步，写完的离开，位子马上给下一个，不等整批结束。下一格同时发出最多 64 个有长有短的请求，边等边读 `/metrics` 里的 `num_requests_running`、`num_requests_waiting` 和 `kv_cache_usage_perc`。
#
# **先选一个。** 32 个在算，32 个在排。running 会怎样？
#
# - A. 一路降到 0，再进来下一批
# - B. 停在 32，直到没有人排队

# %% [markdown] lang="en" key="watch-text"
# <details><summary>Reading</summary>
#
# B. The 32 that are too many queue, so the time to first token shoots up; still 32 are computed, so the inter-token latency grows no further. Throughput rises and then flattens; where it does is the **knee**. Beyond it no more requests are done per second, so by Little's law twice the concurrency is twice the wait. As the last ones finish, fewer are under way, which makes the product a little less than the concurrency.
#
# How to choose: settle how long your users may wait, then take the highest concurrency that keeps to it.
#
# </details>
#
# Now change it: set `max_num_seqs` to 8 and run all of it again: the knee moves to about 8.
#
# ## Watch the server schedule
#
# Continuous batching: after every step who is done leaves, the free place goes to the next at once, and nothing waits for the end of a batch. The next cell sends up to 64 requests at once, short and long, and as it waits reads `num_requests_running`, `num_requests_waiting` and `kv_cache_usage_perc` in `/metrics`.
#
# **Choose first.** 32 are computed, 32 queue. What will running do?
#
# - A. Fall to 0, then the next batch comes in
# - B. Stay at 32 until nobody queues

# %% key="watch" tags=["varies"]
tasks = []
for n in range(most):
    length = 32 + 8 * (n % 16)  # 32, 40, ..., 152
    tasks.append(asyncio.create_task(send(client, max_tokens=length)))
# zh: 每隔 0.03 秒读一次 /metrics，记下时刻和读到的指标，直到请求都写完
# en: reads /metrics every 0.03 s and notes the time and the metrics, until all are done
samples = await l08.watch(server, tasks)
await asyncio.gather(*tasks)
running = [metrics["num_requests_running"] for moment, metrics in samples]
assert server.attached or max(running) <= options["max_num_seqs"]
l08.draw_queue(samples, most=options["max_num_seqs"])

# %% [markdown] lang="zh" key="timeout-text"
# <details><summary>读图</summary>
#
# B。running 贴着 32 走，waiting 一步步降；降到 0 以后 running 才降。右图的 KV 缓存很宽裕，真实的卡正是在这里满的。
#
# </details>
#
# ## 超时和断开
#
# `openai` 客户端默认等 10 分钟，失败后自动重试 2 次：超时的请求会被**再发一遍**，负载越重重试越多。所以超时要按任务设，重试要有间隔、有上限。
#
# **先选一个。** 下面的请求要 1000 个词元，客户端只等 0.2 秒。断开之后，服务器会怎样？
#
# - A. 算完 1000 个词元
# - B. 很快停下

# %% [markdown] lang="en" key="timeout-text"
# <details><summary>Reading</summary>
#
# B. Running keeps to 32 while waiting falls step by step; only when that is 0 does running fall. On the right, the KV cache has plenty of room; on a real card this is where it gets tight.
#
# </details>
#
# ## Timeouts and disconnects
#
# The `openai` client waits 10 minutes by default and retries 2 times by itself: a request that timed out is **sent again**, so the heavier the load, the more retries add to it. Set the timeout by the task, and give retries pauses and a limit.
#
# **Choose first.** The next request wants 1000 tokens, and its client waits 0.2 seconds only. What does the server do when the client has left?
#
# - A. Computes all 1000 tokens
# - B. Stops soon

# %% key="timeout" tags=["raw", "varies"]
if not server.attached:
    try:
        await send(client.with_options(timeout=0.2), max_tokens=1000)
    except openai.APITimeoutError as error:
        print(type(error).__name__, error)
    start = time.perf_counter()
    while server.metrics()["num_requests_running"]:
        await asyncio.sleep(0.02)
    print("num_requests_running = 0:", f"{time.perf_counter() - start:.2f} s")

# %% [markdown] lang="zh" key="pressure-text"
# <details><summary>读结果</summary>
#
# B。客户端一断开，服务器就停止生成，不浪费算力。
#
# </details>
#
# ## 背压：队伍满了就拒绝
#
# 没有边界的队伍，最后人人超时。服务器满员时立即说 503，这叫背压（back-pressure），客户端就知道要慢下来：间隔一次比一次长地重试，或者用 `Semaphore` 管住自己。
#
# **先选一个。** 服务器最多收 64 个。一下子来 96 个，不重试，拒绝几个？
#
# - A. 0 个，都去排队
# - B. 32 个
# - C. 96 个

# %% [markdown] lang="en" key="pressure-text"
# <details><summary>Reading</summary>
#
# B. When a client disconnects, the server stops generating and wastes no work.
#
# </details>
#
# ## Back-pressure: refuse when the queue is full
#
# With a queue that has no bounds, in the end everyone times out. A full server says 503 at once. This is called back-pressure: it tells clients to slow down. They try again, with pauses that grow, or hold themselves back with a `Semaphore`.
#
# **Choose first.** The server admits 64. Of 96 that come at once and do not retry, how many are refused?
#
# - A. 0, they all queue
# - B. 32
# - C. 96


# %% key="pressure" tags=["raw", "varies"]
async def crowd(client):
    requests = [send(client) for _ in range(96)]
    results = await asyncio.gather(*requests, return_exceptions=True)
    # zh: 状态码 500 以上，openai 都报成 InternalServerError
    # en: for every status from 500 on, openai raises an InternalServerError
    refused = [r for r in results if isinstance(r, openai.InternalServerError)]
    print(f"max_retries={client.max_retries}: 503 × {len(refused)}")
    return refused


if "max_num_queued_reqs" in options and not server.attached:
    refused = await crowd(client)
    print(refused[0])
    await crowd(client.with_options(max_retries=5))
    # zh: Semaphore：有一个被拒绝就会出错
    # en: with a Semaphore: a single refusal would be an error
    result = await measure(64, 96)
    print(f"Semaphore(64): {result['tokens/s']:.0f} tokens/s")

# %% [markdown] lang="zh" key="ex2-text"
# <details><summary>读结果</summary>
#
# B。重试的都答上了，只是有人要多等；管住自己的，一个也没有被拒绝。两样都要：`Semaphore` 管自己，重试对付别人。
#
# </details>
#
# ### 练习 2 ★☆☆（5 分钟）：哪些错误值得重试
#
# 给定状态码（连接失败或超时用 `None` 表示），返回该不该重试。值得重试的是**过一会儿可能就好**的：连接失败、408、429、500 和以上；请求本身不对的，再发一百遍也不对。
#
# <details><summary>提示</summary>
#
# 先处理 `None`，再比较数字。
#
# </details>

# %% [markdown] lang="en" key="ex2-text"
# <details><summary>Reading</summary>
#
# B. Those who retried were all answered, only some had to wait longer; those who held themselves back were refused nothing. Do both: the `Semaphore` for yourself, retries because of the others.
#
# </details>
#
# ### Exercise 2 ★☆☆ (5 minutes): which errors are worth a retry
#
# Given a status (`None` for a failed connection or a timeout), return whether to retry. Worth it is what **may be over in a moment**: a failed connection, 408, 429, 500 and above; a request that is wrong stays wrong a hundred times over.
#
# <details><summary>Hint</summary>
#
# Deal with `None` first, then compare numbers.
#
# </details>


# %% key="ex2" tags=["exercise"]
def worth_a_retry(status):
    return ...


# %% key="ex2-solution" tags=["solution"]
def worth_a_retry(status):  # noqa: F811
    return status is None or status in (408, 429) or status >= 500


# %% key="ex2-check"
l08.ex2.check(worth_a_retry)

# %% [markdown] lang="zh" key="prefix-text"
# ## 前缀缓存：同一段开头（选读）
#
# 许多请求往往以同一段话开头，例如系统提示词；下面是一张乘法表。它的键和值算过一次就留着，后来的请求直接用；`--enable-prompt-tokens-details` 让回答说出用了多少。单位是块：GPU 上默认 16 个词元，CPU 上 128 个，开头相同的**整块**才算命中。
#
# **先选一个。** 表在前、问题在后，三个请求依次能用上缓存吗？反过来，问题在前呢？
#
# - A. 两种写法，都从第 2 个起用得上
# - B. 表在前，从第 2 个起用得上；问题在前，一个也用不上

# %% [markdown] lang="en" key="prefix-text"
# ## Prefix caching: one beginning for all (extra)
#
# Many requests begin with the same text, such as a system prompt; here it is a multiplication table. Its keys and values are computed once and kept, and later requests use them; with `--enable-prompt-tokens-details` a reply tells how much it used. The unit is a block, 16 tokens by default on a GPU and 128 on a CPU, and only **whole blocks** that are equal from the start count as a hit.
#
# **Choose first.** With the table in front of the question, which of three requests find something in the cache? And with the question in front?
#
# - A. Either way, from request 2 on
# - B. With the table in front, from request 2 on; with the question in front, none

# %% key="prefix" tags=["extra"]
rows = []
for a in range(2, 10):
    for b in range(a, 10):
        rows.append(f"{a}×{b}={a * b}")
cached = {}
for form in ("table + question", "question + table"):
    # zh: 每次都不同，好让第一个请求什么也找不到
    # en: new each time, so that the first request finds nothing
    table = "\n".join([str(time.time_ns()), *rows])
    cached[form] = []
    for question in ("37×46=?", "12×34=?", "55×66=?"):
        text = {"table": table, "question": question}
        first, last = form.split(" + ")
        reply = await client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": f"{text[first]}\n{text[last]}"}],
            max_tokens=4,
            temperature=0.7,
            top_p=0.8,
            extra_body={
                "chat_template_kwargs": {"enable_thinking": False},
                "top_k": 20,
            },
        )
        details = reply.usage.prompt_tokens_details
        cached[form].append(details.cached_tokens if details else None)
    tokens = reply.usage.prompt_tokens
    print(f"{form} | prompt_tokens: {tokens} | cached_tokens: {cached[form]}")
if server.is_bundled and not server.attached:
    assert cached == {"table + question": [0, 256, 256], "question + table": [0, 0, 0]}

# %% [markdown] lang="zh" key="bench-text"
# <details><summary>读结果</summary>
#
# B。开头相同才算数：问题放在前面，一个块也命不中。所以提示词要先写不变的，再写变的；时间、用户名这类东西不要放在最前面。
#
# </details>
#
# ## 和 `vllm bench serve` 对一对（选读）
#
# 自己写的尺子要和公认的尺子比一比。`vllm bench serve` 用随机词元作提示词，这里让它和 `measure` 一样：提示词约 80 个词元，输出 64 个，同时 16 个。`measure` 前后各跑一次，`bench` 在中间跑一次。（比服务器时还常听到有效吞吐量，goodput：只算按时答完的请求。）

# %% [markdown] lang="en" key="bench-text"
# <details><summary>Reading</summary>
#
# B. Only an equal beginning counts: with the question in front, not one block is hit. So a prompt should put what stays the same first and what changes last; keep the time of day or a user's name out of its beginning.
#
# </details>
#
# ## Beside `vllm bench serve` (extra)
#
# A home-made ruler should be held against the one that everyone uses. `vllm bench serve` takes random tokens for prompts; here it is told to do what `measure` does: about 80 tokens of prompt and 64 of output, 16 at once. `measure` runs once before and once after, `bench` once in between. (Servers are also compared by goodput, the throughput of the requests that were answered in time.)

# %% key="bench" tags=["extra", "varies"]
command = f"""
vllm bench serve --backend openai --base-url {server.base_url.removesuffix("/v1")}
    --model {server.model} --tokenizer '{models.course_model()}'
    --dataset-name random --random-input-len 80 --random-output-len 64
    --num-prompts 64 --max-concurrency 16 --ignore-eos --temperature 0.6
"""
if not server.attached:
    before = await measure(16, 64)
    # zh: 在另一个线程里运行这条命令，事件循环不被挡住
    # en: runs the command in another thread, so that the event loop goes on
    theirs = await asyncio.to_thread(l08.bench, command)
    assert theirs["completed"] == 64
    after = await measure(16, 64)
    print(f"measure {before['tokens/s']:.0f}, {after['tokens/s']:.0f} tokens/s")
    print(f"bench   {theirs['output_throughput']:.0f} tokens/s")

# %% [markdown] lang="zh" key="copy-text"
# `measure` 自己两次相差多少，就是这台机器此刻的误差：比它小的差距不算数。只跑这么几次，说不了谁快；`benchmarks/serving.py` 用相同的提示词，两边轮流跑，每边跑得更久，再比一次。
#
# ## 可以直接拿走的代码（选读）
#
# 一批问题并发地问，答案一到就写进 JSONL 文件。按一次 Ctrl-C 就停，什么都不丢，再运行一次就接着问；服务器重启时，它守着 `/health` 等服务器回来。错误按上面的规则重试、间隔加倍并带一点随机，只有超时最多再试一次。答案按原来的顺序返回；实在不行的那几个，返回的是异常本身，别的答案不受影响，退出码不是 0。

# %% [markdown] lang="en" key="copy-text"
# How far the two runs of `measure` differ is the error of this machine at this moment: a gap smaller than that means nothing. So few runs do not tell which is faster; `benchmarks/serving.py` compares the two with the same prompts, taking turns, in longer runs.
#
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
# 在笔记本里，上一格只定义函数；把它的三个设置换成上面的服务器，就能用：

# %% [markdown] lang="en" key="batch-text"
# In a notebook the last cell only defines its functions; give its three settings the server above, and use them:

# %% key="batch" tags=["extra", "varies"]
BASE_URL, API_KEY, MODEL = server.base_url, server.api_key, server.model
await ask_all(["37×46=?", "17+25+8=?", "5!=?"], concurrency=2)

# %% [markdown] lang="zh" key="stop-text"
# ## 停止服务器

# %% [markdown] lang="en" key="stop-text"
# ## Stop the server

# %% key="stop"
await client.close()
server.stop()

# %% [markdown] lang="zh" key="knobs-text"
# ## 位子、预算、缓存：一步一步看（选读）
#
# 每一步算谁的、算几个词元，由**调度器**来定。服务器在另一个进程里，它的调度器做了什么，只能从指标里猜。引擎开在这个笔记本里，`schedule.record` 就能把每一步记下来。下一格开一个很小的：一步最多算 64 个词元（`max_num_batched_tokens`），缓存分成 16 块，每块放 32 个词元，vLLM 自己留一块。四个问题各写 120 个词元，最后一个带着一张乘法表。位子（`max_num_seqs`）从 4 个减到 1 个。
#
# **先选一个（选读）。** 四个一起写，15 块装不下，最后来的 r3 中途要让位，写过的以后得重新读一遍。那么 4 个位子和 2 个位子，哪一个步数少？
#
# - A. 2 个：不用让位，也就不用重读
# - B. 4 个：重读的那些，几步就读完了
# - C. 一样多

# %% [markdown] lang="en" key="knobs-text"
# ## Seats, budget, cache: step by step (extra)
#
# A **scheduler** decides in each step whose tokens are computed, and how many. The server is another process, and what its scheduler does can only be guessed from metrics. With an engine inside this notebook, `schedule.record` writes down each step. The next cell opens a very small one: a step has at most 64 tokens (`max_num_batched_tokens`), and the cache has 16 blocks of 32 tokens, of which vLLM keeps one. Four questions write 120 tokens each, and the last one carries a multiplication table. The seats (`max_num_seqs`) go from 4 down to 1.
#
# **Choose first (extra).** Four requests at once need more than 15 blocks. So r3, the last to come, has to make room, and what it has written is read again later. Which takes fewer steps, 4 seats or 2?
#
# - A. 2: nobody makes room, so nothing is read again
# - B. 4: what is read again takes a few steps only
# - C. Both take the same

# %% key="knobs" tags=["extra"]
from helpers import catalogue, schedule
from helpers.checkpoint import Checkpoint
from helpers.engine import open_engine
from helpers.explorer import ScheduleExplorer

folder = models.course_model()
per_token = catalogue.kv_bytes_per_token(Checkpoint(folder).config)
rows = []
for a in range(2, 6):
    for b in range(a, 10):
        rows.append(f"{a}×{b}={a * b}")
rows.append("7×8=?")
chats = []
for question in ("37×46=?", "23×31=?", "12+34=?", "\n".join(rows)):
    chats.append([{"role": "user", "content": question}])
traces = {}
if not server.attached:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True)
    llm = open_engine(
        folder,
        max_num_batched_tokens=64,
        block_size=32,
        kv_cache_memory_bytes=16 * 32 * per_token,
        max_model_len=400,
        enable_prefix_caching=False,
        async_scheduling=False,
    )
    for seats in (4, 3, 2, 1):
        with schedule.record(llm, max_num_seqs=seats) as trace:
            llm.chat(chats, params, use_tqdm=False)
        traces[seats] = trace
    llm.close()
# zh: 位子，步数，r3 每次读了几个词元（不算一次写一个的）
# en: seats, steps, how many tokens r3 read at a time (but for those it wrote)
for seats, trace in traces.items():
    read = []
    for step in trace.replay():
        if step.tokens.get(3, 0) > 1:
            read.append(step.tokens[3])
        if 3 in step.preempted:
            read.append("|")
    print(seats, len(trace), *read)
ScheduleExplorer(traces[4], step=50, request=3) if traces else None

# %% [markdown] lang="zh" key="limit-text"
# <details><summary>读图</summary>
#
# B。196 步，2 个位子要 243 步。打印的竖线是 r3 让位的那一步（抢占）：之前它分几步读提示词，因为一步只有 64 个词元，正在写的先拿走它们的（分段预填充）；之后它等着，另外三个照样写；它们写完，块还了回来，它再把提示词和写过的读一遍，四步就读完（64、64、64、46 个词元）。只有 1 个位子，要 482 步。抢占不会出错，只是白算了一遍；常常发生，就该减少位子，或者加大缓存。服务器的 `/metrics` 里，`num_preemptions_total` 数的就是它。
#
# </details>
#
# 现在你来改：把 64 改成 16，r3 读提示词要几步，别人写得慢了吗？再把 16 块改成 32 块，看还有没有人让位。
#
# <details><summary>答案</summary>
#
# 读要多走好些步：16 个词元，另外三个先各拿 1 个，剩下的才给它；别人仍旧一步写一个，总步数却多了。改成 32 块（一步仍是 64 个），就没有人让位，总步数少得多。
#
# </details>
#
# 想自己写一个这样的调度器：[附录 A3](../zh/A3_mini_vllm.ipynb)。
#
# ## 一张 24 GB 的卡，上限在哪里（选读）
#
# 上面的数值属于这台机器。真实的卡没有在这里量过，但上限可以**算**出来，两条：
#
# 1. **显存**：权重之外剩下的显存除以每个请求的 KV 缓存，就是装得下的请求数。
# 2. **带宽**：每生成一步，至少要把权重和所有在场请求的 KV 缓存读一遍（输入的嵌入矩阵除外，每个词元只取它的一行）；读的字节数除以显存带宽，就是一步的最短时间。
#
# 以 Qwen3-8B 和一张 RTX 4090 为例：384 位、每针 21 Gbps 的 [GDDR6X](https://www.nvidia.com/en-us/geforce/graphics-cards/40-series/rtx-4090/)，合[每秒 1008 GB](https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf)；系统看到的显存比 24 GiB 略少，有人在 4090 上见到 [23.64 GiB](https://github.com/ali-vilab/VGen/issues/104)，在 3090 上见到 [23.56 GiB](https://github.com/vllm-project/vllm/issues/17327)，这里按 23.5 GiB 算；vLLM 用其中的 92%，另留 1.5 GiB 给激活值等。每个请求按 1024 个词元算。
#
# **先选一个。** 一起算的请求越多，每秒词元数的上限会怎样？
#
# - A. 不变：带宽就那么多
# - B. 几乎成正比地涨，直到显存装满

# %% [markdown] lang="en" key="limit-text"
# <details><summary>Reading</summary>
#
# B. It takes 196 steps, and 2 seats take 243. The printed bar is the step at which r3 makes room (preemption). Before it, r3 reads its prompt in several steps: a step has 64 tokens, and those that write take theirs first (chunked prefill). After it, r3 waits while the other three write on. When they are done and their blocks are free, it reads its prompt and what it has written once more, in four steps (64, 64, 64 and 46 tokens). A single seat takes 482 steps. Preemption is never wrong, it only computes something twice; where it happens often, lower the seats or enlarge the cache. In a server's `/metrics` it is counted by `num_preemptions_total`.
#
# </details>
#
# Now change it: make 64 into 16. In how many steps does r3 read its prompt, and do the others write more slowly? Then make 16 blocks into 32: does anybody still make room?
#
# <details><summary>Answer</summary>
#
# Its reading takes many more steps: of 16 tokens the other three take 1 each, and it gets what is left; they write one a step as before, but there are more steps in all. With 32 blocks (and 64 tokens a step again) nobody makes room, and far fewer steps do.
#
# </details>
#
# To write such a scheduler yourself: [appendix A3](../en/A3_mini_vllm.ipynb).
#
# ## A 24 GB card: where is its limit (extra)
#
# The numbers above belong to this machine. No real card was measured here, but its limits can be **computed**. There are two:
#
# 1. **Memory**: what is left beside the weights, divided by the KV cache of one request, is the number of requests that fit.
# 2. **Bandwidth**: each step has to read the weights (but for the input embedding, of which a token takes one row) and the KV cache of all requests at least once; these bytes divided by the memory bandwidth are the shortest time of a step.
#
# Take Qwen3-8B and an RTX 4090: 384 bits of [GDDR6X](https://www.nvidia.com/en-us/geforce/graphics-cards/40-series/rtx-4090/) at 21 Gbps a pin make [1008 GB/s](https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf); the system sees a little less than 24 GiB, [23.64 GiB](https://github.com/ali-vilab/VGen/issues/104) on one 4090 and [23.56 GiB](https://github.com/vllm-project/vllm/issues/17327) on a 3090, so count with 23.5 GiB; vLLM takes 92% of it, and 1.5 GiB are set aside for activations and the like. A request is reckoned at 1024 tokens.
#
# **Choose first.** The more requests are computed together, what becomes of the limit in tokens per second?
#
# - A. Nothing: the bandwidth is what it is
# - B. It grows almost in proportion, until the memory is full

# %% key="limit" tags=["extra"]
from helpers import GIB, catalogue

config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
weights = catalogue.weight_bytes(config)
per_request = 1024 * catalogue.kv_bytes_per_token(config)
room = 23.5 * GIB * catalogue.GPU_SHARE - weights - 1.5 * GIB
fitting = int(room // per_request)
# zh: 一步要读的字节：除输入嵌入以外的全部权重。嵌入表和输出共用的模型，这张表照样要读；
# zh: Qwen3-8B 的输出另有一张
# en: bytes that a step reads: all weights but the input embedding. A table that is shared
# en: with the output is read all the same; Qwen3-8B has another one there
read = weights - 2 * config["vocab_size"] * config["hidden_size"]


# zh: n 个请求各有 1024 个词元时，每秒最多几个词元
# en: tokens per second that n requests of 1024 tokens can get at most
def bound(n):
    return n * (384 * 21e9 / 8) / (read + n * per_request)


print(say("权重：", "weights:"), f"{weights / 1e9:.1f} GB")
print(say("留给 KV 缓存：", "left for the KV cache:"), f"{room / GIB:.1f} GiB")
print(say("装得下的请求：", "requests that fit:"), fitting)
# zh: 同时的请求数，吞吐量的上限，一个词元至少要多久
# en: requests at once, bound of the throughput, shortest time a token
for n in (1, 8, fitting):
    print(f"{n:3} | <= {bound(n):4.0f} tokens/s | {1000 * n / bound(n):.1f} ms")
l08.draw_limit(bound, fitting)

# %% [markdown] lang="zh" key="beyond-text"
# <details><summary>读图</summary>
#
# B。虚线是**算出来的，不是测量**。读一遍权重，一个请求只得一个词元，34 个一起算就得 34 个；读权重占了每一步的大头，所以 34 个一起，一步也只从 15.2 ms 长到 20.1 ms。先到头的是显存：装得下 34 个，竖线以右只能排队。PagedAttention（第 05 课）要紧就在这里：给每个请求预留整段上下文，同样的显存只放得下几个请求。真实的速度还要低，因为计算和调度也要时间。
#
# </details>
#
# ## 一张卡不够的时候（选读）
#
# | 办法 | 怎么分 | 每张卡的权重 | 每张卡的 KV 缓存 | 用在哪里 |
# |---|---|---|---|---|
# | 张量并行（TP） | 每个矩阵切成几份，每层都要通信 | 除以 TP | KV 头分给各卡，除以 TP；KV 头不够分就复制 | 一台机器里，卡间要快 |
# | 流水线并行（PP） | 各层分成几段，段间传隐藏状态 | 除以 PP | 除以 PP | 跨机器，或卡间慢 |
# | 数据并行（DP） | 整个模型复制几份，请求分给各份 | 不变（MoE 例外，见下） | 不变，总量乘以 DP | 装得下，只是人多 |
#
# MoE 的例外：数据并行时，vLLM 默认[不复制专家](https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/)，而是分到全部 DP×TP 张卡上。
#
# **先选一个。** Qwen3-32B 在 4 张 24 GB 的卡上，TP 取 4，装得下吗？
#
# - A. 装不下
# - B. 装得下，每张卡放 2 个 KV 头
# - C. 装得下，每张卡放 8 个 KV 头

# %% [markdown] lang="en" key="beyond-text"
# <details><summary>Reading</summary>
#
# B. The dashed line is **computed, not measured**. Reading the weights once gives one token for one request, and 34 for 34 of them; most of a step goes into reading weights, so with 34 requests a step grows from 15.2 ms to no more than 20.1 ms. What runs out first is memory: 34 fit, and right of the vertical line requests can only queue. That is why PagedAttention (lesson 05) matters: with room set aside for whole contexts, the same memory would hold only a few requests. The real speed is lower still, as computing and scheduling take time too.
#
# </details>
#
# ## When one card is not enough (extra)
#
# | Way | What is divided | Weights on each card | KV cache on each card | Where it fits |
# |---|---|---|---|---|
# | tensor parallel (TP) | every matrix, with communication in every layer | divided by TP | KV heads are shared out, divided by TP; copied where there are too few | inside one machine with fast links |
# | pipeline parallel (PP) | the layers, in stages that pass hidden states on | divided by PP | divided by PP | across machines, or over slow links |
# | data parallel (DP) | nothing: copies of the model, and requests are shared out | unchanged (but for MoE, see below) | unchanged, in all multiplied by DP | it fits, and many come |
#
# The exception for MoE: in data parallel vLLM by default [does not copy the experts](https://docs.vllm.ai/en/stable/serving/data_parallel_deployment/) but shares them out over all DP×TP cards.
#
# **Choose first.** Does Qwen3-32B fit on 4 cards of 24 GB, with TP at 4?
#
# - A. No
# - B. Yes, with 2 KV heads on each card
# - C. Yes, with 8 KV heads on each card

# %% key="arithmetic" tags=["extra"]
from helpers import GIB, catalogue

heading = say(
    "模型       显卡               每张卡的权重    每张卡每个词元的 KV   装得下的词元",
    "model      cards              weights/card    KV/token and card   tokens that fit",
)
print(heading)
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
    # zh: 每张卡分到 KV 头的几分之几；一个头不会再切开
    # en: the share of the KV heads that a card holds; a head is never cut
    share = max(1, heads // tp) / heads
    kv = catalogue.kv_bytes_per_token(config) * share / pp
    weights = catalogue.weight_bytes(config) / (tp * pp)
    room = 0.98 * memory * GIB * catalogue.GPU_SHARE - weights - 1.5 * GIB
    tokens = say("   装不下", "does not fit")
    if room > 0:
        tokens = f"{room / kv:9,.0f}"
    cards = f"TP {tp} × PP {pp}, {memory} GB"
    print(f"{name:10} {cards:18} {weights / GIB:9.1f} GiB", end=" ")
    print(f"{kv / 1024:15.0f} KiB       {tokens}")

# %% [markdown] lang="zh" key="tp-text"
# <details><summary>读结果</summary>
#
# B。这是算术，不是测量：每张卡按标称显存的 98% 可见、vLLM 用其中 92%、另留 1.5 GiB 计算。Qwen3-32B 有 8 个 KV 头，TP 取 4 时每张卡放 2 个，装得下。Qwen3-235B-A22B 在 8 张 80 GB 的卡上装得下；换成 48 GB 的卡就要两台机器，也就是再加一倍的流水线。它只有 4 个 KV 头，TP 取 8 时每张卡仍各存 1 个：KV 缓存只除以 4。
#
# </details>
#
# ## 张量并行，就在这里（选读）
#
# 没有两张卡，就用两个 CPU 核：两个工作进程各拿一半的注意力头和一半的前馈网络，用的是和多卡相同的代码。
#
# **先选一个。** 每个进程的 KV 缓存仍是 64 MiB。一共放得下的词元会变成几倍？
#
# - A. 1 倍
# - B. 2 倍
# - C. 4 倍

# %% [markdown] lang="en" key="tp-text"
# <details><summary>Reading</summary>
#
# B. This is arithmetic and no measurement: it takes 98% of a card's nominal memory as visible, of which vLLM uses 92%, less 1.5 GiB. Qwen3-32B has 8 KV heads, 2 a card with TP at 4, and fits. Qwen3-235B-A22B fits on 8 cards of 80 GB; with cards of 48 GB it takes two machines, which means twice the pipeline. It has 4 KV heads only, so at a TP of 8 each card still stores 1: its KV cache is divided by 4.
#
# </details>
#
# ## Tensor parallel, right here (extra)
#
# Without two cards, two CPU cores will do: each of two worker processes holds half of the attention heads and half of each feed-forward network, by the same code that runs on several cards.
#
# **Choose first.** Each process still has a KV cache of 64 MiB. How many times the tokens will fit?
#
# - A. 1 time
# - B. 2 times
# - C. 4 times

# %% key="tp" tags=["extra", "raw", "varies"]
if not server.attached and models.is_bundled():
    with Server(tensor_parallel_size=2) as parallel:
        local = openai.OpenAI(base_url=parallel.base_url, api_key=parallel.api_key)
        reply = local.chat.completions.create(
            model=parallel.model,
            messages=[{"role": "user", "content": "37×46=?"}],
            temperature=0.6,
            top_p=0.95,
            seed=0,
            extra_body={"top_k": 20},
        )
        answer = reply.choices[0].message.content.strip()
        # zh: 两台服务器的日志里写着，KV 缓存放得下几个词元
        # en: both servers' logs say how many tokens the KV cache holds
        one, two = l08.kv_tokens(server), l08.kv_tokens(parallel)
    print("TP 2:", answer)
    print(f"KV cache | TP 1: {one:,} tokens | TP 2: {two:,} tokens")
    assert "1702" in answer and two > 1.9 * one

# %% [markdown] lang="zh" key="commands-text"
# <details><summary>读结果</summary>
#
# B。每个进程只存一个 KV 头，同样的字节放得下两倍的词元：这正是显存算术里的“除以 TP”。快不快是另一回事，这里没有量：每一层都要等两个进程交换结果。
#
# </details>
#
# ## 更大的规模：命令（选读）
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
# **想一想。** Qwen3-8B 有 8 个 KV 头，TP 取 16，每张卡的 KV 缓存是几分之一？
#
# <details><summary>答案</summary>
#
# 8 分之一：头不能再切，每张卡至少存 1 个，其余是复制。
#
# </details>
#
# ### 练习 3 ★★☆（6 分钟，选读）：装得下几个请求
#
# 补全函数：`config` 是 `config.json` 的字典，`weights` 是权重的总字节数，`memory` 是**每张卡**可用的字节数，`tp` 是张量并行的卡数，`context` 是每个请求的词元数。键和值每个数占 2 字节。返回同时装得下几个请求（整数，装不下时是 0）。KV 头少于卡数时，每张卡仍要存一个。
#
# <details><summary>提示</summary>
#
# 每张卡：权重除以 `tp`，KV 头数是 `max(1, num_key_value_heads // tp)`；每个词元每层要存键和值，每个头 `head_dim` 个数，每个数 2 字节。
#
# </details>

# %% [markdown] lang="en" key="commands-text"
# <details><summary>Reading</summary>
#
# B. Each process stores one KV head, so the same bytes hold twice the tokens: there is the "divided by TP" of the arithmetic. Speed is another matter and was not measured here: in every layer the two have to exchange results.
#
# </details>
#
# ## On a larger scale: commands (extra)
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
# **Think.** Qwen3-8B has 8 KV heads. With TP at 16, what fraction of the KV cache does a card hold?
#
# <details><summary>Answer</summary>
#
# One in 8: a head is not cut any further, each card stores at least 1, and the rest are copies.
#
# </details>
#
# ### Exercise 3 ★★☆ (6 minutes, extra): how many requests fit
#
# Complete the function: `config` is the dictionary of a `config.json`, `weights` the bytes of all weights, `memory` the usable bytes of **each card**, `tp` the number of cards in tensor parallel, `context` the tokens of each request. Keys and values take 2 bytes a number. Return how many requests fit at once (a whole number, 0 if none does). Where there are fewer KV heads than cards, each card still stores one.
#
# <details><summary>Hint</summary>
#
# On each card: the weights divided by `tp`, and `max(1, num_key_value_heads // tp)` KV heads; a token stores a key and a value in every layer, `head_dim` numbers for each head, 2 bytes a number.
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

# %% [markdown] lang="zh" key="ex4-text"
# ### 练习 4 ★★☆（6 分钟，选读）：找出延迟翻倍的并发
#
# 补全函数：`curves` 是 `{concurrency: latency}` 的字典，不一定按顺序，一定有并发 1。返回延迟**第一次**达到并发 1 时的两倍的那个并发；一直没有达到，返回 `None`。检查之后，它也用在你上面量出的整个请求的时间上。
#
# <details><summary>提示</summary>
#
# 从小到大走，和并发 1 的延迟比，不是和前一档比。
#
# </details>

# %% [markdown] lang="en" key="ex4-text"
# ### Exercise 4 ★★☆ (6 minutes, extra): find where latency doubles
#
# Complete the function: `curves` is a dictionary `{concurrency: latency}`, not necessarily in order, and 1 is always in it. Return the **first** concurrency whose latency is at least twice that of concurrency 1, or `None` if there is none. After the check it is applied to the times of whole requests that you measured above.
#
# <details><summary>Hint</summary>
#
# Go upwards, and compare with the latency at 1, not with the level before.
#
# </details>


# %% key="ex4" tags=["exercise", "extra"]
def latency_doubles(curves):
    return ...


# %% key="ex4-solution" tags=["solution"]
def latency_doubles(curves):  # noqa: F811
    for concurrency in sorted(curves):
        if curves[concurrency] >= 2 * curves[1]:
            return concurrency
    return None


# %% key="ex4-check" tags=["extra"]
l08.ex4.check(latency_doubles)
whole = {level: curve["whole"] for level, curve in curves.items()}
found = latency_doubles(whole)
if found is not ...:
    print(say("上面的测量里：", "in the measurement above:"), found)

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 等待分两段：首个词元的时间看排队和提示词，词元间隔看同时算多少请求。
# - 批处理让一步服务许多请求，吞吐量随并发上升；过了拐点，只增加等待。
# - 利特尔法则：每秒完成的请求 × 每个请求的秒数 = 平均在路上的请求。
# - 服务器要有边界（`--max-num-seqs`、`--max-num-queued-reqs`），客户端也要有（`Semaphore`、超时、有限的重试）。
#
# ## 自测
#
# 1. 为什么并发翻倍，吞吐量却不翻倍？
# 2. 首个词元的时间突然变长，词元间隔不变，最可能是什么原因？
# 3. 每秒完成 5 个请求，每个要 4 秒，平均有几个在路上？
# 4. 连续批处理和“凑满一批再算”有什么不同？
# 5. 为什么超时之后自动重试可能让情况更糟？
#
# <details><summary>答案</summary>
#
# 1. 固定的开销可以分摊，每个请求自己的计算不能。
# 2. 请求在排队：`num_requests_waiting` 大于 0。
# 3. 20 个。
# 4. 每一步都可以进出，短的不必等长的。
# 5. 超时说明服务器忙；重试又添一个请求，已经算的也白算了。
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
#
# **选读。** 和选读的小节有关的：
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 前缀缓存从不命中 | 开头有时间、编号等变化的内容，或公共部分不满一块 | 不变的放最前面 |
# | 启动时说显存不够，`--tensor-parallel-size` 加大也没用 | KV 头不够分，或每张卡都被别人占了 | 看 `nvidia-smi`，调小 `--max-model-len` |

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - Waiting has two parts: the time to first token depends on queue and prompt, the inter-token latency on how many are computed at once.
# - Batching lets one step serve many requests, so throughput rises with concurrency; beyond the knee only the wait rises.
# - Little's law: requests done per second × seconds per request = requests under way, on average.
# - A server needs bounds (`--max-num-seqs`, `--max-num-queued-reqs`), and so does a client (`Semaphore`, timeouts, a limited number of retries).
#
# ## Test yourself
#
# 1. Why does twice the concurrency not give twice the throughput?
# 2. The time to first token grows suddenly, the inter-token latency does not. What is the likely cause?
# 3. 5 requests are done per second, and each takes 4 seconds. How many are under way, on average?
# 4. How does continuous batching differ from waiting until a batch is full?
# 5. Why may automatic retries after a timeout make things worse?
#
# <details><summary>Answers</summary>
#
# 1. The fixed cost is shared, each request's own computation is not.
# 2. Requests queue: `num_requests_waiting` is above 0.
# 3. 20.
# 4. Requests enter and leave at every step, and the short need not wait for the long.
# 5. A timeout says that the server is busy; a retry adds a request to it, and what was computed before is lost.
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
#
# **Extra.** About the sections marked extra:
#
# | Symptom | Cause | Remedy |
# |---|---|---|
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
