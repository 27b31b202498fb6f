"""Certificates and keys that clients send or files hold: read, and judged as xapi does.

Needs `cryptography` (extra `server`), and says so by `NOT_IMPLEMENTED` where it is not there. Whether a certificate holds
is told by the real clock, as for those that hosts show: simulated time begins in 2008.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from xenctl.values import format_datetime

from .call import refuse

if TYPE_CHECKING:
    from types import ModuleType

    from cryptography.x509 import Certificate

BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
CERTIFICATE = "CERTIFICATE"
KEYS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
SHORTEST, LONGEST = 2048, 4096
"""Bits that an RSA key has at least and at most."""
DIGESTS = ("sha-256", "sha-1")
"""The kinds of fingerprints."""
HASHES = ("sha256", "sha512")
"""What a certificate of a host may be signed with."""
RSA_OID, MORE_PRIMES = bytes.fromhex("06092a864886f70d010101"), bytes.fromhex("020101")
"""What is in the DER of a key for RSA, and of one of more than two primes."""


class Errors(NamedTuple):
    """The codes for a certificate that is none, that does not hold yet, and that does not any more."""

    invalid: str
    not_yet: str
    expired: str


OF_AUTHORITIES = Errors("CA_CERTIFICATE_INVALID", "CA_CERTIFICATE_NOT_VALID_YET", "CA_CERTIFICATE_EXPIRED")
OF_HOSTS = Errors("SERVER_CERTIFICATE_INVALID", "SERVER_CERTIFICATE_NOT_VALID_YET", "SERVER_CERTIFICATE_EXPIRED")


def x509() -> ModuleType:
    """The library that reads certificates. Raises `NOT_IMPLEMENTED` where it is not installed."""
    try:
        from cryptography import x509 as library
    except ImportError:
        text = "certificates need the cryptography library: install xenctl[server], or cryptography"
        raise refuse("NOT_IMPLEMENTED", text) from None
    return library


def now() -> datetime:
    """The real time."""
    return datetime.now(timezone.utc)


def blocks(text: str, *kinds: str) -> list[str]:
    """The PEM blocks of these kinds in `text`, in their order."""
    return [found[0] for found in BLOCK.finditer(text) if found[1] in kinds]


# --- what is in a certificate


def parse(text: str) -> Certificate:
    """The one certificate in `text`, which is PEM. Raises `ValueError` for none or several."""
    library = x509()
    found = blocks(text, CERTIFICATE)
    if len(found) != 1:
        raise ValueError(f"one certificate is needed, not {len(found)}")
    certificate: Certificate = library.load_pem_x509_certificate(found[0].encode())
    return certificate


def fingerprint(certificate: Certificate, kind: str = "sha-256") -> str:
    """The digest of a certificate, `sha-256` or `sha-1`: hex with colons."""
    from cryptography.hazmat.primitives import hashes

    digests = {"sha-256": hashes.SHA256, "sha-1": hashes.SHA1}  # xapi tells both
    return certificate.fingerprint(digests[kind]()).hex(":").upper()


def validity(certificate: Certificate) -> tuple[datetime, datetime]:
    """From when to when a certificate holds."""
    try:
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except AttributeError:  # the library has these since version 42
        utc = timezone.utc
        return certificate.not_valid_before.replace(tzinfo=utc), certificate.not_valid_after.replace(tzinfo=utc)


def row_of(certificate: Certificate) -> dict[str, Any]:
    """The fields of a `Certificate` that follow from what it is."""
    not_before, not_after = validity(certificate)
    digest = fingerprint(certificate)
    return {
        "not_before": format_datetime(not_before),
        "not_after": format_datetime(not_after),
        "fingerprint": digest,
        "fingerprint_sha256": digest,
        "fingerprint_sha1": fingerprint(certificate, "sha-1"),
    }


# --- what xapi takes


def valid(text: str, errors: Errors) -> Certificate:
    """The certificate in `text`, if it holds now; raises the error of `errors` that says why not."""
    try:
        certificate = parse(text)
    except ValueError:
        raise refuse(errors.invalid) from None
    moment, (not_before, not_after) = now(), validity(certificate)
    if moment < not_before:
        raise refuse(errors.not_yet, _rfc3339(moment), _rfc3339(not_before))
    if moment > not_after:
        raise refuse(errors.expired, _rfc3339(moment), _rfc3339(not_after))
    return certificate


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def server_pem(certificate: str, private_key: str, chain: str) -> bytes:
    """The file that a host serves TLS with, if it may: key, certificate, and whoever vouches for it.

    The checks are xapi's, in its order: the key, whether the certificate is one and holds, whether both belong together, how
    it is signed, the chain. Raises `SERVER_CERTIFICATE_...`.
    """
    x509()  # before anything is said of what was sent
    key = _rsa_key(private_key)
    leaf = valid(certificate, OF_HOSTS)
    if not _belongs(leaf, key):
        raise refuse("SERVER_CERTIFICATE_KEY_MISMATCH")
    if not _well_signed(leaf):
        raise refuse("SERVER_CERTIFICATE_SIGNATURE_NOT_SUPPORTED")
    return b"".join([_private(key), *map(_public, [leaf, *(_chain(chain) if chain else ())])])


def _rsa_key(text: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found = blocks(text, *KEYS)
    if len(found) != 1:
        raise refuse("SERVER_CERTIFICATE_KEY_INVALID")
    try:
        key = load_pem_private_key(found[0].encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        more = "RSA_MULTI_NOT_SUPPORTED" if _has_more_primes(found[0]) else "INVALID"
        raise refuse(f"SERVER_CERTIFICATE_KEY_{more}") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise refuse("SERVER_CERTIFICATE_KEY_ALGORITHM_NOT_SUPPORTED", _kind(key))
    if not SHORTEST <= key.key_size <= LONGEST:
        raise refuse("SERVER_CERTIFICATE_KEY_RSA_LENGTH_NOT_SUPPORTED", key.key_size)
    return key


def _has_more_primes(pem: str) -> bool:
    """Whether a key is of RSA and its version says that it has more than two primes; the library reads no such key."""
    try:
        der = base64.b64decode("".join(pem.splitlines()[1:-1]), validate=True)
    except binascii.Error:
        return False
    wrapped = RSA_OID in der[:22]
    inner = der[26:] if wrapped else der
    return inner[4:7] == MORE_PRIMES and (wrapped or pem.startswith("-----BEGIN RSA"))


def _kind(key: Any) -> str:
    """The algorithm of a key that is not of RSA, as xapi's library calls it."""
    names = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}
    curve = getattr(getattr(key, "curve", None), "name", "")
    return names.get(curve) or type(key).__name__.removeprefix("_").removesuffix("PrivateKey").lower()


def _belongs(certificate: Certificate, key: Any) -> bool:
    from cryptography.hazmat.primitives.asymmetric import rsa

    public = certificate.public_key()
    return isinstance(public, rsa.RSAPublicKey) and public.public_numbers() == key.public_key().public_numbers()


def _well_signed(certificate: Certificate) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        found = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return False
    return found is None or found.name in HASHES  # Ed25519 has its own, which is one of these


def _chain(text: str) -> list[Certificate]:
    found = blocks(text, CERTIFICATE)
    try:
        out = [parse(block) for block in found]
    except ValueError:
        out = []
    if not out:
        raise refuse("SERVER_CERTIFICATE_CHAIN_INVALID")
    return out


def _private(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    plain = form.NoEncryption()
    out: bytes = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, plain)
    return out


def _public(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)
