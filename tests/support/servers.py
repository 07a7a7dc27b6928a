"""Programs that a test needs and a machine may lack.

Without them a test skips and says why; with `TEST_REQUIRE_SERVERS=1` (continuous integration) it fails.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

_NGINX_MODULES = Path("/usr/share/nginx/modules-available")


def need_program(name: str, package: str) -> str:
    """The path of an installed program; skips or fails the calling test where it is absent.

    `package` is the Debian package to name in the reason.
    """
    path = shutil.which(name)
    return path if path is not None else _absent(f"{name} is not installed (Debian: {package})")


def need_nginx_lua() -> str:
    """The path of an nginx that can load its Lua module."""
    nginx = need_program("nginx", "nginx")
    if not (_NGINX_MODULES / "mod-http-lua.conf").exists():
        _absent("nginx has no Lua module (Debian: libnginx-mod-http-lua)")
    return nginx


def _absent(reason: str) -> NoReturn:
    if os.environ.get("TEST_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and TEST_REQUIRE_SERVERS=1 asks for it", pytrace=False)
    pytest.skip(reason)
