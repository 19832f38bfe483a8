"""Static figures of the lessons. Labels are English or maths, so that one figure serves both languages.

Every function returns a matplotlib ``Figure``; a cell that ends with one shows it.
"""

import numpy as np

from helpers import routing
from helpers.models import ROOT

CHINESE_FONT = ROOT / "assets" / "fonts" / "NotoSansSC-subset.ttf"
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
    drawn, axes = figure(len(rows), height=len(rows) * (0.24 * layers + 0.4 + 0.08 * longest) + 0.3, squeeze=False)
    for ax, (first, last) in zip(axes[:, 0], rows, strict=True):
        _routing_row(ax, trace, first, last)
    weights = "not recorded" if trace.weights is None else "the height of the filling"
    drawn.suptitle(
        f"Heaviest of the {trace.top_k} experts that a token took (number); its weight: {weights}. "
        f"Tokens {start} to {stop - 1} of {len(trace.token_ids)}, {trace.provenance.get('model', 'model not named')}",
        x=0.01, ha="left",
    )  # fmt: skip
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
    ax.set(xlabel="expert", ylabel="layer", title="its experts in every layer")
    ax.invert_yaxis()
    ax.tick_params(length=0)
    drawn.colorbar(image, ax=ax, label="weight" if trace.weights is not None else "weights not recorded")
    counts = routing.expert_load(trace)[row]
    load.bar(experts, counts, color=["#4477aa" if expert in ids[row] else "#cccccc" for expert in experts])
    load.axhline(counts.mean(), color="#222222", linestyle="--", linewidth=1)
    load.set(xlabel="expert", ylabel="tokens", title=f"load of layer {trace.layers[row]} (blue: its experts)")
    if few:
        load.set_xticks(experts)
    text = printable(trace.pieces[token])
    drawn.suptitle(
        f"Token {token} of {len(trace.token_ids)}, “{text}”, in {trace.provenance.get('model', '?')}", x=0.01, ha="left"
    )
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
    ax.set_ylabel("layer")
    labels = _labels(trace, first, last)
    ax.set_xticks(columns, labels, rotation=90, fontsize=8.5)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    for tick, column in zip(ax.get_xticklabels(), columns, strict=True):
        tick.set_color("#222222" if column < trace.prompt_length else "#0055aa")
    if first < trace.prompt_length < last or first == trace.prompt_length:
        ax.axvline(trace.prompt_length - 0.5, color="#0055aa", linewidth=1.5)
        ax.text(trace.prompt_length - 0.4, -0.6, "generated", color="#0055aa", fontsize=8, va="bottom")


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
        ax.set_title(f"layer {layer}: Gini {unevenness:.2f}")
    for ax in axes.flat[len(load) :]:
        ax.set_visible(False)
    if trace.num_experts <= 16:
        axes[0, 0].set_xticks(experts)
    drawn.supxlabel("expert", fontsize=9)
    drawn.supylabel("tokens", fontsize=9)
    drawn.suptitle(
        f"Tokens that each expert got; {len(trace.token_ids)} tokens took {trace.top_k} experts each "
        "(dashed line: perfect balance)",
        x=0.01, ha="left",
    )  # fmt: skip
    return drawn


def association(found: dict[str, np.ndarray], layers):
    """Bars of what :func:`helpers.routing.class_association` found, for every layer beside its baselines."""
    colours = {"trained": "#4477aa", "untrained": "#ee8866", "permuted": "#dddddd"}
    drawn, ax = figure(height=2.4)
    for shift, name in enumerate(name for name in colours if name in found):
        by_layer = found[name].reshape(-1, len(layers)).mean(axis=0)
        ax.bar(np.arange(len(layers)) + 0.27 * (shift - 1), by_layer, width=0.25, color=colours[name], label=name)
    ax.set_xticks(range(len(layers)), layers)
    ax.set(xlabel="layer", title="token class and heaviest expert: normalised mutual information")
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
        ax.set_xticks(range(rise.shape[2]), experts[place], fontsize=8)
        ax.set_title(f"layer {layers[place]}")
    axes[0, 0].set_yticks(range(len(classes)), classes)
    drawn.supxlabel("expert that is switched off", fontsize=9)
    drawn.colorbar(image, ax=list(axes[0]), label="loss rises by, nats")
    return drawn
