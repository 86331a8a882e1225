"""The word prior: it completes labels by the law of the labels it was fitted to, and never changes what was said."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

import ddpm_jax
from ddpm_jax import build, checkpoint, datasets, devices, engine, export, prior, recipes, requests, runtime, train
from ddpm_jax.labels import Categorical, Flags, LabelSpace

PETS = LabelSpace((Categorical("kind", ("Cat", "Dog", "Bird")), Flags("things", ("Bell", "Collar"))))
CHANCES = {"Cat": 0.5, "Dog": 0.3, "Bird": 0.2}


def pets(n, seed=0):
    """Complete labels [n, 5]: kinds by `CHANCES`; a bell for half of the cats alone; a collar wherever there is one."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(3, n, p=list(CHANCES.values()))
    bell = (kinds == 0) & (rng.random(n) < 0.5)
    return np.where(np.column_stack([kinds[:, None] == np.arange(3), bell, bell]), 1, -1).astype(np.int8)


ENTROPY = 0.5 * np.log(2) - sum(p * np.log(p) for p in CHANCES.values())  # nats


@pytest.fixture(scope="module")
def fitted():
    """The logits of a prior fitted to pets."""
    net = prior.WordPrior(32)
    return prior.logits(net, prior.fit(net, pets(2000), jax.random.key(0), PETS))


def test_the_bound_is_of_the_law_that_completions_are_drawn_by_however_large_the_logits():
    given = jnp.array([60.0, 59.0, 40.0, -50.0, 80.0])
    label = jnp.asarray(PETS.parse("Dog, Collar", complete=True))
    law = np.exp([-60, 0, -1, -20])  # no kind, Cat, Dog, Bird

    def bound(logits):
        keys = jax.random.split(jax.random.key(0), 200)
        return jax.vmap(lambda key: prior.bound(lambda _: logits, label, key, PETS))(keys).mean()

    found, gradient = jax.value_and_grad(bound)(given)
    assert float(found) == pytest.approx(-np.log(law[2] / law.sum()), rel=0.2)  # the flags are sure
    shares = np.asarray(gradient)[:3] / np.abs(gradient[1])
    assert shares == pytest.approx([1, -1, 0], abs=1e-6)


def completed(given, label, n, space=PETS):
    """Return n completions of a label, int8 [n, words]."""
    one = functools.partial(prior.complete, given, jnp.asarray(space.parse(label)), space=space)
    return np.asarray(jax.jit(jax.vmap(lambda key: one(key=key)))(jax.random.split(jax.random.key(1), n)))


def test_completions_follow_the_law_of_the_labels(fitted):
    made = completed(fitted, "", 4000) > 0
    np.testing.assert_allclose(made.mean(axis=0), [*CHANCES.values(), 0.25, 0.25], atol=0.03)
    assert (made[:, :3].sum(axis=1) == 1).mean() > 0.999  # one kind each
    assert (made[:, 3] == made[:, 4]).mean() > 0.99 and made[made[:, 3] > 0, 0].mean() > 0.99


@pytest.mark.parametrize(
    ("label", "word", "share"),
    [
        ("Bell", "Cat", 1.0),
        ("-Cat", "Dog", 0.6),
        ("-Cat, -Dog", "Bird", 1.0),
        ("Cat", "Collar", 0.5),
        ("Dog", "Bell", 0),
    ],
)
def test_what_a_label_says_stays_and_the_rest_follows_from_it(fitted, label, word, share):
    said, made = PETS.parse(label), completed(fitted, label, 2000)
    assert (made != 0).all() and (made[:, said != 0] == said[said != 0]).all()
    assert abs((made[:, PETS.index(word)] > 0).mean() - share) < 0.04


@pytest.mark.parametrize("label", ["", "-Cat", "Bird, -Bell", "Bell, -Dog", "-Cat, -Dog, -Bird", "Dog, Bell, Collar"])
def test_a_net_that_learned_nothing_keeps_what_was_said_too(label):
    net = prior.WordPrior(4)
    given = prior.logits(net, net.init(jax.random.key(0), jnp.zeros(5, jnp.int8))["params"])
    said, made = PETS.parse(label), completed(given, label, 50)
    assert made.dtype == np.int8 and (made != 0).all() and (made[:, said != 0] == said[said != 0]).all()
    assert ((made[:, :3] > 0).sum(axis=1) <= 1).all()


def test_the_bound_of_a_net_that_knows_nothing_counts_the_choices():
    def even(label):
        return jnp.zeros(label.shape)

    label, keys = jnp.asarray(pets(1)[0]), jax.random.split(jax.random.key(0), 20_000)
    found = jax.vmap(lambda key: prior.bound(even, label, key, PETS))(keys)
    # Cat, dog, bird or none; and two flags.
    np.testing.assert_allclose(found.mean(), np.log(4) + 2 * np.log(2), rtol=0.02)
    flags = LabelSpace((Flags("things", ("Bell", "Collar")),))
    one = jax.vmap(lambda key: prior.bound(even, label[3:], key, flags))(keys[:50])
    np.testing.assert_allclose(one, 2 * np.log(2), rtol=1e-6)  # whatever is shown


def test_the_bound_of_a_fitted_net_is_the_entropy_of_the_labels(fitted):
    some = jnp.asarray(pets(20_000, seed=1))
    keys = jax.random.split(jax.random.key(2), len(some))
    found = jax.vmap(lambda label, key: prior.bound(fitted, label, key, PETS))(some, keys).mean()
    assert ENTROPY - 0.03 < found < ENTROPY + 0.08


def test_a_word_too_rare_to_learn_from_takes_what_never_and_always_goes_with_it():
    space = LabelSpace(
        (Categorical("kind", ("Cat", "Alien")), Categorical("fur", ("Red", "Grey")), Flags("has", ("Bell",)))
    )
    cats = np.tile(np.int8([[1, -1, 1, -1, -1], [1, -1, -1, 1, 1]]), (500, 1))
    aliens = np.tile(np.int8([[-1, 1, -1, -1, -1]]), (4, 1))  # hairless
    net = prior.WordPrior(16)
    given = prior.logits(net, prior.fit(net, np.concatenate([cats, aliens]), jax.random.key(0), space))
    assert (completed(given, "Alien", 500, space)[:, 2:4] < 0).all(axis=1).mean() > 0.9
    assert (completed(given, "Cat", 500, space)[:, 2:4] > 0).any(axis=1).mean() > 0.99


@pytest.fixture(scope="module")
def with_prior(tmp_path_factory):
    """The workdir of a tiny run whose net completes labels."""
    workdir = tmp_path_factory.mktemp("with_prior")
    quick = {"net__word_prior": 8, "sampling__words": "prior", "optimizer__weight_decay": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior, "STEPS", 20)
        train.train(build.build(tiny_config(**quick)), str(workdir))
    return workdir


def test_no_step_changes_the_prior_and_every_checkpoint_has_it(with_prior):
    first, last = (
        checkpoint.load_arrays(with_prior / "checkpoints" / step, "params")["word_prior"] for step in ("4", "8")
    )
    jax.tree.map(np.testing.assert_array_equal, first, last)
    averaged = checkpoint.load_arrays(with_prior / "checkpoints" / "8", "ema")["word_prior"]
    jax.tree.map(np.testing.assert_array_equal, first, averaged)


def test_pictures_are_of_completed_labels(with_prior):
    model = ddpm_jax.load(with_prior)
    asked = model.settings()
    drawn = model.sample("Cat", n=3, seed=5)
    np.testing.assert_array_equal(drawn[2], model.sample("Cat", n=1, seed=5, first=2)[0])
    at = engine.places(3, 5)
    words = model.completed(model.vectors("Cat", n=3), at, asked)
    assert (words != 0).all() and (words[:, model.spec.labels.index("Cat")] == 1).all()
    np.testing.assert_array_equal(drawn, model.render(words, at, asked))
    np.testing.assert_array_equal(model.trajectory("Cat", n=3, seed=5)[:, -1], drawn)
    assert (model.sample("Cat", n=3, seed=5, words="net") != drawn).any()


def test_variations_of_no_spread_are_one_picture_and_of_some_keep_what_was_asked(with_prior):
    model = ddpm_jax.load(with_prior)
    same = model.variations("Cat", n=3, spread=0.0, seed=2)
    assert (same == model.sample("Cat", seed=2)).all()
    space, vectors = model.spec.labels, model.vectors("Cap", n=40)
    made = model.other_words(vectors, engine.places(40, 2), model.settings(), 0.4)
    assert (made[:, vectors[0] != 0] == vectors[0][vectors[0] != 0]).all() and (made != 0).all()
    for vector in made:
        space.parse(vector)  # one kind, one skin
    kinds = made[:, space.slice_of("kind")]
    assert 0 < (kinds != kinds[0]).any(axis=1).mean() < 0.4  # drawn anew in two of five, and then perhaps the same


def test_swap_changes_the_words_and_what_nobody_asked_for_that_they_exclude(with_prior):
    model, at = ddpm_jax.load(with_prior), engine.same_place(1, 4)
    space = model.spec.labels
    whole, after = model.swapped(space.parse("Human, Cap"), ["Cap"], ["Crown"], at, model.settings())
    differ = {space.words[i] for i in np.flatnonzero(whole != after)}
    assert differ >= {"Cap", "Crown"} and after[space.index("Crown")] == 1 and after[space.index("Cap")] == -1
    kept = [i for i, word in enumerate(space.words) if word not in differ]
    seen = np.unpackbits(np.frombuffer(bytes.fromhex(model.meta["pairs_seen"]), np.uint8), count=space.size**2)
    lost = np.flatnonzero((whole > 0) & (after < 0))
    assert all(space.words[i] == "Cap" or not seen.reshape(space.size, -1)[i][after > 0].all() for i in lost) and kept
    drawn = model.swap("Human, Cap", ["Cap"], ["Crown"], seed=4)
    np.testing.assert_array_equal(drawn, model.same_noise([whole, after], complete=False, seed=4))


def test_what_a_picture_says_or_two_labels_share_is_not_the_priors_to_decide(with_prior):
    model, net = ddpm_jax.load(with_prior), {"words": "net"}
    black = np.zeros((16, 16, 3), np.uint8)
    for call in (
        lambda **how: model.edit(black, "Cat", **how),
        lambda **how: model.inpaint(black, np.eye(16, dtype=bool), "Cat", **how),
        lambda **how: model.interpolate("Cat", "Robot", **how),
    ):
        with pytest.raises(ValueError, match="takes no words; leave it out"):
            call(words="prior")
    cells = model.grid(["Cat"], ["Cap", "Crown"], same_noise=True)
    np.testing.assert_array_equal(cells, model.grid(["Cat"], ["Cap", "Crown"], same_noise=True, **net))
    drawn = recipes.sweep(model, label="Cat", n=2, key="guidance", values=[1.0, 2.0])
    np.testing.assert_array_equal(drawn.pictures[:2], model.sample("Cat", n=2, **net))


def test_an_exported_sampler_completes_labels_too(with_prior, tmp_path):
    model = ddpm_jax.load(with_prior)
    export.write(model, model.settings(), tmp_path / "a.stablehlo", ["cpu"])
    assert export.difference(model, model.settings(), tmp_path / "a.stablehlo", n=4) <= 1
    raw = np.zeros((1, model.spec.labels.size), np.int8)
    raw[0, 0] = 1  # and of its rivals nothing
    made = model.engine.complete(model.nets, np.repeat(raw, 20, axis=0), engine.places(20))
    assert ((made[:, model.spec.labels.slice_of("kind")] > 0).sum(axis=1) == 1).all()


def test_guidance_is_the_nets(with_prior):
    model = ddpm_jax.load(with_prior)
    assert model.settings().words == "prior" and model.settings(guidance=2.0).words == "net"
    with pytest.raises(ValueError, match="words 'prior' leaves nothing open that guidance or weights could lead away"):
        model.settings(guidance=2.0, words="prior")
    led = model.led_away_from(model)
    assert led.settings().words == "net"
    with pytest.raises(ValueError, match="words 'prior' leaves nothing open for another checkpoint"):
        led.settings(words="prior")
    with pytest.raises(runtime.BadInput, match=r"sampling.words is 'prior', which takes no guidance"):
        build.build(tiny_config(net__word_prior=8, sampling__words="prior", sampling__guidance=2.0))


def test_a_prior_that_is_not_there_cannot_be_asked(trained):
    with pytest.raises(ValueError, match="this checkpoint has no word prior"):
        ddpm_jax.load(trained).sample("Cat", words="prior")
    with pytest.raises(runtime.BadInput, match=r"sampling.words is 'prior', but net.word_prior is 0"):
        build.build(tiny_config(sampling__words="prior"))
    without = {"net__word_prior": 8, "masks__none": 1.0, "masks__subset": 0.0}
    with pytest.raises(runtime.BadInput, match=r"sampling.words is 'prior', but the data have no words"):
        build.build(tiny_config(sampling__words="prior", **without))
    assert "word_prior" not in build.build(tiny_config(**without)).abstract.params


def test_fine_tuning_fits_a_prior_anew(with_prior, monkeypatch):
    monkeypatch.setattr(prior, "STEPS", 1)
    run = build.build(tiny_config(net__word_prior=8, init_from=str(with_prior), seed=3))
    old = checkpoint.load_arrays(with_prior / "checkpoints" / "8", "ema")
    new = run.init(8).params
    assert (np.asarray(new["word_prior"]["said"]["kernel"]) != old["word_prior"]["said"]["kernel"]).any()
    np.testing.assert_array_equal(new["stem"]["kernel"], old["stem"]["kernel"])


def test_where_labels_say_every_pixel_one_evaluation_makes_the_same_picture(tmp_path):
    config = runtime.jsonable(tiny_config(net__word_layers=4, sampling__sampler="ddpm").to_dict())
    data = datasets.load("avatars", root=str(tmp_path))
    model, asked = build.make_model(config, data.spec), requests.settle({"steps": 5}, config["sampling"])
    # Not as they start, since zero maps paint one colour whatever is asked.
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.jit(lambda key: jax.tree.map(lambda p: jax.random.normal(key, p.shape), shapes))(jax.random.key(1))
    nets, by, at = engine.Nets(params), engine.Engine(model, devices.mesh()), engine.places(4)

    def guide(labels, **how):
        return requests.guides(asked._replace(**how), data.spec.labels, labels)

    whole = guide(data.labels[:4])
    drawn = [
        by.draw(nets, whole, by.noise(at), at, rows)
        for rows in (by.rows(asked, whole), requests.rows(asked, model.schedule))
    ]
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0][0] != drawn[0][1:]).any()
    assert len(by.rows(asked, whole).t) == 1
    for other in (guide(np.zeros_like(data.labels[:4])), guide(data.labels[:4], guidance=2.0)):
        assert len(by.rows(asked, other).t) == 5
    # Led away from what the U-Net says of open labels, it would be torn.
    word = data.spec.labels.words[np.argmax(data.labels[0] > 0)]
    led = [guide(data.labels[:1], **how) for how in ({"guidance": 3.0}, {"weights": {word: 2.0}})]
    for other in led:
        made = by.draw(nets, other, by.noise(engine.places(1)), engine.places(1), by.rows(asked, other))
        np.testing.assert_array_equal(made, drawn[0][:1])


def test_a_picture_is_not_changed_by_a_label_that_says_every_pixel(trained, monkeypatch):
    model, black = ddpm_jax.load(trained), np.zeros((16, 16, 3), np.uint8)
    assert model.edit(black, "Cat", complete=True).shape == (1, 16, 16, 3)
    monkeypatch.setattr(type(model.model), "paints", True)
    for call in (
        lambda: model.edit(black, "Cat", complete=True),
        lambda: model.inpaint(black, np.eye(16, dtype=bool), "Cat", complete=True),
        lambda: model.trajectory("Cat", picture=black, strength=0.5, complete=True),
    ):
        with pytest.raises(ValueError, match=r"a complete label says every pixel .* leave words open"):
            call()
    assert model.edit(black, "Cat").shape == (1, 16, 16, 3)


def test_each_set_of_layers_learns_from_its_own_pictures_alone(tmp_path):
    config = runtime.jsonable(tiny_config(net__word_layers=2, net__word_sets="Elf").to_dict())
    data = datasets.load("avatars", root=str(tmp_path))
    model, elf = build.make_model(config, data.spec), data.spec.labels.index("Elf")
    params, learn = jax.jit(model.init)(jax.random.key(0)), jax.jit(jax.grad(lambda *given: model.loss(*given)[0]))
    for place, chosen in ((np.argmax(data.labels[:, elf] < 0), 0), (np.argmax(data.labels[:, elf] > 0), 1)):
        given = jnp.array(data.images[place]), jnp.array(data.labels[place]), jnp.float32(0.5), jax.random.key(2)
        moved = np.abs(learn(params, *given)["word_layers"]["maps"]).max(axis=(0, 2, 3, 4))
        assert moved[chosen] > 0 == moved[1 - chosen]


def test_calibration_makes_words_and_pairs_of_them_as_frequent_as_they_are_and_moves_nothing_else():
    rng = np.random.default_rng(0)
    wanted = rng.random((5000, 4)) < (0.02, 0.1, 0.5, 0.9)
    wanted[:, 1] |= wanted[:, 2] & (rng.random(5000) < 0.3)
    wanted = np.where(wanted, 1, -1).astype(np.int8)

    @functools.partial(jax.vmap, in_axes=(None, 0))
    def draw(params, key):  # too rare, as by exposure bias, and each word by itself but for what pairs say of it
        label = jnp.full(4, -1, jnp.int8)
        for word, noise in enumerate(jax.random.logistic(key, (4,))):
            logit = params["open"]["bias"][word] + (label > 0) @ params["pairs"]["kernel"][:, word] - 0.7
            label = label.at[word].set(jnp.where(noise < logit, 1, -1))
        return label

    def found(params):
        made = np.asarray(draw(params, jax.random.split(jax.random.key(9), 20_000))) > 0
        share = made.mean(axis=0)
        return np.log(share / (1 - share)), made[made[:, 2], 1].mean()

    share = (wanted > 0).mean(axis=0)
    start = jnp.asarray(np.log(share / (1 - share)), jnp.float32)
    before = {
        "open": {"bias": start, "kernel": jnp.ones(2)},
        "pairs": {"kernel": jnp.zeros((4, 4))},
        "said": jnp.ones(3),
    }
    after = prior.calibrate(before, wanted, draw, jax.random.key(1))
    (odds_before, apart), (odds, together) = found(before), found(after)
    np.testing.assert_allclose(odds_before, start - 0.7, atol=0.15)
    np.testing.assert_allclose(odds, start, atol=0.15)
    assert apart < 0.2 and together == pytest.approx((wanted[wanted[:, 2] > 0, 1] > 0).mean(), abs=0.08)
    assert after["said"] is before["said"] and after["open"]["kernel"] is before["open"]["kernel"]
    assert not after["pairs"]["kernel"].diagonal().any()
