"""Sphinx settings of the site in one language, the tag zh or en; tools/site/build_site.py writes its pages."""

import html
import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.search import SearchLanguage

LANG = "zh" if tags.has("zh") else "en"  # noqa: F821 - Sphinx provides `tags`
NAMES = {"zh": "Qwen3 笔记本课", "en": "Qwen3 in Notebooks"}

project = NAMES[LANG]
author = ""
language = {"zh": "zh_CN", "en": "en"}[LANG]
extensions = ["myst_nb"]
templates_path = ["_templates"]
exclude_patterns = []

nb_execution_mode = "off"  # tools/site/build_site.py has run the lessons
nb_ipywidgets_js = {}  # explorers.js runs them
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"  # browsers draw it themselves: no script, no fonts

html_theme = "sphinx_book_theme"
html_title = NAMES[LANG]
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["course.css"]
html_js_files = [("explorers.js", {"defer": "defer"}), ("page.js", {"defer": "defer"})]
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False
html_use_index = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "article_header_end": ["language.html", "article-header-buttons.html"],
    "home_page_in_toc": False,  # the name of the site above leads there
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],  # the search field stands in the sidebar
    "footer_content_items": [],
}


class ChineseSearch(SearchLanguage):
    """Chinese has no spaces, so every pair of neighbouring characters is a search term, and every single one.

    The page's script cuts the reader's query in the same way, so any run of characters finds the pages that hold all
    of its pairs; a segmenter would find a word only where it cuts the text as it cuts the query.
    """

    lang = "zh"
    language_name = "Chinese"
    js_splitter_code = """
function splitQuery(query) {
  return (query.match(/[\\u4e00-\\u9fff]+|[\\p{L}\\p{N}_]+/gu) || []).flatMap((run) =>
    /^[\\u4e00-\\u9fff]{2,}$/.test(run) ? Array.from(run.slice(1), (_, at) => run.slice(at, at + 2))
      : run.match(/[\\u4e00-\\u9fff]|[^\\u4e00-\\u9fff]+/gu));
}
"""

    def split(self, text):
        terms = []
        for run in re.findall(r"[\u4e00-\u9fff]+|[^\W\u4e00-\u9fff]+", text):
            chinese = "\u4e00" <= run[0] <= "\u9fff"
            terms += [run[at : at + 2] for at in range(len(run) - 1)] + list(run) if chinese else [run]
        return terms

    def stem(self, word):
        return word.lower()


def visit_math(self, node, display="inline"):
    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def visit_displaymath(self, node):
    self.body.append('<div class="math">')
    self.body.append(convert(node.astext(), display="block"))
    self.body.append("</div>")
    raise nodes.SkipNode


def describe(app, pagename, templatename, context, doctree):
    """Says in a page's head what it is about, for search engines and where its address is shared."""
    if doctree is None:
        return
    words = [p.astext() for p in doctree.findall(nodes.paragraph) if isinstance(p.parent, nodes.section)]
    about = html.escape(next((text for text in words if len(text) > 40), NAMES[LANG]).replace("\n", " ")[:300])
    title = html.escape(re.sub("<[^>]+>", "", context.get("title") or NAMES[LANG]))
    tags = [
        f'<meta name="description" content="{about}">',
        f'<meta property="og:title" content="{title}">',
        f'<meta property="og:description" content="{about}">',
        '<meta property="og:type" content="article">',
        '<meta property="og:image" content="_static/preview.png">',
    ]
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def setup(app):
    app.connect("html-page-context", describe)
    app.add_search_language(ChineseSearch)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
