"""What a request becomes: settings, a table, arrays of guidance; or a sentence."""

import jax
import numpy as np
import pytest

from ddpm_jax import requests, schedules
from ddpm_jax.labels import Categorical, Flags, LabelSpace

SPACE = LabelSpace((Categorical("kind", ("Cat", "Dog", "Elf")), Flags("has", ("Hat", "Pipe"))))
DEFAULTS = {"sampler": "ddim", "steps": 10, "guidance": 1.0}
LABEL = SPACE.parse("Cat, Hat, -Pipe")


def settle(**how):
    return requests.settle(how, DEFAULTS)


def guide(label=LABEL, **how):
    made = requests.guides(settle(**how), SPACE, label[None])
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], made)


def test_what_is_not_asked_is_the_checkpoints():
    asked = settle(steps=3, guidance=2, sampler=None)
    assert asked[:3] == ("ddim", 3, 2.0) and asked.times == "linear" and asked.interval == (0.0, 1.0)
    trained_with = {**DEFAULTS, "interval": [0.4, 0.8]}
    assert requests.settle({}, trained_with).interval == (0.4, 0.8)
    assert requests.settle({"interval": (0, 1)}, trained_with).interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"sampler": "dddm"}, "unknown sampler 'dddm'; choose one of ddpm, ddim, dpmpp_2m"),
        ({"times": "cubic"}, "unknown times 'cubic'; choose one of linear, quadratic"),
        ({"compose": "half"}, "unknown compose 'half'; choose one of full, empty"),
        ({"steps": 0}, "steps is 0; it must be from 1 to 1000"),
        ({"steps": 1001}, "steps is 1001; it must be from 1 to 1000"),
        ({"guidance": -1}, "guidance is -1; it must be from 0 to 100"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"rescale": 1.5}, "rescale is 1.5; it must be from 0 to 1"),
        ({"eta": 0.5, "sampler": "ddpm"}, "eta is ddim's; ddpm has none"),
        ({"interval": (0.5, 0.2)}, r"interval is \(0.5, 0.2\); give two rising times from 0 to 1"),
        ({"interval": (0.5,)}, r"interval is \(0.5,\); give two rising times from 0 to 1"),
        ({"weights": {"Hat": -1}}, "the weight of Hat is -1; it must be from 0 to 100"),
        ({"weights": dict.fromkeys("abcde", 1.0)}, "weights names 5 words; at most 4"),
        ({"stepz": 5}, "unknown setting 'stepz'; the settings are sampler, steps"),
    ],
)
def test_wrong_settings_end_in_a_sentence(how, message):
    with pytest.raises(ValueError, match=message):
        settle(**how)


@pytest.mark.parametrize(
    ("schedule", "used"),
    [(schedules.linear(), {1: 1, 2: 1, 9: 9, 10: 9, 11: 11}), (schedules.cosine(), {1: 1, 2: 2, 9: 8, 10: 10, 11: 10})],
)
def test_heun_takes_no_more_evaluations_than_asked(schedule, used):
    """From the cosine schedule's start, where sigma is 20,000, its first step is Euler's."""
    for steps, evaluations in used.items():
        assert len(requests.rows(settle(sampler="heun", steps=steps), schedule).t) == evaluations


def test_a_table_may_start_at_a_time():
    rows = requests.rows(settle(steps=4), schedules.cosine(), start=0.5)
    np.testing.assert_allclose(rows.t, [0.5, 0.375, 0.25, 0.125])


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({}, 1),
        ({"guidance": 0.0}, 2),
        ({"autoguidance": 1.5}, 2),
        ({"guidance": 2.0, "autoguidance": 1.5}, 3),
        ({"guidance": 2.0, "weights": {"Hat": 1.0, "Pipe": 3.0}}, 3),
    ],
)
def test_an_evaluation_calls_a_net_for_all_that_it_leads_from(how, wanted):
    assert requests.passes(settle(**how)) == wanted


def test_weight_1_is_one_pass_and_others_two():
    labels, weights, *_ = guide()
    assert labels.shape == (1, 5) and weights.tolist() == [1.0]
    assert guide(guidance=3).rescale is None  # or two passes over all logits would be made for nothing
    assert guide(guidance=3).interval is None and guide(interval=(0.1, 0.5)).interval is None  # nor is there a branch
    labels, weights, plain, interval, rescale = guide(guidance=3, interval=(0.1, 0.5), rescale=0.5)
    np.testing.assert_array_equal(labels, [LABEL, 0 * LABEL])
    assert weights.tolist() == [3.0, -2.0] and plain.tolist() == [1.0, 0.0]
    np.testing.assert_allclose([*interval, rescale], [0.1, 0.5, 0.5])


def test_a_word_with_a_weight_of_its_own_is_left_out_of_one_label():
    labels, weights, *_ = guide(weights={"Hat": 2.0, "Cat": 0.5})
    np.testing.assert_array_equal(labels[0], LABEL)
    np.testing.assert_array_equal(labels[1], SPACE.parse("Cat, -Pipe"))
    np.testing.assert_array_equal(labels[2], SPACE.parse("Hat, -Pipe"))  # Dog and Elf were absent by Cat alone
    np.testing.assert_allclose(weights, [3.5, -2.0, -0.5, 0.0, 0.0])


def test_composing_from_nothing_takes_each_word_alone():
    both = {"weights": {"Hat": 2.0, "Cat": 0.5}, "compose": "empty"}
    with pytest.raises(ValueError, match="knows the weighted words alone; give Pipe a weight, too, or use 'full'"):
        guide(**both)
    labels, weights, *_ = guide(SPACE.parse("Cat, Hat"), **both)
    np.testing.assert_array_equal(labels[:3], [0 * LABEL, SPACE.parse("Hat"), SPACE.parse("Cat")])
    np.testing.assert_allclose(weights, [-1.5, 2.0, 0.5, 0.0, 0.0])


def test_a_weight_of_a_word_that_is_not_asked_is_refused():
    with pytest.raises(ValueError, match="Pipe has a weight but the label leaves it open; name it in the label"):
        guide(SPACE.parse("Cat"), weights={"Pipe": 2.0})
    with pytest.raises(ValueError, match="unknown"):
        guide(weights={"Hut": 2.0})


def test_autoguidance_is_the_weight_against_a_worse_net():
    labels, weights, plain, *_ = guide(autoguidance=2.5, guidance=1.0)
    assert labels.shape == (1, 5) and weights.tolist() == [2.5, -1.5] and plain.tolist() == [1.0, 0.0]
    labels, weights, plain, *_ = guide(autoguidance=2.5, guidance=3.0)
    assert labels.shape == (2, 5) and weights.tolist() == [4.5, -2.0, -1.5] and plain.tolist() == [1.0, 0.0, 0.0]
    assert guide(autoguidance=1.0, guidance=1.0).weights.tolist() == [1.0]  # that net alone: the other is not called
    with pytest.raises(ValueError, match="weights of words do not go with autoguidance; leave one of them out"):
        guide(autoguidance=2.0, weights={"Hat": 2.0})
    trained_with = {**DEFAULTS, "autoguidance": 2.0}
    assert requests.settle({}, trained_with).autoguidance == 2.0
    assert requests.settle({"weights": {"Hat": 2.0}}, trained_with).autoguidance == 1.0
    with pytest.raises(ValueError, match="autoguidance is -1; it must be from 0 to 100"):
        settle(autoguidance=-1)


def test_unspecifying_a_word_takes_along_what_it_implies():
    np.testing.assert_array_equal(SPACE.unspecified(LABEL, ["Cat"]), SPACE.parse("Hat, -Pipe"))
    np.testing.assert_array_equal(SPACE.unspecified(LABEL, ["Dog", "Pipe"]), [1, 0, -1, 1, 0])
