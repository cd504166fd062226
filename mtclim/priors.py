"""From predictions to frequencies: undoing the shift that training on balanced data causes.

A network trained after LPRUS (section 2.2.1) has learnt the balanced class frequencies; over a city its counts lean
towards them. Two corrections estimate the city's frequencies from the validation split and the unlabelled city: the
confusion matrix (Lipton et al. 2018, "black box shift estimation") and expectation maximisation (Saerens et al. 2002).
Both assume label shift: within a class, photographs look alike in the validation split and in the city.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import nnls

METHODS = ("raw", "expected", "confusion", "em")


def probabilities(predictions: pd.DataFrame, task: str, classes: Sequence[str]) -> np.ndarray:
    """(n, K) float64 of the columns ``task:p:class``."""
    return predictions[[f"{task}:p:{name}" for name in classes]].to_numpy(float)


def confusion_estimate(true: np.ndarray, predicted: np.ndarray, city: np.ndarray) -> np.ndarray:
    """Class frequencies (K,) of a city from its predicted shares `city` (K,) and validation codes `true`, `predicted`.

    Solves P(predicted | true) q = city for q >= 0 with sum 1 (least squares). A class absent from validation gets 0.
    """
    size = len(city)
    counts = np.zeros((size, size))
    np.add.at(counts, (predicted, true), 1.0)
    seen = counts.sum(0) > 0
    rates = counts[:, seen] / counts[:, seen].sum(0)
    heavy = 1e3  # the row that makes the estimate sum to one
    solution, _ = nnls(np.vstack([rates, heavy * np.ones(seen.sum())]), np.append(city, heavy))
    result = np.zeros(size)
    result[seen] = solution / solution.sum()
    return result


def em_estimate(p: np.ndarray, balanced: np.ndarray, steps: int = 1000, tolerance: float = 1e-6) -> np.ndarray:
    """Class frequencies (K,) that maximise the likelihood of a city's probabilities `p` (n, K).

    `balanced` (K,) are the frequencies the probabilities were trained for. Needs calibrated probabilities to be right.
    """
    q = balanced.copy()
    weight = np.divide(1.0, balanced, out=np.zeros_like(balanced), where=balanced > 0)
    for _ in range(steps):
        posterior = p * (q * weight)
        posterior /= np.maximum(posterior.sum(1, keepdims=True), 1e-300)
        q, last = posterior.mean(0), q
        if np.abs(q - last).max() < tolerance:
            break
    return q / q.sum()


def corrected_frequencies(
    predictions: pd.DataFrame, validation: pd.DataFrame, tasks: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Class frequencies of a city, raw and corrected, one row a task and class.

    Columns: task, class, balanced (share in the validation split), raw (share of predicted labels), expected (mean
    probability), confusion, em; and truth (share of ``task:true``) where every prediction has one. `validation` holds a
    run's validation.parquet (labels, predictions and probabilities of the same model).
    """
    rows = []
    for task, classes in tasks.items():
        index = pd.Index(classes)
        labelled = validation[validation[f"{task}:true"].notna()]
        true, predicted = (index.get_indexer(labelled[f"{task}:{kind}"]) for kind in ("true", "pred"))
        balanced = np.bincount(true, minlength=len(classes)) / max(len(true), 1)
        raw = index.get_indexer(predictions[f"{task}:pred"])
        raw = np.bincount(raw, minlength=len(classes)) / max(len(raw), 1)
        p = probabilities(predictions, task, classes)
        columns = {
            "task": task, "class": classes, "balanced": balanced, "raw": raw, "expected": p.mean(0),
            "confusion": confusion_estimate(true, predicted, raw), "em": em_estimate(p, balanced),
        }  # fmt: skip
        truth = predictions.get(f"{task}:true")
        if truth is not None and truth.notna().all():
            columns["truth"] = np.bincount(index.get_indexer(truth), minlength=len(classes)) / len(truth)
        rows.append(pd.DataFrame(columns))
    return pd.concat(rows, ignore_index=True)


def reweighted(
    predictions: pd.DataFrame, frequencies: pd.DataFrame, tasks: Mapping[str, Sequence[str]], method: str = "em"
) -> pd.DataFrame:
    """A copy of `predictions` whose probabilities and labels follow the corrected frequencies: p' ~ p q / balanced."""
    if method not in ("em", "confusion"):
        raise ValueError(f"method: found {method!r}; expected 'em' or 'confusion'.")
    columns = {}
    for task, classes in tasks.items():
        part = frequencies[frequencies["task"] == task].set_index("class").loc[list(classes)]
        balanced = part["balanced"].to_numpy()
        ratio = np.divide(part[method].to_numpy(), balanced, out=np.zeros(len(classes)), where=balanced > 0)
        before = probabilities(predictions, task, classes)
        p = before * ratio
        total = p.sum(1, keepdims=True)
        p = np.where(total > 0, p / np.maximum(total, 1e-300), before)
        columns |= {f"{task}:p:{name}": p[:, k].astype(np.float32) for k, name in enumerate(classes)}
        columns[f"{task}:pred"] = np.asarray(classes, object)[p.argmax(1)]
    return predictions.assign(**columns)


def total_variation(frequencies: pd.DataFrame) -> pd.DataFrame:
    """Half the summed difference from the truth: the share of façades put into a wrong class count; task x method."""
    difference = frequencies[list(METHODS)].sub(frequencies["truth"], axis=0).abs() / 2
    return difference.groupby(frequencies["task"], sort=False).sum()
