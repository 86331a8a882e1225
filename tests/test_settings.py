"""Every wrong configuration ends in one sentence before anything is compiled."""

import copy
import json

import pytest

from ddpm_jax import runtime, settings
from ddpm_jax.configs import default


def config(**changes):
    """A small avatars configuration; keys are dotted with __ for the dot."""
    from ddpm_jax.configs import avatars_cfg

    made = avatars_cfg.get_config()
    made.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return made


def test_the_shipped_configurations_are_legal():
    from ddpm_jax.configs import avatars_cfg, mnist_cfg, mnist_classes_cfg, punks_cfg, punks_uncond_cfg

    for module in (avatars_cfg, mnist_cfg, mnist_classes_cfg, punks_cfg, punks_uncond_cfg):
        settings.check(module.get_config())


def test_every_key_is_checked_by_range_choice_or_type():
    known = runtime.flat(default.get_config().to_dict())
    assert set(settings.RANGES) | set(settings.CHOICES) <= set(known)
    unranged = {key for key, value in known.items() if isinstance(value, int | float) and key not in settings.RANGES}
    assert unranged == {"net.remat", "schedule.zero_terminal"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__steps": -5}, "train.steps is -5; it must be from 1 to 1000000000$"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 2147483647$"),
        ({"optimizer__ema": 1.0}, "optimizer.ema is 1.0; it must be from 0 to 0.9999999$"),
        ({"optimizer__learning_rate": float("nan")}, "optimizer.learning_rate is nan; it must be from 1e-09 to 1"),
        ({"train__batch_size": 0}, "train.batch_size is 0"),
        ({"net__dropout": 1.0}, "net.dropout is 1.0; it must be from 0 to 0.95"),
        ({"loss__target": "noise"}, "loss.target is 'noise'; choose one of eps, x_0, v, palette"),
        ({"net__multipliers": ()}, r"net.multipliers is \(\); give one number"),
        ({"checkpoint__every": 75}, "checkpoint.every is 75; it must be a multiple of log.every, 50"),
        ({"train__accumulate": 3}, "train.batch_size is 64; it must be a multiple of train.accumulate, 3"),
        ({"masks__none": 0.8}, "together they must be at most 1"),
        ({"train__steps": 10**9}, "must stay below 2"),
        ({"schedule__zero_terminal": True, "loss__target": "eps"}, "learns nothing at zero terminal SNR"),
        (
            {"net__word_layers": 2, "loss__target": "eps"},
            "net.word_layers paint colours: they need loss.target 'palette'",
        ),
        ({"net__word_layers": 2, "net__head_channels": 0}, "net.word_layers paint colours: .* net.head_channels"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(changes, message):
    with pytest.raises(runtime.BadInput, match=message):
        settings.check(config(**changes))


def test_keys_that_are_unknown_missing_or_of_another_type_are_named():
    odd = config()
    odd.unlock()
    odd.net.chanels = 3
    with pytest.raises(runtime.BadInput, match=r"net.chanels is not a key of a configuration"):
        settings.check(odd)
    del odd.net["chanels"], odd.net["channels"]
    with pytest.raises(runtime.BadInput, match=r"net.channels is missing of a configuration"):
        settings.check(odd)
    odd = config(sampling__interval=(0.2, "late"))
    with pytest.raises(runtime.BadInput, match=r"sampling.interval is .*; it must be a tuple of numbers"):
        settings.check(odd)
    odd = config(net__attention=(0.5,))
    with pytest.raises(runtime.BadInput, match=r"net.attention is .*; it must be a tuple of whole numbers"):
        settings.check(odd)
    odd = config()
    with odd.ignore_type():
        odd.train.steps = "many"
    with pytest.raises(runtime.BadInput, match=r"train.steps is 'many'; it must be a whole number"):
        settings.check(odd)


def test_another_run_is_refused_by_its_first_differences():
    meta = {"config": config(net__channels=32).to_dict(), "fingerprint": "a"}
    saved = {"config": config(net__channels=16, train__batch_size=32, log__every=10).to_dict(), "fingerprint": "a"}
    with pytest.raises(runtime.BadInput, match=r"net.channels was 16 and is 32; .*train.batch_size was 32 and is 64"):
        settings.check_resume(meta, saved)
    with pytest.raises(runtime.BadInput, match=r"the data are not those it was trained on"):
        settings.check_resume(meta, {**meta, "fingerprint": "b"})
    other = {"config": config(net__channels=32, train__steps_per_dispatch=2).to_dict(), "fingerprint": "a"}
    with pytest.raises(runtime.BadInput, match=r"train.steps_per_dispatch was 2 and is 1"):
        settings.check_resume(meta, other)
    harmless = {"config": config(net__channels=32, train__steps=7, log__every=10).to_dict(), "fingerprint": "a"}
    settings.check_resume(meta, harmless)


def test_a_key_that_is_younger_than_the_checkpoint_had_its_defaults_effect():
    meta = {"config": json.loads(json.dumps(config().to_dict())), "fingerprint": "a"}
    older = copy.deepcopy(meta)
    del older["config"]["net"]["attention"], older["config"]["net"]["dropout"]
    settings.check_resume(meta, older)
    meta["config"]["net"]["dropout"] = 0.5
    with pytest.raises(runtime.BadInput, match=r"net.dropout was 0.0 and is 0.5"):
        settings.check_resume(meta, older)


def test_what_changes_from_a_resume_on_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(settings.logging, "info", lambda form, *values: said.append(form % values))
    meta = {"config": config(optimizer__learning_rate=5e-4).to_dict(), "fingerprint": "a"}
    settings.check_resume(meta, {"config": config().to_dict(), "fingerprint": "a"})
    assert said == ["optimizer.learning_rate was 0.002 and is 0.0005 from here on"]
