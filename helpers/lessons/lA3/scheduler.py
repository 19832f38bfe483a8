"""A scheduler with a paged cache in few lines. It plans as vLLM's does under four conditions.

First come, first served; prefix caching off; async scheduling off; every request writes a number of tokens that is
known before (``ignore_eos``). Then neither the model nor its weights matter: counts alone decide a step.
"""

from dataclasses import dataclass, field

from helpers.schedule_trace import Settings


@dataclass(eq=False)
class Request:
    """A request as a scheduler sees it: how many tokens there are, and how many of them are in the cache."""

    number: int
    known: int  # tokens of the prompt, and those written since
    to_write: int  # tokens that are still to come
    computed: int = 0  # tokens whose keys and values are in the cache
    blocks: list[int] = field(default_factory=list)  # the block table

    def __repr__(self) -> str:
        return f"r{self.number}"


class Fault(Exception):
    """What no scheduler may do, in Chinese and in English; a learner reads it as a hint."""

    def __init__(self, zh: str, en: str):
        super().__init__(en)
        self.hint = zh, en


def blocks_for(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


def grow(free: list[int], table: list[int], tokens: int, block_size: int) -> bool:
    """Append the blocks that so many tokens need, from the front of ``free``; False, and nothing taken, if too few."""
    missing = blocks_for(tokens, block_size) - len(table)
    if missing > len(free):
        return False
    for _ in range(missing):
        table.append(free.pop(0))
    return True


class Pool:
    """The blocks of a cache: which are free, and which a request gets or gives back."""

    def __init__(self, settings: Settings):
        self.block_size = settings.block_size
        self.total = settings.num_blocks - 1
        self.free = list(range(1, settings.num_blocks))  # vLLM keeps block 0 for itself

    @property
    def used(self) -> int:
        return self.total - len(self.free)

    def blocks_for(self, tokens: int) -> int:
        return blocks_for(tokens, self.block_size)

    def grow(self, request: Request, tokens: int) -> bool:
        """Append the blocks that so many tokens need; says whether there were enough."""
        if self.blocks_for(tokens) > self.total:
            raise Fault(
                f"{request} 要 {self.blocks_for(tokens)} 块，整个池只有 {self.total} 块：传给 pool.grow 的词元数不对。",
                f"{request} asks for {self.blocks_for(tokens)} blocks, and the whole pool has {self.total}: "
                "the tokens given to pool.grow are wrong.",
            )
        return grow(self.free, request.blocks, tokens, self.block_size)

    def release(self, request: Request) -> None:
        """All blocks of a request are free again."""
        if not request.blocks:
            raise Fault(
                f"{request} 没有块，却又还了一次：每个请求的块只还一次。",
                f"{request} has no blocks and gives them back again: once is enough.",
            )
        self.free += request.blocks
        request.blocks = []


def schedule(waiting: list[Request], running: list[Request], pool: Pool, settings: Settings) -> dict[Request, int]:
    """The next step: how many tokens of which request. Their blocks are taken, and whoever starts moves to running."""
    budget, step = settings.max_num_batched_tokens, {}
    preempted = False
    for request in list(running):  # those that run come first: each gets its next token, or its next chunk
        tokens = min(request.known - request.computed, budget)
        if not tokens or request not in running:  # it may have made room for one before it
            break
        while not pool.grow(request, request.computed + tokens):
            preempted = True
            if preempt_last(waiting, running, pool) is request:
                break
        if request not in running:
            break
        step[request] = tokens
        budget -= tokens
    while waiting and not preempted and budget and len(running) < settings.max_num_seqs:
        request = waiting[0]
        if pool.blocks_for(request.known) > len(pool.free):  # all of it must fit, though it may come in chunks
            break
        step[request] = tokens = min(request.known, budget)
        pool.grow(request, tokens)
        running.append(waiting.pop(0))
        budget -= tokens
    return step


def preempt_last(waiting: list[Request], running: list[Request], pool: Pool) -> Request:
    """Whoever came last gives all blocks back, and computes all tokens again when it resumes, the first in line."""
    request = running.pop()
    pool.release(request)
    request.computed = 0
    waiting.insert(0, request)
    return request


def finish(step: dict[Request, int], running: list[Request], pool: Pool) -> None:
    """The model has run: whoever got through all its tokens has a new one, and who has written all is done."""
    for request, tokens in step.items():
        request.computed += tokens
        if request.computed == request.known:
            request.known += 1
            request.to_write -= 1
        if not request.to_write:
            running.remove(request)
            pool.release(request)
