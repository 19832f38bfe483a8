"""Lesson 04: its router and its loop are the model's, its paper row is right, its text says what its cells find."""

import os
import re
import subprocess
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NO_WARNING, ROOT, small_config

from helpers import CourseError, figures, language, models, qwen, routing
from helpers.explorer.routing import token_routes
from helpers.lessons import l04
from helpers.lessons.l04.record import main, recorded_path
from helpers.lessons.lA2 import token_class
from tools.lessons.source import read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "04_moe_routing.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
TEXTS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "markdown"}


def after(*keys):
    """The names that these cells leave behind."""
    names = {}
    for key in ("setup", *keys):
        exec(CELLS[key], names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def lesson():
    """The names of the cells up to the two solutions, which stand in the place of the stubs."""
    return after("experts", "paper", "router", "ex1-solution", "ex2-solution")


# ---------------------------------------------------------------------------------------------- taught code


@pytest.mark.parametrize("seed", range(3))
def test_taught_router_and_loop_equal_the_helpers_block(seed, lesson):
    generator = torch.Generator().manual_seed(seed)
    config = small_config(
        hidden_size=16 + 4 * seed,
        num_experts=5 + seed,
        num_experts_per_tok=1 + seed,
        moe_intermediate_size=12,
        norm_topk_prob=True,
    )
    helper = qwen.SparseMoeBlock(config).requires_grad_(False)
    for parameter in helper.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)

    def run(expert):
        matrices = helper.experts.gate_up_proj[expert], helper.experts.down_proj[expert]
        return lambda rows: qwen.swiglu(rows, *matrices)

    x = torch.randn(2, 7, config.hidden_size, generator=generator)
    tokens = x.flatten(0, 1)
    weights, ids = lesson.choose_experts(tokens @ helper.router.weight.T, config.num_experts_per_tok)
    output = lesson.run_experts(tokens, weights, ids, [run(expert) for expert in range(config.num_experts)])
    torch.testing.assert_close(output.view_as(x), helper(x), atol=1e-5, rtol=1e-5)


def test_the_solutions_go_into_the_ready_model_and_wrong_ones_do_not(lesson, capsys):
    """The cell puts in what the learner wrote once it is right, else the reference answers; then it tidies up."""
    names = dict(vars(lesson))
    exec(CELLS["plug"], names)
    printed = capsys.readouterr().out
    assert names["router"] is lesson.choose_experts and names["loop"] is lesson.run_experts
    assert "router: yours" in printed or "你的" in printed
    assert "37×46=1702<|im_end|>" in printed
    names |= {"choose_experts": lambda *case: ..., "run_experts": lambda *case: ...}
    exec(CELLS["plug"], names)
    assert names["router"] is l04.ex1.right and names["loop"] is l04.ex2.right
    assert all(isinstance(layer.mlp, qwen.SparseMoeBlock) for layer in lesson.model.layers), "the originals are back"


def test_a_wrong_router_would_be_noticed(lesson, monkeypatch):
    """The cell fails if what it plugs in does not renormalise; the ready model is whole again all the same."""
    monkeypatch.setattr(l04, "yours_or_ours", lambda router, loop: (lambda *case: qwen.route(*case, False), loop))
    with pytest.raises(AssertionError):
        exec(CELLS["plug"], dict(vars(lesson)))
    assert torch.equal(lesson.model(lesson.input_ids), lesson.logits)


def test_an_expert_of_the_lesson_is_one_of_the_model(lesson):
    rows = lesson.tokens[:3]
    experts = lesson.model.layers[2].mlp.experts
    wanted = qwen.swiglu(rows, experts.gate_up_proj[5], experts.down_proj[5])
    torch.testing.assert_close(lesson.expert(2, 5, rows), wanted)


# ---------------------------------------------------------------------------------------------- what the text says


def test_the_scores_on_paper_are_those_that_torch_computes(lesson):
    text = TEXTS["paper-text"]
    assert ", ".join(f"{score:.0f}" for score in lesson.scores.tolist()) in text
    powers = lesson.scores.exp()
    for said in (powers.tolist(), (powers / powers.sum()).tolist()):
        assert ", ".join(f"{number:.2f}".removesuffix(".00") for number in said) in text
    largest = lesson.probabilities.topk(2).values
    weights = largest / largest.sum()
    assert f"{powers.sum():.2f}" in text and f"{largest.sum():.2f}: {weights[0]:.2f} and {weights[1]:.2f}" in text


@pytest.mark.slow
def test_the_text_says_what_its_cells_find(capsys):
    """Sentences about the tiny model that a retraining could make wrong; --check compares the numbers."""
    lesson = after("experts", "router", "tools", "explorer")
    assert lesson.expert_ids.shape == (15, 2) and len(lesson.expert_ids.unique()) == 8, "30 choices, 8 experts"
    assert "".join(lesson.trace.texts).endswith("37×46=1702"), "the model answers right"
    heaviest = lesson.trace.expert_ids[:, :, 0]
    first, second = (heaviest[:, place] for place, text in enumerate(lesson.trace.texts) if text == "是")
    assert (first == second).tolist() == [True, True, False, False]
    printed = capsys.readouterr().out
    assert "(0, 1) 42 / 42" in printed and "(2, 6) 19 / 42" in printed
    exec(CELLS["off"], vars(lesson))
    one, other = re.split(r"^.*\(2, 6\)", capsys.readouterr().out, flags=re.MULTILINE)
    assert "37×40=1480" in one and "37×46=1702" in one, "what every digit chooses is not needed"
    assert "37×40=1480" not in other and "37×46=" in other and "1702" not in other, "what few choose is"


def test_a_model_that_is_no_qwen3_moe_is_refused(monkeypatch):
    monkeypatch.setenv(models.MOE_VARIABLE, "qwen3-tiny")
    with pytest.raises(CourseError, match="needs a Qwen3-MoE, and qwen3-tiny is qwen3"):
        exec(CELLS["setup"], {})


def test_the_release_cell_lets_go_of_the_model():
    names = {}
    for key in ("setup", "experts", "router", "ex1-solution", "ex2-solution", "plug"):
        exec(CELLS[key], names)
    watched = weakref.ref(names["model"])
    exec(CELLS["release"], names)
    assert watched() is None


# ---------------------------------------------------------------------------------------------- recording


def test_the_recorded_trace_is_what_its_command_makes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    output = tmp_path / "trace.npz"
    assert main(["--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{output}: ") and "4 layers, " in said
    made, kept = (routing.RoutingTrace.load(path) for path in (output, recorded_path("qwen3-moe-tiny")))
    same, difference = routing.agreement(made, kept)
    assert same >= 0.99 and difference <= 1e-2
    assert kept.provenance["model"] == "qwen3-moe-tiny" and kept.texts[kept.prompt_length] == "<think>"
    classes = {token_class(text) for text in kept.texts}
    assert {"CJK", "Latin", "digit", "operator"} <= classes, "a mixed conversation"


def test_a_real_model_is_recorded_where_the_lesson_looks(tmp_path, monkeypatch, capsys):
    """The way of the recipe, with a copy of the tiny model in the place of Qwen3-30B-A3B."""
    import shutil

    from helpers.explorer import RoutingExplorer

    shutil.copytree(models.find_checkpoint("qwen3-moe-tiny"), tmp_path / "Qwen3-30B-A3B")
    monkeypatch.setattr("helpers.lessons.l04.record.ROOT", tmp_path)
    assert recorded_path("Qwen/Qwen3-30B-A3B") == tmp_path / "assets/recorded/Qwen3-30B-A3B/routing.npz"
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    names = {"ROOT": tmp_path, "routing": routing, "RoutingExplorer": RoutingExplorer, "say": language.say}
    exec(CELLS["recorded"], names)
    assert "not recorded yet" in capsys.readouterr().out and shown == []
    assert main([str(tmp_path / "Qwen3-30B-A3B"), "--questions", "3+4=?"]) == 0
    capsys.readouterr()
    exec(CELLS["recorded"], names)
    assert capsys.readouterr().out == "" and shown[0].trace.provenance["model"] == "Qwen3-30B-A3B"
    assert shown[0].trace.provenance["dtype"] == "bfloat16"


def test_models_that_cannot_be_recorded_are_refused(capsys):
    for model, word in (("qwen3-tiny", "no experts"), ("Qwen/Qwen3-30B-A3B", "python -m helpers.download")):
        assert main([model]) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 2 and word in error
    with pytest.raises(CourseError, match="asked no question"):
        routing.capture_conversation(None, None, [])


# ---------------------------------------------------------------------------------------------- figures, copy-me


@NO_WARNING
def test_one_token_as_a_figure():
    trace = routing.RoutingTrace.load(recorded_path("qwen3-moe-tiny"))
    drawn = token_routes(trace, token=90, row=2)
    grid, load = drawn.axes[:2]
    written = {tuple(map(round, text.get_position()[::-1])): text.get_text() for text in grid.texts}
    wanted = {
        (layer, int(expert)): f"{weight:.2f}".removeprefix("0")
        for layer in range(4)
        for expert, weight in zip(trace.expert_ids[layer, 90], trace.weights[layer, 90].astype(float), strict=True)
    }
    assert written == wanted
    assert [bar.get_height() for bar in load.patches] == routing.expert_load(trace)[2].tolist()
    assert figures.png(drawn).startswith(b"\x89PNG")


def run_copy_me(tmp_path, **variables):
    script = tmp_path / "copied.py"
    script.write_text(CELLS["copy-me"], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    return subprocess.run(
        [sys.executable, "-I", script],
        cwd=tmp_path,
        env=environment | {"MPLBACKEND": "agg"} | variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_copy_me_cell_says_when_there_are_no_experts(tmp_path):
    done = run_copy_me(tmp_path, COURSE_MOE_MODEL=str(models.find_checkpoint("qwen3-tiny")))
    assert done.returncode == 0 and "has no experts: it is a dense model." in done.stdout
    done = run_copy_me(tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("No config.json in Qwen/Qwen3-30B-A3B")


def test_copy_me_counts_what_the_trace_counts(lesson):
    names = {"__name__": "copied"}
    exec(CELLS["copy-me"], names)
    found = names["expert_load"](str(models.find_checkpoint("qwen3-moe-tiny")), names["TEXT"])
    reference = qwen.load_model(models.find_checkpoint("qwen3-moe-tiny"), dtype=torch.bfloat16, device="cpu")
    counted = routing.expert_load(routing.capture_reference(reference, lesson.tokenizer, names["TEXT"]))
    assert found.sum() == counted.sum() and np.abs(found.numpy() - counted).sum() <= 0.02 * counted.sum()
