"""What vLLM says about a request in a long traceback, or does to it in silence, in one sentence each."""

from helpers import CourseError
from helpers.language import say

ROLES = {"system", "user", "assistant", "tool"}  # those that Qwen's chat template writes


def check_messages(messages) -> None:
    """Raises CourseError for what the chat template would turn into an empty or a wrong prompt without a word."""
    conversations = messages if messages and isinstance(messages[0], list) else [messages]
    for number, conversation in enumerate(conversations):
        if not conversation:
            raise CourseError(
                f"第 {number} 段对话（从 0 数起）是空的：至少要有一条消息。",
                f"Conversation {number}, counted from 0, is empty: it needs at least one message.",
            )
        for message in conversation:
            role = message.get("role")
            if role not in ROLES:
                raise CourseError(
                    f"对话模板不认识角色 {role!r}，会悄悄丢掉这条消息：请用 {', '.join(sorted(ROLES))} 之一。",
                    f"The chat template does not know the role {role!r} and would drop the message in silence: "
                    f"use one of {', '.join(sorted(ROLES))}.",
                )


def refusal(error, context: int) -> CourseError:
    """vLLM's sentence about a request (its VLLMValidationError), with a Chinese one for what a learner may cause."""
    known = {
        "input_tokens": f"提示词比上下文还长：提示词和输出合起来最多 {context} 个词元，请缩短提示词。",
        "stop_token_ids": "stop_token_ids 里有词表之外的编号：请用名字向分词器查，或者干脆不写，模型自带停止词元。",
    }
    text = str(error).split(" (parameter=")[0]
    zh = known.get(error.parameter, f"vLLM 不接受这个请求（{text}）。")
    return CourseError(zh, text)


def clipping(outputs: list, params) -> str | None:
    """A sentence about the first of the outputs that vLLM cut short of its ``max_tokens``, None if it cut none."""
    wanted = params if isinstance(params, list | tuple) else [params] * len(outputs)
    for output, param in zip(outputs, wanted, strict=True):
        one = output.outputs[0]
        asked, written = getattr(param, "max_tokens", None), len(one.token_ids)
        if one.finish_reason == "length" and asked and written < asked:
            return say(
                f"max_tokens={asked} 超出上下文剩下的空间：vLLM 不报错，写到第 {written} 个词元就停了。",
                f"max_tokens={asked} is more than the context has room for: vLLM stopped after {written} tokens, "
                "without an error.",
            )
    return None
