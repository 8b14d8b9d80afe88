"""The page in a real browser: nothing fails, nothing is fetched, nothing that a model wrote does anything.

One browser and few loads, since a load draws every figure. Pictures of what was seen: build/screenshots.
"""

import base64
import shutil
import threading
import time
from pathlib import Path

import pytest

from report.views import CATEGORIES, QUESTIONS, fail, study, waiting_ledger
from unnorm.report.page import write_report
from unnorm.report.serve import server

HOSTILE = (
    "</script><script>window.hacked = 1</script>"
    '<img src=x onerror="window.hacked = 2">'
    "<svg onload='window.hacked = 3'></svg> javascript:alert(1) \u202egnp.exe\u2066 {{ 7 * 7 }} END"
)
LONG = "<b>" + 210_000 * "long "

BUILD = Path(__file__).parents[2] / "build"
AXE = BUILD / "axe" / "axe.min.js"
FIGURES = 15
WIDE, PHONE = 1200, 390


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver): make test-browser")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    started.set_script_timeout(60)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    broken = {("dyt", "full", 1): "failed"}
    write_report(study(seeds=(0, 1), broken=broken, text=HOSTILE, matched=False, pairs=True), out, quiet=True)
    return out


@pytest.fixture(scope="module")
def wide(browser, folder):
    """The page, once loaded, at the width of a desktop and in the light."""
    set_view(browser, WIDE)
    load(browser, folder / "index.html")
    return browser


@pytest.fixture(scope="module")
def phone(wide, folder):
    """The page loaded again on a phone, after what is tested at full width; all of it open."""
    set_view(wide, PHONE)
    wide.get("about:blank")
    load(wide, folder / "index.html")
    unfold(wide)
    return wide


def set_view(browser, width, dark=False):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})


def load(browser, path, figures=FIGURES):
    browser.get(f"file://{path}")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not find(browser, "main[data-drawn]"):
        time.sleep(0.1)
    assert len(find(browser, ".figure svg")) == figures


def unfold(browser):
    browser.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")


def find(browser, selector):
    return browser.find_elements("css selector", selector)


def picture(browser, name):
    (BUILD / "screenshots").mkdir(parents=True, exist_ok=True)
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16_000), "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    (BUILD / "screenshots" / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


def fits(browser):
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "the page overflows"
    wide = "[...document.querySelectorAll('.figure')].filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.id)"
    assert browser.execute_script(f"return {wide}") == []


def is_quiet(browser):
    """Nothing in the console, nothing asked of anybody."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def offences(browser):
    """What axe-core finds serious or critical."""
    if not AXE.is_file():
        pytest.skip("needs axe-core: make test-browser")
    browser.execute_script(AXE.read_text())
    run = "const done = arguments[0]; axe.run().then(r => done(r.violations), e => done([{id: String(e)}]))"
    found = browser.execute_async_script(run)
    return [
        (v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")
    ]


def test_it_opens_from_disk_and_fetches_nothing(wide):
    """What is folded opens when it is asked for: by a link to it, too."""
    is_quiet(wide)
    fits(wide)
    picture(wide, "wide-folded")
    open_now = "return [...document.querySelectorAll('.figure')].filter(e => e.checkVisibility()).map(e => e.id)"
    assert wide.execute_script(open_now) == ["drawn-gap"]
    wide.execute_script("location.hash = 'figure-grad-norm'")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and len(wide.execute_script(open_now)) < 2:
        time.sleep(0.05)
    assert wide.execute_script(open_now) == ["drawn-gap", "drawn-grad-norm"]
    assert wide.execute_script("return document.getElementById('figure-grad-norm').getBoundingClientRect().top < 200")
    unfold(wide)
    fits(wide)
    assert wide.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    picture(wide, "wide-light")


def test_figures_are_as_wide_as_the_page_and_their_panels_of_one_width(wide):
    room = wide.execute_script("return document.getElementById('summary').clientWidth")
    width = "return Number(document.querySelector('#drawn-{} svg').getAttribute('width'))"
    for name in ("gap", "loss", "grad-norm", "curves", "fit", "recovery", "preference", "latency"):
        assert room - 8 <= wide.execute_script(width.format(name)) <= room, name
    panel = (
        "return document.querySelector('#drawn-{} .mark-group.role-scope .background').getBoundingClientRect().width"
    )
    widths = {name: wide.execute_script(panel.format(name)) for name in ("loss", "train-loss", "accuracy", "grad-norm")}
    assert max(widths.values()) - min(widths.values()) <= 6, widths


def verdicts_out_of_sight(browser):
    """Rows of the main table whose verdict is not seen without scrolling sideways."""
    assert len(find(browser, "#results .arms td.claim")) == 6
    boxes = "[...document.querySelectorAll('#results .arms td.claim')].map(e => e.getBoundingClientRect())"
    return browser.execute_script(
        f"return {boxes}.filter(r => r.width < 60 || r.left < 0 || r.right > innerWidth).length"
    )


def test_each_arm_has_its_verdict_in_sight(wide):
    assert verdicts_out_of_sight(wide) == 0
    said = [cell.text for cell in find(wide, "#results .arms td.claim")]
    assert said[0] == "the reference"
    assert said[1].startswith("behind by 3.6%")
    table = "const e = document.querySelector('#results .scroll'); return e.scrollWidth <= e.clientWidth + 1"
    assert wide.execute_script(table)


def test_doubtful_comparisons_are_hatched(wide):
    hatched = wide.execute_script("return document.querySelectorAll('#figure-gap [fill^=\"url(\"]').length")
    assert hatched == 2  # dyt under frozen is not matched, under full incomplete
    assert "not matched" in find(wide, "#figure-gap")[0].text
    assert len(find(wide, "svg.defs pattern#unnorm-hatch")) == 1


def test_what_a_model_wrote_is_inert_text(wide):
    assert wide.execute_script("return window.hacked") is None
    shown = find(wide, ".answer .text")[0].text
    assert "</script><script>window.hacked = 1</script>" in shown
    assert "<img src=x onerror=" in shown
    assert "{{ 7 * 7 }}" in shown
    assert "\\u202e" in shown
    assert "\u202e" not in wide.page_source
    assert not find(wide, ".answer .text *")


def test_the_table_of_cells_is_sorted_and_filtered_by_keyboard(wide):
    from selenium.webdriver.common.keys import Keys

    column = "return [...document.querySelectorAll('#cells tr:not([hidden]) td:nth-child({})')].map(e => e.textContent)"
    button = find(wide, "#cells th:nth-child(6) button")[0]
    button.send_keys(Keys.ENTER)
    losses = [float(text) for text in wide.execute_script(column.format(6)) if text]
    assert losses == sorted(losses)
    assert len(losses) == 11
    button.send_keys(Keys.SPACE)
    losses = [float(text) for text in wide.execute_script(column.format(6)) if text]
    assert losses == sorted(losses, reverse=True)
    assert find(wide, "#cells th:nth-child(6)")[0].get_attribute("aria-sort") == "descending"
    text = find(wide, "#cells-filter input")[0]
    text.send_keys("failed")
    assert wide.execute_script(column.format(2)) == ["dyt"]
    assert find(wide, "#cells-filter .count")[0].text == "1 of 12 cells"
    text.send_keys(Keys.BACKSPACE * 6)
    choose(wide, "#cells-filter [name=arm]", "dyt-bare")
    assert set(wide.execute_script(column.format(2))) == {"dyt-bare"}
    choose(wide, "#cells-filter [name=arm]", "")


def choose(browser, selector, value):
    from selenium.webdriver.support.select import Select

    Select(find(browser, selector)[0]).select_by_value(value)


def test_completions_are_browsed_by_keyboard_and_filtered(wide):
    from selenium.webdriver.common.keys import Keys

    listed = find(wide, ".list")[0]
    where = ".detail > p.soft"
    assert f"(1 of {QUESTIONS})" in find(wide, where)[0].text
    listed.send_keys(Keys.ARROW_DOWN, "j")
    assert f"(3 of {QUESTIONS})" in find(wide, where)[0].text
    assert "Question 2?" in find(wide, ".asked")[0].text
    assert "cut off" in find(wide, ".answer")[0].text
    listed.send_keys(Keys.END)
    assert f"({QUESTIONS} of {QUESTIONS})" in find(wide, where)[0].text
    active = find(wide, ".list [aria-selected=true]")
    assert [option.get_attribute("id") for option in active] == [listed.get_attribute("aria-activedescendant")]
    heads = "return [...document.querySelectorAll('.answer h3')].map(e => e.childNodes[1].textContent)"
    assert wide.execute_script(heads) == ["original", "dyt-bare", "dyt"]
    choose(wide, "#browser [name=arm]", "dyt")
    assert wide.execute_script(heads) == ["original", "dyt"]
    choose(wide, "#browser [name=arm]", "dyt-bare")
    choose(wide, "#browser [name=category]", CATEGORIES[1])
    assert find(wide, "#browser .count")[0].text == f"{QUESTIONS // 3} of {QUESTIONS} prompts"
    choose(wide, "#browser [name=outcome]", "tie")
    ties = find(wide, ".list li")
    assert ties
    assert all("tie" in option.text for option in ties)
    assert find(wide, ".answer .verdict")[0].text.startswith("tie")
    choose(wide, "#browser [name=outcome]", "")
    choose(wide, "#browser [name=arm]", "")
    choose(wide, "#browser [name=category]", "")
    find(wide, "#browser [name=text]")[0].send_keys("question 11")
    assert find(wide, "#browser .count")[0].text == f"1 of {QUESTIONS} prompts"
    find(wide, "#browser [name=text]")[0].send_keys("0")
    assert "No prompt is left" in find(wide, ".detail")[0].text
    find(wide, "#browser [name=text]")[0].send_keys(Keys.BACKSPACE * 12)
    is_quiet(wide)


def test_no_serious_offence_against_accessibility(wide):
    assert offences(wide) == []


def test_any_table_is_sorted_by_any_column(wide):
    gaps = "return [...document.querySelectorAll('#arms td[data-head=gap]')].map(e => parseFloat(e.textContent))"
    head = find(wide, "#arms th:nth-child(7)")[0]
    head.find_element("css selector", "button").click()
    found = wide.execute_script(gaps)
    assert found[:4] == sorted(found[:4])
    assert found[4:] == [None, None]  # the reference has none, and stands last either way
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element("css selector", "button").click()
    assert wide.execute_script(gaps) == [*sorted(found[:4], reverse=True), None, None]
    find(wide, "#arms th:nth-child(1) button")[0].click()
    assert head.get_attribute("aria-sort") is None


def test_what_was_chosen_survives_a_reload_and_stands_in_the_address(wide, folder):
    find(wide, "#arms th:nth-child(2) button")[0].click()
    choose(wide, "#cells-filter [name=arm]", "dyt")
    choose(wide, "#browser [name=category]", CATEGORIES[0])
    wide.execute_script("for (const id of ['audit', 'figure-loss']) document.getElementById(id).open = false")
    time.sleep(0.2)  # a toggle is told of later
    address = wide.current_url
    wide.get("about:blank")
    wide.get(address)
    chosen = "return [...document.querySelectorAll('#cells tbody tr:not([hidden]) td.name:nth-child(2)')]"
    assert set(wide.execute_script(f"{chosen}.map(e => e.textContent)")) == {"dyt"}
    assert find(wide, "#browser .count")[0].text == f"{QUESTIONS // 3} of {QUESTIONS} prompts"
    assert find(wide, "#arms th:nth-child(2)")[0].get_attribute("aria-sort") == "ascending"
    shut = wide.execute_script("return [...document.querySelectorAll('details:not([open])')].map(e => e.id)")
    assert sorted(shut) == ["audit", "figure-loss"]
    wide.get("about:blank")
    load(wide, folder / "index.html")


def test_it_prints(wide):
    printed = base64.b64decode(wide.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert 3 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 40
    (BUILD / "screenshots").mkdir(parents=True, exist_ok=True)
    (BUILD / "screenshots" / "printed.pdf").write_bytes(printed)
    shut = "return document.querySelectorAll('details:not([open])').length"
    before = wide.execute_script(shut)
    assert before > 10
    wide.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert wide.execute_script(shut) == 0
    wide.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    heights = "[...document.querySelectorAll('.figure svg')].map(e => e.getBoundingClientRect().height)"
    assert 100 < wide.execute_script(f"return Math.max(...{heights})") < 760  # 20 cm: no taller than a page
    boxes = "[...document.querySelectorAll('.figure, pre, .detail')].map(e => getComputedStyle(e).overflowX)"
    assert set(wide.execute_script(f"return {boxes}")) == {"visible"}  # paper does not scroll
    wide.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    wide.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert wide.execute_script(shut) == before


def test_a_phone_has_room_for_it(phone):
    fits(phone)
    labels = "[...document.querySelectorAll('#drawn-gap svg text')].map(e => e.getBoundingClientRect())"
    assert phone.execute_script(f"return {labels}.filter(r => r.left < 0 || r.right > innerWidth).length") == 0
    assert verdicts_out_of_sight(phone) == 0
    heads = "return getComputedStyle(document.querySelector('#results .arms td.n'), '::before').content"
    assert phone.execute_script(heads) == '"tokens before"'
    picture(phone, "phone-light")


def test_in_the_dark(phone):
    set_view(phone, PHONE, dark=True)
    fits(phone)
    assert phone.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    white = "[...document.querySelectorAll('.figure svg > *, .figure svg > g > .background')]"
    assert phone.execute_script(f"return {white}.filter(e => getComputedStyle(e).fill === 'rgb(255, 255, 255)')") == []
    mark = "return getComputedStyle(document.querySelector('#arms .mark path')).fill"
    assert phone.execute_script(mark) == "rgb(224, 224, 224)"  # of the original, which is nearly black in the light
    assert offences(phone) == []
    picture(phone, "phone-dark")
    set_view(phone, WIDE, dark=True)
    picture(phone, "wide-dark")
    is_quiet(phone)


def test_scripts_that_are_not_ours_are_refused(phone):
    phone.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 4'; document.body.append(s)"
    )
    assert phone.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in entry["message"] for entry in phone.get_log("browser"))


def test_long_answers_have_a_page_of_their_own(browser, tmp_path):
    from unnorm.report.page import pages

    for name, content in pages(study(text=LONG), []).items():
        (tmp_path / name).write_bytes(content)
    set_view(browser, PHONE)
    browser.get(f"file://{tmp_path}/index.html")
    find(browser, "#completions-section a")[0].click()
    assert browser.title == "made-up: completions, frozen"
    assert "<b>long long" in find(browser, ".answer .text")[0].text
    find(browser, ".answer .more")[0].click()
    length = browser.execute_script("return document.querySelector('.answer .text').textContent.length")
    assert length == len(LONG)
    fits(browser)
    is_quiet(browser)
    assert offences(browser) == []


def test_a_served_page_follows_the_study(browser, tmp_path):
    folder = waiting_ledger(tmp_path)
    with server(folder) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            browser.get(f"http://127.0.0.1:{serving.server_address[1]}/")
            assert "it broke" not in find(browser, "main")[0].text
            find(browser, "#every-cell summary")[0].click()
            choose(browser, "#cells-filter [name=arm]", "dyt")
            fail(folder, "dyt")
            deadline = time.monotonic() + 40
            while time.monotonic() < deadline and "it broke" not in browser.page_source:
                time.sleep(0.2)
            assert "it broke" in find(browser, "#failures")[0].text
            assert find(browser, "#cells-filter .count")[0].text == "1 of 2 cells"
            assert [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]] == []
        finally:
            serving.shutdown()
            thread.join()
