"""Reports are one self-contained file; pictures are pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from zoo.report.figures import before_after, loss_curves, sheet, upright
from zoo.report.html import Section, write_report


def _png(folder: Path) -> bytes:
    sheet(np.zeros((1, 8, 8)), folder / "dot.png")
    return (folder / "dot.png").read_bytes()


def test_report_is_one_file_without_requests_or_scripts(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    sections = [
        Section(heading=evil, text=evil, table=[{evil: evil, "value": 0.5}], figures=[(_png(tmp_path), evil)]),
        Section(heading="nothing"),
    ]
    write_report(tmp_path / "report.html", evil, sections)
    html = (tmp_path / "report.html").read_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5
    assert "http://" not in html
    assert "https://" not in html
    assert set(re.findall(r'(?:src|href)="([^:"]*)', html)) == {"data"}
    assert "default-src 'none'" in html
    assert '<td class="number">0.5</td>' in html
    assert ">nothing<" not in html
    assert "Not a medical device" in html


def test_sheet_shows_each_image_where_it_belongs(tmp_path: Path) -> None:
    images = np.full((5, 20, 10), -1.0)
    images[1] = 1
    images[3, :10] = 1
    sheet(images, tmp_path / "sheet.png", columns=3)
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    height, width = picture.shape
    tile_high, tile_wide = height / 2, width / 3
    assert tile_wide >= 160

    def brightness(row: float, column: float) -> int:
        return int(picture[int(row * tile_high), int(column * tile_wide)])

    assert brightness(0.5, 0.5) == 0
    assert brightness(0.5, 1.5) == 255
    assert brightness(1.25, 0.5) == 255  # row 0 of an image is on top
    assert brightness(1.75, 0.5) == 0


def test_before_and_after_marks_the_change(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = np.zeros((40, 48, 20), np.float32)
    before[6:34, 6:42, 3:17] = rng.uniform(400, 800, (28, 36, 14))
    mask = np.zeros(before.shape, bool)
    mask[15:20, 15:22, 8:11] = True
    after = np.where(mask, 900, before)
    for name, result in (("changed", after), ("same", before)):
        before_after(tmp_path / f"{name}.png", before, result, mask, (1.0, 1.0, 2.0), "a patient")
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int)
        assert min(picture.shape[:2]) > 200
        third = picture.shape[1] // 3
        red = (picture[..., 0] - picture[..., 2] > 100) & (picture[..., 0] - picture[..., 1] > 100)
        assert red[:, 2 * third : -third // 3].any() == (name == "changed")


def test_curves_take_any_log(tmp_path: Path) -> None:
    lines = [{"images": 8 * n, "seconds": n, "loss/denoise": 1 / n, "score": -n} for n in range(1, 30)]
    for metrics in (lines, lines[:1], []):
        loss_curves(metrics).savefig(tmp_path / "curves.png")
        assert Image.open(tmp_path / "curves.png").size[0] > 300


def test_a_picture_is_upright() -> None:
    plane = np.arange(6).reshape(2, 3)  # i rises to the right, j to the front
    assert upright(plane).tolist() == [[2, 5], [1, 4], [0, 3]]
    volume = np.stack([plane - 1, plane, plane + 1], axis=-1)
    assert np.array_equal(upright(volume[None], 3), upright(plane)[None])
