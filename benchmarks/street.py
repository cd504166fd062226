"""Row 10: which building each of 204,030 views shows among 100,000 footprints, against a minute.

``python -m benchmarks.street`` writes ``results/street.csv`` instead: on the synthetic city, how many views get the
right building, how well a gate finds those that show no façade, and what several views of a building are worth.
It trains one network with the demo preset and takes some minutes. The photographs are 64 pixels wide.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

import mtclim
from benchmarks.common import row
from mtclim import SANTIAGO, Tasks
from mtclim.analysis.joint import unseen
from mtclim.city import make_city
from mtclim.city.plan import CRS, plan
from mtclim.files import write_text
from mtclim.mapping.areas import entropy
from mtclim.mapping.buildings import assign, fuse, passes, read_footprints
from mtclim.mapping.ensemble import joint_of, make_consistent, tasks_of, validation
from mtclim.mapping.frequencies import probabilities
from mtclim.mapping.photographs import write_csv
from mtclim.mapping.predict import predict_file
from mtclim.metrics import codes, metrics

TARGET = 60  # seconds
VIEWS, NOT_FACADE, GATE = 4, 0.2, "view=facade"
Rows = Iterator[tuple[str, str, float]]


def run(quick: bool) -> list[dict]:
    """Time the assignment of views of the synthetic city, whose cameras and footprints are planned and not drawn."""
    count = 10_000 if quick else 100_000
    city = plan(count, count, 0)
    views, shapes = (
        views_of(city.cameras(3))[: int(2.0403 * count)].drop(columns="geometry"),
        city.footprints.astype({"building": str}),
    )
    began = perf_counter()
    assign(views, shapes)
    seconds = (perf_counter() - began) * 100_000 / count
    line = row(10, "views to buildings, 204,030 to 100,000", "one minute", seconds / TARGET, 1, device="CPU")
    return [line | {"s": round(seconds, 1)}]


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


def gating(predictions: pd.DataFrame, tasks: Tasks) -> Rows:
    """How well the gate tells façades from other views, and how far class frequencies are off without and with it."""
    passed, facade = passes(predictions, tasks, GATE), (predictions["kind"] == "facade").to_numpy()
    setting = f"not_facade={NOT_FACADE}"
    yield "gate_precision", setting, facade[passed].mean()
    yield "gate_recall", setting, passed[facade].mean()
    for gate, chosen in (("none", np.ones(len(passed), bool)), (GATE, passed)):
        off = []
        for task, classes in SANTIAGO.items():
            true, counted = (
                predictions.loc[rows, f"{task}:{kind}"]
                .value_counts(normalize=True)
                .reindex(list(classes), fill_value=0)
                for rows, kind in ((facade, "true"), (chosen, "pred"))
            )
            off.append((true - counted).abs().sum() / 2)
        yield "count_error", f"gate={gate}", np.mean(off)


def fusion(predictions: pd.DataFrame, found: pd.DataFrame, shapes: gpd.GeoDataFrame, tasks: Tasks, joint) -> Rows:
    """Mean kappa over tasks, of buildings whose first view passes the gate, by number of views and by way of fusion."""
    used = passes(predictions, tasks, GATE) & found["building"].notna().to_numpy()
    first = set(found["building"][used & (predictions["shot"] == 0).to_numpy()])
    used &= found["building"].isin(first).to_numpy()
    true = predictions.assign(building=found["building"]).drop_duplicates("building").set_index("building")
    true = true[[f"{task}:true" for task in SANTIAGO]]

    def kappa(answers: pd.DataFrame) -> float:
        said = answers.set_index("building")[[f"{task}:pred" for task in SANTIAGO]]
        return metrics(said.join(true), SANTIAGO)["mean"]["kappa"]

    yield "fused_buildings", f"views=1 to {VIEWS}", len(first)
    for views in (1, 2, VIEWS):
        rows = used & (predictions["shot"] < views).to_numpy()
        fused = fuse(predictions[rows], found[rows], shapes, tasks)
        for way, answers in (("", fused), (" joint", make_consistent(fused, tasks, joint))):
            labels = np.stack([codes(answers[f"{task}:pred"], classes) for task, classes in tasks.items()], axis=1)
            yield "fused_kappa", f"views={views}{way}", kappa(answers)
            yield "fused_unseen", f"views={views}{way}", unseen(labels, joint.labelsets).mean()
    own = predictions[used].assign(building=found["building"][used])
    unsure = sum(entropy(probabilities(own, task, classes)) for task, classes in SANTIAGO.items())
    best = own.iloc[np.argsort(unsure, kind="stable")].drop_duplicates("building")
    yield "fused_kappa", f"views={VIEWS} surest", kappa(best)
    votes = own.groupby("building")[[f"{task}:pred" for task in SANTIAGO]].agg(lambda labels: labels.mode()[0])
    yield "fused_kappa", f"views={VIEWS} majority", kappa(votes.reset_index())


def sentences(table: pd.DataFrame, made: dict) -> str:
    """What was found, one line of text each; ``made`` is the provenance of the network."""
    found = (100 * table.set_index(["what", "setting"])["value"]).round(1)
    lines = []
    for position, bearing in ((0, 0), (3, 5), (10, 15)):
        at = f"position={position} bearing={bearing}"
        lines.append(
            f"With errors of {position} m and {bearing} degrees, {found['assigned', at]} % of the views get the right "
            f"building and {found['assigned_wrong', at]} % a wrong one; the others are listed. The first footprint on "
            f"the central ray is right for {found['assigned_ray', at]} %, the nearest one for "
            f"{found['assigned_nearest', at]} %."
        )
    gate = f"not_facade={NOT_FACADE}"
    lines.append(
        f"Of the views that pass the gate, {found['gate_precision', gate]} % show a façade; of those that show one, "
        f"{found['gate_recall', gate]} % pass. Without the gate {found['count_error', 'gate=none']} % of the views are "
        f"counted in a wrong class, with it {found['count_error', f'gate={GATE}']} % (mean over tasks)."
    )
    one, two, most, surest, majority = (
        found["fused_kappa", f"views={name}"] for name in (1, 2, VIEWS, f"{VIEWS} surest", f"{VIEWS} majority")
    )
    first, last = (found["fused_unseen", f"views={views}"] for views in (1, VIEWS))
    lines.append(
        f"Mean kappa of a building is {one} % from one view, {two} % from 2 views and {most} % from {VIEWS}. The "
        f"surest of {VIEWS} views alone has {surest} %, and their majority {majority} %. Without the joint, {first} % "
        f"of the answers from one view and {last} % of those from {VIEWS} are combinations that training never showed."
    )
    count = int(found["fused_buildings"].iloc[0] / 100)
    lines.append(
        f"{count} buildings on blocks that training never saw, one network (BL, demo, 64 pixels), {made['date'][:10]}, "
        f"torch {made['versions']['torch']}, code {made['code'][:12]}."
    )
    return "".join(f"- {line}\n" for line in lines)


def main(out: str = "results/street.csv", folder: str = "data/street") -> None:
    """Make the city, train and predict in a folder, where a stopped call goes on; measure, and write what was found."""
    city = make_city(f"{folder}/city", 1800, 1200, size=64, views=VIEWS, not_facade=NOT_FACADE).parent
    settings = {"data": str(city / "images.parquet"), "tasks": str(city / "tasks.yaml"), "variant": "bl"}
    model = mtclim.fit(mtclim.load_config("demo", out=f"{folder}/run", **settings))
    file = predict_file(model, city / "cameras.parquet", f"{folder}/predictions.parquet", calibrated=True)
    tasks, predictions = tasks_of(model), pd.read_parquet(file)
    truth = pd.read_parquet(city / "truth.parquet").set_index("image").loc[predictions["image"]].reset_index()
    predictions = predictions.assign(**{f"{task}:true": truth[task].astype(object) for task in SANTIAGO})
    predictions = predictions.assign(kind=truth["kind"], block=truth["block"])
    predictions["shot"] = predictions["image"].str.extract(r"-(\d+)\.", expand=False).astype(float).fillna(0)
    seen = predictions.loc[predictions["split"].isin(["train", "val"]), "block"]
    new = predictions[~predictions["block"].isin(seen)].reset_index(drop=True)
    shapes, cameras = read_footprints(city / "footprints.parquet"), gpd.read_parquet(city / "cameras.parquet")
    joint = joint_of(validation(model, calibrated=True), model, tasks)
    rows = [*assignment(cameras, shapes), *gating(new, tasks), *fusion(new, assign(new, shapes), shapes, tasks, joint)]
    table = pd.DataFrame(rows, columns=["what", "setting", "value"]).round(4)
    write_csv(table, out)
    made = json.loads((model / "provenance.json").read_text(encoding="utf-8"))
    write_text(Path(out).with_suffix(".txt"), sentences(table, made))


if __name__ == "__main__":
    main(*sys.argv[1:])
