"""What a run measures of itself: exact match and words of held-out labels, counted right; the best is kept by it."""

import functools

import numpy as np
import pytest
from conftest import tiny_config

from ddpm_jax import build, checkpoint, devices, engine, generator, hooks, metrics, runtime, train
from ddpm_jax.configs import punks_cfg
from ddpm_jax.evaluation import classifier, judge


@pytest.fixture(scope="module")
def model(trained):
    """A trained tiny model and its data."""
    from ddpm_jax import judging

    loaded = generator.load(trained)
    return loaded, judging.trained_on(loaded, "data")


class Now:
    """A training state, as far as hooks look at it."""

    def __init__(self, ema):
        self.ema, self.early = ema, None


def test_exact_match_and_words_are_those_of_the_pictures_that_load_would_make(model, monkeypatch):
    loaded, data = model
    chosen = data.heldout[:12]
    real = data.pixels(chosen)
    asked = loaded.settings()

    drawn = engine.Engine(loaded.model, devices.mesh())
    half = real.copy()
    half[6:, 2, 3] ^= 255  # exact but for a pixel
    monkeypatch.setattr(drawn, "draw", lambda *_: half)
    read = functools.partial(np.roll, shift=1, axis=0)  # wrong for most
    scalars, pictures = hooks.exact_match(
        drawn, data, chosen, asked, lambda _: read(data.labels[chosen]), Now(loaded.params)
    )
    assert scalars["eval/exact"] == 0.5 and pictures == {}
    has = data.labels[chosen] > 0
    for word, i in ((word, data.spec.labels.index(word)) for word in data.spec.labels.words):
        assert (f"eval/exact/{word}" in scalars) == has[:, i].any()
        if has[:, i].any():
            assert scalars[f"eval/exact/{word}"] == has[:6, i].sum() / has[:, i].sum()
    rolled = np.roll(data.labels[chosen], 1, axis=0)
    cat = data.spec.labels.index("Cat")
    assert scalars["eval/words/Cat"] == (has[:, cat] & (rolled[:, cat] > 0)).sum() / has[:, cat].sum()
    assert scalars["eval/words"] == (rolled == data.labels[chosen]).all(axis=1).mean()
    without, _ = hooks.exact_match(drawn, data, chosen, asked, None, Now(loaded.params))
    assert not [name for name in without if name.startswith("eval/words")]


def test_a_run_writes_exact_match_at_its_interval_and_keeps_the_best_by_it(tmp_path, monkeypatch):
    """Exact match rises and falls again: the checkpoint at its top stays beside the newest."""
    shares = iter([0.25, 0.75, 0.5, 0.0])
    monkeypatch.setattr(hooks, "exact_match", lambda *_: ({"eval/exact": next(shares)}, {}))
    config = tiny_config(train__steps=16, log__exact_every=4, checkpoint__every=4, checkpoint__keep_newest=1)
    config.checkpoint.best_metric = "-eval/exact"
    train.train(build.build(config), str(tmp_path))
    steps, values = metrics.read_scalars(tmp_path)["eval/exact"]
    assert steps.tolist() == [4, 8, 12, 16] and values.tolist() == [0.25, 0.75, 0.5, 0.0]
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert {8, 16} <= kept and 4 not in kept  # 12 was the newest whole one while 16 was written
    assert checkpoint.read_meta(tmp_path / "checkpoints" / "8")["step"] == 8


def test_words_are_counted_where_the_classifier_is_at_hand_already(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "Settings", functools.partial(classifier.Settings, steps=10, batch=32))
    config = tiny_config(data__root=str(tmp_path), train__steps=2, log__exact_every=2, checkpoint__every=2)
    data = build.datasets.load("avatars", holdout="iid", root=str(tmp_path))
    assert judge.reader(data, str(tmp_path)) is None  # none is trained for a run that only wants to log
    classifier.load(data, str(tmp_path))
    train.train(build.build(config), str(tmp_path / "run"))
    found = metrics.read_scalars(tmp_path / "run")
    assert {"eval/exact", "eval/words", "eval/exact/Cat", "eval/words/Cat"} <= found.keys()
    events = metrics.read_events(tmp_path / "run")
    assert events["eval/words/Cat"][1][-1] == pytest.approx(found["eval/words/Cat"][1][-1])


def test_the_best_cannot_be_chosen_by_what_is_never_measured():
    config = tiny_config(data__holdout="", checkpoint__best_metric="-eval/exact")
    with pytest.raises(runtime.BadInput, match="needs held-out pictures that their labels determine"):
        build.build(config)


def test_counting_costs_the_shipped_runs_little():
    """By net evaluations at the punks' interval, a training example being three: forward, and twice that backward."""
    config = punks_cfg.get_config()
    counted = hooks.DRAWN * config.sampling.steps
    assert counted / (3 * config.log.exact_every * config.train.batch_size) < 0.05
