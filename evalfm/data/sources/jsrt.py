"""JSRT: 247 radiographs, 154 with a lung nodule, and the outlines of heart and lungs that SCR adds."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.columns import as_text, read_table
from evalfm.data.config import ImportOptions
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.images import image_size, read_stored
from evalfm.data.locators import files_below
from evalfm.data.masks import cardiothoracic_ratio, read_mask_file
from evalfm.data.sources import Imported
from evalfm.data.sources._tables import Notes, ages, column, sexes, what_is_in
from evalfm.data.stored import JSRT_BITS, JSRT_SIDE, JSRT_SUFFIX
from evalfm.errors import EvalfmError

MASKS = {"heart": "heart", "left_lung": "left lung", "right_lung": "right lung"}
MASK_SIZE = (1024, 1024)
PIXEL_MM = 0.175
ENLARGED = 0.5
COPIES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
LOOKED_AT = 8
"""Copies that are read to distinguish 12 bits in 16 from 16."""
_NAME = re.compile(r"JPC(L|N)N\d{3}")


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``*.IMG``, or copies as PNG, and SCR's ``heart/``, ``left lung/`` and ``right lung/`` below ``root``.

    ``nodule`` is in the image's name (JPCLN with, JPCNN without). With all three outlines ``ctr`` is measured, and
    ``cardiomegaly`` is a ratio above .5. Sex and age come from a table with ``Img, Age, Sex``, if there is one.
    Outlines have half of the images' size. SCR's two folds are odd and even numbers; the split is by hash.

    Raises:
        EvalfmError: no image is there, or an outline cannot be read.
    """
    there_are = [PurePosixPath(name) for name in files_below(root)]
    images = {path.stem: path for path in there_are if path.suffix.lower() == JSRT_SUFFIX}
    others = [name for name in images if not _NAME.fullmatch(name)]
    images = {name: path for name, path in images.items() if _NAME.fullmatch(name)} or _copies(there_are)
    if not images:
        raise EvalfmError(
            f"There is no All247images/JPCLN001.IMG in {root}, which {what_is_in(root)}, nor a copy as PNG; unpack it "
            "there."
        )
    notes = Notes()
    notes.tally(len(others), f"files {JSRT_SUFFIX.upper()} are not named JPCLN001 or so and were left out.")
    names = list(images)
    sides = np.array([image_size(path.as_posix(), root) for path in images.values()], dtype=np.float64)
    bits = _bits(images, root, notes)
    columns: dict[str, object] = {
        "id": names,
        "image": [images[name].as_posix() for name in names],
        "nodule": [float(name.startswith("JPCLN")) for name in names],
        "spacing_row_mm": PIXEL_MM * JSRT_SIDE / sides[:, 0],
        "spacing_column_mm": PIXEL_MM * JSRT_SIDE / sides[:, 1],
    }
    outlines = {finding: _outlines(root, folder, names) for finding, folder in MASKS.items()}
    there = [finding for finding, masks in outlines.items() if any(masks)]
    for finding in there:
        columns[f"{finding}_mask"] = pd.Series(outlines[finding], dtype=object)
        notes.tally(outlines[finding].count(None), f"of {len(names)} images have no {finding} outline.")
    source = dict.fromkeys(there, "SCR, observer 1")
    kinds: dict[str, str] = {}
    if len(there) == len(MASKS):
        ratio = _ratios(root, outlines)
        columns |= {"ctr": ratio, "cardiomegaly": np.where(np.isnan(ratio), np.nan, ratio > ENLARGED)}
        source |= {"ctr": "masks of SCR", "cardiomegaly": "ctr>0.5"}
        kinds = {"ctr": "number"}
    else:
        notes.append("There are no outlines of heart and both lungs, so no cardiothoracic ratio.")
    attributes = _attributes(root, names, columns, notes)
    notes.append("SCR's two folds are the images of odd and of even numbers; the split here is another.")
    info = DatasetInfo(
        name="jsrt",
        title="JSRT with the outlines of SCR",
        licence="research use (JSRT); SCR: research use",
        citation="Shiraishi et al., AJR 2000; van Ginneken et al., Medical Image Analysis 2006",
        mask_dialects=dict.fromkeys(there, "file"),
        mask_sizes=dict.fromkeys(there, MASK_SIZE),
        label_source={"nodule": "CT"} | source,
        label_kinds=kinds,
        attributes=attributes,
        public_ids=True,
        bits=bits,
        spacing_note="0.175 mm at 2048 pixels, as published",
        notes=notes,
    )
    return Imported(pd.DataFrame(columns), info)


def _copies(files: list[PurePosixPath]) -> dict[str, PurePosixPath]:
    """Images as pictures by name; outlines bear the same names."""
    by_stem: dict[str, PurePosixPath] = {}
    for path in files:
        places = {part.lower().replace("_", " ") for part in path.parts[:-1]}
        if path.suffix.lower() in COPIES and _NAME.fullmatch(path.stem) and not places & set(MASKS.values()):
            by_stem.setdefault(path.stem, path)
    return by_stem


def _bits(images: dict[str, PurePosixPath], root: Path, notes: Notes) -> int | None:
    """Significant bits where the files do not say: 12 of the raw images, and of copies that keep them in 16."""
    first = next(iter(images.values()))
    if first.suffix.lower() == JSRT_SUFFIX:
        return JSRT_BITS
    notes.append("The images are copies, whose grey values are as somebody left them; look at them with `data check`.")
    looked_at = [read_stored(path.as_posix(), root) for path in list(images.values())[:LOOKED_AT]]
    deep = [stored for stored in looked_at if stored.bits == 16]
    return JSRT_BITS if deep and max(int(stored.values.max()) for stored in deep) < 2**JSRT_BITS else None


def _outlines(root: Path, folder: str, names: list[str]) -> list[str | None]:
    """Locator of each image's outline in any folder called ``folder`` below ``root``; GIF goes before copies."""
    masks = {
        path.stem: path.relative_to(root).as_posix()
        for name in dict.fromkeys((folder.replace(" ", "_"), folder))
        for place in sorted(root.rglob(name))
        if place.is_dir()
        for suffix in ("*.bmp", "*.png", "*.gif")
        for path in sorted(place.glob(suffix))
    }
    return [masks.get(name) for name in names]


def _ratios(root: Path, outlines: dict[str, list[str | None]]) -> NDArray[np.float64]:
    """Extent of the heart over that of both lungs together, NaN where an outline lacks or is empty."""
    ratios = []
    for heart, left, right in zip(*(outlines[finding] for finding in MASKS), strict=True):
        if heart is None or left is None or right is None:
            ratios.append(np.nan)
            continue
        lungs = read_mask_file(left, root) | read_mask_file(right, root)
        ratio = cardiothoracic_ratio(read_mask_file(heart, root), lungs)
        ratios.append(np.nan if ratio is None else ratio)
    return np.array(ratios, dtype=np.float64)


def _attributes(root: Path, names: list[str], columns: dict[str, object], notes: Notes) -> list[str]:
    """Put sex and age into ``columns`` where a table of ``root`` holds them; names those there are."""
    for file in sorted(root.rglob("*.csv")):
        native = read_table(file)
        if {"Img", "Age", "Sex"} <= set(native):
            names_of_rows = as_text(column(native, "Img", file)).str.split(".").str[0]
            if names_of_rows.duplicated().any():
                raise EvalfmError(
                    f"{file} names {names_of_rows[names_of_rows.duplicated()].iloc[0]} twice; keep one row."
                )
            rows = native.set_axis(names_of_rows).reindex(names)
            columns |= {"sex": sexes(rows["Sex"], notes).to_numpy(), "age": ages(rows["Age"], notes).to_numpy()}
            return ["sex", "age"]
    return []
