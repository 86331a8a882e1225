"""Schedules against their published tables, their limits, and float32 against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import schedules
from ddpm_jax.schedules import GRIDS, SCHEDULES

ALL = {name: make() for name, make in SCHEDULES.items()}
ALL |= {f"{name}, zero terminal": schedules.zero_terminal(schedule) for name, schedule in ALL.items()}
every_schedule = pytest.mark.parametrize("schedule", ALL.values(), ids=ALL.keys())
TIMES = np.arange(1, 1001) / 1000


def test_linear_is_the_published_table():
    beta = np.linspace(1e-4, 0.02, 1000).astype(np.longdouble)
    table = np.cumprod(1 - beta)
    schedule = schedules.linear()
    np.testing.assert_allclose(schedule.alpha_bar(TIMES), table.astype(np.float64), rtol=1e-12)
    noise = schedules.expit(-schedule.log_snr(TIMES))
    np.testing.assert_allclose(noise, (1 - table).astype(np.float64), rtol=1e-12)


def test_linear_between_and_before_the_tables_entries():
    schedule = schedules.linear(steps=10)
    middle = schedule.log_snr(np.array([0.4, 0.45, 0.5]))
    assert middle[1] == pytest.approx((middle[0] + middle[2]) / 2, rel=1e-12)
    before = schedules.expit(-schedule.log_snr(np.array([0.1, 0.05, 0.01, 1e-9])))
    np.testing.assert_allclose(before, 1e-4 * np.array([1, 0.5, 0.1, 1e-8]), rtol=1e-12)


def test_cosine_is_the_published_table():
    def f(t):
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    beta = np.minimum(1 - f(TIMES) / f(TIMES - 1 / 1000), 0.999)
    np.testing.assert_allclose(schedules.cosine().alpha_bar(TIMES), np.cumprod(1 - beta), rtol=1e-9)


def test_sigmoid_is_the_published_formula():
    def s(x):
        return 1 / (1 + np.exp(-x / 0.7))

    x = 4.0 * TIMES[:-1] - 2.5
    expected = (s(1.5) - s(x)) / (s(1.5) - s(-2.5))
    schedule = schedules.sigmoid(start=-2.5, end=1.5, tau=0.7)
    np.testing.assert_allclose(schedule.alpha_bar(TIMES[:-1]), expected, rtol=1e-11)
    assert schedules.sigmoid().alpha_bar(1.0) == pytest.approx(1e-9, rel=1e-12)


def test_a_steep_sigmoid_does_not_overflow():
    log_snr = jax.jit(schedules.sigmoid(tau=0.01).log_snr)(jnp.linspace(0, 1, 11)[1:])
    assert np.all(np.isfinite(log_snr)) and log_snr[4] == pytest.approx(0, abs=1e-3)


@every_schedule
def test_time_0_is_clean_data(schedule):
    for t in (0.0, np.zeros(()), jnp.zeros(())):
        assert schedule.log_snr(t) == np.inf
        assert schedule.alpha_bar(t) == 1
    assert jax.jit(schedule.log_snr)(jnp.zeros(())) == jnp.inf


@every_schedule
def test_log_snr_falls_strictly(schedule):
    log_snr = schedule.log_snr(np.linspace(0, 1, 2049))
    assert np.all(log_snr[1:] < log_snr[:-1])


@every_schedule
def test_alpha_bar_and_its_complement_belong_to_log_snr(schedule):
    log_snr = schedule.log_snr(TIMES[:-1])
    alpha_bar, noise = schedule.alpha_bar(TIMES[:-1]), schedules.expit(-log_snr)
    np.testing.assert_allclose(alpha_bar + noise, 1, rtol=1e-14)
    np.testing.assert_allclose(np.log(alpha_bar / noise), log_snr, atol=1e-12)


@every_schedule
def test_float32_keeps_one_minus_alpha_bar(schedule):
    """1 - alpha_bar in float32 is off by 1.7e-4 (linear) and 5.3e-4 (cosine) at the first of 1000 steps."""
    t = TIMES.astype(np.float32)
    traced = jax.jit(jax.vmap(lambda t: schedules.expit(-schedule.log_snr(t))))(jnp.asarray(t))
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, schedules.expit(-schedule.log_snr(t)), rtol=3e-6)
    np.testing.assert_allclose(jax.jit(schedule.alpha_bar)(jnp.asarray(t)), schedule.alpha_bar(t), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_zero_terminal_shifts_and_stretches_the_signal(make):
    schedule = make()
    rescaled = schedules.zero_terminal(schedule)
    signal, signal_1 = np.sqrt(schedule.alpha_bar(TIMES)), np.sqrt(schedule.alpha_bar(1.0))
    expected = (signal - signal_1) / (1 - signal_1)
    np.testing.assert_allclose(np.sqrt(rescaled.alpha_bar(TIMES)), expected, rtol=1e-11)
    for one in (1.0, jnp.ones(())):
        assert rescaled.log_snr(one) == -np.inf and rescaled.alpha_bar(one) == 0
    assert jax.jit(rescaled.log_snr)(jnp.ones(())) == -jnp.inf
    twice = schedules.zero_terminal(rescaled)
    np.testing.assert_allclose(twice.log_snr(TIMES), rescaled.log_snr(TIMES), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("schedule", [schedules.cosine(max_beta=1.0), schedules.sigmoid(floor=0.0)])
def test_without_a_floor_the_terminal_snr_is_zero(schedule):
    assert schedule.log_snr(1.0) == -np.inf
    assert np.isfinite(schedule.log_snr(0.999))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: schedules.linear(beta_end=1.0), "beta_end 1.0.* needs 0 < beta_start <= beta_end < 1"),
        (lambda: schedules.linear(steps=0), "steps 0.* at least one step"),
        (lambda: schedules.cosine(max_beta=0.0), "max_beta 0.0.* needs .*0 < max_beta <= 1"),
        (lambda: schedules.cosine(steps=1), "steps 1.* at least two steps"),
        (lambda: schedules.sigmoid(start=3.0), "start 3.0, end 3.0.* needs start < end"),
        (lambda: schedules.linear().log_snr(1.5), r"time 1.5 is outside \[0, 1\]"),
        (lambda: schedules.linear().log_snr(float("nan")), r"time nan is outside \[0, 1\]"),
        (lambda: schedules.linear_grid(0), "0 steps is empty; use at least 1"),
        (lambda: schedules.check_grid(np.array([1.0])), r"shape \(1,\) has no step"),
        (lambda: schedules.check_grid(np.array([1.5, 0.0])), r"from 1.5 to 0.0 leaves \[0, 1\]"),
        (lambda: schedules.check_grid(np.array([1.0, np.nan])), r"leaves \[0, 1\]"),
        (lambda: schedules.check_grid(np.array([1.0, 0.5, 0.5])), "0.5 to 0.5 at step 1; its times must fall strictly"),
    ],
)
def test_a_wrong_value_is_named(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_the_linear_grid_is_i_over_steps():
    grid = schedules.linear_grid(1000)
    assert grid[0] == 1 and grid[-1] == 0 and len(grid) == 1001
    np.testing.assert_array_equal(grid[:-1][::-1], TIMES)
    schedules.check_grid(grid)


every_grid = pytest.mark.parametrize("name", GRIDS)
COSINE, ZERO = schedules.cosine(), schedules.zero_terminal(schedules.linear())


@every_grid
@pytest.mark.parametrize("schedule", [COSINE, ZERO, schedules.linear()], ids=lambda schedule: schedule.name)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_every_grid_falls_from_1_to_0_in_as_many_steps_as_asked(name, schedule, steps):
    grid = GRIDS[name](steps, schedule)
    schedules.check_grid(grid)
    assert len(grid) == steps + 1 and grid[0] == 1 and grid[-1] == 0


def test_the_quadratic_grid_is_the_square_of_the_linear_one():
    np.testing.assert_array_equal(schedules.quadratic_grid(10), schedules.linear_grid(10) ** 2)


def test_the_trailing_grid_has_times_of_the_table_and_is_linear_where_those_are():
    np.testing.assert_array_equal(schedules.trailing_grid(50), schedules.linear_grid(50))
    np.testing.assert_array_equal(schedules.trailing_grid(3), [1, 0.667, 0.333, 0])
    with pytest.raises(ValueError, match="a trailing grid has at most 1000 steps, not 1001"):
        schedules.trailing_grid(1001)


def test_the_log_snr_grid_is_even_in_log_snr():
    log_snr = COSINE.log_snr(schedules.log_snr_grid(20, COSINE)[1:-1])
    np.testing.assert_allclose(np.diff(log_snr, 2), 0, atol=1e-6)


def test_the_karras_grid_is_even_in_the_seventh_root_of_sigma():
    sigma = np.exp(-COSINE.log_snr(schedules.karras_grid(20, COSINE)[1:-1]) / 2)
    np.testing.assert_allclose(np.diff(sigma ** (1 / 7), 2), 0, atol=1e-7)


def test_from_snr_0_grids_by_sigma_start_at_80():
    log_snr = ZERO.log_snr(schedules.log_snr_grid(10, ZERO)[1:-1])
    step = log_snr[1] - log_snr[0]
    assert log_snr[0] - step == pytest.approx(-2 * np.log(80), abs=1e-6)


def test_time_at_inverts_log_snr():
    times = np.array([0.001, 0.2, 0.9])
    np.testing.assert_allclose(schedules.time_at(COSINE, COSINE.log_snr(times)), times, rtol=1e-9)
