"""Facts about the controls of the avatars page: what addresses and recipes may say, and what becomes of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_jax import requests, samplers, schedules
from ddpm_jax.dashboard import controls
from ddpm_jax.dashboard.controls import Controls
from ddpm_jax.datasets import DATASETS, SHELVES, avatars, punks, spec

SPACE = avatars.LABELS
SAMPLING = {"sampler": "ddim", "steps": 10, "times": "linear", "guidance": 1.0}
START = controls.starting("faces", SAMPLING)
PAIRS = spec.pairs_seen(
    np.stack([SPACE.parse(label, complete=True) for label in ("Human, Pale, Cap, Pipe", "Elf, Tan, Cap", "Cat, Crown")])
)


def test_the_page_offers_all_samplers_and_times() -> None:
    assert set(controls.CHOICES["sampler"]) == set(samplers.SAMPLERS)
    assert set(controls.CHOICES["times"]) == set(schedules.GRIDS)
    assert controls.CHOICES["words"] == requests.WORDS


def test_the_shelves_hold_each_word_of_their_group_once() -> None:
    for name, groups in SHELVES.items():
        assert name in DATASETS
        for group, shelves in groups.items():
            words = [word for shelf in shelves.values() for word in shelf]
            assert sorted(words) == sorted(punks.LABELS.group(group).words)


def test_a_permalink_says_what_differs_and_leads_back() -> None:
    now = START._replace(label="Cat, -Cap", seed=7, n=9, pick=3, complete=True, guidance=2.5, sampler="ddpm")
    query = controls.to_query(now, START, 9)
    assert query.keys() == {"model", "checkpoint", "label", "seed", "n", "pick", "complete", "guidance", "sampler"}
    assert controls.updated(START, query, SPACE) == (now, [])
    assert controls.to_query(START, START, 9) == {"model": "faces", "checkpoint": "9"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"seed": "-4"}, "seed is -4; it must be from 0 to 4294967295"),
        ({"n": "1e9"}, "n is '1e9'; give a whole number"),
        ({"n": "17"}, "n is 17; it must be from 1 to 16"),
        ({"steps": "101"}, "steps is 101; it must be from 1 to 100"),
        ({"guidance": "nan"}, "guidance is nan; it must be from 0 to 10"),
        ({"sampler": "../../x.py"}, "sampler is '../../x.py'; choose one of ddpm"),
        ({"label": "<script>alert(1)</script>"}, "unknown word '<script>alert"),
        ({"label": "Cat, Robot"}, "a picture has one kind; keep one of the two"),
        ({"steps": None}, "steps is 'None'; give a whole number"),
        ({"seed": {"a": 1}}, "give a whole number"),
        ({"complete": "yes"}, "complete is 'yes'; give 1 or 0"),
    ],
)
def test_what_an_address_may_not_say_is_a_sentence_and_changes_nothing(given: dict, sentence: str) -> None:
    made, problems = controls.updated(START, given, SPACE)
    assert made == START and len(problems) == 1 and sentence in problems[0]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*Controls._fields, "x"]), st.one_of(st.text(), st.integers(), st.floats())))
def test_whatever_an_address_says_the_controls_stay_in_range(given: dict) -> None:
    made, _ = controls.updated(START, given, SPACE)
    for key, (low, high) in controls.RANGES.items():
        assert low <= getattr(made, key) <= high
    assert made.pick < made.n and made.sampler in controls.CHOICES["sampler"]
    SPACE.parse(made.label)


def test_settings_of_a_checkpoint_beyond_what_the_page_offers_are_brought_in() -> None:
    made = controls.starting("faces", {"sampler": "ddpm", "steps": 1000, "times": "log_snr", "guidance": 30.0})
    assert (made.steps, made.guidance, made.sampler, made.times) == (100, 10.0, "ddpm", "log_snr")


def test_what_decides_open_words_is_the_checkpoints_until_said_otherwise_and_guidance_leaves_it_to_the_net() -> None:
    start = controls.starting("faces", {**SAMPLING, "words": "prior"})
    assert start.words == controls.job(start)["words"] == "prior"
    assert controls.to_query(start._replace(words="net"), start, 1)["words"] == "net"
    assert controls.updated(start, {"words": "net"}, SPACE) == (start._replace(words="net"), [])
    assert controls.updated(start, {"words": "?"}, SPACE)[1] == ["words is '?'; choose one of net, prior"]
    assert "words" not in controls.job(start._replace(guidance=2.0))


def test_states_and_labels_lead_to_each_other() -> None:
    states = {"Cat": 1, "Cap": -1, "Pipe": 1}
    label = SPACE.format(controls.vector(SPACE, states))
    assert label == "Cat, -Cap, Pipe" and controls.states(SPACE, label) == states
    assert controls.states(SPACE, "any") == {}


def test_of_two_words_of_one_kind_the_later_click_counts() -> None:
    said = controls.vector(SPACE, {"Cat": 1, "Robot": 1, "nonsense": 1})
    assert SPACE.format(said) == "Robot"


def test_a_surprise_holds_only_words_that_were_seen_together_and_what_is_kept() -> None:
    for seed in range(40):
        made = controls.surprise(SPACE, PAIRS, {"Cap": 1, "Crown": -1}, seed)
        assert made["Cap"] == 1 and made["Crown"] == -1
        assert controls.unseen(SPACE, PAIRS, made) == []
        assert sum(made.get(kind, 0) for kind in SPACE.group("kind").words) == 1
    assert len({str(controls.surprise(SPACE, PAIRS, {}, seed)) for seed in range(40)}) > 3


def test_a_word_s_place_is_taken_by_those_of_its_shelf_first_and_of_its_group_alone() -> None:
    shelves = SHELVES["punks"]
    hats = next(words for words in shelves["accessories"].values() if "Beanie" in words)
    offered = controls.others(punks.LABELS, shelves, "Beanie")
    assert offered[: len(hats) - 1] == [word for word in hats if word != "Beanie"]
    assert sorted([*offered, "Beanie"]) == sorted(punks.LABELS.group("accessories").words)
    assert set(controls.others(punks.LABELS, shelves, "Zombie")) == {"Male", "Female", "Ape", "Alien"}
    assert controls.others(punks.LABELS, shelves, None) == []


def test_a_portrait_shows_a_word_on_a_face_that_was_seen_with_it() -> None:
    labels = dict(zip(SPACE.words, controls.portraits(SPACE, PAIRS), strict=True))
    assert labels["Pipe"] == "Human, Pale, Pipe"
    assert labels["Crown"] == "Cat, Crown"
    assert labels["Cat"] == "Cat" and labels["Tan"] == "Elf, Tan"


def test_a_job_asks_for_all_variations_and_a_recipe_for_the_one_chosen() -> None:
    now = START._replace(label="Cat", n=3, pick=2)
    assert controls.job(now) == {
        **SAMPLING,
        "kind": "sheet",
        "label": "Cat",
        "complete": False,
        "n": 3,
        "seed": 0,
        "snap": False,
        "words": "net",
    }
    assert controls.job(now, pick=True) == {**controls.job(now), "pick": 2}
