"""Co-occurrence, LPRUS and partition against brute force and generated tables."""

import itertools
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtclim import SANTIAGO
from mtclim.city.plan import plan
from mtclim.data.labels import SPLITS, cooccurrence, cutoff, labelsets, lprus, partition

SHARES = np.array([0.65, 0.175, 0.175])


def frame(codes: np.ndarray, sizes=None) -> pd.DataFrame:
    """Categorical labels from codes (n, N), -1 = missing."""
    sizes = sizes or [int(codes[:, n].max(initial=1)) + 1 for n in range(codes.shape[1])]
    return pd.DataFrame(
        {
            f"t{n}": pd.Categorical.from_codes(codes[:, n], categories=[f"c{k}" for k in range(size)], ordered=True)
            for n, size in enumerate(sizes)
        }
    )


def city(rows: int, blocks: int, seed: int, clustering: float, heavy: bool = False, missing: float = 0.02):
    """Santiago-like labels: 500 labelsets with Zipf frequencies; blocks mostly of one labelset."""
    rng = np.random.default_rng(seed)
    sets = np.stack([rng.choice(size, 500, p=rng.dirichlet(np.ones(size))) for size in SANTIAGO.sizes], axis=1)
    zipf = 1 / np.arange(1, 501) ** 1.1
    weight = 1 / np.arange(1, blocks + 1) ** (0.7 if heavy else 0)
    block = rng.choice(blocks, rows, p=weight / weight.sum())
    main = rng.choice(500, blocks, p=zipf / zipf.sum())
    labelset = np.where(rng.random(rows) < clustering, main[block], rng.choice(500, rows, p=zipf / zipf.sum()))
    codes = np.where(rng.random((rows, len(SANTIAGO))) < missing, -1, sets[labelset])
    return frame(codes, list(SANTIAGO.sizes)), block


def share(split: pd.Series) -> np.ndarray:
    return split.value_counts(normalize=True).reindex(list(SPLITS), fill_value=0).to_numpy()


codes_strategy = hnp.arrays(np.int64, st.tuples(st.integers(0, 60), st.integers(1, 4)), elements=st.integers(-1, 3))


@settings(max_examples=60, deadline=None)
@given(codes_strategy)
def test_cooccurrence_is_brute_force(codes):
    labels = frame(codes, [4] * codes.shape[1])
    matrix = cooccurrence(labels)
    classes = [(task, name) for task in labels for name in labels[task].cat.categories]
    assert list(matrix.columns) == list(matrix.index) == [f"{task}:{name}" for task, name in classes]
    for (a, x), (b, y) in itertools.product(classes, classes):
        both = labels[a].notna() & labels[b].notna() & (labels[a] == x)
        expected = (both & (labels[b] == y)).sum() / both.sum() if both.sum() else np.nan
        np.testing.assert_allclose(matrix.loc[f"{a}:{x}", f"{b}:{y}"], expected)


def test_cooccurrence_orders_classes_as_the_categorical_does_else_sorted():
    labels = pd.DataFrame({"b": pd.Categorical(["z", "a"], categories=["z", "a"]), "a": ["y", "x"]})
    assert list(cooccurrence(labels)) == ["b:z", "b:a", "a:x", "a:y"]
    assert cooccurrence(labels).loc["b:z", "a:y"] == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.floats(0.01, 1))
def test_cutoff_is_the_smallest_integer_that_keeps_enough(counts, keep):
    kept = [sum(min(n, c) for n in counts) for c in range(max(counts) + 1)]
    assert cutoff(counts, keep) == next(c for c, rows in enumerate(kept) if rows >= keep * sum(counts))


@settings(max_examples=60, deadline=None)
@given(codes_strategy, st.floats(0.05, 1), st.integers(0, 5))
def test_lprus_keeps_small_bins_and_samples_large_ones_down(codes, keep, seed):
    labels = frame(codes).set_axis(np.arange(len(codes))[::-1] * 2, axis=0)
    mask = lprus(labels, keep, seed)
    assert mask.dtype == bool and mask.index.equals(labels.index)
    if len(codes):
        sets, ids, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        kept = np.bincount(ids.ravel()[mask.to_numpy()], minlength=len(sets))
        np.testing.assert_array_equal(kept, np.minimum(counts, cutoff(counts, keep)))
    pd.testing.assert_series_equal(mask, lprus(labels, keep, seed))


def test_lprus_draws_every_row_of_a_large_bin_equally_often():
    labels = pd.DataFrame({"a": ["x"] * 20 + ["y"] * 2})
    drawn = sum(lprus(labels, 0.5, seed).to_numpy().astype(int) for seed in range(1000))
    expected = 1000 * 9 / 20  # keep 11 of 22: both "y" and 9 of the 20 "x"
    assert (drawn[20:] == 1000).all()
    assert np.abs(drawn[:20] - expected).max() < 5 * math.sqrt(1000 * 0.45 * 0.55)


def test_lprus_on_the_scale_of_the_paper():
    labels, _ = city(29_567, 3_000, seed=1, clustering=0.5)
    kept = lprus(labels, keep=0.85).sum()
    assert 0.85 * 29_567 <= kept < 0.855 * 29_567  # the paper: 25,133, 85.003 %


@settings(max_examples=60, deadline=None)
@given(codes_strategy)
def test_labelsets_counts_every_combination(codes):
    labels = frame(codes)
    table = labelsets(labels)
    assert table[":count"].is_monotonic_decreasing and table[":count"].sum() == len(codes)
    assert len(table) == len(np.unique(codes, axis=0)) if len(codes) else len(table) == 0
    if len(codes):
        first = table.iloc[0]
        same = [labels[task].isna() if pd.isna(first[task]) else labels[task] == first[task] for task in labels]
        assert np.logical_and.reduce(same).sum() == first[":count"]


def test_a_task_named_count_and_tasks_of_many_classes():
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 5000, (3000, 4))
    codes[1500:] = codes[:1500]
    table = labelsets(frame(codes, [5000] * 4).rename(columns={"t1": "count"}))
    assert list(table) == ["t0", "count", "t2", "t3", ":count"] and (table[":count"] == 2).all()


def off(labels: pd.DataFrame, split: pd.Series, shares: np.ndarray) -> tuple[float, float]:
    """How far the shares are off in all rows, and at most in a class of 200 rows or more."""
    classes = [labels[task] == name for task in labels for name, n in labels[task].value_counts().items() if n >= 200]
    assert classes
    return np.abs(share(split) - shares).max(), max(np.abs(share(split[rows]) - shares).max() for rows in classes)


@pytest.mark.parametrize("shares", [SHARES, np.array([0.2, 0.1, 0.7])])
@pytest.mark.parametrize(
    ("rows", "number", "clustering", "heavy", "seed"),
    [
        (25_000, 3_000, 0.0, False, 0),
        (25_000, 3_000, 0.5, False, 1),
        (25_000, 3_000, 0.9, False, 2),
        (25_000, 3_000, 1.0, False, 3),
        (25_000, 3_000, 0.5, True, 4),
        (5_000, 600, 0.5, False, 5),
        (4_000, 4_000, 0.5, False, 6),
        (204_030, 30_000, 0.5, False, 7),
    ],
)
def test_partition_meets_the_shares_with_whole_blocks(rows, number, clustering, heavy, seed, shares):
    labels, blocks = city(rows, number, seed, clustering, heavy)
    split = partition(labels, blocks, shares, seed)
    assert pd.Series(split.astype(str)).groupby(blocks).nunique().max() == 1
    every, worst = off(labels, split, shares)
    assert every < 0.015 and worst < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_partition_of_the_drawn_city(seed):
    table = plan(6_000, 5_000, seed=seed).facades.query("labelled")
    labels, blocks = table[list(SANTIAGO)], table["block"]
    kept = lprus(labels, seed=seed)
    for rows in (kept, kept | True):
        split = partition(labels[rows], blocks[rows], seed=seed)
        assert split.groupby(blocks[rows]).nunique().max() == 1
        every, worst = off(labels[rows], split, SHARES)
        assert every < 0.015 and worst < 0.03


@pytest.mark.skipif("MTCLIM_SHARED_DATA" not in os.environ, reason="MTCLIM_SHARED_DATA is not set")
@pytest.mark.parametrize("cell", [100, 250, 500])
@pytest.mark.parametrize("shares", [SHARES, np.array([0.2, 0.1, 0.7])])
def test_partition_of_medellin(cell, shares):
    table = pd.read_csv(Path(os.environ["MTCLIM_SHARED_DATA"]) / "medellin" / "Raw_Data_Information.csv", decimal=",")
    table.columns = table.columns.str.strip()
    blocks = (table[["longitude", "latitude"]] * 111_320 // cell).astype(str).agg(" ".join, axis=1)
    labels = table[["typology", "stories", "Economic_Stratum"]]
    every, worst = off(labels, partition(labels, blocks, shares), shares)
    assert every < 0.015 and worst < 0.03


def test_partition_follows_the_labelsets():
    """Labelset by labelset, not class by class only: frequent labelsets have the shares too."""
    labels, blocks = city(25_000, 3_000, 5, clustering=0.5)
    split = partition(labels, blocks)
    keys = labels.astype(object).fillna("-").agg("|".join, axis=1)
    for key, rows in keys.value_counts().items():
        if rows >= 300:
            assert np.abs(share(split[keys == key]) - SHARES).max() < 0.05, key


def test_partition_without_blocks_is_stratified_by_labelset():
    labels, _ = city(25_000, 3_000, 6, clustering=0.5)
    split = partition(labels)
    keys = labels.astype(object).fillna("-").agg("|".join, axis=1)
    counts = pd.crosstab(keys, split)[list(SPLITS)].to_numpy()
    assert np.abs(counts - counts.sum(axis=1, keepdims=True) * SHARES).max() <= 5
    every, worst = off(labels, split, SHARES)
    assert every < 0.001 and worst < 0.005


@settings(max_examples=40, deadline=None)
@given(codes_strategy, st.booleans(), st.integers(1, 12), st.integers(0, 3))
def test_partition_of_any_table(codes, blocked, number, seed):
    labels = frame(codes).set_axis([f"r{i}" for i in range(len(codes))], axis=0)
    blocks = [f"b{i * 7919 % number}" for i in range(len(codes))] if blocked else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        split = partition(labels, blocks, seed=seed)
        pd.testing.assert_series_equal(split, partition(labels, blocks, seed=seed))
    assert split.index.equals(labels.index) and set(split) <= set(SPLITS) and split.notna().all()
    if blocked and len(codes):
        assert pd.Series(list(split)).groupby(blocks).nunique().max() == 1
        assert split.nunique() == min(3, len(set(blocks)))


def test_partition_matches_blocks_by_position_whatever_their_type():
    labels, blocks = city(500, 60, 7, clustering=0.5)
    expected = partition(labels, blocks)
    shuffled = labels.set_axis(np.random.default_rng(0).permutation(len(labels)), axis=0)
    kinds = [
        list(blocks),
        pd.Series(blocks),
        pd.Series(blocks.astype(float)),
        pd.Categorical(blocks),
        blocks.astype("U4"),
    ]
    for kind in kinds:
        got = partition(shuffled, kind)
        assert got.index.equals(shuffled.index)
        assert pd.Series(list(got)).groupby(blocks).nunique().max() == 1
    assert list(partition(shuffled, list(blocks))) == list(expected)
    assert any(list(partition(labels, blocks, seed=seed)) != list(expected) for seed in range(1, 5))


def test_partition_warns_when_a_block_is_too_large_and_still_deals_whole_blocks():
    labels = pd.DataFrame({"a": list("xy") * 50})
    with pytest.warns(UserWarning, match="'big', has 90 rows"):
        split = partition(labels, ["big"] * 90 + list("abcdefghij"))
    assert (split[:90] == "train").all() and split.nunique() == 3


def test_an_empty_split_gets_the_smallest_block():
    labels = pd.DataFrame({"a": ["x"] * 100})
    with pytest.warns(UserWarning, match="3 whole blocks of 100 rows"):
        split = partition(labels, ["p"] * 30 + ["q"] * 60 + ["r"] * 10, shares=(0.98, 0.01, 0.01))
    assert split.value_counts().to_dict() == {"train": 60, "val": 10, "test": 30}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda df: partition(df, ["a", None, "b"]), r"missing at positions \[1\]"),
        (lambda df: partition(df, ["a", "b"]), "found 2 for 3 rows"),
        (lambda df: partition(df, shares=(0.5, 0.5, 0.5)), "whose sum is 1"),
        (lambda df: partition(df, shares=(0.5, 0.5)), "three shares"),
        (lambda df: lprus(df, keep=0), r"share of the rows in \(0, 1\]"),
        (lambda df: lprus(df["a"]), "found Series; expected a DataFrame"),
        (lambda df: cooccurrence(df[[]]), "one column a task"),
    ],
)
def test_wrong_arguments_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call(pd.DataFrame({"a": ["x", "y", "x"]}))


def test_a_zero_share_gets_nothing():
    labels, blocks = city(500, 60, 8, clustering=0.5)
    for given_blocks in (None, blocks):
        split = partition(labels, given_blocks, shares=(0.8, 0.2, 0))
        np.testing.assert_allclose(share(split), [0.8, 0.2, 0], atol=0.02)
