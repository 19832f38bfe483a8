"""vLLM's OpenAI-compatible server as a context manager: start, wait until ready, read log and metrics, end it."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from helpers import CourseError, machine, models
from helpers.engine import environment, sized_options

HOST = "127.0.0.1"
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
    (r"\b(\w+(?:Error|Exception): (?!Engine core init).+?)(?:\. |$)", "{}", "{}"),
]


class Server:
    """``vllm serve`` on a checkpoint folder (default: the course's model), bound to 127.0.0.1.

    ``options`` are those of ``vllm serve`` as keywords (``max_num_seqs=8``, ``enable_prefix_caching=False``) and win
    over what suits the machine; ``None`` leaves an option out. ``model`` is the name to use in requests, ``base_url``
    ends in ``/v1``, ``command`` is the same server as a line for a plain shell at the root of the course.

    Use it in a ``with`` statement or call :meth:`start` and :meth:`stop`. However this process ends, ``kill -9``
    included, helpers/_guard.py ends the server within 5 s.
    """

    def __init__(self, model: str | Path | None = None, port: int | None = None, **options):
        if "host" in options:
            raise CourseError(
                f"课程的服务器只绑定 {HOST}：要从别的机器访问，请用 SSH 隧道，并去掉 host。",
                f"The course's server binds {HOST} only: leave out host, and use an SSH tunnel from another machine.",
            )
        folder = models.find_checkpoint(str(model)) if model else models.course_model()
        hub_id = (
            folder.parent.parent if folder.parent.name == "snapshots" else folder
        )  # .../Qwen--Qwen3-8B/snapshots/master
        self.model = hub_id.name.split("--")[-1]
        self.port = port or _free_port()
        self.base_url = f"http://{HOST}:{self.port}/v1"
        defaults = {
            "served_model_name": self.model,
            "host": HOST,
            "port": self.port,
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
        }
        options = defaults | sized_options(folder, **options)
        self.model = options["served_model_name"]
        self._gpu_share = options.get("gpu_memory_utilization", models.GPU_SHARE)
        self._environment = environment(folder)
        self._arguments = ["serve", str(folder), *_flags(options)]
        self._vllm = Path(sys.executable).with_name("vllm")
        self._guard = self._log = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc_info):
        self.stop()

    @property
    def command(self) -> str:
        """The line that starts this server in a plain shell at the root of the course, without the guard."""
        on_path = shutil.which("vllm") and Path(shutil.which("vllm")).samefile(self._vllm)
        words = ["vllm" if on_path else _short(self._vllm), "serve", _short(self._arguments[1]), *self._arguments[2:]]
        settings = [f"{name}={value}" for name, value in self._environment.items()]
        return " ".join([*settings, shlex.join(words)])

    def start(self, timeout: float = 1800) -> "Server":
        """Start the server and wait until it answers. Raises CourseError, below the log's last lines, if it cannot."""
        if self._is_running():
            raise CourseError(
                "这个服务器已经在运行：先调用 stop()。", "This server is running already: call stop() first."
            )
        if not self._vllm.is_file():
            raise CourseError(
                f"{self._vllm.parent} 里没有 vllm 命令：请用 `make env` 建好的环境。",
                f"There is no vllm command in {self._vllm.parent}: use the environment that `make env` makes.",
            )
        _check_port(self.port)
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
            env=self._environment | os.environ | {"VLLM_LOGGING_LEVEL": "INFO", "NO_COLOR": "1"},
        )
        try:
            self._wait(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and everything it started; returns within 5 s, when all of it is gone."""
        if self._guard is None:
            return
        self._guard.stdin.close()
        self._guard.wait()

    def log_tail(self, lines: int = 20) -> str:
        """The last ``lines`` lines of the server's log, also after it ended."""
        return "\n".join(self._log_text().splitlines()[-lines:])

    def metrics(self) -> dict[str, float]:
        """vLLM's own metrics by name, without the prefix ``vllm:``, summed over their labels.

        Gauges and counters (``num_requests_running``, ``generation_tokens_total``) as they are; of a histogram its
        ``_sum`` and ``_count``. Source: the server's ``/metrics``. Raises CourseError if the server is not running.
        """
        if not self._is_running():
            raise CourseError(
                "服务器没有在运行：先调用 start()，或看 log_tail()。",
                "The server is not running: call start() first, or read log_tail().",
            )
        from prometheus_client.parser import text_string_to_metric_families

        values = {}
        for family in text_string_to_metric_families(self._get("/metrics")):
            for sample in family.samples:
                name = sample.name.removeprefix("vllm:")
                if name != sample.name and not name.endswith(("_bucket", "_created")):
                    values[name] = values.get(name, 0) + sample.value
        return values

    def _is_running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def _wait(self, timeout: float) -> None:
        start, shown = time.monotonic(), -1
        while (seconds := int(time.monotonic() - start)) < timeout:
            if self._guard.poll() is not None:
                raise self._failure()
            try:
                self._get("/health")
            except OSError:
                if seconds != shown:
                    print(f"\rvLLM starts … {seconds} s", end="", flush=True)
                shown = seconds
                time.sleep(0.2)
            else:
                print(f"\r{self.model} is ready at {self.base_url} after {seconds} s")
                return
        raise CourseError(
            f"服务器在 {timeout:.0f} 秒内没有就绪：看看 log_tail()，或调大 start(timeout=...)。",
            f"The server was not ready within {timeout:.0f} s: read log_tail(), or raise start(timeout=...).",
        )

    def _failure(self) -> CourseError:
        print("\r" + self.log_tail())
        log, status = self._log_text(), self._guard.returncode
        zh = en = f"exit status {status}"
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

    def _get(self, path: str) -> str:
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # a proxy cannot reach this machine's 127.0.0.1
        with opener.open(f"http://{HOST}:{self.port}{path}", timeout=10) as reply:
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CourseError(
                f"端口 {port} 用不了（{error.strerror}）：换一个端口，或不写 port，由课程选一个空闲的。",
                f"Port {port} cannot be used ({error.strerror}): choose another, or leave port out to get a free one.",
            ) from error
