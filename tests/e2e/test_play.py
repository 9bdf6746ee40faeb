"""``jigsaw play`` in a real browser: Chromium, as Debian has it, without a screen."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

QUIET = ("disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
START = [sys.executable, "-m", "jigsaw", "play", "--port=0", "--seed=5"]

Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; Debian's package is installed if it is not there."""
    if shutil.which("chromium") is None:
        install = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)
        subprocess.run(install, check=True, capture_output=True)
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's own does not work for root
    with sync_playwright() as player:
        yield player.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*sandbox, *(f"--{name}" for name in QUIET)]
        )


@contextmanager
def served(*options: str, temporary: Path | None = None, folder: Path | None = None) -> Iterator[str]:
    """The address of the page."""
    environment = {**os.environ, **({"TMPDIR": str(temporary)} if temporary else {})}
    with subprocess.Popen(
        [*START, *options], stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert found, said
            yield found[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server puts what is uploaded."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def address(tiny_model: Path, temporary: Path) -> Iterator[str]:
    with served(f"--model={tiny_model}", "--max-tokens=12", "--max-upload=2", temporary=temporary) as found:
        yield found


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Opened]:
    """The page, for one visitor each; nothing may go wrong in it."""
    contexts = []
    wrong: list[str] = []

    def see(**how: object) -> Page:
        context = browser.new_context(**how)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((address, "data:")) or wrong.append(asked.url))
        page.goto(address)
        return page

    yield see
    for context in contexts:
        context.close()
    assert wrong == []


def said(page: Page) -> str:
    return page.get_by_role("status").inner_text().strip()


def begin(page: Page, task: str = "Picture", level: str = "2 × 2 tiles", pieces: int = 4) -> None:
    page.get_by_label(task, exact=True).check()
    page.get_by_role("combobox").select_option(level)
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("status")).to_contain_text(f"{pieces} pieces")
    expect(page.locator("#board .piece")).to_have_count(pieces)


def order(page: Page) -> list[int]:
    """The numbers of the pieces on the board."""
    numbers = page.locator("#board .piece").evaluate_all("found => found.map(piece => piece.dataset.number)")
    return [int(number) for number in numbers]


def check(page: Page) -> None:
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#yours")).not_to_be_empty()


def right_order(browser: Browser, address: str, task: str, level: str, pieces: int) -> list[int]:
    """Of a visit's first puzzle, as another visitor finds it out."""
    page = browser.new_page()
    page.goto(address)
    begin(page, task, level, pieces)
    check(page)
    show = page.get_by_role("button", name="Show the right order")
    if show.is_visible():
        show.click()
    found = order(page)
    page.context.close()
    return found


def drag(page: Page, number: int, place: int) -> None:
    """Take a piece with the mouse and drop it at a place."""
    there = page.locator("#board li").nth(place).bounding_box()
    here = page.locator(f"#board [data-number='{number}']").bounding_box()
    assert here is not None
    assert there is not None
    page.mouse.move(here["x"] + here["width"] / 2, here["y"] + here["height"] / 2)
    page.mouse.down()
    page.mouse.move(there["x"] + there["width"] / 2, there["y"] + there["height"] / 2, steps=5)
    page.mouse.up()


@pytest.mark.parametrize(
    ("task", "level", "pieces"), [("Picture", "3 × 3 tiles", 9), ("Film", "5 clips", 5), ("Room", "4 points", 4)]
)
def test_a_puzzle_is_solved_by_dragging(
    browser: Browser, opened: Opened, address: str, task: str, level: str, pieces: int
) -> None:
    right = right_order(browser, address, task, level, pieces)
    page = opened()
    begin(page, task, level, pieces)
    assert order(page) == list(range(1, pieces + 1)) != right
    page.evaluate("document.querySelector('#board').scrollIntoView({block: 'center'})")
    for place, number in enumerate(right):
        if order(page)[place] != number:
            drag(page, number, place)
        assert order(page)[place] == number
    check(page)
    expect(page.locator("#yours")).to_have_text("All right. Score 1.20.")
    assert page.locator("#board .mark.right").count() == pieces
    expect(page.locator("[data-who=person] td")).to_have_text(["1", "1 (100 %)", "100 %"])


def test_a_wrong_answer_is_marked_and_counts_once(browser: Browser, opened: Opened, address: str) -> None:
    right = right_order(browser, address, "Picture", "2 × 2 tiles", 4)
    page = opened()
    begin(page)
    wrong = page.locator("#board .mark.wrong")
    check(page)
    assert wrong.count() == sum(number != place + 1 for place, number in enumerate(right))
    expect(page.locator("#yours")).to_contain_text(f"{4 - wrong.count()} of 4 in place. Score 0.")
    tally = page.locator("[data-who=person] td").all_inner_texts()
    assert tally[:2] == ["1", "0 (0 %)"]
    page.get_by_role("button", name="Show the right order").click()
    assert order(page) == right
    check(page)
    expect(page.get_by_role("status")).to_contain_text("All right. Score 1.20. Only your first answer counts.")
    assert page.locator("[data-who=person] td").all_inner_texts() == tally
    page.reload()  # the visit goes on
    expect(page.locator("[data-who=person] td")).to_have_text(tally)


def test_a_puzzle_is_solved_by_keyboard_alone(browser: Browser, opened: Opened, address: str) -> None:
    right = right_order(browser, address, "Film", "3 clips", 3)
    page = opened()
    press = page.keyboard.press

    def walk_to(name: str) -> None:
        for _ in range(30):
            press("Tab")
            if page.evaluate("document.activeElement.innerText || document.activeElement.value") == name:
                return
        raise AssertionError(name)

    walk_to("image")
    press("ArrowRight")
    walk_to("Begin")
    press("Enter")
    expect(page.get_by_role("status")).to_contain_text("3 pieces, one of 6 orders is right.")
    focused = "document.activeElement.getAttribute('aria-label')"
    page.wait_for_function(f"{focused} === 'Clip 1, first'")
    for place, number in enumerate(right):
        while (at := order(page).index(number)) != place:
            page.wait_for_function(f"{focused}?.startsWith('Clip')")
            here = int(page.evaluate("document.activeElement.dataset.number"))
            for _ in range(abs(at - order(page).index(here))):
                press("ArrowRight" if at > order(page).index(here) else "ArrowLeft")
            press("Enter")
            assert said(page) == f"Piece {number} is picked up. Choose where it goes."
            assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
            for _ in range(at - place):
                press("ArrowLeft")
            press("Escape")
            assert said(page) == "Nothing is picked up."
    assert order(page) == right
    walk_to("Check")
    press("Enter")
    expect(page.locator("#yours")).to_have_text("All right. Score 1.20.")
    expect(page.get_by_role("status")).to_contain_text("All right. Score 1.20.")


def test_everything_has_a_name_for_those_who_hear_the_page(opened: Opened) -> None:
    page = opened()
    begin(page, "Picture", "1 × 2 tiles", 2)
    check(page)
    tree = page.locator("body").aria_snapshot()
    named = [
        *('group "Made of a"', 'radio "Picture" [checked]', 'combobox "Cut into"', 'button "Your picture"', "status"),
        *('list "Your pieces"', 'region "You"', 'region "So far"', 'button "Let the model try"', 'rowheader "You"'),
    ]
    for name in named:
        assert name in tree, tree
    assert re.search(r'button "Tile 1, in row 1, column 1, (not )?in its place', tree)
    assert re.search(r"- (button|img|list|combobox|radio|textbox)( \[|:?$)", tree, re.MULTILINE) is None, tree


def test_the_model_tries_beside_and_is_shown_after_the_person(opened: Opened, tiny_model: Path) -> None:
    page = opened()
    begin(page)
    page.get_by_role("button", name="Let the model try").click()
    expect(page.get_by_role("status")).to_have_text(
        "The model has answered. Check your own order to see what it said. "
    )
    expect(page.locator("#model")).to_be_hidden()
    expect(page.locator("#tallies")).to_be_hidden()  # how often it was right would tell what it said
    check(page)
    expect(page.locator("[data-who=model] td").first).to_have_text("1")
    expect(page.get_by_role("heading", name=tiny_model.name)).to_be_visible()
    expect(page.locator("#theirs")).to_contain_text("No answer: expected <think>")  # its weights are random
    begin(page)
    expect(page.locator("#model")).to_be_hidden()


def test_files_that_are_of_no_use_are_told_and_gone(opened: Opened, tmp_path: Path, temporary: Path) -> None:
    page = opened()
    (tmp_path / "cat.jpg").write_bytes(b"PK\3\4 no picture")
    (tmp_path / "large.png").write_bytes(os.urandom(3 << 20))
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    Image.effect_noise((90, 60), 50).save(tmp_path / "mine.png")
    for name, line in (
        ("cat.jpg", "cat.jpg: is not a picture that can be read; remove or replace it"),
        ("bomb.png", "bomb.png: has more than 89478485 pixels; scale it down first"),
        ("large.png", "More than 2 MiB are too much; bring a smaller file."),
    ):
        page.locator(".of:not([hidden])").get_by_label("Your picture").set_input_files(tmp_path / name)
        page.get_by_role("button", name="Begin").click()
        expect(page.get_by_role("status")).to_contain_text(line)
        expect(page.locator("#said.wrong")).to_be_visible()
        expect(page.locator("#table")).to_be_hidden()
    page.locator(".of:not([hidden])").get_by_label("Your picture").set_input_files(tmp_path / "mine.png")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("status")).to_contain_text("mine.png: 4 pieces")
    assert list(temporary.glob("jigsaw-play-*/*")) == []


def test_two_visitors_play_apart(opened: Opened) -> None:
    one, other = opened(), opened()
    begin(one, "Picture", "2 × 2 tiles", 4)
    begin(other, "Room", "5 points", 5)
    check(one)
    assert one.locator("#board .piece").count() == 4
    expect(other.locator("#tallies")).to_be_hidden()
    check(other)
    for page in (one, other):
        assert page.locator("[data-who=person] td").first.inner_text() == "1"


def test_an_answer_that_comes_late_is_not_painted_on_the_next_puzzle(opened: Opened) -> None:
    page = opened()
    begin(page)
    held: list[Route] = []
    page.route("**/answer", lambda route: held.append(route))
    page.get_by_role("button", name="Check").click()
    begin(page, "Picture", "3 × 3 tiles", 9)
    for route in held:
        route.continue_()
    expect(page.get_by_role("button", name="Check")).to_be_enabled()
    assert held
    assert sorted(order(page)) == list(range(1, 10))
    expect(page.locator("#yours")).to_be_empty()
    assert page.locator("#board .mark").count() == 0


def test_a_drag_ends_where_a_new_puzzle_comes(opened: Opened) -> None:
    page = opened()
    begin(page, "Picture", "4 × 4 tiles", 16)
    page.evaluate("document.querySelector('#board').scrollIntoView({block: 'center'})")
    box = page.locator("#board [data-number='12']").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()
    page.mouse.move(box["x"] - 40, box["y"] - 40, steps=3)
    page.evaluate("document.querySelector('select').value = '2x2'; document.querySelector('#new').requestSubmit()")
    expect(page.locator("#board .piece")).to_have_count(4)
    page.mouse.up()
    assert order(page) == [1, 2, 3, 4]
    check(page)


def test_two_pages_of_one_visit_do_not_answer_for_each_other(opened: Opened) -> None:
    page = opened()
    begin(page)
    with page.context.expect_page() as opening:
        page.evaluate("window.open(location.href)")
    other = opening.value
    begin(other, "Picture", "3 × 3 tiles", 9)
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("status")).to_contain_text("another puzzle was begun, perhaps on another page")
    check(other)
    expect(other.locator("[data-who=person] td").first).to_have_text("1")


def test_what_was_checked_is_forgotten_once_a_piece_is_moved(opened: Opened) -> None:
    page = opened()
    begin(page)
    check(page)
    page.locator("#board .piece").first.click()
    page.locator("#board .piece").last.click()
    expect(page.locator("#yours")).to_be_empty()
    assert page.locator("#board .mark").count() == 0


def test_coming_back_to_the_page_shows_what_is_chosen(opened: Opened, address: str) -> None:
    page = opened()
    page.get_by_label("Film", exact=True).check()
    page.goto(f"{address}/static/play.css")
    page.go_back()
    chosen = page.locator("input[name=task]:checked").get_attribute("value")
    expect(page.locator(f".of[data-task={chosen}]")).to_be_visible()
    expect(page.locator(".of:not([hidden])")).to_have_count(1)


def test_who_wants_no_motion_sees_the_frames_large(opened: Opened) -> None:
    page = opened(**PHONE, reduced_motion="reduce")
    begin(page, "Film", "3 clips", 3)
    box = page.locator("#board .piece").first.bounding_box()
    assert box is not None
    assert box["width"] > 300


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once_and_nothing_is_left(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    left = tmp_path / "jigsaw-play-999999999-of-one-that-was-killed"
    left.mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(START, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        assert "play at" in server.stdout.readline()
        assert not left.exists()
        assert len(list(tmp_path.glob("jigsaw-play-*"))) == 1
        server.send_signal(sent)
        _, said = server.communicate(timeout=10)
    assert (server.returncode, said) == (code, "")
    assert list(tmp_path.glob("jigsaw-play-*")) == []


def test_a_phone_plays_by_taps_and_needs_no_scrolling_sideways(opened: Opened) -> None:
    page = opened(**PHONE)
    for task, level, pieces in (("Picture", "4 × 4 tiles", 16), ("Film", "6 clips", 6), ("Room", "6 points", 6)):
        begin(page, task, level, pieces)
        first, last = page.locator("#board .piece").first, page.locator("#board .piece").last
        first.tap()
        expect(page.locator("#board .held")).to_have_count(1)
        last.tap()
        expect(page.locator("#board .held")).to_have_count(0)
        assert order(page)[-1] == 1
        check(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["viewport"]["width"]  # type: ignore[index]


def test_a_server_that_is_gone_is_told(browser: Browser) -> None:
    with served() as address:
        page = browser.new_page()
        page.goto(address)
        begin(page)
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("status")).to_have_text("The server does not answer.")


def test_the_same_page_goes_up_as_a_space(browser: Browser, tiny_model: Path, tmp_path: Path) -> None:
    """Its folder alone, by the command of its container; only where it is asked at differs."""
    space = tmp_path / "space"
    write = [sys.executable, "-m", "jigsaw", "play", f"--space={space}", "--model=me/tiny"]
    subprocess.run(write, check=True)
    assert re.search(r"^sdk: docker\napp_port: 7860$", (space / "README.md").read_text(), re.MULTILINE)
    assert re.search(r"^torch==2", (space / "requirements.txt").read_text(), re.MULTILINE)
    (line,) = re.findall(r"^CMD (.*)$", (space / "Dockerfile").read_text(), re.MULTILINE)
    python, *command = json.loads(line)
    assert (python, command[:3]) == ("python", ["-m", "jigsaw", "play"])
    template = space / "jigsaw/play/page.html.j2"
    template.write_text(template.read_text().replace("<title>Play", "<title>Space"))
    options = [option for option in command[3:] if not option.startswith(("--host", "--port", "--model"))]
    options.append(f"--model={tiny_model}")
    with served(*options, folder=space) as address:
        page = browser.new_page()
        page.goto(address)
        assert page.title().startswith("Space")
        expect(page.locator("header p")).to_contain_text("let a model try")
        begin(page)
        page.context.close()
    ended = subprocess.run(write, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "is there already" in ended.stderr
