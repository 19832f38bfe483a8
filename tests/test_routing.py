"""helpers/routing.py, and what appendix A2 makes of traces: captures against each other, refused files,
statistics that can be worked out by hand."""

import io
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from conftest import NO_WARNING

from helpers import ROOT, CourseError, catalogue, engine, figures, models, routing, tokens
from helpers.checkpoint import Checkpoint
from helpers.experts import expert_off
from helpers.lessons import lA2
from helpers.routing import RoutingTrace

PROMPT = (
    "<|im_start|>user\n请计算 12 + 35 = ？ Then say hello to 小明 🙂 in two words.<|im_end|>\n<|im_start|>assistant\n"
    "12 + 35 = 47，你好！ Hello there.<|im_end|>\n"
    "<|im_start|>user\n天空为什么是蓝色的？ Why is the sky blue?<|im_end|>\n"
)
# The engines run in float32: in bfloat16 they round at different places, and a near tie between two experts falls to
# either (benchmarks/moe.py counts how often).
WEIGHT_TOLERANCE = 0.01


def make_trace(expert_ids, pieces=None, prompt_length=0, num_experts=4, weights=None, entropy=None):
    """A trace from a nested list (layers, tokens, top_k), with equal weights unless they are given."""
    ids = np.array(expert_ids, np.uint8)
    tokens = ids.shape[1]
    if weights is None:
        weights = np.full(ids.shape, 1 / ids.shape[2], np.float16)
    return RoutingTrace(
        token_ids=np.arange(tokens, dtype=np.int32),
        pieces=tuple(pieces or [b"x"] * tokens),
        prompt_length=prompt_length,
        layers=tuple(range(len(ids))),
        expert_ids=ids,
        weights=weights,
        entropy=entropy,
        num_experts=num_experts,
        provenance={"model": "made by hand"},
    )


def refused(action, *arguments, word=""):
    """The two sentences of the CourseError that the action raises."""
    with pytest.raises(CourseError) as caught:
        action(*arguments)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and word in lines[1], lines
    return lines


# ---------------------------------------------------------------------------------------------- capture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The architecture of qwen3-moe-tiny with random weights: how routing is captured does not depend on them."""
    from helpers.lessons.lA1 import build_tokenizer, recipe
    from tools.tiny_models.train import export

    folder, tokenizer = tmp_path_factory.mktemp("moe"), build_tokenizer(recipe.CONTEXT)
    export(recipe.build_model("qwen3-moe-tiny", tokenizer), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def reference(folder):
    import torch

    from helpers.qwen import load_model

    return load_model(folder, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def answered(reference, tokenizer):
    """The prompt and an answer to it, from the reference model."""
    return routing.capture_reference(reference, tokenizer, PROMPT, max_new_tokens=24)


def assert_captures_agree(a, b):
    found = routing.agreement(a, b)
    assert found.same_sets >= 0.99
    assert found.weight_difference <= WEIGHT_TOLERANCE
    same = (np.sort(a.expert_ids) == np.sort(b.expert_ids)).all(-1)
    assert np.abs(a.entropy[same].astype(float) - b.entropy[same]).max() < 0.05


def test_a_trace_holds_what_the_model_read(answered, reference, tokenizer):
    config = reference.config
    prompt = tokenizer.encode(PROMPT)
    assert answered.token_ids[: answered.prompt_length].tolist() == prompt
    assert len(prompt) < len(answered.token_ids) <= len(prompt) + 23  # the last of 24 tokens is not read
    assert answered.expert_ids.shape == (config.num_hidden_layers, len(answered.pieces), config.num_experts_per_tok)
    assert answered.renormalised is config.norm_topk_prob
    assert b"".join(answered.pieces[: len(prompt)]).decode() == PROMPT
    # Heaviest first, and an entropy between 0 and that of equal chances.
    assert (np.diff(answered.weights.astype(float)) <= 0).all()
    assert answered.entropy.min() >= 0 and answered.entropy.max() <= np.log(config.num_experts) + 0.01


def test_an_expert_that_is_off_gets_no_token_and_the_others_stay(answered, reference, tokenizer):
    layer, tokens = 1, answered.token_ids.tolist()
    expert = int(routing.expert_load(answered)[layer].argmax())
    with expert_off(reference, layer, expert):
        without = routing.capture_reference(reference, tokenizer, tokens)
    assert routing.expert_load(without)[layer, expert] == 0
    assert (without.expert_ids[0] == answered.expert_ids[0]).all(), "the layer before is as it was"
    spared = ~(answered.expert_ids[layer] == expert).any(-1)
    assert spared.any() and (without.expert_ids[layer, spared] == answered.expert_ids[layer, spared]).all()
    again = routing.capture_reference(reference, tokenizer, tokens)
    assert (again.expert_ids == answered.expert_ids).all(), "the expert is back after the block"
    refused(expert_off(reference, layer, 8).__enter__, word="no expert 8")
    refused(expert_off(reference, 9, 0).__enter__, word="in layer 9")


def test_traces_of_several_texts_as_one():
    a, b = make_trace([[[0, 1], [2, 3]]], pieces=[b"a", b"b"]), make_trace([[[3, 0]]], pieces=[b"c"])
    both = lA2.concatenate([a, b])
    assert both.texts == ["a", "b", "c"] and both.entropy is None
    assert (routing.expert_load(both) == routing.expert_load(a) + routing.expert_load(b)).all()
    refused(lA2.concatenate, [a, make_trace([[[3, 0]]], num_experts=5)], word="cannot be joined")


def test_generating_and_reading_route_alike(answered, reference, tokenizer):
    """One token at a time with a cache, or all at once: the same routing."""
    assert_captures_agree(answered, routing.capture_reference(reference, tokenizer, answered.token_ids.tolist()))


def test_hooks_are_gone_after_a_capture(reference, answered):
    assert not any(layer.mlp.router._forward_hooks for layer in reference.layers)


def test_transformers_agrees(answered, folder, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    assert_captures_agree(answered, routing.capture_transformers(model, tokenizer, answered.token_ids.tolist()))
    again = routing.capture_transformers(model, tokenizer, PROMPT, max_new_tokens=3)
    assert 0 < len(again.token_ids) - again.prompt_length <= 2
    assert not any(layer.mlp.gate._forward_hooks for layer in model.model.layers)


def test_a_router_that_chooses_otherwise_is_noticed(folder, tokenizer):
    """What is recorded is compared with what the block used."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    gate = model.model.layers[1].mlp.gate
    gate.register_forward_hook(lambda module, inputs, output: (output[0], output[1], output[2].flip(-1)))
    with pytest.raises(RuntimeError, match="layer 1"):
        routing.capture_transformers(model, tokenizer, PROMPT)


@pytest.mark.large
@pytest.mark.network
def test_transformers_4_layout(answered, folder, tmp_path):
    """In transformers 4.57 the gate is a linear layer, and the experts are modules."""
    wanted = ["transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"]
    packages, saved = tmp_path / "packages", tmp_path / "trace.npz"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, *wanted]
    subprocess.run(install, check=True)
    script = (
        "import sys, transformers\n"
        "from helpers import routing\n"
        "assert transformers.__version__.startswith('4.57.')\n"
        "folder, saved, ids = sys.argv[1], sys.argv[2], [int(i) for i in sys.argv[3].split(',')]\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype='float32')\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(folder)\n"
        "routing.capture_transformers(model, tokenizer, ids).save(saved)\n"
        "model.config.num_experts_per_tok -= 1\n"  # the blocks go on with the number that they were made with
        "try: routing.capture_transformers(model, tokenizer, ids)\n"
        "except RuntimeError as error: sys.exit(0 if 'routes otherwise' in str(error) else 1)\n"
        "sys.exit('a block that routes otherwise was not noticed')\n"
    )
    ids = ",".join(str(token) for token in answered.token_ids)
    environment = os.environ | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", script, folder, saved, ids], check=True, env=environment)
    assert_captures_agree(answered, RoutingTrace.load(saved))


@pytest.mark.slow
def test_vllm_agrees(answered, folder):
    with engine.open_engine(folder, enable_prefix_caching=False, dtype="float32") as llm:
        assert_captures_agree(answered, routing.capture_vllm(llm, answered.token_ids.tolist()))
        written = routing.capture_vllm(llm, PROMPT, max_new_tokens=8)
        assert 0 < len(written.token_ids) - written.prompt_length <= 7
        refused(routing.capture_vllm_gpu, llm, PROMPT, word="enable_return_routed_experts")
    with engine.open_engine(folder) as llm:
        refused(routing.capture_vllm, llm, PROMPT, word="enable_prefix_caching=False")
        cache, size = llm.llm_engine.vllm_config.cache_config, engine.sized_options(folder)["kv_cache_memory_bytes"]
        per_block = catalogue.kv_bytes_per_token(Checkpoint(folder).config) * cache.block_size
        assert cache.num_gpu_blocks == size // per_block > 0


def test_a_dense_model_and_an_empty_prompt_are_refused(reference, tokenizer):
    from helpers.qwen import load_model

    refused(routing.capture_reference, reference, tokenizer, "", word="empty")
    dense = load_model(models.find_checkpoint("qwen3-tiny"), device="cpu")
    refused(routing.capture_reference, dense, tokenizer, "hello", word="no experts")


# ---------------------------------------------------------------------------------------------- the trace and its file


def test_pieces_of_one_character_belong_together():
    pieces = [
        b"a",
        *(bytes([byte]) for byte in "🙂".encode()),
        "好".encode(),
        b"\xe5\xa5",
        b"\xbd!",
        b"\xcc",
        b"b",
        b"\xe4",
    ]
    trace = make_trace([[[0, 1]] * len(pieces)], pieces)
    assert trace.characters == [(0, 1), (1, 5), (5, 6), (6, 8), (8, 9), (9, 10), (10, 11)]
    assert trace.texts[0] == "a" and trace.texts[1] == "\N{REPLACEMENT CHARACTER}"


def test_an_id_without_a_token_has_no_text(tokenizer):
    """The output matrix may have more rows than the tokenizer has tokens, as in the real Qwen3."""
    beyond = len(tokenizer)
    assert tokens.pieces(tokenizer, [*tokenizer.encode("好"), beyond]) == ("好".encode(), b"")


def test_every_bit_of_a_token_is_shown():
    assert tokens.shown(b" a\n\t") == "␣a↵⇥"
    assert tokens.shown(b"\xe4\xbd") == "<E4><BD>"
    assert tokens.shown("\u200f\u202e\u200b".encode()) == "<U+200F><U+202E><U+200B>"
    assert tokens.shown(b"</script>") == "</script>"


@pytest.mark.parametrize("with_weights", [True, False])
def test_what_is_saved_is_loaded(tmp_path, with_weights):
    pieces = (b"<|im_start|>", b"\xe4", b"\xbd\xa0", b"")
    entropy = np.ones((2, 4), np.float16) if with_weights else None
    trace = make_trace([[[3, 1]] * 4, [[0, 2]] * 4], pieces, prompt_length=2, entropy=entropy)
    if not with_weights:
        trace = replace(trace, weights=None)
    trace.save(tmp_path / "trace.npz")
    loaded = RoutingTrace.load(tmp_path / "trace.npz")
    for name in ("token_ids", "expert_ids", "weights", "entropy"):
        before, after = getattr(trace, name), getattr(loaded, name)
        assert (before is None and after is None) or (np.array_equal(before, after) and before.dtype == after.dtype)
    for name in ("pieces", "prompt_length", "layers", "num_experts", "provenance"):
        assert getattr(trace, name) == getattr(loaded, name)
    assert [path.name for path in tmp_path.iterdir()] == ["trace.npz"]


def test_a_trace_of_qwen3_30b_is_small(tmp_path):
    """48 layers x 2,048 tokens x 8 of 128 experts, at random, so that nothing can be compressed away."""
    draw = np.random.default_rng(0)
    ids = draw.random((48, 2048, 128)).argsort(-1)[..., :8]
    weights = -np.sort(-draw.dirichlet(np.ones(8), (48, 2048))).astype(np.float16)
    entropy = draw.random((48, 2048)).astype(np.float16)
    make_trace(ids, num_experts=128, weights=weights, entropy=entropy).save(tmp_path / "trace.npz")
    assert (tmp_path / "trace.npz").stat().st_size < 4_000_000


def changed_file(trace, **changes):
    """The bytes of the trace's file with some of its arrays replaced."""
    file = io.BytesIO()
    arrays = {
        "version": np.array(routing.FILE_VERSION),
        "token_ids": trace.token_ids,
        "piece_bytes": np.frombuffer(b"".join(trace.pieces), np.uint8),
        "piece_lengths": np.array([len(piece) for piece in trace.pieces]),
        "prompt_length": np.array(trace.prompt_length),
        "layers": np.array(trace.layers),
        "expert_ids": trace.expert_ids,
        "num_experts": np.array(trace.num_experts),
        "provenance": np.frombuffer(b"{}", np.uint8),
        "weights": trace.weights,
    }
    np.savez_compressed(file, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return file.getvalue()


def test_damaged_files_are_refused(tmp_path):
    trace = make_trace([[[3, 1]] * 40, [[0, 2]] * 40])
    whole, path = changed_file(trace), tmp_path / "trace.npz"
    path.write_bytes(whole)
    RoutingTrace.load(path)  # the file that the cases below spoil is a good one
    spoiled = {
        "truncated": [whole[:length] for length in (0, 1, 100, len(whole) // 2, len(whole) - 1)],
        "other content": [b"not a trace"],
        "lengths": [changed_file(trace, piece_lengths=np.array([-1, 41])), changed_file(trace, piece_lengths=None)],
        "pickle": [changed_file(trace, token_ids=np.array([{}] * 40, dtype=object))],
        "provenance": [changed_file(trace, provenance=np.frombuffer(b"[]", np.uint8))],
    }
    for case, contents in spoiled.items():
        for content in contents:
            path.write_bytes(content)
            lines = refused(RoutingTrace.load, path, word="complete")
            assert str(path) in lines[0], case
    refused(RoutingTrace.load, tmp_path / "missing.npz", word="no trace")
    path.write_bytes(changed_file(trace, version=np.array(2)))
    refused(RoutingTrace.load, path, word="version 2")


def test_every_flipped_byte_is_refused_or_harmless(tmp_path):
    """No damage surfaces as anything but the one sentence."""
    trace, path = make_trace([[[3, 1]] * 40]), tmp_path / "trace.npz"
    whole = changed_file(trace)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            loaded = RoutingTrace.load(path)
        except CourseError:
            continue
        assert np.array_equal(loaded.expert_ids, trace.expert_ids)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"expert_ids": np.full((1, 3, 2), [4, 0], np.uint8)}, "not within 0 and 3"),
        ({"expert_ids": np.full((1, 3, 2), [-1, 0], np.int8)}, "not within 0 and 3"),
        ({"expert_ids": np.full((1, 3, 2), 1, np.uint8)}, "twice"),
        ({"expert_ids": np.full((1, 4, 2), [1, 0], np.uint8)}, "length"),
        ({"expert_ids": np.full((1, 3, 2), [1.0, 0.0])}, "kinds"),
        ({"weights": np.full((1, 3, 1), 1, np.float16)}, "length"),
        ({"weights": np.full((1, 3, 2), np.nan, np.float16)}, "not a number"),
        ({"weights": np.full((1, 3, 2), 0.9, np.float16)}, "more than 1"),
        ({"prompt_length": np.array(4)}, "length"),
        ({"token_ids": np.array([1, 2, -3])}, "not within"),
    ],
)
def test_contents_that_make_no_sense_are_refused(tmp_path, changes, word):
    trace, path = make_trace([[[0, 1]] * 3]), tmp_path / "trace.npz"
    path.write_bytes(changed_file(trace, **changes))
    assert path.name in refused(RoutingTrace.load, path, word=word)[0]
    refused(lambda: replace(trace, **changes), word=word)


# ---------------------------------------------------------------------------------------------- statistics


def test_load_and_its_unevenness():
    trace = make_trace([[[0, 1], [0, 2], [0, 1], [0, 2]], [[0, 1], [2, 3], [1, 0], [3, 2]]])
    load = routing.expert_load(trace)
    assert load.tolist() == [[4, 2, 2, 0], [2, 2, 2, 2]]
    assert routing.gini(load) == pytest.approx([0.375, 0])
    assert lA2.coefficient_of_variation(load) == pytest.approx([np.sqrt(2) / 2, 0])
    assert lA2.never_used(load) == pytest.approx([0.25, 0])
    assert routing.gini(np.array([0, 0, 0, 9])) == pytest.approx(0.75)  # one expert gets everything: (n - 1) / n


def test_association_stands_beside_chance():
    pieces = [b"7", "好".encode()] * 32
    by_class = [[0, 2], [1, 2]] * 32  # layer 0: the class decides the first expert; layer 1: it does not
    trace = make_trace([by_class, [[0, 1], [0, 1], [1, 0], [1, 0]] * 16], pieces)
    trace = replace(trace, token_ids=np.arange(64))  # every token occurs once
    untrained = replace(make_trace([[[0, 1]] * 64] * 2, pieces), token_ids=np.arange(64))
    found = lA2.class_association(trace, [untrained, trace], permutations=50)
    assert found["trained"] == pytest.approx([1, 0], abs=1e-9)
    assert found["permuted"].shape == (50, 2) and found["permuted"][:, 0].mean() < 0.1
    assert found["untrained"][0].tolist() == [0, 0]  # one expert for all tokens tells nothing
    assert np.array_equal(found["untrained"][1], found["trained"])
    assert np.array_equal(found["permuted"], lA2.class_association(trace, permutations=50)["permuted"])
    assert "untrained" not in lA2.class_association(trace, permutations=1)
    refused(lA2.class_association, trace, [replace(untrained, token_ids=np.arange(1, 65))], word="different tokens")


def test_a_permutation_keeps_every_occurrence_of_a_token_in_one_class():
    """Two tokens, two classes: to swap them changes nothing, so chance is as high as the routing itself."""
    pieces = [b"7", "好".encode()] * 32
    trace = replace(make_trace([[[0, 2], [1, 2]] * 32], pieces), token_ids=np.array([5, 9] * 32))
    found = lA2.class_association(trace, permutations=20)
    assert found["permuted"] == pytest.approx(np.ones((20, 1)))


def test_losses_of_what_the_model_wrote(answered):
    """The last written tokens are the likeliest ones; the first loss belongs to the first token after the prompt."""
    import torch

    from helpers import qwen

    model = qwen.load_model(models.find_checkpoint("qwen3-moe-tiny"), dtype=torch.float32)
    losses = lA2.written_losses(model, [answered, answered])
    ids, start = torch.tensor(answered.token_ids.astype(int)), answered.prompt_length
    written = len(ids) - start
    assert losses.shape == (2 * written,) and np.array_equal(losses[:written], losses[written:])
    with torch.inference_mode():
        probabilities = model(ids[None])[0].log_softmax(-1)
    expected = [-probabilities[place - 1, ids[place]].item() for place in range(start, len(ids))]
    assert losses[:written] == pytest.approx(expected, abs=1e-4)


def test_agreement():
    a = make_trace([[[0, 1], [2, 3]]], weights=np.array([[[0.75, 0.25], [0.5, 0.5]]], np.float16))
    b = make_trace([[[1, 0], [2, 1]]], weights=np.array([[[0.5, 0.5], [0.5, 0.5]]], np.float16))
    assert routing.agreement(a, a) == (1.0, 0.0)
    assert routing.agreement(a, b) == (0.5, 0.25)  # the order within a set does not count, the weights go by expert
    assert routing.agreement(a, replace(b, weights=None)) == (0.5, None)
    refused(routing.agreement, a, replace(b, token_ids=np.array([5, 6])), word="different tokens")
    refused(routing.agreement, a, replace(b, layers=(7,)), word="layers")


# ---------------------------------------------------------------------------------------------- figures


def test_the_font_covers_what_the_tiny_models_write_and_the_traces():
    from matplotlib.font_manager import get_font

    assert figures.CHINESE_FONT.stat().st_size <= 500_000
    assert (figures.CHINESE_FONT.parent / "OFL.txt").is_file()
    rooms = ROOT / "helpers" / "lessons"
    sources = [rooms / "texts.toml", *(path for path in rooms.glob("lA1/*.py") if path.stem != "exercises")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    for path in ROOT.glob("assets/**/routing*.npz"):
        text += b"".join(RoutingTrace.load(path).pieces).decode("utf-8", "ignore")
    chinese = {character for character in text if "\u4e00" <= character <= "\u9fff"}
    assert len(chinese) > 500
    assert not {
        character for character in chinese if ord(character) not in get_font(figures.CHINESE_FONT).get_charmap()
    }


@NO_WARNING  # a missing glyph is a warning of matplotlib's
def test_figures_show_every_token(answered):
    drawn = lA2.routing_map(answered)
    labels = [label.get_text() for ax in drawn.axes for label in ax.get_xticklabels()]
    assert labels == [figures.printable(piece) for piece in answered.pieces[: len(labels)]]
    assert "算" in labels or "计算" in labels
    numbers = [text.get_text() for text in drawn.axes[0].texts]
    assert numbers[: lA2.TOKENS_PER_ROW] == [str(i) for i in answered.expert_ids[0, : lA2.TOKENS_PER_ROW, 0]]
    assert figures.png(drawn).startswith(b"\x89PNG")
    load = lA2.load_histograms(answered)
    heights = [bar.get_height() for ax in load.axes for bar in ax.patches]
    assert heights == routing.expert_load(answered).flatten().tolist()
    figures.png(load)


@NO_WARNING
def test_figures_survive_any_token():
    pieces = [
        b"$x$",
        "龘".encode(),
        "\u202eabc".encode(),
        b"\xe4",
        "🙂".encode(),
        b"\\alpha",
        b"",
        "\u0e01\u0e34".encode(),
    ]
    assert [figures.printable(piece) for piece in pieces[:4]] == [r"\$x\$", "<E9><BE><98>", "<U+202E>abc", "<E4>"]
    trace = make_trace([[[0, 1]] * len(pieces)], pieces, prompt_length=3)
    figures.png(lA2.routing_map(replace(trace, weights=None)))


def test_the_file_is_a_zip_of_numbers(tmp_path):
    make_trace([[[0, 1]] * 3]).save(tmp_path / "trace.npz")
    with zipfile.ZipFile(tmp_path / "trace.npz") as archive:
        for name in archive.namelist():
            assert np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False).dtype.kind in "iuf"
