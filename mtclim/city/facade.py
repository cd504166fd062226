"""Photographs of façades, drawn from four labels and a seed; numpy and Pillow only.

A small scene in metres (x along the street, y up, z away from it; the façade stands at z = 0) is filled back to front
with polygons, projected once by a pinhole camera, drawn at 2 to 4 times the picture's size and averaged down.

Each label alone decides its own task's cues, and the joint of the labels is left to :mod:`mtclim.city.joint`:

========== ===================================================== =================================================
task       shown by                                              hidden by (with probability ``ambiguity``)
========== ===================================================== =================================================
height     rows of openings between ground and eaves             lower storeys cropped, or behind trees or hoarding
mat_llrs   wall surface, openings, storey height, slab edges     plain painted plaster and plain windows
roof_shape the roof's slopes, the parapet, the side wall's top   eaves above the frame, or behind foliage
position   neighbours, gaps, garden, entrance, façade width      crop or foliage at both sides, neutral width
========== ===================================================== =================================================

The four coins are tossed independently, picture by picture. What is hidden is replaced by something drawn without
looking at the label (height: only the visible number of storeys remains a lower bound), so that what a picture still
tells about a hidden task comes through the other tasks. Some confusion stays at ``ambiguity`` 0, as in section 4.3 of
the paper: plastered confined masonry, monopitch roofs that fall away from the street, storey counts near a class limit.
"""

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

STOREYS = {"H1": (1, 1), "H2": (2, 2), "H3-4": (3, 4), "H5-7": (5, 7), "H8-12": (8, 12), "H13+": (13, 22)}
PLASTER = [
    (236, 230, 216), (226, 205, 160), (214, 168, 110), (200, 120, 88), (170, 190, 200), (186, 200, 170), (205, 200, 194),
    (240, 222, 190), (222, 178, 160), (150, 168, 160), (246, 244, 238), (196, 176, 150), (176, 120, 110), (210, 214, 190),
]  # fmt: skip
BRICK = [(164, 86, 64), (176, 100, 74), (150, 76, 60), (186, 116, 88), (140, 84, 68)]
BLOCK = [(176, 172, 164), (190, 180, 160), (200, 168, 140), (160, 158, 154), (186, 150, 124)]
WOOD = [(150, 112, 78), (170, 138, 98), (122, 96, 76), (120, 140, 130), (186, 170, 140), (140, 90, 70)]
SHEET = [(150, 156, 160), (128, 134, 136), (168, 120, 90), (110, 130, 140), (178, 180, 176)]
CLADDING = [
    (226, 228, 228),
    (176, 184, 190),
    (90, 104, 120),
    (196, 60, 50),
    (40, 84, 140),
    (220, 190, 70),
    (70, 120, 90),
]
GLASS = [(92, 124, 146), (80, 120, 124), (108, 124, 138), (72, 96, 120), (120, 140, 140)]
ROOFS = [(150, 78, 60), (128, 70, 58), (104, 84, 78), (122, 124, 126), (92, 96, 102), (140, 104, 84)]
CARS = [(220, 220, 222), (60, 62, 68), (150, 152, 156), (170, 40, 40), (40, 60, 110), (196, 190, 178), (30, 90, 80)]
"""Colours are 8-bit sRGB."""


class _Dice:
    """Uniform numbers of one picture; forks repeat exactly, which is how terraced units come out identical."""

    def __init__(self, values: list[float], at: int = 0):
        self.values, self.at = values, at

    def __call__(self, low=0.0, high=1.0) -> float:
        self.at = (self.at + 1) % len(self.values)
        return low + (high - low) * self.values[self.at]

    def pick(self, items):
        return items[int(self() * len(items))]

    def fork(self, key: int) -> "_Dice":
        return _Dice(self.values, (key * 977 + 131) % len(self.values))


def _lit(colour, light: float):
    return tuple(min(255, int(c * light)) for c in colour)


def _mix(a, b, share: float):
    return tuple(int(p + (q - p) * share) for p, q in zip(a, b, strict=True))


def _tint(dice: _Dice, colour, spread=14):
    shift = dice(-spread, spread)
    return tuple(max(0, min(255, int(c + shift + dice(-spread / 3, spread / 3)))) for c in colour)


@dataclass(frozen=True)
class _Street:
    """What neighbours on one street share, whatever their labels: light, season, palette, furniture."""

    plaster: list
    roofs: list
    sky: tuple
    horizon: tuple
    sun: float  # 0 overcast .. 1 clear
    sun_side: int  # -1 from the left, 1 from the right
    front: float
    warmth: float
    leaves: tuple
    bare: bool
    ground: tuple
    road: tuple
    hills: float
    storeys: int
    trees: float
    wires: float


@lru_cache(maxsize=256)
def _street(seed: int) -> _Street:
    d = _Dice(np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 7919]))).random(64).tolist())
    sun = d.pick([0.0, 0.15, 0.7, 1.0, 1.0])
    sky = _mix((186, 192, 198), (104, 158, 214), sun) if d() < 0.8 else (214, 206, 196)
    season = d.pick([(78, 112, 52), (92, 120, 60), (64, 98, 58), (168, 128, 48), (120, 116, 64)])
    return _Street(
        plaster=[d.pick(PLASTER) for _ in range(4)], roofs=[d.pick(ROOFS) for _ in range(2)], sky=_tint(d, sky),
        horizon=_mix(sky, (244, 238, 228), d(0.5, 0.9)), sun=sun, sun_side=1 if d() < 0.5 else -1,
        front=d(0.84, 1.06) if sun > 0.5 else d(0.78, 0.92), warmth=d(-1, 1), leaves=_tint(d, season),
        bare=d() < 0.15, ground=_tint(d, d.pick([(176, 170, 160), (160, 158, 156), (186, 172, 150)])),
        road=_tint(d, (98, 98, 100)), hills=d(0, 60) if d() < 0.6 else 0.0, storeys=d.pick([1, 1, 2, 2, 3]),
        trees=d(0.1, 0.7), wires=d(0.2, 0.9),
    )  # fmt: skip


class _Scene:
    """A display list in metres, drawn in order (painter's algorithm) once the camera is known."""

    def __init__(self):
        self.points, self.items = [], []

    def poly(self, points, colour):
        """A filled polygon; a fourth colour component is opacity."""
        start = len(self.points)
        for point in points:
            self.points += point
        self.items.append(("poly", start, len(self.points), colour, 0))

    def rect(self, x0, x1, y0, y1, z, colour):
        start = len(self.points)
        self.points += (x0, y0, z, x1, y0, z, x1, y1, z, x0, y1, z)
        self.items.append(("poly", start, start + 12, colour, 0))

    def line(self, points, colour, width=0.0):
        """A polyline; `width` in metres, 0 for a hairline. `points` is (n, 3) or a sequence of triples."""
        start = len(self.points)
        self.points += np.asarray(points, dtype=float).ravel().tolist()
        self.items.append(("line", start, len(self.points), colour, width))

    def blob(self, x, y, z, radius, colour, flat=1.0):
        start = len(self.points)
        self.points += (x, y, z)
        self.items.append(("blob", start, flat, colour, radius))

    def render(self, image: Image.Image, camera: "_Camera", thin: int):
        """Project every point at once and draw the list onto `image`."""
        xy, scale = camera.project(np.array(self.points).reshape(-1, 3))
        flat, scale = xy.ravel().tolist(), scale.tolist()
        draw, glaze = ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")
        for kind, start, stop, colour, width in self.items:
            at = start // 3
            target = glaze if len(colour) == 4 else draw
            if kind == "poly":
                target.polygon(flat[at * 2 : stop // 3 * 2], fill=colour)
            elif kind == "line":
                target.line(flat[at * 2 : stop // 3 * 2], fill=colour, width=max(thin, round(width * scale[at])))
            else:
                x, y, r = flat[at * 2], flat[at * 2 + 1], width * scale[at]
                target.ellipse((x - r, y - r * stop, x + r, y + r * stop), fill=colour)


class _Camera:
    """A pinhole at (x, y, -distance); `frame` then chooses the square of the image plane that is the picture."""

    def __init__(self, x, y, distance, yaw, pitch, roll):
        self.at, self.near = np.array([x, y, -distance]), 0.12 * distance
        a, b, c = (cos(yaw), sin(yaw)), (cos(pitch), sin(pitch)), (cos(roll), sin(roll))
        turn = np.array([[a[0], 0, -a[1]], [0, 1, 0], [a[1], 0, a[0]]])
        tilt = np.array([[1, 0, 0], [0, b[0], -b[1]], [0, b[1], b[0]]])
        level = np.array([[c[0], -c[1], 0], [c[1], c[0], 0], [0, 0, 1]])
        self.axes = level @ tilt @ turn
        self.left, self.top, self.scale = -0.5, 0.5, 1.0

    def plane(self, points) -> tuple[np.ndarray, np.ndarray]:
        seen = (np.asarray(points, dtype=float) - self.at) @ self.axes.T
        depth = np.maximum(seen[:, 2], self.near)
        return seen[:, :2] / depth[:, None], depth

    def frame(self, left, top, side, pixels):
        self.left, self.top, self.scale = left, top, pixels / side

    def project(self, points) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3) metres to (n, 2) pixels (y down) and (n,) pixels per metre."""
        uv, depth = self.plane(points)
        xy = np.stack([(uv[:, 0] - self.left) * self.scale, (self.top - uv[:, 1]) * self.scale], axis=1)
        return xy, self.scale / depth


@dataclass(frozen=True)
class _Building:
    x0: float
    x1: float
    storeys: int
    floor: float
    material: str  # a class of mat_llrs, or "" for plain plaster
    roof: str  # flat gable ridge hip back side lean, or "" for a bare edge
    wall: tuple
    trim: tuple
    tiles: tuple
    rise: float
    depth: float
    key: int  # where its dice start: equal keys give equal details
    entrance: str = "door"
    balconies: bool = False
    mirror: bool = False

    @property
    def eaves(self) -> float:
        return self.storeys * self.floor + 0.25


def _materials(d: _Dice, material: str, street: _Street) -> dict:
    """Wall colour, trim and storey height that go with a material; "" is the neutral look."""
    plaster = _tint(d, d.pick(street.plaster))
    if material == "MUR":
        wall = _tint(d, d.pick([(168, 128, 92), (178, 140, 104), *BRICK[:2]]) if d() < 0.35 else d.pick(PLASTER[1:9]))
        return {"wall": wall, "trim": _mix(wall, (250, 246, 236), 0.6), "floor": d(3.2, 3.9)}
    if material == "MCF":
        if d() < 0.3:
            return {"material": "", "wall": plaster, "trim": _mix(plaster, (245, 245, 240), 0.6), "floor": d(2.5, 3.1)}
        return {"wall": _tint(d, d.pick(BRICK)), "trim": _tint(d, (182, 178, 170)), "floor": d(2.5, 2.9)}
    if material == "MR":
        return {"wall": _tint(d, d.pick(BLOCK), 8), "trim": (238, 238, 236), "floor": d(2.4, 2.7)}
    if material == "CR":
        base = d.pick([(214, 212, 206), (196, 196, 194), (226, 218, 202), (186, 182, 176), (232, 232, 230)])
        return {"wall": _tint(d, base, 8), "trim": _tint(d, (236, 234, 230), 6), "floor": d(2.6, 3.0)}
    if material == "W,UNK":
        return {"wall": _tint(d, d.pick(WOOD)), "trim": _tint(d, (222, 214, 200)), "floor": d(2.3, 2.6)}
    if material == "COM1,2,IND":
        return {"wall": _tint(d, d.pick(CLADDING[:2])), "trim": d.pick(CLADDING[2:]), "floor": d(3.3, 4.2)}
    if material == "COM3":
        return {
            "wall": _tint(d, d.pick(GLASS)),
            "trim": _tint(d, d.pick([(200, 206, 210), (70, 80, 90)])),
            "floor": d(3.2, 3.7),
        }
    return {"wall": plaster, "trim": _mix(plaster, (245, 245, 240), 0.6), "floor": d(2.5, 3.1)}


def _building(d: _Dice, x0, width, storeys, material, roof_shape, street, **more) -> _Building:
    kinds = {
        "FLT": ["flat"],
        "PIT_GAB": ["gable", "gable", "ridge", "ridge", "hip"],
        "PIT_MON": ["back", "back", "back", "side", "lean"],
    }
    roof = d.pick(kinds[roof_shape]) if roof_shape else ""
    rise = {"flat": d(0.3, 0.9), "gable": width * d(0.2, 0.34), "ridge": d(1.7, 2.8), "hip": d(1.7, 2.8)}
    rise.update(back=d(0.9, 1.6), side=d(0.7, 1.4), lean=d(0.8, 1.4))
    look = {"material": material} | _materials(d, material, street)
    return _Building(
        x0, x0 + width, storeys, roof=roof, rise=min(rise.get(roof, 0.0), 3.4) * (1 + 0.12 * (storeys - 1)),
        tiles=_tint(d, d.pick(street.roofs)), depth=d(7, 12), key=int(d(1, 1000)), **look, **more,
    )  # fmt: skip


def _joints(scene, origin, along, up, rows, units, colour, bond=True):
    """Masonry joints as one polyline: along each course and up and down at every unit, half a unit on in every other."""
    rows, units = max(1, int(rows)), max(1, int(units))
    row, unit = np.mgrid[0:rows, 0:units]
    a = (unit + 0.5 * (row % 2) * bond + 0.01) / units
    a = np.where(row % 2, a[:, ::-1], a)  # there and back, so that no stroke crosses the wall
    a, b = np.stack([a, a, a], -1).clip(0, 1), np.stack([row, row + 1.0, row], -1) / rows
    a = np.concatenate([(np.arange(rows) % 2)[:, None], a.reshape(rows, -1), 1 - (np.arange(rows) % 2)[:, None]], 1)
    b = np.concatenate([b[:, 0, :1], b.reshape(rows, -1), b[:, 0, :1]], 1)
    scene.line(np.asarray(origin) + a.reshape(-1, 1) * np.asarray(along) + b.reshape(-1, 1) * np.asarray(up), colour)


def _strokes(scene, origin, along, up, count, colour):
    """`count` parallel lines across a quad, as one polyline that turns round at the edges."""
    k = np.repeat(np.arange(count + 1), 2) / max(count, 1)
    side = np.resize([0, 1, 1, 0], len(k))[:, None]
    scene.line(np.asarray(origin) + k[:, None] * np.asarray(along) + side * np.asarray(up), colour)


def _window(scene, d, x0, x1, y0, y1, b, street, detail=True, bars=False):
    """Frame, glass, what stands behind it, its reveal's shadow and a sill."""
    glass = _lit(_mix((52, 60, 70), street.sky, d(0.05, 0.4)), street.front)
    frame = _lit(_mix(b.trim, (250, 250, 250), 0.4) if b.material != "MUR" else b.trim, street.front)
    w = 0.09
    if detail:
        scene.rect(x0 - w, x1 + w, y0 - w, y1 + w, 0, frame)
    scene.rect(x0, x1, y0, y1, 0, glass)
    if d() < 0.4:
        scene.rect(
            x0, x0 + (x1 - x0) * d(0.25, 1), y0, y1, 0, _lit(_mix(glass, (232, 226, 210), d(0.25, 0.7)), street.front)
        )
    scene.rect(x0, x1, y1 - 0.16 * (y1 - y0), y1, 0, (20, 24, 30, 110))
    if detail:
        middle = (x0 + x1) / 2
        scene.rect(middle - 0.04, middle + 0.04, y0, y1, 0, frame)
        scene.rect(x0 - 0.16, x1 + 0.16, y0 - 0.2, y0 - 0.08, -0.1, _lit(b.trim, street.front * 0.9))
    if bars:
        _strokes(scene, (x0, y0, -0.1), (x1 - x0, 0, 0), (0, y1 - y0, 0), int((x1 - x0) / 0.16), (50, 46, 44))


def _openings(scene, d, b: _Building, street, detail):
    """Rows of windows storey by storey; doors, garage and entrance on the ground."""
    width = b.x1 - b.x0
    bay, share, rise = {
        "MUR": (2.9, 0.34, 0.5), "MCF": (3.1, 0.46, 0.44), "MR": (2.9, 0.46, 0.46), "CR": (3.0, 0.62, 0.52),
        "W,UNK": (2.8, 0.36, 0.4), "COM1,2,IND": (4.4, 0.66, 0.3), "COM3": (3, 0, 0),
    }.get(b.material, (3.0, 0.44, 0.46))  # fmt: skip
    bays = max(2, round(width / bay))
    step, special = width / bays, int(d() * bays)
    garage = (special + 1) % bays if d() < 0.3 and bays > 2 else -1
    bars, shaky = d() < 0.5, 0.25 if b.material == "W,UNK" else 0.0
    for level in range(b.storeys):
        base = 0.25 + level * b.floor
        for k in range(bays):
            column = bays - 1 - k if b.mirror else k
            centre = b.x0 + (k + 0.5) * step + d(-shaky, shaky)
            half, low = step * share / 2, base + b.floor * (0.62 - rise / 2) - 0.1
            if level == 0 and b.material == "COM1,2,IND":
                _shutter(
                    scene, d, b.x0 + k * step + 0.2, b.x0 + (k + 1) * step - 0.2, base, base + b.floor * 0.68, street
                )
            elif level == 0 and column == special and b.entrance == "door":
                _door(scene, d, centre, base, b, street)
            elif level == 0 and column == garage and b.material != "COM3":
                scene.rect(
                    centre - step * 0.45, centre + step * 0.45, base, base + 2.3, 0, _lit(b.trim, 0.7 * street.front)
                )
                _strokes(
                    scene,
                    (centre - step * 0.45, base, 0),
                    (0, 2.3, 0),
                    (step * 0.9, 0, 0),
                    7,
                    _lit(b.trim, 0.55 * street.front),
                )
            else:
                _window(
                    scene,
                    d,
                    centre - half,
                    centre + half,
                    low,
                    low + b.floor * rise,
                    b,
                    street,
                    detail,
                    bars and level == 0,
                )
            if b.balconies and level and column % 2 == special % 2:
                _balcony(scene, d, centre - step * 0.44, centre + step * 0.44, base, b, street)
    if b.entrance == "lobby":
        middle = (b.x0 + b.x1) / 2
        scene.rect(middle - 1.7, middle + 1.7, 0, 2.7, -0.02, _lit((70, 84, 92), street.front))
        for side in (-1.7, -0.6, 0.5, 1.6):
            scene.rect(middle + side, middle + side + 0.1, 0, 2.7, -0.03, _lit((220, 220, 216), street.front))
        scene.poly(
            [(middle - 2.4, 2.95, 0), (middle + 2.4, 2.95, 0), (middle + 2.4, 2.8, -1.6), (middle - 2.4, 2.8, -1.6)],
            _lit(b.trim, 0.6),
        )
        scene.rect(middle - 2.4, middle + 2.4, 2.8, 3.1, -1.6, _lit(b.trim, street.front))


def _door(scene, d, centre, base, b, street):
    leaf = _lit(
        _tint(d, d.pick([(96, 62, 44), (70, 50, 40), (120, 88, 60), (60, 74, 80), (230, 228, 222)])), street.front
    )
    tall = 2.7 if b.material == "MUR" else 2.15
    scene.rect(centre - 0.62, centre + 0.62, 0, base + tall + 0.1, 0, _lit(b.trim, street.front))
    scene.rect(centre - 0.5, centre + 0.5, 0, base + tall, 0, leaf)
    scene.rect(centre - 0.5, centre + 0.5, base + tall - 0.25, base + tall, 0, (20, 20, 24, 100))
    scene.rect(centre - 0.03, centre + 0.03, 0, base + tall, 0, _lit(leaf, 0.7))


def _shutter(scene, d, x0, x1, y0, y1, street):
    """A shop's roller door, closed or half open on a dark interior, or its glass front."""
    closed, colour = (
        d.pick([0.0, 0.35, 1.0, 1.0]),
        _tint(d, d.pick([(150, 154, 158), (176, 176, 172), (90, 110, 130), (160, 70, 54)])),
    )
    scene.rect(x0, x1, 0, y1, 0, _lit(_mix((46, 52, 58), street.sky, d(0, 0.25)), street.front))
    if closed < 1:
        for share in (0.33, 0.66):
            scene.rect(x0 + share * (x1 - x0), x0 + share * (x1 - x0) + 0.08, 0, y1, 0, (196, 198, 198))
        scene.rect(x0, x1, 0, 0.5, 0, (110, 112, 112))
    if closed:
        low = y1 * (1 - closed)
        scene.rect(x0, x1, low, y1, 0, _lit(colour, street.front))
        _strokes(
            scene,
            (x0, low, 0),
            (0, y1 - low, 0),
            (x1 - x0, 0, 0),
            int((y1 - low) / 0.25),
            _lit(colour, street.front * 0.78),
        )


def _balcony(scene, d, x0, x1, base, b, street):
    out, slab = -1.0, _lit(b.trim, street.front)
    scene.rect(x0, x1, base - 0.3, base + 0.05, 0, (20, 22, 28, 90))
    scene.poly([(x0, base, 0), (x1, base, 0), (x1, base, out), (x0, base, out)], _lit(b.trim, 0.62 * street.front))
    scene.rect(x0, x1, base - 0.16, base + 0.06, out, slab)
    if b.key % 2:
        scene.rect(
            x0, x1, base + 0.06, base + 1.0, out, (*_lit(_mix(street.sky, (150, 170, 176), 0.6), street.front), 150)
        )
    else:
        _strokes(scene, (x0, base, out), (x1 - x0, 0, 0), (0, 0.95, 0), int((x1 - x0) / 0.3), (70, 72, 76))
    scene.rect(x0, x1, base + 0.95, base + 1.03, out, _lit((90, 92, 96), street.front))


def _wall(scene, d, b: _Building, street, pitch):
    """The façade's surface by material; `pitch` is the smallest joint spacing that still shows, in metres."""
    front, w, h = street.front, b.x1 - b.x0, b.eaves
    scene.rect(b.x0, b.x1, 0, h, 0, _lit(b.wall, front))
    origin, along, up = (b.x0, 0, 0), (w, 0, 0), (0, h, 0)
    if b.material == "MUR":
        if b.wall[0] - b.wall[2] > 70 and b.wall[1] < 150:  # bare adobe or brick
            _joints(scene, origin, along, up, h / max(0.2, pitch), w / max(0.5, 2 * pitch), _lit(b.wall, front * 0.8))
        else:
            for _ in range(int(d(1, 5))):  # fallen plaster
                _patch(
                    scene, d, d(b.x0, b.x1 - 1.2), d(0.2, h - 1), d(0.5, 1.6), d(0.3, 1.0), _lit((160, 118, 88), front)
                )
        scene.rect(b.x0, b.x1, 0, d(0.5, 1.1), 0, _lit(_mix(b.wall, (90, 60, 50), 0.5), front))
        scene.rect(b.x0, b.x1, h - 0.45, h, -0.15, _lit(b.trim, front))
        scene.rect(b.x0, b.x1, h - 0.62, h - 0.45, 0, (30, 24, 24, 90))
        for level in range(1, b.storeys):
            scene.rect(b.x0, b.x1, 0.1 + level * b.floor, 0.35 + level * b.floor, -0.06, _lit(b.trim, front))
    elif b.material == "MCF":
        _joints(
            scene,
            origin,
            along,
            up,
            h / max(0.16, pitch),
            w / max(0.42, 2 * pitch),
            _lit(_mix(b.wall, b.trim, 0.55), front),
        )
        grey, posts = _lit(b.trim, front), max(2, round(w / 3.4))
        for level in range(b.storeys + 1):
            scene.rect(b.x0, b.x1, max(0, level * b.floor), 0.32 + level * b.floor, 0, grey)
        for k in range(posts + 1):
            x = b.x0 + k * (w - 0.35) / posts
            scene.rect(x, x + 0.35, 0, h, 0, grey)
    elif b.material == "MR":
        _joints(scene, origin, along, up, h / max(0.22, pitch), w / max(0.44, 2 * pitch), _lit(b.wall, front * 1.16))
        scene.rect(b.x0, b.x1, 0, 0.25, 0, _lit((150, 148, 144), front))
    elif b.material == "CR":
        for level in range(1, b.storeys + 1):
            scene.rect(b.x0, b.x1, level * b.floor, level * b.floor + 0.3, -0.05, _lit(b.trim, front))
            scene.rect(b.x0, b.x1, level * b.floor - 0.12, level * b.floor, 0, (24, 24, 28, 70))
    elif b.material == "W,UNK":
        _timber(scene, d, b, front, pitch)
    elif b.material == "COM1,2,IND":
        _strokes(scene, origin, along, up, int(w / max(0.5, 2 * pitch)), _lit(b.wall, front * 0.9))
        _sign(scene, d, b.x0 + 0.3, b.x1 - 0.3, b.floor * 0.74, b.floor * 0.74 + d(0.7, 1.0), b.trim, front)
        if b.storeys > 1 or d() < 0.4:
            x = b.x0 + w * d(0.05, 0.4)
            _sign(scene, d, x, x + w * 0.5, h - 1.1, h - 0.2, d.pick(CLADDING[2:]), front)
    elif b.material == "COM3":
        _curtain(scene, d, b, street)


def _patch(scene, d, x, y, w, h, colour):
    scene.poly(
        [
            (x + w * (0.5 + d(0.3, 0.5) * cos(a)), y + h * (0.5 + d(0.3, 0.5) * sin(a)), 0)
            for a in np.arange(0, 2 * pi, 0.8)
        ],
        colour,
    )


def _timber(scene, d, b, front, pitch):
    """Planks, and patches of other boards and corrugated sheet."""
    w, h, upright = b.x1 - b.x0, b.eaves, d() < 0.4
    lines = int((w if upright else h) / max(0.24, pitch))
    axes = ((w, 0, 0), (0, h, 0)) if upright else ((0, h, 0), (w, 0, 0))
    _strokes(scene, (b.x0, 0, 0), *axes, lines, _lit(b.wall, front * 0.72))
    for _ in range(int(d(1, 5))):
        x, y, pw, ph = b.x0 + d(0, 0.7) * w, d(0, 0.6) * h, d(0.15, 0.3) * w, d(0.25, 0.4) * h
        colour = _lit(_tint(d, d.pick(SHEET + WOOD)), front)
        scene.rect(x, x + pw, y, y + ph, 0, colour)
        _strokes(scene, (x, y, 0), (pw, 0, 0), (0, ph, 0), int(pw / max(0.2, pitch)), _lit(colour, 0.8))


def _sign(scene, d, x0, x1, y0, y1, colour, front):
    """A sign board with marks that pass for letters."""
    scene.rect(x0, x1, y0, y1, -0.2, _lit(colour, front))
    x, ink = x0 + 0.3, (250, 248, 240) if sum(colour) < 420 else (40, 40, 60)
    while x < x1 - 0.6:
        w = d(0.15, 0.4)
        if d() < 0.85:
            scene.rect(
                x, x + w, y0 + 0.25 * (y1 - y0), y0 + (0.6 + 0.15 * (d() < 0.3)) * (y1 - y0), -0.2, _lit(ink, front)
            )
        x += w + 0.1


def _curtain(scene, d, b, street):
    """Glass panes in a metal grid, each reflecting its own piece of sky."""
    w, h, bright = b.x1 - b.x0, b.eaves, 0.5 * street.sun + 0.25
    panes = max(4, round(w / 2.2))
    for level in range(b.storeys):
        y = 0.25 + level * b.floor
        for k in range(panes):
            share = d(0, 0.35) + 0.4 * bright * level / b.storeys
            x = b.x0 + k * w / panes
            scene.rect(x, x + w / panes, y, y + b.floor, 0, _lit(_mix(b.wall, street.horizon, share), street.front))
        scene.rect(b.x0, b.x1, y + b.floor * 0.8, y + b.floor, 0, _lit(_mix(b.wall, (30, 40, 50), 0.35), street.front))
    _strokes(scene, (b.x0, 0, 0), (w, 0, 0), (0, h, 0), panes, _lit(b.trim, street.front))
    _strokes(scene, (b.x0, 0.25, 0), (0, h - 0.25, 0), (w, 0, 0), b.storeys, _lit(b.trim, street.front))
    scene.rect(b.x0, b.x1, 0, min(b.floor, h), 0, _lit(_mix(b.wall, (24, 28, 34), 0.6), street.front))
    _strokes(scene, (b.x0, 0, 0), (w, 0, 0), (0, b.floor, 0), panes, _lit((210, 212, 212), street.front))


def _sides_and_roof(scene, b: _Building, street, d):
    """Everything of a building behind its façade: flank walls and the roof's planes."""
    x0, x1, h, r, z = b.x0, b.x1, b.eaves, b.rise, b.depth
    drop = {"back": -r, "lean": 2 * r}.get(b.roof, 0.0)
    flank = b.wall if b.material in ("MR", "W,UNK", "COM3") else _mix(b.wall, (190, 184, 176), 0.5)
    for side, x in ((-1, x0), (1, x1)):
        light = street.front * (1.05 if side * street.sun_side > 0 else 0.72 - 0.14 * street.sun)
        lift = r if b.roof == "side" and side > 0 else 0.0
        top = (
            [(x, h + lift, 0), (x, h + lift + drop, z)]
            if b.roof != "ridge"
            else [(x, h, 0), (x, h + r, z / 2), (x, h, z)]
        )
        if b.roof == "flat":
            top = [(x, h + r, 0), (x, h + r, z)]
        scene.poly([(x, 0, 0), *top, (x, 0, z)], _lit(flank, light))
    tiles, o = _lit(b.tiles, street.front * (0.92 + 0.2 * street.sun)), 0.45
    dark = _lit(b.tiles, street.front * 0.7)
    if b.roof == "gable":
        middle = (x0 + x1) / 2
        for x, light in ((x0 - o, tiles), (x1 + o, dark)):
            scene.poly([(x, h - o * 0.5, -o), (middle, h + r, -o), (middle, h + r, z), (x, h - o * 0.5, z)], light)
        scene.poly([(x0, h, 0), (x1, h, 0), (middle, h + r, 0)], _lit(b.wall, street.front))
        for a, x in ((x0 - o, middle), (middle, x1 + o)):
            left, right = (h - o * 0.5, h + r) if a < middle else (h + r, h - o * 0.5)
            scene.poly(
                [(a, left - 0.12, -o), (x, right - 0.12, -o), (x, right + 0.16, -o), (a, left + 0.16, -o)], tiles
            )
        scene.blob(middle, h + r * 0.4, 0, 0.3, _lit((60, 60, 66), street.front))
    elif b.roof in ("ridge", "hip", "lean"):
        inset, back, top = (
            (min(0.4 * (x1 - x0), 3.5) if b.roof == "hip" else 0),
            (z if b.roof == "lean" else z / 2),
            r * (1 + (b.roof == "lean")),
        )
        eave, ridge = h - 0.1, h + top
        slope = [(x0 - o, eave, -o), (x1 + o, eave, -o), (x1 + o - inset, ridge, back), (x0 - o + inset, ridge, back)]
        if inset:
            for a, s in ((x0 - o, 1), (x1 + o, -1)):
                scene.poly([(a, eave, -o), (a, eave, z + o), (a + s * inset, ridge, back)], dark)
        if b.roof == "lean":
            scene.rect(x0, x1, h, ridge + 0.7, z, _lit(b.wall, street.front * 0.9))
        scene.poly(slope, tiles)
        if not inset:
            _strokes(
                scene, slope[0], (x1 - x0 + 2 * o, 0, 0), np.subtract(slope[3], slope[0]), int((x1 - x0) / 0.5), dark
            )
        scene.rect(x0 - o, x1 + o, eave - 0.14, eave + 0.06, -o, _lit(b.tiles, 0.62))
        scene.rect(x0, x1, eave - 0.7, eave - 0.1, -0.01, (20, 20, 30, int(40 + 60 * street.sun)))


def _top(scene, d, b: _Building, street):
    """The façade's upper edge: parapet, flashing, or a slanting wall."""
    x0, x1, h, r, front = b.x0, b.x1, b.eaves, b.rise, street.front
    if b.roof == "flat":
        scene.rect(x0, x1, h, h + r, 0, _lit(b.wall if b.material != "COM3" else b.trim, front * 0.98))
        scene.rect(
            x0 - 0.12, x1 + 0.12, h + r - 0.05, h + r + 0.14, -0.12, _lit(_mix(b.trim, (140, 140, 140), 0.3), front)
        )
    elif b.roof == "side":
        scene.poly([(x0, h, 0), (x1, h, 0), (x1, h + r, 0)], _lit(b.wall, front))
        scene.poly(
            [
                (x0 - 0.3, h - 0.05, -0.3),
                (x1 + 0.3, h + r, -0.3),
                (x1 + 0.3, h + r + 0.2, -0.3),
                (x0 - 0.3, h + 0.15, -0.3),
            ],
            _lit(b.tiles, front),
        )
    elif b.roof == "back":
        scene.rect(x0 - 0.1, x1 + 0.1, h - 0.04, h + 0.12, -0.14, _lit(b.tiles, front * 0.9))


def _tank(scene, d, b, street):
    """Things on a flat roof."""
    x = b.x0 + (b.x1 - b.x0) * d(0.15, 0.7)
    w, h = d(1.2, 3.0), d(1.0, 2.4)
    scene.rect(
        x, x + w, b.eaves, b.eaves + b.rise + h, 3, _lit(_mix(b.wall, (150, 150, 150), 0.5), street.front * 0.85)
    )
    scene.line([(x + w + 1, b.eaves, 2), (x + w + 1, b.eaves + b.rise + d(1.5, 3), 2)], (70, 70, 74), 0.06)


def _put(scene, values: _Dice, b: _Building, street, ppm: float):
    """Draw one building whole; its dice start at its key, so that equal specifications look equal."""
    d = values.fork(b.key)
    if b.roof == "flat" and d() < 0.5:
        _tank(scene, d, b, street)
    _sides_and_roof(scene, b, street, d)
    _wall(scene, d, b, street, 2.4 / ppm)
    if b.material != "COM3":
        _openings(scene, d, b, street, ppm > 7)
    _top(scene, d, b, street)


def _leaves(scene, d, x, y, z, rx, ry, colour, count=46, street=None):
    """A crown: dark blobs first, lighter ones towards the sun."""
    lean = street.sun_side * 0.25
    for k in range(count):
        t, a, s = k / count, d(0, 2 * pi), d() ** 0.6
        light = 0.5 + 0.62 * t + d(-0.08, 0.08)
        px, py = x + rx * (s * cos(a) * (1 - 0.3 * t) + lean * t), y + ry * (s * sin(a) * (1 - 0.3 * t) + 0.3 * t)
        scene.blob(
            px, py, z, min(rx, ry) * (0.42 - 0.3 * t) * d(0.7, 1.2), _lit(colour, light * street.front), d(0.7, 1.0)
        )


def _tree(scene, d, x, z, height, street):
    trunk = _lit((92, 74, 60), street.front)
    scene.poly([(x - 0.16, 0, z), (x + 0.16, 0, z), (x + 0.09, height * 0.6, z), (x - 0.09, height * 0.6, z)], trunk)
    if street.bare:
        for _ in range(14):
            y, a, reach = height * d(0.3, 0.6), d(0.5, pi - 0.5), height * d(0.2, 0.45)
            bend = (x + 0.5 * reach * cos(a) + d(-0.2, 0.2), y + 0.5 * reach * sin(a), z)
            scene.line([(x, y, z), bend, (x + reach * cos(a), y + reach * sin(a) + 0.3, z)], trunk, 0.05)
    else:
        _leaves(
            scene, d, x, height * 0.7, z, height * d(0.22, 0.34), height * 0.3, _tint(d, street.leaves), street=street
        )


def _car(scene, d, x, z, street):
    c, f = d.pick(CARS), street.front
    body, glass = _lit(c, f), _lit(_mix((40, 46, 54), street.sky, 0.25), f)
    tall = d.pick([1.0, 1.0, 1.2])
    scene.poly([(x - 0.2, 0.02, z), (x + 4.5, 0.02, z), (x + 4.4, 0.2, z), (x - 0.1, 0.2, z)], (20, 20, 24, 120))
    outline = [
        (0, 0.3),
        (0.05, 0.75),
        (0.8, 0.88),
        (1.35, 1.4 * tall),
        (3.0, 1.42 * tall),
        (3.7, 0.92),
        (4.25, 0.8),
        (4.3, 0.3),
    ]
    scene.poly([(x + a, b, z) for a, b in outline], body)
    for pane in (
        [(1.0, 0.9), (1.42, 1.3), (2.1, 1.32), (2.1, 0.9)],
        [(2.2, 0.9), (2.2, 1.32), (2.95, 1.32), (3.5, 0.9)],
    ):
        scene.poly([(x + a, 0.9 + (b - 0.9) * tall, z) for a, b in pane], glass)
    for wheel in (0.9, 3.4):
        scene.blob(x + wheel, 0.33, z, 0.34, (30, 30, 32))
        scene.blob(x + wheel, 0.33, z, 0.17, _lit((150, 150, 152), f))


def _fence(scene, d, x0, x1, z, street, kind):
    f = street.front
    if kind == "wall":
        scene.rect(x0, x1, 0, 1.5, z, _lit(_tint(d, d.pick(street.plaster)), f * 0.95))
        scene.rect(x0, x1, 1.45, 1.6, z, _lit((190, 186, 180), f))
    elif kind == "hedge":
        for x in np.arange(x0, x1, 0.8).tolist():
            _leaves(scene, d, x, 0.6, z, 0.8, 0.7, street.leaves, 9, street)
    else:
        scene.rect(x0, x1, 0, 0.4, z, _lit((176, 170, 162), f))
        _strokes(
            scene,
            (x0, 0.3, z),
            (x1 - x0, 0, 0),
            (0, 1.4, 0),
            int((x1 - x0) / 0.28),
            d.pick([(40, 42, 44), (90, 60, 48), (70, 90, 84)]),
        )
        scene.line([(x0, 1.6, z), (x1, 1.6, z)], (44, 46, 48), 0.06)


def _row(d: _Dice, main: _Building, position: str, street: _Street) -> tuple[list[_Building], float]:
    """The buildings to both sides, nearest first on each, and the setback from the pavement."""
    reach = 26 + 1.2 * main.eaves

    def stranger(x, side):
        width = d(7, 12)
        storeys = max(1, street.storeys + d.pick([-1, 0, 0, 0, 1]))
        looks = (d.pick(["", "", "MUR", "MCF", "CR", "W,UNK", "COM1,2,IND"]), d.pick(["FLT", "PIT_GAB", "PIT_MON"]))
        return _building(d, x if side > 0 else x - width, width, storeys, *looks, street)

    twin_side, gap = (
        (1 if d() < 0.5 else -1),
        {"DET_SP": d(2.5, 5), "DET_MP": d(4, 9), "SDET": d(2.2, 4)}.get(position, 0.0),
    )
    repaint = (
        [replace(main, wall=_tint(d, d.pick(street.plaster))) for _ in range(2)]
        if main.material == "" and d() < 0.6
        else [main]
    )
    row, w = [], main.x1 - main.x0
    for side in (-1, 1):
        edge, k = (main.x1 if side > 0 else main.x0), 0
        while abs(edge) < reach and k < 5:
            k += 1
            if position == "ADJ_TR" or (position == "SDET" and side == twin_side and k == 1):
                base, start = d.pick(repaint), edge if side > 0 else edge - w
                new = replace(
                    base, x0=start, x1=start + w, mirror=main.mirror ^ (position == "SDET" or k % 2 == 1), key=main.key
                )
            else:
                new = stranger(
                    edge + side * gap if position != "SDET" or side != twin_side or k > 2 else edge + side * gap, side
                )
            row.append(new)
            edge = new.x1 if side > 0 else new.x0
    return row, {"DET_SP": d(3, 5), "DET_MP": d(3, 6), "SDET": d(2.5, 4.5)}.get(position, 0.0)


def _view(d, main, hidden, side, setback, pixels):
    """Camera and frame. Where a cue is hidden by cropping, the frame ends before it; returns which cues still need cover."""
    tall, wide = main.eaves + main.rise, main.x1 - main.x0
    distance = max(setback + 10, d(1.15, 1.7) * max(tall, 0.9 * wide))
    x = (main.x0 + main.x1) / 2 + wide * d(-0.75, 0.75)
    yaw = np.arctan2((main.x0 + main.x1) / 2 - x, distance) * d(-0.2, 1.2)
    camera = _Camera(x, 2.3 + 0.03 * distance, distance, yaw, d(-0.03, 0.05), d(-0.02, 0.02))
    corners = [(a, b, 0) for a in (main.x0, main.x1) for b in (0, main.eaves, tall)]
    uv, _ = camera.plane(corners)
    u0, u1, v0, v1 = uv[:, 0].min(), uv[:, 0].max(), uv[:, 1].min(), uv[:, 1].max()
    low_eaves = min(uv[1, 1], uv[4, 1])
    fill_w, fill_h, lift, drift = d(0.5, 0.7), d(0.66, 0.84), d(0.3, 0.7), d(-0.5, 0.5)
    size = max((u1 - u0) / fill_w, (v1 - v0) / fill_h)
    bottom = v0 - min(lift * (size - (v1 - v0)), (0.08 + 0.25 * lift) * size)
    coin, share, cover = d(), d(0.3, 0.65), {t: True for t in hidden if hidden[t]}
    if hidden["roof_shape"] and coin < 0.6:
        size = max((u1 - u0) / fill_w, (low_eaves - v0) * 1.06)
        bottom, cover["roof_shape"] = low_eaves - 0.03 * size - size, False
    elif hidden["height"] and coin < 0.5:
        size = max((u1 - u0) / fill_w, (1 - share) * (v1 - v0) * 1.25)
        bottom, cover["height"] = v0 + share * (v1 - v0), False
    elif hidden["block_position"] and coin < 0.6 and u1 - u0 > 0.95 * (v1 - v0):
        size, cover["block_position"] = (u1 - u0) * d(0.8, 0.97), False
        bottom = v0 - 0.5 * max(0.1 * size, size - (v1 - v0))
        drift = 0
    left = (u0 + u1) / 2 - size / 2 + drift * max(0, size - (u1 - u0)) * 0.4
    camera.frame(left, bottom + size, size, pixels)
    return camera, cover, share, pixels / size / distance


@lru_cache(maxsize=1)
def _grain() -> Image.Image:
    """Sensor noise with a slow unevenness of light, made once; pictures take crops of it."""
    rng = np.random.default_rng(20230901)
    slow = Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).resize((640, 640), Image.Resampling.BICUBIC)
    noise = 128 + rng.normal(0, 5.0, (640, 640, 3)) + (np.asarray(slow, dtype=float)[..., None] - 128) * 0.05
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _clouds() -> Image.Image:
    """Opacity of a cloudy sky, made once."""
    rng, total = np.random.default_rng(9), np.zeros((512, 1024))
    for cells, weight in ((5, 1.0), (11, 0.6), (25, 0.35), (60, 0.18)):
        tile = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += weight * np.asarray(tile.resize((1024, 512), Image.Resampling.BICUBIC))
    fade = np.linspace(1, 0, 512)[:, None] ** 0.5  # clouds thin out towards the horizon
    return Image.fromarray(((total - 1.05) * 320 * fade).clip(0, 200).astype(np.uint8))


def _sky(d, image, street, horizon):
    """Sky down to row `horizon` of the canvas, road colour below."""
    pixels, draw, down = image.width, ImageDraw.Draw(image), max(40, min(horizon, image.width))
    for k in range(40):
        box = (0, k * down // 40, pixels, (k + 1) * down // 40)
        draw.rectangle(box, fill=_mix(street.sky, street.horizon, min(1, k / 34)))
    if street.sun > 0.1:
        x = int(d(0, 1024 - 600))
        mask = _clouds().crop((x, 0, x + 600, 512)).resize((pixels, down), Image.Resampling.NEAREST)
        image.paste((250, 248, 244), (0, 0), mask)


def _around(scene, d, main, setback, distance, street, cover):
    """Ground, hills and greenery behind; called before the buildings."""
    f, far = street.front, 400
    if street.hills:
        ridge = [
            (x, street.hills * (0.5 + 0.3 * sin(x * 0.021 + street.hills) + d(0, 0.35)) + 4, 300)
            for x in range(-420, 421, 40)
        ]
        scene.poly([(-420, 0, 300), *ridge, (420, 0, 300)], _mix(street.horizon, (108, 118, 136), 0.5))
    for x in np.arange(-60, 60, 7).tolist():
        if d() < 0.6:
            h = d(3, 8)
            scene.rect(x, x + d(6, 10), 0, h, 40, _mix(_lit(d.pick(street.plaster), f * 0.8), street.horizon, 0.45))
        else:
            scene.blob(x, 3, 38, d(2.5, 5), _mix(_lit(street.leaves, f), street.horizon, 0.3))
    lawn = _lit(_mix(street.leaves, (140, 132, 100), 0.4), f)
    scene.poly([(-far, 0, 60), (far, 0, 60), (far, 0, -setback), (-far, 0, -setback)], lawn)


def _street_floor(scene, d, setback, distance, street):
    f, z = street.front, -setback
    near, wide = -distance * 0.88, 160
    for end, colour in (
        (z - 2.6, street.ground),
        (z - 2.8, _lit(street.ground, 1.15)),
        (z - 10, street.road),
        (z - 10.2, street.ground),
        (z - 15, street.leaves),
        (near, street.road),
    ):
        end = max(end, near)
        scene.poly([(-wide, 0, z), (wide, 0, z), (wide, 0, end), (-wide, 0, end)], _lit(colour, f))
        z = end


def draw(height, mat_llrs, roof_shape, block_position, rng_seed, size=300, ambiguity=0.3, street_seed=0) -> bytes:
    """One photograph as JPEG bytes.

    The four labels are classes of :data:`mtclim.SANTIAGO` (SBST follows from height and material and is no argument).
    `rng_seed` (an int or a sequence of ints) draws everything of this picture; `street_seed` what a street shares;
    `size` is the side in pixels, 64 to 300; `ambiguity` in [0, 1] the probability of hiding a task's cues (see the
    module's text). Equal arguments give equal bytes on equal versions of numpy and Pillow. Raises ValueError for an
    unknown class, size or ambiguity.
    """
    if height not in STOREYS or not 32 <= size <= 1024 or not 0 <= ambiguity <= 1:
        raise ValueError(
            f"draw: found height={height!r}, size={size}, ambiguity={ambiguity}; expected one of {list(STOREYS)}, 32..1024, 0..1"
        )
    entropy = np.random.SeedSequence(rng_seed)
    d = _Dice(np.random.Generator(np.random.PCG64(entropy)).random(4096).tolist())
    street = _street(int(street_seed))
    hidden = {task: d() < ambiguity for task in ("height", "mat_llrs", "roof_shape", "block_position")}
    low, high = STOREYS[height]
    storeys = 3 if (mat_llrs, height) == ("MUR", "H3-4") else low + min(int((high - low + 1) * d() ** 1.3), high - low)
    position = "" if hidden["block_position"] else block_position
    width = {"DET_SP": d(8, 12), "DET_MP": d(14, 22), "SDET": d(6, 8), "ADJ_BD": d(7, 13), "ADJ_TR": d(5.5, 7.5)}.get(
        position, d(7, 15)
    )
    width *= 1 + 0.06 * max(0, storeys - 4)
    material, roof = "" if hidden["mat_llrs"] else mat_llrs, "" if hidden["roof_shape"] else roof_shape
    main = _building(
        d, -width / 2, width, storeys, material, roof, street, mirror=d() < 0.5,
        entrance="lobby" if position == "DET_MP" else "door",
        balconies=(material == "CR" and d() < 0.6) or (position == "DET_MP" and d() < 0.5),
    )  # fmt: skip
    row, setback = _row(d, main, position or d.pick(["DET_SP", "ADJ_BD"]), street)
    over = 4 if size < 100 else 3 if size < 160 else 2
    pixels = size * over
    camera, cover, share, ppm = _view(d, main, hidden, 0, setback, pixels)
    distance, scene = -camera.at[2], _Scene()
    _around(scene, d, main, setback, distance, street, cover)
    for b in sorted([main, *row], key=lambda b: -max(b.x0 - camera.at[0], camera.at[0] - b.x1)):
        _put(scene, d, b, street, ppm / over)
    _street_floor(scene, d, setback, distance, street)
    _foreground(scene, d, main, position, setback, distance, street, cover, share)
    image = Image.new("RGB", (pixels, pixels), _lit(street.road, street.front))
    _sky(d, image, street, int(camera.project([[0, 2, 4000]])[0][0, 1]))
    scene.render(image, camera, max(1, over // 2))
    return _develop(d, image.reduce(over), street)


def _foreground(scene, d, main, position, setback, distance, street, cover, share):
    """Fences, trees, poles, wires and cars between camera and façade, and the foliage that hides what is to be hidden."""
    if setback:
        kind = d.pick(["bars", "bars", "wall", "hedge"]) if d() < 0.7 else ""
        if kind:
            _fence(scene, d, main.x0 - 9, main.x1 + 9, -setback, street, kind)
        if d() < 0.5:
            _leaves(scene, d, d(main.x0, main.x1), 0.8, -setback * 0.6, d(0.7, 1.5), 0.8, street.leaves, 24, street)
    curb = -setback - 2.2
    for _ in range(int(d(0, 3))):
        if d() < street.trees:
            _tree(scene, d, d(main.x0 - 6, main.x1 + 6), curb, d(4, 8), street)
    if d() < street.wires:
        x = d(main.x0 - 5, main.x1 + 5)
        scene.poly(
            [(x - 0.13, 0, curb), (x + 0.13, 0, curb), (x + 0.08, 9, curb), (x - 0.08, 9, curb)],
            _lit((128, 120, 112), street.front),
        )
        scene.rect(x - 0.9, x + 0.9, 8.2, 8.35, curb, _lit((110, 100, 92), street.front))
        t = np.linspace(-1, 1, 17)[:, None]
        for k in range(int(d(2, 7))):
            y, sag = 8.4 - 0.45 * k, d(0.3, 1.0)
            for a in (-1, 1):
                scene.line(
                    np.hstack([x + a * 15 * (1 + t), y - sag * (1 - t**2), np.full_like(t, curb)]), (44, 44, 48), 0.03
                )
    for _ in range(int(d(0, 2.6))):
        if distance > setback + 7:
            _car(scene, d, d(main.x0 - 4, main.x1 - 1), -setback - 4.0, street)
    tall, wide = main.eaves + main.rise, main.x1 - main.x0
    green, z = _tint(d, street.leaves if not street.bare else (70, 98, 58)), -0.6
    if cover.get("height"):
        top, n = share * tall, max(4, round(wide / max(1.5, 0.35 * tall)) + 2)
        for k in range(n):
            x = main.x0 - 1 + (wide + 2) * (k + d(0.2, 0.8)) / n
            _leaves(scene, d, x, top * 0.5, z, 0.75 * wide / n + 0.5, top * d(0.5, 0.62), green, 50, street)
    if cover.get("roof_shape"):
        n = max(3, round(wide / 4))
        for k in range(n + 1):
            _leaves(
                scene,
                d,
                main.x0 + wide * k / n,
                main.eaves + 1.0 + 0.02 * tall,
                z,
                wide / n,
                1.6 + 0.03 * tall,
                green,
                44,
                street,
            )
    if cover.get("block_position"):
        for a, side in ((main.x0, -1), (main.x1, 1)):
            for k in range(3):
                reach = 0.22 * max(tall, wide)
                _leaves(
                    scene, d, a + side * reach * 0.85, tall * (0.2 + 0.42 * k), z, reach, tall * 0.34, green, 50, street
                )


def _develop(d, image, street) -> bytes:
    """Exposure, white balance, blur, noise and JPEG."""
    if d() < 0.3:
        image = image.filter(ImageFilter.BoxBlur(d(0.2, 0.8) * image.width / 300))
    gain, lift = d(0.88, 1.12), d(-6, 10)
    table = []
    for warm in (1 + 0.04 * street.warmth, 1.0, 1 - 0.05 * street.warmth):
        table += [max(0, min(255, int(v * gain * warm + lift))) for v in range(256)]
    x, y, side = int(d(0, 640 - image.width)), int(d(0, 640 - image.width)), image.width
    image = ImageChops.add(image.point(table), _grain().crop((x, y, x + side, y + side)), 1, -128)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(d(86, 93) if side < 128 else d(74, 92)))
    return out.getvalue()
