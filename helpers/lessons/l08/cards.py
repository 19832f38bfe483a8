"""Lesson 08, exercise 3: how many requests fit a card, or several."""

import math
from functools import partial

from helpers import GIB, catalogue
from helpers.check import Exercise


def kv_heads(config, tp):
    return max(1, config["num_key_value_heads"] // tp)


def requests_that_fit(config, weights, memory, tp, context, *, heads=kv_heads, share=True, both=2, whole=int, least=0):
    per_token = both * config["num_hidden_layers"] * heads(config, tp) * config["head_dim"] * 2
    return max(least, whole((memory - weights / (tp if share else 1)) / (context * per_token)))


CASES = (
    ("8B", 22e9, 1, 1024),
    ("32B", 22e9, 4, 1024),
    ("235B-A22B", 75e9, 8, 4096),
    ("8B", 1e9, 1, 64),
    ("8B", 75e9, 4, 4096),
)
DOWN = "半个请求不算：向下取整。", "half a request does not count: round down."
WHOLE = "请求数是整数：int(...)。", "requests are a whole number: int(...)."
HEADS = "KV 头也分给各张卡：除以 tp。", "the KV heads are shared out too: divide by tp."

ex3 = Exercise(
    right=requests_that_fit,
    cases={
        f"Qwen3-{size}, memory={memory:g}, tp={tp}, context={context}": (
            config := catalogue.CATALOGUE[f"Qwen/Qwen3-{size}"].config,
            catalogue.weight_bytes(config), memory, tp, context,
        )
        for size, memory, tp, context in CASES
    },
    same=lambda given, wanted: given == wanted and isinstance(given, int) == isinstance(wanted, int),
    start=("每张卡上：剩下的字节除以一个请求的 KV 缓存，取整。",
           "on each card: the bytes left divided by the KV cache of one request, rounded down."),
    mistakes=[
        *[(partial(requests_that_fit, least=-math.inf, whole=whole), "权重都放不下时返回 0，不是负数。",
           "return 0, not a negative number, where the weights do not fit.") for whole in (int, math.floor)],
        (lambda config, weights, memory, tp, context: requests_that_fit(config, weights, memory, tp, 1),
         "这是词元数；一个请求有 context 个词元，再除以 context。",
         "these are tokens; a request has context of them: divide by context."),
        (lambda config, weights, memory, *rest: requests_that_fit(
            config, weights, 0.92 * memory - 1.5 * GIB, *rest),
         "memory 已经是可用的字节数：不要再取 92%，也不要再减 1.5 GiB。",
         "memory is what is usable already: do not take 92% of it, or 1.5 GiB off."),
        (lambda config, weights, memory, tp, context: requests_that_fit(config, weights, memory, 1, context),
         "memory 是每张卡的，不是几张卡一共的：权重和 KV 头要除以 tp，memory 不除。",
         "memory is that of each card, not of all together: divide weights and KV heads by tp, but not memory."),
        (lambda config, weights, memory, tp, context: requests_that_fit(config, weights, tp * memory, tp, context),
         "memory 是每张卡的，别的也都按一张卡算：memory 不要乘 tp。",
         "memory is that of each card, and so is all the rest: do not multiply it by tp."),
        (lambda *case: case[3] * requests_that_fit(*case), "每个请求都用到全部的卡：不要再乘 tp。",
         "every request uses all the cards: do not multiply by tp."),
        (partial(requests_that_fit, whole=float), *DOWN),
        (partial(requests_that_fit, whole=round), *DOWN),
        (partial(requests_that_fit, whole=math.ceil), *DOWN),
        (partial(requests_that_fit, whole=lambda count: float(int(count))), *WHOLE),
        (partial(requests_that_fit, whole=lambda count: float(int(count)), least=0.0), *WHOLE),
        (partial(requests_that_fit, heads=lambda config, tp: config["num_key_value_heads"]), *HEADS),
        *[(partial(requests_that_fit, heads=heads), "头不能再切：每张卡至少存 1 个，max(1, ...)。",
           "a head is not cut: each card stores at least 1, max(1, ...).") for heads in (
            lambda config, tp: config["num_key_value_heads"] / tp,
            lambda config, tp: config["num_key_value_heads"] // tp)],
        (partial(requests_that_fit, heads=lambda config, tp: max(1, config["num_attention_heads"] // tp)),
         "存的是键和值的头：num_key_value_heads，不是 num_attention_heads。",
         "what is stored are heads of keys and values: num_key_value_heads, not num_attention_heads."),
        (lambda config, *rest: requests_that_fit(
            config | {"head_dim": config["hidden_size"] // config["num_attention_heads"]}, *rest),
         "一个头有几个数，看 head_dim：在 Qwen3 里，它不一定是 hidden_size 除以头数。",
         "how many numbers a head has is head_dim: in Qwen3 it need not be hidden_size over heads."),
        (lambda config, weights, *rest: requests_that_fit(config, 0, *rest),
         "先减去权重，剩下的才是 KV 缓存的。", "take off the weights first: what is left is for the KV cache."),
        (lambda config, *rest: requests_that_fit(config | {"num_hidden_layers": 1}, *rest),
         "每一层都要存：乘上 num_hidden_layers。", "every layer stores its own: multiply by num_hidden_layers."),
        (partial(requests_that_fit, share=False), "权重也分给各张卡：除以 tp。",
         "the weights are shared out too: divide by tp."),
        (partial(requests_that_fit, both=1), "少了一半：键和值都要存，每个数 2 字节。",
         "half is missing: keys and values, 2 bytes a number."),
    ],
)  # fmt: skip
