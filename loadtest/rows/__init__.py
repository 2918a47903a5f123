"""The rows of the target table, one module each with ``run(bench) -> [Result]``."""
