"""The benchmark: its figures, its processes, what it writes, and what it says of two runs. No time is judged here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from tests.conftest import ROOT
from zoo.cli.bench import command as bench_command
from zoo.errors import ConfigError, DataError
from zoo.system.files import cache_folder
from zoo_bench.comparison import compare
from zoo_bench.harness import Case, Child, Row, _groups, read_suite
from zoo_bench.jobs import Job, Protocol
from zoo_bench.records import Backend, Latency, Model, Quality, Record, Work, read_records, write_records
from zoo_bench.report import markdown, speedup, write_report
from zoo_bench.statistics import median_interval, percentile
from zoo_bench.worker import peak_memory

SHORT = ("rounds=2", "calls=2", "seconds=0.001", "limit_s=1", "warmup_calls=1", "warmup_s=0")


def record(rounds: list[list[float]] | None, **changes: object) -> Record:
    """Return a record as if measured."""
    latency = Latency.of(rounds, "perf_counter", 1) if rounds else None
    about = {
        "run_id": "a", "group": 1, "time": "2026-01-31T10:20:30+00:00",
        "model": Model(name="lesion-filling", preset="tiny"), "environment": {"cpu": {"model": "A"}, "threads": 2},
        "backend": Backend(name="torch", version="2"), "precision": "fp32", "device": "cpu",
        "work": Work(kind="part", name="denoiser", batch=1, size=(32, 32)),
        "latency_ms": latency, "throughput": 1e3 / latency.median if latency else None,
        "status": "ok" if rounds else "not measured",
    }  # fmt: skip
    return Record.model_validate({**about, **changes})


STEADY = [[10.0, 10.1, 9.9, 10.0]] * 5


# --- Statistics. ---


def test_percentiles_are_refused_below_their_number_of_calls() -> None:
    values = list(range(1, 1002))
    assert percentile(values, 99) == 991
    for percent, enough in ((90, 20), (95, 100), (99, 1000)):
        assert percentile(values[:enough], percent) is not None
        assert percentile(values[: enough - 1], percent) is None
    latency = Latency.of([[1.0, 2.0, 3.0], [4.0, 5.0]], "perf_counter", 3)
    assert (latency.n, latency.median, latency.minimum, latency.iqr) == (5, 3, 1, 2)
    assert (latency.round_medians, latency.p90) == ((2, 4.5), None)


def test_the_interval_covers_the_median_and_knows_of_drift_between_rounds() -> None:
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rounds = [list(rng.lognormal(0, 0.5, 20) * drift) for drift in rng.lognormal(0, 0.1, 10)]
        low, high = median_interval(rounds) or (0, 0)
        covered += low <= 1 <= high
    assert covered >= 50  # 57 are expected
    quiet, drifting = [[1.0, 1.01, 1.02]] * 6, [[1.0 * n, 1.01 * n, 1.02 * n] for n in range(1, 7)]
    widths = [high - low for low, high in filter(None, map(median_interval, (quiet, drifting)))]
    assert widths[0] < 0.03
    assert widths[1] > 1
    assert median_interval([[3.0]]) is None
    with pytest.raises(DataError, match="no latencies"):
        median_interval([[], []])


# --- Records, comparison and report, from made figures. ---


def test_records_survive_the_file_and_other_lines_are_refused(tmp_path: Path) -> None:
    records = [record(STEADY, quality=Quality(rel_l2=1e-6)), record(None, note="no GPU")]
    file = tmp_path / "bench.jsonl"
    write_records(file, records)
    assert read_records(file) == records
    assert all(json.loads(line)["schema"] == "zoo-bench/1" for line in file.read_text().splitlines())
    for line, message in (
        ('{"schema": "zoo-bench/2"}', "line 3 is not zoo-bench/1: schema"),
        ("nonsense", "line 3 is not zoo-bench/1"),
        (records[0].line().replace('"device"', '"devise"'), "devi[cs]e"),
    ):
        file.write_text("".join(f"{each.line()}\n" for each in records) + line)
        with pytest.raises(DataError, match=message):
            read_records(file)
    file.write_text("")
    with pytest.raises(DataError, match="holds no record"):
        read_records(file)


def test_slower_is_what_neither_noise_nor_margin_explains() -> None:
    old = record(STEADY)

    def verdict(rounds: list[list[float]] | None) -> str:
        other = record(STEADY, precision="fp16")
        return compare([old, other], [record(rounds), other])[0].verdict

    scaled = {share: [[share * value for value in values] for values in STEADY] for share in (0.8, 1.04, 1.2)}
    assert verdict(scaled[1.2]) == "slower"
    assert verdict(scaled[0.8]) == "faster"
    assert verdict(scaled[1.04]) == "same"  # clear of noise, but within the margin
    assert verdict([[8.0, 15.0, 9.0, 16.0]] * 5) == "same"  # beyond the margin, but not clear of noise
    assert verdict(None) == "lost"
    with pytest.raises(DataError, match="no measured row in common"):
        compare([old], [record(STEADY, precision="fp16")])
    with pytest.raises(DataError, match="different machines: A; B"):
        compare([old], [record(STEADY, environment={"cpu": {"model": "B"}, "threads": 2})])


def test_the_ratio_is_that_of_rounds_that_took_turns() -> None:
    first = record([[10.0], [20.0], [30.0]])
    assert speedup(first, record([[5.0], [10.0], [15.0]], precision="bf16")) == 2
    assert speedup(first, record(None)) is None


def test_the_report_is_made_from_the_file_alone(zoo_command, tmp_path: Path) -> None:
    fast = [[value / 2 for value in values] for values in STEADY]
    records = [
        record(STEADY),
        record(fast, backend=Backend(name="openvino", version="3"), quality=Quality(rel_l2=2e-3, parity="passed")),
        record(None, backend=Backend(name="tensorrt"), note="no GPU"),
    ]
    write_records(tmp_path / "bench.jsonl", records)
    code, out, _ = zoo_command("bench", "--report", tmp_path / "bench.jsonl", "--out", tmp_path / "report")
    assert (code, out.count("Wrote")) == (0, 5)
    table = (tmp_path / "report" / "table.md").read_text()
    assert re.search(r"openvino fp32 \| 3 \| cpu \| 1 \| 5 \[.*\| 2\.00 \| 0\.002 \| passed \|", table)
    assert "not measured: no GPU |" in table
    assert "p99" not in table  # a column that no row has
    for name in ("latency-throughput", "quality-latency"):
        assert (tmp_path / "report" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert "</svg>" in (tmp_path / "report" / f"{name}.svg").read_text()
    assert write_report([record(None, note="no GPU")], tmp_path / "empty") == [tmp_path / "empty" / "table.md"]
    assert "|" in markdown(records)


# --- Processes. ---


def test_a_short_run_end_to_end(zoo_command, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.jsonl"
    settings = [word for text in SHORT for word in ("--set", text)]
    code, text, _ = zoo_command(
        "bench", trained, "--backend", "torch", "--precision", "fp32", "--precision", "bf16",
        "--device", "cpu", "--out", out, *settings, "--compare", _earlier(tmp_path), "--json",
    )  # fmt: skip
    records = read_records(out)
    printed = json.loads(text)
    assert printed["records"] == [json.loads(each.line()) for each in records]
    assert [(each.precision, each.work.batch, each.status) for each in records] == [
        ("fp32", 1, "ok"),
        ("bf16", 1, "ok"),
    ]
    assert code == 1  # the earlier run claims a microsecond
    assert printed["changes"][0]["verdict"] == "slower"
    first, half = records
    assert first.quality.parity == "passed"
    assert half.quality.rel_l2 > 1e-4 > 1e-5 > first.quality.rel_l2
    assert first.latency_ms.n == 2
    assert len(first.latency_ms.round_medians) == 2
    assert first.model.parameters == 164849
    assert first.model.trained
    assert first.work.shapes["noisy"] == (1, 1, 32, 32)
    assert first.cold.first_call_s > 0
    assert first.cold.build_s is None
    assert first.memory.host_peak > 1e8
    assert _names_no_person(out.read_text())


def test_peak_memory_is_not_the_parents() -> None:
    held = np.ones(50_000_000)  # 400 MB
    code = "from zoo_bench.worker import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1e7 < int(child.stdout) < held.nbytes < peak_memory()


def _earlier(folder: Path) -> Path:
    """Write an earlier result of the row torch fp32 batch 1 that nothing can reach."""
    from zoo.system import machine

    work = Work(kind="part", name="denoiser", batch=1, size=(32, 32))
    environment = {"cpu": machine.cpu(), "threads": machine.physical_cores()}
    model = Model(name="lesion-filling", version=2, parameters=164849)
    write_records(
        folder / "old.jsonl", [record([[0.001, 0.0011]] * 5, work=work, environment=environment, model=model)]
    )
    return folder / "old.jsonl"


def test_a_row_that_cannot_run_stays_with_its_reason(zoo_command, trained: Path, tmp_path: Path) -> None:
    suite = tmp_path / "suite.toml"
    suite.write_text(
        f'[protocol]\n{chr(10).join(text for text in SHORT)}\n[[case]]\nmodel = "{trained}"\ntask = "fill"\n'
        'device = "cpu"\nrows = [{ backend = "torch" }]\n'
        f'[[case]]\nmodel = "{trained}"\ndevice = "cuda"\nrows = [{{ backend = "torch" }}]\n'
    )
    out = tmp_path / "bench.jsonl"
    code, text, _ = zoo_command("bench", "--suite", suite, "--out", out)
    filled, no_gpu = read_records(out)
    assert code == 0
    assert (filled.status, filled.work.kind, filled.work.unit) == ("ok", "task", "volumes")
    assert (filled.quality.gate, filled.quality.psnr) == ("passed", 100)
    assert filled.work.network_calls >= 1
    assert (no_gpu.status, no_gpu.note, no_gpu.latency_ms) == ("not measured", "no GPU", None)
    assert "not measured: no GPU" in text


def test_a_process_that_dies_or_is_asked_for_too_much_says_so(trained: Path, tmp_path: Path) -> None:
    job = Job(
        action="reference", model=str(trained), backend="torch", precision="fp32", device="cpu", kind="part",
        name="denoiser", threads=1, reference_file=str(tmp_path / "reference"), protocol=Protocol(),
    )  # fmt: skip
    with Child(job) as child:
        child.process.kill()
        answer = child.hear(60)
    assert answer == {
        "status": "failed",
        "note": "the process ended with code -9: killed, as the system does when memory runs out",
    }
    with Child(job) as child:
        assert child.hear(0)["status"] == "not measured"
    for changes, note in (
        ({"name": "project"}, "skipped: the verb 'project' has no trial"),
        ({"name": "fill", "batches": (1, 4)}, "the task 'fill' takes one of its volumes per call; leave --batch out"),
    ):
        with Child(job.model_copy(update={"kind": "task", **changes})) as child:
            assert child.hear(120) == {"status": "not measured", "note": note}


def test_rows_that_do_not_fit_together_are_measured_in_groups(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo

    artifact = zoo.load(trained)
    rows = [Row(backend=name) for name in "abcd"]
    names = {}
    for gib in (1, 4, 64):
        monkeypatch.setattr("zoo.system.machine.available_memory", lambda gib=gib: gib << 30)
        names[gib] = ["".join(row.backend for row in group) for group in _groups(rows, rows, artifact, "cpu")]
    assert names == {1: ["ab", "ac", "ad"], 4: ["abc", "ad"], 64: ["abcd"]}
    monkeypatch.setattr("zoo.system.machine.available_memory", lambda: 1)
    groups = _groups(rows, [rows[0], rows[3]], artifact, "cpu")  # b and c cannot run, and take no memory
    assert ["".join(row.backend for row in group) for group in groups] == ["abcd"]


def test_what_is_asked_wrongly_is_refused(zoo_command, trained: Path, tmp_path: Path) -> None:
    for arguments, code, message in (
        ((), 2, "Give one NAME or RUN"),
        ((trained, "--batch", "1", "x"), 2, "Give one NAME or RUN"),
        (("--report", "x.jsonl"), 2, "--out DIR"),
        (("--report", tmp_path / "none.jsonl", "--out", tmp_path), 1, "none.jsonl cannot be read"),
        ((trained, "--backend", "torhc"), 1, "Did you mean 'torch'"),
        ((trained, "--task", "sample"), 1, "cannot sample; it offers fill"),
        ((trained, "--part", "denoisr"), 1, "no part 'denoisr'. Did you mean 'denoiser'"),
        ((trained, "--part", "denoiser", "--task", "fill"), 1, "exclude each other"),
        ((trained, "--set", "round=3"), 1, "protocol.round"),
        (("lesion-filing",), 1, "Did you mean 'lesion-filling'"),
    ):
        found, _, err = zoo_command("bench", *arguments)
        assert (found, message in err) == (code, True), (arguments, err)
    with pytest.raises(ValidationError, match="records its own CUDA graphs"):
        Case(model="a", task="fill", rows=(Row(backend="torch", cuda_graph=True),))
    with pytest.raises(ConfigError, match="no settings file"):
        read_suite(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    "suite", sorted((ROOT / "benchmarks" / "suites").glob("[cg]pu.toml")), ids=lambda path: path.stem
)
def test_the_suites_are_whole_and_begin_with_what_rows_are_held_against(suite: Path) -> None:
    cases = read_suite(suite, {}).case
    assert all((case.rows[0].backend, case.rows[0].precision) == ("torch", "fp32") for case in cases)
    assert {case.device for case in cases} == {"cuda" if suite.stem == "gpu" else "cpu"}


# --- What may be pasted into a bug report. ---


def _names_no_person(text: str) -> bool:
    import getpass
    import socket

    words = {str(Path.home()), str(ROOT), socket.gethostname(), str(cache_folder())}
    # A user called root, or a host of one letter, would be found in other words.
    words |= {name for name in (getpass.getuser(),) if name != "root"}
    return not any(len(word) > 3 and word in text for word in words) and not re.search(r'["\s]/\w+/', text)


def test_doctor_names_no_person_and_says_what_would_help(zoo_command, tmp_path: Path) -> None:
    _, out, _ = zoo_command("doctor", "--runs", tmp_path / "runs", "--json")
    checks = {row["check"]: row for row in json.loads(out)}
    assert {"python", "cpu", "cpu instructions", "memory", "torch", "cuda", "gpu", "runs", "cache"} <= set(checks)
    assert checks["runs"]["found"].startswith("not made yet, writable")
    for name, row in checks.items():
        if name.startswith("backend") and row["found"].startswith("not here"):
            assert "pip install" in row["found"]
    assert _names_no_person(out)
    (tmp_path / "file").write_text("")
    code, out, _ = zoo_command("doctor", "--runs", tmp_path / "file" / "runs", "--json")
    assert (code, {row["check"]: row["ok"] for row in json.loads(out)}["runs"]) == (1, False)


def test_messages_lose_folders_and_keep_addresses() -> None:
    from zoo.system.machine import without_folders

    assert (
        without_folders("/home/ann/runs/a.json is damaged; see https://x.org/a/b")
        == "a.json is damaged; see https://x.org/a/b"
    )
    assert (
        without_folders("run zoo export runs/name --onnx or fill a/b") == "run zoo export runs/name --onnx or fill a/b"
    )


def test_every_option_of_the_protocol_is_explained() -> None:
    text = (ROOT / "docs" / "measured" / "benchmarks.md").read_text(encoding="utf-8")
    for name in (*Protocol.model_fields, *(name.rstrip("_") for name in Record.model_fields)):
        assert f"`{name}`" in text, name
    assert bench_command.name == "bench"
