"""Which encoder to take for one task: what is excluded and why, the best set by cost, and a paragraph that says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalfm.analysis.attributes import attributes, declared
from evalfm.analysis.compare import ALPHA, Comparison, Entry, compare, of_cohort
from evalfm.analysis.figures import describe, p_words
from evalfm.analysis.pairing import AverageOver, pair_tables
from evalfm.analysis.table import Line, plain_runs, task_tables
from evalfm.analysis.times import Times
from evalfm.cautions import Caution, Code
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.run import Run


@dataclass(frozen=True)
class Limits:
    """What an encoder must keep to; None is no limit.

    Attributes:
        most_parameters: of the encoder.
        commercial: its licence must be known to allow commercial use.
        most_labels: runs that were trained on at most so many images only.
        most_milliseconds: of a forward pass of one image, as the runs measured it, all on one device.
    """

    most_parameters: int | None = None
    commercial: bool = False
    most_labels: int | None = None
    most_milliseconds: float | None = None


@dataclass(frozen=True)
class EncoderCandidate:
    """One encoder of the best set.

    Attributes:
        estimate: in words, with its interval.
        parameters: of the encoder; None where nobody knows.
        milliseconds, gigaflops: of a forward pass of one image; None where it was not measured.
        timed: on what, in words.
        worst: the worst stratum in words; None where there are no attributes or they are too small.
        flags: what speaks against it all the same: contamination, random weights, licence to read.
    """

    encoder: str
    head: str
    adaptation: str
    estimate: str
    parameters: int | None
    gigaflops: float | None
    milliseconds: float | None
    timed: str
    dimensions: int | None
    licence: str
    worst: str | None
    flags: tuple[Caution, ...]


@dataclass(frozen=True)
class Choice:
    """The answer: candidates by cost, the cheapest first; what was left out; and the comparison behind it."""

    task: str
    candidates: tuple[EncoderCandidate, ...]
    excluded: tuple[tuple[str, str], ...]
    paragraph: str
    comparison: Comparison

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"comparison": self.comparison.to_json()}


def choose(
    runs: Iterable[Run],
    task: str,
    limits: Limits | None = None,
    *,
    cohort: str | None = None,
    average_over: AverageOver = "image",
) -> Choice:
    """The best set among the encoders that keep to ``limits``, by parameters, then operations, then dimensions.

    One line speaks for each encoder: of its heads and adaptations the best on val. Where that cannot be told all of
    its lines are compared, which is said. Baselines are compared with it and never chosen. ``cohort`` is part of the
    words of the one test cohort that is meant, where the runs of the task were tested on several; ``average_over`` is
    as of ``compare``.

    Raises:
        EvalfmError: no run answers the task, every encoder is excluded, or runs cannot be paired.
    """
    every = plain_runs(runs)
    tasks = sorted({run.task for run in every})
    if task not in tasks:
        raise UnknownNameError("task among these runs", task, tasks)
    tables = task_tables([run for run in every if run.task == task])
    if cohort is not None:
        tables = of_cohort(tables, cohort)
    if len({table.data for table in tables}) > 1:
        sets = ", ".join(sorted({table.data for table in tables}))
        raise EvalfmError(
            f"Runs of {task} were tested on {len({table.data for table in tables})} data sets ({sets}); name the "
            "folders of one of them, or say which with --cohort."
        )
    if len(tables) > 1:
        cohorts = "; ".join(table.cohort for table in tables)
        raise EvalfmError(f"Runs of {task} were tested on {len(tables)} cohorts ({cohorts}); say which with --cohort.")
    mine = [run for line in tables[0].lines for run in line.runs]
    kept_to = limits or Limits()
    times = Times.of(mine)
    if kept_to.most_milliseconds is not None:
        times.refuse_mixed(kept_to.most_milliseconds)
    reasons = {id(run): _excluded(run, kept_to, times) for run in mine}
    kept = [run for run in mine if reasons[id(run)] is None]
    names = {
        id(run): f"{line.encoder} · {line.head} · {line.adaptation}" for line in tables[0].lines for run in line.runs
    }
    excluded = {names[id(run)]: str(reasons[id(run)]) for run in mine if reasons[id(run)] is not None}
    if all(run.is_baseline for run in kept):
        why = "; ".join(f"{name}: {reason}" for name, reason in excluded.items()) or "there are baselines only"
        raise EvalfmError(f"No encoder is left for {task} ({why}); loosen a limit or make more runs.")
    (comparison,) = compare(kept, task=task, average_over=average_over, heads="best-by-val-where-possible")
    (table,) = task_tables(kept)
    lines = {(line.encoder, line.head, line.adaptation): line for line in table.lines}
    best = [entry for entry in comparison.entries if entry.in_best_set]
    candidates = sorted(
        (_candidate(entry, lines[entry.encoder, entry.head, entry.adaptation], comparison, times) for entry in best),
        key=lambda each: (_or_last(each.parameters), _or_last(each.gigaflops), _or_last(each.dimensions)),
    )
    limited = dict(excluded)
    for each in comparison.heads:
        excluded |= each.passed_over
    for entry in comparison.entries:
        if entry.in_best_set is False:
            excluded[entry.name] = f"significantly worse than the best (p {p_words(entry.p)} after Holm)"
    of = {
        entry.name: lines[entry.encoder, entry.head, entry.adaptation].runs[0].encoder for entry in comparison.entries
    }
    paragraph = _paragraph(comparison, candidates, times, of, limited=bool(limited))
    return Choice(task, tuple(candidates), tuple(excluded.items()), paragraph, comparison)


def _excluded(run: Run, limits: Limits, times: Times) -> str | None:
    """Why a run is left out, or None."""
    if run.is_baseline:
        return None
    card = run.record.encoder
    parameters = card.parameters
    if limits.most_parameters is not None and parameters is None:
        return "its number of parameters is not known"
    if limits.most_parameters is not None and parameters is not None and parameters > limits.most_parameters:
        return f"{parameters:,} parameters, more than {limits.most_parameters:,}"
    if limits.commercial and card.commercial_use != "yes":
        return f"commercial use is {card.commercial_use or 'unknown'!r}"
    labels = run.record.data.splits.train.images
    if limits.most_labels is not None and labels > limits.most_labels:
        return f"trained on {labels} images, more than {limits.most_labels}"
    if limits.most_milliseconds is None:
        return None
    milliseconds, timed = times.milliseconds(run), times.words(run)
    if milliseconds is None:
        return f"its time is not known ({timed})"
    if milliseconds > limits.most_milliseconds:
        return f"{milliseconds:.3g} ms an image ({timed}), more than {limits.most_milliseconds:g}"
    return None


def _or_last(cost: float | None) -> float:
    """What is not known comes last."""
    return float("inf") if cost is None else cost


def _candidate(entry: Entry, line: Line, comparison: Comparison, times: Times) -> EncoderCandidate:
    run = line.runs[0]
    cost = run.record.provenance.cost
    card = run.record.encoder
    flags = [each for each in run.record.cautions if each.code in AGAINST]
    if card.commercial_use == "ask":
        flags.append(Caution("licence", "Read the licence before commercial use."))
    if card.gated:
        flags.append(Caution("licence", "Its weights are behind a form or a licence to accept."))
    return EncoderCandidate(
        entry.encoder,
        entry.head,
        entry.adaptation,
        _in_words(entry),
        card.parameters,
        None if cost is None else cost.gigaflops,
        times.milliseconds(run),
        times.words(run),
        card.dimensions,
        card.licence,
        worst_stratum(run, comparison.metric),
        tuple(flags),
    )


def _paragraph(
    comparison: Comparison,
    candidates: Sequence[EncoderCandidate],
    times: Times,
    of: Mapping[str, str],
    *,
    limited: bool,
) -> str:
    """The answer in sentences that hold: ``of`` gives each line's encoder, ``limited`` whether limits left any out."""
    first = candidates[0]
    name = f"{first.encoder} ({first.head}, {first.adaptation})"
    which = "that keeps to the limits" if limited else "in these runs"
    start = f"For {comparison.task}, "
    lines = [entry for entry in comparison.entries if not entry.baseline]
    sentences = []
    if len(lines) == 1:
        sentences.append(f"{start}{name} is the only encoder {which}: nothing was compared.")
    elif len(candidates) == 1:
        sentences.append(f"{start}{name} is better than every other {_others(comparison, first, of)} {which}.")
    else:
        names = ", ".join(f"{each.encoder} ({each.head}, {each.adaptation})" for each in candidates)
        sentences.append(
            f"{start}{len(candidates)} are not significantly worse than the best in {comparison.metric}: {names}; "
            f"{_smallest(candidates, of)}."
        )
        found = [entry.detectable for entry in comparison.entries if entry.in_best_set and entry.detectable]
        if found:
            sentences.append(
                f"A true difference of {max(found):.3f} or more to the best would have been found with 80 % power; "
                "smaller ones may be there."
            )
    sentences += [comparison.speaks_of] if comparison.speaks_of else []
    sentences += [each.sentence for each in comparison.heads]
    sentences.append(f"{name} reaches {first.estimate}.")
    if first.milliseconds is not None:
        sentences.append(f"A forward pass of one image takes it {first.milliseconds:.3g} ms ({first.timed}).")
    if len(times.devices) > 1:
        sentences.append(f"Times are of {len(times.devices)} devices and do not compare: {'; '.join(times.devices)}.")
    sentences += _beside_baseline(comparison, lines[0], first)
    if first.worst:
        sentences.append(f"The worst stratum of {name} is {first.worst}.")
    for each in candidates:
        sentences += [str(flag) if flag.code in NAMED else f"{each.encoder}: {flag}" for flag in each.flags]
    return " ".join(dict.fromkeys(sentences))


AGAINST: frozenset[Code] = frozenset({"contamination", "random-weights", "synthetic"})
"""Codes of what speaks against an encoder of the best set."""
NAMED: frozenset[Code] = frozenset({"contamination", "synthetic"})
"""Codes of those whose sentence names what it speaks of."""


def _others(comparison: Comparison, first: EncoderCandidate, of: Mapping[str, str]) -> str:
    """What the lines are that ``first`` is better than: encoders, or only other uses of its own."""
    mine = next(each for each in comparison.entries if each.name == _line_name(first))
    others = [each for each in comparison.entries if not each.baseline and each is not mine]
    kinds = {
        "encoder": all(of[each.name] != of[mine.name] for each in others),
        "head of this one encoder": all(
            (each.encoder, each.adaptation) == (mine.encoder, mine.adaptation) for each in others
        ),
        "adaptation of this one encoder": all(
            (each.encoder, each.head) == (mine.encoder, mine.head) for each in others
        ),
        "use of this one encoder": all(of[each.name] == of[mine.name] for each in others),
    }
    return next((words for words, holds in kinds.items() if holds), "encoder, head and adaptation")


def _smallest(candidates: Sequence[EncoderCandidate], of: Mapping[str, str]) -> str:
    """Which encoder among ``candidates`` has the fewest parameters, as far as that can be said."""
    encoders = {of[_line_name(each)]: each.parameters for each in candidates}
    if len(encoders) == 1:
        ((name, parameters),) = encoders.items()
        counted = "" if parameters is None else f", with {parameters:,} parameters"
        return f"all of them are of one encoder, {name}{counted}"
    known = [parameters for parameters in encoders.values() if parameters is not None]
    if len(known) < len(encoders):
        return "not every one of them has a known number of parameters, so none is called the smallest"
    least = [name for name, parameters in encoders.items() if parameters == min(known)]
    if len(least) == len(encoders):
        return f"each has {min(known):,} parameters"
    if len(least) == 1:
        return f"{least[0]} is the smallest of them, with {min(known):,} parameters"
    return f"{', '.join(least[:-1])} and {least[-1]} are the smallest of them, with {min(known):,} parameters each"


def _beside_baseline(comparison: Comparison, leading: Entry, first: EncoderCandidate) -> list[str]:
    """How the best line stands to the best baseline, and the first candidate to all of them at once."""
    baselines = [entry for entry in comparison.entries if entry.baseline and entry.estimate.value is not None]
    if not baselines:
        return []
    best, name = baselines[0], f"{leading.encoder} ({leading.head}, {leading.adaptation})"
    words = [f"The best baseline, {best.encoder}, reaches {_in_words(best)}."]
    difference = best.difference
    if difference is None or difference.p is None:
        return [*words, f"Whether {name} is better than that baseline could not be tested."]
    if difference.p < ALPHA and (difference.value < 0) == comparison.lower_is_better:
        return [*words, f"That baseline is better than {name} (p {p_words(difference.p)})."]
    mine = (first.encoder, first.head, first.adaptation)
    return words + [each.sentence for each in comparison.against if (each.encoder, each.head, each.adaptation) == mine]


def _line_name(candidate: EncoderCandidate) -> str:
    return f"{candidate.encoder} · {candidate.head} · {candidate.adaptation}"


def _in_words(entry: Entry) -> str:
    """The estimate, of several seeds with their number."""
    words = describe(entry.estimate, entry.seed_sd)
    return words if entry.seeds == 1 else f"{words}, {entry.seeds} seeds"


FEWEST = 10
"""Patients (for AUROC: of either class) that a stratum must have to be called the worst."""


def worst_stratum(run: Run, metric: str) -> str | None:
    """The level with the worst ``metric`` among all declared attributes, in words; None where none is large enough.

    Of a macro AUROC only strata that hold every class count: means over other classes do not compare.
    """
    table = run.test_predictions()
    kind, names = run.kind, tuple(run.record.data.class_names)
    lesions = [run.lesions()]
    whole = pair_tables(kind, metric, [table], names, lesions=lesions)
    found: list[tuple[float, str]] = []
    for name in declared(table, names):
        try:
            (attribute,) = attributes(table, [name])
        except EvalfmError:
            # Numbers without thresholds and columns of one level make no strata.
            continue
        for number, level in enumerate(attribute.levels):
            stratum = table[attribute.codes == number].reset_index(drop=True)
            try:
                of = pair_tables(kind, metric, [stratum], names, lesions=lesions)
            except EvalfmError:
                continue
            # The note names the classes left out.
            if of.fewest < FEWEST or of.measured[0].note != whole.measured[0].note:
                continue
            value = of.measured[0].statistic.on_the_data()
            if value == value:
                words = f"{name} = {level}: {metric} {value:.3f} on {len(stratum)} images"
                found.append((-whole.metric.badness(value), words))
    return min(found)[1] if found else None
