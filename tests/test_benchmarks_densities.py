"""The embeddings of `optimality`: their covariance, and the exact bias of a kernel probe."""

import numpy as np
import pytest

from benchmarks.densities import EMBEDDINGS, fisher, kernel_bias, sample, variances

D = 6


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_every_embedding_has_mean_zero_and_its_stated_covariance(name):
    n = 100_000
    z = sample(name, n, D, np.random.default_rng(0))
    expected = np.diag(variances(name, D))
    assert expected.trace() == pytest.approx(D)
    # The fourth moment is at most 9 times the squared variance: five standard errors of an entry.
    assert np.abs(z.mean(0)).max() < 5 * np.sqrt(expected.max() / n)
    assert np.abs(z.T @ z / n - expected).max() < 5 * np.sqrt(8 / n) * expected.max()


@pytest.mark.parametrize("h", [0.1, 0.7, 3.0])
def test_the_gaussians_bias_is_its_closed_form(h):
    """The kernel shrinks N(0, 1) towards 0 by h^2 / (1 + h^2)."""
    assert kernel_bias("gaussian", h, D) == pytest.approx(D * h**4 / (1 + h**2) ** 2, rel=1e-6)


@pytest.mark.parametrize("name", ["student t", "mixture", "anisotropic 10", "anisotropic 100"])
def test_a_narrow_kernels_bias_is_the_fisher_information(name):
    """Theorem 1, in the limit: the next term is of relative size h^2 over the least variance."""
    h = 0.02
    assert kernel_bias(name, h, D) / h**4 == pytest.approx(fisher(name, D), rel=0.02)


@pytest.mark.parametrize("name", ["laplace", "uniform", "sphere", "anisotropic 10"])
def test_the_bias_is_that_of_a_large_sample(name):
    """Against the kernel means over 200,000 samples at 400 queries: 4 standard errors over the queries."""
    h, rng = 1.0, np.random.default_rng(1)
    z, queries = sample(name, 200_000, 3, rng), sample(name, 400, 3, rng)
    found = []
    for q in queries:
        weights = np.exp(-((z - q) ** 2).sum(1) / (2 * h**2))
        found.append(((weights @ z / weights.sum() - q) ** 2).sum())
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - kernel_bias(name, h, 3)) < 4 * error + 1e-3
