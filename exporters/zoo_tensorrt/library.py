"""Finds and opens the TensorRT libraries, and collects their log messages.

Native TensorRT (10.13 or later) and TensorRT-RTX have the same Python API, so all other code works with a `Library` and
asks for its flavour only where they differ.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch

from zoo.errors import ExportError, MissingExtraError, NoGpuError

Flavour = Literal["tensorrt", "tensorrt-rtx"]

OLDEST = (10, 13)
"""Oldest supported version of native TensorRT."""

OPTION = {"tensorrt": "--trt", "tensorrt-rtx": "--trt-rtx"}
"""Option of ``zoo export`` for each flavour."""


@dataclass(frozen=True)
class Library:
    """One of the two libraries, opened.

    Attributes:
        flavour: Native TensorRT or TensorRT-RTX.
        trt: The Python module.
        log: The logger, an ``ILogger`` whose ``messages`` collects (severity, text). The library uses the first logger
            it is given for the whole process, so there is only one.
    """

    flavour: Flavour
    trt: Any
    log: Any

    @property
    def rtx(self) -> bool:
        """Whether this is TensorRT-RTX."""
        return self.flavour == "tensorrt-rtx"

    @contextmanager
    def logged(self) -> Iterator[list[tuple[str, str]]]:
        """Yield the list of (severity, text) of the warnings and errors that the library logs from now on."""
        self.log.messages.clear()
        yield self.log.messages

    def compute_capabilities(self) -> dict[int, Any]:
        """Return the targets of TensorRT-RTX by number: 86 for compute capability 8.6."""
        members = vars(self.trt.ComputeCapability)
        numbers = sorted(int(name.removeprefix("SM")) for name in members if name.startswith("SM"))
        return {number: members[f"SM{number}"] for number in numbers}


def available() -> str:
    """Return how to install native TensorRT; empty if it is installed."""
    if find_spec("tensorrt"):
        return ""
    return (
        "Native TensorRT is not installed: pip install 'mri-zoo[tensorrt]' (Linux, CUDA 13; the package fetches its "
        "libraries from NVIDIA)."
    )


def available_rtx() -> str:
    """Return how to install TensorRT-RTX; empty if it is installed."""
    if find_spec("tensorrt_rtx_bindings") and _rtx_libraries():
        return ""
    return "TensorRT-RTX is not installed: pip install 'mri-zoo[tensorrt-rtx]' (Linux on x86-64; 146 MB)."


def _rtx_libraries() -> str | None:
    """Return the installed package with the shared libraries of TensorRT-RTX, if there is one."""
    return next((name for name in ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_libs") if find_spec(name)), None)


@functools.cache
def open_library(flavour: Flavour) -> Library:
    """Import a library and return it.

    Raises:
        MissingExtraError: It is not installed.
        ExportError: It is installed but cannot be opened.
    """
    missing = available_rtx() if flavour == "tensorrt-rtx" else available()
    if missing:
        raise MissingExtraError(missing)
    try:
        if flavour == "tensorrt-rtx":
            # The shared libraries of another package must be loaded before the bindings are imported.
            importlib.import_module(_rtx_libraries() or "")
            trt = importlib.import_module("tensorrt_rtx_bindings")
        else:
            trt = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise ExportError(
            f"{flavour} is installed but cannot be opened ({error}). Reinstall it: pip install --force-reinstall "
            f"'mri-zoo[{flavour}]'"
        ) from error
    if flavour == "tensorrt" and tuple(map(int, trt.__version__.split(".")[:2])) < OLDEST:
        raise ExportError(f"TensorRT {trt.__version__} is too old: pip install -U 'mri-zoo[tensorrt]'")
    return Library(flavour, trt, _logger(trt))


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                self.messages.append((severity.name, text))

    return Log()


def require_gpu(library: Library, device: str) -> torch.device:
    """Return ``device`` with its index, if it is a GPU that the library supports.

    Raises:
        NoGpuError: It is not; the message names what works instead.
    """
    name = "TensorRT-RTX" if library.rtx else "TensorRT"
    if not torch.cuda.is_available():
        stages = "Engines can be built here and run elsewhere" if library.rtx else "Building engines needs a GPU, too"
        raise NoGpuError(
            f"{name} runs on NVIDIA GPUs, and torch sees none here. {stages}; use --backend torch or onnxruntime here."
        )
    if torch.device(device).type != "cuda":
        raise NoGpuError(f"{name} runs on NVIDIA GPUs, not on {device!r}; use --device cuda.")
    index = torch.device(device).index
    chosen = torch.device("cuda", torch.cuda.current_device() if index is None else index)
    major, minor = torch.cuda.get_device_capability(chosen)
    if library.rtx and 10 * major + minor not in library.compute_capabilities():
        known = ", ".join(f"{number // 10}.{number % 10}" for number in library.compute_capabilities())
        raise NoGpuError(
            f"TensorRT-RTX has no kernels for {torch.cuda.get_device_name(chosen)} (compute capability "
            f"{major}.{minor}); it runs on {known}. Use --backend tensorrt or torch-compile."
        )
    return chosen


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Return what a native engine depends on: the GPU (or ``None``), CUDA, its driver, and the system."""
    facts: dict[str, Any] = {"platform": f"{platform.system()}-{platform.machine()}".lower(), "gpu": None}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        facts["gpu"] = f"{properties.name}, {capability}, {properties.multi_processor_count} multiprocessors"
        facts["cuda"] = torch.version.cuda
        driver = ctypes.c_int()
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(driver))
        facts["cuda_driver"] = driver.value // 1000
    return facts
