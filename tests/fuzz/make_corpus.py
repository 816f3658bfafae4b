"""Make the corpus anew, from a software platform: ``PYTHONPATH=tests python -m fuzz.make_corpus``.

``eventlog/ccel`` is not made: it is the log of a boot on the software platform, without the end of its area.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time

from fuzz.targets import CORPUS
from tdxstack.dcap import Collateral
from tdxstack.dcap.certificate import split_pem
from tdxstack.dcap.policy import Policy, pinned
from tdxstack.measure.logs import DSTACK_RUNTIME_EVENT
from tdxstack.platform.software.platform import SoftwarePlatform
from tdxstack.wire.tdreport import TdReport
from unit.platform.software.conftest import run_td


def main() -> None:
    """Write every seed. The platform is made in a directory of its own, and goes with it."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["TDXSTACK_HOME"] = home
        _write()


def _write() -> None:
    platform = SoftwarePlatform.create("fuzz")
    td = run_td(platform.module())
    report = td.mr_report(b"n" * 64).to_bytes()
    enclave = platform.quoting_enclave()
    whole = Collateral.from_json(json.dumps(platform.collateral()))
    quote = enclave.quote(report, 5)
    chain = quote[quote.index(b"-----BEGIN") :].rstrip(b"\0")
    seeds = {
        "now": str(int(time.time())).encode(),
        "quote/v4": enclave.quote(report, 4),
        "quote/v5": quote,
        "collateral/whole": whole.to_json().encode(),
        "certificate/root": platform.trust_root(),
        "certificate/pck": split_pem(chain)[0],
        "chain/pck": chain,
        "chain/signing": whole.tcb_info_issuer_chain.encode(),
        "crl/root": bytes.fromhex(whole.root_ca_crl),
        "crl/pck": whole.pck_crl.encode(),
        "documents/tcb_info": whole.tcb_info.encode(),
        "documents/qe_identity": whole.qe_identity.encode(),
        "documents/response": f'{{"tcbInfo":{whole.tcb_info},"signature":"{whole.tcb_info_signature}"}}'.encode(),
        "shown/quote": enclave.quote(report, 4),
        "shown/report": report,
        "eventlog/dstack": json.dumps(_dstack()).encode(),
        "tdreport/report": TdReport.from_bytes(report).to_bytes(),
        "policy/pinned": pinned("corpus", "00" * 48, ["11" * 48]).to_toml().encode(),
        "policy/strict": json.dumps(Policy().to_members()).encode(),
    }
    for name, data in seeds.items():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _dstack() -> list[dict[str, object]]:
    digest = hashlib.sha384(DSTACK_RUNTIME_EVENT.to_bytes(4, "little") + b":app-id:" + b"\1\2").hexdigest()
    event = {"imr": 3, "event_type": DSTACK_RUNTIME_EVENT, "digest": digest, "event": "app-id"}
    return [event | {"event_payload": "0102"}, event | {"imr": 0, "event_type": 1, "event": "", "event_payload": ""}]


if __name__ == "__main__":
    main()
