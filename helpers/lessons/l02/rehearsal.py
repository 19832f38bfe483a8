"""The interruption that lesson 02 rehearses: a hub that stops half way through the weights, and the wait for that."""

import subprocess
import time
from pathlib import Path

from helpers import hub, models

WEIGHTS = "model.safetensors"
HELD = 2**17  # bytes that the client may hold in memory before it writes them


class _PausingHandler(hub.Handler):
    def send_body(self, path: str, file: Path, start: int, length: int) -> None:
        if path != WEIGHTS:
            return super().send_body(path, file, start, length)
        super().send_body(path, file, start, length // 2)
        self.connection.recv(1)  # returns when the client is gone


class PausingHub(hub.Hub):
    """A rehearsal hub that sends half of the weights and then waits until the client is gone."""

    handler = _PausingHandler


def wait_for_half(process: subprocess.Popen, folder: Path) -> None:
    """Until the half of qwen3-tiny's weights that a PausingHub sends is in the folder, or the client has ended."""
    begun = folder / f"{WEIGHTS}.incomplete"
    half = (models.BUNDLED / "qwen3-tiny" / WEIGHTS).stat().st_size // 2
    while process.poll() is None and not (begun.exists() and begun.stat().st_size > half - HELD):
        time.sleep(0.05)
