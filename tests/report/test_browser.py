"""The page in a real browser: nothing fails, nothing is fetched, nothing that a model wrote does anything."""

import shutil
import time

import pytest

from report.views import study
from unnorm.report.page import write_report

HOSTILE = (
    "</script><script>window.hacked = 1</script>"
    '<img src=x onerror="window.hacked = 2">'
    "<svg onload='window.hacked = 3'></svg> javascript:alert(1) \u202egnp.exe\u2066 {{ 7 * 7 }} END"
)


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    made = study(seeds=(0, 1), broken={("dyt", "full", 1): "failed"}, text=HOSTILE)
    write_report(made, out)
    return "file://" + str(out / "index.html")


def open_page(browser, page, width=1200, dark=False):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get(page)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and len(browser.find_elements("css selector", ".figure svg")) < 4:
        time.sleep(0.1)


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, False), (390, True)])
def test_it_opens_draws_fetches_nothing_and_fits(browser, page, width, dark):
    open_page(browser, page, width, dark)
    assert len(browser.find_elements("css selector", ".figure svg")) == 4
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    sizes = "return [...document.querySelectorAll('.figure svg')].map(e => e.getBoundingClientRect().width)"
    assert min(browser.execute_script(sizes)) > 200
    wide = "[...document.querySelectorAll('.figure')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.execute_script(f"return {wide}") == 0
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(22, 22, 22)") == dark


def test_what_a_model_wrote_is_inert_text(browser, page):
    open_page(browser, page)
    time.sleep(0.3)
    assert browser.execute_script("return window.hacked") is None
    shown = browser.find_element("css selector", ".text").text
    assert "</script><script>window.hacked = 1</script>" in shown
    assert "<img src=x onerror=" in shown
    assert "{{ 7 * 7 }}" in shown
    assert "\\u202e" in shown
    assert "\u202e" not in browser.page_source
    assert not browser.find_elements("css selector", ".text *")


def test_scripts_that_are_not_ours_are_refused(browser, page):
    open_page(browser, page)
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 4'; document.body.append(s)"
    )
    assert browser.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
