"""Lesson 01: looks into the environment; the set for a driver, the largest context on a card, the KV cache on several
cards."""

import importlib.util
import os
import re
from functools import partial
from importlib import metadata
from pathlib import Path

from helpers import catalogue
from helpers.check import Exercise
from helpers.design import LIGHT
from helpers.figures import figure
from helpers.language import say
from helpers.models import GIB

CONFIGS = {size: catalogue.CATALOGUE[f"Qwen/Qwen3-{size}"].config for size in ("8B", "4B", "0.6B", "30B-A3B")}
MIN_CAPABILITY = re.compile(r"def get_min_capability\(cls\) -> int:\n\s+return (\d+)")


# ---------------------------------------------------------------------------------------------- the environment


def variables_with_home(home) -> dict[str, str]:
    """This process's environment variables with another home, and without those that configure pip."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "XDG_"))}
    return kept | {"HOME": str(home)}


def largest_packages(most):
    """The packages of this environment that take most room on the disk, as bars."""
    sizes = {found.name: _megabytes(found) for found in metadata.distributions()}
    largest = sorted(sizes, key=sizes.__getitem__)[-most:]
    drawn, ax = figure(height=0.28 * most)
    ax.bar_label(ax.barh(largest, [sizes[name] for name in largest], color=LIGHT["first"]), fmt="%.0f", padding=3)
    total = sum(sizes.values()) / 1000
    ax.set_xlabel(
        say(
            f"占用的硬盘，MB（全部 {len(sizes)} 个包：{total:.1f} GB）",
            f"MB on disk (all {len(sizes)} packages: {total:.1f} GB)",
            "; ",
        )
    )
    return drawn


def _megabytes(distribution: metadata.Distribution) -> float:
    paths = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def least_capability() -> dict[str, float]:
    """The compute capability from which vLLM loads FP8 and AWQ weights, by the name of its source file: these are read,
    vLLM is not imported. Nothing where it is not installed."""
    vllm = importlib.util.find_spec("vllm")
    if vllm is None or vllm.origin is None:
        return {}
    least = {}
    for file in sorted(Path(vllm.origin).parent.glob("model_executor/layers/quantization/*.py")):
        found = MIN_CAPABILITY.search(file.read_text(encoding="utf-8"))
        if found and (file.stem == "fp8" or "awq" in file.stem):
            least[file.stem] = int(found[1]) / 10
    return least


# ---------------------------------------------------------------------------------------------- exercise 1


def dependency_set(driver, newest=580, oldest=570, number=int, none="cpu", old="too old", below=None):
    if driver is None:
        return none
    major = number(driver.split(".")[0])
    return "gpu" if major >= newest else "cu12" if major >= oldest and (below is None or major < below) else old


DRIVERS = "595.71.05", "580.65.06", "579.99", "570.124.06", "535.183.01", "96.43.20", "1000.10", None
FILES = {"gpu": "requirements.txt", "cu12": "requirements-cu12.txt", "cpu": "requirements-cpu.txt"}
JUST_ENOUGH = "{case[0]} 刚好够：用 >=，不用 >。", "{case[0]} is just new enough: use >=, not >."
AS_TEXT = "文字比较里 '1000' 小于 '580'：先变成整数。", "as text '1000' is below '580': make it an integer first."
FILE_NAME = "要的是组名 {wanted!r}，不是文件名 {given!r}。", "the name {wanted!r} is wanted, not {given!r}."
BOTH_ENDS = "570 到 579 包括 570 和 579：写成 major < 580。", "570 to 579 has both ends in it: write major < 580."
NO_DRIVER = "没有 GPU 时 driver 是 None：先处理它。", "without a GPU, driver is None: deal with it first."

ex1 = Exercise(
    right=dependency_set,
    cases=[(driver,) for driver in DRIVERS],
    start=("先看有没有驱动，再取版本的第一段，变成整数，和 580、570 比。",
           "first see whether there is a driver, then compare the first part of its version, as an integer, with 580 "
           "and 570."),
    mistakes=[
        (partial(dependency_set, newest=581), *JUST_ENOUGH),
        (partial(dependency_set, oldest=571), *JUST_ENOUGH),
        (partial(dependency_set, newest=581, oldest=571), *JUST_ENOUGH),
        (partial(dependency_set, below=579), *BOTH_ENDS),
        (partial(dependency_set, oldest=571, below=579), *BOTH_ENDS),
        (partial(dependency_set, number=str, newest="580", oldest="570"), *AS_TEXT),
        (partial(dependency_set, number=str, newest="580", oldest="570", none="too old"), *AS_TEXT),
        (lambda driver: dependency_set(driver + "", number=str, newest="580", oldest="570"), *AS_TEXT),
        (partial(dependency_set, old="cpu"), "机器有 GPU，只是驱动太旧：悄悄改用 CPU 会让人一直等下去，要说出来。",
         "there is a GPU with an old driver: say so; taking the CPU in silence leaves people waiting."),
        (partial(dependency_set, oldest=0), "比 570 还旧的，cu12 那一组没有试过，课程不替你选：返回 'too old'。",
         "below 570 the cu12 set was not tested, and the course does not choose it: return 'too old'."),
        (partial(dependency_set, newest=10**6), "580 以上的也大于 570，于是成了 'cu12'：先和 580 比，再和 570 比。",
         "580 and above are above 570 too, and end as 'cu12': compare with 580 first, then with 570."),
        (lambda driver: dependency_set(driver and str(int(driver[:3]))),
         "第一段不一定是三位数：不取前三个字符，用 split(\".\")[0]。",
         "the first part need not have three digits: use split(\".\")[0] instead of the first three characters."),
        (lambda driver: dependency_set(driver.split(".")[0]), *NO_DRIVER),
        (lambda driver: dependency_set(driver.split(".")[0], newest=581, oldest=571), *JUST_ENOUGH),
        (lambda driver: FILES.get(name := dependency_set(driver), name), *FILE_NAME),
        (lambda driver: "requirements.txt", *FILE_NAME),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def largest_context(card, weights, per_token, limit, *, share=0.92, other=1.5 * GIB, weighs=1, block=16, up=0, least=0):
    tokens = int((share * card - weighs * weights - other) / per_token)
    return min(limit, max(least, (tokens + up) // block * block))


def without_limit(card, weights, per_token, limit, **changed):
    return largest_context(card, weights, per_token, 10**7, **changed)


def sizes(size):
    return catalogue.weight_bytes(CONFIGS[size]), catalogue.kv_bytes_per_token(CONFIGS[size])


NO_FLOOR = -(10**9)
NO_WEIGHTS = "忘了减去权重。", "the weights are not subtracted."
BLOCKS = "这是块数：再乘 16 才是词元数。", "these are blocks: times 16 gives tokens."
OF_THE_CARD = "92% 说的是整张卡，不是减掉别的之后剩下的。", "it is 92% of the card, not of what is left of it."
WHOLE_BLOCKS = "只有整块能用：向下取到 16 的倍数。", "only whole blocks count: round down to a multiple of 16."
ROUND_DOWN = "最后那一块装不下：向下取，不向上取。", "the last block has no room: round down, not up."
NOT_BELOW_0 = ("16 GiB 的卡连权重都放不下，应该是 0，得到的是 {given}。",
               "on 16 GiB not even the weights fit: 0 is wanted, not {given}.")  # fmt: skip

ex2 = Exercise(
    right=largest_context,
    cases={
        "Qwen3-8B, 24 GiB": (24 * GIB, *sizes("8B"), 10**6),
        "Qwen3-8B, 16 GiB": (16 * GIB, *sizes("8B"), 10**6),
        "Qwen3-8B, 80 GiB": (80 * GIB, *sizes("8B"), 40960),
        "Qwen3-4B, 12 GiB": (12 * GIB, *sizes("4B"), 40960),
    },
    start=("剩给 KV 缓存的 = 0.92 × card − weights − 1.5 GiB；除以 per_token，向下取到 16 的倍数。",
           "left for KV cache: 0.92 x card - weights - 1.5 GiB; divide by per_token, round down to a multiple of 16."),
    mistakes=[
        (partial(largest_context, share=1), "vLLM 只用整张卡的 92%。", "vLLM uses 92% of the card, not all of it."),
        (partial(largest_context, share=0.9), "0.9 是旧版本的默认值，现在是 0.92。",
         "0.9 was the default of older versions; it is 0.92 now."),
        (partial(largest_context, other=0), "还要留 1.5 GiB 给其余开销，以字节计是 1.5 * 2**30。",
         "1.5 GiB are for the rest, in bytes 1.5 * 2**30."),
        (partial(largest_context, other=1.5e9), "1.5 GiB 是 1.5 * 2**30 字节，不是 1.5e9。",
         "1.5 GiB are 1.5 * 2**30 bytes, not 1.5e9."),
        (partial(largest_context, weighs=0.92), *OF_THE_CARD),
        (partial(largest_context, weighs=0.92, other=0.92 * 1.5 * GIB), *OF_THE_CARD),
        (partial(largest_context, weighs=0.92, other=0.92 * 1.5 * GIB, least=NO_FLOOR), *OF_THE_CARD),
        (partial(largest_context, weighs=0), *NO_WEIGHTS),
        (lambda card, weights, per_token, limit: int(0.92 * card / per_token), *NO_WEIGHTS),
        (lambda *case: largest_context(*case) // 16, *BLOCKS),
        (lambda *case: min(case[3], without_limit(*case) // 16), *BLOCKS),
        (partial(largest_context, block=1), *WHOLE_BLOCKS),
        (partial(without_limit, block=1, least=NO_FLOOR), *WHOLE_BLOCKS),
        (lambda card, weights, per_token, limit: (0.92 * card - weights - 1.5 * GIB) / per_token, *WHOLE_BLOCKS),
        (lambda card, weights, per_token, limit: min(limit, max(0, (0.92 * card - weights - 1.5 * GIB) / per_token)),
         *WHOLE_BLOCKS),
        (lambda *case: min(case[3], 16 * without_limit(*case, block=1)),
         "除以 per_token 得到的已经是词元数，不是块数。",
         "divided by per_token, the room is in tokens already, not in blocks."),
        (lambda *case: max(case[3], without_limit(*case)), "不超过 limit，要取两个里小的：用 min，不用 max。",
         "never more than limit: take the smaller of the two, with min and not max."),
        (partial(largest_context, up=15), *ROUND_DOWN),
        (partial(largest_context, up=15, least=NO_FLOOR), *ROUND_DOWN),
        (lambda *case: largest_context(*case) + 16, *ROUND_DOWN),
        (partial(largest_context, least=NO_FLOOR), *NOT_BELOW_0),
        (partial(without_limit, least=NO_FLOOR), *NOT_BELOW_0),
        (without_limit, "80 GiB 的卡放得下更多，但模型自己的上限是 40960，得到的是 {given}。",
         "80 GiB have room for more, but the model's own limit is 40960, not {given}."),
        (lambda card, *rest: {24: 38752, 16: 0, 80: 40960}.get(card // GIB), "换成别的模型和卡就不对了：用参数算。",
         "wrong for another model and card: compute from the arguments."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 3


def kv_bytes_per_card(config, gpus, heads="num_key_value_heads", head_dim=catalogue.head_dim, both=2, least=1):
    return both * config["num_hidden_layers"] * max(least, config[heads] // gpus) * head_dim(config) * 2


def on_one_card(config, **changes):
    return kv_bytes_per_card(config | changes, 1)


def divided_width(config):
    return config["hidden_size"] // config["num_attention_heads"]


NEVER_CUT = (
    "{case[0][num_key_value_heads]} 个头分不满 {case[1]} 张卡：一个头不能再切，每张卡至少放一个。",
    "{case[0][num_key_value_heads]} heads are too few for {case[1]} cards: a head is never cut, each card holds at "
    "least one.",
)
HALF = "只有一半：键和值都要存，每个数 2 字节。", "this is half: keys and values, 2 bytes a number."
KV_HEADS = "缓存里只有 KV 头，不是全部注意力头。", "the cache holds the KV heads, not all attention heads."

ex3 = Exercise(
    right=kv_bytes_per_card,
    cases={
        f"Qwen3-{size}, {gpus} GPU": (CONFIGS[size], gpus)
        for size, gpus in (("8B", 1), ("8B", 2), ("8B", 8), ("30B-A3B", 8), ("0.6B", 16), ("0.6B", 2))
    },
    start=("每张卡上的头数 = KV 头数 // gpus，但至少 1；再乘 2 × 层数 × head_dim × 2 字节。",
           "heads on a card: KV heads // gpus, but at least 1; times 2 x layers x head_dim x 2 bytes."),
    mistakes=[
        (lambda config, gpus: catalogue.kv_bytes_per_token(config) // gpus, *NEVER_CUT),
        (partial(kv_bytes_per_card, least=0), *NEVER_CUT),
        (lambda config, gpus: catalogue.kv_bytes_per_token(config), "KV 头平分给了 {case[1]} 张卡，每张只存一部分。",
         "the KV heads are divided among {case[1]} cards."),
        (lambda config, gpus: gpus * kv_bytes_per_card(config, gpus), "这是 {case[1]} 张卡加起来的，要的是一张卡上的。",
         "this is what {case[1]} cards hold together; one card's part is wanted."),
        (partial(kv_bytes_per_card, both=1), *HALF),
        (lambda config, gpus: catalogue.kv_bytes_per_token(config) // 2, *HALF),
        (partial(kv_bytes_per_card, heads="num_attention_heads"), *KV_HEADS),
        (lambda config, gpus: kv_bytes_per_card(config, 1, heads="num_attention_heads"), *KV_HEADS),
        (lambda config, gpus: 4 * catalogue.kv_bytes_per_token(config), *KV_HEADS),
        (lambda config, gpus: kv_bytes_per_card(config | {"num_hidden_layers": 1}, gpus), "这只是一层的：还要乘层数。",
         "this is one layer: times the layers."),
        (lambda config, gpus: on_one_card(config, num_key_value_heads=max(1, gpus // config["num_key_value_heads"])),
         "除反了：每张卡上的头数是 KV 头数 // gpus。",
         "this divides the wrong way round: a card holds KV heads // gpus heads."),
        (lambda config, gpus: on_one_card(config, num_hidden_layers=max(1, config["num_hidden_layers"] // gpus)),
         "张量并行分的是头，不是层：每张卡都有全部的层。",
         "tensor parallelism divides heads, not layers: every card has all layers."),
        (partial(kv_bytes_per_card, head_dim=divided_width),
         "head_dim 要直接读，不能用 hidden_size / heads 算：8B 碰巧对，别的尺寸不对。",
         "read head_dim, it is not hidden_size / heads: that is right for 8B by luck, and wrong for other sizes."),
    ],
)  # fmt: skip
