"""Fixtures of several files: every kernel, and the two packages that Lightning comes in."""

import importlib

import pytest

from tests.kernel_cases import backend  # noqa: F401 (a fixture)


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    """Each of the two packages."""
    return importlib.import_module(request.param)


@pytest.fixture
def lightning():
    """The present one."""
    return importlib.import_module("lightning.pytorch")
