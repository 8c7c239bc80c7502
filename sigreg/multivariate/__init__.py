"""Closed forms on whole embeddings `(..., N, D) -> (...)`, in O(N^2 D) and without slices."""

from sigreg.multivariate.bhep import bhep as bhep
from sigreg.multivariate.bhep import henze_zirkler as henze_zirkler
from sigreg.multivariate.exact import exact_sigreg as exact_sigreg

__all__ = ["bhep", "exact_sigreg", "henze_zirkler"]
