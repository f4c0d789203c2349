"""The page and the API of `flipped-t5x serve`, made with Gradio."""

from collections.abc import Callable
import html
import os
from typing import Any

from flipped_t5x import errors
from flipped_t5x.inference import model as model_lib
from flipped_t5x.serving import answers as answers_lib
from flipped_t5x.serving import shown_templates

# Read when Gradio is imported: it would report its use otherwise.
os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')

import gradio as gr  # pylint: disable=wrong-import-position

MOST_BYTES = '20mb'
_WAITING = 64  # Questions; more are turned away.
_MODEL = 'model'  # One question, or batch of questions, at a time.
_ABOUT = """\
A FLIPPED model asks of each label: how probable does it make the instruction?
`{{input}}` in the instruction is the place of the text; without it, the text
comes first."""

# (path of the table, column, instruction, labels, threshold) -> path written.
RankTable = Callable[[str, str, str, list[str], float], str]


def build(
    model: model_lib.Model,
    name: str,
    rank_table: RankTable,
    columns_of: Callable[[str], list[str]],
) -> gr.Blocks:
  """Makes the page.

  Args:
    model: the model; it stays in memory once, whoever asks.
    name: what the user calls it.
    rank_table: ranks a table. It raises UserError if something is wrong.
    columns_of: path of a table -> its columns.

  Returns:
    The page, with its queue.
  """
  answers = answers_lib.Answers(model)
  templates = shown_templates.all_of_one_text()
  examples = shown_templates.examples(
      model.config.settings.get('MIXTURE'), templates
  )
  with gr.Blocks(title=f'flipped_t5x: {name}', analytics_enabled=False) as page:
    gr.Markdown('# Guess the instruction, rank the labels')
    gr.Markdown(_ABOUT)
    gr.Textbox(name, label='Model', interactive=False)
    with gr.Tab('One text'):
      _one_text(answers, templates, examples)
    with gr.Tab('A table'):
      _table(rank_table, columns_of)
  page.queue(max_size=_WAITING)
  return page


def _one_text(answers, templates, examples) -> None:
  with gr.Row():
    with gr.Column():
      text = gr.Textbox(
          label='Text', lines=4, max_length=answers_lib.MOST['text'],
          elem_id='text',
      )
      instruction = gr.Textbox(
          label='Instruction', lines=2, elem_id='instruction',
          max_length=answers_lib.MOST['instruction'],
      )
      labels = gr.Textbox(
          label='Labels, one a line', lines=3, elem_id='labels',
          max_length=answers_lib.MOST_LABELS * answers_lib.MOST['label'],
      )
      picked = gr.Dropdown(
          [t.name for t in templates], value=None, elem_id='template',
          label='Or a template, of promptsource or of a catalog',
      )
      with gr.Row():
        rank = gr.Button('Rank the labels', variant='primary', elem_id='rank')
        guess = gr.Button('Guess the instruction', elem_id='guess')
    with gr.Column():
      figure = gr.HTML(container=True, elem_id='figure', min_height=120)
      guesses = gr.Dataframe(
          headers=['label', 'instruction', 'log-probability'],
          label='The instruction that the model takes each label to answer',
          interactive=False, wrap=True, elem_id='guesses',
          column_widths=['25%', '50%', '25%'],
      )
      message = gr.Textbox(
          label='Message', interactive=False, elem_id='message'
      )
  by_name = {t.name: t for t in templates}

  def fill(name: str | None) -> tuple[Any, Any]:
    if name is None:
      return gr.skip(), gr.skip()
    return by_name[name].instruction, '\n'.join(by_name[name].labels)

  picked.input(
      fill, picked, [instruction, labels], api_visibility='private',
      show_progress='hidden',
  )
  together = {
      'batch': True, 'max_batch_size': answers_lib.BATCH,
      'concurrency_limit': 1, 'concurrency_id': _MODEL,
  }
  gr.on(
      [rank.click, text.submit, instruction.submit], answers.figures,
      [text, instruction, labels], [figure, message],
      api_visibility='private', **together,
  )
  # Of the API: the same in numbers.
  gr.Button(visible=False).click(
      answers.rank, [text, instruction, labels],
      [
          gr.Label(
              label='Probability of each label', visible=False,
              num_top_classes=answers_lib.MOST_LABELS,
          ),
          gr.HighlightedText(
              label='Which label makes a word of the instruction likelier',
              visible=False,
          ),
          message,
      ],
      api_name='rank', **together,
  )
  guess.click(
      answers.guess, [text, labels], [guesses, message], api_name='guess',
      **together,
  )
  if examples:
    gr.Examples(
        [list(e) for e in examples], [text, instruction, labels],
        label='Held-out rows of the data that the model was trained on',
    )


def _table(rank_table, columns_of) -> None:
  table = gr.File(
      label='A table: .csv, .tsv, .jsonl or .parquet', elem_id='table',
      type='filepath', file_types=['.csv', '.tsv', '.jsonl', '.parquet'],
  )
  column = gr.Dropdown(
      [], label='Column of texts', elem_id='column', allow_custom_value=True
  )
  instruction = gr.Textbox(label='Instruction', elem_id='table_instruction')
  labels = gr.Textbox(
      label='Labels, one a line', lines=3, elem_id='table_labels'
  )
  threshold = gr.Slider(
      0, 1, 0, label='Give no label below this probability',
      elem_id='threshold',
  )
  start = gr.Button('Label the rows', variant='primary', elem_id='start')
  labelled = gr.File(label='The table with labels', elem_id='labelled')

  def show_columns(path: str | None) -> Any:
    if path is None:
      return gr.Dropdown([], value=None)
    found = _told(columns_of, path)
    return gr.Dropdown(found, value=found[0])

  def label_rows(path, name, asked, given, least) -> str:
    if path is None or not name:
      raise gr.Error('A table and its column of texts are needed.')
    return _told(
        lambda: rank_table(
            path, name, asked, answers_lib.labels_of(given), least
        )
    )

  table.change(
      show_columns, table, column, api_visibility='private',
      show_progress='hidden',
  )
  start.click(
      label_rows, [table, column, instruction, labels, threshold], labelled,
      api_name='rank_table', concurrency_limit=1,
  )


def _told(function: Callable[..., Any], *arguments: Any) -> Any:
  """Calls it; what is wrong is shown on the page, as text."""
  try:
    return function(*arguments)
  except (errors.UserError, OSError) as e:
    raise gr.Error(html.escape(str(e)), print_exception=False) from e


def theme() -> gr.Theme:
  """Colours and fonts; nothing is loaded from elsewhere."""
  return gr.themes.Default(
      primary_hue='blue', font=['system-ui', 'sans-serif'],
      font_mono=['ui-monospace', 'monospace'],
  )
