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


# ---------------------------------------------------------------------------------------------- lesson A1


@exercise
def exercise_A1_1(held_out):
    """``held_out(*operands)`` -> whether the question stays out of training: one in eight, in any order."""
    start = Hint(
        "先把操作数排好序，拼成文本，再用 hashlib.sha256 取一个字节，看它能不能被 8 整除。",
        "sort the operands, join them into a text, take one byte of its hashlib.sha256 and see whether 8 divides it.",
    )
    answer(held_out, 37, 46, start=start)
    pairs = [(a, b) for a in range(10, 100) for b in range(a, 100)]
    found = {pair: bool(held_out(*pair)) for pair in pairs}
    if any(bool(held_out(*pair)) != kept for pair, kept in found.items()):
        raise Hint(
            "同一道题问两次，答案不同：不要用随机数，用摘要。",
            "the same question gives two answers: use a digest, not random numbers.",
        )
    names = set(getattr(getattr(held_out, "__code__", None), "co_names", ()))
    if "hash" in names and names & {"str", "repr", "map", "join", "format"}:
        raise Hint(
            "内置的 hash 对字符串每次启动 Python 都不同；用 hashlib。",
            "the built-in hash of a string differs at every start of Python; use hashlib.",
        )
    if any(bool(held_out(b, a)) != kept for (a, b), kept in found.items()):
        raise Hint(
            "37×46 和 46×37 得到不同的答案：先排序。", "37×46 and 46×37 get different answers: sort the operands first."
        )
    share = sum(found.values()) / len(found)
    if not 0.09 < share < 0.16:
        raise Hint(f"留出了 {share:.0%}，应当是八分之一左右。", f"{share:.0%} are held out; one in eight is wanted.")
    for number in range(10, 100):
        around = [kept for pair, kept in found.items() if number in pair]
        if sum(around) > len(around) / 2:
            raise Hint(
                f"和 {number} 有关的题几乎全被留出，模型就没见过这个数；要打散，用摘要。",
                f"nearly all with {number} is held out, so the model never meets it; a digest scatters them.",
            )
    for name, residue in (("+", lambda a, b: a + b), ("×", lambda a, b: a * b), ("-", lambda a, b: b - a)):
        for modulus in range(2, 11):
            groups: dict[int, list[bool]] = {}
            for pair, kept in found.items():
                groups.setdefault(residue(*pair) % modulus, []).append(kept)
            if any(sum(group) > 0.5 * len(group) for group in groups.values()):
                raise Hint(
                    f"留出的题有规律（由 a{name}b 除以 {modulus} 的余数决定），训练就少了整整一类题；用摘要打散。",
                    f"what is held out follows a{name}b modulo {modulus}, so training lacks a whole kind of question; "
                    "a digest scatters them.",
                )
    if held_out(1, 2, 3) is None or isinstance(held_out(1, 2, 3), type(...)):
        raise start


@exercise
def exercise_A1_2(make_targets):
    """``make_targets(ids, start, silent)`` -> list, one shorter than ``ids``, -100 where there is no loss."""
    start_hint = Hint(
        "走过 i = 1, 2, …：第 i 个词元该由模型写就放 ids[i]，否则放 -100。",
        "go through i = 1, 2, ...: ids[i] where the model must write it, else -100.",
    )
    for ids, start, silent in (([11, 12, 13, 14, 15, 16, 17], 3, {5}), ([21, 22, 23, 24], 2, set())):
        expected = [ids[i] if i >= start and i not in silent else -100 for i in range(1, len(ids))]
        result = answer(make_targets, list(ids), start, set(silent), start=start_hint)
        try:
            result = [int(token) for token in result]
        except (TypeError, ValueError):
            raise Hint("应当返回一个整数的列表。", "a list of integers is wanted.") from None
        if result == expected:
            continue
        kept = [ids[i] if i >= start and i not in silent else -100 for i in range(len(ids))]
        if result in (kept, kept[:-1]):
            raise Hint(
                "没有错开：位置 i 的目标是第 i + 1 个词元。",
                "there is no shift: the target at i is the token at i + 1.",
            )
        if len(result) != len(expected):
            raise Hint(
                f"长度应当是 {len(expected)}，得到 {len(result)}：最后一个词元之后没有可猜的。",
                f"the length should be {len(expected)}, it is {len(result)}: nothing follows the last token.",
            )
        if result == ids[1:]:
            raise Hint("提示词也算了损失：start 之前写 -100。", "the prompt carries loss: -100 before start.")
        if result == [ids[i] if i >= start else -100 for i in range(1, len(ids))]:
            raise Hint("silent 里的词元不该算损失。", "tokens in silent must not carry loss.")
        if result == [ids[i] if i > start and i not in silent else -100 for i in range(1, len(ids))]:
            raise Hint(
                "少了一个：位置 start 的词元也该由模型写。", "one is missing: the token at start is the model's too."
            )
        if result == [ids[i] if i >= start and i - 1 not in silent else -100 for i in range(1, len(ids))]:
            raise Hint(
                "silent 是词元自己的位置，不是它前一个的。",
                "silent names the token's own position, not the one before it.",
            )
        raise Hint("还不对。" + start_hint.zh, "not yet. " + start_hint.en)


@exercise
def exercise_A1_3(balancing_loss):
    """``balancing_loss(load, probabilities)`` -> a number; (experts,) and (tokens, experts)."""
    import torch

    start = Hint(
        "在词元上求平均得到 p，和 load 逐个相乘，求和，再乘专家数。",
        "the mean over tokens is p; multiply by load expert by expert, sum, and multiply by the number of experts.",
    )
    generator = torch.Generator().manual_seed(0)
    load = torch.rand(6, generator=generator)
    load = load / load.sum()
    probabilities = torch.randn(40, 6, generator=generator).mul(2).softmax(dim=-1)
    expected = 6 * float((load * probabilities.mean(dim=0)).sum())
    result = answer(balancing_loss, load.clone(), probabilities.clone(), start=start)
    try:
        result = float(result)
    except (TypeError, ValueError, RuntimeError):
        raise Hint(
            "应当是一个数；还差一次求和或平均。", "a single number is wanted; a sum or a mean is missing."
        ) from None

    def equals(value) -> bool:
        return abs(result - float(value)) < 1e-4

    if equals(expected):
        uniform = float(balancing_loss(torch.full((4,), 0.25), torch.full((3, 4), 0.25)))
        if abs(uniform - 1) > 1e-5:
            raise Hint("专家数要从输入里读，不要写死。", "read the number of experts from the input.")
        return
    if equals(expected / 6):
        raise Hint("还要乘专家数。", "it still has to be multiplied by the number of experts.")
    if equals(40 * expected):
        raise Hint("在词元上求了和，应当求平均。", "this sums over the tokens; take their mean.")
    if equals((load * probabilities.mean(dim=0)).mean()):
        raise Hint(
            "对专家求了平均；应当求和，再乘专家数。",
            "this takes the mean over experts; take the sum, times their number.",
        )
    if equals(6 * (load**2).sum()):
        raise Hint("两次都用了 load，它没有梯度；另一个是概率的平均。", "load twice has no gradient; the other is p.")
    if equals(6 * (probabilities.mean(dim=0) ** 2).sum()):
        raise Hint("两次都用了概率；另一个是 load。", "this uses the probabilities twice; the other one is load.")
    raise Hint(f"数值还不对。{start.zh}", f"the value differs. {start.en}")


@exercise
def exercise_A1_4(choose_budget):
    """``choose_budget(measured, allowed_loss)`` -> the budget of the good enough row with the fewest tokens."""
    start = Hint(
        "最好的 right 减去 allowed_loss 是及格线；及格的里面按 tokens 取最小。",
        "the best right less allowed_loss is the line; of those above it, take the smallest by tokens.",
    )
    rows = [(None, 0.98, 61.0), (0, 0.30, 9.0), (48, 0.90, 44.0), (64, 0.97, 55.0), (32, 0.60, 33.0)]
    measured = [{"budget": budget, "right": right, "tokens": tokens} for budget, right, tokens in rows]
    cases = [
        (0.1, 48),
        (0.02, 64),
        (0.0, None),
        (1.0, 0),
    ]
    for allowed_loss, expected in cases:
        result = choose_budget([dict(row) for row in measured], allowed_loss)
        if result is ... or (result is None and expected is not None and allowed_loss == 0.1):
            raise start
        if result == expected:
            continue
        if isinstance(result, dict):
            raise Hint("返回那一行的 budget，不是整行。", "return the row's budget, not the row.")
        if result == 0 and expected != 0:
            raise Hint("选了最省的，没管正确率够不够。", "this is the cheapest, whether or not it is good enough.")
        if expected == 48 and result == 64:
            raise Hint(
                "48 也在允许的范围里（0.90 对 0.98），而且更省。",
                "48 is within what is allowed (0.90 to 0.98), and cheaper.",
            )
        raise Hint(
            f"allowed_loss={allowed_loss} 时应当选 {expected}，得到 {result}。{start.zh}",
            f"with allowed_loss={allowed_loss} it should choose {expected}, not {result}. {start.en}",
        )


@exercise
def capstone_A1(measured, report):
    """The capstone's two measurements: rows of ``budget, right, tokens``, and the same for the service."""
    for row in measured:
        if not 0 <= row["right"] <= 1 or row["tokens"] <= 0:
            raise Hint(f"这一行不像测出来的：{row}", f"this row does not look measured: {row}")
    if report["cases"] < 20:
        raise Hint(
            f"只有 {report['cases']} 道题，差一道就是 {1 / report['cases']:.0%}；至少用 20 道。",
            f"only {report['cases']} questions, one of them is {1 / report['cases']:.0%}; take 20 at least.",
        )
    offline = [row for row in measured if row["budget"] == report["budget"]]
    if not offline:
        raise Hint(f"预算 {report['budget']} 离线没有试过。", f"the budget {report['budget']} was not tried offline.")
    # Both are shares of the same questions with fresh samples: three standard errors of their difference.
    share = (offline[0]["right"] + report["right"]) / 2
    noise = 3 * (2 * max(share * (1 - share), 0.02) / report["cases"]) ** 0.5
    if abs(report["right"] - offline[0]["right"]) > noise:
        raise Hint(
            f"上线后对了 {report['right']:.0%}，离线是 {offline[0]['right']:.0%}，差得太多：两边的采样和预算相同吗？",
            f"in service {report['right']:.0%} are right, offline {offline[0]['right']:.0%}, too far apart: are "
            "sampling and budget the same on both sides?",
        )
    if report["budget"] is not None and report["tokens"] > 1.5 * offline[0]["tokens"]:
        raise Hint(
            f"上线后每个答案 {report['tokens']:.0f} 个词元，离线 {offline[0]['tokens']:.0f}：预算没有传到服务器。",
            f"in service an answer takes {report['tokens']:.0f} tokens, offline {offline[0]['tokens']:.0f}: "
            "the budget did not reach the server.",
        )
