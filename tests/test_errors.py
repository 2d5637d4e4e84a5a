from __future__ import annotations

from evalfm.errors import LONGEST_MESSAGE, EvalfmError, UnknownNameError, suggestion


def test_what_a_file_makes_endless_is_cut_in_every_message():
    assert (
        str(EvalfmError(f"The cell {'x' * 5000!r} is no number; mend it."))
        == f"The cell '{'x' * 159}… is no number; mend it."
    )
    assert len(str(EvalfmError("a b " * 10_000))) == LONGEST_MESSAGE + 1
    path = "/".join(["folder"] * 120)
    assert str(EvalfmError(path)) == path


def test_long_and_many_names_are_listed_in_part():
    told = str(UnknownNameError("column", "x" * 5000, [f"{number:04}" + "y" * 500 for number in range(900)]))
    assert told.count("…") == 201
    assert told.endswith("and 700 more.")
    near = suggestion("z" * 400, ["z" * 401])
    assert near == f"Did you mean '{'z' * 80}…'?"


def test_a_name_that_stands_twice_is_listed_once():
    assert suggestion("x", ["b", "a", "b"]) == "Known: a, b."
