"""Intel's PCCS (a Node.js program, unpacked and ``npm install``-ed by whoever has it) in a process of its own.

It is run as it is configured by its makers, in OFFLINE mode with SQLite, from a directory of its own that holds its
database and TLS files; the unpacked program is not changed but for its log.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

#: Directory with ``pccs_server.js`` and ``node_modules``; without it nothing of Intel's is run.
DIRECTORY = "TDXSTACK_INTEL_PCCS"
#: The Node.js program to run it with; that of the PATH if it is not set.
NODE = "TDXSTACK_NODE"


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of the TLS certificate and its key."""

    certificate: Path
    key: Path


def program() -> Path | None:
    """Where it is, if anywhere."""
    named = os.environ.get(DIRECTORY)
    return Path(named) if named else None


def node() -> str:
    return os.environ.get(NODE) or "node"


def version(directory: Path) -> str:
    """Of the PCCS and of Node.js."""
    found = json.loads((directory / "package.json").read_text())["version"]
    shown = subprocess.run([node(), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"Intel PCCS {found}, Node.js {shown}"


@contextmanager
def serving(directory: Path, home: Path, tls: Files, tokens: dict[str, str], **settings: Any) -> Iterator[str]:
    """Start it in ``home``, a directory that is empty; its URL.

    Args:
        tokens: the texts of the tokens ``user`` and ``admin``.
        settings: what is to differ from the configuration that it comes with.
    """
    keys = home / "ssl_key"
    keys.mkdir(parents=True)
    shutil.copy(tls.certificate, keys / "file.crt")
    shutil.copy(tls.key, keys / "private.pem")
    (home / "migrations").symlink_to(directory / "migrations")
    changed = {
        "HTTPS_PORT": _free_port(),
        "hosts": "127.0.0.1",
        "CachingFillMode": "OFFLINE",
        "UserTokenHash": hashlib.sha512(tokens["user"].encode()).hexdigest(),
        "AdminTokenHash": hashlib.sha512(tokens["admin"].encode()).hexdigest(),
        **settings,
    }
    environment = {
        **os.environ,
        "NODE_ENV": "production",
        "NODE_CONFIG_DIR": str(directory / "config"),
        "NODE_CONFIG": json.dumps(changed),
    }
    log = home / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [node(), str(directory / "pccs_server.js")], cwd=home, env=environment, stdout=stream, stderr=stream
        )
    try:
        ends = time.monotonic() + 60
        while not _answers(changed["HTTPS_PORT"]):
            assert process.poll() is None and time.monotonic() < ends, log.read_text()
            time.sleep(0.1)
        yield f"https://127.0.0.1:{changed['HTTPS_PORT']}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def collateral(held: dict[str, str], pck_chain: str, platform: dict[str, str], *, for_intels: bool = True) -> bytes:
    """What its administrator PUTs for a software platform.

    PCK certificates are chosen by SGX TCB infos alone there. A software platform has none, so its TDX TCB info, with
    the same SGX components, stands for it; nothing checks it there.

    Args:
        held: collateral of the platform.
        pck_chain: PEM of its PCK certificate and that one's issuers.
        platform: qe_id, pce_id, cpu_svn, pce_svn, enc_ppid and fmspc.
        for_intels: with what is no SGX collateral in the place of it.
    """
    leaf, rest = pck_chain.split("-----END CERTIFICATE-----\n", 1)
    certificate = quote(f"{leaf}-----END CERTIFICATE-----\n")
    tcb_info = {"tcbInfo": json.loads(held["tcb_info"]), "signature": held["tcb_info_signature"]}
    sgx_tcb_info = {**tcb_info, "tcbInfo": {**tcb_info["tcbInfo"], "id": "SGX"}}
    identity = f'{{"enclaveIdentity":{held["qe_identity"]},"signature":"{held["qe_identity_signature"]}"}}'
    tcb_infos: dict[str, Any] = {"fmspc": platform["fmspc"], "tdx_tcbinfo": tcb_info}
    if for_intels:
        tcb_infos["sgx_tcbinfo"] = sgx_tcb_info
    tcbm = platform["cpu_svn"] + platform["pce_svn"]
    names = ("qe_id", "pce_id", "enc_ppid")
    body = {
        "platforms": [{key: value for key, value in platform.items() if key != "fmspc"}],
        "collaterals": {
            "version": 4,
            "pck_certs": [
                {
                    **{name: platform[name] for name in names},
                    "certs": [{"tcb": {}, "tcbm": tcbm, "cert": certificate}],
                }
            ],
            "tcbinfos": [tcb_infos],
            "pckcacrl": {"processorCrl": "", "platformCrl": held["pck_crl"]},
            "tdqeidentity": identity,
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": {"PROCESSOR": "", "PLATFORM": quote(rest)},
                "TCB-Info-Issuer-Chain": quote(held["tcb_info_issuer_chain"]),
                "SGX-Enclave-Identity-Issuer-Chain": quote(held["qe_identity_issuer_chain"]),
            },
            "rootcacrl": held["root_ca_crl"],
        },
    }
    return json.dumps(body, separators=(",", ":")).encode()
