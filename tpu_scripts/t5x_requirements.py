"""Prints the requirements of the extra `t5x`: those at git URLs, or the others.

T5X asks for the newest commits of JAX's libraries instead of the pinned
versions. So what is at a URL has to be installed without its dependencies.
"""

import importlib.metadata
import sys

KINDS = ('urls', 'others')


def main() -> None:
  if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
    sys.exit(f'usage: {sys.argv[0]} {"|".join(KINDS)}')
  for line in importlib.metadata.requires('flipped_t5x') or ():
    requirement, _, marker = line.partition(';')
    kind = 'urls' if '@' in requirement else 'others'
    if 'extra == "t5x"' in marker and kind == sys.argv[1]:
      print(requirement.strip())


if __name__ == '__main__':
  main()
