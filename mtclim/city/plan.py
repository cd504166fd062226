"""The plan of the city: where its blocks, streets and façades are, and which labels each façade truly has.

Labels come first and places second. The number of façades of each labelset follows from ``joint`` exactly (largest
remainders), so the labels' dependence doesn't change with the geography; then groups of equal houses are placed in
blocks with a probability that depends on their building type and the block's zone (``AFFINITY``), as section 4.5 of
the paper describes for its city. Everything is fictional: names, geometry and the place in the open South Atlantic.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mtclim.city.joint import LABELLED, TOTAL, allocate, categories, fit_margins, joint, possible, sbst
from mtclim.tasks import SANTIAGO

if TYPE_CHECKING:
    import geopandas

Shares = float | Mapping[str, float]  # one for all tasks, or by task

CITY = "Syntheta"
CRS = "EPSG:32730"  # UTM zone 30 S; the origin below lies at 3 degrees W, 30 degrees S: water, far from any land
ORIGIN = (500_000.0, 6_680_000.0)
FACADES_PER_BLOCK = 20
SIDES = ((0, 1), (1, 2), (2, 3), (3, 0))  # south, east, north, west side of a block, as pairs of its corners

ZONES = ["core", "ring", "business", "northeast", "middle", "periphery", "industry"]
AFFINITY = pd.DataFrame(
    {
        "MUR_H1": [8, 7, 0.5, 0.3, 1.5, 0.3, 2],
        "MUR_H2-3": [24, 3, 1, 0.1, 0.3, 0.05, 0.5],
        "MCF_H1-2": [1, 3, 0.1, 1, 5, 4, 2],
        "MR_H1-2": [0.05, 0.3, 0.02, 0.1, 2, 9, 1.5],
        "CR_H1-2": [1.5, 2, 1.5, 8, 3, 1, 2],
        "W,UNK_H1-2": [0.2, 1, 0.02, 0.05, 2, 7, 4],
        "MCF_H3-4": [1, 2, 0.2, 0.6, 5, 3, 1],
        "MR_H3-4": [0.1, 0.5, 0.05, 0.2, 3, 6, 1],
        "CR_H3-4": [2, 3, 2, 7, 3, 0.8, 1],
        "CR_H5-7": [3, 3, 6, 9, 1, 0.1, 0.2],
        "CR_H8-12": [2.5, 2.5, 9, 9, 0.6, 0.03, 0.1],
        "CR_H13+": [2.5, 2, 12, 8, 0.4, 0.02, 0.05],
        "COM1,2,IND_H1+": [4, 3, 2, 1, 2, 1, 14],
        "COM3_H8+": [0, 0, 12, 0, 0, 0, 0],
    },
    index=ZONES,
).T
"""How readily a building type stands in a zone (relative; section 4.5): unreinforced masonry with two or three storeys
in the historic core, offices only in business districts, towers there and in the wealthy north-east, reinforced
masonry and light dwellings on the low-rise periphery away from the north-east."""

DENSITY = [1.2, 1.1, 1.7, 1.4, 1.0, 0.8, 0.7]
"""Façades per block of the zones, relative."""

GROUP = {"DET_SP": 2.5, "DET_MP": 2, "SDET": 4, "ADJ_BD": 3, "ADJ_TR": 6}
"""Mean number of equal neighbours that were built together: what makes neighbours resemble each other."""

LOT = {"DET_SP": 16, "DET_MP": 24, "SDET": 10, "ADJ_BD": 12, "ADJ_TR": 6}
"""Relative width of a lot along the street."""

MUNICIPALITIES = """Old Lattice,Quadrat,Vectora,Rastera,Tessel,Polyline,Voxelia,Kernelton,Lossmere,Priorham,Sigmoida,
Argmax,Softmere,Batchford,Gradiente,Epochia,Logitaro,Momenta,Bayesburg,Convola,Poolham,Residua,Bottleneck,Embedding,
Attenton,Dropoutte,Normaville,Bias Point,Weightham,Padding,Stridewell,Dilata,Entropia,Divergence""".replace("\n", "")


@dataclass(frozen=True)
class CityPlan:
    """A planned city. ``facades`` has one row a façade, in the order of blocks and along their edges:

    ``id`` (0, 1, ...), ``lon, lat`` (EPSG:4326), ``x, y`` (m, ``CRS``), ``block, municipality, street`` (str),
    ``street_seed`` (int, one a block's side: seeds what its façades have in common), the five true labels (ordered
    categories) and ``labelled`` (bool: annotated).
    """

    facades: pd.DataFrame
    cells: pd.DataFrame  # one row a block: block, municipality, zone, i, j (lattice)
    nodes: np.ndarray  # (G + 1, G + 1, 2) street crossings in metres
    seed: int

    @cached_property
    def blocks(self) -> "geopandas.GeoDataFrame":
        """Block polygons: ``block, municipality, zone, facades, annotated``; parks are blocks without façades."""
        import shapely

        counts = self.facades.groupby("block")["labelled"].agg(["size", "sum"])
        counts = counts.reindex(self.cells["block"], fill_value=0).set_axis(self.cells.index)
        frame = self.cells[["block", "municipality", "zone"]].assign(facades=counts["size"], annotated=counts["sum"])
        return _geo(frame, shapely.polygons(_inset(_corners(self.nodes, self.cells))))

    @cached_property
    def municipalities(self) -> "geopandas.GeoDataFrame":
        """Municipality polygons, sharing their borders: ``municipality, facades, annotated``."""
        import shapely

        cells = shapely.polygons(_corners(self.nodes, self.cells))
        parts = self.cells.groupby("municipality", sort=False).indices
        counts = self.facades.groupby("municipality")["labelled"].agg(["size", "sum"]).reindex(parts, fill_value=0)
        frame = pd.DataFrame({"municipality": list(parts), "facades": counts["size"], "annotated": counts["sum"]})
        return _geo(frame.reset_index(drop=True), [shapely.union_all(cells[rows]) for rows in parts.values()])

    @cached_property
    def streets(self) -> "geopandas.GeoDataFrame":
        """Street polygons (the carriageway): ``street, width`` (m) ``, length`` (m)."""
        import shapely

        corners = _corners(self.nodes, self.cells)
        ends = np.concatenate([corners[:, list(side)] for side in SIDES])  # (4 n, 2, 2)
        names = np.concatenate([_street_names(self.cells, side) for side in range(4)])
        lines = pd.Series(shapely.normalize(shapely.linestrings(ends))).groupby(names)
        merged = {name: shapely.line_merge(shapely.union_all(part.to_numpy())) for name, part in lines}
        width = {name: 14.0 if int(name.split()[1].split("-")[0]) % 6 == 0 else 8.0 for name in merged}
        frame = pd.DataFrame({"street": list(merged), "width": list(width.values())})
        frame["length"] = [line.length for line in merged.values()]
        bands = [line.buffer(width[name] / 2, cap_style="flat") for name, line in merged.items()]
        return _geo(frame, bands)

    def annotations(self, missing: Shares = 0.0, noise: Shares = 0.0, seed: int | None = None) -> pd.DataFrame:
        """What an annotator wrote down: five categorical columns, one row a façade, NaN where there is no annotation.

        noise: share of wrong labels, by task or for all of height, material, roof shape and block position; each is
        wrong independently. A wrong height is a neighbouring class (the paper's errors occur only there, section 4.3),
        the others are any other class. Structural zeros hold: height changes first, to one the true material can have,
        then material, to one that the height now written can have. The building type is recomputed from the two.
        missing: share of annotations left out, by task or for all, independently of each other and of the noise.
        """
        rng = np.random.default_rng([self.seed if seed is None else seed, 7])
        noisy = [task for task in SANTIAGO if task != "sbst"]
        missing, noise = _by_task(missing, "missing", list(SANTIAGO)), _by_task(noise, "noise", noisy)
        codes = {task: self.facades[task].cat.codes.to_numpy().astype(int) for task in SANTIAGO}
        draws = {task: rng.random((3, len(self.facades))) for task in SANTIAGO}
        for task in noisy:  # height before material
            k = len(SANTIAGO[task])
            allowed = np.ones((len(self.facades), k), dtype=bool)
            if task == "height":
                allowed = possible().T[codes["mat_llrs"]] & (np.abs(np.arange(k) - codes[task][:, None]) == 1)
            elif task == "mat_llrs":
                allowed = possible()[codes["height"]]
            np.put_along_axis(allowed, codes[task][:, None], False, 1)
            chosen = (allowed.cumsum(1) > (draws[task][1] * allowed.sum(1))[:, None]).argmax(1)
            codes[task] = np.where(draws[task][0] < noise[task], chosen, codes[task])
        names = {task: np.asarray(SANTIAGO[task])[codes[task]] for task in ("height", "mat_llrs")}
        codes["sbst"] = sbst(names["height"], names["mat_llrs"]).codes
        hidden = {task: ~self.facades["labelled"].to_numpy() | (draws[task][2] < missing[task]) for task in SANTIAGO}
        codes = {task: np.where(hidden[task], -1, codes[task]) for task in SANTIAGO}
        return pd.DataFrame(categories(codes), index=self.facades.index)


def plan(facades: int = TOTAL, labelled: int = LABELLED, seed: int = 0, interdependency: float = 1.0) -> CityPlan:
    """Plan a city of ``facades`` façades of which ``labelled`` are annotated; deterministic for a seed.

    The geometry depends on ``facades`` and ``seed`` alone. ``interdependency``: see ``mtclim.city.joint.joint``.
    """
    if not 0 < labelled <= facades:
        raise ValueError(f"labelled is {labelled}, facades {facades}; expected 0 < labelled <= facades.")
    cells, nodes, weights = _geometry(max(6, round(facades / FACADES_PER_BLOCK)), np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 1])
    sets = joint(interdependency)
    annotated = allocate(sets["p"], labelled)
    counts = annotated + allocate(sets["p"], facades - labelled)
    labelset = np.repeat(np.arange(len(sets)), counts)
    group, block = _place(sets, labelset, cells, weights, rng)
    order = np.lexsort((rng.permutation(group.max() + 1)[group], block))  # groups stand together, in random order
    labelset, block = labelset[order], block[order]
    width = sets["block_position"].map(LOT).astype(float).to_numpy()[labelset]
    side, x, y = _along_edges(cells, nodes, block, width, rng)
    lon, lat = _lon_lat(x, y)
    face = block * 4 + side
    truth = sets[list(SANTIAGO)].iloc[labelset].reset_index(drop=True)
    names = np.stack([_street_names(cells, s) for s in range(4)], axis=1)
    seeds = rng.integers(0, 2**31, size=4 * len(cells))
    place = pd.DataFrame({"id": np.arange(facades), "lon": lon, "lat": lat, "x": x, "y": y})
    place = place.assign(**{name: cells[name].to_numpy()[block] for name in ("block", "municipality")})
    place = place.assign(street=names[block, side], street_seed=seeds[face])
    # Annotators take blocks and their sides in a random order until each labelset's number is reached.
    walk = rng.random(len(cells))[block] + 0.5 * rng.random(4 * len(cells))[face] + 0.1 * rng.random(facades)
    ranked = np.lexsort((walk, labelset))
    rank = np.empty(facades, dtype=int)
    rank[ranked] = np.arange(facades) - np.repeat(np.cumsum(counts) - counts, counts)
    frame = pd.concat([place, truth], axis=1).assign(labelled=rank < annotated[labelset])
    return CityPlan(frame, cells, nodes, seed)


def _geometry(blocks: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Blocks on a warped lattice: cells (n rows), nodes (G + 1, G + 1, 2) in metres, zone weights (n, 7).

    The city grows from a regular historic grid; its outline reaches out along a few roads, blocks get larger and less
    regular outwards, a river crosses it in the south-west and about one block in thirty is a park.
    """
    radius = np.sqrt(blocks / np.pi)  # in blocks
    half = int(np.ceil(1.7 * radius)) + 2
    size = 2 * half
    u, v = (np.arange(size) - half + 0.5)[:, None], (np.arange(size) - half + 0.5)[None, :]
    u, v = np.broadcast_to(u, (size, size)), np.broadcast_to(v, (size, size))
    r, angle = np.hypot(u, v) / radius, np.arctan2(v, u)
    roads = rng.uniform(0, 2 * np.pi, 5)
    reach = 1 + 0.2 * np.exp(-((np.angle(np.exp(1j * (angle[..., None] - roads))) / 0.25) ** 2)).sum(-1)
    river = np.abs(v / radius + 0.45 * u / radius + 0.55 + 0.08 * np.sin(5 * u / radius)) < 0.55 / radius
    park = (rng.random((size, size)) < 0.03) & (blocks > 60)
    distance = np.where(river & (blocks > 60), np.inf, r / reach)
    chosen = np.argsort(distance, axis=None, kind="stable")
    chosen = chosen[: np.searchsorted(np.cumsum(~park.ravel()[chosen]), blocks) + 1]
    i, j = np.unravel_index(chosen, (size, size))
    a, b = u[i, j] / radius, v[i, j] / radius
    weights = _zone_weights(a, b)
    zone = np.where(park[i, j], "park", np.asarray(ZONES)[weights.argmax(1)])
    names = MUNICIPALITIES.split(",")
    towns = _towns(np.stack([a, b], 1), int(np.clip(round(np.sqrt(blocks) / 3), 3, len(names))), rng)
    cells = pd.DataFrame({"block": [f"B{k:05d}" for k in range(len(i))], "municipality": np.asarray(names)[towns]})
    return cells.assign(zone=zone, i=i, j=j), _nodes(size, radius, rng), np.where(park[i, j, None], 0, weights)


def _zone_weights(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, 7) membership of the zones at positions in city radii east and north of the centre."""
    r, along, across = np.hypot(a, b), (a + b) / np.sqrt(2), (a - b) / np.sqrt(2)
    to_axis = np.hypot(np.maximum(np.maximum(0.2 - along, along - 0.75), 0), across)
    business = 2 * np.exp(-((to_axis / 0.19) ** 4))
    business[np.argmin(to_axis)] = 9.0  # however small the city, offices have a place
    core, ring = 1.3 * np.exp(-((r / 0.27) ** 4)), np.exp(-(((r - 0.4) / 0.13) ** 2))
    northeast = np.exp(-((across / 0.75) ** 4)) / (1 + np.exp((0.15 - along) / 0.06))
    periphery = (1 - northeast) / (1 + np.exp((0.68 - r) / 0.06))
    middle = 0.9 * (1 - periphery) * (1 - northeast) * (1 - np.minimum(core, 1)) * (1 - 0.7 * ring)
    works = np.minimum(np.hypot(a + 0.6, b - 0.2), np.hypot(a - 0.15, b + 0.8))
    industry = 1.5 * np.exp(-((works / 0.16) ** 4))
    weights = np.stack([core, ring * (1 - 0.7 * northeast), business, northeast, middle, periphery, industry], axis=1)
    weights[weights.argmax(1) != ZONES.index("business"), ZONES.index("business")] = 0  # offices stand nowhere else
    return weights / weights.sum(1, keepdims=True)


def _nodes(size: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """(G + 1, G + 1, 2) street crossings in metres: a lattice, regular in the core, stretched and bent outwards."""
    line = np.arange(size + 1) - size / 2
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1) / radius
    r = np.hypot(grid[..., 0], grid[..., 1])
    loose = np.clip((r - 0.25) / 0.3, 0, 1)[..., None]
    wave, phase = rng.uniform(2, 4, 4), rng.uniform(0, 2 * np.pi, 4)
    bend = np.stack([np.sin(wave[0] * grid[..., 1] + phase[0]), np.sin(wave[1] * grid[..., 0] + phase[1])], axis=-1)
    turn = 0.15 * np.sin(2.2 * r + phase[2]) * loose[..., 0]
    c, s = np.cos(turn), np.sin(turn)
    grid = np.stack([c * grid[..., 0] - s * grid[..., 1], s * grid[..., 0] + c * grid[..., 1]], axis=-1)
    grid = grid * (1 + 0.4 * np.minimum(r, 1.2)[..., None] ** 2) + 0.05 * bend
    jitter = np.clip(rng.normal(0, 0.09, grid.shape), -0.16, 0.16) / radius * loose
    return np.asarray(ORIGIN) + 85.0 * radius * (grid + jitter)


def _towns(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Municipality of each block by Lloyd's algorithm, numbered outwards from the centre."""
    centres = points[rng.choice(len(points), count, replace=False)]
    centres[0] = 0.0
    for _ in range(8):
        nearest = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
        sums = np.stack([np.bincount(nearest, points[:, axis], count) for axis in (0, 1)], axis=1)
        centres[1:] = (sums / np.maximum(np.bincount(nearest, minlength=count), 1)[:, None])[1:]
    outward = np.argsort(np.argsort(np.hypot(*centres.T)))
    return outward[((points[:, None] - centres) ** 2).sum(-1).argmin(1)]


def _place(
    sets: pd.DataFrame, labelset: np.ndarray, cells: pd.DataFrame, weights: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Group and block of each façade; the groups of a building type go to blocks by affinity and by chance."""
    starts = rng.random(len(labelset)) < 1 / sets["block_position"].map(GROUP).astype(float).to_numpy()[labelset]
    starts |= np.diff(labelset, prepend=-1) > 0
    group = np.cumsum(starts) - 1
    kind = sets["sbst"].cat.codes.to_numpy()[labelset]
    used = np.flatnonzero(weights.sum(1) > 0)
    affinity = weights[used] @ AFFINITY.loc[list(SANTIAGO["sbst"]), ZONES].to_numpy().T  # (blocks, 14)
    _, quarter = np.unique(cells[["i", "j"]].to_numpy()[used] // 4, axis=0, return_inverse=True)
    history = rng.normal(0, 0.6, (quarter.max() + 1, affinity.shape[1]))[quarter]  # shared by some sixteen blocks
    affinity *= np.exp(history + rng.normal(0, 0.8, affinity.shape))
    density = rng.gamma(16, 1 / 16, len(used)) * (weights[used] @ DENSITY)
    totals = np.bincount(kind, minlength=affinity.shape[1])
    share = fit_margins(affinity, density / density.sum() * len(labelset), totals, steps=60)
    block = np.empty(group[-1] + 1, dtype=int)
    kind_of_group = kind[starts]
    for k in np.unique(kind_of_group):
        mine = np.flatnonzero(kind_of_group == k)
        cumulated = np.cumsum(share[:, k])
        block[mine] = used[np.searchsorted(cumulated, rng.random(len(mine)) * cumulated[-1], side="right")]
    return group, block[group]


def _along_edges(
    cells: pd.DataFrame, nodes: np.ndarray, block: np.ndarray, width: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Side (0..3) and x, y (m) of each façade; façades come sorted by block and stand in that order along its edge."""
    corners = _inset(_corners(nodes, cells))
    closed = np.concatenate([corners, corners[:, :1]], axis=1)
    reach = np.cumsum(np.hypot(*np.moveaxis(np.diff(closed, axis=1), -1, 0)), axis=1)  # (n, 4) m to the end of a side
    ahead = np.cumsum(width) - width / 2
    first = np.searchsorted(block, block)  # of the same block
    ahead = ahead - (np.cumsum(width) - width)[first]
    total = np.bincount(block, width, len(cells))[block]
    at = (ahead / total + rng.random(len(cells))[block]) % 1.0 * reach[block, 3]
    side = np.minimum((at[:, None] >= reach[block]).sum(1), 3)
    start = np.concatenate([np.zeros((len(cells), 1)), reach], axis=1)
    part = (at - start[block, side]) / (start[block, side + 1] - start[block, side])
    xy = closed[block, side] * (1 - part[:, None]) + closed[block, side + 1] * part[:, None]
    return side, xy[:, 0], xy[:, 1]


def _corners(nodes: np.ndarray, cells: pd.DataFrame) -> np.ndarray:
    """(n, 4, 2) street crossings around each block, counter-clockwise from the south-west."""
    i, j = cells["i"].to_numpy(), cells["j"].to_numpy()
    return np.stack([nodes[i, j], nodes[i + 1, j], nodes[i + 1, j + 1], nodes[i, j + 1]], axis=1)


def _inset(corners: np.ndarray, share: float = 0.12) -> np.ndarray:
    """The block itself: each crossing moved that share of the way to the centre, which leaves the streets."""
    return corners + share * (corners.mean(1, keepdims=True) - corners)


def _street_names(cells: pd.DataFrame, side: int) -> np.ndarray:
    """Name of the street at one side of each block: the lattice line, cut every eight blocks."""
    i, j = cells["i"].to_numpy(), cells["j"].to_numpy()
    across = side in (0, 2)  # runs west to east
    line, piece = (j + (side == 2), i // 8) if across else (i + (side == 1), j // 8)
    kind = "Street" if across else "Avenue"
    return np.array([f"{kind} {a}-{b}" for a, b in zip(line, piece, strict=True)])


def _lon_lat(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from pyproj import Transformer

    return Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(x, y)


def _by_task(value: Shares, name: str, tasks: list[str]) -> dict[str, float]:
    values = dict(value) if isinstance(value, Mapping) else dict.fromkeys(tasks, value)
    if unknown := sorted(set(values) - set(tasks)):
        raise ValueError(f"{name}: found tasks {unknown}; expected some of {tasks}.")
    for task, share in values.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: {task} has {share}; expected a share from 0 to 1.")
    return {task: float(values.get(task, 0.0)) for task in tasks}


def _geo(frame: pd.DataFrame, geometry) -> "geopandas.GeoDataFrame":
    import geopandas

    return geopandas.GeoDataFrame(frame, geometry=geometry, crs=CRS)
