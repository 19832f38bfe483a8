"""What all tests share. REQUIRE_ALL=1 turns every skip into a failure, so that a complete run is complete."""

import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
# What the shell of a developer may hold and no test expects; a proxy cannot reach this machine's 127.0.0.1.
for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "COURSE_CONCURRENCY", "COURSE_LANG", "VLLM_API_KEY"):
    os.environ.pop(name, None)
local = ["127.0.0.1,localhost", os.environ.get("no_proxy") or os.environ.get("NO_PROXY")]
os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, local))
LESSONS = sorted(path.stem for path in (ROOT / "notebooks" / "zh").glob("*.ipynb"))

# A test without warnings; a file that another test left open may be found while it runs, and is not its fault.
NO_WARNING = pytest.mark.filterwarnings("error", "default::pytest.PytestUnraisableExceptionWarning")

TOY = """\
# %% [markdown] lang="zh" key="title"
# # 99 · 玩具

# %% [markdown] lang="en" key="title"
# # 99 · A toy

# %% key="setup"
import sys

# %% [markdown] lang="zh" key="why"
# ## 为什么
#
# `softmax` 之后，3 行的和都是 $1$，见[第一课](../zh/99_toy.ipynb)。

# %% [markdown] lang="en" key="why"
# ## Why
#
# After `softmax`, the 3 rows sum to $1$, see [lesson one](../en/99_toy.ipynb).

# %% key="answer"
# zh: 只有中文版有这一行
# en: only the English notebook has this line
answer = 6 * 7  # one comment
print(answer)
"""


def pytest_report_header() -> str:
    return f"REQUIRE_ALL: {'a skip is a failure' if os.environ.get('REQUIRE_ALL') else 'not set'}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _without_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _without_skip((yield))


def _without_skip(report):
    if os.environ.get("REQUIRE_ALL") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL is set, but this was skipped: {report.longrepr}"
    return report


def pytest_sessionfinish(session, exitstatus):
    session.config.exitstatus = exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """Python waits for every thread that is no daemon: one that never ends would hold up the run after its summary."""
    left = [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    if left:
        print(f"threads that a test left behind: {', '.join(left)}", flush=True)
        os._exit(config.exitstatus or 1)


class ToyCourse:
    """A repository of toy lessons in a folder of its own."""

    def __init__(self, root: Path):
        self.root = root

    def write(self, source: str = TOY, name: str = "99_toy") -> None:
        path = self.root / "notebooks" / "source" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")

    def notebook(self, lang: str = "zh", name: str = "99_toy") -> Path:
        return self.root / "notebooks" / lang / f"{name}.ipynb"


@pytest.fixture
def course(tmp_path) -> ToyCourse:
    """A repository with the one lesson TOY, not built."""
    course = ToyCourse(tmp_path)
    course.write()
    return course


@pytest.fixture(scope="module")  # while it is open, its event loop keeps others, such as nbclient's, from this thread
def browser():
    """A headless chromium; each test opens pages of its own in it."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
