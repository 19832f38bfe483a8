"""docs/production.md: its lines are vLLM's, those that a CPU can serve answer, its unit and its metrics are real."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from urllib.parse import urlsplit

import openai
import pytest
from conftest import ROOT
from test_serve_lines import commands

from helpers import catalogue, models
from helpers.server import Server
from tools.lessons.pages import SERVE

PAGES = [ROOT / "docs" / name for name in ("production.md", "production.zh.md")]
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
UNIT = ROOT / "docs" / "vllm-qwen3.service"


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


LINES = commands(TEXT["production.md"])
PLAIN = commands(f"```bash\n{SERVE}\n```\n")[0]


def test_the_first_line_is_the_same_wherever_it_stands():
    """At the head of the page, in tmux, in the unit and on the pages that tests/test_copy_me.py looks at."""
    assert LINES[0] == LINES[-1] == PLAIN and commands(TEXT["production.zh.md"]) == LINES
    _, _, model, *options = shlex.split(unit()["ExecStart"][0])
    assert model.endswith("/Qwen3-8B") and options == PLAIN[1:]


def test_each_change_in_the_table_is_in_a_whole_line():
    table = TEXT["production.md"].partition("## Variants")[2].partition("```")[0]
    changes = [row.split(" | ")[1] for row in table.splitlines() if row.startswith("| ")][1:]
    words = [word for line in LINES for word in line]
    for change in changes:
        for code in re.findall(r"`([^`]+)`", change):
            assert all(word in [*words, "--quantization", "fp8"] for word in shlex.split(code)), code
    without = [line for line in LINES if "--reasoning-parser" not in line]
    assert [line[0].split("/")[1] for line in without] == [
        "Qwen3-30B-A3B-Instruct-2507",
        "Qwen3-Coder-30B-A3B-Instruct",
    ]


def test_the_sizes_in_the_table_are_computed():
    def gigabytes(name, dtype="bf16"):
        return catalogue.weight_bytes(catalogue.CATALOGUE[name].config, dtype) / 1e9

    sizes = gigabytes("Qwen/Qwen3-8B", "fp8"), gigabytes("Qwen/Qwen3-8B"), gigabytes("Qwen/Qwen3-30B-A3B")
    for text in TEXT.values():
        rows = "".join(line for line in text.splitlines() if line.startswith("| "))
        assert re.findall(r"([\d.]+) GB", rows) == [f"{sizes[0]:.1f}", f"{sizes[1]:.1f}", f"{sizes[2]:.0f}"]
    context = catalogue.kv_bytes_per_token(catalogue.CATALOGUE["Qwen/Qwen3-8B"].config) * 32768 / 1e9
    assert sizes[1] + context < 0.9 * 24  # a card with 24 GB, as the page says, of which vLLM takes nine tenths


def options(line: list[str]) -> dict:
    """The options of a line as keywords of helpers.server.Server."""
    found: dict = {}
    words = line[1:]
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        value = words.pop(0) if words and not words[0].startswith("--") else True
        if isinstance(value, str):
            value = json.loads(value) if value.startswith("{") else int(value) if value.isdigit() else value
        found[name] = value
    return found


ON_A_CPU = [line for line in LINES[:-1] if "FP8" not in line[0] and "--tensor-parallel-size" not in line]


CASES = [  # CI starts the plain line and the one with YaRN
    pytest.param(
        line,
        id=" ".join([line[0], *line[10:]])[:60],
        marks=[] if line == ON_A_CPU[0] or "--hf-overrides" in line else [pytest.mark.release],
    )
    for line in ON_A_CPU
]


@pytest.mark.large
@pytest.mark.parametrize("line", CASES)
def test_a_line_that_a_cpu_can_serve_answers(line):
    """On a tiny model, whose context is shorter; with YaRN the whole 131,072."""
    given = options(line)
    del given["host"], given["port"]
    given["reasoning_parser"] = given.get("reasoning_parser")
    if "hf_overrides" not in given:
        given["max_model_len"] = 2048
    model = "qwen3-moe-tiny" if "A3B" in line[0] else "qwen3-tiny"
    theta = json.loads((models.find_checkpoint(model) / "config.json").read_text())
    theta = theta.get("rope_theta") or theta["rope_parameters"]["rope_theta"]
    if "hf_overrides" in given:
        given["hf_overrides"]["rope_parameters"]["rope_theta"] = theta  # the checkpoint's own, as the page says
    with Server(model, **given) as server:
        client = openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0)
        question = {"model": given["served_model_name"], "messages": [{"role": "user", "content": "12×34=?"}]}
        [choice] = client.chat.completions.create(**question, temperature=0, max_tokens=200).choices
    thinks = "default_chat_template_kwargs" not in given
    assert choice.finish_reason == "stop" and "12×34" in choice.message.content
    split = thinks and given["reasoning_parser"]
    assert bool(getattr(choice.message, "reasoning", None)) == bool(split)
    assert ("<think>" in choice.message.content) == (thinks and not split)


# -------------------------------------------------------------------------------------------------- life of a service


def test_the_unit_kills_later_than_it_drains_and_restarts_whatever_the_exit_code():
    found = unit()
    drain = int(PLAIN[PLAIN.index("--shutdown-timeout") + 1])
    assert int(found["TimeoutStopSec"][0]) > drain and found["Restart"] == ["always"] and found["KillMode"] == ["mixed"]
    wait = int(re.search(r"timeout (\d+) ", found["ExecStartPost"][0])[1])
    assert wait < int(found["TimeoutStartSec"][0])


def test_systemd_accepts_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text(encoding="utf-8")
    (tmp_path / UNIT.name).write_text(text.replace("/opt/vllm/bin/vllm", "/bin/true"), encoding="utf-8")
    (tmp_path / "wrong.service").write_text(text.replace("KillMode=mixed", "KillMod=mixed"), encoding="utf-8")

    def verify(name):
        command = [analyze, "verify", "--man=no", tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True)
        return [line for line in done.stderr.splitlines() if str(tmp_path) in line or name in line]

    assert verify(UNIT.name) == [] and any("KillMod" in line for line in verify("wrong.service"))


@pytest.mark.slow
def test_the_five_metrics_are_those_of_the_server(server):
    table = TEXT["production.md"].partition("## Five numbers")[2].partition("##")[0]
    names = re.findall(r"^\| `vllm:(\w+)`", table, re.MULTILINE)
    found = server.metrics()
    assert len(names) == 5 and [name for name in names if {name, f"{name}_count"} & found.keys()] == names


@pytest.mark.slow
def test_the_requests_beyond_chat_get_the_replies_that_the_page_shows(server):
    """Each line of the section's first block, sent to the tiny model, has all fields of its line in the second."""
    section = TEXT["production.md"].partition("## Beyond chat")[2]
    requests, replies = (block.splitlines() for block in re.findall(r"```(?:bash|text)\n(.*?)\n```", section, re.S)[:2])

    def shape(value):
        """Names of fields and kinds of values; of a list what stands in it. Ids and texts differ from run to run."""
        if isinstance(value, dict):
            return {name: value[name] if name in FIXED else shape(value[name]) for name in value}
        return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__

    def within(part, whole):
        if isinstance(part, dict):
            return all(name in whole and within(part[name], whole[name]) for name in part)
        if isinstance(part, list):
            return len(part) == len(whole) and all(map(within, part, whole))
        return part == whole

    assert len(requests) == len(replies) == 3
    for request, shown in zip(requests, replies, strict=True):
        words = shlex.split(request)
        path, body = urlsplit(words[2]).path, json.loads(words[-1]) | {"model": server.model}
        if path.startswith("/v1"):
            body["temperature"] = 0
        address = server.base_url.removesuffix("/v1") + path
        asked = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=120) as answer:
            got = json.load(answer)
        assert within(shape(json.loads(shown)), shape(got)), (path, got)


FIXED = {"type", "status", "stop_reason", "count", "input_tokens"}


@pytest.mark.slow
def test_the_program_of_the_page_runs_as_pasted(server, tmp_path):
    """Beside the client and nothing else, without chance: a sampled answer of the tiny model may be cut."""
    [code] = re.findall(r"```python\n(.*?)```", TEXT["production.md"], re.DOTALL)
    assert code in TEXT["production.zh.md"]
    client = (ROOT / "docs" / "qwen_client.py").read_text(encoding="utf-8")
    (tmp_path / "qwen_client.py").write_text(re.sub(r'"temperature": 0\.\d', '"temperature": 0', client), "utf-8")
    (tmp_path / "pasted.py").write_text(code, encoding="utf-8")
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables |= {"BASE_URL": server.base_url, "MODEL": server.model, "API_KEY": server.api_key}
    command = [sys.executable, "pasted.py"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stderr == ""
    answer, *pieces, product = done.stdout.splitlines()
    assert answer == "37×46=1702" and "tool calculator: 699678" in pieces and product.startswith("{'product': ")
