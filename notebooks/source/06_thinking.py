# %% [markdown] lang="zh" key="title"
# # 06 · 思考换来什么
#
# | | |
# |---|---|
# | 学完能做 | 看懂开、关思考时模板各写了什么；把思考和答案分开，没想完的也不弄错；关掉思考，给思考设预算；量出思考换来多少正确率、花掉多少词元；把多轮对话做对 |
# | 先修 | 第 05 课 |
# | 时间 | 50 分钟；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的 `qwen3-tiny`；建议的真实模型：Qwen3-8B（24 GB 显存） |
# | 说明 | 本课的输出来自 CPU 上的小模型，没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 06 · What thinking buys
#
# | | |
# |---|---|
# | You will be able to | say what the template writes with thinking on and off; separate thinking from the answer, unfinished thoughts included; switch thinking off and give it a budget; measure what it buys in accuracy and costs in tokens; get several turns right |
# | Prerequisites | lesson 05 |
# | Time | 50 minutes; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the bundled `qwen3-tiny`; a real one to try: Qwen3-8B (24 GB GPU) |
# | Note | the outputs come from a tiny model on a CPU; nothing here was run on a GPU |

# %% key="setup"
import os
import time

from helpers import models, say
from helpers.engine import close_engine, open_engine, split
from helpers.lessons import l06
from helpers.lessons.thinking import require_thinking

folder = models.course_model()
print(models.describe(folder), "| thinking:", require_thinking(folder))

# %% [markdown] lang="zh" key="open-text"
# 同一个 Qwen3，可以先想再答，也可以直接答。用哪一种，全看提示词怎么写，权重是同一组。
#
# `open_engine` 见到会思考的模型，会加上 `reasoning_parser="qwen3"`。这样引擎就认得 `<think>` 和 `</think>`，后面的思考预算要用。`recommended` 是 Qwen 建议的采样值。

# %% [markdown] lang="en" key="open-text"
# The same Qwen3 can think first or answer at once. Which of the two it does is decided by the prompt alone; the weights are the same.
#
# For a model that thinks, `open_engine` adds `reasoning_parser="qwen3"`. The engine then knows `<think>` and `</think>`; the thinking budget below needs it. `recommended` holds the sampling values that Qwen advises.

# %% key="open"
llm = open_engine()
tokenizer = llm.get_tokenizer()
limit = int(os.environ.get("COURSE_MAX_TOKENS", 0)) or None
recommended = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}
greedy = {"temperature": 0.0}

# %% [markdown] lang="zh" key="cases-text"
# ## 模板写了什么
#
# 下一格把同一个问题套进模板三次。第一次用默认值，第二次用**硬开关**（hard switch）`enable_thinking=False` 关掉思考。第三次的参数名 `ensure_thinking` 拼错了，有的教程就是这样写的。
#
# 模板只是一段带变量的文字，变量的值由调用的人传进去。
#
# **先选一个。** 参数名拼错，会怎样？
#
# - A. 报错
# - B. 照样关掉思考
# - C. 不报错，思考也没有关掉

# %% [markdown] lang="en" key="cases-text"
# ## What the template writes
#
# The next cell puts one question into the template three times: with its defaults, with the **hard switch** `enable_thinking=False`, and with the misspelt name `ensure_thinking`, which stands in some tutorials.
#
# The template is a text with variables, and the caller passes their values.
#
# **Choose first.** What does the misspelt name do?
#
# - A. It raises an error
# - B. It switches thinking off all the same
# - C. It raises nothing, and thinking stays on

# %% key="cases" tags=["raw"]
from vllm import SamplingParams


def user(content):
    return {"role": "user", "content": content}


# zh: **arguments 收下其余带名字的参数，原样交给模板
# en: **arguments takes all other named arguments and hands them to the template
def render(messages, **arguments):
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **arguments
    )


ask = [user("37×46=?")]
for arguments in ({}, {"enable_thinking": False}, {"ensure_thinking": False}):
    print(arguments, render(ask, **arguments), sep="\n")

# %% [markdown] lang="zh" key="cut-text"
# <details><summary>读结果</summary>
#
# C。第三份和第一份一字不差。模板只找名叫 `enable_thinking` 的变量，找不到，就当作要思考；多余的变量没有人用，也没有人抱怨。
#
# </details>
#
# 硬开关在末尾替模型写好一个空的思考块，模型就当作想完了。默认什么也不写，`<think>` 由模型自己写。
#
# ## 把思考和答案分开
#
# 规则很短：找**最后一个** `</think>`，之前是思考，之后是答案。
#
# 难在没有 `</think>` 的时候。思考开了头却没写完，说明被截断了，这时**没有答案**。连 Qwen 文档的示例，也会把这半截思考当成答案。
#
# 下一格的 `chat` 后面一直要用，四个旋钮是思考、预算、词元上限、采样。同一个问题问两次，第二次只给 20 个词元。`greedy`（贪心解码）只为了每次运行都一样，真正的 Qwen3 思考时不要用。

# %% [markdown] lang="en" key="cut-text"
# <details><summary>Reading</summary>
#
# C. The third prompt is the first, to the letter. The template looks for a variable called `enable_thinking` and, if there is none, thinking is on; nobody uses the extra variable, and nobody complains.
#
# </details>
#
# The hard switch writes an empty think block at the end, and the model takes its thought for finished. By default nothing is written: the model writes `<think>` itself.
#
# ## Keep thinking and answer apart
#
# The rule is short: find the **last** `</think>`; before it is the thought, behind it the answer.
#
# What is hard is an output without `</think>`. A thought was begun and not finished, so it was cut off, and there **is no answer**. Even the sample code in Qwen's documentation takes that half thought for one.
#
# `chat` in the next cell serves the whole lesson, with four knobs: thinking, budget, a limit of tokens, and sampling. It asks one question twice, the second time with room for 20 tokens. `greedy` decoding only makes every run the same; a real Qwen3 should not think with it.


# %% key="cut" tags=["raw"]
def chat(messages, thinking=True, budget=None, tokens=limit, sampling=recommended):
    params = SamplingParams(**sampling, max_tokens=tokens, thinking_token_budget=budget)
    template = {"enable_thinking": thinking}
    return llm.chat(messages, params, chat_template_kwargs=template, use_tqdm=False)


def length(output):
    return len(output.outputs[0].token_ids)


# zh: chat 返回一个列表；[output] 取出里面唯一的一项
# en: chat returns a list; [output] takes the only item in it
for tokens in (limit, 20):
    [output] = chat(ask, tokens=tokens, sampling=greedy)
    print(repr(output.outputs[0].text), output.outputs[0].finish_reason)
    print(split(output))

# %% [markdown] lang="zh" key="ex1-text"
# 读输出：想完了，`split` 给出思考和答案。断在半截，`finish_reason` 是 `length`，`answer` 是 `None`。
#
# ### 练习 1 ★★☆（8 分钟）：拆开一个可能被截断的输出
#
# `token_ids` 是模型写出的词元编号；`think`、`end` 是 `<think>` 和 `</think>` 的编号。返回 `(thinking, answer)`，各是一个编号列表：
#
# - 想完了：从最后一个 `end` 分开。
# - 想到一半：`answer` 是 `None`。
# - 根本没有思考：`thinking` 是 `None`，全部是答案。
#
# 两个标签都不放进结果。只有一个例外：最后一个 `end` 之前如果还有 `end`，它是思考里的内容，要留着。
#
# <details><summary>提示</summary>
#
# 用 `for place, token in enumerate(ids)` 走一遍，记住最后一个 `end` 的位置。没有 `end` 时，看有没有 `think`。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# How to read it: where the thought is whole, `split` gives thought and answer. Where it was cut, `finish_reason` is `length` and `answer` is `None`.
#
# ### Exercise 1 ★★☆ (8 minutes): take an output apart that may have been cut
#
# `token_ids` are the ids that the model wrote; `think` and `end` are those of `<think>` and `</think>`. Return `(thinking, answer)`, two lists of ids:
#
# - A finished thought: split at the last `end`.
# - Half a thought: `answer` is `None`.
# - No thought at all: `thinking` is `None`, and all of it is the answer.
#
# Neither list holds the two tags. There is one exception: an `end` before the last `end` belongs to the thought and stays.
#
# <details><summary>Hint</summary>
#
# Go through with `for place, token in enumerate(ids)` and remember the place of the last `end`. Without an `end`, see whether there is a `think`.
#
# </details>


# %% key="ex1" tags=["exercise"]
def split_ids(token_ids, think, end):
    return ...


# %% key="ex1-solution" tags=["solution"]
def split_ids(token_ids, think, end):  # noqa: F811
    ids, last = list(token_ids), None
    for place, token in enumerate(ids):
        if token == end:
            last = place
    if last is not None:
        return [token for token in ids[:last] if token != think], ids[last + 1 :]
    if think in ids:
        return [token for token in ids if token != think], None
    return None, ids


# %% key="ex1-check"
l06.ex1.check(split_ids)

# %% [markdown] lang="zh" key="switch-text"
# ## 硬开关和软开关
#
# 聊天的人可以在消息末尾写 `/no_think` 关掉思考，写 `/think` 打开：这是**软开关**（soft switch）。模板原样抄下这几个字，模型在训练中学会了照办。
#
# 下一格把各种结尾和 `enable_thinking` 的两个值都问一遍，打印输出的开头。
#
# **先选一个。** `enable_thinking=False` 遇上 `/think`，听谁的？想一想硬开关在提示词里写了什么。
#
# - A. 硬开关：不思考
# - B. 软开关：思考

# %% [markdown] lang="en" key="switch-text"
# ## The hard switch and the soft one
#
# People who chat can end a message with `/no_think`, or with `/think` to have a thought: the **soft switch**. The template copies these characters as they are; the model learned in training to obey them.
#
# The next cell asks with every ending and both values of `enable_thinking`, and prints how the output begins.
#
# **Choose first.** If `enable_thinking=False` meets `/think`, who wins? Think of what the hard switch writes into the prompt.
#
# - A. The hard switch: no thought
# - B. The soft switch: a thought

# %% key="switch" tags=["varies"]
who = say("你是谁？", "Who are you?")
for ending in ("", " /no_think", " /think", "<think>"):
    for enabled in (True, False):
        [output] = chat([user(who + ending)], thinking=enabled)
        text = output.outputs[0].text[:60]
        print(f"{ending:10} enable_thinking={str(enabled):5} → {text!r}")
        if models.is_bundled(folder) and not enabled:
            assert split(output).thinking is None

# %% [markdown] lang="zh" key="switch-read"
# <details><summary>读结果</summary>
#
# A。空思考块已经写在提示词里，`/think` 叫不回来。
#
# </details>
#
# 软开关要模型配合，硬开关不用：程序里用硬开关。用软开关关掉时，模型自己写一个**空的**思考块，程序照样要拆。
#
# 最后两行在用户消息的末尾写 `<think>`，有的教程这样替模型开头。可那里是用户的话：模型写的思考块反而缺了开头的标签，万一被截断，就分不清是思考还是答案。要替模型开头，得写在 assistant 的位置上。
#
# ## 思考预算
#
# **思考预算**（thinking budget）给思考一个上限，以词元计。`thinking_token_budget` 由 vLLM 计数，到了数就强行写下 `</think>`，模型接着答题。
#
# **先选一个。** `37×46` 的思考只给一半，答案会怎样？
#
# - A. 还是 1702
# - B. 说自己不知道
# - C. 给出一个错的数，语气照样肯定

# %% [markdown] lang="en" key="switch-read"
# <details><summary>Reading</summary>
#
# A. The empty think block already stands in the prompt, and `/think` does not bring the thought back.
#
# </details>
#
# The soft switch needs the model's cooperation, the hard one does not: use the hard one in programs. Switched off softly, the model writes an **empty** think block itself, so a program still has to split.
#
# The last two lines are what some tutorials do: `<think>` at the end of the user's message, to begin for the model. But that place belongs to the user's words: the model's think block now lacks its opening tag, and if it is cut, nobody can tell a thought from an answer. To begin for the model, write in the assistant's place.
#
# ## A thinking budget
#
# A **thinking budget** is a limit for the thought, in tokens. With `thinking_token_budget` vLLM counts them and forces `</think>` when they are used up; the model goes on to the answer.
#
# **Choose first.** The thought about `37×46` gets half of what it needs. What is the answer?
#
# - A. Still 1702
# - B. It says that it does not know
# - C. A wrong number, as sure in tone as ever

# %% key="budget"
for budget in (0, 8, 16, 32, 64, None):
    [output] = chat(ask, budget=budget, sampling=greedy)
    thinking, answer, _ = split(output)
    print(f"{str(budget):4} → {length(output):2} tokens | {answer!r} | {thinking!r}")

# %% [markdown] lang="zh" key="problems-text"
# <details><summary>读结果</summary>
#
# C。每行依次是预算、输出的词元数、答案、思考。预算从 `<think>` 之后数起，到了就断，不管句子完不完整。差一步没算完，答案就是猜的。
#
# </details>
#
# 关了思考，就没有 `<think>` 可数，预算不起作用；引擎没有 `reasoning_parser`，vLLM 会拒绝这个参数。
#
# ## 实验：思考换来多少正确率，花掉多少词元
#
# 题目三分之二是连加，三分之一是两位数乘法，小模型训练时一道也没见过，需要的思考长短不一。
#
# 下一格让模型把所有题想完一遍，按最长的输出定下几个预算。后面还要问七遍：机器慢，就用 `COURSE_CASES` 减少题数。

# %% [markdown] lang="en" key="problems-text"
# <details><summary>Reading</summary>
#
# C. A line has the budget, the tokens of the output, the answer and the thought. The budget counts from behind `<think>` and cuts when it is used up, in mid-sentence if need be. With one step missing the answer is a guess.
#
# </details>
#
# With thinking off there is no `<think>` to count from, and the budget has no effect; without a `reasoning_parser` vLLM refuses the argument.
#
# ## The experiment: what thinking buys in accuracy and costs in tokens
#
# Two thirds of the problems are long sums, one third products of two-digit numbers. The tiny model saw none of them in training, and they need thoughts of different lengths.
#
# The next cell lets the model think all of them through once, and settles some budgets by the longest output. Seven more rounds follow: on a slow machine, have fewer problems with `COURSE_CASES`.

# %% key="problems" tags=["varies"]
problems = l06.draw_problems(int(os.environ.get("COURSE_CASES", 40)))
conversations = [[user(f"{problem.expression}=?")] for problem in problems]
start = time.perf_counter()
lengths = [length(output) for output in chat(conversations)]
seconds = time.perf_counter() - start
longest = max(lengths)
budgets = [longest // 8, longest // 4, 3 * longest // 8, longest // 2, 3 * longest // 4]
for problem in problems[:3]:
    print(problem.expression)
print(len(problems), say("道题", "problems"), f"{seconds:.0f} s | budgets: {budgets}")

# %% [markdown] lang="zh" key="experiment-text"
# 判分只看答案里的最后一个数，`l06.last_number` 把它找出来。
#
# **先选一个。** 只给最小的那个预算，正确率比完全不思考高吗？看看上面预算 8 和 16 的答案。
#
# - A. 高不少
# - B. 差不多

# %% [markdown] lang="en" key="experiment-text"
# What counts is the last number of the answer; `l06.last_number` finds it.
#
# **Choose first.** With the smallest budget, is accuracy higher than without any thinking? See the answers for budgets 8 and 16 above.
#
# - A. Much higher
# - B. About the same


# %% key="experiment" tags=["varies"]
def is_right(output, problem):
    return l06.last_number(split(output).answer) == str(problem.result)


right, cost = {}, {}
for budget in ("off", *budgets, None):
    if budget == "off":
        outputs = chat(conversations, thinking=False)
    else:
        outputs = chat(conversations, budget=budget)
    pairs = zip(outputs, problems, strict=True)
    right[budget] = [is_right(output, problem) for output, problem in pairs]
    cost[budget] = sum(length(output) for output in outputs) / len(problems)
    share = f"{sum(right[budget]):2}/{len(problems)}"
    print(f"budget {str(budget):4} {share} {cost[budget]:4.0f} tokens")
if models.is_bundled(folder) and len(problems) >= 40:
    assert sum(right[None]) > sum(right["off"]) + 0.3 * len(problems)
l06.budget_curve(right, cost)

# %% [markdown] lang="zh" key="experiment-read" facts="95"
# <details><summary>读图</summary>
#
# B。左图的点线、右图的方块是不思考。竖线是正确率的 95% **置信区间**（confidence interval）：只考了这几道题，真正的正确率落在里面都不奇怪；两个点的区间重叠一大片，就分不出高下。在小模型身上能看到：
#
# - 想完，几乎全对；不思考，只对一两成。
# - 预算太小，等于白想：词元多花了，正确率和不思考一样。
# - 每道题需要的长度不同，给够一道，就从猜变成对；许多台阶叠起来，就是这条曲线。
#
# </details>
#
# 这个小模型的数据，就是为了显出这种差别而造的：它说明道理，不说明 Qwen3 有多强。真正的 Qwen3-8B，[技术报告](https://arxiv.org/abs/2505.09388)表 17、18、23 这样说：
#
# | Qwen3-8B | 思考 | 不思考 |
# |---|---|---|
# | AIME'24（竞赛数学） | 76.0 | 29.1 |
# | MATH-500 | 97.4 | 87.4 |
# | LiveCodeBench v5（编程） | 57.5 | 22.8 |
# | ZebraLogic（逻辑题） | 84.8 | 26.7 |
# | MMLU-Redux（知识） | 87.5 | 79.5 |
# | IFEval（听从格式要求） | 85.0 | 83.0 |
# | RULER 平均（长文检索） | 84.4 | 89.1 |
#
# ### 练习 2 ★☆☆（5 分钟）：选一个预算
#
# 用你自己的测量，选出**最小**的预算，它的正确率至少是完整思考的 `share` 倍。
#
# `accuracy` 是字典，从预算查正确率；键 `None` 是不设上限，也就是完整思考。没有一个够，就返回 `None`。
#
# <details><summary>提示</summary>
#
# 门槛是 `share * accuracy[None]`。把够格的预算收进一个列表（`None` 不算），再取最小的：`min(fitting, default=None)`。
#
# </details>

# %% [markdown] lang="en" key="experiment-read" facts="95"
# <details><summary>Reading the figure</summary>
#
# B. The dotted line on the left and the square on the right are no thinking. The bars are 95% **confidence intervals** of the accuracy: after so few problems, a true accuracy anywhere in them would be no surprise, and two points whose intervals overlap widely cannot be told apart. What the tiny model shows:
#
# - With whole thoughts almost everything is right, without thinking one or two in ten.
# - A budget that is too small is wasted: more tokens, and no more right answers than without thinking.
# - Each problem needs a thought of its own length. Once the budget reaches it, a guess becomes a right answer; many such steps add up to this curve.
#
# </details>
#
# The tiny model's data was built to show this difference: it explains how thinking helps and says nothing about how good Qwen3 is. For the real Qwen3-8B, tables 17, 18 and 23 of the [technical report](https://arxiv.org/abs/2505.09388) say:
#
# | Qwen3-8B | thinking | non-thinking |
# |---|---|---|
# | AIME'24 (contest mathematics) | 76.0 | 29.1 |
# | MATH-500 | 97.4 | 87.4 |
# | LiveCodeBench v5 (programming) | 57.5 | 22.8 |
# | ZebraLogic (logic puzzles) | 84.8 | 26.7 |
# | MMLU-Redux (knowledge) | 87.5 | 79.5 |
# | IFEval (following a required form) | 85.0 | 83.0 |
# | RULER average (retrieval in long texts) | 84.4 | 89.1 |
#
# ### Exercise 2 ★☆☆ (5 minutes): choose a budget
#
# From your own measurement, choose the **smallest** budget whose accuracy is at least `share` of that of whole thoughts.
#
# `accuracy` is a dictionary from budget to accuracy; the key `None` is no limit, that is, whole thoughts. If no budget is enough, return `None`.
#
# <details><summary>Hint</summary>
#
# The bar is `share * accuracy[None]`. Collect the budgets that clear it in a list (`None` is none of them), then take the smallest: `min(fitting, default=None)`.
#
# </details>


# %% key="ex2" tags=["exercise"]
def choose_budget(accuracy, share):
    return ...


# %% key="ex2-solution" tags=["solution"]
def choose_budget(accuracy, share):  # noqa: F811
    enough = share * accuracy[None]
    fitting = []
    for budget, value in accuracy.items():
        if budget is not None and value >= enough:
            fitting.append(budget)
    return min(fitting, default=None)


# %% key="ex2-check"
accuracy = {}
for budget in (*budgets, None):
    accuracy[budget] = sum(right[budget]) / len(problems)
l06.ex2.check(choose_budget, accuracy)

# %% [markdown] lang="zh" key="history-text"
# ## 多轮对话：历史里不放思考
#
# 思考往往比答案长得多。下一格先问一题，再接着问“再加 10 呢？”。历史写成两份：`kept` 里只有答案，`sent` 里是模型写的全部文字，思考也在。
#
# **先选一个。** 把 `sent` 交给模板，它怎样写上一轮？
#
# - A. 思考和答案都留着
# - B. 只留答案
# - C. 报错

# %% [markdown] lang="en" key="history-text"
# ## Several turns: no thoughts in the history
#
# A thought is often much longer than its answer. The next cell asks a question and goes on with "What if I add 10?". There are two histories: `kept` holds the answer only, `sent` all that the model wrote, with its thought.
#
# **Choose first.** How does the template write the earlier turn of `sent`?
#
# - A. Thought and answer
# - B. The answer only
# - C. It raises an error

# %% key="history" tags=["raw"]
[first] = chat(ask, sampling=greedy)
answer, whole = split(first).answer or "", first.outputs[0].text
follow_up = user(say("再加 10 呢？", "What if I add 10?"))
kept = [*ask, {"role": "assistant", "content": answer}, follow_up]
sent = [*ask, {"role": "assistant", "content": whole}, follow_up]
print(render(sent))
print(say("和 kept 一样：", "the same as kept:"), render(kept) == render(sent))
[second] = chat(kept, sampling=greedy)
print(split(second).answer)

# %% [markdown] lang="zh" key="deeper" facts="2507"
# <details><summary>读结果</summary>
#
# B。思考一点不留，两份历史写出同一份提示词。
#
# </details>
#
# [模型卡](https://huggingface.co/Qwen/Qwen3-8B)也这样建议：历史里只放最后的答案。自己拼提示词时，别把思考接回去：多付钱，还占上下文。例外只有工具调用那一串，思考要留着，模板会处理。
#
# ## 再深一点（选读）
#
# ### 模板的其他情形
#
# 2507 版不同。Instruct 从不思考，第一格见到它就停。Thinking 关不掉思考：模板已经写好 `<think>`，输出里只有 `</think>`。Qwen3 之后的模型，模板又不同，见[附录 A5](../zh/A5_after_qwen3.ipynb)。
#
# 关着思考聊几轮，旧的轮次里没有空思考块，和当时的提示词对不上，所以前缀缓存（prefix caching）从那里断开（[Qwen3#1826](https://github.com/QwenLM/Qwen3/issues/1826)）。几轮里有好几个软开关时，Qwen3 [听最近的那一个](https://huggingface.co/Qwen/Qwen3-8B)。
#
# 最后一条来自 assistant 时，模板替它补上思考块；消息里另外带着思考，就写那份思考。模型调用工具时，一次思考会跨好几条消息：从最后一个真正的问题算起，思考都保留，不然模型会忘记为什么要调用工具。工具的结果装在 `<tool_response>` 里，不算新问题。
#
# 下一格打印这样一串，看思考该放在哪个键里，最后打印一段以 assistant 结尾的对话。

# %% [markdown] lang="en" key="deeper" facts="2507"
# <details><summary>Reading</summary>
#
# B. Nothing of the thought is left: both histories become one prompt.
#
# </details>
#
# The [model card](https://huggingface.co/Qwen/Qwen3-8B) says so too: the history should hold the final answers only. When you build prompts yourself, do not send thoughts back: they cost money and context. The one exception is a chain of tool calls, which keeps its thoughts; the template sees to it.
#
# ## Deeper (extra)
#
# ### Other cases of the template
#
# The 2507 releases differ. Instruct never thinks, and the first cell stops at it. Thinking cannot be switched off: its template has already written `<think>`, and the output holds only `</think>`. Models after Qwen3 have other templates, see [appendix A5](../en/A5_after_qwen3.ipynb).
#
# After some turns with thinking off, old turns have no empty think block, unlike the prompts of their time, so prefix caching breaks there ([Qwen3#1826](https://github.com/QwenLM/Qwen3/issues/1826)). Of several soft switches in a conversation Qwen3 [follows the latest](https://huggingface.co/Qwen/Qwen3-8B).
#
# If the last message is the assistant's, the template adds a think block to it, with the thought that came with the message if there is one. When the model calls tools, one thought spans several messages: from the last real question on, thoughts are kept, or the model would forget why it called the tool. The tool's result stands in `<tool_response>` and is no new question.
#
# The next cell prints such a chain, sees under which key a thought belongs, and ends with a conversation whose last message is the assistant's.

# %% key="tools" tags=["extra", "raw"]
thought = say("用计算器算 37*46。", "Use the calculator: 37*46.")
arguments = {"expression": "37*46"}
call = {"type": "function", "function": {"name": "calculator", "arguments": arguments}}
for key in ("reasoning_content", "reasoning"):
    called = {"role": "assistant", "content": "", "tool_calls": [call], key: thought}
    chain = [*ask, called, {"role": "tool", "content": "1702"}]
    if key == "reasoning_content":
        print(render(chain))
    [output] = chat(chain, tokens=1)
    print(f"apply_chat_template, {key}:", thought in render(chain))
    print(f"llm.chat, {key}:", thought in output.prompt)
    later = [*chain, {"role": "assistant", "content": "1702"}, follow_up]
    assert thought not in render(later)
answered = [*ask, {"role": "assistant", "content": "1702"}]
print(tokenizer.apply_chat_template(answered, tokenize=False))

# %% [markdown] lang="zh" key="two-pass-text" facts="0.32"
# 读输出：直接调用 `apply_chat_template` 时，键名是 `reasoning_content`；`llm.chat` 收的键名是 `reasoning`，由 vLLM 换成模板认得的名字。等用户问了下一个问题，前面的思考才全部去掉。vLLM 0.32 的服务器两个键名都收，`reasoning_content` 是旧名；`/tokenize` 会丢掉旧名。
#
# 直接用模板时，`content` 不是文字就会被丢掉：`None` 等于空字符串，列表（例如图文消息）里的文字也不见了。`llm.chat` 会先把列表里的文字接起来。
#
# ### 引擎不支持预算时
#
# [Qwen3 报告](https://arxiv.org/abs/2505.09388)第 4.3 节分两次生成。第一次的 `max_tokens` 等于预算；没想完，就在后面补一句英文和 `</think>`，再生成第二次。（vLLM 0.19，驱动 570 到 579 用的那一代，自己会数，只是要用 `reasoning_config` 写明两个标签，`open_engine` 会替你加上。）
#
# **先选一个。** 小模型只学过算术和这门课的问题。补上那句英文，它会怎样？
#
# - A. 照样答题
# - B. 不知道那句话是什么意思，不肯答题

# %% [markdown] lang="en" key="two-pass-text" facts="0.32"
# How to read it: when you call `apply_chat_template` yourself, the key is `reasoning_content`; `llm.chat` takes the key `reasoning`, and vLLM hands it to the template under the name that it knows. Only the user's next question drops the thoughts. The server of vLLM 0.32 takes either key, `reasoning_content` being the old one; `/tokenize` drops the old one.
#
# When you use the template yourself, a `content` that is no text is left out: `None` counts as the empty string, and the texts in a list (as in messages with pictures) are lost too. `llm.chat` joins the texts of a list first.
#
# ### For engines without a budget
#
# Section 4.3 of the [Qwen3 report](https://arxiv.org/abs/2505.09388) generates twice. The first pass has `max_tokens` as the budget; if the thought is unfinished, an English sentence and `</think>` are added, and a second pass goes on from there. (vLLM 0.19, the generation for drivers 570 to 579, counts by itself, but wants a `reasoning_config` that names the two tags; `open_engine` adds it.)
#
# **Choose first.** The tiny model has learned arithmetic and the questions of this course only. What does it do after that sentence?
#
# - A. It answers as usual
# - B. It does not know what the sentence means, and gives no result

# %% key="two-pass" tags=["extra", "raw"]
sentence = "Considering the limited time by the user, I have to give the solution"
sentence += " based on the thinking directly now."
params = SamplingParams(**greedy, max_tokens=32)
[first] = llm.generate([render(ask)], params, use_tqdm=False)
begun = render(ask) + first.outputs[0].text
for closing in ("\n</think>\n\n", f"\n\n{sentence}\n</think>\n\n"):
    [second] = llm.generate([begun + closing], params, use_tqdm=False)
    print(repr(closing), repr(second.outputs[0].text), sep="\n→ ")

# %% [markdown] lang="zh" key="pairs-text" facts="30"
# <details><summary>读结果</summary>
#
# B。只补标签，它肯答题，只是答错了：32 个词元还差最后几步。真正的 Qwen3 读得懂那句话，报告说这种本事没有专门训练过，是自己出现的。小模型却专门训练过：它的训练数据里，30% 的思考被随机截断。报告图 2 画了 235B 的预算曲线，也是越多越好，横轴却是几千到三万多个词元；8B 是从大模型蒸馏来的，报告没有画它的曲线。
#
# </details>
#
# ### 逐题配对
#
# 两种做法答的是同一批题，可以**逐题配对**，比区间看得更准。两种都对、都错的题，分不出高下，不看。数一数只有甲对的有几道，只有乙对的有几道：两种一样好，这两个数就该差不多，像抛硬币一样。`p` 是一个概率：假如两种其实一样好，只凭运气，会不会差到这么多或更多？小于 0.05，才值得当真。8 比 0，`p` 约 0.008；28 比 20，`p` 约 0.31，说不准。这叫符号检验，由 `l06.sign_test` 来算。
#
# 下一格把完整思考和另外两种配对：不思考，贪心解码。

# %% [markdown] lang="en" key="pairs-text" facts="30"
# <details><summary>Reading</summary>
#
# B. With the tag alone it answers, though wrongly: 32 tokens leave out the last steps. A real Qwen3 understands the sentence, and the report says that this ability emerged: it was not trained for. The tiny model was: 30% of the thoughts in its data are cut at random. Figure 2 of the report has the budget curve of 235B: more is better there too, but the axis runs over thousands of tokens, past thirty thousand; 8B was distilled from larger ones, and the report draws no curve for it.
#
# </details>
#
# ### Problem by problem
#
# Two ways that answered the same problems can be **paired**, which tells more than intervals. Problems that both got right or both got wrong decide nothing; leave them out. Count those that only the first way got right, and only the second: if the ways are equally good, the two numbers should be close, as with a coin. `p` is a probability: suppose that they are equally good; would luck alone make so large a difference, or a larger one? Below 0.05 it deserves to be taken seriously. For 8 against 0, `p` is about 0.008; for 28 against 20 it is about 0.31, and one cannot tell. This is the sign test; `l06.sign_test` works it out.
#
# The next cell pairs whole thoughts with two other ways: no thinking, and greedy decoding.

# %% key="pairs" tags=["extra", "varies"]
pairs = zip(chat(conversations, sampling=greedy), problems, strict=True)
right["greedy"] = [is_right(output, problem) for output, problem in pairs]
for name in ("off", "greedy"):
    first = second = 0
    for whole, rival in zip(right[None], right[name], strict=True):
        if whole and not rival:
            first += 1
        if rival and not whole:
            second += 1
    p = l06.sign_test(first, second)
    print(f"None / {name}: {first} / {second}, p = {p:.2g}")

# %% [markdown] lang="zh" key="votes-text"
# 读输出：完整思考和不思考，差别大得不会是运气；和贪心解码，比不出高下，只有一种做法对的题至多几道。真正的 Qwen3 用贪心解码思考，会没完没了地重复（[模型卡](https://huggingface.co/Qwen/Qwen3-8B)）；小模型的思考太短，看不到这一点。
#
# ### 多猜几次，投票
#
# 另一种花词元的办法：同一道题采样几次，取出现最多的答案，叫**自洽**（[self-consistency](https://arxiv.org/abs/2203.11171)）。下一格不思考，每道题猜 4 次，花的词元和想一次差不多。
#
# **先选一个。** 同样多的词元，哪一种换来的正确率高？
#
# - A. 猜 4 次，投票
# - B. 想一次

# %% [markdown] lang="en" key="votes-text"
# How to read it: between whole thoughts and no thinking the difference is too large for luck; against greedy decoding one cannot tell, at most a handful of problems were right in only one way. A real Qwen3 that thinks with greedy decoding repeats itself without end ([model card](https://huggingface.co/Qwen/Qwen3-8B)); the thoughts of a tiny model are too short to show that.
#
# ### Guess several times, and vote
#
# Another way to spend tokens: sample several answers to a problem and take the most frequent one, called [self-consistency](https://arxiv.org/abs/2203.11171). The next cell guesses 4 times at each problem without thinking, which takes about the tokens of one thought.
#
# **Choose first.** Of two ways that take equally many tokens, which buys more accuracy?
#
# - A. 4 guesses and a vote
# - B. One thought

# %% key="votes" tags=["extra", "varies"]
from collections import Counter

params = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, n=4, max_tokens=limit)
template = {"enable_thinking": False}
outputs = llm.chat(conversations, params, chat_template_kwargs=template, use_tqdm=False)
elected = tokens = 0
for output, problem in zip(outputs, problems, strict=True):
    votes = Counter()
    for sample in output.outputs:
        tokens += len(sample.token_ids)
        votes[l06.last_number(sample.text)] += 1
    # zh: 得票最多的数
    # en: the number with most votes
    winner = max(votes, key=votes.get)
    if winner == str(problem.result):
        elected += 1
# zh: 最后一道题，它的答案，各个数得了几票
# en: the last problem, its answer, and how many votes each number got
print(problem.expression, problem.result, dict(votes))
for name, number, each in (
    (say("投票", "vote"), elected, tokens / len(problems)),
    (say("想一次", "one thought"), sum(right[None]), cost[None]),
):
    print(f"{number:2}/{len(problems)} {each:4.0f} tokens | {name}")

# %% [markdown] lang="zh" key="recall-text"
# <details><summary>读结果</summary>
#
# B。投票要有用，对的答案得比每一个错的都常出现。小模型心算只是在猜，猜的数东一个西一个，投票选不出对的。[论文](https://arxiv.org/abs/2203.11171)里是先写推理步骤再投票，大模型因此多对不少。对你的题有没有用，要自己量。
#
# </details>
#
# ### 什么时候不该思考
#
# 有的题没有步骤可算，只看记不记得。下一格问各国的首都。
#
# **先选一个。** 思考和不思考，哪一种对得多？
#
# - A. 思考
# - B. 不思考
# - C. 一样多，思考花的词元更多

# %% [markdown] lang="en" key="recall-text"
# <details><summary>Reading</summary>
#
# B. For a vote to help, the right answer has to come up more often than each wrong one. Without its steps the tiny model only guesses, now this number and now that, and no vote finds the right one. In the [paper](https://arxiv.org/abs/2203.11171) each vote has written its steps first, and large models gain a good deal. Whether it helps with your problems is for you to measure.
#
# </details>
#
# ### When not to think
#
# Some questions have no steps to work out; one remembers the answer or does not. The next cell asks for capitals.
#
# **Choose first.** Which gets more of them right, thinking or not?
#
# - A. Thinking
# - B. Not thinking
# - C. Neither, but thinking takes more tokens

# %% key="recall" tags=["extra", "varies"]
questions, capitals = l06.draw_capitals(len(problems))
print(questions[0], capitals[0])
asked = [[user(question)] for question in questions]
for enabled in (True, False):
    outputs, known, tokens = chat(asked, thinking=enabled), 0, 0
    for output, capital in zip(outputs, capitals, strict=True):
        if capital in (split(output).answer or ""):
            known += 1
        tokens += length(output)
    mean = tokens / len(asked)
    print(f"enable_thinking={str(enabled):5} {known}/{len(asked)} {mean:.0f} tokens")

# %% [markdown] lang="zh" key="back-text"
# <details><summary>读结果</summary>
#
# C。可是真正的 Qwen3 做知识题，思考确实有好处（上表的 MMLU-Redux），所以不能只看题目的种类。
#
# </details>
#
# 值得先试不思考的：抽取和分类，格式转换，要马上出第一个字的聊天，长文检索。最后一项，[报告](https://arxiv.org/abs/2505.09388)猜测是思考干扰了检索；测它时用 YaRN 把上下文放大到 4 倍，思考限在 8,192 个词元以内。怎样判断？用本课的办法：拿自己的题，两种模式各跑一遍，逐题配对。
#
# ### 把思考带回去，会怎样
#
# 下面每段对话先有几轮乘法，最后问“再加 37 呢？”。提示词自己拼，一种去掉思考，一种原样带回。
#
# **先选一个。** 哪一种对得多？小模型训练时，历史里从来没有思考。
#
# - A. 去掉思考
# - B. 带回思考：它能参考前面的步骤
# - C. 一样

# %% [markdown] lang="en" key="back-text"
# <details><summary>Reading</summary>
#
# C. Yet a real Qwen3 does gain on questions of knowledge by thinking (MMLU-Redux in the table above), so the kind of question alone does not decide it.
#
# </details>
#
# Worth trying without thinking first: extraction and classification, changes of format, chats whose first word must come at once, retrieval in long texts. Of the last, the [report](https://arxiv.org/abs/2505.09388) supposes that thoughts interfere with retrieval; for this test YaRN stretched the context by 4, and thoughts were capped at 8,192 tokens. How to decide? As in this lesson: your own problems, both modes, paired.
#
# ### What thoughts in the history do
#
# Each conversation below has some turns of products and then asks "What if I add 37?". The prompts are built by hand; one way drops the thoughts, the other sends them back.
#
# **Choose first.** Which gets more right? In the tiny model's training, no history held a thought.
#
# - A. Dropped
# - B. Sent back: it can look at the earlier steps
# - C. Both the same


# %% key="back" tags=["extra", "varies"]
def earlier_turn(problem, send):
    text = f"<|im_start|>user\n{problem.expression}=?<|im_end|>\n"
    text += "<|im_start|>assistant\n"
    if send:
        text += f"<think>\n{problem.thought}\n</think>\n\n"
    return text + f"{problem.expression}={problem.result}<|im_end|>\n"


names = {True: say("带回思考", "sent"), False: say("去掉思考", "dropped")}
last = render([user(say("再加 37 呢？", "What if I add 37?"))])
params = SamplingParams(**greedy, max_tokens=limit)
shares = {}
for turns in (1, 2, 4):
    # zh: 每段对话先做的几道乘法
    # en: of each conversation, the products that come first
    talks = l06.draw_talks(problems, turns)
    for send in (False, True):
        prompts, good, tokens = [], 0, 0
        for talk in talks:
            text = ""
            for problem in talk:
                text += earlier_turn(problem, send)
            prompts.append(text + last)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        for output, talk in zip(outputs, talks, strict=True):
            wanted = talk[-1].result + 37
            if l06.last_number(split(output).answer) == str(wanted):
                good += 1
            tokens += len(output.prompt_token_ids)
        shares[turns, send] = good / len(talks)
        mean = tokens / len(talks)
        print(f"{turns} | {good:2}/{len(talks)} | {mean:3.0f} tokens | {names[send]}")
if models.is_bundled(folder) and len(talks) >= 10:
    assert shares[4, False] > shares[4, True] + 0.3

# %% [markdown] lang="zh" key="close-text"
# <details><summary>读结果</summary>
#
# A。带回思考，提示词长到约两倍，甚至更多；带的越多，错得越多，最后全错。真正的 Qwen3 会错多少，本课没有量。
#
# </details>
#
# ## 释放引擎

# %% [markdown] lang="en" key="close-text"
# <details><summary>Reading</summary>
#
# A. With thoughts sent back the prompt is about twice as long, or more; the more there are, the more it gets wrong, until all of it is. How much a real Qwen3 would get wrong was not measured here.
#
# </details>
#
# ## Release the engine

# %% key="close"
close_engine()

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 开关都在提示词里：硬开关写好一个空思考块，软开关是用户的话；拼错的参数名不报错。
# - 答案在最后一个 `</think>` 之后；思考没写完，就没有答案。
# - `thinking_token_budget` 到数就断；太小的预算白花词元。
# - 竞赛数学、编程、逻辑题，思考换来最多；听从格式几乎没有，长文检索反而更差。
# - 历史里不带思考，工具调用那一串例外。
#
# ## 自测
#
# 1. `/no_think` 之后，为什么输出里还有 `<think>`？
# 2. 输出里没有 `</think>`，`finish_reason` 是 `length`：答案是什么？
# 3. 预算 16，一道题的思考要 20 个词元，正确率会是完整思考的八成吗？
# 4. 同样 40 道题，一种做法对了 22 道，另一种对了 25 道：后者更好吗？
# 5. 为什么工具结果回来之后，这一串里的思考要留着？
#
# <details><summary>答案</summary>
#
# 1. 软开关由模型执行：它写一个空的思考块，再答。
# 2. 没有答案：加大 `max_tokens`，或给一个预算。
# 3. 不会成比例。最后几步没写出来，答案多半还是猜的。
# 4. 看不出来：两个置信区间几乎重合。
# 5. 模型还在回答同一个问题，去掉思考，它就忘了为什么要调用。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 答案里是半截思考 | 没有 `</think>` 时把全部文本当成答案 | 没写完就返回 `None` |
# | 关不掉思考 | 写了 `ensure_thinking` | `enable_thinking`，并打印提示词 |
# | `thinking_token_budget` 被拒绝 | 引擎没有 `reasoning_parser` | `LLM(..., reasoning_parser="qwen3")` |
# | 预算不起作用 | 关了思考 | 打开思考 |
# | 聊得越久越糊涂、越慢 | 把思考接回了历史 | 只存答案 |
# | 思考没完没了 | 贪心解码 | 用 0.6、0.95、20，并设预算 |
#
# ## 可以直接拿走的代码（选读）
#
# 一个多轮对话：思考可以开、可以关，也可以设预算。历史里只留完整的答案，被截断的会标出来（`length`）。在 CPU 上要先设两个变量，不设它就用一句话说明。在笔记本里它只定义类，不打开引擎。

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - Both switches are in the prompt: the hard one writes an empty think block, the soft one is the user's words; a misspelt name raises nothing.
# - The answer is what follows the last `</think>`; where a thought is unfinished there is no answer.
# - `thinking_token_budget` cuts when it is used up; too small a budget is tokens wasted.
# - Thinking buys most in contest mathematics, programming and logic, and next to nothing in following a form; in long-text retrieval it does harm.
# - Histories carry no thoughts; a chain of tool calls is the exception.
#
# ## Test yourself
#
# 1. Why is there still a `<think>` in the output after `/no_think`?
# 2. An output has no `</think>`, and its `finish_reason` is `length`: what is the answer?
# 3. A budget of 16, a thought that takes 20 tokens: will accuracy be eight tenths of that of whole thoughts?
# 4. Of the same 40 problems one way gets 22 right and another 25: is the second better?
# 5. Once a tool's result is back, why are the thoughts of that chain kept?
#
# <details><summary>Answers</summary>
#
# 1. The model carries out the soft switch: it writes an empty think block and answers.
# 2. There is none: raise `max_tokens`, or set a budget.
# 3. Not in proportion. With the last steps missing, most answers are still guesses.
# 4. One cannot tell: the confidence intervals are almost the same.
# 5. The model is still at the same question; without its thoughts it forgets why it called the tool.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | the answer is half a thought | without `</think>` the whole text was taken for the answer | return `None` for an unfinished thought |
# | thinking cannot be switched off | `ensure_thinking` | `enable_thinking`, and print the prompt |
# | `thinking_token_budget` is refused | the engine has no `reasoning_parser` | `LLM(..., reasoning_parser="qwen3")` |
# | a budget has no effect | thinking is off | switch thinking on |
# | the longer the chat, the more confused and slow | thoughts were appended to the history | keep the answers only |
# | a thought without end | greedy decoding | 0.6, 0.95, 20, and a budget |
#
# ## Code to take away (extra)
#
# A chat of several turns: thinking can be on, off, or on a budget. The history keeps whole answers only, and what was cut is marked (`length`). On a CPU it wants two variables set, and says so in one sentence if they are not. In a notebook it only defines its class and opens no engine.

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


class Chat:
    """A conversation on one engine, ``LLM(..., reasoning_parser="qwen3")``."""

    def __init__(self, llm, system=None):
        self.llm, self.tokenizer = llm, llm.get_tokenizer()
        self.messages = [{"role": "system", "content": system}] if system else []

    def ask(self, question, thinking=True, budget=None, max_tokens=None):
        """(thinking, answer, finish): "stop" for a whole answer, "length" for a cut.

        A thought that was cut has no answer, None. Only whole answers enter the
        history, and thoughts never do.
        """
        sampling = {"temperature": 0.6, "top_p": 0.95}
        if not thinking:
            sampling = {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5}
        params = SamplingParams(
            **sampling,
            top_k=20,
            max_tokens=max_tokens,
            thinking_token_budget=budget,
        )
        messages = [*self.messages, {"role": "user", "content": question}]
        [output] = self.llm.chat(
            messages,
            params,
            chat_template_kwargs={"enable_thinking": thinking},
            use_tqdm=False,
        )
        thought, answer = self.split(output)
        finish = output.outputs[0].finish_reason
        if answer and finish == "stop":
            self.messages = [*messages, {"role": "assistant", "content": answer}]
        return thought, answer, finish

    def split(self, output):
        tags = ["<|im_start|>", "<think>", "</think>"]
        turn, begin, end = self.tokenizer.convert_tokens_to_ids(tags)
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
        tags = begin, end
        return tuple(part if part is None else self.text(part, tags) for part in parts)

    def text(self, ids, tags):
        ids = [token for token in ids if token not in tags]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


# zh: 只在作为脚本运行时执行；在笔记本里由你自己决定
# en: as a script only; in a notebook you decide
if __name__ == "__main__" and "get_ipython" not in globals():
    needed = {"VLLM_CPU_KVCACHE_SPACE", "TORCH_COMPILE_DISABLE"}
    if current_platform.is_cpu() and needed - set(os.environ):
        # zh: 不设的话，vLLM 占去 92 % 的内存，还要编译
        # en: without them vLLM takes 92 % of the memory, and compiles
        sys.exit("On a CPU: export VLLM_CPU_KVCACHE_SPACE=4 TORCH_COMPILE_DISABLE=1")
    # zh: 预算从哪个标签数起；vLLM 0.32 自己知道
    # en: what a budget counts from; vLLM 0.32 knows it by itself
    from vllm.config.reasoning import ReasoningConfig

    tags = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
    llm = LLM(
        model=MODEL,
        max_model_len=-1,
        reasoning_parser="qwen3",
        reasoning_config=ReasoningConfig(**tags),
    )
    chat = Chat(llm)
    for question in ("23×31=?", "What if I add 10?"):
        thought, answer, finish = chat.ask(question)
        print(f"{question}\n  thinking: {thought!r}\n  answer: {answer!r} ({finish})")
    kept = any("<think>" in message["content"] for message in chat.messages)
    print(len(chat.messages), "messages, thoughts in them:", kept)
    print("with a budget:", Chat(llm).ask("37×46=?", budget=16))

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [Qwen3 技术报告](https://arxiv.org/abs/2505.09388)：第 4.3 节思考模式的融合与预算，第 4.7 节预算曲线，附录 A.1.1 长文检索
# - [Qwen3-8B 的模型卡](https://huggingface.co/Qwen/Qwen3-8B)：两种模式的采样值、软开关、多轮的做法
# - [vLLM：reasoning outputs](https://docs.vllm.ai/en/stable/features/reasoning_outputs.html)
#
# 下一课：[把引擎开成服务器](../zh/07_openai_server.ipynb)。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [Qwen3 report](https://arxiv.org/abs/2505.09388): section 4.3 on the fusion of both modes and the budget, 4.7 for the budget curve, appendix A.1.1 for long-text retrieval
# - [Qwen3-8B's model card](https://huggingface.co/Qwen/Qwen3-8B): sampling values of both modes, soft switches, several turns
# - [vLLM: reasoning outputs](https://docs.vllm.ai/en/stable/features/reasoning_outputs.html)
#
# Next: [the engine as a server](../en/07_openai_server.ipynb).
