"""The page of digits, by Streamlit's own test driver; the sampling process answers from within this one."""

import base64
import io
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from browser import glyphs
from conftest import tiny_config
from PIL import Image
from streamlit.runtime.scriptrunner import RerunData, get_script_run_ctx
from streamlit.testing.v1 import AppTest

from ddpm_jax import archive, build, images, recipes, releases, runtime, train
from ddpm_jax.configs import mnist_classes_cfg
from ddpm_jax.dashboard import digits, figures, serve, ui, worker
from ddpm_jax.dashboard.sampler import Failed
from ddpm_jax.samplers import SAMPLERS

PAGE = "from ddpm_jax.dashboard import digits; digits.show()"
INK = np.zeros((280, 280), np.uint8)
INK[20:60, 20:200] = 255  # a bar near the top


class Within:
    """A sampler whose answers are there at once; it keeps the questions."""

    def __init__(self):
        self.asked = []

    def ask(self, do, *, owner="", **arguments):
        self.asked.append((do, arguments))
        future, reply = Future(), worker.respond({"do": do, **arguments})
        if "error" in reply:
            future.set_exception(Failed(reply["error"]))
        else:
            future.set_result(reply["answer"])
        return future

    def jobs(self, do="draw"):
        return [arguments["job"] for name, arguments in self.asked if name == do]


def trained(workdir, data, *, labels):
    tiny = tiny_config().to_dict()
    config = mnist_classes_cfg.get_config()
    config.update({key: tiny[key] for key in ("net", "train", "optimizer", "log", "checkpoint", "runtime")})
    config.data.root, config.net.attention, config.net.word_maps, config.sampling.steps = str(data), (), 0, 3
    if not labels:
        config.masks.none, config.masks.subset, config.data.size = 1.0, 0.0, 16
    train.train(build.build(config), str(workdir))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Roots with a model of digits by class and one of small digits without words; MNIST is a font's digits."""
    root = tmp_path_factory.mktemp("digits")
    glyphs.write(root / "data")
    trained(root / "by-class" / "run", root / "data", labels=True)
    trained(root / "plain" / "run", root / "data", labels=False)
    return root


@pytest.fixture
def sampler(monkeypatch):
    within = Within()
    monkeypatch.setattr(ui, "sampler", lambda: within)
    return within


def opened(monkeypatch, workdir, data, *, tab="Choose", ink=None):
    monkeypatch.setenv(serve.ROOT, str(workdir))
    monkeypatch.setenv(serve.DATA, str(data))
    monkeypatch.setattr(digits, "_canvas", lambda half: ink)  # a canvas needs a browser: see tests/browser
    page = AppTest.from_string(PAGE, default_timeout=120)
    page.session_state["digits"] = tab
    page.run()
    assert not page.exception
    return page


@pytest.fixture
def by_class(monkeypatch, places, sampler):
    return lambda **how: opened(monkeypatch, places / "by-class", places / "data", **how)


@pytest.fixture
def plain(monkeypatch, places, sampler):
    return lambda **how: opened(monkeypatch, places / "plain", places / "data", **how)


def shown(page):
    """All HTML of a page."""
    return "\n".join(str(element.proto.body) for element in page.get("html"))


def test_without_a_model_it_says_what_can_be_done(monkeypatch, tmp_path, sampler):
    monkeypatch.setattr(releases, "FOLDER", tmp_path / "none")
    page = opened(monkeypatch, tmp_path, tmp_path)
    assert "mnist_classes_cfg" in page.info[0].value and not sampler.asked


def test_a_chosen_digit_is_drawn_once_and_anew_for_another_seed(by_class, sampler):
    page = by_class()
    page.button_group(key="choose_digit").set_value("7").run()
    page.button(key="choose_other").click().run()
    assert [(job["label"], job["seed"], job["n"]) for job in sampler.jobs()] == [("3", 0, 8), ("7", 0, 8), ("7", 1, 8)]
    page.run()
    assert len(sampler.jobs()) == 3  # nothing was asked, so nothing is drawn
    assert shown(page).count("<img") == 8 and 'alt="Variation 8 of 7"' in shown(page)


def test_settings_reach_the_job_and_start_as_the_models(by_class, sampler):
    page = by_class()
    assert sampler.jobs()[-1] == {
        "kind": "sheet", "label": "3", "n": 8, "seed": 0, "steps": 3, "guidance": 2.0, "sampler": "dpmpp_2m",
    }  # fmt: skip
    page.slider(key="choose_steps").set_value(5)
    page.selectbox(key="choose_sampler").set_value("heun")
    page.number_input(key="choose_seed").set_value(9).run()
    job = sampler.jobs()[-1]
    assert (job["steps"], job["sampler"], job["seed"]) == (5, "heun", 9)


def test_what_was_chosen_is_there_again_after_a_visit_to_another_page(by_class, monkeypatch):
    pages = f"import streamlit as st\nif not st.session_state.get('elsewhere'):\n    {PAGE}"
    monkeypatch.setitem(globals(), "PAGE", pages)
    page = by_class(tab="Draw", ink=INK)
    page.button_group(key="draw_digit").set_value("4")
    page.button_group(key="which").set_value("raw")
    page.slider(key="strength").set_value(0.3)
    page.slider(key="draw_steps").set_value(5)
    page.slider(key="draw_guidance").set_value(2.5)
    page.selectbox(key="draw_sampler").set_value("heun")
    page.number_input(key="draw_seed").set_value(9).run()
    for elsewhere in (True, False, True, False):
        page.session_state["elsewhere"] = elsewhere
        page.run()
        assert not page.exception and not page.warning and bool(page.slider) != elsewhere
    assert page.session_state["digits"] == "Draw" and page.button_group(key="which").value == "raw"
    assert page.button_group(key="draw_digit").value == "4" and page.number_input(key="draw_seed").value == 9
    values = [page.slider(key=key).value for key in ("strength", "draw_steps", "draw_guidance")]
    assert [*values, page.selectbox(key="draw_sampler").value] == [0.3, 5, 2.5, "heun"]


def test_a_page_that_waits_for_a_reading_is_ended_by_what_the_user_does_next(monkeypatch):
    def script():
        import streamlit as st

        from ddpm_jax.dashboard import answers, ui

        st.session_state["begun"] = st.session_state.get("begun", 0) + 1
        if st.session_state["begun"] == 1:
            answers.quietly("part", "read")
            ui.sampler.waited_for.append("the answer")
        st.write("another run")

    class Slow:
        def ask(self, do, *, owner="", **arguments):
            context = get_script_run_ctx()
            again = RerunData(page_script_hash=context.page_script_hash)
            threading.Timer(0.3, context.script_requests.request_rerun, [again]).start()
            future = Future()
            threading.Timer(2, future.set_exception, [Failed("late")]).start()
            return future

    Slow.waited_for = []
    monkeypatch.setattr(ui, "sampler", Slow)
    page = AppTest.from_function(script, default_timeout=5).run()
    assert [one.value for one in page.markdown] == ["another run"] and not Slow.waited_for


def test_what_comes_along_is_offered_with_words_first_and_by_its_averages_alone(monkeypatch, tmp_path):
    def script():
        from ddpm_jax.dashboard import ui

        ui.choose_model(names=("mnist",))

    monkeypatch.setenv(serve.ROOT, str(tmp_path))
    page = AppTest.from_function(script, default_timeout=5).run()
    assert page.selectbox[0].options == ["mnist_classes", "mnist"]
    assert page.segmented_control(key="which").options == ["Averaged"]


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(monkeypatch, places, sampler, tmp_path):
    folder = shutil.copytree(places / "plain" / "run", tmp_path / "run") / "checkpoints"
    new, old = archive.steps(folder)[:2]
    for step, then in ((new, old), (old, None)):
        for file in (folder / str(step) / "state").rglob("d/*"):  # of which some hold what the page does not read
            content = np.frombuffer(file.read_bytes(), np.uint8).copy()
            content[::64] ^= 1
            file.write_bytes(content.tobytes())
        page = opened(monkeypatch, tmp_path, places / "data")
        said = [one.value for one in (*page.warning, *page.error)]
        assert len(said) == 1 and f"checkpoints/{new} is damaged" in said[0]
        assert (f"step {then} is whole and used in its place" in said[0]) == bool(then)
        assert ("choose another model" in said[0]) == (then is None)
        assert {Path(asked["model"]).name for do, asked in sampler.asked if do == "draw"} <= {str(old)}
    assert sampler.jobs()


def test_the_samplers_offered_are_all_there_are():
    assert set(digits.SAMPLERS) == set(SAMPLERS)


def test_a_missing_classifier_is_said_once_and_small(by_class):
    page = by_class()
    said = [caption.value for caption in page.caption if "no classifier of mnist has been trained yet" in caption.value]
    assert len(said) == 1 and not page.error


def test_a_failure_is_a_sentence_and_the_next_request_is_answered(by_class, sampler, monkeypatch):
    page = by_class()
    monkeypatch.setattr(worker, "MAX_CALLS", 1)
    page.number_input(key="choose_seed").set_value(2).run()
    assert [error.value for error in page.error] == [
        "that takes 48 calls of the net, and 1 are allowed here; ask for less"
    ]
    monkeypatch.undo()


def test_a_model_without_words_is_not_asked_for_one(plain, sampler):
    page = plain()
    assert sampler.jobs()[-1]["label"] == "" and "guidance" not in sampler.jobs()[-1]
    assert any("trained without words" in caption.value for caption in page.caption)
    page = plain(tab="Noise")
    assert sampler.jobs("animate")[-1]["label"] == "" and 'alt="Result"' in shown(page)
    page = plain(tab="Draw", ink=INK)
    assert sampler.jobs()[-1]["sketch"] is True and 'alt="Result 4"' in shown(page)


def test_a_drawing_is_restyled_under_the_wished_digit(by_class, sampler):
    assert not (by_class(tab="Draw"), sampler.asked)[1]  # a blank canvas asks for nothing
    page = by_class(tab="Draw", ink=INK)
    page.button_group(key="draw_digit").set_value("4")
    page.slider(key="strength").set_value(0.3).run()
    job = sampler.jobs()[-1]
    assert (job["kind"], job["label"], job["strength"], job["sketch"]) == ("edit", "4", 0.3, True)
    np.testing.assert_array_equal(recipes.unpacked(job["picture"])[..., 0], INK)


def test_half_a_drawing_is_finished_where_it_stands(by_class, sampler):
    page = by_class(tab="Draw", ink=INK)
    page.button_group(key="draw_way").set_value("Finish").run()
    job = sampler.jobs()[-1]
    picture, mask = (recipes.unpacked(job[key])[..., 0] for key in ("picture", "mask"))
    assert picture[2:6, 2:20].min() == 255 and picture[6:].max() == 0
    assert mask[:14].max() == 0 and mask[14:].min() == 255
    assert "sampler" not in job and "strength" not in job and not page.error
    assert 'alt="Result 4"' in shown(page)


def test_a_real_digit_is_noised_and_comes_back(by_class, sampler):
    page = by_class(tab="Noise")
    noised = next(arguments for do, arguments in sampler.asked if do == "noised")
    original = recipes.unpacked(noised["picture"])[..., 0]
    np.testing.assert_array_equal(original, glyphs.glyph("5"))
    job = sampler.jobs("animate")[-1]
    assert job["strength"] == noised["strength"] == 0.6 and job["label"] == ""
    page.toggle(key="noise_told").set_value(True).run()
    assert sampler.jobs("animate")[-1]["label"] == "5"
    assert shown(page).count("<img") == 4 + 3 + 1  # the way, three estimates, the film


def test_without_mnist_the_model_draws_the_digit_and_it_is_said(by_class, places, monkeypatch, tmp_path, sampler):
    page = opened(monkeypatch, places / "by-class", tmp_path, tab="Noise")
    assert any(
        caption.value.startswith("This digit was drawn by the model: the data set mnist") for caption in page.caption
    )
    assert sampler.jobs()[-1]["label"] == "5" and 'alt="Original"' in shown(page)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_ink_is_what_is_bright_and_opaque():
    drawing = np.zeros((280, 280, 4), np.uint8)
    assert digits.ink_of(b"") is None and digits.ink_of(png(drawing)) is None
    drawing[:50] = 255
    np.testing.assert_array_equal(digits.ink_of(png(drawing)), drawing[..., 3])
    fine = drawing.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(digits.ink_of(png(fine)), drawing[..., 3])


def test_what_no_canvas_sends_is_refused_before_it_is_decoded():
    for wrong, sentence in (
        (b"%!PS-Adobe EPSF", "the drawing is not a PNG file"),
        (png(np.zeros((28, 28), np.uint8)), "the drawing is 28x28; the canvas has 280x280 pixels"),
        (png(np.zeros((280, 560), np.uint8)), "the drawing is 560x280; the canvas has 280x280 pixels"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x32\xc8\0\0\x32\xc8", "the drawing is 13000x13000 pixels; from 1 to"),
    ):
        with pytest.raises(runtime.BadInput, match=sentence):
            digits.ink_of(wrong)


@pytest.mark.parametrize("side", [16, 28, 32])
def test_the_mask_is_the_half_that_is_empty(side):
    for half in digits.HALVES:
        job = digits.finishing(np.full((280, 280), 255, np.uint8), side, half)
        picture, mask = (recipes.unpacked(job[key])[..., 0] for key in ("picture", "mask"))
        assert picture.shape == mask.shape == (side, side)
        assert not (picture & mask).any() and picture.any() and mask.any()


def test_text_in_a_picture_row_is_text():
    hostile = "<script>alert(1)</script>\" onerror='x"
    made = figures.row(np.zeros((1, 2, 2, 1), np.uint8), [hostile], [hostile], size=10)
    made += figures.bars({hostile: [0.5, 0.5]}, [hostile, "b"])
    assert "<script" not in made and "onerror='" not in made and "&lt;script&gt;" in made


def test_pictures_in_html_are_the_pictures():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    sources = figures.row(pictures, ["a", ""], ["a", "b"], size=10).split("base64,")[1:]
    for source, picture in zip(sources, pictures, strict=True):
        np.testing.assert_array_equal(images.decode_png(base64.b64decode(source.partition('"')[0]), "it"), picture)
