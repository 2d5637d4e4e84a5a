"""What is drawn of a run from its predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evalfm.analysis.run_figures import caption_of, cautions, draw_curves
from tests.analysis.made import make_run


def ratios(n: int = 30) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    target = generator.uniform(0.4, 0.6, n)
    return pd.DataFrame(
        {
            "id": [f"i{row}" for row in range(n)],
            "patient": [f"p{row}" for row in range(n)],
            "split": ["val"] * 10 + ["test"] * (n - 10),
            "target": target,
            "prediction": target + generator.normal(0, 0.02, n),
        }
    )


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_agreement_is_drawn_of_values(tmp_path: Path, suffix: str, in_full: None) -> None:
    run = make_run(tmp_path / "runs", ratios(), kind="regression")
    draw_curves(tmp_path, run.record, run.test_predictions(), suffix=suffix, prefix="a-")
    (path,) = (each for each in tmp_path.iterdir() if each.is_file())
    assert path.name == f"a-agreement{suffix}"
    assert path.read_bytes().startswith({".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])


def test_a_caption_says_what_was_synthetic_and_random(tmp_path: Path) -> None:
    run = make_run(tmp_path, ratios(), kind="regression", made={"synthetic": True, "random_weights": True})
    assert cautions(run.record)[-1] == "random weights"
    assert len(cautions(run.record)) == 2
    assert caption_of(run.record).title == "one · ctr · linear"
