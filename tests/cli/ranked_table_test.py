"""rank takes a table: the same rows with labels, resumable."""

import csv
import json
import shutil

from flipped_t5x import locks
from flipped_t5x.cli import main
from flipped_t5x.cli import ranked_table
from flipped_t5x.inference import model as model_lib
import openpyxl
import pyarrow as pa
from pyarrow import parquet
import pytest

ASK = {'instruction': 'a dog?', 'options': ['yes', 'no', 'good']}
ROWS = [
    {'id': f'0{i}', 'text': f'The {w} dog {i}.', 'note': note}
    for i, (w, note) in enumerate(
        [('old', '=1+1'), ('red', '-1.5'), ('small', '@x'), ('very', 'a,"b"'),
         ('good', ''), ('bad', 'ü\nx'), ('cat', '-x')]
    )
]


@pytest.fixture(name='rank')
def fixture_rank(tiny_run, capsys):
  def rank(table, output, *argv):
    status = main.main([
        'rank', '--checkpoint', str(tiny_run), '--table', str(table),
        '--output_file', str(output), '--text', 'text', '--instruction',
        ASK['instruction'], '--options', ','.join(ASK['options']), *argv,
    ])
    return status, capsys.readouterr().err

  return rank


@pytest.fixture(name='expected')
def fixture_expected(tiny_run):
  model = model_lib.load(tiny_run)
  found = model.rank_batch([{'input': r['text'], **ASK} for r in ROWS])
  return [
      {
          'predicted_label': ranked[0].option,
          'predicted_probability': ranked[0].probability,
          'predicted_margin': ranked[0].log_prob - ranked[1].log_prob,
      }
      for ranked in found
  ]


def write(path):
  if path.suffix == '.parquet':
    parquet.write_table(pa.Table.from_pylist(ROWS), path)
  elif path.suffix == '.jsonl':
    path.write_text(''.join(json.dumps(r) + '\n' for r in ROWS))
  else:
    with open(path, 'w', newline='', encoding='utf-8') as f:
      writer = csv.DictWriter(
          f, list(ROWS[0]), delimiter='\t' if path.suffix == '.tsv' else ';'
      )
      writer.writeheader()
      writer.writerows(ROWS)
  return path


@pytest.mark.parametrize('suffix', ('.jsonl', '.parquet'))
def test_same_rows_with_labels(suffix, rank, expected, tmp_path):
  output = tmp_path / f'out{suffix}'
  status, message = rank(write(tmp_path / f'in{suffix}'), output)
  assert status == 0, message
  if suffix == '.parquet':
    found = parquet.read_table(output).to_pylist()
  else:
    found = [json.loads(line) for line in output.read_text().splitlines()]
  assert found == [{**r, **e} for r, e in zip(ROWS, expected, strict=True)]
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('suffix', ('.csv', '.tsv'))
def test_spreadsheets_see_no_formula(suffix, rank, expected, tmp_path):
  output = tmp_path / f'out{suffix}'
  status, message = rank(write(tmp_path / f'in{suffix}'), output)
  assert status == 0, message
  with open(output, newline='', encoding='utf-8') as f:
    found = list(csv.DictReader(f, delimiter='\t' if suffix == '.tsv' else ';'))
  notes = ["'=1+1", '-1.5', "'@x", 'a,"b"', '', 'ü\nx', "'-x"]
  assert found == [
      {**r, 'note': note, **{k: str(v) for k, v in e.items()}}
      for r, note, e in zip(ROWS, notes, expected, strict=True)
  ]


def test_abstains(rank, expected, tmp_path):
  probabilities = sorted(e['predicted_probability'] for e in expected)
  output = tmp_path / 'out.jsonl'
  rank(
      write(tmp_path / 'in.jsonl'), output, '--threshold',
      repr(probabilities[3]),
  )
  found = [json.loads(line) for line in output.read_text().splitlines()]
  assert sum(r['predicted_label'] is None for r in found) == 3
  for row, e in zip(found, expected, strict=True):
    assert row['predicted_probability'] == e['predicted_probability']
    if row['predicted_label'] is not None:
      assert row['predicted_probability'] >= probabilities[3]


def test_stopped_and_started_again(rank, tmp_path, monkeypatch):
  monkeypatch.setattr(ranked_table, '_CHUNK', 2)
  table = write(tmp_path / 'in.csv')
  whole = tmp_path / 'whole.csv'
  assert rank(table, whole)[0] == 0
  asked, rank_batch = [], model_lib.Model.rank_batch

  def stops(self, batch, **options):
    asked.append(len(batch))
    if len(asked) == 3:
      raise KeyboardInterrupt
    return rank_batch(self, batch, **options)

  monkeypatch.setattr(model_lib.Model, 'rank_batch', stops)
  output = tmp_path / 'out.csv'
  assert rank(table, output)[0] == 130
  assert not output.exists()
  assert rank(table, output)[0] == 0
  assert asked == [2, 2, 2, 2, 1]  # The third chunk again, and the rest.
  assert output.read_bytes() == whole.read_bytes()
  assert {p.name for p in tmp_path.iterdir()} == {
      'in.csv', 'out.csv', 'whole.csv'
  }


def test_other_weights_begin_anew(rank, tiny_run, tmp_path, monkeypatch):
  monkeypatch.setattr(ranked_table, '_CHUNK', 2)
  monkeypatch.setenv('HOME', str(tmp_path))
  run, table = tmp_path / 'run', write(tmp_path / 'in.csv')
  shutil.copytree(tiny_run, run)
  rank_batch, output = model_lib.Model.rank_batch, tmp_path / 'out.csv'
  with monkeypatch.context() as patch:
    asked = []

    def stops(self, batch, **options):
      asked.append(batch)
      if len(asked) == 3:
        raise KeyboardInterrupt
      return rank_batch(self, batch, **options)

    patch.setattr(model_lib.Model, 'rank_batch', stops)
    assert rank(table, output, '--checkpoint=~/run')[0] == 130
  assert len(list(tmp_path.glob('out.csv.parts-*'))) == 1
  shutil.rmtree(run / 'checkpoints' / '2')  # Step 1 has other weights.
  for path in (output, tmp_path / 'whole.csv'):
    assert rank(table, path, '--checkpoint=~/run')[0] == 0
  assert output.read_bytes() == (tmp_path / 'whole.csv').read_bytes()
  assert {p.name for p in tmp_path.iterdir()} == {
      'in.csv', 'out.csv', 'whole.csv', 'run'
  }


def test_one_at_a_time(rank, tmp_path):
  table, output = write(tmp_path / 'in.csv'), tmp_path / 'out.csv'
  with locks.held(tmp_path / 'out.csv.lock', 'it'):
    status, error = rank(table, output)
  assert status == 1 and not output.exists()
  assert error.startswith(
      f'flipped-t5x: {output} is being written by process'
  )


@pytest.mark.parametrize('argv, message', (
    (['--options', 'yes'], 'row 1: '),
    (['--text', 'txt'], "no column 'txt'; nearest: ['text']"),
    (['--threshold', '2'], '--threshold is a probability'),
    (['--jsonl', 'x'], 'takes no --input, --row or --jsonl'),
    (['--output_file', 'out.jsonl'], 'must end in .csv'),
))
def test_wrong_flags(argv, message, rank, tmp_path):
  status, printed = rank(write(tmp_path / 'in.csv'), tmp_path / 'o.csv', *argv)
  assert status == 1 and message in printed
  assert [p.name for p in tmp_path.iterdir()] == ['in.csv']


def test_rows_of_a_dataset(tiny_run, tmp_path):
  output = tmp_path / 'out.csv'
  asked = {
      'dataset': 'rotten_tomatoes', 'template': 'Reviewer Enjoyment Yes No'
  }
  assert main.main([
      'rank', '--checkpoint', str(tiny_run), '--output_file', str(output),
      '--table', str(write(tmp_path / 'in.csv')),
      *(f'--{k}={v}' for k, v in asked.items()),
  ]) == 0
  ranked = model_lib.load(tiny_run).rank_batch(
      [{**asked, 'row': row} for row in ROWS]
  )
  with open(output, newline='', encoding='utf-8') as f:
    found = list(csv.DictReader(f, delimiter=';'))
  assert [r['predicted_label'] for r in found] == [
      r[0].option for r in ranked
  ]


def test_excel_is_to_be_saved_in_another_form(rank, tmp_path):
  book = openpyxl.Workbook()
  book.active.append(['text'])
  book.save(tmp_path / 'in.xlsx')
  status, printed = rank(tmp_path / 'in.xlsx', tmp_path / 'out.xlsx')
  assert status == 1 and 'as .csv or .parquet' in printed
