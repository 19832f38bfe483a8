"""Lesson 04: what enters the experts of a layer."""


def entering(model, layer, input_ids):
    """The hidden states that enter the mixture of experts of a layer, (batch, seq, hidden), as it reads a text."""
    seen = []
    hook = model.layers[layer].mlp.register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    model(input_ids)
    hook.remove()
    return seen[0]
