"""Every metric as one object: name, unit, direction, estimate with interval, and paired contrast."""

from __future__ import annotations

from evalfm.metrics.metric import Contrast, Metric, by_deletion, mean_among

__all__ = ["Contrast", "Metric", "by_deletion", "mean_among"]
