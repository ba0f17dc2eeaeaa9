//! What a shell and its user want from a program: completions, manual pages, its name.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;

/// How the program was called: as a plugin of kubectl, it is `kubectl calico`.
pub(crate) fn own_name() -> &'static str {
    name_of(std::env::args_os().next().map(PathBuf::from).as_deref())
}

fn name_of(program: Option<&Path>) -> &'static str {
    match program.and_then(Path::file_name).and_then(|name| name.to_str()) {
        Some("kubectl-calico" | "kubectl_calico") => "kubectl calico",
        _ => "calicoctl",
    }
}

/// The script that completes command lines.
pub(crate) fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "calicoctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a manual page for each command into `directory`, and says so.
pub(crate) fn manual(directory: &Path) -> Result<String, Failure> {
    let failed = |source| Failure::Write { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut written = 0;
    let mut root = Cli::command().version(env!("CARGO_PKG_VERSION"));
    root.build();
    pages(&root, "calicoctl", &mut |name, command| {
        written += 1;
        let mut page = Vec::new();
        clap_mangen::Man::new(command).title(name).render(&mut page)?;
        std::fs::write(directory.join(format!("{name}.1")), page)
    })
    .map_err(failed)?;
    Ok(format!("Wrote {written} manual pages to {}\n", directory.display()))
}

type Write<'a> = &'a mut dyn FnMut(&str, Command) -> std::io::Result<()>;

fn pages(command: &Command, name: &str, write: Write<'_>) -> std::io::Result<()> {
    write(name, command.clone())?;
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for sub in command.get_subcommands().filter(shown) {
        pages(sub, &format!("{name}-{}", sub.get_name()), write)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_whose_plugin_it_is() {
        assert_eq!(name_of(Some(Path::new("/usr/bin/kubectl-calico"))), "kubectl calico");
        assert_eq!(name_of(Some(Path::new("calicoctl"))), "calicoctl");
        assert_eq!(name_of(None), "calicoctl");
    }

    #[test]
    fn shells_and_man_get_what_they_want() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(shell);
            assert!(script.contains("custom-columns") || script.contains("ipam"), "{shell}");
        }
        let dir = tempfile::tempdir().unwrap();
        let said = manual(dir.path()).unwrap();
        let page = std::fs::read_to_string(dir.path().join("calicoctl-ipam-release.1")).unwrap();
        assert!(
            page.contains("from\\-report") && page.contains(".TH calicoctl-ipam-release"),
            "{page}"
        );
        assert!(said.starts_with("Wrote ") && !dir.path().join("calicoctl-man.1").exists());
    }
}
