"""Who is in train, val and test: assigned by hashes of patients, so that the order of rows does not matter.

What every function here calls a patient may be several, who share an image (see ``assign_splits.split_units``).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from evalfm.data.atomic import write_atomically
from evalfm.data.columns import SPLITS
from evalfm.errors import EvalfmError
from evalfm.paths import input_file

Names = Sequence[str] | NDArray[np.object_]
Fractions = tuple[float, float, float]

DEFAULT_FRACTIONS: Fractions = (0.7, 0.1, 0.2)
VAL_OF_TRAINING = 0.125
SPLIT = "phantom"
"""What hashes of train, val and test begin with, whatever the set is called; the built-in one keeps its split."""
_UNKNOWN_CLASS = -1
_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|tiff?|dcm|bmp)$", re.IGNORECASE)


def assign(patients: Names, *, seed: int, fractions: Fractions = DEFAULT_FRACTIONS) -> NDArray[np.object_]:
    """Assign each patient to ``train``, ``val`` or ``test`` by hash(patient, seed); [N] str.

    A patient's split depends on nothing but that: when rows vanish or come, no other row moves.

    >>> assign(["p1", "p1", "p2", "p3"], seed=1).tolist()
    ['train', 'train', 'val', 'test']
    """
    _check_fractions(fractions)
    codes, unique = _patients(patients)
    assigned = _by_fractions(_uniform(unique, SPLIT, seed), fractions)
    return assigned[codes]


def stratified(
    patients: Names, labels: ArrayLike, *, seed: int, fractions: Fractions = DEFAULT_FRACTIONS
) -> NDArray[np.object_]:
    """Split patients so that each class has its share in every split; [N] str.

    Within each class the patients are divided in the order of their hash. A patient has the highest class of
    their images, patients without a known label are a class of their own. Patients may move when rows vanish.

    Args:
        patients: [N].
        labels: [N] class of each image, NaN or None where unknown.
        seed: of the hash.
        fractions: of train, val and test.

    >>> patients = [f"p{number}" for number in range(20)]
    >>> split = stratified(patients, [0, 1] * 10, seed=0, fractions=(0.6, 0.2, 0.2))
    >>> [int((split[1::2] == name).sum()) for name in SPLITS]
    [6, 2, 2]
    """
    _check_fractions(fractions)
    codes, unique = _patients(patients)
    assigned = np.empty(len(unique), dtype=object)
    for ordered in _strata(codes, _uniform(unique, SPLIT, seed), labels):
        places = (np.arange(len(ordered)) + 0.5) / len(ordered)
        assigned[ordered] = _by_fractions(places, fractions)
    return assigned[codes]


def test_where(
    patients: Names,
    mask: NDArray[np.bool_],
    *,
    seed: int,
) -> NDArray[np.object_]:
    """Make test exactly the patients with a row in ``mask``; all others go to train and val; [N] str.

    All rows of such a patient go to test, also those outside of ``mask``. The others are assigned by hash,
    .875 to train and .125 to val.

    Raises:
        EvalfmError: the mask names no patient, or all of them.

    >>> test_where(["p1", "p1", "p2", "p3"], np.array([True, False, False, False]), seed=0).tolist()
    ['test', 'test', 'train', 'train']
    """
    codes, unique = _patients(patients)
    chosen = np.zeros(len(unique), dtype=bool)
    chosen[codes[np.asarray(mask, dtype=bool)]] = True
    if not chosen.any() or chosen.all():
        which = "every patient" if chosen.any() else "no patient"
        raise EvalfmError(f"The expression for the test split holds for {which}; write one that divides the patients.")
    assigned = _by_fractions(_uniform(unique, SPLIT, seed), (1 - VAL_OF_TRAINING, VAL_OF_TRAINING, 0.0))
    assigned[chosen] = "test"
    return assigned[codes]


def val_from_train(
    split: NDArray[np.object_], patients: Names, *, seed: int, fraction: float = VAL_OF_TRAINING
) -> NDArray[np.object_]:
    """Move ``fraction`` of the training patients to val by hash, at least one of several; [N] str.

    >>> split = np.array(["train", "train", "train", "test"], dtype=object)
    >>> val_from_train(split, ["p1", "p1", "p2", "p3"], seed=0).tolist()
    ['val', 'val', 'train', 'test']
    """
    codes, unique = _patients(patients)
    places = _uniform(unique, SPLIT, seed, "val")[codes]
    training = np.sort(np.unique(places[split == "train"]))
    if len(training) > 1:
        fraction = max(fraction, float(training[1]) if training[0] >= fraction else fraction)
    to_val = places < fraction
    return np.where(to_val & (split == "train"), "val", split).astype(object)


def folds(patients: Names, k: int, seed: int, labels: ArrayLike | None = None) -> NDArray[np.intp]:
    """Assign patients to ``k`` folds of equal size; [N] int from 0 to k − 1.

    With ``labels`` [N] each fold gets its share of each class of patients (see `stratified`).

    Raises:
        EvalfmError: ``k`` is below 2, or a class has fewer patients than there are folds.

    >>> folds(["p1", "p1", "p2", "p3", "p4"], 2, seed=0).tolist()
    [0, 0, 1, 0, 1]
    """
    codes, unique = _patients(patients)
    if k < 2:
        raise EvalfmError(f"There must be at least 2 folds, not {k}.")
    if len(unique) < k:
        raise EvalfmError(f"{k} folds need {k} patients, there are {len(unique)}; take fewer folds.")
    assigned = np.empty(len(unique), dtype=np.intp)
    assigned_so_far = 0
    for ordered in _strata(codes, _uniform(unique, "folds", seed), labels, at_least=k):
        # Counting on from class to class keeps the folds of equal size as a whole.
        assigned[ordered] = (np.arange(len(ordered)) + assigned_so_far) % k
        assigned_so_far += len(ordered)
    return assigned[codes]


def fold_split(
    fold_of: NDArray[np.intp],
    fold: int,
    patients: Names,
    seed: int,
    labels: ArrayLike | None = None,
    *,
    val_fraction: float = VAL_OF_TRAINING,
) -> NDArray[np.object_]:
    """The split in which ``fold`` is test, and val is drawn by patient from the others; [N] str.

    With ``labels`` val gets its share of each class, at least one patient of every class that has two.

    >>> patients = ["p1", "p1", "p2", "p3", "p4"]
    >>> fold_split(folds(patients, 2, seed=0), 1, patients, seed=0).tolist()
    ['val', 'val', 'test', 'train', 'test']
    """
    codes, unique = _patients(patients)
    fold_of_patient = np.empty(len(unique), dtype=np.intp)
    fold_of_patient[codes] = fold_of
    if (fold_of_patient[codes] != fold_of).any():
        raise EvalfmError("A patient is in two folds; make the folds by patient.")
    assigned = np.full(len(unique), "train", dtype=object)
    assigned[fold_of_patient == fold] = "test"
    for ordered in _strata(codes, _uniform(unique, f"fold {fold}", seed), labels):
        training = ordered[assigned[ordered] == "train"]
        number = round(val_fraction * len(training))
        assigned[training[: max(number, 1) if len(training) > 1 else 0]] = "val"
    return assigned[codes]


def nested_shots(labels: ArrayLike, patients: Names, k: int, seed: int, *, fewer: bool = False) -> NDArray[np.intp]:
    """Positions of ``k`` images of each class, ascending; a choice holds that of every smaller ``k``.

    Images of unknown label are left out. A patient gives a second image only when the class has no new
    patient.

    Args:
        labels: [N] class of each image, NaN or None where unknown.
        patients: [N].
        k: images per class.
        seed: of the hash.
        fewer: a class with fewer than ``k`` images gives all that it has.

    Raises:
        EvalfmError: a class has fewer than ``k`` images.

    >>> nested_shots([0, 0, 1, 1], ["p1", "p2", "p3", "p4"], 1, seed=0).tolist()
    [0, 2]
    """
    if k < 1:
        raise EvalfmError(f"There must be at least 1 shot per class, not {k}.")
    classes, names = _classes(labels)
    patient_codes, unique = _patients(patients)
    order_by = _uniform(unique, "shots", seed)[patient_codes]
    queues: list[list[int]] = []
    for code, label in enumerate(names):
        members = np.flatnonzero(classes == code)
        if len(members) < k and not fewer:
            raise EvalfmError(f"{k} shots of class {label} are needed, but it has {len(members)} images; take fewer.")
        nth_image = pd.Series(patient_codes[members]).groupby(patient_codes[members]).cumcount().to_numpy()
        queues.append(members[np.lexsort((order_by[members], nth_image))].tolist())
    if not queues:
        raise EvalfmError("No image has a known label; shots need labelled images.")
    return np.sort(np.array([row for rows in draw_rounds(queues, patient_codes, k) for row in rows], dtype=np.intp))


def draw_rounds(queues: Sequence[Sequence[int]], patients: NDArray[np.intp], number: int) -> list[list[int]]:
    """``number`` rows of each queue, or all it has; a patient gives a second row only where a queue has no new one.

    Round by round over the queues: a round depends on earlier rounds only, so that the draw of a smaller number is the
    start of this one.

    >>> draw_rounds([[0, 1, 2], [3]], np.array([0, 0, 1, 2]), 2)
    [[0, 2], [3]]
    """
    fresh = [iter(queue) for queue in queues]
    # A list would be moved as a whole for every row that is taken from its front.
    put_off: list[deque[int]] = [deque() for _ in queues]
    used: set[int] = set()
    drawn: list[list[int]] = [[] for _ in queues]
    for turn in range(number):
        for code in (code for code, queue in enumerate(queues) if turn < len(queue)):
            row = _next_unused(fresh[code], patients, used, put_off[code])
            if row is None:
                row = put_off[code].popleft()
            used.add(int(patients[row]))
            drawn[code].append(row)
    return drawn


def label_fraction(patients: Names, fraction: float, seed: int, labels: ArrayLike | None = None) -> NDArray[np.intp]:
    """Positions of all images of ``fraction`` of the patients, ascending; a larger one holds a smaller.

    With ``labels`` [N] the fraction is taken of each class of patients; each class gives at least one.

    Raises:
        EvalfmError: ``fraction`` is not in (0, 1].

    >>> label_fraction(["p1", "p1", "p2", "p3"], 0.5, seed=0).tolist()
    [0, 1, 3]
    """
    if not 0 < fraction <= 1:
        raise EvalfmError(f"A fraction of the labels lies above 0 and up to 1, not at {fraction}.")
    codes, unique = _patients(patients)
    kept = np.zeros(len(unique), dtype=bool)
    for ordered in _strata(codes, _uniform(unique, "fraction", seed), labels):
        # 1e-9: .1 of 30 patients is 3, not 4.
        kept[ordered[: math.ceil(fraction * len(ordered) - 1e-9)]] = True
    return np.flatnonzero(kept[codes])


def export_ids(ids: Names, split: Names, folder: Path) -> list[Path]:
    """Write ``train.txt``, ``val.txt`` and ``test.txt`` into ``folder``, one id a line, in row order.

    >>> [path.name for path in export_ids(["a", "b"], ["train", "test"], Path("lists"))]
    ['train.txt', 'val.txt', 'test.txt']
    """
    names, split_of_row = np.asarray(ids, dtype=object), np.asarray(split, dtype=object)
    written = []
    for split_name in SPLITS:
        lines = "".join(f"{name}\n" for name in names[split_of_row == split_name])
        write_atomically(folder / f"{split_name}.txt", lines.encode())
        written.append(folder / f"{split_name}.txt")
    return written


def import_ids(ids: Names, lists: Sequence[Path]) -> NDArray[np.object_]:
    """Read the split of each row from lists of ids, [N] str; ``train_val…`` counts as train.

    A list says by its file name which split it is (``train.txt``, ``test_list.txt``, …). A line is an id or
    the name of its file, such as ``00000001_000.png``; lists may name images that are not there.

    Raises:
        EvalfmError: a file name names no split, an id is in two lists, or a row is in none.

    >>> lists = export_ids(["a", "b"], ["train", "test"], Path("lists"))
    >>> import_ids(["b", "a"], lists).tolist()
    ['test', 'train']
    """
    split_of: dict[str, str] = {}
    split_of_stem: dict[str, str | None] = {}
    for path in lists:
        split_name = _split_of_list(path)
        for name in _lines(path):
            if split_of.setdefault(name, split_name) != split_name:
                raise EvalfmError(f"{name} is in the lists of {split_of[name]} and {split_name}; keep it in one.")
            # Two files that differ in their suffix only, in two lists: the stem alone is ambiguous.
            if split_of_stem.setdefault(_stem(name), split_name) != split_name:
                split_of_stem[_stem(name)] = None
    values = np.asarray(ids, dtype=object)
    known = [split_of.get(str(name)) or split_of_stem.get(_stem(str(name))) for name in values]
    absent = [str(name) for name, split_name in zip(values, known, strict=True) if split_name is None]
    if absent:
        raise EvalfmError(
            f"{len(absent)} of {len(values)} ids are in none of the lists, such as {', '.join(absent[:3])}; "
            "complete the lists or drop these rows."
        )
    split = np.empty(len(values), dtype=object)
    split[:] = known
    return split


def _split_of_list(path: Path) -> str:
    for start, split_name in (("train", "train"), ("val", "val"), ("test", "test")):
        if path.name.lower().startswith(start):
            return split_name
    raise EvalfmError(f"{path.name} does not say which split it lists; let its name begin with train, val or test.")


def _lines(path: Path) -> list[str]:
    try:
        lines = input_file(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvalfmError(f"The list {path} cannot be read ({error}); check the path.") from None
    return [line.strip() for line in lines if line.strip()]


def _stem(name: str) -> str:
    return _IMAGE_SUFFIX.sub("", name)


def _next_unused(
    queue: Iterator[int], patient_codes: NDArray[np.intp], used: set[int], put_off: deque[int]
) -> int | None:
    """The next image of a patient who gave none yet; images of the others are put off."""
    for row in queue:
        if int(patient_codes[row]) not in used:
            return row
        put_off.append(row)
    return None


def _check_fractions(fractions: Fractions) -> None:
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise EvalfmError(f"The fractions of train, val and test must be at least 0 and add up to 1, not {fractions}.")


def _patients(patients: Names) -> tuple[NDArray[np.intp], list[str]]:
    """Code of each row's patient [N], and the patients [P]."""
    values = np.asarray(patients, dtype=object)
    codes, unique = pd.factorize(values)
    if (codes < 0).any():
        raise EvalfmError("A row has no patient; fill the column in for all rows or remove it.")
    return codes.astype(np.intp), [str(name) for name in unique]


def _uniform(patients: Sequence[str], name: str, seed: int, purpose: str = "split") -> NDArray[np.float64]:
    """A number in [0, 1) per patient from sha256, the same on every machine."""
    start = hashlib.sha256(f"{name}\x1f{seed}\x1f{purpose}\x1f".encode())
    numbers = np.empty(len(patients), dtype=np.uint64)
    for position, patient in enumerate(patients):
        state = start.copy()
        state.update(patient.encode())
        numbers[position] = int.from_bytes(state.digest()[:8], "big") >> 11
    return numbers.astype(np.float64) / 2.0**53


def _by_fractions(places: NDArray[np.float64], fractions: Fractions) -> NDArray[np.object_]:
    train, val, _ = fractions
    assigned = np.full(len(places), "test", dtype=object)
    # Fractions that add up to 1 leave nothing to the last share by rounding.
    assigned[places < (train + val if train + val < 1 - 1e-9 else 2.0)] = "val"
    assigned[places < (train if train < 1 - 1e-9 else 2.0)] = "train"
    return assigned


def _classes(labels: ArrayLike) -> tuple[NDArray[np.intp], list[str]]:
    """Code of each row's class [N], −1 where unknown, and the classes' names in order."""
    codes, unique = pd.factorize(pd.Series(np.asarray(labels)), sort=True)
    return codes.astype(np.intp), [f"{value:g}" if isinstance(value, float) else str(value) for value in unique]


def _strata(
    codes: NDArray[np.intp], order_by: NDArray[np.float64], labels: ArrayLike | None, *, at_least: int = 0
) -> list[NDArray[np.intp]]:
    """Patients per class in the order of ``order_by`` [P], as positions in it; a patient has the highest class."""
    ranked = np.argsort(order_by, kind="stable")
    if labels is None:
        return [ranked]
    classes, names = _classes(labels)
    if len(classes) != len(codes):
        raise ValueError(f"{len(classes)} labels for {len(codes)} rows")
    highest = np.full(len(order_by), _UNKNOWN_CLASS, dtype=np.intp)
    np.maximum.at(highest, codes, classes)
    strata = []
    for code in range(_UNKNOWN_CLASS, len(names)):
        members = ranked[highest[ranked] == code]
        if code != _UNKNOWN_CLASS and 0 < len(members) < at_least:
            raise EvalfmError(
                f"Class {names[code]} has {len(members)} patients, fewer than {at_least} folds; take fewer."
            )
        if len(members):
            strata.append(members)
    return strata
