"""The evaluation card: a README.md for people and the Hub, rendered from `report.json`, and from audit and receipt if any."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import ModelCardData
from jinja2 import ChainableUndefined, Environment, PackageLoader, TemplateError
from markupsafe import Markup

from ...evaluation.answers import HEADS, commands
from ...evaluation.audit.verdicts import MEANING
from ...evaluation.report.answers import answers
from ...evaluation.report.findings import FAILED, Finding, Severity, changes_head_only, failed, findings, worst_first
from ...evaluation.report.interpretation import limits, notes, reading, request_of
from ...evaluation.report.plots import drawings
from ...evaluation.report.report import UnlearningReport
from ...evaluation.report.strips import strips
from ...training.outcome import UNCHANGED
from ...utils.files import read_object, write_atomically
from ...utils.safe_text import inert, plain, shown, visible
from ..layout import ADAPTER_CONFIG, AUDIT, CARD, RECEIPT, REPORT
from ..receipt.sealing import read_receipt, seal
from .command_lines import audit_command, citation, run_command, snippet
from .metadata import metadata, model_name

MARK = "[//]: # (hf_unlearn card, SHA-256 of the text above: "  # markdown shows no such line


def render_card(
    report: Mapping[str, Any],
    *,
    figures: Sequence[str] = (),
    receipt: Mapping[str, Any] | None = None,
    audit: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> str:
    """Return the card as markdown with its metadata.

    The same report gives the same bytes. Names from the data can never become markup.

    Args:
        report: the content of `report.json`.
        figures: paths of the report's figures, relative to the card. Figures that the report does not have are left out.
        receipt: the content of `unlearning_receipt.json`, None (default) if there is none.
        audit: the content of `audit.json`, None (default) if there is none. If it records other weights than the report,
            the card warns of it and does not show it.
        repo_id: where the model is, or will be, on the Hub. None (default): the card loads the folder `model` beside it.
        fields: front matter that replaces what is found. `tags` are added to the card's own.

    Raises:
        ValueError: the report or the audit has another schema, a figure is not below the card, or `repo_id` is malformed.
    """
    if repo_id is not None and not re.fullmatch(r"(?!\W)([\w.-]{1,96}/)?[\w.-]{1,96}", repo_id, re.ASCII):
        raise ValueError(f"`repo_id={shown(repo_id)!r}` is no name on the Hub. Give it as owner/name.")
    read = UnlearningReport.from_dict(report)
    run, ours = read.run, read.models.get("unlearned", {})
    shown_audit = _audit(audit, run)
    found = worst_first([*findings(read), *_audit_findings(audit, shown_audit)])
    text = _render(
        "unlearning_card.md",
        metadata(run, ours, repo_id, fields),
        title=model_name(run, repo_id),
        report=read,
        ours=ours,
        run=run,
        request=request_of(run) or "single rows",
        failed=FAILED if failed(found) else (),
        warnings=[finding.sentence for finding in found],
        head_only=changes_head_only(run),
        answers=answers(read),
        strips=strips(read),
        heads=HEADS,
        rows=_rows(read, special=False),
        appendix=_rows(read, special=True),
        groups=_groups(read),
        reading=reading(read),
        notes=notes(read),
        limits=limits(read),
        figures=list(_figures(read, figures)),
        audit=shown_audit,
        audited=audit is not None,
        audit_command=audit_command(run),
        receipt=receipt,
        snippet="" if UNCHANGED in read.outcome.get("warnings", ()) else snippet(run, repo_id),
        on_hub=repo_id is not None,
        run_command=run_command(run),
        citation=citation(run),
        settings={"method": run.get("method", {}), "arguments": run.get("arguments", {})},
    )
    return _marked(text)


def write_plain_card(
    folder: Path, original: str | None, table: str = "", note: str = "", fields: Mapping[str, Any] | None = None
) -> Path:
    """Write the card of a model without an evaluation report into `folder`, and return its path.

    Args:
        folder: holds the model; `adapter_config.json` in it marks an adapter.
        original: Hub id of the model that was unlearned, None if it is not on the Hub.
        table: markdown below the introduction, empty by default.
        note: markdown above the introduction, empty by default.
        fields: front matter as in `render_card`; `model_name` is the title.
    """
    given = dict(fields or {})
    original, title = given.get("base_model") or original, given.pop("model_name", None) or "Unlearned model"
    known = {"original": original, "adapter": (folder / ADAPTER_CONFIG).is_file()}
    front = metadata({**known, "original": {"id": original}}, fields=given)
    text = _render("plain_card.md", front, title=title, note=Markup(note), table=Markup(table), **known)
    write_atomically(folder / CARD, text.rstrip("\n") + "\n")
    return folder / CARD


def _render(template: str, front: ModelCardData, **values: Any) -> str:
    """Render a template. Values are escaped unless they are `Markup`: the name of a class must never become markup."""
    environment = Environment(
        loader=PackageLoader("hf_unlearn.hub.card"),
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else inert(shown(value, 2000)),
        undefined=ChainableUndefined,  # what a report does not hold is left out
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "shown": shown,
        "commands": lambda text: Markup(commands(text)),
        "fenced": _fenced,
        "cell": lambda value: Markup("–" if value is None else f"{value:.3f}"),
        "link": lambda address: Markup(address if re.fullmatch(r"https://[\w./-]+", address, re.ASCII) else ""),
        "percent": lambda share: f"{100 * share:.1f} %",
    }
    text = environment.get_template(template).render(metadata=Markup(front.to_yaml()), **values)
    return re.sub(r"\n{3,}", "\n\n", text)


def is_rendered(text: str) -> bool:
    """Whether `text` is a card that nobody has edited, by its checksum, so that it may be rendered again."""
    body, mark, _ = text.rpartition(MARK)
    return bool(mark) and _marked(body) == text


def _marked(body: str) -> str:
    body = body.rstrip("\n") + "\n\n"
    return f"{body}{MARK}{hashlib.sha256(body.encode()).hexdigest()})\n"


def card_of(folder: str | Path, *, repo_id: str | None = None, fields: Mapping[str, Any] | None = None) -> str:
    """Return the card of a run, from the `report.json` in `folder` and the figures, audit and receipt beside it.

    Args:
        folder: output folder of a run.
        repo_id, fields: as in `render_card`.

    Raises:
        ValueError: there is no report that this version reads, or the receipt was changed by hand.
    """
    folder = Path(folder)
    report = read_object(folder / REPORT)
    if report is None:
        raise ValueError(f"There is no {REPORT} in {folder}. Name the output folder of a finished `hf-unlearn run`.")
    receipt = read_receipt(folder / RECEIPT) if (folder / RECEIPT).exists() else None
    figures = sorted(f"figures/{path.name}" for path in (folder / "figures").glob("*.png"))
    audit = read_object(folder / AUDIT)
    try:
        return render_card(report, figures=figures, receipt=receipt, audit=audit, repo_id=repo_id, fields=fields)
    except (AttributeError, IndexError, KeyError, TypeError, TemplateError) as error:
        raise ValueError(f"{folder / REPORT} is malformed, so no card can be made from it: {plain(error)}") from error


def write_card(folder: str | Path, *, repo_id: str | None = None, overwrite: bool = False) -> Path:
    """Write `card_of(folder)` into `folder` as `README.md`, and return its path.

    A receipt in `folder` is sealed again, because it covers the card. A signature of the old receipt is removed.

    Args:
        folder: output folder of a run.
        repo_id: as in `render_card`.
        overwrite: whether a README.md that somebody wrote or edited may be replaced (default False).

    Raises:
        ValueError: as in `card_of`, or `overwrite` is False and README.md was written or edited by hand.
    """
    folder = Path(folder)
    text = card_of(folder, repo_id=repo_id)
    check_readme(folder, overwrite)
    write_atomically(folder / CARD, text)
    if (folder / RECEIPT).exists():
        seal(folder, whole=False)
    return folder / CARD


def check_readme(folder: str | Path, overwrite: bool = False) -> None:
    """Raise ValueError if `folder` holds a README.md that somebody wrote or edited, unless `overwrite` is True."""
    path = Path(folder) / CARD
    if path.exists() and not overwrite and not is_rendered(path.read_text("utf-8", "replace")):
        raise ValueError(
            f"{path} is no card of hf_unlearn, or was edited by hand, and would be lost. Move it, choose another folder, "
            "or allow to overwrite."
        )


def _rows(report: UnlearningReport, special: bool) -> list[tuple[str, list[Any]]]:
    """The report's table, or its appendix, without the rows on single groups: values of an attribute must not be published."""
    kept = [row for row in report.rows() if row.special == special and row.measure != "group"]
    # The cells hold numbers only, and the brackets of an interval would be hard to read if they were escaped.
    return [(row.title, [Markup(cell) for cell in row.cells]) for row in kept]


def _groups(report: UnlearningReport) -> list[tuple[str, float, float, int]]:
    """For each model: name, accuracy in its worst and in its best group, and number of groups."""
    return [(name, min(g.values()), max(g.values()), len(g)) for name, g in report.groups.items() if g]


def _figures(report: UnlearningReport, paths: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Path and drawing of each given figure that the report has, in the report's order."""
    given = {}
    for path in map(PurePosixPath, paths):
        if path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[\w./-]+", str(path), re.ASCII):
            raise ValueError(f"`figures`: {plain(path)!r} is no plain path below the card. Write 'figures/roc.png'.")
        given[path.stem] = Markup(str(path))
    return ((given[name], drawing) for name, drawing in drawings(report).items() if name in given)


def _audit(audit: Mapping[str, Any] | None, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the card shows of an audit. None if there is no audit, or if it is of other weights."""
    if audit is None:
        return None
    if not str(audit.get("schema")).startswith("hf_unlearn/audit/1"):
        raise ValueError(f"`audit` has the schema {audit.get('schema')!r}, this version reads 'hf_unlearn/audit/1'.")
    try:
        audited_weights = audit["run"].get("weights")
        if audited_weights and run.get("weights") and audited_weights != run["weights"]:
            return None
        verdict = audit["verdict"]
        return {
            "verdict": verdict,
            "meaning": MEANING.get(verdict, ""),
            "because": [line["words"] for line in audit["lines"] if line["key"] in audit["because"]],
            "accepted": verdict == next(iter(MEANING)),
            "lines": audit["lines"],
            "limits": audit["limits"],
            "retrained": audit["run"].get("retrained", 0),
            "bound": bool(audited_weights),
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{AUDIT} is malformed: {type(error).__name__} {plain(error)}") from error


def _audit_findings(audit: Mapping[str, Any] | None, judged: Mapping[str, Any] | None) -> list[Finding]:
    """What an audit adds to the warnings of the report. `judged` is what the card shows of it."""
    if audit is None:
        return []
    if judged is None:
        text = "the audit beside this card is of a model with other weights, and is not shown"
        return [Finding(Severity.NOTE, text)]
    return (
        [] if judged["accepted"] else [Finding(Severity.REMAINS, f"an audit of this model says: {judged['verdict']}")]
    )


def _fenced(content: Any, language: str) -> Any:
    """A code block that its content cannot close. Content that is no text is written as YAML with shortened strings."""
    if not isinstance(content, str):
        content = yaml.safe_dump(_short(content), sort_keys=False, allow_unicode=True, width=float("inf")).strip()
    text = "\n".join(map(visible, content.split("\n")))
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return Markup(f"{fence}{language}\n{text}\n{fence}")


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {shown(k): _short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_short(v) for v in value]
    return shown(value, 200) if isinstance(value, str) else value
