"""The interactive page in a real browser: it draws, switches, filters, answers the mouse, and shows text as text."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_city import fake_predictions
from PIL import Image

from mtclim import Tasks
from mtclim.mapping.page import PAGE_BYTES, write_page
from mtclim.style import palette

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

ROOT = Path(__file__).parents[2]
NASTY = "<img src=x onerror=window.hacked=1>"
TASKS = Tasks({"roof": ["FLT", NASTY], "wall": ["a", "b"]})
PAINTED = """
const c = document.getElementById("map"), d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
const s = {}; for (let i = 0; i < d.length; i += 4) { const k = [d[i], d[i+1], d[i+2]].join(); s[k] = (s[k] || 0) + 1; }
return s"""


@pytest.fixture(scope="module")
def frame():
    frame = fake_predictions(500, TASKS)
    frame.loc[0, "image"] = f"</script><script>window.hacked=1</script>{NASTY}"
    return frame


@pytest.fixture(scope="module")
def page(frame, tmp_path_factory) -> Path:
    gpd = pytest.importorskip("geopandas")
    from shapely import box

    shapes = [box(-70.75, -33.6, -70.65, -33.4), box(-70.65, -33.6, -70.55, -33.4)]
    areas = gpd.GeoDataFrame(geometry=shapes, crs=4326)
    folder = tmp_path_factory.mktemp("page")
    (folder / "my #1 photographs" / "images").mkdir(parents=True)
    Image.new("RGB", (60, 40), "red").save(folder / "my #1 photographs" / frame.loc[1, "image"])
    return write_page(frame, TASKS, folder / "map.html", [areas], NASTY, NASTY, folder=folder / "my #1 photographs")


@pytest.fixture(scope="module")
def chromium():
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1000,700"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    except Exception as error:
        pytest.skip(f"no headless Chromium here: {error}")
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium, page):
    chromium.get(page.as_uri())
    wait(chromium, "500 of 500")
    yield chromium
    assert not chromium.execute_script("return window.hacked"), "text of the table was run"
    log = [entry for entry in chromium.get_log("browser") if entry["source"] != "rendering"]  # advice on getImageData
    assert [entry for entry in log if entry["level"] in ("SEVERE", "WARNING")] == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').length") == 0, (
        "it fetched something"
    )


def wait(browser, text: str) -> None:
    WebDriverWait(browser, 30).until(lambda b: text in b.find_element(By.ID, "status").text)


def colours(browser) -> set[str]:
    WebDriverWait(browser, 30).until(lambda b: len(b.execute_script(PAINTED)) > 3)
    return {name for name, pixels in browser.execute_script(PAINTED).items() if pixels > 30}


def rgb(colour: str) -> str:
    return ",".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))


def test_page_is_self_contained(page):
    text = page.read_text()
    assert NASTY not in text and "http://" not in text and "https://" not in text
    assert json.dumps("FLT") in text


def test_it_draws_the_classes_of_the_chosen_task(browser, frame):
    fills = palette(TASKS)
    assert {rgb(fills["roof"][name]) for name in TASKS["roof"]} <= colours(browser)
    Select(browser.find_element(By.ID, "task")).select_by_visible_text("wall")
    assert browser.find_element(By.ID, "classes").text.split("\n")[0].startswith("a")
    browser.find_elements(By.CSS_SELECTOR, "#classes input")[0].click()
    wait(browser, f"{(frame['wall:pred'] == 'b').sum()} of 500")
    assert rgb(fills["wall"]["b"]) in colours(browser)
    browser.find_element(By.ID, "none").click()
    wait(browser, "0 of 500")


def test_it_filters_by_probability(browser, frame):
    best = frame[[f"roof:p:{name}" for name in TASKS["roof"]]].max(axis=1)
    slide = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(slide, "least", 70)
    shown = int(browser.find_element(By.ID, "status").text.split(" ")[0])
    assert (best > 0.705).sum() <= shown <= (best > 0.695).sum() and 0 < shown < 500
    browser.execute_script(slide, "most", 50)
    wait(browser, "0 of 500")


def test_the_mouse_finds_a_facade(browser, frame):
    canvas = browser.find_element(By.ID, "map")
    x, y = browser.execute_script("const r = devicePixelRatio || 1; return [px(0) / r, py(0) / r]")
    size = canvas.size
    ActionChains(browser).move_to_element_with_offset(
        canvas, round(x - size["width"] / 2), round(y - size["height"] / 2)
    ).perform()
    tip = WebDriverWait(browser, 30).until(lambda b: b.find_element(By.ID, "tip").text)
    assert (
        "roof:" in tip and "wall:" in tip and " %" in tip and tip.split("\n")[0].split(" (")[0] in set(frame["image"])
    )


def test_a_click_shows_the_photograph_or_nothing_and_the_answers(browser, frame):
    browser.execute_script("show(1)")
    shown = "const i = document.querySelector('#photograph img'); return i && i.naturalWidth"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(shown) == 60)
    text = browser.find_element(By.ID, "detail").text
    assert frame.loc[1, "image"] in text and f"wall: {frame.loc[1, 'wall:pred']} " in text
    browser.execute_script("show(2)")  # its photograph is not there
    WebDriverWait(browser, 30).until(lambda b: not b.find_elements(By.CSS_SELECTOR, "#photograph img"))
    browser.get_log("browser")  # the missing file
    browser.find_element(By.ID, "close").click()
    assert not browser.find_element(By.ID, "detail").is_displayed()
    canvas = browser.find_element(By.ID, "map")
    x, y = browser.execute_script("const r = devicePixelRatio || 1; return [px(3) / r, py(3) / r]")
    place = round(x - canvas.size["width"] / 2), round(y - canvas.size["height"] / 2)
    ActionChains(browser).move_to_element_with_offset(canvas, *place).click().perform()
    assert browser.find_element(By.ID, "detail").is_displayed()
    browser.get_log("browser")


def test_viewing_directions_are_ticks(browser):
    draw = "scale *= 60; [cx, cy] = [X[arguments[0]], Y[arguments[0]]]; bearing.fill(arguments[1]); draw()"
    pixels = """
        const c = document.getElementById("map"), r = devicePixelRatio || 1;
        const [x, y] = [px(arguments[0]), py(arguments[0])];
        return Array.from(c.getContext("2d").getImageData(x + 12 * r, y, 1, 1).data)"""
    browser.execute_script(draw, 10, 90.0)
    east = browser.execute_script(pixels, 10)
    browser.execute_script(draw.replace("scale *= 60; ", ""), 10, 270.0)
    assert browser.execute_script(pixels, 10) != east


def test_it_fits_a_telephone(browser):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        assert browser.find_element(By.ID, "map").size["height"] >= 350
        browser.execute_script("show(4)")
        box = browser.find_element(By.ID, "detail").rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        browser.execute_script("show(-1)")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.get_log("browser")


def test_the_page_has_a_bounded_size_and_can_carry_its_pictures(tmp_path):
    many = Tasks({"a": [f"class {k}" for k in range(100)], "b": [f"class {k}" for k in range(100)]})
    big = write_page(fake_predictions(40_000, many), many, tmp_path / "big.html")
    assert PAGE_BYTES / 2 < big.stat().st_size < 1.5 * PAGE_BYTES and "A random sample of" in big.read_text()
    frame = fake_predictions(3, TASKS)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (600, 400), "red").save(tmp_path / frame.loc[0, "image"])
    page = write_page(frame, TASKS, tmp_path / "own.html", folder=tmp_path, embedded=True)
    content = json.loads(page.read_text().split('type="application/json">')[1].split("</script>")[0])
    assert [bool(picture) for picture in content["pictures"]] == [True, False, False]
    assert Image.open(io.BytesIO(base64.b64decode(content["pictures"][0]))).size == (64, 64)


def test_html_in_labels_and_names_is_text(browser):
    assert NASTY in browser.find_element(By.ID, "classes").text
    assert browser.find_element(By.ID, "title").text == browser.find_element(By.ID, "note").text == NASTY
    assert NASTY in browser.execute_script("return describe(0)")
    assert browser.find_elements(By.TAG_NAME, "img") == []


CONF = """
import sys
sys.path.insert(0, {extension!r})
extensions, exclude_patterns, html_theme = ["myst_parser", "sphinx.ext.autodoc", "study"], ["book/chapters"], "basic"
"""


@pytest.mark.parametrize("there", [True, False])
def test_the_built_book_shows_the_page_from_disk(chromium, page, tmp_path, there):
    pytest.importorskip("myst_parser")
    (tmp_path / "conf.py").write_text(CONF.format(extension=str(ROOT / "book" / "_ext")))
    (tmp_path / "index.md").write_text("# Book\n\n```{toctree}\nbook/maps\n```\n")
    (tmp_path / "book").mkdir()
    text = "# Maps\n\n```{stored} results/map/map.html\n:missing: Not made yet.\n```\n"
    (tmp_path / "book" / "maps.md").write_text(text)
    if there:
        (tmp_path / "results" / "map").mkdir(parents=True)
        (tmp_path / "results" / "map" / "map.html").write_bytes(page.read_bytes())
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", tmp_path, tmp_path / "out"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    chromium.get((tmp_path / "out" / "book" / "maps.html").as_uri())
    frames = chromium.find_elements(By.CSS_SELECTOR, "iframe.stored-page")
    if not there:
        assert not frames and "Not made yet." in chromium.find_element(By.TAG_NAME, "body").text
        return
    link = chromium.find_element(By.LINK_TEXT, "Open the page alone").get_attribute("href")
    chromium.execute_script("arguments[0].scrollIntoView()", frames[0])
    chromium.switch_to.frame(frames[0])
    wait(chromium, "500 of 500")
    chromium.switch_to.default_content()
    chromium.get(link)
    wait(chromium, "500 of 500")
