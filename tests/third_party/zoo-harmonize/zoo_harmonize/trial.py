"""The verb on synthetic input: `zoo export` checks exported models with it, `zoo bench --task harmonize` times it."""

from zoo import resolve
from zoo.tasks import Trial, phantom_patient


def trial(artifact, options):
    run = resolve(artifact.method.task("harmonize").run)

    def inputs(count):
        image, _ = phantom_patient(artifact.config.data)
        return {"image": image}

    def harmonize(parts, inputs, progress):
        return run(parts, artifact.config, inputs["image"], options, progress)[None]  # [1, C, i, j, k]

    return Trial(inputs=inputs, run=harmonize, on="a phantom head")
