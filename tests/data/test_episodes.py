"""The draw of episodes: exact counts, nobody on both sides, the same everywhere, and refusals with the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalfm.data.episodes import Episodes, draw_episodes
from evalfm.errors import EvalfmError


def table(classes: int = 3, each: int = 24, per_patient: int = 2, split: bool = True) -> dict[str, Any]:
    """``each`` images of each class, ``per_patient`` of each patient; patients go to train, val and test in turn."""
    number = classes * each
    labels = np.arange(number) % classes
    patients = np.arange(number) // per_patient
    splits = np.array(["train", "train", "val", "test", "test"], dtype=object)[patients % 5]
    return {
        "labels": labels,
        "patients": np.array([f"p{each}" for each in patients], dtype=object),
        "ids": [f"i{each:04d}" for each in range(number)],
        "class_names": [f"c{each}" for each in range(classes)],
        "split": splits if split else None,
    }


def draw(content: dict[str, Any], **options: Any) -> Episodes:
    return draw_episodes(**content, **{"shots": 4, "queries": 3, "episodes": 8, "seed": 0, **options})


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 99), st.booleans(), st.integers(1, 4))
def test_exact_counts_and_nobody_on_both_sides(shots: int, queries: int, seed: int, split: bool, per_patient: int):
    content = table(each=40, per_patient=per_patient, split=split)
    drawn = draw(content, shots=shots, queries=queries, seed=seed)
    assert drawn.support.shape == (8, 3, shots)
    assert drawn.query.shape == (8, 3, queries)
    for support, query in zip(drawn.support, drawn.query, strict=True):
        for code in range(3):
            assert (content["labels"][support[code]] == code).all()
            assert (content["labels"][query[code]] == code).all()
        shown, queried = support.ravel(), query.ravel()
        assert len(set(shown) | set(queried)) == len(shown) + len(queried)
        assert not set(content["patients"][shown]) & set(content["patients"][queried])
        if split:
            assert set(content["split"][shown]) == {"train"}
            assert set(content["split"][queried]) == {"test"}


def test_a_patient_gives_a_second_image_only_when_no_new_one_is_left():
    content = table(classes=2, each=40, per_patient=8)
    patients_of_train = len({str(p) for p in content["patients"][content["split"] == "train"]})
    assert patients_of_train == 4
    drawn = draw(content, shots=2, queries=1, episodes=30)
    for support in drawn.support:
        # Four images in all, of the four patients that there are.
        assert len(set(content["patients"][support.ravel()])) == 4
    more = draw(content, shots=3, queries=1, episodes=30)
    assert all(len(set(content["patients"][support.ravel()])) == 4 for support in more.support)


def test_a_draw_depends_on_neither_the_order_of_rows_nor_how_much_is_drawn():
    content = table()
    whole = draw(content, shots=6, episodes=20)
    few = draw(content, shots=2, episodes=5)
    assert np.array_equal(whole.support[:5, :, :2], few.support)
    assert np.array_equal(whole.query[:5], few.query)
    order = np.random.default_rng(3).permutation(len(content["ids"]))
    turned = {
        name: [value[each] for each in order] if name == "ids" else value[order] if name != "class_names" else value
        for name, value in content.items()
    }
    again = draw(turned, shots=6, episodes=20)
    assert np.array_equal(order[again.support], whole.support)
    assert np.array_equal(order[again.query], whole.query)


def test_seed_and_number_each_change_the_draw():
    content = table()
    first = draw(content)
    other = draw(content, seed=1)
    assert not np.array_equal(first.support, other.support)
    assert not np.array_equal(first.query, other.query)
    assert len({each.tobytes() for each in first.support}) == len(first)


def test_the_draw_is_this_one_on_every_machine():
    drawn = draw(table(), shots=2, queries=2, episodes=2)
    assert drawn.support.tolist() == [[[51, 0], [40, 52], [71, 11]], [[3, 63], [31, 43], [50, 41]]]
    assert drawn.query.tolist() == [[[39, 57], [46, 28], [59, 26]], [[69, 39], [16, 67], [8, 59]]]


def test_every_image_is_as_likely_as_any_other():
    content = table(classes=2, each=20, per_patient=1)
    drawn = draw(content, shots=2, queries=2, episodes=2000)
    for positions, name in ((drawn.support, "train"), (drawn.query, "test")):
        counts = np.bincount(positions.ravel(), minlength=40)[content["split"] == name]
        expected = positions.size / len(counts)
        # Five standard deviations of a count.
        assert np.abs(counts - expected).max() < 5 * expected**0.5


def test_used_images_are_those_of_any_episode():
    drawn = draw(table())
    assert drawn.used.tolist() == sorted(set(drawn.support.ravel().tolist()) | set(drawn.query.ravel().tolist()))


def test_more_than_there_is_is_refused_with_every_number():
    content = table(classes=2, each=20, per_patient=1)
    with pytest.raises(EvalfmError) as caught:
        draw(content, shots=9, queries=99)
    message = str(caught.value)
    for code in range(2):
        train, test = ((content["split"][content["labels"] == code] == name).sum() for name in ("train", "test"))
        assert f"9 shots of class c{code} are needed, but train has {train} images of it" in message
        assert f"99 queries of class c{code} are needed, but test has {test} images of it" in message
    assert "Take fewer with --shots or --queries" in message


def test_without_a_split_patients_of_the_queries_are_no_support():
    # Six patients with an image of each class; the two who are asked leave four to learn from.
    content = table(classes=2, each=6, per_patient=2, split=False)
    for support, query in zip(*(getattr(draw(content, queries=1), name) for name in ("support", "query")), strict=True):
        shown, queried = (set(content["patients"][each.ravel()]) for each in (support, query))
        assert (len(shown), len(queried)) == (4, 2)
        assert not shown & queried
    with pytest.raises(EvalfmError, match=r"episode 1 class c0 has 4 images of patients who are not among the 1 quer"):
        draw(content, shots=5, queries=1)
    with pytest.raises(EvalfmError, match="5 shots and 2 queries of class c0 are needed, but the data set has 6"):
        draw(content, shots=5, queries=2)
