"""vLLM's OpenAI-compatible server as a context manager: start, wait until ready, read log and metrics, end it.

With ``OPENAI_BASE_URL`` set, :class:`Server` attaches to the server that runs there (a workshop's shared GPU): it
starts and ends nothing, caps the concurrency at ``COURSE_CONCURRENCY`` (default 2) and labels metrics as the whole
room's.
"""

import contextlib
import importlib.util
import ipaddress
import json
import math
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib import metadata
from pathlib import Path

from helpers import CourseError, _guard, machine, models
from helpers.engine import environment, on_cpu, sized_options
from helpers.language import say

HOST = "127.0.0.1"
URL_VARIABLE, KEY_VARIABLE, CAP_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY", "COURSE_CONCURRENCY"
ATTACHED_CONCURRENCY = 2
REASONS = [  # what vLLM's log says, and the cause and remedy; the first pattern that is found counts, at its last place
    (r"unrecognized arguments: (.+)", "不认识的选项 {}", "unknown option {}"),
    (r"error: argument (.+)", "选项的值不对（{}）", "an option has a wrong value ({})"),
    (r"Address already in use", "端口 {port} 刚被占用：换一个端口", "port {port} was taken meanwhile: choose another"),
    (
        r"out of memory|can(?:not|'t) allocate memory|less than desired GPU memory|less than requested memory for kv|"
        r"No available memory for the cache|KV cache is needed, which is larger",
        "内存或显存不够：减小 max_model_len，或换小一号的模型",
        "not enough memory: lower max_model_len or take a smaller model",
    ),
    (r"Value error, (.+?\.) ", "{}", "{}"),
    # not behind a backtick: a warning about file limits quotes an error that did not happen
    (r"(?<!`)\b(\w+(?:Error|Exception): (?!Engine core init).+?)(?:\. |$)", "{}", "{}"),
]


class Metrics(dict):
    """vLLM's metrics by name; ``scope`` says whose requests they count."""

    def __init__(self, values: dict[str, float], scope: str):
        super().__init__(values)
        self.scope = scope

    def __repr__(self) -> str:
        return say(f"指标，来自{self.scope}：", f"Metrics of {self.scope}: ", "") + super().__repr__()


class Server:
    """``vllm serve`` on a checkpoint folder (default: the course's model), or the server at ``OPENAI_BASE_URL``.

    ``options`` are those of ``vllm serve`` as keywords (``max_num_seqs=8``, ``enable_prefix_caching=False``) and win
    over what suits the machine and the installed vLLM; ``None`` leaves an option out. ``model`` is the name to use in
    requests, ``base_url`` ends in ``/v1``, ``api_key`` is what clients send, ``command`` is the same server as a line
    for a plain shell at the root of the course, ``concurrency_limit`` how many requests at once the lessons may send.

    It binds 127.0.0.1; another ``host`` needs an ``api_key``, which goes to vLLM by its environment, as a command line
    is there for every user to read. Use it in a ``with`` statement or call :meth:`start` and :meth:`stop`. However this
    process ends, ``kill -9`` included, helpers/_guard.py ends the server within 5 s.

    Attached (``attached`` is True), ``api_key`` and ``options`` do not apply (the key is ``OPENAI_API_KEY``),
    :meth:`stop` leaves the server alone, and :meth:`kill`, :meth:`log_tail` and ``command`` refuse.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        port: int | None = None,
        host: str = HOST,
        api_key: str | None = None,
        **options,
    ):
        self._guard = self._log = None
        attached_url = os.environ.get(URL_VARIABLE, "").strip()
        self.attached = bool(attached_url)
        self.concurrency_limit = _concurrency_limit(self.attached)
        if self.attached:
            self.base_url, self.port = attached_url.rstrip("/"), urllib.parse.urlsplit(attached_url).port
            self.api_key = os.environ.get(KEY_VARIABLE) or "EMPTY"  # the room's; api_key would be for our own
            self.model = model and str(model)
            self._ignored = sorted(options)
            return
        api_key = api_key or os.environ.get("VLLM_API_KEY")  # vLLM reads it, so clients need it
        _check_binding(host, api_key)
        folder = models.find_checkpoint(str(model)) if model else models.course_model()
        self.api_key = api_key or "EMPTY"
        self.port = port or _free_port()
        self._host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # where this machine reaches it
        self.base_url = f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}/v1"
        defaults = {
            "served_model_name": _served_name(folder),
            "host": host,
            "port": self.port,
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
        }
        options = defaults | reasoning_flags(sized_options(folder, **options), _vllm_version())
        self.model = options["served_model_name"]
        if isinstance(self.model, list | tuple):
            self.model = self.model[0]
        self._gpu_share = options.get("gpu_memory_utilization", models.GPU_SHARE)
        self._environment = environment(folder)
        workers = options.get("tensor_parallel_size", 1) * options.get("pipeline_parallel_size", 1)
        self._left_out = {"VLLM_ENABLE_V1_MULTIPROCESSING"} if workers > 1 else set()  # workers are processes
        for name in self._left_out:
            del self._environment[name]
        if workers > 1 and on_cpu():  # one core for each, or they would wait for each other on the same one
            self._environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(workers)))
        self._secret = {"VLLM_API_KEY": api_key} if api_key else {}
        self._arguments = ["serve", str(folder), *_flags(options)]
        self._vllm = Path(sys.executable).with_name("vllm")

    @staticmethod
    def knows(option: str) -> bool:
        """Whether the installed vLLM's engine has this option (``max_num_queued_reqs``: 0.32 has it, 0.19 not).

        Read from the source of vLLM's ``EngineArgs``, whose fields are these options: importing it takes 10 s. False
        without vLLM, as in the client set.
        """
        if not (found := importlib.util.find_spec("vllm")):
            return False
        source = Path(found.origin).with_name("engine") / "arg_utils.py"
        return bool(re.search(rf"^    {re.escape(option)}:", source.read_text(encoding="utf-8"), re.MULTILINE))

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info):
        self.stop()

    @property
    def command(self) -> str:
        """The line that starts this server in a plain shell at the root of the course, without the guard."""
        self._refuse_attached("给出启动命令", "its start command")
        on_path = shutil.which("vllm") and Path(shutil.which("vllm")).samefile(self._vllm)
        words = ["vllm" if on_path else _short(self._vllm), *map(_short, self._arguments)]
        settings = [f"{name}={shlex.quote(value)}" for name, value in self._environment.items()]
        settings += [f'{name}="$API_KEY"' for name in self._secret]  # never the key itself
        return " ".join([*settings, shlex.join(words)])

    def start(self, timeout: float = 1800) -> "Server":
        """Start the server and wait until it answers. Raises CourseError, below the log's last lines, if it cannot.

        Attached: look whether it answers, take its model's name, and raise CourseError if either fails.
        """
        self._pass_by_proxies()
        if self.attached:
            self._attach()
            return self
        if self._is_running():
            raise CourseError(
                "这个服务器已经在运行：先调用 stop()。", "This server is running already: call stop() first."
            )
        if not self._vllm.is_file():
            raise CourseError(
                f"{self._vllm.parent} 里没有 vllm 命令：请用 `make env` 建好的环境。",
                f"There is no vllm command in {self._vllm.parent}: use the environment that `make env` makes.",
            )
        _check_port(self._host, self.port)
        machine.refuse_busy_gpu(self._gpu_share)
        print(self.command)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - has no name and goes with its last reader
        self._guard = subprocess.Popen(
            [sys.executable, "-IS", Path(__file__).with_name("_guard.py"), self._vllm, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # an interrupt of the notebook must not reach it
            # an engine in this kernel has set ERROR, and the kernel itself asks for colours
            env=self._environment
            | {name: value for name, value in os.environ.items() if name not in self._left_out}
            | self._secret
            | {"VLLM_LOGGING_LEVEL": "INFO", "NO_COLOR": "1"},
        )
        try:
            self._wait(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and all that it started, gone when this returns, within 5 s. Attached: leave it alone."""
        if self.attached:
            print(say(f"{self.base_url} 别人也在用：没有停。", f"{self.base_url} belongs to others too: left running."))
        if self._guard is None:
            return
        self._guard.stdin.close()
        self._guard.wait()

    def kill(self) -> None:
        """Kill the engine process (SIGKILL), as a full memory would: for the lesson that shows what clients see then.

        Raises CourseError on an attached server, which others use, and on one that does not run.
        """
        self._refuse_attached("杀掉引擎", "killing the engine")
        engines = _guard.engines(self._server_pid()) if self._is_running() else set()
        if not engines:
            raise CourseError("没有在运行的引擎可杀。", "There is no running engine to kill.")
        for pid in engines:
            os.kill(pid, signal.SIGKILL)

    def log_tail(self, lines: int = 20) -> str:
        """The last ``lines`` lines of the server's log, also after it ended. Raises CourseError if attached."""
        self._refuse_attached("看日志", "reading its log")
        return "\n".join(self._log_text().splitlines()[-lines:])

    def metrics(self) -> Metrics:
        """vLLM's own metrics by name, without the prefix ``vllm:``, summed over their labels.

        Gauges and counters (``num_requests_running``, ``generation_tokens_total``) as they are; of a histogram its
        ``_sum`` and ``_count``. Attached, they count everyone's requests, and ``scope`` says so. Source: the server's
        ``/metrics``. Raises CourseError if the server is not running or has no metrics.
        """
        if not self.attached and not self._is_running():
            raise CourseError(
                "服务器没有在运行：先调用 start()，或看 log_tail()。",
                "The server is not running: call start() first, or read log_tail().",
            )
        from prometheus_client.parser import text_string_to_metric_families

        try:
            families = list(text_string_to_metric_families(self._get("/metrics")))
        except (OSError, ValueError) as error:
            raise CourseError(
                f"{self._root}/metrics 读不出来（{error}）：它多半没有对外开放，跳过这一格。",
                f"{self._root}/metrics cannot be read ({error}): most likely it is not open to you; skip this cell.",
            ) from error
        values = {}
        for family in families:
            for sample in family.samples:
                name = sample.name.removeprefix("vllm:")
                if name != sample.name and not name.endswith(("_bucket", "_created")):
                    values[name] = values.get(name, 0) + sample.value
        scopes = (("这个笔记本的服务器", "this notebook's server"), ("整间教室的请求", "the whole room's requests"))
        return Metrics(values, say(*scopes[self.attached], " / "))

    @property
    def is_bundled(self) -> bool:
        """Whether it serves one of the tiny models that come with the course."""
        return bool(self.model) and (models.BUNDLED / self.model).is_dir()

    @property
    def _root(self) -> str:
        return self.base_url.removesuffix("/v1")

    def _pass_by_proxies(self) -> None:
        """No client in this notebook shall ask a proxy for this machine, as AutoDL's would make them."""
        host = urllib.parse.urlsplit(self.base_url).hostname or ""
        if _is_loopback(host):
            for name in ("NO_PROXY", "no_proxy"):
                others = [part for part in os.environ.get(name, "").split(",") if part not in ("", host)]
                os.environ[name] = ",".join([*others, host])

    def _refuse_attached(self, what_zh: str, what_en: str) -> None:
        if self.attached:
            raise CourseError(
                f"{self.base_url} 是大家共用的服务器，{what_zh}不行：去掉 {URL_VARIABLE}，在自己的服务器上做。",
                f"{self.base_url} is a shared server, so {what_en} is refused: unset {URL_VARIABLE} and use your own.",
            )

    def _attach(self) -> None:
        url = f"{self.base_url}/models"
        try:
            served = [entry["id"] for entry in json.loads(self._get("/models", self.base_url))["data"]]
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                zh, en = f"密钥不对：设好 {KEY_VARIABLE}", f"the key is wrong: set {KEY_VARIABLE}"
            else:
                zh, en = "地址要以 /v1 结尾", "the address should end in /v1"
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
        matching = [name for name in served if not self.model or Path(name).name == Path(self.model).name]
        if not matching:
            raise CourseError(
                f"{self.base_url} 上没有 {self.model}，只有 {served}：去掉模型名，或换一个服务器。",
                f"{self.base_url} serves {served} and not {self.model}: leave the model out, or use another server.",
            )
        self.model = matching[0]
        print(
            say(
                f"已连上 {self.base_url}（{URL_VARIABLE}），模型 {self.model}，与别人共用：\n"
                f"最多同时 {self.concurrency_limit} 个请求；指标统计整间教室；课程不会停掉它",
                f"attached to {self.base_url} ({URL_VARIABLE}), model {self.model}, shared with others:\n"
                f"at most {self.concurrency_limit} requests at once; metrics count the whole room; it is never stopped",
            )
        )
        if self._ignored:
            names = ", ".join(self._ignored)
            print(say(f"对它不起作用的选项：{names}", f"options that do not apply to it: {names}"))

    def _server_pid(self) -> int:
        [server] = Path(f"/proc/{self._guard.pid}/task/{self._guard.pid}/children").read_text().split()
        return int(server)

    def _is_running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def _wait(self, timeout: float) -> None:
        start, shown = time.monotonic(), -1
        while (seconds := int(time.monotonic() - start)) < timeout:
            if self._guard.poll() is not None:
                raise self._failure()
            try:
                self._get("/health")
                if on_cpu():
                    self._warm_up()
            except OSError:
                if seconds != shown:
                    waiting = say(f"vLLM 正在启动 … {seconds} 秒", f"vLLM starts … {seconds} s", " · ")
                    print(f"\r{waiting}", end="", flush=True)
                shown = seconds
                time.sleep(0.2)
            else:
                zh = f"{self.model} 已在 {self.base_url} 就绪，用了 {seconds} 秒"
                print("\r" + say(zh, f"{self.model} is ready at {self.base_url} after {seconds} s"))
                return
        raise CourseError(
            f"服务器在 {timeout:.0f} 秒内没有就绪：看看 log_tail()，或调大 start(timeout=...)。",
            f"The server was not ready within {timeout:.0f} s: read log_tail(), or raise start(timeout=...).",
        )

    def _failure(self) -> CourseError:
        print("\r" + self.log_tail())
        log, status = self._log_text(), self._guard.returncode
        zh, en = f"退出状态 {status}", f"exit status {status}"
        if status == 137:
            zh, en = (
                "被系统杀掉（SIGKILL），多半是内存不够",
                "killed by the system (SIGKILL), most likely out of memory",
            )
        for pattern, why_zh, why_en in REASONS:
            if found := re.findall(pattern, log, re.MULTILINE | re.IGNORECASE):
                zh, en = (why.format(found[-1].strip(" ."), port=self.port) for why in (why_zh, why_en))
                break
        return CourseError(
            f"服务器没有启动：{zh}。上面是日志的最后几行。",
            f"The server did not start: {en}. Its last log lines are above.",
        )

    def _warm_up(self) -> None:
        """Send a first request of several tokens.

        vLLM's attention on a CPU uses AMX, which Linux grants to a process that asked for it, and only oneDNN asks, at
        its first matrix product. A first prompt of one token has none before its attention, and the engine dies of an
        illegal instruction (seen with vllm-cpu 0.32; torch.cpu._init_amx() is the remedy inside a process).
        """
        self._get("/completions", self.base_url, {"model": self.model, "prompt": "1+1=2, 2+2=4", "max_tokens": 1})

    def _get(self, path: str, root: str | None = None, body: dict | None = None) -> str:
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        data = body and json.dumps(body).encode()
        request = urllib.request.Request((root or self._root) + path, data, headers)
        with urllib.request.urlopen(request, timeout=60 if body else 10) as reply:
            return reply.read().decode()

    def _log_text(self) -> str:
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")  # pread: the writers share the position


def _flags(options: dict) -> list[str]:
    flags = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is False:
            flags.append("--no-" + flag[2:])
        elif isinstance(value, list | tuple):
            flags += [flag, *map(str, value)]
        elif value is not None:
            flags += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags


def _short(path: str | Path) -> str:
    return str(Path(path).relative_to(models.ROOT)) if Path(path).is_relative_to(models.ROOT) else str(path)


def reasoning_flags(options: dict, version: tuple[int, int]) -> dict:
    """``options`` with the reasoning flags that vLLM ``version`` (major, minor) knows.

    The parser ``qwen3`` came with 0.9; before it ``deepseek_r1`` read Qwen3's thoughts. Up to 0.9 a parser also took
    ``--enable-reasoning``, which 0.10 removed (https://github.com/vllm-project/vllm/pull/18538).
    """
    if options.get("reasoning_parser") and version < (0, 10):
        options = options | {"enable_reasoning": True}
    if options.get("reasoning_parser") == "qwen3" and version < (0, 9):
        options = options | {"reasoning_parser": "deepseek_r1"}
    return options


def _vllm_version() -> tuple[int, int]:
    name = "vllm-cpu" if on_cpu() else "vllm"
    found = next((package.version for package in metadata.distributions(name=name)), "999.0")
    major, minor = re.findall(r"\d+", found)[:2]
    return int(major), int(minor)


def _served_name(folder: Path) -> str:
    hub_id = (
        folder.parent.parent if folder.parent.name == "snapshots" else folder
    )  # .../Qwen--Qwen3-8B/snapshots/master
    return hub_id.name.split("--")[-1]


def _concurrency_limit(attached: bool) -> float:
    said = os.environ.get(CAP_VARIABLE, "").strip()
    if not said:
        return ATTACHED_CONCURRENCY if attached else math.inf
    if not said.isascii() or not said.isdigit() or int(said) < 1:
        raise CourseError(
            f"{CAP_VARIABLE} 要是正整数，不是 {said!r}。", f"{CAP_VARIABLE} is a positive integer, not {said!r}."
        )
    return int(said)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_binding(host: str, api_key: str | None) -> None:
    if not _is_loopback(host) and not api_key:
        raise CourseError(
            f"绑定 {host}，能连到这台机器的人就都能用它：加上 api_key=…（只管 /v1），最好去掉 host，用 SSH 隧道访问。",
            f"On {host} anyone who reaches this machine can use it: add api_key=... (it guards /v1 only), or better "
            "leave host out and use an SSH tunnel.",
        )


def _free_port() -> int:
    """A free port, below those that Linux hands out itself (from 32768 on): vLLM takes it only 15 s later."""
    while True:
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CourseError(
                f"端口 {port} 用不了（{error.strerror}）：换一个端口，或不写 port，由课程选一个空闲的。",
                f"Port {port} cannot be used ({error.strerror}): choose another, or leave port out to get a free one.",
            ) from error
