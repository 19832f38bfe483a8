"""Qwen2, Qwen3, Qwen2-MoE and Qwen3-MoE from scratch: the reference model that lessons 03 and 04 build up.

    model = load_model(folder)                                  # sizes and switches come from its config.json
    logits = model(input_ids)                                   # (batch, seq, vocab)
    tokens = model.generate(input_ids, max_new_tokens=32)       # (batch, seq + new)

One decoder serves the four architectures:

    ============  ========  =======  ==============================
    model_type    QKV bias  QK-norm  feed-forward block
    ============  ========  =======  ==============================
    qwen2         yes       no       SwiGLU
    qwen3         no        yes      SwiGLU
    qwen2_moe     yes       no       experts and a shared expert
    qwen3_moe     no        yes      experts
    ============  ========  =======  ==============================

It is written for few, large operations: the q, k and v projections are one matrix, so are gate and up, the experts of a
layer are one tensor, and the KV cache is written in place.

Sources: Qwen2 report (arXiv:2407.10671), Qwen3 report (arXiv:2505.09388); the class names follow transformers'
`models/qwen3` and `models/qwen3_moe` (`Attention` is `Qwen3Attention`, `Router` is `Qwen3MoeTopKRouter`, ...).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import CourseError, moved
from helpers.linear import Linear, linear

# ---------------------------------------------------------------------------------------------- building blocks


class RMSNorm(nn.Module):
    """Each vector by its root mean square, then scaled (Zhang and Sennrich, 2019)."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states):
        x = hidden_states.float()
        x = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * x.to(hidden_states.dtype)


def rope_frequencies(head_dim, rope_theta):
    """Radians per position for each pair of dimensions (RoFormer, arXiv:2104.09864)."""
    return 1.0 / rope_theta ** (torch.arange(0, head_dim, 2).float() / head_dim)  # (head_dim / 2,)


def yarn_frequencies(
    inv_freq, rope_theta, factor, original_max_position_embeddings, beta_fast=32, beta_slow=1, truncate=True
):
    """Frequencies for a context `factor` times longer than the one trained (YaRN, arXiv:2309.00071).

    Pairs that turn more than `beta_fast` times within the original context keep their frequency, those that turn less
    than `beta_slow` times are slowed down by `factor`, with a linear ramp between.
    """
    head_dim = 2 * len(inv_freq)

    def pair_that_turns(times):
        wavelength = original_max_position_embeddings / times  # in positions
        return head_dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(rope_theta))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    slowed = ((torch.arange(len(inv_freq)) - low) / max(high - low, 0.001)).clamp(0, 1)  # 0 as trained, 1 slowed down
    return inv_freq * (1 - slowed) + inv_freq / factor * slowed  # (head_dim / 2,)


def rope_tables(position_ids, inv_freq, attention_factor=1.0):
    """Cosine and sine of each angle at `position_ids` (batch, seq); YaRN scales it."""
    angles = position_ids[:, None, :, None].float() * inv_freq  # (batch, 1, seq, head_dim / 2)
    angles = torch.cat((angles, angles), dim=-1)  # (batch, 1, seq, head_dim)
    return angles.cos() * attention_factor, angles.sin() * attention_factor


def rotate_half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rope(x, cos, sin):
    """Rotates the pairs (i, i + head_dim / 2) of (batch, heads, seq, head_dim)."""
    return x * cos + rotate_half(x) * sin


def swiglu(hidden_states, gate_up_proj, down_proj):
    """Gated MLP (arXiv:2002.05202); `gate_up_proj`: the rows of gate, then of up."""
    gate, up = linear(hidden_states, gate_up_proj).chunk(2, dim=-1)  # 2 x (..., intermediate)
    return linear(F.silu(gate) * up, down_proj)  # (..., hidden)


def route(router_logits, top_k, norm_topk_prob):
    """Weights and ids of each token's experts, (tokens, top_k), the heaviest first."""
    probabilities = F.softmax(router_logits, dim=-1, dtype=torch.float32)  # (tokens, num_experts)
    routing_weights, expert_ids = probabilities.topk(top_k, dim=-1)
    if norm_topk_prob:
        routing_weights = routing_weights / routing_weights.sum(dim=-1, keepdim=True)
    return routing_weights, expert_ids


# ---------------------------------------------------------------------------------------------- configuration


@dataclass
class QwenConfig:
    """The keys of `config.json` that shape the model, under their names there, and three that `model_type` implies."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qk_norm: bool
    qkv_bias: bool
    o_bias: bool = False
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: float = 1_000_000.0
    yarn: dict | None = None  # the last arguments of yarn_frequencies
    attention_factor: float = 1.0  # scales cos and sin; above 1 with YaRN
    num_experts: int = 0  # 0: every layer is dense
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = False
    shared_expert_intermediate_size: int = 0  # 0: no shared expert
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] = ()
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def is_sparse(self, layer):
        """Whether the feed-forward block of this layer is a mixture of experts."""
        on_step = (layer + 1) % self.decoder_sparse_step == 0
        return self.num_experts > 0 and on_step and layer not in self.mlp_only_layers

    def inverse_frequencies(self):
        inv_freq = rope_frequencies(self.head_dim, self.rope_theta)
        return yarn_frequencies(inv_freq, self.rope_theta, **self.yarn) if self.yarn else inv_freq


# ---------------------------------------------------------------------------------------------- the model


class KVCache:
    """Keys (normed and rotated) and values of every layer, allocated once and written in place.

    `keys` and `values` are (layers, batch, kv_heads, max_length, head_dim), of which `length` positions are filled.
    Set `length` back to reuse the allocation. The model raises CourseError when `max_length` is exceeded.
    """

    def __init__(self, model, batch_size, max_length):
        config, weight = model.config, model.embed_tokens.weight
        shape = (config.num_hidden_layers, batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self.max_length = max_length
        self.length = 0

    def update(self, layer, key, value):
        """Append (batch, kv_heads, seq, head_dim) to a layer and return all its keys and values.

        `length` stays: the model advances it once all layers have written.
        """
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Grouped-query attention; Qwen3 normalises every query and key head before RoPE, Qwen2 has biases instead."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        self.qkv_proj = Linear(config.hidden_size, sum(self.heads) * self.head_dim, bias=config.qkv_bias)
        self.o_proj = Linear(self.heads[0] * self.head_dim, config.hidden_size, bias=config.o_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.qk_norm = config.qk_norm

    def forward(self, hidden_states, cos, sin, mask=None, cache=None):
        batch, seq, _ = hidden_states.shape
        qkv = self.qkv_proj(hidden_states).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        query, key, value = qkv.split(self.heads, dim=1)  # (batch, heads or kv_heads, seq, head_dim)
        if self.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = apply_rope(query, cos, sin), apply_rope(key, cos, sin)
        if cache is not None:
            key, value = cache.update(self.layer, key, value)  # (batch, kv_heads, past + seq, head_dim)
        if seq == 1:
            # A single query: the heads of a group are rows against their shared key head, so nothing is repeated.
            query = query.reshape(batch, key.shape[1], -1, self.head_dim)  # (batch, kv_heads, group, head_dim)
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).reshape(batch, 1, -1)
        else:
            output = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
            )  # (batch, heads, seq, head_dim)
            output = output.transpose(1, 2).reshape(batch, seq, -1)
        return self.o_proj(output)  # (batch, seq, hidden)


class MLP(nn.Module):
    """SwiGLU feed-forward network of a dense layer, or of the shared expert."""

    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_up_proj = Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden_states):
        return swiglu(hidden_states, self.gate_up_proj.weight, self.down_proj.weight)


class Router(nn.Module):
    """Chooses the experts of every token. A forward hook on this module sees all there is to know of the routing.

    Returns routing weights and expert ids, (tokens, top_k), and the router logits, (tokens, num_experts).
    """

    def __init__(self, config):
        super().__init__()
        self.top_k, self.norm_topk_prob = config.num_experts_per_tok, config.norm_topk_prob
        self.weight = nn.Parameter(torch.randn(config.num_experts, config.hidden_size) * 0.02)

    def forward(self, hidden_states):
        router_logits = linear(hidden_states, self.weight)
        routing_weights, expert_ids = route(router_logits, self.top_k, self.norm_topk_prob)
        return routing_weights.to(hidden_states.dtype), expert_ids, router_logits


class Experts(nn.Module):
    """All experts of a layer in two tensors; a loop visits those that at least one token was sent to."""

    def __init__(self, config):
        super().__init__()
        experts, hidden, width = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * width, hidden) * 0.02)
        self.down_proj = nn.Parameter(torch.randn(experts, hidden, width) * 0.02)

    def forward(self, hidden_states, routing_weights, expert_ids):
        hit_experts, counts = expert_ids.unique(return_counts=True)
        # The (token, slot) pairs sorted by expert: one run of pairs for each expert that was hit.
        pairs = expert_ids.flatten().argsort(stable=True)  # (tokens * top_k,); a pair's number is token * top_k + slot
        tokens, weights = pairs // expert_ids.shape[-1], routing_weights.flatten()[pairs, None]
        runs = zip(hit_experts.tolist(), *(of.split(counts.tolist()) for of in (tokens, weights)), strict=True)
        output = torch.zeros_like(hidden_states)  # (tokens, hidden)
        for expert, rows, weight in runs:
            result = swiglu(hidden_states[rows], self.gate_up_proj[expert], self.down_proj[expert])
            output.index_add_(0, rows, (result * weight).to(output.dtype))
        return output


class SparseMoeBlock(nn.Module):
    """Mixture of experts; Qwen2-MoE adds a shared expert that every token takes, scaled by a sigmoid gate."""

    def __init__(self, config):
        super().__init__()
        self.router = Router(config)
        self.experts = Experts(config)
        self.has_shared_expert = config.shared_expert_intermediate_size > 0
        if self.has_shared_expert:
            self.shared_expert = MLP(config.hidden_size, config.shared_expert_intermediate_size)
            self.shared_expert_gate = Linear(config.hidden_size, 1, bias=False)

    def forward(self, hidden_states):
        tokens = hidden_states.flatten(0, 1)  # (tokens, hidden)
        routing_weights, expert_ids, _ = self.router(tokens)
        output = self.experts(tokens, routing_weights, expert_ids)
        if self.has_shared_expert:
            output = output + F.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)
        return output.view_as(hidden_states)  # (batch, seq, hidden)


class DecoderLayer(nn.Module):
    """Attention and feed-forward block, each on normed input and added to the residual stream."""

    def __init__(self, config, layer):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        sparse = config.is_sparse(layer)
        self.mlp = SparseMoeBlock(config) if sparse else MLP(config.hidden_size, config.intermediate_size)

    def forward(self, hidden_states, cos, sin, mask=None, cache=None):
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), cos, sin, mask, cache)
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class QwenModel(nn.Module):
    """A decoder-only language model with its head. `QwenModel(config)` has random weights."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        # Not a buffer, for model.to(torch.bfloat16) would round it. (head_dim / 2,)
        self.inv_freq = config.inverse_frequencies()

    def forward(self, input_ids, attention_mask=None, cache=None):
        """Logits (batch, seq, vocab) of the token after each of `input_ids` (batch, seq).

        attention_mask: (batch, cached + seq), 1 for a token and 0 for padding on its left; None means no padding.
        cache: a KVCache, which holds the tokens before `input_ids` and takes up these.
        """
        return self.head(self.last_hidden_states(input_ids, attention_mask, cache))

    def last_hidden_states(self, input_ids, attention_mask=None, cache=None):
        """Output of the last layer after the final norm, (batch, seq, hidden)."""
        seq, past = input_ids.shape[1], cache.length if cache is not None else 0
        if cache is not None and past + seq > cache.max_length:
            raise CourseError(
                f"KV 缓存只有 {cache.max_length} 个位置，需要 {past + seq} 个：请用更大的 max_length 建立 KVCache。",
                f"The KV cache has {cache.max_length} positions but needs {past + seq}: give it a larger max_length.",
            )
        if attention_mask is None:
            position_ids = torch.arange(past, past + seq, device=input_ids.device)[None]  # (1, seq)
        else:
            position_ids = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)[:, past:]  # (batch, seq)
        hidden_states = self.embed_tokens(input_ids)  # (batch, seq, hidden)
        cos, sin = rope_tables(position_ids, self.inv_freq.to(position_ids.device), self.config.attention_factor)
        cos, sin = cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)  # (batch, 1, seq, head_dim)
        mask = visible_positions(seq, past, attention_mask, input_ids.device)
        for layer in self.layers:
            hidden_states = layer(hidden_states, cos, sin, mask, cache)
        if cache is not None:
            cache.length += seq
        return self.norm(hidden_states)

    def head(self, hidden_states):
        """Logits (..., vocab) from `last_hidden_states`."""
        if self.config.tie_word_embeddings:
            return linear(hidden_states, self.embed_tokens.weight)
        return self.lm_head(hidden_states)

    @torch.inference_mode()
    def generate(self, input_ids, attention_mask=None, max_new_tokens=128, eos_token_id=None, **sampling):
        """Continue every row of `input_ids` (batch, seq) and return prompt and continuation, (batch, seq + new).

        `sampling` goes to `sample`: greedy at temperature 0, the default, where top_k, top_p, min_p and generator do
        not count. A row ends with one of `eos_token_id` (default: the checkpoint's; `()` for none) and is then filled
        up with the padding token until all rows have ended. attention_mask: (batch, seq), 0 for padding on the left.
        CourseError for padding elsewhere and for an empty prompt; the length of the context is not checked.
        """
        if input_ids.ndim != 2 or not input_ids.numel():
            raise CourseError(
                f"input_ids 的形状是 {tuple(input_ids.shape)}：应为 (batch, seq)，每行至少一个词元。",
                f"input_ids has the shape {tuple(input_ids.shape)}: it must be (batch, seq), with a token in each row.",
            )
        if attention_mask is not None and attention_mask.all():
            attention_mask = None  # without padding, attention needs no mask
        if attention_mask is not None and (
            not attention_mask[:, -1].all() or (attention_mask.long().diff(dim=1) < 0).any()
        ):
            raise CourseError(
                "批量生成要求在左侧填充：请在调用分词器时设置 padding_side='left'。",
                "Generating a batch needs padding on the left: call the tokenizer with padding_side='left'.",
            )
        stop_ids = self.config.eos_token_id if eos_token_id is None else eos_token_id
        pad_id = self.config.pad_token_id if self.config.pad_token_id is not None else [*stop_ids, 0][0]
        stop_ids = torch.tensor(stop_ids, device=input_ids.device)
        cache = KVCache(self, len(input_ids), input_ids.shape[1] + max_new_tokens)
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        tokens = new_tokens = input_ids
        for _ in range(max_new_tokens):
            hidden_states = self.last_hidden_states(new_tokens, attention_mask, cache)
            logits = self.head(hidden_states[:, -1])  # (batch, vocab): only the last position is needed
            new_tokens = sample(logits, **sampling).masked_fill(ended, pad_id)[:, None]  # (batch, 1)
            tokens = torch.cat((tokens, new_tokens), dim=1)
            ended = ended | torch.isin(new_tokens[:, 0], stop_ids)
            if ended.all():
                break
            if attention_mask is not None:
                attention_mask = torch.cat((attention_mask, torch.ones_like(attention_mask[:, :1])), dim=1)
        return tokens


def visible_positions(seq, past, attention_mask, device):
    """Which keys each query may see, bool (batch or 1, 1, seq, past + seq); None where plain causal attention does."""
    if attention_mask is None and (seq == 1 or past == 0):
        return None
    keys = torch.arange(past + seq, device=device)
    queries = keys[past:, None]  # (seq, 1)
    mask = (keys <= queries)[None, None]
    if attention_mask is not None:
        # A padding position sees at least itself, since a softmax over nothing is not a number.
        mask = mask & attention_mask[:, None, None, :].bool() | (keys == queries)
    return mask


# ---------------------------------------------------------------------------------------------- sampling


def keep_top_k(logits, top_k):
    """Drop all but the `top_k` largest logits of each row."""
    smallest_kept = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest_kept, -math.inf)


def keep_top_p(logits, top_p):
    """Keep the most likely tokens whose probabilities first add up to `top_p` (arXiv:1904.09751)."""
    ordered, token_ids = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities  # of the more likely tokens: 0 for the first
    ordered = ordered.masked_fill(mass_before >= top_p, -math.inf)
    return torch.empty_like(logits).scatter(-1, token_ids, ordered)


def keep_min_p(logits, min_p):
    """Drop the tokens that are less likely than `min_p` times the most likely one (arXiv:2407.01082)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < min_p * probabilities.amax(dim=-1, keepdim=True), -math.inf)


def sample(logits, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, generator=None):
    """One token id for each row of `logits` (batch, vocab); temperature 0 takes the most likely one.

    generator: a torch.Generator on the device of the logits, for a repeatable draw. CourseError: options out of range.
    """
    if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1 and 0 <= min_p <= 1):
        raise CourseError(
            "采样参数超出范围：temperature 和 top_k 不小于 0，top_p 在 (0, 1]，min_p 在 [0, 1]。",
            "A sampling option is out of range: temperature and top_k from 0, top_p in (0, 1], min_p in [0, 1].",
        )
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k > 0:
        logits = keep_top_k(logits, top_k)
    if top_p < 1:
        logits = keep_top_p(logits, top_p)
    if min_p > 0:
        logits = keep_min_p(logits, min_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]  # (batch,)


__getattr__ = moved.to("helpers.loading", "helpers.linear")  # load_model above all
