"""What every explorer shares: the picture for where no widget runs, and the page of its own that needs no network."""

import base64
import json
import os
from pathlib import Path

import anywidget
import traitlets

from helpers import plots

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


def javascript(name: str) -> str:
    """The JavaScript of the explorer ``name``, behind what all of them share."""
    return "\n".join(Path(__file__).with_name(f"{file}.js").read_text(encoding="utf-8") for file in ("_page", name))


class Explorer(anywidget.AnyWidget):
    """A widget whose JavaScript needs nothing but the trait ``data``, which is JSON.

    A subclass sets ``_esm`` and ``page_title`` and writes ``picture()``: the matplotlib figure that stands in its place
    where no widget runs (a notebook that was opened and not executed, GitHub).
    """

    page_title = ""
    data = traitlets.Dict().tag(sync=True)

    def picture(self):
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        bundle, info = super()._repr_mimebundle_(**kwargs)
        return bundle | {"image/png": base64.b64encode(plots.png(self.picture())).decode()}, info

    def to_html(self, path: str | Path, lang: str = "zh") -> None:
        """Write the explorer as one page that needs no network and makes no request. lang: ``zh`` or ``en``."""
        # Text in the data may hold "</script>" or "<!--": without any "<" the data cannot end its element.
        data = json.dumps(self.data, ensure_ascii=False).replace("<", "\\u003c")
        page = PAGE.format(lang=lang, title=self.page_title, data=data, javascript=self._esm)
        temporary = Path(f"{path}.part")
        try:
            temporary.write_text(page, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
