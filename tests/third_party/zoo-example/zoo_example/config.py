"""Settings: each has a default, bounds and a meaning, which `zoo info regression-filling` prints."""

from pydantic import Field

from zoo.config import DataConfig, MethodConfig


class RegressionConfig(MethodConfig):
    data: DataConfig = DataConfig(spacing_mm=4.0)  # a head is about 193 x 229 mm: 64 pixels of 4 mm hold it
    width: int = Field(16, ge=1, description="Channels of the hidden layers")
    size: tuple[int, int] = Field((64, 64), description="Slice the network sees, pixels")
    hole: int = Field(6, ge=1, description="Side of the square hole in training, pixels")
    learning_rate: float = Field(1e-3, gt=0, description="Of Adam")
