"""A trace: its file, its checks and its replay; with the real vLLM, that a recording is what happened."""

import copy
import json
import random
import signal
from types import SimpleNamespace

import pytest
from conftest import ROOT

from benchmarks.schedule import checked, long_trace, random_arrivals, serve, small_engine, vllm_version
from helpers import CourseError, schedule
from helpers.engine import close_engine
from helpers.explorer import ScheduleExplorer
from helpers.schedule_trace import KINDS, TOO_LARGE, Change, Request, ScheduleTrace, Settings

RECORDED = ROOT / "tests" / "schedule_qwen3_tiny.json"  # of `demonstration` below, which a slow test records again


def demonstration() -> list[tuple[int, list[int], int]]:
    """Arrivals that meet all that a scheduler does: chunks, hits, waiting for a seat, a preemption, a resumption."""
    draw = random.Random(7)

    def own(number):
        return [draw.randrange(1000, 2000) for _ in range(number)]

    shared = own(64)
    return [
        (0, shared + own(9), 40), (0, shared + own(20), 50), (2, own(130), 40), (4, shared + own(30), 44),
        (9, own(40), 36), (16, own(25), 12), (40, own(12), 8),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trace():
    return ScheduleTrace.load(RECORDED)


# ---------------------------------------------------------------------------------------------- the replay


def test_each_step_follows_from_the_one_before(trace):
    """What holds of any scheduler, worked out here from the steps alone."""
    total, size = trace.settings.num_blocks - 1, trace.settings.block_size
    done = dict.fromkeys(range(len(trace.requests)), 0)
    seen = set()
    for index, step in enumerate(trace.replay()):
        held = {block for table in step.tables.values() for block in table}
        assert step.index == index and step.free + len(held) == total
        assert sum(step.tokens.values()) <= trace.settings.max_num_batched_tokens
        for request, tokens in step.tokens.items():
            assert len(step.tables[request]) == -(-(step.computed[request] + tokens) // size)
            done[request] = max(done[request], step.computed[request] + tokens)
        assert not set(step.waiting) & step.tables.keys()
        seen |= {
            *step.kinds.values(),
            *(name for name in ("hits", "preempted", "resumed", "gone") if getattr(step, name)),
        }
    assert seen == {*KINDS, "hits", "preempted", "resumed", "gone"}
    assert [done[number] for number in done] == [request.prompt + request.outputs - 1 for request in trace.requests]


def test_a_step_says_who_came_went_and_was_preempted(trace):
    step = trace.at(39)
    assert (step.preempted, step.waiting, step.tokens) == ((3,), (3, 4, 5), {0: 1, 1: 1, 2: 1})
    assert step.shared == {1, 2} and step.tables[0][:2] == step.tables[1][:2] == (1, 2) and 3 not in step.tables
    assert trace.at(40).arrived == (6,) and trace.at(41).resumed == (3,) and trace.at(41).gone == (0,)
    first = trace.at(0)
    assert (first.started, first.kinds, first.free) == ((0,), {0: "chunk"}, 12)
    assert trace.at(1).hits == {1: 64} and trace.at(1).kinds == {0: "chunk", 1: "prefill"}
    assert trace.at(2).kinds[0] == "decode"


@pytest.mark.parametrize("index", [-1, 80])
def test_a_step_that_is_not_there_is_refused(trace, index):
    with pytest.raises(CourseError, match="the steps of this trace are 0 to 79"):
        trace.at(index)


def test_a_draft_counts_by_what_was_accepted():
    """Three drafts behind a token, of which two were right: three new tokens, and the next step begins behind them."""
    settings = Settings(block_size=16, num_blocks=4, max_num_seqs=2, max_num_batched_tokens=32)
    changes = [
        Change(tokens={0: 8}, blocks={0: [1]}, free=2),
        Change(tokens={0: 4}, drafts={0: 3}, accepted={0: 2}),
        Change(tokens={0: 1}, computed={0: 11}),
    ]
    trace = ScheduleTrace(settings, [Request(8, 0, 3, 5, "length")], changes)
    assert [(step.computed[0], step.known[0]) for step in trace.replay()] == [(0, 8), (8, 9), (11, 12)]


# ---------------------------------------------------------------------------------------------- the file


def test_a_saved_trace_is_the_same_again(trace, tmp_path):
    trace.save(tmp_path / "trace.json")
    again = ScheduleTrace.load(tmp_path / "trace.json")
    assert again.data() == trace.data() and list(again.replay()) == list(trace.replay())
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    assert repr(trace) == "ScheduleTrace(7 requests, 80 steps, 14 blocks of 32)"


def test_a_long_trace_is_small(tmp_path):
    long_trace(requests=16, steps=500).save(tmp_path / "trace.json")
    assert (tmp_path / "trace.json").stat().st_size < 16 * 500 * 3  # bytes for each token


def refused(path, data) -> str:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(CourseError) as error:
        ScheduleTrace.load(path)
    for said in (error.value.zh, error.value.en):
        assert said.startswith(str(path)) and "\n" not in said and len(said) < 300
    return error.value.en


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", "{}", "[" * 100_000, '{"version": 1}', '{"version": 1, "steps": [], "requests": 3}'],
)
def test_a_damaged_file_is_refused(text, tmp_path):
    assert "is no complete schedule trace" in refused(tmp_path / "trace.json", text)


def test_a_file_that_was_cut_is_refused(tmp_path):
    text = RECORDED.read_text()
    for part in (0.1, 0.5, 0.99):
        assert "is no complete schedule trace" in refused(tmp_path / "trace.json", text[: int(part * len(text))])


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_another_version_is_refused(version, tmp_path):
    data = json.loads(RECORDED.read_text()) | {"version": version}
    assert "and this reads version 1" in refused(tmp_path / "trace.json", data)


def test_no_file_and_no_regular_file_are_refused(tmp_path):
    with pytest.raises(CourseError, match="check its name"):
        ScheduleTrace.load(tmp_path / "none.json")
    with pytest.raises(CourseError, match="is no complete schedule trace"):
        ScheduleTrace.load(tmp_path)


def change(place, value):
    """Sets a value of the file: ``steps.39.preempted`` is that of step 39."""

    def act(data):
        *path, last = (int(part) if part.isdecimal() else part for part in place.split("."))
        for part in path:
            data = data[part] if isinstance(data, list) else data.setdefault(str(part), {})
        data[last if isinstance(data, list) else str(last)] = value

    return act


NONSENSE = [
    (change("settings.block_size", 0), "settings"),
    (change("settings.prefix_caching", 1), "settings"),
    (change("settings.max_num_batched_tokens", 63), "step 0 the tokens exceed the budget"),
    (change("settings.max_num_seqs", 3), "too many requests run"),
    (change("settings.num_blocks", 99), "do not add up"),
    (change("requests.2.prompt", True), "request r2"),
    (change("requests.2.gone", 1), "request r2"),
    (change("requests.2.gone", 81), "request r2"),
    (change("requests.2.reason", "tired"), "request r2"),
    (change("requests.2.outputs", 41), "do not make the 41 tokens that it wrote"),
    (change("requests.6.outputs", 7), "do not make the 7 tokens that it wrote"),
    (change("requests.2.arrived", 3), "r2 gets blocks and is not there"),
    (change("requests.2.prompt", 131), "do not make"),
    (change("steps.0.tokens", {"7": 64}), "entry of step 0"),
    (change("steps.0.tokens", {"0": 1.5}), "entry of step 0"),
    (change("steps.0.tokens", {"0": -64}), "entry of step 0"),
    (change("steps.0.tokens", [64]), "entry of step 0"),
    (change("steps.0.tokens.1", 1), "step 0 a request that does not run has tokens"),
    (change("steps.2.tokens.4", 1), "a request that does not run has tokens"),
    (change("steps.0.blocks", {"0": [1, 1]}), "a block that is taken"),
    (change("steps.0.blocks", {"0": [0, 1]}), "a block is not in the pool"),
    (change("steps.0.blocks", {"0": [1, 15]}), "a block is not in the pool"),
    (change("steps.0.blocks", {"0": [1, 2, 3]}), "do not add up"),
    (change("steps.0.blocks", {"0": []}), "r0 gets blocks"),
    (change("steps.1.computed", {}), "step 1 r1 gets a block that is taken"),  # shared without a hit
    (change("steps.1.blocks.0", [4]), "a block that is taken"),
    (change("steps.2.preempted", [5]), "r5 is preempted and did not run"),
    (change("steps.39.preempted", []), "do not add up"),
    (change("steps.39.free", 3), "do not add up"),
    (change("steps.39.drafts", {"0": 2}), "more tokens than it has"),
    (change("steps.39.tokens", {"0": 2}), "more tokens than it has"),
]


@pytest.mark.parametrize(("act", "said"), NONSENSE)
def test_a_trace_that_makes_no_sense_is_refused(act, said, tmp_path):
    data = json.loads(RECORDED.read_text())
    act(data)
    reason = refused(tmp_path / "trace.json", data)
    assert "makes no sense" in reason and said in reason


def test_a_block_table_that_does_not_fit_its_tokens_is_refused():
    settings = Settings(block_size=16, num_blocks=9, max_num_seqs=2, max_num_batched_tokens=64)
    for tokens, blocks in ((17, [1]), (16, [1, 2])):
        with pytest.raises(CourseError, match="block table of r0 does not fit its tokens"):
            ScheduleTrace(settings, [Request(40, 0)], [Change({0: tokens}, {0: blocks}, free=8 - len(blocks))])


def test_more_steps_than_anyone_replays_are_refused_at_once():
    settings, steps = Settings(16, 9, 2, 64), [Change()] * 10_001
    with pytest.raises(CourseError, match=TOO_LARGE):
        ScheduleTrace(settings, [Request(1, 0)] * 1000, steps)


def test_whatever_is_changed_is_read_or_refused_in_a_sentence(tmp_path):
    """Any value of the file, replaced by another kind of value."""
    original, draw = json.loads(RECORDED.read_text()), random.Random(0)
    others = (None, True, -1, 0, 3, 2**60, 0.5, "3", "", [], [3], {}, {"0": 3}, {"0": [3]}, {"x": 1}, [[[]]])
    outcomes = set()
    for _ in range(250):
        data = copy.deepcopy(original)
        place = data
        while True:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not isinstance(place[key], dict | list) or not place[key] or draw.random() < 0.2:
                break
            place = place[key]
        place[key] = draw.choice(others)
        (tmp_path / "trace.json").write_text(json.dumps(data))
        try:
            list(ScheduleTrace.load(tmp_path / "trace.json").replay())
            outcomes.add("read")
        except CourseError as error:
            assert "\n" not in error.en
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# ---------------------------------------------------------------------------------------------- what is no engine here


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        (None, "record.. takes an engine"),
        ("qwen3-tiny", "record.. takes an engine"),
        (SimpleNamespace(llm_engine=SimpleNamespace(engine_core=object())), "runs in another process"),
    ],
)
def test_what_has_no_scheduler_here_is_refused(llm, said):
    with pytest.raises(CourseError, match=said), schedule.record(llm):
        pass


# ---------------------------------------------------------------------------------------------- the real scheduler


@pytest.fixture(scope="module")
def llm():
    with small_engine(blocks=15, max_num_seqs=4, max_num_batched_tokens=64) as engine:
        yield engine


def scheduler_of(llm):
    return llm.llm_engine.engine_core.engine_core.scheduler


@pytest.mark.slow
def test_a_recording_is_what_the_scheduler_did(llm, tmp_path):
    """`checked` holds each step against the scheduler's own block tables, free blocks and counts. With the vLLM of
    drivers 570 to 579, tools/environment/cu12_on_cpu.sh runs this test.
    """
    draw, seen = random.Random(3), set()
    for _ in range(2):
        trace, written = checked(llm, random_arrivals(draw, requests=12))
        assert [request.outputs for request in trace.requests] == [len(tokens) for tokens in written]
        assert {request.reason for request in trace.requests} == {"length"}
        for step in trace.replay():
            names = ("hits", "preempted", "resumed", "shared", "waiting", "gone")
            seen |= {*step.kinds.values(), *(name for name in names if getattr(step, name))}
    assert seen == {*KINDS, "hits", "preempted", "resumed", "shared", "waiting", "gone"}
    trace.save(tmp_path / "trace.json")
    loaded = ScheduleTrace.load(tmp_path / "trace.json")
    assert list(loaded.replay()) == list(trace.replay())
    ScheduleExplorer(loaded).to_html(tmp_path / "page.html", lang="en")
    assert f'"vllm": "{vllm_version()}"' in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_kept_recording_is_what_vllm_does_today(llm, trace):
    llm.reset_prefix_cache()
    again, written = checked(llm, demonstration())
    assert again.data()["requests"] == trace.data()["requests"]
    steps = list(again.replay())
    # which blocks the pool hands out depends on what ran before
    assert [step.tokens for step in steps] == [step.tokens for step in trace.replay()]
    assert [(step.free, step.preempted, step.hits) for step in steps] == [
        (step.free, step.preempted, step.hits) for step in trace.replay()
    ]
    llm.reset_prefix_cache()
    assert serve(llm, demonstration()) == written  # recording changed nothing


@pytest.mark.slow
@pytest.mark.parametrize("how", ["end", "error", "interrupt"])
def test_behind_a_recording_the_engine_is_as_it_was(llm, how):
    from vllm import SamplingParams

    scheduler = scheduler_of(llm)

    def state():
        return {name: value if name.startswith("max_num") else None for name, value in vars(scheduler).items()}

    before = state()
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    prompts = [{"prompt_token_ids": list(range(1000, 1040 + 5 * number))} for number in range(6)]
    undisturbed = [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]

    def disturbed(*arguments, **options):
        if len(trace) == 12:
            signal.raise_signal(signal.SIGINT)
        return planned(*arguments, **options)

    try:
        with schedule.record(llm, max_num_seqs=2) as trace:
            if how == "interrupt":  # as a key pressed while a step is planned
                planned, scheduler.schedule = scheduler.schedule, disturbed
            llm.generate(prompts, params, use_tqdm=False)
            if how == "error":
                raise ZeroDivisionError
    except (ZeroDivisionError, KeyboardInterrupt) as stopped:
        assert type(stopped).__name__ == {"error": "ZeroDivisionError", "interrupt": "KeyboardInterrupt"}[how]
    trace.check()
    assert {request.reason for request in trace.requests} == {"abort" if how == "interrupt" else "length"}
    assert len(trace) == 13 if how == "interrupt" else len(trace) > 30
    assert state() == before and not scheduler.has_unfinished_requests()
    assert max(len(step.tables) for step in trace.replay()) == trace.settings.max_num_seqs == 2
    again = [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]
    assert again == undisturbed


@pytest.mark.slow
def test_one_recording_at_a_time_and_none_of_a_busy_engine(llm):
    from vllm import SamplingParams

    with schedule.record(llm), pytest.raises(CourseError, match="one record.. at a time"), schedule.record(llm):
        pass
    llm.llm_engine.add_request("busy", {"prompt_token_ids": [1000, 1001]}, SamplingParams(max_tokens=2))
    with pytest.raises(CourseError, match="Requests are under way"), schedule.record(llm):
        pass
    llm.llm_engine.abort_all()
    with schedule.record(llm) as trace:
        llm.generate({"prompt_token_ids": [1000]}, SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)
    assert [vars(request)["outputs"] for request in trace.requests] == [2]


@pytest.mark.slow
def test_a_closed_engine_is_refused(llm):
    """It closes the engine of the tests above."""
    llm.close()
    with pytest.raises(CourseError, match="This engine is closed"), schedule.record(llm):
        pass


@pytest.mark.large  # the drafting is compiled first, which takes most of its time
def test_drafts_are_recorded_with_what_became_of_them(monkeypatch):
    close_engine()
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # or its threads wait for each other
    ngram = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 2}
    with small_engine(blocks=15, max_num_seqs=4, max_num_batched_tokens=64, speculative_config=ngram) as guessing:
        trace, written = checked(guessing, demonstration())
    assert [len(tokens) for tokens in written] == [request.outputs for request in trace.requests]
    names = ("drafts", "accepted")
    drafts, accepted = (sum(sum(getattr(change, name).values()) for change in trace.changes) for name in names)
    assert drafts > accepted > 0 and len(trace) < 80
