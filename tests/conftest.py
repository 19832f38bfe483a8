"""What all tests share: threads, tiers, timeouts, and what many of them start.

REQUIRE_ALL=1 turns every skip into a failure, so that a complete run is complete.
"""

import contextlib
import gc
import os
import shutil
import signal
import sys
import threading
import uuid
from pathlib import Path

import psutil
import pytest
from processes import end_all

from helpers import ROOT

# Before torch is imported, here and in what tests start: each worker has a core of its own, and several threads for
# matrices this small wait for each other.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
if torch := sys.modules.get("torch"):
    torch.set_num_threads(1)

# jsonschema does without it. It would compile a grammar of international addresses, 3 s for each worker that imports
# nbformat, and no notebook has a field of that format.
sys.modules.setdefault("rfc3987_syntax", None)

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


# ------------------------------------------------------------------------------------------------- tiers, timeouts

TIMEOUTS = {"large": 1800, "slow": 900}  # seconds, the slowest tier first; pyproject.toml has that of the fast one
WITH_SERVER = {"test_client", "test_copy_me", "test_lesson_07", "test_lesson_08", "test_lesson_09", "test_server"}
WITH_SERVER |= {"test_qwen_client", "test_qwen_batch", "test_qwen_quality", "test_web_handler", "test_production"}
WITH_SERVER |= {"test_workshop::test_a_room_that_is_not_ready_is_red"}  # the rest of its file needs none
LONGEST = "test_site"  # begins first, or one worker would be at it when the others have ended
LESSON_FILES = {"test_lesson_01": "01_environment", "test_lesson_02": "02_model_download"}  # what they look at
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:
    os.environ["TEST_RUN"] = uuid.uuid4().hex  # marks what this run starts, however deep


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """What collecting imports and makes stays until the end. Nobody looks for garbage in it, now or later: that would
    be most of what each ``gc.collect()`` of the course takes."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: work_unit(item.nodeid) != LONGEST)
    for item in items:
        tier = next((tier for tier in TIMEOUTS if item.get_closest_marker(tier)), None)
        if not tier and "browser" in item.fixturenames:
            tier = "slow"
            item.add_marker(tier)
        if tier and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUTS[tier]))
        if item.get_closest_marker("network") and not tier:
            raise pytest.UsageError(f"{item.nodeid} needs a network: mark it slow or large, too")
        if {"server", "guarded_server"} & set(item.fixturenames) and work_unit(item.nodeid) != "server":
            raise pytest.UsageError(f"{item.nodeid} would start a second server: add its file to WITH_SERVER")


def work_unit(nodeid: str) -> str:
    """Tests with the same one stay in a worker, since they share what they start: a server, the run of a lesson, else
    what their file has in common."""
    file, _, test = nodeid.partition("::")
    name, parameters = Path(file).stem, test.partition("[")[2].removesuffix("]")
    if {name, f"{name}::{test.partition('[')[0]}"} & WITH_SERVER:
        return "server"
    if name in LESSON_FILES or name == "test_lessons" and parameters in LESSONS:
        return f"run of {LESSON_FILES.get(name, parameters)}"
    return name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class ByWorkUnit(LoadScopeScheduling):  # the groups of xdist 3.8 have no effect under pytest 9.2
        def _split_scope(self, nodeid):
            return work_unit(nodeid)

    return ByWorkUnit(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item, settings):
    """What a test that hangs has started is killed before its cleanup begins, which might wait for it."""
    done = yield
    fail = signal.getsignal(signal.SIGALRM)

    def end(*signal_and_frame):
        end_all({name: os.environ[name] for name in ("TEST_RUN", "PYTEST_CURRENT_TEST")})
        fail(*signal_and_frame)

    signal.signal(signal.SIGALRM, end)
    return done


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
    if not IS_WORKER and (processes := end_all({"TEST_RUN": os.environ["TEST_RUN"]})):
        print(f"processes that a test left behind, ended now: {', '.join(processes)}", flush=True)
    left = [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    if left:
        print(f"threads that a test left behind: {', '.join(left)}", flush=True)
        os._exit(config.exitstatus or 1)


# ---------------------------------------------------------------------------------------------- what tests share


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


def small_config(**fields):
    """The configuration of a Qwen3 of one layer that is quickly computed; ``fields``: what a test wants otherwise."""
    from helpers.qwen import QwenConfig

    sizes = {"vocab_size": 50, "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return QwenConfig(**{**sizes, **heads, "qk_norm": True, "qkv_bias": False, **fields})


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


@pytest.fixture
def open_explorer(browser, tmp_path):
    """``open_explorer(explorer, selector)``: the page of an explorer, once there is what the selector finds. At the end
    it has asked for nothing but itself, and nothing has gone wrong in it."""
    opened = []

    def start(explorer, selector, lang="en", color_scheme="light", width=1100):
        explorer.to_html(tmp_path / "page.html", lang=lang)
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=color_scheme).new_page()
        page.set_default_timeout(120_000)
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector(selector)
        opened.append((page, asked, errors))
        return page

    yield start
    for page, asked, errors in opened:
        assert errors == [] and len(asked) == 1
        page.context.close()


@pytest.fixture
def processes():
    """A list of processes of the test; whatever is left of them at its end is killed."""
    found = []
    yield found
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def one_certificate(tmp_path, monkeypatch):
    """Each HTTP client reads all certificates that there are, 0.06 s. One is enough where nobody speaks TLS."""
    import certifi

    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    (tmp_path / "one.pem").write_text(first + end)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))


@pytest.fixture(scope="session")
def server():
    """A running server of qwen3-tiny, for every test that does not end it. These tests share a worker."""
    from helpers.server import Server

    with Server("qwen3-tiny") as running:
        yield running


@pytest.fixture(scope="session")
def guarded_server():
    """As ``server``, with a key."""
    from helpers.server import Server

    with Server("qwen3-tiny", api_key="a key") as running:
        yield running


def languages(name: str) -> tuple[str, str]:
    """The language in which `make test` runs this lesson, Chinese for odd numbers, and the other one."""
    return ("zh", "en") if int(name[:2].lstrip("A")) % 2 else ("en", "zh")


@pytest.fixture(scope="session")
def lesson_runs(tmp_path_factory):
    """``lesson_runs(name)``: how :func:`lesson_code.run_lesson` went. Each lesson runs once."""
    from lesson_code import run_lesson

    done = {}

    def run(name: str):
        if name not in done:
            done[name] = run_lesson(name, tmp_path_factory.mktemp(name), languages(name)[0])
        return done[name]

    return run
