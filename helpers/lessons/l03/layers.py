"""Another attention in the layers of a ready model of transformers."""

import copy


def split_heads(states, head_dim):
    """(batch, seq, heads * head_dim) -> (batch, heads, seq, head_dim)"""
    return states.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def join_heads(states):
    """(batch, heads, seq, head_dim) -> (batch, seq, heads * head_dim)"""
    return states.transpose(1, 2).flatten(2)


def with_attention(model, in_layer):
    """A copy of a Qwen3ForCausalLM in which ``in_layer(trained, hidden_states, cos, sin)`` is the attention of every
    layer; ``trained`` is the one that was there, with its matrices and norms."""
    from torch import nn

    class Replaced(nn.Module):
        def __init__(self, trained):
            super().__init__()
            self.trained = trained

        def forward(self, hidden_states, position_embeddings, **others):
            cos, sin = (table[:, None] for table in position_embeddings)  # (batch, 1, seq, head_dim)
            return in_layer(self.trained, hidden_states, cos, sin), None

    changed = copy.deepcopy(model)
    for layer in changed.model.layers:
        layer.self_attn = Replaced(layer.self_attn)
    return changed
