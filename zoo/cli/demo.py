"""``zoo demo``"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.output import note, progress_bar, table
from zoo.errors import DataError, ZooError

if TYPE_CHECKING:
    from zoo.evaluation.scores import Evaluation
    from zoo.tasks.fill.results import FillReport

SUBJECTS = 8
IMAGES = 16_000
"""More than the preset, which is for tests; about a minute on two cores."""


@click.command(name="demo")
@click.argument("out", type=click.Path(path_type=Path), default="zoo-demo")
def command(out: Path) -> None:
    """Make a synthetic cohort, train lesion filling on it, fill a patient, measure, and write one page.

    Takes a few minutes on two CPU cores. Finished steps are reused.

    \b
    zoo demo
    zoo demo my-demo
    """
    import zoo
    from zoo.cli.train import TrainingBar
    from zoo.config import resolve_config
    from zoo.evaluation.run import evaluate
    from zoo.evaluation.scores import explain
    from zoo.imaging.phantom import write_phantom
    from zoo.registry import registry
    from zoo.tasks.fill.patient import FillSettings, PatientFiles, fill_files
    from zoo.training.launch import launch, train_method

    began = time.monotonic()
    if out.exists() and not (out / "cohort").is_dir():
        raise DataError(f"{out} is there already and is not a demo; name another folder: zoo demo OTHER")
    cohort, run_folder, filled = out / "cohort", out / "run", out / "filled.nii.gz"
    if not cohort.is_dir():
        with progress_bar(f"1/4 Making {SUBJECTS} synthetic subjects") as progress:
            write_phantom(cohort, SUBJECTS, 0, 2.0, progress)
    note(f"1/4 Cohort of {SUBJECTS} synthetic subjects, half with MS: {cohort}")

    method = registry().methods["lesion-filling"]
    config = resolve_config(method, preset="tiny", assignments=[f"training.images={IMAGES}"])
    with TrainingBar() as bar:
        run, outcome = train_method(
            method, config, launch(1, "32-true"), data=cohort, out=run_folder, runs=out, seconds=None,
            bar=bar.preparing, report=bar.report, say=lambda line: None,
        )  # fmt: skip
    if outcome.status != "finished":
        raise ZooError(
            f"The training stopped after {outcome.images_seen} of {IMAGES} images ({outcome.reason}); all is saved. "
            f"Run the same command to resume: zoo demo {out}"
        )
    note(f"2/4 Trained lesion-filling, preset tiny: {run_folder}/report.html")

    artifact = zoo.load(run_folder)
    patient = _unseen_patient(cohort, run.record["split"]["test"])
    anat = cohort / patient / "anat"
    image = anat / f"{patient}_T1w.nii.gz"
    lesions = cohort / "derivatives/lesions" / patient / "anat" / f"{patient}_label-lesion_mask.nii.gz"
    with progress_bar("3/4 Filling") as progress:
        report = fill_files(
            artifact, PatientFiles([image], lesions), [filled], FillSettings(), command=["zoo", "demo"],
            progress=progress,
        )  # fmt: skip
    note(f"3/4 Filled {patient}, a subject that training has not seen: {filled}")

    evaluation = evaluate(artifact, cohort, evaluators=(), options={}, bar=progress_bar)["inpainting"]
    columns = ["masks", "filled by", "n", "ssim_in", "psnr_in", "mse_in"]
    rows = [row for row in evaluation.table() if row["ssim_in"]]
    table("\n4/4 Measured inside the masks", columns, [[str(row[name]) for name in columns] for row in rows])
    click.echo(f"\n{explain(evaluation)}\n")
    _write_page(out, patient, report, evaluation)
    click.echo(f"{report.counts}\nTook {time.monotonic() - began:.0f} s. Look at {out}/index.html")


def _unseen_patient(cohort: Path, test: list[str]) -> str:
    """Return a patient that training did not see."""
    patients = [name for name in test if (cohort / "derivatives/lesions" / name).is_dir()]
    if not patients:
        raise DataError("No test subject of the demo has lesions; remove the demo's folder and run zoo demo again.")
    return patients[0]


def _write_page(out: Path, patient: str, report: FillReport, evaluation: Evaluation) -> None:
    from zoo.evaluation.scores import explain
    from zoo.report.html import Section, write_report

    page = [
        Section(
            heading=f"{patient}, before and after",
            text=str(report.counts),
            figures=[((out / "filled.png").read_bytes(), "outlined: lesions, added by dilation; filled; difference")],
        ),
        Section(heading="Measured on unseen subjects", text=explain(evaluation), table=evaluation.table()),
        Section(heading="Healthy tissue restored under masks", figures=list(evaluation.pictures)),
        Section(
            heading="What next",
            text="Train on your own images: zoo train lesion-filling --data BIDS. Fill a patient: zoo fill RUN --image "
            "T1w.nii.gz --lesions mask.nii.gz --out filled.nii.gz. Measure: zoo evaluate RUN --data BIDS.",
        ),
    ]
    write_report(out / "index.html", "mri-zoo: lesion filling on a synthetic cohort", page)
