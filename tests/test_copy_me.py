"""docs/copy-me.md: every block of it runs alone in a fresh process, with nothing but environment variables set."""

import ast
import os
import re
import subprocess
import sys

import build_notebooks
import lesson_pages
import pytest
from conftest import ROOT, TOY

from helpers import engine, hub, models
from helpers.server import Server

BLOCK = re.compile(r"^## \[(\w+).*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {lang: (ROOT / "docs" / page[0]).read_text(encoding="utf-8") for lang, page in lesson_pages.COPY_ME.items()}
BLOCKS = BLOCK.findall(PAGES["en"])


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPENAI_BASE_URL", raising=False)
        with Server("qwen3-tiny") as running:
            yield running


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", [pytest.param(code, id=f"{lesson}-{place}") for place, (lesson, code) in enumerate(BLOCKS)]
)
def test_block_runs_alone(code, tmp_path, request):
    folder = models.find_checkpoint("qwen3-tiny")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "OPENAI_"))}
    # Without a size, vLLM for CPU takes 92 % of all memory for its KV cache.
    on_a_cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
    variables |= engine.environment(folder) | on_a_cpu | {"MPLBACKEND": "Agg"}
    variables |= {"COURSE_MODEL": str(folder), "COURSE_MOE_MODEL": str(models.find_checkpoint("qwen3-moe-tiny"))}
    if "BASE_URL" in code:
        running = request.getfixturevalue("server")
        variables |= {"BASE_URL": running.base_url, "MODEL": running.model}
    script = tmp_path / "copied.py"
    script.write_text(code, encoding="utf-8")

    def run(variables):
        command = [sys.executable, "-I", script]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)

    if "modelscope" in code:
        with hub.Hub() as rehearsal:
            done = run(variables | rehearsal.environment | {"COURSE_MODEL": f"{hub.OWNER}/qwen3-tiny"})
    else:
        done = run(variables)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.stdout.strip() and not re.match(r"No (server|config)", done.stdout), done.stdout


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
    assert build_notebooks.main(["--root", str(course.root)]) == 0
    zh, en = ((course.root / "docs" / name).read_text() for name in ("copy-me.zh.md", "copy-me.md"))
    assert "[第一课](../notebooks/zh/99_toy.ipynb)" in zh and "设置：`NAME`" in zh
    assert "Settings: `NAME`" in en and en.count("```python") == 1 and "answer = 6" not in en
    course.write(TOY + copied.replace("print(NAME)", "print('hello', NAME)"))
    assert build_notebooks.main(["--root", str(course.root), "--check"]) == 1
    assert "docs/copy-me.md: it is not what the lessons make of it" in capsys.readouterr().err
