"""Lesson 03: RMSNorm, and attention as Qwen3 does it."""

from functools import partial
from itertools import product

from helpers.check import Exercise
from helpers.difference import alike
from helpers.lessons.qk_order import hint_of

# ---------------------------------------------------------------------------------------------- exercise 1


def mean_square(x):
    return x.pow(2).mean(-1, keepdim=True)


def variance(x, correction=0):
    return x.var(-1, keepdim=True, correction=correction)


def inside(square, eps):
    return (square + eps).sqrt()


def outside(square, eps):
    return square.sqrt() + eps


def rms_norm(x, weight, eps, square=mean_square, root=inside, center=False):
    return weight * (x - x.mean(-1, keepdim=True) if center else x) / root(square(x), eps)


def rms_norm_cases():
    import torch

    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 4, 8, generator=generator) + 1  # a mean far from 0, so that subtracting it shows
    tiny = 1e-4 * torch.randn(8, 8, generator=generator)  # so that eps is large; a square hides a lost dimension
    weight = torch.rand(8, generator=generator) + 0.5
    return {"x (2, 4, 8)": (x, weight, 1e-6), "x (8, 8)": (tiny, weight, 1e-6)}


def right_norm(x, weight, eps):
    import torch.nn.functional as F

    return F.rms_norm(x, weight.shape, weight, eps)


LAYER_NORM = "这是 LayerNorm：RMSNorm 不减平均值。", "this is LayerNorm: RMSNorm does not subtract the mean."
DEVIATION = (
    "除的是标准差；应该除以均方根，不减平均值。",
    "this divides by the standard deviation; divide by the root mean square, without subtracting the mean.",
)
LAST = "平均只取最后一维：dim=-1, keepdim=True。", "the mean is over the last dimension: dim=-1, keepdim=True."
EPS = "eps 要加在平方的平均上，在开方之前。", "eps is added to the mean of the squares, before the root."
SUM = "除的是平方和的根；应该先取平均。", "this divides by the root of the sum of squares; take the mean."

ex1 = Exercise(
    right=right_norm,
    cases=rms_norm_cases,
    start=("先求最后一维上平方的平均，加 eps，开方；x 除以它，再乘 weight。",
           "mean of the squares over the last dimension, plus eps, the root of it; divide x by that, times weight."),
    mistakes=[
        *[
            (partial(rms_norm, square=square, root=root, center=True), *LAYER_NORM)
            for square, root in ((variance, inside), (variance, outside), (mean_square, inside))
        ],
        *[
            (partial(rms_norm, square=partial(variance, correction=correction), root=root, center=center), *DEVIATION)
            for correction, root, center in product((0, 1), (inside, outside, lambda v, eps: v.sqrt()), (False, True))
            if correction or not center
        ],
        (lambda x, weight, eps: rms_norm(x, 1, eps), "还差最后一步：乘上 weight。",
         "one step is missing: the multiplication by weight."),
        *[
            (partial(rms_norm, square=lambda x: x.pow(2).sum(-1, keepdim=True), root=root), *SUM)
            for root in (inside, outside)
        ],
        (partial(rms_norm, square=lambda x: x.mean(-1, keepdim=True).pow(2)), "先平方，再求平均；次序反了。",
         "square first and take the mean then; this is the other way round."),
        (partial(rms_norm, square=lambda x: x.pow(2)), "还差求平均。", "the mean is missing."),
        (lambda x, weight, eps: weight * x * inside(mean_square(x), eps), "要除以均方根，不是乘。",
         "divide by the root mean square, do not multiply."),
        (partial(rms_norm, square=lambda x: x.pow(2).mean()), *LAST),
        (partial(rms_norm, square=lambda x: x.pow(2).mean(0, keepdim=True)), *LAST),
        (partial(rms_norm, square=lambda x: x.pow(2).mean(1, keepdim=True)), *LAST),
        (partial(rms_norm, square=lambda x: x.pow(2).mean(-1)), *LAST),
        (partial(rms_norm, root=outside), *EPS),
        (partial(rms_norm, root=lambda square, eps: square.sqrt()), *EPS),
        (partial(rms_norm, root=lambda square, eps: square + eps), "还差开方：除以平方的平均的根。",
         "the root is missing: divide by the root of the mean of the squares."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2

# What an answer below may do otherwise than the right one.


def prepared(x, norm, cos, sin, steps="nr"):
    """n: norm, r: rotate."""
    from helpers.qwen import apply_rope

    for step in steps:
        x = norm(x) if step == "n" else apply_rope(x, cos, sin)
    return x


def each_group(x, group):
    return x.repeat_interleave(group, dim=1)


def whole_again(x, group):
    return x.repeat(1, group, 1, 1)


def by_root(head_dim):
    return head_dim**0.5


def hidden(scores, diagonal=1, fill=float("-inf"), past=None):
    """The scores with the future, or with the past up to this diagonal, overwritten."""
    square = scores.new_ones(scores.shape[-2:], dtype=bool)
    return scores.masked_fill(square.triu(diagonal) if past is None else square.tril(past), fill)


def softmax(scores, dim=-1):
    return scores.softmax(dim)


def over_keys(weights, key, value):
    return weights @ value


def attention(
    query, key, value, q_norm, k_norm, cos, sin, of_query="nr", of_key="nr", of_value="", share=each_group,
    scale=by_root, mask=hidden, weigh=softmax, result=over_keys,
):  # fmt: skip
    query, key = prepared(query, q_norm, cos, sin, of_query), prepared(key, k_norm, cos, sin, of_key)
    value = prepared(value, k_norm, cos, sin, of_value)
    group = query.shape[1] // key.shape[1]
    key, value = share(key, group), share(value, group)
    weights = weigh(mask(query @ key.mT / scale(query.shape[-1])))  # (batch, heads, seq, seq)
    return result(weights, key, value)  # (batch, heads, seq, head_dim)


def scaled_by_shape(query, key, value, q_norm, k_norm, cos, sin, of):
    """By the root of another size than head_dim."""
    return attention(query, key, value, q_norm, k_norm, cos, sin, scale=lambda head_dim: query.shape[of] ** 0.5)


def attention_cases():
    import torch

    from helpers.qwen import RMSNorm, rope_frequencies, rope_tables

    generator = torch.Generator().manual_seed(0)
    norms = RMSNorm(8, 1e-6), RMSNorm(8, 1e-6)
    for norm in norms:
        norm.weight = torch.nn.Parameter(torch.rand(8, generator=generator) + 0.5, requires_grad=False)
    cases = {}
    for seq, heads, kv_heads in ((5, 6, 2), (4, 4, 1)):
        query, key, value = (torch.randn(1, n, seq, 8, generator=generator) for n in (heads, kv_heads, kv_heads))
        tables = rope_tables(torch.arange(seq)[None], rope_frequencies(8, 1e4))  # each (batch, 1, seq, head_dim)
        cases[f"query {tuple(query.shape)}"] = query, key, value, *norms, *tables
    return cases


def norms_swapped(query, key, value, q_norm, k_norm, *tables, of_query=True, of_key=True):
    norms = k_norm if of_query else q_norm, q_norm if of_key else k_norm
    return attention(query, key, value, *norms, *tables)


def wiped(scores):
    """The future as 0 after the softmax: the rest does not add up to 1."""
    return scores.softmax(-1).tril()


def alike_with_nan(given, wanted) -> bool:
    """As the engine compares, but a row of nothing, which is NaN, is like another."""
    return alike(*(x.nan_to_num(nan=1e9) if hasattr(x, "nan_to_num") else x for x in (given, wanted)))


OWN_NORM = "query 用 q_norm，key 用 k_norm。", "query takes q_norm, key takes k_norm."
ROW = (
    "softmax 要在每一行里做，也就是最后一维：一行是一个词元对前面各词元的分数。",
    "the softmax runs along each row, the last dimension: a row holds one token's scores of those before it.",
)
VALUE = (
    "value 不归一化，也不旋转：只有点积的两方需要。",
    "value is neither normed nor rotated: only the two sides of the product are.",
)
SCALE = "分数要除以 head_dim 的平方根。", "the scores are divided by the root of head_dim."

ex2 = Exercise(
    right=attention,
    cases=attention_cases,
    same=alike_with_nan,
    start=("先把 query 和 key 归一化、旋转；再把 key 和 value 的头补齐；然后打分、缩放、掩码、softmax、取值。",
           "norm, rotate query and key; repeat the heads of key and value; then score, scale, mask, softmax, fetch."),
    mistakes=[
        *[
            (
                partial(attention, of_query=of_query, of_key=of_key),
                *(hint_of("query", of_query) if of_query != "nr" else hint_of("key", of_key)),
            )
            for of_query, of_key in product(("nr", "rn", "r", "n", ""), repeat=2)
            if (of_query, of_key) != ("nr", "nr")
        ],
        (norms_swapped, *OWN_NORM),
        (partial(norms_swapped, of_key=False), *OWN_NORM),
        (partial(norms_swapped, of_query=False), *OWN_NORM),
        *[(partial(attention, of_value=steps), *VALUE) for steps in ("n", "r", "nr")],
        (partial(attention, share=whole_again),
         "头的次序不对：一组查询头是相邻的几个。repeat 得到 0 1 0 1，repeat_interleave 得到 0 0 1 1。",
         "the heads are in the wrong order: a group is neighbouring query heads. repeat gives 0 1 0 1, "
         "repeat_interleave gives 0 0 1 1."),
        (partial(attention, scale=lambda head_dim: 1), *SCALE),
        (partial(attention, scale=lambda head_dim: head_dim), *SCALE),
        (partial(attention, scale=lambda head_dim: 2**0.5), *SCALE),
        *[(partial(scaled_by_shape, of=of), *SCALE) for of in (1, 2)],
        (partial(attention, mask=lambda scores: scores),
         "还没有掩码：第一个词元看到了后面的词元。", "there is no mask yet: the first token sees those after it."),
        (partial(attention, mask=partial(hidden, diagonal=0)),
         "掩码也遮住了词元自己，第一行就什么都不剩：用 triu(1)。",
         "the mask hides the token itself as well, and nothing is left of the first row: use triu(1)."),
        (partial(attention, mask=partial(hidden, diagonal=2)),
         "每个词元还看得到后面一个词元：用 triu(1)。", "each token still sees the one after it: use triu(1)."),
        *[(partial(attention, mask=partial(hidden, past=past)),
           "掩码反了：遮住的是前面，应该遮住后面，用 triu(1)。",
           "the mask is the wrong way round: it hides the past; use triu(1).") for past in (-1, 0, 1)],
        (partial(attention, mask=partial(hidden, fill=0)),
         "被遮住的分数应该是负无穷；0 分也能分到权重。",
         "a hidden score is minus infinity; a score of 0 still gets weight."),
        (partial(attention, mask=lambda scores: scores, weigh=wiped),
         "掩码要在 softmax 之前：之后再抹掉，剩下的权重加起来不到 1。",
         "the mask comes before the softmax: wiped out after it, the weights that are left add up to less than 1."),
        *[(partial(attention, weigh=partial(softmax, dim=dim)), *ROW) for dim in (-2, 1, 0)],
        (partial(attention, weigh=lambda scores: scores),
         "还差 softmax：它把每一行变成加起来等于 1 的权重。",
         "the softmax is missing: it makes weights of each row that add up to 1."),
        (partial(attention, result=lambda weights, key, value: weights),
         "这是权重；还要用它们把 value 加起来。", "these are the weights; add up value by them."),
        (partial(attention, result=lambda weights, key, value: weights @ key),
         "加起来的应该是 value，不是 key。", "what is added up is value, not key."),
        (lambda *case: attention(*case).transpose(1, 2),
         "结果不用转置：形状和 query 一样。", "do not transpose the result: it has the shape of query."),
    ],
)  # fmt: skip
