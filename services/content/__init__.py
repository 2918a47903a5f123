"""Sanitise, cut, pace and stream content; language models as one source of it."""
