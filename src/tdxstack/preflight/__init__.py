"""Is this host fit to run TDs, and what is wrong when it is not: a tree of checks, and diagnosis of logs."""
