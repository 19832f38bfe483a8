"""The routing explorer: which experts every token of a trace took, in every layer, to click through."""

import base64
import json

import numpy as np
import traitlets

from helpers import models
from helpers.design import EXPERTS, LIGHT, ON
from helpers.explorer import live, page
from helpers.figures import figure, pale, printable
from helpers.language import say
from helpers.routing import RoutingTrace, expert_load, gini
from helpers.tokens import shown

FLOW_CSS = (page.FOLDER / "play" / "flow.css").read_text(encoding="utf-8")
FLOW = f"const FLOW_CSS = {json.dumps(FLOW_CSS)};\n{page.plain_script('flow', folder='play')}"
JAVASCRIPT = page.javascript("routing", before=FLOW)
LABELS = {
    "zh": {
        "title": "专家路由",
        "summary": "{model} · {captured_with} · {layers} 层 × {tokens} 个词元，{numExperts} 个专家里选 {topK} 个",
        "layer": "层",
        "layerNow": "第 {layer} 层",
        "colour": "颜色表示",
        "byExpert": "专家",
        "byEntropy": "路由的熵",
        "legendExpert": "数字：权重最大的专家",
        "pinned": "这一层有 {count} / {tokens} 个词元选了专家 {expert}",
        "legendEntropy": "1 = 各专家机会均等",
        "play": "▶ 逐个播放",
        "pause": "⏸ 暂停",
        "prompt": "提示词",
        "generated": "模型生成",
        "experts": "选中词元的专家",
        "about": "词元 {token}「{text}」 · id {id} · 字节 {bytes}",
        "aboutEntropy": " · 熵 {value}（最大 {max}）",
        "tile": "点击：只突出选了专家 {expert} 的词元，再点一次取消",
        "chosen": "专家 {expert}",
        "chosenHere": "选中",
        "noWeight": "权重未记录",
        "flow": "选中词元走的路",
        "flowNote": "每层一列，带子越宽，权重越大；淡的是前面的词元",
        "own": "写一句你自己的话，让网页里的模型来答",
        "ask": "提问",
        "fetching": "正在下载模型：{percent}%",
        "working": "正在算……",
        "failed": "没有算成：检查网络，或者写短一点，再试一次。",
        "silent": "内核没有回答：等正在运行的格结束，或者把这一格再运行一次。",
        "here": "你的浏览器",
        "ownCaption": "这段话是你自己写的，由教学用的小模型现算：它懂得很少，也不代表真正的 Qwen3。",
        "load": "这一层的负载",
        "loadNote": "第 {layer} 层 · 虚线：完全均衡（各 {uniform} 个词元） · 基尼系数 {gini} · {unused} 个专家没用到",
        "map": "选中词元走过的所有层",
        "mapNote": "行是层，列是专家，颜色越浓权重越大；点一行就换到那一层",
        "table": "表格：选中词元的专家与权重",
        "expertIds": "专家",
        "weights": "权重",
        "spoken": "词元 {token} {text}，第 {layer} 层，专家 {experts}",
    },
    "en": {
        "title": "Expert routing",
        "summary": "{model} · {captured_with} · {layers} layers × {tokens} tokens, {topK} of {numExperts} experts each",
        "layer": "layer",
        "layerNow": "layer {layer}",
        "colour": "colour shows",
        "byExpert": "expert",
        "byEntropy": "routing entropy",
        "legendExpert": "number: the heaviest expert",
        "pinned": "{count} of {tokens} tokens took expert {expert} in this layer",
        "legendEntropy": "1 = all experts equally likely",
        "play": "▶ play",
        "pause": "⏸ pause",
        "prompt": "prompt",
        "generated": "generated",
        "experts": "Experts of the selected token",
        "about": "token {token} “{text}” · id {id} · bytes {bytes}",
        "aboutEntropy": " · entropy {value} (at most {max})",
        "tile": "click: highlight the tokens that took expert {expert}; click again to undo",
        "chosen": "expert {expert}",
        "chosenHere": "chosen",
        "noWeight": "weight not recorded",
        "flow": "The way of the selected token",
        "flowNote": "a column for each layer; a wider ribbon is a larger weight; paler: the tokens before",
        "own": "Write a text of your own; the model in this page answers",
        "ask": "Ask",
        "fetching": "Fetching the model: {percent}%",
        "working": "Working …",
        "failed": "It did not work: check the network, or write less, and try again.",
        "silent": "The kernel does not answer: wait for the cell that runs, or run this cell again.",
        "here": "your browser",
        "ownCaption": "Your own text, and a tiny teaching model: it knows little and says nothing about a real Qwen3.",
        "load": "Load of this layer",
        "loadNote": "layer {layer} · dashed: perfect balance ({uniform} each) · Gini {gini} · unused experts: {unused}",
        "map": "The selected token through all layers",
        "mapNote": "rows are layers, columns are experts, stronger colour: larger weight; click a row to go there",
        "table": "Table: experts and weights of the selected token",
        "expertIds": "experts",
        "weights": "weights",
        "spoken": "token {token} {text}, layer {layer}, experts {experts}",
    },
}


class RoutingExplorer(page.Explorer):
    """Shows a :class:`helpers.routing.RoutingTrace`; the arrow keys move through tokens and layers.

    token, layer: what is selected at first; ``layer`` counts the rows of the trace. Where no widget runs (a notebook
    that was opened and not executed, GitHub), :func:`token_routes` stands in its place.

    Of the bundled mixture of experts it also takes the reader's own text: the page runs the model itself, on files that
    the kernel sends when they are asked for.
    """

    _esm = JAVASCRIPT
    takes_text = traitlets.Bool(False).tag(sync=True)

    def __init__(self, trace: RoutingTrace, token=0, layer=0):
        self.trace = trace
        super().__init__(data=_data(trace) | {"token": token, "layer": layer})
        self.takes_text = trace.provenance.get("model") == live.MODEL.name
        self.on_msg(self._send_model)

    def _send_model(self, _, content, buffers):
        if content.get("type") == "model":
            contents = live.read()
            self.send({"files": live.described(contents)}, [live.worker().encode(), *contents.values()])

    @classmethod
    def common(cls) -> dict:
        from matplotlib import colormaps

        scale = (colormaps["viridis"](np.linspace(0, 1, 64))[:, :3] * 255).round().astype(int)
        hexadecimal = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in scale.tolist()]
        return {"labels": LABELS, "expertColours": EXPERTS, "scale": hexadecimal}

    def __repr__(self) -> str:
        layers, tokens, _ = self.trace.expert_ids.shape
        return f"RoutingExplorer({layers} layers x {tokens} tokens, {self.trace.num_experts} experts)"

    def picture(self):
        return token_routes(self.trace, self.data["token"], self.data["layer"])


def token_routes(trace: RoutingTrace, token=0, row=0):
    """One token: its experts and their weights in every layer, and the load of the layer in ``row`` of the trace."""
    from matplotlib.patches import Rectangle

    layers, experts, few = len(trace.layers), np.arange(trace.num_experts), trace.num_experts <= len(EXPERTS)
    ids: np.ndarray = trace.expert_ids[:, token].astype(int)
    weights = np.ones(ids.shape) if trace.weights is None else trace.weights[:, token].astype(float)
    drawn, (ax, load) = figure(1, 2, height=max(2.6, 0.17 * layers + 1), width_ratios=[1.3, 1])
    ax.set(xlim=(-0.6, trace.num_experts - 0.4), ylim=(layers - 0.4, -0.6))
    for (place, _), expert, weight in zip(np.ndindex(ids.shape), ids.flat, weights.flat, strict=True):
        colour = EXPERTS[expert] if few else LIGHT["first"]
        for height, fill in ((1, pale(colour)), (weight, colour)):
            ax.add_patch(Rectangle((expert - 0.46, place + 0.45), 0.92, -0.9 * height, color=fill, linewidth=0))
        if few and trace.weights is not None:
            ax.text(expert, place, f"{weight:.2f}".removeprefix("0"), ha="center", va="center", color=ON, fontsize=9)
    if few:
        ax.set_xticks(experts, experts)
    step = 1 if layers <= 16 else 4
    ax.set_yticks(np.arange(0, layers, step), trace.layers[::step])
    ax.set(xlabel=say("专家", "expert"), ylabel=say("层", "layer"))
    if trace.weights is None:
        ax.set_title(say("它在每一层的专家，权重未记录", "its experts, weights not recorded"))
    else:
        ax.set_title(say("它在每一层的专家和权重", "its experts and weights, by layer"))
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    counts = expert_load(trace)[row]
    mine = [EXPERTS[expert] if few else LIGHT["first"] for expert in experts]
    load.bar(experts, counts, color=[mine[e] if e in ids[row] else LIGHT["quiet"] for e in experts])
    load.axhline(counts.mean(), color=LIGHT["strong"], linestyle="--", linewidth=1)
    load.set(xlabel=say("专家", "expert"), ylabel=say("词元", "tokens"))
    layer = trace.layers[row]
    load.set_title(say(f"第 {layer} 层的负载（彩色：它的）", f"load of layer {layer} (its in colour)"))
    if few:
        load.set_xticks(experts)
    text, of, model = printable(trace.pieces[token]), len(trace.token_ids), trace.provenance.get("model", "?")
    drawn.suptitle(
        say(f"第 {token} 个词元（共 {of} 个）「{text}」，模型 {model}", f"Token {token} of {of}, “{text}”, in {model}"),
        x=0.01, ha="left",
    )  # fmt: skip
    return drawn


def _data(trace):
    """What the JavaScript needs, as JSON; fractions become 16-bit integers, of which 65535 is the whole."""
    entropy = None if trace.entropy is None else trace.entropy.astype(float) / np.log(trace.num_experts)
    joined = {
        start: {"length": stop - start, "text": shown(b"".join(trace.pieces[start:stop]))}
        for start, stop in trace.characters
        if stop - start > 1
    }
    bits = 8 if trace.num_experts <= 256 else 16
    return {
        "captions": captions(trace),
        "about": {key: trace.provenance.get(key, "?") for key in ("model", "captured_with")},
        "texts": [shown(piece) for piece in trace.pieces],
        "bytes": [piece.hex(" ").upper() for piece in trace.pieces],
        "tokenIds": trace.token_ids.tolist(),
        "groups": joined,
        "promptLength": trace.prompt_length,
        "layers": list(trace.layers),
        "numExperts": trace.num_experts,
        "topK": trace.top_k,
        "gini": gini(expert_load(trace)).tolist(),
        "expertBits": bits,
        "experts": base64.b64encode(trace.expert_ids.astype(f"<u{bits // 8}").tobytes()).decode(),
        "weights": _fractions(trace.weights),
        "entropy": _fractions(entropy),
    }


def _fractions(values):
    if values is None:
        return None
    return base64.b64encode((values.astype(float).clip(0, 1) * 65535).round().astype("<u2").tobytes()).decode()


def captions(trace: RoutingTrace) -> dict[str, list[str]]:
    """What the picture does not show, to stand beside every view of a trace: one list of sentences per language."""
    k, rest = trace.top_k, trace.num_experts - trace.top_k
    weights = {
        None: (
            "引擎只给出了选中的专家，没有给出权重：选中的专家看起来都一样。",
            "The engine reported which experts were chosen, not their weights: all of them look alike.",
        ),
        True: (
            f"权重在选中的 {k} 个专家之间重新归一化过，看不到另外 {rest} 个专家的概率。",
            f"The weights are renormalised over the chosen {k} and hide the probability of the other {rest}.",
        ),
        False: (
            f"权重是对全部专家做 softmax 得到的概率，选中的 {k} 个加起来小于 1。",
            f"The weights are probabilities over all experts, so those of the chosen {k} add up to less than 1.",
        ),
    }
    pairs = [
        (
            "选中的频率只说明相关：既不等于某个专家的专长，也不是因果。",
            "Selection frequency shows association, not an expert's speciality or a causal effect.",
        ),
        (
            "不同层里编号相同的专家彼此无关。",
            "Experts with the same number in different layers have nothing to do with each other.",
        ),
        weights[trace.renormalised],
        (
            f"这只是一段 {len(trace.pieces)} 个词元的文字：这里没用到的专家，别处可能会用到。",
            f"This is one text of {len(trace.pieces)} tokens; experts unused here may be used elsewhere.",
        ),
    ]
    about = {key: trace.provenance.get(key, "?") for key in ("model", "dtype", "captured_with", "date")}
    source = "{model}, {dtype}, {captured_with}, {date}".format(**about)
    if trace.provenance.get("weights") == "random":
        pairs.append(("权重是随机的：只能看形状，没有含义。", "Random weights: shapes only, no meaning."))
    elif (models.BUNDLED / about["model"]).is_dir():
        pairs.append(
            (
                "这是教学用的小模型，它的路由不代表真正的 Qwen3。",
                "This is a tiny teaching model; its routing says nothing about a real Qwen3.",
            )
        )
    pairs.append((f"记录自：{source}。", f"Recorded from: {source}."))
    zh, en = zip(*pairs, strict=True)
    return {"zh": list(zh), "en": list(en)}
