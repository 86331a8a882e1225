import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import masking
from ddpm_jax.labels import Categorical, Flags, LabelSpace

SPACE = LabelSpace(
    (
        Categorical("type", ("Male", "Female", "Zombie")),
        Categorical("skin", ("Light", "Dark")),
        Flags("accessories", ("Mohawk", "Mohawk Thin", "Mohawk Dark", "Pipe", "Smile")),
    )
)
DIGITS = LabelSpace((Categorical("digit", tuple("0123456789")),))


def vector(*states):
    return np.array(states, np.int8)


def complete_labels(space, count, seed=0):
    """Random complete labels: at most one word of a Categorical, any Flags."""
    rng = np.random.default_rng(seed)
    parts = []
    for group in space.groups:
        width = len(group.words)
        if isinstance(group, Categorical):
            one = rng.integers(-1, width, (count, 1)) == np.arange(width)
        else:
            one = rng.random((count, width)) < 0.5
        parts.append(np.where(one, 1, -1).astype(np.int8))
    return np.concatenate(parts, axis=1)


# What words mean


def test_naming_a_word_of_a_categorical_says_that_the_others_are_absent_and_nothing_else():
    assert SPACE.words[:5] == ("Male", "Female", "Zombie", "Light", "Dark")
    np.testing.assert_array_equal(
        SPACE.parse("Female, Mohawk, -Pipe"),
        vector(-1, 1, -1, 0, 0, 1, 0, 0, -1, 0),
    )
    np.testing.assert_array_equal(SPACE.parse("-Zombie"), vector(0, 0, -1, 0, 0, 0, 0, 0, 0, 0))
    np.testing.assert_array_equal(
        SPACE.parse("Zombie, Smile", complete=True),
        vector(-1, -1, 1, -1, -1, -1, -1, -1, -1, 1),
    )


@pytest.mark.parametrize(
    "nothing", ["", "any", " Any ", "any, ANY", None, {}, {"type": None, "accessories": []}, np.zeros(10)]
)
def test_a_label_may_ask_for_nothing(nothing):
    np.testing.assert_array_equal(SPACE.parse(nothing), np.zeros(10, np.int8))
    np.testing.assert_array_equal(SPACE.parse(nothing, complete=True), -np.ones(10, np.int8))


@pytest.mark.parametrize(
    "same",
    [
        "smile,  - pipe,ZOMBIE,",
        "any, Smile, -Pipe, Any, Zombie",
        {"type": "Zombie", "accessories": ["Smile", "any", "-Pipe"]},
        {"type": "Zombie", "accessories": ["Smile", "-Pipe"]},
        {"Accessories": "-Pipe, Smile", "type": ["zombie"]},
        vector(0, 0, 1, 0, 0, 0, 0, 0, -1, 1),
        [0.0, 0, 1, 0, 0, 0, 0, 0, -1, 1],
    ],
)
def test_text_dict_and_vector_say_the_same(same):
    parsed = SPACE.parse(same)
    assert parsed.dtype == np.int8
    np.testing.assert_array_equal(parsed, vector(-1, -1, 1, 0, 0, 0, 0, 0, -1, 1))


def test_a_digit_may_be_a_number():
    np.testing.assert_array_equal(DIGITS.parse({"digit": 3}), DIGITS.parse("3"))
    assert DIGITS.format(DIGITS.parse({"digit": np.int64(3)})) == "3"


def test_parsing_copies_the_vector_it_is_given():
    given = SPACE.parse("Zombie")
    SPACE.parse(given)[:] = 0
    np.testing.assert_array_equal(given, SPACE.parse("Zombie"))


def test_the_text_of_a_vector_leaves_out_what_is_implied():
    assert SPACE.format(SPACE.parse("Smile, Female, -Pipe")) == "Female, -Pipe, Smile"
    assert SPACE.format(SPACE.parse("-Male, -Dark")) == "-Male, -Dark"
    assert SPACE.format(np.zeros(10)) == "any"
    assert SPACE.format(SPACE.parse("Zombie, Smile", complete=True), complete=True) == "Zombie, Smile"
    assert SPACE.format(SPACE.parse("", complete=True), complete=True) == ""


@pytest.mark.parametrize("space", [SPACE, DIGITS], ids=["three groups", "digits"])
def test_parse_inverts_format(space):
    full = complete_labels(space, 100)
    keep = np.random.default_rng(1).random(full.shape) < np.linspace(0, 1, 100)[:, None]
    shown = np.asarray(jax.vmap(lambda label, keep: masking.reveal(space, label, keep))(full, keep))
    for label, some in zip(full, shown, strict=True):
        np.testing.assert_array_equal(space.parse(space.format(label, complete=True), complete=True), label)
        np.testing.assert_array_equal(space.parse(space.format(some)), some)


def test_a_space_of_no_words_is_unconditional():
    space = LabelSpace()
    assert space.size == 0 and space.words == ()
    assert space.parse(None).shape == space.parse("any", complete=True).shape == (0,)
    assert masking.reveal(space, jnp.zeros(0, jnp.int8), jnp.zeros(0, bool)).shape == (0,)
    assert masking.subset(jax.random.key(0), 0).shape == (0,)
    assert LabelSpace.from_json(space.to_json()) == space


# What a space is


def test_json_keeps_everything():
    again = LabelSpace.from_json(SPACE.to_json())
    assert again == SPACE and hash(again) == hash(SPACE)
    assert again.groups == SPACE.groups


def test_lists_are_made_tuples_so_that_a_space_hashes():
    assert hash(LabelSpace([Flags("hats", ["Cap"])])) == hash(LabelSpace((Flags("hats", ("Cap",)),)))  # pyright: ignore[reportArgumentType]


def test_groups_of_the_same_words_but_another_kind_differ():
    one, other = LabelSpace((Categorical("a", ("x", "y")),)), LabelSpace((Flags("a", ("x", "y")),))
    assert one != other
    shown = jax.jit(masking.reveal, static_argnums=0)
    label, keep = vector(1, -1), np.array([True, False])
    np.testing.assert_array_equal(shown(one, label, keep), [1, -1])
    np.testing.assert_array_equal(shown(other, label, keep), [1, 0])


def test_places_of_words_and_groups():
    assert SPACE.index("pipe") == 8 and SPACE.slice_of("skin") == slice(3, 5)
    assert SPACE.group("Accessories") is SPACE.groups[2] is SPACE.owners[8]
    assert SPACE.rivals.sum() == 3 * 2 + 2 * 1 and not SPACE.rivals[5:].any()


# What is refused, in which words

ERRORS = [
    ("Mohwak", "unknown accessory 'Mohwak'; did you mean Mohawk, Mohawk Thin, Mohawk Dark?"),
    ("Femal, Smile", "unknown type 'Femal'; did you mean Female, Male?"),
    ("qqqqq", "unknown word 'qqqqq'; the words are Male, Female, Zombie, Light, Dark, Mohawk, Mohawk Thin, "),
    (
        {"accessories": ["qqqqq"]},
        "unknown accessory 'qqqqq'; the words are Mohawk, Mohawk Thin, Mohawk Dark, Pipe, Smile",
    ),
    ({"accessories": ["Zombie"]}, "unknown accessory 'Zombie'; it is a word of the group 'type'"),
    ({"colour": "Red"}, "unknown group 'colour'; the groups are type, skin, accessories"),
    ({"colour": None}, "unknown group 'colour'; the groups are type, skin, accessories"),
    ("Male, Female", "the label asks for 'Male' and 'Female', but a picture has one type; keep one of the two"),
    (vector(0, 0, 0, 1, 1, 0, 0, 0, 0, 0), "asks for 'Light' and 'Dark', but a picture has one skin"),
    ("-", "a minus sign needs a word after it"),
    ("Male, - , Pipe", "a minus sign needs a word after it"),
    ("Pipe, -Pipe", "the label asks for 'Pipe' and for its absence; keep one of the two"),
    ("-Pipe, Pipe", "the label asks for 'Pipe' and for its absence; keep one of the two"),
    (np.zeros(3), "a label vector of shape (3,) does not fit 10 words; give [10]"),
    (np.full(10, 2), "a label vector holds 2; its values are -1 (absent), 0 (unspecified) and 1 (present)"),
    (np.full(10, 0.5), "a label vector holds 0.5; its values are -1"),
    (["Male"], "a label is text, a dict of groups, a vector or None, not list"),
]


@pytest.mark.parametrize(("label", "message"), ERRORS)
def test_a_label_that_makes_no_sense_is_refused(label, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SPACE.parse(label)


def test_an_open_label_has_no_complete_text():
    with pytest.raises(ValueError, match="the label is not complete: it leaves 'Light' open"):
        SPACE.format(SPACE.parse("Male"), complete=True)


@pytest.mark.parametrize("name", ["", " a", "a ", "a, b", "-a", "Any"])
def test_words_that_text_cannot_carry_are_refused(name):
    with pytest.raises(ValueError, match=f"word {name!r} cannot stand in a label"):
        LabelSpace((Flags("hats", (name,)),))


def test_names_are_used_once():
    with pytest.raises(ValueError, match="word 'cap' occurs twice; give each word its own name"):
        LabelSpace((Flags("hats", ("Cap",)), Flags("heads", ("cap",))))
    with pytest.raises(ValueError, match="group 'hats' occurs twice"):
        LabelSpace((Flags("hats", ("Cap",)), Flags("hats", ("Hood",))))


def test_an_unknown_group_is_named():
    with pytest.raises(ValueError, match="unknown group 'hat'; the groups are type, skin, accessories"):
        SPACE.slice_of("hat")
    with pytest.raises(ValueError, match="unknown kind of group 'Ordinal'; the kinds are Categorical, Flags"):
        LabelSpace.from_json([{"kind": "Ordinal", "name": "age", "words": ["old"]}])
