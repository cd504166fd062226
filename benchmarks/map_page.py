"""Row 9: the interactive map with 30,000 façades in headless Chromium: a task switch against half a second.

By the page's own clock, from the event until everything is drawn, with software rendering. Invented data.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver

from benchmarks.common import row
from mtclim import SANTIAGO
from mtclim.mapping.page import write_page

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fake_city import fake_predictions

TARGET = 500  # ms
SWITCH = """
const done = arguments[1], select = document.getElementById("task"), start = performance.now();
select.value = arguments[0]; select.dispatchEvent(new Event("change"));
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
"""


def switch(points: int, times: int) -> float:
    """Median milliseconds of a change of task on a page of so many façades."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(fake_predictions(points), SANTIAGO, Path(folder) / "map.html")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            browser.get(page.as_uri())
            while not browser.execute_script("return document.getElementById('map').dataset.ms"):
                time.sleep(0.02)
            tasks = (str(k % len(SANTIAGO)) for k in range(1, times + 1))
            return statistics.median(browser.execute_async_script(SWITCH, task) for task in tasks)
        finally:
            browser.quit()


def run(quick: bool) -> list[dict]:
    """One row; none where there is no headless Chromium."""
    try:
        median = switch(30_000, 5 if quick else 20)
    except Exception as error:
        print(f"map_page: not measured, no headless Chromium here ({type(error).__name__})")
        return []
    return [row(9, "map page, 30,000 façades: task switch", f"{TARGET} ms", median / TARGET, 1, device="CPU")]
