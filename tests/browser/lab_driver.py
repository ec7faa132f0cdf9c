"""A real JupyterLab on this machine, and a real browser in front of it.

with serve(folder, notebooks) as lab, chromium() as browser:
    page = open_page(browser)
    run_all(page, lab, "05_edit_stepper.ipynb")
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VIEWPORT = {"width": 1280, "height": 800}
STARTUP_SECONDS, RUN_SECONDS, INSTALL_SECONDS = 120, 240, 600
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
APT = (
    "apt-get",
    "install",
    "-y",
    "-qq",
    "--no-install-recommends",
    "chromium",
    "fonts-dejavu-core",
)
INSTALL_HINT = (
    "install a browser: `apt-get install chromium fonts-dejavu-core` as root, or "
    "`.venv/bin/python -m playwright install chromium`"
)
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
    "notebook-extension/tracker": {"windowingMode": "none", "kernelShutdown": True},
}
# A run that is asked for before the kernel answers may never begin, so all three are awaited.
RUN_ALL = """async ([path, limit]) => {
    const app = window.jupyterapp;
    const pause = () => new Promise((done) => setTimeout(done, 50));
    const late = new Promise((_, no) => setTimeout(() => no(new Error("cells still run")), limit));
    const run = async () => {
        await app.restored;
        const shown = [...app.shell.widgets("main")];
        const panel = shown.find((widget) => widget.context?.path === path);
        await panel.context.ready;
        await panel.sessionContext.ready;
        const kernel = panel.sessionContext.session.kernel;
        await kernel.info;
        while (kernel.status !== "idle" || kernel.connectionStatus !== "connected") await pause();
        return app.commands.execute("notebook:run-all-cells");
    };
    return Promise.race([run(), late]);
}"""
FADED = """async () => {
    const frame = () => new Promise(requestAnimationFrame);
    await frame();
    await frame();
    const fading = document.getAnimations().filter((one) => one instanceof CSSTransition);
    await Promise.allSettled(fading.map((one) => one.finished));
}"""
CONTRAST = 4.5  # what WCAG asks of small text
UNREADABLE = """(root, least) => {
    const numbers = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const mixed = ([r, g, b, a = 1]) => [255 * r, 255 * g, 255 * b, a];
    const rgb = (text) => text.startsWith("color(") ? mixed(numbers(text)) : numbers(text);
    const shade = ([r, g, b]) => [r, g, b].map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const over = ([r, g, b, a = 1], below) => [r, g, b].map((x, i) => a * x + (1 - a) * below[i]);
    const ground = (node) => {
        const own = rgb(getComputedStyle(node).backgroundColor);
        if ((own[3] ?? 1) === 1) return own.slice(0, 3);
        return over(own, node.parentElement ? ground(node.parentElement) : [255, 255, 255]);
    };
    const poor = [];
    for (const node of root.querySelectorAll("*")) {
        const text = [...node.childNodes].filter((child) => child.nodeType === 3)
            .map((child) => child.data.trim()).join("");
        if (!text || !node.checkVisibility() || node.closest("[disabled], :disabled")) continue;
        const below = ground(node);
        const [one, other] = [shade(over(rgb(getComputedStyle(node).color), below)), shade(below)];
        const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        if (ratio < least) poor.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return poor;
}"""
QUIET = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoBrowser(RuntimeError):
    """There is no Chromium here, and none could be installed."""


@dataclass(frozen=True)
class Lab:
    """A running server: where it is, its token, and the folder it shows."""

    url: str
    token: str
    folder: Path


@contextmanager
def serve(home: Path, notebooks: Iterable[Path]) -> Iterator[Lab]:
    """JupyterLab on loopback with copies of some notebooks, until the block ends."""
    folder, runtime = home / "shown", home / "runtime"
    folder.mkdir()
    for notebook in notebooks:
        shutil.copy(notebook, folder)
    for name, value in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    token = secrets.token_hex(20)
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_TOKEN": token,
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "OMP_WAIT_POLICY": "passive",  # threads that wait must not take the browser's processor
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--expose-app-in-browser", "--LabApp.extension_manager=readonly"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    command += [f"--ServerApp.root_dir={folder}"]
    log = home / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        yield Lab(_wait_until_up(process, runtime, token, log), token, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(process: subprocess.Popen, runtime: Path, token: str, log: Path) -> str:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            info = json.loads((runtime / f"jpserver-{process.pid}.json").read_text())
            url = f"http://127.0.0.1:{info['port']}"
            QUIET.open(f"{url}/api/status?token={token}", timeout=5).close()
            return url
        except (OSError, ValueError, urllib.error.URLError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@contextmanager
def chromium() -> Iterator[object]:
    """A headless Chromium, found or installed.

    Raises
    ------
    NoBrowser
        If there is none and none can be had.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = find(playwright) or install(playwright)
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def find(playwright: object) -> str | None:
    """The path of a Chromium on this machine: of the system, else Playwright's own."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        if name and (path := shutil.which(name)):
            return path
    own = playwright.chromium.executable_path
    return own if own and Path(own).exists() else None


def install(playwright: object) -> str:
    """Install one with the system's package manager as root, else with Playwright."""
    attempts = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        attempts.insert(0, ["sh", "-c", f"apt-get update -qq && {' '.join(APT)}"])
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in attempts:
        try:
            subprocess.run(command, env=env, capture_output=True, timeout=INSTALL_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if path := find(playwright):
            return path
    raise NoBrowser(f"no Chromium is here and none could be fetched; {INSTALL_HINT}")


def open_page(browser: object) -> object:
    """An empty page of the size that all panels must fit; script errors land in ``problems``."""
    page = browser.new_page(viewport=VIEWPORT, reduced_motion="reduce")
    page.set_default_timeout(30_000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("dialog", lambda dialog: (page.problems.append(dialog.message), dialog.dismiss()))
    return page


def run_all(page: object, lab: Lab, notebook: str) -> None:
    """Open a notebook and run it top to bottom; fails if a cell raises."""
    page.goto(f"{lab.url}/lab/tree/{notebook}?token={lab.token}&reset")
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
    finished = page.evaluate(RUN_ALL, [notebook, RUN_SECONDS * 1000])
    assert finished is True, f"a cell of {notebook} raised an error"


def use_theme(page: object, name: str) -> None:
    """Switch JupyterLab to ``"light"`` or ``"dark"`` and wait until its colours have faded in."""
    theme = f"JupyterLab {name.title()}"
    page.evaluate(
        "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
    )
    light = "true" if name == "light" else "false"
    page.locator(f"body[data-jp-theme-light={light}]").wait_for(state="attached")
    page.evaluate(FADED)


def until(page: object, holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what Playwright's own expectations cannot say."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it did not come true within {seconds} s"
        page.wait_for_timeout(100)


def unreadable(panel: object) -> list[str]:
    """The visible texts of a panel whose contrast with their ground is too low."""
    return panel.evaluate(UNREADABLE, CONTRAST)
