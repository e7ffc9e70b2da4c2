"""The names and places of derived images."""

from __future__ import annotations

from zoo.runner.derivatives import derived_name


def test_names_are_those_of_bids_derivatives() -> None:
    assert derived_name("sub-1_T1w.nii.gz", "filled") == "sub-1_desc-filled_T1w.nii.gz"
    assert derived_name("sub-1_ses-2_space-MNI_FLAIR.nii", "x") == "sub-1_ses-2_space-MNI_desc-x_FLAIR.nii"
    assert derived_name("T1w.nii.gz", "filled") == "desc-filled_T1w.nii.gz"
