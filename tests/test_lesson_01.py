"""Lesson 01: its text says what the calculator computes, it runs in no-GPU mode, its copy-me cell stands alone."""

import json
import os
import stat
import subprocess
import sys

import pytest
from conftest import ROOT
from lesson_code import run_lesson

from helpers import catalogue
from helpers.models import GIB
from tools.lessons.source import read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "01_environment.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


def test_the_text_states_what_the_calculator_computes():
    """8 sequences of 8192 tokens of Qwen3-8B on 24 GB: which setting pays most."""
    config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
    [text] = [cell for cell in LESSON.cells if cell.key == "ex2-text"]
    plain, fp8, awq = (catalogue.fits(config, 24 * GIB, 8192, 8, dtype) for dtype in ("bf16", "fp8", "awq"))
    small_cache = catalogue.fits(config, 24 * GIB, 8192, 8, kv_bytes=1)
    both = catalogue.fits(config, 24 * GIB, 8192, 8, "fp8", kv_bytes=1)
    assert not plain.fits and small_cache.fits
    longest = [fit.max_context for fit in (plain, small_cache, fp8, awq, both)]
    assert longest == sorted(longest), "AWQ pays most of one setting"
    for lang in ("zh", "en"):
        for fit in (plain, small_cache, fp8, awq, both):
            assert f"{fit.max_context:,}" in text.text[lang]


# ---------------------------------------------------------------------------------------------- where it runs


@pytest.mark.slow
def test_runs_in_2_gb_without_torch_and_network(lesson_runs):
    ran = lesson_runs("01_environment")
    assert ran.report["heavy"] == [] and sum(ran.report["peaks"]) < 2 * GIB
    assert "max_context: 38752" in ran.printed["fits"]


@pytest.mark.slow
def test_runs_in_no_gpu_mode(tmp_path):
    """nvidia-smi that exits with 0 and lists nothing, as users of AutoDL's no-GPU mode report."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    ran = run_lesson("01_environment", tmp_path, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert ran.failure is None
    assert "GPU: None | nvidia-smi: empty" in ran.printed["look"]
    assert "无卡模式" in ran.printed["preflight"]


# ---------------------------------------------------------------------------------------------- copy-me


def run_copy_me(tmp_path, **variables):
    script = tmp_path / "copied.py"
    script.write_text(CELLS["copy-me"], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    done = subprocess.run(
        [sys.executable, "-I", script], cwd=tmp_path, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_copy_me_cell_runs_alone(tmp_path):
    """On a folder with the config of Qwen3-8B and a weight file of its size (sparse: it takes no disk)."""
    assert run_copy_me(tmp_path).startswith("No config.json in Qwen/Qwen3-8B")
    config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with open(tmp_path / "model" / "model.safetensors", "wb") as file:
        file.truncate(int(catalogue.weight_bytes(config)))
    for gib, variables in ((24, {}), (16, {"GPU_GIB": "16"}), (80, {"GPU_GIB": "80"})):
        printed = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path / "model"), PATH="/nowhere", **variables)
        expected = catalogue.fits(config, gib * GIB).max_context
        assert printed == f"largest context on {gib}.0 GiB: {expected} tokens\n"
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 24564\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    printed = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path / "model"), PATH=f"{fake.parent}:/bin")
    assert printed == f"largest context on 24.0 GiB: {catalogue.fits(config, 24564 * 2**20).max_context} tokens\n"


def test_copy_me_cell_says_what_it_does_not_know(tmp_path):
    """An architecture for which its formulas do not hold, and a folder without weights, which do not weigh nothing."""
    config = catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
    (tmp_path / "model").mkdir()
    for changed, words in (
        (config, "has no safetensors files"),
        ({"model_type": "qwen3_5", "text_config": config}, "it is a qwen3_5"),
        (config | {"model_type": "qwen3_next"}, "it is a qwen3_next"),
    ):
        (tmp_path / "model" / "config.json").write_text(json.dumps(changed))
        printed = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path / "model"), PATH="/nowhere")
        assert words in printed and len(printed.splitlines()) == 1
