# %% [markdown] lang="zh" key="title"
# # 06 · 思考换来什么
#
# | | |
# |---|---|
# | 学完能做 | 读懂模板的每一种情形；把思考和答案分开，包括没想完的；用硬开关、软开关和思考预算控制思考；量出思考换来多少正确率、花掉多少词元；说出什么时候不该思考；把多轮对话做对 |
# | 先修 | 第 05 课 |
# | 时间 | 主线 60 分钟，画图的代码不用细读；标着“选读”的小节再加 20 分钟，跳过不影响后面 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；或一张 NVIDIA GPU |
# | 模型 | 默认是课程自带的 `qwen3-tiny`；建议的真实模型：Qwen3-8B（24 GB 显存） |
# | 说明 | 本课的输出来自 CPU 上的小模型，没有在 GPU 上跑过 |

# %% [markdown] lang="en" key="title"
# # 06 · What thinking buys
#
# | | |
# |---|---|
# | You will be able to | read every case of the template; separate thinking from the answer, unfinished thoughts included; control thinking with the hard switch, the soft switch and a budget; measure what it buys in accuracy and costs in tokens; say when not to think; get several turns right |
# | Prerequisites | lesson 05 |
# | Time | 60 minutes for the main path, where the code that draws need not be read; 20 more for the sections marked "extra", which can be skipped |
# | Hardware | any Linux CPU with 4 GB of memory; or one NVIDIA GPU |
# | Model | by default the bundled `qwen3-tiny`; a real one to try: Qwen3-8B (24 GB GPU) |
# | Note | the outputs come from a tiny model on a CPU; nothing here was run on a GPU |

# %% key="setup"
import os
import time

from helpers import figures, models, say
from helpers.engine import close_engine, open_engine, split
from helpers.lessons import l06
from helpers.lessons.thinking import require_thinking

folder = models.course_model()
print(models.describe(folder), "| thinking:", require_thinking(folder))

# %% [markdown] lang="zh" key="open-text" facts="2507"
# 同一个 Qwen3，可以先想再答，也可以直接答。用哪一种，全看提示词怎么写，权重是同一组。有两个开关：
#
# - **硬开关**（hard switch）：套用模板时给的参数 `enable_thinking=False`。
# - **软开关**（soft switch）：写在用户消息末尾的 `/no_think`，打开是 `/think`。
#
# `open_engine` 见到会思考的模型，会加上 `reasoning_parser="qwen3"`。这样引擎就认得 `<think>` 和 `</think>`，后面的思考预算要用。
#
# **选读。** 2507 版的 Qwen3 不同。Instruct 从不思考，本课不适用，上一格见到它就停。Thinking 关不掉思考：模板已经写好 `<think>`，输出里只有 `</think>`。Qwen3 之后的模型，模板又不同，见[附录 A5](../zh/A5_after_qwen3.ipynb)。

# %% [markdown] lang="en" key="open-text" facts="2507"
# The same Qwen3 can think first or answer at once. Which one, is decided by the prompt alone; the weights are the same. There are two switches:
#
# - The **hard switch**: the argument `enable_thinking=False` of the template.
# - The **soft switch**: `/no_think` at the end of the user's message, and `/think` for on.
#
# For a model that thinks, `open_engine` adds `reasoning_parser="qwen3"`. The engine then knows `<think>` and `</think>`; the thinking budget below needs it.
#
# **Extra.** The 2507 releases of Qwen3 differ. Instruct never thinks; this lesson is not for it, and the cell above stops at it. Thinking cannot be switched off: its template has already written `<think>`, and the output holds only `</think>`. Models after Qwen3 have other templates, see [appendix A5](../en/A5_after_qwen3.ipynb).

# %% key="open"
llm = open_engine()
tokenizer = llm.get_tokenizer()
limit = int(os.environ.get("COURSE_MAX_TOKENS", 0)) or None
recommended = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}
greedy = {"temperature": 0.0}

# %% [markdown] lang="zh" key="cases-text"
# ## 模板的各种情形，一张差异表
#
# 同一个模板，参数和历史不同，写出的提示词差在哪里？下一格每一组比较两份提示词，只打印不同的行：`-` 是前一份有的，`+` 是后一份有的。`ensure_thinking` 是故意拼错的参数名。
#
# **先选一个。** 历史里的上一轮带着思考，又有了新问题。模板会怎样写上一轮？思考往往比答案长得多。
#
# - A. 思考和答案都留着
# - B. 只留答案
# - C. 报错

# %% [markdown] lang="en" key="cases-text"
# ## Every case of the template, as a table of differences
#
# One template, different arguments and histories: where do the prompts differ? Each group in the next cell compares two of them and prints only the lines that differ: `-` stands in the first, `+` in the second. `ensure_thinking` is a name misspelt on purpose.
#
# **Choose first.** The last turn in the history has a thought, and now comes another question. How does the template write that turn? A thought is often much longer than its answer.
#
# - A. Thought and answer
# - B. The answer only
# - C. It raises an error

# %% key="cases" tags=["raw"]
import difflib

from vllm import SamplingParams


def render(messages, prompt=True, **arguments):
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=prompt, **arguments
    )


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content} | more


plus = user(say("再加 10 呢？", "What if I add 10?"))
plain = [user("37×46=?"), assistant("1702"), plus]
with_thought = [plain[0], assistant("<think>\n37×40=1480\n</think>\n\n1702"), plain[2]]
ask = [user("37×46=?")]
pairs = {
    "enable_thinking=False": (render(ask), render(ask, enable_thinking=False)),
    "ensure_thinking=False": (render(ask), render(ask, ensure_thinking=False)),
    "/no_think": (render(ask), render([user("37×46=? /no_think")])),
    say("历史里有思考", "a thought in the history"): (
        render(plain),
        render(with_thought),
    ),
    say("有历史，关掉思考", "history, thinking off"): (
        render(plain),
        render(plain, enable_thinking=False),
    ),
    say("最后一条来自 assistant", "last message from the assistant"): (
        render(ask),
        last := render(plain[:2], prompt=False),
    ),
    say("同上，另带 reasoning_content", "the same with reasoning_content"): (
        last,
        render(
            [plain[0], assistant("1702", reasoning_content="37×40=1480")], prompt=False
        ),
    ),
    say("同上，另带 reasoning", "the same with reasoning"): (
        last,
        render([plain[0], assistant("1702", reasoning="37×40=1480")], prompt=False),
    ),
}
for case, (before, after) in pairs.items():
    lines = difflib.ndiff(
        before.splitlines(keepends=True), after.splitlines(keepends=True)
    )
    changes = [f"    {line[0]} {line[2:]!r}" for line in lines if line[0] in "+-"]
    print(case, *(changes or [say("    （相同）", "    (equal)")]), sep="\n")
assert render(ask) == render(ask, ensure_thinking=False)
assert render(plain) == render(with_thought)

# %% [markdown] lang="zh" key="cases-read" facts="0.32"
# <details><summary>读结果</summary>
#
# B。“历史里有思考”那一组没有差别：历史里的思考被去掉了，一点不留。
#
# </details>
#
# 其余各组：
#
# - **硬开关**在末尾写好一个空的思考块。参数名拼错，不会报错，什么也不变。
# - **软开关**只是用户消息里的几个字，模板原样抄下。模型在训练中学会了照办，模板并不认得它。
# - **关着思考聊了几轮**，旧的轮次里没有空思考块，和当时的提示词对不上，所以前缀缓存（prefix caching）从那里断开（[Qwen3#1826](https://github.com/QwenLM/Qwen3/issues/1826)）。
#
# **选读。** 写程序时还要知道：
#
# - 最后一条来自 assistant 时，模板会替它补上空思考块；消息里另外带着思考，就写那份思考。
# - 直接调用 `apply_chat_template` 时，键名是 `reasoning_content`，写成 `reasoning` 没有反应。`llm.chat` 收的键名是 `reasoning`，由 vLLM 换成模板认得的名字。
# - vLLM 0.32 的服务器两个键名都收，`reasoning_content` 是旧名；`/tokenize` 会丢掉旧名。
#
# 模型调用工具时，一次思考会跨好几条消息。
#
# **先选一个。** 工具的结果回来之后，之前的思考还在提示词里吗？模型还在答同一个问题。
#
# - A. 在
# - B. 不在，和上面一样去掉了

# %% [markdown] lang="en" key="cases-read" facts="0.32"
# <details><summary>Reading</summary>
#
# B. The group "a thought in the history" shows no difference: the thought was dropped, nothing of it is left.
#
# </details>
#
# The other groups:
#
# - The **hard switch** writes an empty think block at the end. A misspelt name raises nothing and changes nothing.
# - The **soft switch** is a few characters in the user's message, copied as they are. The model learned in training to obey them; the template does not know them.
# - **After some turns with thinking off**, old turns have no empty think block, unlike the prompts of their time, so prefix caching breaks there ([Qwen3#1826](https://github.com/QwenLM/Qwen3/issues/1826)).
#
# **Extra.** To know when you write a program:
#
# - If the last message is the assistant's, the template adds an empty think block to it, or the thought that came with the message.
# - When you call `apply_chat_template` yourself, the key is `reasoning_content`, and `reasoning` does nothing. `llm.chat` takes the key `reasoning`, and vLLM hands it to the template under the name that it knows.
# - The server of vLLM 0.32 takes either key, `reasoning_content` being the old one; `/tokenize` drops the old one.
#
# When the model calls tools, one thought spans several messages.
#
# **Choose first.** Once the tool's result is back, is the earlier thought still in the prompt? The model is still at the same question.
#
# - A. It is
# - B. It is dropped, as above

# %% key="tools" tags=["extra", "raw"]
thought = say("用计算器算 37*46。", "Use the calculator: 37*46.")
call = {"function": {"name": "calculator", "arguments": {"expression": "37*46"}}}
chain = [
    user("37×46=?"),
    assistant("", reasoning_content=thought, tool_calls=[call]),
    {"role": "tool", "content": "1702"},
]
print(render(chain))
later = [*chain, assistant("1702"), plus]
assert thought in render(chain) and thought not in render(later)
call["type"] = "function"
for key in ("reasoning", "reasoning_content"):
    messages = [chain[0], assistant("", tool_calls=[call]) | {key: thought}, chain[2]]
    [output] = llm.chat(messages, SamplingParams(max_tokens=1), use_tqdm=False)
    found = thought in output.prompt
    print(f"llm.chat, {key}:", say("思考在提示词里：", "thought in the prompt:"), found)
    assert found == (key == "reasoning")

# %% [markdown] lang="zh" key="cut-text"
# <details><summary>读结果</summary>
#
# A。从最后一个真正的问题算起，思考都保留，不然模型会忘记为什么要调用工具。工具的结果装在 `<tool_response>` 里，不算新问题。等用户问了下一个问题，前面的思考才全部去掉。
#
# 交给 `llm.chat` 时，键名要用 `reasoning`。直接用模板时，`content` 不是文字就会被丢掉：`None` 等于空字符串；一个列表（例如图文消息）里的文字也不见了。`llm.chat` 会先把列表里的文字接起来。
#
# </details>
#
# ## 把思考和答案分开
#
# 规则很短：找**最后一个** `</think>`，之前是思考，之后是答案。
#
# 难在没有 `</think>` 的时候。思考开了头却没写完，说明被截断了，这时**没有答案**。连 Qwen 文档的示例，也会把这半截思考当成答案。
#
# **选读。** 下一格故意截断两次：一次截在思考中间，一次截在 `</think>` 刚写完的地方。

# %% [markdown] lang="en" key="cut-text"
# <details><summary>Reading</summary>
#
# A. From the last real question on, thoughts are kept, or the model would forget why it called the tool. The tool's result stands in `<tool_response>` and is no new question. Only the user's next question drops them all.
#
# For `llm.chat` the key is `reasoning`. When you use the template yourself, a `content` that is no text is left out: `None` counts as the empty string, and the texts in a list (as in messages with pictures) are lost too. `llm.chat` joins the texts of a list first.
#
# </details>
#
# ## Keep thinking and answer apart
#
# The rule is short: find the **last** `</think>`; before it is the thought, behind it the answer.
#
# What is hard is an output without `</think>`. A thought was begun and not finished, so it was cut off, and there **is no answer**. Even the sample code in Qwen's documentation takes that half thought for one.
#
# **Extra.** The next cell cuts twice on purpose: once within the thought, once where `</think>` has just been written.

# %% key="cut" tags=["extra"]
[whole] = llm.chat(ask, SamplingParams(**greedy, max_tokens=limit), use_tqdm=False)
ids, end = list(whole.outputs[0].token_ids), tokenizer.convert_tokens_to_ids("</think>")
middle = ids.index(end) if end in ids else len(ids) - 1
for tokens in (max(1, middle // 2), middle + 3):
    [output] = llm.chat(
        ask, SamplingParams(**greedy, max_tokens=tokens), use_tqdm=False
    )
    print(f"max_tokens={tokens}: {output.outputs[0].finish_reason}, {split(output)}")

# %% [markdown] lang="zh" key="ex1-text"
# 读输出：截在思考中间，`answer` 是 `None`。截在 `</think>` 之后，思考完整，答案是空的。两次的 `finished` 都是 `False`。
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
# 最后一个 `end` 的位置：`len(ids) - 1 - ids[::-1].index(end)`。没有 `end` 时，看有没有 `think`。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# How to read it: cut within the thought, `answer` is `None`. Cut behind `</think>`, the thought is whole and the answer empty. `finished` is `False` for both.
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
# The place of the last `end` is `len(ids) - 1 - ids[::-1].index(end)`. Without an `end`, see whether there is a `think`.
#
# </details>


# %% key="ex1" tags=["exercise"]
def split_ids(token_ids, think, end):
    return ...


# %% key="ex1-solution" tags=["solution"]
def split_ids(token_ids, think, end):  # noqa: F811
    ids = list(token_ids)
    if end in ids:
        last = len(ids) - 1 - ids[::-1].index(end)
        return [token for token in ids[:last] if token != think], ids[last + 1 :]
    if think in ids:
        return [token for token in ids if token != think], None
    return None, ids


# %% key="ex1-check"
l06.ex1.check(split_ids)

# %% [markdown] lang="zh" key="switch-text"
# ## 硬开关和软开关
#
# 两个开关可以同时出现。下一格把问题的结尾和 `enable_thinking` 的各种组合都问一遍，打印输出的开头。
#
# **先选一个。** `enable_thinking=False` 遇上 `/think`，听谁的？想一想硬开关在提示词里写了什么。
#
# - A. 硬开关：不思考
# - B. 软开关：思考

# %% [markdown] lang="en" key="switch-text"
# ## The hard switch and the soft one
#
# Both can be there at once. The next cell asks with every combination of an ending and `enable_thinking`, and prints how the output begins.
#
# **Choose first.** If `enable_thinking=False` meets `/think`, who wins? Think of what the hard switch writes into the prompt.
#
# - A. The hard switch: no thought
# - B. The soft switch: a thought

# %% key="switch" tags=["varies"]
who = say("你是谁？", "Who are you?")
for ending in ("", " /no_think", " /no_think /think", "<think>"):
    for enabled in (True, False):
        [output] = llm.chat(
            [user(who + ending)],
            SamplingParams(**recommended, max_tokens=limit),
            chat_template_kwargs={"enable_thinking": enabled},
            use_tqdm=False,
        )
        text = output.outputs[0].text[:60]
        print(f"{ending:17} enable_thinking={enabled!s:5} → {text!r}")
        if not enabled and models.is_bundled(folder):
            assert split(output).thinking is None

# %% [markdown] lang="zh" key="switch-read"
# <details><summary>读结果</summary>
#
# A。硬开关一关，就再没有思考，`/think` 也叫不回来：空思考块已经写在提示词里，模型当作想完了。
#
# 用软开关关掉时，模型自己写一个**空的**思考块，所以程序照样要拆。一条消息里有两个软开关，小模型没有学过；Qwen3 在多轮对话里[听最近的那一个](https://huggingface.co/Qwen/Qwen3-8B)。
#
# </details>
#
# 软开关要模型配合，硬开关不用。所以程序里用硬开关，软开关留给聊天的人。
#
# 有的教程还在用户消息的末尾写 `<think>`（最后两行），想替模型开头。那里是用户的话，不是模型的话：
#
# - 小模型写出的思考块缺了开头的标签。万一在 `</think>` 之前被截断，程序就分不清那是思考还是答案。
# - 关着思考时不起作用。
#
# 想替模型开头，要写在 assistant 的位置上。
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
# A. With the hard switch off there is no thought, and `/think` does not bring it back: the empty think block already stands in the prompt, and the model takes its thought for finished.
#
# Switched off softly, the model writes an **empty** think block itself, so a program still has to split. Two soft switches in one message are something the tiny model never learned; over several turns Qwen3 [follows the latest](https://huggingface.co/Qwen/Qwen3-8B).
#
# </details>
#
# The soft switch needs the model's cooperation, the hard one does not. Use the hard one in programs and leave the soft one to people who chat.
#
# Some tutorials also put `<think>` at the end of the user's message (the last two lines), to begin for the model. That place belongs to the user's words and not to the model's:
#
# - The tiny model writes a think block that lacks its opening tag. If that is cut before `</think>`, a program cannot tell a thought from an answer.
# - With thinking off it has no effect.
#
# To begin for the model, write in the assistant's place.
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
    params = SamplingParams(**greedy, max_tokens=limit, thinking_token_budget=budget)
    [output] = llm.chat(ask, params, use_tqdm=False)
    thinking, answer, _ = split(output)
    tokens = len(output.outputs[0].token_ids)
    print(f"budget {budget!s:4} → {tokens:2} tokens | {answer!r} | {thinking!r}")

# %% [markdown] lang="zh" key="budget-read" facts="0.19 570 579"
# <details><summary>读结果</summary>
#
# C。预算从 `<think>` 之后数起，到了就断，不管句子完不完整。差一步没算完，答案就是猜的：有用的是最后那几步。答案本身能写多长，仍由 `max_tokens` 管。
#
# </details>
#
# 输出里没有 `<think>`，预算就不起作用。引擎没有 `reasoning_parser`，vLLM 就拒绝它。vLLM 0.19（驱动 570 到 579 用的那一代）还要用 `reasoning_config` 写明两个标签，`open_engine` 会替你加上。
#
# **选读。** 引擎不支持预算时，[Qwen3 报告](https://arxiv.org/abs/2505.09388)第 4.3 节分两次生成。第一次的 `max_tokens` 等于预算；没想完，就在后面补一句英文和 `</think>`，再生成第二次。
#
# **先选一个。** 小模型只学过算术和这门课的问题。补上那句英文，它会怎样？
#
# - A. 照样答题
# - B. 不知道那句话是什么意思，不肯答题

# %% [markdown] lang="en" key="budget-read" facts="0.19 570 579"
# <details><summary>Reading</summary>
#
# C. The budget counts from behind `<think>` and cuts when it is used up, in mid-sentence if need be. With one step missing the answer is a guess: it is the last steps that help. How long the answer itself may be is up to `max_tokens` as before.
#
# </details>
#
# Where no `<think>` appears in the output, a budget has no effect. Without a `reasoning_parser` vLLM refuses it. vLLM 0.19, the generation for drivers 570 to 579, also wants a `reasoning_config` that names the two tags; `open_engine` adds it.
#
# **Extra.** For engines without a budget, section 4.3 of the [Qwen3 report](https://arxiv.org/abs/2505.09388) generates twice. The first pass has `max_tokens` as the budget; if the thought is unfinished, an English sentence and `</think>` are added, and a second pass goes on from there.
#
# **Choose first.** The tiny model has learned arithmetic and the questions of this course only. What does it do after that sentence?
#
# - A. It answers as usual
# - B. It does not know what the sentence means, and gives no result

# %% key="two-pass" tags=["extra", "raw"]
sentence = "Considering the limited time by the user, I have to give the solution"
sentence += " based on the thinking directly now."
closings = {
    say("只补标签", "tag only"): "\n</think>\n\n",
    say("报告里的那句话", "the report's sentence"): f"\n\n{sentence}\n</think>\n\n",
}
[first] = llm.generate(
    [render(ask)], SamplingParams(**greedy, max_tokens=32), use_tqdm=False
)
for name, closing in closings.items():
    text = render(ask) + first.outputs[0].text
    if "</think>" not in first.outputs[0].text:
        text += closing
    [second] = llm.generate(
        [text],
        SamplingParams(**greedy, max_tokens=min(limit or 60, 60)),
        use_tqdm=False,
    )
    print(f"{name}: {second.outputs[0].text!r}")

# %% [markdown] lang="zh" key="problems-text" facts="30"
# <details><summary>读结果</summary>
#
# B。小模型没见过那句英文，不肯答题。只补标签，它肯答题，只是答错了：32 个词元还差最后几步。真正的 Qwen3 读得懂那句话，报告说这种本事没有专门训练过，是自己出现的。小模型却专门训练过：它的训练数据里，30% 的思考被随机截断。
#
# </details>
#
# ## 实验：思考换来多少正确率，花掉多少词元
#
# 下面的题，小模型在训练时一道也没见过（见模型卡）。三分之二是连加，三分之一是两位数乘法，需要的思考长短不一。
#
# 下一格先做一小批，估计全部要多久，再决定做几道。小模型最多跑 50 秒，真实的模型最多 15 分钟，`room` 可以改；`COURSE_CASES` 可以设上限。它还定下几个预算，从很小到够用。
#
# **先选一个。** 只给最小的那个预算，正确率比完全不思考高吗？看看上面预算 8 和 16 的答案。
#
# - A. 高不少
# - B. 差不多

# %% [markdown] lang="en" key="problems-text" facts="30"
# <details><summary>Reading</summary>
#
# B. The tiny model never saw that English sentence and gives no result. With the tag alone it answers, though wrongly: 32 tokens leave out the last steps. A real Qwen3 understands the sentence, and the report says that this ability emerged: it was not trained for. The tiny model was: 30% of the thoughts in its data are cut at random.
#
# </details>
#
# ## The experiment: what thinking buys in accuracy and costs in tokens
#
# The tiny model saw none of these problems in training (see its card). Two thirds are long sums, one third products of two-digit numbers, and they need thoughts of different lengths.
#
# The next cell works a small batch first, estimates the whole, and decides how many problems to take: 50 seconds at most for the tiny model, 15 minutes for a real one, and `room` can be changed; `COURSE_CASES` sets an upper limit. It also settles some budgets, from very small to enough.
#
# **Choose first.** With the smallest budget, is accuracy higher than without any thinking? See the answers for budgets 8 and 16 above.
#
# - A. Much higher
# - B. About the same

# %% key="problems" tags=["varies"]
import random

from helpers.lessons.arithmetic import draw_problem
from helpers.lessons.texts import texts

draw = random.Random("lesson 06")
most = int(os.environ.get("COURSE_CASES", 120))
problems = [
    draw_problem(("chain", "chain", "product")[i % 3], draw, test=True)
    for i in range(most)
]
print(*(f"{problem.expression}=?" for problem in problems[:3]), sep="   ")


def run(problems, sampling, budget=None, thinking=True):
    params = SamplingParams(**sampling, max_tokens=limit, thinking_token_budget=budget)
    conversations = [[user(f"{problem.expression}=?")] for problem in problems]
    template = {"enable_thinking": thinking}
    return llm.chat(
        conversations, params, chat_template_kwargs=template, use_tqdm=False
    )


# zh: 第一次调用是热身
# en: the first call warms up
run(problems[:1], recommended)
start = time.perf_counter()
trial = run(problems[:32], recommended)
seconds = (time.perf_counter() - start) / len(trial)
thoughts = [len(output.outputs[0].token_ids) for output in trial]
budgets = sorted(
    {max(1, round(max(thoughts) * part / 8)) for part in (1, 2, 3, 4, 5, 6)}
)
runs = 2 * (len(budgets) + 2)
room = 50 if models.is_bundled(folder) else 900  # s
count = max(1, min(most, int(room / (runs * seconds))))
estimate = f"{runs * count * seconds:.0f} s"
plan = say(
    f"{runs} 轮，每轮 {count} 道题，约需", f"{runs} runs of {count} problems, about"
)
print(plan, estimate)
print("budgets:", budgets)
if count < 30:
    print(
        say(
            "题太少，置信区间会很宽，说明不了什么：换一台快些的机器，或者调大 room。",
            "With so few, intervals tell little: a faster machine or more room helps.",
        )
    )

# %% [markdown] lang="zh" key="experiment-text" facts="0.05"
# 判分只看 `</think>` 之后的最后一个数。方括号里是正确率的 95% **置信区间**（confidence interval，[Wilson](https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval)）：只考了这么几道题，真正的正确率在这个范围里都不奇怪。小小的差别，很可能只是运气。
#
# 两种做法答的是同一批题，可以**逐题配对**：
#
# - 两种都对、都错的题，分不出高下，不看。
# - 数一数只有甲对的题有几道，只有乙对的有几道。两种一样好，这两个数就该差不多，像抛硬币一样。
# - 下面的 `p` 是概率：假如两种其实一样好，只凭运气就差到这么多或更多的概率。小于 0.05，才值得当真。这叫符号检验。
#
# `wilson` 和 `sign_test` 是这两种统计，公式不必细看。

# %% [markdown] lang="en" key="experiment-text" facts="0.05"
# What counts is the last number behind `</think>`. In brackets stands the 95% **confidence interval** of the accuracy ([Wilson](https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval)): after so few problems, a true accuracy anywhere in that range would be no surprise. So a small difference may well be luck.
#
# Two ways that answered the same problems can be **paired**, problem by problem:
#
# - Problems that both got right or both got wrong decide nothing; leave them out.
# - Count those that only the first way got right, and only the second. If the ways are equally good, the two numbers should be close, as with a coin.
# - `p` below is a probability: suppose that they are equally good; would luck alone make so large a difference, or a larger one? Below 0.05 it deserves to be taken seriously. This is the sign test.
#
# `wilson` and `sign_test` are these two statistics; their formulas need no close reading.

# %% key="experiment" tags=["varies"]
import math
import re


def is_right(output, result):
    found = re.findall(r"\d+", (split(output).answer or "").replace(",", ""))
    return found[-1:] == [str(result)]


def wilson(right, total, z=1.96):
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / total + spread / total / 4) ** 0.5
    return middle - half, middle + half


# zh: 只有一种做法答对的题，偏成这样或更偏的概率：p 值
# en: p-value of so uneven a split, or a more uneven one, of what only one way got right
def sign_test(first, second):
    total = first + second
    return min(
        1,
        2 * sum(math.comb(total, k) for k in range(min(first, second) + 1)) / 2**total,
    )


names = {"greedy": say("贪心", "greedy"), "sampled": say("温度 0.6", "temperature 0.6")}
measured, verdicts = {}, {}
print(say("正确率 [95% 置信区间]", "accuracy [95% confidence interval]"))
for name, sampling in (("greedy", greedy), ("sampled", recommended)):
    for budget in ("off", *budgets, None):
        cut = budget if isinstance(budget, int) else None
        outputs = run(problems[:count], sampling, cut, thinking=budget != "off")
        right = [
            is_right(out, problem.result)
            for out, problem in zip(outputs, problems, strict=False)
        ]
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs) / count
        measured[name, budget], verdicts[name, budget] = (
            (sum(right) / count, tokens),
            right,
        )
        low, high = wilson(sum(right), count)
        share = f"{sum(right) / count:4.0%} [{low:4.0%}, {high:4.0%}]"
        print(f"{share} {tokens:4.0f} tokens | budget {budget!s:4} | {names[name]}")
whole, alone = ("greedy", None), say("只有它答对：", "only this one right:")
for other in (("greedy", "off"), ("sampled", None)):
    pairs = list(zip(verdicts[whole], verdicts[other], strict=True))
    first, second = (
        sum(pair == only for pair in pairs) for only in ((True, False), (False, True))
    )
    for (name, budget), number in ((whole, first), (other, second)):
        print(alone, number, f"| budget {budget} | {names[name]}")
    print(f"p = {sign_test(first, second):.2g}")
if models.is_bundled(folder) and count >= 40:
    assert measured["greedy", None][0] > measured["greedy", "off"][0] + 0.3

# %% key="figure" tags=["varies"]
figure, axes = figures.figure(1, 2, height=2.9, sharey=True)
for name, color, marker in (("greedy", "#4477aa", "o"), ("sampled", "#ee8866", "s")):
    points = [measured[name, budget] for budget in (*budgets, None)]
    bounds = [wilson(round(share * count), count) for share, _ in points]
    bounded = list(zip(points, bounds, strict=True))
    below = [max(0, share - low) for (share, _), (low, _) in bounded]
    errors = [below, [max(0, high - share) for (share, _), (_, high) in bounded]]
    places = [
        place + (0.12 if marker == "s" else -0.12) for place in range(len(points))
    ]
    shares = [share for share, _ in points]
    axes[0].errorbar(
        places,
        shares,
        errors,
        fmt=f"{marker}-",
        color=color,
        capsize=2,
        label=names[name],
    )
    axes[1].plot([tokens for _, tokens in points], shares, f"{marker}-", color=color)
    off, cost = measured[name, "off"]
    label = say(f"{names[name]}，不思考", f"{names[name]}, no thinking")
    axes[0].axhline(off, color=color, linestyle=":", label=label)
    axes[1].plot(cost, off, marker, color=color, fillstyle="none", markersize=9)
axes[0].set_xticks(range(len(budgets) + 1), [*budgets, "none"])
axes[0].set(
    xlabel=say("思考预算（词元）", "thinking budget, tokens"),
    ylabel=say("正确率", "accuracy"),
    ylim=(0, 1.05),
    title=say(f"{count} 道留出的题", f"{count} held-out problems"),
)
axes[1].set(
    xlabel=say("每道题生成的词元", "tokens generated per problem"),
    title=say(f"{folder.name}：空心是不思考", f"{folder.name}: hollow is no thinking"),
)
axes[0].legend(loc="lower right", fontsize=8)
figure

# %% [markdown] lang="zh" key="experiment-read" facts="34.7 58.1 10.0 8.0 4.7 8,192"
# <details><summary>读图</summary>
#
# B。左边横轴是预算（`none` 是不设上限），竖线是置信区间，点线是不思考；右边的横轴换成实际花掉的词元，空心是不思考。在小模型身上能看到四件事：
#
# - 想完，几乎全对；不思考，只对一两成。逐题配对，只有不思考才对的题几乎没有，`p` 小得可以不计。
# - 曲线不是均匀上升的。预算太小，等于白想：词元多花了，正确率和不思考一样。
# - 每道题需要的长度不同。一道题给够了，就从猜变成对；许多道题的台阶叠起来，就是这条曲线。
# - 想完时，贪心和 0.6 比不出高下：只有一种做法对的题至多几道，`p` 远大于 0.05。
#
# </details>
#
# 真正的 Qwen3 思考时不要用贪心解码，[模型卡](https://huggingface.co/Qwen/Qwen3-8B)说它会没完没了地重复；小模型的思考太短，看不到这一点。
#
# **这个小模型的数据，就是为了显出这种差别而造的**：思考里写着中间结果，30% 被截断。它说明道理，不说明 Qwen3 有多强。真正的 Qwen3-8B，报告里的数字是（[技术报告](https://arxiv.org/abs/2505.09388)表 17、18、23）：
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
# - 竞赛数学、编程和逻辑题得益最多，多 34.7 到 58.1 分。
# - 本来就做得好的 MATH-500 多 10.0 分，知识题多 8.0 分，听从格式要求只多 2.0 分。
# - 长文检索反而**更差**，少 4.7 分。报告说“略有下降”，猜测是思考干扰了检索。测这一项时，用 YaRN 把上下文放大到 4 倍，思考限在 8,192 个词元以内。
#
# **选读。** 报告图 2 画了 235B 的预算曲线，也是越多越好，横轴却是几千到三万多个词元。8B 是从大模型蒸馏来的，报告没有画它的曲线。
#
# ### 练习 2 ★★☆（8 分钟）：选一个预算
#
# 想完全部要花很多词元。用你自己的测量，选出**最小**的预算，它的正确率至少是完整思考的 `share` 倍。
#
# `accuracy` 是字典，从预算查正确率；键 `None` 是不设上限，也就是完整思考。没有一个够，就返回 `None`。
#
# <details><summary>提示</summary>
#
# 门槛是 `share * accuracy[None]`。先留下够格的预算（`None` 不算），再取最小的。
#
# </details>

# %% [markdown] lang="en" key="experiment-read" facts="34.7 58.1 10.0 8.0 4.7 8,192"
# <details><summary>Reading the figure</summary>
#
# B. On the left against the budget (`none` is no limit), with confidence intervals, and dotted lines for no thinking; on the right against the tokens really spent, hollow for no thinking. Four things to see in the tiny model:
#
# - With whole thoughts almost everything is right, without thinking one or two in ten. Paired, there is hardly a problem that only "no thinking" got right, and `p` is next to nothing.
# - The curve does not rise evenly. A budget that is too small is wasted: more tokens, and no more right answers than without thinking.
# - Each problem needs its own length. One that gets enough turns from guessed to right; the steps of many problems, laid on each other, make this curve.
# - Whole thoughts, greedy against 0.6, cannot be told apart: at most a handful of problems were right in only one way, and `p` is far above 0.05.
#
# </details>
#
# A real Qwen3 should not think with greedy decoding: it repeats itself without end, says its [model card](https://huggingface.co/Qwen/Qwen3-8B). The thoughts of a tiny model are too short to show that.
#
# **The tiny model's data was built to show this difference**: thoughts hold the intermediate results, and 30% of them are cut. It explains how thinking helps and says nothing about how good Qwen3 is. For the real Qwen3-8B the report gives (tables 17, 18 and 23 of the [technical report](https://arxiv.org/abs/2505.09388)):
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
# - Contest mathematics, programming and logic gain most, 34.7 to 58.1 points.
# - MATH-500, where the model was good already, gains 10.0, knowledge 8.0, following a required form only 2.0.
# - Retrieval in long texts gets **worse**, by 4.7 points. The report calls that slightly degraded and supposes that thoughts interfere with retrieval. For this test YaRN stretched the context by 4, and thoughts were capped at 8,192 tokens.
#
# **Extra.** Its figure 2 has the budget curve of 235B: more is better there too, but the axis runs over thousands of tokens, past thirty thousand. 8B was distilled from larger ones, and the report draws no curve for it.
#
# ### Exercise 2 ★★☆ (8 minutes): choose a budget
#
# Whole thoughts cost many tokens. From your own measurement, choose the **smallest** budget whose accuracy is at least `share` of that of whole thoughts.
#
# `accuracy` is a dictionary from budget to accuracy; the key `None` is no limit, that is, whole thoughts. If no budget is enough, return `None`.
#
# <details><summary>Hint</summary>
#
# The bar is `share * accuracy[None]`. Keep the budgets that clear it (`None` is none of them), then take the smallest.
#
# </details>


# %% key="ex2" tags=["exercise"]
def choose_budget(accuracy, share):
    return ...


# %% key="ex2-solution" tags=["solution"]
def choose_budget(accuracy, share):  # noqa: F811
    bar = share * accuracy[None]
    enough = []
    for budget, value in accuracy.items():
        if budget is not None and value >= bar:
            enough.append(budget)
    return min(enough, default=None)


# %% key="ex2-check"
accuracy = {budget: measured["greedy", budget][0] for budget in (*budgets, None)}
l06.ex2.check(choose_budget, accuracy)

# %% [markdown] lang="zh" key="recall-text"
# ## 什么时候不该思考（选读）
#
# 有的题没有步骤可算，只看记不记得。下一格问各国的首都。
#
# **先选一个。** 思考和不思考，哪一种对得多？
#
# - A. 思考
# - B. 不思考
# - C. 一样多，思考花的词元更多

# %% [markdown] lang="en" key="recall-text"
# ## When not to think (extra)
#
# Some questions have no steps to work out; one remembers the answer or does not. The next cell asks for capitals.
#
# **Choose first.** Which gets more of them right, thinking or not?
#
# - A. Thinking
# - B. Not thinking
# - C. Neither, but thinking takes more tokens

# %% key="recall" tags=["extra", "varies"]
capitals = texts()["capitals"]["pairs"][:most]
questions = [
    say(f"{zh}的首都是哪里？", f"What is the capital of {en}?")
    for zh, _, en, _ in capitals
]
cities = [say(zh, en) for _, zh, _, en in capitals]
conversations = [[user(question)] for question in questions]
for enabled in (True, False):
    params = SamplingParams(**recommended, max_tokens=limit)
    template = {"enable_thinking": enabled}
    outputs = llm.chat(
        conversations, params, chat_template_kwargs=template, use_tqdm=False
    )
    right = sum(
        city in (split(out).answer or "")
        for out, city in zip(outputs, cities, strict=True)
    )
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs) / len(outputs)
    # zh: 答对的题数，平均每题的词元数
    # en: right answers, and tokens of an answer on average
    print(f"enable_thinking={enabled!s:5}  {right}/{len(outputs)}  {tokens:.0f} tokens")

# %% [markdown] lang="zh" key="history-text"
# <details><summary>读结果</summary>
#
# C。可是真正的 Qwen3 做知识题，思考确实有好处（上表的 MMLU-Redux），所以不能只看题目的种类。
#
# </details>
#
# 这些活值得先试不思考：抽取和分类，格式转换，要马上出第一个字的聊天，长文检索；还有你会逐条核对、错了重来也不费事的活。怎样判断？用本课的办法：拿自己的题，两种模式各跑一遍，逐题配对。
#
# ## 多轮对话：思考要不要带回去？
#
# 模板会去掉历史里的思考。自己拼提示词的人，却常把上一轮的输出原样接回去。下面每段对话先有几轮乘法，最后问“再加 37 呢？”。一种去掉思考，一种原样带回。
#
# **先选一个。** 哪一种对得多？小模型训练时，历史里从来没有思考。
#
# - A. 去掉思考
# - B. 带回思考：它能参考前面的步骤
# - C. 一样

# %% [markdown] lang="en" key="history-text"
# <details><summary>Reading</summary>
#
# C. Yet a real Qwen3 does gain on questions of knowledge by thinking (MMLU-Redux in the table above), so the kind of question alone does not decide it.
#
# </details>
#
# Worth trying without thinking first: extraction and classification, changes of format, chats whose first word must come at once, retrieval in long texts; and work that you check item by item and can cheaply repeat. How to decide? As in this lesson: your own problems, both modes, paired.
#
# ## Several turns: send the thoughts back?
#
# The template drops thoughts from the history. Those who build prompts themselves often append the last output as it was. Each conversation below has some turns of products and then asks "What if I add 37?". One way drops the thoughts, the other sends them back.
#
# **Choose first.** Which gets more right? In the tiny model's training, no history held a thought.
#
# - A. Dropped
# - B. Sent back: it can look at the earlier steps
# - C. Both the same

# %% key="history" tags=["varies"]
talks = [
    [draw_problem("product", draw, test=True) for _ in range(4)]
    for _ in range(min(count, 40))
]
plus = user(say("再加 37 呢？", "What if I add 37?"))
ways = {
    "dropped": say("去掉思考", "thoughts dropped"),
    "sent": say("带回思考", "thoughts sent back"),
}
turns_back = {}
print(say("轮数 | 答对 | 提示词的词元", "turns | right | tokens of the prompt"))
for rounds in (1, 2, 4):
    for way in ways:
        prompts = []
        for talk in talks:
            text = ""
            for problem in talk[:rounds]:
                thought = (
                    f"<think>\n{problem.thought}\n</think>\n\n" if way == "sent" else ""
                )
                reply = f"{thought}{problem.expression}={problem.result}"
                text += f"<|im_start|>user\n{problem.expression}=?<|im_end|>\n"
                text += f"<|im_start|>assistant\n{reply}<|im_end|>\n"
            prompts.append(text + render([plus]))
        outputs = llm.generate(
            prompts, SamplingParams(**greedy, max_tokens=limit), use_tqdm=False
        )
        right = [
            is_right(out, talk[rounds - 1].result + 37)
            for out, talk in zip(outputs, talks, strict=True)
        ]
        length = sum(len(output.prompt_token_ids) for output in outputs) / len(outputs)
        turns_back[rounds, way] = sum(right) / len(right)
        print(f"{rounds} | {sum(right):2}/{len(right)} | {length:3.0f} | {ways[way]}")
if models.is_bundled(folder) and len(talks) >= 20:
    assert turns_back[4, "dropped"] > turns_back[4, "sent"] + 0.3

# %% [markdown] lang="zh" key="history-read"
# <details><summary>读结果</summary>
#
# A。带回思考，提示词长到约两倍，甚至更多；带的越多，错得越多，最后全错。真正的 Qwen3 会错多少，本课没有量。
#
# </details>
#
# [模型卡](https://huggingface.co/Qwen/Qwen3-8B)的建议是：历史里只放最后的答案。不然，提示词要多付钱，上下文也被占掉，哪个模型都一样。
#
# ## 释放引擎

# %% [markdown] lang="en" key="history-read"
# <details><summary>Reading</summary>
#
# A. With thoughts sent back the prompt is about twice as long, or more; the more there are, the more it gets wrong, until all of it is. How much a real Qwen3 would get wrong was not measured here.
#
# </details>
#
# The [model card](https://huggingface.co/Qwen/Qwen3-8B) recommends that the history hold the final answers only. Otherwise one pays for longer prompts and loses context, with any model.
#
# ## Release the engine

# %% key="close"
close_engine()
print(type(llm).__name__)

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 开关都在提示词里：硬开关写好一个空思考块，软开关是用户的话；拼错的参数名不报错。
# - 答案在最后一个 `</think>` 之后；思考没写完，就没有答案。
# - `thinking_token_budget` 到数就断；太小的预算白花词元。
# - 竞赛数学、编程、逻辑题，思考换来最多；知识题也有一些；听从格式几乎没有；长文检索反而更差。
# - 历史里不带思考；只有工具调用那一串例外，模板会处理。
#
# ## 自测
#
# 1. `/no_think` 之后，为什么输出里还有 `<think>`？
# 2. 输出里没有 `</think>`，`finish_reason` 是 `length`：答案是什么？
# 3. 预算 16，一道题的思考要 20 个词元，正确率会是完整思考的八成吗？
# 4. 同样 100 道题，一种做法对了 60 道，另一种对了 68 道：后者更好吗？还要知道什么？
# 5. 为什么工具结果回来之后，这一串里的思考要留着？
#
# <details><summary>答案</summary>
#
# 1. 软开关由模型执行：它写一个空的思考块，再答。
# 2. 没有答案：思考被截断了，加大 `max_tokens`，或给一个预算。
# 3. 不会成比例。最后几步没写出来，答案多半还是猜的。
# 4. 要逐题配对才知道。只有后者对的 8 道、只有前者对的 0 道：p 约 0.008，后者更好。只有后者对的 28 道、只有前者对的 20 道：p 约 0.31，说不准。
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
# | 预算不起作用 | 关了思考，没有 `<think>` 可数 | 打开思考 |
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
# - Thinking buys most in contest mathematics, programming and logic, something in knowledge, next to nothing in following a form, and harm in long-text retrieval.
# - Histories carry no thoughts; only a chain of tool calls is an exception, and the template sees to it.
#
# ## Test yourself
#
# 1. Why is there still a `<think>` in the output after `/no_think`?
# 2. An output has no `</think>`, and its `finish_reason` is `length`: what is the answer?
# 3. A budget of 16, a thought that takes 20 tokens: will accuracy be eight tenths of that of whole thoughts?
# 4. Of the same 100 problems one way gets 60 right and another 68: is the second better? What else must you know?
# 5. Once a tool's result is back, why are the thoughts of that chain kept?
#
# <details><summary>Answers</summary>
#
# 1. The model carries out the soft switch: it writes an empty think block and answers.
# 2. There is none: the thought was cut. Raise `max_tokens`, or set a budget.
# 3. Not in proportion. With the last steps missing, most answers are still guesses.
# 4. Only the pairs tell. If 8 are right only in the second way and 0 only in the first, p is about 0.008 and the second is better. If it is 28 against 20, p is about 0.31 and one cannot tell.
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
# | a budget has no effect | thinking is off, there is no `<think>` to count from | switch thinking on |
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
