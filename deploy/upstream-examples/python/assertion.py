"""Verifies the assertion of a request that came through Portcullis. Needs `cryptography` (Debian: python3-cryptography).

    gate = Verifier("https://gw.example.com", "upstream:billing", key_set_from("http://127.0.0.1:9901/.well-known/portcullis/jwks.json"))
    claims = gate.verify(method, target, headers["X-Portcullis-Assertion"])    # raises Refused: answer 401

`target` is the path and the query as they came, not decoded. `claims["kind"]` is `user`, `apikey` or `anonymous`.
"""

import base64
import hashlib
import json
import re
import sys
import threading
import time
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

KEEP_S, RETRY_S, LEEWAY_S = 300, 10, 5


class Refused(Exception):
    """The request must not be served."""


def key_set_from(url):
    def fetch():
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read(1 << 18)
    return fetch


def decode(text):
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise Refused("no base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Verifier:
    def __init__(self, issuer, audience, fetch):
        self.issuer, self.audience, self.fetch = issuer, audience, fetch
        self.keys, self.fetched, self.lock = {}, float("-inf"), threading.Lock()

    def verify(self, method, target, assertion):
        try:
            return self._verify(method, target, assertion)
        except Refused:
            raise
        except Exception as error:  # whatever cannot be read is no assertion
            raise Refused(str(error)) from error

    def _verify(self, method, target, assertion):
        header, payload, signature = assertion.split(".")
        head = json.loads(decode(header))
        # Exactly these members: `crit`, `jwk`, `jku` and their like ask for what nobody here does.
        if set(head) != {"alg", "kid", "typ"} or head["alg"] != "ES256" or head["typ"] != "portcullis-assertion+jwt":
            raise Refused("another kind of token")
        signed = decode(signature)
        if len(signed) != 64:
            raise Refused("no ES256 signature")
        der = utils.encode_dss_signature(int.from_bytes(signed[:32], "big"), int.from_bytes(signed[32:], "big"))
        try:
            self._key(head["kid"]).verify(der, f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise Refused("another signature") from None
        claims = json.loads(decode(payload))
        if claims["iss"] != self.issuer or claims["aud"] != self.audience:
            raise Refused("not for us")
        now = time.time()
        if type(claims["exp"]) is not int or type(claims["iat"]) is not int:
            raise Refused("no time")
        if now >= claims["exp"] + LEEWAY_S or claims["iat"] > now + LEEWAY_S:
            raise Refused("not now")
        path, _, query = target.partition("?")
        qh = base64.urlsafe_b64encode(hashlib.sha256(query.encode()).digest()).rstrip(b"=").decode()
        if (claims["htm"], claims["htu"], claims["qh"]) != (method, path, qh):
            raise Refused("another request")
        if claims["kind"] not in ("user", "apikey", "anonymous") or (claims["kind"] == "anonymous") == ("sub" in claims):
            raise Refused("nobody")
        return claims

    def _key(self, kid):
        with self.lock:
            age = time.monotonic() - self.fetched
            # An unknown key may be a new one, but strangers must not make us ask all the time.
            if age > KEEP_S or (kid not in self.keys and age > RETRY_S):
                self.fetched = time.monotonic()
                keys = json.loads(self.fetch())["keys"]
                self.keys = {key["kid"]: public(key) for key in keys if key["alg"] == "ES256"}
            return self.keys[kid]


def public(jwk):
    x, y = (int.from_bytes(decode(jwk[name]), "big") for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


if __name__ == "__main__":  # the tests: cases on standard input, a verdict for each on standard output
    vectors = json.load(sys.stdin)
    gate = Verifier(vectors["issuer"], vectors["audience"], lambda: json.dumps(vectors["jwks"]))
    for case in vectors["cases"]:
        try:
            print(case["name"], gate.verify(case["method"], case["target"], case["assertion"])["kind"])
        except Refused:
            print(case["name"], "refused")
