"""A learner's scheduler on the requests of a recording: its steps, the first that is not vLLM's, what it may not do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from helpers.language import say
from helpers.lessons.lA3.scheduler import Fault, Pool, Request, finish
from helpers.schedule_trace import Change, ScheduleTrace, Settings
from helpers.schedule_trace import Request as Entry

SLOWER = 6  # times the steps that one request at a time would take; more of them never end


class Planned(NamedTuple):
    """A step of either scheduler, as they are compared."""

    tokens: dict[int, int]  # request -> tokens
    used: int  # blocks, while the step runs


@dataclass
class Run:
    """What a scheduler did, up to the end or to a fault; two are equal if all steps are, and they end alike."""

    settings: Settings
    entries: Sequence[Entry]
    steps: list[Planned]
    fault: tuple[str, str] | None = None
    trace: ScheduleTrace | None = field(default=None, compare=False, repr=False)  # the steps, for an explorer


def recorded(trace: ScheduleTrace) -> list[Planned]:
    """The steps of vLLM's scheduler."""
    total = trace.settings.num_blocks - 1
    return [Planned(step.tokens, total - step.free) for step in trace.replay()]


def first_difference(ours: Sequence[Planned], theirs: Sequence[Planned]) -> int | None:
    """The first step that differs, None if all are the same."""
    if ours == theirs:
        return None
    different = (index for index, (our, their) in enumerate(zip(ours, theirs, strict=False)) if our != their)
    return next(different, min(len(ours), len(theirs)))


def run(schedule: Callable, settings: Settings, entries: Sequence[Entry]) -> Run | None:
    """Calls ``schedule(waiting, running, pool, settings)`` until all requests are done; None if it gives ``...``.

    entries: prompt, outputs and the step before which each request arrives. The model is left out, as its results are
    known: each request writes as many tokens as it is to.
    """
    desk = _Desk(settings, entries)
    most = SLOWER * sum(entry.prompt + entry.outputs for entry in entries)
    try:
        while desk.go_on():
            step = schedule(desk.waiting, desk.running, desk.pool, settings)
            if step is ... or (step is None and not desk.steps):
                return None
            desk.take(step)
            if len(desk.steps) > most:
                raise Fault("一直排不完。", "it never comes to an end.")
    except Fault as fault:
        zh, en = fault.hint
        number = len(desk.steps)
        return Run(settings, entries, desk.steps, (f"第 {number} 步：{zh}", f"step {number}: {en}"), desk.trace())
    return Run(settings, entries, desk.steps, None, desk.trace())


class _Desk:
    """What lies before a scheduler, held against the rules after each of its steps."""

    def __init__(self, settings: Settings, entries: Sequence[Entry]):
        self.settings, self.entries, self.pool = settings, entries, Pool(settings)
        self.requests = [Request(number, entry.prompt, entry.outputs) for number, entry in enumerate(entries)]
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.steps: list[Planned] = []
        self.changes: list[Change] = []
        self.before: dict[Request, list[int]] = {}  # running request -> its blocks before the step
        self.counts: dict[Request, tuple[int, int, int]] = {}  # known, to_write and computed before the step
        self.gone: dict[Request, int] = {}
        self.arrived: dict[Request, int] = {}

    def go_on(self) -> bool:
        """The next requests come, at once where there is nothing else to do; whether any is there."""
        coming = [request for request in self.requests if request not in self.arrived]
        alive = len(self.arrived) > len(self.gone)
        for request in coming:
            if self.entries[request.number].arrived <= len(self.steps) or not alive:
                self.arrived[request] = len(self.steps)
                self.waiting.append(request)
                alive = True
        self.before = {request: list(request.blocks) for request in self.requests if request.blocks}
        self.counts = {request: (request.known, request.to_write, request.computed) for request in self.requests}
        return alive

    def take(self, step) -> None:
        """Raises Fault for what no scheduler may do; else the model runs, and whoever is done leaves."""
        self._check_counts()
        self._check_form(step)
        self._check_lists()
        self._check_tokens(step)
        tokens = {request.number: tokens for request, tokens in step.items()}
        self._note(tokens)
        self.steps.append(Planned(tokens, self.pool.used))
        finish(step, self.running, self.pool)
        self.gone |= {request: len(self.steps) for request in step if not request.to_write}

    def _check_form(self, step) -> None:
        if step is None:
            raise Fault("没有返回字典：缺了 return？", "no dictionary comes back: is a return missing?")
        if not isinstance(step, dict) or not all(isinstance(request, Request) for request in step):
            raise Fault("要返回字典：请求 → 词元数。", "return a dictionary: request -> tokens.")
        for request, tokens in step.items():
            if type(tokens) is not int or tokens < 1:
                zh, en = "不算的请求不要放进字典。", "leave out whoever computes nothing."
                raise Fault(f"{request} 排了 {tokens!r} 个词元：{zh}", f"{request} has {tokens!r} tokens: {en}")
            if request in self.gone:
                raise Fault(f"{request} 已经结束，却还在排。", f"{request} has ended and is scheduled again.")
            if request not in self.running:
                raise Fault(*_not_running(request, request in self.before, request in self.waiting))

    def _check_counts(self) -> None:
        for request, (known, to_write, computed) in self.counts.items():
            if (request.known, request.to_write) != (known, to_write):
                raise Fault(
                    f"{request} 的 known 从 {known} 变成了 {request.known}：known 和 to_write 由课程来改，你不要动。",
                    f"known of {request} went from {known} to {request.known}: the course counts known and to_write, "
                    "leave them alone.",
                )
            if request.computed not in (computed, 0):
                raise Fault(
                    f"{request} 的 computed 从 {computed} 变成了 {request.computed}：模型算完由课程来加。",
                    f"computed of {request} went from {computed} to {request.computed}: the course adds to it once the "
                    "model has run.",
                )

    def _check_lists(self) -> None:
        there = self.waiting + self.running
        if ended := [request for request in there if request in self.gone]:
            raise Fault(f"{_names(ended)} 已经结束，却又在列表里。", f"{_names(ended)} has ended and is listed again.")
        for request in self.arrived.keys() - self.gone.keys():
            if (number := there.count(request)) != 1:
                raise Fault(
                    f"{request} 在 waiting 和 running 里一共出现 {number} 次：应该正好一次。",
                    f"{request} is {number} times in waiting and running together: it should be once.",
                )
        for request in self.waiting:
            if request.blocks or request.computed:
                raise Fault(
                    f"{request} 在等，却还占着 {len(request.blocks)} 块，computed 是 {request.computed}："
                    "离开的请求先 pool.release，再让 computed 归 0。",
                    f"{request} waits, has {len(request.blocks)} blocks, and computed is {request.computed}: whoever "
                    "leaves gives all blocks back with pool.release, and computed goes to 0.",
                )
        for request, blocks in self.before.items():
            if request.computed and request.blocks[: len(blocks)] != blocks:
                raise Fault(
                    f"{request} 还在运行，它的块却还了或者换了：里面的键和值就丢了。",
                    f"{request} runs on, and its blocks were given back or exchanged: what was in them is lost.",
                )
        if len(self.running) > self.settings.max_num_seqs:
            raise Fault(
                f"{len(self.running)} 个请求在运行，max_num_seqs 是 {self.settings.max_num_seqs}。",
                f"{len(self.running)} requests run, and max_num_seqs is {self.settings.max_num_seqs}.",
            )
        held = [block for request in self.requests for block in request.blocks]
        if sorted(held + self.pool.free) != list(range(1, self.settings.num_blocks)):
            raise Fault(
                "池里的块对不上数：只用 pool.grow 和 pool.release 领块、还块。",
                "the blocks of the pool do not add up: take and return them with pool.grow and pool.release only.",
            )

    def _check_tokens(self, step: dict[Request, int]) -> None:
        if not step:
            gone = _names([request for request in self.before if request in self.waiting])
            raise Fault(
                f"一个词元也没有排，可是还有请求没写完：{_names(self.waiting + self.running)}。"
                + (f"这一步请走了 {gone}：该走的是 running 的最后一个。" if gone else ""),
                f"nothing is scheduled, and {_names(self.waiting + self.running)} are not done"
                + (f"; {gone} was sent away: it should be the last of running." if gone else "."),
            )
        budget, total = self.settings.max_num_batched_tokens, sum(step.values())
        if total > budget:
            raise Fault(
                f"一共 {total} 个词元，预算只有 {budget}：每排一个请求，就从预算里减掉。",
                f"{total} tokens in all, and the budget is {budget}: take off what each request gets.",
            )
        for request, tokens in step.items():
            left, room = request.known - request.computed, len(request.blocks) * self.settings.block_size
            if tokens > left:
                raise Fault(
                    f"{request} 只剩 {left} 个词元要算，却排了 {tokens} 个。",
                    f"{request} has {left} tokens left to compute, and {tokens} are scheduled.",
                )
            if request.computed + tokens > room:
                raise Fault(
                    f"{request} 的缓存要放 {request.computed + tokens} 个词元，它的块只放得下 {room} 个："
                    "pool.grow 要的是总数；它返回 False，就是块不够。",
                    f"the cache of {request} is to hold {request.computed + tokens} tokens, its blocks have room for "
                    f"{room}: pool.grow wants the total; where it returns False, there were too few.",
                )

    def _note(self, tokens: dict[int, int]) -> None:
        """The step as a trace holds it."""
        last = self.steps[-1].tokens if self.steps else {}
        running = {request.number for request in self.running}
        change = Change(tokens={number: new for number, new in tokens.items() if last.get(number) != new})
        change.tokens |= {number: 0 for number in last if number in running and number not in tokens}
        change.preempted = sorted(request.number for request in self.before if request in self.waiting)
        for request in self.running:
            known = self.before.get(request, [])
            if request.blocks[: len(known)] != known:  # preempted and resumed within a step
                change.preempted.append(request.number)
                known = []
            if new := request.blocks[len(known) :]:
                change.blocks[request.number] = new
        change.free = len(self.pool.free)
        self.changes.append(change)

    def trace(self) -> ScheduleTrace | None:
        """The steps so far; None where they make no trace, as with a request that runs and holds no block."""
        from helpers import CourseError

        entries = []
        for request, arrived in self.arrived.items():
            entry, gone = self.entries[request.number], self.gone.get(request)
            written = entry.outputs - request.to_write
            reason = None if gone is None else "length"
            entries.append(replace(entry, arrived=arrived, gone=gone, outputs=written, reason=reason))
        name = say("你的调度器", "your scheduler")
        try:
            return ScheduleTrace(self.settings, entries, self.changes, {"model": name})
        except CourseError:
            return None


def _not_running(request: Request, ran: bool, waits: bool) -> tuple[str, str]:
    zh, en = "却被移出了 running：写完的由课程请走。", "was taken out of running: the course does that once it is done."
    if not ran:
        zh, en = "却不在 running 里：从 waiting 移过去。", "is not in running: move it there from waiting."
    elif waits:
        zh, en = "这一步却被请走了：离开的请求什么也不算。", "was sent away in this step: who leaves computes nothing."
    return f"{request} 排了词元，{zh}", f"{request} has tokens and {en}"


def _names(requests: Sequence[Request]) -> str:
    return " ".join(str(request) for request in sorted(requests, key=lambda request: request.number))
