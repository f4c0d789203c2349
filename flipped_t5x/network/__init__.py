"""T5 1.1 in Flax, with T5X's parameter names and logical axes."""

from flipped_t5x.network.t5 import T5Config
from flipped_t5x.network.t5 import Transformer

__all__ = ['T5Config', 'Transformer']
