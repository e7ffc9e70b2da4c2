"""Registers the toys and the cohort that it is trained on."""

from __future__ import annotations

from zoo import Citation, Dataset, Method, Stage, Task, hookimpl


@hookimpl
def zoo_methods() -> list[Method]:
    """Return the method of three stages, and the sampler with classes."""
    about = Citation(authors="The tests", title="A toy", venue="tests", year=2026)
    return [
        Method(
            name="toy-filling",
            summary="Fill squares in three stages; for tests.",
            version=1,
            citation=about,
            licence="Apache-2.0",
            needs=("T1w",),
            config="tests.toy.config:ToyConfig",
            presets={"tiny": {"data": {"spacing_mm": 4.0}}},
            build="tests.toy.networks:build",
            parts="tests.toy.networks:parts",
            stages=(
                Stage(
                    name="autoencoder",
                    trainer="tests.toy.training:AutoencoderTrainer",
                    examples="tests.toy.training:Slices",
                    training="autoencoder.training",
                    module="autoencoder",
                    make="tests.toy.training:ErrorMaker",
                    folds=2,
                ),
                Stage(
                    name="components",
                    fit="tests.toy.training:fit_components",
                    examples="tests.toy.training:Errors",
                    module="components",
                ),
                Stage(
                    name="corrector",
                    trainer="tests.toy.training:CorrectorTrainer",
                    examples="tests.toy.training:Errors",
                    module="corrector",
                ),
            ),
            real="tests.toy.training:RealSlices",
            dataset="toy-brains",
            tasks={"fill": Task(run="tests.toy.tasks:fill", options="zoo.tasks:FillOptions")},
        ),
        Method(
            name="toy-classes",
            summary="Draw patches dark or bright; for tests.",
            version=1,
            citation=about,
            licence="Apache-2.0",
            needs=("T1w", "FLAIR"),
            config="tests.toy.config:ClassesConfig",
            real="tests.toy.classes:RealPatches",
            dataset="toy-brains",
            tasks={"sample": Task(run="tests.toy.classes:sample", options="tests.toy.config:ClassesOptions")},
        ),
    ]


@hookimpl
def zoo_datasets() -> list[Dataset]:
    """Return a small phantom."""
    return [
        Dataset(name="toy-brains", summary="Five coarse phantoms; for tests.", open="tests.toy.training:open_brains")
    ]
