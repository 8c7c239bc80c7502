"""Spherical designs: K directions that integrate all even polynomials up to a degree as well as they can.

A statistic does not tell a direction from its opposite, so only even degrees count.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]


def harmonics(degree: int, D: int) -> int:
    """How many spherical harmonics of a degree there are on the unit sphere of R^D."""
    lower = math.comb(degree + D - 3, D - 1) if degree > 1 else 0
    return math.comb(degree + D - 1, D - 1) - lower


def design_degree(D: int, K: int) -> int:
    """The largest even degree for which K directions have as many coordinates as there are conditions."""
    free, degree = (D - 1) * K - D * (D - 1) // 2, 2
    while sum(harmonics(n, D) for n in range(2, degree + 3, 2)) <= free:
        degree += 2
    return degree


def energy(A: Array, degree: int) -> tuple[float, Array]:
    """Mean over pairs of sum_n P_n(a_j . a_k), n = 2, 4, ... degree, and its gradient `(D, K)` in A.

    P_n is Gegenbauer's polynomial with P_n(1) = 1; each term is a sum of squares of the mean harmonics, so
    that 0 is reached exactly by spherical designs.
    """
    D, K = A.shape
    x = A.T @ A
    P, Q = np.ones_like(x), x.copy()  # P_n, P_(n+1)
    dP, dQ = np.zeros_like(x), np.ones_like(x)
    total, slope = 0.0, np.zeros_like(x)
    for n in range(1, degree):
        following = ((2 * n + D - 2) * x * Q - n * P) / (n + D - 2)
        d_following = ((2 * n + D - 2) * (Q + x * dQ) - n * dP) / (n + D - 2)
        P, Q, dP, dQ = Q, following, dQ, d_following
        if n % 2:
            total += float(Q.mean())
            slope += dQ
    return total, 2 * A @ slope / K**2


def design(D: int, K: int, rng: np.random.Generator, steps: int = 2000) -> Array:
    """K unit columns `(D, K)`, from random ones by L-BFGS on `energy` at `design_degree`."""
    degree = design_degree(D, K)

    def objective(flat: Array) -> tuple[float, Array]:
        X = flat.reshape(D, K)
        length = np.linalg.norm(X, axis=0)
        A = X / length
        value, gradient = energy(A, degree)
        return K * value, (K * (gradient - A * (A * gradient).sum(0)) / length).ravel()

    options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 0.0, "gtol": 1e-13}
    start = rng.standard_normal(D * K)
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x.reshape(D, K)
    return found / np.linalg.norm(found, axis=0)
