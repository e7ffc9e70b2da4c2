"""Projection finds codes that make the image again, alone as in a batch, interrupted as not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import zoo
from zoo.config import resolve_config, validate
from zoo.descriptors import resolve
from zoo.errors import ArtifactError, ConfigError, DataError, UnknownNameError
from zoo.imaging.cohort import read_cohort
from zoo.metrics.image import ssim_map
from zoo.metrics.perceptual import in_threes, load_distance
from zoo.models.artifact import Artifact, make_manifest, write_model
from zoo.nn.stylegan import Generator, noise_shapes, style_count
from zoo.randomness import Randomness
from zoo.registry import registry
from zoo.system.files import sha256
from zoo.tasks.project.files import Targets, choose_scans, find_targets, measure, project_files, summary
from zoo.tasks.projections import Projections
from zoo_stylegan2.config import StyleGANConfig, StyleGANProjectOptions
from zoo_stylegan2.projection import learning_rate, noise_penalty, normalise, project, w_noise

METHOD = "stylegan2-ada"
FAST = {"loss": "ssim+l2", "iterations": 6, "candidates": 3, "ramp_up": 1, "batch_size": 2}


def _options(**values: Any) -> StyleGANProjectOptions:
    return validate(StyleGANProjectOptions, values, what="the test")


def _config() -> StyleGANConfig:
    settings = ("network.channel_limit=16", "network.channel_budget=128", "size=16,24")
    config = resolve_config(registry().methods[METHOD], preset="tiny", assignments=settings)
    assert isinstance(config, StyleGANConfig)
    return config


@pytest.fixture
def generator() -> Generator:
    """A random generator in which noise counts."""
    torch.manual_seed(0)
    model: Generator = resolve(registry().methods[METHOD].build)(_config())
    for conv in model.synthesis.convs:
        torch.nn.init.constant_(conv.noise_strength, 0.05)
    return model.eval()


def _known(generator: Generator, *seeds: int) -> Tensor:
    """Return what the generator makes of known styles, one a layer, and known noise."""
    config, random = _config(), Randomness(seeds)
    with torch.no_grad():
        codes = [generator.mapping(random.normal((32,))) for _ in range(style_count(config.size))]
        noise = [random.normal((1, *shape)) for shape in noise_shapes(config.size)]
        return generator.synthesis(torch.stack(codes, 1), *noise)


# --- The schedule and the regulariser. ---


def test_the_defaults_are_the_papers_schedule() -> None:
    options = _options()
    assert (options.iterations, options.candidates, options.loss) == (3000, 100, "lpips")
    rates = {0: 0.1 / 50, 24: 0.05, 49: 0.1, 50: 0.1, 2000: 0.1, 2750: 0.1, 2875: 0.05}
    for iteration, rate in rates.items():
        assert learning_rate(options, iteration) == pytest.approx(rate), iteration
    assert 0 < learning_rate(options, 2999) < 1e-5
    scales = {0: 0.05, 375: 0.0125, 675: 0.0005, 750: 0.0, 2999: 0.0}
    for iteration, scale in scales.items():
        assert w_noise(options, iteration) == pytest.approx(scale), iteration


def test_a_shorter_schedule_keeps_its_proportions_unless_told() -> None:
    short = _options(iterations=600, ramp_up=3)
    assert (short.w_noise_iterations, short.ramp_up, short.ramp_down) == (150, 3, 50)
    with pytest.raises(ConfigError, match="together exceed iterations 20"):
        _options(iterations=20, ramp_down=30)
    with pytest.raises(ConfigError, match="w_noise_iterations 30 must end within iterations 20"):
        _options(iterations=20, w_noise_iterations=30)
    with pytest.raises(ConfigError, match="loss"):
        _options(loss="dice")


def test_white_noise_costs_nothing_and_patterns_cost_much() -> None:
    white = Randomness([1, 2]).normal((1, 128, 128))
    stripes = torch.ones(1, 1, 128, 128)
    stripes[..., ::2] = -1
    assert noise_penalty([white]).max() < 0.02
    # Neighbours across the stripes are opposite, along them equal; averages over two pixels are 0.
    assert float(noise_penalty([stripes])) == pytest.approx(2.0)
    smooth = torch.nn.functional.interpolate(white[:, :, :16, :16], scale_factor=8, mode="bilinear")
    normalise(smooth)
    assert noise_penalty([smooth]).min() > 1
    # A constant, which normalising would take away: 1 an axis on each of the levels 128, 64, 32, 16, 8.
    assert float(noise_penalty([torch.ones(1, 1, 128, 128)])) == pytest.approx(10.0)
    assert float(noise_penalty([torch.ones(1, 1, 4, 4)])) == pytest.approx(2.0)
    assert float(noise_penalty([torch.ones(1, 1, 16, 16, 16)])) == pytest.approx(6.0)
    each = noise_penalty([white])
    assert torch.allclose(each[1:], noise_penalty([white[1:]]))


# --- The optimisation. ---


def test_an_image_of_the_generators_own_is_found_again(generator: Generator) -> None:
    target = _known(generator, 5)
    distance = load_distance("ssim+l2", None).measure
    options = _options(loss="ssim+l2", iterations=100, candidates=20)
    still = _options(loss="ssim+l2", iterations=1, candidates=20, learning_rate=1e-9, w_noise=0)
    start, found = (project(generator, _config(), target, [1], distance, chosen) for chosen in (still, options))
    before, after = (float((made.reconstruction - target).square().mean()) for made in (start, found))
    assert after < 0.1 * before
    unlike, like = (float(1 - ssim_map(made.reconstruction, target).mean()) for made in (start, found))
    assert like < 0.3 * unlike
    for planes in found.noise:
        assert float(planes.mean()) == pytest.approx(0, abs=1e-5)
        assert float(planes.square().mean()) == pytest.approx(1, abs=1e-4)
    with torch.no_grad():
        assert torch.allclose(generator.synthesis(found.codes, *found.noise), found.reconstruction)


def test_the_start_is_the_candidate_most_like_the_image(generator: Generator) -> None:
    config = _config()
    still = {"loss": "ssim+l2", "iterations": 1, "learning_rate": 1e-9, "w_noise": 0, "candidates": 10}
    distance = load_distance("ssim+l2", None).measure
    made = [
        project(generator, config, _known(generator, seed), [0], distance, _options(**still)).reconstruction
        for seed in (7, 8, 9)
    ]
    target = made[1] + 0.01
    chosen = project(generator, config, target, [0], distance, _options(**still))
    assert torch.allclose(chosen.reconstruction, made[1], atol=1e-5)


def test_alone_and_in_a_batch_are_the_same(generator: Generator) -> None:
    target = _known(generator, 3, 4, 5)
    distance = load_distance("ssim+l2", None).measure
    options = _options(loss="ssim+l2", iterations=12, candidates=5)
    together = project(generator, _config(), target, [1, 2, 3], distance, options)
    alone = project(generator, _config(), target[1:2], [2], distance, options)
    other = project(generator, _config(), target[1:2], [9], distance, options)
    assert torch.allclose(together.codes[1], alone.codes[0], atol=1e-3)
    assert torch.allclose(together.reconstruction[1], alone.reconstruction[0], atol=1e-3)
    assert not torch.allclose(other.codes[0], alone.codes[0], atol=1e-3)


def test_volumes_of_two_contrasts_are_projected_by_the_same_code() -> None:
    settings = ("network.channel_limit=8", "size=8,8,16", "data.contrasts=T1w,FLAIR")
    config = resolve_config(registry().methods[METHOD], preset="tiny", assignments=settings)
    assert isinstance(config, StyleGANConfig)
    torch.manual_seed(0)
    model = resolve(registry().methods[METHOD].build)(config)
    target = torch.rand(2, 2, 8, 8, 16) * 2 - 1
    distance = load_distance("ssim+l2", None).measure
    early, late = (
        project(model, config, target, [1, 2], distance, _options(loss="ssim+l2", iterations=count, candidates=2))
        for count in (1, 40)
    )
    assert late.reconstruction.shape == target.shape
    assert all(after["distance"] < before["distance"] for before, after in zip(early.losses, late.losses, strict=True))


# --- Distances. ---


def test_channels_are_taken_in_threes() -> None:
    def told(channels: int) -> list[list[int]]:
        image = torch.arange(channels).float()[None, :, None, None].expand(1, channels, 8, 8)
        return in_threes(image)[:, :, 0, 0].int().tolist()

    assert told(1) == [[0, 0, 0]]
    assert told(2) == [[0, 1, 1]]
    assert told(3) == [[0, 1, 2]]
    assert told(4) == [[0, 1, 2], [3, 3, 3]]
    assert in_threes(torch.zeros(2, 4, 8, 6, 5)).shape == (2 * 5 * 2, 3, 8, 6)
    assert in_threes(torch.zeros(1, 1, 512, 300)).shape == (1, 3, 256, 150)


@pytest.mark.parametrize("loss", ["ssim+l2", "feature:resnet10t"])
@pytest.mark.parametrize("shape", [(2, 1, 32, 40), (2, 4, 32, 40), (2, 2, 32, 32, 8)])
def test_distances_are_each_images_own(loss: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    target = torch.rand(shape) * 2 - 1
    near, far = (target + 0.05 * torch.randn(shape), torch.rand(shape) * 2 - 1)
    found = load_distance(loss, None)
    compare = found.measure(target)
    assert torch.allclose(compare(target), torch.zeros(2), atol=1e-5)
    assert bool((compare(near) < compare(far)).all())
    assert torch.allclose(compare(near)[1:], found.measure(target[1:])(near[1:]), atol=1e-5)
    moving = near.clone().requires_grad_()
    compare(moving).sum().backward()
    assert moving.grad is not None
    assert bool(moving.grad.isfinite().all())
    assert float(moving.grad.abs().sum()) > 0
    assert found.name == ("1 - SSIM + mean square" if loss == "ssim+l2" else f"{loss}, random weights of seed 0")


def test_lpips_is_the_packages(tmp_path: Path) -> None:
    import lpips

    torch.manual_seed(0)
    reference = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    trunk = {f"features.{name.partition('.')[2]}": tensor for name, tensor in reference.net.state_dict().items()}
    file = tmp_path / "vgg16.safetensors"
    save_file(trunk, file)
    first, second = torch.rand(2, 3, 32, 40) * 2 - 1, torch.rand(2, 3, 32, 40) * 2 - 1
    found = load_distance("lpips", file)
    with torch.no_grad():
        assert torch.allclose(found.measure(second)(first), reference(first, second).flatten(), rtol=1e-4)
    assert found.weights_sha256 == sha256(file)
    save_file({"features.0.weight": trunk["features.0.weight"]}, file)
    with pytest.raises(DataError, match="does not hold VGG16's weights"):
        load_distance("lpips", file)


def test_a_timm_network_takes_its_own_weights(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(3)
    file = tmp_path / "mine.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), file)
    image = torch.rand(1, 1, 32, 40)
    given, drawn = (load_distance("feature:resnet10t", path) for path in (file, None))
    assert given.name == "feature:resnet10t, weights of mine.safetensors"
    assert given.weights_sha256 == sha256(file)
    assert not torch.allclose(given.measure(image)(-image), drawn.measure(image)(-image))


@pytest.mark.parametrize(
    ("loss", "weights", "error", "words"),
    [
        ("lpips", None, DataError, r"no vgg16-397923af.pth.*--weights FILE.*ssim\+l2"),
        ("lpips", "absent.safetensors", DataError, "no absent.safetensors"),
        ("feature:resnet19", None, UnknownNameError, "Did you mean.*resnet18"),
        ("feature:resnet18", "absent.safetensors", DataError, "no .*absent.safetensors"),
        ("ssim+l2", "absent.safetensors", ConfigError, "leave --weights out"),
        ("dice", None, ConfigError, "use lpips, feature:NAME or"),
    ],
)
def test_a_distance_that_cannot_be_is_refused(
    loss: str, weights: str | None, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(error, match=words):
        load_distance(loss, tmp_path / weights if weights else None)


# --- A cohort. ---


@pytest.fixture(scope="module")
def model(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random tiny generator that has seen sub-001."""
    method = registry().methods[METHOD]
    config = resolve_config(method, preset="tiny")
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("model") / "model.safetensors"
    seen = sha256(phantom / "sub-001/anat/sub-001_T1w.nii.gz")
    write_model(file, resolve(method.build)(config), make_manifest(method, config, trained_on=[seen]))
    return zoo.load(file)


@pytest.fixture(scope="module")
def targets(model: Artifact, phantom: Path) -> Targets:
    cohort = choose_scans(model, read_cohort(phantom), subjects=("001", "sub-003"))
    return find_targets(model, cohort, positions=(0.5, 0.7))


def test_targets_are_slices_that_say_what_they_are(model: Artifact, phantom: Path, targets: Targets) -> None:
    assert [(row["subject"], row["trained_on"]) for row in targets.rows] == [
        ("sub-001", True), ("sub-001", True), ("sub-003", False), ("sub-003", False),
    ]  # fmt: skip
    assert [row["position"] for row in targets.rows[:2]] == pytest.approx([0.5, 0.7], abs=0.03)
    assert all(isinstance(row["covariates"]["age"], float) for row in targets.rows)
    assert all(isinstance(row["covariates"]["group"], str) for row in targets.rows)
    assert targets.images.shape == (4, 1, 40, 48)
    assert targets.lesions.shape == (4, 40, 48)
    cohort = choose_scans(model, read_cohort(phantom))
    assert "sub-001" not in cohort.subjects
    assert len(choose_scans(model, read_cohort(phantom), all_subjects=True).subjects) == 5
    one = cohort.subset(["sub-003"])
    every = find_targets(model, one, every=1)
    assert len(find_targets(model, one, every=3).rows) == -(-len(every.rows) // 3)
    assert len(find_targets(model, one).rows) == 6
    index = [row["slice"] for row in every.rows].index(targets.rows[2]["slice"])
    assert np.array_equal(every.images[index], targets.images[2])


def test_lesion_masks_lie_on_the_lesions(model: Artifact, phantom: Path) -> None:
    patients = [scan.subject for scan in read_cohort(phantom).scans if "lesion-mask" in scan.maps]
    found = find_targets(model, choose_scans(model, read_cohort(phantom), subjects=patients[:1]), every=1)
    held = [number for number in range(len(found.rows)) if found.lesions[number].sum() >= 4]
    assert held
    about = measure(torch.from_numpy(found.images), torch.from_numpy(found.images), found.lesions, ("T1w",))
    contrasts = [about[number]["lesions"]["T1w"]["target"] for number in held]
    assert np.mean(contrasts) < -0.05  # lesions are dark on T1w


def test_bad_choices_are_refused(model: Artifact, phantom: Path) -> None:
    cohort = read_cohort(phantom)
    with pytest.raises(DataError, match=r"no subject 'sub-0003'.*Did you mean 'sub-003'"):
        choose_scans(model, cohort, subjects=["0003"])
    with pytest.raises(DataError, match="were used in training"):
        choose_scans(model, cohort.subset(["sub-001"]))
    with pytest.raises(DataError, match=r"Position 0.95 of sub-001"):
        find_targets(model, cohort.subset(["sub-001"]), positions=(0.95,))
    with pytest.raises(ConfigError, match="give one of them"):
        find_targets(model, cohort, positions=(0.5,), every=2)


def test_lesion_contrast_is_measured_against_its_surroundings() -> None:
    lesions = np.zeros((1, 20, 20), bool)
    lesions[0, 8:12, 8:12] = True
    target = torch.full((1, 1, 20, 20), 0.5)
    target[0, 0][torch.from_numpy(lesions[0])] = 0.1
    made = torch.full((1, 1, 20, 20), 0.4)
    made[0, 0][torch.from_numpy(lesions[0])] = 0.3
    (about,) = measure(target, made, lesions, ("T1w",))
    assert about["lesions"]["T1w"] == pytest.approx(
        {"target": -0.4, "reconstruction": -0.1, "survives": 0.25}, abs=1e-6
    )
    assert about["losses"]["mse"] == pytest.approx(0.01 * 384 / 400 + 0.04 * 16 / 400, rel=1e-4)
    (none,) = measure(target, made, np.zeros_like(lesions), ("T1w",))
    assert none["lesions"] == {}
    (flat,) = measure(made * 0, made, lesions, ("T1w",))
    assert flat["lesions"]["T1w"]["survives"] is None


def test_figures_inside_the_head_leave_out_the_background() -> None:
    target = torch.full((2, 1, 40, 40), -1.0)
    target[0, 0, 10:30, 10:30] = 0.5
    made = target.clone()
    made[0, 0, 10:30, 10:30] = 0.3
    head, empty = (about["losses"] for about in measure(target, made, np.zeros((2, 40, 40), bool), ("T1w",)))
    assert head["psnr_head"] == pytest.approx(10 * np.log10(4 / 0.04), abs=1e-3)
    assert head["psnr"] == pytest.approx(head["psnr_head"] + 10 * np.log10(4), abs=1e-3)
    assert head["ssim_head"] < head["ssim"] - 0.05
    assert "ssim_head" not in empty


def test_subjects_count_once_in_the_summary() -> None:
    def row(subject: str, ssim: float) -> dict[str, Any]:
        return {"subject": subject, "losses": {"ssim": ssim, "psnr": 20.0, "mse": 0.1}, "lesions": {}}

    found = summary([row("sub-1", 0.8), row("sub-1", 0.9), row("sub-1", 0.7), row("sub-2", 0.6)])["ssim"]
    assert (found.n, found.mean) == (2, pytest.approx(0.7))


def test_an_interrupted_projection_goes_on_to_the_same_numbers(
    model: Artifact, targets: Targets, tmp_path: Path
) -> None:
    whole = project_files(model, targets, tmp_path / "whole", options=FAST)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == [
        "projections.json", "projections.png", "projections.safetensors",
    ]  # fmt: skip

    def stop(done: int, total: int) -> None:
        assert total == 4 * 6
        if done > 2 * 6 + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project_files(model, targets, tmp_path / "torn", options=FAST, progress=stop)
    assert [path.name for path in (tmp_path / "torn").iterdir()] == [".parts"]
    done: list[int] = []
    again = project_files(model, targets, tmp_path / "torn", options=FAST, progress=lambda now, total: done.append(now))
    assert done[0] == 2 * 6  # the first batch was there
    first, second = (Projections.read(report.projections) for report in (whole, again))
    assert first.rows == second.rows
    for one, other in zip(
        (first.codes, first.reconstruction, *first.noise),
        (second.codes, second.reconstruction, *second.noise),
        strict=True,
    ):
        assert torch.equal(one, other)
    assert first.model_sha256 == model.sha256
    assert first.options["distance"] == "1 - SSIM + mean square"
    assert set(first.rows[0]["losses"]) == {
        "distance", "noise", "ssim", "psnr", "mse", "ssim_head", "psnr_head",
    }  # fmt: skip

    calls: list[int] = []
    project_files(model, targets, tmp_path / "torn", options=FAST, progress=lambda now, total: calls.append(now))
    assert not calls  # all is there
    with pytest.raises(ArtifactError, match="other images or with other settings"):
        project_files(model, targets, tmp_path / "torn", options={**FAST, "seed": 1})


def test_the_command_projects_unseen_subjects_and_says_how_well(
    model: Artifact, phantom: Path, tmp_path: Path, zoo_command: Callable[..., tuple[int, str, str]]
) -> None:
    fast = ("--loss", "ssim+l2", "--iterations", 4, "--set", "candidates=2", "--positions", "0.5", "--json")
    code, out, err = zoo_command("project", model.path, "--data", phantom, "--out", tmp_path / "all", *fast)
    assert code == 0, err
    report = json.loads(out)
    assert report["images"] == 4
    assert report["trained_on"] == 0
    assert report["summary"]["ssim"]["n"] == 4
    assert json.loads((tmp_path / "all" / "projections.json").read_text())["rows"] == report["rows"]
    assert str(tmp_path) not in (tmp_path / "all" / "projections.json").read_text()

    code, out, err = zoo_command(
        "project", model.path, "--data", phantom, "--subjects", "001", "--out", tmp_path / "one", *fast
    )
    assert (code, json.loads(out)["trained_on"]) == (0, 1)
    assert "training has seen sub-001" in err
    image = phantom / "sub-003/anat/sub-003_T1w.nii.gz"
    code, out, err = zoo_command("project", model.path, "--image", image, "--out", tmp_path / "file", *fast)
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["subject"] == "sub-003"
    one, several = (Projections.read(tmp_path / name) for name in ("file", "all"))
    place = [row["subject"] for row in several.rows].index("sub-003")
    assert torch.equal(one.image[0], several.image[place])
    assert torch.allclose(one.codes[0], several.codes[place], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "either --data or --image"),
        (("--data", "D", "--subjects", "1", "--all"), 2, "contradict"),
        (("--data", "D", "--lesions", "L"), 2, "--lesions belongs to --image"),
        (("--image", "I", "--all"), 2, "leave them out"),
        (("--image", "I", "--image", "I"), 1, "give --image 1 times"),
        (("--data", "D", "--positions", "low"), 2, "not a list of positions"),
    ],
)
def test_wrong_calls_are_refused(
    arguments: tuple[str, ...], code: int, words: str, model: Artifact, tmp_path: Path,
    zoo_command: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    told = zoo_command("project", model.path, "--out", tmp_path / "none", *arguments)
    assert (told[0], words in told[2]) == (code, True), told[2]
    assert not (tmp_path / "none").exists()
