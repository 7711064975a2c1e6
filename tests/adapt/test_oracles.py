"""Every loss against its oracle: values, gradients with what is detached held fixed, golden values, closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from da_wa.adapt import alignment, losses, oracles, pseudo_labels
from da_wa.adapt.conformance import SEEDS, cases, golden, gradients, rows, seeded_inputs
from da_wa.adapt.moments import blend, merge_moments, moments
from da_wa.norm import WeightAlignConv2d, fold

CASES = {case.name: case for case in cases()}


def difference(case, inputs):
    arrays = [inputs[name] for name in case.inputs]
    ours = case.ours(*map(torch.from_numpy, arrays)).detach().numpy()
    return np.abs(ours - case.oracle(*arrays)).max()


@pytest.mark.parametrize("seed", range(3, 9))
@pytest.mark.parametrize("name", CASES)
def test_value_equals_the_oracle(name, seed):
    assert difference(CASES[name], seeded_inputs(seed)) < 1e-10


def test_the_table_of_conformance():
    table = rows()
    assert [row.name for row in table] == list(CASES)
    assert max(row.difference for row in table) < 1e-10
    assert all(row.oracle.startswith("da_wa.adapt.oracles.") for row in table)


# ---- gradients: finite differences of the oracle whose detached quantities stay as they were

FROZEN = {
    "dan": lambda s, t: {"variance": oracles.mmd_variance(s, t)},
    "mcc": lambda z: {"weights": oracles.mcc_weights(z)},
    "afn": lambda f: {"norms": np.linalg.norm(f, axis=1)},
}


def stencil(function, x, step=1e-3):
    """Derivatives of a scalar function by the five-point rule."""
    gradient = np.empty_like(x)
    for at in np.ndindex(x.shape):
        values = []
        for k in (2, 1, -1, -2):
            moved = x.copy()
            moved[at] += k * step
            values.append(function(moved))
        gradient[at] = (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / (12 * step)
    return gradient


def expected_gradient(case, inputs, name):
    frozen = FROZEN.get(case.name, lambda *arrays: {})(*(inputs[n] for n in case.inputs))
    return stencil(lambda x: case.oracle(*({**inputs, name: x}[n] for n in case.inputs), **frozen), inputs[name])


@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("case", [case for case in CASES.values() if case.trains], ids=lambda case: case.name)
def test_gradient_equals_finite_differences_of_the_oracle(case, seed):
    inputs = seeded_inputs(seed)
    found = gradients(case, inputs)
    assert found.keys() == set(case.trains)
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient, expected_gradient(case, inputs, name), atol=1e-8)
        assert np.abs(gradient).max() > 1e-6


@pytest.mark.parametrize("name", ["dan", "mcc", "afn"])
def test_what_is_detached_would_change_the_gradient(name):
    """The frozen oracle and the whole one differ, so the test above can see a missing detach."""
    case, inputs = CASES[name], seeded_inputs(0)
    arg = case.trains[0]
    whole = stencil(lambda x: case.oracle(*({**inputs, arg: x}[n] for n in case.inputs)), inputs[arg])
    assert np.abs(whole - gradients(case, inputs)[arg]).max() > 1e-4


GRADCHECKED = {
    "coral": (alignment.coral, [(6, 3), (5, 3)]),
    "domain_bce": (alignment.domain_bce, [(6,), (5, 1)]),
    "information_maximization": (losses.information_maximization, [(6, 4)]),
    "bnm": (losses.bnm, [(6, 4)]),
    "bnm of few rows": (losses.bnm, [(3, 4)]),
    "entropy": (losses.entropy, [(6, 4)]),
    "mdd": (lambda s, t: losses.mdd(-s.detach(), s, -t.detach(), t), [(6, 4), (5, 4)]),
    "masked mean": (lambda z: losses.masked_mean(losses.entropy(z), torch.tensor([True, False, True])), [(3, 4)]),
    "fixmatch": (lambda z: pseudo_labels.fixmatch(z, 5 * torch.eye(4).double()), [(4, 4)]),
    "condition": (lambda f: alignment.condition(f, torch.eye(4).double()), [(4, 3)]),
    "reversal, forward": (lambda x: -alignment.reverse_gradient(x, -1.0), [(4, 3)]),
}


@pytest.mark.parametrize("name", GRADCHECKED)
def test_gradcheck(name):
    function, shapes = GRADCHECKED[name]
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs)


def test_probabilities_weights_and_labels_carry_no_gradient():
    z = torch.randn(4, 3, requires_grad=True)
    f = torch.randn(4, 2, requires_grad=True)
    assert not alignment.entropy_weights(z).requires_grad
    assert not losses.reliable(z).requires_grad
    assert not pseudo_labels.align_distribution(z, z).requires_grad
    assert not pseudo_labels.relative_threshold(z).requires_grad
    assert not pseudo_labels.centroid_labels(f, z).requires_grad
    assert not losses.sharpness_step([f])[0].requires_grad
    alignment.condition(f, z).square().sum().backward()
    assert z.grad is None and f.grad is not None
    strong = torch.randn(4, 3, requires_grad=True)
    pseudo_labels.fixmatch(strong, z, threshold=0.0).backward()
    assert z.grad is None and strong.grad is not None
    own = torch.randn(4, 3, requires_grad=True)
    losses.mdd(z, own, z, own).backward()
    assert z.grad is None
    source = torch.randn(4, 2, requires_grad=True)
    alignment.unit_scale(source, f)[1].sum().backward()
    assert source.grad is None


def test_the_scale_of_the_source_is_detached():
    source = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    scaled, _ = alignment.unit_scale(source, torch.ones(1, 3, dtype=torch.float64))
    scaled.sum().backward()
    torch.testing.assert_close(source.grad, torch.full_like(source, 1 / source.detach().square().mean().sqrt().item()))


# ---- golden values of the reference layers, in float32


@pytest.fixture
def reference():
    torch.manual_seed(0)
    x = torch.randn(32, 31)
    return x, torch.randn(32, 64), torch.randn(32, 64)


def test_values_of_the_reference_layers(reference):
    x, f, g = reference
    assert losses.mcc(x, temperature=2.5).item() == pytest.approx(0.9617034, abs=1e-7)
    assert losses.bnm(x).item() == pytest.approx(-0.2253418, abs=1e-7)
    assert alignment.coral(f, g).item() == pytest.approx(0.01520633, abs=1e-8)


def test_golden_values_are_a_plain_reproducible_file(tmp_path):
    for name in ("a", "b"):
        golden(tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").stat().st_size < 200_000
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert {str(array.dtype) for array in stored.values()} == {"float64"}
        for case in CASES.values():
            for seed in SEEDS:
                inputs = [torch.from_numpy(stored[f"{seed}/inputs/{name}"]) for name in case.inputs]
                np.testing.assert_allclose(stored[f"{seed}/{case.name}/value"], case.ours(*inputs), atol=1e-10)
                for name in case.trains:
                    assert stored[f"{seed}/{case.name}/gradient/{name}"].shape == stored[f"{seed}/inputs/{name}"].shape


# ---- closed forms


@pytest.mark.parametrize("k", [2, 5, 31])
def test_uniform_probabilities(k):
    z = torch.full((7, k), 3.0, dtype=torch.float64)
    assert losses.mcc(z).item() == pytest.approx(1 - 1 / k, abs=1e-12)
    torch.testing.assert_close(losses.entropy(z), torch.full((7,), math.log(k), dtype=torch.float64))
    assert losses.information_maximization(z).item() == pytest.approx(0, abs=1e-12)
    assert losses.bnm(z).item() == pytest.approx(-math.sqrt(7 / k) / 7, abs=1e-12)
    assert not losses.reliable(z).any()


@pytest.mark.parametrize("k", [2, 5, 31])
def test_balanced_one_hot_probabilities(k):
    z = 1000 * torch.eye(k, dtype=torch.float64).repeat(3, 1)
    assert losses.information_maximization(z).item() == pytest.approx(-math.log(k), abs=1e-12)
    assert losses.entropy(z).abs().max() == 0
    assert losses.mcc(z).item() == pytest.approx(0, abs=1e-12)
    assert losses.bnm(z).item() == pytest.approx(-math.sqrt(3) * k / (3 * k), abs=1e-12)
    assert losses.reliable(z).all()


def test_a_discriminator_that_knows_nothing():
    assert alignment.domain_bce(torch.zeros(7), torch.zeros(3)).item() == pytest.approx(math.log(2))


def test_both_domains_count_the_same_whatever_their_size():
    wrong, right = torch.full((90,), -2.0), torch.full((1,), -2.0)  # source is 1, target is 0
    expected = 0.5 * (math.log(1 + math.exp(2)) + math.log(1 + math.exp(-2)))
    assert alignment.domain_bce(wrong, right).item() == pytest.approx(expected, rel=1e-6)


def test_cdan_of_one_class_is_dann():
    f, z = torch.randn(6, 4), torch.randn(6, 1)
    assert torch.equal(alignment.condition(f, z), f)
    assert torch.equal(alignment.entropy_weights(z), torch.ones(6))
    outputs = torch.randn(6), torch.randn(4)
    weighted = alignment.domain_bce(*outputs, alignment.entropy_weights(z), torch.ones(4))
    assert weighted.item() == pytest.approx(alignment.domain_bce(*outputs).item(), rel=1e-6)


def test_the_schedule():
    assert alignment.ramp(0.0) == 0
    assert alignment.ramp(0.1) == pytest.approx(0.462, abs=5e-4)
    assert alignment.ramp(1.0, top=0.1) == pytest.approx(0.1, abs=1e-5)
    for tau in np.linspace(0, 1, 11):
        assert alignment.ramp(tau, 7.0, 0.3) == pytest.approx(oracles.ramp(tau, 7.0, 0.3), abs=1e-14)


def test_reversal():
    x = torch.randn(3, 2, requires_grad=True)
    y = alignment.reverse_gradient(x, 0.25)
    assert torch.equal(y, x)
    (3 * y).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3, 2), -0.75))


def test_afn_is_the_square_of_the_step_and_enlarges_norms():
    f = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    loss = alignment.afn(f, step=2.0)
    assert loss.item() == pytest.approx(4)
    loss.backward()
    torch.testing.assert_close(f.grad, -2 * 2.0 * f.detach() / f.detach().norm(dim=1, keepdim=True) / 5)


def test_random_maps_keep_inner_products():
    """⟨T(f, p), T(g, q)⟩ -> ⟨f, g⟩⟨p, q⟩, with an error of order 1/sqrt(size)."""
    f, z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    maps = alignment.random_maps(3, 2, size=200_000, generator=torch.Generator().manual_seed(1))
    mapped, exact = alignment.condition(f, z, maps), alignment.condition(f, z)
    torch.testing.assert_close(mapped @ mapped.T, exact @ exact.T, atol=0.05, rtol=0.02)


def test_the_adversary_of_mdd_stays_finite_and_its_gradient_bounded():
    z = torch.tensor([[500.0, 0.0]], requires_grad=True)
    loss = losses.mdd(z.detach(), z, z.detach(), z, gamma=0.0)
    assert loss.item() == 500  # -log(1 - p) = log(1 + e^500)
    loss.backward()
    torch.testing.assert_close(z.grad, torch.tensor([[1.0, -1.0]]))


def test_sharpness_step_has_norm_rho():
    gradients = [torch.randn(3, 2), torch.randn(()), torch.randn(4, dtype=torch.float64)]
    step = losses.sharpness_step(gradients, rho=0.05)
    assert math.sqrt(sum(s.double().square().sum() for s in step)) == pytest.approx(0.05, rel=1e-6)
    assert [s.dtype for s in step] == [g.dtype for g in gradients]
    assert [s.shape for s in step] == [g.shape for g in gradients]
    assert losses.sharpness_step([torch.zeros(3)])[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_reliable_rows_lie_below_a_share_of_the_largest_entropy(share):
    z = torch.from_numpy(seeded_inputs(0)["target_logits"])
    expected = [h < share * math.log(z.shape[1]) for h in oracles.entropy(z.numpy())]
    assert losses.reliable(z, share).tolist() == expected
    assert sum(expected) > 0


# ---- pseudo-labels


@pytest.mark.parametrize("seed", range(30))
def test_centroid_labels_of_hard_inputs(seed):
    """Noise: rounds differ from each other, and classes lose all their images."""
    rng = np.random.default_rng(seed)
    f, z = rng.normal(size=(12, 3)) * rng.uniform(0.1, 5, (12, 1)), rng.normal(size=(12, 6))
    for rounds in (1, 2, 3):
        ours = pseudo_labels.centroid_labels(torch.from_numpy(f), torch.from_numpy(z), rounds)
        assert ours.tolist() == oracles.centroid_labels(f, z, rounds).tolist()


def test_centroid_labels_depend_on_rounds_and_on_the_length_of_features():
    changed = {"rounds": 0, "length": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        f, z = (
            torch.from_numpy(rng.normal(size=(12, 3)) * rng.uniform(0.1, 5, (12, 1))),
            torch.from_numpy(rng.normal(size=(12, 6))),
        )
        labels = pseudo_labels.centroid_labels(f, z)
        changed["rounds"] += not torch.equal(labels, pseudo_labels.centroid_labels(f, z, rounds=1))
        changed["length"] += not torch.equal(labels, pseudo_labels.centroid_labels(f / f.norm(dim=1, keepdim=True), z))
        assert torch.equal(labels, pseudo_labels.centroid_labels(7 * f, z))
        assert set(labels.tolist()) <= set(z.argmax(1).tolist())
    assert min(changed.values()) > 0


def test_fixmatch_needs_more_than_the_threshold():
    weak = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)  # 0.5 and 0.75
    strong = torch.zeros(2, 2, dtype=torch.float64)
    ln2 = math.log(2)
    assert pseudo_labels.fixmatch(strong, weak, 0.5).item() == pytest.approx(ln2 / 2)
    assert pseudo_labels.fixmatch(strong, weak, 0.49).item() == pytest.approx(ln2)
    assert pseudo_labels.fixmatch(strong, weak, 0.76).item() == 0


def test_aligned_distribution_of_equal_domains_is_unchanged():
    z = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(pseudo_labels.align_distribution(z, z[torch.randperm(6)]), torch.log_softmax(z, 1))


# ---- moments


@pytest.mark.parametrize("splits", [(1, 4, 20), (7, 7, 11), (25,), (1,) * 25])
def test_merged_moments_are_those_of_all_images(splits):
    rng = np.random.default_rng(len(splits))
    x = torch.from_numpy(rng.normal(100, 3, (25, 4, 5, 2)) * np.array([1, 10, 0.1, 0]).reshape(1, 4, 1, 1))
    parts = [moments(part) for part in x.split(list(splits))]
    total = parts[0]
    for part in parts[1:]:
        total = merge_moments(total, part)
    truth = oracles.moments(x.permute(0, 2, 3, 1).reshape(-1, 4).numpy())
    assert total.count == 250
    np.testing.assert_allclose(total.mean, truth[0], rtol=1e-13)
    np.testing.assert_allclose(total.var, truth[1], rtol=1e-11, atol=1e-12)


def test_moments_are_exact_in_half_precision_inputs():
    x = (1000 + torch.randn(500, 2)).to(torch.bfloat16)
    assert moments(x).mean.dtype == torch.float64
    np.testing.assert_allclose(moments(x).var, x.double().var(0, correction=0), rtol=1e-12)


def test_blend():
    source, target = torch.tensor([2.0]), torch.tensor([4.0], dtype=torch.float64)
    assert blend(source, target).item() == 4 and blend(source, target, 0.0).item() == 2
    assert blend(source, target, 0.75).item() == 3.5
    assert blend(source, target).dtype == torch.float32


def test_step_and_weight_of_afn_are_one_option():
    features = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    terms = 0.05 * alignment.afn(features, 2.0), 0.1 * alignment.afn(features, 1.0)
    one, other = (torch.autograd.grad(loss, features)[0] for loss in terms)
    assert one.abs().max() > 0
    torch.testing.assert_close(one, other)


def test_distribution_alignment_of_small_batches_lowers_confidence_without_a_shift():
    """Both batches are of one distribution, with 31 equally frequent classes."""
    draw = torch.Generator().manual_seed(0)

    def logits(n: int) -> torch.Tensor:
        classes = torch.randint(31, (n,), generator=draw)
        return 5 * torch.eye(31).double()[classes] + torch.randn(n, 31, dtype=torch.float64, generator=draw)

    def above(n: int) -> tuple[float, float]:
        source, target = logits(n), logits(n)
        limit = pseudo_labels.relative_threshold(source, 0.9)
        aligned = pseudo_labels.align_distribution(target, source)
        found = [pseudo_labels.confident(z, limit).double().mean().item() for z in (target, aligned)]
        return found[0], found[1]

    small = [above(32) for _ in range(50)]
    before, after = (sum(values) / len(small) for values in zip(*small, strict=True))
    assert before == pytest.approx(0.69, abs=0.03) and after == pytest.approx(0.29, abs=0.03)
    before, after = above(20_000)
    assert abs(after - before) < 0.02


def test_folding_and_adabn_commute():
    torch.manual_seed(0)
    model = torch.nn.Sequential(WeightAlignConv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).double().eval()
    images = torch.randn(10, 3, 6, 6, dtype=torch.float64) * 3 + 1

    @torch.no_grad()
    def adabn(network):
        total = merge_moments(moments(network[0](images[:3])), moments(network[0](images[3:])))
        network[1].running_mean.copy_(blend(network[1].running_mean, total.mean))
        network[1].running_var.copy_(blend(network[1].running_var, total.var))
        return network

    folded_first = adabn(fold(model))
    before = model(images)
    adapted_first = fold(adabn(model))
    torch.testing.assert_close(folded_first(images), adapted_first(images), rtol=1e-12, atol=1e-12)
    assert (model(images) - before).abs().max() > 0.1
    out = model(images)
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(8).double(), atol=1e-10, rtol=0)
