"""SIGReg for timm: any backbone with the projector that LeJEPA trains behind it.

Tried with timm 1.0.31.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import timm
from torch import Tensor, nn

from sigreg_adapters.patches import patch_tokens, pooled_attention
from sigreg_adapters.projector import projector


class Encoder(nn.Module):
    """A timm backbone and a projector: images -> (embedding, projection).

    The projection is what `sigreg.LeJEPALoss` sees; the embedding is what a probe or a downstream
    task uses.  With a vision transformer, `tokens` and `attention` show where in the image things are.

    Args:
        backbone: a timm model name.
        projection_dim: width D of the projection; 16 to 128 suit small data.
        hidden_dim: width of the projector's two hidden layers.
        pretrained: load timm's weights, which are downloaded.
        **backbone_kwargs: passed on to `timm.create_model`, e.g. `dynamic_img_size=True`, which a ViT
            needs for crops of two sizes.

    Shapes:
        `(N, C, H, W)` -> `(N, embedding_dim)` and `(N, projection_dim)`.

    Raises:
        ValueError: timm knows no model of that name, or `global_pool=""` or `features_only=True`, which give
            maps of features.

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
            close = timm.list_models(f"{backbone}*")[:5]
            close = close or get_close_matches(backbone, timm.list_models(), n=5)
            raise ValueError(f"timm has no model {backbone!r}; close names: {', '.join(close) or 'none'}")
        if backbone_kwargs.get("global_pool") == "":
            raise ValueError(
                'global_pool="" gives a map of features; an embedding needs "avg" or another pooling'
            )
        if backbone_kwargs.get("features_only"):
            raise ValueError("features_only=True gives a list of maps; an embedding needs the whole backbone")
        model: Any = timm.create_model(backbone, pretrained=pretrained, num_classes=0, **backbone_kwargs)
        self.backbone: nn.Module = model
        self.embedding_dim = int(model.head_hidden_size)  # after a convolution in the head, if there is one
        self.projector = projector(self.embedding_dim, hidden_dim, projection_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.backbone(images)  # (N, embedding_dim)
        return embedding, self.projector(embedding)

    def tokens(self, images: Tensor) -> Tensor:
        """Patch tokens of a vision transformer, after its last block and norm.

        Those of `backbone.forward_features`, without class, distillation and register tokens.

        Shapes:
            `(N, channels, H, W)` -> `(N, h, w, C)` with one token for each of h x w patches, row by row.

        Raises:
            ValueError: the backbone has no patch tokens that all attend to each other (a ResNet, a Swin), or
                it drops patches in training.

        Example:
            >>> import torch
            >>> encoder = Encoder("test_vit").eval()  # 160 pixels in patches of 16
            >>> tuple(encoder.tokens(torch.randn(2, 3, 160, 160)).shape)
            (2, 10, 10, 64)
        """
        return patch_tokens(self.backbone, images)

    def attention(self, images: Tensor) -> Tensor:
        """Attention from the pooled token to the patches in the last block of a vision transformer.

        `softmax(q k^T / sqrt(d))` with d the width of a head; norms, rotary and relative positions of the
        backbone included, dropout not.  Of these weights the rows that form the embedding are averaged:

        - `global_pool="token"`: the class token's row (in a distilled DeiT also the distillation token's);
        - `global_pool="map"`: the row of the pooling layer's latent query, which comes after the last block;
        - otherwise (`"avg"`, `"avgmax"`, `"max"`): the rows of all patches.  Their mean says with which
          weight the block's values enter the average of all outputs.

        The weights of one head sum to 1 over all tokens.  So the map sums to 1 if all tokens are patches, and
        to less if there are class or register tokens, which are left out.  The module whose weights are read
        computes them without the fused kernel for this call; a fused and a plain model give the same.

        Shapes:
            `(N, channels, H, W)` -> `(N, heads, h, w)`, every weight in [0, 1].

        Raises:
            ValueError: as for `tokens`, or the last block has no softmax over all tokens for each head.

        Example:
            >>> import torch
            >>> encoder = Encoder("test_vit", global_pool="avg", class_token=False).eval()
            >>> maps = encoder.attention(torch.randn(2, 3, 160, 160))
            >>> tuple(maps.shape), bool(torch.allclose(maps.sum((2, 3)), torch.ones(2, 2)))
            ((2, 2, 10, 10), True)

        Source: the maps of a class token are those of Caron et al. 2021, arXiv 2104.14294, Figure 1.
        """
        return pooled_attention(self.backbone, images)
