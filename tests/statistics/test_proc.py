"""AUROC, its interval and paired tests against R's pROC on its own data of aneurysms (aSAH)."""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from evalfm.statistics.auroc import auroc_covariance
from evalfm.statistics.comparison import compare_auroc

SCRIPT = """
suppressMessages(library(pROC))
data(aSAH)
write.csv(data.frame(outcome = as.integer(aSAH$outcome == "Poor"), wfns = as.integer(aSAH$wfns),
                     s100b = aSAH$s100b, ndka = aSAH$ndka), stdout(), row.names = FALSE)
cat("---\\n")
curve <- function(x) roc(aSAH$outcome, x, levels = c("Good", "Poor"), direction = "<", quiet = TRUE)
say <- function(name, values) cat(name, format(as.numeric(values), digits = 15), "\\n")
for (name in c("wfns", "s100b", "ndka")) {
  one <- curve(as.numeric(aSAH[[name]]))
  say(paste0(name, ".ci"), ci.auc(one, method = "delong"))
  say(paste0(name, ".var"), var(one, method = "delong"))
}
for (pair in list(c("wfns", "s100b"), c("wfns", "ndka"), c("s100b", "ndka"))) {
  one <- curve(as.numeric(aSAH[[pair[1]]])); other <- curve(as.numeric(aSAH[[pair[2]]]))
  found <- roc.test(one, other, method = "delong", paired = TRUE)
  say(paste(c(pair, "test"), collapse = "."), c(found$statistic, found$p.value, found$conf.int))
  say(paste(c(pair, "cov"), collapse = "."), cov(one, other, method = "delong"))
}
"""


def _has_proc() -> bool:
    if shutil.which("Rscript") is None:
        return False
    return subprocess.run(["Rscript", "-e", "library(pROC)"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not _has_proc(), reason="R's pROC is not installed (apt-get install r-cran-proc)")


@pytest.fixture(scope="module")
def proc() -> tuple[pd.DataFrame, dict[str, list[float]]]:
    told = subprocess.run(["Rscript", "-e", SCRIPT], capture_output=True, text=True, check=True).stdout
    data, values = told.split("---\n")
    return pd.read_csv(io.StringIO(data)), {
        name: [float(each) for each in rest] for name, *rest in (line.split() for line in values.splitlines())
    }


@pytest.mark.parametrize("name", ["wfns", "s100b", "ndka"])
def test_area_variance_and_interval_are_those_of_proc(name: str, proc: Any) -> None:
    data, values = proc
    found = auroc_covariance(data["outcome"], data[name])
    low, area, high = values[f"{name}.ci"]
    assert len(data) == 113
    assert found.auroc[0] == pytest.approx(area, abs=1e-12)
    assert found.covariance[0, 0] == pytest.approx(values[f"{name}.var"][0], rel=1e-10)
    reach = norm.isf(0.025) * found.covariance[0, 0] ** 0.5
    assert (area - reach, min(1, area + reach)) == pytest.approx((low, high), abs=1e-10)


@pytest.mark.parametrize(("one", "other"), [("wfns", "s100b"), ("wfns", "ndka"), ("s100b", "ndka")])
def test_the_paired_test_and_its_interval_are_those_of_proc(one: str, other: str, proc: Any) -> None:
    data, values = proc
    found = compare_auroc(data["outcome"], data[one], data[other])
    z, p, low, high = values[f"{one}.{other}.test"]
    assert found.p == pytest.approx(p, rel=1e-9)
    assert found.value / found.standard_error == pytest.approx(z, rel=1e-10)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-10)
    covariance = auroc_covariance(data["outcome"], np.stack([data[one], data[other]], axis=1)).covariance
    assert covariance[0, 1] == pytest.approx(values[f"{one}.{other}.cov"][0], rel=1e-10)
