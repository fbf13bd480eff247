"""The shared contrast against literal sums, closed-form gradients and the cases that break soft labels."""

import math

import pytest
import torch

from textmask.losses.contrastive import (
    clip_contrast,
    cluster_target,
    convirt_contrast,
    cosine_similarity_matrix,
    gloria_contrast,
    hard_target,
    soft_contrastive,
    target_entropy,
    word_similarity,
)


def vectors(n: int, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def literal_target(text: torch.Tensor, tau: float, rho: float) -> list[list[float]]:
    """Eq. 1, one number at a time."""
    n = len(text)
    m = [
        [float(text[i] @ text[j] / (text[i].norm() * text[j].norm())) for j in range(n)]
        for i in range(n)
    ]
    target = []
    for i in range(n):
        clipped = [max(m[i][j] - sum(m[i]) / n, 0.0) for j in range(n)]
        total = sum(math.exp(x / tau) for x in clipped)
        target.append(
            [rho * math.exp(clipped[j] / tau) / total + (1 - rho) * (i == j) for j in range(n)]
        )
    return target


def literal_loss(s: torch.Tensor, y: list[list[float]], tau: float) -> float:
    """Eq. 2, one number at a time."""
    n, loss = len(s), 0.0
    for i in range(n):
        for j in range(n):
            row = sum(math.exp(float(s[i, k]) / tau) for k in range(n))
            column = sum(math.exp(float(s[k, j]) / tau) for k in range(n))
            loss += y[i][j] * math.log(math.exp(float(s[i, j]) / tau) / row)
            loss += y[j][i] * math.log(math.exp(float(s[i, j]) / tau) / column)
    return -loss / n


@pytest.mark.parametrize(("tau", "rho"), [(0.07, 0.8), (0.2, 0.6), (0.5, 1.0), (0.1, 0.0)])
def test_equations_1_and_2_against_literal_sums(tau, rho):
    text, image = vectors(5), vectors(5, seed=1)
    target = cluster_target(cosine_similarity_matrix(text, text), tau, rho)
    literal = literal_target(text, tau, rho)
    assert torch.allclose(target, torch.tensor(literal), atol=1e-5)
    s = cosine_similarity_matrix(image, text)
    assert soft_contrastive(s, target, tau).item() == pytest.approx(
        literal_loss(s, literal, tau), rel=1e-4
    )


def test_the_gradient_is_the_closed_form_with_the_1_over_b_that_the_paper_omits():
    text, tau, n = vectors(6), 0.07, 6
    target = cluster_target(cosine_similarity_matrix(text, text), tau, 0.8)
    s = cosine_similarity_matrix(vectors(6, seed=1), text).requires_grad_()
    soft_contrastive(s, target, tau).backward()
    image_to_text, text_to_image = torch.softmax(s / tau, 1), torch.softmax(s / tau, 0)
    closed = (image_to_text - target + text_to_image - target.mT) / (n * tau)
    assert torch.allclose(s.grad, closed.detach(), atol=1e-5)
    assert not torch.allclose(s.grad, closed.detach() * n, atol=1e-2)


def test_the_identity_target_is_both_directions_of_info_nce():
    s, tau = cosine_similarity_matrix(vectors(7), vectors(7, seed=1)), 0.1
    labels = torch.arange(7)
    cross = torch.nn.functional.cross_entropy
    expected = cross(s / tau, labels) + cross(s.mT / tau, labels)
    assert soft_contrastive(s, torch.eye(7), tau).item() == pytest.approx(expected.item(), rel=1e-5)


def test_target_rows_sum_to_one_and_equal_sentences_get_equal_mass():
    text = vectors(4)[[0, 1, 0, 2]]
    m = cosine_similarity_matrix(text, text)
    soft = cluster_target(m, 0.07, 1.0)
    assert torch.allclose(soft.sum(1), torch.ones(4))
    assert soft[0, 0] == pytest.approx(soft[0, 2].item())
    merged = hard_target(m, merge_equal=True)
    assert merged[0].tolist() == pytest.approx([0.5, 0, 0.5, 0])
    assert torch.equal(hard_target(m), torch.eye(4))


def test_all_sentences_equal_gives_a_flat_target_and_a_finite_loss():
    m = torch.ones(8, 8)
    target = cluster_target(m, 0.07, 1.0)
    assert torch.allclose(target, torch.full((8, 8), 1 / 8))
    assert target_entropy(target).item() == pytest.approx(math.log(8))
    assert torch.isfinite(soft_contrastive(torch.zeros(8, 8), target, 0.07))


def test_a_batch_of_one_costs_nothing_and_a_zero_vector_no_nan():
    s = torch.zeros(1, 1, requires_grad=True)
    loss = soft_contrastive(s, cluster_target(torch.ones(1, 1), 0.07, 0.8), 0.07)
    loss.backward()
    assert loss.item() == pytest.approx(0.0)
    assert s.grad.item() == pytest.approx(0.0)
    assert torch.isfinite(cosine_similarity_matrix(torch.zeros(2, 3), torch.ones(2, 3))).all()


def test_extreme_similarities_stay_finite_in_low_precision():
    s = (vectors(6, 6) * 1e4).to(torch.bfloat16).requires_grad_()
    loss = soft_contrastive(s, torch.eye(6), 0.01)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(s.grad).all()


def test_flatness_of_near_equal_captions_is_visible_in_the_entropy():
    base, noise = torch.ones(16, 8), vectors(16, 8)
    near, far = base + 0.05 * noise, noise
    entropies = [
        target_entropy(cluster_target(cosine_similarity_matrix(t, t), 0.07, 1.0))
        for t in (near, far)
    ]
    assert entropies[0] > math.log(16) - 0.05 > entropies[1]


# --- the contrasts of other papers, one number at a time


def literal_direction(s: list[list[float]], tau: float) -> float:
    """-(1/N) sum_i log(exp(s_ii / tau) / sum_k exp(s_ik / tau))."""
    n, total = len(s), 0.0
    for i in range(n):
        largest = max(s[i])
        below = sum(math.exp((s[i][k] - largest) / tau) for k in range(n))
        total -= (s[i][i] - largest) / tau - math.log(below)
    return total / n


def transposed(s: list[list[float]]) -> list[list[float]]:
    return [[s[j][i] for j in range(len(s))] for i in range(len(s))]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b) / (float(a.norm()) * float(b.norm()))


def test_clip_is_half_the_sum_of_both_directions_and_its_temperature_gets_a_gradient():
    s = cosine_similarity_matrix(vectors(6), vectors(6, seed=1))
    rows = s.tolist()
    tau = torch.tensor(0.07, requires_grad=True)
    loss = clip_contrast(s, tau)
    literal = 0.5 * (literal_direction(rows, 0.07) + literal_direction(transposed(rows), 0.07))
    assert loss.item() == pytest.approx(literal, rel=1e-4)
    loss.backward()
    assert tau.grad.item() != 0


def test_convirt_weighs_the_direction_from_images_to_prompts_with_three_quarters():
    rows = cosine_similarity_matrix(vectors(6), vectors(6, seed=1)).tolist()
    literal = 0.75 * literal_direction(rows, 0.1) + 0.25 * literal_direction(transposed(rows), 0.1)
    found = convirt_contrast(torch.tensor(rows)).item()
    assert found == pytest.approx(literal, rel=1e-4)
    assert found != pytest.approx(convirt_contrast(torch.tensor(rows), image_share=0.5).item())


def literal_word_similarity(places: torch.Tensor, words: torch.Tensor) -> float:
    """log sum_w exp(5 cos(c_w, t_w)) of an image (P D) and a prompt (W D)."""
    p, w = len(places), len(words)
    share = [[0.0] * w for _ in range(p)]
    for j in range(p):
        total = sum(math.exp(float(places[j] @ words[k])) for k in range(w))
        for i in range(w):
            share[j][i] = math.exp(float(places[j] @ words[i])) / total
    total = 0.0
    for i in range(w):
        below = sum(math.exp(4 * share[k][i]) for k in range(p))
        found = torch.zeros(places.shape[1])
        for j in range(p):
            found += math.exp(4 * share[j][i]) / below * places[j]
        total += math.exp(5 * cosine(found, words[i]))
    return math.log(total)


def test_gloria_is_global_and_local_contrast_in_both_directions():
    places = vectors(4 * 5).reshape(4, 5, 6)
    words = vectors(4 * 3, seed=1).reshape(4, 3, 6)
    real = torch.tensor([[True] * 3, [True] * 3, [True, True, False], [True] * 3])
    embedding = vectors(4, seed=2)

    local = [
        [literal_word_similarity(places[i], words[j][real[j]]) for j in range(4)] for i in range(4)
    ]
    assert torch.allclose(word_similarity(places, words, real), torch.tensor(local), atol=1e-5)

    whole = [[cosine(places[i].mean(0), embedding[j]) for j in range(4)] for i in range(4)]
    literal = sum(
        literal_direction(s, 0.1) for s in (whole, transposed(whole), local, transposed(local))
    )
    found = gloria_contrast(places, embedding, words, real)
    assert found.item() == pytest.approx(literal, rel=1e-4)

    # what stands in the place of padding does not count
    words[2, 2] = 1e3
    assert torch.equal(gloria_contrast(places, embedding, words, real), found)


def test_a_prompt_without_a_word_is_no_nan_for_gloria():
    places = vectors(6).reshape(2, 3, 6).requires_grad_()
    real = torch.tensor([[True, True], [False, False]])
    loss = gloria_contrast(places, vectors(2), vectors(4).reshape(2, 2, 6), real)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss < 100
    assert torch.isfinite(places.grad).all()
