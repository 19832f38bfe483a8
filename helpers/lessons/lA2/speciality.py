"""Do experts specialise? What appendix A2 draws of association, and of the loss without an expert."""

from helpers.design import LIGHT
from helpers.figures import EXPERT_COLOURS, figure, ink_on
from helpers.language import say


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


def largest(values, count):
    """The places of the ``count`` largest values of an array, the largest first, each as a tuple of ints."""
    import numpy as np

    order = np.argsort(-values, axis=None)[:count]
    return [tuple(map(int, place)) for place in zip(*np.unravel_index(order, values.shape), strict=True)]


def use_against_rise(share, rise, classes, named):
    """A point for each class of tokens and expert: how often it takes part, and the rise of the loss without it.

    share, rise: (classes, layers, columns). named: the places that get a number, from 1 on.
    """
    drawn, ax = figure(height=3.2)
    for index, name in enumerate(classes):
        colour = EXPERT_COLOURS[index]
        ax.scatter(share[index], rise[index], s=22, color=colour, label=name)
    for number, place in enumerate(named, 1):
        ax.annotate(str(number), (share[place], rise[place]), xytext=(-9, -4), textcoords="offset points", ha="right")
    ax.set_xlabel(say("这一类的预测里，用到专家的比例", "share of predictions that use it"))
    ax.set_ylabel(say("损失增加，nat", "loss rises by, nats"))
    ax.set(xlim=(-0.01, 1.02))
    ax.legend(loc="upper left", ncols=2)
    return drawn
