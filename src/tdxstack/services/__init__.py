"""Network services. They need the optional dependencies ``tdxstack[services]``."""
