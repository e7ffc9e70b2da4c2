"""Training goes on exactly, whatever stopped it, and loses nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TINY
from zoo.errors import ArtifactError
from zoo.models.run import Run, new_run_folder
from zoo.system.files import write_text
from zoo.training.state import load_state, save_state


def _command(data: Path, out: Path, *more: str, images: int = 64) -> list[str]:
    base = [sys.executable, "-m", "zoo", "train", "lesion-filling", "--data", str(data), "--out", str(out)]
    return [*base, "--images", str(images), *TINY, *more]


def _run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **options)  # type: ignore[call-overload]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def _same(first: Path, second: Path) -> bool:
    one, other = _weights(first), _weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    state = {"a": [1, 2.5, "x", None, True], "b": {"t": torch.eye(2), "s": shared, "s2": shared}, 3: (torch.ones(1),)}
    save_state(tmp_path, state)
    back = load_state(tmp_path)
    assert back["a"] == state["a"]
    assert torch.equal(back["b"]["t"], torch.eye(2))
    assert torch.equal(back["b"]["s2"], shared)
    assert torch.equal(back[3][0], torch.ones(1))


def test_state_of_another_kind_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"at /a/1 is a set"):
        save_state(tmp_path, {"a": [0, {1}]})


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_killed_training_goes_on_exactly(phantom: Path, tmp_path: Path, stop: signal.Signals) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    images = 512
    assert _run(_command(phantom, straight, images=images)).returncode == 0
    command = _command(phantom, broken, images=images)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not list(broken.glob("checkpoints/0*")) and process.poll() is None:
        time.sleep(0.005)  # until there is a checkpoint to go on from
    process.send_signal(stop)
    out, _ = process.communicate()
    seen = max(int(folder.name) for folder in broken.glob("checkpoints/0*"))
    assert 0 < seen < images
    if stop is signal.SIGTERM:
        assert process.returncode == 143
        assert "SIGTERM" in out
        assert "Run the same command to resume" in out
    else:
        assert process.returncode == -signal.SIGKILL
    assert not list(broken.glob("**/model.safetensors.part"))
    assert _run(command).returncode == 0
    assert _same(straight, broken)
    logged = [[{**line, "seconds": 0} for line in Run.open(run).metrics()] for run in (straight, broken)]
    trained = [[line for line in lines if "loss/denoise" in line] for lines in logged]
    assert trained[0] == trained[1]


def test_damaged_newest_checkpoint_is_passed_over(phantom: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = _command(phantom, run)
    assert _run(command).returncode == 0
    whole = _weights(run)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    (newest / "state.safetensors").write_bytes(b"short")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "status": "training"}))
    assert _run(command).returncode == 0
    assert all(torch.equal(whole[name], tensor) for name, tensor in _weights(run).items())


def test_a_run_counts_the_processors_seconds(trained: Path) -> None:
    run = Run.open(trained)
    counted = load_state(run.checkpoints()[-1])["processor_seconds"]
    assert run.record["processor_seconds"] == pytest.approx(counted, abs=0.06)
    assert counted > 0


def test_finished_run_is_left_alone(phantom: Path, trained: Path, zoo_command) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    arguments = ["train", "lesion-filling", "--data", phantom, "--out", trained, "--images", 64, *TINY]
    code, out, _ = zoo_command(*arguments)
    assert code == 0
    assert "Finished after 64 images" in out
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_second_process_on_a_run_is_refused(phantom: Path, tmp_path: Path, zoo_command) -> None:
    with Run(tmp_path / "run", {}).lock():
        ran = _run(_command(phantom, tmp_path / "run"))
    assert ran.returncode == 1
    assert "Another process is training in" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_full_disk_keeps_the_last_good_checkpoint(phantom: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _run(_command(phantom, run, "--time", "0s", images=512)).returncode == 0
    good = sorted((run / "checkpoints").iterdir())[-1]
    before = {file.name: file.read_bytes() for file in good.iterdir()}

    def small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    ran = _run(_command(phantom, run, images=512), preexec_fn=small_files_only)
    assert ran.returncode == 1
    assert "No space left" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert {file.name: file.read_bytes() for file in good.iterdir()} == before
    assert not list(run.rglob(".part-*"))
    assert _run(_command(phantom, run, images=512)).returncode == 0


def test_unwritable_run_folder(phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = _run(_command(phantom, tmp_path / "file" / "run"))
    assert ran.returncode == 1
    assert "cannot be written" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_refused_start_leaves_no_run(phantom: Path, tmp_path: Path, zoo_command) -> None:
    settings = ("--set", "network=pseudo-3d", "--set", "slab=400", "--set", "neighbours=0")
    code, _, err = zoo_command(
        "train", "lesion-filling", "--data", phantom, "--out", tmp_path / "run", *TINY, *settings
    )
    assert code == 1
    assert "fewer than slab=400" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["folder", "file/below"])
def test_what_is_in_the_way_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=f"{path} cannot be written"):
        write_text(tmp_path / path, "text")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_folder_with_something_else_is_not_taken(phantom: Path, tmp_path: Path, zoo_command) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    code, _, err = zoo_command("train", "lesion-filling", "--data", phantom, "--out", tmp_path, *TINY)
    assert code == 1
    assert "is there already and is not a run" in err
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_processes_train_like_one(phantom: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert _run(_command(phantom, one)).returncode == 0
    ran = _run(_command(phantom, two, "--devices", "2"))
    assert ran.returncode == 0, ran.stderr
    losses = [
        [line["loss/denoise"] for line in Run.open(run).metrics() if "loss/denoise" in line] for run in (one, two)
    ]
    assert len(losses[0]) == len(losses[1]) == 8
    assert np.allclose(*losses, rtol=0, atol=1e-4)


def test_batch_that_cannot_be_shared(phantom: Path, tmp_path: Path) -> None:
    ran = _run(_command(phantom, tmp_path / "run", "--devices", "2", "--set", "training.batch_size=3"))
    assert ran.returncode == 1
    assert "batch_size 3 cannot be shared by 2 processes" in ran.stderr


def test_newer_run_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 7}')
    with pytest.raises(ArtifactError, match="has format 7; this version of mri-zoo knows up to 1"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        Run.open(tmp_path)


def test_run_folders_of_one_second_differ(tmp_path: Path) -> None:
    first = new_run_folder("m", tmp_path)
    first.mkdir(parents=True)
    assert new_run_folder("m", tmp_path) != first
