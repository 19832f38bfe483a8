"""helpers/explorer/memory: the calculator in a real browser agrees with helpers.catalogue.fits, in both languages."""

import base64
import random
import re

import pytest

from helpers import catalogue, language
from helpers.explorer import MemoryExplorer
from helpers.explorer.memory import CAPTIONS, CARDS, JAVASCRIPT, LABELS, MODELS
from helpers.models import GIB


def test_both_languages_have_the_same_labels():
    assert LABELS["zh"].keys() == LABELS["en"].keys() and len(CAPTIONS["zh"]) == len(CAPTIONS["en"])
    for name, zh in LABELS["zh"].items():
        assert set(re.findall(r"\{\w+\}", zh)) == set(re.findall(r"\{\w+\}", LABELS["en"][name])), name
    assert set(re.findall(r'label\("(\w+)"', JAVASCRIPT)) <= LABELS["en"].keys()


def test_the_javascript_stands_alone():
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b|\brequire\(|innerHTML|fetch\(", JAVASCRIPT)
    assert "</script" not in JAVASCRIPT


def test_the_output_holds_a_picture_for_where_no_widget_runs(monkeypatch):
    monkeypatch.setattr(language, "LANGUAGE", "en")
    explorer = MemoryExplorer("Qwen/Qwen3-14B", card=48)
    bundle, _ = explorer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "MemoryExplorer(Qwen/Qwen3-14B, bf16, 1 x 48 GiB)"
    texts = [text.get_text() for text in explorer.picture().axes[0].texts]
    longest = catalogue.fits(catalogue.CATALOGUE["Qwen/Qwen3-14B"].config, 48 * GIB).max_context
    assert f"largest context {longest:,}" in texts


# ---------------------------------------------------------------------------------------------- in a browser


@pytest.fixture
def open_page(open_explorer):
    def start(lang="en", color_scheme="light", **settings):
        return open_explorer(MemoryExplorer(**settings), ".rx-memory rect", lang, color_scheme)

    return start


def press(page, control, value):
    page.locator(f".rx-control:has-text('{control}') button[value='{value}']").click()


def choose(page, name, value):
    page.locator(f"select[aria-label='{name}']").select_option(value)


def slide(page, name, value):
    page.locator(f"input[aria-label='{name}']").fill(str(value))


def shown(page) -> dict:
    return page.locator(".rx").evaluate("root => ({...root.dataset})")


SET = """(root, settings) => {
  const set = (control, value, kind) => {
    control.value = value;
    control.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const { select, press, slide } = settings;
  for (const [name, value] of Object.entries(select)) {
    set(root.querySelector(`select[aria-label='${name}']`), value, "change");
  }
  for (const [name, value] of Object.entries(press)) {
    const control = [...root.querySelectorAll(".rx-control")].find((one) => one.textContent.includes(name));
    control.querySelector(`button[value='${value}']`).click();
  }
  for (const [name, value] of Object.entries(slide)) {
    set(root.querySelector(`input[aria-label='${name}']`), value, "input");
  }
  return {
    ...root.dataset,
    refused: root.querySelector(".rx-verdict.rx-no")?.checkVisibility() ?? false,
    widths: [...root.querySelectorAll(".rx-memory rect[data-part]")].map((r) => +r.getAttribute("width")),
  };
}"""


def test_every_setting_agrees_with_python(open_page):
    """All controls of a setting at once, by their own events; the other tests use them as a reader does."""
    root, draw = open_page().locator(".rx"), random.Random(0)
    seen = set()
    for _ in range(60):
        name = draw.choice(list(MODELS))
        config = MODELS[name].config
        card = draw.choice(CARDS)[0]
        dtype, kv, gpus = draw.choice(("bf16", "fp8", "awq")), draw.choice(("bf16", "fp8")), draw.choice((1, 2, 4, 8))
        context = 256 * draw.randrange(1, config["max_position_embeddings"] // 256 + 1)
        sequences = 2 ** draw.randrange(9)
        select, press = {"model": name, "GPU": str(card)}, {"weights": dtype, "KV cache in": kv, "cards": gpus}
        slide = {"context, tokens": context, "sequences at once": sequences.bit_length() - 1}
        found = root.evaluate(SET, {"select": select, "press": press, "slide": slide})
        fit = catalogue.fits(config, card * GIB, context, sequences, dtype, 1 if kv == "fp8" else 2, gpus)
        about = f"{name} {dtype} kv {kv}, {gpus} x {card}, {context} x {sequences}"
        assert float(found["weights"]) == pytest.approx(fit.weights), about
        assert float(found["kvCache"]) == pytest.approx(fit.kv_cache), about
        assert int(found["maxContext"]) == fit.max_context, about
        assert (found["fits"] == "true") is fit.fits is not found["refused"], about
        widths, whole = found["widths"], fit.weights + fit.kv_cache + fit.other
        assert [width / sum(widths) for width in widths] == pytest.approx(
            [fit.weights / whole, fit.kv_cache / whole, fit.other / whole]
        )
        seen.add((fit.fits, fit.max_context > 0, catalogue.splits(config, gpus, dtype)))
    assert len(seen) >= 4, "the drawn settings meet too few cases"


def test_the_verdict_says_what_to_do(open_page):
    page = open_page()
    verdict, largest = page.locator(".rx-verdict"), page.locator(".rx-fact").first
    longest = catalogue.fits(catalogue.CATALOGUE["Qwen/Qwen3-8B"].config, 24 * GIB).max_context
    assert verdict.inner_text().startswith("It fits, with 4.2 GiB") and f"{longest:,}" in largest.inner_text()
    slide(page, "context, tokens", 40960)
    assert f"at most {longest:,}" in verdict.inner_text()
    page.get_by_text("use the largest").click()
    assert page.locator(".rx-value").first.inner_text() == f"{longest:,}" and "It fits" in verdict.inner_text()
    choose(page, "GPU", "12")
    assert "exceed what vLLM uses by" in verdict.inner_text() and "–" in largest.inner_text()
    assert not page.get_by_text("use the largest").is_visible()
    choose(page, "GPU", "80")
    assert "(the model's own limit)" in largest.inner_text()
    assert page.locator(".rx-note").inner_text() == "published as Qwen/Qwen3-8B"
    press(page, "weights", "fp8")
    assert page.locator(".rx-note").inner_text() == "published as Qwen/Qwen3-8B-FP8"
    choose(page, "model", "Qwen/Qwen3-4B")
    press(page, "cards", 8)
    assert "9728 / 8 is no multiple of 128" in verdict.inner_text()
    choose(page, "model", "Qwen/Qwen3-30B-A3B")
    assert "cannot be split" not in verdict.inner_text(), "vLLM 0.32 refines the blocks of experts"
    choose(page, "model", "Qwen/Qwen2.5-7B-Instruct")
    press(page, "cards", 8)
    assert "28 attention heads do not divide by 8 cards" in verdict.inner_text()


def test_the_table_lists_every_model(open_page):
    page = open_page(sequences=4)
    page.locator("summary").click()
    page.locator("tr").nth(len(MODELS)).wait_for()
    rows = page.locator("tr").all_inner_texts()
    for row, (name, release) in zip(rows[1:], MODELS.items(), strict=True):
        longest = [
            catalogue.fits(release.config, 24 * GIB, sequences=4, dtype=dtype).max_context
            for dtype in ("bf16", "fp8", "awq")
        ]
        assert row.split("\t") == [name.split("/")[1], *(f"{n:,}" if n else "does not fit" for n in longest)]


def test_a_model_with_linear_attention_shows_its_state_and_no_download(open_page):
    page = open_page()
    choose(page, "model", "Qwen/Qwen3.6-27B")
    per_token, download = (page.locator(".rx-fact").nth(place).inner_text() for place in (2, 3))
    assert "64 KiB" in per_token and "146.8 MiB a sequence" in per_token
    assert "GB" not in download and "not counted" in download
    assert shown(page)["maxContext"] == "0" and "exceed" in page.locator(".rx-verdict").inner_text()


def test_the_keyboard_moves_a_slider(open_page):
    page = open_page()
    page.locator("input[aria-label='sequences at once']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".rx-value").nth(1).inner_text() == "4"


def test_the_language_switch(open_page):
    page = open_page(lang="zh")
    zh = page.locator(".rx").inner_text()
    assert LABELS["zh"]["title"] in zh and CAPTIONS["zh"][0] in zh and "放得下" in zh
    page.locator("button[value=en]").click()
    en = page.locator(".rx").inner_text()
    assert LABELS["en"]["title"] in en and CAPTIONS["en"][0] in en
    assert re.findall(r"[\u4e00-\u9fff]+", en) == ["中"]  # the switch itself
    page.locator("button[value=zh]").click()
    assert page.locator(".rx").inner_text() == zh


def test_light_and_dark(open_page):
    page = open_page(color_scheme="dark")
    background = "root => getComputedStyle(root).backgroundColor"
    dark = page.locator(".rx").evaluate(background)
    page.emulate_media(color_scheme="light")
    page.wait_for_selector(".rx[data-theme=light]")
    assert page.locator(".rx").evaluate(background) != dark
