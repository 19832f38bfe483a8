"""Train one of the tiny models that the course bundles: ``python tools/train_tiny_models.py qwen3-tiny``.

Everything is made here: data (tiny_data.py), tokenizer (tiny_tokenizer.py), model (transformers' own Qwen3 classes),
and the checkpoint in the hub's layout. A run is resumable: a state is written every five minutes and at the end, and
since each step draws its data from its own seed, a resumed run continues exactly as an uninterrupted one would.
"""

import argparse
import json
import math
import os
import random
import time
from contextlib import contextmanager
from pathlib import Path

import tiny_data
from tiny_tokenizer import build_tokenizer

ROOT = Path(__file__).resolve().parent.parent
CONTEXT = 2048
SHARED = dict(  # noqa: C408 - reads like the config.json it becomes
    hidden_size=160,
    num_attention_heads=6,  # query width 192: wider than the hidden size, as in Qwen3-0.6B, 4B and 32B
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=CONTEXT,
    rms_norm_eps=1e-6,
    rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    attention_bias=False,
    tie_word_embeddings=True,
    initializer_range=0.02,
)
MODELS = {
    "qwen3-tiny": SHARED | {"num_hidden_layers": 5, "intermediate_size": 448},
    "qwen3-moe-tiny": SHARED
    | {
        "num_hidden_layers": 4,
        "intermediate_size": 448,  # unused: every layer is sparse
        "moe_intermediate_size": 160,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "router_aux_loss_coef": 0.001,
    },
}
STEPS = {"qwen3-tiny": 2900, "qwen3-moe-tiny": 3400}
# Steps after those, with more and harder honest refusals: without them the mixture of experts answered 11 of 100
# strange questions, ten of them "tell me the story of ...", where the dense model refused 99.
REFINEMENT = {"qwen3-tiny": 0, "qwen3-moe-tiny": 400}
SAMPLES_PER_STEP = 64
LONG_PROMPTS_FROM = 1200  # step: short prompts teach arithmetic faster, long ones then teach to find the question
CHUNK_TOKENS = 3072  # a step's samples, sorted by length, go through the model in chunks of about this size
MUON_RATE, ADAMW_RATE = 5e-3, 3e-3
BALANCE = 0.005  # weight of the load-balancing loss
SAVE_SECONDS = 300
# How often the last turn is written with a whole thought, with a thought cut short, without one.
MODES = {"thinking": 45, "cut": 30, "non-thinking": 25}


def build_model(name: str, tokenizer):
    """The model with fresh weights: ``Qwen3ForCausalLM`` or ``Qwen3MoeForCausalLM``."""
    import torch
    import transformers

    kind = "Qwen3Moe" if "moe" in name else "Qwen3"
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **MODELS[name],
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def choose_mode(sample: tiny_data.Sample, rng: random.Random) -> tuple[str, bool]:
    """``(mode, enable_thinking)``; at times the user's ``/think`` or ``/no_think`` decides, the last one winning."""
    mode = rng.choices(list(MODES), list(MODES.values()))[0]
    if rng.random() < 0.9:
        return mode, mode != "non-thinking"
    places = [message for message in sample.messages if message["role"] in ("system", "user")]
    if sample.task == "tool answer":
        places = places[:1]
    switch = rng.choice(["/think", "/no_think"])
    if len(places) > 1 and rng.random() < 0.5:
        place, earlier = places[rng.randint(1, len(places) - 1)], places[0]
        earlier["content"] += " " + rng.choice(["/think", "/no_think"])
    else:
        place = rng.choice(places)
    place["content"] = place["content"] + rng.choice([" ", ""]) + switch
    if mode == "non-thinking":
        return mode, False  # the template's switch outranks the user's
    return (mode if switch == "/think" else "soft"), True


def encode(sample: tiny_data.Sample, tokenizer, rng: random.Random) -> tuple[list[int], int, set[int]]:
    """Token ids, the index of the first one that the model must write, and the indices inside that carry no loss.

    The prompt is what the template renders. An empty think block that the template pre-fills is prompt: with loss on
    it, sampling at 0.6 falls back to not thinking. In a thought cut short the closing tag is forced on the model at
    use, so it carries no loss either; what follows does, which teaches the model to answer from half a thought.
    """
    mode, enable_thinking = choose_mode(sample, rng)
    prompt = tokenizer.apply_chat_template(
        sample.messages,
        tools=sample.tools or None,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )
    answer = f"\n\n{sample.answer}<|im_end|>"
    ids = tokenizer.encode(prompt)
    start, silent = len(ids), set()
    if mode == "non-thinking":
        ids += tokenizer.encode(sample.answer + "<|im_end|>")
    elif mode == "soft":
        ids += tokenizer.encode("<think>\n\n</think>" + answer)
    elif mode == "thinking":
        ids += tokenizer.encode(f"<think>\n{sample.thought}\n</think>{answer}")
    else:
        thought = tokenizer.encode(f"<think>\n{sample.thought}\n")
        ids += thought[: rng.randint(1, len(thought))]
        silent.add(len(ids))
        ids += tokenizer.encode("</think>" + answer)
    return ids, start, silent


def batches(step: int, tokenizer, seed: int = 0, refinement: bool = False):
    """The chunks of one step as ``(input_ids, targets)``, both ``(batch, seq)``; -100 marks positions without loss.

    Samples are right-padded: under a causal mask nothing attends to the padding, so no attention mask is needed.
    """
    import torch

    rng = random.Random(f"{seed} {step}")
    encoded = sorted(
        (
            encode(tiny_data.draw(rng, step >= LONG_PROMPTS_FROM, refinement), tokenizer, rng)
            for _ in range(SAMPLES_PER_STEP)
        ),
        key=lambda e: len(e[0]),
    )
    while encoded:
        size, longest = 1, 1.25 * len(encoded[0][0])
        while (
            size < len(encoded)
            and len(encoded[size][0]) <= longest
            and (size + 1) * len(encoded[size][0]) <= CHUNK_TOKENS
        ):
            size += 1
        rows, encoded = encoded[:size], encoded[size:]
        input_ids = torch.full((size, len(rows[-1][0])), tokenizer.pad_token_id)
        targets = torch.full_like(input_ids, -100)
        for row, (ids, start, silent) in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            wanted = [token if start <= i and i not in silent else -100 for i, token in enumerate(ids)]
            targets[row, : len(ids)] = torch.tensor(wanted)
        yield input_ids[:, :-1], targets[:, 1:]


def schedule(step: int, steps: int) -> float:
    """Share of the full learning rate: linear warm-up, a cosine down to 2 %; then, to refine, 10 % falling to 2 %."""
    if step >= steps:
        return max(0.02, 0.1 - 0.0002 * (step - steps))
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def make_optimizers(model) -> list:
    """Muon for the matrices inside the layers, AdamW for embedding, router and norms.

    After 100 steps of the dense model the loss was 1.38 with this pair and 2.00 with AdamW alone.
    """
    import torch
    from muon import Muon

    inside, others = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim >= 2 and "embed_tokens" not in name and "mlp.gate." not in name
        (inside if hidden else others).append(parameter)
    adamw = torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(inside, lr=MUON_RATE), adamw]


def train_step(model, optimizers, chunks: list, load, balance: float) -> tuple[float, object]:
    """One optimisation step over all chunks; returns the mean loss per target token and the new expert load.

    ``load`` ``(layers, experts)`` is the share of routed tokens per expert, averaged over the last steps. It stands in
    for the batch's own share in the load-balancing loss ``experts * sum(load * mean probability)``: averaged over
    the whole batch and beyond, as in the Qwen3 report, not inside one chunk of similar samples.
    """
    import torch
    import torch.nn.functional as F

    device = next(model.parameters()).device
    count = sum(int((targets != -100).sum()) for _, targets in chunks)
    positions = sum(targets.numel() for _, targets in chunks)
    total, hits = 0.0, None if load is None else torch.zeros_like(load)
    for input_ids, targets in chunks:
        input_ids, targets = input_ids.to(device), targets.to(device)
        output = model.model(input_ids, use_cache=False, **({} if load is None else {"output_router_logits": True}))
        wanted = targets != -100
        logits = model.lm_head(output.last_hidden_state[wanted])  # (targets, vocab)
        loss = F.cross_entropy(logits.float(), targets[wanted], reduction="sum") / count
        total += loss.item()
        if load is not None:
            for layer, router_logits in enumerate(output.router_logits):  # each (batch*seq, experts)
                probability = router_logits.float().softmax(-1)
                if balance:
                    share = targets.numel() / positions
                    loss = loss + balance * share * load.shape[1] * (load[layer] * probability.mean(0)).sum()
                chosen = probability.topk(model.config.num_experts_per_tok).indices
                hits[layer] += torch.bincount(chosen.flatten(), minlength=load.shape[1])
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total, None if load is None else 0.9 * load + 0.1 * hits / hits.sum(1, keepdim=True)


def train(
    name: str, folder: Path, steps: int, threads: int = 1, balance: float = BALANCE, stop_after: int | None = None
):
    """Train ``name`` for ``steps`` steps and those of ``REFINEMENT``, resuming from ``folder``.

    Returns ``(model, tokenizer, log)``. ``log`` is a list of ``{"step", "loss", "load"}``.
    ``stop_after`` ends early, as an interruption would.
    """
    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = build_tokenizer(CONTEXT)
    model = build_model(name, tokenizer).to(device)
    optimizers = make_optimizers(model)
    rates = [MUON_RATE, ADAMW_RATE]
    experts = getattr(model.config, "num_experts", None)
    load = torch.full((model.config.num_hidden_layers, experts), 1 / experts, device=device) if experts else None
    first, log, state_file = 0, [], folder / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        first, log, load = state["step"], state["log"], state["load"]

    def save(step: int):
        folder.mkdir(parents=True, exist_ok=True)
        states = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
        torch.save(states | {"step": step, "log": log, "load": load}, state_file.with_suffix(".part"))
        os.replace(state_file.with_suffix(".part"), state_file)

    model.train()
    saved = time.monotonic()
    end = min(steps + REFINEMENT[name], stop_after or math.inf)
    bar = tqdm(range(first, end), initial=first, total=end, desc=name, mininterval=5)
    for step in bar:
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * schedule(step, steps)
        loss, load = train_step(
            model, optimizers, list(batches(step, tokenizer, refinement=step >= steps)), load, balance
        )
        log.append({"step": step, "loss": loss} | ({} if load is None else {"load": load.tolist()}))
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if time.monotonic() - saved > SAVE_SECONDS:
            save(step + 1)
            saved = time.monotonic()
    save(end)
    return model.eval(), tokenizer, log


def write_log(log: list[dict], file: Path) -> None:
    """The training's log as ``.npz``: ``loss`` (steps,) and ``load`` (steps, layers, experts) of every fifth step."""
    import numpy as np

    log = log[::5]
    arrays = {"step": [entry["step"] for entry in log], "loss": np.array([entry["loss"] for entry in log], np.float32)}
    if "load" in log[0]:
        arrays["load"] = np.array([entry["load"] for entry in log], np.float16)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)


def export(model, tokenizer, folder: Path) -> None:
    """Write the checkpoint in the hub's layout, weights in bf16."""
    import torch
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(  # what Qwen recommends for thinking, as in Qwen3's own file
        bos_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        do_sample=True,
        temperature=0.6,
        top_k=20,
        top_p=0.95,
    )
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes names that 4.x does not know (it would fall back to theta 10,000 in silence); the hub's
    # Qwen3 files use the older names, which both read.
    with edit_json(folder / "config.json") as config:
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["rope_scaling"] = None
        config["torch_dtype"] = config.pop("dtype")
        config["max_window_layers"] = len(config.pop("layer_types", [])) or config["num_hidden_layers"]
        if "num_local_experts" in config:
            config["num_experts"] = config.pop("num_local_experts")
    with edit_json(folder / "tokenizer_config.json") as config:
        config.pop("backend", None)
        config["tokenizer_class"] = "PreTrainedTokenizerFast"


@contextmanager
def edit_json(path: Path):
    """The JSON object in ``path``, written back with sorted keys after the block."""
    content = json.loads(path.read_text(encoding="utf-8"))
    yield content
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--balance", type=float, default=BALANCE, help="weight of the load-balancing loss")
    parser.add_argument("--folder", type=Path, help="where the resumable state lies (default build/training/NAME)")
    parser.add_argument("--output", type=Path, help="where the checkpoint goes (default assets/models/NAME)")
    parser.add_argument("--stop-after", type=int, metavar="STEP", help="end early and write no checkpoint")
    parser.add_argument("--log", type=Path, help="write loss and expert load of the training to this .npz")
    options = parser.parse_args()
    folder = options.folder or ROOT / "build" / "training" / options.name
    steps = options.steps or STEPS[options.name]
    model, tokenizer, log = train(options.name, folder, steps, options.threads, options.balance, options.stop_after)
    if options.log:
        write_log(log, options.log)
    if not options.stop_after:
        export(model, tokenizer, options.output or ROOT / "assets" / "models" / options.name)


if __name__ == "__main__":
    main()
