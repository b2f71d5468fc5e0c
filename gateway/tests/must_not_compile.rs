//! What must not compile, does not: each case is a promise of the architecture, with the one error that it must give.
//!
//! The compiler is called on what `cargo test` has just built. `trybuild` would check every dependency anew, twice and
//! with the C code in them: nine minutes of CPU and 1.7 GB for these few cases.

#[cfg(test)]
mod cases {
    use std::{
        env, fs,
        path::{Path, PathBuf},
        process::Command,
        sync::LazyLock,
    };

    /// The crates that a case may name.
    const CRATES: [&str; 5] = ["portcullis", "portcullis_api", "portcullis_plugins", "pingora_http", "http"];

    /// What `cargo test` has put this test beside: everything that it is linked with.
    fn built() -> PathBuf {
        env::current_exe().unwrap().parent().unwrap().to_owned()
    }

    fn compiler(source: &Path) -> Command {
        let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        command.args(["--edition=2024", "--crate-type=bin", "--cap-lints=allow", "--color=never"]).arg("-L");
        command.arg(format!("dependency={}", built().display())).arg(source);
        command
    }

    /// `--extern` for each of the crates: the newest build of the gateway, which cargo has just seen to be of the
    /// present source, and of the others, which may lie there in several builds, the ones that it was built with.
    fn crates(scratch: &Path) -> Vec<String> {
        let builds = fs::read_dir(built()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("libportcullis-") && name.ends_with(".rlib")
        });
        let newest = builds.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap();
        let source = scratch.join("links.rs");
        fs::write(&source, "extern crate portcullis as _; fn main() {}").unwrap();
        // What would be linked is printed; nothing is.
        let mut links = compiler(&source);
        links.arg("--extern").arg(format!("portcullis={}", newest.display()));
        links.args(["-C", "linker=true", "--print=link-args", "-o"]).arg(scratch.join("links"));
        let output = links.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        let linked = |name: &str| {
            let file = format!("/lib{name}-");
            let path = said.split('"').find(|word| word.contains(&file)).unwrap_or_else(|| panic!("{name} in {said}"));
            format!("--extern={name}={path}")
        };
        CRATES.map(linked).to_vec()
    }

    /// The errors of a source, without the last line that counts them, and all that the compiler says of them.
    fn errors(source: &Path) -> (Vec<String>, String) {
        static SCRATCH: LazyLock<(tempfile::TempDir, Vec<String>)> = LazyLock::new(|| {
            let scratch = tempfile::tempdir().unwrap();
            let crates = crates(scratch.path());
            (scratch, crates)
        });
        let (scratch, crates) = &*SCRATCH;
        let metadata = scratch.path().join(source.file_stem().unwrap()).with_extension("rmeta");
        let output = compiler(source).args(crates).arg("--emit=metadata").arg("-o").arg(metadata).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let errors = said.lines().filter(|line| line.starts_with("error") && !line.starts_with("error: aborting"));
        let errors: Vec<_> = errors.map(str::to_owned).collect();
        assert_eq!(output.status.success(), errors.is_empty(), "{said}");
        (errors, said)
    }

    fn folder(name: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn forgetting_a_step_does_not_compile() {
        let cases = folder("must_not_compile");
        assert!(cases.len() >= 7, "{cases:?}");
        for case in cases {
            let text = fs::read_to_string(&case).unwrap();
            // Below what the case is about: its one error, and what else the compiler must say of it.
            let mut expected = text.lines().skip(1).map_while(|line| line.strip_prefix("//! "));
            let (errors, said) = errors(&case);
            assert_eq!(errors, [expected.next().unwrap()], "{}: {said}", case.display());
            for words in expected {
                assert!(said.contains(words), "{}: {words:?} in {said}", case.display());
            }
        }
    }

    /// Each case has its counterpart there. Without it a case could fail because nothing compiles here.
    #[test]
    fn what_the_cases_do_wrong_compiles_when_done_right() {
        for case in folder("must_compile") {
            let (errors, said) = errors(&case);
            assert!(errors.is_empty(), "{}: {said}", case.display());
        }
    }
}
