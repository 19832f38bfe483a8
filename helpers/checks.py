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


# ---------------------------------------------------------------------------------------------- lesson 01


@exercise
def exercise_01_1(dependency_set):
    """``dependency_set(driver)``: "580.65.06" or None -> "gpu", "cu12", "cpu" or "too old"."""
    start = Hint(
        "先看有没有驱动，再取版本的第一段，和 580、570 比。",
        "first see whether there is a driver, then compare the first part of its version with 580 and 570.",
    )
    for driver, expected in (
        ("595.71.05", "gpu"),
        ("580.65.06", "gpu"),
        ("579.99", "cu12"),
        ("570.124.06", "cu12"),
        ("535.183.01", "too old"),
        ("1000.10", "gpu"),
        (None, "cpu"),
    ):
        result = answer(dependency_set, driver, start=start)
        if result == expected:
            continue
        if str(result).startswith("requirements"):
            raise Hint(
                f"要的是组名 {expected!r}，不是文件名 {result!r}。", f"the name {expected!r} is wanted, not {result!r}."
            )
        if driver == "1000.10":
            raise Hint(
                "文字比较里 '1000' 小于 '580'：先变成整数。", "as text '1000' is below '580': make it an integer first."
            )
        if expected == "too old" and result == "cpu":
            raise Hint(
                "机器有 GPU，只是驱动太旧：悄悄改用 CPU 会让人一直等下去，要说出来。",
                "there is a GPU with an old driver: say so; taking the CPU in silence leaves people waiting.",
            )
        if driver in ("580.65.06", "570.124.06"):
            raise Hint(f"{driver} 刚好够：用 >=，不用 >。", f"{driver} is just new enough: use >=, not >.")
        raise Hint(
            f"{driver!r} 应该得到 {expected!r}，得到的是 {result!r}。",
            f"{driver!r} should give {expected!r}, not {result!r}.",
        )


@exercise
def exercise_01_2(largest_context):
    """``largest_context(card, weights, per_token, limit)`` in bytes and tokens -> tokens, as helpers.models.fits."""
    from helpers import models

    gib = models.GIB
    start = Hint(
        "剩给 KV 缓存的 = 0.92 × card − weights − 1.5 GiB；除以 per_token，向下取到 16 的倍数。",
        "left for KV cache: 0.92 x card - weights - 1.5 GiB; divide by per_token, round down to a multiple of 16.",
    )

    def sizes(name):
        config = models.CATALOGUE[f"Qwen/Qwen3-{name}"].config
        return config, models.weight_bytes(config), models.kv_bytes_per_token(config)

    config, weights, per_token = sizes("8B")
    card, no_limit = 24 * gib, 10**6
    expected = models.fits(config | {"max_position_embeddings": no_limit}, card).max_context
    result = answer(largest_context, card, weights, per_token, no_limit, start=start)

    def tokens(share=0.92, other=1.5 * gib):
        return int((share * card - weights - other) / per_token)

    def near(value):
        return abs(result - value) <= 16

    if result != expected:
        if near(tokens(share=1)):
            raise Hint("vLLM 只用整张卡的 92%。", "vLLM uses 92% of the card, not all of it.")
        if near(tokens(share=0.9)):
            raise Hint("0.9 是旧版本的默认值，现在是 0.92。", "0.9 was the default of older versions; it is 0.92 now.")
        if near(tokens(other=0)):
            raise Hint("还要留 1.5 GiB 给其余开销。", "1.5 GiB are for the rest.")
        if near(tokens(other=1.5e9)):
            raise Hint("1.5 GiB 是 1.5 * 2**30 字节，不是 1.5e9。", "1.5 GiB are 1.5 * 2**30 bytes, not 1.5e9.")
        if near(int(0.92 * card / per_token)):
            raise Hint("忘了减去权重。", "the weights are not subtracted.")
        if int(result) * 16 == expected:
            raise Hint("这是块数：再乘 16 才是词元数。", "these are blocks: times 16 gives tokens.")
        if int(result) == tokens():
            raise Hint("只有整块能用：向下取到 16 的倍数。", "only whole blocks count: round down to a multiple of 16.")
        if result == expected + 16:
            raise Hint("最后那一块装不下：向下取，不向上取。", "the last block has no room: round down, not up.")
        raise Hint(
            f"24 GiB 上应该是 {expected}，得到的是 {result}。{start.zh}",
            f"24 GiB give {expected}, not {result}. {start.en}",
        )
    small = largest_context(16 * gib, weights, per_token, no_limit)
    if small != 0:
        raise Hint(
            f"16 GiB 的卡连权重都放不下，应该是 0，得到的是 {small}。",
            f"on 16 GiB not even the weights fit: 0 is wanted, not {small}.",
        )
    if (large := largest_context(80 * gib, weights, per_token, 40960)) != 40960:
        raise Hint(
            f"80 GiB 的卡放得下更多，但模型自己的上限是 40960，得到的是 {large}。",
            f"80 GiB have room for more, but the model's own limit is 40960, not {large}.",
        )
    config, weights, per_token = sizes("4B")
    if largest_context(12 * gib, weights, per_token, 40960) != models.fits(config, 12 * gib).max_context:
        raise Hint(
            "换成别的模型和卡就不对了：用参数算。", "wrong for another model and card: compute from the arguments."
        )


@exercise
def exercise_01_3(kv_bytes_per_card):
    """``kv_bytes_per_card(config, gpus)`` -> bytes of one token's KV cache on each card, bf16."""
    from helpers import models

    start = Hint(
        "每张卡上的头数 = KV 头数 // gpus，但至少 1；再乘 2 × 层数 × head_dim × 2 字节。",
        "heads on a card: KV heads // gpus, but at least 1; times 2 x layers x head_dim x 2 bytes.",
    )
    for size, gpus in (("8B", 1), ("8B", 2), ("8B", 8), ("30B-A3B", 8), ("0.6B", 16)):
        config = models.CATALOGUE[f"Qwen/Qwen3-{size}"].config
        result = answer(kv_bytes_per_card, dict(config), gpus, start=start)
        whole, heads = models.kv_bytes_per_token(config), config["num_key_value_heads"]
        expected = whole // heads * max(1, heads // gpus)
        if result == expected:
            continue
        if result in (whole / gpus, whole // gpus, 0):
            raise Hint(
                f"{heads} 个头分不满 {gpus} 张卡：一个头不能再切，每张卡至少放一个。",
                f"{heads} heads are too few for {gpus} cards: a head is never cut, each card holds at least one.",
            )
        if result == whole:
            raise Hint(f"KV 头平分给了 {gpus} 张卡，每张只存一部分。", f"the KV heads are divided among {gpus} cards.")
        if 2 * result == expected:
            raise Hint("只有一半：键和值都要存，每个数 2 字节。", "this is half: keys and values, 2 bytes a number.")
        if result * heads == expected * config["num_attention_heads"]:
            raise Hint("缓存里只有 KV 头，不是全部注意力头。", "the cache holds the KV heads, not all attention heads.")
        raise Hint(
            f"Qwen3-{size} 在 {gpus} 张卡上不是 {result}。{start.zh}",
            f"Qwen3-{size} on {gpus} cards is not {result}. {start.en}",
        )


# ---------------------------------------------------------------------------------------------- lesson 02


def write_safetensors(path, tensors, cut=0):
    """A safetensors file: name -> (dtype, shape, bytes); ``cut`` bytes are missing at its end."""
    import json

    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = dict(sorted(header.items(), reverse=True))  # not in the order of the bytes, as the format allows
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(end)
    path.write_bytes(content[: len(content) - cut])


SAMPLE = {"a": ("BF16", [6, 4], 48), "b": ("F32", [5], 20), "c": ("F32", [], 4)}  # 24 + 5 + 1 parameters


@exercise
def exercise_02_1(count_parameters):
    """``count_parameters(path)`` -> parameters of all tensors of a safetensors file."""
    import tempfile
    from pathlib import Path

    from helpers import models

    start = Hint(
        "读 8 个字节得到 JSON 的长度，读 JSON，把每个张量 shape 的连乘加起来。",
        "8 bytes give the length of the JSON; read it, then add up the product of each tensor's shape.",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        write_safetensors(path, SAMPLE)
        size = path.stat().st_size
        try:
            result = answer(count_parameters, path, start=start)
        except KeyError as error:
            if error.args[0] in ("shape", "data_offsets", "dtype"):
                raise Hint("先去掉 __metadata__：它不是张量。", "leave __metadata__ out: it is no tensor.") from None
            raise
    for wrong, zh, en in (
        (3, "这是张量的个数。", "this counts tensors."),
        (4, "这是 JSON 的条目数。", "this counts the entries of the JSON."),
        (15, "shape 要连乘，不是相加。", "multiply the shape's numbers, do not add them."),
        (29, "形状为空的张量是 1 个数，不是 0 个。", "a tensor of empty shape is 1 number, not 0."),
        (
            72,
            "这是字节数：不同类型的参数占的字节数不同，用 shape 算。",
            "these are bytes, which differ by dtype: use shape.",
        ),
        (36, "这是字节数的一半，只有 bf16 才对；用 shape 算。", "half of the bytes is right for bf16 only: use shape."),
        (
            size // 2,
            "文件里还有文件头，也不是每种类型都占 2 字节。",
            "the file has a header too, and not every dtype takes 2 bytes.",
        ),
    ):
        if result == wrong:
            raise Hint(zh, en)
    if result != 30:
        raise Hint(f"应该是 30，得到的是 {result}。{start.zh}", f"30 is wanted, not {result}. {start.en}")
    file = models.BUNDLED / "qwen3-tiny" / "model.safetensors"
    if count_parameters(file) != models.parameters(models.read_config(file.parent)):
        raise Hint("qwen3-tiny 的结果不对。" + start.zh, "wrong for qwen3-tiny. " + start.en)


@exercise
def exercise_02_2(is_whole):
    """``is_whole(path)`` -> whether a safetensors file has exactly the size that its header asks for."""
    import tempfile
    from pathlib import Path

    start = Hint(
        "正好的大小 = 8 + JSON 的长度 + 最大的 data_offsets[1]。",
        "the right size is 8 + the length of the JSON + the largest data_offsets[1].",
    )
    with tempfile.TemporaryDirectory() as folder:

        def ask(cut, tensors=SAMPLE):
            path = Path(folder, "model.safetensors")
            write_safetensors(path, tensors, cut)
            return path.stat().st_size, answer(is_whole, path, start=start)

        try:
            size, result = ask(0)
            if result is not True:
                raise Hint(
                    "完整的文件应该返回 True：有没有算上前 8 个字节和 JSON？结束位置取最大的，不是最后一项的。",
                    "a whole file gives True: are the 8 bytes and the JSON counted? Take the largest end, not the last "
                    "entry's.",
                )
            for cut in (1, 60):
                if ask(cut)[1] is not False:
                    raise Hint(f"少了 {cut} 个字节的文件应该返回 False。", f"a file short of {cut} bytes gives False.")
        except KeyError as error:
            if error.args[0] in ("shape", "data_offsets", "dtype"):
                raise Hint("先去掉 __metadata__：它不是张量。", "leave __metadata__ out: it is no tensor.") from None
            raise

        def refuses(zh, en):
            try:
                result = is_whole(path)
            except Exception as error:
                kind = type(error).__name__
                raise Hint(f"{zh}要返回 False，现在抛出了 {kind}。", f"{en} gives False; this raises {kind}.") from None
            if result is not False:
                raise Hint(f"{zh}应该返回 False。", f"{en} gives False.")

        path = Path(folder, "model.safetensors")
        for left in (40, 8, 3, 0):
            write_safetensors(path, SAMPLE, size - left)
            refuses(
                f"文件头被截断、只剩 {left} 个字节的文件", f"a file cut in its header, of which {left} bytes are left,"
            )
        path.write_text("<!DOCTYPE html><title>502 Bad Gateway</title>")
        refuses("根本不是 safetensors 的文件", "a file that is no safetensors at all, with a gigantic length in front,")


@exercise
def exercise_02_3(missing_shards):
    """``missing_shards(folder)`` -> sorted names of the weight files that should be there and are not."""
    import json
    import tempfile
    from pathlib import Path

    start = Hint(
        "weight_map 的值是文件名：去重，留下不存在的，排序。",
        "the values of weight_map are file names: each once, those that are not there, sorted.",
    )
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        names = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
        weight_map = {f"layer.{number}.{part}": names[number % 4] for number in range(8) for part in ("up", "down")}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
        (folder / names[0]).write_bytes(b"x")
        (folder / names[1]).write_bytes(b"x")
        (folder / f"{names[2]}.incomplete").write_bytes(b"x")
        result = answer(missing_shards, folder, start=start)
        if isinstance(result, set | tuple):
            raise Hint("要一个排好序的列表：sorted(...)。", "a sorted list is wanted: sorted(...).")
        if len(result) > len(set(result)):
            raise Hint(
                "同一片出现了多次：先放进集合去重。", "a shard appears more than once: put them into a set first."
            )
        if any(name in weight_map for name in result):
            raise Hint(
                "这些是张量名（键），要的是文件名（值）。", "these are tensors (keys); the file names are the values."
            )
        if result == names:
            raise Hint(
                "已经在的也列出来了：只要不存在的。", "files that are there are listed too: only the missing ones."
            )
        if result == names[3:]:
            raise Hint(
                ".incomplete 只是半个文件，那一片也算缺少。", ".incomplete is half a file: that shard is missing too."
            )
        if result != names[2:]:
            raise Hint(f"应该是 {names[2:]}，得到的是 {result}。", f"{names[2:]} is wanted, not {result}.")
        index.unlink()
        try:
            result = missing_shards(folder)
        except FileNotFoundError:
            raise Hint(
                "没有索引时不要报错：应有的是 model.safetensors。", "without the index, expect model.safetensors."
            ) from None
        if result != ["model.safetensors"]:
            raise Hint(
                f"没有索引也没有 model.safetensors，应该返回 ['model.safetensors']，得到的是 {result}。",
                f"with neither an index nor model.safetensors, ['model.safetensors'] is wanted, not {result}.",
            )
        (folder / "model.safetensors").write_bytes(b"x")
        if missing_shards(folder) != []:
            raise Hint("model.safetensors 在，什么都不缺。", "model.safetensors is there, so nothing is missing.")


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
    given = router_logits.clone().requires_grad_()
    with torch.enable_grad():
        result = answer(load_balancing_loss, given, 2, start=start)
    if isinstance(result, int | float):
        raise Hint(
            "应该返回张量，才能求梯度：不要用 .item()。", "a tensor is wanted, for its gradient: do without .item()."
        )
    if same_tensor(result, expected):
        if not result.requires_grad:
            raise Hint(
                "数值对了，可是梯度断了：不要用 .detach()、.item()、torch.tensor(...) 或 torch.no_grad()。",
                "the value is right, but its gradient is lost: do without .detach(), .item(), torch.tensor(...) and "
                "torch.no_grad().",
            )
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
def capstone_A1(measured, report, choose_budget):
    """The capstone's two measurements: rows of ``budget, right, tokens``, and the same for the service.

    ``choose_budget`` is the learner's solution of exercise 4: with its stub the budget was chosen by nobody.
    """
    if choose_budget(measured, 0.2) is ...:
        raise Hint(
            "两边都测到了，但预算是暂代的 64：先做练习 4，再从上线那一格起重新运行。",
            "both sides are measured, but 64 was a stand-in: solve exercise 4, then run again from the serving cell.",
        )
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
