"""Lesson 02: it runs in 2 GB and offline, its copy-me script meets the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from faulty_hub import SHARDS, SHORT, FaultyHub, write_model
from lesson_code import run_lesson

from helpers import catalogue, machine, models
from helpers.checkpoint import Checkpoint
from helpers.hub import Hub
from helpers.models import GIB
from tools.lessons.source import read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "02_model_download.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


def test_the_text_states_how_long_the_header_of_8b_is(tmp_path):
    """Names and shapes of Qwen3-8B's tensors, written as the JSON of a single file."""
    import torch

    from helpers import loading, qwen

    (tmp_path / "config.json").write_text(json.dumps(catalogue.CATALOGUE["Qwen/Qwen3-8B"].config))
    config = loading.qwen_config(tmp_path)
    with torch.device("meta"):
        state = qwen.QwenModel(config).state_dict()
    header, end = {}, 0
    for name, tensor in qwen.checkpoint_views(config, state, packed=False).items():
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + 2 * tensor.numel()]}
        end += 2 * tensor.numel()
    length = len(json.dumps(header, separators=(",", ":")))
    [text] = [cell for cell in LESSON.cells if cell.key == "ex1-text"]
    assert f"{len(header)} tensors" in text.text["en"] and f"about {round(length, -3):,} bytes" in text.text["en"]
    assert length / end < 1 / 300_000


# ---------------------------------------------------------------------------------------------- where it runs


@pytest.mark.slow
def test_runs_in_2_gb_without_torch_and_network(lesson_runs):
    ran = lesson_runs("02_model_download")
    assert ran.report["heavy"] == [] and sum(ran.report["peaks"]) < 2 * GIB
    fed = [key for key, code in CELLS.items() if "Hub(cache" in code]
    for key in [*fed, "where"]:
        said_so = ran.printed[key].startswith("[local rehearsal hub]")  # lessons with even numbers run in English
        assert said_so, f"{key} does not say that it comes from the rehearsal hub"
    assert len(fed) >= 5


@pytest.mark.slow
def test_runs_where_the_chosen_model_is_not_downloaded_yet(tmp_path):
    before = models.SETTINGS.read_bytes() if models.SETTINGS.exists() else None
    ran = run_lesson("02_model_download", tmp_path, HOME=str(tmp_path / "home"), COURSE_MODEL="Qwen/Qwen3-8B")
    assert ran.failure is None
    assert "Qwen/Qwen3-8B 不在磁盘上" in ran.printed["setup"] and "model.safetensors" in ran.printed["files"]
    after = models.SETTINGS.read_bytes() if models.SETTINGS.exists() else None
    assert before == after, "running the lesson chose a model"
    assert not (tmp_path / "home" / ".cache" / "modelscope").exists(), "the lesson left something behind"


def choose(choice):
    code = CELLS["choose"].replace('CHOICE = ""', f"CHOICE = {choice!r}")
    assert code != CELLS["choose"]
    names = {}
    exec(CELLS["setup"], names)
    exec(code, names)


def test_last_cell_writes_the_choice(monkeypatch, tmp_path, capsys):
    """A hub id is downloaded if it is missing; then course.toml names it. A bundled name leads back."""
    monkeypatch.setattr(models, "SETTINGS", tmp_path / "course.toml")
    monkeypatch.setattr(machine, "AUTODL_DATA_DISK", tmp_path / "no data disk")
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    with Hub(cache=tmp_path / "cache"):
        choose("course/qwen3-tiny")
        assert models.SETTINGS.read_text() == 'course_model = "course/qwen3-tiny"\n'
        assert models.course_model() == tmp_path / "cache/models/course--qwen3-tiny/snapshots/master"
    assert "chosen by: course.toml" in capsys.readouterr().out
    choose("qwen3-tiny")  # although the model chosen before is no longer to be found
    assert "is not on disk" in capsys.readouterr().out
    assert models.course_model() == models.BUNDLED / "qwen3-tiny"


# ---------------------------------------------------------------------------------------------- copy-me


def run_copy_me(tmp_path, **variables):
    script = tmp_path / "model_download.py"
    script.write_text(CELLS["copy-me"], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    return subprocess.run(
        [sys.executable, "-I", script],
        cwd=tmp_path,
        env=environment | SHORT | variables,
        capture_output=True,
        text=True,
    )


def test_copy_me_script_downloads_checks_and_prints_the_folder(tmp_path):
    model, cache = write_model(tmp_path / "model"), tmp_path / "cache"
    with FaultyHub({"course/toy-0.1": model}, cache) as rehearsal:
        rehearsal.faults["drop"] = {SHARDS[0]: [400_000]}
        done = run_copy_me(tmp_path, COURSE_MODEL="course/toy-0.1")
        assert done.returncode != 0 and SHARDS[0] in done.stderr, "the connection broke, and it says nothing"
        done = run_copy_me(tmp_path, COURSE_MODEL="course/toy-0.1")
        assert done.returncode == 0, done.stderr
        assert (SHARDS[0], "bytes=400000-") in [(request.path, request.range) for request in rehearsal.requests]
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.is_relative_to(cache) and Checkpoint(folder).broken == []


def test_copy_me_script_refuses_what_is_incomplete(tmp_path):
    model = write_model(tmp_path / "model")
    (model / SHARDS[1]).write_bytes((model / SHARDS[1]).read_bytes()[:-5])  # the repository's own file is cut short
    (model / "tokenizer.json").unlink()
    with FaultyHub({"course/toy": model}, tmp_path / "cache"):
        done = run_copy_me(tmp_path, COURSE_MODEL="course/toy")
    assert done.returncode == 1 and f"is incomplete (tokenizer.json, {SHARDS[1]})" in done.stderr


def test_copy_me_script_names_a_file_that_is_no_safetensors(tmp_path):
    """An error page in place of a shard: its first bytes ask for more memory than there is."""
    model = write_model(tmp_path / "model")
    (model / SHARDS[1]).write_text("<!DOCTYPE html><title>502 Bad Gateway</title>")
    with FaultyHub({"course/toy": model}, tmp_path / "cache"):
        done = run_copy_me(tmp_path, COURSE_MODEL="course/toy")
    assert done.returncode == 1 and f"is incomplete ({SHARDS[1]})" in done.stderr
    assert "Traceback" not in done.stderr


def test_copy_me_script_says_in_one_sentence_that_there_is_no_such_model(tmp_path):
    with FaultyHub({}, tmp_path / "cache"):
        done = run_copy_me(tmp_path, COURSE_MODEL="course/toy")
    assert done.returncode == 1 and "course/toy was not downloaded: " in done.stderr
    assert "Check the id" in done.stderr and "Traceback" not in done.stderr


def test_copy_me_uses_the_data_disk_of_autodl_unless_told_otherwise(tmp_path, monkeypatch):
    isdir = os.path.isdir
    for setting, disk, cache in (
        (None, True, "/root/autodl-tmp"),
        (None, False, None),
        (str(tmp_path), True, str(tmp_path)),
    ):
        monkeypatch.delenv("MODELSCOPE_CACHE", raising=False)
        if setting:
            monkeypatch.setenv("MODELSCOPE_CACHE", setting)
        monkeypatch.setattr(
            os.path, "isdir", lambda path, disk=disk: disk if path == "/root/autodl-tmp" else isdir(path)
        )
        names = {"__name__": "model_download"}
        exec(CELLS["copy-me"], names)
        assert names["CACHE"] == cache


def test_copy_me_downloads_nothing_when_it_is_imported(tmp_path):
    (tmp_path / "model_download.py").write_text(CELLS["copy-me"], encoding="utf-8")
    code = "import model_download; print(model_download.incomplete.__doc__)"
    variables = os.environ | {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9", "COURSE_MODEL": "course/toy"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.stdout == "Names of files that are missing or cut short.\n" and done.returncode == 0, done.stderr


def test_copy_me_cell_downloads_nothing_in_a_notebook(capsys):
    exec(CELLS["copy-me"], {"__name__": "__main__"})
    assert "would fetch" in capsys.readouterr().out
