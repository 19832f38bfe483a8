"""docs/copy-me.md: every block of it runs alone in a fresh process, with nothing but environment variables set."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys

import httpx
import pytest
from conftest import ROOT, TOY
from processes import descendants, wait_until_gone
from test_web_handler import handler as web_handler

from helpers import catalogue, engine, hub, models
from helpers.checkpoint import Checkpoint
from tools.lessons import build, pages

PART = re.compile(r"^## \[(\w+)|^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {lang: (ROOT / "docs" / page[0]).read_text(encoding="utf-8") for lang, page in pages.COPY_ME.items()}


def blocks(page: str) -> list[tuple[str, str]]:
    """The lesson and the code of each block; a lesson has one heading for all of its own."""
    found, lesson = [], ""
    for heading, code in PART.findall(page):
        lesson = heading or lesson
        found += [(lesson, code)] if code else []
    return found


BLOCKS = blocks(PAGES["en"])
IDS = [f"{lesson}-{[other for other, _ in BLOCKS[:place]].count(lesson)}" for place, (lesson, _) in enumerate(BLOCKS)]
SERVED = [pytest.param(key, code, id=key) for key, (_, code) in zip(IDS, BLOCKS, strict=True) if "BASE_URL" in code]
ALONE = [pytest.param(key, code, id=key) for key, (_, code) in zip(IDS, BLOCKS, strict=True) if "BASE_URL" not in code]
OFFLINE = [  # scripts that open an engine; the two set it up in the same way
    pytest.param(*block.values, id=block.id, marks=pytest.mark.slow if block.id == "05-0" else pytest.mark.large)
    for block in ALONE
    if block.id in ("05-0", "06-0")
]
KV = catalogue.kv_bytes_per_token(Checkpoint(models.find_checkpoint("qwen3-tiny")).config) / 1024

# What a block prints about the tiny models, in this order; one that is not here has to print something.
PRINTED = {
    "03-0": [r"Qwen3ForCausalLM", r"QKV bias: False", r"QK-norm:  True", f"{KV:g} KiB a token"],
    "04-0": [r"^layer 0:", r"^layer 1:", r"^layer 2:", r"^layer 3:[^\n]*$"],
    "05-0": [
        r"\A(?!.*<think>)",
        r"^thinking: .*1480\+222",
        r"^answer: 37×46=1702$",
        r"^finish: stop$",
        r"^without thinking: 37×46=",
        r"^cut \('[^']+', None, 'length'\) \(None, None, 'too long'\) stop$",  # it harms no other
        r"^none \[\(None, None, 'too long'\)\]$",
    ],
    "06-0": [
        r"answer: '23×31=713' \(stop\)",
        r"713\+10=723",
        r"4 messages, thoughts in them: False",
        r"with a budget: \('46=40\+6\\n37×40=1', '37×46=",  # cut there
        r"^cut [^<\n]*, None, 'length'\) 0 messages$",  # within the thought
        r"^cut [^\n]*=1702', '37×', 'length'\) 0 messages$",  # behind a whole thought, within the answer
    ],
    "07-0": [r"\('.+', True\)"],
    "07-1": [r"1702", r"\n\(None, '.*1712'\)"],
    "07-2": [r"1480", r"1702"],
    "07-3": [r"699678"],
    "08-0": [r"\A[^\n]*37×46=[^\n]*\n[^\n]*17\+25\+8=[^\n]*\n[^\n]*5!=[^\n]*\n", "3/3"],  # the last on stderr
    "09-0": [r"\Aqwen3-tiny: .*/3 right", r"median "],
}
AFTER = {  # more code at the end of a block, where its engine is open
    "05-0": """
    long = "1+" * llm.model_config.max_model_len
    [cut, _] = ask(llm, ["37×46=?", long], max_tokens=3)
    [_, refused, whole] = ask(llm, ["37×46=?", long, "23×31=?"])
    print("cut", cut, refused, whole[2])
    print("none", ask(llm, [long]))
""",
    "06-0": """
    for tokens in (8, 50):
        chat = Chat(llm)
        print("cut", chat.ask("37×46=?", max_tokens=tokens), len(chat.messages), "messages")
""",
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


@pytest.mark.large
@pytest.mark.parametrize(("key", "code"), [block for block in ALONE if block.id in ("05-0", "06-0")])
def test_on_a_cpu_a_block_names_the_variables_that_it_needs(key, code, tmp_path):
    (tmp_path / "copied.py").write_text(code, encoding="utf-8")
    folder = models.find_checkpoint("qwen3-tiny")
    needed = ("VLLM_CPU_KVCACHE_SPACE", "TORCH_COMPILE_DISABLE")
    variables = os.environ | engine.environment(folder) | {"COURSE_MODEL": str(folder)}
    variables = {name: value for name, value in variables.items() if name not in needed}
    command = [sys.executable, "-I", "copied.py"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and not done.stdout, done.stderr
    assert all(name in done.stderr.splitlines()[-1] for name in needed)


@pytest.mark.parametrize(("key", "code"), OFFLINE)
def test_kill_9_of_a_script_leaves_no_engine(key, code, tmp_path, processes):
    """By the variable that the block sets; without it, vLLM's processes outlive the script."""
    (tmp_path / "copied.py").write_text(f'{code}\n    print("open", flush=True)\n    input()\n', encoding="utf-8")
    folder = models.find_checkpoint("qwen3-tiny")
    variables = os.environ | engine.environment(folder) | {"COURSE_MODEL": str(folder)}
    variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCH_COMPILE_DISABLE": "1"}
    variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-I", "copied.py"], cwd=tmp_path, env=variables, **pipes) as script:
        assert "open\n" in iter(script.stdout.readline, "")
        processes += descendants(script.pid)
        script.kill()
    wait_until_gone(processes)


# ---------------------------------------------------------------------------------------------- what a block needs


@pytest.mark.parametrize(("key", "code"), SERVED)
def test_a_client_acts_in_its_guard_only(key, code):
    """Nothing is asked, printed or started by an import."""
    free = [node for node in ast.parse(code).body if isinstance(node, ast.Expr | ast.For | ast.Try | ast.With)]
    guards = [node for node in ast.parse(code).body if isinstance(node, ast.If)]
    assert not free and [ast.unparse(node.test).partition(" and ")[0] for node in guards] == ["__name__ == '__main__'"]


WHOLE = ("NoAnswer", "whole_answer", "read_reply", "unbroken", "no_connection")


def test_what_several_blocks_share_is_the_same_in_each():
    """Each stands alone, so it is written out in each; but there is one way to judge a reply."""
    found = {}
    for lang in PAGES:
        for _, code in blocks(PAGES[lang]):
            for node in ast.parse(code).body:
                if getattr(node, "name", None) in WHOLE and "whole_answer" in code:
                    found.setdefault(node.name, set()).add(ast.unparse(node))
    assert set(found) == set(WHOLE) and all(len(texts) == 1 for texts in found.values())


def serve_lines():
    """Every command that starts a server on a page around the lessons."""
    for path in [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("copy-me*.md"))]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "vllm serve " in line:
                yield pytest.param(shlex.split(line.partition("vllm serve ")[2]), id=path.name)


def test_the_server_that_the_pages_start_is_the_one_that_all_blocks_ask():
    lines = {parameter.id: parameter.values[0] for parameter in serve_lines()}
    assert set(lines) == {"README.md", "README.zh.md", "copy-me.md", "copy-me.zh.md"}
    names = {code.partition('"MODEL", "')[2].partition('"')[0] for _, code in BLOCKS if '"MODEL"' in code}
    for words in lines.values():
        options = dict(zip(words[1::2], words[2::2], strict=False))
        assert {options["--served-model-name"]} == names and words[0] in catalogue.CATALOGUE
        assert options["--reasoning-parser"] == "qwen3" and options["--host"] == "127.0.0.1"
        assert words[-3:] == ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]


INSTALLED = {
    "02-0": "modelscope",
    "04-0": "matplotlib torch transformers",
    "05-0": "modelscope vllm",
    "06-0": "modelscope vllm",
    "08-0": "openai tqdm",
} | dict.fromkeys(("07-0", "07-1", "07-2", "07-3", "09-0"), "openai")


@pytest.mark.parametrize("lang", PAGES)
def test_a_line_says_what_to_install(lang):
    *before, _ = re.split(r"^```python\n.*?^```$", PAGES[lang], flags=re.MULTILINE | re.DOTALL)
    shown = {
        key: re.findall(r"`pip install ([^`]*)`$", text, re.MULTILINE) for key, text in zip(IDS, before, strict=True)
    }
    assert {key: lines[-1] for key, lines in shown.items() if lines} == INSTALLED


@pytest.mark.parametrize("lang", PAGES)
def test_a_lesson_has_one_heading_for_all_its_blocks(lang):
    headings = re.findall(r"^## .*$", PAGES[lang], re.MULTILINE)
    assert len(headings) == len(set(headings)) == len({key.partition("-")[0] for key in IDS})


def imported(code: str) -> set[str]:
    """The packages that a block imports, wherever in it, without the standard library."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


COMES_WITH = {"modelscope": {"modelscope_hub"}, "fastapi": {"pydantic"}}


def files(page: str) -> dict[str, str]:
    """What to install for each file of docs/production.md that is copied whole."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^\| \[(\w+\.py)\]\(\1\) \|.*\| `pip install ([^`]*)` \|$", text, re.MULTILINE))


FILES = files("production.md")


def test_the_line_names_all_that_a_block_or_file_imports():
    code = dict(zip(IDS, (code for _, code in BLOCKS), strict=True))
    code |= {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in FILES}
    for key, text in code.items():
        line = set((INSTALLED | FILES).get(key, "").split())
        there = line.union({"qwen_client"} if key in FILES else (), *(COMES_WITH.get(name, ()) for name in line))
        assert imported(text) <= there, key
    assert files("production.zh.md") == FILES and len(FILES) == 4
    for name, line in FILES.items():  # one that names it itself names the same
        assert re.findall(r"`pip install ([^`]*)`", code[name]) in ([], [line])


HEAVY = {"torch", "vllm"}  # several GB each, with CUDA


def runs_until_it_finds_no_server(name: str, python, folder) -> None:
    """A file of FILES, in ``folder`` with all of them, by a Python that has what its line names and nothing else."""
    if name == "web_handler.py":
        with web_handler("http://127.0.0.1:9/v1", python=python) as address:
            assert httpx.post(f"{address}/ask", json={"text": "?"}, trust_env=False, timeout=60).status_code == 503
        return
    arguments = {"qwen_batch.py": ["questions.txt", "answers.jsonl", "--patience", "0"]}
    arguments |= {"qwen_client.py": ["?"], "qwen_quality.py": ["questions.jsonl"]}
    options = {"cwd": folder, "capture_output": True, "text": True, "env": {"BASE_URL": "http://127.0.0.1:9/v1"}}
    (folder / "questions.txt").write_text("37×46=?\n", encoding="utf-8")
    (folder / "questions.jsonl").write_text('{"question": "37×46=?", "answer": "1702"}\n', encoding="utf-8")
    done = subprocess.run([python, name, *arguments[name]], **options)
    assert done.returncode == 1 and "No server at" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.large
@pytest.mark.network
def test_the_line_is_enough_in_an_empty_environment(tmp_path):
    """Each block is compiled and all that it imports is there; one that asks a server runs until it finds none, as does
    each file of docs/production.md."""
    served = {block.id for block in SERVED}
    for name in FILES:
        shutil.copy(ROOT / "docs" / name, tmp_path)
    lines = {line for line in (INSTALLED | FILES).values() if not HEAVY & set(line.split())}
    for line in sorted(lines):
        python = tmp_path / line.replace(" ", "-") / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parent.parent], check=True)
        pip = [sys.executable, "-m", "pip", "--python", python]  # to make a pip for each takes longer than the line
        subprocess.run([*pip, "install", "--quiet", *line.split()], check=True)
        for key, (_, code) in zip(IDS, BLOCKS, strict=True):
            if INSTALLED.get(key) != line:
                continue
            (tmp_path / "copied.py").write_text(code, encoding="utf-8")
            options = {"cwd": tmp_path, "capture_output": True, "text": True}
            compiled = f"py_compile.compile('copied.py', doraise=True); import {', '.join(sorted(imported(code)))}"
            done = subprocess.run([python, "-I", "-c", f"import py_compile; {compiled}"], **options)
            assert done.returncode == 0, (key, done.stderr)
            if key in served:
                settings = {"BASE_URL": "http://127.0.0.1:9/v1"}
                done = subprocess.run([python, "-I", "copied.py"], env=settings, **options)
                assert done.returncode == 1 and "No server at" in done.stderr, (key, done.stderr)
        for name in FILES:
            if FILES[name] == line:
                runs_until_it_finds_no_server(name, python, tmp_path)


@pytest.mark.large
@pytest.mark.network
def test_what_the_heavy_lines_name_exists_for_this_python():
    """The index has a wheel of each for this Python and machine, by its list of files; nothing is downloaded. That they
    can be installed together, that their imports work and that a GPU runs them, it does not prove."""
    lines = [set(line.split()) for line in INSTALLED.values()]
    for name in sorted(set().union(*(line for line in lines if HEAVY & line))):
        command = [sys.executable, "-m", "pip", "index", "versions", "--only-binary", ":all:", name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith(f"{name} ("), done.stderr


def test_both_pages_hold_the_same_code():
    zh = blocks(PAGES["zh"])
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
