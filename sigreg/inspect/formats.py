"""The formats of files of arrays: what each holds, and its rows in pieces."""

from __future__ import annotations

import importlib
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Unusable(Exception):
    """A file that cannot be inspected, and why, in one line."""


@dataclass(frozen=True)
class Array:
    """One array of a file: its shape, and a function that gives its rows in order, `rows` at a time."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[int], Iterator[Tensor]]

    def __str__(self) -> str:
        return f"{self.path}[{self.name}]" if self.name else str(self.path)


def need(module: str, package: str, purpose: str) -> Any:
    """An optional module, or a line that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Unusable(f"{purpose} needs {package}, which is not installed: pip install {package}") from None


def _tensor(a: Any) -> Tensor:
    """A NumPy array of any byte order and precision as a tensor of its own.

    Raises:
        TypeError: numbers of another kind, or none.
    """
    if a.dtype.kind == "f" and a.dtype.itemsize > 8:
        a = a.astype("float64")
    return torch.from_numpy(a.astype(a.dtype.newbyteorder("="), copy=True))


def _npy(path: Path, allow_pickle: bool) -> dict[str, Array]:
    np = need("numpy", "numpy", "reading .npy files")
    try:
        a = np.load(path, mmap_mode="r")
    except ValueError as error:
        if "allow_pickle" not in str(error) and "Python objects" not in str(error):
            raise
        a = _unpickled(path, np.load(path, allow_pickle=True)) if allow_pickle else _refused(path)
    if not isinstance(a, np.ndarray):
        raise Unusable(f"{path}: the file is no .npy file; is it an .npz?")
    return {"": _from_numpy(path, "", a)}


def _from_numpy(path: Path, name: str, a: Any) -> Array:
    def pieces(rows: int) -> Iterator[Tensor]:
        for i in range(0, len(a), rows):
            yield _tensor(a[i : i + rows])

    return Array(path, name, a.shape, _name(a.dtype), pieces)


def _name(dtype: Any) -> str:
    """The name of a NumPy dtype in any byte order: "float32" also of ">f4"."""
    return str(dtype.newbyteorder("="))


def _unpickled(path: Path, a: Any) -> Any:
    """An array of Python objects as numbers, where its rows have one length."""
    np = need("numpy", "numpy", "reading .npy files")
    try:
        return np.asarray(a.tolist(), dtype="float64")
    except (ValueError, TypeError):
        raise Unusable(f"{path}: the rows differ in length or are not numbers; expected (N, D)") from None


def _refused(path: Path) -> Any:
    raise Unusable(
        f"{path}: it holds pickled Python objects, which can run any code when loaded; save plain arrays, or "
        "give --allow-pickle if you trust the file"
    )


def _npz(path: Path, allow_pickle: bool) -> dict[str, Array]:
    """The members of a zip file, decompressed as they are read."""
    np = need("numpy", "numpy", "reading .npz files")
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            with archive.open(member) as file:
                shape, fortran, dtype = _npy_header(np, file)
            if dtype.hasobject and not allow_pickle:
                _refused(path)
            if fortran or dtype.hasobject:
                a = np.load(path, allow_pickle=dtype.hasobject)[name]
                arrays[name] = _from_numpy(path, name, _unpickled(path, a) if dtype.hasobject else a)
            else:
                arrays[name] = Array(path, name, shape, _name(dtype), _npz_pieces(np, path, member))
    return arrays


def _npy_header(np: Any, file: Any) -> tuple[tuple[int, ...], bool, Any]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _npz_pieces(np: Any, path: Path, member: str) -> Callable[[int], Iterator[Tensor]]:
    def pieces(rows: int) -> Iterator[Tensor]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            shape, _, dtype = _npy_header(np, file)
            for i in range(0, shape[0], rows):
                now = min(rows, shape[0] - i)
                data = file.read(now * math.prod(shape[1:]) * dtype.itemsize)
                yield _tensor(np.frombuffer(data, dtype).reshape(now, *shape[1:]))

    return pieces


def _torch(path: Path, allow_pickle: bool) -> dict[str, Array]:
    try:
        try:
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=not allow_pickle)
        except RuntimeError as error:  # the format before torch 1.6 cannot be mapped
            if "mmap" not in str(error):
                raise
            loaded = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if allow_pickle or "weights_only" not in str(error).lower().replace(" ", "_"):
            raise
        _refused(path)
    if isinstance(loaded, (list, tuple)) and loaded and all(isinstance(t, Tensor) for t in loaded):
        widths = {tuple(t.shape[1:]) for t in loaded}
        if len(widths) > 1 or any(t.ndim == 0 for t in loaded):
            raise Unusable(f"{path}: it holds a list of tensors whose rows differ in length; expected (N, D)")
        loaded = torch.cat(loaded) if loaded[0].ndim == 2 else torch.stack(loaded)
    named = {"": loaded} if isinstance(loaded, Tensor) else loaded
    if not isinstance(named, dict):
        raise Unusable(f"{path}: expected a tensor or a dict of tensors, got {type(loaded).__name__}")
    return {str(k): _from_tensor(path, str(k), t) for k, t in named.items() if isinstance(t, Tensor)}


def _from_tensor(path: Path, name: str, t: Tensor) -> Array:
    def pieces(rows: int) -> Iterator[Tensor]:
        if t.layout != torch.strided:
            raise Unusable(f"{path}: expected a dense tensor, got {t.layout}; save z.to_dense()")
        for i in range(0, len(t), rows):
            yield t[i : i + rows].detach().clone()

    return Array(path, name, tuple(t.shape), str(t.dtype).removeprefix("torch."), pieces)


def _safetensors(path: Path, allow_pickle: bool) -> dict[str, Array]:
    safetensors = need("safetensors", "safetensors", "reading .safetensors files")
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

    def pieces_of(name: str) -> Callable[[int], Iterator[Tensor]]:
        def pieces(rows: int) -> Iterator[Tensor]:
            with safetensors.safe_open(path, framework="pt") as file:
                part = file.get_slice(name)
                for i in range(0, part.get_shape()[0], rows):
                    yield part[i : i + rows]

        return pieces

    with safetensors.safe_open(path, framework="pt") as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (the file is no dict)
        return {
            name: Array(
                path, name, tuple(s.get_shape()), names.get(s.get_dtype(), s.get_dtype()), pieces_of(name)
            )
            for name, s in found.items()
        }


READERS: dict[str, Callable[[Path, bool], dict[str, Array]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
}
"""By suffix: all arrays of a file by name, `(path, allow_pickle) -> {name: array}`; only headers are read."""
