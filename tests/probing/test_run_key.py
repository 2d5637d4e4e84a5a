"""The key of a run covers all that the run depends on and nothing else, and a run that is given back is said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evalfm.config import EncoderConfig, ProbeConfig
from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.errors import EvalfmError
from evalfm.heads import load_head
from evalfm.probing.head_group import HeadGroup, place_of
from evalfm.probing.labelled import SplitAssignment, measured_key
from evalfm.probing.probe import SomeFailedError, probe
from evalfm.probing.session import open_session
from evalfm.probing.splits import make_splits
from evalfm.progress import SILENT
from evalfm.run import Run
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import resolve_task, select_cohort

from ..squares import make_squares


class Told:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def track(self, items: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
        yield from items

    def say(self, message: str) -> None:
        self.said.append(message)


def changed(manifest: Manifest, info: dict[str, object] | None = None, **columns: object) -> Manifest:
    return Manifest(manifest.info.model_copy(update=info or {}), manifest.table.assign(**columns), manifest.folder)


def linear(manifest: Manifest, out: Path, task: str = "square", **options: Any) -> Run:
    options = {"progress": Told()} | options
    (run,) = probe("pixels", task, data=manifest, heads=["linear"], baselines="none", out=out, **options)
    return run


def test_patients_that_became_known_are_another_run_with_other_units(squares: Manifest, tmp_path: Path) -> None:
    unknown = Manifest(squares.info, squares.table.drop(columns="patient"), squares.folder)
    before, after = linear(unknown, tmp_path), linear(squares, tmp_path)
    assert before.folder != after.folder
    assert [run.metrics["auroc"].unit for run in (before, after)] == ["images", "patients"]
    merged = changed(squares, patient=[f"p{number // 2}" for number in range(len(squares))])
    merged = merged.with_split(["train"] * 40 + ["val"] * 16 + ["test"] * (len(squares) - 56))
    apart = changed(merged, patient=squares.table["patient"])
    (one,), (other,) = ([linear(each, tmp_path)] for each in (merged, apart))
    assert one.record.data.splits.test.patients < other.record.data.splits.test.patients


def test_a_corrected_attribute_is_another_run_that_tells_the_new_one(squares: Manifest, tmp_path: Path) -> None:
    before = linear(squares, tmp_path)
    swapped = changed(squares, sex=squares.table["sex"].map({"F": "M", "M": "F"}))
    after = linear(swapped, tmp_path)
    assert (after.predictions()["sex"] != before.predictions()["sex"]).all()
    undeclared = linear(changed(squares, {"attributes": ["age"]}), tmp_path)
    assert "sex" not in undeclared.predictions()


def test_renamed_classes_are_another_run_with_their_names(squares: Manifest, tmp_path: Path) -> None:
    def graded(*names: str) -> Manifest:
        word = np.array(names, dtype=object)[np.arange(len(squares)) % 3]
        facts = {"label_source": {"grade": "reader"}, "label_kinds": {"grade": "class"}, "mask_dialects": {}}
        return changed(
            Manifest(squares.info, squares.table.drop(columns="square_mask"), squares.folder), facts, grade=word
        )

    linear(graded("mild", "none", "severe"), tmp_path, "grade")
    run = linear(graded("grade1", "grade2", "grade3"), tmp_path, "grade")
    assert [name for name in run.predictions() if name.startswith("score")] == [f"score_grade{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "change",
    [
        {"info": {"public_ids": False, "salt": "one"}},
        {"info": {"redistributable_images": False}},
        {"info": {"synthetic": True}},
        {"info": {"derived_from": ["other"]}},
        {"info": {"licence": "CC0-1.0"}},
        {"info": {"citation": "Corrected et al. 2026"}},
        {"info": {"label_source": {"square": "report", "size": "mask"}}},
        {"spacing_row_mm": 0.2, "spacing_column_mm": 0.2},
    ],
    ids=str,
)
def test_whatever_else_a_run_repeats_of_its_data_is_in_its_key(
    squares: Manifest, tmp_path: Path, change: dict[str, Any]
) -> None:
    def facts(manifest: Manifest) -> tuple[str, str]:
        cohort = select_cohort(resolve_task("square", manifest), manifest)
        assignment = SplitAssignment.of(cohort, None, make_splits(cohort, SplitOptions()))
        return assignment.key, assignment.facts

    before, after = facts(squares), facts(changed(squares, **change))
    assert before[0] == after[0], "which images were learnt from stays recognised"
    assert before[1] != after[1]


def test_a_fresh_salt_gives_other_names_and_so_another_run(squares: Manifest, tmp_path: Path) -> None:
    one, other = (linear(changed(squares, {"public_ids": False, "salt": salt}), tmp_path) for salt in ("one", "two"))
    assert not set(one.predictions()["id"]) & set(other.predictions()["id"])


def test_what_changes_no_result_is_not_in_the_key(squares: Manifest, square_seg: str, tmp_path: Path) -> None:
    told = Told()
    options: dict[str, Any] = {"heads": ["linear"], "baselines": "none", "out": tmp_path, "progress": told}
    (first,) = probe("hog", square_seg, data=squares, **options)
    for other in ({"batch_size": 3}, {"workers": 1}, {"maps": "stream"}, {"maps": "store"}, {"cache_images": True}):
        told.said.clear()
        (run,) = probe("hog", square_seg, data=squares, **options, **other)
        assert run.folder == first.folder
        assert told.said[-1] == f"Run {first.folder} is there already, returned as it is; --force runs it again."


def test_precision_recipe_and_masks_are_in_the_key(squares: Manifest, tmp_path: Path) -> None:
    cohort = select_cohort(resolve_task("square", squares), squares)
    assignment = SplitAssignment.of(cohort, None, make_splits(cohort, SplitOptions()))
    session = open_session("random:test_resnet", EncoderConfig(devices="cpu"), squares, None, SILENT)

    def key(session: Any = session, adaptation: Any = "full", processes: int = 1, **recipe: object) -> str:
        config = ProbeConfig(encoder="r", task="square", adaptation=adaptation, recipe=recipe, batch_size=7)
        session = replace(session, devices=("cpu",) * processes)
        return place_of(HeadGroup(session, ("mlp",), config), load_head("mlp", "binary"), assignment, 0)[1]

    assert key() == key()
    assert key(batch_size=8) != key()
    assert key(replace(session, training_precision="float16")) != key()
    # Statistics of a batch are those of each process's share; held ones are the same for any number.
    assert key(processes=2) == key()
    assert key(adaptation="scratch", processes=2) != key(adaptation="scratch")
    full, half = (load_encoder("random:test_resnet", precision=name) for name in ("float32", "bfloat16"))
    assert full.key != half.key


NOT_AS_IT_IS = {
    "pooling": "in the encoder's name and card by then, which are in the key of its features",
    "layers": "in the encoder's name and card by then, which are in the key of its features",
    "encoder": "the encoder's own key: weights, card, preprocessing",
    "weights": "the encoder's own key",
    "input_size": "the encoder's own key",
    "resize": "the encoder's own key",
    "precision": "the encoder's own key, and that of a training",
    "task": "the task's card, whole",
    "data": "the images, truths and facts of the cohort",
    "test_data": "the images, truths and facts of the test cohort",
    "heads": "each head has a run of its own, with its name and grid",
    "seeds": "each seed has a run of its own, with its number",
    "episodes": "the draw of all of them, which is part of the data",
    "queries": "the draw of all of them",
    "strength": "the settings of the head that has it, where episodes are solved",
    "prompts": "the sentences themselves, for heads that read them",
    "adaptation": "its name",
    "recipe": "the whole recipe",
    "baselines": "others stand beside the run or do not",
    "devices": "where a run is computed; how many train together only where each normalises its own share of a batch",
    "executor": "where a run is computed",
    "address": "where a run is computed",
    "compile": "how a run is computed; recorded with its features",
    "batch_size": "how a run is computed",
    "workers": "how a run is computed",
    "maps": "where maps are kept",
    "cache_images": "where images are kept",
    "profile": "whether seconds are printed",
    "out": "where the run is written",
    "force": "whether it is made again",
}
"""Options that do not enter the key as they are: by what they do, or why they do not."""


def another(name: str) -> Any:
    """A value of the option that is not its default; what it says does not matter here."""
    field = ProbeConfig.model_fields[name]
    kinds: dict[type, Any] = {bool: True, int: 3, float: 0.5, str: "x"}
    named = [kind for kind in kinds if kind is field.annotation or kind in get_args(field.annotation)]
    assert named, f"say here what another value of {name} is"
    return kinds[named[0]]


@pytest.mark.parametrize("name", ProbeConfig.model_fields)
def test_every_option_is_in_the_key_or_has_a_reason_not_to_be(name: str, squares: Manifest, tmp_path: Path) -> None:
    plain = ProbeConfig(encoder="pixels", task="square", out=tmp_path)
    if name in NOT_AS_IT_IS:
        assert name not in plain.key_options()
        return
    cohort = select_cohort(resolve_task("square", squares), squares)
    assignment = SplitAssignment.of(cohort, None, make_splits(cohort, SplitOptions()))
    session = open_session("pixels", EncoderConfig(devices="cpu"), squares, None, SILENT)

    def key(config: ProbeConfig) -> str:
        return place_of(HeadGroup(session, ("linear",), config), load_head("linear", "binary"), assignment, 0)[1]

    changed = plain.model_copy(update={name: another(name)})
    assert getattr(changed, name) != getattr(plain, name)
    assert key(changed) != key(plain), "put the option in the key, or say above why it is not"


def test_a_mask_moved_without_a_change_of_its_area_is_another_run_for_heads_that_learn_on_it(tmp_path: Path) -> None:
    card = tmp_path / "size-seg.yaml"
    card.write_text(
        "name: square-size\nschema: 1\nkind: regression\ntitle: t\ntarget: [square]\nmeasure: area-fraction\n"
    )
    radiographs = make_squares(tmp_path / "films", patients=12)

    def keys() -> tuple[list[float], str]:
        cohort = select_cohort(resolve_task(str(card), radiographs), radiographs)
        return cohort.target.tolist(), measured_key(cohort)

    before = keys()
    mask = np.asarray(Image.open(tmp_path / "films" / "s1-0-mask.png"))
    Image.fromarray(mask[::-1]).save(tmp_path / "films" / "s1-0-mask.png")
    after = keys()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_run_that_is_given_back_is_said_and_a_baseline_of_this_call_is_not(squares: Manifest, tmp_path: Path) -> None:
    told = Told()
    encoders = ["pixels", "hog"]
    runs = probe(encoders, "square", data=squares, heads=["linear"], out=tmp_path, progress=told)
    # Each once: the constant and the metadata that both encoders are held against, and pixels that is a baseline too.
    assert [(run.encoder, run.is_baseline) for run in runs] == [
        ("pixels", False),
        ("constant", True),
        ("metadata", True),
        ("hog", False),
    ]
    assert not [said for said in told.said if "already" in said]
    with pytest.warns(UserWarning, match="4 runs are there already, returned as they are; force=True runs them again"):
        again = probe(encoders, "square", data=squares, heads=["linear"], out=tmp_path)
    assert [run.folder for run in again] == [run.folder for run in runs]
    stamps = {run.folder: (run.folder / "run.json").stat().st_mtime_ns for run in runs}
    told.said.clear()
    probe(encoders, "square", data=squares, heads=["linear"], out=tmp_path, force=True, progress=told)
    assert not [said for said in told.said if "already" in said]
    assert all((folder / "run.json").stat().st_mtime_ns > stamp for folder, stamp in stamps.items())
    assert sum("constant × square" in said for said in told.said) == 1


def test_episodes_given_back_are_said_and_other_names_are_other_episodes(squares: Manifest, tmp_path: Path) -> None:
    told = Told()

    def asked(manifest: Manifest) -> Path:
        options: dict[str, Any] = {"heads": ["prototypes"], "shots": 1, "queries": 2, "episodes": 3}
        options |= {"baselines": "none", "out": tmp_path, "progress": told}
        return probe("pixels", "square", data=manifest, **options)[0].folder

    first = asked(squares)
    assert not [said for said in told.said if "already" in said]
    assert asked(changed(squares, sex="F")) == first, "episodes tell no attributes"
    assert [said for said in told.said if "already" in said] == [
        f"Run {first} is there already, returned as it is; --force runs it again."
    ]
    assert asked(changed(squares, {"public_ids": False, "salt": "one"})) != first


def test_one_that_fails_leaves_the_others_and_is_told(squares: Manifest, tmp_path: Path) -> None:
    pd.DataFrame({"id": squares.table["id"][:5], "x": 1.0}).to_csv(tmp_path / "few,one.csv", index=False)
    encoders = [f"precomputed:{tmp_path / 'few,one.csv'}", "pixels"]
    with pytest.raises(SomeFailedError) as told:
        probe(encoders, ["square", "sex"], data=squares, heads=["linear"], baselines="none", out=tmp_path / "runs")
    assert [(run.encoder, run.task) for run in told.value.runs] == [("pixels", "square"), ("pixels", "sex")]
    assert list(told.value.failures) == [f"{encoders[0]} × {task}" for task in ("square", "sex")]
    assert all("lacks 75 of 80 images" in sentence for sentence in told.value.failures.values())
    assert not told.value.traces
    with pytest.raises(EvalfmError, match="lacks 75 of 80 images") as alone:
        probe(encoders[0], "square", data=squares, heads=["linear"], baselines="none", out=tmp_path / "runs")
    assert not isinstance(alone.value, SomeFailedError)


def test_wrong_names_of_any_are_told_before_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr("evalfm.probing.measure.load_cohort", never)
    with pytest.raises(EvalfmError, match="3 names") as told:
        probe(["hog", "hgo"], ["ptx-cls", "ptx-csl"], heads=["liner"], out=tmp_path)
    assert all(f"'{name}'" in str(told.value) for name in ("hgo", "ptx-csl", "liner"))
    with pytest.raises(EvalfmError, match="'linear' does not serve regression"):
        probe("hog", ["ptx-cls", "ctr"], heads=["linear"], out=tmp_path)
    with pytest.raises(EvalfmError, match="--weights PATH is of one encoder"):
        probe(["hog", "pixels"], "ptx-cls", weights="x.safetensors", out=tmp_path)


@pytest.mark.parametrize("encoder", ["pixels", "metadata"])
@pytest.mark.parametrize("options", [{}, {"shots": 4}, {"folds": 3}, {"limit": 60}], ids=str)
def test_the_order_of_the_table_makes_no_other_run(
    squares: Manifest, tmp_path: Path, encoder: str, options: dict[str, Any]
) -> None:
    shuffled = squares.table.sample(frac=1, random_state=3).reset_index(drop=True)
    asked: dict[str, Any] = {"heads": ["linear"], "baselines": "none", "out": tmp_path} | options
    (one,) = probe(encoder, "square", data=squares, **asked)
    with pytest.warns(UserWarning, match="is there already"):
        (other,) = probe(encoder, "square", data=Manifest(squares.info, shuffled, squares.folder), **asked)
    assert one.folder == other.folder
    reversed_table = squares.table.iloc[::-1].reset_index(drop=True)
    (again,) = probe(
        encoder,
        "square",
        data=Manifest(squares.info, reversed_table, squares.folder),
        **asked | {"out": tmp_path / "b"},
    )
    pd.testing.assert_frame_equal(one.predictions(), again.predictions())
