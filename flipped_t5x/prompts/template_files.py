"""Reads promptsource's YAML files; what is wrong is named by file and line."""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from flipped_t5x import errors
from flipped_t5x import files
import yaml

# More than promptsource's five, and few enough for a parser that recurses.
_MAX_DEPTH = 20
_MAX_BYTES = 10_000_000

_MAPPINGS = ('tag:yaml.org,2002:map', '!Template', '!TemplateMetadata')

# The loader in C is ten times faster; not every build of PyYAML has it.
_Loader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


@dataclasses.dataclass(frozen=True)
class Entry:
  """One template of a file.

  Attributes:
    where: the file and the line at which it begins, for messages.
    name: its name.
    jinja: its source.
    answer_choices: the source of its options; None if it has none.
    metrics: promptsource's names of its metrics.
  """

  where: str
  name: str
  jinja: str
  answer_choices: str | None
  metrics: tuple[str, ...]


def read(path: pathlib.Path) -> tuple[str, list[Entry]]:
  """Reads a file.

  Args:
    path: the file.

  Returns:
    The dataset's name, and the templates in the order of the file.

  Raises:
    UserError: it is not YAML in promptsource's form; the message has the line.
    OSError: it cannot be read.
  """
  files.check_is_fetched(path)
  content = path.read_bytes()
  if len(content) > _MAX_BYTES:
    raise errors.UserError(
        f'{path}: {len(content):,} bytes; {_MAX_BYTES:,} are allowed'
    )
  try:
    _check_depth(path, content)
    loader = _Loader(content)
    try:
      root = loader.get_single_node()
      top = _fields(path, root, 'a file of templates')
      dataset = '/'.join(
          value for name in ('dataset', 'subset')
          if name in top and (value := _text(path, top, name))
      )
      if not dataset:
        raise _error(path, root, 'no dataset')
      if 'templates' not in top:
        raise _error(path, root, 'no templates')
      nodes = _fields(path, top['templates'], 'templates')
      return dataset, [_entry(path, node) for node in nodes.values()]
    finally:
      loader.dispose()
  except yaml.MarkedYAMLError as e:
    mark = e.problem_mark or e.context_mark
    line = mark.line if mark else 0
    hint = ''
    if b'\t' in b''.join(content.splitlines()[line : line + 1]):
      hint = '; there is a tab, and YAML is indented with spaces alone'
    raise errors.UserError(
        f'{path}, line {line + 1}: {e.problem or e.context}{hint}'
    ) from e
  except yaml.YAMLError as e:  # Characters that YAML does not allow.
    line = content[: getattr(e, 'position', 0)].count(b'\n') + 1
    reason = getattr(e, 'reason', None) or 'not YAML'
    raise errors.UserError(f'{path}, line {line}: {reason}') from e


def _check_depth(path: pathlib.Path, content: bytes) -> None:
  """UserError before a parser that recurses can end the process."""
  depth = 0
  for event in yaml.parse(content, _Loader):
    if isinstance(event, yaml.CollectionStartEvent):
      depth += 1
    elif isinstance(event, yaml.CollectionEndEvent):
      depth -= 1
    if depth > _MAX_DEPTH:
      raise _error(path, event, f'nested more than {_MAX_DEPTH} times')


def _error(path: pathlib.Path, marked: Any, message: str) -> errors.UserError:
  """An error about a node or an event."""
  line = marked.start_mark.line + 1 if marked is not None else 1
  return errors.UserError(f'{path}, line {line}: {message}')


def _fields(
    path: pathlib.Path, node: yaml.Node | None, what: str
) -> dict[str, yaml.Node]:
  """The entries of a mapping; a key that comes twice is an error."""
  if not isinstance(node, yaml.MappingNode):
    raise _error(path, node, f'{what} must be a mapping, KEY: VALUE')
  if node.tag not in _MAPPINGS:
    raise _error(path, node, f'unknown tag {node.tag}')
  found: dict[str, yaml.Node] = {}
  for key, value in node.value:
    if not isinstance(key, yaml.ScalarNode):
      raise _error(path, key, 'a key must be a text')
    if key.value in found:
      raise _error(path, key, f'{key.value!r} appears twice')
    found[key.value] = value
  return found


def _text(
    path: pathlib.Path, fields: Mapping[str, yaml.Node], name: str
) -> str | None:
  """The text of a field; None if it is null or not there."""
  node = fields.get(name)
  if node is None or node.tag == 'tag:yaml.org,2002:null':
    return None
  if isinstance(node, yaml.SequenceNode):
    texts = [getattr(item, 'value', '...') for item in node.value]
    raise _error(
        path, node,
        f'{name} is a list; write one text, with ||| between its parts:'
        f' {name}: {" ||| ".join(map(str, texts))}'
    )
  if not isinstance(node, yaml.ScalarNode):
    raise _error(path, node, f'{name} must be a text')
  if node.tag != 'tag:yaml.org,2002:str':
    kind = node.tag.rpartition(':')[2]
    raise _error(
        path, node,
        f'{name}: to YAML, {node.value} is no text ({kind}); put it in quotes:'
        f" {name}: '{node.value}'"
    )
  return node.value


def _entry(path: pathlib.Path, node: yaml.Node) -> Entry:
  fields = _fields(path, node, 'a template')
  texts = {name: _text(path, fields, name) or '' for name in ('name', 'jinja')}
  for name, text in texts.items():
    if not text:
      raise _error(path, node, f'a template has no {name}')
  if 'metadata' not in fields:
    raise _error(
        path, node,
        f'the template {texts["name"]!r} has no metadata, such as'
        ' !TemplateMetadata {metrics: [Accuracy]}'
    )
  metadata = _fields(path, fields['metadata'], 'metadata')
  return Entry(
      f'{path}, line {node.start_mark.line + 1}', texts['name'], texts['jinja'],
      _text(path, fields, 'answer_choices'),
      _metrics(path, metadata.get('metrics')),
  )


def _metrics(path: pathlib.Path, node: yaml.Node | None) -> tuple[str, ...]:
  if node is None or node.tag == 'tag:yaml.org,2002:null':
    return ()
  if not isinstance(node, yaml.SequenceNode):
    raise _error(path, node, 'metrics must be a list: [Accuracy]')
  return tuple(str(item.value) for item in node.value)
