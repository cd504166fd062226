"""What figures draw: labels, order and values; the mark of synthetic data; a few pictures; the evaluation notebook."""

import json
import os
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
from mtclim.analysis import comparison, evidence, figures
from mtclim.analysis.comparison import title
from mtclim.analysis.study import load_study
from mtclim.style import WIDTH

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).parent / "baseline"
TWO = Tasks({"height": ["H1", "H2", "H3-4"], "roof": ["FLT", "PIT"]})
TWENTY = Tasks({f"t{i:02d}": [f"c{k}" for k in range(2 + i % 6)] for i in range(20)})
VARIED = ("stc", "bl", "lim_ms_all")
CASES = {"2 tasks, 1 seed": (TWO, 1), "5 tasks, 11 seeds": (SANTIAGO, 11), "20 tasks, 1 seed": (TWENTY, 1)}


@pytest.fixture(scope="module", params=CASES, ids=str)
def study(request, tmp_path_factory):
    tasks, seeds = CASES[request.param]
    return load_study(write_study(tmp_path_factory.mktemp("runs"), VARIED, seeds, tasks, n=40))


def render(figure):
    """Draw for good, so that the layout is the final one."""
    FigureCanvasAgg(figure).draw()
    return figure


@pytest.fixture(scope="module")
def drawn(study) -> dict:
    """All figures of the evaluation, as the notebook calls them."""
    backbone, first = study.backbones[0], study.runs["run"].iloc[0]
    gains = evidence.class_gains(study)
    curves = study.coverage.merge(study.runs[["run", "variant"]], on="run")
    dependence = evidence.dependence(study)
    calls = {
        "residuals": (figures.residuals, comparison.residuals(study, backbone)),
        "delta": (figures.against_paper, comparison.table3(study), comparison.paper_table3(), backbone),
        "f1": (figures.f1, comparison.class_scores(study), study.tasks),
        "confusion": (figures.confusion, {t: comparison.confusions(study, t)[0] for t in study.tasks}, study.tasks),
        "times": (figures.times, evidence.cost(study).loc[backbone], {"stc": 8.0, "lim_ms_all": 6.0}),
        "contrasts": (figures.contrasts, comparison.compare(study, draws=20)),
        "consistency": (figures.by_variant, evidence.consistency(study), {"unseen": "unseen", "exact": "right"}),
        "reliability": (figures.reliability, study.calibration[study.calibration["run"] == first], study.tasks),
        "coverage": (figures.coverage, curves, study.tasks),
        "gains": (figures.gains, gains, study.tasks),
        "rarity": (figures.rarity, gains),
        "history": (figures.history, study.history[study.history["run"] == first]),
        "histograms": (figures.histograms, study.counts),
        "matrices": (figures.matrices, {"labels": dependence, "moved": dependence / 10}, "change", True),
    }
    return {name: render(draw(*arguments, synthetic=True)) for name, (draw, *arguments) in calls.items()}


def rows_of(ax) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_figures_fit_the_page_and_say_that_data_are_synthetic(drawn):
    for name, figure in drawn.items():
        assert figure.get_figwidth() == WIDTH and "synthetic data" in texts(figure), name
    axes = {
        "f1": "F1 [%]",
        "reliability": "confidence",
        "rarity": "share of training images [%]",
        "histograms": "images",
    }
    for name, label in axes.items():
        assert label in texts(drawn[name]), "the mark takes no axis label's place"


def test_real_data_bear_no_mark(study):
    assert "synthetic data" not in texts(figures.f1(comparison.class_scores(study), study.tasks))


def test_no_row_labels_overlap(drawn):
    for name, figure in drawn.items():
        for ax in figure.findobj(mpl.axes.Axes):
            boxes = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
            boxes = sorted((box for box in boxes if box.height), key=lambda box: box.y0)
            gaps = [(b.y0 - a.y1) / a.height for a, b in zip(boxes, boxes[1:], strict=False)]
            assert min(gaps, default=0) > -0.35, (name, ax.get_title(loc="left"))


def test_rows_are_in_the_order_of_variants_and_classes(study, drawn):
    assert rows_of(drawn["residuals"].axes[0]) == [title(name) for name in VARIED]
    for ax, (task, classes) in zip(drawn["f1"].findobj(mpl.axes.Axes), study.tasks.items(), strict=True):
        assert ax.get_title(loc="left") == task and rows_of(ax) == list(classes)
    gains = drawn["gains"].axes[0]
    assert rows_of(gains) == [name for classes in study.tasks.values() for name in classes]
    assert [label.get_text() for label in gains.get_xticklabels()] == [title(name) for name in VARIED[1:]]


def test_boxes_are_the_medians_and_the_best_is_named(study, drawn):
    frame, figure = comparison.residuals(study, "densenet121"), drawn["residuals"]
    for ax, metric in zip(figure.axes, ("oa", "kappa"), strict=True):
        median = frame[frame["metric"] == metric].groupby("variant")["value"].median()
        drawn = [line.get_xdata()[0] for line in ax.lines if line.get_color() == "#111111" and line.get_lw() == 1.4]
        assert drawn == pytest.approx([median[name] for name in VARIED])
        assert f"{median.max():+.1f} %" in [text.get_text() for text in ax.texts]
    many = len(study.runs["seed"].unique()) ** len(study.tasks)
    said = figure.axes[0].get_title(loc="left")
    assert said == (
        "" if many == 1 else f"STC: {'all' if many <= 200_000 else 'a sample of'} {min(many, 200_000):,} combinations"
    )


def test_bars_and_diamonds_are_table_3(study, drawn):
    ours, paper = comparison.table3(study), comparison.paper_table3()
    for ax, metric in zip(drawn["delta"].axes, ("OA", "kappa"), strict=True):
        column, known = ("delta_m", metric), list(VARIED[1:])
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(
            list(ours.loc["densenet121"].loc[known, column])
        )
        (diamonds,) = [line for line in ax.lines if line.get_marker() == "D"]
        assert list(diamonds.get_xdata()) == list(paper.loc["densenet121"].loc[known, column])


def test_ringed_class_is_the_best_variants(study, drawn):
    frame = comparison.class_scores(study)
    best = 100 * frame.groupby(["task", "class", "variant"])["f1"].mean().groupby(["task", "class"]).max()
    for ax, (task, classes) in zip(drawn["f1"].findobj(mpl.axes.Axes), study.tasks.items(), strict=True):
        rings = {round(line.get_ydata()[0]): line.get_xdata()[0] for line in ax.lines if line.get_markersize() == 8}
        expected = {i: best[task, name] for i, name in enumerate(classes) if best[task, name] == best[task, name]}
        assert rings == pytest.approx(expected)


def test_confusion_says_percent_of_the_reference_class():
    counts = {"height": np.array([[3, 1, 0], [0, 0, 0], [0, 5, 5]]), "roof": np.array([[1, 0], [0, 3]])}
    figure = figures.confusion(counts, TWO)
    height = next(ax for ax in figure.axes if "height" in ax.get_title(loc="left"))
    assert {(t.get_position(), t.get_text()) for t in height.texts} == {
        ((0, 0), "75"), ((1, 0), "25"), ((1, 2), "50"), ((2, 2), "50")
    }  # fmt: skip
    assert np.isnan(height.images[0].get_array().filled(np.nan)[1]).all(), "a class without images is no zero"
    assert "57.1% right" in height.get_title(loc="left")


def test_contrasts_are_coloured_only_where_both_intervals_clear_zero():
    row = {"backbone": "b", "family": "stacking", "a": "lim_ms_bl", "b": "lim", "n": 5, "mean": 1.0}
    limits = [(0.5, 1.5, 0.2, 2.0), (-0.1, 2.1, 0.2, 2.0), (0.5, 1.5, -0.2, 2.0), (np.nan, np.nan, 0.2, 2.0)]
    frame = pd.DataFrame([row | dict(zip(("low", "high", "boot_low", "boot_high"), x, strict=True)) for x in limits])
    frame = pd.concat([frame, frame.iloc[:1].assign(mean=-1.0, low=-1.5, high=-0.5, boot_low=-2.0, boot_high=-0.2)])
    (ax,) = figures.contrasts(frame.reset_index(drop=True)).findobj(mpl.axes.Axes)
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_markeredgecolor() for line in dots] == ["#2166AC", "#777777", "#777777", "#777777", "#B2182B"]
    assert rows_of(ax) == ["LIM-MS_BL − LIM"] * 5


def test_grid_shows_every_cell():
    part = pd.DataFrame(
        [(i, a, 3, i - a, i - a - 0.2, i - a + 0.2) for i in (0.0, 1.0) for a in (0.1, 0.6)],
        columns=["interdependency", "ambiguity", "n", "mean", "low", "high"],
    )
    ax = figures.grid({"LIM": part, "one": part.assign(n=1, low=np.nan, high=np.nan)}).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), [[-0.6, 0.4], [-0.1, 0.9]])  # the highest ambiguity on top
    assert rows_of(ax) == ["0.6", "0.1"]
    at = {text.get_position(): (text.get_text(), text.get_fontweight()) for text in ax.texts}
    assert at[(1, 0)] == ("+0.4", "bold") and at[(0, 1)] == ("-0.1", "normal") and at[(1, 0.06)][0] == "+0.2 to +0.6"


def test_palette_is_stable_and_distinct():
    colours = figures.palette(SANTIAGO)
    assert list(colours) == list(SANTIAGO) and all(list(colours[t]) == list(c) for t, c in SANTIAGO.items())
    assert all(
        len(set(found.values())) == len(found)
        for found in figures.palette(Tasks({"a": [f"c{i}" for i in range(30)]})).values()
    )


def test_tables_show_names_as_text_and_the_best_in_bold():
    table = pd.DataFrame({"<b>x": [1.234, 2.0, np.nan]}, index=["a", "<script>", "c"])
    html = figures.styled(table).to_html()
    assert "<script>" not in html and "&lt;script&gt;" in html and "1.23" in html and "–" in html
    assert html.count("font-weight: bold") == 1 and "#T_" in html.split("font-weight: bold")[0]


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
    frame = pd.DataFrame([{"variant": v, "metric": m, "value": x + i} for i, v in enumerate(VARIED) for m in ("oa", "kappa")
                          for x in rng.normal(0, 1, 11)])  # fmt: skip
    names = [f"{task}:{name}" for task, classes in SANTIAGO.items() for name in classes]
    i = np.arange(35)
    matrix = pd.DataFrame(np.exp(-np.abs(1.4 * i[:, None] - i) / 6), index=names, columns=names)
    return {
        "confusion": (figures.confusion, counts, SANTIAGO),
        "residuals": (figures.residuals, frame),
        "matrix": (figures.cooccurrence, matrix),
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
    truth.to_csv(tmp_path / "houses.csv", index=False)
    for variant in ("stc", "bl", "lim_ms_all"):
        write_run(
            tmp_path / "runs", TWO, variant, 0, backbone="test_byobnet", n=40, blocks=8, missing=0.1, weights=True
        )
    for variant in ("stc", "bl"):
        write_run(tmp_path / "runs", TWO, variant, 0, backbone="resnet18", n=40, blocks=8, missing=0.1)
    (tmp_path / "runs" / "test_byobnet" / "tlim" / "seed-0.partial").mkdir(parents=True)
    (tmp_path / "tasks.yaml").write_text(json.dumps(TWO.to_dict()))
    outputs = execute(
        tmp_path, ROOT, runs=tmp_path / "runs", results=tmp_path / "results", data=tmp_path / "houses.csv", tasks=tmp_path / "tasks.yaml"
    )  # fmt: skip
    text, tables = "\n".join(shown(outputs, "text/markdown")), shown(outputs, "text/html")
    assert "one run gives no interval" in text and "The tasks are not the paper's five" in text
    assert "unfinished: in work, stopped or failed" in "".join(tables)
    assert "not at hand" not in text and "Rank correlation of the two matrices" in text
    assert len(shown(outputs, "image/png")) == 15 + 2 and "**resnet18**: kappa [%]" in text
    assert load_study(tmp_path / "results").variants == ["stc", "bl", "lim_ms_all"]


@pytest.mark.soak
def test_the_notebook_from_tables_alone(tmp_path):
    """One variant, no baseline, neither run folders nor images."""
    pytest.importorskip("papermill")
    from mtclim.analysis.study import collect

    collect(write_study(tmp_path / "runs", ("clim",), 2, Tasks({"only": ["a", "b"]}), n=30), tmp_path / "results")
    text = "\n".join(shown(execute(tmp_path, ROOT, runs=tmp_path / "results", pictures=False), "text/markdown"))
    for sentence in ("There is no STC run", "There are no two variants to compare", "A single task has no labelsets",
                     "The images are not at hand", "nothing to compare it with", "STC and BL are both needed"):  # fmt: skip
        assert sentence in text, sentence
