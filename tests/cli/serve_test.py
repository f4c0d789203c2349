"""serve: the API, logins, tables, and what is refused."""

import concurrent.futures
import csv

from flipped_t5x import errors
from flipped_t5x.cli import serve
from flipped_t5x.inference import model as model_lib
import pytest
import served

pytestmark = pytest.mark.serve

ASK = 'Is it a good dog?'
TEXTS = [f'The {word} dog {i}.' for i, word in enumerate(
    ('old', 'red', 'small', 'very', 'good', 'bad') * 4
)]


@pytest.fixture(name='url', scope='module')
def fixture_url(tiny_run):
  with served.url(tiny_run) as url:
    yield url


@pytest.fixture(name='client', scope='module')
def fixture_client(url):
  import gradio_client

  return gradio_client.Client(url, verbose=False)


def confidences(label):
  return {c['label']: c['confidence'] for c in label['confidences'] or ()}


@pytest.mark.slow
def test_many_users_are_answered_as_rank_does(client, tiny_run):
  model = model_lib.load(tiny_run)
  with concurrent.futures.ThreadPoolExecutor(12) as pool:
    answered = list(pool.map(
        lambda text: client.predict(text, ASK, 'yes\nno', api_name='/rank'),
        TEXTS,
    ))
  for text, (label, coloured, message) in zip(TEXTS, answered, strict=True):
    expected = model.rank(input=text, instruction=ASK, options=['yes', 'no'])
    assert confidences(label) == pytest.approx(
        {r.option: r.probability for r in expected}, abs=1e-5
    )
    assert label['label'] == expected[0].option and message == ''
    assert len(coloured) > 3


@pytest.mark.slow
def test_guesses_and_mistakes(client):
  guesses, message = client.predict(TEXTS[0], 'yes\nno', api_name='/guess')
  assert [row[0] for row in guesses['data']] == ['yes', 'no'] and not message
  label, coloured, message = client.predict(
      '<img src=x>', ASK, 'yes', api_name='/rank'
  )
  assert not confidences(label or {'confidences': None}) and not coloured
  assert message == 'at least 2 labels are needed, one a line'


@pytest.mark.slow
def test_a_table(client, tiny_run, tmp_path):
  import gradio_client
  from gradio_client import exceptions

  path = tmp_path / 'texts.csv'
  with open(path, 'w', newline='', encoding='utf-8') as f:
    csv.writer(f).writerows([['id', 'text'], *enumerate(TEXTS)])
  sent = gradio_client.handle_file(str(path))
  made = client.predict(
      sent, 'text', ASK, 'yes\nno', 0.0, api_name='/rank_table'
  )
  with open(made, newline='', encoding='utf-8') as f:
    rows = list(csv.DictReader(f))
  model = model_lib.load(tiny_run)
  assert [row['text'] for row in rows] == TEXTS
  for row in rows:
    best = model.rank(
        input=row['text'], instruction=ASK, options=['yes', 'no']
    )[0]
    assert row['predicted_label'] == best.option
  with pytest.raises(exceptions.AppError, match='column'):
    client.predict(
        sent, '--checkpoint', ASK, 'yes\nno', 0.0, api_name='/rank_table'
    )


@pytest.mark.slow
def test_what_is_refused(url, tiny_run):
  import httpx

  port = url.rpartition(':')[2]
  with pytest.raises(errors.UserError, match=f'--port {port}.*empty port'):
    serve.launch(served.arguments(tiny_run, '--port', port), wait=False)
  for auth in ('name', 'name:', ':password'):
    with pytest.raises(errors.UserError, match='NAME:PASSWORD'):
      serve.launch(served.arguments(tiny_run, '--auth', auth))
  with served.url(tiny_run, '--auth', 'name:word') as there:
    assert httpx.get(f'{there}/config').status_code == 401
    for word, status in (('wrong', 400), ('word', 200)):
      assert httpx.post(
          f'{there}/login', data={'username': 'name', 'password': word}
      ).status_code == status
