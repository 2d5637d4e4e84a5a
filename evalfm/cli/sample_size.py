"""`evalfm sample-size`: how many images and patients a study needs, before it is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.statistics.sample_size import UnitVariance

FEWEST_PATIENTS = 10


def sample_size(
    auroc: Annotated[float | None, typer.Option(help="The AUROC that is expected, of the better encoder.")] = None,
    sd: Annotated[
        float | None, typer.Option(help="In place of an AUROC: standard deviation over images of a mean, as of Dice.")
    ] = None,
    difference: Annotated[
        float | None, typer.Option(help="The difference between two encoders that shall be found.")
    ] = None,
    width: Annotated[float | None, typer.Option(help="The width that the interval of one encoder may have.")] = None,
    images: Annotated[
        int | None, typer.Option(min=20, help="Images that there are: what width and difference they allow.")
    ] = None,
    prevalence: Annotated[float, typer.Option(help="Share of images that are positive.")] = 0.5,
    images_per_patient: Annotated[float, typer.Option(min=1, help="On average.")] = 1.0,
    icc: Annotated[
        float, typer.Option(min=0, max=1, help="Intraclass correlation of a patient's scores within the class.")
    ] = 0.5,
    correlation: Annotated[
        float, typer.Option(min=0, max=0.99, help="Of two encoders' scores on the same image, within the class.")
    ] = 0.5,
    encoders: Annotated[
        int, typer.Option(min=2, help="How many are compared, each with each; alpha is divided by the pairs.")
    ] = 2,
    training_ratio: Annotated[
        float,
        typer.Option(
            min=0, help="Variance from the training sample ÷ that from the test sample; 0: heads that stand already."
        ),
    ] = 1.0,
    power: Annotated[float, typer.Option(help="Probability that the difference is found.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Probability that one is found where none is.")] = 0.05,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how many images and patients a study needs: for a difference between encoders, or for an interval's width.

    Scores are taken as normal in both classes with one variance, and all images of a patient as of one class. With
    --images in place of --difference and --width, what that many allow.

    Examples:

        evalfm sample-size --auroc .85 --difference .03 --prevalence .1 --images-per-patient 2

        evalfm sample-size --auroc .85 --width .05 --prevalence .1

        evalfm sample-size --auroc .85 --images 2000 --prevalence .1 --encoders 5

        evalfm sample-size --sd .25 --difference .02          (Dice of images with a lesion)
    """
    if (auroc is None) == (sd is None):
        raise EvalfmError("Say what is measured: --auroc with the value expected, or --sd of a mean such as Dice.")
    if sum(each is not None for each in (difference, width, images)) != 1:
        raise EvalfmError("Say what is asked: one of --difference, --width or --images.")
    within = {
        "--prevalence": prevalence,
        "--power": power,
        "--alpha": alpha,
        "--auroc": 0.5 if auroc is None else auroc,
    }
    for option, value in within.items():
        if not 0 < value < 1:
            raise EvalfmError(f"{option} {value:g} is no figure between 0 and 1.")
    if alpha >= power:
        raise EvalfmError(f"--power {power:g} is not above --alpha {alpha:g}; .8 and .05 are usual.")
    for option, size in (("--difference", difference), ("--width", width), ("--sd", sd)):
        if size is not None and not 0 < size < math.inf:
            raise EvalfmError(f"{option} {size:g} is not above 0.")
    if auroc is not None and difference is not None and difference >= auroc:
        raise EvalfmError(f"--difference {difference:g} below --auroc {auroc:g} leaves no AUROC above 0.")
    if width is not None and auroc is not None and width >= 1:
        raise EvalfmError(f"--width {width:g} is no width of an AUROC's interval; .05 is usual.")

    from evalfm.cli.console import emit_json
    from evalfm.statistics import sample_size as plan

    patients = {"images_per_patient": images_per_patient, "icc": icc}
    pairs = encoders * (encoders - 1) // 2
    test: dict[str, Any] = {"alpha": alpha, "comparisons": pairs}

    def one() -> UnitVariance:
        return plan.mean_variance(sd or 0, **patients) if auroc is None else plan.auroc_variance(auroc, **patients)

    def two(by: float) -> UnitVariance:
        if auroc is None:
            return plan.mean_difference_variance(sd or 0, correlation=correlation, **patients)
        return plan.auroc_difference_variance(auroc, by, correlation=correlation, **patients)

    supposed = {"icc": icc, "correlation": correlation, "training_ratio": training_ratio}
    answer: dict[str, Any] = {"pairs": pairs, "alpha_per_pair": alpha / pairs, "power": power, "supposed": supposed}
    if images is not None:
        most = 0.4 * (sd or 0) if auroc is None else min(0.4, auroc - 0.01)
        found = plan.detectable_difference(
            two, images, prevalence, most=most, power=power, training_ratio=training_ratio, **test
        )
        answer |= {"width": plan.width_of(one().standard_error(images, prevalence)), "detectable": found}
        lines = [
            f"Interval of one encoder on {images:,} images: {answer['width']:.3f} wide.",
            f"Difference found with {power:.0%} power: {_figure(found, most)}{_pairs(pairs)}.",
        ]
    else:
        if width is not None:
            needed = {"": one().images(plan.error_for_width(width), prevalence)}
        else:
            assert difference is not None
            error, unit = plan.error_for_power(difference, power=power, **test), two(difference)
            needed = {
                "the test sample's variance alone": unit.images(error, prevalence),
                f"the training sample's counted ({training_ratio:g} ×)": unit.images(
                    error / plan.with_training(1.0, training_ratio), prevalence
                ),
            }
        answer["needed"] = [
            {"counted": counted, "images": count, "patients": math.ceil(count / images_per_patient)}
            for counted, count in needed.items()
        ]
        lines = [_sentence(each, prevalence, binary=auroc is not None) for each in answer["needed"]]
        if difference is not None:
            lines.append(f"Test of a difference of {difference:g} with {power:.0%} power{_pairs(pairs)}.")
    fewest = images or min(each["images"] for each in answer["needed"])
    if auroc is not None and min(prevalence, 1 - prevalence) * fewest / images_per_patient < FEWEST_PATIENTS:
        lines.append(f"Fewer than {FEWEST_PATIENTS} patients of one class: no interval of an AUROC is given there.")
    if json:
        emit_json(answer)
        return
    for line in lines:
        typer.echo(line)
    suppositions = [f"ICC {icc:g}"] if images_per_patient > 1 else []
    if width is None:
        suppositions.append(f"scores of two encoders correlated {correlation:g}")
    if suppositions:
        typer.echo(f"Supposed: {', '.join(suppositions)}; take both from a pilot where you can.")


def _sentence(needed: dict[str, Any], prevalence: float, *, binary: bool) -> str:
    count, patients = needed["images"], needed["patients"]
    of_them = f", {math.ceil(count * prevalence):,} positive" if binary else ""
    counted = f"With {needed['counted']}: " if needed["counted"] else ""
    return f"{counted}{count:,} images{of_them}, of {patients:,} patients."


def _pairs(pairs: int) -> str:
    return f", alpha divided by {pairs} pairs" if pairs > 1 else ""


def _figure(found: float | None, most: float) -> str:
    return f"none up to {most:.3f}" if found is None else f"{found:.3f}"
