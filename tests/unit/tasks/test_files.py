"""Patient files on the model's grid and back, and what does not belong together."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from zoo.config import DataConfig
from zoo.errors import DataError
from zoo.tasks import files
from zoo.tasks.files import ModelImage, check_belonging, grid_for, read_images, read_mask


def _write(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(values, affine)
    image.header["xyzt_units"] = 2
    nibabel.save(image, path)
    return path


@pytest.fixture
def head() -> np.ndarray:
    distance = np.linalg.norm(np.indices((24, 20, 16)) - np.array([11.5, 9.5, 7.5])[:, None, None, None], axis=0)
    return np.where(distance < 7, 500 + 20 * distance, 0).astype(np.float32)


FLIPPED = np.array([[-4.0, 0, 0, 50], [0, 4, 0, -30], [0, 0, 4, 10], [0, 0, 0, 1]])


def test_the_way_to_the_models_grid_and_back_changes_only_what_was_changed(tmp_path: Path, head: np.ndarray) -> None:
    paths = [_write(tmp_path / f"{name}.nii", scale * head, FLIPPED) for name, scale in (("T1w", 1.0), ("T2w", 0.3))]
    volumes = read_images(paths)
    data = DataConfig(contrasts=("T1w", "T2w"), spacing_mm=4.0)
    image = ModelImage.encode(volumes, 0, grid_for(volumes[0], data), data)
    assert image.tensor.shape == (2, 24, 20, 16)
    assert float(image.tensor.abs().max()) <= 1
    assert torch.allclose(image.tensor[0], image.tensor[1], atol=1e-3)
    changed = np.zeros(image.grid.shape, bool)
    changed[3, 5, 7] = True
    result = torch.full_like(image.tensor, 0.5)
    for volume, scale, values in zip(volumes, image.intensities, image.decode(result, changed), strict=True):
        assert np.argwhere(values != volume.data[0]).tolist() == [[20, 5, 7]]  # the first axis runs to the left
        assert values[20, 5, 7] == pytest.approx(0.75 * scale.high)


def test_images_of_two_grids_and_subjects_are_refused(tmp_path: Path, head: np.ndarray) -> None:
    first = _write(tmp_path / "sub-1_T1w.nii", head, FLIPPED)
    moved = _write(tmp_path / "sub-1_T2w.nii", head, np.diag([4.0, 4, 4, 1]))
    with pytest.raises(DataError, match="different grids"):
        read_images([first, moved])
    mask = _write(tmp_path / "sub-2_mask.nii", (head > 600).astype(np.uint8), FLIPPED)
    images = read_images([first])
    masks = [read_mask(mask, images)]
    with pytest.raises(DataError, match="different subjects"):
        check_belonging(images, masks, same_space=False)
    (warning,) = check_belonging(images, masks, same_space=True)
    assert "although" in warning
    assert "different subjects" in warning


def test_a_segmentation_becomes_the_mask_of_its_labels(tmp_path: Path, head: np.ndarray) -> None:
    images = read_images([_write(tmp_path / "T1w.nii", head, FLIPPED)])
    labels = np.digitize(head, [500, 550, 600]).astype(np.uint8)
    mask = read_mask(_write(tmp_path / "dseg.nii", labels, FLIPPED), images, (), (1, 3))
    assert np.array_equal(mask.voxels, np.isin(labels, (1, 3)))


def test_an_image_too_large_for_the_models_grid_is_refused(
    tmp_path: Path, head: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = read_images([_write(tmp_path / "T1w.nii", head, FLIPPED)])
    monkeypatch.setattr(files, "MAX_VOXELS", 8 * head.size - 1)
    with pytest.raises(DataError, match="Crop the image"):
        grid_for(image, DataConfig(spacing_mm=2.0))


def test_an_image_goes_to_a_models_matrix_and_back(tmp_path: Path) -> None:
    i, j, k = np.indices((24, 20, 16))
    ramp = (500 + 10 * i + 5 * j - 3 * k).astype(np.float32)  # interpolation does not change it
    data = DataConfig(matrix=(24, 30, 20), scaling="max")
    volumes = read_images([_write(tmp_path / "T1w.nii", ramp, FLIPPED)])
    image = ModelImage.encode(volumes, 0, grid_for(volumes[0], data), data)
    assert image.tensor.shape == (1, 24, 30, 20)
    (back,) = image.decode(image.tensor, np.ones((24, 30, 20), bool))
    inner = (slice(2, -2),) * 3
    assert np.allclose(back[inner], ramp[inner], atol=0.1)
