"""What an instructor wants to see green the day before: `make workshop-check`.

It looks at this machine, at the door (tools/workshop/door.py) and at 30 clients at once. Without OPENAI_BASE_URL it
starts server and door itself, on 127.0.0.1, with the course's model: a rehearsal of the whole chain. With
OPENAI_BASE_URL it rehearses on what runs there, from a laptop in the room for instance, with the keys of
build/workshop/keys.txt, else OPENAI_API_KEY. CLIENTS and ROUNDS change the numbers; COURSE_MAX_TOKENS limits the length
of the answers, thought included, which is else the room in the context, as in the lessons.
"""

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai

from helpers import CourseError, machine, preflight
from helpers.endpoint import parted, positive_integer, thought_of, without_credentials
from helpers.ports import free_port
from tools.workshop.door import MAX_N, Door
from tools.workshop.keys import read_keys

QUESTIONS = ("37×46=?", "给我一个关于大模型的简短介绍。", "What is 12+30?", "你是谁？")
THINKING = {"temperature": 0.6, "top_p": 0.95}
DIRECT = {"temperature": 0.7, "top_p": 0.8}
SLOW = 10  # seconds to the first word, above which a room grows restless


@dataclass
class Answer:
    """One request: seconds to the first word and to the end, pieces of text received, what went wrong."""

    first: float = 0.0
    total: float = 0.0
    pieces: int = 0
    error: str = ""


async def ask(client: openai.AsyncOpenAI, model: str, question: str, thinking: bool) -> Answer:
    """One streamed chat request, as a lesson sends it."""
    answer, start = Answer(), time.perf_counter()
    thought, text, finish = "", "", None
    extra = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": thinking}}
    try:
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=positive_integer("COURSE_MAX_TOKENS"),
            stream=True,
            extra_body=extra,
            **(THINKING if thinking else DIRECT),
        )
        async for chunk in stream:
            for choice in chunk.choices or []:
                delta, finish = choice.delta, choice.finish_reason or finish
                thinks, content = thought_of(delta), getattr(delta, "content", None) or ""
                thought, text = thought + thinks, text + content
                if thinks or content:
                    answer.pieces += 1
                    answer.first = answer.first or time.perf_counter() - start
    except openai.OpenAIError as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.total = time.perf_counter() - start
    answer.error = answer.error or why_none(*parted(thought, text), finish)
    return answer


def why_none(thought: str, text: str, finish: str | None) -> str:
    """Why a reply holds no answer; empty where it holds one, which COURSE_MAX_TOKENS may have cut."""
    if finish not in ("stop", "length"):
        return f"it broke off (finish_reason {finish})"
    if text.strip():
        return ""
    if not thought.strip():
        return "the answer is empty"
    if finish == "length":
        return "cut within the thought: raise COURSE_MAX_TOKENS, or --max-model-len where it is not set"
    return "a thought and no answer: is the server's --reasoning-parser right? qwen3 for Qwen3, none for Instruct-2507"


async def rehearse(base_url: str, keys: list[str], model: str, clients: int, rounds: int) -> list[Answer]:
    """``clients`` laptops at once, spread over the keys, each with ``rounds`` requests after each other."""

    async def laptop(number: int) -> list[Answer]:
        http = httpx.AsyncClient(trust_env=False, timeout=600)
        key = keys[number % len(keys)]
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, http_client=http) as client:
            return [
                await ask(client, model, QUESTIONS[(number + turn) % len(QUESTIONS)], thinking=turn % 2 == 0)
                for turn in range(rounds)
            ]

    return [answer for answers in await asyncio.gather(*map(laptop, range(clients))) for answer in answers]


def status(url: str, key: str | None = None, body: dict | None = None) -> int | str:
    """The HTTP status of a GET, or of a POST with a body, or why there is none."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        method = "POST" if body else "GET"
        return httpx.request(method, url, headers=headers, json=body, timeout=10, trust_env=False).status_code
    except httpx.HTTPError as error:
        return type(error).__name__


class Report:
    """Lines of ok, warning and problem, in the form of the pre-flight check."""

    def __init__(self):
        self.problems = 0

    def line(self, level: str, name: str, fact: str, zh: str = "", en: str = "") -> bool:
        print(f"{level:<8} {name}: {fact}", flush=True)
        for remedy in filter(None, (zh, en) if level != "ok" else ()):
            print(f"{'':8} {remedy}")
        self.problems += level == "problem"
        return level == "ok"


def check_door(report: Report, base_url: str, key: str) -> bool:
    """With a key /v1 is open; without one, with a wrong one and beside /v1 nothing is."""
    root = base_url.removesuffix("/v1")
    answers = {
        "no key": (status(f"{base_url}/models"), 401),
        "wrong key": (status(f"{base_url}/models", key + "x"), 401),
        "/metrics": (status(f"{root}/metrics", key), 404),
        "/tokenize": (status(f"{root}/tokenize", key), 404),
        "a table's key": (status(f"{base_url}/models", key), 200),
    }
    wrong = {name: got for name, (got, wanted) in answers.items() if got != wanted}
    return report.line(
        "problem" if wrong else "ok",
        "门 Door",
        f"{without_credentials(base_url)}, {wrong or '只有密钥能进 /v1 | /v1 with a key only'}",
        "服务器和 nginx 都开着吗？密钥是 build/workshop/keys.txt 里的吗？直接连 vLLM，/metrics 等端点没有密钥也能读。",
        "Do server and nginx run, with the keys of build/workshop/keys.txt? vLLM itself leaves /metrics open.",
    )


def check_many_answers(report: Report, base_url: str, key: str) -> None:
    """One request for a thousand answers, which nginx cannot refuse, is refused by the server."""
    body = {"prompt": "1", "max_tokens": 1, "n": 1000}
    got = status(f"{base_url}/completions", key, body)
    report.line(
        "ok" if got == 400 else "warning",
        "一次要一千份回答 A thousand answers at once",
        f"n=1000: {got}",
        f"服务器用 VLLM_MAX_N_SEQUENCES={MAX_N} 启动，就会拒绝；不然一个请求能占住整间教室的服务器。",
        f"Start the server with VLLM_MAX_N_SEQUENCES={MAX_N} to refuse it: else one request can take it from the room.",
    )


def served_model(base_url: str, key: str) -> str:
    """Name of the server's first model. Raises CourseError if it lists none."""
    client = openai.OpenAI(base_url=base_url, api_key=key, http_client=httpx.Client(trust_env=False))
    try:
        return client.models.list().data[0].id + ""
    except (openai.OpenAIError, AttributeError, LookupError, TypeError, ValueError) as error:
        shown = f"{without_credentials(base_url)}/models"
        raise CourseError(
            f"{shown} 的回答不是模型列表（{type(error).__name__}）：地址要指向 vLLM 的 /v1。",
            f"{shown} does not answer with a list of models ({type(error).__name__}): it should name vLLM's /v1.",
        ) from error


def check_room(report: Report, base_url: str, keys: list[str], clients: int, rounds: int) -> None:
    """The rehearsal: every request must be answered; slow first words are a warning."""
    model, start = served_model(base_url, keys[0]), time.perf_counter()
    answers = asyncio.run(rehearse(base_url, keys, model, clients, rounds))
    seconds = time.perf_counter() - start
    errors = [answer.error for answer in answers if answer.error]
    report.line(
        "problem" if errors else "ok",
        f"{clients} 个客户端 clients",
        f"{model}, {len(answers) - len(errors)}/{len(answers)} 个请求有回答 requests answered, {seconds:.0f} s",
        f"例如 for example: {errors[0][:300]}" if errors else "",
    )
    if answered := [answer for answer in answers if not answer.error]:
        first = sorted(answer.first for answer in answered)
        late = first[int(0.95 * (len(first) - 1))]
        speed = sum(answer.pieces for answer in answered) / seconds
        report.line(
            "warning" if late > SLOW else "ok",
            "第一个字 First word",
            f"一半在 half within {statistics.median(first):.2f} s, 95 % {late:.2f} s; 全场 room {speed:.0f} pieces/s",
            f"超过 {SLOW} 秒，教室里会等得着急：换小一号的模型，或让每桌两人共用一台。",
            f"Above {SLOW} s a room grows restless: take a smaller model, or let two share a laptop.",
        )


@contextlib.contextmanager
def classroom():
    """(base_url, keys): what OPENAI_BASE_URL names, else a server and a door of our own."""
    if base_url := os.environ.get("OPENAI_BASE_URL", "").strip():
        yield base_url.rstrip("/"), list(read_keys().values()) or [os.environ.get("OPENAI_API_KEY", "EMPTY")]
        return
    from helpers.server import Server

    os.environ.setdefault("VLLM_MAX_N_SEQUENCES", str(MAX_N))
    keys = {f"table-{number}": f"rehearsal-{number}" for number in range(1, 11)}
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        door = Door(keys, server.base_url, port=free_port())
        with door.running(Path(folder), log="off"):
            yield door.base_url, list(keys.values())


def main() -> int:
    report = Report()
    for check in preflight.preflight(machine.look()):
        report.line(check.level, f"{check.zh_name} {check.name}", check.fact, check.zh, check.en)
    try:
        with classroom() as (base_url, keys):
            if check_door(report, base_url, keys[0]):
                clients, rounds = positive_integer("CLIENTS") or 30, positive_integer("ROUNDS") or 2
                check_many_answers(report, base_url, keys[0])
                check_room(report, base_url, keys, clients, rounds)
    except CourseError as error:
        report.line("problem", "服务器 Server", "", error.zh, error.en)
    if report.problems:
        print("还不行：先处理 problem 行。\nNot yet: see the problem lines.")
        return 1
    print("可以上课。\nReady for the workshop.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
