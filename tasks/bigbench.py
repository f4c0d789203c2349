"""The template of a BIG-bench task, of the literal text in its `task.json`."""

from collections.abc import Mapping

from flipped_t5x.prompts import templates

TEMPLATE_NAME = 'BIG-bench'


def template(
    dataset: str, prefixes: Mapping[str, str]
) -> templates.Template:
  """The template that prompts as BIG-bench itself does.

  Task prefix, input prefix, choice prefix (the same chunk before every option)
  and output prefix are chunks of their own; empty ones are left out.

  Args:
    dataset: the dataset's name, for messages.
    prefixes: see `readers.bigbench_prefixes`.

  Returns:
    The template, for rows of `input`, `choices` and `label`.
  """
  chunks = {k: '{% raw %}' + v + '{% endraw %}' for k, v in prefixes.items()}
  choices = ''
  if 'choice_prefix' in chunks:
    choices = (
        '{% for choice in choices %}' + chunks['choice_prefix']
        + '{{ choice }}{% endfor %}'
    )
  return templates.Template(
      dataset, TEMPLATE_NAME,
      chunks['task_prefix']
      + "{{ '' }}"  # Or the two prefixes would be one chunk.
      + chunks['example_input_prefix'] + '{{ input }}' + choices
      + chunks['example_output_prefix'] + '|||{{ answer_choices[label] }}',
      '{{ choices | join("|||") }}',
      ('Accuracy',),
      label='label',
  )
