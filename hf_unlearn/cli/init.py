"""`hf-unlearn init`: list the recipes that come with the package, or write one into the present folder, to edit and run."""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..utils.argument_checks import did_you_mean
from ..utils.safe_text import shown
from .parsers import CommandParser, parser_settings

PACKAGE = Path(__file__).parents[1]
FOLDER = "recipes"
BENCHMARKS = f"{FOLDER}/benchmarks/"  # scripts of the repository, which are not in the package


def root() -> Path:
    """Return the folder that holds the folder of recipes: the package, into which the build puts it, or the repository."""
    return PACKAGE if (PACKAGE / FOLDER).is_dir() else PACKAGE.parent


def recipes() -> dict[str, str]:
    """Return the path of each recipe below `root()`, such as `recipes/digits-vit/jit.yaml`, by its name, `digits-vit/jit`."""
    start = root()
    paths = sorted(path.relative_to(start) for path in (start / FOLDER).glob("*/*.yaml"))
    return {f"{path.parent.name}/{path.stem}": path.as_posix() for path in paths}


def about(text: str) -> str:
    """Return the comment at the top of a recipe, without its signs."""
    lines = text.splitlines()
    length = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").strip() for line in lines[:length])


def companions(path: str, text: str) -> Iterator[str]:
    """Yield the paths of the files that a recipe needs beside it: those below `recipes` that its text names."""
    for named in dict.fromkeys(re.findall(rf"\b{FOLDER}/[\w./-]*\w", text)):
        if named != path and not named.startswith(BENCHMARKS) and (root() / named).is_file():
            yield named


def find(given: str) -> tuple[str, str]:
    """Return the name and the path of the recipe that the user names, with or without `recipes/` and `.yaml`.

    Raises:
        SystemExit: there is no such recipe; the message names the nearest ones.
    """
    known = recipes()
    name = given.replace("\\", "/").removeprefix(f"{FOLDER}/").removesuffix(".yaml").strip("/")
    if name in known:
        return name, known[name]
    alike = [one for one in known if name and name in one.split("/")]
    hint = f" Did you mean one of {', '.join(f'`{one}`' for one in alike)}?" if alike else did_you_mean(name, known)
    raise SystemExit(f"`NAME`: {shown(given)!r} is no recipe.{hint} `hf-unlearn init` lists them.")


def write(path: str, output: Path) -> tuple[list[str], list[str]]:
    """Write the recipe at `path` as the file `output`, and what it needs into `recipes` in the present folder.

    Returns:
        The files that were written, and those that were there already and are kept as they are.

    Raises:
        SystemExit: `output` is there already.
    """
    text = (root() / path).read_text("utf-8")
    if output.exists() or output.is_symlink():
        raise SystemExit(
            f"{shown(output)} is there already, and is not overwritten. Name another file with `--output`."
        )
    written, kept = [output.as_posix()], []
    _write_new(output, text.replace(path, output.as_posix()))
    for needed in companions(path, text):
        if Path(needed).exists():
            kept.append(needed)
        else:
            _write_new(Path(needed), (root() / needed).read_text("utf-8"))
            written.append(needed)
    return written, kept


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def next_command(name: str, output: str) -> str:
    """Return the command that uses a recipe of this name, written as `output`."""
    group = name.partition("/")[0]
    if group == "accelerate":
        return f"accelerate launch --config_file {output} recipes/unlearn.py --config RECIPE.yaml"
    return f"hf-unlearn {'compare' if group == 'compare' else 'run'} --config {output}"


def _parse(words: Sequence[str]) -> argparse.Namespace:
    about_it = (
        "List the recipes that come with the package, or write one into the present folder, to edit and run. The files that the "
        "recipe names are written too. Nothing is overwritten."
    )
    settings = parser_settings("init", about_it, "", "digits-vit/jit", "digits-vit/jit --output my-recipe.yaml")
    parser = CommandParser(**settings)
    parser.add_argument("name", nargs="?", metavar="NAME", help="Name of a recipe. Without it, all are listed.")
    parser.add_argument("--output", metavar="FILE", help="The file to write. By default recipes/NAME.yaml.")
    return parser.parse_args(list(words))


def main(words: Sequence[str]) -> int:
    """Run `hf-unlearn init`. Returns 0."""
    options = _parse(words)
    if options.name is None:
        if options.output is not None:
            raise SystemExit("`--output` needs the name of a recipe before it. `hf-unlearn init` lists them.")
        for name, path in recipes().items():
            first, _, _ = about((root() / path).read_text("utf-8")).replace("\n", " ").partition(". ")
            print(f"{name}\n    {first.rstrip('.')}.")
        print("\n`hf-unlearn init NAME` writes one into the folder `recipes`, to edit and run.")
        return 0
    name, path = find(options.name)
    if options.output == "":
        raise SystemExit("`--output` is empty. Give it a file, or leave it out.")
    output = Path(options.output or path)
    text = (root() / path).read_text("utf-8")
    written, kept = write(path, output)
    print(about(text))
    print(f"\nWritten: {', '.join(written)}")
    if kept:
        print(f"Kept as they were: {', '.join(kept)}")
    if BENCHMARKS in text:
        print(
            f"The scripts of {BENCHMARKS} are in the repository alone. Without them, name a `model` and a `dataset` of yours."
        )
    print(f"Edit it, and run: {next_command(name, output.as_posix())}")
    return 0
