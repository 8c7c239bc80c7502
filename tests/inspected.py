"""Files of embeddings for `python -m sigreg inspect`, and the line that it refuses one with."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sigreg.__main__ import main


def write(path, z: Tensor) -> None:
    if path.suffix == ".npy":
        np.save(path, z.numpy())
    elif path.name == "compressed.npz":
        np.savez_compressed(path, z=z.numpy())
    elif path.name == "fortran.npz":
        np.savez(path, z=np.asfortranarray(z.numpy()))
    elif path.suffix == ".npz":
        np.savez(path, labels=np.arange(len(z)), z=z.numpy())
    elif path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file({"z": z.contiguous()}, path)
    else:
        torch.save({"z": z, "step": 3} if path.name == "dict.pt" else z, path)


def refused(capsys, *arguments) -> str:
    """The one line on stderr of an unusable input."""
    assert main(["inspect", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err
