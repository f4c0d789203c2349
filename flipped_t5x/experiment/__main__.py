"""`python -m flipped_t5x.experiment`; see `runs.py`."""

import sys

from flipped_t5x.experiment import runs

sys.exit(runs.main())
