"""`make lab`: brings the learner's own copy up to date and opens JupyterLab on it; further arguments go to JupyterLab.

.venv/bin/python tools/lab.py

JupyterLab starts without its launcher and without asking about news: assets/jupyterlab is one more folder on its
configuration path, and the user's own settings stay as they are.
"""

import os
import sys

import learner_copy

OPTIONS = [
    "--ip=127.0.0.1",
    f"--ServerApp.root_dir={learner_copy.ROOT}",  # links in lessons lead to ../../docs and ../../assets
    "--LabApp.default_url=/lab/tree/my",
]


def main(arguments: list[str]) -> int:
    if failed := learner_copy.main():
        return failed
    configuration = [str(learner_copy.ROOT / "assets" / "jupyterlab"), os.environ.get("JUPYTER_CONFIG_PATH")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, configuration))
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0  # Windows has none
    sys.path.pop(0)  # this folder, whose module names are none of JupyterLab's business
    from jupyterlab.labapp import main as jupyterlab

    jupyterlab([*OPTIONS, *(["--allow-root"] if is_root else []), *arguments])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
