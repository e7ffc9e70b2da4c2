"""Signal of tissue after contrast agent: arterial input, extended Tofts model, spoiled gradient echo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from zoo.errors import DataError

ARRIVAL_S = 20.0
"""Seconds from the injection to the arrival of contrast agent in the breast."""

HAEMATOCRIT = 0.42
"""Share of blood that is cells, which contrast agent does not enter."""

RELAXIVITY = 4.5
"""Of contrast agent in plasma at 3 T, 1/(mM s)."""

REPETITION_TIME_S = 0.005
FLIP_ANGLE_DEG = 15.0

_STEP_S = 0.25


@dataclass(frozen=True)
class Tissue:
    """Parameters of a tissue that takes up contrast agent.

    Attributes:
        ktrans_per_min: Transfer constant from plasma into the extracellular space, 1/min, above 0.
        ve: Share of the extracellular space outside vessels, in (0, 1].
        vp: Share of plasma, in [0, 1].
        t1_s: Longitudinal relaxation time before contrast agent, s.

    Raises:
        DataError: A value is out of range.
    """

    ktrans_per_min: float
    ve: float
    vp: float
    t1_s: float = 1.4

    def __post_init__(self) -> None:
        if not (self.ktrans_per_min > 0 and 0 < self.ve <= 1 and 0 <= self.vp <= 1 and self.t1_s > 0):
            raise DataError(
                "A tissue has a ktrans_per_min above 0, ve in (0, 1], vp in [0, 1] and t1_s above 0, got "
                f"{self.ktrans_per_min:g}, {self.ve:g}, {self.vp:g} and {self.t1_s:g}."
            )

    def curve(self, times_s: Sequence[float]) -> np.ndarray:
        """Return the signal before contrast agent and at each time after its injection, ``[1 + times]``.

        Args:
            times_s: Seconds after the injection, 0 or more.

        Returns:
            Signals as shares of the tissue's fully relaxed signal, float64.
        """
        times = np.arange(0, max(times_s) + 2 * _STEP_S, _STEP_S)
        found = concentration(plasma(times - ARRIVAL_S), _STEP_S, self.ktrans_per_min, self.ve, self.vp)
        return spoiled_gradient_echo(np.interp([0, *times_s], times, found), self.t1_s)


def blood(times_s: np.ndarray) -> np.ndarray:
    """Return the concentration of contrast agent in arterial blood, mM, for 0.1 mmol per kg of body weight.

    Args:
        times_s: Seconds after contrast agent arrives; the concentration is 0 before.

    Source: Parker et al. 2006, "Experimentally-derived functional form for a population-averaged
    high-temporal-resolution arterial input function for dynamic contrast-enhanced MRI", equation 1 and table 1.
    """
    minutes = np.asarray(times_s) / 60
    passes = sum(
        area / (width * np.sqrt(2 * np.pi)) * np.exp(-((minutes - centre) ** 2) / (2 * width**2))
        for area, centre, width in ((0.809, 0.17046, 0.0563), (0.330, 0.365, 0.132))
    )
    recirculation = 1.050 * np.exp(-0.1685 * minutes) / (1 + np.exp(-38.078 * (minutes - 0.483)))
    return np.where(minutes >= 0, passes + recirculation, 0)


def plasma(times_s: np.ndarray) -> np.ndarray:
    """Return the concentration in plasma, mM: that in `blood` without the share of cells."""
    return blood(times_s) / (1 - HAEMATOCRIT)


def concentration(plasma_mm: np.ndarray, step_s: float, ktrans_per_min: float, ve: float, vp: float) -> np.ndarray:
    """Return the concentration of contrast agent in a tissue, mM, by the extended Tofts model.

    ``C(t) = vp cp(t) + Ktrans ∫ cp(u) exp(-Ktrans/ve (t - u)) du``; the integral is exact for a plasma concentration
    that is linear between its points.

    Args:
        plasma_mm: Concentration in plasma ``[T]`` at equal steps from the first 0, mM.
        step_s: Seconds between the points.
        ktrans_per_min, ve, vp: See `Tissue`.

    Source: Tofts et al. 1999, "Estimating kinetic parameters from dynamic contrast-enhanced T1-weighted MRI of a
    diffusable tracer", the generalised kinetic model with the plasma term.
    """
    decays = ktrans_per_min / 60 / ve * step_s
    # Integrals over one step of the decay, for the falling and the rising half of a linear step.
    kept = np.exp(-decays)
    rising = (decays - 1 + kept) / decays
    falling = 1 - kept - rising
    return vp * plasma_mm + ve * lfilter([rising, falling], [1, -kept], plasma_mm)


def spoiled_gradient_echo(concentration_mm: np.ndarray, t1_s: float) -> np.ndarray:
    """Return the steady-state signal of a spoiled gradient echo as a share of the fully relaxed signal.

    Args:
        concentration_mm: Of contrast agent, mM; raises 1/T1 by `RELAXIVITY` per mM.
        t1_s: Without contrast agent, s.

    Departure: the decay of the signal until the echo (T2*) is left out.
    """
    recovered = np.exp(-REPETITION_TIME_S * (1 / t1_s + RELAXIVITY * np.asarray(concentration_mm)))
    angle = np.deg2rad(FLIP_ANGLE_DEG)
    return np.sin(angle) * (1 - recovered) / (1 - np.cos(angle) * recovered)
