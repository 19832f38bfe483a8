"""The figure of lesson A1 that shows samples token by token."""

from helpers.design import EXPERTS, ON
from helpers.figures import figure, printable

COLOURS = (EXPERTS[7], EXPERTS[5], EXPERTS[1])  # of the prompt, of what is learned, of what is forced
LETTERS = 72  # have room in a line
INSIDE, GAP = 0.5, 0.15  # a token's box is wider than its text; what is between two; in letters


def token_strips(strips: dict[str, tuple[list[bytes], list[int]]], names: list[str]):
    """Samples as lines of tokens, a box each, one sample below another.

    strips: by title, (tokens, a kind for each: 0 prompt, 1 learned, 2 forced); names: what each kind is called.
    """
    from matplotlib.patches import Patch

    placed = {title: _placed([printable(token) for token in tokens]) for title, (tokens, _) in strips.items()}
    lines = [1 + boxes[-1][1] for boxes in placed.values()]
    height = 0.25 * sum(lines) + 0.36 * len(lines) + 0.4
    drawn, axes = figure(len(strips), height=height, squeeze=False, height_ratios=lines)
    for ax, count, (title, boxes) in zip(axes[:, 0], lines, placed.items(), strict=True):
        for (left, line, text), kind in zip(boxes, strips[title][1], strict=True):
            wide = len(text) + INSIDE
            ax.barh(line, wide, left=left, height=0.86, color=COLOURS[kind])
            ax.text(left + wide / 2, line, text, ha="center", va="center", family="monospace", fontsize=11, color=ON)
        ax.set(title=title, xticks=[], yticks=[], xlim=(0, LETTERS), ylim=(count - 0.5, -0.5))
        ax.spines[["left", "bottom"]].set_visible(False)
    kinds = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, names, strict=True)]
    drawn.legend(handles=kinds, loc="outside lower left", ncols=len(kinds), frameon=False)
    return drawn


def _placed(texts: list[str]) -> list[tuple[float, int, str]]:
    """(left edge, line, text) of each: as many in a line as have room."""
    boxes, left, line = [], 0.0, 0
    for text in texts:
        wide = len(text) + INSIDE
        if left and left + wide > LETTERS:
            left, line = 0.0, line + 1
        boxes.append((left, line, text))
        left += wide + GAP
    return boxes
