"""Lesson 09: its questions, the choice of a budget, and the six checks of the report."""

import html
import random
from functools import partial
from operator import ge, gt

from helpers import figures, language
from helpers.check import Exercise
from helpers.design import LIGHT
from helpers.language import say
from helpers.lessons.arithmetic import draw_problem

# ---------------------------------------------------------------------------------------------- the questions
PHRASES = {  # as the tiny models learned them
    "zh": {"chain": "{} 等于多少？", "product": "{} 乘以 {} 等于多少？"},
    "en": {"chain": "What is {}?", "product": "What is {} times {}?"},
}


def draw_questions(count: int) -> list[tuple[str, str]]:
    """(question in the page's language, last number of its answer): products and long sums that no tiny model saw."""
    phrases = PHRASES[language.LANGUAGE or "zh"]
    rng = random.Random(3)
    found: dict[str, str] = {}
    while len(found) < count:
        kind = ("chain", "product")[len(found) % 2]
        problem = draw_problem(kind, rng, test=True)
        parts = problem.operands if kind == "product" else [problem.expression]
        found[phrases[kind].format(*parts)] = str(problem.result)
    return list(found.items())


# ---------------------------------------------------------------------------------------------- exercise 1
def table(*rows):
    return [dict(zip(("budget", "right", "tokens"), row, strict=True)) for row in rows]


ROWS = table((None, 0.98, 61.0), (0, 0.30, 9.0), (48, 0.90, 44.0), (64, 0.97, 55.0), (32, 0.60, 33.0))
# Here a larger budget took fewer tokens, and a tenth of the best is less than 0.1.
OTHER_ROWS = table((64, 0.80, 52.0), (96, 0.80, 50.0), (48, 0.71, 40.0), (None, 0.79, 60.0))


def most(measured):
    return max(row["right"] for row in measured)


def choose_budget(measured, loss, least=lambda row: row["tokens"], what=lambda row: row["budget"], best=most, over=ge):
    return what(min((row for row in measured if over(row["right"], best(measured) - loss)), key=least))


ex1 = Exercise(
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
        (partial(choose_budget, what=lambda row: row["tokens"]), "返回那一行的 budget，不是它的词元数。",
         "return the row's budget, not its tokens."),
        (lambda measured, allowed_loss: 0, "选了最省的，没管正确率够不够。",
         "this is the cheapest, whether or not it is good enough."),
        (lambda measured, allowed_loss: max(row["budget"] or 0 for row in measured),
         "48 也在允许的范围里（0.90 对 0.98），而且更省。",
         "48 is within what is allowed (0.90 to 0.98), and cheaper."),
        (partial(choose_budget, least=lambda row: -row["right"]), "选了最准的；够好的里面要最省词元的。",
         "this is the one that is right most often; of those good enough, the cheapest is wanted."),
        (lambda measured, loss: choose_budget(measured, 0, best=lambda rows: loss),
         "allowed_loss 是比最好的低多少，不是线本身：线是 best - allowed_loss。",
         "allowed_loss is how far below the best, not the line itself: that is best - allowed_loss."),
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


# ---------------------------------------------------------------------------------------------- the report
REPORT = {"budget": 64, "cases": 40, "right": 0.95, "tokens": 56.0, "away": 15.0, "lost": 0, "left": False}


def find_faults(measured, report, choose) -> dict[str, tuple | None]:
    """By check its fault, a name with figures, or None where it holds.

    measured: rows with ``budget``, ``right`` (a share) and ``tokens`` (an answer, on average). report: the same of the
    served run, with ``cases`` (different questions), ``lost`` (questions without an answer after the engine's death),
    ``left`` (whether the server still answers). choose: the learner's exercise 1.
    """
    found = dict.fromkeys(("cases", "budget", "right", "tokens", "lost", "left"))
    if report["cases"] < 20:
        found["cases"] = "cases", report["cases"], 1 / report["cases"]
    tried = [row for row in measured if row["budget"] == report["budget"]]
    odd = [row for row in measured if not 0 <= row["right"] <= 1 or row["tokens"] <= 0]
    if choose(measured, 0.2) is ...:  # with the stub of exercise 1 the budget was chosen by nobody
        found["budget"] = ("stand-in",)
    elif odd:
        found["budget"] = "row", odd[0]
    elif not tried:
        found["budget"] = "budget", report["budget"]
    if tried:
        right, tokens = tried[0]["right"], tried[0]["tokens"]
        share = (right + report["right"]) / 2  # the same questions, sampled anew: three standard errors apart at most
        if abs(report["right"] - right) > 3 * (2 * max(share * (1 - share), 0.02) / report["cases"]) ** 0.5:
            found["right"] = "right", report["right"], right
        if report["budget"] is not None and report["tokens"] > 1.5 * tokens:
            found["tokens"] = "tokens", report["tokens"], tokens
    if report.get("lost"):
        found["lost"] = "lost", report["lost"]
    if report.get("left"):
        found["left"] = ("left",)
    return found


def judge(measure):
    """The first fault, of the choice before all others."""
    found = find_faults(*measure())
    return next(filter(None, (found["budget"], *found.values())), ("none",))


def page(name: str, measured, report, choose) -> str:
    """The report as HTML; name: of the model."""
    found = find_faults(measured, report, choose)
    tried = next((row for row in measured if row["budget"] == report["budget"]), {"right": 0, "tokens": 0})
    budget = say("不限", "none") if report["budget"] is None else report["budget"]
    rows = {
        "cases": (say("题目至少 20 道，各不相同", "at least 20 different questions"), report["cases"]),
        "budget": (
            say("预算由你的函数从测量里选出", "the budget chosen by your function from the measurement"),
            budget,
        ),
        "right": (
            say("上线后和测量时一样准", "as often right in service as measured"),
            say("{0:.0%}，测量时 {1:.0%}", "{0:.0%}, measured {1:.0%}").format(report["right"], tried["right"]),
        ),
        "tokens": (
            say("预算传到了服务器：每个答案的词元数", "the budget reached the server: tokens an answer"),
            say("{0:.0f}，测量时 {1:.0f}", "{0:.0f}, measured {1:.0f}").format(report["tokens"], tried["tokens"]),
        ),
        "lost": (
            say("引擎被杀，没有一道题丢掉", "no question lost when the engine was killed"),
            say("丢 {0} 道，停了 {1:.0f} 秒", "{0} lost, {1:.0f} s away").format(report["lost"], report["away"]),
        ),
        "left": (
            say("停下之后，端口上没有应答", "nothing answers once it is stopped"),
            say("有", "an answer") if report["left"] else say("没有", "none"),
        ),
    }
    yes, no = say("是", "yes"), say("否", "no")
    table = [(say("检查", "check"), say("结果", "found"), say("通过", "holds"))]
    table += [(what, str(value), no if found[key] else yes) for key, (what, value) in rows.items()]
    title = html.escape(say(f"{name}：项目报告", f"{name}: project report"))
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table)
    return f'<h3>{title}</h3><table class="dataframe table">{lines}</table>'


def draw(name: str, measured, report):
    """The figure: right answers against tokens, of each budget, and in service."""
    figure, ax = figures.figure(1, 1, height=2.8)
    points = [(row["tokens"], 100 * row["right"]) for row in measured]
    ax.plot(*zip(*points, strict=True), "o--", color=LIGHT["first"])
    for row, point in zip(measured, points, strict=True):
        beside = (-36, -4) if row["budget"] is None else (6, -11)
        ax.annotate(str(row["budget"]), point, beside, textcoords="offset points")
    served = say("上线之后", "served")
    ax.plot(report["tokens"], 100 * report["right"], "*", markersize=15, color=LIGHT["second"], label=served)
    title = say("正确率，%（点旁的数是预算）", "right answers, % (the number at a point is its budget)")
    xlabel = say("平均每个答案的词元数", "tokens an answer")
    ax.set(title=f"{name}: {title}", xlabel=xlabel, ylim=(-5, 108))
    ax.legend(loc="lower right")
    return figure


capstone = Exercise(
    right=lambda: (ROWS, REPORT, choose_budget),
    cases=[()],
    ask=judge,
    same=lambda given, wanted: given[0] == wanted[0],
    start=("测量和上线，两边都要有。", "both are needed: what you measured, and the service."),
    mistakes=[
        (lambda: (ROWS, REPORT, lambda measured, allowed_loss: ...),
         "别的都测到了，但预算是暂代的：先做练习 1，再从“交给客户端”那一格起重新运行。",
         "the rest is measured, but the budget was a stand-in: solve exercise 1, then run again from the client on."),
        (lambda: ([ROWS[0] | {"right": 1.2}], REPORT, choose_budget), "这一行不像测出来的：{given[1]}",
         "this row does not look measured: {given[1]}"),
        (lambda: (ROWS, REPORT | {"cases": 5}, choose_budget),
         "只有 {given[1]} 道题，差一道就是 {given[2]:.0%}；至少用 20 道，各不相同。",
         "only {given[1]} questions, one of them is {given[2]:.0%}; take 20 different ones at least."),
        (lambda: (ROWS, REPORT | {"budget": 50}, choose_budget), "预算 {given[1]} 没有量过。",
         "the budget {given[1]} was not measured."),
        (lambda: (ROWS, REPORT | {"right": 0.5}, choose_budget),
         "上线后对了 {given[1]:.0%}，测量时是 {given[2]:.0%}，差得太多：两边的采样和预算相同吗？",
         "in service {given[1]:.0%} are right, measured were {given[2]:.0%}, too far apart: are sampling and "
         "budget the same on both sides?"),
        (lambda: (ROWS, REPORT | {"tokens": 200.0}, choose_budget),
         "上线后每个答案 {given[1]:.0f} 个词元，测量时 {given[2]:.0f}：预算没有传到服务器。",
         "in service an answer takes {given[1]:.0f} tokens, measured were {given[2]:.0f}: the budget did not "
         "reach the server."),
        (lambda: (ROWS, REPORT | {"lost": 3}, choose_budget),
         "引擎死后，{given[1]} 道题没有答案：让客户端多等一会儿，调大 attempts。",
         "{given[1]} questions have no answer since the engine died: let the client wait longer, with more attempts."),
        (lambda: (ROWS, REPORT | {"left": True}, choose_budget),
         "服务器还在应答：运行 server.stop()，再写报告。",
         "the server still answers: run server.stop(), then write the report."),
    ],
)  # fmt: skip
