"""One file per area; each gives the checks of its area, put together in ``preflight.tree``."""
