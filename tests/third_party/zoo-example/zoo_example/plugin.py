"""Registers the method. Imports no torch: code is named, and imported when it is used."""

from zoo import Citation, Method, Task, hookimpl


@hookimpl
def zoo_methods():
    return [
        Method(
            name="regression-filling",
            summary="Fill lesions in one pass of a small convolutional network.",
            version=1,
            citation=Citation(authors="You", title="Your paper", venue="Your journal", year=2026),
            licence="Apache-2.0",
            needs=("T1w",),
            config="zoo_example.config:RegressionConfig",
            presets={"tiny": {"data": {"spacing_mm": 4.0}, "training": {"images": 2000}}},
            build="zoo_example.model:build",
            parts="zoo_example.model:parts",
            trainer="zoo_example.model:RegressionTrainer",
            examples="zoo_example.model:SliceExamples",
            tasks={"fill": Task(run="zoo_example.model:fill", options="zoo.tasks:FillOptions")},
            evaluators=("inpainting",),
        )
    ]
