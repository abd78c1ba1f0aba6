"""`python -m fathom`: the command line."""

from fathom.cli import main

main()
