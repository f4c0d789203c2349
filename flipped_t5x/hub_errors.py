"""Why the Hugging Face hub does not give a file, in one sentence."""


def explained(
    error: BaseException, repo: str, revision: str | None, kind: str
) -> OSError | None:
  """A plain error for one that `huggingface_hub` raised.

  Args:
    error: the error.
    repo: the repository, `owner/name`.
    revision: the commit, tag or branch that was asked for, if any.
    kind: `model` or `dataset`.

  Returns:
    A PermissionError if the terms of the repository must be accepted first, a
    FileNotFoundError if the hub does not have it, a ConnectionError if the hub
    cannot be asked or is overloaded, and None for any other error.
  """
  # Here, because importing it takes a third of a second.
  from huggingface_hub import constants
  from huggingface_hub import errors

  hub = constants.ENDPOINT
  match error:
    case errors.GatedRepoError():  # Also a RepositoryNotFoundError.
      page = f'{hub}/{repo}' if kind == 'model' else f'{hub}/{kind}s/{repo}'
      return PermissionError(
          f'{repo} is gated: accept its terms at {page} and set HF_TOKEN'
      )
    case errors.RepositoryNotFoundError():
      return FileNotFoundError(
          f'{hub} has no public {kind} {repo}; for a private one, set HF_TOKEN'
      )
    case errors.RevisionNotFoundError():
      return FileNotFoundError(
          f'{repo} at {hub} has no revision {revision or "main"}'
      )
    case errors.OfflineModeIsEnabled():
      return ConnectionError(
          f'HF_HUB_OFFLINE forbids asking {hub}: unset it'
      )
    # An answer of the hub that is neither an error of its own nor 'too many
    # requests'. It would also be an HTTPError.
    case errors.HfHubHTTPError() if (
        error.response.status_code < 500 and error.response.status_code != 429
    ):
      return None
    # HTTPError is the class of whichever HTTP library huggingface_hub uses.
    case errors.LocalEntryNotFoundError() | errors.HTTPError():
      why = str(error.__cause__ or error).strip() or type(error).__name__
      return ConnectionError(
          f'{hub} cannot be reached ({why.splitlines()[0]}): try again later'
      )
  return None
