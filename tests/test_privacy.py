"""A hospital's images and table go through import, probe, predict, pictures; nothing that names anybody comes out."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.data.config import TableMapping
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest

PATIENTS, SIDE = 24, 48
pytestmark = pytest.mark.usefixtures("in_full")
UID = "1.2.826.0.1.3680043.8.498.77"


@dataclass(frozen=True)
class Hospital:
    """Radiographs and table as a hospital would hand them over, and the words that must not leave.

    Attributes:
        mapped: words that the mapping lets into the manifest, which stays: file names and patients.
        unmapped: words that not even the manifest needs.
    """

    root: Path
    csv: Path
    card: Path
    mapped: frozenset[str]
    unmapped: frozenset[str]

    @property
    def words(self) -> frozenset[str]:
        return self.mapped | self.unmapped


@dataclass(frozen=True)
class Passed:
    """What came out on the way through."""

    manifest: Manifest
    runs: Path
    predictions: Path
    embeddings: Path
    printed: str


def _write_radiograph(path: Path, pixels: np.ndarray, elements: dict[str, str]) -> None:
    radiograph = Dataset()
    radiograph.file_meta = FileMetaDataset()
    radiograph.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    radiograph.SOPClassUID = radiograph.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    radiograph.file_meta.MediaStorageSOPInstanceUID = elements["SOPInstanceUID"]
    radiograph.Modality, radiograph.PhotometricInterpretation, radiograph.SamplesPerPixel = "CR", "MONOCHROME2", 1
    radiograph.Rows, radiograph.Columns = pixels.shape
    radiograph.BitsAllocated, radiograph.BitsStored, radiograph.HighBit, radiograph.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in elements.items():
        setattr(radiograph, keyword, value)
    radiograph.PixelData = pixels.astype("<u2").tobytes()
    radiograph.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    root = tmp_path_factory.mktemp("handed-over") / "Klinik-Hinterwald"
    root.mkdir()
    generator = np.random.default_rng(0)
    mapped, unmapped, lines = {"Klinik-Hinterwald", "handed-over"}, set(), []
    for patient in range(PATIENTS):
        name, number = f"Mustermann{patient:02}^Erika", f"PAT-7731-{patient:02}"
        birth = f"19{30 + patient}-03-{patient + 1:02}"
        mapped.add(number)
        unmapped |= {name, f"Mustermann{patient:02}, Erika", "Mustermann", birth, birth.replace("-", "")}
        for exam in range(2):
            accession, date = f"ACC9901{patient:02}{exam}", f"2019-0{exam + 5}-{patient + 1:02}"
            study, instance = f"{UID}.1.{patient}.{exam}", f"{UID}.2.{patient}.{exam}"
            report = f"Frau Mustermann, Zustand nach Sturz am {date}; gez. Dr. Quacksalber {patient}-{exam}"
            comment = f"Aufnahme im Liegen, Station Sieben-{patient}-{exam}"
            pixels = generator.normal(1500, 300, (SIDE, SIDE))
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            if patient % 2:
                mask[10 + patient % 7 : 30, 12 : 28 + exam] = True
                pixels[mask] += 900
            _write_radiograph(
                root / f"{accession}.dcm",
                pixels.clip(0, 4095),
                {
                    "PatientName": name,
                    "PatientID": number,
                    "PatientBirthDate": birth.replace("-", ""),
                    "StudyDate": date.replace("-", ""),
                    "AccessionNumber": accession,
                    "StudyInstanceUID": study,
                    "SOPInstanceUID": instance,
                    "StudyDescription": f"Thorax Quacksalber {patient}-{exam}",
                    "ImageComments": comment,
                },
            )
            Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"{accession}-mask.png")
            mapped.add(accession)
            unmapped |= {study, instance, UID, date, date.replace("-", ""), "Quacksalber", "Sturz", "Sieben-", comment}
            lines.append(
                {
                    "file": f"{accession}.dcm",
                    "mask": f"{accession}-mask.png",
                    "patient_id": number,
                    "patient_name": name.replace("^", ", "),
                    "birth_date": birth,
                    "study_date": date,
                    "study_uid": study,
                    "accession": accession,
                    "report": report,
                    "referrer": "Dr. Quacksalber",
                    "sex": "FM"[patient % 3 == 0],
                    "age": 70 + patient,
                    "shadow": patient % 2,
                }
            )
    table = root / "Befunde-Mustermann.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    card = root / "shadow-seg.yaml"
    card.write_text("name: shadow-seg\nschema: 1\nkind: segmentation\ntitle: Where is it?\ntarget: [shadow]\n")
    return Hospital(root, table, card, frozenset(mapped), frozenset(unmapped))


@pytest.fixture(scope="module")
def passed(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Passed:
    """Everything once, with the command line as a user types it."""
    folder = tmp_path_factory.mktemp("work")
    mapping = TableMapping(
        csv=hospital.csv,
        name="films",
        image="file",
        patient="patient_id",
        labels={"shadow": "shadow"},
        masks={"shadow": "mask"},
        attributes={"sex": "sex", "age": "age"},
        redistributable_images=True,
    )
    data, runs, predictions, embeddings = (folder / name for name in ("data", "runs", "predictions", "embeddings"))
    manifest = import_data("table", hospital.root, data, mapping=mapping, stratify="shadow")
    printed = []

    def type_in(*words: object) -> None:
        answer = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        printed.append(answer.output + answer.stderr)

    # Without a name the data set would be called after the folder of its radiographs.
    (folder / "mapping.yaml").write_text("name: films\n")
    again = [
        "--mapping",
        folder / "mapping.yaml",
        "--csv",
        hospital.csv,
        "--image",
        "file",
        "--patient",
        "patient_id",
        "--label",
        "shadow",
    ]
    type_in("data", "import", "table", "--root", hospital.root, "--out", folder / "again", *again)
    type_in("data", "check", data)
    type_in("probe", "--encoder", "hog", "--task", "shadow", "--data", data, "--head", "linear", "--out", runs)
    type_in(
        "probe",
        "--encoder",
        "pixels",
        "--task",
        hospital.card,
        "--data",
        data,
        "--head",
        "linear",
        "--baselines",
        "none",
        "--out",
        runs,
    )
    type_in("ls", "runs", runs)
    for number, (encoder, task) in enumerate([("hog", "shadow"), ("pixels", "shadow-seg")]):
        (run,) = (runs / encoder / task).glob("linear-*")
        type_in("predict", run, "--data", data, "--out", predictions / str(number))
    embeddings.mkdir()
    for name in ("hog.parquet", "hog.safetensors"):
        type_in("embed", "--encoder", "hog", "--data", data, "--out", embeddings / name)
    return Passed(manifest, runs, predictions, embeddings, "\n".join(printed))


def _found(content: bytes, words: frozenset[str]) -> list[str]:
    """Those of ``words`` that stand in ``content`` in letters of any size, as UTF-8 or UTF-16."""
    content = content.lower()
    return [
        word for word in sorted(words) if any(word.lower().encode(code) in content for code in ("utf-8", "utf-16-le"))
    ]


def _plain(path: Path) -> bytes:
    """The bytes of a file and what its own compression hides."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        table = file.read().to_pandas()
        hidden = [
            str(file.schema_arrow.metadata),
            str(file.metadata.metadata),
            table.to_csv(),
            *map(str, table.columns),
        ]
        return content + "\n".join(hidden).encode()
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
            return content + str(picture.info).encode()
    return content


def test_the_words_are_in_what_went_in(hospital: Hospital):
    radiograph = min(hospital.root.glob("*.dcm"))
    assert pydicom.dcmread(radiograph).PatientName == "Mustermann00^Erika"
    everything = b"".join(path.read_bytes() for path in hospital.root.iterdir()) + str(hospital.root).encode()
    everything += "\n".join(path.name for path in hospital.root.iterdir()).encode()
    assert set(_found(everything, hospital.words)) == hospital.words


def test_no_word_is_in_any_byte_or_name_of_runs_predictions_and_embeddings(hospital: Hospital, passed: Passed):
    folders = (passed.runs, passed.predictions, passed.embeddings)
    written = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    kinds = {path.name for path in written}
    assert {"run.json", "predictions.parquet", "head.safetensors", "predict.json", "roc.png"} <= kinds
    assert {"overlays_shadow.png", "hog.parquet", "hog.safetensors"} <= kinds
    salt = passed.manifest.info.salt
    assert salt
    words = hospital.words | {salt, str(passed.runs.parent)}
    for path in written:
        assert _found(_plain(path), words) == [], path.name
        assert _found(str(path.relative_to(passed.runs.parent)).encode(), words) == []


def test_predictions_hold_hashes_of_known_radiographs_and_declared_attributes(passed: Passed):
    tables = [pd.read_parquet(path) for path in sorted(passed.predictions.rglob("*.parquet"))]
    assert len(tables) == 2
    embedded = pd.read_parquet(passed.embeddings / "hog.parquet")
    assert embedded["id"].tolist() == tables[0]["id"].tolist()
    for table in tables:
        assert len(table) == 2 * PATIENTS
        assert table["patient"].nunique() == PATIENTS
        assert table["patient"].str.fullmatch("[0-9a-f]{16}").all()
        assert table["id"].str.fullmatch("[0-9a-f]{16}").all()
        assert table["age"].max() == 90
        assert passed.manifest.table["age"].max() == 93


def test_the_manifest_holds_what_was_mapped_and_no_name_date_or_report(hospital: Hospital, passed: Passed):
    columns = {"id", "image", "patient", "split", "shadow", "shadow_mask", "sex", "age"}
    assert set(passed.manifest.table.columns) == columns
    for path in passed.manifest.folder.iterdir():
        assert _found(_plain(path), hospital.unmapped) == [], path.name


def test_nothing_printed_names_anybody(hospital: Hospital, passed: Passed):
    assert "auroc" in passed.printed
    assert "Dice" in passed.printed or "dice" in passed.printed
    assert _found(passed.printed.encode(), hospital.words) == []
