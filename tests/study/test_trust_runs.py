"""Runs that are killed, starved of disk or memory, or handed foreign files: whole or absent, never silently wrong."""

import ast
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import ROOT, TASKS, contents, environment, make_project, start

from mtclim import Tasks, load_config, runs
from mtclim.data.images import ImageError
from mtclim.data.table import TableError
from mtclim.learner import Learner, TrainingError
from mtclim.mapping.ensemble import Ensemble
from mtclim.mapping.predict import predict_file
from mtclim.model import MultitaskModel, create_model
from mtclim.prepare import prepare
from mtclim.runs import RunError
from mtclim.training import fit

SOAK = pytest.mark.soak


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("trust") / "project")


@pytest.fixture(autouse=True)
def here(project, monkeypatch):
    """Every test works in the tiny project, on the CPU: only there are two runs the same to the byte."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def reference(project):
    """The uninterrupted run that the others are compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return fit(load_config("tiny"), progress=False)


def tiny(**settings):
    return load_config("tiny", **settings)


# --- killed, repeated ---


def test_the_same_command_gives_the_same_bytes(reference, tmp_path):
    assert contents(fit(tiny(out=tmp_path / "again"), progress=False)) == contents(reference)
    other = contents(fit(tiny(out=tmp_path / "other", seed=1), progress=False))
    assert other["model.safetensors"] != contents(reference)["model.safetensors"]


FORKS = """
import os, sys
import mtclim.training
from mtclim.__main__ import main
for line in sys.stdin:  # an output folder: a child process trains it
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(["train", "--config", "tiny", "--out", line.strip()]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def forks(project):
    """A process that has imported everything and forks a training process for each folder it is told."""
    process = start(project, "-c", FORKS, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.stdin.close()
    process.stdout.close()
    assert process.wait(60) == 0


def train_until(out: Path, seconds: float | None, forks: subprocess.Popen) -> int:
    """Train in a process of its own, killed -9 so many seconds (None: never) after the run began; its exit code."""
    print(out, file=forks.stdin, flush=True)
    child, partial = int(forks.stdout.readline()), out.with_name(f"{out.name}.partial")
    if seconds is not None:
        while not partial.exists():
            time.sleep(0.01)
        time.sleep(seconds)
        with suppress(ProcessLookupError):  # it had ended
            os.kill(child, signal.SIGKILL)
    return int(forks.stdout.readline())


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=SOAK)])
def test_a_killed_run_ends_as_the_uninterrupted_one(reference, forks, tmp_path, kills, record_property):
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the moments: {seed}")
    rng, wanted = random.Random(seed), contents(reference)
    seconds = json.loads((reference / "provenance.json").read_text())["seconds"]
    done, resumed, number = 0, 0, 0
    while done < kills:
        number += 1
        out, partial = tmp_path / f"run-{number}", tmp_path / f"run-{number}.partial"
        for _ in range(rng.randint(1, min(4, kills - done))):
            killed = not out.exists() and train_until(out, rng.uniform(0, 1.5 * seconds), forks) == -signal.SIGKILL
            done += killed
            assert not out.exists() or runs.is_complete(out)
            resumed += killed and (partial / "network.ckpt").exists()
        assert train_until(out, None, forks) == 0 and contents(out) == wanted
        assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in reference.iterdir())
    for name, value in {"kill -9": done, "seed": seed, "runs": number, "kills after a first epoch": resumed}.items():
        record_property(name, value)


# --- a full disk ---

FULL = """
import os, subprocess, sys
from pathlib import Path
from mtclim import load_config, runs
from mtclim.data.images import ImageError, open_store
from mtclim.learner import Learner, TrainingError
from mtclim.mapping.predict import predict_file
from mtclim.prepare import prepare
from mtclim.training import fit

disk = Path(sys.argv[1])
def resize(kib):
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(disk)], check=True)
def refused(what, kind, do):
    try:
        do()
        print(what, "went through")
    except kind as error:
        print(what, "refused:", str(error).replace("\\n", " "))

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
first = fit(load_config("tiny", out=str(disk / "first"), max_epochs=1), progress=False)
before = {p.name: p.read_bytes() for p in first.iterdir()}
used = sum(map(len, before.values())) // 1024
for kib in (used + 40, used + 3000):  # before the first checkpoint, and between two
    resize(kib)
    refused("training", runs.RunError, lambda: fit(load_config("tiny", out=str(disk / "second")), progress=False))
    print("half run", (disk / "second").exists())
data = prepare(load_config("tiny"))
paths = [data.table.paths[i] for i in data.split.index]
resize(used + 3000)
refused("images", ImageError, lambda: open_store(paths, 256, disk / "cache", progress=False))
(disk / "filler").write_bytes(b"")
with open(disk / "filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)) == 4096:
            pass
    except OSError:
        pass
def predict():
    return predict_file(first, "table.csv", disk / "city.parquet", progress=False, require_position=False)

refused("prediction", (OSError, ValueError), predict)
print("half prediction", (disk / "city.parquet").exists())
(disk / "filler").unlink()
resize(200_000)
print("run", fit(load_config("tiny", out=str(disk / "second")), progress=False))
print("store", open_store(paths, 256, disk / "cache", progress=False).readable.sum() == len(paths))
print("rows", len(__import__("pandas").read_parquet(predict())))
print("intact", before == {p.name: p.read_bytes() for p in first.iterdir()})
os.system(f"cp -r {disk}/second {disk.parent}/kept")
"""


def namespace(*what: str) -> bool:
    """Whether this machine lets a program have namespaces of its own."""
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(["unshare", *what, "true"], capture_output=True).returncode == 0
    )


def test_a_full_disk_is_said_and_the_same_command_finishes_when_there_is_room(reference, tmp_path):
    if not namespace("-rm"):
        pytest.skip("unshare -rm is not permitted here: no small disk can be mounted")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["unshare", "-rm", sys.executable, "-c", FULL, str(disk)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    out = done.stdout
    assert done.returncode == 0, out + done.stderr
    assert len(re.findall(r"training refused: .*/second: no space left on the disk .* repeat the command", out)) == 2, (
        out
    )
    assert re.search(r"images refused: .*decoded images .* cannot be kept.*No space left", out), out
    assert re.search(r"prediction refused: .*[Nn]o space left", out), out
    for line in (
        "half run False",
        "half prediction False",
        f"run {disk}/second",
        "store True",
        "rows 120",
        "intact True",
    ):
        assert line in out, out
    assert contents(tmp_path / "kept") == contents(reference)


# --- training that goes wrong ---


def break_losses(monkeypatch, task: int, step: int, value: float) -> None:
    """From training step ``step`` (of all) on, the loss of one task is ``value``."""
    real, seen = MultitaskModel.losses, []

    def losses(self, out, targets):
        values = real(self, out, targets)
        if torch.is_grad_enabled():
            seen.append(1)
            if len(seen) > step:
                values = values.clone()
                values[:, task] = value
        return values

    monkeypatch.setattr(MultitaskModel, "losses", losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_good_weights_are_kept(reference, tmp_path, monkeypatch, value):
    config = tiny(out=tmp_path / "run")
    with monkeypatch.context() as patch:
        break_losses(patch, task=1, step=13, value=value)
        with pytest.raises(TrainingError, match=rf"loss of tint became {value} at epoch 2, step 3.*learning rate"):
            fit(config, progress=False)
    assert not (tmp_path / "run").exists()
    kept = torch.load(tmp_path / "run.partial" / "network.ckpt", weights_only=True)["learner"]
    assert [row["epoch"] for row in kept["history"]] == [0, 1] and kept["best"]["epoch"] in (0, 1)
    model = create_model("bl", Tasks(TASKS), "test_byobnet")
    model.load_state_dict(kept["best"]["weights"])
    assert all(p.isfinite().all() for p in model.eval()(torch.zeros(1, 3, 32, 32)).probabilities.values())
    assert contents(fit(config, progress=False)) == contents(reference)  # the cause mended, the command repeated


def test_a_learning_rate_far_too_high_is_said(tmp_path):
    with pytest.raises(
        TrainingError, match=r"the loss of .* became (nan|inf) at epoch 0, step 1\. No epoch was finished"
    ):
        fit(tiny(out=tmp_path / "steps", learning_rate=1e30), progress=False)
    # one step an epoch: the weights break in the last step, which only the validation sees
    with pytest.raises(TrainingError, match=r"the loss on validation became (nan|inf) at epoch 0, after 1 steps"):
        fit(tiny(out=tmp_path / "step", learning_rate=1e30, batch_size=80), progress=False)
    assert not list(tmp_path.glob("*/network.ckpt"))


def test_too_little_gpu_memory_is_said(tmp_path, monkeypatch):
    def out_of_memory(self, batch, index):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(Learner, "training_step", out_of_memory)
    with pytest.raises(TrainingError, match="GPU's memory is too small for batch_size 16 at 32 px; lower batch_size"):
        fit(tiny(out=tmp_path / "run"), progress=False)


def test_prediction_retries_with_smaller_batches_when_memory_is_short(monkeypatch):
    torch.set_num_threads(1)  # several threads share a batch
    model = create_model("bl", Tasks(TASKS), "test_byobnet").eval()
    model.image_size, forward, sizes = 32, Ensemble._forward, []
    device = torch.device("cpu")
    images = {32: np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)}
    whole = Ensemble([model], [{}], model.tasks, device).probabilities(images)

    def small(self, batch):
        sizes.append(len(batch[32]))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch)

    monkeypatch.setattr(Ensemble, "_forward", small)
    short = Ensemble([model], [{}], model.tasks, device)
    np.testing.assert_allclose(short.probabilities(images), whole, atol=1e-6)
    assert short.probabilities(images).shape == (12, 5) and sizes == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]
    monkeypatch.setattr(Ensemble, "_forward", lambda self, batch: forward(self, 1 / 0 if len(batch[32]) else batch))
    with pytest.raises(ZeroDivisionError):  # any other error is not taken for a lack of memory
        short.probabilities(images)


def test_validation_without_a_class_is_no_trouble(project, tmp_path):
    frame = pd.read_csv("table.csv").astype({"tint": object})
    frame.loc[frame["block"] == "b3", "tint"] = "white"
    frame.to_csv("rare.csv", index=False)
    for split_seed in range(20):  # the block with the rare class must come to training
        config = tiny(data="rare.csv", out=tmp_path / "run", split_seed=split_seed, max_epochs=1)
        counts = prepare(config).counts().set_index("class")
        if counts.loc["white", "train"]:
            break
    scores = json.loads((fit(config, progress=False) / "metrics.json").read_text())
    assert scores["val"]["tint"]["f1"]["white"] is None and 0 <= scores["val"]["tint"]["oa"] <= 1


def test_unreadable_images_are_counted_or_refused(project, tmp_path):
    frame = pd.read_csv("table.csv")
    damaged = frame["image"].iloc[::20].tolist()
    for image in frame["image"]:
        target = tmp_path / image
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"" if image in damaged else Path(image).read_bytes())
    frame.to_csv(tmp_path / "table.csv", index=False)
    config = tiny(data=str(tmp_path / "table.csv"), out=tmp_path / "run", max_epochs=1)
    run = fit(config, progress=False)
    made = json.loads((run / "provenance.json").read_text())
    assert sorted(row["image"] for row in made["unreadable"]) == sorted(damaged)
    assert {row["reason"] for row in made["unreadable"]} == {"the file is empty"}
    assert sum(made["rows"].values()) + len(damaged) == len(frame)
    assert len(pd.read_parquet(run / "predictions.parquet")) == made["rows"]["test"]
    with pytest.raises(ImageError, match=r"6 of 120 images cannot be read, more than the allowed share of 0.04"):
        fit(tiny(data=str(tmp_path / "table.csv"), out=tmp_path / "other", max_unreadable=0.04), progress=False)
    assert not (tmp_path / "other").exists()


# --- model files ---


class Harm:
    """What an attacker's pickle does when it is loaded: leave a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_planted_checkpoint_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    config, partial, harmed = tiny(out=tmp_path / "run"), tmp_path / "run.partial", tmp_path / "harmed"
    with monkeypatch.context() as patch:
        break_losses(patch, task=0, step=7, value=float("nan"))
        with pytest.raises(TrainingError):
            fit(config, progress=False)
    checkpoint = partial / "network.ckpt"
    whole = checkpoint.read_bytes()
    for plant in (
        lambda: torch.save({"learner": Harm(harmed)}, checkpoint),
        lambda: checkpoint.write_bytes(pickle.dumps(Harm(harmed))),
        lambda: checkpoint.write_bytes(whole[: len(whole) // 2]),
        lambda: checkpoint.write_bytes(b""),
        lambda: torch.save({"learner": {}}, checkpoint),
    ):
        plant()
        with pytest.raises(RunError, match=r"network.ckpt: not a checkpoint of this training.*Delete .*run.partial"):
            fit(config, progress=False)
    assert not harmed.exists() and not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(Harm(harmed)))
    assert harmed.exists(), "the plant itself must be able to do harm, or this test shows nothing"


def test_planted_weights_are_refused_and_run_nothing(reference, tmp_path):
    harmed, run = tmp_path / "harmed", tmp_path / "run"
    for plant in (
        lambda path: torch.save(Harm(harmed), path),
        lambda path: path.write_bytes(pickle.dumps(Harm(harmed))),
        lambda path: path.write_bytes((reference / "model.safetensors").read_bytes()[:-100]),
    ):
        shutil.copytree(reference, run, dirs_exist_ok=True)
        plant(run / "model.safetensors")
        with pytest.raises(RunError, match=r"model.safetensors: does not hold this run's weights.*Train it anew"):
            runs.load(run)
    (run / "config.yaml").write_text(f"!!python/object/apply:os.system ['touch {harmed}']")
    with pytest.raises(yaml.YAMLError):
        runs.load(run)
    assert not harmed.exists()


def test_nothing_unpickles():
    """Every way to load that can run code, in all of the project's code."""
    sources = [
        *ROOT.glob("mtclim/**/*.py"),
        *ROOT.glob("book/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        ROOT / "Snakefile",
    ]
    notebooks = {path: json.loads(path.read_text())["cells"] for path in ROOT.glob("notebooks/*.ipynb")}
    code = {path: path.read_text(encoding="utf-8") for path in sources if path.suffix == ".py"}
    code |= {
        p: "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code") for p, cells in notebooks.items()
    }
    assert not re.search(r"pickle|joblib|torch\.load|yaml\.(unsafe_)?load\(", (ROOT / "Snakefile").read_text())
    loads = 0
    for path, text in code.items():
        for node in ast.walk(ast.parse(text)):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
            assert not banned & {name.split(".")[0] for name in imported}, path
            if not isinstance(node, ast.Call):
                continue
            called, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert not called.endswith((".read_pickle", ".load_from_checkpoint", ".unsafe_load", "joblib.load")), (
                path,
                called,
            )
            assert keywords.get("allow_pickle", "False") == "False", (path, called)
            if called == "torch.load":
                loads += 1
                assert keywords.get("weights_only") == "True", path
            if called == "yaml.load":
                assert keywords.get("Loader") in ("yaml.BaseLoader", "_Loader"), path
            if called == "trainer.fit" and "ckpt_path" in keywords:
                assert keywords.get("weights_only") == "True", path
    assert loads, "torch.load is not called at all: then this test looks in the wrong place"


def test_a_model_whose_tasks_do_not_fit_the_table_says_how(reference, project, tmp_path):
    frame = pd.read_csv("table.csv").replace({"tint": {"red": "crimson"}})
    frame.to_csv("crimson.csv", index=False)
    with pytest.raises(
        TableError, match=r"column 'tint': unknown class.*'crimson'.*Expected one of 'blue', 'green', 'red'"
    ):
        predict_file(reference, "crimson.csv", tmp_path / "out.parquet", progress=False, require_position=False)
    with pytest.raises(RunError, match=r"tasks: .*'red'.* there, .*'crimson'.* now"):
        fit(tiny(data="crimson.csv", out=reference), progress=False)
    assert not (tmp_path / "out.parquet").exists()
