"""One encoder on one task: cohort, splits, the heads on its features, and the baselines beside them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from evalfm.config import EPISODE_HEADS, THRESHOLD_RULE, ProbeConfig
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.heads import load_head
from evalfm.heads.head import Head, Text
from evalfm.heads.trained import TrainableHead
from evalfm.probing.base_to_novel import as_base_to_novel
from evalfm.probing.cases import Case
from evalfm.probing.cohort import load_cohort, matching_test
from evalfm.probing.episodes import as_episodes, learns, without_support
from evalfm.probing.existing import Known
from evalfm.probing.head_group import HeadGroup, encode_ahead_of, run_group
from evalfm.probing.labelled import SplitAssignment
from evalfm.probing.session import EncoderSession, metadata_columns, open_session
from evalfm.probing.splits import make_splits
from evalfm.probing.texts import reads_text, text_for
from evalfm.probing.warm import WarmEncoders
from evalfm.progress import SILENT, Progress
from evalfm.run import Run
from evalfm.tasks.cohort import Cohort
from evalfm.training.tuning import check_trainable

_Group = tuple[HeadGroup, tuple[SplitAssignment, ...]]
"""Heads with their splits, one for each seed."""


@dataclass(frozen=True)
class _Question:
    """The cohort of a case with its heads and splits."""

    cohort: Cohort
    test: Cohort | None
    names: tuple[str, ...]
    heads: tuple[Head, ...]
    assignments: tuple[SplitAssignment, ...]

    @classmethod
    def of(cls, case: Case, progress: Progress) -> _Question:
        config = case.config
        cohort = load_cohort(config.task, config, case.data, progress)
        test = None
        if case.test_data is not None:
            test = matching_test(cohort, load_cohort(config.task, config, case.test_data, progress))
        names = _heads(config, cohort)
        if config.threshold != THRESHOLD_RULE and not cohort.kind.yes_or_no:
            raise EvalfmError(f"--threshold is for yes-or-no labels; {cohort.task.name} is {cohort.task.kind}.")
        heads = tuple(load_head(name, cohort.task.kind) for name in names)
        tested = cohort
        if config.base_to_novel:
            tested = as_base_to_novel(cohort, heads)
        elif config.episodes:
            tested = as_episodes(cohort, heads, config)
        assignments = tuple(
            SplitAssignment.of(tested, test, make_splits(tested, config, subset_seed=seed))
            for seed in range(config.seeds)
        )
        return cls(cohort, test, names, heads, assignments)

    def groups(self, session: EncoderSession, config: ProbeConfig, text: Text | None) -> list[_Group]:
        """The heads that are fitted together; of episodes, those that learn nothing have one answer for all shots."""
        if not config.episodes:
            return [(HeadGroup(session, self.names, config, text=text), self.assignments)]
        learning = tuple(head.name for head in self.heads if learns(head))
        others = tuple(name for name in self.names if name not in learning)
        bare = config.model_copy(update={"shots": None})
        queries = tuple(map(without_support, self.assignments))
        groups = [
            (HeadGroup(session, learning, config, text=text), self.assignments),
            (HeadGroup(session, others, bare, text=text), queries),
        ]
        return [each for each in groups if each[0].heads]

    def session(
        self, encoder: str | Encoder, config: ProbeConfig, progress: Progress, times: StageTimes, warm: WarmEncoders
    ) -> EncoderSession:
        """The encoder on the images of both cohorts; the targets are hidden from the metadata."""
        tested = None if self.test is None else self.test.manifest
        hidden = frozenset(self.cohort.task.target)
        return open_session(encoder, config, self.cohort.manifest, tested, progress, hidden, times, warm)


def measure(
    case: Case,
    known: Known,
    progress: Progress = SILENT,
    times: StageTimes = NO_TIMES,
    warm: WarmEncoders | None = None,
) -> list[Run]:
    """The runs of one encoder on one task, and of its baselines.

    Args:
        known: which results there are, and what other cells measure.
        warm: encoders that were loaded before, and those that are loaded now.

    Raises:
        EvalfmError: anything the caller can fix, in one sentence.
    """
    config, asked = case.config, _Question.of(case, progress)
    kept = warm or WarmEncoders(0)
    with ExitStack() as opened:

        def session_of(encoder: str | Encoder, of: ProbeConfig) -> EncoderSession:
            session = asked.session(encoder, of, progress, times, kept)
            opened.callback(session.close)
            return session

        session = session_of(case.encoder, config)
        text = text_for(asked.heads, session, asked.cohort, config.prompts)
        groups = asked.groups(session, config, text)
        if not config.base_to_novel and not (config.episodes and config.shots is None):
            # There the constant answer is a metric of each run: no baseline can name a class that it has not seen,
            # and none learns from no shots.
            baselines = _baselines(config, asked.cohort, session, session_of, known)
            groups += [(group, asked.assignments) for group in baselines]
        runs = []
        for number, (group, assignments) in enumerate(groups, 1):
            runs += run_group(group, assignments, known=known, progress=progress)
            if all(later.session is not group.session for later, _ in groups[number:]):
                # Its workers and memory serve no other group.
                group.session.close()
        return runs


def encode_ahead(case: Case, progress: Progress = SILENT, warm: WarmEncoders | None = None) -> None:
    """Put features into the store that the frozen heads of ``case`` will read from there, beside who measures it.

    Whoever does this at the same time has other images: the store lends each image to one process. Maps that would be
    kept in memory, or computed in every pass, are nobody else's work.

    Raises:
        EvalfmError: anything the caller can fix, in one sentence.
    """
    asked = _Question.of(case, progress)
    session = asked.session(case.encoder, case.config, progress, NO_TIMES, warm or WarmEncoders(0))
    try:
        encode_ahead_of(session, asked.heads, asked.assignments)
    finally:
        session.close()


def _heads(config: ProbeConfig, cohort: Cohort) -> tuple[str, ...]:
    """The heads of the call, or the task's own as far as the adaptation can train them.

    Raises:
        EvalfmError: a head is unknown, does not serve the kind of task, or cannot be trained with the encoder.
    """
    names = config.heads or (EPISODE_HEADS if config.episodes else cohort.task.heads)
    loaded = {name: load_head(name, cohort.task.kind) for name in names}
    if config.adaptation == "frozen":
        return names
    if config.heads is None:
        return tuple(name for name, head in loaded.items() if isinstance(head, TrainableHead))
    for head in loaded.values():
        check_trainable(head, config.adaptation)
    return names


def _baselines(
    config: ProbeConfig,
    cohort: Cohort,
    session: EncoderSession,
    session_of: Callable[[str, ProbeConfig], EncoderSession],
    known: Known,
) -> list[HeadGroup]:
    """The baselines of ``cohort``: the constant, the metadata and the pixels; for masks two fixed masks.

    With ``baselines="all"`` the encoder's own architecture with random weights comes too. What another cell of the
    study measures in its own right is left to that.
    """
    if config.baselines == "none":
        return []
    frozen = config.model_copy(update={"adaptation": "frozen", "recipe": {}})
    as_its_card_says = {"weights": "hub", "input_size": None, "resize": None}

    def baseline(name: str, heads: tuple[str, ...], **changes: object) -> list[HeadGroup]:
        own = frozen.model_copy(update={"encoder": name, **changes})
        if own.result_address(None) in known.own:
            heads = tuple(head for head in heads if head not in cohort.task.heads)
        heads = tuple(head for head in heads if own.result_address(head) not in known.own)
        return [HeadGroup(session_of(name, own), heads, own, baseline=True)] if heads else []

    groups: list[HeadGroup] = []
    fixed = cohort.kind.baseline_heads
    simplest = fixed or (EPISODE_HEADS if config.episodes else cohort.task.heads)[:1]
    useless = {"metadata"} if not metadata_columns(cohort.manifest, frozenset(cohort.task.target)) else set()
    useless |= set() if fixed else {session.name}
    for name in cohort.kind.baselines:
        groups += baseline(name, simplest, **as_its_card_says) if name not in useless else []
    pretrained = session.card.get("weights", {}).get("source", "none") != "none" and not session.random_weights
    named = config.heads or (EPISODE_HEADS if config.episodes else cohort.task.heads)
    # Random sentences place images by chance: this baseline is for heads that learn on the features.
    heads = tuple(name for name in named if not reads_text(load_head(name, cohort.task.kind)))
    if config.baselines == "all" and pretrained and heads:
        groups += baseline(config.encoder, heads, weights="random")
    return groups
