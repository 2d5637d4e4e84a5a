"""What encoders' features are like without labels, on the same images: effective rank, alignment, neighbours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalfm.cards import validate
from evalfm.config import EncoderConfig
from evalfm.data.atomic import write_atomically
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.probing.cohort import load_manifest
from evalfm.probing.names import check_names
from evalfm.probing.session import open_session
from evalfm.progress import SILENT, Progress
from evalfm.publishing import check_writable
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.representation import NEIGHBOURS, jackknifed, linear_cka, rank_me, shared_neighbours
from evalfm.statistics.resampling import Values

FEATURES = "features.json"
IMAGES = 1000
"""By default; a Gram matrix is images × images."""


def feature_quality(
    encoders: Sequence[str],
    data: str | Path | Manifest | None = None,
    *,
    images: int = IMAGES,
    seed: int = 0,
    where: str | None = None,
    out: str | Path | None = None,
    progress: Progress = SILENT,
    times: StageTimes = NO_TIMES,
    **options: Any,
) -> dict[str, Any]:
    """RankMe of each encoder, and linear CKA and shared neighbours of each two, on images drawn by ``seed``.

    Args:
        encoders: names as ``probe`` takes them.
        data: a data set as ``probe`` takes it; None takes the phantom.
        images: at most so many, the same for all; whole patients are drawn.
        where: rows of the table, such as ``view == 'PA'``; None takes all.
        out: folder for ``features.json``; None writes nothing.
        times: where seconds per stage are added.
        options: fields of ``EncoderConfig``, the same for all.

    Returns:
        What ``features.json`` holds.

    Raises:
        EvalfmError: an encoder or the data cannot be read, or there are too few images.
    """
    names = list(dict.fromkeys(encoders))
    if not names:
        raise EvalfmError("Name at least one encoder with --encoder.")
    config = validate(EncoderConfig, options, "The call")
    check_names(names, data=[data])
    if images < 2 * NEIGHBOURS:
        raise EvalfmError(f"--images must be {2 * NEIGHBOURS} at least, not {images}.")
    if out is not None:
        check_writable(Path(out))
    manifest = load_manifest(data, "", progress)
    manifest.validate(deep=True, findings=(), progress=progress)
    manifest = manifest if where is None else manifest.select(manifest.where(where))
    rows = _drawn(manifest, images, seed)
    patient = manifest.patients[rows]
    unit = "patients" if manifest.patients_known else "images"
    features: dict[str, Values] = {}
    described = []
    for name in names:
        session = open_session(name, config, manifest, None, progress, frozenset(), times)
        with closing(session):
            values = session.source.features(rows.tolist()).pooled.numpy().astype(np.float64)
        if not np.isfinite(values).all():
            raise EvalfmError(f"{name} gives features that are no numbers on these images; see `evalfm doctor`.")
        features[session.name] = values
        described.append(
            {
                "encoder": session.name,
                "dimensions": int(values.shape[1]),
                "key": session.source.key,
                "random_weights": session.random_weights,
                "rank_me": _rank(values, patient, unit).to_json(),
            }
        )
    pairs = [
        _pair(one, other, features[one], features[other], patient, unit) for one, other in combinations(features, 2)
    ]
    content = {
        "schema": 1,
        "data": manifest.info.name,
        "synthetic": bool(manifest.info.synthetic),
        "images": len(rows),
        "patients": int(np.unique(patient.astype(str)).size),
        "unit": unit,
        "neighbours": NEIGHBOURS,
        "by_chance": NEIGHBOURS / (len(rows) - 1),
        "encoders": described,
        "pairs": pairs,
    }
    if out is not None:
        text = json.dumps(content, indent=1, allow_nan=False)
        write_atomically(Path(out) / FEATURES, f"{text}\n".encode())
    return content


def _rank(values: Values, patient: NDArray[np.object_], unit: str) -> Estimate:
    return jackknifed(lambda at: rank_me(values[at]), patient, unit=unit)


def _pair(
    one: str,
    other: str,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    patient: NDArray[np.object_],
    unit: str,
) -> dict[str, Any]:
    plain = linear_cka(first, second, unbiased=False)
    agreement = jackknifed(
        lambda at: float(shared_neighbours(first[at], second[at], patient[at]).mean()), patient, unit=unit
    )
    alignment = jackknifed(lambda at: linear_cka(first[at], second[at]), patient, unit=unit)
    return {
        "one": one,
        "other": other,
        "cka": alignment.to_json(),
        "cka_plain": None if np.isnan(plain) else plain,
        "neighbours": agreement.to_json(),
    }


def _drawn(manifest: Manifest, images: int, seed: int) -> NDArray[np.intp]:
    """Rows of whole patients in random order until ``images`` would be passed, sorted."""
    rows = draw_patients(manifest.patients, images, seed)
    if len(rows) < 2 * NEIGHBOURS:
        raise EvalfmError(
            f"{manifest.info.name} has {len(rows)} images; feature quality needs {2 * NEIGHBOURS} at least."
        )
    return rows


def draw_patients(patients: NDArray[np.object_], images: int, seed: int) -> NDArray[np.intp]:
    """Positions of whole patients in random order until ``images`` would be passed, sorted.

    Args:
        patients: patient id of each row, [N].
        images: at most so many.
        seed: of the order, which does not depend on that of the rows.

    >>> draw_patients(np.array(["a", "b", "b", "c"], dtype=object), 3, seed=0).tolist()
    [0, 3]
    """
    patient = patients.astype(str)
    order = np.random.default_rng(seed).permutation(np.unique(patient))
    place = {name: number for number, name in enumerate(order.tolist())}
    ranked = np.argsort([place[name] for name in patient.tolist()], kind="stable")
    taken = min(images, len(ranked))
    # The last patient comes whole or not at all, unless it is the only one.
    while 0 < taken < len(ranked) and patient[ranked[taken]] == patient[ranked[taken - 1]]:
        taken -= 1
    return np.sort(ranked[:taken]).astype(np.intp)
