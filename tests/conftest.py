"""The two packages that Lightning comes in."""

import importlib

import pytest


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def pl(request):
    """Each of them."""
    return importlib.import_module(request.param)


@pytest.fixture
def lightning():
    """The present one."""
    return importlib.import_module("lightning.pytorch")
