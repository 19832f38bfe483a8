"""helpers.download: the real ModelScope client against a hub with faults. Never half a model, nothing lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
from faulty_hub import SHARD_BYTES, SHARDS, SHORT, FaultyHub, write_model, write_shard
from modelscope_hub.compat.snapshot_download import snapshot_download

from helpers import ROOT, CourseError, machine, models
from helpers import download as module
from helpers.cache import hub_folders
from helpers.checkpoint import LISTING
from helpers.download import download, verify

NAME = "course/toy-0.1"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # holds the client's default cache
    monkeypatch.setattr(machine, "AUTODL_DATA_DISK", tmp_path / "no data disk")
    with FaultyHub({NAME: model}, cache=tmp_path / "cache") as rehearsal:
        yield rehearsal


def fetched(hub) -> list[str]:
    """Paths fetched since the last call."""
    paths = [request.path for request in hub.requests]
    hub.requests.clear()
    return paths


def is_copy(folder: Path, model: Path) -> bool:
    paths = [path.relative_to(model) for path in model.rglob("*") if path.is_file()]
    return all((folder / path).read_bytes() == (model / path).read_bytes() for path in paths)


def refuses(words: str, *arguments, **options) -> CourseError:
    """download refuses with one Chinese and one English sentence, the English one with these words."""
    with pytest.raises(CourseError, match=words) as refusal:
        download(*arguments, **options)
    zh, en = str(refusal.value).splitlines()
    assert any("一" <= letter <= "鿿" for letter in zh) and en.isascii()
    return refusal.value


def run(code: str, *arguments, prefix=()) -> subprocess.Popen:
    """Python in a process of its own, which finds the hub in its environment."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=os.environ | SHORT | {"TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_download_twice_and_the_client_after_it(hub, model):
    folder = download(NAME)
    assert folder == hub.cache / "models/course--toy-0.1/snapshots/master" and is_copy(folder, model)
    assert sorted(fetched(hub)) == sorted(path.name for path in model.iterdir())
    assert download(NAME) == folder == Path(snapshot_download(NAME)) == models.find_checkpoint(NAME)
    assert fetched(hub) == []
    assert verify(folder) is True


def test_folder_of_ones_own(hub, model, tmp_path):
    folder = download(NAME, folder=tmp_path / "mine")
    assert folder == tmp_path / "mine" and is_copy(folder, model)
    assert models.find_checkpoint(str(folder)) == folder


def test_broken_connection_is_resumed_where_it_broke(hub, model):
    hub.faults["drop"] = {SHARDS[0]: [300_000, 200_000]}
    assert is_copy(download(NAME), model)
    ranges = [request.range for request in hub.requests if request.path == SHARDS[0]]
    assert ranges == ["", "bytes=300000-", "bytes=500000-"]


def test_connection_that_brings_nothing_is_given_up_and_everything_kept(hub, model):
    hub.faults["drop"] = {SHARDS[0]: [400_000, 0, 0, 0]}
    refuses("connection", NAME)
    assert len([path for path in fetched(hub) if path == SHARDS[0]]) == 2
    with pytest.raises(CourseError, match="helpers.download"):
        models.find_checkpoint(NAME)
    hub.faults.clear()
    assert is_copy(download(NAME), model)
    assert [(request.path, request.range) for request in hub.requests] == [(SHARDS[0], "bytes=400000-")]


def test_server_that_ignores_ranges(hub, model):
    hub.faults |= {"drop": {SHARDS[0]: [400_000]}, "ignore_range": True}
    assert is_copy(download(NAME), model)


def test_killed_in_the_middle_of_a_file(hub, model):
    hub.faults["pause"] = {SHARDS[1]: threading.Event()}
    begun = hub.cache / f"models/course--toy-0.1/snapshots/master/{SHARDS[1]}.incomplete"
    process = run(f"from helpers.download import main; main([{NAME!r}])")
    while not (begun.exists() and begun.stat().st_size > SHARD_BYTES // 4):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.faults["pause"].pop(SHARDS[1]).set()
    kept, had = begun.stat().st_size, {path.name for path in begun.parent.glob("*") if path != begun}
    with pytest.raises(CourseError, match=r"not been downloaded completely.*helpers\.download course/toy-0\.1"):
        models.find_checkpoint(NAME)

    hub.requests.clear()
    again = run(f"import sys; from helpers.download import main; sys.exit(main([{NAME!r}]))")
    out, err = again.communicate()
    assert again.returncode == 0 and is_copy(Path(out.strip()), model), err
    assert (SHARDS[1], f"bytes={kept}-") in [(request.path, request.range) for request in hub.requests]
    assert not had & set(fetched(hub)), "fetched again what was there"


def test_wrong_bytes_from_the_hub_are_not_kept(hub, model):
    hub.faults["flip"] = {SHARDS[0]}
    refuses(f"{SHARDS[0]} arrived wrong", NAME)
    folder = hub_folders(NAME)[0]
    assert not (folder / SHARDS[0]).exists() and (folder / SHARDS[1]).exists()
    fetched(hub)
    hub.faults.clear()
    assert is_copy(download(NAME), model)
    assert fetched(hub) == [SHARDS[0]]


def test_wrong_size_in_the_list(hub, model):
    hub.faults["list"] = {SHARDS[0]: {"Size": 999}}
    refuses(f"{SHARDS[0]} arrived wrong", NAME)
    hub.faults.clear()
    assert is_copy(download(NAME), model)


def test_byte_flipped_in_the_cache_is_repaired(hub, model):
    folder = download(NAME)
    flip(folder / SHARDS[1])
    with pytest.raises(CourseError, match=f"damaged or missing .{SHARDS[1]}."):
        verify(folder)
    fetched(hub)
    assert is_copy(download(NAME), model)
    assert fetched(hub) == [SHARDS[1]]


def test_missing_shard_is_fetched_and_never_overlooked(hub, model):
    folder = download(NAME)
    (folder / SHARDS[0]).unlink()
    for look in (lambda: verify(folder), lambda: models.find_checkpoint(str(folder))):
        with pytest.raises(CourseError, match=SHARDS[0]):
            look()
    fetched(hub)
    assert is_copy(download(NAME), model)
    assert fetched(hub) == [SHARDS[0]]


def test_shard_that_the_repository_itself_lacks(hub, model):
    (model / SHARDS[1]).unlink()
    with FaultyHub({NAME: model}, cache=hub.cache):
        refuses(f"still incomplete .{SHARDS[1]}.", NAME)


@pytest.mark.parametrize("name", ["Qwen3-8B", "a/b/c", "../toy", "course/", ""])
def test_what_is_no_id(name, hub):
    refuses("owner/name", name)


def test_wrong_id_and_wrong_revision_leave_nothing_behind(hub):
    refuses("ModelScope has no course/other", "course/other")
    refuses("no revision v9", NAME, revision="v9")
    refuses("ModelScope has no course/other", "course/other", revision="v9")
    assert not any(hub.cache.glob("*"))


def test_no_network_with_a_complete_copy(hub, model, capsys):
    folder = download(NAME)
    hub.faults["status"] = 503
    assert download(NAME) == folder
    assert "Using the complete copy" in capsys.readouterr().err
    os.environ["MODELSCOPE_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens there
    assert download(NAME) == folder


def test_no_network_with_a_damaged_copy(hub):
    folder = download(NAME)
    flip(folder / SHARDS[0])
    hub.faults["status"] = 503
    refuses(SHARDS[0], NAME)


def test_no_network_and_half_a_copy(hub):
    hub.faults["drop"] = {SHARDS[0]: [400_000, 0]}
    refuses("connection", NAME)
    hub.faults = {"status": 503}
    assert Path(snapshot_download(NAME, local_files_only=True)).is_dir(), "the client alone takes it for a model"
    refuses("connection", NAME)
    with pytest.raises(CourseError, match="damaged or missing"):
        verify(hub_folders(NAME)[0])


def test_no_network_and_nothing(hub):
    hub.faults["status"] = 503
    refuses("connection", NAME)
    assert not any(hub.cache.glob("*"))


def test_hub_without_sums(hub, model):
    hub.faults["list"] = {path.name: {"Sha256": ""} for path in model.iterdir()}
    folder = download(NAME)
    assert verify(folder) is True
    flip(folder / SHARDS[0])
    refuses(f"delete them.*{SHARDS[0]}|{SHARDS[0]}.*delete them", NAME)
    (folder / SHARDS[0]).unlink()
    assert is_copy(download(NAME), model)


def test_disk_too_small_is_said_before_anything_is_written(hub, monkeypatch):
    hub.faults["list"] = {SHARDS[0]: {"Size": 10**16}}
    refuses(r"disk is too small .10000000\.00 GB >", NAME)
    assert not any(hub.cache.glob("*"))


FULL_DISK = """
    import json, os, subprocess, sys, threading, time
    from pathlib import Path
    disk, name, go = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
    os.environ["MODELSCOPE_CACHE"] = str(disk)
    from helpers import CourseError, models
    from helpers.cache import hub_folders
    from helpers.checkpoint import Checkpoint
    from helpers.download import download
    answers = []
    def attempt():
        try:
            answers.append(str(download(name)))
        except CourseError as error:
            answers.append(str(error))
    thread = threading.Thread(target=attempt)
    thread.start()
    def held():
        return [path.stat().st_size for path in disk.rglob("model-*.incomplete")]
    while thread.is_alive() and (len(held()) < 2 or min(held()) < int(sys.argv[4])):
        time.sleep(0.05)
    with open(disk / "other data", "wb", buffering=0) as filler:  # another program takes the rest of the disk
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
    go.touch()
    thread.join()
    kept = sum(path.stat().st_size for path in hub_folders(name)[0].rglob("model-*"))
    attempt()
    (disk / "other data").unlink()
    attempt()
    print(json.dumps([kept, answers, not Checkpoint(answers[-1]).broken]))
"""


def test_disk_that_fills_up_on_the_way(hub, model, tmp_path):
    # mounted in a namespace of its own: it ends with the process
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no one mount a small disk")
    event = threading.Event()
    hub.faults["pause"] = {SHARDS[0]: event, SHARDS[1]: event}
    (tmp_path / "disk").mkdir()
    process = run(FULL_DISK, tmp_path / "disk", NAME, tmp_path / "go", str(SHARD_BYTES // 4), prefix=namespace)
    while not (tmp_path / "go").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    event.set()
    out, err = process.communicate()
    assert process.returncode == 0, err
    kept, (full, again, folder), complete = json.loads(out)
    assert "disk is too small (No space left on device)" in full and "disk is too small (" in again
    assert kept >= SHARD_BYTES // 2
    assert folder.endswith("snapshots/master") and complete
    resumed = [request for request in hub.requests if request.range]
    assert resumed and all(request.status == 206 for request in resumed)


def test_two_downloads_at_once(hub, model):
    hub.faults["slow"] = 0.2
    code = f"from helpers.download import download; print(download({NAME!r}))"
    processes = [run(code), run(code)]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[0][0] == answers[1][0] and is_copy(Path(answers[0][0].strip()), model)
    assert sorted(fetched(hub)) == sorted(path.name for path in model.iterdir()), "a file was fetched twice"


AS_NOBODY = """
    import os, pickle, sys
    import modelscope_hub.compat.snapshot_download
    from helpers.download import main
    if os.getuid() == 0:  # root may write anywhere
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("complete", [False, True])
def test_no_permission(complete, hub, model):
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        os.environ |= {"MODELSCOPE_CACHE": str(place), "MODELSCOPE_HOME": str(place / "home")}
        (place / "home").mkdir()
        if complete:
            download(NAME)
        for folder in (place, *(path for path in place.rglob("*") if path.is_dir())):
            folder.chmod(0o555)
        process = run(AS_NOBODY, NAME)
        out, err = process.communicate()
        for folder in (place, *(path for path in place.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        assert "No permission to write" in err and "Traceback" not in err
        if complete:
            assert process.returncode == 0 and is_copy(Path(out.strip()), model)
        else:
            assert process.returncode == 1 and out == "" and [path.name for path in place.iterdir()] == ["home"]


@pytest.mark.parametrize(
    "layout", ["{id}", "{id___}", "models/{id}", "models/{id___}", "hub/{id}", "hub/{id___}", "hub/models/{id___}"]
)
def test_old_layouts_are_completed_in_place(layout, hub, model):
    old = hub.cache / layout.format(id=NAME, id___=NAME.replace(".", "___"))
    write_model(old)
    (old / SHARDS[0]).unlink()
    assert download(NAME) == old == models.find_checkpoint(NAME)
    assert fetched(hub) == [SHARDS[0]] and is_copy(old, model)


def test_complete_copy_elsewhere_is_used_and_half_a_one_is_not(hub, model, tmp_path):
    """So that setting MODELSCOPE_CACHE to a larger disk helps after a full one."""
    default = tmp_path / "home/.cache/modelscope/course/toy-0.1"
    write_model(default)
    assert download(NAME) == default and fetched(hub) == []
    (default / SHARDS[0]).unlink()
    folder = download(NAME)
    assert folder.is_relative_to(hub.cache) and is_copy(folder, model)
    assert (default / SHARDS[1]).exists()


def test_autodl_downloads_to_the_data_disk(hub, tmp_path, monkeypatch):
    (tmp_path / "autodl-tmp").mkdir()
    monkeypatch.setattr(machine, "AUTODL_DATA_DISK", tmp_path / "autodl-tmp")
    monkeypatch.delenv("MODELSCOPE_CACHE")
    assert download(NAME).is_relative_to(tmp_path / "autodl-tmp")


def test_other_errors_that_the_disk_may_give(tmp_path):
    for number, words in [(errno.EDQUOT, "disk is too small"), (errno.EROFS, "No permission")]:
        assert words in str(module._explain(OSError(number, os.strerror(number)), tmp_path))


def test_verify_without_sums_from_a_hub(model):
    assert verify(model) is False
    write_shard(model / SHARDS[0], {"another": SHARD_BYTES})
    with pytest.raises(CourseError, match=SHARDS[0]):
        verify(model)


def test_runs_in_2_gb_without_torch(hub, model):
    """AutoDL's mode without a GPU gives 2 GB."""
    code = f"""
        import resource, sys
        resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30))
        from helpers.download import download, verify
        assert verify(download({NAME!r}))
        assert not {{"torch", "transformers", "vllm"}} & set(sys.modules)
    """
    process = run(code)
    assert process.communicate() and process.returncode == 0


def test_command_line(hub, model, tmp_path, capsys):
    assert module.main([NAME, "--folder", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "mine")
    assert module.main(["course/other"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and len([line for line in shown.err.splitlines() if "course/other" in line]) == 2


@pytest.mark.parametrize(
    "path",
    ["../../../../evil", "/tmp/evil", "a/../../evil", "..", "a//b", "C:\\evil", "..\\evil", "a\0b", "", LISTING, "./x"],
)
def test_a_hub_that_lists_paths_outside_the_folder_is_not_trusted(path, hub, model, tmp_path):
    (model / "evil").write_text("x")
    with FaultyHub({NAME: model}, cache=hub.cache) as other:
        other.faults["list"] = {"evil": {"Path": path}}
        refuses("cannot be trusted", NAME)
        assert other.requests == [] and not any(hub.cache.glob("**/evil")) and not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "change", [{"Size": -1}, {"Size": "x"}, {"Size": None}, {"Path": 5}, {"Path": None}, {"Size": []}]
)
def test_a_list_of_wrong_values_is_one_sentence(change, hub):
    hub.faults["list"] = {SHARDS[0]: change}
    refuses("cannot be trusted|makes no sense|disk|arrived wrong|incomplete", NAME)


def a_file(place):
    place.write_text("x")


def dangling(place):
    place.symlink_to("nowhere")


def loop(place):
    place.symlink_to(place)


@pytest.mark.parametrize("below", ["", "deeper/and deeper"])
@pytest.mark.parametrize("what", [a_file, dangling, loop])
def test_what_is_no_folder_is_named_with_its_path(what, below, hub, tmp_path):
    what(tmp_path / "taken")
    refuses(
        f"{tmp_path / 'taken'} is (not a folder|a link that leads nowhere)", NAME, folder=tmp_path / "taken" / below
    )
    assert fetched(hub) == []


def test_a_folder_where_a_file_should_be_is_named(hub, tmp_path):
    (tmp_path / "mine" / SHARDS[0]).mkdir(parents=True)
    refusal = refuses(SHARDS[0], NAME, folder=tmp_path / "mine")
    assert "network" not in refusal.en


def test_a_config_that_cannot_be_read_stops_before_the_weights(hub, model, tmp_path):
    for content in ("[" * 100_000, "[]", "{}", '{"model_type": 5}', "<html>"):
        (model / "config.json").write_text(content)
        with FaultyHub({NAME: model}, cache=tmp_path / "other") as other:
            refuses("config.json|model_type", NAME)
            assert [request.path for request in other.requests] == ["config.json"]
        assert not (tmp_path / "other/models").exists()
