"""What is drawn for judging is what `Generator` draws, and is kept by all that it depends on."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import engine, generator
from ddpm_jax.evaluation import subject

GRID = np.linspace(1, 0, 11)


@pytest.fixture(scope="module")
def model(trained):
    return generator.load(trained)


@pytest.fixture
def judged(model, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "CHUNK", 8)
    return subject.Subject(model.engine, model.nets, model.settings(), "one", tmp_path / "parts")


def labels_of(model, n):
    words = ["Cat", "Robot, Cap", "Zombie, Pipe", ""]
    return np.stack([model.spec.labels.parse(words[i % 4]) for i in range(n)])


def test_chunks_make_the_pictures_that_one_call_makes(model, judged):
    labels = labels_of(model, 20)
    drawn = judged.draw(labels, seed=3)
    np.testing.assert_array_equal(drawn, model.sample(list(labels), seed=3))
    guided = judged.draw(labels[:4], guidance=2.0, steps=3)
    np.testing.assert_array_equal(guided, model.sample(list(labels[:4]), guidance=2.0, steps=3))


def test_kept_pictures_are_used_for_the_same_request_and_no_other(model, judged, monkeypatch):
    labels = labels_of(model, 20)
    first = judged.draw(labels)
    assert len(list(judged.parts.iterdir())) == 3
    calls = []
    draw = model.engine.draw
    monkeypatch.setattr(model.engine, "draw", lambda *args: calls.append(args) or draw(*args))
    np.testing.assert_array_equal(judged.draw(labels), first)
    assert not calls
    (file, *_) = judged.parts.iterdir()
    file.unlink()  # the evaluation was cut before this one
    np.testing.assert_array_equal(judged.draw(labels), first)
    assert len(calls) == 1
    for other in (
        lambda: judged.draw(labels, seed=1),
        lambda: judged.draw(labels, steps=3),
        lambda: judged.draw(labels[::-1]),
        lambda: subject.Subject(judged.engine, judged.nets, judged.asked, "two", judged.parts).draw(labels),
    ):
        calls.clear()
        other()
        assert len(calls) == 3


def test_means_are_the_estimate_that_the_last_evaluation_decodes(model, judged):
    labels = labels_of(model, 4)
    judged = subject.Subject(judged.engine, judged.nets, model.settings(steps=1), "one", None)
    means, at = judged.means(labels), engine.places(4)
    noise = jnp.asarray(model.engine.noise(at))
    for i in range(4):
        raw = model.model.predict(model.params, noise[i], np.float32(1.0), labels[i])
        expected = np.asarray(model.model.target.x_0(raw, noise[i], jnp.float32(0.0))) * 127.5 + 127.5
        np.testing.assert_allclose(means[i], expected, atol=2e-3)
    # the drawn picture is the most likely colour, the mean lies between all colours
    assert means.dtype == np.float32 and not np.array_equal(np.round(means), judged.draw(labels))


def test_bounds_are_finite_positive_and_depend_on_label_and_picture(model, judged):
    labels = labels_of(model, 12)
    images = np.random.default_rng(0).integers(0, 24, (12, 16, 16)).astype(np.uint8)
    nats = judged.bounds(labels, images, GRID)
    assert nats.shape == (12, 3) and np.isfinite(nats).all() and (nats >= 0).all()
    np.testing.assert_array_equal(nats, judged.bounds(labels, images, GRID))
    assert (nats[:, 1:] != judged.bounds(labels, images[::-1].copy(), GRID)[:, 1:]).any(axis=1).all()
