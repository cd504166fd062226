"""Row 9: the interactive map with 30,000 façades in headless Chromium: a task switch against half a second.

python -m benchmarks.map_page     # alone, more detail as JSON

By the page's own clock, from the event until everything is drawn, with software rendering. Invented data.
"""

import json
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


def measure(points: int = 30_000, switches: int = 10) -> dict:
    """Size of the page in MB, and ms to open it, of a task switch and of a redraw."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as folder:
        page = write_page(fake_predictions(points), SANTIAGO, Path(folder) / "map.html")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            start = time.perf_counter()
            browser.get(page.as_uri())
            while not browser.execute_script("return document.getElementById('map').dataset.ms"):
                time.sleep(0.02)
            opened = 1000 * (time.perf_counter() - start)
            order = [k % len(SANTIAGO) for k in range(1, switches + 1)]
            times = [browser.execute_async_script(SWITCH, str(k)) for k in order]
            redraw = float(browser.execute_script("draw(); return document.getElementById('map').dataset.ms"))
        finally:
            browser.quit()
        megabytes = page.stat().st_size / 1e6
    return {
        "points": points, "page_mb": round(megabytes, 1), "open_ms": round(opened), "redraw_ms": round(redraw),
        "switch_ms_median": round(statistics.median(times)), "switch_ms_max": round(max(times)), "target_ms": TARGET,
    }  # fmt: skip


def run(quick: bool) -> list[dict]:
    """One row; none where there is no headless Chromium."""
    try:
        median = measure(switches=5 if quick else 20)["switch_ms_median"]
    except Exception as error:
        print(f"map_page: not measured, no headless Chromium here ({type(error).__name__})")
        return []
    return [row(9, "map page, 30,000 façades: task switch", f"{TARGET} ms", median / TARGET, 1, device="CPU")]


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
