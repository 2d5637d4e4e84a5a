"""Few-shot episodes: the images to learn from (support) and to classify (queries), by a seed, patients apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.splits import SPLIT
from evalfm.errors import EvalfmError

SUPPORT, QUERY = "train", "test"
"""The splits that support and queries come from."""


@dataclass(frozen=True)
class Episodes:
    """Positions of the images of E episodes of C classes.

    Attributes:
        support: [E, C, n] in the order of the draw: the first k of them are the support of k shots.
        query: [E, C, q], the same for every number of shots.
    """

    support: NDArray[np.intp]
    query: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.support)

    @property
    def used(self) -> NDArray[np.intp]:
        """Positions that stand in any episode, ascending, each once."""
        return np.unique(np.concatenate([self.support.ravel(), self.query.ravel()]))


def draw_episodes(
    labels: NDArray[np.intp],
    patients: NDArray[np.object_],
    ids: Sequence[str],
    class_names: Sequence[str],
    *,
    shots: int,
    queries: int,
    episodes: int,
    seed: int,
    split: NDArray[np.object_] | None = None,
) -> Episodes:
    """Draw ``episodes`` times ``shots`` images of each class to learn from and ``queries`` of each to classify.

    Support comes from train and queries from test, so that no patient is in both; without a ``split`` the queries
    are drawn from all images, then the support from images of other patients. In each a patient gives a second
    image only when the class has no new patient. An episode depends on ``seed``, its own number and the images alone:
    not on their order, on the set's name, on the machine, on how many episodes or how many shots are drawn.

    Args:
        labels: [N] class of each image, 0 … C − 1.
        patients: [N]; those who share an image are one (see ``assign_splits.split_units``).
        ids: [N], each once.
        class_names: [C], for errors.
        shots, queries: images per class.
        split: [N] ``train``, ``val`` or ``test`` of each image, or None.

    Raises:
        EvalfmError: a class has fewer images than needed; all such classes are named.

    >>> labels, patients = np.array([0, 0, 1, 1]), np.array(list("abcd"), dtype=object)
    >>> drawn = draw_episodes(labels, patients, list("wxyz"), ["no", "yes"], shots=1, queries=1, episodes=3, seed=0)
    >>> drawn.support.shape, drawn.query.shape
    ((3, 2, 1), (3, 2, 1))
    """
    order = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    codes = pd.factorize(patients[order])[0].astype(np.intp)
    pool = _Pool(labels[order], codes, len(class_names))
    asking, learning = (np.ones(len(order), dtype=bool),) * 2
    if split is not None:
        asking, learning = split[order] == QUERY, split[order] == SUPPORT
    _check(pool, asking, learning, class_names, shots, queries, split is not None)
    support = np.empty((episodes, len(class_names), shots), dtype=np.intp)
    query = np.empty((episodes, len(class_names), queries), dtype=np.intp)
    for episode in range(episodes):
        generator = _generator(seed, episode)
        query_rows = pool.draw(asking, queries, generator)
        allowed = learning if split is not None else ~np.isin(codes, codes[query_rows])
        if split is None:
            _check_rest(pool, allowed, class_names, shots, queries, episode)
        query[episode], support[episode] = order[query_rows], order[pool.draw(allowed, shots, generator)]
    return Episodes(support, query)


def _generator(seed: int, episode: int) -> np.random.PCG64:
    """Raw numbers that are the same in every version of numpy, which its distributions need not be."""
    digest = hashlib.sha256(f"episode\x1f{SPLIT}\x1f{seed}\x1f{episode}".encode()).digest()
    return np.random.PCG64(int.from_bytes(digest, "big"))


@dataclass(frozen=True)
class _Pool:
    """Images with their class and patient, in an order that the table does not decide."""

    labels: NDArray[np.intp]
    patients: NDArray[np.intp]
    classes: int

    def count(self, allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
        """How many of the ``allowed`` images each class has, [C]."""
        return np.bincount(self.labels[allowed], minlength=self.classes).astype(np.intp)

    def draw(self, allowed: NDArray[np.bool_], number: int, generator: np.random.PCG64) -> NDArray[np.intp]:
        """``number`` of the ``allowed`` images of each class, [C, number]; each class has enough.

        Round by round over the classes, so that the draw of a smaller number is the start of this one.
        """
        keys = generator.random_raw(len(self.labels))
        queues: list[Iterator[int]] = []
        for code in range(self.classes):
            members = np.flatnonzero(allowed & (self.labels == code))
            queues.append(iter(members[np.argsort(keys[members], kind="stable")].tolist()))
        drawn = np.empty((self.classes, number), dtype=np.intp)
        put_off: list[list[int]] = [[] for _ in queues]
        used: set[int] = set()
        for turn in range(number):
            for code, queue in enumerate(queues):
                row = self._of_new_patient(queue, used, put_off[code])
                drawn[code, turn] = put_off[code].pop(0) if row is None else row
                used.add(int(self.patients[drawn[code, turn]]))
        return drawn

    def _of_new_patient(self, queue: Iterator[int], used: set[int], put_off: list[int]) -> int | None:
        for row in queue:
            if int(self.patients[row]) not in used:
                return row
            put_off.append(row)
        return None


def _check(
    pool: _Pool,
    asking: NDArray[np.bool_],
    learning: NDArray[np.bool_],
    class_names: Sequence[str],
    shots: int,
    queries: int,
    has_split: bool,
) -> None:
    if has_split:
        wanted = [(f"{shots} shots", SUPPORT, shots, learning), (f"{queries} queries", QUERY, queries, asking)]
    else:
        wanted = [(f"{shots} shots and {queries} queries", "the data set", shots + queries, asking)]
    faults = [
        f"{what} of class {class_names[code]} are needed, but {where} has {count} images of it"
        for what, where, number, allowed in wanted
        for code, count in enumerate(pool.count(allowed).tolist())
        if count < number
    ]
    if faults:
        raise EvalfmError(f"{'; '.join(faults)}. Take fewer with --shots or --queries, or more data.")


def _check_rest(
    pool: _Pool, allowed: NDArray[np.bool_], class_names: Sequence[str], shots: int, queries: int, episode: int
) -> None:
    for code, count in enumerate(pool.count(allowed).tolist()):
        if count < shots:
            raise EvalfmError(
                f"In episode {episode + 1} class {class_names[code]} has {count} images of patients who are not among "
                f"the {queries} queries a class, fewer than {shots} shots; take fewer shots or queries, or make a "
                "split with `evalfm data split`."
            )
