"""The recipe of the tiny models: their sizes, the targets of a sample, the batches, the optimizers, a training step.

``python3 -m tools.tiny_models.train qwen3-tiny`` trains one with it and exports the checkpoint.
"""

import math
import random
from typing import TYPE_CHECKING

from helpers.lessons.lA1.mix import draw
from helpers.lessons.lA1.samples import Sample

if TYPE_CHECKING:
    import torch

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


def choose_mode(sample: Sample, rng: random.Random) -> tuple[str, bool]:
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


def encode(sample: Sample, tokenizer, rng: random.Random) -> tuple[list[int], int, set[int]]:
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
        (encode(draw(rng, step >= LONG_PROMPTS_FROM, refinement), tokenizer, rng) for _ in range(SAMPLES_PER_STEP)),
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

    from helpers.lessons.lA1.muon import Muon

    inside: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim >= 2 and "embed_tokens" not in name and "mlp.gate." not in name
        (inside if hidden else others).append(parameter)
    adamw = torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(inside, lr=MUON_RATE), adamw]


def train_step(model, optimizers, chunks: list, load, balance: float) -> tuple[float, "torch.Tensor | None"]:
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
    total = 0.0
    hits = [] if load is None else [torch.zeros_like(row) for row in load]  # by layer: tokens of each expert
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
    if load is None:
        return total, None
    counts = torch.stack(hits)  # (layers, experts)
    return total, 0.9 * load + 0.1 * counts / counts.sum(1, keepdim=True)
