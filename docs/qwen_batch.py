"""Many questions, answered through restarts, kills and Ctrl-C. Needs qwen_client.py beside it.

    MODEL=Qwen3-8B python qwen_batch.py questions.txt answers.jsonl --at-once 32 --max-tokens 2048 --no-thinking

A line of questions.txt is a question; in questions.jsonl a line is a JSON string, or a list of messages. An answer goes
to answers.jsonl as it comes. Run it again to go on: what has no answer yet is asked. Once every question has had its
turn, the file is in their order. The exit status is 0 if all are answered, 130 after Ctrl-C, else 1.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import openai
from qwen_client import Client, NoAnswer

TRIES = 11  # of a question whose server is away or broken; pauses double up to 30 s, so a drain of 120 s passes
PASSES = ("away", "broken", "busy")  # what may be over once the server is back


class ServerGone(NoAnswer):
    """The server did not come back."""


def read_answers(path: Path, questions: list, key: dict) -> dict[int, dict]:
    """{number: record} of what earlier runs answered, of the same question with the same settings."""
    found = {}
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        file.seek(0)
        lines = file.read().split("\n")
        if lines[-1]:  # a run was killed within this line
            file.write("\n")
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, LookupError):
            record = json.loads(line)
            number = record["number"]
            if record | key == record and record["question"] == questions[number] and record["error"] is None:
                found[number] = record
    return found


async def wait_for_server(client: Client, patience: float):
    """Returns once the server is well; raises ServerGone after ``patience`` seconds."""
    health = client.openai.base_url.join("/health")
    end = time.monotonic() + patience
    while True:
        try:
            return await client.openai.with_options(timeout=5).get(str(health), cast_to=type(None))
        except openai.APIStatusError as error:
            if error.status_code < 500:  # a proxy in front opens nothing but /v1
                return None
            said = error
        except openai.APIError as error:
            said = error.__cause__ or error
        if time.monotonic() > end:
            raise ServerGone("away", f"No server at {client.shown} ({said}): set BASE_URL.") from said
        await asyncio.sleep(1)


async def ask_again(client: Client, question, one: asyncio.Lock, patience: float, options: dict):
    """The reply, also where the server restarts meanwhile."""
    for attempt in range(1, TRIES + 1):
        try:
            return await client.ask(question, **options)
        except NoAnswer as error:
            if error.reason not in PASSES or attempt == TRIES:
                raise
        async with one:  # of all that wait, one asks whether it is back
            await wait_for_server(client, patience)
        await asyncio.sleep(min(30, 0.5 * 2**attempt) * random.uniform(0.75, 1))


async def ask_all(questions: list, path: Path, client: Client, at_once=16, patience=600, **options) -> list[dict]:
    """A record for each question, in their order: ``answer`` and ``thinking``, or ``error``; options as of ask().

    Raises ServerGone where the server stays away for ``patience`` seconds; what was answered is in the file.
    """
    key = {"model": client.model, "options": options}
    records = read_answers(path, questions, key)
    todo = iter([number for number in range(len(questions)) if number not in records])
    progress, one = Progress(len(questions), len(records)), asyncio.Lock()

    async def work(file):
        for number in todo:  # shared: as many questions are under way as there are workers
            record = {"number": number, **key, "question": questions[number], "error": None}
            try:
                record |= (await ask_again(client, questions[number], one, patience, options))._asdict()
            except ServerGone:
                raise
            except NoAnswer as error:
                record["error"] = f"{error.reason}: {error}"
            file.write(json.dumps(record, ensure_ascii=False) + "\n")  # without an await before: nothing is lost
            file.flush()
            records[number] = record
            progress.step(record["error"])

    with path.open("a", encoding="utf-8") as file:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work(file))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
    progress.show("\n")
    ordered = [records[number] for number in range(len(questions))]
    beside = path.with_name(path.name + ".new")
    beside.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in ordered), encoding="utf-8")
    os.replace(beside, path)
    return ordered


class Progress:
    """A line on stderr: how many are answered, how many in a second, how long the rest will take."""

    def __init__(self, total: int, before: int):
        self.total, self.before, self.done, self.failed = total, before, 0, 0
        self.begin = self.shown = time.monotonic()

    def step(self, error):
        self.done, self.failed = self.done + 1, self.failed + bool(error)
        if time.monotonic() - self.shown > (1 if sys.stderr.isatty() else 30):
            self.show("")

    def show(self, end: str):
        self.shown = time.monotonic()
        rate = self.done / max(self.shown - self.begin, 1e-9)
        seconds = (self.total - self.before - self.done) / max(rate, 1e-9) if self.done else 0
        rest = f"{seconds // 3600:.0f}:{seconds // 60 % 60:02.0f}:{seconds % 60:02.0f}"
        text = f"{self.before + self.done}/{self.total}, {rate:.1f}/s, rest {rest}, failed {self.failed}"
        begin, end = ("\r", end) if sys.stderr.isatty() else ("", "\n")
        print(f"{begin}{text} ", end=end, file=sys.stderr, flush=True)


def read_questions(path: Path) -> list:
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [json.loads(line) for line in lines] if path.suffix == ".jsonl" else lines


async def run(options: argparse.Namespace) -> int | str:
    with contextlib.suppress(NotImplementedError):  # where there are no signals
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    limits = {"thinking": options.thinking, "max_tokens": options.max_tokens}
    async with Client(timeout=options.timeout) as client:
        try:
            questions = read_questions(options.questions)
            records = await ask_all(questions, options.answers, client, options.at_once, options.patience, **limits)
        except (ServerGone, OSError, ValueError) as error:
            return f"{error} What was answered is in {options.answers}: run it again to go on."
    errors = [record["error"] for record in records if record["error"] is not None]
    return f"{len(errors)} without an answer, which another run asks again. The first: {errors[0]}" if errors else 0


def main() -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one answer (%(default)s)")
    parser.add_argument("--patience", type=float, default=600, help="seconds for a server to come back (%(default)s)")
    parser.add_argument("--thinking", action=argparse.BooleanOptionalAction, default=True)
    try:
        return asyncio.run(run(parser.parse_args()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped: run it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
