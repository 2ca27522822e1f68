"""Tokens as another library makes them: python3 tokens.py FOLDER

Writes FOLDER/jwks.json and prints an object of tokens by name. Needs PyJWT and cryptography.
"""

import base64
import hashlib
import hmac
import json
import sys
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

KEYS = {
    "RS256": (rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
}


def claims(**more):
    return {
        "iss": "https://id.example",
        "aud": "orders",
        "sub": "ada",
        "roles": ["trader"],
        "exp": int(time.time()) + 300,
        **more,
    }


def encoded(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(header):
    parts = (json.dumps(header), json.dumps(claims()))
    return ".".join(encoded(part.encode()) for part in parts)


def main():
    keys = []
    tokens = {}
    for name, (key, kind) in KEYS.items():
        jwk = json.loads(kind.to_jwk(key.public_key()))
        keys.append({**jwk, "kid": name, "use": "sig"})
        tokens[name] = jwt.encode(claims(), key, name, headers={"kid": name})
    with open(f"{sys.argv[1]}/jwks.json", "w") as file:
        json.dump({"keys": keys}, file)
    rs256 = KEYS["RS256"][0]
    signed = lambda **more: jwt.encode(claims(**more), rs256, "RS256", headers={"kid": "RS256"})
    tokens["expired"] = signed(exp=int(time.time()) - 3600)
    tokens["wrong_aud"] = signed(aud="billing")
    tokens["none"] = unsigned({"alg": "none", "kid": "RS256"}) + "."
    # PyJWT refuses to sign with a public key, so this is done by hand.
    public = rs256.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    message = unsigned({"alg": "HS256", "kid": "RS256"})
    signature = hmac.new(public, message.encode(), hashlib.sha256).digest()
    tokens["hs256_with_public_key"] = f"{message}.{encoded(signature)}"
    print(json.dumps(tokens))


main()
