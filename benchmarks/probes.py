"""How good are frozen features?  k-NN, logistic regression, RBF machine; few labels each."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

PROBES = ("knn", "linear", "rbf")
RBF_LIMIT = 5000  # its cost grows with the square of the labels


class Split(NamedTuple):
    """Features `(n, F)` and their labels `(n,)`."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


def classifier(probe: str, labels: int | str) -> Any:
    """An untrained probe for features `(n, F)` with so many labels a class."""
    if probe == "knn":
        k = min(labels, 5) if isinstance(labels, int) else 20
        return make_pipeline(StandardScaler(), KNeighborsClassifier(k, metric="cosine", weights="distance"))
    if probe == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    if probe == "rbf":
        return make_pipeline(StandardScaler(), SVC(C=10.0))
    raise ValueError(f"probe={probe!r} is unknown; use one of {PROBES}")


def check(
    labels: Iterable[int | str], train_labels: NDArray[np.int64], probes: Iterable[str] = PROBES
) -> None:
    """Raises ValueError for an unknown probe, or when a class has fewer labels than asked for."""
    for probe in probes:
        classifier(probe, 1)
    fewest = int(np.bincount(train_labels).min())
    for n in labels:
        if n != "all" and not (isinstance(n, int) and 1 <= n <= fewest):
            raise ValueError(
                f"labels={n!r}: expected 'all' or 1...{fewest}, what the smallest class has for training"
            )


def accuracies(
    train: Split,
    scored: Mapping[str, Split],
    *,
    labels: Iterable[int | str] = (1, 5, 10),
    draws: int = 10,
    probes: Iterable[str] = PROBES,
) -> dict[str, float]:
    """Accuracy of every probe at every number of labels a class, a mean over draws of the labels.

    A probe is fitted once and scored on each split of `scored`, whose name is put before the column's:
    `{"": test, "selection_": held_out}` gives `knn_1` and `selection_knn_1`.  The draws are the same for
    every run, so that runs are compared on the same labels.
    """
    row = {}
    for n in labels:
        for probe in probes:
            scores = []
            for draw in range(1 if n == "all" else draws):
                chosen = _draw(train.labels, n, draw)
                if probe == "rbf" and len(chosen) > RBF_LIMIT:
                    break
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    fitted = classifier(probe, n).fit(train.features[chosen], train.labels[chosen])
                scores.append([fitted.score(*split) for split in scored.values()])
            if scores:
                means = np.mean(scores, axis=0)
                row.update(
                    {f"{name}{probe}_{n}": round(float(m), 5) for name, m in zip(scored, means, strict=True)}
                )
    return row


def _draw(train_labels: NDArray[np.int64], n: int | str, draw: int) -> NDArray[np.int64]:
    if n == "all":
        return np.arange(len(train_labels))
    generator = np.random.default_rng(draw)
    classes = (np.flatnonzero(train_labels == c) for c in np.unique(train_labels))
    return np.concatenate([generator.choice(members, int(n), replace=False) for members in classes])


def effective_rank(z: NDArray[np.float32]) -> float:
    """exp of the entropy of the covariance spectrum: F when isotropic, 1 on a line, 0 if constant.

    NaN for features that are not finite, whose spectrum does not exist.
    """
    if not np.isfinite(z).all():
        return float("nan")
    spectrum = np.linalg.svd(z - z.mean(0), compute_uv=False) ** 2
    if spectrum.sum() <= 1e-12 * len(z):
        return 0.0
    p = spectrum / spectrum.sum()
    return float(np.exp(-(p * np.log(p + 1e-12)).sum()))
