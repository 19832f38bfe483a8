"""tools/gpu: what a check on a GPU reports, here where there is none; and every report that was kept."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from tools.gpu import check, parts, plain
from tools.gpu.parts import PARTS, Part


def well_formed(report: dict) -> bool:
    """Whether each part says what became of it, and nothing in it is private."""
    assert report["version"] == check.VERSION and report["kind"] in ("quick", "full")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["date"]) and report["versions"]["torch"]
    for part in report["parts"]:
        assert part["status"] in ("done", "skipped", "failed") and part["name"] in PARTS
        assert bool(part.get("why")) == (part["status"] != "done") and ("figures" in part) == (part["status"] == "done")
    text = json.dumps(report)
    assert not re.search(r"/(home|root|Users)/|\.local|@", text)
    return [part["name"] for part in report["parts"]] == [
        name for name, part in PARTS.items() if report["kind"] == "full" or not part.full_only
    ]


def test_every_kept_report_is_well_formed():
    for path in (ROOT / "assets").glob("recorded/*/*/report.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        assert well_formed(report) and report["gpu"] and path.with_suffix(".md").read_text() == check.markdown(report)


def test_what_is_not_there_is_skipped_and_says_why():
    needs = {name: part for name, part in PARTS.items() if "real moe" in part.needs or "cuda" in part.needs}
    assert len(needs) == 6
    for name, part in needs.items():
        done = check.run(name, part)
        assert done["status"] == "skipped" and done["why"] in check.NEEDED.values(), done


def test_a_card_that_is_too_small_is_no_failure(monkeypatch):
    monkeypatch.setattr(parts, "_card_bytes", lambda: 8 * 2**30)
    done = check.run("shape of Qwen3-8B", Part(parts.machine, 60, memory=20))
    assert done == {"name": "shape of Qwen3-8B", "status": "skipped", "why": "the card has less than 20 GiB"}


def test_the_table_of_a_run_is_read():
    ran = "lesson          | cells | seconds | result\n03_architecture | 32    | 21.5    | ok\n"
    ran += "04_moe_routing  | 9     | 7.0     | FAILED at x"
    assert parts.ROW.findall(ran) == [("03_architecture", "32", "21.5")]


def cell(name: str, *lines: str) -> dict:
    return {"id": name, "source": [f"{line}\n" for line in lines]}


def test_cells_run_without_a_kernel_but_for_what_only_a_page_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)  # as where it is not installed
    cells = [cell("a", "x = [6]"), cell("widget", "import anywidget", "x = []"), cell("b", "x.append(7)", "assert x")]
    assert plain.run([*cells, cell("c", "assert x == [6, 7]")]) == ["widget (no anywidget)"]
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        plain.run([cell("a", "import no_such_package")])
    with pytest.raises(AssertionError) as failure:
        plain.run([cell("wrong", "x = 6", "assert x == 7")])
    assert str(failure.traceback[-1].statement) == "assert x == 7"


def test_a_report_for_people_names_every_part():
    report = check.about(False) | {
        "parts": [{"name": "machine", "status": "done", "seconds": 1, "figures": {"x": 0.5}}]
    }
    report["parts"].append(
        {"name": "first look", "status": "failed", "seconds": 2, "why": "exit status 1", "log": "no"}
    )
    text = check.markdown(report)
    assert (
        "| machine | done | 1 |  |" in text
        and "- x: 0.5" in text
        and "| first look | failed | 2 | exit status 1 |" in text
    )
    assert ("nothing about a GPU" in text) == (report["gpu"] is None)


@pytest.mark.slow
def test_a_part_that_fails_or_takes_too_long_is_ended_and_told(processes):
    done = check.run("no such part", Part(parts.machine, 60))
    assert done["status"] == "failed" and done["why"] == "exit status 1" and "KeyError" in done["log"], done
    assert str(ROOT) not in done["log"]
    done = check.run("first look", Part(parts.first_look, 1))
    assert done["status"] == "failed" and done["why"] == "it took more than 1 s"


@pytest.mark.slow
def test_a_real_shape_is_measured(monkeypatch):
    """Its widths in one layer: on a GPU it has all of them."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    small = {"num_hidden_layers": 1, "vocab_size": 2048}
    monkeypatch.setattr(parts, "NEW_TOKENS", 4)
    found = parts.shape("Qwen/Qwen3-0.6B", small, enforce_eager=True, kv_cache_memory_bytes=2**28)
    assert found["tokens of KV cache"] == pytest.approx(2**28 / 4096, rel=0.01)  # 8 heads of 128, keys and values, bf16
    assert found["seconds to load"] > 0 and found["tokens/s, 64"] > found["tokens/s, 1"] > 0


@pytest.mark.large
@pytest.mark.release
def test_the_quick_check_here_says_what_it_did_not_run(monkeypatch):
    for name in ("COURSE_MODEL", "COURSE_MOE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    assert check.main(["--quick"]) == 0
    folder = ROOT / "build" / "gpu-check"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert well_formed(report)
    status = {part["name"]: part["status"] for part in report["parts"]}
    assert [name for name, said in status.items() if said == "skipped"] == ["routing of vLLM", "shape of Qwen3-0.6B"]
    assert set(status.values()) == {"done", "skipped"} and not os.path.exists(ROOT / "assets" / "recorded" / "CPU")


WITHOUT = ["psutil", "nbformat", "nbclient", "IPython", "PIL", "jupytext", "modelscope", "vllm", "openai", "anywidget"]
BARE = f"""
import sys
sys.modules |= dict.fromkeys({WITHOUT + ["ipywidgets", "traitlets", "matplotlib", "bs4", "requests"]})
from tools.gpu import check, parts, plain
in_torch = [name for name, part in check.PARTS.items() if set(part.needs) <= {{"cuda", "real moe"}}]
print(check.about(False)["kind"], in_torch)
import benchmarks.gpu_first_look
"""


@pytest.mark.slow
def test_torch_transformers_safetensors_and_numpy_are_enough_for_the_parts_in_torch():
    """As many GPU images have them: the other packages are taken away."""
    done = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True)
    expected = ["machine", "first look", "experts of Qwen3-30B-A3B", "routing of the chosen model"]
    assert done.stdout == f"quick {expected}\n", done.stderr
