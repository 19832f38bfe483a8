"""What recording vLLM's scheduler costs, whether recordings hold together, and how fast the explorer shows one:
``.venv/bin/python -m benchmarks.schedule``, about ten minutes; ``--only hints reference`` takes two of its parts.

On the bundled dense model, greedy, with outputs of a fixed length:

- tokens/s with a recording over without, 64 requests at once, alternating;
- at every step of random traces: blocks conserved, each request's table fits its tokens and is the scheduler's own, and
  the replay makes as many tokens as the requests wrote;
- the scheduler of appendix A3 on random traces in float32, without prefix caching and async scheduling: tokens and
  blocks of every step, and the tokens that its mini vLLM writes;
- wrong schedulers: which hint they get;
- a trace of 64 requests and 2,000 steps: its file; in Chromium, how soon its explorer is there and a step is drawn.
"""

import argparse
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.wrong_schedulers import LESSON, hints
from helpers import schedule
from helpers.engine import close_engine, open_engine
from helpers.explorer import ScheduleExplorer
from helpers.schedule_trace import Change, Request, ScheduleTrace, Settings
from tools.lessons.source import read_lesson

KV_BYTES = 1280  # of a token of qwen3-tiny in bfloat16
SMALL = {"max_model_len": 256, "block_size": 32, "max_num_seqs": 6, "max_num_batched_tokens": 48}
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def small_engine(blocks=16, **options):
    """qwen3-tiny with so few blocks, block 0 included, that requests wait and are preempted."""
    options = SMALL | options
    bytes_each = KV_BYTES * options["block_size"] * (2 if options.get("dtype") == "float32" else 1)
    options["num_gpu_blocks_override"] = blocks  # vLLM 0.19 on a CPU does not read the bytes
    return open_engine("qwen3-tiny", kv_cache_memory_bytes=bytes_each * blocks, **options)


def serve(llm, arrivals: list[tuple[int, list[int], int]]) -> list[list[int]]:
    """The new tokens of each request, greedy; an arrival is (step before which it comes, prompt, new tokens)."""
    from vllm import SamplingParams

    engine, written, step = llm.llm_engine, {}, 0
    coming = sorted(range(len(arrivals)), key=lambda number: arrivals[number][0])
    while coming or engine.has_unfinished_requests():
        while coming and arrivals[coming[0]][0] <= step:
            number = coming.pop(0)
            _, prompt, new = arrivals[number]
            params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
            engine.add_request(f"{id(arrivals)}-{number}", {"prompt_token_ids": prompt}, params)
        for output in engine.step():
            if output.finished:
                written[int(output.request_id.rsplit("-", 1)[1])] = list(output.outputs[0].token_ids)
        step += 1
    return [written[number] for number in range(len(arrivals))]


def random_arrivals(draw: random.Random, requests=10, longest=110) -> list[tuple[int, list[int], int]]:
    """Requests of all lengths, many at once, some with the same beginning."""
    beginning, step, arrivals = [draw.randrange(1000, 2000) for _ in range(48)], 0, []
    for _ in range(requests):
        step += draw.choice((0, 0, 1, 3, 12))
        own = [draw.randrange(1000, 2000) for _ in range(draw.randrange(1, longest))]
        arrivals.append((step, draw.choice((own, beginning + own[:40])), draw.randrange(1, 60)))
    return arrivals


def cost(repeats: int) -> list[str]:
    llm = open_engine("qwen3-tiny", max_num_seqs=64)
    draw = random.Random(0)
    arrivals = [(0, [draw.randrange(1000, 2000) for _ in range(40)], 64) for _ in range(64)]
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    worked: dict[str, list[float]] = {"without": [], "with": []}  # seconds of a processor, which others cannot stretch

    def once(name):
        start = time.perf_counter(), time.process_time()
        serve(llm, arrivals)
        seconds[name].append(time.perf_counter() - start[0])
        worked[name].append(time.process_time() - start[1])

    serve(llm, arrivals)  # warms up
    for repeat in range(repeats):
        for name in ("without", "with") if repeat % 2 else ("with", "without"):
            llm.reset_prefix_cache()
            if name == "without":
                once(name)
            else:
                with schedule.record(llm) as trace:
                    once(name)
    close_engine()
    medians = {name: statistics.median(values) for name, values in worked.items()}
    plain, more = (1e6 * value / len(trace) for value in (medians["without"], medians["with"] - medians["without"]))
    speeds = ", ".join(f"{64 * 64 / statistics.median(values):.0f}" for values in seconds.values())
    return [
        f"| tokens/s without, with a recording | {speeds} | |",
        f"| time with over without | {ratio(seconds)} | at most 1.05 |",
        f"| the same of the processor's time | {ratio(worked)} | at most 1.05 |",
        f"| difference of its medians, a step | {more:.0f} µs of {plain:.0f} | |",
    ]


def ratio(seconds: dict[str, list[float]]) -> str:
    """Median of the pairwise ratios, with their range."""
    ratios = [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def invariants(number: int) -> list[str]:
    """Raises AssertionError or CourseError where one does not hold."""
    draw, steps, preempted, hits, shared = random.Random(1), 0, 0, 0, 0
    for round_ in range(number):
        if round_ in (0, number // 3, 2 * number // 3):
            close_engine()
            llm = small_engine(blocks=draw.randrange(10, 20), enable_prefix_caching=round_ > 0)
        llm.reset_prefix_cache()
        arrivals = random_arrivals(draw)
        trace, written = checked(llm, arrivals)
        assert [request.outputs for request in trace.requests] == [len(tokens) for tokens in written]
        for step in trace.replay():
            steps, preempted, hits = steps + 1, preempted + len(step.preempted), hits + sum(step.hits.values())
            shared += len(step.shared)
    close_engine()
    found = f"{steps} steps, {preempted} preemptions, {hits} tokens hit, {shared} shared blocks"
    return [f"| invariants hold in {number} random traces | all: {found} | all |"]


def checked(llm, arrivals) -> tuple[ScheduleTrace, list[list[int]]]:
    """A recording, each step of which is held against the scheduler's own tables, and what the requests wrote."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    manager, real = scheduler.kv_cache_manager, []

    def with_tables(*arguments, **options):
        output = planned(*arguments, **options)
        if output.num_scheduled_tokens or output.preempted_req_ids:
            tables = [tuple(manager.get_block_ids(request.request_id)[0]) for request in scheduler.running]
            real.append((tables, manager.block_pool.get_num_free_blocks(), scheduler.get_request_counts()))
        return output

    with schedule.record(llm) as trace:
        planned, scheduler.schedule = scheduler.schedule, with_tables
        written = serve(llm, arrivals)
    trace.check()
    assert len(real) == len(trace)
    for step, (tables, free, counts) in zip(trace.replay(), real, strict=True):
        assert sorted(step.tables.values()) == sorted(tables) and step.free == free, step.index
        assert (len(step.tables), len(step.waiting)) == counts, step.index
    return trace, written


def reference(number: int) -> list[str]:
    """Appendix A3 against vLLM: the scheduler of its room, in the mini vLLM of its cells."""
    import torch

    from helpers import models, qwen
    from helpers.lessons import lA3
    from helpers.lessons.lA3.run import recorded, run

    code = {cell.key: cell.text["en"] for cell in read_lesson(LESSON).code_cells}
    paged = code["paged"].partition("\n\nmy_gather = ")[0]
    mini = code["mini"].partition("\n\nmy_step = ")[0]
    model = qwen.load_model(models.find_checkpoint("qwen3-tiny"), torch.float32)
    names = {"torch": torch, "lA3": lA3, "model": model, "my_gather": lA3.ex2.right}
    exec(f"{paged}\n\n{mini}", names)
    draw, equal, steps, preempted, chunks, same, tokens = random.Random(6), 0, 0, 0, 0, 0, 0
    options = {"dtype": "float32", "enable_prefix_caching": False, "async_scheduling": False}
    for round_ in range(number):
        if round_ in (0, number // 2):
            close_engine()
            llm = small_engine(blocks=draw.randrange(10, 16), **options)
        arrivals = random_arrivals(draw, requests=8)
        trace, written = checked(llm, arrivals)
        equal += run(lA3.ex4.right, trace.settings, trace.requests).steps == recorded(trace)
        steps += len(trace)
        preempted += sum(len(step.preempted) for step in trace.replay())
        chunks += sum(list(step.kinds.values()).count("chunk") for step in trace.replay())
        config = model.config
        shape = (2, config.num_hidden_layers, trace.settings.num_blocks, config.num_key_value_heads)
        names["memory"] = torch.zeros(*shape, trace.settings.block_size, config.head_dim)
        ours = names["mini_vllm"](lA3.ex4.right, trace, [prompt for _, prompt, _ in arrivals])
        same += sum(
            a == b for mine, theirs in zip(ours, written, strict=True) for a, b in zip(mine, theirs, strict=True)
        )
        tokens += sum(map(len, written))
    close_engine()
    found = f"{steps} steps, {preempted} preemptions, {chunks} chunks"
    return [
        f"| traces in which every step is vLLM's | {equal} of {number}: {found} | all |",
        f"| tokens of the mini vLLM that are vLLM's | {same} of {tokens} | all |",
    ]


def long_trace(requests=64, steps=2000, block_size=16) -> ScheduleTrace:
    """Every request from the first to the last step, as large as such a trace can get, without an engine."""
    number = requests * (steps // block_size + 2) + 1
    trace = ScheduleTrace(Settings(block_size, number, requests, requests * 8), provenance={"model": "qwen3-tiny"})
    trace.requests += [Request(8, 0, steps, steps, "length") for _ in range(requests)]
    free, following = number - 1, iter(range(1, number))
    for step in range(steps):
        change = Change(tokens=dict.fromkeys(range(requests), 8 if step == 0 else 1) if step < 2 else {})
        if (step + 7) % block_size == 0 or step == 0:
            change.blocks = {request: [next(following)] for request in range(requests)}
            free = change.free = free - requests
        trace.changes.append(change)
    trace.check()
    return trace


def explorer(repeats: int) -> list[str]:
    from playwright.sync_api import sync_playwright

    trace, opened, began, drawn, worked = long_trace(), [], [], [], []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        file, html = Path(folder, "trace.json"), Path(folder, "page.html")
        trace.save(file)
        start = time.perf_counter()
        ScheduleTrace.load(file)
        loaded = time.perf_counter() - start
        ScheduleExplorer(trace).to_html(html, lang="en")
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1100, "height": 900})
            devtools = page.context.new_cdp_session(page)
            devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(html.as_uri())
            page.wait_for_selector(".sc-cursor")
            page.evaluate(PAINTED)
            opened.append(page.evaluate("performance.now()"))  # since the address was asked for
            began.append(processor_ms(devtools))
            for step in random.Random(0).sample(range(len(trace)), 10):
                before = processor_ms(devtools)
                drawn.append(page.evaluate(f"() => {{ {DRAW.format(step=step)} }}"))
                worked.append(processor_ms(devtools) - before)
            page.close()
        browser.close()
        size = file.stat().st_size
    return [
        f"| 64 requests, 2,000 steps: file, page | {size / 1e3:.0f} kB, {html_size(trace) / 1e3:.0f} kB | under 1 MB |",
        f"| read and checked | {loaded:.2f} s | |",
        f"| explorer opens | {range_of(opened)} ms | 1000 ms |",
        f"| the same of the page's processor time | {range_of(began)} ms | 1000 ms |",
        f"| a step is computed and drawn | {range_of(drawn)} ms | 50 ms |",
        f"| the same of the page's processor time | {range_of(worked)} ms | 50 ms |",
    ]


DRAW = """
const slider = document.querySelector(".sc-step"), start = performance.now();
slider.value = {step};
slider.dispatchEvent(new Event("input"));
document.querySelector(".rx").getBoundingClientRect(); // the layout is part of it
return performance.now() - start;
"""


def processor_ms(devtools) -> float:
    """Milliseconds that the page's main thread has had of a processor; other programs cannot stretch them."""
    metrics = {metric["name"]: metric["value"] for metric in devtools.send("Performance.getMetrics")["metrics"]}
    return 1000 * metrics["TaskDuration"]


def html_size(trace: ScheduleTrace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        ScheduleExplorer(trace).to_html(Path(folder, "page.html"), lang="en")
        return Path(folder, "page.html").stat().st_size


def range_of(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10, help="alternating repeats of the cost (%(default)s)")
    parser.add_argument("--traces", type=int, default=50, help="random traces (%(default)s)")
    parts = {
        "cost": lambda options: cost(options.repeats),
        "invariants": lambda options: invariants(options.traces),
        "reference": lambda options: reference(options.traces),
        "hints": lambda options: hints(),
        "explorer": lambda options: explorer(options.repeats),
    }
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="some of its parts")
    options = parser.parse_args()
    rows = [row for name in options.only for row in parts[name](options)]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, vLLM {vllm_version()}\n")
    print("| what | measured | wanted |\n|---|---|---|", *rows, sep="\n")


def vllm_version() -> str:
    import vllm

    return vllm.__version__


if __name__ == "__main__":
    main()
