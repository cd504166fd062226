import os
import subprocess
import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest
from fake_city import fake_predictions

from mtclim import SANTIAGO, Tasks
from mtclim.mapping import exposure, frequencies

gem_taxonomy = pytest.importorskip("openquake.gem_taxonomy", reason="pip install 'mtclim[exposure]'")
READER = """
import sys
from openquake.risklib.asset import Exposure
exposure = Exposure.read_all([sys.argv[1]])
print(len(exposure.assets), float(exposure.assets["value-number"].sum()), *sorted(exposure.tagcol.taxonomy[1:]))
"""


def engine_python():
    """A Python that has the OpenQuake engine: this one, or the one that MTCLIM_OPENQUAKE_PYTHON names."""
    python = os.environ.get("MTCLIM_OPENQUAKE_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import openquake.risklib.asset"], capture_output=True)
    if found.returncode:
        pytest.skip("the OpenQuake engine is not installed; MTCLIM_OPENQUAKE_PYTHON may name a Python that has it")
    return python


@pytest.mark.parametrize("path", [exposure.SANTIAGO_MAPPING, exposure.SBST_MAPPING])
def test_packaged_tables_map_every_class_to_valid_strings(path):
    mapping = exposure.read_mapping(path)
    for task, classes in mapping.items():
        assert tuple(classes) == SANTIAGO[task]


def test_every_combination_of_santiago_classes_is_a_valid_string():
    mapping = exposure.read_mapping()
    labels = pd.DataFrame(list(product(*(SANTIAGO[task] for task in mapping))), columns=list(mapping))
    strings = exposure.gem_strings(labels, mapping)
    taxonomy = gem_taxonomy.GemTaxonomy("4")
    assert all(taxonomy.validate(text)[-1]["is_canonical"] for text in strings.unique())
    assert len(labels) == 6 * 7 * 3 * 5


def test_known_strings():
    labels = pd.DataFrame(
        {
            "height": ["H13+", "H1", None], "mat_llrs": ["CR", "W,UNK", None],
            "roof_shape": ["FLT", "PIT_MON", None], "block_position": ["DET_MP", "ADJ_TR", None],
        },
        index=[7, 3, 5],
    )  # fmt: skip
    strings = exposure.gem_strings(labels)
    assert strings.tolist() == ["CR/H:>12/BPD/RSH1", "H:1/BP2/RSH5", "UNK"]
    assert strings.index.tolist() == [7, 3, 5]


def test_mapping_of_ones_own_tasks(tmp_path):
    (tmp_path / "own.csv").write_text("task,class,gem\nwall,brick,MUR+CLBRS\nwall,other,\n")
    mapping = exposure.read_mapping(tmp_path / "own.csv")
    assert mapping == {"wall": {"brick": ("MUR+CLBRS",), "other": ()}}
    (tmp_path / "bad.csv").write_text("task,class,gem\nwall,brick,BRICK\n")
    with pytest.raises(ValueError, match="'BRICK' is not a string of the GEM"):
        exposure.read_mapping(tmp_path / "bad.csv")
    (tmp_path / "twice.csv").write_text("task,class,gem\nwall,brick,MUR\nwall,brick,MCF\n")
    with pytest.raises(ValueError, match="mapped twice"):
        exposure.read_mapping(tmp_path / "twice.csv")
    with pytest.raises(ValueError, match="no row for class 'glass'"):
        exposure.gem_strings(pd.DataFrame({"wall": ["glass"]}), mapping)


def test_counts_agree_with_brute_force():
    frame = fake_predictions(60, seed=1)
    tasks = {task: SANTIAGO[task] for task in ("mat_llrs", "height")}
    counts = exposure.exposure(frame, tasks, tail=0.0)
    mapping = exposure.read_mapping()
    pairs = list(product(tasks["mat_llrs"], tasks["height"]))
    texts = [exposure.gem_strings(pd.DataFrame({"mat_llrs": [a], "height": [b]}), mapping)[0] for a, b in pairs]
    expected, best = {}, {}
    for _, row in frame.iterrows():
        for (a, b), text in zip(pairs, texts, strict=True):
            key = (row["block"], text)
            expected[key] = expected.get(key, 0) + float(row[f"mat_llrs:p:{a}"]) * float(row[f"height:p:{b}"])
            best[key] = best.get(key, 0) + (row["mat_llrs:pred"] == a) * (row["height:pred"] == b)
    for row in counts.itertuples():
        assert row.expected == pytest.approx(expected[row.block, row.taxonomy], abs=1e-6)
        assert row.argmax == best[row.block, row.taxonomy]
    assert counts["expected"].sum() == pytest.approx(60, abs=1e-3)


def test_tail_keeps_the_totals_of_blocks():
    frame = fake_predictions(500, seed=2)
    whole, short = (exposure.exposure(frame, SANTIAGO, tail=tail) for tail in (0.0, 0.05))
    assert len(short) < len(whole)
    totals = frame.groupby("block").size()
    pd.testing.assert_series_equal(
        short.groupby("block")["expected"].sum(), totals.astype(float), check_names=False, rtol=1e-5
    )
    assert short["argmax"].sum() == 500


def test_photographs_of_one_building_are_averaged_and_weights_count():
    frame = fake_predictions(4, seed=3).assign(block="b", building=["x", "x", None, None], weight=[3.0, 3.0, 1.0, 2.0])
    counts = exposure.exposure(frame, SANTIAGO, tail=0.0)
    assert counts["expected"].sum() == pytest.approx(6, abs=1e-5)
    assert counts["argmax"].sum() == pytest.approx(6)
    stock = exposure.buildings(frame, SANTIAGO)
    assert len(stock) == 3
    name = "height:p:H1"
    assert stock[name].iloc[0] == pytest.approx(frame[name].iloc[:2].mean())


@pytest.mark.parametrize("kind", ["expected", "argmax"])
def test_openquake_engine_reads_the_exposure(tmp_path, kind):
    python = engine_python()
    counts = exposure.exposure(fake_predictions(300, seed=4), SANTIAGO)
    path = exposure.write_openquake(counts, tmp_path, kind)
    read = subprocess.run([python, "-c", READER, str(path)], capture_output=True, text=True, check=True)
    number, total, *taxonomies = read.stdout.split()
    kept = counts[counts[kind] > 0]
    assert int(number) == len(kept)
    assert float(total) == pytest.approx(300, abs=1e-2)
    assert taxonomies == sorted(kept["taxonomy"].unique())


def test_openquake_files_say_facades_and_have_no_costs(tmp_path):
    counts = exposure.exposure(fake_predictions(50), SANTIAGO)
    text = exposure.write_openquake(counts, tmp_path).read_text(encoding="utf-8")
    assert "façades" in text and "<costTypes/>" in text
    with pytest.raises(ValueError, match="'expected' or 'argmax'"):
        exposure.write_openquake(counts, tmp_path, "guess")


def test_csv_cells_are_not_formulas(tmp_path):
    tasks = Tasks({"roof": ["=1+1", "@x"]})
    frame = pd.DataFrame({"image": ["=cmd|' /C calc'!A0", "b.jpg"], "lon": [-70.5, 1.0], "roof:pred": ["=1+1", "@x"]})
    frame[["roof:p:=1+1", "roof:p:@x"]] = [[0.9, 0.1], [0.2, 0.8]]
    mapping = {"roof": {"=1+1": (), "@x": ("RSH1",)}}
    path = exposure.write_csv(exposure.attributes(frame, tasks, mapping), tmp_path / "flat.csv")
    read = pd.read_csv(path)
    assert read["image"].tolist() == ["'=cmd|' /C calc'!A0", "b.jpg"]
    assert read["roof"].tolist() == ["'=1+1", "'@x"]
    assert read["lon"].tolist() == [-70.5, 1.0]
    assert read["gem"].tolist() == ["UNK", "RSH1"]
    exposure.write_csv(pd.DataFrame({0: ["+1"], 1: [2.5]}), path)
    assert path.read_text(encoding="utf-8") == "0,1\n'+1,2.5\n"


def test_tasks_that_the_mapping_does_not_cover_are_named():
    tasks = Tasks({"height": ["1", "2"], "roof_shape": ["FLT", "PIT_GAB"], "colour": ["red", "blue"]})
    used, left_out = exposure.covered(tasks, exposure.read_mapping())
    assert used == {"roof_shape": ("FLT", "PIT_GAB")}
    assert left_out == ["height: the mapping has no row for 1, 2", "colour: the mapping has no such task"]
    frame = exposure.attributes(fake_predictions(20, tasks), tasks)
    assert set(frame["gem"]) <= {"RSH1", "RSH2"}
    bare = Tasks({"colour": ["red", "blue"]})
    assert "gem" not in exposure.attributes(fake_predictions(20, bare), bare)


# ------------------------------------------------------------------ from predictions to frequencies


def shifted(n, shares, rng, sharp=2.0):
    """A classifier with known class-conditional outputs: probabilities by Bayes for equal priors."""
    true = rng.choice(len(shares), n, p=shares)
    x = rng.normal(np.eye(len(shares))[true] * sharp, 1.0)
    p = np.exp(x * sharp)
    return true, p / p.sum(1, keepdims=True)


def as_frame(true, p, classes):
    frame = pd.DataFrame(p, columns=[f"t:p:{name}" for name in classes])
    return frame.assign(**{"t:true": np.array(classes)[true], "t:pred": np.array(classes)[p.argmax(1)]})


def test_corrections_recover_the_city_frequencies():
    rng = np.random.default_rng(0)
    tasks, truth = {"t": ("a", "b", "c")}, np.array([0.8, 0.15, 0.05])
    validation = as_frame(*shifted(6000, np.ones(3) / 3, rng), tasks["t"])
    city = as_frame(*shifted(20000, truth, rng), tasks["t"])
    city = frequencies.calibrate(city, validation, tasks)
    result = frequencies.corrected_frequencies(city, validation, tasks)
    error = frequencies.total_variation(result).loc["t"]
    assert error["raw"] > 0.08
    assert error["em"] < error["raw"] / 2 and error["confusion"] < 0.02
    p = frequencies.probabilities(city, "t", tasks["t"])
    likeliest = frequencies.em_estimate(p, result["balanced"].to_numpy(), prior=0)
    assert np.abs(likeliest - truth).sum() / 2 < 0.01
    for method in ("em", "confusion"):
        better = frequencies.reweighted(city, result, tasks, method)
        assert (better["t:pred"] == better["t:true"]).mean() > (city["t:pred"] == city["t:true"]).mean()
        assert np.allclose(frequencies.probabilities(better, "t", tasks["t"]).sum(1), 1, atol=1e-5)
        assert np.allclose(frequencies.probabilities(better, "t", tasks["t"]).mean(0), truth, atol=0.04)
    with pytest.raises(ValueError, match="expected one of expected, confusion, em"):
        frequencies.reweighted(city, result, tasks, "raw")


def test_calibration_gives_the_frequencies_that_it_was_fitted_on():
    rng = np.random.default_rng(3)
    tasks = {"t": ("a", "b", "c")}
    true, p = shifted(2000, [0.6, 0.3, 0.1], rng)
    skewed = p**2 * [1.0, 3.0, 0.3]  # too sure, and leaning to the second class
    validation = as_frame(true, skewed / skewed.sum(1, keepdims=True), tasks["t"])
    mended = frequencies.probabilities(frequencies.calibrate(validation, validation, tasks), "t", tasks["t"])
    assert np.allclose(mended.mean(0), np.bincount(true) / len(true), atol=1e-3)
    before = frequencies.probabilities(validation, "t", tasks["t"])
    rows = np.arange(len(true))
    assert -np.log(mended[rows, true]).mean() < -np.log(before[rows, true]).mean() - 0.01
    expected = frequencies.reweighted(
        validation, frequencies.corrected_frequencies(validation, validation, tasks), tasks, "expected"
    )
    assert np.allclose(frequencies.probabilities(expected, "t", tasks["t"]), before, atol=1e-6)


def test_without_shift_nothing_changes():
    rng = np.random.default_rng(1)
    tasks = {"t": ("a", "b")}
    validation, city = (as_frame(*shifted(8000, [0.5, 0.5], rng), tasks["t"]) for _ in range(2))
    result = frequencies.corrected_frequencies(city, validation, tasks)
    assert np.allclose(result[["confusion", "em"]], 0.5, atol=0.02)


def test_a_class_absent_from_validation_gets_nothing():
    rng = np.random.default_rng(2)
    tasks = {"t": ("a", "b", "c")}
    true, p = shifted(500, [0.5, 0.5, 0.0], rng)
    validation, city = as_frame(true, p, tasks["t"]), as_frame(*shifted(500, np.ones(3) / 3, rng), tasks["t"])
    result = frequencies.corrected_frequencies(city, validation, tasks).set_index("class")
    assert result.loc["c", ["confusion", "em"]].tolist() == [0, 0]
    assert np.isfinite(result[["confusion", "em"]].to_numpy()).all()


def test_confusion_estimate_is_exact_for_exact_rates():
    rates = np.array([[0.7, 0.1, 0.2], [0.2, 0.8, 0.1], [0.1, 0.1, 0.7]])
    true = np.repeat(np.arange(3), 10)
    predicted = np.concatenate([np.repeat(np.arange(3), np.rint(rates[:, k] * 10).astype(int)) for k in range(3)])
    shares = np.array([0.6, 0.3, 0.1])
    assert np.allclose(frequencies.confusion_estimate(true, predicted, rates @ shares), shares, atol=1e-6)
