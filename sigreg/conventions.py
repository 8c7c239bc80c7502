"""The lambda of other implementations, converted.

Every implementation weighs a prediction term P against SIGReg's S, but they disagree on what P and
S are.  Written with P averaged over D, S multiplied by N and averaged over V views, each has one
ratio (weight of S) / (weight of P):

| convention            | total               | P over D | S                   | ratio            |
|-----------------------|---------------------|----------|---------------------|------------------|
| `sigreg`, `lightly`   | (1-l) P + l S       | mean     | times N, per view   | l / (1 - l)      |
| `minimal` (authors')  | (1-l) P + l S       | mean     | times N, per view   | l / (1 - l)      |
| `paper`               | (1-l) P + l S       | sum      | times N, per view   | l / ((1 - l) D)  |
| `stable-pretraining`  | P + l S             | mean     | times N V, pooled   | l V              |
| `stable-worldmodel`   | P + l S             | mean     | times N, per step   | l                |
| `le-wm`               | P + l S             | mean     | times N, per step   | l                |
| `dl_techniques`       | P + l S             | mean     | not times N         | l / N            |
| `eb_jepa`             | 4 P + l S           | mean     | not times N         | l / (4 N)        |

`minimal` is the script of 130 lines in the authors' repository (github.com/rbalestr-lab/lejepa, MINIMAL.md at
2f2d970), `paper` arXiv 2511.08544.  The others are those of lightly 1.6.0, stable-pretraining 0.1.8,
stable-worldmodel 0.1.1, LeWM (github.com/lucas-maes/le-wm, arXiv 2603.19312), dl_techniques, a Keras library
(github.com/NikolasMarkou/dl_techniques, regularizers/sigreg.py), and eb_jepa 0.1.1 (git 966e61e).

eb_jepa's prediction term is the squared distance of its two views to each other, which is 4 times that to
their mean.  Two lambdas are equivalent when these ratios agree, except for the grids: under N(0, I) the
paper's grid on [-5, 5] gives a value 0.7 % above that of the usual grid on [0, 3], and eb_jepa's 10 points on
[-3, 3] give one within 0.5 % of the usual.
"""

from __future__ import annotations

from sigreg.arguments import assert_int, assert_number

CONVENTIONS: tuple[str, ...] = ("sigreg", "lightly", "minimal", "paper", "stable-pretraining", "eb_jepa")
CONVENTIONS += ("stable-worldmodel", "le-wm", "dl_techniques")
_NEEDS = {"paper": "D", "stable-pretraining": "V", "eb_jepa": "N", "dl_techniques": "N"}
_SUMS = ("stable-pretraining", "eb_jepa", "stable-worldmodel", "le-wm", "dl_techniques")  # P + l S


def convert_lambda(
    value: float,
    source: str,
    target: str,
    *,
    N: int | None = None,
    D: int | None = None,
    V: int | None = None,
) -> float:
    """The lambda that weighs SIGReg in `target` as `value` does in `source`.

    Args:
        value: the lambda to convert, >= 0; below 1 where the total is (1-l) P + l S.
        source: one of `CONVENTIONS`; capitals do not matter, and "_" and "-" are the same.
        target: likewise.
        N: the (global) batch size; needed for "eb_jepa" and "dl_techniques".
        D: the embedding width; needed for "paper".
        V: the number of views; needed for "stable-pretraining".

    Returns:
        The lambda in the convention `target`, a float.

    Raises:
        TypeError: a lambda that is no number, or N, D or V that is no int.
        ValueError: an unknown convention, a lambda out of range, or N, D or V that is missing or below 1.

    Example:
        >>> round(convert_lambda(10, "eb_jepa", "sigreg", N=256), 4)
        0.0097
    """
    assert_number(value=value)
    sizes = {"N": N, "D": D, "V": V}
    assert_int(1, **{name: size for name, size in sizes.items() if size is not None})
    source, target = _known(source), _known(target)
    scale = 1.0
    for name, power in ((source, 1), (target, -1)):
        need = _NEEDS.get(name)
        size = 1 if need is None else sizes[need]
        if size is None:
            raise ValueError(f"the convention {name!r} depends on {need}; give {need}=")
        size = 4 * size if name == "eb_jepa" else size
        scale *= (float(size) if name == "stable-pretraining" else 1.0 / size) ** power
    upper = float("inf") if source in _SUMS else 1.0
    if not 0 <= value < upper:
        raise ValueError(f"lambda={value} must lie in [0, {upper}) in the convention {source!r}")
    value = float(value)  # not NumPy's, whose float32 would round the result
    ratio = scale * (value if upper > 1 else value / (1 - value))
    return ratio if target in _SUMS else ratio / (1 + ratio)


def _known(name: str) -> str:
    """The entry of `CONVENTIONS` that a name means."""
    found = next((known for known in CONVENTIONS if _spelled(known) == _spelled(name)), None)
    if found is None:
        raise ValueError(f"convention {name!r} is unknown; use one of {CONVENTIONS}")
    return found


def _spelled(name: str) -> str:
    return str(name).lower().replace("_", "-")
