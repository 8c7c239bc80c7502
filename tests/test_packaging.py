"""What is installed: the wheel that the sdist builds, and an import that loads torch alone."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOSTS = ["hydra", "lightly", "lightning", "matplotlib", "pytorch_lightning", "scipy", "sklearn"]
HOSTS += ["solo", "timm", "torchvision", "triton"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the sdist, as an installer without a wheel would."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    assert [p.name for p in folder.glob("*.tar.gz")] == ["sigreg-0.1.0.tar.gz"]
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_library_and_nothing_generic(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"sigreg", "sigreg_adapters", "hydra_plugins"}
    assert {"sigreg/py.typed", "sigreg_adapters/py.typed"} <= set(names)
    hosts = ("lightly/loss", "stable_pretraining", "stable_worldmodel", "transformers", "eb_jepa")
    assert {"sigreg/conformance/golden.json", *(f"sigreg_adapters/{h}.py" for h in hosts)} <= set(names)
    assert "hydra_plugins/__init__.py" not in names  # a namespace shared with other packages


def test_the_sdist_holds_no_results_and_no_runs(wheel):
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as sdist:
        tops = {name.split("/")[1] for name in sdist.getnames()}
    named = {"sigreg", "adapters", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"}
    assert tops <= named | {"PKG-INFO", ".gitignore"}


def test_sigreg_depends_on_torch_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("sigreg-0.1.0.dist-info/METADATA").decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert [line for line in required if "extra ==" not in line] == ["Requires-Dist: torch>=2.6"]


def test_importing_the_wheel_loads_no_host(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = f"""
import sys
import torch
before = set(sys.modules)
sys.path.insert(0, {str(tmp_path)!r})
import sigreg, sigreg.univariate, sigreg.multivariate, sigreg.diagnostics, sigreg.conventions
import sigreg.inspect.cli
assert sigreg.__file__.startswith({str(tmp_path)!r})
import sigreg_adapters
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print(*sorted(new & set({HOSTS!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_public_submodule_is_an_attribute_of_the_package():
    program = "import sigreg; sigreg.conventions.convert_lambda(0.05, 'lightly', 'sigreg');"
    program += "[getattr(sigreg, name) for name in sigreg._LATER]; assert not hasattr(sigreg, 'unknown')"
    subprocess.run([sys.executable, "-c", program], check=True)
