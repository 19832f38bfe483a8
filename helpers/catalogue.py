"""Known models and the arithmetic of sizes: parameters, weights, KV cache, and what fits a card. Reads no file.

A ``config`` is the dictionary of a ``config.json``, nested or flat. A size that is missing or wrong is a CourseError
that names its key (helpers/config.py), so is a family whose shapes are not known here: unknown is never zero.
"""

import math
from dataclasses import dataclass

from helpers import GIB, CourseError
from helpers.config import RUNNABLE, family, flag, is_hybrid, layers, listed, number, text_config, wrong

GPU_SHARE = 0.92  # vLLM's default gpu_memory_utilization
KV_BLOCK = 16  # tokens: the piece in which vLLM hands out KV cache
FP8_BLOCK = 128  # rows and columns of a published FP8 checkpoint that share a scale
FP8_LEAST = 32  # to which vLLM 0.32 refines the blocks of experts that are cut into more parts
STATE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
OTHER_MEMORY = 1.5 * GIB  # a guess at activations, CUDA graphs and the CUDA context, which take 1 to 2 GiB
COUNTED = (*RUNNABLE, "qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe", "qwen3_omni_moe")


def head_dim(config: dict) -> int:
    """Width of one attention head; without the key as in transformers: 128 in Qwen3, 256 in its hybrid successors,
    else hidden_size / heads."""
    text = text_config(config)
    if is_hybrid(text):
        return number(text, "head_dim", 256)
    if text.get("model_type") in ("qwen3", "qwen3_vl_text"):
        return number(text, "head_dim", 128)
    if text.get("head_dim") is not None:
        return number(text, "head_dim")
    return max(1, number(text, "hidden_size") // number(text, "num_attention_heads"))


def kv_heads(config: dict) -> int:
    """Heads of keys and values; without the key as many as of queries."""
    text = text_config(config)
    return number(text, "num_key_value_heads", number(text, "num_attention_heads", 1))


def num_experts(config: dict) -> int:
    """Experts of a sparse layer, 0 in a dense model; transformers 5 saves the key under another name."""
    text = text_config(config)
    for key in ("num_experts", "num_local_experts"):
        if text.get(key) not in (None, 0):
            return number(text, key)
    kind = str(text.get("model_type")).removesuffix("_text")
    return number(text, "num_experts") if kind.endswith("_moe") or kind == "qwen3_next" else 0


def sparse_layers(config: dict) -> int:
    """Layers whose MLP is a mixture of experts."""
    text = text_config(config)
    if not num_experts(text):
        return 0
    total, step = number(text, "num_hidden_layers"), number(text, "decoder_sparse_step", 1)
    dense = {layer for layer in listed(text, "mlp_only_layers", int) if 0 <= layer < total and (layer + 1) % step == 0}
    return total // step - len(dense)


def kv_bytes_per_token(config: dict, bytes_per_value: int = 2) -> int:
    """Bytes of KV cache that one token takes in all layers together: keys and values, bf16 unless told.

    Layers with linear attention keep nothing of a token, see :func:`state_bytes_per_sequence`. Layers with an indexer
    (qwen4_exp) keep one more key, of ``indexer_head_dim``, for it.
    """
    text = text_config(config)
    width = 2 * kv_heads(text) * head_dim(text)
    if text.get("indexer_head_dim") is not None:
        width += number(text, "indexer_kv_heads", 1) * number(text, "indexer_head_dim")
    return layers(text).full * width * bytes_per_value


def state_bytes_per_sequence(config: dict) -> int:
    """Bytes that the layers with linear attention keep of a sequence, however long it is; 0 in a model without them.

    Each keeps the last ``linear_conv_kernel_dim`` - 1 inputs of its convolution in bf16 and, for each value head, a
    matrix of ``linear_key_head_dim`` x ``linear_value_head_dim`` numbers in ``mamba_ssm_dtype``, float32 unless told.
    Source: vLLM's MambaStateShapeCalculator.gated_delta_net_state_shape.
    """
    text = text_config(config)
    if not (linear := layers(text).linear):
        return 0
    if text.get("ple_layer_ids"):
        raise _uncounted(config, "每个序列的状态", "state of a sequence")
    keys, values, key_dim, value_dim = _linear_heads(text)
    convolution = (number(text, "linear_conv_kernel_dim", 4) - 1) * (2 * keys * key_dim + values * value_dim)
    precision = STATE_BYTES.get(str(text.get("mamba_ssm_dtype") or "float32"))
    if precision is None:
        raise wrong(text, "mamba_ssm_dtype", "、".join(STATE_BYTES), " or ".join(STATE_BYTES))
    return linear * (2 * convolution + precision * values * key_dim * value_dim)


def _linear_heads(text: dict) -> tuple[int, int, int, int]:
    """Key heads, value heads and the width of each in a layer with linear attention; defaults of transformers."""
    heads = number(text, "linear_num_key_heads", 16), number(text, "linear_num_value_heads", 32)
    return *heads, number(text, "linear_key_head_dim", 128), number(text, "linear_value_head_dim", 128)


def kv_block(config: dict, bytes_per_value: int = 2, gpus: int = 1) -> int:
    """Tokens of the piece in which vLLM hands out KV cache.

    In a model with linear attention it is so large that a piece of a full-attention layer holds a whole state of
    another layer, for vLLM keeps both in pieces of one size.
    """
    full, linear = layers(config)
    if not linear or not full:
        return KV_BLOCK
    state = state_bytes_per_sequence(config) / linear / gpus
    return KV_BLOCK * math.ceil(state / (KV_BLOCK * _kv_on_a_card(config, gpus, bytes_per_value) / full))


def _kv_on_a_card(config: dict, gpus: int, bytes_per_value: int) -> float:
    """Bytes of KV cache of a token on one of ``gpus`` cards: a head is copied where there are more cards than heads."""
    heads = kv_heads(config)
    return kv_bytes_per_token(config, bytes_per_value) * max(1, heads // gpus) / heads


def parameters(config: dict, active: bool = False) -> int:
    """Parameters of a language model of the Qwen2, Qwen3, Qwen3-Next or Qwen3.5 kind, from its ``config.json``.

    active: only those that one token uses, both embedding matrices included. Of a later model the vision tower and the
    layers for speculative decoding (MTP) are not counted. Raises CourseError for a family whose shapes are not known
    here. Source of the shapes: transformers' modeling_qwen2.py, modeling_qwen3.py, modeling_qwen3_moe.py,
    modeling_qwen2_moe.py and modeling_qwen3_next.py, modeling_qwen3_5.py.
    """
    text = text_config(config)
    if family(config) not in COUNTED:
        raise _uncounted(config, "参数量", "parameters")
    hidden, (full, linear), sparse = number(text, "hidden_size"), layers(text), sparse_layers(text)
    norms = 2 * hidden * (full + linear) + hidden
    attention = full * _attention_parameters(text) + (linear and linear * _linear_parameters(text))
    mlp = sparse and sparse * _expert_parameters(text, active)
    if dense := full + linear - sparse:
        mlp += dense * 3 * hidden * number(text, "intermediate_size")
    return attention + mlp + norms + embedding_parameters(text)


def _attention_parameters(text: dict) -> int:
    """Projections, their biases and the norms of queries and keys in a layer with full attention."""
    hidden, width = number(text, "hidden_size"), head_dim(text)
    query, key = number(text, "num_attention_heads") * width, kv_heads(text) * width
    gate = query if is_hybrid(text) and flag(text, "attn_output_gate", True) else 0  # made by q_proj too
    weights = hidden * (2 * query + gate + 2 * key)
    if str(text.get("model_type")).startswith("qwen2"):
        return weights + (query + 2 * key if flag(text, "qkv_bias", True) else 0)
    return weights + 2 * width + (query + gate + 2 * key + hidden if flag(text, "attention_bias", False) else 0)


def _linear_parameters(text: dict) -> int:
    """A Gated DeltaNet layer: projections in and out, the convolution, decay and step of each head, the norm."""
    hidden, (keys, values, key_dim, value_dim) = number(text, "hidden_size"), _linear_heads(text)
    inputs, outputs = 2 * keys * key_dim + values * value_dim, values * value_dim
    projections = hidden * (inputs + outputs + 2 * values) + outputs * hidden
    return projections + inputs * number(text, "linear_conv_kernel_dim", 4) + 2 * values + value_dim


def _expert_parameters(text: dict, active: bool) -> int:
    """A layer's experts, or those that a token uses, their router, and the shared expert with its gate."""
    hidden, experts = number(text, "hidden_size"), num_experts(text)
    used = min(experts, number(text, "num_experts_per_tok")) if active else experts
    total = used * 3 * hidden * number(text, "moe_intermediate_size") + hidden * experts
    if shared := _shared_expert(text):
        total += 3 * hidden * shared + hidden
    return total


def _shared_expert(text: dict) -> int:
    """Width of the expert that every token takes, 0 where there is none."""
    value = text.get("shared_expert_intermediate_size")
    return 0 if value in (None, 0) else number(text, "shared_expert_intermediate_size")


def _uncounted(config: dict, zh: str, en: str) -> CourseError:
    return CourseError(
        f"课程不知道 {family(config)} 的结构，算不出它的{zh}：请看模型页面。",
        f"The course does not know the shapes of {family(config)} and cannot count its {en}: see the model's page.",
    )


def embedding_parameters(config: dict) -> int:
    """Parameters of the embedding and, unless the two are tied, the output matrix."""
    text = text_config(config)
    matrices = 1 if flag(text, "tie_word_embeddings", False) else 2
    return number(text, "vocab_size") * number(text, "hidden_size") * matrices


def weight_bytes(config: dict, dtype: str = "bf16") -> float:
    """Bytes of the weights in memory. Exact for "bf16"; "fp8" and "awq" are estimates.

    The estimates count 1 byte (fp8) or 0.52 bytes (awq: 4 bits with scale and zero point for each 128) for all but the
    embedding and output matrices, which stay bf16.
    """
    embeddings = embedding_parameters(config)
    return 2 * embeddings + (parameters(config) - embeddings) * {"bf16": 2, "fp8": 1, "awq": 0.52}[dtype]


def splits(config: dict, gpus: int, dtype: str = "bf16") -> bool:
    """Whether vLLM can cut a model into ``gpus`` equal parts (tensor parallel)."""
    return obstacle(config, gpus, dtype) is None


def obstacle(config: dict, gpus: int, dtype: str = "bf16") -> str | None:
    """What keeps vLLM from cutting a model into ``gpus`` equal parts: "heads", "widths", "blocks" or nothing.

    heads: those of the queries divide by the cards, and those of keys and values divide by them or divide them. widths:
    the MLP and the vocabulary, rounded up to 64, divide. blocks: FP8 weights are cut between blocks of 128 only, which
    share a scale; for experts vLLM 0.32 refines the blocks down to 32. Source: vLLM's Qwen3Attention, FusedMoEConfig,
    VocabParallelEmbedding, validate_fp8_block_shape and refine_fp8_moe_block_shape.
    """
    text = text_config(config)
    if _heads_are_cut(text, gpus):
        return "heads"
    widths = _dense_widths(text)
    experts = [number(text, "moe_intermediate_size")] if sparse_layers(text) else []
    vocabulary = math.ceil(number(text, "vocab_size") / 64) * 64
    if any(width % gpus for width in (*widths, *experts, vocabulary)):
        return "widths"
    cut = any(width % (gpus * FP8_BLOCK) for width in widths)
    coarse = any(math.gcd(FP8_BLOCK, width // gpus, number(text, "hidden_size")) < FP8_LEAST for width in experts)
    return "blocks" if dtype == "fp8" and gpus > 1 and (cut or coarse) else None


def _heads_are_cut(text: dict, gpus: int) -> bool:
    shared = kv_heads(text)
    cut = number(text, "num_attention_heads") % gpus or (shared % gpus and gpus % shared)
    if layers(text).linear:
        cut = cut or any(heads % gpus for heads in _linear_heads(text)[:2])
    return bool(cut)


def _dense_widths(text: dict) -> list[int]:
    """Widths of the MLPs that are no routed experts."""
    dense = number(text, "num_hidden_layers") - sparse_layers(text)
    shared = _shared_expert(text) if sparse_layers(text) else 0
    return ([number(text, "intermediate_size")] if dense else []) + ([shared] if shared else [])


@dataclass(frozen=True)
class Fit:
    """Bytes on each GPU for a model, a context and a number of sequences; max_context: tokens a sequence can have,
    0 where not even the weights fit or the model cannot be cut into so many parts."""

    usable: float
    weights: float
    kv_cache: float
    other: float
    max_context: int
    fits: bool


def fits(
    config: dict,
    gpu: float,
    context: int = 8192,
    sequences: int = 1,
    dtype: str = "bf16",
    kv_bytes: int = 2,
    gpus: int = 1,
    utilization: float = GPU_SHARE,
    other: float = OTHER_MEMORY,
) -> Fit:
    """Whether a model fits ``gpus`` cards of ``gpu`` bytes each (tensor parallel) with ``sequences`` full contexts.

    vLLM uses ``utilization`` (its default) of a card, and ``other`` of it for neither weights nor KV cache. A KV head
    is copied where there are more cards than heads. The KV cache holds the state of every sequence too, in a model that
    has one. max_context is in vLLM's blocks (:func:`kv_block`), at most ``max_position_embeddings``.
    """
    per_token = _kv_on_a_card(config, gpus, kv_bytes)
    state, block = state_bytes_per_sequence(config) / gpus, kv_block(config, kv_bytes, gpus)
    usable, weights = gpu * utilization, weight_bytes(config, dtype) / gpus
    room = (usable - weights - other) / sequences - state  # bytes for the tokens of one sequence
    longest = max(0, int(room / per_token) // block * block) if per_token else 0
    limit = number(text_config(config), "max_position_embeddings")
    longest = min(longest, limit) if splits(config, gpus, dtype) else 0
    kv_cache = (per_token * context + state) * sequences
    return Fit(usable, weights, kv_cache, other, longest, context <= longest)


@dataclass(frozen=True)
class Release:
    """A published model: ``config`` as in its config.json, whether the output matrix is stored although tied, and the
    quantised versions that the publisher offers under ``id-SUFFIX`` (empty: none known to this table)."""

    config: dict
    stored_twice: bool = False
    quantised: tuple[str, ...] = ()

    @property
    def download(self) -> int:
        """Bytes of the bf16 weight files; tokenizer and configuration add about 10 MB.

        Those of :data:`LATER` are larger, by the parts that :func:`parameters` leaves out.
        """
        twice = embedding_parameters(self.config) if self.stored_twice else 0
        return 2 * (parameters(self.config) + twice)


def _release(
    model_type, depth, heads, shared_heads, hidden, intermediate, tied, *quantised, twice=False, **more
) -> Release:
    config = {
        "model_type": model_type,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": shared_heads,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "tie_word_embeddings": tied,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
    }
    if model_type.startswith("qwen3"):
        config["head_dim"] = 128
    return Release(config | more, twice, quantised)


_MOE = {"num_experts": 128, "num_experts_per_tok": 8}
_QWEN2 = {"max_position_embeddings": 32768}
_QWEN2_BIG = _QWEN2 | {"vocab_size": 152064}  # padded differently from 7B upwards
CATALOGUE = {
    "Qwen/Qwen3-0.6B": _release("qwen3", 28, 16, 8, 1024, 3072, True, "FP8", twice=True),
    "Qwen/Qwen3-1.7B": _release("qwen3", 28, 16, 8, 2048, 6144, True, "FP8", twice=True),
    "Qwen/Qwen3-4B": _release("qwen3", 36, 32, 8, 2560, 9728, True, "FP8"),
    "Qwen/Qwen3-8B": _release("qwen3", 36, 32, 8, 4096, 12288, False, "FP8", "AWQ"),
    "Qwen/Qwen3-14B": _release("qwen3", 40, 40, 8, 5120, 17408, False, "FP8", "AWQ"),
    "Qwen/Qwen3-32B": _release("qwen3", 64, 64, 8, 5120, 25600, False, "FP8", "AWQ"),
    "Qwen/Qwen3-30B-A3B": _release("qwen3_moe", 48, 32, 4, 2048, 6144, False, "FP8", moe_intermediate_size=768, **_MOE),
    "Qwen/Qwen3-235B-A22B": _release(
        "qwen3_moe", 94, 64, 4, 4096, 12288, False, "FP8", moe_intermediate_size=1536, **_MOE
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": _release("qwen2", 24, 14, 2, 896, 4864, True, **_QWEN2),
    "Qwen/Qwen2.5-1.5B-Instruct": _release("qwen2", 28, 12, 2, 1536, 8960, True, **_QWEN2),
    "Qwen/Qwen2.5-3B-Instruct": _release("qwen2", 36, 16, 2, 2048, 11008, True, **_QWEN2),
    "Qwen/Qwen2.5-7B-Instruct": _release("qwen2", 28, 28, 4, 3584, 18944, False, **_QWEN2_BIG),
    "Qwen/Qwen2.5-14B-Instruct": _release("qwen2", 48, 40, 8, 5120, 13824, False, **_QWEN2_BIG),
    "Qwen/Qwen2.5-32B-Instruct": _release("qwen2", 64, 40, 8, 5120, 27648, False, **_QWEN2_BIG),
    "Qwen/Qwen2.5-72B-Instruct": _release("qwen2", 80, 64, 8, 8192, 29568, False, **_QWEN2_BIG),
}

# Models after Qwen3, to compare: the course counts them and does not run them. Text part only. Sources: the sizes on
# their model cards and in public tools' copies of their configs, as of 2026-11-27; 3.8's 27B has the shape of 3.6's.
_HYBRID = {
    "head_dim": 256,
    "vocab_size": 248320,
    "max_position_embeddings": 262144,
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "mamba_ssm_dtype": "float32",
}
_SHARED = {"num_experts": 256, "num_experts_per_tok": 8, "shared_expert_intermediate_size": 512}
LATER = {
    "Qwen/Qwen3.5-0.8B": _release("qwen3_5", 24, 8, 2, 1024, 3584, True, linear_num_value_heads=16, **_HYBRID),
    "Qwen/Qwen3.6-27B": _release("qwen3_5", 64, 24, 4, 5120, 17408, False, linear_num_value_heads=48, **_HYBRID),
    "Qwen/Qwen3.6-35B-A3B": _release(
        "qwen3_5_moe", 40, 16, 2, 2048, None, False, moe_intermediate_size=512, linear_num_value_heads=32,
        **_SHARED, **_HYBRID,
    ),
}  # fmt: skip
