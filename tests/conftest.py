"""What every test shares: the record that `make soak` leaves behind."""

import csv
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from mtclim.files import whole_or_absent

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the hub's package is imported; no test needs the network

RECORD = Path(__file__).parent.parent / "results" / "soak.csv"
COLUMNS = ["check", "counts", "outcome", "when and where"]
_done: dict[str, dict] = {}


def pytest_runtest_logreport(report) -> None:
    """Note each check that ran at its full counts; what it counted it said with `record_property`."""
    if "soak" in report.keywords and (report.when == "call" or report.outcome != "passed"):
        counts = ", ".join(f"{name}: {value}" for name, value in report.user_properties)
        name = report.nodeid.split("::")[-1].removeprefix("test_").replace("_", " ").replace("[", " [")
        _done[name] = {"counts": counts, "outcome": f"{report.outcome} in {report.duration:.0f} s"}


def pytest_sessionfinish() -> None:
    """Enter the checks of this session in the record, each in the place of its earlier entry; write it whole."""
    ran = {check: entry for check, entry in _done.items() if not entry["outcome"].startswith("skipped")}
    if not ran:
        return
    when = datetime.now(UTC).isoformat(" ", timespec="minutes")
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    now = {"when and where": f"{when}; {where}, torch {version('torch')}"}
    known = {}
    if RECORD.exists():
        with open(RECORD, newline="", encoding="utf-8") as file:
            known = {row["check"]: row for row in csv.DictReader(file)}
    known |= {check: {"check": check, **entry, **now} for check, entry in ran.items()}
    RECORD.parent.mkdir(exist_ok=True)
    with whole_or_absent(RECORD) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(known[check] for check in sorted(known))
