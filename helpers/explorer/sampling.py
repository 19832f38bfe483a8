"""The sampling explorer: what temperature, top-k, top-p and min-p make of a model's real next-token distribution."""

import base64

import numpy as np

from helpers import design, figures, models
from helpers.explorer import page
from helpers.language import say
from helpers.tokens import shown

JAVASCRIPT = page.javascript("sampling", "errors", "sample")
NAMED = 60  # tokens whose text travels along; the probabilities of all others do too
LABELS = {
    "zh": {
        "title": "采样",
        "summary": "{model} · 词表 {vocab} 个词元 · 下一个词元的真实概率",
        "position": "位置",
        "temperature": "温度",
        "topK": "top-k",
        "topP": "top-p",
        "minP": "min-p",
        "off": "关",
        "greedy": "0（贪心）",
        "presets": "预设",
        "asIs": "原样",
        "thinking": "思考",
        "direct": "非思考",
        "bars": "下一个词元",
        "barsNote": "灰：模型给的概率 · 蓝：采样用的概率 · 圈：实际抽到的比例",
        "kept": "{kept} / {vocab} 个词元可能被抽到",
        "cut": "剪掉的概率（温度之后）",
        "entropy": "熵（比特）",
        "entropyNow": "{before} → {after}",
        "numbers": "数字",
        "draw": "抽 {count} 次",
        "drawn": "已抽 {total} 次",
        "again": "清零",
        "table": "表格：前 {count} 个词元",
        "token": "词元",
        "model": "模型",
        "sampling": "采样",
        "spoken": "{kept} 个词元可能被抽到，第一名 {token}，概率 {value}",
        "order": "次序同 vLLM：先温度，再 min-p、top-k、top-p，最后归一。",
        "tiny": "这是教学用的小模型，它的概率不代表真正的 Qwen3。",
    },
    "en": {
        "title": "Sampling",
        "summary": "{model} · vocabulary of {vocab} tokens · its real next-token probabilities",
        "position": "position",
        "temperature": "temperature",
        "topK": "top-k",
        "topP": "top-p",
        "minP": "min-p",
        "off": "off",
        "greedy": "0 (greedy)",
        "presets": "presets",
        "asIs": "as it is",
        "thinking": "thinking",
        "direct": "non-thinking",
        "bars": "Next token",
        "barsNote": "grey: the model's probability · blue: what sampling uses · ring: share of real draws",
        "kept": "{kept} of {vocab} tokens can be drawn",
        "cut": "probability cut (after temperature)",
        "entropy": "entropy (bits)",
        "entropyNow": "{before} → {after}",
        "numbers": "In numbers",
        "draw": "draw {count}",
        "drawn": "{total} drawn",
        "again": "reset",
        "table": "Table: the first {count} tokens",
        "token": "token",
        "model": "model",
        "sampling": "sampling",
        "spoken": "{kept} tokens can be drawn, the first is {token} with probability {value}",
        "order": "In vLLM's order: temperature, then min-p, top-k, top-p, and last the rest is renormalised.",
        "tiny": "This is a tiny teaching model; its probabilities say nothing about a real Qwen3.",
    },
}


class SamplingExplorer(page.Explorer):
    """Shows next-token distributions: ``positions`` maps a text to vLLM's ``logprobs[0]`` behind it.

    Ask for them with ``SamplingParams(logprobs=-1)`` on an engine opened with ``max_logprobs=-1``. model: its name.
    """

    _esm = JAVASCRIPT

    def __init__(self, positions: dict, model: str = "?"):
        tiny = (models.BUNDLED / model).is_dir()
        super().__init__(
            data={
                "model": model,
                "captions": ["order", *(["tiny"] if tiny else [])],
                "positions": [_position(text, logprobs) for text, logprobs in positions.items()],
            }
        )

    @classmethod
    def common(cls) -> dict:
        return {
            "labels": LABELS,
            "presets": {
                "asIs": {"temperature": 1, "topK": 0, "topP": 1, "minP": 0},
                "thinking": {"temperature": 0.6, "topK": 20, "topP": 0.95, "minP": 0},
                "direct": {"temperature": 0.7, "topK": 20, "topP": 0.8, "minP": 0},
            },
        }

    def __repr__(self) -> str:
        return f"SamplingExplorer({len(self.data['positions'])} positions, {self.data['model']})"

    def picture(self):
        positions = self.data["positions"]
        drawn, axes = figures.figure(1, len(positions), height=2.4, sharey=True, squeeze=False)
        for ax, position in zip(axes[0], positions, strict=True):
            logprobs = np.frombuffer(base64.b64decode(position["logprobs"]), "<f4")[:12]
            ax.bar(range(len(logprobs)), np.exp(logprobs), color=design.LIGHT["first"])
            pieces = [bytes.fromhex(piece) for piece in position["bytes"][: len(logprobs)]]
            names = [figures.token_label(piece) for piece in pieces]
            ax.set_xticks(range(len(logprobs)), names, rotation=60)
            ax.set_title(f"{figures.printable(position['text'][-24:].encode())} … ({self.data['model']})")
        axes[0][0].set_ylabel(say("概率", "probability"))
        return drawn


def _position(text: str, logprobs: dict) -> dict:
    """One position as JSON: all log-probabilities as little-endian float32, the likeliest first, and some texts."""
    ordered = sorted(logprobs.items(), key=lambda item: -item[1].logprob)
    pieces = [(entry.decoded_token or "").encode() for _, entry in ordered[:NAMED]]
    return {
        "text": text,
        "tokenIds": [token for token, _ in ordered[:NAMED]],
        "texts": [shown(piece) for piece in pieces],
        "bytes": [piece.hex() for piece in pieces],
        "logprobs": base64.b64encode(np.array([entry.logprob for _, entry in ordered], "<f4").tobytes()).decode(),
    }
