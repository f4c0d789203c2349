"""Tests of the commands rank, guess and explain, on one text and on many."""

import json
import os
import subprocess
import sys

from flipped_t5x.cli import main
from flipped_t5x.inference import model as model_lib
import pytest

TEXT = {'input': 'It was good.', 'instruction': 'a dog?',
        'options': ['yes', 'no']}
ROW = {'dataset': 'rotten_tomatoes', 'template': 'Reviewer Enjoyment Yes No',
       'row': {'text': 'It was good.'}}
GUESS = {'input': 'It was good.', 'output': 'yes'}
QUERIES = {'rank': TEXT, 'guess': GUESS, 'explain': TEXT}


@pytest.fixture(scope='module')
def model(tiny_run):
  return model_lib.load(tiny_run)


@pytest.fixture(name='run')
def fixture_run(tiny_run, capsys):
  """Runs a command that must succeed; returns what it prints."""

  def run(command, *argv):
    status = main.main([command, '--checkpoint', str(tiny_run), *argv])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out

  return run


@pytest.fixture(name='fails')
def fixture_fails(tiny_run, capsys):
  """Runs a command that must fail by itself; returns its one line."""

  def fails(command, *argv):
    assert main.main([command, '--checkpoint', str(tiny_run), *argv]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    line, = captured.err.strip().splitlines()
    assert line.startswith('flipped-t5x: ')
    return line

  return fails


@pytest.fixture(name='jsonl')
def fixture_jsonl(tmp_path):
  """Writes a JSONL file; returns its path."""

  def write(*rows):
    path = tmp_path / 'rows.jsonl'
    path.write_text(''.join(
        (row if isinstance(row, str) else json.dumps(row)) + '\n'
        for row in rows
    ))
    return str(path)

  return write


def flags(query):
  argv = []
  for key, value in query.items():
    value = ','.join(value) if key == 'options' else value
    value = json.dumps(value) if key == 'row' else value
    argv += [f'--{key}', value]
  return argv


def as_json(ranked):
  return {'prediction': ranked[0].option, 'options': [
      {'option': r.option, 'log_prob': r.log_prob, 'probability': r.probability}
      for r in ranked
  ]}


def test_rank_one_text(run, model):
  ranked = model.rank(**TEXT)
  assert json.loads(run('rank', *flags(TEXT), '--json')) == as_json(ranked)
  header, *lines = run('rank', *flags(TEXT)).splitlines()
  assert header.split() == ['option', 'log-probability', 'probability']
  assert [line.split() for line in lines] == [
      [r.option, f'{r.log_prob:.4f}', f'{r.probability:.4f}'] for r in ranked
  ]
  assert len({len(line) for line in lines} | {len(header)}) == 1


def test_options_with_commas(run, model):
  query = TEXT | {'options': ['so, yes', 'not', 'no, they said']}
  argv = flags({k: v for k, v in query.items() if k != 'options'})
  for option in query['options']:
    argv += ['--option', option]
  shown = json.loads(run('rank', *argv, '--json'))
  assert shown == as_json(model.rank(**query))


def test_rank_a_row_of_a_dataset(run, model):
  shown = json.loads(run('rank', *flags(ROW), '--json'))
  assert shown == as_json(model.rank(**ROW))
  assert {o['option'] for o in shown['options']} == {'Yes', 'No'}


def test_lengths_and_format_of_the_model(run, model):
  argv = [*flags(TEXT), '--json']
  usual = json.loads(run('rank', *argv))
  for changed in (
      ['--format', 'direct'], ['--input_length', '8'], ['--target_length', '3'],
      ['--dtype', 'bfloat16'],
  ):
    assert json.loads(run('rank', *argv, *changed)) != usual


def test_guess_one_text(run, model):
  argv = [*flags(GUESS), '--max_length', '8']
  guess = model.guess(**GUESS, max_length=8)
  assert json.loads(run('guess', *argv, '--json')) == {
      'instruction': guess.instruction, 'log_prob': guess.log_prob,
      'tokens': list(guess.tokens),
  }
  shown = run('guess', *argv).splitlines()
  assert shown == [
      guess.instruction, f'log-probability  {guess.log_prob:.4f}'
  ]
  beams = json.loads(run('guess', *argv, '--json', '--num_beams', '3'))
  assert beams['log_prob'] == model.guess(
      **GUESS, max_length=8, num_beams=3
  ).log_prob


def test_explain_one_text(run, model, tmp_path, capsys):
  explained = model.explain(**TEXT)
  assert run('explain', *flags(TEXT)) == explained.table() + '\n'
  path = tmp_path / 'heat.png'
  shown = run('explain', *flags(TEXT), '--json', '--plot', str(path))
  assert json.loads(shown) == explained.to_json()
  assert path.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('to_file', (False, True))
def test_rank_lines(run, model, jsonl, tmp_path, monkeypatch, to_file):
  queries = [TEXT, ROW, TEXT | {'options': ['dog', 'cat', 'house']}]
  expected = [as_json(model.rank(**query)) for query in queries]
  # Empty lines, a mark of the byte order, keys without a value: all common.
  path = jsonl('\ufeff' + json.dumps(queries[0] | {'row': None}), '',
               *queries[1:])
  if to_file:
    output = tmp_path / 'out.jsonl'
    output.write_text('of before')
    assert not run('rank', '--jsonl', path, '--output_file', str(output))
    shown = output.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {'rows.jsonl', 'out.jsonl'}
  else:
    with open(path) as f:
      monkeypatch.setattr(sys, 'stdin', f)
      shown = run('rank', '--jsonl', '-')
  for line, want in zip(shown.splitlines(), expected, strict=True):
    got = json.loads(line)
    assert got['prediction'] == want['prediction']
    for one, other in zip(got['options'], want['options'], strict=True):
      assert one['option'] == other['option']
      assert one['log_prob'] == pytest.approx(other['log_prob'], rel=1e-5)


def test_guess_and_explain_lines(run, model, jsonl):
  shown = run('explain', '--jsonl', jsonl(TEXT, ROW)).splitlines()
  assert [json.loads(line)['prediction'] for line in shown] == [
      model.rank(**query)[0].option for query in (TEXT, ROW)
  ]
  queries = [GUESS, ROW | {'output': 'Yes'}]
  shown = run('guess', '--jsonl', jsonl(*queries), '--max_length', '8')
  assert [json.loads(line)['instruction'] for line in shown.splitlines()] == [
      model.guess(**query, max_length=8).instruction for query in queries
  ]


def test_what_is_cut_is_said(tiny_run, jsonl, capsys):
  long = TEXT | {'input': 'very ' * 100}
  path = jsonl(TEXT, long)
  argv = ['rank', '--checkpoint', str(tiny_run), '--jsonl', path]
  for _ in range(2):  # Again each time.
    assert main.main(argv) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err.startswith(
        'flipped-t5x: 1 of 2 inputs were cut to 48 tokens: the instance, never'
        ' the label\n'
    )


@pytest.mark.parametrize('command', QUERIES)
@pytest.mark.parametrize('line, message', (
    ('{"input": "x"', 'not JSON: '),
    ('["x"]', 'not a JSON object: ["x"]'),
    ({'input': 'x', 'mood': 'y'}, "unknown key 'mood'; nearest: ["),
    ({'input': 'x'}, ' is missing: give either input, '),
    (ROW | {'dataset': 'rotten_tomato'}, "no 'rotten_tomato'; nearest: ['rot"),
    (ROW | {'row': {'txt': 'x'}, 'template': 'Reviewer Enjoyment Yes No'},
     "'text' is undefined (fields: txt): the row lacks a field"),
))
def test_wrong_line(fails, jsonl, tmp_path, command, line, message):
  path = jsonl(QUERIES[command], '', line)
  output = tmp_path / 'out.jsonl'
  error = fails(command, '--jsonl', path, '--output_file', str(output))
  assert f'{path} line 3: ' in error and message in error
  assert not output.exists()


def test_line_that_only_the_model_can_judge(fails, jsonl, tmp_path):
  output = tmp_path / 'out.jsonl'
  output.write_text('of before')
  path = jsonl(TEXT, '', TEXT | {'options': ['☃', '☂']})
  error = fails('rank', '--jsonl', path, '--output_file', str(output))
  assert f"{path} line 3: options '☃' and '☂' have the same tokens" in error
  assert output.read_text() == 'of before'


def test_line_that_is_no_text(fails, tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_bytes(json.dumps(TEXT).encode() + b'\n{"input": "\xff"}\n')
  error = fails('rank', '--jsonl', str(path))
  assert f"{path} line 2: 'utf-8' codec can't decode" in error


@pytest.mark.parametrize('command', QUERIES)
def test_no_rows(fails, jsonl, command):
  path = jsonl('', ' ')
  assert f'{path} has no rows' in fails(command, '--jsonl', path)


@pytest.mark.parametrize('command, argv, message', (
    ('rank', [], 'input is missing: give either input, instruction, options, or'
     ' dataset, template, row; or --jsonl FILE'),
    ('guess', [], 'input is missing: give either input, output, or dataset,'),
    ('rank', ['--jsonl', 'x', '--input', 'y'], '--jsonl and --input cannot'),
    ('guess', ['--jsonl', 'x', '--output', 'y'], '--jsonl and --output cannot'),
    ('rank', ['--jsonl', 'nosuch.jsonl'], 'nosuch.jsonl'),
    ('rank', ['--options', 'a,b', '--option', 'a'], '--options and --option'),
    ('rank', [*flags(ROW)[:4], '--row', '{text}'], '--row: not JSON'),
    ('rank', [*flags(ROW)[:4], '--row', '3'], 'row must be a mapping'),
    ('rank', [*flags(ROW), '--input', 'x'], 'input and dataset cannot both'),
    ('rank', [*flags(TEXT), '--output_file', 'nosuch/x'], 'nosuch does not'),
    ('rank', [*flags(TEXT), '--output_file', '.'], '. is a folder'),
    ('rank', [*flags(TEXT), '--input_length', '0'], 'input_length is 0'),
    ('guess', [*flags(GUESS), '--num_beams', '0'], 'num_beams is 0'),
    ('explain', [*flags(TEXT), '--plot', 'x.txt'], 'x.txt must end with one'),
    ('explain', ['--jsonl', 'x', '--plot', 'x.png'], '--plot draws one text'),
    ('explain', [*flags(TEXT), '--plot', 'nosuch/x.png'], 'nosuch does not'),
    ('explain', [*flags(TEXT), '--format', 'direct'], 'writes the label'),
))
def test_wrong_arguments(fails, command, argv, message):
  assert message in fails(command, *argv)


def test_no_model(fails, tmp_path, capsys):
  argv = ['rank', '--checkpoint', str(tmp_path), *flags(TEXT)]
  assert main.main(argv) == 1
  assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.process
def test_reader_that_has_gone(tiny_run, jsonl):
  """As of `flipped-t5x rank ... | true`: no stack of calls, no other noise."""
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
      [sys.executable, '-m', 'flipped_t5x.cli.main', 'rank', '--checkpoint',
       str(tiny_run), '--jsonl', jsonl(TEXT)],
      stdout=writer, stderr=subprocess.PIPE, text=True,
      env=dict(os.environ, JAX_PLATFORMS='cpu'),
  )
  os.close(writer)
  assert done.returncode == 141
  assert 'Error' not in done.stderr and 'Traceback' not in done.stderr
