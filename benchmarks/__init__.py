"""The benchmarks of ``make bench``: ratios of two timings taken in turn within one run; absolute times only from a GPU."""
