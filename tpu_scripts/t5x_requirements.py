"""Prints the extra `t5x` of setup.py: what is at git URLs, or all else.

T5X asks for the newest commits of JAX's libraries, which the pinned versions
are not: what is at URLs is installed without dependencies.
"""

import importlib.metadata
import sys

KINDS = ('urls', 'others')


def main() -> None:
  if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
    sys.exit(f'usage: {sys.argv[0]} {"|".join(KINDS)}')
  for line in importlib.metadata.requires('flipped_t5x') or ():
    requirement, _, marker = line.partition(';')
    kind = KINDS['@' not in requirement]
    if 'extra == "t5x"' in marker and kind == sys.argv[1]:
      print(requirement.strip())


if __name__ == '__main__':
  main()
