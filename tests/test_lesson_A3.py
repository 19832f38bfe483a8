"""helpers/lessons/lA3: the reference scheduler plans every step as vLLM's does; what a learner's wrong one is told."""

import random
import re
from dataclasses import replace

import pytest

from benchmarks.schedule import checked, random_arrivals, small_engine
from helpers import attempt, language
from helpers.lessons import lA3
from helpers.lessons.lA3 import wrong
from helpers.lessons.lA3.exercises_steps import ROOMY, TIGHT, entries
from helpers.lessons.lA3.run import Planned, first_difference, recorded, run
from helpers.lessons.lA3.scheduler import schedule
from helpers.schedule_trace import Settings


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


# ---------------------------------------------------------------------------------------------- wrong schedulers


def tampered(change):
    """The reference, and behind each step what else a learner does: ``change(step, waiting, running, pool)``."""
    ended = []  # whoever has run and does so no longer

    def scheduler(waiting, running, pool, settings):
        ended[:] = dict.fromkeys([*ended, *running])
        step = schedule(waiting, running, pool, settings)
        return change(step, waiting, running, pool, [request for request in ended if not request.to_write])

    return scheduler


def endless(waiting, running, pool, settings):
    while waiting:
        pass
    return {}


def again(step, waiting, running, pool, ended):
    return step | dict.fromkeys(ended, 1)


def back_in(step, waiting, running, pool, ended):
    running += ended
    return step


def twice(step, waiting, running, pool, ended):
    for request in ended:
        pool.release(request)
    return step


def exchanged(step, waiting, running, pool, ended):
    for request in running:
        if request.computed:
            pool.release(request)
            pool.grow(request, request.computed + step.get(request, 0))
    return step


def greedy(step, waiting, running, pool, ended):
    pool.grow(running[0], 10_000)
    return step


def counted(step, waiting, running, pool, ended):
    for request, tokens in step.items():
        request.computed += tokens
    return step


def forgotten(step, waiting, running, pool, ended):
    for request in waiting:
        request.known = 0
    return step


def taken(step, waiting, running, pool, ended):
    running[0].blocks.append(pool.free[0])
    return step


def finished(step, waiting, running, pool, ended):
    for request in [request for request in running if request.to_write == 1 and request.computed]:
        running.remove(request)
        pool.release(request)
    return step


FAULTS = [
    (endless, "not done after"),
    (lambda *case: None, "is a return missing"),
    (tampered(again), "r0 has ended and is scheduled again"),
    (tampered(back_in), "r0 has ended and is listed again"),
    (tampered(twice), "r0 has no blocks and gives them back again"),
    (tampered(greedy), "r0 asks for 313 blocks, and the whole pool has 19"),
    (tampered(exchanged), "its blocks were given back or exchanged"),
    (tampered(counted), "computed of r0 went from 0 to 10"),
    (tampered(forgotten), "known of r2 went from 9 to 0"),
    (tampered(taken), "the blocks of the pool do not add up"),
    (tampered(lambda step, *rest: {}), "nothing is scheduled, and r0 r1 r2 are not done"),
    (tampered(lambda step, *rest: {request.number: tokens for request, tokens in step.items()}), "request -> tokens"),
    (tampered(lambda step, *rest: dict.fromkeys(step, 0)), "leave out whoever computes nothing"),
    (tampered(lambda step, *rest: dict.fromkeys(step, 99)), "198 tokens in all, and the budget is 64"),
    (tampered(lambda step, *rest: dict.fromkeys(step, 11)), "r0 has 10 tokens left to compute, and 11 are scheduled"),
    (tampered(lambda step, waiting, running, *rest: running.append(waiting.pop(0)) or step), "max_num_seqs is 2"),
    (tampered(lambda step, waiting, running, *rest: waiting.clear() or step), "r2 is 0 times in waiting and running"),
    (tampered(lambda step, waiting, running, *rest: waiting.append(running.pop()) or step), "r1 has tokens and is not"),
    (tampered(finished), "r0 has tokens and was taken out of running"),
    (tampered(lambda *rest: 1 / 0), "ZeroDivisionError"),
    (tampered(lambda step, *rest: step if len(step) > 1 else None), "no dictionary comes back"),
]


@pytest.mark.parametrize(("wrong", "hint"), FAULTS, ids=[hint for _, hint in FAULTS])
def test_what_no_scheduler_may_do_ends_in_a_sentence(wrong, hint, capsys, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    monkeypatch.setattr(attempt, "SECONDS", 0.5)
    lA3.ex3.check(wrong)
    printed = capsys.readouterr().out
    assert hint in printed and len(printed.splitlines()) == 1


def half(waiting, running, pool, settings):
    """As no mistake of the room does it."""
    return schedule(
        waiting, running, pool, replace(settings, max_num_batched_tokens=settings.max_num_batched_tokens // 2)
    )


def test_a_mistake_is_known_by_its_first_wrong_step(monkeypatch):
    """Later steps may differ from those of every mistake; where none fits, the step itself is told, beside vLLM's."""
    monkeypatch.setattr(language, "LANGUAGE", "en")
    assert lA3.ex3.diagnose(half)[1] == (
        "max_num_batched_tokens=20, step 1 differs: "
        "vLLM computes {r0: 1, r1: 19} in 3 blocks, yours computes {r0: 1, r1: 9} in 2 blocks."
    )

    def shortest_then_none(waiting, running, pool, settings):
        waiting.sort(key=lambda request: request.known)
        step = schedule(waiting, running, pool, settings)
        return dict(list(step.items())[:1]) if len(running) == 1 else step

    assert lA3.ex3.diagnose(shortest_then_none)[1].startswith("the shortest goes first")


def test_who_sends_the_wrong_one_away_or_lets_it_compute_is_told_so(monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")

    def preempting(who, stays):
        def scheduler(waiting, running, pool, settings):
            if len(running) == 2 and not pool.free:
                request = running.pop(who)
                pool.release(request)
                request.computed = 0
                waiting.insert(0, request)
                return {request: 1} if stays else {}
            return schedule(waiting, running, pool, settings)

        return scheduler

    assert lA3.ex4.diagnose(preempting(0, stays=False))[1].endswith(
        "r0 was sent away: it should be the last of running."
    )
    assert "r1 has tokens and was sent away in this step" in lA3.ex4.diagnose(preempting(-1, stays=True))[1]


def test_beside_shows_the_first_step_that_differs(capsys, monkeypatch):
    """Both traces, at that step; nothing where a function is not written, all where every step is vLLM's."""
    monkeypatch.setattr(language, "LANGUAGE", "en")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    trace = run(schedule, *ROOMY["max_num_seqs=2"]).trace  # as if vLLM had done it, which plans the same
    lA3.beside(wrong.batch_at_a_time, trace)
    printed = capsys.readouterr().out
    place = int(re.match(r"Step (\d+) differs: vLLM computes", printed)[1])
    assert [explorer.data["step"] for explorer in shown] == [place, place]
    assert [explorer.data["about"]["model"] for explorer in shown] == ["your scheduler", "your scheduler"]
    assert len(shown[0].trace) > len(shown[1].trace) == len(trace)
    shown.clear()
    lA3.beside(schedule, trace)
    lA3.beside(lambda *case: ..., trace)
    lA3.beside(lambda *case: 1 / 0, trace)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [f"{len(trace)} steps, each of them vLLM's.", "Not written yet: the function returns ..."]
    assert "ZeroDivisionError" in printed[2] and shown == []


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
