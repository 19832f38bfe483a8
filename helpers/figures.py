"""The style of all figures, their fonts, and what a figure says in words. Drawings are in the rooms of their lessons.

Every function that draws returns a matplotlib ``Figure``; a cell that ends with one shows it.
"""

import io
import re

from helpers.models import ROOT
from helpers.tokens import shown

CHINESE_FONT = ROOT / "assets" / "fonts" / "NotoSansSC-subset.ttf"
WORD = re.compile(r"[^\W\d_]{2}|[\u4e00-\u9fff]")
WIDTH = 10  # inches: the text width of a notebook
LABEL_LENGTH = 14  # characters of a token

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
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=100)
    return file.getvalue()


def printable(piece: bytes) -> str:
    """A token as :func:`helpers.tokens.shown` writes it, with the bytes of a character where no font has a glyph."""
    from matplotlib.font_manager import findfont, get_font

    glyphs = [get_font(file).get_charmap() for file in (findfont("DejaVu Sans"), CHINESE_FONT)]
    drawn = "".join(
        char if any(ord(char) in font for font in glyphs) else "".join(f"<{byte:02X}>" for byte in char.encode())
        for char in shown(piece)
    )
    return drawn.replace("$", r"\$")  # matplotlib would set formulas between two of them


def token_label(piece: bytes) -> str:
    """A token as :func:`printable` writes it, cut to what an axis has room for."""
    text = printable(piece)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"
