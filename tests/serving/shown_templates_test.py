"""Templates and rows as plain texts."""

import demo_catalog
from flipped_t5x.inference import queries
from flipped_t5x.serving import shown_templates
from flipped_t5x.tasks import catalog
import pytest


def test_templates_of_one_text():
  found = {t.name: t for t in shown_templates.all_of_one_text()}
  shown = found['rotten_tomatoes: Reviewer Enjoyment Yes No']
  assert shown.instruction == '{{input}} Did the reviewer enjoy the movie?'
  assert shown.labels == ('No', 'Yes')
  assert len(found) > 30


@pytest.mark.parametrize('name', ('imdb', 'rotten_tomatoes', 'vader_sentiment'))
def test_they_ask_what_the_template_asks(name):
  """The same words around the text, and the same labels."""
  templates = catalog.dataset(name).load_templates()
  row = {'text': 'A warm film.', 'label': 1}
  shown = [t for t in shown_templates.all_of_one_text() if t.dataset == name]
  assert shown
  for template in shown:
    _, _, own = template.name.partition(': ')
    rendered = templates[own].render(row)
    asked = queries.render_to_rank({
        'input': row['text'], 'instruction': template.instruction,
        'options': list(template.labels),
    })
    assert rendered.options == asked.options == template.labels
    assert rendered.prompt.split() == asked.prompt.split()


def test_held_out_rows(tmp_path, monkeypatch):
  data = demo_catalog.isolate(tmp_path, monkeypatch)
  monkeypatch.setenv('FLIPPED_T5X_SOURCES', 'local')
  templates = shown_templates.all_of_one_text()
  for mixture in (None, 'mine', 'flipped_nothing', 'vader_sentiment'):
    assert shown_templates.examples(mixture, templates) == []
  demo_catalog.write_lines(
      data / 'local' / 'vader_sentiment' / 'test.jsonl',
      [{'text': f'row {i}', 'label': i % 2} for i in range(8)],
  )
  found = shown_templates.examples('vader_sentiment', templates)
  assert [text for text, _, _ in found] == [f'row {i}' for i in range(4)]
  assert all('{{input}}' in instruction for _, instruction, _ in found)
  assert all(len(labels.splitlines()) == 2 for _, _, labels in found)
