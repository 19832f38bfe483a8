"""Lesson A1: its claims about the training recipe hold."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_exercises import solution_of

from helpers import models
from helpers.lessons import lA1
from tools.lessons.source import read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "A1_tiny_models.py")

# ---------------------------------------------------------------------------------------------- the recipe


@pytest.fixture(scope="module")
def recipe():
    from helpers.lessons.lA1 import recipe

    return recipe


@pytest.fixture(scope="module")
def tokenizer(recipe):
    return lA1.build_tokenizer(recipe.CONTEXT)


def test_the_exercises_are_what_the_training_does(recipe, tokenizer, monkeypatch):
    """Exercise 1 is the recipe's split, exercise 2 its targets, exercise 3 the balancing part of its loss."""
    held_out, make_targets, balancing_loss = (
        solution_of(f"lA1.{key}", f"{key}-solution") for key in ("ex1", "ex2", "ex3")
    )
    pairs = [(a, b) for a in range(1, 60) for b in range(1, 60)]
    assert [held_out(*pair) for pair in pairs] == [lA1.held_out(*pair) for pair in pairs]

    encoded = []
    original = recipe.encode
    monkeypatch.setattr(recipe, "encode", lambda *given: encoded.append(original(*given)) or encoded[-1])
    chunks = list(recipe.batches(3, tokenizer))
    wanted = sorted([token for token in make_targets(*sample) if token != -100] for sample in encoded)
    found = [[t for t in row.tolist() if t != -100] for _, targets in chunks for row in targets]
    assert sorted(found) == wanted

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *arguments: None)
    model = recipe.build_model("qwen3-moe-tiny", tokenizer)
    router = model.model.layers[0].mlp.gate.weight
    load, gradients = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)), []
    for balance in (0.0, 1.0):
        model.zero_grad()
        recipe.train_step(model, [], chunks[:1], load, balance)
        gradients.append(router.grad.clone())
    model.zero_grad()
    logits = model.model(chunks[0][0], output_router_logits=True).router_logits
    sum(balancing_loss(load[layer], logits[layer].float().softmax(-1)) for layer in range(len(load))).backward()
    torch.testing.assert_close(gradients[1] - gradients[0], router.grad, atol=1e-5, rtol=1e-3)


def test_the_text_tells_the_recipe(recipe):
    """Numbers that the lesson states in prose are those of the scripts and the records."""
    text = "\n".join(cell.text["en"] for cell in LESSON.cells)
    assert recipe.MODES["cut"] == 30 and "30% of its training samples were cut" in text
    assert recipe.LONG_PROMPTS_FROM == 1200 and "From step 1,200" in text
    assert recipe.REFINEMENT["qwen3-moe-tiny"] == 400 and "the last 400 steps" in text
    assert recipe.STEPS["qwen3-moe-tiny"] + recipe.REFINEMENT["qwen3-moe-tiny"] == 3800 and "over 3,800 steps" in text
    logs = {name: np.load(ROOT / "assets" / "traces" / f"moe_balance_{name}.npz") for name in ("on", "off")}
    end = len(logs["off"]["step"])
    assert logs["on"]["loss"][0] == logs["off"]["loss"][0]  # the same data and weights at the start
    assert logs["on"]["loss"][end - 10 : end].mean() < logs["off"]["loss"][-10:].mean()
    starved = (logs["off"]["load"][-1] < 0.01).sum(axis=1)
    assert starved.tolist() == [0, 0, 2, 2] and logs["on"]["load"][end - 1].min() > 0.05
    assert 8 * logs["off"]["load"][-1].max(axis=1).min() > 1.8 and 8 * logs["off"]["load"][-1].max() < 3
    before, after = logs["on"]["loss"][640:680].mean(), logs["on"]["loss"][-40:].mean()
    assert abs(before - after) < 0.002  # "the loss no longer falls"
    card = (models.BUNDLED / "qwen3-moe-tiny" / "README.md").read_text(encoding="utf-8")
    assert "answered 11 of 100 strange questions" in card and "| 100 other questions, thinking | 99.0 %" in card
