"""Domain events of the business services: the topic kind ``events``, and the demo feed of ``hub dev``."""
