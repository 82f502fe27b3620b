"""The page of the Space works in a real browser, by mouse and by keyboard."""

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from space import (
    BAD_FILES,
    BAD_TEXTS,
    EXAMPLE,
    FIVE_PRIME_FLANK,
    REB1,
    ROOT,
    SCRIPT,
    SPACE,
    THREE_PRIME_FLANK,
    minus,
)

from modeling_proformer import predict
from modeling_proformer.intervals import prediction_interval
from modeling_proformer.mutagenesis import saturation_mutagenesis


pytest.importorskip("gradio", reason="the page is made with gradio")
pytest.importorskip("logomaker", reason="sequence logos are drawn with logomaker")

import app
import sequences


pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HEADLESS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
HEADLESS += "--disable-component-update --disable-sync"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


# Writes down every address outside of this machine that a process looks up or connects to.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        with open(os.environ["CONTACTED"], "a") as file:
            print(event, arguments[1:] if event == "socket.connect" else arguments, file=file)

sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    """Return what is pushed to the Hub: the Space's folder with the package in it."""
    folder = tmp_path_factory.mktemp("space")
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SPACE, folder, dirs_exist_ok=True, ignore=without_caches)
    for package in ("modeling_proformer", "tokenization"):
        shutil.copytree(ROOT / package, folder / package, ignore=without_caches)
    return folder


def test_a_model_that_cannot_be_loaded_ends_the_start_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "CHECKPOINT", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        app.main()
    # Python prints a message as the whole error, without a traceback, and exits with 1.
    assert str(ended.value).startswith(f"{tmp_path}: no readable Proformer checkpoint")


# Serves the embedded checkpoint, and the one that PROFORMER_MODEL names.
SERVE = """
import sys, app
app.launch(app.serve_embedded(), server_port=int(sys.argv[1]), prevent_thread_lock=True)
app.main()
"""


@pytest.fixture(scope="module")
def addresses(pushed, tuned_folder, tmp_path_factory):
    """Start the pushed page with the embedded checkpoint and with a fine-tuned one; return both addresses."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "sitecustomize.py").write_text(WATCH)
    contacted, log = folder / "contacted", folder / "log"
    embedded_port, tuned_port = free_ports(2)
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "CONTACTED": str(contacted),
        "OMP_NUM_THREADS": "1",
        "PROFORMER_MODEL": str(tuned_folder),
        "GRADIO_SERVER_PORT": str(tuned_port),
    }
    command = [sys.executable, "-c", SERVE, str(embedded_port)]
    with open(log, "w") as file:
        server = subprocess.Popen(command, cwd=pushed, env=environment, stdout=file, stderr=file)
    addresses = [f"http://127.0.0.1:{port}" for port in (embedded_port, tuned_port)]
    try:
        for address in addresses:
            wait_for(server, log, address)
        yield addresses
    finally:
        server.terminate()
        server.wait()
    assert "Traceback" not in log.read_text()
    assert not contacted.exists(), contacted.read_text()


def wait_for(server: subprocess.Popen, log: Path, address: str):
    """Wait until the server answers at an address."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that are not in use."""
    with ExitStack() as sockets:
        free = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in free]


@pytest.fixture(scope="module")
def address(addresses):
    """Return the address of the embedded checkpoint."""
    return addresses[0]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
    if CHROMIUM is None:
        pytest.skip("there is no chromium to test the page in")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=HEADLESS.split())
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open an address as a user does; the browser may report no error, nor ask another server for anything."""

    @contextmanager
    def open_page(address: str, viewport: dict = DESKTOP, color_scheme: str = "light"):
        complaints, elsewhere = [], []
        with browser.new_context(
            viewport=viewport, color_scheme=color_scheme, permissions=["clipboard-read", "clipboard-write"]
        ) as context:
            context.set_default_timeout(60_000)
            page = context.new_page()
            page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
            page.on(
                "request", lambda one: one.url.startswith((address, "data:", "blob:")) or elsewhere.append(one.url)
            )
            page.goto(address)
            page.get_by_role("button", name="Try the example").wait_for()
            yield page
        assert (complaints, elsewhere) == ([], [])

    return open_page


@pytest.fixture
def inspect(tmp_path):
    """Check that a page is accessible, not wider than the screen, and has all figures; keep a picture of it."""
    package = find_spec("axe_playwright_python")
    if package is None:
        pytest.skip("axe checks accessibility")
    # The package reads its script in the encoding of the locale, so its import fails in some.
    axe = Path(package.submodule_search_locations[0], "axe.min.js").read_text(encoding="utf-8")
    pictures = Path(os.environ.get("PROFORMER_SCREENSHOTS", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)

    def inspect(page, name: str, picture: bool = True):
        page.wait_for_function("[...document.images].every(image => image.complete)")
        # Gradio shows blocks pale while they wait, and lets new ones fade in.
        page.wait_for_function("!document.querySelector('.pending')")
        page.wait_for_timeout(300)
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        serious = [
            f"{name}, {one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, "\n".join(serious)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} scrolls sideways"
        images = page.locator("main img:visible").evaluate_all("all => all.map(one => [one.naturalWidth, one.alt])")
        assert all(width and alternative for width, alternative in images), images
        if picture:
            page.screenshot(path=pictures / f"{name}.png", full_page=True)

    return inspect


def paste(page, box, text: str):
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    box.focus()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.press("ControlOrMeta+V")


def cells(page, caption: str) -> list[list[str]]:
    table = page.get_by_role("region", name=caption)
    table.wait_for()
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tr").all()]


def downloaded(page, press) -> list[dict]:
    with page.expect_download() as download:
        press()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_pushed_folder_needs_no_installed_package(pushed):
    code = "from importlib.util import find_spec; print(find_spec('modeling_proformer').origin)"
    found = subprocess.run([sys.executable, "-c", code], cwd=pushed, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(pushed)


def test_the_whole_page_by_mouse(address, open_page, inspect, embedded):
    def inspect_both(name: str):
        for device, viewport in {"phone": PHONE, "desktop": DESKTOP}.items():
            page.set_viewport_size(viewport)
            inspect(page, f"{device}-{name}")

    model, tokenizer = embedded
    entries = sequences.read_text(EXAMPLE)
    predicted = predict(model, tokenizer, entries.sequences)
    low, high = prediction_interval(predicted, model.config, 0.9)
    expected = predicted[:, 0]
    with open_page(address) as page:
        inspect_both("start")

        page.get_by_role("button", name="Try the example").click()
        header, *rows = cells(page, "Predicted expression")
        below = "Measured native promoters below it"
        assert header == ["No.", "Sequence", "Predicted expression", "90% interval", below]
        assert [row[1] for row in rows] == entries.names
        assert [row[2] for row in rows] == [f"{value:.2f}" for value in expected]
        assert [row[3] for row in rows] == [minus(f"{a:.2f} to {b:.2f}") for (a,), (b,) in zip(low, high, strict=True)]
        figure = page.get_by_role("img", name=f"1: {expected[0]:.1f}, 2: {expected[1]:.1f}").get_attribute("alt")
        assert "58,390 native promoters and 7,232 random inserts" in figure
        inspect_both("expression")
        rows = downloaded(page, page.get_by_role("link", name="Download the table").click)
        assert [row["name"] for row in rows] == entries.names
        found = [float(row["predicted_expression"]) for row in rows]
        np.testing.assert_allclose(found, expected, rtol=1e-4)

        page.get_by_label("Sequence", exact=True).click()
        page.get_by_role("option", name="Reb1").click()
        page.get_by_role("button", name="Change every base").click()
        (mutagenesis,) = saturation_mutagenesis(model, tokenizer, [entries.sequences[REB1]])
        strongest = cells(page, "The strongest single changes")[1]
        change = (mutagenesis[:, :, 0] - expected[REB1]).min()
        assert strongest[3] == minus(f"{change:.2f}")
        position, base = int(strongest[1][1:-1]), strongest[1][-1]
        description = f"{change:+.1f} if {strongest[1][0]} at position {position} is {base}"
        assert page.get_by_role("img", name="Sequence logo and heat map").get_attribute("alt").count(description) == 1
        rows = downloaded(page, page.get_by_role("link", name="Download all single changes").click)
        assert "".join(row["reference"] for row in rows) == entries.sequences[REB1]
        assert float(rows[position - 1][base]) == pytest.approx(expected[REB1] + change, rel=1e-4)

        page.get_by_role("textbox", name="Variant").fill(strongest[1])
        page.get_by_role("button", name="Compare with its reference").click()
        _, reference, variant = cells(page, "Reference and variant")
        assert (reference[1], variant[1]) == (entries.names[REB1], strongest[1])
        assert (reference[2], variant[2]) == (f"{expected[REB1]:.2f}", strongest[2])
        inspect_both("variant")


def test_the_design_tab(address, open_page, inspect, embedded):
    with open_page(address) as page:
        page.get_by_role("tab", name="Design").click()
        go = page.get_by_role("button", name="Design sequences")
        go.click()
        page.get_by_role("alert").filter(has_text="“Expression”: write a number, a range such as 6:8").wait_for()
        page.get_by_label("Expression").fill("10:11")
        page.get_by_label("Sequences", exact=True).fill("2")
        go.click()
        header, *rows = cells(page, "Designed sequences")
        assert header == ["No.", "Insert", "Predicted expression", "Misses target by", "Bases from the nearest other"]
        inserts = [row[1] for row in rows]
        expected = predict(*embedded, inserts)[:, 0]
        assert [row[2] for row in rows] == [f"{value:.2f}" for value in expected]
        assert ((expected > 9.95) & (expected < 11.05)).all()
        assert [row[3] for row in rows] == ["0.00", "0.00"]
        assert not any(site in insert for insert in inserts for site in ("GGTCTC", "GAGACC", "CGTCTC", "GAGACG"))
        assert page.get_by_role("alert").count() == 0
        for device, viewport in {"phone": PHONE, "desktop": DESKTOP}.items():
            page.set_viewport_size(viewport)
            inspect(page, f"{device}-design")
        found = downloaded(page, page.get_by_role("link", name="Download the designs").click)
        assert [row["insert"] for row in found] == inserts
        assert found[0]["sequence"] == FIVE_PRIME_FLANK + inserts[0] + THREE_PRIME_FLANK


def reach(page, control):
    """Press Tab until the control has the focus, and check that the focus is visible."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if control.evaluate("control => control === document.activeElement"):
            break
    else:
        raise AssertionError(f"{control} cannot be reached by keyboard")
    outline = control.evaluate("control => getComputedStyle(control).outlineStyle")
    assert outline != "none", f"{control} has the focus, and nothing shows it"


def has_value(control, value: str):
    from playwright.sync_api import expect

    expect(control).to_have_value(value)


def test_the_whole_page_by_keyboard(address, open_page, inspect, tmp_path):
    entries = sequences.read_text(EXAMPLE)
    table = tmp_path / "two.csv"
    table.write_text("id,reverse,sequences\nfirst,CCCC,ACGTACGTACGT\nsecond,GGGG,TTTTTTTTTTTT\n")
    with open_page(address, color_scheme="dark") as page:
        page.on("filechooser", lambda chooser: chooser.set_files(table))
        reach(page, page.get_by_label("Sequences"))
        page.evaluate("text => navigator.clipboard.writeText(text)", EXAMPLE)
        page.keyboard.press("ControlOrMeta+V")
        reach(page, page.get_by_role("button", name="Predict expression"))
        page.keyboard.press("Enter")
        assert [row[1] for row in cells(page, "Predicted expression")[1:]] == entries.names
        # Screen readers read these out.
        page.get_by_role("status").filter(has_text="Predicted the expression of 5 sequences.").wait_for()
        page.get_by_role("status").filter(has_text="Finished").wait_for(state="attached")
        reach(page, page.get_by_role("region", name="Predicted expression"))
        reach(page, page.get_by_role("link", name="Download the table"))
        assert len(downloaded(page, lambda: page.keyboard.press("Enter"))) == len(entries.names)

        choice = page.get_by_label("Sequence", exact=True)
        reach(page, choice)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        inspect(page, "dark-choice", picture=False)  # a picture would close the list
        page.keyboard.press("Enter")
        has_value(choice, "3. the same with a Reb1 site")
        reach(page, page.get_by_role("button", name="Change every base"))
        page.keyboard.press("Space")
        assert cells(page, "The strongest single changes")[1][1].startswith("C3")
        reach(page, page.get_by_role("link", name="Download all single changes"))
        assert len(downloaded(page, lambda: page.keyboard.press("Enter"))) == 80

        reach(page, page.get_by_role("textbox", name="Variant"))
        page.keyboard.type("C36A")
        reach(page, page.get_by_role("button", name="Compare with its reference"))
        page.keyboard.press("Enter")
        assert cells(page, "Reference and variant")[2][1] == "C36A"
        page.get_by_text(re.compile(r"Predicted expression changes from 13\.\d\d to \d\.\d\d \(−")).wait_for()

        inspect(page, "dark-variant")

        page.keyboard.press("ControlOrMeta+Home")
        reach(page, page.get_by_role("tab", name="Upload a file"))
        page.keyboard.press("Enter")
        reach(page, page.get_by_role("button", name="Click to upload or drop files"))
        page.keyboard.press("Enter")
        column = page.get_by_label("Column with the sequences")
        has_value(column, "sequences")
        reach(page, column)
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        has_value(column, "reverse")
        reach(page, page.get_by_role("button", name="Predict expression of the file"))
        page.keyboard.press("Enter")
        page.get_by_text("Predicted the expression of 2 sequences.").wait_for()
        reach(page, page.get_by_role("link", name="Download the table"))
        rows = downloaded(page, lambda: page.keyboard.press("Enter"))
        assert [row["reverse"] for row in rows] == ["CCCC", "GGGG"]
        inspect(page, "dark-file")


@pytest.mark.parametrize(
    ("name", "text"),
    [("table.tsv", "name\tsequence\nfirst\tACGTACGT\n"), ("reads.fasta", ">first\nACGT\nACGT\n")],
)
def test_a_file_that_is_dropped(name, text, address, open_page, embedded):
    expected = predict(*embedded, ["ACGTACGT"])[0, 0]
    with open_page(address, PHONE) as page:
        page.get_by_role("tab", name="Upload a file").click()
        make = "([name, text]) => { const d = new DataTransfer(); d.items.add(new File([text], name)); return d }"
        dropped = page.evaluate_handle(make, [name, text])
        page.get_by_role("button", name="Click to upload or drop files").dispatch_event(
            "drop", {"dataTransfer": dropped}
        )
        # The file is smaller than the area to drop it on, so what is below moves up: a click could miss it.
        page.get_by_role("button", name="Clear").wait_for()
        page.get_by_role("button", name="Predict expression of the file").press("Enter")
        assert cells(page, "Predicted expression")[1][1:3] == ["first", f"{expected:.2f}"]


def test_many_sequences_are_drawn_as_a_distribution(address, open_page, inspect):
    letters = np.random.default_rng(0).choice(list("ACGT"), (40, 80))
    with open_page(address, PHONE) as page:
        paste(page, page.get_by_label("Sequences"), "\n".join(map("".join, letters)))
        page.get_by_role("button", name="Predict expression").click()
        page.get_by_role("img", name="Histogram of 40 predictions").wait_for()
        assert len(cells(page, "Predicted expression")) == 41
        inspect(page, "phone-many")


def test_bad_input_is_explained_and_kept(address, open_page, inspect, tmp_path):
    """Here some of the bad inputs; test_space.py has all."""
    with open_page(address) as page:
        box, alert = page.get_by_label("Sequences"), page.get_by_role("alert")
        for text, reason in [*BAD_TEXTS[:2], *BAD_TEXTS[9:11], (SCRIPT, "line 1: '<' at position 1 is not one of")]:
            paste(page, box, text) if text.strip() else box.fill(text)
            page.get_by_role("button", name="Predict expression").click()
            alert.filter(has_text=re.compile(reason.lstrip("^"))).wait_for()
            assert box.input_value() == text
            assert page.get_by_role("table").count() == 0
        inspect(page, "desktop-problem")

        page.get_by_role("tab", name="Upload a file").click()
        go = page.get_by_role("button", name="Predict expression of the file")
        go.press("Enter")
        alert.filter(has_text="There is no file yet").wait_for()
        for name, content, reason in [BAD_FILES[0], BAD_FILES[3], BAD_FILES[-1]]:
            (tmp_path / name).write_bytes(content)
            page.locator("input[type=file]").set_input_files(tmp_path / name)
            if not reason.startswith("^table.csv, line 3"):
                alert.filter(has_text=re.compile(reason.lstrip("^"))).wait_for()
            page.get_by_role("button", name="Clear").wait_for()
            go.press("Enter")
            alert.filter(has_text=re.compile(reason.lstrip("^"))).wait_for()
            page.get_by_role("button", name="Clear").click()
            page.get_by_role("button", name="Click to upload or drop files").wait_for()
            alert.wait_for(state="hidden")

        page.get_by_role("tab", name="Paste sequences").click()
        page.get_by_role("button", name="Try the example").click()
        variant = page.get_by_role("textbox", name="Variant")
        variant.fill("A999G")
        variant.press("Enter")
        alert.filter(has_text="A999G: position 999 lies outside the insert, which has 80 bases.").wait_for()
        assert variant.input_value() == "A999G"


def test_names_are_shown_but_not_executed(address, open_page):
    names = [SCRIPT, "${hacked = 3} {{hacked = 4}}", "$\\frac{x$ <b>bold</b>"]
    with open_page(address) as page:
        box, go = page.get_by_label("Sequences"), page.get_by_role("button", name="Predict expression")
        paste(page, box, "".join(f">{name}\nACGTACGTACGT\n" for name in names))
        go.click()
        assert [row[1] for row in cells(page, "Predicted expression")[1:]] == names
        page.get_by_label("Sequence", exact=True).click()
        options = page.get_by_role("option").all_inner_texts()
        assert [option.split(". ", 1)[1] for option in options] == names
        page.get_by_role("option").first.click()
        page.get_by_role("textbox", name="Variant").fill("A1G")
        page.get_by_role("button", name="Compare with its reference").click()
        assert cells(page, "Reference and variant")[1][1] == SCRIPT
        paste(page, box, f">{SCRIPT}\nACGT\n" * 2)
        go.click()
        table = page.get_by_role("region", name="Predicted expression")
        table.locator("tr").nth(3).wait_for(state="detached")
        assert [row[1] for row in cells(page, "Predicted expression")[1:]] == [SCRIPT] * 2
        page.wait_for_timeout(200)
        assert page.evaluate("window.hacked === undefined")


def test_a_fine_tuned_model_with_intervals(addresses, open_page, inspect):
    with open_page(addresses[1], PHONE) as page:
        paste(page, page.get_by_label("Sequences"), "ACGTACGTACGT\nGGGGCCCCAATT")
        page.get_by_role("button", name="Predict expression").click()
        header = cells(page, "Predicted expression")[0]
        assert header[2:] == ["Predicted ypd", "90% interval", "Predicted must", "90% interval"]
        assert page.locator("picture img").count() == 2
        page.get_by_label("Output").click()
        page.get_by_role("option", name="must").click()
        page.get_by_role("button", name="Change every base").click()
        page.get_by_role("img", name="Sequence logo and heat map of all single changes of the 12 bases").wait_for()
        inspect(page, "phone-intervals")
