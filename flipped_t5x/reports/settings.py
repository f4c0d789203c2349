"""Tables of the data and settings that results depend on."""

from collections.abc import Mapping
from typing import Any

from flipped_t5x.reports import parts

Results = Mapping[str, Any]


def passes(results: Results) -> parts.Table | None:
  """The encoder passes that were saved by sharing; None if not known."""
  found = [
      (name, t['candidates'], t['encoder_passes'])
      for name, t in results['tasks'].items()
      if 'encoder_passes' in t and t.get('candidates')
  ]
  if not found:
    return None
  _, candidates, encoded = zip(*found, strict=True)
  if len(found) > 1:
    found.append(('all', sum(candidates), sum(encoded)))
  return parts.Table(
      'Encoder passes', ['task', 'candidates', 'encoder passes', 'saved'],
      [[n, f'{c:,}', f'{e:,}', f'{1 - e / c:.1%}'.replace('%', ' %')]
       for n, c, e in found],
  )


def origins(results: Results) -> parts.Table:
  """The origin of each task's rows."""
  rows = []
  for name, task in results['tasks'].items():
    data = dict(task['data'])
    split = data.pop('split', parts.MISSING)
    digest = data.pop('sha256', parts.MISSING)
    number = data.pop('rows', None)
    rows.append([
        name, split, parts.MISSING if number is None else f'{number:,}',
        _source(data), digest,
    ])
  return parts.Table(
      'Data', ['task', 'split', 'rows', 'from', 'SHA-256 of the rows'], rows,
      left=(0, 1, 3, 4), code=(4,),
  )


def _source(data: Mapping[str, Any]) -> str:
  keys = ('source', 'package', 'repo', 'revision', 'commit', 'config', 'file',
          'files')
  found = []
  for key in keys:
    value = data.get(key)
    if isinstance(value, (list, tuple)):
      value = ', '.join(map(str, value))
    if value:
      found.append(str(value))
  return '; '.join(found) or parts.MISSING


def table(results: Results) -> parts.Table:
  """All settings that the results depend on."""
  flat = {
      **{
          key: results[key] for key in (
              'suite', 'mixture', 'split', 'limit', 'step', 'format',
              'input_length', 'target_length',
          ) if key in results
      },
      **{f'checkpoint: {k}': v for k, v in
         results.get('checkpoint', {}).items()},
      **results['settings'],
      **{f'network: {k}': v for k, v in results['network'].items()},
      **{f'version of {k}': v for k, v in results['versions'].items()},
  }
  return parts.Table(
      'Settings', ['setting', 'value'],
      [[key, str(value)] for key, value in flat.items()], left=(0, 1),
      code=(1,),
  )
