"""A web endpoint that streams answers. Needs qwen_client.py beside it and `pip install fastapi openai uvicorn`.

    MODEL=Qwen3-8B uvicorn web_handler:app --host 127.0.0.1 --port 8001
    curl -N http://127.0.0.1:8001/ask -H "Content-Type: application/json" -d '{"text": "37×46=?"}'

The reply is a stream of server-sent events: thinking, answer, and at last end, or error where it broke off. Where there
is nothing to stream, it has a status: 400 and a sentence for what the user can mend, such as a text too long; 503 while
AT_ONCE users are served, vLLM is busy or is not up, 504 after a timeout, 502 for all else. Who leaves frees the request
at vLLM, too.
"""

import asyncio
import contextlib
import json
import logging
import os

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from qwen_client import Client, NoAnswer

AT_ONCE = int(os.environ.get("AT_ONCE", "64"))
STATUS = {"busy": 503, "away": 503, "timeout": 504, "context": 400, "cut": 400}
log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):
    async with Client(timeout=120, attempts=2) as app.state.client:  # a user waits: the last word comes soon
        app.state.now = 0
        yield


app = FastAPI(lifespan=lifespan)


class Question(BaseModel):
    text: str = Field(min_length=1, max_length=8000)
    thinking: bool = True
    max_tokens: int = Field(default=2048, ge=1, le=8192)


def event(kind: str, data) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def events(question: Question):
    """The events of an answer. Raises NoAnswer where there is none to begin with."""
    begun = False
    app.state.now += 1
    try:
        messages = [{"role": "user", "content": question.text}]
        options = {"thinking": question.thinking, "max_tokens": question.max_tokens}
        async with contextlib.aclosing(app.state.client.stream(messages, **options)) as pieces:
            async for kind, piece in pieces:
                begun = True
                yield event("end", {"finish": piece.finish_reason}) if kind == "reply" else event(kind, piece)
    except NoAnswer as error:
        log.warning("%s: %s", error.reason, error)  # the words may hold an address: a user gets the reason alone
        if not begun:
            raise
        yield event("error", {"reason": error.reason})
    finally:
        app.state.now -= 1


async def first(pieces, request: Request):
    """The first piece, unless the user leaves before."""
    coming = asyncio.ensure_future(anext(pieces))
    try:
        while not coming.done():
            await asyncio.wait({coming}, timeout=0.5)
            if not coming.done() and await request.is_disconnected():
                raise HTTPException(499)
        return coming.result()
    finally:
        coming.cancel()


class Events(StreamingResponse):
    """A stream of server-sent events; closes them however it ends."""

    def __init__(self, begin: str, pieces):
        async def whole():
            yield begin
            async for piece in pieces:
                yield piece

        # nginx passes each event on
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(whole(), media_type="text/event-stream", headers=headers)
        self.pieces = pieces

    async def __call__(self, scope, receive, send):
        async with contextlib.aclosing(self.pieces):
            await super().__call__(scope, receive, send)


@app.post("/ask")
async def ask(question: Question, request: Request):
    if app.state.now >= AT_ONCE:
        raise HTTPException(503, "busy", {"Retry-After": "5"})
    pieces = events(question)
    try:
        return Events(await first(pieces, request), pieces)
    except NoAnswer as error:
        status = (
            400 if error.status in (400, 413, 422) else STATUS.get(error.reason, 502)
        )  # a wrong key is not the user's
        if status == 400:
            raise HTTPException(400, str(error).removeprefix(f"{app.state.client.shown} ")) from error
        raise HTTPException(status, error.reason, {"Retry-After": "5"}) from error
