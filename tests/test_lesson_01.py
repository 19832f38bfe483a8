"""Lesson 01: its exercises tell right from wrong, it runs in AutoDL's no-GPU mode, its copy-me cell stands alone."""

import json
import os
import stat
import subprocess
import sys

import pytest
from conftest import ROOT, said
from lesson_code import run_lesson
from lesson_source import read_lesson

from helpers import checks, models
from helpers.models import GIB

LESSON = read_lesson(ROOT / "notebooks" / "source" / "01_environment.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
EXERCISES = {
    "ex1": (checks.exercise_01_1, "dependency_set"),
    "ex2": (checks.exercise_01_2, "largest_context"),
    "ex3": (checks.exercise_01_3, "kv_bytes_per_card"),
}


@pytest.mark.parametrize("key", EXERCISES)
def test_solution_passes_and_stub_does_not(key, capsys):
    check, name = EXERCISES[key]
    solution, stub = {}, {}
    exec(CELLS[f"{key}-solution"], solution)
    assert "Solved!" in said(capsys, check, solution[name])
    exec(CELLS[key], stub)
    printed = said(capsys, check, stub[name])
    assert "还没有解出来" in printed and "Not solved yet" in printed and "raised" not in printed


def by_number(driver, newest=580, oldest=570):
    major = int(driver.split(".")[0])
    return "gpu" if major >= newest else "cu12" if major >= oldest else "too old"


WRONG_SETS = [
    (lambda d: "cpu" if d is None else by_number(d, newest=581), "580.65.06 is just new enough"),
    (lambda d: "cpu" if d is None else by_number(d, oldest=571), "570.124.06 is just new enough"),
    (lambda d: "gpu" if (d or "") >= "580" else "cu12" if (d or "") >= "570" else "too old", "as text '1000'"),
    (lambda d: "cpu" if d is None or by_number(d) == "too old" else by_number(d), "there is a GPU with an old driver"),
    (lambda d: by_number(d), "raised AttributeError"),
    (lambda d: "requirements.txt", "the name 'gpu' is wanted"),
    (lambda d: "gpu", "'579.99' should give 'cu12', not 'gpu'"),
    (lambda d: "too old" if d is None else by_number(d), "None should give 'cpu'"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_SETS, ids=[hint for _, hint in WRONG_SETS])
def test_a_wrong_set_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_01_1, wrong)


def context(card, weights, per_token, limit, share=0.92, other=1.5 * GIB):
    return min(limit, max(0, int((share * card - weights - other) / per_token) // 16 * 16))


WRONG_CONTEXTS = [
    (lambda *a: context(*a, share=1), "92% of the card"),
    (lambda *a: context(*a, share=0.9), "older versions"),
    (lambda *a: context(*a, other=0), "1.5 GiB are for the rest"),
    (lambda *a: context(*a, other=1.5e9), "not 1.5e9"),
    (lambda card, weights, per_token, limit: int(0.92 * card / per_token), "weights are not subtracted"),
    (lambda *a: context(*a) // 16, "these are blocks"),
    (lambda card, weights, per_token, limit: int((0.92 * card - weights - 1.5 * GIB) / per_token), "whole blocks"),
    (lambda *a: context(*a) + 16, "round down, not up"),
    (
        lambda card, weights, per_token, limit: int((0.92 * card - weights - 1.5 * GIB) / per_token) // 16 * 16,
        "on 16 GiB not even the weights fit",
    ),
    (
        lambda card, weights, per_token, limit: context(card, weights, per_token, 10**7),
        "the model's own limit is 40960",
    ),
    (lambda *a: 38752, "on 16 GiB"),
    (lambda *a: 12345, "24 GiB give 38752, not 12345"),
    (lambda card, *rest: {24: 38752, 16: 0, 80: 40960}.get(card // GIB), "compute from the arguments"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_CONTEXTS, ids=[hint for _, hint in WRONG_CONTEXTS])
def test_a_wrong_context_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_01_2, wrong)


WRONG_CARDS = [
    (lambda config, gpus: models.kv_bytes_per_token(config) // gpus, "4 heads are too few for 8 cards"),
    (lambda config, gpus: models.kv_bytes_per_token(config), "divided among 2 cards"),
    (
        lambda config, gpus: (
            models.kv_bytes_per_token(config) // config["num_key_value_heads"] * (config["num_key_value_heads"] // gpus)
        ),
        "a head is never cut",
    ),
    (lambda config, gpus: models.kv_bytes_per_token(config) // 2, "this is half"),
    (lambda config, gpus: models.kv_bytes_per_token(config) * 4, "not all attention heads"),
    (lambda config, gpus: 7, "Qwen3-8B on 1 cards is not 7"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_CARDS, ids=[f"{n}" for n in range(len(WRONG_CARDS))])
def test_wrong_bytes_per_card_are_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_01_3, wrong)


def test_the_text_states_what_the_calculator_computes():
    """8 sequences of 8192 tokens of Qwen3-8B on 24 GB: which setting pays most."""
    config = models.CATALOGUE["Qwen/Qwen3-8B"].config
    [text] = [cell for cell in LESSON.cells if cell.key == "ex2-text"]
    plain, fp8, awq = (models.fits(config, 24 * GIB, 8192, 8, dtype) for dtype in ("bf16", "fp8", "awq"))
    small_cache = models.fits(config, 24 * GIB, 8192, 8, kv_bytes=1)
    assert not plain.fits and small_cache.fits and plain.max_context < small_cache.max_context < fp8.max_context
    for lang in ("zh", "en"):
        for fit in (plain, small_cache, fp8, awq):
            assert f"{fit.max_context:,}" in text.text[lang]


# ---------------------------------------------------------------------------------------------- where it runs


@pytest.mark.slow
def test_runs_in_2_gb_without_torch_and_network(lesson_runs):
    ran = lesson_runs("01_environment")
    assert ran.report["heavy"] == [] and sum(ran.report["peaks"]) < 2 * GIB
    assert "largest that fits: 38752" in ran.printed["fits"]


@pytest.mark.slow
def test_runs_in_no_gpu_mode(tmp_path):
    """nvidia-smi that exits with 0 and lists nothing, as users of AutoDL's no-GPU mode report."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.write_text("#!/bin/sh\nexit 0\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    ran = run_lesson("01_environment", tmp_path, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert ran.failure is None
    assert "none (nvidia-smi: empty)" in ran.printed["look"]
    assert "no-GPU mode" in ran.printed["preflight"]


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
    config = models.CATALOGUE["Qwen/Qwen3-8B"].config
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with open(tmp_path / "model" / "model.safetensors", "wb") as file:
        file.truncate(int(models.weight_bytes(config)))
    for gib, variables in ((24, {}), (16, {"GPU_GIB": "16"}), (80, {"GPU_GIB": "80"})):
        printed = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path / "model"), PATH="/nowhere", **variables)
        expected = models.fits(config, gib * GIB).max_context
        assert printed == f"largest context on {gib}.0 GiB: {expected} tokens\n"
    fake = tmp_path / "bin" / "nvidia-smi"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 24564\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    printed = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path / "model"), PATH=f"{fake.parent}:/bin")
    assert printed == f"largest context on 24.0 GiB: {models.fits(config, 24564 * 2**20).max_context} tokens\n"
