"""SIGReg for lightly: `LeJEPALoss` and `SIGReg` with lightly's signatures, and LeJEPA's transform.

Change the import and nothing else:

    - from lightly.loss import LeJEPALoss
    + from sigreg_adapters.lightly import LeJEPALoss

Signatures and values are those of lightly 1.6.0 under every version: 1.5.23 has no `LeJEPALoss` and no
`LeJEPAProjectionHead`, and the loss of 1.5.24 to 1.5.26 leaves the global views out.

Tried with lightly 1.5.23, 1.5.26 and 1.6.0.
"""

from sigreg_adapters.lightly.head import LeJEPAProjectionHead
from sigreg_adapters.lightly.loss import LeJEPALoss, SIGReg
from sigreg_adapters.lightly.transform import LeJEPATransform

__all__ = ["LeJEPALoss", "LeJEPAProjectionHead", "LeJEPATransform", "SIGReg"]
