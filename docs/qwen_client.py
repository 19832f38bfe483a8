"""A client for Qwen3 behind vLLM, or any server with OpenAI's protocol: `pip install openai`, and copy this file.

    async with Client() as client: thinking, answer, finish_reason = await client.ask("37×46=?")
    print(Sync(Chat(Client(), system="Be brief.")).ask("Who are you?").answer)  # in a script, without await

Where there is no whole answer, every call raises NoAnswer, whose message says why."""

import asyncio
import contextlib
import inspect
import json
import logging
import os
import random
import sys
from collections import namedtuple
from urllib.parse import urlsplit

import openai

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = os.environ.get("MODEL", "Qwen3-8B")
API_KEY = os.environ.get("API_KEY", "EMPTY")
SETTINGS = {  # by thinking; the sampling is Qwen's
    True: {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "chat_template_kwargs": {"enable_thinking": True}},
    False: {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "chat_template_kwargs": {"enable_thinking": False}},
    None: {"top_k": 20},
}
KINDS = {"thinking": ("reasoning", "reasoning_content"), "answer": ("content",), "refusal": ("refusal",)}
PLAIN = {"cast_to": object, "stream_cls": openai.AsyncStream[object]}
Reply = namedtuple("Reply", "thinking answer finish_reason")


class NoAnswer(RuntimeError):
    """``reason``: of a reply cut, refused, empty, broken (off), parser (took the answer), tool (call left in the text),
    context (full); of a server away, busy (429, 5xx), timeout, foreign (no OpenAI server), request (refused)."""

    def __init__(self, reason: str, message: str, status: int | None = None):
        super().__init__(" ".join(message.split())[:500])
        self.reason, self.status = reason, status


class Parts:
    """A reply while it comes, and how it is judged at its end."""

    def __init__(self):
        self.texts, self.calls, self.finish = dict.fromkeys(KINDS, ""), {}, ""

    def add(self, chunk):
        """Yields (kind, text) of a chunk; a message is one large chunk."""
        for choice in [] if self.finish else field(chunk, list, "choices"):  # nothing counts behind the end
            new, self.finish = field(choice, dict, "delta", "message"), field(choice, str, "finish_reason")
            for place, part in enumerate(field(new, list, "tool_calls")):
                number = field(part, int, "index") if "delta" in choice else place  # in a message they have no index
                call = self.calls.setdefault(number, {"id": "", "name": "", "arguments": ""})
                for key in call:
                    call[key] += field(part, str, key) or field(field(part, dict, "function"), str, key)
            for kind, names in KINDS.items():
                text = field(new, str, *names)
                if text := text if self.texts[kind] else text.lstrip():
                    self.texts[kind] += text
                    yield kind, text

    def reply(self, limited: bool, error: Exception | None) -> Reply:
        """What came, if it is whole; ``limited``: max_tokens was sent; ``error``: what broke it off."""
        thinking, answer, refusal = (text.strip() for text in self.texts.values())
        before, tag, after = answer.partition("</think>")
        if tag and not thinking and after[:1] in ("", "\n"):  # a server without a reasoning parser
            thinking, answer = before.removeprefix("<think>").strip(), after.strip()
        full, where, nothing = self.finish == "length", "answer" if answer else "thought", not (answer or self.calls)
        for wrong, reason, why in (  # the first counts
            (full and limited, "cut", f"cut within the {where}: raise max_tokens, if there is room"),
            (full, "context", "the context (--max-model-len) is full: send less history"),
            (refusal or self.finish == "content_filter", "refused", f"the server refused: {refusal or self.finish}"),
            (self.finish not in ("stop", "tool_calls"), "broken", f"it broke off ({error or self.finish or 'no end'})"),
            ("<tool_call>" in answer, "tool", "its call is text: --enable-auto-tool-choice --tool-call-parser hermes"),
            (answer.startswith("<think>"), "cut", "its thought has no end"),
            (nothing and thinking, "parser", "all is thought: --reasoning-parser qwen3, and none for Instruct-2507"),
            (nothing, "empty", "it is empty"),
        ):
            if wrong:
                raise NoAnswer(reason, f"No whole answer: {why}.") from error
        return Reply(thinking, answer, self.finish)


def field(part, kind: type, *names: str):
    """The first of these fields of a part of a reply that is of this type and not empty, else the type's empty value;
    a foreign server may send anything anywhere."""
    for name in names if isinstance(part, dict) else ():
        if isinstance(value := part.get(name), kind) and value:
            return value
    return kind()


class Client(contextlib.AbstractAsyncContextManager):
    """One server, in one event loop. ``timeout``: seconds without a byte from it. What did not begin to be answered is
    tried again, ``attempts`` in all, after pauses that double, or that Retry-After names; after a timeout once, and of
    all requests one in ten, since each repetition costs a prefill and adds to what made the server slow."""

    def __init__(self, base_url=BASE_URL, model=MODEL, api_key=API_KEY, timeout=300, attempts=4, longest_pause=60):
        self.model, self.attempts, self.longest_pause = model, attempts, longest_pause
        self.shown = base_url.rpartition("@")[2]  # without a password
        self.asked = self.repeated = 0  # requests, and those that were repeated after a timeout
        here = urlsplit(base_url).hostname in ("127.0.0.1", "localhost", "::1")  # to which no proxy leads
        safe = {"trust_env": not here, "follow_redirects": False}  # nothing takes the question elsewhere
        http = openai.DefaultAsyncHttpxClient(timeout=openai.Timeout(timeout, connect=min(timeout, 5)), **safe)
        self.openai = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, http_client=http, max_retries=0)

    async def __aexit__(self, *exc_info):
        await self.openai.close()

    async def ask(self, messages, **options) -> Reply:
        """The reply to a question or a list of messages; options as of stream()."""
        return [piece async for _, piece in self.stream(messages, stream=False, **options)][-1]

    async def json(self, messages, schema: dict, **options):
        """An object that the server forces into this JSON schema; options as of stream()."""
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        reply = await self.ask(messages, response_format=form, **options)
        try:
            return json.loads(reply.answer)
        except (ValueError, RecursionError) as error:
            raise NoAnswer("foreign", f"The server ignores the schema: {reply.answer!r}") from error

    async def stream(self, messages, thinking=True, tools=None, rounds=5, **options):
        """Yields ("thinking", "answer" or "refusal", text) as it comes, and at last ("reply", Reply).

        ``messages``: a question or a list. ``thinking=None`` leaves it to the server. ``tools``: {name: (function,
        description, JSON schema of its arguments)}; they are run, which yields ("tool", text), and answered, in
        ``rounds`` requests at most. ``options`` go into the request as they are, such as max_tokens and temperature."""
        messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        request = {"model": self.model, "messages": messages, "stream": True, **SETTINGS[thinking]}
        request |= options.pop("extra_body", {}) | options
        for name, (_, description, schema) in (tools or {}).items():
            about = {"name": name, "description": description, "parameters": schema}
            request.setdefault("tools", []).append({"type": "function", "function": about})
        for _ in range(rounds):
            parts, end, opened = Parts(), None, await self._open(request)
            try:
                if not request["stream"]:
                    for piece in parts.add(opened):
                        yield piece
                else:
                    async with opened:
                        async for chunk in opened:
                            for piece in parts.add(chunk):
                                yield piece
            except (openai.OpenAIError, ValueError) as error:
                end = error
            reply = parts.reply({"max_tokens", "max_completion_tokens"} & options.keys(), end)
            if not parts.calls:
                yield "reply", reply
                return
            thought = dict.fromkeys(KINDS["thinking"], reply.thinking) if reply.thinking else {}  # servers read either
            calls = [{"id": call.pop("id"), "type": "function", "function": call} for call in parts.calls.values()]
            messages.append({"role": "assistant", "content": reply.answer, "tool_calls": calls, **thought})
            for call in calls:
                result = await run_tool(tools or {}, call["function"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
                yield "tool", f"{call['function']['name']}: {result}"
        raise NoAnswer("tool", f"No answer after {rounds} rounds of tools.")

    async def _open(self, request):
        """The reply, or its stream once the server has accepted the request."""
        self.asked += 1
        for attempt in range(1, self.attempts + 1):
            try:
                # plain dicts: making the package's objects of them costs thirty times as much as reading them
                opened = await self.openai.post("/chat/completions", body=request, **PLAIN, stream=request["stream"])
                if request["stream"] or field(opened, list, "choices"):
                    return opened
                raise ValueError(opened)
            except (openai.OpenAIError, ValueError) as error:
                problem = self._problem(error)
                said = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
                least = int(said[:9]) if said.isascii() and said.isdigit() else 0
                again = problem.reason in ("away", "broken", "busy") and least <= self.longest_pause
                if problem.reason == "timeout" and attempt == 1 and self.repeated <= self.asked / 10:
                    again, self.repeated = True, self.repeated + 1
                if attempt == self.attempts or not again:
                    raise problem from error
            await asyncio.sleep(max(least, min(self.longest_pause, 0.25 * 2**attempt) * random.uniform(0.5, 1)))

    def _problem(self, error: Exception) -> NoAnswer:
        """What the openai package raised, as a sentence."""
        status, body = getattr(error, "status_code", None), getattr(error, "body", None)
        said = body.get("message") or body if isinstance(body, dict) else error.__cause__ or error
        if type(said).__name__ in ("ConnectError", "ConnectTimeout"):  # neither has cost the server anything
            return NoAnswer("away", f"No server at {self.shown} ({said!r}): is it still starting? Else set BASE_URL.")
        if isinstance(error, openai.APITimeoutError) or status in (408, 504):
            return NoAnswer("timeout", f"{self.shown} did not answer in time.", status)
        if isinstance(error, openai.APIConnectionError):
            return NoAnswer("broken", f"The connection to {self.shown} broke off: {said!r}")
        if status is None or status < 400:  # no JSON, or a redirect
            return NoAnswer("foreign", f"{self.shown} is no OpenAI server, set BASE_URL: {said!r}", status)
        reason = "busy" if status == 429 or status >= 500 else "context" if "context length" in str(said) else "request"
        return NoAnswer(reason, f"{self.shown} refused ({status}): {said}", status)


async def run_tool(tools: dict, function: dict) -> str:
    """What goes back to the model: of an exception not a word, as it may hold a secret; those are in the log."""
    name = function["name"]
    try:
        arguments = {**json.loads(function["arguments"] or "{}")}
    except (ValueError, TypeError, RecursionError):
        function["arguments"] = "{}"  # chat templates read the arguments of earlier calls
        return "error: the arguments are no JSON object"
    if name not in tools:
        return f"error: there is no tool {name!r}, only {sorted(tools)}"
    try:
        run, *_ = tools[name]
        result = await (run(**arguments) if inspect.iscoroutinefunction(run) else asyncio.to_thread(run, **arguments))
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
    except Exception:
        logging.getLogger(__name__).exception("the tool %s failed", name)
        return f"error: {name} failed"


class Chat:
    """A conversation. Its history holds questions and answers, no thoughts, and at most ``history`` characters, a token
    being one or more: older turns are forgotten. ``options`` are those of Client.stream()."""

    def __init__(self, client: Client, system: str | None = None, history: int = 16_000, **options):
        self.client, self.history, self.options = client, history, options
        self.system, self.turns = [{"role": "system", "content": system}] if system else [], []

    async def stream(self, question: str, **options):
        """As Client.stream(); the history grows with a whole answer only."""
        asked, begun = {"role": "user", "content": question}, False
        while sum(len(message["content"]) for turn in self.turns for message in turn) > self.history:
            del self.turns[0]
        while True:
            messages = [*self.system, *(message for turn in self.turns for message in turn), asked]
            try:
                async with contextlib.aclosing(self.client.stream(messages, **self.options | options)) as pieces:
                    async for kind, piece in pieces:
                        begun = True
                        if kind == "reply":
                            self.turns.append([asked, {"role": "assistant", "content": piece.answer}])
                        yield kind, piece
                return
            except NoAnswer as error:  # the context was full all the same; before the first token it costs nothing
                if error.reason != "context" or begun or not self.turns:
                    raise
                del self.turns[0]

    ask, json = Client.ask, Client.json  # by the stream() above


class Sync:
    """A Client or Chat without await, where no event loop runs; one for each client."""

    def __init__(self, target: Client | Chat):
        self.target, self.runner = target, asyncio.Runner()  # whose Ctrl-C ends the request, too

    def __getattr__(self, name: str):
        found = getattr(self.target, name)
        run = self._follow if inspect.isasyncgenfunction(found) else self.runner.run
        return (lambda *args, **options: run(found(*args, **options))) if callable(found) else found

    def _follow(self, pieces):
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield self.runner.run(anext(pieces))
        finally:
            self.runner.run(pieces.aclose())


def main(question: str) -> int | str:
    """Prints the answer, and the thought on stderr; the exit status, or what went wrong."""
    try:
        for kind, piece in Sync(Client()).stream(question):
            print("\n" if kind == "reply" else piece, end="", flush=True, file={"thinking": sys.stderr}.get(kind))
    except (NoAnswer, KeyboardInterrupt) as error:
        return str(error) or 130
    return 0


if __name__ == "__main__" and "get_ipython" not in globals():
    sys.exit(main(" ".join(sys.argv[1:]) or "37×46=?"))
