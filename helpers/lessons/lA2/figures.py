"""Figures of appendix A2: where tokens go, how even the load is, how many calls a loop makes."""

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


def load_histograms(trace):
    """Tokens of a RoutingTrace per expert, a panel per layer; the dashed line is perfect balance."""
    from helpers import routing

    load = routing.expert_load(trace)
    gini, uniform = routing.gini(load), len(trace.token_ids) * trace.top_k / trace.num_experts
    columns = min(len(load), 2 if len(load) <= 16 else 6)
    rows = -(-len(load) // columns)
    drawn, axes = figure(rows, columns, height=1.6 * rows + 0.5, sharex=True, sharey=True, squeeze=False, wide=columns)
    experts = range(trace.num_experts)
    colours = EXPERTS if trace.num_experts <= len(EXPERTS) else LIGHT["first"]
    for ax, layer, count, unevenness in zip(axes.flat, trace.layers, load, gini, strict=False):
        ax.bar(experts, count, 0.8 if trace.num_experts <= 32 else 1.0, color=colours)
        ax.axhline(uniform, color=LIGHT["strong"], linestyle="--", linewidth=1)
        ax.set_title(say(f"第 {layer} 层：基尼系数 {unevenness:.2f}", f"layer {layer}: Gini {unevenness:.2f}"))
    for ax in axes.flat[len(load) :]:
        ax.set_visible(False)
    if trace.num_experts <= 16:
        axes[0, 0].set_xticks(experts)
    drawn.supxlabel(say("专家", "expert"))
    drawn.supylabel(say("词元", "tokens"))
    tokens = len(trace.token_ids)
    drawn.suptitle(
        say(
            f"每个专家分到的词元；{tokens} 个词元各选 {trace.top_k} 个专家\n（虚线：完全均衡）",
            f"Tokens that each expert got; {tokens} tokens took {trace.top_k} experts each\n"
            "(dashed line: perfect balance)",
        ),
        x=0.01, ha="left",
    )  # fmt: skip
    return drawn


def calls(table, pieces, num_experts, top_k, needed):
    """On the left who chose whom; on the right how many calls of experts a loop makes, over tokens and over experts.

    table: routing weights of a text, (tokens, experts), 0 for experts that were not chosen. pieces: its tokens, as
    bytes. The right panel is for ``top_k`` of ``num_experts`` chosen at random; from ``needed`` tokens on, nine experts
    in ten are in use.
    """
    import numpy as np

    drawn, (left, right) = figure(1, 2, height=3.4, width_ratios=[1, 1.5])
    image = left.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    left.set(yticks=range(len(pieces)), yticklabels=[token_label(piece) for piece in pieces])
    left.set(xlabel=say("专家", "expert"), title=say("第 0 层的路由权重", "routing weights, layer 0"))
    drawn.colorbar(image, ax=left)
    batch = np.logspace(0, 11, 200, base=2)  # tokens
    right.loglog(batch, top_k * batch, ":", color=LIGHT["second"], label=say("遍历词元", "over tokens"))
    in_use = num_experts * (1 - (1 - top_k / num_experts) ** batch)
    right.loglog(batch, in_use, color=LIGHT["first"], label=say("遍历专家", "over experts"))
    label = say(f"{needed} 个词元用到 90 %", f"90 % in use: {needed} tokens")
    right.plot(needed, 0.9 * num_experts, "o", color=LIGHT["first"], label=label)
    right.set(
        ylim=(5, 10**6), xlabel=say("一起计算的词元数", "tokens computed together"), ylabel=say("调用次数", "calls")
    )
    right.set_title(
        say(f"{num_experts} 个专家，随机选 {top_k} 个", f"{top_k} of {num_experts} experts, chosen at random")
    )
    right.set(xticks=[1, 8, 64, 512], xticklabels=[1, 8, 64, 512])
    right.set(yticks=[8, 128, 1024, 8192], yticklabels=[8, 128, 1024, 8192])
    right.legend(loc="upper left")
    return drawn
