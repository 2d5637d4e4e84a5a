"""What a reader process loads, and what reaches its parent."""

from __future__ import annotations

import io
import json
import subprocess
import sys

from evalfm.encoders import find_card
from evalfm.features.reader_process import facts_from, receive, send

LOADED = """
import json, sys
import evalfm.features.reader_process
import evalfm.data.dicom, evalfm.data.raster
memory = 0
if sys.platform == "linux":
    memory = int(open("/proc/self/statm").read().split()[1]) * 4096
print(json.dumps({"loaded": sorted(sys.modules), "memory": memory}))
"""


def test_it_loads_neither_torch_nor_pandas_and_is_small() -> None:
    found = json.loads(subprocess.check_output([sys.executable, "-c", LOADED], text=True))
    heavy = {"torch", "pandas", "scipy", "pydantic", "yaml", "sklearn", "timm", "transformers", "pyarrow", "matplotlib"}
    assert heavy & set(found["loaded"]) == set()
    assert found["memory"] < 80e6


def test_a_message_that_is_cut_off_is_the_end() -> None:
    stream = io.BytesIO()
    send(stream, {"images": [[0, 1, "ü.png"]]})
    whole = stream.getvalue()
    assert receive(io.BytesIO(whole)) == {"images": [[0, 1, "ü.png"]]}
    for length in range(len(whole)):
        assert receive(io.BytesIO(whole[:length])) is None
    assert receive(io.BytesIO(b"\xff" * 100)) is None


def test_facts_survive_the_way() -> None:
    facts = find_card("chexzero").preprocessing
    again = facts_from(json.loads(json.dumps(facts.model_dump(mode="json"))))
    assert vars(again) == {name: getattr(facts, name) for name in type(facts).model_fields}
