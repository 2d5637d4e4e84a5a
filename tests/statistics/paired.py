from __future__ import annotations

from typing import Any

import numpy as np

from evalfm.statistics.comparison import Difference, contrast_aurocs


def compare_auroc(target: Any, first: Any, second: Any, patient: Any = None, **options: Any) -> Difference:
    """The paired test of two scores."""
    return contrast_aurocs(target, np.stack([first, second], axis=1), [[1, -1]], patient, **options)[0]
