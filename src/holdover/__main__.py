"""``python -m holdover``."""

from holdover.cli.main import main

main()
