"""The world model: an encoder of frames, a predictor of the next embedding, and their training.

There is no decoder, no teacher and no stop-gradient: `NextEmbeddingLoss` is all that trains them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import trange

from integrations.world_model.world import Episodes
from sigreg import SIGReg
from sigreg.diagnostics.rank import effective_rank
from sigreg.objective import NextEmbeddingLoss


@dataclass
class Settings:
    """Of the training; with `lambda_param=0` it has no SIGReg."""

    lambda_param: float = 0.09
    steps: int = 800
    episodes: int = 1000
    length: int = 16  # steps of an episode
    noise: float = 0.1  # standard deviation of each pixel, beside a brightness of 1
    batch_size: int = 128
    window: int = 4  # steps of an episode that a batch has
    dim: int = 16  # of the embeddings
    lr: float = 2e-3
    num_slices: int = 256
    seed: int = 0


class WorldModel(nn.Module):
    """`head(features(frame))` is the embedding z, `predictor(z, action)` the next one: it is causal."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 4, stride=4), nn.GroupNorm(1, 32), nn.GELU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GroupNorm(1, 64), nn.GELU(), nn.Flatten()),
        )
        self.head = nn.Sequential(nn.Linear(1024, width), nn.GELU(), nn.Linear(width, dim))
        self.change = nn.Sequential(
            *(nn.Linear(dim + 2, width), nn.GELU(), nn.Linear(width, width), nn.GELU()),
            nn.Linear(width, dim),
        )

    def encode(self, frames: Tensor) -> Tensor:
        """Frames `(..., 1, 32, 32)` -> embeddings `(..., D)`."""
        return self.head(self.features(frames.flatten(0, -4))).unflatten(0, frames.shape[:-3])

    def predictor(self, z: Tensor, actions: Tensor) -> Tensor:
        """Embeddings `(..., D)` and actions `(..., 2)` -> the embeddings one step later."""
        return z + self.change(torch.cat([z, actions], dim=-1))

    def rollout(self, z: Tensor, actions: Tensor) -> Tensor:
        """An embedding `(..., D)` and actions `(..., H, 2)` -> the H embeddings that follow `(..., H, D)`."""
        path = []
        for action in actions.unbind(-2):
            z = self.predictor(z, action)
            path.append(z)
        return torch.stack(path, dim=-2)


@torch.no_grad()
def embed(model: WorldModel, frames: Tensor) -> Tensor:
    """All frames `(B, T, 1, 32, 32)` -> `(B, T, D)`, in parts."""
    return torch.cat([model.encode(part) for part in frames.split(128)])


@torch.no_grad()
def convolved(model: WorldModel, frames: Tensor) -> Tensor:
    """All frames `(B, T, 1, 32, 32)` -> what the head takes `(B, T, 1024)`, in parts."""
    parts = [model.features(part.flatten(0, 1)) for part in frames.split(128)]
    return torch.cat(parts).unflatten(0, frames.shape[:2])


def health(model: WorldModel, held_out: Episodes) -> dict[str, float]:
    """Effective rank and mean standard deviation of the embeddings of the first frames."""
    z = embed(model, held_out.frames[:, :1])[:, 0]
    rank = effective_rank(torch.linalg.eigvalsh(torch.cov(z.T.double())))
    return {"effective_rank": float(rank), "sd": float(z.std(0).mean())}


def train(
    settings: Settings, episodes: Episodes, held_out: Episodes, name: str = "training"
) -> tuple[WorldModel, list[dict[str, float]]]:
    """A trained model, and its losses and the health of its embeddings on the way."""
    torch.manual_seed(settings.seed)
    model = WorldModel(settings.dim)
    sigreg = SIGReg(num_slices=settings.num_slices, seed=settings.seed)
    criterion = NextEmbeddingLoss(settings.lambda_param, sigreg)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps, pct_start=0.1
    )
    log: list[dict[str, float]] = []
    every = max(1, settings.steps // 40)
    for step in (bar := trange(settings.steps, desc=name)):
        if step % every == 0:
            log.append({"step": step, **health(model, held_out)})
        frames, actions = _batch(settings, episodes)
        loss, prediction, gaussian = criterion.components(model.encode(frames), model.predictor, actions)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % every == 0:
            log[-1] |= {"prediction": prediction.item(), "sigreg": gaussian.item()}
            shown = {key: f"{value:.3g}" for key, value in log[-1].items() if key != "step"}
            bar.set_postfix(shown, refresh=False)
    return model.eval(), log


def _batch(settings: Settings, episodes: Episodes) -> tuple[Tensor, Tensor]:
    """A window of random episodes, at one random time: frames `(B, T, ...)`, actions `(B, T - 1, 2)`."""
    chosen = torch.randint(len(episodes.frames), (settings.batch_size,))
    start = int(torch.randint(episodes.frames.shape[1] - settings.window + 1, ()))
    stop = start + settings.window
    return episodes.frames[chosen, start:stop], episodes.actions[chosen, start : stop - 1]
