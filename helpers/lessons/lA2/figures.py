"""Figures of appendix A2: how even the load is, how many calls a loop makes, what experts are for."""

from helpers.design import EXPERT_LINES, EXPERTS, LIGHT
from helpers.figures import EXPERT_COLOURS, figure, ink_on, token_label
from helpers.language import say

MARKERS = "os^DvPX"  # one for each class of tokens


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


def association_bars(found, layers):
    """Bars of what :func:`helpers.lessons.lA2.class_association` found, for every layer beside its baselines.

    A baseline is the mean of its draws; the line on it ends at their 95 % quantile (permuted) or spans all (untrained).
    """
    import numpy as np

    colours = {"trained": LIGHT["first"], "untrained": LIGHT["second"], "permuted": LIGHT["quiet"]}
    drawn, ax = figure(height=2.4)
    for shift, name in enumerate(name for name in colours if name in found):
        draws = found[name].reshape(-1, len(layers))
        by_layer, ends = draws.mean(axis=0), None
        if name == "untrained":
            ends = by_layer - draws.min(axis=0), draws.max(axis=0) - by_layer
        elif name == "permuted":
            ends = 0 * by_layer, (np.quantile(draws, 0.95, axis=0) - by_layer).clip(0)
        label = {
            "trained": say("训练过", "trained"),
            "untrained": say(f"没训练过（{len(draws)} 个种子）", f"untrained ({len(draws)} seeds)"),
            "permuted": say("打乱之后（到 95 %）", "permuted (to 95 %)"),
        }[name]
        x = np.arange(len(layers)) + 0.27 * (shift - 1)
        ax.bar(x, by_layer, width=0.25, color=colours[name], label=label, yerr=ends, ecolor=LIGHT["rest"], capsize=2)
    ax.set_xticks(range(len(layers)), layers)
    ax.set_xlabel(say("层", "layer"))
    ax.set_title(
        say(
            "词元类别与权重最大的专家：归一化互信息",
            "token class and heaviest expert: normalised mutual information",
        )
    )
    ax.set_ylim(0, 1.5 * max(found["trained"]))
    ax.legend(loc="upper right", ncols=3, fontsize=9)
    return drawn


def rise_without_expert(rise, classes, layers, experts):
    """How much the loss of each token class rises without an expert: an array (classes, layers, columns) in nats.

    experts: (layers, columns), the number of the expert that each column switches off. Rises from 0.05 on are written.
    """
    import numpy as np

    drawn, axes = figure(1, len(layers), height=2.6, sharey=True, squeeze=False)
    for place, ax in enumerate(axes[0]):
        image = ax.imshow(rise[:, place], cmap="Reds", vmin=0, vmax=rise.max(), aspect="auto")
        for (row, column), value in np.ndenumerate(rise[:, place]):
            if value >= 0.05:
                colour = ink_on(image.cmap(image.norm(value)))
                ax.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
        ax.set_xticks(range(rise.shape[2]), experts[place], fontsize=9, rotation=90 if np.max(experts) >= 100 else 0)
        ax.set_title(say(f"第 {layers[place]} 层", f"layer {layers[place]}"))
    axes[0, 0].set_yticks(range(len(classes)), classes)
    drawn.supxlabel(say("关掉的专家", "expert that is switched off"))
    drawn.colorbar(image, ax=list(axes[0]), label=say("损失增加，nat", "loss rises by, nats"))
    return drawn


def use_against_rise(share, rise, classes, named):
    """A point for each class of tokens and expert: how often it takes part, and the rise of the loss without it.

    share, rise: (classes, layers, columns). named: the places that get a number, from 1 on.
    """
    drawn, ax = figure(height=3.4)
    for index, name in enumerate(classes):
        marker, colour = MARKERS[index], EXPERT_LINES[index]
        ax.scatter(share[index], rise[index], s=26, marker=marker, color=colour, linewidths=0, label=name)
    for number, place in enumerate(named, 1):
        text = f"{number}: {classes[place[0]]}"
        ax.annotate(text, (share[place], rise[place]), xytext=(5, 6), textcoords="offset points", ha="right")
    ax.set_xlabel(say("这一类的预测里，用到专家的比例", "share of predictions that use it"))
    ax.set_ylabel(say("损失增加，nat", "loss rises by, nats"))
    ax.set(xlim=(-0.01, 1.02))
    drawn.legend(loc="outside upper left", ncols=len(classes), frameon=False, handletextpad=0.1, columnspacing=1)
    return drawn


def balance_figure(runs, loads, layer):
    """Two trainings, with and without the load-balancing loss: a layer's shares, all layers' Gini coefficients, loss.

    runs: records by name, ``off`` first; loads: their shares, (records, layers, experts), as long as ``off`` went on.
    """
    from helpers import routing

    drawn, axes = figure(1, 4, height=2.7, width_ratios=[1.25, 1.25, 1, 1])
    for ax, (name, load), colour in zip(axes[:2], loads.items(), (LIGHT["second"], LIGHT["first"]), strict=True):
        step, loss = (runs[name][key][: len(load)] for key in ("step", "loss"))
        ax.stackplot(step, load[:, layer].T, colors=EXPERT_COLOURS, edgecolor="white", linewidth=0.3)
        shares = load[-1, layer]
        for expert, (share, top) in enumerate(zip(shares, shares.cumsum(), strict=True)):
            if share >= 0.06:  # a number has room beside it
                ax.annotate(expert, (step[-1], top - share / 2), xytext=(4, 0), textcoords="offset points", va="center",
                            fontsize=9, annotation_clip=False)  # fmt: skip
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
