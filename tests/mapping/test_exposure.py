import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_city import fake_predictions
from scipy.stats import gmean

from mtclim import SANTIAGO, Tasks
from mtclim.analysis.joint import Joint, fit_joint
from mtclim.mapping import exposure, frequencies
from mtclim.mapping.photographs import write_csv

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


@pytest.mark.parametrize("name", ["gem_santiago.csv", "gem_santiago_sbst.csv"])
def test_packaged_tables_map_every_class_to_valid_strings(name):
    mapping = exposure.read_mapping(Path(exposure.__file__).with_name(name))
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
    (tmp_path / "office.csv").write_text("Task; Class ;GEM\nwall;brick;MUR+CLBRS\nwall;other;\n")
    assert exposure.read_mapping(tmp_path / "office.csv") == mapping
    (tmp_path / "two.csv").write_text("task,class,gem,GEM\nwall,brick,MUR,MUR\n")
    with pytest.raises(ValueError, match="each once"):
        exposure.read_mapping(tmp_path / "two.csv")
    (tmp_path / "bad.csv").write_text("task,class,gem\nwall,brick,BRICK\n")
    with pytest.raises(ValueError, match="bad.csv: correct the gem of wall:brick, .* 'BRICK' is not a string of"):
        exposure.read_mapping(tmp_path / "bad.csv")
    (tmp_path / "twice.csv").write_text("task,class,gem\nwall,brick,MUR\nwall,brick,MCF\n")
    with pytest.raises(ValueError, match="mapped twice"):
        exposure.read_mapping(tmp_path / "twice.csv")
    with pytest.raises(ValueError, match="no row for class 'glass'"):
        exposure.gem_strings(pd.DataFrame({"wall": ["glass"]}), mapping)


def test_counts_agree_with_brute_force():
    frame = fake_predictions(60, seed=1)
    tasks = Tasks({task: SANTIAGO[task] for task in ("mat_llrs", "height")})
    counts = exposure.exposure(frame, tasks)
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


def test_counts_that_the_files_have_no_digits_for_are_dropped_and_totals_stay():
    counts = exposure.exposure(fake_predictions(500, seed=2), SANTIAGO)
    written = counts[["expected", "argmax"]]
    assert ((written == 0) | (written.round(6) > 0)).all(axis=None)
    totals = fake_predictions(500, seed=2).groupby("block").size()
    pd.testing.assert_series_equal(
        counts.groupby("block")["expected"].sum(), totals.astype(float), check_names=False, rtol=1e-5
    )
    assert counts["argmax"].sum() == 500
    light = exposure.exposure(fake_predictions(500, seed=2).assign(weight=1e-4), SANTIAGO)
    assert len(light) < len(counts) and light["expected"].sum() == pytest.approx(500e-4, rel=1e-6)
    nothing = exposure.exposure(fake_predictions(5).assign(weight=1e-9), SANTIAGO)
    assert (nothing["expected"] == 0).all() and nothing["argmax"].gt(0).all()


def test_photographs_of_one_building_give_one_answer_and_weights_count():
    frame = fake_predictions(5, seed=3).assign(block="b", building=["x", "x", None, "", np.nan])
    frame["weight"] = [3.0, 3.0, 1.0, 2.0, np.nan]
    counts = exposure.exposure(frame, SANTIAGO)
    assert counts["expected"].sum() == pytest.approx(7, abs=1e-5)
    assert counts["argmax"].sum() == pytest.approx(7)
    stock = exposure.buildings(frame, SANTIAGO)
    assert len(stock) == 4
    names = [f"height:p:{name}" for name in SANTIAGO["height"]]
    p = gmean(frame[names].iloc[:2])
    assert stock[names].iloc[0].tolist() == pytest.approx((p / p.sum()).tolist())
    np.testing.assert_allclose(stock[names].iloc[1:], frame[names].iloc[2:], rtol=1e-6)


# ------------------------------------------------------------------ the joint

SMALL = Tasks({"height": ["H1", "H2"], "mat_llrs": ["MUR", "CR"], "kind": ["a", "b", "c"]})
LABELSETS = np.array([[0, 0, 0], [1, 1, 1], [1, 1, 2], [0, -1, 2]])


def test_expected_counts_are_sums_of_the_joint_posterior():
    """Against a loop over façades, labelsets and, where training had no label, classes."""
    frame = fake_predictions(40, SMALL, seed=5)
    joint = Joint(SMALL, LABELSETS, np.log([1.3, 0.8, 1.1, 0.9]), 0.5)
    counts = exposure.exposure(frame, SMALL, joint=joint)
    expected: dict = {}
    for _, row in frame.iterrows():
        p = {task: [float(row[f"{task}:p:{name}"]) for name in names] for task, names in SMALL.items()}
        posterior = []
        for labels, ratio in zip(LABELSETS, [1.3, 0.8, 1.1, 0.9], strict=True):
            known = [p[task][k] for task, k in zip(SMALL, labels, strict=True) if k >= 0]
            posterior.append(np.prod(known) * ratio**0.5)
        posterior = np.array(posterior) / sum(posterior)
        for labels, weight in zip(LABELSETS, posterior, strict=True):
            for material in range(2):
                share = p["mat_llrs"][material] if labels[1] < 0 else float(labels[1] == material)
                text = f"{SMALL['mat_llrs'][material]}/H:{labels[0] + 1}"
                key = (row["block"], text)
                expected[key] = expected.get(key, 0) + weight * share
    found = {(row.block, row.taxonomy): row.expected for row in counts.itertuples()}
    assert found.keys() >= {key for key, value in expected.items() if value > 0}
    for key, value in found.items():
        assert value == pytest.approx(expected.get(key, 0), abs=1e-6)


def joint_fit(labelsets, counts):
    def fit(answers):
        p = {task: frequencies.probabilities(answers, task, names) for task, names in SMALL.items()}
        true = np.stack([pd.Index(c).get_indexer(answers[f"{task}:true"]) for task, c in SMALL.items()], axis=1)
        return fit_joint(p, true, labelsets, counts, SMALL)

    return fit


def test_ways_of_counting_are_compared_outside_the_blocks_that_were_used():
    rng = np.random.default_rng(0)
    labelsets, n = LABELSETS[:3], 4000
    which = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    frame = fake_predictions(n, SMALL)[["image", "lon", "lat", "block", "municipality"]]
    for t, (task, names) in enumerate(SMALL.items()):
        true = labelsets[which, t]
        p = np.exp(rng.normal(1.2 * np.eye(len(names))[true], 1.0))
        p /= p.sum(1, keepdims=True)
        frame[[f"{task}:p:{name}" for name in names]] = p
        frame[f"{task}:true"], frame[f"{task}:pred"] = np.array(names)[true], np.array(names)[p.argmax(1)]
    fitted = dict(zip(frame["block"].unique(), ("train", "val"), strict=False))
    frame["split"] = frame["block"].map(fitted)
    frame.loc[frame["split"].notna(), [f"height:p:{name}" for name in SMALL["height"]]] = [0.0, 1.0]  # must not count
    validation, city = frame[:2000], frame[2000:]
    result = exposure.compare(city, validation, SMALL, joint_fit(labelsets, np.array([6, 3, 1])))
    assert result["method"].unique().tolist() == ["argmax", "product", "joint"] and len(result) == 12
    city_level = result[result["level"] == "city"].set_index(["method", "calibrated"])
    assert city_level.loc[("joint", True), "total_variation"] < city_level.loc[("product", True), "total_variation"] / 2
    assert city_level.loc[("joint", True), "impossible"] == 0 < city_level.loc[("product", True), "impossible"]
    towns = result[result["level"] == "municipality"]["total_variation"].to_numpy()
    assert (towns >= city_level["total_variation"].to_numpy() - 1e-9).all() and (towns <= 1).all()
    judged = city[frequencies.apart(city)]
    blocks = exposure.exposure(judged, SMALL)
    true = exposure.gem_strings(pd.DataFrame({task: judged[f"{task}:true"] for task in SMALL})).value_counts()
    off = blocks.groupby("taxonomy")["expected"].sum().sub(true, fill_value=0).abs().sum() / 2 / len(judged)
    found = result.set_index(["method", "calibrated", "level"]).loc[("product", False, "city")]
    assert found["total_variation"] == pytest.approx(off) and found["lines"] == (blocks["expected"] > 0).sum()


# ------------------------------------------------------------------ files of the engine


def test_a_mapping_to_vulnerability_classes_is_offered_and_checked(tmp_path):
    counts = exposure.exposure(fake_predictions(50), SANTIAGO)
    exposure.write_openquake(counts, tmp_path)
    template = pd.read_csv(tmp_path / "exposure_expected_mapping.csv", keep_default_na=False)
    assert template.columns.tolist() == ["taxonomy", "conversion", "weight"]
    assert template["taxonomy"].tolist() == sorted(counts["taxonomy"].unique())
    exposure.write_openquake(counts[counts["taxonomy"] > "CR"].assign(argmax=0), tmp_path / "few", "argmax")
    both = pd.read_csv(tmp_path / "few" / "exposure_argmax_mapping.csv")["taxonomy"]
    assert both.tolist() == sorted(counts.loc[counts["taxonomy"] > "CR", "taxonomy"].unique())
    with pytest.raises(ValueError, match="no conversion for 'CR"):
        exposure.read_conversions(tmp_path / "exposure_expected_mapping.csv")
    half = pd.concat([template.assign(conversion=name, weight="0,5") for name in ("low", "high")])
    half.to_csv(tmp_path / "filled.csv", index=False, sep=";")
    read = exposure.read_conversions(tmp_path / "filled.csv")
    assert read["weight"].eq(0.5).all() and len(read) == 2 * len(template)
    exposure.write_openquake(counts, tmp_path, conversions=read)
    assert pd.read_csv(tmp_path / "exposure_expected_mapping.csv")["conversion"].isin(["low", "high"]).all()
    with pytest.raises(ValueError, match="found no line for"):
        exposure.write_openquake(counts, tmp_path, conversions=read[read["taxonomy"] != read["taxonomy"][0]])
    thirds = pd.DataFrame({"taxonomy": "CR", "risk_id": list("abc"), "weight": ["0.333", "0.333", 0.3335]})
    thirds.to_csv(tmp_path / "thirds.csv", index=False)
    assert exposure.read_conversions(tmp_path / "thirds.csv")["weight"].sum() == pytest.approx(1, abs=1e-9)
    thirds[:1].drop(columns="weight").to_csv(tmp_path / "one.csv", index=False)
    assert exposure.read_conversions(tmp_path / "one.csv").to_numpy().tolist() == [["CR", "a", 1.0]]
    half[1:].to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(ValueError, match="do not sum to 1"):
        exposure.read_conversions(tmp_path / "short.csv")


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


def test_weights_below_zero_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("taxonomy,conversion,weight\nCR,a,1.5\nCR,b,-0.5\n")
    with pytest.raises(ValueError, match="weights of 'CR' do not sum to 1; give each taxonomy shares"):
        exposure.read_conversions(tmp_path / "t.csv")


def test_too_many_combinations_of_classes_are_refused():
    tasks = Tasks({task: [f"{task}{k}" for k in range(200)] for task in "abc"})
    mapping = {task: dict.fromkeys(classes, ()) for task, classes in tasks.items()}
    with pytest.raises(ValueError, match="200 x 200 x 200 combinations; map fewer tasks"):
        exposure.exposure(pd.DataFrame(), tasks, mapping)


def test_files_of_the_engine_list_what_is_there(tmp_path):
    counts = exposure.exposure(fake_predictions(300, seed=4), SANTIAGO)
    assert (counts["argmax"] == 0).any()
    exposure.write_openquake(counts, tmp_path, "argmax")
    written = pd.read_csv(tmp_path / "exposure_argmax.csv")
    assert (written["number"] > 0).all() and written["number"].sum() == 300


def test_openquake_files_say_facades_and_have_no_costs(tmp_path):
    counts = exposure.exposure(fake_predictions(50), SANTIAGO)
    text = exposure.write_openquake(counts, tmp_path).read_text(encoding="utf-8")
    assert "façades" in text and "<costTypes/>" in text


def test_csv_cells_are_not_formulas(tmp_path):
    tasks = Tasks({"roof": ["=1+1", "@x"]})
    frame = pd.DataFrame({"image": ["=cmd|' /C calc'!A0", "b.jpg"], "lon": [-70.5, 1.0], "roof:pred": ["=1+1", "@x"]})
    frame[["roof:p:=1+1", "roof:p:@x"]] = [[0.9, 0.1], [0.2, 0.8]]
    mapping = {"roof": {"=1+1": (), "@x": ("RSH1",)}}
    path = write_csv(exposure.attributes(frame, tasks, mapping), tmp_path / "flat.csv")
    read = pd.read_csv(path)
    assert read["image"].tolist() == ["'=cmd|' /C calc'!A0", "b.jpg"]
    assert read["roof:pred"].tolist() == ["'=1+1", "'@x"]
    assert read["lon"].tolist() == [-70.5, 1.0]
    assert read["gem"].tolist() == ["UNK", "RSH1"]
    write_csv(pd.DataFrame({0: ["+1+1", "-4711"], 1: [2.5, 3]}), path)  # numbers of OpenStreetMap may be negative
    assert path.read_text(encoding="utf-8") == "0,1\n'+1+1,2.5\n-4711,3.0\n"
    write_csv(pd.DataFrame({0: ["+1+1"], 1: [2.5]}), path, exact=True)
    assert path.read_text(encoding="utf-8") == "0,1\n+1+1,2.5\n"


def test_classes_that_have_no_string_together_are_named_before_anything_is_counted(tmp_path):
    tasks = Tasks({"height": ["1", "2"], "storeys": ["low", "high"]})
    rows = ["height,1,H:1", "height,2,UNK", "storeys,low,H:2", "storeys,high,"]
    (tmp_path / "gem.csv").write_text("\n".join(["task,class,gem", *rows]))
    mapping = exposure.read_mapping(tmp_path / "gem.csv")
    assert mapping["height"]["2"] == (), "UNK alone says nothing"
    with pytest.raises(ValueError, match="height:1, storeys:low have no string together"):
        exposure.covered(tasks, mapping)
    many = Tasks({name: [f"{name}{k}" for k in range(150)] for name in "abc"})
    with pytest.raises(ValueError, match="150 x 150 x 150 combinations"):
        exposure.covered(many, {task: dict.fromkeys(classes, ()) for task, classes in many.items()})


def test_blocks_on_both_sides_of_180_degrees_lie_there():
    tasks = Tasks({"height": ["H1", "H2"]})
    frame = fake_predictions(4, tasks).assign(lon=[179.9, -179.8, 179.8, -179.9], lat=-17.0, block="x", building="b")
    for stock in (frame, frame.drop(columns="building")):
        assert np.abs(exposure.exposure(stock, tasks)["lon"]).to_numpy() == pytest.approx(180)
    for empty in (frame[:0], frame.drop(columns=["lon", "lat"])):
        with pytest.raises(ValueError, match="found no position in"):
            exposure.exposure(empty, tasks)


def test_tasks_that_the_mapping_does_not_cover_are_named():
    tasks = Tasks({"height": ["1", "2"], "roof_shape": ["FLT", "PIT_GAB"], "colour": ["red", "blue"]})
    used, left_out = exposure.covered(tasks, exposure.read_mapping())
    assert used == {"roof_shape": ("FLT", "PIT_GAB")}
    assert left_out == ["height: the mapping has no row for 1, 2", "colour: the mapping has no such task"]
    frame = exposure.attributes(fake_predictions(20, tasks), tasks)
    assert set(frame["gem"]) <= {"RSH1", "RSH2"}
    said = fake_predictions(20, tasks).assign(**{"colour:pred": "red"})  # not always the most probable one
    found = exposure.attributes(said, tasks)["colour:probability"]
    assert found.tolist() == pytest.approx(said["colour:p:red"].tolist(), abs=1e-4) and (found < 0.5).any()
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


def test_only_blocks_that_neither_training_nor_validation_used_are_judged():
    frame = pd.DataFrame({"block": list("aabbcc"), "split": ["train", None, None, "val", "test", None]})
    assert frequencies.apart(frame).tolist() == [False] * 4 + [True] * 2


def test_the_calibrated_mean_corrects_counts_in_part():
    rng = np.random.default_rng(0)
    tasks, truth = {"t": ("a", "b", "c")}, np.array([0.8, 0.15, 0.05])
    validation = as_frame(*shifted(6000, np.ones(3) / 3, rng), tasks["t"])
    city = as_frame(*shifted(20000, truth, rng), tasks["t"])
    city = frequencies.calibrate(city, validation, tasks)
    result = frequencies.class_frequencies(city, validation, tasks)
    assert np.allclose(result["truth"], truth, atol=0.02) and np.allclose(result["balanced"], 1 / 3, atol=0.03)
    assert np.allclose(result["raw"], city["t:pred"].value_counts(normalize=True)[["a", "b", "c"]])
    error = result[["raw", "expected"]].sub(result["truth"], axis=0).abs().sum() / 2
    assert 0.08 < error["raw"] and error["expected"] < error["raw"] + 0.05


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


def test_a_class_without_a_validation_label_keeps_its_probability():
    rng = np.random.default_rng(1)
    tasks = {"t": ("a", "b", "c")}
    true, p = shifted(3000, [0.7, 0.3, 0.0], rng)
    city = as_frame(true, p, tasks["t"])
    mended = frequencies.probabilities(frequencies.calibrate(city, city, tasks), "t", tasks["t"])
    assert np.allclose(mended[:, 2], p[:, 2]) and np.allclose(mended.sum(1), 1)
    alone, two = p[:, :2] / p[:, :2].sum(1, keepdims=True), {"t": ("a", "b")}
    alone = as_frame(true, alone, two["t"])
    shares = frequencies.probabilities(frequencies.calibrate(alone, alone, two), "t", two["t"])
    assert np.allclose(mended[:, :2], (1 - p[:, 2:]) * shares, atol=1e-5)


def test_a_task_without_a_validation_label_has_no_balanced_share_and_stays_as_it_is():
    rng = np.random.default_rng(2)
    tasks = {"t": ("a", "b", "c")}
    true, p = shifted(50, [0.5, 0.5, 0.0], rng)
    city = as_frame(true, p, tasks["t"])
    validation = city.assign(**{"t:true": None})
    same = frequencies.calibrate(city, validation, tasks)
    pd.testing.assert_frame_equal(same, city)
    result = frequencies.class_frequencies(same, validation, tasks)
    assert result["balanced"].isna().all() and result[["raw", "expected", "truth"]].notna().all(axis=None)
    unknown = frequencies.class_frequencies(city.assign(**{"t:true": [None] + ["a"] * 49}), validation, tasks)
    assert unknown["truth"].isna().all()
