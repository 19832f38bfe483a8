"""Appendix A3: a scheduler with a paged cache in few lines, and its comparison with what vLLM's scheduler did.

The rules are vLLM's under four conditions: first come, first served; prefix caching off; async scheduling off; every
request writes a number of tokens that is known before (``ignore_eos``). Then neither the model nor its weights matter:
a step is decided by counts alone.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from helpers.schedule import ScheduleTrace, Settings


@dataclass(eq=False)
class Request:
    """A request as a scheduler sees it: how many tokens there are, and how many of them are in the cache."""

    number: int
    known: int  # tokens of the prompt, and those written since
    to_write: int  # tokens that are still to come
    computed: int = 0  # tokens whose keys and values are in the cache
    blocks: list[int] = field(default_factory=list)  # the block table


class Scheduler:
    """Continuous batching within a token budget, chunked prefill, and preemption by recomputing."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.free = list(range(1, settings.num_blocks))  # vLLM keeps block 0 for itself
        self.waiting: list[Request] = []
        self.running: list[Request] = []

    @property
    def used(self) -> int:
        """Blocks in use."""
        return self.settings.num_blocks - 1 - len(self.free)

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.settings.block_size)

    def grow(self, request: Request, tokens: int) -> bool:
        """Append the blocks that so many tokens need; says whether there were enough."""
        missing = self.blocks_for(tokens) - len(request.blocks)
        if missing > len(self.free):
            return False
        request.blocks += [self.free.pop(0) for _ in range(missing)]
        return True

    def release(self, request: Request) -> None:
        self.free += request.blocks
        request.blocks = []

    def schedule(self) -> dict[Request, int]:
        """The next step: how many tokens of which request. Their blocks are taken."""
        budget, step = self.settings.max_num_batched_tokens, {}
        preempted = False
        for request in list(self.running):  # those that run come first: each gets its next token, or its next chunk
            tokens = min(request.known - request.computed, budget)
            if not tokens or request not in self.running:  # it may have made room for one before it
                break
            while not self.grow(request, request.computed + tokens):
                preempted = True
                if self.preempt_last() is request:
                    break
            if request not in self.running:
                break
            step[request] = tokens
            budget -= tokens
        while self.waiting and not preempted and budget and len(self.running) < self.settings.max_num_seqs:
            request = self.waiting[0]
            if self.blocks_for(request.known) > len(self.free):  # all of it must fit, though it may come in chunks
                break
            step[request] = tokens = min(request.known, budget)
            self.grow(request, tokens)
            self.running.append(self.waiting.pop(0))
            budget -= tokens
        return step

    def preempt_last(self) -> Request:
        """Whoever came last gives all blocks back, and computes all tokens again when it resumes, the first in line."""
        request = self.running.pop()
        self.release(request)
        request.computed = 0
        self.waiting.insert(0, request)
        return request

    def finish(self, step: dict[Request, int]) -> None:
        """The model has run: whoever got through all its tokens has a new one, and who has written all is done."""
        for request, tokens in step.items():
            request.computed += tokens
            if request.computed == request.known:
                request.known += 1
                request.to_write -= 1
            if not request.to_write:
                self.running.remove(request)
                self.release(request)


# ---------------------------------------------------------------------------------------------- against vLLM


class Planned(NamedTuple):
    """A step of either scheduler, as they are compared."""

    tokens: dict[int, int]  # request -> tokens
    used: int  # blocks, while the step runs


def recorded(trace: ScheduleTrace) -> list[Planned]:
    """The steps of vLLM's scheduler."""
    total = trace.settings.num_blocks - 1
    return [Planned(step.tokens, total - step.free) for step in trace.replay()]


def planned(scheduler: Scheduler, trace: ScheduleTrace) -> list[Planned]:
    """The steps of a scheduler to which the same requests come before the same steps; at most as many, and one more."""
    requests = [Request(number, entry.prompt, entry.outputs) for number, entry in enumerate(trace.requests)]
    steps: list[Planned] = []
    while len(steps) <= len(trace):
        for request in requests:
            if trace.requests[request.number].arrived == len(steps):
                scheduler.add(request)
        step = scheduler.schedule()
        if not step:
            break
        steps.append(Planned({request.number: tokens for request, tokens in step.items()}, scheduler.used))
        scheduler.finish(step)
    return steps


def first_difference(ours: list[Planned], theirs: list[Planned]) -> int | None:
    """The first step that differs, None if all are the same."""
    if ours == theirs:
        return None
    different = (index for index, (our, their) in enumerate(zip(ours, theirs, strict=False)) if our != their)
    return next(different, min(len(ours), len(theirs)))
