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


# ---------------------------------------------------------------------------------------------- lesson 07


@exercise
def exercise_07_1(request):
    """``request(model, question)`` -> keyword arguments of ``client.chat.completions.create``, thinking off."""
    start = Hint(
        "返回一个字典：create 认识的参数直接写，另外三样放进 extra_body。",
        "return a dictionary: what create knows stands in it, the three others go into its extra_body.",
    )
    result = answer(request, "some-model", "1+1=?", start=start)
    if not isinstance(result, dict):
        raise Hint("应该返回字典。", "a dictionary is wanted.")
    extra = result.get("extra_body") or {}
    if result.get("model") != "some-model":
        raise Hint("model 要用传进来的模型名。", "model should be the name that was passed in.")
    messages = result.get("messages")
    if not isinstance(messages, list) or not messages or messages[-1].get("role") != "user":
        raise Hint(
            "messages 是一个列表，最后一条的 role 是 user。", "messages is a list whose last entry has the role user."
        )
    if "think" in str(messages[-1].get("content")):
        raise Hint(
            "不要在用户的消息里写 /no_think 或 <think>：用模板的开关。",
            "leave /no_think and <think> out of the user's message: use the template's switch.",
        )
    if messages[-1].get("content") != "1+1=?":
        raise Hint("问题要原样放进消息。", "the question should be in the message as it is.")
    for name in ("chat_template_kwargs", "top_k", "min_p", "enable_thinking"):
        if name in result:
            raise Hint(
                f"create 不认识 {name}：放进 extra_body。", f"create does not know {name}: put it into extra_body."
            )
    if "enable_thinking" in extra:
        raise Hint(
            "enable_thinking 是模板的参数：再放深一层，放进 chat_template_kwargs。",
            "enable_thinking is an argument of the template: one level deeper, inside chat_template_kwargs.",
        )
    template = extra.get("chat_template_kwargs")
    if not isinstance(template, dict) or not template:
        raise Hint(
            "思考还开着：extra_body 里还缺 chat_template_kwargs。", "thinking is on: chat_template_kwargs is missing."
        )
    if set(template) != {"enable_thinking"}:
        raise Hint(
            f"模板不认识 {sorted(template)}，也不会报错；名字是 enable_thinking。",
            f"the template ignores {sorted(template)} without a word; the name is enable_thinking.",
        )
    if template["enable_thinking"] is not False:
        raise Hint(
            '值要是布尔值 False；字符串 "false" 算真。',
            'the value is the boolean False; the string "false" counts as true.',
        )
    if result.get("temperature") == 0:
        raise Hint("temperature 不要设成 0。", "temperature should not be 0.")
    given = {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5}
    if result.get("temperature") == 0.6 or result.get("top_p") == 0.95:
        raise Hint("这是思考模式的采样参数。", "these are the sampling parameters of thinking mode.")
    for place, wanted in ((result, given), (extra, {"top_k": 20, "min_p": 0})):
        for name, value in wanted.items():
            if place.get(name) != value:
                raise Hint(
                    f"{name} 应该是 {value}，现在是 {place.get(name)}。",
                    f"{name} should be {value}, it is {place.get(name)}.",
                )


def _chunks(*deltas, usage=True):
    """Real chunks of the openai client, one per delta; then, as with ``include_usage``, one without choices."""
    from openai.types.chat import ChatCompletionChunk

    base = {"id": "c", "created": 0, "model": "m", "object": "chat.completion.chunk"}
    last = len(deltas) - 1
    chunks = [
        base | {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop" if place == last else None}]}
        for place, delta in enumerate(deltas)
    ]
    if usage:
        chunks.append(base | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
    return [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]


@exercise
def exercise_07_2(read_stream):
    """``read_stream(chunks)`` -> (thought, answer), two strings, from chunks of a streamed chat."""
    start = Hint(
        "对每段的每个 choice，把 delta 里的思考和答案分别接到两个字符串后面。",
        "for every choice of every chunk, append thought and answer of its delta to two strings.",
    )
    role = {"role": "assistant", "content": ""}
    plain = [role, {"reasoning": "4"}, {"reasoning": "2"}, {"content": "so"}, {"content": " 42"}, {}]
    old = [{"reasoning_content" if key == "reasoning" else key: text for key, text in delta.items()} for delta in plain]
    cases = [
        (_chunks(*plain, usage=False), ("42", "so 42"), start),
        (
            _chunks(*old, usage=False),
            ("42", "so 42"),
            Hint("旧服务器把思考叫作 reasoning_content。", "older servers call the thought reasoning_content."),
        ),
        (
            _chunks(*plain),
            ("42", "so 42"),
            Hint("最后那段没有 choices，只有 usage。", "the last chunk has no choices, only usage."),
        ),
        (
            _chunks(role, {"reasoning": "hm"}, usage=False),
            ("hm", ""),
            Hint("没有答案时返回空字符串。", "with no answer, return the empty string."),
        ),
        (
            _chunks(role, {"content": "a"}, {"content": None}, {"content": "b"}, usage=False),
            ("", "ab"),
            Hint("字段的值可以是 None：当作空字符串。", "a field may be None: take it for an empty string."),
        ),
    ]
    for number, (chunks, expected, hint) in enumerate(cases):
        try:
            result = answer(read_stream, chunks, start=start)
        except Hint:
            raise
        except Exception as error:
            if number == 0 and not isinstance(error, TypeError | AttributeError):
                raise
            text = f"{type(error).__name__}: {error}"
            hint = cases[4][2] if isinstance(error, TypeError) else hint
            raise Hint(f"{hint.zh}（{text}）", f"{hint.en} ({text})") from error
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Hint(
                "应该返回两个字符串：return thought, answer。", "two strings are wanted: return thought, answer."
            )
        if tuple(result) == expected:
            continue
        if tuple(result)[::-1] == expected:
            raise Hint("顺序反了：先思考，后答案。", "the order is wrong: thought first, then answer.")
        raise hint


@exercise
def exercise_07_3(join):
    """``join(deltas)`` -> [(id, name, arguments)] in the order of ``index``, from deltas of a streamed chat."""
    start = Hint(
        "对每个 delta 的每个片段，按 index 把 id、name、arguments 接起来。",
        "for every fragment of every delta, join id, name and arguments under its index.",
    )

    def call(index, arguments=None, name=None, id=None):
        kind = {"type": "function"} if name else {}
        return {"index": index, "id": id, "function": {"name": name, "arguments": arguments}} | kind

    def deltas(*fragments):
        found = [{"tool_calls": list(group)} if group else {"content": ""} for group in fragments]
        return [chunk.choices[0].delta for chunk in _chunks(*found, usage=False)]

    one = deltas([], [call(0, None, "add", "x")], [call(0, '{"a"')], [call(0, ": 1}")], [])
    two = deltas([call(0, '{"a": ', "add", "x")], [call(1, '{"b": ', "mul", "y")], [call(0, "1}")], [call(1, "2}")])
    together = deltas([call(1, "{", "mul", "y"), call(0, "{", "add", "x")], [call(0, "}"), call(1, "}")])
    interleaved = Hint(
        "两个调用的片段会交错到来：用 index 区分，不要用“最近的那个”。",
        "fragments of two calls may come in turns: tell them apart by index, not by which came last.",
    )
    order = Hint(
        "按 index 的顺序返回；一个 delta 里可以有好几个片段。",
        "return them in the order of index; one delta may hold several fragments.",
    )
    none = Hint("tool_calls、name、arguments 都可能是 None。", "tool_calls, name and arguments may all be None.")
    for given, expected, hint in (
        (one, [("x", "add", '{"a": 1}')], start),
        (two, [("x", "add", '{"a": 1}'), ("y", "mul", '{"b": 2}')], interleaved),
        (together, [("x", "add", "{}"), ("y", "mul", "{}")], order),
        (deltas([], []), [], Hint("没有调用时返回空列表。", "with no calls, return an empty list.")),
    ):
        try:
            result = answer(join, given, start=start)
        except (TypeError, AttributeError) as error:
            raise Hint(f"{none.zh}（{error}）", f"{none.en} ({error})") from error
        if isinstance(result, dict):
            raise Hint("应该返回列表。", "a list is wanted.")
        if [tuple(item) for item in result] != expected:
            raise hint


# ---------------------------------------------------------------------------------------------- lesson 08


@exercise
def exercise_08_1(latency_doubles):
    """``latency_doubles({concurrency: latency})`` -> the first concurrency at twice the latency of 1, or None."""
    start = Hint(
        "从小到大看每个并发，找第一个延迟不小于并发 1 的两倍的。",
        "look at each concurrency upwards for the first whose latency is at least twice that at 1.",
    )
    first = latency_doubles({1: 1.0, 2: 1.1, 4: 2.0, 8: 5.0})
    if first is ... or first is None:
        raise start
    before = Hint("要和并发 1 的延迟比，不是和前一档比。", "compare with the latency at 1, not with the level before.")
    for curves, expected, hint in (
        ({1: 10.0, 2: 13.0, 4: 17.0, 8: 22.0, 16: 30.0}, 8, before),
        ({1: 1.0, 2: 1.1, 4: 2.0, 8: 5.0}, 4, Hint("正好两倍也算。", "exactly twice counts too.")),
        (
            {8: 9.0, 1: 1.0, 4: 3.0, 2: 1.5},
            4,
            Hint("字典不一定按顺序：先排序。", "the dictionary need not be in order: sort it first."),
        ),
        (
            {1: 1.0, 2: 2.5, 4: 1.5, 8: 3.0},
            2,
            Hint(
                "要第一次达到的那个，后面又降下来也不管。", "the first that reaches it, even if a later one is below."
            ),
        ),
        (
            {1: 1.0, 2: 1.2, 4: 1.4},
            None,
            Hint("一直没有翻倍时返回 None。", "return None where it never doubles."),
        ),
    ):
        try:
            result = latency_doubles(dict(curves))
        except (StopIteration, IndexError, ValueError, KeyError) as error:
            raise hint from error
        if result == expected:
            continue
        if expected is not None and result in [sorted(curves).index(expected), curves[expected]]:
            raise Hint(
                "返回的应该是并发，不是序号，也不是延迟。", "return the concurrency, not its place or the latency."
            )
        raise hint


@exercise
def exercise_08_2(worth_a_retry):
    """``worth_a_retry(status)`` -> bool; None stands for a failed connection or a timeout."""
    start = Hint(
        "连接失败、408、429、500 以上返回 True，其余 False。",
        "True for no connection, 408, 429 and from 500 on, else False.",
    )
    if worth_a_retry(503) is ... or worth_a_retry(503) is None:
        raise start
    try:
        missing = worth_a_retry(None)
    except TypeError as error:
        raise Hint(
            "None 不能和数字比较：先处理它。", "None does not compare with numbers: deal with it first."
        ) from error
    if not missing:
        raise Hint("连接失败（None）过一会儿可能就好了。", "a failed connection (None) may be over in a moment.")
    for status, expected, zh, en in (
        (503, True, "503 是背压，值得重试。", "503 is back-pressure and worth a retry."),
        (500, True, "500 也算，它是“500 和以上”的第一个。", "500 counts: it is the first of 500 and above."),
        (429, True, "429 是请求太多：慢一点再来。", "429 means too many requests: slower, but again."),
        (408, True, "408 是超时。", "408 is a timeout."),
        (400, False, "400 是请求本身不对，重试没有用。", "400 is a wrong request, and stays wrong."),
        (401, False, "401 是密钥不对，重试没有用。", "401 is a wrong key, and stays wrong."),
        (404, False, "404 是名字或路径不对，重试没有用。", "404 is a wrong name or path, and stays wrong."),
        (200, False, "200 是成功。", "200 is success."),
    ):
        if bool(worth_a_retry(status)) != expected:
            raise Hint(zh, en)


@exercise
def exercise_08_3(requests_that_fit):
    """``requests_that_fit(config, weights, memory, tp, context)`` -> how many requests fit at once."""
    from helpers import models

    start = Hint(
        "每张卡上：剩下的字节除以一个请求的 KV 缓存，取整。",
        "on each card: the bytes left divided by the KV cache of one request, rounded down.",
    )
    for name, memory, tp, context in (
        ("8B", 22e9, 1, 1024),
        ("32B", 22e9, 4, 1024),
        ("235B-A22B", 75e9, 8, 4096),
        ("8B", 1e9, 1, 64),
    ):
        config = models.CATALOGUE[f"Qwen/Qwen3-{name}"].config
        weights, heads = models.weight_bytes(config), config["num_key_value_heads"]
        result = answer(requests_that_fit, dict(config), weights, memory, tp, context, start=start)
        of_one_head = context * models.kv_bytes_per_token(config) / heads

        def count(kv_heads, share, room=memory, of_one_head=of_one_head):
            return (room - share) / (of_one_head * kv_heads)

        right = count(max(1, heads // tp), weights / tp)
        if result == max(0, int(right)):
            if result and not isinstance(result, int):
                raise Hint("请求数是整数：int(...)。", "requests are a whole number: int(...).")
            continue
        if right < 0:
            raise Hint(
                "权重都放不下时返回 0，不是负数。", "return 0, not a negative number, where the weights do not fit."
            )
        if int(result) in (int(right), round(right)):
            raise Hint("半个请求不算：向下取整。", "half a request does not count: round down.")
        if int(result) == int(count(heads, weights / tp)) and tp > 1:
            raise Hint("KV 头也分给各张卡：除以 tp。", "the KV heads are shared out too: divide by tp.")
        if int(result) == int(count(heads / tp, weights / tp)):
            raise Hint(
                "头不能再切：每张卡至少存 1 个，max(1, ...)。",
                "a head is not cut: each card stores at least 1, max(1, ...).",
            )
        if int(result) == max(0, int(count(max(1, heads // tp), weights))):
            raise Hint("权重也分给各张卡：除以 tp。", "the weights are shared out too: divide by tp.")
        if int(result) == int(2 * right):
            raise Hint("少了一半：键和值都要存，每个数 2 字节。", "half is missing: keys and values, 2 bytes a number.")
        raise Hint(f"Qwen3-{name} 的结果不是 {result}。{start.zh}", f"Qwen3-{name} does not give {result}. {start.en}")
