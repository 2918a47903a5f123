"""The kinds of people who use a hub, for locust: one module each, and what they share.

``link`` owns the socket, ``record`` judges what comes, ``person`` has what every kind does. A new kind (whoever sends
documents, once there are uploads) is a module here and an import in ``loadtest/locustfile.py``.
"""
