"""This project's training and ranking, and T5X's network, as sides."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib
import re
import time
import types
from typing import Any

from flipped_t5x import libtpu_loading
from flipped_t5x import network as network_lib
from flipped_t5x import objectives
from flipped_t5x.engine import optimizers
from flipped_t5x.engine import train_step
from flipped_t5x.inference import scoring
from flipped_t5x.prompts import arrays as arrays_lib
from flipped_t5x.weights import hf_checkpoints
from flipped_t5x.weights import quantization
from flipped_t5x.weights import tensors
import jax
import numpy as np
import optax
import random_weights

# Rows of encoder and decoder, lengths of inputs and targets; padded.
Shape = tuple[int, int, int, int]
_SEED = 42
Task = Mapping[str, Sequence[Any]]  # See rows.py.
Source = pathlib.Path | network_lib.T5Config  # See `Network`.


class Network:
  """A T5 in JAX; what its uses have in common."""

  def __init__(
      self, source: Source, dtype: str, weights_dtype: str, **sizes: Any
  ):
    """Reads or draws the weights.

    Args:
      source: a folder in Hugging Face's form, or the sizes of a network whose
        weights are drawn, see `random_weights.py`.
      dtype: of the activations, 'float32' or 'bfloat16'.
      weights_dtype: of the weights, either of these or 'int8'.
      **sizes: further fields of `network.T5Config`.
    """
    libtpu_loading.avoid()  # A side is the first in its process to use JAX.
    self._dtype = dtype
    sizes |= {'dtype': dtype, 'int8_weights': weights_dtype == 'int8'}
    if isinstance(source, network_lib.T5Config):
      network = source
      drawn = network.without_adapters()
      if network.lora.rank:  # As integers: rounding 11 billion takes minutes.
        drawn = dataclasses.replace(drawn, int8_weights=sizes['int8_weights'])
      weights = random_weights.tensors(drawn)
    else:
      network, weights = hf_checkpoints.open(source)
    self._network = dataclasses.replace(network, **sizes)
    if self._network.scan_layers:
      weights = tensors.stacked(weights)
    weights = quantization.astype(weights, weights_dtype)
    self._params = tensors.tree({
        name: jax.device_put(tensor.read()).block_until_ready()
        for name, tensor in weights.items()
    })

  def platform(self) -> str:
    """'cpu' or another."""
    return jax.default_backend()

  def peak(self, sizes: Sequence[int]) -> float:
    """Operations/s of products of square matrices, the best of some sizes."""
    best = 0.0
    for size in sizes:
      matrix = jax.random.normal(jax.random.key(0), (size, size), self._dtype)
      for _ in range(4):  # The first compiles it.
        matrix.block_until_ready()
        start = time.perf_counter()
        _square(matrix).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best

  def memory(self) -> int:
    """Most bytes so far: of the process, or on a GPU of its arrays."""
    if self.platform() != 'cpu':
      return jax.local_devices()[0].memory_stats()['peak_bytes_in_use']
    # Not getrusage: it begins with the peak of the process that started this.
    status = pathlib.Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) * 1024


@jax.jit
def _square(matrix):
  return matrix @ matrix


class Trainer(Network):
  """Trains on packed pairs; the adapters alone, if the network has any."""

  def __init__(
      self,
      source: Source,
      dtype: str,
      *,
      weights_dtype: str = 'float32',
      unlikelihood_weight: float,
      eps: float,
      learning_rate: float,
      max_gradient_norm: float,
      microbatches: int,
      num_logit_chunks: int = 1,
      **sizes: Any,
  ):
    """Makes the step.

    Args:
      source: see `Network`.
      dtype: see `Network`.
      weights_dtype: of the weights; in int8 only adapters can be trained.
      unlikelihood_weight: lambda.
      eps: see `objectives.log_one_minus_probs`.
      learning_rate: constant.
      max_gradient_norm: global norm to which gradients are clipped.
      microbatches: see `train_step.make_train_step`.
      num_logit_chunks: see there.
      **sizes: further fields of `network.T5Config`.
    """
    super().__init__(source, dtype, weights_dtype, **sizes)
    self._objective = {
        'unlikelihood_weight': unlikelihood_weight, 'eps': eps,
    }
    self._microbatches = microbatches
    self._chunks = num_logit_chunks
    self._optimizer = optimizers.adafactor(learning_rate, max_gradient_norm)
    self._model = network_lib.Transformer(self._network)
    self._step = self._make_step()
    # Donated, and what is not needed of the drawn weights is not computed:
    # there is never a second copy.
    self._state = jax.jit(
        functools.partial(
            train_step.init_state, self._model, self._optimizer, _SEED
        ),
        donate_argnums=0,
    )(self._params)
    del self._params

  def loss(self, batch: arrays_lib.Batch) -> list[float]:
    """The loss of a batch, without dropout."""
    params = train_step.weights(self._state)
    return [float(jax.jit(self._loss)(params, batch))]

  def parameters(self) -> dict[str, int]:
    """How many numbers are `trained`, and how many there are in `all`."""
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    return {
        'trained': count(self._state['params']),
        'all': count(train_step.weights(self._state)),
    }

  def run(
      self, batches: Sequence[arrays_lib.Batch]
  ) -> tuple[float, list[Shape]]:
    """Trains on each batch; seconds for all, and the shapes of their rows."""
    jax.block_until_ready(self._state)
    start = time.perf_counter()
    for batch in batches:
      self._state, _ = self._step(self._state, batch)
    jax.block_until_ready(self._state)
    seconds = time.perf_counter() - start
    return seconds, [_shape(batch, sides=2) for batch in batches]

  def _make_step(self) -> Any:
    return train_step.make_train_step(
        self._model, self._optimizer, seed=_SEED,
        num_microbatches=self._microbatches, num_logit_chunks=self._chunks,
        **self._objective,
    )

  def _loss(self, params, batch) -> jax.Array:
    return loss(self._model, self._objective, params, batch)[0]


def loss(
    model: network_lib.Transformer, objective: Mapping[str, float], params: Any,
    batch: arrays_lib.Batch,
) -> tuple[jax.Array, jax.Array]:
  """The loss of a batch, without dropout.

  Args:
    model: the network.
    objective: `unlikelihood_weight` and `eps`.
    params: the weights.
    batch: packed pairs.

  Returns:
    The loss, and float32[2 * rows, length], the log-probabilities of the
    targets, first all given the right inputs; padding has 0.
  """
  both = objectives.pair(batch)
  logits = model.apply(
      {'params': params},
      both['encoder_input_tokens'],
      both['decoder_input_tokens'],
      both['decoder_target_tokens'],
      both.get('encoder_segment_ids'),
      both.get('decoder_segment_ids'),
      enable_dropout=False,
  )
  targets = both['decoder_target_tokens']
  log_probs = objectives.log_probs(logits, targets) * (targets > 0)
  found, _ = objectives.batch_loss(
      logits, *objectives.weighted_targets(batch), **objective
  )
  return found, log_probs


class T5xTrainer(Trainer):
  """T5X's network and accumulation of gradients; the rest is `Trainer`'s.

  Its batches are the same packed rows.
  """

  def _make_step(self) -> Any:
    # Only where T5X is installed.
    from t5x import trainer

    model = _t5x_model(
        self._network, num_microbatches=self._microbatches, **self._objective
    )
    self._t5x_loss = model.loss_fn
    key = jax.random.key(_SEED, impl='rbg')

    def step(state, batch):
      gradients, _, _ = trainer.accumulate_grads_microbatched(
          model,
          types.SimpleNamespace(params=state['params'], flax_mutables=None),
          batch, jax.random.fold_in(key, state['step']), self._microbatches,
      )
      updates, opt_state = self._optimizer.update(
          gradients, state['opt_state'], state['params']
      )
      return {
          'params': optax.apply_updates(state['params'], updates),
          'opt_state': opt_state,
          'step': state['step'] + 1,
      }, {}

    return jax.jit(step, donate_argnums=0)

  def _loss(self, params, batch) -> jax.Array:
    loss, _ = self._t5x_loss(params, batch, None)
    return loss * self._microbatches


class Ranker(Network):
  """Scores candidates as the evaluator does, encoding equal inputs once."""

  def __init__(
      self, source: Source, dtype: str, *, batch_size: int,
      length_multiple: int = 16, weights_dtype: str | None = None,
      **sizes: Any,
  ):
    """Reads the weights.

    Args:
      source: see `Network`.
      dtype: see `Network`.
      batch_size: rows a forward pass.
      length_multiple: lengths are padded to a multiple of this.
      weights_dtype: of the weights; by default that of the activations, as
        `flipped_t5x.load` has them.
      **sizes: further fields of `network.T5Config`.
    """
    super().__init__(source, dtype, weights_dtype or dtype, **sizes)
    self._batching = {
        'batch_size': batch_size, 'length_multiple': length_multiple,
    }

  def scores(self, tasks: Sequence[Task]) -> list[float]:
    """Log-probability of each candidate's target given its input."""
    return [
        float(values.sum()) for task in tasks for values in self._score(task)[0]
    ]

  def run(self, tasks: Sequence[Task]) -> tuple[float, list[Shape]]:
    """Scores all candidates; seconds, and the shapes of the batches."""
    start = time.perf_counter()
    shapes = [shape for task in tasks for shape in self._score(task)[1]]
    return time.perf_counter() - start, shapes

  def _score(self, task: Task) -> tuple[list[np.ndarray], list[Shape]]:
    """Log-probabilities of the targets' tokens, and the shapes of batches."""
    scored = scoring.encode_once(
        self._network, self._params, task['inputs'], task['targets'],
        **self._batching,
    )
    return scored.log_probs, scored.shapes


class T5xRanker(Ranker):
  """T5X's network on candidates that are all padded to the same lengths."""

  _ROWS = 16

  def __init__(
      self, source: Source, dtype: str, *, input_length: int,
      target_length: int,
  ):
    """Reads the weights.

    Args:
      source: see `Network`.
      dtype: see `Network`.
      input_length: tokens of each encoder side.
      target_length: tokens of each decoder side.
    """
    super().__init__(
        source, dtype, batch_size=self._ROWS, weights_dtype='float32'
    )
    self._lengths = {'inputs': input_length, 'targets': target_length}
    self._model = _t5x_model(self._network)
    self._score_batch = jax.jit(self._model.score_batch)

  def _score(self, task: Task) -> tuple[list[np.ndarray], list[Shape]]:
    found, shapes = [], []
    for batch in self._batches(task):
      found += [*np.asarray(self._score_batch(self._params, batch))]
      shapes.append(_shape(batch))
    return found[: len(task['inputs'])], shapes

  def _batches(self, task: Task) -> Iterator[arrays_lib.Batch]:
    for start in range(0, len(task['inputs']), self._ROWS):
      arrays = {}
      for name, length in self._lengths.items():
        arrays[name] = np.zeros((self._ROWS, length), np.int32)
        for row, tokens in enumerate(task[name][start : start + self._ROWS]):
          arrays[name][row, : len(tokens)] = tokens
      yield arrays_lib.training_batch(arrays, 'token')


def _t5x_model(network: network_lib.T5Config, **objective: Any) -> Any:
  """A `FlippedModel` of T5X's network."""
  # Only where T5X is installed.
  from flipped_t5x import models
  from t5x.examples.t5 import network as t5x_network

  names = {field.name for field in dataclasses.fields(t5x_network.T5Config)}
  sizes = {k: v for k, v in vars(network).items() if k in names}
  return models.FlippedModel(
      module=t5x_network.Transformer(t5x_network.T5Config(
          **sizes, float32_attention_logits=True  # As ours.
      )),
      input_vocabulary=None, output_vocabulary=None, optimizer_def=None,
      **objective,
  )


def _shape(batch: arrays_lib.Batch, sides: int = 1) -> Shape:
  inputs = batch['encoder_input_tokens']
  rows = sides * len(inputs)
  return rows, rows, inputs.shape[1], batch['decoder_input_tokens'].shape[1]
