"""``python -m tests.toy.killed DATA FOLDER KILLS SEED``: train once undisturbed, then with kill -9 at random moments.

Each training runs in a forked process, since importing torch takes longer than the training. Prints JSON: where the run
stood after each kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

import zoo.report.html
import zoo.training.launch  # noqa: F401
from tests.toy import NAME, kill_at, registered
from zoo.cli import main
from zoo.models.run import Run


def train(data: str, out: Path, event: int = 0, counted: Path | None = None) -> int:
    """Train in a forked process, killed at a file operation; return its exit code, or -9 when it was killed."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    count = kill_at(event, str(out))
    os.dup2(2, 1)
    code = 1
    with registered():
        try:
            main(["train", NAME, "--data", data, "--out", str(out), "--preset", "tiny"])
        except SystemExit as stop:
            code = int(stop.code or 0)
    if counted:
        counted.write_text(str(count[0]))
    os._exit(code)


def main_() -> None:
    """Train undisturbed, and then again and again until all kills are used."""
    data, folder, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    assert train(data, folder / "straight", counted=folder / "count") == 0
    count = int((folder / "count").read_text())
    rng = np.random.default_rng(seed)
    stood: list[list[str]] = []
    runs = 0
    while len(stood) < kills:
        out = folder / f"killed-{runs}"
        runs += 1
        while (code := train(data, out, int(rng.integers(1, count // 3)))) == -signal.SIGKILL:
            begun = (out / "run.json").is_file()
            stood.append([stage.status for stage in Run.open(out).stages()] if begun else [])
        assert code == 0, f"exit code {code} after {len(stood)} kills"
    print(json.dumps({"operations": count, "runs": runs, "stood": stood}))


if __name__ == "__main__":
    main_()
