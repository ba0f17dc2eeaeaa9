//! Selector text to tokens.

use std::fmt;

/// Longest label name.
const MAX_NAME: usize = 512;

/// The smallest parts of a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Name(&'a str),
    Text(&'a str),
    Has(&'a str),
    All,
    Global,
    Equal,
    NotEqual,
    In,
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
    Not,
    And,
    Or,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    Comma,
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Name(name) => return write!(f, "`{}`", clip(name)),
            Self::Text(text) => return write!(f, "the text {:?}", clip(text)),
            Self::Has(name) => return write!(f, "`has({})`", clip(name)),
            Self::All => "`all()`",
            Self::Global => "`global()`",
            Self::Equal => "`==`",
            Self::NotEqual => "`!=`",
            Self::In => "`in`",
            Self::NotIn => "`not in`",
            Self::Contains => "`contains`",
            Self::StartsWith => "`starts with`",
            Self::EndsWith => "`ends with`",
            Self::Not => "`!`",
            Self::And => "`&&`",
            Self::Or => "`||`",
            Self::LeftParen => "`(`",
            Self::RightParen => "`)`",
            Self::LeftBrace => "`{`",
            Self::RightBrace => "`}`",
            Self::Comma => "`,`",
            Self::End => "the end",
        };
        f.write_str(text)
    }
}

/// A place where no token can be read: byte offset, what would fit, what is there.
pub(super) struct Bad {
    pub(super) offset: usize,
    pub(super) expected: &'static str,
    pub(super) found: String,
}

/// Reads tokens one by one.
pub(super) struct Tokens<'a> {
    text: &'a str,
    offset: usize,
    /// Word operators exist only directly after a label's name.
    after_name: bool,
}

impl<'a> Tokens<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, offset: 0, after_name: false }
    }

    /// The next token and the offset at which it begins.
    pub(super) fn next(&mut self) -> Result<(Token<'a>, usize), Bad> {
        self.skip_blanks();
        let start = self.offset;
        let token = if self.after_name { self.operator()? } else { self.operand()? };
        self.after_name = matches!(token, Token::Name(_));
        Ok((token, start))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.offset..]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.offset += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn take(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.offset += prefix.len();
        }
        found
    }

    fn bad(&self, offset: usize, expected: &'static str) -> Bad {
        let found = match self.text[offset..].chars().next() {
            Some(c) => format!("`{}`", c.escape_debug()),
            None => "the end".to_owned(),
        };
        Bad { offset, expected, found }
    }

    fn operator(&mut self) -> Result<Token<'a>, Bad> {
        const EXPECTED: &str = "an operator after the label: ==, !=, in, not in, contains, \
                                starts with or ends with";
        const WORDS: [(&str, &str, Token<'static>); 5] = [
            ("contains", "", Token::Contains),
            ("starts", "with", Token::StartsWith),
            ("ends", "with", Token::EndsWith),
            ("not", "in", Token::NotIn),
            ("in", "", Token::In),
        ];
        if let Some(token) = self.symbol()? {
            return Ok(token);
        }
        let start = self.offset;
        for (first, second, token) in WORDS {
            if self.take(first) {
                self.skip_blanks();
                return if self.take(second) { Ok(token) } else { Err(self.bad(start, EXPECTED)) };
            }
        }
        Err(self.bad(start, EXPECTED))
    }

    fn operand(&mut self) -> Result<Token<'a>, Bad> {
        if let Some(token) = self.symbol()? {
            return Ok(token);
        }
        if self.take("has(") {
            self.skip_blanks();
            let name = self.name();
            if name.is_empty() {
                return Err(self.bad(self.offset, "a label's name in has()"));
            }
            self.close()?;
            return Ok(Token::Has(name));
        }
        for (word, token) in [("all(", Token::All), ("global(", Token::Global)] {
            if self.take(word) {
                self.close()?;
                return Ok(token);
            }
        }
        match self.name() {
            "" => Err(self.bad(self.offset, "a label's name, a text in quotes or an operator")),
            name => Ok(Token::Name(name)),
        }
    }

    fn close(&mut self) -> Result<(), Bad> {
        self.skip_blanks();
        if self.take(")") { Ok(()) } else { Err(self.bad(self.offset, "`)`")) }
    }

    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_./-".contains(&b);
        let len = rest.bytes().take(MAX_NAME).take_while(|b| is_name(*b)).count();
        self.offset += len;
        &rest[..len]
    }

    fn symbol(&mut self) -> Result<Option<Token<'a>>, Bad> {
        const SYMBOLS: [(&str, Token<'static>); 10] = [
            ("==", Token::Equal),
            ("!=", Token::NotEqual),
            ("!", Token::Not),
            ("&&", Token::And),
            ("||", Token::Or),
            ("(", Token::LeftParen),
            (")", Token::RightParen),
            ("{", Token::LeftBrace),
            ("}", Token::RightBrace),
            (",", Token::Comma),
        ];
        for (symbol, token) in SYMBOLS {
            if self.take(symbol) {
                return Ok(Some(token));
            }
        }
        let start = self.offset;
        match self.rest().chars().next() {
            None => Ok(Some(Token::End)),
            Some(quote @ ('"' | '\'')) => {
                let inside = &self.rest()[1..];
                let Some(len) = inside.find(quote) else {
                    return Err(self.bad(start, "a closing quote for the text that begins here"));
                };
                self.offset += len + 2;
                Ok(Some(Token::Text(&inside[..len])))
            }
            Some('=') => Err(self.bad(start, "`==`")),
            Some('&') => Err(self.bad(start, "`&&`")),
            Some('|') => Err(self.bad(start, "`||`")),
            Some(_) => Ok(None),
        }
    }
}

/// The beginning of a text that may be long.
fn clip(text: &str) -> &str {
    text.char_indices().nth(40).map_or(text, |(end, _)| &text[..end])
}
