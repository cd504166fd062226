"""All benchmarks, or those named, as one table, one JSON and one CSV, which grow line by line.

python -m benchmarks [recurrence steps prediction labels facade ...] [--quick] [--out results/bench.json]
"""

import argparse
import importlib
import os
import platform
from pathlib import Path

import pandas as pd

from mtclim import machine, runs
from mtclim.files import write_json, write_text

NAMES = sorted({path.stem for path in Path(__file__).parent.glob("[a-z]*.py")} - {"common", "gpu"})
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
    about = runs.provenance() | {"cpu": cpu(), "threads": machine.cores()}
    about |= {"load before": round(os.getloadavg()[0], 1), "note": given.note}
    lines: list[dict] = []
    for name in given.names or NAMES:
        print(f"{name} ...", flush=True)
        for line in importlib.import_module(f"benchmarks.{name}").run(given.quick):
            lines.append(line)
            write(given.out, about, lines)
    if lines:
        print(tabulate(lines).to_string(index=False))


def write(out: Path, about: dict, lines: list[dict]) -> None:
    """The rows and what they were measured on as JSON, as CSV, and in words."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [{key: value for key, value in line.items() if value is not None} for line in lines]
    write_json(out, about | {"rows": rows})
    write_text(out.with_suffix(".csv"), tabulate(lines).to_csv(index=False))
    quiet = "" if about["load before"] < 0.5 else ", busy with other programs"
    gpu = "none" if about["device"] == "CPU" else about["device"]
    said = [
        f"Machine: {about['hardware']}, {about['cpu']}; GPU: {gpu}.",
        f"Threads available: {about['threads']}; load when it began: {about['load before']}{quiet}.",
        f"Measured {about['date'][:10]} with torch {about['versions']['torch']}, commit {about['commit']}.",
    ]
    said += [about["note"]] * bool(about["note"])
    write_text(out.with_suffix(".txt"), "".join(f"- {line}\n" for line in said))


if __name__ == "__main__":
    main()
