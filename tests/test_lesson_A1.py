"""Lesson A1: its exercises tell right from wrong, its claims about the training recipe hold, its copy-me cell works."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, said
from lesson_source import read_lesson

from helpers import checks, models

LESSON = read_lesson(ROOT / "notebooks" / "source" / "A1_tiny_models.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
EXERCISES = {
    "ex1": (checks.exercise_A1_1, "held_out"),
    "ex2": (checks.exercise_A1_2, "make_targets"),
    "ex3": (checks.exercise_A1_3, "balancing_loss"),
    "ex4": (checks.exercise_A1_4, "choose_budget"),
}


def solution(key):
    names = {}
    exec(CELLS[f"{key}-solution"], names)
    return names[EXERCISES[key][1]]


@pytest.mark.parametrize("key", EXERCISES)
def test_solution_passes_and_stub_does_not(key, capsys):
    check, name = EXERCISES[key]
    assert "Solved!" in said(capsys, check, solution(key))
    stub = {}
    exec(CELLS[key], stub)
    printed = said(capsys, check, stub[name])
    assert "还没有解出来" in printed and "Not solved yet" in printed and "raised" not in printed


def in_order_given(*operands):
    return solution("ex1")(*[n + 1000 * place for place, n in enumerate(operands)])


WRONG_SPLITS = [
    (in_order_given, "sort the operands first"),
    (lambda *operands: random.random() < 1 / 8, "digest, not random numbers"),
    (lambda *operands: hash(str(sorted(operands))) % 8 == 0, "differs at every start of Python"),
    (lambda *operands: sum(operands) % 8 == 0, "follows a+b modulo"),
    (lambda *operands: abs(operands[0] - operands[1]) % 8 == 3, "follows a-b modulo"),
    (lambda *operands: not solution("ex1")(*operands), "one in eight is wanted"),
    (lambda *operands: max(operands) > 93, "the model never meets it"),
    (lambda a, b: solution("ex1")(a, b), "raised TypeError"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_SPLITS, ids=[hint for _, hint in WRONG_SPLITS])
def test_a_wrong_split_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_A1_1, wrong)


WRONG_TARGETS = [
    (lambda ids, start, silent: [t if i >= start and i not in silent else -100 for i, t in enumerate(ids)], "no shift"),
    (lambda ids, start, silent: ids[1:], "the prompt carries loss"),
    (lambda ids, start, silent: [-100] * (start - 1) + ids[start:], "in silent must not"),
    (lambda ids, start, silent: [*solution("ex2")(ids, start, silent), -100], "nothing follows the last token"),
    (
        lambda ids, start, silent: [ids[i] if i > start and i not in silent else -100 for i in range(1, len(ids))],
        "the token at start is the model's too",
    ),
    (
        lambda ids, start, silent: [ids[i] if i >= start and i - 1 not in silent else -100 for i in range(1, len(ids))],
        "not the one before it",
    ),
    (lambda ids, start, silent: 5, "a list of integers is wanted"),
    (lambda ids, start, silent: [-100] * (len(ids) - 1), "not yet"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_TARGETS, ids=[hint for _, hint in WRONG_TARGETS])
def test_wrong_targets_are_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_A1_2, wrong)


WRONG_BALANCES = [
    (lambda load, p: (load * p.mean(0)).sum(), "multiplied by the number of experts"),
    (lambda load, p: len(load) * (load * p.sum(0)).sum(), "sums over the tokens"),
    (lambda load, p: (load * p.mean(0)).mean(), "takes the mean over experts"),
    (lambda load, p: len(load) * (load**2).sum(), "no gradient"),
    (lambda load, p: len(load) * (p.mean(0) ** 2).sum(), "the probabilities twice"),
    (lambda load, p: 6 * (load * p.mean(0)).sum(), "from the input"),
    (lambda load, p: len(load) * load * p.mean(0), "a single number is wanted"),
    (lambda load, p: 1.0, "the value differs"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_BALANCES, ids=[hint for _, hint in WRONG_BALANCES])
def test_a_wrong_balancing_loss_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_A1_3, wrong)


WRONG_CHOICES = [
    (lambda measured, allowed: 0, "whether or not it is good enough"),
    (lambda measured, allowed: max(row["budget"] or 0 for row in measured), "48 is within what is allowed"),
    (lambda measured, allowed: 32, "with allowed_loss=0.1 it should choose 48, not 32"),
    (lambda measured, allowed: min(measured, key=lambda row: row["tokens"]), "not the row"),
    (lambda measured, allowed: min(row["budget"] for row in measured), "raised TypeError"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_CHOICES, ids=[hint for _, hint in WRONG_CHOICES])
def test_a_wrong_choice_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_A1_4, wrong)


MEASURED = [{"budget": 0, "right": 0.2, "tokens": 20.0}, {"budget": 64, "right": 0.8, "tokens": 60.0}]
REPORT = {"budget": 64, "cases": 40, "right": 0.85, "tokens": 59.0, "median_seconds": 0.2}


@pytest.mark.parametrize(
    ("changed", "said_of_it"),
    [
        ({}, "Solved!"),
        ({"cases": 5}, "take 20 at least"),
        ({"budget": 48}, "48 was not tried offline"),
        ({"right": 0.2}, "too far apart"),
        ({"tokens": 200.0}, "the budget did not reach the server"),
    ],
)
def test_the_capstone_is_checked(changed, said_of_it, capsys):
    assert said_of_it in said(capsys, checks.capstone_A1, MEASURED, REPORT | changed, solution("ex4"))


def test_the_capstone_is_not_solved_by_the_stand_in_budget(capsys):
    stub = {}
    exec(CELLS["ex4"], stub)
    printed = said(capsys, checks.capstone_A1, MEASURED, REPORT, stub["choose_budget"])
    assert "Not solved yet" in printed and "solve exercise 4" in printed


# ---------------------------------------------------------------------------------------------- the recipe


@pytest.fixture(scope="module")
def recipe():
    import train_tiny_models

    return train_tiny_models


@pytest.fixture(scope="module")
def tokenizer(recipe):
    return recipe.build_tokenizer(recipe.CONTEXT)


def test_the_exercises_are_what_the_training_does(recipe, tokenizer, monkeypatch):
    """Exercise 1 is the recipe's split, exercise 2 its targets, exercise 3 the balancing part of its loss."""
    import tiny_data

    pairs = [(a, b) for a in range(1, 60) for b in range(1, 60)]
    assert [solution("ex1")(*pair) for pair in pairs] == [tiny_data.held_out(*pair) for pair in pairs]

    encoded = []
    original = recipe.encode
    monkeypatch.setattr(recipe, "encode", lambda *given: encoded.append(original(*given)) or encoded[-1])
    chunks = list(recipe.batches(3, tokenizer))
    wanted = sorted([token for token in solution("ex2")(*sample) if token != -100] for sample in encoded)
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
    sum(solution("ex3")(load[layer], logits[layer].float().softmax(-1)) for layer in range(len(load))).backward()
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


# ---------------------------------------------------------------------------------------------- copy-me


def run_copy_me(tmp_path, **variables):
    script = tmp_path / "copied.py"
    script.write_text(CELLS["copy-me"], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    command = [sys.executable, "-I", script]
    return subprocess.run(command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True)


@pytest.mark.slow
def test_copy_me_cell_says_when_there_is_no_server(tmp_path):
    done = run_copy_me(tmp_path, BASE_URL="http://127.0.0.1:9/v1")
    assert done.returncode == 0 and done.stdout.startswith("No server at http://127.0.0.1:9/v1"), done.stderr


@pytest.mark.slow
def test_copy_me_cell_measures_what_a_budget_saves(tmp_path, server):
    free = run_copy_me(tmp_path, BASE_URL=server.base_url)
    cut = run_copy_me(tmp_path, BASE_URL=server.base_url, THINKING_BUDGET="4")
    assert free.returncode == cut.returncode == 0, free.stderr + cut.stderr
    tokens = [int(done.stdout.split(" tokens an answer")[0].split()[-1]) for done in (free, cut)]
    assert tokens[1] < tokens[0]
