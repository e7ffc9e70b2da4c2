"""Pictures: contact sheets, before and after, curves. Drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from zoo.imaging.geometry import Grid, model_grid
from zoo.imaging.volume import Volume
from zoo.report import MARK

_TILE = 160
"""Smallest side of a tile of a contact sheet, pixels."""
_DPI = 100
DRAWN, ADDED = "#ffb000", "#35d0ff"
"""Outlines of the drawn mask and of the rim that dilation added."""
_PICTURE_VOXELS = 20_000_000


def empty_figure(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure of a size in inches that can save itself as PNG."""
    figure = Figure(figsize=(width, height), dpi=_DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def upright(images: np.ndarray, dims: int = 2) -> np.ndarray:
    """Return images in RAS order as a picture shows them: front on top, left on the left; of volumes the middle slice.

    Args:
        images: ``[..., i, j]``, or ``[..., i, j, k]`` for volumes.
        dims: 2 or 3, the number of spatial axes.

    Returns:
        ``[..., H, W]``, row 0 on top.
    """
    slices = images if dims == 2 else images[..., images.shape[-1] // 2]
    return slices.swapaxes(-1, -2)[..., ::-1, :]


def sheet(
    images: np.ndarray,
    path: Path,
    *,
    titles: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    columns: int = 4,
) -> None:
    """Write a contact sheet.

    Args:
        images: ``[N, H, W]`` in [-1, 1], row 0 on top.
        path: PNG file.
        titles: One per column, above the first row.
        rows: A title for each row, left of it.
        columns: Images per row.
    """
    count, height, width = images.shape
    zoom = max(1, -(-_TILE // min(height, width)))
    top = 24 if titles else 0
    margin = 24 + 8 * max(map(len, rows)) if rows else 0
    total_width = columns * (width * zoom + 2) + margin
    total_height = -(-count // columns) * (height * zoom + 2) + top
    figure = empty_figure(total_width / _DPI, total_height / _DPI, facecolor="black")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left = (margin + column * (width * zoom + 2) + 1) / total_width
        bottom = 1 - (top + (row + 1) * (height * zoom + 2) - 1) / total_height
        axes = figure.add_axes((left, bottom, width * zoom / total_width, height * zoom / total_height))
        axes.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_axis_off()
        if titles and row == 0:
            axes.set_title(titles[column], color="white", fontsize=10, pad=5)
        if rows and column == 0:
            axes.text(-8 / (width * zoom), 0.5, rows[row], transform=axes.transAxes, color="white", fontsize=10,
                      ha="right", va="center")  # fmt: skip
    figure.savefig(path, format="png", facecolor="black")


def compare(path: Path, first: np.ndarray, second: np.ndarray, titles: Sequence[str]) -> None:
    """Draw targets, reconstructions and their differences, one row per image.

    Args:
        path: PNG file.
        first, second: ``[N, H, W]`` in [-1, 1], row 0 on top.
        titles: One per row, beside it.
    """
    count, height, width = first.shape
    tall = 2.4 * height / width
    figure = empty_figure(3 * 2.4 + 3.0, count * tall + 0.5, facecolor="black", layout="constrained")
    grid = figure.subplots(count, 3, squeeze=False)
    largest = float(np.percentile(np.abs(second - first), 99.5)) or 1.0
    for row, one, other, title in zip(grid, first, second, titles, strict=True):
        for axes, plane in zip(row[:2], (one, other), strict=True):
            axes.imshow(plane, cmap="gray", vmin=-1, vmax=1)
        shown = row[2].imshow(other - one, cmap="RdBu_r", vmin=-largest, vmax=largest)
        row[0].set_ylabel(title, color="white", fontsize=8, rotation=0, ha="right", va="center", labelpad=8)
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, name in zip(grid[0], ("target", "reconstruction", "difference"), strict=True):
        axes.set_title(name, color="white", fontsize=10)
    bar = figure.colorbar(shown, ax=grid[:, 2], fraction=0.05, pad=0.02)
    bar.ax.tick_params(colors="white", labelsize=8)
    figure.savefig(path, format="png", facecolor="black")


def before_after(
    path: Path,
    before: np.ndarray,
    after: np.ndarray,
    mask: np.ndarray,
    spacing_mm: tuple[float, float, float],
    title: str,
    added: np.ndarray | None = None,
) -> None:
    """Draw axial slices before, after, and their difference, with a legend of the outlines; left is left.

    Args:
        path: PNG file.
        before, after: ``[i, j, k]`` in RAS, the same units.
        mask: bool ``[i, j, k]``, outlined on the images before.
        spacing_mm: Voxel size along each axis.
        title: Above the picture.
        added: bool ``[i, j, k]``, the rim that dilation added to the mask, outlined in another colour; mask and added
            together have at least one voxel.
    """
    added = np.zeros_like(mask) if added is None else added
    changeable = mask | added
    slices = _slices_to_show(changeable)
    head = before > 0.1 * np.percentile(before, 99.5)
    held = np.argwhere(head.any(axis=2)) if head.any() else np.argwhere(np.ones(before.shape[:2], bool))
    low, high = np.maximum(held.min(axis=0) - 3, 0), held.max(axis=0) + 4
    window = (slice(low[0], high[0]), slice(low[1], high[1]))
    dark, bright = float(np.percentile(before, 1)), float(np.percentile(before[head], 99.8) if head.any() else 1)
    difference = after.astype(np.float32) - before
    largest = float(np.percentile(np.abs(difference[changeable]), 99)) or 1.0
    extent = (0, (high[0] - low[0]) * spacing_mm[0], 0, (high[1] - low[1]) * spacing_mm[1])
    tall = 3.1 * extent[3] / extent[1]
    figure = empty_figure(3 * 3.1 + 0.9, len(slices) * tall + 0.6, facecolor="black", layout="constrained")
    grid = figure.subplots(len(slices), 3, squeeze=False)
    for row, index in zip(grid, slices, strict=True):
        planes = [volume[(*window, index)].T for volume in (before, after, difference)]
        # The rim is outlined from outside, so that its line and the mask's do not cover each other.
        outlines = [(part[(*window, index)].T, colour) for part, colour in ((changeable, ADDED), (mask, DRAWN))]
        for axes, plane in zip(row[:2], planes[:2], strict=True):
            axes.imshow(plane, cmap="gray", vmin=dark, vmax=bright, origin="lower", extent=extent, aspect="equal")
        shown = row[2].imshow(
            planes[2], cmap="RdBu_r", vmin=-largest, vmax=largest, origin="lower", extent=extent, aspect="equal"
        )
        for outline, colour in outlines if added.any() else outlines[1:]:
            if outline.any() and not outline.all():
                row[0].contour(outline, levels=[0.5], colors=colour, linewidths=0.7, extent=extent, origin="lower")
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.text(0.02, 0.5, "L", color="white", transform=axes.transAxes, fontsize=8, va="center")
            axes.text(0.98, 0.5, "R", color="white", transform=axes.transAxes, fontsize=8, va="center", ha="right")
    for axes, name in zip(grid[0], ("before", "after", "difference"), strict=True):
        axes.set_title(name, color="white", fontsize=10)
    bar = figure.colorbar(shown, ax=grid[:, 2], fraction=0.05, pad=0.02)
    bar.ax.tick_params(colors="white", labelsize=8)
    figure.suptitle(title, color="white", fontsize=11)
    legend = [(DRAWN, "drawn lesion mask"), *([(ADDED, "with what dilation added")] if added.any() else [])]
    figure.legend(
        [Line2D([], [], color=colour) for colour, _ in legend], [name for _, name in legend],
        loc="outside lower left", ncols=2, facecolor="black", edgecolor="black", labelcolor="white", fontsize=9,
    )  # fmt: skip
    figure.savefig(path, format="png", facecolor="black", metadata={"Software": MARK})


def picture_grid(volume: Volume) -> Grid:
    """Return the isotropic grid to draw an image on: its finest spacing, or a coarser one to limit memory."""
    cubic_mm = float(np.prod(volume.shape) * np.prod(volume.spacing_mm))
    finest = max(min(volume.spacing_mm), (cubic_mm / _PICTURE_VOXELS) ** (1 / 3))
    return model_grid(volume.shape, volume.affine, finest)


def _slices_to_show(mask: np.ndarray) -> list[int]:
    """Return up to three slices with most mask voxels, at a distance from each other, from bottom to top."""
    counts = mask.sum(axis=(0, 1)).astype(float)
    apart = max(mask.shape[2] // 15, 1)
    chosen: list[int] = []
    while len(chosen) < 3 and counts.max() > 0:
        best = int(counts.argmax())
        chosen.append(best)
        counts[max(best - apart, 0) : best + apart + 1] = 0
    return sorted(chosen)


def loss_curves(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """Draw each logged value over images seen, raw and smoothed; the axis is logarithmic if all values are positive.

    Args:
        metrics: Lines of ``metrics.jsonl``.
    """
    names = sorted({name for line in metrics for name in line} - {"images", "seconds"})
    if not names:
        figure = empty_figure(6, 1)
        figure.text(0.5, 0.5, "nothing was logged", ha="center", va="center")
        return figure
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = empty_figure(4 * columns, 2.8 * rows, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        points = np.array([(line["images"], line[name]) for line in metrics if name in line])
        axes.plot(points[:, 0], points[:, 1], color="#9bb7d4", linewidth=0.8)
        axes.plot(points[:, 0], _smooth(points[:, 1]), color="#1f4e79", linewidth=1.6)
        if (points[:, 1] > 0).all():
            axes.set_yscale("log")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("images seen", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    return figure


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return a running mean over about a tenth of the values."""
    reach = len(values) // 20
    return np.array([values[max(index - reach, 0) : index + reach + 1].mean() for index in range(len(values))])
