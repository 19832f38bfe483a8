"""Captures the routing of a text in a model of ``helpers/qwen.py`` or of transformers; vllm_routing.py does in vLLM."""

import contextlib
from collections.abc import Hashable
from datetime import date
from pathlib import Path

import numpy as np

from helpers import CourseError
from helpers.routing import RoutingTrace
from helpers.tokens import pieces


def capture_reference(model, tokenizer, prompt, max_new_tokens=0, trained=True) -> RoutingTrace:
    """Routing in a model of ``helpers/qwen.py``, of ``prompt`` and of the greedy answer to it.

    tokenizer: a transformers tokenizer. prompt: a string, in which a chat template is already applied, or token ids.
    max_new_tokens: 0 routes the prompt alone. trained: False marks weights that are random.
    """
    import torch

    routers = {layer: block.mlp.router for layer, block in enumerate(model.layers) if hasattr(block.mlp, "router")}
    require_experts(routers)
    token_ids = prompt_ids(tokenizer, prompt)
    input_ids = torch.tensor([token_ids], device=model.embed_tokens.weight.device)
    with torch.inference_mode(), recording(routers) as outputs:
        if max_new_tokens:
            input_ids = model.generate(input_ids, max_new_tokens=max_new_tokens)[:, :-1]
        else:
            model.last_hidden_states(input_ids)
    logits = {layer: torch.cat([logits for _, _, logits in steps]) for layer, steps in outputs.items()}
    dtype = model.embed_tokens.weight.dtype
    about = provenance_of(tokenizer, f"helpers/qwen.py, torch {torch.__version__}", dtype, trained)
    return trace_of(tokenizer, input_ids[0].tolist(), len(token_ids), logits, model.config, about)


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
    token_ids = prompt_ids(tokenizer, prompt)
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
    logits = {}
    for layer, steps in outputs.items():
        rows = torch.cat([step[0] if isinstance(step, tuple) else step for step in steps])  # (tokens, num_experts)
        if (rows >= 0).all() and (rows.sum(-1) - 1).abs().max() < 0.05:
            rows = rows.float().log()  # some releases of 5.x return probabilities under this name
        logits[layer] = rows
        weights, ids, _ = _routed(rows, config.num_experts_per_tok, config.norm_topk_prob)
        if isinstance(steps[0], tuple):
            used_weights, used_ids = (torch.cat([step[place] for step in steps]) for place in (1, 2))
            close = torch.allclose(weights.to(used_weights.dtype), used_weights, atol=1e-2)
            agrees = close and torch.equal(ids, used_ids)
        else:
            load = [sum(len(out) for out in expert_outputs[layer, expert]) for expert in range(config.num_experts)]
            agrees = load == ids.flatten().bincount(minlength=config.num_experts).tolist()
        if not agrees:
            raise RuntimeError(f"layer {layer}: the block of transformers {transformers.__version__} routes otherwise")
    about = provenance_of(tokenizer, f"transformers {transformers.__version__}", model.dtype, trained)
    return trace_of(tokenizer, input_ids[0].tolist(), len(token_ids), logits, config, about)


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


def _routed(router_logits, top_k, norm_topk_prob):
    """Weights and ids, (tokens, top_k), and the entropy of the softmax over all experts, (tokens,)."""
    import torch

    from helpers.qwen import route

    weights, ids = route(router_logits, top_k, norm_topk_prob)
    return weights, ids, torch.special.entr(router_logits.float().softmax(-1)).sum(-1)


def trace_of(tokenizer, token_ids, prompt_length, logits, config, provenance):
    """logits: of each layer's router, (tokens, num_experts)."""
    routed = [_routed(rows, config.num_experts_per_tok, config.norm_topk_prob) for rows in logits.values()]
    weights, ids, entropy = (
        np.stack([np.asarray(layer.cpu()) for layer in kind]) for kind in zip(*routed, strict=True)
    )
    return RoutingTrace(
        token_ids=np.array(token_ids, np.int32),
        pieces=pieces(tokenizer, token_ids),
        prompt_length=prompt_length,
        layers=tuple(logits),
        expert_ids=ids.astype(np.uint8 if config.num_experts <= 256 else np.uint16),
        weights=weights.astype(np.float16),
        entropy=entropy.clip(0).astype(np.float16),
        num_experts=config.num_experts,
        provenance=provenance,
    )


def prompt_ids(tokenizer, prompt):
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


def provenance_of(tokenizer, captured_with, dtype, trained):
    return {
        "model": Path(tokenizer.name_or_path).name,
        "captured_with": captured_with,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": "trained" if trained else "random",
        "date": date.today().isoformat(),
    }
