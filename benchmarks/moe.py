"""The mixture-of-experts block of helpers/qwen.py beside transformers and llms-from-scratch, and what a trace costs.

One block of Qwen3-30B-A3B's shape with random weights, which all engines share, so that they also route alike. The
Markdown tables on stdout give medians; "ours / this" is the median over the repeats of the ratio of the two times, with
its range (below 1: ours is faster). The limit is the larger of two times: reading the experts that were hit once at the
measured bandwidth, and their multiplications at the measured fp32 matmul rate. The two slow peers are run once
or left out where ten runs would take too long, unless --full is given.

    .venv/bin/python -m benchmarks.moe [--full] [--repeats 10] [--threads 1 2] [--only block trace]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.peers import install_peer, versions
from helpers import capture, models
from helpers.lessons.l04.record import QUESTIONS
from helpers.lessons.lA2 import agreement
from helpers.lessons.lA2.vllm_routing import capture_vllm
from helpers.qwen import QwenConfig, SparseMoeBlock
from helpers.routing import RoutingTrace

HIDDEN, EXPERTS, TOP_K, WIDTH = 2048, 128, 8, 768
TOKENS = (1, 64, 1024)
SLOW = {"transformers batched_mm", "llms-from-scratch"}  # one copies weights, one runs all experts
PATIENCE = 12  # seconds for all runs of one of these at one size, without --full
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of the difference's norm over that of the output


def our_block(dtype):
    config = QwenConfig(
        vocab_size=1, hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=128, qk_norm=True, qkv_bias=False, num_experts=EXPERTS,
        num_experts_per_tok=TOP_K, moe_intermediate_size=WIDTH, norm_topk_prob=True,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)  # the weights are made in their dtype: a copy of 2.4 GB fewer
    try:
        return SparseMoeBlock(config).requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def transformers_block(ours, implementation):
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeConfig, Qwen3MoeSparseMoeBlock

    config = Qwen3MoeConfig(
        hidden_size=HIDDEN, num_experts=EXPERTS, num_experts_per_tok=TOP_K, moe_intermediate_size=WIDTH,
        norm_topk_prob=True,
    )  # fmt: skip
    config._experts_implementation = implementation
    with torch.device("meta"):
        block = Qwen3MoeSparseMoeBlock(config)
    block.gate.weight = ours.router.weight
    block.experts.gate_up_proj, block.experts.down_proj = ours.experts.gate_up_proj, ours.experts.down_proj
    return block


def llms_from_scratch_block(ours):
    from llms_from_scratch.qwen3 import MoEFeedForward

    keys = {"num_experts_per_tok": TOP_K, "num_experts": EXPERTS, "emb_dim": HIDDEN, "moe_intermediate_size": WIDTH}
    with torch.device("meta"):
        block = MoEFeedForward(keys | {"dtype": ours.router.weight.dtype})
    block.gate.weight = ours.router.weight

    def share(view):
        return torch.nn.Parameter(view, requires_grad=False)

    for expert in range(EXPERTS):
        gate, up = ours.experts.gate_up_proj[expert].chunk(2)
        block.fc1[expert].weight, block.fc2[expert].weight = share(gate), share(up)
        block.fc3[expert].weight = share(ours.experts.down_proj[expert])
    return block


def seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def needed_memory(name, tokens, dtype):
    """Bytes that one forward pass of a peer allocates beyond the weights; the two that matter."""
    if name == "transformers batched_mm":  # a copy of its experts for every token
        return tokens * TOP_K * 3 * HIDDEN * WIDTH * dtype.itemsize
    if name == "llms-from-scratch":  # the outputs of all experts, once in a list and once joined and weighted
        return 3 * tokens * EXPERTS * HIDDEN * dtype.itemsize
    return 0


def limit(block, tokens, dtype):
    """Seconds that the hardware needs at least: reading the experts that are hit, or multiplying."""
    _, ids, _ = block.router(tokens)
    hit_bytes = ids.unique().numel() * 3 * HIDDEN * WIDTH * dtype.itemsize
    data = torch.ones(64 * 2**20)
    bandwidth = data.nbytes / median(seconds(data.sum) for _ in range(9))
    matrix = torch.ones(1024, 1024)
    rate = 2 * 1024**3 / median(seconds(lambda: matrix @ matrix) for _ in range(9))
    return max(hit_bytes / bandwidth, len(tokens) * TOP_K * 6 * HIDDEN * WIDTH / rate)


def blocks(dtype):
    """Our block and those of the peers, by name; all hold the same weights."""
    ours = our_block(dtype)
    found = {"helpers/qwen.py": ours}
    for implementation in ("grouped_mm", "eager", "batched_mm"):
        found[f"transformers {implementation}"] = transformers_block(ours, implementation)
    found["llms-from-scratch"] = llms_from_scratch_block(ours)
    return found


def compare_blocks(dtype, threads, repeats, full):
    engines = blocks(dtype)
    ours = engines["helpers/qwen.py"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    weights = EXPERTS * 3 * HIDDEN * WIDTH * dtype.itemsize
    per_token = {}  # seconds of each engine at the size before
    for count in TOKENS:
        generator = torch.Generator().manual_seed(count)
        hidden_states = torch.randn(1, count, HIDDEN, generator=generator).to(dtype)
        wanted = ours(hidden_states)
        for number in threads:
            torch.set_num_threads(number)
            least = limit(ours, hidden_states[0], dtype)
            times, notes = {}, {}
            for name, block in engines.items():
                if weights + needed_memory(name, count, dtype) > 0.6 * memory:
                    notes[name] = "does not fit"
                    continue
                if name in SLOW and per_token.get(name, 0) * count > PATIENCE and not full:
                    notes[name] = f"left out without --full: about {per_token[name] * count:.0f} s"
                    continue
                start = time.perf_counter()
                output = block(hidden_states)  # also warms up
                first = time.perf_counter() - start
                per_token[name] = first / count
                apart = ((output - wanted).float().norm() / wanted.float().norm()).item()
                assert apart < TOLERANCE[dtype], f"{name} computes something else: {apart:.1e}"
                if name in SLOW and first * repeats > PATIENCE and not full:
                    times[name], notes[name] = [first], "one run"
                else:
                    times[name] = []
            for repeat in range(repeats):
                names = [name for name in times if name not in notes]
                shift = repeat % len(names)
                for name in names[shift:] + names[:shift]:
                    times[name].append(seconds(engines[name], hidden_states))
            own = times["helpers/qwen.py"]
            for name in engines:
                print_row(dtype, count, number, name, times.get(name), own, least, notes.get(name, ""))


def print_row(dtype, tokens, threads, name, times, own, least, note):
    kind = str(dtype).removeprefix("torch.")
    if times is None:
        print(f"| {kind} | {tokens} | {threads} | {name} | {note} | | |", flush=True)
        return
    ratio = ""
    if name != "helpers/qwen.py" and not note:
        ratios = [a / b for a, b in zip(own, times, strict=True)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    elif note:
        ratio = f"{median(own) / times[0]:.2f} ({note})"
    taken = median(times)
    print(f"| {kind} | {tokens} | {threads} | {name} | {taken * 1e3:.1f} | {ratio} | {least / taken:.0%} |", flush=True)


def capture_cost(repeats):
    """Median extra time of forward passes that are recorded, with all that a trace keeps of them, and its range.

    A capture of generated text passes one token at a time, and works out what it keeps once, at the end.
    """
    block = our_block(torch.bfloat16)
    torch.set_num_threads(1)

    def passes(inputs):
        for hidden_states in inputs:
            block(hidden_states)

    def recorded(inputs):
        with capture.recording({0: block.router}) as outputs:
            passes(inputs)
        capture._routed(torch.cat([logits for _, _, logits in outputs[0]]), TOP_K, True)

    for count in TOKENS:
        inputs = [torch.randn(1, count, HIDDEN).to(torch.bfloat16) for _ in range(64 if count == 1 else 1)]
        passes(inputs)
        costs = []
        for repeat in range(repeats):
            order = (passes, recorded) if repeat % 2 else (recorded, passes)
            times = {call: seconds(call, inputs) for call in order}
            costs.append(times[recorded] / times[passes] - 1)
        spread = f"{min(costs):+.1%} to {max(costs):+.1%}; at most 5 %"
        print(f"| capture, {count} tokens, bf16, 1 thread | {median(costs):+.1%} ({spread}) |")


def large_trace():
    """48 layers x 2,048 tokens x 8 of 128 experts at random: the worst case for compression."""
    draw = np.random.default_rng(0)
    ids = draw.random((48, 2048, EXPERTS)).argsort(-1)[..., :TOP_K].astype(np.uint8)
    weights = -np.sort(-draw.dirichlet(np.ones(TOP_K), (48, 2048))).astype(np.float16)
    entropy = draw.uniform(2, np.log(EXPERTS), (48, 2048)).astype(np.float16)
    words = [" Mixture", " of", " experts", "混合", "专家", "12", "+", "35", "="]
    pieces = tuple(words[i % len(words)].encode() for i in range(2048))
    about = {"model": "random", "captured_with": "numpy", "weights": "random"}
    return RoutingTrace(np.arange(2048), pieces, 1500, tuple(range(48)), ids, weights, entropy, EXPERTS, about)


def measure_explorer(folder, repeats):
    from helpers.explorer import RoutingExplorer

    trace = large_trace()
    trace.save(folder / "trace.npz")
    RoutingExplorer(trace).to_html(folder / "page.html")
    print(f"| trace of 48 x 2,048 x 8, saved | {(folder / 'trace.npz').stat().st_size / 1e6:.2f} MB (under 4) |")
    print(f"| its page | {(folder / 'page.html').stat().st_size / 1e6:.2f} MB (under 5) |")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        print("| the page in Chromium | playwright is not installed |")
        return
    change_layer = """async layer => {
        const slider = document.querySelector(".rx-layer"), start = performance.now();
        slider.value = layer;
        slider.oninput();
        await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        return performance.now() - start;
    }"""
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        except Error:
            print("| the page in Chromium | /usr/bin/chromium is not installed |")
            return
        opened, changed, requests = [], [], []
        for _ in range(repeats):
            page = browser.new_page()
            page.on("request", lambda request: requests.append(request.url))
            start = time.perf_counter()
            page.goto((folder / "page.html").as_uri())
            page.wait_for_selector(".rx-chip small:not(:empty)")
            opened.append(time.perf_counter() - start)
            changed.append(page.evaluate(change_layer, 1 + len(opened)))
            page.close()
        browser.close()
    print(f"| opened in Chromium | {median(opened):.2f} s ({min(opened):.2f}-{max(opened):.2f}; under 2) |")
    print(f"| another layer | {median(changed):.0f} ms ({min(changed):.0f}-{max(changed):.0f}; under 100) |")
    print(f"| requests beyond the page | {len(requests) - repeats} |")


def compare_captures():
    """The three engines on one conversation: in float32, where they must agree, and in bfloat16, where each rounds at
    other places, so that near ties fall either way and what follows differs too.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from helpers.engine import open_engine
    from helpers.qwen import load_model

    folder = models.find_checkpoint(models.DEFAULTS[models.MOE_VARIABLE])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for dtype, wanted in ((torch.float32, "at least 99 %, 1e-2"), (torch.bfloat16, "shown")):
        reference = capture.capture_conversation(load_model(folder, dtype, "cpu"), tokenizer, QUESTIONS)
        token_ids = reference.token_ids.tolist()
        peer = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        kind = str(dtype).removeprefix("torch.")
        with open_engine(folder, enable_prefix_caching=False, dtype=kind) as llm:
            others = [capture.capture_transformers(peer, tokenizer, token_ids), capture_vllm(llm, token_ids)]
        for other in others:
            same, difference = agreement(reference, other)
            cells = reference.expert_ids[..., 0].size
            about = f"{other.provenance['captured_with']} against helpers/qwen.py, {folder.name}, {kind}"
            print(f"| {about} | {same:.2%} of {cells} sets equal, weights within {difference:.1e} ({wanted}) |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="repeat the slow peers as often as the others")
    parser.add_argument("--only", choices=["block", "trace"], nargs="+", default=["block", "trace"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    install_peer("llms_from_scratch")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    print(versions(), end="\n\n")
    with torch.inference_mode():
        if "block" in arguments.only:
            print("| dtype | tokens | threads | engine | ms | ours / this | of limit |\n|-|-|-|-|-|-|-|")
            for dtype in (torch.bfloat16, torch.float32):
                compare_blocks(dtype, arguments.threads, arguments.repeats, arguments.full)
        if "trace" in arguments.only:
            print("\n| what | measured |\n|-|-|")
            capture_cost(arguments.repeats)
            with tempfile.TemporaryDirectory() as temporary:
                measure_explorer(Path(temporary), arguments.repeats)
            compare_captures()


if __name__ == "__main__":
    main()
