"""The plan of the city: where its blocks, streets and façades are, and which labels each façade truly has.

Labels come first and places second. The number of façades of each labelset follows from ``joint`` exactly (largest
remainders), so the labels' dependence doesn't change with the geography; then groups of equal houses are placed in
blocks with a probability that depends on their building type and the block's zone (``AFFINITY``), as section 4.5 of
the paper describes for its city. Everything is fictional: names, geometry and the place in the open South Atlantic.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer
from scipy.cluster.vq import kmeans2

from mtclim.city.joint import LABELLED, TOTAL, allocate, building_types, categories, fit_margins, joint
from mtclim.tasks import SANTIAGO

CRS = "EPSG:32730"  # UTM zone 30 S; the origin below lies at 3 degrees W, 30 degrees S: water, far from any land
ORIGIN = (500_000.0, 6_680_000.0)
FACADES_PER_BLOCK = 20
SIDES = ((0, 1), (1, 2), (2, 3), (3, 0))  # south, east, north, west side of a block, as pairs of its corners

AFFINITY = pd.read_csv(Path(__file__).with_name("zones.csv"), index_col=0).drop(columns="reason")
DENSITY = AFFINITY.loc["density"]
AFFINITY = AFFINITY.drop(index="density")
ZONES = list(AFFINITY)
"""How readily a building type stands in a zone (relative; section 4.5), and the façades per block of a zone."""

GROUP = {"DET_SP": 2.5, "DET_MP": 2, "SDET": 4, "ADJ_BD": 3, "ADJ_TR": 6}  # mean number of equal neighbours
LOT = {"DET_SP": 16, "DET_MP": 24, "SDET": 10, "ADJ_BD": 12, "ADJ_TR": 6}  # width along the street, relative
MUNICIPALITIES = Path(__file__).with_name("municipalities.txt").read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class CityPlan:
    """A planned city. ``facades`` has one row a façade, in the order of blocks and along their edges:

    ``id`` (0, 1, ...), ``lon, lat`` (EPSG:4326), ``x, y`` (m, ``CRS``), ``block, municipality, street`` (str),
    ``street_seed`` (int, one a block's side: seeds what its façades have in common), the five true labels (ordered
    categories) and ``labelled`` (bool: annotated).
    """

    facades: pd.DataFrame
    cells: pd.DataFrame  # one row a block: block, municipality, zone, i, j (lattice)
    lots: np.ndarray  # (n, 4, 2) m, footprint of each façade: left and right at the street, right and left behind
    nodes: np.ndarray  # (G + 1, G + 1, 2) m, street crossings
    seed: int

    def _counted(self, frame: pd.DataFrame, by: str) -> pd.DataFrame:
        counts = self.facades.groupby(by)["labelled"].agg(facades="size", annotated="sum")
        return frame.assign(**counts.reindex(frame[by], fill_value=0).reset_index(drop=True))

    @cached_property
    def blocks(self) -> gpd.GeoDataFrame:
        """Block polygons: ``block, municipality, zone, facades, annotated``; parks are blocks without façades."""
        frame = self._counted(self.cells[["block", "municipality", "zone"]], "block")
        return _geo(frame, shapely.polygons(_inset(_corners(self.nodes, self.cells))))

    @cached_property
    def municipalities(self) -> gpd.GeoDataFrame:
        """Municipality polygons, sharing their borders: ``municipality, facades, annotated``."""
        cells = _geo(self.cells[["municipality"]], shapely.polygons(_corners(self.nodes, self.cells)))
        towns = cells.dissolve("municipality", sort=False).reset_index()
        return _geo(self._counted(towns[["municipality"]], "municipality"), towns.geometry)

    @cached_property
    def streets(self) -> gpd.GeoDataFrame:
        """Street polygons (the carriageway): ``street, width`` (m) ``, length`` (m)."""
        corners = _corners(self.nodes, self.cells)
        names = np.concatenate([_street_names(self.cells, side) for side in range(4)])
        edges = shapely.linestrings(np.concatenate([corners[:, list(side)] for side in SIDES]))
        streets = _geo(pd.DataFrame({"street": names}), shapely.normalize(edges)).dissolve("street").reset_index()
        main = streets["street"].str.extract(r"(\d+)", expand=False).astype(int) % 6 == 0
        lines, frame = streets.line_merge(), pd.DataFrame({"street": streets["street"], "width": 8.0 + 6.0 * main})
        return _geo(frame.assign(length=lines.length), lines.buffer(frame["width"] / 2, cap_style="flat"))

    @cached_property
    def footprints(self) -> gpd.GeoDataFrame:
        """Building polygons behind the façades, none over another: ``building, block``."""
        return _geo(self.facades[["id", "block"]].set_axis(["building", "block"], axis=1), shapely.polygons(self.lots))

    def cameras(self, views: int = 1) -> gpd.GeoDataFrame:
        """Street points that views are taken from: ``building, bearing`` (degrees from north); first views first."""
        aside, ahead = np.random.default_rng([self.seed, 8]).random((views, 2, len(self.facades), 1)).swapaxes(0, 1)
        along = self.lots[:, 1] - self.lots[:, 0]
        along = along / np.hypot(*along.T)[:, None]
        away = along[:, ::-1] * (1, -1)  # from the block, whose corners run counter-clockwise
        facade = self.facades[["x", "y"]].to_numpy()
        place = facade + (10 * aside - 5) * along + (3 + 2 * ahead) * away
        bearing = np.degrees(np.arctan2(*np.moveaxis(facade - place, -1, 0))) % 360
        frame = pd.DataFrame({"building": np.tile(self.facades["id"], views), "bearing": bearing.ravel()})
        return _geo(frame, shapely.points(place.reshape(-1, 2)))

    def annotations(self, missing: float = 0.0, noise: float = 0.0) -> pd.DataFrame:
        """What an annotator wrote down: five categorical columns, one row a façade, NaN where there is no annotation.

        ``noise`` is the share of wrong labels of height, material, roof shape and block position, each wrong
        independently. A wrong height is a neighbouring class (the paper's errors occur only there, section 4.3), the
        others are any other class. Structural zeros hold: height changes first, to one the true material can have,
        then material, to one that the height now written can have. The building type is recomputed from the two.
        ``missing`` is the share of annotations left out, independently of each other and of the noise.
        """
        rng, n, types = np.random.default_rng([self.seed, 7]), len(self.facades), building_types()
        codes = {task: self.facades[task].cat.codes.to_numpy().astype(int) for task in SANTIAGO}
        for task in (task for task in SANTIAGO if task != "sbst"):  # height before material
            steps = np.abs(np.arange(len(SANTIAGO[task])) - codes[task][:, None])
            allowed = steps > 0
            if task == "height":
                allowed = (steps == 1) & (types.T[codes["mat_llrs"]] >= 0)
            elif task == "mat_llrs":
                allowed = allowed & (types[codes["height"]] >= 0)
            other = (allowed * rng.random(allowed.shape)).argmax(1)
            codes[task] = np.where(rng.random(n) < noise, other, codes[task])
        codes["sbst"] = types[codes["height"], codes["mat_llrs"]]
        for task in SANTIAGO:
            codes[task][~self.facades["labelled"] | (rng.random(n) < missing)] = -1
        return pd.DataFrame(categories(codes), index=self.facades.index)


def plan(facades: int = TOTAL, labelled: int = LABELLED, seed: int = 0, interdependency: float = 1.0) -> CityPlan:
    """Plan a city. Its geometry depends on ``facades`` and ``seed`` alone.

    Parameters
    ----------
    facades, labelled : Number of façades, and how many of them are annotated, from 1 to all.
    seed, interdependency : What decides everything else; see :func:`mtclim.city.joint.joint`.
    """
    cells, nodes, weights = _geometry(max(6, round(facades / FACADES_PER_BLOCK)), np.random.default_rng([seed, 0]))
    rng, sets = np.random.default_rng([seed, 1]), joint(interdependency)
    annotated = allocate(sets["p"], labelled)
    labelset = np.repeat(np.arange(len(sets)), annotated + allocate(sets["p"], facades - labelled))
    group, block = _place(sets, labelset, cells, weights, rng)
    order = np.lexsort((rng.permutation(group.max() + 1)[group], block))  # groups stand together, in random order
    labelset, block = labelset[order], block[order]
    side, x, y, lots = _along_edges(cells, nodes, block, sets["block_position"].map(LOT).to_numpy(float)[labelset], rng)
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(x, y)
    face = block * 4 + side
    frame = pd.DataFrame({"id": np.arange(facades), "lon": lon, "lat": lat, "x": x, "y": y})
    frame = frame.assign(**{name: cells[name].to_numpy()[block] for name in ("block", "municipality")})
    frame["street"] = np.stack([_street_names(cells, s) for s in range(4)], axis=1)[block, side]
    frame["street_seed"] = rng.integers(0, 2**31, size=4 * len(cells))[face]
    frame = pd.concat([frame, sets[list(SANTIAGO)].iloc[labelset].reset_index(drop=True)], axis=1)
    # Annotators take blocks and their sides in a random order until each labelset's number is reached.
    walk = rng.random(len(cells))[block] + 0.5 * rng.random(4 * len(cells))[face] + 0.1 * rng.random(facades)
    rank = pd.Series(walk).groupby(labelset).rank(method="first")
    frame["labelled"] = rank.to_numpy() <= annotated[labelset]
    return CityPlan(frame, cells, lots, nodes, seed)


def _geometry(blocks: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Blocks on a warped lattice: cells (n rows), nodes (G + 1, G + 1, 2) in metres, zone weights (n, 7).

    The city grows from a regular historic grid; its outline reaches out along a few roads, blocks get larger and less
    regular outwards, a river crosses it in the south-west and about one block in thirty is a park.
    """
    radius = np.sqrt(blocks / np.pi)  # in blocks
    half = int(np.ceil(1.7 * radius)) + 2
    size, line = 2 * half, np.arange(2 * half) - half + 0.5
    u, v = np.meshgrid(line, line, indexing="ij")
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
    towns = int(np.clip(round(np.sqrt(blocks) / 3), 3, len(MUNICIPALITIES)))
    centres, town = kmeans2(np.stack([a, b], 1), towns, iter=8, minit="++", rng=rng)
    outwards = np.argsort(np.argsort(np.hypot(*centres.T)))  # municipalities are numbered from the centre
    cells = pd.DataFrame({"block": [f"B{k:05d}" for k in range(len(i))], "zone": zone, "i": i, "j": j})
    cells["municipality"] = np.take(MUNICIPALITIES, outwards[town])
    return cells, _nodes(size, radius, rng), np.where(park[i, j, None], 0, weights)


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


def _place(sets, labelset, cells, weights, rng) -> tuple[np.ndarray, np.ndarray]:
    """Group and block of each façade; the groups of a building type go to blocks by affinity and by chance."""
    starts = rng.random(len(labelset)) < 1 / sets["block_position"].map(GROUP).to_numpy(float)[labelset]
    starts |= np.diff(labelset, prepend=-1) > 0
    group = np.cumsum(starts) - 1
    kind = sets["sbst"].cat.codes.to_numpy()[labelset]
    used = np.flatnonzero(weights.sum(1) > 0)
    affinity = weights[used] @ AFFINITY.loc[list(SANTIAGO["sbst"])].to_numpy().T  # (blocks, 14)
    _, quarter = np.unique(cells[["i", "j"]].to_numpy()[used] // 4, axis=0, return_inverse=True)
    history = rng.normal(0, 0.6, (quarter.max() + 1, affinity.shape[1]))[quarter]  # shared by some sixteen blocks
    affinity *= np.exp(history + rng.normal(0, 0.8, affinity.shape))
    density = rng.gamma(16, 1 / 16, len(used)) * (weights[used] @ DENSITY.to_numpy())
    totals = np.bincount(kind, minlength=affinity.shape[1])
    share = fit_margins(affinity, density / density.sum() * len(labelset), totals, steps=60)
    block = np.empty(group[-1] + 1, dtype=int)
    kind_of_group = kind[starts]
    for k in np.unique(kind_of_group):
        mine = np.flatnonzero(kind_of_group == k)
        cumulated = np.cumsum(share[:, k])
        block[mine] = used[np.searchsorted(cumulated, rng.random(len(mine)) * cumulated[-1], side="right")]
    return group, block[group]


def _along_edges(cells, nodes, block, width, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Side (0..3), x, y (m) and footprint (4, 2) of each façade; sorted by block, they stand so along its edge."""
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
    half = 0.46 * width / total * reach[block, 3]
    part = (np.stack([at, at - half, at + half]) - start[block, side]) / (start[block, side + 1] - start[block, side])
    part = part.clip(0, 1)[..., None]  # no building round a corner
    xy, left, right = (closed[block, side] * (1 - p) + closed[block, side + 1] * p for p in part)
    behind = [end + 0.3 * (corners.mean(1)[block] - end) for end in (right, left)]  # wedges, which don't overlap
    return side, *xy.T, np.stack([left, right, *behind], axis=1)


def _corners(nodes: np.ndarray, cells: pd.DataFrame) -> np.ndarray:
    """(n, 4, 2) street crossings around each block, counter-clockwise from the south-west."""
    i, j = cells["i"].to_numpy(), cells["j"].to_numpy()
    return np.stack([nodes[i, j], nodes[i + 1, j], nodes[i + 1, j + 1], nodes[i, j + 1]], axis=1)


def _inset(corners: np.ndarray) -> np.ndarray:
    """The block itself: each crossing moved 12 % of the way to the centre, which leaves the streets."""
    return corners + 0.12 * (corners.mean(1, keepdims=True) - corners)


def _street_names(cells: pd.DataFrame, side: int) -> np.ndarray:
    """Name of the street at one side of each block: the lattice line, cut every eight blocks."""
    i, j = cells["i"].to_numpy(), cells["j"].to_numpy()
    across = side in (0, 2)  # runs west to east
    line, piece = (j + (side == 2), i // 8) if across else (i + (side == 1), j // 8)
    kind = "Street" if across else "Avenue"
    return np.array([f"{kind} {a}-{b}" for a, b in zip(line, piece, strict=True)])


def _geo(frame: pd.DataFrame, geometry) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(frame, geometry=geometry, crs=CRS)
