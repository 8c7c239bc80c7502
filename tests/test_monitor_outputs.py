"""The Lightning callback on a module without SIGReg, whose output it watches."""

import re

import pytest
import torch

from sigreg_adapters.lightning import GaussianityMonitor
from tests.monitored import fit, method

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*workers.*"),
]


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda z: {"z": z}, "a dict"),
        (lambda z: z.mean(), r"\(\) of torch.float32"),
        (lambda z: z[:, 0], r"\(64,\) of torch.float32"),
        (lambda z: z.long(), r"\(64, 8\) of torch.int64"),
        (lambda z: None, "None"),
        (lambda z: (z, None), None),
        (lambda z: [3, z], None),
    ],
)
def test_an_output_without_embeddings_is_said_and_training_goes_on(output, got, lightning, recwarn):
    def training_step(self, batch, _):
        self.neck(batch)
        return self.head(batch).square().mean()

    class Neck(torch.nn.Module):
        def forward(self, z):
            return output(z)

    model, monitor = method(lightning, training_step=training_step), GaussianityMonitor("neck")
    model.neck = Neck()
    assert fit(lightning, monitor, model).global_step == 2
    said = [str(w.message) for w in recwarn if "no report" in str(w.message)]
    if got is None:
        assert said == []
        assert monitor.diagnosis.measured.N == 64
    else:
        (line,) = said
        assert re.search(rf"no report on neck: it returned {got}; expected a floating-point", line)
