"""Prediction of whole cities: independent of shards and batches, resumable, complete, and true to its models."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import mtclim
from mtclim.data import table
from mtclim.data.images import decode, digest_of
from mtclim.mapping import ensemble, exposure, predict
from mtclim.mapping.photographs import decoded_batches, exif_place, read_source
from mtclim.runs import RunError

TASKS = mtclim.Tasks({"roof": ["flat", "gable", "hip, or other"], "storeys": ["1", "2"]})
PROBABILITIES = [f"{task}:p:{name}" for task, classes in TASKS.items() for name in classes]
N = 50
SLOW = """
import sys, time
from mtclim.mapping import predict
from mtclim.data import table
forward = predict.Ensemble.probabilities
def slow(self, batch):
    time.sleep(0.2)
    return forward(self, batch)
predict.Ensemble.probabilities = slow
predict.predict_file(sys.argv[1], sys.argv[2], sys.argv[3], shard_rows=8, batch_size=4, workers=1, progress=False)
"""


def make_run(folder: Path, seed: int, digests: dict[int, str] | None = None) -> Path:
    """A run folder around a network with random weights: predictions depend on the photograph, no training needed."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = mtclim.create_model("lim_ms_all", TASKS, "test_byobnet", clim_units=4, tlim_units=4)
    save_file(model.state_dict(), folder / "model.safetensors")
    settings = {"variant": "lim_ms_all", "tasks": TASKS.to_dict(), "timm_name": "test_byobnet", "clim_units": 4}
    settings |= {
        "tlim_units": 4,
        "table": "t1",
        "titles": {},
        "image_size": 32,
        "block_cell": 750.0,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "calibration.json").write_text(json.dumps({t: {"temperature": 0.5 + i} for i, t in enumerate(TASKS)}))
    rng = np.random.default_rng(seed)
    known = pd.DataFrame({"image": [f"images/{i}.png" for i in range(20, 40)]})
    for task, classes in TASKS.items():
        p = rng.dirichlet(np.ones(len(classes)), len(known)).astype(np.float32)
        known[f"{task}:true"] = np.array(classes, object)[np.arange(len(known)) % len(classes)]
        known[f"{task}:pred"] = np.array(classes, object)[p.argmax(1)]
        known[[f"{task}:p:{name}" for name in classes]] = p
    known[:10].to_parquet(folder / "validation.parquet")
    known[10:].to_parquet(folder / "predictions.parquet")
    parts = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
    frame = pd.DataFrame({"image": [f"images/{i}.png" for i in range(40)], "split": parts})
    frame["digest"] = [(digests or {}).get(i, "") for i in range(40)]
    frame[frame["digest"] != ""].to_parquet(folder / "split.parquet")
    labelsets = pd.DataFrame(
        {"roof": ["flat", "gable", "hip, or other"], "storeys": ["1", "2", "2"], ":count": [9, 6, 5]}
    )
    labelsets.to_csv(folder / "labelsets.csv", index=False)
    (folder / "metrics.json").write_text(json.dumps({"test": {"mean": {"oa": 0.5, "kappa": 0.1}}}))
    (folder / "COMPLETE").touch()
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two runs, fifty generated pictures (one damaged, one missing) and a table in which two have no position."""
    folder, rng = tmp_path_factory.mktemp("predict"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(N):
        colour = rng.integers(0, 255, 3)
        pixels = np.clip(colour + rng.normal(0, 25, (30, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    (folder / "images" / "7.png").write_bytes(b"not a picture")
    (folder / "images" / "9.png").unlink()
    digests = {i: digest_of(folder / "images" / f"{i}.png") for i in range(40) if i != 9}
    make_run(folder / "runs" / "a", 0, digests)
    make_run(folder / "runs" / "b", 1, {i: digests[i] for i in range(25, 40)})
    table = pd.DataFrame({"image": [f"images/{i}.png" for i in range(N)]})
    table["lon"] = [f"{-70.6 + i / 1000:.3f}" for i in range(N)]
    table["lat"] = [f"{-33.4 + i / 1000:.3f}" for i in range(N)]
    table.loc[[3, 30], ["lon", "lat"]] = ["", ""], ["-70.5", ""]
    table["roof"] = ["flat" if i % 2 else "" for i in range(N)]
    table.to_csv(folder / "table.csv", index=False)
    return folder


def run(place: Path, name: str, runs=("a",), **options) -> tuple[pd.DataFrame, Path]:
    out = place / f"{name}.parquet"
    options = {"workers": 1, "progress": False} | options
    predict.predict_file([place / "runs" / r for r in runs], place / "table.csv", out, **options)
    return pd.read_parquet(out), out


@pytest.fixture(scope="module")
def plain(place) -> pd.DataFrame:
    return run(place, "plain")[0]


def same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(first.drop(columns=PROBABILITIES), second.drop(columns=PROBABILITIES))
    np.testing.assert_allclose(first[PROBABILITIES], second[PROBABILITIES], atol=1e-5, rtol=0)


def test_blocks_of_photographs_are_those_that_the_run_was_partitioned_by(place, plain):
    known = table.read_table(place / "table.csv", TASKS, require_images=False, require_labels=False)
    placed = known.frame.dropna(subset=["lon", "lat"])
    blocks = table.grid_blocks(placed["lon"], placed["lat"], 750.0).set_axis(placed["image"])
    assert plain["block"].tolist() == blocks[plain["image"]].tolist()


def test_rows_in_are_rows_predicted_and_rows_listed(place, plain):
    listed = pd.read_csv(place / "plain.parquet.listed.csv").set_index("image")["reason"]
    assert sorted(listed.index) == [f"images/{i}.png" for i in (3, 30, 7, 9)]
    assert listed["images/3.png"] == listed["images/30.png"] == "no position (lon, lat) in the table"
    assert len({*plain["image"], *listed.index}) == N == len(plain) + len(listed)
    made = predict.provenance_of(place / "plain.parquet")
    assert (made["images"], made["rows"], made["listed"]) == (N, len(plain), 4)
    assert (
        made["tasks"] == TASKS.to_dict() and made["source"].endswith("table.csv") and len(made["models_sha256"]) == 64
    )


def test_answers_are_those_of_the_model(place, plain):
    model = mtclim.load(place / "runs" / "a")
    images = np.stack([decode(place / name, 32) for name in plain["image"]])
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.2
    with torch.inference_mode():
        out = model(pixels).probabilities
    expected = torch.cat([out[task] for task in TASKS], 1).numpy()
    np.testing.assert_allclose(plain[PROBABILITIES], expected, atol=1e-5)
    assert plain[PROBABILITIES].std().min() > 1e-4, "the networks must look at the photographs"
    for task, classes in TASKS.items():
        best = plain[[f"{task}:p:{name}" for name in classes]].to_numpy().argmax(1)
        assert plain[f"{task}:pred"].tolist() == [classes[k] for k in best]
    assert plain["roof:true"].dropna().eq("flat").all() and "storeys:true" not in plain


@pytest.mark.parametrize("shard_rows, batch_size", [(1, 1), (7, 3), (16, 16), (64, 5), (1000, 64)])
def test_shards_and_batches_change_nothing(place, plain, shard_rows, batch_size):
    same(run(place, f"s{shard_rows}-{batch_size}", shard_rows=shard_rows, batch_size=batch_size)[0], plain)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_a_batch_and_change_nothing(place, plain, threads):
    """Each takes a slice (of 5 rows: 2, 2 and 1) through the network; the number of threads is then what it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        frame, out = run(place, f"t{threads}", batch_size=5)
        again = run(place, f"t{threads}-again", batch_size=5)[1]
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    same(frame, plain)
    assert pq.read_table(out).equals(pq.read_table(again))


def shards(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{out.name}.shards/*/shard-*.parquet"))


def test_killed_between_and_inside_shards_it_goes_on(place, plain):
    out = place / "killed.parquet"
    command = [sys.executable, "-c", SLOW, place / "runs" / "a", place / "table.csv", out]
    for wanted, later in ((1, 0.0), (3, 0.25)):  # a shard takes 0.4 s: right after one, and in the middle of one
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
        try:
            while len(shards(out)) < wanted:
                assert process.poll() is None, "the prediction ended before it was killed"
                time.sleep(0.005)
            time.sleep(later)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert not out.exists()
        assert all(pq.read_metadata(path).num_rows for path in shards(out)), "a shard is whole or not there"
    left = N - 2 - 8 * len(shards(out))
    resumed, _ = run(place, "killed", shard_rows=8, batch_size=4)
    assert predict.provenance_of(out)["predicted_now"] == left < N - 2 - 16
    same(resumed, plain)
    assert not shards(out) and not list(place.glob(".killed*"))


def test_parts_of_several_machines_are_joined(place, plain):
    options = {"shard_rows": 8, "batch_size": 4}
    out = place / "parts.parquet"
    for part in ((1, 2), (0, 2)):
        folder = predict.predict_file(
            place / "runs" / "a", place / "table.csv", out, part=part, workers=1, progress=False, **options
        )
        assert folder.is_dir() and not out.exists()
    assert len(shards(out)) == 6
    same(run(place, "parts", **options)[0], plain)
    assert predict.provenance_of(out)["predicted_now"] == 0
    with pytest.raises(ValueError, match="found 2/2; expected I/N"):
        run(place, "parts", part=(2, 2))


def test_done_work_is_not_done_again_and_other_work_is(place):
    _, out = run(place, "again", limit=10)
    before = out.stat().st_mtime_ns
    assert len(run(place, "again", limit=10)[0]) <= 10 and out.stat().st_mtime_ns == before
    run(place, "again", limit=10, calibrated=True)
    assert out.stat().st_mtime_ns > before


def test_an_ensemble_is_the_mean_of_its_models(place, plain):
    second = run(place, "second", ["b"])[0]
    both, out = run(place, "both", ["a", "b"])
    np.testing.assert_allclose(both[PROBABILITIES], (plain[PROBABILITIES] + second[PROBABILITIES]) / 2, atol=1e-6)
    assert len(predict.provenance_of(out)["runs"]) == 2
    paths = [place / "runs" / "a", place / "runs" / "b"]
    frames = [pd.read_parquet(path / "validation.parquet") for path in paths]
    pooled = ensemble.validation(paths)
    np.testing.assert_allclose(pooled[PROBABILITIES], sum(f[PROBABILITIES] for f in frames) / 2, atol=1e-6)


def test_calibration_divides_logits_by_the_temperature(place, plain):
    scaled = run(place, "scaled", calibrated=True)[0]
    answers = ensemble.validation(place / "runs" / "a", calibrated=True)
    stored = pd.read_parquet(place / "runs" / "a" / "validation.parquet")
    for i, (task, classes) in enumerate(TASKS.items()):
        names = [f"{task}:p:{name}" for name in classes]
        for before, after in ((plain, scaled), (stored, answers)):
            expected = torch.softmax(torch.tensor(before[names].to_numpy()).log() / (0.5 + i), 1)
            np.testing.assert_allclose(after[names], expected, atol=1e-5)
    assert scaled["roof:pred"].tolist() == plain["roof:pred"].tolist()


def test_what_was_used_is_known_by_content_not_by_name(place, plain, tmp_path):
    number = plain["image"].str.extract(r"(\d+)")[0].astype(int)
    assert plain["in_training"].tolist() == (number < 20).tolist()
    splits = ["train" if i < 20 else "val" if i < 30 else "test" if i < 40 else "" for i in number]
    assert plain["split"].fillna("").tolist() == splits
    other = run(place, "other", ["b"])[0].set_index(number)  # this run did not see the first pictures
    assert not other["in_training"].any() and other["split"].fillna("").loc[[0, 29, 39]].tolist() == ["", "val", "test"]
    both = run(place, "both-splits", ["a", "b"])[0]
    assert both["split"].fillna("").tolist() == splits
    (tmp_path / "images").mkdir()
    shutil.copy(place / "images" / "0.png", tmp_path / "images" / "renamed.png")
    shutil.copy(place / "images" / "45.png", tmp_path / "images" / "0.png")  # a name that training knows
    frame = predict.predict(place / "runs" / "a", tmp_path / "images").set_index("image")
    assert frame["in_training"].to_dict() == {"0.png": False, "renamed.png": True}


def test_the_file_opens_with_geopandas(place, plain):
    geopandas = pytest.importorskip("geopandas")
    frame = geopandas.read_parquet(place / "plain.parquet")
    assert frame.crs.to_epsg() == 4326 or "CRS84" in frame.crs.to_string()
    assert np.allclose(frame.geometry.x, plain["lon"]) and np.allclose(frame.geometry.y, plain["lat"])


def test_without_positions(place):
    frame = run(place, "placeless", require_position=False)[0]
    assert len(frame) == N - 2
    assert frame.set_index("image").loc["images/3.png", ["lon", "geometry"]].isna().all()
    nowhere = pd.read_csv(place / "table.csv").drop(columns=["lon", "lat"])
    nowhere.to_csv(place / "nowhere.csv", index=False)
    with pytest.raises(ValueError, match="no image has a position; add lon and lat .* --without-position"):
        read_source(place / "nowhere.csv", TASKS)
    with pytest.warns(UserWarning, match="2 of 50 photographs cannot be read: images/7.png: "):
        answers = predict.predict(mtclim.load(place / "runs" / "a"), place / "nowhere.csv")
    assert len(answers) == N - 2 and not {"lon", "lat", "geometry", "block", "doubtful"} & set(answers)


@pytest.mark.parametrize("name", ["t.parquet", "t.gpkg"])
def test_rows_without_a_geometry_are_listed(tmp_path, name):
    geopandas = pytest.importorskip("geopandas")
    from shapely import Point

    images = {"image": ["a.png", "b.png", "c.png"], "block": ["x", None, "z"]}
    frame = geopandas.GeoDataFrame(images, geometry=[Point(350000, 6300000), None, Point(350100, 6300000)], crs=32719)
    frame.to_parquet(tmp_path / name) if name.endswith("t") else frame.to_file(tmp_path / name)
    rows = read_source(tmp_path / name, TASKS)
    assert rows["reason"].tolist() == ["", "no position (lon, lat) in the table", ""]
    assert rows["lon"].round(1).tolist()[::2] == [-70.6, -70.6] and rows["block"].fillna("").tolist() == ["x", "", "z"]
    with pytest.raises(table.TableError, match="no geometry"):
        table.read_table(tmp_path / name, TASKS, require_images=False)


def test_models_of_other_tasks_are_refused(place, tmp_path):
    other = make_run(tmp_path / "c", 2)
    settings = yaml.safe_load((other / "config.yaml").read_text())
    settings["tasks"] = {"roof": TASKS["roof"], "floors": ["1", "2"]}
    (other / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    with pytest.raises(ValueError, match="expected those of"):
        ensemble.load_ensemble([place / "runs" / "a", other])


def photograph(path: Path, gps: dict | None) -> None:
    exif = Image.Exif()
    if gps:
        exif[0x8825] = gps
    Image.new("RGB", (40, 30), (90, 120, 60)).save(path, exif=exif)


SANTIAGO = {1: "S", 2: (33.0, 26.0, 15.0), 3: "W", 4: (70.0, 39.0, 0.0)}


@pytest.mark.parametrize(
    "changed", [{1: "S\0\0"}, {1: "S "}, {1: "South"}, {3: "west"}, {2: 33.4375}, {2: (33.4375,)}, {2: (33.0, 26.25)}]
)
def test_positions_are_read_however_they_are_written(tmp_path, changed):
    photograph(tmp_path / "a.jpg", SANTIAGO | changed)
    lon, lat, _, reason = exif_place(tmp_path / "a.jpg")
    assert (lon, lat) == pytest.approx((-70.65, -33.4375)) and not reason


@pytest.mark.parametrize(
    "changed, reason",
    [({1: ""}, "reference is ''"), ({3: "O"}, "reference is 'O'"), ({2: (99.0, 0.0, 0.0)}, "99 0 0 S is impossible"),
     ({2: (33.0, 75.0, 0.0)}, "impossible"), ({4: (0.0, 0.0, 0.0), 2: (0.0, 0.0, 0.0)}, "without a fix")],
)  # fmt: skip
def test_doubtful_positions_are_listed_and_not_believed(place, tmp_path, changed, reason):
    photograph(tmp_path / "a.jpg", SANTIAGO | changed)
    lon, lat, _, why = exif_place(tmp_path / "a.jpg")
    assert why.startswith("doubtful GPS position") and reason in why and np.isnan([lon, lat]).all()
    frame = predict.predict(place / "runs" / "a", [tmp_path / "a.jpg"])
    assert reason in frame.loc[0, "doubtful"] and "lon" not in frame


def test_a_folder_of_geotagged_photographs(place, tmp_path):
    folder = tmp_path / "photos"
    (folder / "north").mkdir(parents=True)
    photograph(folder / "a.jpg", SANTIAGO | {16: "T", 17: 271.5})
    photograph(folder / "north" / "b.JPG", {1: "N", 2: (48.0, 8.0, 6.0), 3: "E", 4: (11.0, 34.0, 30.0)})
    photograph(folder / "c.jpg", None)
    (folder / "e.jpg").write_bytes(b"\xff\xd8 broken")
    for name in ("notes.txt", "Thumbs.db", "more.txt", "README"):
        (folder / name).write_text("not a photograph")
    (folder / "e.jpg").rename(folder / os.fsdecode(b"fa\xe7ade.jpg"))
    (folder / "e.jpg").write_bytes(b"\xff\xd8 broken")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    out = predict.predict_file(place / "runs" / "a", folder, tmp_path / "out.parquet", workers=1, progress=False)
    frame, listed = pd.read_parquet(out), pd.read_csv(f"{out}.listed.csv").set_index("image")["reason"]
    assert frame["image"].tolist() == ["a.jpg", "north/b.JPG"] and frame["block"].notna().all()
    assert frame["bearing"].fillna(-1).tolist() == [271.5, -1] and frame["in_training"].tolist() == [False, False]
    assert "no GPS position" in listed["c.jpg"] and "cannot be read" in listed["e.jpg"]
    assert predict.provenance_of(out)["others"] == {
        ".txt": 2,
        ".db": 1,
        "no suffix": 1,
        "linked folder": 1,
        "name that is no UTF-8": 1,
    }
    made = out.read_bytes()
    Path(f"{out}.listed.csv").unlink()
    predict.predict_file(place / "runs" / "a", folder, out, workers=1, progress=False)
    assert len(pd.read_csv(f"{out}.listed.csv")) == len(listed), "whole again"
    assert pq.read_table(out).equals(pq.read_table(io.BytesIO(made)))
    frame[["image", "lon", "lat"]].to_parquet(tmp_path / "own.parquet")
    for own in (tmp_path / "own.parquet", folder / "notes.txt"):
        before = own.read_bytes()
        with pytest.raises(ValueError, match="this file is no prediction, and it would be lost"):
            predict.predict_file(place / "runs" / "a", folder, own, workers=1, progress=False)
        assert own.read_bytes() == before
    everywhere = predict.predict_file(
        place / "runs" / "a", folder, tmp_path / "all.parquet", require_position=False, workers=1, progress=False
    )
    assert pd.read_parquet(everywhere)["image"].tolist() == ["a.jpg", "c.jpg", "north/b.JPG"]
    with pytest.warns(UserWarning, match="1 of 4"):
        answers = predict.predict(mtclim.load(place / "runs" / "a"), folder)
    assert answers["image"].tolist() == ["a.jpg", "c.jpg", "north/b.JPG"] and answers.attrs["others"][".txt"] == 2
    assert [image for image, _ in answers.attrs["listed"]] == ["e.jpg"]
    assert answers.loc[0, ["lon", "lat"]].tolist() == pytest.approx([-70.65, -33.4375])


def test_every_kind_of_picture_in_a_folder_counts(place, tmp_path):
    for suffix in (".jfif", ".jpe", ".gif", ".png"):
        kind = {".jfif": "JPEG", ".jpe": "JPEG"}.get(suffix)
        Image.new("RGB", (20, 20), "red").save(tmp_path / f"x{suffix}", kind)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.warns(UserWarning, match="1 of 5 photographs cannot be read: x.heic"):
        assert len(predict.predict(place / "runs" / "a", tmp_path)) == 4
    assert exif_place(tmp_path / "x.heic")[3].startswith("cannot be read: a HEIC picture; install the package")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.txt").touch()
    with pytest.raises(FileNotFoundError, match="no photograph .1 x .txt"):
        predict.predict(place / "runs" / "a", tmp_path / "none")


def test_panoramas_are_counted_and_named(place, tmp_path):
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "round.jpg")
    photograph(tmp_path / "flat.jpg", None)
    with pytest.warns(UserWarning, match="1 panoramas are squeezed: round.jpg"):
        assert len(predict.predict(place / "runs" / "a", tmp_path)) == 2
    options = {"require_position": False, "progress": False}
    out = predict.predict_file(place / "runs" / "a", tmp_path, tmp_path / "out.parquet", **options)
    assert predict.provenance_of(out)["panoramas"] == ["round.jpg"]


def test_a_loaded_model_answers_as_its_run_does(place, plain, tmp_path):
    paths = [place / name for name in plain["image"][:5]]
    frame = predict.predict(mtclim.load(place / "runs" / "a"), paths)
    np.testing.assert_allclose(frame[PROBABILITIES], plain[PROBABILITIES][:5], atol=1e-5)
    assert frame["image"].tolist() == [str(path) for path in paths] and "split" not in frame
    assert frame.columns.tolist()[1:] == [
        name for task, classes in TASKS.items() for name in (f"{task}:pred", *(f"{task}:p:{c}" for c in classes))
    ]
    with pytest.raises(ValueError, match="does not know its training labelsets"):
        predict.predict(mtclim.load(place / "runs" / "a"), paths, consistent=True)
    with pytest.raises(ValueError, match="empty list"):
        predict.predict(place / "runs" / "a", [])


def test_consistent_answers_are_labelsets_of_training(place, plain):
    frame, out = run(place, "consistent", consistent=True)
    seen = {("flat", "1"), ("gable", "2"), ("hip, or other", "2")}
    assert set(zip(frame["roof:pred"], frame["storeys:pred"], strict=True)) <= seen
    for task, classes in TASKS.items():
        np.testing.assert_allclose(frame[[f"{task}:p:{name}" for name in classes]].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(frame["roof:p:flat"], frame["storeys:p:1"], atol=1e-5)  # they go together in training
    joint = ensemble.joint_of(ensemble.validation(place / "runs" / "a"), place / "runs" / "a", TASKS)
    agreed = ensemble.make_consistent(plain.assign(**{"storeys:entropy": 0.5}), TASKS, joint)
    two = agreed[["storeys:p:1", "storeys:p:2"]].to_numpy()
    np.testing.assert_allclose(agreed["storeys:entropy"], -(two * np.log2(two)).sum(1), atol=1e-5)
    assert "roof:entropy" not in agreed
    assert "marginals" in predict.provenance_of(out)["answer"]
    assert "own probabilities" in predict.provenance_of(place / "plain.parquet")["answer"]


def test_an_image_that_one_run_was_trained_on_was_used_in_training(place, tmp_path):
    digest = digest_of(place / "images" / "25.png")
    other = make_run(tmp_path / "c", 2, {25: digest})
    pd.read_parquet(other / "split.parquet").assign(split="train").to_parquet(other / "split.parquet")
    for runs in ([place / "runs" / "a", other], [other, place / "runs" / "a"]):
        assert ensemble.load_ensemble(runs).splits[digest] == "train"


def test_runs_answer_together_on_the_validation_images_that_all_have(place, tmp_path):
    first, other = place / "runs" / "a", make_run(tmp_path / "c", 2)
    pd.read_parquet(other / "validation.parquet").iloc[3:].to_parquet(other / "validation.parquet")
    images = pd.read_parquet(first / "validation.parquet")["image"].tolist()
    for runs in ([first, other], [other, first]):
        assert ensemble.validation(runs)["image"].tolist() == images[3:]
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("table: t1", "table: t2"))
    with pytest.raises(ValueError, match="use runs of one partition"):
        ensemble.validation([first, other])


def test_consistent_answers_are_of_calibrated_probabilities(place):
    one = ensemble.load_ensemble(place / "runs" / "a", consistent=True)
    assert one.temperatures == ensemble.load_ensemble(place / "runs" / "a", calibrated=True).temperatures != [{}]


def test_a_model_trained_in_another_order_answers_in_the_tables_order():
    torch.manual_seed(0)
    model = mtclim.create_model("bl", TASKS, "test_byobnet").eval()
    model.image_size, device = 32, torch.device("cpu")
    pixels = {32: np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)}
    other = mtclim.Tasks({"storeys": ["2", "1"], "roof": ["gable", "hip, or other", "flat"]})
    plain, turned = (ensemble.Ensemble([model], [{}], tasks, device).probabilities(pixels) for tasks in (TASKS, other))
    order = [TASKS.columns.index(name) for name in other.columns]
    np.testing.assert_allclose(turned, plain[:, order])


def test_a_task_without_a_validation_label_stops_nothing(place, plain):
    answers = ensemble.validation(place / "runs" / "a").assign(**{"storeys:true": None})
    joint = ensemble.joint_of(answers, place / "runs" / "a", TASKS)
    agreed = ensemble.make_consistent(plain, TASKS, joint)
    assert np.isfinite(agreed[PROBABILITIES]).all(axis=None) and agreed["storeys:pred"].notna().all()


def test_the_best_run_of_a_table_is_chosen_on_validation_and_said(tmp_path):
    for k, (variant, kappa) in enumerate([("bl", 0.3), ("lim_ms_all", 0.5), ("lim_ms_all-own", 0.9), ("bl", None)]):
        run = make_run(tmp_path / str(k), k)
        settings = yaml.safe_load((run / "config.yaml").read_text()) | {"variant": variant, "seed": k}
        (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        scores = {"test": {"mean": {"kappa": 1.0 if kappa == 0.3 else 0.0}}, "val": {"mean": {"kappa": kappa}}}
        (run / "metrics.json").write_text(json.dumps(scores))
    chosen, why = ensemble.choose_runs(tmp_path, "t1")
    assert chosen == [tmp_path / "1"]
    sentence = "The network is LIM-MS_ALL, seed 1: the best of 3 finished runs on validation images"
    assert why == f"{sentence} (mean kappa 50.0 % there)."
    assert ensemble.listed_runs(tmp_path) == chosen and ensemble.listed_runs(tmp_path / "3") == [tmp_path / "3"]
    with pytest.raises(RunError, match="found no finished run of this table"):
        ensemble.choose_runs(tmp_path, "another table")


def test_what_means_missing_may_be_said(place, tmp_path):
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image,roof\na.png,?\n")
    with pytest.raises(ValueError, match="unknown class"):
        predict.predict(place / "runs" / "a", tmp_path / "t.csv")
    assert len(predict.predict(place / "runs" / "a", tmp_path / "t.csv", na_values=["?"])) == 1


def test_an_address_is_named_as_one_and_a_folder_may_be_called_like_a_photograph(place, tmp_path):
    for source in ("https://example.org/a.jpg", "https://example.org/t.csv", ["a.jpg", "ftp://example.org/b.jpg"]):
        with pytest.raises(ValueError, match="URL.*://example.org/"):
            predict.predict(place / "runs" / "a", source)
    (tmp_path / "street.jpg").mkdir()
    Image.new("RGB", (9, 7)).save(tmp_path / "street.jpg" / "a.png")
    assert predict.predict(place / "runs" / "a", tmp_path / "street.jpg")["image"].tolist() == ["a.png"]


@pytest.mark.parametrize("setting", ["batch_size", "shard_rows", "workers", "limit"])
def test_settings_that_cannot_work_are_refused_first(place, setting):
    with pytest.raises(ValueError, match=f"{setting}: found -1; expected 1 or more"):
        run(place, "refused", ["not there"], **{setting: -1})


def test_the_number_of_threads_is_restored_after_an_error(place, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(ensemble.Ensemble, "_forward", lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            run(place, "broken")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_blank_building_is_none_and_kinds_of_buildings_are_not_numbers(tmp_path):
    frame = pd.DataFrame(
        {"image": [f"{k}.png" for k in range(4)], "lon": [-70.6, -70.61, -70.62, -70.63], "lat": -33.4}
    )
    frame.assign(building=["7", "", "", "7"]).to_csv(tmp_path / "t.csv", index=False)
    assert read_source(tmp_path / "t.csv", TASKS)["building"].isna().tolist() == [False, True, True, False]
    frame.assign(building=["house", "house", "yes", "yes"]).to_csv(tmp_path / "t.csv", index=False)
    assert "building" not in read_source(tmp_path / "t.csv", TASKS)


def test_decoded_ahead_in_order(tmp_path):
    """Each batch has what `decode` gives, at every size; rows without an image are zeros, with the reason."""
    paths = [str(tmp_path / f"{k}.png") for k in range(70)]
    for k, path in enumerate(paths):
        Image.new("RGB", (9, 7), (k, 2 * k, 255 - k)).save(path)
    (tmp_path / "5.png").write_bytes(b"no picture")
    batches, sizes = [paths[k : k + 16] for k in range(0, 70, 16)], (8, 12)
    for batch, (pixels, found) in zip(batches, decoded_batches(batches, sizes, 16, 2), strict=True):
        digests, reasons, _ = zip(*found, strict=True)
        assert [bool(reason) for reason in reasons] == [path.endswith("/5.png") for path in batch]
        assert list(digests) == ["" if path.endswith("/5.png") else digest_of(path) for path in batch]
        for size in sizes:
            rows = [
                np.zeros((size, size, 3)) if reason else decode(path, size)
                for path, reason in zip(batch, reasons, strict=True)
            ]
            np.testing.assert_array_equal(pixels[size], rows + [np.zeros((size, size, 3))] * (16 - len(batch)))


def test_the_map_of_ones_own_photographs(place, tmp_path):
    """The notebook on a table with gaps, without true labels for a task, with tasks that the taxonomy half covers."""
    pytest.importorskip("papermill")
    pytest.importorskip("openquake.gem_taxonomy", reason="pip install 'mtclim[exposure]'")
    gem = tmp_path / "gem.csv"
    gem.write_text('task,class,gem\nroof,flat,RSH1\nroof,gable,RSH2\nroof,"hip, or other",\nstoreys,1,H:1\n')
    truth = pd.DataFrame({"image": [f"images/{i}.png" for i in range(N)], "roof": "flat", "storeys": "1"})
    truth.to_parquet(place / "truth.parquet")
    trained = shutil.copytree(place / "runs" / "a", tmp_path / "run")
    answers = pd.read_parquet(trained / "validation.parquet")
    answers[answers["roof:true"] != "gable"].to_parquet(trained / "validation.parquet")
    given = {"runs": trained, "source": place / "table.csv", "out": tmp_path / "out", "mapping": gem}
    given |= {"results": tmp_path / "results", "tiles": False, "by": "block", "data": place / "table.csv"}
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    notebook = Path(__file__).parents[2] / "notebooks" / "map.ipynb"
    command = [sys.executable, "-m", "papermill", notebook, tmp_path / "map.ipynb", "--no-progress-bar", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "map.ipynb").read_text()
    assert f"{N:,} images in, {N - 4:,} predicted, 4 listed" in text and "no position (lon, lat) in the table" in text
    assert "No validation image has a label of these classes" in text and "roof: gable'" in text.replace("\\", "")
    assert "joint over training labelsets" in text and "Only `predictions.parquet` holds the networks' own" in text
    how = exposure.HOW[True]
    assert how in (tmp_path / "out" / "exposure_expected.xml").read_text(encoding="utf-8")
    assert not re.search("'-[0-9]", (tmp_path / "results" / "map" / "exposure.csv").read_text())
    assert "has no row for 2" in text.replace("\\\\", "") and "synthetic data" not in text
    off = pd.read_csv(tmp_path / "results" / "exposure.csv")
    assert set(off["method"]) == {"argmax", "product", "joint"} and off["total_variation"].between(0, 1).all()
    counts = pd.read_csv(tmp_path / "out" / "exposure_expected.csv")
    assert counts["number"].sum() == pytest.approx(N - 4, abs=0.01)
    assert set(counts["taxonomy"]) <= {"RSH1", "RSH2", "UNK"}
    assert {"map.html", "facades.csv", "frequencies.csv", "exposure.xml"} <= {
        path.name for path in (tmp_path / "results" / "map").iterdir()
    }
