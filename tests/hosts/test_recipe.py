"""The recipe for Transformers, run as its README says, for a few steps."""

import json

import pytest
from torch.testing import assert_close

from integrations.transformers import report, train


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe")
    train.main(["--steps", "2", "--width", "16", "--out", str(out)])
    return json.loads((out / "report.json").read_text())


def test_microbatches_and_padding_change_neither_loss_nor_gradient(found):
    """Float32 sums in another order: tens of eps, relative to the whole gradient."""
    whole = found["first_step"]["one batch"]
    for name in ("4 microbatches", "32 more padded positions"):
        each = found["first_step"][name]
        assert_close(each["loss"], whole["loss"], rtol=1e-5, atol=0)
        assert_close(each["sigreg"], whole["sigreg"], rtol=1e-5, atol=0)
        assert each["gradient differs by"] < 1e-5


def test_a_missing_mask_and_separate_microbatches_do(found):
    whole, first = found["first_step"]["one batch"], found["first_step"]
    assert abs(first["without the mask"]["sigreg"] / whole["sigreg"] - 1) > 1e-3
    assert first["without the mask"]["gradient differs by"] > 0.01
    assert first["each microbatch by itself"]["sigreg"] < whole["sigreg"] / 2


def test_the_report_names_what_was_run(found):
    assert found["config"]["steps"] == 2
    assert set(found["versions"]) == {*report.PACKAGES, "python"}
    assert list(found["results"]) == ["untrained", "without SIGReg", "with SIGReg"]
    assert all(row["effective rank"] <= 16 for row in found["results"].values())
