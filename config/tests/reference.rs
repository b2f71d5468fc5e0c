//! The committed reference is the one the types make.

#[cfg(test)]
mod reference {
    use std::{fs, path::Path};

    #[test]
    fn the_reference_of_settings_is_not_stale() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/settings.md");
        let made = portcullis_config::reference::settings();
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == made, "docs/reference/settings.md is stale: run `make reference`");
    }
}
