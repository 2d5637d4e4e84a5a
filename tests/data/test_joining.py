"""Second tables: what meets, what is filled, what is refused."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image as Pil

from evalfm.data.config import JoinConfig
from evalfm.data.dataset_info import DatasetInfo
from evalfm.data.joining import join, read_other
from evalfm.data.known_joins import known_join
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError


def manifest(**columns: list[object]) -> Manifest:
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "image": ["x/1.png", "x/2.png", "y/3.png", "y/4.png"], **columns})
    return Manifest(DatasetInfo(name="mine", label_source=dict.fromkeys(columns, "stated")), table, Path("."))


def other(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"film": ["b", " a", "z"], **columns})


def test_rows_meet_by_key_whatever_their_order() -> None:
    done = join(
        manifest(),
        other(tube=[1, 0, 1], maker=["A", "B", "C"]),
        JoinConfig(
            join_on="id=film", labels={"chest_tube": "tube"}, attributes={"maker": "maker"}, source="radiologist"
        ),
        "tubes.csv",
    )
    wider = done.manifest
    assert wider.label("chest_tube").tolist()[:2] == [0, 1]
    assert np.isnan(wider.label("chest_tube")[2:]).all()
    assert wider.table["maker"].tolist() == ["B", "A", None, None]
    assert (done.matched, done.unmatched, done.unused, done.example) == (2, 2, 1, "z")
    assert done.filled == {"chest_tube": 2, "maker": 2}
    assert wider.info.label_source["chest_tube"] == "radiologist"
    assert wider.info.attributes == ["maker"]
    assert "chest_tube, maker joined from a second table for 2 of 4 images." in wider.info.notes


@pytest.mark.parametrize(("mine", "keys"), [("image", ["x/2.png", "y/3.png"]), ("image_name", ["2.png", "3.png"])])
def test_splits_of_the_locator_are_keys(mine: str, keys: list[str]) -> None:
    table = pd.DataFrame({"file": keys, "edema": [1, 0]})
    done = join(manifest(), table, JoinConfig(join_on=f"{mine}=file", labels={"edema": "edema"}), "t")
    assert done.manifest.label("edema").tolist()[1:3] == [1, 0]
    stems = join(
        manifest(), table.assign(file=["2", "3"]), JoinConfig(join_on="image_stem=file", labels={"edema": "edema"}), "t"
    )
    assert stems.manifest.label("edema").tolist()[1:3] == [1, 0]


def test_a_file_name_that_several_images_bear_is_no_key() -> None:
    table = manifest().table.assign(image=["x/1.png", "x/2.png", "y/1.png", "y/2.png"])
    twice = Manifest(DatasetInfo(name="mine"), table, Path("."))
    edema = pd.DataFrame({"file": ["1.png"], "edema": [1]})
    with pytest.raises(EvalfmError, match=r"Several images have the image_name '1\.png'"):
        join(twice, edema, JoinConfig(join_on="image_name=file", labels={"edema": "edema"}), "t")


def test_known_values_are_kept_unless_requested() -> None:
    mine = manifest(edema=[0, 1, float("nan"), 1])
    table = pd.DataFrame({"film": ["a", "b", "c", "d"], "edema": [1, 1, 1, None]})
    joining = JoinConfig(join_on="id=film", labels={"edema": "edema"})
    with pytest.raises(EvalfmError, match=r"t\.csv would change known values \(1 of edema\).*--replace"):
        join(mine, table, joining, "t.csv")
    done = join(mine, table, JoinConfig(join_on="id=film", labels={"edema": "edema"}, replace=True), "t.csv")
    # Where the other table says nothing, what is known stays.
    assert done.manifest.label("edema").tolist() == [1, 1, 1, 1]
    assert (done.filled, done.changed) == ({"edema": 1}, {"edema": 1})
    assert mine.label("edema").tolist()[:2] == [0, 1]


def test_a_key_that_stands_twice() -> None:
    twice = pd.DataFrame({"film": ["a", "a", "b"], "edema": [1, 1, 0]})
    joining = JoinConfig(join_on="id=film", labels={"edema": "edema"})
    assert join(manifest(), twice, joining, "t").matched == 2
    with pytest.raises(EvalfmError, match="1 keys with different values in several rows, such as 'a'"):
        join(manifest(), twice.assign(edema=[1, 0, 0]), joining, "t")


@pytest.mark.parametrize(
    ("joining", "said"),
    [
        (JoinConfig(join_on="id=flim", labels={"tube": "tube"}), "no column of t 'flim'. Did you mean 'film'"),
        (JoinConfig(join_on="idd=film", labels={"tube": "tube"}), "Did you mean 'id'"),
        (JoinConfig(join_on="id=film", labels={"tube": "tubes"}), "Did you mean 'tube'"),
        (
            JoinConfig(join_on="image=film", labels={"tube": "tube"}),
            r"No row of mine meets one of t: image is like 'x/1\.png'",
        ),
        (JoinConfig(join_on="image_name=film", labels={"tube": "tube"}), "No row of mine"),
        (JoinConfig(join_on="id=film"), "Nothing is taken"),
        (JoinConfig(join_on="id=film", labels={"word": "word"}), "holds words"),
        (JoinConfig(join_on="id=film", labels={"grade": "grade"}), "binary label 'grade' holds 2"),
        (JoinConfig(join_on="id=film", labels={"split": "tube"}), "cannot be named 'split'"),
    ],
)
def test_what_does_not_fit_is_refused(joining: JoinConfig, said: str) -> None:
    table = other(tube=[1, 0, 1], word=["q", "r", "s"], grade=[0, 2, 1])
    with pytest.raises(EvalfmError, match=said):
        join(manifest(), table, joining, "t")


@pytest.mark.parametrize("keys", [[], [None, ""], [" "]])
def test_a_table_without_a_key_is_refused(keys: list[str | None]) -> None:
    table = pd.DataFrame({"film": pd.Series(keys, dtype=object), "tube": pd.Series([1.0] * len(keys))})
    with pytest.raises(EvalfmError, match="t has no row with a value in film"):
        join(manifest(), table, JoinConfig(join_on="id=film", labels={"tube": "tube"}), "t")


def test_a_number_or_class_is_taken_by_its_kind() -> None:
    joining = JoinConfig(join_on="id=film", labels={"grade": "grade"}, label_kinds={"grade": "number"})
    done = join(manifest(), other(grade=[2.5, 7, 1]), joining, "t")
    assert done.manifest.label("grade").tolist()[:2] == [7, 2.5]
    assert done.manifest.info.label_kind("grade") == "number"


def test_pickled_ids_are_read_without_importing(tmp_path: Path) -> None:
    path = tmp_path / "tubes.pkl"
    for protocol in (2, 4, 5):
        content = OrderedDict({"a": True, "b": np.bool_(False), "c": np.float64(1.0), "d": 0})
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        table = read_other(path)
        assert table["key"].tolist() == ["a", "b", "c", "d"]
        assert [bool(value) for value in table["value"]] == [True, False, True, False]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch should-not-exist",)


def test_a_pickle_with_code_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(EvalfmError, match=r"refused.*system"):
        read_other(path)
    assert not (tmp_path / "should-not-exist").exists()
    path.write_bytes(pickle.dumps({"a": True})[:-3])
    with pytest.raises(EvalfmError, match="damaged"):
        read_other(path)
    path.write_bytes(pickle.dumps(["a"]))
    with pytest.raises(EvalfmError, match="no mapping"):
        read_other(path)


def test_tubes_of_siim(tmp_path: Path) -> None:
    path = tmp_path / "tubes.pkl"
    path.write_bytes(pickle.dumps({"1": True, "3": False, "9": True}))
    table, joining = known_join(manifest(), read_other(path), JoinConfig(known="tubes"))
    done = join(manifest(), table, joining, "tubes")
    assert done.manifest.label("chest_tube").tolist()[::2] == [1, 0]
    assert done.manifest.info.attributes == ["chest_tube"]
    assert "radiologist" in done.manifest.info.label_source["chest_tube"]


def test_drains_of_chexpert_meet_whatever_the_release() -> None:
    paths = ["CheXpert-v1.0/train/p1/s1/v.jpg", "CheXpert-v1.0/train/p2/s1/v.jpg"]
    mine = Manifest(DatasetInfo(name="c"), pd.DataFrame({"id": ["1", "2"], "image": paths}), Path("."))
    drains = pd.DataFrame({"Path": [paths[1].replace("v1.0", "v1.0-small")], "Sex": ["F"], "Drain": [1]})
    table, joining = known_join(mine, drains, JoinConfig(known="drains"))
    done = join(mine, table, joining, "drains")
    assert np.isnan(done.manifest.label("chest_tube")[0])
    assert done.manifest.label("chest_tube")[1] == 1
    assert any("sampling" in note for note in done.manifest.info.notes)


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    for name in ("1", "2", "3"):
        Pil.fromarray(np.zeros((6, 4), np.uint8)).save(tmp_path / f"{name}.png")
    table = pd.DataFrame({"id": ["i", "j", "k"], "image": ["1.png", "2.png", "3.png"]})
    return Manifest(DatasetInfo(name="nih", root=str(tmp_path)), table, tmp_path)


def chexmask(**changes: list[object]) -> pd.DataFrame:
    # Absolute, one-based, row-major: pixels 2 and 3 of the first row, and one of the last.
    columns: dict[str, list[object]] = {
        "Image Index": ["1.png", "2.png", "7.png"],
        "Dice RCA (Mean)": [0.9, 0.6, 0.8],
        "Dice RCA (Max)": [0.95, 0.7, 0.9],
        "Left Lung": ["2 2", "1 1", "1 1"],
        "Right Lung": ["24 1", "1 1", "1 1"],
        "Heart": ["5 4", "1 1", "1 1"],
        "Height": [6, 6, 6],
        "Width": [4, 4, 4],
    }
    return pd.DataFrame(columns | changes)


def test_chexmask_masks_are_pixels_of_the_image_and_marked_as_a_models(data: Manifest) -> None:
    table, joining = known_join(data, chexmask(), JoinConfig(known="chexmask"))
    done = join(data, table, joining, "masks.csv")
    assert (done.matched, done.unused) == (1, 1)
    heart, left = done.manifest.mask(0, "heart"), done.manifest.mask(0, "left_lung")
    assert heart is not None
    assert left is not None
    assert np.argwhere(heart).tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert np.argwhere(left).tolist() == [[0, 1], [0, 2]]
    assert done.manifest.mask(1, "heart") is None
    assert done.manifest.info.label_source["heart"] == "pseudo (CheXmask)"
    assert any("0.7 or more: 1 of 3 were left out" in note for note in done.manifest.info.notes)
    table, _ = known_join(data, chexmask(), JoinConfig(known="chexmask", least_rca=0.5))
    assert len(table) == 3


def test_swapped_columns_of_chexmask_are_caught(data: Manifest) -> None:
    swapped = chexmask(**{"Dice RCA (Mean)": [0.95, 0.7, 0.9], "Dice RCA (Max)": [0.9, 0.6, 0.8]})
    table, joining = known_join(data, swapped, JoinConfig(known="chexmask"))
    assert len(table) == 2
    assert "swapped" in (joining.note or "")
    mixed = chexmask(**{"Dice RCA (Max)": [0.95, 0.5, 0.9]})
    with pytest.raises(EvalfmError, match="mean estimated Dice above their largest"):
        known_join(data, mixed, JoinConfig(known="chexmask"))
    turned = chexmask(**{"Dice RCA (Mean)": [0.9, 0.7, 0.8]})
    with pytest.raises(EvalfmError, match="4 x 6 for row 1 of 6 x 4"):
        known_join(data, turned.assign(Height=[4, 6, 4], Width=[6, 4, 6]), JoinConfig(known="chexmask"))
    with pytest.raises(EvalfmError, match="blank"):
        known_join(data, chexmask(Height=[6, 6, None]), JoinConfig(known="chexmask"))
    with pytest.raises(EvalfmError, match="no column 'Dice RCA"):
        known_join(data, chexmask().drop(columns="Dice RCA (Mean)"), JoinConfig(known="chexmask"))


def test_masks_of_one_other_size_are_declared(data: Manifest) -> None:
    small = chexmask(Height=[3, 3, 3], Width=[2, 2, 2], Heart=["1 2", "1 1", "1 1"])
    table, joining = known_join(data, small, JoinConfig(known="chexmask"))
    assert joining.mask_size == (3, 2)
    heart = join(data, table.assign(**{"Left Lung": "1 1", "Right Lung": "1 1"}), joining, "m").manifest.mask(
        0, "heart"
    )
    assert heart is not None
    assert np.argwhere(heart).tolist() == [[row, column] for row in range(2) for column in range(4)]
