"""The door between a classroom and one vLLM server: lets /v1 through, for whoever has a table's key, and nothing else.

    .venv/bin/python -m tools.workshop.proxy --tables 10 --host 0.0.0.0 --port 6006

The server itself stays on 127.0.0.1. Keys are made once and kept in build/workshop/keys.txt; who deletes the file gets
new ones. It speaks plain http: on a network that you do not trust, put https in front. What is logged is table, path,
status and time, never a question or an answer.
"""

import argparse
import asyncio
import contextlib
import hashlib
import secrets
import socket
import sys
import threading
import time

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse

from tools.workshop.keys import make_keys

OPEN = {("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions")}
MAX_BODY = 2**20  # bytes of a request
PER_TABLE = 8  # requests of a table at once: three laptops with two each, and some room


def refusal(status: int, message: str) -> JSONResponse:
    """An error as OpenAI's clients expect it."""
    return JSONResponse({"error": {"message": message, "type": "workshop_proxy", "code": status}}, status)


class Proxy:
    """An ASGI application, ``app``. upstream: the server's address without /v1. log: takes a line per request."""

    def __init__(self, upstream: str, keys: dict[str, str], per_table=PER_TABLE, max_body=MAX_BODY, log=print):
        self.keys = {table: hashlib.sha256(key.encode()).digest() for table, key in keys.items()}
        self.per_table, self.max_body, self.log = per_table, max_body, log or (lambda line: None)
        self.running = dict.fromkeys(keys, 0)
        # A thought may take minutes; a proxy of the environment cannot reach this machine's own addresses.
        self.client = httpx.AsyncClient(base_url=upstream, timeout=httpx.Timeout(600, connect=5), trust_env=False)
        self.app = Starlette()
        self.app.add_route("/{path:path}", self.answer, ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])

    def table_of(self, authorization: str) -> str | None:
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.encode()).digest()
        found = [table for table, known in self.keys.items() if secrets.compare_digest(digest, known)]
        return found[0] if found and scheme.lower() == "bearer" else None

    async def answer(self, request):
        start, path = time.monotonic(), request.url.path
        table = self.table_of(request.headers.get("authorization", ""))
        if table is None:
            return refusal(401, "这个密钥不对：用你们桌上的那一个。 Wrong key: use the one of your table.")
        if (request.method, path) not in OPEN:
            return refusal(404, "这里只开放 /v1 的模型列表、补全和对话。 Only models, completions and chat are open.")
        if self.running[table] >= self.per_table:
            return refusal(429, f"{table} 同时的请求太多，稍后再试。 Too many requests of {table} at once: try again.")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > self.max_body:
                return refusal(413, f"请求超过 {self.max_body} 字节。 The request has more than {self.max_body} bytes.")
        headers = {"content-type": request.headers.get("content-type", "application/json")}  # not the key, no cookie
        self.running[table] += 1
        try:
            reply = await self.client.send(
                self.client.build_request(request.method, path, content=body, headers=headers), stream=True
            )
        except httpx.HTTPError as error:
            self.running[table] -= 1
            self.log(f"{table}  {request.method} {path}  502  {type(error).__name__}")
            return refusal(502, "服务器没有回答，请告诉老师。 The server does not answer: tell the instructor.")
        except BaseException:
            self.running[table] -= 1
            raise

        async def pieces():
            try:
                async for piece in reply.aiter_raw():
                    yield piece
            finally:  # also when the laptop goes away: the server then stops writing
                self.running[table] -= 1
                with contextlib.suppress(asyncio.CancelledError):
                    await reply.aclose()
                seconds = time.monotonic() - start
                self.log(f"{table}  {request.method} {path}  {reply.status_code}  {seconds:.1f} s")

        kept = {name: reply.headers[name] for name in ("content-type", "content-encoding") if name in reply.headers}
        return StreamingResponse(pieces(), reply.status_code, kept)


@contextlib.contextmanager
def running(proxy: Proxy, host: str = "127.0.0.1", port: int = 0):
    """The proxy in a thread, for as long as the block runs; gives its address, /v1 included."""
    with socket.create_server((host, port)) as listening:
        config = uvicorn.Config(proxy.app, log_level="warning", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            server.should_exit = True
            thread.join(30)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", default="http://127.0.0.1:8000", help="vLLM's address (%(default)s)")
    parser.add_argument("--tables", type=int, default=10, help="how many keys (%(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for a classroom (%(default)s)")
    parser.add_argument("--port", type=int, default=6006, help="%(default)s is one that AutoDL maps")
    options = parser.parse_args(arguments)
    keys = make_keys(options.tables)
    print("\n".join(f"{table}  {key}" for table, key in keys.items()))
    try:
        with running(Proxy(options.upstream, keys), options.host, options.port):
            print(f"http://{options.host}:{options.port}/v1 -> {options.upstream}/v1   (Ctrl-C ends it)", flush=True)
            threading.Event().wait()
    except OSError as error:
        print(
            f"端口 {options.port} 用不了（{error.strerror}）：用 --port 换一个。\n"
            f"Port {options.port} cannot be used ({error.strerror}): choose another with --port.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
