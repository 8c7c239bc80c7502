"""Exact gradient accumulation: the loss of a whole batch with the memory of one part of it.

The mean loss of microbatches is another objective than the loss of the batch (docs/accumulation.md).  Here
every part is encoded twice: without a graph for its embeddings, which are small, so that the criterion runs
once on all of them and gives its gradient in each; then with a graph, through which that gradient is
backpropagated to the parameters.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from sigreg.replay import Called, random_state, set_random_state

Part = TypeVar("Part")
Result = TypeVar("Result")

DRIFT = 0.05  # more than half precision's noise, less than another dropout mask or augmentation


def backward(
    criterion: Callable[[Any], Result],
    encode: Callable[[Part], Tensor | Sequence[Tensor]],
    parts: Iterable[Part],
    *,
    modules: Iterable[nn.Module] | None = None,
    scaler: Any = None,
) -> Result:
    """The loss of the whole batch, its gradients accumulated, with the memory of one part.

    Gradients, buffers and random state end up as these lines leave them, whatever the criterion is:

        z = torch.cat([encode(part) for part in parts], dim=-2)
        criterion(z).backward()

    Args:
        criterion: called once, with all that `encode` returned, joined along dimension -2.  Returns a
            scalar, or a tuple that begins with it (`LeJEPALoss.components`), or a dict with it as "loss".
        encode: one part -> embeddings `(..., n, D)`, or a list of views `(n, D)` each; the criterion then
            receives a list too.  Called twice; torch's global random generators are replayed.
        parts: the parts of the batch, which may differ in size.  Ranks may have different numbers of parts,
            except where a forward pass communicates (FSDP2, SyncBatchNorm).
        modules: the modules that `encode` calls, including wrappers (DDP, FSDP2).  By default a hook finds
            them when they are called; name those that run inside a function compiled by `torch.compile`.
        scaler: a `torch.amp.GradScaler` for the gradients; the loss returned is not scaled.

    Returns:
        What the criterion returned, detached.

    Raises:
        TypeError: parts is a tensor, or `encode` or the criterion returned something other than tensors.
        ValueError: no parts, parts that do not fit together, a loss that is not a scalar, or a parameter of
            a module that was not found when it was called.
        RuntimeError: nothing requires a gradient, or the second pass gave other embeddings.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sigreg import LeJEPALoss
        >>> net, images = nn.Linear(8, 4), torch.randn(2, 64, 8)  # two views of 64 images
        >>> loss, prediction, sigreg = backward(LeJEPALoss().components, net, images.split(16, dim=1))
        >>> net.weight.grad.shape
        torch.Size([4, 8])

    Source: gradient caching, arXiv 2101.06983.
    """
    if isinstance(parts, Tensor):
        raise TypeError(f"parts is one tensor {tuple(parts.shape)}; split it, as in parts.split(32)")
    parts = list(parts)
    if not parts:
        raise ValueError("there are no parts; give at least one")
    called = Called(encode, modules)
    states, embeddings, single = [], [], False
    with torch.no_grad(), called.watched():
        for part in parts:
            states.append(random_state())
            output = encode(part)
            single = isinstance(output, Tensor)
            # Copies: a view such as x[:, 0] would keep the whole of x alive.
            embeddings.append([z.clone() for z in _views(output)])
            del output
    torch.clear_autocast_cache()  # it may hold weights that were cast without a graph
    called.restore()

    joined = _joined(embeddings)
    result = criterion(joined[0] if single else joined)
    loss = _loss(result)
    with torch.autocast(loss.device.type, enabled=False):
        (loss if scaler is None else scaler.scale(loss)).backward()
    gradients = _parted([z.grad for z in joined], embeddings)
    final_state = random_state()

    moved = []
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        set_random_state(states[i])
        with contextlib.nullcontext() if last else called.no_synchronisation():
            views = _views(encode(part))
            moved.append(_moved(i, embeddings[i], views))
            if i == 0 and modules is None:
                called.assert_complete(views)
            _carry_on(i, views, gradients[i], last)
        del views  # before the next part is encoded
    set_random_state(final_state)
    distance, size = torch.stack(moved).sum(0).sqrt().tolist()
    if distance > DRIFT * size:
        raise RuntimeError(
            f"embeddings moved by {distance / max(size, 1e-30):.0%} in the second pass, so the gradients are "
            "wrong: encode must take its random numbers from torch's global generators, which are replayed, "
            "or find them in the part"
        )
    return _detached(result)


def _views(output: Any) -> list[Tensor]:
    """What `encode` returned, as a list."""
    views = list(output) if isinstance(output, (list, tuple)) else [output]
    for z in views:
        if not isinstance(z, Tensor) or z.ndim < 2 or not z.is_floating_point():
            got = f"{tuple(z.shape)} of {z.dtype}" if isinstance(z, Tensor) else type(z).__name__
            raise TypeError(f"encode returned {got}; expected floating (..., n, D), or a list of such views")
    if not views:
        raise TypeError("encode returned an empty list; expected a list of views (n, D)")
    return views


def _joined(embeddings: list[list[Tensor]]) -> list[Tensor]:
    """Every view of the whole batch `(..., sum n, D)`, a leaf that collects its gradient."""
    shapes = [[(*z.shape[:-2], "n", z.shape[-1]) for z in views] for views in embeddings]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"encode returned {shapes[0]} for part 0, {shape} for part {i}; only n may differ"
            )
    return [torch.cat(views, dim=-2).requires_grad_() for views in zip(*embeddings, strict=True)]


def _parted(gradients: list[Tensor | None], embeddings: list[list[Tensor]]) -> list[list[Tensor | None]]:
    """The gradients of the joined views, part by part; None for a view that the loss does not use."""
    if all(grad is None for grad in gradients):
        raise RuntimeError("the criterion's loss does not depend on the embeddings that it was given")
    of_view: list[Sequence[Tensor | None]] = []
    for v, grad in enumerate(gradients):
        sizes = [views[v].shape[-2] for views in embeddings]
        of_view.append([None] * len(sizes) if grad is None else torch.split(grad, sizes, dim=-2))
    return [list(part) for part in zip(*of_view, strict=True)]


def _loss(result: Any) -> Tensor:
    """The scalar in what a criterion returned."""
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if isinstance(result, (list, tuple)) and result:
        loss = result[0]
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"the criterion returned {type(result).__name__}; expected a scalar tensor, a tuple that begins "
            'with it or a dict that holds it as "loss"'
        )
    if loss.numel() != 1:
        raise ValueError(
            f"the criterion's loss has the shape {tuple(loss.shape)}; expected a scalar: take its mean"
        )
    if not loss.requires_grad:
        raise RuntimeError("the criterion's loss requires no gradient; look for detach() and no_grad()")
    return loss


def _detached(result: Result) -> Result:
    """A copy of what a criterion returned, of the same kind, without its graph."""
    if not isinstance(result, MutableMapping):
        detached: Result = tree_map_only(Tensor, Tensor.detach, result)
        return detached
    copied = copy.copy(result)  # the tree functions of torch know no kinds of dict but those of Python
    for name, value in result.items():
        copied[name] = _detached(value)
    return copied


def _moved(i: int, before: list[Tensor], views: list[Tensor]) -> Tensor:
    """The squared distance between both passes' embeddings of part i, and their squared size: `(2,)`."""
    first, second = ([tuple(z.shape) for z in of_pass] for of_pass in (before, views))
    if first != second:
        raise RuntimeError(
            f"encode returned {first} for part {i}, and {second} in the second pass; both must be the same"
        )
    pairs = [(b.float(), z.detach().float()) for b, z in zip(before, views, strict=True)]
    moved = torch.stack([torch.stack([(z - b).square().sum(), b.square().sum()]) for b, z in pairs])
    return moved.sum(0)


def _carry_on(i: int, views: list[Tensor], gradients: list[Tensor | None], last: bool) -> None:
    """Backpropagates the gradients of part i's embeddings."""
    pairs = [(z, g) for z, g in zip(views, gradients, strict=True) if z.requires_grad and g is not None]
    if not pairs:
        raise RuntimeError(
            f"what encode returned for part {i} requires no gradient; look for detach() and no_grad()"
        )
    carried = [z for z, _ in pairs]
    outer = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
    if last and outer is not None:  # called inside of DDP's forward, as Lightning calls training_step
        outer.reducer.prepare_for_backward(carried)
    with torch.autocast(carried[0].device.type, enabled=False):
        torch.autograd.backward(carried, [g for _, g in pairs])
