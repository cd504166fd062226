"""From predictions to frequencies: undoing the shift that training on balanced data causes.

A network trained after LPRUS (section 2.2.1) has learnt the balanced class frequencies; over a city its counts lean
towards them. What is fitted on validation corrects that, in rising order of what it assumes: the mean of probabilities
calibrated with a bias a class; expectation maximisation from there (Saerens et al. 2002, Alexandari et al. 2020); and
the inverse of the confusion matrix (Lipton et al. 2018). The last two assume label shift: within a class, photographs
look alike in the validation split and in the city.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax, softmax

METHODS = ("raw", "expected", "confusion", "em")
PRIOR = 0.05
"""What the validation split's frequencies count in :func:`em_estimate`, as a share of the city's images."""


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


def em_estimate(p: np.ndarray, balanced: np.ndarray, prior: float = PRIOR, steps: int = 1000) -> np.ndarray:
    """Class frequencies (K,) most likely after a city's calibrated probabilities `p` (n, K).

    `balanced` (K,) are the frequencies that the probabilities were trained for; a Dirichlet prior around them, worth
    `prior` * n images, keeps small errors of calibration from growing step by step (0: maximum likelihood).
    """
    q = balanced.copy()
    weight = np.divide(1.0, balanced, out=np.zeros_like(balanced), where=balanced > 0)
    for _ in range(steps):
        posterior = p * (q * weight)
        posterior /= np.maximum(posterior.sum(1, keepdims=True), 1e-300)
        q, last = (posterior.mean(0) + prior * balanced) / (1 + prior), q
        if np.abs(q - last).max() < 1e-6:
            break
    return q / q.sum()


def bias_correction(p: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Bias-corrected temperature scaling (Alexandari et al. 2020): (1 + K,) log scale and a bias a class.

    Minimises the cross-entropy of softmax(exp(w[0]) * log p + w[1:]) for codes `true` (n,); a class that doesn't occur
    gets bias 0. Its mean over the images it was fitted on is the frequency of each class there.
    """
    logits, rows = np.log(np.maximum(p, 1e-12)), np.arange(len(p))
    seen = np.bincount(true, minlength=p.shape[1]) > 0

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        log_q = log_softmax(np.exp(w[0]) * logits + w[1:] * seen, axis=1)
        slope = np.exp(log_q)
        slope[rows, true] -= 1
        gradient = [(slope * logits).sum(1).mean() * np.exp(w[0]), *(slope.mean(0) * seen)]
        return -log_q[rows, true].mean(), np.array(gradient)

    fitted = minimize(loss, np.zeros(1 + p.shape[1]), jac=True, method="L-BFGS-B").x
    return np.append(fitted[0], fitted[1:] * seen)


def calibrate(predictions: pd.DataFrame, validation: pd.DataFrame, tasks: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A copy of `predictions` with probabilities corrected as :func:`bias_correction` fits them on `validation`.

    Labels (``task:pred``) stay. `validation` holds labels and probabilities of the same model, as predictions do. Tasks
    without a label in it stay as they are.
    """
    columns = {}
    for task, classes in tasks.items():
        labelled = validation[validation[f"{task}:true"].notna()]
        if len(labelled):
            true = pd.Index(classes).get_indexer(labelled[f"{task}:true"])
            w = bias_correction(probabilities(labelled, task, classes), true)
            logits = np.log(np.maximum(probabilities(predictions, task, classes), 1e-12))
            columns |= _columns(task, classes, softmax(np.exp(w[0]) * logits + w[1:], axis=1))
    return predictions.assign(**columns)


def _columns(task: str, classes: Sequence[str], p: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{task}:p:{name}": p[:, k].astype(np.float32) for k, name in enumerate(classes)}


def corrected_frequencies(
    predictions: pd.DataFrame, validation: pd.DataFrame, tasks: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Class frequencies of a city, raw and corrected, one row a task and class.

    Columns: task, class, balanced (share in the validation split), raw (share of predicted labels), expected (mean
    calibrated probability), em, confusion; and truth (share of ``task:true``) where every prediction has one.
    Give predictions from :func:`calibrate`; `validation` holds labels and predictions of the same model.
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
            "em": em_estimate(p, balanced), "confusion": confusion_estimate(true, predicted, raw),
        }  # fmt: skip
        truth = predictions.get(f"{task}:true")
        if truth is not None and truth.notna().all():
            columns["truth"] = np.bincount(index.get_indexer(truth), minlength=len(classes)) / len(truth)
        rows.append(pd.DataFrame(columns))
    return pd.concat(rows, ignore_index=True)


def reweighted(
    predictions: pd.DataFrame, frequencies: pd.DataFrame, tasks: Mapping[str, Sequence[str]], method: str = "expected"
) -> pd.DataFrame:
    """A copy of calibrated `predictions` whose probabilities and labels follow corrected frequencies: p' ~ p q / balanced.

    "expected" leaves the calibrated probabilities as they are and takes the labels from them.
    """
    if method not in METHODS[1:]:
        raise ValueError(f"method: found {method!r}; expected one of {', '.join(METHODS[1:])}.")
    columns = {}
    for task, classes in tasks.items():
        part = frequencies[frequencies["task"] == task].set_index("class").loc[list(classes)]
        balanced, before = part["balanced"].to_numpy(), probabilities(predictions, task, classes)
        ratio = np.divide(part[method].to_numpy(), balanced, out=np.zeros(len(classes)), where=balanced > 0)
        p = before if method == "expected" else before * ratio
        total = p.sum(1, keepdims=True)
        p = np.where(total > 0, p / np.maximum(total, 1e-300), before)
        columns |= _columns(task, classes, p)
        columns[f"{task}:pred"] = np.asarray(classes, object)[p.argmax(1)]
    return predictions.assign(**columns)


def total_variation(frequencies: pd.DataFrame) -> pd.DataFrame:
    """Half the summed difference from the truth: the share of façades put into a wrong class count; task x method."""
    difference = frequencies[list(METHODS)].sub(frequencies["truth"], axis=0).abs() / 2
    return difference.groupby(frequencies["task"], sort=False).sum()
