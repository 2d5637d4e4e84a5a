"""What the report adds where heads read text: thresholds side by side, and each template alone."""

from __future__ import annotations

from evalfm.analysis.operating_points import HEADER, operating_points, wanted
from evalfm.analysis.report.tables import Table, Value, table
from evalfm.analysis.table import TaskTable


def operating_table(name: str, summary: TaskTable) -> Table | None:
    """Default and chosen thresholds of every line that is no baseline; None where nobody asked or none applies."""
    points = operating_points(summary) if wanted([run for line in summary.lines for run in line.runs]) else []
    if not points:
        return None
    rows: list[list[Value]] = [[each.encoder, each.head, each.threshold, *each.estimates] for each in points]
    caption = (
        "Thresholds and temperatures were chosen on val. Brier score and ECE are without temperature scaling in the "
        "default line and with it in the other; AUROC is moved by neither. Of several seeds the mean."
    )
    return table(name, list(HEADER), rows, caption)


def templates_table(name: str, summary: TaskTable) -> Table | None:
    """The primary metric by each template alone; None where no head has templates."""
    rows: list[list[Value]] = []
    for line in summary.lines:
        prompts = line.runs[0].record.prompts
        for each in prompts.by_template if prompts else []:
            rows.append([line.encoder, line.head, each.template, each.estimate])
    if not rows:
        return None
    caption = "Test images by one template at a time: how far a figure hangs on the words. None was chosen by it."
    return table(name, ["encoder", "head", "template", summary.metric_names[0]], rows, caption)
