"""The beginning of every DICOM file that a test makes."""

from __future__ import annotations

from pydicom.dataset import Dataset, FileMetaDataset


def dicom_header(syntax: str) -> Dataset:
    """A grey radiograph of a stated transfer syntax, without pixels yet."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", "MONOCHROME2", 1
    return dataset
