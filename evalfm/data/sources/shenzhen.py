"""Shenzhen: 662 radiographs, 336 with tuberculosis; the lungs of most outlined by others."""

from __future__ import annotations

from pathlib import Path

from evalfm.data.config import ImportOptions
from evalfm.data.sources import Imported
from evalfm.data.sources.montgomery import read_images


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``CXR_png/CHNCXR_NNNN_{0,1}.png``, ``ClinicalReadings/*.txt`` and ``mask/*_mask.png`` (both lungs in one).

    Masks may lie in ``masks/`` too. The last digit of a name is 1 for tuberculosis. The set names no patients.

    Raises:
        EvalfmError: no image is there, or a name is another.
    """
    facts = {
        "name": "shenzhen",
        "title": "Shenzhen chest X-ray set",
        "licence": "National Library of Medicine, research use with attribution",
        "redistributable_images": True,
    }
    return read_images(root, "CHNCXR", {"lungs": (("mask", "masks"), "_mask.png")}, facts)
