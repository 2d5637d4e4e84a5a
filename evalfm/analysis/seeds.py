"""One figure of several seeds: the metric averaged over them, inside every resample of patients too."""

from __future__ import annotations

from evalfm.analysis.pairing import pair
from evalfm.analysis.table import Line
from evalfm.errors import EvalfmError
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import estimates


def over_seeds(line: Line, metric: str) -> Estimate:
    """``metric`` of a line of one or several seeds, with its interval or the reason why there is none."""
    first = line.runs[0].estimate(metric)
    values = [value for run in line.runs if (value := run.estimate(metric).value) is not None]
    if len(line.runs) == 1 or not values:
        return first
    try:
        paired = pair([line], metric)
    except EvalfmError as error:
        return Estimate(sum(values) / len(values), n=first.n, unit=first.unit, reason=str(error))
    return estimates({metric: paired.measured(0)}, paired.patients, unit=first.unit)[metric]
