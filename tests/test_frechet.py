"""Distances between sets of features: known Gaussians, equal and far sets, collapsed ones."""

import tracemalloc

import numpy as np
import pytest

from ddpm_jax.evaluation import distances, frechet


def exactly(mean, covariance, n=40, seed=0):
    """Rows whose sample mean and covariance are these to rounding."""
    rows = np.random.default_rng(seed).normal(size=(n, len(mean)))
    rows -= rows.mean(axis=0)
    white = np.linalg.qr(rows)[0] * np.sqrt(n - 1)
    values, vectors = np.linalg.eigh(covariance)
    return white @ (vectors * np.sqrt(values)).T + mean


def normal(n, d, seed, shift=0.0, scale=1.0):
    return shift + scale * np.random.default_rng(seed).normal(size=(n, d))


TILTED = np.array([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]])


def test_equal_covariances_leave_the_means():
    a, b = exactly([1.0, 2.0, 3.0], TILTED), exactly([1.0, 0.0, 6.0], TILTED, n=60, seed=1)
    assert frechet.frechet(a, b) == pytest.approx(2**2 + 3**2, rel=1e-9)


def test_commuting_covariances_compare_their_deviations():
    a, b = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.25])
    turn = np.linalg.qr(normal(3, 3, 5))[0]
    found = frechet.frechet(exactly([0, 0, 0], turn * a @ turn.T), exactly([0, 0, 1], turn * b @ turn.T, seed=1))
    assert found == pytest.approx(1 + np.square(np.sqrt(a) - np.sqrt(b)).sum(), rel=1e-9)


def test_other_covariances_by_the_eigenvalues_of_their_product():
    other = np.array([[1.0, -0.5, 0.2], [-0.5, 3.0, 0.4], [0.2, 0.4, 0.8]])
    assert not np.allclose(TILTED @ other, other @ TILTED)
    a, b = exactly([0.0, 1.0, 0.0], TILTED), exactly([0.5, 1.0, 0.0], other, seed=1)
    root = np.sqrt(np.linalg.eigvals(TILTED @ other).real).sum()
    assert frechet.frechet(a, b) == pytest.approx(0.25 + np.trace(TILTED + other) - 2 * root, rel=1e-9)
    assert frechet.frechet(a, b) == pytest.approx(frechet.frechet(b, a), rel=1e-12)


def test_two_by_two_covariances_by_hand():
    """tr(M^1/2) of a 2 x 2 matrix is sqrt(tr M + 2 sqrt(det M))."""
    one, other = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.2], [-0.2, 0.5]])
    product = one @ other
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    found = frechet.frechet(exactly([0, 0], one), exactly([0, 0], other, seed=2))
    assert found == pytest.approx(np.trace(one + other) - 2 * root, rel=1e-9)


def test_one_feature():
    a, b = exactly([1.0], np.array([[4.0]])), exactly([3.0], np.array([[9.0]]), seed=1)
    assert frechet.frechet(a, b) == pytest.approx(2**2 + (3 - 2) ** 2, rel=1e-9)


@pytest.mark.parametrize("n", [3, 20, 500])
def test_a_set_is_at_no_distance_from_itself_even_without_rank(n):
    """Fewer rows than features: roots of eigenvalues that are only rounding would add up to 1e-6."""
    rows = normal(n, 100, 3, shift=5.0)
    assert 0 <= frechet.frechet(rows, rows[::-1]) < 1e-10
    assert frechet.frechet(rows, rows[::-1] + 0.1) == pytest.approx(100 * 0.1**2, rel=1e-9)


def test_covariances_without_rank_in_directions_of_their_own():
    """Rows on two crossing lines: the product of the covariances is that of the cosine."""
    steps = exactly([0.0], np.array([[1.0]]))
    a, b = steps * np.array([1.0, 0, 0]), 2 * steps * np.array([0.6, 0.8, 0])
    assert frechet.frechet(a, b) == pytest.approx(1 + 4 - 2 * 1 * 2 * 0.6, rel=1e-9)


def test_float32_features_are_summed_in_float64():
    rows = normal(200, 8, 4, shift=1000.0).astype(np.float32)
    wide = rows.astype(np.float64)
    assert frechet.frechet(rows[:100], rows[100:]) == frechet.frechet(wide[:100], wide[100:])


def test_kernel_distance_of_whole_sets_by_hand():
    """MMD^2 written as loops over pairs."""
    x, y = normal(5, 3, 0), normal(5, 3, 1, shift=0.5)

    def kernel(p, q):
        return (p @ q / 3 + 1) ** 3

    within = [kernel(s[i], s[j]) for s in (x, y) for i in range(5) for j in range(5) if i != j]
    across = [kernel(p, q) for p in x for q in y]
    assert frechet._mmd(x, y) == pytest.approx(np.sum(within) / 20 - 2 * np.mean(across), rel=1e-12)


def test_kernel_distance_is_unbiased_and_its_error_is_true_for_other_laws():
    """Over many pairs of sets: the mean is the closed form, and the deviation is the error that each one says.

    For one feature and y = x + m, E k(x, y) = E (x y + 1)^3 with x, y independent, by the moments of normals.
    """

    def expected(p, q):
        moments = [[1, m, m**2 + 1, m**3 + 3 * m] for m in (p, q)]
        return sum(c * u * v for c, u, v in zip([1, 3, 3, 1], *moments, strict=True))

    truth = expected(0, 0) - 2 * expected(0, 1) + expected(1, 1)
    found = [
        frechet.kernel_distance(normal(120, 1, 2 * i), normal(120, 1, 2 * i + 1, shift=1), seed=i, subsets=20, size=40)
        for i in range(400)
    ]
    mean, error = np.array(found).T
    assert mean.mean() == pytest.approx(truth, abs=4 * mean.std() / np.sqrt(len(mean)))
    assert np.sqrt(np.mean(error**2)) == pytest.approx(mean.std(), rel=0.15)


def test_kernel_distance_is_near_0_for_one_law_and_not_for_two():
    a, b, c = normal(1000, 16, 0), normal(1000, 16, 1), normal(1000, 16, 2, shift=0.3)
    same = frechet.kernel_distance(a, b, seed=0, subsets=50, size=200)
    other = frechet.kernel_distance(a, c, seed=0, subsets=50, size=200)
    assert abs(same.mean) < 3 * same.error
    assert other.mean > 10 * other.error > 0
    assert frechet.kernel_distance(c, a, seed=0, subsets=50, size=200).mean == pytest.approx(
        other.mean, abs=other.error
    )


def test_kernel_distance_depends_on_its_seed_alone():
    a, b = normal(60, 4, 0), normal(60, 4, 1)
    one, again, other = (frechet.kernel_distance(a, b, seed=seed, subsets=5, size=20) for seed in (0, 0, 1))
    assert one == again != other


def test_precision_and_recall_by_hand():
    """On a line, k = 1: the real balls are 0 +- 1, 1 +- 1 and 10 +- 9; the made ones 2 +- 1, 3 +- 1 and 40 +- 37."""
    real, made = np.array([[0.0], [1.0], [10.0]]), np.array([[2.0], [3.0], [40.0]])
    # 2 and 3 are in the ball of 10, 40 in none; 1 is in the ball of 2 and 10 in that of 40, 0 in none
    assert frechet.precision_recall(real, made, 1) == pytest.approx((2 / 3, 2 / 3))


def test_precision_and_recall_count_the_kth_neighbour():
    real, made = np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([[-2.5], [-20.0], [-40.0], [-80.0]])
    assert frechet.precision_recall(real, made, 1).precision == 0
    assert frechet.precision_recall(real, made, 2).precision == 0.25  # 0 reaches to 3, and so to -2.5
    assert frechet.precision_recall(made, real, 2).recall == 0.25


def test_equal_sets_are_inside_each_other_and_far_ones_outside():
    rows = normal(200, 8, 0)
    assert frechet.precision_recall(rows, rows[::-1]) == (1.0, 1.0)
    assert frechet.precision_recall(rows, rows + 100) == (0.0, 0.0)


def test_a_collapsed_set_is_precise_and_recalls_little():
    real, made = normal(500, 4, 0), normal(500, 4, 1, scale=0.1)
    precision, recall = frechet.precision_recall(real, made)
    assert precision > 0.99 and recall < 0.1
    assert frechet.precision_recall(made, real) == pytest.approx((recall, precision))


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_copies_of_one_picture_are_inside_a_ball_of_radius_0(shift):
    """A set of ten rows, each ten times: all distances that matter are 0, whatever rounding says."""
    rows = np.repeat(normal(10, 129, 0, shift=shift), 10, axis=0)
    assert frechet.precision_recall(rows, rows[::10][np.arange(41) % 10]) == (1.0, 1.0)


def test_blocks_change_nothing():
    real, made = normal(103, 6, 0), normal(90, 6, 1, shift=0.7)
    whole = frechet.precision_recall(real, made)
    assert 0.1 < whole.precision < 0.95 and 0.1 < whole.recall < 0.95 and whole.precision != whole.recall
    for block in (1, 7, 90, 103):
        assert frechet.precision_recall(real, made, block=block) == whole


def test_memory_is_that_of_a_block():
    """All 1500 x 1500 distances would take 18 MB, those of 50 rows 0.6."""
    real, made = normal(1500, 4, 0), normal(1500, 4, 1)
    tracemalloc.start()
    frechet.precision_recall(real, made, block=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


ROWS = np.ones((10, 4))
MEASURES = {
    "frechet": frechet.frechet,
    "kernel": lambda a, b: frechet.kernel_distance(a, b, seed=0, subsets=2, size=2),
    "precision": frechet.precision_recall,
}
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())


@every_measure
@pytest.mark.parametrize("other", [np.ones((10, 5)), np.ones(4), np.ones((10, 2, 2))], ids=["5", "flat", "deep"])
def test_other_shapes_are_named(measure, other):
    with pytest.raises(ValueError, match=r"the features have shapes \(10, 4\) and \(.*\); give \[n, d\] and \[m, d\]"):
        measure(ROWS, other)


@every_measure
def test_too_few_rows_are_named(measure):
    least = {"frechet": 2, "kernel": 3, "precision": 4}[next(n for n, m in MEASURES.items() if m is measure)]
    with pytest.raises(ValueError, match=f"10 and {least - 1} rows are too few; this distance needs at least {least}"):
        measure(ROWS, ROWS[: least - 1])


@every_measure
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_named(measure, value):
    with pytest.raises(ValueError, match="some features are not finite"):
        measure(np.where(np.arange(4) == 2, value, ROWS), ROWS)


@pytest.mark.parametrize(("subsets", "size"), [(1, 5), (2, 1), (2, 8)])
def test_subsets_that_cannot_be_drawn_are_named(subsets, size):
    with pytest.raises(ValueError, match=rf"{subsets} subsets of {size} rows cannot be .* of 2 to 7 rows"):
        frechet.kernel_distance(ROWS, ROWS[:8], seed=0, subsets=subsets, size=size)


@pytest.mark.parametrize("options", [{"k": 0}, {"block": 0}])
def test_counts_of_no_rows_are_named(options):
    with pytest.raises(ValueError, match="count rows; both are at least 1"):
        frechet.precision_recall(ROWS, ROWS, **options)


def test_scaled_figures_know_no_unit_of_a_feature_and_the_frechet_distance_does():
    rng = np.random.default_rng(0)
    reference, some = rng.normal(size=(60, 3)), rng.normal(size=(50, 3)) + 0.3
    units = np.array([1.0, 10.0, 0.01])
    one, other = distances._measured(reference, some), distances._measured(reference * units, some * units)
    assert (other.scaled, other.kernel, other.near) == (pytest.approx(one.scaled), pytest.approx(one.kernel), one.near)
    assert one.frechet == pytest.approx(frechet.frechet(reference, some))
    assert (
        other.frechet == pytest.approx(frechet.frechet(reference * units, some * units))
        and other.frechet > 2 * one.frechet
    )


def test_a_feature_that_no_reference_shows_is_not_scaled():
    rng = np.random.default_rng(0)
    reference, some = (np.pad(rng.normal(size=(40, 2)), ((0, 0), (0, 1))) for _ in range(2))
    some[:20, 2] = 2.0  # variance 1 and mean 1, where the reference has none
    without = distances._measured(reference[:, :2], some[:, :2])
    assert distances._measured(reference, some).scaled > without.scaled + 1.9
