"""The interactive map with 30,000 façades in headless Chromium: time to open, of a task switch and of a redraw, as JSON.

    python benchmarks/map_page.py [--points 30000] [--switches 10] [--out benchmarks/map_page.json]

Times are of the page's own clock, from the event until everything is drawn, with software rendering. Invented data.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from fake_city import fake_predictions

from mtclim import SANTIAGO, maps

TARGET = 500  # ms, a task switch
SWITCH = """
const done = arguments[1], select = document.getElementById("task"), start = performance.now();
select.value = arguments[0]; select.dispatchEvent(new Event("change"));
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=30_000)
    parser.add_argument("--switches", type=int, default=10)
    parser.add_argument("--out", default="benchmarks/map_page.json")
    given = parser.parse_args()
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as folder:
        page = maps.write_page(fake_predictions(given.points), SANTIAGO, Path(folder) / "map.html")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            start = time.perf_counter()
            browser.get(page.as_uri())
            while not browser.execute_script("return document.getElementById('map').dataset.ms"):
                time.sleep(0.02)
            opened = 1000 * (time.perf_counter() - start)
            order = [k % len(SANTIAGO) for k in range(1, given.switches + 1)]
            switches = [browser.execute_async_script(SWITCH, str(k)) for k in order]
            redraw = browser.execute_script("draw(); return +document.getElementById('map').dataset.ms")
        finally:
            browser.quit()
        megabytes = page.stat().st_size / 1e6
    median = statistics.median(switches)
    result = {
        "points": given.points, "page_mb": round(megabytes, 1), "open_ms": round(opened),
        "switch_ms_median": round(median), "switch_ms_max": round(max(switches)), "redraw_ms": round(redraw),
        "target_ms": TARGET, "met": median < TARGET, "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    Path(given.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
