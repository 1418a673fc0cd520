"""How many people must read the sheet: exact binomial, so that the planned test has the stated power."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import bdtr

_MOST = 2000


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a study of one group.

    Attributes:
        n: readers whose answers are needed.
        pass_from: at least so many of them must understand for the sheet to pass.
        invited: with those who drop out.
        size: chance that a sheet passes of which only `least` would understand, at most `alpha`.
        power: chance that it passes if `hoped` understand.
    """

    n: int
    pass_from: int
    invited: int
    size: float
    power: float


def size(least: float, hoped: float, *, alpha: float = 0.025, power: float = 0.9, dropout: float = 0.1) -> Size:
    """The smallest study of one group that tells a share of `hoped` from one of `least`.

    Args:
        least: share of readers who understand that would be too few.
        hoped: share that is expected, above `least`.
        alpha: one-sided error.
        power: wanted.
        dropout: share of the invited who do not answer.

    Raises:
        ValueError: hoped is not above least, or no study of up to 2,000 readers is enough.

    Source: exact one-sample binomial test, n counted up until it has the power (Chow, Shao and Wang, Sample Size
    Calculations in Clinical Research, on exact tests for proportions; from memory, the book was not at hand).
    """
    if not 0 < least < hoped < 1:
        raise ValueError(f"shares {least:g} and {hoped:g}, expected 0 < least < hoped < 1")
    for n in range(1, _MOST):
        start = math.floor(n * least)
        passing = next((k for k in range(start, n + 1) if _at_least(k, n, least) <= alpha), None)
        if passing is not None and _at_least(passing, n, hoped) >= power:
            return Size(
                n=n,
                pass_from=passing,
                invited=math.ceil(n / (1 - dropout)),
                size=_at_least(passing, n, least),
                power=_at_least(passing, n, hoped),
            )
    raise ValueError(f"no study of up to {_MOST} readers tells {hoped:g} from {least:g} with power {power:g}")


def _at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) of a binomial."""
    return 1.0 if k <= 0 else float(1 - bdtr(k - 1, n, p))
