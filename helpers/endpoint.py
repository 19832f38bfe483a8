"""What every OpenAI-compatible server has for a lesson, one's own or a shared one: an address, a model, metrics."""

import base64
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod

from helpers import CourseError, models
from helpers.language import say

CAP_VARIABLE = "COURSE_CONCURRENCY"


def positive_integer(variable: str) -> int | None:
    """A setting of the environment, None where it is not set. Raises CourseError if it is no positive integer."""
    said = os.environ.get(variable, "").strip()
    if said and (not said.isascii() or not said.isdigit() or int(said) < 1):
        raise CourseError(f"{variable} 要是正整数，不是 {said!r}。", f"{variable} is a positive integer, not {said!r}.")
    return int(said) if said else None


def without_credentials(address: str) -> str:
    """An address as messages show it: without what may be a user, a password or a token in it.

    Of one that is no address, too: what comes before the last @ is left out, and what follows a question mark.
    """
    return re.sub(r"[?#].*", "", re.sub(r"^(\s*[\w+.-]+://)?.*@", r"\1", address))


def thought_of(delta) -> str:
    """The piece of a thought in a piece of a reply, under its name or the one that older servers give it."""
    return getattr(delta, "reasoning", None) or getattr(delta, "reasoning_content", None) or ""


def parted(thought: str, content: str) -> tuple[str, str]:
    """(thought, text) of a reply, also while it comes and where the thought stands in the content, behind <think>."""
    if thought.strip():  # the server has split it
        return thought, content
    if "</think>" in content:
        thought, _, content = content.rpartition("</think>")
        return thought.strip().removeprefix("<think>"), content
    if content.lstrip().startswith("<think>"):
        return content.lstrip().removeprefix("<think>"), ""
    return thought, content


class SameServer(urllib.request.HTTPRedirectHandler):
    """Follows a redirect within one server only: the request carries a key."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if (old.scheme, old.netloc) == (new.scheme, new.netloc):
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        return None  # the redirect itself becomes an HTTPError


class Metrics(dict):
    """vLLM's metrics by name; ``scope`` says whose requests they count."""

    def __init__(self, values: dict[str, float], scope: str):
        super().__init__(values)
        self.scope = scope

    def __repr__(self) -> str:
        return say(f"指标，来自{self.scope}：", f"Metrics of {self.scope}: ", "") + super().__repr__()


class Endpoint(ABC):
    """A server by its address, for a ``with`` statement.

    ``model`` is the name to use in requests, ``base_url`` ends in ``/v1``, ``api_key`` is what clients send,
    ``concurrency_limit`` how many requests at once the lessons may send (``COURSE_CONCURRENCY`` overrides it).
    """

    attached: bool  # to a server that others use too
    _counts: tuple[str, str]  # whose requests the metrics count, Chinese and English

    def __init__(self, base_url: str, model: str | None, api_key: str | None, concurrency_limit: float):
        self.base_url, self.model, self.api_key = base_url, model, api_key or "EMPTY"
        self._shown = without_credentials(base_url)
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise CourseError(
                "密钥里有请求头装不下的字符：重新复制一遍。",
                "The key holds characters that no header can: copy it again.",
            )
        self.port = urllib.parse.urlsplit(base_url).port
        self.concurrency_limit = positive_integer(CAP_VARIABLE) or concurrency_limit

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info):
        self.stop()

    @abstractmethod
    def start(self) -> "Endpoint":
        """Make it ready for requests. Raises CourseError if it cannot."""

    @abstractmethod
    def stop(self) -> None:
        """What :meth:`start` began ends here."""

    def metrics(self) -> Metrics:
        """vLLM's own metrics by name, without the prefix ``vllm:``, summed over their labels.

        Shares (``kv_cache_usage_perc``, in older versions ``gpu_cache_usage_perc``) are 0 to 1, the mean over several
        engines. Other gauges and counters (``num_requests_running``, ``generation_tokens_total``) as they are; of a
        histogram its ``_sum`` and ``_count``. On a shared server they count everyone's requests, and ``scope`` says so.
        Source: the server's ``/metrics``. Raises CourseError if the server is not running or has no metrics.
        """
        from prometheus_client.parser import text_string_to_metric_families

        try:
            families = list(text_string_to_metric_families(self._get("/metrics")))
        except (OSError, ValueError) as error:
            root = without_credentials(self._root)
            raise CourseError(
                f"{root}/metrics 读不出来（{error}）：它多半没有对外开放，跳过这一格。",
                f"{root}/metrics cannot be read ({error}): most likely it is not open to you; skip this cell.",
            ) from error
        samples: dict[str, list[float]] = {}
        for sample in (sample for family in families for sample in family.samples):
            name = sample.name.removeprefix("vllm:")
            if name != sample.name and not name.endswith(("_bucket", "_created")):
                samples.setdefault(name, []).append(sample.value)
        if "gpu_cache_usage_perc" in samples:
            samples.setdefault("kv_cache_usage_perc", samples["gpu_cache_usage_perc"])
        values = {name: sum(found) for name, found in samples.items()}
        values |= {name: values[name] / len(samples[name]) for name in values if name.endswith("_perc")}
        return Metrics(values, say(*self._counts, " / "))

    @property
    def is_bundled(self) -> bool:
        """Whether it serves one of the tiny models that come with the course."""
        return bool(self.model and (models.BUNDLED / self.model).is_dir())

    @property
    def _root(self) -> str:
        return self.base_url.removesuffix("/v1")

    def _get(self, path: str, root: str | None = None, body: dict | None = None) -> str:
        """The text of a reply. Raises OSError, as ``urllib.error.HTTPError`` where the status is one of an error."""
        parts = urllib.parse.urlsplit((root or self._root) + path)
        user, at, address = parts.netloc.rpartition("@")  # urllib would take all of it for a host
        key = f"Bearer {self.api_key}"
        if at:  # instead of the key, as openai's client has it
            key = "Basic " + base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        data = body and json.dumps(body).encode()
        headers = {"Authorization": key, "Content-Type": "application/json"}
        request = urllib.request.Request(parts._replace(netloc=address).geturl(), data, headers)
        try:
            with urllib.request.build_opener(SameServer).open(request, timeout=60 if body else 10) as reply:
                return reply.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"no HTTP: {error!r}") from error
