//! The CNI plugin `calico`; called as `calico-ipam`, the IPAM plugin.

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;

use calico_cni::install::Installation;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let variable = |name: &str| std::env::var(name).ok();
    match arguments.next().as_deref().and_then(OsStr::to_str) {
        Some("-v" | "--version") => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(what @ ("install" | "uninstall")) => return install(what == "install"),
        _ => {}
    }
    let response = calico_cni::shim::run(&name, variable, std::io::stdin().lock());
    // If nobody reads the answer, nobody can be told.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(response.output.as_bytes()).and_then(|()| stdout.flush());
    ExitCode::from(u8::from(response.failed))
}

/// Installs or removes plugins and configuration, and says which files.
fn install(install: bool) -> ExitCode {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.unwrap_or_default().to_lowercase();
    let work = || -> Result<_, Box<dyn std::error::Error>> {
        let installation = Installation::new(|name| std::env::var(name).ok(), &host)?;
        Ok(if install {
            installation.install(&std::env::current_exe()?)?
        } else {
            installation.uninstall()?
        })
    };
    match work() {
        Ok(files) => {
            for file in files {
                println!("{} {}", if install { "wrote" } else { "removed" }, file.display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("calico-cni: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}
