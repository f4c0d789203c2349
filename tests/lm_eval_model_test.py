"""Tests of lm_eval_model.py, by lm-evaluation-harness itself."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

lm_eval = pytest.importorskip(
    'lm_eval',
    reason="lm_eval is not installed: pip install -e '.[lm-eval]'",
)

# They import lm_eval.
from flipped_t5x import lm_eval_model  # noqa: E402  # isort: skip
from lm_eval import tasks as tasks_lib  # noqa: E402  # isort: skip
from lm_eval.caching import cache  # noqa: E402  # isort: skip

pytestmark = pytest.mark.lm_eval
NAME = 'reviews'
TEXTS = (
    'the film was very good', 'a bad film', 'they hates the music',
    'the dog likes the old house', 'it was not very good', 'a good river',
    'the review was not bad', 'she sees a small cat',
)
PROMPT = '{{text}}\nquestion: was the film good or bad?\nanswer:'
INSTRUCTION = 'question: was the film good or bad? answer:'
OPTIONS = ('bad', 'good')


@pytest.fixture(scope='module')
def manager():
  """Knows none of the 13,000 tasks, which take seconds to list."""
  return tasks_lib.TaskManager(include_defaults=False)


@pytest.fixture
def make_config(tmp_path):
  """(rows, what differs) -> a task's configuration with local data."""

  def make(rows=None, **changes):
    if rows is None:
      rows = [{'text': t, 'label': i % 2} for i, t in enumerate(TEXTS)]
    data = tmp_path / 'rows.jsonl'
    data.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    return {
        'task': NAME,
        'dataset_path': 'json',
        'dataset_kwargs': {
            'data_files': {'validation': str(data)},
            'cache_dir': str(tmp_path / 'datasets'),
        },
        'output_type': 'multiple_choice',
        'validation_split': 'validation',
        'doc_to_text': PROMPT,
        'doc_to_choice': list(OPTIONS),
        'doc_to_target': 'label',
        'metric_list': [
            {'metric': 'acc', 'aggregation': 'mean', 'higher_is_better': True}
        ],
        **changes,
    }

  return make


@pytest.fixture
def make_model(tiny_run):
  """Model arguments -> the adapter."""
  return lambda **args: lm_eval_model.FlippedT5X(
      pretrained=str(tiny_run), **{'batch_size': 16, **args}
  )


@pytest.fixture
def evaluate(make_model, make_config, manager):
  """Evaluates one task; -> results, answers by document."""

  def run(model=None, config=None, **args):
    results = lm_eval.simple_evaluate(
        model=model or make_model(), tasks=[config or make_config()],
        task_manager=manager, bootstrap_iters=0, **args,
    )
    answers = [
        [score for score, _ in sample['filtered_resps']]
        for sample in results['samples'][NAME]
    ]
    return results, answers

  return run


def score(lm, inputs, targets):
  """Scores of texts, written out as the decoder and the encoder see them."""
  encode = lambda text: [*lm.model.vocabulary.encode(text), 1]
  return lm.model.score(
      [encode(text) for text in inputs], [encode(text) for text in targets], 16
  )


def scores_of_texts(lm, texts):
  """float32[texts, options]: what PROMPT must give."""
  inputs = [
      f'input: {text} <extra_id_0> output: {option}'
      for text in texts for option in OPTIONS
  ]
  targets = [f'<extra_id_0> {INSTRUCTION}'] * len(inputs)
  return score(lm, inputs, targets).reshape(len(texts), len(OPTIONS))


def test_answers_are_log_probabilities_of_the_instruction(
    evaluate, make_model
):
  lm = make_model()
  results, answers = evaluate(lm)
  expected = scores_of_texts(lm, TEXTS)
  np.testing.assert_allclose(answers, expected, rtol=1e-5)
  gold = np.arange(len(TEXTS)) % 2
  accuracy = np.mean(expected.argmax(axis=1) == gold)
  assert results['results'][NAME]['acc,none'] == pytest.approx(accuracy)


@pytest.mark.parametrize('right', (True, False))
def test_accuracy_is_of_the_best_option(
    evaluate, make_model, make_config, right
):
  lm = make_model()
  best = scores_of_texts(lm, TEXTS).argmax(axis=1)
  labels = best if right else 1 - best
  rows = [
      {'text': t, 'label': int(n)} for t, n in zip(TEXTS, labels, strict=True)
  ]
  results, _ = evaluate(lm, make_config(rows))
  assert results['results'][NAME]['acc,none'] == right


def test_model_by_name_and_a_limit(tiny_run, evaluate, make_model):
  results, answers = evaluate('flipped_t5x', limit=3, model_args={
      'pretrained': str(tiny_run), 'target_length': 40,
  }, batch_size='auto')
  np.testing.assert_allclose(
      answers, scores_of_texts(make_model(), TEXTS[:3]), rtol=1e-5
  )
  assert results['config']['flipped_t5x'] == {
      'format': 'flipped', 'input_length': 48, 'target_length': 40,
      'instruction': None, 'counts': {NAME: {}},
  }


@pytest.mark.slow
def test_command_line_with_a_task_of_the_harness(
    tiny_run, make_config, make_model, tmp_path, monkeypatch
):
  # Its own configuration of BoolQ; only the data are ours.
  rows = [
      {'passage': text, 'question': 'was the film good', 'label': i % 2}
      for i, text in enumerate(TEXTS)
  ]
  data = make_config(rows)
  own = pathlib.Path(tasks_lib.__file__).parent
  task = tmp_path / 'boolq_local.yaml'
  task.write_text(json.dumps({
      'include': str(own / 'super_glue/boolq/default.yaml'),
      'task': 'boolq_local', 'training_split': None, 'dataset_name': None,
      **{k: data[k] for k in ('dataset_path', 'dataset_kwargs')},
  }))
  monkeypatch.setattr('sys.argv', [
      'lm_eval', '--model', 'flipped_t5x', '--model_args',
      f'pretrained={tiny_run}', '--tasks', str(task), '--batch_size', '16',
      '--output_path', str(tmp_path / 'out'),
  ])
  lm_eval_model.main()
  scores = score(
      make_model(),
      [
          f'input: {row["passage"]} <extra_id_0> {row["question"]}'
          f' <extra_id_1> output: {option}'
          for row in rows for option in ('no', 'yes')
      ],
      ['<extra_id_0> Question: <extra_id_1> ? Answer:'] * 2 * len(rows),
  ).reshape(-1, 2)
  expected = np.mean(scores.argmax(axis=1) == np.arange(len(rows)) % 2)
  path, = (tmp_path / 'out').rglob('results*.json')
  results = json.loads(path.read_text())
  accuracy = results['results']['boolq_local']['acc,none']
  assert accuracy == pytest.approx(expected)


def test_description_prefix_and_branches_are_the_instruction(
    evaluate, make_model, make_config
):
  lm = make_model()
  rows = [
      {'text': 'the film', 'old': True, 'label': 0},
      {'text': 'the film', 'old': False, 'label': 0},
  ]
  _, answers = evaluate(lm, make_config(
      rows,
      description='they likes the music.\n\n',
      doc_to_text='{% if old %}old {% else %}not old {% endif %}{{text}}?',
      gen_prefix='so it was',
  ))
  target = (
      '<extra_id_0> they likes the music. <extra_id_1> old <extra_id_2> not old'
      ' <extra_id_3> ? so it was'
  )
  inputs = [
      f'input: <extra_id_0> <extra_id_{branch}> the film <extra_id_3>'
      f' output: {option}' for branch in (1, 2) for option in OPTIONS
  ]
  expected = score(lm, inputs, [target] * 4).reshape(2, 2)
  np.testing.assert_allclose(answers, expected, rtol=1e-5)


@pytest.mark.parametrize('delimiter, last', ((' ', ''), (' = ', ' =')))
def test_delimiter_is_the_last_text_of_the_prompt(
    evaluate, make_model, make_config, delimiter, last
):
  lm = make_model()
  _, answers = evaluate(lm, make_config(
      doc_to_text='was it good? {{text}}', target_delimiter=delimiter
  ))
  inputs = [
      f'input: <extra_id_0> {text} <extra_id_1> output: {option}'
      for text in TEXTS for option in OPTIONS
  ]
  targets = [f'<extra_id_0> was it good? <extra_id_1>{last}'] * len(inputs)
  expected = score(lm, inputs, targets).reshape(-1, 2)
  np.testing.assert_allclose(answers, expected, rtol=1e-5)


@pytest.mark.parametrize('instruction, inputs', (
    ('is it very good?', 'input: FILM: {} <extra_id_0>'),
    ('so: {{input}} is it good?', 'input: <extra_id_0> FILM: {} <extra_id_1>'),
    ('is it good, {{text}}', 'input: <extra_id_0> {}'),
))
def test_instruction_where_the_prompt_is_code(
    evaluate, make_model, make_config, instruction, inputs
):
  lm = make_model(instruction=instruction)
  _, answers = evaluate(lm, make_config(
      doc_to_text=lambda doc: f'FILM: {doc["text"]}'
  ))
  target = {
      'is it very good?': '<extra_id_0> is it very good?',
      'so: {{input}} is it good?': '<extra_id_0> so: <extra_id_1> is it good?',
      'is it good, {{text}}': '<extra_id_0> is it good,',
  }[instruction]
  texts = [
      f'{inputs.format(text)} output: {option}'
      for text in TEXTS for option in OPTIONS
  ]
  expected = score(lm, texts, [target] * len(texts)).reshape(-1, 2)
  np.testing.assert_allclose(answers, expected, rtol=1e-5)


def test_direct_format_scores_the_option(evaluate, make_model, make_config):
  lm = make_model()
  lm.model = dataclasses.replace(
      lm.model, config=dataclasses.replace(lm.model.config, format='direct')
  )
  # Nothing has to be told apart: a bare field will do.
  _, answers = evaluate(lm, make_config(doc_to_text='text'))
  inputs = [text for text in TEXTS for _ in OPTIONS]
  expected = score(lm, inputs, OPTIONS * len(TEXTS)).reshape(-1, 2)
  np.testing.assert_allclose(answers, expected, rtol=1e-5)


@pytest.mark.parametrize('changes, args, message', (
    ({'num_fewshot': 2}, {}, 'num_fewshot is 2; .* zero-shot'),
    ({'doc_to_text': lambda doc: doc['text']}, {}, 'doc_to_text is code.*inst'),
    ({'doc_to_text': 'text'}, {}, "'{{text}} ' has no words of its own.*inst"),
    ({'doc_to_text': '({{text}}):'}, {}, 'has no words of its own'),
    ({'doc_to_text': 'a ||| {{text}}'}, {}, r"2 times '\|\|\|'"),
    ({'doc_to_text': 'label', 'doc_to_choice': ['a film was', 'a dog was'],
      'doc_to_target': 'text'}, {}, 'inside the prompt'),
    ({'output_type': 'loglikelihood', 'doc_to_choice': None}, {},
     "output_type is 'loglikelihood'"),
    ({'doc_to_choice': ['good ' * 60, 'bad']}, {},
     'document 0: .* leaves no room .*input_length'),
    ({}, {'system_instruction': 'they hates it'}, 'document 0: .*they hates'),
))
def test_tasks_that_cannot_be_ranked_are_named(
    evaluate, make_config, changes, args, message
):
  with pytest.raises(ValueError, match=f"(?s)task '{NAME}': .*{message}"):
    evaluate(config=make_config(**changes), **args)


def test_errors_of_an_instruction(evaluate, make_model):
  with pytest.raises(ValueError, match="document 0: .*'film' is undefined"):
    evaluate(make_model(instruction='is {{film}} good?'))
  with pytest.raises(ValueError, match='{{input} good.*unexpected'):
    evaluate(make_model(instruction='is {{input} good?'))


def test_tasks_of_a_run_do_not_mix(make_model, make_config, manager):
  lm = make_model()
  other = make_config(task='other', doc_to_text='{{text}} was it very good?')
  tasks = manager.load([make_config(), other])['tasks']
  for task in tasks.values():
    task.build_all_requests(limit=2)
  apart = {n: lm.loglikelihood(t.instances) for n, t in tasks.items()}
  pairs = zip(*(tasks[n].instances[::-1] for n in (NAME, 'other')), strict=True)
  mixed = lm.loglikelihood([request for pair in pairs for request in pair])
  np.testing.assert_allclose(mixed[0::2], apart[NAME][::-1], rtol=1e-5)
  np.testing.assert_allclose(mixed[1::2], apart['other'][::-1], rtol=1e-5)
  assert apart[NAME] != apart['other']

  del tasks['other'].instances[0].task
  with pytest.raises(ValueError, match="'other': .* before the model"):
    lm.loglikelihood(tasks['other'].instances)


def test_damaged_weights_are_no_ranking(evaluate, make_model):
  lm = make_model()
  params = jax.tree.map(lambda x: x * np.nan, lm.model.params)
  lm.model = dataclasses.replace(lm.model, params=params)
  with pytest.raises(ValueError, match=f"'{NAME}': document 0: .* is nan"):
    evaluate(lm)


def test_what_is_not_ranking(evaluate, make_config):
  with pytest.raises(NotImplementedError, match='generates an instruction'):
    evaluate(config=make_config(
        output_type='generate_until', doc_to_choice=None, metric_list=[
            {'metric': 'exact_match', 'aggregation': 'mean',
             'higher_is_better': True}
        ],
    ))
  with pytest.raises(NotImplementedError, match='perplexity'):
    evaluate(config=make_config(
        output_type='loglikelihood_rolling', doc_to_choice=None,
        doc_to_target='text', metric_list=[
            {'metric': 'word_perplexity', 'aggregation': 'weighted_perplexity',
             'higher_is_better': False}
        ],
    ))
  with pytest.raises(NotImplementedError, match='reads no chats'):
    evaluate(apply_chat_template=True)


def test_documents_are_counted(evaluate, make_model, make_config, caplog):
  rows = [
      {'text': 'a film', 'options': ['good', 'bad'], 'label': 0},
      {'text': 'dog ' * 100, 'options': ['good', 'bad'], 'label': 0},
      {'text': 'a film', 'options': ['雪', '犬', 'bad'], 'label': 0},
      {'text': 'a film', 'options': ['good'], 'label': 0},
      {'text': 'a film', 'options': ['good', 'good'], 'label': 0},
  ]
  config = make_config(rows, doc_to_choice='options', metric_list=[
      {'metric': m, 'aggregation': 'mean', 'higher_is_better': True}
      for m in ('acc', 'acc_norm')
  ])
  # The harness keeps its messages from pytest.
  lm_eval_model._logger.addHandler(caplog.handler)
  try:
    results, answers = evaluate(config=config)
    long = make_model(instruction='is it very good? ' * 20)
    results_of_long, _ = evaluate(long, config)
  finally:
    lm_eval_model._logger.removeHandler(caplog.handler)
  assert answers[2][0] == answers[2][1] != answers[2][2]
  assert len(set(answers[1])) == 2  # The option is never cut.
  counts = {
      lm_eval_model.CUT_INSTANCE: 1,
      lm_eval_model.SAME_TOKENS: 2,
      lm_eval_model.ONE_OPTION: 1,
  }
  assert results['config']['flipped_t5x']['counts'] == {NAME: counts}
  assert results_of_long['config']['flipped_t5x']['counts'][NAME] == {
      **counts, lm_eval_model.CUT_INSTRUCTION: len(rows),
  }
  assert (
      f'{NAME}: {lm_eval_model.SAME_TOKENS}: 2 of 5 documents, the first is 2'
      in caplog.messages
  )
  assert any('acc_norm' in m and 'go by acc' in m for m in caplog.messages)


def test_caches_of_requests_and_of_answers(
    evaluate, make_model, tmp_path, monkeypatch
):
  monkeypatch.setattr(cache, 'PATH', str(tmp_path / 'requests'))
  _, first = evaluate(cache_requests=True, limit=2)
  assert list((tmp_path / 'requests').iterdir())
  _, again = evaluate(cache_requests=True, limit=2)
  assert again == first

  answers = str(tmp_path / 'answers')
  _, first = evaluate(use_cache=answers, limit=2)
  lm = make_model()
  asked = []
  loglikelihood = lm.loglikelihood
  monkeypatch.setattr(lm, 'loglikelihood', lambda requests: (
      asked.extend(r.doc_id for r in requests) or loglikelihood(requests)
  ))
  _, more = evaluate(lm, use_cache=answers, limit=3)
  assert asked == [2, 2] and more[:2] == first


def test_batch_sizes(make_model):
  assert make_model(batch_size='auto')._batch_size == 256
  assert make_model(batch_size='auto:4', max_batch_size=8)._batch_size == 8
  assert make_model(batch_size='32')._batch_size == 32
