"""Certificates made on the fly: an authority that vouches for hosts, and hosts that vouch for themselves.

Needs `cryptography` (extra `server`); that and `ssl` are loaded with the first certificate. Keys are of this process; of
what is made here only an authority's certificate is written to a file that stays. How long certificates hold is told by the
real clock: it is real clients that look at them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl import SSLContext

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

BEFORE, AFTER = timedelta(days=1), timedelta(days=3650)
"""How long the certificates hold, before and after now: clocks of clients may differ."""
AUTHORITY = "mockserver CA"
"""The name of whoever vouches for hosts that are served."""


class Authority:
    """Vouches for hosts. `pem` is its certificate, to be trusted by clients."""

    def __init__(self) -> None:
        try:
            from cryptography.hazmat.primitives import serialization
        except ImportError:
            raise ImportError("TLS needs the cryptography library: install xenctl[server], or cryptography") from None
        self._key = _key()
        self._certificate = _certificate(AUTHORITY, self._key, None, (), authority=True)
        self.pem: bytes = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, names: Iterable[str]) -> bytes:
        """A key and a certificate, as PEM, for a host called `names` (addresses or names)."""
        key, found = _key(), list(names)
        return _pem(key, _certificate(found[0], key, (self._certificate, self._key), found))

    def write(self) -> str:
        """Write the authority's certificate to a new file; its path."""
        import tempfile

        handle, path = tempfile.mkstemp(prefix="mockserver-ca-", suffix=".pem")
        with os.fdopen(handle, "wb") as file:
            file.write(self.pem)
        return path


def self_signed(names: Iterable[str]) -> bytes:
    """A key and a certificate that nobody else vouches for, as PEM, for a host called `names`."""
    key, found = _key(), list(names)
    return _pem(key, _certificate(found[0], key, None, found))


def context(pem: bytes) -> SSLContext:
    """What a host answers TLS with that has this key, certificate and chain. Raises `ssl.SSLError` for others."""
    import ssl
    import tempfile

    out = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # the ssl module takes keys from files alone
        file.write(pem)
        file.flush()
        out.load_cert_chain(file.name)
    return out


def _pem(key: EllipticCurvePrivateKey, certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: tuple[Certificate, EllipticCurvePrivateKey] | None,
    names: Iterable[str],
    *,
    authority: bool = False,
) -> Certificate:
    """A certificate for `names`, signed by `issuer`; without one by itself."""
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
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + AFTER)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(authority=authority), critical=True)
    )
    alternatives = [_name(text) for text in names]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(*, authority: bool) -> Any:
    from cryptography import x509

    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    more = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **more)


def _name(text: str) -> Any:
    from ipaddress import ip_address

    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
