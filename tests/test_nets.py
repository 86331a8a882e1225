"""Facts about the network: its parts against plain formulas, one example against the batch, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ddpm_jax import nets, step
from ddpm_jax.nets import blocks, unet
from ddpm_jax.nets.words import GROUND, WordLayers, WordMaps

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "groups": 4, "word_maps": 4}


def inputs(key, n=3, shape=(8, 8, 3), words=5):
    """A batch of noisy images, times and labels."""
    x_key, t_key, label_key = jax.random.split(key, 3)
    label = jax.random.randint(label_key, (n, words), -1, 2).astype(jnp.int8)
    return jax.random.normal(x_key, (n, *shape)), jax.random.uniform(t_key, (n,)), label


def make(shape=(8, 8, 3), words=5, **fields):
    """A net, and parameters that are nowhere zero: fresh nets start with silent blocks."""
    net = unet.UNet(**{"out_channels": 3, **SMALL, **fields})
    blank = jnp.zeros(shape), jnp.float32(0.5), jnp.zeros(words, jnp.int8)
    params = jax.jit(net.init)(jax.random.key(0), *blank)["params"]
    rng = np.random.default_rng(0)  # which compiles nothing
    return net, jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)


def test_space_to_depth_keeps_every_pixel_of_a_patch_together_and_has_an_inverse():
    x = jnp.arange(4 * 6 * 2.0).reshape(4, 6, 2)
    deep = blocks.space_to_depth(x, 2)
    assert deep.shape == (2, 3, 8)
    assert set(np.asarray(deep[0, 0]).tolist()) == set(np.asarray(x[:2, :2]).ravel().tolist())
    np.testing.assert_array_equal(blocks.depth_to_space(deep, 2), x)


def test_group_norm_of_one_example_is_the_textbook_formula():
    x = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (4, 6, 8))
    norm = blocks.GroupNorm(4)
    params = norm.init(jax.random.key(1), x)
    groups = np.asarray(x, np.float64).reshape(24, 4, 2)
    expected = (groups - groups.mean((0, 2), keepdims=True)) / np.sqrt(groups.var((0, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm.apply(params, x), expected.reshape(4, 6, 8), atol=2e-5)
    scale, shift = jnp.arange(8.0) / 8, jnp.arange(8.0)
    scaled = norm.apply(params, x, scale, shift)
    np.testing.assert_allclose(
        scaled, expected.reshape(4, 6, 8) * (1 + scale)[None, None] + shift[None, None], atol=5e-5
    )


def test_group_norm_keeps_float32_statistics_for_bfloat16_activations():
    x = (100.0 + jax.random.normal(jax.random.key(0), (8, 8, 4))).astype(jnp.bfloat16)
    norm = blocks.GroupNorm(2)
    out = norm.apply(norm.init(jax.random.key(1), x), x)
    assert out.dtype == jnp.bfloat16
    assert abs(float(out.astype(jnp.float32).std()) - 1) < 0.02


def test_group_moments_are_those_of_each_group_for_every_channel_of_it():
    x = jax.random.normal(jax.random.key(0), (3, 5, 6)) + jnp.arange(6.0)[None, None]
    mean, variance = blocks._group_moments(x, 2)
    groups = np.asarray(x, np.float64).reshape(15, 2, 3)
    np.testing.assert_allclose(mean, np.repeat(groups.mean((0, 2)), 3), rtol=1e-5)
    np.testing.assert_allclose(variance, np.repeat(groups.var((0, 2)), 3), rtol=1e-5)


def test_the_colour_classifier_has_a_products_gradients_one_example_or_many():
    x, kernel = jax.random.normal(jax.random.key(0), (3, 2, 2, 4)), jax.random.normal(jax.random.key(1), (4, 5))

    def loss(product, x, kernel):
        return jnp.sum(jnp.sin(product(x, kernel)))

    for value, product in ((x[0], blocks._product), (x, jax.vmap(blocks._product, in_axes=(0, None)))):
        ours = jax.grad(loss, (1, 2))(product, value, kernel)
        for one, other in zip(ours, jax.grad(loss, (1, 2))(jnp.matmul, value, kernel), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_time_features_tell_the_ends_and_neighbours_apart():
    features = jax.vmap(lambda t: blocks.time_features(t, 32))(jnp.array([0.0, 0.001, 0.5, 1.0]))
    distances = np.linalg.norm(np.asarray(features)[:, None] - np.asarray(features)[None], axis=-1)
    assert distances[0, 1] > 0.5 and (distances + np.eye(4) * 9).min() > 0.5


def test_an_unspecified_word_adds_no_map_and_states_have_maps_of_their_own():
    maps = WordMaps((2, 2, 3), jnp.dtype("float32"))
    params = {"params": {"present": jnp.ones((2, 2, 2, 3)), "absent": jnp.full((2, 2, 2, 3), 10.0)}}
    sums = [
        float(maps.apply(params, jnp.array(label, jnp.int8)).mean()) for label in ([0, 0], [1, 0], [1, -1], [-1, -1])
    ]
    assert sums == [0.0, 1.0, 11.0, 20.0]


def test_absent_maps_start_at_zero():
    maps = WordMaps((2, 2, 3), jnp.dtype("float32"))
    label = -jnp.ones(4, jnp.int8)
    assert not maps.apply(maps.init(jax.random.key(0), label), label).any()


@pytest.mark.parametrize(
    "fields", [{"stem": 1}, {"stem": 2}, {"head_channels": 6, "out_channels": 11}, {"attention": (2,)}]
)
def test_the_output_has_the_image_size_and_the_asked_channels(fields):
    def out():
        net, params = make(**{"stem": 2, **fields})
        return jax.vmap(lambda *a: net.apply({"params": params}, *a))(*inputs(jax.random.key(1)))

    shape = jax.eval_shape(out)
    assert shape.shape == (3, 8, 8, fields.get("out_channels", 3)) and shape.dtype == jnp.float32


def test_attention_runs_at_the_named_heights_alone():
    shapes = jax.eval_shape(lambda: make(stem=1, multipliers=(1, 2, 2), attention=(4,))[1])
    named = {name for name in shapes if name.endswith("attention")}
    assert named == {"down_1_0_attention", "up_1_0_attention"}


def one_example(net, params):
    """The net applied to the first example of `inputs`, some of it replaced."""
    x, t, label = (part[0] for part in inputs(jax.random.key(1)))

    compiled = jax.jit(net.apply, static_argnums=4)

    def apply(seed=0, deterministic=True, x=x, t=t, label=label):
        rngs = {"dropout": jax.random.key(seed)}
        return compiled({"params": params}, x, t, label, deterministic, rngs=rngs)

    return apply, x, t, label


def test_every_input_reaches_the_output():
    apply, x, t, label = one_example(*make())
    for changed in (apply(x=x + 0.1), apply(t=t + 0.1), apply(label=-label)):
        assert jnp.abs(changed - apply()).max() > 1e-4


def test_dropout_acts_in_training_only():
    apply, *_ = one_example(*make(dropout=0.5))
    np.testing.assert_array_equal(apply(seed=0), apply(seed=1))
    assert jnp.abs(apply(seed=0, deterministic=False) - apply(seed=1, deterministic=False)).max() > 1e-3


def test_bfloat16_activations_give_nearly_the_same_float32_output():
    net, params = make()
    exact = one_example(net, params)[0]()
    rough = one_example(net.copy(dtype=jnp.dtype("bfloat16")), params)[0]()
    assert rough.dtype == jnp.float32
    assert 0 < jnp.abs(rough - exact).max() < 0.05 * jnp.abs(exact).max()


def cost(function, *args):
    """FLOPs of a compiled function."""
    analysis = jax.jit(function).lower(*args).compile().cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


def test_remat_computes_more_and_changes_no_number():
    net, params = make()
    x, t, label = (part[0] for part in inputs(jax.random.key(1)))

    def gradient(net):
        return jax.grad(lambda p: jnp.square(net.apply({"params": p}, x, t, label)).mean())

    plain, again = gradient(net), gradient(net.copy(remat=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), jax.jit(plain)(params), jax.jit(again)(params)
    )
    assert cost(again, params) > 1.05 * cost(plain, params)


def batched(params, x, t, label, groups):
    """The same net on a whole batch with flax's own layers: [n, h, w, c] throughout."""

    def dense(name, x):
        p = params
        for part in name.split("/"):
            p = p[part]
        return nn.Dense(p["kernel"].shape[-1]).apply({"params": p}, x)

    def conv(p, x):
        return nn.Conv(p["kernel"].shape[-1], (3, 3)).apply({"params": p}, x)

    def norm(p, x):
        return nn.GroupNorm(groups, epsilon=1e-5).apply({"params": p}, x)

    def block(name, x):
        p = params[name]
        scale, shift = jnp.split(dense(f"{name}/scale_shift", embedding)[:, None, None], 2, axis=-1)
        h = conv(p["conv_in"], nn.silu(norm(p["norm_in"], x)))
        h = conv(p["conv_out"], nn.silu(norm(p["norm_out"], h) * (1 + scale) + shift))
        return h + (dense(f"{name}/skip", x) if "skip" in p else x)

    deep, wide = (jax.vmap(lambda x, f=f: f(x, 2)) for f in (blocks.space_to_depth, blocks.depth_to_space))
    states = jnp.concatenate([label > 0, label < 0], axis=1).astype(jnp.float32)
    features = jax.vmap(lambda t: blocks.time_features(t, 2 * params["stem"]["kernel"].shape[-1]))(t)
    embedding = nn.silu(dense("embedding", nn.silu(dense("time_in", features) + dense("label_in", states))))
    words = params["word_maps"]
    maps = jnp.tensordot((label > 0).astype(jnp.float32), words["present"], 1)
    maps += jnp.tensordot((label < 0).astype(jnp.float32), words["absent"], 1)
    x = conv(params["stem"], jnp.concatenate([deep(x), maps], axis=-1))
    first = block("down_0_0", x)
    second = block("down_1_0", dense("down_1", deep(first)))
    x = block("up_1_0", jnp.concatenate([block("middle", second), second], axis=-1))
    x = block("up_0_0", jnp.concatenate([wide(dense("up_1", x)), first], axis=-1))
    return wide(conv(params["out"], nn.silu(norm(params["norm_out"], x))))


def test_the_vmapped_net_equals_the_batched_one_in_numbers_and_flops():
    net, params = make(shape=(16, 16, 3), channels=16)
    x, t, label = inputs(jax.random.key(1), n=4, shape=(16, 16, 3))

    def loss(apply):
        return jax.value_and_grad(lambda p: jnp.square(apply(p) - x).mean())

    one = loss(lambda p: jax.vmap(lambda *a: net.apply({"params": p}, *a))(x, t, label))
    all_at_once = loss(lambda p: batched(p, x, t, label, SMALL["groups"]))
    (value, gradient), (expected, expected_gradient) = jax.jit(one)(params), jax.jit(all_at_once)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, expected_gradient)
    assert abs(cost(one, params) / cost(all_at_once, params) - 1) < 0.03


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((28, 28, 1), {"multipliers": (1, 1, 1, 1)}, "28 is not divisible by 8; use at most 3 levels"),
        ((24, 24, 3), {"stem": 2, "multipliers": (1, 1, 1, 1, 1)}, "24 is not divisible by 32; use at most 3 levels"),
        ((24, 24, 3), {"stem": 5}, "net.stem 5 does not divide the image size 24; use 1"),
        (
            (24, 24, 3),
            {"channels": 56, "groups": 8, "attention": (24,), "attention_head": 18},
            "56 channels do not divide into 3 attention heads; change net.attention_head",
        ),
        ((24, 24, 3), {"channels": 20, "groups": 8}, "net.groups 8 does not divide the 20 channels of a level"),
        (
            (32, 32, 3),
            {"stem": 2, "multipliers": (1, 1), "attention": (8, 6)},
            "net.attention 6 is no level's height; they are 16, 8$",
        ),
    ],
)
def test_a_shape_that_the_net_cannot_take_is_refused(shape, fields, message):
    net = unet.UNet(**{"out_channels": 3, "multipliers": (1,), "stem": 1, "channels": 8, "groups": 4, **fields})
    with pytest.raises(ValueError, match=message):
        net.check_shape(shape)


def test_a_net_takes_every_shape_unless_it_says_which():
    nets.Net().check_shape((7, 5, 3))


def paint(label, *, sets=(), ground=(), deterministic=True, clear=True, **params):
    """Features of the pixel that a label paints, d = 1, and their rows; if `clear`, no word hides others."""
    layers = WordLayers((1, 1, 1), 4, sets, jnp.dtype("float32"), ground)
    words = len(label)
    start = layers.init(jax.random.key(0), jnp.zeros(words, jnp.int8))["params"]
    if clear:
        start |= {"opacity_everywhere": jnp.full_like(start["opacity_everywhere"], -40.0)}
    given = {name: jnp.asarray(value, jnp.float32).reshape(start[name].shape) for name, value in params.items()}
    features, rows = layers.apply({"params": {**start, **given}}, jnp.array(label, jnp.int8), deterministic)
    return np.asarray(features).ravel(), np.asarray(rows)


def test_words_paint_the_sum_of_their_maps_and_the_topmost():
    maps = {"maps": [1, 10, 100]}
    assert paint([1, 1, -1], **maps)[0] == pytest.approx([11, 11 / 3, 1])  # equal heights, and nothing's: a third each
    assert paint([1, 1, -1], **maps, heights=[0, 20, 40])[0] == pytest.approx([11, 10, 1])  # the third is not there
    assert paint([1, 1, -1], **maps, heights=[0, 20, 40], order=[31, 0, 0])[0] == pytest.approx([11, 1, 1], rel=1e-2)
    assert paint([1, -1, -1], **maps, heights=[-20, 0, 0])[0] == pytest.approx([1, 0, 1], abs=1e-6)
    assert paint([1, 1, -1], **maps, heights=[0, 1e4, 1e5])[0] == pytest.approx([11, 10, 1])  # no overflow


def test_the_sum_fades_as_far_as_the_topmost_is_opaque():
    layers = {"maps": [1, 10, 100], "canvas": [5], "heights": [0, 20, 20], "clear": False}  # the second above the first
    assert paint([1, 1, -1], **layers, opacity=[-40, 40, -40])[0] == pytest.approx([10, 10, 1])
    below = paint([1, 1, -1], **layers, opacity=[40, -40, 40])[0]
    assert below == pytest.approx([16, 10, 1])  # its opacity does not count
    half = paint([1, 1, -1], **layers, opacity_everywhere=[0, 0, 0])[0]
    assert half == pytest.approx([(16 + 10) / 2, 10, 1])
    start = paint([1, 1, -1], **layers)[0]
    assert 10 < start[0] < 10.5  # nearly hidden, at first
    everywhere = paint([1, 1, -1], **layers, opacity=[0, -40, 0], opacity_everywhere=[0, 100, 0])
    assert everywhere[0] == pytest.approx([10, 10, 1])
    alike = paint([-1, 1, 1], **layers, opacity=[0, 40, -40])[0]
    assert alike == pytest.approx([(115 + 55) / 2, 55, 1])  # one of two at the same height is opaque


@pytest.mark.parametrize("name", ["heights", "opacity"])
def test_heights_and_opacity_spread_to_the_pixels_around(name):
    layers = WordLayers((5, 5, 1), 4, (), jnp.dtype("float32"))
    label = jnp.array([1, 1], jnp.int8)
    params = layers.init(jax.random.key(0), label)["params"]
    maps = jnp.broadcast_to(jnp.array([1.0, 10.0])[:, None, None, None, None], (2, 1, 5, 5, 1))
    params |= {"maps": maps, "heights": params["heights"].at[1].set(1.0)}

    def features(value):
        raised = params | {name: params[name].at[1, 0, 1, 2].add(value)}
        return layers.apply({"params": raised}, label)[0]

    around = np.zeros((5, 5), bool)
    around[0:3, 1:4] = True
    np.testing.assert_array_equal((features(9.0) != features(0.0)).any(axis=-1), around)


def test_a_word_of_the_sets_changes_what_the_others_paint():
    maps = {"maps": [[1, 2], [10, 20], [100, 200]], "sets": (2,)}  # of each word in the first and the second set
    assert paint([1, 1, -1], **maps)[0][0] == pytest.approx(11)
    assert paint([1, -1, 1], **maps)[0][0] == pytest.approx(202)


def test_a_word_that_its_set_has_not_learned_is_painted_as_in_another_but_not_in_training():
    maps = {"maps": [[1, 2], [10, 0], [0, 200]], "sets": (2,), "heights": [[0, 0], [5, 9], [0, 5]]}
    features = paint([-1, 1, 1], **maps)[0]
    assert features[0] == pytest.approx(210) and features[1] == pytest.approx(105, rel=0.01)  # as high as in its own
    assert paint([-1, 1, 1], deterministic=False, **maps)[0][0] == pytest.approx(200)
    assert paint([1, 1, -1], **maps)[0][0] == pytest.approx(11)
    others = {"maps": [[1, 2], [0, 20], [0, 0]], "sets": (2,)}  # the second of the other set, the third of none
    assert paint([1, 1, -1], **others)[0][0] == pytest.approx(21)
    assert paint([-1, -1, 1], **others)[0][0] == 0


def test_words_of_the_ground_lie_under_the_others_at_first():
    layers = WordLayers((2, 2, 3), 4, (), jnp.dtype("float32"), (0, 2))
    params = layers.init(jax.random.key(0), jnp.ones(4, jnp.int8))["params"]
    np.testing.assert_array_equal(params["order"].ravel(), [GROUND, 0, GROUND, 0])
    maps = jax.random.normal(jax.random.key(1), params["maps"].shape)
    features = layers.apply({"params": {**params, "maps": maps}}, jnp.array([1, 1, -1, -1], jnp.int8))[0]
    np.testing.assert_allclose(features[..., 3:6], maps[1, 0] / 2, atol=0.05)  # the second word's and nothing's


def test_the_ground_gives_its_tones_to_the_roles_of_a_pixel():
    roles, tones = np.arange(16.0).reshape(2, 8), np.arange(64.0).reshape(2, 8, 4)  # of two sets; of two words
    known = {"sets": (3,), "ground": (0, 2), "roles": roles, "tones": tones}
    features, rows = paint([1, 1, -1, -1], **known)
    assert features == pytest.approx([0, 0, *roles[0], 1])
    np.testing.assert_array_equal(rows[2:-1], tones[0])
    features, rows = paint([1, -1, 1, 1], **known)
    assert features == pytest.approx([0, 0, *roles[1], 1])
    np.testing.assert_array_equal(rows[2:-1], tones.sum(axis=0))
    hidden = paint([1, 1, -1, -1], **known, heights=[[0, 0], [20, 20], [0, 0], [0, 0]], opacity_everywhere=[40] * 4)
    assert hidden[0][:-1] == pytest.approx(0, abs=1e-6)  # by the second word, which is none of the ground
    assert not paint([1, 1, 0, -1], **known)[1][2:].any()


@pytest.mark.parametrize("seed", range(3))
def test_a_face_that_was_never_seen_bare_is_bare_in_its_own_colour(seed):
    """Three pixels, six words: faces 0 to 3, each of its own colour, a hat on the first pixel, a scarf on the last."""
    hat, scarf = 4, 5

    def label(*present):
        return np.where(np.isin(np.arange(6), present), 1, -1).astype(np.int8)

    worn = [(face, *things) for face in range(4) for things in ((), (hat,), (scarf,), (hat, scarf))]
    worn = [words for words in worn if words[0] != 3 or hat in words]  # the last face always wears the hat
    pictures = jnp.array([[hat if hat in w else w[0], w[0], scarf if scarf in w else w[0]] for w in worn])
    layers = WordLayers((1, 3, 4), 6, (), jnp.dtype("float32"), (0, 1, 2, 3))

    def logits(params, label, deterministic):
        features, rows = layers.apply({"params": params["word_layers"]}, label, deterministic)
        return (features @ rows)[0]

    def loss(params):
        raw = jax.vmap(logits, in_axes=(None, 0, None))(params, np.stack([label(*w) for w in worn]), False)
        return optax.softmax_cross_entropy_with_integer_labels(raw, pictures).mean()

    adam = step.scale_by_adam(b1=0.9, b2=0.999, layer_rate=60.0)

    @jax.jit
    def learn(params, state):
        change, state = adam.update(jax.grad(loss)(params), state)
        return jax.tree.map(lambda p, u: p - 1e-3 * u, params, change), state

    params = {"word_layers": layers.init(jax.random.key(seed), label(0), False)["params"]}
    state = adam.init(params)
    for _ in range(60):
        params, state = learn(params, state)
    assert loss(params) < 1e-3
    assert logits(params, label(3), True).argmax(-1).tolist() == [3, 3, 3]


def test_the_canvas_lies_under_every_complete_label_and_words_start_without_a_trace():
    assert paint([1, -1, 1], canvas=[5])[0] == pytest.approx([5, 0, 1])
    assert paint([1, 1, -1], canvas=[5], maps=[1, 10, 100])[0] == pytest.approx([16, 11 / 3, 1])
    assert paint([1, 1, 0], canvas=[5], maps=[1, 10, 100])[0] == pytest.approx([0, 0, 1])


def test_word_colours_are_those_of_the_words_present():
    colours = np.arange(12.0).reshape(3, 4)
    rows = paint([1, -1, 1], word_colours=colours)[1]
    assert rows.shape == (3, 4) and rows[-1] == pytest.approx(colours[0] + colours[2])


def test_a_label_that_leaves_a_word_open_paints_nothing():
    features, rows = paint([1, 0, -1], maps=[1, 10, 100], word_colours=np.ones((3, 4)))
    assert features == pytest.approx([0, 0, 1]) and not rows[-1].any()


def test_with_word_layers_a_complete_label_is_painted_by_its_words_and_others_by_the_u_net():
    fields = {
        "word_layers": 2,
        "word_sets": (0,),
        "word_ground": (0, 1),
        "head_channels": 6,
        "out_channels": 11,
        "multipliers": (1,),
    }
    net, params = make(**fields)
    x, t, _ = (part[0] for part in inputs(jax.random.key(1)))
    whole, open_to_more = jnp.array([1, 1, 1, -1, -1], jnp.int8), jnp.array([1, 1, 1, -1, 0], jnp.int8)

    gradient = jax.jit(jax.grad(lambda p, label: jnp.square(net.apply({"params": p}, x, t, label)).mean()))

    def silent(label):
        parts = gradient(params, label).items()
        return {name for name, part in parts if not any(g.any() for g in jax.tree.leaves(part))}

    assert silent(whole) == set(params) - {"word_layers"}
    assert silent(open_to_more) == {"word_layers"}
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient(params, whole)["word_layers"])) > 0
    said = jax.jit(jax.vmap(lambda noise: net.apply({"params": params}, noise, t, whole)))(jnp.stack([x, 2 * x]))
    np.testing.assert_array_equal(*said)
    assert "word_layers" not in make(head_channels=6)[1]
