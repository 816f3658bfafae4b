"""The stack's packages from their sources: recipes as data, a clean root, ``host_repo`` and ``guest_repo``."""
