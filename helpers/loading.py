"""A checkpoint's files as a model of helpers/qwen.py."""

import math

import torch
from safetensors import safe_open

from helpers import CourseError, catalogue, machine
from helpers.checkpoint import Checkpoint, damaged
from helpers.qwen import QwenConfig, QwenModel

MODEL_TYPES = ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe")
YARN_KEYS = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate"}


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
MOE_SIZES = ("num_experts_per_tok", "moe_intermediate_size")


def qwen_config(model) -> QwenConfig:
    """The QwenConfig of a checkpoint or its folder, with the stop tokens of `generation_config.json` where that exists.

    Raises CourseError if a file is missing or damaged, or describes a model that helpers/qwen.py does not implement.
    """
    checkpoint = Checkpoint.of(model)
    raw = checkpoint.config
    _refuse_unsupported(raw, checkpoint.folder)
    is_qwen3 = raw["model_type"].startswith("qwen3")
    sizes = _sizes(raw, checkpoint.folder)
    bias = raw.get("attention_bias", False)
    return QwenConfig(
        **sizes,
        num_key_value_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
        head_dim=catalogue.head_dim(raw),
        qk_norm=is_qwen3,
        qkv_bias=bias if is_qwen3 else raw.get("qkv_bias", True),
        o_bias=bias if is_qwen3 else False,
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        tie_word_embeddings=raw.get("tie_word_embeddings", False),
        norm_topk_prob="num_experts" in sizes and raw.get("norm_topk_prob", False),
        decoder_sparse_step=raw.get("decoder_sparse_step", 1),
        mlp_only_layers=tuple(raw.get("mlp_only_layers") or ()),
        eos_token_id=checkpoint.stop_ids,
        pad_token_id=(raw | checkpoint.generation_config).get("pad_token_id"),
        **_rope(raw),
    )


def _sizes(raw, folder):
    """The sizes that `config.json` has to name, by the names of QwenConfig."""
    required: tuple[str, ...] = SIZES
    if raw["model_type"].endswith("_moe"):
        required += MOE_SIZES
        raw = raw | {"num_experts": catalogue.num_experts(raw) or None}
        required += ("num_experts",)
    if raw["model_type"] == "qwen2_moe":
        required += ("shared_expert_intermediate_size",)
    if missing := [key for key in required if raw.get(key) is None]:
        raise damaged(f"{folder}/config.json 缺少 {missing}", f"{folder}/config.json lacks {missing}")
    return {key: raw[key] for key in required}


def _rope_settings(raw):
    """The RoPE keys in one place: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4.x)."""
    settings = {"rope_theta": raw.get("rope_theta", 10_000.0)}
    settings |= raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    settings["rope_type"] = settings.pop("type", None) or settings.get("rope_type", "default")
    return {key: value for key, value in settings.items() if value is not None}


def _rope(raw):
    settings = _rope_settings(raw)
    if settings["rope_type"] != "yarn":
        return {"rope_theta": settings["rope_theta"]}
    settings.setdefault("original_max_position_embeddings", raw.get("max_position_embeddings"))
    return {
        "rope_theta": settings["rope_theta"],
        "yarn": {key: settings[key] for key in YARN_KEYS & settings.keys()},
        "attention_factor": settings.get("attention_factor", 0.1 * math.log(max(settings["factor"], 1)) + 1),
    }


def _refuse_unsupported(raw, folder):
    rope = _rope_settings(raw)
    is_yarn = rope["rope_type"] == "yarn"
    rope_keys = {"rope_type", "rope_theta", *(YARN_KEYS | {"attention_factor"} if is_yarn else ())}
    layer_types = raw.get("layer_types") or ["sliding_attention" if raw.get("use_sliding_window") else "full_attention"]
    refused = {
        f"model_type {raw.get('model_type')!r}": raw.get("model_type") not in MODEL_TYPES,
        "quantization_config": raw.get("quantization_config"),
        f"RoPE {rope}": rope["rope_type"] not in ("default", "yarn") or set(rope) - rope_keys,
        "YaRN without factor": is_yarn and "factor" not in rope,
        "sliding-window attention": set(layer_types) - {"full_attention"},
        f"hidden_act {raw.get('hidden_act')!r}": raw.get("hidden_act", "silu") != "silu",
    }
    for feature, is_refused in refused.items():
        if is_refused:
            raise _unsupported(feature, folder)


def _unsupported(feature, place):
    return CourseError(
        f"helpers/qwen.py 不支持 {place} 的 {feature}：请换成未量化的 Qwen2 或 Qwen3 文本模型，或改用 vLLM。",
        f"helpers/qwen.py does not support {feature} in {place}: take an unquantised Qwen2 or Qwen3, or vLLM.",
    )


CUDA_CONTEXT = 512 * 2**20  # bytes, a guess: what CUDA itself takes of a GPU in every process that uses it


def load_model(folder, dtype=None, device=None):
    """The model in a Hugging Face folder: `config.json` and one or several safetensors files.

    dtype: a torch.dtype, default the one of the files. device: default the GPU if there is one, else the CPU. The
    weights come without gradients. Raises CourseError for a model that is not supported, for files that are missing,
    damaged or at odds with `config.json`, and where other programs hold the GPU's memory, before any is allocated.
    """
    checkpoint = Checkpoint.of(folder)
    config = qwen_config(checkpoint)
    with torch.device("meta"):
        model = QwenModel(config)
    stored = _stored(checkpoint)
    packed = any(name.endswith(".experts.gate_up_proj") for name in stored)
    if config.tie_word_embeddings:
        stored.pop("lm_head.weight", None)  # some checkpoints store the tied head a second time
    expected = {name: list(view.shape) for name, view in checkpoint_views(config, model.state_dict(), packed).items()}
    _refuse_mismatch(checkpoint.folder, expected, {name: entry["shape"] for name, entry in stored.items()})

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    empty = {"dtype": dtype or _common_dtype(stored, checkpoint.folder), "device": device}
    if device.type == "cuda":
        torch.cuda.empty_cache()  # or memory that this kernel has given up would count as taken
        size = sum(tensor.numel() for tensor in model.state_dict().values()) * empty["dtype"].itemsize
        machine.refuse_busy_gpu(size=size + CUDA_CONTEXT, device=device.index or 0)
    state = {name: torch.empty(tensor.shape, **empty) for name, tensor in model.state_dict().items()}
    views = checkpoint_views(config, state, packed)
    for file in _weight_files(checkpoint):
        with safe_open(checkpoint.folder / file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if name in views:
                    views[name].copy_(tensors.get_tensor(name))
    model.load_state_dict(state, assign=True)
    model.inv_freq = config.inverse_frequencies()
    return model.eval().requires_grad_(False)


def _weight_files(checkpoint):
    """The shards that hold the model: in a folder without an index `model.safetensors`, whatever lies beside it."""
    single = "model.safetensors"
    return {single: checkpoint.shards.get(single)} if checkpoint.weight_map is None else checkpoint.shards


def _stored(checkpoint):
    """Header entries of all tensors in the weight files, by name. CourseError if a file is missing or damaged."""
    folder, files = checkpoint.folder, _weight_files(checkpoint)
    if checkpoint.weight_map == {}:
        raise damaged(f"{folder} 的权重索引读不了", f"The index of the weights in {folder} cannot be read")
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise damaged(f"{folder} 缺少权重文件 {missing}", f"{folder} lacks the weight files {missing}")
    if broken := [name for name, shard in files.items() if shard is None or not shard.whole]:
        raise damaged(f"{folder} 的权重文件 {broken} 已损坏", f"The weight files {broken} in {folder} are damaged")
    return {name: entry for shard in files.values() for name, entry in shard.tensors.items()}


def _common_dtype(stored, folder):
    """The dtype of the weight files, the narrowest where they mix."""
    dtypes = {entry["dtype"] for entry in stored.values()}
    known = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    if unknown := dtypes - known.keys():
        raise _unsupported(f"dtype {', '.join(sorted(unknown))}", folder)
    return next((dtype for name, dtype in known.items() if name in dtypes), torch.float32)


def checkpoint_views(config, state, packed):
    """The tensors of a checkpoint, by their names there, as views into our fused tensors `state`.

    packed: the experts are stored as one tensor (transformers 5 in memory) and not one by one (files on the hubs).
    """
    q_rows, kv_rows = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    views = {}
    for our_name, tensor in state.items():
        name = our_name if our_name == "lm_head.weight" else f"model.{our_name}"
        name = name.replace(".router.", ".gate.")
        if "qkv_proj" in name:
            for letter, rows in zip("qkv", tensor.split((q_rows, kv_rows, kv_rows)), strict=True):
                views[name.replace("qkv", letter)] = rows
        elif ".experts." not in name:
            views |= _gate_and_up(name, tensor)
        elif packed:
            views[name] = tensor
        else:
            for expert, weight in enumerate(tensor):
                views |= _gate_and_up(name.replace("experts", f"experts.{expert}") + ".weight", weight)
    return views


def _gate_and_up(name, weight):
    """A fused gate_up_proj as the two tensors of the checkpoint; any other tensor as it is."""
    if "gate_up_proj" not in name:
        return {name: weight}
    gate, up = weight.chunk(2)
    return {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}


def _refuse_mismatch(folder, expected, found):
    problems = [f"- {name}" for name in expected.keys() - found.keys()]
    problems += [f"+ {name}" for name in found.keys() - expected.keys()]
    both = expected.keys() & found.keys()
    problems += [f"{name} {found[name]} != {expected[name]}" for name in both if found[name] != expected[name]]
    if problems:
        some = ", ".join(sorted(problems)[:3])
        raise damaged(
            f"{folder} 的权重与 config.json 有 {len(problems)} 处不符（- 缺少，+ 多余，!= 形状不同），如 {some}",
            f"The weights in {folder} do not fit config.json in {len(problems)} places (- missing, + unexpected, "
            f"!= shape), such as {some}",
        )
