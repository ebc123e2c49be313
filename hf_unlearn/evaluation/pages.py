"""Pages of HTML that load nothing: the templates of reports and audits, in which no text of a user becomes markup."""

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..utils.safe_text import shown

# The colors of Okabe and Ito can be told apart by the color-blind. A model has the same color in every picture.
COLORS_OF_A_NOTEBOOK = ".hf-unlearn { --line: #8884; --band: #8881; --soft: inherit; --alarm: #d55e00; --alarm-band: #d55e0022; max-width: 50rem; }"
COLORS = {"original": "#999999", "unlearned": "#0072B2", "retrained": "#E69F00"}


def answers_css() -> str:
    """Return the styles of answers and verdicts, for a page of another program that shows them inside `.hf-unlearn`."""
    return resources.files("hf_unlearn.evaluation").joinpath("templates", "answers.css").read_text("utf-8")


def standalone(part: str) -> str:
    """Return a part of a page, made by `rendered`, with its styles, for a notebook."""
    return f"<style>{COLORS_OF_A_NOTEBOOK}{answers_css()}</style>{part}"


def rendered(template: str, **values: Any) -> str:
    """Return the page that `template`, a file in `templates`, makes of `values`.

    Everything is escaped, whatever the template is called: the name of a class must never become markup.
    """
    environment = Environment(
        loader=PackageLoader("hf_unlearn.evaluation"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else shown(value, 2000),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
