"""Doctests are collected from every adapter whose host is there; solo-learn exists as a clone only."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("solo") else ["sigreg_adapters/solo_learn/methods.py"]
