"""A model of lm-evaluation-harness that ranks options by the instruction.

For multiple-choice tasks the harness asks for the log-likelihood of each option
and takes the best. This model answers with log P(instruction | instance,
option) instead: the instruction is the literal text of the task's prompt, and
the instance is what the prompt inserts. Importing this module registers the
model:

  python -m flipped_t5x.lm_eval_model --model flipped_t5x \\
    --model_args pretrained=output/demo --tasks cb --batch_size 64

runs the harness's own command with the model registered. See docs/lm_eval.md.
"""

import collections
from collections.abc import Sequence
import functools
import logging
from typing import Any

from flipped_t5x import errors
from flipped_t5x import lm_eval_prompt
from flipped_t5x.inference import model
from flipped_t5x.prompts import formats
from flipped_t5x.prompts import tokenization
from lm_eval import __main__ as lm_eval_main
from lm_eval.api import instance as instance_lib
from lm_eval.api import model as model_lib
from lm_eval.api import registry
from lm_eval.api import task as task_lib
import lm_eval.models  # so that the harness's own are found  # noqa: F401
import numpy as np

BATCH_SIZE = 256
CUT_INSTANCE = 'instance cut to fit the input length'
CUT_INSTRUCTION = 'instruction cut to the target length'
SAME_TOKENS = 'options of the same tokens, which tie'
ONE_OPTION = 'fewer than two options'

# These assume that the option is what was scored.
_METRICS_OF_OPTION = frozenset(('acc_bytes', 'acc_norm', 'exact_match'))
_logger = logging.getLogger('lm_eval.flipped_t5x')  # Its handler prints it.


@registry.register_model('flipped_t5x')
class FlippedT5X(model_lib.LM):
  """A model of this project, as a model of the harness."""

  def __init__(
      self,
      pretrained: str,
      instruction: str | None = None,
      batch_size: int | str = 'auto',
      max_batch_size: int | None = None,
      device: str | None = None,
      **load_args,
  ):
    """Loads the model.

    Args:
      pretrained: a folder or a name, see `inference.model.load`.
      instruction: the instruction for every task of the run, see
        `lm_eval_prompt.Prompt`.
      batch_size: number of options in a forward pass; `auto` is 256.
      max_batch_size: the most that `auto` may be.
      device: ignored, since JAX chooses the device; the harness always passes
        `cuda:0`.
      **load_args: the other arguments of `inference.model.load`.
    """
    super().__init__()
    del device
    self.model = model.load(pretrained, **load_args)
    self._instruction = instruction
    if str(batch_size).startswith('auto'):
      batch_size = min(BATCH_SIZE, max_batch_size or BATCH_SIZE)
    self._batch_size = int(batch_size)
    self._counts = {}
    _keep_tasks()

  def loglikelihood(
      self, requests: Sequence[instance_lib.Instance]
  ) -> list[tuple[float, bool]]:
    """Scores options.

    Args:
      requests: of multiple-choice tasks, any order.

    Returns:
      For each request log P(instruction | instance, option), or what the
      model's format scores, and False: the option is not generated.

    Raises:
      UserError: the message names the task and the document.
    """
    by_task = collections.defaultdict(list)
    for number, request in enumerate(requests):
      if not hasattr(request, 'task'):
        raise errors.UserError(
            f'lm_eval task {request.task_name!r}: its requests were made before'
            ' the model'
        )
      by_task[id(request.task)].append(number)
    answers = [None] * len(requests)
    for numbers in by_task.values():
      chosen = [requests[n] for n in numbers]
      scores = self.model.score(*self._encode(chosen), self._batch_size)
      for number, request, score in zip(numbers, chosen, scores, strict=True):
        if not np.isfinite(score):
          raise errors.UserError(
              f'lm_eval task {request.task_name!r}: document {request.doc_id}:'
              f' the score is {score}; are the weights whole?'
          )
        answers[number] = float(score), False
        self.cache_hook.add_partial(
            'loglikelihood', request.args, answers[number]
        )
    return answers

  def _encode(
      self, requests: Sequence[instance_lib.Instance]
  ) -> tuple[list[list[int]], list[list[int]]]:
    """Encoder and decoder tokens of one task's requests."""
    config, task = self.model.config, requests[0].task
    prompt = self._prompt(task)
    make_text = formats.get(config.format)
    inputs, targets, first_index = [], [], {}
    found = {
        r: set() for r in (CUT_INSTANCE, CUT_INSTRUCTION, SAME_TOKENS)
    }
    for request in requests:
      doc_id = request.doc_id
      rendered = prompt.render(request)
      try:
        text = make_text(rendered, rendered.options[0])
        source, cut_instance = tokenization.encode_inputs(
            self.model.vocabulary, text, config.input_length
        )
        target, cut_target = tokenization.encode_targets(
            self.model.vocabulary, text, config.target_length
        )
      except tokenization.TooLong as e:
        raise prompt.error(
            f'document {doc_id}: {e}; the model arguments `input_length` and'
            ' `target_length` set the lengths'
        ) from e
      except ValueError as e:
        raise prompt.error(f'document {doc_id}: {e}') from e
      inputs.append(source)
      targets.append(target)
      candidate = doc_id, tuple(source), tuple(target)
      same = first_index.setdefault(candidate, request.idx) != request.idx
      for reason, found_it in (
          (CUT_INSTANCE, cut_instance),
          (CUT_INSTRUCTION, cut_target),
          (SAME_TOKENS, same),
      ):
        if found_it:
          found[reason].add(doc_id)
    num_options = collections.Counter(i.doc_id for i in task.instances)
    found[ONE_OPTION] = {d for d, n in num_options.items() if n < 2}
    self._report(prompt.name, found, len(num_options))
    return inputs, targets

  def _prompt(self, task: task_lib.Task) -> lm_eval_prompt.Prompt:
    """The task's prompt, for the model's format."""
    name, instruction = self.model.config.format, self._instruction
    if name not in formats.WRITES_INSTRUCTION and instruction is None:
      instruction = lm_eval_prompt.INPUT
    prompt = lm_eval_prompt.Prompt(task, instruction)
    words = any(c.isalnum() for c in ''.join(prompt.chunks))
    if name in formats.WRITES_INSTRUCTION and not words:
      raise prompt.error(
          f'the prompt {prompt.source!r} has no words of its own to be the'
          f' instruction{lm_eval_prompt.ADVICE}'
      )
    metrics = sorted(_METRICS_OF_OPTION.intersection(task.aggregation()))
    if metrics and name not in formats.WRITES_LABEL:
      _logger.warning(
          '%s: %s would be about the text of the option, which is not what is'
          ' scored: go by acc', prompt.name, ', '.join(metrics),
      )
    return prompt

  def _report(
      self, name: str, found: dict[str, set[int]], num_docs: int
  ) -> None:
    """Warns of documents by reason, and keeps the counts for the results."""
    self._counts[name] = {r: len(docs) for r, docs in found.items() if docs}
    for reason, docs in found.items():
      if docs:
        _logger.warning(
            '%s: %s: %d of %d documents, the first is %d',
            name, reason, len(docs), num_docs, min(docs),
        )

  def get_model_info(self) -> dict[str, Any]:
    """What the harness writes into the `config` of its results."""
    config = self.model.config
    return {'flipped_t5x': {
        'format': config.format,
        'input_length': config.input_length,
        'target_length': config.target_length,
        'instruction': self._instruction,
        'counts': self._counts,
    }}

  def loglikelihood_rolling(self, requests):
    raise NotImplementedError(
        'flipped_t5x ranks options and gives no perplexity of a text: use tasks'
        ' with `output_type: multiple_choice`'
    )

  def generate_until(self, requests):
    raise NotImplementedError(
        'flipped_t5x generates an instruction, and a task of the harness reads'
        ' an answer: use tasks with `output_type: multiple_choice`, and for the'
        ' instruction flipped-t5x guess'
    )

  @property
  def tokenizer_name(self) -> str:
    """The harness asks for it to apply a chat template, and only then."""
    raise NotImplementedError(
        'flipped_t5x reads no chats: leave --apply_chat_template out'
    )


@functools.cache
def _keep_tasks() -> None:
  """Lets each request name its task.

  The harness hands a model requests without the task, and ranking needs its
  template. The one method that makes every task's requests, from YAML, Python
  or the cache of requests, is public; a look-up by name in a TaskManager of
  ours would miss what `--include_path`, a group or a dict overrides.
  """
  build = task_lib.Task.build_all_requests

  @functools.wraps(build)
  def build_all_requests(self, *args, **kwargs):
    build(self, *args, **kwargs)
    for request in self.instances:
      request.task = self

  task_lib.Task.build_all_requests = build_all_requests


def main() -> None:
  """The harness's own command line."""
  lm_eval_main.cli_evaluate()


if __name__ == '__main__':
  main()
