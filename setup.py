"""The build puts the recipes into the package, as `hf_unlearn/recipes`. Everything else stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Recipes, and the files that they name. The benchmarks stay in the repository.
RECIPES = ("recipes/*/*.yaml", "recipes/*/config.json", "recipes/*/*.sh", "recipes/prepare.py", "recipes/unlearn.py")


class BuildWithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # an editable install reads the recipes where they stand
            return
        for source in sorted(path for pattern in RECIPES for path in Path().glob(pattern)):
            target = Path(self.build_lib, "hf_unlearn", source)
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithRecipes})
