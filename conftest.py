"""Settings every test shares: one thread, since the tensors are small, and hypothesis profiles."""

import os
from importlib.util import find_spec

import hypothesis
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile("everyday", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("long", max_examples=500, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "everyday"))

# Doctests are collected from every adapter whose host is there; solo-learn exists as a clone only.
ADAPTERS = {"solo": "solo_learn/methods.py", "transformers": "transformers.py"}
collect_ignore = [
    f"adapters/sigreg_adapters/{file}" for host, file in ADAPTERS.items() if not find_spec(host)
]
