"""Pictures of edits: sheets of alphas with their differences, curves along alpha, profiles through the ventricle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zoo.metrics.profiles import Profiles
from zoo.metrics.statistics import FEWEST_SUBJECTS, mean_interval
from zoo.report.figures import empty_figure
from zoo.system.files import replacing

_COLOURS = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad")
_INCHES = 1.25
"""Width of an image on a sheet."""


def edit_sheet(path: Path, images: np.ndarray, alphas: Sequence[float], labels: Sequence[str], baseline: int) -> None:
    """Draw two rows per image: its versions along alpha, and below their differences to the baseline.

    Args:
        path: PNG file.
        images: ``[R, A, H, W]`` in [-1, 1], row 0 on top.
        alphas: ``[A]``.
        labels: One per image.
        baseline: Index of the alpha that differences are taken to; all differences share one scale.

    Source: Güllmar et al., figure 4. Departure: the difference is drawn below its image instead of on it.
    """
    rows, columns, height, width = images.shape
    differences = images - images[:, [baseline]]
    largest = float(np.percentile(np.abs(differences), 99.8)) or 1.0
    tall = _INCHES * height / width
    figure = empty_figure(0.9 + columns * _INCHES, 0.5 + 2 * rows * tall, facecolor="black", layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for row in range(rows):
        for column in range(columns):
            above, below = grid[2 * row, column], grid[2 * row + 1, column]
            above.imshow(images[row, column], cmap="gray", vmin=-1, vmax=1)
            shown = below.imshow(differences[row, column], cmap="RdBu_r", vmin=-largest, vmax=largest)
            for axes in (above, below):
                axes.set_xticks([])
                axes.set_yticks([])
        grid[2 * row, 0].set_ylabel(labels[row], color="white", fontsize=8)
        grid[2 * row + 1, 0].set_ylabel("difference", color="white", fontsize=8)
    for axes, alpha in zip(grid[0], alphas, strict=True):
        axes.set_title(f"α = {alpha:g}", color="white", fontsize=9)
    bar = figure.colorbar(shown, ax=grid, fraction=0.02, pad=0.01)
    bar.ax.tick_params(colors="white", labelsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="black")


def edit_curves(
    path: Path,
    alphas: Sequence[float],
    series: Mapping[str, np.ndarray],
    significant: Mapping[str, Sequence[bool]],
    quantity: str,
) -> None:
    """Draw means along alpha, one curve per group, with 95 % intervals where there are enough subjects for them.

    Args:
        path: PNG file.
        alphas: ``[A]``.
        series: ``[subjects, A]`` by group.
        significant: The alphas that get a star, by group.
        quantity: Title of the axis.

    Source: Güllmar et al., figure 6.
    """
    figure = empty_figure(6.4, 4, layout="constrained")
    axes = figure.subplots()
    for colour, (label, values) in zip(_COLOURS, series.items(), strict=False):
        intervals = [mean_interval(column.tolist()) for column in values.T]
        means = np.array([interval.mean for interval in intervals])
        axes.plot(alphas, means, color=colour, marker="o", markersize=3, label=f"{label} (n = {len(values)})")
        if len(values) >= FEWEST_SUBJECTS:
            low, high = zip(*((interval.low, interval.high) for interval in intervals), strict=True)
            axes.fill_between(alphas, low, high, color=colour, alpha=0.15, linewidth=0)
        for alpha, mean, star in zip(alphas, means, significant[label], strict=True):
            if star:
                axes.annotate("*", (alpha, mean), (0, 4), textcoords="offset points", color=colour, ha="center")
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel("α")
    axes.set_ylabel(quantity)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def edit_profiles(path: Path, image: np.ndarray, profiles: Profiles, alphas: Sequence[float], title: str) -> None:
    """Draw a slice with two lines through its ventricle, and the intensities along them for each alpha.

    Args:
        path: PNG file.
        image: ``[I, J]`` in [-1, 1], the version at alpha 0.
        profiles: Along the lines.
        alphas: ``[A]``, one per version.
        title: Above the picture.

    Source: Güllmar et al., figure 5.
    """
    from matplotlib import colormaps

    figure = empty_figure(11, 3.4, layout="constrained")
    shown, along_row, along_column = figure.subplots(1, 3, width_ratios=(1, 1.6, 1.6))
    shown.imshow(image.T, cmap="gray", vmin=-1, vmax=1, origin="lower")
    shown.axhline(profiles.through[1], color="#c0392b", linewidth=1)
    shown.axvline(profiles.through[0], color="#1f5fa8", linewidth=1)
    shown.set_axis_off()
    shown.set_title(title, fontsize=9)
    reach = max(max(abs(alpha) for alpha in alphas), 1e-9)
    for axes, lines, name, colour in (
        (along_row, profiles.row, "row, left to right", "#c0392b"),
        (along_column, profiles.column, "column, back to front", "#1f5fa8"),
    ):
        for alpha, line in zip(alphas, lines, strict=True):
            shade = "black" if alpha == 0 else colormaps["coolwarm"](0.5 + alpha / reach / 2)
            axes.plot((line + 1) / 2, color=shade, linewidth=1.6 if alpha == 0 else 0.9, label=f"α = {alpha:g}")
        axes.set_title(name, fontsize=9, color=colour)
        axes.set_xlabel("pixel", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    along_row.set_ylabel("intensity", fontsize=8)
    figure.legend(*along_column.get_legend_handles_labels(), fontsize=7, loc="outside right center")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
