"""`hf-unlearn compare`: methods on requests with seeds, beside each other and beside retraining."""

# ruff: noqa: RUF009  `setting` makes a dataclass field, no default that the objects share
import argparse
import json
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import transformers

from ..evaluation.comparison.cells import digest_of
from ..methods import METHODS
from ..methods.base import setting
from ..pipeline.comparison import LEAST, MEASURED, Parts, Plan, Scene, compare
from ..pipeline.folder_lock import sole_writer
from ..pipeline.prepare import prepare
from ..pipeline.recipe import read_recipe
from ..pipeline.run_arguments import DATASET, MODEL, REQUEST
from ..pipeline.tuning import TRIALS, Budget, tune
from ..utils.argument_checks import check_counts, check_positive, did_you_mean
from ..utils.files import file_digest
from ..utils.safe_text import shown
from .option_parser import OptionParser
from .parsers import parser_settings
from .run import checked

MAPPINGS = ("scenarios", "settings", "options", "tune")
REFERENCE = (
    "surrogate_distillation"  # reads held-out rows, so that no method is measured on rows that it could have read
)
REQUEST_KEYS = tuple(REQUEST.values())


@dataclass
class CompareArguments:
    """What is compared. The texts below are those of `hf-unlearn compare --help`."""

    model: str = field(metadata={"help": MODEL})
    dataset: str = field(metadata={"help": DATASET})
    output_dir: str = field(metadata={"help": "Folder for the tables, the cells and the retrained models."})
    scenarios: str = field(
        metadata={
            "help": 'The requests, each with a name and the `forget_*` options of `hf-unlearn run`: {"a class": {"forget_class": "truck"}}.'
        }
    )
    methods: list[str] | None = setting(
        None,
        "Methods, or names of entries in `settings`. By default every method that can forget what a request names.",
    )
    seeds: list[int] | None = setting(None, "Seeds of the unlearning. By default 0, 1 and 2.")
    retrain: int = setting(3, "Models that are retrained for each request, once for all methods. Two at least.")
    base_model: str | None = setting(None, "Model that `model` was fine-tuned from, as in `hf-unlearn run`.")
    settings: str | None = setting(
        None,
        'Options of methods: {"salun": {"saliency": 0.5}}. An entry with a name of its own and a `method` is a row of its own: '
        '{"masked": {"method": "salun", "saliency": 0.5}}.',
    )
    options: str | None = setting(
        None, 'More options of `hf-unlearn run`, for all runs: {"text_column": "body", "test_rows": 500}.'
    )
    trials: int = setting(
        0,
        "Equal budgets: find the settings of every method with so many trials, each of so many `passes`, on the request `tune`. 0: "
        "defaults are compared.",
    )
    passes: float = setting(0.5, "Passes over the retain set that each method may take, with `trials`.")
    tune: str | None = setting(
        None, 'Request that settings are tuned on, with `trials`: {"forget_class": "ship"}. None of the `scenarios`.'
    )
    audit_seed: int | None = setting(None, "Seed of what the audit draws. By default one for each original.")

    mappings: dict[str, dict[str, Any]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.mappings = {name: json.loads(getattr(self, name) or "{}") for name in MAPPINGS}
        self.seeds = [0, 1, 2] if self.seeds is None else self.seeds
        if self.retrain < LEAST:
            raise ValueError(
                f"`retrain={self.retrain}`: a comparison needs at least {LEAST} retrained models, because one does not show how "
                "far retrained models are from each other."
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`seeds`: {self.seeds} holds a seed twice.")
        if not self.requests:
            raise ValueError("`scenarios` is empty. Name at least one request.")
        for name, asked in self.requests.items():
            _check_request(f"`scenarios`: {shown(name)!r}", asked)
        if bool(self.trials) != bool(self.mappings["tune"]):
            raise ValueError(
                "`trials` and `tune` belong together: the number of trials, and the request that they are run on."
            )
        if self.trials:
            check_counts(self, "trials")
            check_positive(self, "passes")
            _check_request("`tune`", self.mappings["tune"])
            if self.mappings["tune"] in self.requests.values():
                raise ValueError(
                    "`tune` is one of `scenarios`: settings must be tuned on other rows than the figures are of."
                )

    @property
    def requests(self) -> dict[str, Any]:
        """The `forget_*` options of each request."""
        return self.mappings["scenarios"]

    def entries(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return for each row of the tables its method and options.

        Raises:
            ValueError: a method is unknown, or unlearns no rows.
        """
        own = self.mappings["settings"]
        found = {}
        for name in self.methods or [*suiting(), *(n for n in own if n not in METHODS)]:
            given = own.get(name, {})
            if not isinstance(given, dict):
                raise ValueError(f"`settings`: {shown(name)!r} must be a mapping of options.")
            method = str(given.get("method", name))
            if method not in suiting():
                hint = did_you_mean(method, suiting())
                raise ValueError(
                    f"`methods`: {shown(method)!r} is no method that forgets rows. Known: {', '.join(suiting())}.{hint}"
                )
            found[str(name)] = method, {k: v for k, v in given.items() if k != "method"}
        if unused := own.keys() - found.keys():
            raise ValueError(f"`settings`: {shown(sorted(unused)[0])!r} is not among `methods`.")
        return found


def _check_request(what: str, asked: Any) -> None:
    if not isinstance(asked, dict) or not asked:
        raise ValueError(f"{what} must be a mapping of `forget_*` options.")
    for key in asked:
        if key not in REQUEST_KEYS:
            raise ValueError(f"{what}: `{shown(key)}` is no `forget_*` option.{did_you_mean(str(key), REQUEST_KEYS)}")


def suiting() -> list[str]:
    """Return the keys of the methods that forget rows."""
    return [key for key, method in METHODS.items() if not method.needs_column and not method.starts_fresh]


def words(
    arguments: CompareArguments, asked: Mapping[str, Any], method: str, options: Mapping[str, Any], seed: int
) -> list[str]:
    """Return the command line of `hf-unlearn run` for a cell that forgets what is `asked`."""
    given: dict[str, Any] = {
        "model": arguments.model, "dataset": arguments.dataset, "base_model": arguments.base_model, "method": method, "seed": seed,
        "retrain": arguments.retrain, "output_dir": os.path.join(arguments.output_dir, "run"), "save_strategy": "no",
        "disable_tqdm": True, "logging_strategy": "no", "report_to": "none", **arguments.mappings["options"], **asked, **options,
    }  # fmt: skip
    return [word for name, value in given.items() if value is not None for word in _option(name, value)]


def _option(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield f"--{name}={json.dumps(value)}"
    elif isinstance(value, list):
        yield f"--{name}"
        yield from map(str, value)
    else:
        yield f"--{name}={str(value).lower() if isinstance(value, bool) else value}"


def _parts(
    arguments: CompareArguments, asked: Mapping[str, Any], method: str, seed: int, options: Mapping[str, Any]
) -> Parts:
    return checked(words(arguments, asked, method, options, seed))


def plans_of(arguments: CompareArguments, tuned: Mapping[str, Mapping[str, Any]] | None = None) -> list[Plan]:
    """Return the cells in the order in which they are run, each checked.

    Args:
        arguments: what is compared.
        tuned: options of each row that were found by trials. Default: None, defaults are compared.

    Raises:
        ValueError: an option of a run has an impossible value.
        SystemExit: it is unknown.
    """
    plans = []
    entries = arguments.entries()
    for scenario, (name, (method, options)), seed in product(
        arguments.requests, entries.items(), arguments.seeds or ()
    ):
        found = {**options, **(tuned or {}).get(name, {})}
        parts = partial(_parts, arguments, arguments.requests[scenario], method, seed, found)
        run, _, checked_method = parts()
        if arguments.methods is None and run.kind not in checked_method.kinds:
            continue  # a method that the user did not name, and that cannot forget this
        plans.append(Plan(scenario, name, seed, parts))
    return plans


def read_arguments(given: Sequence[str]) -> CompareArguments:
    """Read the configuration (`--config file.yaml`) and the command line, which overrides it."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config", nargs="?", const="")
    found, others = early.parse_known_args(list(given))
    recipe = {} if found.config is None else read_recipe(found.config)
    settings = parser_settings(
        "compare",
        "Run methods on requests, and compare each with models that are retrained once for all of them. Every option is also a key of a "
        "YAML file. A comparison that was killed goes on where it ended.",
        "--config recipes/compare/digits.yaml",
        '--model my-org/classifier --dataset my-org/data --scenarios \'{"user": {"forget_column": "user_id", "forget_values": "u1"}}\' \\',
        "    --methods surrogate_distillation neggrad_plus scrub --output_dir out/compare",
    )
    parser = OptionParser(CompareArguments, dict.fromkeys(MAPPINGS, True), **settings)
    parser.add_argument(
        "--config", default=argparse.SUPPRESS, metavar="FILE", help="A YAML file whose keys are options."
    )
    known = [f.name for f in fields(CompareArguments) if f.init]
    for name in recipe:
        if name not in known:
            raise SystemExit(
                f"`{shown(name)}` in the file is no option of `hf-unlearn compare`.{did_you_mean(name, known)}"
            )
    (arguments,) = parser.read(others, recipe)
    return arguments


def main(given: Sequence[str]) -> int:
    """Run `hf-unlearn compare`. Returns 0 if every cell has a result, and 1 if one failed."""
    arguments = read_arguments(given)
    plans = plans_of(arguments)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    folder, tell = Path(arguments.output_dir), partial(print, flush=True)
    names = ("model", "dataset", "base_model", "retrain", "options", "audit_seed")
    shared: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    with sole_writer(folder):
        if not os.path.exists(arguments.model) and "model_config" in arguments.mappings["options"]:
            prepare(*plans[0].parts())  # trains the original, which the cells below are of
        shared["weights"] = weights_of(arguments.model)
        if arguments.trials:
            plans = plans_of(arguments, _tuned(arguments, {plan.method for plan in plans}, folder, shared, tell))
            shared |= {name: getattr(arguments, name) for name in ("trials", "passes", "tune")}
        scenes = {
            name: partial(_scene, arguments, name, asked, folder, number)
            for number, (name, asked) in enumerate(arguments.requests.items())
        }
        found = compare(plans, scenes, folder, {"": shared, **arguments.requests}, tell)
    print(found.to_markdown().partition("## Settings")[0])
    print(f"Tables in {folder / 'comparison.html'}, .md, .tex and .json")
    return 1 if found.failures() else 0


def weights_of(model: str) -> str | None:
    """Return a digest of the weights in a folder, so that cells of another original are other cells; None for a name on the Hub."""
    files = sorted(Path(model).glob("*.safetensors")) if os.path.isdir(model) else []
    return digest_of(*map(file_digest, files)) if files else None


def _scene(arguments: CompareArguments, name: str, asked: Mapping[str, Any], folder: Path, number: int | str) -> Scene:
    parts = partial(_parts, arguments, asked, REFERENCE, (arguments.seeds or [0])[0], {})
    return Scene(
        name, parts, folder / "retrained" / _folder_name(name, number), folder / MEASURED, arguments.audit_seed
    )


def _tuned(
    arguments: CompareArguments,
    names: Container[str],
    folder: Path,
    shared: Mapping[str, Any],
    tell: Callable[[str], object],
) -> dict[str, dict[str, Any]]:
    """Return the settings that trials on the request `tune` found, for each row in `names`."""
    asked, budget = arguments.mappings["tune"], Budget(arguments.trials, arguments.passes)
    scene = _scene(arguments, "tune", asked, folder, "t")

    def of(method: str, options: Mapping[str, Any], more: Mapping[str, Any]) -> Parts:
        return _parts(arguments, asked, method, (arguments.seeds or [0])[0], {**options, **more})

    return {
        name: tune(name, scene, partial(of, method, options), budget, folder / TRIALS, [shared, asked], tell)
        for name, (method, options) in arguments.entries().items()
        if name in names
    }


def _folder_name(name: str, number: int | str) -> str:
    """Return a name for a folder, whatever the request is called."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40]
    return f"{number}-{plain}"
