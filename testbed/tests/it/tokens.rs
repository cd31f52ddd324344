//! Session tokens as Clerk makes them, under fresh keys. Node's cryptography signs, so that what the edge verifies
//! was not made by anything of ours.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use testbed::legacy::now;

use crate::support::tools;

pub(crate) const ISSUER: &str = "https://clerk.automna.test";
pub(crate) const PARTY: &str = "https://automna.ai";

/// An RSA key pair.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) kid: &'static str,
    private_pem: String,
    pub(crate) public_pem: String,
    jwk: Value,
}

impl Key {
    pub(crate) fn generate(kid: &'static str) -> Self {
        let script = "
            const { publicKey, privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
            const pem = (key, type) => key.export({ type, format: 'pem' });
            const made = [pem(privateKey, 'pkcs8'), pem(publicKey, 'spki'), publicKey.export({ format: 'jwk' })];
            process.stdout.write(JSON.stringify(made));";
        let made: (String, String, Value) = serde_json::from_str(&node(script, &[])).unwrap();
        Self { kid, private_pem: made.0, public_pem: made.1, jwk: made.2 }
    }

    /// The public half in a JWK Set.
    pub(crate) fn jwk(&self) -> Value {
        let (n, e) = (&self.jwk["n"], &self.jwk["e"]);
        json!({"use": "sig", "kty": "RSA", "kid": self.kid, "alg": "RS256", "n": n, "e": e})
    }

    /// A token of these claims.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "RS256", "kid": self.kid, "typ": "JWT"}), claims)
    }

    /// The same under any header, signed with RS256 whatever it says.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let script = "
            const [key, text] = process.argv.slice(1);
            process.stdout.write(crypto.sign('sha256', Buffer.from(text), key).toString('base64url'));";
        let signed = unsigned(header, claims);
        let signature = node(script, &[&self.private_pem, &signed]);
        format!("{signed}.{signature}")
    }
}

/// A token signed with HS256, under `secret`.
pub(crate) fn hs256(kid: &str, secret: &str, claims: &Value) -> String {
    let script = "
        const [key, text] = process.argv.slice(1);
        process.stdout.write(crypto.createHmac('sha256', key).update(text).digest('base64url'));";
    let signed = unsigned(&json!({"alg": "HS256", "kid": kid, "typ": "JWT"}), claims);
    let signature = node(script, &[secret, &signed]);
    format!("{signed}.{signature}")
}

pub(crate) fn unsigned(header: &Value, claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// The claims of a session of `user` that began just now.
pub(crate) fn claims(user: &str) -> Value {
    let now = now().floor_seconds().0;
    json!({"iss": ISSUER, "sub": user, "azp": PARTY, "sid": "sess_1", "iat": now, "nbf": now - 10, "exp": now + 60})
}

fn node(script: &str, args: &[&str]) -> String {
    let output = Command::new(tools().node())
        .args(["--input-type=commonjs", "--eval", &format!("const crypto = require('node:crypto');{script}")])
        .arg("--")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
