"""Two trainings of the tiny mixture of experts, with and without the load-balancing loss, from assets/traces."""

from helpers.design import LIGHT
from helpers.figures import EXPERT_COLOURS, figure
from helpers.language import say

KEPT = 0.9  # of the running average in each step
STEPS = 5  # from one record to the next; before the first there is one step


def shares(average):
    """The shares of experts between one record and the next, recovered from the running average that was kept.

    average: (records, layers, experts), a fraction of all (token, slot) pairs; the result has the same shape. Each
    token counts ``top_k`` times, so an expert has at most one part in ``top_k``.
    """
    import numpy as np

    average = average.astype(float)
    average = np.concatenate([np.full_like(average[:1], 1 / average.shape[-1]), average])
    kept = np.full((len(average) - 1, 1, 1), KEPT**STEPS)
    kept[0] = KEPT
    return ((average[1:] - kept * average[:-1]) / (1 - kept)).clip(0)


def balance_figure(runs, loads, layer):
    """The shares of all experts of one layer in both trainings, the Gini coefficient of every layer, and the loss.

    runs: records by name, ``off`` first; loads: their shares, (records, layers, experts), as long as ``off`` went on.
    """
    from helpers import routing

    drawn, axes = figure(1, 4, height=2.7, width_ratios=[1.25, 1.25, 1, 1])
    for ax, (name, load), colour in zip(axes[:2], loads.items(), (LIGHT["second"], LIGHT["first"]), strict=True):
        step, loss = (runs[name][key][: len(load)] for key in ("step", "loss"))
        ax.stackplot(step, load[:, layer].T, colors=EXPERT_COLOURS, edgecolor="white", linewidth=0.3)
        ax.set_title(say(f"均衡损失 {name}：第 {layer} 层", f"balancing loss {name}: layer {layer}"))
        ax.set(xlim=(0, step[-1]), ylim=(0, 1))
        axes[2].plot(step, routing.gini(load), color=colour, linewidth=1)[0].set_label(name)
        axes[3].plot(step, loss, color=colour, linewidth=1, label=name)
    axes[0].set_ylabel(say("（词元，名次）的份额", "share of (token, slot) pairs"))
    axes[2].set_title(say("基尼系数，每层一条线", "Gini, a line per layer"))
    axes[2].set_ylim(0, 1)
    axes[3].set_title(say("损失，每个词元的 nat", "loss, nats per token"))
    axes[3].set(yscale="log", yticks=[0.2, 0.5, 1, 2, 5])
    axes[3].set_yticks([], minor=True)
    axes[3].set_yticklabels([0.2, 0.5, 1, 2, 5])
    for ax in axes[2:]:
        ax.legend(loc="upper right")
    for ax in axes:
        ax.set_xlabel(say("步", "step"))
    return drawn
