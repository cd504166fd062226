"""What figures draw: labels, order and values; the mark of synthetic data; a few pictures; the evaluation notebook."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fake_runs import make_truth, write_run, write_study
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mtclim import SANTIAGO, Tasks
from mtclim.analysis import comparison, effects, evidence, figures, further
from mtclim.analysis.study import load_study
from mtclim.data.labels import cooccurrence
from mtclim.data.table import read_table
from mtclim.style import STYLE, TOP, WIDTH, in_words, palette, shorten, variant_colour
from mtclim.variants import CONTROLS, RIVALS, VARIANTS, title

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).parent / "baseline"
TWO = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]})
VARIED = ("stc", "bl", "lim_ms_all")
LONG = Tasks({"item": [f"class number {i} of a name that has forty letters" for i in range(81)], "runs": ["a", "b"]}
             | {f"t{i:02d}": [f"c{k}" for k in range(2 + i % 6)] for i in range(8)})  # fmt: skip
CASES = {"2 tasks, 1 seed": (TWO, 1), "5 tasks, 3 seeds": (SANTIAGO, 3), "81 classes, 10 tasks": (LONG, 2)}


@pytest.fixture(scope="module", params=CASES, ids=str)
def study(request, tmp_path_factory):
    tasks, seeds = CASES[request.param]
    return load_study(write_study(tmp_path_factory.mktemp("runs"), VARIED, seeds, tasks, n=60))


def render(figure):
    """Draw for good, so that the layout is the final one."""
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.fixture(scope="module")
def drawn(study) -> dict:
    """All figures of the evaluation, as the notebook calls them."""
    backbone, first, tasks = study.backbones[0], study.runs["run"].iloc[0], study.tasks
    labels = make_truth(tasks, 200, 9, 0.1, 0)[[f"{task}:true" for task in tasks]].set_axis(list(tasks), axis=1)
    labels = labels.apply(lambda column: pd.Categorical(column, tasks[column.name]))
    bins = labels.value_counts(dropna=False).reset_index(name=":count")
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 3
    calls = {
        "residuals": (figures.residuals, comparison.residuals(study)),
        "f1": (figures.f1, comparison.class_scores(study), tasks, study.counts),
        "confusion": (figures.confusion, {t: comparison.confusions(study, t)[0] for t in tasks}, tasks),
        "times": (figures.times, evidence.cost(study, ROOT / "results/bench.json").loc[backbone]),
        "effects": (further.effects, effects.effects(study, draws=20)),
        "reliability": (further.reliability, study.calibration[study.calibration["run"] == first], tasks),
        "gains": (further.gains, evidence.class_gains(study), tasks),
        "history": (figures.history, pd.DataFrame({"network": "all", "epoch": [0, 1], "train_loss": [2, 1],
                                                   "val_loss": 2.0, "val_oa": [0.5, 0.6]}), tasks),
        "balanced": (figures.balanced, labels, labels[::2], tasks),
        "splits": (figures.splits, labels, ["train", "val", "test", "train"] * 50, tasks),
        "lprus": (figures.lprus, bins, 3, tasks),
        "sheet": (figures.sheet, {(t, c): pictures for t, names in tasks.items() for c in names}, tasks),
        "cooccurrence": (figures.cooccurrence, cooccurrence(labels), tasks),
    }  # fmt: skip
    return {name: render(draw(*arguments, synthetic=True)) for name, (draw, *arguments) in calls.items()}


def test_figures_show_readable_names(study, drawn):
    """Labelsets alone are written in the classes' short names, of which five stand in one line."""
    code = {name for name in (*SANTIAGO, *VARIANTS, "test_byobnet") if "_" in name or name == "sbst"}
    found = {text for name, figure in drawn.items() for text in texts(figure) if code & set(re.split(r"[^\w-]+", text))}
    assert not found
    frame = pd.DataFrame({"network": ["sbst"] * 2, "epoch": [0, 1], "train_loss": 1.0, "val_loss": 2.0, "val_oa": 0.5})
    assert "seismic building structural type" in texts(figures.history(frame, SANTIAGO))


def test_names_of_a_sheet_may_stand_on_two_lines():
    pictures = {("height", "1 storey\n→ a name of which no line has room for so much"): [np.zeros((8, 8, 3), np.uint8)]}
    (ax,) = (ax for ax in figures.sheet(pictures, SANTIAGO).axes if ax.get_title(loc="left"))
    first, second = ax.get_title(loc="left").strip().split("\n")
    assert first == "1 storey" and second.startswith("→ a name") and "…" in second


def most_frequent(counts: pd.Series) -> list[int]:
    return sorted(counts.reset_index(drop=True).sort_values(ascending=False, kind="stable").index[:TOP])


def rows_of(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_figures_fit_the_page_and_say_that_data_are_synthetic(drawn):
    for name, figure in drawn.items():
        assert figure.get_figwidth() == WIDTH and "synthetic data" in texts(figure), name
        assert figure.get_figheight() < 20, f"{name}: higher than two screens"
        assert draws_alt_text(name), name
    for name, label in {"f1": "F1 [%]", "reliability": "confidence", "balanced": "images"}.items():
        assert label in texts(drawn[name]), "the mark takes no axis label's place"


def draws_alt_text(name: str) -> bool:
    """Whether the figure's function has a first line that says what one sees."""
    found = getattr(figures, name, None) or getattr(further, name)
    return len(found.__doc__.splitlines()[0]) > 40


def test_text_can_be_read_and_stays_on_the_page(drawn):
    for name, figure in drawn.items():
        for text in figure.findobj(mpl.text.Text):
            if text.get_text().strip() and text.get_visible():
                assert text.get_fontsize() >= 8, (name, text.get_text())
        assert max(map(len, texts(figure))) < 130, name
        box = figure.get_tightbbox()
        assert box.x0 > -0.6 and box.x1 < WIDTH + 0.6, f"{name}: text is cut off at the side"


def test_no_row_labels_overlap(drawn):
    for name, figure in drawn.items():
        for ax in figure.findobj(mpl.axes.Axes):
            boxes = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
            boxes = sorted((box for box in boxes if box.height), key=lambda box: box.y0)
            gaps = [(b.y0 - a.y1) / a.height for a, b in zip(boxes, boxes[1:], strict=False)]
            assert min(gaps, default=0) > -0.35, (name, ax.get_title(loc="left"))


def test_rows_are_in_the_order_of_variants_and_classes(study, drawn):
    assert rows_of(drawn["residuals"].axes[0]) == [title(name) for name in VARIED]
    ax, expected = drawn["f1"].axes[0], []
    for task, names in study.tasks.items():
        test = study.counts.query("task == @task").set_index("class")["test"]
        expected += ["", *(shorten(study.tasks.title(task, names[k])) for k in most_frequent(test[list(names)]))]
        expected += [f"mean of {len(names) - TOP} more"] * (len(names) > TOP)
    assert rows_of(ax) == expected and [t.get_text() for t in ax.get_xticklabels()] == [title(v) for v in VARIED]
    assert {shorten(study.tasks.title(task), 60) for task in study.tasks} <= set(texts(drawn["f1"]))


def test_heat_map_is_the_mean_f1_and_empty_without_test_images(study, drawn):
    shown = drawn["f1"].axes[0].collections[0].get_array().reshape(-1, len(VARIED))
    frame, row = comparison.class_scores(study), 0
    mean = 100 * frame.groupby(["task", "class", "variant"])["f1"].mean()
    for task, names in study.tasks.items():
        test = study.counts.query("task == @task").set_index("class")["test"][list(names)]
        for name in (names[k] for k in most_frequent(test)):
            row += 1
            np.testing.assert_allclose(shown[row].filled(np.nan), mean[task, name][list(VARIED)])
        row += 1 + (len(names) > TOP)


def test_boxes_only_of_several_runs(study, drawn):
    boxes = [patch for ax in drawn["residuals"].axes for patch in ax.patches]
    assert bool(boxes) == (study.runs["seed"].nunique() > 1)
    frame = comparison.residuals(study)
    for ax, metric in zip(drawn["residuals"].axes, ("oa", "kappa"), strict=True):
        dots = np.sort(np.concatenate([c.get_offsets()[:, 0] for c in ax.collections if len(c.get_offsets())]))
        own = frame[(frame["metric"] == metric) & ((frame["variant"] != "stc") | (not boxes))]["value"]
        np.testing.assert_allclose(dots, np.sort(own))


def test_histograms_count_the_labels():
    labels = pd.DataFrame({"height": ["H1"] * 3 + ["H2", None], "roof": ["PIT"] * 5})
    ax = figures.balanced(labels, labels[:2], TWO).findobj(mpl.axes.Axes)[0]
    assert [bar.get_width() for bar in ax.patches] == [3, 1, 0, 2, 0, 0] and rows_of(ax) == list(TWO["height"])
    shares = figures.splits(labels, ["train", "train", "val", "val", "test"], TWO).findobj(mpl.axes.Axes)[0]
    assert [bar.get_width() for bar in shares.patches] == [100, 0, 0, 50, 50, 0, 0, 0, 0]


def test_confusion_says_percent_of_the_reference_class():
    counts = {"height": np.array([[3, 1, 0], [0, 0, 0], [0, 5, 5]]), "roof": np.array([[1, 0], [0, 3]])}
    figure = figures.confusion(counts, TWO)
    height = next(ax for ax in figure.findobj(mpl.axes.Axes) if "height" in ax.get_title(loc="left"))
    assert [t.get_text() for t in height.texts if t.get_text()] == ["75", "25", "50", "50"]
    shown = height.collections[0].get_array().reshape(3, 3).filled(np.nan)
    assert np.isnan(shown[1]).all(), "a class without images is no zero"
    assert "OA 57.1%" in height.get_title(loc="left")


def test_rare_classes_share_one_row_of_the_confusion():
    counts = np.diag(np.arange(81)) + 0
    counts[0, 80] = 1
    tasks = Tasks({"item": LONG["item"], "roof": ["FLT", "PIT"]})
    figure = figures.confusion({"item": counts, "roof": np.eye(2)}, tasks)
    ax = next(ax for ax in figure.findobj(mpl.axes.Axes) if "item" in ax.get_title(loc="left"))
    assert rows_of(ax)[-1] == "61 more" and len(rows_of(ax)) == TOP + 1
    shown = ax.collections[0].get_array().reshape(TOP + 1, -1)
    assert shown[-1, TOP - 1] == pytest.approx(100 / (np.arange(61).sum() + 1)) and shown[0, 0] == 100


def test_effects_are_coloured_by_their_verdicts():
    row = {"family": "primary", "estimate": 1.0, "low": 0.5, "high": 1.5, "runs": 5}
    rows = [row | {"contrast": f"{k} - BL", "verdict": verdict} for k, verdict in enumerate(effects.VERDICTS)]
    (ax,) = further.effects(pd.DataFrame(rows)).findobj(mpl.axes.Axes)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_markeredgecolor() for line in dots] == list(further.COLOURS.values())
    assert rows_of(ax) == [f"{k} − BL" for k in range(3)]
    both = pd.concat([pd.DataFrame(rows).assign(source=source) for source in ("city", "leaves")])
    assert {"city", "leaves"} <= set(texts(further.effects(both)))


def test_colours_and_names():
    colours = palette(SANTIAGO)
    assert list(colours) == list(SANTIAGO) and all(list(colours[t]) == list(c) for t, c in SANTIAGO.items())
    assert all(len(set(found.values())) == len(found) for found in palette(LONG).values())
    by_kind = [{variant_colour(name) for name in names} for names in (VARIANTS, CONTROLS, RIVALS)]
    assert all(not a & b for a, b in zip(by_kind, by_kind[1:], strict=False)), "controls and rivals stand out"
    assert shorten("short") == "short" and len(shorten("x" * 90, 22)) == 22 and shorten("abcdefghij", 5) == "ab…ij"
    assert min(size for name, size in STYLE.items() if "size" in name) >= 8


def test_tables_show_names_as_text_and_the_best_in_bold():
    table = pd.DataFrame({"<b>x": [1.234, 2.0, np.nan]}, index=["a", "<script>", "c"])
    html = figures.styled(table, best=table.columns).to_html()
    assert "<script>" not in html and "&lt;script&gt;" in html and "1.23" in html and "–" in html
    assert html.count("font-weight: bold") == 1 and "#T_" in html.split("font-weight: bold")[0]
    assert figures.styled(table).format_index(figures.literal).to_html().count("<code>&lt;script&gt;</code>") == 1


def test_tables_are_given_readable_names():
    frame = pd.DataFrame({"task": ["sbst", "height"], "class": ["MUR_H1", "H1"], "count": [1, 2]})
    shown = figures.named(frame, SANTIAGO)
    assert shown["task"].tolist() == ["seismic building structural type", "height"] and frame["class"][1] == "H1"
    assert shown["class"].tolist() == ["unreinforced masonry, 1 storey", "1 storey"]
    said = in_words("share of H1 in MUR, mat_llrs (W,UNK): MUR_H1, H13+, H12", SANTIAGO)
    assert said == (
        "share of 1 storey in unreinforced masonry, structural material (wooden or non-engineered): "
        "unreinforced masonry, 1 storey, 13 or more storeys, H12"
    )
    assert in_words("H1", TWO) == "H1"
    notes = ["No test row of sbst: COM3_H8+."]
    assert figures.listed(notes, SANTIAGO) == r"- No test row of sbst\: COM3\_H8\+\."
    assert "structural type\\: other office building, 8 or" in figures.listed(notes, SANTIAGO, True).replace("\\,", ",")


# ---------------------------------------------------------------- pictures


def plain_picture(figure) -> np.ndarray:
    """The figure without its text, coarse: (H, W) grey means that fonts and versions hardly move."""
    render(figure)
    figure.set_layout_engine("none")
    for text in figure.findobj(mpl.text.Text):
        text.set_visible(False)
    figure.set_dpi(50)
    grey = Image.fromarray(np.asarray(render(figure).canvas.buffer_rgba())).convert("L")
    return np.asarray(grey.resize((90, round(90 * grey.height / grey.width)), Image.Resampling.BOX), dtype=float)


def pictures() -> dict:
    rng = np.random.default_rng(0)
    counts = {
        t: rng.integers(0, 9, (k, k)) + 40 * np.eye(k, dtype=int) for t, k in zip(SANTIAGO, SANTIAGO.sizes, strict=True)
    }
    frame = pd.DataFrame([{"variant": v, "metric": m, "value": x + i} for i, v in enumerate(VARIED)
                          for m in ("oa", "kappa") for x in rng.normal(0, 1, 11)])  # fmt: skip
    names = [f"{task}:{name}" for task, classes in SANTIAGO.items() for name in classes]
    i = np.arange(35)
    matrix = pd.DataFrame(np.exp(-np.abs(1.4 * i[:, None] - i) / 6), index=names, columns=names)
    return {
        "confusion": (figures.confusion, counts, SANTIAGO),
        "residuals": (figures.residuals, frame),
        "matrix": (figures.cooccurrence, matrix, SANTIAGO),
    }


@pytest.mark.parametrize("name", ["confusion", "residuals", "matrix"])
def test_picture(name):
    """Against tests/baseline; MTCLIM_BASELINE=1 writes them anew (look at them!)."""
    draw, *arguments = pictures()[name]
    found, path = plain_picture(draw(*arguments)), BASELINE / f"{name}.png"
    if os.environ.get("MTCLIM_BASELINE"):
        BASELINE.mkdir(exist_ok=True)
        Image.fromarray(found.round().astype(np.uint8)).save(path)
    expected = Image.open(path)
    assert abs(expected.height - found.shape[0]) <= 2
    expected = np.asarray(expected.resize(found.shape[::-1]), dtype=float)
    assert np.abs(found - expected).mean() < 4, "grey levels of 255"
    assert np.abs(found[:, ::-1] - expected).mean() > 8, "the measure tells a figure from its mirror image"


# ---------------------------------------------------------------- the notebook


def execute(folder: Path, cwd: Path, **parameters) -> list[dict]:
    """Outputs of the executed notebook."""
    given = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(ROOT / "notebooks" / "evaluate.ipynb"),
        str(folder / "out.ipynb"),
        *given,
    ]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment.pop("MPLBACKEND", None)  # a kernel shows its figures inline
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((folder / "out.ipynb").read_text())["cells"]
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def shown(outputs: list[dict], kind: str) -> list[str]:
    return ["".join(output["data"][kind]) for output in outputs if kind in output.get("data", {})]


def test_the_notebook_on_users_data(tmp_path):
    """Two tasks of a user's table, labels missing, images at hand, one realisation, a failed run, a second backbone."""
    pytest.importorskip("papermill")
    truth = make_truth(TWO, 80, 8, 0.1, 0)
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in truth["image"]:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
    truth.columns = [name.removesuffix(":true") for name in truth]
    truth.to_csv(tmp_path / "houses.csv", index=False)
    for variant in ("stc", "bl", "lim_ms_all"):
        write_run(
            tmp_path / "runs", TWO, variant, 0, backbone="test_byobnet", n=40, blocks=8, missing=0.1, weights=True
        )
    for variant in ("stc", "bl"):
        write_run(tmp_path / "runs", TWO, variant, 0, backbone="resnet18", n=40, blocks=8, missing=0.1)
    (tmp_path / "runs" / "test_byobnet" / "tlim" / "seed-0.partial").mkdir(parents=True)
    (tmp_path / "tasks.yaml").write_text(json.dumps(TWO.to_dict()))
    table = read_table(tmp_path / "houses.csv", tmp_path / "tasks.yaml")
    for path in (tmp_path / "runs").rglob("provenance.json"):
        path.write_text(path.read_text().replace("7ab1e", table.digest))
    outputs = execute(
        tmp_path, ROOT, runs=tmp_path / "runs", results=tmp_path / "results", data=tmp_path / "houses.csv",
        tasks=tmp_path / "tasks.yaml",
    )  # fmt: skip
    text, tables = "\n".join(shown(outputs, "text/markdown")), shown(outputs, "text/html")
    assert "One run cannot rank the variants" in text and "The tasks are not the paper's" in text
    assert "unfinished: in work, stopped or failed" in "".join(tables)
    assert "not at hand" not in text and "**ResNet\\-18**" in text
    assert not any("font-weight: bold" in table for table in tables), "one run each: no winner"
    assert len(shown(outputs, "image/png")) == 9 + 1
    assert load_study(tmp_path / "results").variants == ["stc", "bl", "lim_ms_all"]


@pytest.mark.soak
def test_the_notebook_from_tables_alone(tmp_path):
    """One variant, no baseline, neither run folders nor images."""
    pytest.importorskip("papermill")
    from mtclim.analysis.study import collect

    collect(write_study(tmp_path / "runs", ("clim",), 2, Tasks({"only": ["a", "b"]}), n=30), tmp_path / "results")
    text = "\n".join(shown(execute(tmp_path, ROOT, runs=tmp_path / "results", pictures=False), "text/markdown"))
    for sentence in ("There is no STC run", "There are no two variants to compare",
                     "are not at hand", "nothing to compare it with", "one of the two is missing"):  # fmt: skip
        assert sentence in text, sentence
