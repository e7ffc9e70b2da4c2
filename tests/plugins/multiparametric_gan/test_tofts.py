"""The signal after contrast agent follows the published models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from zoo.errors import DataError
from zoo.metrics.kinetics import curve_class, late_change
from zoo_multiparametric_gan import tofts
from zoo_multiparametric_gan.phantom import _RANGES, TIMES_S

TISSUES = [(0.9, 0.2, 0.05), (0.05, 0.7, 0.004), (0.02, 0.08, 0.006)]


@pytest.mark.parametrize(("ktrans", "ve", "vp"), TISSUES)
def test_concentration_is_the_integral(ktrans: float, ve: float, vp: float) -> None:
    times = np.arange(0, 300, 0.25)
    found = tofts.concentration(tofts.plasma(times), 0.25, ktrans, ve, vp)
    for time in (30.0, 70.0, 200.0):

        def inflow(before: float, now: float = time) -> float:
            return float(tofts.plasma(np.array(before))) * np.exp(-ktrans / ve * (now - before) / 60)

        wanted = vp * tofts.plasma(np.array(time)) + ktrans / 60 * quad(inflow, 0, time, limit=200, points=[10, 22])[0]
        assert found[int(time / 0.25)] == pytest.approx(wanted, rel=2e-3)


def test_curves_agree_with_dcmri() -> None:
    """Of dcmri 0.6.20, whose integral is a sum at the points in time, as our own is exact between them."""
    import dcmri  # takes seconds

    step, haematocrit = 0.25, tofts.HAEMATOCRIT
    times = np.arange(0, 300, step)
    blood = dcmri.aif_parker(times)
    assert tofts.blood(times) == pytest.approx(1e3 * blood, abs=1e-5)
    for ktrans, ve, vp in TISSUES:
        tissue = dcmri.Tissue(
            kinetics="HF", water_exchange="FF", sequence="SS", ca=blood, dt=step, n0=1, TS=0, S0=1,
            H=haematocrit, R10=1 / 1.4, r1=1e3 * tofts.RELAXIVITY, TR=tofts.REPETITION_TIME_S,
            FA=tofts.FLIP_ANGLE_DEG, vb=vp / (1 - haematocrit), PS=ktrans / 60, vi=ve,
        )  # fmt: skip
        own = tofts.concentration(tofts.plasma(times), step, ktrans, ve, vp)
        theirs = 1e3 * tissue.conc(sum=True)
        assert np.abs(own - theirs).max() < 0.02 * theirs.max()
        signal = tofts.spoiled_gradient_echo(own, 1.4)
        assert np.abs(signal - tissue.signal()).max() < 0.02 * signal.max()


def test_contrast_agent_arrives_after_the_injection() -> None:
    curve = tofts.Tissue(0.9, 0.2, 0.05).curve([tofts.ARRIVAL_S - 1, tofts.ARRIVAL_S + 15])
    assert curve[1] == pytest.approx(curve[0])
    assert curve[2] > 1.5 * curve[0]


@pytest.mark.parametrize(
    ("kind", "wanted", "lowest", "highest"),
    [("benign", "persistent", 0.14, 0.21), ("gland", "plateau", -0.07, 0.07), ("malignant", "wash-out", -0.36, -0.25)],
)
def test_the_whole_range_of_a_tissue_has_one_class(kind: str, wanted: str, lowest: float, highest: float) -> None:
    edges = [np.geomspace(low, high, 4) for low, high in _RANGES[kind].values()]
    curves = np.stack(
        [tofts.Tissue(ktrans, ve, vp).curve(TIMES_S) for ktrans in edges[0] for ve in edges[1] for vp in edges[2]]
    )
    change = late_change(curves)
    assert set(curve_class(change)) == {wanted}
    assert lowest < change.min()
    assert change.max() < highest


def test_impossible_tissue_is_refused() -> None:
    with pytest.raises(DataError, match="ve in \\(0, 1\\]"):
        tofts.Tissue(0.1, 1.2, 0.01)
    with pytest.raises(DataError, match="ktrans_per_min above 0"):
        tofts.Tissue(0.0, 0.2, 0.01)
