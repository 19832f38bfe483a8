"""What QK-norm does to training: the same small model with and without it, at rising learning rates.

    python -m helpers.lessons.lA4.qk_norm    trains every combination and writes assets/traces/qk_norm_experiment.npz

Appendix A4 draws that record and calls :func:`train` for a shorter run of the learner's own. The model is the course's
(helpers/qwen.py), two layers of it; the task is to add two-digit numbers. With the same seed both variants start from
the same matrices and see the same batches. The idea is that of Wortsman et al., arXiv:2309.14322.
"""

import time
from datetime import date

import numpy as np
import torch
import torch.nn.functional as F

from helpers.models import ROOT
from helpers.qwen import QwenConfig, QwenModel, apply_rope

RECORD = ROOT / "assets" / "traces" / "qk_norm_experiment.npz"
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)
SEEDS = (0, 1, 2)
STEPS, WARM_UP = 250, 10
BATCH, PROBLEMS = 32, 4  # sequences in a batch, problems in a sequence
PLUS, EQUALS, END = 10, 11, 12  # token ids; a digit is its own id
# A problem: "3 7 + 4 6 = 3 8 0 ;" with the sum's last digit first, the order in which one carries


def build_model(qk_norm, generator):
    """A Qwen3 without biases, of 2 layers and about 85,000 parameters, matrices drawn with standard deviation 0.02."""
    config = QwenConfig(
        vocab_size=13,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        qk_norm=qk_norm,
        qkv_bias=False,
        tie_word_embeddings=True,
        rope_theta=10_000.0,
    )
    model = QwenModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.02, generator=generator)
    return model


def draw_batch(generator):
    """Additions as token ids (batch, seq), and which of them are digits of a sum, bool (batch, seq)."""
    terms = torch.randint(10, 100, (BATCH, PROBLEMS, 2), generator=generator)
    first, second = terms.unbind(-1)  # (batch, problems)
    total = first + second
    signs = [torch.full_like(total, sign) for sign in (PLUS, EQUALS, END)]
    question = [first // 10, first % 10, signs[0], second // 10, second % 10, signs[1]]
    answer = [total % 10, total // 10 % 10, total // 100]
    tokens = torch.stack([*question, *answer, signs[2]], dim=-1)  # (batch, problems, 10)
    is_answer = torch.tensor([False] * 6 + [True] * 3 + [False]).expand_as(tokens)
    return tokens.flatten(1), is_answer.flatten(1)


def watch_logits(model):
    """Makes every forward pass append, per layer, the largest |attention logit| that a query and a visible key have."""
    seen = []

    def hook(attention, arguments):
        hidden_states, cos, sin = arguments[:3]
        with torch.no_grad():
            batch, seq, _ = hidden_states.shape
            qkv = attention.qkv_proj(hidden_states).view(batch, seq, -1, attention.head_dim).transpose(1, 2)
            query, key, _ = qkv.split(attention.heads, dim=1)  # (batch, heads or kv_heads, seq, head_dim)
            if attention.qk_norm:
                query, key = attention.q_norm(query), attention.k_norm(key)
            query, key = apply_rope(query, cos, sin), apply_rope(key, cos, sin)
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            logits = query @ key.mT / attention.head_dim**0.5  # (batch, heads, seq, seq)
            seen.append(logits.tril().abs().max().item())

    for layer in model.layers:
        layer.self_attn.register_forward_pre_hook(hook)
    return seen


def train(qk_norm, learning_rate, seed=0, steps=STEPS):
    """Train one model with AdamW and return loss and max |attention logit| before each step, both (steps,)."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model(qk_norm, generator)
    seen = watch_logits(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    losses, max_logits = [], []
    for step in range(steps):
        tokens, is_answer = draw_batch(generator)
        logits = model(tokens[:, :-1])  # (batch, seq - 1, vocab)
        wanted = is_answer[:, 1:]
        loss = F.cross_entropy(logits[wanted], tokens[:, 1:][wanted])  # nats for a digit of a sum
        losses.append(loss.item())
        max_logits.append(max(seen))
        seen.clear()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / WARM_UP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return np.array(losses, dtype=np.float32), np.array(max_logits, dtype=np.float32)


def record(path=RECORD, learning_rates=LEARNING_RATES, seeds=SEEDS, steps=STEPS):
    """Train every combination into `path`: `loss` and `max_logit`, (2, rates, seeds, steps), without QK-norm first."""
    shape = (2, len(learning_rates), len(seeds), steps)
    loss, max_logit = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for index in np.ndindex(shape[:3]):
        qk_norm, rate, seed = bool(index[0]), learning_rates[index[1]], seeds[index[2]]
        start = time.perf_counter()
        loss[index], max_logit[index] = train(qk_norm, rate, seed, steps)
        print(
            f"QK-norm {'yes' if qk_norm else 'no ':3}  learning rate {rate:<6}  seed {seed}  "
            f"loss {loss[index][-10:].mean():6.3f}  max |logit| {max_logit[index].max():9.1f}  "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = f"helpers/lessons/lA4/qk_norm.py, torch {torch.__version__}, CPU, {date.today().isoformat()}"
    np.savez_compressed(
        path,
        loss=loss,
        max_logit=max_logit,
        learning_rates=np.array(learning_rates),
        seeds=np.array(seeds),
        provenance=np.array(provenance),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    record()
