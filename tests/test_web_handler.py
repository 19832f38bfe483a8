"""docs/web_handler.py in its own uvicorn: answers stream, statuses tell, and who leaves frees the model."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
from conftest import ROOT
from faulty_server import ENGINE_DEAD, FaultyServer, chat, drop, status, stream

from helpers.ports import free_port

pytestmark = pytest.mark.slow
USERS = 50


@contextlib.contextmanager
def handler(base_url, model="m", python=sys.executable, **variables):
    """The address of the handler, in a process that knows nothing but these variables."""
    port = free_port()
    known = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    known |= {"BASE_URL": base_url, "MODEL": model, "PYTHONPATH": str(ROOT / "docs")} | variables
    command = [python, "-m", "uvicorn", "web_handler:app", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=known, stderr=subprocess.PIPE, text=True) as process:
        reader = threading.Thread(target=lambda: log.extend(process.stderr))
        log = []
        reader.start()
        try:
            while not any("Uvicorn running" in line for line in log):
                assert process.poll() is None, log
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            reader.join()
    assert not any("Traceback" in line for line in log), "".join(log)


def http():
    return openai.DefaultAsyncHttpxClient(timeout=120, trust_env=False, limits=openai.DEFAULT_CONNECTION_LIMITS)


async def ask(client, address, text, leave_after=None, **options):
    """(status, [(kind, data)]) of the events; the user leaves after some."""
    events, kind = [], None
    async with client.stream("POST", f"{address}/ask", json={"text": text, **options}) as reply:
        async for line in reply.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                events.append((kind, json.loads(value)))
            if leave_after is not None and len(events) >= leave_after:
                break
    return reply.status_code, events


def all_at_once(address, texts, **options):
    async def run():
        async with http() as client:
            return await asyncio.gather(*(ask(client, address, text, **options) for text in texts))

    return asyncio.run(run())


def said(events, kind="answer"):
    return "".join(data for found, data in events if found == kind)


def echo(request):
    """Each user's own words come back in pieces."""
    text = request.body["messages"][-1]["content"]
    stream({"reasoning": "hm"}, *({"content": part} for part in f"to {text}"), pause=0.005)(request)


def test_fifty_users_at_once_get_their_own_answers():
    together = threading.Barrier(USERS)  # nobody's answer begins before all have asked

    def reply(request):
        together.wait(120)
        echo(request)

    with FaultyServer(reply) as server, handler(server.base_url) as address:
        texts = [f"user {n}: 37×46=?" for n in range(USERS)]
        for text, (code, events) in zip(texts, all_at_once(address, texts), strict=True):
            assert code == 200 and said(events) == f"to {text}" and said(events, "thinking") == "hm"
            assert events[-1] == ("end", {"finish": "stop"})
        assert server.most == USERS


def test_what_is_wrong_has_a_status_or_is_an_event():
    cases = {
        503: [status(503), status(503)],
        502: [drop, drop, chat("no stream"), stream({"content": None}), status(401), status(404)],
        400: [status(400, "maximum context length is 9"), status(400, "top_p"), status(422), stream(finish="length")],
    }
    with FaultyServer(chat()) as server, handler(server.base_url) as address:
        for code, replies in cases.items():
            while replies:
                server.replies = [*replies, chat("end")]
                [(got, _)] = all_at_once(address, ["?"])
                assert got == code
                del replies[: max(1, len(replies) + 1 - len(server.replies))]
        server.replies = [stream({"content": "17"}, finish=None, then=ENGINE_DEAD)]
        [(code, events)] = all_at_once(address, ["?"])
        assert (code, events) == (200, [("answer", "17"), ("error", {"reason": "broken"})])
        for wrong in ({"text": ""}, {"text": "a" * 9000}, {"text": "?", "max_tokens": 0}):
            assert all_at_once(address, [wrong.pop("text")], **wrong)[0][0] == 422
    with handler(f"http://127.0.0.1:{free_port()}/v1") as address:  # where nothing listens
        assert all_at_once(address, ["?"])[0][0] == 503


def test_one_user_too_many_is_told_to_come_back():
    released = threading.Event()
    with FaultyServer(lambda request: released.wait(60)) as server, handler(server.base_url, AT_ONCE="2") as address:

        async def run():
            async with http() as client:
                waiting = [asyncio.create_task(ask(client, address, "?")) for _ in range(2)]
                while len(server.bodies) < 2:
                    await asyncio.sleep(0.01)
                reply = await client.post(f"{address}/ask", json={"text": "?"})
                assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
                for task in waiting:
                    task.cancel()  # they leave before the first byte, which makes room
                await asyncio.wait(waiting)
                server.replies = [echo]
                while (await ask(client, address, "?"))[0] == 503:
                    await asyncio.sleep(0.05)

        try:
            asyncio.run(run())
        finally:
            released.set()


def test_what_the_real_server_refuses_is_the_users_to_mend(server):
    """More tokens than the context holds, a text that is too long: 400 with vLLM's own words, without its address."""
    wrong = {"max_tokens=8192": ("?", 8192), "maximum context length is 2048": ("1+" * 4000, 16), "cut": ("?", 1)}
    with handler(server.base_url, server.model) as address:
        for words, (text, max_tokens) in wrong.items():
            question = {"text": text, "max_tokens": max_tokens}
            reply = httpx.post(f"{address}/ask", json=question, timeout=120, trust_env=False)
            assert reply.status_code == 400 and "retry-after" not in reply.headers
            assert words in reply.json()["detail"] and server.base_url not in reply.text
        [(code, events)] = all_at_once(address, ["37×46=?"], max_tokens=1024)
        assert code == 200 and "1702" in said(events)


def test_who_leaves_frees_the_real_server(server):
    """Of 50 users a fifth leaves in mid-answer, and some before the first byte; nobody else notices."""

    async def run(address):
        async with http() as client:
            stay = [ask(client, address, f"{n}×46=?", thinking=False, max_tokens=60) for n in range(11, 51)]
            leave = [ask(client, address, "37×46=?", leave_after=1, max_tokens=1500) for _ in range(10)]
            never = [asyncio.create_task(ask(client, address, "37×46=?", max_tokens=1500)) for _ in range(3)]
            results = await asyncio.gather(*stay, *leave)
            for task in never:
                task.cancel()
            return results

    with handler(server.base_url, server.model) as address:
        results = asyncio.run(run(address))
        end = time.monotonic() + 60
        while server.metrics()["num_requests_running"] + server.metrics()["num_requests_waiting"]:
            assert time.monotonic() < end
            time.sleep(0.1)
    for code, events in results[:40]:
        assert code == 200 and events[-1] == ("end", {"finish": "stop"}) and "×46=" in said(events)
    assert all(code == 200 and len(events) == 1 for code, events in results[40:])
