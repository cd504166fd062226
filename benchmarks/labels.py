"""Row 7: co-occurrence, LPRUS and partition of as many rows as the paper has façades to predict, in processor time."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks import gpu
from benchmarks.common import row
from mtclim.data.labels import cooccurrence, lprus, partition
from mtclim.tasks import SANTIAGO

ROWS = 204_030
SECONDS = 5  # the target


def run(quick: bool) -> Iterator[dict]:
    """Row 7, one line a function; ``quick``: a tenth of the rows in a tenth of the time. One label in 100 is absent."""
    part = 10 if quick else 1
    table = gpu.labels(ROWS // part)
    block = table["block"]
    labels = table[list(SANTIAGO)].mask(np.random.default_rng(0).random((len(table), len(SANTIAGO))) < 0.01)
    calls = {
        "cooccurrence": lambda: cooccurrence(labels),
        "lprus": lambda: lprus(labels),
        "partition": lambda: partition(labels, block),
        "partition, no blocks": lambda: partition(labels),
    }
    for name, call in calls.items():
        start = time.process_time()
        call()
        ratio = (time.process_time() - start) / (SECONDS / part)
        what = f"{name}, {len(labels):,} rows x {len(SANTIAGO)} tasks, {block.nunique():,} blocks"
        yield row(7, what, f"{SECONDS / part:g} s", ratio, 1, threads=1, device="CPU")
