from __future__ import annotations

from typing import Any

import pytest

from evalfm.errors import EvalfmError
from evalfm.split_options import Association, SplitOptions, SubsetOptions


def test_subsets_in_words() -> None:
    subsets: list[dict[str, Any]] = [{}, {"shots": 4}, {"label_fraction": 0.1}, {"associate": "chest_tube=0.5"}]
    subsets += [{"shots": 1, "episodes": 9}, {"episodes": 1}]
    labels = ["all of train", "4 shots", "0.1 of the patients", "images with chest_tube=0.5"]
    labels += ["9 episodes of 1 shot", "1 episode"]
    assert [SubsetOptions(**each).label for each in subsets] == labels


@pytest.mark.parametrize(
    ("text", "found"), [("chest_tube=0.5", ("chest_tube", 0.5)), (" sex = .95 ", ("sex", 0.95)), ("a=0", ("a", 0.0))]
)
def test_an_association_is_a_column_and_a_strength(text: str, found: tuple[str, float]) -> None:
    parsed = Association.parse(text)
    assert (parsed.attribute, parsed.strength) == found


@pytest.mark.parametrize("text", ["chest_tube", "=0.5", "a=0.96", "a=-0.1", "a b=0.5", "a=x"])
def test_any_other_text_is_no_association(text: str) -> None:
    with pytest.raises(EvalfmError, match="column=strength with a strength from 0 to"):
        Association.parse(text)


def test_the_subset_of_a_split_is_what_of_train_is_learned_from() -> None:
    split = SplitOptions(shots=4, where="view == 'PA'", val_shots=2)
    assert split.subset == SubsetOptions(shots=4)
    assert split.draws_subsets
    assert not SplitOptions(where="view == 'PA'", folds=3).draws_subsets
