"""Training from a command line, on one device or on several devices and nodes.

    python -m mtclim.train --variant lim_ms_all --config paper --devices 4
    torchrun --nproc-per-node 4 -m mtclim.train --variant stc --config paper --devices 4

Notebooks can't start several processes; this can. ``batch_size`` stays the batch of all devices together.
"""

import argparse
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, train or resume the run, print its folder; the exit status is 2 for a mistake that can be mended."""
    parser = argparse.ArgumentParser(prog="python -m mtclim.train", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="demo", help="a preset of configs/ or the path of a YAML")
    for name in ("variant", "backbone", "seed", "data", "tasks", "out"):
        parser.add_argument(f"--{name}", help=f"overrides the preset's {name}")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="any other setting of the preset")
    parser.add_argument("--devices", type=int, default=1, help="GPUs (or CPU processes) of each node")
    parser.add_argument("--nodes", type=int, default=1)
    given = vars(parser.parse_args(arguments))
    devices, nodes, preset = given.pop("devices"), given.pop("nodes"), given.pop("config")
    pairs = [pair.partition("=") for pair in given.pop("set")]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        parser.error(f"--set: found {wrong[0]!r}; expected NAME=VALUE, for example max_epochs=3.")

    from mtclim.config import load_config  # after --help has been answered

    try:
        config = load_config(preset, **given | {name: value for name, _, value in pairs})
    except ValueError as error:
        parser.error(str(error))
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads or len(os.sched_getaffinity(0))))
    from mtclim.runs import RunError  # torch reads its number of threads when it is imported
    from mtclim.training import TrainingError, _rank, fit

    try:
        folder = fit(config, devices, nodes)
    except (ValueError, RunError, TrainingError) as error:
        print(f"mtclim.train: {error}", file=sys.stderr)
        return 2
    if not _rank():
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
