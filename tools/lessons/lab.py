"""`make lab`: brings the learner's own copy up to date and opens JupyterLab on it; further arguments go to JupyterLab.

    .venv/bin/python -m tools.lessons.lab

JupyterLab starts without its launcher and without asking about news: assets/jupyterlab is one more folder on its
configuration path, and the user's own settings stay as they are.
"""

import os
import subprocess
import sys

from helpers import ROOT
from tools.lessons import learner_copy

# With -P this folder stays off JupyterLab's import path: the course's modules are none of its business.
JUPYTERLAB = [sys.executable, "-P", "-m", "jupyterlab"]
OPTIONS = [
    "--ip=127.0.0.1",
    f"--ServerApp.root_dir={ROOT}",  # links in lessons lead to ../../docs and ../../assets
    "--LabApp.default_url=/lab/tree/my",
]


def main(arguments: list[str]) -> int:
    if failed := learner_copy.main():
        return failed
    configuration = [str(ROOT / "assets" / "jupyterlab"), os.environ.get("JUPYTER_CONFIG_PATH")]
    variables = os.environ | {"JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, configuration))}
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Windows has none
    command = [*JUPYTERLAB, *OPTIONS, *(["--allow-root"] if is_root else []), *arguments]
    if os.name == "nt":  # there exec starts a second process, and the prompt comes back
        return subprocess.call(command, env=variables)
    os.execve(sys.executable, command, variables)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
