"""Test predictions of heads fitted again on resampled training patients, which lie beside those of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from evalfm.predictions import Unfit, check_columns, chosen_columns, need, numbers, read_flat, whole_file
from evalfm.record import DataSection
from evalfm.tasks.kinds import kind_of
from evalfm.tasks.kinds.kind import Column

REFITS = "refits.parquet"
REFIT = "refit"
"""Column with the number of the draw."""


def read_refits(
    folder: Path, kind: str, data: DataSection, draws: list[int], tested: pd.DataFrame
) -> dict[int, pd.DataFrame]:
    """By the number of the draw, the run's test rows as the head of that refit answers them.

    Args:
        folder: of the run.
        kind: of its task.
        data: what its record says of the data.
        draws: likewise, the numbers of the draws.
        tested: the run's own test rows; what is true of an image, its patient and fold are taken from these.

    Raises:
        EvalfmError: there is no such table, or it has other rows, columns or values than the record says.
    """
    of_kind, names = kind_of(kind), data.class_names
    scores = [*of_kind.score.of(names), *([Column("threshold")] if of_kind.one_label else [])]
    # Of several labels one may have had a single class among the drawn rows.
    scores = [Column(each.name, low=each.low, high=each.high, partly=of_kind.several_labels) for each in scores]
    with whole_file(folder / REFITS) as path:
        table = read_flat(path, most=len(draws) * len(tested))
        need(table, ["id", REFIT])
        check_columns(table, [Column(REFIT, low=0, high=1 << 15), *scores], chosen_columns(names))
        number = numbers(table[REFIT])
        if sorted(set(number.tolist())) != sorted(map(float, draws)):
            raise Unfit("its refits are not those that the record counts")
        place = pd.Index(tested["id"]).get_indexer(table["id"])
        rows = number * len(tested) + place
        if (place < 0).any() or len(np.unique(rows)) < len(rows) or len(rows) < len(draws) * len(tested):
            raise Unfit("a refit does not answer each of the run's test images once")
    answers = {*(each.name for each in (*scores, *chosen_columns(names))), "threshold"}
    answered = [name for name in table if name in answers]
    known = tested[[name for name in tested if name not in answers]].reset_index(drop=True)
    found = {}
    for draw in draws:
        mine = np.flatnonzero(number == draw)
        order = mine[np.argsort(place[mine], kind="stable")]
        own = table[answered].iloc[order].astype(np.float64).reset_index(drop=True)
        found[draw] = pd.concat([known, own], axis=1)
    return found
