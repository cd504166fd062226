"""Row 7: co-occurrence, LPRUS and partition of as many rows as the paper has façades to predict, in processor time.

The labels are drawn from the sizes of the paper's five tasks, clustered by block.
"""

import time

import numpy as np
import pandas as pd

import mtclim
from benchmarks.common import row
from mtclim.data.labels import cooccurrence, lprus, partition

ROWS, BLOCKS = 204_030, 10_000
SECONDS = 5  # the target


def city(rows: int, blocks: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Labels and blocks: 500 labelsets with Zipf frequencies, half of a block's rows of one of them, 1 % missing."""
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, 501)
    block = rng.integers(0, blocks, rows)
    labelset = rng.choice(500, rows, p=zipf / zipf.sum())
    main = rng.choice(500, blocks, p=zipf / zipf.sum())
    labelset = np.where(rng.random(rows) < 0.5, main[block], labelset)
    columns = {}
    for task, classes in mtclim.SANTIAGO.items():
        codes = rng.choice(len(classes), 500, p=rng.dirichlet(np.ones(len(classes))))[labelset]
        codes[rng.random(rows) < 0.01] = -1
        columns[task] = pd.Categorical.from_codes(codes, categories=list(classes), ordered=True)
    return pd.DataFrame(columns), block


def run(quick: bool) -> list[dict]:
    """Row 7, one line a function; ``quick``: a tenth of the rows in a tenth of the time."""
    part = 10 if quick else 1
    labels, block = city(ROWS // part, BLOCKS // part)
    calls = {
        "cooccurrence": lambda: cooccurrence(labels),
        "lprus": lambda: lprus(labels),
        "partition": lambda: partition(labels, block),
        "partition, no blocks": lambda: partition(labels),
    }
    lines = []
    for name, call in calls.items():
        start = time.process_time()
        call()
        ratio = (time.process_time() - start) / (SECONDS / part)
        what = f"{name}, {ROWS // part:,} rows x {len(labels.columns)} tasks, {BLOCKS // part:,} blocks"
        lines.append(row(7, what, f"{SECONDS / part:g} s", ratio, 1, threads=1, device="CPU"))
    return lines
