"""``make lab`` serves whoever holds the token, on this machine only."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent
STARTUP_SECONDS = 120
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Lab:
    """A running server: its process, and what it wrote about itself."""

    process: subprocess.Popen
    info: dict

    def get(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.info['port']}{path}")
        if token is not None:
            request.add_header("Authorization", f"token {token}")
        try:
            with OPENER.open(request, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, b""


@pytest.fixture(scope="module")
def lab(tmp_path_factory, make) -> Iterator[Lab]:
    arguments = "ARGS=--no-browser --ServerApp.port=0"
    recipe = make("--dry-run", "lab", f"VENV={sys.prefix}", arguments).splitlines()
    command = shlex.split(recipe[-1].removeprefix("exec "))

    home = tmp_path_factory.mktemp("lab")
    strangers = {"JUPYTER_TOKEN", "JUPYTERHUB_API_TOKEN", "JUPYTER_PORT", "JUPYTER_CONFIG_PATH"}
    env = {k: v for k, v in os.environ.items() if k not in strangers} | {
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    log = home / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        yield Lab(process, _wait_until_ready(process, home / "runtime", log))
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen, runtime: Path, log: Path) -> dict:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            info = json.loads((runtime / f"jpserver-{process.pid}.json").read_text())
            Lab(process, info).get("/api")
            return info
        except (OSError, ValueError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")


def test_server_listens_on_this_machine_only(lab):
    sockets = psutil.Process(lab.process.pid).net_connections(kind="inet")
    listening = [socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN]

    assert lab.info["port"] in {address.port for address in listening}
    assert {address.ip for address in listening} == {"127.0.0.1"}


@pytest.mark.parametrize("token", [None, "", "guess"])
def test_server_refuses_whoever_lacks_the_token(lab, token):
    status, _ = lab.get("/api/contents", token)

    assert status == 403


def test_server_makes_its_own_long_token(lab):
    assert len(lab.info["token"]) >= 40


def test_server_opens_on_the_notebooks(lab):
    status, body = lab.get("/api/contents", lab.info["token"])

    shown = {entry["name"] for entry in json.loads(body)["content"]}
    assert status == 200
    assert shown >= {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert Path(lab.info["root_dir"]).resolve() == (ROOT / "notebooks").resolve()


def test_server_stops_when_asked(lab):
    lab.process.send_signal(signal.SIGTERM)

    assert lab.process.wait(timeout=30) == 0
