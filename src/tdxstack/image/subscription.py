"""The subscription that the repositories of RHEL ask for, as a registered host has it (subscription-manager(8))."""

from __future__ import annotations

from pathlib import Path

from tdxstack.errors import PlatformMissing

#: The authority of Red Hat's repositories, and the host's own key and certificate for them.
AUTHORITY = Path("etc/rhsm/ca")
ENTITLEMENT = Path("etc/pki/entitlement")


def subscription(distribution: str, mirror: str | None, root: Path = Path("/")) -> dict[Path, str]:
    """Directories that a build of ``distribution`` takes from the host, and where mkosi looks for them.

    A mirror of one's own asks for none.

    Raises:
        PlatformMissing: the host has no subscription.
    """
    if distribution != "rhel" or mirror is not None:
        return {}
    authority, entitlement = root / AUTHORITY, root / ENTITLEMENT
    if not (authority / "redhat-uep.pem").is_file() or not any(entitlement.glob("*-key.pem")):
        raise PlatformMissing(
            "RHEL's packages take a subscription, and this host is not registered",
            hint="subscription-manager register on a RHEL host, TDXSTACK_MIRROR_RHEL=URL for a mirror of yours, "
            "or build centos-9",
        )
    return {authority: f"/{AUTHORITY}", entitlement: f"/{ENTITLEMENT}"}
