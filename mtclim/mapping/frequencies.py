"""From predictions to class frequencies, and the shift that training on balanced data causes.

A network trained after LPRUS (section 2.2.1) has learnt the balanced class frequencies, and its counts over a city lean
towards them. The mean of probabilities that are calibrated with a bias a class (Alexandari et al. 2020) corrects a part
of that, for the classes that have a validation label. It assumes that a photograph has the same probabilities in the
validation split and in the city, which balancing by labelset breaks a little.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from mtclim.metrics import codes

METHODS = {"raw": "predicted labels", "expected": "calibrated mean"}
"""How class frequencies are estimated: column of :func:`class_frequencies` -> readable name."""


def probabilities(predictions: pd.DataFrame, task: str, classes: Sequence[str]) -> np.ndarray:
    """The columns ``<task>:p:<class>`` as (n, K) float64.

    Parameters
    ----------
    classes : The classes of the task (K), in the order of the result.
    """
    return predictions[[f"{task}:p:{name}" for name in classes]].to_numpy(float)


def fused(
    predictions: pd.DataFrame, tasks: Mapping[str, Sequence[str]], building: np.ndarray, weight: np.ndarray
) -> pd.DataFrame:
    """One answer a building, ``<task>:p:<class>``: the weighted mean of its photographs' log probabilities, normalised.

    Parameters
    ----------
    building, weight : The building (n,) of each photograph, from 0 on, and how much the photograph counts (n,).
    """
    columns = {}
    for task, classes in tasks.items():
        logs = weight[:, None] * np.log(np.maximum(probabilities(predictions, task, classes), 1e-12))
        sums = pd.DataFrame(logs).groupby(building).sum().to_numpy()
        p = softmax(sums / np.bincount(building, weight)[:, None], axis=1)
        columns |= {f"{task}:p:{name}": p[:, k] for k, name in enumerate(classes)}
    return pd.DataFrame(columns)


def _bias_correction(logits: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The w (1 + K,) for which softmax(exp(w[0]) * logits + w[1:]) has the least cross-entropy with true codes (n,).

    With these biases the mean probability of a class is its frequency in ``true``, where each class occurs.
    """
    rows = np.arange(len(true))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        log_q = log_softmax(np.exp(w[0]) * logits + w[1:], axis=1)
        slope = np.exp(log_q)
        slope[rows, true] -= 1
        gradient = [(slope * logits).sum(1).mean() * np.exp(w[0]), *slope.mean(0)]
        return -log_q[rows, true].mean(), np.array(gradient)

    return minimize(loss, np.zeros(1 + logits.shape[1]), jac=True, method="L-BFGS-B").x


def calibrate(predictions: pd.DataFrame, validation: pd.DataFrame, tasks: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A copy of ``predictions`` whose probabilities are corrected by a temperature and a bias a class.

    The labels (``<task>:pred``) stay as they are. The probability of a class without a label in ``validation`` stays as
    it is too, and the other classes of its task share the rest.

    Parameters
    ----------
    validation : The model's labels and probabilities on its validation images, for the fit (Alexandari et al. 2020).
    """
    columns = {}
    for task, classes in tasks.items():
        true = codes(validation[f"{task}:true"], tuple(classes))
        seen, label = np.unique(true[true >= 0], return_inverse=True)
        if len(seen):
            known, p = (probabilities(f, task, classes).copy() for f in (validation[true >= 0], predictions))
            logits, new = (np.log(np.maximum(own[:, seen], 1e-12)) for own in (known, p))
            w = _bias_correction(logits, label)
            p[:, seen] = p[:, seen].sum(1, keepdims=True) * softmax(np.exp(w[0]) * new + w[1:], axis=1)
            columns |= {f"{task}:p:{name}": p[:, k].astype(np.float32) for k, name in enumerate(classes)}
    return predictions.assign(**columns)


def _shares(labels: pd.Series, classes: Sequence[str]) -> np.ndarray:
    """The share (K,) of each class among the labels that are there; NaN where there is none."""
    labels = labels.astype(pd.CategoricalDtype(list(classes)))
    return labels.value_counts(normalize=True, sort=False).to_numpy()


def apart(predictions: pd.DataFrame) -> np.ndarray:
    """Which rows (n,) lie outside every block with an image that training or validation used."""
    fitted = predictions["split"].isin(["train", "val"])
    return ~predictions["block"].isin(predictions.loc[fitted, "block"]).to_numpy()


def class_frequencies(
    predictions: pd.DataFrame, validation: pd.DataFrame, tasks: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Class frequencies of a city, from calibrated predictions: one row a task and class.

    Parameters
    ----------
    validation : A frame with the labels (``<task>:true``) of the validation split.

    Returns
    -------
    DataFrame
        The columns are task, class, balanced (share in the validation split), raw (share of the predicted labels),
        expected (mean probability) and truth (share of ``<task>:true``). Balanced is NaN for a task without a
        validation label, and truth for one in which not every prediction has a true label.
    """
    rows = []
    for task, classes in tasks.items():
        truth = predictions.get(f"{task}:true")
        known = truth is not None and truth.notna().all()
        columns = {"task": task, "class": classes, "balanced": _shares(validation[f"{task}:true"], classes)}
        columns |= {"raw": _shares(predictions[f"{task}:pred"], classes)}
        columns |= {"expected": probabilities(predictions, task, classes).mean(0)}
        rows.append(pd.DataFrame(columns | {"truth": _shares(truth, classes) if known else np.nan}))
    return pd.concat(rows, ignore_index=True)
