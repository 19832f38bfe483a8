"""Lesson A1: what stays out of training, the targets, the balancing loss."""

import hashlib
import inspect
import random
import types
from functools import partial

from helpers.check import Exercise
from helpers.lessons import balance
from helpers.lessons.arithmetic import held_out
from helpers.lessons.lA1.problems import PAIRS, kinds


# ---------------------------------------------------------------------------------------------- exercise 1
def hashes_text(function) -> bool:
    """Whether the built-in hash of a text, which is another in each process, decides; asked with one question."""
    code = getattr(function, "__code__", None)
    taken: list[object] = []
    if code is None or "hash" not in code.co_names:
        return False

    def seen(value):
        taken.extend(value if isinstance(value, tuple) else [value])
        return hash(value)

    of_names = function.__globals__ | {"hash": seen}
    watched = types.FunctionType(code, of_names, function.__name__, function.__defaults__, function.__closure__)
    watched.__kwdefaults__ = function.__kwdefaults__
    watched(37, 46)
    return any(isinstance(part, str | bytes) for part in taken)


def verdict(held_out):
    """The first fault of a choice of questions, with its figures; any choice without a fault is right."""
    found, again = ({pair: bool(held_out(*pair)) for pair in PAIRS} for _ in range(2))
    if found != again:
        return ("twice",)
    if hashes_text(inspect.unwrap(held_out)):
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
        return "three" if isinstance(error, TypeError) else "large", error
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
        (lambda *operands: hashlib.sha256(bytes(sorted(operands))).digest()[0] % 8 == 0,
         "操作数可以大于 255：拼成文本，再用 encode()。（{given[1]}）",
         "an operand may be above 255: join them into a text and encode() that. ({given[1]})"),
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
        (lambda ids, start, silent: make_targets(ids, start, (), first=0), *NO_SHIFT),
        (lambda ids, start, silent: [ids[i + 1] for i in range(len(ids))],
         "走过头了：最后一个词元之后没有可猜的，写 range(len(ids) - 1)。（{given.error}）",
         "one step too far: nothing follows the last token, so write range(len(ids) - 1). ({given.error})"),
        (lambda ids, start, silent: make_targets(range(len(ids)), start, silent),
         "放进去的是位置；要的是那个位置上的词元编号 ids[i]。",
         "these are positions; put in the token id at each, ids[i]."),
        (lambda *case: [max(token, 0) for token in make_targets(*case)], "不算损失写 -100：0 也是一个词元的编号。",
         "no loss is -100: 0 is the id of a token, too."),
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
        (partial(make_targets, late=1, shift=1), "看的是读到的位置 i；该看要猜的那个词元的位置 i + 1。",
         "this goes by the position i that is read; go by that of the token to be guessed, i + 1."),
        (partial(make_targets, shift=1), "silent 是词元自己的位置，不是它前一个的。",
         "silent names the token's own position, not the one before it."),
        (partial(make_targets, shift=-1), "silent 是词元自己的位置，不是它后一个的。",
         "silent names the token's own position, not the one after it."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 3
ex3 = balance.of_load
