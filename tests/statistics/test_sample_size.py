import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import NormalIndPower

from evalfm.statistics import sample_size as plan
from evalfm.statistics.auroc import auroc_covariance

from .paired import compare_auroc


def drawn(
    rng: np.random.Generator,
    patients: int,
    prevalence: float,
    aurocs: list[float],
    correlation: float,
    k: int,
    icc: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [N], scores [N, C] and patients [N] as the formulas suppose them."""
    label = np.repeat(np.arange(patients) < round(patients * prevalence), k).astype(float)
    joint = np.full((len(aurocs), len(aurocs)), correlation) + (1 - correlation) * np.eye(len(aurocs))
    root = np.linalg.cholesky(joint)
    own = rng.normal(size=(patients, len(aurocs))) @ root.T
    noise = rng.normal(size=(patients * k, len(aurocs))) @ root.T
    scores = np.sqrt(icc) * np.repeat(own, k, axis=0) + np.sqrt(1 - icc) * noise
    return label, scores + label[:, None] * stats.norm.ppf(aurocs) * np.sqrt(2), np.repeat(np.arange(patients), k)


@pytest.mark.parametrize(("k", "icc", "correlation"), [(1, 0.5, 0.5), (3, 0.6, 0.2), (2, 0.3, 0.8)])
def test_standard_errors_are_those_of_simulated_studies(k: int, icc: float, correlation: float) -> None:
    rng, patients, prevalence = np.random.default_rng(0), 400, 0.25
    found = np.array(
        [
            auroc_covariance(*drawn(rng, patients, prevalence, [0.88, 0.8], correlation, k, icc)).auroc
            for _ in range(500)
        ]
    )
    within = {"images_per_patient": k, "icc": icc}
    one = plan.auroc_variance(0.8, **within).standard_error(patients * k, prevalence)
    two = plan.auroc_difference_variance(0.88, 0.08, correlation=correlation, **within)
    # The standard deviation of 500 draws is known to 3.2 % (one standard error).
    assert found[:, 1].std(ddof=1) == pytest.approx(one, rel=0.1)
    difference = found[:, 0] - found[:, 1]
    assert difference.std(ddof=1) == pytest.approx(two.standard_error(patients * k, prevalence), rel=0.1)


@pytest.mark.parametrize(("difference", "power", "comparisons"), [(0.06, 0.8, 1), (0.08, 0.9, 3)])
def test_the_power_that_is_promised_is_that_of_the_test_that_compare_makes(
    difference: float, power: float, comparisons: int
) -> None:
    k, icc, correlation, prevalence = 2, 0.5, 0.5, 0.2
    unit = plan.auroc_difference_variance(0.85, difference, correlation=correlation, images_per_patient=k, icc=icc)
    error = plan.error_for_power(difference, power=power, comparisons=comparisons)
    patients = round(unit.images(error, prevalence) / k)
    rng, studies = np.random.default_rng(1), 300
    wins = 0
    for _ in range(studies):
        label, scores, patient = drawn(rng, patients, prevalence, [0.85, 0.85 - difference], correlation, k, icc)
        p = compare_auroc(label, scores[:, 0], scores[:, 1], patient).p
        wins += p is not None and p < 0.05 / comparisons
    assert wins / studies == pytest.approx(power, abs=0.05)


def test_means_agree_with_statsmodels() -> None:
    error = plan.error_for_power(0.02, power=0.8, comparisons=3)
    needed = plan.mean_difference_variance(0.25, correlation=0.6).images(error, 0.5)
    sd = 0.25 * np.sqrt(2 * 0.4)
    oracle = NormalIndPower(ddof=0).solve_power(0.02 / sd, power=0.8, alpha=0.05 / 3, ratio=0)
    assert needed == int(np.ceil(oracle))
    assert plan.power_of(0.02, sd / np.sqrt(oracle), comparisons=3) == pytest.approx(0.8, abs=1e-4)


def test_continuous_scores_that_know_nothing_have_mann_whitney_s_variance() -> None:
    unit = plan.auroc_variance(0.5)
    assert (unit.positive, unit.negative) == pytest.approx((1 / 12, 1 / 12))
    assert unit.standard_error(200, 0.5) == pytest.approx(np.sqrt((100 + 100) / (12 * 100 * 100)))


def test_a_cluster_of_identical_images_counts_as_one() -> None:
    alone = plan.auroc_variance(0.9)
    together = plan.auroc_variance(0.9, images_per_patient=4, icc=1)
    assert together.positive == pytest.approx(4 * alone.positive)
    assert plan.auroc_variance(0.9, images_per_patient=4, icc=0).positive == pytest.approx(alone.positive)
    assert plan.mean_variance(0.2, images_per_patient=4, icc=1).positive == pytest.approx(4 * 0.04)


def test_equal_scores_have_no_difference_to_measure() -> None:
    assert plan.auroc_difference_variance(0.8, 0, correlation=1).positive == pytest.approx(0, abs=1e-9)


def test_what_can_be_found_is_what_was_asked_for() -> None:
    def unit(by: float) -> plan.UnitVariance:
        return plan.auroc_difference_variance(0.85, by, images_per_patient=2)

    error = plan.error_for_power(0.04, comparisons=6) / plan.with_training(1, 0.7)
    images = unit(0.04).images(error, 0.1)
    found = plan.detectable_difference(unit, images, 0.1, most=0.4, comparisons=6, training_ratio=0.7)
    assert found == pytest.approx(0.04, abs=2e-5)
    assert plan.detectable_difference(unit, 4, 0.5, most=0.4) is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: plan.auroc_variance(1.0), "AUROC is 1"),
        (lambda: plan.auroc_variance(0.8, icc=1.5), "ICC is 1.5"),
        (lambda: plan.auroc_variance(0.8, images_per_patient=0.5), "images per patient is 0.5"),
        (lambda: plan.auroc_difference_variance(0.8, 0.9), "AUROC is -0.1"),
        (lambda: plan.mean_difference_variance(0.2, correlation=-1), "correlation is -1"),
    ],
)
def test_figures_outside_their_range_are_refused(call: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()  # type: ignore[operator]
