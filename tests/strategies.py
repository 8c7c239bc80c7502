"""Samples together with their exact answers: what a statistic must say where a hand can compute it."""

import math
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr, ndtri

from tests import oracles
from tests.oracles import Sample


class Case(NamedTuple):
    """A sample and the values known for it in closed form, by the name of the row in the contract table."""

    kind: str
    x: Sample
    answers: dict[str, float]


@st.composite
def constants(draw: st.DrawFn) -> Case:
    """N times the same number c."""
    N = draw(st.integers(2, 40))
    c = draw(st.floats(-6, 6).map(lambda v: round(v, 3)))
    F, m = float(ndtr(c)), oracles.window(N)
    t, w, phi = oracles.grid()
    blom = oracles.normal_scores(N)
    vcreg = N * (c**2 + 2)
    jarque_bera = 3 * N / 8
    return Case(
        "constant",
        np.full(N, c),
        {
            "epps_pulley": N * float((w * (1 - 2 * phi * np.cos(t * c) + phi**2)).sum()),
            "vcreg": vcreg,
            "jarque_bera": jarque_bera,
            "extended_jarque_bera": jarque_bera + vcreg,
            "moments": N
            * (c**2 + (c**2 - 1) ** 2 / 2 + (c**3 - 3 * c) ** 2 / 6 + (c**4 - 6 * c**2 + 3) ** 2 / 24),
            "cramer_von_mises": N * ((F - 0.5) ** 2 + 1 / 12),
            "watson": N / 12,
            "anderson_darling": -N * float(1 + log_ndtr(c) + log_ndtr(-c)),
            "shapiro_francia": N,
            "shapiro_francia scale": N * c**2 + float((blom**2).sum()),
            "vasicek_entropy": N * (0.5 * math.log(2 * math.pi) + c**2 / 2 - math.log(N / (2 * m) * 1e-8)),
        },
    )


@st.composite
def two_points(draw: st.DrawFn) -> Case:
    """-a and a, as often."""
    n = draw(st.integers(2, 20))
    a = draw(st.floats(0.05, 6).map(lambda v: round(v, 3)))
    N, m = 2 * n, oracles.window(2 * n)
    p, log_p, log_q = float(ndtr(-a)), float(log_ndtr(-a)), float(log_ndtr(a))
    t, w, phi = oracles.grid()
    blom = np.abs(oracles.normal_scores(N))
    between = N * ((p - 0.25) ** 2 + 1 / 48)
    entropy = (2 * m * math.log(N / m * a) + (N - 2 * m) * math.log(N / (2 * m) * 1e-8)) / N
    return Case(
        "two points",
        np.repeat([-a, a], n),
        {
            "epps_pulley": N * float((w * (np.cos(t * a) - phi) ** 2).sum()),
            "vcreg": 2 * N * (a - 1) ** 2,
            "jarque_bera": N / 6,
            "extended_jarque_bera": N / 6 + 2 * N * (a - 1) ** 2,
            "moments": N * ((a**2 - 1) ** 2 / 2 + (a**4 - 6 * a**2 + 3) ** 2 / 24),
            "cramer_von_mises": between,
            "watson": between,
            "anderson_darling": -N * (1 + log_p / 2 + 3 * log_q / 2),
            "shapiro_francia": N * (1 - float(blom.sum()) ** 2 / (N * float((blom**2).sum()))),
            "shapiro_francia scale": float(((a - blom) ** 2).sum()),
            "vasicek_entropy": N * (0.5 * math.log(2 * math.pi) + a**2 / 2 - entropy),
        },
    )


@st.composite
def symmetric(draw: st.DrawFn) -> Case:
    """x and -x: skewness, every odd moment and the imaginary part of phi_hat are 0; mean F is 1/2."""
    half = np.array(draw(st.lists(st.floats(0.01, 8), min_size=2, max_size=20, unique=True)))
    x = np.concatenate([half, -half])
    N = len(x)
    t, w, phi = oracles.grid()
    kurtosis = float((x**4).mean() / (x**2).mean() ** 2)
    return Case(
        "symmetric",
        x,
        {
            "epps_pulley": N * float((w * (np.cos(np.outer(t, half)).mean(1) - phi) ** 2).sum()),
            "vcreg": 2 * N * (math.sqrt(float((half**2).mean())) - 1) ** 2,
            "jarque_bera": N / 24 * (kurtosis - 3) ** 2,
            "watson": oracles.cramer_von_mises(x),
        },
    )


@st.composite
def quantiles(draw: st.DrawFn) -> Case:
    """F^{-1}((i - 1/2)/N): the sample whose distribution function is nearest to F."""
    N = draw(st.integers(2, 200))
    u = (np.arange(N) + 0.5) / N
    coins = float((u * np.log(u) + (1 - u) * np.log1p(-u)).sum())
    return Case(
        "quantiles",
        ndtri(u),
        {"cramer_von_mises": 1 / (12 * N), "watson": 1 / (12 * N), "anderson_darling": -N - 2 * coins},
    )


@st.composite
def scores(draw: st.DrawFn) -> Case:
    """Normal scores on a line: a perfect Q-Q plot."""
    N, sd, mean = draw(st.integers(2, 200)), draw(st.floats(0.1, 10)), draw(st.floats(-10, 10))
    x = oracles.normal_scores(N)
    return Case("scores", mean + sd * x, {"shapiro_francia": 0.0})


def samples(
    min_size: int = 2, max_size: int = 40, bound: float = 30.0, unique: bool = False
) -> st.SearchStrategy[Sample]:
    """Any finite sample to four decimals, ties and clusters included.

    Closer neighbours would ask an oracle for a kurtosis that float64 cannot hold; what happens there is
    tested by name (`HARD` in the contract table) and, for what is bounded, on `wild_samples`.
    """
    number = st.floats(-bound, bound).map(lambda v: round(v, 4)) | st.integers(-3, 3).map(float)
    if unique:
        number = st.integers(-4000, 4000).map(lambda i: i / 1000 * bound / 4)
    size = {"min_size": min_size, "max_size": max_size}
    return st.lists(number, unique=unique, **size).map(lambda v: np.array(v, dtype=np.float64))


def wild_samples() -> st.SearchStrategy[Sample]:
    """Up to 8 numbers of any kind: moderate, huge, collapsed, of a Cauchy distribution."""

    def floats(bound: float) -> st.SearchStrategy[Sample]:
        return st.lists(st.floats(-bound, bound), min_size=2, max_size=8).map(np.array)

    return st.one_of(
        floats(6.0),
        floats(1e6),
        st.tuples(floats(6.0), st.sampled_from([0.0, 1e-6, 1e-3])).map(lambda pair: pair[0] * pair[1]),
        st.lists(st.floats(0.01, 0.99), min_size=2, max_size=8).map(
            lambda u: np.tan(math.pi * (np.array(u) - 0.5))
        ),
    )


def anything() -> st.SearchStrategy[Case]:
    return samples().map(lambda x: Case("any", x, {}))


def cases() -> st.SearchStrategy[Case]:
    return st.one_of(constants(), two_points(), symmetric(), quantiles(), scores(), anything())


def alternatives(N: int, K: int, seed: int) -> dict[str, Sample]:
    """(N, K) samples that are not N(0,1); all but the first two share its mean and variance."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal((N, K))
    three = rng.choice([-math.sqrt(3), 0, math.sqrt(3)], size=(N, K), p=[1 / 6, 2 / 3, 1 / 6])
    return {
        "shifted": g + 0.5,
        "scaled": 1.5 * g,
        "uniform": rng.uniform(-math.sqrt(3), math.sqrt(3), (N, K)),
        "Laplace": rng.laplace(scale=math.sqrt(0.5), size=(N, K)),
        "bimodal": 0.95 * rng.choice([-1.0, 1.0], size=(N, K)) + math.sqrt(1 - 0.95**2) * g,
        "heavy-tailed": rng.standard_t(3, size=(N, K)) / math.sqrt(3),
        # the three-point Gauss-Hermite rule shares five moments with N(0,1); so does its mixture with it
        "same first four moments": math.sqrt(1 - 0.09) * three + 0.3 * g,
    }
