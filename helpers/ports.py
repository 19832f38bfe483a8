"""Addresses and ports of this machine: which ones nobody else reaches, and a port that a server can take."""

import contextlib
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

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
    if is_loopback(host):
        os.environ.update(no_proxy(host))


def no_proxy(host: str) -> dict[str, str]:
    """The variables that keep clients from asking a proxy for ``host``, with what they except already.

    Both are the same: programs that read both let the lower-case one hide the other.
    """
    excepted = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")).split(",")
    value = ",".join([*(part for part in excepted if part not in ("", host)), host])
    return {"NO_PROXY": value, "no_proxy": value}


def free_port() -> int:
    """A free port, below those that Linux hands out itself (from 32768 on): vLLM takes it only 15 s later."""
    while True:
        port = 20000 + secrets.randbelow(12768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def check_number(port: int) -> None:
    """Raises CourseError if ``port`` is no port's number."""
    if not isinstance(port, int) or not 0 < port < 65536:
        raise CourseError(
            f"端口要是 1 到 65535 的整数，不是 {port!r}。", f"A port is an integer from 1 to 65535, not {port!r}."
        )


def check_port(host: str, port: int) -> None:
    """Raises CourseError if no server can take ``port``."""
    check_number(port)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror as error:
            raise CourseError(
                f"{host} 不是这台机器的地址（{error.strerror}）：写 {HOST}，或它的一个 IP。",
                f"{host} is no address of this machine ({error.strerror}): write {HOST} or one of its IP addresses.",
            ) from error
        except OSError as error:
            raise CourseError(
                f"端口 {port} 用不了（{error.strerror}）：换一个端口，或不写 port，由课程选一个空闲的。",
                f"Port {port} cannot be used ({error.strerror}): choose another, or leave port out to get a free one.",
            ) from error


def listeners(host: str, port: int) -> set[str]:
    """The listening sockets that a connection to ``host``:``port`` may reach, by their numbers in Linux's tables."""
    wanted = {ipaddress.ip_address(str(found[4][0]).partition("%")[0]) for found in socket.getaddrinfo(host, port)}
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.is_file() else ():
            fields = line.split()
            address, _, number = fields[1].partition(":")
            words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]  # of 4 bytes each
            at = ipaddress.ip_address(b"".join(words))
            at = getattr(at, "ipv4_mapped", None) or at
            if fields[3] == "0A" and int(number, 16) == port and (at.is_unspecified or at in wanted):  # 0A: LISTEN
                found.add(fields[9])
    return found


def sockets(pids: Iterable[int]) -> set[str]:
    """The sockets that processes of one's own hold, by the same numbers."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(entry.path)
                    found |= {target[8:-1]} if target.startswith("socket:[") else set()
    return found
