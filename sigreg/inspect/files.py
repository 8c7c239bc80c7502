"""Embeddings in a file, read in pieces: what is not asked for never enters the memory."""

from __future__ import annotations

import importlib
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sigreg.inspect.formats import READERS, Array, Unusable

PIECE = 1 << 24  # values read at a time: 64 MiB of float32


def opened(
    path: Path, key: str | None = None, allow_pickle: bool = False, labels: int | None = None
) -> Array:
    """The array of embeddings (or of labels) in a file; nothing but its header is read.

    Args:
        path: .npy, .npz, .pt, .pth or .safetensors.
        key: which array, where the file holds several.
        allow_pickle: read Python objects too.  Loading them can run any code that the file brings along.
        labels: the number of labels, where the array is to hold labels of any type: `(labels,)`, a row or a
            column.

    Raises:
        Unusable: no such file, another format, damaged, no or several candidates, not (N, D) floating point,
            or another number of labels.
    """
    if not path.is_file():
        raise Unusable(f"{path}: there is no such file")
    if path.suffix not in READERS:
        raise Unusable(
            f"{path}: expected a file that ends in {', '.join(READERS)}; save the embeddings as one"
        )
    if path.stat().st_size == 0:
        raise Unusable(f"{path}: the file is empty")
    try:
        arrays = READERS[path.suffix](path, allow_pickle)
        array = _chosen(path, arrays, key, labels)
    except Unusable:
        raise
    except Exception as error:  # every library has its own for a damaged file
        line = (str(error) or type(error).__name__).splitlines()[0][:150]
        raise Unusable(f"{path}: the file is damaged or not what its name says ({line})") from None
    if labels is None:
        _check(array)
    elif math.prod(array.shape) != labels:
        found = f"{math.prod(array.shape)} labels, shape {array.shape},"
        raise Unusable(f"{array}: {found} for {labels} rows; expected one a row")
    return array


def _chosen(path: Path, arrays: dict[str, Array], key: str | None, labels: int | None) -> Array:
    listed = ", ".join(f"{name} {a.shape}" for name, a in list(arrays.items())[:8]) or "none"
    if key is not None and list(arrays) != [""]:
        if key not in arrays:
            raise Unusable(f"{path}: there is no array {key!r}; it has {listed}")
        return arrays[key]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if labels is None:
        fitting = [a for a in arrays.values() if len(a.shape) == 2 and "float" in a.dtype]
        wanted = "name one of its arrays with --key"
    else:
        fitting = [a for a in arrays.values() if a.shape == (labels,)]
        wanted = f"expected one array of {labels} labels"
    if len(fitting) != 1:
        raise Unusable(f"{path}: {wanted}; it has {listed}")
    return fitting[0]


def _check(array: Array) -> None:
    shape = array.shape
    if "float" not in array.dtype:
        raise Unusable(f"{array}: expected floating-point numbers, got {array.dtype}; convert them first")
    if 0 in shape:
        raise Unusable(f"{array}: the array is empty, shape {shape}")
    if len(shape) != 2:
        raise Unusable(
            f"{array}: expected embeddings (N, D), a row a sample, got shape {shape}; save one view or one "
            "time step, or reshape"
        )
    if shape[0] < 2:
        raise Unusable(f"{array}: one row tells nothing; expected (N, D) with N >= 2, got {shape}")


def progress(pieces: Iterator[Tensor], count: int, title: str) -> Iterator[Tensor]:
    """The pieces, with a bar on the terminal where there are several."""
    if count > 1:
        try:
            tqdm = importlib.import_module("tqdm").tqdm
        except ImportError:
            print(f"reading {title} in {count} pieces (a bar needs tqdm: pip install tqdm)", file=sys.stderr)
        else:
            yield from tqdm(pieces, total=count, desc=f"reading {title}", unit="piece", file=sys.stderr)
            return
    yield from pieces


def sample(array: Array, most: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of an array, all that fit into `most` values, and their numbers; every row is checked.

    Of a larger array one row is drawn at random from each of equal stretches, so that they keep their order.

    Raises:
        Unusable: a row that is not finite, or a file that ends too early.
    """
    N, D = array.shape
    kept = min(N, max(2, most // D))
    index = torch.arange(kept)
    if kept < N:
        jitter = torch.rand(kept, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        begin, end = index * N // kept, (index + 1) * N // kept  # of whole rows: none is drawn twice
        index = begin + (jitter * (end - begin)).long()
    rows = max(1, PIECE // D)
    parts, bad, first, start = [], 0, -1, 0
    try:
        for piece in progress(array.pieces(rows), -(-N // rows), array.path.name):
            piece = piece if piece.dtype == torch.float64 else piece.float()  # isfinite knows no 8 bits
            usable = piece.isfinite().all(1)
            if not usable.all():
                first = start + int((~usable).nonzero()[0]) if first < 0 else first
                bad += int((~usable).sum())
            low, high = torch.searchsorted(index, torch.tensor([start, start + len(piece)])).tolist()
            parts.append(piece[index[low:high] - start])
            start += len(piece)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise Unusable(f"{array}: the file ends or is damaged at row {start} ({error})") from None
    if bad:
        raise Unusable(
            f"{array}: {bad} of {N} rows hold inf or nan, the first is row {first}; leave them out"
        )
    return torch.cat(parts), index
