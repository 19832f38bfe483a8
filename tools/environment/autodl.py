"""Two steps of autodl.sh that need the environment: which model to download, and whether widgets will work.

python -m tools.environment.autodl model       the largest Qwen3 that fits the first GPU and the data disk, or none
python -m tools.environment.autodl selftest    the kernel and the JupyterLab of the console, widgets included
"""

import os
import subprocess
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import start_new_kernel

from helpers import CourseError, catalogue, machine
from helpers.cache import hub_copies
from helpers.preflight import FRONT_ENDS
from tools.environment import make_env

CONTEXT = 8192  # tokens that the lessons ask for at most
WIDGET = """\
import transformers
from helpers import capture, models, qwen
from helpers.explorer import RoutingExplorer
folder = models.find_checkpoint("qwen3-moe-tiny")
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
RoutingExplorer(capture.capture_reference(qwen.load_model(folder), tokenizer, "37×46=?"))
"""


def largest_model(here: machine.Machine) -> str:
    """Id of the largest dense Qwen3 in bf16 that the first GPU can serve and the data disk can hold, else "none".

    What is on the disk already needs no more room. Mixtures of experts are left to lesson 04.
    """
    gpu = here.gpus[0].memory * 2**20 if here.gpus and here.gpus[0].memory else 0
    fitting = [
        name
        for name, release in catalogue.CATALOGUE.items()
        if release.config["model_type"] == "qwen3"
        and catalogue.fits(release.config, gpu, CONTEXT).fits
        and (hub_copies(name) or 1.1 * release.download < (here.data_disk or 0))
    ]
    return max(fitting, key=lambda name: catalogue.CATALOGUE[name].download, default="none")


def check_kernel() -> str:
    """Starts the registered kernel and lets it show a widget. Returns what was seen; raises CourseError."""
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
    """Raises CourseError unless the JupyterLab of another environment has the widgets' front-ends, switched on."""
    listed = subprocess.run([server, "-m", "jupyter", "labextension", "list"], capture_output=True, text=True)
    text = listed.stdout + listed.stderr
    lines = {name: line for line in text.splitlines() for name in FRONT_ENDS if f" {name} " in f"{line} "}
    if missing := [name for name in FRONT_ENDS if "enabled" not in lines.get(name, "")]:
        raise CourseError(
            f"{server} 的 JupyterLab 缺少控件前端 {'、'.join(missing)}：请运行 make kernel。",
            f"The JupyterLab of {server} lacks the widget front-ends {', '.join(missing)}: run make kernel.",
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
