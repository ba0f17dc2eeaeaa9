//! `-o go-template`: the part of Go's text/template that people use with calicoctl.
//!
//! Supported: fields (`.Spec.CIDR`, by Go's or by JSON's names, in any case), variables,
//! `if`/`else if`/`else`, `range`, `with`, pipelines, comments, trimming (`{{-`, `-}}`), and the
//! functions of [`execute::FUNCTIONS`]. `.` is the list of resources. Fields that are unset are empty.

mod execute;
mod lex;
mod parse;

use serde_json::Value;

pub(crate) use self::execute::Environment;

/// A template, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<parse::Node>);

impl Template {
    /// Reads a template.
    ///
    /// What is wrong with it, and on which line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self)
    }

    /// The text for `root`, which `.` and `$` stand for.
    pub(crate) fn run(&self, root: &Value, environment: &Environment) -> Result<String, String> {
        execute::run(&self.0, root, environment)
    }
}

#[cfg(test)]
mod tests;
