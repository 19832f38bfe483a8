"""Two steps of autodl.sh: which model to download, and whether widgets will work.

python -m tools.environment.autodl model       the largest Qwen3 that fits the GPU and the data disk, or none
python -m tools.environment.autodl selftest    the kernel and the JupyterLab of the console, widgets included
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from helpers import CourseError, catalogue, machine, sets
from helpers.cache import hub_copies
from helpers.config import family
from helpers.preflight import FRONT_ENDS, speaks
from tools.environment import make_env

CONTEXT = 8192  # tokens that the lessons ask for at most
WIDGET = """\
import transformers
from helpers import models, qwen, routing
from helpers.explorer import RoutingExplorer
folder = models.find_checkpoint("qwen3-moe-tiny")
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
RoutingExplorer(routing.capture_reference(qwen.load_model(folder), tokenizer, "37×46=?"))
"""


def largest_model(here: machine.Machine) -> str:
    """Id of the largest dense Qwen3 in bf16 that the GPU can serve and the data disk can hold, "none" without a GPU.

    The GPU is the first that CUDA programs see; of several different ones, where that is not certain, the smallest.
    What is on the disk already needs no more room. Mixtures of experts are left to lesson 04. Raises CourseError where
    there is or will be a GPU whose memory cannot be seen.
    """
    sizes = sets.memory_of_first_card(here)
    if sizes is None or not here.gpus and _is_for_gpus():
        raise CourseError(
            "看不到或读不出显存，选不出放得下的模型：请写明 MODEL，例如 MODEL=Qwen/Qwen3-8B bash autodl.sh，"
            "或用 MODEL=none 不下载。",
            "The GPU's memory cannot be seen, so no model can be chosen by it: name one, such as MODEL=Qwen/Qwen3-8B "
            "bash autodl.sh, or MODEL=none to download nothing.",
        )
    fitting = [
        name
        for name, release in catalogue.CATALOGUE.items()
        if family(release.config) == "qwen3"
        and catalogue.fits(release.config, min(sizes, default=0) * 2**20, CONTEXT).fits
        and (hub_copies(name) or 1.1 * release.download < (here.data_disk or 0))
    ]
    return max(fitting, key=lambda name: catalogue.CATALOGUE[name].download, default="none")


def _is_for_gpus() -> bool:
    """Whether the environment is, or will be, one of the GPU sets, as in no-GPU mode with SET=gpu."""
    installed = sets.installed_set()
    chosen = sets.SETS.get(os.environ.get("SET", ""), installed)
    return bool(chosen and chosen.driver)


def check_kernel() -> str:
    """Starts the registered kernel and lets it show a widget. Returns what was seen; raises CourseError."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel  # a dry run has no environment yet
    from jupyter_client.manager import start_new_kernel

    try:
        spec = KernelSpecManager().get_kernel_spec(make_env.KERNEL)
        manager, client = start_new_kernel(kernel_name=make_env.KERNEL)
    except NoSuchKernel:
        raise CourseError(
            f"内核 {make_env.KERNEL} 没有注册：请运行 make kernel。",
            f"The kernel {make_env.KERNEL} is not registered: run make kernel.",
        ) from None
    shown: list[dict] = []
    try:
        client.execute_interactive(WIDGET, timeout=120, output_hook=shown.append)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    kinds = {kind for message in shown for kind in message["content"].get("data", {})}
    if not {"application/vnd.jupyter.widget-view+json", "image/png"} <= kinds:
        errors = "\n".join(line for message in shown for line in message["content"].get("traceback", []))
        raise CourseError(
            f"内核显示不出交互图：请重新运行 bash autodl.sh。{errors}",
            f"The kernel cannot show an explorer: run bash autodl.sh again. {errors}",
        )
    return spec.argv[0]


def check_front_ends(server: str) -> None:
    """Raises CourseError unless the JupyterLab of another environment has the widgets' front-ends, switched on and of
    versions that the course's kernel speaks to."""
    listed = subprocess.run([server, "-m", "jupyter", "labextension", "list"], capture_output=True, text=True)
    text = listed.stdout + listed.stderr
    lines = {name: line for line in text.splitlines() for name in FRONT_ENDS if f" {name} " in f"{line} "}

    def works(name: str) -> bool:
        version = re.search(r" v(\S+) ", lines.get(name, ""))
        return "enabled" in lines.get(name, "") and version is not None and speaks(name, version[1])

    if wrong := [name for name in FRONT_ENDS if not works(name)]:
        raise CourseError(
            f"{server} 的 JupyterLab 缺少控件前端或版本不配：{'、'.join(wrong)}。请运行 make kernel。",
            f"The JupyterLab of {server} lacks widget front-ends that speak to the course's kernel: "
            f"{', '.join(wrong)}. Run make kernel.",
        )


def selftest() -> None:
    print(f"ok       内核 Kernel: {make_env.KERNEL}, {check_kernel()}")
    server = make_env.server_python(Path(sys.prefix).resolve(), os.environ.get("PATH", ""))
    if server is None:
        print("ok       JupyterLab: 没有另外的 no other one (make lab)")
        return
    check_front_ends(server)
    print(f"ok       控件前端 Widget front-ends: {server}")


def main(arguments: list[str]) -> int:
    try:
        if arguments == ["model"]:
            print(largest_model(machine.look()))
        elif arguments == ["selftest"]:
            selftest()
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
