"""Lesson 05: its exercises tell right from wrong, its sampling is vLLM's, its copy-me cell stands alone."""

import ast
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, said
from lesson_source import parse, read_lesson

from helpers import checks, engine

LESSON = read_lesson(ROOT / "notebooks" / "source" / "05_offline_generation.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}
BLOCK = "<think>\n\n</think>\n\n"


def solution(key):
    names = {"torch": torch}
    exec(CELLS[f"{key}-solution"], names)
    return names


@pytest.mark.parametrize(
    ("key", "check", "name"),
    [("ex1", checks.exercise_05_1, "non_thinking_prompt"), ("ex2", checks.exercise_05_2, "top_p_filter")],
)
def test_solution_passes_and_stub_does_not(key, check, name, capsys):
    assert "Solved!" in said(capsys, check, solution(key)[name])
    stub = {}
    exec(CELLS[key], stub)
    printed = said(capsys, check, stub[name])
    assert "还没有解出来" in printed and "Not solved yet" in printed and "raised" not in printed


def written(system, question, default="", think=BLOCK, last="<|im_start|>assistant\n", end="<|im_end|>\n"):
    system = default if system is None else f"<|im_start|>system\n{system}{end}"
    return f"{system}<|im_start|>user\n{question}{end}{last}{think}"


WRONG_PROMPTS = [
    (lambda s, q: written(s, q, think=""), "this prompt still thinks"),
    (lambda s, q: written(s, q, think="<think>\n</think>\n\n"), "only newlines differ"),
    (lambda s, q: written(s, q, end="<|im_end|>"), "only newlines differ"),
    (lambda s, q: written(s, q, last=""), "the assistant's turn is missing"),
    (lambda s, q: written(s or "You are Qwen.", q), "has no default one|no default one"),
    (lambda s, q: written(None, q), "the system message is missing"),
    (lambda s, q: written(s, q) + "<|im_end|>\n", "the last turn does not end"),
    (lambda s, q: written(s, q + " /no_think"), "it should be"),
    (lambda s, q: 3, "a text is wanted, this is int"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_PROMPTS, ids=[hint for _, hint in WRONG_PROMPTS])
def test_a_wrong_prompt_is_named(wrong, hint, capsys):
    assert any(part in said(capsys, checks.exercise_05_1, wrong) for part in hint.split("|"))


def without_the_one_that_crosses(logits, top_p):
    ordered, ids = logits.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.softmax(-1).cumsum(-1) >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter(-1, ids, ordered)


def in_sorted_order(logits, top_p):
    ordered = logits.sort(dim=-1, descending=True).values
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return ordered.masked_fill(before >= top_p, -torch.inf)


def unsorted(logits, top_p):
    before = logits.softmax(-1).cumsum(-1) - logits.softmax(-1)
    return logits.masked_fill(before >= top_p, -torch.inf)


WRONG_TOP_P = [
    (without_the_one_that_crosses, "the token that crosses the line is gone"),
    (in_sorted_order, "the old order is lost"),
    (unsorted, "adds up without sorting"),
    (lambda logits, top_p: logits.masked_fill(logits.softmax(-1) < 1 - top_p, -torch.inf), "compares each"),
    (lambda logits, top_p: solution("ex2")["top_p_filter"](logits, top_p).softmax(-1).log(), "their scores changed"),
    (lambda logits, top_p: logits, "the wrong tokens stay"),
    (lambda logits, top_p: logits[0], "the shape should be (2, 3)"),
]


@pytest.mark.parametrize(("wrong", "hint"), WRONG_TOP_P, ids=[hint for _, hint in WRONG_TOP_P])
def test_a_wrong_top_p_is_named(wrong, hint, capsys):
    assert hint in said(capsys, checks.exercise_05_2, wrong)


def test_the_solution_is_the_helpers_top_p():
    from helpers.qwen import keep_top_p

    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    for top_p in (0.1, 0.8, 0.95):
        assert torch.equal(solution("ex2")["top_p_filter"](logits, top_p), keep_top_p(logits, top_p))


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [(0.6, 20, 0.95, 0.0), (0.7, 5, 0.8, 0.0), (2.0, 0, 1.0, 0.1), (1.3, 7, 0.5, 0.02)])
def test_the_lessons_order_is_vllms(chosen):
    """``next_token`` against vLLM's own filters, which its sampler calls in this order."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    source = next(node for node in parse(CELLS["settings"]).body if isinstance(node, ast.FunctionDef))
    names = {}
    exec("from helpers.qwen import keep_min_p, keep_top_k, keep_top_p\n" + ast.unparse(source), names)
    temperature, top_k, top_p, min_p = chosen
    logits = torch.randn(3, 60, generator=torch.Generator().manual_seed(1)).mul(3).log_softmax(-1)
    scaled = logits / temperature
    probabilities = scaled.softmax(-1)
    scaled[probabilities < min_p * probabilities.amax(-1, keepdim=True)] = -torch.inf  # vLLM's MinPLogitsProcessor
    k = torch.full((3,), top_k or 60)
    expected = apply_top_k_top_p_pytorch(scaled, k, torch.full((3,), top_p)).softmax(-1)
    found = names["next_token"](logits, temperature, top_k, top_p, min_p)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected)


OFF, ON = "<think>\n\n</think>\n\n", "<think>\n"  # what a template may write at the beginning of the last turn


def output_of(text, opening="", question="12?"):
    """What vLLM returns for a prompt with that last turn: the ids of both."""
    tokenizer = checks._tiny_tokenizer()
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{opening}"
    ids, written = (tokenizer.encode(part, add_special_tokens=False) for part in (prompt, text))
    completion = SimpleNamespace(token_ids=written, text=text.replace("<|im_end|>", ""), finish_reason="stop")
    return SimpleNamespace(prompt_token_ids=ids, outputs=[completion])


COPY_ME_SPLITS = [
    (("<think>\n12\n</think>\n\n34<|im_end|>",), ("12", "34")),
    (("<think>\n12</think>3</think>4",), ("123", "4")),
    (("<think>\n12",), ("12", None)),  # cut: no answer, and no tag in the thought
    (("34",), ("", "34")),
    (("34<|im_end|>", OFF), ("", "34")),
    (("12\n</think>\n\n34", ON), ("12", "34")),
    (("12", ON), ("12", None)),  # the template opened the thought
    (("12", ON, "what does </think> mean?"), ("12", None)),
    (("34", "", "what does <think> mean?"), ("", "34")),  # the user's words open nothing
    (("34", OFF, "<think>"), ("", "34")),
]


@pytest.mark.parametrize(("case", "expected"), COPY_ME_SPLITS)
def test_copy_me_split(case, expected):
    """Its split alone, on outputs that need no engine; the helper's says the same."""
    tree = parse(CELLS["copy-me"])
    source = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "split")
    names = {}
    exec(ast.unparse(source), names)
    tokenizer, output = checks._tiny_tokenizer(), output_of(*case)
    assert names["split"](output, tokenizer) == expected
    thinking, answer, _ = engine.split(output, tokenizer)
    assert ((thinking or "").replace("</think>", ""), answer) == expected
