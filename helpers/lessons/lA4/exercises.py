"""Appendix A4: QK-norm in the right place, the size of the KV cache."""

from functools import partial
from itertools import product

from helpers import catalogue
from helpers.check import Exercise
from helpers.lessons.qk_order import hint_of

CONFIGS = {size: catalogue.CATALOGUE[f"Qwen/Qwen3-{size}"].config for size in ("8B", "0.6B", "30B-A3B")}


# ---------------------------------------------------------------------------------------------- exercise 1


def walk(x, norm, cos, sin, steps="nr"):
    """n: norm, r: rotate."""
    from helpers.qwen import apply_rope

    for step in steps:
        x = norm(x) if step == "n" else apply_rope(x, cos, sin)
    return x


def prepare(query, key, q_norm, k_norm, cos, sin, of_query="nr", of_key="nr"):
    return walk(query, q_norm, cos, sin, of_query), walk(key, k_norm, cos, sin, of_key)


def all_heads(norm):
    """One norm over the heads of a token together, with the weight of a head."""

    def normed(x):
        import torch.nn.functional as F

        weight = norm.weight.repeat(x.shape[2])
        return F.rms_norm(x.flatten(2), weight.shape, weight, 1e-6).unflatten(2, x.shape[2:])

    return normed


def prepare_cases():
    import torch

    from helpers.qwen import RMSNorm, rope_frequencies, rope_tables

    generator = torch.Generator().manual_seed(0)
    norms = RMSNorm(8, 1e-6), RMSNorm(8, 1e-6)
    for norm in norms:
        norm.weight = torch.nn.Parameter(torch.rand(8, generator=generator) + 0.5, requires_grad=False)
    cases = {}
    for seq, heads, kv_heads in ((5, 6, 2), (4, 4, 1)):  # with 4 and 4, a transposed query still fits cos and sin
        query, key = (torch.randn(1, seq, n, 8, generator=generator) for n in (heads, kv_heads))
        tables = rope_tables(torch.arange(seq)[None], rope_frequencies(8, 1e4))  # each (batch, 1, seq, head_dim)
        cases[f"query {tuple(query.shape)}"] = query, key, *norms, *(table.transpose(1, 2) for table in tables)
    return cases


def turned(query, key, *rest):
    return prepare(query.transpose(1, 2), key.transpose(1, 2), *rest)


def repeated(*case):
    query, key = prepare(*case)
    return query, key.repeat_interleave(query.shape[2] // key.shape[2], dim=2)


def scaled(*case):
    query, key = prepare(*case)
    return query / query.shape[-1] ** 0.5, key


NOT_TURNED = ("形状已经对得上 cos 和 sin：不要转置。", "the shapes fit cos and sin as they are: do not transpose.")
OWN_NORM = "query 要用 q_norm。", "query takes q_norm."
EACH_HEAD = ("每个头各自归一化，只在最后一维上，不是把所有的头放在一起。",
             "each head is normed by itself, over the last dimension alone, not all heads together.")  # fmt: skip

ex1 = Exercise(
    right=prepare,
    cases=prepare_cases,
    start=("两个向量各走两步：归一化和旋转。想一想哪一步在前。",
           "query and key each take two steps, a norm and a rotation: which first?"),
    mistakes=[
        *[
            (
                partial(prepare, of_query=of_query, of_key=of_key),
                *(hint_of("query", of_query) if of_query != "nr" else hint_of("key", of_key)),
            )
            for of_query, of_key in product(("nr", "rn", "r", "n", ""), repeat=2)
            if (of_query, of_key) != ("nr", "nr")
        ],
        (lambda q, k, q_norm, k_norm, *t: prepare(q, k, q_norm, q_norm, *t), "key 要用 k_norm。", "key takes k_norm."),
        (lambda q, k, q_norm, k_norm, *t: prepare(q, k, k_norm, k_norm, *t), *OWN_NORM),
        (lambda q, k, q_norm, k_norm, *t: prepare(q, k, k_norm, q_norm, *t), *OWN_NORM),
        (lambda q, k, q_norm, k_norm, *t: prepare(q, k, all_heads(q_norm), k_norm, *t), *EACH_HEAD),
        (lambda q, k, q_norm, k_norm, *t: prepare(q, k, all_heads(q_norm), all_heads(k_norm), *t), *EACH_HEAD),
        (partial(prepare, of_query="nrn", of_key="nrn"), "归一化了两次：归一化一次，再旋转。",
         "this norms twice: norm once, then rotate."),
        (lambda q, k, q_norm, k_norm, cos, sin: prepare(q, k, q_norm, k_norm, sin, cos),
         "cos 和 sin 的次序反了：apply_rope(x, cos, sin)。",
         "cos and sin have changed places: apply_rope(x, cos, sin)."),
        (lambda *case: prepare(*case)[::-1], "次序反了：先 query，后 key。",
         "the order is the other way round: query first, then key."),
        (turned, *NOT_TURNED),
        (lambda *case: tuple(x.transpose(1, 2) for x in turned(*case)), *NOT_TURNED),
        (scaled, "除以 head_dim 的平方根是点积的事，这里还没有到。",
         "the division by the root of head_dim belongs to the dot product, which comes later."),
        (repeated, "KV 头不用重复：那是点积的事。", "the KV heads are not repeated here: the dot product does that."),
        (lambda *case: prepare(*case)[0], "应该返回两个张量：return query, key。",
         "two tensors are wanted: return query, key."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def kv_bytes(
    config, both=2, heads="num_key_value_heads", head_dim=catalogue.head_dim, layers="num_hidden_layers", size=2
):
    return both * config.get(layers, 1) * config[heads] * head_dim(config) * size


HALF = ("只有一半：键和值都要存，每个数 2 字节。",
        "this is half: keys and values are both stored, with 2 bytes a number.")  # fmt: skip

ex2 = Exercise(
    right=catalogue.kv_bytes_per_token,
    cases={f"Qwen3-{size}": (config,) for size, config in CONFIGS.items()},
    start=("每层、每个 KV 头都要存一个键和一个值，各 head_dim 个数，每个数 2 字节。",
           "each layer and KV head stores a key and a value of head_dim numbers, 2 bytes each."),
    mistakes=[
        (partial(kv_bytes, head_dim=lambda config: config["hidden_size"] // config["num_attention_heads"]),
         "8B 碰巧对了，0.6B 就不对：head_dim 要直接读，不能用 hidden_size / heads 算。",
         "right for 8B by luck, wrong for 0.6B: read head_dim, it is not hidden_size / heads."),
        (partial(kv_bytes, both=1), *HALF),
        (partial(kv_bytes, both=1, size=1), "还要乘两样：键和值各一份，每个数 2 字节。",
         "two factors are missing: keys and values are both stored, with 2 bytes a number."),
        (partial(kv_bytes, size=16), "要的是字节数，不是位数：每个数 2 字节。",
         "bytes are wanted, not bits: 2 bytes a number."),
        (partial(kv_bytes, head_dim=lambda config: config["hidden_size"]),
         "一个 KV 头的宽度是 head_dim，不是 hidden_size。", "a KV head is head_dim wide, not hidden_size."),
        (lambda config: kv_bytes(config) * 40960, "这是 40,960 个词元占的字节数；要返回的是一个词元占的。",
         "these are the bytes of 40,960 tokens; return those of one token."),
        (partial(kv_bytes, heads="num_attention_heads"), "缓存里只有 KV 头，不是全部注意力头。",
         "the cache holds the KV heads, not all attention heads."),
        (partial(kv_bytes, layers="one layer"), "这只是一层的：还要乘层数。", "this is one layer: times the layers."),
        (partial(kv_bytes, size=4), "每个数占 2 字节（bf16），不是 4 字节。", "a number takes 2 bytes (bf16), not 4."),
        (lambda config: kv_bytes(config) / 1024, "要的是字节数：不用除以 1024。",
         "bytes are wanted: do not divide by 1024."),
        (lambda config: kv_bytes(config) * 40960 / 2**30, "这是 40,960 个词元占的 GiB；要返回的是一个词元占的字节数。",
         "these are the GiB of 40,960 tokens; return the bytes of one token."),
        (lambda config: 4 * config["num_hidden_layers"] * config["hidden_size"],
         "键的宽度是 num_key_value_heads × head_dim，不是 hidden_size。",
         "keys are num_key_value_heads × head_dim wide, not hidden_size."),
    ],
)  # fmt: skip
