from __future__ import annotations

import subprocess
import sys

import pytest

from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.heads import list_heads, load_head


@pytest.mark.parametrize("entry", list_heads(), ids=lambda entry: f"{entry.name}-{entry.kinds[0]}")
def test_entry_agrees_with_its_class(entry):
    for kind in entry.kinds:
        head = load_head(entry.name, kind)
        assert head.name == entry.name
        assert set(head.kinds) == set(entry.kinds)
        assert set(head.needs) == set(entry.needs)
        assert head.grid == load_head(entry.name, kind).grid
        assert head is not load_head(entry.name, kind)


def test_no_two_entries_answer_to_one_name_and_kind():
    pairs = [(entry.name, kind) for entry in list_heads() for kind in entry.kinds]
    assert len(pairs) == len(set(pairs))


def test_refusals_name_the_remedy():
    with pytest.raises(UnknownNameError, match="Did you mean 'linear'"):
        load_head("liner", "binary")
    with pytest.raises(
        EvalfmError, match=r"'ridge' does not serve segmentation tasks; take .*'linear' or .*'multiscale'"
    ):
        load_head("ridge", "segmentation")


def test_listing_imports_no_torch():
    code = "import sys, evalfm.heads as h; h.list_heads(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
