"""Who is trained on, who chooses and who is tested; a patient never stands on two sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evalfm.config import ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.labelled import SplitAssignment
from evalfm.probing.splits import limited, make_splits
from evalfm.probing.splits.make import KINDS
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import Cohort, resolve_task, select_cohort
from tests.squares import make_squares


@pytest.fixture
def cohort(squares: Manifest) -> Cohort:
    return select_cohort(resolve_task("square", squares), squares)


def patients_of(cohort: Cohort, positions: np.ndarray) -> set[str]:
    return set(cohort.manifest.patients[cohort.rows[positions]].tolist())


def test_one_split_is_the_manifests_own(cohort: Cohort):
    (split,) = make_splits(cohort, SplitOptions())
    names = cohort.manifest.table["split"].to_numpy()
    for name in ("train", "val", "test"):
        assert set(names[cohort.rows[getattr(split, name)]]) == {name}
    assert len(split.train) + len(split.val) + len(split.test) == len(cohort)


def test_folds_test_every_image_once_and_keep_patients_apart(cohort: Cohort):
    dealt = make_splits(cohort, SplitOptions(folds=5))
    tested = np.concatenate([split.test for split in dealt])
    assert sorted(tested.tolist()) == list(range(len(cohort)))
    for split in dealt:
        sides = [patients_of(cohort, getattr(split, name)) for name in ("train", "val", "test")]
        assert not sides[0] & sides[1]
        assert not (sides[0] | sides[1]) & sides[2]
        assert {0, 1} == set(cohort.target[split.val].tolist()), "val of a fold holds both classes"


def test_shots_are_nested_per_class_and_leave_val_and_test_alone(cohort: Cohort):
    (whole,) = make_splits(cohort, SplitOptions())
    smaller: set[int] = set()
    for shots in (1, 2, 4, 8):
        (split,) = make_splits(cohort, SplitOptions(shots=shots))
        chosen = set(split.train.tolist())
        assert smaller < chosen
        assert np.bincount(cohort.target[split.train].astype(int)).tolist() == [shots, shots]
        assert split.val.tolist() == whole.val.tolist()
        assert split.test.tolist() == whole.test.tolist()
        smaller = chosen


def test_a_seed_draws_other_shots_but_never_another_split(cohort: Cohort):
    settings = SplitOptions(shots=4)
    (first,), (second,) = (make_splits(cohort, settings, subset_seed=seed) for seed in (0, 1))
    assert first.train.tolist() != second.train.tolist()
    assert first.test.tolist() == second.test.tolist()


def test_more_shots_than_images_is_refused(cohort: Cohort):
    with pytest.raises(EvalfmError, match="take fewer"):
        make_splits(cohort, SplitOptions(shots=500))


def test_test_where_deals_whole_patients_to_test(cohort: Cohort):
    (split,) = make_splits(cohort, SplitOptions(test_where="sex == 'M'"))
    sex = cohort.manifest.table["sex"].to_numpy()
    tested = patients_of(cohort, split.test)
    assert not tested & patients_of(cohort, np.concatenate([split.train, split.val]))
    for position in np.concatenate([split.train, split.val]).tolist():
        assert sex[cohort.rows[position]] == "F"


def test_limit_keeps_splits_and_classes_in_proportion(cohort: Cohort):
    small = limited(cohort, 20)
    assert len(small) == 20
    assert limited(cohort, 20).rows.tolist() == small.rows.tolist()
    split = small.manifest.table["split"].to_numpy()[small.rows]
    for name in ("train", "val", "test"):
        assert set(small.target[split == name].tolist()) == {0.0, 1.0}
    assert small.exclusions[-1].images == len(cohort) - 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 5, "test_where": "sex == 'F'"}, "folds"),
        ({"shots": 1, "label_fraction": 0.5}, "give one"),
        ({"folds": 1}, "folds"),
        ({"label_fraction": 1.5}, "label_fraction"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(EvalfmError, match=message):
        ProbeConfig.checked(encoder="hog", task="square", **settings)


def test_identical_images_come_into_one_fold_and_never_into_train_and_test(tmp_path: Path):
    data = make_squares(tmp_path / "twins", patients=60)
    names = data.table["image"].tolist()
    twins = [names.index("s4-0.png"), names.index("s31-0.png"), names.index("s50-0.png")]
    for row in twins[1:]:
        (tmp_path / "twins" / names[row]).write_bytes((tmp_path / "twins" / names[twins[0]]).read_bytes())
    for name in ("squares", "another"):
        named = Manifest(data.info.model_copy(update={"name": name}), data.table, data.folder)
        asked = select_cohort(resolve_task("square", named), named)
        where = {row: position for position, row in enumerate(asked.rows.tolist())}
        for seed in range(4):
            for split in make_splits(asked, SplitOptions(folds=3), split_seed=seed):
                found = [
                    [where[row] in positions for row in twins] for positions in (split.train, split.val, split.test)
                ]
                assert all(len(set(each)) == 1 for each in found)
        (split,) = make_splits(asked, SplitOptions(test_where="patient == 's50'"))
        assert {where[row] for row in twins} <= set(split.test.tolist())


CHOSEN: dict[str, dict[str, object]] = {
    "holdout": {},
    "folds": {"folds": 4},
    "shots": {"shots": 3},
    "label_fraction": {"label_fraction": 0.5},
    "association": {"associate": "dark=0.5"},
    "episodes": {"shots": 2, "queries": 2, "episodes": 3},
    "base_to_novel": {"base_to_novel": True, "shots": 1},
}
"""Options that ask for each kind of split."""


def test_every_kind_of_split_is_tried_here():
    assert {str(getattr(kind, "__name__", "")).rpartition(".")[2] for kind in KINDS} == set(CHOSEN)


@pytest.mark.parametrize("name", CHOSEN)
def test_what_every_kind_of_split_keeps(squares: Manifest, name: str):
    table = squares.table.assign(dark=(np.arange(len(squares)) // 3) % 2.0, four=np.arange(len(squares)) % 4.0)
    facts = {"label_source": {**squares.info.label_source, "dark": "image", "four": "image"}}
    facts |= {"label_kinds": {**squares.info.label_kinds, "four": "class"}}
    manifest = Manifest(squares.info.model_copy(update=facts), table, squares.folder)
    cohort = select_cohort(resolve_task("four" if name == "base_to_novel" else "square", manifest), manifest)
    options = SplitOptions(**CHOSEN[name])  # type: ignore[arg-type]
    splits = make_splits(cohort, options, subset_seed=1)
    key = SplitAssignment.of(cohort, None, splits).key
    assert SplitAssignment.of(cohort, None, make_splits(cohort, options, subset_seed=1)).key == key
    keys = {SplitAssignment.of(cohort, None, make_splits(cohort, options, subset_seed=seed)).key for seed in (1, 2)}
    assert len(keys) == 1 + options.draws_subsets, "a seed draws what it is said to draw, and the key shows it"
    for split in splits:
        learning, tested = (split.train, split.val), split.test
        if split.episodes is not None:
            learning, tested = (split.episodes.support.ravel(),), split.episodes.query.ravel()
        assert not patients_of(cohort, np.concatenate(learning)) & patients_of(cohort, tested)
        assert set(split.used.tolist()) == set(np.concatenate([*learning, tested]).tolist())
