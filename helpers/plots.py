"""Static figures of the lessons, with labels in the page's language.

Every function that draws returns a matplotlib ``Figure``; a cell that ends with one shows it.
"""

import re

import numpy as np

from helpers import models, routing
from helpers.language import say
from helpers.models import GIB, ROOT

CHINESE_FONT = ROOT / "assets" / "fonts" / "NotoSansSC-subset.ttf"
WORD = re.compile(r"[^\W\d_]{2}|[\u4e00-\u9fff]")
WIDTH = 10  # inches: the text width of a notebook

# Paul Tol's "light" scheme, made for cells with black text and readable without colour vision. More than eight experts
# repeat it, which is why the number of the expert always stands beside its colour. https://sronpersonalpages.nl/~pault
EXPERT_COLOURS = ("#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#dddddd")
STYLE = {
    "font.family": ["DejaVu Sans", "Noto Sans SC Subset"],
    "font.size": 9,
    "axes.titlesize": 9,
    "figure.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def figure(rows=1, columns=1, height=3.0, **options):
    """A figure and its axes in the style of the course; ``options`` are those of ``plt.subplots``.

    The style stays set, so that what a learner draws afterwards looks like the rest.
    """
    import matplotlib.pyplot as plt
    from matplotlib import font_manager

    if str(CHINESE_FONT) not in {font.fname for font in font_manager.fontManager.ttflist}:
        font_manager.fontManager.addfont(CHINESE_FONT)
    plt.rcParams.update(STYLE)
    drawn, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **options)
    plt.close(drawn)  # or a notebook would show it a second time at the end of the cell
    return drawn, axes


def labels(drawn) -> list[str]:
    """What a figure says in words: titles, axes, legends and notes, each once; numbers, signs, single letters are none.

    The order is that of matplotlib's tree.
    """
    from matplotlib.text import Text

    drawn.draw_without_rendering()  # or labels that a formatter makes would still be empty
    texts = [text.get_text().strip() for text in drawn.findobj(Text) if text.get_visible()]
    return [text for text in dict.fromkeys(texts) if WORD.search(text)]


def keep_labels() -> None:
    """From now on every matplotlib figure that this kernel shows has its :func:`labels` in the output's metadata.

    tools/lessons/record.py calls it in the kernels that it starts, so that a test can read what the pictures say.
    """
    from IPython import get_ipython

    def describe(drawn):
        return {}, {"course": {"labels": labels(drawn)}}

    get_ipython().display_formatter.mimebundle_formatter.for_type_by_name("matplotlib.figure", "Figure", describe)


def png(drawn) -> bytes:
    """The figure as a PNG file."""
    import io

    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=100)
    return file.getvalue()


def printable(piece: bytes) -> str:
    """A token as :func:`helpers.routing.shown` writes it, with the bytes of a character where no font has a glyph."""
    from matplotlib.font_manager import findfont, get_font

    glyphs = [get_font(file).get_charmap() for file in (findfont("DejaVu Sans"), CHINESE_FONT)]
    drawn = "".join(
        char if any(ord(char) in font for font in glyphs) else "".join(f"<{byte:02X}>" for byte in char.encode())
        for char in routing.shown(piece)
    )
    return drawn.replace("$", r"\$")  # matplotlib would set formulas between two of them


# ---------------------------------------------------------------------------------------------- the engine


def block_tables(tables: dict[str, list[int]], lengths: dict[str, int], block_size: int):
    """Which blocks of the KV cache each request holds, as vLLM's scheduler tells.

    tables: request -> its block ids in order; lengths: request -> tokens so far. Above, the pool; below, one table a
    request. Blocks that several requests share are grey; the filling of a block shows how many of its tokens are used.
    """
    from matplotlib.patches import Rectangle

    owners = {}
    for request, blocks in tables.items():
        for block in blocks:
            owners.setdefault(block, []).append(request)
    colours = dict(zip(tables, EXPERT_COLOURS[1:], strict=False))
    pool = range(min(owners), max(owners) + 1)
    widest = max(len(pool), *(len(blocks) for blocks in tables.values()))
    drawn, axes = figure(2, 1, height=1.5 + 0.55 * len(tables), height_ratios=[1, max(1, len(tables))])

    def cell(ax, column, row, block, used):
        shared = len(owners.get(block, ())) > 1
        colour = EXPERT_COLOURS[-1] if shared else colours.get(owners.get(block, [None])[0], "white")
        ax.add_patch(Rectangle((column - 0.45, row - 0.4), 0.9 * used, 0.8, facecolor=colour, edgecolor="none"))
        ax.add_patch(Rectangle((column - 0.45, row - 0.4), 0.9, 0.8, fill=False, edgecolor="#555555"))
        ax.text(column, row, block, ha="center", va="center")

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
        axes[1].text(len(blocks) - 0.3, row, length, va="center", fontsize=8.5)
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
        ax.barh(row, first, color="#eeeeee", height=0.7)
        ax.barh(row, last + 1 - first, left=first, color="#77aadd", height=0.7)
    ax.set(ylim=(len(spans) - 0.4, -0.6), yticks=range(len(spans)))
    ax.set(xlabel=say("引擎的步", "engine step"), ylabel=say("请求", "request"))
    ax.set_title(
        say(
            f"{len(spans)} 个请求，同时跑 {slots} 个：灰色在等，蓝色在跑",
            f"{len(spans)} requests, {slots} at once: grey waits, blue runs",
        )
    )
    return drawn


# ---------------------------------------------------------------------------------------------- routing

TOKENS_PER_ROW = 42
LABEL_LENGTH = 14


def routing_map(trace: routing.RoutingTrace, start=0, tokens=2 * TOKENS_PER_ROW):
    """Layer x token: number and colour name the heaviest expert, the height of the filling is its weight.

    Shows at most ``tokens`` tokens from ``start`` on, ``TOKENS_PER_ROW`` beside each other.
    """
    stop, layers = min(start + tokens, len(trace.token_ids)), len(trace.layers)
    rows = [(first, min(first + TOKENS_PER_ROW, stop)) for first in range(start, stop, TOKENS_PER_ROW)]
    longest = max(len(label) for label in _labels(trace, start, stop))
    weight = ("未记录", "not recorded") if trace.weights is None else ("填的高度", "the height of the filling")
    of, model = len(trace.token_ids), trace.provenance.get("model", "?")
    title = say(
        f"数字：一个词元选的 {trace.top_k} 个专家里权重最大的；权重：{weight[0]}。"
        f"词元 {start} 到 {stop - 1}，共 {of} 个，{model}",
        f"Heaviest of the {trace.top_k} experts that a token took (number); its weight: {weight[1]}. "
        f"Tokens {start} to {stop - 1} of {of}, {model}",
    )
    height = len(rows) * (0.24 * layers + 0.4 + 0.08 * longest) + 0.3 + 0.2 * title.count("\n")
    drawn, axes = figure(len(rows), height=height, squeeze=False)
    for ax, (first, last) in zip(axes[:, 0], rows, strict=True):
        _routing_row(ax, trace, first, last)
    drawn.suptitle(title, x=0.01, ha="left")
    return drawn


def token_routes(trace: routing.RoutingTrace, token=0, row=0):
    """One token: its experts and their weights in every layer, and the load of the layer in ``row`` of the trace."""
    layers, experts, few = len(trace.layers), np.arange(trace.num_experts), trace.num_experts <= 16
    ids = trace.expert_ids[:, token].astype(int)
    recorded = np.ones(ids.shape) if trace.weights is None else trace.weights[:, token].astype(float)
    weights = np.full((layers, trace.num_experts), np.nan)
    np.put_along_axis(weights, ids, recorded, axis=1)
    drawn, (ax, load) = figure(1, 2, height=max(2.6, 0.12 * layers + 1), width_ratios=[1.5, 1])
    image = ax.pcolormesh(weights, cmap="viridis_r", vmin=0, vmax=recorded.max(), edgecolor="white" if few else "none")
    ax.set_facecolor("#eeeeee")
    if few:
        for place, expert in np.argwhere(~np.isnan(weights)) if trace.weights is not None else ():
            weight = weights[place, expert]
            colour = "white" if weight > recorded.max() / 2 else "black"
            ax.text(expert + 0.5, place + 0.5, f"{weight:.2f}", ha="center", va="center", color=colour)
        ax.set_xticks(experts + 0.5, experts)
    step = 1 if layers <= 16 else 4
    ax.set_yticks(np.arange(0, layers, step) + 0.5, trace.layers[::step])
    ax.set(xlabel=say("专家", "expert"), ylabel=say("层", "layer"))
    ax.set_title(say("它在每一层的专家", "its experts in every layer"))
    ax.invert_yaxis()
    ax.tick_params(length=0)
    known = trace.weights is not None
    drawn.colorbar(image, ax=ax, label=say("权重", "weight") if known else say("权重未记录", "weights not recorded"))
    counts = routing.expert_load(trace)[row]
    load.bar(experts, counts, color=["#4477aa" if expert in ids[row] else "#cccccc" for expert in experts])
    load.axhline(counts.mean(), color="#222222", linestyle="--", linewidth=1)
    load.set(xlabel=say("专家", "expert"), ylabel=say("词元", "tokens"))
    layer = trace.layers[row]
    load.set_title(say(f"第 {layer} 层的负载（蓝：它的专家）", f"load of layer {layer} (blue: its experts)"))
    if few:
        load.set_xticks(experts)
    text, of, model = printable(trace.pieces[token]), len(trace.token_ids), trace.provenance.get("model", "?")
    drawn.suptitle(
        say(f"第 {token} 个词元（共 {of} 个）「{text}」，模型 {model}", f"Token {token} of {of}, “{text}”, in {model}"),
        x=0.01, ha="left",
    )  # fmt: skip
    return drawn


def _labels(trace, first, last):
    texts = [printable(piece) for piece in trace.pieces[first:last]]
    return [text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…" for text in texts]


def _routing_row(ax, trace, first, last):
    from matplotlib.collections import PolyCollection

    columns, ids = np.arange(first, last), trace.expert_ids[:, first:last, 0]
    weights = np.ones(ids.shape) if trace.weights is None else trace.weights[:, first:last, 0].astype(float)
    cells = [(row, column - first, column) for row in range(len(ids)) for column in columns]
    colours = [EXPERT_COLOURS[ids[row, place] % len(EXPERT_COLOURS)] for row, place, _ in cells]
    for height, alpha in ((np.ones(ids.shape), 0.3), (weights, 1.0)):
        # The axis points down: a filling grows from the lower edge of its cell towards smaller values.
        boxes = [_box(column, row + 0.45, 0.46, 0.9 * height[row, place]) for row, place, column in cells]
        ax.add_collection(PolyCollection(boxes, facecolors=colours, alpha=alpha, linewidths=0))
    for row, place, column in cells:
        ax.text(column, row, ids[row, place], ha="center", va="center_baseline", fontsize=7.5)
    ax.set_xlim(first - 0.6, first + TOKENS_PER_ROW - 0.4)
    ax.set_ylim(len(trace.layers) - 0.5, -0.5)
    ax.set_yticks(range(len(trace.layers)), trace.layers)
    ax.set_ylabel(say("层", "layer", " "))
    ax.set_xticks(columns, _labels(trace, first, last), rotation=90, fontsize=8.5)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    for tick, column in zip(ax.get_xticklabels(), columns, strict=True):
        tick.set_rotation(90 if len(tick.get_text()) > 1 else 0)
        tick.set_color("#222222" if column < trace.prompt_length else "#0055aa")
    if first < trace.prompt_length < last or first == trace.prompt_length:
        ax.axvline(trace.prompt_length - 0.5, color="#0055aa", linewidth=1.5)
        ax.text(
            trace.prompt_length - 0.4, -0.6, say("模型生成", "generated", " "), color="#0055aa", fontsize=8, va="bottom"
        )


def _box(x, bottom, half_width, height):
    left, right, top = x - half_width, x + half_width, bottom - height
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def expert_load(trace: routing.RoutingTrace):
    """Tokens per expert, a panel per layer; the dashed line is perfect balance."""
    load = routing.expert_load(trace)
    gini, uniform = routing.gini(load), len(trace.token_ids) * trace.top_k / trace.num_experts
    columns = min(len(load), 4 if len(load) <= 16 else 6)
    rows = -(-len(load) // columns)
    drawn, axes = figure(rows, columns, height=1.7 * rows + 0.4, sharex=True, sharey=True, squeeze=False)
    experts = np.arange(trace.num_experts)
    for ax, layer, count, unevenness in zip(axes.flat, trace.layers, load, gini, strict=False):
        ax.bar(experts, count, 0.8 if trace.num_experts <= 32 else 1.0, color="#77aadd")
        ax.axhline(uniform, color="#222222", linestyle="--", linewidth=1)
        ax.set_title(say(f"第 {layer} 层：基尼系数 {unevenness:.2f}", f"layer {layer}: Gini {unevenness:.2f}"))
    for ax in axes.flat[len(load) :]:
        ax.set_visible(False)
    if trace.num_experts <= 16:
        axes[0, 0].set_xticks(experts)
    drawn.supxlabel(say("专家", "expert"), fontsize=9)
    drawn.supylabel(say("词元", "tokens"), fontsize=9)
    tokens = len(trace.token_ids)
    drawn.suptitle(
        say(
            f"每个专家分到的词元；{tokens} 个词元各选 {trace.top_k} 个专家（虚线：完全均衡）",
            f"Tokens that each expert got; {tokens} tokens took {trace.top_k} experts each "
            "(dashed line: perfect balance)",
        ),
        x=0.01, ha="left",
    )  # fmt: skip
    return drawn


def association(found: dict[str, np.ndarray], layers):
    """Bars of what :func:`helpers.routing.class_association` found, for every layer beside its baselines.

    A baseline is the mean of its draws; the line on it ends at their 95 % quantile (permuted) or spans all (untrained).
    """
    colours = {"trained": "#4477aa", "untrained": "#ee8866", "permuted": "#dddddd"}
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
        ax.bar(x, by_layer, width=0.25, color=colours[name], label=label, yerr=ends, ecolor="#555555", capsize=2)
    ax.set_xticks(range(len(layers)), layers)
    ax.set_xlabel(say("层", "layer"))
    ax.set_title(
        say(
            "词元类别与权重最大的专家：归一化互信息",
            "token class and heaviest expert: normalised mutual information",
        )
    )
    ax.set_ylim(0, 1.35 * max(found["trained"]))
    ax.legend(loc="upper right", ncols=3)
    return drawn


def rise_without_expert(rise: np.ndarray, classes, layers, experts):
    """How much the loss of each token class rises without one expert: ``rise`` (classes, layers, columns) in nats.

    experts: (layers, columns), the number of the expert that each column switches off. Rises from 0.05 on are written.
    """
    drawn, axes = figure(1, len(layers), height=2.6, sharey=True, squeeze=False)
    for place, ax in enumerate(axes[0]):
        image = ax.imshow(rise[:, place], cmap="Reds", vmin=0, vmax=rise.max(), aspect="auto")
        for (row, column), value in np.ndenumerate(rise[:, place]):
            if value >= 0.05:
                colour = "white" if value > rise.max() / 2 else "black"
                ax.text(column, row, f"{value:.1f}", ha="center", va="center", color=colour)
        ax.set_xticks(range(rise.shape[2]), experts[place], fontsize=8, rotation=90 if np.max(experts) >= 100 else 0)
        ax.set_title(say(f"第 {layers[place]} 层", f"layer {layers[place]}"))
    axes[0, 0].set_yticks(range(len(classes)), classes)
    drawn.supxlabel(say("关掉的专家", "expert that is switched off"), fontsize=9)
    drawn.colorbar(image, ax=list(axes[0]), label=say("损失增加，nat", "loss rises by, nats"))
    return drawn


# ---------------------------------------------------------------------------------------------- GPU memory

DTYPES = ("bf16", "fp8", "awq")
MEMORY_COLOURS = {"weights": "#77aadd", "kvCache": "#ee8866", "other": "#bbbbbb"}


def gpu_memory(model="Qwen/Qwen3-8B", card=24, context=8192, sequences=1, kv_bytes=2, gpus=1):
    """What a model of :data:`helpers.models.CATALOGUE` takes on each card of ``card`` GiB, bf16, FP8 and AWQ.

    The arithmetic is :func:`helpers.models.fits`; FP8 and AWQ are estimates, and nothing was measured on a GPU.
    """
    config = models.CATALOGUE[model].config
    drawn, ax = figure(height=2.3)
    rows = {dtype: models.fits(config, card * GIB, context, sequences, dtype, kv_bytes, gpus) for dtype in DTYPES}
    longest = max(card, *((fit.weights + fit.kv_cache + fit.other) / GIB for fit in rows.values()))
    for row, fit in enumerate(rows.values()):
        left = 0.0
        for name, size, label in (
            ("weights", fit.weights, say("权重", "weights")),
            ("kvCache", fit.kv_cache, say("KV 缓存", "KV cache")),
            ("other", fit.other, say("其余（估计）", "the rest (a guess)")),
        ):
            label = None if row else label
            ax.barh(row, size / GIB, 0.62, left, color=MEMORY_COLOURS[name], edgecolor="white", label=label)
            if size > 0.03 * longest * GIB:
                ax.text(left + size / GIB / 2, row, f"{size / GIB:.1f}", ha="center", va="center")
            left += size / GIB
        largest = say("放不下", "does not fit")
        if fit.max_context:
            largest = say(f"最长上下文 {fit.max_context:,}", f"largest context {fit.max_context:,}")
        ax.text(1.02 * longest, row, largest, va="center")
    bars = ax.get_legend_handles_labels()
    lines = [
        ax.axvline(card * models.GPU_SHARE, color="#222222", linestyle="--", linewidth=1.2),
        ax.axvline(card, color="#222222", linewidth=1.5),
    ]
    ax.legend(
        [*bars[0], *lines], [*bars[1], say("vLLM 会用", "vLLM uses"), say("整张卡", "the card")],
        ncols=5, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, borderaxespad=0.2,
    )  # fmt: skip
    ax.set_yticks(range(3), ["bf16", *(say(f"{name}（估计）", f"{name} (estimate)") for name in ("FP8", "AWQ"))])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.22 * longest)
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= longest])
    ax.spines["bottom"].set_bounds(0, longest)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(
        say(
            f"每张卡上的 GiB，算出来的，没有测量；上下文 {context:,}，同时 {sequences} 个序列",
            f"GiB on each card, computed, not measured; context {context:,}, {sequences} at once",
        )
    )
    ax.set_title(say(f"{model}，{gpus} × {card} GiB", f"{model} on {gpus} x {card} GiB"))
    return drawn
