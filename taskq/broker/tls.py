"""TLS as a URL asks for it: options checked before anything is connected, refusals in words.

redis-py makes the connections, with Python's own defaults: the server's certificate must be
issued by an authority that this machine trusts, for the host of the URL.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taskq.errors import ConfigError

_UNKNOWN_ISSUER = (18, 19, 20, 21)
"""OpenSSL's codes for a certificate that is its own issuer, or whose issuer is not known."""


def defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is not left to redis-py, whose versions differ in it.

    Before version 6 it did not compare the host's name; before version 8 its asyncio half used
    no client certificate whose key is in the same file.

    Args:
        options: those of the URL.
    """
    added: dict[str, Any] = {}
    if options.get("ssl_cert_reqs") != "none":
        added["ssl_check_hostname"] = True
    if "ssl_certfile" in options:
        added["ssl_keyfile"] = options["ssl_certfile"]
    return added


def check_files(options: Mapping[str, Any]) -> None:
    """Read the files that a URL names: a missing one would look like a missing server.

    Raises:
        ConfigError: names the option, the file and what is wrong with it.
    """
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    key, password = options.get("ssl_keyfile"), options.get("ssl_password", "")
    steps: dict[str, Callable[[Any], object]] = {
        "ssl_ca_certs": lambda path: trial.load_verify_locations(cafile=path),
        "ssl_ca_path": os.listdir,
        "ssl_keyfile": lambda path: Path(path).read_bytes(),
        # without a password OpenSSL would ask for it on the terminal
        "ssl_certfile": lambda path: trial.load_cert_chain(path, key, password),
    }
    for option, read in steps.items():
        if option in options:
            try:
                read(options[option])
            except OSError as err:
                words = _openssl(err) if isinstance(err, ssl.SSLError) else err.strerror
                raise ConfigError(
                    f"The Redis URL is wrong: {option}={options[option]}: {words or err}."
                ) from err


def _openssl(err: ssl.SSLError) -> str:
    return (err.reason or "").replace("_", " ").lower()


def certificate_error(err: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Why the server's certificate was refused, if that is what a connection's error is about."""
    while err is not None:
        if isinstance(err, ssl.SSLCertVerificationError):
            return err
        err = err.__cause__ or err.__context__
    return None


def refusal(err: ssl.SSLCertVerificationError) -> str:
    """The same in words, and what to do."""
    text = f"its certificate was refused: {err.verify_message.rstrip('.') or err}"
    if err.verify_code in _UNKNOWN_ISSUER:
        return f"{text}. ssl_ca_certs=FILE in the URL names an authority to trust"
    return text
