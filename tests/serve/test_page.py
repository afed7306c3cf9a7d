"""The page of the endpoint in headless Chromium, and what it is made of: bundle facts, atoms, static files."""

import io
import re
import shutil
import threading
from contextlib import contextmanager
from urllib.parse import unquote_plus, urlsplit

import numpy as np
import pytest
from bad_images import encode, with_orientation
from PIL import Image

import raypurify
from raypurify.methods import METHODS
from raypurify.pictures import mosaic
from serve.endpoint import TOKEN, noisy

httpx = pytest.importorskip("httpx")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# The sandbox needs rights that containers do not give; the rest keeps the browser from calling home.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
# Other hosts, and what a strict policy forbids.
ELSEWHERE = re.compile(
    r"""(?<!xmlns=")https?://(?!127) | <script(?!\ type="module"\ src=) | <style | @import | \son\w+= | \sstyle=""",
    re.X,
)
STATUS = "the server responded with a status of "
PATHS = ("/", "/page/page.css", "/page/page.js", "/page/icon.svg", "/docs")


def png(image):
    return {"name": "a cat.png", "mimeType": "image/png", "buffer": image}


@pytest.fixture(scope="module")
def browser(url, small_url):
    """A headless Chromium, started after Ray, which must not meet a running event loop."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="the page is tested with playwright: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium to test the page in: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens an address in a tab of its own. At the end: no other host was asked, no token stood in an address, and the
    console has no error but the refusals that were expected."""
    contexts, asked, complaints, refused = [], [], [], set()

    def visit(address, expected=(), **options):
        refused.update(expected)
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: message.type in ("error", "warning") and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        assert page.goto(address).status == 200
        return page

    yield visit
    for context in contexts:
        context.close()
    addresses = {urlsplit(one.removeprefix("blob:")) for one in asked}
    assert {address.hostname for address in addresses} == {"127.0.0.1"}
    assert not [one for one in asked if TOKEN in unquote_plus(one)]
    assert not [text for text in complaints if not any(f"Failed to load resource: {one}" in text for one in refused)]


def pixels_of(page, selector):
    """What a canvas or an image shows, as uint8 (H, W, 3)."""
    width, height, data = page.eval_on_selector(
        selector,
        """shown => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [shown.naturalWidth ?? shown.width, shown.naturalHeight ?? shown.height];
            const context = canvas.getContext("2d");
            context.drawImage(shown, 0, 0);
            return [canvas.width, canvas.height, [...context.getImageData(0, 0, canvas.width, canvas.height).data]];
        }""",
    )
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def test_an_image_comes_back_with_its_cluster_its_distance_and_its_atoms(visit, url, bundle, client):
    sent = encode(noisy(40, 33))
    answer = client.post("/v1/purify", content=sent)
    page = visit(url)
    page.get_by_label("Token of this endpoint").fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator("#file").set_input_files(png(sent))
    page.wait_for_selector("#result", state="visible")

    purified = decoded(answer.content)
    np.testing.assert_array_equal(pixels_of(page, "#before img"), decoded(sent))
    np.testing.assert_array_equal(pixels_of(page, "#after img"), purified)
    difference = np.clip(127.5 + 10 * (purified.astype(float) - decoded(sent)), 0, 255)
    assert np.abs(pixels_of(page, "#change canvas") - difference).max() <= 0.5
    cluster = int(answer.headers["x-raypurify-cluster"])
    name = ["kočka", "kočka", "dog"][cluster]
    assert page.inner_text("#cluster-title") == f"Cluster {cluster}: {name}"
    np.testing.assert_array_equal(
        pixels_of(page, "#atoms img"), mosaic(raypurify.load(bundle).dictionaries[cluster].numpy())
    )
    distance = float(answer.headers["x-raypurify-distance"])
    assert f"this image: {distance:,.3g}" in page.inner_text("#scale")
    assert "threshold: 1,000,000,000" in page.inner_text("#scale")
    assert page.inner_text("#place") == "This bundle keeps no curve of clean images."
    assert page.locator("#scale svg").count() == 0
    assert "Not flagged. Its distance is within that of 99% of clean images" in page.inner_text(".verdict")
    assert "does not mean that it is clean" in page.inner_text(".verdict")
    # Those who hear the page are told.
    assert f"Cluster {cluster}: {name}" in page.inner_text("[role=status]")
    with page.expect_download() as saved:
        page.click("#save")
    assert saved.value.suggested_filename == "a cat.purified.png"
    assert saved.value.path().read_bytes() == answer.content
    page.reload()
    page.wait_for_selector("#token-set", state="visible")
    page.click("#forget")
    assert page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0


def test_an_image_is_seen_on_the_curve_of_clean_ones(visit, small_url):
    sent = encode(noisy(24, 24))
    distance = float(httpx.post(f"{small_url}/v1/purify", content=sent).headers["x-raypurify-distance"])
    page = visit(small_url)

    def with_curve(route):
        answer = route.fetch()
        told = answer.json()
        quantiles = [part * distance for part in (0, 0.5, 1.5, 2, 3)]
        told["distances"] |= {"quantiles": quantiles, "threshold": 2 * distance, "quantile": 0.75}
        route.fulfill(response=answer, json=told)

    page.route("**/v1/bundle", with_curve)
    page.reload()
    page.locator("#file").set_input_files(png(sent))
    page.wait_for_selector("#result", state="visible")
    # Half of the way from the second of four steps to the third.
    where = "farther than 37% of clean images"
    assert page.inner_text("#place") == f"This image is {where}."
    curve = page.get_by_role("img", name=f"This image is {where}.")
    assert f"distance {distance:,.3g}, {where}. Not flagged." in page.inner_text("[role=status]")
    # The scale ends at 1.25 thresholds.
    line = curve.locator("path.line").get_attribute("d")
    assert line.startswith("M0 100L0.0 100.0L200.0 75.0L600.0 50.0L800.0 25.0L1200.0 0.0H")
    box, dot = curve.bounding_box(), curve.locator(".dot").bounding_box()
    assert (dot["x"] + dot["width"] / 2 - box["x"]) / box["width"] == pytest.approx(0.4, abs=0.01)
    assert 1 - (dot["y"] + dot["height"] / 2 - box["y"]) / box["height"] == pytest.approx(0.375, abs=0.01)
    said = page.evaluate(
        """async distances => {
            const { farther } = await import("./page/curve.js");
            const quantiles = [...Array(101).keys()].map(k => 1 + k / 100);
            return distances.map(distance => farther(quantiles, distance));
        }""",
        [0.5, 1.004, 1.015, 1.989, 2, 7],
    )
    assert said == [
        "nearer than all clean images",
        "nearer than 99% of clean images",
        "farther than 1% of clean images",
        "farther than 98% of clean images",
        *["as far as the farthest of all clean images, or farther"] * 2,
    ]


def test_a_flag_and_a_photo_that_lies_on_its_side(visit, small_url):
    page = visit(small_url)

    def flagged(route):
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "x-raypurify-flagged": "true"})

    page.route("**/v1/purify", flagged)
    page.locator("#file").set_input_files(png(with_orientation(6)))
    page.wait_for_selector("#result", state="visible")
    assert "Flagged. Its distance is beyond that of 99% of clean images" in page.inner_text(".verdict")
    for selector in ("#before img", "#after img", "#change canvas"):
        assert pixels_of(page, selector).shape == (20, 24, 3)


def test_the_keyboard_is_enough(visit, small_url):
    page = visit(small_url)
    page.on("filechooser", lambda chooser: chooser.set_files(png(encode(noisy(24, 24)))))

    def tab_to(name):
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == name:
                return
        pytest.fail(f"Tab does not reach {name}")

    tab_to("file")
    assert page.eval_on_selector("#drop", "drop => getComputedStyle(drop).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#result", state="visible")
    tab_to("save")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_an_image_can_be_dropped_and_pasted(visit, small_url):
    page = visit(small_url)
    for kind, carrier in (("drop", "DragEvent"), ("paste", "ClipboardEvent")):
        page.evaluate(
            """async ([kind, carrier, bytes]) => {
                const held = new DataTransfer();
                held.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, { type: "image/png" }));
                const given = { dataTransfer: held, clipboardData: held, bubbles: true };
                document.body.dispatchEvent(new globalThis[carrier](kind, given));
            }""",
            [kind, carrier, list(encode(noisy(24, 24)))],
        )
        page.wait_for_selector(f"#result:has-text('{kind}.png')", state="visible")
    empty = "new DragEvent('drop', { dataTransfer: new DataTransfer(), bubbles: true })"
    page.evaluate(f"document.body.dispatchEvent({empty})")
    page.wait_for_selector("#problem:has-text('This was no file.')", state="visible")


def test_the_last_of_several_images_is_shown(visit, small_url):
    page = visit(small_url)
    held = []
    page.route("**/atoms.png", lambda route: route.continue_() if held else held.append(route))
    with page.expect_request("**/atoms.png"):
        page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
    last = encode(noisy(30, 24, seed=1))
    page.locator("#file").set_input_files({**png(last), "name": "last.png"})
    page.wait_for_selector("#result", state="visible")
    assert page.inner_text("#result-title") == "last.png"
    np.testing.assert_array_equal(pixels_of(page, "#before img"), decoded(last))


def test_an_image_comes_back_where_the_bundle_cannot_be_told(visit, small_url):
    page = visit(small_url, expected=["net::ERR_FAILED"])
    page.route("**/v1/bundle", lambda route: route.abort())
    page.reload()
    page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
    page.wait_for_selector("#result", state="visible")
    assert pixels_of(page, "#after img").shape == (24, 24, 3)
    assert "did not tell of its bundle" in page.inner_text("#result")
    assert page.locator("#why").is_hidden()


def test_what_is_refused_is_said(visit, small_url):
    page = visit(small_url, expected=[STATUS + status for status in ("400", "413", "415", "422")])
    shown = page.locator("[role=alert]")
    for sent, title, text in (
        (b"not an image", "This is not an image.", ""),
        (encode(np.zeros((100, 401, 3), np.uint8)), "The image is too large.", "401×100 is 40,100 pixels"),
        (bytes(100_001), "The image is too large.", "100,001 bytes; this endpoint takes 100,000 at most"),
        (encode(noisy(4, 30)), "The image is too small.", "at least 8 pixels"),
        (b"", "The file is empty.", ""),
    ):
        page.locator("#file").set_input_files(png(sent))
        page.wait_for_selector(f"#problem:has-text('{title}')", state="visible")
        assert text in shown.inner_text()
        assert page.locator("#result").is_hidden()
        assert page.locator("#work").is_hidden()
        assert page.locator("#again").is_hidden()
    page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
    page.wait_for_selector("#result", state="visible")
    assert shown.inner_text() == ""


def test_without_the_token_the_image_waits_for_it(visit, url):
    page = visit(url, expected=[STATUS + "401"])
    page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
    for title, given in (
        ("This endpoint asks for a token.", "a wrong one"),
        ("The endpoint does not accept this token.", TOKEN),
    ):
        page.wait_for_selector(f"#problem:has-text('{title}')", state="visible")
        assert page.evaluate("document.activeElement.id") == "token"
        # What no header can hold is not sent.
        page.keyboard.insert_text("→")
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector('#token:invalid') !== null")
        page.locator("#token").fill("")
        page.keyboard.type(given)
        page.keyboard.press("Enter")
    page.wait_for_selector("#result", state="visible")
    assert page.locator("#problem").is_hidden()


@contextmanager
def crowd(address):
    """Callers who fill all places of an endpoint for the length of the block."""
    data, over = encode(noisy(190, 200), "JPEG"), threading.Event()

    def call():
        while not over.is_set():
            httpx.post(f"{address}/v1/purify", content=data, timeout=60)

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        over.set()
        for caller in callers:
            caller.join()


def test_a_busy_endpoint_says_when_to_ask_again(visit, small_url):
    page = visit(small_url, expected=[STATUS + "503"])
    with crowd(small_url):
        for _ in range(10):
            page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
            page.wait_for_selector("#problem:visible, #result:visible")
            if page.locator("#problem").is_visible():
                break
        assert re.match(r"The endpoint is busy\. [A-Z].*; try again in a moment", page.inner_text("[role=alert]"))
        assert re.fullmatch(r"Try again in \d+ s", page.inner_text("#again"))
        assert page.locator("#again").is_disabled()
    page.click("#again")  # once it is enabled
    page.wait_for_selector("#result", state="visible")


def test_a_call_can_be_cancelled_and_the_endpoint_may_be_gone(visit, small_url):
    page = visit(small_url, expected=["net::ERR_CONNECTION_REFUSED"])
    page.route("**/v1/purify", lambda route: None)
    page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("#work", state="hidden")
    assert page.inner_text("[role=status]") == "Cancelled."
    page.unroute("**/v1/purify")
    page.route("**/v1/purify", lambda route: route.abort("connectionrefused"))
    page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
    page.wait_for_selector("#problem:has-text('The endpoint did not answer.')", state="visible")
    page.unroute("**/v1/purify")
    page.click("#again")
    page.wait_for_selector("#result", state="visible")


def luminance(colour):
    channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4) @ (
        0.2126,
        0.7152,
        0.0722,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_dark_and_in_light_and_in_narrow_windows(visit, small_url, scheme):
    page = visit(small_url, color_scheme=scheme, viewport={"width": 320, "height": 640})
    names = ("ground", "surface", "soft", "error-soft", "ink", "quiet", "accent", "on-accent", "warn", "error")
    colours = page.evaluate(
        """names => names.map(name => {
            const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
            return text.length === 4 ? text.replace(/[^#]/g, "$&$&") : text;
        })""",
        names,
    )
    light = dict(zip(names, map(luminance, colours)))
    assert (light["ground"] > light["ink"]) == (scheme == "light")
    for text, ground in (
        *((text, ground) for text in ("ink", "quiet", "accent", "warn") for ground in ("ground", "surface")),
        ("ink", "error-soft"),
        ("error", "error-soft"),
        ("on-accent", "accent"),
        ("accent", "soft"),
    ):
        brighter, darker = sorted((light[text], light[ground]), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= 4.5, f"{text} on {ground}"
    page.locator("#file").set_input_files(png(encode(noisy(24, 24))))
    page.wait_for_selector("#result", state="visible")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 320


def test_without_scripts_the_page_says_what_to_do(visit, url, small_url):
    for address, header in ((url, '-H "Authorization: Bearer $RAYPURIFY_TOKEN"'), (small_url, "")):
        page = visit(address, java_script_enabled=False)
        assert page.get_by_text("needs JavaScript").is_visible()
        line = page.inner_text("pre")
        assert f"curl {header}".strip() in line
        assert f"{address}/v1/purify" in line
        assert not page.locator("#drop, #token-form, #result, #work, #problem").filter(visible=True).count()
        assert "does not stop" in page.inner_text("#limits")


def test_the_page_names_the_address_at_which_it_is_seen(visit, small_url):
    """A proxy that ends TLS asks the endpoint at another address, and by plain HTTP."""
    page = visit(small_url)

    def inside(route):
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace(small_url, "http://inside:8000"))

    page.route(f"{small_url}/", inside)
    page.goto(f"{small_url}/")
    page.wait_for_selector("#drop", state="visible")
    assert "inside" not in page.inner_text("pre")
    assert page.inner_text("#address") == f"{small_url}/v1/purify"


def test_nothing_runs_on_the_page_but_what_the_endpoint_serves(url, small_url):
    for base in (url, small_url):
        for path in PATHS:
            answer = httpx.get(base + path)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert not ELSEWHERE.findall(answer.text)
    for name in ("index.html", "..%2Fapp.py", "nothing.js"):
        answer = httpx.get(f"{url}/page/{name}")
        assert (answer.status_code, answer.json()["error"]) == (404, "not-found")


def test_a_name_of_the_host_is_no_markup(url):
    page = httpx.get(url, headers={"Host": "a<b>'&c"}).text
    assert "<b>'" not in page


def test_the_bundle_is_told_to_those_with_the_token(client, url, bundle):
    loaded = raypurify.load(bundle)
    paths = ("/v1/bundle", "/v1/bundle/clusters/1/atoms.png")
    for path in paths:
        refused = httpx.get(url + path)
        assert (refused.status_code, refused.json()["error"]) == (401, "unauthorized")
        answer = client.get(path)
        assert answer.status_code == 200
        tag = answer.headers["etag"]
        assert loaded.digest in tag
        again = client.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert client.get(path, headers={"If-None-Match": '"other"'}).content == answer.content
    # A browser may hold what a version before this one told of the same bundle.
    assert client.get(paths[0], headers={"If-None-Match": f'"{loaded.digest}"'}).status_code == 200
    assert client.get(paths[0]).json() == {
        "name": "untrained",
        "digest": loaded.digest,
        "method": {name: getattr(METHODS["rsfp"], name) for name in ("name", "cluster", "distance")},
        "classes": ["kočka", "dog"],
        "clusters": [
            {"cluster": 0, "class": "kočka", "dictionary": "own"},
            {"cluster": 1, "class": "kočka", "dictionary": "own"},
            {"cluster": 2, "class": "dog", "dictionary": "own"},
        ],
        "atoms": {"count": 8, "height": 8, "width": 8},
        "distances": {"threshold": 1e9, "quantile": 0.99, "images": 1, "quantiles": []}
        | {"mean": None, "attacked_mean": None},
    }
    picture = client.get(paths[1])
    assert picture.headers["content-type"] == "image/png"
    assert np.abs(decoded(picture.content).astype(int) - mosaic(loaded.dictionaries[1].numpy())).max() <= 1
    for lost in ("3", "-1", "x", "1.0", "9" * 5000, "²"):
        answer = client.get(f"/v1/bundle/clusters/{lost}/atoms.png")
        assert (answer.status_code, answer.json()["error"]) == (404, "no-cluster")


def test_the_bundle_is_in_the_documentation(url):
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    for path, kind in (("/v1/bundle", "application/json"), ("/v1/bundle/clusters/{cluster}/atoms.png", "image/png")):
        operation = paths[path]["get"]
        assert operation["security"] == [{"HTTPBearer": []}]
        assert {"200", "304", "401", "503"} <= operation["responses"].keys()
        assert kind in operation["responses"]["200"]["content"]
    assert not {"/", "/page/{name}"} & paths.keys()
