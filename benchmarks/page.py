"""The model in the page, ``helpers/explorer/qwen``: is it right, and how fast? And the page itself, ``play.html``: how
heavy, how soon does it answer? Prints Markdown, in about ten minutes: ``.venv/bin/python -m benchmarks.page``.

All of it runs in a real Chromium that can reach nothing but this repository's files. Right means equal to the real
tokenizer, the real chat template and helpers/qwen.py in float32, and for a part of the prompts to transformers. A token
or a choice of experts that differs counts where the reference's margin exceeds ``MARGIN``; below it is a tie.
"""

import argparse
import contextlib
import functools
import gzip
import json
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import torch

from helpers import ROOT, loading, models, qwen
from helpers.capture import recording
from helpers.lessons.lA1 import draw

MODELS = ("qwen3-tiny", "qwen3-moe-tiny")
MARGIN = 1e-4  # in logits
QUESTION = [{"role": "user", "content": "37×46=?"}]
EXPLORER = ROOT / "helpers" / "explorer"
SERVED = {"/qwen/": EXPLORER / "qwen", "/play/": EXPLORER / "play", "/models/": models.BUNDLED}
PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><script type="module">
import { QwenError } from "/qwen/errors.js";
import { loadModel } from "/qwen/model.js";
import { Tokenizer } from "/qwen/tokenizer.js";
import { renderChat } from "/qwen/chat.js";
import { Runner } from "/play/runner.js";
import { distribution, generate, sample, seededRandom } from "/qwen/sample.js";

const get = (name, file) => fetch(`/models/${name}/${file}`), kept = {}, loaded = {};
const files = async (name) => kept[name] ??= {
  weights: await (await get(name, "model.safetensors")).arrayBuffer(),
  config: await (await get(name, "config.json")).json(),
  tokenizer: await (await get(name, "tokenizer.json")).json(),
  generation: await (await get(name, "generation_config.json")).json(),
};
const load = async (name) => {
  const { weights, config, tokenizer, generation } = await files(name);
  return loaded[name] ??= {
    model: loadModel(weights, config), tokenizer: new Tokenizer(tokenizer), stopIds: generation.eos_token_id,
  };
};
// What is written behind `ids`, the logit of each token, and per position and layer the experts and their weights.
const greedy = async (name, ids, expertOff) => {
  const { model, stopIds } = await load(name), routed = [], logits = [], written = [];
  const router = (layer, routerLogits, expertIds, weights) => routed.push([...expertIds, ...weights]);
  for (const id of generate(model, ids, { stopIds, expertOff, hooks: { router }, maxNewTokens: 300 })) {
    written.push(id);
    logits.push(model.logits[id]);
  }
  return { written, logits, routed };
};
const timed = (work) => {
  const start = performance.now(), result = work();
  return [(performance.now() - start) / 1e3, result];
};
const answer = async (name, ids, expertOff = null) => {
  const { model, stopIds } = await load(name), tokens = generate(model, ids, { stopIds, expertOff });
  const [first] = timed(() => tokens.next()), [rest, others] = timed(() => [...tokens]);
  return { first, speed: others.length / rest, text: others.join() };
};
const sweep = async (name, text) => { // as play.html does it
  const { model, tokenizer, stopIds } = await load(name), said = [];
  const runner = new Runner((message) => said.push(message));
  Object.assign(runner, { model, tokenizer, stopIds });
  const experts = model.layers.flatMap((weights, layer) => weights.experts.map((_, expert) => [layer, expert]));
  await runner.handle({ kind: "run", job: 1, text });
  const start = performance.now();
  await runner.handle({ kind: "sweep", job: 2, text, experts });
  const seconds = (performance.now() - start) / 1e3;
  return { seconds, unchanged: said.filter(({ effect }) => effect === "same").length };
};
const calibrate = () => timed(() => { let sum = 0; for (let i = 1; i < 3e7; i++) sum += 1 / i; return sum; })[0];
Object.assign(window, { QwenError, loadModel, Tokenizer, renderChat, distribution, generate, sample, seededRandom,
  files, load, greedy, answer, sweep, calibrate });
</script>"""


def open_engine(browser):
    """A page with the engine's functions as globals, and none of the network."""

    def serve(route):
        path = urlsplit(route.request.url).path
        for prefix, folder in SERVED.items():
            if path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                return route.fulfill(path=folder / path.removeprefix(prefix))
        if path == "/":
            return route.fulfill(body=PAGE, content_type="text/html")
        return route.abort()

    context = browser.new_context(offline=True)
    context.route("**/*", serve)
    page = context.new_page()
    page.goto("http://page.test/")
    page.wait_for_function("window.load !== undefined")
    return page


def run(page, code: str, *arguments):
    """What the body of an async function returns in the page; ``a`` is the list of the arguments.

    All goes as JSON in ASCII, which keeps lone surrogates, and is faster than Playwright's own way with lists.
    """
    wrapped = f"async (given) => JSON.stringify(await (async (a) => {{ {code} }})(JSON.parse(given)) ?? null)"
    return json.loads(page.evaluate(wrapped, json.dumps(arguments)))


# ---------------------------------------------------------------------------------------------- what it is asked

SPACES = " \n\t\r\x00\x0b\x0c\x1c\x7f\x85\xa0\u1680\u180e\u2003\u2028\u202f\u3000\ufeff"  # and what only looks so
ALPHABET = [
    *SPACES,
    *"aZéßſKıİœÅ",
    "e\u0301",
    *"中国们〇々〆。，！？「」、",
    *"0179²½९٣Ⅷ①㊀",
    *"!?.,-_'\"<>|/\\{}[]()*+^$#@~`&%;:=×÷−…—",
    *"\u200b\u200c\u200d\u2060\u00ad\u202e\u202d\u2066\u2069\u200f",  # zero width, right to left
    *"אבעربि์กけカ한🙂🇨🇳👍🏽𠀀𝔘",
    "👩‍👩‍👧",
    *"\ud83d\ude00\ud800\udfff",  # halves of surrogate pairs, which meet by chance
    *("<think>", "</think>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "<|im_", "think>"),
    *(" the", "user", "assistant", "37×46=?", "  ", "\n\n", "'s", "人工智能", "Qwen3", "</script>", "<!--", "&amp;"),
]


def texts(number: int = 500, seed: int = 0) -> list[str]:
    """Half of them what people write, half drawn from ``ALPHABET``; some hold surrogates that pair with no other."""
    rng = random.Random(seed)
    found = ["", " ", "</script>", "<|im_end|>", "\ud83d", "\ude00\ud83d", "x" * 999, " " * 99, "\u202e" * 9, "𠀀" * 99]
    found += [f"a    {space}{end}" for space in SPACES for end in ("", "b", "\n")]
    while len(found) < number // 2:
        sample = draw(rng)
        found += [sample.thought, sample.answer, *(message["content"] for message in sample.messages)]
    found = found[: number // 2]
    return found + ["".join(rng.choices(ALPHABET, k=rng.randint(1, 60))) for _ in range(number - len(found))]


def well_formed(text: str) -> str:
    """The text as UTF-8 can hold it: with U+FFFD for each surrogate that belongs to no pair."""
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return re.sub("[\ud800-\udfff]", "\ufffd", paired)


def prompts(number: int = 200, seed: int = 0) -> list[list[dict]]:
    """Conversations of the kind that the tiny models know, up to the last question, without tools."""
    rng, found = random.Random(seed), []
    while len(found) < number:
        sample = draw(rng)
        if not sample.tools and all(message["role"] != "tool" for message in sample.messages):
            found.append(sample.messages)
    return found


def conversations() -> list[list[dict]]:
    """Every way in which the template treats a turn: system prompts, thoughts old and new, and what looks like them."""
    thought = "<think>\n 46=40+6\n\n</think>\n\n\n1702"
    replies = [
        {"content": "1702"},
        {"content": thought},
        {"content": "1702\n", "reasoning_content": "\n46=40+6\n"},
        {"content": "1702", "reasoning_content": ""},
        {"content": "\n\n a <think>b</think> c <think>d</think>\n\ne"},
        {"content": "no opening</think>x"},
        {"content": "<think>no end"},
        {"content": ""},
    ]
    assistant = [{"role": "assistant", **reply} for reply in replies]
    system, user = (
        {"role": "system", "content": "你是助手。\n"},
        {"role": "user", "content": "37×46=? <|im_end|> </script>"},
    )
    result = {"role": "user", "content": "<tool_response>\n1702\n</tool_response>"}
    known = [[user], [system, user], [user, user], [user, system, user], [system], [{**user, "content": ""}], [result]]
    for reply in assistant:
        known += [
            [user, reply, user],
            [system, user, reply],
            [user, reply],
            [user, reply, reply],
            [reply, user],
            [reply],
        ]
        known += [[user, reply, result], [user, reply, result, reply], [system, user, reply, user, reply, user]]
    return known


# ---------------------------------------------------------------------------------------------- against the reference


@dataclass
class Comparison:
    """What the page computed, beside a reference that was given the page's own tokens."""

    tokens: int = 0
    different: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)
    choices: int = 0  # a token in a layer with experts
    logit_difference: float = 0.0  # the largest, over the tokens written
    weight_difference: float = 0.0  # the largest, over choices of the same experts

    def note(self, what: str, margin: float) -> None:
        (self.different if margin > MARGIN else self.ties).append(f"{what}, margin {margin:.1e}")

    def add(self, reference, config, prompt: list[int], reply: dict) -> None:
        """reference(ids): logits (seq, vocab) and router logits (layers, seq, experts), or None without experts."""
        ids = prompt + reply["written"][:-1]
        logits, router_logits = reference(ids)
        written, (best, second) = logits[len(prompt) - 1 :], logits[len(prompt) - 1 :].topk(2).values.T
        chosen = torch.tensor(reply["written"])
        self.tokens += len(chosen)
        for place in (written.argmax(-1) != chosen).nonzero()[:, 0].tolist():
            self.note(f"token {place} of {ids[: len(prompt)]}", float(best[place] - second[place]))
        apart = (written.gather(-1, chosen[:, None])[:, 0] - torch.tensor(reply["logits"])).abs().max()
        self.logit_difference = max(self.logit_difference, float(apart))
        if router_logits is None:
            return
        top_k = config.num_experts_per_tok
        routed = torch.tensor(reply["routed"]).view(len(ids), -1, 2 * top_k).transpose(0, 1)  # (layers, seq, 2 * top_k)
        weights, expert_ids = qwen.route(router_logits, top_k, config.norm_topk_prob)  # (layers, seq, top_k) each
        same = (routed[..., :top_k] == expert_ids).all(-1)  # (layers, seq)
        ordered = router_logits.sort(descending=True).values[..., : top_k + 1]
        margins = (ordered[..., :-1] - ordered[..., 1:]).amin(-1)
        self.choices += same.numel()
        for layer, place in (~same).nonzero().tolist():
            self.note(f"experts of token {place} of {ids} in layer {layer}", float(margins[layer, place]))
        apart = (routed[..., top_k:] - weights)[same].abs().max()
        self.weight_difference = max(self.weight_difference, float(apart))


def reference(model):
    """``Comparison.add``'s view of a model of helpers/qwen.py."""
    routers = {n: layer.mlp.router for n, layer in enumerate(model.layers) if hasattr(layer.mlp, "router")}

    def forward(ids):
        with torch.inference_mode(), recording(routers) as outputs:
            logits = model(torch.tensor([ids]))[0]
        return logits, torch.stack([rows[0][2] for rows in outputs.values()]) if routers else None

    return forward


def transformers_reference(folder: Path):
    """``Comparison.add``'s view of the model in transformers, float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    options = {"output_router_logits": True} if model.config.model_type == "qwen3_moe" else {}

    def forward(ids):
        with torch.inference_mode():
            output = model(torch.tensor([ids]), **options)
        return output.logits[0], torch.stack(output.router_logits) if options else None

    return forward


def compare(page, name: str, conversations_asked, thinking: bool, against, tokenizer) -> Comparison:
    """Let the page answer greedily, and compare every token and every choice of experts."""
    found, config = Comparison(), loading.qwen_config(models.BUNDLED / name)
    for messages in conversations_asked:
        ids = tokenizer.encode(render(tokenizer, messages, thinking), add_special_tokens=False)
        found.add(against, config, ids, run(page, "return greedy(...a)", name, ids))
    return found


def render(tokenizer, messages, thinking, add_generation_prompt=True) -> str:
    options = {"add_generation_prompt": add_generation_prompt, "enable_thinking": thinking}
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


# ---------------------------------------------------------------------------------------------- figures


def alike(page, tokenizers) -> list[str]:
    """Rows on token ids and rendered prompts."""
    written, rows = texts(), []
    for name, tokenizer in tokenizers.items():
        encode = "const { tokenizer } = await load(a[0]); return a[1].map((text) => tokenizer.encode(text));"
        found = run(page, encode, name, written)
        wanted = [tokenizer.encode(well_formed(text), add_special_tokens=False) for text in written]
        equal = sum(map(list.__eq__, found, wanted))
        rows.append(f"| {name}: ids of {len(written)} texts equal to transformers' tokenizer | {equal} | all |")
        asked = conversations() + prompts()
        for thinking in (True, False):
            found = run(page, "return a[0].map((m) => renderChat(m, { thinking: a[1] }))", asked, thinking)
            equal = sum(
                text == render(tokenizer, messages, thinking) for text, messages in zip(found, asked, strict=True)
            )
            title = f"{name}: {len(asked)} rendered prompts equal to jinja's, thinking {'on' if thinking else 'off'}"
            rows.append(f"| {title} | {equal} | all |")
    return rows


def numerics(page, tokenizers, number: int, few: int) -> list[str]:
    rows = []
    for name, tokenizer in tokenizers.items():
        folder = models.BUNDLED / name
        ours = reference(qwen.load_model(folder, torch.float32, "cpu"))
        for against, forward, asked in (
            ("helpers/qwen.py", ours, prompts(number)),
            ("transformers", transformers_reference(folder), prompts(few)),
        ):
            for thinking in (True, False):
                found = compare(page, name, asked, thinking, forward, tokenizer)
                title = f"{name} | {'on' if thinking else 'off'} | {against} | {len(asked)}"
                counts = f"{found.tokens} | {found.choices} | {len(found.different)} | {len(found.ties)}"
                rows.append(f"| {title} | {counts} | {found.logit_difference:.1e} | {found.weight_difference:.1e} |")
                for line in found.different + found.ties:
                    print(f"{name}, {against}: {line}", file=sys.stderr)
    return rows


def draws(page, tokenizer, number: int = 1000) -> list[str]:
    """How far what the page draws behind one prompt lies from helpers/qwen.py's logits put into the formula."""
    ids, reference = tokenizer.encode("从前有"), qwen.load_model(models.BUNDLED / MODELS[1], torch.float32, "cpu")
    with torch.inference_mode():
        logits = reference(torch.tensor([ids]))[:, -1].double()
    code = """const { model } = await load(a[0]), random = seededRandom(7);
        model.cache.rewind(0);
        const logits = model.prefill(a[1]).slice();
        return Array.from({ length: a[3] }, () => sample(logits, { ...a[2], random }));"""
    rows = []
    for title, options, kept in (
        ("temperature 1", {}, logits),
        (
            "thinking: 0.6, top-k 20, top-p 0.95",
            {"temperature": 0.6, "topK": 20, "topP": 0.95},
            qwen.keep_top_p(qwen.keep_top_k(logits / 0.6, 20), 0.95),
        ),
    ):
        probabilities, drawn = kept.softmax(-1)[0], torch.tensor(run(page, code, MODELS[1], ids, options, number))
        common = probabilities >= 5 / number  # the others count as one
        expected = torch.cat([probabilities[common], probabilities[~common].sum()[None]])
        counts = torch.bincount(drawn, minlength=len(probabilities))
        counts = torch.cat([counts[common], counts[~common].sum()[None]])
        deviations = (counts - number * expected).abs() / (number * expected * (1 - expected)).sqrt().clamp(min=1e-6)
        shown = f"{deviations.max():.1f} standard deviations over {len(expected)} groups of tokens"
        rows.append(f"| {number} draws behind one prompt, {title}: farthest from the formula | {shown} | within 5 |")
    return rows


def spread(values, digits=0) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def speeds(page, tokenizers, repeats: int) -> list[str]:
    """Alternating: each model in the page, transformers on the same question, the sweep; then the same slowed down."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    ids = {n: t.encode(render(t, QUESTION, True), add_special_tokens=False) for n, t in tokenizers.items()}
    moe = MODELS[1]
    thirty = (ids[moe] * 3)[:30]
    peers = {
        name: AutoModelForCausalLM.from_pretrained(models.BUNDLED / name, dtype=torch.float32).eval() for name in MODELS
    }

    def with_transformers(name):
        start, prompt = time.perf_counter(), torch.tensor([ids[name]])
        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        written = peers[name].generate(prompt, max_new_tokens=100, **greedy).shape[1] - prompt.shape[1]
        return written / (time.perf_counter() - start)

    ours, theirs = {name: [] for name in MODELS}, {name: [] for name in MODELS}
    swept, first, factors, unchanged = {1: [], 4: []}, {1: [], 4: []}, [], set()
    session = page.context.new_cdp_session(page)
    for repeat in range(repeats + 1):  # the first warms up
        for name in MODELS:
            speed = run(page, "return answer(...a)", name, ids[name])["speed"]
            speed_there = with_transformers(name)
            if repeat:
                ours[name].append(speed)
                theirs[name].append(speed_there)
        times = {}
        for slower in (1, 4):
            session.send("Emulation.setCPUThrottlingRate", {"rate": slower})
            times[slower] = run(page, "return calibrate()")
            begun = run(page, "return answer(...a)", moe, thirty)["first"]
            done = run(page, "return sweep(...a)", moe, QUESTION[0]["content"])
            if repeat:
                first[slower].append(1e3 * begun)
                swept[slower].append(done["seconds"])
                unchanged.add(done["unchanged"])
        session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        factors.append(times[4] / times[1])
    rows = []
    for name in MODELS:
        ratio = spread([a / b for a, b in zip(ours[name], theirs[name], strict=True)], 1)
        wanted = "at least 1000" if name == moe else ""
        rows.append(f"| {name}: decode, tokens/s | {spread(ours[name])} | {wanted} |")
        rows.append(f"| {name}: the same question in transformers, one thread, tokens/s | {spread(theirs[name])} | |")
        rows.append(f"| {name}: page / transformers, pairwise | {ratio} | |")
    rows += [
        f"| first token of a 30-token prompt, ms | {spread(first[1])} | |",
        f"| ... slowed down | {spread(first[4])} | under 300 |",
        f"| 32 experts off in turn, one answer each, s | {spread(swept[1], 1)} | under 2.5 |",
        f"| ... slowed down | {spread(swept[4], 1)} | under 12 |",
        f"| a fixed loop, slowed down / not | {spread(factors[1:], 1)} | 4 |",
        f"| experts without which the answer stays the same | {', '.join(map(str, sorted(unchanged)))} of 32 | |",
    ]
    return rows


# ---------------------------------------------------------------------------------------------- the page itself

PLAYED = ".answer .chip:last-child:not(.ahead)"  # the last token of the answer, in sight


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder: Path):
    """The address of a web server for ``folder``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def first_touch(browser, address: str, slower: int) -> dict:
    """One visit to play.html: a touch, its answer, the sweep, the scissors, axe over each view. Times in ms.

    Chromium slows down the page's own thread alone: the worker, in which the model runs, keeps its speed. A task counts
    as long by the clock and by the processor time that it used, which other programs on the machine change less; both
    are those of Chromium's trace, which knows the frames, too. Waiting happens in the page, for a question of
    Playwright's would be a task as well.
    """
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect

    asked, foreign = [], []

    def note(request):
        if request.url.startswith(address):
            asked.append(urlsplit(request.url).path)
        elif not request.url.startswith(("blob:", "data:")):
            foreign.append(request.url)

    context = browser.new_context()
    context.on("request", note)
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    session = context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": slower})
    page.goto(f"{address}play.html")
    calibration = page.evaluate(CALIBRATION)
    before = list(asked)

    def until(touch: str, *seen: str) -> list[float]:
        """ms from a click on one element until others are drawn, one after the other, on the page's own clock."""
        return page.evaluate(DRAWN, [touch, *seen])

    browser.start_tracing(page=page, categories=["toplevel", "blink.user_timing"])
    first, played = until(".dials .go", ".thought .chip:not(.ahead)", PLAYED)
    trace = json.loads(browser.stop_tracing())["traceEvents"]
    tasks = page_tasks(trace)
    found = {"first": first, "longest": max(used for _, used in tasks)}
    found |= {"generating": sum(taken > 50 for taken, _ in tasks), "busy": sum(used > 50 for _, used in tasks)}
    page.locator("#tab-experts").click()
    expect(page.locator(".answered").first).to_be_visible(timeout=120_000)
    [found["sweep"]] = until(".experts-view .go", ".share:not([hidden])")
    page.locator("#tab-cut").click()
    expect(page.locator(".flip")).not_to_have_text("", timeout=120_000)
    found["serious"] = 0
    for view in ("cut", "experts", "play"):
        page.locator(f"#tab-{view}").click()
        violations = Axe().run(page).response["violations"]
        found["serious"] += sum(one["impact"] in ("serious", "critical") for one in violations)
    context.close()
    return found | {
        "calibration": calibration,
        "before": before,
        "asked": asked,
        "foreign": foreign,
        "errors": errors,
    }


CALIBRATION = """() => {
    const start = performance.now();
    let sum = 0;
    for (let i = 1; i < 3e7; i++) sum += 1 / i;
    return sum && performance.now() - start;
}"""
DRAWN = """([touch, ...wanted]) => new Promise((resolve) => {
    const found = [], watcher = new MutationObserver(look);
    function look() {
        if (!document.querySelector(wanted[0])) return;
        wanted.shift();
        if (!wanted.length) watcher.disconnect();
        requestAnimationFrame(() => setTimeout(() => { // the frame that shows it is drawn
            found.push(performance.now() - start);
            if (!wanted.length) resolve(found);
        }));
    }
    watcher.observe(document.body, { subtree: true, childList: true, attributeFilter: ["class", "hidden"] });
    const start = performance.mark("touched").startTime;
    document.querySelector(touch).click();
})"""


def page_tasks(trace: list[dict]) -> list[tuple[float, float]]:
    """ms by the clock and ms of a processor of each task of the page's thread since the touch."""
    touched = next(event for event in trace if event["name"] == "touched")
    thread = touched["pid"], touched["tid"]
    tasks = (e for e in trace if e["name"].endswith("::RunTask") and (e["pid"], e["tid"]) == thread and "dur" in e)
    return [(e["dur"] / 1e3, e.get("tdur", 0) / 1e3) for e in tasks if e["ts"] + e["dur"] > touched["ts"]]


def page_figures(browser, repeats: int) -> list[str]:
    """What a visitor of the page waits for and fetches."""
    from tools.site import build_play

    with tempfile.TemporaryDirectory() as folder:
        build_play.build(Path(folder))
        visits = {1: [], 4: []}
        with served(Path(folder)) as address:
            for _ in range(repeats):
                for slower, found in visits.items():
                    found.append(first_touch(browser, address, slower))
        contents = {path: Path(folder, path.removeprefix("/")).read_bytes() for path in visits[1][0]["asked"]}
    every = [visit for found in visits.values() for visit in found]
    factors = [slow["calibration"] / fast["calibration"] for fast, slow in zip(visits[1], visits[4], strict=True)]

    def row(what: str, key: str, slower: int, wanted: str, digits: int = 0, unit: float = 1) -> str:
        return f"| {what} | {spread([visit[key] / unit for visit in visits[slower]], digits)} | {wanted} |"

    def weight(paths: list[str]) -> str:
        raw, packed = (sum(len(pack(contents[path])) for path in paths) for pack in (bytes, gzip.compress))
        return f"{len(paths)} requests, {raw / 1e3:,.0f} kB, {packed / 1e3:,.0f} kB gzipped"

    weights = [path for path in contents if path.endswith(".safetensors")]
    return [
        row("play.html: touch to first token, model fetched from this machine, ms", "first", 1, ""),
        row("... slowed down", "first", 4, "under 1000"),
        row("play.html: sweep of 32 experts, s", "sweep", 1, "under 2.5", 1, 1e3),
        row("... its own thread slowed down, the worker not", "sweep", 4, "", 1, 1e3),
        row("play.html: tasks over 50 ms from the touch until the answer is played", "generating", 1, "0"),
        row("... over 50 ms of a processor", "busy", 1, "0"),
        row("... the longest, ms of a processor", "longest", 1, "", 1),
        row("slowed down: tasks over 50 ms from the touch until the answer is played", "generating", 4, ""),
        row("... over 50 ms of a processor", "busy", 4, ""),
        row("... the longest, ms of a processor", "longest", 4, "", 1),
        f"| the page's fixed loop, slowed down / not | {spread(factors, 1)} | 4 |",
        f"| play.html before the first touch | {weight(every[0]['before'])} | |",
        f"| play.html in all | {weight(every[0]['asked'])} | |",
        f"| weights alone | {weight(weights)} | 6,500 kB, 5,200 kB gzipped |",
        f"| requests to another host | {sum(len(visit['foreign']) for visit in every)} | 0 |",
        f"| console errors | {sum(len(visit['errors']) for visit in every)} | 0 |",
        f"| findings of axe, serious or worse, in the three views | {sum(visit['serious'] for visit in every)} | 0 |",
    ]


def front_page(browser, site: Path) -> list[str]:
    """What the front page of a built site fetches before anybody touches it."""
    if not (site / "zh" / "index.html").is_file():
        return [f"| front page without the weights | not measured: no site in {site}, see `make site` | |"]
    rows = []
    with served(site) as address:
        for lang in ("zh", "en"):
            page, sizes = browser.new_page(), []
            page.on("response", lambda response, sizes=sizes: sizes.append(response))
            page.goto(f"{address}{lang}/index.html", wait_until="networkidle")
            fetched = [len(response.body()) for response in sizes if response.url.startswith("http")]
            page.close()
            measured = f"{len(fetched)} requests, {sum(fetched) / 1e3:,.0f} kB"
            rows.append(f"| front page ({lang}) without the weights | {measured} | 12 requests, 400 kB |")
    return rows


OTHERS = """
Beside it, as their sources say it: Transformer Explainer fetches GPT-2 in 63 files of up to 10 MiB, and names 600 MB
(<https://github.com/poloclub/transformer-explainer>, `src/routes/+page.svelte` and `src/components/InputForm.svelte` at
6e2ec37 of 27 February 2026). web-llm names no download sizes (<https://github.com/mlc-ai/web-llm/issues/666>), but the
GPU memory that a model needs: 1403 MB for its smallest Qwen3, Qwen3-0.6B in 4 bits (`src/config.ts` at c51c9c0 of
4 May 2026)."""


@contextlib.contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10, help="of each speed (%(default)s); 0: none")
    parser.add_argument("--prompts", type=int, default=200, help="against helpers/qwen.py (%(default)s)")
    parser.add_argument("--few", type=int, default=20, help="prompts against transformers (%(default)s)")
    parser.add_argument("--site", type=Path, default=ROOT / "build" / "site", help="a built site (%(default)s)")
    options = parser.parse_args()
    tokenizers = {name: AutoTokenizer.from_pretrained(models.BUNDLED / name) for name in MODELS}
    with chromium() as browser:
        page = open_engine(browser)
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Chromium {browser.version}, torch {torch.__version__}.\n")
        print("| what | measured | wanted |\n|---|---|---|", *alike(page, tokenizers), sep="\n", flush=True)
        print(*draws(page, tokenizers[MODELS[1]]), sep="\n", flush=True)
        print(*front_page(browser, options.site), sep="\n", flush=True)
        if options.repeats:
            print(*speeds(page, tokenizers, options.repeats), sep="\n", flush=True)
            print(*page_figures(browser, options.repeats), sep="\n", flush=True)
        print("\n| model | thinking | against | prompts | tokens | choices | different | ties | logits | weights |")
        print("|-|-|-|-|-|-|-|-|-|-|", *numerics(page, tokenizers, options.prompts, options.few), sep="\n")
        print(OTHERS)


if __name__ == "__main__":
    main()
