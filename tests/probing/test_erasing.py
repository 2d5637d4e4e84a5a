"""A device painted out: planted readers get the sign right, seen radiographs are never used, nothing is kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import evalfm
from evalfm.cli.app import app
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.inpainting import Region
from evalfm.data.manifest import Manifest
from evalfm.data.registered import register
from evalfm.encoders import Encoder, EncoderCard
from evalfm.encoders.encoder import EncoderState, RawFeatures
from evalfm.errors import EvalfmError
from evalfm.probing.erasing import Erased, Erasure, PaintedOver, _places, erase
from evalfm.probing.held_out import HeldOutImages
from evalfm.progress import SILENT
from evalfm.run import Run
from evalfm.tasks.cohort import resolve_task, select_cohort

SIDE = 48
TUBE = (slice(8, 40), slice(8, 11))
MIRRORED = (slice(8, 40), slice(SIDE - 11, SIDE - 8))


def make_radiographs(folder: Path, patients: range, name: str, seed: int = 0, **info: object) -> Manifest:
    """Noise, 16 bits, two images a patient; three in four patients with a tube, more often where there is a finding."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = []
    for patient in patients:
        for radiograph in range(2):
            finding = patient % 2
            tube = rng.random() < (0.9 if finding else 0.6)
            pixels = rng.normal(20000, 2000, (SIDE, SIDE))
            mask = np.zeros((SIDE, SIDE), dtype=bool)
            if tube:
                mask[TUBE] = True
                pixels[mask] += 25000 + rng.normal(0, 3000)
            # The other side is brighter with the finding, so that a reader of it has learnt something.
            pixels[MIRRORED] += 4000 * finding
            image = f"{patient}-{radiograph}"
            Image.fromarray(pixels.clip(0, 65535).astype(np.uint16)).save(folder / f"{image}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{image}-tube.png")
            split = "train" if patient % 5 < 2 else "val" if patient % 5 == 2 else "test"
            lines.append(
                {
                    "id": f"{name}-{image}",
                    "patient": f"{name}-{patient}",
                    "image": f"{image}.png",
                    "split": split,
                    "finding": finding,
                    "chest_tube": int(tube),
                    "size": float(rng.random()),
                    "chest_tube_mask": f"{image}-tube.png",
                }
            )
    facts: dict[str, object] = {
        "name": name,
        "public_ids": True,
        "label_source": {"finding": "planted", "chest_tube": "mask", "size": "planted"},
        "label_kinds": {"size": "number"},
        "mask_dialects": {"chest_tube": "file"},
        "attributes": ["chest_tube"],
        **info,
    }
    Manifest(DatasetInfo(**facts), pd.DataFrame(lines), folder).write(folder)  # type: ignore[arg-type]
    return Manifest.read(folder)


class Spot(Encoder):
    """Reads the mean brightness of one place, and sees nothing else."""

    def __init__(self, name: str, place: tuple[slice, slice]) -> None:
        card = EncoderCard(
            name=name,
            summary="The brightness of a place.",
            family="own",
            architecture="a mean",
            weights={"source": "none"},
            licence="ours",
            commercial_use="yes",
            parameters=0,
            preprocessing={
                "input_size": (SIDE, SIDE), "resize": "squash", "interpolation": "bilinear", "antialias": True,
                "channels": 1, "units": ("unit-interval",), "input_range": (0, 1), "mean": (0.0,), "std": (1.0,),
            },
            poolings={"spot": 1},
            pooling="spot",
            paradigm="none",
            domain="none",
        )  # fmt: skip
        super().__init__(card, EncoderState())
        self.place = place

    def _forward(self, batch: torch.Tensor) -> RawFeatures:
        rows, columns = self.place
        return RawFeatures(pooled={"spot": batch[:, 0, rows, columns].mean(dim=(1, 2))[:, None]})


READERS = {"tube": Spot("reads-the-tube", TUBE), "mirrored": Spot("reads-the-other-side", MIRRORED)}


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_radiographs(tmp_path_factory.mktemp("films") / "data", range(100), "own")


@pytest.fixture(scope="module")
def runs(radiographs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    out = tmp_path_factory.mktemp("runs")
    made = {}
    for name, reader in READERS.items():
        (made[name],) = evalfm.probe(reader, "finding", data=radiographs, heads=["linear"], baselines="none", out=out)
    for name, encoder, more in (("constant", "constant", {}), ("folds", READERS["tube"], {"folds": 3})):
        (made[name],) = evalfm.probe(
            encoder,
            "finding",
            data=radiographs,
            heads=["linear"],
            baselines="none",
            out=out,
            **more,  # type: ignore[arg-type]
        )
    return made


def score(found: Erased, among: str) -> Erasure:
    (row,) = [each for each in found.erasures if each.answer == "score_finding" and each.among == among]
    return row


@pytest.mark.parametrize("among", ["without finding", "with finding"])
def test_a_reader_of_the_tube_loses_it_and_the_control_does_nothing(
    runs: dict[str, Run], radiographs: Manifest, among: str
) -> None:
    row = score(erase(runs["tube"], radiographs, encoder=READERS["tube"]), among)
    assert row.device is not None
    assert row.control is not None
    assert row.contrast is not None
    assert row.device.high is not None
    assert row.device.high < 0
    # Its spot was not painted over: the very same features.
    assert (row.control.value, row.control.p, row.control.low) == (0.0, 1.0, None)
    assert row.contrast.value == row.device.value


def test_a_reader_of_the_other_side_is_moved_by_the_control_alone(runs: dict[str, Run], radiographs: Manifest) -> None:
    row = score(erase(runs["mirrored"], radiographs, encoder=READERS["mirrored"]), "with finding")
    assert row.device is not None
    assert row.control is not None
    assert row.contrast is not None
    assert row.device.value == 0.0
    assert row.control.value < 0
    assert row.contrast.value == pytest.approx(-row.control.value)


def test_a_run_that_looks_at_nothing_changes_by_nothing(runs: dict[str, Run], radiographs: Manifest) -> None:
    for row in erase(runs["constant"], radiographs).erasures:
        for found in (row.device, row.control, row.contrast):
            assert found is not None
            assert (found.value, found.standard_error, found.low, found.high, found.p) == (0, 0, None, None, 1)


def with_tube(radiographs: Manifest, split: str | None = None) -> pd.DataFrame:
    table = radiographs.table
    keep = table["chest_tube"] == 1
    return table[keep if split is None else keep & (table["split"] == split)]


def test_of_the_runs_own_data_its_test_radiographs_alone_are_used(runs: dict[str, Run], radiographs: Manifest) -> None:
    found = erase(runs["tube"], radiographs, encoder=READERS["tube"])
    mine = with_tube(radiographs, "test")
    assert found.images == len(mine)
    assert {item.reason: item.images for item in found.left_out} == {
        "in the run's train or val, or unused": int((radiographs.table["split"] != "test").sum()),
        "without chest_tube": int((radiographs.table["split"] == "test").sum()) - len(mine),
    }
    predicted = runs["tube"].predictions().set_index("id")["score_finding"]
    for truth, among in enumerate(("without finding", "with finding")):
        ids = mine["id"][mine["finding"] == truth]
        assert score(found, among).as_it_is == pytest.approx(predicted[ids].mean(), abs=1e-6)


def test_over_folds_each_radiograph_is_answered_by_the_head_that_has_not_seen_it(
    runs: dict[str, Run], radiographs: Manifest
) -> None:
    found = erase(runs["folds"], radiographs, encoder=READERS["tube"])
    assert found.images == len(with_tube(radiographs))
    table = runs["folds"].predictions()
    predicted = table[table["split"] == "test"].set_index("id")
    for truth, among in enumerate(("without finding", "with finding")):
        ids = with_tube(radiographs)["id"][with_tube(radiographs)["finding"] == truth]
        assert score(found, among).as_it_is == pytest.approx(predicted["score_finding"][ids].mean(), abs=1e-6)
    (decided,) = [e for e in found.erasures if e.answer == "decision_finding" and e.among == "with finding"]
    cut = predicted.loc[ids]
    assert decided.as_it_is == pytest.approx((cut["score_finding"] >= cut["threshold"]).mean())


def test_other_data_are_used_without_what_the_run_has_seen(
    runs: dict[str, Run], radiographs: Manifest, tmp_path: Path, home: Path
) -> None:
    others = make_radiographs(tmp_path / "others", range(200, 230), "others", seed=7)
    # Ten radiographs of train and four of test stand in the other set too, under other names.
    rows = [*np.flatnonzero(radiographs.splits == "train")[:10], *np.flatnonzero(radiographs.splits == "test")[:4]]
    copied = radiographs.table.iloc[rows].copy()
    for name in [*copied["image"], *copied["chest_tube_mask"]]:
        (others.root / name).write_bytes((radiographs.root / name).read_bytes())
    copied["id"], copied["patient"] = "copy-" + copied["id"], "copy-" + copied["patient"]
    mixed = Manifest(others.info, pd.concat([others.table, copied], ignore_index=True), others.folder)
    mixed = mixed.with_split(["test"] * len(mixed))
    found = erase(runs["tube"], mixed, trained_on=radiographs, encoder=READERS["tube"])
    assert ("of the run's train or val", 10) in [(item.reason, item.images) for item in found.left_out]
    assert found.images == len(with_tube(others)) + int((copied["chest_tube"].iloc[10:] == 1).sum())
    with pytest.raises(EvalfmError, match=r"own data, own, with --trained-on DIR"):
        erase(runs["tube"], mixed, encoder=READERS["tube"])
    register("any-word", radiographs.folder)
    assert erase(runs["tube"], mixed, encoder=READERS["tube"]).images == found.images
    with pytest.raises(EvalfmError, match="is not it either"):
        erase(runs["tube"], mixed, trained_on=others, encoder=READERS["tube"])
    seen = radiographs.select(radiographs.splits == "train").with_split(
        ["test"] * int((radiographs.splits == "train").sum())
    )
    with pytest.raises(EvalfmError, match="trained or chosen on every image"):
        erase(runs["tube"], seen, trained_on=radiographs, encoder=READERS["tube"])


def test_of_kindred_data_radiographs_of_the_same_patients_leave_too(
    runs: dict[str, Run], radiographs: Manifest, tmp_path: Path
) -> None:
    again = make_radiographs(tmp_path / "again", range(60), "own", seed=3, derived_from=["own"])
    found = erase(runs["tube"], again, trained_on=radiographs, encoder=READERS["tube"])
    reasons = {item.reason: item.images for item in found.left_out}
    assert reasons["of patients of the run's train or val"] == sum(2 for patient in range(60) if patient % 5 < 3)


def test_own_data_that_were_changed_are_not_taken_for_the_runs(runs: dict[str, Run], radiographs: Manifest) -> None:
    moved = radiographs.splits.copy()
    moved[radiographs.splits == "train"] = "test"
    moved[np.flatnonzero(radiographs.splits == "train")[:40]] = "train"
    with pytest.raises(EvalfmError, match="ids, images, truth or split differ"):
        erase(runs["tube"], radiographs.with_split(moved), encoder=READERS["tube"])


def test_masks_measurements_and_radiographs_without_a_place(tmp_path: Path) -> None:
    radiographs = make_radiographs(tmp_path / "data", range(60), "sizes")
    table = radiographs.table
    test = np.flatnonzero((radiographs.splits == "test") & (table["chest_tube"] == 1).to_numpy())
    wide, unknown = int(test[0]), int(test[1])
    band = np.zeros((SIDE, SIDE), dtype=np.uint8)
    band[:, 4:44] = 255
    Image.fromarray(band).save(radiographs.root / table["chest_tube_mask"].iloc[wide])
    masks = table["chest_tube_mask"].copy()
    masks.iloc[unknown] = None
    radiographs = Manifest(radiographs.info, table.assign(chest_tube_mask=masks), radiographs.folder)
    out = tmp_path / "runs"
    (run,) = evalfm.probe("pixels", "size", data=radiographs, heads=["ridge"], baselines="none", out=out)
    found = erase(run, radiographs)
    reasons = {item.reason: item.images for item in found.left_out}
    assert reasons["without a place for the control region"] == 1
    assert reasons["whose chest_tube mask is unknown"] == 1
    assert found.images == len(test) - 2
    assert {(each.answer, each.among) for each in found.erasures} == {("prediction", "all images")}
    card = tmp_path / "seg.yaml"
    card.write_text("name: tube-seg\nschema: 1\nkind: segmentation\ntitle: Where?\ntarget: [chest_tube]\n")
    (run,) = evalfm.probe("hog", str(card), data=radiographs, heads=["linear"], baselines="none", out=out)
    rows = {each.answer: each for each in erase(run, radiographs).erasures if each.among == "with chest_tube"}
    assert set(rows) == {"area_predicted_chest_tube", "score_chest_tube"}
    contrast = rows["score_chest_tube"].contrast
    assert contrast is not None
    assert contrast.value < 0


def test_the_control_keeps_off_the_lesion_where_that_is_known(radiographs: Manifest) -> None:
    table, finding = radiographs.table, np.zeros((SIDE, SIDE), dtype=bool)
    finding[MIRRORED] = True
    Image.fromarray(finding.astype(np.uint8) * 255).save(radiographs.root / "finding.png")
    masks = np.where(table["finding"] == 1, "finding.png", "-1").astype(object)
    known = np.flatnonzero((table["finding"] == 1) & (table["chest_tube"] == 1))
    masks[known[0]] = None
    info = radiographs.info.model_copy(update={"mask_dialects": {"chest_tube": "file", "finding": "file"}})
    marked = Manifest(info, table.assign(finding_mask=masks), radiographs.folder)
    cohort = select_cohort(resolve_task("finding", marked), marked)
    places = _places(HeldOutImages(cohort, ((None, np.arange(len(cohort))),), ()), "chest_tube", SILENT)
    assert places.lesion_unknown == 1
    moved = 0
    for row, control in places.control.items():
        tube = places.device[row].mask((SIDE, SIDE))
        place = control.mask((SIDE, SIDE))
        assert place.sum() == tube.sum()
        assert not (place & tube).any()
        on_it = bool((place & finding).any())
        assert on_it == (masks[row] != "finding.png")
        moved += not on_it
    assert moved == len(known) - 1


def test_nothing_stays_of_painted_radiographs(
    runs: dict[str, Run], radiographs: Manifest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    evalfm.predict(runs["tube"], radiographs, encoder=READERS["tube"], out=tmp_path / "predicted")

    def held() -> set[str]:
        return {str(path) for path in tmp_path.rglob("*") if path.is_file()}

    before = held()
    erase(runs["tube"], radiographs, encoder=READERS["tube"])
    # Features of the images as they are were there before; those of painted images never come. What is new is what the
    # data set's own masks are, so that they need not be decoded again, and digests of its files, which were known here.
    assert {Path(each).parent for each in held() - before} <= {home / "cache" / "masks", home / "cache" / "digests"}
    assert held() >= before
    assert not list((tmp_path / "scratch").iterdir())


def test_a_painted_radiograph_is_another_radiograph(radiographs: Manifest) -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[TUBE] = True
    here, there = Region.of(mask), Region.of(mask[:, ::-1])
    painted = [
        PaintedOver(radiographs.info, radiographs.table, radiographs.folder, dict.fromkeys(range(4), each))
        for each in (here, there)
    ]
    told = [radiographs.digest(0), *(each.digest(0) for each in painted)]
    assert len(set(told)) == 3
    assert [str(each.digests([0])[0]) for each in (radiographs, *painted)] == told
    assert not np.array_equal(painted[0].image(0).pixels, radiographs.image(0).pixels)
    assert np.array_equal(painted[0].image(0).pixels[0][~mask], radiographs.image(0).pixels[0][~mask])


def test_what_is_missing_or_does_not_go_together_is_refused(runs: dict[str, Run], radiographs: Manifest) -> None:
    with pytest.raises(EvalfmError, match=r"has masks of chest_tube, not of pacemaker; name a data set"):
        erase(runs["tube"], radiographs, mask="pacemaker")
    bare = Manifest(
        radiographs.info.model_copy(update={"mask_dialects": {}}), radiographs.table.iloc[:, :-1], radiographs.folder
    )
    with pytest.raises(EvalfmError, match=r"has no masks, not of chest_tube.*leave --data out for phantom images"):
        erase(runs["tube"], bare)
    nowhere = str(runs["tube"].folder)
    for arguments in (["--mask", "x"], ["--trained-on", "x"], ["--data", "x", "--images", "20"]):
        told = CliRunner().invoke(app, ["counterfactual", nowhere, *arguments])
        assert isinstance(told.exception, EvalfmError), arguments


def test_the_verb_prints_what_was_found(runs: dict[str, Run], radiographs: Manifest) -> None:
    told = CliRunner().invoke(
        app, ["counterfactual", str(runs["constant"].folder), "--data", str(radiographs.folder)], env={"COLUMNS": "200"}
    )
    assert told.exit_code == 0, told.output
    assert f"painted out of {len(with_tube(radiographs, 'test'))} images of own" in told.output
    assert "without chest_tube" in told.output
    as_json = CliRunner().invoke(
        app, ["counterfactual", str(runs["constant"].folder), "--data", str(radiographs.folder), "--json"]
    )
    assert '"mask": "chest_tube"' in as_json.output
