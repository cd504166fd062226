"""A synthetic city with photographs of its façades: data for the study that anyone can make, with known truth.

The labels are calibrated on the paper, the plan and the pictures are invented: results on them say how methods compare
under known conditions, not how well they do on photographs of real buildings.
"""

import json
import platform
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd

from mtclim.city.street import OTHER, TASKS, draw
from mtclim.files import whole_or_absent, write_json, write_text
from mtclim.machine import cores
from mtclim.tasks import SANTIAGO

__all__ = ["draw", "make_city"]

FOLDER, JOB = 1000, 200  # images a sub-folder, images a job
GENERATOR = 2  # raise it when equal parameters give other labels or pictures


def make_city(
    folder, facades=204_030, labelled=29_567, seed=0, size=300, interdependency=1.0, ambiguity=0.3, missing=0.0,
    noise=0.0, views=1, not_facade=0.0, workers=None, progress=True,
) -> Path:  # fmt: skip
    """Make the synthetic city and return the path of the table of its photographs, ``images.parquet``.

    Everything follows from the parameters, whatever the number of workers. A call that was stopped goes on when
    repeated; a finished city is left as it is.

    Parameters
    ----------
    folder : Where the city is put; new or empty.
    facades, labelled : Number of buildings, each with one façade, and how many of them are annotated.
    seed, size : Where all that is random begins; side of a photograph in pixels, 64 to 300.
    interdependency, ambiguity : 0 to 1: how much the labels depend on each other, of which 1 is the paper's
        (:func:`mtclim.city.joint.joint`), and how often a task's own cues are hidden (:mod:`mtclim.city.street`).
    missing, noise : Share of annotations left out, and share of those that are wrong.
    views, not_facade : Photographs of each façade, 1 to 9 (more than one bring a column ``building``), and share of
        photographs that show no façade (above 0 there is a task ``view``, and the other tasks of such photographs are
        not annotated).

    Raises
    ------
    ValueError
        If parameters are out of range, or the folder holds something else.
    """
    workers = cores() if workers is None else workers
    folder = Path(folder).absolute()  # workers of an earlier call may have another working directory
    parameters = {"facades": facades, "labelled": labelled, "seed": seed, "size": size}
    parameters |= {"interdependency": interdependency, "ambiguity": ambiguity, "missing": missing, "noise": noise}
    parameters |= {"views": views, "not_facade": not_facade}
    parameters = {"generator": GENERATOR} | _checked(parameters, workers)
    if _claim(folder, parameters):
        return folder / "images.parquet"
    from mtclim.city.plan import plan

    city = plan(facades, labelled, seed, interdependency)
    table = _views(city, views, not_facade)
    _photographs(folder, table, (seed, size, ambiguity), workers, progress)
    for left in folder.rglob(".*"):  # by killed workers
        left.unlink()
    known = pd.concat([city.annotations(missing, noise)] * views, ignore_index=True)
    if not_facade:
        shown = table["kind"].where(table["kind"] == "facade", "other")
        known[shown == "other"] = np.nan
        known["view"] = pd.Categorical(shown.where(table["labelled"]), ["facade", "other"], ordered=True)
    _tables(folder, city, table, known)
    text = Template(Path(__file__).with_name("dictionary.md").read_text(encoding="utf-8"))
    classes = "\n".join(f"| {task} | {', '.join(known[task].cat.categories)} |" for task in known)
    settings = "\n".join(f"- {name}: {value}" for name, value in parameters.items())
    write_text(folder / "README.md", text.substitute(parameters=settings, classes=classes))
    versions = {name: version(name) for name in ("numpy", "pillow", "pandas", "geopandas")}
    record = {"parameters": parameters, "synthetic": True, "python": platform.python_version(), "versions": versions}
    write_json(folder / "city.json", record)
    (folder / "city.partial.json").unlink()
    return folder / "images.parquet"


def _checked(parameters: dict, workers: int) -> dict:
    """The parameters as plain numbers; all that is out of range is refused at once."""
    whole = {"facades": (1, 10**7), "labelled": (1, parameters["facades"]), "seed": (0, 2**63), "size": (64, 300)}
    whole |= {"views": (1, 9), "workers": (1, 1000)}
    wrong = []
    for name, value in {**parameters, "workers": workers}.items():
        least, most = whole.get(name, (0, 1))
        kind, word = (Integral, "a whole number") if name in whole else (Real, "a number")
        if not isinstance(value, kind) or not (isinstance(most, str) or least <= value <= most):
            wrong.append(f"{name} is {value!r}, expected {word} from {least} to {most}")
    if wrong:
        raise ValueError(f"make_city: {'; '.join(wrong)}.")
    return {name: int(value) if name in whole else float(value) for name, value in parameters.items()}


def _claim(folder: Path, parameters: dict) -> bool:
    """True if the city is there already; otherwise note whose images the folder is going to hold."""
    for name in ("city.json", "city.partial.json"):
        if (folder / name).exists():
            found = json.loads((folder / name).read_text(encoding="utf-8"))["parameters"]
            differs = ", ".join(f"{k} is {found.get(k)}, asked {v}" for k, v in parameters.items() if found.get(k) != v)
            if differs:
                raise ValueError(f"{folder} holds another city ({differs}); choose another folder or delete this one.")
            return name == "city.json"
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no city; choose another folder.")
    write_json(folder / "city.partial.json", {"parameters": parameters})
    return False


def _views(city, views: int, not_facade: float):
    """One row a photograph: all first views, then all second ones; what each shows and where it was taken."""
    facades = city.facades.rename(columns={"id": "building"})
    table = pd.concat([facades.assign(shot=shot) for shot in range(views)], ignore_index=True)
    places = zip(table["building"], table["shot"], strict=True)
    table["image"] = [f"images/{i // FOLDER:03d}/{i:06d}{f'-{k}' if k else ''}.jpg" for i, k in places]
    coin = np.random.default_rng([city.seed, 9]).random(len(table))
    other = np.take(OTHER, (coin / max(not_facade, 1e-9) * len(OTHER)).astype(int), mode="clip")
    return table.assign(kind=np.where(coin < not_facade, other, "facade"))


def _photographs(folder, table, how, workers, progress):
    """Draw what is not there yet, in jobs of neighbouring images."""
    from joblib import Parallel, delayed  # its workers don't import the script that calls this
    from tqdm.auto import tqdm

    columns = [table[name].tolist() for name in ("image", "building", *TASKS, "street_seed", "shot", "kind")]
    rows = list(zip(*columns, strict=True))
    jobs = (delayed(_job)(folder, rows[start : start + JOB], *how) for start in range(0, len(rows), JOB))
    pool = Parallel(workers, backend="loky", return_as="generator_unordered", batch_size=1)
    with tqdm(total=len(rows), unit="image", desc="façades", disable=not progress, mininterval=0.5) as bar:
        for drawn in pool(jobs):
            bar.update(drawn)


def _job(folder, rows, seed, size, ambiguity) -> int:
    """Draw one job's missing images; each depends on its labels, its street, its kind and (seed, façade, view) only."""
    for name, i, *labels, street, shot, kind in rows:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with whole_or_absent(path) as beside:
                beside.write_bytes(draw(*labels, (seed, i), size, ambiguity, street, shot, kind))
    return len(rows)


def _tables(folder: Path, city, table, known):
    """GeoParquet and GeoPackage; the table that is read (`images.parquet`) holds only what an annotator would know."""
    import geopandas as gpd
    import yaml

    points = gpd.points_from_xy(table["lon"], table["lat"], crs="EPSG:4326")
    known = table[["image", "lon", "lat", "block", "municipality"]].assign(**known)
    cameras = city.cameras(len(table) // len(city.facades)).to_crs("EPSG:4326")
    cameras = cameras.assign(image=table["image"], lon=cameras.geometry.x, lat=cameras.geometry.y)
    cameras = cameras[["image", "building", "lon", "lat", "bearing", "geometry"]]
    if len(cameras) > len(city.facades):
        known["building"] = table["building"]
    truth = table[["image", *SANTIAGO, "labelled", "street", "block", "municipality", "kind", "building"]]
    layers = {"blocks": city.blocks, "municipalities": city.municipalities, "streets": city.streets}
    layers |= {"footprints": city.footprints, "cameras": cameras}
    layers = {"images": gpd.GeoDataFrame(known, geometry=points)} | layers
    for name, frame in {"truth": truth, **layers}.items():
        with whole_or_absent(folder / f"{name}.parquet") as beside:
            frame.to_parquet(beside, index=False)
    with whole_or_absent(folder / "city.gpkg") as beside:
        for name, frame in layers.items():
            plain = frame.astype({c: object for c in frame.columns if frame[c].dtype == "category"})
            layer = "facades" if name == "images" else name
            plain.to_file(beside, layer=layer, driver="GPKG", engine="pyogrio")
    tasks = SANTIAGO.to_dict() | ({"view": ["facade", "other"]} if "view" in known else {})
    write_text(folder / "tasks.yaml", yaml.safe_dump(tasks, sort_keys=False))
