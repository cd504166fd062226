"""What differs between operating systems, in one place: processor cores and memory."""

import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None


def cores() -> int:
    """Processor cores that this process may use; all of the machine where the system does not say."""
    allowed = getattr(os, "sched_getaffinity", None)
    return (len(allowed(0)) if allowed else os.cpu_count()) or 1


def peak_memory_mb() -> float | None:
    """The most memory that this process has held so far, in MiB; None where the system does not say."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB elsewhere
