"""Errors that a user can mend."""


class UserError(ValueError):
  """A mistake in what the user has given: a flag, a file, a setting, a row.

  The message names it and says what to do. The commands print the message alone
  and exit with status 1; any other exception is a fault of this project, and
  its traceback is printed.
  """


class MissingPackage(UserError, ImportError):
  """A package that is not installed; the message says how to install it."""
