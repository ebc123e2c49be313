"""`python -m hf_unlearn.cli` is the same command as `hf-unlearn`."""

import sys

from . import main

sys.exit(main())
