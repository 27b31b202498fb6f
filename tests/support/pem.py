"""Keys and certificates for tests, made when they are asked for: `certificate(...)` is one line for each kind of flaw."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

PLAIN = serialization.NoEncryption()
FORMATS = {"pkcs8": serialization.PrivateFormat.PKCS8, "pkcs1": serialization.PrivateFormat.TraditionalOpenSSL}


@cache
def key(kind: str = "rsa", size: int = 2048) -> Any:
    """A private key: one for each kind and size."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, size)
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else ed25519.Ed25519PrivateKey.generate()


@cache
def other_key() -> Any:
    """Another one of the usual kind."""
    return rsa.generate_private_key(65537, 2048)


def private(found: Any, form: str = "pkcs8") -> str:
    """A key as PEM."""
    return str(found.private_bytes(serialization.Encoding.PEM, FORMATS[form], PLAIN).decode())


def public(found: x509.Certificate) -> str:
    """A certificate as PEM."""
    return found.public_bytes(serialization.Encoding.PEM).decode()


def certificate(
    name: str = "host1",
    *,
    signed: Any = None,
    digest: Any = None,
    days: tuple[float, float] = (-1.0, 90.0),
) -> x509.Certificate:
    """A certificate of the usual key, or of `signed`, by itself: from and until so many days from now."""
    found = signed or key()
    now = datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(found.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    return builder.sign(found, digest or hashes.SHA256())


def fingerprint(found: x509.Certificate, digest: Any = None) -> str:
    """How xapi spells it."""
    return found.fingerprint(digest or hashes.SHA256()).hex(":").upper()
