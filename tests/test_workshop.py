"""The workshop's door (tools/workshop/proxy.py) and rehearsal (tools/workshop/check.py)."""

import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
import uvicorn
from conftest import ROOT
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse

from helpers import preflight
from tools.workshop import check
from tools.workshop.keys import make_keys, read_keys
from tools.workshop.proxy import Proxy, running

KEYS = {"table-1": "key-one", "table-2": "key-two"}
HEADERS = {"Authorization": "Bearer key-one"}
CLIENT = {"trust_env": False, "timeout": 60}  # a proxy cannot reach this machine's 127.0.0.1


class Upstream:
    """A server that notes what reaches it; a chat is five pieces, of which the last four wait for ``go``."""

    def __init__(self):
        self.seen, self.go, self.left = [], threading.Event(), threading.Event()
        self.app = Starlette()
        self.app.add_route("/{path:path}", self.answer, ["GET", "POST"])

    async def answer(self, request):
        self.seen.append((request.method, request.url.path, dict(request.headers), await request.body()))
        if request.method == "GET":
            return JSONResponse({"data": [{"id": "m"}]})

        async def pieces():
            import asyncio

            try:
                for number in range(5):
                    yield f"data: {number}\n\n"
                    while not self.go.is_set():
                        await asyncio.sleep(0.02)
            finally:
                self.left.set()

        return StreamingResponse(pieces(), media_type="text/event-stream")


@pytest.fixture
def upstream():
    served = Upstream()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(served.app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        served.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield served
        served.go.set()
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def base_url(upstream, lines):
    with running(Proxy(upstream.address, KEYS, per_table=2, max_body=1000, log=lines.append)) as address:
        yield address


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/models", HEADERS, 200),
        ("GET", "/v1/models", {}, 401),
        ("GET", "/v1/models", {"Authorization": "Bearer key-on"}, 401),
        ("GET", "/v1/models", {"Authorization": "Bearer "}, 401),
        ("GET", "/v1/models", {"Authorization": "Basic key-one"}, 401),
        ("GET", "/metrics", {}, 401),
        ("GET", "/metrics", HEADERS, 404),
        ("POST", "/tokenize", HEADERS, 404),
        ("GET", "/v1/../metrics", HEADERS, 404),
        ("GET", "/v1/%2e%2e/metrics", HEADERS, 404),
        ("POST", "/v1/load_lora_adapter", HEADERS, 404),
        ("DELETE", "/v1/models", HEADERS, 404),
    ],
)
def test_who_may_go_where(method, path, headers, status, base_url, upstream):
    host = base_url.removesuffix("/v1").removeprefix("http://")
    with socket.create_connection(host.split(":")) as raw:  # a client library would tidy the path
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        raw.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert int(answer.split()[1]) == status
    assert len(upstream.seen) == (status == 200)
    if status != 200:
        assert b'"error"' in answer


def test_neither_key_nor_cookie_reaches_the_server(base_url, upstream, lines):
    httpx.get(f"{base_url}/models", headers=HEADERS | {"Cookie": "a=b", "X-Forwarded-For": "1.2.3.4"}, **CLIENT)
    [(_, _, headers, _)] = upstream.seen
    assert not {"authorization", "cookie", "x-forwarded-for"} & set(headers)
    wait_until(lambda: lines)
    assert re.fullmatch(r"table-1  GET /v1/models  200  \d\.\d s", lines[0])


def test_a_stream_arrives_piece_by_piece(base_url, upstream):
    with httpx.stream("POST", f"{base_url}/chat/completions", headers=HEADERS, json={}, **CLIENT) as reply:
        pieces = reply.iter_text()
        assert next(pieces) == "data: 0\n\n"  # the server waits for `go` before the second
        assert reply.headers["content-type"].startswith("text/event-stream")
        upstream.go.set()
        assert "".join(pieces).count("data:") == 4


def test_a_laptop_that_leaves_frees_its_place_and_the_server(base_url, upstream):
    def open_stream():
        return httpx.stream("POST", f"{base_url}/chat/completions", headers=HEADERS, json={}, **CLIENT)

    with open_stream() as first, open_stream() as second:
        assert first.status_code == second.status_code == 200
        with open_stream() as third:
            assert third.status_code == 429
        other = httpx.get(f"{base_url}/models", headers={"Authorization": "Bearer key-two"}, **CLIENT)
        assert other.status_code == 200  # another table is not held up
    assert upstream.left.wait(30)

    def has_room():
        with open_stream() as again:
            return again.status_code == 200

    wait_until(has_room)


def test_too_large_a_request_and_a_server_that_is_down(base_url, upstream, lines):
    big = httpx.post(f"{base_url}/completions", headers=HEADERS, content=b"x" * 1001, **CLIENT)
    assert big.status_code == 413 and upstream.seen == []
    with socket.socket() as closed:  # bound, so that nobody else gets it; it does not listen
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with running(Proxy(nowhere, KEYS, log=lines.append)) as address:
            reply = httpx.get(f"{address}/models", headers=HEADERS, **CLIENT)
    assert reply.status_code == 502 and "instructor" in reply.text and "502" in lines[-1]


def test_keys_are_made_once_and_are_private(tmp_path):
    file = tmp_path / "workshop" / "keys.txt"
    keys = make_keys(3, file)
    assert len(set(keys.values())) == 3 and min(map(len, keys.values())) >= 16
    assert make_keys(4, file).items() >= keys.items()
    assert len(read_keys(file)) == 4 and stat.S_IMODE(file.stat().st_mode) == 0o600


# ---- the rehearsal, on a real server


@pytest.mark.slow
def test_thirty_clients_on_a_server_of_our_own():
    variables = os.environ | {"CLIENTS": "30", "ROUNDS": "2", "COURSE_MAX_TOKENS": "64"}
    command = [sys.executable, "-m", "tools.workshop.check"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60/60" in done.stdout and "ok       门 Door" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_room_that_is_not_ready_is_red(monkeypatch, capsys, lines, server):
    """One real server: straight on it, the door is open; behind a proxy with room for one, requests are turned away."""
    monkeypatch.setattr(preflight, "preflight", lambda seen: [])
    monkeypatch.setattr(check, "read_keys", lambda: {"table-1": "key-one"})
    monkeypatch.setenv("CLIENTS", "6")
    client = openai.OpenAI(base_url=server.base_url, api_key="EMPTY")
    assert client.models.list().data[0].id == "qwen3-tiny"
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    assert check.main() == 1
    assert re.search(r"problem +门 Door.*'no key': 200.*'/metrics': 200", capsys.readouterr().out)
    with running(Proxy(server.base_url.removesuffix("/v1"), KEYS, per_table=1, log=lines.append)) as address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        assert check.main() == 1
        said = capsys.readouterr().out
        assert "ok       门 Door" in said and re.search(r"problem +6 个客户端", said) and "429" in said
    assert check.main() == 1  # the proxy is gone
    assert "ConnectError" in capsys.readouterr().out
