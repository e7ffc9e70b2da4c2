"""Settings of the method."""

from pydantic import Field

from zoo.config import MethodConfig


class VoxelConfig(MethodConfig):
    width: int = Field(16, ge=1, description="Channels of the hidden layer")
    voxels: int = Field(4096, ge=1, description="Voxels per example and network call")
    bend: float = Field(0.5, gt=0, lt=2, description="Largest logarithm of the exponent of a random intensity curve")
    learning_rate: float = Field(1e-2, gt=0, description="Of Adam")
