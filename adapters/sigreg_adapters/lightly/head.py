"""LeJEPA's projector under lightly's name."""

from __future__ import annotations

from torch import Tensor, nn

from sigreg_adapters.projector import projector


class LeJEPAProjectionHead(nn.Module):
    """LeJEPA's projector, with the layers of lightly's class of this name, which 1.5.23 does not have.

    Linear layers with BatchNorm and ReLU between them.  Nothing follows the last one, so that its output can
    be Gaussian.

    Args:
        input_dim: width of the backbone's features.
        hidden_dim: width of the hidden layers.
        output_dim: width D of the projection.
        num_layers: number of linear layers.

    Shapes:
        `(N, input_dim)` -> `(N, output_dim)`.

    Raises:
        ValueError: fewer than two layers.

    Example:
        >>> import torch
        >>> LeJEPAProjectionHead(512)(torch.randn(4, 512)).shape
        torch.Size([4, 64])
    """

    def __init__(
        self, input_dim: int, hidden_dim: int = 2048, output_dim: int = 64, num_layers: int = 3
    ) -> None:
        if num_layers < 2:
            raise ValueError(f"got num_layers={num_layers}; a projector needs at least two, the default is 3")
        super().__init__()
        self.layers = projector(input_dim, hidden_dim, output_dim, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features `(N, input_dim)` -> projections `(N, output_dim)`."""
        projection: Tensor = self.layers(x)
        return projection
