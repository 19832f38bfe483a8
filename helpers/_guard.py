"""Runs one command in a session of its own and ends all of it when the starting process ends or says so.

:func:`start` runs ``python _guard.py COMMAND ...``, :func:`end` ends it. Nothing that the command starts can outlive
the notebook: the guard waits until its stdin (a pipe from the kernel) reaches its end, the kernel dies, a signal asks
for the end, or the command or one of its engine processes ends. Then it sends SIGTERM to all that the command has
started, and SIGKILL three seconds later. It exits with the command's status once none of it is left. A second process
does nothing but kill the rest where the guard itself is killed. Linux only, from any kernel: no pidfd is needed.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
GRACE = 3  # seconds between SIGTERM and SIGKILL
PATIENCE = 30  # seconds for SIGKILL to work: at once, on a free processor


class Process(NamedTuple):
    """A line of /proc/PID/stat."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    threads: int

    @property
    def lives(self) -> bool:
        """Whether it still holds its files and ports: a zombie does while a thread of it has not ended."""
        return self.state != "Z" or self.threads > 1


def start(command: list, **options) -> subprocess.Popen:
    """The guard of ``command``, started; ``options`` are those of ``Popen``."""
    return subprocess.Popen(
        [sys.executable, "-IS", __file__, *command],
        stdin=subprocess.PIPE,
        start_new_session=True,  # an interrupt of the notebook must not reach it
        **options,
    )


def end(guard: subprocess.Popen, patience: float = 10) -> set[int]:
    """End a started command, all of it, gone when this returns; also where the guard was stopped or killed.

    It does not rest on the pipe's end, as a forked child of this process may hold the pipe open. Returns the pids that
    not even SIGKILL could end within 30 s, as when a driver holds them; mostly none.
    """
    with contextlib.suppress(OSError):
        assert guard.stdin is not None
        guard.stdin.close()
    guard.terminate()
    guard.send_signal(signal.SIGCONT)  # it may have been stopped
    with contextlib.suppress(subprocess.TimeoutExpired):
        guard.wait(patience)
    deadline = time.monotonic() + PATIENCE
    while (left := members(guard)) and time.monotonic() < deadline:
        _signal(left, signal.SIGKILL)
        time.sleep(0.05)
    return left


def members(guard: subprocess.Popen) -> set[int]:
    """Pids of the living processes of a guard's session, and of all that descends from the guard while it runs."""
    ended, seen = guard.poll() is not None, list(_processes())
    if ended and any(process.pid == guard.pid for process in seen):
        return set()  # the number is another's by now, which it cannot be while the session has a process
    found = {process.pid for process in seen if process.session == guard.pid and process.lives}
    return found if ended else found | _descendants(guard.pid)


def engines(session: int) -> set[int]:
    """Pids of the living processes of a session that vLLM started and named ``VLLM::...``."""
    return {
        process.pid
        for process in _processes()
        if process.name.startswith("VLLM::") and process.session == session and process.lives
    }


def main(command: list[str]) -> int:
    if os.getsid(0) != os.getpid():
        os.setsid()  # by which all of it is found
    kernel, libc, second = os.getppid(), ctypes.CDLL(None), _second()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # the command's orphans become children of this process
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (*STOP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the wake-up is enough
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # should the second one be killed too
    )
    known: set[int] = set()
    while os.getppid() == kernel and not _reap(server):  # a forked child of the kernel may hold the pipe open
        ready, _, _ = select.select([sys.stdin, wake], [], [], 0.5)
        if sys.stdin in ready or (wake in ready and set(os.read(wake, 4096)) & set(STOP)):
            break
        running = engines(os.getpid())
        if known - running:
            time.sleep(0.5)  # for the API server to tell its clients; its own watchdog takes more than 5 s to end it
            break
        known = running
    begin = time.monotonic()
    _signal(_descendants(os.getpid()), signal.SIGTERM)
    while (left := _descendants(os.getpid())) and (waited := time.monotonic() - begin) < GRACE + PATIENCE:
        if waited > GRACE:
            _signal(left, signal.SIGKILL)
        _reap(server)
        time.sleep(0.05)
    os.write(second, b".")
    return server.returncode or 0


def _second() -> int:
    """Start a process that kills the session as soon as this one is gone; a byte into the returned pipe dismisses it.

    It is no child of this process, so that it is none of the command's.
    """
    session = os.getpid()
    watched, held = os.pipe()
    if child := os.fork():
        os.close(watched)
        os.waitpid(child, 0)
        return held
    if os.fork():
        os._exit(0)
    os.close(held)
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    deadline = None if os.read(watched, 1) else time.monotonic() + PATIENCE
    while deadline and time.monotonic() < deadline:
        left = {process.pid for process in _processes() if process.session == session and process.lives}
        if not (left := left - {os.getpid()}):
            break
        _signal(left, signal.SIGKILL)
        time.sleep(0.05)
    os._exit(0)


def _reap(server: subprocess.Popen) -> bool:
    """Take the ended children off the list; whether the command is one of them, now or before."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == server.pid:
                server.returncode = os.waitstatus_to_exitcode(ended[1])
    return server.returncode is not None


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(pid: int) -> set[int]:
    """Children of a process, theirs, and so on; those that ended and were not waited for included."""
    children: dict[int, set[int]] = {}
    for process in _processes():
        children.setdefault(process.parent, set()).add(process.pid)
    found: set[int] = set()
    new = {pid}
    while new := {child for parent in new for child in children.get(parent, ())} - found:
        found |= new
    return found


def _processes() -> Iterator[Process]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            pid, rest = stat.read_text(errors="replace").split(" (", 1)
            name, fields = rest.rsplit(") ", 1)
            state, numbers = fields[0], fields.split()[1:]
            yield Process(int(pid), name, state, int(numbers[0]), int(numbers[2]), int(numbers[16]))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)
