"""Load tests: ``make bench`` measures the hub against its targets and against other programs in the same run."""
