"""The diagrams of the book, after the paper's Figs 1, 5 and 6, drawn as SVG: ``python book/diagrams.py``."""

from pathlib import Path

IMAGES = Path(__file__).with_name("images")
COLOURS = ("#4477aa", "#228833", "#b8860b", "#aa3377", "#cc6677")  # one a task; told apart by position as well
SIZES = (6, 7, 14, 3, 5)
INK, QUIET, PAPER = "#1f2933", "#62707f", "#ffffff"
TINTS = {"BL": "#eef3f9", "CLIM": "#eef6ee", "TLIM": "#fbf5e6", "FC": "#f7eef5"}


class Drawing:
    """SVG elements collected in order, on a white sheet so that it reads in light and dark themes alike."""

    def __init__(self, width: int, height: int, title: str):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'font-family="Helvetica, Arial, Liberation Sans, sans-serif" font-size="15" fill="{INK}">',
            f"<title>{title}</title>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            f'orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="{INK}"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" fill="{PAPER}"/>',
        ]

    def box(self, x, y, w, h, fill=PAPER, stroke=INK, radius=6, width=1.4):
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{radius}" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="{width}"/>'
        )

    def text(self, x, y, *lines, size=15, anchor="middle", fill=INK, weight="normal"):
        for i, line in enumerate(lines):
            self.parts.append(
                f'<text x="{x}" y="{y + i * size * 1.2:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}" '
                f'font-weight="{weight}">{line}</text>'
            )

    def line(self, *points, dashed=False, tip=True, width=1.6):
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="{width}" stroke-linejoin="round"'
            + (' stroke-dasharray="6 4"' if dashed else "")
            + (' marker-end="url(#tip)"' if tip else "")
            + "/>"
        )

    def node(self, x, y, sign, radius=13):
        self.parts.append(f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{PAPER}" stroke="{INK}" stroke-width="1.4"/>')
        self.text(x, y + 6, sign, size=17)

    def loss(self, x, y, number):
        self.parts.append(f'<circle cx="{x}" cy="{y}" r="17" fill="{INK}"/>')
        self.text(x, y + 5, sub("L", number), fill=PAPER)

    def strip(self, x, y, cell, height, gap=0.0):
        """Five distributions side by side, one colour a task; returns the right end."""
        for colour, size in zip(COLOURS, SIZES, strict=True):
            for _ in range(size):
                self.box(round(x, 2), y, cell, height, fill=colour, stroke=PAPER, radius=0, width=0.6)
                x += cell
            x += gap
        return x - gap

    def write(self, name):
        (IMAGES / name).write_text("\n".join([*self.parts, "</svg>", ""]), encoding="utf-8")


def sub(letter, index, roman=True):
    """A letter in italics with its index."""
    style = "normal" if roman else "italic"
    return (
        '<tspan font-style="italic" font-family="Georgia, Times, Liberation Serif, serif" '
        f'font-size="1.12em">{letter}</tspan>'
        f'<tspan dy="0.28em" font-size="0.72em" font-style="{style}">{index}</tspan><tspan dy="-0.2em">&#8203;</tspan>'
    )


def architecture():
    """Fig. 5: the four modules and what passes between them."""
    d = Drawing(1120, 570, "The label interdependency model: BL, CLIM, TLIM and FC")
    for name, (x, y, w, h) in {"BL": (15, 15, 330, 500), "CLIM": (370, 130, 415, 190), "TLIM": (370, 330, 415, 190),
                               "FC": (840, 15, 265, 505)}.items():  # fmt: skip
        d.box(x, y, w, h, fill=TINTS[name], stroke="none", radius=10)
        d.text(x + 14, y + 26, name, anchor="start", weight="bold", size=18)
    # BL
    d.box(35, 80, 82, 92, fill="#dfe7ee", radius=2)
    d.box(51, 104, 50, 68, fill="#c9b8a0", radius=0)
    for x in (57, 80):
        for y in (110, 131, 152):
            d.box(x, y, 14, 12, fill="#49627a", radius=0, width=0.8)
    d.text(76, 192, "image", size=14)
    d.parts.append(f'<path d="M142 72 L232 98 L232 154 L142 180 z" fill="{PAPER}" stroke="{INK}" stroke-width="1.4"/>')
    d.text(186, 122, "shared", "CNN", size=15)
    d.line((117, 126), (142, 126))
    d.line((232, 126), (278, 126))
    d.text(254, 114, "pool", size=13.5, fill=QUIET)
    d.box(278, 66, 20, 120, fill="#8da3b8")
    d.text(288, 54, sub("x", "BL"))
    d.text(318, 90, '<tspan font-style="italic">F</tspan>', size=14, fill=QUIET)
    d.line((288, 186), (288, 250))
    d.box(228, 250, 106, 48)
    d.text(281, 269, "softmax layer", "of each task", size=14)
    d.line((281, 298), (281, 340), (180, 340), (180, 362))
    d.strip(50, 364, 6.6, 26, gap=7)
    d.text(60, 352, sub("P", "BL"), anchor="start")
    for x, label in zip((70, 120, 196, 260, 293), ("height", "mat.", "SBST", "roof", "pos."), strict=True):
        d.text(x, 406, label, size=13, fill=QUIET)
    d.loss(45, 274, 1)
    d.line((228, 274), (62, 274), tip=False, width=1)
    d.text(145, 266, "supervised by", size=13.5, fill=QUIET)
    # to the two sequences
    d.line((309, 377), (357, 377), (357, 228), (388, 228))
    d.line((357, 377), (357, 430), (409, 430))
    # CLIM
    d.text(466, 180, "class by class:", "35 steps of 1 value", size=13, fill=QUIET)
    right = d.strip(392, 219, 4.2, 18)
    d.line((right + 3, 228), (562, 228))
    recurrent(d, 562, 190, 32)
    d.box(682, 186, 14, 72, fill="#7fae85")
    d.line((659, 228), (682, 228))
    d.text(689, 176, sub("x", "CLIM"))
    d.text(744, 178, "5 × 32", size=13.5, fill=QUIET)
    # TLIM
    d.text(512, 352, "task by task:", "5 steps of 14 values", size=13, fill=QUIET)
    for n, (colour, size) in enumerate(zip(COLOURS, SIZES, strict=True)):
        for k in range(14):
            d.box(
                412 + 16 * n,
                384 + 7 * k,
                15,
                7,
                fill=colour if k < size else "#e6e3da",
                stroke=PAPER,
                radius=0,
                width=0.6,
            )
    d.text(452, 500, "grey: zeros", size=13.5, fill=QUIET)
    d.line((495, 430), (562, 430))
    recurrent(d, 562, 392, 12)
    d.box(682, 394, 14, 60, fill="#cdb26a")
    d.line((659, 430), (682, 430))
    d.text(689, 384, sub("x", "TLIM"))
    d.text(744, 386, "5 × 12", size=13.5, fill=QUIET)
    for y, number, name in ((228, 2, "CLIM"), (430, 3, "TLIM")):
        d.line((696, y + 10), (712, y + 10))
        d.box(712, y - 8, 64, 36)
        d.text(744, y + 14, "softmax", size=14)
        d.line((744, y + 28), (744, y + 54))
        d.strip(690, y + 56, 2.4, 18, gap=1.5)
        d.text(682, y + 71, sub("P", name), anchor="end")
        d.loss(535, y + 65, number)
    # FC
    segments = [
        ("x", "BL", 60, 110, "#8da3b8"), ("x", "CLIM", 174, 52, "#7fae85"), ("P", "CLIM", 230, 32, PAPER),
        ("x", "TLIM", 272, 42, "#cdb26a"), ("P", "TLIM", 318, 32, PAPER), ("P", "BL", 356, 32, PAPER),
    ]  # fmt: skip
    for letter, index, y, h, fill in segments:
        d.box(862, y, 26, h, fill=fill)
        d.text(896, y + h / 2 + 5, sub(letter, index), anchor="start", size=14)
    d.text(896, 412, "one vector", "for all tasks", size=13, fill=QUIET)
    d.line((298, 100), (862, 100))
    d.line((696, 200), (862, 200))
    d.line((786 - 10, 293), (806, 293), (806, 246), (862, 246), dashed=True)
    d.line((696, 404), (814, 404), (814, 293), (862, 293))
    d.line((776, 495), (822, 495), (822, 334), (862, 334), dashed=True)
    d.line((180, 412), (180, 545), (830, 545), (830, 372), (862, 372), dashed=True)
    d.text(500, 561, "multitask stacking (dashed)", size=13, fill=QUIET)
    d.line((940, 60), (948, 60), (948, 388), (940, 388), tip=False)
    d.line((948, 224), (972, 224))
    d.box(972, 198, 112, 52)
    d.text(1028, 219, "softmax layer", "of each task", size=14)
    d.line((1028, 250), (1028, 318))
    d.strip(966, 322, 3.0, 24, gap=4)
    d.text(1028, 370, "final probabilities", size=14)
    d.text(1028, 392, sub("P", "FC"))
    d.loss(1028, 440, 4)
    d.write("architecture.svg")


def recurrent(d, x, y, units):
    """One RNN a task, drawn as a stack of cards."""
    for i in (2, 1, 0):
        d.box(x + 5 * i, y - 5 * i + 4, 88, 68)
    d.text(x + 44, y + 34, f"BiGRU {units}", f"GRU {units}", size=14)
    d.text(x + 44, y + 90, "one for each task", size=13.5, fill=QUIET)


def gru():
    """Fig. 6: the unit (reset gate after the recurrent product), and a task's stack of a bidirectional and a GRU."""
    d = Drawing(1120, 430, "The gated recurrent unit and the stacked bidirectional network")
    h, z = (lambda i: sub("h", i, roman=False)), (lambda i: sub("z", i, roman=False))
    d.text(20, 30, "a) gated recurrent unit", anchor="start", weight="bold", size=16)
    d.box(60, 60, 440, 330, fill="#f4f6f8", stroke=QUIET, radius=14)
    d.line((20, 110), (262, 110))
    d.line((288, 110), (402, 110))
    d.line((428, 110), (545, 110))
    d.text(34, 98, h("s−1"))
    d.text(526, 98, h("s"))
    d.node(275, 110, "×")
    d.node(415, 110, "+")
    d.box(258, 144, 34, 26)
    d.text(275, 162, "1 −", size=14)
    d.line((275, 144), (275, 123))
    d.line((275, 226), (275, 170))
    d.line((275, 197), (402, 197))
    d.node(415, 197, "×")
    d.line((415, 184), (415, 123))
    d.text(335, 189, sub("u", "s", roman=False))
    d.box(252, 226, 46, 34, fill="#dbe7f3")
    d.text(275, 248, "σ", size=18)
    d.line((275, 288), (275, 260))
    d.text(275, 304, f"{z('s')}, {h('s−1')}", size=14)
    d.box(108, 276, 46, 34, fill="#dbe7f3")
    d.text(131, 298, "σ", size=18)
    d.line((131, 346), (131, 310))
    d.text(131, 364, f"{z('s')}, {h('s−1')}", size=14)
    d.line((131, 276), (131, 240), (205, 240), (205, 327), (322, 327))
    d.text(168, 232, sub("r", "s", roman=False))
    d.node(335, 327, "×")
    d.box(290, 356, 90, 26)
    d.text(335, 374, f"{sub('U', 'h')} {h('s−1')} + {sub('c', 'h')}", size=13)
    d.line((335, 356), (335, 340))
    d.line((348, 327), (415, 327), (415, 294))
    d.box(388, 260, 54, 34, fill="#f5e3d0")
    d.text(415, 282, "tanh", size=15)
    d.line((415, 260), (415, 210))
    d.text(444, 240, sub("h̃", "s", roman=False))
    d.line((475, 352), (475, 277), (442, 277))
    d.text(468, 372, z("s"))
    # b) the stack
    d.text(590, 30, "b) the stack of one task", anchor="start", weight="bold", size=16)
    xs = (640, 740, 840, 1000)
    for i, x in enumerate(xs):
        index = ("1", "2", "3", "S")[i]
        d.text(x, 412, z(index))
        d.line((x, 394), (x, 362))
        d.box(x - 34, 326, 68, 34, fill="#dbe7f3")
        d.text(x, 348, "forward", size=13)
        d.box(x - 34, 254, 68, 34, fill="#e3efe1")
        d.text(x, 276, "backward", size=13)
        d.line((x - 44, 380), (x - 44, 271), (x - 34, 271), width=1.2)
        d.line((x, 380), (x - 44, 380), tip=False, width=1.2)
        d.node(x, 205, "⊕")
        d.line((x, 254), (x, 219))
        d.line((x + 34, 343), (x + 44, 343), (x + 44, 205), (x + 14, 205), width=1.2)
        d.box(x - 34, 120, 68, 40, fill="#f5e3d0")
        d.text(x, 145, "GRU", size=14)
        d.line((x, 191), (x, 160))
    for a, b in ((640, 740), (740, 840)):
        d.line((a + 34, 140), (b - 34, 140))
        d.line((a + 34, 334), (b - 34, 334))
        d.line((b - 34, 262), (a + 34, 262))
    for y, (a, b) in {140: (874, 966), 334: (874, 966), 262: (966, 874)}.items():
        d.line((a, y), (b, y), dashed=True)
    d.line((1000, 120), (1000, 78))
    d.text(1000, 66, h("S"))
    d.text(985, 66, "representation of the task:", anchor="end", size=14, fill=QUIET)
    d.write("gru.svg")


WALL, OPENING, ROOF, STREET = "#d9c9b0", "#49627a", "#8c4a3b", "#d5dae0"


def characteristics():
    """Fig. 1: what each of the five tasks asks of a building."""
    d = Drawing(1120, 660, "What the five tasks ask of a building")
    panels = {
        "Height: count the storeys": (20, 20, 340, 300),
        "Structural material: what carries": (380, 20, 360, 300),
        "Structural type (SBST)": (760, 20, 340, 300),
        "Roof shape": (20, 340, 500, 300),
        "Block position, seen from above": (540, 340, 560, 300),
    }
    for (name, (x, y, w, h)), tint in zip(panels.items(), [*TINTS.values(), "#f2f4f6"], strict=True):
        d.box(x, y, w, h, fill=tint, stroke="none", radius=10)
        d.text(x + 16, y + 28, name, anchor="start", weight="bold", size=17)
    _storeys(d, 50, 290)
    _walls(d, 400, 70)
    _types(d, 780, 80)
    _roofs(d, 40, 590)
    _positions(d, 556, 400)
    d.write("characteristics.svg")


def house(d, x, ground, storeys, width=84, storey=30):
    """A front with a row of windows for each storey; returns the height of its eaves."""
    top = ground - storeys * storey
    d.box(x, top, width, storeys * storey, fill=WALL, radius=0)
    for row in range(storeys):
        for k in range(3):
            d.box(x + 10 + k * (width - 16) / 3, top + 8 + row * storey, 14, 15, fill=OPENING, radius=0, width=0.8)
    return top


def _storeys(d, x, ground):
    for k, (storeys, name) in enumerate(((1, "H1"), (3, "H3-4"), (6, "H5-7"))):
        left = x + 98 * k
        top = house(d, left, ground - 22, storeys)
        for row in range(storeys):
            d.text(left - 8, top + 20 + 30 * row, str(storeys - row), size=14, fill=QUIET)
        d.text(left + 42, ground + 2, name, size=15)
    d.line((x - 18, ground - 22), (x + 296, ground - 22), tip=False)


def _walls(d, x, y):
    for k, (name, what) in enumerate((("MUR", "bricks alone"), ("MCF", "bricks in a frame"), ("MR", "bricks and steel"),
                                      ("CR", "concrete"))):  # fmt: skip
        left, top = x + 166 * (k % 2), y + 122 * (k // 2)
        d.box(left, top, 140, 74, fill=WALL if name != "CR" else "#c3c9cf", radius=0)
        for row in range(5 if name != "CR" else 0):
            d.line((left, top + 15 * row), (left + 140, top + 15 * row), tip=False, width=0.8)
            for column in range(7):
                at = left + 20 * column + 10 * (row % 2)
                d.line((at, top + 15 * row), (at, min(top + 15 * row + 15, top + 74)), tip=False, width=0.8)
        if name == "MCF":
            for at in (left, left + 128):
                d.box(at, top, 12, 74, fill="#c3c9cf", radius=0)
            d.box(left, top - 4, 140, 12, fill="#c3c9cf", radius=0)
        for at in (left + 34, left + 70, left + 106) if name in ("MR", "CR") else ():
            d.line((at, top - 8), (at, top + 74), tip=False, width=3.2)
        d.text(left, top + 94, f"{name}: {what}", anchor="start", size=14)


def _types(d, x, y):
    d.box(x, y + 4, 130, 44)
    d.text(x + 65, y + 31, "material CR", size=15)
    d.box(x, y + 80, 130, 44)
    d.text(x + 65, y + 107, "height H5-7", size=15)
    d.node(x + 172, y + 64, "×", radius=15)
    d.line((x + 130, y + 26), (x + 172, y + 26), (x + 172, y + 48))
    d.line((x + 130, y + 102), (x + 172, y + 102), (x + 172, y + 80))
    d.line((x + 187, y + 64), (x + 208, y + 64))
    d.box(x + 208, y + 42, 98, 44, fill="#f5e3d0")
    d.text(x + 257, y + 69, "CR_H5-7", size=15)
    d.text(x, y + 158, "The type follows from material", "and height. Some heights are", "merged, as in MUR_H2-3.",
           anchor="start", size=15)  # fmt: skip


def _roofs(d, x, ground):
    shapes = (("FLT", "flat", [(0, 0), (0, -12), (120, -12), (120, 0)]),
              ("PIT_GAB", "with gables", [(-8, 0), (60, -52), (128, 0)]),
              ("PIT_MON", "one slope", [(-8, 0), (-8, -8), (128, -52), (128, 0)]))  # fmt: skip
    for k, (name, what, outline) in enumerate(shapes):
        left = x + 160 * k
        eaves = house(d, left, ground - 30, 3, width=120)
        points = " ".join(f"{left + dx},{eaves + dy}" for dx, dy in outline)
        d.parts.append(f'<polygon points="{points}" fill="{ROOF}" stroke="{INK}" stroke-width="1.4"/>')
        d.text(left + 60, ground - 6, name, size=15)
        d.text(left + 60, ground + 14, what, size=14, fill=QUIET)
    d.line((x - 14, ground - 30), (x + 460, ground - 30), tip=False)


def _positions(d, x, y):
    plots = (("DET_SP", "one party", [(34, 40)]), ("DET_MP", "several", [(22, 62)]),
             ("SDET", "one shared wall", [(14, 34), (48, 34)]),
             ("ADJ_BD", "grown block", [(0, 24), (24, 40), (64, 36)]),
             ("ADJ_TR", "terrace", [(0, 33), (33, 33), (66, 33)]))  # fmt: skip
    for k, (name, what, parts) in enumerate(plots):
        left = x + 108 * k
        d.box(left, y, 100, 130, fill="#e7efe2", stroke=QUIET, radius=0, width=0.8)
        d.box(left, y + 130, 100, 18, fill=STREET, stroke="none", radius=0)
        own = 1 if len(parts) > 1 else 0
        for i, (at, width) in enumerate(parts):
            depth = 62 + (14 * (i % 2) if name == "ADJ_BD" else 0)
            d.box(left + at, y + 122 - depth, width, depth, fill=ROOF if i == own else WALL, radius=0)
        d.text(left + 50, y + 172, name, size=15)
        d.text(left + 50, y + 192, what, size=13.5, fill=QUIET)
    d.text(x, y + 224, "Dark red is the building in question. The street is grey.", anchor="start", size=14, fill=QUIET)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    characteristics()
    architecture()
    gru()
