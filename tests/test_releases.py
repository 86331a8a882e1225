"""Released models: what `scripts/release.py` writes; and all in the package are whole, small and described."""

import os
import re
import shutil

import jax
import numpy as np
import pytest
from conftest import script

import ddpm_jax
from ddpm_jax import archive, datasets, releases, runtime
from ddpm_jax.dashboard import runs
from ddpm_jax.datasets import raw
from ddpm_jax.evaluation import classifier, exact

SHIPPED = sorted(path for path in releases.FOLDER.glob("*") if path.is_dir())
every_release = pytest.mark.parametrize("folder", SHIPPED, ids=[path.name for path in SHIPPED])
MIRROR = os.environ.get(raw.MIRROR, "")


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A folder of releases in which there is nothing yet."""
    monkeypatch.setattr(releases, "FOLDER", tmp_path / "pretrained")
    return tmp_path / "pretrained"


def test_a_released_model_has_the_averages_alone_as_halves_and_draws_what_they_say(trained, own, capsys):
    assert script("release").main([f"--checkpoint={trained}", "--name=faces"]) == 0
    assert str(own / "faces") in capsys.readouterr().out
    model, first = ddpm_jax.load("faces"), ddpm_jax.load(trained)
    assert {name.partition("/")[0] for name in model.meta["checksums"]} == {"ema"}
    assert model.meta["released_from"] == first.meta["sha256"] != model.meta["sha256"]
    # Halves on disk, single precision in use: the pictures are those of the same parameters, rounded so.
    assert archive.read_meta(own / "faces")["checksums"]["ema/stem/kernel"]["dtype"] == "float16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(model.params)} == {"float32"}
    first.params = jax.tree.map(lambda p: p.astype(np.float16).astype(np.float32), first.params)
    np.testing.assert_array_equal(model.sample("Cat", n=3), first.sample("Cat", n=3))
    assert own / "faces" == runs.models(own.parent)["faces"] and runs.newest(own / "faces", verified=True)
    with pytest.raises(runtime.BadInput, match="no part 'params'; it has ema"):
        ddpm_jax.load("faces", "raw")


def test_releasing_again_replaces_the_arrays_and_keeps_the_card(trained, own):
    releases.write({"w": np.zeros(3, np.float32)}, {"key": 1}, own / "faces")
    (own / "faces" / "README.md").write_text("a card")
    releases.write_model(archive.resolve(trained), own / "faces")
    assert ddpm_jax.load("faces").spec.name == "avatars"
    assert sorted(path.name for path in (own / "faces").iterdir() if path.name.islower()) == ["meta", "state"]
    assert (own / "faces" / "README.md").read_text() == "a card"


def test_a_model_of_another_net_than_this_version_builds_is_refused_by_name(trained, own):
    source = archive.resolve(trained)
    meta, arrays = archive.read_meta(source), archive.load_arrays(source)
    del arrays["stem"]["bias"]
    releases.write(arrays, {key: meta[key] for key in meta.keys() - set(releases._OWN)}, own / "old")
    with pytest.raises(runtime.BadInput, match="old was made by another version, whose net differs in stem/bias"):
        ddpm_jax.load("old")


def saved(folder, fingerprint="f", early=None, **arrays):
    """A checkpoint of one number an array, of a net whose keys say the same numbers."""
    net = {key: arrays.get(key, 0) for key in ("word_layers", "word_prior", "motifs")} | {"word_sets": ""}
    sampling = {"words": "net", "autoguidance": 1.2}
    config = {"data": {"root": "/somewhere"}, "init_from": "", "net": net, "sampling": sampling}
    config["optimizer"] = {"early": 2 if early else 0}
    if net["word_prior"]:
        config["sampling"] = {"words": "prior", "autoguidance": 1.0}
    releases.write(
        {name: {"w": np.full(2, value, np.float32)} for name, value in arrays.items()},
        {"config": config, "fingerprint": fingerprint, "step": 3},
        folder,
        early=early,
    )
    return folder


def test_layers_and_a_prior_that_were_learned_apart_are_put_beside_the_u_net(own, tmp_path):
    source, words = saved(tmp_path / "a", stem=1, word_layers=2), saved(tmp_path / "b", stem=5, word_layers=6)
    led = saved(tmp_path / "g", early={"stem": {"w": np.zeros(2, np.float32)}}, stem=1)
    releases.write_model(source, own / "both", words)
    made, meta = archive.load_arrays(own / "both"), archive.read_meta(own / "both")
    assert made["stem"]["w"][0] == 1 and made["word_layers"]["w"][0] == 6 == meta["config"]["net"]["word_layers"]
    assert meta["words_from"] == archive.read_meta(words)["sha256"] and meta["config"]["sampling"]["words"] == "net"
    releases.write_model(source, own / "both", saved(tmp_path / "e", word_prior=7))
    made, meta = archive.load_arrays(own / "both"), archive.read_meta(own / "both")
    assert made["word_layers"]["w"][0] == 2 and made["word_prior"]["w"][0] == 7 == meta["config"]["net"]["word_prior"]
    assert meta["config"]["sampling"] == {"words": "prior", "autoguidance": 1.0}  # which do not go with another
    releases.write_model(led, own / "both", saved(tmp_path / "f", motifs=8, word_prior=7))
    made, meta = archive.load_arrays(own / "both"), archive.read_meta(own / "both")
    assert made["motifs"]["w"][0] == 8 == meta["config"]["net"]["motifs"]
    assert archive.names_of(archive.read_meta(led), "early") and not archive.names_of(meta, "early")
    assert meta["config"]["optimizer"]["early"] == 0
    releases.write_model(led, own / "both", saved(tmp_path / "h", motifs=8))  # which does not draw by them
    assert archive.names_of(archive.read_meta(own / "both"), "early")
    with pytest.raises(runtime.BadInput, match="learned from other data"):
        releases.write_model(source, own / "both", saved(tmp_path / "c", "g", word_layers=6))
    with pytest.raises(runtime.BadInput, match="has no word layers and no word prior"):
        releases.write_model(source, own / "both", saved(tmp_path / "d", stem=5))


def test_an_early_net_is_released_with_the_model_that_is_led_away_from_it(trained, own, tmp_path):
    early = trained / "checkpoints" / "4"
    assert script("release").main([f"--checkpoint={trained}", "--name=faces", f"--early={early}"]) == 0
    model = ddpm_jax.load("faces")
    assert model.meta["config"]["optimizer"]["early"] == 4
    assert model.meta["early_from"] == archive.read_meta(early)["sha256"]
    halves = jax.tree.map(lambda p: p.astype(np.float16).astype(np.float32), ddpm_jax.load(early).params)
    jax.tree.map(np.testing.assert_array_equal, model.nets.weak, halves)
    releases.write_model(own / "faces", own / "again")  # it comes along
    jax.tree.map(np.testing.assert_array_equal, ddpm_jax.load("again").nets.weak, halves)
    with pytest.raises(runtime.BadInput, match="has a net of other shapes"):
        releases.write_model(archive.resolve(trained), own / "faces", early=saved(tmp_path / "a", stem=1))


def test_nothing_of_the_machine_is_released(trained, own):
    releases.write_model(archive.resolve(trained), own / "faces")
    for file in (own / "faces").rglob("*"):
        assert not file.is_file() or str(own).encode() not in file.read_bytes(), file
    assert archive.read_meta(own / "faces")["config"]["data"]["root"] == "data"


def test_a_classifier_is_used_for_the_data_and_settings_it_was_trained_with_alone(own, tmp_path, monkeypatch):
    data = datasets.load("avatars", holdout="iid", root=str(tmp_path))
    monkeypatch.setattr(classifier, "fit", lambda data, seed=0: {"features": {"bias": np.float32([seed, 2])}})
    loaded = classifier.load(data, str(tmp_path)).params
    releases.write(loaded, {"key": classifier.key(data)}, own / "classifier_avatars")
    shutil.rmtree(tmp_path / "cache")
    assert classifier.is_cached(data, str(tmp_path)) and not classifier.is_cached(data, str(tmp_path), seed=1)
    np.testing.assert_array_equal(classifier.load(data, str(tmp_path)).params["features"]["bias"], [0, 2])
    assert not list((tmp_path / "cache").glob("classifier*"))
    np.testing.assert_array_equal(classifier.load(data, str(tmp_path), seed=1).params["features"]["bias"], [1, 2])
    assert releases.models() == {}


@pytest.mark.parametrize("words", [[], ["--checkpoint=x"], ["--name=x"], ["--classifier=punks", "--name=x"]])
def test_half_a_request_is_refused(words, capsys):
    assert script("release").main(words) == 65
    assert "give --checkpoint and --name, or --classifier" in capsys.readouterr().err


def test_a_name_that_is_a_path_is_refused(own, capsys):
    assert script("release").main(["--checkpoint=x", "--name=../evil"]) == 65
    assert "--name is '../evil'; use small letters, digits and _" in capsys.readouterr().err
    assert not (own.parent / "evil").exists()


def test_the_models_and_both_classifiers_are_shipped():
    names = {path.name for path in SHIPPED}
    assert names >= {"punks", "punks_uncond", "mnist", "mnist_classes", "classifier_punks", "classifier_mnist"}


@every_release
def test_a_shipped_checkpoint_is_whole_small_described_and_names_no_machine(folder):
    archive.verify(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 16e6
    assert not [path for path in files if re.search(rb"/(root|home|tmp|work)/", path.read_bytes())]
    card = (folder / "README.md").read_text()
    for part in ("## Data", "## Training", "## Results", "## Limits"):
        assert part in card, part
    meta = archive.read_meta(folder)
    if "config" in meta:
        assert meta["sha256"][:12] in card, "the card is of another checkpoint"


@pytest.mark.parametrize("name", ["mnist", "punks_uncond"])
def test_a_shipped_model_draws(name):
    model = ddpm_jax.load(name)
    drawn = model.sample(n=2, steps=4)
    assert drawn.shape == (2, *model.spec.shape) and (drawn[0] != drawn[1]).any()


@pytest.mark.skipif(not MIRROR, reason="DDPM_JAX_MIRROR does not name a directory with the real files")
def test_the_shipped_punks_are_drawn_exactly(tmp_path):
    data = datasets.load("punks", holdout="iid", root=str(tmp_path))
    chosen = np.random.default_rng(0).choice(data.heldout, 32, replace=False)
    drawn = ddpm_jax.load("punks").sample(list(data.labels[chosen]), steps=1, sampler="ddim", times="linear")
    assert exact.score(drawn, data, chosen).right >= 30
    assert classifier.is_cached(data, "nowhere")  # the released one
