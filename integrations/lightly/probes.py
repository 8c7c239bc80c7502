"""Few-shot probes of frozen features: k-NN and a linear classifier, scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

LABELS = (1, 5, 10)  # labelled images of each class
DRAWS = 10  # random choices of which images those are

Split = tuple[np.ndarray, np.ndarray]  # features (N, D), labels (N,)


def few_shot(classifier: Any, train: Split, test: Split) -> dict[str, dict[str, float]]:
    """Accuracy with few labels, `{"1": {"mean": .., "sd": ..}, ...}` over `DRAWS` choices of them."""
    result = {}
    for n in LABELS:
        accuracies = []
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            chosen = [rng.permutation(np.flatnonzero(train[1] == c))[:n] for c in np.unique(train[1])]
            some = np.concatenate(chosen)
            accuracies.append(classifier.fit(train[0][some], train[1][some]).score(*test))
        result[str(n)] = {"mean": float(np.mean(accuracies)), "sd": float(np.std(accuracies, ddof=1))}
    return result


def knn(train: Split, test: Split) -> dict[str, dict[str, float]]:
    """The nearest labelled image decides."""
    return few_shot(KNeighborsClassifier(1), train, test)


def linear(train: Split, test: Split) -> dict[str, dict[str, float]]:
    """Logistic regression on standardised features."""
    return few_shot(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), train, test)
