"""What the explorers share: a widget with a picture for where no widget runs, and the export as one page."""

import json
from pathlib import Path

import anywidget
import traitlets

from helpers import design, figures, files, language

FOLDER = Path(__file__).parent
PAGE = """<!doctype html>
<html lang="{lang}">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ margin: 16px; background: Canvas; color-scheme: light dark }} .rx {{ margin: auto }}</style>
<body>
<script type="application/json" id="data">{data}</script>
<script type="module">
{javascript}
const data = JSON.parse(document.getElementById("data").textContent);
render({{ model: {{ get: () => data }}, el: document.body }});
</script>
</body>
</html>
"""


def plain_script(*modules: str, folder: str = "qwen") -> str:
    """Modules of a folder without their imports and exports, by default of the engine; each stands behind those that it
    needs."""
    texts = [(FOLDER / folder / f"{module}.js").read_text(encoding="utf-8") for module in modules]
    lines = [line for text in texts for line in text.splitlines() if not line.startswith("import ")]
    return "\n".join(line.removeprefix("export ") for line in lines)


def javascript(name: str, *modules: str) -> str:
    """The code of an explorer: what it uses of the engine, what all explorers have in common, then ``name.js``, which
    defines and exports ``render``."""
    parts = [(FOLDER / f"{part}.js").read_text(encoding="utf-8") for part in ("dom", "common", name)]
    colours = json.dumps(design.stylesheet(".rx", ".rx[data-theme=dark]"))
    return "\n".join([plain_script(*modules), f"const DESIGN_CSS = {colours};", *parts])


class Explorer(anywidget.AnyWidget):
    """A widget whose logic is JavaScript alone; ``data`` is all that it needs, with ``labels`` in both languages.

    It starts in the page's language, ``data["lang"]``; where that is None, in the one that the page's address names.
    A subclass sets ``_esm`` and says with :meth:`picture` what stands in its place where no widget runs.
    """

    data = traitlets.Dict().tag(sync=True)

    def __init__(self, data: dict):
        super().__init__(data=data | {"lang": language.LANGUAGE})

    def picture(self):
        """A matplotlib figure that shows the same, with labels in the page's language."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        shown = super()._repr_mimebundle_(**kwargs)
        if shown is None:
            return None
        bundle, info = shown
        drawn = self.picture()
        return bundle | figures.bundle(drawn), info | figures.about(drawn)

    def to_html(self, path: str | Path, lang: str | None = None) -> None:
        """Write the explorer as one page that needs no network and makes no request.

        lang: ``zh`` or ``en``, in which it starts; the page's language if it is left out, ``zh`` if there is none.
        """
        lang = lang or self.data["lang"] or "zh"
        # Text from data may hold "</script>" or "<!--": without any "<" the data cannot end its element.
        data = json.dumps(self.data | {"lang": lang}, ensure_ascii=False).replace("<", "\\u003c")
        title = " · ".join(self.data["labels"][language]["title"] for language in ("en", "zh"))
        page = PAGE.format(lang=lang, title=title, data=data, javascript=self._esm)
        with files.replacing(path) as file:
            file.write(page.encode())
