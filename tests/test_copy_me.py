"""docs/copy-me.md: every block of it runs alone in a fresh process, with nothing but environment variables set."""

import ast
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, TOY

from helpers import catalogue, engine, hub, models
from helpers.checkpoint import Checkpoint
from tools.lessons import build, pages

BLOCK = re.compile(r"^## \[(\w+).*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {lang: (ROOT / "docs" / page[0]).read_text(encoding="utf-8") for lang, page in pages.COPY_ME.items()}
BLOCKS = BLOCK.findall(PAGES["en"])
IDS = [f"{lesson}-{[other for other, _ in BLOCKS[:place]].count(lesson)}" for place, (lesson, _) in enumerate(BLOCKS)]
SERVED = [pytest.param(key, code, id=key) for key, (_, code) in zip(IDS, BLOCKS, strict=True) if "BASE_URL" in code]
ALONE = [pytest.param(key, code, id=key) for key, (_, code) in zip(IDS, BLOCKS, strict=True) if "BASE_URL" not in code]
KV = catalogue.kv_bytes_per_token(Checkpoint(models.find_checkpoint("qwen3-tiny")).config) / 1024

# What a block prints about the tiny models, in this order; one that is not here has to print something.
PRINTED = {
    "03-0": [r"Qwen3ForCausalLM", r"QKV bias: False", r"QK-norm:  True", f"{KV:g} KiB a token"],
    "04-0": [r"^layer 0:", r"^layer 1:", r"^layer 2:", r"^layer 3:[^\n]*$"],
    "05-0": [r"\A(?!.*<think>)", r"^thinking: .*1480\+222", r"^answer: 37×46=1702$", r"^without thinking: 37×46="],
    "06-0": [
        r"answer: '23×31=713'",
        r"713\+10=723",
        r"4 messages, thoughts in them: False",
        r"with a budget: \('46=40\+6\\n37×40=1', '37×46=",  # cut there
        r"^cut [^<\n]*, None\) 0 messages$",  # within the thought
        r"^cut [^\n]*=1702', '37×'\) 0 messages$",  # behind a whole thought, within the answer
    ],
    "07-0": [r"\('.+', True\)"],
    "07-1": [r"1702", r"\n\(None, '.*1712'\)"],
    "07-2": [r"1480", r"1702"],
    "07-3": [r"699678"],
    "08-0": [r"\A[^\n]*37×46=[^\n]*\n[^\n]*17\+25\+8=[^\n]*\n[^\n]*5!=[^\n]*\n", "3/3"],  # the last on stderr
    "A1-0": [r"\Aqwen3-tiny: .*/3 right", r"median "],
}
AFTER = {  # more code at the end of a block, where its engine is open
    "06-0": """
    for tokens in (8, 50):
        chat = Chat(llm)
        print("cut", chat.ask("37×46=?", max_tokens=tokens), len(chat.messages), "messages")
"""
}


def run(key, code, folder, variables) -> None:
    """Runs the block as a script in a fresh process and checks what it prints."""
    (folder / "copied.py").write_text(code + AFTER.get(key, ""), encoding="utf-8")
    command = [sys.executable, "-I", "copied.py"]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.stdout.strip() and not re.match(r"No (server|config)", done.stdout), done.stdout
    printed = done.stdout + done.stderr
    assert re.search(".*".join(PRINTED.get(key, [])), printed, re.DOTALL | re.MULTILINE), printed


@pytest.mark.slow
@pytest.mark.parametrize(("key", "code"), ALONE)
def test_block_runs_alone(key, code, tmp_path):
    folder = models.find_checkpoint("qwen3-tiny")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    # Without a size, vLLM for CPU takes 92 % of all memory for its KV cache.
    on_a_cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
    variables |= engine.environment(folder) | on_a_cpu | {"MPLBACKEND": "Agg"}
    variables |= {"COURSE_MODEL": str(folder), "COURSE_MOE_MODEL": str(models.find_checkpoint("qwen3-moe-tiny"))}
    if "modelscope" in code:
        with hub.Hub() as rehearsal:
            variables |= rehearsal.environment | {"COURSE_MODEL": f"{hub.OWNER}/qwen3-tiny"}
            run(key, code, tmp_path, variables)
    else:
        run(key, code, tmp_path, variables)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "code"), SERVED)
def test_block_runs_with_a_server(key, code, tmp_path, guarded_server):
    """It knows nothing but where the server is, its key and its model."""
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables |= {"BASE_URL": guarded_server.base_url, "API_KEY": guarded_server.api_key}
    run(key, code, tmp_path, variables | {"MODEL": guarded_server.model})


def test_both_pages_hold_the_same_code():
    zh = BLOCK.findall(PAGES["zh"])
    assert [lesson for lesson, _ in zh] == [lesson for lesson, _ in BLOCKS]
    for (_, first), (_, second) in zip(zh, BLOCKS, strict=True):
        assert ast.dump(ast.parse(first)) == ast.dump(ast.parse(second))
    assert len(BLOCKS) == sum(page.count("```python") for page in PAGES.values()) / 2 > 0


def test_pages_follow_the_lessons(course, capsys):
    copied = '\n# %% key="copy-me" tags=["copy-me"]\nimport os\n\nNAME = os.environ.get("NAME", "you")\nprint(NAME)\n'
    course.write(TOY + copied)
    (course.root / "docs").mkdir()
    assert build.main(["--root", str(course.root)]) == 0
    zh, en = ((course.root / "docs" / name).read_text() for name in ("copy-me.zh.md", "copy-me.md"))
    assert "[第一课](../notebooks/zh/99_toy.ipynb)" in zh and "设置：`NAME`" in zh
    assert "Settings: `NAME`" in en and en.count("```python") == 1 and "answer = 6" not in en
    course.write(TOY + copied.replace("print(NAME)", "print('hello', NAME)"))
    assert build.main(["--root", str(course.root), "--check"]) == 1
    assert "docs/copy-me.md: it is not what the lessons make of it" in capsys.readouterr().err
