"""Wrong schedulers of appendix A3: the reference with one thing done otherwise, to be told apart by their steps."""

from helpers.lessons.lA3.scheduler import Pool, Request
from helpers.schedule_trace import Settings

Step = dict[Request, int]


def plan(waiting, running, pool, settings, *, newcomers_first=False, victim=None, **how) -> Step:
    """newcomers_first: before those that run. victim: how to preempt, see ``_make_room``.
    how: see ``_go_on`` and ``_let_in``."""
    step: Step = {}
    inside = {key: how[key] for key in how if key in ("ahead", "one_token", "whole", "all_known")}
    outside = {key: how[key] for key in how if key not in inside or key == "ahead"}
    before = len(running)
    if newcomers_first:
        _let_in(step, waiting, running, pool, settings, **outside)
        before = len(running) - len(step)
    preempted = _go_on(step, waiting, running, pool, settings, victim, before, **inside)
    if not newcomers_first and not preempted:
        _let_in(step, waiting, running, pool, settings, **outside)
    return step


def _budget(step: Step, settings: Settings) -> int:
    return settings.max_num_batched_tokens - sum(step.values())


def _go_on(
    step, waiting, running, pool, settings, victim, count, ahead=0, one_token=False, whole=False, all_known=False
):
    """ahead: tokens for which a block is taken too early. one_token: the rest of a prompt comes token by token. whole:
    only if all of it fits the budget. all_known: blocks for all of it at once."""
    preempted = 0
    for request in running[:count]:
        left = request.known - request.computed
        tokens = min(left, 1 if one_token else left if whole else _budget(step, settings))
        if request not in running or not 0 < tokens <= _budget(step, settings):
            continue
        while request in running and not pool.grow(
            request, max(request.computed + tokens, all_known and request.known) + ahead
        ):
            if not victim:
                break
            _make_room(victim, request, waiting, running, pool, preempted)
            preempted += 1
        else:
            if request in running:
                step[request] = tokens
    return preempted


def _make_room(victim: str, request: Request, waiting, running, pool: Pool, before: int) -> None:
    """victim: "first" or "last" of those that run, the one that "needs" the block, the one with the "most" blocks;
    "back": the last one, which then waits behind the others; "in turn": behind those that left before it in this step,
    so many."""
    leaves = {"first": running[0], "needs": request, "most": max(running, key=lambda other: len(other.blocks))}.get(
        victim, running[-1]
    )
    running.remove(leaves)
    pool.release(leaves)
    leaves.computed = 0
    waiting.insert({"back": len(waiting), "in turn": before}.get(victim, 0), leaves)


def _let_in(step, waiting, running, pool, settings, *, ahead=0, at=0, shortest=False, most=99, chunks=True,
            must_fit=True, skips=False, hops=False, all_blocks=False, seats=0, spare=0,
            when=lambda step, running: True):  # fmt: skip
    """at: whose turn it is, -1 the last; or the shortest. most: in one step. chunks: a part of a prompt may come.
    must_fit: all of it, into the pool. skips: whoever does not fit lets others pass. hops: over the one behind each
    that comes in. all_blocks: taken at once. seats: left empty. spare: blocks that stay free."""
    new, passed = 0, 0
    while len(waiting) > passed and new < most and _budget(step, settings) and when(step, running):
        request = min(waiting, key=lambda other: other.known) if shortest else waiting[passed if skips or hops else at]
        tokens = min(request.known, _budget(step, settings))
        if len(running) >= settings.max_num_seqs - seats or (tokens < request.known and not chunks):
            break
        if pool.blocks_for(request.known if must_fit else tokens) > len(pool.free) - spare:
            if not skips:
                break
            passed += 1
            continue
        pool.grow(request, request.known if all_blocks else tokens + ahead)
        waiting.remove(request)
        running.append(request)
        step[request] = tokens
        new += 1
        passed += hops


def batch_at_a_time(waiting, running, pool, settings) -> Step:
    """Nobody comes in before all have left."""
    empty = not running
    return plan(waiting, running, pool, settings, when=lambda step, running: empty)


def separately(waiting, running, pool, settings) -> Step:
    """A step reads prompts or writes, never both: while a prompt is there, nobody writes."""
    step: Step = {}
    _let_in(step, waiting, running, pool, settings)
    reading = [request for request in running if request not in step and request.known - request.computed > 1]
    if step or reading:
        for request in reading:
            tokens = min(request.known - request.computed, _budget(step, settings))
            if tokens and pool.grow(request, request.computed + tokens):
                step[request] = tokens
        return step
    return plan([], running, pool, settings)


def only_once(waiting, running, pool, settings) -> Step:
    """Whoever makes room does, but nobody takes it: an ``if`` in place of the ``while``."""
    step: Step = {}
    for request in list(running):
        tokens = min(request.known - request.computed, _budget(step, settings))
        if not tokens or request not in running:
            break
        if not pool.grow(request, request.computed + tokens):
            _make_room("last", request, waiting, running, pool, 0)
        if request in running:
            step[request] = tokens
    _let_in(step, waiting, running, pool, settings)
    return step
