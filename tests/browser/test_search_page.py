"""The search page in a browser: type, look, play, filter; keyboard, phone, token."""

import pytest
from browsers import FILMS, MISSING, PHONE, SECONDS, browsing, chromium, write_films
from moment_index import Moment, MomentIndex
from search_servers import serving

from vop_jax.api import load
from vop_jax.index.video_index import VideoIndex
from vop_jax.search import as_json
from vop_jax.serving.slots import BusyError
from vop_jax.weights.locate import BACKBONE

pytestmark = pytest.mark.browser


GONE = "squares/gone.mp4"


@pytest.fixture(scope="module")
def model():
    return load(BACKBONE)


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    """An index of films in several codecs, one of which has gone."""
    folder = tmp_path_factory.mktemp("films")
    write_films(folder, (*FILMS, (GONE, "libx264", 96)))
    place = tmp_path_factory.mktemp("index") / "films.index"
    with VideoIndex.create(place) as index:
        index.update(model, folder, BACKBONE)
    (folder / GONE).unlink()
    with VideoIndex.open(place) as index:
        yield index


@pytest.fixture(scope="module")
def server(index, model, tmp_path_factory):
    with serving(
        index, tmp_path_factory.mktemp("cache"), model=model, as_json=as_json
    ) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    if chromium() is None:
        pytest.fail(MISSING, pytrace=False)
    with browsing() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    """A page that notes what it asks for, and what goes wrong in it."""
    with opened(browser, server) as page:
        yield page


class opened:
    """A new page of the server; at its end, all must have gone well."""

    def __init__(self, browser, server, **settings):
        self.context = browser.new_context(**settings)
        self.server, self.base = server, f"http://127.0.0.1:{server.port}/"

    def __enter__(self):
        page = self.context.new_page()
        self.asked, self.wrong = [], []
        page.on("request", lambda x: self.asked.append(x.url))
        page.on("pageerror", lambda x: self.wrong.append(str(x)))
        page.on(
            "console",
            lambda x: self.wrong.append(x.text) if x.type == "error" else None,
        )
        page.goto(self.server.url)
        return page

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            assert not self.wrong
            # No request leaves the server.
            assert [x for x in self.asked if not x.startswith(self.base)] == []
            assert self.asked


def search(page, text):
    page.fill("input[name=q]", text)
    page.press("input[name=q]", "Enter")
    page.wait_for_function(
        "text => document.querySelector('#results h2')?.textContent === text", arg=text
    )


def names(page):
    return page.locator(".card .name").all_inner_texts()


def playing(page):
    """The video, when its time goes on."""
    page.wait_for_selector("#player video", timeout=20_000)
    page.wait_for_function(
        "() => document.querySelector('#player video').currentTime > 0.2",
        timeout=20_000,
    )
    return page.locator("#player video")


def test_a_typed_query_shows_cards_with_pictures(page):
    search(page, "a red circle")
    assert len(names(page)) == 6
    assert all(name in " ".join(names(page)) for name, _, _ in FILMS)
    assert "q=a+red+circle" in page.url
    # Without a new page: the field keeps the focus, the change is announced.
    status = page.locator("#status")
    assert status.get_attribute("role") == "status"
    assert "6 stretches of 6 moments searched" in status.inner_text()
    assert page.evaluate("document.activeElement.name") == "q"
    pictures = page.locator(".picture img")
    pictures.first.wait_for()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.picture img')].some(x => x.naturalWidth)"
    )
    page.go_back()
    page.wait_for_selector(".examples", state="attached")
    assert page.input_value("input[name=q]") == ""


@pytest.mark.parametrize(("name", "codec", "size"), FILMS)
def test_a_click_plays_the_stretch_whatever_its_codec(page, name, codec, size):
    search(page, "a red circle")
    page.locator(f'a.open[aria-label*="{name}"]').click()
    video = playing(page)
    # A preview is at most 480 pixels high.
    assert video.evaluate("x => x.videoWidth") == min(size, 480)
    assert video.evaluate("x => x.error") is None
    assert video.evaluate("x => x.duration") == pytest.approx(SECONDS, abs=0.3)
    direct = name.endswith((".mp4", ".webm"))
    source = video.evaluate("x => new URL(x.src).pathname")
    assert source == ("/file" if direct else "/preview")
    # Seeking works: byte ranges, and an index at the beginning.
    video.evaluate("x => { x.pause(); x.currentTime = 3; }")
    page.wait_for_function(
        "() => { const x = document.querySelector('#player video');"
        " return !x.seeking && x.currentTime === 3 && x.readyState >= 2; }"
    )
    page.keyboard.press("Escape")
    page.wait_for_selector("#player", state="hidden")
    # Nothing plays on unseen.
    page.wait_for_selector("video", state="detached")


def test_a_file_begins_at_the_stretch(browser, index, tmp_path):
    late = MomentIndex(
        index.root, [Moment(FILMS[0][0], 2.0, 3.5, (220, 20, 20), duration=4.0)]
    )
    with serving(late, tmp_path) as server, opened(browser, server) as page:
        search(page, "a red circle")
        page.locator("a.open").click()
        page.wait_for_function(
            "() => document.querySelector('#player video')?.currentTime >= 2"
        )


def test_the_keyboard_alone(page):
    page.keyboard.press("Tab")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("a red circle")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")

    def focused():
        return page.evaluate(
            "[...document.querySelectorAll('.open')].indexOf(document.activeElement)"
        )

    page.keyboard.press("ArrowDown")
    assert focused() == 0
    page.keyboard.press("ArrowRight")
    assert focused() == 1
    page.keyboard.press("ArrowLeft")
    assert focused() == 0
    page.keyboard.press("ArrowDown")
    # Straight below: the first card of the second row.
    boxes = page.locator(".open").evaluate_all(
        "all => all.map(x => x.getBoundingClientRect()).map(x => [x.left, x.top])"
    )
    below = focused()
    assert boxes[below][0] == boxes[0][0]
    assert boxes[below][1] > boxes[0][1]
    page.keyboard.press("ArrowUp")
    assert focused() == 0
    page.keyboard.press("Enter")
    playing(page)
    # Arrows are the player's now.
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    page.wait_for_selector("#player video", state="detached")
    assert focused() == 0
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.name") == "q"
    # A slash that is typed is a letter.
    page.keyboard.press("/")
    assert page.input_value("input[name=q]").endswith("/")


def test_filters_narrow_the_answer(page):
    page.click("summary")
    page.fill("input[name=folder]", "squares")
    search(page, "a green circle")
    assert len(names(page)) == 3
    assert all("squares/" in x for x in names(page))
    assert "folder=squares" in page.url
    page.fill("input[name=min_seconds]", "100")
    page.press("input[name=min_seconds]", "Enter")
    page.wait_for_selector("text=No video matches these filters")
    assert "No video matches" in page.inner_text("#status")


def test_more_like_this_keeps_the_filters(page):
    page.goto(page.url + "?q=a+red+circle&folder=circles")
    card = page.locator(".card", has_text="circles/mpeg4.avi")
    card.locator("text=More like this").click()
    page.wait_for_function("() => location.search.includes('like=')")
    page.wait_for_function(
        "() => document.activeElement.matches('.open')",
    )
    assert names(page)
    assert all("circles/" in x for x in names(page))
    assert "folder=circles" in page.url


def test_what_is_unknown_or_missing_is_said(page):
    search(page, "zebra")
    assert "knows none of these words" in page.inner_text("#remark")
    assert "knows none of these words" in page.inner_text("#status")
    gone = page.locator(".card", has_text=GONE)
    assert "file is missing" in gone.inner_text()
    assert gone.locator("a.open").count() == 0
    page.fill("input[name=q]", "")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("text=The query is empty")


def test_that_nothing_stands_out_is_said(browser, index, tmp_path):
    blue = MomentIndex(index.root, [Moment(FILMS[0][0], 0, 4, (20, 20, 220))])
    with serving(blue, tmp_path) as server, opened(browser, server) as page:
        search(page, "a red circle")
        assert page.locator(".card.weak").count() == 1
        assert "Nothing stands out" in page.inner_text("#results")
        assert "Nothing stands out" in page.inner_text("#status")
        search(page, "a blue circle")
        assert page.locator(".card.weak").count() == 0
        assert "Nothing stands out" not in page.inner_text("body")


def test_the_path_is_copied(browser, server, index):
    with opened(
        browser, server, permissions=["clipboard-read", "clipboard-write"]
    ) as page:
        search(page, "a red circle")
        card = page.locator(".card", has_text=FILMS[0][0])
        card.locator(".copy").click()
        page.wait_for_selector("text=Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == str(index.root / FILMS[0][0])


def test_a_phone_s_width(browser, server):
    with opened(browser, server, viewport=PHONE, is_mobile=True) as page:
        for text in ("a red circle", "a green circle"):
            search(page, text)
            page.click("summary")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"]
        page.locator("a.open").first.click()
        video = playing(page)
        box = video.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_dark_mode(browser, server):
    def lightness(scheme):
        with opened(browser, server, color_scheme=scheme) as page:
            search(page, "a red circle")
            return [
                sum(
                    page.evaluate(
                        "name => getComputedStyle(document.querySelector(name))"
                        ".backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)",
                        name,
                    )
                )
                for name in ("body", ".card", "input[name=q]")
            ]

    for dark, light in zip(lightness("dark"), lightness("light"), strict=True):
        assert dark < 150 < 600 < light


def test_without_scripts(browser, server):
    """Search, and play on a page of its own."""
    with opened(browser, server, java_script_enabled=False) as page:
        page.fill("input[name=q]", "a red circle")
        page.press("input[name=q]", "Enter")
        page.wait_for_selector(".card")
        assert not page.locator(".copy").first.is_visible()
        page.locator('a.open[aria-label*="mpeg4.avi"]').click()
        page.wait_for_selector("video[src^='/preview']")
        assert page.locator("h1").inner_text() == "circles/mpeg4.avi"


def test_a_token_is_asked_for_once(browser, index, model, tmp_path):
    with serving(index, tmp_path, model=model, need_token=True) as server:
        base = f"http://127.0.0.1:{server.port}/"
        with opened(browser, server) as page:
            # Neither in the address nor for scripts.
            assert page.url == base
            assert page.evaluate("document.cookie") == ""
            search(page, "a red circle")
            page.locator("a.open").first.click()
            playing(page)
        context = browser.new_context()
        stranger = context.new_page()
        assert stranger.goto(base).status == 403
        assert "the token" in stranger.inner_text("body")
        assert stranger.goto(f"{base}?token=guess").status == 403
        context.close()


def test_what_a_screen_reader_finds(page):
    search(page, "a red circle")
    tree = page.locator("body").aria_snapshot()
    for found in (
        *("- main:", "- search:", '- heading "Search" [level=1]', "- status:"),
        *('searchbox "What happens in the video"', '- region "a red circle":'),
        '- link "Play circles/h264.mp4, 0:00',
    ):
        assert found in tree, tree
    unnamed = page.locator("a, button, input").evaluate_all(
        "all => all.filter(x => x.checkVisibility() && !x.labels?.length"
        " && !x.getAttribute('aria-label') && !x.textContent.trim()).length"
    )
    assert unnamed == 0
    page.locator('a.open[aria-label*="h264.mp4"]').click()
    playing(page)
    assert page.locator("#player").get_attribute("aria-labelledby") == "playing"
    assert "circles/h264.mp4" in page.inner_text("#playing")


def test_a_busy_server_is_asked_again(browser, server, monkeypatch):
    """It says when; the third time there is a place, or what it says is shown."""
    searches, reads, asked = server.service.searches, server.service.reads, []
    run = searches.run

    async def busy(function, *arguments):
        asked.append(function)
        if len(asked) < 3:
            raise BusyError
        return await run(function, *arguments)

    async def never(function, *arguments):
        raise BusyError

    page = browser.new_page()
    page.goto(server.url)
    monkeypatch.setattr(searches, "run", busy)
    search(page, "a red circle")
    assert len(asked) == 3
    monkeypatch.setattr(reads, "run", never)
    page.locator("a.open").first.click()
    page.wait_for_selector("#stage:has-text('too many requests at once')")
    page.close()


def test_a_server_that_has_gone_is_said(browser, index, model, tmp_path):
    with serving(index, tmp_path, model=model) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        search(page, "a red circle")
    page.locator("a.open").first.click()
    page.wait_for_selector("text=The server does not answer")
    context.close()
