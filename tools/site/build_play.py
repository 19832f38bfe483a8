"""Builds the model in the page: build/site/play.html, which fetches the model's files from build/site/model/ when it is
first touched, and build/site/play-offline.html, which holds them and works from a disk.

    python -m tools.site.build_play        into build/site

Both are one file of HTML each: the sources in helpers/explorer/play and the engine in helpers/explorer/qwen, joined.
"""

import argparse
import base64
import hashlib
import json
import math
import re
import shutil
import sys
from pathlib import Path

from helpers import ROOT, design, loading
from helpers.checkpoint import read_header
from helpers.explorer import live
from helpers.explorer.live import FILES, MODEL
from helpers.explorer.page import FOLDER, plain_script

PAGE = ("texts", "state", "table", "flow", "playback", "heatmap", "scissors", "client", "play")


def policy(*, scripts: list[str], style: str, connect: str) -> str:
    """The content security policy that lets these scripts and this style run, and nothing else."""

    def allowed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {' '.join(map(allowed, scripts))}; style-src {allowed(style)}; "
        f"worker-src blob:; connect-src {connect}; img-src data:; base-uri 'none'; form-action 'none'"
    )


def lean(code: str) -> str:
    """JavaScript without lines that are comments, and without indentation: a fifth less to fetch.

    Raises ValueError for a literal that goes over lines, since it would lose its own.
    """
    if odd := [line for line in code.splitlines() if line.count("`") % 2]:
        raise ValueError(f"a template literal goes over lines: {odd[0].strip()}")
    code = re.sub(r"^\s*/\*.*?\*/\s*$", "", code, flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for line in code.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def about(model: Path) -> dict:
    """What the page says of the model: sizes out of its files."""
    header, config = read_header(model / "model.safetensors")[0], loading.qwen_config(model)
    return {
        "parameters": sum(math.prod(entry["shape"]) for entry in header.values()),
        "layers": config.num_hidden_layers,
        "experts": config.num_experts,
        "topK": config.num_experts_per_tok,
    }


def engine() -> str:
    """The script of the worker in which the model runs."""
    return lean(live.worker())


def page(model: Path, *, offline: bool) -> str:
    """The page with the files of ``model``, inside it or in a folder ``model`` beside it."""
    code = lean("\n".join([(FOLDER / "dom.js").read_text(encoding="utf-8"), plain_script(*PAGE, folder="play")]))
    own = "".join((FOLDER / "play" / f"{name}.css").read_text(encoding="utf-8") for name in ("flow", "play"))
    style = design.stylesheet(dark=":root[data-theme=dark]") + own
    inside = ""
    if offline:
        encoded = {name: base64.b64encode(content).decode() for name, content in live.read(model).items()}
        inside = f'<script type="application/json" id="model">{json.dumps(encoded)}</script>\n'
    parts = {
        "policy": policy(scripts=[engine(), code], style=style, connect="'none'" if offline else "'self'"),
        "style": style,
        "data": json.dumps({"files": live.described(live.read(model)), "about": about(model)}),
        "model": inside,
        "engine": engine(),
        "page": code,
    }
    for name in ("engine", "page"):
        if "</script" in parts[name] or "<!--" in parts[name]:
            raise ValueError(f"{name} would end its own element: spell </script and <!-- otherwise.")
    pieces = (FOLDER / "play" / "page.html").read_text(encoding="utf-8")
    before, *rest = pieces.split("{")
    return before + "".join(parts[name] + text for name, text in (piece.split("}", 1) for piece in rest))


def build(target: Path, model: Path = MODEL) -> None:
    """Both pages, the model's files and the worker's script, for other pages, into the folder ``target``."""
    (target / "model").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(model / name, target / "model" / name)
    (target / "model" / "engine.js").write_text(engine(), encoding="utf-8", newline="\n")
    for name, offline in (("play.html", False), ("play-offline.html", True)):
        (target / name).write_text(page(model, offline=offline), encoding="utf-8", newline="\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=ROOT / "build" / "site", help="folder (build/site)")
    target = parser.parse_args(arguments).target
    build(target)
    print(target / "play.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
