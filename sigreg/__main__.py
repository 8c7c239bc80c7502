"""`python -m sigreg COMMAND`: the command lines of sigreg."""

from __future__ import annotations

import sys

from sigreg.inspect import cli

USAGE = """usage: python -m sigreg inspect FILE        what is wrong with embeddings, in words
       python -m sigreg.conformance COPY    check an implementation of SIGReg
       python -m sigreg.selection FILE      rank runs by their training loss
Each of them explains its options with --help."""


def main(arguments: list[str]) -> int:
    """The exit status of the command; 2 for an unknown one."""
    if arguments[:1] == ["inspect"]:
        return cli.main(arguments[1:])
    asked = arguments[:1] in (["-h"], ["--help"])
    print(USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
