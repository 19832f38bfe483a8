"""A lesson's room is its own: who imports it, how large it is; and the names of 0.1.0 that moved into one."""

import ast
import importlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

LESSONS = ROOT / "helpers" / "lessons"
ROOM = re.compile(r"helpers\.lessons\.(l[0-9A]\d)\b")
OLD_NAMES = {"helpers/checks.py", "helpers/plots.py", "helpers/routing.py"}  # find what moved, when it is asked for
MAX_LINES = 250
# What the lessons of 0.1.0 used of the two modules that were taken apart.
PLOTS = [
    "EXPERT_COLOURS", "TOKENS_PER_ROW", "association", "block_tables", "expert_load", "figure", "gpu_memory",
    "printable", "rise_without_expert", "routing_map", "timeline",
]  # fmt: skip
ROUTING = [
    "RoutingTrace", "TOKEN_CLASSES", "agreement", "capture_conversation", "capture_reference", "capture_transformers",
    "capture_vllm", "capture_vllm_gpu", "class_association", "coefficient_of_variation", "concatenate", "expert_load",
    "expert_off", "gini", "never_used", "pieces", "recording", "token_class", "written_losses",
]  # fmt: skip


def imported(path) -> set[str]:
    """The modules that a file imports anywhere in it, each name of a ``from`` import as if it were a module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            names |= {f"{node.module}.{name.name}" for name in node.names}
    return names


def rooms_in(path) -> set[str]:
    return {match[1] for name in imported(path) if (match := ROOM.match(name))}


def test_no_other_module_of_helpers_imports_a_room():
    others = [path for path in (ROOT / "helpers").rglob("*.py") if LESSONS not in path.parents]
    assert len(others) > 20
    for path in others:
        name = path.relative_to(ROOT).as_posix()
        found = {module for module in imported(path) if module.startswith("helpers.lessons")}
        assert name in OLD_NAMES or not found, f"{name} imports {found}"


def test_a_room_is_imported_by_its_own_lesson_alone():
    for path in LESSONS.rglob("*.py"):
        own = {path.relative_to(LESSONS).parts[0].removesuffix(".py")}
        assert rooms_in(path) <= own, path
    for path in (ROOT / "notebooks" / "source").glob("*.py"):
        assert rooms_in(path) <= {f"l{path.name[:2]}"}, path


def test_rooms_import_no_tool():
    assert {
        path for path in (ROOT / "helpers").rglob("*.py") for name in imported(path) if name.startswith("tools")
    } == set()


def test_each_module_of_a_room_can_be_read_at_once():
    long = {
        path.name: lines for path in LESSONS.rglob("*.py") if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


@pytest.mark.parametrize(("module", "names"), [("plots", PLOTS), ("routing", ROUTING)])
def test_names_of_0_1_0_are_found_where_they_were(module, names):
    """In a fresh Python, so that none leans on what another test imported."""
    code = (
        "import sys\nfor name in sys.argv[2:]:\n    getattr(__import__(f'helpers.{sys.argv[1]}', fromlist=['x']), name)"
    )
    subprocess.run([sys.executable, "-c", code, module, *names], cwd=ROOT, check=True)
    with pytest.raises(AttributeError):
        _ = importlib.import_module(f"helpers.{module}").no_such_name


def test_moved_names_are_the_new_ones():
    from helpers import experts, figures, plots, routing
    from helpers.explorer.memory import gpu_memory
    from helpers.lessons import l05, lA2
    from helpers.lessons.lA2 import vllm_routing

    assert plots.figure is figures.figure and plots.gpu_memory is gpu_memory
    assert plots.expert_load is lA2.load_histograms and plots.timeline is l05.timeline
    assert routing.expert_off is experts.expert_off and routing.capture_vllm is vllm_routing.capture_vllm
