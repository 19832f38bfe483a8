"""Known models and the arithmetic of sizes: parameters, weights, KV cache, and what fits a card. Reads no file.

A ``config`` is the dictionary of a ``config.json``.
"""

from dataclasses import dataclass

from helpers import GIB

GPU_SHARE = 0.92  # vLLM's default gpu_memory_utilization
KV_BLOCK = 16  # tokens: the piece in which vLLM hands out KV cache
FP8_BLOCK = 128  # rows and columns of a published FP8 checkpoint that share a scale
OTHER_MEMORY = 1.5 * GIB  # a guess at activations, CUDA graphs and the CUDA context, which take 1 to 2 GiB


def head_dim(config: dict) -> int:
    """Width of one attention head; without the key 128 in Qwen3, as in transformers, else hidden_size / heads."""
    default = 128 if config.get("model_type") == "qwen3" else config["hidden_size"] // config["num_attention_heads"]
    return config.get("head_dim") or default


def num_experts(config: dict) -> int:
    """Experts of a sparse layer, 0 in a dense model; transformers 5 saves the key under another name."""
    return config.get("num_experts") or config.get("num_local_experts") or 0


def kv_bytes_per_token(config: dict, bytes_per_value: int = 2) -> int:
    """Bytes of KV cache that one token takes in all layers together: keys and values, bf16 unless told."""
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim(config) * bytes_per_value


def parameters(config: dict, active: bool = False) -> int:
    """Parameters of a Qwen2, Qwen2-MoE, Qwen3 or Qwen3-MoE model, computed from its ``config.json``.

    active: only those that one token uses, both embedding matrices included. Source of the shapes: transformers'
    modeling_qwen2.py, modeling_qwen2_moe.py, modeling_qwen3.py and modeling_qwen3_moe.py.
    """
    hidden, width = config["hidden_size"], head_dim(config)
    query, key = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    layer = 2 * hidden * query + 2 * hidden * key + 2 * hidden  # projections, two norms
    qwen2 = config["model_type"].startswith("qwen2")
    layer += query + 2 * key if qwen2 else 2 * width  # biases of q, k, v in Qwen2; QK-norm in Qwen3
    if experts := num_experts(config):
        used = config["num_experts_per_tok"] if active else experts
        mlp = used * 3 * hidden * config["moe_intermediate_size"] + hidden * experts
        if shared := config.get("shared_expert_intermediate_size"):
            mlp += 3 * hidden * shared + hidden
    else:
        mlp = 3 * hidden * config["intermediate_size"]
    return config["num_hidden_layers"] * (layer + mlp) + embedding_parameters(config) + hidden


def embedding_parameters(config: dict) -> int:
    """Parameters of the embedding and, unless the two are tied, the output matrix."""
    return config["vocab_size"] * config["hidden_size"] * (1 if config["tie_word_embeddings"] else 2)


def weight_bytes(config: dict, dtype: str = "bf16") -> float:
    """Bytes of the weights in memory. Exact for "bf16"; "fp8" and "awq" are estimates.

    The estimates count 1 byte (fp8) or 0.52 bytes (awq: 4 bits with scale and zero point for each 128) for all but the
    embedding and output matrices, which stay bf16.
    """
    embeddings = embedding_parameters(config)
    return 2 * embeddings + (parameters(config) - embeddings) * {"bf16": 2, "fp8": 1, "awq": 0.52}[dtype]


def splits(config: dict, gpus: int, dtype: str = "bf16") -> bool:
    """Whether vLLM can cut a model into ``gpus`` equal parts (tensor parallel).

    It cuts between attention heads, and FP8 weights only between blocks of 128, which share a scale. Source: vLLM's
    ModelConfig.verify_with_parallel_config and validate_fp8_block_shape.
    """
    inner = config.get("moe_intermediate_size") or config["intermediate_size"]
    whole_heads = config["num_attention_heads"] % gpus == 0
    return whole_heads and (dtype != "fp8" or inner % (gpus * FP8_BLOCK) == 0)


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
    is copied where there are more cards than heads. max_context is in vLLM's blocks of 16 tokens, at most the
    checkpoint's ``max_position_embeddings``.
    """
    heads = config["num_key_value_heads"]
    per_token = kv_bytes_per_token(config, kv_bytes) * max(1, heads // gpus) / heads
    usable, weights = gpu * utilization, weight_bytes(config, dtype) / gpus
    longest = max(0, int((usable - weights - other) / per_token / sequences) // KV_BLOCK * KV_BLOCK)
    longest = min(longest, config["max_position_embeddings"]) if splits(config, gpus, dtype) else 0
    return Fit(usable, weights, per_token * context * sequences, other, longest, context <= longest)


@dataclass(frozen=True)
class Release:
    """A published model: ``config`` as in its config.json, whether the output matrix is stored although tied, and the
    quantised versions that the publisher offers under ``id-SUFFIX`` (empty: none known to this table)."""

    config: dict
    stored_twice: bool = False
    quantised: tuple[str, ...] = ()

    @property
    def download(self) -> int:
        """Bytes of the bf16 weight files; tokenizer and configuration add about 10 MB."""
        twice = embedding_parameters(self.config) if self.stored_twice else 0
        return 2 * (parameters(self.config) + twice)


def _release(
    model_type, layers, heads, kv_heads, hidden, intermediate, tied, *quantised, twice=False, **more
) -> Release:
    config = {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
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
