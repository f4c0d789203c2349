"""Evaluated runs: reading them, their names and sizes."""

import evaluated_runs as runs
from flipped_t5x import network as network_lib
from flipped_t5x.reports import evaluated_run
from flipped_t5x.reports import report
import jax
import jax.numpy as jnp
import pytest


@pytest.mark.parametrize('change', (
    {}, {'logits_via_embedding': True}, {'mlp_activations': ('relu',)},
    {'num_heads': 4, 'num_decoder_layers': 2}, {'scan_layers': True},
))
def test_number_of_parameters(change):
  fields = {
      **runs.NETWORK.__dict__, **change
  }
  config = network_lib.T5Config(**fields)
  tokens = jnp.ones((1, 1), jnp.int32)
  params = jax.eval_shape(lambda: network_lib.Transformer(config).init(
      jax.random.key(0), tokens, tokens, tokens, enable_dropout=False
  ))['params']
  expected = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert evaluated_run.num_parameters(fields) == expected
  assert evaluated_run.num_parameters({}) is None


@pytest.mark.parametrize('number, text', (
    (1_480_192, '1.48 million'), (2_849_757_184, '2.85 billion'),
    (250_000, '0.25 million'),
))
def test_sizes_in_words(number, text):
  assert evaluated_run.million(number) == text


def test_results_that_are_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='flipped-t5x eval'):
    report.write(tmp_path)
  path = runs.write(tmp_path, runs.TASKS, 'nlp')
  with pytest.raises(FileNotFoundError, match=f'there is {path}'):
    report.write(tmp_path)


@pytest.mark.parametrize('text, message', (
    ('{"tasks": {', 'not JSON'), ('{"a": 1}', 'it has no tasks'),
    ('[]', 'not JSON: not an object'),
))
def test_files_that_are_no_results(text, message, tmp_path):
  path = tmp_path / 'results.json'
  path.write_text(text)
  with pytest.raises(ValueError, match=f'{path}: {message}'):
    report.write(path)
  assert [p.name for p in tmp_path.iterdir()] == ['results.json']


def test_a_damaged_log_is_named(tmp_path):
  folder = runs.write_nlp(tmp_path)
  (folder / 'metrics.jsonl').write_text('{"step": 1}\n{"st')
  with pytest.raises(ValueError, match=r'metrics.jsonl, line 2'):
    report.write(folder / 'results_nlp.json')


@pytest.mark.parametrize('folders, names', (
    (('x/a', 'x/b'), ['a', 'b']),
    (('x/run', 'y/run', 'y/b'), ['x/run', 'y/run', 'b']),
    (('x/y/run', 'run'), ['y/run', 'run']),
))
def test_names(folders, names, tmp_path):
  task = {'t': runs.task({'A': 40})}
  paths = [runs.write(tmp_path / f, task) for f in folders]
  found = [run.name for run in evaluated_run.read_all(paths)]
  if names[-1] == 'run':  # The folder above is needed to tell them apart.
    names = [*names[:-1], f'{tmp_path.name}/run']
  assert found == names


def test_files_of_one_folder_and_one_file_twice(tmp_path):
  path = runs.write(tmp_path / 'a', runs.TASKS)
  other = path.with_name('results_b.json')
  other.write_text(path.read_text())
  found = evaluated_run.read_all([path, other])
  assert [run.name for run in found] == ['a/results', 'a/results_b']
  with pytest.raises(ValueError, match=f'{path} appears twice'):
    report.write([path, tmp_path / 'a' / '..' / 'a'])
