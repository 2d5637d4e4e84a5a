"""Second tables that the field knows, in their own layout: what to take of them, and what is known of their truth."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from evalfm.data.columns import as_numbers, as_text, first_word
from evalfm.data.config import JoinConfig
from evalfm.data.digests import WORKERS
from evalfm.data.joining import KEY, VALUE, keys_of
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError, UnknownNameError, suggestion

IDS = ("Image Index", "dicom_id", "ImageID", "image_id", "Path")
"""CheXmask's id column: NIH, MIMIC, PadChest and CANDID, VinDr, CheXpert."""

MASKS = {"heart": "Heart", "left_lung": "Left Lung", "right_lung": "Right Lung"}

Known = Callable[[Manifest, pd.DataFrame, JoinConfig], tuple[pd.DataFrame, JoinConfig]]


def known_join(manifest: Manifest, other: pd.DataFrame, config: JoinConfig) -> tuple[pd.DataFrame, JoinConfig]:
    """The rows of ``other`` to join and how, where ``config.known`` is one of ``KNOWN``.

    Raises:
        EvalfmError: unknown name, or the table has not the known layout.
    """
    if config.known not in KNOWN:
        raise UnknownNameError("known table", str(config.known), KNOWN)
    return KNOWN[config.known](manifest, other, config)


def _tubes(manifest: Manifest, other: pd.DataFrame, config: JoinConfig) -> tuple[pd.DataFrame, JoinConfig]:
    """Chest tubes of SIIM-ACR by image id, of khaledsaab/spatial_specificity: a pickled mapping or a CSV."""
    key, value = (
        (KEY, VALUE) if KEY in other else (_present(other, ("ImageId", "id")), _present(other, ("chest_tube",)))
    )
    source = "radiologist (tube labels of spatial_specificity)"
    return _joined(manifest, other, config, key, chest_tube=value, source=source)


def _drains(manifest: Manifest, other: pd.DataFrame, config: JoinConfig) -> tuple[pd.DataFrame, JoinConfig]:
    """Drains of CheXpert, NIH and PadChest images of ameliajimenez/shortcuts-chest-xray."""
    drain, path = _present(other, ("Drain",)), _present(other, ("Path", "Image Index", "ImageID"))
    source = "annotated drains (shortcuts-chest-xray); absence by sampling"
    note = "A chest_tube of 0 was set by sampling images without a drain in their labels, not by looking."
    return _joined(manifest, other, config, path, chest_tube=drain, source=source, note=note)


def _joined(
    manifest: Manifest, other: pd.DataFrame, config: JoinConfig, key: str, *, chest_tube: str, **said: str
) -> tuple[pd.DataFrame, JoinConfig]:
    """A table of chest tubes in the column ``chest_tube``, by the ``key`` of their images."""
    mine, theirs = _meeting(manifest, other[key])
    taken = {"join_on": f"{mine}={key}", "labels": {"chest_tube": chest_tube}, "attributes": {"chest_tube": chest_tube}}
    return other.assign(**{key: theirs}), config.model_copy(update=taken | said)


def _chexmask(manifest: Manifest, other: pd.DataFrame, config: JoinConfig) -> tuple[pd.DataFrame, JoinConfig]:
    """CheXmask's heart and lungs, which a model made, where their estimated Dice is high enough."""
    key = _present(other, IDS)
    mean, most = (_numbers(other, f"Dice RCA ({word})") for word in ("Mean", "Max"))
    notes = []
    if bool((mean > most + 1e-9).all()):
        mean, most = most, mean
        notes.append("The columns of mean and largest estimated Dice were swapped in the file.")
    if bool((mean > most + 1e-9).any()):
        raise EvalfmError("Some rows have a mean estimated Dice above their largest; check the columns of the file.")
    kept = other[(mean >= config.least_rca).to_numpy(dtype=bool)]
    if kept.empty:
        raise EvalfmError(f"No mask has an estimated Dice of {config.least_rca:g} or more; lower --least-rca.")
    mine, theirs = _meeting(manifest, kept[key])
    notes.append(
        f"The masks are a model's (CheXmask), kept at a mean estimated Dice of {config.least_rca:g} or more: "
        f"{len(other) - len(kept)} of {len(other)} were left out."
    )
    kept = kept.assign(**{key: theirs})
    size = _size(manifest, kept, key, mine)
    return kept, config.model_copy(
        update={
            "join_on": f"{mine}={key}",
            "masks": MASKS,
            "source": "pseudo (CheXmask)",
            "dialect": "absolute",
            "mask_size": size,
            "note": " ".join(notes),
        }
    )


KNOWN: dict[str, Known] = {"tubes": _tubes, "drains": _drains, "chexmask": _chexmask}


def _size(manifest: Manifest, kept: pd.DataFrame, key: str, mine: str) -> tuple[int, int] | None:
    """The masks' own size, where all have one that is not the images'; None where each has its image's.

    Raises:
        EvalfmError: sizes are missing, or some are neither the image's nor all the same: height and width swapped.
    """
    heights, widths = _numbers(kept, "Height"), _numbers(kept, "Width")
    if bool(heights.isna().any()) or bool(widths.isna().any()):
        raise EvalfmError(
            "Height or Width is blank in some rows, so their masks cannot be read; take the complete file."
        )
    declared = dict(zip(as_text(kept[key]), zip(heights.astype(int), widths.astype(int), strict=True), strict=True))
    rows = [(row, declared[name]) for row, name in enumerate(keys_of(manifest, mine)) if name in declared]
    with ThreadPoolExecutor(WORKERS) as pool:
        sizes = list(pool.map(manifest.size, [row for row, _ in rows]))
    wrong = [row for (row, stated), size in zip(rows, sizes, strict=True) if tuple(stated) != tuple(size)]
    if not wrong:
        return None
    stated = {size for _, size in rows}
    if len(stated) == 1 and len(wrong) == len(rows):
        height, width = next(iter(stated))
        return int(height), int(width)
    row = wrong[0]
    stated_size = declared[keys_of(manifest, mine).iloc[row]]
    raise EvalfmError(
        f"{len(wrong)} masks have another size than their image, such as {stated_size[0]} x {stated_size[1]} for row "
        f"{row + 1} of {manifest.size(row)[0]} x {manifest.size(row)[1]}; take masks at original resolution, or look "
        "whether Height and Width are swapped."
    )


def _meeting(manifest: Manifest, cells: pd.Series) -> tuple[str, pd.Series]:
    """By which key of the manifest most of ``cells`` are met, and the cells as that key writes them."""
    text = as_text(cells).map(lambda name: name.strip() if name else None)
    locators = dict(zip(manifest.table["image"].map(_below_release), manifest.table["image"], strict=True))
    candidates = {
        "id": text,
        "image_name": text.map(lambda name: name.rsplit("/", 1)[-1] if name else None),
        "image_stem": text.map(lambda name: name.rsplit("/", 1)[-1] if name else None),
        "image": text.map(lambda name: locators.get(_below_release(name), name)),
    }
    # Names that several images bear, such as view1_frontal.jpg, say nothing.
    keys = {name: keys_of(manifest, name) for name in candidates}
    met = {name: int(candidates[name].isin(set(keys[name])).sum()) for name in candidates if keys[name].is_unique}
    best = max(met, key=lambda name: met[name])
    return best, candidates[best]


def _below_release(path: str | None) -> str | None:
    """A path below the folder of the release (``CheXpert-v1.0-small/``), if it begins with one."""
    if path is None:
        return None
    first, _, rest = path.partition("/")
    return rest if rest and first.lower().startswith("chexpert") else path


def _present(table: pd.DataFrame, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table:
            return name
    near = suggestion(names[0], [str(column) for column in table.columns])
    raise EvalfmError(f"The table has no column {names[0]!r}. {near}")


def _numbers(table: pd.DataFrame, name: str) -> Any:
    numbers = as_numbers(table[_present(table, (name,))])
    if numbers is None:
        raise EvalfmError(
            f"The column {name!r} holds something other than numbers ({first_word(table[name])}); check the file."
        )
    return numbers.astype(np.float64)
