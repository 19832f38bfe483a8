"""What the explorers share: a widget with a picture for where no widget runs, and the export as one page."""

import base64
import json
import lzma
from pathlib import Path

import anywidget
import traitlets

from helpers import design, figures, files, language

FOLDER = Path(__file__).parent
RECORDED = "application/vnd.course.explorer+json"  # the kind of output that a page without a kernel makes clickable
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


def javascript(name: str, *modules: str, before: str = "") -> str:
    """The code of an explorer: what it uses of the engine, what all explorers have in common, then what stands
    ``before`` its own, and ``name.js``, which defines and exports ``render``."""
    shared, own = (
        [(FOLDER / f"{part}.js").read_text(encoding="utf-8") for part in ("dom", "common")],
        FOLDER / f"{name}.js",
    )
    colours = json.dumps(design.stylesheet(".rx", ".rx[data-theme=dark]"))
    return "\n".join(
        [plain_script(*modules), f"const DESIGN_CSS = {colours};", *shared, before, own.read_text("utf-8")]
    )


class Explorer(anywidget.AnyWidget):
    """A widget whose logic is JavaScript alone; ``data`` is all that it needs, with ``labels`` in both languages.

    It starts in the page's language, ``data["lang"]``; where that is None, in the one that the page's address names.
    A subclass sets ``_esm`` and says with :meth:`picture` what stands in its place where no widget runs.
    """

    data = traitlets.Dict().tag(sync=True)

    def __init__(self, data: dict):
        super().__init__(data=self.common() | data | {"lang": language.LANGUAGE})

    @classmethod
    def common(cls) -> dict:
        """The part of ``data`` that all explorers of a class have alike, such as labels; a recording leaves it out."""
        return {}

    def recorded(self) -> dict[str, str]:
        """The class's name and what only this explorer shows, packed: all that :func:`replayed` needs."""
        own = {key: value for key, value in self.data.items() if key not in self.common() and key != "lang"}
        packed = lzma.compress(json.dumps(own, ensure_ascii=False).encode())
        return {"explorer": type(self).__name__, "packed": base64.b64encode(packed).decode()}

    def picture(self):
        """A matplotlib figure that shows the same, with labels in the page's language."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        shown = super()._repr_mimebundle_(**kwargs)
        if shown is None:
            return None
        bundle, info = shown
        drawn = self.picture()
        return bundle | {RECORDED: self.recorded()} | figures.bundle(drawn), info | figures.about(drawn)

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


def replayed(recorded: dict[str, str]) -> dict:
    """What a page without a kernel needs of an explorer that was recorded: its JavaScript and its state.

    Raises ValueError for what :meth:`Explorer.recorded` did not write.
    """
    kinds = {kind.__name__: kind for kind in Explorer.__subclasses__()}
    try:
        kind = kinds[recorded["explorer"]]
        own = json.loads(lzma.decompress(base64.b64decode(recorded["packed"])))
    except (KeyError, ValueError, lzma.LZMAError) as error:
        raise ValueError(f"no recorded explorer: {error}") from error
    return {"esm": kind._esm, "state": {"data": kind.common() | own | {"lang": None}}}
