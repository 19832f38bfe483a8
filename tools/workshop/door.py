"""The door between a classroom and one vLLM server: nginx, which opens three routes to whoever has a table's key.

    .venv/bin/python -m tools.workshop.door --tables 10 --host 0.0.0.0 --port 6006

vLLM itself stays on 127.0.0.1. Keys are made once and kept in build/workshop/keys.txt; who deletes the file gets new
ones. The configuration is written beside it, checked with ``nginx -t``, and nginx runs in the foreground, as an
ordinary process: Ctrl-C ends it, and so does whatever ends this tool. It speaks plain http: on a network that you do
not trust, put https in front. What is logged is table, route, status and time, never a key, a question or an answer.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from helpers import CourseError, _guard
from helpers.endpoint import without_credentials
from helpers.language import say
from helpers.ports import HOST, check_number, check_port, listeners, sockets
from tools.workshop.keys import FOLDER, KEYS, check_key, make_keys, write_private

ROUTES = ("GET /v1/models", "POST /v1/chat/completions", "POST /v1/completions")
MAX_N = 4  # answers to one question that a server behind the door should allow: VLLM_MAX_N_SEQUENCES
INSTALL = "sudo apt-get install -y nginx-light"
SBIN = ("/usr/local/sbin", "/usr/sbin")  # where Debian puts it, and not every user's PATH leads
CONFIGURATION, KEY_MAP = "nginx.conf", "keys.conf"
REFUSALS = {  # status: what it says, Chinese and English
    400: ("这个请求读不懂。", "The request cannot be read."),
    401: ("这个密钥不对：用你们桌上的那一个。", "Wrong key: use the one of your table."),
    404: ("这里只开放 /v1 的模型列表、补全和对话。", "Only models, completions and chat are open."),
    408: ("请求来得太慢。", "The request came too slowly."),
    413: ("请求太大：最多 {max_body} 字节。", "The request is too large: {max_body} bytes at most."),
    429: (
        "你们桌同时的请求太多：最多 {at_once} 个，稍后再试。",
        "Too many requests of your table at once: {at_once} at most, try again.",
    ),
    502: ("服务器没有回答，请告诉老师。", "The server does not answer: tell the instructor."),
    504: ("服务器太久没有回答，请告诉老师。", "The server took too long to answer: tell the instructor."),
}
ANSWERED = {  # what nginx itself may find wrong with a request, by the refusal that says it
    400: (400, 405, 411, 414, 431, 494, 501, 505),
    404: (404,),
    408: (408,),
    413: (413,),
    429: (429,),
    502: (500, 502, 503),
    504: (504,),
}
TEMPLATE = """\
# Written by tools/workshop/door.py. The keys are in {key_map}, which only its owner may read.
daemon off;
pid nginx.pid;
error_log stderr alert;  # less severe lines would quote a request
worker_processes 1;
worker_rlimit_nofile {files};
events {{ worker_connections {connections}; }}

http {{
    map $http_authorization $table {{
        default "";
        include {key_map};
    }}
    map "$request_method $request_uri" $route {{  # as it was sent: no detour through dots, escapes or a query
        default "";
{routes}
    }}

    # What is logged: no address that is not open, as a key may stand in it.
    log_format door '$time_iso8601  $table  $route  $status  $request_time s';
    access_log {log};

    # Everything before the answer has a limit in size and time. Idle connections go first when all are taken.
    client_header_timeout 10s;
    client_body_timeout 10s;
    send_timeout 60s;
    keepalive_timeout 30s;
    lingering_time 5s;  # for the rest of what was refused
    reset_timedout_connection on;
    client_header_buffer_size 1k;
    large_client_header_buffers 4 8k;
    client_max_body_size {max_body};
    client_body_buffer_size {buffer};  # with the heads of its pieces: a question never lies on the disk
    server_tokens off;
    default_type "application/json; charset=utf-8";

    # A table's requests at once, counted before the body is read.
    limit_conn_zone $table zone=tables:1m;
    limit_conn_status 429;

    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    scgi_temp_path temporary;
    uwsgi_temp_path temporary;

    server {{
        listen {listen};
        location / {{
            if ($table = "") {{ return 401 {wrong_key}; }}
            if ($route = "") {{ return 404 {closed}; }}
            limit_conn tables {at_once};

            proxy_pass {upstream};
            proxy_http_version 1.1;  # replies in chunks, whose last one is marked
            proxy_pass_request_headers off;  # neither key nor cookie
            proxy_set_header Content-Type application/json;
            proxy_connect_timeout 5s;
            proxy_read_timeout 600s;  # a thought may take minutes
            proxy_request_buffering on;  # a slow body takes nothing from the server
            proxy_buffering off;  # a stream goes on piece by piece
            proxy_ignore_client_abort off;  # who leaves ends the request
        }}

{refusals}
    }}
}}
"""


@dataclass(frozen=True)
class Door:
    """An nginx in front of one server. Raises CourseError if a value cannot be.

    keys: name -> key. upstream: the server's address, without /v1. routes: "METHOD /path", which are open to a key.
    at_once: requests of one key that may run together. max_body: bytes of a request.
    """

    keys: dict[str, str]
    upstream: str = "http://127.0.0.1:8000"
    host: str = HOST
    port: int = 6006
    at_once: int = 8  # three laptops with two each, and some room
    max_body: int = 2**20
    routes: tuple[str, ...] = ROUTES

    def __post_init__(self):
        check_number(self.port)
        if not self.keys:
            raise CourseError("一个密钥也没有：没有人进得来。", "There is no key: nobody could come in.")
        for table, key in self.keys.items():
            check_key(table, key)
        if min(self.at_once, self.max_body) < 1:
            raise CourseError("请求数和字节数都要是正整数。", "The numbers of requests and of bytes are positive.")
        if not re.fullmatch(r"[\w.:-]+", self.host, re.ASCII):
            raise CourseError(f"{self.host!r} 不是地址。", f"{self.host!r} is no address.")
        object.__setattr__(self, "upstream", _origin(self.upstream))

    @property
    def base_url(self) -> str:
        """What clients on this machine take for their base URL."""
        return f"http://{_bracketed(self._reached)}:{self.port}/v1"

    @property
    def _reached(self) -> str:
        return {"0.0.0.0": HOST, "::": "::1"}.get(self.host, self.host)

    def key_map(self) -> str:
        """Which key is whose. By expressions, as nginx compares plain words without regard to case."""
        return "".join(f'"~^(?i:bearer) {re.escape(key)}$" "{name}";\n' for name, key in self.keys.items())

    def configuration(self, log: str) -> str:
        """The text of nginx.conf, without a key in it; nginx writes a line a request to ``log``, a file or "off"."""
        says = {
            status: _quoted(status, *(text.format(**vars(self)) for text in REFUSALS[status])) for status in REFUSALS
        }
        files = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        return TEMPLATE.format(
            key_map=KEY_MAP,
            files=files,
            connections=min(16384, files // 2),
            routes="\n".join(f'        "~^{re.escape(route)}$" "{route}";' for route in self.routes),
            log=log if log == "off" else f"{log} door",
            max_body=self.max_body,
            buffer=self.max_body + 2**16,
            listen=f"{_bracketed(self.host)}:{self.port}",
            wrong_key=says[401],
            closed=says[404],
            at_once=self.at_once,
            upstream=self.upstream,
            refusals="\n".join(
                f"        error_page {' '.join(map(str, statuses))} /refused/{status};\n"
                f"        location = /refused/{status} {{ internal; return {status} {says[status]}; }}"
                for status, statuses in ANSWERED.items()
            ),
        )

    def write(self, folder: Path, log: str = "/dev/stdout") -> list[str | Path]:
        """Write the configuration and the keys into ``folder`` and let nginx check them; the command that runs it.

        Raises CourseError if there is no nginx, or if it refuses.
        """
        nginx = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), *SBIN]))
        if not nginx:
            raise CourseError(f"没有装 nginx：{INSTALL}", f"nginx is not installed: {INSTALL}")
        write_private(folder / KEY_MAP, self.key_map())
        write_private(folder / CONFIGURATION, self.configuration(log))
        command: list[str | Path] = [nginx, "-p", folder.resolve(), "-c", (folder / CONFIGURATION).resolve()]
        checked = subprocess.run([*command, "-t", "-q"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if checked.returncode:
            raise CourseError(f"nginx 不接受这份配置：{checked.stderr}", f"nginx refuses this: {checked.stderr}")
        return command

    @contextlib.contextmanager
    def running(
        self, folder: Path, log: str = "/dev/stdout", stdout: int | IO | None = None
    ) -> Iterator[subprocess.Popen]:
        """nginx for as long as the block runs, ended with this process, however that ends; gives its guard.

        Raises CourseError if it does not start.
        """
        command = self.write(folder, log)
        check_port(self.host, self.port)
        guard = _guard.start(command, stdout=stdout)
        try:
            while not listeners(self._reached, self.port) & sockets(_guard.members(guard)):
                if guard.poll() is not None:
                    raise CourseError("nginx 没有启动：原因在上面。", "nginx did not start: it says above why.")
                time.sleep(0.05)
            yield guard
        finally:
            _guard.end(guard)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _quoted(status: int, zh: str, en: str) -> str:
    """An error as OpenAI's clients expect it, as a word of nginx's."""
    body = {"error": {"message": f"{zh} {en}", "type": "workshop_door", "code": status}}
    return f"'{json.dumps(body, ensure_ascii=False)}'"


def _origin(url: str) -> str:
    """Scheme, host and port of a server's address. Raises CourseError if it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # ValueError if out of range
    except ValueError:
        parts = urllib.parse.urlsplit("")
    origin = re.fullmatch(
        r"https?://(?:[\w.-]+|\[[\da-fA-F:.]+\])(?::\d+)?", f"{parts.scheme}://{parts.netloc}", re.ASCII
    )
    if not origin or parts.path.rstrip("/") not in ("", "/v1") or parts.query or parts.fragment:
        url = without_credentials(url)
        raise CourseError(
            f"{url!r} 不是 vLLM 的地址：要像 http://127.0.0.1:8000。",
            f"{url!r} is no address of vLLM: it should be like http://127.0.0.1:8000.",
        )
    return origin.group()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", default=Door.upstream, help="vLLM's address (%(default)s)")
    parser.add_argument("--tables", type=int, default=10, help="how many keys (%(default)s)")
    parser.add_argument("--host", default=HOST, help="0.0.0.0 for a classroom (%(default)s)")
    parser.add_argument("--port", type=int, default=Door.port, help="%(default)s is one that AutoDL maps")
    parser.add_argument("--at-once", type=int, default=Door.at_once, help="requests of a table (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of keys and configuration (build/workshop)")
    options = parser.parse_args(arguments)
    try:
        check_number(options.port)
        keys = make_keys(options.tables, options.folder / KEYS.name)
        door = Door(keys, options.upstream, options.host, options.port, options.at_once)
        with door.running(options.folder / "door") as guard:
            print("\n".join(f"{table}  {key}" for table, key in keys.items()))
            print(
                say(
                    f"{door.base_url} -> {door.upstream}/v1（Ctrl-C 结束）。\n"
                    f"vLLM 要用 VLLM_MAX_N_SEQUENCES={MAX_N} 启动，不然一个请求可以要上千份回答。",
                    f"{door.base_url} -> {door.upstream}/v1 (Ctrl-C ends it).\n"
                    f"Start vLLM with VLLM_MAX_N_SEQUENCES={MAX_N}, or one request may ask for thousands of answers.",
                ),
                flush=True,
            )
            guard.wait()
        raise CourseError("nginx 自己停了：原因在上面。", "nginx has ended by itself: it says above why.")
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
