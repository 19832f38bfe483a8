"""Runs one command in a session of its own and ends all of it when the starting process ends or says so.

``python _guard.py COMMAND ...``, started by helpers/server.py. Nothing the server starts can outlive the notebook: this
process waits until its stdin (a pipe from the kernel) reaches its end, the kernel dies, or the command or one of its
engine processes ends, then sends SIGTERM to the command's process group, and SIGKILL three seconds later. It exits with
the command's status once none of the processes is left. Linux only.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: the command's orphans become children of this process


def main(command: list[str]) -> int:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    kernel = os.pidfd_open(os.getppid())  # a forked child of the kernel may hold the pipe open, so watch both
    terminated, terminate = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(terminate, b"."))
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    watched = [sys.stdin, kernel, terminated, os.pidfd_open(server.pid)]
    known: set[int] = set()
    while not select.select(watched, [], [], 0.5)[0]:
        running = engines(server.pid)
        if known - running:
            time.sleep(0.5)  # for the API server to tell its clients; its own watchdog takes more than 5 s to end it
            break
        known = running
    status = 0
    for number, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 30)):  # SIGKILL works at once, on a free processor
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                pid, ended = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return status
            if pid == server.pid:
                status = os.waitstatus_to_exitcode(ended)
            elif pid == 0:
                time.sleep(0.05)
    return status


def engines(group: int) -> set[int]:
    """Pids of the living processes of a group that vLLM started and named ``VLLM::...``."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            pid, rest = stat.read_text(errors="replace").split(" (", 1)
            name, fields = rest.rsplit(") ", 1)
            state, _, process_group = fields.split()[:3]
            if name.startswith("VLLM::") and int(process_group) == group and state != "Z":
                found.add(int(pid))
    return found


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)
