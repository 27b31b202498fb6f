"""URLs as users write them, and the addresses that hosts name."""

from __future__ import annotations

import pytest

from xenctl.transport import origin_at, origin_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://10.0.0.1", "https://10.0.0.1"),
        ("http://10.0.0.1", "http://10.0.0.1"),
        ("10.0.0.1", "https://10.0.0.1"),
        ("pool.example", "https://pool.example"),
        ("HTTPS://Pool.Example", "https://pool.example"),
        ("  https://10.0.0.1\n", "https://10.0.0.1"),
        ("https://10.0.0.1/", "https://10.0.0.1"),
        ("https://10.0.0.1/RPC2", "https://10.0.0.1"),
        ("https://10.0.0.1?a=b", "https://10.0.0.1"),
        ("https://10.0.0.1#a", "https://10.0.0.1"),
        ("10.0.0.1:8443", "https://10.0.0.1:8443"),
        ("http://10.0.0.1:80/path", "http://10.0.0.1:80"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443"),
        ("2001:db8::1", "https://[2001:db8::1]"),
        ("http://::1/", "http://[::1]"),
        ("https://[fe80::1%eth0]", "https://[fe80::1%eth0]"),
        ("host_with_underscore", "https://host_with_underscore"),
        ("https://bücher.example", "https://bücher.example"),
    ],
)
def test_a_url_is_reduced_to_its_origin(url: str, origin: str) -> None:
    """Scheme, name and port are kept; the rest is dropped."""
    assert origin_of(url) == origin
    assert origin_of(origin) == origin


@pytest.mark.parametrize(
    "url",
    [
        "", "   ", "https://", "https:///path", "ftp://10.0.0.1", "file:///etc/passwd", "https://a b", "https://:80",
        "https://a:", "https://a:0", "https://a:65536", "https://a:999999", "https://a:http", "https://[::1", "https://::1]",
        "https://[1.2.3.4]", "https://[]", "https://1:2:3", "https://a\\b", "https://<a>", "https://a\x00b:c",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    """The text shows what was given and how it should look."""
    with pytest.raises(ValueError, match=r"^not a host's URL: .*; write it as https://ADDRESS"):
        origin_of(url)


@pytest.mark.parametrize(
    "url", ["https://root:hunter2@10.0.0.1", "root:hunter2@10.0.0.1", "https://root:hun/ter2@10.0.0.1"]
)
def test_a_url_with_a_password_is_refused_without_showing_it(url: str) -> None:
    """Credentials belong into the call, not into the URL, and not into the message."""
    with pytest.raises(ValueError, match="no user name or password in it: give these to login_with_password") as caught:
        origin_of(url)
    assert "hun" not in str(caught.value)
    assert "root" not in str(caught.value)


@pytest.mark.parametrize(
    ("origin", "address", "there"),
    [
        ("https://10.0.0.1", "10.0.0.2", "https://10.0.0.2"),
        ("http://10.0.0.1", "10.0.0.2", "http://10.0.0.2"),
        ("http://10.0.0.1:8080", "10.0.0.2", "http://10.0.0.2:8080"),
        ("http://10.0.0.1:8080", "10.0.0.2:9090", "http://10.0.0.2:9090"),
        ("https://pool.example", "2001:db8::2", "https://[2001:db8::2]"),
        ("https://pool.example:8443", "2001:db8::2", "https://[2001:db8::2]:8443"),
        ("https://[2001:db8::1]", "2001:db8::2", "https://[2001:db8::2]"),
        ("https://[2001:db8::1]:8443", "[2001:db8::2]", "https://[2001:db8::2]:8443"),
        ("https://[2001:db8::1]:8443", "[2001:db8::2]:9443", "https://[2001:db8::2]:9443"),
        ("https://[2001:db8::1]:8443", "10.0.0.2", "https://10.0.0.2:8443"),
    ],
)
def test_the_master_is_reached_as_the_member_was(origin: str, address: str, there: str) -> None:
    """A bare address takes over scheme and port; a port of its own wins."""
    assert origin_at(origin, address) == there


@pytest.mark.parametrize("address", ["", " ", "a b", "[", "x@y"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """A server that names no usable master is not followed anywhere."""
    with pytest.raises(ValueError, match="URL"):
        origin_at("https://10.0.0.1", address)
