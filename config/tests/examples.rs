//! Every example loads: the sketch of the design, `deploy/examples`, and the blocks of the operators' guide.

mod common;

#[cfg(test)]
mod examples {
    use std::{collections::BTreeSet, fs, path::Path};

    use portcullis_api::Issues;
    use portcullis_config::{Report, Settled, control_inputs, parse, settle};

    use crate::common::fixtures::{SECRET, certificate, public, secret};

    fn repository(path: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
    }

    /// Settles a document beside the files it refers to: certificates for `names`, and every `secrets/…` it mentions.
    fn settled(text: &str, origin: &str, names: &[&str]) -> Settled {
        let base = tempfile::tempdir().unwrap();
        certificate(base.path(), "tls/chain.pem", "tls/key.pem", names);
        certificate(base.path(), "tls/internal-ca.pem", "tls/internal-ca-key.pem", &["internal"]);
        certificate(base.path(), "chain.pem", "key.pem", names);
        for name in ["state/keys.json", "keys.json", "jwks.json"] {
            public(base.path(), name, "{}");
        }
        for name in ["admin", "pepper", "pseudonym", "session", "store"] {
            secret(base.path(), &format!("secrets/{name}"), SECRET);
        }
        certificate(base.path(), "unused.pem", "secrets/assertion.pem", &["unused"]);
        for name in ["admin.token", "pepper"] {
            secret(base.path(), name, SECRET);
        }
        secret(base.path(), "secrets/redis-url", "redis://127.0.0.1:6379/");
        let document = parse(text, Path::new(origin)).unwrap_or_else(|report| panic!("{}", report.plain()));
        let mut issues = Issues::default();
        let settled = settle(&document, base.path(), &mut issues).filter(|_| {
            portcullis_plugins::controls::lint(&control_inputs(&document), &mut issues);
            issues.is_empty()
        });
        settled.unwrap_or_else(|| panic!("{}", Report::new(text, Path::new(origin), issues).plain()))
    }

    /// The demo's configuration, with the ports that it fills in.
    fn demo() -> String {
        let mut text = fs::read_to_string(repository("gateway/src/demo/portcullis.toml")).unwrap();
        for (name, port) in [("@PORT@", "8443"), ("@ADMIN@", "9901"), ("@UPSTREAM@", "8080")] {
            assert!(text.contains(name), "{name}");
            text = text.replace(name, port);
        }
        text
    }

    #[test]
    fn the_sketch_of_the_design_loads() {
        let text = include_str!("sketch/gateway.toml");
        let settled = settled(text, "gateway.toml", &["api.example.com"]);
        let host = settled.router.find("api.example.com").unwrap();
        assert_eq!(host.route("/v1/orders/7").unwrap().route.name.as_ref(), "api.example.com/orders");
        assert!(host.route("/v1").is_none() && settled.router.find("example.com").is_none());
        for (n, route) in settled.router.routes().enumerate() {
            assert_eq!((route.id.index(), &settled.router.route(route.id).unwrap().name), (n, &route.name));
            assert_eq!(settled.upstreams[route.upstream].name.as_ref(), "orders");
        }
        assert_eq!(settled.tenants.len(), 1);
        assert_eq!(settled.certificates.len(), 1);
    }

    #[test]
    fn every_example_for_operators_loads() {
        let names =
            ["api.example.com", "app.example.com", "www.example.com", "*.preview.example.com", "metrics.example.com"];
        let mut loaded = BTreeSet::new();
        for entry in fs::read_dir(repository("deploy/examples")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                settled(&fs::read_to_string(&path).unwrap(), &name, &names);
                loaded.insert(name);
            }
        }
        assert_eq!(
            loaded.into_iter().collect::<Vec<_>>(),
            ["json-api.toml", "prometheus.toml", "public-site.toml", "web-app.toml"]
        );
    }

    #[test]
    fn what_is_in_order_and_worth_a_look_is_noted() {
        let limits = "\n[limits.nightly]\nkey = [\"subject\"]\nrequests = 5\nwindow = \"1h\"\n\n\
            [limits.per_key]\nkey = [\"api_key\"]\nrequests = 5\nwindow = \"1s\"\n\
            on_store_failure = { allow = \"billed\\nafterwards\" }\n";
        let text = demo();
        let notes = |text: &str| {
            let document =
                parse(text, Path::new("portcullis.toml")).unwrap_or_else(|report| panic!("{}", report.plain()));
            portcullis_plugins::controls::notes(&control_inputs(&document), None)
        };
        assert_eq!(notes(&text), [""; 0]);
        assert_eq!(
            notes(&format!("{text}{limits}")),
            [
                "limit `nightly` is defined, and no route is under it",
                "limit `per_key` lets requests pass while its store is away: billed\\nafterwards"
            ]
        );
    }

    #[test]
    fn the_configuration_of_the_demo_loads() {
        let settled = settled(&demo(), "portcullis.toml", &["api.demo.test"]);
        assert!(settled.router.find("api.demo.test").is_some());
    }

    #[test]
    fn nothing_below_the_protected_path_of_the_public_site_is_public() {
        let text = fs::read_to_string(repository("deploy/examples/public-site.toml")).unwrap();
        let settled = settled(&text, "public-site.toml", &["www.example.com", "*.preview.example.com"]);
        let host = settled.router.find("www.example.com").unwrap();
        for (path, route) in [
            ("/", "site"),
            ("/admin", "admin"),
            ("/admin/", "admin"),
            ("/admin/x/y", "admin"),
            ("/administrator", "site"),
        ] {
            assert_eq!(host.route(path).unwrap().route.name.as_ref(), format!("www.example.com/{route}"), "{path}");
        }
        assert_eq!(settled.router.find("b7.preview.example.com").unwrap().name.as_ref(), "*.preview.example.com");
    }

    #[test]
    fn routes_of_one_path_are_told_apart_by_method() {
        let text = fs::read_to_string(repository("deploy/examples/json-api.toml")).unwrap();
        let settled = settled(&text, "json-api.toml", &["api.example.com"]);
        let matched = settled.router.find("api.example.com").unwrap().route("/v1/orders/7").unwrap();
        let name = |method| matched.admitting(&method).map(|route| route.name.to_string());
        assert_eq!(name(http::Method::GET).as_deref(), Some("api.example.com/orders-read"));
        assert_eq!(name(http::Method::HEAD).as_deref(), Some("api.example.com/orders-read"));
        assert_eq!(name(http::Method::PUT).as_deref(), Some("api.example.com/orders-write"));
        assert_eq!(name(http::Method::PATCH), None);
        assert_eq!(matched.route.allow_header, "GET, HEAD, POST, PUT, DELETE");
    }

    #[test]
    fn the_blocks_of_the_guide_are_one_document() {
        let guide = fs::read_to_string(repository("docs/configuration.md")).unwrap();
        let mut text = String::new();
        let mut inside = false;
        for line in guide.lines() {
            match line {
                "```toml" => inside = true,
                "```" => inside = false,
                _ if inside => {
                    text.push_str(line);
                    text.push('\n');
                }
                _ => {}
            }
        }
        let settled = settled(&text, "configuration.md", &["api.example.com"]);
        let host = settled.router.find("api.example.com").unwrap();
        let route = |path| host.route(path).unwrap();
        assert_eq!(route("/v1/orders/export").route.name.as_ref(), "api.example.com/export");
        assert_eq!(route("/v1/acme/invoices/7").tenant_segment, Some("acme"));
        assert_eq!(route("/v1/orders/invoices").route.name.as_ref(), "api.example.com/orders", "a literal wins");
    }
}
