"""Which ways of training a GAN diverge: DCGAN, and WGAN with each way of keeping its critic from growing too steep.

    python benchmarks/studies/gan_stability.py COHORT [--steps 2400] [--seeds 3]
        [--out benchmarks/results/gan-stability.jsonl] [--plot docs/images/gan-stability.png]

COHORT is a DCE phantom at 4 mm: zoo data phantom COHORT --dataset dce-phantom --subjects 48 --spacing 4. All runs
have the preset `tiny` (16 x 16 pixels, batches of 32), the same real patches, and as many steps of the discriminator or
critic. Learning rates are those of the methods' sources; "faster" is the default of `wgan`, ten times as much. A third
of the subjects is left for validation. At each check the averaged generator makes as many patches of each class as
there are real ones, up to 40, and the Fréchet distance of their texture features is taken. The dashed line
is that of real patches of the training subjects.

A run has diverged if a loss, a gradient or a generated value is not finite, or if its last distance is more than twice
its lowest. Runs that are already in the JSONL are not trained again; `--plot` draws from the JSONL.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from zoo.cli.output import progress_bar
from zoo.config import resolve_config
from zoo.descriptors import resolve
from zoo.imaging.cache import PackedCohort
from zoo.metrics.distances import frechet_distance
from zoo.metrics.features import feature_scale, texture_features
from zoo.randomness import Randomness, seed_for
from zoo.registry import registry
from zoo.report.figures import empty_figure
from zoo.training.launch import launch
from zoo.training.plan import pack, plan_training
from zoo_multiparametric_gan.examples import Patches
from zoo_multiparametric_gan.tasks import draw

WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dcgan": ("dcgan", ()),
    "wgan, clipping": ("wgan", ("critic.lipschitz=clipping", "optimiser.rmsprop_rate=5e-5")),
    "wgan, clipping, faster": ("wgan", ("critic.lipschitz=clipping", "optimiser.rmsprop_rate=5e-4")),
    **{
        f"wgan, penalty {weight}": ("wgan", ("critic.lipschitz=gradient-penalty", f"critic.penalty={weight}"))
        for weight in ("0.1", "1", "10", "100")
    },
    "wgan, spectral": ("wgan", ("critic.lipschitz=spectral",)),
}
"""Name of each way, its method and its settings beside the preset."""

COMMON = ("data.validation=0.34", "data.test=0")
FACTOR = 2.0
"""A run whose last distance is more than this many times its lowest has diverged."""
CHECKS = 6
POINTS = 60
PER_CLASS = 40
SPLIT_SEED = 0


class Real:
    """Real patches of the cohort: those to train on, in memory, and the features of those to compare with.

    Args:
        config: Settings.
        training, validation: Packed scans.
    """

    def __init__(self, config: Any, training: PackedCohort, validation: PackedCohort) -> None:
        images, labels = _patches(config, training)
        self.by_class = [images[labels == label] for label in range(len(config.class_names))]
        held_out, held_out_labels = _patches(config, validation)
        rng = np.random.default_rng(SPLIT_SEED)
        self.features, self.scales, self.floor = [], [], {}
        for label, name in enumerate(config.class_names):
            features = [
                texture_features(some[rng.permutation(len(some))[:PER_CLASS]])
                for some in (held_out[held_out_labels == label], self.by_class[label])
            ]
            self.features.append(features[0])
            self.scales.append(feature_scale(features[0]))
            self.floor[name] = self.distance(label, features[1])

    def distance(self, label: int, features: Tensor) -> float:
        """Return the Fréchet distance of scaled features to those of held-out patches of a class."""
        scale = self.scales[label]
        return frechet_distance(self.features[label] / scale, features / scale)

    def batch(self, size: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return random patches, each class as often as the others on average."""
        labels = rng.integers(len(self.by_class), size=size)
        rows = [self.by_class[label][rng.integers(len(self.by_class[label]))] for label in labels]
        return {"image": torch.stack(rows), "label": torch.from_numpy(labels)}


def _patches(config: Any, cohort: PackedCohort) -> tuple[Tensor, Tensor]:
    patches = Patches(config, cohort)
    examples = [patches.example(index, np.random.default_rng()) for index in range(len(patches))]
    return (
        torch.from_numpy(np.stack([example["image"] for example in examples])),
        torch.from_numpy(np.stack([example["label"] for example in examples])),
    )


def train(way: str, seed: int, steps: int, real: Real, fabric: Fabric) -> dict[str, Any]:
    """Train one run and return its row."""
    name, assignments = WAYS[way]
    method = registry().methods[name]
    config: Any = resolve_config(method, preset="tiny", assignments=[*COMMON, *assignments])
    torch.manual_seed(seed_for(seed, 0))
    trainer = resolve(method.trainer)(config, resolve(method.build)(config), fabric)
    rng, size = np.random.default_rng(seed_for(seed, 1)), config.training.batch_size
    judge = "discriminator" if name == "dcgan" else "critic"
    trace: dict[str, list[float]] = {"step": [], "loss": [], "gradient": [], "generator gradient": []}
    checks: list[dict[str, Any]] = []
    recent: list[Mapping[str, float]] = []
    finite = True
    began = time.process_time()
    for step in range(1, steps + 1):
        random = Randomness([seed_for(seed, 2, step, row) for row in range(size)])
        figures = {key: float(value) for key, value in trainer.step(real.batch(size, rng), random).items()}
        recent.append(figures)
        finite = all(map(math.isfinite, figures.values()))
        if step % max(steps // POINTS, 1) == 0 or not finite:
            trace["step"].append(step)
            trace["loss"].append(_significant(statistics.fmean(one[f"loss/{judge}"] for one in recent)))
            trace["gradient"].append(_significant(max(one[f"gradient/{judge}"] for one in recent)))
            trace["generator gradient"].append(_significant(max(one.get("gradient/generator", 0.0) for one in recent)))
            recent = []
        if step % (steps // CHECKS) == 0 and finite:
            distances = _distances(trainer, config, real)
            checks.append({"step": step, **distances})
            finite = all(map(math.isfinite, distances.values()))
        if not finite:
            break
    return {
        "way": way,
        "seed": seed,
        "settings": ["preset=tiny", *COMMON, *assignments],
        "learning_rate": trainer.optimisers()[0].param_groups[0]["lr"],
        "steps": step,
        "generator_steps": step // config.critic.steps if name == "wgan" else step,
        "batch": size,
        "per_class": [len(features) for features in real.features],
        "floor": {key: _significant(value) for key, value in real.floor.items()},
        "checks": checks,
        "trace": trace,
        **verdict(checks, finite),
        "processor_seconds": round(time.process_time() - began, 1),
    }


def _distances(trainer: Any, config: Any, real: Real) -> dict[str, float]:
    """Return the distance of generated patches by class and their mean, by the averaged generator."""
    found = {}
    trainer.ema.eval()
    for label, name in enumerate(config.class_names):
        count = len(real.features[label])
        z = Randomness([seed_for(3, label, row) for row in range(count)]).normal((config.network.latent_width,))
        with torch.inference_mode():
            images = draw({"generator": trainer.ema}, config, z, torch.full((count,), label))
        finite = bool(images.isfinite().all())
        found[name] = _significant(real.distance(label, texture_features(images))) if finite else math.nan
    return {"mean": _significant(statistics.fmean(found.values())), **found}


def verdict(checks: Sequence[Mapping[str, float]], finite: bool) -> dict[str, Any]:
    """Return whether a run has diverged, and why."""
    if not finite:
        return {"diverged": True, "why": "a value is not finite", "growth": None}
    growth = checks[-1]["mean"] / min(check["mean"] for check in checks)
    why = f"its last distance is {growth:.2f} times its lowest" if growth > FACTOR else ""
    return {"diverged": growth > FACTOR, "why": why, "growth": round(growth, 3)}


def _significant(value: float) -> float:
    return float(f"{value:.4g}")


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the loss of the critic, its largest gradients and the distance over the steps, a line per run."""
    kinds = [way for way in WAYS if any(row["way"] == way for row in rows)]
    figure = empty_figure(2.1 * len(kinds) + 0.6, 6.2, layout="constrained")
    panels = figure.subplots(3, len(kinds), sharex=True, sharey="row", squeeze=False)
    for column, way in zip(panels.T, kinds, strict=True):
        runs = [row for row in rows if row["way"] == way]
        for number, row in enumerate(runs):
            colour, trace = ("#1f6f9c", "#c8552b", "#5b8c3a", "#7d5aa6", "#8a6d1d")[number % 5], row["trace"]
            gap = trace["loss"] if row["way"] == "dcgan" else [-value for value in trace["loss"]]
            column[0].plot(trace["step"], gap, color=colour, linewidth=1)
            column[1].plot(trace["step"], trace["gradient"], color=colour, linewidth=1, label=f"seed {row['seed']}")
            column[2].plot([check["step"] for check in row["checks"]], [check["mean"] for check in row["checks"]],
                           color=colour, marker="x" if row["diverged"] else "o", markersize=4, linewidth=1)  # fmt: skip
        floor = statistics.fmean(runs[0]["floor"].values())
        column[2].axhline(floor, color="#555555", linestyle="--", linewidth=1, label="real patches")
        bad = sum(row["diverged"] for row in runs)
        column[0].set_title(f"{way}\n{bad} of {len(runs)} diverged", fontsize=9)
        column[0].set_yscale("symlog", linthresh=0.1)
        column[1].set_yscale("log")
        column[2].set_xlabel("steps", fontsize=8)
        for axes in column:
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
    panels[2, 0].set_ylim(bottom=0)
    ordinates = (
        "discriminator's loss;\nscore of real - generated",
        "largest gradient norm of\ndiscriminator or critic",
        "texture distance\n(validation)",
    )
    for axes, text in zip(panels[:, 0], ordinates, strict=True):
        axes.set_ylabel(text, fontsize=8)
    handles = [*panels[1, 0].get_legend_handles_labels()[0], *panels[2, 0].get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(path)


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per way."""
    print("way                 diverged  last distance (lowest … highest of the seeds)   s")
    for way in WAYS:
        runs = [row for row in rows if row["way"] == way]
        last = sorted(row["checks"][-1]["mean"] if row["checks"] else math.nan for row in runs)
        if runs:
            diverged = f"{sum(row['diverged'] for row in runs)} of {len(runs)}"
            seconds = statistics.fmean(row["processor_seconds"] for row in runs)
            print(f"{way:<20}{diverged:<10}{last[0]:.4g} … {last[-1]:.4g}   {seconds:.0f}")


def main() -> None:
    """Train, write and plot."""
    here = Path(__file__).parents[1]
    parser = argparse.ArgumentParser()
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=here / "results" / "gan-stability.jsonl")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in arguments.out.open()] if arguments.out.exists() else []
    method = registry().methods["dcgan"]
    config: Any = resolve_config(method, preset="tiny", assignments=COMMON)
    planned = plan_training(method, config, arguments.cohort, progress_bar)
    packed = pack(planned, progress_bar)
    real = Real(config, packed.subset(planned.split.train), packed.subset(planned.split.validation))
    fabric = launch(1, "32-true")
    for seed in range(arguments.seeds):
        for way in WAYS:
            if any((row["way"], row["seed"]) == (way, seed) for row in rows):
                continue
            rows.append(train(way, seed, arguments.steps, real, fabric))
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(way, seed, [check["mean"] for check in rows[-1]["checks"]], rows[-1]["why"], flush=True)
    table(rows)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
