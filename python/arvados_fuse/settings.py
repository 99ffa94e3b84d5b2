# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""The user's settings, as people write them: with quotes, spaces, `export`, `https://`.

The SDK takes a line of `settings.conf` apart at `=` and keeps whatever is left and right of it. A line that
a shell would read in the same way is not to fail here, or only where its mistake can be named.
"""

import os
import re
import sys
from pathlib import Path

try:
    import arvados.config
except ValueError:
    # A line that the SDK cannot take apart: it looks as it is imported. The second time it has no settings;
    # then it is given the environment alone, and `load_settings` adds the file.
    import arvados.config

    for _name_of, _module in list(sys.modules.items()):
        _package, _, _part = _name_of.rpartition(".")
        if _package == "arvados" and not hasattr(arvados, _part):
            setattr(arvados, _part, _module)
    arvados.config.initialize(os.devnull)
    _read_by_sdk = False
else:
    _read_by_sdk = True

from arvados._internal import basedirs


def load_settings() -> dict[str, str]:
    """Return the SDK's own settings, put right in place: whatever of the SDK looks at them sees the same.

    Raises ValueError for what cannot be understood.
    """
    settings = arvados.config.settings()
    if not _read_by_sdk:
        for name, value in _read_file().items():
            settings.setdefault(name, value)
    for name in list(settings):
        plain = _name(name)
        value = settings.pop(name)
        # Under its very name it comes from the environment, or is well written.
        if plain == name or plain not in settings:
            settings[plain] = _value(value)
    host = settings.get("ARVADOS_API_HOST")
    if host:
        settings["ARVADOS_API_HOST"] = _host(host)
    return settings


def _name(text: str) -> str:
    return re.sub(r"^\s*export\s+", "", text).strip()


def _value(text: str) -> str:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _read_file() -> dict[str, str]:
    found: dict[str, str] = {}
    path = next(iter(basedirs.BaseDirectories("CONFIG").search("settings.conf")), None)
    if path is None:
        return found
    lines = Path(path).read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"{path}, line {number}: not of the form NAME=VALUE")
        found[_name(name)] = _value(value)
    return found


def _host(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator:
        rest = text
    elif scheme.lower() != "https":
        raise ValueError(f"ARVADOS_API_HOST is {text!r}: the API is spoken to by https only")
    host = rest.rstrip("/")
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s/:@?#\[\]]+)(:[0-9]+)?", host):
        raise ValueError(
            f"ARVADOS_API_HOST is {text!r}: give a host name, with :PORT if it is not 443"
        )
    return host
