"""What the benchmarks against other implementations share: the peer, installed apart, and the line on the machine."""

import os
import platform
import subprocess
import sys

import torch

from helpers.models import ROOT

PEERS = ROOT / "build" / "peers"
LLMS_FROM_SCRATCH = "llms-from-scratch==1.0.19"


def install_peers() -> None:
    """Put llms-from-scratch on the import path, from ``build/peers``; the environment stays as it is."""
    if not (PEERS / "llms_from_scratch").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", PEERS, LLMS_FROM_SCRATCH]
        subprocess.run(command, check=True, stdout=sys.stderr)
    sys.path.append(str(PEERS))


def versions() -> str:
    """Versions compared and machine, in a line."""
    import transformers

    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    return f"torch {torch.__version__}, transformers {transformers.__version__}, {LLMS_FROM_SCRATCH}; {machine}."
