"""The grid of cities: scores kept and added to, paired gains, sentences made from the numbers."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run
from scipy import stats

from mtclim import Tasks
from mtclim.analysis import grid

SMALL = Tasks({"height": ["H1", "H2", "H3-4"], "variant": ["FLT", "PIT"]})


def scores(seeds: int, gain: float = 0.02) -> pd.DataFrame:
    """Invented: everyone gains 10 points from interdependency, lim_ms_all a little more, nothing from ambiguity."""
    rng, rows = np.random.default_rng(0), []
    for i, a, s, variant in product((0.0, 1.0), (0.1, 0.6), range(seeds), ("bl", "bl_fc", "lim_ms_all")):
        kappa = 0.5 + 0.1 * i + gain * i * (variant == "lim_ms_all") + rng.normal(0, 1e-4)
        rows.append({"interdependency": i, "ambiguity": a, "variant": variant, "seed": s, "mean:kappa": kappa})
    return pd.DataFrame(rows)


def write(root, level: float, kappa: float, code: str = "c0de"):
    """One finished run of a grid."""
    folder = write_run(root / f"i{level}-{kappa}", SMALL, "bl", 0, n=40, code=code)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"{text}interdependency: {level}\nambiguity: 0.3\n")
    part = {"kappa": kappa}
    (folder / "metrics.json").write_text(json.dumps({"test": {"height": part, "variant": part, "mean": part}}))
    return folder.parents[2]


def test_scores_are_kept_and_added_to(tmp_path):
    grid.write_grid(write(tmp_path, 0.0, 0.5), tmp_path / "out")
    grid.write_grid(write(tmp_path, 1.0, 0.6), tmp_path / "out")
    grid.write_grid(write(tmp_path, 1.0, 0.7), tmp_path / "out")  # made again
    table = pd.read_csv(tmp_path / "out/grid_runs.csv")
    assert table[["interdependency", "seed", "mean:kappa"]].to_numpy().tolist() == [[0.0, 0, 0.5], [1.0, 0, 0.7]]
    assert table["variant"].tolist() == ["bl", "bl"], "a task of the same name does not take its place"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"grid_runs.csv", "grid.csv", "grid.svg"}
    with pytest.raises(ValueError, match="different states of the code"):
        grid.grid_scores(write(tmp_path, 0.5, 0.7, code="other"), tmp_path / "out/grid_runs.csv")
    with pytest.raises(FileNotFoundError, match="make grid"):
        grid.grid_scores(tmp_path / "none", tmp_path / "none.csv")


def test_gains_are_those_of_welch():
    table = scores(4)
    row = grid.grid_gains(table, "lim_ms_all", "bl").query("interdependency == 1 and ambiguity == 0.6").squeeze()
    cell = table.query("interdependency == 1 and ambiguity == 0.6").pivot(index="seed", columns="variant")["mean:kappa"]
    ours, theirs = (100 * cell[name].to_numpy() for name in ("lim_ms_all", "bl"))
    error = np.sqrt(ours.var(ddof=1) / 4 + theirs.var(ddof=1) / 4)
    freedom = error**4 / ((ours.var(ddof=1) / 4) ** 2 / 3 + (theirs.var(ddof=1) / 4) ** 2 / 3)
    half = stats.t.ppf(0.975, freedom) * error
    expected = (ours.mean() - theirs.mean(), *(ours.mean() - theirs.mean() + half * side for side in (-1, 1)))
    assert row["n"] == 4 and (row["mean"], row["low"], row["high"]) == pytest.approx(expected)
    fewer = table[(table["variant"] != "bl") | (table["seed"] > 0)]
    assert (grid.grid_gains(fewer, "lim_ms_all", "bl")["n"] == 3).all(), "the fewest runs"


def test_a_network_changes_along_a_dial():
    table = scores(4)
    assert grid.trend(table, "bl", "interdependency")[0] == pytest.approx(10, abs=0.1)
    assert grid.trend(table, "lim_ms_all", "interdependency")[0] == pytest.approx(12, abs=0.1)
    assert np.isnan(grid.trend(scores(1), "bl", "interdependency")[1]), "one realisation has no interval"
    assert grid.trend(table[table["interdependency"] == 1], "bl", "interdependency") is None
    harder = table.assign(**{"mean:kappa": table["mean:kappa"] - table["ambiguity"]})
    partial = harder.query("interdependency == 0 or ambiguity == 0.1")  # only the easy city at the other end
    assert grid.trend(partial, "bl", "interdependency")[0] == pytest.approx(10, abs=0.1)


def test_the_figure_draws_partial_grids():
    assert len(grid.figure(scores(2)).axes) == 4
    table = scores(1)
    grid.figure(table[table["variant"] == "bl"], synthetic=True)
