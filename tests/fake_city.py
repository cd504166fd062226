"""Invented predictions of a city, for tests and benchmarks of maps and exposure: no model, no photographs."""

import numpy as np
import pandas as pd

from mtclim import SANTIAGO


def fake_predictions(n: int, tasks=SANTIAGO, seed: int = 0) -> pd.DataFrame:
    """n façades around Santiago whose classes drift from west to east, in the columns of `mtclim.mapping.predict`."""
    rng = np.random.default_rng(seed)
    lon, lat = -70.75 + 0.2 * rng.random(n), -33.6 + 0.2 * rng.random(n)
    frame = {"image": [f"images/{i:06d}.jpg" for i in range(n)], "lon": lon, "lat": lat}
    frame["block"] = [f"b{int(x)}_{int(y)}" for x, y in zip((lon + 71) * 30, (lat + 34) * 30, strict=True)]
    frame["municipality"] = [f"m{int(x)}" for x in (lon + 71) * 10]
    frame["bearing"] = np.where(rng.random(n) < 0.5, 360 * rng.random(n), np.nan)
    frame["split"] = rng.choice(["train", "test", None], n)
    columns = pd.DataFrame(frame)
    columns["in_training"] = columns["split"] == "train"
    for task, classes in tasks.items():
        size = len(classes)
        centre = (lon + 70.75) / 0.2 * size - 0.5 + rng.normal(0, 0.5, n)
        p = np.exp(-2 * np.abs(np.arange(size) - centre[:, None]))
        p /= p.sum(1, keepdims=True)
        true = np.clip(np.rint(centre + rng.normal(0, 0.4, n)), 0, size - 1).astype(int)
        columns[f"{task}:true"] = np.array(classes, object)[true]
        columns[f"{task}:pred"] = np.array(classes, object)[p.argmax(1)]
        columns = columns.assign(**{f"{task}:p:{c}": p[:, k].astype(np.float32) for k, c in enumerate(classes)})
    return columns
