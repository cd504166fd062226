"""The benchmarks of ``make bench``: ratios of two timings taken in turn within one run; times only from a GPU."""
