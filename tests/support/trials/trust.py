"""What the generated calls need to know of verbs about certificates, the pool's secret and directories."""

from __future__ import annotations

from typing import Any

import pem

ELSEWHERE = {
    # Toolstacks alone may call these five.
    *("host.cert_distrib_atom", "host.copy_primary_host_certs", "host.write_uefi_certificates_to_disk"),
    *("host.enable_binary_storage", "host.disable_binary_storage"),
    *("host.set_uefi_certificates", "host.emergency_reset_server_certificate"),  # write in 8.2 only
    "pool.set_custom_uefi_certificates",  # XenServer refuses it
    "pool.detect_nonhomogeneous_external_auth",  # needs hosts that differ
}

CERTIFICATE, KEY = pem.public(pem.certificate()), pem.private(pem.key())
HINTS: dict[str, list[Any]] = {
    **{f"pool.{verb}.name": ["a.pem"] for verb in ("install_ca_certificate", "uninstall_ca_certificate")},
    **{f"pool.certificate_{verb}.name": ["a.pem"] for verb in ("install", "uninstall")},
    **{f"pool.{verb}.cert": [CERTIFICATE] for verb in ("install_ca_certificate", "certificate_install")},
    "host.install_server_certificate.certificate": [CERTIFICATE],
    "host.install_server_certificate.private_key": [KEY],
    "host.install_server_certificate.certificate_chain": [""],
    **{
        f"{table}.{verb}_external_auth.config": [{"user": "Administrator", "pass": "secret"}]
        for table in ("host", "pool")
        for verb in ("enable", "disable")
    },
    **{f"{table}.enable_external_auth.service_name": ["example.com"] for table in ("host", "pool")},
    **{f"{table}.enable_external_auth.auth_type": ["AD"] for table in ("host", "pool")},
}

CHECKING = "pool.enable_tls_verification"
PREPARED: dict[str, tuple[str, ...]] = {
    "pool.uninstall_ca_certificate": ("pool.install_ca_certificate",),
    "pool.certificate_uninstall": ("pool.install_ca_certificate",),
    "host.enable_external_auth": ("pool.disable_external_auth",),
    "host.set_hostname_live": ("pool.disable_external_auth",),
    "pool.enable_external_auth": ("pool.disable_external_auth",),
    "host.emergency_disable_tls_verification": (CHECKING,),
    "host.emergency_reenable_tls_verification": (CHECKING, "host.emergency_disable_tls_verification"),
    "pool.enable_ssl_legacy": ("pool.disable_ssl_legacy",),
    "pool.enable_binary_storage": ("pool.disable_binary_storage",),
}
