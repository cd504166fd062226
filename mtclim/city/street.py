"""Photographs of façades, drawn from four labels and a seed.

Each label alone decides its own task's cues; how labels go together is left to :mod:`mtclim.city.joint`:

============== ================================================ ================================================
task           shown by                                         hidden (with probability ``ambiguity``) by
============== ================================================ ================================================
height         rows of openings between ground and eaves        cropped lower storeys, trees before them
mat_llrs       wall surface, openings, storey height, slabs     plain painted plaster and plain windows
roof_shape     the roof's slopes, parapet, flank wall's top     eaves above the frame, or behind crowns of trees
block_position neighbours, gaps, garden, entrance, width        crop or trees at both sides, a width of any class
============== ================================================ ================================================

The four coins are tossed independently, picture by picture. What is hidden is replaced by something drawn without
looking at the label (of a hidden height, the storeys still in view remain a lower bound), so that what a picture then
tells about a task comes through the other tasks. Some confusion stays at ``ambiguity`` 0, as in section 4.3 of the
paper: plastered confined masonry, monopitch roofs that fall away from the street, storey counts near a class limit.
"""

from dataclasses import replace
from math import atan2, pi, sin
from random import Random

import numpy as np
from PIL import ImageFilter

from mtclim.city.building import build, paint
from mtclim.city.scene import PALETTE, SHADE, Camera, Scene, Street, develop, mix, sky, tint
from mtclim.tasks import SANTIAGO

TASKS = ("height", "mat_llrs", "roof_shape", "block_position")  # SBST is a function of the first two
STOREYS = {"H1": (1, 1), "H2": (2, 2), "H3-4": (3, 4), "H5-7": (5, 7), "H8-12": (8, 12), "H13+": (13, 22)}
WIDTHS = {"DET_SP": (8, 12), "DET_MP": (14, 22), "SDET": (6, 8), "ADJ_BD": (7, 13), "ADJ_TR": (5.5, 7.5)}
GAPS = {"DET_SP": (2.5, 5), "DET_MP": (4, 9), "SDET": (2.2, 4)}  # metres to the neighbour; the others touch
STRANGERS = ["", "", "MUR", "MCF", "CR", "W,UNK", "COM1,2,IND"]  # looks of neighbours
OTHER = ("open ground", "hedge", "wall", "tree", "lorry", "blurred", "carriageway")  # views that show no façade


def draw(
    height, mat_llrs, roof_shape, block_position, rng_seed,
    size=300, ambiguity=0.3, street_seed=0, view=0, kind="facade",
) -> bytes:  # fmt: skip
    """One photograph as JPEG bytes; equal arguments give equal bytes with equal versions of numpy and Pillow.

    Parameters
    ----------
    height, mat_llrs, roof_shape, block_position : Classes of :data:`mtclim.tasks.SANTIAGO`; SBST follows from the first
        two and is no argument.
    rng_seed, street_seed : What draws everything of this picture, an int or several, and what it shares with its
        street.
    size, ambiguity : Side in pixels, 64 to 300; probability of hiding a task's cues, 0 to 1 (see the module's text).
    view, kind : Another view of the same building has other coins, another camera, other trees and cars; it shows a
        "facade", or one of ``OTHER`` instead.

    Raises
    ------
    ValueError
        For any other class, size, ambiguity or kind.
    """
    labels = dict(zip(TASKS, (height, mat_llrs, roof_shape, block_position), strict=True))
    classes = {task: SANTIAGO[task] for task in TASKS} | {"kind": ("facade", *OTHER)}
    for name, value in (labels | {"kind": kind}).items():
        if value not in classes[name]:
            raise ValueError(f"draw: found {name} {value!r}; expected one of {list(classes[name])}.")
    if not 64 <= size <= 300 or not 0 <= ambiguity <= 1:
        raise ValueError(f"draw: found size {size} and ambiguity {ambiguity}; expected 64 to 300 and 0 to 1.")
    entropy, street = np.atleast_1d(rng_seed).tolist(), Street(street_seed)
    building = Random(f"picture {entropy}")
    dice = Random(f"picture {entropy} view {view}") if view else building
    hidden = {task for task in TASKS if building.random() < ambiguity}
    if view:
        hidden = {task for task in TASKS if dice.random() < ambiguity}
    main, row, setback = _buildings(building, street, labels, hidden)
    enlarged = size * (4 if size < 100 else 3 if size < 160 else 2)  # drawn so large and averaged down
    camera, covered, share = _view(dice, main, hidden, setback, enlarged)
    s = Scene(street, size * camera.scale / camera.distance / enlarged)
    _background(s, dice, camera, setback)
    empty = kind in ("open ground", "hedge", "wall", "carriageway")
    for b in () if empty else sorted(row, key=lambda b: -max(b.x0 - camera.at[0], camera.at[0] - b.x1)):
        if min(camera.plane([(b.x0, 0, 0), (b.x1, 0, 0)])[1]) > 0.15 * camera.distance:
            paint(s, b)
    if street.sun > 0.5 and dice.random() < 0.5 and not empty:  # a shadow that something across the street casts
        x, y = (main.x0, main.x1)[street.side > 0], main.eaves * dice.uniform(0.3, 1.0)
        s.poly([(x, 0), (x, y), (x - street.side * main.width * dice.uniform(0.2, 0.8), 0)], (*SHADE, 60), z=0)
    _cover(s, dice, main, set() if empty else covered, share)
    _foreground(s, dice, camera, main, setback)
    if kind != "facade":
        _obstruct(s, dice, camera, kind)
    horizon = camera.project([(0, 2, 4000)])[0][0, 1]
    image = sky(dice, street, enlarged, int(horizon))
    s.render(image, camera, max(1, enlarged // size // 2))
    if kind == "blurred":
        image = image.filter(ImageFilter.BoxBlur(enlarged / 12))
    return develop(dice, image.reduce(enlarged // size), street)


def _obstruct(s, dice, camera, kind):
    """What stands before the camera in a view that is no façade."""
    z = -0.7 * camera.distance
    (left, right), top = camera.span(z), camera.at[1]
    wide, colour = right - left, tint(dice, dice.choice(PALETTE["cars" if kind == "lorry" else "plaster"]))
    if kind == "carriageway":
        _ground(s, camera, 60, -0.85 * camera.distance, s.street.road)
        for x in (left + k * wide / 4 for k in range(5)):
            s.poly([(x, 0, -2), (x + 0.1 * wide, 0, -2), (x + 0.1 * wide, 0, -1), (x, 0, -1)], (225, 225, 220))
    elif kind == "wall":
        s.rect(left, right, 0, top * dice.uniform(1.1, 1.4), z, colour)
        s.strokes((left, 0, z), (wide, 0, 0), (0, top, 0), wide / max(0.6, s.finest), colour, 0.9)
    elif kind in ("hedge", "tree"):
        rows = (0.3, 0.8) if kind == "hedge" else (0.3, 1.0, 1.8, 2.6)
        for x, y in ((left + (k + dice.random()) * wide / 6, y * top) for y in rows for k in range(6)):
            s.crown(dice, (x, y, z), (wide / 7, 0.5 * top), s.street.leaves, 70)
    elif kind == "lorry":
        x0, x1 = left + wide * dice.uniform(0.0, 0.2), right - wide * dice.uniform(0.0, 0.2)
        s.rect(x0, x1, 0.3 * top, top + 0.35 * wide, z, colour)
        s.strokes((x0, 0.3 * top, z), (x1 - x0, 0, 0), (0, 0.7 * top + 0.35 * wide, 0), 9, colour, 0.9)
        for x in (x0 + 0.2 * wide, x1 - 0.2 * wide):
            s.blob(x, 0.25 * top, z, 0.22 * top, (34, 34, 36))


def _buildings(dice, street, labels, hidden):
    """The building of these labels, the whole row that it stands in, and the depth of the garden before it."""
    seen = {task: "" if task in hidden else name for task, name in labels.items()}
    low, high = STOREYS[labels["height"]]
    if labels["mat_llrs"] == "MUR":
        high = min(high, 3)  # unreinforced masonry has at most three storeys
    storeys = low + int((high - low + 1) * dice.random() ** 1.3)
    instead = dice.choice(["", "DET_SP", "ADJ_BD"])
    position = seen["block_position"] or instead
    least, most = WIDTHS[position] if seen["block_position"] else (7, 15)
    width = dice.uniform(least, most) * (1 + 0.06 * max(0, storeys - 4))
    balconies = dice.random() < max(0.6 * (seen["mat_llrs"] == "CR"), 0.5 * (position == "DET_MP"))
    main = build(
        dice, street, -width / 2, width, storeys, seen["mat_llrs"], seen["roof_shape"],
        balconies=balconies, lobby=position == "DET_MP", mirror=dice.random() < 0.5,
    )  # fmt: skip
    return main, _row(dice, street, main, position), dice.uniform(2.5, 5.5) * (position in GAPS)


def _row(dice, street, main, position):
    """A building with its neighbours: equal units (terraces, the twin of a pair) or strangers, with gaps or without."""
    plastered = main.look == "" and dice.random() < 0.6
    units = [replace(main, wall=tint(dice, dice.choice(street.plaster))) if plastered else main for _ in range(2)]
    twin, gap, row = dice.choice([-1, 1]), dice.uniform(*GAPS.get(position, (0, 0))), [main]
    for side in (-1, 1):
        edge, alike = main.x1 if side > 0 else main.x0, position == "ADJ_TR" or (position == "SDET" and side == twin)
        end = edge + side * 1.2 * max(main.width, main.eaves + main.rise)  # beyond the picture
        while (end - edge) * side > 0:
            if alike:
                new = replace(dice.choice(units), mirror=not row[-1].mirror)
                alike = position == "ADJ_TR"
            else:
                edge, storeys = edge + side * gap, max(1, street.storeys + dice.choice([-1, 0, 0, 0, 1]))
                look, roof = dice.choice(STRANGERS), dice.choice(["FLT", "PIT_GAB", "PIT_MON"])
                new = build(dice, street, 0, dice.uniform(7, 12), storeys, look, roof)
            row.append(replace(new, x0=edge if side > 0 else edge - new.width))
            edge += side * new.width
    return row


def _view(dice, main, hidden, setback, pixels):
    """Camera and frame. A hidden cue is either cropped away here or returned among those to be covered."""
    tall, wide, middle = main.eaves + main.rise, main.width, main.x0 + main.width / 2
    distance = max(setback + 10, dice.uniform(1.15, 1.7) * max(tall, 0.9 * wide))
    aside = wide * dice.uniform(-0.75, 0.75)
    yaw = atan2(-aside, distance) * dice.uniform(-0.2, 1.2)
    pitch, roll = dice.uniform(-0.03, 0.05), dice.uniform(-0.02, 0.02)
    camera = Camera(middle + aside, 2.3 + 0.03 * distance, distance, yaw, pitch, roll)
    uv, _ = camera.plane([(a, b, 0) for a in (main.x0, main.x1) for b in (0, main.eaves, tall)])
    (u0, v0), (u1, v1), eaves = uv.min(0), uv.max(0), min(uv[1, 1], uv[4, 1])
    wide, tall = u1 - u0, v1 - v0  # on the image plane from here on
    across, up = wide / dice.uniform(0.5, 0.7), tall / dice.uniform(0.66, 0.84)
    lift, drift, coin, share = (dice.uniform(*ends) for ends in ((0.16, 0.26), (-0.2, 0.2), (0, 1), (0.3, 0.65)))
    close, cropped, size = dice.uniform(0.8, 0.97), "", max(across, up)
    bottom = v0 - min(lift * size, 0.7 * (size - tall))
    if "roof_shape" in hidden and across < 1.1 * up and coin < 0.75:
        size, cropped = max(across, 1.12 * (eaves - v0)), "roof_shape"
        bottom = eaves - 1.03 * size
    elif "height" in hidden and across < 1.1 * (1 - share) * up and coin < 0.6:
        size, bottom, cropped = max(across, 1.25 * (1 - share) * tall), v0 + share * tall, "height"
    elif "block_position" in hidden and wide > 0.95 * tall and coin < 0.6:
        size, drift, cropped = wide * close, 0, "block_position"
        bottom = v0 - 0.4 * max(0.1 * size, size - tall)
    left = (u0 + u1) / 2 - size / 2 + drift * max(0, size - wide)
    camera.frame(left, bottom, size, pixels)
    return camera, hidden - {cropped}, share


def _background(s, dice, camera, setback):
    """Hills, the next street's roofs and trees in the haze, and the ground from there to the pavement."""
    street = s.street
    if street.hills > 0:
        ups = [(x, street.hills * (0.5 + 0.3 * sin(0.021 * x + street.hills) + dice.uniform(0, 0.35)) + 4)
               for x in range(-420, 421, 40)]  # fmt: skip
        s.poly([(-420, 0), *ups, (420, 0)], mix(street.horizon, (108, 118, 136), 0.5), z=300)
    for x in range(-70, 70, 7):
        colour = mix(dice.choice([*street.plaster, street.leaves]), street.horizon, 0.5)
        s.rect(x, x + dice.uniform(4, 10), 0, dice.uniform(3, 8), 40, colour, 0.95)
        s.blob(x, 2, 38, dice.uniform(0, 4), mix(street.leaves, street.horizon, 0.3))
    _ground(s, camera, 60, -setback, mix(street.leaves, (140, 132, 100), 0.4))


def _ground(s, camera, far, near, colour, light=1.0):
    """A strip of ground along the street, as far as the camera sees it."""
    near = max(near, -0.85 * camera.distance)
    if near < far:
        (a, b), (c, d) = camera.span(far), camera.span(near)
        s.poly([(a, 0, far), (b, 0, far), (d, 0, near), (c, 0, near)], colour, light)


def _foreground(s, dice, camera, main, setback):
    """Pavement and road; fence and shrubs of a garden; street trees, a pole with wires, cars."""
    street, edge, curb = s.street, -setback, -setback - 2.2
    strips = [(2.6, street.ground, 1.0), (2.8, street.ground, 1.15), (10, street.road, 1.0)]
    strips += [(10.2, street.ground, 1.0), (15, street.leaves, 0.9), (1000, street.road, 1.0)]
    for end, colour, light in strips:
        _ground(s, camera, edge, -setback - end, colour, light)
        edge = -setback - end
    if setback and dice.random() < 0.7:
        _fence(s, dice, main.x0 - 9, main.x1 + 9, -setback)
    if setback and dice.random() < 0.5:
        x, reach = dice.uniform(main.x0, main.x1), dice.uniform(0.7, 1.5)
        s.crown(dice, (x, 0.8, -setback * 0.6), (reach, 0.8), street.leaves, 40)
    for _ in range(2):
        if dice.random() < street.trees:
            x, high = dice.uniform(main.x0 - 6, main.x1 + 6), dice.uniform(4, 8)
            low, reach = high * dice.uniform(0.3, 0.45), high * dice.uniform(0.22, 0.34)
            _tree(s, dice, (x, curb), (low, high), reach, tint(dice, street.leaves))
    if dice.random() < street.wires:
        _wires(s, dice, dice.uniform(main.x0 - 5, main.x1 + 5), curb)
    for _ in range(dice.choice([0, 0, 1, 1, 2])):
        x = dice.uniform(main.x0 - 4, main.x1 - 1)
        if camera.distance > setback + 7:
            _car(s, dice, x, -setback - 4.0)


def _fence(s, dice, x0, x1, z):
    kind, colour = dice.choice(["bars", "bars", "wall", "hedge"]), dice.choice(PALETTE["fences"])
    if kind == "wall":
        s.rect(x0, x1, 0, 1.5, z, tint(dice, dice.choice(s.street.plaster)), 0.95)
    elif kind == "bars":
        s.rect(x0, x1, 0, 0.4, z, (176, 170, 162))
        s.strokes((x0, 0.4, z), (x1 - x0, 0, 0), (0, 1.2, 0), (x1 - x0) / max(0.22, s.finest), colour)
        s.rect(x0, x1, 1.55, 1.65, z, colour)
    for x in np.arange(x0, x1, 1.3).tolist() if kind == "hedge" else ():
        s.crown(dice, (x, 0.6, z), (1.1, 0.7), s.street.leaves, 12)


def _tree(s, dice, place, heights, reach, colour, count=50):
    """A tree at (x, z) with its crown between two heights and so wide to both sides."""
    (x, z), (low, high) = place, heights
    w = 0.03 * high + 0.04
    trunk = [(x - w, 0), (x + w, 0), (x + 0.5 * w, high * 0.7), (x - 0.5 * w, high * 0.7)]
    s.poly(trunk, (92, 74, 60), z=z)
    s.crown(dice, (x, (low + high) / 2, z), (reach, (high - low) / 2), colour, count)


def _wires(s, dice, x, z):
    s.poly([(x - 0.13, 0), (x + 0.13, 0), (x + 0.08, 9), (x - 0.08, 9)], (128, 120, 112), z=z)
    s.rect(x - 0.9, x + 0.9, 8.2, 8.35, z, (110, 100, 92))
    for k in range(dice.randint(2, 6)):
        sag = dice.uniform(0.3, 1.0)
        wire = [(x + 2.5 * t, 8.4 - 0.45 * k - sag * abs(sin(t * pi / 12)), z) for t in range(-12, 13)]
        s.line(wire, (44, 44, 48))


def _car(s, dice, x, z):
    colour, tall = dice.choice(PALETTE["cars"]), dice.choice([1.0, 1.0, 1.2])
    body = [(0, 0.3), (0.05, 0.75), (0.8, 0.88), (1.35, 1.4), (3.0, 1.42), (3.7, 0.92), (4.25, 0.8), (4.3, 0.3)]
    windows = [(1.0, 0.9), (1.42, 1.3), (2.95, 1.32), (3.5, 0.9)]
    s.rect(x - 0.1, x + 4.4, 0.02, 0.2, z, (*SHADE, 120))
    for outline, fill in ((body, colour), (windows, (40, 46, 54))):
        s.poly([(x + a, b * tall) for a, b in outline], fill, z=z)
    for wheel in (0.9, 3.4):
        s.blob(x + wheel, 0.33, z, 0.36, (30, 30, 32))
        s.blob(x + wheel, 0.33, z, 0.18, (150, 150, 152))


def _cover(s, dice, main, covered, share):
    """Trees before what is to be hidden and wasn't cropped; ``share`` of a hidden height."""
    tall, x0, wide, z = main.eaves + main.rise, main.x0, main.width, -0.8
    green, top = tint(dice, s.street.leaves), share * tall
    trees = []  # x, lower and upper end of the crown, reach
    if "height" in covered:
        n = max(3, round(wide / max(1.5, 0.5 * tall)) + 1)
        places = [x0 - 1 + (wide + 2) * (k + dice.uniform(0.2, 0.8)) / n for k in range(n)]
        trees += [(x, 0.05 * top, top * dice.uniform(0.95, 1.1), 0.7 * wide / n + 0.6) for x in places]
    if "roof_shape" in covered:
        n, top = max(2, round(wide / 4.5)), main.eaves + 2.6 + 0.04 * tall
        trees += [(x0 + wide * k / n, main.eaves - 0.7, top, 0.75 * wide / n) for k in range(n + 1)]
    if "block_position" in covered:
        reach = 0.22 * max(tall, wide)
        places = [(x, low) for x in (x0 - 0.8 * reach, x0 + wide + 0.8 * reach) for low in (0.55 * tall, 0.0)]
        trees += [(x, low, low + 0.65 * tall, reach) for x, low in places]
    for x, low, high, reach in trees:
        _tree(s, dice, (x, z), (low, high), reach, green, 70)
