"""Rooms in which people talk: members, messages, history, receipts, typing. See docs/chat.md.

The door is ``service``.
"""
