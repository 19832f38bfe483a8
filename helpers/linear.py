"""Matrix products that are fast on a CPU in bfloat16 too; everywhere else they are torch's own."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

CPU_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def linear(hidden_states, weight, bias=None):
    """`F.linear`, with a faster way for bfloat16 on a CPU (benchmarks/architecture.py).

    Without bfloat16 instructions torch reads the whole weight once per row, so from a few rows on it pays to convert to
    float32 first. With them torch calls oneDNN, which reads a matrix for a single row, as in decoding, at about half
    the speed of torch's own kernel.
    """
    rows = hidden_states.numel() // hidden_states.shape[-1]
    if weight.dtype != torch.bfloat16 or weight.is_cuda:
        return F.linear(hidden_states, weight, bias)
    if CPU_HAS_BFLOAT16 and rows == 1:
        with without_onednn():
            return F.linear(hidden_states, weight, bias)
    if not CPU_HAS_BFLOAT16 and rows >= 4:
        bias = bias if bias is None else bias.float()
        return F.linear(hidden_states.float(), weight.float(), bias).bfloat16()
    return F.linear(hidden_states, weight, bias)


@contextmanager
def without_onednn():
    before, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


class Linear(nn.Linear):
    def forward(self, hidden_states):
        return linear(hidden_states, self.weight, self.bias)
