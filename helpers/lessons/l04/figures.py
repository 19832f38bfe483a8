"""The figures of lesson 04: a layer with experts, and how scores become weights."""

from helpers.design import EXPERTS, LIGHT, ON
from helpers.figures import figure, pale
from helpers.language import say

SHOWN, CHOSEN = 8, (2, 4)  # experts in the drawing of a layer, and those that its token takes


def branches():
    """The second half of a layer: one network has become eight, of which a token takes two."""
    drawn, ax = figure(height=2.7)
    line = {"color": LIGHT["muted"], "linewidth": 1.5}
    branch = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **line}
    stream = {**branch, "color": LIGHT["accent"], "linewidth": 3}

    def arrow(start, end, style=branch):
        ax.annotate("", end, start, arrowprops=style)

    def box(x, y, width, height, text, colour, ink=ON):
        ax.add_patch(_box(x, y, width, height, colour))
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center_baseline", color=ink, fontsize=10)

    middle = 1.9
    ax.plot([0.3, 0.3, 0.6], [0, middle, middle], **line)
    box(0.6, middle - 0.3, 1.5, 0.6, "RMSNorm", pale(LIGHT["accent"]))
    arrow((2.1, middle), (2.8, middle))
    box(2.8, middle - 0.3, 1.5, 0.6, say("路由器", "router", " "), pale(LIGHT["accent"]))
    for expert in range(SHOWN):
        y = 3.3 - 0.36 * expert
        chosen = expert in CHOSEN
        if chosen:
            arrow((4.3, middle), (5.4, y))
            arrow((7.0, y), (8.3, middle))
        name = say(f"专家 {expert}", f"expert {expert}", " ")
        colour, ink = (EXPERTS[expert], ON) if chosen else (LIGHT["tile"], LIGHT["muted"])
        box(5.4, y - 0.14, 1.6, 0.28, name, colour, ink)
    ax.text(7.75, 2.45, say("× 权重", "× weight", " "), color=LIGHT["muted"], fontsize=10)
    arrow((0, 0), (9.4, 0), stream)
    for at, y, edge in ((8.5, middle, LIGHT["muted"]), (9.6, 0, LIGHT["accent"])):
        ax.add_patch(_circle((at, y), 0.2, facecolor=LIGHT["bg"], edgecolor=edge, linewidth=2))
        ax.text(at, y, "+", ha="center", va="center_baseline")
    ax.plot([8.7, 9.6], [middle, middle], **line)
    arrow((9.6, middle), (9.6, 0.2))
    arrow((9.8, 0), (10.7, 0), stream)
    ax.text(0, -0.4, say("隐藏状态进来", "hidden state in"), va="center")
    ax.text(10.7, -0.4, say("隐藏状态出去", "hidden state out"), va="center", ha="right")
    ax.set(xlim=(-0.1, 10.8), ylim=(-0.7, 3.6))
    ax.set_axis_off()
    return drawn


def _circle(*arguments, **options):
    from matplotlib.patches import Ellipse

    centre, radius = arguments
    return Ellipse(centre, 2 * radius, 2 * radius, **options)


def _box(x, y, width, height, colour):
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.1"
    return FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none")


def three_steps(router_logits, top_k):
    """The scores of one token, (num_experts,), their softmax, and its routing weights; chosen experts in colour."""
    scores = router_logits.float().cpu()
    probabilities = scores.softmax(dim=-1)
    largest, chosen = probabilities.topk(top_k)
    weights = (0 * probabilities).index_copy(0, chosen, largest / largest.sum())
    few = len(scores) <= len(EXPERTS)
    colours = [(EXPERTS[expert] if few else LIGHT["first"]) if expert in chosen.tolist() else LIGHT["quiet"]
               for expert in range(len(scores))]  # fmt: skip
    drawn, axes = figure(1, 3, height=2.3)
    axes[1].sharey(axes[2])
    panels = (
        (say("分数", "scores"), scores),
        (say("概率", "probability"), probabilities),
        (say("权重", "weights"), weights),
    )
    for ax, (title, values) in zip(axes, panels, strict=True):
        ax.bar(range(len(scores)), values.tolist(), color=colours)
        ax.axhline(0, color=LIGHT["strong"], linewidth=0.8)
        total = f"{values.sum():.2f}"
        ax.set_title(say(f"{title}，和 {total}", f"{title}, sum {total}"))
        ax.set_xlabel(say("专家", "expert"))
        if few:
            ax.set_xticks(range(len(scores)))
    return drawn
