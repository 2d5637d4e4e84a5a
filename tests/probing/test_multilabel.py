"""Several labels with holes: each is learnt, chosen and measured on its own known rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError
from evalfm.probing.probe import probe

CARD = "name: several\nschema: 1\nkind: multilabel\ntitle: Which are there?\ntarget: [square, wide, rare]\n"


@pytest.fixture
def holes(squares, tmp_path):
    table = squares.table.copy()
    table["wide"] = (table["size"] > 0.06).astype(float)
    table.loc[table.index % 3 == 0, "wide"] = np.nan
    table["rare"] = 0.0
    table.loc[table.index[-1], "rare"] = 1.0
    table.loc[table.index[:2], ["square", "wide", "rare"]] = np.nan
    card = tmp_path / "several.yaml"
    card.write_text(CARD)
    return Manifest(squares.info, pd.DataFrame(table), squares.folder), str(card)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_each_label_is_measured_where_it_is_known(holes, tmp_path, head):
    manifest, card = holes
    (run,) = probe("pixels", card, data=manifest, heads=[head], baselines="none", out=tmp_path / "runs")
    assert [each.images for each in run.record.exclusions] == [2]
    test = run.predictions().query("split == 'test'")
    known = test["target_wide"].notna()
    assert 0 < known.sum() < len(test)
    expected = average_precision_score(test["target_wide"][known], test["score_wide"][known])
    assert run.metrics["auprc[wide]"].value == pytest.approx(expected)
    each = [run.metrics[f"auprc[{name}]"].value for name in ("square", "wide")]
    assert run.metrics["macro_auprc"].value == pytest.approx(np.mean(each))
    assert "2 of 3" in (run.metrics["macro_auprc"].note or "")
    for metric in ("auroc[rare]", "auprc[rare]"):
        assert run.metrics[metric].value is None
        assert "one class only" in run.metrics[metric].reason
    assert test["score_rare"].isna().all()
    assert any("no score is given: rare" in str(each) for each in run.record.cautions)


def test_a_label_unknown_throughout_train_spoils_no_other(holes, tmp_path):
    manifest, card = holes
    table = manifest.table.copy()
    table.loc[table["split"] == "train", "rare"] = np.nan
    manifest = Manifest(manifest.info, table, manifest.folder)
    (run,) = probe("pixels", card, data=manifest, heads=["mlp"], baselines="none", out=tmp_path / "runs")
    assert run.metrics["auprc[wide]"].value is not None
    assert run.metrics["auprc[rare]"].value is None


def test_a_task_without_any_label_to_learn_is_refused(holes, tmp_path):
    manifest, card = holes
    with pytest.raises(EvalfmError, match="No label has both classes in train and in val"):
        probe("pixels", card, data=manifest, where="square == 1 and wide == 1", baselines="none", out=tmp_path / "runs")
