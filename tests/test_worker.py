"""The sampling process: its answers, the sentences it refuses with, and that a stranger's checkpoint runs nothing."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ddpm_jax import archive, configs, recipes
from ddpm_jax.dashboard import sampler, worker


def ask(do, **arguments):
    reply = worker.respond({"do": do, **arguments})
    return reply.get("answer"), reply.get("error")


def draw(trained, **job):
    return ask("draw", model=str(trained), which="ema", job={"kind": "sheet", "label": "Cat", "n": 1, "seed": 0, **job})


@pytest.fixture
def limited(monkeypatch):
    """At most 100 calls of the net are allowed."""
    monkeypatch.setattr(worker, "MAX_CALLS", 100)


def test_a_drawing_carries_the_recipe_that_makes_it_again(trained):
    answer, error = draw(trained, n=2, steps=2)
    assert error is None
    pictures = sampler.array(answer["pictures"])
    assert pictures.shape == (2, 16, 16, 3)
    job = answer["recipe"]["job"]
    np.testing.assert_array_equal(recipes.draw(worker._load(str(trained), "ema"), job).pictures, pictures)
    assert answer["recipe"]["settings"]["steps"] == 2


def test_an_animation_ends_in_the_picture(trained):
    job = {"kind": "sheet", "label": "Cat", "n": 2, "seed": 3, "steps": 3}
    answer, _ = ask("animate", model=str(trained), which="ema", job=job)
    frames = sampler.array(answer["frames"])
    assert frames.shape == (3, 2, 16, 16, 3) and answer["recipe"]["job"] == job
    np.testing.assert_array_equal(frames[-1], sampler.array(draw(trained, **job)[0]["pictures"]))


def test_no_noise_is_the_picture_and_much_is_another(trained):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    asked = {"model": str(trained), "which": "ema", "picture": recipes.packed(picture), "seed": 1}
    kept, lost = (ask("noised", **asked, strength=t)[0]["pictures"] for t in (0.0, 1.0))
    assert np.abs(sampler.array(kept)[0].astype(int) - picture).max() <= 4
    assert np.abs(sampler.array(lost)[0].astype(int) - picture).mean() > 40
    assert ask("noised", **asked, strength=2)[1] == "strength is 2; it must be from 0 to 1"


def test_a_real_picture_has_its_word_and_numbers_go_round(trained, tmp_path):
    asked = {"model": str(trained), "which": "ema", "root": str(tmp_path), "word": "Robot"}
    data = worker._data("avatars", 16, str(tmp_path))
    robots = data.pixels(data.heldout[data.labels[data.heldout, data.spec.labels.index("Robot")] > 0])
    for number, wanted in ((0, 0), (1, 1), (len(robots) + 1, 1)):
        answer, _ = ask("real", **asked, number=number)
        np.testing.assert_array_equal(sampler.array(answer["pictures"])[0], robots[wanted])


def test_without_a_classifier_or_a_data_set_a_command_is_named(trained, tmp_path):
    pictures = sampler.packed(np.zeros((1, 16, 16, 3)))
    _, error = ask("read", model=str(trained), which="ema", root=str(tmp_path), pictures=pictures)
    assert "no classifier of avatars has been trained yet" in error and "scripts/evaluate.py" in error
    with pytest.raises(ValueError, match=r"the data set mnist is not under .*; scripts/prepare_data.py brings it"):
        worker._data("mnist", 28, str(tmp_path))
    assert not list(tmp_path.iterdir())


WRONG = {
    "n is text": ({"n": "3"}, "n is '3'; it must be a whole number"),
    "n is broken": ({"n": 1.5}, "n is '1.5'; it must be a whole number"),
    "n is true": ({"n": True}, "n is 'True'; it must be a whole number"),
    "n is none": ({"n": 0}, "n x labels is 0; it must be from 1 to 100000"),
    "n is negative": ({"n": -1}, "n x labels is -1; it must be from 1 to 100000"),
    "n is huge": ({"n": 10**9}, f"that takes {2 * 10**9} calls of the net, and 40000 are allowed here; ask for less"),
    "a seed too large": ({"seed": 2**32}, "seed is 4294967296; it must be from 0 to 4294967295"),
    "a seed of text": ({"seed": "0; rm -rf /"}, "seed is '0; rm -rf /'; it must be a whole number"),
    "steps in a list": ({"steps": [3]}, "steps is '[3]'; it must be a whole number"),
    "guidance that is no number": ({"guidance": float("nan")}, "guidance is nan; it must be from 0 to 100"),
    "an unknown sampler": ({"sampler": "../../x.py"}, "unknown sampler '../../x.py'; choose one of ddpm"),
    "an unknown word": ({"label": "<script>alert(1)</script>"}, "unknown word '<script>alert(1)</script>'"),
    "a label with NUL": ({"label": "\0"}, "unknown word '\\x00'"),
    "a long label": ({"label": "x" * 70_000}, "label is 'xxxx"),
    "a label that is a list": ({"label": ["Cat"]}, "label is \"['Cat']\"; it must be text"),
    "an unknown kind": ({"kind": "poem"}, "unknown kind of picture 'poem'; choose one of sheet"),
    "an unknown key": ({"path": "/etc/passwd"}, "unknown setting 'path'; the settings are sampler"),
    "rows of text": ({"kind": "grid", "rows": "abc", "columns": ["Cap"]}, "rows is 'abc'; it must be a list"),
    "no rows": ({"kind": "grid", "rows": [], "columns": ["Cap"]}, "rows is '[]'; it must be a list of 1 to 200"),
    "a sweep over the file": ({"kind": "sweep", "key": "model", "values": [1]}, "key is 'model'; a sweep is over seed"),
    "a sweep of words": ({"kind": "sweep", "key": "steps", "values": ["x"]}, "steps is 'x'; it must be a whole number"),
    "weights of text": ({"weights": {"Cat": "1"}}, "weights is \"{'Cat': '1'}\"; it must be a number for each word"),
    "an interval of three": ({"interval": [0, 0.5, 1]}, "interval is '[0, 0.5, 1]'; it must be two numbers"),
    "a picture that is none": ({"kind": "edit", "picture": "AAAA"}, "the recipe's picture is not a PNG file"),
    "an unknown group": ({"kind": "group", "group": "nose"}, "nose"),
}


@pytest.mark.parametrize(("job", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_job_ends_in_a_sentence(trained, caplog, job, sentence):
    answer, error = draw(trained, **job)
    assert answer is None and sentence in error
    assert "this failed" not in error and "\n" not in error and not caplog.records


def test_a_wrong_request_ends_in_a_sentence(trained, tmp_path):
    assert ask("os.system", command="id")[1].startswith("unknown request 'os.system'; choose one of draw, animate")
    assert worker.respond({})["error"].startswith("unknown request 'None'")
    assert "draw()" in ask("draw", model=str(trained))[1]
    assert ask("draw", model=str(trained), which="ema", job=[1])[1] == "a job is a JSON object, not list"
    assert ask("draw", model=str(trained), which="best", job={})[1] == "which is 'best'; choose ema or raw"
    _, error = ask("draw", model=str(tmp_path / "no"), which="ema", job={})
    assert error.startswith("there is no whole checkpoint in") or "is neither" in error


EDIT = {"kind": "edit", "picture": recipes.packed(np.zeros((16, 16, 3), np.uint8)), "n": 2}
MASK = recipes.packed(np.full((16, 16, 3), 255, np.uint8))
COUNTED = {  # at 10 evaluations and guidance 1
    "sheet": ({"n": 3}, 30),
    "sheet, guided": ({"n": 3, "guidance": 2.0}, 60),
    "sheet, by words": ({"weights": {"Cat": 2.0}}, 20),
    "grid": ({"kind": "grid", "rows": ["Cat", "Elf", "Robot"], "columns": ["Cap", ""]}, 60),
    "group": ({"kind": "group", "group": "hat"}, 40),
    "sweep": ({"kind": "sweep", "n": 2, "key": "eta", "values": [0, 0.5, 1]}, 60),
    "sweep of steps": ({"kind": "sweep", "n": 2, "key": "steps", "values": [1, 5, 30]}, 72),
    "sweep of guidance": ({"kind": "sweep", "n": 1, "key": "guidance", "values": [0, 1, 2]}, 50),
    "between": ({"kind": "between", "other": "Robot", "n": 4}, 80),
    "variations": ({"kind": "variations", "n": 5, "spread": 0.3}, 50),
    "swap": ({"kind": "swap", "out": ["Cat"], "into": ["Robot"]}, 20),
    "reroll": ({"kind": "reroll", "keep": ["Cat"], "n": 6}, 60),
    "edit": (EDIT, 20),
    "edit, masked": ({**EDIT, "mask": MASK}, 74),
    "edit, repeated": ({**EDIT, "mask": MASK, "repeats": 100}, 1802),
}


@pytest.mark.parametrize(("job", "wanted"), COUNTED.values(), ids=COUNTED.keys())
def test_the_calls_of_the_net_are_counted(trained, job, wanted):
    model = worker._load(str(trained), "ema")
    job = {"kind": "sheet", "label": "Cat", "n": 1, "steps": 10, "guidance": 1.0, "sampler": "ddim", **job}
    assert worker.calls(model, job, worker._settled(model, job)) == wanted


@pytest.mark.parametrize("verb", ["draw", "animate"])
def test_what_would_hold_the_others_up_is_refused(trained, limited, verb):
    for job in ({"n": 6}, {"kind": "grid", "rows": ["Cat"] * 3, "columns": ["Cap", "Crown"]}):
        job = {"kind": "sheet", "label": "Cat", "steps": 10, "guidance": 2.0, **job}
        _, error = ask(verb, model=str(trained), which="ema", job=job)
        assert error == "that takes 120 calls of the net, and 100 are allowed here; ask for less"


def test_options_and_their_check():
    found, _ = ask("options")
    assert {config["name"] for config in found} == set(configs.names())
    assert len(json.loads(json.dumps(found))) == len(found)
    assert ask("check", name="avatars_cfg", changes={"train.steps": 5}) == (None, None)
    assert "train.steps" in ask("check", name="avatars_cfg", changes={"train.steps": -5})[1]
    assert ask("check", name="avatars_cfg", changes={"x": 1})[1] == "x is not a key of a configuration"
    for name in ("../../x", "/etc/passwd", "avatars_cfg\0", "x" * 300, "avatars_cfg; id"):
        assert ask("check", name=name, changes={})[1]


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def stranger(trained, tmp_path):
    """A copy of a checkpoint, and what writes its description again with a hash that is right."""
    path = shutil.copytree(trained / "checkpoints" / "8", tmp_path / "stranger")

    def describe(change):
        meta = json.loads((path / "meta" / "metadata").read_bytes())
        change(meta)
        meta["sha256"] = archive._hash(meta)
        (path / "meta" / "metadata").write_text(json.dumps(meta))

    return path, describe


def first(meta):
    return next(entry for name, entry in meta["checksums"].items() if name.startswith("ema/"))


def rename(name):
    return lambda meta: meta["checksums"].update({name: meta["checksums"].pop(next(iter(meta["checksums"])))})


CLAIMS = {
    "a shape of 1e12": (lambda meta: first(meta).update(shape=[10**12]), "claims 4000"),
    "a negative shape": (lambda meta: first(meta).update(shape=[-1, -5]), "describes an illegal array"),
    "objects": (lambda meta: first(meta).update(dtype="object"), "is damaged"),
    "a name that climbs": (rename("ema/../../../etc/passwd"), "describes an illegal array"),
    "an absolute name": (rename("/etc/passwd"), "describes an illegal array"),
    "a picture of 1e12": (lambda meta: meta["spec"].update(shape=[10**6, 10**6, 3]), "sides must be 1 to 4096"),
}


@pytest.mark.parametrize(("change", "sentence"), CLAIMS.values(), ids=CLAIMS.keys())
def test_what_a_strangers_checkpoint_claims_is_refused(stranger, change, sentence):
    path, describe = stranger
    assert draw(path)[1] is None
    worker._load.cache_clear()
    describe(change)
    answer, error = draw(path)
    assert answer is None and sentence in error and "this failed" not in error


def test_a_link_in_a_strangers_checkpoint_is_refused(stranger, tmp_path):
    path, _ = stranger
    (tmp_path / "secret").write_text("secret")
    (path / "state" / "link").symlink_to(tmp_path / "secret")
    assert "contains a symbolic link; a checkpoint holds plain files only" in draw(path)[1]


def test_a_pickle_in_a_strangers_checkpoint_is_never_run(stranger, tmp_path):
    path, _ = stranger
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    for file in [path / "meta" / "metadata", *(path / "state").rglob("*")]:
        if file.is_file():
            file.write_bytes(trap)
    (path / "state" / "params.pkl").write_bytes(trap)
    answer, error = draw(path)
    assert answer is None and "is damaged" in error and not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()  # the trap works


def test_it_ends_with_its_parent_even_in_mid_request(trained):
    """The parent is killed, so that nothing but the end of stdin tells the worker."""
    job = {"kind": "sheet", "label": "Cat", "n": 4000, "steps": 1000, "guidance": 1.0, "sampler": "ddpm"}
    request = json.dumps({"do": "draw", "model": str(trained), "which": "ema", "job": job})
    parent = (
        "import subprocess, sys, time\n"
        "program = 'from ddpm_jax.dashboard import worker; worker.MAX_CALLS = 10**9; worker.main()'\n"
        "command = [sys.executable, '-c', program]\n"
        "child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)\n"
        "print(child.pid, flush=True)\n"
        f"print({request!r}, file=child.stdin, flush=True)\n"
        "time.sleep(600)\n"
    )
    import psutil

    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        child = psutil.Process(int(process.stdout.readline()))
        while sum(child.cpu_times()[:2]) < 3:  # it has started, and is at work
            assert child.is_running()
        process.kill()
        assert psutil.wait_procs([child], timeout=10)[1] == []
