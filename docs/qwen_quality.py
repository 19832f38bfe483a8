"""How good are the answers, and what do they cost? Your own questions, with and without thinking. Needs qwen_client.py
beside it.

    MODEL=Qwen3-8B python qwen_quality.py questions.jsonl --at-once 8 --max-tokens 4096

A line of questions.jsonl is {"question": "37×46=?", "answer": "1702"}. A reply that was cut counts as wrong. Any other
reply that did not come whole ends the run, with a sentence and exit status 1: a gap is no measurement.
"""

import argparse
import asyncio
import json
import math
import re
import statistics
import sys
import time
from pathlib import Path

from qwen_client import Client, NoAnswer, field


def is_right(answer: str, wanted: str) -> bool:
    """A number: the last one in the answer is the same. Anything else: it stands in the answer. Write your own."""
    numbers = [text.replace(",", "") for text in re.findall(r"-?\d[\d,]*(?:\.\d+)?", answer)]
    if re.fullmatch(r"-?[\d,]+(\.\d+)?", wanted):
        return bool(numbers) and float(numbers[-1]) == float(wanted.replace(",", ""))
    return wanted.casefold() in answer.casefold()


def interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's: where the true share lies, 19 times in 20, if the questions are a random draw of those you care for."""
    centre = (right + z * z / 2) / (count + z * z)
    half = z * math.sqrt(right * (count - right) / count + z * z / 4) / (count + z * z)
    return centre - half, centre + half


class Counting(Client):
    """A client that adds up the tokens that were written, thoughts included."""

    tokens = 0

    async def _open(self, request):
        reply = await super()._open(request)
        self.tokens += field(field(reply, dict, "usage"), int, "completion_tokens") or math.nan
        return reply


async def measure(questions: list[dict], thinking: bool, at_once: int, max_tokens: int) -> str:
    """A row of the table. Seconds are those of a question while ``at_once`` are asked."""
    turn, right, cut, seconds = asyncio.Semaphore(at_once), 0, 0, []

    async def ask(client, question):
        nonlocal right, cut
        async with turn:
            begin = time.monotonic()
            try:
                reply = await client.ask(question["question"], thinking=thinking, max_tokens=max_tokens)
                right += is_right(reply.answer, str(question["answer"]))
            except NoAnswer as error:
                if error.reason != "cut":
                    raise
                cut += 1
            seconds.append(time.monotonic() - begin)

    async with Counting() as client:
        await asyncio.gather(*(ask(client, question) for question in questions))
    low, high = interval(right, len(questions))
    shares = f"{right}/{len(questions)} | {low:.0%} to {high:.0%} | {cut}"
    costs = f"{client.tokens / len(questions):.0f} | {statistics.median(seconds):.2f}"
    return f"| {'on' if thinking else 'off'} | {shares} | {costs} |"


def main() -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=4096)
    options = parser.parse_args()
    try:
        lines = [json.loads(line) for line in options.questions.read_text("utf-8").splitlines() if line.strip()]
        print("| thinking | right | 95 % interval | cut | tokens each | median s |\n|---|---:|---:|---:|---:|---:|")
        for thinking in (False, True):
            print(asyncio.run(measure(lines, thinking, options.at_once, options.max_tokens)), flush=True)
    except (NoAnswer, OSError, ValueError, LookupError, ZeroDivisionError) as error:
        return f"{options.questions}: {error!r}"
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
