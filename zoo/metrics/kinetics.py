"""Classes of time-intensity curves after contrast agent."""

from __future__ import annotations

import numpy as np

PERSISTENT, PLATEAU, WASH_OUT = CURVES = ("persistent", "plateau", "wash-out")
"""Classes of curves by their late change."""

PLATEAU_WITHIN = 0.10
"""Largest late change of a plateau."""


def late_change(curves: np.ndarray) -> np.ndarray:
    """Return how much the signal changes late, as a share of its early peak.

    The early peak is the higher one of the first two points after contrast agent, the late signal is the last point.

    Args:
        curves: Signals ``[..., T]``: before contrast agent, then at least three times after it; above 0.

    Returns:
        ``[...]``; 0.2 means that the last signal is 20 % above the early peak.

    Source: Kuhl et al. 1999, "Dynamic breast MR imaging: are signal intensity time course data useful for differential
    diagnosis of enhancing lesions?"; the limits of 10 % are those of the BI-RADS lexicon.
    """
    peak = curves[..., 1:3].max(axis=-1)
    return curves[..., -1] / peak - 1


def curve_class(change: np.ndarray) -> np.ndarray:
    """Return the class of each late change: persistent above 10 %, wash-out below -10 %, plateau between."""
    return np.select([change > PLATEAU_WITHIN, change < -PLATEAU_WITHIN], [PERSISTENT, WASH_OUT], PLATEAU)
