"""Appendix A4: its classes equal the helper's, its experiment changes the norm and nothing else."""

import ast
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, small_config

from helpers import qwen
from tools.lessons.source import parse, read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "A4_attention_in_depth.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
SAME_AS_HELPER = ["RMSNorm", "rope_frequencies", "rope_tables", "rotate_half", "apply_rope", "swiglu"]


@pytest.fixture(scope="module")
def lesson():
    """The names that the cells with definitions leave behind; their solutions replace the stubs."""
    names = {}
    keys = ("rmsnorm", "rope", "mlp", "qwen2-attention", "qwen3-attention", "assemble")
    for key in ("setup", *keys, "ex1-solution", "ex2-solution"):
        exec(CELLS[key], names)
    return SimpleNamespace(**names)


# ---------------------------------------------------------------------------------------------- taught code


@pytest.mark.parametrize("name", SAME_AS_HELPER)
def test_small_pieces_are_the_helpers(name):
    """A cell's marker can name one definition only, so this looks at all of them."""
    helper = ast.parse((ROOT / "helpers" / "qwen.py").read_text(encoding="utf-8"))
    definitions = [
        [ast.dump(node) for node in tree.body if getattr(node, "name", None) == name]
        for tree in (helper, *(parse(code) for code in CELLS.values()))
    ]
    taught = [found for found in definitions[1:] if found]
    assert taught == [definitions[0]]


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
@pytest.mark.parametrize("seed", range(3))
def test_taught_attention_equals_the_helpers(model_type, seed, lesson):
    generator = torch.Generator().manual_seed(seed)
    config = small_config(
        hidden_size=20 + 4 * seed,
        num_attention_heads=3 * (seed + 1),
        num_key_value_heads=3,
        qk_norm=model_type == "qwen3",
        qkv_bias=model_type == "qwen2",
    )
    taught = {"qwen2": lesson.Qwen2Attention, "qwen3": lesson.Qwen3Attention}[model_type](config)
    for parameter in taught.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    helper, weights = qwen.Attention(config, 0), taught.state_dict()
    for kind in ("weight", "bias")[: 2 if config.qkv_bias else 1]:
        weights[f"qkv_proj.{kind}"] = torch.cat([weights.pop(f"{letter}_proj.{kind}") for letter in "qkv"])
    helper.load_state_dict(weights)
    x = torch.randn(2, 7, config.hidden_size, generator=generator) / 10
    tables = qwen.rope_tables(torch.arange(7)[None], qwen.rope_frequencies(8, 1e4))
    torch.testing.assert_close(taught(x, *tables), helper(x, *tables), atol=1e-5, rtol=1e-5)


def test_assembled_model_equals_the_helper(lesson):
    config = small_config(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    torch.manual_seed(0)
    taught, helper = lesson.Qwen3(config), qwen.QwenModel(config)
    views = qwen.checkpoint_views(config, helper.state_dict(), packed=False)
    with torch.no_grad():
        for name, tensor in taught.state_dict().items():
            if name != "lm_head.weight":
                views.pop(f"model.{name}").copy_(tensor)
    assert not views
    input_ids = torch.randint(50, (2, 9))
    torch.testing.assert_close(taught(input_ids), helper(input_ids), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- the experiment


def test_experiment_is_repeatable_and_changes_the_norm_only():
    from helpers.lessons.lA4 import qk_norm as experiment

    runs = [experiment.train(with_norm, learning_rate=0.01, seed=3, steps=3) for with_norm in (True, True, False)]
    for first, again in zip(runs[0], runs[1], strict=True):
        assert first.shape == (3,) and np.array_equal(first, again)
    assert abs(runs[0][0][0] - runs[2][0][0]) < 0.2 and runs[0][1][0] != runs[2][1][0]  # equal matrices at the start
    models_ = [experiment.build_model(with_norm, torch.Generator().manual_seed(0)) for with_norm in (True, False)]
    weights = [dict(model.named_parameters()) for model in models_]
    assert {name for name in weights[0] if name not in weights[1]} == {
        f"layers.{layer}.self_attn.{which}_norm.weight" for layer in (0, 1) for which in "qk"
    }
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_the_record_fits_its_script():
    from helpers.lessons.lA4 import qk_norm as experiment

    with np.load(experiment.RECORD) as record:
        assert (
            record["loss"].shape
            == record["max_logit"].shape
            == (2, len(record["learning_rates"]), len(record["seeds"]), experiment.STEPS)
        )
        assert tuple(record["learning_rates"]) == experiment.LEARNING_RATES
        assert "torch" in str(record["provenance"])


def test_watched_logits_are_those_of_the_attention():
    """With one layer's queries and keys known, the largest visible logit is what the hook reports."""
    from helpers.lessons.lA4 import qk_norm as experiment

    generator = torch.Generator().manual_seed(1)
    model = experiment.build_model(True, generator)
    seen = experiment.watch_logits(model)
    tokens, is_answer = experiment.draw_batch(generator)
    assert tokens.shape == is_answer.shape and is_answer.sum() == 3 * experiment.BATCH * experiment.PROBLEMS
    captured = []
    original = F.scaled_dot_product_attention

    def spy(query, key, value, **options):
        captured.append((query, key))
        return original(query, key, value, **options)

    F.scaled_dot_product_attention = spy
    try:
        model(tokens)
    finally:
        F.scaled_dot_product_attention = original
    for largest, (query, key) in zip(seen, captured, strict=True):
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        logits = query @ key.mT / query.shape[-1] ** 0.5
        future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        assert largest == pytest.approx(logits.masked_fill(future, 0).abs().max().item(), rel=1e-5)
