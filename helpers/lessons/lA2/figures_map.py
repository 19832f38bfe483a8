"""The map of appendix A2: which expert every token went to, layer by layer."""

from helpers.design import EXPERTS, LIGHT, ON
from helpers.figures import figure, pale, token_label
from helpers.language import say

TOKENS_PER_ROW = 42


def routing_map(trace, start=0, tokens=2 * TOKENS_PER_ROW):
    """Layer x token of a RoutingTrace: number and colour name the heaviest expert, the filling its weight.

    Shows at most ``tokens`` tokens from ``start`` on, ``TOKENS_PER_ROW`` beside each other.
    """
    stop, layers = min(start + tokens, len(trace.token_ids)), len(trace.layers)
    rows = [(first, min(first + TOKENS_PER_ROW, stop)) for first in range(start, stop, TOKENS_PER_ROW)]
    longest = max(len(token_label(piece)) for piece in trace.pieces[start:stop])
    weight = ("未记录", "not recorded") if trace.weights is None else ("填的高度", "the height of the filling")
    of, model = len(trace.token_ids), trace.provenance.get("model", "?")
    title = say(
        f"数字：一个词元选的 {trace.top_k} 个专家里权重最大的；权重：{weight[0]}。\n"
        f"词元 {start} 到 {stop - 1}，共 {of} 个，{model}",
        f"Heaviest of the {trace.top_k} experts that a token took (number); its weight: {weight[1]}.\n"
        f"Tokens {start} to {stop - 1} of {of}, {model}",
    )
    height = len(rows) * (0.24 * layers + 0.4 + 0.08 * longest) + 0.5 + 0.2 * title.count("\n")
    drawn, axes = figure(len(rows), height=height, squeeze=False)
    for ax, (first, last) in zip(axes[:, 0], rows, strict=True):
        _routing_row(ax, trace, first, last)
    drawn.suptitle(title, x=0.01, ha="left")
    return drawn


def window(trace):
    """What :func:`routing_map` has room for, as start and number of tokens: all, or the start of the last answer."""
    tokens = max(1, 16 // len(trace.layers)) * TOKENS_PER_ROW
    return max(0, min(trace.prompt_length - 10, len(trace.texts) - tokens)), tokens


def _routing_row(ax, trace, first, last):
    import numpy as np
    from matplotlib.collections import PolyCollection

    columns, ids = np.arange(first, last), trace.expert_ids[:, first:last, 0]
    weights = np.ones(ids.shape) if trace.weights is None else trace.weights[:, first:last, 0].astype(float)
    cells = [(row, column - first, column) for row in range(len(ids)) for column in columns]
    colours = [EXPERTS[ids[row, place] % len(EXPERTS)] for row, place, _ in cells]
    for height, fill in ((np.ones(ids.shape), [pale(colour) for colour in colours]), (weights, colours)):
        # The axis points down: a filling grows from the lower edge of its cell towards smaller values.
        boxes = [_box(column, row + 0.45, 0.46, 0.9 * height[row, place]) for row, place, column in cells]
        ax.add_collection(PolyCollection(boxes, facecolors=fill, linewidths=0))
    for row, place, column in cells:
        ax.text(column, row, ids[row, place], ha="center", va="center_baseline", fontsize=9, color=ON)
    ax.set_xlim(first - 0.6, first + TOKENS_PER_ROW - 0.4)
    ax.set_ylim(len(trace.layers) - 0.5, -0.5)
    ax.set_yticks(range(len(trace.layers)), trace.layers)
    ax.set_ylabel(say("层", "layer", " "))
    ax.set_xticks(columns, [token_label(piece) for piece in trace.pieces[first:last]], rotation=90, fontsize=9)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    for tick, column in zip(ax.get_xticklabels(), columns, strict=True):
        tick.set_rotation(90 if len(tick.get_text()) > 1 else 0)
        tick.set_color(LIGHT["ink"] if column < trace.prompt_length else LIGHT["accent"])
    if first < trace.prompt_length < last or first == trace.prompt_length:
        ax.axvline(trace.prompt_length - 0.5, color=LIGHT["accent"], linewidth=1.5)
        ax.text(
            trace.prompt_length - 0.4,
            -0.6,
            say("模型生成", "generated", " "),
            color=LIGHT["accent"],
            fontsize=9,
            va="bottom",
        )


def _box(x, bottom, half_width, height):
    left, right, top = x - half_width, x + half_width, bottom - height
    return [(left, bottom), (right, bottom), (right, top), (left, top)]
