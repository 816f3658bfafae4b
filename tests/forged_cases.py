"""Changes to forged evidence, by name: what Intel's Quote Verification Library says to each is recorded beside them.

A case changes one thing and has the rest signed as it should be. ``tests/vectors/dcap/qvl_1_27.json`` holds the four
statuses that the library, version 1.27, returned for each; ``qvl`` writes it anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives import hashes

from forge import COMPONENTS, MODULE_SIGNER, NOW, Forge, isv_level, sgx_extension

Change = Callable[[Forge], Any]
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_END = "-----END CERTIFICATE-----"


def having(part: str | None, **values: Any) -> Change:
    """Set attributes of a part, or of the forge itself."""

    def change(forge: Forge) -> None:
        for name, value in values.items():
            setattr(getattr(forge, part) if part else forge, name, value)

    return change


def patched(part: str, patch: Callable[[Any], Any]) -> Change:
    """Change a finished part."""
    return lambda forge: forge.patches.__setitem__(part, patch)


def placed(part: str, at: int, data: bytes) -> Change:
    """Put bytes into header, body or qe_report, before they are signed."""
    return lambda forge: getattr(forge, part).__setitem__(at, data)


def member(document: str, path: tuple[Any, ...], *value: Any) -> Change:
    """Set a member of a JSON document, or take it out if there is no value."""

    def change(forge: Forge) -> None:
        parent = getattr(forge, document)
        for name in path[:-1]:
            parent = parent[name]
        if value:
            parent[path[-1]] = value[0]
        else:
            del parent[path[-1]]

    return change


def certificates() -> Iterator[tuple[str, Change]]:
    """Certificates: extensions, names, keys, signers, dates, revocation."""
    for part in ("root", "ca", "pck", "signing"):
        for extension in ("aki", "cdp", "ski", "usage", "constraints"):
            yield f"{part} without {extension}", having(part, without={extension})
        for name in ("X", "Intel SGX Root CA", "Intel SGX PCK Processor CA", "Intel SGX TCB Signing", "intel sgx ca"):
            yield f"{part} named {name}", having(part, subject=name)
            yield f"{part} of {name}", having(part, issuer=name)
            yield f"{part} self-issued {name}", having(part, subject=name, issuer=name)
        for key in ("root", "ca", "pck", "signing", "other", "p384"):
            yield f"{part} signed by {key}", having(part, signer=key)
            yield f"{part} with key {key}", having(part, key=key)
        for delta in (-1, 0, 1):
            yield f"{part} ends {delta:+}", having(part, not_after=NOW + delta)
            yield f"{part} starts {delta:+}", having(part, not_before=NOW + delta)
        yield f"{part} of another country", having(part, country="DE")
        yield f"{part} signed with SHA-384", having(part, hash=hashes.SHA384())
        yield f"{part} signature flipped", having(part, patch=lambda der: der[:-3] + bytes([der[-3] ^ 1]) + der[-2:])
        yield f"{part} cut", having(part, patch=lambda der: der[:-1])
        yield f"{part} junk", having(part, patch=lambda der: b"junk")
    yield "pck without sgx", having("pck", without={"sgx"})
    yield "ca named as a PCK", having("pck", subject="Intel SGX PCK Platform CA")


def revocation() -> Iterator[tuple[str, Change]]:
    """CRLs: whom they revoke, by whom they are, when."""
    for crl, text in (("root_crl", "root_ca_crl"), ("pck_crl", "pck_crl")):
        for who in ("root", "ca", "pck", "signing"):
            yield f"{crl} revokes {who}", _revoking(crl, who)
        for delta in (-1, 0, 1):
            yield f"{crl} ends {delta:+}", having(crl, next_update=NOW + delta)
            yield f"{crl} starts {delta:+}", having(crl, this_update=NOW + delta)
        for extension in ("number", "aki"):
            yield f"{crl} without {extension}", having(crl, without={extension})
        for name in ("Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA", "X"):
            yield f"{crl} of {name}", having(crl, issuer=name)
        for key in ("root", "ca", "pck", "signing", "other", "p384"):
            yield f"{crl} signed by {key}", having(crl, signer=key)
        yield f"{crl} in PEM", having(crl, as_pem=True)
        yield f"{crl} of another country", having(crl, country="DE")
        for name, patch in _TEXTS.items():
            yield f"{crl} {name}", patched(text, patch)


def _revoking(crl: str, who: str) -> Change:
    return lambda forge: getattr(forge, crl).revoked.extend([7, getattr(forge, who).serial, 9])


_TEXTS: dict[str, Callable[[str], str]] = {
    "upper case": str.upper,
    "junk": lambda text: "junk",
    "odd": lambda text: text[:-1],
    "cut": lambda text: text[:-2],
    "not hexadecimal": lambda text: text[:100] + "zz" + text[102:],
}


def chains() -> Iterator[tuple[str, Change]]:
    """Chains: order, number and roles of certificates, and the form of PEM."""
    for names in (
        "root ca pck", "ca pck root", "pck ca", "pck root", "pck", "pck ca root signing", "pck ca root root",
        "pck ca ca", "pck pck ca", "pck signing root",
    ):  # fmt: skip
        yield f"chain {names}", having(None, chain=names.split())
    for names in ("root signing", "signing", "root", "signing root root", "signing ca root", "ca root", "root root"):
        yield f"signing chain {names}", having(None, signing_chain=names.split())
    for part, (name, patch) in itertools.product(("chain", "signing_chain", "identity_chain"), _PEMS.items()):
        yield f"{part} {name}", patched(part, patch)


_PEMS: dict[str, Callable[[str], str]] = {
    "with text between": lambda pem: pem.replace(_END, _END + "\njunk\n-junk-\n"),
    "with CR LF": lambda pem: pem.replace("\n", "\r\n"),
    "on one line": lambda pem: pem.replace("\n", ""),
    "after text": lambda pem: "text\n" + pem,
    "without the last end": lambda pem: pem.rstrip()[: -len(_END)],
    "with a star": lambda pem: pem[:60] + "*" + pem[61:],
    "with a NUL": lambda pem: pem[:60] + "\0" + pem[60:],
    "with NULs at the end": lambda pem: pem + "\0\0",
    "with a NUL after the first": lambda pem: pem.replace(_END + "\n", _END + "\n\0", 1),
    "with empty lines": lambda pem: pem.replace("\n", "\n\n"),
    "with another label": lambda pem: pem.replace("CERTIFICATE", "X509 CERTIFICATE"),
}


def platforms() -> Iterator[tuple[str, Change]]:
    """What the PCK certificate says of the platform."""
    for index, delta in itertools.product(range(16), (-1, 1)):
        svns = bytearray(COMPONENTS)
        if svns[index] + delta >= 0:
            svns[index] += delta
            yield f"component {index} {delta:+}", _sgx(components=bytes(svns))
    yield "CPUSVN is not compared", _sgx(cpusvn=bytes(16))
    for svn in (0, 1, 4, 5, 12, 13, 14, 255, 256, 65535):
        yield f"PCESVN {svn}", _sgx(pcesvn=svn)
    yield "another FMSPC", _sgx(fmspc=bytes(6))
    yield "another PCEID", _sgx(pceid=b"\0\1")
    for kind in range(3):
        yield f"SGX type {kind}", _sgx(sgx_type=kind)
    whole = sgx_extension().to_bytes()
    for name, der in {
        "cut": whole[:-1],
        "followed": whole + b"\0",
        "empty": b"",
        "an octet string": b"\x04" + whole[1:],
    }.items():
        yield f"SGX extension {name}", having("pck", sgx=der)
    for at in range(4, len(whole), 13):
        yield (
            f"SGX extension with byte {at} inverted",
            having("pck", sgx=whole[:at] + bytes([whole[at] ^ 0x7F]) + whole[at + 1 :]),
        )


def _sgx(**changes: Any) -> Change:
    return having("pck", sgx=sgx_extension(**changes).to_bytes())


def quotes() -> Iterator[tuple[str, Change]]:
    """The quote's own fields, sizes and signatures."""
    for at, byte in itertools.product(range(0, 30), (1, 3, 0x81)):
        yield f"header byte {at} is {byte}", placed("header", at, bytes([byte]))
    for at in (16, 64, 111, 112, 119, 120, 123, 127, 128, 200, 586, 599, 600, 647):
        yield f"body byte {at}", placed("body", at, b"\xa5")
    for at in (0, 16, 17, 48, 49, 55, 56, 64, 128, 159, 200, 256, 257, 258, 259, 320, 351, 352, 383):
        for byte in (0, 1, 2, 3, 255):
            yield f"QE report byte {at} is {byte}", placed("qe_report", at, bytes([byte]))
    for size in (0, 1, 31, 33, 64, 1000):
        yield f"QE authentication data of {size}", having(None, qe_auth=bytes(size))
    for kind in (1, 2, 3, 4, 5, 7):
        yield f"outer certification type {kind}", having(None, outer_type=kind)
    for kind in (0, 4, 6, 7, 8):
        yield f"inner certification type {kind}", having(None, certification=(kind, None))
    yield "trailing bytes", having(None, trailing=b"x" * 99)
    yield (
        "unused authentication data",
        having(None, trailing=b"x" * 9, patches={"auth_size": lambda size: size + 9}),
    )
    for delta in (-2000, -1, 1, 1 << 30):
        yield f"authentication data size {delta:+}", patched("auth_size", _plus(delta))
    for size in (0, 47, 53, 100, 701, 705, 1019, 1020, 1021, 1300, 3000):
        yield f"quote cut to {size}", patched("quote", _cut(size))
    for name, patch in (("followed", lambda data: data + b"\0"), ("cut", lambda data: data[:-1])):
        yield f"QE certification {name}", patched("qe_certification", patch)
    for part, (name, change) in itertools.product(("qe_signature", "quote_signature"), _SIGNATURES.items()):
        yield f"{part} {name}", patched(part, change)
    for name in ("zero", "all ones", "changed"):
        yield f"attestation key {name}", patched("attestation_key", _SIGNATURES[name])
    for kind in range(6):
        yield f"body type {kind}", patched("signed", _body_type(kind))
    yield "body size", patched("signed", lambda data: data[:50] + b"\x89" + data[51:])


_SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "zero": lambda data: bytes(64),
    "all ones": lambda data: b"\xff" * 64,
    "changed": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "with r zero": lambda data: bytes(32) + data[32:],
    "with s high or low": lambda data: data[:32] + (_ORDER - int.from_bytes(data[32:], "big")).to_bytes(32, "big"),
}


def _plus(delta: int) -> Callable[[int], int]:
    return lambda size: size + delta


def _cut(size: int) -> Callable[[bytes], bytes]:
    return lambda quote: quote[:size]


def _body_type(kind: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:48] + bytes([kind]) + data[49:]


def modules() -> Iterator[tuple[str, Change]]:
    """TDX module versions at launch and now, against the identities and the platform's levels."""
    for launch, now in itertools.product(((1, 1), (2, 1), (5, 1), (6, 1), (6, 0), (4, 3), (9, 5)), repeat=2):
        yield f"module {launch} then {now}", _modules(launch, now)
    for svn in (0, 1, 2, 3, 255):
        yield f"TEE_TCB_SVN[2] is {svn}", placed("body", 2, bytes([svn]))
        yield f"TEE_TCB_SVN2[2] is {svn}", placed("body", 586, bytes([svn]))
    yield "module signer", placed("body", 64, b"\x12")
    yield "SEAM attributes", placed("body", 112, b"\x01")


def _modules(launch: tuple[int, int], now: tuple[int, int]) -> Change:
    return lambda forge: forge.body.update({0: bytes(launch), 584: bytes(now)})


_WRONG: tuple[Any, ...] = (None, True, -1, 1.5, 1 << 32, "", "x", [], {}, [1])
_DATES = (
    "2025-11-12", "2025-11-12T00:00:00", "2025-13-12T00:00:00Z", "2025-11-12T24:00:00Z", "1969-01-01T00:00:00Z",
    "2025-11-12T00:00:00.0Z", "2025-11-12T00:00:00+00:00", "9999-12-31T23:59:59Z", "2025-02-30T00:00:00Z",
)  # fmt: skip


def documents() -> Iterator[tuple[str, Change]]:
    """Members that are absent or of another kind, and values that are or are not allowed."""
    for document, members in (("info", _INFO), ("identity", _IDENTITY)):
        for path in members:
            name = f"{document} {'.'.join(map(str, path))}"
            yield f"{name} absent", member(document, path)
            for value in _WRONG:
                yield f"{name} is {value!r}", member(document, path, value)
            if "Date" in str(path[-1]) or path[-1] == "nextUpdate":
                for value in _DATES:
                    yield f"{name} is {value}", member(document, path, value)
    for path, values in _VALUES.items():
        for value in values:
            yield f"{path[0]} {'.'.join(map(str, path[1:]))} becomes {value!r:.60}", member(path[0], path[1:], value)
    for part, name in (("tcb_info", "info"), ("qe_identity", "identity")):
        for kind, patch in _JSONS.items():
            where = f"{part}_signature" if kind.startswith("signature") else part
            yield f"{name} {kind}", patched(where, patch)


_INFO: tuple[tuple[Any, ...], ...] = (
    ("id",), ("version",), ("issueDate",), ("nextUpdate",), ("fmspc",), ("pceId",), ("tcbType",),
    ("tcbEvaluationDataNumber",), ("tdxModule",), ("tdxModule", "mrsigner"), ("tdxModule", "attributes"),
    ("tdxModuleIdentities",), ("tdxModuleIdentities", 1), ("tdxModuleIdentities", 1, "id"),
    ("tdxModuleIdentities", 1, "tcbLevels"), ("tdxModuleIdentities", 1, "tcbLevels", 0),
    ("tdxModuleIdentities", 1, "tcbLevels", 0, "tcb"), ("tdxModuleIdentities", 1, "tcbLevels", 0, "tcb", "isvsvn"),
    ("tdxModuleIdentities", 1, "tcbLevels", 0, "tcbDate"), ("tdxModuleIdentities", 1, "tcbLevels", 0, "tcbStatus"),
    ("tcbLevels",), ("tcbLevels", 0), ("tcbLevels", 0, "tcb"), ("tcbLevels", 0, "tcbDate"),
    ("tcbLevels", 0, "tcbStatus"), ("tcbLevels", 1, "advisoryIDs"), ("tcbLevels", 0, "tcb", "pcesvn"),
    ("tcbLevels", 0, "tcb", "sgxtcbcomponents"), ("tcbLevels", 0, "tcb", "sgxtcbcomponents", 15),
    ("tcbLevels", 0, "tcb", "tdxtcbcomponents", 2, "svn"),
)  # fmt: skip
_IDENTITY: tuple[tuple[Any, ...], ...] = (
    ("id",), ("version",), ("issueDate",), ("nextUpdate",), ("tcbEvaluationDataNumber",), ("miscselect",),
    ("miscselectMask",), ("attributes",), ("attributesMask",), ("mrsigner",), ("isvprodid",), ("tcbLevels",),
    ("tcbLevels", 0), ("tcbLevels", 0, "tcb"), ("tcbLevels", 0, "tcb", "isvsvn"), ("tcbLevels", 0, "tcbDate"),
    ("tcbLevels", 0, "tcbStatus"),
)  # fmt: skip
_STATUSES = (
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
    "OutOfDateConfigurationNeeded", "Revoked", "TDRelaunchAdvised", "uptodate",
)  # fmt: skip
_VALUES: dict[tuple[Any, ...], tuple[Any, ...]] = {
    ("info", "version"): (0, 1, 2, 4, "3"),
    ("info", "id"): ("SGX", "tdx", "TDX "),
    ("info", "fmspc"): ("90C06F000000", "00" * 6, "90c06f0000", "zz" * 6),
    ("info", "pceId"): ("0001", "000"),
    ("info", "tcbType"): (1, -1, 0.0),
    ("info", "nextUpdate"): ("2026-06-01T00:00:00Z",),
    ("info", "tdxModule", "attributes"): ("01" + "00" * 7,),
    ("info", "tdxModuleIdentities", 1, "attributes"): ("01" + "00" * 7,),
    ("info", "tdxModuleIdentities", 1, "mrsigner"): ("12" + MODULE_SIGNER[2:], MODULE_SIGNER.upper()),
    ("info", "tdxModuleIdentities", 1, "id"): ("TDX_1", "tdx_01", "TDX_02", "TDX_03", "TDX_"),
    ("info", "tdxModuleIdentities", 1, "tcbLevels", 0, "tcbStatus"): _STATUSES,
    ("info", "tdxModuleIdentities", 1, "tcbLevels", 0, "tcb", "isvsvn"): (0, 2, 7, 255, 256, 65535, 65536),
    ("info", "tdxModuleIdentities", 1, "tcbLevels"): ([isv_level(2, "OutOfDate"), isv_level(6)], [isv_level(7)]),
    ("info", "tcbLevels", 0, "tcbStatus"): _STATUSES,
    ("info", "tcbLevels", 0, "tcb", "sgxtcbcomponents", 0, "svn"): (2, 4, 255, 256, 259, 1 << 31),
    ("info", "tcbLevels", 0, "tcb", "tdxtcbcomponents", 0, "svn"): (0, 7, 255),
    ("info", "tcbLevels", 0, "tcb", "sgxtcbcomponents", 0, "category"): (1, "BIOS"),
    ("identity", "version"): (0, 1, 3, "2"),
    ("identity", "id"): ("QE", "QVE", "td_qe"),
    ("identity", "miscselect"): ("01000000", "0000000"),
    ("identity", "miscselectMask"): ("00000000",),
    ("identity", "attributes"): ("10" + "00" * 15, "13" + "00" * 15),
    ("identity", "mrsigner"): ("00" * 32,),
    ("identity", "isvprodid"): (1, 3),
    ("identity", "nextUpdate"): ("2026-06-01T00:00:00Z",),
    ("identity", "tcbLevels", 0, "tcbStatus"): _STATUSES,
    ("identity", "tcbLevels", 0, "tcb", "isvsvn"): (2, 5, 65536),
    ("identity", "tcbLevels"): ([isv_level(2, "OutOfDate"), isv_level(4)], [isv_level(5)], [isv_level(4)] * 2),
    ("identity", "tcbEvaluationDataNumber"): (18, 0),
}
_JSONS: dict[str, Callable[[str], str]] = {
    "junk": lambda text: "junk",
    "null": lambda text: "null",
    "an array": lambda text: "[]",
    "empty": lambda text: "{}",
    "cut": lambda text: text[:-1],
    "with NaN": lambda text: text[:-1] + ',"x":NaN}',
    "with 1e400": lambda text: text[:-1] + ',"x":1e400}',
    "with a comma too many": lambda text: text[:-1] + ",}",
    "nested 31 deep": lambda text: text[:-1] + ',"x":' + "[" * 31 + "]" * 31 + "}",
    "nested 32 deep": lambda text: text[:-1] + ',"x":' + "[" * 32 + "]" * 32 + "}",
    "with an unknown member": lambda text: text[:-1] + ',"x":{"y":[1,"z"]}}',
    "with another version first": lambda text: '{"version":9,' + text[1:],
    "with another version last": lambda text: text[:-1] + ',"version":9}',
    "with no levels last": lambda text: text[:-1] + ',"tcbLevels":[]}',
    "with another id last": lambda text: text[:-1] + ',"id":"x"}',
    "with a control character": lambda text: text[:-1] + ',"x":"\1"}',
    "signature cut": lambda text: text[:-2],
    "signature longer": lambda text: text + "00",
    "signature changed": lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
    "signature not hexadecimal": lambda text: "zz" + text[2:],
}

GROUPS = (certificates, revocation, chains, platforms, quotes, modules, documents)
BASES: dict[str, Callable[[], Forge]] = {
    "v5 TD 1.5": Forge,
    "v4": lambda: Forge(version=4, body_type=2),
    "v5 TD 1.0": lambda: Forge(body_type=2),
    "v5 TD 1.5 extended": lambda: Forge(body_type=4),
    "v3 SGX": lambda: Forge().sgx(),
    "v3 SGX, TCB info 2": lambda: Forge().sgx(3, 2),
    "v4 SGX": lambda: Forge().sgx(4),
    "v5 SGX": lambda: Forge().sgx(5),
}


def _some_quotes() -> Iterator[tuple[str, Change]]:
    return itertools.islice(quotes(), 0, None, 4)


#: All changes to the first base; the others as they are, and with some of the changes to the quote.
SETS = {group.__name__: ("v5 TD 1.5", group) for group in GROUPS} | {
    base: (base, _some_quotes) for base in list(BASES)[1:]
}


def cases(chosen: str | None = None) -> Iterator[tuple[str, Forge]]:
    """The cases of one set, or all."""
    for title, (base, group) in SETS.items():
        if chosen not in (None, title):
            continue
        yield f"{title}: {base}", BASES[base]()
        for name, change in group():
            forge = BASES[base]()
            change(forge)
            yield f"{title}: {name}", forge
