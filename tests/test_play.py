"""The model in the page, play.html and play-offline.html: built as for the site, used as a reader would, in a real
browser that reaches nothing but the built folder. What it says is compared with helpers/qwen.py and the engine."""

import base64
import contextlib
import functools
import json
import re
import shutil
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from conftest import ROOT

from benchmarks import page as bench
from helpers import models, qwen
from tools.site import build_play

MOE = "qwen3-moe-tiny"
VIEWS = ("play", "experts", "cut")
TEXTS = ROOT / "helpers" / "explorer" / "play" / "texts.js"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build_play.build(folder)
    return folder


class Site:
    """A web server for the built folder; ``changed`` says what it answers instead of a file, None: 404."""

    def __init__(self, folder: Path):
        self.changed: dict[str, bytes | None] = {}
        site = self

        class Handler(bench.Quiet):
            def do_GET(self):
                path = urlsplit(self.path).path.removeprefix("/")
                content = site.changed.get(path, b"")
                if path not in site.changed:
                    return super().do_GET()
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Type", "text/html" if path.endswith(".html") else "application/octet-stream")
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def site(built):
    running = Site(built)
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture(scope="module")
def expect():
    from playwright.sync_api import expect

    expect.set_options(timeout=90_000)  # of a machine with other work
    yield expect
    expect.set_options(timeout=5_000)


class Reader:
    """A browser's window on the site: the pages it opened, what they asked for, and what went wrong."""

    def __init__(self, browser, site: Site, **options):
        self.site, self.asked, self.problems = site, [], []
        settings = {"reduced_motion": "reduce", "locale": "en-US", "viewport": {"width": 1280, "height": 900}}
        self.context = browser.new_context(**settings | options)
        self.context.set_default_timeout(90_000)
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.context.on("console", lambda message: self.problems.append(message.text))
        self.context.on("weberror", lambda error: self.problems.append(str(error.error)))

    def open(self, query: str = "", name: str = "play.html"):
        page = self.context.new_page()
        page.goto(f"http://{self.site.host}/{name}{query}")
        return page

    def close(self) -> None:
        self.context.close()
        assert self.problems == []
        assert {urlsplit(url).netloc for url in self.asked if not url.startswith(("blob:", "data:"))} <= {
            self.site.host
        }


@pytest.fixture
def reader(browser, site):
    """``reader(**options)`` of a browser's context; at the end, none of them has complained or asked another host."""
    opened = []

    def make(**options) -> Reader:
        opened.append(Reader(browser, site, **options))
        return opened[-1]

    yield make
    site.changed.clear()
    for one in opened:
        one.close()


@pytest.fixture(scope="module")
def window(browser, site, expect):
    """The window that most tests share: its page, with the model in it; what stood there before the first touch."""
    one = Reader(browser, site)
    one.page = one.open()
    expect(one.page.locator(".note")).not_to_have_text("")
    one.before = {
        "note": one.page.locator(".note").inner_text(),
        "asked": [url for url in one.asked if not url.startswith("blob:")],
    }
    with answering(one.page):
        one.page.locator(".dials .go").click()
    one.fetched = [urlsplit(url).path for url in one.asked if "/model/" in url]
    yield one
    one.close()


@pytest.fixture
def page(window):
    """The page of ``window`` as a reader finds it who knows where the buttons are: in English, light, on playback."""
    page = window.page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(reduced_motion="reduce", color_scheme="light")
    if page.locator("html").get_attribute("lang") != "en":
        page.locator(".language").click()
    page.locator("#tab-play").click()
    return page


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.BUNDLED / MOE)


@pytest.fixture(scope="module")
def reference():
    return qwen.load_model(models.BUNDLED / MOE, torch.float32, "cpu")


def say(name: str, lang: str = "en") -> re.Pattern:
    """A sentence of the page as a pattern; what is filled in may be anything."""
    text = words()[lang].get(name) or words()[lang]["errors"][name]
    return re.compile(".+".join(map(re.escape, re.split(r"\{\w+\}", text))))


def words() -> dict:
    """TEXTS of texts.js."""
    text = TEXTS.read_text(encoding="utf-8")
    literal = text[text.index("export const TEXTS = ") + len("export const TEXTS = ") :].rstrip().rstrip(";")
    literal = re.sub(r'([{,]\s*)"?([\w-]+)"?:(?=\s*["{\[])', r'\1"\2":', literal)  # JavaScript's bare keys
    return json.loads(re.sub(r",(\s*[}\]])", r"\1", literal))


@contextlib.contextmanager
def answering(page):
    """What is done within asks a question; afterwards all of the answer is here."""
    from playwright.sync_api import expect

    page.evaluate("() => { document.querySelector('.playback .status').textContent = ''; }")  # an older answer's
    yield
    expect(page.locator(".playback:not(.before) .status")).to_have_text(
        re.compile(f"{say('computed').pattern}|{say('computed', 'zh').pattern}")
    )


def write(page, text: str) -> None:
    """Asks the reader's own question in the view that is open."""
    page.locator(".own").fill(text)
    page.locator(".own").press("Enter")


def ask(page, text: str) -> None:
    with answering(page):
        write(page, text)


def dial(page, a: int, b: int) -> None:
    for name, value in (("a", a), ("b", b)):
        page.locator(f"#dial-{name}").fill(str(value))
        page.locator(f"#dial-{name}").press("Enter")


def answer(page) -> str:
    """What the answer's tokens say, once all of it is here."""
    return "".join(page.locator(".answer .chip").all_inner_texts()).replace("␣", " ").replace("↵", "\n").strip()


# ---------------------------------------------------------------------------------------------- the sources


def test_both_languages_say_the_same_things():
    texts = words()

    def gaps(value):
        if isinstance(value, dict):
            return {key: gaps(part) for key, part in value.items()}
        return len(value) if isinstance(value, list) else sorted(set(re.findall(r"\{\w+\}", value)))

    assert gaps(texts["zh"]) == gaps(texts["en"])
    for key, value in texts["zh"].items():
        for part in value.values() if isinstance(value, dict) else [value] if isinstance(value, str) else value:
            assert not re.search(r"[A-Za-z]+ [A-Za-z]+ [A-Za-z]+", part), (key, part)
    english = json.dumps({**texts["en"], "switchTo": ""}, ensure_ascii=False)
    assert not re.search("[\u4e00-\u9fff]", english)


def test_the_page_is_small_strict_and_complete(built):
    text = (built / "play.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 150_000
    assert not re.search(r"https?://(?!www\.w3\.org)", text) and "{policy}" not in text
    assert "unsafe" not in text.split("<title>")[0] and "default-src 'none'" in text
    offline = (built / "play-offline.html").read_text(encoding="utf-8")
    inside = json.loads(re.search(r'id="model">(.*?)</script>', offline)[1])
    for name in build_play.FILES:
        content = (models.BUNDLED / MOE / name).read_bytes()
        assert (built / "model" / name).read_bytes() == content == base64.b64decode(inside[name])


def test_a_script_that_would_end_its_element_is_refused(monkeypatch):
    monkeypatch.setattr(build_play, "plain_script", lambda *names, folder="qwen": "'</script>'")
    with pytest.raises(ValueError, match="would end its own element"):
        build_play.page(build_play.MODEL, offline=False)


# ---------------------------------------------------------------------------------------------- playback


def test_a_script_loses_its_comments_and_nothing_else():
    code = "/** What\n * it is. */\nconst a = 1; // one\n  // a line\n\n  f(`${a} /* no comment */`);\n"
    assert build_play.lean(code) == "const a = 1; // one\nf(`${a} /* no comment */`);"
    with pytest.raises(ValueError, match="goes over lines"):
        build_play.lean("const text = `a\n  b`;")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["37×46=?", "What is MoE?", "讲一个两句话的小故事。"])
def test_tokens_and_experts_are_those_of_the_reference(text, page, tokenizer, reference):
    ask(page, text)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
    ids = reference.generate(torch.tensor([prompt]), max_new_tokens=300)[0].tolist()
    end = ids.index(tokenizer.convert_tokens_to_ids("</think>"))
    assert answer(page) == tokenizer.decode(ids[end + 1 :], skip_special_tokens=True).strip()
    chips = page.locator(".written .chip")
    assert chips.count() == len(ids) - 1  # the stop token is written, and never read
    _, router_logits = bench.reference(reference)(ids[:-1])
    _, experts = qwen.route(router_logits, reference.config.num_experts_per_tok, True)
    for layer in range(reference.config.num_hidden_layers):
        page.locator(".choice").nth(1).get_by_role("button", name=str(layer), exact=True).click()
        shown = page.locator(".thought .chip, .answer .chip").evaluate_all("chips => chips.map(c => c.dataset.expert)")
        assert shown == [str(expert) for expert in experts[layer, len(prompt) :, 0].tolist()]
    chips.last.click()
    drawn = page.locator(".ribbons [data-age='0'] .ribbon:not(.edge)").evaluate_all(
        "paths => paths.map(p => p.classList[1])"
    )
    assert sorted(set(drawn)) == sorted({f"e{expert}" for expert in experts[:, -1].flatten().tolist()})
    assert page.locator(".chosen .dot").all_inner_texts() == [str(e) for e in experts[:, -1].flatten().tolist()]


@pytest.mark.slow
def test_nothing_of_the_model_is_fetched_before_the_first_touch(window, site):
    assert window.before["asked"] == [f"http://{site.host}/play.html"] and say("start").fullmatch(window.before["note"])
    assert sorted(window.fetched) == sorted(f"/model/{name}" for name in build_play.FILES)


MOVED = """() => { // what a browser would have to draw anew between two tokens, and what its compositor moves alone
    window.moved = [];
    const note = (node) => node.closest(".flow") && window.moved.push(node.getAttribute("class"));
    for (const kind of ["animationstart", "transitionrun"])
        document.addEventListener(kind, ({ target }) => note(target));
    const animate = Element.prototype.animate;
    Element.prototype.animate = function (...given) {
        note(this);
        return animate.apply(this, given);
    };
}"""


@pytest.mark.slow
def test_it_plays_pauses_steps_and_scrubs(page, expect):
    page.emulate_media(reduced_motion="no-preference")
    page.evaluate(MOVED)
    page.locator(".choice").first.get_by_role("button", name="30", exact=True).click()
    play, now, thought = page.locator(".transport .play"), page.locator(".chip.now"), page.locator(".thought .chip")
    with answering(page):
        page.locator(".dials .go").click()
        expect(thought.nth(5)).to_be_visible()  # by itself
        play.click()
        expect(play).to_have_attribute("aria-label", "Play")
    page.locator(".scrub:visible").fill("20")
    expect(now).to_have_count(1)
    place = "chips => chips.findIndex(chip => chip.classList.contains('now'))"
    chips = page.locator(".written .chip")
    assert chips.evaluate_all(place) == 20
    expect(page).to_have_url(re.compile("at=20"))
    for name, expected in (("One token on", 21), ("One token back", 20), ("To the start", 15)):
        page.get_by_role("button", name=name).click()
        assert chips.evaluate_all(place) == expected
    page.get_by_role("button", name="To the end").click()
    assert chips.evaluate_all(place) == chips.count() - 1
    play.click()  # from the start again
    expect(chips.nth(40)).to_be_hidden()
    expect(chips.nth(18)).to_be_visible()
    play.click()
    assert set(page.evaluate("() => window.moved")) == {"veil"}
    assert page.locator(".ribbons path").count() == 4 * 2 * (
        2 + 3
    )  # ribbons and edges, and ribbons of three tokens before


@pytest.mark.slow
def test_a_page_in_the_background_waits(page, expect):
    page.emulate_media(reduced_motion="no-preference")
    page.evaluate("""() => {
        window.isAway = true;
        Object.defineProperty(document, "hidden", { get: () => window.isAway, configurable: true });
    }""")
    with answering(page):
        page.locator(".dials .go").click()
    second = page.locator(".thought .chip").nth(1)  # the first is shown as soon as it is there
    assert second.is_hidden()
    page.evaluate("() => { window.isAway = false; }")
    expect(second).to_be_visible()
    page.evaluate("() => { delete document.hidden; }")


@pytest.mark.slow
def test_a_new_question_ends_the_one_before(page):
    with answering(page):
        for name in ("What is MoE?", "Tell me a little story.", "What is 5 factorial?"):
            page.get_by_role("button", name=name).click()
    assert "120" in answer(page)
    prompt = "".join(page.locator(".prompt .chip").all_inner_texts())
    assert "factorial" in prompt and "MoE" not in prompt and "story" not in prompt


@pytest.mark.slow
def test_a_dial_that_stands_still_is_asked(page, expect):
    with answering(page):
        dial(page, 37, 46)
    with answering(page):
        page.get_by_role("button", name="First number, one more").click()
        page.get_by_role("button", name="Second number, one less").click()
    assert answer(page).startswith("38×45=")
    field = page.get_by_role("spinbutton", name="First number")
    for typed, taken in (("7", "10"), ("250", "99"), ("", "10")):
        field.fill(typed)
        field.press("Enter")
        expect(field).to_have_value(taken)


# ---------------------------------------------------------------------------------------------- experts, scissors

EFFECTS = """const { model, tokenizer, stopIds } = await load("qwen3-moe-tiny");
    const ids = tokenizer.encode(renderChat([{ role: "user", content: a[0] }]));
    const write = (expertOff) => [...generate(model, ids, { stopIds, expertOff, maxNewTokens: 300 })];
    const usual = write(null);
    const behind = (w) => w.slice(w.indexOf(tokenizer.special.get("</think>")) + 1);
    const answer = (w) => tokenizer.decode(behind(w), { skipSpecial: true }).trim();
    return a[1].map((i) => write([i >> 3, i & 7])).map((w) =>
        [w.join() === usual.join() ? "same" : answer(w) === answer(usual) ? "detour" : "broken", answer(w)]);"""
CUTS = """const { model, tokenizer, stopIds } = await load("qwen3-moe-tiny");
    const text = renderChat([{ role: "user", content: a[0] }]);
    const usual = tokenizer.decode([...generate(model, tokenizer.encode(text), { stopIds })]);
    const [, thought] = /<think>\\n(.*)\\n<\\/think>/s.exec(usual);
    const pieces = tokenizer.encode(thought), kept = (n) => tokenizer.decode(pieces.slice(0, n));
    const cut = (n) => {
        const prompt = `${text}<think>\\n${kept(n)}${kept(n).endsWith("\\n") ? "" : "\\n"}</think>\\n\\n`;
        const written = [...generate(model, tokenizer.encode(prompt), { stopIds })];
        return tokenizer.decode(written, { skipSpecial: true }).trim();
    };
    return [pieces.length, a[1].filter((n) => n <= pieces.length).map(cut)];"""


@pytest.fixture(scope="module")
def engine(browser):
    """A page with nothing but the engine."""
    opened = bench.open_engine(browser)
    yield opened
    opened.context.close()


def rows(page, expect) -> list[list[str]]:
    """The table under a figure."""
    if not page.locator("details:visible").evaluate("details => details.open"):
        page.locator("summary:visible").click()
    expect(page.locator("tbody tr:visible").first).to_be_visible()  # it fills once it is open
    return page.locator("tbody tr:visible").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))")


@pytest.mark.slow
def test_the_heat_map_is_the_engines_and_its_link_carries_all_to_another_window(page, window, engine, expect):
    ask(page, "What is 5 factorial?")  # so that playback has another question than the sweep
    page.get_by_role("tab", name="Which experts?").click()
    dial(page, 37, 46)
    expect(page.locator(".answered")).to_have_text("37×46=1702")
    for at in ("3.1", "1.2", "2.0"):
        page.locator(f"[data-at='{at}']").click()
        expect(page.locator(f"[data-at='{at}']")).to_have_attribute("data-effect", re.compile("."))
    page.get_by_role("button", name="Try them all").click()
    expect(page.locator(".tile[data-effect]:not([data-effect=''])").nth(4)).to_be_visible()
    with answering(page):  # which ends the sweep
        page.locator("#tab-play").click()
    page.locator("#tab-experts").click()
    expect(page.locator(".share")).to_be_visible()  # it went on
    effects = page.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.effect)")
    table = rows(page, expect)
    tried = [place for place, effect in enumerate(effects) if effect != "same" or place % 6 == 0]
    expected = bench.run(engine, EFFECTS, "37×46=?", tried)
    assert [(effects[place], table[place][4]) for place in tried] == [tuple(row) for row in expected]
    picks = [int(row[2]) for row in table]  # two a layer for every token that is read
    assert len(table) == 32 and {sum(picks[at : at + 8]) for at in range(0, 32, 8)} == {sum(picks) // 4}
    broken, found = effects.count("broken"), [effects[3 * 8 + 1], effects[8 + 2], effects[2 * 8]].count("broken")
    assert page.locator(".share").inner_text() == f"I found {found} of {broken}" and 0 < found < broken
    assert page.locator(".score").inner_text() == f"Tried 3, found {found}."
    for lit in page.locator(".tile[data-effect=broken]").all():  # the wrong answer stands in the tile
        assert lit.inner_text().isdigit() and lit.inner_text() != "1702"

    link = urlsplit(page.locator(".share").get_attribute("href"))
    other = window.open(f"?{link.query}")
    page.locator("#tab-play").click()
    ask(page, "What is MoE?")  # while the other window works
    assert "expert" in answer(page)
    expect(other.locator(".share")).to_have_text(f"I found {found} of {broken}")
    assert other.locator(".tile").evaluate_all("tiles => tiles.map(tile => tile.dataset.effect)") == effects
    assert other.locator(".tile.tapped").count() == 3
    other.close()


@pytest.mark.slow
@pytest.mark.parametrize(("text", "right"), [("37×46=?", "1702"), ("什么是 MoE？", None)])
def test_the_scissors_are_the_engines(text, right, page, engine, expect):
    page.locator("#tab-cut").click()
    dial(page, 37, 46) if right else write(page, text)
    expect(page.locator(".flip")).to_have_text(re.compile("."))
    table = rows(page, expect)
    answers, judged = [row[1] for row in table], [row[2] in ("right", "as without a cut") for row in table]
    flip = max((place + 1 for place, is_good in enumerate(judged) if not is_good), default=0)
    tried = sorted({0, 3, flip, *range(0, len(table), 7)} | ({flip - 1} if flip else set()))
    length, expected = bench.run(engine, CUTS, text, tried)
    assert [int(row[0]) for row in table] == list(range(length + 1))
    assert [answers[kept] for kept in tried] == expected
    assert judged == [given.endswith(right) if right else given == answers[-1] for given in answers]
    said = page.locator(".flip").inner_text()
    assert f"From {flip} tokens on" in said if flip else "Wherever you cut" in said
    page.locator(".cut-view .chip").nth(2).click()
    assert page.locator(".given").inner_text() == answers[3]
    expect(page).to_have_url(re.compile("kept=3"))


# ---------------------------------------------------------------------------------------------- links, languages, keys


@pytest.mark.slow
def test_a_link_brings_back_question_place_and_language(page, window, expect):
    ask(page, "5的阶乘 & 1+1=?")
    page.locator(".written .chip").nth(9).click()
    page.locator(".language").click()
    expect(page.locator(".playback .status")).to_contain_text("第 10 个")  # a change of language keeps the place
    expect(page.locator("footer")).to_have_text(words()["zh"]["caveat"])
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    page.get_by_role("button", name="复制链接").click()
    expect(page.locator(".copied")).to_contain_text(say("copyThis", "zh"))
    link = page.locator(".copied input").input_value()
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { window.taken = text; }; }")
    page.get_by_role("button", name="复制链接").click()
    expect(page.locator(".copied")).to_have_text(say("copied", "zh"))
    assert page.evaluate("() => window.taken") == link
    other = window.open(f"?{urlsplit(link).query}")
    expect(other.locator(".playback .status")).to_contain_text("第 10 个")
    assert other.locator(".own").input_value() == "5的阶乘 & 1+1=?"
    assert other.locator("html").get_attribute("lang") == "zh-CN"
    other.close()
    for view in VIEWS:
        page.locator(f"#tab-{view}").click()
        text = page.locator("body").inner_text().replace("<|im_start|>", "")
        assert not re.search(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}", text), view


NONSENSE = "?a=5&b=1e9&view=nothing&at=-1&off=9.9_a.b_1&sweep=yes&kept=x&lang=fr&q=&theme=%3Cscript%3E"


@pytest.mark.slow
def test_an_address_that_makes_no_sense_opens_the_page(window, expect):
    page = window.open(NONSENSE)
    expect(page.locator(".note")).to_have_text(say("start"))  # nothing is asked for that
    assert page.locator("h1").inner_text() == "See inside Qwen3"
    assert page.locator(".dials .go").inner_text() == "37×46=?" and page.locator("#dial-b").input_value() == "46"
    assert page.locator("html").get_attribute("data-theme") == "light"
    assert page.locator("#tab-play").get_attribute("aria-selected") == "true"
    page.close()
    page = window.open("?at=99999&lang=en")
    last = page.locator(".written .chip").last
    expect(last).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".playback .status")).to_have_text(say("computed"))
    assert answer(page) == "37×46=1702"
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("locale, theme", [("zh-TW", "dark"), ("de-DE", "light")])
def test_language_and_theme_are_those_of_the_address_or_of_the_browser(locale, theme, reader, expect):
    one, lang = reader(locale=locale, color_scheme=theme), locale[:2] if locale == "zh-TW" else "en"
    other, other_theme = "en" if lang == "zh" else "zh", "light" if theme == "dark" else "dark"
    page = one.open()
    expect(page.locator("h1")).to_have_text(words()[lang]["title"])
    assert page.locator("html").get_attribute("data-theme") == theme
    page.locator(".language").click()
    expect(page.locator("h1")).to_have_text(words()[other]["title"])
    page.goto(page.url.split("?")[0] + f"?lang={other}&theme={other_theme}")
    expect(page.locator("h1")).to_have_text(words()[other]["title"])
    assert page.locator("html").get_attribute("data-theme") == other_theme


@pytest.mark.slow
def test_the_keyboard_alone_suffices_and_the_answer_is_read_aloud(page, expect):
    def tab_to(selector):
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    dial(page, 36, 46)
    page.locator(".language").focus()
    tab_to("#dial-a")
    with answering(page):
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
    assert answer(page) == "37×46=1702"
    expect(page.locator("[aria-live=polite]")).to_have_text("Answer: 37×46=1702")
    tab_to("#tab-play")
    tab_to(".written .chip")
    last = page.locator(".written .chip").count()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".playback .status")).to_contain_text(f"Token {last - 2} of {last}")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label').includes('expert')")
    page.locator("#tab-play").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-experts").get_attribute("aria-selected") == "true"
    tab_to(".tile")
    for _ in range(page.evaluate("() => [...document.querySelectorAll('.tile')].indexOf(document.activeElement)")):
        page.keyboard.press("ArrowLeft")  # to the first
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    tile = page.locator("[data-at='1.2']")
    expect(tile).to_have_attribute("data-effect", re.compile("."))
    assert tile.get_attribute("aria-pressed") == "true" and "layer 1" in tile.get_attribute("aria-label")


# ---------------------------------------------------------------------------------------------- how it looks


@pytest.fixture
def full(page, expect):
    """The page with all three views of one question filled."""
    with answering(page):
        dial(page, 37, 46)
    page.locator("#tab-cut").click()
    expect(page.locator(".flip")).to_have_text(re.compile("."))
    page.locator("#tab-experts").click()
    page.locator("[data-at='1.2']").click()
    expect(page.locator(".verdict")).to_be_visible()
    page.locator("#tab-play").click()
    page.locator(".written .chip").nth(40).click()
    return page


@pytest.mark.slow
def test_nothing_is_cut_off_too_small_or_too_pale(full, expect):
    for lang in ("en", "zh"):
        for width in (375, 768, 1920):
            full.set_viewport_size({"width": width, "height": 900})
            for view in VIEWS:
                full.locator(f"#tab-{view}").click()
                for theme in ("light", "dark"):
                    full.emulate_media(color_scheme=theme)
                    at = (lang, width, view, theme)
                    expect(full.locator("html")).to_have_attribute("data-theme", theme)
                    assert full.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), at
                    assert full.evaluate(SMALLEST_TEXT) >= 12, at
                    assert full.evaluate(LEAST_CONTRAST)[0] >= 4.5, (at, full.evaluate(LEAST_CONTRAST))
        full.locator(".language").click()


TEXT_NODES = """const seen = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement, style = getComputedStyle(node);
        if (!walker.currentNode.data.trim() || !node.getBoundingClientRect().width) continue;
        if (style.visibility === "hidden" || style.fontSize === "0px") continue;
        if (node.closest("script, style, noscript, .hidden-text, option")) continue;
        seen.push([node, style]);
    }"""
SMALLEST_TEXT = f"() => {{ {TEXT_NODES} return Math.min(...seen.map(([, style]) => parseFloat(style.fontSize))); }}"
LEAST_CONTRAST = f"""() => {{ {TEXT_NODES}
    const canvas = Object.assign(document.createElement("canvas"), {{ width: 1, height: 1 }})
        .getContext("2d", {{ willReadFrequently: true }}), known = new Map();
    const numbers = (colour) => {{
        if (!known.has(colour)) {{
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            known.set(colour, [...canvas.getImageData(0, 0, 1, 1).data]);
        }}
        return known.get(colour);
    }};
    const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const shares = [0.2126, 0.7152, 0.0722]; // of red, green and blue in the luminance
    const light = (colour) => shares.reduce((all, share, at) => all + share * linear(colour[at] / 255), 0);
    const ground = (node) => numbers(getComputedStyle(node).backgroundColor);
    let least = [99];
    for (const [node, style] of seen) {{
        if (node.closest("svg, .tile, :disabled")) continue; // what lies behind is no colour of an ancestor
        let behind = node;
        while (ground(behind)[3] < 255 && behind.parentElement) behind = behind.parentElement;
        const [a, b] = [light(numbers(style.color)), light(ground(behind))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < least[0]) least = [contrast, node.className, node.textContent.slice(0, 40)];
    }}
    return least;
}}"""


@pytest.mark.slow
def test_axe_finds_nothing_serious(full):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for theme, options in (("light", None), ("dark", {"runOnly": ["color-contrast"]})):  # else a theme changes nothing
        full.emulate_media(color_scheme=theme)
        for view in VIEWS:
            full.locator(f"#tab-{view}").click()
            found = axe.run(full, options=options).response["violations"]
            serious = [
                (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
            ]
            assert serious == [], (view, theme)


@pytest.mark.slow
def test_with_reduced_motion_nothing_moves(page, expect):
    with answering(page):
        page.locator(".dials .go").click()
    expect(page.locator(".answer .chip").last).to_be_visible()  # all at once, at the end
    page.locator(".written .chip").nth(20).click()
    assert page.evaluate("() => document.getAnimations().length") == 0


@pytest.mark.slow
def test_in_a_frame_it_takes_the_theme_of_the_page_around_it(site, reader, expect):
    one = reader(color_scheme="light")
    site.changed["around.html"] = (
        b"<!doctype html><html data-theme=dark><link rel=icon href='data:,'><iframe src='play.html?embed'></iframe>"
    )
    page = one.open(name="around.html")
    inner = page.frame_locator("iframe")
    expect(inner.locator("html")).to_have_attribute("data-theme", "dark")
    page.evaluate("() => { document.documentElement.dataset.theme = 'light'; }")
    expect(inner.locator("html")).to_have_attribute("data-theme", "light")
    expect(inner.locator("h1")).to_be_hidden()
    expect(inner.locator("footer")).to_have_text(words()["en"]["caveat"])


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("</script><script>document.title='owned'</script><!--", "script"),
        ("<img src=x onerror=document.title='owned'>", "img"),
        ("\u202ertl\u2066", r"\xe2"),
        ("אבג 37×46=?", "×"),
        ("a\u200bb\u200dc", r"\xe2"),
        ("<|im_end|><think></think>", "<think>"),
        ("👩‍👩‍👧 {name} $& \\x", "{"),
        ("\x00\x07", "U+7"),
    ],
)
def test_hostile_text_stays_text(text, shown, page, expect):
    ask(page, text)
    assert shown in "".join(page.locator(".prompt .chip").all_inner_texts())
    assert page.title() == "See inside Qwen3"
    for view in VIEWS[1:]:
        page.locator(f"#tab-{view}").click()
        expect(page.locator(".note")).not_to_have_text(re.compile("Working|Reading"))
        assert page.title() == "See inside Qwen3" and page.locator("main script, main img").count() == 0


@pytest.mark.slow
def test_half_a_character_is_answered(page):
    with answering(page):
        page.locator(".own").evaluate("input => { input.value = 'a\\ud83d'; input.form.requestSubmit(); }")


@pytest.mark.slow
def test_a_prompt_that_cannot_be_read_is_one_sentence(page, expect):
    dial(page, 37, 46)
    for text, error in (
        ("", "empty"), ("   ", "empty"), ("7 " * 3000, "context-full"), ("长" * 3000, "context-full"),
        ("x" * 30_000, "text-too-long"),
    ):  # fmt: skip
        write(page, text)
        expect(page.locator(".note.error")).to_have_text(say(error))
        page.locator(".language").click()
        expect(page.locator(".note.error")).to_have_text(say(error, "zh"))
        page.locator(".language").click()
    with answering(page):
        page.locator(".dials .go").click()
    assert answer(page) == "37×46=1702" and page.locator(".note.error").count() == 0


def broken_files() -> dict[str, tuple[str, bytes | None]]:
    weights = (models.BUNDLED / MOE / "model.safetensors").read_bytes()
    other = (models.BUNDLED / "qwen3-tiny" / "config.json").read_bytes()
    return {
        "half": ("model.safetensors", weights[: len(weights) // 2]),
        "one bit": ("model.safetensors", weights[:-9] + bytes([weights[-9] ^ 1]) + weights[-8:]),
        "empty": ("model.safetensors", b""),
        "a page instead": ("tokenizer.json", b"<!doctype html><title>Log in</title>"),
        "config of another model": ("config.json", other),
        "missing": ("generation_config.json", None),
    }


@pytest.mark.slow
def test_a_broken_file_is_one_sentence_and_the_next_tap_tries_again(site, reader, expect):
    one = reader()
    page = one.open()
    error = page.locator(".note.error")
    for case, (name, content) in broken_files().items():
        site.changed = {f"model/{name}": content}
        page.locator(".dials .go").click()
        expect(error).to_have_text(say("fetch-failed" if content is None else "damaged-file"))
        assert name in error.inner_text(), case
    site.changed.clear()
    with answering(page):
        page.locator(".dials .go").click()
    assert answer(page) == "37×46=1702"
    one.problems[:] = [problem for problem in one.problems if "404" not in problem]  # the browser's own line


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "window.Worker = class { constructor() { throw new Error('refused'); } };",
        "window.Worker = class { postMessage() { this.onerror(new Event('error')); } };",
    ],
    ids=["refused", "does not start"],
)
def test_without_a_worker_the_page_does_it_itself(script, reader, expect):
    one = reader()
    one.context.add_init_script(script)
    page = one.open("?view=experts")
    expect(page.locator(".answered")).to_have_text("37×46=1702")
    page.locator("[data-at='1.2']").click()
    expect(page.locator("[data-at='1.2']")).to_have_attribute("data-effect", "broken")


@pytest.mark.slow
def test_memory_that_is_refused_is_one_sentence_and_the_next_tap_tries_again_with_no_worker_at_all(reader, expect):
    one = reader()
    one.context.add_init_script("""delete window.Worker;
        const Real = Float32Array;
        window.Float32Array = new Proxy(Real, { construct(real, given) {
            if (given[0] > 1e5 && !window.hasRoom) throw new RangeError("Array buffer allocation failed");
            return new real(...given);
        } });""")
    page = one.open("?lang=zh")
    page.locator(".dials .go").click()
    expect(page.locator(".note.error")).to_have_text(say("out-of-memory", "zh"))
    page.evaluate("() => { window.hasRoom = true; }")
    with answering(page):
        page.locator(".dials .go").click()
    assert answer(page) == "37×46=1702"


# ---------------------------------------------------------------------------------------------- from a disk


@pytest.fixture
def from_disk(browser, built, tmp_path):
    """A page of the built folder by its path, with no network."""
    context = browser.new_context(offline=True, reduced_motion="reduce", locale="en-US")
    context.set_default_timeout(90_000)
    problems, asked = [], []
    context.on("console", lambda message: problems.append(message.text))
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on("request", lambda request: asked.append(request.url))

    def open_file(name):
        shutil.copyfile(built / name, tmp_path / name)  # alone in its folder
        page = context.new_page()
        page.goto((tmp_path / name).as_uri())
        return page

    yield open_file, asked
    context.close()
    assert problems == []


@pytest.mark.slow
def test_the_offline_page_needs_nothing_but_itself(from_disk, expect):
    open_file, asked = from_disk
    page = open_file("play-offline.html")
    expect(page.locator(".note")).to_have_text(say("startOffline"))
    page.locator(".dials .go").click()
    expect(page.locator(".playback .status")).to_have_text(say("computed"))
    assert answer(page) == "37×46=1702"
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [page.url.split("?")[0]]
    page.locator(".dials .go").click()
    expect(page.locator(".playback .status")).to_have_text(say("computed"))


@pytest.mark.slow
def test_the_other_page_says_on_a_disk_what_to_open(from_disk, expect):
    page = from_disk[0]("play.html")
    page.locator(".dials .go").click()
    expect(page.locator(".note.error")).to_have_text(say("from-disk"))
