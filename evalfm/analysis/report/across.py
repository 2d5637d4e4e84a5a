"""The section of the report on several tasks together."""

from __future__ import annotations

from collections.abc import Sequence

from evalfm.analysis.across import AcrossTasks, across_tasks
from evalfm.analysis.compare import Comparison
from evalfm.analysis.figures import p_words
from evalfm.analysis.pages import Section
from evalfm.analysis.report.tables import Signed, Table, Value, Worded, table
from evalfm.statistics.hierarchical import ROPE


def across_section(comparisons: Sequence[Comparison]) -> Section | None:
    """What ``comparisons`` say together; None where no two tasks share two encoders."""
    found = across_tasks(comparisons)
    if found is None:
        return None
    tables = [("Average ranks", _ranks(found))]
    if found.friedman is not None:
        tables.append(("Pairs by Nemenyi", _nemenyi(found)))
    if found.pairs:
        tables.append(("Pairs over tasks", _pairs(found)))
    tables.append(("Orders of two tasks", _orders(found)))
    return Section(
        f"Across {len(found.tasks)} tasks",
        "across-tasks",
        words=f"Encoders that all of these tasks share ({', '.join(found.tasks)}). Ranks and differences speak of "
        f"{found.speaks_of}.",
        points=found.cautions,
        tables=tables,
    )


def _ranks(found: AcrossTasks) -> Table:
    rows: list[list[Value]] = [
        [each.name, Worded(f"{each.rank:.2f} [{each.low:.2f}, {each.high:.2f}]", each.rank), *ranks]
        for each in found.models
        for ranks in [[Worded.number(rank, "g") for rank in each.ranks]]
    ]
    caption = (
        "1 is best. Intervals hold for all encoders at once, 95 %, from the rank sets of each task at 1 − .05 / tasks; "
        "wide by nature. The tasks are these, no sample of others."
    )
    return table("across-ranks", ["encoder", "average rank", *found.tasks], rows, caption)


def _nemenyi(found: AcrossTasks) -> Table:
    test = found.friedman
    pairs = () if test is None else test.pairs
    caption = (
        ""
        if test is None
        else f"Friedman: χ² {test.statistic:.2f}, {test.degrees_of_freedom} degrees of freedom, p {p_words(test.p)}. "
        f"Average ranks {test.critical_difference:.2f} apart differ at the 5 % level."
    )
    rows: list[list[Value]] = [[one, other, Worded.p(p)] for one, other, p in pairs]
    return table("across-nemenyi", ["better", "worse", "p"], rows, caption)


def _pairs(found: AcrossTasks) -> Table:
    scales = [posterior.scale for posterior in found.pairs[0].posteriors]
    header = ["first", "second", "metric", "tasks", "mean difference"]
    header += [f"P({what}), τ ~ {scale:g}" for scale in scales for what in ("worse", "equal", "better")]
    rows: list[list[Value]] = []
    for each in found.pairs:
        widest = each.widest
        row: list[Value] = [each.first, each.second, each.metric, len(each.tasks)]
        row.append(Signed(widest.mean, widest.low, widest.high))
        row += [Worded.number(p, ".2f") for post in each.posteriors for p in (post.worse, post.equal, post.better)]
        rows.append(row)
    caption = (
        f"Bayesian hierarchical mean over tasks, above 0 the first is better; equal: within ± {ROPE:g}. Two priors of "
        "how much tasks differ (half-Cauchy): where they disagree the data do not decide. The interval is of the wider."
    )
    return table("across-pairs", header, rows, caption)


def _orders(found: AcrossTasks) -> Table:
    rows: list[list[Value]] = []
    for each in found.orders:
        tau = each.tau
        shown = f"{tau.tau:+.2f}" + ("" if tau.low is None else f" [{tau.low:+.2f}, {tau.high:+.2f}]")
        shown += " ~" if tau.approximate else ""
        rows.append([each.first, each.second, tau.n, Worded(shown, tau.tau)])
    caption = "Kendall's τ between the orders of the encoders; 95 % intervals from five encoders on, ~ approximate."
    return table("across-orders", ["one task", "other task", "encoders", "Kendall's τ"], rows, caption)
