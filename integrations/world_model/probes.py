"""What the embeddings hold: where the agent is, and how far ahead the predictor sees.

All numbers are of held-out episodes; the probes are fitted on frames of the training episodes.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from integrations.world_model.model import WorldModel, embed
from integrations.world_model.world import Episodes

FEW = 100  # labelled frames, each of another episode
EVERY = 5  # of the training episodes' frames have a label for the other probe


def linear(features: Tensor, positions: Tensor) -> Pipeline:
    """Ridge regression of `(N, 2)` on standardised `(N, F)`; its penalty by leave-one-out on these alone."""
    probe = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-4, 4, 9)))
    return probe.fit(features.double().numpy(), positions.double().numpy())


def decodable(train: Tensor, test: Tensor, episodes: Episodes, held_out: Episodes) -> dict[str, float]:
    """R^2 of the position from features `(B, T, F)`, with many labelled frames and with few."""
    x, y = test.flatten(0, 1).double().numpy(), held_out.positions.flatten(0, 1).double().numpy()
    few = linear(train[:FEW, 0], episodes.positions[:FEW, 0])
    return {"r2": float(decoder(train, episodes).score(x, y)), "r2_few": float(few.score(x, y))}


def decoder(features: Tensor, episodes: Episodes) -> Pipeline:
    """The probe with many labels: every fifth frame of all training episodes."""
    return linear(features[:, ::EVERY].flatten(0, 1), episodes.positions[:, ::EVERY].flatten(0, 1))


@torch.no_grad()
def rollout_errors(model: WorldModel, episodes: Episodes, held_out: Episodes) -> dict[str, list[float]]:
    """Errors of predicting h = 1, 2, ... steps ahead of the first frame, by h.

    `latent` is the mean squared error over the embeddings' variance.  `position` is the mean distance, in
    room widths, from the agent to where the probe reads it in the prediction; `seen` is that of the embedding
    of the true frame, the probe's own error, and `still` that of the embedding of the first frame.
    """
    probe = decoder(embed(model, episodes.frames), episodes)
    z = embed(model, held_out.frames)
    predicted = model.rollout(z[:, 0], held_out.actions)  # (B, T - 1, D)
    true, positions = z[:, 1:], held_out.positions[:, 1:]

    def distance(embeddings: Tensor) -> list[float]:
        read = torch.from_numpy(probe.predict(embeddings.flatten(0, 1).double().numpy())).float()
        return (read.view_as(positions) - positions).norm(dim=-1).mean(0).tolist()

    variance = (true - true.mean((0, 1))).square().mean()
    return {
        "latent": ((predicted - true).square().mean((0, 2)) / variance).tolist(),
        "position": distance(predicted),
        "seen": distance(true),
        "still": distance(z[:, :1].expand_as(true)),
    }
