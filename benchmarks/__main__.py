"""All benchmarks, or those named, as one table, one JSON and one CSV.

python -m benchmarks [recurrence steps prediction labels facade ...] [--quick] [--out results/bench.json]
"""

import argparse
import importlib
import json
import os
import platform
from pathlib import Path

import pandas as pd

from benchmarks.common import all_threads
from mtclim import runs

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "common")
COLUMNS = ["row", "what", "against", "device", "threads", "ratio", "target", "met"]


def cpu() -> str:
    """The processor's name, as Linux gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def tabulate(lines: list[dict]) -> pd.DataFrame:
    """The rows as a table to read; what only some rows have goes to one column, "also"."""
    lines = sorted(lines, key=lambda line: line["row"])
    table = pd.DataFrame(lines).astype(object)[COLUMNS]
    table["met"] = [{True: "yes", False: "no"}.get(line.get("met"), "") for line in lines]
    table["also"] = [
        "; ".join(f"{k} {v}" for k, v in line.items() if k not in COLUMNS and v is not None) for line in lines
    ]
    return table


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; default all")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, a tenth of the rows")
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"))
    parser.add_argument("--note", default="", help='about the machine, for example "other programs were running"')
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"found {', '.join(sorted(unknown))}; expected some of {', '.join(NAMES)}")
    load = os.getloadavg()[0]
    lines = []
    for name in given.names or NAMES:
        print(f"{name} ...", flush=True)
        lines += importlib.import_module(f"benchmarks.{name}").run(given.quick)
    about = runs.provenance() | {
        "cpu": cpu(),
        "threads": all_threads(),
        "load before": round(load, 1),
        "note": given.note,
    }
    text = tabulate(lines)
    print(text.to_string(index=False))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [{key: value for key, value in line.items() if value is not None} for line in lines]
    given.out.write_text(json.dumps(about | {"rows": rows}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text.to_csv(given.out.with_suffix(".csv"), index=False)
    quiet = "" if about["load before"] < 0.5 else ", busy with other programs"
    gpu = "none" if about["device"] == "CPU" else about["device"]
    said = [
        f"Machine: {about['hardware']}, {about['cpu']}; GPU: {gpu}.",
        f"Threads available: {about['threads']}; load when it began: {about['load before']}{quiet}.",
        f"Measured {about['date'][:10]} with torch {about['versions']['torch']}, commit {about['commit']}.",
    ]
    said += [given.note] * bool(given.note)
    given.out.with_suffix(".txt").write_text("".join(f"- {line}\n" for line in said), encoding="utf-8")


if __name__ == "__main__":
    main()
