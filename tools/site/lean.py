"""Makes pages of the site light: one style sheet and one script in place of the theme's, without what no page uses."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from helpers import design

STYLES = ("basic.css", "styles/pydata-sphinx-theme.css", "pygments.css", "styles/sphinx-book-theme.css", "course.css")
SCRIPTS = ("scripts/sphinx-book-theme.js", "scripts/bootstrap.js", "scripts/pydata-sphinx-theme.js", "explorers.js")
SEARCH_ONLY = re.compile(r'\s*<script src="(?:_static/(?:searchtools|language_data)|searchindex)\.js[^>]*></script>')
STYLE_LINK = re.compile(r'\s*<link (?:href|rel="stylesheet"[^>]*href)="_static/[^"]+\.css[^>]*>')
SCRIPT_LINK = re.compile(
    r'\s*(?:<!-- So that users can add custom icons -->\s*)?<script [^>]*src="_static/'
    r'(?:scripts/[\w-]+|explorers|page)\.js[^>]*></script>|\s*<link rel="preload" as="script"[^>]*>'
)
CLASS = re.compile(r"\.(-?[A-Za-z_](?:[\w-]|\\.)*)")
TOKEN = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[{};]', re.DOTALL)
LEFT_OVER = ("scripts", "styles", "vendor", "locales")  # folders of the theme that no page needs any more


def rules(css: str) -> Iterator[tuple[str, str | None]]:
    """The top-level rules of a style sheet: what stands before a rule's braces and what in them, None for ``@x;``."""
    start = depth = opened = 0
    for token in TOKEN.finditer(css):
        if token[0] == "{":
            depth += 1
            if depth == 1:
                opened = token.start()
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                yield _plain(css[start:opened]), css[opened + 1 : token.start()]
                start = token.end()
        elif token[0] == ";" and depth == 0:
            yield _plain(css[start : token.end()]), None
            start = token.end()


def _plain(prelude: str) -> str:
    return re.sub(r"/\*.*?\*/", "", prelude, flags=re.DOTALL).strip()


def used_rules(css: str, used: set[str]) -> str:
    """The style sheet without rules for classes that are not in ``used``, fonts, and imports."""
    kept = []
    for prelude, body in rules(css):
        if body is None or prelude.startswith("@font-face"):
            continue
        if prelude.startswith(("@media", "@supports", "@layer", "@container")):
            if inner := used_rules(body, used):
                kept.append(f"{prelude}{{{inner}}}")
        elif prelude.startswith("@"):
            kept.append(f"{prelude}{{{body}}}")
        else:
            # a comma inside :is(...) parts no selectors
            selectors = re.split(r",(?![^(]*\))", prelude)
            if left := [selector for selector in selectors if _may_match(selector, used)]:
                kept.append(f"{','.join(left)}{{{body}}}")
    return "\n".join(kept)


def _may_match(selector: str, used: set[str]) -> bool:
    required = re.sub(r":(?:not|is|where|has)\([^()]*(?:\([^()]*\)[^()]*)*\)", "", selector)
    return all(name.replace("\\", "") in used for name in CLASS.findall(required))


def make_lean(folder: Path) -> None:
    """Rewrites the pages of one language in place."""
    static = folder / "_static"
    pages = {path: path.read_text(encoding="utf-8") for path in folder.glob("*.html")}
    scripts = [(static / name).read_text(encoding="utf-8") for name in (*SCRIPTS, "page.js")]
    classes = [name for text in pages.values() for name in re.findall(r'class="([^"]*)"', text)]
    used = set(re.findall(r"[\w-]+", " ".join([*classes, *scripts])))
    sheets = [(static / name).read_text(encoding="utf-8") for name in STYLES[:-1]]
    sheets += [path.read_text(encoding="utf-8") for path in static.glob("mystnb.*.css")]
    css = [*(used_rules(sheet, used) for sheet in sheets), design.stylesheet()]
    sources = [re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE) for text in scripts]
    links = {
        "site.css": "\n".join([*css, (static / "course.css").read_text(encoding="utf-8")]),
        "site.js": ";\n".join(sources),
    }
    head = {"site.css": '<link rel="stylesheet" href="{}">', "site.js": '<script defer src="{}"></script>'}
    tags = ""
    for name, text in links.items():
        (static / name).write_text(text, encoding="utf-8")
        tags += head[name].format(f"_static/{name}?v={hashlib.sha256(text.encode()).hexdigest()[:8]}") + "\n"
    for path, text in pages.items():
        text = SCRIPT_LINK.sub("", STYLE_LINK.sub("", text))
        if path.name != "search.html":
            text = SEARCH_ONLY.sub("", text)
        path.write_text(text.replace("</head>", f"{tags}</head>", 1), encoding="utf-8")
    for name in LEFT_OVER:
        shutil.rmtree(static / name, ignore_errors=True)
