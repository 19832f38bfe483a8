"""Lesson A5: its cache arithmetic is vLLM's, and a wrong formula in it is seen by the cell's own proof."""

import pytest
from conftest import ROOT

from tools.lessons.source import read_lesson

LESSON = read_lesson(ROOT / "notebooks" / "source" / "A5_after_qwen3.py")
CELLS = {cell.key: cell.text["en"] for cell in LESSON.code_cells}
WRONG = {
    "every layer has KV": ("cache", "full = config.num_hidden_layers - linear", "full = config.num_hidden_layers"),
    "one convolution for q and k": ("cache", "columns * (2 * keys", "columns * (keys"),
    "a state without its keys": ("cache", "values * config.linear_key_head_dim * 4", "values * 4"),
    "keys as long as they come": ("delta", "F.normalize(k, dim=-1)", "k"),
    "no decay": ("delta", "alpha[t, :, None, None] * S", "S"),
    "adds, corrects nothing": ("delta", 'v[t] - torch.einsum("hkv,hk->hv", S, k[t])', "v[t]"),
    "the weight as in Qwen3": ("norm", "1 + norm.weight", "norm.weight"),
    "no output valve": ("attention", " * valve.flatten(1).sigmoid()", ""),
    "no RoPE": ("attention", "= apply_rope(part[..., :turned], cos, sin)", "*= 1"),
    "a shared expert without its valve": ("shared", "valve * block", "block"),
}


@pytest.fixture(scope="module")
def names():
    """What the lesson's cells define; the figure is drawn by the run of the lesson."""
    import transformers

    verbosity, defined = transformers.logging.get_verbosity(), {}
    for key, code in CELLS.items():
        if key != "figure":
            exec(code, defined)
    transformers.logging.set_verbosity(verbosity)
    return defined


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_formula_is_seen(mistake, names):
    key, right, wrong = WRONG[mistake]
    assert CELLS[key].count(right) == 1
    with pytest.raises(AssertionError):
        exec(CELLS[key].replace(right, wrong), dict(names))


def test_real_sizes(names, capsys):
    """Blocks of 784 and 1,056 tokens are what vLLM printed in public logs of runs on GPUs."""
    assert names["cached"]["Qwen3.6-27B"] == (65_536, 153_944_064)
    assert names["cached"]["Qwen3.5-35B-A3B"] == (20_480, 64_389_120)
    assert names["cached"]["Qwen3-8B"] == (147_456, 0) and names["cached"]["Qwen3-30B-A3B"] == (98_304, 0)
    exec(CELLS["sizes"], dict(names))
    blocks = [line.split()[-1] for line in capsys.readouterr().out.splitlines()]
    assert blocks == ["16", "16", "784", "1,056", "1,879"]


@pytest.mark.slow
def test_the_state_has_vllms_shapes(names):
    from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator

    for name in ("Qwen3.6-27B", "Qwen3.5-35B-A3B"):
        config = names["configs"][name]
        heads = config.linear_num_key_heads, config.linear_num_value_heads
        widths = config.linear_key_head_dim, config.linear_value_head_dim, config.linear_conv_kernel_dim
        (rows, columns), state = MambaStateShapeCalculator.gated_delta_net_state_shape(1, *heads, *widths)
        bytes_a_layer = rows * columns * 2 + state[0] * state[1] * state[2] * 4
        assert names["cached"][name][1] == config.layer_types.count("linear_attention") * bytes_a_layer
