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


# ---------------------------------------------------------------------------------------------- lesson 05


def _tiny_tokenizer():
    from transformers import AutoTokenizer

    from helpers import models

    return AutoTokenizer.from_pretrained(models.find_checkpoint("qwen3-tiny"))


@exercise
def exercise_05_1(non_thinking_prompt):
    """``non_thinking_prompt(system, question)`` -> the text that the chat template makes of it with thinking off."""
    start = Hint(
        "从用户的一轮写起：<|im_start|>user、换行、问题、<|im_end|>、换行。",
        "begin with the user's turn: <|im_start|>user, a newline, the question, <|im_end|>, a newline.",
    )
    tokenizer = _tiny_tokenizer()
    for system, question in ((None, "你是谁？"), ("只说中文。", "37×46=?")):
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": question})
        expected, thinking = (
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
            )
            for enable_thinking in (False, True)
        )
        result = answer(non_thinking_prompt, system, question, start=start)
        if not isinstance(result, str):
            kind = type(result).__name__
            raise Hint(f"应该返回文本，得到的是 {kind}。", f"a text is wanted, this is {kind}.")
        if result == expected:
            continue
        block = "<think>\n\n</think>\n\n"
        if result == thinking:
            raise Hint(
                "这是会思考的提示词：末尾还差空的思考块。",
                "this prompt still thinks: the empty think block is missing.",
            )
        if "".join(result.split()) == "".join(expected.split()):
            raise Hint(
                f"只差换行。思考块应该是 {block!r}，其余每一轮之后一个换行。",
                f"only newlines differ. The think block is {block!r}, and every turn ends with one newline.",
            )
        if "<|im_start|>assistant" not in result:
            raise Hint(
                "还差 assistant 这一轮的开头，模型才知道轮到自己。",
                "the beginning of the assistant's turn is missing: without it the model does not know that it is next.",
            )
        if system is None and "<|im_start|>system" in result:
            raise Hint(
                "没有系统消息时什么也不写：Qwen3 的模板没有默认的系统消息。",
                "without a system message nothing is written: Qwen3's template has no default one.",
            )
        if system is not None and system not in result:
            raise Hint("系统消息没有写进去，它应该在最前面。", "the system message is missing; it comes first.")
        if result.rstrip().endswith("<|im_end|>"):
            raise Hint(
                "最后一轮不要用 <|im_end|> 结束：接下来由模型写。",
                "the last turn does not end with <|im_end|>: the model goes on there.",
            )
        raise Hint(f"应该是 {expected!r}，得到的是 {result!r}。", f"it should be {expected!r}, this is {result!r}.")


@exercise
def exercise_05_2(top_p_filter):
    """``top_p_filter(logits, top_p)`` -> logits (batch, vocab) with minus infinity for what top-p drops."""
    import torch

    from helpers.qwen import keep_top_p

    start = Hint(
        "先把 logits 从大到小排序，求 softmax 和 cumsum。", "sort the logits from high to low, softmax, then cumsum."
    )
    logits = torch.tensor([[0.1, 0.6, 0.3], [0.25, 0.05, 0.7]]).log()
    for top_p in (0.65, 0.5, 0.8, 0.96):
        expected = keep_top_p(logits, top_p)
        result = answer(top_p_filter, logits.clone(), top_p, start=start)
        if same_tensor(result, expected):
            continue
        kept, wanted = result.isfinite(), expected.isfinite()
        if torch.equal(kept, wanted):
            raise Hint(
                "留对了词元，但留下的分数变了：不要动它们。",
                "the right tokens stay, but their scores changed: leave them alone.",
            )
        ordered, places = logits.sort(dim=-1, descending=True)
        total = ordered.softmax(dim=-1).cumsum(dim=-1)
        if not kept.any(dim=-1).all() or torch.equal(kept, torch.empty_like(kept).scatter(-1, places, total < top_p)):
            raise Hint(
                f"top_p={top_p} 时，越过门槛的那一个也被去掉了：看它前面的累计概率，不含它自己。",
                f"with top_p={top_p} the token that crosses the line is gone too: take the sum before it.",
            )
        if torch.equal(kept, total - ordered.softmax(dim=-1) < top_p):
            raise Hint("次序没有还原：用 scatter 放回原来的位置。", "the old order is lost: scatter puts it back.")
        if torch.equal(kept, logits.softmax(dim=-1).cumsum(dim=-1) - logits.softmax(dim=-1) < top_p):
            raise Hint("没有排序就累加了：要从最大的数起。", "this adds up without sorting: begin with the largest.")
        if torch.equal(kept, logits.softmax(dim=-1) >= top_p) or torch.equal(kept, logits.softmax(dim=-1) >= 1 - top_p):
            raise Hint(
                "这是逐个和门槛比较；top-p 看的是从大到小的累计。",
                "this compares each probability with the line; top-p looks at the sum from the largest down.",
            )
        raise Hint("留下的词元不对。" + start.zh, "the wrong tokens stay. " + start.en)


# ---------------------------------------------------------------------------------------------- lesson 06


@exercise
def exercise_06_1(split_ids):
    """``split_ids(token_ids, think, end)`` -> (thinking, answer), lists of ids or None."""
    start = Hint(
        "先看 end 在不在 token_ids 里：在，就从最后一个 end 分开。",
        "see first whether end is in token_ids: if so, split at the last one.",
    )
    think, end = 7, 8
    cases = {
        "finished": ([7, 1, 2, 8, 3, 4], ([1, 2], [3, 4])),
        "cut": ([7, 1, 2], ([1, 2], None)),
        "none": ([3, 4], (None, [3, 4])),
        "two ends": ([7, 1, 8, 2, 8, 3], ([1, 8, 2], [3])),
        "opened by the template": ([1, 2, 8, 3], ([1, 2], [3])),
        "cut behind the end": ([7, 1, 8], ([1], [])),
    }
    for name, (ids, expected) in cases.items():
        result = answer(split_ids, tuple(ids), think, end, start=start)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Hint("应该返回两样：return thinking, answer。", "two things are wanted: return thinking, answer.")
        found = tuple(part if part is None else list(part) for part in result)
        if found == expected:
            continue
        if name == "cut" and found[1]:
            raise Hint(
                f"{ids} 没有 </think>：思考被截断了，答案应该是 None，不是半截思考。",
                f"{ids} has no </think>: the thought was cut, so the answer is None and not half a thought.",
            )
        if name == "none" and found[0] is not None:
            raise Hint(
                f"{ids} 里两个标签都没有：模型没有思考，全部是答案。",
                f"{ids} has neither tag: the model did not think, and all of it is the answer.",
            )
        if name == "two ends" and found[1] == [2, 8, 3]:
            raise Hint("从第一个 </think> 分开了；要用最后一个。", "this splits at the first </think>; take the last.")
        if any(tag in (part or []) for part in found for tag in (think, end)) and name != "two ends":
            raise Hint(f"{ids}：标签本身不属于思考，也不属于答案。", f"{ids}: the tags belong to neither part.")
        raise Hint(
            f"{ids} 应该得到 {expected}，得到的是 {found}。", f"{ids} should give {expected}, this gives {found}."
        )


@exercise
def exercise_06_2(choose_budget, measured=None):
    """``choose_budget(accuracy, share)`` -> the smallest budget that is enough, or None. measured: one more table."""
    start = Hint(
        "门槛是 share * accuracy[None]；在够格的预算里取最小的。",
        "the bar is share * accuracy[None]; take the smallest budget that clears it.",
    )
    tables = [
        {8: 0.2, 16: 0.4, 32: 0.7, 64: 0.8, None: 0.8},
        {64: 0.9, 8: 0.1, 32: 0.85, 16: 0.2, None: 0.9},  # not in order
        {8: 0.5, 16: 0.45, 32: 0.6, None: 0.6},  # up and down
    ]
    for accuracy in [*tables, *([measured] if measured else [])]:
        for share in (0.5, 0.8, 0.95, 1.2):
            enough = [key for key, value in accuracy.items() if key is not None and value >= share * accuracy[None]]
            expected = min(enough, default=None)
            result = choose_budget(dict(accuracy), share)
            if result is ...:
                raise start
            if result == expected:
                continue
            shown = ", ".join(f"{key}: {value:g}" for key, value in accuracy.items())
            if expected is None:
                raise Hint(
                    f"share={share} 时没有一个预算够（{shown}），应该返回 None。",
                    f"with share={share} no budget is enough ({shown}): return None.",
                )
            plain = min((key for key, value in accuracy.items() if key is not None and value >= share), default=None)
            if result == plain:
                raise Hint(
                    "share 直接当成了正确率；它是完整思考的正确率 accuracy[None] 的倍数。",
                    "share was taken for an accuracy; it is a share of accuracy[None], that of whole thoughts.",
                )
            if result in enough:
                raise Hint(
                    f"{result} 够了，但不是最小的（{shown}）。", f"{result} is enough, but not the smallest ({shown})."
                )
            raise Hint(
                f"share={share} 时应该是 {expected}，得到的是 {result}（{shown}）。{start.zh}",
                f"with share={share} it should be {expected}, this is {result} ({shown}). {start.en}",
            )
