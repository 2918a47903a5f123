"""Domain events of the business services: the kind ``events``, and a feed for ``hub dev`` that looks like a business."""
