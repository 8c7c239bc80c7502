"""SIGReg: keep embeddings isotropic Gaussian (LeJEPA, arXiv 2511.08544).

    from sigreg import SIGReg, LeJEPALoss

`SIGReg` is the regularizer, `LeJEPALoss` the whole objective.  The statistics
behind them are pure functions in `sigreg.univariate`; closed forms on whole
embeddings are in `sigreg.multivariate`.
"""

import importlib
from typing import Any

from sigreg.objective import LeJEPAComponents as LeJEPAComponents
from sigreg.objective import LeJEPALoss as LeJEPALoss
from sigreg.regularizer import SIGReg as SIGReg

__version__ = "0.1.0"
__all__ = ["LeJEPAComponents", "LeJEPALoss", "SIGReg", "__version__"]

_LATER = (
    "conformance",
    "conventions",
    "diagnostics",
    "microbatches",
    "multivariate",
    "selection",
    "sequences",
)


def __getattr__(name: str) -> Any:
    """The public submodules that nothing above imports, on their first use."""
    if name in _LATER:
        return importlib.import_module(f"sigreg.{name}")
    raise AttributeError(f"module 'sigreg' has no attribute {name!r}")
