"""Writes the READMEs' pictures: the routing explorer on the committed trace, in both languages, light and dark.

    .venv/bin/python -m tools.art.front_picture

It needs Debian's chromium and a Chinese font; look at the pictures before you commit them.
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from helpers import ROOT
from helpers.explorer.routing import RoutingExplorer
from helpers.routing import RoutingTrace

ASSETS = ROOT / "assets"
TOKEN, LAYER = 13, 1
# The whole text without scrolling; the READMEs say in their caption what the notes below the panels say.
STYLE = ".rx .rx-text { max-height: none } .rx details, .rx-captions { display: none }"


def main():
    trace = RoutingTrace.load(ASSETS / "traces" / "routing-qwen3-moe-tiny.npz")
    pictures = ASSETS / "figures"
    pictures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for lang in ("zh", "en"):
            page_file = Path(folder) / f"{lang}.html"
            RoutingExplorer(trace, token=TOKEN, layer=LAYER).to_html(page_file, lang=lang)
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": 1000, "height": 900}, color_scheme=scheme, device_scale_factor=1.5
                )
                page.goto(page_file.as_uri())
                page.add_style_tag(content=STYLE)
                picture = Image.open(io.BytesIO(page.locator(".rx").screenshot()))
                picture.convert("RGB").quantize(256).save(
                    pictures / f"routing_explorer_{lang}_{scheme}.png", optimize=True
                )
                page.close()
        browser.close()


if __name__ == "__main__":
    main()
