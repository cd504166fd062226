"""The book: its pages name what exists, its extension does what it says, a page loads nothing from elsewhere."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_runs import write_run
from scipy import stats
from sklearn.metrics import cohen_kappa_score

import mtclim
from mtclim import SANTIAGO
from mtclim.analysis.comparison import class_scores, run_scores
from mtclim.analysis.study import load_study
from mtclim.variants import title

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "book"
PAGES = sorted([*BOOK.glob("*.md"), *BOOK.glob("api/*.md")])
NAME = re.compile(r"`(mtclim(?:\.\w+)+)`")
NASTY = "<b>a</b>`{doc}`*x*_y_[z](w)|$q$|<script>document.title=1</script>"


def toc() -> list[str]:
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter for part in parts["parts"] for chapter in part["chapters"]]
    return [parts["root"], *(entry["file"] for each in chapters for entry in (each, *each.get("sections", [])))]


def test_every_page_is_in_the_contents_and_exists():
    chapters = {f"book/chapters/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    written = {path.relative_to(ROOT).with_suffix("").as_posix() for path in PAGES}
    assert len(toc()) == len(set(toc())) and written <= set(toc())
    assert chapters <= set(toc()) <= written | {f"book/chapters/{name}" for name in extension().CHAPTERS}


def extension(name: str = "study"):
    sys.path.insert(0, str(BOOK / "_ext"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BOOK / "_ext"))


def resolve(name: str):
    """The object that a dotted name means: as much of it as is a module, then attributes."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_names_on_the_pages_can_be_imported(page):
    for name in NAME.findall(page.read_text(encoding="utf-8")):
        assert resolve(name) is not None, name


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_directives_are_recognised(page):
    """A fence of backticks takes no backtick in its first line: all that follows would be shown as text."""
    assert not re.findall(r"^```+\{[^\n]*`.*$", page.read_text(encoding="utf-8"), re.M)


def test_the_table_from_paper_to_code_is_complete():
    page = (BOOK / "method.md").read_text(encoding="utf-8")
    first = [row.split("|")[1] for row in page.splitlines() if row.startswith("| ")]
    covered = {"Eq": set(), "Table": set(), "Fig": set()}
    for cell in first:
        if (kind := re.match(r" (Eq|Table|Fig)s?\.? ", cell)) and (numbers := re.findall(r"\d+", cell)):
            covered[kind[1]] |= set(range(int(numbers[0]), int(numbers[-1]) + 1))
    assert covered == {"Eq": set(range(1, 16)), "Table": {1, 2, 3}, "Fig": set(range(1, 14))}
    rows = [row for row in page.splitlines() if row.startswith(("| Eq", "| Table", "| Fig"))]
    assert all(NAME.search(row) for row in rows), "a row names no function"


def test_the_reference_covers_every_module():
    told = {name for page in PAGES for name in re.findall(r"automodule:: (\S+)", page.read_text())}
    files = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "mtclim").rglob("[!_]*.py")]
    ours = {".".join(path.parts) for path in files} - {"mtclim.papermill_plugin"}
    assert told >= ours and all(map(resolve, told))


def test_the_reference_begins_with_the_names_of_the_package():
    rows = re.findall(r"`mtclim\.(\w+) <(.+?)>`", (BOOK / "api.md").read_text())
    assert sorted(name for name, _ in rows) == mtclim.__all__
    assert all(resolve(home) is getattr(mtclim, name) for name, home in rows)


def test_nothing_on_a_page_is_written_to_come_from_elsewhere():
    sources = [
        *PAGES,
        *BOOK.glob("_static/*.css"),
        BOOK / "_static/katex/katex.min.css",
        BOOK / "_static/katex/render.js",
    ]
    for path in [*sources, *BOOK.glob("_ext/*.py"), ROOT / "_config.yml"]:
        found = re.findall(
            r"(?:src=|url\(|@import|\]\(|image\} |figure\} )[\"']?(?:https?:)?//[^\s)]+",
            path.read_text(encoding="utf-8"),
        )
        assert not found, f"{path}: {found}"
    css = (BOOK / "_static/katex/katex.min.css").read_text()
    fonts = re.findall(r"url\(fonts/([^)]+\.woff2)\)", css)
    assert fonts and all((BOOK / "_static/katex/fonts" / font).is_file() for font in fonts)


def test_the_paper_says_what_the_page_on_its_contradictions_says():
    from mtclim.analysis.comparison import delta_m, paper_table3

    table, page = paper_table3(), (BOOK / "limits.md").read_text(encoding="utf-8")
    dense, efficient = table.loc["densenet121"], table.loc["tf_efficientnetv2_b3"]
    best = efficient.loc["clim_ms_bl"]
    assert (best["mean", "kappa"], best["mean", "OA"]) == (83.96, 88.03) and "88.03, 83.96" in page
    assert (best[":delta_m", "OA"], best[":delta_m", "kappa"]) == (4.80, 6.37) and "+4.80, +6.37" in page
    below = efficient["height", "kappa"].drop("stc") < efficient.loc["stc", ("height", "kappa")]
    listed = re.search(r"for 7 of the 11 multitask variants: (.*?); among", page, re.S)[1]
    listed = {name.lower().replace("-", "_") for name in re.findall(r"[A-Z]+(?:-MS)?(?:_[A-Z]+)?", listed)}
    assert listed == set(below.index[below]) and below.sum() == 7
    heights = [(part, "height", "OA", "stc bl") for part in (dense, efficient)]
    roofs = [(dense, "roof_shape", measure, "bl bl_ms") for measure in ("OA", "kappa")]
    stacked = "tlim tlim_ms_bl tlim_ms_all"
    said = {
        "OA 89.31 to 89.14 and 89.74 to 89.09": heights,
        "83.59 (TLIM) to 83.55 (TLIM-MS_BL) and 83.51": [(efficient, "mean", "kappa", stacked)],
        "87.72 to 87.70 and 87.66": [(efficient, "mean", "OA", stacked)],
        "OA 88.70 to 88.62, $\\kappa$ 81.02 to 80.86": roofs,
        "DenseNet121 CLIM-MS_ALL, 86.80 as BL-MS": [(dense, "mean", "OA", "clim_ms_all")],
    }
    for text, cells in said.items():
        assert text in " ".join(page.split())
        values = [part.loc[variant, (task, m)] for part, task, m, names in cells for variant in names.split()]
        assert [float(x) for x in re.findall(r"\d\d\.\d\d", text)] == values
    assert dense.loc["bl_ms", ("mean", "OA")] == 86.80
    recurrent = [name for name in dense.index if "lim" in name]
    assert all(
        (part.loc[recurrent, ("mean", "kappa")] > part.loc["bl_ms", ("mean", "kappa")]).all()
        for part in (dense, efficient)
    )
    tasks = [task for task in table.columns.get_level_values(0).unique() if task not in ("mean", ":delta_m")]
    for backbone, variant in table.index:
        for metric in ("OA", "kappa") if variant != "stc" else ():
            ours, stc = ({t: table.loc[(backbone, v), (t, metric)] for t in tasks} for v in (variant, "stc"))
            assert delta_m(ours, stc) == pytest.approx(table.loc[(backbone, variant), (":delta_m", metric)], abs=0.025)


# ---------------------------------------------------------------- sentences made from numbers


def results(folder: Path, lim: tuple, sets: tuple = ()) -> Path:
    """A folder of results with the same difference for LIM-MS_ALL against BL and BL-FC, on the city and on the sets."""
    folder.mkdir(exist_ok=True)
    for source, numbers in (("city", lim), *sets):
        path = folder / "effects.csv" if source == "city" else folder / "real" / source / "effects.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        limits = ",".join(map(str, numbers))
        rows = [f"LIM-MS_ALL - {other},{limits},11,{source}" for other in ("BL", "BL-FC")]
        path.write_text("\n".join(["contrast,estimate,low,high,runs,source", *rows, f"CLIM,{limits},11,{source}"]))
    rows = ["stc,argmax,.39,.35,.64", "bl,argmax,.409,.12,.66", "bl,joint,.426,0,.65", "lim_ms_all,argmax,.41,.11,.66"]
    (folder / "joint.csv").write_text(
        "\n".join(["variant,decoding,exact_match,contradictions,mean_kappa", *rows]) + "\n"
    )
    return folder


@pytest.mark.parametrize(
    ("numbers", "sets", "said", "advised"),
    [
        ((1.2, 0.8, 1.6), (), "helps on the synthetic city", "Begin with BL"),
        ((1.2, 0.8, 1.6), (("grocery", (0.9, 0.4, 1.4)),), "helps on the synthetic city", "Use LIM-MS_ALL"),
        ((0.0, -0.2, 0.2), (("grocery", (0.9, 0.4, 1.4)),), "no effect worth having", "Begin with BL, and train"),
        ((-0.9, -1.4, -0.4), (), "does harm", "Use BL"),
        ((0.0, -0.2, 0.2), (), "no effect worth having", "Use BL"),
        ((0.3, -0.5, 1.1), (), "cannot be told", "Begin with BL"),
    ],
)
def test_the_answer_is_what_the_numbers_say_for_or_against_the_paper(tmp_path, numbers, sets, said, advised):
    findings, folder = extension("findings"), results(tmp_path / "r", numbers, sets)
    told = [text.replace("−", "-") for text in findings.answer(folder)]
    assert len(told) == 4 and said in told[0] and told[3].startswith(advised)
    assert f"{numbers[0]:+.2f} points" in told[0] and "+0.78 and +0.52 for" in told[1]  # the paper's Table 3
    assert ("groceries" in told[2]) == bool(sets) and all(text.endswith(".") for text in told)
    (told,) = findings.consistency(folder)
    assert "12.0 %" in told and "11.0 %" in told and "40.9 to 42.6 %" in told


def test_differences_are_made_of_the_runs_own_scores(tmp_path):
    differences, findings = extension("differences"), extension("findings")
    assert findings.beyond_decoding(tmp_path) == [findings.UNFINISHED] and findings.numbers(tmp_path, "tasks") == []
    for variant in ("stc", "bl", "bl_fc", "lim_ms_all"):
        for seed in range(3):
            write_run(tmp_path / "runs", SANTIAGO, variant, seed)
    study = load_study(tmp_path / "runs")
    table = differences.compared(study)
    table.to_csv(tmp_path / "differences.csv", index=False)
    scores = {
        run: json.loads((tmp_path / "runs" / run / "metrics.json").read_text())["test"] for run in study.runs["run"]
    }
    roof = {
        v: [100 * scores[run]["roof_shape"]["kappa"] for run in own] for v, own in study.runs.groupby("variant")["run"]
    }
    row = table.query("group == 'task' and contrast == 'BL - STC' and what == 'roof_shape'").squeeze()
    limits = stats.ttest_ind(roof["bl"], roof["stc"], equal_var=False).confidence_interval()
    found = (np.mean(roof["bl"]) - np.mean(roof["stc"]), limits.low, limits.high)
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx(found)
    variants = study.runs.set_index("run")["variant"]
    joint = study.decoded.query("decoding == 'joint'").set_index("run")["exact_match"].groupby(variants).mean()
    row = table.query("group == 'jointly' and contrast == 'LIM-MS_ALL - BL' and what == 'all labels right'").squeeze()
    assert row["estimate"] == pytest.approx(100 * (joint["lim_ms_all"] - joint["bl"]))
    f1 = class_scores(study).query("task == 'roof_shape' and `class` == 'FLT'").groupby("variant")["f1"].mean()
    row = table.query("contrast == 'LIM-MS_ALL - BL-FC' and what == 'roof_shape:FLT'").squeeze()
    assert row["estimate"] == pytest.approx(100 * (f1["lim_ms_all"] - f1["bl_fc"]))
    assert row["images"] == study.counts.set_index(["task", "class"])["train"]["roof_shape", "FLT"]
    own = study.decoded.set_index(["run", "decoding"])["exact_match"].unstack()
    own = own.loc[study.runs.loc[study.runs["variant"] == "bl", "run"]]
    row = table.query("group == 'decoding' and contrast == 'BL' and what == 'all labels right'").squeeze()
    limits = stats.ttest_rel(own["joint"], own["argmax"]).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((100 * limits.low, 100 * limits.high))
    assert any(text.startswith("With labels chosen jointly, LIM-MS_ALL") for text in findings.beyond_decoding(tmp_path))
    head, *rows = findings.numbers(tmp_path, "tasks")
    assert len(head) == 3 and [row[0] for row in rows] == [SANTIAGO.title(task) for task in SANTIAGO]
    assert len(findings.numbers(tmp_path, "decoding")) == 1 + 2 + 4 and findings.classes(tmp_path)


def test_the_classes_that_differ_most_come_first(tmp_path):
    differences, findings = extension("differences"), extension("findings")
    rows = [("roof_shape:FLT", 0.9, 0.5), ("height:H1", -2.0, -2.6), ("height:H2", 5.0, -1.0)]
    table = pd.DataFrame([["class", findings.FULL, what, middle, low, 2 * middle - low, 3, 50]
                          for what, middle, low in rows], columns=differences.COLUMNS)  # fmt: skip
    table.to_csv(tmp_path / "differences.csv", index=False)
    told = findings.classes(tmp_path)
    assert len(told) == 2 and "−2.00 points of F1 (95 % interval −2.60 to −1.40" in told[0] and "+0.90" in told[1]


def test_several_networks_answer_by_their_mean_probabilities(tmp_path, monkeypatch):
    differences, findings = extension("differences"), extension("findings")
    times = pd.DataFrame({"of_stc": [0.2]}, pd.MultiIndex.from_tuples([("densenet121", "bl")]))
    monkeypatch.setattr(differences, "cost", lambda *_: times)
    runs = [write_run(tmp_path / "runs", SANTIAGO, "bl", seed) for seed in range(3)]
    table = differences.averaged(tmp_path / "runs", load_study(tmp_path / "runs"))
    assert table[["networks", "runs"]].drop_duplicates().to_numpy().tolist() == [[1, 3], [3, 1]]
    assert table["time"].tolist() == pytest.approx([0.2, 0.2, 0.6, 0.6])
    frames = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    right, kappas = [], []
    for task, classes in SANTIAGO.items():
        total = 0
        for run, frame in zip(runs, frames, strict=True):
            z = np.log(frame[[f"{task}:p:{name}" for name in classes]].to_numpy(float).clip(1e-30))
            z = np.exp(z / json.loads((run / "calibration.json").read_text())[task]["temperature"])
            total = total + z / z.sum(1, keepdims=True)
        said = np.array(classes, object)[total.argmax(1)]
        true, known = frames[0][f"{task}:true"], frames[0][f"{task}:true"].notna().to_numpy()
        kappas.append(cohen_kappa_score(true[known].astype(str), said[known].astype(str)))
        right.append((said == true.to_numpy(object)) | ~known)
    row = table.query("networks == 3 and decoding == 'argmax'").squeeze()
    assert (row["mean_kappa"], row["exact_match"]) == pytest.approx((np.mean(kappas), np.all(right, axis=0).mean()))
    table.assign(mean_kappa=[0.66, 0.66, 0.7, 0.69]).to_csv(tmp_path / "averages.csv", index=False)
    assert "let several networks" in findings.advice(results(tmp_path, (-0.5, -0.9, -0.1)))
    assert findings.several(tmp_path)[0].endswith("mean κ from 66.0 to 70.0 %.")
    assert findings.cost(tmp_path) == [findings.UNFINISHED]
    others = [table.head(1).assign(variant=name, time=time) for name, time in (("lim_ms_all", 0.3), ("stc", 1.0))]
    pd.concat([table, *others]).to_csv(tmp_path / "averages.csv", index=False)
    assert "1.5 times as long for LIM-MS_ALL as for BL, and 5.0 times" in findings.cost(tmp_path)[0]
    table.assign(mean_kappa=[0.66, 0.66, 0.65, 0.64]).to_csv(tmp_path / "averages.csv", index=False)
    assert "several networks" not in findings.advice(results(tmp_path, (-0.5, -0.9, -0.1)))
    table.assign(mean_kappa=[0.66, 0.66, 0.7, 0.69]).to_csv(tmp_path / "averages.csv", index=False)
    assert [row[:3] for row in findings.numbers(tmp_path, "averages")[1:]] == [["BL", "1", "66.0"], ["BL", "3", "70.0"]]


def test_the_controls_say_where_a_difference_comes_from(tmp_path):
    findings, folder = extension("findings"), results(tmp_path / "r", (-0.5, -0.9, -0.1))
    assert findings.origin(folder) == [findings.UNFINISHED] and "other tasks' labels" not in findings.answer(folder)[1]
    with (folder / "effects.csv").open("a") as file:
        file.write('\n"LIM-MS_ALL - LIM-MS_ALL, shuffled",-0.3,-0.8,0.4,11,city')
        file.write('\n"LIM-MS_ALL, detached - BL-FC",-0.1,-0.6,0.4,11,city')
        file.write('\n"LIM-MS_ALL, shuffled - BL-FC",-0.2,-0.7,0.3,11,city\n')
    assert "but is not shown to come from other tasks' labels" in findings.answer(folder)[1]
    assert "contributes, and it is too uncertain to call an effect" in findings.origin(folder)[0]
    assert "differs from BL-FC by −0.20 points" in findings.origin(folder)[0]
    text = (folder / "effects.csv").read_text()
    (folder / "effects.csv").write_text(text.replace("-0.8,0.4,11", "-0.8,-0.1,11"))
    assert "contributes, and it is an effect" in findings.origin(folder)[0]
    assert "an effect to which the content of other tasks' answers contributes −0.30" in findings.answer(folder)[1]


def test_tables_of_results_have_names_that_people_read(tmp_path):
    findings, folder = extension("findings"), results(tmp_path / "r", (-0.5, -0.9, -0.1))
    head, *rows = findings.numbers(folder, "joint")
    assert rows[1] == ["BL", "40.9", "42.6", "12.0", "0.0", "66.0", "65.0"] and len(head) == 7
    assert findings.numbers(folder, "effects")[1] == [
        "LIM-MS_ALL − BL",
        "−0.50",
        "−0.90 to −0.10",
        "11",
        "the synthetic city",
    ]
    assert findings.numbers(folder, "rivals") == findings.numbers(folder, "grocery") == []
    assert findings.numbers(folder, "joint-grocery") == []
    (folder / "real" / "grocery").mkdir(parents=True)
    (folder / "joint.csv").rename(folder / "real" / "grocery" / "joint.csv")
    assert findings.numbers(folder, "joint-grocery")[2] == rows[1]


def test_another_learning_rate_is_judged_on_validation_and_reported_on_test(tmp_path):
    findings, rng = extension("findings"), np.random.default_rng(0)
    assert findings.numbers(tmp_path, "rates") == [] and "not finished" in findings.other_rates(tmp_path)[0]
    means = {("bl_fc", 0.002): 66, ("bl_fc", 0.004): 67, ("lim_ms_all", 0.002): 68, ("lim_ms_all", 0.004): 65}
    rows = [
        [rate, variant, seed, mean / 100, (mean + rng.normal()) / 100, 9, "c0de"]
        for (variant, rate), mean in means.items()
        for seed in range(3)
    ]
    table = pd.DataFrame(rows, columns=findings.rates.COLUMNS)
    table.to_csv(tmp_path / "rates.csv", index=False)
    test = table.set_index(["variant", "learning_rate"])["test_kappa"]
    ours, theirs = 100 * test["lim_ms_all", 0.002].to_numpy(), 100 * test["bl_fc", 0.004].to_numpy()
    interval = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    head, low, high = findings.numbers(tmp_path, "rates")
    first, second = findings.other_rates(tmp_path)
    assert "BL-FC is best at the rate 0.004 and LIM-MS_ALL at 0.002" in first
    for value in (ours.mean() - theirs.mean(), *interval):
        assert findings.signed(value) in second
    told = findings.answer(results(tmp_path, (-0.9, -1.4, -0.4)))
    assert told[0].startswith("Whether modelling label interdependency helps on the synthetic city depends on the")
    assert told[0].endswith(f"by {low[3]} points of mean κ at the rate 0.002 and {high[3]} at 0.004.")
    own = findings.signed(ours.mean() - theirs.mean())
    assert f"With each at the rate that suits it on validation images, the difference is {own} points" in told[1]
    assert "At the rate 0.004, with which all variants were trained, LIM-MS_ALL differs from BL by −0.90" in told[2]
    better = interval.low > 0
    assert len(told) == 5
    assert told[4].startswith("Begin with BL, and train LIM-MS_ALL" if better else "Begin with BL, because these runs")
    assert head[0] == "Learning rate" and low[:3] == ["0.002", "66.0", "68.0"] and low[-1] == "3"
    assert high[:3] == ["0.004", "67.0", "65.0"]


@pytest.mark.parametrize(("change", "surely"), [(1.70, False), (1.86, True), (-1.86, True)])
def test_the_difference_depends_on_the_rate_where_four_means_say_so(change, surely):
    """Four groups of four, each of variance 2/3: the limit is t(12) * sqrt(2/3) = 2.179 * 0.816 = 1.779."""
    rates = extension("rates")
    rows = [[rate, variant, seed, 0.5, spread + (change if (rate, variant) == (2.0, "bl_fc") else 0), 9, "c0de"]
            for rate in (1.0, 2.0) for variant in ("bl_fc", "lim_ms_all")
            for seed, spread in enumerate((-1, 0, 0, 1))]  # fmt: skip
    assert rates.depends(pd.DataFrame(rows, columns=rates.COLUMNS)) == surely


def test_runs_of_several_rates_are_collected_for_the_seeds_that_all_have(tmp_path):
    rates = extension("rates")
    for rate, variant, seed in [*product((0.002, 0.004), ("bl_fc", "lim_ms_all"), (0, 1)), (0.004, "bl_fc", 2)]:
        run = write_run(tmp_path / f"lr-{rate}", SANTIAGO, variant, seed, n=60)
        with (run / "config.yaml").open("a") as file:
            file.write(f"learning_rate: {rate}\n")
        kappas = {split: {"mean": {"kappa": kappa}} for split, kappa in (("val", 0.6), ("test", 0.5))}
        (run / "metrics.json").write_text(json.dumps(kappas))
    table = rates.collected([tmp_path / "lr-0.002", tmp_path / "lr-0.004"])
    assert len(table) == 8 and set(table["seed"]) == {0, 1} and set(table["learning_rate"]) == {0.002, 0.004}
    assert (table["val_kappa"] == 0.6).all() and (table["test_kappa"] == 0.5).all()


def test_effects_at_another_rate_stand_beside_those_of_the_study(tmp_path):
    findings, folder = extension("findings"), results(tmp_path / "r", (-0.9, -1.4, -0.4))
    assert findings.numbers(folder, "rate-effects") == []
    for rate, variants in ((0.002, ("bl", "bl_fc", "lim_ms_all")), (0.001, ("bl_fc", "lim_ms_all"))):
        for variant, seed in product(variants, range(3)):
            run = write_run(tmp_path / "rates" / f"lr-{rate}", SANTIAGO, variant, seed)
            with (run / "config.yaml").open("a") as file:
                file.write(f"learning_rate: {rate}\n")
    table = findings.rates.effects_at(tmp_path / "rates")
    assert set(table["learning_rate"]) == {0.002}, "a rate with two variants alone is the other table's"
    row = table.set_index("contrast").loc["LIM-MS_ALL - BL-FC"]
    kappas = run_scores(load_study(tmp_path / "rates" / "lr-0.002")).query("task == 'mean'")
    means = 100 * kappas.groupby("variant")["kappa"].mean()
    assert row["estimate"] == pytest.approx(means["lim_ms_all"] - means["bl_fc"]) and row["runs"] == 3
    table.to_csv(folder / "rate_effects.csv", index=False)
    head, *rows = findings.numbers(folder, "rate-effects")
    assert head == ["Difference", "at the rate 0.004 [points]", "at the rate 0.002 [points]"]
    assert ["LIM-MS_ALL − BL", "LIM-MS_ALL − BL-FC"] == [line[0] for line in rows]
    assert rows[1][1] == "−0.90 (−1.40 to −0.40), 11 runs" and findings.signed(row["low"]) in rows[1][2]


def test_the_table_of_rivals_is_made_of_the_runs_own_scores(tmp_path):
    rivals, findings, kappas = extension("rivals"), extension("findings"), {}
    for variant, seeds in {"bl": 3, "bl_fc": 3, "lim_ms_all": 3, "chain": 2}.items():
        for seed in range(seeds):
            folder = write_run(tmp_path / "runs", SANTIAGO, variant, seed)
            scores = json.loads((folder / "metrics.json").read_text())["test"]["mean"]
            kappas.setdefault(variant, []).append(100 * scores["kappa"])
    orders = write_run(tmp_path / "orders", SANTIAGO, "lim_ms_all", 1).parents[2]
    study = load_study(tmp_path / "runs")
    table = rivals.measured(study, tmp_path / "no benchmark.json", load_study(orders)).set_index("contrast")
    table.reset_index().to_csv(tmp_path / "rivals.csv", index=False)
    for variant in ("bl", "chain", "lim_ms_all"):
        row = table.loc[f"{title(variant)} - BL-FC"]
        assert row["estimate"] == pytest.approx(np.mean(kappas[variant]) - np.mean(kappas["bl_fc"]), abs=1e-6)
        assert 100 * row["mean_kappa"] == pytest.approx(np.mean(kappas[variant])) and row["low"] < row["high"]
    assert table.loc["Classifier chain - BL-FC", "runs"] == 2, "the fewest of a variant"
    turned = table.loc["LIM-MS_ALL in random orders - BL-FC"]
    assert 100 * turned["mean_kappa"] == pytest.approx(kappas["lim_ms_all"][1]) and turned["runs"] == 1
    again = table.loc["LIM-MS_ALL in random orders - LIM-MS_ALL"]
    assert again["estimate"] == pytest.approx(kappas["lim_ms_all"][1] - np.mean(kappas["lim_ms_all"]), abs=1e-6)
    assert np.isnan(again["low"]) and table.loc["BL with joint decoding - BL-FC", "contradictions"] == 0
    head, *rows = findings.numbers(tmp_path, "rivals")
    assert {len(row) for row in (head, *rows)} == {7} and rows[0][0] == "BL-FC" and rows[0][2] == ""
    told = findings.rivals(tmp_path)
    listed = "; ".join(text.split(": ")[1].rstrip(".") for text in told).split("; ")
    methods = ["BL", "BL with joint decoding", "LIM-MS_ALL", "Classifier chain", "LIM-MS_ALL in random orders"]
    assert sorted(set(listed) - {"no method"}) == sorted(methods), "each is in one of the sentences"
    assert told[0].startswith("Surely more accurate than BL-FC: ")


def test_tables_of_the_street_hold_what_was_measured():
    findings = extension("findings")
    stored = pd.read_csv(ROOT / "results" / "street.csv").set_index(["what", "setting"])["value"]
    for name, row, column, key in (
        ("street-assigned", "3 m, 5 degrees", 2, ("assigned_wrong", "position=3 bearing=5")),
        ("street-fused", "4 views, jointly", 2, ("fused_kappa", "views=4 joint")),
    ):
        head, *rows = findings.numbers(ROOT / "results", name)
        (line,) = [line for line in rows if line[0] == row]
        assert len(head) == len(line) and line[column] == f"{100 * stored[key]:.1f}"
    assert findings.numbers(ROOT, "street-fused") == []


def test_no_answer_is_given_before_there_is_one(tmp_path):
    findings = extension("findings")
    assert findings.answer(tmp_path) == [findings.UNFINISHED]
    (told,) = findings.answer(results(tmp_path / "one", (0.5, "", "")))
    assert "one run cannot rank them" in told
    (tmp_path / "grid.csv").write_text("variant,task\nbl,mean\n")  # an older state of the code
    assert findings.grid(tmp_path) == ["The grid has not been run yet, so that no expectation has been tested."]


def test_expectations_of_the_grid_are_tested(tmp_path):
    rows = [("bl_fc", "roof_shape", 0, 0.3, 0.1, -0.5, 0.7), ("bl_fc", "block_position", 0, 0.3, 0.2, -0.3, 0.7),
            ("bl", "mean", 0, 0.3, -2.0, -3.0, -1.0), ("bl", "mean", 1, 0.3, 0.5, 0.1, 0.9),
            ("bl", "mean", 1, 0.0, 0.6, 0.4, 0.8)]  # fmt: skip
    lines = [f"lim_ms_all,{b},{task},{i},{a},8,{m},{low},{high}" for b, task, i, a, m, low, high in rows]
    (tmp_path / "grid.csv").write_text("\n".join(["a,b,task,interdependency,ambiguity,n,mean,low,high", *lines]))
    runs = [f"bl,{level},0.3,{seed},{0.6 + 0.1 * level + 0.001 * seed}" for level in (0, 1) for seed in range(4)]
    (tmp_path / "grid_runs.csv").write_text("\n".join(["variant,interdependency,ambiguity,seed,mean:kappa", *runs]))
    first, second, third, fourth = (text.replace("−", "-") for text in extension("findings").grid(tmp_path))
    assert ": cannot be told" in first, "wide intervals around nothing bear nothing out"
    assert "-2.00 (-3.00 to -1.00) points at 0" in second and ": borne out" in second and "+2.50 (+1.42" in second
    assert ": cannot be told" in third and "-0.10 (-0.55 to +0.35)" in third
    assert ": borne out; it changes by +10.00" in fourth
    (one,) = extension("findings").trends(tmp_path)
    assert one.startswith("From the lowest to the highest interdependency the kappa of BL changes by +10.00 (+9.")


def test_what_an_expectation_comes_to():
    findings = extension("findings")
    assert [findings._outcome(*limits) for limits in ((0.1, 0.5), (-0.5, 0.2), (-0.5, 0.4))] == [
        "borne out", "not borne out", "cannot be told",
    ]  # fmt: skip
    for low, high, said in (
        (-0.1, 0.2, "borne out"),
        (0.1, 0.2, "borne out"),
        (-0.1, 0.9, "cannot be told"),
        (0.4, 1.4, "not borne out"),
    ):
        cells = pd.DataFrame({"mean": [0.0, (low + high) / 2], "low": [-0.1, low], "high": [0.1, high]})
        assert f": {said};" in findings._none(cells)


def test_the_readme_says_what_the_results_say():
    findings, readme = extension("findings"), (ROOT / "README.md").read_text(encoding="utf-8")
    assert findings.with_findings(readme, ROOT / "results") == readme, "run `python book/_ext/findings.py`"


# ---------------------------------------------------------------- a small book through the real configuration


def notebook(source: str, **metadata) -> str:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "id": "a", "source": "# A chapter\n\nIts text."},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "id": "b", "source": source, "outputs": [],
         "execution_count": 1},
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel | metadata, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Parsed pages of a book of five: the real configuration and extension, other contents."""
    soup = pytest.importorskip("bs4").BeautifulSoup
    root = tmp_path_factory.mktemp("book")
    for name in ("_ext", "_static", "references.bib"):
        copy = shutil.copytree if (BOOK / name).is_dir() else shutil.copy
        (root / "book").mkdir(exist_ok=True)
        copy(BOOK / name, root / "book" / name)
    shutil.copy(ROOT / "_config.yml", root)
    chapters = [{"file": f"book/chapters/{name}"} for name in ("explore", "balance", "train", "map")]
    (root / "_toc.yml").write_text(
        yaml.safe_dump({"format": "jb-book", "root": "book/intro", "chapters": [{"file": "book/city"}, *chapters]})
    )
    (root / "book" / "intro.md").write_text(
        "# Tiny\n\n$E = m c^2$ and\n\n```{math}\n:label: eq-a\n\\kappa_1 = \\frac{a}{b}\n```\n\n"
        "{cite:p}`cohen1960`, {eq}`eq-a`.\n\n"
        "```{stored} results/table.csv\n:caption: A user's table.\n```\n\n"
        "```{stored} results/none.json\n:missing: Nothing yet; `make bench` measures.\n```\n\n```{bibliography}\n```\n"
    )
    (root / "book" / "city.md").write_text("# How the city was made\n")
    (root / "results" / "notebooks").mkdir(parents=True)
    (root / "results" / "table.csv").write_text(f'class,count\n"{NASTY}",=1+1\n')
    (root / "book" / "chapters").mkdir()
    (root / "book/chapters/explore.ipynb").write_text(notebook('config = "demo"\ndata = ""'))
    (root / "results/notebooks/balance.ipynb").write_text(notebook(f"data = {NASTY!r}"))
    (root / "book/chapters/map.ipynb").write_text(notebook("seed = 1"))
    command = [Path(sys.executable).with_name("jupyter-book"), "build", root, "-W", "-n", "--keep-going"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    html = root / "_build" / "html"
    found = {path.stem: soup(path.read_text(encoding="utf-8"), "html.parser") for path in html.glob("book/**/*.html")}
    return html, found


def banner(page):
    return page.select_one(".admonition.data-banner")


def test_chapters_say_whose_data_they_show_or_that_they_are_missing(pages):
    _, found = pages
    assert "synthetic" in banner(found["explore"])["class"] and banner(found["explore"]).select_one(
        "a[href='../city.html']"
    )
    assert "real" in banner(found["balance"])["class"] and "unknown" in banner(found["map"])["class"]
    for name in ("explore", "balance", "map"):
        text = found[name].select_one("article").get_text()
        assert text.index("A chapter") < text.index(banner(found[name]).get_text()) < text.index("Its text.")
    assert "Not computed in this copy" in found["train"].get_text() and banner(found["train"]) is None


@pytest.mark.parametrize(
    ("source", "synthetic"),
    [
        ('data = "city"', True),
        ('config = "paper"\ndata: str = ""', True),
        ('data = ""\noverrides = "{data: mine.csv}"', False),
        ('data = ""\noverrides = {"data": "mine.csv"}', False),
        ('data = "mine.csv"', False),
        ('config = "demo"\ndata = ""\nruns = "somewhere"', None),
        ('config = "demo"\ndata = "city"\nruns = "somewhere"', True),
        ('config = "nowhere.yaml"\ndata = ""', None),
        ("seed = 0", None),
    ],
)
def test_what_a_notebook_ran_with_tells_synthetic_from_real(source, synthetic):
    assert extension().origin(json.loads(notebook(source)))[0] is synthetic
    said = notebook(source, mtclim={"synthetic": True})
    assert extension().origin(json.loads(said))[0] is True


def test_a_table_beside_a_city_is_synthetic(tmp_path):
    (tmp_path / "city.json").write_text("{}")
    assert extension().origin(json.loads(notebook(f"data = {str(tmp_path / 'images.parquet')!r}")))[0] is True


def test_text_of_users_is_shown_never_interpreted(pages):
    _, found = pages
    assert NASTY in banner(found["balance"]).get_text() and not banner(found["balance"]).select(
        "b, script, em, code, a"
    )
    cells = [cell.get_text().strip() for cell in found["intro"].select("table.table-stored td")]
    assert cells == [NASTY, "=1+1"] and not found["intro"].select("table.table-stored td :is(b, script, em, a)")
    note = found["intro"].select_one(".admonition.not-measured")
    assert "Nothing yet" in note.get_text() and note.code.get_text() == "make bench"


def test_tables_of_results_are_shown_with_readable_names():
    cell = "training step, lim_ms_all, test_byobnet.r160_in1k 64 px; mat_llrs, bl, chain"
    assert extension().readable(cell) == (
        "training step, LIM-MS_ALL, timm's 0.2 M test network 64 px; structural material, BL, chain"
    )


def test_no_page_asks_for_anything_from_elsewhere(pages):
    _, found = pages
    for name, page in found.items():
        for tag in page.select("script[src], img[src], iframe[src], link[href]"):
            assert not re.match(r"(https?:)?//", tag.get("src") or tag["href"]), (name, tag)
        assert "unpkg" not in str(page) and "cdn" not in str(page)


def test_equations_render_without_a_network(pages):
    html, _ = pages
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    except Exception as error:
        pytest.skip(f"no headless Chromium here: {error}")
    try:
        browser.get((html / "book" / "intro.html").as_uri())
        count = (
            "return [document.querySelectorAll('.math').length, document.querySelectorAll('.math .katex-html').length]"
        )
        assert browser.execute_script(count) == [2, 2]
        loaded = "f => f.family == 'KaTeX_Math' && f.status == 'loaded'"
        fonts = f"return document.fonts.ready.then(() => [...document.fonts].some({loaded}))"
        assert browser.execute_script(fonts)
        thrown = [e for e in browser.get_log("browser") if e["level"] == "SEVERE" and e["source"] != "console-api"]
        assert thrown == []
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert urls and all(url.startswith(("file:", "data:", "blob:")) for url in urls)
    finally:
        browser.quit()
