"""Every adapter's module names the version of its host that these tests run with."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

ADAPTERS = Path(__file__).resolve().parents[2] / "adapters" / "sigreg_adapters"
HOSTS = {
    "lightly": ["lightly"],
    "lightning": ["lightning"],
    "stable_pretraining": ["stable-pretraining"],
    "stable_worldmodel": ["stable-worldmodel"],
    "timm": ["timm"],
    "transformers": ["transformers", "accelerate"],
}


@pytest.mark.parametrize("module", HOSTS)
def test_the_version_that_is_installed_was_tried(module):
    text = (ADAPTERS / f"{module}.py").read_text()
    (said,) = re.findall(r"^Tried with (.*?)\.$", text, re.MULTILINE | re.DOTALL)
    for host in HOSTS[module]:
        assert version(host) in re.findall(r"\d+(?:\.\d+)+", said), f"{host} {version(host)}: {said}"
