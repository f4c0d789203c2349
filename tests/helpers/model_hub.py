"""`hub_server.Hub` for models: their addresses have no `datasets` in them."""

import hub_server


class ModelHub(hub_server.Hub):
  """A hub of models; `requests` has their paths as if of datasets."""

  def __init__(self):
    super().__init__()
    self._server.RequestHandlerClass = _Handler


class _Handler(hub_server._Handler):

  def _answer(self):
    path = self.path.partition('?')[0]
    if path.startswith('/api/models/'):
      path = path.replace('/api/models/', '/api/datasets/', 1)
      if '/revision/' not in path:
        path += '/revision/main'
    elif '/resolve/' in path:
      path = f'/datasets{path}'
    self.path = path
    super()._answer()
