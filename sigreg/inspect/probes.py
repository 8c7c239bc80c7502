"""What the embeddings are good for, where labels are given: k-NN and a linear probe, cross-validated."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigreg.inspect.files import opened
from sigreg.inspect.formats import Unusable, need

MOST = 10_000  # rows that the probes are fitted to
NEIGHBOURS = 20


def read(path: Path, rows: int, allow_pickle: bool = False) -> list[Any]:
    """One label a row: a column or a row of numbers, or the lines of a .txt or .csv file.

    Raises:
        Unusable: unreadable, or another number of labels than rows.
    """
    if path.suffix in (".txt", ".csv"):
        try:
            text = path.read_text(encoding="utf-8-sig").rstrip()  # empty lines at the end are no labels
            labels: list[Any] = [line.strip() for line in text.splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise Unusable(f"{path}: the labels cannot be read ({error})") from None
        if len(labels) == rows + 1:
            labels = labels[1:]  # a header
    else:
        array = opened(path, allow_pickle=allow_pickle, labels=rows)
        try:
            labels = torch.cat(list(array.pieces(1 << 20))).flatten().tolist()
        except TypeError:  # text
            raise Unusable(
                f"{array}: labels of the type {array.dtype} are not numbers; save numbers of classes, "
                "or the names as lines of a .txt file"
            ) from None
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise Unusable(f"{array}: the file ends early or is damaged ({error})") from None
    if len(labels) != rows:
        raise Unusable(f"{path}: {len(labels)} labels for {rows} rows; expected one a row")
    return labels


def accuracies(z: Tensor, labels: list[Any], seed: int = 0) -> dict[str, float]:
    """The accuracy of k-NN and of logistic regression over five folds, and of the most frequent class.

    Raises:
        Unusable: scikit-learn is missing, or there are not two classes with two rows or more each.
    """
    need("sklearn", "scikit-learn", "--labels")
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import StratifiedKFold, cross_val_score  # type: ignore[import-untyped]
    from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    np = need("numpy", "numpy", "--labels")
    if len(z) > MOST:
        chosen = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))[:MOST]
        z, labels = z[chosen], [labels[i] for i in chosen.tolist()]
    x, (classes, y) = z.numpy(), np.unique(np.asarray(labels), return_inverse=True)
    counts = np.bincount(y)
    usable = counts[y] >= 2  # a class of one row is in no training set when it is tested
    x, y = x[usable], y[usable]
    counts = counts[counts >= 2]
    if len(counts) < 2:
        raise Unusable(
            f"--labels: expected two classes with two rows or more each, got {len(classes)} classes"
        )
    folds = StratifiedKFold(min(5, int(counts.min())), shuffle=True, random_state=seed % 2**32)
    k = min(NEIGHBOURS, max(1, len(y) // 2))
    knn = KNeighborsClassifier(k)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return {
        f"accuracy of k-NN, k = {k} (%)": 100 * float(cross_val_score(knn, x, y, cv=folds).mean()),
        "accuracy of a linear probe (%)": 100 * float(cross_val_score(linear, x, y, cv=folds).mean()),
        "accuracy of the most frequent class (%)": 100 * float(counts.max() / counts.sum()),
    }
