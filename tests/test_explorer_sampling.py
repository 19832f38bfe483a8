"""The sampling explorer: its numbers are those of the sampler, in a real browser, and hostile tokens stay text."""

import base64
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.explorer import SamplingExplorer
from helpers.explorer.sampling import JAVASCRIPT, LABELS
from helpers.qwen import keep_min_p, keep_top_k, keep_top_p

TEXTS = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "猫",
    " a",
]
VOCAB = 300


def logprobs_of(seed):
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)).mul(2).sort(descending=True).values
    values = logits.log_softmax(-1).tolist()
    texts = [*TEXTS, *(f"w{number}" for number in range(VOCAB))]
    return {
        1000 + place: SimpleNamespace(logprob=value, decoded_token=texts[place], rank=place + 1)
        for place, value in enumerate(values)
    }


POSITIONS = {"Once": logprobs_of(0), "从前</script>": logprobs_of(1)}


def test_both_languages_have_the_same_labels():
    assert LABELS["zh"].keys() == LABELS["en"].keys()
    for name, zh in LABELS["zh"].items():
        assert set(re.findall(r"\{\w+\}", zh)) == set(re.findall(r"\{\w+\}", LABELS["en"][name])), name
    assert set(re.findall(r'label\("(\w+)"', JAVASCRIPT)) <= LABELS["en"].keys()


def test_it_stands_alone_and_its_data_cannot_break_the_page(tmp_path):
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|\bimport\b|\brequire\(|innerHTML|fetch\(", JAVASCRIPT)
    SamplingExplorer(POSITIONS).to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = page.split('id="data">')[1].split("</script>")[0]
    assert "<" not in data and json.loads(data)["positions"][1]["text"] == "从前</script>"


def test_the_output_holds_a_picture_and_all_probabilities():
    explorer = SamplingExplorer(POSITIONS, model="qwen3-tiny")
    bundle, _ = explorer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "SamplingExplorer(2 positions, qwen3-tiny)"
    sent = np.frombuffer(base64.b64decode(explorer.data["positions"][0]["logprobs"]), "<f4")
    np.testing.assert_allclose(sent, [entry.logprob for entry in POSITIONS["Once"].values()], rtol=1e-6)
    assert (
        "tiny" in explorer.data["captions"] and "tiny" not in SamplingExplorer(POSITIONS, "Qwen3-8B").data["captions"]
    )


@pytest.fixture
def page(browser, tmp_path):
    SamplingExplorer(POSITIONS, model="qwen3-tiny").to_html(tmp_path / "page.html", lang="en")
    context, errors, requests = browser.new_context(), [], []
    opened = context.new_page()
    opened.set_default_timeout(120_000)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto((tmp_path / "page.html").as_uri())
    yield opened
    assert errors == [] and len(requests) == 1
    context.close()


def expected(position, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    logits = torch.tensor([[entry.logprob for entry in position.values()]])
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), VOCAB).float()[0]
    logits = logits / temperature
    logits = keep_min_p(logits, min_p) if min_p else logits
    logits = keep_top_k(logits, top_k) if top_k else logits
    return (keep_top_p(logits, top_p) if top_p < 1 else logits).softmax(-1)[0]


def choose(page, **values):
    names = {"temperature": "temperature", "top_k": "topK", "top_p": "topP", "min_p": "minP"}
    for name, value in ({"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0} | values).items():
        page.locator(f"input[name={names[name]}]").evaluate(
            "(input, value) => { input.value = value; input.oninput(); }", value
        )


SETTINGS = [
    {},
    {"temperature": 0},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 2, "min_p": 0.1},
    {"temperature": 1.5, "top_k": 7, "top_p": 0.5, "min_p": 0.05},
    {"top_p": 0.05},
]


def test_bars_and_counts_are_those_of_the_sampler(page):
    for number, position in enumerate(POSITIONS.values()):
        page.locator(".sx-context").nth(number).click()
        for setting in SETTINGS:
            choose(page, **setting)
            wanted = expected(position, **setting)
            shown = page.locator(".sx-used").evaluate_all("bars => bars.map(bar => Number(bar.dataset.probability))")
            assert shown == pytest.approx(wanted[:12].tolist(), abs=2e-5)
            kept = int((wanted > 0).sum())
            assert page.locator(".sx-kept").inner_text() == f"{kept} of {VOCAB} tokens can be drawn"


def test_drawing_follows_the_probabilities_and_can_be_repeated(page):
    page.locator("button[value=thinking]").click()
    wanted = expected(POSITIONS["Once"], 0.6, 20, 0.95)

    def drawn():
        return page.locator(".sx-drawn title").evaluate_all("all => all.map(title => Number(title.textContent))")

    for _ in range(5):
        page.locator(".sx-draw button").first.click()
    first = drawn()
    assert page.locator(".sx-total").inner_text() == "500 drawn"
    assert first == pytest.approx(wanted[: len(first)].tolist(), abs=0.09)  # four standard deviations of 500 draws
    page.locator(".sx-draw button").nth(1).click()
    assert drawn() == [] and page.locator(".sx-total").inner_text() == ""
    for _ in range(5):
        page.locator(".sx-draw button").first.click()
    assert drawn() == first
    choose(page, temperature=1.2)
    assert drawn() == []  # other proportions, other draws


def test_presets_language_and_hostile_tokens(page):
    page.locator("button[value=direct]").click()
    assert page.locator("button[value=direct]").get_attribute("aria-pressed") == "true"
    values = page.locator(".sx-control output").all_inner_texts()
    assert values == ["0.70", "20", "0.80", "off"]
    page.locator("summary").click()
    page.locator("tr").nth(60).wait_for()  # the browser tells a little later that the table is open
    assert page.locator("tr").count() == 61
    assert page.locator("td").first.inner_text().startswith("</script><script>")
    assert page.title() == "Sampling · 采样" and page.locator("img").count() == 0
    page.locator("button[value=zh]").click()
    text = page.locator(".rx").inner_text()
    assert LABELS["zh"]["title"] in text and LABELS["zh"]["order"] in text and "temperature" not in text


def test_dark_and_narrow(browser, tmp_path):
    SamplingExplorer(POSITIONS).to_html(tmp_path / "page.html")
    context = browser.new_context(color_scheme="dark", viewport={"width": 420, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(120_000)
    opened.goto((tmp_path / "page.html").as_uri())
    assert opened.locator(".rx").get_attribute("data-theme") == "dark"
    assert opened.evaluate("document.documentElement.scrollWidth") <= 420
    context.close()
