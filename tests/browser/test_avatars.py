"""The avatars page in a real browser: words are clicked, pictures follow, files and addresses bring them back."""

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

from ddpm_jax import animation, images
from ddpm_jax.dashboard import recall

from .conftest import settled


@pytest.fixture
def avatars(open_page):
    def open_it(query=""):
        page = open_page("", query)
        page.get_by_role("button", name="Download PNG").wait_for()
        return page

    return open_it


def tile(page, word):
    """The tile of a word, in an open shelf."""
    return page.locator(f'.tile[data-word="{word}"]')


def address(page):
    """The query of the page's address, as the page itself has it."""
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")


def says(page, **wanted):
    """Wait until the address says what is wanted."""
    page.wait_for_function(
        "wanted => Object.entries(wanted).every(([k, v]) => new URLSearchParams(location.search).get(k) === v)",
        arg=wanted,
    )
    settled(page)


def chosen(page):
    """The address of the large picture."""
    return page.locator('[data-testid="stImage"] img').first.get_attribute("src")


def shown(page):
    """The pixels of the large picture, a PNG."""
    form, _, content = chosen(page).partition(",")
    assert form == "data:image/png;base64"
    return images.decode_png(base64.b64decode(content), "what is shown")


def download(page, name):
    with page.expect_download() as file:
        page.get_by_role("button", name=name).click()
    with open(file.value.path(), "rb") as content:
        return content.read()


def test_a_word_is_asked_for_forbidden_and_left_open(avatars):
    page = avatars()
    page.get_by_text("Accessories", exact=False).first.click()
    before = chosen(page)
    tile(page, "Pipe").click()
    says(page, label="Pipe")
    assert tile(page, "Pipe").get_attribute("aria-label") == "Pipe: with" and chosen(page) != before
    tile(page, "Pipe").click()
    says(page, label="-Pipe")
    assert tile(page, "Pipe").get_attribute("aria-label") == "Pipe: without"
    tile(page, "Pipe").click()
    page.wait_for_function("!new URLSearchParams(location.search).has('label')")
    assert tile(page, "Pipe").get_attribute("aria-pressed") == "false"


def test_of_one_kind_there_is_one_and_keys_do_what_clicks_do(avatars):
    page = avatars()
    tile(page, "Cat").click()
    says(page, label="Cat")
    tile(page, "Cat").press("ArrowLeft")
    page.keyboard.press("Enter")
    says(page, label="Robot")
    assert tile(page, "Cat").get_attribute("aria-pressed") == "false"
    page.get_by_role("searchbox").fill("wiz")
    assert page.locator(".tile:visible").evaluate_all("tiles => tiles.map(t => t.dataset.word)")[0] == "Wizard Hat"
    tile(page, "Wizard Hat").click()
    says(page, label="Robot, Wizard Hat")


def test_a_click_is_answered_within_a_second_and_a_half(avatars):
    page = avatars("?label=Cat&steps=3")
    took = []
    for word in ("Robot", "Zombie", "Elf", "Human"):
        before, began = chosen(page), time.monotonic()
        tile(page, word).click()
        page.wait_for_function(
            """before => document.querySelector('[data-testid="stImage"] img')?.src.endsWith(before) === false""",
            arg=before,
        )
        took.append(time.monotonic() - began)
        settled(page)
    print(f"click to picture: {sorted(took)[len(took) // 2]:.2f} s (median of {len(took)}, a tiny net)")
    assert sorted(took)[len(took) // 2] < 1.5


def test_the_page_shows_the_very_pixels_of_the_picture(avatars):
    page = avatars("?label=Robot&seed=5&steps=2")
    large, made = shown(page), images.decode_png(download(page, "Download PNG"), "what is downloaded")
    assert np.array_equal(large, images.enlarge(made, len(large) // len(made)))


def test_what_is_transparent_is_shown_so(avatars):
    page = avatars("?label=Robot&seed=5&steps=2")
    page.get_by_text("Transparent").click()
    settled(page)
    assert shown(page).shape[2] == 4 and {0, 255} == set(np.unique(shown(page)[..., 3]))


def test_a_pixel_is_as_wide_as_another(avatars):
    page = avatars("?label=Robot&steps=2")
    for width in (1280, 1437, 390):
        page.set_viewport_size({"width": width, "height": 900})
        settled(page)
        assert page.locator(".st-key-large img").bounding_box()["width"] % 16 == 0
    page.get_by_role("radio", name="Grid").click()
    sheet = page.locator(".st-key-sheet img")
    sheet.wait_for()
    settled(page)
    assert sheet.bounding_box()["width"] == sheet.evaluate("image => image.naturalWidth")
    page.get_by_role("radio", name="History").click()
    page.get_by_role("button", name="Restore 1").wait_for()
    settled(page)
    small = page.locator('[data-testid="stImage"] img')
    assert all(box["width"] % 16 == 0 for box in (one.bounding_box() for one in small.all()))


def test_the_page_has_an_address_of_its_own_too(avatars):
    page = avatars("avatars?label=Robot&steps=2")
    assert page.get_by_role("dialog").count() == 0 and tile(page, "Robot").get_attribute("data-state") == "1"
    assert page.title() == "Avatars - ddpm_jax"


def test_a_picture_to_start_from_can_be_taken_back(avatars):
    page = avatars("?steps=2")
    page.get_by_role("radio", name="From a picture").click()
    content = images.encode_png(images.to_pil(np.zeros((16, 16, 3), np.uint8)))
    page.locator('input[type="file"]').set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": content})
    page.get_by_text("variation 1", exact=True).wait_for()
    page.get_by_role("button", name="Remove a.png").click()
    page.get_by_text("variation 1", exact=True).wait_for(state="detached")


def test_a_search_without_a_find_says_so(avatars):
    page = avatars()
    page.get_by_role("searchbox").fill("zzzz")
    page.get_by_text("No word has “zzzz”.").wait_for()


def test_a_permalink_shows_the_very_same_picture_in_another_tab(avatars, browser):
    page = avatars("?label=Cat%2C+Cap&seed=11&n=5&pick=3&complete=1")
    one = download(page, "Download PNG")
    recipe = images.recipe_in(one, "it")
    assert (recipe["job"]["label"], recipe["job"]["seed"], recipe["job"]["pick"]) == ("Cat, Cap", 11, 3)
    other = browser.new_page()
    other.goto(page.url)
    other.get_by_role("button", name="Download PNG").wait_for()
    settled(other)
    two = download(other, "Download PNG")
    other.close()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(one))), np.asarray(Image.open(io.BytesIO(two))))


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_picture_that_is_dropped_restores_all_controls(avatars, tmp_path, kind):
    page = avatars("?label=Robot%2C+Crown%2C+-Pipe&seed=21&n=3&pick=2&steps=2&guidance=2.0")
    wanted = address(page)
    if kind == "gif":
        page.get_by_text("Show the denoising").click()
        content = download(page, "Download GIF")
        assert animation.recipe_in(content, "it")["job"]["label"] == "Robot, Crown, -Pipe"
    else:
        content = download(page, "Download PNG")
    (tmp_path / f"it.{kind}").write_bytes(content)
    page = avatars("?")
    assert address(page).keys() == {"model", "checkpoint"}
    page.get_by_role("radio", name="From a picture").click()
    page.locator('input[type="file"]').set_input_files(tmp_path / f"it.{kind}")
    says(page, **wanted)
    assert tile(page, "Crown").get_attribute("data-state") == "1"
    assert tile(page, "Pipe").get_attribute("data-state") == "-1"
    if kind == "png":
        assert np.array_equal(
            *(np.asarray(Image.open(io.BytesIO(c))) for c in (content, download(page, "Download PNG")))
        )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a PNG file"),
        (
            "large.png",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x32\xc8\0\0\x32\xc8\x08\x02\0\0\0" + b"\0" * 20_000,
            "is 13000x13000 pixels",
        ),
        ("<img src=x onerror=alert(1)>.png", b"nothing", "is not a PNG file"),
    ],
    ids=["EPS", "169 megapixels", "a tag for a name"],
)
def test_a_file_that_is_no_small_png_is_refused_in_words(avatars, tmp_path, name, content, said):
    page = avatars()
    page.get_by_role("radio", name="From a picture").click()
    page.locator('input[type="file"]').set_input_files({"name": name, "mimeType": "image/png", "buffer": content})
    page.get_by_text(said).wait_for()


def test_a_stranger_s_recipe_is_checked_like_an_address(avatars):
    job = {"kind": "sheet", "label": "../../etc/passwd", "n": 10**9, "seed": -1, "steps": 10**9, "model": "/etc"}
    recipe = {"job": job, "settings": {"sampler": "__import__"}, "checkpoint": "0", "which": "ema", "scale": 10**9}
    content = images.encode_png(images.to_pil(np.zeros((16, 16, 3), np.uint8)), recipe)
    page = avatars()
    page.get_by_role("radio", name="From a picture").click()
    page.locator('input[type="file"]').set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": content})
    page.get_by_text("Its recipe is for other words, and is left aside").wait_for()
    job["label"] = "Cat"
    content = images.encode_png(images.to_pil(np.zeros((16, 16, 3), np.uint8)), recipe)
    page.locator('input[type="file"]').set_input_files({"name": "b.png", "mimeType": "image/png", "buffer": content})
    page.get_by_text("n is 1000000000; it must be from 1 to 16").wait_for()
    assert address(page).keys() == {"model", "checkpoint", "label"}


def test_a_surprise_a_table_and_the_history(avatars):
    page = avatars()
    page.get_by_role("button", name="Surprise me").click()
    page.wait_for_function("new URLSearchParams(location.search).get('label')")
    settled(page)
    first = address(page)["label"]
    page.get_by_role("button", name="New seed").click()
    page.wait_for_function("new URLSearchParams(location.search).get('seed')")
    settled(page)
    page.mouse.move(0, 0)  # away from the button, whose hint lies over what is below
    page.get_by_role("radio", name="Grid").click()
    page.get_by_role("button", name="Download PNG").wait_for()
    assert images.recipe_in(download(page, "Download PNG"), "it")["job"]["kind"] == "grid"
    page.get_by_role("radio", name="History").click()
    page.get_by_role("button", name="Restore").nth(1).click()
    page.wait_for_function("!new URLSearchParams(location.search).has('seed')")
    assert address(page)["label"] == first


def test_a_word_that_was_cleared_can_be_clicked_again(avatars):
    page = avatars()
    tile(page, "Cat").click()
    says(page, label="Cat")
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("!new URLSearchParams(location.search).has('label')")
    settled(page)
    tile(page, "Cat").click()
    says(page, label="Cat")


def test_weights_are_in_the_link_and_other_pages_and_going_back_lose_nothing(avatars):
    page = avatars("?which=raw&label=Robot&seed=4")
    says(page, which="raw", label="Robot", seed="4")
    assert page.get_by_role("radio", name="Raw").get_attribute("aria-checked") == "true"
    page.get_by_role("link", name="Monitor").first.click()
    page.wait_for_url("**/monitor*")
    settled(page)
    page.get_by_role("link", name="Avatars").first.click()
    page.get_by_role("button", name="Download PNG").wait_for()
    says(page, which="raw", label="Robot", seed="4")
    page.get_by_role("button", name="New seed").click()
    page.wait_for_function("new URLSearchParams(location.search).get('seed') !== '4'")
    settled(page)
    page.wait_for_timeout(1000 * recall.LATE_S)  # before, the address that was left could be an echo
    page.go_back()
    says(page, which="raw", label="Robot", seed="4")


def test_a_table_and_an_edit_are_restored_from_their_files(avatars, tmp_path):
    page = avatars("?label=Cap&seed=6")
    page.get_by_role("radio", name="Grid").click()
    table = download(page, "Download PNG")
    page.get_by_role("radio", name="From a picture").click()
    given = {
        "name": "g.png",
        "mimeType": "image/png",
        "buffer": images.encode_png(images.to_pil(np.zeros((16, 16, 3), np.uint8))),
    }
    page.locator('input[type="file"]').set_input_files(given)
    page.get_by_alt_text("variation 1").wait_for()
    settled(page)
    edit = download(page, "Download PNG")
    for content, mode, seen in ((table, "Grid", "Rows"), (edit, "From a picture", "Strength")):
        page = avatars("?seed=1")
        page.get_by_role("radio", name="From a picture").click()
        file = {"name": f"{mode}.png", "mimeType": "image/png", "buffer": content}
        page.locator('input[type="file"]').set_input_files(file)
        says(page, label="Cap", seed="6")
        assert page.get_by_role("radio", name=mode).get_attribute("aria-checked") == "true"
        page.get_by_text(seen, exact=True).wait_for()
        again = download(page, "Download PNG")
        assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(c))) for c in (content, again)))


@pytest.mark.parametrize("mode", ["Grid", "From a picture", "History"])
def test_axe_finds_nothing_serious_after_a_click(avatars, mode):
    from axe_playwright_python.sync_playwright import Axe

    page = avatars()
    page.get_by_role("radio", name=mode).click()  # the pointer stays there
    settled(page)
    found = Axe().run(page).response["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []
