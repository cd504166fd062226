"""Row 8: milliseconds a façade at 300 px of one core (median of processor time), against its JPEG encoding and one perspective warp."""

import io
from time import process_time

import numpy as np
from PIL import Image

from benchmarks.common import row
from mtclim.city.facade import draw
from mtclim.city.joint import joint

TASKS = ["height", "mat_llrs", "roof_shape", "block_position"]
WARP = (1, 0.05, 0, 0.03, 1, 0, 1e-4, 1e-4)


def run(quick: bool) -> list[dict]:
    """Draw, and encode and warp what was drawn, picture by picture. The one absolute time of a CPU: its target is one."""
    cells, rng = joint(), np.random.default_rng(0)
    rows = cells.iloc[rng.choice(len(cells), 300 if quick else 2000, p=cells["p"])][TASKS].astype(str)
    draw("H1", "CR", "FLT", "DET_SP", 0)  # makes the noise and the clouds
    drawing, floor = [], []
    for i, labels in enumerate(rows.itertuples(index=False)):
        start = process_time()
        data = draw(*labels, (0, i), 300, 0.3, i // 5)
        drawing.append(process_time() - start)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        start = process_time()
        picture = picture.transform((300, 300), Image.Transform.PERSPECTIVE, WARP, Image.Resampling.BILINEAR)
        picture.save(io.BytesIO(), "JPEG", quality=85)
        floor.append(process_time() - start)
    a, b = (float(np.median(x)) * 1e3 for x in (drawing, floor))
    line = row(
        8, "façade drawing, 300 px", "its JPEG encoding + one perspective warp", a / b, None, threads=1, device="CPU"
    )
    return [line | {"ms": round(a, 2), "target": "<= 8 ms an image", "met": a <= 8}]
