"""Who is present in which topic: agreed on in Redis, kept by a lease per node, told to whoever subscribes."""
