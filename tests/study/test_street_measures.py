"""What the measurements on the street say of invented answers, against counts by hand."""

import numpy as np
import pandas as pd
import pytest
from fake_city import fake_predictions
from sklearn.metrics import accuracy_score, cohen_kappa_score

from benchmarks.street import GATE, gating, judged
from mtclim import SANTIAGO, Tasks
from mtclim.analysis.joint import Joint
from mtclim.metrics import codes

TASKS = Tasks(SANTIAGO.to_dict() | {"view": ("facade", "other")})


def table(rows) -> pd.Series:
    return pd.DataFrame(rows, columns=["what", "setting", "value"]).set_index(["what", "setting"])["value"]


def sure(frame: pd.DataFrame, tasks: Tasks, kind: str) -> pd.DataFrame:
    """The same rows with all the probability at the labels of a kind, "true" or "pred"."""
    ones = {f"{task}:p:{name}": (frame[f"{task}:{kind}"] == name) * 1.0 for task, own in tasks.items() for name in own}
    return frame.assign(**ones, **{f"{task}:pred": frame[f"{task}:{kind}"] for task in tasks})


def test_the_error_of_exposure_counts_shows_the_surplus():
    """Where all answers are right, half of the other views that are counted, or of the façades that are not."""
    frame = fake_predictions(100).assign(building=1, kind=["facade"] * 80 + ["hedge"] * 20)
    frame["view:true"] = ["facade"] * 78 + ["other"] * 17 + ["facade"] * 5
    frame = sure(frame, TASKS, "true")  # so that the gate holds 2 façades back and lets 5 other views pass
    found = table(gating(frame, TASKS, Joint(TASKS, np.full((1, len(TASKS)), -1), np.zeros(1))))
    assert found["gate_precision"].item() == pytest.approx(78 / 83)
    assert found["gate_recall"].item() == pytest.approx(78 / 80)
    for level in ("city", "municipality"):
        assert found["exposure_error", f"gate=none level={level}"] == pytest.approx(20 / 2 / 80)
        assert found["exposure_error", f"gate=perfect level={level}"] == pytest.approx(0)
        assert 3 / 2 / 80 <= found["exposure_error", f"gate={GATE} level={level}"] <= 7 / 2 / 80 + 1e-9


def test_ways_to_answer_are_judged_as_scikit_learn_does():
    truth = fake_predictions(200).assign(building=[f"{n:03}" for n in range(200)], **{"view:pred": "facade"})
    ways = {f"views={name}": truth for name in (1, "4 surest", "4 majority")}
    ways["views=4"] = sure(truth, SANTIAGO, "true")
    known, said = (
        np.stack([codes(truth[f"{task}:{kind}"], own) for task, own in SANTIAGO.items()], axis=1)
        for kind in ("true", "pred")
    )
    known = np.c_[known, np.zeros(200, int)]  # all show a façade
    found = table(judged(ways, truth.set_index("building"), TASKS, known, np.ones(200)))
    for what, score in (("oa", accuracy_score), ("kappa", cohen_kappa_score)):
        mean = np.mean([score(truth[f"{task}:true"], truth[f"{task}:pred"]) for task in SANTIAGO])
        assert found[f"fused_{what}", "views=1"] == pytest.approx(mean)
        assert found[f"fused_{what}", "views=4"] == pytest.approx(1)
    assert found["fused_ece", "views=4"] == found["fused_ece_perfect", "views=4"] == 0 < found["fused_ece", "views=1"]
    assert found["fused_contradictions", "views=4"] == 0 and ("fused_ece", "views=4 majority") not in found
    gain = 1 - found["fused_kappa", "views=1"]
    assert found["fused_gain", "views=4 over views=1"] == pytest.approx(gain)
    assert found["fused_gain_low", "views=4 over views=1"] < gain < found["fused_gain_high", "views=4 over views=1"]
    height, material, types = (list(SANTIAGO).index(task) for task in ("height", "mat_llrs", "sbst"))
    seen = {n: set(zip(known[:, n], known[:, types], strict=True)) for n in (height, material)}
    never = [any((row[n], row[types]) not in own for n, own in seen.items()) for row in said]
    assert found["fused_contradictions", "views=1"] == pytest.approx(np.mean(never)) and np.any(never)
