"""Registers the verb and a method that offers it. Imports no torch."""

from zoo import Citation, Method, Task, Verb, hookimpl


@hookimpl
def zoo_verbs():
    return [
        Verb(
            name="harmonize",
            summary="Give a scan the intensity curve of the scans that the model was trained on.",
            command="zoo_harmonize.command:command",
            trial="zoo_harmonize.trial:trial",
            check="zoo_harmonize.check:check",
        )
    ]


@hookimpl
def zoo_methods():
    return [
        Method(
            name="voxel-harmonizing",
            summary="Undo intensity curves voxel by voxel, with a small network that knows the scan's quartiles.",
            version=1,
            citation=Citation(authors="You", title="Your paper", venue="Your journal", year=2026),
            licence="Apache-2.0",
            needs=("T1w",),
            config="zoo_harmonize.config:VoxelConfig",
            presets={"tiny": {"data": {"spacing_mm": 4.0}, "training": {"images": 2000}}},
            build="zoo_harmonize.model:build",
            parts="zoo_harmonize.model:parts",
            trainer="zoo_harmonize.model:VoxelTrainer",
            examples="zoo_harmonize.model:VoxelExamples",
            tasks={"harmonize": Task(run="zoo_harmonize.model:harmonize", options="zoo_harmonize.protocol:Options")},
        )
    ]
