"""Fixtures of several files: every kernel, the two packages that Lightning comes in, a file of embeddings."""

import importlib

import pytest

from tests.inspected import write
from tests.kernel_cases import backend  # noqa: F401 (a fixture)
from tests.samples import normal


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    """Each of the two packages."""
    return importlib.import_module(request.param)


@pytest.fixture
def lightning():
    """The present one."""
    return importlib.import_module("lightning.pytorch")


@pytest.fixture
def healthy(tmp_path):
    """A file of 200 rows of N(0, I), 16 columns."""
    path = tmp_path / "healthy.npy"
    write(path, normal(200, 16))
    return path
