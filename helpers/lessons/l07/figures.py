"""The figures of lesson 07: when the pieces of a stream came, and what else a token might have been."""

import math

from helpers import figures
from helpers.design import LIGHT
from helpers.language import say
from helpers.lessons.l07.exercises import read_stream

LOOKS = {"reasoning": ("o", LIGHT["first"]), "content": ("s", LIGHT["second"])}


def arrivals(chunks, moments, model):
    """When each chunk of a stream came (``moments``, seconds after the request), coloured by what it holds."""
    points: dict[str, list[tuple[float, int]]] = {"reasoning": [], "content": []}
    for chunk, moment in zip(chunks, moments, strict=True):
        thought, answer = read_stream([chunk])
        kind = "reasoning" if thought else "content"
        if thought or answer:
            points[kind].append((1000 * moment, sum(map(len, points.values())) + 1))
    figure, ax = figures.figure(height=2.6)
    for kind, found in points.items():
        if found:
            marker, colour = LOOKS[kind]
            ax.plot(*zip(*found, strict=True), marker, markersize=3.5, color=colour, label=kind)
    came = [moment for found in points.values() for moment, _ in found]
    if came:
        note = say("首个词元的时间：", "time to first token: ") + f"{min(came):.0f} ms"
        ax.axvline(min(came), color=LIGHT["strong"], linestyle="--", linewidth=1)
        ax.text(min(came), len(came), f"  {note}", va="top")
        ax.legend(loc="lower right")
    ax.set(
        xlim=0,
        xlabel=say("请求之后的毫秒数", "milliseconds since the request"),
        ylabel=say("收到的段数", "pieces received"),
        title=say(f"{model}：一条流", f"{model}: one stream"),
    )
    return figure


def rivals(tokens, model):
    """The probability of each token of a reply (``logprobs.content`` of a choice) and of its rivals."""
    figure, ax = figures.figure(height=2.6)
    for place, token in enumerate(tokens):
        for rival in token.top_logprobs:
            chosen = rival.token == token.token
            marker, colour, size = ("o", LIGHT["second"], 6) if chosen else ("_", LIGHT["first"], 10)
            ax.plot(place, math.exp(rival.logprob), marker, color=colour, markersize=size)
    ax.set_xticks(range(len(tokens)), [token.token.replace("\n", "↵") for token in tokens])
    for label in ax.get_xticklabels():
        label.set_rotation(90 if len(label.get_text()) > 1 else 0)
    title = say("选中的词元（圆点）和竞争者（短横）", "chosen token (dot) and its rivals (dashes)")
    ax.set(ylabel=say("概率", "probability"), ylim=(-0.05, 1.1), title=f"{model}: {title}")
    return figure
