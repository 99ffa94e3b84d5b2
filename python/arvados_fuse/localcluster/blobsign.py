# Copyright (C) The arvados_fuse authors
#
# SPDX-License-Identifier: AGPL-3.0-only

"""Permission signatures of blocks: `+A` HMAC-SHA1 `@` expiry.

A client may read a block, or put it into a collection, for which it has a locator signed for its
token. The message signed is hash, token, expiry and lifetime, joined by `@`; expiry and lifetime
are seconds in hexadecimal, the key is the cluster's.
"""

import hmac
import re

from . import clock

_SIGNATURE = re.compile(r"\+A([0-9a-f]{40})@([0-9a-f]{8})")
LOCATOR = re.compile(r"([0-9a-f]{32})\+(\d+)((?:\+[A-Z][A-Za-z0-9@_-]*)*)")


def secret_of(token: str) -> str:
    """Return the part of a token that signatures are made for."""
    return token.split("/")[2] if token.startswith("v2/") and token.count("/") >= 2 else token


def bare(locator: str) -> str:
    """Return a locator without hints: hash and size."""
    return "+".join(locator.split("+", 2)[:2])


class Signer:
    """Signs and checks locators with the key of a cluster; `ttl` is the lifetime in seconds."""

    def __init__(self, key: str, ttl: int, enabled: bool = True) -> None:
        self.key = key.encode()
        self.ttl = ttl
        self.enabled = enabled

    def _digest(self, block: str, token: str, expiry: str) -> str:
        message = "@".join((block, secret_of(token), expiry, f"{self.ttl:x}"))
        return hmac.new(self.key, message.encode(), "sha1").hexdigest()

    def sign(self, locator: str, token: str, expires: float | None = None) -> str:
        """Return the locator, signed for `token` until `expires` (a Unix time)."""
        if not self.enabled:
            return locator
        block, size = locator.split("+")[:2]
        expiry = f"{int(expires if expires is not None else clock.now() + self.ttl):08x}"
        return f"{block}+{size}+A{self._digest(block, token, expiry)}@{expiry}"

    def valid(self, locator: str, token: str) -> bool:
        """Return whether the locator carries a signature for `token` that has not expired."""
        if not self.enabled:
            return True
        signature = _SIGNATURE.search(locator)
        if signature is None or int(signature[2], 16) < clock.now():
            return False
        expected = self._digest(locator[:32], token, signature[2])
        return hmac.compare_digest(signature[1], expected)

    def sign_manifest(self, text: str, token: str) -> str:
        """Return the manifest with every locator signed for `token`."""
        if not self.enabled:
            return text
        expires = clock.now() + self.ttl
        signed: dict[str, str] = {}

        def sign(match: "re.Match[str]") -> str:
            locator = match[1]
            if locator not in signed:
                signed[locator] = self.sign(locator, token, expires)
            return " " + signed[locator]

        return re.sub(r" ([0-9a-f]{32}\+\d+)(?=[ \n])", sign, text)
