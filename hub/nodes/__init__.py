"""What the nodes of a hub agree on through Redis, beside topics: limits, duties, attention, a cache."""
