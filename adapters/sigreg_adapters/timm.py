"""SIGReg for timm: any backbone with the projector that LeJEPA trains behind it.

Tried with timm 1.0.31.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from sigreg_adapters.projector import projector


class Encoder(nn.Module):
    """A timm backbone and a projector: images -> (embedding, projection).

    The projection is what `sigreg.LeJEPALoss` sees; the embedding is what a probe or a downstream
    task uses.

    Args:
        backbone: a timm model name.
        projection_dim: width D of the projection; 16 to 128 suit small data.
        hidden_dim: width of the projector's two hidden layers.
        pretrained: load timm's weights (needs its download host).
        **backbone_kwargs: passed on to `timm.create_model`, e.g. `dynamic_img_size=True`, which a ViT
            needs for crops of two sizes.

    Shapes:
        `(N, C, H, W)` -> `(N, embedding_dim)` and `(N, projection_dim)`.

    Raises:
        ValueError: timm knows no model of that name.

    Example:
        >>> import torch
        >>> encoder = Encoder("test_resnet", projection_dim=16)
        >>> embedding, projection = encoder(torch.randn(2, 3, 64, 64))
        >>> embedding.shape[1] == encoder.embedding_dim, tuple(projection.shape)
        (True, (2, 16))
    """

    def __init__(
        self,
        backbone: str,
        projection_dim: int = 64,
        hidden_dim: int = 2048,
        *,
        pretrained: bool = False,
        **backbone_kwargs: Any,
    ) -> None:
        super().__init__()
        if not timm.is_model(backbone):
            close = timm.list_models(f"*{backbone.split('_')[0]}*")[:5]
            raise ValueError(f"timm has no model {backbone!r}; close names: {', '.join(close) or 'none'}")
        model: Any = timm.create_model(backbone, pretrained=pretrained, num_classes=0, **backbone_kwargs)
        self.backbone: nn.Module = model
        self.embedding_dim = int(model.num_features)
        self.projector = projector(self.embedding_dim, hidden_dim, projection_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.backbone(images)  # (N, embedding_dim)
        return embedding, self.projector(embedding)
