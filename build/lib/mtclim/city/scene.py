"""A scene in metres, drawn back to front and photographed; numpy, Pillow and the standard library only.

x runs along the street, y up and z away from the street; the façades stand at z = 0. Colours are 8-bit sRGB.
"""

import io
import json
from functools import cache
from itertools import chain
from math import cos, pi, sin
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHADE = (18, 22, 36)
PALETTE = json.loads(Path(__file__).with_name("palette.json").read_text())


def mix(a, b, share: float):
    """The colour at ``share`` of the way from a to b."""
    return int(a[0] + (b[0] - a[0]) * share), int(a[1] + (b[1] - a[1]) * share), int(a[2] + (b[2] - a[2]) * share)


def tint(dice: Random, colour, spread: float = 14):
    """A colour near another one: up to ``spread`` lighter or darker, and each channel a third of it by itself."""
    shift = dice.uniform(-spread, spread)
    return tuple(int(min(255, max(0, c + shift + dice.uniform(-spread / 3, spread / 3)))) for c in colour)


class Street:
    """What the façades on one side of a block share, whatever their labels: light, season, palette, furniture."""

    def __init__(self, seed: int):
        dice = Random(f"street {seed}")
        self.sun = dice.choice([0.0, 0.15, 0.7, 1.0, 1.0])  # 0 overcast .. 1 clear
        self.side = dice.choice([-1, 1])  # the sun stands to the left, or right
        self.light = dice.uniform(0.86, 1.04) if self.sun > 0.5 else dice.uniform(0.8, 0.92)
        self.warmth = dice.uniform(-1, 1)
        blue = mix((186, 192, 198), (104, 158, 214), self.sun)
        self.sky = tint(dice, blue if dice.random() < 0.88 else (214, 206, 196))
        self.horizon = mix(self.sky, (244, 238, 228), dice.uniform(0.5, 0.9))
        self.plaster = [dice.choice(PALETTE["plaster"]) for _ in range(4)]
        self.tiles = [dice.choice(PALETTE["tiles"]) for _ in range(2)]
        self.leaves = tint(dice, dice.choice(PALETTE["leaves"]))
        self.ground = tint(dice, dice.choice(PALETTE["paving"]))
        self.road = tint(dice, (98, 98, 100))
        self.hills = dice.uniform(-40, 60)  # their height in metres; none below 0
        self.storeys = dice.choice([1, 1, 2, 2, 3])
        self.trees, self.wires = dice.uniform(0.1, 0.7), dice.uniform(0.2, 0.9)  # how likely there are some


class Camera:
    """A pinhole at (x, y, -distance), turned by angles in radians; ``frame`` chooses what part of its view is shown."""

    def __init__(self, x, y, distance, yaw, pitch, roll):
        self.at, self.distance = np.array([x, y, -distance]), distance
        turn = np.array([[cos(yaw), 0, -sin(yaw)], [0, 1, 0], [sin(yaw), 0, cos(yaw)]])
        tilt = np.array([[1, 0, 0], [0, cos(pitch), -sin(pitch)], [0, sin(pitch), cos(pitch)]])
        level = np.array([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]])
        self.axes = level @ tilt @ turn  # rows: to the right, up, forward

    def plane(self, points):
        """(n, 3) metres to (n, 2) on the image plane, y up, and (n,) depth in metres, which is kept above zero."""
        seen = (np.asarray(points, dtype=float) - self.at) @ self.axes.T
        depth = np.maximum(seen[:, 2], 0.1 * self.distance)
        return seen[:, :2] / depth[:, None], depth

    def frame(self, left, bottom, side, pixels):
        """Show the square of the image plane with this lower left corner and side in so many pixels."""
        self.corner, self.side, self.scale = np.array([left, -bottom - side]), side, pixels / side

    def project(self, points):
        """(n, 3) metres to (n, 2) pixels, y down, and (n,) pixels per metre."""
        uv, depth = self.plane(points)
        return (uv * (1, -1) - self.corner) * self.scale, self.scale / depth

    def span(self, z):
        """The x just beyond the picture's left and right edges on the line at depth z."""
        edges = self.corner[0] + self.side * np.array([-0.25, 1.25])
        rays = np.stack([edges, np.zeros(2), np.ones(2)], axis=1) @ self.axes
        return (self.at[0] + (z - self.at[2]) * rays[:, 0] / np.maximum(rays[:, 2], 0.15)).tolist()


class Scene:
    """What is to be drawn, in metres; later items cover earlier ones.

    Colours (r, g, b) are opaque and lit by the street's light. A fourth number is opacity, for shadows and glass.
    """

    def __init__(self, street: Street, pixels_per_metre: float):
        self.street, self.points, self.items = street, [], []
        self.finest = 2.4 / pixels_per_metre  # the finest joint that shows, in metres

    def _add(self, kind, points, colour, light, size=0.0):
        if len(colour) == 3:
            light *= self.street.light
            colour = int(colour[0] * light), int(colour[1] * light), int(colour[2] * light)
        self.items.append((kind, len(points), colour, size))
        self.points += points

    def poly(self, points, colour, light=1.0, z=None):
        """A polygon of (x, y, z), or of (x, y) at one z."""
        self._add("poly", points if z is None else [(x, y, z) for x, y in points], colour, light)

    def rect(self, x0, x1, y0, y1, z, colour, light=1.0):
        """An upright rectangle that faces the street."""
        self._add("poly", [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour, light)

    def line(self, points, colour, light=1.0):
        """A thin polyline."""
        self._add("line", points, colour, light)

    def blob(self, x, y, z, radius, colour, light=1.0):
        """A round thing."""
        self._add("blob", [(x, y, z)], colour, light, radius)

    def strokes(self, origin, along, up, count, colour, light=1.0):
        """``count`` parallel lines across a parallelogram, as one polyline that turns round at the edges."""
        k = np.arange(2 * int(count) + 2)[:, None]
        points = origin + k // 2 / max(int(count), 1) * np.array(along) + (k + 1) // 2 % 2 * np.array(up)
        self.line(points.tolist(), colour, light)

    def joints(self, x0, width, height, course, colour, light=1.0):
        """Masonry joints on a wall: along each course, and up and down at each unit, every other course shifted."""
        course = max(course, self.finest)
        rows, units = max(1, int(height / course)), max(1, int(width / course / 2))
        for row in range(rows):
            y, top = row * height / rows, (row + 1) * height / rows
            at = [x0 + (unit + 0.5 * (row % 2)) * width / units for unit in range(units)]
            zigzag = [(x, level, 0) for x in at for level in (y, top, y)]
            self.line([(x0, y, 0), *zigzag, (x0 + width, y, 0)], colour, light)

    def crown(self, dice, centre, radii, colour, count=50):
        """Foliage of ``count`` blobs: large dark ones first, then small ones, lighter upwards and towards the sun."""
        (x, y, z), (rx, ry) = centre, radii
        for t in (k / count for k in range(count)):
            angle, reach = dice.uniform(0, 2 * pi), dice.random() ** 0.6
            across = reach * cos(angle) * (1 - 0.15 * t) + 0.18 * self.street.side * t
            up = reach * sin(angle) * (1 - 0.25 * t) + 0.22 * t
            light = 0.5 + 0.45 * t + 0.14 * up + dice.uniform(-0.1, 0.1)
            radius = min(rx, ry) * (0.42 * (1 - t) ** 1.5 + 0.12) * dice.uniform(0.7, 1.2)
            self.blob(x + rx * across, y + ry * up, z, radius, colour, light)

    def render(self, image: Image.Image, camera: Camera, thin: int):
        """Project all points at once and draw item after item on the sky; ``thin``: pixels of the thinnest line."""
        xy, scale = camera.project(np.fromiter(chain.from_iterable(self.points), float).reshape(-1, 3))
        flat, scale = xy.ravel().tolist(), scale.tolist()
        solid, glaze, start = ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA"), 0
        for kind, count, colour, size in self.items:
            xy, pixels = flat[2 * start : 2 * (start + count)], size * scale[start]
            start += count
            if kind == "line":
                solid.line(xy, colour, thin)
            elif kind == "blob":
                x, y = xy
                solid.ellipse((x - pixels, y - 0.85 * pixels, x + pixels, y + 0.85 * pixels), colour)
            else:
                (solid if len(colour) == 3 else glaze).polygon(xy, colour)


@cache
def _clouds() -> Image.Image:
    """Opacity of clouds, thinning out towards the horizon."""
    rng, total = np.random.default_rng(9), np.zeros((512, 1024))
    for cells in (5, 11, 25, 60):
        tile = Image.fromarray(rng.random((cells, cells), dtype=np.float32)).resize((1024, 512))
        total += np.asarray(tile) * cells**-0.6
    return Image.fromarray(((total - 0.4) * 800 * np.linspace(1, 0, 512)[:, None] ** 0.5).clip(0, 200).astype(np.uint8))


def sky(dice: Random, street: Street, pixels: int, horizon: int) -> Image.Image:
    """A square canvas of so many ``pixels``: the street's sky down to row ``horizon``, road colour below."""
    image = Image.new("RGB", (pixels, pixels), mix((0, 0, 0), street.road, street.light))
    draw, down = ImageDraw.Draw(image), min(max(40, horizon), pixels)
    for k in range(40):
        colour = mix(street.sky, street.horizon, min(1, k / 34))
        draw.rectangle((0, k * down // 40, pixels, (k + 1) * down // 40), colour)
    if street.sun > 0.1:
        x = dice.randrange(424)
        opacity = _clouds().crop((x, 0, x + 600, 512)).resize((pixels, down), Image.Resampling.NEAREST)
        image.paste(Image.new("RGB", opacity.size, (250, 248, 244)), (0, 0), opacity)
    return image


def develop(dice: Random, image: Image.Image, street: Street) -> bytes:
    """JPEG bytes of a picture after some blur, exposure, white balance and noise."""
    side, blur, gain, lift = image.width, dice.random(), dice.uniform(0.94, 1.18), dice.uniform(-12, 4)
    if blur < 0.3:
        image = image.filter(ImageFilter.BoxBlur(2.5 * blur * side / 300))
    tones = np.array([[1 + 0.04 * street.warmth], [1], [1 - 0.05 * street.warmth]])
    image = image.point((np.arange(256) * gain * tones + lift).clip(0, 255).astype(int).ravel().tolist())
    noise = np.random.default_rng(dice.getrandbits(32)).bytes(3 * side * side)
    image = Image.blend(image, Image.frombytes("RGB", image.size, noise), 0.06)
    out, quality = io.BytesIO(), dice.randint(86, 92) if side < 128 else dice.randint(74, 91)
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()
