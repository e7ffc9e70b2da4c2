"""What every harmonizer must do; the contract kit runs it for each method that offers the verb."""

import nibabel
import numpy as np

from zoo.tasks import Runtime, image_to_image_files


def check(artifact, cohort, folder):
    """The result lies on the scan's grid, repeats itself, and is the scan itself at strength 0."""
    image = next(cohort.glob("sub-*/anat/*_T1w.nii.gz"))
    before = nibabel.load(image)

    def harmonized(name, strength):
        sidecar = image_to_image_files(
            artifact, "harmonize", [image], [folder / name], options={"strength": strength}, runtime=Runtime(),
            description="A test.",
        )  # fmt: skip
        assert sidecar["Synthetic"] is True
        return nibabel.load(folder / name)

    first, again, untouched = harmonized("a.nii.gz", 1), harmonized("b.nii.gz", 1), harmonized("c.nii.gz", 0)
    assert first.shape == before.shape
    assert np.array_equal(first.affine, before.affine)
    assert np.array_equal(first.get_fdata(), again.get_fdata())
    assert not np.array_equal(first.get_fdata(), untouched.get_fdata())
    brightest = np.percentile(before.get_fdata(), 95)
    inside = before.get_fdata() < brightest  # the brightest voxels are clamped for the network
    assert np.abs(untouched.get_fdata() - before.get_fdata())[inside].max() < 0.02 * brightest
