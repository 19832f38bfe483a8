"""helpers/qwen.py against transformers, through real checkpoint folders."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import small_config
from safetensors.torch import load_file, save_file

from helpers import CourseError, linear
from helpers.qwen import (
    KVCache,
    QwenModel,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    load_model,
    rope_frequencies,
    route,
    sample,
    yarn_frequencies,
)

MODEL_TYPES = ["qwen2", "qwen3", "qwen2_moe", "qwen3_moe"]
SEEDS, QUICK_SEEDS = 20, 8  # those of `make test-fast`
LOGIT_TOLERANCE = 1e-4  # max |difference| in fp32
NEW_TOKENS = 8


# ---------------------------------------------------------------------------------------------- the reference


def transformers_model(model_type, seed, **overrides):
    """A small transformers model with a random config and weights, norms and biases far from their neutral values.

    Runs under transformers 4.57 and 5.x.
    """
    import transformers

    draw = random.Random(f"{model_type} {seed}")
    kv_heads, group, head_dim = draw.choice([1, 2, 3]), draw.choice([1, 2, 3]), draw.choice([4, 6, 8, 10, 16])
    layers = draw.choice([1, 2, 3, 4])
    settings = {
        "vocab_size": draw.randint(50, 99),
        "hidden_size": draw.choice([12, 20, 22, 36]),
        "intermediate_size": draw.choice([9, 24, 40]),
        "num_hidden_layers": layers,
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "tie_word_embeddings": draw.random() < 0.5,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    settings["qkv_bias" if model_type == "qwen2_moe" else "attention_bias"] = draw.random() < 0.5
    if model_type.endswith("_moe"):
        experts = draw.choice([3, 5, 8])
        settings |= {
            "num_experts": experts,
            "num_experts_per_tok": draw.randint(1, 3),
            "moe_intermediate_size": draw.choice([5, 12]),
            "norm_topk_prob": draw.random() < 0.5,
            "decoder_sparse_step": draw.choice([1, 1, 2]),
            "mlp_only_layers": draw.choice([[], [], [0]]) if layers > 1 else [],
            "shared_expert_intermediate_size": draw.choice([7, 16]),
        }
    theta = draw.choice([10_000.0, 1_000_000.0])
    rope = {"rope_type": "default"}
    if draw.random() < 0.5:
        # 4.57 takes max_position_embeddings / original_max_position_embeddings for the factor, so they have to agree
        rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
        rope |= draw.choice([{}, {"beta_fast": 8.0, "beta_slow": 2.0}, {"attention_factor": 1.3}])
    if transformers.__version__.startswith("4."):
        settings |= {"rope_theta": theta, "rope_scaling": rope if rope["rope_type"] == "yarn" else None}
        if model_type == "qwen2_moe":  # has no head_dim of its own there
            settings["hidden_size"] = kv_heads * group * head_dim
    else:
        settings["rope_parameters"] = {"rope_theta": theta, **rope}
        # transformers' default for experts, grouped_mm, wants widths that are multiples of 16 bytes
        settings["experts_implementation"] = "eager"
    config = transformers.AutoConfig.for_model(model_type, **(settings | overrides))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(1 + noise if "norm" in name else noise)
    return model


@torch.inference_mode()
def write_reference(folder, model_type, seed):
    """Save a model in `folder`, and beside it what transformers computes with it."""
    model = transformers_model(model_type, seed)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, model.config.vocab_size, (3, 24), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, :13] = 0
    attention_mask[1, :5] = 0
    greedy = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    prompt = input_ids[2:]
    save_file(
        {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "logits": model(input_ids).logits,
            "padded_logits": model(input_ids, attention_mask=attention_mask).logits,
            "tokens": model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=False, **greedy),
            "padded_tokens": model.generate(input_ids, attention_mask=attention_mask, **greedy),
        },
        Path(folder) / "reference.safetensors",
    )


def assert_agrees_with_reference(folder):
    """Load `folder` and compare with what `write_reference` left there, with and without KV cache."""
    model, reference = load_model(folder, device="cpu"), load_file(Path(folder) / "reference.safetensors")
    input_ids, attention_mask = reference["input_ids"], reference["attention_mask"]

    logits = model(input_ids)
    assert_close(logits, reference["logits"])

    cache = KVCache(model, batch_size=3, max_length=24)
    chunks = [model(chunk, cache=cache) for chunk in input_ids.split((9, 6, 1, 1, 7), dim=1)]
    assert_close(torch.cat(chunks, dim=1), reference["logits"])

    padded_logits = model(input_ids, attention_mask)
    assert padded_logits.isfinite().all()
    is_token = attention_mask.bool()
    assert_close(padded_logits[is_token], reference["padded_logits"][is_token])

    prompt = input_ids[2:]
    assert model.generate(prompt, max_new_tokens=NEW_TOKENS).equal(reference["tokens"])
    tokens = prompt
    for _ in range(NEW_TOKENS):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), dim=1)
    assert tokens.equal(reference["tokens"])
    assert model.generate(input_ids, attention_mask, max_new_tokens=NEW_TOKENS).equal(reference["padded_tokens"])


def assert_close(actual, expected, tolerance=LOGIT_TOLERANCE):
    assert actual.shape == expected.shape
    assert (actual.float() - expected.float()).abs().max() <= tolerance


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.slow) if seed >= QUICK_SEEDS else seed for seed in range(SEEDS)]
)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_agrees_with_transformers(tmp_path, model_type, seed):
    write_reference(tmp_path, model_type, seed)
    assert_agrees_with_reference(tmp_path)


@pytest.mark.large
@pytest.mark.network
def test_agrees_with_transformers_4_57(tmp_path):
    overlay, root = tmp_path / "overlay", Path(__file__).parent.parent
    wanted = ["transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", overlay, *wanted]
    subprocess.run(install, check=True, timeout=300)
    script = (
        "import sys, transformers; from test_qwen import MODEL_TYPES, write_reference\n"
        "assert transformers.__version__.startswith('4.57.')\n"
        "for model_type in MODEL_TYPES:\n"
        "    for seed in range(6): write_reference(f'{sys.argv[1]}/{model_type}-{seed}', model_type, seed)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (overlay, root, root / "tests")))}
    subprocess.run([sys.executable, "-c", script, tmp_path / "saved"], check=True, env=environment, timeout=300)
    folders = sorted((tmp_path / "saved").iterdir())
    assert len(folders) == 6 * len(MODEL_TYPES)
    assert "rope_theta" in json.loads((folders[0] / "config.json").read_text())  # the old form was read
    for folder in folders:
        assert_agrees_with_reference(folder)


def test_the_random_configs_cover_what_they_should():
    configs = {kind: [transformers_model(kind, seed).config for seed in range(SEEDS)] for kind in MODEL_TYPES}
    for kind, drawn in configs.items():
        assert any(config.num_attention_heads % 2 for config in drawn)
        assert any(config.num_attention_heads * config.head_dim != config.hidden_size for config in drawn)
        assert {config.tie_word_embeddings for config in drawn} == {True, False}
        assert {config.rope_parameters["rope_type"] for config in drawn} == {"default", "yarn"}
        if kind != "qwen2":  # always has the bias
            bias = "qkv_bias" if kind == "qwen2_moe" else "attention_bias"
            assert {getattr(config, bias) for config in drawn} == {True, False}
        if kind.endswith("moe"):
            assert {config.norm_topk_prob for config in drawn} == {True, False}
            assert {config.decoder_sparse_step for config in drawn} == {1, 2}
            assert any(config.mlp_only_layers for config in drawn)


# ---------------------------------------------------------------------------------------------- forms of a checkpoint


@pytest.fixture
def moe_folder(tmp_path):
    write_reference(tmp_path, "qwen2_moe", 0)
    return tmp_path


@pytest.fixture
def dense_folder(tmp_path):
    write_reference(tmp_path, "qwen3", 0)
    return tmp_path


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3_moe"])
def test_sharded_checkpoint(tmp_path, model_type):
    write_reference(tmp_path, model_type, 1)
    transformers_model(model_type, 1).save_pretrained(tmp_path, max_shard_size="8KB")
    (tmp_path / "model.safetensors").unlink()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_agrees_with_reference(tmp_path)


@pytest.mark.parametrize("model_type", ["qwen2_moe", "qwen3_moe"])
def test_packed_experts(tmp_path, model_type):
    write_reference(tmp_path, model_type, 2)
    packed = transformers_model(model_type, 2).state_dict()
    assert any(name.endswith("experts.gate_up_proj") for name in packed)
    save_file({name: weight.clone() for name, weight in packed.items()}, tmp_path / "model.safetensors")
    assert_agrees_with_reference(tmp_path)


def test_tied_head_stored_twice(dense_folder):
    def add_head(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    edit_config(dense_folder, tie_word_embeddings=True)
    edit_weights(dense_folder, lambda weights: weights.pop("lm_head.weight", None))
    once = load_model(dense_folder, device="cpu")(torch.tensor([[1, 2, 3]]))
    edit_weights(dense_folder, add_head)
    assert load_model(dense_folder, device="cpu")(torch.tensor([[1, 2, 3]])).equal(once)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_bfloat16(tmp_path, model_type):
    from transformers import AutoModelForCausalLM

    transformers_model(model_type, 3).to(torch.bfloat16).save_pretrained(tmp_path)
    input_ids, eager = torch.arange(1, 21)[None], {"experts_implementation": "eager"}
    with torch.inference_mode():
        in_fp32 = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, **eager)(input_ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, **eager)(input_ids).logits

    model = load_model(tmp_path, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    ours = model(input_ids)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    # Both round, each in its own order: ours is as near to the fp32 result as theirs.
    assert (ours - in_fp32).abs().mean() <= 1.5 * (theirs - in_fp32).abs().mean()
    assert_close(load_model(tmp_path, torch.float32, "cpu")(input_ids), in_fp32)


def test_files_without_optional_keys(tmp_path):
    """The defaults for absent keys are those of transformers."""
    from transformers import AutoModelForCausalLM

    overrides = {"head_dim": 128, "attention_bias": False, "tie_word_embeddings": False, "rms_norm_eps": 1e-6}
    overrides["rope_parameters"] = {"rope_theta": 10_000.0, "rope_type": "default"}
    transformers_model("qwen3", 4, **overrides).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in overrides}))
    reference = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_close(
        load_model(tmp_path, device="cpu")(torch.tensor([[1, 2, 3]])), reference(torch.tensor([[1, 2, 3]])).logits
    )


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"model_type": None}, "model_type"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0}}, "mscale"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding"),
        ({"layer_types": None, "use_sliding_window": True}, "sliding"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_size": None}, "hidden_size"),
        ({"intermediate_size": 41}, "gate_proj"),
        ({"num_hidden_layers": 2}, "- model.layers.1."),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ],
)
def test_refuses_config(dense_folder, changes, named):
    edit_config(dense_folder, **changes)
    assert_refused(dense_folder, named)


def damage_config(folder):
    (folder / "config.json").write_text('{"model_type": "qwen3",')


def remove_tensor(folder):
    edit_weights(folder, lambda weights: weights.pop("model.layers.0.self_attn.q_norm.weight"))


def add_tensor(folder):
    edit_weights(folder, lambda weights: weights.update({"model.layers.0.self_attn.q_proj.scale": torch.ones(1)}))


def turn_tensor(folder):
    name = "model.layers.0.mlp.down_proj.weight"
    edit_weights(folder, lambda weights: weights.update({name: weights[name].T.contiguous()}))


def store_integers(folder):
    edit_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(36, dtype=torch.int8)}))


def truncate(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-50])


def point_to_missing_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (damage_config, "JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (remove_tensor, "- model.layers.0.self_attn.q_norm.weight"),
        (add_tensor, "+ model.layers.0.self_attn.q_proj.scale"),
        (turn_tensor, "model.layers.0.mlp.down_proj.weight ["),
        (store_integers, "I8"),
        (truncate, "model.safetensors"),
        (point_to_missing_shard, "model-00002-of-00002.safetensors"),
    ],
)
def test_refuses_files(dense_folder, damage, named):
    damage(dense_folder)
    assert_refused(dense_folder, named)


def test_refuses_missing_expert(moe_folder):
    lost = "experts.2.up_proj.weight"
    edit_weights(moe_folder, lambda weights: [weights.pop(name) for name in list(weights) if name.endswith(lost)])
    assert_refused(moe_folder, lost)


def assert_refused(folder, named):
    with pytest.raises(CourseError) as refusal:
        load_model(folder, device="cpu")
    zh, en = str(refusal.value).splitlines()
    assert named in zh and named in en


# ---------------------------------------------------------------------------------------------- generate


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = small_config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
        mlp_only_layers=(0,),
        pad_token_id=0,
    )
    return QwenModel(config)


def test_stops_at_any_eos_and_pads_the_rows_that_ended(model):
    prompts = torch.tensor([[1, 2, 3], [4, 5, 6]])
    free = model.generate(prompts, max_new_tokens=12)[:, 3:].tolist()
    first = next(i for i, token in enumerate(free[0]) if token not in free[1])  # only row 0 ever ends there
    ended = free[0][: first + 1] + [0] * (11 - first)
    assert model.generate(prompts, max_new_tokens=12, eos_token_id=(49, free[0][first]))[:, 3:].tolist() == [
        ended,
        free[1],
    ]

    alone = model.generate(prompts[:1], max_new_tokens=12, eos_token_id=(free[0][first],))[0, 3:].tolist()
    assert alone == free[0][: first + 1]


def test_eos_comes_from_the_checkpoint(dense_folder):
    prompt = torch.tensor([[1, 2, 3]])
    third = load_model(dense_folder, device="cpu").generate(prompt, max_new_tokens=6)[0, 5].item()
    (dense_folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [third, 2]}))
    model = load_model(dense_folder, device="cpu")
    assert model.config.eos_token_id == (third, 2)
    assert model.generate(prompt, max_new_tokens=6).shape[1] <= 6
    assert model.generate(prompt, max_new_tokens=6, eos_token_id=()).shape == (1, 9)


def test_refuses_padding_on_the_right(model):
    with pytest.raises(CourseError, match="padding_side"):
        model.generate(torch.tensor([[1, 2], [3, 0]]), torch.tensor([[1, 1], [1, 0]]))


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_at_qwen3s_size(truncate):
    """Small configs have no pair on YaRN's ramp; at Qwen3's there are some."""
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
    rope["truncate"] = truncate
    config = transformers.Qwen3Config(head_dim=128, max_position_embeddings=131072, rope_parameters=rope)
    expected, _ = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    trained = rope_frequencies(128, 1e6)
    ours = yarn_frequencies(trained, 1e6, 4.0, 32768, truncate=truncate)
    assert ((ours < trained * 0.999) & (ours > trained / 4 * 1.001)).sum() > 5
    torch.testing.assert_close(ours, expected)


def test_routing_weights_of_a_bfloat16_router_are_float32():
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert route(logits, 2, True)[0].dtype == torch.float32


def test_bfloat16_matrices_on_a_cpu_without_bfloat16(monkeypatch):
    monkeypatch.setattr(linear, "CPU_HAS_BFLOAT16", False)
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=draw).bfloat16() for shape in ((8, 32), (16, 32), (16,)))
    expected = torch.nn.functional.linear(x.float(), weight.float(), bias.float())
    torch.testing.assert_close(linear.linear(x, weight, bias).float(), expected, atol=3e-2, rtol=2e-2)


def test_refuses_a_mask_with_a_hole_and_a_prompt_without_tokens(model):
    with pytest.raises(CourseError, match="padding_side"):
        model.generate(torch.tensor([[1, 2, 3], [3, 4, 5]]), torch.tensor([[1, 1, 1], [1, 0, 1]]))
    for empty in (torch.zeros(1, 0, dtype=torch.long), torch.tensor([1, 2])):
        with pytest.raises(CourseError, match="a token in each row"):
            model.generate(empty)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": math.nan}, {"top_p": 0.0}, {"min_p": 1.5}, {"top_k": -1}]
)
def test_refuses_sampling_options_out_of_range(options):
    with pytest.raises(CourseError, match="out of range"):
        sample(torch.zeros(1, 4), **{"temperature": 1.0} | options)


def test_refuses_to_write_beyond_the_cache(model):
    cache = KVCache(model, batch_size=1, max_length=4)
    model(torch.tensor([[1, 2, 3]]), cache=cache)
    with pytest.raises(CourseError, match="max_length"):
        model(torch.tensor([[4, 5]]), cache=cache)
    assert cache.length == 3


@pytest.mark.parametrize("seed", range(5))
def test_cuts_agree_with_transformers(seed):
    from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(4, 60, generator=torch.Generator().manual_seed(seed)) * 3
    for top_k in (1, 7, 60, 1000):
        assert keep_top_k(logits, top_k).equal(TopKLogitsWarper(top_k)(None, logits))
    for top_p in (0.01, 0.5, 0.95):
        assert keep_top_p(logits, top_p).equal(TopPLogitsWarper(top_p)(None, logits))
    for min_p in (0.01, 0.2, 1.0):
        assert keep_min_p(logits, min_p).equal(MinPLogitsWarper(min_p)(None, logits))


def test_sample_draws_from_the_distribution_of_transformers():
    from transformers.generation import logits_process as warp

    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)) * 2
    expected = logits
    for cut in (
        warp.TemperatureLogitsWarper(0.7),
        warp.TopKLogitsWarper(12),
        warp.TopPLogitsWarper(0.9),
        warp.MinPLogitsWarper(0.05),
    ):
        expected = cut(None, expected)
    expected = expected.softmax(-1)[0]
    draws = 40_000
    generator = torch.Generator().manual_seed(1)
    tokens = sample(logits.expand(draws, -1), 0.7, top_k=12, top_p=0.9, min_p=0.05, generator=generator)
    frequency = tokens.bincount(minlength=40) / draws
    assert 2 <= (expected > 0).sum() <= 12
    assert not frequency[expected == 0].any()
    assert (frequency - expected).abs().max() < 0.01  # four standard deviations


def test_sampling_repeats_with_the_generator(model):
    prompt = torch.tensor([[1, 2, 3]])

    def draw(seed):
        return model.generate(
            prompt, max_new_tokens=20, temperature=1.0, generator=torch.Generator().manual_seed(seed)
        ).tolist()

    assert draw(1) == draw(1) != draw(2)


# ---------------------------------------------------------------------------------------------- what lessons rely on


def test_a_hook_on_the_router_sees_the_routing(tmp_path):
    write_reference(tmp_path, "qwen3_moe", 5)
    reference = transformers_model("qwen3_moe", 5)
    theirs, ours = [], []
    for module in reference.modules():
        if type(module).__name__ == "Qwen3MoeTopKRouter":
            module.register_forward_hook(lambda module, inputs, output: theirs.append(output))
    model = load_model(tmp_path, device="cpu")
    for layer in model.layers:
        if hasattr(layer.mlp, "router"):
            layer.mlp.router.register_forward_hook(lambda module, inputs, output: ours.append(output))
    input_ids = torch.arange(1, 21)[None]
    with torch.inference_mode():
        reference(input_ids)
    model(input_ids)
    assert len(ours) == len(theirs) > 0
    for (weights, expert_ids, logits), (their_logits, their_weights, their_ids) in zip(ours, theirs, strict=True):
        assert expert_ids.equal(their_ids)
        assert_close(weights, their_weights)
        assert_close(logits, their_logits)


def test_every_weight_can_be_trained(model):
    model(torch.arange(40)[None]).log_softmax(-1)[..., 0].sum().backward()
    without_gradient = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without_gradient
