"""The schedule explorer: what vLLM's scheduler did in every step of a trace, to play, to scrub and to step through."""

from helpers import models
from helpers.design import EXPERTS, LIGHT, ON
from helpers.explorer import page
from helpers.figures import figure, pale
from helpers.language import say
from helpers.schedule_trace import ScheduleTrace, Step

JAVASCRIPT = page.javascript("schedule")
COLOURED = len(EXPERTS) - 1  # requests that have a colour each; the last one is that of shared blocks
ROWS = 24  # requests that a figure has room for
CELLS = 24  # blocks beside each other in a figure
LINES = 6  # of them below each other
LABELS = {
    "zh": {
        "title": "调度器，一步一步看",
        "summary": "{model} · vLLM {vllm} · {requests} 个请求，{steps} 步，{blocks} 个块，每块 {size} 个词元",
        "summaryPlanned": "{model} · {requests} 个请求，{steps} 步，{blocks} 个块，每块 {size} 个词元",
        "step": "步",
        "now": "第 {step} 步 / {last}",
        "play": "▶ 播放",
        "pause": "⏸ 暂停",
        "whole": "全部",
        "close": "近看",
        "keys": "左右键换一步，上下键换请求",
        "timeline": "请求和步",
        "rows": "{requests} 个请求在 {steps} 步里的状态，每行一个请求",
        "prefill": "提示词（一段或整个）",
        "decode": "解码：一个新词元",
        "waiting": "等待",
        "preempted": "被抢占，等待恢复",
        "idle": "占着位子，这一步没算",
        "end": "结束",
        "factTokens": "词元",
        "factRunning": "运行",
        "factFree": "空闲块",
        "factWaiting": "等待",
        "comma": "、",
        "more": "{names} 等，另有 {count} 个",
        "oneBlock": "1 块",
        "blocks": "{count} 块",
        "gives": "还回 {blocks}",
        "stay": "（另外 {count} 块还有别人在用）",
        "gone": "{request} 结束{reason}，写了 {outputs} 个词元，{gives}。",
        "goneMore": "还有 {names} 也结束了。",
        "reason_stop": "（停止词元）",
        "reason_length": "（长度到了上限）",
        "reason_abort": "（被取消）",
        "reason_error": "（出错）",
        "reason_repetition": "（重复）",
        "arrived": "新到：{names}。",
        "preemptedNow": "{request} 被抢占，{gives}，以后要重新算。",
        "preemptedMore": "还有 {names} 也被抢占。",
        "resumed": "{request} 恢复：重新算已有的 {known} 个词元，这一步算 {tokens} 个。",
        "resumedHit": "{request} 恢复：{known} 个词元里有 {hit} 个还在前缀缓存里，这一步算 {tokens} 个。",
        "resumedMore": "还有 {names} 也恢复了。",
        "started": "{request} 开始：提示词 {prompt} 个词元，这一步算 {tokens} 个。",
        "startedHit": "{request} 开始：提示词 {prompt} 个词元，前 {hit} 个在前缀缓存里，这一步算 {tokens} 个。",
        "startedMore": "还有 {names} 也开始了。",
        "onward": "{request} 接着算提示词：又算 {tokens} 个，算到第 {to} 个，共 {prompt} 个。",
        "again": "{request} 接着重新算：又算 {tokens} 个，算到第 {to} 个，共 {known} 个。",
        "onwardMore": "还有 {names} 也在接着算。",
        "decoding": "解码，每个请求一个词元：{names}。",
        "guessing": "{request} 猜了 {drafts} 个词元，猜中 {accepted} 个。",
        "guessingMore": "还有 {names} 也在猜。",
        "waits": "等待：{names}。",
        "whyPreempted": "这一步有请求被抢占，所以不让新的进来。",
        "whySeats": "同时运行的已有 {count} 个，到了 max_num_seqs。",
        "whyBudget": "这一步的 {count} 个词元用完了（max_num_batched_tokens）。",
        "whyBlocks": "{request} 要 {needs} 块，空闲的只有 {free} 块。",
        "whyNot": "",
        "pool": "这一步的块池",
        "poolNote": "在用 {used} 块，空闲 {free} 块",
        "poolShared": "；几个请求共用的 {count} 块带内框",
        "poolRest": "；另外 {count} 块一直没用过，没有画",
        "heldBy": "块 {block}：{names}",
        "isFree": "块 {block}：空闲",
        "blockTable": "选中请求的块表",
        "about": "{request}：{state}，提示词 {prompt} 个词元",
        "aboutEnd": "，一共写 {outputs} 个",
        "aboutBlocks": "；{held} 个词元在 {blocks}里，每块 {size} 个",
        "noBlocks": "；没有块",
        "holds": "块 {block}：第 {from} 到 {to} 个词元",
        "sharedBy": "（共用：{names}）",
        "is_prefill": "算提示词",
        "is_chunk": "算一段提示词",
        "is_decode": "解码",
        "is_waiting": "等待",
        "is_preempted": "被抢占",
        "is_idle": "这一步没算",
        "is_notYet": "还没到",
        "is_isGone": "已结束",
        "table": "表格：这一步的请求",
        "request": "请求",
        "state": "状态",
        "tokens": "这一步的词元",
        "held": "缓存里的词元",
        "blocksIds": "块",
    },
    "en": {
        "title": "The scheduler, step by step",
        "summary": "{model} · vLLM {vllm} · {requests} requests, {steps} steps, {blocks} blocks of {size} tokens",
        "summaryPlanned": "{model} · {requests} requests, {steps} steps, {blocks} blocks of {size} tokens",
        "step": "step",
        "now": "step {step} / {last}",
        "play": "▶ play",
        "pause": "⏸ pause",
        "whole": "all steps",
        "close": "close up",
        "keys": "left and right: a step; up and down: a request",
        "timeline": "Requests and steps",
        "rows": "{requests} requests in {steps} steps, a row each",
        "prefill": "prompt, whole or a chunk",
        "decode": "decode: one new token",
        "waiting": "waits",
        "preempted": "preempted, waits to resume",
        "idle": "runs, left out of the step",
        "end": "end",
        "factTokens": "tokens",
        "factRunning": "running",
        "factFree": "free blocks",
        "factWaiting": "waiting",
        "comma": ", ",
        "more": "{names} and {count} more",
        "oneBlock": "1 block",
        "blocks": "{count} blocks",
        "gives": "gives {blocks} back",
        "stay": " ({count} more stay, others use them)",
        "gone": "{request} has ended{reason} after {outputs} new tokens and {gives}.",
        "goneMore": "{names} have ended, too.",
        "reason_stop": " (stop token)",
        "reason_length": " (length limit)",
        "reason_abort": " (cancelled)",
        "reason_error": " (error)",
        "reason_repetition": " (repetition)",
        "arrived": "New: {names}.",
        "preemptedNow": "{request} is preempted and {gives}; its tokens will be computed again.",
        "preemptedMore": "{names} are preempted, too.",
        "resumed": "{request} resumes: {tokens} of its {known} tokens are computed again.",
        "resumedHit": "{request} resumes: {hit} of {known} tokens are still in the prefix cache, {tokens} computed.",
        "resumedMore": "{names} resume, too.",
        "started": "{request} starts: {tokens} of its {prompt} prompt tokens are computed.",
        "startedHit": "{request} starts: {hit} of {prompt} prompt tokens are in the prefix cache, {tokens} computed.",
        "startedMore": "{names} start, too.",
        "onward": "{request} goes on with its prompt: {tokens} more tokens, now {to} of {prompt}.",
        "again": "{request} goes on to recompute: {tokens} more tokens, now {to} of {known}.",
        "onwardMore": "{names} go on, too.",
        "decoding": "Decode, one token each: {names}.",
        "guessing": "{request} guesses {drafts} tokens, {accepted} of them right.",
        "guessingMore": "{names} guess, too.",
        "waits": "Waiting: {names}. ",
        "whyPreempted": "A step that preempts lets nobody in.",
        "whySeats": "{count} requests run, the limit of max_num_seqs.",
        "whyBudget": "The step's {count} tokens are used up (max_num_batched_tokens).",
        "whyBlocks": "{request} needs {needs} blocks, and {free} are free.",
        "whyNot": "",
        "pool": "Block pool in this step",
        "poolNote": "{used} in use, {free} free",
        "poolShared": "; shared by several requests, with an inner frame: {count}",
        "poolRest": "; {count} more were never used and are not drawn",
        "heldBy": "block {block}: {names}",
        "isFree": "block {block}: free",
        "blockTable": "Block table of the selected request",
        "about": "{request}: {state}; prompt tokens: {prompt}",
        "aboutEnd": ", written in the end: {outputs}",
        "aboutBlocks": "; {held} tokens in {blocks} of {size}",
        "noBlocks": "; no blocks",
        "holds": "block {block}: tokens {from} to {to}",
        "sharedBy": "(shared: {names})",
        "is_prefill": "prompt",
        "is_chunk": "chunk of a prompt",
        "is_decode": "decode",
        "is_waiting": "waits",
        "is_preempted": "preempted",
        "is_idle": "left out of this step",
        "is_notYet": "not there yet",
        "is_isGone": "has ended",
        "table": "Table: the requests of this step",
        "request": "request",
        "state": "state",
        "tokens": "tokens in this step",
        "held": "tokens in the cache",
        "blocksIds": "blocks",
    },
}


class ScheduleExplorer(page.Explorer):
    """Shows a :class:`helpers.schedule_trace.ScheduleTrace`; the arrow keys move through steps and requests.

    step, request: what is selected at first. Where no widget runs, :func:`steps_and_blocks` stands in its place.
    """

    _esm = JAVASCRIPT

    def __init__(self, trace: ScheduleTrace, step=0, request=0):
        self.trace = trace
        trace.at(step)  # an index that is out of range says so here
        about = {"model": "?", "dtype": "?"} | trace.provenance
        super().__init__(
            data={
                "labels": LABELS,
                "captions": captions(trace),
                "about": about,
                "colours": EXPERTS,
                "trace": {name: value for name, value in trace.data().items() if name != "provenance"},
                "step": step,
                "request": request,
            }
        )

    def __repr__(self) -> str:
        return f"ScheduleExplorer({len(self.trace.requests)} requests, {len(self.trace)} steps)"

    def picture(self):
        return steps_and_blocks(self.trace, self.data["step"])


def captions(trace: ScheduleTrace) -> dict[str, list[str]]:
    """What the picture does not show, to stand beside every view of a trace: one list of sentences per language."""
    pairs = [
        (
            "一步是模型算一遍：调度器先定好每个请求算几个词元，再一起算。",
            "A step is one pass of the model: the scheduler first decides how many tokens of each request are in it.",
        ),
        (
            "请求按到来的次序编号：r0 最早。块表和空闲块都是这一步正在算的时候的。",
            "Requests are numbered as they arrived, r0 first. Tables and free blocks are those while the step runs.",
        ),
    ]
    if trace.settings.async_scheduling:
        pairs.append(
            (
                "异步调度：一步的结果还没出来，下一步已经排好，所以结束的请求晚一步才还回块。",
                "Async scheduling: a step is planned before the results of the last one are in, so an ended request "
                "gives its blocks back a step later.",
            )
        )
    model, dtype, vllm = (trace.provenance.get(key, "?") for key in ("model", "dtype", "vllm"))
    if (models.BUNDLED / model).is_dir():
        pairs.append(
            (
                "这是教学用的小模型；调度器只数词元和块，换成真正的 Qwen3 也是同样的规则。",
                "This is a tiny teaching model. The scheduler only counts tokens and blocks: its rules are the same "
                "with a real Qwen3.",
            )
        )
    if "vllm" in trace.provenance:  # else it was planned, not recorded
        pairs.append((f"记录自：{model}，{dtype}，vLLM {vllm}。", f"Recorded from: {model}, {dtype}, vLLM {vllm}."))
    zh, en = zip(*pairs, strict=True)
    return {"zh": list(zh), "en": list(en)}


# ---------------------------------------------------------------------------------------------- the static figure

MARKS = {  # condition -> height of its box, colour
    "prefill": (0.82, LIGHT["first"]),
    "decode": (0.4, LIGHT["third"]),
    "waiting": (0.22, LIGHT["quiet"]),
    "preempted": (0.22, LIGHT["second"]),
    "idle": (0.1, LIGHT["rest"]),
}


def steps_and_blocks(trace: ScheduleTrace, step=0):
    """Above, when each request waited, read its prompt, wrote and was preempted; below, the block pool in ``step``.

    Of many requests the first ones are drawn, of many blocks those from the first on that is ever used; the titles say
    of how many.
    """
    rows, now = min(len(trace.requests), ROWS), trace.at(step)
    pool = range(1, trace.settings.num_blocks)
    if len(pool) > CELLS * LINES:
        used = [block for change in trace.changes for blocks in change.blocks.values() for block in blocks] or [1]
        pool = range(min(used), max(used) + 1)[: CELLS * LINES]
    lines = -(-len(pool) // CELLS)
    heights = [0.9 + 0.2 * rows, 0.5 + 0.32 * lines]
    drawn, (above, below) = figure(2, 1, height=sum(heights), height_ratios=heights)
    _draw_rows(above, trace, rows, step)
    _draw_pool(below, trace, now, pool, lines)
    return drawn


def _draw_rows(ax, trace: ScheduleTrace, rows: int, step: int) -> None:
    spans: dict[str, list] = {name: [] for name in MARKS}  # (request, first step) of boxes that are one step wide
    ran: set[int] = set()
    for now in trace.replay():
        ran |= now.tables.keys()
        for request in now.tables.keys() | now.waiting:
            waits = "preempted" if request in ran else "waiting"
            name = now.kinds.get(request, "idle" if request in now.tables else waits).replace("chunk", "prefill")
            if request < rows:
                spans[name].append((request, now.index))
    names = {
        "prefill": say("提示词", "prompt"),
        "decode": say("解码", "decode"),
        "waiting": say("等待", "waits"),
        "preempted": say("被抢占", "preempted"),
        "idle": say("这一步没算", "left out"),
    }
    for name, (height, colour) in MARKS.items():
        for number, (request, first, steps) in enumerate(_joined(spans[name])):
            label = None if number else names[name]
            ax.barh(request, steps, height, first - 0.5, color=colour, linewidth=0, label=label)
    ends = [(entry.gone - 0.5, number) for number, entry in enumerate(trace.requests[:rows]) if entry.gone is not None]
    ax.scatter(*zip(*ends, strict=True) if ends else ([], []), marker="|", s=45, color=LIGHT["strong"])
    ax.axvline(step, color=LIGHT["accent"], linewidth=1.4)
    ax.set(ylim=(rows - 0.4, -0.6), yticks=range(rows), xlim=(-0.7, len(trace) - 0.3))
    ax.set_yticklabels([f"r{request}" for request in range(rows)])
    ax.set(xlabel=say(f"步（竖线：第 {step} 步）", f"step (line: step {step})"))
    of = "" if rows == len(trace.requests) else say(f"，共 {len(trace.requests)} 个", f" of {len(trace.requests)}")
    planned = "" if "vllm" in trace.provenance else trace.provenance.get("model", "")  # by whom, if it is no recording
    zh, en = (f"{planned}：", f"{planned}: ") if planned else ("", "")
    ax.set_title(say(f"{zh}{rows} 个请求{of}，{len(trace)} 步", f"{en}{rows} requests{of}, {len(trace)} steps"))
    ax.tick_params(axis="y", length=0)
    ax.figure.legend(*ax.get_legend_handles_labels(), ncols=5, loc="outside lower left", frameon=False, fontsize=9)


def _joined(cells: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Boxes of one step, joined where they touch: (request, first step, steps)."""
    joined: list[tuple[int, int, int]] = []
    for request, step in sorted(cells):
        if joined and joined[-1][0] == request and sum(joined[-1][1:]) == step:
            joined[-1] = (request, joined[-1][1], joined[-1][2] + 1)
        else:
            joined.append((request, step, 1))
    return joined


def _draw_pool(ax, trace: ScheduleTrace, now: Step, pool: range, lines: int) -> None:
    from matplotlib.patches import Rectangle

    few, shared = len(trace.requests) <= COLOURED, now.shared
    holder = {block: request for request, table in now.tables.items() for block in table}
    size = trace.settings.block_size
    filled: dict[int, float] = {}
    for request, table in now.tables.items():
        held = now.computed[request] + now.tokens.get(request, 0)
        filled |= {block: min(1, max(0, held / size - place)) for place, block in enumerate(table)}
    for place, block in enumerate(pool):
        x, y = place % CELLS, place // CELLS
        colour = None
        if block in holder:
            colour = EXPERTS[-1] if block in shared else EXPERTS[holder[block] if few else 0]
            ax.add_patch(Rectangle((x - 0.45, y - 0.4), 0.9, 0.8, facecolor=pale(colour), edgecolor="none"))
            ax.add_patch(Rectangle((x - 0.45, y - 0.4), 0.9 * filled[block], 0.8, facecolor=colour, edgecolor="none"))
        ax.add_patch(Rectangle((x - 0.45, y - 0.4), 0.9, 0.8, fill=False, edgecolor=LIGHT["rest"], linewidth=0.8))
        text = f"r{holder[block]}" if colour and block not in shared else block if not colour else "+"
        ax.text(x, y, text, ha="center", va="center", fontsize=9, color=ON if colour else LIGHT["muted"])
    ax.set(xlim=(-0.6, CELLS - 0.4), ylim=(lines - 0.4, -0.6), xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    used, of = len(holder), trace.settings.num_blocks - 1
    ax.set_title(
        say(
            f"第 {now.index} 步的块池：{of} 块里用了 {used} 块，空闲 {now.free} 块（+：共用，数字：空闲）",
            f"pool in step {now.index}: {used} of {of} blocks in use, {now.free} free (+: shared, number: free)",
        )
    )
