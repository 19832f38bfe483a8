"""How long a newcomer waits and how much memory it takes: ``.venv/bin/python -m benchmarks.first_run``.

Measures the lessons (seconds, peak memory of all their processes), the engine's start in a fresh notebook kernel with
all imports, the server's start and end, and how soon nothing is left after ``kill -9`` of the kernel that started it.
``--full`` also installs a fresh clone into a temporary folder. Figures only; one run each, so read them as such.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from jupyter_client.manager import start_new_kernel

from helpers import ROOT


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything below it; processes that end meanwhile are left out."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class PeakMemory(threading.Thread):
    """Samples the proportional set size of a process and all its descendants four times a second; ``peak`` in bytes."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0, threading.Event()

    def run(self):
        seen: dict[int, psutil.Process] = {}  # the server's guard leaves the kernel's tree when the kernel ends
        while not self.done.wait(0.25):
            seen |= {process.pid: process for process in tree(self.pid)}
            total = 0
            for process in list(seen.values()):
                try:
                    total += process.memory_full_info().pss
                    seen |= {child.pid: child for child in process.children()}
                except psutil.Error:
                    seen.pop(process.pid, None)
            self.peak = max(self.peak, total)


def run_lessons() -> list[tuple[str, str, str]]:
    start = time.monotonic()
    command = [sys.executable, "-m", "tools.lessons.run", "--jobs", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    memory = PeakMemory(process.pid)
    memory.start()
    status = process.wait()
    memory.done.set()
    memory.join()
    seconds = time.monotonic() - start
    result = "" if status == 0 else " (FAILED)"
    return [
        ("all lessons, one at a time", f"{seconds:.0f} s{result}", "under 900 s"),
        ("peak memory of all processes", f"{memory.peak / 1e9:.2f} GB", "under 3 GB"),
    ]


def in_kernel(client, code: str) -> float:
    """Seconds that a cell takes; raises if it fails."""
    start = time.monotonic()
    reply = client.execute_interactive(code, timeout=600, output_hook=lambda message: None)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("\n".join(reply["content"]["traceback"]))
    return time.monotonic() - start


def engine_start() -> list[tuple[str, str, str]]:
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        opened = in_kernel(client, "from helpers.engine import open_engine, close_engine\nllm = open_engine()")
        closed = in_kernel(client, "close_engine()")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return [
        ("engine start in a fresh kernel, imports included", f"{opened:.1f} s", "under 15 s"),
        ("close_engine()", f"{closed:.1f} s", "within 5 s"),
    ]


def server_start() -> list[tuple[str, str, str]]:
    code = "from helpers.server import Server\nserver = Server().start()"
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        started = in_kernel(client, code)
        stopped = in_kernel(client, "server.stop()")
        in_kernel(client, code)
        children = tree(manager.provisioner.pid)[1:]
        os.kill(manager.provisioner.pid, 9)
        killed = time.monotonic()
        psutil.wait_procs(children, timeout=60)
        gone = time.monotonic() - killed
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return [
        ("server start until it answers", f"{started:.1f} s", ""),
        ("server stop()", f"{stopped:.1f} s", "within 5 s"),
        ("nothing left after kill -9 of the kernel", f"{gone:.1f} s", "within 5 s"),
    ]


def installation() -> list[tuple[str, str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="qwen3-clone-"))
    try:
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", folder / "course"], check=True)
        environment = {name: value for name, value in os.environ.items() if name != "VENV"}
        start = time.monotonic()
        subprocess.run(["make", "env"], cwd=folder / "course", check=True, stdout=sys.stderr, env=environment)
        first = time.monotonic() - start
        start = time.monotonic()
        subprocess.run(["make", "env"], cwd=folder / "course", check=True, stdout=sys.stderr, env=environment)
        second = time.monotonic() - start
    finally:
        shutil.rmtree(folder)
    return [
        ("installation in a fresh clone", f"{first:.0f} s", "under 300 s"),
        ("make env again", f"{second:.1f} s", "installs nothing"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="also install a fresh clone")
    options = parser.parse_args()
    rows = [*(installation() if options.full else []), *run_lessons(), *engine_start(), *server_start()]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | measured | wanted |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
