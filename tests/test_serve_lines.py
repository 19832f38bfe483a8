"""Every `vllm serve` line that a page shows is one that the installed vLLM understands; nothing is started."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from tools.lessons.source import lesson_names, read_lessons

FENCE = re.compile(r"^```(?:bash|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser, found = make_arg_parser(FlexibleArgumentParser()), []
for line in json.load(sys.stdin):
    arguments = parser.parse_args(line)
    validate_parsed_serve_args(arguments)
    if name := arguments.reasoning_parser or arguments.structured_outputs_config.reasoning_parser:
        ReasoningParserManager.get_reasoning_parser(name)
    if arguments.tool_call_parser:
        ToolParserManager.get_tool_parser(arguments.tool_call_parser)
    found.append([arguments.model_tag, arguments.tensor_parallel_size, arguments.shutdown_timeout])
print(json.dumps(found))
"""


def commands(text: str) -> list[list[str]]:
    """The words behind `vllm serve` of each command in a page's blocks, also of one inside another command."""
    found = []
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for word in [line, *shlex.split(line, comments=True)]:
                if re.match(r"([A-Z_]+=\S+ )*(\S*/)?vllm serve ", word):
                    words = shlex.split(word.split(" 2>&1")[0], comments=True)
                    found.append(words[words.index("serve") + 1 :])
    return found


def all_commands() -> dict[tuple[str, ...], set[str]]:
    """Each line of the READMEs, the pages and the lessons, and where it stands."""
    pages = {
        path.name: path.read_text(encoding="utf-8") for folder in (ROOT, ROOT / "docs") for path in folder.glob("*.md")
    }
    for lesson in read_lessons(ROOT, lesson_names(ROOT)):
        for cell in lesson.cells:
            if cell.kind == "markdown":
                pages |= {f"{lesson.name} {cell.key} {lang}": cell.text[lang] for lang in ("zh", "en")}
    found: dict[tuple[str, ...], set[str]] = {}
    for name, text in pages.items():
        for words in commands(text):
            found.setdefault(tuple(words), set()).add(name)
    return found


def test_lines_are_found_wherever_they_stand():
    text = """```bash
A=1 .venv/bin/vllm serve M --port 8 \\
  --host h  # why
tmux new -d 'vllm serve M 2>&1 | tee log'
```
`vllm serve --in-prose`"""
    assert commands(text) == [["M", "--port", "8", "--host", "h"], ["M"]]
    places = set().union(*all_commands().values())
    pages = ("README", "copy-me", "production", "workshop", "00_", "07_", "08_")
    assert all(any(place.startswith(page) for place in places) for page in pages)


@pytest.mark.slow
def test_every_line_is_understood_by_the_installed_vllm():
    lines = [list(words) for words in all_commands()]
    done = subprocess.run([sys.executable, "-c", PARSE], input=json.dumps(lines), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for words, (model, tensor_parallel, timeout) in zip(lines, json.loads(done.stdout.splitlines()[-1]), strict=True):
        options = dict(zip(words[1:], words[2:], strict=False))
        assert model == words[0] and tensor_parallel == int(options.get("--tensor-parallel-size", 1))
        assert timeout == int(options.get("--shutdown-timeout", 0))
