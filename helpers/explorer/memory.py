"""The memory calculator: what a Qwen model takes on a GPU, and the largest context that still fits."""

from helpers import catalogue
from helpers.config import layers
from helpers.design import EXPERTS, LIGHT, ON
from helpers.explorer import page
from helpers.figures import figure
from helpers.language import say
from helpers.models import GIB
from helpers.sets import CAPABILITY

JAVASCRIPT = page.javascript("memory")
DTYPES = ("bf16", "fp8", "awq")
GPUS = (1, 2, 4, 8)
MODELS = catalogue.CATALOGUE | catalogue.LATER
COLOURS = {"weights": EXPERTS[0], "kvCache": EXPERTS[1], "other": EXPERTS[-1]}
CARDS = (  # the memory that nvidia-smi reports, in GiB and rounded to halves, and cards that have it
    (12, "RTX 3060"),
    (15, "T4"),
    (16, "RTX 4080"),
    (22.5, "A10, L4"),
    (24, "RTX 3090, RTX 4090"),
    (32, "RTX 5090"),
    (40, "A100 40GB"),
    (45, "L20, L40S"),
    (48, "RTX A6000"),
    (80, "A100 80GB, H100"),
    (96, "H20"),
    (140, "H200"),
)
OLDEST = ".".join(map(str, CAPABILITY))
LABELS = {
    "zh": {
        "title": "显存计算器",
        "summary": "权重、KV 缓存和其余开销各占多少显存；改一个选项，看看最长的上下文变成多少",
        "model": "模型",
        "dtype": "权重精度",
        "card": "显卡",
        "cardName": "{memory} GiB（{names}）",
        "gpus": "几张卡",
        "context": "上下文，词元",
        "sequences": "同时的序列",
        "kv": "KV 缓存精度",
        "useLargest": "用最长的",
        "bar": "每张卡上的显存",
        "weights": "权重",
        "kvCache": "KV 缓存",
        "other": "其余",
        "usable": "vLLM 会用 {size} GiB",
        "wholeCard": "整张卡 {size} GiB",
        "fits": "放得下，还剩 {size} GiB",
        "tooLong": "放不下：差 {size} GiB。把上下文降到 {context} 以内，或减少同时的序列",
        "tooBig": "放不下：权重加其余开销就比 vLLM 能用的多 {size} GiB。换量化的版本、更大的卡，或者加卡",
        "noHeads": "切不开：{heads} 个注意力头不能平分给 {gpus} 张卡",
        "noWidths": "切不开：MLP 的宽度或词表不能平分给 {gpus} 张卡",
        "noBlocks": "切不开：FP8 权重每 {block} 个共用一个缩放系数，{inner} / {gpus} 不是 {block} 的整数倍",
        "largest": "{sequences} 个序列同时跑满时，最长的上下文",
        "largestModel": "（模型本身的上限）",
        "most": "上下文 {context} 时，最多同时跑满",
        "mostUnit": "{count} 个序列",
        "perToken": "每个词元的 KV 缓存",
        "onEach": "每张卡",
        "state": "另加每个序列 {size} MiB",
        "download": "下载大小（bf16）",
        "uncounted": "这里没有算：文件里还有视觉等部分",
        "published": "发布的版本：{id}",
        "unpublished": "这张表里没有官方的 {dtype} 版本，数字是按同样的方法估计的",
        "table": "表格：这样的卡上，每个模型最长的上下文",
        "none": "放不下",
        "cannot": "切不开",
    },
    "en": {
        "title": "GPU memory calculator",
        "summary": "what weights, KV cache and the rest take; change a setting and see the largest context",
        "model": "model",
        "dtype": "weights",
        "card": "GPU",
        "cardName": "{memory} GiB ({names})",
        "gpus": "cards",
        "context": "context, tokens",
        "sequences": "sequences at once",
        "kv": "KV cache in",
        "useLargest": "use the largest",
        "bar": "Memory on each card",
        "weights": "weights",
        "kvCache": "KV cache",
        "other": "the rest",
        "usable": "vLLM uses {size} GiB",
        "wholeCard": "the card: {size} GiB",
        "fits": "It fits, with {size} GiB to spare",
        "tooLong": "It does not fit by {size} GiB: take a context of at most {context}, or fewer sequences at once",
        "tooBig": "It does not fit: weights and the rest alone exceed what vLLM uses by {size} GiB. Take a quantised "
        "version, a larger card or more cards",
        "noHeads": "It cannot be split: {heads} attention heads do not divide by {gpus} cards",
        "noWidths": "It cannot be split: the width of the MLP or the vocabulary does not divide by {gpus} cards",
        "noBlocks": "It cannot be split: {block} FP8 weights share a scale, and {inner} / {gpus} is no multiple of "
        "{block}",
        "largest": "largest context with {sequences} full sequences at once",
        "largestModel": "(the model's own limit)",
        "most": "at a context of {context}, full at once",
        "mostUnit": "{count} sequences",
        "perToken": "KV cache per token",
        "onEach": "on each card",
        "state": "and {size} MiB a sequence",
        "download": "download (bf16)",
        "uncounted": "not counted: the files hold a vision tower too",
        "published": "published as {id}",
        "unpublished": "this table knows no official {dtype} version; the figures are estimated the same way",
        "table": "Table: the largest context of every model on such cards",
        "none": "does not fit",
        "cannot": "no split",
    },
}
CAPTIONS = {
    "zh": [
        "计算得来，没有一个数字是在 GPU 上测的。",
        f"vLLM 默认使用整张卡的 {catalogue.GPU_SHARE:.0%}（gpu_memory_utilization）。列表里是 nvidia-smi 报出的显存，"
        "有的卡比名义值少：A10 和 L4 叫 24 GB，只有 22.5 GiB。",
        f"计算能力低于 {OLDEST} 的旧卡（V100、P40、GTX 1080 Ti）不在列表里：显存再大，课程的 vLLM 也不能在上面运行，"
        "请用 make env SET=cpu。",
        "MIG 切片按它自己的显存算。GB10 与 CPU 共用内存，nvidia-smi 读不出多少，以 vLLM 启动时报的为准。",
        f"“其余”是激活值、CUDA 图和 CUDA 上下文，按 {catalogue.OTHER_MEMORY / GIB:g} GiB 估计，实际约 1 到 2 GiB。",
        "bf16 权重由结构精确算出；FP8 和 AWQ 是估计：词嵌入和输出矩阵保持 bf16，其余每个权重 1 或 0.52 字节。",
        "多张卡指张量并行：权重平分；卡比 KV 头多时，KV 头会重复存放。混合专家的 FP8 按 vLLM 0.32 的规则切。",
        "Qwen3.5、3.6 是 Qwen3 之后的系列：四层里只有一层有 KV 缓存，其余每个序列存一份大小固定的状态。"
        "只算文字部分；课程不运行它们。",
    ],
    "en": [
        "Computed; not one of these numbers was measured on a GPU.",
        f"vLLM uses {catalogue.GPU_SHARE:.0%} of a card by default (gpu_memory_utilization). The list has the memory "
        "that nvidia-smi reports, for some cards less than the nominal: A10 and L4, of 24 GB, have 22.5 GiB.",
        f"Old cards below compute capability {OLDEST} (V100, P40, GTX 1080 Ti) are not in the list: however much "
        "memory they have, the course's vLLM does not run on them; use make env SET=cpu.",
        "A MIG slice counts by its own memory. A GB10 shares the CPU's memory and nvidia-smi does not tell how much: "
        "what fits, vLLM says as it starts.",
        f"“The rest” is activations, CUDA graphs and the CUDA context: {catalogue.OTHER_MEMORY / GIB:g} GiB is a "
        "guess, really about 1 to 2 GiB.",
        "bf16 weights follow exactly from the architecture; FP8 and AWQ are estimates: embedding and output matrix "
        "stay bf16, every other weight takes 1 or 0.52 bytes.",
        "Several cards mean tensor parallel: weights are split evenly; with more cards than KV heads, heads are stored "
        "more than once. FP8 mixtures of experts are cut by the rule of vLLM 0.32.",
        "Qwen3.5 and 3.6 came after Qwen3: one layer in four has a KV cache, the others keep a state of fixed size for "
        "each sequence. Their text part alone is counted; the course does not run them.",
    ],
}


class MemoryExplorer(page.Explorer):
    """What a model of :data:`MODELS` takes on GPUs, as :func:`helpers.catalogue.fits` computes it.

    The arguments are what is set at first: ``card`` in GiB, one of :data:`CARDS`; ``dtype`` of the weights and ``kv``
    of the cache ("bf16", "fp8"). Where no widget runs, :func:`gpu_memory` stands in its place.
    """

    _esm = JAVASCRIPT

    def __init__(self, model="Qwen/Qwen3-8B", card=24, context=8192, sequences=1, dtype="bf16", kv="bf16", gpus=1):
        start = {
            "model": model,
            "card": card,
            "context": context,
            "sequences": sequences,
            "dtype": dtype,
            "kv": kv,
            "gpus": gpus,
        }
        super().__init__(data={"start": start})

    @classmethod
    def common(cls) -> dict:
        return _data()

    def __repr__(self) -> str:
        return "MemoryExplorer({model}, {dtype}, {gpus} x {card} GiB)".format(**self.data["start"])

    def picture(self):
        start = self.data["start"]
        return gpu_memory(
            start["model"],
            start["card"],
            context=start["context"],
            sequences=start["sequences"],
            kv_bytes=1 if start["kv"] == "fp8" else 2,
            gpus=start["gpus"],
        )


def gpu_memory(model="Qwen/Qwen3-8B", card=24, context=8192, sequences=1, kv_bytes=2, gpus=1):
    """What a model of :data:`MODELS` takes on each card of ``card`` GiB, bf16, FP8 and AWQ.

    The arithmetic is :func:`helpers.catalogue.fits`; FP8 and AWQ are estimates, and nothing was measured on a GPU.
    """
    config = MODELS[model].config
    drawn, ax = figure(height=3.1)
    rows = {dtype: catalogue.fits(config, card * GIB, context, sequences, dtype, kv_bytes, gpus) for dtype in DTYPES}
    longest = max(card, *((fit.weights + fit.kv_cache + fit.other) / GIB for fit in rows.values()))
    for row, fit in enumerate(rows.values()):
        left = 0.0
        for name, size, label in (
            ("weights", fit.weights, say("权重", "weights")),
            ("kvCache", fit.kv_cache, say("KV 缓存", "KV cache")),
            ("other", fit.other, say("其余（估计）", "the rest (a guess)")),
        ):
            ax.barh(
                row, size / GIB, 0.62, left, color=COLOURS[name], edgecolor=LIGHT["bg"], label=None if row else label
            )
            if size > 0.05 * longest * GIB:
                ax.text(left + size / GIB / 2, row, f"{size / GIB:.1f}", ha="center", va="center", color=ON, fontsize=9)
            left += size / GIB
        largest = say("放不下", "does not fit")
        if fit.max_context:
            largest = say(f"最长上下文 {fit.max_context:,}", f"largest context {fit.max_context:,}")
        ax.text(1.02 * longest, row, largest, va="center", fontsize=9)
    bars = ax.get_legend_handles_labels()
    lines = [
        # behind the bars: it crosses the number of a short one
        ax.axvline(card * catalogue.GPU_SHARE, color=LIGHT["strong"], linestyle="--", linewidth=1.2, zorder=0),
        ax.axvline(card, color=LIGHT["strong"], linewidth=1.5),
    ]
    drawn.legend(
        [*bars[0], *lines], [*bars[1], say("vLLM 会用", "vLLM uses"), say("整张卡", "the card")],
        ncols=3, loc="outside lower left", frameon=False, fontsize=9,
    )  # fmt: skip
    ax.set_yticks(range(3), ["bf16", *(say(f"{name}（估计）", f"{name} (estimate)") for name in ("FP8", "AWQ"))])
    ax.invert_yaxis()
    ax.set_xlim(0, 1.45 * longest)
    ax.set_xticks([tick for tick in ax.get_xticks() if tick <= longest])
    ax.spines["bottom"].set_bounds(0, longest)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(
        say(
            f"每张卡上的 GiB，算出来的，没有测量；\n上下文 {context:,}，同时 {sequences} 个序列",
            f"GiB on each card, computed, not measured;\ncontext {context:,}, {sequences} at once",
        )
    )
    ax.set_title(say(f"{model}，{gpus} × {card} GiB", f"{model} on {gpus} x {card} GiB"))
    return drawn


def _data():
    return {
        "labels": LABELS,
        "captions": CAPTIONS,
        "models": {name: _model(name, release) for name, release in MODELS.items()},
        "gpus": GPUS,
        "cards": CARDS,
        "share": catalogue.GPU_SHARE,
        "other": catalogue.OTHER_MEMORY,
        "kvBlock": catalogue.KV_BLOCK,
        "fp8Block": catalogue.FP8_BLOCK,
        "colours": COLOURS,
    }


def _model(name, release):
    config = release.config
    full, linear = layers(config)
    return {
        "weights": {dtype: catalogue.weight_bytes(config, dtype) for dtype in DTYPES},
        "kv": {"bf16": catalogue.kv_bytes_per_token(config), "fp8": catalogue.kv_bytes_per_token(config, 1)},
        "state": catalogue.state_bytes_per_sequence(config),
        "layers": {"full": full, "linear": linear},
        "heads": config["num_attention_heads"],
        "kvHeads": config["num_key_value_heads"],
        "inner": config.get("intermediate_size") or config["moe_intermediate_size"],
        "obstacle": {dtype: {gpus: catalogue.obstacle(config, gpus, dtype) for gpus in GPUS} for dtype in DTYPES},
        "maxContext": config["max_position_embeddings"],
        "download": release.download if name in catalogue.CATALOGUE else None,
        "published": list(release.quantised),
    }
