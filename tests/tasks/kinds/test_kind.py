"""What columns of predictions must hold, and that no kind is asked for by its name outside its folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evalfm
from evalfm.tasks.kinds import ANSWERED, BASE_TO_NOVEL, KINDS
from evalfm.tasks.kinds.kind import ALL, LARGEST, Column

PACKAGE = Path(evalfm.__file__).parent
NAN = float("nan")
APART = ("tasks/kinds/", "data/", "cards.py")
"""Where names of kinds stand, or the same words mean kinds of label columns (binary, class, number) or of YAML."""


def asked(source: str) -> Iterator[int]:
    """Lines that compare something with the name of a kind, or look something up by such names."""
    for node in ast.walk(ast.parse(source)):
        named: list[str] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            # Of label columns, whose kinds are others.
            if any("label_kind" in ast.unparse(side) for side in sides):
                continue
            words = [each for side in sides for each in ([*side.elts] if hasattr(side, "elts") else [side])]
            named = [BASE_TO_NOVEL.name]
        elif isinstance(node, ast.Dict):
            words = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            words = [node.value]
        else:
            continue
        if any(isinstance(each, ast.Constant) and each.value in {*KINDS, *named} for each in words):
            yield node.lineno


@pytest.mark.parametrize(
    "code",
    [
        'if task.kind == "binary": pass',
        'x = "segmentation" != kind',
        'z = run.kind == "base-to-novel"',
        'y = kind in ("multilabel", "regression")',
        'y = kind not in {"ordinal"}',
        'DRAW = {"binary": 1}',
        'match kind:\n    case "multiclass":\n        pass',
    ],
)
def test_a_question_for_the_name_of_a_kind_is_seen(code: str) -> None:
    assert list(asked(code))


def test_no_kind_is_asked_for_by_its_name_outside_its_folder() -> None:
    found, read = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(APART):
            read += 1
            found += [f"{place}:{line}" for line in asked(path.read_text(encoding="utf-8"))]
    assert read > 250
    # What its metrics read of predictions is registered below the kinds.
    assert [each for each in found if not each.startswith("metrics/rows.py")] == [], "ask the kind's object instead"
    assert len(found) == 1


@pytest.mark.parametrize(
    ("column", "values", "wrong"),
    [
        (Column("x"), [0.0, -5.0, NAN, np.inf, 2 * LARGEST], [False, False, True, True, True]),
        (Column("x", partly=True), [0.0, NAN, np.inf], [False, False, True]),
        (Column("x", classes=2), [0.0, 1.0, 2.0, 0.5, -1.0, NAN], [False, False, True, True, True, True]),
        (Column("x", classes=2, partly=True), [1.0, NAN, 3.0], [False, False, True]),
        (Column("x", low=0, high=1), [0.0, 1.0, 1.01, -0.01, NAN], [False, False, True, True, True]),
    ],
)
def test_a_column_knows_what_it_must_not_hold(column: Column, values: list[float], wrong: list[bool]) -> None:
    assert column.wrong(np.array(values)).tolist() == wrong


def test_a_column_of_classes_counts_those_of_the_task() -> None:
    assert [(each.name, each.classes) for each in Column("target", classes=ALL).of(["a", "b", "c"])] == [("target", 3)]
    assert [each.classes for each in Column("target", classes=ALL).of(["a"])] == [2]
    assert [each.must for each in Column("target", classes=ALL).of("abc")] == ["hold numbers of classes, 0 to 2"]
    assert Column("x", low=0, high=1).must == "lie between 0 and 1"
    assert Column("x").must == "hold a finite number in every row"


def test_findings_are_counted_where_they_are_known() -> None:
    labels = pd.DataFrame({"target_a": [0, 1, np.nan, np.nan], "target_b": [np.nan, 0, 1, np.nan]})
    assert KINDS["multilabel"].positive(labels, ["a", "b"]).tolist() == [False, True, True, False]
    masks = pd.DataFrame({"area_true_a": [0.0, 0.2], "area_true_b": [0.1, 0.0]})
    assert KINDS["segmentation"].positive(masks, ["a", "b"]).tolist() == [True, True]
    unknown = pd.DataFrame({"target_a": [None, None]}, dtype=object)
    assert KINDS["multilabel"].positive(unknown, ["a"]).tolist() == [False, False]


def test_halves_are_known_by_rows_without_a_score() -> None:
    table = pd.DataFrame({"target": [0, 1], **{f"score_{name}": [0.5, 0.5] for name in "abcd"}})
    assert BASE_TO_NOVEL.names_in(table) is None
    assert KINDS["multiclass"].names_in(table) == tuple("abcd")
    table["score_d"] = [np.nan, 0.5]
    assert BASE_TO_NOVEL.names_in(table) == tuple("abcd")
    assert list(ANSWERED).index(BASE_TO_NOVEL.name) < list(ANSWERED).index("multiclass")


def test_facts_of_kinds_follow_from_their_targets() -> None:
    first = ("binary", "multilabel", "multiclass", "ordinal", "segmentation", "regression")

    def of(fact: str) -> list[str]:
        return [name for name in first if getattr(KINDS[name], fact)]

    assert of("several_labels") == ["multilabel"]
    assert of("one_label") == ["binary"]
    assert of("one_class") == ["binary", "multiclass", "ordinal"]
    assert of("has_finding") == ["binary", "segmentation"]
    assert of("has_shots") == ["binary", "multiclass", "ordinal", "segmentation"]
    assert of("has_classes") == ["binary", "multilabel", "multiclass", "ordinal"]
    assert of("measured") == ["regression"]
    assert of("pixelwise") == ["segmentation"]
