"""Directions in a space of codes: found, conditioned, kept, and what else they move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo.errors import ArtifactError, DataError
from zoo.tasks.edit.directions import (
    Attribute,
    Direction,
    Directions,
    FitOptions,
    Generated,
    conditional,
    fit_direction,
    orthogonalise,
    read_attribute,
    subject_folds,
    usable_attributes,
    walk,
)
from zoo.tasks.edit.entanglement import measure_entanglement

SHAPE = (4, 10)
SLICES = 3


def _unit(*axes: int) -> torch.Tensor:
    vector = torch.zeros(SHAPE).flatten()
    vector[list(axes)] = 1
    return (vector / vector.norm()).reshape(SHAPE)


def _rows(columns: dict[str, list[Any]], slices: int = SLICES) -> list[dict[str, Any]]:
    count = len(next(iter(columns.values())))
    return [
        {
            "subject": f"sub-{number:02d}",
            "scan": f"sub-{number:02d}",
            "slice": index,
            "position": 0.4 + 0.1 * index,
            "covariates": {name: values[number] for name, values in columns.items()},
            "losses": {},
        }
        for number in range(count)
        for index in range(slices)
    ]


def _codes(parts: list[tuple[torch.Tensor, np.ndarray]], noise: float = 0.3, seed: int = 0) -> torch.Tensor:
    """Return codes ``[N, *SHAPE]`` of noise and of each direction times its values."""
    generator = torch.Generator().manual_seed(seed)
    codes = noise * torch.randn((len(parts[0][1]), *SHAPE), generator=generator)
    for direction, values in parts:
        codes = codes + torch.from_numpy(np.asarray(values)).float()[:, None, None] * direction
    return codes


def _subjects(rows: list[dict[str, Any]]) -> list[str]:
    return [row["subject"] for row in rows]


def test_a_known_direction_between_groups_is_found() -> None:
    groups = ["HC", "MS"] * 100
    rows = _rows({"group": groups})
    attribute = read_attribute(rows, "group")
    assert attribute.levels == ("HC", "MS")
    truth = _unit(3, 17, 31)
    found = fit_direction(
        _codes([(truth, 4 * attribute.values)], noise=1.0), attribute, _subjects(rows), FitOptions(folds=5)
    )
    assert float((found.vector * truth).sum()) > 0.95
    assert float(found.vector.norm()) == pytest.approx(1, abs=1e-6)
    accuracy = [score for score in found.about["scores"] if score["measure"] == "balanced accuracy"]
    assert [score["over"] for score in accuracy] == ["images", "subjects"]
    assert all(score["value"] > 0.9 and score["chance"] == 0.5 for score in accuracy)
    assert (found.about["subjects"], found.about["images"]) == (200, 600)
    assert found.about["stability"]["mean"] > 0.9
    assert found.about["stability"]["low"] <= found.about["stability"]["mean"] <= found.about["stability"]["high"]


def test_a_known_direction_of_a_number_is_found_in_unequal_units() -> None:
    ages = np.random.default_rng(1).uniform(20, 80, 200).round(1)
    rows = _rows({"age": ages.tolist()})
    attribute = read_attribute(rows, "age")
    assert attribute.kind == "continuous"
    truth = _unit(0, 5, 22)
    codes = _codes([(truth, (attribute.values - 50) / 5)])
    codes[:, 2] *= 50  # a layer in other units, without meaning
    found = fit_direction(codes, attribute, _subjects(rows), FitOptions(folds=10))
    truth_seen = truth.clone()
    truth_seen[2] *= 0  # along that layer the attribute is drowned
    truth_seen /= truth_seen.norm()
    assert float((found.vector * truth_seen).sum()) > 0.95
    by_name = {score["measure"]: score for score in found.about["scores"] if score["over"] == "subjects"}
    assert by_name["R²"]["value"] > 0.9
    assert by_name["Spearman"]["low"] > 0.9


def test_without_an_effect_the_accuracy_is_chance() -> None:
    rows = _rows({"group": ["HC", "MS"] * 40})
    attribute = read_attribute(rows, "group")
    codes = _codes([(_unit(0), np.zeros(len(rows)))])
    found = fit_direction(codes, attribute, _subjects(rows), FitOptions(folds=10))
    (over_subjects,) = [score for score in found.about["scores"] if score["over"] == "subjects"]
    assert over_subjects["low"] < 0.5 < over_subjects["high"]


@pytest.mark.parametrize("column", ["group", "age", "position"])
def test_no_subject_is_in_two_parts_of_a_fold(column: str) -> None:
    rows = _rows({"group": ["HC", "HC", "MS"] * 10, "age": list(range(30))})
    attribute = read_attribute(rows, column)
    owners = np.array(_subjects(rows))[attribute.rows]
    held: list[int] = []
    for fitted, tested in subject_folds(attribute, list(owners), 5, seed=3):
        assert not set(owners[fitted]) & set(owners[tested])
        assert column != "group" or set(attribute.values[tested]) == {0.0, 1.0}
        held += tested.tolist()
    assert sorted(held) == list(range(len(owners)))


def test_orthogonal_directions_share_nothing() -> None:
    generator = torch.Generator().manual_seed(4)
    vector, first, second = (torch.randn(SHAPE, generator=generator) for _ in range(3))
    second = second + first  # not orthogonal to each other
    left = orthogonalise(vector, [first, second])
    assert float(left.norm()) == pytest.approx(1, abs=1e-6)
    for other in (first, second):
        assert abs(float((left * other).sum() / other.norm())) < 1e-6
    with pytest.raises(DataError, match="nothing of it is left"):
        orthogonalise(first + 2 * second, [first, second])


def test_walking_adds_alpha_times_the_direction() -> None:
    codes, direction = torch.arange(80.0).reshape(2, *SHAPE), _unit(7)
    assert torch.equal(walk(codes, direction, 0), codes)
    assert torch.allclose(walk(codes, direction, -3) - codes, -3 * direction)
    assert torch.equal(walk(codes, direction, 2)[1:], walk(codes[1:], direction, 2))


def test_labelled_samples_show_a_direction_that_codes_hide() -> None:
    random = np.random.default_rng(0)
    rows = _rows({"age": [float(age) for age in range(30, 54)]})
    age = np.array([float(row["covariates"]["age"]) for row in rows])
    codes = torch.from_numpy(random.standard_normal((len(rows), *SHAPE))).float()  # nothing of age is in them
    made = torch.from_numpy(random.standard_normal((2000, *SHAPE))).float()
    shown = made[:, 3, 5].numpy()
    features = np.stack([10 * shown, random.standard_normal(2000)], 1)
    real = np.stack([age, random.standard_normal(len(age))], 1)
    attribute = read_attribute(rows, "age")
    options = FitOptions(folds=4)
    found = fit_direction(codes, attribute, _subjects(rows), options, Generated(made, features, real))
    assert float((found.vector * _unit(35)).sum()) > 0.95
    assert abs(float((fit_direction(codes, attribute, _subjects(rows), options).vector * _unit(35)).sum())) < 0.5


def test_a_confounded_attribute_moves_before_orthogonalising_and_not_after() -> None:
    random = np.random.default_rng(5)
    ages = random.uniform(20, 80, 200)
    ill = (ages + random.normal(0, 12, 200) > 50).astype(int)  # the ill are older
    rows = _rows({"age": ages.tolist(), "group": [("HC", "MS")[level] for level in ill]})
    age, group = read_attribute(rows, "age"), read_attribute(rows, "group")
    along_age, along_group = _unit(0, 1), _unit(2, 3)
    codes = _codes([(along_age, (age.values - 50) / 10), (along_group, 2 * group.values)])
    subjects = _subjects(rows)
    fitted = {item.name: fit_direction(codes, item, subjects, FitOptions(folds=5)) for item in (age, group)}
    fitted["clean"] = conditional("group", ["age"], fitted, codes)
    assert fitted["clean"].about["without"] == ["age"]
    assert "scores" not in fitted["clean"].about

    def features(some: torch.Tensor) -> np.ndarray:
        """A linear generator whose images are the two coordinates."""
        return np.stack([(some * axis).sum((1, 2)).numpy() for axis in (along_age, along_group)], axis=1)

    alphas = [-2.0, 0.0, 2.0]
    moved = {}
    for name in ("group", "clean"):
        edited = np.stack([features(walk(codes, fitted[name].vector, alpha)) for alpha in alphas], axis=1)
        found = measure_entanglement(features(codes), edited, alphas, [age, group], subjects, folds=5)
        moved[name] = {row.attribute: row for row in found}
    assert moved["group"]["age"].skill[0]["value"] > 0.9
    assert moved["group"]["age"].per_alpha.mean > 1  # years a unit of alpha
    assert abs(moved["clean"]["age"].per_alpha.mean) < 0.2 * moved["group"]["age"].per_alpha.mean
    assert moved["clean"]["group"].per_alpha.mean > 0.1
    assert moved["clean"]["group"].unit == "HC to MS"
    assert moved["clean"]["group"].per_alpha.n == 200


def test_no_subject_is_measured_by_a_regressor_that_has_seen_it() -> None:
    rows = _rows({"age": list(range(20, 60))}, slices=1)
    age, alphas = read_attribute(rows, "age"), [0.0, 1.0]
    real = np.random.default_rng(0).normal(size=(40, 3))
    edited = np.stack([real, real + 1], axis=1)
    before = measure_entanglement(real, edited, alphas, [age], _subjects(rows), folds=40)[0]
    real[0] += 1000  # spoils every regressor but that of the subject itself
    after = measure_entanglement(real, edited, alphas, [age], _subjects(rows), folds=40)[0]
    assert after.per_alpha.mean != pytest.approx(before.per_alpha.mean, rel=1e-3)


def test_columns_are_groups_or_numbers() -> None:
    rows = _rows({"sex": [0, 1, 0, 1], "site": ["a", "b", "c", "a"], "age": [30, "n/a", 50, 60], "one": [1, 1, 1, 1]})
    assert read_attribute(rows, "sex").levels == ("0", "1")
    assert read_attribute(rows, "site", ("c", "a")).values.tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1]
    age = read_attribute(rows, "age")
    assert age.rows.tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    found, refused = usable_attributes(rows, {})
    assert [item.name for item in found] == ["position", "sex", "age"]
    assert len(refused) == 2


@pytest.mark.parametrize(
    ("column", "levels", "message"),
    [
        ("agee", (), "no column 'agee'. Did you mean 'age'"),
        ("one", (), "one value only"),
        ("site", (), "name two of them: --levels"),
        ("site", ("a", "d"), "no value 'd'"),
        ("site", ("a", "a"), "two different values"),
    ],
)
def test_columns_that_give_no_direction_are_refused(column: str, levels: tuple[str, ...], message: str) -> None:
    rows = _rows({"age": [30, 40, 50], "one": [1, 1, 1], "site": ["a", "b", "c"]})
    with pytest.raises(DataError, match=message):
        read_attribute(rows, column, levels)


def test_fewer_subjects_than_folds_are_refused() -> None:
    rows = _rows({"age": [30, 40, 50], "group": ["HC", "MS", "HC"]})
    with pytest.raises(DataError, match=r"3 subjects with age, fewer than 4 folds.*--folds 3"):
        subject_folds(read_attribute(rows, "age"), _subjects(rows), 4, 0)
    with pytest.raises(DataError, match="1 subjects of group 'MS'"):
        subject_folds(read_attribute(rows, "group"), _subjects(rows), 2, 0)


def test_codes_that_are_all_alike_are_refused() -> None:
    attribute = Attribute("age", "continuous", np.arange(4), np.arange(4.0))
    with pytest.raises(DataError, match="do not differ with 'age'"):
        fit_direction(torch.ones(4, *SHAPE), attribute, list("abcd"), FitOptions(folds=2))


def test_the_file_keeps_directions_and_refuses_others(tmp_path: Path) -> None:
    kept = Directions({"age": Direction(_unit(1), {"attribute": "age", "without": []})}, "stylegan2-ada", "abc")
    path = tmp_path / "directions.safetensors"
    kept.write(path)
    again = Directions.read(tmp_path)
    assert torch.equal(again.items["age"].vector, _unit(1))
    assert again.items["age"].about == kept.items["age"].about
    assert list(again.choose(())) == ["age"]
    with pytest.raises(DataError, match="Did you mean 'age'"):
        again.choose(["ages"])
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ArtifactError, match="does not hold directions"):
        Directions.read(path)
    with pytest.raises(ArtifactError, match="zoo edit directions"):
        Directions.read(tmp_path / "nowhere")


def test_cells_that_are_no_numbers_are_named() -> None:
    rows = _rows({"age": [30, "58_1", "89+", 60, 61, 62]})
    with pytest.raises(DataError, match=r"holds numbers except for '58_1', '89\+'; correct these cells"):
        read_attribute(rows, "age")


@pytest.mark.parametrize("cells", [[1, 2, 3, 1], [1.0, 2.0, 3.0, 1.0], ["1", "2", "3", "1"]])
@pytest.mark.parametrize("levels", [("1", "2"), ("01", "2.0")])
def test_levels_are_numbers_as_they_are_written(cells: list, levels: tuple[str, str]) -> None:
    found = read_attribute(_rows({"code": cells}), "code", levels)
    assert found.levels == levels
    assert found.values.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_column_with_one_left_hander_is_left_out_and_said() -> None:
    rows = _rows({"hand": ["R", "R", "L", "R", "R", "R"], "age": [30, 41, 52, 63, 74, 85]})
    found, refused = usable_attributes(rows, {}, folds=3)
    assert [item.name for item in found] == ["position", "age"]
    assert refused == [
        "Column 'hand' is left out: There are 1 subjects of hand 'L', fewer than 3 folds; project more subjects."
    ]
