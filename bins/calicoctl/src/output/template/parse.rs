//! From pieces to a tree.

use std::iter::Peekable;
use std::vec::IntoIter;

use super::execute::FUNCTIONS;
use super::lex::{Piece, Token, pieces};

/// Deepest nesting of actions and of brackets.
const MAX_DEPTH: usize = 100;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    /// Conditions with their nodes, and the nodes if none holds.
    If(Vec<(Pipe, Vec<Self>)>, Vec<Self>),
    With(Pipe, Vec<Self>, Vec<Self>),
    /// Nodes for each element, and the nodes if there is none.
    Range(Pipe, Vec<Self>, Vec<Self>),
}

/// `$a, $b := command | command`
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// Whether the variables are new.
    pub(super) declares: bool,
    /// Each command is a function with arguments, or one value.
    pub(super) commands: Vec<Vec<Term>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Term {
    Function(String),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Text(String),
    Number(f64),
    Flag(bool),
    Nil,
    Pipe(Box<Pipe>, Vec<String>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser { pieces: pieces(text)?.into_iter().peekable(), depth: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        None => Ok(nodes),
        Some((word, _, line)) => Err(format!("line {line}: {word} without if, range or with")),
    }
}

struct Parser {
    pieces: Peekable<IntoIter<Piece>>,
    depth: usize,
}

/// What ended a list of nodes: `else` or `end`, the rest of its action, and its line.
type End = Option<(String, Vec<Token>, usize)>;

impl Parser {
    fn nodes(&mut self) -> Result<(Vec<Node>, End), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (tokens, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens, line) => (tokens, line),
            };
            let on_line = |error: String| format!("line {line}: {error}");
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                Some(_) => "",
                None => return Err(on_line("an empty action".to_owned())),
            };
            match word {
                "else" | "end" => {
                    self.depth -= 1;
                    return Ok((nodes, Some((word.to_owned(), tokens[1..].to_vec(), line))));
                }
                "if" => nodes.push(self.condition(&tokens[1..], line)?),
                "with" | "range" => {
                    let pipe = pipe(&tokens[1..]).map_err(on_line)?;
                    let (then, end) = self.nodes()?;
                    let otherwise = self.otherwise(word, end, line)?;
                    nodes.push(match word {
                        "with" => Node::With(pipe, then, otherwise),
                        _ => Node::Range(pipe, then, otherwise),
                    });
                }
                "define" | "template" | "block" | "break" | "continue" => {
                    return Err(on_line(format!("{word} is not supported")));
                }
                _ => nodes.push(Node::Action(pipe(&tokens).map_err(on_line)?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    fn condition(&mut self, first: &[Token], line: usize) -> Result<Node, String> {
        let mut condition = pipe(first).map_err(|error| format!("line {line}: {error}"))?;
        let mut branches = Vec::new();
        loop {
            let (nodes, end) = self.nodes()?;
            branches.push((condition, nodes));
            match end {
                Some((word, rest, line)) if word == "else" => match rest.split_first() {
                    Some((Token::Word(word), rest)) if word == "if" => {
                        condition = pipe(rest).map_err(|error| format!("line {line}: {error}"))?;
                    }
                    _ => {
                        let end = Some((word, rest, line));
                        let otherwise = self.otherwise("if", end, line)?;
                        return Ok(Node::If(branches, otherwise));
                    }
                },
                end => {
                    let otherwise = self.otherwise("if", end, line)?;
                    return Ok(Node::If(branches, otherwise));
                }
            }
        }
    }

    /// The nodes of `else`, up to `end`.
    fn otherwise(&mut self, of: &str, end: End, line: usize) -> Result<Vec<Node>, String> {
        let missing = || format!("line {line}: {of} without end");
        let (word, rest, at) = end.ok_or_else(missing)?;
        if !rest.is_empty() {
            return Err(format!("line {at}: nothing may follow {word} here"));
        }
        if word == "end" {
            return Ok(Vec::new());
        }
        let (nodes, end) = self.nodes()?;
        match end {
            Some((word, rest, _)) if word == "end" && rest.is_empty() => Ok(nodes),
            Some((_, _, at)) => Err(format!("line {at}: a second else")),
            None => Err(missing()),
        }
    }
}

fn pipe(tokens: &[Token]) -> Result<Pipe, String> {
    let mut tokens = tokens.iter().cloned().peekable();
    let (pipe, _) = pipe_until(&mut tokens, false, 0)?;
    Ok(pipe)
}

/// A pipeline up to the end, or to `)`, whose fields it returns.
fn pipe_until(
    tokens: &mut Peekable<impl Iterator<Item = Token>>,
    in_brackets: bool,
    depth: usize,
) -> Result<(Pipe, Vec<String>), String> {
    if depth > MAX_DEPTH {
        return Err(format!("brackets nested deeper than {MAX_DEPTH} levels"));
    }
    let mut pipe = Pipe::default();
    let mut command: Vec<Term> = Vec::new();
    loop {
        let Some(token) = tokens.next() else {
            if in_brackets {
                return Err("( without )".to_owned());
            }
            finish(&mut pipe, command)?;
            return Ok((pipe, Vec::new()));
        };
        match token {
            Token::Close(fields) if in_brackets => {
                finish(&mut pipe, command)?;
                return Ok((pipe, fields));
            }
            Token::Close(_) => return Err(") without (".to_owned()),
            Token::Pipe => {
                finish(&mut pipe, std::mem::take(&mut command))?;
            }
            Token::Open => {
                let (inner, fields) = pipe_until(tokens, true, depth + 1)?;
                command.push(Term::Pipe(Box::new(inner), fields));
            }
            Token::Declare | Token::Assign | Token::Comma => {
                let names: Option<Vec<String>> = command
                    .drain(..)
                    .map(|term| match term {
                        Term::Variable(name, fields) if fields.is_empty() => Some(name),
                        _ => None,
                    })
                    .collect();
                let names = names.filter(|names| names.len() == 1 && pipe.commands.is_empty());
                pipe.variables.extend(names.ok_or("only a $variable can be given a value")?);
                pipe.declares = token == Token::Declare;
                if pipe.variables.len() > 2 {
                    return Err("at most two variables can be declared".to_owned());
                }
            }
            Token::Word(word) => command.push(match word.as_str() {
                "true" => Term::Flag(true),
                "false" => Term::Flag(false),
                "nil" => Term::Nil,
                name if FUNCTIONS.iter().any(|(known, _)| *known == name) => Term::Function(word),
                name => {
                    let known: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
                    return Err(format!(
                        "function {name} is not supported; there are {}",
                        known.join(", ")
                    ));
                }
            }),
            Token::Field(names) => command.push(Term::Field(names)),
            Token::Variable(name, names) => command.push(Term::Variable(name, names)),
            Token::Text(text) => command.push(Term::Text(text)),
            Token::Number(number) => command.push(Term::Number(number)),
        }
    }
}

fn finish(pipe: &mut Pipe, command: Vec<Term>) -> Result<(), String> {
    match command.as_slice() {
        [] => return Err("a value is missing".to_owned()),
        [Term::Function(_), ..] => {}
        [_] if pipe.commands.is_empty() => {}
        [_] => return Err("only a function can take what comes through |".to_owned()),
        _ => return Err("arguments, but no function in front of them".to_owned()),
    }
    if command[1..].iter().any(|term| matches!(term, Term::Function(_))) {
        return Err("put a function that is an argument into brackets".to_owned());
    }
    pipe.commands.push(command);
    Ok(())
}
