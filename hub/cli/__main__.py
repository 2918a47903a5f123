"""``python -m hub.cli``: how ``hub serve`` starts its workers, whatever the PATH holds."""

from hub.cli import main

main()
