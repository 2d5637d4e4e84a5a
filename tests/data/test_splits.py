from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalfm.data import splits
from evalfm.errors import EvalfmError

MANY = np.array([f"p{i // 3:05d}" for i in range(6000)], dtype=object)
LABELS = (np.arange(6000) // 3 % 10 == 0).astype(float)


def parts_per_patient(patients: np.ndarray, split: np.ndarray) -> int:
    return max(len(set(split[patients == name])) for name in set(patients))


def test_assign_is_the_same_on_every_machine() -> None:
    # Written out: a change here moves every patient of every data set.
    assigned = splits.assign(["a", "b", "c", "d", "e", "f", "g"], seed=0)
    assert assigned.tolist() == ["train", "train", "val", "test", "val", "test", "val"]


def test_assign_gives_the_fractions_and_keeps_patients_whole() -> None:
    assigned = splits.assign(MANY, seed=0)
    shares = [float(np.mean(assigned == name)) for name in ("train", "val", "test")]
    assert np.allclose(shares, [0.7, 0.1, 0.2], atol=0.03)
    assert parts_per_patient(MANY[:600], assigned[:600]) == 1


def test_assign_is_stable_when_rows_vanish_or_change_places() -> None:
    assigned = dict(zip(MANY, splits.assign(MANY, seed=0), strict=True))
    some = np.random.default_rng(0).permutation(MANY)[:100]
    again = splits.assign(some, seed=0)
    assert [assigned[name] for name in some] == again.tolist()


def test_assign_depends_on_the_seed() -> None:
    assert (splits.assign(MANY, seed=0) != splits.assign(MANY, seed=1)).mean() > 0.2


def test_an_eighth_of_the_training_patients_goes_to_val_and_at_least_one_of_several() -> None:
    split = np.where(np.arange(len(MANY)) < 3000, "train", "test").astype(object)
    drawn = splits.val_from_train(split, MANY, seed=0)
    assert (drawn[3000:] == "test").all()
    assert np.mean(drawn[:3000] == "val") == pytest.approx(0.125, abs=0.02)
    for seed in range(20):
        few = splits.val_from_train(
            np.array(["train", "train", "train", "test"], dtype=object), list("abcd"), seed=seed
        )
        assert few[3] == "test"
        assert set(few[:3]) == {"train", "val"}
    alone = splits.val_from_train(np.array(["train", "test"], dtype=object), ["a", "b"], seed=1)
    assert alone.tolist() in (["train", "test"], ["val", "test"])


def test_fractions_that_leave_out_a_split_leave_it_empty() -> None:
    assert set(splits.assign(MANY, seed=0, fractions=(0.8, 0.2, 0.0))) == {"train", "val"}
    assert set(splits.assign(MANY, seed=0, fractions=(1.0, 0.0, 0.0))) == {"train"}
    assert set(splits.assign(MANY, seed=0, fractions=(0.0, 0.0, 1.0))) == {"test"}
    with pytest.raises(EvalfmError, match="add up to 1"):
        splits.assign(MANY, seed=0, fractions=(0.7, 0.1, 0.1))


def test_a_missing_patient_is_refused() -> None:
    with pytest.raises(EvalfmError, match="no patient"):
        splits.assign(np.array(["a", None], dtype=object), seed=0)


def test_stratified_keeps_the_share_of_positives() -> None:
    patients = np.array([f"p{i}" for i in range(621)], dtype=object)
    labels = np.zeros(621)
    labels[:44] = 1
    assigned = splits.stratified(patients, labels, seed=3)
    positives = [int(labels[assigned == name].sum()) for name in ("train", "val", "test")]
    assert positives == [31, 4, 9]
    assert np.bincount(labels[assigned == "val"].astype(int)).tolist() == [58, 4]


def test_stratified_counts_a_patient_by_the_highest_label_and_keeps_them_whole() -> None:
    patients = np.repeat([f"p{i}" for i in range(100)], 2).astype(object)
    labels = np.zeros(200)
    labels[1:20:2] = 1  # the second image of ten patients, the first of ten others
    labels[20:40:2] = 1
    labels[100:120] = np.nan
    assigned = splits.stratified(patients, labels, seed=0)
    assert parts_per_patient(patients, assigned) == 1
    positive = np.unique(patients[labels == 1])
    assert [
        len(np.unique(patients[(assigned == name) & np.isin(patients, positive)])) for name in ("train", "val")
    ] == [
        14,
        2,
    ]


def test_test_where_makes_test_exactly_those_patients() -> None:
    mask = np.zeros(len(MANY), dtype=bool)
    mask[[0, 30, 31]] = True
    assigned = splits.test_where(MANY, mask, seed=0)
    assert np.flatnonzero(assigned == "test").tolist() == [0, 1, 2, 30, 31, 32]
    assert np.isclose(np.mean(assigned == "val"), 0.125, atol=0.02)
    for wrong in (np.zeros(len(MANY), dtype=bool), np.ones(len(MANY), dtype=bool)):
        with pytest.raises(EvalfmError, match="divides the patients"):
            splits.test_where(MANY, wrong, seed=0)


def test_val_from_train_touches_no_test_patient() -> None:
    split = np.where(np.arange(6000) < 4500, "train", "test").astype(object)
    assigned = splits.val_from_train(split, MANY, seed=0)
    assert (assigned[4500:] == "test").all()
    assert np.isclose(np.mean(assigned[:4500] == "val"), 0.125, atol=0.03)
    assert parts_per_patient(MANY[:600], assigned[:600]) == 1


def test_folds_are_by_patient_of_equal_size_and_stratified() -> None:
    fold_of = splits.folds(MANY, 5, 0, LABELS)
    assert np.bincount(fold_of).tolist() == [1200] * 5
    assert np.bincount(fold_of[LABELS == 1]).tolist() == [120] * 5
    assert parts_per_patient(MANY[:600], fold_of[:600]) == 1
    assert (fold_of != splits.folds(MANY, 5, 1, LABELS)).any()
    shuffled = np.random.default_rng(0).permutation(6000)
    again = splits.folds(MANY[shuffled], 5, 0, LABELS[shuffled])
    assert again.tolist() == fold_of[shuffled].tolist()


def test_folds_stay_of_equal_size_over_many_small_classes() -> None:
    patients = [str(i) for i in range(28)]
    fold_of = splits.folds(patients, 5, 0, np.arange(28) % 4)
    assert sorted(np.bincount(fold_of).tolist()) == [5, 5, 6, 6, 6]


def test_val_is_drawn_anew_for_every_fold() -> None:
    fold_of = splits.folds(MANY, 5, 0)
    first, second = (splits.fold_split(fold_of, fold, MANY, 0) == "val" for fold in (0, 1))
    # By chance an eighth of what both could have: 250 patients of 2000, three quarters of them shared.
    assert (first & second).sum() / first.sum() < 0.3


def test_folds_that_cannot_be_are_refused() -> None:
    few = np.array(["a", "b", "c", "d"], dtype=object)
    with pytest.raises(EvalfmError, match="take fewer folds"):
        splits.folds(few, 5, 0)
    with pytest.raises(EvalfmError, match="Class 1 has 1 patients, fewer than 2"):
        splits.folds(few, 2, 0, [1, 0, 0, 0])
    with pytest.raises(EvalfmError, match="at least 2"):
        splits.folds(few, 1, 0)


def test_every_patient_is_test_once_over_the_folds() -> None:
    fold_of = splits.folds(MANY, 4, 0, LABELS)
    tested = np.zeros(len(MANY), dtype=int)
    for fold in range(4):
        split = splits.fold_split(fold_of, fold, MANY, 0, LABELS)
        tested += split == "test"
        assert ((split == "test") == (fold_of == fold)).all()
        assert parts_per_patient(MANY[:600], split[:600]) == 1
        training = split != "test"
        assert np.isclose(np.mean(split[training] == "val"), 0.125, atol=0.01)
        assert np.isclose(LABELS[split == "val"].mean(), 0.1, atol=0.02)
    assert (tested == 1).all()


def test_fold_split_gives_val_a_rare_class_and_refuses_split_patients() -> None:
    patients = np.array([f"p{i}" for i in range(40)], dtype=object)
    labels = np.zeros(40)
    labels[:6] = 1
    fold_of = splits.folds(patients, 2, 0, labels)
    split = splits.fold_split(fold_of, 0, patients, 0, labels)
    assert labels[split == "val"].sum() == 1
    assert labels[split == "train"].sum() == 2
    with pytest.raises(EvalfmError, match="two folds"):
        splits.fold_split(np.array([0, 1]), 0, np.array(["a", "a"], dtype=object), 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 30), min_size=60, max_size=80))
def test_shots_are_nested_and_exact(seed: int, owners: list[int]) -> None:
    patients = np.array([f"p{owner}" for owner in owners], dtype=object)
    labels = np.arange(len(owners)) % 3.0
    labels[:5] = np.nan
    earlier: set[int] = set()
    for k in (1, 2, 4, 8, 16):
        chosen = splits.nested_shots(labels, patients, k, seed)
        assert np.bincount(labels[chosen].astype(int)).tolist() == [k, k, k]
        assert earlier <= set(chosen.tolist())
        earlier = set(chosen.tolist())


def test_shots_take_each_patient_once_while_there_are_others() -> None:
    # Ten patients with both classes and ten images each.
    patients = np.repeat([f"p{i}" for i in range(10)], 10).astype(object)
    labels = np.tile([0, 1], 50)
    five = splits.nested_shots(labels, patients, 5, 0)
    assert len(set(patients[five])) == 10
    eight = splits.nested_shots(labels, patients, 8, 0)
    assert len(eight) == len(set(eight)) == 16
    assert set(five) <= set(eight)


def test_shots_depend_on_the_seed_and_not_on_other_rows() -> None:
    labels = np.tile([0.0, 1.0], 3000)
    patients = np.array([f"p{i}" for i in range(6000)], dtype=object)
    chosen = splits.nested_shots(labels, patients, 4, 0)
    assert set(chosen) != set(splits.nested_shots(labels, patients, 4, 1))
    order = np.random.default_rng(0).permutation(6000)
    again = splits.nested_shots(labels[order], patients[order], 4, 0)
    assert set(patients[order][again]) == set(patients[chosen])


def test_too_many_shots_name_the_class() -> None:
    with pytest.raises(EvalfmError, match="3 shots of class 1 are needed, but it has 2 images"):
        splits.nested_shots([0, 0, 0, 1, 1, np.nan], ["a", "b", "c", "d", "e", "f"], 3, 0)
    with pytest.raises(EvalfmError, match="known label"):
        splits.nested_shots([np.nan], ["a"], 1, 0)


def test_label_fractions_are_nested_by_patient() -> None:
    earlier: set[int] = set()
    for fraction in (0.01, 0.1, 0.5, 1.0):
        rows = splits.label_fraction(MANY, fraction, 0)
        assert len(rows) == round(6000 * fraction)
        assert earlier <= set(rows.tolist())
        earlier = set(rows.tolist())
    # .07 × 100 is 7.000000000000001 in floating point.
    assert len(splits.label_fraction([str(i) for i in range(100)], 0.07, 0)) == 7
    # A fraction that is no whole number of patients is rounded up, so that a small one leaves a patient to learn from.
    assert [len(splits.label_fraction([str(i) for i in range(10)], share, 0)) for share in (0.01, 0.25, 0.91)] == [
        1,
        3,
        10,
    ]
    rows = splits.label_fraction(MANY, 0.1, 0, LABELS)
    assert LABELS[rows].sum() == 60
    for wrong in (0, 1.5, -0.1):
        with pytest.raises(EvalfmError, match="above 0"):
            splits.label_fraction(MANY, wrong, 0)


def test_id_lists_go_out_and_come_back(tmp_path: Path) -> None:
    ids = np.array(["001", "002", "010.5", "011"], dtype=object)
    split = np.array(["train", "val", "test", "train"], dtype=object)
    files = splits.export_ids(ids, split, tmp_path)
    assert [file.name for file in files] == ["train.txt", "val.txt", "test.txt"]
    assert files[0].read_text() == "001\n011\n"
    assert splits.import_ids(ids, files).tolist() == split.tolist()


def test_official_lists_name_files_and_more_than_is_there(tmp_path: Path) -> None:
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n\n")
    (tmp_path / "test_list.txt").write_text("00000003_000.png\r\n00000004_000.png\r\n")
    lists = [tmp_path / "train_val_list.txt", tmp_path / "test_list.txt"]
    for ids in (["00000003_000", "00000001_000"], ["00000003_000.png", "00000001_000.png"]):
        assert splits.import_ids(ids, lists).tolist() == ["test", "train"]
    (tmp_path / "test_list.txt").write_text("00000001_000.jpg\n")
    with pytest.raises(EvalfmError, match="in none of the lists"):
        splits.import_ids(["00000001_000"], lists)
    assert splits.import_ids(["00000001_000.png"], lists).tolist() == ["train"]


def test_id_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "test.txt").write_text("b\nc\n")
    (tmp_path / "mine.txt").write_text("a\n")
    with pytest.raises(EvalfmError, match="b is in the lists of train and test"):
        splits.import_ids(["a"], [tmp_path / "train.txt", tmp_path / "test.txt"])
    with pytest.raises(EvalfmError, match="1 of 2 ids are in none of the lists, such as z"):
        splits.import_ids(["a", "z"], [tmp_path / "train.txt"])
    with pytest.raises(EvalfmError, match="begin with train, val or test"):
        splits.import_ids(["a"], [tmp_path / "mine.txt"])
    with pytest.raises(EvalfmError, match=r"no file .*train_absent\.txt"):
        splits.import_ids(["a"], [tmp_path / "train_absent.txt"])
