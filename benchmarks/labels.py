"""Row 7: co-occurrence, LPRUS and partition on ten million rows against one million, processor time and memory.

The labels are drawn from the sizes of the paper's five tasks, clustered by block. Peak memory is what numpy and pandas
allocate on top of the inputs (tracemalloc), as a multiple of the table of integer codes: rows x 5 int8.
"""

import time
import tracemalloc

import numpy as np
import pandas as pd

import mtclim
from benchmarks.common import row
from mtclim.data.labels import SPLITS, cooccurrence, lprus, partition

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
        start = time.process_time()
        result = call()
        results[name] = {"seconds": time.process_time() - start}
        if name == "partition":
            shares = result.value_counts(normalize=True)[list(SPLITS)].round(4)
            results[name]["shares"] = shares.tolist()
        del result
        tracemalloc.start()
        call()
        results[name]["peak_mb"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return results


def run(quick: bool) -> list[dict]:
    """Row 7: time against a tenth of the rows, memory against the codes; ``quick``: one million rows, not ten."""
    rows, blocks = (1_000_000, 30_000) if quick else (10_000_000, 300_000)
    small, large = measure(rows // 10, blocks // 10), measure(rows, blocks)
    codes_mb, lines = rows * len(mtclim.SANTIAGO) / 1e6, []
    for name in large:
        memory = large[name]["peak_mb"] / codes_mb
        line = row(7, f"{name}, {rows:,} rows x 5 tasks, {blocks:,} blocks", f"{rows // 10:,} rows",
                   large[name]["seconds"] / small[name]["seconds"], RATIO, threads=1, device="CPU")  # fmt: skip
        line |= {"memory": round(memory, 2), "target": f"<= {RATIO}; memory <= {MEMORY} x codes"}
        lines.append(line | {"met": line["met"] and memory <= MEMORY})
    return lines
