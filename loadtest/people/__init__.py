"""The kinds of people who use a hub, for locust: one module each, and what they share.

``link`` owns the socket, ``record`` judges what comes, ``sending`` how a file gets there, ``person`` has what every
kind does. A new kind is a module here and an import in ``loadtest/locustfile.py``.
"""
