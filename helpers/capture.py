"""Captures the routing of a text in four engines, and records a conversation: `python -m helpers.routing MODEL`.

The engines: a model of ``helpers/qwen.py``, transformers, vLLM on a CPU and vLLM on a GPU.
"""

import argparse
import contextlib
import sys
from collections.abc import Hashable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from helpers import ROOT, CourseError, models
from helpers.language import say
from helpers.routing import RoutingTrace
from helpers.tokens import pieces

QUESTIONS = ("什么是 MoE？", "What does the router do?", "37×46=?")


def capture_reference(model, tokenizer, prompt, max_new_tokens=0, trained=True) -> RoutingTrace:
    """Routing in a model of ``helpers/qwen.py``, of ``prompt`` and of the greedy answer to it.

    tokenizer: a transformers tokenizer. prompt: a string, in which a chat template is already applied, or token ids.
    max_new_tokens: 0 routes the prompt alone. trained: False marks weights that are random.
    """
    import torch

    routers = {layer: block.mlp.router for layer, block in enumerate(model.layers) if hasattr(block.mlp, "router")}
    require_experts(routers)
    token_ids = _token_ids(tokenizer, prompt)
    input_ids = torch.tensor([token_ids], device=model.embed_tokens.weight.device)
    with torch.inference_mode(), recording(routers) as outputs:
        if max_new_tokens:
            input_ids = model.generate(input_ids, max_new_tokens=max_new_tokens)[:, :-1]
        else:
            model.last_hidden_states(input_ids)
    logits = {layer: torch.cat([logits for _, _, logits in steps]) for layer, steps in outputs.items()}
    config, dtype = model.config, model.embed_tokens.weight.dtype
    routed = {layer: _routed(rows, config.num_experts_per_tok, config.norm_topk_prob) for layer, rows in logits.items()}
    about = _provenance(tokenizer, f"helpers/qwen.py, torch {torch.__version__}", dtype, trained)
    return _trace(tokenizer, input_ids[0].tolist(), len(token_ids), routed, config.num_experts, about)


def capture_conversation(model, tokenizer, questions, max_new_tokens=256) -> RoutingTrace:
    """Routing of a whole conversation with a model of ``helpers/qwen.py``, which answers each question greedily.

    Thinking, where the chat template has a switch, is on for the last question alone, and all that was said before it
    counts as the prompt. CourseError without a question.
    """
    import torch

    if not questions:
        raise CourseError("没有问题：请至少问一个。", "The model was asked no question: give at least one.")
    messages = []
    for question in questions[:-1]:
        messages.append({"role": "user", "content": question})
        input_ids = torch.tensor([tokenizer.encode(_chat(tokenizer, messages, enable_thinking=False))])
        input_ids = input_ids.to(model.embed_tokens.weight.device)
        written = model.generate(input_ids, max_new_tokens=max_new_tokens)[0, input_ids.shape[1] :]
        answer = tokenizer.decode(written, skip_special_tokens=True).rpartition("</think>")[2].strip()
        messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": questions[-1]})
    return capture_reference(model, tokenizer, _chat(tokenizer, messages, enable_thinking=True), max_new_tokens)


def _chat(tokenizer, messages, enable_thinking):
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
    )


def capture_transformers(model, tokenizer, prompt, max_new_tokens=0, trained=True) -> RoutingTrace:
    """Routing in a Qwen MoE model of transformers 4.57 or 5.x; the arguments are those of :func:`capture_reference`.

    The experts are chosen again from the router logits. RuntimeError if the block used others.
    """
    import torch
    import transformers

    blocks = {layer: block.mlp for layer, block in enumerate(model.model.layers) if hasattr(block.mlp, "gate")}
    require_experts(blocks)
    token_ids = _token_ids(tokenizer, prompt)
    input_ids = torch.tensor([token_ids], device=model.device)
    gates = {layer: block.gate for layer, block in blocks.items()}
    # Until 5.0 the gate is a linear layer and every expert a module, called with the rows of the tokens that chose it.
    modules = {
        (layer, expert): module
        for layer, block in blocks.items()
        if isinstance(block.gate, torch.nn.Linear)
        for expert, module in enumerate(block.experts)
    }
    with torch.inference_mode(), recording(gates) as outputs, recording(modules) as expert_outputs:
        if max_new_tokens:
            greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
            mask = torch.ones_like(input_ids)
            input_ids = model.generate(input_ids, attention_mask=mask, max_new_tokens=max_new_tokens, **greedy)[:, :-1]
        else:
            model.model(input_ids, use_cache=False)
    config = model.config
    routed = {}
    for layer, steps in outputs.items():
        logits = torch.cat([step[0] if isinstance(step, tuple) else step for step in steps])  # (tokens, num_experts)
        if (logits >= 0).all() and (logits.sum(-1) - 1).abs().max() < 0.05:
            logits = logits.float().log()  # some releases of 5.x return probabilities under this name
        weights, ids, _ = routed[layer] = _routed(logits, config.num_experts_per_tok, config.norm_topk_prob)
        if isinstance(steps[0], tuple):
            used_weights, used_ids = (torch.cat([step[place] for step in steps]) for place in (1, 2))
            close = torch.allclose(weights.to(used_weights.dtype), used_weights, atol=1e-2)
            agrees = close and torch.equal(ids, used_ids)
        else:
            rows = [sum(len(out) for out in expert_outputs[layer, expert]) for expert in range(config.num_experts)]
            agrees = rows == ids.flatten().bincount(minlength=config.num_experts).tolist()
        if not agrees:
            raise RuntimeError(f"layer {layer}: the block of transformers {transformers.__version__} routes otherwise")
    about = _provenance(tokenizer, f"transformers {transformers.__version__}", model.dtype, trained)
    return _trace(tokenizer, input_ids[0].tolist(), len(token_ids), routed, config.num_experts, about)


def capture_vllm(llm, prompt, max_new_tokens=0) -> RoutingTrace:
    """Routing in vLLM on a CPU: hooks on the routers of an engine that runs inside this process.

    llm: ``open_engine(folder, enable_prefix_caching=False)``, since a cached prefix is not routed again. Raises
    CourseError for an engine on which the hooks would not see every token.
    """
    import vllm

    from helpers.engine import on_cpu

    settings = llm.llm_engine.vllm_config
    if settings.cache_config.enable_prefix_caching or not settings.model_config.enforce_eager:
        raise CourseError(
            "要看到每个词元的路由，引擎须以 enforce_eager=True、enable_prefix_caching=False 打开。",
            "To see the routing of every token, open the engine with enforce_eager=True, enable_prefix_caching=False.",
        )
    tokenizer, config = llm.get_tokenizer(), settings.model_config.hf_config
    token_ids = _token_ids(tokenizer, prompt)
    # vLLM writes at least one token; the last one is not fed back, so with 1 exactly the prompt is routed.
    sampling = vllm.SamplingParams(temperature=0, max_tokens=max(1, max_new_tokens))
    llm.apply_model(_hook_vllm)
    try:
        request = llm.generate({"prompt_token_ids": token_ids}, sampling, use_tqdm=False)[0]
    finally:
        logits = llm.apply_model(_unhook_vllm)[0]
    require_experts(logits)
    routed = {layer: _routed(rows, config.num_experts_per_tok, config.norm_topk_prob) for layer, rows in logits.items()}
    written = list(request.outputs[0].token_ids)
    about = _provenance(
        tokenizer, f"vLLM {vllm.__version__} ({'CPU' if on_cpu() else 'GPU'})", settings.model_config.dtype, True
    )
    return _trace(tokenizer, token_ids + written[:-1], len(token_ids), routed, config.num_experts, about)


def capture_vllm_gpu(llm, prompt, max_new_tokens=0) -> RoutingTrace:
    """Routing in vLLM on a GPU, as the engine itself reports it: expert ids without weights. Not run here.

    llm: ``open_engine(folder, enable_return_routed_experts=True)``. Raises CourseError without that option. Source:
    ``CompletionOutput.routed_experts`` in vLLM 0.32, (tokens, all layers, top_k); dense layers are left out here.
    """
    import vllm

    tokenizer, config = llm.get_tokenizer(), llm.llm_engine.vllm_config.model_config.hf_config
    token_ids = _token_ids(tokenizer, prompt)
    sampling = vllm.SamplingParams(temperature=0, max_tokens=max(1, max_new_tokens))
    output = llm.generate({"prompt_token_ids": token_ids}, sampling, use_tqdm=False)[0].outputs[0]
    if getattr(output, "routed_experts", None) is None:
        raise CourseError(
            "引擎没有返回专家编号：请在 GPU 上用 enable_return_routed_experts=True 重新打开它。",
            "The engine returned no expert ids: open it on a GPU with enable_return_routed_experts=True.",
        )
    step, dense = config.decoder_sparse_step, config.mlp_only_layers
    layers = [i for i in range(config.num_hidden_layers) if (i + 1) % step == 0 and i not in dense]
    require_experts(layers)
    dtype = llm.llm_engine.vllm_config.model_config.dtype
    about = _provenance(tokenizer, f"vLLM {vllm.__version__} (GPU)", dtype, True)
    ids = np.asarray(output.routed_experts)[:, layers].swapaxes(0, 1)  # (layers, tokens, top_k)
    tokens = token_ids + list(output.token_ids)[:-1]
    return RoutingTrace(
        np.array(tokens), pieces(tokenizer, tokens), len(token_ids), tuple(layers), ids, None, None,
        config.num_experts, about,
    )  # fmt: skip


@contextlib.contextmanager
def recording(modules):
    """Outputs of every call of the modules, in lists under the same keys, while the block runs."""
    outputs: dict[Hashable, list] = {key: [] for key in modules}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, key=key: outputs[key].append(output))
        for key, module in modules.items()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _hook_vllm(model):
    # The names end in "layers.3.mlp.gate".
    gates = {int(n.split(".")[-3]): module for n, module in model.named_modules() if n.endswith(".mlp.gate")}
    model.routing = {layer: [] for layer in gates}
    model.routing_hooks = [
        gate.register_forward_hook(
            lambda gate, inputs, output, rows=model.routing[layer]: rows.append(output[0].clone())
        )
        for layer, gate in gates.items()
    ]


def _unhook_vllm(model):
    import torch

    for hook in model.routing_hooks:
        hook.remove()
    rows = {layer: torch.cat(steps) for layer, steps in model.routing.items() if steps}
    del model.routing, model.routing_hooks
    return rows


def _routed(router_logits, top_k, norm_topk_prob):
    """Weights and ids, (tokens, top_k), and the entropy of the softmax over all experts, (tokens,)."""
    import torch

    from helpers.qwen import route

    weights, ids = route(router_logits, top_k, norm_topk_prob)
    return weights, ids, torch.special.entr(router_logits.float().softmax(-1)).sum(-1)


def _trace(tokenizer, token_ids, prompt_length, routed, num_experts, provenance):
    weights, ids, entropy = (
        np.stack([np.asarray(layer.cpu()) for layer in kind]) for kind in zip(*routed.values(), strict=True)
    )
    return RoutingTrace(
        token_ids=np.array(token_ids, np.int32),
        pieces=pieces(tokenizer, token_ids),
        prompt_length=prompt_length,
        layers=tuple(routed),
        expert_ids=ids.astype(np.uint8 if num_experts <= 256 else np.uint16),
        weights=weights.astype(np.float16),
        entropy=entropy.clip(0).astype(np.float16),
        num_experts=num_experts,
        provenance=provenance,
    )


def _token_ids(tokenizer, prompt):
    token_ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not token_ids:
        raise CourseError("提示词是空的：请至少写一个字。", "The prompt is empty: write at least one character.")
    return token_ids


def require_experts(layers):
    if not layers:
        raise CourseError(
            "这个模型没有专家：请换成混合专家模型，如自带的 qwen3-moe-tiny 或 Qwen3-30B-A3B。",
            "This model has no experts: take a mixture of experts, such as qwen3-moe-tiny or Qwen3-30B-A3B.",
        )


def _provenance(tokenizer, captured_with, dtype, trained):
    return {
        "model": Path(tokenizer.name_or_path).name,
        "captured_with": captured_with,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": "trained" if trained else "random",
        "date": date.today().isoformat(),
    }


# ---------------------------------------------------------------------------------------------- the recorded traces


def recorded_path(model: str) -> Path:
    """Where the recorded conversation of a model lies: a bundled name, a hub id or a folder."""
    name = Path(model).name
    if (models.BUNDLED / name).is_dir():
        return ROOT / "assets" / "traces" / f"routing-{name}.npz"
    return ROOT / "assets" / "recorded" / name / "routing.npz"


def record(model: str, questions=QUESTIONS, output: Path | None = None, max_new_tokens=256) -> Path:
    """Record a conversation with ``model`` (as :func:`helpers.models.find_checkpoint` takes it); returns the file.

    A bundled model runs in float32, any other in the dtype of its files, on the GPU if there is one.
    """
    import torch
    from transformers import AutoTokenizer

    from helpers.qwen import load_model

    folder = models.find_checkpoint(model)
    output = Path(output or recorded_path(model))
    dtype = torch.float32 if models.is_bundled(folder) else None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trace = capture_conversation(load_model(folder, dtype), tokenizer, questions, max_new_tokens)
    output.parent.mkdir(parents=True, exist_ok=True)
    # A hub's cache calls the folder "master", so the name comes from what the user typed.
    replace(trace, provenance=trace.provenance | {"model": Path(model).name}).save(output)
    return output


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m helpers.routing", description="Record the routing of a model.")
    parser.add_argument("model", nargs="?", default=models.DEFAULTS[models.MOE_VARIABLE], help="folder, hub id or name")
    parser.add_argument("--questions", nargs="+", default=QUESTIONS, help="asked one after the other")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of each answer, its thinking included")
    parser.add_argument("--output", type=Path, help="an .npz file; default: in assets, where lesson 04 finds it")
    options = parser.parse_args(arguments)
    try:
        path = record(options.model, options.questions, options.output, options.max_new_tokens)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    trace = RoutingTrace.load(path)
    layers, tokens, size = len(trace.layers), len(trace.token_ids), f"{path.stat().st_size / 1e3:.0f} kB"
    zh, en = f"{layers} 层，{tokens} 个词元，{size}", f"{layers} layers, {tokens} tokens, {size}"
    print(say(f"{path}：{zh}", f"{path}: {en}"))
    return 0
