//! Running a template.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::parse::{Node, Pipe, Term};

/// Longest output, in bytes.
const MAX_OUTPUT: usize = 256 << 20;

/// Functions, and the number of arguments that each takes.
pub(crate) const FUNCTIONS: &[(&str, std::ops::RangeInclusive<usize>)] = &[
    ("and", 1..=100),
    ("config", 1..=1),
    ("eq", 2..=100),
    ("ge", 2..=2),
    ("gt", 2..=2),
    ("index", 1..=100),
    ("join", 2..=2),
    ("joinAndTruncate", 3..=3),
    ("le", 2..=2),
    ("len", 1..=1),
    ("lt", 2..=2),
    ("ne", 2..=2),
    ("not", 1..=1),
    ("or", 1..=100),
    ("print", 0..=100),
    ("printf", 1..=100),
    ("println", 0..=100),
];

/// What the function `config` knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    /// Settings of the cluster, by name.
    pub(crate) config: Vec<(&'static str, String)>,
}

pub(super) fn run(
    nodes: &[Node],
    root: &Value,
    environment: &Environment,
) -> Result<String, String> {
    let mut run =
        Run { environment, out: String::new(), variables: vec![(String::new(), root.clone())] };
    run.nodes(nodes, root)?;
    Ok(run.out)
}

struct Run<'a> {
    environment: &'a Environment,
    out: String,
    /// Innermost last; the first is `$`.
    variables: Vec<(String, Value)>,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        for node in nodes {
            self.node(node, dot)?;
            if self.out.len() > MAX_OUTPUT {
                return Err(format!("the output is longer than {MAX_OUTPUT} bytes"));
            }
        }
        Ok(())
    }

    /// Nodes with variables of their own.
    fn scoped(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        let outside = self.variables.len();
        let result = self.nodes(nodes, dot);
        self.variables.truncate(outside);
        result
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), String> {
        let outside = self.variables.len();
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.out.push_str(&show(&value));
                }
                // Variables stay, up to the end of the block.
                return Ok(());
            }
            Node::If(branches, otherwise) => {
                let mut chosen = otherwise;
                for (condition, nodes) in branches {
                    if truth(&self.pipe(condition, dot)?) {
                        chosen = nodes;
                        break;
                    }
                }
                self.scoped(chosen, dot)?;
            }
            Node::With(pipe, nodes, otherwise) => {
                let value = self.pipe(pipe, dot)?;
                if truth(&value) {
                    self.scoped(nodes, &value)?;
                } else {
                    self.scoped(otherwise, dot)?;
                }
            }
            Node::Range(pipe, nodes, otherwise) => self.range(pipe, nodes, otherwise, dot)?,
        }
        self.variables.truncate(outside);
        Ok(())
    }

    fn range(
        &mut self,
        pipe: &Pipe,
        nodes: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), String> {
        let bare = Pipe { variables: Vec::new(), ..pipe.clone() };
        let pairs: Vec<(Value, Value)> = match self.pipe(&bare, dot)? {
            Value::Null => Vec::new(),
            Value::Array(items) => {
                items.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect()
            }
            Value::Object(mut fields) => {
                fields.sort_keys();
                fields.into_iter().map(|(key, value)| (key.into(), value)).collect()
            }
            other => return Err(format!("range over {}, which is no list or map", show(&other))),
        };
        if pairs.is_empty() {
            return self.scoped(otherwise, dot);
        }
        for (key, item) in pairs {
            let outside = self.variables.len();
            match pipe.variables.as_slice() {
                [] => {}
                [value] => self.variables.push((value.clone(), item.clone())),
                [index, value, ..] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
            }
            let result = self.nodes(nodes, &item);
            self.variables.truncate(outside);
            result?;
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, last, dot)?);
        }
        let value = last.unwrap_or(Value::Null);
        if let [name] = pipe.variables.as_slice() {
            let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
            match known {
                Some((_, known)) if !pipe.declares => *known = value.clone(),
                None if !pipe.declares => return Err(format!("${name} is not declared")),
                _ => self.variables.push((name.clone(), value.clone())),
            }
        } else if !pipe.variables.is_empty() {
            return Err("two variables can be declared by range only".to_owned());
        }
        Ok(value)
    }

    fn command(
        &mut self,
        command: &[Term],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, String> {
        let Some((Term::Function(name), arguments)) = command.split_first() else {
            return command.first().map_or(Ok(Value::Null), |term| self.term(term, dot));
        };
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            values.push(self.term(argument, dot)?);
        }
        values.extend(piped);
        let takes = FUNCTIONS.iter().find(|(known, _)| known == name).map(|(_, takes)| takes);
        if !takes.is_some_and(|takes| takes.contains(&values.len())) {
            return Err(format!("{name} does not take {} argument(s)", values.len()));
        }
        call(name, &values, self.environment)
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Result<Value, String> {
        Ok(match term {
            Term::Field(names) => select(dot, names)?,
            Term::Variable(name, names) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| format!("${name} is not declared"))?;
                select(value, names)?
            }
            Term::Text(text) => text.as_str().into(),
            Term::Number(number) => from_number(*number),
            Term::Flag(flag) => (*flag).into(),
            Term::Pipe(pipe, names) => {
                let value = self.pipe(pipe, dot)?;
                select(&value, names)?
            }
            Term::Nil | Term::Function(_) => Value::Null,
        })
    }
}

fn from_number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
        return (number as i64).into();
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

/// Fields by Go's names or by JSON's, in any case. What is unset is null.
fn select(value: &Value, names: &[String]) -> Result<Value, String> {
    let mut value = value;
    for name in names {
        value = match (value, name.as_str()) {
            (Value::Object(_), "TypeMeta") => value,
            (Value::Object(fields), name) => {
                let name = if name == "ObjectMeta" { "metadata" } else { name };
                let exact = fields.get(name);
                let any_case = || {
                    fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v)
                };
                exact.or_else(any_case).unwrap_or(&Value::Null)
            }
            (Value::Null, _) => &Value::Null,
            (Value::Array(_), name) => {
                return Err(format!(".{name} of a list; use {{{{range .}}}} first"));
            }
            (other, name) => {
                return Err(format!(".{name} of {}, which has no fields", show(other)));
            }
        };
    }
    Ok(value.clone())
}

fn call(name: &str, values: &[Value], environment: &Environment) -> Result<Value, String> {
    let first = values.first().unwrap_or(&Value::Null);
    Ok(match name {
        "and" => values.iter().find(|value| !truth(value)).or_else(|| values.last()).cloned(),
        "or" => values.iter().find(|value| truth(value)).or_else(|| values.last()).cloned(),
        "not" => Some((!truth(first)).into()),
        "eq" => Some(values[1..].iter().any(|value| same(first, value)).into()),
        "ne" => Some((!same(first, &values[1])).into()),
        "lt" | "le" | "gt" | "ge" => {
            let order = compare(first, &values[1])?;
            let holds = match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            };
            Some(holds.into())
        }
        "len" => Some(match first {
            Value::String(text) => text.len().into(),
            Value::Array(items) => items.len().into(),
            Value::Object(fields) => fields.len().into(),
            Value::Null => 0.into(),
            other => return Err(format!("len of {}", show(other))),
        }),
        "index" => Some(index(first, &values[1..])?),
        "join" => Some(join(first, &values[1]).into()),
        "joinAndTruncate" => {
            let text = join(first, &values[1]);
            let most = values[2].as_u64().ok_or("joinAndTruncate takes a length")? as usize;
            Some(if text.chars().count() > most {
                let kept: String = text.chars().take(most.saturating_sub(3)).collect();
                format!("{kept}...").into()
            } else {
                text.into()
            })
        }
        "config" => {
            let name = show(first);
            let known = environment.config.iter().find(|(key, _)| key.eq_ignore_ascii_case(&name));
            let known = known.ok_or_else(|| format!("config knows no {name:?}"))?;
            Some(known.1.as_str().into())
        }
        "print" | "println" => {
            let text: Vec<String> = values.iter().map(show).collect();
            let space = if name == "println" { " " } else { "" };
            let end = if name == "println" { "\n" } else { "" };
            Some(format!("{}{end}", text.join(space)).into())
        }
        "printf" => Some(printf(&show(first), &values[1..])?.into()),
        _ => None,
    }
    .unwrap_or(Value::Null))
}

fn index(value: &Value, path: &[Value]) -> Result<Value, String> {
    let mut value = value;
    for step in path {
        value = match (value, step) {
            (Value::Array(items), Value::Number(at)) => at
                .as_u64()
                .and_then(|at| items.get(usize::try_from(at).ok()?))
                .ok_or_else(|| format!("index {at} of a list of {}", items.len()))?,
            (Value::Object(fields), Value::String(key)) => {
                fields.get(key.as_str()).unwrap_or(&Value::Null)
            }
            (Value::Null, _) => &Value::Null,
            (_, step) => return Err(format!("index {} does not fit", show(step))),
        };
    }
    Ok(value.clone())
}

fn join(value: &Value, separator: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(show).collect::<Vec<_>>().join(&show(separator)),
        Value::Null => String::new(),
        other => show(other),
    }
}

/// `%s`, `%v`, `%d`, `%q`, `%t`, `%%`, with width and `-`.
fn printf(format: &str, values: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let left = chars.next_if_eq(&'-').is_some();
        let mut width = String::new();
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            width.push(digit);
        }
        let width: usize =
            if width.is_empty() { 0 } else { width.parse().map_or(0, |w: usize| w.min(1000)) };
        let verb = chars.next().ok_or("printf: % at the end")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or("printf: too few arguments")?;
        let text = match verb {
            's' | 'v' | 'd' | 't' => show(value),
            'q' => format!("{:?}", show(value)),
            other => return Err(format!("printf: %{other} is not supported; use %s, %v, %d, %q")),
        };
        out.push_str(&if left { format!("{text:<width$}") } else { format!("{text:>width$}") });
    }
    if values.next().is_some() {
        return Err("printf: too many arguments".to_owned());
    }
    Ok(out)
}

/// Go's notion: false, zero and what is empty are false.
fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// What is unset equals what is empty, as it does in Go.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Null, other) | (other, Value::Null) => !truth(other),
        _ => a == b,
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    let number = |value: &Value| if value.is_null() { Some(0.0) } else { value.as_f64() };
    let order = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => number(a).zip(number(b)).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    order.ok_or_else(|| format!("{} and {} cannot be compared", show(a), show(b)))
}

/// As Go prints it.
fn show(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
        }
        Value::Object(fields) => {
            let mut fields = fields.clone();
            fields.sort_keys();
            let pair = |(key, value): (&String, &Value)| format!("{key}:{}", show(value));
            format!("map[{}]", fields.iter().map(pair).collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}
