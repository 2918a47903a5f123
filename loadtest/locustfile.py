"""The people of `make load`. By hand: ``HUB_URL=ws://… HUB_JWT_SECRET=… locust -f loadtest/locustfile.py``."""

from loadtest.people.chatty_room import ChattyRoom
from loadtest.people.dashboard import Dashboard
from loadtest.people.flapping_phone import FlappingPhone
from loadtest.people.uploader import Uploader

__all__ = ["ChattyRoom", "Dashboard", "FlappingPhone", "Uploader"]
