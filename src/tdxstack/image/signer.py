"""Signs EFI images by ``sbsign``, run as a program, and tells by ``sbverify`` what is signed already."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import ProcessFailed, UsageError, WireError
from tdxstack.image.signing_time import with_certificates_time
from tdxstack.system.process import run
from tdxstack.wire.pe import PeImage

SECONDS = 120.0
#: Bytes; the longest keys and chains in use have a tenth of it.
MAX_PEM_SIZE = 1 << 20
PEM_MARK = b"-----BEGIN"


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and its certificate, both PEM, as ``tdxctl firmware keys new`` makes them."""

    key: Path
    certificate: Path

    def check(self) -> Signer:
        """Return self if both files can be used.

        Raises:
            UsageError: one is missing, or no PEM file.
        """
        for path in (self.key, self.certificate):
            try:
                with path.open("rb") as stream:
                    content = stream.read(MAX_PEM_SIZE + 1)
            except OSError as error:
                hint = "make keys by: tdxctl firmware keys new DIR"
                raise UsageError(f"{path}: {error.strerror}", hint=hint) from None
            if len(content) > MAX_PEM_SIZE:
                raise UsageError(f"{path}: more than {MAX_PEM_SIZE} bytes, no key or certificate")
            if PEM_MARK not in content:
                hint = f"openssl x509 -inform DER -in {path} -out {path.with_suffix('.pem')}"
                raise UsageError(f"{path}: not a PEM file, which sbsign wants", hint=hint)
        return self

    def has_signed(self, image: bytes) -> bool:
        """Whether the image carries a good signature that this certificate verifies.

        sbverify takes the certificates inside signatures for good too, so that it is asked about those alone that
        hold this certificate.
        """
        if not _holds(image, self.certificate.read_bytes()):
            return False
        with tempfile.TemporaryDirectory(prefix="tdxstack-sign-") as folder:
            source = Path(folder) / "image"
            source.write_bytes(image)
            argv = ["sbverify", "--cert", str(self.certificate), str(source)]
            return run(argv, timeout=SECONDS, check=False).returncode == 0

    def sign(self, image: bytes) -> bytes:
        """The image with a signature of ours, the same each time; signatures of others stay.

        Raises:
            UsageError: sbsign does not take the image or the key.
        """
        with tempfile.TemporaryDirectory(prefix="tdxstack-sign-") as folder:
            source, target = Path(folder) / "image", Path(folder) / "signed"
            source.write_bytes(image)
            words = ["--key", str(self.key), "--cert", str(self.certificate), "--output", str(target)]
            try:
                run(["sbsign", *words, str(source)], timeout=SECONDS)
                signed = target.read_bytes()
            except ProcessFailed as failed:
                said = failed.output.strip().splitlines()
                raise UsageError(f"sbsign refused: {said[-1] if said else 'no reason given'}") from None
        return with_certificates_time(signed, self.key.read_bytes(), self.certificate.read_bytes())


def _holds(image: bytes, certificate: bytes) -> bool:
    """Whether a certificate (PEM) is among those in the image's signatures."""
    body = certificate.partition(b"-----BEGIN CERTIFICATE-----")[2].partition(b"-----END")[0]
    try:
        start, size = PeImage.from_bytes(image).certificate_table
        der = base64.b64decode(b"".join(body.split()))
    except (WireError, ValueError):
        return False
    return bool(der) and der in image[start : start + size]
