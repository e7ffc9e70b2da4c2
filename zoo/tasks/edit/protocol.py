"""The verb ``edit``: its signature, its options, and what else it asks of a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field

from zoo.config import Config
from zoo.descriptors import Method, Parts
from zoo.errors import ConfigError
from zoo.tasks.edit.task import LatentTask

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.tasks.images import Samples


class EditOptions(Config):
    """Options of every editor; a method extends them."""

    batch_size: int = Field(16, ge=1, description="Images per network call; changes only rounding")


def latent_task(method: Method) -> LatentTask:
    """Return the task ``edit`` of a method.

    Raises:
        UnknownNameError: The method cannot edit.
        ConfigError: Its task does not say where codes come from.
    """
    task = method.task("edit")
    if not isinstance(task, LatentTask):
        raise ConfigError(
            f"Method {method.name!r} describes the task 'edit' by a {type(task).__name__}, without codes; use "
            "zoo.tasks.LatentTask(run=…, options=…, codes=…)."
        )
    return task


class EditTask(Protocol):
    """The verb ``edit``: make images of codes. Walking and measuring are the host's (``zoo.tasks.edit.session``)."""

    def __call__(self, parts: Parts, config: Any, codes: Tensor, noise: Sequence[Tensor], options: Any) -> Samples:
        """Return one image per code; the same code and noise always give the same image.

        Args:
            parts: The method's parts as callables.
            config: The settings the model was trained with.
            codes: float32 ``[N, *code]``, as the method's projections hold them, moved along a direction.
            noise: The maps of the projections, each ``[N, 1, *spatial]``.
            options: The method's options.
        """
