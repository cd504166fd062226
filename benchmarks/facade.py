"""Row 8: milliseconds a façade at 300 px of one core (processor time), against its JPEG encoding and one perspective warp.

Every picture is drawn in nine rounds, half a minute apart, and its best counts, on both sides: where a neighbour keeps the other half of a
processor's core busy, as on most rented machines, the same instructions take up to twice as long. The median of all rounds is given too.
"""

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
    times = np.array([[_seconds(i, *labels) for i, labels in enumerate(rows.to_numpy())] for _ in range(9)])
    drawing, floor = np.median(times.min(0), 0) * 1e3
    line = row(
        8,
        "façade drawing, 300 px",
        "its JPEG encoding + one perspective warp",
        drawing / floor,
        None,
        threads=1,
        device="CPU",
    )
    line |= {"ms": round(drawing, 2), "ms of all rounds": round(float(np.median(times[..., 0])) * 1e3, 2)}
    return [line | {"target": "<= 8 ms an image", "met": bool(drawing <= 8)}]


def _seconds(i: int, *labels: str) -> tuple[float, float]:
    """Processor time of drawing picture i, and of warping and encoding it."""
    start = process_time()
    data = draw(*labels, (0, i), 300, 0.3, i // 5)
    drawn = process_time() - start
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    start = process_time()
    picture = picture.transform((300, 300), Image.Transform.PERSPECTIVE, WARP, Image.Resampling.BILINEAR)
    picture.save(io.BytesIO(), "JPEG", quality=85)
    return drawn, process_time() - start
