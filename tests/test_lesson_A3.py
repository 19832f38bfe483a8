"""helpers/lessons/lA3: the reference scheduler plans every step as vLLM's does."""

import random

import pytest

from benchmarks.schedule import checked, random_arrivals, small_engine
from helpers.lessons import lA3
from helpers.schedule import Settings


def plan(scheduler, arrivals) -> list[tuple[dict[int, int], int]]:
    """Steps of a scheduler to which requests come before a step: (step, prompt tokens, new tokens)."""
    requests = [lA3.Request(number, prompt, new) for number, (_, prompt, new) in enumerate(arrivals)]
    steps = []
    while len(steps) < 1000:
        for request, (step, _, _) in zip(requests, arrivals, strict=True):
            if step == len(steps):
                scheduler.add(request)
        if not (chosen := scheduler.schedule()):
            return steps
        steps.append(({request.number: tokens for request, tokens in chosen.items()}, scheduler.used))
        scheduler.finish(chosen)
    raise AssertionError("it does not end")


def test_a_long_prompt_comes_in_chunks_beside_those_that_write():
    scheduler = lA3.Scheduler(Settings(block_size=16, num_blocks=30, max_num_seqs=4, max_num_batched_tokens=20))
    steps = plan(scheduler, [(0, 5, 6), (1, 50, 2)])
    assert [tokens for tokens, _ in steps] == [
        {0: 5},
        {0: 1, 1: 19},
        {0: 1, 1: 19},
        {0: 1, 1: 12},
        {0: 1, 1: 1},
        {0: 1},
    ]
    assert [used for _, used in steps] == [1, 3, 4, 5, 5, 1] and scheduler.used == 0


def test_the_last_to_come_is_preempted_and_computes_all_again():
    scheduler = lA3.Scheduler(Settings(block_size=4, num_blocks=5, max_num_seqs=4, max_num_batched_tokens=20))
    steps = plan(scheduler, [(0, 7, 6), (0, 7, 6)])
    assert [tokens for tokens, _ in steps] == [{0: 7, 1: 7}, {0: 1, 1: 1}, {0: 1}, *[{0: 1}] * 3, {1: 9}, *[{1: 1}] * 3]
    assert max(used for _, used in steps) == 4


def test_the_first_step_that_differs_is_found():
    steps = [lA3.Planned({0: 3}, 1), lA3.Planned({0: 1}, 1)]
    assert lA3.first_difference(steps, list(steps)) is None
    assert lA3.first_difference(steps, [steps[0], lA3.Planned({0: 1}, 2)]) == 1
    assert lA3.first_difference(steps, steps[:1]) == lA3.first_difference(steps[:1], steps) == 1


@pytest.mark.large
@pytest.mark.release
def test_every_step_is_that_of_vllm():
    """20 random traces in float32, prefix caching and async scheduling off; here and there a request is preempted."""
    draw, preempted, chunks = random.Random(5), 0, 0
    options = {"dtype": "float32", "enable_prefix_caching": False, "async_scheduling": False}
    with small_engine(blocks=13, **options) as llm:
        for round_ in range(20):
            trace, _ = checked(llm, random_arrivals(draw, requests=8))
            ours, theirs = lA3.planned(lA3.Scheduler(trace.settings), trace), lA3.recorded(trace)
            place = lA3.first_difference(ours, theirs)
            assert place is None, (round_, place, ours[place : place + 1], theirs[place : place + 1])
            preempted += sum(len(step.preempted) for step in trace.replay())
            chunks += sum(list(step.kinds.values()).count("chunk") for step in trace.replay())
    assert preempted > 5 and chunks > 50
