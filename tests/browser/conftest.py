"""JupyterLab and Chromium for the tests in this folder, which are skipped loudly without one."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import ROOT, Lab, NoBrowser, chromium, open_page, serve

PATIENCE = 30_000  # milliseconds for the page to show what is expected, on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """A server with copies of the notebooks that show panels."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    with serve(tmp_path_factory.mktemp("lab"), notebooks) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Chromium; where there is none the tests are skipped, and fail under ``CI=true``."""
    pytest.importorskip("playwright.sync_api").expect.set_options(timeout=PATIENCE)
    try:
        with chromium() as running:
            yield running
    except NoBrowser as missing:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(str(missing))
        warnings.warn(f"BROWSER TESTS SKIPPED: {missing}", stacklevel=1)
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def page(browser) -> Iterator[object]:
    """One page for all tests of a module."""
    opened = open_page(browser)
    yield opened
    opened.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep a picture of what the page showed when a test failed."""
    report = (yield).get_result()
    page = item.funcargs.get("page") if hasattr(item, "funcargs") else None
    if report.when == "call" and report.failed and page is not None:
        folder = Path(os.environ.get("BROWSER_SHOTS", ".pytest_cache/browser"))
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{item.name}.png")
