"""helpers/_guard.py and the end of helpers/server.py: no server outlives its notebook, however that ends."""

import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from conftest import TIMEOUTS
from jupyter_client.manager import start_new_kernel
from processes import PATIENCE, descendants, is_alive, named, wait_until_gone

from helpers import ROOT, CourseError, _guard
from helpers.ports import listeners, sockets
from helpers.server import HOST, Server


@pytest.fixture(autouse=True)
def brief(request, tmp_path, monkeypatch):
    """In the fast tier the guard has less patience before it kills; all else of its text is as it stands."""
    if any(request.node.get_closest_marker(tier) for tier in TIMEOUTS):
        return
    text, brief = Path(_guard.__file__).read_text(), tmp_path / "brief" / "_guard.py"
    assert text.count("\nGRACE = 3 ") == 1
    brief.parent.mkdir()
    brief.write_text(text.replace("\nGRACE = 3 ", "\nGRACE = 0.3 "))
    monkeypatch.setattr(_guard, "__file__", str(brief))


@pytest.fixture
def stubborn():
    """A command that ignores SIGTERM, with a child that does so too."""
    return ["bash", "-c", "trap '' TERM; sleep 600 & echo ready; wait; sleep 600"]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex((HOST, port)) != 0


# --- the guard, on plain commands


def start_guard(command: list[str], **options) -> subprocess.Popen:
    guard = subprocess.Popen(
        [sys.executable, "-IS", _guard.__file__, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
    )
    assert guard.stdout.readline() == b"ready\n"
    return guard


@pytest.mark.slow  # with the patience that it has
def test_the_guard_kills_what_ignores_sigterm_when_the_pipe_ends(stubborn, processes):
    guard = start_guard(stubborn)
    processes += descendants(guard.pid)
    assert len(processes) == 2 and guard.poll() is None
    guard.stdin.close()
    assert guard.wait(PATIENCE) == 128 + signal.SIGKILL
    wait_until_gone(processes)


def test_the_guard_ends_the_rest_when_the_command_ends(processes):
    guard = start_guard(["bash", "-c", "sleep 600 & echo ready; exit 3"])
    processes += descendants(guard.pid)
    assert guard.wait(PATIENCE) == 3
    wait_until_gone(processes)


@pytest.mark.slow
def test_the_guard_ends_the_command_when_one_of_its_engine_processes_dies(processes):
    name = 'import os, time; open("/proc/self/comm", "w").write("VLLM::Engine")'
    engine = shlex.join([sys.executable, "-c", f'{name}; os.write(1, b"ready\\n"); time.sleep(600)'])
    guard = start_guard(["bash", "-c", f"trap '' TERM; {engine} & {engine} & wait; sleep 600"])
    assert guard.stdout.readline() == b"ready\n"  # the second engine
    time.sleep(3)  # the guard looks twice a second; what it has not seen alive, it cannot miss
    processes += descendants(guard.pid)
    first, _ = named(processes, "VLLM::Engine")
    assert guard.poll() is None
    first.kill()
    guard.wait(PATIENCE)
    wait_until_gone(processes)


def test_the_guard_obeys_sigterm(stubborn, processes):
    guard = start_guard(stubborn)
    processes += descendants(guard.pid)
    guard.terminate()
    guard.wait(PATIENCE)
    wait_until_gone(processes)


def test_a_forked_child_that_holds_the_pipe_does_not_keep_the_server(stubborn, processes):
    code = f"""
import os, subprocess, sys, time
guard = subprocess.Popen({[sys.executable, "-IS", _guard.__file__, *stubborn]!r}, stdin=subprocess.PIPE,
                         start_new_session=True)
if os.fork() == 0:
    print("forked", flush=True)
    time.sleep(600)
time.sleep(600)
"""
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert {kernel.stdout.readline() for _ in range(2)} == {b"ready\n", b"forked\n"}
    processes += descendants(kernel.pid)
    fork = [process for process in processes if process.cmdline() == psutil.Process(kernel.pid).cmdline()]
    assert len(fork) == 1
    kernel.kill()
    kernel.wait()
    wait_until_gone([process for process in processes if process not in fork])
    assert fork[0].is_running()


# --- the guard that is stopped, killed or hindered


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_the_end_of_the_guard_is_the_end_of_all(number, stubborn, processes):
    guard = start_guard(stubborn)
    processes += descendants(guard.pid)
    assert len(processes) == 2
    second = [psutil.Process(pid) for pid in _guard.members(guard) - {guard.pid, *(p.pid for p in processes)}]
    assert len(second) == 1
    guard.send_signal(number)
    guard.wait(PATIENCE)
    wait_until_gone(processes)
    wait_until_gone(second)


def test_a_process_whose_first_thread_ended_is_no_ended_process(processes):
    """Its state says zombie, as that of each server for a moment after SIGKILL, while its port is still taken."""
    lines = ["import ctypes, platform, signal, socket, threading, time"]
    lines += ["signal.signal(signal.SIGTERM, signal.SIG_IGN)", f"taken = socket.create_server(({HOST!r}, 0))"]
    lines += ["print(taken.getsockname()[1], flush=True)", "threading.Thread(target=time.sleep, args=(600,)).start()"]
    lines += ["ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)  # exit, of this thread"]
    guard = start_guard(["sh", "-c", "echo ready; exec " + shlex.join([sys.executable, "-c", "\n".join(lines)])])
    port = int(guard.stdout.readline())
    processes += descendants(guard.pid)
    end = time.monotonic() + PATIENCE
    while any(process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < end
    assert all(map(is_alive, processes)) and not is_free(port)
    guard.kill()
    assert not _guard.end(guard)
    assert not any(map(is_alive, processes)) and is_free(port)


def test_a_command_ends_with_the_two_that_guard_it(processes):
    """By the signal of its parent's death; what it started would be left, so this is the last resort."""
    guard = start_guard(["bash", "-c", "echo ready; exec sleep 600"])
    processes += descendants(guard.pid)
    [second] = [psutil.Process(pid) for pid in _guard.members(guard) - {guard.pid, processes[0].pid}]
    second.kill()
    wait_until_gone([second])
    assert len(processes) == 1 and processes[0].is_running()
    guard.kill()
    guard.wait(PATIENCE)
    wait_until_gone(processes)


def test_a_command_that_left_its_session_is_ended_too(processes):
    guard = start_guard(["bash", "-c", "setsid sleep 600 & sleep 600 & echo ready; wait"])
    processes += descendants(guard.pid)
    assert len(processes) == 3
    _guard.end(guard)
    assert not any(process.is_running() for process in processes)


def test_without_pidfds_the_guard_is_the_same(stubborn, processes, tmp_path):
    """As on a kernel before 5.3, or in a container that forbids the call."""
    (tmp_path / "old.py").write_text(
        "import os, runpy, sys\n"
        "def gone(*arguments): raise OSError(38, 'Function not implemented')\n"
        "os.pidfd_open = gone\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-IS", tmp_path / "old.py", _guard.__file__, *stubborn]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert guard.stdout.readline() == b"ready\n"
    processes += descendants(guard.pid)
    guard.stdin.close()
    guard.wait(PATIENCE)
    wait_until_gone(processes)


FAKE = f"""#!{sys.executable}
# Answers everything with 200, and has an engine that ignores SIGTERM; "late" waits for a file before it listens.
import http.server, os, pathlib, signal, subprocess, sys, time
subprocess.Popen(["bash", "-c", "trap '' TERM; echo VLLM::Engine > /proc/self/comm; while :; do sleep 600; done"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while os.environ.get("LATE") and not pathlib.Path(os.environ["LATE"]).exists():
    time.sleep(0.05)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{{}}")
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()
http.server.HTTPServer.allow_reuse_port = True
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def quick(tmp_path, processes):
    """A Server on a command that is up at once and ends for SIGKILL only."""
    server = Server("qwen3-tiny", api_key="the secret")
    server._vllm = tmp_path / "vllm"
    server._vllm.write_text(FAKE)
    server._vllm.chmod(0o755)
    yield server
    if server._guard:
        processes += [psutil.Process(pid) for pid in _guard.members(server._guard)]


def all_of(server: Server) -> list[psutil.Process]:
    found = [psutil.Process(pid) for pid in _guard.members(server._guard)]
    assert len(found) >= 4  # the two that guard, the server, its engine
    return found


def test_stop_ends_while_a_forked_child_lives(quick, processes):
    """A pool of processes, as data loaders and tokenizers start: it holds the pipe to the guard open."""
    quick.start()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        processes += all_of(quick)
        quick.stop()
        assert pool.apply(len, ("it lives",)) == 8 and quick._guard.returncode >= 0
        assert not any(is_alive(process) for process in processes) and is_free(quick.port)


def test_stop_ends_though_the_guard_is_stopped_again_and_again(quick, processes, monkeypatch):
    quick.start()
    processes += all_of(quick)
    monkeypatch.setattr(subprocess.Popen, "send_signal", lambda *_: None)  # it neither goes on nor hears SIGTERM
    monkeypatch.setattr(_guard.end, "__defaults__", (0.5,))
    os.kill(quick._guard.pid, signal.SIGSTOP)
    quick.stop()
    assert not any(is_alive(process) for process in processes) and is_free(quick.port)


def test_stop_wakes_a_stopped_guard(quick, processes):
    quick.start()
    processes += all_of(quick)
    os.kill(quick._guard.pid, signal.SIGSTOP)
    quick.stop()
    assert quick._guard.returncode >= 0  # it did its work to the end
    assert not any(is_alive(process) for process in processes) and is_free(quick.port)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
def test_after_the_guard_has_ended_nothing_is_left_for_stop(number, quick, processes):
    quick.start()
    processes += all_of(quick)
    quick._guard.send_signal(number)
    quick.stop()
    assert not any(is_alive(process) for process in processes) and is_free(quick.port)
    quick.start()
    quick.stop()
    assert is_free(quick.port)


def test_what_cannot_be_killed_is_named(quick, monkeypatch):
    quick.start()
    end = _guard.end
    monkeypatch.setattr(_guard, "end", lambda guard: end(guard) or {4711})
    with pytest.raises(CourseError, match="4711 cannot be killed"):
        quick.stop()


def test_a_stranger_on_the_port_gets_neither_key_nor_question(quick, tmp_path, monkeypatch):
    """It takes the port while vLLM starts."""
    monkeypatch.setenv("LATE", str(tmp_path / "now"))
    stranger = socket.create_server((HOST, quick.port))
    monkeypatch.setattr("helpers.server.check_port", lambda host, port: None)
    with stranger, pytest.raises(CourseError, match="taken by another program"):
        quick.start(timeout=PATIENCE)
    stranger.close()
    assert _guard.members(quick._guard) == set()


def test_a_second_server_that_shares_the_port_is_seen(quick, processes):
    """vLLM lets others of the same user listen beside it; Linux would give either some of the requests."""
    quick.start()
    assert quick._answers(quick._guard)
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind((HOST, quick.port))
        assert quick._answers(quick._guard)
        stranger.listen()
        with pytest.raises(CourseError, match="taken by another program"):
            quick._answers(quick._guard)
        assert listeners("127.0.0.2", quick.port) == set()
        assert len(listeners("localhost", quick.port)) == 2
    quick.stop()


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", HOST), ("::", "::1"), ("::", HOST), ("::1", "::1")])
def test_who_listens_everywhere_is_found(host, asked):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as listening:
        port = listening.getsockname()[1]
        assert len(listeners(asked, port)) == 1 and listeners(asked, port) <= sockets([os.getpid()])


def test_the_end_of_a_long_log_is_read(quick):
    """A terabyte with a hole: whoever read all of it would need the memory."""
    with tempfile.TemporaryFile() as quick._log:
        os.truncate(quick._log.fileno(), 2**40)
        os.pwrite(quick._log.fileno(), "\nlast but one\n最后一行\n".encode(), 2**40)
        assert quick.log_tail(2) == "last but one\n最后一行"
        assert quick.log_tail(0) == quick.log_tail(-1) == ""


@pytest.mark.parametrize("port", [-1, 65536, 99999, "8000", 1.5])
def test_a_port_out_of_range_is_one_sentence(port):
    with pytest.raises(CourseError, match="integer from 1 to 65535"):
        Server("qwen3-tiny", port=port)


@pytest.mark.large
def test_stop_ends_a_real_server_beside_a_pool_and_with_its_guard_killed(processes):
    ended = Server("qwen3-tiny")
    for hinder in (lambda: None, lambda: os.kill(ended._guard.pid, signal.SIGKILL)):
        ended.start()
        with multiprocessing.get_context("fork").Pool(1):
            processes += all_of(ended)
            hinder()
            ended.stop()
            assert not any(is_alive(process) for process in processes) and is_free(ended.port)


ENGINE = """
import os
from helpers.engine import open_engine
engine = open_engine("qwen3-tiny")
print("open", os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"], flush=True)
input()
"""


@pytest.mark.large
def test_whatever_ends_the_kernel_ends_the_engine(processes):
    """Also where the environment asks for processes of the engine's own."""
    variables = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    kernel = subprocess.Popen([sys.executable, "-c", ENGINE], cwd=ROOT, env=variables, text=True, **pipes)
    with kernel:
        assert kernel.stdout.readline() == "open 0\n"
        processes += descendants(kernel.pid)
        kernel.kill()
    wait_until_gone(processes)


# --- start-up that fails


FAILED = [
    ({"max_model_len": 10**6}, "max_model_len .1000000. is greater"),
    ({"no_such_option": 3}, "unknown option --no-such-option"),
    ({"max_num_seqs": "many"}, "wrong value .*--max-num-seqs"),
    ({"kv_cache_memory_bytes": 2**50}, "not enough memory"),
]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(*case, marks=pytest.mark.large if number else pytest.mark.slow)
        for number, case in enumerate(FAILED)
    ],
)
def test_a_failed_start_tells_the_reason_and_leaves_nothing(options, reason, capsys):
    failing = Server(**options)
    before = descendants(os.getpid())
    with pytest.raises(CourseError, match=reason) as error:
        failing.start()
    assert len(str(error.value).splitlines()) == 2
    assert failing.log_tail(3) in capsys.readouterr().out
    assert set(descendants(os.getpid())) <= set(before) and is_free(failing.port)


# --- the end


@pytest.mark.slow
def test_stop_ends_everything_and_frees_the_port():
    """It is open to other machines, as one with a key may be."""
    stopped = Server(host="0.0.0.0", api_key="a key")
    before = set(descendants(os.getpid()))  # other tests' browser, for one
    stopped.start()
    started = set(descendants(os.getpid())) - before
    assert len(started) >= 3  # guard, API server, engine core
    stopped.stop()
    stopped.stop()
    assert not any(process.is_running() for process in started) and is_free(stopped.port)
    assert "Application startup complete" in stopped.log_tail(10**6)
    with pytest.raises(CourseError, match="not running"):
        stopped.metrics()


@pytest.mark.large
@pytest.mark.parametrize("victim", ["vllm", "VLLM::EngineCore"])
def test_kill_9_of_one_server_process_ends_all(victim, processes):
    killed = Server()
    killed.start()
    processes += descendants(killed._guard.pid)
    [process] = named(processes, victim)
    process.kill()
    killed._guard.wait(PATIENCE)
    wait_until_gone(processes)
    assert is_free(killed.port)
    killed.stop()


@pytest.fixture
def kernel():
    manager, client = start_new_kernel()
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.large
def test_kill_9_of_the_kernel_ends_the_server(kernel, processes):
    manager, client = kernel
    reply = client.execute_interactive("from helpers.server import Server\nserver = Server()\nserver.start()")
    assert reply["content"]["status"] == "ok"
    processes += descendants(manager.provisioner.pid)
    assert named(processes, "vllm") and named(processes, "VLLM::EngineCore")
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    wait_until_gone(processes)


@pytest.mark.slow
def test_an_interrupt_of_the_notebook_while_the_server_starts_ends_it(kernel, processes):
    manager, client = kernel
    asked = client.execute("from helpers.server import Server\nServer().start()")
    end = time.monotonic() + PATIENCE
    while not named(processes, "vllm"):
        assert time.monotonic() < end
        time.sleep(0.2)
        processes[:] = descendants(manager.provisioner.pid)
    manager.interrupt_kernel()
    wait_until_gone(processes)
    reply = client.get_shell_msg(timeout=PATIENCE)
    while reply["parent_header"]["msg_id"] != asked:  # a slow kernel answers kernel_info more than once
        reply = client.get_shell_msg(timeout=PATIENCE)
    assert reply["content"].get("ename") == "KeyboardInterrupt", reply
    assert manager.is_alive()


@pytest.mark.large
def test_the_printed_command_works_in_a_plain_shell(capsys, processes):
    """The line alone, at the root of the course, with the environment of a login."""
    line = Server().command
    port = int(shlex.split(line)[shlex.split(line).index("--port") + 1])
    environment = {name: os.environ[name] for name in ("HOME", "PATH", "COURSE_MODEL") if name in os.environ}
    shell = subprocess.Popen(["bash", "-c", "exec env " + line], cwd=ROOT, env=environment)
    processes.append(psutil.Process(shell.pid))
    url = f"http://{HOST}:{port}/health"
    while shell.poll() is None:
        try:
            assert urllib.request.urlopen(url).status == 200
            break
        except OSError:
            time.sleep(0.5)
    processes += descendants(shell.pid)
    assert shell.poll() is None
    shell.send_signal(signal.SIGINT)
    shell.wait(PATIENCE)


@pytest.mark.large
def test_the_lessons_kill_ends_all_of_it():
    killed = Server()
    with pytest.raises(CourseError, match="no running engine"):
        killed.kill()
    before = set(descendants(os.getpid()))
    killed.start()
    started = set(descendants(os.getpid())) - before
    killed.kill()
    killed._guard.wait(PATIENCE)
    wait_until_gone(list(started))
    assert is_free(killed.port)
    with pytest.raises(CourseError, match="no running engine"):
        killed.kill()


# --- under load and in mid-stream


LOADED = """
import asyncio, sys
from helpers.server import Server
from openai import AsyncOpenAI

server = Server()
server.start()
client = AsyncOpenAI(base_url=server.base_url, api_key="EMPTY", max_retries=0)

async def stream(prompt):
    async for chunk in await client.completions.create(
        model=server.model, prompt=prompt, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    ):
        seen.add(prompt)
        if len(seen) == 16 and not said:
            said.append(True)
            print("loaded", server._guard.pid, server.port, flush=True)

async def everyone():
    await asyncio.gather(*(stream(str(n)) for n in range(16)))

seen, said = set(), []
asyncio.run(everyone())
"""


@pytest.fixture
def loaded(processes):
    """A process with a server and 16 streams in the middle: the process, the server's processes and its port.

    The first prompt is a single token: without the warm-up of start(), a CPU with AMX does not survive it.
    """
    launcher = subprocess.Popen(
        [sys.executable, "-c", LOADED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    for line in launcher.stdout:
        if line.startswith("loaded"):
            break
    else:
        raise AssertionError(launcher.stderr.read())
    _, guard, port = line.split()
    guard = psutil.Process(int(guard))
    processes += [guard, *guard.children(recursive=True)]
    yield launcher, processes, int(port)
    launcher.kill()
    launcher.communicate()


@pytest.mark.large
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_launcher_in_mid_stream_ends_all(how, loaded):
    launcher, processes, port = loaded
    launcher.send_signal(how)
    wait_until_gone(processes)
    assert is_free(port)


@pytest.mark.large
@pytest.mark.parametrize("victim", ["vllm", "VLLM::EngineCore"])
def test_a_server_process_killed_in_mid_stream_ends_all(victim, loaded):
    launcher, processes, port = loaded
    named(processes, victim)[0].kill()
    wait_until_gone(processes)
    assert is_free(port)
    assert launcher.wait(PATIENCE) != 0 and "Error" in launcher.stderr.read()  # no client took half a text for all
