//! The CNI plugin `calico`; called as `calico-ipam`, the IPAM plugin.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if arguments.next().is_some_and(|argument| argument == "-v" || argument == "--version") {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let variable = |name: &str| std::env::var(name).ok();
    let response = calico_cni::shim::run(&name, variable, std::io::stdin().lock());
    // If nobody reads the answer, nobody can be told.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(response.output.as_bytes()).and_then(|()| stdout.flush());
    ExitCode::from(u8::from(response.failed))
}
