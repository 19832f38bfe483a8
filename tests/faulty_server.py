"""An OpenAI-like server whose replies are scripted: the faults that a real one produces too rarely to wait for."""

import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def chat(content="ok", finish=None, **message):
    """A complete chat completion."""
    message = {"role": "assistant", "content": content} | message
    finish = finish or ("tool_calls" if message.get("tool_calls") else "stop")
    return document({"message": message, "text": content or "", "index": 0, "finish_reason": finish})


def cut(content=None):
    """A chat completion that was cut: in its thought, without content, or in its answer."""
    return document({"message": {"role": "assistant", "content": content}, "index": 0, "finish_reason": "length"})


def document(choice):
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return lambda handler: handler.reply(200, json.dumps(body))


def body(document):
    """Any JSON document as a reply."""
    return lambda handler: handler.reply(200, json.dumps(document))


def status(code, message="no"):
    return lambda handler: handler.reply(code, json.dumps({"error": {"message": message, "code": code}}))


def page(handler):
    """What a login page or another program answers."""
    handler.reply(200, "<html>Welcome</html>", "text/html")


def drop(handler):
    """The connection ends without a reply."""
    handler.close_connection = True


def broken_off(die):
    """The connection ends within a reply's body, closed or, with ``die``, reset as by kill -9."""

    def send(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.wfile.flush()
        handler.close_connection = True
        if die:
            handler.reset()

    return send


def stream(*deltas, finish="stop", usage=False, then=None, done=True, pause=0.0, first=(), die=False):
    """Server-sent events, one chunk per delta; ``first`` are raw events before them, ``then`` is one after them, as
    vLLM sends when its engine dies; with ``die`` the connection is reset instead of ended, as by kill -9."""

    def send(handler):
        base = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        events = [base | event for event in first]
        events += [base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        if finish:
            events.append(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if usage:
            events.append(
                base | {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
            )
        if then:
            events.append(then)
        handler.start_events()
        for event in events:
            handler.event(json.dumps(event))
            time.sleep(pause)
        if die:
            handler.reset()
        elif done:
            handler.event("[DONE]")

    return send


ENGINE_DEAD = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}


class Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # or the system turns some of many that come at once away for a second


class FaultyServer:
    """Answers POST requests with ``replies`` in their order, the last one for ever; ``bodies`` holds what was asked.

    ``get_reply`` answers GET requests in place of the list of models, ``got`` holds their paths.
    """

    def __init__(self, *replies, models=("m",)):
        self.replies, self.bodies, self.paths, self.now, self.most = list(replies), [], [], 0, 0
        self.got, self._lock, outer = [], threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.got.append(self.path)
                body = {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
                outer.get_reply(self) if outer.get_reply else self.reply(200, json.dumps(body))

            def do_POST(self):
                self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.bodies.append(self.body)
                    outer.paths.append(self.path)
                    reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                try:
                    reply(self)
                except OSError:
                    self.close_connection = True  # the client left
                finally:
                    with outer._lock:
                        outer.now -= 1

            def reply(self, code, text, kind="application/json"):
                data = text.encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def start_events(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True

            def event(self, text):
                self.wfile.write(f"data: {text}\n\n".encode())
                self.wfile.flush()

            def reset(self):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()

            def log_message(self, *arguments):
                pass

        self.get_reply = None
        self._server = Listening(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        # It looks for its end that often, and whoever ends it waits that long: half a second unless told, 200 times.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
