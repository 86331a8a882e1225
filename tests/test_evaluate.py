"""`scripts/evaluate.py`: what it measures of a small model, how it goes on after a cut, and what it refuses."""

import functools
import json
import re
import shutil

import numpy as np
import pytest
from conftest import script, tiny_config

import ddpm_jax
from ddpm_jax import archive, build, datasets, judging, releases, runtime, train
from ddpm_jax.evaluation import benchmark, classifier, pixels, report, subject, sweeps

SETTINGS = classifier.Settings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where data and a hastily trained classifier of the avatars lie."""
    return str(tmp_path_factory.mktemp("data"))


def hurry(monkeypatch):
    """A classifier of few steps, few pictures, and short sweeps."""
    monkeypatch.setattr(classifier, "Settings", functools.partial(SETTINGS, steps=20, batch=64))
    monkeypatch.setattr(sweeps, "EVALUATIONS", (1, 3, 10))
    monkeypatch.setattr(sweeps, "ANCESTRAL", 20)
    monkeypatch.setattr(sweeps, "WEIGHTS", (1.0, 2.0))
    monkeypatch.setattr(pixels, "BOUND_STEPS", 20)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Hurry in every test."""
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def evaluate():
    """The main function of the script."""
    return script("evaluate").main


@pytest.fixture(scope="module")
def judged(trained, root, tmp_path_factory):
    """The report of everything, with the folder it lies in."""
    folder = tmp_path_factory.mktemp("judged")
    words = [
        "--metrics=all",
        "--share=0.01",
        f"--checkpoint={trained}",
        f"--root={root}",
        f"--out={folder / 'all.json'}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        assert script("evaluate").main(words) == 0
    return folder, json.loads((folder / "all.json").read_text())


def row(found, metric, what="", which="ema"):
    (one,) = [r for r in found["rows"] if r["metric"] == metric and what in r["what"] and r["which"] == which]
    return one


def test_of_a_release_which_has_no_raw_weights_the_others_are_all(trained, root, tmp_path, evaluate, monkeypatch):
    releases.write_model(archive.resolve(trained), tmp_path / "faces")
    monkeypatch.setattr(benchmark, "METRICS", {"exact": pixels.exact_match})
    monkeypatch.setattr(benchmark, "CORE", {"exact": pixels.exact_match})
    out = tmp_path / "all.json"
    words = [f"--checkpoint={tmp_path / 'faces'}", "--metrics=all", "--share=0.01", f"--root={root}", f"--out={out}"]
    assert evaluate(words) == 0
    assert {r["which"] for r in json.loads(out.read_text())["rows"]} == {"ema"}


def test_all_rows_are_there_for_both_weights_with_numbers_intervals_and_setting(judged, trained):
    folder, found = judged
    assert {r["which"] for r in found["rows"]} == {"ema", "raw"}
    metrics = {r["metric"] for r in found["rows"] if r["which"] == "ema"}
    assert metrics >= {"exact", "wrong_pixels", "open", "legal", "legal_before", "verifier_accepts", "rare_words"}
    assert metrics >= {"frechet", "kernel_distance", "precision", "off_palette", "bits_per_dim", "open_by_guidance"}
    assert not metrics & {"agreement"}  # avatars are determined by their labels
    for one in found["rows"]:
        assert np.isfinite(one["value"]) or one["metric"] == "coverage"
        assert one["n"] > 0 and (one["low"] is None or one["low"] <= one["value"] <= one["high"])
    about = found["about"]
    assert about["checkpoint"] == ddpm_jax.load(trained).meta["sha256"] and about["settings"]["steps"] == 2
    assert about["commit"] == report.commit() and about["seed"] == 0
    table = (folder / "all.md").read_text()
    assert table.count("| exact |") == 2 and "Weights: raw" in table and about["checkpoint"][:12] in table
    for name in ("exact", "exact_by_evaluations", "open_by_guidance", "off_palette_complete", "failures"):
        assert (folder / "all" / f"{name}.png").stat().st_size > 1000


def test_exact_match_is_counted_over_the_held_out_pictures(judged, trained, root):
    data, model = datasets.load("avatars", holdout="iid", root=root), ddpm_jax.load(trained)
    positions = np.random.default_rng(0).choice(data.heldout, 24, replace=False)
    drawn = model.sample(list(data.labels[positions]))
    right = (drawn == data.pixels(positions)).all(axis=(1, 2, 3))
    one = row(judged[1], "exact")
    assert (one["n"], one["value"]) == (24, right.mean()) and len(one["details"]["seeds"]) == len(
        set(pixels.SEEDS)
    ) == 3
    wrong = (drawn != data.pixels(positions)).any(axis=-1).sum(axis=(1, 2))
    assert row(judged[1], "wrong_pixels")["value"] == pytest.approx(wrong.mean())
    cat = data.labels[positions][:, data.spec.labels.index("Cat")] > 0
    assert one["details"]["words"]["Cat"][:2] == [cat.sum(), (cat & right).sum()]


def test_the_bound_says_bits_per_picture_and_per_value(judged):
    image, dim = row(judged[1], "bits_per_image", "complete"), row(judged[1], "bits_per_dim", "complete")
    assert image["value"] == pytest.approx(dim["value"] * 16 * 16 * 3) and image["details"]["standard_error"] > 0
    assert sum(image["details"]["terms"].values()) == pytest.approx(image["value"], rel=1e-4)


def test_a_cut_evaluation_goes_on_and_says_the_same(judged, trained, root, evaluate, monkeypatch, capsys):
    folder, found = judged
    again, parts = folder / "again.json", folder / "again" / "parts"
    shutil.copytree(folder / "all" / "parts", parts)
    words = ["--metrics=exact,bits", "--share=0.01", f"--checkpoint={trained}", f"--root={root}", f"--out={again}"]

    kept, keep = [], subject._keep
    monkeypatch.setattr(subject, "_keep", lambda file, array: kept.append(file) or keep(file, array))
    read, load = [], np.load
    monkeypatch.setattr(np, "load", lambda file, **how: read.append(file) or load(file, **how))
    assert evaluate(words) == 0 and not kept
    before = again.read_text()
    words.append("--force")
    lost = [file for file in read if file in set(parts.iterdir())][::2]  # of the parts that these metrics need
    for file in lost:
        file.unlink()
    assert evaluate(words) == 0 and sorted(kept) == sorted(lost) and lost
    for report_text in (before, again.read_text()):
        for one in json.loads(report_text)["rows"]:
            same = row(found, one["metric"], one["what"])
            assert (one["value"], one["n"]) == (same["value"], same["n"])
    assert evaluate(words[:-1]) == 65 and "again.json exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --checkpoint, --baseline and --classifier"),
        (["--baseline", "--checkpoint=x"], "give one of --checkpoint, --baseline and --classifier"),
        (["--checkpoint=/nowhere"], "no whole checkpoint"),
        (["--checkpoint={trained}", "--metrics=exakt"], "unknown metric 'exakt'; they are core, all, exact, open"),
        (["--baseline", "--steps=3"], "--steps is of --checkpoint; leave it out"),
        (["--classifier=avatars", "--split=iid"], "--split is not of --classifier, whose split is fixed"),
        (["--checkpoint={trained}", "--out=here.txt"], "--out=here.txt must end in .json"),
        (["--checkpoint={trained}", "--share=0"], "share is 0; it must be above 0 and at most 1"),
        (["--checkpoint={trained}", "--steps=0"], "steps"),
        (["--checkpoint={trained}", "--split=pairs"], r"was trained on \d+ of the \d+ pictures of split 'pairs'"),
        (["--checkpoint={trained}", "--split=nowhere.txt"], "unknown holdout"),
    ],
)
def test_wrong_input_is_one_sentence_and_code_65(trained, root, tmp_path, evaluate, capsys, words, message):
    words = [word.format(trained=trained) for word in words]
    assert evaluate([f"--root={root}", f"--out={tmp_path / 'a.json'}", *words]) == 65
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1


def test_a_split_inside_of_what_was_held_out_can_be_judged(trained, root, tmp_path):
    model = ddpm_jax.load(trained)
    ids = tmp_path / "ids.txt"
    ids.write_text("0\n10\n990\n")
    data = judging.trained_on(model, root)
    assert judging.asked(model, data, str(ids), root).tolist() == [0, 10, 990]
    ids.write_text("0\n1\n")
    with pytest.raises(runtime.BadInput, match="was trained on 1 of the 2 pictures"):
        judging.asked(model, data, str(ids), root)


@pytest.mark.long
def test_a_model_without_words_is_judged_by_what_needs_none(root, tmp_path, evaluate):
    workdir = tmp_path / "free"
    config = tiny_config(masks__none=1.0, masks__subset=0.0, data__root=root)
    train.train(build.build(config), str(workdir))
    out = tmp_path / "free.json"
    assert evaluate([f"--checkpoint={workdir}", "--share=0.005", f"--root={root}", f"--out={out}"]) == 0
    metrics = {one["metric"] for one in json.loads(out.read_text())["rows"]}
    assert metrics >= {"legal", "rare_words", "frechet", "bits_per_dim", "off_palette"}
    assert not metrics & {"exact", "open", "agreement"}


def test_other_data_than_those_of_training_are_refused(trained, root):
    model = ddpm_jax.load(trained)
    model.meta = {**model.meta, "fingerprint": "0" * 64}
    with pytest.raises(runtime.BadInput, match=r"are not those that .* was trained on"):
        judging.trained_on(model, root)


def test_the_core_has_a_line_for_every_metric_and_sweeps_are_apart():
    assert benchmark.METRICS.keys() - benchmark.CORE.keys() == {"evaluations", "guidance"}
