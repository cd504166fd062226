"""Accuracy, Cohen's kappa, class-wise F1 and temperature scaling: the numbers that a run folder stores."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from mtclim.tasks import Tasks


def codes(values: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    """Class names -> (n,) int64 positions in ``classes``; -1 where missing. ValueError for an unknown name."""
    found = pd.Index(classes).get_indexer(pd.Index(np.asarray(values, dtype=object))).astype(np.int64)
    unknown = pd.unique(values[(found < 0) & pd.notna(values)])
    if len(unknown):
        raise ValueError(
            f"{values.name}: found {list(map(str, unknown[:5]))}; expected one of {list(classes)} or nothing."
        )
    return found


def confusion(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts (K, K), rows reference, columns prediction.

    Parameters
    ----------
    true, predicted : Class positions (n,); rows where either is missing (-1) do not count.
    """
    true, predicted = np.asarray(true, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    use = (true >= 0) & (predicted >= 0)
    cells = true[use] * n_classes + predicted[use]
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def from_confusion(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Overall accuracy (...), Cohen's kappa (...) and F1 (..., K) of confusion matrices (..., K, K).

    Fractions. Without any annotated row all are NaN. Kappa is 0 where chance agreement is complete (one class only, in
    reference and prediction: nothing beyond chance can be shown; scikit-learn gives NaN). F1 is NaN for a class without
    a reference row, whether it was predicted or not: nothing says how well such a class is found.
    """
    counts = np.asarray(counts, dtype=np.float64)
    rows, columns = counts.sum(-1), counts.sum(-2)
    diagonal, total = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum((-2, -1))
    empty = total == 0
    n = np.where(empty, 1.0, total)
    agree, chance = diagonal.sum(-1) / n, (rows * columns).sum(-1) / n**2
    kappa = np.where(chance < 1, (agree - chance) / np.where(chance < 1, 1 - chance, 1.0), 0.0)
    f1 = np.where(rows > 0, 2 * diagonal / np.maximum(rows + columns, 1.0), np.nan)
    nan = np.where(empty, np.nan, 0.0)
    return agree + nan, kappa + nan, f1


def scores(true: np.ndarray, predicted: np.ndarray, n_classes: int) -> tuple[float, float, np.ndarray]:
    """Overall accuracy, Cohen's kappa and class-wise F1 (K,) of one task.

    Parameters
    ----------
    true, predicted : Class positions (n,), -1 = not annotated.
    """
    oa, kappa, f1 = from_confusion(confusion(true, predicted, n_classes))
    return float(oa), float(kappa), f1


def metrics(predictions: pd.DataFrame, tasks: Tasks) -> dict:
    """One split's part of ``metrics.json``: ``{task: {"oa", "kappa", "f1": {class}}, "mean": {"oa", "kappa"}}``.

    ``predictions`` has ``<task>:true`` (missing = not annotated) and ``<task>:pred``. Fractions; None (JSON null) for a
    task without an annotated row, which the mean leaves out, and for the F1 of a class without one.
    """
    result: dict = {}
    for task, classes in tasks.items():
        true, predicted = (codes(predictions[f"{task}:{kind}"], classes) for kind in ("true", "pred"))
        oa, kappa, f1 = scores(true, predicted, len(classes))
        by_class = {name: _number(value) for name, value in zip(classes, f1, strict=True)}
        result[task] = {"oa": _number(oa), "kappa": _number(kappa), "f1": by_class}
    seen = [values for values in result.values() if values["oa"] is not None]
    mean = {key: float(np.mean([values[key] for values in seen])) if seen else None for key in ("oa", "kappa")}
    return {**result, "mean": mean}


def fit_temperature(log_probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Temperature T that minimises the cross-entropy of softmax(z / T) (Guo et al., 2017), within 0.05 to 20.

    ``log_probabilities`` (n, K): logits or log probabilities, which differ by a constant that softmax cancels;
    ``targets`` (n,): class positions, -1 = not annotated. 1.0 when nothing is annotated. ValueError for NaN.
    """
    z, y = np.asarray(log_probabilities, dtype=np.float64), np.asarray(targets, dtype=np.int64)
    z, y = np.maximum(z[y >= 0], -1e4), y[y >= 0]  # log(0) = -inf would make the loss NaN
    if not len(y):
        return 1.0
    if np.isnan(z).any():
        raise ValueError(f"temperature: found NaN in {np.isnan(z).any(1).sum()} of {len(z)} rows of scores.")
    z = z - z.max(axis=1, keepdims=True)

    def cross_entropy(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(y)), y]))

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def rescale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, K) at another temperature: softmax(log p / T)."""
    z = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), 1e-30)) / temperature
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
