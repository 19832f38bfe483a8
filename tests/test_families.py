"""Families after Qwen3: recognised from config.json, counted, and refused in one sentence by all that run models."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from faulty_hub import FaultyHub, write_model

from helpers import ROOT, CourseError, catalogue, engine, machine, models
from helpers.checkpoint import Checkpoint
from helpers.config import family, is_hybrid, layers
from helpers.download import download
from helpers.engine import open_engine
from helpers.explorer.memory import MODELS
from helpers.loading import load_model
from helpers.server import Server
from tools.environment import autodl
from tools.lessons.source import read_lesson

NEXT = {
    "model_type": "qwen3_next",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "vocab_size": 151936,
    "full_attention_interval": 4,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "max_position_embeddings": 262144,
    "tie_word_embeddings": False,
}
FLASH_NEXT = {
    "model_type": "qwen4_exp",
    "text_config": {
        "model_type": "qwen4_exp_text",
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "hidden_size": 2048,
        "indexer_head_dim": 128,
        "indexer_kv_heads": 1,
        "ple_layer_ids": [2],
    },
}
LATER = {name: release.config for name, release in catalogue.LATER.items()}
SMALL, DENSE, SPARSE = LATER.values()


def nested(config: dict) -> dict:
    """The config of a model that also sees: what the language model needs stands inside."""
    kind = config["model_type"]
    inner = config | {"model_type": f"{kind}_text"}
    del inner["tie_word_embeddings"]
    outer = {"model_type": kind, "text_config": inner, "vision_config": {"depth": 2, "num_hidden_layers": 27}}
    return outer | {"tie_word_embeddings": config["tie_word_embeddings"]}


FAMILIES = {
    "Next": NEXT,
    "3.5 flat": SPARSE,
    "3.5 nested": nested(DENSE),
    "3.5 as text": DENSE | {"model_type": "qwen3_5_text"},
    "Flash-Next": FLASH_NEXT,
    "VL": {"model_type": "qwen3_vl", "text_config": {"model_type": "qwen3_vl_text"}, "vision_config": {}},
    "Omni": {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": {"model_type": "qwen3_omni_moe_text"}}},
    "unknown, by its layers": catalogue.CATALOGUE["Qwen/Qwen3-8B"].config
    | {"model_type": "qwen5", "layer_types": ["linear_attention", "full_attention"] * 18},
    "unknown, by its heads": {"model_type": "qwen9", "linear_num_value_heads": 8},
    "qwen3 by name only": {"model_type": "qwen3", "full_attention_interval": 4},
    "another maker's": {"model_type": "llama"},
}


@pytest.mark.parametrize(
    ("config", "per_token", "state", "block"),
    [
        (DENSE, 65_536, 153_944_064, 784),
        (SMALL, 12_288, 19_537_920, 544),
        (SPARSE, 20_480, 64_389_120, 1056),
        (catalogue.CATALOGUE["Qwen/Qwen3-32B"].config, 262_144, 0, 16),
        (catalogue.CATALOGUE["Qwen/Qwen3-30B-A3B"].config, 98_304, 0, 16),
    ],
    ids=["27B", "0.8B", "35B-A3B", "Qwen3-32B", "Qwen3-30B-A3B"],
)
@pytest.mark.parametrize("shape", [dict, nested])
def test_cache_of_a_token_and_state_of_a_sequence(shape, config, per_token, state, block):
    """Sizes of vLLM's cache: its own formula for the state, block sizes as its logs on GPUs print them."""
    config = shape(config)
    assert catalogue.kv_bytes_per_token(config) == per_token
    assert catalogue.state_bytes_per_sequence(config) == state
    assert catalogue.kv_block(config) == block


def test_layers_by_list_and_by_interval():
    assert layers(DENSE) == (16, 48) and is_hybrid(DENSE)
    listed = ["linear_attention"] * 3 + ["full_attention"]
    by_list = {key: value for key, value in DENSE.items() if key != "full_attention_interval"}
    assert layers(by_list | {"layer_types": listed * 16}) == (16, 48)
    assert layers(DENSE | {"num_hidden_layers": 63}) == (15, 48)
    with pytest.raises(CourseError, match="layer_types"):
        layers(DENSE | {"layer_types": listed})


def test_the_indexer_keeps_a_key_and_what_is_not_known_is_no_number():
    assert catalogue.kv_bytes_per_token(FLASH_NEXT) == 10 * (2 * 2 * 256 + 128) * 2
    for count in (catalogue.parameters, catalogue.state_bytes_per_sequence):
        with pytest.raises(CourseError, match="does not know the shapes of qwen4_exp"):
            count(FLASH_NEXT)


def test_what_fits_counts_the_state():
    card = 80 * 2**30
    for config in (DENSE, SPARSE, SMALL):
        one, many = (catalogue.fits(config, card, 1024, sequences) for sequences in (1, 64))
        state = catalogue.state_bytes_per_sequence(config)
        assert one.kv_cache == 1024 * catalogue.kv_bytes_per_token(config) + state
        assert many.kv_cache == 64 * one.kv_cache
        assert many.max_context % catalogue.kv_block(config) == 0 or many.max_context == 262_144
    full = catalogue.fits(DENSE, card, sequences=64)
    assert full.weights + 64 * (full.max_context * 65_536 + 153_944_064) + full.other <= full.usable
    assert catalogue.fits(nested(DENSE), card).max_context == catalogue.fits(DENSE, card).max_context


def parameters_in_transformers(settings: dict) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())  # a shared one once


@pytest.mark.slow
def test_parameters_are_those_of_transformers():
    """Each family built by transformers without memory: shared experts, gates, convolutions and all."""
    small = {"num_hidden_layers": 8, "vocab_size": 1024, "hidden_size": 128, "moe_intermediate_size": 32}
    configs = [NEXT | small, NEXT | small | {"mlp_only_layers": [1, 5], "intermediate_size": 96}]
    configs += [config | small | {"model_type": f"{config['model_type']}_text"} for config in (DENSE, SPARSE, SMALL)]
    configs += [DENSE | small | {"model_type": "qwen3_5_text", "attention_bias": True, "linear_conv_kernel_dim": 3}]
    configs += [DENSE | {"model_type": "qwen3_5_text"}]
    moe = catalogue.CATALOGUE["Qwen/Qwen3-30B-A3B"].config | {"num_hidden_layers": 6, "decoder_sparse_step": 2}
    configs += [moe, moe | {"mlp_only_layers": [1, 2]}]
    configs += [catalogue.CATALOGUE["Qwen/Qwen3-8B"].config | {"num_hidden_layers": 2, "attention_bias": True}]
    given = [{key: value for key, value in config.items() if value is not None} for config in configs]
    assert list(map(catalogue.parameters, configs)) == list(map(parameters_in_transformers, given))


def test_an_expert_model_of_transformers_5_is_one():
    moe = catalogue.CATALOGUE["Qwen/Qwen3-30B-A3B"].config
    saved = {key: value for key, value in moe.items() if key != "num_experts"} | {"num_local_experts": 128}
    assert catalogue.parameters(saved) == 30_532_122_624 and catalogue.num_experts(saved) == 128
    assert catalogue.parameters(saved, active=True) == 3_353_032_704
    assert catalogue.parameters(SPARSE, active=True) < catalogue.parameters(SPARSE) / 8


def test_head_dim_where_the_config_names_none():
    small = catalogue.CATALOGUE["Qwen/Qwen3-0.6B"].config
    assert catalogue.head_dim({key: value for key, value in small.items() if key != "head_dim"}) == 128
    assert catalogue.head_dim({key: value for key, value in DENSE.items() if key != "head_dim"}) == 256


# ---------------------------------------------------------------------------------------------- nothing runs them


def write(folder, config):
    write_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused(action, *words) -> CourseError:
    with pytest.raises(CourseError) as refusal:
        action()
    for text in (refusal.value.zh, refusal.value.en):
        assert "\n" not in text and all(word in text for word in words), text
    return refusal.value


@pytest.mark.parametrize("name", FAMILIES)
def test_running_is_refused_and_names_the_family(name, tmp_path, monkeypatch):
    config = FAMILIES[name]
    folder, kind = write(tmp_path / "model", config), family(config)
    monkeypatch.setattr(models, "SETTINGS", tmp_path / "course.toml")
    monkeypatch.setenv(models.MODEL_VARIABLE, str(folder))
    for action in (
        lambda: load_model(folder),
        lambda: open_engine(folder),
        lambda: open_engine(Checkpoint(folder)),
        lambda: Server(folder),
        lambda: models.use(str(folder)),
        models.course_model,
        models.describe,
        models.resolve,
    ):
        refused(action, kind, "Qwen/Qwen3-8B")
    assert not models.SETTINGS.exists()


def test_it_is_named_before_what_is_missing_of_it(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(nested(DENSE)))
    refused(lambda: models.find_checkpoint(str(folder)), "Qwen3.5, 3.6, 3.8", "qwen3_5")


def test_download_refuses_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(machine, "AUTODL_DATA_DISK", tmp_path / "no data disk")
    model = write(tmp_path / "model", nested(DENSE))
    with FaultyHub({"Qwen/Qwen3.6-27B": model}, cache=tmp_path / "cache") as hub:
        refused(lambda: download("Qwen/Qwen3.6-27B"), "Qwen/Qwen3.6-27B", "qwen3_5")
        refused(lambda: download("Qwen/Qwen3.6-27B", folder=tmp_path / "mine"), "qwen3_5")
        assert {request.path for request in hub.requests} == {"config.json"}
        assert {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()} <= {".lock"}
        assert not (tmp_path / "cache/models").exists()
        assert not (tmp_path / "mine").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lesson", ["01", "03"])
@pytest.mark.parametrize("name", ["Next", "3.5 nested", "3.5 flat", "Flash-Next", "Omni", "another maker's"])
def test_copied_cells_name_the_family(lesson, name, tmp_path):
    folder = write(tmp_path / "model", FAMILIES[name])
    done = run_copied(lesson, folder, tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert len(done.stdout.splitlines()) == 1 and family(FAMILIES[name]) in done.stdout, done.stdout


def copy_me(lesson) -> str:
    [source] = (ROOT / "notebooks/source").glob(f"{lesson}_*.py")
    [cell] = [cell for cell in read_lesson(source).cells if cell.key == "copy-me"]
    return cell.text["en"]


def run_copied(lesson, folder, place):
    (place / "copied.py").write_text(copy_me(lesson), encoding="utf-8")
    environment = {"COURSE_MODEL": str(folder), "GPU_GIB": "24", "PATH": "", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-I", "copied.py"]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=60)


# ------------------------------------------------------------------------------- a family that runs, and no chat model


def test_a_model_without_a_way_to_write_is_named_as_what_it_is(tmp_path):
    tiny = ROOT / "assets/models/qwen3-tiny"
    folder = tmp_path / "embedding"
    shutil.copytree(tiny, folder)
    from safetensors.torch import load_file, save_file

    stored = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    save_file(bare, folder / "model.safetensors")
    for action in (lambda: load_model(folder), lambda: open_engine(folder), lambda: models.use(str(folder))):
        assert "download" not in refused(action, "embedding").en
    shutil.copy(tiny / "model.safetensors", folder)
    assert models.find_checkpoint(str(folder)) == folder
    (folder / "modules.json").write_text("[]")
    refused(lambda: models.find_checkpoint(str(folder)), "embedding")
    (folder / "modules.json").unlink()
    config = Checkpoint(folder).config | {"architectures": ["Qwen3ForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    refused(lambda: models.find_checkpoint(str(folder)), "Qwen3ForSequenceClassification")


def test_the_calculator_has_them_and_no_other_list_does():
    assert set(catalogue.LATER) < set(MODELS) and not set(catalogue.LATER) & set(catalogue.CATALOGUE)


def test_what_would_fit_never_names_one(monkeypatch):
    """Neither where a model is too large nor where autodl.sh chooses one, even if the table of models held them."""
    monkeypatch.setattr(engine, "CATALOGUE", catalogue.CATALOGUE | catalogue.LATER)
    monkeypatch.setattr(catalogue, "CATALOGUE", catalogue.CATALOGUE | catalogue.LATER)
    assert set(engine._fitting(10**13, 8192)) & set(catalogue.CATALOGUE)
    assert not [name for name in engine._fitting(10**13, 8192) if name.rpartition("-")[0] in LATER or name in LATER]
    monkeypatch.setattr(autodl, "hub_copies", lambda name: [])
    here = replace(machine.look(), gpus=(machine.Gpu("a card", 10**6, "580.95"),), data_disk=10**13)
    assert autodl.largest_model(here) == "Qwen/Qwen3-32B"


# --------------------------------------------------------------------------------------- the first cell of each lesson

FIRST_CELL = """
import json, os, sys
from helpers import CourseError
said = None
try:
    exec(os.environ["CELL"], {"__name__": "__main__"})
except CourseError as error:
    said = [error.zh, error.en]
print(json.dumps({"said": said, "vllm": "vllm" in sys.modules, "torch": "torch" in sys.modules}))
"""
SOURCES = sorted((ROOT / "notebooks" / "source").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name[:2])
def test_every_lesson_says_so_in_its_first_cell(path, tmp_path):
    """Before vLLM or a weight is read, in one sentence: its weights would be nothing but that."""
    lesson = path.name[:2]
    folder = tmp_path / "Qwen3.5-0.8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(nested(SMALL)))
    cells = [cell for cell in read_lesson(path).cells if cell.kind == "code"]
    first = next(cell.text["en"] for cell in cells if cell.key == "setup")
    variables = os.environ | {"CELL": first, "COURSE_MODEL": str(folder), "COURSE_MOE_MODEL": str(folder)}
    done = subprocess.run([sys.executable, "-c", FIRST_CELL], env=variables, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    *printed, report = done.stdout.splitlines()
    report = json.loads(report)
    if lesson in ("A1", "A5"):  # about the bundled models, and about these families: neither takes the chosen model
        assert report["said"] is None
        return
    # Lesson 02 prints it, since a model that is chosen and not there yet is what it is about.
    said = printed if lesson == "02" else report["said"]
    assert len(said) == 2 and all(
        "Qwen3.5-0.8B" in text and "qwen3_5" in text and "Qwen/Qwen3-8B" in text for text in said
    )
    assert not any("\n" in text for text in said) and not report["vllm"]
    assert report["torch"] == ("import torch" in first)
