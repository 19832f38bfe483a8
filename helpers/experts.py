"""A model of ``helpers/qwen.py`` without one of its experts."""

import contextlib

from helpers import CourseError


@contextlib.contextmanager
def expert_off(model, layer: int, expert: int):
    """Take one expert of a model of ``helpers/qwen.py`` out of the router's choice while the block runs.

    The tokens that it would get go to the next best expert. CourseError if the model has no such expert.
    """
    from helpers.capture import require_experts
    from helpers.qwen import route

    config = model.config
    if not (0 <= layer < len(model.layers) and 0 <= expert < config.num_experts):
        raise CourseError(
            f"没有第 {layer} 层的专家 {expert}：层从 0 到 {len(model.layers) - 1}，"
            f"专家从 0 到 {config.num_experts - 1}。",
            f"There is no expert {expert} in layer {layer}: layers go from 0 to {len(model.layers) - 1}, "
            f"experts from 0 to {config.num_experts - 1}.",
        )
    mlp = model.layers[layer].mlp
    require_experts(hasattr(mlp, "router"))

    def without(module, inputs, output):
        router_logits = output[2].index_fill(-1, output[2].new_tensor([expert], dtype=int), float("-inf"))
        return *route(router_logits, config.num_experts_per_tok, config.norm_topk_prob), router_logits

    hook = mlp.router.register_forward_hook(without)
    try:
        yield
    finally:
        hook.remove()
