"""The command ``tdxctl``: the only place that prints, exits or reads argv."""
