"""`python -m hf_unlearn.cli`: the same as `hf-unlearn`."""

import sys

from . import main

sys.exit(main())
