"""The chat panel: talk to a server from a notebook, with streaming, thoughts folded away and a stop button."""

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import anywidget
import traitlets

from helpers import language
from helpers.endpoint import parted, thought_of
from helpers.explorer import page

if TYPE_CHECKING:
    from openai import Stream

JAVASCRIPT = page.javascript("chat")
PAUSE = 0.1  # seconds between two updates of the page: each sends all turns
SAMPLING = {  # Qwen's advice with and without thinking
    True: {"temperature": 0.6, "top_p": 0.95},
    False: {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5},
}
LABELS = {
    "zh": {
        "title": "聊天面板",
        "placeholder": "写点什么，按 Enter 发送（Shift+Enter 换行）",
        "send": "发送",
        "stop": "■ 停止",
        "clear": "清空",
        "think": "先思考",
        "thought": "思考过程",
        "thinking": "思考中…",
        "you": "你",
        "stopped": "已停止",
        "cut": "长度用完，没有说完",
        "cut thought": "长度用完，停在思考里，没有答案",
        "only thought": "只有思考，没有答案",
        "taken": "没有答案：被服务器的思考解析器拿走了（--reasoning-parser：Qwen3 用 qwen3，Instruct-2507 不用）",
        "empty": "答案是空的",
        "gone": "服务器没有回应，也许已经停了：重新运行启动它的那一格，再运行这一格",
    },
    "en": {
        "title": "Chat panel",
        "placeholder": "Write something; Enter sends, Shift+Enter is a new line",
        "send": "Send",
        "stop": "■ Stop",
        "clear": "Clear",
        "think": "think first",
        "thought": "Thought",
        "thinking": "Thinking…",
        "you": "you",
        "stopped": "stopped",
        "cut": "cut: no room left",
        "cut thought": "cut within the thought: no room left, no answer",
        "only thought": "a thought and no answer",
        "taken": "no answer: the server's reasoning parser took it "
        "(--reasoning-parser: qwen3 for Qwen3, none for Instruct-2507)",
        "empty": "the answer is empty",
        "gone": "the server does not answer, it may have been stopped: run the cell that starts it, then this one",
    },
}


class ChatPanel(anywidget.AnyWidget):
    """A conversation with ``model`` through ``client`` (an ``openai.OpenAI``); ``turns`` holds what was said.

    A turn is a dictionary with ``role``, ``text``, ``thought`` and ``state``: ``open``, ``done``, ``stopped``, ``cut``,
    one of those that say why there is no answer (``LABELS``), or an error's text. Only ``text`` goes back to the model
    as history, and a thought that a server without a reasoning parser leaves in the content is none of it. Replies are
    read in a thread, so that the kernel stays free for the stop button; all text reaches the page as text, never as
    HTML.
    """

    _esm = JAVASCRIPT
    labels = traitlets.Dict(LABELS).tag(sync=True)
    lang = traitlets.Unicode(allow_none=True).tag(sync=True)  # the page's language; None: what its address names
    model = traitlets.Unicode().tag(sync=True)
    turns: traitlets.List[dict[str, str]] = traitlets.List().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)

    def __init__(self, client, model: str):
        super().__init__(model=model, lang=language.LANGUAGE)
        self._client, self._stopping = client, threading.Event()
        self._thread: threading.Thread | None = None
        self._open: Stream | None = None
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return f"ChatPanel({self.model}, {len(self.turns)} turns)"

    def ask(self, text: str, thinking: bool = True) -> None:
        """Send ``text`` and return at once; the reply grows in the last of ``turns`` until ``busy`` is False."""
        if self.busy or not text.strip():
            return
        self._stopping.clear()
        asked = {"role": "user", "text": text, "thought": "", "state": "done"}
        self.turns = [*self.turns, asked, {"role": "assistant", "text": "", "thought": "", "state": "open"}]
        self.busy = True
        self._thread = threading.Thread(target=self._reply, args=(thinking,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the reply that is being read, even while nothing comes; the server stops generating it."""
        self._stopping.set()
        if self._open is None:
            return
        with contextlib.suppress(AttributeError, KeyError, OSError):  # not a socket's, or over already
            network = self._open.response.extensions["network_stream"]
            network.get_extra_info("socket").shutdown(socket.SHUT_RDWR)  # closing would not wake who reads it

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the reply is complete."""
        if self._thread:
            self._thread.join(timeout)

    def _receive(self, _, content, buffers):
        if content.get("type") == "send":
            self.ask(str(content.get("text", "")), bool(content.get("thinking")))
        elif content.get("type") == "stop":
            self.stop()
        elif content.get("type") == "clear" and not self.busy:
            self.turns = []

    def _reply(self, thinking):
        turn = dict(self.turns[-1])
        history = [
            {"role": past["role"], "content": past["text"].strip()}
            for past in self.turns[:-1]
            if past["text"].strip()
        ]  # fmt: skip
        from openai import APIConnectionError

        try:
            turn["state"] = self._stream(history, thinking, turn)
        except Exception as error:  # whatever ends a stream is shown in the panel, not in a thread that nobody sees
            said = "gone" if isinstance(error, APIConnectionError) else f"{type(error).__name__}: {error}"
            turn["state"] = "stopped" if self._stopping.is_set() else said
        self.turns = [*self.turns[:-1], turn]
        self.busy = False

    def _stream(self, history, thinking, turn):
        extra = {"top_k": 20, "min_p": 0, "chat_template_kwargs": {"enable_thinking": thinking}}
        thought, content, finished, shown = "", "", None, 0.0
        with self._client.chat.completions.create(
            model=self.model, messages=history, stream=True, **SAMPLING[thinking], extra_body=extra
        ) as stream:
            self._open = stream
            for chunk in stream:
                for choice in chunk.choices or []:
                    delta, finished = choice.delta, choice.finish_reason or finished
                    thought += thought_of(delta)
                    content += getattr(delta, "content", None) or ""
                turn["thought"], turn["text"] = parted(thought, content)
                if self._stopping.is_set():
                    return "stopped"  # leaving the block closes the connection, and vLLM drops the request
                if time.monotonic() - shown >= PAUSE:
                    self.turns, shown = [*self.turns[:-1], dict(turn)], time.monotonic()
        if self._stopping.is_set():
            return "stopped"
        if finished is None:
            raise ConnectionError("the stream ended early")
        return ending(turn, finished, bool(thought.strip()))


def ending(turn: dict[str, str], finished: str, split: bool) -> str:
    """The state of a turn whose stream has come to its end; ``split``: the server has taken the thought out."""
    has_text, has_thought = bool(turn["text"].strip()), bool(turn["thought"].strip())
    if finished == "length":
        return "cut thought" if has_thought and not has_text else "cut"
    if finished != "stop":
        return f"finish_reason: {finished}"
    if has_text:
        return "done"
    if has_thought:
        return "taken" if split else "only thought"
    return "empty"
