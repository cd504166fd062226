"""The city's joint distribution of labels against the sentences it has to make true."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from mtclim import SANTIAGO
from mtclim.city import joint as J
from mtclim.data.labels import cooccurrence, lprus

TASKS = list(SANTIAGO)
LEVELS = np.linspace(0, 1, 6)
LOW = {"H1", "H2", "H3-4"}
ALLOWED = {
    **{material: LOW for material in ("MUR", "MCF", "MR")},
    **{material: set(SANTIAGO["height"]) for material in ("CR", "COM1,2,IND")},
    "W,UNK": {"H1", "H2"},
    "COM3": {"H8-12", "H13+"},
}


def images(interdependency=1.0, total=J.LABELLED):
    sets = J.joint(interdependency)
    return sets[TASKS].loc[np.repeat(sets.index, J.allocate(sets["p"], total))].reset_index(drop=True)


@pytest.fixture(scope="module")
def labels():
    return images()


def majority(labels, condition, task):
    """Classes of a task among the rows that meet the condition, most frequent first."""
    return list(labels.loc[condition, task].value_counts().index)


def test_table_is_complete_and_adds_up():
    rows = pd.read_csv(Path(J.__file__).with_name("joint.csv"))
    assert rows["images"].sum() == 29_567 and rows["images"].min() > 0
    for task in ("roof_shape", "block_position"):
        np.testing.assert_allclose(rows[list(SANTIAGO[task])].sum(axis=1), 100, atol=1e-9)
    assert rows["reason"].str.len().min() > 8
    assert {(m, h) for m, h in zip(rows["material"], rows["height"], strict=True)} == {
        (material, height) for material, heights in ALLOWED.items() for height in heights
    }


def test_row_conditionals_survive_the_roof_position_association():
    rows = pd.read_csv(Path(J.__file__).with_name("joint.csv"))
    p = J.joint().groupby(["mat_llrs", "height", "roof_shape"], observed=True)["p"].sum().unstack()
    for row in rows.itertuples():
        share = p.loc[(row.material, row.height)]
        np.testing.assert_allclose(share / share.sum(), np.array([row.FLT, row.PIT_GAB, row.PIT_MON]) / 100, atol=1e-6)
        assert share.sum() == pytest.approx(row.images / 29_567)


@pytest.mark.parametrize("interdependency", LEVELS)
def test_margins_and_structural_zeros_at_every_level(interdependency):
    sets, full = J.joint(interdependency), J.joint()
    assert sets["p"].sum() == pytest.approx(1) and (sets["p"] >= 0).all()
    for task in ("height", "mat_llrs", "roof_shape", "block_position"):
        got, want = (f.groupby(task, observed=False)["p"].sum() for f in (sets, full))
        np.testing.assert_allclose(got, want, atol=1e-9)
    assert all(h in ALLOWED[m] for h, m in zip(sets["height"], sets["mat_llrs"], strict=True))
    assert all(list(sets[task].cat.categories) == list(SANTIAGO[task]) and sets[task].cat.ordered for task in TASKS)


def test_quasi_independence_at_zero():
    sets = J.joint(0.0)
    pair = sets.groupby(["height", "mat_llrs"], observed=True)["p"].sum()
    h, m = (pair.index.get_level_values(k).codes for k in (0, 1))
    design = np.concatenate([np.eye(6)[h], np.eye(7)[m]], axis=1)
    residual = np.log(pair) - design @ np.linalg.lstsq(design, np.log(pair), rcond=None)[0]
    assert np.abs(residual).max() < 1e-6  # a(height) * b(material) wherever it is not zero
    roof, position = (sets.groupby(task, observed=True)["p"].sum() for task in ("roof_shape", "block_position"))
    expected = pair.loc[list(zip(sets["height"], sets["mat_llrs"], strict=True))].to_numpy()
    expected = expected * roof.loc[sets["roof_shape"]].to_numpy() * position.loc[sets["block_position"]].to_numpy()
    np.testing.assert_allclose(sets["p"], expected, atol=1e-9)


def test_mutual_information_falls_monotonically():
    """Measured on the annotated façades themselves, with scikit-learn's estimate."""
    cities = [images(level) for level in LEVELS]
    for task in ("roof_shape", "block_position"):
        for other in set(TASKS) - {task}:
            information = [mutual_info_score(city[task], city[other]) for city in cities]
            assert np.all(np.diff(information) > 0) and information[0] < 1e-4 < 0.1 < information[-1], (task, other)
    pair = [mutual_info_score(city["height"], city["mat_llrs"]) for city in cities]
    assert np.all(np.diff(pair) > 0) and pair[0] > 0.1


def test_paper_figures(labels):
    assert len(labels) == 29_567
    kept = labels[lprus(labels, keep=0.85, seed=3)]
    assert len(kept) == 25_133
    for task, paper in {
        "height": 0.2155, "mat_llrs": 0.2454, "sbst": 0.0883, "roof_shape": 0.4039, "block_position": 0.3127
    }.items():  # fmt: skip
        assert (kept[task].value_counts(normalize=True) ** 2).sum() == pytest.approx(paper, abs=0.003), task
    matrix = cooccurrence(labels)
    assert matrix.loc["mat_llrs:MUR", "height:H1"] == pytest.approx(0.55, abs=0.005)
    assert matrix.loc["height:H1", "mat_llrs:MUR"] == pytest.approx(0.18, abs=0.005)


def test_calibration_table(labels):
    table = J.calibration(labels).set_index("quantity")
    assert list(table.columns) == ["paper", "city", "difference"]
    assert table["difference"].abs().max() < 0.003
    assert 10 <= table.loc["labelsets above the cut-off", "city"] <= 25
    assert table.loc["labelsets", "city"] > 200 and table.loc["labelsets with fewer than 10 images", "city"] > 100


def test_what_the_paper_says_is_most_frequent(labels):
    material, height = labels["mat_llrs"], labels["height"]
    for name in ("H5-7", "H8-12", "H13+"):
        tall = labels[height == name]
        shares = [(tall[t] == c).mean() for t, c in (("roof_shape", "FLT"), ("block_position", "DET_MP"))]
        assert majority(labels, height == name, "mat_llrs")[0] == "CR" and min(shares) > 0.8
    assert majority(labels, material == "MR", "block_position")[0] == "SDET"
    assert majority(labels, material == "W,UNK", "block_position")[:2] == ["ADJ_BD", "DET_SP"]
    assert majority(labels, material == "MUR", "roof_shape") == ["PIT_MON", "PIT_GAB", "FLT"]
    assert majority(labels, material == "MUR", "block_position")[0] == "ADJ_BD"
    light = labels[material.isin(["MR", "W,UNK"])]
    assert majority(light, light.index == light.index, "roof_shape")[0] == "PIT_GAB"


def test_every_class_is_annotated(labels):
    assert all((labels[task].value_counts() > 0).all() for task in TASKS)


def test_sbst_follows_from_height_and_material():
    sets = J.joint(0.5)
    storeys = {"H1": {1}, "H2": {2}, "H3-4": {3, 4}, "H5-7": {5, 6, 7}, "H8-12": set(range(8, 13)), "H13+": {13, 14}}
    for height, material, name in sets[["height", "mat_llrs", "sbst"]].drop_duplicates().itertuples(index=False):
        prefix, _, span = name.rpartition("_H")
        low, _, high = span.rstrip("+").partition("-")
        span = set(range(int(low), (99 if name.endswith("+") else int(high or low)) + 1))
        assert prefix == material
        assert storeys[height] & span and (storeys[height] <= span or (material, height) == ("MUR", "H3-4"))
        code = J.building_types()[SANTIAGO["height"].index(height), SANTIAGO["mat_llrs"].index(material)]
        assert SANTIAGO["sbst"][code] == name
    assert (J.building_types() >= 0).sum() == 25


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda p: sum(p) > 1e-3), st.integers(0, 500))
def test_allocate_adds_up_and_stays_within_one(p, total):
    counts = J.allocate(np.array(p), total)
    quota = np.array(p) / np.sum(p) * total
    assert counts.sum() == total and np.all(np.abs(counts - quota) < 1 + 1e-9) and counts.min() >= 0


def test_fit_margins_matches_them_and_keeps_zeros():
    rng = np.random.default_rng(0)
    table = rng.random((5, 4)) * (rng.random((5, 4)) > 0.2)
    target = rng.random((5, 4)) * (table > 0)
    rows, columns = target.sum(1), target.sum(0)
    fitted = J.fit_margins(table, rows, columns)
    np.testing.assert_allclose(fitted.sum(1), rows, atol=1e-6)
    np.testing.assert_allclose(fitted.sum(0), columns, atol=1e-6)
    assert np.array_equal(fitted > 0, table > 0)
