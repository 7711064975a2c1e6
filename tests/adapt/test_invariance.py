"""Invariances, precision, and inputs at and beyond the limits."""

from __future__ import annotations

import pytest
import torch

from da_wa.adapt import alignment, losses, moments, pseudo_labels
from da_wa.adapt.conformance import cases, seeded_inputs

LOSSES = [case for case in cases() if case.trains]


def tensors(case, seed=0, dtype=torch.float64):
    inputs = seeded_inputs(seed)
    return {name: torch.from_numpy(inputs[name]).to(dtype) for name in case.inputs}


@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_the_order_of_images_does_not_matter(case):
    inputs = tensors(case)
    generator = torch.Generator().manual_seed(3)
    orders = {len(x): torch.randperm(len(x), generator=generator) for x in inputs.values()}  # one for each domain
    torch.testing.assert_close(case.ours(*(x[orders[len(x)]] for x in inputs.values())), case.ours(*inputs.values()))


@pytest.mark.parametrize(
    "name", ["mcc", "bnm", "shot: information", "tent", "sar: reliable", "mdd", "fixmatch", "adamatch"]
)
def test_the_order_of_classes_does_not_matter(name):
    case = next(case for case in LOSSES if case.name == name)
    inputs, order = tensors(case), [3, 1, 4, 0, 2]
    torch.testing.assert_close(case.ours(*(x[:, order] for x in inputs.values())), case.ours(*inputs.values()))


@pytest.mark.parametrize("name", ["mcc", "bnm", "shot: information", "tent", "mdd", "adamatch"])
def test_a_constant_added_to_logits_does_not_matter(name):
    case = next(case for case in LOSSES if case.name == name)
    inputs = tensors(case)
    torch.testing.assert_close(case.ours(*(x + 50 for x in inputs.values())), case.ours(*inputs.values()))


def test_coral_under_translation_rotation_and_scale():
    f, g = torch.randn(8, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    loss = alignment.coral(f, g)
    torch.testing.assert_close(alignment.coral(f + 7, g - 30), loss)
    torch.testing.assert_close(alignment.coral(f @ rotation, g @ rotation), loss)
    torch.testing.assert_close(alignment.coral(3 * f, 3 * g), 81 * loss)
    torch.testing.assert_close(
        alignment.coral(*alignment.unit_scale(3 * f, 3 * g)), alignment.coral(*alignment.unit_scale(f, g))
    )
    torch.testing.assert_close(alignment.coral(g, f), loss)
    assert alignment.coral(f, f) == 0


def test_mmd_under_translation_rotation_and_scale():
    f, g = torch.randn(8, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64) + 1
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    loss = alignment.mmd(f, g)
    torch.testing.assert_close(alignment.mmd(f + 1e3, g + 1e3), loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(alignment.mmd(f @ rotation, g @ rotation), loss)
    torch.testing.assert_close(alignment.mmd(1e3 * f, 1e3 * g), loss)  # the bandwidth follows the scale
    torch.testing.assert_close(alignment.mmd(g, f), loss)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_mmd_is_the_biased_estimator(n):
    f = torch.randn(n, 4, dtype=torch.float64)
    assert alignment.mmd(f, f).abs() < 1e-14
    assert alignment.mmd(f, f.repeat(3, 1)).abs() < 1e-14
    for _ in range(5):
        assert alignment.mmd(torch.randn(n, 4), torch.randn(7, 4)) > 0


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 123.4])
def test_mmd_of_equal_rows_is_zero_with_zero_gradient(value):
    """The kernels see 0/0, not the rounding errors of distances divided by their mean."""
    x = torch.full((30, 64), value, requires_grad=True)
    loss = alignment.mmd(x, torch.full((20, 64), value))
    loss.backward()
    assert loss.abs() < 1e-5 and x.grad.abs().max() == 0


# ---- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", LOSSES, ids=lambda case: case.name)
def test_half_precision_inputs_are_computed_in_float32(case, dtype):
    """The same as the rounded inputs in float64, to float32's precision; also under autocast."""
    inputs = list(tensors(case, dtype=dtype).values())
    expected = case.ours(*(x.double() for x in inputs)).float()
    assert case.ours(*inputs).dtype == torch.float32
    torch.testing.assert_close(case.ours(*inputs), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(case.ours(*inputs), expected, rtol=1e-4, atol=1e-5)


def test_other_products_are_not_rounded_by_autocast():
    f, z = torch.randn(6, 4), torch.randn(6, 5)
    maps = alignment.random_maps(4, 5, 16)
    exact = alignment.condition(f, z, maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(alignment.condition(f, z, maps), exact)
        assert alignment.condition(f.bfloat16(), z).dtype == torch.float32


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_saturated_logits_give_finite_losses_and_gradients(scale, dtype):
    torch.manual_seed(0)
    sharp = scale * torch.eye(5).repeat(2, 1) * torch.rand(10, 1)
    collapsed = torch.zeros(10, 5)
    collapsed[:, 2] = scale
    for z in (sharp.to(dtype), collapsed.to(dtype), -sharp.to(dtype)):
        z.requires_grad_()
        for function in (
            losses.mcc,
            losses.bnm,
            losses.information_maximization,
            lambda z: losses.entropy(z).mean(),
            lambda z: losses.masked_mean(losses.entropy(z), losses.reliable(z)),
            lambda z: losses.mdd(z.detach(), z, z.detach(), z),
            lambda z: pseudo_labels.fixmatch(z, pseudo_labels.align_distribution(z, z)),
            lambda z: alignment.domain_bce(z[:, 0], z[:, 2], alignment.entropy_weights(z)),
        ):
            loss = function(z)
            (gradient,) = torch.autograd.grad(loss, z)
            assert loss.isfinite() and gradient.isfinite().all()
        assert pseudo_labels.centroid_labels(z, z).max() < 5


def test_a_collapsed_batch_has_the_limit_of_class_confusion():
    """All images in one class: the other K - 1 classes count as confused, as in the limit of p -> 0."""
    for gap in (20.0, 100.0, 1000.0):
        z = torch.zeros(6, 4, dtype=torch.float64)
        z[:, 1] = gap
        assert losses.mcc(z).item() == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("exponent", range(80, 108, 2))
def test_class_confusion_where_probabilities_are_subnormal(exponent):
    """e^-88 is the smallest normal float32; the inverse of a subnormal number overflows."""
    z = torch.zeros(6, 4)
    z[:, 1] = 2.5 * exponent
    z.requires_grad_()
    loss = losses.mcc(z)
    loss.backward()
    assert loss.item() == pytest.approx(0.75) and z.grad.isfinite().all()


def test_rows_of_zeros():
    f = torch.zeros(3, 2, requires_grad=True)
    alignment.afn(f).backward()
    assert f.grad.abs().max() == 0
    assert all(x.isfinite().all() for x in alignment.unit_scale(f, f))
    assert pseudo_labels.centroid_labels(f, torch.randn(3, 4)).shape == (3,)
    z = torch.randn(3, 4, requires_grad=True)
    losses.masked_mean(losses.entropy(z), torch.zeros(3, dtype=torch.bool)).backward()
    assert z.grad.abs().max() == 0


# ---- bad input

X = torch.zeros(4, 3)
EMPTY = torch.zeros(0, 3)
BAD = {
    "coral of one image": lambda: alignment.coral(X, X[:1]),
    "coral of different features": lambda: alignment.coral(X, torch.zeros(4, 2)),
    "coral of nothing": lambda: alignment.coral(EMPTY, X),
    "coral of maps": lambda: alignment.coral(torch.zeros(4, 3, 2), X),
    "mmd of nothing": lambda: alignment.mmd(X, EMPTY),
    "mmd of different features": lambda: alignment.mmd(X, torch.zeros(4, 2)),
    "unit scale of nothing": lambda: alignment.unit_scale(EMPTY, X),
    "domain loss of nothing": lambda: alignment.domain_bce(torch.zeros(0), torch.zeros(3)),
    "domain loss of two outputs": lambda: alignment.domain_bce(torch.zeros(4, 2), torch.zeros(3)),
    "domain loss with other weights": lambda: alignment.domain_bce(torch.zeros(4), torch.zeros(3), torch.ones(3)),
    "weights of nothing": lambda: alignment.entropy_weights(EMPTY),
    "schedule above 1": lambda: alignment.ramp(1.01),
    "schedule of NaN": lambda: alignment.ramp(float("nan")),
    "condition of other rows": lambda: alignment.condition(X, torch.zeros(3, 2)),
    "condition above 4096": lambda: alignment.condition(torch.zeros(1, 241), torch.zeros(1, 17)),
    "condition with other maps": lambda: alignment.condition(X, X, alignment.random_maps(2, 3)),
    "condition with uneven maps": lambda: alignment.condition(X, X, (torch.zeros(3, 5), torch.zeros(3, 6))),
    "maps of no size": lambda: alignment.random_maps(3, 3, 0),
    "afn of nothing": lambda: alignment.afn(EMPTY),
    "entropy of nothing": lambda: losses.entropy(EMPTY),
    "entropy of one row": lambda: losses.entropy(X[0]),
    "information of one class": lambda: losses.information_maximization(X[:, :1]),
    "mcc of one class": lambda: losses.mcc(X[:, :1]),
    "mcc of nothing": lambda: losses.mcc(EMPTY),
    "mcc at temperature 0": lambda: losses.mcc(X, 0.0),
    "bnm of one class": lambda: losses.bnm(X[:, :1]),
    "mdd of one class": lambda: losses.mdd(X[:, :1], X[:, :1], X[:, :1], X[:, :1]),
    "mdd of other rows": lambda: losses.mdd(X, X[:3], X, X),
    "mdd of other classes": lambda: losses.mdd(X, X[:, :2], X, X[:, :2]),
    "reliable of one class": lambda: losses.reliable(X[:, :1]),
    "masked mean of nothing": lambda: losses.masked_mean(torch.zeros(0), torch.zeros(0, dtype=torch.bool)),
    "masked mean of other rows": lambda: losses.masked_mean(torch.zeros(3), torch.ones(2, dtype=torch.bool)),
    "sharpness of nothing": lambda: losses.sharpness_step([]),
    "fixmatch of other rows": lambda: pseudo_labels.fixmatch(X, X[:3]),
    "fixmatch of one class": lambda: pseudo_labels.fixmatch(X[:, :1], X[:, :1]),
    "confidence of nothing": lambda: pseudo_labels.confident(EMPTY),
    "threshold of nothing": lambda: pseudo_labels.relative_threshold(EMPTY),
    "alignment of other classes": lambda: pseudo_labels.align_distribution(X, torch.zeros(4, 2)),
    "labels of other rows": lambda: pseudo_labels.centroid_labels(X, X[:3]),
    "labels without a round": lambda: pseudo_labels.centroid_labels(X, X, rounds=0),
    "moments of nothing": lambda: moments.moments(EMPTY),
    "moments of a vector": lambda: moments.moments(X[0]),
    "moments of other channels": lambda: moments.merge_moments(moments.moments(X), moments.moments(X[:, :2])),
    "blend beyond 1": lambda: moments.blend(X[0], X[0], 1.5),
    "blend of other channels": lambda: moments.blend(X[0], X[0, :2]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_what_is_wrong(name):
    with pytest.raises(ValueError) as error:
        BAD[name]()
    assert any(character.isdigit() for character in str(error.value)) or "nan" in str(error.value)


def test_limits_that_have_a_value():
    one = torch.tensor([[2.0, 1.0, 0.0]])
    assert losses.mcc(one).item() == pytest.approx(1 - 1 / 3)  # one image: constant
    assert losses.information_maximization(one).item() == pytest.approx(0, abs=1e-7)
    assert losses.entropy(one[:, :1]).tolist() == [0]
    assert alignment.condition(torch.zeros(1, 256), torch.zeros(1, 16)).shape == (1, 4096)
