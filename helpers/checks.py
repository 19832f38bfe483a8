"""Exercise checks: each prints one Chinese and one English line, "solved" or a hint, and never raises.

A check is a function under ``@exercise`` that calls the learner's function through ``answer`` and raises ``Hint`` for
what is wrong with its result. Hints name the mistake where a usual one is recognised.
"""

import functools


class Hint(Exception):
    """What is not right yet, and where to look, in Chinese and in English."""

    def __init__(self, zh: str, en: str):
        super().__init__(zh, en)
        self.zh, self.en = zh, en


def exercise(check):
    """Turns ``check``, which raises Hint or returns, into a check that prints; an error in a solution is a hint too."""

    @functools.wraps(check)
    def run(*solutions):
        try:
            check(*solutions)
        except Hint as hint:
            print(f"还没有解出来：{hint.zh}\nNot solved yet: {hint.en}")
        except Exception as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"还没有解出来：你的代码报错了，{what}\nNot solved yet: your code raised {what}")
        else:
            print("解出来了！\nSolved!")

    return run


def answer(solution, *arguments, start: Hint):
    """What the learner's function returns; the hint ``start`` as long as it still returns ``...`` or nothing."""
    result = solution(*arguments)
    if result is ... or result is None:
        raise start
    return result


def same_tensor(result, expected) -> bool:
    """Whether ``result`` is a tensor of the shape of ``expected`` and equal to it within 1e-5.

    Raises Hint for another type or shape.
    """
    import torch

    if not isinstance(result, torch.Tensor):
        kind = type(result).__name__
        raise Hint(f"应该返回张量，得到的是 {kind}。", f"a tensor is wanted, this is {kind}.")
    if result.shape != expected.shape:
        shapes = f"{tuple(result.shape)}", f"{tuple(expected.shape)}"
        raise Hint(
            "形状应该是 {1}，得到的是 {0}。".format(*shapes), "the shape should be {1}, it is {0}.".format(*shapes)
        )
    return torch.allclose(result.float(), expected, atol=1e-5)


# ---------------------------------------------------------------------------------------------- lesson 03


@exercise
def exercise_03_1(rms_norm):
    """``rms_norm(x, weight, eps)`` -> tensor like ``x`` (..., size)."""
    import torch
    import torch.nn.functional as F

    start = Hint(
        "先求最后一维上平方的平均，加 eps，取 rsqrt，乘回 x，最后乘 weight。",
        "mean of the squares over the last dimension, plus eps, rsqrt, times x, and last times weight.",
    )
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 4, 8, generator=generator) + 1  # a mean far from 0, so that subtracting it shows
    weight = torch.rand(8, generator=generator) + 0.5
    expected = F.rms_norm(x, (8,), weight, 1e-6)
    result = answer(rms_norm, x, weight, 1e-6, start=start)
    if same_tensor(result, expected):
        tiny = torch.full((1, 8), 1e-4)
        if not same_tensor(rms_norm(tiny, weight, 1e-6), F.rms_norm(tiny, (8,), weight, 1e-6)):
            raise Hint(
                "eps 要加在平方的平均上，在开方之前。", "eps is added to the mean of the squares, before the root."
            )
        return
    if same_tensor(result, F.layer_norm(x, (8,), weight, None, 1e-6)):
        raise Hint("这是 LayerNorm：RMSNorm 不减平均值。", "this is LayerNorm: RMSNorm does not subtract the mean.")
    spreads = [x.std(-1, keepdim=True), x.std(-1, keepdim=True, correction=0)]
    if any(
        same_tensor(result, weight * part / spread) for part in (x, x - x.mean(-1, keepdim=True)) for spread in spreads
    ):
        raise Hint(
            "除的是标准差；应该除以均方根，不减平均值。",
            "this divides by the standard deviation; divide by the root mean square, without subtracting the mean.",
        )
    if same_tensor(result, F.rms_norm(x, (8,), None, 1e-6)):
        raise Hint("还差最后一步：乘上 weight。", "one step is missing: the multiplication by weight.")
    if same_tensor(result, weight * F.normalize(x, dim=-1)):
        raise Hint("除的是平方和的根；应该先取平均。", "this divides by the root of the sum of squares; take the mean.")
    if same_tensor(result, weight * x * torch.rsqrt(x.pow(2).mean() + 1e-6)):
        raise Hint(
            "平均只取最后一维：dim=-1, keepdim=True。", "the mean is over the last dimension: dim=-1, keepdim=True."
        )
    raise Hint("数值还不对。" + start.zh, "the values differ. " + start.en)


@exercise
def exercise_03_2(prepare):
    """``prepare(query, key, q_norm, k_norm, cos, sin)`` -> query and key, ready for their dot products."""
    import torch

    from helpers.qwen import RMSNorm, apply_rope, rope_frequencies, rope_tables

    start = Hint(
        "两个向量各走两步：归一化和旋转。想一想哪一步在前。",
        "query and key each take two steps, a norm and a rotation: which first?",
    )
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 6, 5, 8, generator=generator), torch.randn(1, 2, 5, 8, generator=generator)
    norms = RMSNorm(8, 1e-6), RMSNorm(8, 1e-6)
    for norm in norms:
        norm.weight = torch.nn.Parameter(torch.rand(8, generator=generator) + 0.5, requires_grad=False)
    cos, sin = rope_tables(torch.arange(5)[None], rope_frequencies(8, 1e4))
    result = answer(prepare, query, key, *norms, cos, sin, start=start)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Hint("应该返回两个张量：return query, key。", "two tensors are wanted: return query, key.")
    if any(tensor is ... for tensor in result):
        raise start
    for name, x, norm, own, other in (("query", query, "q_norm", *norms), ("key", key, "k_norm", *norms[::-1])):
        found = result[0] if name == "query" else result[1]
        if same_tensor(found, apply_rope(own(x), cos, sin)):
            continue
        if same_tensor(found, apply_rope(x, cos, sin)):
            raise Hint(f"{name} 还没有归一化。", f"{name} is not normed yet.")
        if same_tensor(found, own(x)):
            raise Hint(f"{name} 还没有旋转。", f"{name} is not rotated yet.")
        if same_tensor(found, own(apply_rope(x, cos, sin))):
            raise Hint(
                f"{name} 先旋转、后归一化了；Qwen3 是先归一化，再旋转。",
                f"{name} is rotated first and normed after; Qwen3 norms first, then rotates.",
            )
        if same_tensor(found, apply_rope(other(x), cos, sin)):
            raise Hint(f"{name} 要用 {norm}。", f"{name} takes {norm}.")
        raise Hint(f"{name} 的数值还不对。{start.zh}", f"the values of {name} differ. {start.en}")


@exercise
def exercise_03_3(kv_bytes_per_token):
    """``kv_bytes_per_token(config)`` -> bytes in bf16, ``config`` being a dictionary with the keys of config.json."""
    from helpers import models

    start = Hint(
        "每层、每个 KV 头都要存一个键和一个值，各 head_dim 个数，每个数 2 字节。",
        "each layer and KV head stores a key and a value of head_dim numbers, 2 bytes each.",
    )
    for size in ("8B", "0.6B", "30B-A3B"):
        config = models.CATALOGUE[f"Qwen/Qwen3-{size}"].config
        result = answer(kv_bytes_per_token, dict(config), start=start)
        expected = models.kv_bytes_per_token(config)
        heads = config["num_attention_heads"]
        if result == expected:
            continue
        if result * config["head_dim"] * heads == expected * config["hidden_size"]:
            raise Hint(
                f"8B 碰巧对了，{size} 就不对：head_dim 要直接读，不能用 hidden_size / heads 算。",
                f"right for 8B by luck, wrong for {size}: read head_dim, it is not hidden_size / heads.",
            )
        if 2 * result == expected:
            raise Hint(
                "只有一半：键和值都要存，每个数 2 字节。",
                "this is half: keys and values are both stored, with 2 bytes a number.",
            )
        if result * config["num_key_value_heads"] == expected * heads:
            raise Hint("缓存里只有 KV 头，不是全部注意力头。", "the cache holds the KV heads, not all attention heads.")
        raise Hint(f"Qwen3-{size} 的结果不是 {result}。{start.zh}", f"Qwen3-{size} does not give {result}. {start.en}")


# ---------------------------------------------------------------------------------------------- lesson 04


@exercise
def exercise_04_1(choose_experts):
    """``choose_experts(router_logits, top_k)`` -> routing weights and expert ids, both (tokens, top_k)."""
    import torch

    from helpers.qwen import route

    start = Hint(
        "三步：在专家那一维上做 softmax，取 topk，再除以选中的权重之和。",
        "three steps: softmax over the experts, topk, then divide by the sum of the chosen weights.",
    )
    router_logits = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))  # as many tokens as no top-k is
    expected, expected_ids = route(router_logits, 3, norm_topk_prob=True)
    result = answer(choose_experts, router_logits, 3, start=start)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Hint(
            "应该返回两个张量：return routing_weights, expert_ids。",
            "two tensors are wanted: return routing_weights, expert_ids.",
        )
    if any(part is ... for part in result):
        raise start
    weights, ids = result
    if isinstance(weights, torch.Tensor) and isinstance(ids, torch.Tensor) and ids.is_floating_point():
        raise Hint("顺序反了：先权重，后编号。", "the order is the other way round: weights first, then ids.")
    same_weights, same_ids = same_tensor(weights, expected), same_tensor(ids, expected_ids.float())
    if same_weights and same_ids:
        return
    if same_tensor(weights, router_logits.softmax(-1).topk(3).values):
        raise Hint(
            "还差最后一步：每个词元的权重要除以它们的和，加起来才是 1。",
            "one step is missing: divide the weights of each token by their sum, so that they add up to 1.",
        )
    over_tokens = router_logits.softmax(0).topk(3).values
    if any(same_tensor(weights, w) for w in (over_tokens, over_tokens / over_tokens.sum(-1, keepdim=True))):
        raise Hint(
            "softmax 沿着词元做了；应该沿着专家做：dim=-1。",
            "the softmax runs over the tokens; it should run over the experts: dim=-1.",
        )
    raw = router_logits.topk(3).values
    if any(same_tensor(weights, w) for w in (raw, raw / raw.sum(-1, keepdim=True))):
        raise Hint(
            "权重直接取自 logits；logits 可以是负数，要先做 softmax。",
            "the weights come from the logits themselves, which may be negative: softmax first.",
        )
    if not same_ids:
        raise Hint("选中的专家不对。" + start.zh, "these are not the chosen experts. " + start.en)
    raise Hint("权重的数值还不对。" + start.zh, "the weights differ. " + start.en)


@exercise
def exercise_04_2(run_experts):
    """``run_experts(tokens, routing_weights, expert_ids, experts)`` -> (tokens, hidden)."""
    import torch

    start = Hint(
        "对每个专家：torch.where(expert_ids == expert) 给出词元和名次，算完乘权重，再用 index_add_ 加回去。",
        "for each expert: torch.where(expert_ids == expert) gives tokens and slots; run, weight, add with index_add_.",
    )
    calls = []

    def make(expert):
        def run(rows):
            calls.append(expert)
            return (expert + 1) * rows + rows.flip(-1)

        return run

    experts = [make(expert) for expert in range(4)]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(5, 3, generator=generator)
    expert_ids = torch.tensor([[0, 2], [2, 0], [1, 2], [0, 1], [2, 1]])  # nobody takes expert 3
    weights = torch.tensor([0.9, 0.7, 0.8, 0.6, 0.55])
    weights = torch.stack((weights, 1 - weights), dim=-1)
    outputs = torch.stack([torch.stack([experts[e](tokens[t]) for e in expert_ids[t]]) for t in range(5)])
    expected = (outputs * weights[..., None]).sum(1)  # outputs: (tokens, top_k, hidden)
    calls.clear()
    before = tokens.clone()
    result = answer(run_experts, tokens, weights, expert_ids, experts, start=start)
    if same_tensor(result, expected) and torch.equal(tokens, before):
        if len(calls) > len(experts):
            raise Hint(
                f"结果对了，可是专家被调用了 {len(calls)} 次：一个专家一次就够，把它的词元一起交给它。",
                f"the result is right, but the experts were called {len(calls)} times: once each is enough, "
                "with all its tokens together.",
            )
        return
    if not torch.equal(tokens, before) or same_tensor(result, tokens + expected):
        raise Hint(
            "输出要从全零开始，不能加在输入上：torch.zeros_like(tokens)。",
            "start the output from zeros, not from the input: torch.zeros_like(tokens).",
        )
    if same_tensor(result, outputs.sum(1)):
        raise Hint("还没有乘路由权重。", "the routing weights are missing.")
    if same_tensor(result, weights[:, :1] * outputs[:, 0]):
        raise Hint("每个词元只算了第一个专家。", "each token got its first expert only.")
    if (result[:, None] - outputs * weights[..., None]).abs().sum(-1).amin(-1).max() < 1e-5:
        raise Hint(
            "后来的专家盖掉了先前的：用 index_add_ 加，不要赋值。",
            "later experts overwrote earlier ones: add with index_add_ instead of assigning.",
        )
    raise Hint(
        "数值还不对：torch.where 先给词元，后给名次，别弄反。" + start.zh,
        "the values differ: torch.where gives the token first, then the slot. " + start.en,
    )


@exercise
def exercise_04_3(expert_parameters):
    """``expert_parameters(config)`` -> parameters of all experts in the model, and of those that one token uses."""
    from helpers import models

    start = Hint(
        "一个专家是三个 hidden × moe_intermediate_size 的矩阵；再乘专家数和层数。",
        "an expert is three matrices of hidden × moe_intermediate_size; times the experts, times the layers.",
    )
    for size in ("30B-A3B", "235B-A22B"):
        config = models.CATALOGUE[f"Qwen/Qwen3-{size}"].config
        result = answer(expert_parameters, dict(config), start=start)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Hint("应该返回两个数：全部的，和用到的。", "two numbers are wanted: of all, and of those used.")
        if any(number is ... for number in result):
            raise start
        layers, counts = config["num_hidden_layers"], (config["num_experts"], config["num_experts_per_tok"])
        one = 3 * config["hidden_size"] * config["moe_intermediate_size"]
        expected = tuple(layers * count * one for count in counts)
        result = tuple(result)
        if result == expected:
            continue
        if result == expected[::-1]:
            raise Hint("顺序反了：先全部，后用到的。", "the order is the other way round: all first, then used.")
        if result == tuple(number // layers for number in expected):
            raise Hint("这只是一层的：还要乘层数。", "this is one layer: times the layers.")
        if result == tuple(number // 3 * 2 for number in expected):
            raise Hint(
                "一个专家有三个矩阵，不是两个：gate_proj、up_proj、down_proj。",
                "an expert has three matrices, not two: gate_proj, up_proj, down_proj.",
            )
        dense = config["intermediate_size"] / config["moe_intermediate_size"]
        if result == tuple(number * dense for number in expected):
            raise Hint(
                "intermediate_size 是稠密层的宽度；专家的宽度是 moe_intermediate_size。",
                "intermediate_size is the width of a dense layer; that of an expert is moe_intermediate_size.",
            )
        if result[0] == result[1]:
            raise Hint(
                "一个词元只用到 num_experts_per_tok 个专家。", "a token uses num_experts_per_tok of the experts only."
            )
        raise Hint(f"Qwen3-{size} 的结果不是 {result}。{start.zh}", f"Qwen3-{size} does not give {result}. {start.en}")


@exercise
def exercise_04_4(load_balancing_loss):
    """``load_balancing_loss(router_logits, top_k)`` -> a tensor with one number."""
    import torch

    start = Hint(
        "f 是每个专家被选中的次数除以词元数，p 是 softmax 概率在词元上的平均；返回 专家数 × Σ f·p。",
        "f: how often each expert is chosen, over the number of tokens; p: the softmax averaged over the tokens; "
        "return num_experts × Σ f·p.",
    )
    generator = torch.Generator().manual_seed(0)
    router_logits = torch.randn(40, 4, generator=generator) + torch.tensor([1.5, 0.5, 0.0, -1.0])
    probabilities = router_logits.softmax(-1)
    chosen = probabilities.topk(2).indices
    f, p = torch.bincount(chosen.flatten(), minlength=4) / 40, probabilities.mean(0)
    expected = 4 * (f * p).sum()
    result = answer(load_balancing_loss, router_logits, 2, start=start)
    if isinstance(result, int | float):
        raise Hint(
            "应该返回张量，才能求梯度：不要用 .item()。", "a tensor is wanted, for its gradient: do without .item()."
        )
    if same_tensor(result, expected):
        return
    of_chosen = torch.zeros_like(probabilities).scatter(1, chosen, probabilities.gather(1, chosen)).mean(0)
    usual = (
        (expected / 4, "还要乘专家数。", "times the number of experts."),
        (expected / 2, "f 的和应该是 top_k：除以词元数，不是除以选择的总次数。",
         "f adds up to top_k: divide by the number of tokens, not by the number of choices."),
        (expected * 40, "f 要除以词元数。", "f is divided by the number of tokens."),
        (expected * 1600, "f 和 p 都要除以词元数。", "f and p are both divided by the number of tokens."),
        (4 * (p * p).sum(), "f 要数真正的选择，不能用概率代替。", "f counts the choices made, not the probabilities."),
        (4 * (f * of_chosen).sum(), "p 是全部专家的概率，没选中的也算。",
         "p takes the probabilities of all experts, chosen or not."),
        (4 * (f * f).sum(), "p 是概率的平均，不是次数：次数没有梯度。",
         "p averages the probabilities: counts have no gradient."),
    )  # fmt: skip
    for wrong, zh, en in usual:
        if same_tensor(result, wrong):
            raise Hint(zh, en)
    raise Hint("数值还不对。" + start.zh, "the value differs. " + start.en)
