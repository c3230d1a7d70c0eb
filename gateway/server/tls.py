"""TLS of the listeners: version 1.2 or later, certificate files checked at start."""

import ssl
from pathlib import Path

_NO_PASSWORD = b""  # without it, OpenSSL prompts on the terminal for the password of an encrypted key


class TlsError(Exception):
    """The certificate's files cannot be used; the message names them and the fix."""


def server_context(cert: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """Build a server's TLS context; with `client_ca`, clients must present a certificate signed by it (mTLS).

    Without `key`, the private key is in the certificate's file. Raises `TlsError`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    for path in (cert, key, client_ca):
        if path is not None:
            _check_readable(path)
    try:
        context.load_cert_chain(cert, key, lambda: _NO_PASSWORD)
    except (ssl.SSLError, ValueError) as error:
        raise TlsError(
            f"{cert} and {key or cert} are not a certificate (with its chain) and its unencrypted private key in PEM "
            f"({_reason(error)}); check --tls-cert and --tls-key."
        ) from error
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise TlsError(
                f"{client_ca} contains no CA certificate in PEM ({_reason(error)}); check --tls-client-ca."
            ) from error
    return context


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise TlsError(f"{path} cannot be read ({error.strerror}); check the --tls options.") from error


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return (reason or str(error)).replace("_", " ").lower()
