"""Scores against closed forms, plain loops, scikit-learn and the values of reference layers."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import optimize
from sklearn.metrics import accuracy_score, adjusted_mutual_info_score, log_loss

from da_wa.select import NotSaved, Saved, atc, clusters, confidence, importance, load
from da_wa.select import scores as catalogue

RNG = np.random.default_rng(0)
K = 7
Z = RNG.normal(size=(60, K)) * 2
"""Logits of 60 images."""
SOURCE = RNG.normal(size=(40, K)) * 2
LABELS = np.where(RNG.random(40) < 0.7, SOURCE.argmax(1), RNG.integers(0, K, 40))
FEATURES = RNG.normal(size=(60, 5)) + 0.5
SOURCE_FEATURES = RNG.normal(size=(40, 5))
MIXED = RNG.normal(size=(30, K)) * 2
ROWS = RNG.integers(0, 60, 30)


def everything() -> Saved:
    return Saved(
        target_logits=Z,
        target_features=FEATURES,
        source_logits=SOURCE,
        source_labels=LABELS,
        source_features=SOURCE_FEATURES,
        mixed_logits=MIXED,
        mixed_rows=ROWS,
    )


def softmax(row):
    """Of a list, by the definition."""
    e = [math.exp(v) for v in row]
    return [v / math.fsum(e) for v in e]


def H(p):
    return -math.fsum(v * math.log(v) for v in p if v > 0)


P = [softmax(row) for row in Z.tolist()]


# Closed forms


@pytest.mark.parametrize("k", [2, 7, 31])
def test_uniform_predictions(k):
    z = np.full((11, k), 3.0)
    assert confidence.entropy(z) == pytest.approx(-math.log(k), abs=1e-12)
    assert confidence.im(z) == pytest.approx(0, abs=1e-12)
    assert confidence.bnm(z) == pytest.approx(1 / math.sqrt(11 * k))  # rank one: ‖P‖_F = √(n/k), over n
    assert confidence.snd(z) == pytest.approx(math.log(10), abs=1e-12)


@pytest.mark.parametrize("k", [2, 7, 31])
def test_balanced_one_hot_predictions(k):
    z = 1e4 * np.tile(np.eye(k), (3, 1))
    assert confidence.entropy(z) == pytest.approx(0, abs=1e-12)
    assert confidence.im(z) == pytest.approx(math.log(k), abs=1e-12)
    assert confidence.bnm(z) == pytest.approx(1 / math.sqrt(3))  # k singular values √3, over n = 3k
    # each image has two equal neighbours (cosine 1) and 3k−3 others (cosine 0)
    near, far = math.exp(20), 3 * k - 3
    total = 2 * near + far
    expected = H([near / total] * 2 + [1 / total] * far)
    assert confidence.snd(z) == pytest.approx(expected, rel=1e-12)


def test_one_class_for_all_images():
    """Entropy and SND are at their maximum, which is why they choose collapsed networks; IM is at its minimum."""
    z = 1e4 * np.tile(np.eye(K)[:1], (20, 1))
    assert confidence.entropy(z) == pytest.approx(0, abs=1e-12)
    assert confidence.snd(z) == pytest.approx(math.log(19), abs=1e-12)
    assert confidence.im(z) == pytest.approx(0, abs=1e-12)
    assert clusters.class_ami(z.argmax(1), RNG.normal(size=(20, 3)), K) == 0
    assert clusters.class_ami(z.argmax(1), np.zeros((20, 3)), K) == 0  # scikit-learn calls this 1


def test_im_is_the_entropy_of_the_mean_less_the_mean_entropy():
    mean = [math.fsum(column) / len(P) for column in zip(*P, strict=True)]
    assert confidence.im(Z) == pytest.approx(H(mean) - math.fsum(map(H, P)) / len(P), rel=1e-12)


def test_entropy_by_a_loop():
    assert confidence.entropy(Z) == pytest.approx(-math.fsum(map(H, P)) / len(P), rel=1e-12)


def test_nuclear_norm_is_the_trace_of_the_root_of_the_gram_matrix():
    p = np.array(P)
    roots = np.sqrt(np.linalg.eigvalsh(p.T @ p).clip(0))
    assert confidence.bnm(Z) == pytest.approx(roots.sum() / len(p), rel=1e-10)


def test_nuclear_norm_of_the_reference_layer():
    import torch

    torch.manual_seed(0)
    assert confidence.bnm(torch.randn(32, 31).numpy()) == pytest.approx(0.2253418, abs=1e-7)  # printed in float32


@pytest.mark.parametrize("block", [1, 100, 2**22])
def test_snd_by_a_loop_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(confidence, "BLOCK", block)

    def cosine(a, b):
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))

    total = []
    for i, p in enumerate(P):
        total.append(H(softmax([cosine(p, q) / 0.05 for j, q in enumerate(P) if j != i])))
    assert confidence.snd(Z) == pytest.approx(math.fsum(total) / len(P), rel=1e-12)


def test_snd_of_many_images_holds_no_square_matrix():
    import tracemalloc

    z = np.random.default_rng(1).normal(size=(6000, 3))
    tracemalloc.start()
    confidence.snd(z)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 8  # 288 MB; a block is 32 MB, and a few exist at once


def test_source_accuracy_and_agreement():
    assert confidence.source_val(SOURCE, LABELS) == accuracy_score(LABELS, SOURCE.argmax(1))
    assert catalogue.mixval(everything()) == accuracy_score(Z.argmax(1)[ROWS], MIXED.argmax(1))
    same = Saved(target_logits=Z, mixed_logits=Z[ROWS], mixed_rows=ROWS)
    assert catalogue.mixval(same) == 1


# ATC


def test_atc_on_its_own_source_is_its_accuracy():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        z, y = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
        y[:30] = z[:30].argmax(1)
        assert atc.atc(z, z, y) == pytest.approx(confidence.source_val(z, y), abs=1e-12)


def test_atc_by_sorting_confidences():
    """As in the paper: the threshold leaves out as many source images as are wrong."""
    t = optimize.minimize(lambda v: log_loss(LABELS, softmaxes(SOURCE / v[0]), labels=range(K)), [1.0]).x[0]
    right = int((SOURCE.argmax(1) == LABELS).sum())
    threshold = sorted(softmaxes(SOURCE / t).max(1), reverse=True)[right - 1]
    expected = np.mean(softmaxes(Z / t).max(1) >= threshold)
    assert atc.atc(Z, SOURCE, LABELS) == pytest.approx(expected, abs=1e-12)


def softmaxes(z):
    return np.array([softmax(row) for row in z.tolist()])


def test_temperature_is_where_the_likelihood_is_flat():
    """d/dβ of the mean log-likelihood, β = 1/T: mean of z_y − Σ p z is zero."""
    p = softmaxes(SOURCE / (t := atc.temperature(SOURCE, LABELS)))
    slope = np.mean(SOURCE[np.arange(40), LABELS] - (p * SOURCE).sum(1))
    assert slope == pytest.approx(0, abs=1e-5)
    assert atc.temperature(3 * SOURCE, LABELS) == pytest.approx(3 * t, rel=1e-5)


def test_atc_depends_on_no_scale_of_the_logits():
    assert atc.atc(5 * Z, 5 * SOURCE, LABELS) == atc.atc(Z, SOURCE, LABELS)


def test_atc_of_a_source_that_is_all_wrong_or_all_right():
    wrong = (SOURCE.argmax(1) + 1) % K
    assert atc.atc(Z, SOURCE, wrong) == 0
    assert atc.atc(SOURCE, SOURCE, SOURCE.argmax(1)) == 1


def test_atc_tells_confidences_apart_that_round_to_one():
    source = 1e4 * np.array([[1.0, 0], [0.9, 0], [0.8, 0], [0.7, 0]])  # max softmax is 1.0 for all, at any T searched
    assert atc.atc(source, source, np.array([0, 0, 0, 1])) == 0.75


# Importance weighting


LOSSES = RNG.exponential(size=40)
WEIGHTS = RNG.exponential(size=40)


def test_constant_weights_give_the_plain_risk():
    for c in (1.0, 0.3):
        w = np.full(40, c)
        assert importance.iwv(LOSSES, w) == pytest.approx(-c * LOSSES.mean())
        assert importance.dev(LOSSES, w) == pytest.approx(-c * LOSSES.mean())
        assert importance.devn(LOSSES, w) == pytest.approx(-LOSSES.mean())


def test_dev_is_the_formula_of_its_authors():
    """With sample covariances, as in their code; the ratio is the same."""
    wl = WEIGHTS * LOSSES
    eta = -np.cov(wl, WEIGHTS)[0, 1] / np.var(WEIGHTS, ddof=1)
    assert importance.dev(LOSSES, WEIGHTS) == pytest.approx(-(wl.mean() + eta * WEIGHTS.mean() - eta))
    assert importance.iwv(LOSSES, WEIGHTS) == pytest.approx(-wl.mean())


def test_dev_removes_a_risk_that_comes_from_weights_alone():
    """Of constant losses c the control variate leaves c exactly, IWV c · mean w."""
    loss = np.full(40, 2.5)
    assert importance.dev(loss, WEIGHTS) == pytest.approx(-2.5)
    assert importance.devn(loss, WEIGHTS) == pytest.approx(-2.5)
    assert importance.iwv(loss, WEIGHTS) == pytest.approx(-2.5 * WEIGHTS.mean())


def test_devn_normalises_by_the_largest_weight():
    w = WEIGHTS / max(WEIGHTS)
    w = w + (1 - sum(w) / len(w))
    assert importance.devn(LOSSES, WEIGHTS) == pytest.approx(-sum(w * LOSSES) / len(w))
    assert importance.devn(LOSSES, 9 * WEIGHTS) == pytest.approx(importance.devn(LOSSES, WEIGHTS))


def test_losses_are_cross_entropies():
    loss = importance.cross_entropies(SOURCE, LABELS)
    assert loss.mean() == pytest.approx(log_loss(LABELS, softmaxes(SOURCE), labels=range(K)))


def test_density_ratio_of_two_gaussians():
    """N(1, 1) over N(0, 1) is exp(f − ½), at unequal numbers of images."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(0, 1, (4000, 1)), rng.normal(1, 1, (12000, 1))
    log_w = np.log(importance.density_ratio(source, target))
    assert np.abs(log_w - (source[:, 0] - 0.5)).max() < 0.3
    assert np.exp(log_w).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("unit", [1e-2, 10.0, 1e3])
def test_density_ratio_does_not_depend_on_the_unit_of_features(unit):
    rng = np.random.default_rng(0)
    source, target = rng.normal(0, 1, (200, 3)), rng.normal(1, 1, (300, 3))
    expected = np.log(importance.density_ratio(source, target))
    scaled = np.log(importance.density_ratio(unit * source + 5, unit * target + 5))
    np.testing.assert_allclose(scaled, expected, atol=1e-3)


def test_density_ratio_weights_no_image_by_a_classifier_that_saw_it():
    """In many dimensions a classifier separates what it saw even where there is no shift."""
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(60, 200)), rng.normal(size=(60, 200))
    log_w = np.log(importance.density_ratio(source, target))
    assert abs((log_w > 0).mean() - 0.5) < 0.25


def test_density_ratio_is_near_one_without_a_shift_in_many_dimensions():
    rng = np.random.default_rng(0)
    log_w = np.log(importance.density_ratio(rng.normal(size=(160, 256)), rng.normal(size=(1000, 256))))
    assert log_w.std() < 0.7


@pytest.mark.parametrize("sign", [1, -1])
def test_density_ratio_of_an_outlier_is_finite(sign):
    rng = np.random.default_rng(0)
    source, target = rng.normal(0, 1, (40, 1)), rng.normal(2, 1, (40, 1))
    source[3] = sign * 1e6
    w = importance.density_ratio(source, target)
    assert w[3] == pytest.approx(math.exp(sign * 50))
    assert math.isfinite(importance.dev(np.ones(40), w))


# Clusters


def test_class_ami_of_separate_clusters():
    labels = np.repeat(np.arange(4), 10)
    f = 100.0 * np.eye(4)[labels] + RNG.normal(size=(40, 4))
    noisy = np.where(RNG.random(40) < 0.3, 0, labels)
    assert clusters.class_ami(labels, f, 4) == pytest.approx(1)
    assert clusters.class_ami(noisy, f, 4) == pytest.approx(adjusted_mutual_info_score(noisy, labels))


def test_class_ami_of_a_sample_smaller_than_the_number_of_classes():
    few = Saved(target_logits=Z, target_features=FEATURES[: K - 1], target_rows=np.arange(K - 1))
    with pytest.raises(NotSaved, match="at least 7 target images; 6 were saved"):
        catalogue.class_ami(few)


@pytest.mark.parametrize("name", ["iwv", "dev", "devn"])
@pytest.mark.parametrize("domain", ["source", "target"])
def test_importance_weights_of_one_image(name, domain):
    few = {f"{domain}_features": everything().featured(domain)[0][:1], f"{domain}_rows": np.array([3])}
    with pytest.raises(NotSaved, match="features of at least two images of each domain"):
        getattr(catalogue, name)(replace(everything(), **few))


def test_snd_of_one_image():
    with pytest.raises(NotSaved, match="at least two target images"):
        catalogue.snd(Saved(target_logits=Z[:1]))


def test_class_ami_of_chance():
    rng = np.random.default_rng(3)
    values = [clusters.class_ami(rng.integers(0, 4, 200), rng.normal(size=(200, 3)), 4) for _ in range(10)]
    assert np.mean(values) == pytest.approx(0, abs=0.02)


# All of them


NAMES = ["source_val", "entropy", "im", "bnm", "snd", "iwv", "dev", "devn", "class_ami", "atc", "mixval"]


def test_the_catalogue_is_complete():
    assert list(load()) == NAMES


def permuted(saved: Saved) -> Saved:
    """The same images of both domains in another order."""
    t, s, m = RNG.permutation(60), RNG.permutation(40), RNG.permutation(30)
    return Saved(
        target_logits=saved.target_logits[t],
        target_features=saved.target_features[t],
        source_logits=saved.source_logits[s],
        source_labels=saved.source_labels[s],
        source_features=saved.source_features[s],
        mixed_logits=saved.mixed_logits[m],
        mixed_rows=np.argsort(t)[saved.mixed_rows[m]],
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_images_does_not_matter(name):
    score = load([name])[name]
    assert score(permuted(everything())) == pytest.approx(score(everything()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_on_the_logits_of_an_image_does_not_matter(name):
    score = load([name])[name]
    shifted = Saved(
        target_logits=Z + RNG.normal(size=(60, 1)) * 100,
        target_features=FEATURES,
        source_logits=SOURCE + RNG.normal(size=(40, 1)) * 100,
        source_labels=LABELS,
        source_features=SOURCE_FEATURES,
        mixed_logits=MIXED + 50,
        mixed_rows=ROWS,
    )
    assert score(shifted) == pytest.approx(score(everything()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_huge_logits_give_a_finite_score(name):
    score = load([name])[name]
    huge = Saved(
        target_logits=1e4 * Z,
        target_features=1e4 * FEATURES,
        source_logits=1e4 * SOURCE,
        source_labels=LABELS,
        source_features=1e4 * SOURCE_FEATURES,
        mixed_logits=1e4 * MIXED,
        mixed_rows=ROWS,
    )
    assert math.isfinite(score(huge))


def test_scores_use_the_rows_that_features_belong_to():
    t, s = RNG.permutation(60)[:45], RNG.permutation(40)[:30]
    part = Saved(
        target_logits=Z,
        target_features=FEATURES[t],
        target_rows=t,
        source_logits=SOURCE,
        source_labels=LABELS,
        source_features=SOURCE_FEATURES[s],
        source_rows=s,
    )
    assert catalogue.class_ami(part) == clusters.class_ami(Z[t].argmax(1), FEATURES[t], K)
    losses = importance.cross_entropies(SOURCE[s], LABELS[s])
    ratio = importance.density_ratio(SOURCE_FEATURES[s], FEATURES[t])
    assert catalogue.dev(part) == importance.dev(losses, ratio)
    assert catalogue.devn(part) == importance.devn(losses, ratio)
    assert catalogue.iwv(part) == importance.iwv(losses, ratio)


def test_the_density_ratio_of_one_candidate_is_not_used_for_another():
    other = Saved(
        target_logits=Z,
        target_features=FEATURES + np.arange(5),
        source_logits=SOURCE,
        source_labels=LABELS,
        source_features=SOURCE_FEATURES,
    )
    first, second = everything(), other
    values = [catalogue.dev(first), catalogue.dev(second), catalogue.dev(first)]
    assert values[0] == values[2] != values[1]


def test_three_scores_share_one_density_ratio(monkeypatch):
    calls = []
    fit = importance.density_ratio
    monkeypatch.setattr(importance, "density_ratio", lambda *given: calls.append(1) or fit(*given))
    saved = everything()
    catalogue.iwv(saved), catalogue.dev(saved), catalogue.devn(saved)
    assert len(calls) == 1


# No target labels


def test_no_field_could_hold_target_labels():
    assert {field.name for field in fields(Saved)} == {
        "target_logits", "target_features", "target_rows", "source_logits", "source_labels", "source_features",
        "source_rows", "mixed_logits", "mixed_rows",
    }  # fmt: skip


def test_a_score_cannot_change_what_the_next_one_reads():
    saved = everything()
    with pytest.raises(ValueError, match="read-only"):
        saved.target_logits[0] = 0
    logits = np.zeros((2, 2))
    Saved(target_logits=logits)
    logits[0] = 1  # the caller's own array stays writable


def test_choosing_imports_no_torch():
    code = """
import sys
import da_wa.select as s
s.evaluate(s.load(), s.Saved(target_logits=[[0.0, 1.0], [1.0, 0.0]]))
print(sorted({"torch", "hydra", "matplotlib", "pytorch_lightning"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Degenerate inputs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_logits": [[1.0], [2.0]]}, "at least two classes"),
        ({"target_logits": np.empty((0, 3))}, r"target_logits must have shape .* found \(0, 3\)"),
        ({"target_logits": [1.0, 2.0]}, "must have shape"),
        ({"target_logits": [[1.0, np.nan], [0.0, 1.0]]}, "1 of 2 rows contain NaN or infinity"),
        ({"target_logits": [[1.0, np.inf], [0.0, 1.0]]}, "1 of 2 rows contain NaN or infinity"),
        ({"source_logits": SOURCE[:, :3], "source_labels": LABELS}, "3 columns, target_logits 7"),
        ({"source_logits": SOURCE, "source_labels": LABELS[:-1]}, "39 labels for the logits of 40"),
        ({"source_logits": SOURCE, "source_labels": LABELS + 3}, "must lie in 0 ... 6"),
        ({"source_logits": SOURCE, "source_labels": LABELS - 1}, "must lie in 0 ... 6"),
        ({"source_logits": SOURCE, "source_labels": LABELS * 1.0}, "must be integers"),
        ({"target_features": FEATURES[:5]}, "5 rows for 60 images; give target_rows"),
        ({"target_features": FEATURES[:2], "target_rows": [0, 60]}, "must lie in 0 ... 59"),
        ({"target_features": FEATURES[:2], "target_rows": [0]}, "target_rows has 1 entries"),
        ({"target_rows": [0]}, "target_rows without target_features"),
        ({"mixed_logits": MIXED}, "go together"),
        ({"mixed_logits": MIXED, "mixed_rows": ROWS + 60}, "must lie in 0 ... 59"),
        ({"target_features": FEATURES, "source_features": SOURCE_FEATURES[:, :2]}, "5 long, source_features 2"),
    ],
)
def test_arrays_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        Saved(**{"target_logits": Z, **given})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confidence.snd(Z[:1]), "at least two"),
        (lambda: confidence.entropy([]), "must have shape"),
        (lambda: confidence.mixval([1], [1, 2]), "1 predictions of mixed images, 2"),
        (lambda: clusters.class_ami([0, 1], [[0.0], [1.0]], 3), "2 images cannot be clustered into 3"),
        (lambda: clusters.class_ami([0], [[0.0], [1.0]], 2), "1 predictions, features of 2"),
        (lambda: importance.dev([1.0], [1.0, 2.0]), "the same shape"),
        (lambda: importance.dev([], []), "the same shape"),
        (lambda: importance.devn([1.0], [0.0]), "not all zero"),
        (lambda: importance.iwv([1.0], [-1.0]), "not negative"),
        (lambda: importance.density_ratio([[0.0]], [[0.0], [1.0]]), "two images of each domain"),
        (lambda: importance.density_ratio([[0.0]] * 2, [[0.0, 1.0]] * 2), "1 long, of the target 2"),
        (lambda: atc.atc(Z[:, :2], SOURCE, LABELS), "the same two or more columns"),
    ],
)
def test_degenerate_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"entropy", "im", "bnm", "snd"}))
def test_a_score_names_the_array_it_lacks(name):
    with pytest.raises(NotSaved, match="which was not saved"):
        load([name])[name](Saved(target_logits=Z))
