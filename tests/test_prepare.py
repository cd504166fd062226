"""From a table to data: the user's own split, pictures that occur twice, and what is too little to learn from."""

import numpy as np
import pandas as pd
import pytest
from tiny import TASKS, make_project

import mtclim
from mtclim import load_config, prepare
from mtclim.data.table import TableError, grid_blocks
from mtclim.prepare import SPLITS


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = make_project(tmp_path / "project", max_epochs=1)
    monkeypatch.chdir(folder)
    return folder


def prepared(frame: pd.DataFrame, **settings) -> prepare.Data:
    frame.to_csv("mine.csv", index=False)
    return prepare.prepare(load_config("tiny", data="mine.csv", **settings))


def table() -> pd.DataFrame:
    return pd.read_csv("table.csv", dtype=str)


def in_thirds(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(split=np.resize(["train", "train", "val", "test"], len(frame)))


def test_a_split_of_ones_own_is_used_and_only_its_training_rows_are_balanced(project):
    frame = in_thirds(table())
    data = prepared(frame, keep=0.6)
    assert (frame["split"].iloc[data.split.index] == data.split.astype(str).to_numpy()).all()
    before, after = frame["split"].value_counts(), data.split.astype(str).value_counts()
    assert after["val"] == before["val"] and after["test"] == before["test"]
    labelsets = frame[frame["split"] == "train"].groupby(["shade", "tint"]).size()
    assert after["train"] == np.minimum(labelsets, mtclim.data.labels.cutoff(labelsets, 0.6)).sum()
    assert "'split' is used" in " ".join(data.notes) and "not disjoint" not in " ".join(data.notes)
    frame.loc[[2, 3], "split"] = ["test", "val"]
    assert "2 of 12 blocks have rows in more than one split: it is not disjoint in space" in " ".join(
        prepared(frame).notes
    )
    assert len(prepared(frame, use_split=False).split) == len(frame)


def test_a_split_without_validation_is_refused(project):
    with pytest.raises(TableError, match="no row is left for val: .*Name such rows in the column split, or set"):
        prepared(table().assign(split=np.resize(["train", "test"], 120)))


def test_the_same_picture_under_several_names_stays_in_one_split(project):
    frame = table()
    names = [f"images/copy-{i}.png" for i in range(6)]
    for i, name in enumerate(names):  # each a copy of a picture of another block, so that blocks are joined by them
        (project / name).write_bytes((project / f"images/{i}.png").read_bytes())
    copies = frame.head(6).assign(image=names, block=[f"b{(i + 3) % 12}" for i in range(6)])
    copies.loc[0, "shade"] = {"dark": "light", "light": "dark"}[frame.loc[0, "shade"]]
    data = prepared(pd.concat([frame, copies]))
    split = pd.Series(data.split.astype(str).to_numpy(), data.table.frame["image"].iloc[data.split.index])
    assert all(split[f"images/{i}.png"] == split[name] for i, name in enumerate(names))
    assert pd.crosstab(data.blocks, data.split.astype(str)).gt(0).sum(axis=1).eq(1).all(), "blocks stay whole"
    said = " ".join(data.notes)
    assert "Pictures that occur several times: 6 (12 rows, the same or nearly the same); each in one split" in said
    assert "Contradictory labels of one picture: images/0.png, images/copy-0.png (shade " in said
    data = prepared(in_thirds(pd.concat([frame, copies.iloc[::-1]])))
    apart = sum(data.split.loc[i] != data.split.loc[125 - i] for i in range(6))
    assert apart and f"{apart} of them stand in more than one split: scores come out too high" in " ".join(data.notes)


def test_without_blocks_the_same_picture_stays_together_too(project):
    frame = table().drop(columns="block")
    (project / "images/copy.png").write_bytes((project / "images/0.png").read_bytes())
    data = prepared(pd.concat([frame, frame.head(1).assign(image="images/copy.png")], ignore_index=True))
    assert data.blocks is None and data.split.loc[0] == data.split.loc[120]


def test_the_photographs_of_a_building_stay_in_one_split(project):
    frame = table().assign(building=[f"house {i // 3}" if i > 8 else "" for i in range(120)])
    for with_blocks in (frame, frame.drop(columns="block")):  # every building lies in three blocks
        data = prepared(with_blocks)
        assert (data.split.groupby(frame["building"].iloc[data.split.index]).nunique()[1:] == 1).all()
        assert data.split.value_counts().min() > 5 and not any("disjoint" in note for note in data.notes)
    assert (data.blocks is None) and prepared(frame).blocks.iloc[9:12].nunique() == 1
    notes = prepared(in_thirds(frame.drop(columns="block")).iloc[9:]).notes
    assert "37 of 37 buildings have rows in more than one split: it is not disjoint in space." in notes


def test_one_training_row_is_too_few(project):
    with pytest.raises(TableError, match="found one training row; expected two or more"):
        prepared(table().head(3).assign(split=["train", "val", "test"]))


def test_blocks_of_coordinates_have_the_size_that_is_set(project):
    rng = np.random.default_rng(0)
    frame = table().drop(columns="block").assign(lon=rng.uniform(-70.6, -70.5, 120), lat=rng.uniform(-33.5, -33.4, 120))
    data = prepared(frame, block_cell=900.0)
    assert data.blocks.tolist() == grid_blocks(frame["lon"], frame["lat"], 900.0)[data.split.index].tolist()


def test_a_picture_that_cannot_be_read_is_in_no_split_and_not_counted(project):
    (project / "images/3.png").write_bytes(b"torn")
    data = prepared(table())
    used = np.concatenate([data.rows(split) for split in SPLITS])
    assert len(used) == 119 and 3 not in data.split.index[used]
    assert (data.counts().groupby("task")[list(SPLITS)].sum().sum(axis=1) == 119).all()


def test_the_counts_are_pandas_own(project):
    frame = table()
    frame.loc[frame.index % 3 == 0, "tint"] = ""
    data = prepared(frame)
    counts = data.counts().set_index(["task", "class"])
    chosen = frame.iloc[data.split.index].assign(split=data.split.astype(str))
    for task, names in TASKS.items():
        wanted = pd.crosstab(chosen[task], chosen["split"])
        assert counts.loc[task].equals(wanted.loc[names, list(SPLITS)].rename_axis(None, axis=1)[list(SPLITS)]) or (
            (counts.loc[task].to_numpy() == wanted.loc[names, list(SPLITS)].to_numpy()).all()
        )


@pytest.fixture
def scarce(project):
    """A task that is annotated in training and test rows only, one of its classes in training alone."""
    frame = in_thirds(table())
    frame.loc[frame["split"] == "val", "tint"] = ""
    frame.loc[(frame["split"] == "test") & (frame["tint"] == "red"), "tint"] = "blue"
    return frame


def test_what_is_too_little_is_named_and_trained_all_the_same(scarce):
    data = prepared(scarce)
    said = " ".join(data.notes)
    assert "tint: no validation row; early stopping leaves it out" in said
    assert "No test row of tint: red; its scores are empty" in said
    run = mtclim.fit(load_config("tiny", data="mine.csv"), progress=False)
    history = pd.read_csv(run / "history.csv")
    assert history["val_oa:tint"].isna().all() and np.allclose(history["val_oa"], history["val_oa:shade"])


def test_stc_says_that_a_network_of_its_own_could_not_be_stopped(scarce):
    with pytest.raises(TableError, match=r"'tint': found .* \(validation: 0, .*expected at least 2 \(1\) with stc"):
        prepared(scarce, variant="stc")


def test_a_task_without_a_training_row_is_refused(scarce):
    scarce["tint"] = ""
    scarce.loc[scarce.index[scarce["split"] == "test"][:2], "tint"] = ["blue", "red"]
    with pytest.raises(TableError, match=r"column 'tint': found 0 annotated training rows \(validation: 0, test: 2"):
        prepared(scarce)


def test_settings_that_do_not_fit_are_refused_before_an_image_is_read(project, monkeypatch):
    monkeypatch.setattr(prepare, "open_store", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(ValueError, match="backbone: found 'resnet999'"):
        prepared(table(), backbone="resnet999")
    for weights, part in (({"tint": {"pink": 2}}, "'tint': pink; expected one of"), ({"hue": {"red": 2}}, "'hue'")):
        with pytest.raises(ValueError, match=f"class_weights: found {part}"):
            prepared(table(), class_weights=weights)
