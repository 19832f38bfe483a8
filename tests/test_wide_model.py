"""Lessons 05 and 06, unedited, on another shape: Qwen3-0.6B's widths and heads, two layers, random weights."""

import os
import shutil
import time

import nbformat
import pytest
from conftest import ROOT

from helpers import catalogue, models
from helpers.checkpoint import Checkpoint
from helpers.lessons.l05.exercises import tiny_tokenizer
from tools.lessons.run import execute

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """A checkpoint folder with the tiny model's tokenizer and template."""
    import torch
    import transformers

    folder, tiny = tmp_path_factory.mktemp("models") / "qwen3-wide", models.find_checkpoint("qwen3-tiny")
    shape = catalogue.CATALOGUE["Qwen/Qwen3-0.6B"].config
    small = Checkpoint(tiny).config
    kept = {name: small[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    config = transformers.Qwen3Config(
        **shape | kept | {"num_hidden_layers": 2, "max_position_embeddings": 4096},
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(tiny / name, folder / name)
    return folder


def test_it_has_the_shape_of_06b(wide_model):
    config = Checkpoint(wide_model).config
    assert (config["hidden_size"], config["num_attention_heads"], config["head_dim"]) == (1024, 16, 128)
    assert not models.is_bundled(wide_model) and Checkpoint(wide_model).capabilities.thinking == "switch"
    assert tiny_tokenizer().vocab_size <= config["vocab_size"]


@pytest.mark.parametrize("lesson", ["05_offline_generation", "06_thinking"])
def test_the_lessons_run_on_it_unedited(lesson, wide_model):
    notebook = nbformat.read(ROOT / "notebooks" / "zh" / f"{lesson}.ipynb", as_version=4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    environment |= {"COURSE_MODEL": str(wide_model), "COURSE_MAX_TOKENS": "16", "COURSE_CASES": "4"}
    start = time.monotonic()
    execute(notebook, ROOT / "notebooks" / "zh", environment)
    print(f"{lesson}: {time.monotonic() - start:.0f} s")
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert "qwen3-wide（Qwen3ForCausalLM）" in cells["setup"].outputs[0].text
    printed = "".join(output.get("text", "") for cell in cells.values() for output in cell.outputs)
    if lesson.startswith("05"):
        assert "context: 4096 tokens" in printed and "vLLM, batch=4 " in printed
    else:
        assert "4 道题" in printed and "/4" in printed
