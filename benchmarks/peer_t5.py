"""The authors' way in PyTorch: T5 of Transformers, padded, one row an example.

Training: right and wrong inputs go through the network as one batch of twice
the size, padded to its longest; cross entropy of the instruction given the
right label, and lambda times its unlikelihood given the wrong one; gradients
clipped, Adafactor of Transformers. Ranking: a batch of rows, their labels one
after another. Nothing of JAX is imported here: the memory that is measured is
PyTorch's alone.
"""

from collections.abc import Iterator, Mapping, Sequence
import pathlib
import re
import time
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils import rnn
import transformers

# Rows of encoder and decoder, lengths of inputs and targets; padded.
Shape = tuple[int, int, int, int]
Tokens = Sequence[int]
Pair = Mapping[str, Tokens]  # See rows.py, and there also for tasks.
Task = Mapping[str, Sequence[Any]]


class Peer:
  """A T5 in PyTorch; what its two uses have in common."""

  def __init__(
      self, folder: pathlib.Path, dtype: str, threads: int,
      weights_dtype: str = 'float32',
  ):
    """Reads the weights.

    Args:
      folder: in Hugging Face's form.
      dtype: of the activations, 'float32' or 'bfloat16'.
      threads: that PyTorch may use on a CPU.
      weights_dtype: of the weights, either of these.
    """
    torch.set_num_threads(threads)
    # It warns of what we mean: the head is not the embedding.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self._dtype = getattr(torch, dtype)
    self._model = transformers.T5ForConditionalGeneration.from_pretrained(
        folder, dtype=getattr(torch, weights_dtype)
    ).to(self._device)
    # Otherwise the weights have the type of the activations.
    self._casts = weights_dtype != dtype

  def platform(self) -> str:
    """'cuda' where there is one, else 'cpu'."""
    return self._device

  def peak(self, sizes: Sequence[int]) -> float:
    """Operations/s of products of square matrices, the best of some sizes."""
    best = 0.0
    for size in sizes:
      matrix = torch.randn(
          size, size, device=self._device, dtype=self._dtype
      )
      for _ in range(4):  # The first is a warm-up.
        self._wait()
        start = time.perf_counter()
        matrix @ matrix
        self._wait()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best

  def memory(self) -> int:
    """Most bytes so far: of the process, or on a GPU of its tensors."""
    if self._device == 'cuda':
      return torch.cuda.max_memory_allocated()
    # Not getrusage: it begins with the peak of the process that started this.
    status = pathlib.Path('/proc/self/status').read_text()
    return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) * 1024

  def _wait(self) -> None:
    if self._device == 'cuda':
      torch.cuda.synchronize()

  def _log_probs(
      self, inputs: Sequence[Tokens], targets: Sequence[Tokens]
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """float32[n, length] of each target's tokens, and bool, where these are."""
    inputs, targets = self._padded(inputs), self._padded(targets)
    with torch.autocast(self._device, self._dtype, enabled=self._casts):
      logits = self._model(
          input_ids=inputs,
          attention_mask=inputs != 0,
          decoder_input_ids=functional.pad(targets[:, :-1], (1, 0)),
          use_cache=False,
      ).logits
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), reduction='none'
    )
    return -losses.view(targets.shape), targets != 0

  def _padded(self, sequences: Sequence[Tokens]) -> torch.Tensor:
    return rnn.pad_sequence(
        [torch.as_tensor(s, dtype=torch.long) for s in sequences],
        batch_first=True,
    ).to(self._device)


class Trainer(Peer):
  """Trains on pairs."""

  def __init__(
      self,
      folder: pathlib.Path,
      dtype: str,
      threads: int,
      *,
      unlikelihood_weight: float,
      eps: float,
      learning_rate: float,
      max_gradient_norm: float,
      microbatches: int = 1,
  ):
    """Adds the objective and Adafactor, with the recipe's settings.

    Args:
      folder: see `Peer`.
      dtype: see `Peer`.
      threads: see `Peer`.
      unlikelihood_weight: lambda.
      eps: added to 1 - P in the unlikelihood.
      learning_rate: constant.
      max_gradient_norm: global norm to which gradients are clipped.
      microbatches: parts of a batch whose gradients are added up; each is
        padded to its own longest.
    """
    super().__init__(folder, dtype, threads)
    self._weight, self._eps = unlikelihood_weight, eps
    self._max_norm, self._microbatches = max_gradient_norm, microbatches
    self._optimizer = transformers.Adafactor(
        self._model.parameters(),
        lr=learning_rate,
        clip_threshold=1.0,
        decay_rate=-0.8,
        beta1=None,
        weight_decay=0.0,
        scale_parameter=False,
        relative_step=False,
        warmup_init=False,
    )

  def loss(self, pairs: Sequence[Pair]) -> list[float]:
    """The loss of a batch, without dropout."""
    self._model.eval()
    with torch.no_grad():
      return [float(sum(self._losses(pairs)))]

  def run(
      self, batches: Sequence[Sequence[Pair]]
  ) -> tuple[float, list[Shape]]:
    """Trains on each batch; seconds for all, and what they were padded to."""
    self._model.train()
    self._wait()
    start = time.perf_counter()
    for pairs in batches:
      for loss in self._losses(pairs):
        loss.backward()
      torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._max_norm)
      self._optimizer.step()
      self._optimizer.zero_grad()
    self._wait()
    seconds = time.perf_counter() - start
    return seconds, [
        _shape(*_both(part))
        for pairs in batches for part in _parts(pairs, self._microbatches)
    ]

  def _losses(self, pairs: Sequence[Pair]) -> Iterator[torch.Tensor]:
    """The shares of a batch's parts in its mean over examples."""
    for part in _parts(pairs, self._microbatches):
      log_probs, real = self._log_probs(*_both(part))
      right, wrong = log_probs.chunk(2)
      real, _ = real.chunk(2)
      unlikelihood = torch.log(1 - torch.exp(wrong) + self._eps)
      tokens = -(right + self._weight * unlikelihood) * real
      yield (tokens.sum(1) / real.sum(1)).sum() / len(pairs)


class Ranker(Peer):
  """Scores the labels of prompts, each label in a pass of its own."""

  def __init__(
      self, folder: pathlib.Path, dtype: str, threads: int, *, rows: int
  ):
    """Reads the weights.

    Args:
      folder: see `Peer`.
      dtype: see `Peer`.
      threads: see `Peer`.
      rows: prompts a batch.
    """
    super().__init__(folder, dtype, threads, weights_dtype=dtype)
    self._model.eval()
    self._rows = rows

  def scores(self, tasks: Sequence[Task]) -> list[float]:
    """Log-probability of each candidate's target given its input."""
    return [score for task in tasks for score in self._score(task)]

  def run(self, tasks: Sequence[Task]) -> tuple[float, list[Shape]]:
    """Scores all candidates; seconds, and what they were padded to."""
    self._wait()
    start = time.perf_counter()
    for task in tasks:
      self._score(task)
    self._wait()
    seconds = time.perf_counter() - start
    return seconds, [
        _shape(
            [task['inputs'][i] for i in batch],
            [task['targets'][i] for i in batch],
        )
        for task in tasks for batch in self._batches(task)
    ]

  @torch.inference_mode()
  def _score(self, task: Task) -> list[float]:
    scores = [0.0] * len(task['inputs'])
    for batch in self._batches(task):
      log_probs, real = self._log_probs(
          [task['inputs'][i] for i in batch],
          [task['targets'][i] for i in batch],
      )
      values = (log_probs * real).sum(1).tolist()
      for i, value in zip(batch, values, strict=True):
        scores[i] = value
    return scores

  def _batches(self, task: Task) -> Iterator[list[int]]:
    """Numbers of candidates: the first labels of some prompts, the second..."""
    prompts = [*dict.fromkeys(task['prompts'])]
    for start in range(0, len(prompts), self._rows):
      chosen = set(prompts[start : start + self._rows])
      labels = {}
      for i, (prompt, label) in enumerate(
          zip(task['prompts'], task['options'], strict=True)
      ):
        if prompt in chosen:
          labels.setdefault(label, []).append(i)
      yield from labels.values()


def _both(pairs: Sequence[Pair]) -> tuple[list[Tokens], list[Tokens]]:
  """Inputs, first all the right ones, and a target for each."""
  inputs = [p[side] for side in ('inputs', 'wrong_inputs') for p in pairs]
  return inputs, [p['targets'] for p in pairs] * 2


def _parts(pairs: Sequence[Pair], number: int) -> list[Sequence[Pair]]:
  size = -(-len(pairs) // number)
  return [pairs[i : i + size] for i in range(0, len(pairs), size)]


def _shape(inputs: Sequence[Tokens], targets: Sequence[Tokens]) -> Shape:
  rows = len(inputs)
  return rows, rows, max(map(len, inputs)), max(map(len, targets))
