"""Draws the map at the top of every lesson: the way from a machine to a service, and where on it the lesson stands.

    .venv/bin/python -m tools.art.way

It writes assets/figures/way_NN_LANG.svg for each lesson. The stations, and which lessons are at each of them, stand in
``tools.lessons.source``. In JupyterLab and on GitHub the map takes the theme of the page, on a ground of its own for
viewers whose page does not say it; the site draws it into its pages.
"""

from helpers import ROOT
from helpers.design import DARK, DESIGN, LIGHT
from helpers.language import width
from tools.lessons.source import INSIDE, LANGUAGES, SERVED, lesson_names, stations_of

HERE = {"zh": "你在这里", "en": "you are here"}
WIDTH, HEIGHT, BOX = 480, 76, 26  # of the map, and the height of a station
LETTERS = 17  # 12 px where the map is as wide as a phone's page
COLOURS = ("bg", "panel", "line", "ink", "muted", "accent")


def wide(name: str) -> int:
    """The width of a station: what a wide font needs for its name."""
    return round(9.6 * width(name)) + 12


def words(name: str, middle: float, y: float, colour: str = "ink") -> str:
    return f'<text x="{middle:g}" y="{y:g}" text-anchor="middle" fill="var(--{colour})">{name}</text>'


def box(x: float, y: float, wide: float, high: float, ground: str, line: str) -> str:
    colours = f'fill="var(--{ground})" stroke="var(--{line})"'
    return f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="6" {colours}/>'


def tab(x: float, wide: float, ground: str, line: str) -> str:
    """The engine: open to the panel of what happens inside it."""
    colours = f'fill="var(--{ground})" stroke="var(--{line})"'
    return f'<path d="M{x:g} {BOX + 4}V7q0 -6 6 -6h{wide - 12:g}q6 0 6 6V{BOX + 4}" {colours}/>'


def arrow(line: str, head: str) -> str:
    return f'<path d="{line}" fill="none" stroke="var(--muted)"/><path d="{head}z" fill="var(--muted)"/>'


def row(names: dict[str, str], here: set[str], x: float, y: float, gap: float) -> tuple[str, dict[str, float]]:
    """Stations from left to right, arrows between them; and the middle of each."""
    drawn = ""
    middles: dict[str, float] = {}
    for key, name in names.items():
        if middles:
            drawn += arrow(f"M{x - gap + 2:g} {y + BOX / 2:g}h{gap - 8:g}", f"M{x - 1:g} {y + BOX / 2:g}l-6 -4v8")
        ground, line, ink = ("accent", "accent", "bg") if key in here else ("bg", "line", "ink")
        if key == "engine":
            drawn += tab(x, wide(name), ground if key in here else "panel", line)
        else:
            drawn += box(x, y, wide(name), BOX, ground, line)
        middles[key] = x + wide(name) / 2
        drawn += words(name, middles[key], y + BOX / 2 + 6, ink)
        x += wide(name) + gap
    return drawn, middles


def draw(lesson: str, lang: str, alone: bool = True) -> str:
    """The map of a lesson as an SVG. alone: with colours and ground of its own, not those of the page around it.

    What happens inside the engine is a panel under it: each new token goes back to the others.
    """
    here = {station.en for station in stations_of(lesson)}
    outside, inside = ({station.en: getattr(station, lang) for station in row} for row in (SERVED, INSIDE))
    gap = (WIDTH - 18 - sum(map(wide, inside.values()))) / (len(INSIDE) - 1)
    served, _ = row(outside, here, 1, 1, 12)
    steps, middles = row(inside, here, 9, BOX + 9, gap)
    start, back, end = middles["sampling"], middles["token ids"], 2 * BOX + 9
    said = 9.2 * width(HERE[lang])
    parts = (
        f"<style>{own_colours()}</style>{box(0, 0, WIDTH, HEIGHT, 'bg', 'bg')}" if alone else "",
        box(0.5, BOX + 3, WIDTH - 1, HEIGHT - BOX - 3.5, "panel", "accent" if "engine" in here else "line"),
        served,
        steps,
        arrow(f"M{start:g} {end}v8H{back:g}v-4", f"M{back:g} {end}l-4 6h8"),
        box(WIDTH - said - 14, BOX / 2 - 3, 9, 9, "accent", "accent"),
        words(HERE[lang], WIDTH - said / 2, BOX / 2 + 7, "muted"),
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f"font-family='{DESIGN['font']}' font-size=\"{LETTERS}\">{''.join(parts)}</svg>"
    )


def own_colours() -> str:
    light, dark = (";".join(f"--{name}:{theme[name]}" for name in COLOURS) for theme in (LIGHT, DARK))
    return f"svg{{{light}}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"


def pictures() -> dict[str, str]:
    """What stands in assets/figures, by name: the maps of all lessons."""
    return {
        f"way_{lesson.partition('_')[0]}_{lang}.svg": draw(lesson, lang) + "\n"
        for lesson in lesson_names(ROOT)
        for lang in LANGUAGES
    }


if __name__ == "__main__":
    for name, picture in pictures().items():
        (ROOT / "assets" / "figures" / name).write_text(picture, encoding="utf-8")
