"""Photographs of façades, drawn from four labels and a seed; numpy and Pillow only.

A small scene in metres (x along the street, y up, z away from it; the façade stands at z = 0) is filled back to front
with polygons, projected once by a pinhole camera, drawn at 2 to 4 times the picture's size and averaged down.

Each label alone decides its own task's cues; how labels go together is left to :mod:`mtclim.city.joint`:

============== ================================================ ================================================
task           shown by                                         hidden (with probability ``ambiguity``) by
============== ================================================ ================================================
height         rows of openings between ground and eaves        cropped lower storeys, trees or hoarding before them
mat_llrs       wall surface, openings, storey height, slabs     plain painted plaster and plain windows
roof_shape     the roof's slopes, parapet, flank wall's top     eaves above the frame, or behind crowns of trees
block_position neighbours, gaps, garden, entrance, width        crop or trees at both sides, a width of any class
============== ================================================ ================================================

The four coins are tossed independently, picture by picture. What is hidden is replaced by something drawn without
looking at the label (of a hidden height, the storeys still in view remain a lower bound), so that what a picture then
tells about a task comes through the other tasks. Some confusion stays at ``ambiguity`` 0, as in section 4.3 of the
paper: plastered confined masonry, monopitch roofs that fall away from the street, storey counts near a class limit.
"""

import io
from array import array
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, compress, islice
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from mtclim.tasks import SANTIAGO

STOREYS = {"H1": (1, 1), "H2": (2, 2), "H3-4": (3, 4), "H5-7": (5, 7), "H8-12": (8, 12), "H13+": (13, 22)}
WIDTHS = {"DET_SP": (8, 12), "DET_MP": (14, 22), "SDET": (6, 8), "ADJ_BD": (7, 13), "ADJ_TR": (5.5, 7.5)}
GAPS = {"DET_SP": (2.5, 5), "DET_MP": (4, 9), "SDET": (2.2, 4)}  # metres to the neighbour; the others touch
ROOFS = {  # kind of roof: backward slopes are the most frequent monopitch roofs and the hardest to see
    "FLT": ["flat"],
    "PIT_GAB": ["gable", "gable", "ridge", "ridge", "hip"],
    "PIT_MON": ["back", "back", "back", "side", "lean"],
}
RISE = {"flat": (0.3, 0.9), "gable": (1.6, 3.2), "ridge": (1.7, 2.8), "hip": (1.7, 2.8), "back": (0.9, 1.6)}
RISE |= {"side": (0.7, 1.4), "lean": (0.8, 1.4), "": (0.0, 0.0)}
PLASTER = [(236, 230, 216), (226, 205, 160), (214, 176, 122), (204, 142, 112), (170, 190, 200), (186, 200, 170)]
PLASTER += [(240, 222, 190), (222, 178, 160), (150, 168, 160), (246, 244, 238), (205, 200, 194), (196, 176, 150)]
BRICK = [(158, 86, 66), (170, 100, 76), (146, 78, 62), (178, 114, 88)]
WOOD = [(150, 112, 78), (170, 138, 98), (122, 96, 76), (120, 140, 130), (186, 170, 140), (140, 90, 70)]
SHEET = [(150, 156, 160), (128, 134, 136), (168, 120, 90), (110, 130, 140), (178, 180, 176)]
PAINT = [(90, 104, 120), (196, 60, 50), (40, 84, 140), (220, 190, 70), (70, 120, 90)]
GLASS = [(92, 124, 146), (80, 120, 124), (108, 124, 138), (72, 96, 120), (120, 140, 140)]
CONCRETE = [(214, 212, 206), (196, 196, 194), (226, 218, 202), (186, 182, 176), (232, 232, 230)]
TILES = [(150, 78, 60), (128, 70, 58), (104, 84, 78), (122, 124, 126), (92, 96, 102), (140, 104, 84)]
CARS = [(220, 220, 222), (60, 62, 68), (150, 152, 156), (170, 40, 40), (40, 60, 110), (196, 190, 178), (30, 90, 80)]
LEAVES = [(78, 112, 52), (92, 120, 60), (64, 98, 58), (168, 128, 48), (120, 116, 64)]
BLOCK = [(176, 172, 164), (190, 180, 160), (200, 168, 140), (160, 158, 154), (186, 150, 124)]
LOOKS = {  # look: wall colours, trim colours (None: a light shade of the wall), storey height in metres
    "": (None, None, (2.5, 3.1)),
    "MUR": (PLASTER[1:9], None, (3.2, 3.9)),
    "adobe": ([(168, 128, 92), (178, 140, 104), *BRICK[:2]], None, (3.2, 3.9)),
    "MCF": (BRICK, [(182, 178, 170), (198, 194, 186)], (2.5, 2.9)),
    "MR": (BLOCK, [(238, 238, 236)], (2.4, 2.7)),
    "CR": (CONCRETE, [(236, 234, 230), (206, 204, 200)], (2.6, 3.0)),
    "W,UNK": (WOOD, [(222, 214, 200)], (2.3, 2.6)),
    "COM1,2,IND": ([(226, 228, 228), (176, 184, 190), (200, 196, 186)], PAINT, (3.3, 4.2)),
    "COM3": (GLASS, [(200, 206, 210), (70, 80, 90)], (3.2, 3.7)),
}
OPENINGS = {"": (3.0, 0.44, 0.46), "MUR": (2.9, 0.34, 0.5), "adobe": (2.9, 0.34, 0.5), "MCF": (3.1, 0.46, 0.44)}
OPENINGS |= {
    "MR": (2.9, 0.46, 0.46),
    "CR": (3.0, 0.62, 0.52),
    "W,UNK": (2.8, 0.36, 0.4),
    "COM1,2,IND": (4.4, 0.66, 0.3),
}
"""Bay in metres, the window's share of the bay's width and of the storey's height. Colours are 8-bit sRGB."""
SHADE = (18, 22, 36)


class _Dice:
    """Uniform numbers of one picture; forks repeat exactly, which is how terraced units come out identical."""

    def __init__(self, values: array, at: int = 0):
        self.values, self.at = values, at

    def __call__(self, low=0.0, high=1.0) -> float:
        self.at = (self.at + 1) % len(self.values)
        return low + (high - low) * self.values[self.at]

    def pick(self, items):
        return items[int(self() * len(items))]

    def tint(self, colour, spread=14):
        shift, own = self(-spread, spread), spread / 3
        r, g, b = (
            colour[0] + shift + self(-own, own),
            colour[1] + shift + self(-own, own),
            colour[2] + shift + self(-own, own),
        )
        return max(0, min(255, int(r))), max(0, min(255, int(g))), max(0, min(255, int(b)))

    def many(self, count: int) -> np.ndarray:
        """The next `count` numbers at once."""
        first, last, all_of_them = self.at + 1, self.at + 1 + count, len(self.values)
        self.at = (self.at + count) % all_of_them
        return np.frombuffer(self.values[first:last] + self.values[: max(0, last - all_of_them)])

    def fork(self, key: int) -> "_Dice":
        return _Dice(self.values, key * 977 % len(self.values))


def _dice(entropy, count: int) -> _Dice:
    numbers = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))).random(count)
    return _Dice(array("d", numbers.tobytes()))


def _each(table) -> tuple[np.ndarray, np.ndarray]:
    """Columns of (k, m) rows, each row repeated as often as its first number says, and the place among its like."""
    table = np.array(table, dtype=float)
    counts = table[:, 0].astype(int)
    return np.repeat(table, counts, axis=0).T, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _inks(colours, light: np.ndarray) -> list[int]:
    """(n, 3) colours under (n,) light as Pillow's signed integers, 0xAABBGGRR, opaque."""
    return (np.minimum(255, colours * light[:, None]).astype(int) @ (1, 1 << 8, 1 << 16) - (1 << 24)).tolist()


def _mix(a, b, share: float):
    return int(a[0] + (b[0] - a[0]) * share), int(a[1] + (b[1] - a[1]) * share), int(a[2] + (b[2] - a[2]) * share)


class _Street:
    """What the façades on one side of a block share, whatever their labels: light, season, palette, furniture."""

    def __init__(self, seed: int):
        d = _dice([seed, 7919], 128)
        self.sun = d.pick([0.0, 0.15, 0.7, 1.0, 1.0])  # 0 overcast .. 1 clear
        self.sky = d.tint(_mix((186, 192, 198), (104, 158, 214), self.sun) if d() < 0.88 else (214, 206, 196))
        self.horizon = _mix(self.sky, (244, 238, 228), d(0.5, 0.9))
        self.gradient = [_mix(self.sky, self.horizon, min(1, k / 34)) for k in range(40)]
        self.side = 1 if d() < 0.5 else -1  # the sun stands to the right, or left
        self.light, self.warmth = (d(0.86, 1.04) if self.sun > 0.5 else d(0.8, 0.92)), d(-1, 1)
        self.plaster, self.tiles = [d.pick(PLASTER) for _ in range(4)], [d.pick(TILES) for _ in range(2)]
        self.leaves, self.bare, self.trees, self.wires = d.tint(d.pick(LEAVES)), d() < 0.15, d(0.1, 0.7), d(0.2, 0.9)
        self.ground = d.tint(d.pick([(176, 170, 160), (160, 158, 156), (186, 172, 150)]))
        self.road, self.hills, self.storeys = d.tint((98, 98, 100)), d(-40, 60), d.pick([1, 1, 2, 2, 3])


_street = lru_cache(maxsize=256)(_Street)


class _Camera:
    """A pinhole at (x, y, -distance); `frame` then chooses the square of the image plane that is the picture."""

    def __init__(self, x, y, distance, yaw, pitch, roll):
        self.at, self.near, self.distance = np.array([x, y, -distance]), 0.1 * distance, distance
        turn = np.array([[cos(yaw), 0, -sin(yaw)], [0, 1, 0], [sin(yaw), 0, cos(yaw)]])
        tilt = np.array([[1, 0, 0], [0, cos(pitch), -sin(pitch)], [0, sin(pitch), cos(pitch)]])
        level = np.array([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]])
        self.axes = level @ tilt @ turn

    def plane(self, points):
        """(n, 3) metres to (n, 2) on the image plane and (n,) depth in metres."""
        columns = np.array(np.transpose(points), dtype=float, order="C")  # numpy is quick along long rows
        seen = self.axes @ (columns - self.at[:, None])
        depth = np.maximum(seen[2], self.near)
        return (seen[:2] / depth).T, depth

    def frame(self, left, top, side, pixels):
        self.corner, self.side, self.scale = np.array([left, -top]), side, pixels / side

    def project(self, points):
        """(n, 3) metres to (n, 2) pixels (y down) and (n,) pixels per metre."""
        uv, depth = self.plane(points)
        return ((uv.T * [[1], [-1]] - self.corner[:, None]) * self.scale).T, self.scale / depth

    def frame_on_facade(self, margin=2.0) -> tuple[float, float, float, float]:
        """Least and greatest x and y of what the picture shows of the façade's plane, metres, and some more: enough for
        what stands 2 m before it.
        """
        corners = self.corner + self.side * np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
        rays = np.column_stack([corners * (1, -1), np.ones(4)]) @ self.axes
        xy = self.at[:2] + rays[:, :2] * self.distance / rays[:, 2:]
        (x0, y0), (x1, y1) = xy.min(0).tolist(), xy.max(0).tolist()
        return x0 - margin, x1 + margin, y0 - margin, y1 + margin

    def span(self, z, reach=160.0):
        """The part of the line at depth z that lies before the camera: left and right x."""
        slope, depth = self.axes[2, 0], (z - self.at[2]) * self.axes[2, 2] - 1.5 * self.near
        limit = self.at[0] + (-depth / slope if abs(slope) > 1e-6 else 1e9)
        return max(-reach, limit if slope > 0 else -reach), min(reach, limit if slope < 0 else reach)


class _Scene:
    """A display list in metres, drawn in order (painter's algorithm). Opaque colours are lit, the others aren't."""

    def __init__(self, d: _Dice, street: _Street, pixels_per_metre: float, frame):
        self.d, self.street, self.points, self.items, self.fans, self.crowns = d, street, array("d"), [], [], []
        self.left, self.right, self.low, self.high = frame  # of the façade's plane
        self.pitch, self.fine = 2.4 / pixels_per_metre, pixels_per_metre > 7  # finest joint that shows (m); details?

    def poly(self, points, colour, light=1.0, z=None):
        """A polygon of (x, y, z), or of (x, y) at one z. A fourth component of the colour is opacity, for shadows and glass."""
        self.points.fromlist([v for p in points for v in (p if z is None else (*p, z))])
        self.items.append(("poly", len(points), colour, light, 0.0))

    def rect(self, x0, x1, y0, y1, z, colour, light=1.0):
        if -2 <= z <= 0 and (x1 < self.left or x0 > self.right or y1 < self.low or y0 > self.high):
            return  # on the façade or just before it, and out of the picture
        self.points.fromlist([x0, y0, z, x1, y0, z, x1, y1, z, x0, y1, z])
        self.items.append(("poly", 4, colour, light, 0.0))

    def line(self, points, colour, light=1.0, width=0.0):
        """A polyline; `width` in metres, 0 for the thinnest."""
        self.points.frombytes(np.asarray(points, dtype=float).tobytes())
        self.items.append(("line", len(points), colour, light, width))

    def blob(self, x, y, z, radius, colour, light=1.0):
        self.points.fromlist([x, y, z])
        self.items.append(("blob", 1, colour, light, radius))

    def crown(self, x, y, z, rx, ry, colour, count=70):
        """Foliage of `count` blobs, `rx` by `ry` metres about a point; drawn by `_foliage`."""
        self.points.fromlist([x, y, z])
        self.items.append(("crown", 1, colour, 1.0, np.inf))
        self.crowns.append((self.d.many(4 * count), (count, x, y, z, rx, ry, *colour)))

    def strokes(self, origin, along, up, count, colour, light=1.0):
        """`count` parallel lines across a quad, as one polyline that turns round at the edges."""
        n = 2 * int(count) + 2
        self.fans.append((n, len(self.points) // 3, *origin, *along, *up))
        self.points.frombytes(bytes(24 * n))  # `_spread` fills in where they are
        self.items.append(("line", n, colour, light, 0.0))

    def joints(self, x0, width, height, course, colour, light=1.0):
        """Masonry joints as one polyline: along each course, up and down at each unit, every other course shifted."""
        course = max(course, self.pitch)
        rows, units = max(1, int(height / course)), max(1, int(width / course / 2))
        row, unit = np.mgrid[0:rows, 0:units]
        a = (unit + 0.5 * (row % 2) + 0.01) / units
        a = np.where(row % 2, a[:, ::-1], a)  # there and back, so that no stroke crosses the wall
        end = (np.arange(rows) % 2)[:, None]
        a = np.concatenate([end, np.repeat(a, 3, 1), 1 - end], 1).ravel()
        b = np.concatenate([row[:, :1], np.tile([0, 1, 0], units) + row[:, :1], row[:, :1]], 1).ravel() / rows
        self.line(np.stack([x0 + a * width, b * height, np.zeros_like(a)], 1), colour, light)

    def render(self, image: Image.Image, camera: _Camera, thin: int):
        """Project all points at once and draw what of the list falls into the picture."""
        kinds, counts, colours, lights, sizes = zip(*self.items, strict=True)
        xy, scale = camera.project(self._spread())
        counts = np.array(counts)
        stop = np.cumsum(counts)
        start, inside = stop - counts, True
        sizes = sizes * scale[start]
        for along in xy.T:
            inside &= np.maximum.reduceat(along, start) + sizes > -2
            inside &= np.minimum.reduceat(along, start) - sizes < image.width + 2
        rgb = np.fromiter(chain.from_iterable(colour[:3] for colour in colours), float).reshape(-1, 3)
        inks = _inks(rgb, np.multiply(lights, self.street.light))
        foliage = self._foliage(camera, image.width)
        flat, draw, glaze = xy.ravel().tolist(), ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")
        core = draw.draw  # what `polygon` and `ellipse` call; their own work costs as much as a small blob
        items = zip(kinds, (2 * start).tolist(), (2 * stop).tolist(), colours, inks, sizes.tolist(), strict=True)
        for kind, first, last, colour, ink, r in compress(items, inside.tolist()):
            if kind == "poly":
                if len(colour) == 3:
                    core.draw_polygon(flat[first:last], ink, 1)
                else:
                    glaze.polygon(flat[first:last], fill=colour)
            elif kind == "line":
                draw.line(flat[first:last], fill=ink, width=max(thin, round(r)))
            elif kind == "blob":
                x, y = flat[first:last]
                core.draw_ellipse((x - r, y - 0.85 * r, x + r, y + 0.85 * r), ink, 1)
            else:
                for box, leaf in next(foliage):
                    core.draw_ellipse(box, leaf, 1)

    def _spread(self) -> np.ndarray:
        """All points, (n, 3) metres, with the ends of strokes in their places."""
        points = np.frombuffer(self.points).reshape(-1, 3)
        if self.fans:
            (n, start, *corners), i = _each(self.fans)
            (origin, along, up), k = np.reshape(corners, (3, 3, -1)), i // 2 / np.maximum(n / 2 - 1, 1)
            points[start.astype(int) + i] = (origin + k * along + (i + 1) // 2 % 2 * up).T
        return points

    def _foliage(self, camera: _Camera, pixels: int):
        """Of each crown the boxes and inks of its blobs: large dark ones first, then small ones, lighter upwards and
        towards the sun.
        """
        if not self.crowns:
            return
        rolls, crowns = zip(*self.crowns, strict=True)
        (count, x, y, z, rx, ry, *colour), i = _each(crowns)
        (a, reach, light, size), t = np.concatenate(rolls).reshape(-1, 4).T, i / count
        a, reach = 2 * pi * a, reach**0.6
        px = reach * np.cos(a) * (1 - 0.15 * t) + 0.18 * self.street.side * t
        py = reach * np.sin(a) * (1 - 0.25 * t) + 0.22 * t
        light = 0.5 + 0.45 * t + 0.14 * py + (-0.1 + 0.2 * light)
        radius = np.minimum(rx, ry) * (0.42 * (1 - t) ** 1.5 + 0.12) * (0.7 + (1.2 - 0.7) * size)
        xy, scale = camera.project(np.stack([x + rx * px, y + ry * py, z], 1))
        half = (radius * scale)[:, None] * (1, 0.85)
        boxes, inks = np.hstack([xy - half, xy + half]), _inks(np.stack(colour, 1), light * self.street.light)
        seen = ((boxes[:, 2:] > -2) & (boxes[:, :2] < pixels + 2)).all(1)
        blobs = zip(boxes[seen].tolist(), compress(inks, seen), strict=True)
        for shown in np.add.reduceat(seen, np.flatnonzero(i == 0), dtype=int).tolist():
            yield islice(blobs, shown)


@dataclass(frozen=True)
class _Building:
    x0: float
    width: float
    storeys: int
    floor: float
    look: str  # a key of LOOKS
    roof: str  # a kind of ROOFS, or "" for a bare edge
    wall: tuple
    trim: tuple
    tiles: tuple
    rise: float
    depth: float
    key: int  # where its dice start: equal keys give equal details
    lobby: bool = False
    balconies: bool = False
    mirror: bool = False

    @property
    def x1(self) -> float:
        return self.x0 + self.width

    @property
    def eaves(self) -> float:
        return self.storeys * self.floor + 0.25


def _building(d: _Dice, street, x0, width, storeys, material, roof_shape, **more) -> _Building:
    """A building with the cues of a material and a roof shape; "" for either gives the neutral look."""
    coin, roof = d(), d.pick(ROOFS[roof_shape]) if roof_shape else ""
    look = {"MUR": "adobe" if coin < 0.35 else "MUR", "MCF": "" if coin < 0.3 else "MCF"}.get(material, material)
    walls, trims, floor = LOOKS[look]
    wall = d.tint(d.pick(walls or street.plaster))
    trim = d.tint(d.pick(trims), 6) if trims else _mix(wall, (248, 246, 240), 0.6)
    rise = d(*RISE[roof]) * (1 + 0.1 * min(storeys - 1, 6))
    tiles, depth, key = d.tint(d.pick(street.tiles)), d(7, 12), int(d(1, 4000))
    return _Building(x0, width, storeys, d(*floor), look, roof, wall, trim, tiles, rise, depth, key, **more)


def _put(s: _Scene, b: _Building):
    """Draw one building whole; its dice start at its key, so that equal specifications look equal."""
    d = s.d.fork(b.key)
    if b.roof == "flat" and d() < 0.5:  # tank or lift house, and an aerial
        x, top = b.x0 + b.width * d(0.15, 0.7), b.eaves + b.rise
        s.rect(x, x + d(1.2, 3.0), b.eaves, top + d(1.0, 2.2), 3, _mix(b.wall, (150, 150, 150), 0.5), 0.85)
        s.line([(x + 4, b.eaves, 2), (x + 4, top + d(1.5, 3), 2)], (70, 70, 74), width=0.06)
    _flanks_and_roof(s, b)
    _wall(s, d, b)
    if b.look != "COM3":
        _openings(s, d, b)
    if b.lobby:
        x = b.x0 + b.width / 2
        s.rect(x - 1.7, x + 1.7, 0, 2.7, -0.02, (70, 84, 92))
        for pane in (-1.7, -0.6, 0.5, 1.6):
            s.rect(x + pane, x + pane + 0.1, 0, 2.7, -0.03, (220, 220, 216))
        s.poly([(x - 2.4, 2.95, 0), (x + 2.4, 2.95, 0), (x + 2.4, 2.8, -1.6), (x - 2.4, 2.8, -1.6)], b.trim, 0.6)
        s.rect(x - 2.4, x + 2.4, 2.8, 3.1, -1.6, b.trim)
    _edge(s, b)


def _flanks_and_roof(s, b):
    """What stands behind the façade: flank walls and the planes of the roof."""
    x0, x1, h, r, z, o = b.x0, b.x1, b.eaves, b.rise, b.depth, 0.45
    drop = {"back": -r, "lean": 2 * r}.get(b.roof, 0.0)
    flank, sun = b.wall if b.look in ("MR", "W,UNK", "COM3") else _mix(b.wall, (190, 184, 176), 0.5), s.street.sun
    for side, x in ((-1, x0), (1, x1)):
        front = h + r * (b.roof == "flat" or (b.roof == "side" and side > 0))
        top = [(x, h, 0), (x, h + r, z / 2), (x, h, z)] if b.roof == "ridge" else [(x, front, 0), (x, front + drop, z)]
        s.poly([(x, 0, 0), *top, (x, 0, z)], flank, 1.05 if side * s.street.side > 0 else 0.72 - 0.14 * sun)
    bright = 0.92 + 0.2 * sun
    if b.roof == "gable":
        middle, low, top = (x0 + x1) / 2, h - 0.5 * o, h + r
        for x, light in ((x0 - o, bright), (x1 + o, 0.7)):
            s.poly([(x, low, -o), (middle, top, -o), (middle, top, z), (x, low, z)], b.tiles, light)
        s.poly([(x0, h), (x1, h), (middle, top)], b.wall, z=0)
        s.blob(middle, h + 0.4 * r, 0, 0.3, (60, 60, 66))
        for x in (x0 - o, x1 + o):
            s.poly([(x, low - 0.12), (middle, top - 0.12), (middle, top + 0.16), (x, low + 0.16)], b.tiles, bright, -o)
    elif b.roof in ("ridge", "hip", "lean"):
        inset, lean = (min(0.4 * b.width, 3.5) if b.roof == "hip" else 0.0), b.roof == "lean"
        eave, top, back = h - 0.1, h + r * (1 + lean), z if lean else z / 2
        for x, step in ((x0 - o, inset), (x1 + o, -inset)) if inset else ():
            s.poly([(x, eave, -o), (x, eave, z + o), (x + step, top, back)], b.tiles, 0.7)
        if lean:
            s.rect(x0, x1, h, top + 0.7, z, b.wall, 0.9)
        slope = [(x0 - o, eave, -o), (x1 + o, eave, -o), (x1 + o - inset, top, back), (x0 - o + inset, top, back)]
        s.poly(slope, b.tiles, bright)
        if not inset:
            up = np.subtract(slope[3], slope[0])
            s.strokes(slope[0], (b.width + 2 * o, 0, 0), up, b.width / max(0.5, s.pitch), b.tiles, 0.75)


def _in_view(camera, buildings, pixels) -> list[bool]:
    """Whether any of a building with its roof, aerial and awning may fall into the picture."""
    spans = np.array([(b.x0 - 1, b.x1 + 5, 0, b.eaves + 2 * b.rise + 4, -2, b.depth + 1) for b in buildings])
    boxes = spans[:, [(x, y, z) for x in (0, 1) for y in (2, 3) for z in (4, 5)]]
    xy = camera.project(boxes.reshape(-1, 3))[0].reshape(-1, 8, 2)
    return ((xy.max(1) > -2) & (xy.min(1) < pixels + 2)).all(1).tolist()


def _edge(s, b):
    """The façade's upper edge: parapet, eaves, flashing, or a slanting wall."""
    x0, x1, h, r = b.x0, b.x1, b.eaves, b.rise
    if b.roof == "flat":
        s.rect(x0, x1, h, h + r, 0, b.trim if b.look == "COM3" else b.wall, 0.97)
        s.rect(x0 - 0.12, x1 + 0.12, h + r - 0.05, h + r + 0.14, -0.12, _mix(b.trim, (140, 140, 140), 0.3))
    elif b.roof == "side":
        s.poly([(x0, h), (x1, h), (x1, h + r)], b.wall, z=0)
        band = [(x0 - 0.3, h - 0.05), (x1 + 0.3, h + r), (x1 + 0.3, h + r + 0.2), (x0 - 0.3, h + 0.15)]
        s.poly(band, b.tiles, z=-0.3)
    elif b.roof == "back":
        s.rect(x0 - 0.1, x1 + 0.1, h - 0.04, h + 0.12, -0.14, b.tiles, 0.9)
    elif b.roof:
        s.rect(x0, x1, h - 0.75, h - 0.1, -0.01, (*SHADE, int(40 + 60 * s.street.sun)))
        if b.roof != "gable":
            s.rect(x0 - 0.45, x1 + 0.45, h - 0.24, h - 0.04, -0.45, b.tiles, 0.62)


def _wall(s, d, b):
    """The façade's surface by look."""
    x0, x1, w, h, floors = b.x0, b.x1, b.width, b.eaves, range(1, b.storeys + 1)
    s.rect(x0, x1, 0, h, 0, b.wall)
    if b.look in ("MUR", "adobe"):
        if b.look == "adobe":
            s.joints(x0, w, h, 0.22, b.wall, 0.8)
        for _ in range(int(d(1, 5)) if b.look == "MUR" else 0):  # fallen plaster
            x, y, pw, ph = d(x0, x1 - 1.2), d(0.2, h - 1), d(0.3, 0.9), d(0.2, 0.6)
            ring = [(a, d(0.6, 1)) for a in np.arange(0, 2 * pi, 0.8).tolist()]
            s.poly([(x + pw * (1 + k * cos(a)), y + ph * (1 + k * sin(a))) for a, k in ring], (160, 118, 88), z=0)
        s.rect(x0, x1, 0, d(0.5, 1.1), 0, _mix(b.wall, (90, 60, 50), 0.5))
        for y in (level * b.floor for level in floors[:-1]):
            s.rect(x0, x1, y + 0.1, y + 0.35, -0.06, b.trim)
        s.rect(x0, x1, h - 0.62, h - 0.45, 0, (*SHADE, 90))
        s.rect(x0, x1, h - 0.45, h, -0.15, b.trim)
    elif b.look == "MCF":
        s.joints(x0, w, h, 0.18, _mix(b.wall, b.trim, 0.5))
        posts = max(2, round(w / 3.4))
        for y in (0, *(level * b.floor for level in floors)):
            s.rect(x0, x1, y, y + 0.32, 0, b.trim)
        for x in (x0 + k * (w - 0.35) / posts for k in range(posts + 1)):
            s.rect(x, x + 0.35, 0, h, 0, b.trim)
    elif b.look == "MR":
        s.joints(x0, w, h, 0.22, b.wall, 1.16)
        s.rect(x0, x1, 0, 0.25, 0, (150, 148, 144))
    elif b.look == "CR":
        for y in (level * b.floor for level in floors):
            s.rect(x0, x1, y - 0.12, y, 0, (*SHADE, 70))
            s.rect(x0, x1, y, y + 0.3, -0.05, b.trim)
    elif b.look == "W,UNK":
        across = [(w, 0, 0), (0, h, 0), w] if d() < 0.4 else [(0, h, 0), (w, 0, 0), h]
        s.strokes((x0, 0, 0), across[0], across[1], across[2] / max(0.24, s.pitch), b.wall, 0.72)
        for _ in range(int(d(1, 5))):  # patches of other boards and corrugated sheet
            x, y, pw, ph = x0 + d(0, 0.7) * w, d(0, 0.6) * h, d(0.15, 0.3) * w, d(0.25, 0.4) * h
            colour = d.pick(SHEET + WOOD)
            s.rect(x, x + pw, y, y + ph, 0, colour)
            s.strokes((x, y, 0), (pw, 0, 0), (0, ph, 0), pw / max(0.2, s.pitch), colour, 0.8)
    elif b.look == "COM1,2,IND":
        s.strokes((x0, 0, 0), (w, 0, 0), (0, h, 0), w / max(0.5, 2 * s.pitch), b.wall, 0.9)
        _sign(s, d, x0 + 0.3, x1 - 0.3, b.floor * 0.74, b.floor * 0.74 + d(0.7, 1.0), b.trim)
        if b.storeys > 1 or d() < 0.4:
            x = x0 + w * d(0.05, 0.4)
            _sign(s, d, x, x + w * 0.5, h - 1.1, h - 0.2, d.pick(PAINT))
    elif b.look == "COM3":  # panes in a metal grid, each reflecting its own piece of sky
        panes, sky = max(4, round(w / 2.2)), 0.2 * s.street.sun + 0.1
        for level in range(b.storeys):
            y = 0.25 + level * b.floor
            for x in (x0 + k * w / panes for k in range(panes)):
                glass = _mix(b.wall, s.street.horizon, d(0, 0.35) + sky * level / b.storeys)
                s.rect(x, x + w / panes, y, y + b.floor, 0, glass)
            s.rect(x0, x1, y + b.floor * 0.8, y + b.floor, 0, _mix(b.wall, (30, 40, 50), 0.35))
        s.strokes((x0, 0.25, 0), (0, h - 0.25, 0), (w, 0, 0), b.storeys, b.trim)
        s.rect(x0, x1, 0, min(b.floor, h), 0, _mix(b.wall, (24, 28, 34), 0.6))
        s.strokes((x0, 0, 0), (w, 0, 0), (0, h, 0), panes, b.trim)
    if b.look != "COM3":
        s.rect(x0, x1, 0, 0.35, 0, (*SHADE, 50))


def _sign(s, d, x0, x1, y0, y1, colour):
    """A sign board with marks that pass for letters."""
    s.rect(x0, x1, y0, y1, -0.2, colour)
    x, ink = x0 + 0.3, (250, 248, 240) if sum(colour) < 420 else (40, 40, 60)
    while x < x1 - 0.6:
        w = d(0.15, 0.4)
        if d() < 0.85:
            s.rect(x, x + w, y0 + 0.25 * (y1 - y0), y0 + (0.6 + 0.15 * (d() < 0.3)) * (y1 - y0), -0.2, ink)
        x += w + 0.1


def _openings(s, d, b):
    """Rows of windows storey by storey; door, garage or shop on the ground, balconies above."""
    bay, share, tall = OPENINGS[b.look]
    bays = max(2, round(b.width / bay))
    step, door, shop = b.width / bays, int(d() * bays), b.look == "COM1,2,IND"
    garage = (door + 1) % bays if d() < 0.3 and bays > 2 else -1
    bars, shaky, nudge = d() < 0.5, 0.25 if b.look == "W,UNK" else 0.0, d(-0.06, 0.06)
    for level in range(b.storeys):
        base = 0.25 + level * b.floor
        for k in range(bays):
            column = bays - 1 - k if b.mirror else k
            x = b.x0 + (k + 0.5) * step + d(-shaky, shaky)
            half, low = step * (share + nudge) / 2, base + b.floor * (0.62 - tall / 2) - 0.1
            if level == 0 and shop:
                _shop(s, d, x - step / 2 + 0.2, x + step / 2 - 0.2, base + b.floor * 0.68)
            elif level == 0 and column == door and not b.lobby:
                leaf = d.tint(d.pick([(96, 62, 44), (70, 50, 40), (120, 88, 60), (60, 74, 80), (230, 228, 222)]))
                top = base + (2.7 if b.look in ("MUR", "adobe") else 2.15)
                s.rect(x - 0.62, x + 0.62, 0, top + 0.1, 0, b.trim)
                s.rect(x - 0.5, x + 0.5, 0, top, 0, leaf)
                s.rect(x - 0.5, x + 0.5, top - 0.25, top, 0, (*SHADE, 100))
                s.rect(x - 0.03, x + 0.03, 0, top, 0, leaf, 0.7)
            elif level == 0 and column == garage:
                s.rect(x - step * 0.45, x + step * 0.45, 0, base + 2.2, 0, b.trim, 0.72)
                s.strokes((x - step * 0.45, 0, 0), (0, base + 2.2, 0), (step * 0.9, 0, 0), 7, b.trim, 0.56)
            else:
                _window(s, d, b, x - half, x + half, low, low + b.floor * tall, bars and level == 0)
            if b.balconies and level and column % 2 == door % 2:
                _balcony(s, b, x - step * 0.44, x + step * 0.44, base)


def _window(s, d, b, x0, x1, y0, y1, bars):
    """Frame, glass, curtain, the reveal's shadow, a sill, and bars."""
    glass, curtain = _mix((52, 60, 70), s.street.sky, d(0.05, 0.4)), d()
    frame = b.trim if b.look in ("MUR", "adobe") else _mix(b.trim, (250, 250, 250), 0.4)
    if s.fine:
        s.rect(x0 - 0.09, x1 + 0.09, y0 - 0.09, y1 + 0.09, 0, frame)
    s.rect(x0, x1, y0, y1, 0, glass)
    if curtain < 0.4:
        s.rect(x0, x0 + (x1 - x0) * (0.25 + 1.8 * curtain), y0, y1, 0, _mix(glass, (232, 226, 210), d(0.25, 0.7)))
    s.rect(x0, x1, y1 - 0.16 * (y1 - y0), y1, 0, (*SHADE, 110))
    if s.fine:
        middle = (x0 + x1) / 2
        s.rect(middle - 0.04, middle + 0.04, y0, y1, 0, frame)
        s.rect(x0 - 0.16, x1 + 0.16, y0 - 0.2, y0 - 0.08, -0.1, b.trim, 0.9)
        if bars:
            s.strokes((x0, y0, -0.1), (x1 - x0, 0, 0), (0, y1 - y0, 0), (x1 - x0) / 0.16, (50, 46, 44))


def _shop(s, d, x0, x1, top):
    """A roller door, closed or half open, or a glass front."""
    low, colour = top * d.pick([1.0, 0.65, 0.0, 0.0]), d.tint(d.pick(SHEET + PAINT[:1]))
    s.rect(x0, x1, 0, top, 0, _mix((46, 52, 58), s.street.sky, d(0, 0.25)))
    for x in (x0 + share * (x1 - x0) for share in (0.33, 0.66)):
        s.rect(x, x + 0.08, 0, low, 0, (196, 198, 198))
    s.rect(x0, x1, low, top, 0, colour)
    s.strokes((x0, low, 0), (0, top - low, 0), (x1 - x0, 0, 0), (top - low) / max(0.25, s.pitch), colour, 0.78)


def _balcony(s, b, x0, x1, base, out=-1.0):
    s.rect(x0, x1, base - 0.3, base + 0.05, 0, (*SHADE, 90))
    s.poly([(x0, base, 0), (x1, base, 0), (x1, base, out), (x0, base, out)], b.trim, 0.62)
    s.rect(x0, x1, base - 0.16, base + 0.06, out, b.trim)
    if b.key % 2:
        s.rect(x0, x1, base + 0.06, base + 1.0, out, (*_mix(s.street.sky, (150, 170, 176), 0.6), 150))
    else:
        s.strokes((x0, base, out), (x1 - x0, 0, 0), (0, 0.95, 0), (x1 - x0) / max(0.3, s.pitch), (70, 72, 76))
    s.rect(x0, x1, base + 0.95, base + 1.03, out, (90, 92, 96))


def _row(d: _Dice, main: _Building, position: str, street: _Street) -> list[_Building]:
    """The neighbours on both sides: equal units (terraces, the twin of a pair) or strangers, with gaps or without."""
    paints = [d.tint(d.pick(street.plaster)) for _ in range(2)]
    units = [replace(main, wall=paint) for paint in paints] if main.look == "" and d() < 0.6 else [main]
    twin, gap, row = (1 if d() < 0.5 else -1), d(*GAPS.get(position, (0, 0))), []
    for side in (-1, 1):
        edge = main.x1 if side > 0 else main.x0
        for k in range(4):
            if position == "ADJ_TR" or (position == "SDET" and side == twin and k == 0):
                flip = position == "SDET" or k % 2 == 0
                x0 = edge if side > 0 else edge - main.width
                new = replace(d.pick(units), x0=x0, mirror=main.mirror ^ flip)
            else:
                edge, storeys = edge + side * gap, max(1, street.storeys + d.pick([-1, 0, 0, 0, 1]))
                look, width = d.pick(["", "", "MUR", "MCF", "CR", "W,UNK", "COM1,2,IND"]), d(7, 12)
                x0 = edge if side > 0 else edge - width
                new = _building(d, street, x0, width, storeys, look, d.pick(["FLT", "PIT_GAB", "PIT_MON"]))
            row.append(new)
            edge += side * new.width
    return row


def _background(s, camera, setback):
    """Hills, the next street's roofs and trees in the haze, and the ground from there to the pavement."""
    d, street, far = s.d, s.street, range(-420, 421, 40)
    ridge = [(x, street.hills * (0.5 + 0.3 * sin(x * 0.021 + street.hills) + d(0, 0.35)) + 4) for x in far]
    if street.hills > 0:
        s.poly([(-420, 0), *ridge, (420, 0)], _mix(street.horizon, (108, 118, 136), 0.5), z=300)
    for x in range(-70, 70, 7):
        if d() < 0.6:
            s.rect(x, x + d(6, 10), 0, d(3, 8), 40, _mix(d.pick(street.plaster), street.horizon, 0.5), 0.95)
        else:
            s.blob(x, 3, 38, d(2.5, 5), _mix(street.leaves, street.horizon, 0.3))
    _ground(s, camera, 60, -setback, _mix(street.leaves, (140, 132, 100), 0.4))


def _ground(s, camera, far, near, colour, light=1.0):
    near = max(near, -camera.distance + 1.5 * camera.near)
    if near < far:
        (a, b), (e, f) = camera.span(far), camera.span(near)
        s.poly([(a, 0, far), (b, 0, far), (f, 0, near), (e, 0, near)], colour, light)


def _tree(s, x, z, low, high, rx, colour, count=70, bare=False):
    """A tree with its crown between two heights, in leaf or bare."""
    d, w, trunk = s.d, 0.03 * high + 0.04, (92, 74, 60)
    s.poly([(x - w, 0), (x + w, 0), (x + 0.5 * w, high * 0.7), (x - 0.5 * w, high * 0.7)], trunk, z=z)
    if not bare:
        return s.crown(x, (low + high) / 2, z, rx, (high - low) / 2, colour, count)
    for _ in range(18):
        y, a, reach = high * d(0.3, 0.7), d(0.5, pi - 0.5), high * d(0.15, 0.35)
        bend = (x + 0.5 * reach * cos(a) + d(-0.2, 0.2), y + 0.5 * reach * sin(a), z)
        s.line([(x, y, z), bend, (x + reach * cos(a), y + reach * sin(a) + 0.3, z)], trunk, width=0.05)


def _car(s, x, z):
    colour, tall = s.d.pick(CARS), s.d.pick([1.0, 1.0, 1.2])
    s.poly([(x - 0.2, 0.02), (x + 4.5, 0.02), (x + 4.4, 0.2), (x - 0.1, 0.2)], (*SHADE, 120), z=z)
    body = [(0, 0.3), (0.05, 0.75), (0.8, 0.88), (1.35, 1.4), (3.0, 1.42), (3.7, 0.92), (4.25, 0.8), (4.3, 0.3)]
    s.poly([(x + a, b * tall) for a, b in body], colour, z=z)
    rear, front = (
        [(1.0, 0.9), (1.42, 1.3), (2.1, 1.32), (2.1, 0.9)],
        [(2.2, 0.9), (2.2, 1.32), (2.95, 1.32), (3.5, 0.9)],
    )
    for pane in (rear, front):
        s.poly([(x + a, b * tall) for a, b in pane], _mix((40, 46, 54), s.street.sky, 0.25), z=z)
    s.rect(x + 0.05, x + 4.3, 0.3, 0.42, z, colour, 0.7)
    for wheel in (0.9, 3.4):
        s.blob(x + wheel, 0.33, z, 0.36, (30, 30, 32))
        s.blob(x + wheel, 0.33, z, 0.18, (150, 150, 152))


def _fence(s, x0, x1, z):
    kind, colour = s.d.pick(["bars", "bars", "wall", "hedge"]), s.d.pick([(40, 42, 44), (90, 60, 48), (70, 90, 84)])
    if kind == "hedge":
        for x in np.arange(x0, x1, 0.8).tolist():
            s.crown(x, 0.6, z, 0.8, 0.7, s.street.leaves, 12)
        return
    low = 1.5 if kind == "wall" else 0.4
    s.rect(x0, x1, 0, low, z, s.d.tint(s.d.pick(s.street.plaster)) if kind == "wall" else (176, 170, 162), 0.95)
    s.rect(x0, x1, low - 0.05, low + 0.08, z, (190, 186, 180))
    if kind == "bars":
        s.strokes((x0, 0.4, z), (x1 - x0, 0, 0), (0, 1.2, 0), (x1 - x0) / max(0.22, s.pitch), colour)
        s.rect(x0, x1, 1.55, 1.65, z, colour)


def _foreground(s, camera, main, setback):
    """Pavement and road; fence and shrubs of a garden; street trees, a pole with wires, cars."""
    d, street, edge = s.d, s.street, -setback
    bands = [(2.6, street.ground, 1.0), (2.8, street.ground, 1.15), (10, street.road, 1.0), (10.2, street.ground, 1.0)]
    for end, colour, light in (*bands, (15, street.leaves, 0.9), (1000, street.road, 1.0)):
        _ground(s, camera, edge, -setback - end, colour, light)
        edge = -setback - end
    if setback and d() < 0.7:
        _fence(s, main.x0 - 9, main.x1 + 9, -setback)
    if setback and d() < 0.5:
        s.crown(d(main.x0, main.x1), 0.8, -setback * 0.6, d(0.7, 1.5), 0.8, street.leaves, 40)
    curb = -setback - 2.2
    for _ in range(2):
        x, high, colour = d(main.x0 - 6, main.x1 + 6), d(4, 8), d.tint(street.leaves)
        if d() < street.trees:
            _tree(s, x, curb, high * d(0.3, 0.45), high, high * d(0.22, 0.34), colour, bare=street.bare)
    if d() < street.wires:
        x, n = d(main.x0 - 5, main.x1 + 5), int(d(2, 7))
        s.poly([(x - 0.13, 0), (x + 0.13, 0), (x + 0.08, 9), (x - 0.08, 9)], (128, 120, 112), z=curb)
        s.rect(x - 0.9, x + 0.9, 8.2, 8.35, curb, (110, 100, 92))
        t, wires = np.linspace(-1, 1, 17), np.full((n, 2, 17, 3), float(curb))
        wires[..., 0] = x + np.multiply.outer((-15, 15), 1 + t)
        wires[..., 1] = [[(8.4 - 0.45 * k) - d(0.3, 1.0) * (1 - t**2)] for k in range(n)]
        for wire in wires.reshape(-1, 17, 3):
            s.line(wire, (44, 44, 48), width=0.03)
    for _ in range(int(d(0, 2.6))):
        x = d(main.x0 - 4, main.x1 - 1)
        if camera.distance > setback + 7:
            _car(s, x, -setback - 4.0)


def _cover(s, main, covered, share):
    """Trees, or a hoarding, before what is to be hidden and wasn't cropped."""
    d, tall, x0, wide = s.d, main.eaves + main.rise, main.x0, main.width
    green, z = d.tint(s.street.leaves if not s.street.bare else (70, 98, 58)), -0.8
    if "height" in covered:
        top, n = share * tall, max(3, round(wide / max(1.5, 0.5 * tall)) + 1)
        if top < 3.4 and d() < 0.4:
            colour = d.pick(SHEET + PAINT)
            s.rect(x0 - 1, x0 + wide + 1, 0, top, z, colour)
            s.strokes((x0 - 1, 0, z), (wide + 2, 0, 0), (0, top, 0), wide / max(0.6, s.pitch), colour, 0.85)
        else:
            for x in (x0 - 1 + (wide + 2) * (k + d(0.2, 0.8)) / n for k in range(n)):
                _tree(s, x, z, 0.05 * top, top * d(0.95, 1.1), 0.7 * wide / n + 0.6, green, 90)
    if "roof_shape" in covered:
        n = max(2, round(wide / 4.5))
        for x in (x0 + wide * k / n for k in range(n + 1)):
            _tree(s, x, z, main.eaves - 0.7, main.eaves + 2.6 + 0.04 * tall, 0.75 * wide / n, green, 90)
    if "block_position" in covered:
        reach = 0.22 * max(tall, wide)
        for x in (x0 - reach * 0.8, x0 + wide + reach * 0.8):
            for low in (0.55, 0.0):
                _tree(s, x, z, low * tall, (low + 0.65) * tall, reach, green, 90)


def _view(d, main, hidden, setback, pixels):
    """Camera and frame. A hidden cue is either cropped away here or returned among those to be covered."""
    tall, wide, middle = main.eaves + main.rise, main.width, main.x0 + main.width / 2
    distance = max(setback + 10, d(1.15, 1.7) * max(tall, 0.9 * wide))
    x = middle + wide * d(-0.75, 0.75)
    yaw = np.arctan2(middle - x, distance) * d(-0.2, 1.2)
    camera = _Camera(x, 2.3 + 0.03 * distance, distance, yaw, d(-0.03, 0.05), d(-0.02, 0.02))
    uv, _ = camera.plane([(a, b, 0) for a in (main.x0, main.x1) for b in (0, main.eaves, tall)])
    (u0, v0), (u1, v1), eaves = uv.min(0), uv.max(0), min(uv[1, 1], uv[4, 1])
    room, lift, drift, coin, share = d(0.5, 0.7), d(0.16, 0.26), d(-0.5, 0.5), d(), d(0.3, 0.65)
    across, up = (u1 - u0) / room, (v1 - v0) / d(0.66, 0.84)
    size, covered = max(across, up), {task for task in hidden if hidden[task]}
    bottom, cut = v0 - min(lift * size, 0.7 * (size - (v1 - v0))), ""
    if "roof_shape" in covered and across < 1.1 * up and coin < 0.75:
        size, cut = max(across, 1.12 * (eaves - v0)), "roof_shape"
        bottom = eaves - 1.03 * size
    elif "height" in covered and across < 1.1 * (1 - share) * up and coin < 0.6:
        size, bottom, cut = max(across, 1.25 * (1 - share) * (v1 - v0)), v0 + share * (v1 - v0), "height"
    elif "block_position" in covered and u1 - u0 > 0.95 * (v1 - v0) and coin < 0.6:
        size, drift, cut = (u1 - u0) * d(0.8, 0.97), 0, "block_position"
        bottom = v0 - 0.4 * max(0.1 * size, size - (v1 - v0))
    left = (u0 + u1) / 2 - size / 2 + drift * max(0, size - (u1 - u0)) * 0.4
    camera.frame(left, bottom + size, size, pixels)
    return camera, covered - {cut}, share


@lru_cache(maxsize=1)
def _grain() -> Image.Image:
    """Sensor noise and slow unevenness of light, made once; pictures take crops of it, because fresh noise is slow."""
    rng = np.random.default_rng(20230901)
    slow = Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8))
    slow = slow.resize((1280, 1280), Image.Resampling.BICUBIC)
    noise = 128 + rng.normal(0, 5.0, (1280, 1280, 3)) + (np.asarray(slow, dtype=float)[..., None] - 128) * 0.05
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _clouds() -> Image.Image:
    """Opacity of clouds, thinning out towards the horizon; made once."""
    rng, total = np.random.default_rng(9), np.zeros((512, 1024))
    for cells, weight in ((5, 1.0), (11, 0.6), (25, 0.35), (60, 0.18)):
        tile = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += weight * np.asarray(tile.resize((1024, 512), Image.Resampling.BICUBIC))
    fade = np.linspace(1, 0, 512)[:, None] ** 0.5
    return Image.fromarray(((total - 1.05) * 320 * fade).clip(0, 200).astype(np.uint8))


def _sky(d, street, size, over, horizon) -> Image.Image:
    """The canvas, `over` times `size`: sky down to row `horizon`, road colour below."""
    pixels, step = size * over, 2 if over == 2 else 1  # in large pictures a sky of their own size, enlarged, will do
    side, down = pixels // step, max(40, min(horizon, pixels)) // step
    image = Image.new("RGB", (side, side), _mix((0, 0, 0), street.road, street.light))
    draw, x = ImageDraw.Draw(image), int(d(0, 424))
    for k, colour in enumerate(street.gradient):
        draw.rectangle((0, k * down // 40, side, (k + 1) * down // 40), colour)
    if street.sun > 0.1:
        clouds = _clouds().crop((x, 0, x + 600, 512)).resize((side, down), Image.Resampling.NEAREST)
        image.paste(Image.new("RGB", clouds.size, (250, 248, 244)), (0, 0), clouds)  # quicker than a plain colour
    return image if step == 1 else image.resize((pixels, pixels), Image.Resampling.NEAREST)


def _develop(d, image, street) -> bytes:
    """Blur, exposure, white balance, noise and JPEG."""
    side, blur, gain, lift, quality = image.width, d(), d(0.88, 1.12), d(-6, 10), d()
    if blur < 0.3:
        image = image.filter(ImageFilter.BoxBlur(2.5 * blur * side / 300))
    tones = np.array([[1 + 0.04 * street.warmth], [1.0], [1 - 0.05 * street.warmth]])
    image = image.point((np.arange(256) * gain * tones + lift).astype(int).clip(0, 255).ravel().tolist())
    x, y, out = int(d(0, 1280 - side)), int(d(0, 1280 - side)), io.BytesIO()
    image = ImageChops.add(image, _grain().crop((x, y, x + side, y + side)), 1, -128)
    image.save(out, "JPEG", quality=int(86 + 7 * quality if side < 128 else 74 + 18 * quality))
    return out.getvalue()


def draw(height, mat_llrs, roof_shape, block_position, rng_seed, size=300, ambiguity=0.3, street_seed=0) -> bytes:
    """One photograph as JPEG bytes.

    The four labels are classes of :data:`mtclim.SANTIAGO`; SBST follows from height and material and is no argument.
    `rng_seed` (an int or a sequence of ints) draws everything of this picture, `street_seed` what its street shares.
    `size` is the side in pixels, 64 to 300; `ambiguity` in [0, 1] the probability of hiding a task's cues, see the
    module's text. Equal arguments give equal bytes with equal versions of numpy and Pillow. ValueError for others.
    """
    labels = {"height": height, "mat_llrs": mat_llrs, "roof_shape": roof_shape, "block_position": block_position}
    for task, name in labels.items():
        if name not in SANTIAGO[task]:
            raise ValueError(f"draw: found {task} {name!r}; expected one of {list(SANTIAGO[task])}.")
    if not 64 <= size <= 300 or not 0 <= ambiguity <= 1:
        raise ValueError(f"draw: found size {size} and ambiguity {ambiguity}; expected 64 to 300 and 0 to 1.")
    d, street = _dice(rng_seed, 4096), _street(int(street_seed))
    hidden = {task: d() < ambiguity for task in labels}
    seen = {task: "" if hidden[task] else name for task, name in labels.items()}
    low, high = STOREYS[height] if (mat_llrs, height) != ("MUR", "H3-4") else (3, 3)  # MUR has at most three storeys
    storeys = low + int((high - low + 1) * d() ** 1.3)
    position = seen["block_position"] or d.pick(["", "DET_SP", "ADJ_BD"])
    width = d(*WIDTHS[position] if seen["block_position"] else (7, 15)) * (1 + 0.06 * max(0, storeys - 4))
    balconies = (mat_llrs == seen["mat_llrs"] == "CR" and d() < 0.6) or (position == "DET_MP" and d() < 0.5)
    main = _building(d, street, -width / 2, width, storeys, seen["mat_llrs"], seen["roof_shape"], balconies=balconies,
                     lobby=position == "DET_MP", mirror=d() < 0.5)  # fmt: skip
    row, setback = _row(d, main, position, street), d(2.5, 5.5) * (position in GAPS)
    over = 4 if size < 100 else 3 if size < 160 else 2
    camera, covered, share = _view(d, main, hidden, setback, size * over)
    s = _Scene(d, street, float(camera.scale / camera.distance / over), camera.frame_on_facade())
    _background(s, camera, setback)
    left, right = camera.span(0)
    row = sorted([main, *row], key=lambda b: -max(b.x0 - camera.at[0], camera.at[0] - b.x1))
    for b in compress(row, _in_view(camera, row, size * over)):
        if left <= b.x0 and b.x1 <= right:
            _put(s, b)
    if street.sun > 0.5 and d() < 0.5:  # a shadow that something across the street casts
        x, y, reach = (main.x0, main.x1)[street.side > 0], main.eaves * d(0.3, 1.0), main.width * d(0.2, 0.8)
        s.poly([(x, 0), (x, y), (x - street.side * reach, 0)], (*SHADE, 60), z=0)
    _foreground(s, camera, main, setback)
    _cover(s, main, covered, share)
    image = _sky(d, street, size, over, int(camera.project([[0, 2, 4000]])[0][0, 1]))
    s.render(image, camera, max(1, over // 2))
    return _develop(d, image.reduce(over), street)
