"""A real JupyterLab for the browser tests: started apart from the user's, driven as a learner drives it."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from helpers.ports import free_port

TOKEN = "secret"
ALL_CELLS = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}  # in the page, not the seen ones
NO_NEWS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}
RAN = re.compile(r"\[\d+\]:")
STDERR, ERROR = (f"[data-mime-type='application/vnd.jupyter.{kind}']" for kind in ("stderr", "error"))
# A progress bar, and the log of the ModelScope client, belong to what a learner watches.
PROGRESS = re.compile(r"\s*\d+%\|.*|.*\| INFO +\|.*|\s*")
BROKEN_WIDGETS = re.compile(
    r"Error displaying widget|Loading widget|Failed to load model|not find model", re.IGNORECASE
)
PLAIN = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine's 127.0.0.1


def wait_until(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except OSError:  # the server does not listen yet
            pass
        time.sleep(0.5)
    raise AssertionError("waited in vain")


def screenshot(place, name):
    """Saves what a page or a part of it shows into the folder $SCREENSHOTS, if that is set, to be looked at."""
    if folder := os.environ.get("SCREENSHOTS"):
        place.screenshot(path=os.path.join(folder, f"{name}.png"))


class JupyterLab:
    """``jupyter lab`` on 127.0.0.1 that shows ``folder``; config, data and runtime folders are its own, in ``state``.

    python: the environment of the server, that of the tests unless said. variables: more environment variables.
    as_learner: started by the course's tools/lessons/lab.py, as `make lab` does, and without settings against the news.
    """

    def __init__(
        self, folder: Path, state: Path | None = None, python=sys.executable, variables=None, as_learner=False
    ):
        self.folder, state = folder, state or folder
        plain = ["-m", "jupyterlab", "--ip=127.0.0.1", "--allow-root"]
        self.command = [str(python), *(["-m", "tools.lessons.lab"] if as_learner else plain)]
        config = state / "config" / "labconfig"
        config.mkdir(parents=True, exist_ok=True)
        settings = ALL_CELLS | ({} if as_learner else NO_NEWS)
        (config / "default_setting_overrides.json").write_text(json.dumps(settings))
        own = {f"JUPYTER_{kind}_DIR": str(state / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
        self.variables = os.environ | own | {"JUPYTERLAB_SETTINGS_DIR": str(state / "lab")} | (variables or {})
        self.log = state / "server.log"

    def __enter__(self):
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        options = ["--no-browser", f"--port={port}", f"--IdentityProvider.token={TOKEN}", "--ServerApp.port_retries=0"]
        with self.log.open("w") as log:
            self.server = subprocess.Popen(
                [*self.command, *options],
                cwd=self.folder,
                env=self.variables,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: self.ask("status"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info):
        self.server.terminate()
        try:
            self.server.wait(60)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
            raise

    def ask(self, path: str, method: str = "GET"):
        """The answer of the server's REST interface."""
        assert self.server.poll() is None, self.log.read_text()[-2000:]
        request = urllib.request.Request(f"{self.address}/api/{path}?token={TOKEN}", method=method)
        with PLAIN.open(request) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def open(self, browser, notebook: str, **options):
        """A new page with this notebook, its kernel ready. ``page.outside`` lists what it asked of other machines."""
        page = browser.new_context(viewport={"width": 1400, "height": 1000}, **options).new_page()
        page.set_default_timeout(180_000)
        page.outside = []
        page.on("request", lambda request: self._is_outside(request.url) and page.outside.append(request.url))
        page.goto(f"{self.address}/lab/tree/{notebook}?reset&token={TOKEN}")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        wait_until(lambda: self.is_ready(notebook))  # the page's own indicator says so too early
        return page

    def _is_outside(self, url: str) -> bool:
        return not url.startswith((self.address, self.address.replace("http", "ws"), "data:", "blob:"))

    def is_ready(self, notebook: str) -> bool:
        """Whether the kernel of this notebook waits for work and a page is connected to it."""
        kernels = [session["kernel"] for session in self.ask("sessions") if session["path"].endswith(notebook)]
        return any(kernel["execution_state"] == "idle" and kernel["connections"] >= 1 for kernel in kernels)

    def run_all(self, page, seconds=600):
        """Run All Cells, from the menu; returns when every cell has its number. The first error ends it early.

        A lesson comes with outputs and numbers of its recorded run; they are cleared first, so that what stands there
        afterwards was run here.
        """
        prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
        for _ in range(3):
            page.click('.lm-MenuBar-itemLabel:text-is("Edit")')
            page.click('.lm-Menu-itemLabel:text-is("Clear Outputs of All Cells")')
            page.wait_for_timeout(500)
            if all(text.strip() == "[ ]:" for text in prompts.all_inner_texts()):
                break
        for _ in range(3):  # a click that comes too early is lost
            page.click('.lm-MenuBar-itemLabel:text-is("Run")')
            page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
            page.wait_for_timeout(4000)
            if any(text.strip() != "[ ]:" for text in prompts.all_inner_texts()):
                break
        wait_until(
            lambda: all(RAN.fullmatch(text.strip()) for text in prompts.all_inner_texts()) or self.complaints(page),
            seconds,
        )

    def complaints(self, page) -> list[str]:
        """Outputs with an error or stderr beside progress, widgets that did not load, requests to other machines."""

        def stderr(cell):
            return [line for text in cell.locator(STDERR).all_inner_texts() for line in text.splitlines()]

        widgets = page.locator(".jp-OutputArea-output").all_inner_texts()
        loud = [
            cell.locator(".jp-Cell-outputWrapper").inner_text()
            for cell in page.locator(f".jp-CodeCell:has({ERROR}), .jp-CodeCell:has({STDERR})").all()
            if cell.locator(ERROR).count() or not all(map(PROGRESS.fullmatch, stderr(cell)))
        ]
        return loud + [text for text in widgets if BROKEN_WIDGETS.search(text)] + page.outside

    def close(self, page):
        """Closes the page and ends every kernel."""
        page.context.close()
        for session in self.ask("sessions"):
            self.ask(f"sessions/{session['id']}", "DELETE")
