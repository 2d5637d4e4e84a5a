"""Which radiographs a gallery shows."""

from __future__ import annotations

import pandas as pd

from evalfm.probing.pictures import worst_by_stratum


def test_the_worst_radiograph_of_each_stratum_is_shown_and_nothing_else() -> None:
    radiographs = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "dice_ptx": [0.9, 0.6, 0.3, 0.1],
            "chest_tube": [1.0, 1.0, 0.0, None],
            "view": ["PA"] * 4,
            "age": [30.0, 40.0, 50.0, 60.0],
        }
    )
    found = worst_by_stratum(radiographs, ["chest_tube", "view", "age", "site"])
    assert [(label, radiographs["id"].tolist()) for label, radiographs in found] == [
        ("worst, chest_tube = 0", ["c"]),
        ("worst, chest_tube = 1", ["b"]),
    ]
