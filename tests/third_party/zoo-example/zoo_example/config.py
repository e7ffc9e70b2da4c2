"""Settings: each has a default, bounds and a meaning, which `zoo info regression-filling` prints."""

from pydantic import Field

from zoo.config import MethodConfig


class RegressionConfig(MethodConfig):
    width: int = Field(16, ge=1, description="Channels of the hidden layers")
    size: tuple[int, int] = Field((64, 64), description="Slice the network sees, pixels")
    hole: int = Field(6, ge=1, description="Side of the square hole in training, pixels")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam")
