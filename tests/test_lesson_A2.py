"""Appendix A2: its blocks equal the helper's, its text says what its cells find."""

import ast
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, small_config

from helpers import language, qwen, routing
from helpers.experts import expert_off
from helpers.lessons import lA2
from tools.lessons.source import parse, read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "A2_experts_in_depth.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


@pytest.fixture(scope="module")
def lesson():
    """The names that the cells with definitions leave behind; their solutions replace the stubs."""
    names = {}
    for key in ("setup", "inputs", "route", "block", "layouts", "shared", "global"):
        exec(CELLS[key], names)
    for key in ("ex1", "ex2"):
        exec(CELLS[f"{key}-solution"], names)
    return SimpleNamespace(**names)


# ---------------------------------------------------------------------------------------------- exercises


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
    config = small_config(
        hidden_size=16 + 4 * seed,
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
    block = ast.unparse(parse(CELLS["block"]))
    broken = block.replace("self.norm_topk_prob)", "False)")
    assert broken != block
    exec(broken, names)
    with pytest.raises(AssertionError):
        exec(CELLS["block-check"], names)
    exec(CELLS["block"], names)
    exec(CELLS["block-check"], names)
    assert all(isinstance(layer.mlp, qwen.SparseMoeBlock) for layer in lesson.model.layers), "the originals are back"


# ---------------------------------------------------------------------------------------------- what the text says


@pytest.mark.slow
def test_the_text_says_what_its_cells_find(lesson, monkeypatch):
    """Sentences of the lesson about the tiny model that a retraining could make wrong; --check compares the numbers."""
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

    untrained, permuted = found["untrained"], found["permuted"]
    assert (found["trained"] > 1.5 * untrained.max(0)).all()
    assert (untrained.mean(0) > permuted.mean(0)).all() and (untrained.mean(0) < 2 * permuted.mean(0)).all()

    assert (rise < 0.05).mean() > 0.8, "most cells are white"
    worst = lA2.largest(rise, 3)
    red = {(names["present"][index], place, column) for index, place, column in worst}
    assert red == {("space", 0, 3), ("digit", 2, 6), ("operator", 1, 2)}
    assert all((rise[:, layer, expert] >= 0.05).sum() <= 3 for _, layer, expert in red)
    assert rise[names["present"].index("Latin"), 0, 3] > 0.05, "English suffers from the same expert"
    load, harm = routing.expert_load(names["corpus"]), names["change"].mean(-1)
    assert load[1].argmax() == 0 and abs(harm[1, 0]) < 0.001, "the busiest of its layer is not needed"
    assert (load[0] >= load[0, 3]).sum() == 6 and np.unravel_index(harm.argmax(), harm.shape) == (0, 3)
    assert rise.flat[share.argmax()] < 0.05 and share.max() > 0.9, "one expert is used all the time and not needed"
    for index, layer, expert in worst:
        here, used = names["written"] == names["present"][index], names["took"][layer, expert]
        change = names["change"][layer, expert]
        assert change[here & used].mean() > 0.8 and abs(change[here & ~used].mean()) < 0.01

    everything, less = names["right"].values()
    assert everything == {"product": 20, "sum": 20} and less["product"] <= 4 and less["sum"] <= 8, "arithmetic breaks"
    with expert_off(lesson.model, names["layer"], names["expert"]):
        english = names["answer"]("Tell me a story.")
    for stories in (names["stories"].values(), [names["answer"]("Tell me a story."), english]):
        assert len(stories) == 2 and len(set(stories)) == 1, "the story is not affected"

    gini = {name: routing.gini(load) for name, load in names["loads"].items()}
    assert np.abs(gini["off"][0] - gini["on"][0]).max() < 0.01, "the same start"
    assert gini["off"][:20].max() > 0.7 and gini["on"][:20].max() > 0.7
    last = {name: load[-20:].mean(0) for name, load in names["loads"].items()}
    assert routing.gini(last["on"]).max().round(2) <= 0.11
    assert np.abs(routing.gini(last["off"]) - gini["off"][0]).max() < 0.12, "about where it began"
    assert (last["off"] < 0.01).any() and last["on"].min() > 0.05
    assert max(load.max() for load in last.values()) < 0.5, "no expert has everything"


def test_the_models_that_it_counts_have_these_experts():
    """What the table says of a model is what transformers builds: on the meta device, without memory."""
    import transformers

    for name, config in lA2.CONFIGS.items():
        with torch.device("meta"):
            built = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
        in_experts = sum(weight.numel() for key, weight in built.named_parameters() if ".experts." in key)
        assert lA2.ex1.right(config)[0] == in_experts, name


def test_shares_are_recovered_from_the_running_average():
    """Steps with known shares, averaged and kept as the training does it, and taken apart again."""
    draw, average, kept, wanted = np.random.default_rng(0), np.full((2, 4), 0.25), [], []
    for record in range(6):
        share = draw.dirichlet(np.ones(4), size=2)  # the same in the steps of one record
        for _ in range(1 if record == 0 else 5):
            average = 0.9 * average + 0.1 * share
        kept.append(average)
        wanted.append(share)
    assert lA2.shares(np.array(kept)) == pytest.approx(np.array(wanted), abs=1e-9)


def test_the_largest_are_found_in_their_order():
    values = np.array([[3.0, 9.0, 1.0], [7.0, 0.0, 8.0]])
    assert lA2.largest(values, 3) == [(0, 1), (1, 2), (1, 0)]


def test_the_release_cell_lets_go_of_the_model():
    names = {}
    for key in ("setup", "inputs", "route", "block", "block-check"):
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
