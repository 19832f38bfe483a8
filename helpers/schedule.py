"""Records what vLLM's scheduler does, step by step, as a trace of helpers/schedule_trace.py:

    with schedule.record(llm) as trace:  # llm = open_engine(...)
        llm.generate(prompts, params)
    trace.at(41).tokens                  # request -> tokens that step 41 computed
    trace.save("trace.json")

The trace fills as the engine runs, and the engine is left as it was.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import CourseError
from helpers.schedule_trace import Change, Request, ScheduleTrace, Settings

WRAPPED = ("schedule", "update_from_output")


@contextlib.contextmanager
def record(llm, max_num_seqs: int | None = None) -> Iterator[ScheduleTrace]:
    """Record what the scheduler of ``llm`` does inside a ``with`` statement; the trace fills as the engine runs.

    ``llm`` is what ``open_engine`` returns, or a ``vllm.LLM`` in this process. ``max_num_seqs``: meanwhile no more
    requests run at once, so that some wait for a seat. Behind it the engine is as it was, also
    after an error or an interrupt. Raises CourseError for an engine that is closed, runs in another process, is busy or
    already recorded, or whose cache is more than one pool of blocks.
    """
    scheduler = _scheduler(llm)
    recorder = _Recorder(scheduler, max_num_seqs)
    seats = "max_num_active_reqs" if hasattr(scheduler, "max_num_active_reqs") else "max_num_running_reqs"  # vLLM 0.19
    there = getattr(scheduler, seats)
    try:
        for name in WRAPPED:
            setattr(scheduler, name, getattr(recorder, name))
        setattr(scheduler, seats, min(there, max_num_seqs or there))
        yield recorder.trace
    finally:
        setattr(scheduler, seats, there)
        for name in WRAPPED:
            vars(scheduler).pop(name, None)
        recorder.finish()


def _scheduler(llm):
    """The scheduler of an engine that can be recorded; the same attributes lead to it in vLLM 0.19 and 0.32."""
    client = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
    if client is None:
        raise CourseError(
            "record() 要的是引擎：请传入 open_engine() 返回的对象。",
            "record() takes an engine: pass what open_engine() returned.",
        )
    core = getattr(client, "engine_core", None)
    if core is None:
        raise CourseError(
            "这个引擎运行在另一个进程里，看不到它的调度器：请用 open_engine() 在本进程里打开。",
            "This engine runs in another process, out of sight of this one: open it here with open_engine().",
        )
    scheduler = core.scheduler
    if set(WRAPPED) & vars(scheduler).keys():
        raise CourseError(
            "这个引擎正在录制：一次只能有一个 record()。", "This engine is being recorded: one record() at a time."
        )
    if scheduler.has_unfinished_requests():
        raise CourseError(
            "引擎里还有没跑完的请求：请在它们结束之后再开始录制。",
            "Requests are under way in this engine: start to record when they have ended.",
        )
    if len(scheduler.kv_cache_config.kv_cache_groups) != 1 or scheduler.connector is not None:
        raise CourseError(
            "这个引擎的缓存不只是一个块池，录制不了：请换一个所有层都用普通注意力的模型，不接外部缓存。",
            "The cache of this engine is more than one pool of blocks and cannot be recorded: take a model with plain "
            "attention in every layer, and no cache elsewhere.",
        )
    return scheduler


class _Recorder:
    """Stands before two methods of a scheduler and notes what each step changed."""

    def __init__(self, scheduler, max_num_seqs: int | None = None):
        self.scheduler = scheduler
        self.pool = scheduler.kv_cache_manager.block_pool
        self.originals = {name: getattr(scheduler, name) for name in WRAPPED}
        self.trace = ScheduleTrace(_settings(scheduler, max_num_seqs), provenance=_provenance(scheduler))
        self.live: dict[str, tuple[int, Any]] = {}  # vLLM's id -> our number, vLLM's request
        self.expected: dict[int, int] = {}  # running request -> tokens in the cache, if no draft is rejected
        self.tokens: dict[int, int] = {}  # of the last step
        self.free = self.trace.settings.num_blocks - 1
        self.guessed: list[tuple[Any, Change]] = []  # steps with drafts whose results are not in yet

    def schedule(self, *arguments, **options):
        self.note_ends()
        self.note_arrivals()
        output = self.originals["schedule"](*arguments, **options)
        if output.num_scheduled_tokens or output.preempted_req_ids:
            self.note_step(output)
        return output

    def update_from_output(self, output, results, *arguments, **options):
        for place, (planned, change) in enumerate(self.guessed):
            if planned is output:  # with async scheduling it is not the last one
                del self.guessed[place]
                self.note_accepted(change, output, results)
                break
        return self.originals["update_from_output"](output, results, *arguments, **options)

    def note_arrivals(self) -> None:
        new = []
        for name, request in reversed(self.scheduler.requests.items()):
            if name in self.live:
                break
            new.append((name, request))
        for name, request in reversed(new):
            self.live[name] = len(self.trace.requests), request
            self.trace.requests.append(Request(request.num_prompt_tokens, arrived=len(self.trace)))

    def note_ends(self) -> None:
        for name in [name for name in self.live if name not in self.scheduler.requests]:
            number, request = self.live.pop(name)
            entry, reason = self.trace.requests[number], request.get_finished_reason()
            entry.gone, entry.outputs = len(self.trace), request.num_output_tokens
            entry.reason = None if reason is None else str(reason)
            self.expected.pop(number, None)
            self.tokens.pop(number, None)

    def note_step(self, output) -> None:
        """Write down a step, in the scheduler's order: a request may find blocks that one before it has just got."""
        change = Change(preempted=sorted(self.live[name][0] for name in output.preempted_req_ids or ()))
        for number in change.preempted:
            self.expected.pop(number, None)
            self.tokens.pop(number, None)
        cached = output.scheduled_cached_reqs
        entries = zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True)
        planned = {name: (blocks, computed) for name, blocks, computed in entries}
        planned |= {new.req_id: (new.block_ids, new.num_computed_tokens) for new in output.scheduled_new_reqs}
        now = {}
        for name, tokens in output.num_scheduled_tokens.items():
            number, (blocks, computed) = self.live[name][0], planned[name]
            if blocks and blocks[0]:
                change.blocks[number] = list(blocks[0])
            if computed != self.expected.get(number, 0):
                change.computed[number] = computed
            self.expected[number] = computed + tokens
            now[number] = tokens
        change.tokens = {number: tokens for number, tokens in now.items() if self.tokens.get(number) != tokens}
        change.tokens |= {number: 0 for number in self.tokens if number not in now}
        self.tokens = now
        free = self.pool.get_num_free_blocks()
        if free != self.free:
            self.free = change.free = free
        self.trace.changes.append(change)
        if output.scheduled_spec_decode_tokens:
            drafts = output.scheduled_spec_decode_tokens
            change.drafts = {self.live[name][0]: len(tokens) for name, tokens in drafts.items()}
            self.guessed.append((output, change))

    def note_accepted(self, change: Change, output, results) -> None:
        for name in output.scheduled_spec_decode_tokens:
            place = results.req_id_to_index.get(name)
            if name in self.live and place is not None and results.sampled_token_ids:
                accepted = max(len(results.sampled_token_ids[place]) - 1, 0)
                change.accepted[self.live[name][0]] = accepted

    def finish(self) -> None:
        self.note_ends()
        for number, request in self.live.values():
            self.trace.requests[number].outputs = request.num_output_tokens


def _settings(scheduler, max_num_seqs: int | None) -> Settings:
    config = scheduler.vllm_config
    [group] = scheduler.kv_cache_config.kv_cache_groups
    return Settings(
        block_size=group.kv_cache_spec.block_size,
        num_blocks=scheduler.kv_cache_manager.block_pool.num_gpu_blocks,
        max_num_seqs=min(scheduler.max_num_running_reqs, max_num_seqs or scheduler.max_num_running_reqs),
        max_num_batched_tokens=scheduler.max_num_scheduled_tokens,
        lookahead=scheduler.num_lookahead_tokens,
        prefix_caching=bool(config.cache_config.enable_prefix_caching),
        async_scheduling=bool(config.scheduler_config.async_scheduling),
    )


def _provenance(scheduler) -> dict[str, str]:
    import vllm

    config = scheduler.vllm_config.model_config
    dtype = str(config.dtype).removeprefix("torch.")
    return {"model": Path(config.model).name, "dtype": dtype, "vllm": vllm.__version__}
