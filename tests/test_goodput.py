"""Facts about the account of a run's time: every second is counted once, whoever spent it."""

import time

import jax
import jax.numpy as jnp
import pytest

from ddpm_jax import goodput

ALL = dict.fromkeys(goodput.KINDS, 50.0) | {"total": 300.0, "restarts": 1}
HOSTILE = {"step": float("inf"), "rate": 1.0, "spent": ALL}
ENDLESS = {"step": 5, "rate": 1.0, "spent": {**ALL, "data": float("nan")}}


@pytest.fixture
def clock(monkeypatch):
    """A clock to be set, as a list of one number; the process started at 95 and the account begins at 100."""
    now = [100.0]
    monkeypatch.setattr(goodput.time, "time", lambda: now[0])
    monkeypatch.setattr(goodput, "_age", lambda: 5.0)
    monkeypatch.setattr(goodput, "_COMPILED", [])
    return now


def account(spent):
    """The seconds of an account without rounding's noise."""
    return {kind: pytest.approx(value, abs=2e-3) for kind, value in spent.items()}


def test_what_nothing_else_took_was_useful(clock):
    counted = goodput.Goodput({}, 0)
    with counted.spent("checkpointing"):
        clock[0] += 2
    clock[0] += 10
    with counted.spent("data"):
        clock[0] += 1
    expected = {"starting": 5, "checkpointing": 2, "data": 1, "useful": 10, "total": 18, "restarts": 0}
    assert counted.seconds() == account(dict.fromkeys(goodput.KINDS, 0) | expected)
    assert str(counted).startswith("goodput 56%: 18.0 s in all; useful 10.0, starting 5.0, compiling 0.0")
    assert "lost" not in str(counted)


def test_compilation_is_counted_once_whatever_it_is_inside_of(clock):
    counted = goodput.Goodput({}, 0)
    with counted.spent("measuring"):
        clock[0] += 4
        goodput._note("/jax/core/compile/backend_compile_duration", 3.0)  # from 101 to 104
        goodput._note("/jax/core/compile/jaxpr_trace_duration", 2.0)  # within it, as jax reports nested traces
        goodput._note("/jax/something/else", 100.0)
    clock[0] += 1
    goodput._note("/jax/core/compile/backend_compile_duration", 1.0)
    spent = counted.seconds()
    assert spent == account(spent | {"measuring": 1, "compiling": 4, "useful": 0, "total": 10})


def test_a_restart_adds_to_the_account_and_pays_for_the_steps_it_makes_again(clock):
    first = goodput.Goodput({}, 0)
    clock[0] += 20
    progress = {"step": 50, "rate": 10.0, "spent": first.seconds()}
    second = goodput.Goodput(progress, 20)  # 30 steps at 10 a second are made again
    clock[0] += 7
    spent = second.seconds()
    assert spent == account(spent | {"lost": 3 + 5, "starting": 5, "total": 25 + 12, "useful": 24, "restarts": 1})
    assert "lost to restarts 8.0" in str(second)


@pytest.mark.parametrize(
    "before", [{}, {"step": 5}, {"step": 5, "spent": "torn"}, {"step": 5, "spent": {"total": 9}}, HOSTILE, ENDLESS]
)
def test_without_an_account_before_it_begins_anew(clock, before):
    spent = goodput.Goodput(before, 3).seconds()
    assert spent == account(dict.fromkeys(spent, 0) | {"total": 5, "starting": 5})


def test_a_fresh_run_in_an_old_workdir_begins_anew(clock):
    assert goodput.Goodput({"step": 5, "spent": {"total": 9}}, 0).seconds()["restarts"] == 0


def test_what_jax_compiles_is_heard():
    counted = goodput.Goodput({}, 0)
    before, began = counted.seconds()["compiling"], time.time()
    jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.arange(5.0)).block_until_ready()
    assert 0 < counted.seconds()["compiling"] - before <= time.time() - began + 1e-3
