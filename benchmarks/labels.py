"""Co-occurrence, LPRUS and partition on ten million rows against one million: time and memory, as a table and JSON.

    python benchmarks/labels.py [--rows 10000000] [--blocks 300000] [--out benchmarks/labels.json]

The labels are drawn from the sizes of the paper's five tasks, clustered by block. Peak memory is what numpy and pandas
allocate on top of the inputs (tracemalloc), as a multiple of the table of integer codes: rows x 5 int8.
"""

import argparse
import json
import os
import platform
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd

import mtclim
from mtclim.labels import SPLITS, cooccurrence, lprus, partition

RATIO, MEMORY = 20, 3  # the targets


def city(rows: int, blocks: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Labels and blocks: 500 labelsets with Zipf frequencies, half of a block's rows of one of them, 1 % missing."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, 501)
    block = rng.integers(0, blocks, rows)
    labelset = rng.choice(500, rows, p=zipf / zipf.sum()).astype(np.int16)
    main = rng.choice(500, blocks, p=zipf / zipf.sum()).astype(np.int16)
    labelset = np.where(rng.random(rows, dtype=np.float32) < 0.5, main[block], labelset)
    columns = {}
    for task, classes in mtclim.SANTIAGO.items():
        codes = rng.choice(len(classes), 500, p=rng.dirichlet(np.ones(len(classes)))).astype(np.int8)[labelset]
        codes[rng.random(rows, dtype=np.float32) < 0.01] = -1
        columns[task] = pd.Categorical.from_codes(codes, categories=list(classes), ordered=True)
    return pd.DataFrame(columns), block


def measure(rows: int, blocks: int) -> dict[str, dict[str, float]]:
    """Seconds and peak MB of each function; the timed call runs without tracemalloc, which slows it down."""
    labels, block = city(rows, blocks)
    calls = {
        "cooccurrence": lambda: cooccurrence(labels),
        "lprus": lambda: lprus(labels),
        "partition": lambda: partition(labels, block),
        "partition, no blocks": lambda: partition(labels),
    }
    results = {}
    for name, call in calls.items():
        start = time.perf_counter()
        result = call()
        results[name] = {"seconds": time.perf_counter() - start}
        if name == "partition":
            shares = result.value_counts(normalize=True)[list(SPLITS)].round(4)
            results[name]["shares"] = shares.tolist()
        del result
        tracemalloc.start()
        call()
        results[name]["peak_mb"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return results


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--blocks", type=int, default=300_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    small, large = measure(given.rows // 10, given.blocks // 10), measure(given.rows, given.blocks)
    codes_mb = given.rows * len(mtclim.SANTIAGO) / 1e6
    table = []
    for name in large:
        ratio, memory = large[name]["seconds"] / small[name]["seconds"], large[name]["peak_mb"] / codes_mb
        met = ratio <= RATIO and memory <= MEMORY
        table.append(
            {"what": name, "rows/10": round(small[name]["seconds"], 2), "rows": round(large[name]["seconds"], 2),
             "ratio": round(ratio, 1), "peak_mb": round(large[name]["peak_mb"]), "memory": round(memory, 2), "met": met}
        )  # fmt: skip
    machine = {
        "machine": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__, "pandas": pd.__version__},
    }
    print(f"{given.rows:,} rows x {len(mtclim.SANTIAGO)} tasks, {given.blocks:,} blocks; codes {codes_mb:.0f} MB; int8")
    print(machine)
    print(pd.DataFrame(table).to_string(index=False))
    report = {"rows": given.rows, "blocks": given.blocks, "codes_mb": codes_mb, **machine, "targets": [RATIO, MEMORY]}
    report |= {"date": time.strftime("%Y-%m-%d"), "results": table, "partition_shares": large["partition"]["shares"]}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
