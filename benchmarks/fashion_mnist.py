"""Fashion-MNIST as arrays, from a Debian package: `python -m benchmarks.data fashion_mnist DIR`.

Written is DIR/images.npz, in the order of the data set.  The files come from the package
dataset-fashion-mnist where it is installed (`apt-get install dataset-fashion-mnist`), else the package is
downloaded with `apt-get` and unpacked with `dpkg-deb`.  (`data=fashion_mnist` instead takes torchvision's
download.)  Its licence is MIT.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "dataset-fashion-mnist"
FOLDER = "usr/share/datasets/fashion-mnist"
FILES = {  # the SHA-256 of each file's content, unpacked
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def write(folder: Path, root: Path = Path("/")) -> None:
    """Fetch where needed, check and write.  Raises SystemExit when a file is not the one expected."""
    with tempfile.TemporaryDirectory() as scratch:
        if not (root / FOLDER).exists():
            root = _fetched(Path(scratch))
        train, train_labels, test, test_labels = (_read(root / FOLDER / f"{name}.gz") for name in FILES)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "images.npz",
        train_images=train[..., None],
        train_labels=train_labels,
        test_images=test[..., None],
        test_labels=test_labels,
    )


def _fetched(scratch: Path) -> Path:
    """A folder with the package's files, downloaded.  Raises SystemExit where that fails."""
    try:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        (package,) = scratch.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), "."], cwd=scratch, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"the Debian package {PACKAGE} could not be fetched ({error}); run apt-get update first, or use "
            "data=fashion_mnist, which torchvision downloads"
        ) from None
    return scratch


def _read(path: Path) -> NDArray[np.uint8]:
    """The array of one file: a four-byte magic number, the sizes as 32-bit integers, the bytes."""
    content = gzip.decompress(path.read_bytes())
    if (found := hashlib.sha256(content).hexdigest()) != (expected := FILES[path.stem]):
        raise SystemExit(f"{path.name}: the content has the SHA-256 {found}, expected {expected}")
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
