"""Captures the routing of a text in vLLM, on a CPU by hooks and on a GPU as the engine reports it."""

import numpy as np

from helpers import CourseError
from helpers.capture import prompt_ids, provenance_of, require_experts, trace_of
from helpers.routing import RoutingTrace
from helpers.tokens import pieces


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
    token_ids = prompt_ids(tokenizer, prompt)
    llm.apply_model(_hook_vllm)
    try:
        answer = _generate_vllm(llm, token_ids, max_new_tokens)
    finally:
        logits = llm.apply_model(_unhook_vllm)[0]
    require_experts(logits)
    captured_with = f"vLLM {vllm.__version__} ({'CPU' if on_cpu() else 'GPU'})"
    about = provenance_of(tokenizer, captured_with, settings.model_config.dtype, True)
    return trace_of(tokenizer, token_ids + list(answer.token_ids)[:-1], len(token_ids), logits, config, about)


def capture_vllm_gpu(llm, prompt, max_new_tokens=0) -> RoutingTrace:
    """Routing in vLLM on a GPU, as the engine itself reports it: expert ids without weights. Not run here.

    llm: ``open_engine(folder, enable_return_routed_experts=True)``. Raises CourseError without that option. Source:
    ``CompletionOutput.routed_experts`` in vLLM 0.32, (tokens, all layers, top_k); dense layers are left out here.
    """
    import vllm

    tokenizer, settings = llm.get_tokenizer(), llm.llm_engine.vllm_config.model_config
    token_ids = prompt_ids(tokenizer, prompt)
    answer = _generate_vllm(llm, token_ids, max_new_tokens)
    if getattr(answer, "routed_experts", None) is None:
        raise CourseError(
            "引擎没有返回专家编号：请在 GPU 上用 enable_return_routed_experts=True 重新打开它。",
            "The engine returned no expert ids: open it on a GPU with enable_return_routed_experts=True.",
        )
    config = settings.hf_config
    step, dense = config.decoder_sparse_step, config.mlp_only_layers
    layers = [i for i in range(config.num_hidden_layers) if (i + 1) % step == 0 and i not in dense]
    require_experts(layers)
    about = provenance_of(tokenizer, f"vLLM {vllm.__version__} (GPU)", settings.dtype, True)
    ids = np.asarray(answer.routed_experts)[:, layers].swapaxes(0, 1)  # (layers, tokens, top_k)
    tokens = token_ids + list(answer.token_ids)[:-1]
    return RoutingTrace(
        np.array(tokens), pieces(tokenizer, tokens), len(token_ids), tuple(layers), ids, None, None,
        config.num_experts, about,
    )  # fmt: skip


def _generate_vllm(llm, token_ids, max_new_tokens):
    """vLLM writes at least one token; the last one is not fed back, so with 1 exactly the prompt is routed."""
    import vllm

    sampling = vllm.SamplingParams(temperature=0, max_tokens=max(1, max_new_tokens))
    return llm.generate({"prompt_token_ids": token_ids}, sampling, use_tqdm=False)[0].outputs[0]


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
