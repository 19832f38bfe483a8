"""A first look at a GPU, in torch alone: are the course's models right on it, and how fast are they?

    python -m benchmarks.gpu_first_look

Needs torch, transformers, safetensors and numpy; run it in the root of the repository. Without CUDA it says so and does
the same on the CPU, with one repeat. For each bundled model and dtype, against qwen.py on the CPU in float32 and
against transformers on the same device: the largest difference of the logits, the share of equal next tokens and, of
the mixture of experts, of equal choices; then tokens per second at batch 1 and 64. The speeds are those of tiny models:
they show what launching kernels costs, and say nothing about a real Qwen3.
"""

import time
from collections.abc import Iterator
from statistics import median

import torch
import transformers

from helpers import models, qwen, routing

NEW_TOKENS, REPEATS = 32, 5
HEAD = ["model", "dtype", "logits, CPU", "logits, transformers", "tokens, CPU", "tokens, transformers"]
HEAD += ["experts, CPU", "experts, transformers", "tokens/s, 1", "tokens/s, 64"]


def tokens_per_second(model, input_ids) -> float:
    """The median of :data:`REPEATS` runs, on a CPU of one, after one that warms up; no token ends a run."""
    seconds = []
    for _ in range(1 + (REPEATS if input_ids.is_cuda else 1)):
        start = time.perf_counter()
        model.generate(input_ids, max_new_tokens=NEW_TOKENS, eos_token_id=()).cpu()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return len(input_ids) * NEW_TOKENS / median(seconds[1:])


def look(name: str, device: str, dtype: torch.dtype) -> list:
    """A row of the table."""
    folder = models.find_checkpoint(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": "37×46=?"}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    model, on_cpu = qwen.load_model(folder, dtype, device), qwen.load_model(folder, torch.float32, "cpu")
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    input_ids = torch.tensor([tokenizer.encode(prompt)])  # (1, seq)
    with torch.inference_mode():
        logits = model(input_ids.to(device)).float().cpu()  # (1, seq, vocab)
        others = [on_cpu(input_ids), peer(input_ids.to(device)).logits.float().cpu()]
    row = [name, str(dtype)] + [(logits - other).abs().max().item() for other in others]
    row += [(logits.argmax(-1) == other.argmax(-1)).float().mean().item() for other in others]
    experts = ["-", "-"]
    if model.config.num_experts:
        written = routing.capture_reference(model, tokenizer, prompt, NEW_TOKENS).token_ids.tolist()  # for all alike
        ours = routing.capture_reference(model, tokenizer, written)
        theirs = [
            routing.capture_reference(on_cpu, tokenizer, written),
            routing.capture_transformers(peer, tokenizer, written),
        ]
        experts = [routing.agreement(ours, other).same_sets for other in theirs]
    return row + experts + [tokens_per_second(model, input_ids.to(device).repeat(batch, 1)) for batch in (1, 64)]


def rows(device: str) -> Iterator[list]:
    """A row for each bundled model and dtype."""
    torch.set_num_threads(1)  # on matrices this small several threads of a busy machine wait for each other
    for name in ("qwen3-tiny", "qwen3-moe-tiny"):
        for dtype in (torch.float32, torch.bfloat16):
            yield look(name, device, dtype)


if __name__ == "__main__":
    device = "cuda" if torch.cuda.is_available() else "cpu"
    here = torch.cuda.get_device_properties(0) if device == "cuda" else "no CUDA here: all of this ran on the CPU"
    print(f"{here}; {torch.get_num_threads()} threads,", end=" ")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for row in rows(device):
        print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else x for x in row) + " |", flush=True)
