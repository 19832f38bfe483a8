"""Appendix A3, exercises 3 and 4: a step of the scheduler, preemption."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from helpers.check import Exercise
from helpers.lessons.lA3 import wrong
from helpers.lessons.lA3.run import Planned, Run, first_difference, run
from helpers.lessons.lA3.scheduler import schedule
from helpers.schedule_trace import Request, ScheduleTrace, Settings


@dataclass(frozen=True)
class Scheduling(Exercise):
    """A scheduler that is wrong in its own way gets the hint of the first step that is wrong.

    That is what a scheduler may not do, else the mistake whose steps are the same up to there, else the step itself.
    """

    ask: Callable = lambda solution, settings, entries: run(solution, settings, entries) or ...

    def general(self, name: str, given: Any, wanted: Any, solution: Callable) -> tuple[str, str]:
        if not isinstance(given, Run):
            return super().general(name, given, wanted, solution)
        place = first_difference(given.steps, wanted.steps)
        fault = given.fault if place in (None, len(given.steps)) else None
        for function, zh, en in self.mistakes:
            other = run(function, given.settings, given.entries)
            if place is None or not other or (fault and other.fault != fault):
                continue
            if other.steps[: place + 1] == given.steps[: place + 1]:
                return zh, en
        if fault:
            return f"{name}，{fault[0]}", f"{name}, {fault[1]}"
        zh, en = step_in_words(given.steps, wanted.steps, place)
        return f"{name}，{zh}", f"{name}, {en}"


def step_in_words(ours: list[Planned], theirs: list[Planned], place: int | None) -> tuple[str, str]:
    """The first step that differs, beside vLLM's; in Chinese and in English."""
    if place is None:
        return "每一步都和 vLLM 相同。", "every step is vLLM's."
    zh, en = zip(*(_of_step(steps, place) for steps in (theirs, ours)), strict=True)
    return f"第 {place} 步不同：vLLM {zh[0]}；你的{zh[1]}。", f"step {place} differs: vLLM {en[0]}, yours {en[1]}."


def _of_step(steps: list[Planned], place: int) -> tuple[str, str]:
    if place >= len(steps):
        return "已经全部做完", "is done by then"
    tokens = ", ".join(f"r{request}: {number}" for request, number in sorted(steps[place].tokens.items()))
    return f"算了 {{{tokens}}}，占 {steps[place].used} 块", f"computes {{{tokens}}} in {steps[place].used} blocks"


def entries(*rows: tuple[int, int, int]) -> list[Request]:
    """Requests of (step before which it comes, prompt tokens, new tokens)."""
    return [Request(prompt, arrived, outputs=new) for arrived, prompt, new in rows]


def with_recording(cases: dict[str, tuple], trace: ScheduleTrace | None = None) -> dict[str, tuple]:
    return cases | ({"vLLM": (trace.settings, trace.requests)} if trace else {})


ROOMY = {
    "max_num_seqs=2": (Settings(32, 20, 2, 64), entries((0, 10, 3), (0, 12, 8), (0, 9, 4), (1, 7, 2))),
    "max_num_batched_tokens=20": (Settings(16, 30, 4, 20), entries((0, 5, 6), (1, 50, 2), (1, 8, 3), (1, 6, 4))),
    "num_blocks=7": (Settings(16, 7, 4, 40), entries((0, 30, 3), (0, 70, 4), (0, 10, 3), (2, 20, 2))),
    "block_size=8": (Settings(8, 30, 3, 24), entries((0, 20, 9), (0, 17, 3), (2, 30, 3), (3, 3, 12))),
}
TIGHT = {  # in the last case two requests leave in one step
    "num_blocks=5": (Settings(4, 5, 4, 20), entries((0, 7, 6), (0, 7, 6))),
    "num_blocks=9": (Settings(4, 9, 4, 12), entries((0, 5, 14), (0, 9, 8), (1, 3, 9), (3, 6, 5), (4, 2, 3))),
    "num_blocks=8": (Settings(4, 8, 3, 16), entries((0, 3, 10), (0, 11, 9), (2, 2, 8), (5, 2, 4))),
    "max_num_batched_tokens=8": (Settings(4, 7, 4, 8), entries((0, 3, 2), (0, 5, 8), (1, 2, 8), (1, 4, 4), (2, 1, 6))),
}

ex3 = Scheduling(
    right=schedule,
    cases=partial(with_recording, ROOMY),
    start=("先排 running 里的：每个请求还差 known - computed 个词元，至多用完预算。",
           "begin with running: each request lacks known - computed tokens and gets at most the budget that is left."),
    mistakes=[
        (wrong.batch_at_a_time, "要等所有人写完才放新请求进来：只要有位子、有预算、有块，就让 waiting[0] 进来。",
         "new requests wait until all are done: let waiting[0] in as soon as seat, budget and blocks allow."),
        (partial(wrong.plan, newcomers_first=True), "次序反了：先排 running 里的，剩下的预算才给新请求。",
         "the other way round: running comes first, new requests get what is left of the budget."),
        (wrong.separately, "读提示词和写词元可以在同一步里：先排 running，剩下的预算给新请求。",
         "reading and writing share a step: running first, and what is left of the budget goes to new requests."),
        (partial(wrong.plan, most=1), "一步只放进一个：用 while，放到位子、预算或块用完为止。",
         "only one comes in at a step: use while, until seats, budget or blocks are used up."),
        (partial(wrong.plan, chunks=False), "提示词放不进剩下的预算，就先算一段：min(known, 预算)。",
         "a prompt that exceeds the budget comes in chunks: min(known, budget)."),
        (partial(wrong.plan, one_token=True),
         "没算完的提示词也在 running 里：下一步要算 known - computed 个，不是 1 个。",
         "a prompt under way is in running, too: it gets known - computed tokens, not 1."),
        (partial(wrong.plan, whole=True), "running 里没算完的提示词也可以只算一段：min(known - computed, 预算)。",
         "a prompt under way may get a chunk again: min(known - computed, budget)."),
        (partial(wrong.plan, must_fit=False), "块够这一段还不够：空闲的块要放得下整个提示词，才让它进来。",
         "blocks for the chunk are not enough: let a request in only if the free blocks hold its whole prompt."),
        (partial(wrong.plan, all_blocks=True),
         "只领这一步要用的块：pool.grow(request, computed + tokens)，不要一次领全。",
         "take the blocks of this step only, pool.grow(request, computed + tokens), not all at once."),
        (partial(wrong.plan, all_known=True),
         "没读完的提示词，也只领这一步要用的块：pool.grow 要的总数是 computed + tokens，不是 known。",
         "a prompt under way takes the blocks of this step only: pool.grow wants computed + tokens, not known."),
        (partial(wrong.plan, ahead=1), "块领早了：pool.grow 要的总数是 computed + tokens，不用再加 1。",
         "the block comes too early: pool.grow wants computed + tokens, without 1 more."),
        (partial(wrong.plan, skips=True), "有人插队了：waiting[0] 放不下，后面的也要等（先来先服务）。",
         "somebody jumps the queue: where waiting[0] does not fit, the others wait, too (first come, first served)."),
        (partial(wrong.plan, at=-1), "最后来的先进去了：拿 waiting[0]，不是最后一个。",
         "whoever came last goes first: take waiting[0], not the last one."),
        (partial(wrong.plan, shortest=True), "最短的先进去了：拿 waiting[0]，先来先服务。",
         "the shortest goes first: take waiting[0], first come, first served."),
        (partial(wrong.plan, hops=True), "隔一个漏一个：一边走 waiting，一边从里面删；改用 while，每次看 waiting[0]。",
         "every other one is left out, as you go through waiting and remove from it: use while, and take waiting[0]."),
        (partial(wrong.plan, spare=1), "空闲的块正好放得下整个提示词，也可以进来：用 >，不用 >=。",
         "free blocks that just hold the whole prompt are enough: compare with >, not >=."),
        (partial(wrong.plan, seats=1), "空着一个位子：running 里可以有 max_num_seqs 个。",
         "a seat stays empty: running may hold max_num_seqs."),
    ],
)  # fmt: skip

ex4 = Scheduling(
    right=schedule,
    cases=partial(with_recording, TIGHT),
    start=("从练习 3 的函数抄起：pool.grow 返回 False 的时候，请 running 的最后一个离开，再试一次。",
           "begin with exercise 3: where pool.grow returns False, send the last of running away and try again."),
    mistakes=[
        (wrong.plan, "块不够时不能只是跳过：请 running 的最后一个还回它的块，再试一次。",
         "where blocks run out it is not enough to pass: the last of running gives its blocks back, then try again."),
        (wrong.only_once, "请走一个以后，还没有再领一次：用 while，不用 if，领到了才往下走。",
         "after one has left, nobody asked for blocks again: use while, not if, and go on once they are there."),
        (partial(wrong.plan, victim="first"), "请走的是最早来的：应该是 running 的最后一个。",
         "whoever came first is sent away: it should be the last of running."),
        (partial(wrong.plan, victim="needs"), "请走的是正缺块的那个：应该是 running 的最后一个。",
         "the one that needs the block is sent away: it should be the last of running."),
        (partial(wrong.plan, victim="most"), "请走的是块最多的：应该是 running 的最后一个。",
         "the one with the most blocks is sent away: it should be the last of running."),
        (partial(wrong.plan, victim="back"), "被抢占的排到了队尾：它要回到 waiting 的最前面。",
         "whoever is preempted waits behind the others: it goes to the front of waiting."),
        (partial(wrong.plan, victim="in turn"),
         "同一步里走了两个，回到 waiting 的次序反了：后走的来得早，要排在先走的前面，每次都用 insert(0, last)。",
         "where two leave in one step, they wait in the wrong order: the second came earlier and belongs in front of "
         "the first, so insert(0, last) each time."),
    ],
)  # fmt: skip
