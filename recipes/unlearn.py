"""Unlearn from a recipe under a launcher: `accelerate launch recipes/unlearn.py --config recipes/digits-vit/jit.yaml`."""

import sys

from hf_unlearn.cli.run import main

if __name__ == "__main__":
    sys.exit(main())
