"""`evalfm bias`: does the score depend on the chest tube, the sex, the view?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from evalfm.cards import CardModel, Option, validate
from evalfm.cli.compare import runs_in
from evalfm.cli.console import Bars, emit_json, print_rows, refuse_folder
from evalfm.cli.label_noise import noise_rates, print_verdicts, verdicts_of
from evalfm.cli.options import configured
from evalfm.config import MachineOptions
from evalfm.errors import EvalfmError, UnknownNameError

if TYPE_CHECKING:
    from evalfm.analysis.predictions import Predictions
    from evalfm.analysis.scores import LabelScores
    from evalfm.run import Run

TABLES = (".csv", ".tsv", ".parquet", ".pq")
TABLE, SHORTCUTS = "Tables of other models", "Shortcuts: runs that are made"


class BiasOptions(CardModel):
    """What a subgroup report is of, and how tables of other models are read."""

    by: Annotated[
        tuple[str, ...], Field(description="Attributes: chest_tube,sex,age:65,view; sex*view for both at once.")
    ]
    adjust: Annotated[tuple[str, ...], Field(description="Columns to adjust the test for, such as age,sex,view.")] = ()
    task: Annotated[str | None, Field(description="Runs of this task only.")] = None
    label: Annotated[str | None, Field(description="Of runs of several labels, classes or masks: this one alone.")] = (
        None
    )
    target: Annotated[str, Field(description="Column of the label, 0 or 1."), Option(TABLE)] = "target"
    score: Annotated[str, Field(description="Column of the score."), Option(TABLE)] = "score"
    patient: Annotated[str, Field(description="Column of the patient."), Option(TABLE)] = "patient"
    threshold: Annotated[
        float | None,
        Field(description="At and above it a score is positive; it must not come from these rows."),
        Option(TABLE),
    ] = None
    prevalence: Annotated[
        float | None,
        Field(gt=0, lt=1, description="For PPV and NPV by subgroup, a fraction; by default that of the test set."),
    ] = None
    lesion_area: Annotated[
        str | None,
        Field(description="Column of the lesion's area, for strata of its size; lesion_area, where there is one."),
    ] = None
    size_strata: Annotated[int, Field(ge=2, le=10, description="Strata of lesion size: 3 are tertiles.")] = 3
    label_noise: Annotated[
        str | None,
        Field(
            description="Ask again on labels that are wrong at this rate, such as .05, or .1/.02 for missed positives "
            "and false positives; several with commas between."
        ),
    ] = None
    decode: Annotated[
        bool,
        Field(description="Probe the features for each attribute among images without the finding."),
        Option(SHORTCUTS),
    ] = False
    curve: Annotated[
        bool,
        Field(description="Train the heads with each attribute tied to the label, more and more."),
        Option(SHORTCUTS),
    ] = False
    out: Annotated[Path, Field(description="Where --decode and --curve write their runs."), Option(SHORTCUTS)] = Path(
        "runs/shortcuts"
    )
    device: Annotated[
        str, Field(description="Of --decode and --curve: auto, cpu, cuda or cuda:1."), Option(SHORTCUTS)
    ] = "auto"


@configured(BiasOptions)
def bias(
    models: Annotated[list[Path], typer.Argument(help="Runs, folders that hold some, or a table of predictions.")],
    options: Mapping[str, Any],
    html: Annotated[Path | None, typer.Option(help="Write the report on one page here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the summary as Markdown here.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report each attribute's strata and whether the score depends on it at fixed label.

    Scores are tested among images without the finding; Dice, false alarms and errors by their means. Sensitivity,
    specificity, predictive values and calibration are compared between levels. p is corrected over all models named.
    Each of several labels is a question of its own, and so is each class against the rest; grades are reported by the
    error of the expected grade, or one of them by --label. A run's predictions.parquet, copied or turned into CSV, is
    read as the run. Of other tables, for one yes-or-no question, a column of splits says which rows are of test, and
    scores are ranked within a column of folds. --decode and --curve make runs, as a study does; those that are among
    the named folders already are shown without them.

    Examples:

        evalfm bias runs --task ptx-cls --by chest_tube,sex,view --html bias.html

        evalfm bias runs --task ptx-cls --by chest_tube --decode --curve --html bias.html

        evalfm bias runs --task density --by age:50,view --label D

        evalfm bias predictions.csv --by sex,age:65 --adjust view --threshold 0.5 --prevalence 0.05
    """
    from evalfm.analysis.bias import ReportOptions, bias_of_questions, one_family
    from evalfm.analysis.bias_of_values import bias_of_values, one_family_of_values
    from evalfm.analysis.bias_page import BiasReport
    from evalfm.analysis.scores import asks_questions, predictions_of_table, questions_of_run, scores_of_table
    from evalfm.analysis.shortcuts import decodability, shortcut_curves
    from evalfm.analysis.table import model_names
    from evalfm.data.atomic import write_atomically

    refuse_folder(html)
    refuse_folder(markdown)
    request = validate(BiasOptions, dict(options), "The call")
    by, label, threshold = request.by, request.label, request.threshold
    chosen = ReportOptions(tuple(request.adjust), request.prevalence, request.lesion_area, request.size_strata)
    rates = noise_rates(request.label_noise)
    asked: list[LabelScores] = []
    runs, every, tables = _inputs(models, request)
    if request.decode or request.curve:
        if not runs:
            raise EvalfmError("--decode and --curve need runs; a table of predictions has no features to probe.")
        every += _shortcut_runs(runs, request)
    decoded, curves = decodability(every), shortcut_curves(every)
    named = list(zip(model_names(runs), runs, strict=True))
    beside: list[list[LabelScores]] = []
    own: list[tuple[Predictions, str | None]] = []
    columns = {"target": request.target, "score": request.score, "patient": request.patient}
    for path in tables:
        predictions = predictions_of_table(path, **columns, label=label)
        if predictions is None and label is not None:
            raise EvalfmError("--label is of runs; name the columns of a table with --target and --score.")
        if predictions is None:
            beside.append([scores_of_table(path, **columns, threshold=threshold)])
        elif threshold is not None:
            raise EvalfmError(
                f"{path.name} is a run's and brings its own threshold, chosen on val; leave --threshold out."
            )
        elif asks_questions(*predictions):
            beside.append(questions_of_run(*predictions))
        else:
            own.append(predictions)
    reports, values = [], []
    absent: dict[str, EvalfmError] = {}
    for name, run in named:
        try:
            if asks_questions(run, label):
                questions = questions_of_run(run, label, model=name)
                reports += bias_of_questions(questions, by, options=chosen)
                asked += questions
            else:
                values.append(replace(bias_of_values(run, by, label=label, options=chosen), model=name))
        except UnknownNameError:
            raise
        except EvalfmError as error:
            # One of several models ends nothing.
            absent[name] = error
    reports += [report for each in beside for report in bias_of_questions(each, by, options=chosen)]
    asked += [each for together in beside for each in together]
    if rates and not asked and not absent:
        raise EvalfmError("--label-noise is for yes-or-no labels, and none of these models answers one.")
    if request.prevalence is not None and not asked and not absent:
        raise EvalfmError("--prevalence is of predictive values, and none of these models answers yes or no.")
    noise = [each for scores in asked for each in verdicts_of(scores, by, chosen, rates)]
    values += [bias_of_values(each, by, label=name, options=chosen) for each, name in own]
    if absent and not reports and not values:
        raise next(iter(absent.values()))
    reports, values = one_family(reports), one_family_of_values(values)
    not_shown = [f"{name}: {error}" for name, error in absent.items()]
    report = BiasReport(reports, values, decoded, curves, not_shown)
    if html is not None:
        write_atomically(html, report.html.encode())
    if markdown is not None:
        write_atomically(markdown, report.markdown.encode())
    if json:
        noisy = {"label_noise": [asdict(each) for each in noise]} if rates else {}
        emit_json({**report.to_json(), **noisy})
        return
    if reports:
        shown = f"score's difference in standard deviations{report.adjusted}, corrected p"
        print_rows(f"Among images without the finding: {shown}", report.leaning.header, report.leaning.texts)
    _tell(report.verdicts[: len(reports)])
    if values:
        title = "Masks and measurements: mean at the level minus elsewhere, corrected p"
        print_rows(title, report.differences.header, report.differences.texts)
    _tell(report.verdicts[len(reports) :])
    print_verdicts(noise)
    lines = [
        *report.families,
        *report.shortcuts,
        *(f"Not shown: {reason}" for reason in not_shown),
        *(f"  {each}" for each in report.cautions),
    ]
    for line in lines:
        typer.echo(line)
    for written in (html, markdown):
        if written is not None:
            typer.echo(f"Wrote {written}")


def _tell(verdicts: Sequence[tuple[str, str, list[str]]]) -> None:
    for model, counts, sentences in verdicts:
        typer.echo(f"{model}: {counts}")
        for sentence in sentences:
            typer.echo(f"  {sentence}")


def _shortcut_runs(runs: list[Run], request: BiasOptions) -> list[Run]:
    """The runs of the studies that --decode and --curve ask for; those that are there already are read."""
    from evalfm.study import run_study
    from evalfm.study.cohorts import Manifests
    from evalfm.study.shortcuts import curve_studies, decode_studies

    plain = [each for each in request.by if not set(each) & {":", "*"}]
    if not plain:
        raise EvalfmError("--decode and --curve take columns with two levels, without thresholds and not crossed.")
    bars, machine = Bars(), MachineOptions(devices=request.device)
    manifests = Manifests(bars)
    makers = [maker for maker, wanted in ((decode_studies, request.decode), (curve_studies, request.curve)) if wanted]
    made: list[Run] = []
    for study in [study for maker in makers for each in plain for study in maker(runs, each, manifests)]:
        done = run_study(study, request.out / study.name, bars, machine=machine, manifests=manifests)
        made += done.runs
        for failed in done.failed:
            assert failed.failure is not None
            typer.echo(f"Not made: {failed.cell.description}: {failed.failure.sentence}", err=True)
    return made


def _inputs(models: Sequence[Path], request: BiasOptions) -> tuple[list[Run], list[Run], list[Path]]:
    """Runs to report on, all runs beside them, and tables: every run below a folder but baselines, or the one it is."""
    from evalfm.analysis.table import plain_runs

    runs: list[Run] = []
    beside: list[Run] = []
    tables = [path for path in models if path.suffix.lower() in TABLES and path.is_file()]
    for path in models:
        if path in tables:
            continue
        if not path.is_dir():
            raise EvalfmError(
                f"There is no run or table {path}; name a run's folder, or a CSV or Parquet of predictions."
            )
        every = runs_in([path])
        beside += every
        # A run of the attribute itself, as --decode makes, has no score that could lean on it.
        chosen = [
            run
            for run in plain_runs(every)
            if request.task in (None, run.task) and not set(run.record.task.target) & set(request.by)
        ]
        if len(chosen) > 1:
            chosen = [run for run in chosen if not run.is_baseline]
        if not chosen:
            raise EvalfmError(f"There is no run in {path} to report on; make one with `evalfm probe --task ptx-cls`.")
        runs += chosen
    if request.threshold is not None and not tables:
        raise EvalfmError("--threshold is for a table; a run brings its own, chosen on val.")
    label = request.label
    if label is None or not runs:
        return runs, beside, tables
    having = [run for run in runs if label in run.record.data.class_names]
    if not having:
        names = {name for run in runs for name in run.record.data.class_names}
        raise UnknownNameError("label, class or mask in these runs", label, names)
    return having, beside, tables
