"""Lesson A1: what stays out of training, the targets, the balancing loss, the budget, and the capstone."""

import inspect
import random
from functools import partial
from operator import ge, gt

from helpers.check import Exercise
from helpers.lessons import balance
from helpers.lessons.arithmetic import held_out
from helpers.lessons.lA1.problems import PAIRS, kinds


# ---------------------------------------------------------------------------------------------- exercise 1
def verdict(held_out):
    """The first fault of a choice of questions, with its figures; any choice without a fault is right."""
    found, again = ({pair: bool(held_out(*pair)) for pair in PAIRS} for _ in range(2))
    if found != again:
        return ("twice",)
    names = getattr(getattr(inspect.unwrap(held_out), "__code__", None), "co_names", ())
    if "hash" in names and {"str", "repr", "map", "join", "format"}.intersection(names):
        return ("hash",)
    if any(bool(held_out(b, a)) != kept for (a, b), kept in found.items()):
        return ("order",)
    if not 0.09 < (share := sum(found.values()) / len(found)) < 0.16:
        return "share", share
    for kind, pairs in kinds().items():
        if sum(found[pair] for pair in pairs) > len(pairs) / 2:
            return kind
    try:
        if any(bool(held_out(7, n, 3 * n)) != bool(held_out(3 * n, 7, n)) for n in range(10, 99)):
            return ("order of three",)
    except Exception as error:
        return "three", error
    return ("none",)


PATTERN = (
    "留出的题有规律（由 {given[0]} 除以 {given[1]} 的余数决定），训练就少了整整一类题；用摘要打散。",
    "what is held out follows {given[0]} modulo {given[1]}, so training lacks a whole kind of question; "
    "a digest scatters them.",
)

ex1 = Exercise(
    right=held_out,
    cases=[()],
    ask=verdict,
    same=lambda given, wanted: given[0] == wanted[0],
    start=(
        "先把操作数排好序，拼成文本，再用 hashlib.sha256 取一个字节，看它能不能被 8 整除。",
        "sort the operands, join them into a text, take one byte of its hashlib.sha256 and see whether 8 divides it."),
    mistakes=[
        (lambda *operands: random.random() < 1 / 8, "同一道题问两次，答案不同：不要用随机数，用摘要。",
         "the same question gives two answers: use a digest, not random numbers."),
        (lambda *operands: hash(str(sorted(operands))) % 8 == 0,
         "内置的 hash 对字符串每次启动 Python 都不同；用 hashlib。",
         "the built-in hash of a string differs at every start of Python; use hashlib."),
        (lambda *operands: held_out(*[n + 1000 * place for place, n in enumerate(operands)]),
         "37×46 和 46×37 得到不同的答案：先排序。",
         "37×46 and 46×37 get different answers: sort the operands first."),
        (lambda *operands: not held_out(*operands), "留出了 {given[1]:.0%}，应当是八分之一左右。",
         "{given[1]:.0%} are held out; one in eight is wanted."),
        (lambda *operands: max(operands) > 93,
         "和 {given[1]} 有关的题几乎全被留出，模型就没见过这个数；要打散，用摘要。",
         "nearly all with {given[1]} is held out, so the model never meets it; a digest scatters them."),
        (lambda *operands: sum(operands) % 8 == 0, *PATTERN),
        (lambda *operands: operands[0] * operands[1] % 7 == 3, *PATTERN),
        (lambda *operands: abs(operands[0] - operands[1]) % 8 == 3, *PATTERN),
        (lambda a, b, *more: held_out(a, b, *[n + 1000 for n in more]),
         "三个操作数换个次序，答案就变了：把它们全部排序，不只是前两个。",
         "three operands in another order get another answer: sort all of them, not just the first two."),
        (lambda a, b: held_out(a, b), "一道题可以有三个操作数：收下任意几个，写 *operands。（{given[1]}）",
         "a question may have three operands: take any number, as *operands. ({given[1]})"),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2
def make_targets(ids, start, silent, *, first=1, late=0, shift=0):
    """first: position of the first target; late: how much after start they begin; shift: of positions in silent."""
    return [ids[i] if i >= start + late and i - shift not in silent else -100 for i in range(first, len(ids))]


def as_list(solution, *case):
    result = solution(*case)
    return result.tolist() if hasattr(result, "tolist") else result  # a tensor of numbers is as good


NO_SHIFT = "没有错开：位置 i 的目标是第 i + 1 个词元。", "there is no shift: the target at i is the token at i + 1."
PROMPT = "提示词也算了损失：start 之前写 -100。", "the prompt carries loss: -100 before start."
LENGTH = ("长度应当比 ids 短 1：最后一个词元之后没有可猜的。",
          "the length should be 1 below that of ids: nothing follows the last token.")  # fmt: skip

ex2 = Exercise(
    right=make_targets,
    cases=[([11, 12, 13, 14, 15, 16, 17], 3, {5}), ([21, 22, 23, 24], 2, set()), ([1, 5, 2, 4, 3, 6], 2, {3})],
    ask=as_list,
    start=("走过 i = 1, 2, …：第 i 个词元该由模型写就放 ids[i]，否则放 -100。",
           "go through i = 1, 2, ...: ids[i] where the model must write it, else -100."),
    mistakes=[
        (partial(make_targets, first=0), *NO_SHIFT),
        (lambda *case: make_targets(*case, first=0)[:-1], *NO_SHIFT),
        (lambda *case: [*make_targets(*case), -100], *LENGTH),
        (lambda *case: [*make_targets(*case), case[0][-1]], *LENGTH),
        (lambda ids, start, silent: ids[1:], *PROMPT),
        (lambda ids, start, silent: make_targets(ids, 0, silent), *PROMPT),
        (lambda ids, start, silent: make_targets(ids, start, ()), "silent 里的词元不该算损失。",
         "tokens in silent must not carry loss."),
        (lambda ids, start, silent: make_targets(ids, start, [i for i in range(len(ids)) if ids[i] in silent]),
         "silent 里是位置，不是词元编号。", "silent holds positions, not token ids."),
        (lambda *case: [token for token in make_targets(*case) if token != -100],
         "不算损失的位置也要占一格：写 -100，不要跳过。",
         "a position without loss has its place in the list, too: write -100 instead of leaving it out."),
        (partial(make_targets, late=1), "少了一个：位置 start 的词元也该由模型写。",
         "one is missing: the token at start is the model's too."),
        (partial(make_targets, late=-1), "多了一个：位置 start 之前的词元是提示词，不算损失。",
         "one too many: the token before start belongs to the prompt and carries no loss."),
        (partial(make_targets, shift=1), "silent 是词元自己的位置，不是它前一个的。",
         "silent names the token's own position, not the one before it."),
        (partial(make_targets, shift=-1), "silent 是词元自己的位置，不是它后一个的。",
         "silent names the token's own position, not the one after it."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 3
ex3 = balance.of_load


# ---------------------------------------------------------------------------------------------- exercise 4
def table(*rows):
    return [dict(zip(("budget", "right", "tokens"), row, strict=True)) for row in rows]


ROWS = table((None, 0.98, 61.0), (0, 0.30, 9.0), (48, 0.90, 44.0), (64, 0.97, 55.0), (32, 0.60, 33.0))
# Here a larger budget took fewer tokens, and a tenth of the best is less than 0.1.
OTHER_ROWS = table((64, 0.80, 52.0), (96, 0.80, 50.0), (48, 0.71, 40.0), (None, 0.79, 60.0))


def most(measured):
    return max(row["right"] for row in measured)


def choose_budget(measured, loss, least=lambda row: row["tokens"], what=lambda row: row["budget"], best=most, over=ge):
    return what(min((row for row in measured if over(row["right"], best(measured) - loss)), key=least))


ex4 = Exercise(
    right=choose_budget,
    cases={
        **{f"allowed_loss={loss}": (ROWS, loss) for loss in (0.1, 0.02, 0.0, 1.0)},
        "allowed_loss=0.1, budget=0, 48, 64, 32": (ROWS[1:], 0.1),
        **{f"allowed_loss={loss}, tokens(96) < tokens(64)": (OTHER_ROWS, loss) for loss in (0.1, 0.05)},
    },
    start=("最好的 right 减去 allowed_loss 是及格线；及格的里面按 tokens 取最小。",
           "the best right less allowed_loss is the line; of those above it, take the smallest by tokens."),
    mistakes=[
        *[(partial(choose_budget, what=dict, best=best), "返回那一行的 budget，不是整行。",
           "return the row's budget, not the row.") for best in (most, lambda rows: 0)],
        (lambda measured, allowed_loss: 0, "选了最省的，没管正确率够不够。",
         "this is the cheapest, whether or not it is good enough."),
        (lambda measured, allowed_loss: max(row["budget"] or 0 for row in measured),
         "48 也在允许的范围里（0.90 对 0.98），而且更省。",
         "48 is within what is allowed (0.90 to 0.98), and cheaper."),
        (partial(choose_budget, least=lambda row: -row["right"]), "选了最准的；够好的里面要最省词元的。",
         "this is the one that is right most often; of those good enough, the cheapest is wanted."),
        (partial(choose_budget, over=gt), "正好在线上也够好：用 >=。", "on the line is good enough: use >=, not >."),
        (lambda measured, loss: choose_budget(measured, loss * most(measured)),
         "allowed_loss 是差，不是比例：线是 best - allowed_loss。",
         "allowed_loss is a difference and not a share: the line is best - allowed_loss."),
        (partial(choose_budget, least=lambda row: 0), "取了列表里第一个够好的；要的是 tokens 最小的，次序不定。",
         "this is the first good one of the list, which is in any order; take the smallest by tokens."),
        (partial(choose_budget, best=lambda rows: rows[-1]["right"]), "最后一行不一定最好：用 max 找最好的 right。",
         "the last row need not be the best: find the best right with max."),
        *[(lambda measured, loss, otherwise=otherwise: choose_budget(
            [*(row for row in measured if row["budget"]), *otherwise], loss, best=lambda rows: most(measured)),
           "预算 None 和 0 也是预算：if budget 把它们去掉了。",
           "None and 0 are budgets too, and if budget leaves them out.")
          for otherwise in ([], [{"budget": None, "right": 1.0, "tokens": 1e9}])],
        (partial(choose_budget, least=lambda row: float("inf") if row["budget"] is None else row["budget"]),
         "取了最小的预算；要的是最省词元的：按 tokens 取最小。",
         "this is the smallest budget; the one that takes the fewest tokens is wanted: go by tokens."),
        *[(wrong, "预算里有 None，不能和数字比大小：按 tokens 取最小。",
           "one budget is None and does not compare with numbers: take the smallest by tokens.") for wrong in (
            lambda measured, allowed_loss: min(row["budget"] for row in measured),
            partial(choose_budget, least=lambda row: row["budget"]))],
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- capstone
REPORT = {"budget": 64, "cases": 40, "right": 0.95, "tokens": 56.0}


def judge(measure):
    """The first fault of two measurements, offline and in service, with its figures."""
    measured, report, choose = measure()
    if choose(measured, 0.2) is ...:  # with the stub of exercise 4 the budget was chosen by nobody
        return ("stand-in",)
    if odd := [row for row in measured if not 0 <= row["right"] <= 1 or row["tokens"] <= 0]:
        return "row", odd[0]
    if report["cases"] < 20:
        return "cases", report["cases"], 1 / report["cases"]
    offline = [row for row in measured if row["budget"] == report["budget"]]
    if not offline:
        return "budget", report["budget"]
    right, tokens = offline[0]["right"], offline[0]["tokens"]
    share = (right + report["right"]) / 2  # the same questions, sampled anew: so three standard errors apart at most
    if abs(report["right"] - right) > 3 * (2 * max(share * (1 - share), 0.02) / report["cases"]) ** 0.5:
        return "right", report["right"], right
    if report["budget"] is not None and report["tokens"] > 1.5 * tokens:
        return "tokens", report["tokens"], tokens
    return ("none",)


capstone = Exercise(
    right=lambda: (ROWS, REPORT, choose_budget),
    cases=[()],
    ask=judge,
    same=lambda given, wanted: given[0] == wanted[0],
    start=("两边都要测：离线一次，上线一次。", "both sides are to be measured: offline and in service."),
    mistakes=[
        (lambda: (ROWS, REPORT, lambda measured, allowed_loss: ...),
         "两边都测到了，但预算是暂代的 64：先做练习 4，再从上线那一格起重新运行。",
         "both sides are measured, but 64 was a stand-in: solve exercise 4, then run again from the serving cell."),
        (lambda: ([ROWS[0] | {"right": 1.2}], REPORT, choose_budget), "这一行不像测出来的：{given[1]}",
         "this row does not look measured: {given[1]}"),
        (lambda: (ROWS, REPORT | {"cases": 5}, choose_budget),
         "只有 {given[1]} 道题，差一道就是 {given[2]:.0%}；至少用 20 道。",
         "only {given[1]} questions, one of them is {given[2]:.0%}; take 20 at least."),
        (lambda: (ROWS, REPORT | {"budget": 50}, choose_budget), "预算 {given[1]} 离线没有试过。",
         "the budget {given[1]} was not tried offline."),
        (lambda: (ROWS, REPORT | {"right": 0.5}, choose_budget),
         "上线后对了 {given[1]:.0%}，离线是 {given[2]:.0%}，差得太多：两边的采样和预算相同吗？",
         "in service {given[1]:.0%} are right, offline {given[2]:.0%}, too far apart: are sampling and "
         "budget the same on both sides?"),
        (lambda: (ROWS, REPORT | {"tokens": 200.0}, choose_budget),
         "上线后每个答案 {given[1]:.0f} 个词元，离线 {given[2]:.0f}：预算没有传到服务器。",
         "in service an answer takes {given[1]:.0f} tokens, offline {given[2]:.0f}: the budget did not "
         "reach the server."),
    ],
)  # fmt: skip
