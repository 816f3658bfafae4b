"""From what the user wants (``TdSpec``) to a running, supervised machine."""
