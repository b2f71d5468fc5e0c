//! The configuration that every test starts from.

use std::net::SocketAddr;

use crate::tokens::{AUDIENCE, LOCAL_ISSUER, MAIN_ISSUER};

pub(crate) fn default_document(listener: SocketAddr, admin: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        r#"
version = 1

[listeners.public]
address = "{listener}"
client_ip = "direct"

[admin]
address = "{admin}"
token = "file:secrets/admin"

[log]
pseudonym_key = "file:secrets/pseudonym"

[issuers.main]
issuer = "{MAIN_ISSUER}"
audiences = ["{AUDIENCE}"]
algorithms = ["ES256"]
keys = {{ jwks_file = "jwks/main.json" }}
claims = {{ tenant = "tenant_id", roles = "roles", scopes = "scope" }}

[issuers.local]
issuer = "{LOCAL_ISSUER}"
audiences = ["{AUDIENCE}"]
algorithms = ["HS256"]
keys = {{ secret = "file:secrets/local" }}
claims = {{ tenant = "tenant_id", roles = "roles", scopes = "scope" }}
cookie = "__Host-session"

[api_keys]
file = "keys.json"
pepper = "file:secrets/pepper"
failures = {{ attempts = 100000, window = "1m" }}

[upstreams.app]
servers = ["{upstream}"]

[controls]
ip_allowlist = {{ allow = ["0.0.0.0/0", "::/0"] }}
burst = {{ requests = 100000, window = "1s" }}
waf = {{ violations = {{ max = 256 }} }}

[limits.per_key]
key = ["api_key"]
requests = 100000
window = "1s"

{hosts}
[tenants.acme]
[tenants.globex]
"#,
        hosts = default_hosts(),
    )
}

fn default_hosts() -> String {
    let certificate = r#"certificate = { chain = "file:tls/chain.pem", key = "file:tls/key.pem" }"#;
    format!(
        r#"
[hosts."api.example.test"]
{certificate}
tenant = "identity"
{routes}

[hosts."fixed.example.test"]
{certificate}
tenant = "globex"

[hosts."fixed.example.test".routes.orders]
path = "/v1/orders"
methods = ["GET", "POST"]
auth = {{ accept = ["jwt:main", "api_key"] }}
upstream = "app"

[hosts."cors.example.test"]
{certificate}
tenant = "identity"
cors = {{ origins = ["https://app.example.test"], headers = ["content-type"], expose = ["x-total"], credentials = "allow" }}

[hosts."cors.example.test".routes.api]
path = "/api"
methods = ["GET", "POST", "OPTIONS"]
auth = {{ accept = ["jwt:main", "cookie:local"] }}
upstream = "app"

[hosts."*.wild.example.test"]
{certificate}
tenant = "identity"

[hosts."*.wild.example.test".routes.all]
path = "/w"
methods = ["GET"]
auth = {{ public = "tests of wildcards" }}
upstream = "app"
"#,
        routes = default_routes(),
    )
}

/// Routes of the default host: name, path, methods, auth and anything more.
const ROUTES: &[(&str, &str, &str, &str, &str)] = &[
    ("orders", "/v1/orders", r#""GET", "POST", "PUT", "DELETE""#, r#"accept = ["jwt:main", "api_key"]"#, ""),
    ("scoped", "/v1/scoped", r#""GET""#, r#"accept = ["jwt:main", "api_key"], scopes = ["orders:write"]"#, ""),
    ("admin", "/v1/admin", r#""GET""#, r#"accept = ["jwt:main", "api_key"], role = "admin""#, ""),
    ("live", "/v1/live", r#""GET""#, r#"accept = ["api_key"], environment = "live""#, ""),
    ("public", "/public", r#""GET", "POST", "PUT""#, r#"public = "open to everybody, for tests""#, ""),
    ("options", "/options", r#""GET", "OPTIONS""#, r#"accept = ["jwt:main"]"#, ""),
    ("app", "/app", r#""GET", "POST""#, r#"accept = ["cookie:local"]"#, ""),
    ("local", "/local", r#""GET""#, r#"accept = ["jwt:local"]"#, ""),
    ("tenant", "/t/{tenant}/things", r#""GET""#, r#"accept = ["jwt:main", "api_key"]"#, ""),
    (
        "forward",
        "/forward",
        r#""GET""#,
        r#"accept = ["jwt:main", "api_key", "cookie:local"], credentials = "forward""#,
        "",
    ),
    ("ws", "/ws", r#""GET""#, r#"accept = ["jwt:main", "cookie:local"]"#, r#"kind = "websocket""#),
    ("events", "/events", r#""GET""#, r#"accept = ["jwt:main"]"#, r#"kind = "stream""#),
];

fn default_routes() -> String {
    ROUTES
        .iter()
        .map(|(name, path, methods, auth, more)| {
            format!(
                "\n[hosts.\"api.example.test\".routes.{name}]\npath = \"{path}\"\nmethods = [{methods}]\nauth = {{ {auth} }}\nupstream = \"app\"\n{more}\n"
            )
        })
        .collect()
}
