"""The network and the batches of the tests of micro-batches."""

import torch
from torch import Tensor, nn

from tests.distributed_problem import WIDTH

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64: the parts of a sum are added in another order


def network(norm: type[nn.Module] = nn.LayerNorm, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Linear(WIDTH, 7), norm(7), nn.GELU(), nn.Dropout(dropout), nn.Linear(7, 4)
    return nn.Sequential(*layers).double()


def batch(V: int, N: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(V, N, WIDTH, dtype=torch.float64, generator=generator)
