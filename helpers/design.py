"""The design that the site, the slides, the explorers and the figures share; its values stand in design.json alone.

``light`` and ``dark`` name the same colours. ``first`` to ``fourth``, ``strong``, ``quiet`` and ``rest`` are those of
series in figures. A filling that says which expert has its colour of ``experts`` in both themes, with ``on`` for the
text on it; a line that says it has the darker one of ``expertLines`` on a light page. The fillings are Paul Tol's
"light" scheme, made for cells with dark text and readable without colour vision (https://sronpersonalpages.nl/~pault);
more than eight experts repeat it, so the number of the expert always stands beside its colour.
"""

import json
import re
from pathlib import Path

DESIGN = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
LIGHT, DARK = DESIGN["light"], DESIGN["dark"]
EXPERTS, EXPERT_LINES, ON = tuple(DESIGN["experts"]), tuple(DESIGN["expertLines"]), DESIGN["on"]
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")


def properties(theme: dict[str, str]) -> str:
    """The colours of a theme as CSS custom properties, such as ``--ink:#123456``."""
    lines = EXPERT_LINES if theme is LIGHT else EXPERTS
    values = theme | {f"expert-line-{expert}": colour for expert, colour in enumerate(lines)}
    return ";".join(f"--{name}:{value}" for name, value in values.items())


def shared_properties() -> str:
    """What both themes have in common as CSS custom properties."""
    values = {f"expert-{expert}": colour for expert, colour in enumerate(EXPERTS)}
    values |= {name: value for name, value in DESIGN.items() if isinstance(value, str)}
    return ";".join(f"--{name}:{value}" for name, value in values.items())


def stylesheet(root: str = ":root", dark: str = 'html[data-theme="dark"]') -> str:
    """All of it as CSS: on ``root`` in the light theme, changed on ``dark``."""
    return (
        f"{root} {{ {shared_properties()};{properties(LIGHT)};color-scheme:light }}\n"
        f"{dark} {{ {properties(DARK)};color-scheme:dark }}\n"
    )


def follow_theme(svg: str) -> str:
    """A figure drawn in the light theme whose colours are custom properties, so that it follows the page's theme."""
    names = {colour: name for name, colour in LIGHT.items()}
    names |= {colour: f"expert-line-{expert}" for expert, colour in enumerate(EXPERT_LINES)}
    return COLOUR.sub(lambda match: f"var(--{names[match[0].lower()]})" if match[0].lower() in names else match[0], svg)
