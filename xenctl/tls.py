"""TLS with hosts: whose certificate is taken, which versions are spoken, and what a failed handshake means.

A host is known by its certificate in one of two ways: somebody vouches for it and for its name (`verify`), or its
fingerprint was given. The fingerprint then stands in for both, since hosts sign their own certificates and a pool's
master is reached by an address that may be in none. One context serves all connections that are checked in the same way;
urllib3 compares fingerprints, after the handshake and before anything is sent.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from urllib3.util.ssl_ import create_urllib3_context

_FINGERPRINT = re.compile(r"(?:sha-?256:)?([0-9a-f]{64}|[0-9a-f]{2}(?::[0-9a-f]{2}){31})", re.IGNORECASE)
_MISMATCH = re.compile(r"Fingerprints did not match\. Expected \"([0-9a-f]{64})\", got \"(?:b')?([0-9a-f]{64})")
_OP_LEGACY_SERVER_CONNECT = 0x4
"""`ssl.OP_LEGACY_SERVER_CONNECT`, which Python names from 3.12 on."""
_SHOW = "openssl x509 -noout -fingerprint -sha256 -in /etc/xensource/xapi-ssl.pem"
"""What prints a host's fingerprint on the host itself."""


def fingerprint_of(text: str) -> str:
    """A certificate's SHA-256 as 64 lower-case hexadecimal digits. Raises `ValueError` for anything else.

    `text` has the digits with or without colons, and may begin with `sha256:` or `sha-256:`.
    """
    match = _FINGERPRINT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"not a certificate's fingerprint: {text!r}; write the SHA-256 of the certificate as 64 hexadecimal digits, "
            "with or without colons"
        )
    return match[1].replace(":", "").lower()


class Trust:
    """What hosts must show before anything is sent to them, and how old a TLS is spoken.

    The arguments are those of `HttpTransport`; `source` is what named the CA file, for errors. Raises `ValueError` for a
    CA file that cannot be used and for arguments that contradict each other.
    """

    def __init__(self, *, verify: bool | str, fingerprint: str, legacy: bool, source: str = "verify") -> None:
        if not isinstance(verify, (bool, str)):
            raise TypeError(f"verify is True, False or the path of a CA file, not a {type(verify).__name__}")
        if fingerprint and isinstance(verify, str):
            raise ValueError(
                "verify with a CA file and fingerprint were both given: the fingerprint stands in for the CA"
            )
        self.legacy = legacy
        self._verify, self._source = verify, source
        self._fingerprint = fingerprint_of(fingerprint) if fingerprint else ""
        self._contexts: dict[bool, ssl.SSLContext] = {}
        if isinstance(verify, str):
            self.by_authority()

    def settings(self, pin: str = "") -> Mapping[str, Any]:
        """What urllib3 has to know to connect to a host, whose own fingerprint may be `pin`."""
        fingerprint = pin or self._fingerprint
        if fingerprint:
            return {"ssl_context": self._context(checked=False), "assert_fingerprint": fingerprint}
        return {"ssl_context": self.by_authority()}

    def by_authority(self) -> ssl.SSLContext:
        """The context for those who have no fingerprint: hosts, and proxies that are spoken to over TLS."""
        return self._context(checked=self._verify is not False)

    def _context(self, *, checked: bool) -> ssl.SSLContext:
        context = self._contexts.get(checked)
        if context is None:
            context = self._contexts[checked] = self._made(checked=checked)
        return context

    def _made(self, *, checked: bool) -> ssl.SSLContext:
        context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if checked else ssl.CERT_NONE)
        # Python 3.13 began to refuse certificates for faults of form, which those that hosts make for themselves may have,
        # and to take a host's own certificate for a CA file. The latter is right on every Python.
        context.verify_flags = context.verify_flags & ~ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        if self.legacy:
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED  # TLS 1.0; SSL 3 is switched off by an option
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            context.options |= _OP_LEGACY_SERVER_CONNECT
        if checked:
            self._load_authorities(context)
        return context

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        from requests.utils import DEFAULT_CA_BUNDLE_PATH

        path = self._verify if isinstance(self._verify, str) else DEFAULT_CA_BUNDLE_PATH
        folder = os.path.isdir(path)
        try:
            context.load_verify_locations(cafile=None if folder else path, capath=path if folder else None)
        except ssl.SSLError as error:
            raise ValueError(
                f"{self._source}: {path!r} holds no certificates in PEM form ({_words(error)}); give the path of the CA's "
                "certificate, which begins with -----BEGIN CERTIFICATE-----"
            ) from None
        except OSError as error:
            raise ValueError(f"{self._source}: the CA file {path!r} cannot be read: {error.strerror}") from None


_OLD = (
    "its TLS is too old, or its keys too weak, for today's OpenSSL ({reason}), as with every host before 7.0: pass "
    "legacy_tls=True, with fingerprint= or verify=False since such a host signs its own certificate; or write its URL as "
    "http://, which sends all in the clear"
)
_OLDER = (
    "its TLS is too old, or its keys too weak, for this OpenSSL even with legacy_tls=True ({reason}): another build of "
    "OpenSSL may do, or write the host's URL as http://, which sends all in the clear"
)
_PLAIN = (
    "what listens there speaks no TLS ({reason}): is it the right port? A host without TLS is reached with a http:// URL, "
    "which sends all in the clear; pass legacy_tls=True where it is a host before 7.0 that does speak TLS"
)
_UNTRUSTED = (
    "its certificate is not trusted ({reason}): pass verify= with the path of the pool's CA file, or fingerprint= with what "
    f"`{_SHOW}` prints on the host, or verify=False to go without a check"
)
_MISNAMED = (
    "its certificate is trusted, but made out to another name ({reason}): use the name that is in the certificate, or pass "
    f"fingerprint= with what `{_SHOW}` prints on the host, or verify=False to go without a check"
)
_OTHER = (
    "no TLS was agreed on ({reason}): pass legacy_tls=True where the host is older than 7.0, or write its URL as http://, "
    "which sends all in the clear"
)
_ANOTHER = (
    "its certificate has another fingerprint: expected sha256:{expected}, found sha256:{found}. Every host of a pool has "
    "its own; where this is the right host, somebody may be answering in its place. Nothing was sent. Compare with what "
    f"`{_SHOW}` prints on the host, and pass the new one only where it is the same"
)

_BY_REASON: Mapping[str, str] = {
    **dict.fromkeys(
        "UNSUPPORTED_PROTOCOL TLSV1_ALERT_PROTOCOL_VERSION TLSV1_ALERT_INSUFFICIENT_SECURITY SSLV3_ALERT_HANDSHAKE_FAILURE "
        "DH_KEY_TOO_SMALL EE_KEY_TOO_SMALL CA_KEY_TOO_SMALL CA_MD_TOO_WEAK WRONG_SIGNATURE_TYPE WRONG_CIPHER_RETURNED "
        "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED UNSAFE_LEGACY_RENEGOTIATION_DISABLED VERSION_TOO_LOW "
        "NO_PROTOCOLS_AVAILABLE NO_CIPHERS_AVAILABLE NO_SUITABLE_SIGNATURE_ALGORITHM".split(),
        _OLD,
    ),
    **dict.fromkeys(
        "WRONG_VERSION_NUMBER HTTP_REQUEST UNKNOWN_PROTOCOL RECORD_LAYER_FAILURE PACKET_LENGTH_TOO_LONG".split(), _PLAIN
    ),
    "CERTIFICATE_VERIFY_FAILED": _UNTRUSTED,
}
_BY_VERIFY_CODE: Mapping[int, str] = {62: _MISNAMED, 64: _MISNAMED, 66: _OLD, 67: _OLD, 68: _OLD}
"""X509_V_ERR_HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH, EE_KEY_TOO_SMALL, CA_KEY_TOO_SMALL, CA_MD_TOO_WEAK."""


def explained(errors: Iterable[BaseException], *, legacy: bool) -> str:
    """Why a connection over TLS was not made, and what to do, from what was raised on the way, latest first."""
    text = ""
    for error in errors:
        mismatch = _MISMATCH.search(str(error))
        if mismatch:
            return _ANOTHER.format(expected=mismatch[1], found=mismatch[2])
        if type(error).__name__ == "CertificateError":  # urllib3 1 compares names by itself
            return _MISNAMED.format(reason=error)
        if isinstance(error, ssl.SSLError):
            text = _BY_REASON.get(error.reason or "", _OTHER)
            if isinstance(error, ssl.SSLCertVerificationError):
                text = _BY_VERIFY_CODE.get(error.verify_code, _UNTRUSTED)
            if legacy and text in (_OLD, _OTHER):
                text = _OLDER
            return text.format(reason=_words(error))
    return _OTHER.format(reason="no reason was given")


def _words(error: ssl.SSLError) -> str:
    """OpenSSL's own words, without the place in its source."""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return error.verify_message.rstrip(".")
    return (error.reason or str(error)).replace("_", " ").lower()
