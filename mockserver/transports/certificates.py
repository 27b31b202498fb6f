"""Certificates made on the fly: an authority, and a certificate for each host that it vouches for.

Needs `cryptography` (extra `server`). Keys are of this process; nothing but the authority's certificate is written to disk.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

VALID = timedelta(days=1)
"""How long the certificates hold, before and after now: clocks of clients may differ."""


class Authority:
    """Vouches for hosts. `pem` is its certificate, to be trusted by clients."""

    def __init__(self) -> None:
        try:
            from cryptography.hazmat.primitives import serialization
        except ImportError:
            raise ImportError("TLS needs the cryptography library: install xenctl[server], or cryptography") from None
        self._key = _key()
        self._certificate = _certificate("mockserver CA", self._key, None, ())
        self.pem: bytes = self._certificate.public_bytes(serialization.Encoding.PEM)

    def context(self, names: Iterable[str]) -> tuple[ssl.SSLContext, Mapping[str, str]]:
        """What a host called `names` (addresses or names) answers TLS with, and its certificate's fingerprints: hex
        with colons, by `sha-256` and `sha-1`."""
        from cryptography.hazmat.primitives import hashes, serialization

        key = _key()
        found = list(names)
        certificate = _certificate(found[0], key, (self._certificate, self._key), found)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the ssl module takes keys from files alone
            file.write(private + certificate.public_bytes(serialization.Encoding.PEM))
            file.flush()
            context.load_cert_chain(file.name)
        digests = {"sha-256": hashes.SHA256(), "sha-1": hashes.SHA1()}  # noqa: S303 - xapi tells both
        return context, {name: certificate.fingerprint(kind).hex(":").upper() for name, kind in digests.items()}

    def write(self) -> str:
        """Write the authority's certificate to a new file; its path."""
        handle, path = tempfile.mkstemp(prefix="mockserver-ca-", suffix=".pem")
        with os.fdopen(handle, "wb") as file:
            file.write(self.pem)
        return path


def _key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: tuple[Certificate, EllipticCurvePrivateKey] | None,
    names: Iterable[str],
) -> Certificate:
    """A certificate for `names`, signed by `issuer`; without one an authority's, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    signer = issuer[1] if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(authority=issuer is None), critical=True)
    )
    if issuer:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(text) for text in names]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(*, authority: bool) -> Any:
    from cryptography import x509

    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    more = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **more)


def _name(text: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
