"""The pages that are made from all lessons together: their index, the copy-me cells, the minutes of a workshop."""

import ast
import re
import sys
from pathlib import Path

from tools.lessons.source import LANGUAGES, Lesson, LessonError

INDEX = ("<!-- lessons: written by tools/lessons/build.py -->", "<!-- end of lessons -->")
SECTIONS = ("<!-- sections: written by tools/lessons/build.py -->", "<!-- end of sections -->")
COPY_ME = {
    "zh": (
        "copy-me.zh.md",
        "# 可以直接拿走的代码\n\n[English](copy-me.md)\n\n"
        "各课里可以直接拿走的代码格都在这里，由 `tools/lessons/build.py` 从课程源文件生成，请勿手改。"
        "每一段都不依赖本课程：复制到一个文件里，先运行它上面的那行 `pip install`；设置全部来自环境变量。\n\n"
        "设了 `BASE_URL` 的几段要有一个服务器。从 ModelScope 取模型，用下面几行启动（24 GB 显存；"
        "每个参数的含义见[第 07 课](../notebooks/zh/07_openai_server.ipynb)）；模型名 `Qwen3-8B` 就是各段的默认值。"
        "没有 GPU：[同一个名字，小模型](production.zh.md#没有-gpu)。想做出自己的流式网页接口，"
        "见[从一行命令到一个服务](production.zh.md#做出一个流式接口)：四个可以拿走的文件，这一行的变体，怎样长期运行。"
        "其中 [qwen_client.py](qwen_client.py) 一个文件就顶得上下面 07 课的四段。",
        "安装：",
        "设置：",
    ),
    "en": (
        "copy-me.md",
        "# Code to take away\n\n[中文](copy-me.zh.md)\n\n"
        "Every cell of the lessons that is made to be copied, written here by `tools/lessons/build.py`; do not edit. "
        "Each block needs nothing of this course: paste it into a file, after the `pip install` above it. "
        "All settings are environment variables.\n\n"
        "Blocks with a `BASE_URL` need a server. These lines start one with a model from ModelScope (24 GB of GPU "
        "memory; [lesson 07](../notebooks/en/07_openai_server.ipynb) tells what each flag does); the name `Qwen3-8B` "
        "is the one that all blocks use. No GPU: [the same name, a tiny model](production.md#without-a-gpu). "
        "For a streamed web endpoint of your own go to "
        "[from a line to a service](production.md#to-a-streamed-endpoint): four files to copy, variants of this line, "
        "the life of a service. Its [qwen_client.py](qwen_client.py) does the work of the four blocks of lesson 07.",
        "Install: ",
        "Settings: ",
    ),
}
SERVE = """\
pip install vllm modelscope
export VLLM_USE_MODELSCOPE=1
vllm serve Qwen/Qwen3-8B --served-model-name Qwen3-8B --host 127.0.0.1 --port 8000 --max-model-len 32768 \
--shutdown-timeout 120 --reasoning-parser qwen3 --enable-auto-tool-choice --tool-call-parser hermes"""
WORKSHOP = {
    "zh": ("workshop.zh.md", "| 课 | 分钟 | 主线各节（分钟） |"),
    "en": ("workshop.md", "| Lesson | Minutes | Its core sections (minutes) |"),
}
SETTING = re.compile(r"os\.environ(?:\.get\(|\[)\s*\"(\w+)\"")


def shared_pages(root: Path, lessons: list[Lesson]) -> dict[Path, str]:
    """Path -> text of each page. Raises LessonError for a page without its markers."""
    return index_file(root, lessons) | copy_me_pages(root, lessons) | workshop_pages(root, lessons)


def between(root: Path, path: Path, markers: tuple[str, str], rows: list[str]) -> dict[Path, str]:
    """The file at `path` with `rows` between its two marker lines; {} if there is no such file."""
    if not path.is_file():
        return {}
    before, start, rest = path.read_text(encoding="utf-8").partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not start or not end:
        lines = f"put the lines {markers[0]} and {markers[1]} where the table belongs."
        raise LessonError([f"{path.relative_to(root)}: {lines}"])
    return {path: "\n".join([before + markers[0], *rows, markers[1] + after])}


def index_file(root: Path, lessons: list[Lesson]) -> dict[Path, str]:
    """notebooks/README.md with its table of lessons, the titles taken from the sources."""
    rows = ["| 中文 | English |", "|---|---|"]
    for lesson in lessons:
        rows.append(
            "| " + " | ".join(f"[{lesson.title(lang)}]({lang}/{lesson.name}.ipynb)" for lang in LANGUAGES) + " |"
        )
    return between(root, root / "notebooks" / "README.md", INDEX, rows)


def packages(code: str) -> list[str]:
    """What pip has to install for a block: what it imports, and modelscope where vLLM is told to download with it."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    if "VLLM_USE_MODELSCOPE" in code:
        found.add("modelscope")
    return sorted(found - {"modelscope_hub"} - sys.stdlib_module_names)  # modelscope brings modelscope_hub


def copy_me_pages(root: Path, lessons: list[Lesson]) -> dict[Path, str]:
    """docs/copy-me.md and docs/copy-me.zh.md: each copy-me cell below the paragraph that introduces it."""
    if not (root / "docs").is_dir():
        return {}
    pages: dict[Path, str] = {}
    for lang, (name, head, install, settings) in COPY_ME.items():
        parts = [head, f"```bash\n{SERVE}\n```"]
        for lesson in lessons:
            before = ""
            for cell in lesson.cells:
                if "copy-me" in cell.tags:
                    used = ", ".join(f"`{setting}`" for setting in dict.fromkeys(SETTING.findall(cell.text[lang])))
                    title = f"## [{lesson.title(lang)}](../notebooks/{lang}/{lesson.name}.ipynb)"
                    parts += [before] if title in parts else [title, before]
                    needed = " ".join(packages(cell.text[lang]))
                    parts += [f"{install}`pip install {needed}`"] if needed else []
                    parts += [f"{settings}{used}", f"```python\n{cell.text[lang].strip()}\n```"]
                elif cell.kind == "markdown":
                    before = cell.text[lang].strip().split("\n\n")[-1].replace("](../", "](../notebooks/")
        pages[root / "docs" / name] = "\n\n".join(parts) + "\n"
    return pages


def core_minutes(lesson: Lesson, lang: str) -> int:
    """Minutes of the main path: the first number in the row "Time" below the title, 0 without one."""
    found = re.search(r"^\| (?:时间|Time) \|\D*(\d+)", lesson.cells[0].text[lang], re.MULTILINE)
    return int(found[1]) if found else 0


def core_sections(lesson: Lesson, lang: str) -> dict[str, int]:
    """Section -> minutes: the lesson's core minutes, shared out by core code cells; they add up."""
    cells: dict[str, int] = {}
    section = None
    waiting = 0  # the setup stands before the first section
    for cell in lesson.cells:
        if cell.kind == "markdown":
            section = ([section] + re.findall(r"^## (.+)$", cell.text[lang], re.MULTILINE))[-1]
        elif not {"extra", "solution"} & set(cell.tags):
            waiting += 1
            if section:
                cells[section] = cells.get(section, 0) + waiting
                waiting = 0
    done, before, minutes = 0, 0, {}
    for name, count in cells.items():
        done += count
        until = round(core_minutes(lesson, lang) * done / sum(cells.values()))
        minutes[name], before = until - before, until
    return minutes


def workshop_pages(root: Path, lessons: list[Lesson]) -> dict[Path, str]:
    """docs/workshop.md and docs/workshop.zh.md with the minutes of every core section."""
    pages: dict[Path, str] = {}
    for lang, (name, head) in WORKSHOP.items():
        rows = [head, "|---|---|---|"]
        for lesson in lessons:
            sections = " · ".join(f"{section} ({minutes})" for section, minutes in core_sections(lesson, lang).items())
            title = f"[{lesson.title(lang)}](../notebooks/{lang}/{lesson.name}.ipynb)"
            rows.append(f"| {title} | {core_minutes(lesson, lang)} | {sections} |")
        pages |= between(root, root / "docs" / name, SECTIONS, rows)
    return pages
