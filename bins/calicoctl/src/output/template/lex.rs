//! Text and `{{ actions }}`, and the words of an action.

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    /// The words of an action, and the line it starts on.
    Action(Vec<Token>, usize),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `range`, `eq`, `true`, ...
    Word(String),
    /// `.`, or `.A.B`: the names.
    Field(Vec<String>),
    /// `$`, `$x`, or `$x.A.B`.
    Variable(String, Vec<String>),
    Text(String),
    Number(f64),
    Open,
    /// `)`, or `).A.B`.
    Close(Vec<String>),
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Longest template, in bytes.
const MAX_SIZE: usize = 1 << 20;

pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    if text.len() > MAX_SIZE {
        return Err(format!("the template is longer than {MAX_SIZE} bytes"));
    }
    let mut pieces = Vec::new();
    let (mut rest, mut line, mut trim) = (text, 1, false);
    while let Some(start) = rest.find("{{") {
        let (mut before, after) = (&rest[..start], &rest[start + 2..]);
        line += before.matches('\n').count();
        if trim {
            before = before.trim_start();
        }
        let inner_start = after.strip_prefix('-').filter(|t| t.starts_with(char::is_whitespace));
        if inner_start.is_some() {
            before = before.trim_end();
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let after = inner_start.unwrap_or(after);
        let end = action_end(after).ok_or_else(|| format!("line {line}: {{{{ without }}}}"))?;
        let (mut inner, tail) = (&after[..end], &after[end + 2..]);
        trim = inner.ends_with('-') && inner[..inner.len() - 1].ends_with(char::is_whitespace);
        if trim {
            inner = &inner[..inner.len() - 1];
        }
        let inner = inner.trim();
        if !(inner.starts_with("/*") && inner.ends_with("*/")) {
            let tokens = tokens(inner).map_err(|error| format!("line {line}: {error}"))?;
            pieces.push(Piece::Action(tokens, line));
        }
        line += after[..end].matches('\n').count();
        rest = tail;
    }
    let last = if trim { rest.trim_start() } else { rest };
    if !last.is_empty() {
        pieces.push(Piece::Text(last.to_owned()));
    }
    Ok(pieces)
}

/// Where `}}` stands outside of quotes.
fn action_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if text.trim_start().starts_with("/*") {
        let comment = text.find("*/")?;
        return text[comment..].find("}}").map(|at| comment + at);
    }
    let (mut at, mut quote) = (0, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'`')) => quote = Some(byte),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, tail) = match first {
            '|' => (Token::Pipe, &rest[1..]),
            ',' => (Token::Comma, &rest[1..]),
            '(' => (Token::Open, &rest[1..]),
            ')' => {
                let (names, tail) = chain(&rest[1..]);
                (Token::Close(names), tail)
            }
            ':' if rest.starts_with(":=") => (Token::Declare, &rest[2..]),
            '=' => (Token::Assign, &rest[1..]),
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let (names, tail) = chain(rest);
                if names.is_empty() {
                    (Token::Field(names), &rest[1..])
                } else {
                    (Token::Field(names), tail)
                }
            }
            '$' => {
                let (name, tail) = word(&rest[1..]);
                let (names, tail) = chain(tail);
                (Token::Variable(name.to_owned(), names), tail)
            }
            '"' => quoted(rest)?,
            '`' => {
                let end = rest[1..].find('`').ok_or("a ` without its end")?;
                (Token::Text(rest[1..=end].to_owned()), &rest[end + 2..])
            }
            c if c.is_ascii_digit() || "+-.".contains(c) => {
                let end = rest[1..]
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '_')
                    .map_or(rest.len(), |at| at + 1);
                let number = rest[..end].replace('_', "").parse();
                let number =
                    number.map_err(|_not_one| format!("{:?} is no number", &rest[..end]))?;
                (Token::Number(number), &rest[end..])
            }
            c if c.is_alphabetic() || c == '_' => {
                let (name, tail) = word(rest);
                (Token::Word(name.to_owned()), tail)
            }
            other => return Err(format!("unexpected {other:?}")),
        };
        tokens.push(token);
        rest = tail.trim_start();
    }
    Ok(tokens)
}

/// `.A.B` and what follows.
fn chain(mut text: &str) -> (Vec<String>, &str) {
    let mut names = Vec::new();
    while let Some(tail) = text.strip_prefix('.') {
        let (name, tail) = word(tail);
        if name.is_empty() {
            break;
        }
        names.push(name.to_owned());
        text = tail;
    }
    (names, text)
}

fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()))
}

fn quoted(text: &str) -> Result<(Token, &str), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Text(out), &text[at + 1..])),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                Some(c) => return Err(format!("\\{c} is not supported in text")),
                None => break,
            },
            c => out.push(c),
        }
    }
    Err("a \" without its end".to_owned())
}
