"""Embeddings of one total variance and many shapes: samples of each, and the exact bias of a kernel probe.

Every density has mean 0 and total variance D.  All but the anisotropic ones have the identity as covariance;
all but the sphere have independent coordinates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]

GAP = 0.8  # of the mixture: each coordinate is N(+-GAP, 1 - GAP^2)
KAPPA = {"anisotropic 10": 10.0, "anisotropic 100": 100.0}  # largest over smallest variance
COORDINATES = {  # the density of one coordinate, variance 1
    "gaussian": stats.norm(),
    "laplace": stats.laplace(scale=math.sqrt(0.5)),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "student t": stats.t(5, scale=math.sqrt(3 / 5)),
}
EMBEDDINGS = (*COORDINATES, "mixture", "sphere", *KAPPA)


def variances(name: str, D: int) -> Array:
    """The variance of each coordinate; geometric progressions for the anisotropic ones, sum D."""
    spectrum = np.geomspace(1, KAPPA.get(name, 1.0), D)
    return spectrum * D / spectrum.sum()


def sample(name: str, n: int, D: int, rng: np.random.Generator) -> Array:
    """n embeddings `(n, D)`."""
    if name == "mixture":
        return GAP * rng.choice([-1.0, 1.0], (n, D)) + math.sqrt(1 - GAP**2) * rng.standard_normal((n, D))
    if name in COORDINATES:
        return COORDINATES[name].rvs((n, D), random_state=rng)
    z = rng.standard_normal((n, D))
    if name == "sphere":
        return z * math.sqrt(D) / np.linalg.norm(z, axis=1, keepdims=True)
    return z * np.sqrt(variances(name, D))


def kernel_bias(name: str, h: float, D: int) -> float:
    """Integrated squared bias of Gaussian-kernel regression of bandwidth h for linear tasks of unit gradient.

        E_q |m(q) - q|^2,   m(q) the mean of the density near q as the kernel weights it

    with infinitely many samples: what is left is bias.  Exact up to quadrature; for h -> 0 it is h^4 times
    the Fisher information of the density, where it has one.
    """
    if name == "sphere":  # von Mises and Fisher's mean resultant length at concentration D / h^2
        shrunk = special.ive(D / 2, D / h**2) / special.ive(D / 2 - 1, D / h**2)
        return float(D * (1 - shrunk) ** 2)
    if name in KAPPA:
        v = variances(name, D)
        return float((v / (1 + v / h**2) ** 2).sum())
    step = math.sqrt(3) / 400  # the uniform density ends between two points of the grid
    z = (np.arange(-9000, 9000) + 0.5) * step
    p = _density(name, z)
    u = np.arange(-round(8 * h / step), round(8 * h / step) + 1) * step
    kernel = np.exp(-(u**2) / (2 * h**2))
    near = np.convolve(p, kernel, "same")
    displaced = np.convolve(p, -u * kernel, "same")
    inside = (p > 0) & (near > 0)
    return float(D * (p[inside] * (displaced[inside] / near[inside]) ** 2).sum() / p.sum())


def _density(name: str, z: Array) -> Array:
    if name == "mixture":
        sd = math.sqrt(1 - GAP**2)
        return (stats.norm.pdf(z, GAP, sd) + stats.norm.pdf(z, -GAP, sd)) / 2
    return COORDINATES[name].pdf(z)


def fisher(name: str, D: int) -> float:
    """The Fisher information J(p) of Theorem 1; infinite for the uniform density and, in the limit of ever
    thinner shells, for the sphere.

    tr(Sigma^-1) for the Gaussians, 2 D for Laplace, D (nu + 1) nu / ((nu + 3) (nu - 2)) for Student's t.
    """
    if name in ("uniform", "sphere"):
        return math.inf
    if name == "laplace":
        return 2.0 * D
    if name == "student t":
        return D * 6 * 5 / (8 * 3)
    if name == "mixture":
        z = np.linspace(-6, 6, 4001)
        p = _density(name, z)
        return float(D * (np.gradient(p, z) ** 2 / p).sum() * (z[1] - z[0]))
    return float((1 / variances(name, D)).sum())
