"""The options of an import and of a join."""

from __future__ import annotations

from pathlib import Path

import pytest

from evalfm.cards import validate
from evalfm.data.config import ImportConfig, JoinConfig, TableMapping
from evalfm.errors import EvalfmError

PLACES = {"source": "table", "root": "here", "out": Path("there")}


def test_columns_go_over_those_of_the_mapping(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("patient: who\nlabels: [edema]\npublic_ids: true\n")
    options = {**PLACES, "mapping": tmp_path / "m.yaml", "patient": "pid", "levels": {"edema": "no, yes"}}
    mapping = validate(ImportConfig, {**options, "label_kinds": {"edema": "binary"}}, "The import").mapping
    assert mapping is not None
    assert (mapping.patient, mapping.labels, mapping.public_ids) == ("pid", {"edema": "edema"}, True)
    assert mapping.levels == {"edema": ["no", "yes"]}
    held = TableMapping(patient="who", masks={"heart": "m"})
    mapping = ImportConfig(**PLACES, mapping=held, mask_values={"heart": "1,2"}).mapping  # type: ignore[arg-type, call-arg]
    assert mapping == TableMapping(patient="who", masks={"heart": "m"}, mask_values={"heart": [1, 2]})
    assert ImportConfig(**PLACES).mapping is None  # type: ignore[arg-type]


def test_what_no_option_is_called_is_refused() -> None:
    with pytest.raises(EvalfmError, match=r"^The import is not valid: part: Extra inputs are not permitted\.$"):
        validate(ImportConfig, {**PLACES, "part": "x"}, "The import")
    with pytest.raises(EvalfmError, match=r"^The mapping of columns is not valid: label_kinds\.a: "):
        validate(ImportConfig, {**PLACES, "label_kinds": {"a": "words"}}, "The import")


def test_a_join_says_one_way_how_the_tables_meet() -> None:
    assert JoinConfig(join_on="id=file").keys == ("id", "file")
    assert JoinConfig(join_on="id").keys == ("id", "id")
    with pytest.raises(EvalfmError, match=r"--join-on MINE=THEIRS, or which known table it is, --as\.$"):
        validate(JoinConfig, {"labels": {"a": "a"}}, "The join")
    for extra in ({"join_on": "id"}, {"labels": ["a"]}, {"attributes": ["a"]}, {"masks": {"a": "a"}}):
        with pytest.raises(EvalfmError, match="leave --join-on, --label and the like out"):
            validate(JoinConfig, {"known": "tubes", **extra}, "The join")
