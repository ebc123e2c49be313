"""The page of the app, in gradio: fields, buttons and answers. What they do stands in `work.py`."""

import html
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "GRADIO_ANALYTICS_ENABLED", "False"
)  # read when gradio is imported: nothing is reported to anybody
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from huggingface_hub import constants

from ...evaluation.audit.audit import Audit
from ...evaluation.pages import answers_css
from ...pipeline.audit_job import AuditArguments
from ...utils.loading_errors import read_no_folders_but
from .example import CANDIDATES, DIGIT, folder_of_examples, make_example
from .work import FieldError, check_receipt, options_of, running, what_will_be_read

logger = logging.getLogger(__name__)

TITLE = "Did it forget?"
EXAMPLE, OWN = "An example", "My own models"
STYLE = """
.hf-unlearn { --ink: var(--body-text-color); --soft: color-mix(in srgb, var(--body-text-color) 80%, transparent);
  --paper: var(--background-fill-primary); --line: var(--border-color-primary); --band: var(--background-fill-secondary);
  --alarm: #d55e00; --alarm-band: color-mix(in srgb, #d55e00 12%, transparent); color: var(--ink); }
.hf-unlearn table { border-collapse: collapse; width: 100%; font-size: .9rem; border: 0; }
.hf-unlearn th, .hf-unlearn td { padding: .3rem .5rem; text-align: left; border: 0; border-bottom: 1px solid var(--line); }
.hf-unlearn tbody th { font-weight: normal; }
.hf-unlearn svg { min-width: 80px; }
.hf-unlearn .number { text-align: right; white-space: nowrap; }
.hf-unlearn .error { border-left: .3rem solid #d55e00; padding: .5rem .9rem; }
"""
STATUS = '<div class="hf-unlearn" role="status" aria-live="polite">{}</div>'
ERROR = '<div class="hf-unlearn" role="alert"><p class="error"><strong>This cannot work.</strong> {}</p></div>'


def build(local: bool = True) -> gr.Blocks:
    """Return the page.

    Args:
        local: folders of this machine can be named. False where others use the page: then only Hub ids are read. Default: True.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 3600)) as page:
        gr.Markdown(
            f"# {TITLE}\nCompare a model that was to forget something with the original, and with models that never saw it. "
            + (
                "Models and rows stay on this machine."
                if local
                else "Public models and data sets are read from the Hub."
            )
        )
        with gr.Tab("Did it forget?"):
            _audit_tab(local)
        with gr.Tab("Check a receipt"):
            _receipt_tab(local)
    return page


def for_others() -> gr.Blocks:
    """Return the page for visitors from elsewhere. From then on this process reads no folder but the example's, and sends no token."""
    constants.HF_HUB_DISABLE_IMPLICIT_TOKEN = True  # a visitor sees what anybody sees
    read_no_folders_but(folder_of_examples())
    return build(local=False)


def launch(page: gr.Blocks, **given: Any) -> None:
    """Serve the page until the process is ended.

    Args:
        page: of `build`.
        given: `host`, `port` and `share`; and for tests `prevent_thread_lock`. Without `host` the environment decides.
    """
    names = {"host": "server_name", "port": "server_port"}
    page.launch(
        **{names.get(name, name): value for name, value in given.items()},
        css=STYLE + answers_css(),
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        footer_links=[],
        ssr_mode=False,
        show_error=False,
        quiet=False,
    )


def _audit_tab(local: bool) -> None:
    place = "a folder or a Hub id" if local else "a Hub id"
    source = gr.Radio([EXAMPLE, OWN], value=EXAMPLE, label="What do you want to look at?")
    with gr.Group() as example:
        candidate = gr.Radio(
            list(CANDIDATES),
            value=next(iter(CANDIDATES)),
            label=f"A small classifier of digits was asked to forget the digit {DIGIT}",
        )
    with gr.Group(visible=False) as own:
        models = [
            gr.Textbox(label="Original", info=f"The model that learned everything: {place}."),
            gr.Textbox(label="Model to judge", info=f"The model that should have forgotten: {place}."),
            gr.Textbox(
                label="Retrained models", lines=3, info="Models trained without it, one in each line. Three are best."
            ),
        ]
        rows = [
            gr.Textbox(label="Training rows", info=f"All rows that the original learned: {place}, such as data:train."),
            gr.Textbox(label="Test rows", info="Rows that no model was trained on, such as data:test."),
        ]
        asked = [
            gr.Textbox(
                label="Class to forget", lines=2, info="Its name, or several, one in each line. Or name rows below."
            ),
            gr.Textbox(label="Column", info="A column that names the rows to forget, such as a customer number."),
            gr.Textbox(label="Values", lines=2, info="Values of that column, one in each line."),
            gr.File(
                label="Or a text file with values, one in each line",
                file_types=[".txt", ".csv"],
                type="filepath",
                height=120,
            ),
        ]
    source.change(
        lambda chosen: [gr.update(visible=chosen == EXAMPLE), gr.update(visible=chosen == OWN)], source, [example, own],
        api_visibility="private",
    )  # fmt: skip
    with gr.Row():
        look = gr.Button("What will be read?")
        start = gr.Button("Judge the model", variant="primary")
    status, answer = gr.HTML(STATUS.format("")), gr.HTML()
    with gr.Accordion("Every line of evidence", open=False, visible=False) as details:
        evidence = gr.Markdown()
    page = gr.DownloadButton("Download as a page", visible=False)
    fields = [source, candidate, *models, *rows, *asked]
    pages = tempfile.TemporaryDirectory(prefix="hf-unlearn-")  # what can be downloaded; gone when the app ends

    def options(chosen: str, which: str, *typed: Any) -> AuditArguments:
        if chosen == EXAMPLE:
            return make_example(folder_of_examples()).options(which)
        return partial(options_of, local=local)(*typed)

    def read(*typed: Any) -> str:
        try:
            return STATUS.format(html.escape(what_will_be_read(options(*typed))))
        except Exception as error:
            return _told(error, local)

    def judge(*typed: Any) -> Iterator[Sequence[Any]]:
        hidden = gr.update(visible=False)
        making = typed[0] == EXAMPLE and not folder_of_examples().is_dir()
        first = (
            "Five small classifiers of digits are trained for the example. This happens once." if making else "Started."
        )
        yield STATUS.format(first), "", hidden, "", hidden
        try:
            for said in running(options(*typed)):
                if isinstance(said, Audit):
                    shown, file = gr.update(visible=True), _saved(said, pages.name)
                    yield (
                        STATUS.format("Done."),
                        said.summary(),
                        shown,
                        said.to_markdown(),
                        gr.update(value=file, visible=True),
                    )
                else:
                    yield STATUS.format(html.escape(said)), "", hidden, "", hidden
        except Exception as error:
            yield _told(error, local), "", hidden, "", hidden

    look.click(read, fields, status, api_visibility="private")
    outputs = [status, answer, details, evidence, page]
    start.click(judge, fields, outputs, api_visibility="private", concurrency_limit=1, show_progress="minimal")


def _told(error: Exception, local: bool) -> str:
    """Say why something cannot work. Visitors from elsewhere are not told what is on the machine, which other errors may name."""
    logger.warning("The page could not do what was asked.", exc_info=not isinstance(error, ValueError))
    if not local and not isinstance(error, FieldError):
        return ERROR.format(
            "The models or rows could not be read from the Hub. Check their names, and the class or values."
        )
    return ERROR.format(html.escape(str(error)))


def _saved(audit: Audit, pages: str) -> str:
    """Write the audit as a page into a folder of its own below `pages`, and return its path."""
    folder = Path(tempfile.mkdtemp(dir=pages))
    (folder / "audit.html").write_text(audit.to_html(), "utf-8")
    return str(folder / "audit.html")


def _receipt_tab(local: bool) -> None:
    gr.Markdown("Drop a deletion receipt, to see whether it is whole, who signed it, and whether files are as it says.")
    receipt = gr.File(label="Receipt (unlearning_receipt.json)", file_types=[".json"], type="filepath", height=120)
    signature = gr.File(label="Its signature (.sig), if there is one", type="filepath", height=120)
    key = gr.File(label="Public key of the owner (.pub), if you have it", type="filepath", height=120)
    folder = gr.Textbox(
        label="Folder with the published files", info="Only needed to check the files themselves.", visible=local
    )
    check = gr.Button("Check", variant="primary")
    result = gr.HTML(STATUS.format(""))

    def checked(receipt: str | None, signature: str | None, key: str | None, folder: str) -> str:
        try:
            good, said = check_receipt(receipt, [signature] if signature else [], key, folder if local else "")
        except (ValueError, OSError, ImportError) as error:
            return ERROR.format(html.escape(str(error)))
        light, word = ("good", "It fits.") if good else ("bad", "It does not fit.")
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in said)
        answer = f'<dl class="answers"><div class="{light}"><dt>Receipt</dt><dd><strong>{word}</strong><ul>{lines}</ul></dd></div></dl>'
        return STATUS.format(answer)

    check.click(checked, [receipt, signature, key, folder], result, api_visibility="private")
