"""Sphinx's settings.  `make docs` builds the site into docs/_build/html."""

import importlib.util
import os
import re
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the kernel that runs the tutorial
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent), str(HERE.parent / "adapters")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
warnings.filterwarnings("ignore", module="(?!sigreg)")  # hosts warn when they are imported

project = "sigreg"
author = copyright = "The sigreg authors"
version = release = re.search(r'__version__ = "(.+)"', (HERE.parent / "sigreg/__init__.py").read_text())[1]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "plain_docstrings",
    "repository_files",
    "full_size_images",
    "readable_tables",
]
exclude_patterns = ["_build", "demo"]
suppress_warnings = ["myst.header"]  # READMEs may leave out a level

# Markdown
myst_heading_anchors = 4
nb_execution_mode = "auto"  # runs the tutorial, which is kept as text
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Docstrings.  Hosts that are not installed here are replaced: their adapters have docstrings all the same.
HOSTS = ("lightly", "lightning", "omegaconf", "pytorch_lightning", "solo", "timm", "transformers", "triton")
autodoc_mock_imports = [name for name in HOSTS if importlib.util.find_spec(name) is None]
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True  # a list, where the fields have no entries of their own
napoleon_custom_sections = ["Shapes"]
maximum_signature_line_length = 88
autodoc_inherit_docstrings = False  # what nn.Module says of `forward` is not what these do
python_use_unqualified_type_names = True
# Types of torch and typing have no page here, and the inventories of their sites are on the network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!sigreg).*"),
    ("py:class", r"sigreg\.(sample\.Sample|microbatches\.(Part|Result))"),
]

# Pages
html_theme = "furo"
pygments_style, pygments_dark_style = "default", "monokai"  # these colour diffs red and green
highlight_language = "none"  # formulas in docstrings; Markdown names its languages
html_title = "sigreg"
html_static_path, html_css_files = ["static"], ["tables.css"]
html_show_sphinx = False
html_copy_source = False  # some pages show a file of the repository, so that their own text says nothing
viewcode_line_numbers = True
