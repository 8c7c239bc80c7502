"""What the Lightning callback writes to TensorBoard, CSV and other loggers."""

import importlib
import sys

import pytest
import torch

from sigreg.diagnostics import diagnose_batch
from sigreg_adapters.lightning import GaussianityMonitor
from tests.monitored import fit
from tests.samples import normal

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*workers.*"),
]


class Board:
    """A fake of TensorBoard's SummaryWriter, which is not installed where these tests run."""

    def __init__(self):
        self.figures, self.texts = [], []

    def add_figure(self, tag, figure, global_step):
        self.figures.append((tag, figure, global_step))

    def add_text(self, tag, text, global_step):
        self.texts.append((tag, text, global_step))


def loggers(pl, tmp_path):
    module = importlib.import_module(f"{pl.__name__}.loggers")

    class BoardLogger(module.Logger):
        name, version = "board", 0

        def __init__(self):
            super().__init__()
            self.experiment, self.metrics = Board(), []

        def log_metrics(self, metrics, step=None):
            self.metrics.append((step, metrics))

        def log_hyperparams(self, *args, **kwargs): ...

    return module.CSVLogger(tmp_path, name="log"), BoardLogger()


def test_every_logger_gets_the_numbers_at_the_step_of_the_look_and_tensorboard_the_picture(pl, tmp_path):
    csv_logger, board_logger = loggers(pl, tmp_path)
    monitor = GaussianityMonitor(every_n_steps=2, figure_every_n_steps=4)
    fit(pl, monitor, z=normal(64 * 7, 8), logger=[csv_logger, board_logger], log_every_n_steps=50)
    from sigreg.selection import read_csv

    rows = [r for r in read_csv(csv_logger.experiment.metrics_file_path) if r["gaussianity/sd"] is not None]
    ours = [(step, m) for step, m in board_logger.metrics if "gaussianity/sd" in m]
    assert [r["step"] for r in rows] == [step for step, _ in ours] == [0, 2, 4, 6]
    assert ours[-1][1] == monitor.last
    assert {name: rows[-1][name] for name in monitor.last} == pytest.approx(monitor.last)
    board = board_logger.experiment
    assert board.texts[-1] == ("gaussianity", str(monitor.diagnosis), 6)
    assert [(tag, step) for tag, _, step in board.figures] == [("gaussianity", 0), ("gaussianity", 4)]
    figure = board.figures[0][1]
    titles = [ax.get_title().split(":")[0] for ax in figure.axes]
    assert titles == ["spectrum", "worst slice", "lengths"]
    figure.savefig(tmp_path / "figure.png")


def test_the_densities_of_the_picture_integrate_to_one():
    from sigreg.diagnostics.batch_figure import draw

    figure = draw(diagnose_batch([(normal(500, 8), None)]), "criterion")
    assert figure.get_suptitle() == "criterion: healthy (N = 500, D = 8)"
    for ax in figure.axes[1:]:
        (line,) = ax.lines
        assert torch.trapezoid(*map(torch.as_tensor, (line.get_ydata(), line.get_xdata()))) == pytest.approx(
            1.0, abs=1e-3
        )
        data = ax.patches[0].get_data()
        widths = torch.as_tensor(data.edges).diff()
        assert float((torch.as_tensor(data.values) * widths).sum()) == pytest.approx(1.0, abs=1e-5)


def test_without_matplotlib_there_is_no_figure_and_no_error(lightning, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _, board_logger = loggers(lightning, tmp_path)
    fit(lightning, GaussianityMonitor(), logger=board_logger)
    assert len(board_logger.experiment.texts) == 1
    assert board_logger.experiment.figures == []
