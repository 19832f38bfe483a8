"""Figures of appendix A4: two norms, the pace of RoPE's pairs, and what QK-norm does to attention logits."""

from math import cos, sin

from helpers.design import EXPERTS, LIGHT
from helpers.figures import figure
from helpers.language import say

WITHOUT, WITH = LIGHT["second"], LIGHT["first"]  # the colours without and with QK-norm
HISTOGRAM = {"bins": 80, "range": (-40, 40), "density": True, "histtype": "step"}
EVERY = 5  # steps between two points of a training


def vectors(named):
    """A panel for each tensor of a dictionary: a bar a component, a line at the mean, the RMS in its title."""
    drawn, axes = figure(1, len(named), height=2.2)
    for ax, (name, vector) in zip(axes, named.items(), strict=True):
        mean, rms = f"{vector.mean():.2f}", f"{vector.pow(2).mean().sqrt():.2f}"
        ax.bar(range(len(vector)), vector.tolist(), width=1.0, color=EXPERTS[0])
        ax.axhline(vector.mean().item(), color=LIGHT["second"], linewidth=1.5)
        ax.set_title(say(f"{name}：平均值 {mean}，均方根 {rms}", f"{name}: mean {mean}, RMS {rms}"))
        ax.set_xlabel(say("分量", "component"))
    return drawn


def pace_of_pairs(inv_freq, products):
    """The first three pairs at positions 0 to 7, and a query's products with a key at growing distance.

    inv_freq: radians per position, a tensor (pairs,). products: by the query's position, tensors (distances,).
    """
    drawn, axes = figure(1, 4, height=2.6)
    for pair, ax in enumerate(axes[:3]):
        angles = [position * inv_freq[pair].item() for position in range(8)]
        ax.plot([cos(angle) for angle in angles], [sin(angle) for angle in angles], "o:", color=EXPERTS[0])
        for position, angle in enumerate(angles):
            ax.text(1.25 * cos(angle), 1.25 * sin(angle), position, ha="center", va="center")
        ax.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
        step = f"{inv_freq[pair]:.2f} rad"
        ax.set_title(say(f"第 {pair} 对：每步 {step}", f"pair {pair}: {step} a step"))
    looks = (("-", LIGHT["first"]), ("--", LIGHT["second"]))
    for (start, product), (style, colour) in zip(products.items(), looks, strict=True):
        label = say(f"查询在位置 {start}", f"query at {start}")
        axes[3].plot(range(len(product)), product.tolist(), style, color=colour, label=label)
    axes[3].set_title(say("查询 · 键", "query · key"))
    axes[3].set_xlabel(say("两者相隔的位置数", "positions between them"))
    axes[3].legend(loc="upper right", fontsize=9)
    axes[3].set_ylim(top=1.6 * max(product.max().item() for product in products.values()))
    return drawn


def before_and_after(model, largest, entropy, bound, uniform):
    """Attention in each layer, before QK-norm and after it: the largest |logit| below its bound, and the entropy.

    largest, entropy: (layers, 2). bound: (layers,). uniform: the entropy of attention to all tokens alike.
    """
    largest, entropy, bound, uniform = largest.numpy(), entropy.numpy(), bound.numpy(), float(uniform)
    drawn, axes = figure(1, 2, height=2.8)
    titles = (
        say("最大的 |分数|", "max |logit|"),
        say("注意力的平均熵，nat", "mean entropy of attention, nats"),
    )
    before, after = (
        say("归一化之前", "before the norm"),
        say("归一化之后（模型用的）", "after the norm (what the model uses)"),
    )
    for ax, values, title in zip(axes, (largest, entropy), titles, strict=True):
        ax.plot(values[:, 0], "o--", color=WITHOUT, label=before)
        ax.plot(values[:, 1], "s-", color=WITH, label=after)
        ax.set(title=f"{model}: {title}", xticks=range(len(values)))
        ax.set_xlabel(say("层", "layer"))
    dotted = {"color": LIGHT["strong"], "linestyle": ":"}
    axes[0].plot(bound, **dotted, label=say("由归一化的权重算出的上限", "bound from the norm's weights"))
    axes[0].set(yscale="log", ylim=(1, 30 * largest.max()))
    axes[1].axhline(uniform, **dotted, label=say("对所有词元一视同仁", "attention to all tokens alike"))
    axes[1].set_ylim(0, 1.6 * uniform)
    for ax in axes:
        ax.legend(fontsize=9, loc="upper left")
    return drawn


def logit_histograms(seen, visible):
    """All attention logits of each layer, before QK-norm and after it.

    seen: for each layer two tensors (heads, seq, seq). visible: which of (seq, seq) the mask lets through.
    """
    drawn, axes = figure(1, len(seen), height=2.2, sharex=True, sharey=True)
    named = (WITHOUT, say("归一化之前", "before")), (WITH, say("归一化之后", "after"))
    for index, (ax, layer) in enumerate(zip(axes, seen, strict=True)):
        for logits, (colour, label) in zip(layer, named, strict=True):
            ax.hist(logits[:, visible].flatten().numpy(), color=colour, label=label, **HISTOGRAM)
        ax.set(title=say(f"第 {index} 层", f"layer {index}"), xlabel=say("分数", "logit"))
        ax.set(yscale="log", ylim=(1e-4, 2))
    axes[0].set_ylabel(say("密度", "density"))
    axes[0].legend(fontsize=9, loc="upper left")
    return drawn


def _variants():
    """Label, line and colour of the trainings without QK-norm and with it."""
    return (
        (say("不带 QK 归一化", "without QK-norm"), "--", WITHOUT),
        (say("带 QK 归一化", "with QK-norm"), "-", WITH),
    )


def recorded_trainings(runs):
    """Prints how the recorded trainings ended; draws their loss and largest logit, a column for each learning rate.

    runs: ``loss`` and ``max_logit``, (2, rates, seeds, steps), without QK-norm first, and ``learning_rates``.
    """
    rates = runs["learning_rates"]
    drawn, axes = figure(2, len(rates), height=3.6, sharex=True, sharey="row")
    steps = range(0, runs["loss"].shape[-1], EVERY)
    for column, rate in enumerate(rates):
        title = say(f"学习率 {rate:g}", f"learning rate {rate:g}")
        for index, (label, style, colour) in enumerate(_variants()):
            loss, max_logit = runs["loss"][index, column], runs["max_logit"][index, column]  # (seeds, steps)
            lines = axes[0, column].plot(steps, loss.T[::EVERY], style, color=colour, linewidth=1)
            lines[0].set_label(label)
            axes[1, column].plot(steps, max_logit.T[::EVERY], style, color=colour, linewidth=1)
            final, peak = loss[:, -10:].mean(axis=1), max_logit.max(axis=1)
            print(f"{title}, {label}: loss {final.round(2)}, max |logit| {peak.round()}")
        axes[0, column].set(title=title)
        axes[1, column].set(yscale="log", xlabel=say("步", "step"))
    axes[0, 0].set_ylabel(say("损失，每个数字的 nat", "loss, nats per digit"))
    axes[1, 0].set_ylabel(say("最大的 |注意力分数|", "max |attention logit|"))
    axes[0, 0].legend(loc="lower left")
    return drawn


def own_trainings(trained):
    """Loss and largest logit of two trainings, without QK-norm and with it: a pair of arrays (steps,) for each."""
    drawn, axes = figure(1, 2, height=2.4)
    for values, (label, style, colour) in zip(trained, _variants(), strict=True):
        print(f"{label}: loss {values[0][-10:].mean():.2f}")
        for ax, value in zip(axes, values, strict=True):
            ax.plot(range(0, len(value), EVERY), value[::EVERY], style, color=colour, label=label)
    axes[0].set_title(say("损失，每个数字的 nat", "loss, nats per digit"))
    axes[1].set_title(say("最大的 |注意力分数|", "max |attention logit|"))
    axes[1].set_yscale("log")
    for ax in axes:
        ax.set_xlabel(say("步", "step"))
    axes[0].legend()
    return drawn
