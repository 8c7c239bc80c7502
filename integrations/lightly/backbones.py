"""A small convolutional network for a CPU, or any timm model by name."""

from __future__ import annotations

from torch import nn


def small() -> tuple[nn.Module, int]:
    """Four convolutions, 3 x 16 x 16 or larger -> 256 numbers; 0.4 M parameters."""

    def block(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)]

    layers = [*block(3, 32, 2), *block(32, 64, 1), *block(64, 128, 2), *block(128, 256, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 256


def create(name: str, size: int) -> tuple[nn.Module, int]:
    """(backbone, embedding width) for views of `size` pixels; `name` is "small" or a timm model."""
    if name == "small":
        return small()
    import timm

    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5]) or "none"
        raise SystemExit(f"--backbone {name}: timm knows no such model; close names: {close}")
    config = timm.get_pretrained_cfg(name)  # a vision transformer, for example, is built for one size
    of_size = {"img_size": size} if config is not None and config.fixed_input_size else {}
    model = timm.create_model(name, num_classes=0, **of_size)
    return model, model.head_hidden_size
