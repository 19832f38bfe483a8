"""The server that ``OPENAI_BASE_URL`` names, as a workshop shares one: used, and never started or ended."""

import os
import urllib.error
import urllib.parse
from pathlib import Path

from helpers import CourseError
from helpers.endpoint import Endpoint, without_credentials
from helpers.files import parse_json
from helpers.language import say
from helpers.ports import pass_by_proxies

URL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
CONCURRENCY = 2  # requests at once, unless the instructor says how many


def shared_url() -> str:
    """The address of the shared server, empty where there is none."""
    return os.environ.get(URL_VARIABLE, "").strip().rstrip("/")


class AttachedServer(Endpoint):
    """The server at ``OPENAI_BASE_URL``; its key is ``OPENAI_API_KEY``. ``options`` would be for one's own server.

    :meth:`stop` leaves it alone; :meth:`kill`, :meth:`log_tail` and ``command`` refuse (CourseError).
    """

    attached = True
    _counts = "整间教室的请求", "the whole room's requests"

    def __init__(self, model: str | Path | None = None, **options):
        url, key = shared_url(), os.environ.get(KEY_VARIABLE, "").strip()
        _check_address(url)
        super().__init__(url, str(model) if model else None, key, CONCURRENCY)
        self._ignored = sorted(options)

    def start(self, timeout: float = 10) -> "AttachedServer":
        """Look whether it answers and take its model's name. Raises CourseError if either fails."""
        pass_by_proxies(urllib.parse.urlsplit(self.base_url).hostname or "")
        served = self._served()
        matching = [name for name in served if not self.model or Path(name).name == Path(self.model).name]
        if not matching:
            raise CourseError(
                f"{self._shown} 上没有 {self.model}，只有 {served}：去掉模型名，或换一个服务器。",
                f"{self._shown} serves {served} and not {self.model}: leave the model out, or use another server.",
            )
        self.model = matching[0]
        print(
            say(
                f"已连上 {self._shown}（{URL_VARIABLE}），模型 {self.model}，与别人共用：\n"
                f"最多同时 {self.concurrency_limit} 个请求；指标统计整间教室；课程不会停掉它",
                f"attached to {self._shown} ({URL_VARIABLE}), model {self.model}, shared with others:\n"
                f"at most {self.concurrency_limit} requests at once; metrics count the whole room; it is never stopped",
            )
        )
        if self._ignored:
            names = ", ".join(self._ignored)
            print(say(f"对它不起作用的选项：{names}", f"options that do not apply to it: {names}"))
        return self

    def stop(self) -> None:
        print(say(f"{self._shown} 别人也在用：没有停。", f"{self._shown} belongs to others too: left running."))

    def kill(self) -> list[int]:
        raise self._refusal("杀掉引擎", "killing the engine")

    def log_tail(self, lines: int = 20) -> str:
        raise self._refusal("看日志", "reading its log")

    @property
    def command(self) -> str:
        raise self._refusal("给出启动命令", "its start command")

    def _refusal(self, what_zh: str, what_en: str) -> CourseError:
        return CourseError(
            f"{self._shown} 是大家共用的服务器，{what_zh}不行：去掉 {URL_VARIABLE}，在自己的服务器上做。",
            f"{self._shown} is a shared server, so {what_en} is refused: unset {URL_VARIABLE} and use your own.",
        )

    def _served(self) -> list[str]:
        """Names of its models."""
        url = f"{self._shown}/models"
        try:
            return [entry["id"] + "" for entry in parse_json(self._get("/models", self.base_url))["data"]]
        except urllib.error.HTTPError as error:
            zh, en = _meaning(error)
            raise CourseError(f"{url} 返回 {error.code}：{zh}。", f"{url} answers {error.code}: {en}.") from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise CourseError(
                f"{url} 没有服务器（{reason}）：请检查 {URL_VARIABLE}，或去掉它，由课程自己启动。",
                f"No server at {url} ({reason}): check {URL_VARIABLE}, or unset it to let the course start one.",
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise CourseError(
                f"{url} 的回答不是模型列表：{URL_VARIABLE} 要指向 vLLM 服务器的 /v1。",
                f"{url} answers with something else than a list of models: {URL_VARIABLE} should name vLLM's /v1.",
            ) from error


def _meaning(error: urllib.error.HTTPError) -> tuple[str, str]:
    """What a status means for whoever attaches, and the remedy, in Chinese and English."""
    if error.code in (401, 403):
        return f"密钥不对：设好 {KEY_VARIABLE}", f"the key is wrong: set {KEY_VARIABLE}"
    if error.code == 404:
        return "那里没有这个路径，地址要以 /v1 结尾", "there is no such path; the address should end in /v1"
    if error.code == 429:
        return "同时的请求太多，稍等再试", "too many requests at once; wait and try again"
    if error.code >= 500:
        return (
            "服务器自己出了错，或它后面的 vLLM 停了；地址和密钥不用改，告诉管服务器的人",
            "the server itself failed, or the vLLM behind it ended; leave address and key, tell whoever runs it",
        )
    if 300 <= error.code < 400:
        target = urllib.parse.urlsplit(error.headers.get("Location", ""))
        to = without_credentials(f"{target.scheme}://{target.netloc}") if target.netloc else "?"
        return (
            f"它让人改去 {to}，密钥没有跟过去；如果信得过那里，把 {URL_VARIABLE} 改成那个地址",
            f"it sends you to {to}, and the key was not taken there; if you trust it, set {URL_VARIABLE} to it",
        )
    return f"它不接受这个请求，{URL_VARIABLE} 要指向 vLLM 的 /v1", f"it refuses; {URL_VARIABLE} should name vLLM's /v1"


def _check_address(url: str) -> None:
    """Raises CourseError if ``url`` is no address of a server."""
    try:
        parts = urllib.parse.urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port out of range, half an IPv6 address
        fine = False
    if not fine:
        url = without_credentials(url)
        raise CourseError(
            f"{URL_VARIABLE} 不是地址：{url!r}，要像 http://主机:端口/v1。",
            f"{URL_VARIABLE} is no address: {url!r}; it should be like http://HOST:PORT/v1.",
        )
