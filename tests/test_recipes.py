"""Jobs: what they draw, what a picture says of itself, and pictures made again."""

import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import images, recipes, runtime, streaming


@pytest.fixture(scope="module")
def model(trained):
    """The generator of the tiny run."""
    return ddpm_jax.load(trained)


JOBS = {
    "sheet": ({"label": "Cat", "n": 3}, (3, 8)),
    "grid": ({"rows": ["Cat", "Robot"], "columns": ["", "Cap", "Crown"], "label": "Pipe"}, (6, 3)),
    "group": ({"label": "Cat", "group": "hat"}, (4, 10)),
    "sweep": ({"label": "Cat", "n": 2, "key": "guidance", "values": [0.0, 1.0, 3.0]}, (6, 2)),
    "between": ({"label": "Cat", "other": "Robot", "n": 4}, (4, 4)),
    "variations": ({"label": "Cat", "n": 3, "spread": 0.3}, (3, 8)),
    "swap": ({"label": "Cat, Cap", "out": ["Cap"], "into": ["Crown"]}, (2, 2)),
    "reroll": ({"label": "Cat, Cap", "keep": ["Cap"], "n": 3}, (3, 8)),
    "edit": ({"picture": recipes.packed(np.full((16, 16, 3), 90, np.uint8)), "label": "Cat", "n": 2}, (3, 8)),
}


def write(model, job, path, scale=3):
    images.write_png(recipes.picture(recipes.draw(model, job), scale=scale), path, model.recipe(job=job, scale=scale))


@pytest.mark.parametrize("kind", recipes.KINDS)
def test_every_kind_of_job_is_drawn_and_made_again_bit_for_bit(model, tmp_path, kind):
    arguments, (n, columns) = JOBS[kind]
    job = {"kind": kind, **arguments, "seed": 4, "steps": 3}
    drawn = recipes.draw(model, job)
    assert drawn.pictures.shape == (n, 16, 16, 3) and drawn.columns == columns
    write(model, job, tmp_path / "a.png")
    recipe, _, comparison = recipes.again(model, tmp_path / "a.png")
    assert comparison == "the same picture, bit for bit" and recipe["job"]["kind"] == kind


def test_a_grid_is_the_labels_it_says(model):
    drawn = recipes.draw(model, {"kind": "grid", **JOBS["grid"][0]})
    labels = [
        "Pipe, Cat",
        "Pipe, Cat, Cap",
        "Pipe, Cat, Crown",
        "Pipe, Robot",
        "Pipe, Robot, Cap",
        "Pipe, Robot, Crown",
    ]
    np.testing.assert_array_equal(drawn.pictures, model.sample(labels))


def test_rows_of_a_sweep_differ_in_the_setting_alone(model):
    drawn = recipes.draw(model, {"kind": "sweep", **JOBS["sweep"][0]})
    assert list(drawn.row_names) == ["guidance 0.0", "guidance 1.0", "guidance 3.0"]
    np.testing.assert_array_equal(drawn.pictures[2:4], model.sample("Cat", n=2))


def test_a_mask_keeps_what_is_black(model):
    given = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    mask = np.zeros((16, 16, 3), np.uint8)
    mask[:, 8:] = (60, 0, 0)  # whatever is not black
    job = {"kind": "edit", "picture": recipes.packed(given), "mask": recipes.packed(mask), "label": "Cat", "n": 2}
    pictures = recipes.draw(model, job).pictures
    np.testing.assert_array_equal(pictures[0], given)
    np.testing.assert_array_equal(pictures[1:, :, :8], [given[:, :8]] * 2)
    assert (pictures[1:, :, 8:] != given[:, 8:]).any()
    with pytest.raises(runtime.BadInput, match="the mask is all black, so that nothing would be painted"):
        recipes.draw(model, {**job, "mask": recipes.packed(0 * mask)})
    with pytest.raises(runtime.BadInput, match="a sketch is made a digit of MNIST, and this model draws avatars"):
        recipes.draw(model, {**job, "sketch": True})


def test_a_picture_too_large_to_be_read_again_is_not_drawn(model):
    recipes.check_size(model, {"kind": "sheet", "n": 1000}, 8)
    with pytest.raises(runtime.BadInput, match="that would be 18432000 pixels, and at most 16777216 are drawn"):
        recipes.check_size(model, {"kind": "sheet", "n": 2000}, 6)
    with pytest.raises(runtime.BadInput, match="at most 16777216 are drawn"):
        recipes.check_size(model, {"kind": "grid", "rows": "ab", "columns": "abc"}, 4, steps=1000)


def test_raw_weights_and_damaged_recipes_are_told_apart(model, trained, tmp_path):
    write(ddpm_jax.load(trained, "raw"), {"kind": "sheet", **JOBS["sheet"][0]}, tmp_path / "raw.png")
    with pytest.raises(runtime.BadInput, match=r"raw.png was made with raw weights, and these are ema"):
        recipes.again(model, tmp_path / "raw.png")
    for job in ([], {"kind": "sheet", "label": "Cat", "n": 1, "weights": [1]}):
        image = images.to_pil(np.zeros((4, 4, 3), np.uint8))
        images.write_png(image, tmp_path / "bad.png", model.recipe(job=job, scale=3))
        with pytest.raises(runtime.BadInput, match=r"the recipe of .*bad.png is damaged"):
            recipes.again(model, tmp_path / "bad.png")


def test_a_picture_that_would_come_out_otherwise_is_told_apart(model, tmp_path):
    job = {"kind": "sheet", **JOBS["sheet"][0]}
    drawn = recipes.picture(recipes.draw(model, {**job, "seed": 1}), scale=3)
    images.write_png(drawn, tmp_path / "a.png", {**model.recipe(job=job, scale=3), "device": "abacus"})
    _, _, comparison = recipes.again(model, tmp_path / "a.png")
    assert "of its pixels differ (made on device abacus, now cpu)" in comparison


def test_a_recipe_of_another_checkpoint_is_refused(model, trained, tmp_path):
    write(model, {"kind": "sheet", **JOBS["sheet"][0]}, tmp_path / "a.png")
    earlier = ddpm_jax.load(trained / "checkpoints" / "4")
    with pytest.raises(runtime.BadInput, match=r"was made by checkpoint \w{12}, step 8; this is \w{12}, step 4"):
        recipes.again(earlier, tmp_path / "a.png")
    images.write_png(images.to_pil(np.zeros((4, 4, 3), np.uint8)), tmp_path / "b.png")
    write(model.led_away_from(earlier), {"kind": "sheet", **JOBS["sheet"][0]}, tmp_path / "c.png")
    with pytest.raises(runtime.BadInput, match=r"c.png was led away from checkpoint \w{12}; give that, too"):
        recipes.again(model, tmp_path / "c.png")
    old = {**model.led_away_from(earlier).recipe(job=JOBS["sheet"][0], scale=1), "settings": {"guidance": 2.0}}
    images.write_png(images.to_pil(np.zeros((4, 4, 3), np.uint8)), tmp_path / "d.png", old)
    with pytest.raises(runtime.BadInput, match=r"d.png was led away by guidance, which is called autoguidance now"):
        recipes.again(model.led_away_from(earlier), tmp_path / "d.png")
    with pytest.raises(runtime.BadInput, match=r"b.png carries no recipe of this program"):
        recipes.again(model, tmp_path / "b.png")


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"kind": "poem"}, "unknown kind of picture 'poem'; choose one of sheet, grid"),
        ({"kind": "sheet", "label": "Cat"}, "the job is not one for sheet"),
        ({"kind": "edit", "label": "Cat", "n": 1, "picture": "?"}, "the recipe's picture is not base64"),
        ({"kind": "edit", "label": "Cat", "n": 1, "picture": "AAAA"}, "the recipe's picture is not a PNG file"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(model, job, message):
    with pytest.raises(runtime.BadInput, match=message):
        recipes.draw(model, job)


def test_an_animation_ends_in_the_picture(model):
    for kind in ("sheet", "grid"):
        job = {"kind": kind, **JOBS[kind][0], "steps": 4}
        frames, columns = recipes.frames(model, job)
        assert len(frames) == 4 and columns == JOBS[kind][1][1]
        np.testing.assert_array_equal(frames[-1], recipes.draw(model, job).pictures)
    frames, _ = recipes.frames(model, {"kind": "between", **JOBS["between"][0]})
    assert frames.shape == (4, 1, 16, 16, 3)
    with pytest.raises(runtime.BadInput, match="an animation shows a sheet, an edit, a grid, or the way between"):
        recipes.frames(model, {"kind": "swap", **JOBS["swap"][0]})


@pytest.mark.parametrize("n", [0, -1, 10**9])
def test_a_stream_of_no_pictures_or_too_many_is_refused(model, tmp_path, n):
    with pytest.raises(ValueError, match=f"n is {n}; it must be from 1 to 10000000"):
        next(streaming.stream(model, tmp_path / "many", label="Cat", n=n))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["many", "many.npz"])
def test_a_stream_is_the_sheet_and_goes_on_after_a_cut(model, tmp_path, monkeypatch, name):
    monkeypatch.setattr(streaming, "CHUNK", 2)
    out, job = tmp_path / name, {"label": "Cat", "n": 5, "seed": 3, "sampler": "ddpm"}
    begun = streaming.stream(model, out, **job)
    assert next(begun) == 2
    begun.close()
    part = out if name == "many" else tmp_path / "many.npz.part"
    first = (part / "000000.png").stat().st_mtime_ns
    rest = streaming.stream(model, out, **job)
    assert next(rest) == 2 and (part / "000000.png").stat().st_mtime_ns == first
    assert list(rest) == [4, 5]
    if name == "many":
        found = np.stack([images.read_png(out / f"{i:06d}.png") for i in range(5)])
        with pytest.raises(runtime.BadInput, match="another job's pictures; choose another --out"):
            next(streaming.stream(model, out, **{**job, "seed": 4}))
    else:
        found = np.load(out)["pictures"]
        assert not part.exists()
    label = job.pop("label")
    np.testing.assert_array_equal(found, model.sample(label, **job))
