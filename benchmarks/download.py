"""What helpers.download costs beside the client it runs, over loopback; the speed of verify and the pre-flight check.

A model of random bytes in four shards is served by the rehearsal hub in a process of its own. `snapshot_download` alone
and `helpers.download.download` fetch it in turn, each time into an empty cache on the same disk. Loopback says nothing
about a real network, where both wait for the same bytes and the difference is smaller still.

    .venv/bin/python -m benchmarks.download [--full] [--repeats 10]
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from helpers.download import download, verify
from helpers.hub import set_environment
from helpers.models import ROOT

SERVE = """
import sys
from helpers.hub import Hub
with Hub({"course/random": sys.argv[1]}) as hub:
    print(hub.url, flush=True)
    sys.stdin.read()
"""
SHARDS = 4


def write_model(folder: Path, size: int) -> None:
    folder.mkdir()
    weight_map = {}
    for number in range(SHARDS):
        shard, tensor, length = f"model-{number}.safetensors", f"layer.{number}", size // SHARDS
        header = json.dumps({tensor: {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
        with (folder / shard).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for start in range(0, length, 2**24):
                file.write(os.urandom(min(2**24, length - start)))
        weight_map[tensor] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")


def client(name: str) -> Path:
    from modelscope_hub.compat.snapshot_download import snapshot_download

    return Path(snapshot_download(name))


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def fetch(how, cache: Path) -> float:
    shutil.rmtree(cache, ignore_errors=True)
    os.sync()  # no write-back of the run before in this one
    return seconds(how, "course/random")


def shown(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1 GB instead of 200 MB")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    size = 10**9 if options.full else 2 * 10**8
    os.environ["TQDM_DISABLE"] = "1"
    (ROOT / "build").mkdir(exist_ok=True)
    with contextlib.ExitStack() as end:
        place = Path(end.enter_context(tempfile.TemporaryDirectory(dir=ROOT / "build")))
        write_model(place / "model", size)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        hub = end.enter_context(subprocess.Popen([sys.executable, "-c", SERVE, place / "model"], **pipes))
        end.callback(hub.stdin.close)
        print(f"{hub.stdout.readline().strip()}\n")
        loopback = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "MODELSCOPE_CACHE": str(place / "cache")}
        set_environment(
            loopback | {"MODELSCOPE_ENDPOINT": hub.stdout.readline().strip(), "MODELSCOPE_HOME": str(place / "home")}
        )
        client("course/random")  # imports; the model is in the page cache from here on
        runs = {"snapshot_download": [], "download": [], "again": [], "verify": [], "pre-flight": []}
        for number in range(options.repeats):
            pair = [("snapshot_download", client), ("download", download)]
            for name, how in pair if number % 2 else reversed(pair):  # neither always meets the other's dirty pages
                runs[name].append(fetch(how, place / "cache"))
            runs["again"].append(seconds(download, "course/random"))
            runs["verify"].append(size / 1e6 / seconds(verify, download("course/random")))
            check = [sys.executable, "-m", "helpers.machine", "--json"]
            runs["pre-flight"].append(seconds(lambda check=check: subprocess.run(check, capture_output=True, cwd=ROOT)))
        ratios = [ours / theirs for ours, theirs in zip(runs["download"], runs["snapshot_download"], strict=True)]
    print(f"{size / 1e6:.0f} MB in {SHARDS} shards, {options.repeats} alternating repeats, medians with their range;")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}.\n")
    print("| measured | value |\n|-|-|")
    print(f"| snapshot_download, s | {shown(runs['snapshot_download'])} |")
    print(f"| download, s | {shown(runs['download'])} |")
    print(f"| download / snapshot_download | {shown(ratios, 3)} |")
    print(f"| download of a complete copy, s | {shown(runs['again'])} |")
    print(f"| verify, MB/s | {shown(runs['verify'], 0)} |")
    print(f"| python -m helpers.machine, s | {shown(runs['pre-flight'])} |")


if __name__ == "__main__":
    main()
