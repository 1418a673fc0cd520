"""How far a share of few subjects may be off: the exact interval, for facts, checklist and the sheet of consent alike.

A bootstrap of four subjects of whom none was poor says 0 % to 0 %; none of four is seen just as well where six of ten
are poor.
"""

from __future__ import annotations

import math

from scipy.stats import beta

SIDE = 0.025  # of each side: 95 %


def exact_interval(share: float, n: int) -> tuple[float, float]:
    """Clopper-Pearson interval of a share, 95 %.

    Args:
        share: in [0, 1], mean over subjects. Between yes and no (some targets of a subject) it stands for n times it
            as a count that need not be whole; such shares vary less than yes or no, so the interval is then wider
            than needed, never narrower.
        n: subjects, 1 or more.

    Returns:
        (low, high) in [0, 1]; none of n: 0 to 1 - 0.025^(1/n).

    Source: Clopper and Pearson, Biometrika 1934;26:404, as quantiles of the beta distribution.
    """
    k = share * n
    low = 0.0 if k <= 0 else float(beta.ppf(SIDE, k, n - k + 1))
    high = 1.0 if k >= n else float(beta.ppf(1 - SIDE, k + 1, n - k))
    return low, high


def percents(low: float, high: float) -> tuple[int, int]:
    """The interval in whole percent, rounded outwards."""
    return math.floor(100 * low + 1e-9), math.ceil(100 * high - 1e-9)
