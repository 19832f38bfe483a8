"""Decode and prefill speed of helpers/qwen.py beside transformers and llms-from-scratch (its Qwen3 with KV cache).

Same checkpoint folder, same prompts, batch 1, greedy, alternating repeats: the bundled dense model, then Qwen3-0.6B's
shape with random bf16 weights. The Markdown table on stdout gives medians; "ours / X" is the median over the repeats of
the ratio of the two speeds, with its range (above 1: ours is faster). The limit is what reading every weight once per
token allows at the measured read bandwidth.

    .venv/bin/python -m benchmarks.architecture [--full] [--only tiny|0.6b] [--repeats 10] [--threads 1 2]
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from benchmarks.peers import install_peer, versions
from helpers.models import BUNDLED, ROOT
from helpers.qwen import load_model

SHAPE_0_6B = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}


class Ours:
    name = "helpers/qwen.py"

    def __init__(self, folder):
        self.model = load_model(folder, device="cpu")
        self.final_norm = self.model.norm

    def generate(self, prompt, new_tokens):
        return self.model.generate(prompt, max_new_tokens=new_tokens, eos_token_id=())[0, prompt.shape[1] :].tolist()


class Transformers:
    name = "transformers"

    def __init__(self, folder):
        from transformers import AutoModelForCausalLM, GenerationConfig

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        self.final_norm = self.model.model.norm
        self.model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)  # no eos: runs to the end

    def generate(self, prompt, new_tokens):
        mask = torch.ones_like(prompt)
        return self.model.generate(prompt, attention_mask=mask, max_new_tokens=new_tokens)[
            0, prompt.shape[1] :
        ].tolist()


class LLMsFromScratch:
    name = "llms-from-scratch"

    def __init__(self, folder):
        from llms_from_scratch.kv_cache.generate import generate_text_simple_stream
        from llms_from_scratch.kv_cache.qwen3 import Qwen3Model, load_weights_into_qwen
        from safetensors.torch import load_file

        keys = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        config = {
            "vocab_size": keys["vocab_size"],
            "context_length": 2048,  # covers every run here; the masks do not depend on it
            "emb_dim": keys["hidden_size"],
            "n_heads": keys["num_attention_heads"],
            "n_layers": keys["num_hidden_layers"],
            "hidden_dim": keys["intermediate_size"],
            "head_dim": keys["head_dim"],
            "qk_norm": True,
            "n_kv_groups": keys["num_key_value_heads"],
            "rope_base": keys.get("rope_theta") or keys["rope_parameters"]["rope_theta"],
            "dtype": weights["model.embed_tokens.weight"].dtype,
        }
        self.model = Qwen3Model(config)
        self.final_norm = self.model.final_norm
        self.stream = generate_text_simple_stream
        with contextlib.redirect_stdout(sys.stderr):
            load_weights_into_qwen(self.model, config, weights)

    def generate(self, prompt, new_tokens):
        return [token.item() for token in islice(self.stream(self.model, prompt, new_tokens), new_tokens)]


def timed(engine, prompt, new_tokens):
    """Tokens/s of prefill and decode in one run, from the moments at which the final norm runs: once per forward."""
    moments = []
    hook = engine.final_norm.register_forward_hook(lambda *_: moments.append(time.perf_counter()))
    start = time.perf_counter()
    engine.generate(prompt, new_tokens)
    hook.remove()
    # The head follows the norm, so the head of the prefill ends up in the second interval.
    steps = [after - before for before, after in zip(moments[1:], moments[2:], strict=False)]
    prefill = moments[1] - start - median(steps)
    return prompt.shape[1] / prefill, len(steps) / sum(steps)


def measure(engines, vocab_size, repeats, prompt_length, decode_length):
    """{engine: {"prefill": [tokens/s per repeat], "decode": [...]}}; the engines take turns within a repeat."""
    torch.manual_seed(0)
    prompt = torch.randint(vocab_size, (1, prompt_length))
    speeds = {engine.name: {"prefill": [], "decode": []} for engine in engines}
    for engine in engines:
        engine.generate(prompt[:, :4], 3)
    for repeat in range(repeats):
        shift = repeat % len(engines)
        for engine in engines[shift:] + engines[:shift]:
            prefill, decode = timed(engine, prompt, decode_length + 2)
            speeds[engine.name]["prefill"].append(prefill)
            speeds[engine.name]["decode"].append(decode)
    return speeds


def read_bandwidth():
    """Bytes per second at which one large tensor is summed, the median of 9."""
    data = torch.ones(128 * 2**20)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        data.sum()
        times.append(time.perf_counter() - start)
    return data.nbytes / median(times)


def ratio(ours, peer):
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def report(title, folder, threads, repeats, prompt_length, decode_length):
    print(f"\n### {title}: prefill of {prompt_length} tokens, decode of {decode_length}, {repeats} repeats\n")
    weights = (folder / "model.safetensors").stat().st_size
    # transformers maps the file; the other two hold it once and, while loading, twice
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 5 * weights > 0.6 * memory:
        print(f"does not fit: the three models need {5 * weights / 2**30:.1f} GiB of {memory / 2**30:.1f} GiB")
        return
    engines = [Ours(folder), Transformers(folder), LLMsFromScratch(folder)]
    vocab_size = engines[0].model.config.vocab_size
    first = [engine.generate(torch.arange(1, 9)[None], 4) for engine in engines]
    print(f"First greedy tokens: {'the same in all three' if first[0] == first[1] == first[2] else first}.\n")
    print("| threads | engine | prefill tok/s | ours / this | decode tok/s | ours / this | of limit | limit tok/s |")
    print("|-|-|-|-|-|-|-|-|")
    for count in threads:
        torch.set_num_threads(count)
        limit = read_bandwidth() / weights
        speeds = measure(engines, vocab_size, repeats, prompt_length, decode_length)
        ours = speeds[Ours.name]
        for name, speed in speeds.items():
            compared = {kind: ratio(ours[kind], speed[kind]) if speed is not ours else "" for kind in speed}
            prefill, decode = median(speed["prefill"]), median(speed["decode"])
            print(
                f"| {count} | {name} | {prefill:.1f} | {compared['prefill']} | {decode:.1f} | {compared['decode']} "
                f"| {decode / limit:.0%} | {limit:.1f} |",
                flush=True,
            )


def random_checkpoint(folder):
    """Qwen3-0.6B's shape with random bf16 weights, as a checkpoint."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**SHAPE_0_6B, dtype=torch.bfloat16)
    torch.manual_seed(0)
    Qwen3ForCausalLM._from_config(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="10GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="longer prompts and outputs")
    parser.add_argument("--only", choices=["tiny", "0.6b"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tiny", type=Path, default=BUNDLED / "qwen3-tiny", help="folder of the tiny dense model")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    install_peer("llms_from_scratch")
    import transformers

    transformers.utils.logging.disable_progress_bar()
    print(versions())
    with torch.inference_mode(), tempfile.TemporaryDirectory(dir=ROOT / "build") as temporary:
        settings = (arguments.threads, arguments.repeats)
        if arguments.only != "0.6b":
            report(
                "Tiny dense model",
                arguments.tiny,
                *settings,
                512 if arguments.full else 128,
                256 if arguments.full else 128,
            )
        if arguments.only != "tiny":
            folder = Path(temporary) / "qwen3-0.6b-shape"
            random_checkpoint(folder)
            report("Qwen3-0.6B's shape", folder, *settings, *((256, 32) if arguments.full else (64, 8)))


if __name__ == "__main__":
    main()
