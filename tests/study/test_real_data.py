"""Real photographs and real labels, where they are at hand: what is read is what pandas alone counts in the files."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtclim import TableError, cooccurrence, load_config, lprus, partition, read_table
from mtclim.data import labels
from mtclim.data.images import open_store
from mtclim.prepare import prepare

SHARED = os.environ.get("MTCLIM_SHARED_DATA", "")
FACADES, MEDELLIN = Path(SHARED, "facades", "labels.csv"), Path(SHARED, "medellin", "Raw_Data_Information.csv")
pytestmark = pytest.mark.skipif(
    not (SHARED and FACADES.is_file() and MEDELLIN.is_file()),
    reason="MTCLIM_SHARED_DATA does not name a folder with facades/ and medellin/",
)
MATERIALS = ["brick", "rustication", "siding", "stucco", "metal", "wood"]
TASKS = {"city": ["nyc", "tokyo", "zurich"]} | {material: ["no", "yes"] for material in MATERIALS}


def raw(path: Path) -> pd.DataFrame:
    """The file as text: nothing interpreted but the one "NaN" that stands for a missing storey; an empty cell is ''."""
    return pd.read_csv(path, dtype=str, keep_default_na=False).replace("NaN", "")


def by_hand(frame: pd.DataFrame, keep: float) -> tuple[int, int]:
    """LPRUS' cut-off and the number of rows kept, by counting upwards."""
    sizes = frame.value_counts(dropna=False)
    cut = next(c for c in range(1, len(frame) + 1) if sizes.clip(upper=c).sum() >= keep * len(frame))
    return cut, int(sizes.clip(upper=cut).sum())


def same_as_crosstab(matrix: pd.DataFrame, frame: pd.DataFrame) -> None:
    """Every block of the matrix against pandas' own cross table of the rows annotated in both tasks."""
    for a in frame:
        for b in frame:
            both = frame[(frame[a] != "") & (frame[b] != "")]
            if a == b or both.empty:
                continue
            table = pd.crosstab(both[a], both[b], normalize="index")
            ours = matrix.loc[[f"{a}:{x}" for x in table.index], [f"{b}:{y}" for y in table.columns]]
            np.testing.assert_allclose(ours, table, atol=1e-12)


@pytest.fixture(scope="module")
def facades():
    return read_table(FACADES, TASKS)


@pytest.fixture(scope="module")
def medellin():
    return read_table(MEDELLIN, require_images=False)


# --- 971 photographs, seven tasks, labels missing city by city, no coordinates ---


def test_facades_are_read_as_they_stand(facades):
    file = raw(FACADES)
    assert len(facades.frame) == len(file) == 971 and not facades.has_coordinates
    for task, names in TASKS.items():
        for name in names:
            assert (facades.frame[task] == name).sum() == (file[task] == name).sum() > 0
        assert facades.frame[task].isna().sum() == (file[task] == "").sum()
    assert (facades.codes == -1).sum() == (file[list(TASKS)] == "").sum().sum() > 1500


def test_facades_cooccurrence_counts_rows_annotated_in_both(facades):
    matrix = cooccurrence(facades.labels)
    same_as_crosstab(matrix, raw(FACADES)[list(TASKS)])
    assert matrix.loc["siding:yes", ["metal:no", "metal:yes"]].isna().all(), "never annotated together"


def test_facades_are_balanced_and_split_without_blocks(tmp_path):
    tasks = tmp_path / "tasks.yaml"
    tasks.write_text("\n".join(f"{task}: [{', '.join(map(repr, names))}]" for task, names in TASKS.items()))
    data = prepare(load_config("demo", data=FACADES, tasks=tasks), images=False)
    assert data.blocks is None and not load_config("demo", data=FACADES).synthetic
    assert len(data.split) == data.kept.sum() == by_hand(raw(FACADES)[list(TASKS)], 0.85)[1]
    shares = data.split.value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.65, "val": 0.175, "test": 0.175}, abs=0.01)


def test_facades_without_a_yaml_take_remarks_for_tasks_but_never_paths():
    table = read_table(FACADES)
    assert set(table.tasks) == set(TASKS) | {"unlabelled", "other"} and table.tasks["siding"] == ("no", "yes")


def test_facade_photographs_are_decoded_into_another_folder(facades, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in FACADES.parent.iterdir()}
    store = open_store(facades.paths, 16, tmp_path / "cache", progress=False)
    assert store.images.shape == (971, 16, 16, 3) and store.readable.all()
    assert store.images.reshape(971, -1).std(axis=1).min() > 1, "no picture is blank"
    assert {path.name: path.stat().st_mtime_ns for path in FACADES.parent.iterdir()} == before


# --- 9,989 labels of buildings: decimal commas, a trailing space in a name, one storey missing, no photographs ---


def test_medellin_labels_are_read_in_spite_of_their_traps(medellin):
    file = raw(MEDELLIN)
    assert "typology " in file.columns and list(medellin.tasks) == ["typology", "stories", "Economic_Stratum"]
    assert len(medellin.frame) == len(file) == 9989
    assert medellin.labels["typology"].value_counts().to_dict() == file["typology "].value_counts().to_dict()
    for ours, theirs in (("lon", "longitude"), ("lat", "latitude")):
        assert file[theirs].str.contains(",").any()
        assert medellin.frame[ours].tolist() == file[theirs].str.replace(",", ".").astype(float).tolist()
    storeys = file["stories"].replace("", np.nan).astype(float)
    assert medellin.tasks["stories"] == tuple(str(int(n)) for n in sorted(storeys.dropna().unique()))
    assert (
        np.flatnonzero(medellin.frame["stories"].isna()).tolist() == np.flatnonzero(storeys.isna()).tolist() == [8038]
    )


def test_medellin_labels_are_no_photographs():
    with pytest.raises(TableError, match=r"column 'image': no such file at row 1 \(line 2\).*9989 rows in all"):
        read_table(MEDELLIN)


def test_a_class_that_medellins_tasks_lack_is_named_with_column_and_row():
    tasks = {"typology": ["CR/LFINF/DUC", "CR/LFINF/DNO"], "stories": [str(n) for n in range(1, 37)]}
    with pytest.raises(TableError, match=r"column 'typology': unknown class .* row 2 \(line 3\): 'MUR/LWAL/DNO'"):
        read_table(MEDELLIN, tasks, require_images=False)


def test_medellin_cooccurrence(medellin):
    matrix = cooccurrence(medellin.labels)
    same_as_crosstab(matrix, raw(MEDELLIN).rename(columns=str.strip)[list(medellin.tasks)])
    storeys = matrix.loc["typology:MUR/LWAL/DNO"].filter(like="stories:")
    assert storeys[[f"stories:{n}" for n in range(1, 4)]].sum() > 0.9, "masonry without reinforcement is low"


def test_medellin_is_balanced_to_85_percent(medellin):
    cut, rows = by_hand(raw(MEDELLIN).rename(columns=str.strip)[list(medellin.tasks)], 0.85)
    kept = lprus(medellin.labels, 0.85, seed=0)
    assert labels.cutoff(labels.labelsets(medellin.labels)[":count"], 0.85) == cut
    assert kept.sum() == rows >= 0.85 * 9989
    assert medellin.labels[kept].value_counts(dropna=False).max() == cut


def test_medellin_is_split_in_blocks_of_500_metres(medellin):
    kept = medellin.frame[lprus(medellin.labels, 0.85, seed=0)]
    blocks = medellin.blocks(500)[kept.index]
    split = partition(kept[list(medellin.tasks)], blocks, seed=0)
    assert split.groupby(blocks).nunique().max() == 1
    shares = split.value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.65, "val": 0.175, "test": 0.175}, abs=0.015)
    for name, rows in kept["typology"].value_counts().items():
        if rows >= 200:
            assert (split[kept["typology"] == name] == "train").mean() == pytest.approx(0.65, abs=0.05), name


def test_medellins_blocks_are_500_metres_in_a_projection(medellin):
    geopandas = pytest.importorskip("geopandas")
    points = geopandas.GeoSeries.from_xy(medellin.frame["lon"], medellin.frame["lat"], crs=4326).to_crs(32618)
    blocks = medellin.blocks(500)
    extent = pd.DataFrame({"x": points.x, "y": points.y}).groupby(blocks).agg(["min", "max"])
    assert ((extent["x"]["max"] - extent["x"]["min"]) <= 500).all() and (
        (extent["y"]["max"] - extent["y"]["min"]) <= 500
    ).all()
    assert blocks.nunique() == len(set(zip(points.x // 500, points.y // 500, strict=True)))
