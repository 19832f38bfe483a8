"""Lesson 05: its sampling is vLLM's, its copy-me cell stands alone."""

import ast
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from helpers import engine
from helpers.lessons import l05
from helpers.lessons.l05.exercises import tiny_tokenizer
from tools.lessons.source import parse, read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "05_offline_generation.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


def test_a_request_that_goes_wrong_ends_in_a_line(capsys):
    def warns():
        warnings.warn("cut short", stacklevel=1)

    l05.outcome("a", lambda: 1 / 0)
    l05.outcome("b", warns)
    l05.outcome("c", lambda: None)
    assert capsys.readouterr().out == "a: ZeroDivisionError: division by zero\nb: ok. cut short\nc: ok. \n"


def test_every_fourth_question_is_a_long_sum():
    questions = l05.questions(8)
    assert [question.count("+") for question in questions] == [9, 0, 0, 0] * 2
    assert [question.count("×") for question in questions] == [0, 1, 1, 1] * 2
    assert questions == l05.questions(9)[:8] and all(question.endswith("=?") for question in questions)


def solution(key):
    names = {"torch": torch}
    exec(CELLS[f"{key}-solution"], names)
    return names


def test_the_solution_is_the_helpers_top_p():
    from helpers.qwen import keep_top_p

    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    for top_p in (0.1, 0.8, 0.95):
        assert torch.equal(solution("ex3")["top_p_filter"](logits, top_p), keep_top_p(logits, top_p))


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [(0.6, 20, 0.95, 0.0), (0.7, 5, 0.8, 0.0), (2.0, 0, 1.0, 0.1), (1.3, 7, 0.5, 0.02)])
def test_the_lessons_order_is_vllms(chosen):
    """``sampled`` against vLLM's own filters, which its sampler calls in this order."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    source = next(node for node in parse(CELLS["draws"]).body if isinstance(node, ast.FunctionDef))
    names = {}
    exec("from helpers.qwen import keep_min_p, keep_top_k, keep_top_p\n" + ast.unparse(source), names)
    temperature, top_k, top_p, min_p = chosen
    logits = torch.randn(3, 60, generator=torch.Generator().manual_seed(1)).mul(3).log_softmax(-1)
    scaled = logits / temperature
    probabilities = scaled.softmax(-1)
    scaled[probabilities < min_p * probabilities.amax(-1, keepdim=True)] = -torch.inf  # vLLM's MinPLogitsProcessor
    k = torch.full((3,), top_k or 60)
    expected = apply_top_k_top_p_pytorch(scaled, k, torch.full((3,), top_p)).softmax(-1)
    found = names["sampled"](logits, temperature, top_k, top_p, min_p)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected)


OFF, ON = "<think>\n\n</think>\n\n", "<think>\n"  # what a template may write at the beginning of the last turn


def output_of(text, opening="", question="12?"):
    """What vLLM returns for a prompt with that last turn: the ids of both."""
    tokenizer = tiny_tokenizer()
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
    tokenizer, output = tiny_tokenizer(), output_of(*case)
    assert names["split"](output, tokenizer) == expected
    thinking, answer, _ = engine.split(output, tokenizer)
    assert ((thinking or "").replace("</think>", ""), answer) == expected


def test_thinking_is_off_by_a_flag_of_the_server_and_not_by_a_template():
    texts = {cell.key: cell.text for cell in LESSON.cells if cell.kind == "markdown"}
    for lang in ("zh", "en"):
        assert "--default-chat-template-kwargs '{\"enable_thinking\": false}'" in texts["off-text"][lang]
        assert "--chat-template" not in texts["off-text"][lang].replace("--default-chat-template-kwargs", "")
        assert "FlashInfer" in texts["recap"][lang]
    assert "chat_template=" not in CELLS["off"]
