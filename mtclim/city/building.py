"""Buildings: the cues of material and roof shape, storey by storey, in metres."""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mtclim.city.scene import PALETTE, SHADE, Scene, Street, mix, tint

# Backward slopes are the most frequent monopitch roofs and the hardest to see.
ROOFS = {"": [""], "FLT": ["flat"], "PIT_GAB": ["gable", "ridge"], "PIT_MON": ["back", "back", "side"]}
RISE = {"": (0, 0), "flat": (0.3, 0.9), "gable": (1.6, 3.2), "ridge": (1.7, 2.8)}  # metres
RISE |= {"back": (0.9, 1.6), "side": (0.7, 1.4)}
OVERHANG = 0.45


@dataclass(frozen=True)
class Look:
    """How buildings of a material look; metres, and colours by their names in the palette."""

    walls: str
    trims: str  # of what frames them; "" for a light shade of the wall
    floor: tuple  # height of a storey, least and most
    bay: float  # from window to window
    across: float  # a window's share of the bay
    tall: float  # a window's share of the storey's height
    course: float = 0.0  # of the masonry whose joints show
    boards: float = 0.0  # width of boards or sheets
    band: tuple = ()  # lower and upper edge of a band at each storey
    posts: float = 0.0  # from post to post of a visible frame


LOOKS = {name: Look(**look) for name, look in json.loads((Path(__file__).with_name("looks.json")).read_text()).items()}


@dataclass(frozen=True)
class Building:
    """One building as it will be drawn; metres."""

    x0: float
    width: float
    storeys: int
    floor: float  # height of a storey
    eaves: float  # height of the wall below the roof
    look: str  # a key of LOOKS
    roof: str  # a kind of roof, or "" for a bare edge
    wall: tuple
    trim: tuple
    tiles: tuple
    rise: float
    depth: float
    key: int  # seeds its details: equal keys give equal details
    lobby: bool = False
    balconies: bool = False
    mirror: bool = False

    @property
    def x1(self) -> float:
        """Its right edge."""
        return self.x0 + self.width


def build(dice: Random, street: Street, x0, width, storeys, material="", roof_shape="", **more) -> Building:
    """A building with the cues of its labels; draws the same number of times from the dice whatever they are.

    Parameters
    ----------
    x0, width, storeys : Its left end and its width in metres, and how many storeys it has.
    material, roof_shape, **more : Classes of these tasks, "" for no cue of one, and fields of its own.
    """
    coin, roof = dice.random(), dice.choice(ROOFS[roof_shape])
    look = {"MUR": "adobe" if coin < 0.35 else "MUR", "MCF": "" if coin < 0.3 else "MCF"}.get(material, material)
    wall = tint(dice, dice.choice(PALETTE.get(LOOKS[look].walls, street.plaster)))
    trim = tint(dice, dice.choice(PALETTE.get(LOOKS[look].trims, [mix(wall, (248, 246, 240), 0.6)])), 6)
    floor = dice.uniform(*LOOKS[look].floor)
    rise = dice.uniform(*RISE[roof]) * (1 + 0.1 * min(storeys - 1, 6))
    tiles, depth, key = tint(dice, dice.choice(street.tiles)), dice.uniform(7, 12), dice.getrandbits(32)
    eaves = storeys * floor + 0.25
    return Building(x0, width, storeys, floor, eaves, look, roof, wall, trim, tiles, rise, depth, key, **more)


def paint(s: Scene, b: Building):
    """Draw one building whole, from its back to what stands before its wall."""
    dice = Random(b.key)
    if b.roof == "flat" and dice.random() < 0.5:  # a tank or lift house
        x, top = b.x0 + b.width * dice.uniform(0.15, 0.7), b.eaves + b.rise + dice.uniform(1.0, 2.2)
        s.rect(x, x + dice.uniform(1.2, 3.0), b.eaves, top, 3, mix(b.wall, (150, 150, 150), 0.5), 0.85)
    _flanks(s, b)
    _slopes(s, b)
    _wall(s, dice, b)
    _openings(s, dice, b)
    if b.lobby:  # the glazed entrance of a house of several parties, under its canopy
        middle = b.x0 + b.width / 2
        s.rect(middle - 1.7, middle + 1.7, 0, 2.7, -0.02, (70, 84, 92))
        s.strokes((middle - 1.7, 0, -0.03), (3.4, 0, 0), (0, 2.7, 0), 3, (220, 220, 216))
        s.rect(middle - 2.4, middle + 2.4, 2.8, 3.1, -1.6, b.trim)
    _edge(s, b)


def _flanks(s, b):
    """The walls at both sides, whose upper edge follows the roof."""
    colour = b.wall if b.look in ("MR", "W,UNK", "COM3") else mix(b.wall, (190, 184, 176), 0.5)
    for side, x in ((-1, b.x0), (1, b.x1)):
        front = b.eaves + b.rise * (b.roof == "flat" or (b.roof == "side" and side > 0))
        top = [(x, front, 0), (x, front - b.rise * (b.roof == "back"), b.depth)]
        if b.roof == "ridge":
            top = [(x, b.eaves, 0), (x, b.eaves + b.rise, b.depth / 2), (x, b.eaves, b.depth)]
        light = 1.05 if side == s.street.side else 0.72 - 0.14 * s.street.sun
        s.poly([(x, 0, 0), *top, (x, 0, b.depth)], colour, light)


def _slopes(s, b):
    """The slopes of a gabled roof: to both sides, with the gable's wall and verges, or from a ridge to the street."""
    left, middle, right = b.x0 - OVERHANG, (b.x0 + b.x1) / 2, b.x1 + OVERHANG
    low, top, bright = b.eaves - OVERHANG / 2, b.eaves + b.rise, 0.92 + 0.2 * s.street.sun
    if b.roof == "gable":
        for x, light in ((left, bright), (right, 0.7)):
            ends = [(x, low, -OVERHANG), (middle, top, -OVERHANG), (middle, top, b.depth), (x, low, b.depth)]
            s.poly(ends, b.tiles, light)
        s.poly([(b.x0, b.eaves), (b.x1, b.eaves), (middle, top)], b.wall, z=0)
        s.blob(middle, b.eaves + 0.4 * b.rise, 0, 0.3, (60, 60, 66))
        for x in (left, right):
            verge = [(x, low - 0.12), (middle, top - 0.12), (middle, top + 0.16), (x, low + 0.16)]
            s.poly(verge, b.tiles, bright, -OVERHANG)
    elif b.roof == "ridge":
        origin, along, up = (left, low, -OVERHANG), (right - left, 0, 0), (0, top - low, b.depth / 2 + OVERHANG)
        s.poly([origin, (right, *origin[1:]), (right, top, b.depth / 2), (left, top, b.depth / 2)], b.tiles, bright)
        s.strokes(origin, along, up, b.width / max(0.5, s.finest), b.tiles, 0.75)


def _edge(s, b):
    """The façade's upper edge: parapet, slanting wall, flashing, or eaves with their shadow."""
    x0, x1, h, top = b.x0, b.x1, b.eaves, b.eaves + b.rise
    if b.roof == "flat":
        s.rect(x0, x1, h, top, 0, b.trim if b.look == "COM3" else b.wall, 0.97)
        s.rect(x0 - 0.12, x1 + 0.12, top - 0.05, top + 0.14, -0.12, mix(b.trim, (140, 140, 140), 0.3))
    elif b.roof == "side":
        s.poly([(x0, h), (x1, h), (x1, top)], b.wall, z=0)
        s.poly([(x0 - 0.3, h - 0.05), (x1 + 0.3, top), (x1 + 0.3, top + 0.2), (x0 - 0.3, h + 0.15)], b.tiles, z=-0.3)
    elif b.roof == "back":
        s.rect(x0 - 0.1, x1 + 0.1, h - 0.04, h + 0.12, -0.14, b.tiles, 0.9)
    elif b.roof:
        s.rect(x0, x1, h - 0.75, h - 0.1, -0.01, (*SHADE, int(40 + 60 * s.street.sun)))
        if b.roof != "gable":
            s.rect(x0 - OVERHANG, x1 + OVERHANG, h - 0.24, h - 0.04, -OVERHANG, b.tiles, 0.62)


def _wall(s, dice, b):
    """The façade's surface: joints or boards, bands at the storeys above their shadow, posts, and what is worn."""
    look, x0, w, h = LOOKS[b.look], b.x0, b.width, b.eaves
    s.rect(x0, b.x1, 0, h, 0, b.wall)
    if look.course:
        s.joints(x0, w, h, look.course, mix(b.wall, b.trim, 0.4))
    if look.boards:
        along, up = ((w, 0, 0), (0, h, 0)) if b.key % 3 else ((0, h, 0), (w, 0, 0))
        s.strokes((x0, 0, 0), along, up, max(along) / max(look.boards, s.finest), b.wall, 0.78)
    for y in (level * b.floor for level in range(1, b.storeys + 1) if look.band):
        s.rect(x0, b.x1, y + look.band[0] - 0.12, y + look.band[0], 0, (*SHADE, 70))
        s.rect(x0, b.x1, y + look.band[0], min(y + look.band[1], h), -0.05, b.trim)
    posts = round(w / look.posts) if look.posts else 0
    for x in (x0 + k * (w - 0.35) / posts for k in range(posts + 1) if posts):
        s.rect(x, x + 0.35, 0, h, 0, b.trim)
    if b.look in ("MUR", "adobe", "W,UNK"):
        _wear(s, dice, b)
    s.rect(x0, b.x1, 0, 0.35, 0, (*SHADE, 50))


def _wear(s, dice, b):
    """Fallen plaster above a plinth and below a cornice, or patches of other boards and corrugated sheet."""
    for _ in range(dice.randint(1, 4)):
        x, y = b.x0 + dice.uniform(0, 0.7) * b.width, dice.uniform(0.05, 0.6) * b.eaves
        wide, high = dice.uniform(0.15, 0.3) * b.width, dice.uniform(0.25, 0.4) * b.eaves
        colour = dice.choice(PALETTE["sheet"] + PALETTE["wood"])
        if b.look == "W,UNK":
            s.rect(x, x + wide, y, y + high, 0, colour)
            s.strokes((x, y, 0), (wide, 0, 0), (0, high, 0), wide / max(0.2, s.finest), colour, 0.8)
        for k in range(0 if b.look == "W,UNK" else 4):
            s.blob(x + 0.3 * k, y + dice.uniform(-0.2, 0.2), 0, dice.uniform(0.1, 0.4), (160, 118, 88))
    if b.look != "W,UNK":
        s.rect(b.x0, b.x1, 0, dice.uniform(0.5, 1.1), 0, mix(b.wall, (90, 60, 50), 0.5))
        s.rect(b.x0, b.x1, b.eaves - 0.62, b.eaves - 0.45, 0, (*SHADE, 90))
        s.rect(b.x0, b.x1, b.eaves - 0.45, b.eaves, -0.15, b.trim)


def _openings(s, dice, b):
    """Storey by storey: windows or glass; shops or a door on the ground; balconies."""
    look = LOOKS[b.look]
    bays = max(2, round(b.width / look.bay))
    step, door, shaky = b.width / bays, dice.randrange(bays), 0.25 if b.look == "W,UNK" else 0.0
    half = step * (look.across + dice.uniform(-0.06, 0.06)) / 2
    for level, k in ((level, k) for level in range(b.storeys) for k in range(bays)):
        base, column = 0.25 + level * b.floor, bays - 1 - k if b.mirror else k
        x = b.x0 + (k + 0.5) * step + dice.uniform(-shaky, shaky)
        if b.look == "COM3":
            _glass(s, dice, b, x - step / 2, x + step / 2, level)
        elif level == 0 and b.look == "COM1,2,IND":
            _shop(s, dice, b, x - step / 2 + 0.2, x + step / 2 - 0.2, base + b.floor * 0.68)
        elif level == 0 and column == door and not b.lobby:
            _door(s, dice, b, x, base + (2.7 if b.look in ("MUR", "adobe") else 2.15))
        else:
            low = base + b.floor * (0.62 - look.tall / 2) - 0.1
            _window(s, dice, b, x - half, x + half, low, low + b.floor * look.tall)
        if b.balconies and level and column % 2 == door % 2:
            _balcony(s, b, x - step * 0.44, x + step * 0.44, base)


def _glass(s, dice, b, x0, x1, level):
    """A pane of a curtain wall that reflects its own piece of sky, between slab and slab; dark on the ground floor."""
    y, sky = 0.25 + level * b.floor, dice.uniform(0.1, 0.45) + 0.2 * s.street.sun * level / b.storeys
    glass = mix(b.wall, s.street.horizon, sky) if level else mix(b.wall, (24, 28, 34), 0.6)
    s.rect(x0, x1, y, y + b.floor, 0, glass)
    s.rect(x0, x1, y + b.floor * 0.8, y + b.floor, 0, mix(glass, (30, 40, 50), 0.35))
    s.line([(x0, y, 0), (x0, y + b.floor, 0), (x1, y + b.floor, 0)], b.trim)


def _door(s, dice, b, x, top):
    leaf = tint(dice, dice.choice(PALETTE["doors"]))
    s.rect(x - 0.62, x + 0.62, 0, top + 0.1, 0, b.trim)
    s.rect(x - 0.5, x + 0.5, 0, top, 0, leaf)
    s.rect(x - 0.5, x + 0.5, top - 0.25, top, 0, (*SHADE, 100))
    s.rect(x - 0.03, x + 0.03, 0, top, 0, leaf, 0.7)


def _window(s, dice, b, x0, x1, y0, y1):
    glass, curtain = mix((52, 60, 70), s.street.sky, dice.uniform(0.05, 0.4)), dice.random()
    frame, middle = b.trim if b.look in ("MUR", "adobe") else mix(b.trim, (250, 250, 250), 0.4), (x0 + x1) / 2
    if s.finest < 0.34:
        s.rect(x0 - 0.09, x1 + 0.09, y0 - 0.09, y1 + 0.09, 0, frame)
    s.rect(x0, x1, y0, y1, 0, glass)
    if curtain < 0.4:
        s.rect(x0, x0 + (x1 - x0) * (0.25 + 1.8 * curtain), y0, y1, 0, mix(glass, (232, 226, 210), 0.3 + curtain))
    s.rect(x0, x1, y1 - 0.16 * (y1 - y0), y1, 0, (*SHADE, 110))
    if s.finest < 0.34:
        s.rect(middle - 0.04, middle + 0.04, y0, y1, 0, frame)
        s.rect(x0 - 0.16, x1 + 0.16, y0 - 0.2, y0 - 0.08, -0.1, b.trim, 0.9)


def _shop(s, dice, b, x0, x1, top):
    """A glass front or a roller door, closed or half open, below a sign with marks that pass for letters."""
    low, colour = top * dice.choice([1.0, 0.65, 0.0, 0.0]), tint(dice, dice.choice(PALETTE["sheet"]))
    s.rect(x0, x1, 0, top, 0, mix((46, 52, 58), s.street.sky, dice.uniform(0, 0.25)))
    s.strokes((x0, 0, 0), (x1 - x0, 0, 0), (0, low, 0), 3, (196, 198, 198))
    s.rect(x0, x1, low, top, 0, colour)
    s.strokes((x0, low, 0), (0, top - low, 0), (x1 - x0, 0, 0), (top - low) / max(0.25, s.finest), colour, 0.78)
    high, ink = dice.uniform(0.7, 1.0), (250, 248, 240) if sum(b.trim) < 420 else (40, 40, 60)
    s.rect(x0 - 0.2, x1 + 0.2, top + 0.2, top + 0.2 + high, -0.2, b.trim)
    for x in (x0 + 0.2 + 0.4 * k for k in range(int((x1 - x0) / 0.4) - 1)):
        if dice.random() < 0.8:
            s.rect(x, x + dice.uniform(0.15, 0.32), top + 0.4, top + high - 0.05, -0.2, ink)


def _balcony(s, b, x0, x1, base):
    s.rect(x0, x1, base - 0.3, base + 0.05, 0, (*SHADE, 90))
    s.poly([(x0, base, 0), (x1, base, 0), (x1, base, -1), (x0, base, -1)], b.trim, 0.62)
    s.rect(x0, x1, base - 0.16, base + 0.06, -1, b.trim)
    s.strokes((x0, base, -1), (x1 - x0, 0, 0), (0, 0.95, 0), (x1 - x0) / max(0.3, s.finest), (70, 72, 76))
