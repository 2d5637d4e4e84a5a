"""The baselines that every table carries, run once per question as ordinary runs."""

from __future__ import annotations

from evalfm.heads import load_head
from evalfm.probing.head_group import Cell
from evalfm.probing.session import EncoderSession, metadata_columns, open_session
from evalfm.probing.settings import EncoderSettings, Settings
from evalfm.probing.texts import reads_text
from evalfm.progress import Progress
from evalfm.tasks.cohort import Cohort

MASK_BASELINES = ("all-empty", "mean-mask")


def baseline_cells(
    settings: Settings,
    encoder_settings: EncoderSettings,
    cohort: Cohort,
    test: Cohort | None,
    session: EncoderSession,
    progress: Progress,
) -> list[Cell]:
    """The baselines of ``cohort``: what knows nothing, what sees no image, and pixels; for masks two fixed masks.

    With ``baselines="all"`` the encoder's own architecture with random weights comes too.
    """
    if settings.baselines == "none":
        return []
    manifest, test_manifest = cohort.manifest, None if test is None else test.manifest
    hidden = frozenset(cohort.task.target)

    def opening(name: str, weights: str = "hub") -> EncoderSession:
        plain = encoder_settings.model_copy(update={"name": name, "weights": weights})
        if weights == "hub":
            plain = plain.model_copy(update={"input_size": None, "resize": None})
        return open_session(name, plain, manifest, test_manifest, progress, hidden)

    cells: list[Cell] = []
    if cohort.task.kind == "segmentation":
        cells.append(Cell(opening("constant"), MASK_BASELINES, baseline=True))
    else:
        names = ["constant", *(["metadata"] if metadata_columns(manifest, hidden) else []), "pixels"]
        simplest = cohort.task.heads[:1]
        cells += [Cell(opening(name), simplest, baseline=True) for name in names if name != session.name]
    learnt = session.card.get("weights", {}).get("source", "none") != "none" and not session.random_weights
    named = settings.heads or cohort.task.heads
    # Random sentences place images by chance: this baseline is for heads that learn on the features.
    heads = tuple(name for name in named if not reads_text(load_head(name, cohort.task.kind)))
    if settings.baselines == "all" and learnt and heads:
        cells.append(Cell(opening(encoder_settings.name, weights="random"), heads, baseline=True))
    return cells
