from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from evalfm.data.form import READABLE, Form, form_of, form_report
from evalfm.data.images import Image
from evalfm.data.manifest import Manifest
from evalfm.data.report import check

from ..squares import make_squares


def labelled(squares: Manifest, label: np.ndarray, patients: list[str] | None = None) -> Manifest:
    """The data set with one label of 0 and 1."""
    table = squares.table.loc[: len(label) - 1, ["id", "image"]].assign(tb=label)
    table["patient"] = table["id"] if patients is None else patients
    facts = {"label_source": {"tb": "expert"}, "label_kinds": {}, "attributes": (), "mask_dialects": {}}
    return replace(squares, table=table, info=squares.info.model_copy(update=facts))


def forms(count: int, seed: int, **facts: object) -> list[Form]:
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(count, 256)).astype(np.float32)
    given = {name: np.asarray(values) for name, values in facts.items()} | {"noise": rng.normal(size=count)}
    return [Form({name: values[row].item() for name, values in given.items()}, cells[row]) for row in range(count)]


@pytest.fixture
def tuberculosis(tmp_path: Path) -> Manifest:
    """Pictures of noise: some of the positive ones are grey JPEG, all others colour PNG, as in a public set."""
    made = make_squares(tmp_path / "tb", 60)
    rng, table = np.random.default_rng(0), made.table.copy()
    for row in range(80):
        noise = rng.integers(60, 200, (64, 64, 3), dtype=np.uint8)
        jpeg = row < 18
        name = f"{table['id'].iat[row]}.{'jpg' if jpeg else 'png'}"
        Pillow.fromarray(noise[..., 0] if jpeg else noise).save(made.root / name)
        table.loc[row, "image"] = name
    return labelled(replace(made, table=table), (np.arange(80) < 40).astype(float))


def test_what_positives_alone_are_stored_as_is_named(tuberculosis: Manifest) -> None:
    report = check(tuberculosis)
    names = {each.property: each for each in report.form.associations}
    assert names["channels"].auroc == pytest.approx(0.5 + 18 / 40 / 2)
    assert names["channels"].p < 0.001
    assert names["channels"].images == (40, 40)
    (said,) = [remark for remark in report.remarks if remark.startswith("tb: told by")]
    assert "channels (AUROC 0.72)" in said
    assert "The picture's form goes with it" in said
    assert any(each.property.startswith("stored as: ") for each in report.form.associations)


def test_a_label_of_chance_is_told_by_nothing(squares: Manifest) -> None:
    said = 0
    for seed in range(40):
        label = np.random.default_rng(seed).permutation(np.repeat([0.0, 1.0], 40))
        many = {f"property {number}": np.random.default_rng([seed, number]).normal(size=80) for number in range(20)}
        found = form_report(labelled(squares, label), forms(80, seed, **many))
        said += bool(found.remarks)
        assert abs((found.thumbnails or {})["tb"] - 0.5) < 0.3
    # A family of 21 tests in each of 40 studies: two expected at most, six are beyond one in a hundred.
    assert said < 6


def test_images_of_one_patient_are_not_evidence_many_times(squares: Manifest) -> None:
    # Ten patients on either side with four images each; a property of the patient is random with respect to the label.
    said = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        patients = [f"p{row // 4}" for row in range(80)]
        label = np.repeat(rng.permutation(np.repeat([0.0, 1.0], 10)), 4)
        own = np.repeat(rng.normal(size=20), 4)
        found = form_report(labelled(squares, label, patients), forms(80, seed, own=own))
        said += any(each.p < 0.05 and each.property == "own" for each in found.associations)
    assert said <= 6


def test_a_label_that_cells_of_grey_tell_is_said_to_be_readable(squares: Manifest) -> None:
    label = np.repeat([0.0, 1.0], 40)
    told = [replace(form, thumbnail=form.thumbnail + 2 * label[row]) for row, form in enumerate(forms(80, 0))]
    found = form_report(labelled(squares, label), told)
    assert (found.thumbnails or {})["tb"] > READABLE
    (remark,) = found.remarks
    assert "16 × 16 grey cells (AUROC 1.00). The label can be read off the picture's form" in remark


def test_thumbnails_are_tested_on_other_patients(squares: Manifest) -> None:
    # Every patient has a picture of its own, four times, and a label that is chance: a model that met it would know.
    rng = np.random.default_rng(0)
    patients = [f"p{row // 4}" for row in range(80)]
    label = np.repeat(rng.permutation(np.repeat([0.0, 1.0], 10)), 4)
    cells = np.repeat(rng.normal(size=(20, 256)), 4, axis=0).astype(np.float32)
    told = [replace(form, thumbnail=cells[row]) for row, form in enumerate(forms(80, 0))]
    assert (form_report(labelled(squares, label, patients), told).thumbnails or {})["tb"] < 0.8


def test_few_patients_and_unread_rows_are_left_out(squares: Manifest) -> None:
    label = np.zeros(80)
    label[:9] = 1
    assert form_report(labelled(squares, label), forms(80, 0)).associations == ()
    label[:40] = 1
    # Nine patients of many images are nine.
    few = [f"p{min(row, 8)}" if row < 40 else f"p{row}" for row in range(80)]
    assert not form_report(labelled(squares, label, few), forms(80, 0)).thumbnails
    given: list[Form | None] = [None if row % 4 == 0 else form for row, form in enumerate(forms(80, 0))]
    assert form_report(labelled(squares, label), given).associations[0].images == (30, 30)


def test_a_picture_that_could_not_be_read_tells_nothing(squares: Manifest) -> None:
    label = np.repeat([0.0, 1.0], 40)
    bright = [replace(form, thumbnail=form.thumbnail + 5) for form in forms(80, 0)]
    given: list[Form | None] = [None if 40 <= row < 60 else form for row, form in enumerate(bright)]
    assert (form_report(labelled(squares, label), given).thumbnails or {})["tb"] < 0.7


def test_the_form_of_a_picture() -> None:
    pixels = np.full((1, 80, 160), 0.5, np.float32)
    pixels[:, :, :40] = 0
    pixels[:, :8, -20:] = 1
    facts = form_of(Image(pixels, "unit-interval", 12, None, "DICOM"), "Maker").facts
    assert (facts["height ÷ width"], facts["bits"], facts["channels"]) == (0.5, 12, 1)
    assert facts["manufacturer"] == "Maker"
    assert facts["share of black or white border"] == pytest.approx(0.25 + 0.0125, abs=0.02)
    # One corner of ten rows and twenty columns is white in eight of its rows.
    assert facts["bright share of the corners"] == pytest.approx(0.8 / 4)
    assert facts["mean brightness"] == pytest.approx(pixels.mean())


def test_cells_are_means_of_the_whole_picture() -> None:
    pixels = np.arange(40 * 37, dtype=np.float32).reshape(1, 40, 37)
    cells = form_of(Image(pixels / pixels.max(), "unit-interval", 8, None, "PNG")).thumbnail.reshape(16, 16)
    assert cells.mean() == pytest.approx(0.5, abs=0.03)
    assert (np.diff(cells[:, 3]) > 0).all()


def test_pictures_smaller_than_a_thumbnail_have_a_form() -> None:
    pixels = np.ones((3, 5, 4), np.float32)
    found = form_of(Image(pixels, "unit-interval", 8, None, "PNG"))
    assert found.thumbnail.shape == (256,)
    assert np.isfinite(found.thumbnail).all()
