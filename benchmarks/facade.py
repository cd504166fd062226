"""Milliseconds a façade at 300 px on one core (median), against its JPEG encoding and one perspective warp."""

import argparse
import io
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from mtclim.city.facade import draw
from mtclim.city.joint import joint

TASKS = ["height", "mat_llrs", "roof_shape", "block_position"]
WARP = (1, 0.05, 0, 0.03, 1, 0, 1e-4, 1e-4)


def main():
    """Time all pictures, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/facade.json"))
    given = parser.parse_args()
    cells, rng = joint(), np.random.default_rng(0)
    rows = cells.iloc[rng.choice(len(cells), given.images, p=cells["p"])][TASKS].astype(str)
    draw("H1", "CR", "FLT", "DET_SP", 0)  # makes the noise and the clouds
    drawing, floor = [], []
    for i, row in enumerate(rows.itertuples(index=False)):
        start = perf_counter()
        data = draw(*row, (0, i), 300, 0.3, i // 5)
        drawing.append(perf_counter() - start)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        start = perf_counter()
        picture = picture.transform((300, 300), Image.Transform.PERSPECTIVE, WARP, Image.Resampling.BILINEAR)
        picture.save(io.BytesIO(), "JPEG", quality=85)
        floor.append(perf_counter() - start)
    a, b = (float(np.median(x)) * 1e3 for x in (drawing, floor))
    result = {
        "images": given.images, "size": 300, "draw_ms": round(a, 3), "jpeg_and_warp_ms": round(b, 3),
        "ratio": round(a / b, 2), "threads": 1, "cores": os.cpu_count(), "machine": platform.machine(),
        "python": platform.python_version(), "numpy": version("numpy"), "pillow": version("pillow"),
    }  # fmt: skip
    print("\n".join(f"{name:18} {value}" for name, value in result.items()))
    given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
