"""The plan of the city: counts, places, neighbours, annotations."""

import time

import numpy as np
import pandas as pd
import pytest

from mtclim import SANTIAGO
from mtclim.city.joint import ROOF_POSITION, allocate, calibration, joint
from mtclim.city.plan import AFFINITY, CRS, DENSITY, MUNICIPALITIES, ZONES, plan
from mtclim.data.labels import partition

TASKS = list(SANTIAGO)


@pytest.fixture(scope="module")
def demo():
    return plan(8_000, 5_000, seed=1)


@pytest.fixture(scope="module")
def paper():
    return plan()


def zones(city):
    return city.facades["block"].map(city.cells.set_index("block")["zone"])


def test_paper_size(paper):
    facades = paper.facades
    assert len(facades) == 204_030 and facades["labelled"].sum() == 29_567
    assert facades["block"].nunique() > 3_000 and facades["municipality"].nunique() > 20
    known = facades[facades["labelled"]]
    table = calibration(known)
    assert table["difference"].abs().max() < 0.003
    sets = joint()
    counts = known.groupby(TASKS, observed=True).size()
    want = pd.Series(allocate(sets["p"], 29_567), pd.MultiIndex.from_frame(sets[TASKS]))
    assert counts.sort_index().to_dict() == want[want > 0].sort_index().to_dict()


def test_paper_size_is_fast_and_small():
    start = time.perf_counter()
    city = plan(seed=5)
    assert len(city.blocks) > 3_000 and time.perf_counter() - start < 60
    assert city.facades.memory_usage(deep=True).sum() < 2e8


def test_columns_and_order(demo):
    facades = demo.facades
    assert list(facades.columns) == [
        "id", "lon", "lat", "x", "y", "block", "municipality", "street", "street_seed", *TASKS, "labelled"
    ]  # fmt: skip
    assert facades["id"].tolist() == list(range(8_000)) and facades["labelled"].sum() == 5_000
    assert facades["block"].is_monotonic_increasing and not facades.isna().any().any()
    for task in TASKS:
        assert list(facades[task].cat.categories) == list(SANTIAGO[task]) and facades[task].cat.ordered
    sizes = facades.groupby("block").size()
    assert 200 < len(sizes) < 1_000 and 10 <= sizes.mean() <= 25
    assert 8 <= facades[facades["labelled"]].groupby("block").size().mean() <= 25
    assert facades.groupby("street_seed")["block"].nunique().max() == 1  # a side of a block, so no split shares it
    assert facades.groupby("block")["street_seed"].nunique().max() <= 4


def test_deterministic_and_geometry_keeps_still(demo):
    again = plan(8_000, 5_000, seed=1)
    pd.testing.assert_frame_equal(demo.facades, again.facades)
    weak = plan(8_000, 5_000, seed=1, interdependency=0.0)
    pd.testing.assert_frame_equal(demo.cells, weak.cells)
    assert np.array_equal(demo.nodes, weak.nodes) and not demo.facades["sbst"].equals(weak.facades["sbst"])
    other = plan(8_000, 5_000, seed=2)
    assert not np.array_equal(demo.nodes, other.nodes)


def test_polygons(demo):
    import shapely

    blocks, towns, streets = demo.blocks, demo.municipalities, demo.streets
    for layer in (blocks, towns, streets):
        assert layer.crs == CRS and layer.is_valid.all() and not layer.is_empty.any()
        assert set(layer.geom_type) <= {"Polygon", "MultiPolygon"}
    assert blocks["facades"].sum() == towns["facades"].sum() == 8_000
    assert blocks["annotated"].sum() == towns["annotated"].sum() == 5_000
    assert shapely.union_all(blocks.geometry).area == pytest.approx(blocks.area.sum())  # no overlap
    assert shapely.union_all(towns.geometry).area == pytest.approx(towns.area.sum())
    home = towns.set_index("municipality").geometry.reindex(blocks["municipality"]).to_numpy()
    assert shapely.covers(shapely.buffer(home, 0.01), blocks.geometry.to_numpy()).all()
    facades = demo.facades
    points = shapely.points(facades[["x", "y"]].to_numpy())
    edge = shapely.boundary(blocks.set_index("block").geometry.reindex(facades["block"]).to_numpy())
    assert shapely.distance(points, edge).max() < 1e-6  # on the edge of its block
    street = streets.set_index("street").geometry.reindex(facades["street"]).to_numpy()
    gap = shapely.distance(points, street)
    assert gap.max() < 15 and np.median(gap) < 8  # facing its street
    assert set(towns["municipality"]) <= set(MUNICIPALITIES) and (streets["length"] > 30).all()


def test_footprints_stand_behind_their_facades(demo):
    import shapely

    footprints = demo.footprints
    assert footprints.crs == CRS and footprints.is_valid.all() and footprints["building"].tolist() == list(range(8_000))
    assert shapely.union_all(footprints.geometry).area == pytest.approx(footprints.area.sum())  # no overlap
    points = shapely.points(demo.facades[["x", "y"]].to_numpy())
    assert shapely.distance(points, footprints.boundary.to_numpy()).max() < 1e-6
    blocks = demo.blocks.set_index("block").geometry.reindex(footprints["block"]).to_numpy()
    assert shapely.covers(shapely.buffer(blocks, 0.01), footprints.geometry.to_numpy()).all()


def test_cameras_see_their_facade(demo):
    """From the street, outside every building, the bearing leads to the façade; most see nothing before it."""
    import shapely

    cameras, footprints = demo.cameras(2), demo.footprints
    pd.testing.assert_frame_equal(demo.cameras(), cameras.iloc[:8_000])
    facades = demo.facades.loc[cameras["building"], ["x", "y"]].to_numpy()
    reach = np.hypot(*(facades - cameras.get_coordinates().to_numpy()).T)
    assert 3 <= reach.min() and reach.max() < 8
    angle = np.radians(cameras["bearing"].to_numpy())
    ahead = cameras.get_coordinates().to_numpy() + reach[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    np.testing.assert_allclose(ahead, facades, atol=1e-6)
    assert not len(footprints.sindex.query(cameras.geometry, predicate="within")[0])
    place = cameras.get_coordinates().to_numpy()
    rays = np.stack([place, place + 0.99 * (facades - place)], axis=1)
    assert len(footprints.sindex.query(shapely.linestrings(rays), predicate="intersects")[0]) < 0.01 * len(rays)


def test_coordinates(demo):
    from pyproj import Transformer

    facades = demo.facades
    x, y = Transformer.from_crs("EPSG:4326", CRS, always_xy=True).transform(facades["lon"], facades["lat"])
    np.testing.assert_allclose(x, facades["x"], atol=1e-3)
    np.testing.assert_allclose(y, facades["y"], atol=1e-3)
    assert facades["lon"].between(-3.2, -2.8).all() and facades["lat"].between(-30.2, -29.8).all()  # open ocean


def test_facades_stand_in_order_along_the_edge(demo):
    """Successive façades of a block are nearer to each other than two façades of it are on average."""
    facades = demo.facades
    same = (facades["block"].to_numpy()[1:] == facades["block"].to_numpy()[:-1]).nonzero()[0]
    step = np.hypot(np.diff(facades["x"]), np.diff(facades["y"]))[same]
    spread = facades.groupby("block")[["x", "y"]].transform("std").mean(axis=1)
    assert np.median(step) < 0.6 * spread.median()


@pytest.mark.parametrize("interdependency", [0.0, 1.0])
def test_classes_are_where_the_paper_has_them(interdependency):
    city = plan(20_000, 5_000, interdependency=interdependency)
    facades, zone = city.facades, zones(city)
    share = pd.crosstab(facades["sbst"], zone, normalize="index")
    assert (zone[facades["mat_llrs"] == "COM3"] == "business").all()
    assert share.loc["MUR_H2-3"].idxmax() == "core" and share.loc["MUR_H1", ["core", "ring"]].sum() > 0.5
    for name in ("MR_H1-2", "MR_H3-4", "W,UNK_H1-2", "MCF_H1-2"):
        assert share.loc[name].idxmax() == "periphery"
    for name in ("CR_H5-7", "CR_H8-12", "CR_H13+"):
        assert share.loc[name, ["northeast", "business"]].sum() > 0.5 and share.loc[name, "periphery"] < 0.2
    tall = facades["height"].isin(["H8-12", "H13+"])
    assert (facades.loc[tall, ["x", "y"]].mean() > facades[["x", "y"]].mean()).all()  # north-east of the rest


def test_neighbours_resemble_each_other(demo):
    from sklearn.neighbors import KNeighborsClassifier

    facades = demo.facades
    for task in TASKS:
        label = facades[task].to_numpy()
        chance = (facades[task].value_counts(normalize=True) ** 2).sum()
        assert (label[1:] == label[:-1]).mean() > chance + 0.25
    rng = np.random.default_rng(0)
    place, label = facades[["x", "y"]], facades["sbst"].astype(str)
    blocks = facades["block"].unique()
    splits = {
        "random": rng.random(len(facades)) < 0.3,
        "blocks": facades["block"].isin(rng.choice(blocks, int(0.3 * len(blocks)), replace=False)).to_numpy(),
    }
    nearest = {
        name: KNeighborsClassifier(1).fit(place[~test], label[~test]).score(place[test], label[test])
        for name, test in splits.items()
    }
    assert nearest["random"] > nearest["blocks"] + 0.2


def test_annotated_facades_can_be_partitioned_by_block(demo):
    known = demo.facades[demo.facades["labelled"]]
    split = partition(known[TASKS], known["block"], seed=0)
    assert pd.crosstab(known["block"].to_numpy(), split.to_numpy()).gt(0).sum(axis=1).max() == 1
    np.testing.assert_allclose(
        split.value_counts(normalize=True)[["train", "val", "test"]], [0.65, 0.175, 0.175], atol=0.02
    )
    for task in TASKS:
        assert known.loc[split[split == "train"].index, task].nunique() == len(SANTIAGO[task])


def test_annotations_without_gaps_or_noise(demo):
    written = demo.annotations()
    labelled = demo.facades["labelled"]
    assert list(written.columns) == TASKS and written[~labelled].isna().all().all()
    pd.testing.assert_frame_equal(written[labelled], demo.facades.loc[labelled, TASKS])


def test_noise_and_missing(demo):
    truth, labelled = demo.facades, demo.facades["labelled"]
    written = demo.annotations(noise=0.1)
    pd.testing.assert_frame_equal(written, demo.annotations(noise=0.1))
    gaps = demo.annotations(missing=0.3, noise=0.1)
    for task in TASKS:
        assert gaps.loc[labelled, task].isna().mean() == pytest.approx(0.3, abs=0.03)
        known = gaps[task].notna()
        assert (gaps.loc[known, task] == written.loc[known, task]).all()
    for task in ("height", "mat_llrs", "roof_shape", "block_position"):
        wrong = written.loc[labelled, task].astype(str) != truth.loc[labelled, task].astype(str)
        assert wrong.mean() == pytest.approx(0.1, abs=0.02) and written.loc[labelled, task].notna().all()
    complete = written.dropna()
    table = joint().set_index(["height", "mat_llrs"])["sbst"].groupby(level=[0, 1], observed=True).first()
    want = [table[pair] for pair in zip(complete["height"], complete["mat_llrs"], strict=True)]
    assert complete["sbst"].tolist() == want  # KeyError would be a structural zero
    steps = (written["height"].cat.codes - truth["height"].cat.codes)[labelled].abs()
    assert set(steps) == {0, 1}


def test_all_wrong_and_all_missing(demo):
    labelled = demo.facades["labelled"]
    wrong = demo.annotations(noise=1.0)[labelled]
    for task in ("height", "mat_llrs", "roof_shape", "block_position"):
        assert (wrong[task].astype(str) != demo.facades.loc[labelled, task].astype(str)).all()
    assert demo.annotations(missing=1.0).isna().all().all()


@pytest.mark.parametrize(("facades", "labelled"), [(1, 1), (7, 3), (60, 40), (500, 500), (1_200, 100)])
@pytest.mark.parametrize("interdependency", [0.0, 1.0])
def test_small_cities(facades, labelled, interdependency):
    city = plan(facades, labelled, seed=3, interdependency=interdependency)
    assert len(city.facades) == facades and city.facades["labelled"].sum() == labelled
    assert np.isfinite(city.facades[["lon", "lat"]]).all().all()
    assert city.blocks.is_valid.all() and city.municipalities.is_valid.all() and city.streets.is_valid.all()
    assert (zones(city)[city.facades["mat_llrs"] == "COM3"] == "business").all()
    assert city.annotations(noise=0.5, missing=0.2).shape == (facades, 5)


def test_constants_agree():
    assert set(AFFINITY.index) == set(SANTIAGO["sbst"]) and len(DENSITY) == len(ZONES) == AFFINITY.shape[1]
    assert ROOF_POSITION.shape == (3, 5)
