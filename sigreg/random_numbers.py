"""Random numbers as a pure function of (seed, step).

Each number is a hash of its index keyed by (seed, step) (SplitMix64: Steele, Lea and Flood, OOPSLA 2014): no
generator is created, no global one is touched, and `step` may be a tensor on the GPU, without host
synchronisation.
"""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor


def integer(value: int) -> int:
    """An integer of NumPy as one of Python, whose sums and products do not overflow."""
    return value if isinstance(value, int | torch.SymInt) else operator.index(value)


def as_int64(value: int) -> int:
    """An integer modulo 2^64, as torch's signed int64 holds it; seeds that agree in it give one stream."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = as_int64(0x9E3779B97F4A7C15)
_MIX1 = as_int64(0xBF58476D1CE4E5B9)
_MIX2 = as_int64(0x94D049BB133111EB)
_CHUNK = 1 << 16  # hashes at a time on a CPU: they stay in cache, and no fresh memory is asked for


def logical_shift(z: Tensor, bits: int) -> Tensor:
    """Right shift that fills with zeros (torch shifts int64 arithmetically), in a new tensor."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mixed(value: int) -> int:
    """`_mix` of an integer on the host."""
    mask = (1 << 64) - 1
    z = value & mask
    z = ((z ^ (z >> 30)) * (_MIX1 & mask)) & mask
    z = ((z ^ (z >> 27)) * (_MIX2 & mask)) & mask
    return as_int64(z ^ (z >> 31))


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finalizer: 64 bits in, 64 well-mixed bits out; products wrap.

    In place after the first step: a fresh half a million numbers at each would cost more than the mixing.
    """
    z = (z ^ logical_shift(z, 30)).mul_(_MIX1)
    z.bitwise_xor_(logical_shift(z, 27)).mul_(_MIX2)
    return z.bitwise_xor_(logical_shift(z, 31))


def _hashes(first: int, last: int, seed: int, step: int | Tensor, device: torch.device | None) -> Tensor:
    """Numbers `first` to `last` - 1 of the 64-bit integers of (seed, step).

    The stream of a seed is SplitMix64's, started at a hash of the seed; step s begins at number s 2^32.
    """
    start = step.to(torch.int64) * 2**32 if isinstance(step, Tensor) else as_int64(integer(step) * 2**32)
    index = torch.arange(first + 1, last + 1, device=device).add_(start)
    return _mix(index.mul_(_GAMMA).add_(offset(seed)))


def offset(seed: int) -> int:
    """Where the stream of a seed starts."""
    return _mixed(integer(seed) + _GAMMA)


def random_bits(count: int, seed: int, step: int | Tensor, device: torch.device | None = None) -> Tensor:
    """`count` hashed 64-bit integers, a function of (seed, step)."""
    return _hashes(0, count, seed, step, device)


def normal_numbers(count: int, seed: int, step: int | Tensor, device: torch.device | None) -> Tensor:
    """`count` standard normal float32 numbers, a function of (seed, step): Box and Muller, two per hash."""
    half = (count + 1) // 2
    out = torch.empty(2, half, dtype=torch.float32, device=device)
    chunk = _CHUNK if out.device.type == "cpu" else max(1, half)
    for first in range(0, half, chunk):
        last = min(half, first + chunk)
        bits = _hashes(first, last, seed, step, device)
        # 24 high bits, never log(0), and never log(1), which would make a direction of length 0
        uniform = logical_shift(bits, 40).add_(1).clamp_(max=2**24 - 1).to(torch.float32).mul_(2.0**-24)
        radius = uniform.log_().mul_(-2).sqrt_()
        angle = bits.bitwise_and_(0xFFFFFFFF).to(torch.float32).mul_(2 * math.pi * 2.0**-32)
        torch.mul(angle.cos(), radius, out=out[0, first:last])
        torch.mul(angle.sin_(), radius, out=out[1, first:last])
    return out.flatten()[:count]
