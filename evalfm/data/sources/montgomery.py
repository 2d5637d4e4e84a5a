"""Montgomery County: 138 radiographs of tuberculosis screening, 58 with it, both lungs outlined."""

from __future__ import annotations

from pathlib import Path

from evalfm.data.config import ImportOptions
from evalfm.data.sources import Imported
from evalfm.data.sources._tuberculosis import Masks, read_films


def import_source(root: Path, options: ImportOptions) -> Imported:
    """Read ``CXR_png/MCUCXR_NNNN_{0,1}.png``, ``ClinicalReadings/*.txt`` and ``ManualMask/{left,right}Mask/*.png``.

    The last digit of a name is 1 for tuberculosis. The set names no patients.

    Raises:
        EvalfmError: no film is there, or a name is another.
    """
    masks: Masks = {"left_lung": (("ManualMask/leftMask",), ".png"), "right_lung": (("ManualMask/rightMask",), ".png")}
    facts = {
        "name": "montgomery",
        "title": "Montgomery County chest X-ray set",
        "licence": "National Library of Medicine, research use with attribution",
        "redistributable_images": True,
    }
    return read_films(root, "MCUCXR", masks, facts)
