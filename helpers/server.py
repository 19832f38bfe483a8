"""vLLM's OpenAI-compatible server as a context manager: start, wait until ready, read log and metrics, end it.

With ``OPENAI_BASE_URL`` set, :class:`Server` attaches to the server that runs there instead (helpers/attached.py).
"""

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from helpers import ROOT, CourseError, _guard, machine, models
from helpers.attached import AttachedServer, shared_url
from helpers.catalogue import GPU_SHARE
from helpers.endpoint import Endpoint, Metrics
from helpers.engine import environment, on_cpu, sized_options
from helpers.language import say
from helpers.ports import HOST, check_number, check_port, free_port, is_loopback, listeners, pass_by_proxies, sockets

# An engine in this kernel has set ERROR, and the kernel itself asks for colours.
LOG = {"VLLM_LOGGING_LEVEL": "INFO", "NO_COLOR": "1"}
LOG_END = 8 * 2**20  # bytes of the log that are read, from its end: a server that runs for weeks writes a long one
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


class Server(Endpoint):
    """``vllm serve`` on a checkpoint (default: the course's model), started and ended by this process.

    Where ``OPENAI_BASE_URL`` is set, ``Server(...)`` is an :class:`helpers.attached.AttachedServer` instead.
    ``options`` are those of ``vllm serve`` as keywords (``max_num_seqs=8``, ``enable_prefix_caching=False``) and win
    over what suits the machine and the installed vLLM; ``None`` leaves an option out. It binds 127.0.0.1; another
    ``host`` needs an ``api_key``, which goes to vLLM by its environment, as a command line is there for every user to
    read. Use it in a ``with`` statement or call :meth:`start` and :meth:`stop`. However this process ends, ``kill -9``
    included, helpers/_guard.py ends the server within 5 s.
    """

    attached = False
    port: int
    _counts = "这个笔记本的服务器", "this notebook's server"

    def __new__(
        cls,
        model: str | Path | None = None,
        port: int | None = None,
        host: str = HOST,
        api_key: str | None = None,
        **options,
    ):
        return AttachedServer(model, **options) if shared_url() else super().__new__(cls)

    def __init__(self, model=None, port=None, host=HOST, api_key=None, **options):
        self._guard: subprocess.Popen | None = None
        self._log: IO[bytes] | None = None
        api_key = api_key or os.environ.get("VLLM_API_KEY")  # vLLM reads it, so clients need it
        _check_binding(host, api_key)
        checkpoint = models.resolve(model)
        port = port or free_port()
        check_number(port)
        self._host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # where this machine reaches it
        defaults = {
            "served_model_name": checkpoint.name,
            "host": host,
            "port": port,
            "enable_auto_tool_choice": True,
            "tool_call_parser": "hermes",
        }
        options = defaults | sized_options(checkpoint, **options)
        names = options["served_model_name"]
        name = names[0] if isinstance(names, list | tuple) else names
        address = f"[{self._host}]" if ":" in self._host else self._host
        super().__init__(f"http://{address}:{port}/v1", name, api_key, math.inf)
        self._gpu_share = options.get("gpu_memory_utilization", GPU_SHARE)
        workers = options.get("tensor_parallel_size", 1) * options.get("pipeline_parallel_size", 1)
        self._left_out = {"VLLM_ENABLE_V1_MULTIPROCESSING"} if workers > 1 else set()  # workers are processes
        # Clients keep an idle connection for 5 s (httpx), and so does vLLM unless told: a request might meet one that
        # the server is just closing.
        idle = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75"}
        self._environment = self._allowed(environment(checkpoint) | idle)
        if workers > 1 and on_cpu():  # one core for each, or they would wait for each other on the same one
            self._environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(workers)))
        self._secret = {"VLLM_API_KEY": api_key} if api_key else {}
        self._arguments = ["serve", str(checkpoint.folder), *_flags(options)]
        self._vllm = Path(sys.executable).with_name("vllm")

    @staticmethod
    def knows(option: str) -> bool:
        """Whether the installed vLLM's engine has this option (``max_num_queued_reqs``: 0.32 has it, 0.19 not).

        Read from the source of vLLM's ``EngineArgs``, whose fields are these options: importing it takes 10 s. False
        without vLLM, as in the client set.
        """
        found = importlib.util.find_spec("vllm")
        if not found or not found.origin:
            return False
        source = Path(found.origin).with_name("engine") / "arg_utils.py"
        return bool(re.search(rf"^    {re.escape(option)}:", source.read_text(encoding="utf-8"), re.MULTILINE))

    @property
    def command(self) -> str:
        """The line that starts this server in a plain shell at the root of the course, without the guard."""
        first = shutil.which("vllm")
        on_path = first and Path(first).samefile(self._vllm)
        words = ["vllm" if on_path else _short(self._vllm), *map(_short, self._arguments)]
        settings = [f"{name}={shlex.quote(value)}" for name, value in self._environment.items()]
        settings += [f'{name}="$API_KEY"' for name in self._secret]  # never the key itself
        return " ".join([*settings, shlex.join(words)])

    def start(self, timeout: float = 1800) -> "Server":
        """Start the server and wait until it answers. Raises CourseError, below the log's last lines, if it cannot."""
        if self._running():
            raise CourseError(
                "这个服务器已经在运行：先调用 stop()。", "This server is running already: call stop() first."
            )
        if not self._vllm.is_file():
            raise CourseError(
                f"{self._vllm.parent} 里没有 vllm 命令：请用 `make env` 建好的环境。",
                f"There is no vllm command in {self._vllm.parent}: use the environment that `make env` makes.",
            )
        self.stop()  # what a killed guard may have left
        check_port(self._host, self.port)
        machine.refuse_busy_gpu(self._gpu_share)
        pass_by_proxies(self._host)
        print(self.command)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - has no name and goes with its last reader
        guard = self._guard = _guard.start(
            [self._vllm, *self._arguments],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._environment | self._allowed(os.environ) | self._secret | LOG,
        )
        try:
            self._wait(guard, timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and all that it started: it is asked, and killed 3 s later. All is gone when this returns.

        Raises CourseError if the system itself cannot end a process, as when a driver holds it.
        """
        if self._guard is not None and (left := _guard.end(self._guard)):
            pids = ", ".join(map(str, sorted(left)))
            raise CourseError(
                f"进程 {pids} 杀不掉：多半卡在驱动里，重启机器（容器）才会消失。",
                f"Process {pids} cannot be killed: most likely a driver holds it; restart the machine or container.",
            )

    def kill(self) -> list[int]:
        """Kill the engine process (SIGKILL), as a full memory would: for the lessons that show what clients see then.

        Returns the pids that were killed: processes of this server alone. Raises CourseError if it does not run.
        """
        guard = self._running()
        engines = _guard.engines(guard.pid) if guard else set()
        if not engines:
            raise CourseError("没有在运行的引擎可杀。", "There is no running engine to kill.")
        for pid in engines:
            os.kill(pid, signal.SIGKILL)
        return sorted(engines)

    def log_tail(self, lines: int = 20) -> str:
        """The last ``lines`` lines of the server's log, of its last 8 MiB at most, also after it ended."""
        return "\n".join(self._log_text().splitlines()[-lines:] if lines > 0 else ())

    def metrics(self) -> Metrics:
        if not self._running():
            raise CourseError(
                "服务器没有在运行：先调用 start()，或看 log_tail()。",
                "The server is not running: call start() first, or read log_tail().",
            )
        return super().metrics()

    def _allowed(self, variables) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name not in self._left_out}

    def _running(self) -> subprocess.Popen | None:
        """The guard, if it runs."""
        return self._guard if self._guard and self._guard.poll() is None else None

    def _wait(self, guard: subprocess.Popen, timeout: float) -> None:
        start, shown = time.monotonic(), -1
        while (seconds := int(time.monotonic() - start)) < timeout:
            if (status := guard.poll()) is not None:
                raise self._failure(status)
            if self._answers(guard):
                zh = f"{self.model} 已在 {self.base_url} 就绪，用了 {seconds} 秒"
                print("\r" + say(zh, f"{self.model} is ready at {self.base_url} after {seconds} s"))
                return
            if seconds != shown:
                waiting = say(f"vLLM 正在启动 … {seconds} 秒", f"vLLM starts … {seconds} s", " · ")
                print(f"\r{waiting}", end="", flush=True)
            shown = seconds
            time.sleep(0.2)
        raise CourseError(
            f"服务器在 {timeout:.0f} 秒内没有就绪：看看 log_tail()，或调大 start(timeout=...)。",
            f"The server was not ready within {timeout:.0f} s: read log_tail(), or raise start(timeout=...).",
        )

    def _answers(self, guard: subprocess.Popen) -> bool:
        """Whether this server answers. Raises CourseError if another program listens there: it must not get the key.

        vLLM lets a second server of the same user listen on its port (SO_REUSEPORT), so all that listen have to be its.
        """
        listening = listeners(self._host, self.port)
        if strangers := listening - sockets(_guard.members(guard)):
            strangers &= listeners(self._host, self.port)  # and not a server of one's own that has just ended
        if strangers - sockets(_guard.members(guard)):
            raise CourseError(
                f"端口 {self.port} 刚被别的程序占用：换一个端口，或不写 port。",
                f"Port {self.port} was taken by another program meanwhile: choose another, or leave port out.",
            )
        if not listening:
            return False
        try:
            self._get("/health")
            if on_cpu():
                self._warm_up()
        except OSError:
            return False
        return True

    def _failure(self, status: int) -> CourseError:
        print("\r" + self.log_tail())
        log = self._log_text()
        zh, en = f"退出状态 {status}", f"exit status {status}"
        if status == 137:
            zh = "被系统杀掉（SIGKILL），多半是内存不够"
            en = "killed by the system (SIGKILL), most likely out of memory"
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

    def _log_text(self) -> str:
        if self._log is None:
            return ""
        begin = max(0, os.fstat(self._log.fileno()).st_size - LOG_END)
        read = os.pread(self._log.fileno(), LOG_END, begin)  # pread: the writers share the position
        if begin:
            read = read.partition(b"\n")[2]  # half a line
        return read.decode(errors="replace")


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
    return str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else str(path)


def _check_binding(host: str, api_key: str | None) -> None:
    if not is_loopback(host) and not api_key:
        raise CourseError(
            f"绑定 {host}，能连到这台机器的人就都能用它：加上 api_key=…（只管 /v1），最好去掉 host，用 SSH 隧道访问。",
            f"On {host} anyone who reaches this machine can use it: add api_key=... (it guards /v1 only), or better "
            "leave host out and use an SSH tunnel.",
        )
