# %% [markdown] lang="zh" key="title"
# # 09 · 综合项目：你的题目，你的服务
#
# | | |
# |---|---|
# | 学完能做 | 用自己的题目量出该给多少思考预算；把模型开成服务，用客户端提问；引擎被杀之后救回来，一道题也不丢；交出一页有六项检查的报告 |
# | 先修 | 第 05 到 08 课 |
# | 时间 | 50 分钟；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的 `qwen3-tiny`；建议的真实模型：Qwen3-8B（24 GB 显存），没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 09 · Project: your questions, your service
#
# | | |
# |---|---|
# | You will be able to | measure on your own questions how large a thinking budget should be; serve the model and ask it through a client; bring the service back after its engine was killed, with no question lost; hand in a report of one page with six checks |
# | Prerequisites | lessons 05 to 08 |
# | Time | 50 minutes; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the bundled `qwen3-tiny`; a real one to try: Qwen3-8B (24 GB of GPU memory), which was not run on a GPU |

# %% key="setup"
import asyncio
import os

from helpers import ROOT, models
from helpers.lessons import l09
from helpers.lessons.thinking import require_thinking
from helpers.server import Server

print(models.describe(), "| thinking:", require_thinking(models.course_model()))
# zh: None：有多少位置就用多少词元
# en: None: as many tokens as there is room for
limit = int(os.environ.get("COURSE_MAX_TOKENS", 0)) or None

# %% [markdown] lang="zh" key="questions-text"
# ## 二十道题
#
# 前面各课的东西，这里连成一件完整的事：备题，量出思考预算，开成服务，用客户端提问，杀掉引擎再救回来，最后交一页报告。
#
# 题目最好是你自己的。每道题写两样：问题，和答案里应当出现的最后一个数，有了它，程序才能批改。你的题还没有写好，就先用下面这些：二十道乘法和连加，小模型训练时都没有见过（[附录 A1](../zh/A1_tiny_models.ipynb)）。题太少，正确率就是碰运气：二十道题里差一道，就是 5 个百分点。

# %% [markdown] lang="en" key="questions-text"
# ## Twenty questions
#
# The lessons before come together in one piece of work here: prepare questions, measure a thinking budget, serve, ask through a client, kill the engine and bring it back, and hand in a report of one page.
#
# Questions of your own are best. Each has two parts: the question, and the last number that its answer should hold, so that a program can mark it. Until you have written yours, take these: twenty products and long sums that the tiny model never saw in training ([appendix A1](../en/A1_tiny_models.ipynb)). With few questions the share of right answers is luck: of twenty, one more or less is 5 points.

# %% key="questions"
import re

questions = l09.draw_questions(int(os.environ.get("COURSE_CASES", 20)))
# zh: 换成你自己的：questions = [("问题", "答案里的最后一个数"), ...]
# en: put in your own: questions = [("question", "last number of its answer"), ...]
print(*questions[:4], sep="\n")


def is_right(answer, wanted):
    numbers = re.findall(r"-?\d+", (answer or "").replace(",", ""))
    return bool(numbers) and numbers[-1] == wanted


assert is_right("37×46=1,702", "1702") and not is_right(None, "1702")

# %% [markdown] lang="zh" key="serve-text"
# ## 开成服务
#
# 先开服务，再量预算：量的就是以后真正要用的那一个。`Server` 打印的那一行，就是你在终端里要敲的 `vllm serve`（[第 07 课](../zh/07_openai_server.ipynb)）。

# %% [markdown] lang="en" key="serve-text"
# ## Serve it
#
# Serve first, then measure: what you measure is what will be used. The line that `Server` prints is the `vllm serve` that you would type in a terminal ([lesson 07](../en/07_openai_server.ipynb)).

# %% key="serve" tags=["raw", "varies"]
from openai import AsyncOpenAI

server = Server().start()
client = AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, timeout=600)

# %% [markdown] lang="zh" key="measure-text"
# ## 该想多久
#
# `thinking_token_budget` 数思考里的词元，数满就替模型写上 `</think>`（[第 06 课](../zh/06_thinking.ipynb)）。它不是 OpenAI 的参数，放进 `extra_body`。下一格对每种预算把二十道题同时发出去，`None` 是不限。采样用 Qwen 给思考模式的建议值。
#
# **先选一个。** 预算从 0 往上加，小模型的正确率会怎样变？
#
# - A. 每多一点预算，就高一点
# - B. 起初几乎不动，到某处突然跳上去
# - C. 先升到最高，再慢慢降下来

# %% [markdown] lang="en" key="measure-text"
# ## How long to think
#
# `thinking_token_budget` counts the tokens of a thought and writes `</think>` for the model once they are used up ([lesson 06](../en/06_thinking.ipynb)). It is no parameter of OpenAI's, so it goes into `extra_body`. For each budget, the next cell sends all twenty questions at once; `None` is no limit. Sampling takes the values that Qwen recommends for thinking.
#
# **Choose first.** As the budget grows from 0, what does the tiny model's share of right answers do?
#
# - A. Each bit of budget raises it a bit
# - B. It hardly moves at first, and jumps somewhere
# - C. It rises to its best, and then slowly falls

# %% key="measure" tags=["varies"]
budgets = [0, 256, 1024, 4096, None]
if server.is_bundled:
    budgets = [0, 16, 32, 48, 64, None]


def options(budget):
    extra = {"top_k": 20, "thinking_token_budget": budget}
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_tokens": limit}
    return sampling | {"extra_body": extra}


async def ask(question, budget):
    reply = await client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": question}],
        **options(budget),
    )
    return reply.choices[0].message.content, reply.usage.completion_tokens


measured = []
for budget in budgets:
    asked = [ask(question, budget) for question, _ in questions]
    replies = await asyncio.gather(*asked)
    right, tokens = 0, 0
    for reply, (_, wanted) in zip(replies, questions, strict=True):
        answer, count = reply
        right += is_right(answer, wanted)
        tokens += count
    right, tokens = right / len(questions), tokens / len(questions)
    measured.append({"budget": budget, "right": right, "tokens": tokens})
    # zh: 预算，正确率，平均每个答案的词元数
    # en: budget, share of right answers, tokens an answer on average
    print(f"{str(budget):>5} {right:6.0%} {tokens:6.1f}")
if server.is_bundled and len(questions) >= 20:
    assert measured[-1]["right"] > measured[0]["right"]

# %% [markdown] lang="zh" key="choose-text"
# <details><summary>读输出</summary>
#
# B。最后一列是每个答案的词元数，思考也算在里面。不限时六十多个，预算是 0 时二十多个，差的四十多个就是思考。预算不到这个数，思考多半断在结果之前：词元花了，答案没有变好。真正的 Qwen3 和你的题，要看你自己这张表。
#
# </details>
#
# ### 练习 1 ★★☆（10 分钟）：选预算
#
# `measured` 是上面那样的列表，次序不定；`allowed_loss` 是愿意比最好的正确率低多少，例如 0.1，就是低 10 个百分点。返回够好的里面**最省词元**的那个预算（可能是 `None`）。
#
# <details><summary>提示</summary>
#
# 先求最好的 `right`，记作 `best`；留下 `right >= best - allowed_loss` 的，再按 `tokens` 取最小。不要直接比较预算：`None` 不能和数字比大小。
#
# </details>

# %% [markdown] lang="en" key="choose-text"
# <details><summary>Reading</summary>
#
# B. The last column has the tokens of an answer, its thought included. Without a limit it takes more than sixty, with a budget of 0 more than twenty; the difference, a little more than forty, is the thought. A budget below that mostly cuts it before the result: tokens are spent, and answers are no better. For a real Qwen3 and your questions, go by your own table.
#
# </details>
#
# ### Exercise 1 ★★☆ (10 minutes): choose the budget
#
# `measured` is a list like the one above, in any order; `allowed_loss` is how far below the best share of right answers you would go, say 0.1: ten points below. Among those that are good enough, return the budget that takes the **fewest tokens** (it may be `None`).
#
# <details><summary>Hint</summary>
#
# Find the best `right` and call it `best`; keep those with `right >= best - allowed_loss`, then take the smallest by `tokens`. Do not compare budgets themselves: `None` has no order with numbers.
#
# </details>


# %% key="ex1" tags=["exercise"]
def choose_budget(measured, allowed_loss):
    return ...


# %% key="ex1-solution" tags=["solution"]
def choose_budget(measured, allowed_loss):  # noqa: F811
    best = max(row["right"] for row in measured)
    cheapest = None
    for row in measured:
        good = row["right"] >= best - allowed_loss
        if good and (cheapest is None or row["tokens"] < cheapest["tokens"]):
            cheapest = row
    return cheapest["budget"]


# %% key="ex1-check"
l09.ex1.check(choose_budget)

# %% [markdown] lang="zh" key="client-text"
# ## 交给客户端
#
# 量完了，换真正要用的客户端：[`docs/qwen_client.py`](../../docs/qwen_client.py)，一个可以整份拷走的文件。它的 `ask` 要么返回完整的回答，要么抛出 `NoAnswer` 并说明原因；服务器不在、断线、太忙时，它自己再试。
#
# 预算用你选的；练习还没做时，先用表里的倒数第二个顶替。词元数这次不从回答里取，而是看服务器自己的指标前后差了多少。

# %% [markdown] lang="en" key="client-text"
# ## Hand it to the client
#
# After measuring comes the client that will be used: [`docs/qwen_client.py`](../../docs/qwen_client.py), one file to copy as it is. Its `ask` returns a whole answer or raises `NoAnswer`, which says why; where the server is away, breaks off or is too busy, it tries again by itself.
#
# The budget is the one you chose; while the exercise is open, the last but one in the table stands in. The tokens are not taken from the replies this time: they are what the server's own metrics have grown by.

# %% key="client" tags=["varies"]
import sys

# zh: 这份文件在 docs 里；在你自己的程序里，拷一份放在旁边，就不用这一行
# en: the file lies in docs; in a program of your own put a copy beside it instead
sys.path.append(str(ROOT / "docs"))
from qwen_client import Client, NoAnswer

chosen = choose_budget(measured, allowed_loss=0.2)
# zh: 练习还没做
# en: the exercise is still open
if chosen is ...:
    chosen = measured[-2]["budget"]


# zh: 最多同时问 8 道；没有答案的，记下原因
# en: 8 questions at once; where there is no answer, the reason is kept
async def ask_all(client, answers, reasons):
    gate = asyncio.Semaphore(8)

    async def ask_one(question):
        async with gate:
            try:
                reply = await client.ask(question, **options(chosen))
                answers[question] = reply.answer
            except NoAnswer as error:
                reasons[question] = error.reason

    await asyncio.gather(*[ask_one(question) for question, _ in questions])


answers, reasons = {}, {}
before = server.metrics()["generation_tokens_total"]
where = server.base_url, server.model, server.api_key
async with Client(*where) as polite:
    await ask_all(polite, answers, reasons)
written = server.metrics()["generation_tokens_total"] - before
right = [is_right(answers.get(question), wanted) for question, wanted in questions]
# zh: 同样的题只算一道
# en: the same question counts once
report = {"budget": chosen, "cases": len(dict(questions))}
report |= {"right": sum(right) / len(right), "tokens": written / len(right)}
print(report, reasons)

# %% [markdown] lang="zh" key="crash-text"
# ## 杀掉引擎，再救回来
#
# 内存不够时，系统会杀掉引擎，不打招呼。下一格在四分之一的题答完时做同样的事：`kill -9`，按进程号，只杀这一课自己启动的引擎。然后把服务器重新启动，端口不变。客户端对此一无所知，只是更有耐心：一道题最多试 300 次，两次之间最多等 4 秒。
#
# **先选一个。** 最后有几道题没有答案？
#
# - A. 被杀时正在答的那几道
# - B. 被杀之后的全部
# - C. 一道也没有

# %% [markdown] lang="en" key="crash-text"
# ## Kill the engine, and bring it back
#
# When memory runs out, the system kills the engine without a word. The next cell does the same once a quarter of the questions is answered: `kill -9`, by process id, and only the engine that this lesson has started. Then it starts the server again, on the same port. The client knows nothing of all this; it only has more patience: up to 300 tries a question, with 4 seconds between two of them at most.
#
# **Choose first.** How many questions are without an answer in the end?
#
# - A. Those that were being answered when it was killed
# - B. All that come after the kill
# - C. None

# %% key="crash" tags=["raw", "varies"]
import time

answers, reasons = {}, {}


async def crash():
    while len(answers) < len(questions) // 4:
        await asyncio.sleep(0.01)
    start = time.perf_counter()
    print("kill -9", *server.kill(), f"| {len(answers)} / {len(questions)}")
    # zh: 在另一个线程里，客户端才能同时继续
    # en: in another thread, so that the client goes on meanwhile
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    report["away"] = time.perf_counter() - start


async with Client(*where, attempts=300, longest_pause=4) as patient:
    await asyncio.gather(ask_all(patient, answers, reasons), crash())
report["lost"] = report["cases"] - len(answers)
print(f"{len(answers)} / {len(questions)}", reasons)

# %% [markdown] lang="zh" key="report-text"
# <details><summary>读输出</summary>
#
# C。引擎一死，路上的请求得到错误或断线，后来的连不上；它们都还没有收到一个字，客户端就敢整个重发，直到服务器回来。要是回答已经流出了一半，就不能悄悄重发了：用户已经看见了前半段。代价是时间：报告里的秒数，就是服务停了多久。在你的服务器上，让 systemd 来重启（[从一行命令到一个服务](../../docs/production.zh.md)）。
#
# </details>
#
# ## 一页报告
#
# 先停下服务器，再看端口上还有没有应答；然后出报告。六项检查都是上面量出来的，哪一项不通过，表上面的那一行说怎么办。

# %% [markdown] lang="en" key="report-text"
# <details><summary>Reading</summary>
#
# C. When the engine dies, requests under way get an error or a broken connection, and later ones find nobody there. None of them had received a word yet, so the client may send them whole again until the server is back. Once half an answer has been streamed it may not do so in silence: the user has seen that half. The price is time: the seconds in the report are how long the service was away. On a server of your own, let systemd restart it ([from a line to a service](../../docs/production.md)).
#
# </details>
#
# ## A report of one page
#
# Stop the server first, see whether anything still answers on its port, and write the report. All six checks come from what was measured above; if one does not hold, the line above the table says what to do.

# %% key="report" tags=["varies"]
import openai
from IPython.display import HTML

server.stop()
try:
    await client.with_options(max_retries=0, timeout=10).models.list()
    report["left"] = True
except openai.APIConnectionError:
    report["left"] = False
await client.close()
l09.capstone.check(lambda: (measured, report, choose_budget))
HTML(l09.page(server.model, measured, report, choose_budget))

# %% [markdown] lang="zh" key="figure-text"
# 下图把同一件事画出来：圆点是量过的预算，星是客户端用过的那一个。

# %% [markdown] lang="en" key="figure-text"
# The figure shows the same: dots are the budgets that were measured, the star is the one that the client used.

# %% key="figure" tags=["varies"]
l09.draw(server.model, measured, report)

# %% [markdown] lang="zh" key="recap"
# <details><summary>读图</summary>
#
# 一个圆点是一种预算，横轴是平均每个答案的词元数，纵轴是正确率。星应当落在同一预算的圆点上或附近；采样有随机，差一两道题不算什么。
#
# </details>
#
# **现在你来改。** 把 `questions` 换成你自己的二十道题，重新启动内核，从头再跑一遍。有真正的 Qwen3，就先设 `COURSE_MODEL`，代码不用改。
#
# ## 小结
#
# - 题目是自己的，带着可以批改的答案；题太少，结论就是碰运气。
# - 预算由测量选出，在够好的里面挑最省词元的；换了模型或题目，重新量。
# - 服务要从客户端看：对了多少，花了多少词元，断了以后少了什么。
# - 引擎随时会死。还没有收到一个字的请求可以整个重发，流到一半的不可以。
# - 停下来之后，看一眼端口：什么都没有留下，才算收工。
#
# ## 自测
#
# 1. 为什么先开服务再量预算，而不用离线的引擎来量？
# 2. 量的时候对了九成，上线只有八成，二十道题。服务变差了吗？
# 3. 怎样看出预算没有传到服务器？
# 4. 客户端有耐心，为什么流到一半的回答还是救不回来？
# 5. `kill -9` 之后，为什么连 API 服务器也要重新启动？
#
# <details><summary>答案</summary>
#
# 1. 量的就是要用的：同样的参数、同样的解析器、同样的排队。离线量得准，也要证明上线以后一样。
# 2. 看不出来。差两道题，采样的随机就有这么大；题多几倍再说。
# 3. 每个答案的词元数比测量时多得多，和不限预算时一样。
# 4. 前半段已经给了用户；重发得到的是另一个回答，两半接不上。
# 5. 引擎死了，它就没有什么可提供的：新请求得到 500，进程随后自己退出。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 预算不起作用 | 不用 `openai` 客户端、自己发 JSON，却把它放进了 `extra_body` | 在 JSON 里和别的参数并排写（第 07 课） |
# | 带预算的请求得到 400 | 服务器没有 `--reasoning-parser` | 加上 `--reasoning-parser qwen3` |
# | 每道题都算错，答案看着是对的 | 批改只看最后一个数，答案后面还写了别的数 | 让问题要求“只写结果”，或改 `is_right` |
# | 引擎死后，客户端很快放弃 | 没有另外写明，就只试 4 次 | 调大 `attempts` |
# | 重启时说端口被占用 | 旧的进程还在 | 先 `server.stop()`，再 `server.start()` |

# %% [markdown] lang="en" key="recap"
# <details><summary>How to read it</summary>
#
# A dot is a budget; the x axis has the tokens of an answer on average, the y axis the share of right answers. The star should fall on the dot of its budget or near it; sampling is random, and one or two questions more or less mean nothing.
#
# </details>
#
# **Now change it.** Put twenty questions of your own into `questions`, restart the kernel and run it all again. With a real Qwen3 at hand, set `COURSE_MODEL` first; the code stays the same.
#
# ## Recap
#
# - The questions are your own and carry answers that can be marked; with too few of them, any conclusion is luck.
# - The budget is chosen by measurement, the cheapest of those that are good enough; for another model or other questions, measure anew.
# - A service is judged from the client's side: how many are right, what they cost in tokens, what is missing after a break.
# - An engine may die at any time. A request that has not received a word can be sent again as a whole, half a stream cannot.
# - After the stop, look at the port: work is over when nothing is left.
#
# ## Test yourself
#
# 1. Why serve first and measure then, and not with an offline engine?
# 2. Nine in ten were right when you measured, and eight in ten in service, of twenty questions. Has the service become worse?
# 3. How do you see that the budget did not reach the server?
# 4. The client has patience. Why can half a streamed answer not be saved all the same?
# 5. After `kill -9` of the engine, why must the API server be started anew as well?
#
# <details><summary>Answers</summary>
#
# 1. You measure what you will use: the same flags, the same parser, the same queue. An offline measurement would still have to be shown to hold in service.
# 2. One cannot tell. Two questions are within the chance of sampling; take several times as many.
# 3. An answer takes far more tokens than measured, as many as without a limit.
# 4. The user has the first half already; another request gives another answer, and the halves do not fit.
# 5. Without its engine it has nothing to offer: new requests get a 500, and the process ends by itself.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | the budget has no effect | you send JSON without the `openai` client, and it stands inside `extra_body` there | in JSON it stands beside the other parameters (lesson 07) |
# | requests with a budget get a 400 | the server has no `--reasoning-parser` | add `--reasoning-parser qwen3` |
# | every question counts as wrong, and the answers look right | only the last number is marked, and the answer goes on with others | let the question ask for the result alone, or change `is_right` |
# | the client gives up soon after the engine's death | it tries 4 times unless told otherwise | raise `attempts` |
# | the port is taken at the restart | the old process is still there | `server.stop()` first, then `server.start()` |

# %% [markdown] lang="zh" key="copy-me-text" tags=["extra"]
# ## 可以直接拿走的代码（选读）
#
# 下一格不依赖本课程：指给它一个正在运行的、兼容 OpenAI 的服务器和你的题目，它报告正确率、词元数和等待时间；没有答案的题不会算成答错就了事，会说明原因。没有服务器时，它只说一句话。在笔记本里它只定义函数。

# %% [markdown] lang="en" key="copy-me-text" tags=["extra"]
# ## Code to take away (extra)
#
# The next cell needs nothing of this course: point it to a running OpenAI-compatible server and give it your questions, and it reports right answers, tokens and waiting time; a question left without an answer is not merely counted as wrong, the reason is given. With no server there, it says one sentence. In a notebook it only defines its functions.

# %% key="copy-me" tags=["copy-me", "extra"]
import os
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/v1")
# zh: 给人看的地址，不带密码
# en: the address as messages show it, without a password
SHOWN = BASE_URL.rpartition("@")[2]
API_KEY = os.environ.get("API_KEY", "EMPTY")
client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, timeout=600, max_retries=0)
# zh: 思考预算，词元数；None：想多久都行
# en: the thinking budget in tokens; None: think as long as it takes
BUDGET = int(os.environ.get("THINKING_BUDGET", 0)) or None
# zh: （问题，答案里的最后一个数）
# en: (question, last number of the answer)
QUESTIONS = [("37×46=?", "1702"), ("23×31=?", "713"), ("17+25+8=?", "50")]


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


def ask(model, question):
    """(answer or the NoAnswer in its place, tokens, seconds)."""
    start = time.perf_counter()
    budget = {"thinking_token_budget": BUDGET} if BUDGET else {}
    reply = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0.6,
        top_p=0.95,
        extra_body={"top_k": 20} | budget,
    )
    seconds = time.perf_counter() - start
    try:
        answer = read_reply(reply, "the context (--max-model-len) is full")[1]
    except NoAnswer as problem:
        answer = problem
    usage = getattr(reply, "usage", None)
    return answer, usage.completion_tokens if usage else float("nan"), seconds


def measure():
    """Prints the report. Raises NoAnswer where a question was left without one."""
    listed = getattr(client.models.list(), "data", None)
    if not listed:
        raise NoAnswer("it lists no models: not an OpenAI server")
    model = listed[0].id
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda pair: ask(model, pair[0]), QUESTIONS))
    right, missing, tokens, seconds = 0, [], [], []
    for reply, (_, wanted) in zip(replies, QUESTIONS, strict=True):
        answer, count, waited = reply
        tokens.append(count)
        seconds.append(waited)
        if isinstance(answer, NoAnswer):
            missing.append(answer)
        else:
            numbers = re.findall(r"-?\d+", answer.replace(",", ""))
            right += bool(numbers) and numbers[-1] == wanted
    mean = statistics.mean(tokens)
    print(f"{model}: {right}/{len(QUESTIONS)} right, {mean:.0f} tokens an answer")
    print(f"median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s")
    if missing:
        raise NoAnswer(f"{len(missing)} without an answer: {missing[0]}")


# zh: 只在作为脚本运行时执行；在笔记本里写 `measure()`
# en: as a script only; in a notebook write `measure()`
if __name__ == "__main__" and "get_ipython" not in globals():
    try:
        measure()
    except (openai.APITimeoutError, openai.APIStatusError, NoAnswer) as error:
        sys.exit(f"No answer from {SHOWN}: {error}")
    except openai.APIConnectionError as error:
        sys.exit(no_connection(error))

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [从一行命令到一个服务](../../docs/production.zh.md)：各种 `vllm serve`，systemd，不惊动任何人的重启，要盯的五个数
# - [`docs/qwen_batch.py`](../../docs/qwen_batch.py)：成千上万道题，穿过重启和 Ctrl-C
# - vLLM：[思考输出和思考预算](https://docs.vllm.ai/en/stable/features/reasoning_outputs/)
#
# 主线到这里走完了。还想知道小模型是怎样造出来的：[附录 A1](../zh/A1_tiny_models.ipynb)。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [From a line to a service](../../docs/production.md): variants of `vllm serve`, systemd, a restart that nobody notices, five numbers to watch
# - [`docs/qwen_batch.py`](../../docs/qwen_batch.py): thousands of questions, through restarts and Ctrl-C
# - vLLM: [reasoning outputs and budgets](https://docs.vllm.ai/en/stable/features/reasoning_outputs/)
#
# This is the end of the main path. How the tiny models were made: [appendix A1](../en/A1_tiny_models.ipynb).
