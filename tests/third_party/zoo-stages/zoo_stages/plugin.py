"""Registers the method and its stages. Imports no torch."""

from zoo import Citation, Method, Stage, Task, hookimpl

TINY = {"images": 800, "checkpoint_images": 400}


@hookimpl
def zoo_methods():
    return [
        Method(
            name="refined-autoencoder",
            summary="Sample slices from the latent space of an autoencoder, and sharpen them.",
            version=1,
            citation=Citation(authors="You", title="Your paper", venue="Your journal", year=2026),
            licence="Apache-2.0",
            needs=("T1w",),
            config="zoo_stages.config:StagesConfig",
            presets={"tiny": {"data": {"spacing_mm": 4.0}, "autoencoder": {"training": TINY}, "training": TINY}},
            build="zoo_stages.model:build",
            parts="zoo_stages.model:parts",
            stages=(
                Stage(
                    name="autoencoder",
                    trainer="zoo_stages.training:AutoencoderTrainer",
                    examples="zoo_stages.training:Slices",
                    training="autoencoder.training",  # its own number of images, batch size and so on
                    module="autoencoder",  # what it trains; the rest of the model is frozen
                    make="zoo_stages.training:ReconstructionMaker",  # for later stages
                    folds=2,  # a training subject's are made by a model that has not seen it
                ),
                Stage(
                    name="prior",
                    fit="zoo_stages.training:fit_prior",  # no training: it fills buffers of its module
                    examples="zoo_stages.training:Slices",
                    module="prior",
                ),
                Stage(
                    name="refiner",
                    trainer="zoo_stages.training:RefinerTrainer",
                    examples="zoo_stages.training:Reconstructions",  # what the maker made
                    module="refiner",
                ),
            ),
            real="zoo_stages.training:Slices",
            tasks={"sample": Task(run="zoo_stages.model:sample", options="zoo.tasks:SampleOptions")},
            evaluators=("realism",),
        )
    ]
