"""Save, kill, resume: the same losses to the last bit as the run that was not interrupted."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from tests.distributed_problem import Problem
from tests.pool import on_ranks, outcomes

PROBLEM = Problem(split=(5, 3), dtype=torch.float32)


def test_the_state_of_sigreg_is_its_seed_and_step():
    state = SIGReg(seed=3).state_dict()
    assert {name: value.tolist() for name, value in state.items()} == {"_extra_state": [3, 0]}


def run(
    folder: Path, steps: int, part: Tensor, wrap: Any = lambda model: model, dies_after: int | None = None
) -> list[float]:
    """Train to `steps` from the checkpoint in the folder, if there is one; save after every step."""
    network = PROBLEM.network()
    model, criterion = wrap(network), LeJEPALoss(sigreg=PROBLEM.sigreg())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    modules: dict[str, Any] = {"network": network, "criterion": criterion, "optimizer": optimizer}
    rank = dist.get_rank() if dist.is_initialized() else 0
    file, losses = folder / f"{rank}.pt", []
    if file.exists():
        saved = torch.load(file, weights_only=True)
        losses = saved.pop("losses")
        for name, module in modules.items():
            module.load_state_dict(saved[name])
    while len(losses) < steps:
        loss = criterion(model(part))
        optimizer.zero_grad()
        loss.backward()
        if len(losses) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step()
        losses.append(float(loss.detach()))
        torch.save({"losses": losses, **{n: m.state_dict() for n, m in modules.items()}}, file)
    return losses


def test_a_resumed_run_gives_the_losses_of_an_uninterrupted_one_to_the_last_bit(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    whole = run(tmp_path / "whole", 6, PROBLEM.batch())
    run(tmp_path / "halves", 3, PROBLEM.batch())
    assert run(tmp_path / "halves", 6, PROBLEM.batch()) == whole
    assert len(set(whole)) == 6


def run_ranks(folder: Path, dies_after: int | None) -> list[float]:
    return run(folder, 4, PROBLEM.part(dist.get_rank()), DDP, dies_after)


def test_ranks_that_were_killed_in_a_step_resume_to_the_last_bit(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = on_ranks(2, run_ranks, tmp_path / "whole", None)
    assert all(rank.kind == "Died" for rank in outcomes(2, run_ranks, tmp_path / "killed", 2))
    assert on_ranks(2, run_ranks, tmp_path / "killed", None) == whole


def one_rank_resumes(folder: Path) -> str:
    """Rank 1 finds its checkpoint, rank 0 does not."""
    sigreg = PROBLEM.sigreg()
    if dist.get_rank() == 1:
        sigreg.load_state_dict(torch.load(folder / "sigreg.pt", weights_only=True))
    try:
        sigreg(PROBLEM.part(dist.get_rank()))
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_rank_that_resumed_beside_one_that_did_not_is_reported_on_both(tmp_path):
    sigreg = PROBLEM.sigreg()
    sigreg.step += 12
    torch.save(sigreg.state_dict(), tmp_path / "sigreg.pt")
    for error in on_ranks(2, one_rank_resumes, tmp_path):
        assert "step is 0 on rank 0, 12 on rank 1; build the same module on every rank" in error


def test_lightning_resumes_to_the_last_bit(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(?!sigreg)")  # Lightning's advice and its imports
        import lightning

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.network, self.losses = PROBLEM.network(), []
                self.criterion = LeJEPALoss(sigreg=PROBLEM.sigreg())

            def training_step(self, x: Tensor, index: int) -> Tensor:
                loss = self.criterion(self.network(x))
                self.losses.append(float(loss.detach()))
                return loss

            def configure_optimizers(self) -> Any:
                return torch.optim.AdamW(self.parameters(), lr=0.01)

        def fit(epochs: int, resume_from: Path | None = None) -> tuple[list[float], Any]:
            module = Module()
            trainer = lightning.Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            batches = torch.utils.data.DataLoader([PROBLEM.batch()] * 2, batch_size=None)
            trainer.fit(module, batches, ckpt_path=resume_from)
            return module.losses, trainer

        whole, _ = fit(3)
        first, trainer = fit(1)
        trainer.save_checkpoint(tmp_path / "epoch.ckpt")
        second, _ = fit(3, tmp_path / "epoch.ckpt")
    assert first + second == whole
    assert len(set(whole)) == 6


# Checkpoints of other times and other settings


def test_a_checkpoint_without_the_criterion_is_reported():
    model = nn.ModuleDict({"criterion": LeJEPALoss(sigreg=SIGReg(seed=3))})
    with pytest.raises(RuntimeError, match=r"Missing key.*criterion\.sigreg\._extra_state"):
        model.load_state_dict({})
    missing, _ = model.load_state_dict({}, strict=False)
    assert missing == ["criterion.sigreg._extra_state"]
    assert model["criterion"].sigreg.state_dict()["_extra_state"].tolist() == [3, 0]


@pytest.mark.parametrize(
    "backend", ["auto", "eager", pytest.param("inductor", marks=pytest.mark.long), "triton"]
)
def test_a_checkpoint_goes_on_in_every_backend(backend):
    if backend == "triton" and not torch.cuda.is_available():
        pytest.skip("triton needs a GPU")
    device = "cuda" if backend == "triton" else "cpu"
    z = PROBLEM.batch().to(device)
    before, after = (SIGReg(num_slices=8, backend=name).to(device) for name in ("eager", backend))
    before(z)
    after.load_state_dict(before.state_dict())
    assert_close(after(z), before(z), rtol=1e-5, atol=1e-5)
