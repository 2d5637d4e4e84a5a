"""Single images of a run: how wrong it was on each, and which image of the owner's data set each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.run import Run
from evalfm.tasks.kinds import kind_of

MISSED, FALSE_POSITIVE = "missed", "false positive"
ABSENT = ", not there"
"""Behind the name of a mask, of images without it."""
COLUMNS = ("id", "asked", "truth", "answer", "error", "failure")
Answers = Iterator[pd.DataFrame]


def image_errors(run: Run, label: str | None = None) -> pd.DataFrame:
    """Every test image and question of ``run``, the most wrong first.

    Columns: ``id`` as in the predictions; ``asked``, the label, class or mask; ``truth``; ``answer``; ``error``, larger
    is worse; ``failure``, what kind of fault it is, empty where it is none. The error of a yes-or-no question is how
    far the score lies beyond its threshold on the wrong side (negative on the right one); of classes what the best
    wrong one's score exceeds the true one's by; of a mask 1 − Dice where it is there and the predicted area where it is
    not, which are asked apart; of a value its absolute error.

    Raises:
        EvalfmError: the run has no predictions of single images, or no such label.

    >>> import evalfm, tempfile
    >>> (run,) = evalfm.probe("pixels", "ptx-cls", heads=["linear"], baselines="none", out=tempfile.mkdtemp())
    >>> list(image_errors(run).columns)
    ['id', 'asked', 'truth', 'answer', 'error', 'failure']
    """
    kind = kind_of(run.record.kind)
    if kind.target not in ANSWERS:
        raise EvalfmError(f"{run.folder} is of the kind {kind}, which has no answers on single images.")
    # A measurement is asked by the name of its task, whose masks may be called otherwise.
    names = (run.task,) if kind.measured else run.record.data.class_names
    if label is not None and label not in names:
        raise UnknownNameError(f"label of {run.task}", label, names)
    found = pd.concat(ANSWERS[kind.target](run, run.test_predictions()), ignore_index=True)
    wanted = found["error"].notna()
    if label is not None:
        wanted &= found["asked"].isin([label, f"{label}{ABSENT}"])
    found = found[wanted]
    return found[[*COLUMNS]].sort_values(["error", "id"], ascending=[False, True], ignore_index=True)


def located(manifest: Manifest, ids: Sequence[str]) -> pd.DataFrame:
    """Which rows of ``manifest`` the ``ids`` of a run are: columns ``id``, ``local_id`` and ``image``, its path.

    For the owner of the data alone: nothing of it is written into a run.

    Raises:
        EvalfmError: an id is none of this data set.

    >>> from evalfm.data.phantom import make_phantom
    >>> data = make_phantom("found", n=4, size=64)
    >>> located(data, [data.table["id"][2]])["local_id"].tolist() == [data.table["id"][2]]
    True
    """
    own = manifest.table["id"].astype(str)
    places = dict(zip(public_names(own, manifest.info), range(len(own)), strict=True))
    unknown = [name for name in ids if name not in places]
    if unknown:
        raise EvalfmError(
            f"{manifest.info.name} has no image with the id {unknown[0]}"
            f"{f' (nor {len(unknown) - 1} more)' if len(unknown) > 1 else ''}; name the data set that the run was "
            "tested on, with the salt that it had."
        )
    rows = [places[name] for name in ids]
    images = [str(Path(manifest.root) / each) for each in manifest.locators(rows)]
    return pd.DataFrame({"id": list(ids), "local_id": own.iloc[rows].to_numpy(), "image": images})


def _asked(
    test: pd.DataFrame, label: str, truth: NDArray[np.float64], score: NDArray[np.float64], threshold: str
) -> pd.DataFrame:
    limit = test[threshold].to_numpy(np.float64) if threshold in test else np.full(len(test), 0.5)
    beyond = np.where(truth == 1, limit - score, score - limit)
    wrong = (score >= limit) != (truth == 1)
    failure = np.where(wrong, np.where(truth == 1, MISSED, FALSE_POSITIVE), "")
    error = np.where(np.isnan(truth) | np.isnan(score), np.nan, beyond)
    return test[["id"]].assign(asked=label, truth=truth, answer=score, error=error, failure=failure)


def _labels(run: Run, test: pd.DataFrame) -> Answers:
    several = kind_of(run.record.kind).several_labels
    for label in run.record.data.class_names:
        truth, threshold = (f"target_{label}", f"threshold_{label}") if several else ("target", "threshold")
        yield _asked(test, label, _numbers(test, truth), _numbers(test, f"score_{label}"), threshold)


def _classes(run: Run, test: pd.DataFrame) -> Answers:
    names = np.array(run.record.data.class_names, dtype=object)
    scores = np.column_stack([_numbers(test, f"score_{name}") for name in names])
    truth: NDArray[Any] = _numbers(test, "target").astype(np.intp)
    rows = np.arange(len(test))
    others = scores.copy()
    others[rows, truth] = -np.inf
    answer: NDArray[Any] = scores.argmax(axis=1)
    failure = np.where(answer == truth, "", [f"taken for {name}" for name in names[answer]])
    error = others.max(axis=1) - scores[rows, truth]
    yield test[["id"]].assign(
        asked=names[truth], truth=names[truth], answer=names[answer], error=error, failure=failure
    )


def _masks(run: Run, test: pd.DataFrame) -> Answers:
    for label in run.record.data.class_names:
        truth, answer = _numbers(test, f"area_true_{label}"), _numbers(test, f"area_predicted_{label}")
        error = np.where(truth > 0, 1 - _numbers(test, f"dice_{label}"), answer)
        failure = np.where(
            (truth > 0) & (answer == 0), MISSED, np.where((truth == 0) & (answer > 0), FALSE_POSITIVE, "")
        )
        there = test[["id"]].assign(asked=label, truth=truth, answer=answer, error=error, failure=failure)
        yield there[truth > 0]
        yield there[truth == 0].assign(asked=f"{label}{ABSENT}")


def _values(run: Run, test: pd.DataFrame) -> Answers:
    truth, answer = _numbers(test, "target"), _numbers(test, "prediction")
    yield test[["id"]].assign(asked=run.task, truth=truth, answer=answer, error=np.abs(answer - truth), failure="")


def _numbers(test: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return test[name].to_numpy(np.float64)


ANSWERS: dict[str, Callable[[Run, pd.DataFrame], Answers]] = {
    "labels": _labels,
    "classes": _classes,
    "masks": _masks,
    "values": _values,
}
"""By the target of the task's kind."""
