"""Quotes of a TD, by every way that its guest has."""

from __future__ import annotations

import base64
import secrets

import pytest

from tdxstack.cloud.vmguest import VMGuest
from tdxstack.errors import TdxStackError
from tdxstack.tdtests.guest_shell import answer
from tdxstack.vm import lifecycle
from tdxstack.wire.quote import Quote
from tdxstack.wire.td_report_body import TdReportBody

pytestmark = pytest.mark.category("quote")
ENTRY = "/sys/kernel/config/tsm/report/stacktest"


def quote_over(guest: VMGuest, data: bytes, via: str = "auto") -> Quote:
    """A quote over 64 bytes, out of the guest."""
    made = lifecycle.call_guest(guest.name, "quote", {"report_data": data.hex(), "via": via})
    return Quote.from_bytes(base64.b64decode(made["quote"]))


@pytest.mark.parametrize("via", ["auto", "configfs"])
def test_quote_is_over_its_data(td: VMGuest, via: str) -> None:
    data = secrets.token_bytes(64)
    quote = quote_over(td, data, via)
    assert quote.body.report_data == data
    assert isinstance(quote.body, TdReportBody)
    assert quote.body.mr_td.hex() == lifecycle.call_guest(td.name, "rtmr.read")["mrtd"]


def test_configfs_tsm(td: VMGuest) -> None:
    """The kernel's own interface, with a shell."""
    script = (
        f"mkdir {ENTRY} && head -c64 /dev/zero >{ENTRY}/inblob && wc -c <{ENTRY}/outblob && "
        f"cat {ENTRY}/provider {ENTRY}/generation; rmdir {ENTRY}"
    )
    size, provider, generation = answer(td, script).split()
    assert int(size) > 1000
    assert provider == "tdx_guest"
    assert int(generation) == 1


def test_configfs_tsm_failure(td: VMGuest) -> None:
    """More than 64 bytes are refused, and an entry without data has no quote."""
    script = (
        f"mkdir {ENTRY}; cat {ENTRY}/outblob >/dev/null 2>&1 && echo read; "
        f"head -c65 /dev/zero 2>/dev/null >{ENTRY}/inblob && echo written; rmdir {ENTRY}; echo done"
    )
    assert answer(td, f"({script}) 2>/dev/null") == "done"


def test_quote_data_of_another_size(td: VMGuest) -> None:
    with pytest.raises(TdxStackError, match="64"):
        lifecycle.call_guest(td.name, "quote", {"report_data": "00" * 65})


@pytest.mark.requires("vhost-vsock", "tdx-hardware")
def test_quote_by_vsock(td: VMGuest) -> None:
    data = secrets.token_bytes(64)
    assert quote_over(td, data, "vsock").body.report_data == data
