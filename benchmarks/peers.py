"""What the benchmarks against others share: what they need more, installed apart, and the line on the machine."""

import os
import platform
import subprocess
import sys

import torch

from helpers.models import ROOT

PEERS = ROOT / "build" / "peers"
LLMS_FROM_SCRATCH = "llms-from-scratch==1.0.19"
# By import name. `vllm bench serve` reads a file of prompts with pandas, which vLLM does not require.
NEEDED = {
    "llms_from_scratch": [LLMS_FROM_SCRATCH],
    "pandas": ["pandas==2.3.3", "python-dateutil==2.9.0.post0", "pytz==2025.2", "tzdata==2025.2", "six==1.17.0"],
}


def install_peer(package: str) -> None:
    """Put a package of ``NEEDED`` on the import path, from ``build/peers``; the environment stays as it is."""
    if not (PEERS / package).exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", PEERS, *NEEDED[package]]
        subprocess.run(command, check=True, stdout=sys.stderr)
    sys.path.append(str(PEERS))


def versions() -> str:
    """Versions compared and machine, in a line."""
    import transformers

    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    return f"torch {torch.__version__}, transformers {transformers.__version__}, {LLMS_FROM_SCRATCH}; {machine}."
