"""Uploads: files that come over the socket or by tus, are stored, checked and served; see docs/uploads.md.

``writers`` take bytes into the ``store``, ``records`` is what PostgreSQL knows, ``checker`` decides what becomes
available. ``intakes`` is the way over the socket, ``tus`` the one over HTTP.
"""
