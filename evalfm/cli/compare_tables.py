"""What `evalfm compare` prints: differences to the best, across tasks, and on another data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from evalfm.cli.console import Footnotes, head_cell, in_letters, print_against, print_rows

if TYPE_CHECKING:
    from evalfm.analysis.across import AcrossTasks
    from evalfm.analysis.compare import Comparison, Entry
    from evalfm.analysis.external import ExternalValidation
    from evalfm.analysis.gates import Gated
    from evalfm.statistics.comparison import Difference
    from evalfm.statistics.ranks import Agreement

ALPHA = 0.05


def print_comparison(table: Comparison) -> None:
    """Print the table of one task on one test cohort, and below it what its figures mean."""
    from evalfm.analysis.figures import p_words

    header = ["encoder", "head", "adaptation", table.metric, "seed sd", "minus the best", "p", "rank", "detectable"]
    header += ["set", *(["non-inferior"] if table.margin is not None else [])]
    mixed, rows, footnotes = table.mixed, [], Footnotes()
    for entry in table.entries:
        estimate = footnotes.cell(entry.estimate, f"{entry.encoder}/{entry.head}")
        heads_only = mixed and entry.difference is not None and entry.difference.speaks_of != "encoders"
        row = [entry.encoder, head_cell(entry.head, entry.best_by_val), entry.adaptation, estimate]
        row += ["–" if entry.seed_sd is None else f"{entry.seed_sd:.3f}", signed(entry.difference)]
        row += [p_words(entry.p) + ("†" if heads_only else ""), rank_words(entry)]
        row += ["–" if entry.detectable is None else f"{entry.detectable:.3f}"]
        row += ["baseline" if entry.baseline else "best" if entry.in_best_set else ""]
        if table.margin is not None:
            row.append({True: "yes", False: "no", None: "–"}[entry.non_inferior])
        rows.append(row)
    print_rows(f"{table.task} on {table.cohort}", header, rows)
    _say(table.counts, f"{table.estimand}.")
    if table.pairs:
        pairs = f"{table.pairs} {'pair' if table.pairs == 1 else 'pairs'}"
        _say(
            f"p: {table.method}; Holm over {pairs}.",
            table.speaks_of + (" † marks these." if mixed else ""),
            "best: not significantly worse than the best estimate. detectable: the true difference that would have",
            "been found with 80 % power; no difference found is no proof of equality.",
            "rank: 95 % for all lines at once (max-|t| over all pairs); wide by nature.",
        )
    else:
        _say("One line that is no baseline: there is no pair to compare.")
    if table.margin is not None:
        chosen = " (the best one observed: chosen after the fact)" if table.post_hoc else ""
        _say(f"non-inferior: worse than {table.reference}{chosen} by less than {table.margin:g}, Holm-corrected.")
    _say(*(each.sentence for each in table.heads), *table.cautions, *footnotes.lines())
    print_against(table.against)


def print_across(found: AcrossTasks) -> None:
    """Print what several tasks say together."""
    from evalfm.analysis.figures import p_words

    tasks, of = len(found.tasks), f"speaks of {found.speaks_of}"
    rows = [
        [each.name, f"{each.rank:.2f} [{each.low:.2f}, {each.high:.2f}]", *(f"{rank:g}" for rank in each.ranks)]
        for each in found.models
    ]
    print_rows(f"across {tasks} tasks", ["encoder", "average rank", *found.tasks], rows)
    _say(
        "average rank: 95 % for all encoders at once, from the rank sets of each task at 1 − .05 / tasks; wide by",
        f"nature; {of}. The tasks are these, no sample of others.",
    )
    test = found.friedman
    if test is not None:
        _say(f"Friedman: χ² {test.statistic:.2f}, {test.degrees_of_freedom} degrees of freedom, p {p_words(test.p)}.")
        apart = [f"{one} over {other} (p {p_words(p)})" for one, other, p in test.pairs if p < ALPHA]
        _say(
            f"Nemenyi: average ranks {test.critical_difference:.2f} apart differ; "
            + ("; ".join(apart) + "." if apart else "no pair does.")
        )
    for each in found.orders:
        _say(f"{each.first} and {each.second}: {tau_words(each.tau)}.")
    if found.pairs:
        _print_pairs(found)
    _say(*found.cautions)
    typer.echo()


def _print_pairs(found: AcrossTasks) -> None:
    """The pairs with the best average rank; JSON has all."""
    from evalfm.statistics.hierarchical import ROPE

    best = found.models[0].name
    scales = [posterior.scale for posterior in found.pairs[0].posteriors]
    header = ["pair", "metric", "tasks", "mean difference"]
    header += [f"P worse · equal · better (τ ~ {scale:g})" for scale in scales]
    rows = [
        [
            f"{each.first} − {each.second}",
            each.metric,
            str(len(each.tasks)),
            f"{each.widest.mean:+.3f} [{each.widest.low:+.3f}, {each.widest.high:+.3f}]",
            *(f"{post.worse:.2f} · {post.equal:.2f} · {post.better:.2f}" for post in each.posteriors),
        ]
        for each in found.pairs
        if best in (each.first, each.second)
    ]
    print_rows("pairs with the best average rank, over tasks", header, rows)
    _say(
        f"Bayesian hierarchical mean over tasks; equal: within ± {ROPE:g}. Two priors of how much tasks differ",
        "(half-Cauchy): where they disagree the data do not decide; the interval is the wider. --json has every pair.",
    )


def tau_words(tau: Agreement) -> str:
    """Kendall's τ with its interval, or why there is none."""
    from evalfm.statistics.ranks import FEWEST_RANKED

    if tau.low is None:
        return f"Kendall's τ {tau.tau:+.2f} of {tau.n} encoders (no interval below {FEWEST_RANKED})"
    mark = " ~ (interval approximate)" if tau.approximate else ""
    return f"Kendall's τ {tau.tau:+.2f} [{tau.low:+.2f}, {tau.high:+.2f}]{mark} of {tau.n} encoders"


def print_external(found: ExternalValidation) -> None:
    """Print which orders of A hold on B."""
    from evalfm.analysis.figures import p_words

    rows = [
        [
            f"{each.better} − {each.worse}",
            signed(each.on_a),
            p_words(each.p_a),
            signed(each.on_b),
            p_words(each.p_b),
            "kept" if each.keeps_sign else "turned",
        ]
        for each in found.pairs
    ]
    title = (
        f"{found.task_a} on {found.cohort_a} (A), held against {found.task_b} on {found.cohort_b} (B): {found.metric}"
    )
    if rows:
        print_rows(title, ["better − worse on A", "on A", "p on A", "on B", "p on B", "sign"], rows)
        _say(
            f"{found.kept} of {len(rows)} pairs that were significant on A keep their sign on B. Above 0 the first is "
            "better.",
            "p: after Holm, on A over all its pairs, on B over these.",
        )
    else:
        _say(
            f"{title}.", f"No pair of {len(found.models)} encoders was significant on A, so none can be held against B."
        )
    _say(f"A: {found.speaks_of_a}", f"B: {found.speaks_of_b}")
    _say(f"{tau_words(found.tau)}." if found.tau else "Kendall's τ: one of the orders has ties only.")
    typer.echo()


def print_gates(found: Gated, *, on_stderr: bool) -> None:
    """Print what every gate found, a line each; those that failed last."""
    said = [f"passed: {each.sentence}" for each in found.verdicts if each.passed]
    said += list(found.untouched)
    said += [f"failed: {each.sentence}" for each in found.verdicts if not each.passed]
    for sentence in said:
        typer.echo(in_letters(f"Gate {sentence}"), err=on_stderr)


def rank_words(entry: Entry) -> str:
    """The set of ranks of a line."""
    if entry.rank is None:
        return "–"
    low, high = entry.rank
    return f"{low}" if low == high else f"{low}–{high}"


def signed(difference: Difference | None) -> str:
    """A difference with its interval."""
    if difference is None:
        return "–"
    if difference.low is None:
        return f"{difference.value:+.3f}"
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _say(*sentences: str) -> None:
    for each in sentences:
        typer.echo(f"  {in_letters(each)}")
