"""What the benchmarks share: timing in turn, the device, and the form of a row."""

from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DEVICE_NAME = torch.cuda.get_device_name() if GPU else "CPU"


def rounds(calls: dict[str, Callable[[], object]], count: int, warm: int = 2) -> dict[str, np.ndarray]:
    """Seconds of each call in each round; A B A B ..., so that a disturbance of the machine meets all sides."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warm + count):
        for name, call in calls.items():
            began = perf_counter()
            call()
            if GPU:
                torch.cuda.synchronize()
            if number >= warm:
                times[name].append(perf_counter() - began)
    return {name: np.array(seconds) for name, seconds in times.items()}


def in_turn(calls: dict[str, Callable[[], object]], count: int, warm: int = 2) -> dict[str, float]:
    """Median seconds of each call over so many rounds."""
    return {name: float(np.median(seconds)) for name, seconds in rounds(calls, count, warm).items()}


def row(number: int, what: str, against: str, ratio: float, target: float | None, seconds: float | None = None,
        least: bool = False, threads: int | None = None, device: str | None = None) -> dict:  # fmt: skip
    """One line of the table. ``least``: the ratio must reach the target, else it must not pass it.

    ``seconds`` (of the first side) are kept only where a GPU measured them.
    """
    met = None if target is None else bool(ratio >= target if least else ratio <= target)
    line = {"row": number, "what": what, "against": against, "device": device or DEVICE_NAME}
    line |= {"threads": threads or torch.get_num_threads(), "ratio": round(ratio, 3)}
    line |= {"target": "" if target is None else f"{'>=' if least else '<='} {target:g}", "met": met}
    return line | ({"seconds": seconds} if GPU and device is None and seconds is not None else {})
