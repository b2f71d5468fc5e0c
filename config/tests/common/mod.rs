//! Files that documents refer to, made anew for each test: certificates, keys, secrets.

#[cfg(test)]
pub(crate) mod fixtures {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    /// Writes a file that everybody may read.
    pub(crate) fn public(base: &Path, name: &str, text: &str) {
        let path = base.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Writes a file that only its owner may read.
    pub(crate) fn secret(base: &Path, name: &str, text: &str) {
        public(base, name, text);
        fs::set_permissions(base.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes a certificate for `names` and its key.
    pub(crate) fn certificate(base: &Path, chain: &str, key: &str, names: &[&str]) {
        dated(base, chain, key, names, (2020, 2120));
    }

    /// Writes a certificate that is valid from one year to another.
    pub(crate) fn dated(base: &Path, chain: &str, key: &str, names: &[&str], (from, to): (i32, i32)) {
        let made = KeyPair::generate().unwrap();
        public(base, chain, &params(names, from, to).self_signed(&made).unwrap().pem());
        secret(base, key, &made.serialize_pem());
    }

    /// What a certificate for `names` says, from one year to another.
    pub(crate) fn params(names: &[&str], from: i32, to: i32) -> CertificateParams {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params
    }

    /// 32 bytes and a newline, as `openssl rand -hex 16` writes them.
    pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef\n";
}
