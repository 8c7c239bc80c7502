"""The timm encoder: it trains, and gives patch tokens and attention maps of vision transformers."""

import pytest
import torch
from timm.layers import apply_rot_embed_cat
from torch.nn import functional
from torch.testing import assert_close

from sigreg import LeJEPALoss, SIGReg
from sigreg_adapters.timm import Encoder

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}  # 4 x 4 patches
FAMILIES = {
    "vit": ("vit_tiny_patch16_224", {}),
    "vit, averaged": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "fc_norm": False}),
    "vit, averaged beside a class token": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "vit, class token averaged too": (
        "vit_tiny_patch16_224",
        {"global_pool": "avg", "pool_include_prefix": True},
    ),
    "vit with registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}),
    "vit with normed queries and keys": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "vit, parallel branches": ("vit_small_patch16_18x2_224", {}),
    "deit": ("deit_tiny_patch16_224", {}),
    "distilled deit": ("deit_tiny_distilled_patch16_224", {}),
    "eva02": ("eva02_tiny_patch14_224", {}),
    "dinov3": ("vit_tiny_patch16_dinov3_qkvb", {}),
    "beit": ("beit_base_patch16_224", {}),
    "relative positions": ("vit_relpos_small_patch16_224", {}),
}


def encoder_of(family: str) -> Encoder:
    name, more = FAMILIES[family]
    torch.manual_seed(0)
    return spread_out(Encoder(name, projection_dim=8, hidden_dim=16, **{**SMALL, **more}).eval())


def spread_out(encoder: Encoder) -> Encoder:
    """Weights as in a trained model: an untrained one attends to all patches alike, whatever the map is."""
    for name, p in encoder.backbone.named_parameters():
        if "qkv.weight" in name or name.endswith(("q_proj.weight", "k_proj.weight")):
            torch.nn.init.normal_(p, std=0.3)
    return encoder


def images(n: int = 3, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


def seen(module: torch.nn.Module, store: list[torch.Tensor], of: str = "out") -> None:
    module.register_forward_hook(lambda m, args, out: store.append(out if of == "out" else args[0]))


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet_50", "resnet50, "),
        ("vit_small", "vit_small_patch"),  # the beginning of a name
        ("no such network at all", "none"),
    ],
)
def test_an_unknown_model_is_answered_by_the_names_nearest_to_it(name, close):
    with pytest.raises(ValueError, match=f"timm has no model '{name}'; close names: {close}"):
        Encoder(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_forward_features_on_their_grid(family):
    encoder, x = encoder_of(family), images()
    with torch.no_grad():
        found, expected = encoder.tokens(x), encoder.backbone.forward_features(x)
    assert found.shape == (3, 4, 4, 48)
    skipped = encoder.backbone.num_prefix_tokens
    for i in range(4):
        for j in range(4):
            assert_close(found[:, i, j], expected[:, skipped + 4 * i + j], rtol=0, atol=0)


def test_the_first_axis_of_a_map_is_the_images_height():
    """Two rows of three patches; where only the lower left one differs, its token changes most."""
    encoder = Encoder("vit_tiny_patch16_224", **{**SMALL, "img_size": (16, 24), "depth": 1}).eval()
    x = images(1, (16, 24))
    y = x.clone()
    y[..., 8:, :8] += 1
    with torch.no_grad():
        assert encoder.tokens(x).shape == (1, 2, 3, 48)
        assert encoder.attention(x).shape == (1, 3, 2, 3)
        change = (encoder.tokens(x) - encoder.tokens(y)).norm(dim=-1)[0]
    assert change.argmax() == 3  # (1, 0)


@pytest.mark.parametrize("family", ["vit", "deit", "vit with registers", "vit with normed queries and keys"])
def test_attention_of_a_class_token_is_the_softmax_by_hand(family):
    encoder, x = encoder_of(family), images()
    block, inputs = encoder.backbone.blocks[-1], []
    seen(block.norm1, inputs)
    with torch.no_grad():
        found = encoder.attention(x)
        weights = by_hand(block.attn, inputs[0])
    skipped = encoder.backbone.num_prefix_tokens
    assert_close(found, weights[:, :, 0, skipped:].reshape(3, 3, 4, 4))
    total = found.sum((2, 3)) + weights[:, :, 0, :skipped].sum(2)
    assert_close(total, torch.ones(3, 3))
    assert found.std() > 0.01, "all patches alike: this test could not fail"


def by_hand(attn: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) `(N, heads, tokens, tokens)`, head by head, from the block's weights."""
    heads, d = attn.num_heads, attn.head_dim
    rows = (attn.qkv.weight @ x.mT).mT + (0 if attn.qkv.bias is None else attn.qkv.bias)
    found = []
    for h in range(heads):
        q = attn.q_norm(rows[..., h * d : (h + 1) * d])
        k = attn.k_norm(rows[..., (heads + h) * d : (heads + h + 1) * d])
        exp = torch.exp(q @ k.mT / d**0.5)
        found.append(exp / exp.sum(-1, keepdim=True))
    return torch.stack(found, 1)


def test_attention_of_eva02_has_rotary_positions_in_it():
    encoder, x = encoder_of("eva02"), images()
    model, inputs = encoder.backbone, []
    attn = model.blocks[-1].attn
    seen(attn, inputs, of="in")
    with torch.no_grad():
        found = encoder.attention(x)
        bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        qkv = functional.linear(inputs[0], attn.qkv.weight, bias).unflatten(-1, (3, 3, 16))
        q, k = qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].transpose(1, 2)  # (N, heads, tokens, d)
        rope = model.rope.get_embed()
        q, k = (
            torch.cat([z[:, :, :1], apply_rot_embed_cat(z[:, :, 1:], rope, half=attn.rotate_half)], 2)
            for z in (q, k)
        )
        weights = (q @ k.mT / 4).softmax(-1)
    assert_close(found, weights[:, :, 1:, 1:].mean(2).reshape(3, 3, 4, 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_maps_weigh_the_values_as_the_fused_kernel_does(family, monkeypatch):
    """What the last block's fused attention gives to the pooled tokens is the map times the patches' values.

    The map holds no weights of prefix tokens, so the values of those count as zero.
    """
    encoder, x = encoder_of(family), images()
    fused, calls = functional.scaled_dot_product_attention, []

    def recorded(q, k, v, **settings):
        calls.append((q, k, v, settings))
        return fused(q, k, v, **settings)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded)
    model = encoder.backbone
    with torch.no_grad():
        model.forward_features(x)
        q, k, v, settings = calls[-1]
        v[:, :, : model.num_prefix_tokens] = 0
        out = fused(q, k, v, **settings)  # (N, heads, tokens, d)
        found = encoder.attention(x).flatten(2)  # (N, heads, patches)
    rows = {
        "distilled deit": slice(0, 2),
        "vit, class token averaged too": slice(None),
    }.get(family, slice(0, 1) if model.global_pool == "token" else slice(model.num_prefix_tokens, None))
    patches = v[:, :, model.num_prefix_tokens :]
    assert_close((found[:, :, None] @ patches)[:, :, 0], out[:, :, rows].mean(2))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("included", [False, True])
def test_attention_pooling_gives_the_latents_weights(registers, included):
    torch.manual_seed(0)
    given = {"global_pool": "map", "class_token": False, "pool_include_prefix": included}
    encoder = Encoder("vit_tiny_patch16_224", reg_tokens=registers, **given, **SMALL).eval()
    x, pool = images(), encoder.backbone.attn_pool
    for weight in (pool.latent, pool.kv.weight, pool.q.weight):
        torch.nn.init.normal_(weight, std=0.3)
    skipped = registers if included else 0  # of the pooled tokens, those that are no patches
    with torch.no_grad():
        found = encoder.attention(x)
        q = pool.q(pool.latent)[0, 0]  # (C,)
        k = pool.kv(encoder.backbone.forward_features(x)[:, registers - skipped :])[..., :48]
    scores = (k * q).unflatten(-1, (3, 16)).sum(-1) / 4  # (N, tokens, heads)
    assert_close(found, scores.softmax(1)[:, skipped:].mT.reshape(3, 3, 4, 4))


@pytest.mark.parametrize("family", ["vit", "deit", "eva02", "vit with registers", "beit"])
def test_the_fused_setting_changes_nothing_and_stays(family):
    fused, plain = encoder_of(family), encoder_of(family)
    plain.load_state_dict(fused.state_dict())
    for module in plain.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with torch.no_grad():
        assert_close(fused.attention(images()), plain.attention(images()))
    assert {m.fused_attn for m in fused.modules() if hasattr(m, "fused_attn")} == {True}
    assert {m.fused_attn for m in plain.modules() if hasattr(m, "fused_attn")} == {False}


def test_the_fused_setting_comes_back_after_an_error():
    encoder = encoder_of("vit")
    with pytest.raises(Exception, match="Input height"):
        encoder.attention(images(1, (40, 32)))
    assert encoder.backbone.blocks[-1].attn.fused_attn


def test_another_size_gives_another_grid():
    encoder = Encoder("vit_tiny_patch16_224", **SMALL, dynamic_img_size=True).eval()
    with torch.no_grad():
        assert encoder.tokens(images(1, (48, 16))).shape == (1, 6, 2, 48)
        assert encoder.attention(images(1, (48, 16))).shape == (1, 3, 6, 2)


def test_a_gradient_passes_through_tokens_and_attention():
    encoder, x = encoder_of("vit"), images().requires_grad_()
    (encoder.tokens(x).square().mean() + encoder.attention(x).square().sum()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "test_resnet", "cait_xxs24_224", "mixer_s32_224"]
)
def test_a_model_without_patch_tokens_is_an_error_that_says_what_to_use(name):
    given = {"img_size": 224} if "resnet" not in name else {}
    encoder = Encoder(name, projection_dim=8, hidden_dim=16, **given).eval()
    x = images(1, (224, 224))
    for method in (encoder.tokens, encoder.attention):
        with pytest.raises(ValueError, match=r"vit_\*.*backbone.forward_intermediates"):
            method(x)
    with torch.no_grad():  # what the message says works
        maps = encoder.backbone.forward_intermediates(x, indices=[-1], intermediates_only=True)
    assert maps[-1].ndim == 4


def test_dropped_patches_are_an_error_that_says_to_call_eval():
    encoder = Encoder("vit_tiny_patch16_224", **SMALL, patch_drop_rate=0.5).train()
    for method in (encoder.tokens, encoder.attention):
        with pytest.raises(ValueError, match=r"4 x 4 patches, found 8; .*encoder.eval\(\)"):
            method(images())
    encoder.eval()
    assert encoder.attention(images()).shape == (3, 3, 4, 4)


def test_two_softmaxes_a_head_are_an_error():
    encoder = Encoder("vit_tiny_patch16_224", **{**SMALL, "num_heads": 3}, attn_layer="diff").eval()
    with pytest.raises(ValueError, match=r"DiffAttention .* shape \(3, 6, 17, 17\)"):
        encoder.attention(images())


@pytest.mark.parametrize(
    ("name", "more"),
    [("mobilenetv3_small_050", {}), ("lcnet_050", {}), ("resnet10t", {"global_pool": "catavgmax"})],
)
def test_the_projector_takes_what_the_backbone_gives(name, more):
    """A convolution in the head, or two kinds of pooling side by side, change the width of the features."""
    encoder = Encoder(name, projection_dim=8, hidden_dim=16, **more).eval()
    embedding, projection = encoder(torch.randn(1, 3, 32, 32))
    assert embedding.shape == (1, encoder.embedding_dim)
    assert projection.shape == (1, 8)


@pytest.mark.parametrize(
    ("setting", "message"), [({"global_pool": ""}, "a map of features"), ({"features_only": True}, "of maps")]
)
def test_a_backbone_without_pooling_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Encoder("test_resnet", **setting)


def test_an_encoder_of_any_timm_model_trains_under_lejepa():
    encoder = Encoder("test_vit", projection_dim=8, hidden_dim=32, dynamic_img_size=True)
    crops = [torch.randn(4, 3, size, size) for size in (160, 160, 96)]
    LeJEPALoss(sigreg=SIGReg(num_slices=16))([encoder(x)[1] for x in crops], num_global=2).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_an_unknown_backbone_is_named_with_close_ones():
    with pytest.raises(ValueError, match="resnet"):
        Encoder("resnet_of_nobody")
