//! Calls of iproute2.
//!
//! The lab builds and inspects with Debian's `ip`, not with the netlink crate of this workspace:
//! what checks a program should not share its mistakes.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::error::LabError;

/// Carries out the commands, in one process, inside a namespace or on the host. Stops at the
/// first that fails.
pub(crate) fn batch(namespace: Option<&str>, commands: &[String]) -> Result<(), LabError> {
    if commands.is_empty() {
        return Ok(());
    }
    let mut child = ip(namespace)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    let mut script = commands.join("\n");
    script.push('\n');
    if let Some(mut stdin) = child.stdin.take() {
        // `ip` that stops early closes its input; its exit status tells the reason.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(missing)?;
    check(&output, || format!("ip -batch <<< {:?}", commands.join("; ")))
}

/// What an `ip` command prints.
pub(crate) fn output(namespace: Option<&str>, args: &[&str]) -> Result<String, LabError> {
    let output = ip(namespace).args(args).stdin(Stdio::null()).output().map_err(missing)?;
    check(&output, || format!("ip {}", args.join(" ")))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(namespace: Option<&str>) -> Command {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    command
}

fn missing(error: std::io::Error) -> LabError {
    LabError::Machine(format!("cannot run `ip` ({error}); install the package iproute2"))
}

/// An error with the program's own words, unless it succeeded.
pub(crate) fn check(output: &Output, command: impl FnOnce() -> String) -> Result<(), LabError> {
    if output.status.success() {
        return Ok(());
    }
    let words = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes));
    let words = words.iter().map(|text| text.trim()).find(|text| !text.is_empty());
    let reason = match words {
        Some(words) => format!("{} ({})", words, output.status),
        None => output.status.to_string(),
    };
    Err(LabError::Command { command: command(), reason })
}
