"""Addresses and ports of this machine: which ones nobody else reaches, and a port that a server can take."""

import contextlib
import ipaddress
import os
import secrets
import socket

from helpers import CourseError

HOST = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def pass_by_proxies(host: str) -> None:
    """No client in this process shall ask a proxy for this machine, as AutoDL's would make them."""
    for name in ("NO_PROXY", "no_proxy") if is_loopback(host) else ():
        others = [part for part in os.environ.get(name, "").split(",") if part not in ("", host)]
        os.environ[name] = ",".join([*others, host])


def free_port() -> int:
    """A free port, below those that Linux hands out itself (from 32768 on): vLLM takes it only 15 s later."""
    while True:
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def check_port(host: str, port: int) -> None:
    """Raises CourseError if no server can take ``port``."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CourseError(
                f"端口 {port} 用不了（{error.strerror}）：换一个端口，或不写 port，由课程选一个空闲的。",
                f"Port {port} cannot be used ({error.strerror}): choose another, or leave port out to get a free one.",
            ) from error
