"""The training loop of the embedded engine."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
from flipped_t5x import network as network_lib
from flipped_t5x import partitioning
from flipped_t5x import vocabulary_files
from flipped_t5x.engine import agreement
from flipped_t5x.engine import checkpoints
from flipped_t5x.engine import run_contents
from flipped_t5x.engine import run_log
from flipped_t5x.engine import train_step
from flipped_t5x.prompts import arrays
from flipped_t5x.weights import initial_weights
from flipped_t5x.weights import model_files
from flipped_t5x.weights import run_config
from flipped_t5x.weights import t5x_checkpoints
from flipped_t5x.weights import tensors
import jax
import numpy as np
import optax


class Interrupted(KeyboardInterrupt):
  """The run was asked to stop, and has saved where it was."""


def train(
    model_dir: str,
    network: network_lib.T5Config,
    batches: arrays.Batches,
    optimizer: optax.GradientTransformation,
    vocabulary: str,
    *,
    steps: int,
    unlikelihood_weight: float,
    eps: float,
    seed: int,
    input_length: int,
    target_length: int,
    format: str = 'flipped',
    checkpoint_period: int = 500,
    keep: int | None = 2,
    log_period: int = 20,
    initial_checkpoint: str | None = None,
    partitioner: partitioning.Partitioner | None = None,
    num_microbatches: int = 1,
    num_logit_chunks: int = 1,
    settings: Mapping[str, Any] | None = None,
    after_save: Callable[[int, Any], bool] = lambda step, params: False,
) -> Mapping[str, float]:
  """Trains to `steps`, resuming from the newest checkpoint if there is one.

  With several hosts (`hosts.joined`), all must call it with the same arguments
  and share the disk of `model_dir`; the first of them prints and logs.

  Args:
    model_dir: the run's folder, see `checkpoints.py`.
    network: sizes of the T5.
    batches: training batches; see `prompts/arrays.py`.
    optimizer: an Optax optimizer.
    vocabulary: see `vocabulary_files.find`; it is copied into the folder.
    steps: the step to train to.
    unlikelihood_weight: lambda.
    eps: see `objectives.log_one_minus_probs`.
    seed: the seed of the initial weights and of dropout.
    input_length: tokens of the encoder side, recorded for inference.
    target_length: tokens of the decoder side, recorded for inference.
    format: the text format, recorded for inference.
    checkpoint_period: steps between checkpoints.
    keep: how many checkpoints are kept; None for all.
    log_period: steps between log lines, and between checks for NaN.
    initial_checkpoint: weights to start from (T5X's, Hugging Face's or the
      engine's; see `weights/model_files.py`) if the folder has no checkpoint.
    partitioner: where weights and batches are placed; None divides the batch
      over all devices. A run may resume under another one.
    num_microbatches: see `train_step.make_train_step`.
    num_logit_chunks: see `train_step.make_train_step`.
    settings: macro -> value, recorded in `config.json` and compared when the
      run resumes.
    after_save: called with each step that is saved and its weights, on every
      host; training ends there if it returns True.

  Returns:
    The last logged metrics.

  Raises:
    UserError: the folder holds a run of other settings, `initial_checkpoint`
      is not found, is of another network or has int8 weights, the network has
      them, or the hosts are not alike.
    run_log.NotFinite: the loss or its gradient is not finite.
    Interrupted: after Ctrl-C or SIGTERM, once the current step is saved.
    OSError: a checkpoint could not be written.
  """
  folder = files.local_path(model_dir, 'MODEL_DIR')
  spiece = vocabulary_files.find(vocabulary)
  partitioner = partitioner or partitioning.Partitioner()
  if network.int8_weights:
    raise errors.UserError(
        'int8_weights: weights in int8 cannot be trained; they are made of'
        ' trained ones, with --dtype int8'
    )
  network = _with_type_of_base(network, initial_checkpoint, spiece)
  model = network_lib.Transformer(network)
  config = run_config.RunConfig(
      network, format, input_length, target_length, dict(settings or {})
  )
  with agreement.alone_in(folder, str(folder), 'choose another MODEL_DIR'):
    resumes = _check_hosts(folder, config, batches, spiece)
    partitioner.check(network, batches.batch_size, num_microbatches)
    abstract = train_step.abstract_state(partitioner, model, optimizer)
    params, weights = None, None
    # Frozen weights are in no checkpoint of the run.
    if initial_checkpoint and (network.lora.rank or not resumes):
      with agreement.fail_together():
        params, weights = _initial_params(
            initial_checkpoint, network.without_adapters(), spiece,
            abstract.get('frozen', abstract['params']),
        )
    _prepare(folder, config, batches, spiece, weights)
    copies = _share_out(batches, partitioner)
    saver = checkpoints.Checkpoints(folder, keep)
    start = saver.latest or 0
    if start:
      state, positions = saver.restore(start, train_step.to_save(abstract))
      if network.lora.rank:
        state = state | {'frozen': params}
      batches.set_state(*positions)
      _say(f'{folder}: resuming from step {start}')
    else:
      state = _first_state(model, optimizer, seed, abstract, params)
    del params  # It would be a second copy of the weights.
    step_fn = train_step.make_train_step(
        model, optimizer, unlikelihood_weight=unlikelihood_weight, eps=eps,
        seed=seed, num_microbatches=num_microbatches,
        num_logit_chunks=num_logit_chunks, partitioner=partitioner,
    )
    log = run_log.RunLog(folder, start, steps, copies)
    with _closing(saver), contextlib.closing(log), partitioner.active():
      _run_steps(
          range(start + 1, steps + 1), state, step_fn, batches, partitioner,
          saver, log, checkpoint_period, log_period, after_save,
      )
  _say_counts(batches, start)
  return log.last


def _check_hosts(
    folder: pathlib.Path,
    config: run_config.RunConfig,
    batches: arrays.Batches,
    vocabulary: pathlib.Path,
) -> bool:
  """Whether the folder has a checkpoint; UserError if the hosts differ."""
  with agreement.fail_together():
    newest, _ = t5x_checkpoints.newest(folder / 'checkpoints') or (None, None)
    facts = {
        **config.settings,
        **agreement.versions(),
        'vocabulary': files.sha256(vocabulary.read_bytes()),
        'data': batches.origins,
        f'newest checkpoint in {folder}': newest,
    }
  agreement.check_same(facts)
  return newest is not None


def _prepare(
    folder: pathlib.Path,
    config: run_config.RunConfig,
    batches: arrays.Batches,
    vocabulary: pathlib.Path,
    weights: initial_weights.Digested | None,
) -> None:
  """Makes or checks the run's folder, and waits until all hosts see it."""
  with agreement.fail_together():
    if agreement.is_first():
      run_contents.check(folder, batches.origins, vocabulary)
      checkpoints.prepare(folder, config, vocabulary)
      run_contents.record(
          folder, batches.origins, weights.record() if weights else None
      )
  with agreement.fail_together():
    checkpoints.wait_for(folder)


def _first_state(
    model: network_lib.Transformer,
    optimizer: optax.GradientTransformation,
    seed: int,
    abstract: train_step.State,
    params: Any,
) -> train_step.State:
  """The state at step 0, placed as `abstract` says."""
  return jax.jit(
      functools.partial(train_step.init_state, model, optimizer, seed),
      out_shardings=jax.tree.map(lambda a: a.sharding, abstract),
  )(params)


def _run_steps(
    steps: range,
    state: train_step.State,
    step_fn: Callable[..., Any],
    batches: arrays.Batches,
    partitioner: partitioning.Partitioner,
    saver: checkpoints.Checkpoints,
    log: run_log.RunLog,
    checkpoint_period: int,
    log_period: int,
    after_save: Callable[[int, Any], bool],
) -> None:
  """Updates the weights, logs and saves; arguments as for `train`."""
  with agreement.stops() as asked_to_stop:
    for step in steps:
      rows = next(batches)
      batch = partitioner.place_batch(rows)
      if step == steps[0]:
        step_fn = agreement.compiled(step_fn, state, batch)
      state, metrics = step_fn(state, batch)
      log.add(step, num_examples(rows), metrics)
      # Asked once: a signal may come at any line below.
      stop = asked_to_stop(step)
      save = step % checkpoint_period == 0 or step == steps[-1] or stop
      if save or step % log_period == 0:
        log.write(saver)
      if save:
        saver.save(
            step, train_step.to_save(state),
            *agreement.gather(batches.get_state()),
        )
      if stop:
        raise Interrupted(
            f'stopped at step {step} of {steps[-1]}; run the same'
            ' command again to resume'
        )
      if save and after_save(step, train_step.weights(state)):
        break


def _say_counts(batches: arrays.Batches, start: int) -> None:
  """Prints how many examples were dropped or cut, and why."""
  read = ' of those that host 0 has read' if jax.process_count() > 1 else ''
  for name, counts in batches.counts.items():
    for reason, number in sorted(counts.items()):
      if number:
        _say(f'{name}: {number} examples{read} {reason} since step {start}')


@contextlib.contextmanager
def _closing(saver: checkpoints.Checkpoints) -> Iterator[None]:
  """Closes it, unless that would wait for hosts that are gone."""
  try:
    yield
  except BaseException:
    if jax.process_count() == 1:
      saver.close()
    raise
  saver.close()


def _say(text: str) -> None:
  if agreement.is_first():
    print(text, flush=True)


def _share_out(
    batches: arrays.Batches, partitioner: partitioning.Partitioner
) -> int:
  """Lets each host make the rows that its devices get.

  Returns:
    How many hosts have each row: more than one if `model` spans hosts.
  """
  if jax.process_count() == 1:
    return 1
  rows = agreement.local_rows(partitioner.batch_sharding, batches.batch_size)
  made = batches.select(rows)
  if made > len(rows):
    _say(
        f'each host reads {made} rows of a batch and uses {len(rows)}; in a'
        ' new run with DATA_SHARDS a multiple of'
        f' {batches.batch_size // len(rows)} each row would be read once'
    )
  return jax.process_count() * len(rows) // batches.batch_size


def _with_type_of_base(
    network: network_lib.T5Config,
    initial_checkpoint: str | None,
    vocabulary: pathlib.Path,
) -> network_lib.T5Config:
  """The network with int8 weights if its adapters adapt such."""
  if not network.lora.rank:
    return network
  if not initial_checkpoint:
    raise errors.UserError(
        'adapters need weights to adapt: set INITIAL_CHECKPOINT_PATH'
    )
  opened = model_files.open(initial_checkpoint, vocabulary=vocabulary)
  return dataclasses.replace(
      network, int8_weights=opened.network.int8_weights
  )


def _initial_params(
    path: str,
    network: network_lib.T5Config,
    vocabulary: pathlib.Path,
    abstract: Any,
) -> tuple[Any, initial_weights.Digested]:
  """Reads weights to start from; errors name the macro that says where."""

  def place(tensor, like):
    # Not `device_put`: with several hosts it sends the weights around, to see
    # whether they are the same.
    values = tensor.astype(like.dtype).read()
    return jax.make_array_from_callback(
        like.shape, like.sharding, lambda index: values[index]
    )

  try:
    opened = model_files.open(path, vocabulary=vocabulary)
    check_start(path, opened, network.int8_weights)
    weights = initial_weights.Digested.of(opened)
    found = weights.tensors
    if network.scan_layers:
      found = tensors.stacked(found)
    problems = tensors.differences(found, tensors.shapes(network))
    if problems:
      raise errors.UserError(f'{path} is of another model or size: {problems}')
    params = jax.tree.map(place, tensors.tree(found), abstract)
  except (OSError, ValueError) as e:
    raise errors.UserError(f'INITIAL_CHECKPOINT_PATH: {e}') from e
  _say(f'{path}: starting from the weights of step {opened.step or 0}')
  return params, weights


def check_start(
    path: str, opened: model_files.ModelFiles, allow_int8: bool
) -> None:
  """Raises `UserError` if training cannot start from weights of such a kind.

  Args:
    path: what the user calls them.
    opened: the weights.
    allow_int8: whether they may be in int8, as those that adapters adapt.
  """
  if opened.network.lora_rank:
    raise errors.UserError(
        f'{path} has adapters, from which no training starts: merge them into'
        f' their weights with flipped-t5x convert {path} DIR --to native, and'
        ' start from DIR'
    )
  if opened.network.int8_weights and not allow_int8:
    raise errors.UserError(
        f'{path} has int8 weights, which cannot be trained: name the weights'
        ' that they were made of, train adapters, or convert them with --dtype'
        ' float32, which leaves them rounded'
    )


def num_examples(batch: arrays.Batch) -> int:
  """How many pairs are in the rows of a batch."""
  if 'decoder_segment_ids' in batch:
    return int(np.max(batch['decoder_segment_ids'], axis=1).sum())
  return int(np.any(batch['decoder_target_tokens'], axis=1).sum())
