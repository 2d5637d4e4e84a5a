from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evalfm.analysis.attributes import attributes, covariates, declared
from evalfm.errors import EvalfmError

TABLE = pd.DataFrame(
    {
        "sex": ["F", "M", None, "M"],
        "age": [20.0, 65.0, 64.9, np.nan],
        "tube": [0.0, 1.0, 1.0, np.nan],
        "site": ["a", "a", "a", "a"],
        "name": ["u", "v", "w", "x"],
    }
)


def test_words_and_flags_are_levels_and_unknown_is_none() -> None:
    sex, tube = attributes(TABLE, ["sex", " tube "])
    assert (sex.levels, sex.codes.tolist()) == (("F", "M"), [0, 1, -1, 1])
    assert (tube.levels, tube.codes.tolist()) == (("0", "1"), [0, 1, 1, -1])


def test_numbers_are_divided_at_thresholds() -> None:
    (age,) = attributes(TABLE, ["age:65"])
    assert (age.levels, age.codes.tolist()) == (("<65", "≥65"), [0, 1, 0, -1])
    (both,) = attributes(TABLE, ["age:30/65"])
    assert (both.levels, both.codes.tolist()) == (("<30", "30–<65", "≥65"), [0, 2, 1, -1])
    with pytest.raises(EvalfmError, match=r"give a threshold, such as --by age:64\.9"):
        attributes(TABLE, ["age"])
    with pytest.raises(EvalfmError, match="holds words and takes no threshold"):
        attributes(TABLE, ["sex:3"])
    with pytest.raises(EvalfmError, match="lies in one level"):
        attributes(TABLE, ["age:200"])


def test_an_intersection_needs_both_and_keeps_what_occurs() -> None:
    (both,) = attributes(TABLE, ["sex*age:65"])
    assert both.levels == ("F, <65", "M, ≥65")
    assert both.codes.tolist() == [0, 1, -1, -1]


def test_what_is_no_attribute_is_refused() -> None:
    with pytest.raises(EvalfmError, match="only the level 'a'"):
        attributes(TABLE, ["site"])
    with pytest.raises(EvalfmError, match="'sex'"):
        attributes(TABLE, ["sexx"])
    many = pd.DataFrame({"ward": [str(row) for row in range(40)]})
    with pytest.raises(EvalfmError, match="40 levels"):
        attributes(many, ["ward"])
    with pytest.raises(EvalfmError, match="too many to adjust"):
        covariates(many, ["ward"])


def test_covariates_are_numbers_with_unknown_kept() -> None:
    found = covariates(TABLE, ["age", "sex"])
    assert list(found) == ["age", "sex=M"]
    assert np.array_equal(found["sex=M"], [0, 1, np.nan, 1], equal_nan=True)


def test_what_a_model_said_is_no_attribute() -> None:
    told = ["id", "patient", "split", "fold", "target", "threshold", "score_ptx", "calibrated_ptx", "threshold_ptx"]
    masks = ["dice", "iou", "hd95", "nsd", "area_true", "area_predicted", "distance_unit", "prediction_rle"]
    told += [f"{each}_ptx" for each in [*masks, "oracle_dice", "visible_lesion_fraction"]]
    table = pd.DataFrame({name: [0.0, 1.0] for name in [*told, "sex", "scores", "area_code"]})
    assert declared(table, ["ptx"]) == ["sex", "scores", "area_code"]
