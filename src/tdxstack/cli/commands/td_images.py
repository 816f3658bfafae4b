"""Where a TD's settings name an image or a firmware, the files stand in for what was not given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack.cli.firmware_names import firmware_path
from tdxstack.errors import UsageError


def resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``image`` and ``firmware`` paths.

    A firmware's name (``tdxctl firmware fetch``) becomes its file, which is downloaded once. An image's name (no
    ``/`` in it, and no file of that name here) is looked up among the built images: of a recipe's, the newest
    that was made for this boot. A direct boot then takes the image's kernel, initrd and command line, unless they
    were given. Without ``boot`` it is direct, or the image's own where the recipe's images all have another.

    Raises:
        UsageError: there is no image of that name, or nothing on its disk boots.
        NetworkFault: the firmware cannot be downloaded.
    """
    if isinstance(values.get("firmware"), str):
        values = {**values, "firmware": str(firmware_path(values["firmware"]))}
    name = values.get("image")
    if not isinstance(name, str) or "/" in name or Path(name).exists():
        return dict(values)
    from tdxstack.image.store import find_image

    image = find_image(name, boot=str(values.get("boot", "direct")))
    filled = {**values, "image": str(image.disk)}
    filled.setdefault("boot", image.boot)
    if image.manifest.get("ima"):
        filled.setdefault("ima", "on")
    if filled["boot"] != "direct" and image.boot == "direct" and "kernel" not in values:
        raise UsageError(
            f"image {image.name} has nothing on its disk that boots: it was built for a direct boot",
            hint=f"leave --boot out, or tdxctl image build --boot {filled['boot']}",
        )
    if filled["boot"] == "direct" and "kernel" not in values:
        own = {"kernel": str(image.kernel), "initrd": str(image.initrd), "cmdline": image.default_cmdline}
        filled = {**own, **filled}
    return filled
