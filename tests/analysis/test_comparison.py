"""Measures against scikit-learn, SciPy and naive loops; the paper's own tables; contrasts and evidence on hand-made cases."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_study
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from mtclim import SANTIAGO, Tasks, delta_m
from mtclim.analysis import comparison, evidence
from mtclim.analysis.study import load_study
from mtclim.metrics import scores
from mtclim.variants import VARIANTS

SMALL = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Four variants and controls, one of them detached, 2 realisations, labels missing."""
    root = tmp_path_factory.mktemp("runs")
    options = {"detached": ("lim_ms_all",), "n": 150, "missing": 0.1}
    return load_study(write_study(root, ("stc", "bl", "bl_fc", "lim_ms_all"), 2, **options))


# ---------------------------------------------------------------- measures


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_measures_are_scikit_learns(k, seed, n):
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(-1, k, n), rng.integers(0, k, n)
    use = true >= 0
    oa, kappa, f1 = scores(true, predicted, k)
    if not use.any():
        assert np.isnan([oa, kappa]).all() and np.isnan(f1).all()
        return
    y, z, labels = true[use], predicted[use], list(range(k))
    assert abs(oa - sk.accuracy_score(y, z)) < 1e-12
    assert np.abs(f1 - sk.f1_score(y, z, labels=labels, average=None, zero_division=0)).max() < 1e-12
    if len({*y, *z}) > 1:  # one class alone: scikit-learn's kappa is undefined
        assert abs(kappa - sk.cohen_kappa_score(y, z, labels=labels)) < 1e-12


def test_scores_of_a_study_are_scikit_learns(study):
    table = comparison.run_scores(study).set_index(["run", "task"])
    f1 = comparison.class_scores(study).set_index(["run", "task", "class"])["f1"].sort_index()
    for i, run in enumerate(study.runs["run"]):
        for task, classes in study.tasks.items():
            y, z = study.test[task].to_numpy(), study.predicted(task)[i]
            y, z = y[y >= 0], z[y >= 0]
            assert abs(table.loc[(run, task), "oa"] - sk.accuracy_score(y, z)) < 1e-12
            assert abs(table.loc[(run, task), "kappa"] - sk.cohen_kappa_score(y, z)) < 1e-12
            ours = f1.loc[run, task][list(classes)].to_numpy()
            theirs = sk.f1_score(y, z, labels=list(range(len(classes))), average=None, zero_division=0)
            present = np.isin(np.arange(len(classes)), y)
            assert np.abs(ours - theirs)[present].max() < 1e-12 and np.isnan(ours[~present]).all()


def test_delta_m_of_the_papers_table_3():
    table = comparison.paper_table3()
    compared = 0
    for (backbone, variant), row in table.iterrows():
        for metric in ("OA", "kappa") if variant != "stc" else ():
            ours, base = ({t: x.loc[(t, metric)] for t in SANTIAGO} for x in (row, table.loc[(backbone, "stc")]))
            assert abs(delta_m(ours, base) - row[("delta_m", metric)]) < 0.03, (backbone, variant, metric)
            compared += 1
    assert compared == 44 and list(table.loc["densenet121"].index) == list(VARIANTS)


@pytest.mark.parametrize("ours, base", [({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {"a": 0.0})])
def test_delta_m_refuses(ours, base):
    with pytest.raises(ValueError, match="expected|needs"):
        delta_m(ours, base)


def test_table_2_is_the_papers():
    """Typed from the paper: modules, feature vector, losses."""
    bl, clim, tlim = (f"P(Y_T | x_{m})" for m in ("BL", "CLIM", "TLIM"))
    paper = {
        "STC": ("-", "x_STC", "L_STC"), "BL": ("BL", "x_BL", "L1"), "BL-MS": ("BL, FC", f"x_BL, {bl}", "L1, L4"),
        "CLIM": ("BL, CLIM, FC", "x_BL, x_CLIM", "L1, L2, L4"),
        "CLIM-MS_BL": ("BL, CLIM, FC", f"x_BL, x_CLIM, {bl}", "L1, L2, L4"),
        "CLIM-MS_ALL": ("BL, CLIM, FC", f"x_BL, x_CLIM, {bl}, {clim}", "L1, L2, L4"),
        "TLIM": ("BL, TLIM, FC", "x_BL, x_TLIM", "L1, L3, L4"),
        "TLIM-MS_BL": ("BL, TLIM, FC", f"x_BL, x_TLIM, {bl}", "L1, L3, L4"),
        "TLIM-MS_ALL": ("BL, TLIM, FC", f"x_BL, x_TLIM, {bl}, {tlim}", "L1, L3, L4"),
        "LIM": ("BL, CLIM, TLIM, FC", "x_BL, x_CLIM, x_TLIM", "L1, L2, L3, L4"),
        "LIM-MS_BL": ("BL, CLIM, TLIM, FC", f"x_BL, x_CLIM, x_TLIM, {bl}", "L1, L2, L3, L4"),
        "LIM-MS_ALL": ("BL, CLIM, TLIM, FC", f"x_BL, x_CLIM, x_TLIM, {bl}, {clim}, {tlim}", "L1, L2, L3, L4"),
    }  # fmt: skip
    table = comparison.table2()
    assert list(table.index) == [*paper, "BL-FC"]
    for name, (modules, vector, losses) in paper.items():
        assert tuple(table.loc[name]) == (modules, f"[{vector}]", losses), name


def test_table_1_counts():
    exact = {
        "densenet121": (34_805_155, 6_989_731, 7_136_151),
        "tf_efficientnetv2_b3": (64_160_825, 12_875_201, 13_039_541),
    }
    table = comparison.table1(SANTIAGO)
    for backbone, counts in exact.items():
        for name, count in zip(("STC", "BL", "LIM-MS_ALL"), counts, strict=True):
            assert table.loc[backbone, (name, "here")] == pytest.approx(count / 1e6, abs=1e-9)
            assert round(table.loc[backbone, (name, "here")], 2) == table.loc[backbone, (name, "paper")]
    assert comparison.table1(SMALL, ["test_byobnet"]).xs("paper", axis=1, level=1).isna().all(axis=None)


def test_table_3_is_the_mean_of_runs(study):
    table, runs = comparison.table3(study), comparison.run_scores(study)
    for (_, variant), row in table.iterrows():
        own = runs[runs["variant"] == variant].groupby("task")[["oa", "kappa"]].mean() * 100
        assert all(row[(t, "OA")] == pytest.approx(own.loc[t, "oa"]) for t in (*study.tasks, "mean"))
        base = table.loc[("densenet121", "stc")]
        delta = 100 * sum(row[(t, "kappa")] / base[(t, "kappa")] - 1 for t in study.tasks)
        assert (
            row[("delta_m", "kappa")] == pytest.approx(delta) if variant != "stc" else np.isnan(row[("delta_m", "OA")])
        )
    assert (table[("runs", "")] == 2).all()


# ---------------------------------------------------------------- residuals


def test_all_combinations_of_11_realisations_of_5_tasks():
    chosen, sampled = comparison.stc_combinations([11] * 5)
    assert chosen.shape == (161_051, 5) and not sampled and len(np.unique(chosen, axis=0)) == 161_051
    chosen, sampled = comparison.stc_combinations([11] * 6)
    assert chosen.shape == (200_000, 6) and sampled
    assert (comparison.stc_combinations([11] * 6)[0] == chosen).all(), "the sample is seeded"


def test_residuals_by_brute_force(tmp_path):
    study = load_study(write_study(tmp_path, ("stc", "bl"), 3, SMALL, n=80))
    runs = comparison.run_scores(study).set_index(["variant", "seed", "task"])
    frame = comparison.residuals(study, "densenet121")
    pairs = list(product(range(3), repeat=2))
    means = [np.mean([runs.loc[("stc", s, t), "kappa"] for s, t in zip(p, SMALL, strict=True)]) for p in pairs]
    middle = pairs[int(np.argsort(means, kind="stable")[4])]  # the fifth of nine
    for metric in ("oa", "kappa"):
        base = {t: runs.loc[("stc", s, t), metric] for s, t in zip(middle, SMALL, strict=True)}
        stc = [
            delta_m({t: runs.loc[("stc", s, t), metric] for s, t in zip(p, SMALL, strict=True)}, base) for p in pairs
        ]
        bl = [delta_m({t: runs.loc[("bl", s, t), metric] for t in SMALL}, base) for s in range(3)]
        for variant, expected in (("stc", stc), ("bl", bl)):
            found = frame.loc[(frame["metric"] == metric) & (frame["variant"] == variant), "value"]
            np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=1e-9)
    assert frame.attrs == {"combinations": 9, "sampled": False}
    boxes = comparison.box_statistics(frame)
    assert (
        boxes.loc[("kappa", "bl"), "above_stc"]
        == boxes.loc[("kappa", "bl"), "high"] - boxes.loc[("kappa", "stc"), "high"]
    )


def test_whiskers_are_matplotlibs():
    from matplotlib.cbook import boxplot_stats

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"variant": "bl", "metric": ["oa"] * 60 + ["kappa"] * 60, "value": rng.standard_t(2, 120)})
    ours, (theirs,) = comparison.box_statistics(frame).loc[("kappa", "bl")], boxplot_stats(frame["value"][60:])
    for mine, their in (("median", "med"), ("q1", "q1"), ("q3", "q3"), ("low", "whislo"), ("high", "whishi")):
        assert ours[mine] == pytest.approx(theirs[their])


# ---------------------------------------------------------------- uncertainty


def test_interval_is_scipys():
    values = np.random.default_rng(1).normal(size=7)
    low, high = stats.t.interval(0.95, 6, loc=values.mean(), scale=stats.sem(values))
    assert comparison.interval(values) == pytest.approx((values.mean(), low, high))
    mean, low, high = comparison.interval(np.array([2.0]))
    assert mean == 2 and np.isnan([low, high]).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12))
def test_holm_by_hand(p):
    known = sorted((x, i) for i, x in enumerate(p) if x == x)
    expected, least = [float("nan")] * len(p), 0.0
    for rank, (x, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * x))
        expected[i] = least
    np.testing.assert_allclose(comparison.holm(np.array(p)), expected, atol=1e-15)


def test_bootstrap_by_a_naive_loop(study):
    drawn = comparison.bootstrap(study, draws=5, seed=3)
    blocks, names = pd.factorize(study.test["block"])
    weights = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=5)
    for d, run in product(range(5), range(len(study.runs))):
        rows = np.repeat(np.arange(len(blocks)), weights[d][blocks])
        oa, kappa = [], []
        for task in study.tasks:
            y, z = study.test[task].to_numpy()[rows], study.predicted(task)[run][rows]
            oa.append(sk.accuracy_score(y[y >= 0], z[y >= 0]))
            kappa.append(sk.cohen_kappa_score(y[y >= 0], z[y >= 0]))
        assert drawn["oa"][d, run] == pytest.approx(np.mean(oa), abs=1e-12)
        assert drawn["kappa"][d, run] == pytest.approx(np.mean(kappa), abs=1e-12)


def test_contrasts_pair_the_same_seeds(tmp_path):
    from fake_runs import write_run

    root = write_study(tmp_path, ("bl", "bl_ms"), 4, SMALL, n=80)
    write_run(root, SMALL, "bl_ms", 9, n=80)  # no bl with this seed
    study = load_study(root)
    row = comparison.compare(study, "oa", draws=50).query("a == 'bl_ms' and family == 'against BL'").squeeze()
    wide = comparison.run_scores(study).query("task == 'mean'").pivot(index="seed", columns="variant", values="oa")
    difference = 100 * (wide["bl_ms"] - wide["bl"]).dropna()
    assert (
        row["n"] == 4
        and np.isnan(row["p"])
        and (row["mean"], row["low"], row["high"]) == pytest.approx(comparison.interval(difference.to_numpy()))
    )
    assert "densenet121/bl/seed-9" in set(study.problems["run"])


def test_tests_from_eight_realisations_only(tmp_path):
    study = load_study(write_study(tmp_path, ("bl", "bl_ms", "lim"), 8, SMALL, n=40))
    table = comparison.compare(study, draws=20)
    wide = comparison.run_scores(study).query("task == 'mean'").pivot(index="seed", columns="variant", values="kappa")
    row = table[(table["a"] == "bl_ms") & (table["b"] == "bl")].iloc[0]
    assert row["p"] == pytest.approx(stats.ttest_rel(wide["bl_ms"], wide["bl"]).pvalue)
    once = table.drop_duplicates(["a", "b"])
    np.testing.assert_allclose(once["p_holm"], comparison.holm(once["p"].to_numpy()))


def test_contrasts_are_the_papers_and_the_controls():
    pairs = {(a, b) for _, a, b in comparison.contrasts([*VARIANTS, "bl_fc", "lim_ms_all-detach"])}
    assert {("bl_ms", "bl"), ("clim", "bl_ms"), ("tlim", "bl_ms"), ("lim", "bl_ms"), ("clim_ms_all", "clim")} <= pairs
    assert {("lim_ms_all", "bl_fc"), ("lim_ms_all", "lim_ms_all-detach"), ("lim_ms_all", "stc"), ("bl", "stc")} <= pairs
    assert comparison.contrasts(["bl"]) == []


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, "stays so over resampled test blocks"),
        ({"low": -1.0}, "No difference between LIM and BL can be told from 5 runs"),
        ({"n": 1, "low": np.nan, "high": np.nan}, "one run gives no interval"),
        ({"boot_low": -0.5}, "other test blocks could undo it"),
        ({"n": 8, "p_holm": 0.2}, "No difference between LIM and BL can be told from 8 runs"),
        ({"n": 8, "p_holm": 0.2}, "it may be chance, Holm-adjusted p = 0.20"),
        ({"n": 8, "p_holm": 0.01}, "2.00 points of mean kappa above BL"),
        ({"mean": -2.0, "low": -3.0, "high": -1.0, "boot_low": -3.0, "boot_high": -1.0}, "below BL"),
    ],
)
def test_verdicts(changes, said):
    row = {
        "a": "lim",
        "b": "bl",
        "n": 5,
        "mean": 2.0,
        "low": 1.0,
        "high": 3.0,
        "boot_low": 0.5,
        "boot_high": 4.0,
        "p_holm": 1,
    }
    assert said in comparison.verdict(SimpleNamespace(**(row | changes)))


# ---------------------------------------------------------------- evidence


def made(tasks: Tasks, true, predicted, train) -> SimpleNamespace:
    """A study of one run from position lists (n, N); ``train``: labelsets of class names (None = missing)."""
    frame = pd.DataFrame(np.array(true), columns=list(tasks)).assign(image=[str(i) for i in range(len(true))])
    labelsets = pd.DataFrame(train, columns=list(tasks), dtype="object").assign(**{":count": 1})
    runs = pd.DataFrame({"run": ["b/bl/seed-0"], "backbone": ["b"], "variant": ["bl"], "seed": [0]})
    values = np.array(predicted)
    return SimpleNamespace(
        tasks=tasks, test=frame, runs=runs, labelsets=labelsets, variants=["bl"], backbones=["b"],
        predicted=lambda task: values[None, :, list(tasks).index(task)],
    )  # fmt: skip


def test_consistency_by_hand():
    true = [[0, 0], [1, 1], [2, 1], [-1, 0]]
    said = [[0, 0], [1, 0], [2, 1], [2, 0]]
    seen = [("H1", "FLT"), ("H2", "PIT"), ("H3-4", "PIT")]
    table = evidence.consistency(made(SMALL, true, said, seen)).set_index("variant")
    assert table.loc["bl", "unseen"] == 2 / 4  # H2 with FLT, H3-4 with FLT
    assert table.loc["bl", "exact"] == 3 / 4  # the last is right in its one annotated task
    # P(roof | height) differs in H2's two cells; P(height | roof): FLT 1, 0, 0 -> 1/2, 1/2, 0; PIT 0, 1/2, 1/2 -> 0, 0, 1
    assert table.loc["bl", "cooccurrence"] == pytest.approx((1 + 1 + 0.5 + 0.5 + 0.5 + 0.5) / 12)
    assert table.loc["reference", "unseen"] == 0


def test_a_labelset_with_missing_labels_agrees_with_any():
    true, said = [[0, 0]], [[0, 1]]
    assert evidence.consistency(made(SMALL, true, said, [("H1", None)]))["unseen"][0] == 0
    assert evidence.consistency(made(SMALL, true, said, [("H1", "FLT"), (None, "FLT"), ("H2", None)]))["unseen"][0] == 1
    assert evidence.consistency(made(SMALL, [[0, -1]], said, [("H1", "PIT")]))["unseen"][1] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_unseen_by_a_naive_loop(seed):
    rng = np.random.default_rng(seed)
    tasks = Tasks({"a": "xyz", "b": "uvw", "c": "pq"})
    train, said = rng.integers(-1, [3, 3, 2], (4, 3)), rng.integers(0, [3, 3, 2], (6, 3))
    names = [[None if k < 0 else c[k] for k, c in zip(row, tasks.values(), strict=True)] for row in train]
    fits = [any(all(t in (-1, s) for s, t in zip(ours, row, strict=True)) for row in train) for ours in said]
    assert evidence.consistency(made(tasks, said, said, names))["unseen"][0] == pytest.approx(1 - np.mean(fits))


def test_error_structure_by_hand():
    tasks = Tasks({"height": ["H1", "H2", "H3-4"], "sbst": ["MUR_H1", "MUR_H2", "CR_H1", "CR_H2"]})
    true = [[0, 0], [0, 0], [1, 0], [2, 3], [2, 1]]
    said = [[1, 1], [2, 2], [1, 3], [2, 3], [1, 0]]
    table = evidence.error_structure(made(tasks, true, said, [])).set_index(["task", "kind"])["share"]
    assert table[("height", "adjoining")] == pytest.approx(2 / 3)
    shares = {kind: table[("sbst", kind)] for kind in ("first part only", "second part only", "both")}
    assert shares == {"first part only": 0.25, "second part only": 0.5, "both": 0.25}
    pairs = evidence.confused_pairs(made(tasks, true, said, []), "b/bl/seed-0", top=1)
    assert pairs[["reference", "predicted", "count"]].to_numpy().tolist() == [["H1", "H2", 1], ["MUR_H1", "MUR_H2", 1]]
    assert pairs["images"].tolist() == [["0"], ["0"]] and pairs["share"].tolist() == [1 / 2, 1 / 3]


def test_calibration_error_by_a_naive_loop(tmp_path):
    root = write_study(tmp_path, ("bl",), 1, SMALL, n=120, missing=0.2)
    frame = pd.read_parquet(next(root.rglob("predictions.parquet")))
    table = evidence.calibration_error(load_study(root)).set_index("task")
    for task, classes in SMALL.items():
        rows = frame[frame[f"{task}:true"].notna()]
        p = rows[[f"{task}:p:{c}" for c in classes]].to_numpy(float)
        sure, right = p.max(1), np.array(classes)[p.argmax(1)] == rows[f"{task}:true"].to_numpy()
        ece = 0.0
        for k in range(15):
            inside = (sure > k / 15) & (sure <= (k + 1) / 15)
            ece += inside.mean() * abs(right[inside].mean() - sure[inside].mean()) if inside.any() else 0
        assert table.loc[task, "raw"] == pytest.approx(ece, abs=1e-9)


def test_gains_and_negative_transfer(study):
    gains, f1 = evidence.class_gains(study), comparison.class_scores(study)
    mean = 100 * f1.groupby(["variant", "task", "class"])["f1"].mean()
    for row in gains.itertuples():
        assert row.gain == pytest.approx(
            mean[row.variant, row.task, row._4] - mean["stc", row.task, row._4], nan_ok=True
        )
    assert list(gains["variant"].unique()) == [name for name in study.variants if name != "stc"]
    worse = evidence.negative_transfer(gains)
    assert len(worse) == ((gains["variant"] == "bl") & (gains["gain"] < 0)).sum() and (worse["bl"] < 0).all()
    rho = evidence.rarity(gains).set_index("variant")["rho"]
    own = gains[(gains["variant"] == "bl") & gains["gain"].notna()]
    assert rho["bl"] == pytest.approx(own["gain"].rank().corr(own["frequency"].rank()))


def test_cost_is_relative_to_bl(study):
    table = evidence.cost(study).loc["densenet121"]
    assert table.loc["bl", "relative_step"] == 1 and table.loc["lim_ms_all", "relative_step"] == pytest.approx(1.6)
    assert list(table.index) == study.variants


def test_dependence_is_the_change_that_cooccurrence_says(study):
    import mtclim

    labels = study.labelsets.loc[study.labelsets.index.repeat(study.labelsets[":count"]), list(study.tasks)]
    labels = labels.apply(lambda c: pd.Categorical(c, study.tasks[c.name]))
    share = pd.concat({t: labels[t].value_counts(normalize=True, sort=False) for t in labels})
    expected = mtclim.cooccurrence(labels) - share.to_numpy()
    found = evidence.dependence(study)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert list(found) == list(expected)
    block = found.loc["roof_shape:FLT", [c for c in found if c.startswith("height:")]]
    assert evidence.by_task(found.loc[:, :]).shape == (5, 5) and abs(block.sum()) < 1e-9


# ---------------------------------------------------------------- the grid of cities


def grid(seeds: int, gain: float = 0.02) -> pd.DataFrame:
    """Invented scores: lim_ms_all gains with interdependency, nothing with ambiguity; seeds differ a little."""
    rng = np.random.default_rng(0)
    rows = []
    for i, a, s in product((0.0, 0.5, 1.0), (0.1, 0.6), range(seeds)):
        for variant in ("bl", "lim_ms_all"):
            extra = gain * i * (variant != "bl") + rng.normal(0, 1e-4)
            row = {
                "interdependency": i,
                "ambiguity": a,
                "variant": variant,
                "seed": s,
                "mean": 0.5 + extra,
                "roof": 0.4 + extra,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def test_grid_gains_are_paired():
    scores = grid(4)
    table = evidence.grid_table(scores, ["roof"])
    assert len(table) == 12 and set(table["n"]) == {4} and list(table)[:2] == ["variant", "task"]
    row = table.query("task == 'roof' and interdependency == 1 and ambiguity == 0.6").squeeze()
    cell = scores.query("interdependency == 1 and ambiguity == 0.6").pivot(
        index="seed", columns="variant", values="roof"
    )
    expected = comparison.interval(100 * (cell["lim_ms_all"] - cell["bl"]).to_numpy())
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(expected)


def test_grid_verdict_says_what_was_found():
    first, interdependency, ambiguity = evidence.grid_verdict(grid(4))
    assert (
        "above zero at 4 of them and below zero at none" in first
        and interdependency.endswith("it grows.")
        and ambiguity.endswith("told.")
    )
    assert evidence.grid_verdict(grid(4, -0.02))[1].endswith("it falls.")
    one = evidence.grid_verdict(grid(1))
    assert "one realisation" in one[0] and "no interval" in one[1]


def test_grid_report_begins_with_all_intervals_and_what_chance_would_give():
    scores = grid(4)
    low = pd.concat([evidence.grid_gains(scores, metric=metric) for metric in ("mean", "roof")])
    above, below = (low["low"] > 0).sum(), (low["high"] < 0).sum()
    first = evidence.grid_report(scores, ["roof"])[0]
    assert above and not below and first.startswith(f"Of {len(low)} intervals")
    assert f"ahead of BL at {above} and behind nowhere; chance alone would give about {len(low) / 40:.1f}" in first
    assert evidence.grid_report(grid(1), ["roof"])[0] == evidence.grid_verdict(grid(1))[0]


def test_partial_grids():
    scores = grid(3)
    part = scores[~((scores["variant"] == "lim_ms_all") & (scores["seed"] == 2)) & (scores["interdependency"] < 1)]
    assert (
        set(evidence.grid_table(part, ["roof"])["n"]) == {2} and "2 realisations each" in evidence.grid_verdict(part)[0]
    )
    alone = scores[scores["variant"] == "bl"]
    assert evidence.grid_table(alone, ["roof"]).empty and "nothing can be said" in evidence.grid_verdict(alone)[0]
