"""Images as the sets ship them, for the tests of sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from evalfm.data.assign_splits import with_val_from_train
from evalfm.data.config import ImportOptions
from evalfm.data.manifest import Manifest
from evalfm.data.sources import Imported, check_options, load_source


def write_dicom(path: Path, *, side: tuple[int, int] = (6, 8), **tags: Any) -> str:
    """A 12-bit image of ``side``; None leaves a tag out. Gives its SOPInstanceUID."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    uid = str(tags.pop("SOPInstanceUID", generate_uid(entropy_srcs=[path.name])))
    meta.MediaStorageSOPInstanceUID = uid
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    facts: dict[str, Any] = {
        "SOPInstanceUID": uid,
        "PatientName": "Smith^Jane",
        "StudyDate": "20200102",
        "PatientSex": "F",
        "PatientAge": "093Y",
        "Modality": "DX",
        "ViewPosition": "PA",
        "Rows": side[0],
        "Columns": side[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": (np.arange(side[0] * side[1]) % 4096).astype("<u2").tobytes(),
        **tags,
    }
    for name, value in facts.items():
        if value is not None:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)
    return uid


def write_picture(path: Path, side: tuple[int, int] = (6, 8), *, seed: int = 0, deep: bool = False) -> None:
    """A grey picture of ``side``, 16 bits where ``deep``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    top = 65536 if deep else 256
    values = np.random.default_rng(seed).integers(0, top, side)
    Image.fromarray(values.astype(np.uint16 if deep else np.uint8)).save(path)


def read_source(source: str, root: Path, **options: Any) -> Manifest:
    """What ``source`` reads under ``root``, as a manifest that has not been checked."""
    config = ImportOptions(salt="pepper", **options)
    check_options(source, config)
    imported = load_source(source)(root, config)
    info = imported.info.model_copy(update={"root": str(root), "salt": "pepper"})
    return drawn(Manifest(info, imported.table, root), imported)


def drawn(manifest: Manifest, imported: Imported, seed: int = 0) -> Manifest:
    """With val drawn from train where the source asks for it, as the import does."""
    return with_val_from_train(manifest, seed=seed) if imported.val_from_train else manifest
