"""A prompt of lm-evaluation-harness, its literal text apart from the rest.

A task's `doc_to_text` is a Jinja template like those of promptsource, and is
split in the same way, see `prompts/jinja_chunks.py`. The harness's own
environment renders it.
"""

from flipped_t5x import errors
from flipped_t5x.prompts import jinja_chunks
from flipped_t5x.prompts import templates
import jinja2

try:
  from lm_eval import utils
  from lm_eval.api import instance as instance_lib
  from lm_eval.api import task as task_lib
except ModuleNotFoundError as e:
  raise errors.MissingPackage(
      f"{e}: lm-evaluation-harness is installed by pip install -e '.[lm-eval]'",
      name=e.name,
  ) from e

ADVICE = (
    "; give one as the model argument `instruction`, with {{input}} for the"
    " task's prompt"
)
INPUT = '{{input}}'


class Prompt:
  """A task's prompt, its literal text apart from what it inserts."""

  def __init__(self, task: task_lib.Task, instruction: str | None = None):
    """Parses the prompt.

    Args:
      task: a task of the harness, with its requests.
      instruction: Jinja source in place of the task's own; `{{input}}` is the
        prompt that the harness makes, other names are the document's fields.
        Without any the prompt comes first.

    Raises:
      UserError: the task cannot be ranked, or its prompt is not Jinja.
    """
    self.name = task.config.task
    self._check(task)
    self.source = instruction
    if self.source is None:
      self.source = self._zero_shot_source(task)
    elif '{{' not in self.source:
      self.source = f'{INPUT} {self.source}'
    self._is_ours = instruction is not None
    self._delimiter = task.config.target_delimiter
    try:
      env = utils.env.overlay(
          finalize=lambda value: jinja_chunks.inserted(str(value))
      )
      tree = env.parse(self.source + jinja_chunks.SEPARATOR)
      self.chunks = jinja_chunks.split(tree)
      self._compiled = env.from_string(tree)
    except (jinja2.TemplateError, ValueError) as e:
      raise self.error(f'prompt {self.source!r}: {e}') from e

  def error(self, message: str) -> errors.UserError:
    return errors.UserError(f'lm_eval task {self.name!r}: {message}')

  def _check(self, task: task_lib.Task) -> None:
    """Raises ValueError where there are no options to rank, or examples."""
    if task.OUTPUT_TYPE != 'multiple_choice':
      raise self.error(
          f'output_type is {task.OUTPUT_TYPE!r}; options to rank are in'
          " 'multiple_choice' tasks only"
      )
    if getattr(task, 'multiple_input', 0):
      raise self.error(
          'its options are inside the prompt and not after it, where ranking by'
          ' instruction needs them'
      )
    if task.config.num_fewshot:
      raise self.error(
          f'num_fewshot is {task.config.num_fewshot}; ranking by instruction is'
          ' zero-shot'
      )

  def _zero_shot_source(self, task: task_lib.Task) -> str:
    """The Jinja source of what the harness writes before an option.

    The delimiter ends it as the white space before `|||` ends promptsource's.
    """
    config, fields = task.config, task.instances[0].doc
    if not isinstance(config.doc_to_text, str) or config.use_prompt:
      raise self.error(
          'doc_to_text is code, which does not say what is the instruction'
          f'{ADVICE}'
      )
    parts = [config.description, config.doc_to_text]
    if config.gen_prefix:
      parts += [config.target_delimiter, config.gen_prefix]
    parts.append(config.target_delimiter)
    # A field's bare name stands for its value.
    return ''.join(
        f'{{{{{part}}}}}' if part in fields else part for part in parts if part
    )

  def render(self, request: instance_lib.Instance) -> templates.Rendered:
    """The prompt of one request, with its option alone.

    Args:
      request: `args` are the prompt that the harness made and the option.

    Returns:
      The prompt in parts.

    Raises:
      UserError: the template does not fit the document, or the harness's
        prompt says something else.
    """
    context, option = request.args[:2]
    fields = dict(request.doc)
    if self._is_ours:
      fields['input'] = context
    try:
      text = self._compiled.render(fields)
    except Exception as e:  # Whatever its expressions raise.
      raise self.error(f'document {request.doc_id}: {e!r}') from e
    parts, _ = jinja_chunks.parts(text)
    rendered = templates.Rendered(
        parts,
        self.chunks,
        (option.removeprefix(self._delimiter).strip(),),
        gold=0,
    )
    expected = f'{context}{self._delimiter}'
    if not self._is_ours and rendered.prompt.split() != expected.split():
      raise self.error(
          f'document {request.doc_id}: the harness asks with {context!r}, the'
          f" task's template says {rendered.prompt!r}; what is put before it,"
          ' such as a system instruction, is not read'
      )
    return rendered
