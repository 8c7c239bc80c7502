"""SIGReg: keep embeddings isotropic Gaussian (LeJEPA, arXiv 2511.08544).

    from sigreg import SIGReg, LeJEPALoss

`SIGReg` is the regularizer, `LeJEPALoss` the whole objective.  The statistics
behind them are pure functions in `sigreg.univariate`; closed forms on whole
embeddings are in `sigreg.multivariate`.
"""

from sigreg.objective import LeJEPAComponents as LeJEPAComponents
from sigreg.objective import LeJEPALoss as LeJEPALoss
from sigreg.regularizer import SIGReg as SIGReg

__version__ = "0.1.0"
__all__ = ["LeJEPAComponents", "LeJEPALoss", "SIGReg", "__version__"]
