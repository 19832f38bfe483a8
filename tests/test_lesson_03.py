"""Lesson 03: its attention is the library's, its paper row is right, its copy-me cell stands alone."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, small_config

from helpers import models, qwen
from helpers.lessons import l03
from tools.lessons.source import read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "03_architecture.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.cells if cell.kind == "code"}


def after(*keys):
    """The names that these cells leave behind."""
    names = {}
    for key in ("setup", *keys):
        exec(CELLS[key], names)
    return SimpleNamespace(**names)


# ---------------------------------------------------------------------------------------------- taught code


@pytest.mark.parametrize("seed", range(3))
def test_taught_attention_equals_the_helpers(seed):
    attention = after("rope", "ex2-solution").attention
    generator = torch.Generator().manual_seed(seed)
    config = small_config(hidden_size=20 + 4 * seed, num_attention_heads=3 * (seed + 1), num_key_value_heads=3)
    helper = qwen.Attention(config, 0)
    for parameter in helper.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, 7, config.hidden_size, generator=generator) / 10
    tables = qwen.rope_tables(torch.arange(7)[None], qwen.rope_frequencies(8, 1e4))
    heads = helper.qkv_proj(x).unflatten(-1, (-1, 8)).transpose(1, 2)  # (batch, heads, seq, head_dim)
    query, key, value = heads.split(helper.heads, dim=1)
    output = attention(query, key, value, helper.q_norm, helper.k_norm, *tables)
    torch.testing.assert_close(
        helper.o_proj(output.transpose(1, 2).flatten(2)), helper(x, *tables), atol=1e-5, rtol=1e-5
    )


@pytest.mark.slow
def test_the_solution_goes_into_the_ready_model_and_a_wrong_one_does_not(capsys):
    """The cell puts in what the learner wrote once it is right, and the reference answer until then."""
    lesson = after("write", "rope", "ex2-solution", "plug")
    assert lesson.yours is lesson.attention
    assert torch.allclose(lesson.mine(lesson.tokens).logits, lesson.model(lesson.tokens).logits, atol=1e-4)
    assert "1702" in lesson.tokenizer.decode(lesson.write(lesson.mine, lesson.tokens, 100)[0, -5:])
    capsys.readouterr()
    assert l03.yours_or_ours(lambda *case: ...) is l03.ex2.right
    assert "the reference answer" in capsys.readouterr().out


def test_the_row_on_paper_is_the_one_that_torch_computes():
    lesson = after("four-lines")
    [text] = [cell.text["en"] for cell in LESSON.cells if cell.key == "paper-text"]
    scores = (lesson.query @ lesson.key.T)[2]
    powers = (scores / 2**0.5).exp()
    weights = powers / powers.sum()
    for said in (scores.tolist(), (scores / 2**0.5).tolist(), powers.tolist(), weights.tolist()):
        assert ", ".join(f"{number:.2f}".removesuffix(".00") for number in said) in text
    assert f"({', '.join(f'{number:.2f}' for number in (weights @ lesson.value).tolist())})" in text


@pytest.mark.slow
def test_the_picked_head_looks_where_the_lesson_says(capsys):
    """If the tiny model is trained again, the lesson has to pick another head."""
    [text] = [cell.text["en"] for cell in LESSON.cells if cell.key == "groups-text"]
    lesson = after("write", "head")
    assert lesson.texts[-10:] == list("37×40=1480")
    assert "-> 4 0.97" in capsys.readouterr().out
    for row, looks in ((-5, -7), (-4, -10), (-3, -9)):
        assert lesson.weights[row].argmax() == len(lesson.texts) + looks
        assert f"{lesson.weights[row, looks]:.2f}" in text and f"`{lesson.texts[looks]}`" in text


# ---------------------------------------------------------------------------------------------- copy-me


def run_copy_me(tmp_path, **variables):
    script = tmp_path / "copied.py"
    script.write_text(CELLS["copy-me"], encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    return subprocess.run(
        [sys.executable, "-I", script], cwd=tmp_path, env=environment | variables, capture_output=True, text=True
    )


@pytest.mark.slow
def test_copy_me_cell_says_what_a_checkpoint_lacks(tmp_path):
    folder = models.find_checkpoint("qwen3-tiny")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_bytes((folder / "config.json").read_bytes())
    done = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path / "half"))
    assert "has no safetensors files" in done.stdout and "QK-norm" not in done.stdout
    (tmp_path / "half" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    done = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path / "half"))
    assert done.returncode == 0 and "is damaged: download it again." in done.stdout, done.stderr
    done = run_copy_me(tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("No config.json in Qwen/Qwen3-8B")


@pytest.mark.slow
def test_copy_me_cell_is_not_misled_by_a_pointer(tmp_path):
    """Of a git-lfs pointer, the first 8 bytes would be a header of 2.3 EB."""
    folder = models.find_checkpoint("qwen3-tiny")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    done = run_copy_me(tmp_path, COURSE_MODEL=str(tmp_path))
    assert done.returncode == 0 and "is damaged: download it again." in done.stdout, done.stderr
