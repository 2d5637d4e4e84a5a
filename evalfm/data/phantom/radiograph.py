"""One synthetic image with its full truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalfm.data.phantom import disease
from evalfm.data.phantom.anatomy import Anatomy, draw_anatomy
from evalfm.data.phantom.bones import bone_attenuation, shoulder_attenuation, trachea
from evalfm.data.phantom.devices import Device, chest_tube, ecg_leads, side_marker
from evalfm.data.phantom.disease import Pneumothorax
from evalfm.data.phantom.frame import Field, Frame, bands, bell, enlarge, extent, make_frame
from evalfm.data.phantom.lungs import hilum, parenchyma, vessel_thickness
from evalfm.data.phantom.patients import Dials, Patient, Stream, Visit, draw_patient, draw_visit, generator, patient_of
from evalfm.data.phantom.rendering import WATER, Look, draw_look, expose
from evalfm.data.phantom.silhouette import Chest, FreeAir, measure_chest, open_pneumothorax
from evalfm.data.phantom.softtissue import body_thickness, stomach_gas
from evalfm.errors import EvalfmError

Mask = NDArray[np.bool_]

SMALLEST, LARGEST = 64, 1024
_RECESS = 0.17
"""How far the lung reaches down behind the dome of the diaphragm, in image sides."""

FINDINGS = ("heart", "left_lung", "right_lung", "pneumothorax", "chest_tube")


@dataclass(frozen=True)
class Radiograph:
    """A synthetic frontal chest radiograph; left and right are the patient's.

    Attributes:
        pixels: float32 [H, W] in [0, 1], air dark, bone bright.
        masks: bool [H, W] for each of ``FINDINGS``.
        patient: name of the patient; several images may share it.
        sex: "F" or "M"; age in years; view "PA" or "AP"; scanner: whose processing.
        pneumothorax, cardiomegaly, chest_tube, ecg_leads: what is on the image.
        pneumothorax_area: fraction of the image.
        ctr: extent of the heart over that of both lungs together, measured on the masks.
    """

    pixels: NDArray[np.float32]
    masks: dict[str, Mask]
    patient: str
    sex: str
    age: int
    view: str
    scanner: str
    pneumothorax: bool
    cardiomegaly: bool
    chest_tube: bool
    ecg_leads: bool
    pneumothorax_area: float
    ctr: float


@dataclass(frozen=True)
class _Case:
    """Everything about image ``index`` that is drawn before a pixel is."""

    seed: int
    index: int
    size: int
    patient: Patient
    visit: Visit
    anatomy: Anatomy
    look: Look
    disease: Pneumothorax | None
    frame: Frame
    chest: Chest
    air: FreeAir | None
    tube: Device | None
    has_leads: bool


def render(
    seed: int, index: int, size: int = 256, dials: Dials | None = None, *, tube: bool | None = None
) -> Radiograph:
    """Draw image ``index`` of the population ``seed``: the same image for the same numbers, on any machine.

    Args:
        seed: of the population.
        index: of the image; patients follow from it (some have two or three images).
        size: pixels along a side, 64 to 1024; the anatomy is the same at every size.
        dials: how often findings and devices occur.
        tube: force the chest tube on or off; nothing else on the image changes.

    Raises:
        EvalfmError: the size is out of range, or seed or index is negative.

    >>> radiograph = render(0, 3, size=64, tube=True)
    >>> radiograph.pixels.shape, radiograph.chest_tube
    ((64, 64), True)
    """
    case = _draw_case(seed, index, size, dials or Dials(), tube)
    return _radiograph(case, _pixels(case))


def trace(
    seed: int, index: int, size: int = 256, dials: Dials | None = None, *, tube: bool | None = None
) -> Radiograph:
    """The truth of image ``index`` alone: as ``render``, with blank pixels, in a fraction of the time."""
    return _radiograph(_draw_case(seed, index, size, dials or Dials(), tube), np.zeros((size, size), dtype=np.float32))


def _draw_case(seed: int, index: int, size: int, dials: Dials, tube: bool | None) -> _Case:
    if not SMALLEST <= size <= LARGEST:
        raise EvalfmError(f"A phantom image of {size} pixels cannot be drawn; choose a size from 64 to 1024.")
    if seed < 0 or index < 0:
        raise EvalfmError(f"Seed {seed} and index {index} of a phantom image must not be negative; choose others.")
    patient = draw_patient(seed, patient_of(index))
    visit = draw_visit(seed, index, dials)
    anatomy = draw_anatomy(seed, patient)
    frame = make_frame(size, visit.pose)
    chest = measure_chest(frame, anatomy, visit, disease.draw_heart(seed, patient, visit, dials))
    pneumothorax = disease.draw_pneumothorax(seed, index, patient, dials)
    shown = disease.has_tube(seed, index, pneumothorax, dials) if tube is None else tube
    side = None if pneumothorax is None else pneumothorax.side
    return _Case(
        seed=seed,
        index=index,
        size=size,
        patient=patient,
        visit=visit,
        anatomy=anatomy,
        look=draw_look(generator(seed, Stream.LOOK, index), lying=visit.view == "AP"),
        disease=pneumothorax,
        frame=frame,
        chest=chest,
        air=None if pneumothorax is None else open_pneumothorax(chest, frame, pneumothorax),
        tube=chest_tube(seed, index, size, anatomy, visit, side) if shown else None,
        has_leads=disease.has_leads(seed, index, dials),
    )


def _radiograph(case: _Case, pixels: Field) -> Radiograph:
    chest, left = case.chest, case.frame.left
    lungs, heart = chest.lungs, chest.heart
    blank = np.zeros_like(left)
    masks = {
        "heart": heart,
        "left_lung": lungs & left,
        "right_lung": lungs & ~left,
        "pneumothorax": case.air.mask if case.air else blank,
        "chest_tube": case.tube.mask if case.tube else blank,
    }
    across = extent(heart)[1], extent(lungs)[1]
    ratio = (across[0].stop - across[0].start) / (across[1].stop - across[1].start)
    return Radiograph(
        pixels=pixels,
        masks=masks,
        patient=f"phantom-{case.seed}-{case.patient.number:06d}",
        sex=case.patient.sex,
        age=case.patient.age,
        view=case.visit.view,
        scanner=case.look.scanner,
        pneumothorax=case.air is not None,
        cardiomegaly=ratio > 0.5,
        chest_tube=case.tube is not None,
        ecg_leads=case.has_leads,
        pneumothorax_area=float(masks["pneumothorax"].mean()),
        ctr=ratio,
    )


def _pixels(case: _Case) -> Field:
    look_rng = generator(case.seed, Stream.MARKER, case.index)
    noise = generator(case.seed, Stream.NOISE, case.index).standard_normal((case.size, case.size), dtype=np.float32)
    lead = 3.5 * side_marker(look_rng, case.size)
    devices = np.zeros_like(lead)
    if case.has_leads:
        devices += ecg_leads(case.seed, case.index, case.size, case.anatomy, case.visit).attenuation
    if case.tube:
        devices += case.tube.attenuation
    return expose(_body(case), devices, lead, case.look, noise)


def _body(case: _Case) -> Field:
    """Line integral of attenuation through the patient, without devices."""
    size, visit, anatomy, frame, chest = case.size, case.visit, case.anatomy, case.frame, case.chest
    coarse = make_frame(size // 2, visit.pose) if size >= 128 and size % 2 == 0 else frame
    tissue = body_thickness(coarse, anatomy, visit, case.patient, case.seed)
    tissue -= stomach_gas(coarse, anatomy, visit, generator(case.seed, Stream.GAS, case.index))
    line = enlarge(tissue * np.float32(WATER) + shoulder_attenuation(coarse, anatomy, visit), size).copy()
    # The costophrenic recess reaches some way down behind the dome; below it there is no lung.
    lungs = extent((chest.wall > 0) & (chest.medial > 0) & (chest.dome > -_RECESS))
    filling = _Filling(
        parenchyma(frame, anatomy, case.patient, case.seed),
        vessel_thickness(frame, case.patient, visit, case.seed),
        _depth(frame, anatomy),
    )
    for window in bands(lungs):
        line[window] -= np.float32(WATER) * _lung(case, filling, window)
    middle, columns = frame.strip(0.12)
    line[:, columns] -= np.float32(WATER) * trachea(middle, anatomy)
    line += bone_attenuation(frame, chest, anatomy, visit)
    return np.maximum(line, 0)


@dataclass(frozen=True)
class _Filling:
    """What fills the chest: density and vessels of the lung [H, W], and the cavity's depth over y."""

    parenchyma: Field
    vessels: Field
    depth: Field


def _lung(case: _Case, filling: _Filling, window: tuple[slice, slice]) -> Field:
    """Thickness of the tissue that the lungs replace by air, on a rectangle of the image."""
    frame, chest = case.frame.window(window), case.chest.window(window)
    ratio = np.minimum(chest.away / np.maximum(chest.outer, np.float32(0.01)), 1)
    cavity = np.sqrt(1 - ratio * ratio) * frame.by_row(filling.depth)
    cavity *= np.sqrt(np.clip(chest.medial / np.float32(0.022), 0, 1))
    inside = np.maximum(np.maximum(chest.left_heart, chest.right_heart), 0)
    heart = np.sqrt(np.sqrt(inside)) * np.float32(0.27)
    recess = np.float32(0.10) * np.clip(1 + chest.dome / np.float32(_RECESS), 0, 1)
    behind = recess + np.float32(0.90) * np.sqrt(np.clip(chest.dome / np.float32(0.022), 0, 1))
    lung = np.maximum(cavity * behind - heart - hilum(frame, case.visit), 0)
    aerated = np.minimum(lung / np.float32(0.08), 1)
    density = filling.parenchyma[window] * np.float32(case.anatomy.lung_density)
    vessels = filling.vessels[window] * aerated
    if case.air is None or case.disease is None:
        return np.asarray(lung * (1 - density) - vessels, dtype=np.float32)
    depth, side = case.air.depth[window], frame.left == (case.disease.side > 0)
    soft = np.float32(0.6 / case.size)
    free = np.clip(depth / soft + np.float32(0.5), 0, 1) * np.clip(chest.wall / soft, 0, 1) * side
    pleura = bell(depth / np.float32(0.0030)) * side * aerated * np.float32(0.020)
    gone = free * np.float32(case.disease.share)
    tissue = vessels * (1 - free) + pleura
    return np.asarray(lung * (1 - density * (1 - gone)) - tissue, dtype=np.float32)


def _depth(frame: Frame, anatomy: Anatomy) -> Field:
    """Front-to-back depth of the chest cavity over y."""
    y = frame.rows.values
    depth = np.interp(y, [0.10, 0.17, 0.25, 0.38, 0.55, 0.80], [0.30, 0.42, 0.56, 0.66, 0.72, 0.70])
    return (depth * anatomy.depth).astype(np.float32)
