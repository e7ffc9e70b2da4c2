"""What this machine is, without names of users, hosts or folders, so that it can be shown to anyone."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 bf16",
    "avx512_fp16": "AVX-512 fp16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "bf16": "Arm bf16",
}
"""Instruction sets that decide how fast a network runs: as Linux calls them, and as people do."""

DISTRIBUTIONS = {
    "torch": ("torch",),
    "torch-compile": ("torch",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
"""Packages that a runtime of the zoo's own comes with, the first one found counts."""


def version_of(backend: str) -> str:
    """Return the version of the package behind a runtime, empty where none is installed."""
    for name in DISTRIBUTIONS.get(backend, ()):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def physical_cores() -> int:
    """Return the cores this process may use, hardware threads of one core counted once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {
        (processor["physical id"], processor["core id"])
        for processor in _processors()
        if int(processor["processor"]) in allowed and {"physical id", "core id"} <= processor.keys()
    }
    return len(cores) or len(allowed)


def _processors() -> list[dict[str, str]]:
    """Return what Linux says of each hardware thread; nothing elsewhere."""
    try:
        blocks = Path("/proc/cpuinfo").read_text(encoding="utf-8").strip().split("\n\n")
    except OSError:
        return []
    rows = [[line.partition(":") for line in block.splitlines()] for block in blocks]
    return [{key.strip(): value.strip() for key, _, value in row} for row in rows]


def cpu() -> dict[str, Any]:
    """Return the CPU's model, its cores, and which of `INSTRUCTIONS` it has, by Linux' names."""
    first = next(iter(_processors()), {})
    flags = set((first.get("flags") or first.get("Features") or "").split())
    return {
        "model": first.get("model name") or platform.processor() or platform.machine(),
        "cores": physical_cores(),
        "flags": [flag for flag in INSTRUCTIONS if flag in flags],
    }


def available_memory() -> int:
    """Return the bytes that can be taken without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpus() -> list[dict[str, Any]]:
    """Return name, compute capability and memory of each GPU that torch can use."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": about.name,
                "capability": f"{about.major}.{about.minor}",
                "memory_gib": round(about.total_memory / 2**30, 1),
            }
        )
    return found


def gpu_state() -> dict[str, Any]:
    """Return what NVML says of the first GPU now: used memory, clocks, temperature, driver; nothing without NVML."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "used_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
            "sm_mhz": pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            "memory_mhz": pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            "temperature_c": pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
        }
    except pynvml.NVMLError:
        return {}


def without_folders(text: str) -> str:
    """Return a text with the folders of absolute paths left out, since they may name people and places."""
    return re.sub(r"(?<![\w:/.])~?/(?:[^\s/'\"]+/)*([^\s/'\"]+)", r"\1", text)
