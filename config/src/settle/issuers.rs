//! Issuers: where their keys are, and the folder that keeps what was fetched.

use std::{collections::BTreeMap, ops::Range, os::unix::fs::PermissionsExt as _, path::PathBuf};

use portcullis_api::Secret;
use portcullis_plugins::authentication::{Keys, STALE_DEFAULT};

use super::Room;
use crate::settled::{IssuerSpec, KeySource};

const SECRET_TWIN: &str = "issuers.secret_twin";
/// Of a folder's mode: others than its owner may put files there.
const OTHERS_MAY_WRITE: u32 = 0o022;

impl Room<'_> {
    pub(super) fn issuers(&mut self) -> BTreeMap<String, IssuerSpec> {
        let document = self.document;
        let folder = self.key_sets();
        let mut specs = BTreeMap::new();
        for (name, issuer) in &document.issuers {
            self.name(&["issuers", name]);
            let span = &issuer.keys.span;
            let keys = match &issuer.keys.value {
                Keys::JwksUrl(url) => Some(KeySource::JwksUrl(url.clone())),
                Keys::Discovery(url) => Some(KeySource::Discovery(url.clone())),
                // It is read here only to say early that it cannot be; whoever verifies reads it again when it changes.
                Keys::JwksFile(path) => self.public_file(path, span).map(|_| KeySource::JwksFile(self.resolve(path))),
                Keys::Secret(reference) => {
                    let secret = self.secret(reference, span, &format!("the secret of issuer `{name}`"));
                    secret.filter(|secret| self.is_only_secret(name, secret, span, &specs)).map(KeySource::Secret)
                }
            };
            if let Some(keys) = keys {
                let spec = IssuerSpec {
                    issuer: issuer.issuer.value.clone(),
                    algorithms: issuer.algorithms.value.iter().map(|algorithm| algorithm.value).collect(),
                    private_networks: issuer.private_networks.as_ref().map(|at| at.value.clone()).unwrap_or_default(),
                    max_stale: issuer.max_stale.as_ref().map_or(STALE_DEFAULT, |at| at.value),
                    copy: folder
                        .as_ref()
                        .filter(|_| keys.are_fetched())
                        .map(|folder| folder.join(format!("{name}.json"))),
                    keys,
                };
                specs.insert(name.clone(), spec);
            }
        }
        specs
    }

    /// Whether no issuer before it has this secret: whoever can make tokens of one of two could make the other's.
    fn is_only_secret(
        &mut self,
        name: &str,
        secret: &Secret,
        span: &Range<usize>,
        before: &BTreeMap<String, IssuerSpec>,
    ) -> bool {
        let twin = before.iter().find(|(_, spec)| match &spec.keys {
            KeySource::Secret(other) => other.equals(secret.expose()),
            KeySource::JwksUrl(_) | KeySource::Discovery(_) | KeySource::JwksFile(_) | KeySource::Own { .. } => false,
        });
        let Some((twin, _)) = twin else { return true };
        let message =
            format!("issuers `{twin}` and `{name}` have one secret, so whoever can sign for one can for both");
        self.issues.push_help(SECRET_TWIN, span, message, "make another with: openssl rand -hex 32");
        false
    }

    /// The folder must be there and be the gateway's alone: whoever can write to it can name keys.
    fn key_sets(&mut self) -> Option<PathBuf> {
        let document = self.document;
        let folder = &document.key_sets.as_ref()?.folder;
        let fetched = |keys: &Keys| match keys {
            Keys::JwksUrl(_) | Keys::Discovery(_) => true,
            Keys::JwksFile(_) | Keys::Secret(_) => false,
        };
        if !document.issuers.values().any(|issuer| fetched(&issuer.keys.value)) {
            let message = "no issuer's keys are fetched, so nothing would be kept in the folder of [key_sets]";
            self.issues.push("key_sets.unused", &folder.span, message);
        }
        let path = self.resolve(&folder.value);
        let found = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_dir);
        match found.map(|found| found.permissions().mode()) {
            None => {
                let message = format!("there is no folder `{}` for key sets", folder.value.display());
                let help = "make it, owned by the gateway's user, with mode 0700";
                self.issues.push_help("key_sets.no_folder", &folder.span, message, help);
            }
            Some(mode) if mode & OTHERS_MAY_WRITE != 0 => {
                let shown = folder.value.display();
                let message =
                    format!("others may write to the folder `{shown}` (mode {:o}), and so name keys", mode & 0o7777);
                let help = format!("run: chmod 700 '{shown}'");
                self.issues.push_help("key_sets.open", &folder.span, message, help);
            }
            Some(_) => {}
        }
        Some(path)
    }
}
