"""The page of a reader study in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from tests.unit.evaluation.reader_study.folders import write_lesions, write_series, write_simple
from zoo.evaluation.reader_study.make import StudySettings, make_study
from zoo.evaluation.reader_study.study import LesionTruth, ReaderStudy, checksum

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

SMALL_LAPTOP = {"width": 1280, "height": 600}
PATIENCE_MS = 120_000
"""How long a busy machine may take for what is waited for."""
READY = "() => grey !== null || state.finished"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A browser window of a reader without any history, on the screen of a small laptop."""
    opened = browser.new_context(viewport=SMALL_LAPTOP, accept_downloads=True)
    opened.set_default_timeout(PATIENCE_MS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real and two generated series in the warm-up, three of each in the test, with ratings."""
    root = tmp_path_factory.mktemp("single")
    real = write_series(root / "real", "real", 5, seed=1)
    fake = write_series(root / "fake", "sample", 5, seed=2)
    make_study(root / "study", StudySettings(n=3, warm_up=2, ratings=True), {"gan": fake}, real)
    return root / "study"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real and three generated images, without a warm-up."""
    root = tmp_path_factory.mktemp("plain")
    real, fake = write_simple(root / "real", "real", 3, seed=1), write_simple(root / "fake", "sample", 3, seed=2)
    make_study(root / "study", StudySettings(n=3, warm_up=0), {"gan": fake}, real)
    return root / "study"


def opened(context: Any, study: Path, reader: str = "reader-1") -> Any:
    page = context.new_page()
    page.goto((study / f"{reader}.html").as_uri())
    return page


def start(page: Any) -> None:
    """Fill in the background by keyboard and begin."""
    page.keyboard.type("Radiologist")
    page.keyboard.press("Tab")
    page.keyboard.type("13")
    page.keyboard.press("Enter")


def press(page: Any, *keys: str) -> None:
    page.wait_for_function(READY, polling=50)
    for key in keys:
        page.keyboard.press(key)


def saved(page: Any, selector: str, folder: Path) -> Path:
    """Press a button that saves a file; return the file."""
    with page.expect_download() as download:
        page.focus(selector)
        page.keyboard.press("Enter")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def current(page: Any) -> str:
    return str(page.evaluate("currentCase().case"))


def test_a_study_is_read_by_keyboard_interrupted_resumed_and_analysed(
    context: Any, single: Path, tmp_path: Path, zoo_command
) -> None:
    """Nothing is lost when the page is closed, no request leaves the page, and the answers can be analysed."""
    key = ReaderStudy.read(single).key
    requests: list[str] = []
    problems: list[str] = []

    context.on("request", lambda request: requests.append(request.url))
    context.on("weberror", lambda error: problems.append(str(error.error)))
    context.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page = opened(context, single)
    start(page)
    given: dict[str, tuple[str, int]] = {}
    for number in range(4):
        press(page)
        case = current(page)
        truth = key[case].truth
        given[case] = str(truth), number + 1
        press(page, "r" if truth == "real" else "f", str(number + 1), "Enter")
        assert page.inner_text("#question").startswith("✓ Correct. This image is " + str(truth))
        press(page, "Enter")
    assert page.inner_text("#dialog-title") == "The warm-up is over"
    page.keyboard.press("Enter")
    for number in range(2):
        press(page)
        given[current(page)] = "real", number + 1
        press(page, "r", str(number + 1), "Enter")
    press(page, "f", "5")  # chosen, but not confirmed
    page.close()

    page = opened(context, single)
    assert page.inner_text("#dialog-title") == "Welcome back"
    assert "Answered: 6 of 10" in page.inner_text("#dialog-body")
    page.keyboard.press("Enter")
    press(page)
    given[current(page)] = "fake", 5
    press(page, "Enter")
    for _ in range(3):
        press(page)
        given[current(page)] = "fake", 3
        press(page, "f", "3", "Enter")
    page.wait_for_selector("#end:not([hidden])")
    answers = saved(page, "#download", tmp_path)

    read = ReaderStudy.read(single).read_answers(answers)
    assert answers.name == f"answers-{read.study}-reader-1.json"
    assert (read.background.role, read.background.years) == ("Radiologist", 13)
    assert {answer.case: (answer.choice, answer.rating) for answer in read.answers} == given
    assert requests
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    assert not problems
    code, out, error = zoo_command("reader-study", "analyse", single, "--answers", answers, "--json")
    assert code == 0, error
    right = sum(key[case].truth == choice for case, (choice, _) in given.items() if key[case].phase == "test")
    rows = {row["source"]: row for row in json.loads(out)["accuracies"] if row["class_name"] == "all"}
    assert (rows["all"]["correct"], rows["all"]["n"]) == (right, 6)


def test_the_policy_stops_what_a_page_would_load(context: Any, plain: Path) -> None:
    page = opened(context, plain)
    blocked = page.evaluate("""() => new Promise((resolve) => {
        const found = [];
        document.addEventListener("securitypolicyviolation", (event) => {
            found.push(event.effectiveDirective);
            if (found.length === 4) resolve(found.sort());
        });
        fetch("http://127.0.0.1:9/a").catch(() => 0);
        document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/b" }));
        document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = true" }));
        document.body.append(Object.assign(document.createElement("style"), { textContent: "body { color: red }" }));
    })""")
    assert blocked == ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
    assert page.evaluate("window.ran") is None


def test_the_checksum_is_that_of_python(context: Any, plain: Path) -> None:
    page = opened(context, plain)
    for text in ("", "abc", "x" * 55, "x" * 56, "é€😀" * 30, "x" * 1000):
        assert page.evaluate("(text) => sha256(text)", text) == hashlib.sha256(text.encode()).hexdigest()
    content = {"b": [1, 2.5, 0.1, None, True, {"z": "ü\n\"'", "a": {}}], "a": "</script>", "years": 13}
    assert page.evaluate("(content) => sha256(canonical(content))", content) == checksum(content)


def test_everything_fits_on_a_small_screen(context: Any, single: Path) -> None:
    page = opened(context, single)
    start(page)
    press(page)
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    stage = page.locator("#stage").bounding_box()
    panels = [panel.bounding_box() for panel in page.locator(".panel").all()]
    assert len(panels) == 10
    for panel in panels:
        assert panel["x"] >= stage["x"]
        assert panel["x"] + panel["width"] <= stage["x"] + stage["width"]
        assert panel["y"] >= stage["y"]
        assert panel["y"] + panel["height"] <= stage["y"] + stage["height"]
    assert min(panel["width"] for panel in panels) > 180


def test_an_answer_needs_a_choice_and_a_rating(context: Any, single: Path) -> None:
    page = opened(context, single)
    start(page)
    press(page, "r", "Enter")
    assert page.evaluate("state.answers.length") == 0
    press(page, "4", "Enter")
    assert page.evaluate("state.answers.length") == 1


def test_the_last_answer_can_be_changed_once(context: Any, plain: Path) -> None:
    page = opened(context, plain)
    start(page)
    press(page, "r", "Enter")
    press(page, "r", "Enter")
    second = page.evaluate("state.answers[1].case")
    press(page, "b")
    press(page)
    assert current(page) == second
    assert page.get_attribute("#choices button >> nth=0", "aria-pressed") == "true"
    press(page, "b")
    press(page)
    assert current(page) == second
    press(page, "f", "Enter")
    assert page.evaluate("state.answers.map((answer) => answer.choice)") == ["real", "fake"]


def test_progress_goes_through_a_file_where_the_browser_keeps_nothing(
    browser: Any, plain: Path, tmp_path: Path
) -> None:
    def window() -> Any:
        context = browser.new_context(viewport=SMALL_LAPTOP, accept_downloads=True)
        context.set_default_timeout(PATIENCE_MS)
        context.add_init_script("Storage.prototype.setItem = () => { throw new Error('not allowed'); }")
        return opened(context, plain)

    page = window()
    start(page)
    press(page, "r", "Enter")
    press(page, "f")
    assert page.is_visible("#unsaved")
    press(page, "p")
    assert "keeps nothing" in page.inner_text("#dialog-body")
    progress = saved(page, "#dialog-save", tmp_path)
    page.context.close()

    page = window()
    broken = tmp_path / "broken.json"
    broken.write_text(progress.read_text().replace('"real"', '"fake"'))
    page.set_input_files("#file", broken)
    page.wait_for_function("document.getElementById('start-note').textContent.includes('was changed')", polling=50)
    page.set_input_files("#file", progress)
    page.wait_for_selector("#dialog[open]")
    page.keyboard.press("Enter")
    press(page)
    assert page.evaluate("[state.answers.length, state.answers[0].choice, state.draft.choice]") == [1, "real", "fake"]
    page.context.close()


def test_a_second_window_takes_over(context: Any, plain: Path) -> None:
    first = opened(context, plain)
    start(first)
    press(first, "r", "Enter")
    second = opened(context, plain)
    first.wait_for_function(
        "document.getElementById('dialog-title').textContent.includes('another window')", polling=50
    )
    first.keyboard.press("Escape")
    assert first.is_visible("#dialog")
    first.evaluate("save()")
    assert second.inner_text("#dialog-title") == "Welcome back"
    second.keyboard.press("Enter")
    press(second, "f", "Enter")
    assert second.evaluate("state.answers.map((answer) => answer.choice)") == ["real", "fake"]


def test_a_window_that_was_open_before_the_study_began_goes_on_with_it(context: Any, plain: Path) -> None:
    second = opened(context, plain)
    second.evaluate("lockedOut = true")  # as where a browser does not tell one window of another
    first = opened(context, plain)
    start(first)
    press(first, "r", "Enter")
    first.close()
    second.evaluate("lockedOut = false; byId('dialog').close()")
    start(second)
    assert second.inner_text("#dialog-title") == "Welcome back"
    assert second.evaluate("state.answers.length") == 1


def test_pairs_are_answered_by_arrows(context: Any, tmp_path: Path) -> None:
    real, fake = write_simple(tmp_path / "real", "real", 2, seed=1), write_simple(tmp_path / "fake", "s", 2, seed=2)
    make_study(tmp_path / "study", StudySettings("pair", n=2, warm_up=0), {"gan": fake}, real)
    page = opened(context, tmp_path / "study")
    start(page)
    for arrow in ("ArrowLeft", "ArrowRight"):
        press(page, arrow, "Enter")
    page.wait_for_selector("#end:not([hidden])")
    read = ReaderStudy.read(tmp_path / "study").read_answers(saved(page, "#download", tmp_path))
    assert [answer.choice for answer in read.answers] == ["left", "right"]


def test_a_lesion_is_found_where_it_is_seen_in_each_plane(context: Any, tmp_path: Path) -> None:
    """The brightest spot of each canvas is the lesion; a click there is in the mask of the key."""
    folder = write_lesions(tmp_path / "lesions", 3)
    for number, place in enumerate([(2, 9, 7), (8, 3, 2), (5, 11, 5)]):
        values, mask = np.full((12, 14, 10), 0.2, np.float32), np.zeros((12, 14, 10), np.uint8)
        values[place], values[0, 0, 0], mask[place] = 1, number / 10, 1
        for name, content in (("FLAIR", values), ("desc-synthetic_mask", mask), ("label-lesion_mask", mask)):
            nibabel.save(
                nibabel.Nifti1Image(content, np.diag([1, 1, 2, 1])), folder / f"case-{number:04d}_{name}.nii.gz"
            )
    make_study(tmp_path / "study", StudySettings.of("lesion", n=3), {"prior": folder})
    study = ReaderStudy.read(tmp_path / "study")
    page = opened(context, tmp_path / "study")
    start(page)
    for plane in range(3):
        press(page)
        truth = study.key[current(page)].truth
        assert isinstance(truth, LesionTruth)
        (part,) = truth.slices
        row, column = divmod(part.runs[0], truth.width)
        # The cursor is put into the lesion's slice of this plane, but elsewhere in it.
        cursor = [0, 0, 0]
        cursor[plane] = (part.slice, row, column)[plane]
        page.evaluate("(cursor) => { view.cursor = cursor; drawAll(); }", cursor)
        x, y = page.evaluate(
            """(plane) => {
            const canvas = document.querySelectorAll(".panel canvas")[plane];
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let [x, y, n, brightest] = [0, 0, 0, 0];
            for (let k = 0; k < data.length; k += 4) brightest = Math.max(brightest, data[k]);
            for (let k = 0; k < data.length; k += 4) {
                if (data[k] < brightest) continue;
                x += (k / 4) % canvas.width; y += Math.floor(k / 4 / canvas.width); n += 1;
            }
            return [x / n, y / n];
        }""",
            plane,
        )
        page.locator(".panel canvas").nth(plane).click(position={"x": x, "y": y})
        assert page.inner_text("#question").startswith("Marked")
        press(page, "Enter")
    page.wait_for_selector("#end:not([hidden])")
    read = study.read_answers(saved(page, "#download", tmp_path))
    assert all(study.key[answer.case].is_correct(answer.choice) for answer in read.answers)


def test_the_cross_hair_marks_by_keyboard_and_time_runs_out(context: Any, tmp_path: Path) -> None:
    folder = write_lesions(tmp_path / "lesions", 2, shape=(12, 14, 10))
    make_study(tmp_path / "study", StudySettings.of("lesion", n=2), {"prior": folder})
    page = context.new_page()
    page.clock.install()
    page.goto((tmp_path / "study" / "reader-1.html").as_uri())
    start(page)
    press(page, "ArrowLeft", "Shift+ArrowUp", "PageUp", "m")
    assert page.evaluate("state.draft.choice") == {"slice": 6, "x": 5, "y": 0}
    press(page, "+", "ArrowDown")
    assert page.evaluate("view.centre") == pytest.approx([6.5 / 10, 1.5 / 14, 5.5 / 12])
    press(page, "Enter")
    press(page)
    page.clock.run_for(30_000)
    press(page, "p")
    page.clock.run_for(100_000)
    page.keyboard.press("Enter")
    assert page.is_visible(".panel canvas >> nth=0")
    page.clock.run_for(31_000)
    assert not page.is_visible(".panel canvas >> nth=0")
    press(page, "m", "Enter")
    page.wait_for_selector("#end:not([hidden])")
    read = ReaderStudy.read(tmp_path / "study").read_answers(saved(page, "#download", tmp_path))
    assert read.answers[1].choice == "none"
    assert read.answers[1].seconds == pytest.approx(60, abs=1)


def test_volumes_are_scrolled_and_turned(context: Any, tmp_path: Path) -> None:
    real = write_simple(tmp_path / "real", "real", 1, shape=(8, 6, 5), seed=1)
    fake = write_simple(tmp_path / "fake", "sample", 1, shape=(8, 6, 5), seed=2)
    make_study(tmp_path / "study", StudySettings(n=1, warm_up=0), {"gan": fake}, real)
    page = opened(context, tmp_path / "study")
    start(page)
    press(page, "PageUp")
    assert page.inner_text("#position") == "axial 4 of 5"
    press(page, "ArrowDown", "PageDown")
    assert page.inner_text("#position") == "axial 2 of 5"
    press(page, "v", "v", "PageUp")
    assert page.inner_text("#position") == "sagittal 6 of 8"


def test_brightness_contrast_and_zoom_by_keys_and_mouse(context: Any, single: Path) -> None:
    page = opened(context, single)
    start(page)
    press(page)
    windows = "JSON.parse(JSON.stringify(view.windows))"
    before = page.evaluate(windows)
    press(page, "w", "e")
    after = page.evaluate(windows)
    assert all(after[group]["level"] < before[group]["level"] for group in ("T1w", "T2w", "subtraction"))
    assert all(after[group]["width"] < before[group]["width"] for group in before)
    press(page, "0", "g", "s")
    after = page.evaluate(windows)
    assert after["T1w"]["level"] > before["T1w"]["level"]
    assert after["T2w"] == before["T2w"]
    press(page, "0")
    box = page.locator(".panel").nth(0).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=4)
    page.mouse.up()
    after = page.evaluate(windows)
    assert after["T1w"]["width"] < before["T1w"]["width"]
    assert after["subtraction"] == before["subtraction"]
    page.mouse.wheel(0, -300)
    page.wait_for_function("view.zoom > 1.5", polling=50)
    press(page, "0")
    assert page.evaluate("[view.zoom, view.windows.T1w.width]") == [1, 255]
