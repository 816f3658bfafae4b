"""``python -m tdxstack.cli`` is ``tdxctl``."""

from tdxstack.cli.main import entry

if __name__ == "__main__":
    entry()
