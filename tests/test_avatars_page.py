"""Facts about the avatars page, run by Streamlit's AppTest with a real checkpoint and a stand-in for the sampler."""

import base64
import io
import itertools
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from streamlit.testing.v1 import AppTest

from ddpm_jax import animation, archive, checkpoint, images, releases
from ddpm_jax.dashboard import avatars, controls, jobs, runs, sampler, serve, studio, ui
from ddpm_jax.datasets import avatars as faces


class StandIn:
    """Answers at once: each picture of a job is one grey, and all that was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def ask(self, do: str, *, owner: str = "", **arguments: Any) -> Future[Any]:
        self.asked.append({"do": do, **arguments})
        future: Future[Any] = Future()
        job = arguments["job"]
        n = len(job.get("rows", "1")) * len(job.get("columns", "1")) * job.get("n", 1) + (job["kind"] == "edit")
        pictures = np.zeros((n, 16, 16, 3), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
        if do == "animate":
            future.set_result({"frames": sampler.packed(pictures[None, :1].repeat(3, axis=0))})
        elif job.get("label") == "Elf":
            future.set_exception(sampler.Failed("the sampling process ended (code -9)"))
        else:
            recipe = {"job": job, "settings": {}, "checkpoint": "c", "which": "ema", "device": "cpu"}
            future.set_result({"pictures": sampler.packed(pictures), "recipe": recipe, "seconds": 0.1})
        return future

    def last(self, kind: str = "sheet") -> dict[str, Any]:
        return [request["job"] for request in self.asked if request["job"]["kind"] == kind][-1]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(ui, "sampler", lambda: made)
    avatars._asked_portraits.clear()
    return made


@pytest.fixture
def page(trained: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv(serve.ROOT, str(trained.parent))
    return AppTest.from_function(_page, default_timeout=20)


def _page() -> None:
    from ddpm_jax.dashboard import avatars

    avatars.show()


def texts(page: AppTest) -> str:
    return " ".join(str(element.value) for element in [*page.warning, *page.info, *page.error, *page.caption])


def test_the_page_draws_what_the_address_asks_for(page: AppTest, stand_in: StandIn) -> None:
    page.query_params["label"] = "Cat, -Cap"
    page.query_params["seed"] = "7"
    page.query_params["n"] = "3"
    page.run()
    assert not page.exception and not page.error
    assert stand_in.last() | {"label": "Cat, -Cap", "seed": 7, "n": 3} == stand_in.last()
    assert page.number_input(key="seed").value == 7


@pytest.mark.parametrize("value", ["../../x.py", "<script>alert(1)</script>", "\0", "x" * 300, "$(touch it)", "-1"])
def test_a_hostile_address_is_text_and_the_page_goes_on(page: AppTest, stand_in: StandIn, value: str) -> None:
    for key in ("model", "label", "seed", "sampler", "n", "unknown"):
        page.query_params[key] = value
    page.run()
    assert not page.exception and "; " in page.warning[-1].value
    assert stand_in.last()["label"] == "any" and stand_in.last()["seed"] == 0


def test_controls_change_the_job_and_the_address(page: AppTest, stand_in: StandIn) -> None:
    page.run()
    page.number_input(key="steps").set_value(3)
    page.slider(key="guidance").set_value(2.0)
    page.toggle(key="complete").set_value(True).run()
    assert stand_in.last() | {"steps": 3, "guidance": 2.0, "complete": True} == stand_in.last()
    assert page.query_params["steps"] == "3" and page.query_params["complete"] == "1"


def test_a_model_without_a_prior_leaves_open_words_to_its_net(page: AppTest, stand_in: StandIn) -> None:
    page.run()
    assert page.selectbox(key="words").disabled and stand_in.last()["words"] == "net"
    page.query_params["words"] = "prior"  # of a model that is not here
    del page.session_state["avatar_model"]
    page.run()
    assert "this model has no prior" in texts(page) and stand_in.last()["words"] == "net"


def test_what_decides_open_words_can_be_said_of_a_model_that_has_a_prior(
    page: AppTest, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = runs._meta.__wrapped__  # no cached description is changed

    def with_prior(path: Path, changed: int) -> tuple[dict[str, Any], int]:
        meta, size = read(path, changed)
        meta["config"]["net"]["word_prior"], meta["config"]["sampling"]["words"] = 8, "prior"
        return meta, size

    monkeypatch.setattr(runs, "_meta", with_prior)
    page.run()
    assert stand_in.last()["words"] == "prior" and not page.selectbox(key="words").disabled
    page.selectbox(key="words").set_value("net").run()
    assert stand_in.last()["words"] == "net" and page.query_params["words"] == "net"


def test_a_surprise_keeps_what_is_locked_and_clear_forgets_all(page: AppTest, stand_in: StandIn) -> None:
    page.query_params["label"] = "Cat"
    page.run()
    page.multiselect(key="locked").set_value(["Cat"]).run()
    page.button[0].click().run()
    assert "Cat" in stand_in.last()["label"] and stand_in.last()["label"] != "Cat"
    next(button for button in page.button if button.label == "Clear").click().run()
    assert stand_in.last()["label"] == "any"


def test_a_swap_changes_one_word_and_keeps_the_noise(page: AppTest, stand_in: StandIn) -> None:
    page.query_params["label"] = "Cat, Cap"
    page.query_params["seed"] = "9"
    page.run()
    page.selectbox(key="out").set_value("Cap").run()
    page.selectbox(key="into").set_value("Crown").run()
    next(button for button in page.button if button.label == "Swap").click().run()
    assert (stand_in.last()["label"], stand_in.last()["seed"]) == ("Cat, Crown", 9)


def test_a_failure_is_a_sentence_on_the_page(page: AppTest) -> None:
    page.query_params["label"] = "Elf"
    page.run()
    assert not page.exception and page.error[0].value == "the sampling process ended (code -9)"


def test_words_never_seen_together_are_flagged_and_drawn(page: AppTest, stand_in: StandIn, trained: Path) -> None:
    seen = archive.read_meta(archive.resolve(trained))["pairs_seen"]
    pairs = itertools.product(faces.LABELS.group("kind").words, faces.LABELS.group("skin").words)
    one, other = next(pair for pair in pairs if controls.unseen(faces.LABELS, seen, dict.fromkeys(pair, 1)))
    page.query_params["label"] = f"{one}, {other}"
    page.run()
    assert f"Never seen together in training: {one} with {other}" in texts(page)
    assert stand_in.last()["label"] == f"{one}, {other}"


def test_the_grid_asks_for_rows_by_columns(page: AppTest, stand_in: StandIn) -> None:
    page.query_params["label"] = "Scarf"
    page.run()
    page.segmented_control(key="mode").set_value("Grid").run()
    page.multiselect(key="Rows of avatars").set_value(["Cat", "Robot"])
    page.multiselect(key="Columns of avatars").set_value(["Pipe"]).run()
    job = stand_in.last("grid")
    assert (job["rows"], job["columns"], job["label"]) == (["Cat", "Robot"], ["Pipe"], "Scarf")
    assert job["same_noise"] and "words" not in job
    assert not page.exception


def test_the_history_holds_what_was_made_and_gives_it_back(page: AppTest, stand_in: StandIn) -> None:
    page.query_params["label"] = "Cat"
    page.run()
    page.number_input(key="seed").set_value(5).run()
    page.segmented_control(key="mode").set_value("History").run()
    assert len(page.session_state["history"]) == 2
    page.button(key="back1").click().run()
    assert stand_in.last()["seed"] == 0 and page.segmented_control(key="mode").value == "Avatar"


def test_a_picture_made_here_restores_its_controls(page: AppTest, stand_in: StandIn) -> None:
    page.run()
    job = {"kind": "sheet", "label": "Robot, Crown", "seed": 3, "n": 2, "pick": 1, "complete": True, "snap": False}
    recipe = {"job": job, "settings": {"sampler": "ddpm", "steps": 4}, "checkpoint": "gone", "which": "ema", "scale": 7}
    picture = np.zeros((16, 16, 3), np.uint8)
    png = images.encode_png(images.to_pil(picture), recipe)
    gif = animation.encode(np.zeros((2, 1, 16, 16, 3), np.uint8), recipe=recipe)
    for name, content in (("a.png", png), ("b.gif", gif)):
        page.session_state["states"] = {}
        page.segmented_control(key="mode").set_value("From a picture").run()
        page.file_uploader(key="upload").upload(name, content, "image/png").run()
        assert not page.exception
        made = stand_in.last()
        assert (made["label"], made["seed"], made["n"], made["steps"]) == ("Robot, Crown", 3, 2, 4)
        assert (page.session_state["pick"], page.session_state["scale"], made["complete"]) == (1, 7, True)


def test_an_uploaded_picture_is_edited_and_odd_sizes_are_reduced(page: AppTest, stand_in: StandIn) -> None:
    page.run()
    page.segmented_control(key="mode").set_value("From a picture").run()
    page.file_uploader(key="upload").upload("a.png", ui.png(np.zeros((50, 31, 3), np.uint8)), "image/png").run()
    assert not page.exception and "reduced to 16x16" in texts(page)
    assert "words" not in stand_in.last("edit")
    sent = images.decode_png(base64.b64decode(stand_in.last("edit")["picture"]), "it")
    assert sent.shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0", "is not a PNG file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x32\xc8\0\0\x32\xc8\x08\x02\0\0\0", "is 13000x13000 pixels"),
    ],
    ids=["EPS", "169 megapixels"],
)
def test_a_file_that_is_no_small_png_is_refused_before_it_is_decoded(
    page: AppTest, content: bytes, sentence: str
) -> None:
    page.run()
    page.segmented_control(key="mode").set_value("From a picture").run()
    page.file_uploader(key="upload").upload("a.png", content, "image/png").run()
    assert not page.exception and sentence in texts(page)


def test_a_refused_picture_stays_refused_and_changes_no_setting(page: AppTest, stand_in: StandIn) -> None:
    page.run()
    page.segmented_control(key="mode").set_value("From a picture").run()
    good = ui.png(np.zeros((16, 16, 3), np.uint8))
    page.file_uploader(key="upload").upload("a.png", good, "image/png").run()
    page.slider(key="strength").set_value(0.8).run()
    page.file_uploader(key="upload").upload("b.png", b"nothing", "image/png").run()
    assert "is not a PNG file" in texts(page.run()) and page.slider(key="strength").value == 0.8
    page.file_uploader(key="upload").upload("c.png", good, "image/png").run()
    assert "is not a PNG file" not in texts(page) and stand_in.last("edit")["strength"] == 0.8


def test_without_a_model_the_page_trains_one(
    tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(serve.ROOT, str(tmp_path))
    monkeypatch.setattr(jobs, "see_to_queue", lambda root: None)
    monkeypatch.setattr(releases, "FOLDER", tmp_path / "none")
    page = AppTest.from_function(_page).run()
    assert not page.exception and "no trained model" in texts(page)
    page.button[0].click().run()
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "job.json").read_bytes())["config"] == "avatars_cfg"


def test_the_download_is_what_its_recipe_makes(
    page: AppTest, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[tuple[str, bytes]] = []
    monkeypatch.setattr(studio, "_download", lambda title, content, name, kind: files.append((name, content)))
    page.query_params["label"] = "Cat, Wizard Hat"
    page.query_params["pick"] = "2"
    page.run()
    page.number_input(key="scale").set_value(3)
    page.toggle(key="clear").set_value(True).run()
    name, content = files[-1]
    assert name == "cat-wizard-hat.png"
    recipe = images.recipe_in(content, "it")
    assert recipe is not None
    assert (recipe["scale"], recipe["job"]["pick"], recipe["background"]) == (3, 2, faces.PALETTE[0].tolist())
    assert np.asarray(Image.open(io.BytesIO(content))).tolist() == np.full((48, 48, 4), [2, 2, 2, 255]).tolist()
    page.toggle(key="moving").set_value(True).run()
    name, content = files[-1]
    assert name == "cat-wizard-hat.gif" and animation.recipe_in(content, "it")["job"]["label"] == "Cat, Wizard Hat"


def test_a_checkpoint_of_something_else_is_no_model(
    page: AppTest, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").symlink_to(trained)
    saves = checkpoint.Checkpointer(tmp_path / "other" / "checkpoints")
    saves.save(1, {"ema": {"w": np.zeros(2)}}, {"of": "no pictures"})
    saves.close()
    monkeypatch.setenv(serve.ROOT, str(tmp_path))
    page.run()
    assert not page.exception and page.selectbox(key="model").options[0] == "mine"
    assert "other" not in page.selectbox(key="model").options


def test_weights_that_a_link_asks_for_and_are_not_here_are_said(page: AppTest, stand_in: StandIn) -> None:
    page.query_params["model"] = "punks"
    page.query_params["which"] = "raw"
    page.run()
    assert "The raw weights of this model are not here" in texts(page)


def test_an_unknown_model_in_a_link_is_said(page: AppTest, stand_in: StandIn) -> None:
    page.query_params["model"] = "nowhere"
    page.query_params["checkpoint"] = "123"
    page.run()
    assert "There is no model 'nowhere' here" in texts(page) and "the link is of another checkpoint" in texts(page)


@pytest.mark.parametrize(
    "recipe", ["[" * 100_000, "9" * 5000, "[]", "{"], ids=["deep", "a large number", "a list", "torn"]
)
def test_a_recipe_that_is_no_json_object_is_a_sentence(page: AppTest, recipe: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(images.RECIPE, recipe)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG", pnginfo=info)
    page.run()
    page.segmented_control(key="mode").set_value("From a picture").run()
    page.file_uploader(key="upload").upload("a.png", file.getvalue(), "image/png").run()
    assert not page.exception and "carries a recipe that is not a JSON object" in texts(page)


def test_what_is_drawn_already_is_not_drawn_again(page: AppTest, stand_in: StandIn) -> None:
    page.run()
    drawn = len(stand_in.asked)
    page.toggle(key="clear").set_value(True).run()
    page.number_input(key="scale").set_value(2).run()
    page.segmented_control(key="mode").set_value("History").run()
    assert len(stand_in.asked) == drawn
