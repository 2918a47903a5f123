"""The flags of a node while it runs: the file that is watched, what is changed in PostgreSQL, and who hears of it."""
