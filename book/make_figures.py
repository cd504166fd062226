"""The book's pictures of the synthetic city, its calibration table, the title picture: ``python book/make_figures.py``.

Everything comes from ``mtclim.city`` with fixed seeds. The results are committed (a few hundred kB), so that rendering
the book draws nothing; run this after a change of the city.
"""

import io
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import shapely
from PIL import Image, ImageDraw, ImageFont

from mtclim.city import draw
from mtclim.city.joint import calibration, joint
from mtclim.city.plan import CityPlan, plan
from mtclim.city.street import TASKS
from mtclim.mapping.buildings import assign
from mtclim.style import in_words
from mtclim.tasks import SANTIAGO

IMAGES, TABLES = Path(__file__).with_name("images"), Path(__file__).with_name("tables")
HEIGHTS = plt.get_cmap("viridis")(np.linspace(0.0, 0.95, len(SANTIAGO["height"])))
NAMES = {"height": "height", "mat_llrs": "material", "sbst": "SBST", "roof_shape": "roof", "block_position": "position"}
EXAMPLES = [
    ("H1", "MUR", "PIT_MON", "ADJ_BD"),
    ("H2", "MR", "PIT_GAB", "SDET"),
    ("H1", "W,UNK", "PIT_GAB", "DET_SP"),
    ("H3-4", "MCF", "FLT", "ADJ_TR"),
    ("H5-7", "CR", "FLT", "DET_MP"),
    ("H13+", "COM3", "FLT", "DET_MP"),
]
plt.rcParams.update({"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": "mtclim", "figure.dpi": 100})


def picture(labels: tuple[str, ...], seed, size: int = 150, ambiguity: float = 0.3, street: int = 0) -> Image.Image:
    """One façade, drawn at 300 px or less and shrunk to ``size``."""
    return Image.open(io.BytesIO(draw(*labels, seed, 300, ambiguity, street))).convert("RGB").resize((size, size), 1)


def save(image: Image.Image, name: str, quality: int = 82) -> None:
    """A picture as JPEG: photographs-like content stays small."""
    image.save(IMAGES / name, quality=quality, optimize=True, progressive=True)


def grid(
    rows: list[list[Image.Image]], labels: list[list[str]], cell: int, gap: int = 8, strip: int = 26
) -> Image.Image:
    """Pictures in rows, each with a label below it, on white; says that they are synthetic."""
    width = max(len(row) for row in rows) * (cell + gap) + gap
    sheet_ = Image.new("RGB", (width, len(rows) * (cell + strip + gap) + strip), "white")
    pen, font = ImageDraw.Draw(sheet_), ImageFont.load_default(18)
    pen.text((width - gap, sheet_.height - 4), "synthetic pictures", fill="#62707f", font=font, anchor="rd")
    for r, (row, names) in enumerate(zip(rows, labels, strict=True)):
        for c, (image, name) in enumerate(zip(row, names, strict=True)):
            x, y = gap + c * (cell + gap), gap + r * (cell + strip + gap)
            sheet_.paste(image.resize((cell, cell), 1), (x, y))
            pen.text((x + cell / 2, y + cell + 3), name, fill="#1f2933", font=font, anchor="ma")
    return sheet_


def facades() -> None:
    """One example of each class of the four drawn tasks, other labels from the joint distribution, no cue hidden."""
    cells, rng, rows = joint(), np.random.default_rng(4), []
    for task in TASKS:
        rows.append([])
        for k, name in enumerate(SANTIAGO[task]):
            own = cells[cells[task] == name]
            labels = own[list(TASKS)].iloc[rng.choice(len(own), p=own["p"] / own["p"].sum())].astype(str)
            rows[-1].append(picture(tuple(labels), (4, 1, k, 0), 300, 0.0, int(rng.integers(40))))
    save(grid(rows, [list(SANTIAGO[task]) for task in TASKS], cell=140), "facades.jpg")


def ambiguity() -> None:
    """The same six buildings, each row with more of its cues hidden."""
    levels = (0.0, 0.3, 0.6, 1.0)
    rows = [
        [picture(labels, (7, i), ambiguity=level, street=i) for i, labels in enumerate(EXAMPLES)] for level in levels
    ]
    labels = [[f"ambiguity {level:g}" if i == 0 else "" for i in range(len(EXAMPLES))] for level in levels]
    save(grid(rows, labels, cell=150), "ambiguity.jpg")


def mutual_information(table: pd.DataFrame, first: str, second: str) -> float:
    """Mutual information of two tasks in bits; a row is a labelset and its probability p."""
    p = table.groupby([first, second], observed=True)["p"].sum().unstack(fill_value=0).to_numpy()
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    return float((p * np.log2(p / independent, where=p > 0, out=np.zeros_like(p))).sum())


def interdependency() -> None:
    """Mutual information of pairs of tasks along the dial."""
    dial = np.linspace(0, 1, 11)
    tables = [joint(value) for value in dial]
    pairs = [("height", "mat_llrs"), ("height", "roof_shape"), ("mat_llrs", "roof_shape"), ("height", "block_position"),
             ("mat_llrs", "block_position"), ("roof_shape", "block_position")]  # fmt: skip
    colours = ("#1f2933", "#4477aa", "#228833", "#b8860b", "#cc6677", "#aa3377")
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    ends = []
    for (a, b), colour in zip(pairs, colours, strict=True):
        bits = [mutual_information(table, a, b) for table in tables]
        axis.plot(dial, bits, color=colour, marker="o", markersize=3)
        ends.append([bits[-1], f"{NAMES[a]} – {NAMES[b]}", colour])
    ends.sort()
    for before, after in zip(ends, ends[1:], strict=False):  # keep the labels apart
        after[0] = max(after[0], before[0] + 0.035)
    for y, text, colour in ends:
        axis.text(1.02, y, text, color=colour, va="center", fontsize=9)
    axis.set(
        xlabel="interdependency of the synthetic city",
        ylabel="mutual information [bit]",
        xlim=(0, 1),
        ylim=(-0.01, None),
    )
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / "interdependency.svg", metadata={"Date": None})
    plt.close(figure)


def draw_map(axis, city: CityPlan, points: float) -> None:
    """Façades by height over blocks and municipalities."""
    city.blocks.plot(ax=axis, color="#f1f0ec", linewidth=0)
    order = np.argsort(city.facades["height"].cat.codes.to_numpy(), kind="stable")
    shown = city.facades.iloc[order]
    colours = HEIGHTS[shown["height"].cat.codes]
    axis.scatter(shown["x"], shown["y"], c=colours, s=points, linewidths=0, rasterized=True)
    city.municipalities.boundary.plot(ax=axis, color="#4b5563", linewidth=0.5)
    axis.set_aspect("equal")
    axis.set_axis_off()


def city_map(city: CityPlan) -> None:
    """The map with legend, scale bar and north arrow."""
    figure, axis = plt.subplots(figsize=(7.2, 7.2), layout="constrained")
    draw_map(axis, city, points=1.2)
    for name, colour in zip(SANTIAGO["height"], HEIGHTS, strict=True):
        axis.scatter([], [], color=colour, s=26, label=name)
    axis.legend(title="height\n(Syntheta, synthetic)", loc="lower right", frameon=False, fontsize=12, title_fontsize=12)
    x, y = city.facades["x"].min(), city.facades["y"].min()
    axis.plot([x, x + 5000], [y, y], color="#1f2933", linewidth=2)
    axis.text(x + 2500, y + 300, "5 km", ha="center", fontsize=12)
    arrow = {"arrowstyle": "-|>", "color": "#1f2933"}
    axis.annotate("N", (0.97, 0.99), (0.97, 0.9), "axes fraction", ha="center", fontsize=12, arrowprops=arrow)
    figure.savefig(IMAGES / "city_map.jpg", dpi=130, pil_kwargs={"quality": 80, "optimize": True, "progressive": True})
    plt.close(figure)


def street() -> None:
    """A street with footprints, cameras and the rays of their views, in the colour of the building that each shows."""
    city = plan(2000, 1000, 0)
    footprints, cameras = city.footprints.astype({"building": str}), city.cameras(2)
    x, y = (getattr(cameras.geometry, axis).to_numpy() for axis in "xy")
    middle = np.argmin(np.hypot(x - np.median(x), y - np.median(y)))
    near = np.flatnonzero(np.maximum(abs(x - x[middle]) / 1.7, abs(y - y[middle])) < 20)
    place = cameras.geometry.to_crs(4326)
    views = pd.DataFrame({"lon": place.x, "lat": place.y, "bearing": cameras["bearing"]}).iloc[near]
    found = assign(views, footprints)
    shown = footprints.cx[x[middle] - 60 : x[middle] + 60, y[middle] - 60 : y[middle] + 60]
    walls, seen = shown.union_all(), shown[shown["building"].isin(found["building"])]
    colours = {
        name: plt.get_cmap("tab10")([0, 1, 2, 3, 4, 5, 6, 8, 9][k % 9]) for k, name in enumerate(seen["building"])
    }
    figure, axis = plt.subplots(figsize=(7.5, 4.6))
    shown.plot(ax=axis, color="#e4e1d8", edgecolor="white")
    seen.plot(ax=axis, color=list(colours.values()), edgecolor="white")
    for camera, bearing, building in zip(near, views["bearing"], found["building"], strict=True):
        here = shapely.Point(x[camera], y[camera])
        for angle in np.radians(bearing + np.linspace(-30, 30, 13)):
            far = shapely.Point(here.x + 50 * np.sin(angle), here.y + 50 * np.cos(angle))
            end = shapely.shortest_line(here, shapely.LineString([here, far]).intersection(walls))
            if end is not None:
                colour = "#777777" if pd.isna(building) else colours[building]
                axis.plot(*end.xy, color=colour, linewidth=0.6, alpha=0.7)
        axis.plot(here.x, here.y, ".", color="black", markersize=5)
    axis.set(xlim=(x[middle] - 34, x[middle] + 34), ylim=(y[middle] - 20, y[middle] + 20), aspect="equal")
    axis.set_axis_off()
    axis.plot([x[middle] - 32, x[middle] - 22], [y[middle] - 18.5] * 2, color="black", linewidth=2)
    axis.text(x[middle] - 32, y[middle] - 17.8, "10 m", fontsize=9)
    figure.tight_layout(pad=0)
    figure.savefig(IMAGES / "street.svg", metadata={"Date": None})
    plt.close(figure)


def calibration_table(city: CityPlan) -> None:
    """Paper against city, with the digits that the paper's figures have."""
    labels = city.facades.loc[city.facades["labelled"], list(SANTIAGO)]
    table = calibration(labels)

    def number(value: float) -> str:
        return "" if pd.isna(value) else f"{value:,.0f}" if abs(value) >= 2 else f"{value:.4f}"

    def difference(row) -> str:
        return number(row.difference) if abs(row.city) < 2 or pd.isna(row.difference) else f"{row.difference:,.0f}"

    rows = [
        (in_words(row.quantity, SANTIAGO), number(row.paper) or "not published", number(row.city), difference(row))
        for row in table.itertuples()
    ]
    frame = pd.DataFrame(rows, columns=["Quantity", "Paper", "City", "Difference"])
    TABLES.mkdir(exist_ok=True)
    frame.to_csv(TABLES / "calibration.csv", index=False)


def hero(city: CityPlan) -> None:
    """Façades beside the map."""
    size, height = 176, 3 * 176
    cells = joint()
    rng = np.random.default_rng(11)
    chosen = cells.iloc[rng.choice(len(cells), 12, p=cells["p"] / cells["p"].sum())]
    drawn = ["height", "mat_llrs", "roof_shape", "block_position"]
    pictures = [
        picture(tuple(map(str, row)), (3, i), size, 0.2, i)
        for i, row in enumerate(chosen[drawn].itertuples(index=False))
    ]
    figure, axis = plt.subplots(figsize=(height / 100, height / 100))
    figure.subplots_adjust(0, 0, 1, 1)
    draw_map(axis, city, points=0.7)
    axis.text(0.98, 0.02, "synthetic façades and city", transform=axis.transAxes, ha="right", color="#4b5563")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    map_ = Image.open(buffer).convert("RGB")
    whole = Image.new("RGB", (4 * size + map_.width, height), "white")
    for i, image in enumerate(pictures):
        whole.paste(image, (i % 4 * size, i // 4 * size))
    whole.paste(map_, (4 * size, 0))
    whole.quantize(200, dither=Image.Dither.FLOYDSTEINBERG).save(IMAGES / "hero.png", optimize=True)


def main() -> None:
    """Draw everything."""
    IMAGES.mkdir(exist_ok=True)
    facades()
    ambiguity()
    interdependency()
    street()
    city = plan()
    calibration_table(city)
    city_map(city)
    hero(city)


if __name__ == "__main__":
    main()
