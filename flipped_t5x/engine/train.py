"""The training loop of the embedded engine."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
import hashlib
import json
import math
import pathlib
import sys
import time
from typing import Any

from flipped_t5x import model_files
from flipped_t5x import network as network_lib
from flipped_t5x import t5x_checkpoints
from flipped_t5x import tensors
from flipped_t5x.engine import agreement
from flipped_t5x.engine import batches as batches_lib
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import partitioning
from flipped_t5x.engine import train_step
import jax
import numpy as np
import optax
import tensorboardX
import tqdm

_SHOWN = {
    'likelihood': 'L_LM', 'unlikelihood': 'L_UL', 'prob_right': 'P(right)',
    'prob_wrong': 'P(wrong)',
}


class Interrupted(KeyboardInterrupt):
  """The run was asked to stop, and has saved where it was."""


def train(
    model_dir: str,
    network: network_lib.T5Config,
    batches: batches_lib.Batches,
    optimizer: optax.GradientTransformation,
    vocabulary: str,
    *,
    steps: int,
    unlikelihood_weight: float,
    eps: float,
    seed: int,
    input_length: int,
    target_length: int,
    format: str = 'flipped',  # pylint: disable=redefined-builtin
    checkpoint_period: int = 500,
    keep: int | None = 2,
    log_period: int = 20,
    initial_checkpoint: str | None = None,
    partitioner: partitioning.Partitioner | None = None,
    num_microbatches: int = 1,
    num_logit_chunks: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Mapping[str, float]:
  """Trains to `steps`, going on from the newest checkpoint if there is one.

  With several hosts (`hosts.joined`) all must call it with the same arguments,
  on a disk that all of them see; the first of them prints and logs.

  Args:
    model_dir: the run's folder, see `checkpoints.py`.
    network: sizes of the T5.
    batches: training batches with `get_state` and `set_state`.
    optimizer: an Optax optimizer.
    vocabulary: SentencePiece model, copied into the folder.
    steps: the step to train to.
    unlikelihood_weight: lambda.
    eps: see `objectives.log_one_minus_probs`.
    seed: of the initial weights and of dropout.
    input_length: tokens of the encoder side, kept for inference.
    target_length: tokens of the decoder side, kept for inference.
    format: text format, kept for inference.
    checkpoint_period: steps between checkpoints.
    keep: how many checkpoints are kept; None for all.
    log_period: steps between log lines, and between looks for NaN.
    initial_checkpoint: weights to start from (T5X's, Hugging Face's or the
      engine's, see `model_files.py`) where the folder has no checkpoint of its
      own.
    partitioner: where weights and batches lie; None to divide the batch over
      all devices. A run may go on under another one.
    num_microbatches: see `train_step.make_train_step`.
    num_logit_chunks: see `train_step.make_train_step`.
    settings: macro -> value, kept in `config.json` and compared on resuming.

  Returns:
    The last logged metrics.

  Raises:
    ValueError: the folder holds a run of other settings, or
      `initial_checkpoint` weights of another network, or hosts are not alike.
    FileNotFoundError: `initial_checkpoint` has no checkpoint.
    FloatingPointError: the loss or its gradient is not finite.
    Interrupted: after Ctrl-C or SIGTERM; the step it was at is saved.
    OSError: a checkpoint could not be written.
  """
  folder = pathlib.Path(model_dir)
  model = network_lib.Transformer(network)
  partitioner = partitioner or partitioning.Partitioner()
  with agreement.together():
    old_steps = t5x_checkpoints.steps(folder / 'checkpoints')
    facts = {
        **(settings or {}),
        **agreement.versions(),
        'vocabulary': hashlib.sha256(
            pathlib.Path(vocabulary).read_bytes()
        ).hexdigest(),
        'data': batches.origins,
        f'newest checkpoint in {folder}': max(old_steps, default=None),
    }
  agreement.check_same(facts)
  partitioner.check(network, batches.batch_size, num_microbatches)
  abstract = partitioner.abstract_state(model, optimizer)
  params = None
  with agreement.together():
    if initial_checkpoint and not old_steps:
      params = _initial_params(initial_checkpoint, network, abstract['params'])
  with agreement.together():
    if _is_first():
      checkpoints.prepare(
          folder,
          checkpoints.RunConfig(
              network, format, input_length, target_length, dict(settings or {})
          ),
          pathlib.Path(vocabulary),
      )
      checkpoints.write_json(folder / 'data.json', batches.origins)
  with agreement.together():
    checkpoints.wait_for(folder)
  copies = _share_out(batches, partitioner)
  saver = checkpoints.Checkpoints(folder, keep)
  start = saver.latest or 0
  if start:
    state, positions = saver.restore(start, abstract)
    batches.set_state(*positions)
    _say(f'{folder}: going on from step {start}')
  else:
    state = jax.jit(
        functools.partial(train_step.init_state, model, optimizer, seed),
        out_shardings=jax.tree.map(lambda a: a.sharding, abstract),
    )(params)
  del params  # A second copy of the weights.
  step_fn = train_step.make_train_step(
      model, optimizer, unlikelihood_weight=unlikelihood_weight, eps=eps,
      seed=seed, num_microbatches=num_microbatches,
      num_logit_chunks=num_logit_chunks, partitioner=partitioner,
  )
  log = _Log(folder, start, steps, copies)
  pending = []
  with (
      _closing(saver), contextlib.closing(log),
      partitioner.active(), agreement.stops() as asked_to_stop,
  ):
    for step in range(start + 1, steps + 1):
      rows = next(batches)
      batch = partitioner.place_batch(rows)
      if step == start + 1:
        step_fn = agreement.compiled(step_fn, state, batch)
      state, metrics = step_fn(state, batch)
      pending.append((step, num_examples(rows), metrics))
      # Asked once: a signal may come at any line below.
      stop = asked_to_stop(step)
      save = step % checkpoint_period == 0 or step == steps or stop
      if save or step % log_period == 0:
        log.write(pending, saver)
        pending = []
      if save:
        saver.save(step, state, *agreement.gather(batches.get_state()))
      if stop:
        raise Interrupted(
            f'stopped at step {step} of {steps}; the same command goes on'
        )
  read = ' of those that host 0 has read' if jax.process_count() > 1 else ''
  for name, counts in batches.counts.items():
    for reason, number in sorted(counts.items()):
      if number:
        _say(f'{name}: {number} examples{read} {reason} since step {start}')
  return log.last


@contextlib.contextmanager
def _closing(saver: checkpoints.Checkpoints) -> Iterator[None]:
  """Closes it, but not where it would wait for hosts that are gone."""
  try:
    yield
  except BaseException:
    if jax.process_count() == 1:
      saver.close()
    raise
  saver.close()


def _is_first() -> bool:
  return jax.process_index() == 0


def _say(text: str) -> None:
  if _is_first():
    print(text, flush=True)


def _share_out(
    batches: batches_lib.Batches, partitioner: partitioning.Partitioner
) -> int:
  """Lets each host make the rows that its devices get.

  Returns:
    How many hosts have each row: several where `model` runs over hosts.
  """
  if jax.process_count() == 1:
    return 1
  rows = agreement.local_rows(partitioner.batch_sharding, batches.batch_size)
  made = batches.select(rows)
  if made > len(rows):
    _say(
        f'each host reads {made} rows of a batch to use {len(rows)}; another'
        ' run could read each row once, with DATA_SHARDS a multiple of'
        f' {batches.batch_size // len(rows)}'
    )
  return jax.process_count() * len(rows) // batches.batch_size


def _initial_params(
    path: str, network: network_lib.T5Config, abstract: Any
) -> Any:
  """Reads weights to start from; errors name the macro that says where."""

  def place(tensor, like):
    # Not `device_put`: with several hosts it sends the weights around, to see
    # whether they are the same.
    values = tensor.astype(like.dtype).read()
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: values[index]
    )

  try:
    files = model_files.open(model_files.resolve(path))
    found = (tensors.stacked if network.scan_layers else tensors.unstacked)(
        files.tensors
    )
    problems = tensors.differences(found, tensors.shapes(network))
    if problems:
      raise ValueError(f'{path} is of another model or size: {problems}')
    params = jax.tree.map(place, tensors.tree(found), abstract)
  except (OSError, ValueError) as e:
    raise type(e)(f'INITIAL_CHECKPOINT_PATH: {e}') from e
  _say(f'{path}: starting from the weights of step {files.step or 0}')
  return params


def num_examples(batch: batches_lib.Batch) -> int:
  """How many pairs are in the rows of a batch."""
  if 'decoder_segment_ids' in batch:
    return int(np.max(batch['decoder_segment_ids'], axis=1).sum())
  return int(np.any(batch['decoder_target_tokens'], axis=1).sum())


class _Log:
  """Progress bar, TensorBoard and `metrics.jsonl`, of the first host alone."""

  def __init__(
      self, folder: pathlib.Path, start: int, steps: int, copies: int = 1
  ):
    self.last = {}
    self._copies = copies
    self._since = time.monotonic()
    self._writer = None
    if not _is_first():
      return
    self._path = folder / 'metrics.jsonl'
    kept = []
    if self._path.exists():
      lines = self._path.read_text().splitlines(keepends=True)
      # What came after the checkpoint is trained, and logged, once more; a
      # last line that was not written whole has no end.
      kept = [
          line for line in lines
          if line.endswith('\n') and json.loads(line)['step'] <= start
      ]
    unfinished = self._path.with_suffix('.unfinished')
    unfinished.write_text(''.join(kept))
    unfinished.replace(self._path)
    self._writer = tensorboardX.SummaryWriter(
        str(folder / 'tensorboard'), purge_step=start + 1
    )
    interactive = sys.stderr.isatty()
    self._bar = tqdm.tqdm(
        total=steps, initial=start, unit='step', dynamic_ncols=True,
        mininterval=0.1 if interactive else 30,
    )

  def write(self, pending, saver) -> None:
    """Logs the steps since the last call; stops where one is not finite."""
    if not pending:
      return
    steps, examples, metrics = zip(*pending, strict=True)
    metrics = jax.device_get(list(metrics))
    for step, values in zip(steps, metrics, strict=True):
      if not all(map(math.isfinite, values.values())):
        parts = {k: float(v) for k, v in values.items()}
        raise FloatingPointError(
            f'step {step}: the loss or its gradient is not finite ({parts});'
            f' try a lower learning rate; {saver.last_good}, and the same'
            ' command would meet the same loss again'
        )
    now = time.monotonic()
    self.last = {
        k: float(np.mean([m[k] for m in metrics])) for k in metrics[0]
    }
    total = agreement.total(sum(examples)) / self._copies
    self.last['examples_per_second'] = total / (now - self._since)
    self._since = now
    if self._writer is None:
      return
    for name, value in self.last.items():
      self._writer.add_scalar(name, value, steps[-1])
    try:
      with self._path.open('a') as f:
        f.write(json.dumps({'step': steps[-1], **self.last}) + '\n')
    except OSError as e:
      raise OSError(
          f'{self._path}: step {steps[-1]} could not be logged: {e};'
          f' {saver.last_good}'
      ) from e
    shown = ' '.join(
        f'{label} {self.last[name]:.3f}'
        for name, label in _SHOWN.items() if name in self.last
    )
    self._bar.set_postfix_str(
        f'{shown} {self.last["examples_per_second"]:.0f} examples/s',
        refresh=False,
    )
    self._bar.update(len(steps))

  def close(self) -> None:
    if self._writer is None:
      return
    with contextlib.suppress(OSError):  # It would hide why the run ends.
      self._writer.close()
    self._bar.close()
