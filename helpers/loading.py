"""A checkpoint's files as a model of helpers/qwen.py."""

import math
import reprlib

import torch
from safetensors import SafetensorError, safe_open

from helpers import CourseError, catalogue, machine
from helpers.checkpoint import Checkpoint, damaged
from helpers.config import flag, listed, number, part, real, wrong
from helpers.qwen import QwenConfig, QwenModel

YARN_KEYS = {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate"}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
MOE_SIZES = ("num_experts_per_tok", "moe_intermediate_size")


def qwen_config(model) -> QwenConfig:
    """The QwenConfig of a checkpoint or its folder, with the stop tokens of `generation_config.json` where that exists.

    Raises CourseError if a file is missing or damaged, or describes a model that helpers/qwen.py does not implement.
    """
    checkpoint = Checkpoint.of(model)
    raw = checkpoint.config
    checkpoint.refuse_unsupported()
    _refuse_unsupported(raw, checkpoint.folder)
    is_qwen3 = raw["model_type"].startswith("qwen3")
    bias = flag(raw, "attention_bias", False)
    sizes = _sizes(raw)
    found = QwenConfig(
        **sizes,
        num_key_value_heads=catalogue.kv_heads(raw),
        head_dim=catalogue.head_dim(raw),
        qk_norm=is_qwen3,
        qkv_bias=bias if is_qwen3 else flag(raw, "qkv_bias", True),
        o_bias=bias if is_qwen3 else False,
        rms_norm_eps=real(raw, "rms_norm_eps", 1e-6),
        tie_word_embeddings=flag(raw, "tie_word_embeddings", False),
        norm_topk_prob="num_experts" in sizes and flag(raw, "norm_topk_prob", False),
        decoder_sparse_step=number(raw, "decoder_sparse_step", 1),
        mlp_only_layers=tuple(listed(raw, "mlp_only_layers", int)),
        eos_token_id=checkpoint.stop_ids,
        pad_token_id=_pad_token_id(raw | checkpoint.generation_config),
        **_rope(raw),
    )
    _refuse_impossible(found, raw)
    return found


def _sizes(raw):
    """The sizes that `config.json` has to name, by the names of QwenConfig."""
    required: tuple[str, ...] = SIZES
    if raw["model_type"].endswith("_moe"):
        required += MOE_SIZES
    if raw["model_type"] == "qwen2_moe":
        required += ("shared_expert_intermediate_size",)
    sizes = {key: number(raw, key) for key in required}
    if raw["model_type"].endswith("_moe"):
        sizes["num_experts"] = catalogue.num_experts(raw) or number(raw, "num_experts")
    return sizes


def _pad_token_id(raw):
    value = raw.get("pad_token_id")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise wrong(raw, "pad_token_id", "词元编号", "the number of a token")
    return value


def _refuse_impossible(config, raw):
    """CourseError for sizes that no model can have together."""
    if config.num_attention_heads % config.num_key_value_heads:
        raise wrong(raw, "num_key_value_heads", "注意力头数的约数", "a divisor of num_attention_heads")
    if config.head_dim % 2:
        raise wrong(raw, "head_dim", "偶数", "an even number")
    if config.num_experts and config.num_experts_per_tok > config.num_experts:
        raise wrong(raw, "num_experts_per_tok", "不超过专家数的整数", "at most num_experts")


def _rope_settings(raw):
    """The RoPE keys in one place: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4.x)."""
    settings = {"rope_theta": raw.get("rope_theta")}
    settings |= part(raw, "rope_parameters") or part(raw, "rope_scaling")
    settings["rope_type"] = settings.pop("type", None) or settings.get("rope_type", "default")
    settings["rope_theta"] = real(settings, "rope_theta", 10_000.0)
    return {key: value for key, value in settings.items() if value is not None}


def _rope(raw):
    settings = _rope_settings(raw)
    if settings["rope_type"] != "yarn":
        return {"rope_theta": settings["rope_theta"]}
    settings.setdefault("original_max_position_embeddings", number(raw, "max_position_embeddings"))
    for key in ({"attention_factor", *YARN_KEYS} - {"truncate"}) & settings.keys():
        settings[key] = real(settings, key, 1.0)
    if "truncate" in settings:
        settings["truncate"] = flag(settings, "truncate", True)
    return {
        "rope_theta": settings["rope_theta"],
        "yarn": {key: settings[key] for key in YARN_KEYS & settings.keys()},
        "attention_factor": settings.get("attention_factor", 0.1 * math.log(max(settings["factor"], 1)) + 1),
    }


def _refuse_unsupported(raw, folder):
    rope = _rope_settings(raw)
    is_yarn = rope["rope_type"] == "yarn"
    rope_keys = {"rope_type", "rope_theta", *(YARN_KEYS | {"attention_factor"} if is_yarn else ())}
    sliding = "sliding_attention" if flag(raw, "use_sliding_window", False) else "full_attention"
    layer_types = listed(raw, "layer_types", str) or [sliding]
    refused = {
        "quantization_config": raw.get("quantization_config"),
        f"RoPE {reprlib.repr(rope)}": rope["rope_type"] not in ("default", "yarn") or set(rope) - rope_keys,
        "YaRN without factor": is_yarn and "factor" not in rope,
        "sliding-window attention": set(layer_types) - {"full_attention"},
        f"hidden_act {reprlib.repr(raw.get('hidden_act'))}": raw.get("hidden_act", "silu") != "silu",
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
    stored = _stored(checkpoint)
    _refuse_fewer_layers(config, stored, checkpoint.folder)  # before as many are built
    with torch.device("meta"):
        model = QwenModel(config)
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
        try:
            _copy(checkpoint.folder / file, views)
        except (SafetensorError, OSError) as error:
            raise damaged(
                f"{checkpoint.folder} 的权重文件 {file} 已损坏（{error}）",
                f"The weight file {file} in {checkpoint.folder} is damaged ({error})",
            ) from error
    model.load_state_dict(state, assign=True)
    model.inv_freq = config.inverse_frequencies()
    return model.eval().requires_grad_(False)


def _copy(file, views):
    """Fill the views with the tensors of a safetensors file that have their names."""
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a dict)
            if name in views:
                views[name].copy_(tensors.get_tensor(name))


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
    if broken := [name for name, tensors in files.items() if tensors is None]:
        raise damaged(f"{folder} 的权重文件 {broken} 已损坏", f"The weight files {broken} in {folder} are damaged")
    return {name: entry for tensors in files.values() for name, entry in tensors.items()}


def _refuse_fewer_layers(config, stored, folder):
    """CourseError if `config.json` names more layers or experts than the weight files hold."""
    last = f"model.layers.{config.num_hidden_layers - 1}.input_layernorm.weight"
    experts = [name for name in stored if ".experts." in name]
    if config.num_experts and experts and not any(".experts.gate_up_proj" in name for name in experts):
        expert = f".experts.{config.num_experts - 1}.down_proj.weight"
        last = last if any(name.endswith(expert) for name in experts) else expert
    if last not in stored and not any(name.endswith(last) for name in stored):
        _refuse_mismatch(folder, {last: []}, {})


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
