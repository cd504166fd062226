"""Row 10: which building each of 204,030 views shows among 100,000 footprints, against a minute.

``python -m benchmarks.street`` writes ``results/street.csv`` instead: on the synthetic city, how many views get the
right building, what a gate for views that show no façade finds and changes, and what several views of a building are
worth. It trains one network with the demo preset on photographs of 64 pixels, which takes some minutes.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy.stats import entropy

import mtclim
from benchmarks.common import row
from mtclim import SANTIAGO, Tasks
from mtclim.analysis.comparison import bootstrap, run_scores
from mtclim.analysis.evidence import calibration_error
from mtclim.analysis.joint import Joint
from mtclim.analysis.labelsets import contradictions, excluded, labelsets_of, unseen
from mtclim.analysis.study import KEYS, Study, reliability
from mtclim.city import make_city
from mtclim.city.plan import CRS, plan
from mtclim.files import write_text
from mtclim.mapping.buildings import assign, fuse, passes, read_footprints
from mtclim.mapping.ensemble import joint_of, make_consistent, tasks_of, validation
from mtclim.mapping.exposure import exposure, gem_strings
from mtclim.mapping.frequencies import calibrate, probabilities
from mtclim.mapping.photographs import write_csv
from mtclim.mapping.predict import predict_file
from mtclim.metrics import codes

TARGET = 60  # seconds
VIEWS, NOT_FACADE, GATE = 4, 0.2, "view=facade"
MOST = f"views={VIEWS}"
Rows = Iterator[tuple[str, str, float]]


def run(quick: bool) -> list[dict]:
    """Time the assignment of views of the synthetic city, whose cameras and footprints are planned and not drawn."""
    count = 10_000 if quick else 100_000
    city = plan(count, count, 0)
    views, shapes = (
        views_of(city.cameras(3))[: 204_030 * count // 100_000].drop(columns="geometry"),
        city.footprints.astype({"building": str}),
    )
    began = np.array([perf_counter(), process_time()])
    assign(views, shapes)
    seconds, busy = ((np.array([perf_counter(), process_time()]) - began) * 100_000 / count).tolist()
    line = row(10, "views to buildings, 204,030 to 100,000", "one minute", seconds / TARGET, 1, device="CPU")
    return [line | {"s": round(seconds, 1), "processor s": round(busy, 1)}]


def views_of(cameras: gpd.GeoDataFrame, position: float = 0.0, bearing: float = 0.0) -> gpd.GeoDataFrame:
    """Views of cameras, as points in metres, with errors: root mean square in metres, standard deviation in degrees."""
    rng = np.random.default_rng(0)
    points = shapely.get_coordinates(cameras.geometry.to_crs(CRS))
    place = gpd.GeoSeries(shapely.points(points + rng.normal(0, position / np.sqrt(2), points.shape)), crs=CRS)
    degrees = place.to_crs(4326)
    turned = (cameras["bearing"].to_numpy() + rng.normal(0, bearing, len(cameras))) % 360
    return gpd.GeoDataFrame({"lon": degrees.x, "lat": degrees.y, "bearing": turned}, geometry=place)


def assignment(cameras: gpd.GeoDataFrame, shapes: gpd.GeoDataFrame) -> Rows:
    """Shares of views that are assigned rightly and wrongly, and rightly by two simpler rules; the rest is listed."""
    true, names = cameras["building"].astype(str).to_numpy(), shapes["building"].to_numpy()
    tree = shapely.STRtree(shapes.geometry.to_crs(CRS).to_numpy())
    for position, bearing in itertools.product((0, 1, 3, 10), (0, 5, 15)):
        views, setting = views_of(cameras, position, bearing), f"position={position} bearing={bearing}"
        found = assign(views, shapes)["building"]
        yield "assigned", setting, (found == true).mean()
        yield "assigned_wrong", setting, (found.notna() & (found != true)).mean()
        yield "assigned_ray", setting, (assign(views, shapes, field_of_view=0.5)["building"] == true).mean()
        yield "assigned_nearest", setting, (names[tree.nearest(views.geometry.to_numpy())] == true).mean()


def gating(predictions: pd.DataFrame, tasks: Tasks, joint: Joint) -> Rows:
    """How well the gate tells façades from other views, and the error of counts without it, with it and without others.

    ``predictions`` and ``joint`` are calibrated for counts. ``exposure_error`` is half the summed difference between
    expected and true counts per taxonomy, as a share of the façades; what is counted of other views is surplus.
    """
    passed, facade = passes(predictions, tasks, GATE), (predictions["kind"] == "facade").to_numpy()
    views, setting = predictions.drop(columns="building").assign(city="city"), f"not_facade={NOT_FACADE}"
    yield "gate_views", setting, len(passed)
    yield "gate_precision", setting, facade[passed].mean()
    yield "gate_recall", setting, passed[facade].mean()
    taxonomy = gem_strings(views[facade].rename(columns=lambda name: name.removesuffix(":true"))).rename("taxonomy")
    for gate, chosen in (("none", np.ones(len(passed), bool)), (GATE, passed), ("perfect", facade)):
        off = []
        for task, classes in SANTIAGO.items():
            true, counted = (
                views.loc[rows, f"{task}:{kind}"].value_counts(normalize=True).reindex(list(classes), fill_value=0)
                for rows, kind in ((facade, "true"), (chosen, "pred"))
            )
            off.append((true - counted).abs().sum() / 2)
        yield "count_error", f"gate={gate}", np.mean(off)
        for level in ("city", "municipality"):
            counts = exposure(views[chosen].assign(block=views[level]), tasks, joint=joint)
            true = taxonomy.groupby([views.loc[facade, level].rename("block"), taxonomy]).size()
            apart = counts.set_index(["block", "taxonomy"])["expected"].sub(true, fill_value=0)
            yield "exposure_error", f"gate={gate} level={level}", apart.abs().sum() / (2 * facade.sum())


def fusion(predictions: pd.DataFrame, found: pd.DataFrame, shapes: gpd.GeoDataFrame, model: Path, joint: Joint) -> Rows:
    """Scores of buildings whose first view passes the gate, by number of views and by way of fusion."""
    tasks = tasks_of(model)
    used = passes(predictions, tasks, GATE) & found["building"].notna().to_numpy()
    first = set(found["building"][used & (predictions["shot"] == 0).to_numpy()])
    used &= found["building"].isin(first).to_numpy()
    ways = {}
    for views in (1, 2, VIEWS):
        rows = used & (predictions["shot"] < views).to_numpy()
        ways[f"views={views}"] = fuse(predictions[rows], found[rows], shapes, tasks)
        ways[f"views={views} joint"] = make_consistent(ways[f"views={views}"], tasks, joint)
    own = predictions[used].assign(building=found["building"][used])
    unsure = sum(
        entropy(probabilities(own, task, classes), base=len(classes), axis=1) for task, classes in SANTIAGO.items()
    )
    ways[f"{MOST} surest"] = own.iloc[np.argsort(unsure, kind="stable")].drop_duplicates("building")
    votes = own.groupby("building")[[f"{task}:pred" for task in tasks]].agg(lambda labels: labels.mode()[0])
    ways[f"{MOST} majority"] = votes.reset_index()
    truth = predictions.astype({"building": str}).drop_duplicates("building").set_index("building")
    yield "fused_buildings", f"views=1 to {VIEWS}", len(first)
    yield from judged(ways, truth.loc[sorted(first)], tasks, *labelsets_of(model, tasks))


def judged(ways: dict, truth: pd.DataFrame, tasks: Tasks, known: np.ndarray, counts: np.ndarray) -> Rows:
    """Means over tasks of the scores of ways to answer for the same buildings, each of which stands in for a run.

    ``ways`` are frames of answers by name, ``known`` (L, N) training labelsets, and ``counts`` (L,) their images.
    ``fused_ece_perfect`` is the calibration error that perfectly calibrated answers would have on as many buildings.
    ``fused_gain`` is the kappa that the fusion of all views has more than another way, with its interval over blocks.
    """
    names, bins, labels = list(tasks), [], []
    true = pd.DataFrame({f"{task}:true": codes(truth[f"{task}:true"], own) for task, own in SANTIAGO.items()})
    for way, answers in ways.items():
        answers = answers.set_index("building").loc[truth.index]
        labels.append(np.stack([codes(answers[f"{task}:pred"], own) for task, own in tasks.items()], axis=1))
        for task, classes in () if "majority" in way else SANTIAGO.items():  # a majority has no probabilities
            own = reliability(probabilities(answers, task, classes), true[f"{task}:true"].to_numpy())
            bins.append(own.assign(run=way, task=task, scaled=True))
    pairs = [{names.index("sbst"), names.index(task)} for task in ("height", "mat_llrs")]
    relations = [relation for relation in excluded(known, counts, tasks) if set(relation[:2]) in pairs]
    study = Study(
        tasks=SANTIAGO,
        runs=pd.DataFrame({"run": list(ways)}, columns=KEYS),
        test=true.assign(block=truth["block"].to_numpy()),
        predicted=np.array(labels)[..., [names.index(task) for task in SANTIAGO]],
        calibration=pd.concat(bins),
        **dict.fromkeys(("decoded", "labelsets", "counts", "problems"), pd.DataFrame()),
    )
    scores = run_scores(study).query("task == 'mean'").set_index("run")[["oa", "kappa"]]
    scores[["ece", "ece_perfect"]] = calibration_error(study).groupby("run")[["scaled", "perfect"]].mean()
    scores["unseen"] = [unseen(own, known).mean() for own in labels]
    scores["contradictions"] = [contradictions(own, relations) for own in labels]
    for way, own in scores.iterrows():
        yield from ((f"fused_{name}", way, value) for name, value in own.dropna().items())
    drawn = pd.DataFrame(bootstrap(study, 2000)["kappa"], columns=list(ways))
    for other in ("views=1", f"{MOST} surest", f"{MOST} majority"):
        yield "fused_gain", f"{MOST} over {other}", scores["kappa"][MOST] - scores["kappa"][other]
        for limit, percent in (("low", 2.5), ("high", 97.5)):
            yield f"fused_gain_{limit}", f"{MOST} over {other}", np.percentile(drawn[MOST] - drawn[other], percent)


def sentences(table: pd.DataFrame, made: dict) -> str:
    """What was found, one sentence a line; ``made`` is the provenance of the network."""
    value = table.set_index(["what", "setting"])["value"]
    found = (100 * value).round(1)
    none, gate, perfect = (found["exposure_error", f"gate={gate} level=city"] for gate in ("none", GATE, "perfect"))
    gain, low, high = (found[f"fused_gain{limit}", f"{MOST} over {MOST} surest"] for limit in ("", "_low", "_high"))
    lines = [
        f"Of the views that pass the gate, {found['gate_precision'].item()} % show a façade, and "
        f"{found['gate_recall'].item()} % of the façades pass.",
        f"Without the gate the exposure counts of the city are off by {none} % of the number of façades, with it by "
        f"{gate} %, and with a perfect gate, which passes all façades and nothing else, by {perfect} %.",
        f"The answers fused from {VIEWS} views exceed the surest of the {VIEWS} by {gain} points of mean kappa (95 % "
        f"interval over blocks: {low} to {high}).",
        f"The gate was judged on {value['gate_views'].item():,.0f} views and the fusion on "
        f"{value['fused_buildings'].item():,.0f} buildings on blocks that training never saw, with one network (BL, "
        f"demo, 64 pixels) of {made['date'][:10]}, torch {made['versions']['torch']}, code {made['code'][:12]}.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def main(out: str = "results/street.csv", folder: str = "data/street") -> None:
    """Make the city, train and predict in a folder, where a stopped call goes on; measure, and write what was found."""
    city = make_city(f"{folder}/city", 3600, 1200, size=64, views=VIEWS, not_facade=NOT_FACADE).parent
    settings = {"data": str(city / "images.parquet"), "tasks": str(city / "tasks.yaml"), "variant": "bl"}
    model = mtclim.fit(mtclim.load_config("demo", out=f"{folder}/run", **settings))
    file = predict_file(model, city / "cameras.parquet", f"{folder}/predictions.parquet", calibrated=True)
    tasks, predictions = tasks_of(model), pd.read_parquet(file)
    truth = pd.read_parquet(city / "truth.parquet").set_index("image").loc[predictions["image"]].reset_index()
    predictions = predictions.assign(**{f"{task}:true": truth[task].astype(object) for task in SANTIAGO})
    predictions = predictions.assign(**truth[["kind", "block", "municipality", "building"]])
    predictions["shot"] = predictions["image"].str.extract(r"-(\d+)\.", expand=False).astype(float).fillna(0)
    seen = predictions.loc[predictions["split"].isin(["train", "val"]), "block"]
    new = predictions[~predictions["block"].isin(seen)].reset_index(drop=True)
    shapes, cameras = read_footprints(city / "footprints.parquet"), gpd.read_parquet(city / "cameras.parquet")
    own = validation(model, calibrated=True)
    joint, counting = (joint_of(answers, model, tasks) for answers in (own, calibrate(own, own, tasks)))
    rows = [*assignment(cameras, shapes), *gating(calibrate(new, own, tasks), tasks, counting)]
    rows += fusion(new, assign(new, shapes), shapes, model, joint)
    table = pd.DataFrame(rows, columns=["what", "setting", "value"]).round(4)
    write_csv(table, out)
    made = json.loads((model / "provenance.json").read_text(encoding="utf-8"))
    write_text(Path(out).with_suffix(".txt"), sentences(table, made))


if __name__ == "__main__":
    main(*sys.argv[1:])
