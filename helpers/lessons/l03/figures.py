"""The figures of lesson 03: what a head looks at, how RoPE turns, the block with its residual connections."""

from helpers.design import LIGHT, ON
from helpers.figures import figure, pale
from helpers.language import say

SHOWN = 0.05  # weights from here on are written out
TURN = 0.3  # radians a position, of the pair that `rotation` draws
PLACES = ((2, 5), (12, 15))  # positions of key and query in its two panels


def head_map(weights, texts, columns, rows):
    """What the last ``rows`` tokens that wrote another look at; the height of a bar is the weight.

    weights: one head's, (seq, seq). texts: the seq tokens, of which the last ``columns`` are shown one by one and
    those before them as one.
    """
    first, last = len(texts) - columns, len(texts) - 1  # the last token was written and wrote nothing itself
    earlier = weights[:, :first].sum(dim=-1)
    drawn, ax = figure(height=0.55 + 0.5 * rows)
    for row, place in enumerate(range(last - rows, last)):
        seen = [earlier[place].item(), *weights[place, first : place + 1].tolist()]
        for column, weight in enumerate(seen):
            bottom = rows - row - 0.92
            ax.bar(column, 0.84, 0.84, bottom=bottom, color=LIGHT["bg"], edgecolor=LIGHT["line"])
            ax.bar(column - 0.34, 0.84 * weight, 0.16, bottom=bottom, color=LIGHT["accent"])
            if weight >= SHOWN:
                ax.text(column + 0.08, bottom + 0.42, f"{weight:.2f}", ha="center", va="center", fontsize=10)
    names = [say(f"{texts[place]} 写出 {texts[place + 1]}", f"{texts[place]} writes {texts[place + 1]}", " ")
             for place in range(last - rows, last)]  # fmt: skip
    ax.set_yticks([rows - row - 0.5 for row in range(rows)], names)
    ax.set_xticks(range(last - first + 1), [say("前面其他", "before"), *texts[first:last]])
    ax.set_ylim(0, rows)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return drawn


def rotation():
    """One pair of a key (dotted) and a query, turned by their positions: near the start, and ten places further on."""
    import numpy as np

    drawn, axes = figure(1, len(PLACES), height=2.4)
    for ax, (key_place, query_place) in zip(axes, PLACES, strict=True):
        ax.add_patch(_circle((0, 0), 1, fill=False, edgecolor=LIGHT["line"]))
        for place, name, colour, style in (
            (key_place, say("键", "key"), LIGHT["second"], ":"),
            (query_place, say("查询", "query"), LIGHT["accent"], "-"),
        ):
            x, y = np.cos(TURN * place), np.sin(TURN * place)
            ax.annotate("", (x, y), (0, 0), arrowprops={
                "arrowstyle": "-|>", "color": colour, "linestyle": style, "linewidth": 2, "shrinkA": 0, "shrinkB": 0,
            })  # fmt: skip
            label = say(f"{name}，位置 {place}", f"{name}, position {place}")
            ax.text(1.12 * x, 1.12 * y, label, ha="left" if x > 0 else "right", va="center")
        between = np.linspace(TURN * key_place, TURN * query_place)
        ax.plot(0.45 * np.cos(between), 0.45 * np.sin(between), color=LIGHT["ink"], linewidth=1)
        ax.set(xlim=(-2.6, 2.6), ylim=(-1.5, 1.5), aspect="equal")
        ax.set_axis_off()
        angle = TURN * (query_place - key_place)
        ax.set_title(say(f"夹角 {angle:.1f} 弧度", f"{angle:.1f} radians between them", "; "))
    return drawn


def _circle(*arguments, **options):
    from matplotlib.patches import Circle

    return Circle(*arguments, **options)


def block():
    """One layer: the hidden state goes straight on, and what each of the two parts computes is added to it."""
    drawn, ax = figure(height=1.9)
    stream = {"arrowstyle": "-|>", "color": LIGHT["accent"], "linewidth": 3, "shrinkA": 0, "shrinkB": 0}
    branch = {**stream, "color": LIGHT["muted"], "linewidth": 1.5}

    def arrow(start, end, style=branch):
        ax.annotate("", end, start, arrowprops=style)

    parts = (
        (1.0, say("注意力 ★", "attention ★"), say("词元之间", "between tokens")),
        (6.0, "SwiGLU", say("每个词元自己", "each token by itself")),
    )
    start = 0.0
    for left, name, note in parts:
        plus = left + 4.4
        for at, width, text in ((left + 0.4, 1.5, "RMSNorm"), (left + 2.3, 1.7, name)):
            ax.add_patch(_box(at, 1.15, width, 0.6))
            ax.text(at + width / 2, 1.45, text, ha="center", va="center", color=ON)
        ax.text(left + 3.15, 2.0, note, ha="center", color=LIGHT["muted"], fontsize=10)
        ax.plot([left, left], [0, 1.45], color=LIGHT["muted"], linewidth=1.5)
        arrow((left, 1.45), (left + 0.4, 1.45))
        arrow((left + 1.9, 1.45), (left + 2.3, 1.45))
        ax.plot([left + 4.0, plus], [1.45, 1.45], color=LIGHT["muted"], linewidth=1.5)
        arrow((plus, 1.45), (plus, 0.2))
        arrow((start, 0), (plus - 0.2, 0), stream)
        ax.add_patch(_circle((plus, 0), 0.2, facecolor=LIGHT["bg"], edgecolor=LIGHT["accent"], linewidth=2))
        ax.text(plus, 0, "+", ha="center", va="center_baseline")
        start = plus + 0.2
    arrow((start, 0), (start + 0.9, 0), stream)
    ax.text(0, -0.45, say("隐藏状态进来", "hidden state in"), va="center")
    ax.text(start + 0.9, -0.45, say("隐藏状态出去", "hidden state out"), va="center", ha="right")
    ax.set(xlim=(-0.1, start + 1.0), ylim=(-0.7, 2.3), aspect="equal")
    ax.set_axis_off()
    return drawn


def _box(x, y, width, height):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.1",
        facecolor=pale(LIGHT["accent"]),
        edgecolor="none",
    )
