"""How far embeddings are from a Gaussian sample, and what is wrong with them.

`gaussianity` compares every number of a sample with those of samples of N(0, I); `diagnose` names known
defects in words; `reachable_value` says what SIGReg can reach at a given rank.
"""

from sigreg.diagnostics.batch import BatchDiagnosis as BatchDiagnosis
from sigreg.diagnostics.batch import diagnose_batch as diagnose_batch
from sigreg.diagnostics.findings import FINDINGS as FINDINGS
from sigreg.diagnostics.findings import Diagnosis as Diagnosis
from sigreg.diagnostics.findings import diagnose as diagnose
from sigreg.diagnostics.gaussianity import Gaussianity as Gaussianity
from sigreg.diagnostics.gaussianity import Measure as Measure
from sigreg.diagnostics.gaussianity import gaussianity as gaussianity
from sigreg.diagnostics.measured import Measured as Measured
from sigreg.diagnostics.reachable import collapsed_value as collapsed_value
from sigreg.diagnostics.reachable import expected_value as expected_value
from sigreg.diagnostics.reachable import reachable_value as reachable_value
from sigreg.diagnostics.rules import Finding as Finding

__all__ = [
    "FINDINGS",
    "BatchDiagnosis",
    "Diagnosis",
    "Finding",
    "Gaussianity",
    "Measure",
    "Measured",
    "collapsed_value",
    "diagnose",
    "diagnose_batch",
    "expected_value",
    "gaussianity",
    "reachable_value",
]
