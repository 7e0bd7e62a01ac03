"""
The server's address, with TLS too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from benchmarks.ours import Site
from benchmarks.server import running


@contextmanager
def site(pages: int = 1, seconds: float = 0.0, *, tls: bool = False) -> Iterator[Site]:
    """Run a server; with TLS, its authority is the one that this process trusts meanwhile."""
    if not tls:
        with running(pages, seconds) as url:
            yield Site(url)
        return
    trustme = import_module("trustme")
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as folder:
        root, certificate = Path(folder, "root.pem"), Path(folder, "server.pem")
        authority.cert_pem.write_to_path(str(root))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        os.environ["SSL_CERT_FILE"] = str(root)
        try:
            with running(pages, seconds, certificate=certificate) as url:
                yield Site(url, str(root))
        finally:
            del os.environ["SSL_CERT_FILE"]
