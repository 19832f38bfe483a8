"""The workshop's door (tools/workshop/door.py) and rehearsal (tools/workshop/check.py)."""

import asyncio
import collections
import concurrent.futures
import contextlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
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
from faulty_server import FaultyServer, body, chat, drop, page, status, stream
from processes import PATIENCE, descendants, wait_until_gone
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse

from helpers import CourseError, _guard, preflight
from helpers.ports import free_port
from helpers.server import Server
from tools.workshop import check, door
from tools.workshop.door import Door
from tools.workshop.keys import make_keys, read_keys

pytestmark = pytest.mark.slow

KEYS = {"table-1": "key-one", "table-2": "key-two"}
ROOM = KEYS | {f"table-{number}": f"key-{number}" for number in range(3, 12)}  # the first is the attacker's
HEADERS = {"Authorization": "Bearer key-one"}
CLIENT = {"trust_env": False, "timeout": PATIENCE}  # a proxy cannot reach this machine's 127.0.0.1


class Upstream:
    """A server that notes and counts what reaches it.

    A chat is five pieces, of which the last four wait for ``go``; with ``"quick": true`` they do not; with ``"stream":
    false`` the five come as one, or never if the client leaves. ``"fault"`` breaks the reply.
    """

    def __init__(self):
        self.seen, self.go, self.left = [], threading.Event(), threading.Event()
        self.now, self.most = 0, 0  # slow requests at once
        self.app = Starlette()
        self.app.add_route("/{path:path}", self.answer, ["GET", "POST"])

    async def answer(self, request):
        body = await request.body()
        self.seen.append((request.method, request.url.path, dict(request.headers), body))
        if request.method == "GET":
            return JSONResponse({"data": [{"id": "m"}]})
        asked = json.loads(body) if body.startswith(b"{") else {}
        if asked.get("quick"):
            pieces = [f"data: {number}\n\n" for number in range(5)]
            return StreamingResponse(iter(pieces)) if asked.get("stream", True) else JSONResponse({"pieces": pieces})
        self.now += 1
        self.most = max(self.most, self.now)
        if not asked.get("stream", True):
            return await self.whole(request)

        async def pieces():
            try:
                for number in range(5):
                    yield f"data: {number}\n\n"
                    while not self.go.is_set():
                        await asyncio.sleep(0.02)
                    if asked.get("fault"):
                        raise RuntimeError("the server dies in mid-answer")
            finally:
                self.now -= 1
                self.left.set()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def whole(self, request):
        try:
            while not self.go.is_set():
                if await request.is_disconnected():
                    self.left.set()
                    break
                await asyncio.sleep(0.02)
            return JSONResponse({"pieces": 5})
        finally:
            self.now -= 1


@pytest.fixture
def upstream():
    served = Upstream()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(served.app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        served.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield served
        served.go.set()
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def open_door(tmp_path):
    """``open_door(upstream, keys, **values)``: its base URL, while the test runs; it logs to ``tmp_path / "log"``."""
    if not shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], *door.SBIN])):
        pytest.skip("nginx is not installed")
    with contextlib.ExitStack() as opened:

        def open_one(upstream, keys=KEYS, **values):
            made = Door(keys, upstream, port=free_port(), **values)
            guard = opened.enter_context(made.running(tmp_path / f"door-{made.port}", log=str(tmp_path / "log")))
            open_one.guards.append(guard)
            return made.base_url

        open_one.guards = []
        yield open_one


@pytest.fixture
def lines(tmp_path):
    """``lines()``: what the door has logged."""
    return lambda: (tmp_path / "log").read_text().splitlines()


@pytest.fixture
def base_url(upstream, open_door):
    return open_door(upstream.address, at_once=2, max_body=1000)


def wait_until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def connect(base_url: str) -> socket.socket:
    raw = socket.create_connection(base_url.removesuffix("/v1").removeprefix("http://").split(":"))
    raw.settimeout(PATIENCE)
    return raw


@contextlib.contextmanager
def on_the_wire(reply):
    """The address of a server where ``reply(connection, head)`` answers a request; each connection is closed then."""

    def serve():
        with contextlib.suppress(OSError):  # the test has closed it
            while True:
                with listening.accept()[0] as connection:
                    reply(connection, connection.recv(65536).partition(b"\r\n\r\n")[0].decode())

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:  # or the thread, which waits in it, might serve the next test
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def post(body: bytes, key: str = "key-one") -> tuple[bytes, bytes]:
    """The head of a request for chat and its body."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Authorization: Bearer {key}\r\n\r\n".encode(), body


def thirty_honest_clients(base_url: str, keys: list[str]) -> collections.Counter:
    """Each asks for the models, a whole answer and a streamed one, all at once; how their requests went."""

    def laptop(number: int) -> list:
        headers = {"Authorization": f"Bearer {keys[number % len(keys)]}"}
        with httpx.Client(base_url=base_url, headers=headers, **CLIENT) as client:
            models = client.get("/models").status_code
            whole = client.post("/chat/completions", json={"quick": True, "stream": False})
            with client.stream("POST", "/completions", json={"quick": True}) as streamed:
                text = "".join(streamed.iter_text())
            assert whole.json()["pieces"] == re.findall(r"data: \d\n\n", text) and text.count("data") == 5
            return [models, whole.status_code, streamed.status_code]

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        return collections.Counter(status for done in pool.map(laptop, range(30)) for status in done)


ALL_ANSWERED = collections.Counter({200: 90})


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
        ("GET", "/v1/models", {"Authorization": "bearer key-one"}, 200),
        ("GET", "/v1/models", {"Authorization": "Bearer KEY-ONE"}, 401),
        ("GET", "/v1/models", {"Authorization": "Bearer key-one x"}, 401),
        ("GET", "/v1/models", {"Authorization": "Bearer key.one"}, 401),
        ("GET", "/V1/models", HEADERS, 404),
        ("GET", "/v1/models/", HEADERS, 404),
        ("GET", "//v1/models", HEADERS, 404),
        ("GET", "/v1/models?key=1", HEADERS, 404),
        ("GET", "/v1/x/../models", HEADERS, 404),
        ("GET", "/v1/%6dodels", HEADERS, 404),
        ("GET", "/refused/400", HEADERS, 404),
        ("GET", "/nginx.conf", HEADERS, 404),
        ("GET", "/../keys.conf", HEADERS, 400),
        ("GET", "/v1/chat/completions", HEADERS, 404),
        ("HEAD", "/v1/models", HEADERS, 404),
        ("OPTIONS", "/v1/models", {}, 401),
        ("POST", "/invocations", HEADERS, 404),
        ("BREW", "/v1/models", HEADERS, 404),
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
    if status != 200 and method != "HEAD":
        assert b'"error"' in answer


def test_neither_key_nor_cookie_reaches_the_server(base_url, upstream, lines):
    httpx.get(f"{base_url}/models", headers=HEADERS | {"Cookie": "a=b", "X-Forwarded-For": "1.2.3.4"}, **CLIENT)
    [(_, _, headers, _)] = upstream.seen
    assert not {"authorization", "cookie", "x-forwarded-for"} & set(headers)
    assert headers["content-type"] == "application/json"
    wait_until(lines)
    assert re.fullmatch(r"\S+  table-1  GET /v1/models  200  \d+\.\d+ s", lines()[0])


def test_a_stream_arrives_piece_by_piece(base_url, upstream):
    with httpx.stream("POST", f"{base_url}/chat/completions", headers=HEADERS, json={}, **CLIENT) as reply:
        pieces = reply.iter_text()
        assert next(pieces) == "data: 0\n\n"  # the server waits for `go` before the second
        assert reply.headers["content-type"].startswith("text/event-stream")
        upstream.go.set()
        assert "".join(pieces).count("data:") == 4


def test_a_stream_without_chunks_arrives_piece_by_piece(open_door):
    """Chunks nginx passes on in any case; of a reply that ends with its connection, a buffer would be filled first."""
    read = threading.Event()

    def answer(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 0\n\n")
        read.wait()
        connection.sendall(b"data: 1\n\n")

    with on_the_wire(answer) as server, contextlib.ExitStack() as opened:
        opened.callback(read.set)  # if the client waits in vain, too
        address = open_door(server)
        with httpx.stream("POST", f"{address}/chat/completions", headers=HEADERS, json={}, **CLIENT) as reply:
            pieces = reply.iter_text()
            assert next(pieces) == "data: 0\n\n"
            read.set()
            assert "".join(pieces) == "data: 1\n\n"


def test_each_request_is_one_connection_of_http_1_1(open_door):
    """Chunks are of 1.1: only with them can a reply that breaks off be told from a whole one. And the connection to the
    server is the request's own, whatever the client wants of its: none that the server has closed is used again."""
    heads = []

    def answer(connection, head):
        heads.append(head)
        if head.partition("\r\n")[0].endswith(" HTTP/1.1"):
            last = b"0\r\n\r\n" if head.startswith("GET") else b""  # the others break off
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n" + last)
        else:
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\ndata: 0\n\n")

    with on_the_wire(answer) as server, httpx.Client(base_url=open_door(server), headers=HEADERS, **CLIENT) as client:
        for wish in ("keep-alive", "Upgrade", "close", "keep-alive"):
            assert client.get("/models", headers={"Connection": wish}).text == "data: 0\n\n"
        with pytest.raises(httpx.RemoteProtocolError):
            client.post("/completions", content="{}")
    assert [head.partition("\r\n")[0] for head in heads] == ["GET /v1/models HTTP/1.1"] * 4 + [
        "POST /v1/completions HTTP/1.1"
    ]
    assert [re.findall(r"(?im)^(?:connection|upgrade|keep-alive): *(.*?)\r?$", head) for head in heads] == [
        ["close"]
    ] * 5


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


def test_too_large_a_request_and_a_server_that_is_down(base_url, upstream, open_door, lines):
    big = httpx.post(f"{base_url}/completions", headers=HEADERS, content=b"x" * 1001, **CLIENT)
    endless = httpx.post(f"{base_url}/completions", headers=HEADERS, content=iter([b"x" * 100] * 50), **CLIENT)
    assert big.status_code == endless.status_code == 413 and "1000" in big.json()["error"]["message"]
    assert upstream.seen == []
    with socket.socket() as closed:  # bound, so that nobody else gets it; it does not listen
        closed.bind(("127.0.0.1", 0))
        address = open_door(f"http://127.0.0.1:{closed.getsockname()[1]}")
        for _ in range(20):  # no place is lost
            reply = httpx.get(f"{address}/models", headers=HEADERS, **CLIENT)
            assert reply.status_code == 502 and "instructor" in reply.text
    wait_until(lambda: "502" in lines()[-1])


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
        b"",
        b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n",
    ],
)
def test_an_odd_reply_of_the_server_takes_no_place_for_good(reply, open_door, capfd):
    with on_the_wire(lambda connection, _: connection.sendall(reply)) as server:
        address = open_door(server, at_once=1)
        statuses = {httpx.get(f"{address}/models", headers=HEADERS, **CLIENT).status_code for _ in range(5)}
    assert len(statuses) == 1 and statuses <= {999, 502}
    assert capfd.readouterr().err == ""  # no line quotes an answer


def test_a_reply_that_breaks_off_is_not_taken_for_a_whole_one(base_url, upstream):
    upstream.go.set()
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("POST", f"{base_url}/completions", headers=HEADERS, json={"fault": True}, **CLIENT) as reply,
    ):
        assert reply.status_code == 200
        reply.read()


# ---- attacks, with 30 honest clients beside them


def test_a_table_that_opens_130_requests_gets_its_eight(upstream, open_door):
    """Heads first, bodies later: who counts after the body would let all of them in."""
    base_url = open_door(upstream.address, ROOM)
    honest = list(ROOM.values())[1:]
    with contextlib.ExitStack() as opened:
        attack = [opened.enter_context(connect(base_url)) for _ in range(130)]
        head, body = post(b'{"n": 1000}')
        for raw in attack:
            raw.sendall(head)
        wait_until(lambda: httpx.get(f"{base_url}/models", headers=HEADERS, **CLIENT).status_code == 429)
        assert upstream.now == 0 and thirty_honest_clients(base_url, honest) == ALL_ANSWERED
        for raw in attack:
            with contextlib.suppress(OSError):  # it was refused and closed
                raw.sendall(body)
        wait_until(lambda: upstream.now == 8)
        assert thirty_honest_clients(base_url, honest) == ALL_ANSWERED
        refused = [raw for raw in attack if raw.recv(12) == b"HTTP/1.1 429"] if upstream.go.set() is None else []
        assert len(refused) == 122 and upstream.most == 8
    wait_until(lambda: httpx.get(f"{base_url}/models", headers=HEADERS, **CLIENT).status_code == 200)


def test_a_head_without_end_is_cut(base_url, upstream, open_door):
    [worker] = [
        process for process in descendants(open_door.guards[0].pid) if process.ppid() != open_door.guards[0].pid
    ]
    before = worker.memory_info().rss
    with connect(base_url) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.1\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 50)
        assert raw.recv(12) == b"HTTP/1.1 400"  # for its size, not after a time
    with connect(base_url) as raw:
        raw.sendall(b"GET /v1/models HTTP/1.1\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for number in itertools.count():
                raw.sendall(b"X-%d: " % number + b"x" * 1000 + b"\r\n")
    assert worker.memory_info().rss < before + 2**22
    assert thirty_honest_clients(open_door(upstream.address, ROOM), list(ROOM.values())) == ALL_ANSWERED


def test_a_head_has_room_for_four_long_lines(base_url, upstream):
    """8 KiB a line, four such: what clients send passes, and more is refused for its size."""
    for number, size, expected in ((20, 30, 200), (1, 8000, 200), (4, 8000, 200), (1, 8192, 400), (5, 8000, 400)):
        lines = {f"X-{line}": "x" * size for line in range(number)}
        reply = httpx.get(f"{base_url}/models", headers=HEADERS | lines, **CLIENT)
        assert (number, size, reply.status_code) == (number, size, expected)
        assert expected == 200 or reply.json()["error"]["code"] == 400
    assert len(upstream.seen) == 3


def test_a_thousand_idle_connections_keep_nobody_out(upstream, open_door, capfd):
    """1,024 say nothing, as many half a head. All are closed in the end."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    base_url = open_door(upstream.address, ROOM)
    try:
        with contextlib.ExitStack() as opened:
            idle = [opened.enter_context(connect(base_url)) for _ in range(2048)]
            for raw in idle[1024:]:
                raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: B")
            assert thirty_honest_clients(base_url, list(ROOM.values())) == ALL_ANSWERED
            for raw in idle:
                with contextlib.suppress(ConnectionResetError):
                    while raw.recv(4096):
                        pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)


def test_idle_connections_go_first_when_all_are_taken(upstream, open_door, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (400, 400))  # 200 connections for nginx
    base_url = open_door(upstream.address, ROOM)
    with contextlib.ExitStack() as opened:
        for _ in range(400):
            opened.enter_context(connect(base_url))
        assert thirty_honest_clients(base_url, list(ROOM.values())) == ALL_ANSWERED


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_ends_its_request(streamed, upstream, open_door):
    base_url = open_door(upstream.address, ROOM)
    for _ in range(3):  # the places are free again
        with contextlib.ExitStack() as opened:
            for _ in range(8):
                raw = opened.enter_context(connect(base_url))
                raw.sendall(b"".join(post(json.dumps({"stream": streamed}).encode())))
            wait_until(lambda: upstream.now == 8)
            assert httpx.get(f"{base_url}/models", headers=HEADERS, **CLIENT).status_code == 429
            assert thirty_honest_clients(base_url, list(ROOM.values())[1:]) == ALL_ANSWERED
        wait_until(lambda: upstream.now == 0)
        assert upstream.left.is_set() and not upstream.go.is_set()
    wait_until(lambda: httpx.get(f"{base_url}/models", headers=HEADERS, **CLIENT).status_code == 200)


def test_no_key_and_no_question_is_ever_written(upstream, open_door, lines, tmp_path, capfd):
    """Not where the configuration lies, nor in a log, nor on the terminal, however wrong the request is."""
    base_url = open_door(upstream.address, {"table": "SECRET"}, max_body=100_000)
    folder = next(tmp_path.glob("door-*"))
    good = b"Authorization: Bearer SECRET\r\n"
    for request in (
        b"GET /v1/models?api_key=SECRET HTTP/1.1\r\nHost: x\r\n" + good,
        b"GET /SECRET HTTP/1.1\r\nHost: SECRET\r\nReferer: SECRET\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization\0: Bearer SECRET\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer SECRET\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + b"SECRET" * 5000 + b"\r\n",
        b"GET /v1/models HTTP/9.9\r\n" + good,
        b"SECRET\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n" + good + b"\r\n" + b"SECRET" * 15000,
    ):
        with connect(base_url) as raw:
            raw.sendall(request + b"Connection: close\r\n\r\n")
            raw.shutdown(socket.SHUT_WR) if b"POST" not in request else upstream.go.set()
            with contextlib.suppress(ConnectionResetError):
                while raw.recv(4096):
                    pass
    wait_until(lambda: len(lines()) >= 7)
    captured = capfd.readouterr()
    assert "SECRET" not in captured.out + captured.err + "".join(lines())
    holding = [path for path in folder.rglob("*") if path.is_file() and "SECRET" in path.read_text(errors="replace")]
    assert [path.name for path in holding] == ["keys.conf"] and not any((folder / "temporary").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.conf")} == {0o600}


def test_the_configuration_passes_nginx_for_every_kind_of_value(open_door, tmp_path):
    keys = {"table-1": "a.b~c+d/e=f-_", "T.2": "x" * 500}
    for host in ("127.0.0.1", "0.0.0.0", "::1", "::", "localhost"):
        for upstream in (
            "http://127.0.0.1:8000/v1/",
            "https://127.0.0.1",
            "http://[::1]:8000",
            "http://localhost:8000",
        ):
            command = Door(keys, upstream, host, at_once=100, max_body=10**9).write(tmp_path / "a b" / "课")
            assert command[0].endswith("nginx")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"port": 0}, "from 1 to 65535"),
        ({"port": 99999}, "from 1 to 65535"),
        ({"keys": {}}, "no key"),
        ({"keys": {"table": 'x"; evil'}}, "a key has letters"),
        ({"keys": {"ta ble": "x"}}, "a table's name"),
        ({"at_once": 0}, "positive"),
        ({"max_body": -1}, "positive"),
        ({"host": "a b;"}, "no address"),
        *(({"upstream": url}, "no address of vLLM") for url in ("", "127.0.0.1:8000", "http://h:99999", "ftp://h")),
        *(
            ({"upstream": url}, "no address of vLLM")
            for url in ("http://h/v2", "http://h;x", "http://evil:evil@h", "http://[")
        ),
    ],
)
def test_what_no_door_can_have_is_one_sentence(values, reason):
    with pytest.raises(CourseError, match=reason) as error:
        Door(**{"keys": KEYS} | values)
    assert len(str(error.value).splitlines()) == 2 and "evil" not in str(error.value)


def test_without_nginx_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(door, "SBIN", ())
    with pytest.raises(CourseError, match="apt-get install -y nginx-light"):
        Door(KEYS).write(tmp_path)


# ---- the tool


@pytest.fixture
def tool(open_door, tmp_path):
    """``tool(*arguments)``: the tool as a process, once it has said where it is; it and its processes."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "tools.workshop.door", "--folder", tmp_path, *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        said = ""
        while "VLLM_MAX_N_SEQUENCES=4 or" not in said.replace(",", "") and (line := process.stdout.readline()):
            said += line
        return process, said, descendants(process.pid) if process.poll() is None else []

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_the_end_of_the_tool_is_the_end_of_nginx(number, code, tool, tmp_path):
    port = free_port()
    process, said, started = tool("--tables", 2, "--port", port, "--upstream", "http://127.0.0.1:9/v1")
    assert f"http://127.0.0.1:{port}/v1 -> http://127.0.0.1:9/v1" in said and len(started) >= 3
    key = read_keys(tmp_path / "keys.txt")["table-2"]
    assert f"table-2  {key}" in said
    reply = httpx.get(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {key}"}, **CLIENT)
    assert reply.status_code == 502 and re.search(r"table-2  GET /v1/models  502", process.stdout.readline())
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    wait_until_gone(started)


def test_the_tool_says_when_nginx_ends(tool):
    process, _, started = tool("--port", free_port())
    [master] = [found for found in started if found.name() == "nginx" and found.parent().name() != "nginx"]
    master.kill()
    assert "nginx has ended by itself" in process.communicate(timeout=PATIENCE)[0] and process.returncode == 1
    wait_until_gone(started)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--port", "99999"), "from 1 to 65535"),
        (("--port", "-1"), "from 1 to 65535"),
        (("--tables", "0"), "number of tables is positive"),
        (("--upstream", "127.0.0.1:8000"), "no address of vLLM"),
        (("--host", "no.such.host.invalid"), "no address of this machine|nginx refuses"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, reason, open_door, tmp_path, capfd):
    assert door.main(["--folder", str(tmp_path), *arguments]) == 1
    said = capfd.readouterr()
    assert re.search(reason, said.err) and "Traceback" not in said.err


def test_a_port_that_is_taken_is_one_sentence(open_door, tmp_path, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert door.main(["--folder", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 1
    assert "choose another" in capfd.readouterr().err


# ---- keys


def test_keys_are_made_once_and_are_private(tmp_path):
    file = tmp_path / "workshop" / "keys.txt"
    keys = make_keys(3, file)
    assert len(set(keys.values())) == 3 and min(map(len, keys.values())) >= 16
    assert make_keys(4, file).items() >= keys.items()
    assert len(read_keys(file)) == 4 and stat.S_IMODE(file.stat().st_mode) == 0o600


def test_keys_that_others_could_read_become_private_and_comments_stay(tmp_path, capsys):
    file = tmp_path / "keys.txt"
    file.write_text("\ufeff# printed on Monday\n\ntable-1 old-key # by the window", encoding="utf-8")
    file.chmod(0o644)
    assert read_keys(file) == {"table-1": "old-key"}
    keys = make_keys(2, file)
    assert keys["table-1"] == "old-key" and read_keys(file) == keys and len(keys) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and "could be read by others" in capsys.readouterr().out
    assert "# printed on Monday\n" in file.read_text() and os.listdir(tmp_path) == ["keys.txt"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("table-1 key-one".encode("utf-16"), "not UTF-8"),
        ("table-1 key-one".encode("utf-16-le"), "line 1: a table's name"),
        ("table-1 密钥".encode("gbk"), "not UTF-8"),
        ("table-1 钥".encode(), "line 1: a key has letters"),
        (b"a b\ntable-1", "line 2: it should be two words"),
        (b"table-1 key one", "line 1: it should be two words"),
        (b"a 123\na 456", "line 2: the table or the key stands above"),
        (b"a 123\nb 123", "line 2: the table or the key stands above"),
        (b'a "123";', "line 1: a key has letters"),
        (None, "cannot be read"),
    ],
)
def test_a_keys_file_that_is_none_is_one_sentence(content, reason, tmp_path):
    file = tmp_path / "keys.txt"
    file.write_bytes(content) if content else file.mkdir()
    for use in (read_keys, lambda path: make_keys(3, path)):
        with pytest.raises(CourseError, match=reason) as error:
            use(file)
        assert len(str(error.value).splitlines()) == 2 and "123" not in str(error.value)
    assert content is None or file.read_bytes() == content


# ---- the rehearsal, on a real server


def asked(*replies):
    """The checker's answer to one question that a server with these replies was asked."""

    async def ask(base_url):
        async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as client:
            return await check.ask(client, "m", "?", thinking=True)

    with FaultyServer(*replies) as server:
        return asyncio.run(ask(server.base_url)), server.bodies[0]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (stream({"reasoning": "hm"}, {"content": "4"}), ""),
        (stream({"reasoning": "hm"}, {"content": "4"}, finish="length"), ""),  # cut by COURSE_MAX_TOKENS
        (stream({"content": "hm</think>4"}), ""),
        (stream({"content": "4"}, first=[{"choices": None}, {"choices": [{"index": 0, "delta": None}]}]), ""),
        (stream({"reasoning": "1702"}), "a thought and no answer: is the server's --reasoning-parser right"),
        (stream({"reasoning_content": "1702"}), "a thought and no answer"),
        (stream({"content": "<think>hm"}), "a thought and no answer"),
        (stream({"reasoning": "hm"}, finish="length"), "cut within the thought: raise COURSE_MAX_TOKENS"),
        (stream(first=[{"choices": None}]), "the answer is empty"),
        (stream({"content": "half"}, finish=None), "it broke off"),
        (stream({"content": "half"}, finish="abort"), "it broke off (finish_reason abort)"),
        (status(503), "InternalServerError"),
    ],
)
def test_only_an_answer_counts_as_one(reply, why):
    answer, _ = asked(reply)
    assert answer.error.startswith(why) if why else not answer.error and answer.pieces > 0


def test_answers_are_as_long_as_they_need_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("COURSE_MAX_TOKENS", raising=False)
    assert asked(stream({"content": "4"}))[1]["max_tokens"] is None
    monkeypatch.setenv("COURSE_MAX_TOKENS", "7")
    assert asked(stream({"content": "4"}))[1]["max_tokens"] == 7


@pytest.mark.parametrize(
    "reply", [page, body({"data": None}), body({"data": []}), body({"data": [{"id": None}]}), drop]
)
def test_a_server_that_lists_no_models_is_one_sentence(reply):
    with FaultyServer(chat()) as server:
        server.get_reply = reply
        with pytest.raises(CourseError, match="does not answer with a list of models") as error:
            check.served_model(server.base_url, "x")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.slow
def test_thirty_clients_on_a_server_of_our_own():
    variables = os.environ | {"CLIENTS": "30", "ROUNDS": "2", "COURSE_MAX_TOKENS": "256"}
    command = [sys.executable, "-m", "tools.workshop.check"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60/60" in done.stdout and "ok       门 Door" in done.stdout and "n=1000: 400" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_room_that_is_not_ready_is_red(monkeypatch, capsys, open_door, server):
    """One real server: straight on it, the door is open; behind one with room for one, requests are turned away."""
    monkeypatch.setattr(preflight, "preflight", lambda seen: [])
    monkeypatch.setattr(check, "read_keys", lambda: {"table-1": "key-one"})
    monkeypatch.setenv("CLIENTS", "6")
    client = openai.OpenAI(base_url=server.base_url, api_key="EMPTY")
    assert client.models.list().data[0].id == "qwen3-tiny"
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    assert check.main() == 1
    assert re.search(r"problem +门 Door.*'no key': 200.*'/metrics': 200", capsys.readouterr().out)
    monkeypatch.setenv("OPENAI_BASE_URL", open_door(server.base_url, at_once=1))
    assert check.main() == 1
    said = capsys.readouterr().out
    assert "ok       门 Door" in said and re.search(r"problem +6 个客户端", said) and "429" in said
    assert re.search(r"warning +一次要一千份回答.*n=1000: 200", said)
    monkeypatch.setenv("CLIENTS", "many")
    assert check.main() == 1 and "CLIENTS is a positive integer" in capsys.readouterr().out
    _guard.end(open_door.guards[0])
    assert check.main() == 1  # the door is gone
    assert "ConnectError" in capsys.readouterr().out


@pytest.mark.large
def test_the_attacks_on_a_real_server_behind_the_door(monkeypatch, open_door):
    """A thousand answers in a request, 130 requests at once, clients that leave: 30 honest ones get their answers."""
    monkeypatch.setenv("VLLM_MAX_N_SEQUENCES", str(door.MAX_N))
    monkeypatch.setenv("COURSE_MAX_TOKENS", "64")
    with Server("qwen3-tiny") as server, contextlib.ExitStack() as opened:
        base_url = open_door(server.base_url, ROOM)
        ask = {"headers": HEADERS, **CLIENT}
        for path, prompt in (("completions", {"prompt": "1"}), ("chat/completions", {"messages": []})):
            body = prompt | {"n": 1000, "max_tokens": 1}
            assert httpx.post(f"{base_url}/{path}", json=body, **ask).status_code == 400
        honest = list(ROOM.values())[1:]
        long = {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1500, "ignore_eos": True, "n": 4}
        attack = [opened.enter_context(connect(base_url)) for _ in range(130)]
        head, body = post(json.dumps(long).encode())
        for part in (head, body):
            for raw in attack:
                with contextlib.suppress(OSError):  # it was refused and closed
                    raw.sendall(part)
        wait_until(lambda: server.metrics()["num_requests_running"] > 0)
        most = server.metrics()["num_requests_running"] + server.metrics()["num_requests_waiting"]
        assert most <= 8 * door.MAX_N
        answers = asyncio.run(check.rehearse(base_url, honest, server.model, 30, 1))
        assert len(answers) == 30 and [answer.error for answer in answers if answer.error] == []
        before = server.metrics()["generation_tokens_total"]
        for raw in attack:
            raw.close()
        wait_until(lambda: server.metrics()["num_requests_running"] == 0)
        assert server.metrics()["generation_tokens_total"] - before < 8 * door.MAX_N * 1400  # none ran to its end
        many = httpx.post(f"{base_url}/completions", json={"prompt": ["1"] * 50, "max_tokens": 1}, **ask)
        assert len(many.json()["choices"]) == 50  # which the page says: a list of prompts is let through
