"""Every metric as one object: name, unit, direction, estimate with interval, and paired contrast."""

from __future__ import annotations

from evalfm.metrics.metric import Contrast, Metric, mean_among, paired_means

__all__ = ["Contrast", "Metric", "mean_among", "paired_means"]
