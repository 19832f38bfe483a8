"""Lesson 04: its exercises tell right from wrong, its blocks equal the helper's, its text says what its cells find."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NO_WARNING, ROOT
from lesson_source import read_lesson

from helpers import CourseError, checks, language, models, plots, qwen, routing

LESSON = read_lesson(ROOT / "notebooks" / "source" / "04_moe_routing.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


@pytest.fixture(scope="module")
def lesson():
    """The names that the cells with definitions leave behind; their solutions replace the stubs."""
    names = {}
    for key in ("setup", "inputs", "router-figure", "route", "block", "layouts", "shared", "global"):
        exec(CELLS[key], names)
    for key in ("ex1", "ex2", "ex3", "ex4"):
        exec(CELLS[f"{key}-solution"], names)
    return SimpleNamespace(**names)


def said(capsys, check, solution) -> str:
    capsys.readouterr()
    assert check(solution) is None
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2
    return printed


# ---------------------------------------------------------------------------------------------- exercises

EXERCISES = {
    "ex1": (checks.exercise_04_1, "choose_experts"),
    "ex2": (checks.exercise_04_2, "run_experts"),
    "ex3": (checks.exercise_04_3, "expert_parameters"),
    "ex4": (checks.exercise_04_4, "load_balancing_loss"),
}


@pytest.mark.parametrize("key", EXERCISES)
def test_solution_passes_and_stub_does_not(key, lesson, capsys):
    check, name = EXERCISES[key]
    assert "Solved!" in said(capsys, check, getattr(lesson, name))
    stub = {}
    exec(CELLS[key], stub)
    printed = said(capsys, check, stub[name])
    assert "还没有解出来" in printed and "Not solved yet" in printed and "raised" not in printed


def route(logits, k, dim=-1, norm=True, scores=None):
    weights, ids = (logits.softmax(dim) if scores is None else scores(logits)).topk(k)
    return (weights / weights.sum(-1, keepdim=True) if norm else weights), ids


WRONG_ROUTERS = {
    "one step is missing": lambda logits, k: route(logits, k, norm=False),
    "over the tokens": lambda logits, k: route(logits, k, dim=0),
    "from the logits themselves": lambda logits, k: route(logits, k, scores=lambda x: x),
    "the other way round": lambda logits, k: route(logits, k)[::-1],
    "not the chosen experts": lambda logits, k: (route(logits, k)[0], route(-logits, k)[1]),
    "the weights differ": lambda logits, k: route(logits, k, scores=torch.sigmoid),
    "two tensors are wanted": lambda logits, k: route(logits, k)[0],
    "shape should be (6, 3), it is (6, 5)": lambda logits, k: route(logits, 5),
    "three steps": lambda logits, k: (..., ...),
}


@pytest.mark.parametrize("hint", WRONG_ROUTERS)
def test_a_wrong_router_is_named(hint, capsys):
    assert hint in said(capsys, checks.exercise_04_1, WRONG_ROUTERS[hint])


def test_a_softmax_over_the_chosen_is_right_too(capsys):
    def choose(logits, k):
        scores, ids = logits.topk(k)
        return scores.softmax(-1), ids

    assert "Solved!" in said(capsys, checks.exercise_04_1, choose)


def run_experts(tokens, weights, ids, experts, output=None, add=True, weighted=True, slots=None, swapped=False):
    output = torch.zeros_like(tokens) if output is None else output
    for expert in range(len(experts)):
        token, slot = torch.where(ids == expert)
        if slots is not None:
            token, slot = token[slot < slots], slot[slot < slots]
        if swapped:
            token, slot = slot, token.clamp(max=1)
        rows = experts[expert](tokens[token])
        rows = rows * weights[token, slot, None] if weighted else rows
        if add:
            output.index_add_(0, token, rows)
        else:
            output[token] = rows
    return output


def over_tokens(tokens, weights, ids, experts):
    rows = [
        sum(w * experts[e](token[None])[0] for w, e in zip(row, chosen, strict=True))
        for token, row, chosen in zip(tokens, weights, ids, strict=True)
    ]
    return torch.stack(rows)


WRONG_LOOPS = {
    "routing weights are missing": lambda *given: run_experts(*given, weighted=False),
    "overwrote earlier ones": lambda *given: run_experts(*given, add=False),
    "first expert only": lambda *given: run_experts(*given, slots=1),
    "gives the token first": lambda *given: run_experts(*given, swapped=True),
    "start the output from zeros": lambda *given: run_experts(*given, output=given[0]),
    "once each is enough": over_tokens,
    "shape should be (5, 3), it is (4, 3)": lambda *given: run_experts(*given)[:4],
    "a tensor is wanted, this is float": lambda *given: 1.0,
}


@pytest.mark.parametrize("hint", WRONG_LOOPS)
def test_a_wrong_loop_is_named(hint, capsys):
    assert hint in said(capsys, checks.exercise_04_2, WRONG_LOOPS[hint])


def expert_counts(config, matrices=3, layers=True, width="moe_intermediate_size"):
    one = matrices * config["hidden_size"] * config[width] * (config["num_hidden_layers"] if layers else 1)
    return one * config["num_experts"], one * config["num_experts_per_tok"]


WRONG_COUNTS = {
    "this is one layer": lambda config: expert_counts(config, layers=False),
    "three matrices, not two": lambda config: expert_counts(config, matrices=2),
    "width of a dense layer": lambda config: expert_counts(config, width="intermediate_size"),
    "the other way round": lambda config: expert_counts(config)[::-1],
    "num_experts_per_tok of the experts only": lambda config: expert_counts(config)[:1] * 2,
    "two numbers are wanted": lambda config: expert_counts(config)[0],
    "Qwen3-235B-A22B does not give (28991029248, 1811939328)": lambda config: (28991029248, 1811939328),
}


@pytest.mark.parametrize("hint", WRONG_COUNTS)
def test_wrong_expert_parameters_are_named(hint, capsys):
    assert hint in said(capsys, checks.exercise_04_3, WRONG_COUNTS[hint])


def balance(logits, k, times=None, choices=None, mean=True, counted=True, of_chosen=False, both=False):
    p = logits.softmax(-1)
    n, experts = p.shape
    ids = p.topk(k).indices
    f = torch.bincount(ids.flatten(), minlength=experts) / (choices or n) if counted else p.mean(0)
    if of_chosen:
        p = torch.zeros_like(p).scatter(1, ids, p.gather(1, ids))
    return (experts if times is None else times) * (f * (f if both else p.mean(0) if mean else p.sum(0))).sum()


WRONG_LOSSES = {
    "times the number of experts": lambda logits, k: balance(logits, k, times=1),
    "not by the number of choices": lambda logits, k: balance(logits, k, choices=k * len(logits)),
    "f is divided by the number of tokens": lambda logits, k: balance(logits, k, choices=1),
    "both divided": lambda logits, k: balance(logits, k, choices=1, mean=False),
    "not the probabilities": lambda logits, k: balance(logits, k, counted=False),
    "chosen or not": lambda logits, k: balance(logits, k, of_chosen=True),
    "counts have no gradient": lambda logits, k: balance(logits, k, both=True),
    "a tensor is wanted, for its gradient": lambda logits, k: balance(logits, k).item(),
    "its gradient is lost": lambda logits, k: balance(logits, k).detach(),
    "do without .detach()": lambda logits, k: torch.tensor(balance(logits, k).item()),
    "torch.no_grad()": torch.no_grad()(balance),
    "the value differs": lambda logits, k: balance(logits, k) + 1,
}


@pytest.mark.parametrize("hint", WRONG_LOSSES)
def test_a_wrong_loss_is_named(hint, capsys):
    assert hint in said(capsys, checks.exercise_04_4, WRONG_LOSSES[hint])


def test_the_loss_is_that_of_transformers(lesson):
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    for top_k in (1, 2, 4):
        torch.testing.assert_close(
            lesson.load_balancing_loss(logits, top_k), load_balancing_loss_func((logits,), 6, top_k)
        )
    parts = logits.split([10, 40])  # of unequal length: the counts of all tokens decide
    micro, overall = lesson.both_losses(parts, 2)
    torch.testing.assert_close(micro, torch.stack([lesson.load_balancing_loss(part, 2) for part in parts]).mean())
    torch.testing.assert_close(overall, lesson.load_balancing_loss(logits, 2))
    assert abs(micro - overall) > 1e-3


# ---------------------------------------------------------------------------------------------- taught code


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_taught_block_equals_the_helpers(shared, seed, lesson):
    generator = torch.Generator().manual_seed(seed)
    config = qwen.QwenConfig(
        vocab_size=50,
        hidden_size=16 + 4 * seed,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        qk_norm=not shared,
        qkv_bias=shared,
        num_experts=5 + seed,
        num_experts_per_tok=1 + seed,
        moe_intermediate_size=12,
        norm_topk_prob=not shared,
        shared_expert_intermediate_size=20 if shared else 0,
    )
    taught = (lesson.Qwen2SparseMoeBlock if shared else lesson.SparseMoeBlock)(config)
    for parameter in taught.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    helper = qwen.SparseMoeBlock(config)
    state = {f"layers.0.mlp.{name}": tensor for name, tensor in helper.state_dict().items()}
    views = qwen.checkpoint_views(config, state, packed=False)
    with torch.no_grad():
        for name, tensor in taught.state_dict().items():
            views.pop(f"model.layers.0.mlp.{name}").copy_(tensor)
    assert not views
    x = torch.randn(2, 7, config.hidden_size, generator=generator)
    torch.testing.assert_close(taught(x), helper(x), atol=1e-5, rtol=1e-5)


def test_a_broken_block_would_be_noticed(lesson):
    """The cell that swaps the blocks in fails if the taught block forgets to renormalise."""
    names = dict(vars(lesson))
    broken = CELLS["block"].replace("self.norm_topk_prob)", "False)")
    assert broken != CELLS["block"]
    exec(broken, names)
    with pytest.raises(AssertionError):
        exec(CELLS["block-check"], names)
    exec(CELLS["block"], names)
    exec(CELLS["block-check"], names)
    assert all(isinstance(layer.mlp, qwen.SparseMoeBlock) for layer in lesson.model.layers), "the originals are back"


# ---------------------------------------------------------------------------------------------- what the text says


@pytest.mark.slow
def test_the_text_says_what_its_cells_find(lesson, monkeypatch):
    """Sentences of the lesson about the tiny model that a retraining could make wrong."""
    monkeypatch.setattr(language, "LANGUAGE", "zh")  # the prompt for a story is in the page's language
    names = dict(vars(lesson))
    for key in ("map", "training", "association", "causal", "scatter", "consequence"):
        exec(CELLS[key], names)
    trace, found, rise, share = (names[name] for name in ("trace", "found", "rise", "share"))
    assert "".join(trace.texts).endswith("37×46=1702"), "the model answers right"
    heaviest, kinds = trace.expert_ids[:, :, 0], names["kinds"]
    counts = {name: [np.bincount(row[kinds == name], minlength=8) for row in heaviest] for name in set(kinds)}
    assert [counts[name][1].argmax() for name in ("CJK", "Latin", "digit")] == [0, 3, 7]
    assert counts["digit"][1].argsort()[-2:].tolist() == [2, 7]
    assert counts["digit"][0][1] == (kinds == "digit").sum(), "all digits of layer 0"
    assert all(counts[name][0][6] > (kinds == name).sum() / 2 for name in ("CJK", "Latin"))
    first, second = (heaviest[:, place] for place, text in enumerate(trace.texts) if text == "是")
    assert (first == second).tolist() == [True, True, False, False]

    untrained, permuted = found["untrained"], found["permuted"]
    assert (found["trained"] > 1.5 * untrained.max(0)).all()
    assert (untrained.mean(0) > permuted.mean(0)).all() and (untrained.mean(0) < 2 * permuted.mean(0)).all()

    assert (rise < 0.05).mean() > 0.8, "most cells are white"
    by_class = {name: rise[names["present"].index(name)] for name in names["present"]}
    worst = [np.unravel_index(flat, rise.shape) for flat in rise.argsort(axis=None)[:-4:-1]]
    red = {(names["present"][index], place, column) for index, place, column in worst}
    assert red == {("space", 0, 3), ("digit", 2, 6), ("operator", 1, 2)}
    assert all((rise[:, layer, expert] >= 0.05).sum() <= 3 for _, layer, expert in red)
    assert by_class["space"][0, 3].round(2) == 1.12 and by_class["Latin"][0, 3].round(2) == 0.29
    assert by_class["digit"][2, 6].round(2) == by_class["operator"][1, 2].round(2) == 0.51
    load, harm = names["load"], names["change"].mean(-1)
    assert load[1].argmax() == 0 and load[1, 0] == 286 and abs(harm[1, 0]) < 0.001
    assert load[0, 3] == 151 and (load[0] >= 151).sum() == 6 and np.unravel_index(harm.argmax(), harm.shape) == (0, 3)
    assert rise.flat[share.argmax()] < 0.05 and share.max() > 0.9, "one expert is used all the time and not needed"
    for index, layer, expert in worst:
        here, used = names["written"] == names["present"][index], names["took"][layer, expert]
        change = names["change"][layer, expert]
        assert change[here & used].mean() > 0.8 and abs(change[here & ~used].mean()) < 0.01

    everything, less = names["right"].values()
    assert everything == {"product": 20, "sum": 20} and less["product"] <= 4 and less["sum"] <= 8, "arithmetic breaks"
    with routing.expert_off(lesson.model, names["layer"], names["expert"]):
        english = names["answer"]("Tell me a story.")
    for stories in (names["stories"].values(), [names["answer"]("Tell me a story."), english]):
        assert len(stories) == 2 and len(set(stories)) == 1, "the story is not affected"

    gini = {name: routing.gini(load) for name, load in names["loads"].items()}
    assert np.abs(gini["off"][0] - gini["on"][0]).max() < 0.01, "the same start"
    assert gini["off"][0].round(2).min() == 0.43 and gini["off"][0].round(2).max() == 0.56
    assert gini["off"][:20].max() > 0.7 and gini["on"][:20].max() > 0.7
    last = {name: load[-20:].mean(0) for name, load in names["loads"].items()}
    assert routing.gini(last["on"]).max().round(2) <= 0.11
    assert np.abs(routing.gini(last["off"]) - gini["off"][0]).max() < 0.12, "about where it began"
    assert (last["off"] < 0.01).any() and last["on"].min() > 0.05
    assert max(load.max() for load in last.values()) < 0.5, "no expert has everything"


def test_shares_are_recovered_from_the_running_average(lesson):
    """Steps with known shares, averaged and kept as the training does it, and taken apart again by the cell."""
    names = dict(vars(lesson), np=np)
    exec(CELLS["training"], names)
    draw, average, kept, wanted = np.random.default_rng(0), np.full((2, 4), 0.25), [], []
    for record in range(6):
        share = draw.dirichlet(np.ones(4), size=2)  # the same in the steps of one record
        for _ in range(1 if record == 0 else 5):
            average = 0.9 * average + 0.1 * share
        kept.append(average)
        wanted.append(share)
    names["length"] = 6
    assert names["shares"]({"load": np.array(kept)}) == pytest.approx(np.array(wanted), abs=1e-9)


def test_a_model_that_is_no_qwen3_moe_is_refused(monkeypatch):
    monkeypatch.setenv(models.MOE_VARIABLE, "qwen3-tiny")
    with pytest.raises(CourseError, match="needs a Qwen3-MoE, and qwen3-tiny is qwen3"):
        exec(CELLS["setup"], {})


def test_the_release_cell_lets_go_of_the_model():
    import weakref

    names = {}
    for key in ("setup", "inputs", "router-figure", "route", "block", "block-check"):
        exec(CELLS[key], names)
    watched = weakref.ref(names["model"])
    exec(CELLS["release"], names)
    assert watched() is None


def test_the_balance_records_start_alike():
    runs = [np.load(ROOT / "assets" / "traces" / f"moe_balance_{name}.npz") for name in ("off", "on")]
    for run in runs:
        assert run["load"].shape == (len(run["step"]), 4, 8) and run["loss"].shape == run["step"].shape
        assert np.allclose(run["load"].sum(-1, dtype=float), 1, atol=0.01)
    assert runs[0]["loss"][0] == pytest.approx(runs[1]["loss"][0], rel=1e-3), "the same weights and data at the start"


# ---------------------------------------------------------------------------------------------- recording


def test_the_recorded_trace_is_what_its_command_makes(tmp_path, capsys):
    output = tmp_path / "trace.npz"
    assert routing.main(["--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{output}: ") and "4 layers, " in said
    made, kept = (routing.RoutingTrace.load(path) for path in (output, routing.recorded_path("qwen3-moe-tiny")))
    same, difference = routing.agreement(made, kept)
    assert same >= 0.99 and difference <= 1e-2
    assert kept.provenance["model"] == "qwen3-moe-tiny" and kept.texts[kept.prompt_length] == "<think>"
    classes = {routing.token_class(text) for text in kept.texts}
    assert {"CJK", "Latin", "digit", "operator"} <= classes, "a mixed conversation"


def test_a_real_model_is_recorded_where_the_lesson_looks(tmp_path, monkeypatch, capsys):
    """The way of the recipe, with a copy of the tiny model in the place of Qwen3-30B-A3B."""
    import shutil

    from helpers.explorer import RoutingExplorer

    shutil.copytree(models.find_checkpoint("qwen3-moe-tiny"), tmp_path / "Qwen3-30B-A3B")
    monkeypatch.setattr(models, "ROOT", tmp_path)
    assert routing.recorded_path("Qwen/Qwen3-30B-A3B") == tmp_path / "assets/recorded/Qwen3-30B-A3B/routing.npz"
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    names = {"models": models, "routing": routing, "RoutingExplorer": RoutingExplorer, "say": language.say}
    exec(CELLS["recorded"], names)
    assert "not recorded yet" in capsys.readouterr().out and shown == []
    assert routing.main([str(tmp_path / "Qwen3-30B-A3B"), "--questions", "3+4=?"]) == 0
    capsys.readouterr()
    exec(CELLS["recorded"], names)
    assert capsys.readouterr().out == "" and shown[0].trace.provenance["model"] == "Qwen3-30B-A3B"
    assert shown[0].trace.provenance["dtype"] == "bfloat16"


def test_models_that_cannot_be_recorded_are_refused(capsys):
    for model, word in (("qwen3-tiny", "no experts"), ("Qwen/Qwen3-30B-A3B", "python -m helpers.download")):
        assert routing.main([model]) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 2 and word in error
    with pytest.raises(CourseError, match="asked no question"):
        routing.capture_conversation(None, None, [])


# ---------------------------------------------------------------------------------------------- figures, copy-me


@NO_WARNING
def test_one_token_as_a_figure():
    trace = routing.RoutingTrace.load(routing.recorded_path("qwen3-moe-tiny"))
    drawn = plots.token_routes(trace, token=90, row=2)
    grid, load = drawn.axes[:2]
    written = {(round(t.get_position()[1] - 0.5), round(t.get_position()[0] - 0.5)): t.get_text() for t in grid.texts}
    wanted = {
        (layer, int(expert)): f"{weight:.2f}"
        for layer in range(4)
        for expert, weight in zip(trace.expert_ids[layer, 90], trace.weights[layer, 90].astype(float), strict=True)
    }
    assert written == wanted
    assert [bar.get_height() for bar in load.patches] == routing.expert_load(trace)[2].tolist()
    assert plots.png(drawn).startswith(b"\x89PNG")


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
def test_copy_me_cell_runs_alone(tmp_path):
    done = run_copy_me(tmp_path, COURSE_MOE_MODEL=str(models.find_checkpoint("qwen3-moe-tiny")))
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"layer {layer}" for layer in range(4)]
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
