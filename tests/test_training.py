"""Training checked against independent accounts: the penalty written out, the history replayed, one process or two."""

import contextlib
import copy
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import mutual_info_score
from sklearn.utils.class_weight import compute_class_weight
from tiny import TASKS, contents, make_project, start

import mtclim
from mtclim import Tasks, load_config, training
from mtclim.data import labels
from mtclim.data.images import decode
from mtclim.learner import Batches, Learner, TrainingError
from mtclim.model import create_model
from mtclim.prepare import prepare
from mtclim.results import normalised
from mtclim.training import fit
from mtclim.variants import CONTROLS, RIVALS

SEVERAL = Tasks({"shade": TASKS["shade"], "tint": TASKS["tint"], "use": ["a", "b", "c", "d"]})


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A tiny project whose labels are partly missing and whose pictures are hard enough to be learnt slowly."""
    folder = make_project(tmp_path_factory.mktemp("training") / "project", images=160, keep=0.85, max_epochs=2)
    frame = pd.read_csv(folder / "table.csv", dtype=str)
    rng = np.random.default_rng(1)
    frame.loc[rng.random(len(frame)) < 0.25, "tint"] = None
    frame.loc[rng.random(len(frame)) < 0.3, "shade"] = rng.choice(TASKS["shade"])  # wrong labels: no run is perfect
    frame.to_csv(folder / "table.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def here(project, monkeypatch):
    monkeypatch.chdir(project)


@pytest.fixture(scope="module")
def long(project):
    """A run to early stopping, in which the schedule steps: folder and configuration."""
    with contextlib.chdir(project):
        config = load_config("tiny", max_epochs=40, lr_patience=1, stop_patience=4, learning_rate=0.01, out="runs/long")
        return fit(config, progress=False), config


# --- the data of a run ---


def test_data_are_balanced_and_no_block_is_in_two_splits():
    data = prepare(load_config("tiny"), images=False)
    frame = pd.read_csv("table.csv", dtype=str, keep_default_na=False)
    sizes = frame.groupby(["shade", "tint"]).size()
    assert len(data.split) == np.minimum(sizes, labels.cutoff(sizes, 0.85)).sum() < len(frame)
    chosen = frame.iloc[data.split.index].assign(split=data.split.astype(str))
    assert (chosen.groupby("block")["split"].nunique() == 1).all()
    assert set(chosen["split"]) == {"train", "val", "test"}
    assert (chosen["tint"] == "").any() and (data.codes[(chosen["tint"] == "").to_numpy(), 1] == -1).all()


def test_every_realisation_has_the_same_partition():
    one, other, moved = (prepare(load_config("tiny", **more), images=False).split
                         for more in ({"seed": 0}, {"seed": 7}, {"split_seed": 1}))  # fmt: skip
    assert one.equals(other) and not one.equals(moved)


@pytest.mark.parametrize("keep", [0.6, 1.0])
def test_the_seed_of_the_partition_draws_rows_and_splits(keep):
    pd.read_csv("table.csv", dtype=str).drop(columns="block").to_csv("apart.csv", index=False)  # many equal partitions
    settings = {"data": "apart.csv", "keep": keep}
    one, moved = (prepare(load_config("tiny", settings, split_seed=seed), images=False) for seed in (0, 1))
    assert one.kept.equals(moved.kept) == (keep == 1), "which rows of the large labelsets are kept"
    both = one.split.index.intersection(moved.split.index)
    assert not one.split[both].equals(moved.split[both]), "which split a row is in"


def test_each_split_has_the_share_that_is_set():
    shares = {"train": 0.5, "val": 0.4, "test": 0.1}
    split = prepare(load_config("tiny", {f"{name}_share": share for name, share in shares.items()}), images=False).split
    assert split.value_counts(normalize=True).to_dict() == pytest.approx(shares, abs=0.05)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 5), st.integers(1, 3), st.integers(0, 5), st.integers(0, 3))
def test_batches_deal_each_row_once_and_ranks_share_each_batch(rows, each, ranks, seed, epoch):
    size = each * ranks
    alone = Batches(np.arange(rows) * 3, size, seed)
    alone.least = 2 * ranks  # as in a run on so many ranks
    alone.set_epoch(epoch)
    shares = [Batches(np.arange(rows) * 3, size, seed, rank, ranks) for rank in range(ranks)]
    for share in shares:
        share.set_epoch(epoch)
    batches = [list(map(int, batch)) for batch in alone]
    together = [sorted(map(int, np.concatenate(parts))) for parts in zip(*shares, strict=True)]
    assert together == [sorted(batch) for batch in batches]
    dealt = sum(batches, [])
    assert len(dealt) == len(set(dealt)) and rows - len(dealt) < 2 * ranks
    assert all(len(batch) == size for batch in batches[:-1])


def test_evaluation_leaves_no_row_out():
    assert [list(batch) for batch in Batches(np.arange(5), 2, None)] == [[0, 1], [2, 3], [4]]


# --- one step ---


def a_batch(rows: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    targets = np.stack([rng.integers(0, size, rows) for size in SEVERAL.sizes], 1)
    return torch.from_numpy(rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)), torch.from_numpy(targets)


def a_learner(variant: str = "lim_ms_all", **more) -> Learner:
    torch.manual_seed(0)
    return Learner(create_model(variant, SEVERAL, "test_byobnet"), **({"learning_rate": 0.003} | more))


def test_new_layers_have_their_own_learning_rate():
    learner = a_learner(new_layers_factor=3.0, l2=0.05)
    groups = learner.configure_optimizers().param_groups
    assert [round(group["lr"], 6) for group in groups] == [0.003, 0.009, 0.009]
    assert [group["weight_decay"] for group in groups] == [0, 0, 0.1]
    names = {id(p): name for name, p in learner.model.named_parameters()}
    found = [{names[id(p)].split(".")[0] for p in group["params"]} for group in groups]
    assert found == [{"backbone"}, {"bl", "clim", "tlim", "fc"}, {"bl", "clim", "tlim", "fc"}]
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_a_frozen_backbone_stays_as_it_is_until_it_is_freed(project):
    first, then = (
        fit(load_config("tiny", frozen_epochs=1, max_epochs=epochs, out=f"runs/frozen-{epochs}"), progress=False)
        for epochs in (1, 2)
    )
    torch.manual_seed(0)
    untrained = create_model("bl", Tasks(TASKS), "test_byobnet").state_dict()
    one, two = load_file(first / "model.safetensors"), load_file(then / "model.safetensors")
    for name, value in untrained.items():
        moved = "backbone" not in name
        assert torch.equal(value, one[name]) != moved or name.endswith("bias"), name
    best = pd.read_csv(then / "history.csv")["val_oa"].idxmax()
    stem = "backbone.stem.conv.weight"
    assert torch.equal(two[stem], untrained[stem]) == (best == 0)


def test_balanced_class_weights_are_scikit_learns_and_weigh_the_training_loss_only():
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 200) for size in SEVERAL.sizes], 1)
    codes[codes[:, 2] == 3, 2] = -1  # a class without a row
    found = training.class_weights("balanced", SEVERAL, codes)
    for n in range(len(SEVERAL)):
        seen = codes[codes[:, n] >= 0, n]
        wanted = compute_class_weight("balanced", classes=np.unique(seen), y=seen)
        assert np.allclose(found[n, : len(wanted)], wanted), n
    given = training.class_weights({"tint": {"red": 3}}, SEVERAL, codes)
    assert given.tolist() == [[1, 1, 1, 1], [1, 1, 3, 1], [1, 1, 1, 1]]
    assert training.class_weights("", SEVERAL, codes) is None
    images, targets = a_batch()
    plain, weighted = a_learner("bl"), a_learner("bl", class_weights=given)
    one, other = gradients(plain, images, targets), gradients(weighted, images, targets)
    assert not torch.allclose(one["bl.kernel"], other["bl.kernel"])
    weighted.model.eval()
    wanted = torch.nn.functional.cross_entropy(
        weighted(images).logits["bl"][:, 1, :3], targets[:, 1], torch.tensor([1.0, 1.0, 3.0])
    )
    assert weighted.model.losses(weighted(images), targets)[0, 1].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_chain_begins_with_the_task_that_says_most_about_the_others():
    rng = np.random.default_rng(0)
    shade = rng.integers(0, 2, 400)
    tint, use = np.where(rng.random(400) < 0.5, shade, rng.integers(0, 3, 400)), shade + 2 * rng.integers(0, 2, 400)
    codes = np.stack([shade, tint, use], 1)
    scores = {
        task: np.mean([mutual_info_score(codes[:, a], codes[:, b]) for b in range(3) if b != a])
        for a, task in enumerate(SEVERAL)
    }
    assert training.chain_order(SEVERAL, codes) == sorted(scores, key=scores.get, reverse=True)
    codes[:, 1] = -1
    assert training.chain_order(SEVERAL, codes)[-1] == "tint"


@pytest.mark.parametrize("variant", ["bl", "lim_ms_all"])
def test_weight_decay_is_the_papers_penalty_under_adam(variant):
    """Adam on the data term with our optimizer = plain Adam on the data term + 1e-4 sum(w^2) of the softmax kernels."""
    ours = a_learner(variant, l2=0.05)
    plain = copy.deepcopy(ours)
    heads = [name for name in dict(plain.model.named_parameters()) if name.endswith("kernel")]
    assert len(heads) == {"bl": 1, "lim_ms_all": 4}[variant]
    optimizer, adam = ours.configure_optimizers(), torch.optim.Adam(plain.parameters(), lr=0.003)
    images, targets = a_batch()
    for _ in range(3):
        optimizer.zero_grad()
        ours.model.loss(ours(images), targets).backward()
        optimizer.step()
        adam.zero_grad()
        penalty = sum((plain.model.get_parameter(name) ** 2).sum() for name in heads)
        (plain.model.loss(plain(images), targets) + 0.05 * penalty).backward()
        adam.step()
    for (name, one), other in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def gradients(learner: Learner, images: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    learner.zero_grad()
    learner.on_train_epoch_start()
    learner.model.eval()  # batch normalisation mixes rows in training; the loss must not
    learner.training_step((images, targets), 0).backward()
    return {name: p.grad.clone() for name, p in learner.model.named_parameters()}


def test_one_loss_of_one_module_that_is_not_finite_is_enough(monkeypatch):
    learner = a_learner()
    monkeypatch.setattr(Learner, "current_epoch", 2)
    monkeypatch.setattr(Learner, "optimizers", lambda self: SimpleNamespace(param_groups=[{"lr": 0.1}]))
    learner.unseen = [(3, torch.tensor([[1.0, 1.0, 1.0], [1.0, math.nan, 1.0]]))]
    with pytest.raises(TrainingError, match="the loss of tint became nan at epoch 2, step 3"):
        learner._look()


def test_training_has_finished_after_so_many_epochs_without_a_better_one():
    learner = a_learner("bl")
    assert not learner.finished(40, 3)
    learner.history, learner.best = [{"epoch": 5}], {"epoch": 2}
    assert learner.finished(40, 3) and not learner.finished(40, 4) and learner.finished(6, 4)


def test_random_numbers_of_an_epoch_depend_on_its_number_and_the_seed(monkeypatch):
    drawn = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        learner = a_learner("bl")
        learner.seed = seed
        monkeypatch.setattr(Learner, "current_epoch", epoch)
        torch.rand(seed + epoch)  # whatever was drawn before
        learner.on_train_epoch_start()
        drawn[seed, epoch] = torch.rand(1).item()
        learner.on_train_epoch_start()
        assert torch.rand(1).item() == drawn[seed, epoch]
    assert len(set(drawn.values())) == 4


def test_rows_without_annotation_do_not_change_the_gradient():
    learner, (images, targets) = a_learner(), a_batch()
    targets[8:] = -1
    masked, without = gradients(learner, images, targets), gradients(learner, images[:8], targets[:8])
    for name in masked:
        torch.testing.assert_close(masked[name], without[name], rtol=1e-4, atol=1e-6)
    targets[8:] = 0
    assert not torch.allclose(gradients(learner, images, targets)["bl.kernel"], without["bl.kernel"], rtol=1e-2)


def test_a_task_that_no_row_is_annotated_for_gets_no_gradient():
    learner, (images, targets) = a_learner("bl"), a_batch()
    targets[:, 1] = -1
    found = gradients(learner, images, targets)["bl.kernel"].split(SEVERAL.sizes)
    assert (found[1] == 0).all() and all((found[n] != 0).any() for n in (0, 2))


# --- schedule, stopping, best weights ---


def test_history_is_what_the_schedule_and_early_stopping_say(long):
    """The learning rates and the last epoch worked out from the accuracies alone (section 3)."""
    folder, config = long
    history = pd.read_csv(folder / "history.csv")
    lr, best, bad, top, waited = config.learning_rate, -math.inf, 0, -math.inf, 0
    for row in history.itertuples():
        assert row.lr == pytest.approx(lr, rel=1e-12), f"epoch {row.epoch}"
        assert waited < config.stop_patience, "trained on after it should have stopped"
        waited, top = (0, row.val_oa) if row.val_oa > top else (waited + 1, top)
        bad, best = (0, row.val_oa) if row.val_oa > best + 1e-4 else (bad + 1, best)
        if bad > config.lr_patience:
            lr, bad = lr * config.lr_factor, 0
    assert waited == config.stop_patience or len(history) == config.max_epochs
    assert history["lr"].nunique() > 1 and len(history) < config.max_epochs, "this run was to show both"


def validation_loss(folder) -> float:
    """The sum over tasks of the mean cross-entropy of the probabilities that were written."""
    found, loss = pd.read_parquet(folder / "validation.parquet"), 0.0
    for task, names in TASKS.items():
        true = found[f"{task}:true"].dropna()
        columns = found.loc[true.index, [f"{task}:p:{name}" for name in names]].to_numpy()
        loss -= np.log(columns[np.arange(len(true)), true.map(names.index)]).mean()
    return loss


def test_the_kept_weights_are_those_of_the_best_epoch(long):
    """The validation loss, worked out from the probabilities that were written, tells the epoch."""
    folder, _ = long
    history, loss = pd.read_csv(folder / "history.csv"), validation_loss(folder)
    assert loss == pytest.approx(history["val_loss"][history["val_oa"].idxmax()], rel=1e-4)
    assert (history["val_loss"].sub(loss).abs() < 1e-3).sum() == 1, "else it could be any epoch"
    each = history[[f"val_oa:{task}" for task in TASKS]]
    assert np.allclose(each.mean(axis=1), history["val_oa"])
    assert np.allclose(history.filter(like="loss:bl:").sum(axis=1), history["train_loss"])


def test_class_weights_leave_the_loss_on_validation_as_it_is():
    weights = {"tint": {"red": 9}}
    folder = fit(load_config("tiny", class_weights=weights, max_epochs=1, out="runs/weighted"), progress=False)
    history = pd.read_csv(folder / "history.csv")
    assert validation_loss(folder) == pytest.approx(history["val_loss"].item(), rel=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one_with_depthwise_convolutions_too(monkeypatch):
    """Their weights lie in another order in memory, which must survive a checkpoint."""
    more = {"backbone": "test_efficientnet", "max_epochs": 3, "variant": "lim_ms_all", "new_layers_factor": 2.0}
    whole = fit(load_config("tiny", more, out="runs/whole"), progress=False)
    assert mtclim.learner.arrange(mtclim.load(whole), "cpu").layout == torch.channels_last
    step = Learner.training_step

    def interrupted(self, batch, index):
        if self.current_epoch == 1 and index == 2:
            raise ZeroDivisionError
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", interrupted)
    with pytest.raises(ZeroDivisionError):
        fit(load_config("tiny", more, out="runs/resumed"), progress=False)
    monkeypatch.setattr(Learner, "training_step", step)
    assert contents(fit(load_config("tiny", more, out="runs/resumed"), progress=False)) == contents(whole)


# --- variants and controls ---


def test_stc_is_n_networks_each_trained_and_stopped_for_its_own_task():
    folder = fit(load_config("tiny", variant="stc", max_epochs=3), progress=False)
    history = pd.read_csv(folder / "history.csv")
    assert list(history["network"].unique()) == list(TASKS)
    for task, rows in history.groupby("network"):
        assert np.allclose(rows["val_oa"], rows[f"val_oa:{task}"])
        assert rows[[f"val_oa:{other}" for other in TASKS if other != task]].isna().all(axis=None)
    weights = load_file(folder / "model.safetensors")
    networks = [{name.split(".", 2)[2] for name in weights if name.startswith(f"networks.{n}.")} for n in range(2)]
    assert networks[0] == networks[1] and sum(map(len, networks)) == len(weights)
    assert not torch.equal(
        weights["networks.0.backbone.stem.conv.weight"], weights["networks.1.backbone.stem.conv.weight"]
    )
    data, origin = prepare(load_config("tiny"), images=False), json.loads((folder / "provenance.json").read_text())
    rows, networks = (data.codes[data.rows("train")] >= 0).sum(0), origin["networks"]
    assert [network["steps"] for network in networks] == (rows // 16 + (rows % 16 >= 2)).tolist(), "annotated rows only"
    assert origin["steps_to_best"] == sum(network["steps"] * (network["best_epoch"] + 1) for network in networks)
    model = mtclim.load(folder)
    assert model.variant == "stc" and list(model.tasks) == list(TASKS)


@pytest.mark.parametrize("variant", [*CONTROLS, *RIVALS])
def test_controls_and_rivals_run_beside_the_twelve_and_load_as_they_were_written(variant):
    folder = fit(load_config("tiny", variant=variant, max_epochs=1), progress=False)
    answers, model = pd.read_parquet(folder / "predictions.parquet"), mtclim.load(folder)
    assert folder.parent.name == variant == model.variant
    pixels = np.stack([decode(image, model.image_size) for image in answers["image"]])
    with torch.inference_mode():
        out = model(normalised(pixels, model))
    for task, names in TASKS.items():
        written = answers[[f"{task}:p:{name}" for name in names]].to_numpy()
        np.testing.assert_allclose(out.probabilities[task].numpy(), written, atol=2e-5)


def test_another_order_inside_the_model_gives_results_by_the_same_names():
    ours, folder = (fit(load_config("tiny", variant="lim_ms_all", order_seed=k), progress=False) if not k else
                    fit(load_config("tiny", variant="lim_ms_all", order_seed=k, out="runs/order"), progress=False)
                    for k in (0, 2))  # fmt: skip
    one, other = (pd.read_parquet(run / "predictions.parquet") for run in (ours, folder))
    assert list(one) == list(other) and one["image"].equals(other["image"])
    model = mtclim.load(folder)
    assert list(model.tasks) != list(TASKS) or model.tasks["tint"] != tuple(TASKS["tint"])
    pixels = np.stack([decode(image, model.image_size) for image in other["image"]])
    with torch.inference_mode():
        out = model(normalised(pixels, model))
    for task, names in model.tasks.items():
        for k, name in enumerate(names):
            np.testing.assert_allclose(out.probabilities[task][:, k], other[f"{task}:p:{name}"], atol=2e-5)


# --- several processes ---


def test_two_processes_train_the_network_that_one_does(project):
    """Without batch normalisation the averaged gradients of two halves are the whole batch's, but for rounding."""
    frame = pd.read_csv(
        project / "table.csv", dtype=str
    ).dropna()  # complete, so that the halves of a batch weigh the same
    frame.to_csv(project / "complete.csv", index=False)
    more = {"backbone": "test_vit", "image_size": 160, "keep": 1, "learning_rate": 3e-4, "data": "complete.csv"}
    rows = len(prepare(load_config("tiny", more), images=False).rows("train"))
    more["batch_size"] = next(b for b in range(8, rows, 2) if rows % b < 2 or (rows % b >= 4 and rows % b % 2 == 0))
    pairs = [f"{name}={value}" for name, value in more.items()]
    process = start(
        project, "-m", "mtclim", "train", "--config", "tiny", "--out", "runs/two", "--devices", "2", "--set", *pairs
    )
    shown, _ = process.communicate(timeout=300)
    assert process.returncode == 0, shown
    assert shown.count(f"{project}/runs/two\n") == 1, "only the first process reports"
    one, two = fit(load_config("tiny", more, out="runs/one"), progress=False), project / "runs" / "two"
    ours, theirs = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    torch.manual_seed(0)
    untrained = create_model("bl", Tasks(TASKS), "test_vit").state_dict()
    assert ours.keys() == theirs.keys() == untrained.keys()
    for name in ours.keys() - {f"backbone.blocks.{i}.attn.qkv.bias" for i in range(6)}:  # keys' biases have no gradient
        assert (ours[name] - theirs[name]).norm() < 1e-3 * (theirs[name] - untrained[name]).norm(), name
    first, second = (pd.read_csv(folder / "history.csv").drop(columns="network") for folder in (one, two))
    np.testing.assert_allclose(first, second, rtol=1e-3)


# --- bad input, before any training ---


def spoil(frame: pd.DataFrame, how: str) -> pd.DataFrame:
    frame = frame.copy()
    if how == "unknown class":
        frame.loc[4, "tint"] = "purple"
    elif how == "duplicate image":
        frame.loc[7, "image"] = frame.loc[3, "image"]
    elif how == "nothing annotated":
        frame[["shade", "tint"]] = ""
    elif how == "no such image":
        frame.loc[5, "image"] = "images/none.png"
    elif how == "unreadable images":
        for i in range(0, 60, 2):
            frame.loc[i, "image"] = f"images/torn-{i}.png"
            with open(f"images/torn-{i}.png", "wb") as file:
                file.write(b"\x89PNG\r\n\x1a\n torn")
    return frame


BAD = {
    "unknown class": ["column 'tint'", "row 5 (line 6)", "'purple'", "'blue', 'green', 'red'"],
    "duplicate image": ["column 'image'", "row 4 (line 5)", "row 8 (line 9)", "one row an image"],
    "nothing annotated": ["column 'shade'", "no row has a label"],
    "an unknown backbone": ["backbone: found 'resnet999'"],
    "no such image": ["column 'image'", "row 6 (line 7)", "images/none.png", "no such file"],
    "unreadable images": ["images cannot be read", "images/torn-", "max_unreadable"],
    "missing table": ["no such file", "absent.csv"],
}


@pytest.mark.parametrize("how", BAD)
def test_bad_input_is_one_clear_error_and_nothing_is_written(how, tmp_path, monkeypatch, capsys):
    from mtclim.__main__ import main

    frame = pd.read_csv("table.csv", dtype=str, keep_default_na=False)
    table = "absent.csv" if how == "missing table" else "bad.csv"
    if how != "missing table":
        spoil(frame, how).to_csv(table, index=False)
    (tasks := tmp_path / "tasks.yaml").write_text("shade: [dark, light]\ntint: [blue, green, red]\n")
    monkeypatch.setattr(training, "_networks", lambda *_: pytest.fail("training was started"))
    given = ["--config", "tiny", "--data", table, "--tasks", str(tasks), "--out", str(tmp_path / "deep" / "run")]
    given += ["--backbone", "resnet999"] if how == "an unknown backbone" else []
    status = main(["train", *given])
    shown = capsys.readouterr()
    message = shown.err.strip().splitlines()[-1]
    assert status == 2 and shown.out == "" and message.startswith("mtclim train: ")
    assert all(part in message for part in BAD[how]), message
    assert "Traceback" not in shown.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tasks.yaml"], "something was written"


def test_devices_are_counted_from_one():
    with pytest.raises(ValueError, match="devices: found 0"):
        mtclim.fit(mtclim.load_config("demo"), devices=0)
