"""docs/architecture.md is the map of the tree: what it names is there, and every module is on it, in both languages."""

import ast
import re
import subprocess
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

PLACED = re.compile(r"^\|(.+?)\|", re.MULTILINE)
PATH = re.compile(r"`((?:\w+/)+[\w.]*)`")
MADE_HERE = {"my/"}  # each learner's own: no clone holds it


def on_the_map(page: str) -> set[str]:
    """The paths in the first column of the page's tables."""
    rows = PLACED.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    return {path for row in rows for path in PATH.findall(row)}


def tracked(*patterns: str) -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in listed if (ROOT / name).is_file()}


@pytest.mark.parametrize("page", ["architecture.md", "architecture.zh.md"])
def test_the_map_is_the_tree(page):
    placed = on_the_map(page)
    modules = tracked("helpers/*.py", "helpers/*.json", "tools/*.py", "tools/*.sh")
    modules = {name for name in modules if not name.endswith("__init__.py")}
    rooms = {folder for folder in placed if folder.endswith("/")}
    standing_for_theirs = {folder for folder in rooms - {"helpers/"} if not folder.startswith("tools/")}
    apart = {name for name in modules if any(name.startswith(folder) for folder in standing_for_theirs)}
    assert placed - rooms == modules - apart
    assert [name for name in sorted(placed - MADE_HERE) if not (ROOT / name).exists()] == []


def test_no_module_imports_itself_by_a_roundabout_way():
    """An import inside a function counts too."""
    paths = tracked("helpers/*.py", "tools/*.py")
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): ROOT / name for name in paths}
    imports = {module: set() for module in modules}
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name.name}" for name in node.names]
                imports[module] |= {name if name in modules else node.module for name in names}
            elif isinstance(node, ast.Import):
                imports[module] |= {name.name for name in node.names}
    TopologicalSorter({module: found & modules.keys() for module, found in imports.items()}).prepare()


@pytest.mark.parametrize("page, title", [("architecture.md", "## The rooms"), ("architecture.zh.md", "## 各课的房间")])
def test_every_room_is_on_the_map(page, title):
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"{title}\n")[2].partition("\n## ")[0]
    _, _, *rows = PLACED.findall(section)  # without the head and the line below it
    rooms = {path.split("/")[2] for path in tracked("helpers/lessons/*")} - {"__init__.py"}
    assert sorted(name for row in rows for name in re.findall("`(.+?)`", row)) == sorted(rooms)


@pytest.mark.parametrize("page", ["architecture.md", "architecture.zh.md"])
def test_every_folder_of_the_course_is_on_the_map(page):
    top = {name.split("/")[0] + "/" for name in tracked() if "/" in name and not name.startswith(".")}
    assert {folder.split("/")[0] + "/" for folder in on_the_map(page)} - MADE_HERE == top


def test_the_map_is_read_in_ten_minutes():
    words = re.findall(r"[\w`./]+", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert len(words) < 2000  # 200 words a minute
