"""Golden values: inputs, values and gradients in float64, for ports in other languages.

`golden.json` holds three lists, computed from the definition alone (`sigreg.conformance.oracle`):

    univariate   x (N), weights (N) or null, t_max, num_points -> value, gradient (N)
    sliced       z (N, D), directions (D, K), weights -> value, gradient (N, D)
    objective    views (V, N, D), directions, num_global, lambda_param -> prediction, sigreg, total, gradient

A port takes the inputs as they are written (decimal fractions, exact to the last digit shown), draws no
directions of its own, and compares: 1e-12 in float64, 1e-5 in float32, relative to the largest entry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigreg.conformance.oracle import Grid

FILE = Path(__file__).with_name("golden.json")
Golden = dict[str, Any]


def load() -> Golden:
    """The golden values as they were committed.

    Returns:
        The lists "univariate", "sliced" and "objective" of the module's description, and "about", the
        description itself.

    Example:
        >>> case = load()["sliced"][0]
        >>> sorted(case)
        ['directions', 'gradient', 'name', 'value', 'weights', 'z']
        >>> round(case["value"], 6)
        0.541894
    """
    found: Golden = json.loads(FILE.read_text())
    return found


def computed() -> Golden:
    """The golden values computed anew, in float64, under the same keys as those of `load`.

    Example:
        >>> [len(computed()[key]) for key in ("univariate", "sliced", "objective")]
        [20, 2, 2]
    """
    normal = _numbers(9)
    univariate = []
    samples = {
        "near the Gaussian": normal,
        "collapsed onto 0": [0.0] * 8,
        "collapsed onto 1.5": [1.5] * 8,
        "wide": [round(4 * x, 2) for x in normal],
        "narrow": [round(x / 10, 3) for x in normal],
        "one far away": [*normal[:5], 40.0],
    }
    for name, x in samples.items():
        for t_max, num_points in ((3.0, 17), (4.0, 9), (5.0, 17)):
            univariate.append(_univariate(name, x, None, t_max, num_points))
    univariate.append(_univariate("weighted", normal, [1.0, 0.5, 2.0, 0.0, 1.0, 0.25, 1.0, 3.0, 1.0]))
    univariate.append(_univariate("masked", normal, [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    z, A = _table(6, 3, 1), _unit(_table(3, 4, 2))
    sliced = [_sliced("plain", z, A, None), _sliced("masked", z, A, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0])]
    views = [_table(5, 3, seed) for seed in (3, 4, 5)]
    objective = [_objective(views, A, num_global, 0.05) for num_global in (2, 3)]
    return {"about": __doc__, "univariate": univariate, "sliced": sliced, "objective": objective}


def dumps(golden: Golden) -> str:
    """One case a line, so that a change shows in a diff."""
    lists = [
        f" {json.dumps(key)}: [\n  " + ",\n  ".join(json.dumps(case) for case in golden[key]) + "\n ]"
        for key in ("univariate", "sliced", "objective")
    ]
    return "{\n" + ",\n".join([f' "about": {json.dumps(golden["about"])}', *lists]) + "\n}"


def _numbers(count: int, seed: int = 0) -> list[float]:
    """Two-digit numbers that look normal, from a linear congruence: no library's generator is needed."""
    state, out = 12345 + seed, []
    for _ in range(count):
        total = 0.0
        for _ in range(12):
            state = (1103515245 * state + 12345) % 2**31
            total += state / 2**31
        out.append(round(total - 6, 2))
    return out


def _table(rows: int, columns: int, seed: int) -> list[list[float]]:
    numbers = _numbers(rows * columns, seed)
    return [numbers[i * columns : (i + 1) * columns] for i in range(rows)]


def _unit(A: list[list[float]]) -> list[list[float]]:
    a = _tensor(A)
    return (a / a.norm(dim=0)).tolist()  # type: ignore[no-any-return]


def _tensor(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _statistic(x: Tensor, weights: Tensor | None, grid: Grid) -> Tensor:
    """N times the distance, where N = (sum w)^2 / sum w^2."""
    N = len(x) if weights is None else weights.sum() ** 2 / weights.square().sum()
    return N * grid.distance(x, weights)


def _univariate(
    name: str, x: list[float], weights: list[float] | None, t_max: float = 3.0, num_points: int = 17
) -> Golden:
    leaf = _tensor(x).requires_grad_()
    value = _statistic(leaf, None if weights is None else _tensor(weights), Grid(t_max, num_points))
    (gradient,) = torch.autograd.grad(value, leaf)
    grid = {"t_max": t_max, "num_points": num_points}
    result = {"value": value.item(), "gradient": gradient.tolist()}
    return {"name": name, "x": x, "weights": weights, **grid, **result}


def _mean_over_slices(z: Tensor, A: Tensor, weights: Tensor | None = None) -> Tensor:
    return torch.stack([_statistic(column, weights, Grid()) for column in (z @ A).T]).mean()


def _sliced(name: str, z: list[list[float]], A: list[list[float]], weights: list[float] | None) -> Golden:
    leaf = _tensor(z).requires_grad_()
    value = _mean_over_slices(leaf, _tensor(A), None if weights is None else _tensor(weights))
    (gradient,) = torch.autograd.grad(value, leaf)
    result = {"value": value.item(), "gradient": gradient.tolist()}
    return {"name": name, "z": z, "directions": A, "weights": weights, **result}


def _objective(views: Any, A: list[list[float]], num_global: int, lambda_param: float) -> Golden:
    leaf = _tensor(views).requires_grad_()
    prediction = (leaf - leaf[:num_global].mean(0)).square().mean()
    sigreg = torch.stack([_mean_over_slices(view, _tensor(A)) for view in leaf]).mean()
    total = (1 - lambda_param) * prediction + lambda_param * sigreg
    (gradient,) = torch.autograd.grad(total, leaf)
    settings = {"num_global": num_global, "lambda_param": lambda_param}
    parts = {"prediction": prediction.item(), "sigreg": sigreg.item(), "total": total.item()}
    return {"views": views, "directions": A, **settings, **parts, "gradient": gradient.tolist()}
