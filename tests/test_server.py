"""helpers/server.py: its command, what a running server answers, attaching to another. For its end: test_server_end."""

import base64
import contextlib
import http.client
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest
from faulty_server import FaultyServer, body, chat, page, status
from processes import PATIENCE, descendants

from helpers import CourseError, language, models
from helpers.endpoint import without_credentials
from helpers.ports import pass_by_proxies
from helpers.server import HOST, Server

# --- before anything starts


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "models" / "Qwen--Qwen3-8B" / "snapshots" / "master"
    folder.mkdir(parents=True)
    config = {
        "model_type": "qwen3",
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "hidden_size": 8,
    }
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # whole, without a tensor
    return folder


def test_options_become_flags_and_none_leaves_one_out(checkpoint):
    made = Server(
        checkpoint,
        port=8123,
        max_num_seqs=8,
        enable_prefix_caching=False,
        trust_request_chat_template=True,
        default_chat_template_kwargs={"enable_thinking": False},
        tool_call_parser=None,
    )
    words = shlex.split(made.command)
    words = words[words.index("serve") + 1 :]
    assert words[0] == str(checkpoint) and made.base_url == "http://127.0.0.1:8123/v1"
    text = " ".join(words)
    assert "--max-num-seqs 8 " in text and "--no-enable-prefix-caching" in words and "--host 127.0.0.1" in text
    assert words[words.index("--default-chat-template-kwargs") + 1] == '{"enable_thinking": false}'
    assert words[words.index("--trust-request-chat-template") + 1].startswith("--")
    assert "--tool-call-parser" not in words and "--max-model-len 64" in text


@pytest.mark.slow
def test_an_option_of_the_installed_vllm_is_known():
    fields = "from vllm.engine.arg_utils import EngineArgs as E; print(*E.__dataclass_fields__)"
    fields = subprocess.run([sys.executable, "-c", fields], capture_output=True, text=True, check=True).stdout.split()
    asked = ["max_num_seqs", "max_num_queued_reqs", "kv_cache_memory_bytes", "no_such_option", "max_num", "model"]
    assert [Server.knows(name) for name in asked] == [name in fields for name in asked]
    assert Server.knows("max_num_seqs") and not Server.knows("max_num")


def test_an_option_is_looked_up_in_the_source(monkeypatch, tmp_path):
    source = tmp_path / "vllm" / "engine" / "arg_utils.py"
    source.parent.mkdir(parents=True)
    source.write_text("class EngineArgs:\n    max_num_seqs: int | None = None\n")  # as in 0.19
    (tmp_path / "vllm" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)  # find_spec answers from a loaded module, not from the path
    assert Server.knows("max_num_seqs") and not Server.knows("max_num_queued_reqs")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not Server.knows("max_num_seqs")


def test_the_model_is_named_after_its_folder_or_its_hub_id(checkpoint):
    assert Server(checkpoint).model == "Qwen3-8B"
    assert Server(checkpoint.parent.parent / "snapshots" / "master", served_model_name="mine").model == "mine"
    assert Server().model == models.course_model().name


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "my.machine", ""])
def test_another_address_needs_a_key(checkpoint, host):
    for key in (None, ""):
        with pytest.raises(CourseError, match=r"api_key=.*SSH") as error:
            Server(checkpoint, host=host, api_key=key)
        assert len(str(error.value).splitlines()) == 2
    assert f"--host {host}" in Server(checkpoint, host=host or "0.0.0.0", api_key="secret").command


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_needs_none(checkpoint, host):
    assert Server(checkpoint, host=host).base_url.startswith(f"http://{f'[{host}]' if ':' in host else host}:")


def test_a_key_is_in_no_command_line(checkpoint):
    server = Server(checkpoint, host="0.0.0.0", api_key="very secret")
    assert "very secret" not in server.command and 'VLLM_API_KEY="$API_KEY"' in server.command
    assert "very secret" not in " ".join(server._arguments) and server.base_url.startswith(f"http://{HOST}:")


def test_several_workers_are_several_processes(checkpoint, monkeypatch):
    monkeypatch.setattr("helpers.server.on_cpu", lambda: True)
    one, two = Server(checkpoint).command, Server(checkpoint, tensor_parallel_size=2).command
    assert "VLLM_ENABLE_V1_MULTIPROCESSING=0" in one and "OMP_THREADS_BIND" not in one
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in two and "VLLM_CPU_OMP_THREADS_BIND='0|1'" in two


def test_its_port_is_free_and_none_that_linux_hands_out_meanwhile(checkpoint, monkeypatch):
    """A server takes its port long after it was chosen. One that is taken already is passed over."""
    first = Server(checkpoint).port
    drawn = iter([first - 20000, *range(12768)])
    monkeypatch.setattr("helpers.ports.secrets.randbelow", lambda n: next(drawn))
    with socket.socket() as taken:
        taken.bind((HOST, first))
        second = Server(checkpoint).port
    assert second != first and 20000 <= min(first, second) <= max(first, second) < 32768


def test_a_wrong_path_is_refused(tmp_path):
    with pytest.raises(CourseError, match="config.json"):
        Server(tmp_path)


def test_a_busy_port_is_refused_before_anything_starts(checkpoint):
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        before = descendants(os.getpid())
        with pytest.raises(CourseError, match=str(port)):
            Server(checkpoint, port=port).start()
        assert set(descendants(os.getpid())) <= set(before)


# --- a running server


@pytest.mark.slow
def test_it_serves_the_model_under_its_name_on_this_machine_only(server):
    from openai import OpenAI

    client = OpenAI(base_url=server.base_url, api_key="EMPTY")
    assert [model.id for model in client.models.list()] == [server.model] == ["qwen3-tiny"]
    listening = []
    for process in descendants(server._guard.pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper that ended meanwhile
            listening += [c.laddr for c in process.net_connections("inet") if c.status == "LISTEN"]
    assert (HOST, server.port) in listening
    assert {address.ip for address in listening} == {HOST}


@pytest.mark.slow
def test_thinking_is_split_off_by_the_server(server):
    from openai import OpenAI

    client = OpenAI(base_url=server.base_url, api_key="EMPTY")
    arguments = {"model": server.model, "messages": [{"role": "user", "content": "37×46=?"}], "max_tokens": 6}
    cut = client.chat.completions.create(**arguments).choices[0]
    assert cut.message.content is None and cut.message.reasoning is not None and cut.finish_reason == "length"
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    message = client.chat.completions.create(**arguments, extra_body=off).choices[0].message
    assert message.content and message.reasoning is None


@pytest.mark.slow
def test_metrics_count_what_was_generated(server):
    def generate(tokens):
        body = {"model": server.model, "prompt": "1", "max_tokens": tokens, "ignore_eos": True}
        request = urllib.request.Request(f"{server.base_url}/completions", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request).read()

    before = server.metrics()
    generate(5)
    generate(6)
    after = server.metrics()
    assert after["generation_tokens_total"] - before["generation_tokens_total"] == 11
    assert after["e2e_request_latency_seconds_count"] - before["e2e_request_latency_seconds_count"] == 2
    assert after["num_requests_running"] == 0 and not any(name.endswith("_bucket") for name in after)


@pytest.mark.slow
def test_the_log_can_be_read_while_the_server_writes_it(server):
    before, tail = server.log_tail(10**6), server.log_tail(5)
    assert len(before.splitlines()) > 20 == len(server.log_tail().splitlines())
    assert "Application startup complete" in before and len(tail.splitlines()) == 5
    urllib.request.urlopen(f"{server.base_url}/models").read()
    last, after = server.log_tail(1), server.log_tail(10**6)  # vLLM may say something of its own in between
    assert after.startswith(before) and "GET /v1/models" in after[len(before) :]
    assert tail in after and last in after[len(before) :] and len(last.splitlines()) == 1


@pytest.mark.slow
def test_an_idle_connection_outlives_the_patience_of_clients(server):
    """httpx gives up an idle connection after 5 s: the server must not close it at the same moment, or before."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    connection.request("GET", "/v1/models")
    connection.getresponse().read()
    kept = connection.sock
    time.sleep(7)  # by vLLM's default it is closed after 5
    connection.request("GET", "/v1/models")
    assert json.loads(connection.getresponse().read())["data"] and connection.sock is kept is not None
    connection.close()


@pytest.mark.slow
def test_it_cannot_be_started_twice_and_its_port_is_busy(server):
    with pytest.raises(CourseError, match="stop"):
        server.start()
    with pytest.raises(CourseError, match=str(server.port)):
        Server(port=server.port).start()
    assert server.metrics()


@pytest.mark.slow
def test_clients_that_leave_in_mid_stream_leave_nothing_running(server):
    body = {"model": server.model, "max_tokens": 1500, "ignore_eos": True, "stream": True}
    streams = []
    for number in range(20):
        request = urllib.request.Request(
            f"{server.base_url}/completions",
            json.dumps(body | {"prompt": str(number)}).encode(),
            {"Content-Type": "application/json"},
        )
        streams.append(urllib.request.urlopen(request))
        streams[-1].readline()
    assert server.metrics()["num_requests_running"] > 0
    for stream in streams:
        stream.close()
    end = time.monotonic() + PATIENCE
    while server.metrics()["num_requests_running"]:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_key_guards_the_api_and_nothing_else(guarded_server):
    codes = {}
    for path in ("/v1/models", "/health", "/metrics", "/version"):
        try:
            codes[path] = urllib.request.urlopen(guarded_server.base_url.removesuffix("/v1") + path).status
        except urllib.error.HTTPError as error:
            codes[path] = error.code
    assert codes == {"/v1/models": 401, "/health": 200, "/metrics": 200, "/version": 200}
    for process in [psutil.Process(guarded_server._guard.pid), *descendants(guarded_server._guard.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper that ended meanwhile
            assert "a key" not in " ".join(process.cmdline())
    assert "a key" not in guarded_server.log_tail(10**6)


# --- attached


@pytest.fixture
def attach(monkeypatch):
    """``attach(url)``: from now on the environment names a server that runs already."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("COURSE_CONCURRENCY", raising=False)
    return lambda url, **variables: [
        monkeypatch.setenv(name, value) for name, value in {"OPENAI_BASE_URL": url, **variables}.items()
    ]


@pytest.mark.slow
def test_attached_it_uses_the_server_and_leaves_it_alone(server, attach, capsys, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    attach(server.base_url + "/")
    before = descendants(os.getpid())
    with Server(max_num_seqs=8) as shared:
        assert (shared.attached, shared.model, shared.base_url) == (True, server.model, server.base_url)
        assert shared.concurrency_limit == 2 and shared.is_bundled
        said = capsys.readouterr().out
        assert (
            "at most 2 requests at once" in said and "whole room" in said and "do not apply to it: max_num_seqs" in said
        )
        metrics = shared.metrics()
        assert metrics.scope == "the whole room's requests" and "whole room" in repr(metrics)
        assert metrics["num_requests_running"] == 0
        for destructive in (shared.kill, shared.log_tail, lambda: shared.command):
            with pytest.raises(CourseError, match="refused"):
                destructive()
    assert "left running" in capsys.readouterr().out
    assert server.metrics().scope == "this notebook's server" and set(descendants(os.getpid())) <= set(before)


def test_the_rooms_key_is_used_and_not_the_one_for_a_server_of_ones_own(attach):
    with FaultyServer(chat()) as server:
        keys = []
        server.get_reply = lambda handler: (keys.append(handler.headers["Authorization"]), status(401)(handler))
        attach(server.base_url, OPENAI_API_KEY="the room's")
        shared = Server(api_key="my own")
        with pytest.raises(CourseError, match="key is wrong"):
            shared.start()
    assert keys == ["Bearer the room's"] and shared.api_key == "the room's"


def test_a_key_in_vllms_own_variable_is_known_to_clients(checkpoint, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "from outside")
    assert Server(checkpoint, host="0.0.0.0").api_key == "from outside"


def test_the_instructor_says_how_many_at_once(attach, checkpoint, monkeypatch):
    assert Server(checkpoint).concurrency_limit == math.inf
    with FaultyServer(chat()) as server:
        attach(server.base_url, COURSE_CONCURRENCY="5")
        assert Server().concurrency_limit == 5
    for wrong in ("0", "-1", "many", "2.5"):
        monkeypatch.setenv("COURSE_CONCURRENCY", wrong)
        with pytest.raises(CourseError, match="COURSE_CONCURRENCY"):
            Server()


def test_nothing_behind_the_address(attach):
    attach("http://127.0.0.1:9/v1")
    with pytest.raises(CourseError, match=r"No server at .*unset it") as error:
        Server().start()
    assert len(str(error.value).splitlines()) == 2


def test_a_server_of_another_model(attach):
    with FaultyServer(chat(), models=("Qwen/Qwen3-32B", "other")) as server:
        attach(server.base_url)
        assert Server().start().model == "Qwen/Qwen3-32B"
        assert Server("Qwen3-32B").start().model == "Qwen/Qwen3-32B"
        with pytest.raises(CourseError, match=r"serves .*Qwen3-32B.* not Qwen3-8B"):
            Server("Qwen3-8B").start()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(page, "something else than a list"), (status(404), "end in /v1"), (status(401), "set OPENAI_API_KEY")],
)
def test_an_address_that_is_no_such_server(reply, reason, attach):
    with FaultyServer(chat()) as server:
        server.get_reply = reply
        attach(server.base_url)
        with pytest.raises(CourseError, match=reason) as error:
            Server().start()
        assert len(str(error.value).splitlines()) == 2


def redirect(code, target):
    """A reply that sends the client elsewhere."""

    def send(handler):
        handler.send_response(code)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return send


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_never_takes_the_key_to_another_server(code, attach):
    with FaultyServer(chat()) as honest, FaultyServer(chat()) as stranger:
        asked = []
        stranger.get_reply = lambda handler: asked.append(handler.headers["Authorization"])
        attach(honest.base_url, OPENAI_API_KEY="the room's")
        shared = Server().start()
        honest.get_reply = redirect(code, f"{stranger.base_url}/models?token=hidden")
        with pytest.raises(CourseError, match=f"answers {code}: it sends you to {stranger.base_url[:-3]}") as error:
            Server().start()
        with pytest.raises(CourseError, match="cannot be read"):
            shared.metrics()
    assert asked == [] and "hidden" not in str(error.value)


def test_a_redirect_on_the_same_server_is_followed(attach):
    with FaultyServer(chat()) as server:
        paths = []

        def reply(handler):
            paths.append((handler.path, handler.headers["Authorization"]))
            if handler.path == "/v1/models":
                return redirect(307, "/v1/models/")(handler)
            handler.reply(200, json.dumps({"data": [{"id": "m"}]}))

        server.get_reply = reply
        attach(server.base_url, OPENAI_API_KEY="key")
        assert Server().start().model == "m"
    assert paths == [("/v1/models", "Bearer key"), ("/v1/models/", "Bearer key")]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        *((status(code), f"answers {code}: the server itself failed") for code in (500, 502, 503, 504)),
        (status(404), "answers 404: there is no such path"),
        (status(403), "answers 403: the key is wrong"),
        (status(429), "answers 429: too many requests"),
        (status(418), "answers 418: it refuses"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "No server at .*no HTTP"),
        (lambda handler: handler.reply(200, "[" * 10**5), "something else than a list"),
        (lambda handler: handler.reply(200, '{"data": [{"id": 3}]}'), "something else than a list"),
        (lambda handler: handler.reply(200, '{"data": null}'), "something else than a list"),
    ],
)
def test_what_the_shared_server_says_is_explained_as_what_it_is(reply, reason, attach):
    def once(handler):
        handler.close_connection = True
        reply(handler)

    with FaultyServer(chat()) as server:
        server.get_reply = once
        attach(server.base_url)
        with pytest.raises(CourseError, match=reason) as error:
            Server().start()
    assert len(str(error.value).splitlines()) == 2
    assert ("end in /v1" in str(error.value)) == ("404" in reason)


@pytest.mark.parametrize("url", ["127.0.0.1:8000/v1", "http://", "http://h:99999/v1", "http://[::1/v1", "ftp://h/v1"])
def test_what_is_no_address_is_said(url, attach):
    attach(url)
    with pytest.raises(CourseError, match="is no address"):
        Server()


PASSWORD = "s/e?c@r:et"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        (f"http://user:{PASSWORD}@host:8000/v1", "http://host:8000/v1"),
        (f"https://{PASSWORD}@[::1]/v1", "https://[::1]/v1"),
        (f"user:{PASSWORD}@host/v1", "host/v1"),
        ("http://host/v1?token=secret", "http://host/v1"),
        (f"user:{PASSWORD}@", ""),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret_in_it(address, shown):
    assert without_credentials(address) == shown


@pytest.mark.parametrize("reply", [None, page, status(404), status(500), lambda h: redirect(307, h.path[1:])(h)])
def test_no_message_holds_the_password_of_the_address(reply, attach, capsys):
    """It is sent as openai's client sends it, and printed by nobody."""
    said, heads = [], []
    with FaultyServer(chat()) as server:
        attach(server.base_url.replace("//", "//user:se%63ret@"))
        server.get_reply = lambda handler: (heads.append(handler.headers["Authorization"]), fine(handler))
        fine = body({"data": [{"id": "m"}]})
        with Server() as shared:
            calls = [shared.metrics, shared.kill, shared.log_tail, lambda: shared.command, Server("other").start]
            server.get_reply = reply or server.get_reply
            for call in [*calls, *([Server().start] if reply else [])]:
                with pytest.raises(CourseError) as error:
                    call()
                said.append(str(error.value))
    for wrong in ("user:secret@127.0.0.1/v1", "http://user:secret@127.0.0.1:9/v1", "http://user:secret@h:99999/v1"):
        attach(wrong)
        with pytest.raises(CourseError) as error:
            Server().start()
        said.append(str(error.value))
    said.append("".join(capsys.readouterr()))
    assert not any("secret" in text or "se%63ret" in text for text in said), said
    assert heads[0] == "Basic " + base64.b64encode(b"user:secret").decode()


@pytest.mark.parametrize("given", [{"NO_PROXY": "corp"}, {"no_proxy": "corp"}, {"NO_PROXY": "x", "no_proxy": "corp"}])
def test_what_no_proxy_excepts_stays_excepted(given, monkeypatch):
    """Programs that read both variables let the lower-case one hide the other."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        pass_by_proxies(HOST)
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == f"corp,{HOST}"
    assert urllib.request.proxy_bypass_environment("corp") and urllib.request.proxy_bypass_environment(HOST)


@pytest.mark.parametrize("key", ["钥匙", "a\nb", "k\u200b"])
def test_a_key_that_no_header_can_hold_is_said(key, attach, checkpoint):
    attach("http://127.0.0.1:9/v1", OPENAI_API_KEY=key)
    with pytest.raises(CourseError, match="copy it again") as error:
        Server()
    assert key not in str(error.value)
    attach("")
    with pytest.raises(CourseError, match="copy it again"):
        Server(checkpoint, api_key=key)


def test_metrics_that_are_not_open(attach):
    with FaultyServer(chat()) as server:
        attach(server.base_url)
        shared = Server().start()
        for reply in (status(404), page):
            server.get_reply = reply
            with pytest.raises(CourseError, match="most likely it is not open"):
                shared.metrics()


# --- start-up that fails


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "not enough memory"),
        ("ValueError: Free memory on device is less than desired GPU memory utilization", "not enough memory"),
        ("ValueError: 1.1 GiB KV cache is needed, which is larger than the available", "not enough memory"),
        ("OSError: [Errno 98] Address already in use", "port 8123 was taken"),
        (
            "KeyError: 'first'\nRuntimeError: Engine core initialization failed. See root cause above.",
            "KeyError: 'first'",
        ),
        ("", "exit status 1"),
        ("WARNING Found ulimit of 20000. This can cause `OSError: [Errno 24] Too many open files`.", "exit status 1"),
    ],
)
def test_reasons_in_logs_that_this_machine_cannot_produce(checkpoint, tmp_path, log, reason):
    """The lines are those of vLLM's and torch's sources; a GPU is needed to meet them."""
    failed = Server(checkpoint, port=8123)
    (tmp_path / "log").write_text(log)
    with open(tmp_path / "log", "rb") as failed._log:
        assert reason in str(failed._failure(status=1))
