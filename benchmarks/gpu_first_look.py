"""A first look at a GPU, in torch alone: are the course's models right on it, and how fast are they?

    python -m benchmarks.gpu_first_look [--device cuda] [--threads 2]

Needs torch, transformers, safetensors and numpy, and no vLLM; run it in the root of the repository. Without CUDA it
says so and does the same on the CPU. The Markdown tables show, for each bundled model and dtype, the largest difference
of the logits from this file's CPU run in float32 and from transformers on the same device, whether all engines choose
the same next tokens and, for the mixture of experts, the same experts, and tokens per second at batch 1 and 64. The
speeds are those of tiny models: they show the cost of launching kernels, and say nothing about a real Qwen3.
"""

import argparse
import platform
import time
from statistics import median

import torch
import transformers

from helpers import capture, models, qwen, routing

PROMPT = "37×46=?"
NEW_TOKENS, BATCHES, REPEATS = 32, (1, 64), 5


def rows(name: str, device: torch.device, dtype: torch.dtype) -> tuple[list, list]:
    """A row of the table of numbers, and one of the table of speeds, for a bundled model on ``device``."""
    folder = models.find_checkpoint(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": PROMPT}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    input_ids = torch.tensor([tokenizer.encode(text)])  # (1, seq)
    on_cpu, model = qwen.load_model(folder, torch.float32, "cpu"), qwen.load_model(folder, dtype, device)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    with torch.inference_mode():
        expected = on_cpu(input_ids)  # (1, seq, vocab)
        logits = model(input_ids.to(device)).float().cpu()
        theirs = peer(input_ids.to(device)).logits.float().cpu()
    tokens_equal = [float((logits.argmax(-1) == other.argmax(-1)).float().mean()) for other in (expected, theirs)]
    row = [name, dtype, *((logits - other).abs().max().item() for other in (expected, theirs)), *tokens_equal]
    if model.config.num_experts:
        here = capture.capture_reference(model, tokenizer, text, NEW_TOKENS)
        known = here.token_ids.tolist()  # the same tokens for all, whatever each would have written
        reference = capture.capture_reference(on_cpu, tokenizer, known)
        theirs = capture.capture_transformers(peer, tokenizer, known)
        ours, others = capture.capture_reference(model, tokenizer, known), [reference, theirs]
        row += [routing.agreement(ours, other).same_sets for other in others]
    else:
        row += ["-", "-"]
    return row, [name, dtype, *(speed(model, input_ids.to(device).repeat(batch, 1)) for batch in BATCHES)]


def speed(model, input_ids) -> float:
    """New tokens per second, the median of :data:`REPEATS` runs after one that warms up; no token ends a run."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        model.generate(input_ids, max_new_tokens=NEW_TOKENS, eos_token_id=()).cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return len(input_ids) * NEW_TOKENS / median(seconds[1:])


def table(header: list[str], body: list[list]) -> str:
    shown = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row] for row in body]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *shown])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        print(f"{card.name}, {card.total_memory / 2**30:.1f} GiB, compute capability {card.major}.{card.minor}", end="")
    else:
        print(f"no CUDA here: all of this ran on the CPU, {options.threads} threads", end="")
    print(f"; Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}\n")
    numbers, speeds = zip(
        *(
            rows(name, device, dtype)
            for name in ("qwen3-tiny", "qwen3-moe-tiny")
            for dtype in (torch.float32, torch.bfloat16)
        ),
        strict=True,
    )
    against = ["against CPU float32", "against transformers"]
    print(table(["model", "dtype", *(f"{what}, {other}" for what in ("largest logit difference", "same next token",
          "same experts") for other in against)], list(numbers)), "\n")  # fmt: skip
    print(table(["tiny model", "dtype", *(f"tokens/s at batch {batch}" for batch in BATCHES)], list(speeds)))


if __name__ == "__main__":
    main()
