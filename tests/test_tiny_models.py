"""The tiny models' files, tokenizer, chat template, training data and training: what the lessons build on."""

import hashlib
import json
import random

import pytest

from helpers import models
from helpers.checkpoint import Checkpoint
from helpers.lessons import lA1
from helpers.lessons.lA1.tool_calls import CALCULATOR
from helpers.lessons.lA2 import TOKEN_CLASSES
from helpers.lessons.texts import texts

# Lessons quote these weights' behaviour: new weights mean new recordings.
WEIGHTS = {
    "qwen3-tiny": "c629f607c50d69fe341f2deac7a73e86a97ce67e388084a8cea0533b8b386379",
    "qwen3-moe-tiny": "61fb4468546675ff7d38be65c75bdf25296bd41f69956806bc799fec5ba9511e",
}
HISTORY = [
    {"role": "user", "content": "23×31=?"},
    {"role": "assistant", "content": "<think>\nolder\n</think>\n\n713"},
    {"role": "user", "content": "再加 10 呢？"},
]
CALL = {"function": {"name": "calculator", "arguments": {"expression": "37*46"}}}


@pytest.fixture(scope="module", params=WEIGHTS)
def folder(request):
    return models.BUNDLED / request.param


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def render(tokenizer):
    def apply(messages, add_generation_prompt=True, **options):
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **options
        )

    return apply


# ---- files ---------------------------------------------------------------------------------------------------------


def test_the_weights_are_the_ones_the_lessons_were_recorded_with(folder):
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert found == WEIGHTS[folder.name]


def test_a_checkpoint_has_the_hub_layout_and_its_traps_are_explicit(folder):
    config = Checkpoint(folder).config
    moe = folder.name == "qwen3-moe-tiny"
    assert config["architectures"] == ["Qwen3MoeForCausalLM" if moe else "Qwen3ForCausalLM"]
    assert (
        config["rope_theta"] == 1_000_000 and config["attention_bias"] is False and config["torch_dtype"] == "bfloat16"
    )
    assert config["num_attention_heads"] * config["head_dim"] != config["hidden_size"]
    assert config["max_position_embeddings"] >= 2048
    if moe:
        assert config["num_experts"] >= 8 and config["num_experts_per_tok"] == 2 and config["norm_topk_prob"] is True
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["temperature"], generation["top_p"], generation["top_k"]) == (0.6, 0.95, 20)
    assert {"README.md", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= {
        path.name for path in folder.iterdir()
    }


def test_the_models_together_stay_small():
    weights = list(models.BUNDLED.glob("*/*.safetensors"))
    assert {path.parent.name for path in weights} == set(WEIGHTS)
    assert sum(path.stat().st_size for path in weights) < 15_000_000


# ---- tokenizer -----------------------------------------------------------------------------------------------------


def test_the_tokenizer_is_the_one_that_the_script_builds(folder, tokenizer):
    from helpers.lessons.lA1.recipe import CONTEXT

    built = lA1.build_tokenizer(CONTEXT)
    assert built.get_vocab() == tokenizer.get_vocab() and built.chat_template == tokenizer.chat_template
    assert 2000 <= len(built) <= 4096


def test_digits_and_chinese_characters_are_single_tokens_and_anything_round_trips(tokenizer):
    course = "".join(text for entry in texts()["course"] for text in entry["zh"] + entry["zh_answers"])
    characters = sorted({c for c in course if "\u4e00" <= c <= "\u9fff"} | set("0123456789"))
    assert len(characters) > 300
    assert [c for c in characters if len(tokenizer.encode(c)) != 1] == []
    assert tokenizer.tokenize("1702") == ["1", "7", "0", "2"]
    assert len(tokenizer.encode("麟")) == 3, "the lesson's rare character is spelt in bytes"
    alphabet = [chr(c) for c in (*range(1, 0x250), *range(0x4E00, 0x4F00), *range(0x1F600, 0x1F640), 0x200B, 0x202E)]
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choices(alphabet, k=20))
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_have_qwen3s_names_and_are_one_token(tokenizer):
    tags = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
    for token in ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *tags]:
        assert len(tokenizer.encode(token)) == 1, token
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    text = tokenizer.decode(tokenizer.encode("<think>x</think><|im_end|>"), skip_special_tokens=True)
    assert text == "<think>x</think>", "as in Qwen3, the tags stay visible and the turn's end does not"


# ---- chat template: the cases of the model card ---------------------------------------------------------------------


def test_thinking_is_the_default_and_the_model_opens_the_block(render):
    expected = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    message = [{"role": "user", "content": "你好"}]
    assert render(message) == render(message, enable_thinking=True) == expected
    assert render(message, enable_thinking=False) == expected + "<think>\n\n</think>\n\n"
    assert render(message, ensure_thinking=False) == expected, "a wrong keyword is ignored in silence"


def test_there_is_no_default_system_message_and_a_given_one_comes_first(render):
    assert "system" not in render([{"role": "user", "content": "x"}])
    assert render([{"role": "system", "content": "S"}, {"role": "user", "content": "x"}]).startswith(
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"
    )


def test_thinking_of_earlier_turns_is_dropped_with_and_without_the_field(render):
    apart = [HISTORY[0], {"role": "assistant", "content": "713", "reasoning_content": "older"}, HISTORY[2]]
    for messages in (HISTORY, apart):
        text = render(messages)
        assert "older" not in text and "<think>" not in text
        assert "<|im_start|>assistant\n713<|im_end|>\n" in text
    assert render(HISTORY, enable_thinking=False).count("<think>") == 1, "only the last turn gets the empty block"


def test_a_last_assistant_message_keeps_its_thought_or_gets_an_empty_block(render):
    plain = [HISTORY[0], {"role": "assistant", "content": "713"}]
    assert render(plain, add_generation_prompt=False).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n713<|im_end|>\n"
    )
    thought = [HISTORY[0], {"role": "assistant", "content": "713", "reasoning_content": "\nT\n"}]
    assert "<think>\nT\n</think>\n\n713<|im_end|>\n" in render(thought, add_generation_prompt=False)
    other_name = [HISTORY[0], {"role": "assistant", "content": "713", "reasoning": "T"}]
    assert "T" not in render(other_name, add_generation_prompt=False), "the field must be called reasoning_content"


def test_a_tool_chain_keeps_its_thought_and_its_results_share_one_user_turn(render):
    chain = [
        {"role": "user", "content": "37×46=?"},
        {"role": "assistant", "content": "", "reasoning_content": "use it", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "1702"},
        {"role": "tool", "content": "1703"},
    ]
    call = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "37*46"}}\n</tool_call>'
    results = "\n<tool_response>\n1702\n</tool_response>\n<tool_response>\n1703\n</tool_response>"
    assert render(chain) == (
        "<|im_start|>user\n37×46=?<|im_end|>\n<|im_start|>assistant\n<think>\nuse it\n</think>\n\n"
        f"{call}\n{call}<|im_end|>\n<|im_start|>user{results}<|im_end|>\n<|im_start|>assistant\n"
    )
    as_text = [{**CALL, "function": {"name": "calculator", "arguments": '{"expression": "37*46"}'}}]
    chain[1]["tool_calls"] = [CALL, *as_text]
    assert f"{call}\n{call}" in render(chain), "arguments given as text are pasted as they are"
    later = [*chain, {"role": "assistant", "content": "1702"}, {"role": "user", "content": "thanks"}]
    assert "use it" not in render(later), "a new question ends the chain"
    as_user = [*chain[:2], {"role": "user", "content": "<tool_response>\n1702\n</tool_response>"}]
    assert "use it" in render(as_user), "a tool's result in a user turn is no new question"


def test_tools_are_announced_in_a_system_block(render):
    text = render([{"role": "system", "content": "S"}, HISTORY[0]], tools=[CALCULATOR])
    assert text.startswith("<|im_start|>system\nS\n\n# Tools\n")
    assert f"<tools>\n{json.dumps(CALCULATOR)}\n</tools>" in text
    assert render([HISTORY[0]], tools=[CALCULATOR]).startswith("<|im_start|>system\n# Tools\n")


@pytest.mark.parametrize("content", [None, [{"type": "text", "text": "23×31=?"}], {"text": "x"}, 5])
def test_content_that_is_no_text_is_left_out_as_in_qwen3(render, content):
    """Qwen3's template does so since 2025-05-20; a list that is no question starts no new turn of thinking."""
    called = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    tool = {"role": "tool", "content": content}
    for message in (called, tool, HISTORY[0] | {"content": content}):
        chain = [HISTORY[0], message]
        assert render(chain) == render([HISTORY[0], message | {"content": ""}])
    asked = [HISTORY[0], {"role": "assistant", "content": "713", "reasoning_content": "T"}]
    assert "T\n</think>" in render(asked, add_generation_prompt=False)
    assert "T\n</think>" in render([*asked, HISTORY[0] | {"content": content}, asked[1]], add_generation_prompt=False)


def test_without_a_question_nothing_is_thought_about(render):
    alone = [{"role": "assistant", "content": "713", "reasoning_content": "T"}]
    assert render(alone, add_generation_prompt=False) == "<|im_start|>assistant\n713<|im_end|>\n"


# ---- data and training ----------------------------------------------------------------------------------------------


def test_training_never_draws_a_held_out_problem_and_every_step_is_true():
    rng = random.Random(3)
    operations = {"×": "*", "!": "!"}
    seen = 0
    for _ in range(3000):
        sample = lA1.draw(rng)
        if sample.expected is None or sample.task.startswith("tool") or sample.task == "follow-up":
            continue
        seen += 1
        for line in sample.thought.splitlines():
            left, right = line.split("=")
            if not left.endswith("!"):
                for sign, python in operations.items():
                    left, right = left.replace(sign, python), right.replace(sign, python)
                assert eval(left) == eval(right), line
    assert seen > 1000
    for kind in ("product", "sum", "difference", "chain"):
        for _ in range(200):
            assert not lA1.held_out(*lA1.draw_problem(kind, rng, test=False).operands)
            assert lA1.held_out(*lA1.draw_problem(kind, rng, test=True).operands)
    pairs = [(a, b) for a in range(10, 100) for b in range(a, 100) if lA1.held_out(a, b)]
    assert len(pairs) >= 500 and lA1.held_out(46, 37) == lA1.held_out(37, 46)


def test_an_empty_think_block_of_the_template_and_a_forced_end_carry_no_loss(tokenizer):
    from helpers.lessons.lA1.recipe import encode

    opening, closing = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    seen = set()
    for seed in range(300):
        rng = random.Random(seed)
        ids, start, silent = encode(lA1.arithmetic("product", rng), tokenizer, rng)
        written = ids[start:]
        if opening not in written:
            seen.add("non-thinking")
            assert ids[start - 2] == closing or tokenizer.decode(ids[:start]).endswith("</think>\n\n")
        elif silent:
            seen.add("cut")
            assert [ids[index] for index in silent] == [closing]
        else:
            seen.add("whole")
    assert seen == {"non-thinking", "cut", "whole"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3-tiny", pytest.param("qwen3-moe-tiny", marks=pytest.mark.large)])
def test_two_trainings_agree_bit_for_bit_and_a_resumed_one_equals_them(name, tmp_path):
    from tools.tiny_models.train import train

    options = {"name": name, "steps": 100}
    _, _, half = train(folder=tmp_path / "parts", stop_after=4, **options)
    _, _, whole = train(folder=tmp_path / "once", stop_after=8, **options)
    assert half == whole[:4]
    _, _, resumed = train(folder=tmp_path / "parts", stop_after=8, **options)
    assert resumed == whole and len(resumed) == 8
    assert whole[0]["loss"] > whole[-1]["loss"]


# ---- what the models can do: a short form of benchmarks/tiny_models.py ---------------------------------------------


@pytest.mark.large
@pytest.mark.parametrize("name", ["qwen3-tiny", "qwen3-moe-tiny"])
def test_a_tiny_model_does_what_its_card_says(name):
    """Every row of the table with a fifth of the cases: 100 products, 60 sums, 20 follow-ups; two of a row may miss."""
    from benchmarks.tiny_models import measure

    rows = measure(models.find_checkpoint(name), 20)
    few = {row.what for row in rows if row.what.startswith(("follow-up", "tool", "sums, 400"))}
    assert len(few) == 7
    missed = [str(row) for row in rows if not row._replace(value=row.value + 5 * (row.what in few)).reached]
    assert not missed


@pytest.mark.large
def test_the_experts_of_the_moe_differ():
    from benchmarks.tiny_models import measure_experts

    rows, traces = measure_experts(models.find_checkpoint("qwen3-moe-tiny"), 30)
    assert all(row.reached for row in rows), [str(row) for row in rows]
    assert traces["rise"].shape == (len(TOKEN_CLASSES), 4, 8)
