"""The report in headless Chromium: no console errors, nothing asked of the network, no fault that axe-core finds, quick to open.

Needs Chromium, and axe-core (npm) in the ``node_modules`` that PAPERTUNE_NODE_MODULES names; skips with the reason where they are not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from papertune.report.stage import run
from tests.chromium import Page, chromium, find_chromium
from tests.run_files import HOSTILE, write_run

pytestmark = pytest.mark.slow
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium here (apt install chromium)")
    with chromium(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on 600 papers and 13,000 steps."""
    config = write_run(tmp_path_factory.mktemp("large"), papers=600, steps=13_000)
    run(config)
    return config.output


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = write_run(tmp_path_factory.mktemp("hostile"), papers=45, title=HOSTILE)
    run(config)
    return config.output


@pytest.fixture(scope="module")
def axe() -> str:
    folder = os.environ.get("PAPERTUNE_NODE_MODULES", "")
    script = Path(folder) / "axe-core" / "axe.min.js"
    if not folder or not script.is_file():
        pytest.skip("axe-core is not here (npm install axe-core, and name its node_modules in PAPERTUNE_NODE_MODULES)")
    return script.read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_is_quiet_asks_for_nothing_and_fits_its_window(browser: Page, large: Path, hostile: Path, width: int, dark: bool) -> None:
    for path in (large, hostile):
        browser.seen.clear()
        browser.open(path.as_uri(), width=width, dark=dark)
        browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        asked = [parameters["request"]["url"] for method, parameters in browser.seen if method == "Network.requestWillBeSent"]
        assert asked == [path.as_uri()]
        assert [parameters for method, parameters in browser.seen if method != "Network.requestWillBeSent"] == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.querySelectorAll('script, img').length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_axe_finds_no_fault(browser: Page, large: Path, axe: str, width: int, dark: bool) -> None:
    browser.open(large.as_uri(), width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    browser.evaluate(f"{axe}; 0")
    found = browser.evaluate("axe.run(document).then(r => r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html]))")
    assert found == []


def test_600_papers_open_in_less_than_a_second(browser: Page, large: Path) -> None:
    times = []
    for _ in range(5):
        browser.open(large.as_uri(), width=DESK)
        times.append(browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
    assert sorted(times)[2] < 1000
    assert large.stat().st_size < 5_000_000


def test_who_wrote_what_is_told_after_a_choice_and_choices_are_counted(browser: Page, large: Path) -> None:
    browser.open(large.as_uri(), width=DESK)
    told = "getComputedStyle(document.querySelector('.sample .answer')).display"
    assert browser.evaluate(told) == "none"
    assert browser.evaluate("getComputedStyle(document.querySelector('mark')).backgroundColor") == "rgba(0, 0, 0, 0)"
    browser.evaluate("document.querySelectorAll('.pick.tuned').forEach(pick => pick.click())")
    assert browser.evaluate(told) == "block"
    assert browser.evaluate("getComputedStyle(document.querySelector('mark')).backgroundColor") != "rgba(0, 0, 0, 0)"
    browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    heard = "".join(node["name"]["value"] for node in nodes if node["role"]["value"] == "StaticText")
    assert "Your choices: tuned model 6, base model 0, no difference 0, of 6 samples." in heard


def test_on_paper_nothing_is_hidden_and_nothing_is_dark(browser: Page, large: Path) -> None:
    browser.open(large.as_uri(), width=800, dark=True, media="print")
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert browser.evaluate("getComputedStyle(document.querySelector('.answer')).display") == "block"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
