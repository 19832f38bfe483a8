"""The figures of lesson 05: the blocks of the KV cache, when each request ran, what sampling leaves, how sure the model
was of each token, and how fast two libraries are."""

import math

from helpers.design import EXPERTS, LIGHT, ON
from helpers.figures import figure, pale, printable
from helpers.language import say


def block_tables(tables: dict[str, list[int]], lengths: dict[str, int], block_size: int):
    """Which blocks of the KV cache each request holds, as vLLM's scheduler tells.

    tables: request -> its block ids in order; lengths: request -> tokens so far. Above, the pool; below, one table a
    request. Blocks that several requests share are grey; the filling of a block shows how many of its tokens are used.
    """
    from matplotlib.patches import Rectangle

    owners: dict[int, list[str]] = {}
    for request, blocks in tables.items():
        for block in blocks:
            owners.setdefault(block, []).append(request)
    colours = dict(zip(tables, EXPERTS[1:], strict=False))
    pool = range(min(owners), max(owners) + 1)
    widest = max(len(pool), *(len(blocks) for blocks in tables.values()))
    drawn, axes = figure(2, 1, height=1.5 + 0.55 * len(tables), height_ratios=[1, max(1, len(tables))])

    def cell(ax, column, row, block, used):
        holders = owners.get(block, [])
        colour = LIGHT["bg"]
        if holders:
            colour = EXPERTS[-1] if len(holders) > 1 else colours.get(holders[0], LIGHT["bg"])
        if holders:
            box = Rectangle((column - 0.45, row - 0.4), 0.9, 0.8, facecolor=pale(colour), edgecolor="none")
            ax.add_patch(box)
        ax.add_patch(Rectangle((column - 0.45, row - 0.4), 0.9 * used, 0.8, facecolor=colour, edgecolor="none"))
        ax.add_patch(Rectangle((column - 0.45, row - 0.4), 0.9, 0.8, fill=False, edgecolor=LIGHT["rest"]))
        ink = ON if holders else LIGHT["ink"]
        ax.text(column, row, block, ha="center", va="center", color=ink, fontsize=9)

    used = {
        block: min(1, (lengths[request] - place * block_size) / block_size)
        for request, blocks in tables.items()
        for place, block in enumerate(blocks)
    }
    for column, block in enumerate(pool):
        cell(axes[0], column, 0, block, used.get(block, 0))
    for row, (request, blocks) in enumerate(tables.items()):
        for column, block in enumerate(blocks):
            cell(axes[1], column, row, block, used[block])
        length = say(f"{lengths[request]} 个词元", f"{lengths[request]} tokens")
        axes[1].text(len(blocks) - 0.3, row, length, va="center", fontsize=9)
    axes[0].set(ylim=(-0.5, 0.5), yticks=[], xticks=[])
    axes[0].set_title(
        say(
            f"缓存里的块：数字是编号，每块 {block_size} 个词元（灰：共用，白：空闲）",
            f"pool: block ids, {block_size} tokens each (grey: shared, white: free)",
        )
    )
    axes[1].set(ylim=(len(tables) - 0.5, -0.5), xticks=[], yticks=range(len(tables)))
    axes[1].set_yticklabels(tables)
    axes[1].set_title(say("每个请求的块表，按词元的次序", "block table of each request, in the order of its tokens"))
    for ax in axes:
        ax.set_xlim(-0.6, widest + 0.6)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.tick_params(length=0)
    return drawn


def timeline(spans: list[tuple[int, int]], slots: int):
    """When each request ran: ``spans`` holds its first and its last step, all having arrived at step 0."""
    drawn, ax = figure(height=0.9 + 0.23 * len(spans))
    for row, (first, last) in enumerate(spans):
        ax.barh(row, first, color=LIGHT["tile"], height=0.7)
        ax.barh(row, last + 1 - first, left=first, color=LIGHT["first"], height=0.7)
    ax.set(ylim=(len(spans) - 0.4, -0.6), yticks=range(len(spans)))
    ax.set(xlabel=say("引擎的步", "engine step"), ylabel=say("请求", "request"))
    ax.set_title(
        say(
            f"{len(spans)} 个请求，同时跑 {slots} 个：灰色在等，蓝色在跑",
            f"{len(spans)} requests, {slots} at once: grey waits, blue runs",
        )
    )
    return drawn


def candidates(entries, chances):
    """What sampling leaves of the likeliest tokens, one panel a setting, beside the first setting in a light colour.

    entries: vLLM's ``Logprob`` of each token, the likeliest first; chances: name -> probabilities (1, vocab) in the
    same order.
    """
    drawn, axes = figure(1, len(chances), height=2.3, sharey=True)
    shown = range(6)
    labels = [printable(entry.decoded_token.encode()) for entry in entries[:6]]
    model = next(iter(chances.values()))[0, :6].tolist()
    for ax, (name, probabilities) in zip(axes, chances.items(), strict=True):
        left = int((probabilities > 0).sum())
        ax.bar(shown, model, color=LIGHT["tile"], width=0.85)
        ax.bar(shown, probabilities[0, :6].tolist(), color=LIGHT["first"], width=0.5)
        ax.set_xticks(shown, labels, rotation=60)
        ax.set_title(say(f"{name}：剩 {left} 个", f"{name}: {left} left"))
    axes[0].set_ylabel(say("概率", "probability"))
    return drawn


def confidence(written, columns=30):
    """The probability of each token that was written; ``written``: title -> vLLM's ``Logprob`` of each, in order.

    A row of the figure has room for so many columns; a longer text goes on in the next.
    """
    rows = [
        (title, entries[start : start + columns])
        for title, entries in written.items()
        for start in range(0, len(entries), columns)
    ]
    drawn, axes = figure(len(rows), 1, height=1.9 * len(rows), sharey=True, squeeze=False)
    for ax, (title, entries) in zip(axes[:, 0], rows, strict=True):
        ax.bar(range(len(entries)), [math.exp(entry.logprob) for entry in entries], color=LIGHT["first"])
        labels = [printable(entry.decoded_token.encode()) for entry in entries]
        ax.set_xticks(range(len(entries)), labels)
        for text in ax.get_xticklabels():
            text.set_rotation(90 if len(text.get_text()) > 1 else 0)  # a digit stands upright
        ax.set(xlim=(-0.6, columns - 0.4), title=title)
        ax.set_ylabel(say("概率", "probability"))
    return drawn


def speeds(speed: dict[str, float], where: str):
    """Tokens per second of each way to generate; vLLM's bars stand out."""
    drawn, ax = figure(height=1.8)
    colours = [LIGHT["first" if "vLLM" in name else "second"] for name in speed]
    bars = ax.barh(range(len(speed)), list(speed.values()), color=colours)
    ax.bar_label(bars, fmt="%.0f", padding=4)
    ax.set(yticks=range(len(speed)), yticklabels=list(speed), xlabel=f"tokens/s ({where})")
    ax.invert_yaxis()
    return drawn
