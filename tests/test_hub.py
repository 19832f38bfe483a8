"""helpers.hub: the real ModelScope client, as a library and on the command line, against the rehearsal hub."""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from faulty_hub import SHARDS, write_model
from modelscope_hub.compat.snapshot_download import snapshot_download

from helpers import hub, models


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def same_files(left: Path, right: Path) -> bool:
    def contents(folder):
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    return contents(left) == contents(right) != {}


def get(url: str, **headers) -> tuple[int, bytes, dict]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_snapshot_download_from_the_hub(model, tmp_path):
    with hub.Hub({"course/toy-0.1": model}, cache=tmp_path / "cache") as rehearsal:
        folder = Path(snapshot_download("course/toy-0.1"))
        asked = len(rehearsal.requests)
        again = Path(snapshot_download("course/toy-0.1"))
    assert folder == again == tmp_path / "cache/models/course--toy-0.1/snapshots/master"
    assert same_files(folder, model)
    assert asked == len(list(model.iterdir())) == len(rehearsal.requests), "the second call fetched files"


@pytest.mark.slow
def test_command_line_client(model, tmp_path):
    client = Path(sys.executable).with_name("modelscope")
    command = [client, "download", "--model", "course/toy", "--local_dir", tmp_path / "here"]
    with hub.Hub({"course/toy": model}):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert same_files(tmp_path / "here", model)


def test_patterns_and_one_folder(model, tmp_path):
    (model / "figures").mkdir()
    (model / "figures/one.txt").write_text("1")
    with hub.Hub({"course/toy": model}, cache=tmp_path / "cache") as rehearsal:
        snapshot_download("course/toy", allow_patterns="figures/*")
    assert [request.path for request in rehearsal.requests] == ["figures/one.txt"]


def test_environment_is_given_back(model, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("MODELSCOPE_CACHE", "before")
    before = dict(os.environ)
    with pytest.raises(RuntimeError), hub.Hub({"course/toy": model}) as rehearsal:
        assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "example.org,127.0.0.1"
        assert os.environ["MODELSCOPE_ENDPOINT"] == rehearsal.url
        assert {name: os.environ[name] for name in rehearsal.environment} == rehearsal.environment
        cache = Path(os.environ["MODELSCOPE_CACHE"])
        cache.mkdir()
        raise RuntimeError
    assert dict(os.environ) == before
    assert not cache.exists()
    with pytest.raises(OSError):
        get(rehearsal.url)


def test_a_dead_proxy_does_not_matter(model, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with hub.Hub({"course/toy": model}, cache=tmp_path):
        assert same_files(Path(snapshot_download("course/toy")), model)


def test_heading_names_the_hub_and_its_models(model, capsys):
    with hub.Hub({"course/toy": model}):
        pass
    assert capsys.readouterr().out == "[本地演练用的 hub | local rehearsal hub] course/toy\n"


def test_bundled_models_are_served_by_default(monkeypatch, tmp_path):
    write_model(tmp_path / "models/qwen3-tiny")
    monkeypatch.setattr(models, "BUNDLED", tmp_path / "models")
    with hub.Hub(cache=tmp_path / "cache"):
        folder = Path(snapshot_download("course/qwen3-tiny"))
    assert same_files(folder, tmp_path / "models/qwen3-tiny")


@pytest.fixture
def files(model):
    (model.parent / "secret").write_text("no")
    with hub.Hub({"course/toy": model}) as rehearsal:
        yield f"{rehearsal.url}/api/v1/models/course/toy/repo"


@pytest.mark.parametrize(
    ("wanted", "status", "content_range", "part"),
    [
        ("bytes=100-", 206, "bytes 100-{last}/{size}", slice(100, None)),
        ("bytes=3-9", 206, "bytes 3-9/{size}", slice(3, 10)),
        ("bytes=3-99999999", 206, "bytes 3-{last}/{size}", slice(3, None)),
        ("bytes={size}-", 416, "bytes */{size}", slice(0)),
        ("", 200, None, slice(None)),
    ],
)
def test_ranges(wanted, status, content_range, part, files, model):
    data = (model / SHARDS[0]).read_bytes()
    numbers = {"size": len(data), "last": len(data) - 1}
    answer = get(f"{files}?Revision=master&FilePath={SHARDS[0]}", Range=wanted.format(**numbers))
    assert answer[:2] == (status, data[part])
    assert answer[2].get("Content-Range") == (content_range and content_range.format(**numbers))


@pytest.mark.parametrize(
    "path",
    [
        "?FilePath=..%2Fsecret",
        "?FilePath=%2Fetc%2Fpasswd",
        "?FilePath=figures%2F..%2F..%2Fsecret",
        "?FilePath=",
        "?Revision=v9&FilePath=config.json",
        "/files?Revision=v9",
        "/../../../../secret",
    ],
)
def test_only_what_is_listed_is_served(path, files):
    assert get(files + path)[0] == 404


def test_a_client_that_breaks_off_leaves_no_traceback(model, capfd):
    with hub.Hub({"course/toy-0.1": model}) as rehearsal:
        before = set(threading.enumerate())
        client = socket.create_connection(("127.0.0.1", int(rehearsal.url.rpartition(":")[2])))
        client.sendall(b"GET /api/v1/models/course/toy-0.1/repo/files HTTP/1.1\r\nHost: hub\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing resets
        client.close()
        while set(threading.enumerate()) - before:  # the thread that answers
            time.sleep(0.01)
    assert capfd.readouterr().err == ""
