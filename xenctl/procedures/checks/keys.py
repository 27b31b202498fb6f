"""How strong the key of a certificate is, read from its DER by hand: four kinds of values are all that is needed."""

from __future__ import annotations

import ssl

RSA = bytes.fromhex("2a864886f70d010101")
"""The object identifier of RSA keys, as DER has it."""
BITS, OID, SEQUENCE, VERSION = 0x03, 0x06, 0x30, 0xA0


def rsa_bits(pem: str) -> int | None:
    """The length of a certificate's RSA key in bits; None for a key of another kind, and for what is no certificate."""
    try:
        certificate = ssl.PEM_cert_to_DER_cert(pem.strip())
        body = _inside(certificate, SEQUENCE)
        fields = _values(_inside(body, SEQUENCE))
        if fields[0][0] == VERSION:
            fields = fields[1:]
        algorithm, key = _values(fields[5][1])[:2]
        if _values(algorithm[1])[0] != (OID, RSA) or key[0] != BITS:
            return None
        modulus = _values(_inside(key[1][1:], SEQUENCE))[0][1]
        return int.from_bytes(modulus, "big").bit_length()
    except (ValueError, IndexError):
        return None


def _values(data: bytes) -> list[tuple[int, bytes]]:
    """The values that stand one after another, each as its tag and what is inside."""
    out = []
    while data:
        tag, size, start = data[0], data[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            raise ValueError("the value is longer than what holds it")
        out.append((tag, data[start : start + size]))
        data = data[start + size :]
    return out


def _inside(data: bytes, tag: int) -> bytes:
    """What is inside the first value, which has this tag."""
    found, inside = _values(data)[0]
    if found != tag:
        raise ValueError(f"tag {found:#x}, not {tag:#x}")
    return inside
