"""Where a TD's settings name an image or a firmware, the files stand in for what was not given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack.cli.firmware_names import firmware_path, would_be_downloaded
from tdxstack.errors import UsageError
from tdxstack.vm.spec_file import is_bare_name

#: Settings that may hold a name in place of a file.
NAMED = ("image", "firmware")


def take_pending(values: dict[str, Any]) -> dict[str, Any]:
    """Take a firmware that ``resolve`` would download out of ``values``, for a dry run; what was taken."""
    return {"firmware": values.pop("firmware")} if would_be_downloaded(values.get("firmware")) else {}


def resolve(values: Mapping[str, Any], boot: str | None = None) -> dict[str, Any]:
    """``values`` with ``image`` and ``firmware`` paths; ``boot`` is what a TD has that they are to change.

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
    if not is_bare_name(name, Path.cwd()):
        return dict(values)
    from tdxstack.image.store import find_image

    image = find_image(str(name), boot=str(values.get("boot") or boot or "direct"))
    filled = {**values, "image": str(image.disk)}
    filled.setdefault("boot", boot or image.boot)
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
