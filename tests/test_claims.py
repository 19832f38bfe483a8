"""What prose names of the libraries has a row in assets/claims.csv, and the row says what the libraries have."""

import re
import sysconfig
from datetime import date
from pathlib import Path

import pytest
from conftest import ROOT

from helpers.sets import SETS
from tools.lessons import claims
from tools.lessons.installed import SOURCES, Library

HERE = Path(sysconfig.get_path("purelib"))
TABLE = claims.read_claims()
LIBRARIES = claims.installed_libraries(HERE)
VLLM = next((library for library in LIBRARIES if library.name == "vllm"), None)
needs_vllm = pytest.mark.skipif(VLLM is None, reason="vLLM is not installed")
COMMANDS = re.compile(r"parser|environ|word|text .+|" + claims.MEMBER.pattern)


@pytest.fixture(scope="module")
def named():
    return claims.mentions(TABLE, LIBRARIES)


@pytest.mark.slow
def test_every_mention_has_a_row(named):
    missing = {f"{m.kind} {m.said!r} in {m.place} ({m.lang})" for m in claims.without_row(TABLE, named)}
    assert not missing, f"no row in assets/claims.csv; tools/lessons/claims.py says what one holds: {sorted(missing)}"


@pytest.mark.slow
def test_every_row_has_a_mention(named):
    assert [claim.key for claim in claims.without_mention(TABLE, named)] == [], "prose does not name it: remove the row"


def test_rows_are_sorted_and_no_two_are_the_same(tmp_path):
    claims.write_claims(TABLE, tmp_path / "claims.csv")
    assert (tmp_path / "claims.csv").read_bytes() == claims.TABLE.read_bytes()
    assert len({claim.key for claim in TABLE}) == len(TABLE)


def is_checked(claim: claims.Claim) -> bool:
    """Whether what the row names as its check is there."""
    if COMMANDS.fullmatch(claim.checked_by):
        return claim.subject in SOURCES and bool(claim.holds + claim.fails)
    if claim.checked_by == "pin":
        pins = [one.pins().get(claim.subject, "") for one in SETS.values()]
        return any(f"{pin}.".startswith(f"{claim.said}.") for pin in pins)
    if test := re.fullmatch(r"(tests/\w+\.py)::(\w+)", claim.checked_by):
        return f"def {test[2]}(" in (ROOT / test[1]).read_text(encoding="utf-8")
    if cell := re.fullmatch(r"(\w\d) ([\w-]+)", claim.checked_by):
        [source] = (ROOT / "notebooks" / "source").glob(f"{cell[1]}_*.py")
        return bool(re.search(rf'^# %% key="{cell[2]}"', source.read_text(encoding="utf-8"), re.MULTILINE))
    return claim.checked_by == "run" or bool(re.fullmatch(r"https://\S+", claim.checked_by))


def test_a_row_says_what_checked_it_on_what_and_when():
    assert [claim.key for claim in TABLE if not is_checked(claim)] == []
    by_hand = [claim for claim in TABLE if not COMMANDS.fullmatch(claim.checked_by)]
    assert [claim.key for claim in by_hand if claim.holds + claim.fails] == []  # nothing was read in a library
    assert {claim.kind for claim in TABLE} == set(claims.KINDS) and all(claim.subject for claim in TABLE)
    assert all(date.fromisoformat(claim.date) for claim in TABLE)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: f"{library.name} {library.version}")
def test_the_installed_library_is_as_the_rows_say(library):
    _, changed, checked = claims.rerun(TABLE, library, "2026-11-28")
    assert checked and changed == []


# The scanner

PAGE = """
`vllm serve --swift-mode` takes more than `--dtype`, as in vLLM 0.77 and modelscope 3.4.5. By default vLLM waits 77 s.
Set `VLLM_SWIFT`, then `SwiftParams(swift_limit=3)`, never `llm.swift_chat`, and `seed=1`.

```bash
.venv/bin/vllm serve MODEL --host 127.0.0.1 \\
    --swift-port 1  # --no-flag
git clone --depth 1 ADDRESS
```

`git log --oneline`, `COURSE_MODEL`, `tools/lessons/swift_file.py`, `ValueError`, `<|im_end|>`, `temperature`
"""
FOUND = {
    ("flag", "vllm", "--swift-mode"), ("flag", "vllm", "--dtype"), ("flag", "vllm", "--host"),
    ("flag", "vllm", "--swift-port"), ("variable", "vllm", "VLLM_SWIFT"), ("name", "", "SwiftParams"),
    ("name", "", "swift_limit"), ("name", "", "swift_chat"), ("name", "", "seed"), ("name", "", "temperature"),
    ("version", "", "0.77"), ("version", "", "3.4.5"), ("default", "", "77"),
}  # fmt: skip


def test_the_scanner_finds_what_a_page_names_and_nothing_else(tmp_path):
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    found = claims.mentions(TABLE, [], tmp_path)
    assert {(mention.kind, mention.subject, mention.said) for mention in found} == FOUND
    new = {
        "--swift-mode",
        "--swift-port",
        "VLLM_SWIFT",
        "SwiftParams",
        "swift_limit",
        "swift_chat",
        "0.77",
        "3.4.5",
        "77",
    }
    assert {mention.said for mention in claims.without_row(TABLE, found)} == new


def test_a_default_is_that_of_its_sentence(tmp_path):
    known, other = "By default `max_tokens` is 16 in vLLM.", "By default vLLM waits 16 s."
    (tmp_path / "README.md").write_text(f"{known} {other}")
    missing = claims.without_row(TABLE, claims.mentions(TABLE, [], tmp_path))
    assert [mention.sentence for mention in missing] == [other]


def test_a_models_release_is_neither_a_default_nor_a_version_on_the_page_that_names_it(tmp_path):
    text = "In vLLM thinking is off by default in 9.5. `<think>` is in the prompt from 9.5 on. See vLLM 9.5."
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(f"Qwen9.5-27B is newer, Qwen9.6 newer still.\n\n{text} By default 7.5.")
    found = claims.mentions([], [], tmp_path)
    said = {(m.place, m.kind, m.said) for m in found if m.kind in ("default", "version")}
    there = {("docs/page.md", "version", "9.5"), ("docs/page.md", "default", "7.5")}  # the one that follows vLLM
    assert said == {("README.md", "version", "9.5"), ("README.md", "default", "9.5")} | there
    (tmp_path / "docs" / "page.md").write_text(f"Qwen9.5-27B. {text.removesuffix(' See vLLM 9.5.')}")
    assert {m.place for m in claims.mentions([], [], tmp_path) if m.said == "9.5"} == {"README.md"}


def test_a_name_that_the_course_binds_is_its_own_until_a_library_has_it(tmp_path):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "own.py").write_text("def own_name(swift_limit): ...\n")
    (tmp_path / "README.md").write_text("`own_name` `swift_limit`")
    folder = tmp_path / "site"
    (folder / "vllm-1.0.dist-info").mkdir(parents=True)
    (folder / "vllm-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 1.0\n")
    (folder / "vllm").mkdir()
    (folder / "vllm" / "sampling_params.py").write_text("class SamplingParams:\n    swift_limit: int = 3\n")
    assert claims.mentions([], [], tmp_path) == []
    assert [mention.said for mention in claims.mentions([], [Library("vllm", folder)], tmp_path)] == ["swift_limit"]


# Proof: what changes in a library falls, and nothing else does


def copy_of_vllm(folder: Path, old: str, new: str, version: str = "") -> None:
    """vLLM's source in a site-packages folder of its own, with `old` replaced in the one file that holds it."""
    holding = [path for path, text in VLLM.files.items() if old in text]
    assert len(holding) == 1
    for path, text in VLLM.files.items():
        copy = folder / path.relative_to(HERE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text.replace(old, new)) if path in holding else copy.symlink_to(path)
    (folder / "vllm-1.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version or VLLM.version}\n"
    (folder / "vllm-1.dist-info" / "METADATA").write_text(metadata)


@needs_vllm
@pytest.mark.parametrize(
    ("old", "new", "fallen"),
    [
        ('_group.add_argument("--max-model-len"', '_group.add_argument("--model-len"', "flag vllm --max-model-len"),
        ("    enable_auto_tool_choice: bool", "    auto_tools: bool", "flag vllm --enable-auto-tool-choice"),
        ('    "VLLM_API_KEY": lambda', '    "VLLM_KEY": lambda', "variable vllm VLLM_API_KEY"),
        ("    thinking_token_budget: int | None = None\n", "", "name vllm thinking_token_budget"),
        ("gpu_memory_utilization: float = Field(default=0.92", "gpu_memory_utilization: float = Field(default=0.95",
         "default vllm 0.92: gpu_memory_utilization"),
    ],
)  # fmt: skip
def test_what_is_renamed_in_a_copy_of_vllm_falls_alone(old, new, fallen, tmp_path):
    copy_of_vllm(tmp_path, old, new)
    now, changed, _ = claims.rerun(TABLE, Library("vllm", tmp_path), "2030-01-02")
    assert [(claim.key, so) for claim, so in changed] == [(fallen, False)]
    [row] = [claim for claim in now if claim.key == fallen]
    assert VLLM.version in row.fails and VLLM.version not in row.holds and row.date == "2030-01-02"


@pytest.mark.slow
@needs_vllm
def test_the_command_names_what_a_new_release_changed_and_where_prose_says_it(tmp_path, capsys):
    copy_of_vllm(tmp_path, 'model_group.add_argument("--max-model-len"', 'model_group.add_argument("--len"', "99.0.0")
    before = claims.TABLE.read_bytes()
    assert claims.main(["--cu12", str(tmp_path)]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if "checked, " not in line]
    assert line.startswith("vllm 99.0.0: --max-model-len is not there") and "docs/workshop.md" in line
    assert claims.TABLE.read_bytes() == before
