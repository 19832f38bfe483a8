"""Lesson 06: its problems and figure, taking an output apart that may have been cut, choosing a thinking budget."""

import math
import random
import re
from functools import partial
from itertools import product, takewhile

from helpers.check import Exercise
from helpers.design import LIGHT
from helpers.figures import figure
from helpers.language import say
from helpers.lessons.arithmetic import Problem, draw_problem
from helpers.lessons.texts import texts

# ---------------------------------------------------------------------------------------------- the experiment


def draw_problems(count: int) -> list[Problem]:
    """Two long sums, then a product of two-digit numbers, and so on: always the same, and no tiny model saw them."""
    draw = random.Random("lesson 06")
    return [draw_problem(("chain", "chain", "product")[number % 3], draw, test=True) for number in range(count)]


def draw_capitals(count: int) -> tuple[list[str], list[str]]:
    """Questions for capitals in the page's language, and the cities."""
    pairs = texts()["capitals"]["pairs"][:count]
    questions = [say(f"{zh}的首都是哪里？", f"What is the capital of {en}?") for zh, _, en, _ in pairs]
    return questions, [say(zh, en) for _, zh, _, en in pairs]


def draw_talks(problems: list[Problem], turns: int) -> list[list[Problem]]:
    """For each product among the problems, a talk that asks it and the next ones, ``turns`` in all."""
    products = [problem for problem in problems if problem.operation == "×"] or problems
    return [(products * turns)[place : place + turns] for place in range(len(products))]


def last_number(text: str | None) -> str:
    """The last whole number of a text, without commas; empty where there is none."""
    return ([""] + re.findall(r"\d+", (text or "").replace(",", "")))[-1]


def sign_test(first: int, second: int) -> float:
    """How often luck alone makes a difference as large: a fair coin that falls first + second times."""
    total = first + second
    ways = sum(math.comb(total, heads) for heads in range(min(first, second) + 1))
    return min(1, 2 * ways / 2**total)


def interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's, of a share: where the true one lies, 19 times in 20."""
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / total + spread / total / 4) ** 0.5
    return middle - half, middle + half


def budget_curve(right: dict, cost: dict):
    """Accuracy over the budget, with intervals, and over the tokens of a problem.

    right: by budget, the verdicts on the problems; None is no limit, "off" no thinking. cost: tokens, by the same keys.
    """
    budgets = [budget for budget in right if budget != "off"]
    total = len(right["off"])
    shares = {budget: sum(verdicts) / total for budget, verdicts in right.items()}
    bounds = [interval(sum(right[budget]), total) for budget in budgets]
    curve = [shares[budget] for budget in budgets]
    below = [max(0, share - low) for share, (low, _) in zip(curve, bounds, strict=True)]
    above = [max(0, high - share) for share, (_, high) in zip(curve, bounds, strict=True)]
    on, off = LIGHT["first"], LIGHT["second"]

    drawn, axes = figure(1, 2, height=2.9, sharey=True)
    axes[0].errorbar(range(len(budgets)), curve, [below, above], fmt="o-", color=on, capsize=2)
    axes[0].axhline(shares["off"], color=off, linestyle=":")
    axes[0].set_xticks(range(len(budgets)), [say("不限", "none") if budget is None else budget for budget in budgets])
    axes[1].plot([cost[budget] for budget in budgets], curve, "o-", color=on, label=say("思考", "thinking"))
    axes[1].plot(cost["off"], shares["off"], "s", color=off, label=say("不思考", "no thinking"))
    axes[0].set(
        xlabel=say("思考预算（词元）", "thinking budget, tokens"),
        ylabel=say(f"正确率（{total} 道题）", f"accuracy, {total} problems"),
        ylim=(0, 1.05),
    )
    axes[1].set(xlabel=say("每道题生成的词元", "tokens per problem"), xlim=(0, None))
    axes[1].legend(loc="upper left")
    return drawn


# ---------------------------------------------------------------------------------------------- exercise 1

THINK, END = 7, 8


def split_ids(
    token_ids, think, end, *, cut=lambda thought: (thought, None), none=None, first=False, drop=(THINK,), skip=1
):
    """cut: what half a thought gives, none: no thought at all; drop: tags that do not stay in a thought."""
    ids = list(token_ids)
    if end in ids:
        at = ids.index(end) if first else len(ids) - 1 - ids[::-1].index(end)
        return [token for token in ids[:at] if token not in drop], ids[at + skip :]
    if think in ids:
        return cut([token for token in ids if token not in drop])
    return none(ids) if none else (None, ids)


def without_the_first(token_ids, think, end, **wrong):
    thought, answer = split_ids(token_ids, think, end, drop=(), **wrong)
    return thought and thought[1:], answer


def by_turns(token_ids, think, end):
    parts: tuple[list, list] = ([], [])
    for token in (end, *token_ids):
        if token in (think, end):
            into = parts[token == end]  # each tag says where the next tokens go
        else:
            into.append(token)
    return parts


CUT = ("{case[0]} 没有 </think>：思考被截断了，答案应该是 None，不是半截思考。",
       "{case[0]} has no </think>: the thought was cut, so the answer is None and not half a thought.")  # fmt: skip
NO_THOUGHT = ("{case[0]} 里两个标签都没有：模型没有思考，全部是答案。",
              "{case[0]} has neither tag: the model did not think, and all of it is the answer.")  # fmt: skip
EMPTY = "{case[0]}：没有的那一份是 None，不是空列表。", "{case[0]}: what there is not is None, not an empty list."
FINISHED = ("(7, 1, 8) 的思考写完了，答案还没有开始：答案是空列表，不是 None。",
            "(7, 1, 8) is a whole thought with nothing behind it: the answer is an empty list, not None.")  # fmt: skip
TAGS = "{case[0]}：标签本身不属于思考，也不属于答案。", "{case[0]}: the tags belong to neither part."

WITHOUT_END = ("没有 </think> 时：有 <think> 就是没想完，否则全部是答案；标签不放进结果。",
               "without </think>: with <think> it is half a thought, else all is the answer; no tags.")  # fmt: skip

ex1 = Exercise(
    right=split_ids,
    cases=[
        (ids, THINK, END)
        for ids in ((7, 1, 2, 8, 3, 4), (7, 1, 2), (3, 4), (7, 1, 8, 2, 8, 3), (1, 2, 8, 3), (7, 1, 8))
    ],
    start=("先看 end 在不在 token_ids 里：在，就从最后一个 end 分开。",
           "see first whether end is in token_ids: if so, split at the last one."),
    mistakes=[
        *[(partial(split_ids, drop=drop, **wrong), *hint) for drop, (wrong, hint) in product(((THINK,), (THINK, END)), (
            ({"cut": lambda thought: (None, thought)}, CUT),
            ({"cut": lambda thought: (None, [THINK, *thought])}, CUT),
            ({"cut": lambda thought: ([], thought)}, CUT),
            ({"cut": lambda thought: (thought, [])}, EMPTY),
            ({"none": lambda ids: (ids, None)}, NO_THOUGHT),
            ({"none": lambda ids: ([], ids)}, EMPTY),
            ({"skip": 0}, TAGS)))],
        *[(lambda *case, drop=drop: tuple(part or None for part in split_ids(*case, drop=drop)), *FINISHED)
          for drop in ((THINK,), (THINK, END))],
        (without_the_first, "{case[0]} 不以 <think> 开头：只去掉 <think>，不是去掉第一个。",
         "{case[0]} does not begin with <think>: leave <think> out, not whatever comes first."),
        (lambda ids, *tags: split_ids(ids, *tags) if THINK in ids else (None, list(ids)),
         "{case[0]} 没有 <think>，却有 </think>：先找 end，再看 think。",
         "{case[0]} has no <think>, and yet a </think>: look for end first, then for think."),
        (by_turns, "见到标签就换一边还不够：先找最后一个 </think>；缺了它，思考或答案是 None。",
         "to change sides at each tag is not enough: find the last </think> first; without it, a part is None."),
        (partial(split_ids, cut=lambda thought: (None, None)), "{case[0]}：写出来的半截是思考，只有答案是 None。",
         "{case[0]}: what was written is the thought; the answer alone is None."),
        (partial(split_ids, cut=lambda thought: ([THINK, *thought], None), none=lambda ids: (ids, None)), *WITHOUT_END),
        (partial(split_ids, drop=(), skip=0, cut=lambda thought: (None, thought)), *TAGS),
        *[(wrong, "从第一个 </think> 分开了；要用最后一个。", "this splits at the first </think>; take the last.")
          for wrong in (partial(split_ids, first=True), partial(without_the_first, first=True))],
        (partial(split_ids, drop=()), *TAGS),
        (partial(split_ids, drop=(), cut=lambda thought: (thought[1:], None)), *TAGS),
        (partial(split_ids, cut=lambda thought: ([THINK, *thought], None)), *TAGS),
        (partial(split_ids, drop=(), skip=0), *TAGS),
        (partial(split_ids, drop=(THINK, END)), "思考里面的 </think> 是思考的一部分：只在最后一个分开，前面的留着。",
         "a </think> inside the thought belongs to it: split at the last one, and leave those before it."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2

BUDGETS = [
    {8: 0.2, 16: 0.4, 32: 0.7, 64: 0.8, None: 0.8},
    {64: 0.9, 8: 0.1, 32: 0.85, 16: 0.2, None: 0.9},  # not in order
    {8: 0.5, 16: 0.45, 32: 0.6, None: 0.6},  # up and down
    {0: 0.5, 16: 0.7, 32: 0.9, None: 0.8},  # better with a budget, and one of 0
]


def enough(accuracy, share, bar=lambda accuracy, share: share * accuracy[None], none=False, above=False):
    line = bar(accuracy, share)
    return [
        budget
        for budget, value in accuracy.items()
        if (none or budget is not None) and (value > line if above else value >= line)
    ]


def choose_budget(accuracy, share, default=None, pick=min, **line):
    return pick(enough(accuracy, share, **line), default=default)


def downwards(accuracy, share):
    """Goes down from the largest as long as a budget is enough."""
    budgets = sorted(accuracy.keys() - {None}, reverse=True)
    return min(takewhile(enough(accuracy, share).__contains__, budgets), default=None)


def budget_cases(measured=None):
    """measured: a table of the learner's own."""
    tables = [*BUDGETS, *([measured] if measured else [])]
    return [(accuracy, share) for accuracy, share in product(tables, (0.5, 0.8, 0.95, 1.2))]


SMALLEST = "{given} 够了，但不是最小的（{case[0]}）。", "{given} is enough, but not the smallest ({case[0]})."
NONE = ("share={case[1]} 时没有一个预算够（{case[0]}），应该返回 None。",
        "with share={case[1]} no budget is enough ({case[0]}): return None.")  # fmt: skip

ex2 = Exercise(
    right=choose_budget,
    cases=budget_cases,
    start=("门槛是 share * accuracy[None]；在够格的预算里取最小的。",
           "the bar is share * accuracy[None]; take the smallest budget that clears it."),
    mistakes=[
        (partial(choose_budget, pick=max), *SMALLEST),
        (partial(choose_budget, pick=lambda budgets, default: next(iter(budgets), default)), *SMALLEST),
        (partial(choose_budget, bar=lambda accuracy, share: share),
         "share 直接当成了正确率；它是完整思考的正确率 accuracy[None] 的倍数。",
         "share was taken for an accuracy; it is a share of accuracy[None], that of whole thoughts."),
        *[(wrong, *NONE) for wrong in (
            partial(choose_budget, default=8), partial(choose_budget, default=0),
            lambda accuracy, share: choose_budget(accuracy, share, max(key for key in accuracy if key)),
            lambda accuracy, share: min(enough(accuracy, share)))],
        *[(wrong, "None 是不设预算的那一行，不能和数字比大小：先去掉它。",
           "None stands for no budget and does not compare with numbers: leave it out.")
          for wrong in (partial(choose_budget, none=True), lambda accuracy, share: sorted(accuracy))],
        (lambda accuracy, share: next(iter(accuracy)) if next(iter(accuracy)) in enough(accuracy, share) else None,
         "只看了第一个预算就返回了：要把它们都看完。", "this returns after the first budget: look at all of them."),
        (lambda accuracy, share: min(map(accuracy.get, enough(accuracy, share)), default=None),
         "{given} 是正确率；要返回的是预算。", "{given} is an accuracy; return the budget."),
        (partial(choose_budget, bar=lambda accuracy, share: accuracy[None] / share),
         "share 乘的是 accuracy[None]，不是每个预算的正确率。",
         "share multiplies accuracy[None], not the accuracy of each budget."),
        (partial(choose_budget, bar=lambda accuracy, share: share * max(accuracy.values())),
         "门槛要用完整思考的正确率 accuracy[None]，不是最好的那个。",
         "the bar is a share of accuracy[None], that of whole thoughts, not of the best."),
        (lambda accuracy, share: min(filter(None, enough(accuracy, share)), default=None),
         "0 也是预算：if budget 把它也去掉了，写 budget is not None。",
         "0 is a budget too, and if budget leaves it out: write budget is not None."),
        (downwards, "{case[0]}：更大的预算够不够不要紧，取最小的够格的。",
         "{case[0]}: larger budgets need not clear the bar; take the smallest that does."),
        (partial(choose_budget, above=True), "刚好到门槛也够：用 >=，不用 >。",
         "what is just at the bar is enough: use >=, not >."),
    ],
)  # fmt: skip
