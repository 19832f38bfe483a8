"""The figures of lesson 08: what was measured, what was computed, and the queue."""

import math

from helpers import figures
from helpers.design import LIGHT
from helpers.language import say


def draw_curves(curves, server):
    """Figure: throughput and the two waits over the requests at once, as lesson 08 measures them on ``server``."""
    from helpers import engine

    own = "CPU" if engine.on_cpu() else "GPU"
    where = f"{server.model}, {say('共用', 'shared') if server.attached else own}"
    titles = {
        "tokens/s": say("吞吐量，tokens/s", "throughput, tokens/s"),
        "first": say("首个词元的时间，ms", "time to first token, ms"),
        "between": say("词元间隔，ms", "inter-token latency, ms"),
    }
    figure, axes = figures.figure(1, 3, height=2.7)
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        values = [curve[name] * (1 if name == "tokens/s" else 1000) for curve in curves.values()]
        ax.plot(list(curves), values, "o-", color=LIGHT["first"])
        _over_requests(ax, f"{title}\n{where}")
    return figure


def draw_limit(bound, fitting):
    """Figure: ``bound(n)`` tokens/s that n requests can get at most, computed, and how many fit."""
    figure, ax = figures.figure(height=2.7)
    many = range(1, fitting + 1)
    ax.plot(many, [bound(n) for n in many], "--", color=LIGHT["second"], label=say("一起算", "all at once"))
    one = say(f"一个接一个：{bound(1):.0f}", f"one by one: {bound(1):.0f}")
    ax.axhline(bound(1), color=LIGHT["first"], linestyle=":", label=one)
    ax.axvline(fitting, color=LIGHT["strong"], linewidth=1)
    full = say(f"显存满了：{fitting} 个 ", f"memory is full: {fitting} ")
    ax.text(fitting, bound(fitting) / 3, full, ha="right", fontsize=9)
    ax.set(
        title=say(
            "Qwen3-8B，24 GB，tokens/s：算出的上限，不是测量",
            "Qwen3-8B, 24 GB, tokens/s: a COMPUTED limit, not measured",
        ),
        xlabel=say("同时的请求数", "requests at once"),
        xlim=(0, fitting + 2),
        ylim=0,
    )
    ax.legend(loc="upper left")
    return figure


def _over_requests(ax, title):
    ax.set(title=title, xlabel=say("同时的请求数", "requests at once"), xscale="log", ylim=0, xlim=(0.9, 72))
    ax.set_xticks([1, 4, 16, 64], [1, 4, 16, 64])
    ax.minorticks_off()


def draw_queue(samples, most):
    """Figure: requests running and waiting, and the share of the KV cache, over time.

    samples: (seconds, metrics of the server). most: ``--max-num-seqs``. A share that is no metric there is not drawn.
    """
    moments, metrics = [moment for moment, _ in samples], [values for _, values in samples]
    figure, axes = figures.figure(1, 2, height=2.6)
    highest = most
    for name, style, colour in (("running", "-", "first"), ("waiting", "--", "second")):
        counts = [values[f"num_requests_{name}"] for values in metrics]
        highest = max(highest, *counts)
        axes[0].step(moments, counts, style, where="post", label=name, color=LIGHT[colour])
    axes[0].axhline(most, color=LIGHT["strong"], linewidth=0.8)
    scope = metrics[0].scope
    axes[0].set(title=say(f"请求数（{scope}）；横线：--max-num-seqs", f"requests ({scope}); line: --max-num-seqs"))
    axes[0].set_ylim(top=1.3 * highest)
    axes[0].legend(loc="upper right", ncols=2)
    usage = [100 * values.get("kv_cache_usage_perc", math.nan) for values in metrics]
    axes[1].step(moments, usage, where="post", color=LIGHT["third"])
    axes[1].set(title=say("KV 缓存占用，%", "KV cache in use, %"), ylim=0)
    for ax in axes:
        ax.set(xlabel=say("秒", "seconds"))
    return figure
