"""The style of all figures, their fonts, and what a figure says in words. Drawings are in the rooms of their lessons.

Every function that draws returns a matplotlib ``Figure``; a cell that ends with one shows it.
"""

import base64
import io
import lzma
import re

from helpers.design import EXPERT_LINES, EXPERTS, LIGHT, ON
from helpers.language import width
from helpers.models import ROOT
from helpers.tokens import shown

EXPERT_COLOURS = EXPERTS  # for cells that draw
CHINESE_FONT = ROOT / "assets" / "fonts" / "NotoSansSC-subset.ttf"
WORD = re.compile(r"[^\W\d_]{2}|[\u4e00-\u9fff]")
WIDTH = 7  # inches: the text width of a page
WIDE = 3  # panels that have room beside each other; a row of more is broken
LONG_NUMBER = re.compile(r"scale\([^)]*\)|(\.\d\d)\d+")  # scales stay exact: they multiply what they hold
GLYPH = re.compile(r'(<path id="[^"]*" d=")([^"]*)("\s+transform="scale\()0\.015625(\)"/>)')  # a letter's outline
GRID = 16  # of its units, 6400 to a letter's height, are one: what nobody sees takes a fifth of a figure's room
NAMED = re.compile(r' id="([^"]*)"')
REFERENCE = re.compile(r"#([\w.-]+)")
LABEL_LENGTH = 14  # characters of a token
NUMBER, FEW = 9, 3  # points that the number of a line is tall; lines that end together and have theirs in one column
SVG = "application/vnd.course.figure+svgxz"  # a figure as SVG, packed, which only the site reads

STYLE = {
    "font.family": ["DejaVu Sans", "Noto Sans SC Subset"],
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "figure.titlesize": 11,
    "figure.labelsize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "grid.color": LIGHT["line"],
    "legend.edgecolor": LIGHT["line"],
    "legend.framealpha": 0.85,
    "axes.facecolor": LIGHT["bg"],
    "figure.facecolor": LIGHT["bg"],
    "savefig.facecolor": LIGHT["bg"],
    "figure.dpi": 100,
    "svg.fonttype": "path",  # a reader's machine may have no font with these characters
    "svg.hashsalt": "course",
}


def figure(rows=1, columns=1, height=3.0, wide=WIDE, **options):
    """A figure and its axes in the style of the course; ``options`` are those of ``plt.subplots``.

    A row of more than ``wide`` panels is broken into several, each ``height`` inches over ``rows``; the axes keep the
    shape that was asked for. The style stays set, so that what a learner draws afterwards looks like the rest.
    """
    import matplotlib.pyplot as plt
    from matplotlib import font_manager

    if str(CHINESE_FONT) not in {font.fname for font in font_manager.fontManager.ttflist}:
        font_manager.fontManager.addfont(CHINESE_FONT)
    plt.rcParams.update(STYLE)
    if columns > wide:
        drawn, axes = _broken(rows, columns, height, wide, **options)
    else:
        drawn, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **options)
    drawn.set_layout_engine(_layout())
    plt.close(drawn)  # or a notebook would show it a second time at the end of the cell
    return drawn, axes


def _broken(rows, columns, height, wide, sharex=False, sharey=False, squeeze=True, width_ratios=None):
    """Panels, at most ``wide`` beside each other, as axes of the shape (rows, columns), or (columns,) for a single row.

    ``width_ratios`` are those of panels that all stand beside each other: they have no meaning here.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    lines = -(-columns // wide)
    wide = -(-columns // lines)  # four become two and two
    drawn, grid = plt.subplots(
        rows * lines, wide, figsize=(WIDTH, height * lines), layout="constrained", squeeze=False,
        sharex=sharex, sharey=sharey if sharey != "row" else False,
    )  # fmt: skip
    by_row = grid.reshape(rows, lines * wide)
    for spare in by_row[:, columns:].flat:
        spare.remove()
    axes = by_row[:, :columns]
    for row in axes if sharey == "row" else ():
        for ax in row[1:]:
            ax.sharey(row[0])
    return drawn, axes if rows > 1 or not squeeze else np.asarray(axes[0])


def _layout():
    """Matplotlib's constrained layout, which also sees to what nobody wants to write in every cell that draws: titles
    that are wider than their panel, expert colours too light for a line, ink on a filling."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class Layout(ConstrainedLayoutEngine):
        def execute(self, fig):
            super().execute(fig)
            changed = [change(ax) for ax in fig.axes for change in (_break_title, _draw_experts_as_lines, _ink_texts)]
            if any(changed):
                super().execute(fig)

    return Layout()


def _break_title(ax) -> bool:
    """Breaks the title of a panel where it is too wide; says whether it did."""
    from matplotlib.text import Text

    said = ax.get_title(loc="left")
    shown = [text for text in ax.findobj(Text) if said and text.get_text() == said and text.axes is ax]
    if not shown:
        return False
    wide, room = shown[0].get_window_extent().width, ax.get_window_extent().width
    lines = said.split("\n")
    # a letter's share of the widest line, of which a Chinese one is two
    letters = max(width(line) for line in lines) * room / wide
    broken = "\n".join(_broken_line(line, letters) for line in lines)
    if wide <= 1.02 * room or broken == said:
        return False
    ax.set_title(broken, loc="left")
    return True


def _draw_experts_as_lines(ax) -> bool:
    """Gives lines in most of the experts' colours the darker ones, and a number each; says whether it did."""
    from matplotlib.colors import to_hex

    lines = [
        (EXPERTS.index(to_hex(line.get_color())), line) for line in ax.lines if to_hex(line.get_color()) in EXPERTS
    ]
    if len(lines) < len(EXPERTS) // 2 or len({expert for expert, _ in lines}) < len(lines):
        return False
    point = ax.figure.dpi / 72
    ends = sorted((ax.transData.transform(line.get_xydata()[-1])[1] / point, expert, line) for expert, line in lines)
    for (y, expert, line), (height, column) in zip(ends, _beside([y for y, *_ in ends]), strict=True):
        line.set_color(EXPERT_LINES[expert])
        ax.annotate(
            str(expert), line.get_xydata()[-1], (4 + 8 * column, height - y), textcoords="offset points",
            color=EXPERT_LINES[expert], fontsize=NUMBER, va="center", annotation_clip=False,
        )  # fmt: skip
    return True


def _beside(ends: list[float]) -> list[tuple[float, int]]:
    """(height, column) of a number for each of the lines that end at these rising heights, in points: where it ends, or
    in a block around the middle of lines that end close to each other, two in a row if they are many."""

    def size(bundle: list[float]) -> tuple[int, int]:
        columns = 1 if len(bundle) <= FEW else 2
        return -(-len(bundle) // columns), columns

    def middle(bundle: list[float]) -> float:
        return sum(bundle) / len(bundle)

    bundles: list[list[float]] = []
    for end in ends:
        bundles.append([end])
        while len(bundles) > 1:
            low, high = bundles[-2:]
            if middle(high) - middle(low) >= NUMBER * (size(low)[0] + size(high)[0]) / 2:
                break
            bundles[-2:] = [low + high]
    places = []
    for bundle in bundles:
        rows, columns = size(bundle)
        lowest = middle(bundle) - NUMBER * (rows - 1) / 2
        places += [(lowest + NUMBER * (place // columns), place % columns) for place in range(len(bundle))]
    return places


def _ink_texts(ax) -> bool:
    """Sets ink that stays dark on fillings that stay as they are in the dark theme; the layout stays the same."""
    from matplotlib.colors import to_hex

    swapped = {*LIGHT.values(), *EXPERT_LINES}
    fixed = [patch for patch in ax.patches if to_hex(patch.get_facecolor()) not in swapped]
    for text in ax.texts if fixed else ():
        box = text.get_window_extent()
        centre = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        inked = to_hex(text.get_color()) == LIGHT["ink"]
        if inked and any(patch.contains_point(centre) for patch in fixed):
            text.set_color(ON)
    return False


def _broken_line(line: str, letters: float) -> str:
    """The line in two if it is wider than ``letters``: behind a space or a Chinese sign, as late as there is room."""
    places = [match.end() for match in re.finditer(r"\s|[，：。、；）]|(?=（)", line)]
    fitting = [place for place in places if 0 < place < len(line) and width(line[:place].rstrip()) <= letters]
    if width(line) <= letters or not places:
        return line
    place = max(fitting, default=places[0])
    return f"{line[:place].rstrip()}\n{line[place:]}" if place < len(line) else line


def labels(drawn) -> list[str]:
    """What a figure says in words: titles, axes, legends and notes, each once; numbers, signs, single letters are none.

    The order is that of matplotlib's tree.
    """
    from matplotlib.text import Text

    drawn.draw_without_rendering()  # or labels that a formatter makes would still be empty
    texts = [text.get_text().strip() for text in drawn.findobj(Text) if text.get_visible()]
    return [text for text in dict.fromkeys(texts) if WORD.search(text)]


def keep_figures() -> None:
    """From now on every matplotlib figure that this kernel shows is kept as a sharp PNG and as SVG, and has its
    :func:`labels` in the output's metadata.

    tools/lessons/record.py calls it in the kernels that it starts: a test can read what the pictures say, GitHub shows
    the PNG (it has failed to show SVG in notebooks before), and the site the SVG.
    """
    from IPython import get_ipython

    def describe(drawn):
        return bundle(drawn), about(drawn)

    get_ipython().display_formatter.mimebundle_formatter.for_type_by_name("matplotlib.figure", "Figure", describe)


def bundle(drawn) -> dict[str, str]:
    """A figure as an output holds it: by kind, in base64."""
    packed = lzma.compress(svg(drawn).encode())  # two thirds of what gzip makes of the many coordinates
    return {"image/png": base64.b64encode(png(drawn)).decode(), SVG: base64.b64encode(packed).decode()}


def unpacked(recorded: str) -> str:
    """The SVG element that an output of kind :data:`SVG` holds."""
    return lzma.decompress(base64.b64decode(recorded)).decode()


def about(drawn) -> dict:
    """The metadata of that output: the figure's :func:`labels`, and its size in the pixels of a page."""
    wide, high = (96 * drawn.get_size_inches()).round().astype(int).tolist()
    return {"course": {"labels": labels(drawn)}, "image/png": {"width": wide, "height": high}}


def png(drawn) -> bytes:
    """The figure as a PNG file of 144 dots per inch, half as many again as a page has: the site shows the SVG."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=144)
    return file.getvalue()


def svg(drawn) -> str:
    """The figure as an SVG element; coordinates keep two decimals, and outlines of letters fewer."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({name: STYLE[name] for name in STYLE if name.startswith("svg.")}):  # plain ones too
        drawn.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL
    )  # the words, the date
    used = set(REFERENCE.findall(text))
    text = NAMED.sub(lambda match: match[0] if match[1] in used else "", re.sub(r"\s*\n\s*", "\n", text))
    return GLYPH.sub(_coarser, LONG_NUMBER.sub(lambda match: match[1] or match[0], text))


def _coarser(glyph: re.Match) -> str:
    outline = re.sub(r"-?\d+", lambda number: str(round(int(number[0]) / GRID)), glyph[2])
    return f"{glyph[1]}{outline}{glyph[3]}{GRID / 64}{glyph[4]}"


def pale(colour: str) -> tuple[float, float, float]:
    """The colour as behind a filling of it, opaque, so that text is as easy to read in the dark theme."""
    from matplotlib.colors import to_rgb

    red, green, blue = (0.35 * part + 0.65 for part in to_rgb(colour))
    return red, green, blue


def ink_on(colour) -> str:
    """Black or white, whichever is easier to read on a colour of matplotlib; the contrast is 4.58 or more."""
    from matplotlib.colors import to_rgb

    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#fffffe"  # not the white that follows the theme


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
