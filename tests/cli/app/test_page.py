"""The page of the app: its fields have labels, it is on this machine alone, and a browser can use it at every width."""

import os
import shutil
import urllib.request

import pytest

from hf_unlearn.cli import main
from hf_unlearn.cli.app.example import CANDIDATES

gradio = pytest.importorskip("gradio", reason="the page needs gradio, of the extra `app`")
BROWSER = os.environ.get("HF_UNLEARN_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
LABELED = {"radio", "textbox", "file"}


@pytest.fixture(scope="module")
def page():
    from hf_unlearn.cli.app.page import build

    return build()


@pytest.fixture(scope="module")
def address(page, tmp_path_factory):
    from hf_unlearn.cli.app.page import launch

    launch(page, host="127.0.0.1", port=None, share=False, prevent_thread_lock=True)
    yield page.local_url
    page.close()


def components(page):
    return [part for part in page.get_config_file()["components"] if part["props"].get("visible", True) is not None]


def test_every_field_has_a_label_and_nothing_is_public(page):
    fields = [part for part in components(page) if part["type"] in LABELED]
    assert len(fields) >= 14
    assert all(part["props"]["label"] for part in fields)
    assert not page.analytics_enabled
    assert {d["api_visibility"] for d in page.get_config_file()["dependencies"]} == {"private"}


def test_where_others_use_it_no_folder_can_be_named():
    from hf_unlearn.cli.app.page import build

    texts = [str(part["props"].get("info") or "") for part in components(build(local=False))]
    assert not any("a folder or" in text for text in texts)
    hidden = [p for p in components(build(local=False)) if p["props"].get("label") == "Folder with the published files"]
    assert not hidden[0]["props"]["visible"]


def test_visitors_from_elsewhere_see_what_anybody_sees(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from hf_unlearn.cli.app import page
    from hf_unlearn.cli.app.work import FieldError
    from hf_unlearn.utils import loading_errors

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setattr(loading_errors, "_readable", None)
    monkeypatch.setattr(page, "folder_of_examples", lambda: tmp_path / "example")
    (tmp_path / "example").mkdir()
    page.for_others()
    assert constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    assert loading_errors.located(str(tmp_path / "example"), "model") == str(tmp_path / "example")
    assert loading_errors.located("org/name@main", "model") == "org/name@main"
    for place in (str(tmp_path), "/etc/passwd", "../model", "~"):  # as an adapter of the Hub may name its base
        with pytest.raises(ValueError, match="not read here"):
            loading_errors.located(place, "base_model")
    secret = ValueError(f"{tmp_path} was not found. Did you mean 'patients'?")
    assert "patients" in page._told(secret, local=True)
    assert "patients" not in page._told(secret, local=False)
    assert "is empty" in page._told(FieldError("The field 'test rows' is empty."), local=False)


def test_it_is_served_on_this_machine_alone_and_asks_nobody_else(address):
    assert address.startswith("http://127.0.0.1:")
    text = urllib.request.urlopen(address, timeout=20).read().decode()
    assert "Did it forget?" in text
    assert "fonts.googleapis" not in text.replace('https://fonts.googleapis.com" crossorigin', "")


def test_a_port_that_is_taken_and_an_unknown_option_end_with_2(address, capsys):
    assert main(["app", "--port", address.rstrip("/").rpartition(":")[2]]) == 2
    assert "port" in capsys.readouterr().err
    assert main(["app", "--host", "0.0.0.0"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium: set HF_UNLEARN_CHROMIUM to one")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_person_can_judge_the_example_in_a_browser(address, width, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    errors = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--headless=shell", "--no-zygote"]
        )
        view = browser.new_page(viewport={"width": width, "height": 900})
        view.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        view.on("pageerror", lambda error: errors.append(str(error)))
        outside = []
        view.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
        view.goto(address)
        view.get_by_role("radio", name=list(CANDIDATES)[1]).check(timeout=20_000)
        view.get_by_role("button", name="Judge the model").press("Enter")  # by the keyboard
        view.get_by_text("hidden, not forgotten").first.wait_for(timeout=120_000)
        assert view.get_by_text("Hidden, not gone.").is_visible()
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        with view.expect_download(timeout=20_000) as download:
            view.get_by_role("button", name="Download as a page").or_(
                view.get_by_role("link", name="Download as a page")
            ).first.click()
        download.value.save_as(tmp_path / "audit.html")
        view.get_by_role("tab", name="Check a receipt").click()
        view.get_by_role("button", name="Check", exact=True).click()
        view.get_by_role("alert").filter(has_text="Drop a receipt").wait_for(timeout=20_000)
        browser.close()
    assert "hidden, not forgotten" in (tmp_path / "audit.html").read_text("utf-8")
    assert errors == []
    assert outside == []
