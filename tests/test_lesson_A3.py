"""helpers/lessons/lA3: the reference scheduler plans every step as vLLM's does; what a learner's wrong one is told."""

import random

import pytest

from benchmarks.schedule import checked, random_arrivals, small_engine
from helpers.lessons.lA3.exercises import ROOMY, TIGHT, entries
from helpers.lessons.lA3.run import Planned, first_difference, recorded, run
from helpers.lessons.lA3.scheduler import schedule
from helpers.schedule import Settings


def test_a_long_prompt_comes_in_chunks_beside_those_that_write():
    settings = Settings(block_size=16, num_blocks=30, max_num_seqs=4, max_num_batched_tokens=20)
    done = run(schedule, settings, entries((0, 5, 6), (1, 50, 2)))
    assert [step.tokens for step in done.steps] == [
        {0: 5},
        {0: 1, 1: 19},
        {0: 1, 1: 19},
        {0: 1, 1: 12},
        {0: 1, 1: 1},
        {0: 1},
    ]
    assert [step.used for step in done.steps] == [1, 3, 4, 5, 5, 1] and done.fault is None


def test_the_last_to_come_is_preempted_and_computes_all_again():
    done = run(schedule, *TIGHT["num_blocks=5"])
    tokens = [step.tokens for step in done.steps]
    assert tokens == [{0: 7, 1: 7}, {0: 1, 1: 1}, {0: 1}, *[{0: 1}] * 3, {1: 9}, *[{1: 1}] * 3]
    assert max(step.used for step in done.steps) == 4


def test_exercise_3_preempts_nobody_and_exercise_4_in_each_case():
    """So that a scheduler without preemption solves the first."""
    for cases, wanted in ((ROOMY, False), (TIGHT, True)):
        for name, case in cases.items():
            trace = run(schedule, *case).trace
            assert any(step.preempted for step in trace.replay()) == wanted, name


def test_a_run_is_a_trace_that_holds_together():
    """Its replay plans the same, and its explorer knows that nobody recorded it."""
    for case in (ROOMY | TIGHT).values():
        done = run(schedule, *case)
        done.trace.check()
        assert recorded(done.trace) == done.steps
        assert [entry.outputs for entry in done.trace.requests] == [entry.outputs for entry in case[1]]


def test_the_first_step_that_differs_is_found():
    steps = [Planned({0: 3}, 1), Planned({0: 1}, 1)]
    assert first_difference(steps, list(steps)) is None
    assert first_difference(steps, [steps[0], Planned({0: 1}, 2)]) == 1
    assert first_difference(steps, steps[:1]) == first_difference(steps[:1], steps) == 1


@pytest.mark.large
@pytest.mark.release
def test_every_step_is_that_of_vllm():
    """20 random traces in float32, prefix caching and async scheduling off; here and there a request is preempted."""
    draw, preempted, chunks = random.Random(5), 0, 0
    options = {"dtype": "float32", "enable_prefix_caching": False, "async_scheduling": False}
    with small_engine(blocks=13, **options) as llm:
        for round_ in range(20):
            trace, _ = checked(llm, random_arrivals(draw, requests=8))
            ours, theirs = run(schedule, trace.settings, trace.requests).steps, recorded(trace)
            place = first_difference(ours, theirs)
            assert place is None, (round_, place, ours[place : place + 1], theirs[place : place + 1])
            preempted += sum(len(step.preempted) for step in trace.replay())
            chunks += sum(list(step.kinds.values()).count("chunk") for step in trace.replay())
    assert preempted > 5 and chunks > 50
