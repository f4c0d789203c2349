"""Files of templates: what is read, and what names file and line."""

import pathlib

from flipped_t5x.prompts import template_files
from flipped_t5x.prompts import templates
import pytest

CASES = pathlib.Path(__file__).parents[3] / 'shared' / 'cases'
YAML = """\
dataset: my
subset: set
templates:
  1: !Template
    name: 'yes'
    answer_choices: No ||| Yes
    jinja: 'a {{x}} ||| no'
    metadata: !TemplateMetadata {metrics: [Accuracy, Other]}
  2: !Template
    name: b
    jinja: c ||| d
    answer_choices: null
    metadata: !TemplateMetadata {}
"""


def read(tmp_path, content):
  path = tmp_path / 'own.yaml'
  path.write_text(content, 'utf-8')
  return template_files.read(path)


def test_read(tmp_path):
  dataset, (first, second) = read(tmp_path, YAML)
  assert dataset == 'my/set'
  path = tmp_path / 'own.yaml'
  assert first == template_files.Entry(
      f'{path}, line 4', 'yes', 'a {{x}} ||| no', 'No ||| Yes',
      ('Accuracy', 'Other'),
  )
  assert second == template_files.Entry(
      f'{path}, line 9', 'b', 'c ||| d', None, ()
  )


@pytest.mark.parametrize(
    'old, new, message',
    (
        (YAML, '', 'line 1: a file of templates must be a mapping'),
        (YAML, '- a', 'line 1: a file of templates must be a mapping'),
        (YAML, '[' * 100_000, 'line 1: nested more than 20 times'),
        (YAML, '{a: ' * 100_000, 'line 1: nested more than 20 times'),
        (YAML, 'a: \x00', 'line 1: control characters are not allowed'),
        ('dataset: my\nsubset: set\n', '', 'line 1: no dataset'),
        ('templates', 'template', 'line 1: no templates'),
        ('subset', 'dataset', "line 2: 'dataset' appears twice"),
        ('subset: set', 'subset: [', 'line 4: did not find'),
        ('subset: set', 'subset: !!python/object/apply:os.mkdir [RAN]',
         'line 2: subset is a list'),
        ("name: 'yes'", 'name: yes',
         "line 5: name: to YAML, yes is no text (bool); put it in quotes: name:"
         " 'yes'"),
        ("name: 'yes'", 'name: 2024-01-02', 'line 5: name: to YAML, 2024-01-02 '
         'is no text (timestamp); put it in quotes'),
        ("name: 'yes'", 'name: 7', 'line 5: name: to YAML, 7 is no text (int)'),
        ("name: 'yes'", 'name: [a]', 'line 5: name is a list'),
        ("name: 'yes'", 'name: {a: b}', 'line 5: name must be a text'),
        ("name: 'yes'", 'name:', 'line 4: a template has no name'),
        ("jinja: 'a {{x}} ||| no'", 'jinja: {{x}} ||| no', 'line 7: '),
        ('No ||| Yes', '[No, Yes]',
         'line 6: answer_choices is a list; write one text, with ||| between'
         ' its parts: answer_choices: No ||| Yes'),
        ('    answer_choices', '\tanswer_choices',
         'line 6: found character that cannot start any token; there is a tab'),
        ('    answer_choices', '    \tanswer_choices',
         'line 6: found character that cannot start any token; there is a tab'),
        ('!Template\n', '!Other\n', 'line 4: unknown tag !Other'),
        ('    metadata: !TemplateMetadata {}\n', '',
         "line 9: the template 'b' has no metadata"),
        ('[Accuracy, Other]', 'Accuracy', 'line 8: metrics must be a list'),
    ),
)
def test_mistakes(old, new, message, tmp_path):
  assert old in YAML
  with pytest.raises(ValueError) as error:
    read(tmp_path, YAML.replace(old, new))
  assert str(error.value).startswith(f'{tmp_path / "own.yaml"}, {message}')
  assert ' object at 0x' not in str(error.value)


def test_file_that_is_too_large(tmp_path, monkeypatch):
  monkeypatch.setattr(template_files, '_MAX_BYTES', 100)
  with pytest.raises(ValueError, match='own.yaml: 389 bytes; 100 are allowed'):
    read(tmp_path, YAML.ljust(389, '\n'))


@pytest.mark.parametrize('name, line', (
    ('list_choices', 5), ('name_yes', 4), ('tab', 5),
))
def test_shared_cases(name, line):
  path = CASES / f'template_{name}.yaml'
  if not path.is_file():
    pytest.skip(f'no shared cases: {path} is absent')
  with pytest.raises(ValueError, match=f'^{path}, line {line}: '):
    templates.load_file(path)
