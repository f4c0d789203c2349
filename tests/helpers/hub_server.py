"""A stand-in for the Hugging Face hub on loopback: repositories in memory.

It answers what `huggingface_hub` asks: the files of a dataset at a revision,
and each file of it. What it was asked stands in `requests`.
"""

import hashlib
from http import server
import json
import threading
import urllib.parse


class Hub:
  """A hub while the `with` statement lasts.

  Attributes:
    url: its address.
    requests: (method, path, without any quoting) of every request.
    gated: repositories whose files nobody gets.
    no_downloads: all files, but no lists, get status 503.
    cut: files are broken off half-way, with the true length ahead.
    short: files have half their length, which is given as their length.
    status: what everything gets, if not 0.
  """

  def __init__(self):
    self.requests = []
    self.gated = set()
    self.no_downloads = self.cut = self.short = False
    self.status = 0
    self._files = {}  # (repo, commit) -> path -> content
    self._refs = {}  # (repo, ref) -> commit
    self._server = server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
    self._server.hub = self
    self.url = f'http://127.0.0.1:{self._server.server_port}'

  def __enter__(self):
    threading.Thread(target=self._server.serve_forever, args=(0.02,)).start()
    return self

  def __exit__(self, *unused):
    self.close()

  def close(self):
    """Refuses connections from now on."""
    self._server.shutdown()
    self._server.server_close()

  def commit(self, repo, files, ref='main', commit=None):
    """Makes path -> bytes what a branch has; gives the commit, 40 digits."""
    if commit is None:
      number = f'{repo} {len(self._files)}'.encode()
      commit = hashlib.sha1(number).hexdigest()
    self._files[repo, commit] = dict(files)
    self._refs[repo, ref] = self._refs[repo, commit] = commit
    return commit

  def find(self, repo, revision):
    """(commit, path -> content), or the code of the error."""
    if not any(r == repo for r, _ in self._refs):
      return 'RepoNotFound'
    if (repo, revision) not in self._refs:
      return 'RevisionNotFound'
    commit = self._refs[repo, revision]
    return commit, self._files[repo, commit]


class _Handler(server.BaseHTTPRequestHandler):

  def do_HEAD(self):
    self._answer()

  def do_GET(self):
    self._answer()

  def _answer(self):
    hub = self.server.hub
    parts = [urllib.parse.unquote(p) for p in self.path[1:].split('/')]
    hub.requests.append((self.command, '/'.join(parts)))
    # api/datasets/O/N/revision/REF, datasets/O/N/resolve/REF/PATH
    listing = parts[:2] == ['api', 'datasets']
    if not listing and parts[0] != 'datasets':  # Telemetry.
      return self._send(404)
    owner, name, _, revision, *path = parts[2 if listing else 1 :]
    repo, path = f'{owner}/{name}', '/'.join(path)
    if hub.status or (hub.no_downloads and not listing):
      return self._send(hub.status or 503)
    found = hub.find(repo, revision)
    if isinstance(found, str):
      return self._send(404, {'X-Error-Code': found})
    commit, files = found
    if listing:
      # Not in the order of the parts.
      siblings = [{'rfilename': f} for f in sorted(files, reverse=True)]
      return self._send(200, {}, json.dumps(
          {'id': repo, 'sha': commit, 'siblings': siblings}
      ).encode())
    if repo in hub.gated:
      return self._send(403, {'X-Error-Code': 'GatedRepo'})
    if path not in files:
      return self._send(404, {'X-Error-Code': 'EntryNotFound'})
    content = files[path]
    headers = {
        'X-Repo-Commit': commit,
        'ETag': f'"{hashlib.sha1(content).hexdigest()}"',
    }
    if self.command == 'HEAD':
      return self._send(200, headers, content)
    status, resumed = 200, self.headers.get('Range')
    if resumed:  # bytes=FIRST-
      first, total = int(resumed[6:-1]), len(content)
      status = 206
      headers['Content-Range'] = f'bytes {first}-{total - 1}/{total}'
      content = content[first:]
    length = len(content)
    if hub.cut or hub.short:
      content = content[: length // 2]
    return self._send(status, headers, content, length if hub.cut else None)

  def _send(self, status, headers=None, content=b'', length=None):
    self.send_response(status)
    for name, value in (headers or {}).items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(length or len(content)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(content)

  def log_message(self, *unused):
    pass
