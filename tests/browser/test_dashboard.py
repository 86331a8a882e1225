"""All pages in a real browser: they open, are quick, can be used by all, fit a telephone, and take nothing hostile."""

import io
import json
import re
import time
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import images

from .conftest import copied, settled

PAGES = ("", "digits", "train", "monitor")  # the avatars come first, at the address itself
PROBES = {
    "a path": "../../x.py",
    "a tag": "<script>window.hacked = 1</script>",
    "an image": "<img src=x onerror='window.hacked = 1'>",
    "NUL": "a\0b",
    "300 characters": "x" * 300,
    "shell words": "; touch /tmp/hacked; $(id) `id` |",
    "a template": "{{7*7}} ${7*7} %(x)s",
    "Markdown": "[a](javascript:window.hacked=1) ![b](x)",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_an_error(open_page, name):
    page = open_page(name)
    assert page.locator("h1").count() == 1
    assert page.locator('[data-testid="stException"]').count() == 0


def test_the_first_address_is_a_page_and_each_is_a_click_away(open_page):
    page = open_page("")
    for name in ("Digits", "Train", "Monitor", "Avatars"):
        page.get_by_role("link", name=name).first.click()
        path = "" if name == "Avatars" else name.lower()
        page.wait_for_url(lambda url, path=path: urllib.parse.urlsplit(url).path.strip("/") == path)
        settled(page)


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(open_page, name):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(open_page(name)).response["violations"]
    serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    said = [f"{rule['id']}: {rule['help']}: {[node['html'][:160] for node in rule['nodes'][:3]]}" for rule in serious]
    assert not said, "\n".join(said)


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_telephone(open_page, page, name):
    page.set_viewport_size({"width": 390, "height": 844})
    open_page(name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = "[...document.querySelectorAll('[data-testid=stMain], [data-testid=stMainBlockContainer]')]"
    assert page.evaluate(f"{wide}.every(box => box.scrollWidth <= box.clientWidth + 1)")


@pytest.mark.parametrize("name", PAGES)
def test_the_first_paint_takes_less_than_3_seconds(open_page, page, name):
    open_page(name)
    began = time.monotonic()
    page.reload(wait_until="commit")
    page.wait_for_selector("h1")
    took = time.monotonic() - began
    print(f"{name}: {took:.2f} s")
    assert took < 3


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES.keys())
def test_a_hostile_query_is_shown_as_text_or_ignored(open_page, name, probe):
    keys = ("x", "model", "run", "seed", "label", "words", "config", "job", "digits", "which", "step")
    page = open_page(name, "?" + urllib.parse.urlencode(dict.fromkeys(keys, probe)))
    assert page.locator('[data-testid="stException"]').count() == 0
    assert "Traceback" not in page.locator("body").inner_text()
    assert page.evaluate("window.hacked") is None


def test_without_a_run_the_pages_work_with_the_models_that_come_along(serve, page, tmp_path):
    (tmp_path / "w").mkdir()
    empty = serve(tmp_path / "w", tmp_path / "d")
    for name in PAGES:
        page.goto(f"{empty.url}/{name}")
        settled(page)
        assert page.locator('[data-testid="stException"]').count() == 0
    page.goto(f"{empty.url}/digits")
    assert chosen_model(page) == "mnist_classes"
    page.get_by_alt_text("Variation 1 of 3").wait_for(timeout=60_000)


def chosen_model(page):
    """The model that the page shows as chosen."""
    return page.get_by_role("combobox", name=re.compile("Model")).input_value()


def pictures(page):
    """The pictures of a page by their text."""
    return {image.get_attribute("alt"): image.get_attribute("src") for image in page.locator("figure img").all()}


def test_a_chosen_digit_is_drawn_saved_and_carries_its_recipe(open_page, tmp_path):
    page = open_page("digits")
    page.get_by_role("radio", name="7", exact=True).click()
    page.get_by_alt_text("Variation 1 of 7").wait_for()
    settled(page)
    seven = pictures(page)
    assert list(seven) == [f"Variation {i} of 7" for i in range(1, 9)]
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG").click()
    download.value.save_as(tmp_path / "digits.png")
    job = images.read_recipe(tmp_path / "digits.png")["job"]
    assert (job["kind"], job["label"], job["n"], job["seed"]) == ("sheet", "7", 8, 0)
    page.get_by_role("button", name="Other ones").click()
    page.wait_for_function("old => document.querySelector('figure img').src !== old", arg=seven["Variation 1 of 7"])


def stroke(page, points):
    """Draw on the canvas of the digits page."""
    canvas = page.locator("canvas").last
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=5)
    page.mouse.up()


def test_a_drawn_digit_is_scaled_restyled_and_finished(open_page):
    page = open_page("digits")
    page.get_by_role("tab", name="Draw").click()
    page.get_by_text("What the model makes of your drawing appears here.").wait_for()
    stroke(page, [(30, 30), (90, 30), (60, 110)])  # small, and in a corner
    page.get_by_alt_text("Result 4").wait_for()
    settled(page)
    given = decoded(pictures(page)["Your digit"])
    rows, columns = (np.flatnonzero((given > 60).any(axis=axis)) for axis in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)  # MNIST's rule: it fits 20x20
    page.get_by_role("radio", name="Finish").click()
    page.wait_for_function("old => document.querySelector('figure img').src !== old", arg=pictures(page)["Your digit"])
    settled(page)
    kept, made = (decoded(pictures(page)[name]) for name in ("Your digit", "Result 1"))
    assert kept[:14].max() > 200 and kept[14:].max() == 0
    np.testing.assert_array_equal(made[:14], kept[:14])
    assert (made[14:] != kept[14:]).any()


def decoded(source):
    """The picture of a data URL, [28, 28]."""
    import base64

    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("L"))


def test_a_digit_is_noised_and_watched_coming_back(open_page):
    page = open_page("digits")
    page.get_by_role("tab", name="Noise").click()
    page.get_by_alt_text("Result").first.wait_for()
    settled(page)
    found = pictures(page)
    assert {"Original", "Noised to t = 0.60", "Result", "Estimate 3"} <= found.keys()
    assert decoded(found["Original"]).std() > 30 and found["Original"] != found["Noised to t = 0.60"]
    assert found["Estimate 3"] == found["Result"]  # the last of three evaluations


def test_a_damaged_checkpoint_is_passed_over_in_words(serve, page, places, tmp_path):
    workdir, data = copied(places, tmp_path)
    for step in (workdir / "digits" / "checkpoints").iterdir():
        if step.name.isdigit():
            (step / "meta" / "metadata").write_text(json.dumps({"sha256": "0"}))
    page.goto(f"{serve(workdir, data).url}/digits")
    settled(page)
    assert chosen_model(page) == "mnist_classes"  # what comes along stands in for the run
    page.get_by_alt_text("Variation 1 of 3").wait_for(timeout=60_000)
