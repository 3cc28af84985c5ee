"""The local page in a real browser: studies dropped, chosen and pasted, the keyboard alone, both themes, all widths."""

import threading

import pytest
from app_client import listening, png
from browser import NARROWEST, PHONE, WIDE
from playwright.sync_api import expect

pytest_plugins = ("app_client",)
pytestmark = pytest.mark.slow


def picture(name, seed=0, data=None):
    return dict(name=name, mimeType="image/png", buffer=png(seed) if data is None else data)


@pytest.fixture
def opened(watch, live):
    "A watched page; at its end it must have been silent, and have spoken to its own server alone."
    pages = []

    def open_page(*args, quiet=True, **kwargs):
        seen = watch(*args, **kwargs)
        seen.page.goto(f"http://127.0.0.1:{live}/")
        pages.append((seen, quiet))
        return seen

    yield open_page
    for seen, quiet in pages:
        assert not seen.problems or not quiet, seen.problems
        own = (f"http://127.0.0.1:{live}/", f"blob:http://127.0.0.1:{live}/", "data:image/")
        assert not [url for url in seen.requests if not url.startswith(own)]


def send(page, *files, region="XR_HAND"):
    page.set_input_files("#files", list(files))
    if region is not None:
        page.select_option("#region", region)
    page.click("#send")


def studies(page):
    return page.locator("#history li")


def test_choose_answer_history_and_a_second_study(opened):
    seen = opened()
    page = seen.page
    assert page.locator("#history-part").is_hidden()
    page.set_input_files("#files", [picture("one.png", 1), picture("two.png", 2)])
    expect(page.locator("#chosen li")).to_have_count(2)
    expect(page.locator("#told")).to_contain_text("choose it")
    page.get_by_role("button", name="Remove two.png").click()
    expect(page.locator("#chosen li")).to_have_count(1)
    page.select_option("#region", "XR_HAND")
    page.get_by_role("button", name="Look at this study").click()
    verdict = page.locator("#answer h2#verdict")
    expect(verdict).to_be_focused()
    expect(verdict).to_contain_text("Called ")
    expect(page.locator("#status")).to_contain_text("one.png: called ")
    expect(page.get_by_role("img", name="View 1: radiograph one.png, 64 x 80 pixels")).to_be_visible()
    expect(page.get_by_role("img", name="View 1. Heat map")).to_be_visible()
    first = page.locator("article.answer").get_attribute("data-p")
    send(page, picture("three.png", 3), region="XR_WRIST")
    expect(studies(page)).to_have_count(2)
    expect(page.locator("article.answer")).to_have_attribute("data-name", "three.png")
    expect(studies(page).first.locator("button")).to_have_attribute("aria-current", "true")
    studies(page).nth(1).locator("button").click()
    expect(page.locator("article.answer")).to_have_attribute("data-name", "one.png")
    expect(page.locator("article.answer")).to_have_attribute("data-p", first)
    expect(page.locator("#answer h2#verdict")).to_be_focused()
    page.get_by_role("button", name="Clear").click()
    expect(studies(page)).to_have_count(0)
    assert page.locator("#history-part").is_hidden() and "one.png" not in page.content()


def test_a_second_study_during_the_first(opened, loaded, monkeypatch):
    "The first is held up; both answers come, each to its own study, and the page works meanwhile."
    go, real = threading.Event(), loaded.answer

    def slow(files, region):
        if files[0].name == "slow.png":
            assert go.wait(30)
        return real(files, region)

    monkeypatch.setattr(loaded, "answer", slow)
    page = opened().page
    send(page, picture("slow.png", 1))
    expect(page.locator("#history .busy")).to_have_count(1)
    send(page, picture("second.png", 2), picture("more.png", 3), region="XR_WRIST")
    expect(page.locator("#history .busy")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("waits")
    assert page.locator("article.answer").count() == 0
    go.set()
    expect(page.locator("#history .busy")).to_have_count(0)
    names = studies(page).locator("b").all_text_contents()
    assert names == ["second.png", "slow.png"]
    for name, region, views in (("slow.png", "hand", 1), ("second.png", "wrist", 2)):
        page.locator("#history button", has_text=name).click()
        article = page.locator("article.answer")
        expect(article).to_have_attribute("data-name", name)
        expect(article).to_have_attribute("data-region", region)
        expect(article.locator(".view")).to_have_count(views)


DROP = """([type, files]) => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name));
  const target = document.querySelector("h1");
  const event = type === "paste"
    ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true})
    : new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true});
  target.dispatchEvent(event);
  return event.defaultPrevented;
}"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted_anywhere(opened, way):
    page = opened().page
    assert page.evaluate(DROP, [way, [["dropped.png", list(png(4))], ["notes.txt", [65]]]])
    expect(page.locator("#chosen li")).to_have_count(1)
    page.select_option("#region", "XR_HAND")
    page.click("#send")
    expect(page.locator("article.answer")).to_have_attribute("data-name", "dropped.png")


def test_a_folder_tells_region_and_study(opened, tmp_path):
    folder = tmp_path / "XR_WRIST" / "patient00007" / "study1_negative"
    folder.mkdir(parents=True)
    for i in (1, 2):
        (folder / f"image{i}.png").write_bytes(png(i))
    (folder / "notes.csv").write_text("x")
    (folder / "._image1.png").write_bytes(b"x")
    page = opened().page
    page.set_input_files("#folder", tmp_path / "XR_WRIST")
    expect(page.locator("#chosen li")).to_have_count(2)
    expect(page.locator("#told")).to_have_text("The path says wrist.")
    page.click("#send")
    article = page.locator("article.answer")
    expect(article).to_have_attribute("data-region", "wrist")
    expect(article).to_have_attribute("data-name", "XR_WRIST/patient00007/study1")
    (folder.parent / "study2_positive").mkdir()
    (folder.parent / "study2_positive" / "image1.png").write_bytes(png(3))
    page.set_input_files("#folder", tmp_path / "XR_WRIST")
    page.click("#send")
    expect(page.get_by_role("alert")).to_contain_text("These are 2 studies")
    expect(studies(page)).to_have_count(1)


def test_of_two_folders_called_like_regions_the_inner_one_counts_here_and_at_the_server(opened, tmp_path):
    folder = tmp_path / "xr_wrist" / "xr_hand"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png())
    page = opened().page
    page.set_input_files("#folder", tmp_path / "xr_wrist")
    expect(page.locator("#told")).to_have_text("The path says hand.")
    page.click("#send")
    expect(page.locator("article.answer")).to_have_attribute("data-region", "hand")


def test_the_keyboard_is_enough(opened, tmp_path):
    page = opened().page
    order = []
    for _ in range(13):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", order
    assert order[:4] == ["files", "folder", "region", "send"] and "wrist" in order
    page.locator("#files").focus()
    page.set_input_files("#files", [picture("keys.png", 5)])
    page.locator("#region").focus()
    page.keyboard.press("h")  # hand
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_be_focused()
    page.locator(".view button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    expect(page.locator("dialog")).to_contain_text("Research only")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(page.locator(".view button")).to_be_focused()
    page.locator("#examples button").first.focus()
    page.keyboard.press("Space")
    expect(studies(page)).to_have_count(2)
    expect(page.locator("#verdict")).to_be_focused()
    truth = page.locator(".truth")
    assert not truth.locator("p").is_visible()
    truth.locator("summary").press("Enter")
    expect(truth.locator("p")).to_contain_text("It was drawn as")


def test_a_busy_server_is_asked_again(opened, loaded):
    "Nobody has to press a button twice because others were first."
    seen, refused = opened(quiet=False), []

    def busy(route):
        refused.append(route.request.url)
        route.fulfill(status=503, body="busy") if len(refused) == 1 else route.continue_()

    seen.page.route("**/study", busy)
    send(seen.page, picture("one.png"))
    expect(seen.page.locator("article.answer")).to_have_attribute("data-name", "one.png")
    assert len(refused) == 2


def test_errors_stand_where_they_belong(opened):
    page = opened(quiet=False).page
    page.click("#send")
    expect(page.get_by_role("alert")).to_contain_text("Choose the images")
    expect(page.locator("#files")).to_be_focused()
    send(page, picture("somewhere.png"), region=None)
    expect(page.get_by_role("alert")).to_contain_text("Which region")
    expect(page.locator("#region")).to_be_focused()
    expect(page.locator("#chosen li")).to_have_count(1)  # what was chosen stays
    page.select_option("#region", "XR_HAND")
    page.set_input_files("#files", [picture("<img src=x onerror=alert(1)>.png", data=b"<html>"), picture("b.png", 2)])
    page.click("#send")
    article = page.locator("article.answer")
    expect(article).to_contain_text("not an image but HTML")
    expect(article).to_contain_text("1 of 3 files could not be used")
    expect(article.locator(".view")).to_have_count(2)
    send(page, picture("page.png", data=b"<html>"))
    failed = page.locator("#answer .failed")
    expect(failed).to_contain_text("None of these files can be used")
    expect(failed).to_contain_text("page.png: not an image but HTML")
    expect(studies(page).first).to_contain_text("no answer")
    page.set_input_files("#files", [picture(f"{i}.png") for i in range(13)])
    expect(page.get_by_role("alert").first).to_contain_text("More than 12")
    expect(page.locator("#chosen li")).to_have_count(0)
    page.set_input_files("#files", [dict(name="notes.txt", mimeType="text/plain", buffer=b"x")])
    expect(page.get_by_role("alert").first).to_contain_text("PNG or JPEG")


@pytest.mark.parametrize(
    "size, theme",
    [(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (NARROWEST, "dark")],
    ids=["wide-light", "wide-dark", "phone-light", "narrowest-dark"],
)
def test_it_fits_and_axe_finds_nothing(opened, size, theme):
    seen = opened(size, theme, quiet=False)
    page = seen.page
    assert seen.violations() == [] and seen.overflow() <= 0
    name = "averyveryverylongname" * 5 + ".png"
    page.set_input_files("#files", [picture(name, 1), picture("broken.png", data=b"no"), picture("c.png", 2)])
    page.select_option("#region", "other")
    assert seen.violations() == [] and seen.overflow() <= 0
    page.click("#send")
    expect(page.locator("article.answer .notice")).to_have_count(2)
    page.locator("#examples button").first.click()
    expect(studies(page)).to_have_count(2)
    page.locator(".about summary").click()
    expect(page.locator("#history .busy")).to_have_count(0)
    assert seen.violations() == [] and seen.overflow() <= 0
    page.locator("#history button").nth(1).click()
    assert seen.violations() == [] and seen.overflow() <= 0
    page.locator(".view button").first.click()
    assert seen.violations() == []
    page.keyboard.press("Escape")
    page.click("#send")
    expect(page.get_by_role("alert")).to_be_visible()
    assert seen.violations() == [] and seen.overflow() <= 0
    bar = page.locator(".always").bounding_box()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.locator(".always").bounding_box()["y"] == pytest.approx(0, abs=1) and bar["height"] < 80


def test_it_fits_at_twice_the_size(opened):
    "200 % zoom of a window of 1280 px is a window of 640 px; text alone at twice its size is harder."
    seen = opened(dict(width=640, height=450))
    send(seen.page, picture("one.png"))
    expect(seen.page.locator("article.answer")).to_be_visible()
    assert seen.overflow() <= 0
    seen.page.evaluate("document.documentElement.style.fontSize = '200%'")
    assert seen.overflow() <= 0


def test_forms_work_without_scripts(opened):
    page = opened(PHONE, java_script_enabled=False).page
    page.set_input_files("#files", [picture("XR_HAND_plain.png", 1)])
    page.click("#send")
    expect(page.locator("article.answer #verdict")).to_be_visible()
    page.locator("#examples button").first.click()
    expect(page.locator(".truth")).to_be_visible()


def test_nothing_of_a_study_stays_in_the_browser(opened):
    seen = opened()
    page = seen.page
    send(page, picture("one.png"))
    expect(page.locator("article.answer")).to_be_visible()
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0 and seen.context.cookies() == []
    page.reload()
    expect(studies(page)).to_have_count(0)
    assert page.locator("article.answer").count() == 0


def test_a_token_leaves_the_address_and_stays_in_a_cookie(watch, loaded):
    with listening(loaded, token="t0ken") as port:
        seen = watch()
        seen.page.goto(f"http://127.0.0.1:{port}/")
        assert "needs its token" in seen.page.content()
        seen.page.goto(f"http://127.0.0.1:{port}/?token=t0ken")
        expect(seen.page.locator("#send")).to_be_visible()
        assert seen.page.url == f"http://127.0.0.1:{port}/"
        send(seen.page, picture("one.png"))
        expect(seen.page.locator("article.answer")).to_be_visible()
        [cookie] = seen.context.cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict" and cookie["expires"] == -1
