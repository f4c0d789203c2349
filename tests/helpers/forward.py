"""Forward passes of a training batch, for tests of what is trained."""

from typing import Any

from flipped_t5x import objectives
import jax


def logits(
    model: Any, params: Any, batch: Any, dropout_key: jax.Array | None = None
) -> jax.Array:
  """float32[batch, length, vocab]: the logits of the targets."""
  return model.apply(
      {'params': params},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      batch.get('encoder_segment_ids'),
      batch.get('decoder_segment_ids'),
      enable_dropout=dropout_key is not None,
      rngs=None if dropout_key is None else {'dropout': dropout_key},
  )


def pair_logits(
    model: Any, params: Any, batch: Any, dropout_key: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """The logits of the right and of the wrong side."""
  return objectives.unpair(
      logits(model, params, objectives.pair(batch), dropout_key)
  )
