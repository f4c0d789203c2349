"""Makes XLA compile faster, for tests that compile much and run little.

What is compared bit by bit must be compiled with the same.
"""

import os

QUICK = ' '.join(filter(None, (
    os.environ.get('XLA_FLAGS'), '--xla_backend_optimization_level=0'
)))
