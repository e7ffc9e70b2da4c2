"""Does an exported part compute the same as torch in float32?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.descriptors import Part
from zoo.errors import ParityError
from zoo.exporting.job import ExportJob
from zoo.models.artifact import Artifact

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCES = {"fp32": (1e-4, 3e-5), "fp16": (1e-2, 2e-3), "bf16": (1e-1, 8e-2)}
"""Largest rel_max and rel_l2 of a part by precision.

The order of summation alone gives a rel_l2 of 5e-6 in a U-Net of 114 M parameters, 5e-7 in one of 4 M.
bf16 keeps less than three digits: U-Nets had a rel_l2 of 0.4e-2 to 1.5e-2 in torch and, where norms are cast, too, of
1.1e-2 to 5.3e-2 in OpenVINO. The gate of the task judges what that does to images.
"""


def parity(
    reference: Callable[..., Any],
    candidate: Callable[..., Any],
    part: Part,
    precision: str,
    batches: Sequence[int],
) -> dict[str, Any]:
    """Compare a part on two backends, at several batches; every sample has its own seed and timestep.

    The reference runs once, on the largest batch; smaller ones are slices of it.

    Args:
        reference: The part as torch runs it in float32.
        candidate: The part as it is to be used.
        part: What goes in and out.
        precision: Of the candidate; decides what is tolerated.
        batches: Batch sizes to try.

    Returns:
        The largest ``max_abs`` (absolute), ``rel_max`` (over the reference's largest value) and ``rel_l2`` (norm of the
        difference over the reference's norm) over batches and outputs, the smallest ``cosine``, and the tolerances.

    Raises:
        ParityError: A figure is beyond its tolerance, or the output is not finite; the message names the output, the
            batch, the sample and its place.
    """
    inputs = parity_inputs(part, max(batches))
    return compare(inputs, _as_tuple(reference(*inputs)), candidate, part, precision, batches)


def parity_inputs(part: Part, samples: int) -> list[Tensor]:
    """Return seeded inputs: each sample from a seed of its own, integers spread evenly over their range."""
    import torch

    from zoo.models.golden import example_inputs

    drawn = [example_inputs(part, seed=number, axes={"batch": 1}) for number in range(samples)]
    inputs = []
    for spec in part.inputs:
        if spec.shape[:1] != ("batch",):
            inputs.append(drawn[0][spec.name])
        elif spec.dtype == "int64" and spec.range is not None:
            spread = torch.linspace(spec.range[1], spec.range[0], samples).round().long()
            shape = drawn[0][spec.name].shape[1:]
            inputs.append(spread.view(-1, *[1] * len(shape)).expand(samples, *shape).contiguous())
        else:
            inputs.append(torch.cat([sample[spec.name] for sample in drawn]))
    return inputs


def compare(
    inputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    candidate: Callable[..., Any],
    part: Part,
    precision: str,
    batches: Sequence[int],
) -> dict[str, Any]:
    """Compare the outputs of ``candidate`` for ``inputs`` with ``expected``; see `parity`."""
    rel_max, rel_l2 = TOLERANCES[precision]
    worst = {"max_abs": 0.0, "rel_max": 0.0, "rel_l2": 0.0, "cosine": 1.0}
    for batch in sorted(set(batches)):
        fed = [_first(tensor, batch, spec.shape) for tensor, spec in zip(inputs, part.inputs, strict=True)]
        outputs = _as_tuple(candidate(*fed))
        if len(outputs) != len(part.outputs):
            raise ParityError(f"At batch {batch} the part has {len(outputs)} outputs, not {len(part.outputs)}.")
        for spec, whole, output in zip(part.outputs, expected, outputs, strict=True):
            truth = _first(whole, batch, spec.shape).double().cpu()
            found = output.double().cpu()
            if found.shape != truth.shape:
                raise ParityError(
                    f"At batch {batch} the output {spec.name!r} is {list(found.shape)}, not {list(truth.shape)}."
                )
            figures = _figures(found, truth)
            bounds = (("rel_max", rel_max), ("rel_l2", rel_l2))
            if beyond := [(name, bound) for name, bound in bounds if not figures[name] <= bound]:  # nan is beyond, too
                name, bound = beyond[0]
                raise ParityError(
                    f"At batch {batch} the output {spec.name!r} differs from torch in float32 by {name} "
                    f"{figures[name]:.2g}; {bound:g} is allowed in {precision}. {_where(found, truth, fed, part)}"
                )
            worst = {
                name: min(worst[name], value) if name == "cosine" else max(worst[name], value)
                for name, value in figures.items()
            }
    return {**worst, "tolerance": {"rel_max": rel_max, "rel_l2": rel_l2}, "batches": sorted(set(batches))}


def _figures(found: Tensor, truth: Tensor) -> dict[str, float]:
    difference = found - truth
    tiny = 1e-30
    return {
        "max_abs": float(difference.abs().max()),
        "rel_max": float(difference.abs().max() / truth.abs().max().clamp(min=tiny)),
        "rel_l2": float(difference.norm() / truth.norm().clamp(min=tiny)),
        "cosine": float((found * truth).sum() / (found.norm() * truth.norm()).clamp(min=tiny)),
    }


def _where(found: Tensor, truth: Tensor, inputs: Sequence[Tensor], part: Part) -> str:
    """Return where two outputs differ most, in words."""
    flat = int((found - truth).abs().nan_to_num(nan=float("inf")).argmax())
    place: list[int] = []
    for size in reversed(found.shape):
        flat, index = divmod(flat, size)
        place.insert(0, index)
    whole = [
        f"{spec.name} {tensor[place[0]].flatten()[0].item()}"
        for spec, tensor in zip(part.inputs, inputs, strict=True)
        if spec.dtype == "int64" and spec.shape[:1] == ("batch",)
    ]
    at = f" ({', '.join(whole)})" if whole else ""
    return f"Most at {place[1:]} of sample {place[0]}{at}: {found[tuple(place)]:.6g}, not {truth[tuple(place)]:.6g}."


def _first(tensor: Tensor, batch: int, shape: Sequence[int | str]) -> Tensor:
    return tensor[:batch] if shape[:1] == ("batch",) else tensor


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


@functools.lru_cache(maxsize=2)
def expected_outputs(file: Path, digest: str, part: str, samples: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Return parity inputs and what torch makes of them in float32, computed once for all backends.

    Args:
        file, digest: The model file and its hash.
        part: Name of the part.
        samples: How many.
    """
    import torch

    artifact = Artifact.open(file)
    spec = artifact.part_specs()[part]
    inputs = parity_inputs(spec, samples)
    with torch.inference_mode():
        return inputs, _as_tuple(artifact.build().get_submodule(spec.module)(*inputs))


def check_parity(job: ExportJob, candidate: Callable[..., Any]) -> dict[str, Any]:
    """Compare an exported part with torch at the job's three batches; see `parity`."""
    assert job.artifact.path is not None
    assert job.artifact.sha256 is not None
    inputs, expected = expected_outputs(job.artifact.path, job.artifact.sha256, job.name, job.options.batch[2])
    return compare(inputs, expected, candidate, job.part, job.options.precision, job.options.batch)
