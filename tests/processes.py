"""Processes that tests start: which there are, whether they live, and their end."""

import contextlib
import time
from collections.abc import Iterable

import psutil

PATIENCE = 60  # seconds; only a process that never ends takes so long, on a machine that is busy too


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def named(processes: Iterable[psutil.Process], name: str) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper that ended meanwhile
            found += [process] if process.name() == name else []
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs, or is a zombie whose threads have not all ended and hold its ports."""
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def wait_until_gone(processes: Iterable[psutil.Process]) -> None:
    end = time.monotonic() + PATIENCE
    while alive := [process for process in processes if is_alive(process)]:
        assert time.monotonic() < end, f"still alive: {alive}"
        time.sleep(0.05)


def end_all(variables: dict[str, str]) -> list[str]:
    """Kills every process that was started with these environment variables, and its children; returns their names."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended meanwhile, or is another user's
            if process.environ().items() >= variables.items():
                found |= {process, *process.children(recursive=True)}
    found = {process for process in found - {psutil.Process()} if is_alive(process)}
    names = []
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(process.name())
            process.kill()
    psutil.wait_procs(found, timeout=PATIENCE)
    return names
