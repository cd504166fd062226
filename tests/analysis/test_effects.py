"""Effects against ordinary least squares and simulations; power against simulated t-tests; the file of effects."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_study
from scipy import stats

from mtclim import Tasks
from mtclim.analysis import comparison, effects
from mtclim.analysis.study import load_study
from mtclim.variants import VARIANTS

SMALL = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """All ten multitask variants with BL, STC and BL-FC, unequal numbers of realisations."""
    root = write_study(tmp_path_factory.mktemp("runs"), (*VARIANTS, "bl_fc"), 2, SMALL, n=80)
    from fake_runs import write_run

    write_run(root, SMALL, "lim", 2, n=80)
    return load_study(root)


def test_main_effects_are_ordinary_least_squares_over_runs():
    rng = np.random.default_rng(0)
    runs = {name: int(n) for name, n in zip(effects.MULTITASK, rng.integers(1, 6, 10), strict=True)}
    rows = [(name, rng.normal()) for name, n in runs.items() for _ in range(n)]
    design = [[1, "clim" in v or v.startswith("lim"), "tlim" in v or v.startswith("lim"), "_ms" in v or v == "bl_ms",
               v.endswith("_ms_all")] for v, _ in rows]  # fmt: skip
    expected = np.linalg.lstsq(np.array(design, float), np.array([y for _, y in rows]), rcond=None)[0][1:]
    means = pd.DataFrame(rows).groupby(0)[1].mean()
    found = [sum(w * means[v] for v, w in weights.items()) for weights in effects.main_effects(runs).values()]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_effects_that_the_variants_cannot_tell_are_left_out():
    assert effects.main_effects({"clim": 2, "lim": 2}).keys() == {"TLIM"}
    assert effects.main_effects({"bl": 3, "stc": 3}) == {} and effects.contrasts({"bl": 2}) == {}


def test_estimates_are_differences_of_means(study):
    table = effects.effects(study, draws=50).set_index(["family", "contrast"])
    mean = 100 * comparison.run_scores(study).query("task == 'mean'").groupby("variant")["kappa"].mean()
    row = table.loc["primary", "LIM-MS_ALL - BL"]
    assert row["estimate"] == pytest.approx(mean["lim_ms_all"] - mean["bl"]) and row["runs"] == 2
    recurrent = [name for name in VARIANTS if "lim" in name]
    row = table.loc["primary", "mean of the recurrent variants - BL-FC"]
    assert row["estimate"] == pytest.approx(mean[recurrent].mean() - mean["bl_fc"])
    assert row["runs"] == 2, "the fewest of a variant"
    assert {"BL - STC", "BL-MS - BL-FC", "LIM-MS_ALL - BL-FC"} <= set(table.loc["primary"].index)
    assert table["low"].le(table["estimate"]).mean() > 0.9 and table["high"].ge(table["estimate"]).mean() > 0.9


def simulated(rng: np.random.Generator, seeds: int, shared: float, monkeypatch) -> pd.DataFrame:
    """``effects`` of two variants without a difference, whose runs share the seed's luck, and their blocks' luck."""
    names = [(v, s) for v in ("bl", "bl_fc") for s in range(seeds)]
    luck, own = rng.normal(0, shared, seeds), rng.normal(0, 0.002, len(names))
    blocks = {v: rng.normal(0, 0.01, 40) for v in ("bl", "bl_fc")}
    kappa = [0.5 + luck[s] + own[i] + blocks[v].mean() for i, (v, s) in enumerate(names)]
    frame = pd.DataFrame(names, columns=["variant", "seed"]).assign(task="mean", kappa=kappa)
    weights = rng.multinomial(40, np.full(40, 1 / 40), 400) / 40
    drawn = [0.5 + luck[s] + own[i] + weights @ blocks[v] for i, (v, s) in enumerate(names)]
    monkeypatch.setattr(effects, "run_scores", lambda study: frame)
    monkeypatch.setattr(effects, "bootstrap", lambda study, draws: {"kappa": np.stack(drawn, 1)})
    return effects.effects(SimpleNamespace(), draws=400)


def test_intervals_hold_what_they_promise(monkeypatch):
    rng, hit, paired = np.random.default_rng(0), [], []
    for _ in range(150):
        row = simulated(rng, 5, 0.01, monkeypatch).iloc[0]
        hit.append(row["low"] <= 0 <= row["high"])
        paired.append(row["paired"])
    assert 0.90 <= np.mean(hit) <= 0.995 and np.mean(paired) > 0.9, "runs that share the seed's luck are paired"


def test_runs_are_paired_only_where_that_helps(monkeypatch):
    rng = np.random.default_rng(1)
    with_luck, without = (simulated(rng, 11, shared, monkeypatch).iloc[0] for shared in (0.02, 0.0))
    assert with_luck["correlation"] > 0.8 and abs(without["correlation"]) < 0.8


def drawn_once(a: np.ndarray, b: np.ndarray, monkeypatch) -> pd.DataFrame:
    """``run_scores`` of BL (a) and BL-FC (b), in points, whose test images have no luck."""
    scores = np.append(a, b)
    frame = pd.DataFrame({"variant": np.repeat(["bl", "bl_fc"], len(a)), "seed": np.tile(np.arange(len(a)), 2)})
    frame = frame.assign(task="mean", kappa=scores / 100)
    monkeypatch.setattr(effects, "run_scores", lambda study: frame)
    monkeypatch.setattr(effects, "bootstrap", lambda study, draws: {"kappa": np.tile(scores / 100, (draws, 1))})
    return frame


def test_the_interval_of_paired_runs_is_that_of_the_paired_t_test(monkeypatch):
    luck, apart = np.array([60.0, 70, 65, 55, 50]), np.array([0.8, -0.4, 0.4, 0.0, -0.8])
    drawn_once(luck + apart, luck, monkeypatch)
    row = effects.effects(SimpleNamespace(), draws=20_000).set_index("contrast").loc["BL - BL-FC"]
    interval = stats.ttest_rel(luck + apart, luck).confidence_interval()
    assert row["paired"] and (row["low"], row["high"]) == pytest.approx(tuple(interval), rel=0.05)


def test_runs_that_go_apart_are_not_paired(monkeypatch):
    luck = np.array([60.0, 60.4, 59.8, 60.1, 59.7])
    frame = drawn_once(luck, 120 - luck, monkeypatch)
    row = effects.effects(SimpleNamespace(), draws=2_000).iloc[0]
    assert row["correlation"] == pytest.approx(-1) and not row["paired"]
    paired = stats.ttest_rel(luck, 120 - luck).confidence_interval()
    assert row["high"] - row["low"] < 0.85 * (paired.high - paired.low), "the two kinds of luck are drawn apart"
    assert np.isnan(effects.seed_correlation(frame[frame["seed"] < 2], "kappa")), "two seeds say nothing"


def test_the_scatter_of_a_difference_is_that_of_its_runs(monkeypatch):
    luck, apart = np.array([60.0, 70, 65, 55, 50]), np.array([0.8, -0.4, 0.4, 0.0, -0.8])
    frame = drawn_once(luck + apart, luck, monkeypatch).replace({"variant": {"bl_fc": "stc"}})
    monkeypatch.setattr(effects, "run_scores", lambda study: frame)
    row = effects.powers(SimpleNamespace()).set_index("contrast").loc["BL - STC"]
    assert row["sd"] == pytest.approx(apart.std(ddof=1))


def test_one_realisation_says_nothing(tmp_path):
    study = load_study(write_study(tmp_path, ("bl", "lim_ms_all"), 1, SMALL, n=40))
    table = effects.effects(study, draws=20)
    assert table["low"].isna().all() and set(table["verdict"]) == {"cannot be told"}
    assert effects.readable(table)["95 % interval"].eq("–").all()


def test_a_table_for_readers_has_the_numbers_of_the_effects(tmp_path):
    table = effects.effects(load_study(write_study(tmp_path, ("bl", "lim_ms_all"), 3, SMALL, n=40)), draws=20)
    shown = effects.readable(table)
    limits = shown["95 % interval"].str.split(" to ", expand=True).astype(float)
    assert np.abs(limits.to_numpy() - table[["low", "high"]].to_numpy()).max() <= 0.005
    assert np.abs(shown["difference [points]"].astype(float).to_numpy() - table["estimate"].to_numpy()).max() <= 0.005
    assert list(shown.index) == list(table["contrast"]) and list(shown["realisations"]) == [3] * len(table)


@pytest.mark.parametrize("low, high, said", [
    (0.1, 1.0, "effect"), (-1.0, -0.1, "effect"),
    (-0.2, 0.2, "no effect worth having"), (0.1, 0.2, "no effect worth having"),
    (-0.2, 0.4, "cannot be told"), (np.nan, np.nan, "cannot be told"),
])  # fmt: skip
def test_verdicts(low, high, said):
    assert effects.verdict(low, high) == said


def test_power_by_simulation():
    rng = np.random.default_rng(0)
    t = stats.ttest_1samp(rng.normal(0.3, 0.4, (20_000, 11)), 0, axis=1)
    assert effects.power(0.3, 0.4, 11) == pytest.approx((t.pvalue < 0.05).mean(), abs=0.01)
    assert effects.power(0.0, 0.4, 11) == pytest.approx(0.05) and np.isnan(effects.power(0.3, 0.0, 11))


def test_powers_of_a_pilot_and_of_the_paper(study):
    pilot = effects.powers(study).set_index("contrast")
    row = pilot.loc["BL - STC"]
    assert 0.05 <= row["power"] <= 1 and (
        np.isnan(row["needed"]) or effects.power(0.3, row["sd"], row["needed"]) >= 0.8
    )
    own = 100 * comparison.run_scores(study).query("task == 'mean'").groupby("variant")["kappa"].std()
    assert row["sd"] == pytest.approx(np.hypot(own["bl"], own["stc"])), "two seeds are not enough to pair runs"
    paper = effects.paper_powers().set_index(["backbone", "contrast"])
    row = paper.loc["densenet121", "LIM-MS_ALL - BL"]
    assert row["difference"] == pytest.approx(82.79 - 82.01, abs=0.01)
    assert row["sd"] == pytest.approx(np.sqrt(2) * (84.49 - 83.96) / 1.586, abs=0.001)  # 1.586: tabled for n = 11


def test_the_file_names_its_source(study, tmp_path):
    (tmp_path / "leaves").mkdir()
    of_leaves = replace(study, runs=study.runs.assign(synthetic=False))
    effects.write_summaries(of_leaves, tmp_path / "leaves")
    table = pd.read_csv(tmp_path / "leaves/effects.csv")
    assert list(table) == ["contrast", "estimate", "low", "high", "runs", "source"] and set(table["source"]) == {
        "leaves"
    }
    told = effects.effects(study).query("family in @effects.DECISIVE")
    np.testing.assert_allclose(table["estimate"], told["estimate"], atol=1e-4)
