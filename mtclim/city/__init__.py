"""A synthetic city with photographs of its façades: data for the study that anyone can make, with known truth.

``make_city`` plans the city (:mod:`mtclim.city.plan`: streets, blocks, labels after :mod:`mtclim.city.joint`), draws
one photograph a façade (:mod:`mtclim.city.facade`) and writes tables beside them. The labels are calibrated on the
paper, the pictures are invented: results on them say how methods compare under known conditions, not how well
they do on photographs of real buildings.
"""

import io
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from mtclim.city.facade import draw
from mtclim.tasks import SANTIAGO

__all__ = ["draw", "make_city", "sheet"]

DRAWN = ("height", "mat_llrs", "roof_shape", "block_position")  # SBST is a function of the first two
FOLDER, JOB = 1000, 200  # images a sub-folder, images a job
GENERATOR = 1  # raise it when equal parameters give other labels or pictures


def make_city(
    folder, facades=204_030, labelled=29_567, seed=0, size=300, interdependency=1.0, ambiguity=0.3, missing=0.0,
    noise=0.0, workers=None, progress=True,
) -> Path:  # fmt: skip
    """Make the city in `folder` and return the path of its table, ``images.parquet``.

    `facades` photographs of `size` x `size` pixels, `labelled` of them annotated; `interdependency` in [0, 1]: see
    :func:`mtclim.city.joint.joint`; `ambiguity` in [0, 1]: how often a task's own cues are hidden in a picture, see
    :mod:`mtclim.city.facade`; `missing` and `noise`: shares of annotations that are left out and that are wrong.
    Everything follows from the parameters, whatever the number of `workers` (default: the usable cores). A call that
    was stopped goes on when repeated; a finished city is left as it is. Scripts call this below
    ``if __name__ == "__main__":``, because workers are spawned. Raises ValueError if `folder` holds another city.
    """
    folder, parameters = Path(folder), {"generator": GENERATOR, "facades": facades, "labelled": labelled, "seed": seed}
    parameters |= {"size": size, "interdependency": interdependency, "ambiguity": ambiguity}
    parameters |= {"missing": missing, "noise": noise}
    if _claim(folder, parameters):
        return folder / "images.parquet"
    from mtclim.city.plan import plan

    city = plan(facades, labelled, seed, interdependency)
    known = city.annotations(missing, noise)
    table = city.facades.assign(image=[_name(i) for i in range(facades)])
    _photographs(folder, table, seed, size, ambiguity, workers, progress)
    for left in folder.glob("images/*/.*"):  # by killed workers
        left.unlink()
    _tables(folder, city, table, known)
    _write(folder / "README.md", _dictionary(parameters))
    versions = {name: version(name) for name in ("numpy", "pillow", "pandas", "geopandas")}
    record = {"parameters": parameters, "synthetic": True, "python": platform.python_version(), "versions": versions}
    _write(folder / "city.json", json.dumps(record, indent=1))
    (folder / "city.partial.json").unlink()
    return folder / "images.parquet"


def _claim(folder: Path, parameters: dict) -> bool:
    """True if the city is there already; otherwise note whose images the folder is going to hold."""
    for name in ("city.json", "city.partial.json"):
        if (folder / name).exists():
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            found = found.get("parameters", found)
            other = {k: (found.get(k), v) for k, v in parameters.items() if found.get(k) != v}
            if other:
                differs = ", ".join(f"{k} is {a}, asked {b}" for k, (a, b) in other.items())
                raise ValueError(f"{folder} holds another city ({differs}); choose another folder or delete this one.")
            return name == "city.json"
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no city; choose another folder.")
    _write(folder / "city.partial.json", json.dumps(parameters))
    return False


def _name(i: int) -> str:
    return f"images/{i // FOLDER:03d}/{i:06d}.jpg"


def _write(path: Path, content: str | bytes):
    """Whole or absent."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(beside, path)


def _photographs(folder, table, seed, size, ambiguity, workers, progress):
    """Draw what is not there yet, in jobs of neighbouring images."""
    from tqdm.auto import tqdm

    workers = workers or len(os.sched_getaffinity(0))
    labels = [table[task].astype(str).to_numpy() for task in DRAWN]
    streets = table["street_seed"].to_numpy()
    jobs = range(0, len(table), JOB)
    with tqdm(total=len(table), unit="image", desc="façades", disable=not progress, mininterval=0.5) as bar:

        def job(start):
            rows = slice(start, min(start + JOB, len(table)))
            return str(folder), start, [x[rows].tolist() for x in labels], streets[rows].tolist(), seed, size, ambiguity

        if workers == 1:
            for start in jobs:
                bar.update(_job(*job(start)))
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(_job, *job(start)) for start in jobs]):
                bar.update(done.result())


def _job(folder, start, labels, streets, seed, size, ambiguity) -> int:
    """Draw one job's missing images; image i depends on its labels, its street and (seed, i) only."""
    folder, rows = Path(folder), list(zip(*labels, streets, strict=True))
    (folder / _name(start)).parent.mkdir(parents=True, exist_ok=True)
    for i, (*classes, street) in enumerate(rows, start):
        path = folder / _name(i)
        if not path.exists():
            _write(path, draw(*classes, (seed, i), size, ambiguity, street))
    return len(rows)


def _tables(folder: Path, city, table, known):
    """GeoParquet and GeoPackage; the table that is read (`images.parquet`) holds only what an annotator would know."""
    import geopandas as gpd
    import yaml

    tasks = list(SANTIAGO)
    points = gpd.points_from_xy(table["lon"], table["lat"], crs="EPSG:4326")
    known = table[["image", "lon", "lat", "block", "municipality"]].assign(**known)
    known = gpd.GeoDataFrame(known, geometry=points)
    truth = table[["image", *tasks, "labelled", "street", "block", "municipality"]]
    _replace(folder / "truth.parquet", lambda path: truth.to_parquet(path, index=False))
    _replace(folder / "images.parquet", lambda path: known.to_parquet(path, index=False))
    layers = {"facades": known, "blocks": city.blocks, "municipalities": city.municipalities, "streets": city.streets}

    def package(path):
        for layer, frame in layers.items():
            plain = frame.astype({c: str for c in frame.columns if frame[c].dtype == "category"})
            plain.to_file(path, layer=layer, driver="GPKG", engine="pyogrio")

    for layer in list(layers)[1:]:
        _replace(folder / f"{layer}.parquet", lambda path, frame=layers[layer]: frame.to_parquet(path, index=False))
    _replace(folder / "city.gpkg", package)
    _write(folder / "tasks.yaml", yaml.safe_dump(SANTIAGO.to_dict(), sort_keys=False))


def _replace(path: Path, save):
    beside = path.with_name(f"_{path.name}")
    beside.unlink(missing_ok=True)
    save(beside)
    os.replace(beside, path)


def _dictionary(p: dict) -> str:
    """The data dictionary."""
    lines = "\n".join(f"| {task} | {', '.join(names)} |" for task, names in SANTIAGO.items())
    settings = "\n".join(f"- {k}: {v}" for k, v in p.items())
    return f"""# A synthetic city

Made by `mtclim.city`. Nothing here is a photograph or a place: labels are drawn from a distribution calibrated on
Aravena Pelizari et al. (2023), pictures are rendered from the labels. Parameters:

{settings}

| file | one row | columns |
|---|---|---|
| images.parquet | façade | image (path of the JPEG in this folder), lon, lat (degrees, EPSG:4326), block, municipality, the five tasks (empty: not annotated), geometry |
| truth.parquet | façade | image, the five tasks as drawn (no gaps, no noise), labelled, street, block, municipality |
| blocks.parquet, municipalities.parquet, streets.parquet | polygon or line | name, geometry |
| city.gpkg | | the same as layers facades, blocks, municipalities, streets |
| tasks.yaml | task | its classes in order |
| city.json | | parameters and versions; written last, so that a folder with it is complete |

| task | classes |
|---|---|
{lines}

`sbst` follows from `height` and `mat_llrs`. Classes: see Fig. 2 of the paper.
"""


def sheet(n=6, size=150, seed=0, ambiguity=0.0, tasks=DRAWN) -> dict:
    """Example façades: ``{task: {class: [n pictures]}}`` as PIL images, other labels drawn from the joint (Fig. 3)."""
    import numpy as np
    from PIL import Image

    from mtclim.city.joint import joint

    cells, rng, pictures = joint(), np.random.default_rng(seed), {}
    for task in tasks:
        pictures[task] = {}
        for k, name in enumerate(SANTIAGO[task]):
            own = cells[cells[task] == name]
            rows = own.iloc[rng.choice(len(own), n, p=own["p"] / own["p"].sum())]
            drawn = [
                draw(*row, (seed, 1, k, j), size, ambiguity, int(rng.integers(40)))
                for j, row in enumerate(rows[list(DRAWN)].astype(str).itertuples(index=False))
            ]
            pictures[task][name] = [Image.open(io.BytesIO(image)) for image in drawn]
    return pictures
