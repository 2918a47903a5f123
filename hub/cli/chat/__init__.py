"""``hub chat``: ``conversation`` holds it together, ``screen`` shows it, ``keyboard`` takes what is typed,
``commands`` does what begins with a slash. The command itself is in ``hub.cli.client_commands``.
"""
