"""Where an option takes a firmware file, a known firmware's name (``tdxctl firmware fetch``) stands for its file."""

from __future__ import annotations

from pathlib import Path


def firmware_path(word: str | Path) -> Path:
    """The file that ``word`` means; a known firmware that is not here yet is downloaded.

    Raises:
        NetworkFault, SystemFault: it cannot be had.
    """
    from tdxstack.cli import output
    from tdxstack.image.firmware import is_name, named_firmware

    return named_firmware(str(word), output.step).path if is_name(str(word)) else Path(word)


def would_be_downloaded(word: object) -> bool:
    """Whether ``word`` names a known firmware that is not here yet."""
    from tdxstack.image.firmware import cached_firmware, is_name

    return isinstance(word, str) and is_name(word) and cached_firmware(word) is None
