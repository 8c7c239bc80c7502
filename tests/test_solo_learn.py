"""The solo-learn adapter against a stand-in of the host's contract; runs everywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("omegaconf", reason="solo-learn's configs are omegaconf's")
pytest.importorskip("hydra", reason="the plugin is Hydra's")

from sigreg import LeJEPALoss, SIGReg
from sigreg.diagnostics import diagnose_batch
from tests import solo_stand_in as stand_in
from tests.monitored import Trainer

ROOT = Path(__file__).parent.parent


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Our module, imported afresh, with the stand-in as `solo`."""
    return stand_in.adapter(monkeypatch, stand_in.BaseMethod)


def _methods() -> dict[str, type]:
    return vars(sys.modules["solo.methods"])["METHODS"]


def _lejepa(adapter: ModuleType, small: int = 0, **method_kwargs: object) -> stand_in.BaseMethod:
    torch.manual_seed(0)
    settings = {"proj_hidden_dim": 16, "proj_output_dim": 8, "num_slices": 64} | method_kwargs
    model = adapter.LeJEPA(stand_in.config(small=small, method_kwargs=settings))
    with torch.no_grad():
        model.projector[-1].weight *= 100  # or all embeddings lie within the tolerance of one another
    return model


# --- registration ---


def test_register_adds_lejepa_and_regularized_methods_once(adapter: ModuleType) -> None:
    before = set(_methods())
    adapter.register()
    first = dict(_methods())
    adapter.register()
    assert _methods() == first
    assert first["lejepa"] is adapter.LeJEPA
    assert set(first) - before == {"lejepa", *(f"{name}+sigreg" for name in stand_in.PLAIN)}


def test_without_solo_learn_one_line_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = stand_in.adapter(monkeypatch, None)
    with pytest.raises(
        ImportError, match=r"start inside a clone of https://\S+ or run `pip install"
    ) as error:
        adapter.register()
    assert "\n" not in str(error.value)


def test_a_clone_of_the_argparse_era_is_told_to_update(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = stand_in.adapter(monkeypatch, stand_in.ArgparseBaseMethod)
    with pytest.raises(ImportError, match=r"argparse.*use a clone of .* from 2023 or later") as error:
        adapter.register()
    assert "\n" not in str(error.value)


def test_an_unknown_name_of_the_module_is_an_attribute_error(adapter: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no attribute 'BYOL'"):
        _ = adapter.BYOL


# --- the method ---


@pytest.mark.parametrize("small", [0, 3])
def test_the_loss_is_the_core_loss_plus_the_online_classifier(adapter: ModuleType, small: int) -> None:
    model = _lejepa(adapter, small, lambda_param=0.2, statistic_kwargs={"t_max": 4.0}).eval()
    indexes, crops, targets = stand_in.batch(small)
    outs = [model(x) for x in crops[:2]] + [model.multicrop_forward(x) for x in crops[2:]]
    criterion = LeJEPALoss(0.2, SIGReg(num_slices=64, t_max=4.0)).eval()
    total, prediction, sigreg = criterion.components([out["z"] for out in outs], num_global=2)
    classification = sum(torch.nn.functional.cross_entropy(o["logits"], targets) for o in outs[:2]) / 2

    loss = model.training_step([indexes, crops, targets], 0)

    torch.testing.assert_close(loss, total + classification)
    torch.testing.assert_close(model.logged["train_prediction"], prediction.detach())
    torch.testing.assert_close(model.logged["train_sigreg"], sigreg.detach())
    torch.testing.assert_close(model.logged["train_lejepa_loss"], total.detach())


@pytest.mark.parametrize("lambda_param", [0.0, 1.0])
def test_every_crop_receives_gradient_from_either_term(adapter: ModuleType, lambda_param: float) -> None:
    model = _lejepa(adapter, small=2, lambda_param=lambda_param)
    batch = stand_in.batch(small=2)
    model.training_step(batch, 0).backward()
    for x in batch[1]:
        assert x.grad is not None
        assert x.grad.flatten(1).norm(dim=1).gt(0).all()


def test_the_optimizer_gets_every_parameter_once(adapter: ModuleType) -> None:
    model = _lejepa(adapter)
    given = [id(p) for group in model.learnable_params for p in group["params"]]
    assert sorted(given) == sorted(id(p) for p in model.parameters())


def test_a_checkpoint_continues_the_stream_of_directions(adapter: ModuleType) -> None:
    model = _lejepa(adapter)
    model.training_step(stand_in.batch(), 0)
    resumed = _lejepa(adapter)
    resumed.load_state_dict(model.state_dict())
    model.training_step(stand_in.batch(), 1)
    resumed.training_step(stand_in.batch(), 1)
    torch.testing.assert_close(resumed.logged["train_sigreg"], model.logged["train_sigreg"])
    assert int(resumed.criterion.sigreg.step) == 2


def test_a_config_of_one_word_gets_the_papers_defaults(adapter: ModuleType) -> None:
    cfg = adapter.LeJEPA.add_and_assert_specific_cfg(stand_in.config())
    assert cfg.method_kwargs.lambda_param == 0.05
    assert cfg.method_kwargs.num_slices == 1024
    assert cfg.method_kwargs.statistic == "epps_pulley"
    assert adapter.LeJEPA(cfg)(torch.zeros(2, 3, 32, 32))["z"].shape == (2, 128)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lamda": 0.1}, r"method_kwargs has \['lamda'\].* it takes .*lambda_param"),
        ({"lambda_param": 2.0}, r"lambda_param=2.0 must lie in \[0, 1\]"),
        ({"proj_output_dim": 0}, "proj_output_dim must be a positive integer, got 0"),
        ({"proj_hidden_dim": "wide"}, "proj_hidden_dim must be a positive integer, got 'wide'"),
        ({"statistic": "kurtosis"}, "statistic='kurtosis' is unknown"),
        ({"num_slices": 0}, "num_slices=0 must be at least 1"),
    ],
)
def test_a_mistake_in_method_kwargs_is_named_before_a_model_is_built(
    adapter: ModuleType, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapter.LeJEPA.add_and_assert_specific_cfg(stand_in.config(method_kwargs=settings))


@pytest.mark.parametrize(
    ("method", "sections", "message"),
    [
        ("lejepa", {"sigreg": {"weight": 9.0}}, r"`sigreg` .* byol\+sigreg; lejepa takes .* method_kwargs"),
        (
            "byol+sigreg",
            {"method_kwargs": {"lambda_param": 0.9, "num_slices": 64}},
            r"method_kwargs has \['lambda_param', 'num_slices'\].* `sigreg`.* weight",
        ),
    ],
)
def test_settings_in_the_section_of_the_other_kind_of_method_are_refused(
    adapter: ModuleType, method: str, sections: dict[str, object], message: str
) -> None:
    adapter.register()
    with pytest.raises(ValueError, match=message):
        _methods()[method].add_and_assert_specific_cfg(stand_in.config(method, **sections))


# --- what main_pretrain.py and timm would only assert ---


@pytest.mark.parametrize("method", ["lejepa", "byol+sigreg"])
def test_four_equal_views_are_told_how_to_become_two_and_two(adapter: ModuleType, method: str) -> None:
    adapter.register()
    cfg = stand_in.config(method)
    cfg.augmentations[0].num_crops = 4
    check = vars(sys.modules["solo.utils.checkpointer"])["Checkpointer"].add_and_assert_specific_cfg
    with pytest.raises(ValueError, match=r"4 crops have the size 32 .* give the others another crop_size"):
        check(cfg)


def test_other_methods_and_two_large_crops_pass_the_check_untouched(adapter: ModuleType) -> None:
    adapter.register()
    check = vars(sys.modules["solo.utils.checkpointer"])["Checkpointer"].add_and_assert_specific_cfg
    wmse = stand_in.config("wmse")
    wmse.augmentations[0].num_crops = 4
    assert check(wmse).checkpoint.enabled is False
    assert check(stand_in.config(small=6)).checkpoint.enabled is False


@pytest.mark.parametrize("method", ["lejepa", "byol+sigreg"])
def test_a_vit_of_one_size_is_told_about_dynamic_img_size(adapter: ModuleType, method: str) -> None:
    adapter.register()
    check = _methods()[method].add_and_assert_specific_cfg
    vit = {"name": "vit_tiny", "kwargs": {"img_size": 32}}
    check(stand_in.config(method, backbone=vit))  # one size, the right one
    with pytest.raises(ValueError, match=r"set backbone\.kwargs\.dynamic_img_size: true$"):
        check(stand_in.config(method, small=2, backbone=vit))
    with pytest.raises(ValueError, match=r"images of \[32, 224\] pixels"):  # custom validates at 224
        check(stand_in.config(method, backbone=vit, data={"val_path": "val"}))
    check(
        stand_in.config(method, small=2, backbone={"name": "vit_tiny", "kwargs": {"dynamic_img_size": True}})
    )


# --- SIGReg beside the loss of another method ---


@pytest.mark.parametrize("small", [0, 2])
def test_plus_sigreg_adds_the_weighted_regularizer_to_the_methods_own_loss(
    adapter: ModuleType, small: int
) -> None:
    adapter.register()
    plain = stand_in.Plain(stand_in.config("byol", small))
    cfg = stand_in.config("byol+sigreg", small, sigreg={"weight": 0.3, "num_slices": 64})
    regularized = _methods()["byol+sigreg"](cfg)
    plain.load_state_dict(regularized.state_dict(), strict=False)
    regularized.eval()
    for step in range(2):  # nothing of the first step may reach the second
        indexes, crops, targets = stand_in.batch(small)
        batch = [indexes, [x * (1 + step) for x in crops], targets]
        z = torch.stack([plain(x)["z"] for x in batch[1]])
        sigreg = SIGReg(num_slices=64).eval()(z)

        loss = regularized.training_step(batch, step)

        torch.testing.assert_close(loss, plain.training_step(batch, step) + 0.3 * sigreg)
        torch.testing.assert_close(regularized.logged["train_sigreg"], sigreg.detach())


def test_plus_sigreg_keeps_the_methods_own_defaults_and_fills_ours(adapter: ModuleType) -> None:
    adapter.register()
    cfg = _methods()["vicreg+sigreg"].add_and_assert_specific_cfg(stand_in.config("vicreg+sigreg"))
    assert cfg.method_kwargs.temperature == 2.0
    assert cfg.sigreg.weight == 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weigth": 0.1}, r"sigreg has \['weigth'\]"),
        ({"weight": -1}, "sigreg.weight must be positive, got -1"),
    ],
)
def test_a_mistake_in_the_sigreg_section_is_named(
    adapter: ModuleType, settings: dict[str, object], message: str
) -> None:
    adapter.register()
    with pytest.raises(ValueError, match=message):
        _methods()["byol+sigreg"](stand_in.config("byol+sigreg", sigreg=settings))


# --- the monitor, by a config key ---


@pytest.mark.parametrize("method", ["lejepa", "vicreg+sigreg"])
def test_one_config_key_watches_what_sigreg_is_given(adapter: ModuleType, method: str) -> None:
    adapter.register()
    section = {"enabled": True, "every_n_steps": 7, "stop_on_collapse": True}
    model = _methods()[method](stand_in.config(method, gaussianity=section))
    (monitor,) = model.configure_callbacks()
    assert (monitor.every_n_steps, monitor.stop_on_collapse, monitor.patience) == (7, True, 3)
    trainer = Trainer()
    monitor.on_train_start(trainer, model)
    monitor.on_train_batch_start(trainer, model)
    model.training_step(stand_in.batch(), 0)
    model.log_dict = lambda values, **_: None  # the stand-in's logs hold tensors
    monitor.on_train_batch_end(trainer, model)
    with torch.no_grad():
        crops = torch.stack([model(x)["z"] for x in stand_in.batch()[1]])
    expected = diagnose_batch([(crops, None)]).diagnosis.measured
    torch.testing.assert_close(monitor.last["gaussianity/epps_pulley"], expected.value)


def test_without_the_key_nothing_is_watched(adapter: ModuleType) -> None:
    assert _lejepa(adapter).configure_callbacks() == []


def test_a_mistake_in_the_gaussianity_section_is_named(adapter: ModuleType) -> None:
    check = adapter.LeJEPA.add_and_assert_specific_cfg
    with pytest.raises(ValueError, match=r"gaussianity has \['every'\].* it takes .*every_n_steps"):
        check(stand_in.config(gaussianity={"every": 3}))
    with pytest.raises(ValueError, match="patience=0 must be at least 1"):
        check(stand_in.config(gaussianity={"enabled": True, "patience": 0}))
