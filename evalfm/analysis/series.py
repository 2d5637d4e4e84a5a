"""Runs that differ in their seed alone are one line of a table; lines that are alike are named by what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from evalfm.analysis.cohort import cohort_of, cohort_words, distinct_names
from evalfm.config import THRESHOLD_RULE
from evalfm.run import Run
from evalfm.statistics.estimate import Estimate

NO_RESULT = frozenset(
    {
        "seed",
        "seeds",
        "heads",
        "baselines",
        "processes",
        "prompts",
        "task",
        "data",
        "test_data",
        "encoder",
        "refits",
        "refit_choice",
    }
)
"""Settings that change no result of a run, or that stand elsewhere in its record by what they came to."""
NO_FEATURE = frozenset(
    {"batch_size", "maps", "workers", "device", "cache_images", "processes", "weights", "precision", "compile"}
)
"""Likewise, of how the encoder was loaded; weights and precision are in the record."""
OVER_SEEDS = "over several seeds the interval goes from the lowest to the highest end of theirs"


def series(runs: Iterable[Run]) -> list[list[Run]]:
    """``runs`` in groups that differ in their seed alone, sorted by it; the same run twice counts once.

    Runs of one seed are never two seeds: where all that a record holds is equal and the keys differ, each is a group.
    """
    grouped: dict[str, dict[str, Run]] = {}
    for run in runs:
        grouped.setdefault(_all_but_the_seed(run), {}).setdefault(run.record.key, run)
    found = []
    for each in grouped.values():
        mine = sorted(_most_refitted(each.values()), key=lambda run: run.seed)
        several = len({run.seed for run in mine}) < len(mine)
        found += [[run] for run in mine] if several else [mine]
    return found


def _most_refitted(runs: Iterable[Run]) -> list[Run]:
    """Of runs of one seed that differ in their refits alone, which change no figure, the one that has most of them."""
    by_seed: dict[int, dict[tuple[int, bool], list[Run]]] = {}
    for run in runs:
        section = run.record.refits
        count = (0, False) if section is None else (len(section.numbers), section.chosen_again)
        by_seed.setdefault(run.seed, {}).setdefault(count, []).append(run)
    return [run for each in by_seed.values() for run in each[max(each)]]


def averaged(runs: Sequence[Run], metric: str) -> Estimate:
    """``metric`` of runs that differ in their seed: the mean, with an interval that holds each of theirs."""
    every = [run.estimate(metric) for run in runs]
    values = [one.value for one in every if one.value is not None]
    if len(every) == 1 or not values:
        return every[0]
    lows = [one.low for one in every if one.low is not None]
    highs = [one.high for one in every if one.high is not None]
    mean, reasons = float(np.mean(values)), [one.reason for one in every if one.reason]
    unit, n = every[0].unit, every[0].n
    notes = [one.note for one in every if one.note]
    if len(values) < len(every):
        notes.insert(0, f"mean of the {len(values)} of {len(every)} seeds that have a value")
    if len(lows) < len(every) or len(highs) < len(every):
        return Estimate(mean, n=n, unit=unit, reason=reasons[0] if reasons else None, note=notes[0] if notes else None)
    return Estimate(mean, min(lows), max(highs), n=n, unit=unit, method=OVER_SEEDS, note=OVER_SEEDS)


def seed_sd(runs: Sequence[Run], metric: str) -> float | None:
    """Spread of ``metric`` over the seeds; None for a single one."""
    values = [value for run in runs if (value := run.estimate(metric).value) is not None]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run that change its result; those that were left as they are by default are absent."""
    written = run.record.config.as_written()
    config = {name: value for name, value in written.items() if name not in NO_RESULT and _said(value)}
    if config.get("threshold") == THRESHOLD_RULE:
        del config["threshold"]
    return config | {
        f"encoder.{name}": value
        for name, value in run.record.config.encoder.as_written().items()
        if name not in NO_FEATURE and name != "name" and _said(value)
    }


def encoder_label(run: Run) -> str:
    """The encoder's name, with random weights and an input other than its card's in brackets."""
    marked = run.record.provenance.random_weights and not run.encoder.startswith("random:")
    doubts = [*(["random weights"] if marked else []), *filter(None, [input_words(run)])]
    return run.encoder + (f" ({', '.join(doubts)})" if doubts else "")


def line_names(firsts: Sequence[Run], by: Sequence[Callable[[Run], str]] | None = None) -> list[str]:
    """A name for the encoder of each line, by its first run: equal ones of one head and adaptation get what differs."""
    names = [f"{run.head}\n{run.adaptation}\n{encoder_label(run)}" for run in firsts]
    facets = facets_among(firsts) if by is None else by
    return [name.split("\n", 2)[2] for name in distinct_names(names, firsts, facets, " ({})")]


def model_names(runs: Sequence[Run]) -> list[str]:
    """Encoder, head and adaptation of each run; where these are alike, with what tells them apart."""
    names = [f"{encoder_label(run)} · {run.head} · {run.adaptation}" for run in runs]
    for more in (lambda run: run.task, lambda run: run.record.data.test_name, cohort_words):
        names = distinct_names(names, runs, (more,), " · {}")
    return distinct_names(names, runs, facets_among(runs), " ({})")


def facets_among(runs: Sequence[Run]) -> list[Callable[[Run], str]]:
    """What may tell ``runs`` apart, in words, the plainest first; none is equal to another in the last."""
    settings = sorted({name for run in runs for name in settings_of(run)} - {"recipe", "adaptation"})
    recipes = sorted({name for run in runs for name in run.record.config.recipe})
    return [
        lambda run: "baseline" if run.is_baseline else "no baseline",
        lambda run: f"{run.record.data.splits.train.images} train images",
        lambda run: run.record.provenance.precision,
        *(_setting(name) for name in settings),
        *(_of_recipe(name) for name in recipes),
        lambda run: f"evalfm {run.record.provenance.versions.get('evalfm')}",
        lambda run: f"head settings {_short(run.record.head.grid)}",
        lambda run: f"sentences {_short(_sentences(run))}",
        lambda run: f"weights {str(run.record.provenance.weights_digest)[:8]}",
        lambda run: f"{'file' if run.encoder == 'precomputed' else 'features'} {run.record.provenance.feature_key[:8]}",
        cohort_words,
        lambda run: (
            "split by seed" if run.record.config.draws_subsets else f"split {run.record.provenance.split_hash[:8]}"
        ),
        lambda run: f"seed {run.seed}",
        lambda run: f"run {run.record.key[:8]}",
        lambda run: f"run {run.record.key}",
    ]


def _setting(name: str) -> Callable[[Run], str]:
    return lambda run: f"{name.removeprefix('encoder.')}={settings_of(run).get(name, 'default')}"


def _of_recipe(name: str) -> Callable[[Run], str]:
    return lambda run: f"{name}={run.record.config.recipe.get(name)}"


def input_words(run: Run) -> str:
    """How the encoder was given its input other than its card says, such as ``112 px, letterbox``."""
    size, resize = run.record.config.encoder.input_size, run.record.config.encoder.resize
    return ", ".join([*([f"{size} px"] if size else []), *([resize] if resize else [])])


def settings_but(run: Run, *names: str) -> str:
    """What decides the result of a run beside its seed and the settings ``names``, for grouping alone."""
    return _all_but_the_seed(run, frozenset(names))


def _split_words(run: Run) -> str:
    return "split by seed" if run.record.config.draws_subsets else f"split {run.record.provenance.split_hash[:8]}"


def _all_but_the_seed(run: Run, names: frozenset[str] = frozenset()) -> str:
    """What decides the result of a run beside its seed, as canonical JSON."""
    record, made = run.record, run.record.provenance
    drawn = bool(names) or run.record.config.draws_subsets
    settings = {name: value for name, value in settings_of(run).items() if name not in names}
    return json.dumps(
        [
            cohort_of(run),
            [run.encoder, made.feature_key, made.weights_digest, made.precision, made.random_weights],
            [record.head.as_written(), record.task.nsd_tolerance_mm, _sentences(run)],
            [settings, made.versions.get("evalfm"), None if drawn else made.split_hash],
        ],
        sort_keys=True,
        default=str,
    )


def _sentences(run: Run) -> Mapping[str, Any] | None:
    prompts = run.record.prompts
    if prompts is None:
        return None
    return {name: getattr(prompts, name) for name in ("source", "templates", "context", "rows")}


def _said(value: object) -> bool:
    return value is not None and value is not False and value not in ("", [], {})


def _short(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]
