"""The migration files run on every lightly, and the guide says what they say."""

import copy
import importlib
import itertools
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from integrations.lightly.migrate import guide

README = (Path(guide.__file__).parent.parent / "README.md").read_text()
FROZEN = {("dino", "before"): 1}  # DINO keeps its prototypes as they are in the first epoch
PAIRS = [(method, framework) for method in guide.METHODS for framework in guide.FRAMEWORKS]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning"),  # lightly's DINO head
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight images: two steps of four."""
    path = tmp_path_factory.mktemp("images")
    for i, noise in enumerate(torch.randint(256, (8, 6, 6, 3), dtype=torch.uint8)):
        Image.fromarray(noise.numpy()).resize((36, 40)).save(path / f"{i}.png")
    return path


class Steps:
    """The trained parameters before the first optimizer step and after every one."""

    def __init__(self):
        self.history = []

    def before(self, optimizer, args, kwargs):
        if not self.history:
            self.after(optimizer, args, kwargs)

    def after(self, optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.history.append([copy.deepcopy(p.detach()) for p in parameters])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("method", "framework"), PAIRS)
def test_every_file_takes_two_steps(method, framework, when, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # Lightning writes its checkpoint where it runs
    steps = Steps()
    hooks = [register_optimizer_step_pre_hook(steps.before), register_optimizer_step_post_hook(steps.after)]
    module = importlib.import_module(f"integrations.lightly.migrate.{method}_{framework}_{when}")
    try:
        result = module.main(["--data", str(folder), "--batch-size", "4", "--epochs", "1", "--workers", "0"])
    finally:
        for hook in hooks:
            hook.remove()

    assert len(steps.history) == 3
    for earlier, later in itertools.pairwise(steps.history):
        still = [torch.equal(p, q) for p, q in zip(earlier, later, strict=True)]
        assert sum(still) == FROZEN.get((method, when), 0)
        assert all(p.isfinite().all() for p in later)
    if isinstance(result, pl.Trainer):
        assert result.global_step == 2
        loss = result.callback_metrics["loss"]
    else:
        loss = torch.tensor(float(re.search(r"loss (\S+)", capsys.readouterr().out)[1]))
    assert loss.isfinite()
    assert loss != 0


@pytest.mark.parametrize(("method", "framework"), PAIRS)
def test_nothing_of_the_teacher_is_left(method, framework):
    after = Path(guide.__file__).with_name(f"{method}_{framework}_after.py").read_text()
    for word in ("momentum", "teacher", "Prediction", "detach", "no_grad", "deepcopy", "cosine"):
        assert word not in after


@pytest.mark.parametrize(("method", "framework"), PAIRS)
def test_the_guide_shows_what_the_files_differ_by(method, framework):
    assert guide.block(method, framework) in README, "python -m integrations.lightly.migrate.guide prints it"


def test_the_guide_counts_the_lines_of_the_diffs():
    assert guide.table() in README
    for method, framework in PAIRS:
        deleted, added = guide.counts(method, framework)
        assert added <= 6 < deleted


def test_the_guide_shows_no_other_diff():
    shown = re.findall(r"```diff\n.*?\n```", README, flags=re.DOTALL)
    generated = {guide.block(method, framework) for method, framework in PAIRS}
    others = [block for block in shown if block not in generated]
    assert len(others) == 2  # the import of LeJEPALoss; SIGReg as an extra term, which has its own test
