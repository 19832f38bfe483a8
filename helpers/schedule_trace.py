"""What a scheduler did, step by step: the trace, its file, its replay, and what must hold in it.

A step is one pass of the model over the tokens that the scheduler chose. Requests are numbered as they arrived. The
file holds what changed from step to step, so that thousands of steps take kilobytes.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers import CourseError
from helpers.files import parse_json, read_text, replacing

FILE_VERSION = 1
REASONS = ("stop", "length", "abort", "error", "repetition")  # vLLM's words for how a request ends
MOST = 10_000_000  # pairs of a request and a step before its end: replaying them takes seconds
TOO_LARGE = "it is too large"
KINDS = ("prefill", "chunk", "decode")  # a prompt at once, a part of one, new tokens; a resumed answer is a prompt


# ---------------------------------------------------------------------------------------------- the trace


@dataclass(frozen=True)
class Settings:
    """What the scheduler had to keep to; all but the two flags are counts."""

    block_size: int  # tokens
    num_blocks: int  # in the pool; block 0 is vLLM's own, and no request gets it
    max_num_seqs: int
    max_num_batched_tokens: int  # a step schedules no more
    lookahead: int = 0  # tokens for which a drafting model has room kept
    prefix_caching: bool = False
    async_scheduling: bool = False  # a step is planned before the results of the one before are in


@dataclass
class Request:
    """One request: alive in the steps from ``arrived`` up to ``gone``, which is None if the recording ended first."""

    prompt: int  # tokens
    arrived: int
    gone: int | None = None
    outputs: int = 0  # tokens that it had written in the end
    reason: str | None = None  # one of REASONS


@dataclass
class Change:
    """What one step changed: request -> value, where that is not what the step before leads one to expect."""

    tokens: dict[int, int] = field(default_factory=dict)  # scheduled; 0: runs, but is left out
    blocks: dict[int, list[int]] = field(default_factory=dict)  # new ids; without a table before: the request starts
    computed: dict[int, int] = field(default_factory=dict)  # tokens in the cache before: a hit, a rejected draft
    preempted: list[int] = field(default_factory=list)
    free: int | None = None  # blocks, behind the step's allocations
    drafts: dict[int, int] = field(default_factory=dict)  # of ``tokens`` those that were only guessed
    accepted: dict[int, int] = field(default_factory=dict)  # of ``drafts``


@dataclass(frozen=True, slots=True)
class Step:
    """The scheduler as it had planned a step; tables and counts are those while the model runs."""

    index: int
    tokens: dict[int, int]  # request -> tokens scheduled, in the scheduler's order
    kinds: dict[int, str]  # the same requests -> what their tokens are, see KINDS
    computed: dict[int, int]  # running request -> tokens whose keys and values the cache held before
    known: dict[int, int]  # running request -> tokens of prompt and answer that there were before
    tables: dict[int, tuple[int, ...]]  # running request -> its block ids in order
    waiting: tuple[int, ...]
    arrived: tuple[int, ...]  # since the step before
    gone: tuple[int, ...]  # the same
    preempted: tuple[int, ...]
    started: tuple[int, ...]  # for the first time
    resumed: tuple[int, ...]  # after a preemption
    free: int
    drafts: dict[int, int]
    accepted: dict[int, int]

    @property
    def hits(self) -> dict[int, int]:
        """Tokens that a request which starts or resumes found in the prefix cache."""
        return {r: self.computed[r] for r in self.started + self.resumed if self.computed[r]}

    @property
    def shared(self) -> set[int]:
        """Blocks that several requests hold."""
        holders = Counter(block for table in self.tables.values() for block in table)
        return {block for block, number in holders.items() if number > 1}


@dataclass(eq=False, repr=False)
class ScheduleTrace:
    """What a scheduler did in every step that computed something. Raises CourseError if its parts do not fit.

    :func:`helpers.schedule.record` fills one while the engine runs.
    """

    settings: Settings
    requests: list[Request] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)  # one a step
    provenance: dict[str, str] = field(default_factory=dict)  # model, dtype, vllm

    def __post_init__(self):
        self.check()

    def __len__(self) -> int:
        return len(self.changes)

    def __repr__(self) -> str:
        pool = f"{self.settings.num_blocks - 1} blocks of {self.settings.block_size}"
        return f"ScheduleTrace({len(self.requests)} requests, {len(self)} steps, {pool})"

    def replay(self) -> Iterator[Step]:
        """Every step in turn."""
        state = _Replay(self)
        return (state.apply(change) for change in self.changes)

    def at(self, index: int) -> Step:
        """One step; raises CourseError if there is none of that index."""
        if not 0 <= index < len(self):
            raise CourseError(
                f"没有第 {index} 步：这份轨迹的步从 0 到 {len(self) - 1}。",
                f"There is no step {index}: the steps of this trace are 0 to {len(self) - 1}.",
            )
        state = _Replay(self)
        for change in self.changes[:index]:
            state.advance(change)
        return state.apply(self.changes[index])

    def check(self) -> None:
        """Raises CourseError unless each step follows from the one before: blocks add up, tables fit their tokens."""
        try:
            _check_numbers(self)
            _Check(self).run()
        except _Wrong as fault:
            raise CourseError(
                f"调度轨迹的内容不合理（{fault.args[0]}）：请重新录制。",
                f"The schedule trace makes no sense ({fault.args[1]}): record it again.",
            ) from None

    def data(self) -> dict[str, Any]:
        """The trace as JSON can hold it; what a step did not change is left out."""
        return {
            "version": FILE_VERSION,
            "settings": asdict(self.settings),
            "requests": [asdict(request) for request in self.requests],
            "steps": [{name: value for name, value in vars(change).items() if _said(value)} for change in self.changes],
            "provenance": self.provenance,
        }

    def save(self, path: str | Path) -> None:
        """Write the trace as JSON; a file of that name is replaced once all is written."""
        with replacing(path) as file:
            file.write(json.dumps(self.data(), separators=(",", ":")).encode())

    @classmethod
    def load(cls, path: str | Path) -> "ScheduleTrace":
        """Read a trace. Raises CourseError if the file is missing, damaged, of another version or makes no sense."""
        try:
            data = parse_json(read_text(path))
            version = data["version"]
            if version == FILE_VERSION:
                return cls._from_data(data)
        except FileNotFoundError:
            raise CourseError(
                f"没有调度轨迹 {path}：请检查文件名。", f"There is no schedule trace {path}: check its name."
            ) from None
        except CourseError as error:
            raise CourseError(f"{path}: {error.zh}", f"{path}: {error.en}") from None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CourseError(
                f"{path} 不是完整的调度轨迹（{type(error).__name__}）：请重新录制或重新下载。",
                f"{path} is no complete schedule trace ({type(error).__name__}): record or download it again.",
            ) from None
        raise CourseError(
            f"{path} 是第 {version!r:.20} 版的调度轨迹，这里读第 {FILE_VERSION} 版：请重新录制。",
            f"{path} is a schedule trace of version {version!r:.20}, and this reads version {FILE_VERSION}: "
            "record it again.",
        )

    @classmethod
    def _from_data(cls, data):
        return cls(
            settings=Settings(**data["settings"]),
            requests=[Request(**request) for request in data["requests"]],
            changes=[Change(**{name: _numbered(value) for name, value in step.items()}) for step in data["steps"]],
            provenance={str(key): str(value) for key, value in data["provenance"].items()},
        )


def _said(value) -> bool:
    return value is not None and value != {} and value != []


def _numbered(value):
    """A step's value as JSON gives it, with requests as numbers again."""
    return {int(request): entry for request, entry in value.items()} if isinstance(value, dict) else value


# ---------------------------------------------------------------------------------------------- the replay


class _Replay:
    """The state behind each step, from what changed."""

    def __init__(self, trace: ScheduleTrace):
        self.requests, self.index = trace.requests, 0
        self.free = trace.settings.num_blocks - 1
        self.coming, self.going = _by_step(trace.requests, "arrived"), _by_step(trace.requests, "gone")
        self.alive: dict[int, None] = {}  # in the order of arrival
        self.known: dict[int, int] = {}
        self.tokens: dict[int, int] = {}
        self.computed: dict[int, int] = {}
        self.tables: dict[int, tuple[int, ...]] = {}
        self.holders: Counter[int] = Counter()
        self.drafts: dict[int, int] = {}
        self.accepted: dict[int, int] = {}

    def apply(self, change: Change) -> Step:
        """One step further; what that looks like."""
        index, ran_before = self.index, self.known.keys() - self.tables.keys()
        running = set(self.tables) - set(change.preempted)
        self.advance(change)
        new = tuple(request for request in change.blocks if request not in running)
        return Step(
            index=index,
            tokens=dict(self.tokens),
            kinds={request: self._kind(request, request in new) for request in self.tokens},
            computed=dict(self.computed),
            known={request: self.known[request] for request in self.tables},
            tables=dict(self.tables),
            waiting=tuple(request for request in self.alive if request not in self.tables),
            arrived=tuple(self.coming.get(index, ())),
            gone=tuple(self.going.get(index, ())),
            preempted=tuple(change.preempted),
            started=tuple(request for request in new if request not in ran_before | set(change.preempted)),
            resumed=tuple(request for request in new if request in ran_before | set(change.preempted)),
            free=self.free,
            drafts=change.drafts,
            accepted=change.accepted,
        )

    def advance(self, change: Change) -> None:
        self.leave(change)
        self.take(change)

    def leave(self, change: Change) -> None:
        """The results of the step before are in; who has ended or is preempted gives its blocks back."""
        self.settle()
        for request in self.going.get(self.index, ()):
            self.alive.pop(request, None)
            self._release(request)
        self.alive |= dict.fromkeys(self.coming.get(self.index, ()))
        for request in change.preempted:
            self._release(request)

    def take(self, change: Change) -> None:
        """Blocks and tokens of the step."""
        for request, blocks in change.blocks.items():
            self.holders.update(blocks)
            self.tables[request] = self.tables.get(request, ()) + tuple(blocks)
            self.computed.setdefault(request, 0)
            self.known.setdefault(request, self.requests[request].prompt)
        self.computed |= change.computed
        self.tokens |= change.tokens
        for request in [request for request, number in change.tokens.items() if not number]:
            del self.tokens[request]
        self.drafts, self.accepted = change.drafts, change.accepted
        self.free = self.free if change.free is None else change.free
        self.index += 1

    def _kind(self, request: int, new: bool) -> str:
        computed, known = self.computed[request], self.known[request]
        if computed >= max(self.requests[request].prompt, known - 1):
            return "decode"
        return "prefill" if new and computed + self.tokens[request] >= known else "chunk"

    def settle(self) -> None:
        """The results of the step before: its tokens are in the cache, and whoever got through has a new one."""
        for request, number in self.tokens.items():
            self.computed[request] += number
            rejected = self.drafts.get(request, 0) - self.accepted.get(request, 0)
            self.known[request] = max(self.known[request], self.computed[request] + 1 - rejected)

    def _release(self, request: int) -> None:
        for block in self.tables.pop(request, ()):
            self.holders[block] -= 1
            if not self.holders[block]:
                del self.holders[block]
        self.computed.pop(request, None)
        self.tokens.pop(request, None)


def _by_step(requests: list[Request], name: str) -> dict[int, list[int]]:
    steps: dict[int, list[int]] = {}
    for number, request in enumerate(requests):
        steps.setdefault(getattr(request, name), []).append(number)
    return steps


# ---------------------------------------------------------------------------------------------- what must hold


class _Wrong(Exception):
    """What is wrong with a trace, in Chinese and in English."""


def _is_count(value, least=0, most=2**53) -> bool:
    return type(value) is int and least <= value <= most  # True is no count


def _check_numbers(trace: ScheduleTrace) -> None:
    """Every value has its type and its range, so that the replay can count on them."""
    settings, steps = trace.settings, len(trace.changes)
    flags = (settings.prefix_caching, settings.async_scheduling)
    counts = (settings.block_size, settings.num_blocks, settings.max_num_seqs, settings.max_num_batched_tokens)
    right = all(_is_count(count, 1) for count in counts) and all(type(flag) is bool for flag in flags)
    if not (right and _is_count(settings.lookahead)):
        raise _Wrong("引擎的设置不对", "the engine's settings are wrong")
    for number, request in enumerate(trace.requests):
        right = _is_count(request.prompt, 1) and _is_count(request.arrived, 0, steps) and _is_count(request.outputs)
        right = right and (request.gone is None or _is_count(request.gone, request.arrived, steps))
        if not (right and (request.reason is None or request.reason in REASONS)):
            raise _Wrong(f"请求 r{number} 的记录不对", f"the entry of request r{number} is wrong")
    pairs = sum((steps if request.gone is None else request.gone) - request.arrived for request in trace.requests)
    if pairs > MOST:
        raise _Wrong("步数和请求太多", TOO_LARGE)
    for index, change in enumerate(trace.changes):
        if not _is_change(change, len(trace.requests)):
            raise _Wrong(f"第 {index} 步的记录不对", f"the entry of step {index} is wrong")


def _is_change(change: Change, requests: int) -> bool:
    counted = (change.tokens, change.computed, change.drafts, change.accepted)
    if not all(type(value) is dict for value in (*counted, change.blocks)) or type(change.preempted) is not list:
        return False
    named = [*change.preempted, *change.blocks, *(request for values in counted for request in values)]
    numbers = [number for values in counted for number in values.values()]
    if change.free is not None:
        numbers.append(change.free)
    lists = all(type(blocks) is list and all(_is_count(block) for block in blocks) for blocks in change.blocks.values())
    return lists and all(map(_is_count, numbers)) and all(_is_count(request, 0, requests - 1) for request in named)


class _Check:
    """Replays a trace and raises _Wrong at the first step that does not follow from the one before."""

    def __init__(self, trace: ScheduleTrace):
        self.trace, self.settings, self.state = trace, trace.settings, _Replay(trace)
        self.reach: dict[int, int] = {}  # running request -> tokens for which it has ever needed a slot in its table
        self.exact = not self.settings.async_scheduling and not any(change.drafts for change in trace.changes)

    def run(self) -> None:
        for index, change in enumerate(self.trace.changes):
            if fault := self.fault(index, change):
                raise _Wrong(f"第 {index} 步，{fault[0]}", f"in step {index} {fault[1]}")
        self.state.settle()
        self.check_ends(len(self.trace))

    def fault(self, index: int, change: Change) -> tuple[str, str] | None:
        for request in change.preempted:
            if request not in self.state.tables:
                return f"r{request} 没有在运行，却被抢占", f"r{request} is preempted and did not run"
        self.state.leave(change)
        self.check_ends(index)
        taken: set[int] = set()
        for request, blocks in change.blocks.items():
            if fault := self.blocks_fault(request, blocks, change.computed.get(request, 0), taken):
                return fault
        self.state.take(change)
        if fault := self.sums_fault(change):
            return fault
        for request, tokens in self.state.tokens.items():
            if fault := self.tokens_fault(request, tokens):
                return fault
        return None

    def check_ends(self, index: int) -> None:
        """Whoever was not interrupted has run through all of its prompt and its answer, but the last token."""
        for request in self.state.going.get(index, ()):
            entry = self.trace.requests[request]
            written = self.state.known.get(request, entry.prompt) - entry.prompt
            whole = written == entry.outputs if self.exact else written >= entry.outputs
            if entry.reason in ("stop", "length") and not whole:
                raise _Wrong(
                    f"r{request} 的步数和它写的 {entry.outputs} 个词元对不上",
                    f"the steps of r{request} do not make the {entry.outputs} tokens that it wrote",
                )

    def blocks_fault(self, request: int, blocks: list[int], computed: int, taken: set[int]) -> tuple[str, str] | None:
        """New blocks are free ones of the pool, each given once; only a hit in the prefix cache may be shared."""
        state = self.state
        if request not in state.alive or not blocks:
            return f"r{request} 不在等待，却拿到了块", f"r{request} gets blocks and is not there to run"
        if not all(0 < block < self.settings.num_blocks for block in blocks):
            return "有块不在池里", "a block is not in the pool"
        hit = 0 if request in state.tables else -(-computed // self.settings.block_size)
        fresh = any(block in state.holders or block in taken for block in blocks[hit:])
        if fresh or hit > len(blocks) or len(set(blocks)) < len(blocks):
            return f"r{request} 拿到的块已经有人占着", f"r{request} gets a block that is taken"
        taken.update(blocks)
        if request not in state.tables:
            self.reach[request] = 0
        return None

    def sums_fault(self, change: Change) -> tuple[str, str] | None:
        state, settings = self.state, self.settings
        if not {*change.tokens, *change.computed, *change.drafts, *change.accepted} <= state.tables.keys():
            return "有没在运行的请求分到了词元", "a request that does not run has tokens"
        if len(state.tables) > settings.max_num_seqs:
            return "同时运行的请求太多", "too many requests run"
        if sum(state.tokens.values()) > settings.max_num_batched_tokens:
            return "词元超出了预算", "the tokens exceed the budget"
        used = len(state.holders)
        if state.free + used != settings.num_blocks - 1:
            return (
                f"块的数目不对：{used} 个在用，{state.free} 个空闲",
                f"the blocks do not add up: {used} in use, {state.free} free",
            )
        return None

    def tokens_fault(self, request: int, tokens: int) -> tuple[str, str] | None:
        state, size = self.state, self.settings.block_size
        end, drafts = state.computed[request] + tokens, state.drafts.get(request, 0)
        if drafts > tokens or state.accepted.get(request, 0) > drafts or (end > state.known[request] and not drafts):
            return f"r{request} 算的词元比它有的还多", f"r{request} runs more tokens than it has"
        self.reach[request] = reach = max(self.reach[request], end)
        if not end <= len(state.tables[request]) * size < reach + self.settings.lookahead + size:
            return f"r{request} 的块表和它的词元对不上", f"the block table of r{request} does not fit its tokens"
        return None
