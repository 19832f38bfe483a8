"""What lesson 08 looks at besides replies: a server's metrics while requests run, its log, and `vllm bench serve`."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path


async def watch(server, tasks: list[asyncio.Task], pause: float = 0.03) -> list[tuple[float, dict]]:
    """(seconds since the start, the server's metrics) every ``pause`` seconds, until all tasks are done."""
    samples, start = [], time.perf_counter()
    while not all(task.done() for task in tasks):
        metrics = await asyncio.to_thread(server.metrics)
        samples.append((time.perf_counter() - start, metrics))
        await asyncio.sleep(pause)
    return samples


def kv_tokens(server) -> int:
    """How many tokens the KV cache holds, as the server's log says, also after its end."""
    found = re.search(r"KV cache size: ([\d,]+) tokens", server.log_tail(10**6))
    assert found, server.log_tail()
    return int(found[1].replace(",", ""))


def bench(command: str) -> dict:
    """Runs a ``vllm bench serve ...`` with the vLLM of this Python, and returns the results that it saves."""
    program, *words = shlex.split(command)
    settings = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        words += ["--save-result", "--result-dir", folder]
        here = Path(sys.executable).with_name(program)
        subprocess.run([here, *words], check=True, capture_output=True, env=settings)
        [result] = Path(folder).glob("*.json")
        return json.loads(result.read_text())
