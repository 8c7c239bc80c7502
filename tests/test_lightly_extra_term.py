"""One line of the lightly recipe's README adds SIGReg to another loss, and the embeddings become normal."""

import copy
import re
from pathlib import Path

import lightly.loss
import pytest
import torch
from torch import Tensor, nn

from sigreg_adapters.lightly import SIGReg

README = Path(__file__).resolve().parent.parent.joinpath("integrations/lightly/README.md").read_text()
EXTRA_TERM = dict(re.findall(r"^-(loss = .*)\n\+(\1 \+ .*)$", README, flags=re.MULTILINE))
BASE = {
    "simclr": "loss = ntxent(z0, z1)",
    "barlow_twins": "loss = barlow_twins(z0, z1)",
    "vicreg": "loss = vicreg(z0, z1)",
    "supervised": "loss = cross_entropy(classifier(z), labels)",
}


class Toy:
    """A small encoder under one line of the README: two noisy views, or one of them and labels."""

    def __init__(self):
        torch.manual_seed(0)
        self.noise = torch.Generator().manual_seed(0)
        self.x = torch.randn(128, 16, generator=self.noise)
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.names = {
            "torch": torch,
            "classifier": nn.Linear(8, 4),
            "labels": self.x[:, :4].argmax(1),
            "ntxent": lightly.loss.NTXentLoss(),
            "barlow_twins": lightly.loss.BarlowTwinsLoss(),
            "vicreg": lightly.loss.VICRegLoss(),
            "cross_entropy": nn.functional.cross_entropy,
            "sigreg": SIGReg(num_vectors=64),
        }

    def loss(self, line: str) -> Tensor:
        views = self.x + 0.1 * torch.randn(2, 128, 16, generator=self.noise)
        z0, z1 = self.encoder(views)
        names = {**self.names, "z": z0, "z0": z0, "z1": z1}
        exec(line, names)
        return names["loss"]

    def trained(self, line: str, steps: int = 40) -> Tensor:
        """The embeddings after training."""
        optimizer = torch.optim.Adam(
            [*self.encoder.parameters(), *self.names["classifier"].parameters()], 0.01
        )
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss(line).backward()
            optimizer.step()
        return self.encoder(self.x).detach()


@pytest.mark.parametrize("base", BASE.values(), ids=BASE)
def test_one_line_adds_sigreg_to_another_loss(base):
    gradients = []
    for line in (base, EXTRA_TERM[base]):
        toy = Toy()
        toy.loss(line).backward()
        gradients.append([copy.deepcopy(p.grad) for p in toy.encoder.parameters()])
    assert all(not torch.allclose(without, with_it) for without, with_it in zip(*gradients, strict=True))

    value = SIGReg(num_vectors=256).eval()
    without, with_it = (value(Toy().trained(line)) for line in (base, EXTRA_TERM[base]))
    assert with_it < without / 3, (
        f"SIGReg of the embeddings: {without:.2f} without, {with_it:.2f} with the term"
    )
