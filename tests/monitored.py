"""What the tests of the Lightning callback share: a module, a trainer and one training step."""

import types

import torch

from sigreg import LeJEPALoss, SIGReg
from sigreg_adapters.lightning import GaussianityMonitor
from tests.samples import normal

VIEWS = normal(2, 64, 8) * torch.linspace(0.2, 1.5, 8) + 0.1


def method(pl, **changes):
    """A LightningModule with a linear head and a criterion; `changes` replace its methods."""

    class Method(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(8, 8, bias=False)
            torch.nn.init.eye_(self.head.weight)
            self.criterion = SIGReg(num_slices=8)

        def training_step(self, batch, _):
            return self.criterion(self.head(batch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-4)

    for name, change in changes.items():
        setattr(Method, name, change)
    return Method()


def fit(pl, monitor, model=None, *, scale=1.0, z=None, ckpt_path=None, **trainer):
    """Trains on batches of 64 of which all columns but the first are multiplied by `scale`.

    `monitor` may be a list of several.
    """
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    settings |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    callbacks = [*monitor] if isinstance(monitor, list) else [monitor]
    trainer = pl.Trainer(callbacks=callbacks, **settings | trainer)
    z = normal(128, 8) * torch.tensor([1.0] + [scale] * 7) if z is None else z
    trainer.fit(
        method(pl) if model is None else model,
        torch.utils.data.DataLoader(z, batch_size=64),
        ckpt_path=ckpt_path,
    )
    return trainer


class Trainer:
    """What the callback asks of a trainer."""

    global_step, is_global_zero, loggers, should_stop, accumulate_grad_batches = 0, True, (), False, 1
    strategy = types.SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)


class Module(torch.nn.Module):
    def __init__(self, **modules):
        super().__init__()
        self.logged = {}
        for name, module in modules.items():
            setattr(self, name, module)

    def log_dict(self, values, **options):
        self.logged = values


def look(monitor, module, step, trainer=Trainer):
    """One training step of a module that is no LightningModule."""
    monitor.on_train_start(trainer, module)
    monitor.on_train_batch_start(trainer, module)
    step()
    monitor.on_train_batch_end(trainer, module)
    monitor.on_train_end(trainer, module)
    return module.logged


def watched(calls, **settings):
    """The log of one step in which a SIGReg, found automatically, had these calls."""
    module = Module(criterion=LeJEPALoss(sigreg=SIGReg(num_slices=8)))
    sigreg = module.criterion.sigreg
    return look(GaussianityMonitor(**settings), module, lambda: [sigreg(z, w) for z, w in calls])
